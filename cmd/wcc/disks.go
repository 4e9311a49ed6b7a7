package main

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"widecloud/api"
)

// diskFlag is SIZE, of the root disk, or NAME=SIZE, of another one.
type diskFlag struct {
	name string
	size gibibytes
}

// UnmarshalText reads one.
func (d *diskFlag) UnmarshalText(b []byte) error {
	name, size, named := strings.Cut(string(b), "=")
	if !named {
		name, size = "", string(b)
	} else if name == "" {
		return fmt.Errorf("%q is neither SIZE nor NAME=SIZE", b)
	}
	d.name = cmp.Or(name, api.RootDisk)
	return d.size.UnmarshalText([]byte(size))
}

// disksOf are the root disk's size and the other disks.
func disksOf(flags []diskFlag) (root int, disks []api.Disk, err error) {
	for i, f := range flags {
		if slices.ContainsFunc(flags[:i], func(o diskFlag) bool { return o.name == f.name }) {
			return 0, nil, usagef("--disk: disk %s is there twice", f.name)
		}
		if f.name == api.RootDisk {
			root = int(f.size)
			continue
		}
		disks = append(disks, api.Disk{Name: f.name, SizeGiB: int(f.size)})
	}
	return root, disks, nil
}

type vmDiskCmd struct {
	Add    vmDiskAddCmd    `cmd:"" help:"Give a VM a disk, empty at first."`
	Remove vmDiskRemoveCmd `cmd:"" help:"Take a disk away, with all that is on it; a volume stays what it is."`
	Grow   vmDiskGrowCmd   `cmd:"" help:"Make a disk larger."`
}

// diskWaits is how a change of disks waits until it is in effect.
type diskWaits struct {
	Wait    bool          `help:"Wait until it is in effect."`
	Timeout time.Duration `default:"1m" help:"How long --wait waits. The change stays asked for after it."`
	format
}

type vmDiskAddCmd struct {
	Name string    `arg:"" help:"The VM's name." complete:"self"`
	Disk string    `arg:"" help:"The disk's name: in a Linux guest, it is /dev/disk/by-id/virtio-DISK."`
	Size gibibytes `arg:"" help:"Its size: 10GiB."`
	diskWaits
}

func (c *vmDiskAddCmd) Run(a *app) error {
	return c.change(a, c.Name, c.Disk, "is given", func(spec *api.VMSpec) (any, error) {
		if slices.ContainsFunc(spec.Disks, func(k api.Disk) bool { return k.Name == c.Disk }) {
			return nil, &api.Error{Code: api.CodeExists, Message: fmt.Sprintf("vm %s has a disk %s already", c.Name, c.Disk)}
		}
		return specOf("disks", append(spec.Disks, api.Disk{Name: c.Disk, SizeGiB: int(c.Size)})), nil
	})
}

type vmDiskRemoveCmd struct {
	Name string `arg:"" help:"The VM's name." complete:"self"`
	Disk string `arg:"" help:"The disk's name."`
	diskWaits
}

func (c *vmDiskRemoveCmd) Run(a *app) error {
	return c.change(a, c.Name, c.Disk, "is to lose", func(spec *api.VMSpec) (any, error) {
		i, err := diskAt(spec, c.Name, c.Disk)
		if err != nil {
			return nil, err
		}
		return specOf("disks", slices.Delete(spec.Disks, i, i+1)), nil
	})
}

type vmDiskGrowCmd struct {
	Name string    `arg:"" help:"The VM's name." complete:"self"`
	Disk string    `arg:"" help:"The disk's name; root: the one over its image."`
	Size gibibytes `arg:"" help:"Its new size: 20GiB."`
	diskWaits
}

func (c *vmDiskGrowCmd) Run(a *app) error {
	return c.change(a, c.Name, c.Disk, "is to have a larger", func(spec *api.VMSpec) (any, error) {
		if c.Disk == api.RootDisk {
			return specOf("disk_gib", int(c.Size)), nil
		}
		i, err := diskAt(spec, c.Name, c.Disk)
		if err != nil {
			return nil, err
		}
		spec.Disks[i].SizeGiB = int(c.Size)
		return specOf("disks", spec.Disks), nil
	})
}

func diskAt(spec *api.VMSpec, vm, disk string) (int, error) {
	i := slices.IndexFunc(spec.Disks, func(k api.Disk) bool { return k.Name == disk })
	if i < 0 {
		return 0, &api.Error{Code: api.CodeNotFound, Message: fmt.Sprintf("vm %s has no disk %s", vm, disk)}
	}
	return i, nil
}

// change changes the list of a VM's disks, as it is now: if somebody else changes the VM meanwhile, nothing is changed.
func (c *diskWaits) change(a *app, vm, disk, what string, f func(*api.VMSpec) (any, error)) error {
	client, err := a.client()
	if err != nil {
		return err
	}
	v, err := api.Get[api.VM](a, client, vm)
	if err != nil {
		return err
	}
	patch, err := f(&v.Spec)
	if err != nil {
		return err
	}
	if v, err = api.Patch[api.VM](a, client, vm, patch, v.Revision); err != nil {
		return err
	}
	if c.Wait {
		settled := func(v *api.VM) bool { return diskPending(v, disk) == nil && diskSettled(v, disk) }
		if v, err = waitFor(a, c.Timeout, func(a *app) (*api.VM, error) { return waitVM(a, client, vm, settled) }); err != nil {
			return err
		}
		return c.done(a, v, "disk "+disk+" is as wanted")
	}
	if p := diskPending(v, disk); p != nil {
		return c.done(a, v, fmt.Sprintf("%s disk %s; the change waits %s", what, disk, p.Waits))
	}
	return c.done(a, v, what+" disk "+disk)
}

// diskPending is the change of a disk that is not in effect; nil: there is none.
func diskPending(v *api.VM, disk string) *api.Pending {
	for i, p := range v.Status.Pending {
		if p.Field == "disks."+disk || p.Field == "disks."+disk+".size_gib" || disk == api.RootDisk && p.Field == "disk_gib" {
			return &v.Status.Pending[i]
		}
	}
	return nil
}

// diskSettled tells whether a disk was seen where it is wanted, and not where it is not.
func diskSettled(v *api.VM, disk string) bool {
	wanted := slices.ContainsFunc(v.Spec.Disks, func(k api.Disk) bool { return k.Name == disk })
	seen := slices.ContainsFunc(v.Status.Disks, func(k api.VMDisk) bool { return k.Name == disk && k.Plugged })
	kept := slices.ContainsFunc(v.Status.Disks, func(k api.VMDisk) bool { return k.Name == disk })
	return disk == api.RootDisk || wanted && (seen || v.Status.Phase != api.PhaseRunning) || !wanted && !kept
}
