package agent

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"

	"widecloud/api"
	"widecloud/internal/agent/network"
	"widecloud/internal/hyper"
	"widecloud/internal/volume"
	"widecloud/internal/volume/seed"
	"widecloud/internal/wire"
)

// Disks are Volumes in a directory of this host.
type Disks struct{ Store *volume.Store }

// Bases is Volumes's.
func (d Disks) Bases(context.Context) ([]Base, error) {
	bases, err := d.Store.Bases()
	out := make([]Base, 0, len(bases))
	for _, b := range bases {
		out = append(out, Base{string(b.Digest), b.Bytes})
	}
	return out, err
}

// Import is Volumes's.
func (d Disks) Import(ctx context.Context, digest, format string, content io.Reader) error {
	want, err := volume.ParseDigest(digest)
	if err != nil {
		return err
	}
	if d.Store.HasBase(want) {
		return nil
	}
	_, release, err := d.Store.ImportBase(ctx, content, volume.Import{Digest: want, Format: format})
	if err == nil {
		release() // an order names it
	}
	return err
}

// Sweep is Volumes's.
func (d Disks) Sweep(ctx context.Context, keep func(string) bool) error {
	_, err := d.Store.Sweep(ctx, func(digest volume.Digest) bool { return keep(string(digest)) })
	return err
}

// Create is Volumes's.
func (d Disks) Create(ctx context.Context, vm, base string, sizeMiB int64) (hyper.Disk, error) {
	digest, err := volume.ParseDigest(base)
	if err != nil {
		return hyper.Disk{}, err
	}
	if sizeMiB > 0 {
		if err := d.Store.Grow(ctx, vm, sizeMiB); err != nil && !errors.Is(err, volume.ErrNotFound) {
			return hyper.Disk{}, err
		}
	}
	v, err := d.Store.Create(ctx, vm, digest, sizeMiB)
	if err != nil {
		return hyper.Disk{}, err
	}
	return hyper.Disk{Path: v.Path, Format: string(v.Format), Base: v.BasePath, BaseFormat: string(v.BaseFormat)}, nil
}

// CreateDisk is Volumes's. The guest finds the disk by its name.
func (d Disks) CreateDisk(ctx context.Context, vm, name string, sizeMiB int64) (hyper.Disk, error) {
	k, err := d.Store.CreateDisk(ctx, vm, name, sizeMiB)
	return hyper.Disk{Serial: name, Path: k.Path, Format: string(volume.Qcow2)}, err
}

// RemoveDisk is Volumes's.
func (d Disks) RemoveDisk(ctx context.Context, vm, name string) error {
	return d.Store.RemoveDisk(ctx, vm, name)
}

// MoveDisk is Volumes's.
func (d Disks) MoveDisk(ctx context.Context, from, name, to, as string) (bool, error) {
	return d.Store.MoveDisk(ctx, from, name, to, as)
}

// Seed is Volumes's.
func (d Disks) Seed(ctx context.Context, o wire.VMOrder) (hyper.Disk, error) {
	nic := seed.NIC{MAC: o.NIC.MAC, DHCP4: o.NIC.IPv4 != "", MTU: o.NIC.MTU}
	if a, err := netip.ParseAddr(o.NIC.IPv6); err == nil {
		nic.Addresses = []netip.Prefix{netip.PrefixFrom(a, 64)}
	}
	path, err := d.Store.Seed(ctx, o.VM, seed.Data{UID: o.VM, Hostname: o.Seed.Hostname, UserData: o.Seed.UserData, SSHKeys: o.Seed.SSHKeys, NICs: []seed.NIC{nic}})
	if err != nil {
		return hyper.Disk{}, err
	}
	return hyper.Disk{Path: path, Format: "raw", ReadOnly: true}, nil
}

// Disks is Volumes's.
func (d Disks) Disks(ctx context.Context, vm string) (out []wire.DiskReport, err error) {
	u, err := d.Store.Stat(ctx, vm)
	switch {
	case err == nil:
		out = append(out, wire.DiskReport{Name: api.RootDisk, SizeMiB: u.VirtualBytes >> 20, Bytes: u.AllocatedBytes})
	case !errors.Is(err, volume.ErrNotFound):
		return nil, err
	}
	disks, err := d.Store.Disks(ctx, vm)
	for _, k := range disks {
		out = append(out, wire.DiskReport{Name: k.Name, SizeMiB: k.VirtualBytes >> 20, Bytes: k.AllocatedBytes})
	}
	return out, err
}

// Export is Volumes's.
func (d Disks) Export(ctx context.Context, k hyper.Disk) (Export, error) {
	e, err := d.Store.Export(ctx, k.Path)
	if err != nil {
		return nil, err
	}
	return export{e}, nil
}

// export is an Export of a volume.
type export struct{ *volume.Export }

func (e export) Size() int64 { return e.Bytes }

// Fill is Volumes's.
func (d Disks) Fill(ctx context.Context, k hyper.Disk, r io.Reader) (string, error) {
	return d.Store.Fill(ctx, k.Path, r)
}

// NewMemory is Volumes's.
func (d Disks) NewMemory(ctx context.Context, vm string, mebibytes int64) (string, error) {
	return d.Store.NewMemory(ctx, vm, mebibytes)
}

// Memory is Volumes's.
func (d Disks) Memory(ctx context.Context, vm string) (string, error) {
	return d.Store.Memory(ctx, vm)
}

// KeepMemory is Volumes's.
func (d Disks) KeepMemory(ctx context.Context, vm string) (string, error) {
	return d.Store.KeepMemory(ctx, vm)
}

// MemorySeal is Volumes's.
func (d Disks) MemorySeal(ctx context.Context, vm string) (string, error) {
	return d.Store.MemorySeal(ctx, vm)
}

// OpenMemory is Volumes's.
func (d Disks) OpenMemory(ctx context.Context, vm string) (io.ReadCloser, int64, error) {
	return d.Store.OpenMemory(ctx, vm)
}

// FillMemory is Volumes's.
func (d Disks) FillMemory(ctx context.Context, vm string, head []byte, n int64, r io.Reader) (string, error) {
	return d.Store.FillMemory(ctx, vm, head, n, r)
}

// RemoveMemory is Volumes's.
func (d Disks) RemoveMemory(ctx context.Context, vm string) error {
	return d.Store.RemoveMemory(ctx, vm)
}

// Remove is Volumes's.
func (d Disks) Remove(ctx context.Context, vm string) error { return d.Store.Remove(ctx, vm) }

// Links are Networks by the network driver.
type Links struct{ Driver *network.Driver }

// Apply is Networks's.
func (l Links) Apply(ctx context.Context, w network.Want) error { return l.Driver.Apply(ctx, w) }

// Bridge is Networks's.
func (l Links) Bridge(uid string) string { return l.Driver.Bridge(uid) }

// Seen is Networks's.
func (l Links) Seen(ctx context.Context, uid string, mac net.HardwareAddr) ([]network.Sighting, error) {
	return l.Driver.Seen(ctx, uid, mac)
}
