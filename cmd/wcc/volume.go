package main

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"widecloud/api"
)

var _ = present[volumeGroup](api.KindVolume,
	col("PHASE", func(o *api.Volume) string { return string(o.Status.Phase) }),
	col("VM", func(o *api.Volume) string { return o.Status.VM }),
	col("DISK", func(o *api.Volume) string { return o.Status.Disk }),
	col("SIZE", func(o *api.Volume) string {
		return sizeOr(cmp.Or(o.Status.SizeMiB, int64(o.Spec.SizeGiB)*1024) << 20) // a pending growth is in the status
	}),
	col("USED", func(o *api.Volume) string { return sizeOr(o.Status.AllocatedBytes) }),
	col("PLACE", func(o *api.Volume) string { return place(o.Status.Site, o.Status.Host) }),
	wide("IMAGE", func(o *api.Volume) string { return o.Status.Image }),
	wide("EPOCH", func(o *api.Volume) string { return fmt.Sprint(o.Status.Epoch) }),
	wide("SINCE", func(o *api.Volume) string { return stamp(o.Status.Since) }),
	wide("MESSAGE", func(o *api.Volume) string { return o.Status.Message }),
)

type volumeGroup struct {
	List   listCmd         `cmd:"" help:"List volumes, and the disks of VMs (phase own)."`
	Show   showCmd         `cmd:"" help:"Show a volume."`
	Create volumeCreateCmd `cmd:"" help:"Make a volume, empty at first."`
	Attach volumeAttachCmd `cmd:"" help:"Give a volume to a VM, which runs or is stopped."`
	Detach volumeDetachCmd `cmd:"" help:"Take a volume from its VM. What is on it stays."`
	Grow   volumeGrowCmd   `cmd:"" help:"Make a volume larger, attached or not."`
	Delete deleteCmd       `cmd:"" help:"Delete volumes that no VM has, with all that is on them."`
}

// volumeWaits is how a change of a volume waits until it is in effect.
type volumeWaits struct {
	Wait    bool          `help:"Wait until it is in effect."`
	Timeout time.Duration `default:"1m" help:"How long --wait waits. The change stays asked for after it."`
	format
}

type volumeCreateCmd struct {
	Name  string    `arg:"" help:"Its name."`
	Size  gibibytes `arg:"" help:"Its size: 10GiB."`
	Place string    `help:"Make it at once on this host of its home. Left out: it is made where the VM is to which it is attached first." placeholder:"SITE/HOST"`
	Owner string    `help:"Organisation that owns it; left out: the user's." complete:"owners"`
	labelled
	volumeWaits
}

func (c *volumeCreateCmd) Run(a *app) error {
	labels, err := c.labels()
	if err != nil {
		return err
	}
	client, err := a.client()
	if err != nil {
		return err
	}
	v, err := api.Create(a, client, &api.Volume{Meta: api.Meta{Name: c.Name, Owner: c.Owner, Labels: labels}, Spec: api.VolumeSpec{SizeGiB: int(c.Size), Place: c.Place}})
	if err != nil {
		return err
	}
	return c.end(a, client, v, "created", func(v *api.Volume) bool { return v.Status.Phase != api.VolumeMaking })
}

type volumeAttachCmd struct {
	Name string `arg:"" help:"The volume's name." complete:"self"`
	VM   string `arg:"" name:"vm" help:"The VM's name." complete:"vms"`
	Disk string `help:"What it is called in the VM, where Linux has it as /dev/disk/by-id/virtio-DISK; left out: the volume's name." placeholder:"DISK"`
	volumeWaits
}

func (c *volumeAttachCmd) Run(a *app) error {
	client, err := a.client()
	if err != nil {
		return err
	}
	vm, err := api.Get[api.VM](a, client, c.VM)
	if err != nil {
		return err
	}
	disks := append(vm.Spec.Disks, api.Disk{Name: cmp.Or(c.Disk, c.Name), Volume: c.Name})
	if vm, err = api.Patch[api.VM](a, client, c.VM, specOf("disks", disks), vm.Revision); err != nil {
		return err
	}
	v, err := api.Get[api.Volume](a, client, c.Name)
	if err != nil {
		return err
	}
	what := "is given to vm " + c.VM
	if p := diskPending(vm, cmp.Or(c.Disk, c.Name)); p != nil {
		what += ", which has it " + p.Waits
	}
	return c.end(a, client, v, what, func(v *api.Volume) bool {
		return v.Status.Phase == api.VolumeAttached && v.Status.SizeMiB > 0 && len(v.Status.Pending) == 0
	})
}

type volumeDetachCmd struct {
	Name string `arg:"" help:"The volume's name." complete:"self"`
	volumeWaits
}

func (c *volumeDetachCmd) Run(a *app) error {
	client, err := a.client()
	if err != nil {
		return err
	}
	v, err := api.Get[api.Volume](a, client, c.Name)
	if err != nil {
		return err
	}
	if v.Status.VM == "" || v.IsDisk() {
		return &api.Error{Code: api.CodeConflict, Message: fmt.Sprintf("volume %s is attached to no vm; it is %s", c.Name, v.Status.Phase)}
	}
	vm, err := api.Get[api.VM](a, client, v.Status.VM)
	if err != nil {
		return err
	}
	if i := slices.IndexFunc(vm.Spec.Disks, func(k api.Disk) bool { return k.Volume == c.Name }); i >= 0 {
		if _, err := api.Patch[api.VM](a, client, vm.Name, specOf("disks", slices.Delete(vm.Spec.Disks, i, i+1)), vm.Revision); err != nil {
			return err
		}
	}
	if v, err = api.Get[api.Volume](a, client, c.Name); err != nil {
		return err
	}
	return c.end(a, client, v, "is to be taken from vm "+vm.Name, func(v *api.Volume) bool { return v.Status.VM == "" })
}

type volumeGrowCmd struct {
	Name string    `arg:"" help:"The volume's name." complete:"self"`
	Size gibibytes `arg:"" help:"Its new size: 20GiB."`
	volumeWaits
}

func (c *volumeGrowCmd) Run(a *app) error {
	client, err := a.client()
	if err != nil {
		return err
	}
	v, err := api.Patch[api.Volume](a, client, c.Name, specOf("size_gib", int(c.Size)), 0)
	if err != nil {
		return err
	}
	return c.end(a, client, v, "is to have "+size(int64(c.Size)<<30), func(v *api.Volume) bool {
		return v.Status.SizeMiB >= int64(c.Size)*1024 || v.Status.Phase == api.VolumeNew
	})
}

// end shows the volume, with --wait once it is as wanted.
func (w *volumeWaits) end(a *app, client *api.Client, v *api.Volume, what string, ok func(*api.Volume) bool) (err error) {
	if w.Wait {
		if v, err = waitFor(a, w.Timeout, func(a *app) (*api.Volume, error) { return waitVolume(a, client, v.Name, ok) }); err != nil {
			return err
		}
		what = "is " + string(v.Status.Phase)
		if v.Status.VM != "" {
			what += " to vm " + v.Status.VM
		} else if v.Status.Host != "" {
			what += " at " + place(v.Status.Site, v.Status.Host)
		}
	}
	return w.done(a, v, what)
}

// waitVolume shows what becomes of a volume until ok says that it is as wanted.
func waitVolume(a *app, client *api.Client, name string, ok func(*api.Volume) bool) (*api.Volume, error) {
	said := ""
	for v, err := range api.Follow[api.Volume](a, client, name) {
		if err != nil {
			return nil, fmt.Errorf("wait for volume %s: %w", name, err)
		}
		if ok(v) {
			return v, nil
		}
		line := fmt.Sprintf("volume %s: %s", name, v.Status.Phase)
		for _, p := range v.Status.Pending {
			line += ", waits " + p.Waits
		}
		if v.Status.Message != "" {
			line += ": " + v.Status.Message
		}
		if line != said {
			said = line
			a.err.printf("%s\n", line)
		}
	}
	return nil, fmt.Errorf("wait for volume %s: %w; the request stays in force", name, cause(a))
}
