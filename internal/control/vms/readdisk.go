package vms

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"time"

	"widecloud/api"
	"widecloud/internal/access"
	"widecloud/internal/control/objects"
	"widecloud/internal/control/rooms"
	"widecloud/internal/saga"
	"widecloud/internal/state"
	"widecloud/internal/volume"
	"widecloud/internal/wire"
)

// LendDisk gives a stopped VM to a job that reads one of its disks, and says what there is to read. The error says what is against it,
// and names the field spec.vm or spec.disk.
func (vs *VMs) LendDisk(tx *state.Tx, by access.Actor, vm, disk, job string) (k objects.StoppedDisk, err error) {
	v, err := vs.own(tx, by, vm)
	if err != nil {
		return k, err
	}
	if err := saga.Hold("VM "+v.Name, &v.Status.Job, job); err != nil {
		return k, err
	}
	if err := vs.disksRest(v); err != nil {
		return k, err
	}
	img, err := objects.Find[api.Image](tx, v.Spec.Image)
	if err != nil {
		return k, err
	}
	k = objects.StoppedDisk{VM: v.Name, UID: v.UID, Disk: disk, Site: v.Status.Site, Epoch: v.Status.Epoch}
	if disk == api.RootDisk {
		k.Base, k.Bytes = volume.Digest(img.Status.Digest), rooms.DiskMiB(v, img)<<20
	} else {
		o, err := vs.orders.Of(tx, v)
		if err != nil {
			return k, err
		}
		i := slices.IndexFunc(o.Disks, func(d wire.DiskOrder) bool { return d.Name == disk && !d.Gone })
		if i < 0 {
			return k, api.Invalidf("spec.disk", "VM %s has no disk %.40q; wcc volume list shows them", v.Name, disk)
		}
		k.Bytes = o.Disks[i].SizeMiB << 20
	}
	return k, objects.Put(tx, v)
}

// disksRest says why the disks of a VM cannot be read now; nil: it is stopped, and its host can.
func (vs *VMs) disksRest(v *api.VM) error {
	refuse := func(code api.Code, r api.Reason) error {
		return &api.Error{Code: code, Field: "spec.vm", Message: fmt.Sprintf("the disks of VM %s cannot be read: %s", v.Name, r.Message), Reasons: []api.Reason{r}}
	}
	switch {
	case v.Deleting:
		return api.Errorf(api.CodeConflict, "VM %s is being deleted", v.Name)
	case v.Status.Host == "":
		return refuse(api.CodeConflict, api.Reason{Code: "power", Message: "it has none yet", Advice: "start it first: wcc vm start " + v.Name})
	case v.Spec.Power == api.PowerOn, rooms.Asleep(v): // part of a hibernated VM's files is in its saved memory
		return refuse(api.CodeConflict, api.Reason{
			Site: v.Status.Site, Host: v.Status.Host, Code: "power", Message: fmt.Sprintf("it is not stopped, but %s", v.Status.Phase),
			Advice: "stop it first: wcc vm stop " + v.Name,
		})
	}
	if r := restless(v); r != nil {
		return refuse(api.CodeConflict, *r)
	}
	r := (peer{vs, v.Status.Site}).cannotReadDisk
	if v.Status.Site == vs.Name {
		r = func() *api.Reason { return vs.guests.CannotReadDisk(v.Status.Host) }
	}
	if r := r(); r != nil {
		return refuse(api.CodeRefused, *r)
	}
	return nil
}

// DiskBack takes a VM back from a job that has read its disk.
func (vs *VMs) DiskBack(tx *state.Tx, k objects.StoppedDisk, job string) error {
	v := objects.VMOf(tx, k.UID)
	if v == nil {
		return nil
	}
	v = state.Clone(v)
	saga.Release(&v.Status.Job, job)
	return objects.Put(tx, v)
}

// ReadDisk opens a disk that was lent, as package volume sends disks. What comes is a stranger's word. A read fails when nothing
// comes for a while.
func (vs *VMs) ReadDisk(ctx context.Context, k objects.StoppedDisk) (io.ReadCloser, error) {
	codec, err := wire.PickCodec([]wire.Codec{wire.Zstd, wire.None}, vs.Codec)
	if err != nil {
		return nil, err
	}
	conn, err := vs.openDisk(ctx, k, codec.Name())
	if err != nil {
		return nil, fmt.Errorf("open disk %s of VM %s at %s: %w", k.Disk, k.VM, k.Site, err)
	}
	coded, err := codec.Wrap(conn)
	if err != nil {
		conn.Close()
		return nil, err
	}
	return patient{coded}, nil
}

// openWithin is how long the host of a disk may take until it is reached: after a restart it has to dial first.
const openWithin = 30 * time.Second

func (vs *VMs) openDisk(ctx context.Context, k objects.StoppedDisk, codec string) (net.Conn, error) {
	h := wire.DiskHeader{VM: k.UID, Epoch: k.Epoch, Disk: k.Disk, Image: string(k.Base), Codec: codec}
	for until := vs.Now().Add(openWithin); ; {
		conn, err := vs.endOf(k.Site).Disk(ctx, h)
		if !errors.Is(err, &api.Error{Code: api.CodeUnavailable}) || vs.Now().After(until) || vs.Pause(ctx) != nil {
			return conn, err
		}
	}
}

// diskStall is the longest wait for the next byte of a disk.
const diskStall = time.Minute

// patient reads from a connection that may not stand still.
type patient struct{ net.Conn }

func (p patient) Read(b []byte) (int, error) {
	p.SetReadDeadline(time.Now().Add(diskStall))
	return p.Conn.Read(b)
}
