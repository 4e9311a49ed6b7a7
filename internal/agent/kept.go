package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"widecloud/api"
	"widecloud/internal/store"
	"widecloud/internal/wire"
)

// A volume is one file on the host. While no VM has it, the file is the volume's own; a VM's disk that is the volume is the same file
// under the VM's name. It goes from one to the other by one rename (Volumes.MoveDisk), so that two VMs never have it. What is ordered of
// a volume carries the volume's epoch, of which the highest is kept on disk before anything is done: an older order does nothing.

// keptDisk is what the disk of a volume that no VM has is called. No disk of a VM can have the name.
const keptDisk = "Kept"

// keyVolumes is where the highest epochs of volumes are: volumes/UID.
const keyVolumes = "volumes/"

// kept is what the agent knows of a volume.
type kept struct {
	Epoch uint64 `json:"epoch"` // the highest seen

	report *wire.VolumeReport // what was seen of it when it was looked at last; nil: it was not, or a VM has it
}

// loadVolumes reads the epochs that were seen.
func (a *Agent) loadVolumes(tx store.Tx) error {
	kvs, err := tx.List(keyVolumes)
	if err != nil {
		return err
	}
	for _, kv := range kvs {
		k := &kept{}
		if err := json.Unmarshal(kv.Value, k); err != nil {
			return fmt.Errorf("read %s: %w", kv.Key, err)
		}
		a.volumes[strings.TrimPrefix(kv.Key, keyVolumes)] = k
	}
	return nil
}

// fence keeps the epoch of an order of a volume, and refuses one that is lower than the highest seen. a.files is held.
func (a *Agent) fence(ctx context.Context, volume string, epoch uint64) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	have := a.volumes[volume]
	switch {
	case have != nil && epoch < have.Epoch:
		return api.Errorf(api.CodeStale, "epoch %d of volume %s is lower than %d, the highest seen", epoch, volume, have.Epoch)
	case have != nil && epoch == have.Epoch:
		return nil
	}
	now := &kept{Epoch: epoch}
	value, err := json.Marshal(now)
	if err == nil {
		_, err = a.o.Store.Update(store.Urgent(ctx), func(tx store.Tx) error { return tx.Put(keyVolumes+volume, value) })
	}
	if err != nil {
		return fmt.Errorf("keep the epoch of volume %s: %w", volume, err)
	}
	a.volumes[volume] = now
	return nil
}

// takeVolume gives a VM's disk the volume that it is to be; nil when it is a disk of the VM's own. No guest has it.
func (a *Agent) takeVolume(ctx context.Context, vm string, k wire.DiskOrder) error {
	if k.Volume == "" {
		return nil
	}
	a.files.Lock()
	defer a.files.Unlock()
	if err := a.fence(ctx, k.Volume, k.Epoch); err != nil {
		return err
	}
	a.o.Failpoint("volume.take")
	there, err := a.o.Volumes.MoveDisk(ctx, k.Volume, keptDisk, vm, k.Name)
	if err != nil || there || k.New {
		return err
	}
	return fmt.Errorf("volume %s has been on a host, and is not on this one: an empty one is not made in its place", k.Volume)
}

// dropDisk ends a disk of a VM that no guest has: it is removed, or, if it is a volume, goes back to where that is kept.
func (a *Agent) dropDisk(ctx context.Context, vm string, k wire.DiskOrder) error {
	if k.Volume == "" {
		return a.o.Volumes.RemoveDisk(ctx, vm, k.Name)
	}
	a.files.Lock()
	defer a.files.Unlock()
	if err := a.fence(ctx, k.Volume, k.Epoch); err != nil {
		return err
	}
	a.o.Failpoint("volume.give")
	_, err := a.o.Volumes.MoveDisk(ctx, vm, k.Name, k.Volume, keptDisk)
	return err
}

// giveAll keeps the volumes of a VM that ends.
func (a *Agent) giveAll(ctx context.Context, o wire.VMOrder) error {
	for _, k := range o.Disks {
		if k.Volume == "" {
			continue
		}
		if err := a.dropDisk(ctx, o.VM, k); err != nil {
			return fmt.Errorf("keep volume %s: %w", k.Volume, err)
		}
	}
	return nil
}

// asOwn gives disks as if they were the VM's own.
func asOwn(disks []wire.DiskOrder) []wire.DiskOrder {
	disks = slices.Clone(disks)
	for i := range disks {
		disks[i].Volume, disks[i].Epoch, disks[i].New = "", 0, false
	}
	return disks
}

// keepVolumes sets to work on the volumes that no VM has, unless that is under way.
func (a *Agent) keepVolumes(ctx context.Context, work *sync.WaitGroup, orders []wire.VolumeOrder) {
	if len(orders) == 0 || !a.keeping.TryLock() {
		return
	}
	work.Go(func() {
		defer a.keeping.Unlock()
		news := false
		for _, o := range orders {
			news = a.keepVolume(ctx, o) || news
		}
		if news {
			a.poke() // what is seen now is reported
		}
	})
}

// keepVolume makes a volume that no VM has what its order says, and looks at it; true when what is seen is news.
func (a *Agent) keepVolume(ctx context.Context, o wire.VolumeOrder) bool {
	a.files.Lock()
	defer a.files.Unlock()
	r := wire.VolumeReport{Volume: o.Volume, Epoch: o.Epoch}
	err := o.Check("order")
	if err == nil {
		err = a.fence(ctx, o.Volume, o.Epoch)
	}
	if errors.Is(err, &api.Error{Code: api.CodeStale}) {
		return false // a VM has it by now
	}
	if err == nil {
		r.SizeMiB, r.Bytes, err = a.asKept(ctx, o)
	}
	if r.Message = errText(err); ctx.Err() != nil {
		return false
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	have := a.volumes[o.Volume]
	if have == nil || have.Epoch != o.Epoch { // its epoch could not be kept
		return false
	}
	news := have.report == nil || *have.report != r
	if news && err != nil && (have.report == nil || have.report.Message != r.Message) {
		a.log.Error("keep volume", "volume", o.Name, "epoch", o.Epoch, "err", err)
	}
	have.report = &r
	return news
}

// asKept makes the file of a volume that no VM has what is ordered, and says how large it is: 0 when it is not there.
func (a *Agent) asKept(ctx context.Context, o wire.VolumeOrder) (sizeMiB, bytes int64, err error) {
	if o.Gone {
		a.o.Failpoint("volume.remove")
		if err := a.o.Volumes.RemoveDisk(ctx, o.Volume, keptDisk); err != nil {
			return 0, 0, err
		}
	}
	look := func() error {
		disks, err := a.o.Volumes.Disks(ctx, o.Volume)
		if i := slices.IndexFunc(disks, func(k wire.DiskReport) bool { return k.Name == keptDisk }); i >= 0 {
			sizeMiB, bytes = disks[i].SizeMiB, disks[i].Bytes
		}
		return err
	}
	if err := look(); err != nil || o.Gone {
		return sizeMiB, bytes, err
	}
	switch {
	case sizeMiB == 0 && !o.New:
		return 0, 0, errors.New("it is not on this host any more: an empty one is not made in its place")
	case sizeMiB >= o.SizeMiB:
		return sizeMiB, bytes, nil
	}
	a.o.Failpoint("volume.make")
	if _, err := a.o.Volumes.CreateDisk(ctx, o.Volume, keptDisk, o.SizeMiB); err != nil {
		return sizeMiB, bytes, err
	}
	return sizeMiB, bytes, look()
}

// keptVolumes is what is seen of the volumes that the orders in force want kept here.
func (a *Agent) keptVolumes() (out []wire.VolumeReport) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, o := range a.state.Volumes {
		if k := a.volumes[o.Volume]; k != nil && k.Epoch == o.Epoch && k.report != nil {
			out = append(out, *k.report)
		}
	}
	return out
}
