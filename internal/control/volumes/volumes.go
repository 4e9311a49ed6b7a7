// Package volumes is the life of volumes: disks that outlive VMs and go from one to another. What a VM does with a volume begins with a
// change of the VM (package vms), which calls Attach, Detaching and Detached in the transaction that changes it.
//
// On a host a volume is one file. While no VM has it, its host is ordered to keep it (wire.VolumeOrder); a VM's order (wire.DiskOrder)
// takes the file, and gives it back. So two VMs never have the same file. A volume moves with its VM as the VM's other disks do.
//
// Invariants:
//   - one VM has a volume at a time: the next one can have it only after the host of the one before has reported that its guest and its
//     files no longer have it;
//   - whenever somebody else is to have it its epoch goes up, and agents obey no lower one;
//   - a volume is counted once, at each moment: by its VM, or by itself;
//   - a volume that was seen once is never made anew: if it is missing that is an error, and not an empty disk.
package volumes

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"widecloud/api"
	"widecloud/internal/access"
	"widecloud/internal/control/hosts"
	"widecloud/internal/control/objects"
	"widecloud/internal/control/rooms"
	"widecloud/internal/state"
	"widecloud/internal/store"
	"widecloud/internal/wire"
)

// Volumes is the life of a site's volumes.
type Volumes struct {
	*objects.Site
	rooms *rooms.Rooms
	// GrowDisk makes a disk of a VM larger, with all that this is held against. Package vms gives it.
	GrowDisk func(tx *state.Tx, by access.Actor, vm, disk string, sizeGiB int) error
}

// New begins the life of a site's volumes.
func New(site *objects.Site, rooms *rooms.Rooms, hosts *hosts.Hosts) *Volumes {
	vs := &Volumes{Site: site, rooms: rooms}
	hosts.ObserveVolumes(vs.see)
	objects.Register(site, objects.Life[api.Volume]{Faults: vs.faults, Create: vs.create, Change: vs.change, Delete: vs.remove})
	return vs
}

// Tables is that of volumes. By "vm" are those that a VM has, its own disks with them; "host" and "owner" have those that no VM has, and
// that are counted by themselves.
func Tables() state.Schema {
	return state.Schema{objects.NounTable(
		objects.Index("vm", func(v *api.Volume) string { return v.Status.VM }),
		objects.Index("host", func(v *api.Volume) string {
			if !loose(v) {
				return ""
			}
			return objects.Placed(v.Status.Site, v.Status.Host)
		}),
		objects.Index("owner", func(v *api.Volume) string {
			if !loose(v) {
				return ""
			}
			return v.Owner
		}),
	)}
}

// loose tells whether no VM has a volume. What releases without volumes have kept has no phase.
func loose(v *api.Volume) bool {
	return v.Status.VM == "" && v.Status.Phase != "" && v.Status.Phase != api.VolumeLost
}

// placeOf is where a volume is to be made, by its spec. Empty: it is open.
func placeOf(v *api.Volume) (site, host string) {
	site, host, _ = strings.Cut(v.Spec.Place, "/")
	return site, host
}

// faults finds what is wrong with a volume beside its own fields.
func (vs *Volumes) faults(tx *state.Tx, _ access.Actor, was, now *api.Volume) ([]*api.Error, error) {
	if was != nil && was.IsDisk() {
		return nil, api.Errorf(api.CodeRefused, "%s is a disk of VM %s; change it there: wcc vm disk --help", was.Name, was.Status.VM)
	}
	site, host := placeOf(now)
	if was != nil || now.Spec.Place == "" {
		return nil, nil
	}
	fault := func(format string, args ...any) ([]*api.Error, error) {
		return []*api.Error{api.Invalidf("spec.place", format, args...)}, nil
	}
	if site != vs.Name || host == "" {
		return fault("%.100q is not %s/HOST: a volume is made on a host of its home, or where the VM is that has it first", now.Spec.Place, vs.Name)
	}
	h, err := objects.Find[api.Host](tx, host)
	switch {
	case errors.Is(err, &api.Error{Code: api.CodeNotFound}):
		return fault("no host of %s is called %q; wcc host list shows them", vs.Name, host)
	case err != nil:
		return nil, err
	case !objects.HasRole(h, api.RoleHypervisor):
		return fault("host %s is no hypervisor: it keeps no volumes", host)
	case h.Status.CPU.Disks == 0:
		return []*api.Error{{Code: api.CodeRefused, Field: "spec.place", Message: "host " + host + " keeps no volumes", Reasons: []api.Reason{{
			Site: site, Host: host, Code: "release", Message: "the release of its agent knows no volumes, or the agent was not heard of yet", Advice: "upgrade it, or choose another host"}}}}, nil
	}
	return nil, nil
}

// create makes a volume: on a host, if its user names one, and otherwise in the books alone.
func (vs *Volumes) create(tx *state.Tx, _ access.Actor, v *api.Volume) error {
	size := api.Resources{DiskGiB: v.Spec.SizeGiB}
	if err := vs.quota(tx, v.Owner, size); err != nil {
		return err
	}
	v.Status = api.VolumeStatus{Epoch: 1}
	phase := api.VolumeNew
	if site, host := placeOf(v); host != "" {
		if err := vs.room(tx, v, host, api.Resources{}, size); err != nil {
			return err
		}
		v.Status.Site, v.Status.Host, phase = site, host, api.VolumeMaking
	}
	vs.setPhase(v, phase)
	return objects.Put(tx, v)
}

// quota is rooms.Quota, with the field of a volume.
func (vs *Volumes) quota(tx *state.Tx, owner string, more api.Resources) error {
	err := vs.rooms.Quota(tx, owner, more)
	var e *api.Error
	if errors.As(err, &e) && e.Field == "spec.disk_gib" {
		named := *e
		named.Field = "spec.size_gib"
		return &named
	}
	return err
}

// room refuses what a host has no room for.
func (vs *Volumes) room(tx *state.Tx, v *api.Volume, host string, before, after api.Resources) error {
	reasons, err := vs.rooms.ShortOnHost(tx, host, before, after)
	if err == nil && len(reasons) > 0 {
		err = &api.Error{Code: api.CodeRefused, Field: "spec.size_gib", Message: fmt.Sprintf("volume %s cannot have that size at %s/%s", v.Name, vs.Name, host), Reasons: reasons}
	}
	return err
}

// change makes a volume larger: by its VM, if one has it.
func (vs *Volumes) change(tx *state.Tx, by access.Actor, was, now *api.Volume) error {
	if was.Spec.SizeGiB == now.Spec.SizeGiB {
		return objects.Put(tx, now)
	}
	before, after := api.Resources{DiskGiB: was.Spec.SizeGiB}, api.Resources{DiskGiB: now.Spec.SizeGiB}
	switch now.Status.Phase {
	case api.VolumeAttached:
		if err := objects.Put(tx, now); err != nil {
			return err
		}
		return vs.GrowDisk(tx, by, now.Status.VM, now.Status.Disk, now.Spec.SizeGiB)
	case api.VolumeNew, api.VolumeMaking, api.VolumeDetached:
	default:
		return &api.Error{Code: api.CodeConflict, Field: "spec.size_gib", Message: fmt.Sprintf("volume %s is %s: it cannot grow now", now.Name, now.Status.Phase)}
	}
	if err := vs.quota(tx, now.Owner, api.Resources{DiskGiB: now.Spec.SizeGiB - was.Spec.SizeGiB}); err != nil {
		return err
	}
	if now.Status.Host != "" {
		if err := vs.room(tx, now, now.Status.Host, before, after); err != nil {
			return err
		}
	}
	now.Status.Pending = pending(now)
	return objects.Put(tx, now)
}

// remove deletes a volume: at once if there is nothing of it, and otherwise when its host has removed it.
func (vs *Volumes) remove(tx *state.Tx, v *api.Volume) error {
	switch {
	case v.IsDisk():
		return api.Errorf(api.CodeRefused, "%s is a disk of VM %s; take it out there: wcc vm disk remove", v.Name, v.Status.VM)
	case v.Status.VM != "":
		return objects.InUse(v, "status.vm", "VM %s (%s); detach it first: wcc volume detach %s", v.Status.VM, v.Status.Phase, v.Name)
	case v.Status.Host == "" || v.Status.Phase == api.VolumeLost:
		return objects.Gone(tx, v)
	case v.Status.Phase != api.VolumeDeleting:
		v.Status.Epoch++
		vs.setPhase(v, api.VolumeDeleting)
	}
	return objects.Put(tx, v)
}

// setPhase gives a volume a phase.
func (vs *Volumes) setPhase(v *api.Volume, p api.VolumePhase) {
	if v.Status.Phase != p {
		v.Status.Phase, v.Status.Since = p, vs.Now()
	}
}

// pending is what of a volume's spec is not in effect.
func pending(v *api.Volume) []api.Pending {
	if v.Status.SizeMiB == 0 || v.Status.SizeMiB >= int64(v.Spec.SizeGiB)*1024 {
		return nil
	}
	return []api.Pending{{Field: "size_gib", Now: fmt.Sprintf("%dMiB", v.Status.SizeMiB), Wanted: fmt.Sprintf("%dGiB", v.Spec.SizeGiB), Waits: "for its host"}}
}

// see keeps what a host's agent reports of volumes that no VM has.
func (vs *Volumes) see(tx *state.Tx, host string, seen []wire.VolumeReport) error {
	if len(seen) == 0 {
		return nil
	}
	said := make(map[string]wire.VolumeReport, len(seen))
	for _, r := range seen {
		said[r.Volume] = r
	}
	var here []*api.Volume
	for v := range objects.By[api.Volume](tx, "host", objects.Placed(vs.Name, host)) {
		here = append(here, v)
	}
	for _, v := range here {
		r, ok := said[v.UID]
		if !ok || r.Epoch != v.Status.Epoch {
			continue // it answers an older order
		}
		if v.Deleting && r.SizeMiB == 0 && r.Message == "" {
			vs.Event(tx, "volume.deleted", "volumes/"+v.Name, v.Owner, "it is gone")
			if err := objects.Gone(tx, v); err != nil {
				return err
			}
			continue
		}
		if err := vs.seen(tx, v, r); err != nil {
			return err
		}
	}
	return nil
}

// seen keeps what a report says of a volume that no VM has, if it is news. v is shared.
func (vs *Volumes) seen(tx *state.Tx, v *api.Volume, r wire.VolumeReport) error {
	now := state.Clone(v)
	now.Status.Message = r.Message
	if r.SizeMiB > 0 {
		now.Status.SizeMiB, now.Status.AllocatedBytes = r.SizeMiB, r.Bytes
		if now.Status.Phase == api.VolumeMaking {
			vs.setPhase(now, api.VolumeDetached)
		}
	}
	now.Status.Pending = pending(now)
	return objects.Put(tx, now)
}

// Forget removes what releases without volumes have kept of VMs' disks: their names may be volumes' now. The next reports bring all of
// it again.
func (vs *Volumes) Forget(ctx context.Context) error {
	return vs.Write(store.Urgent(ctx), func(tx *state.Tx) error {
		var old []*api.Volume
		for v := range objects.Each[api.Volume](tx) {
			if v.Status.Phase == "" {
				old = append(old, v)
			}
		}
		for _, v := range old {
			if err := objects.Gone(tx, v); err != nil {
				return err
			}
		}
		return nil
	})
}
