package agent

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"widecloud/api"
	"widecloud/internal/hyper"
	"widecloud/internal/wire"
)

// What disks a VM has is read from its host each time, and kept nowhere: the files, and those that the domain has. So an agent that
// dies in the middle of a change goes on with it when it comes back.

// askAgain is after how long a guest that has not let a disk go is asked again.
const askAgain = 30 * time.Second

// disk makes a disk of an order that no guest has, or finds it there.
func (a *Agent) disk(ctx context.Context, o wire.VMOrder, k wire.DiskOrder) (hyper.Disk, error) {
	if err := a.takeVolume(ctx, o.VM, k); err != nil {
		return hyper.Disk{}, err
	}
	disk, err := a.o.Volumes.CreateDisk(ctx, o.VM, k.Name, k.SizeMiB)
	disk.Target = hyper.Target(o.Profile, k.Slot)
	return disk, err
}

// disks are a VM's writable disks, the root disk first, made where they are not there yet. No guest has them.
func (a *Agent) disks(ctx context.Context, o wire.VMOrder) ([]hyper.Disk, error) {
	if err := a.image(ctx, o.Image); err != nil {
		return nil, fmt.Errorf("image: %w", err)
	}
	disk, err := a.o.Volumes.Create(ctx, o.VM, o.Image, o.DiskMiB)
	if err != nil {
		return nil, fmt.Errorf("volume: %w", err)
	}
	disk.Target = hyper.Target(o.Profile, 0)
	disks := []hyper.Disk{disk}
	for _, k := range o.Disks {
		if k.Gone {
			continue
		}
		if disk, err = a.disk(ctx, o, k); err != nil {
			return nil, fmt.Errorf("disk %s: %w", k.Name, err)
		}
		disks = append(disks, disk)
	}
	return disks, nil
}

// change is one disk of a VM that is not as ordered.
type change struct {
	name, target string
	sizeMiB      int64
	to           string         // grow, plug, unplug, remove
	order        wire.DiskOrder // of a disk beside the root disk; the VM's order may be another one by now
}

// diskChanges are what has to be done to make the disks of a VM that is as it is to be what its order says. A VM that is to run
// and does not is made with the right ones (ready).
func (a *Agent) diskChanges(ctx context.Context, v *vm, d hyper.Domain) (out []change, err error) {
	a.mu.Lock()
	r, asked, rootMiB := v.record, maps.Clone(v.asked), v.rootMiB
	a.mu.Unlock()
	o := r.Order
	runs := d.State == hyper.Running
	if a.o.Volumes == nil || o.VM == "" || r.Job != "" || r.Saved != nil || o.Run == wire.RunGone || o.Run == wire.RunOn != runs || d.VM != "" && !runs {
		return nil, nil
	}
	if !runs && !slices.ContainsFunc(o.Disks, func(k wire.DiskOrder) bool { return k.Gone }) || runs && len(o.Disks) == 0 && rootMiB >= o.DiskMiB {
		return nil, nil
	}
	have, err := a.o.Volumes.Disks(ctx, v.uid)
	if err != nil {
		return nil, fmt.Errorf("look at the disks: %w", err)
	}
	size := map[string]int64{}
	for _, k := range have {
		size[k.Name] = k.SizeMiB
	}
	a.mu.Lock()
	v.rootMiB = size[api.RootDisk] // a disk does not shrink: it is looked at again only to grow
	a.mu.Unlock()
	if root := hyper.Target(o.Profile, 0); runs && o.DiskMiB > size[api.RootDisk] && slices.Contains(d.Disks, root) {
		out = append(out, change{name: api.RootDisk, target: root, sizeMiB: o.DiskMiB, to: "grow"})
	}
	plugs := o.Profile >= 2 // others wait for the next start
	for _, k := range o.Disks {
		c := change{name: k.Name, target: hyper.Target(o.Profile, k.Slot), sizeMiB: k.SizeMiB, order: k}
		_, there := size[k.Name]
		switch plugged := slices.Contains(d.Disks, c.target); {
		case k.Gone && !plugged && there:
			c.to = "remove"
		case k.Gone && plugged && plugs && time.Since(asked[c.target]) >= askAgain:
			c.to = "unplug"
		case !k.Gone && runs && !plugged && plugs:
			c.to = "plug"
		case !k.Gone && plugged && k.SizeMiB > size[k.Name]:
			c.to = "grow"
		default:
			continue
		}
		out = append(out, c)
	}
	return out, nil
}

// changeDisks makes the VM's disks what its order says, as far as its guest takes part. The VM's lock is held.
func (a *Agent) changeDisks(ctx context.Context, v *vm, changes []change) {
	a.mu.Lock()
	o := v.record.Order
	a.mu.Unlock()
	var err error
	for _, c := range changes {
		if e := a.changeDisk(ctx, v, o, c); e != nil {
			err = errors.Join(err, fmt.Errorf("disk %s: %s: %w", c.name, c.to, e))
			continue
		}
		a.log.Info("disk is changed", "vm", o.Name, "disk", c.name, "to", c.to)
	}
	a.mu.Lock()
	v.worked++
	a.mu.Unlock()
	a.noteDisks(v, err)
	if err == nil {
		a.poke() // what has changed is reported; one that failed is tried again with the ticker
	}
}

// noteDisks keeps what is wrong about a VM's disks; nil: nothing is.
func (a *Agent) noteDisks(v *vm, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	text := errText(err)
	if text != v.diskMessage && err != nil {
		a.log.Error("change disks", "vm", v.record.Order.Name, "err", err)
	}
	v.diskMessage = text
}

func (a *Agent) changeDisk(ctx context.Context, v *vm, o wire.VMOrder, c change) error {
	switch c.to {
	case "grow":
		return a.o.Hypervisor.GrowDisk(ctx, v.uid, c.target, c.sizeMiB<<20)
	case "remove":
		a.o.Failpoint("disk.remove")
		return a.dropDisk(ctx, v.uid, c.order)
	case "unplug":
		a.mu.Lock()
		if v.asked == nil {
			v.asked = map[string]time.Time{}
		}
		v.asked[c.target] = time.Now()
		a.mu.Unlock()
		err := a.o.Hypervisor.DetachDisk(ctx, v.uid, c.target)
		a.o.Failpoint("disk.unplugged")
		return err
	}
	disk, err := a.disk(ctx, o, c.order)
	if err != nil {
		return err
	}
	a.o.Failpoint("disk.made")
	if err := a.o.Hypervisor.AttachDisk(ctx, v.uid, disk); err != nil {
		return err
	}
	a.o.Failpoint("disk.plugged")
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(v.asked, c.target)
	return nil
}

// unsettled says why a VM's copy cannot be moved: one of its disks is not as its order says, in a way in which the other end would make
// another machine.
func (a *Agent) unsettled(ctx context.Context, v *vm) error {
	domains, err := a.domains(ctx)
	if err != nil {
		return err
	}
	have, err := a.o.Volumes.Disks(ctx, v.uid)
	if err != nil {
		return err
	}
	a.mu.Lock()
	o := v.record.Order
	a.mu.Unlock()
	for _, k := range o.Disks {
		there := slices.ContainsFunc(have, func(r wire.DiskReport) bool { return r.Name == k.Name })
		if there && !slices.Contains(domains[v.uid].Disks, hyper.Target(o.Profile, k.Slot)) {
			return api.Errorf(api.CodeConflict, "disk %s of VM %s is here, and its guest does not have it: it would not be copied", k.Name, o.Name)
		}
	}
	return nil
}

// machine is what is seen of a VM's copy; nil when nothing certain can be said now.
func (a *Agent) machine(ctx context.Context, v *vm) *wire.MachineReport {
	// Whoever has the lock may be at work by an older order than the record's, and make a disk that is not to be.
	if !v.busy.TryLock() {
		return nil
	}
	a.mu.Lock()
	v.busy.Unlock()
	o := v.record.Order
	m := &wire.MachineReport{CPUs: v.cpus, MemoryMiB: v.memory, Disks: []wire.DiskReport{}}
	plugged := v.plugged
	if s := v.record.Saved; s.whole() && m.CPUs == 0 { // as when it stood still
		plugged = []string{hyper.Target(o.Profile, 0)}
		for _, k := range s.Order.Disks {
			plugged = append(plugged, hyper.Target(o.Profile, k.Slot))
		}
	}
	a.mu.Unlock()
	disks, err := a.o.Volumes.Disks(ctx, v.uid)
	if err != nil {
		return nil
	}
	for _, k := range disks {
		slot := 0
		if i := slices.IndexFunc(o.Disks, func(x wire.DiskOrder) bool { return x.Name == k.Name }); i >= 0 {
			slot = o.Disks[i].Slot
		} else if k.Name != api.RootDisk {
			slot = -1
		}
		k.Plugged = slot >= 0 && slices.Contains(plugged, hyper.Target(o.Profile, slot))
		m.Disks = append(m.Disks, k)
	}
	return m
}
