package agent

import (
	"context"
	"errors"
	"slices"

	"widecloud/api"
	"widecloud/internal/hyper"
	"widecloud/internal/wire"
)

// ReadDisk sends a disk of a VM that is stopped here, for an image to be made of it. It holds the VM's lock, so that nothing starts
// the VM or removes its disks meanwhile; an order to do so ends it. Nothing is kept of it.
func (a *Agent) ReadDisk(ctx context.Context, h wire.DiskHeader, stream *wire.Stream) error {
	v, unlock, err := a.claim(ctx, h.VM, func(r *record) error { return readable(r, h) })
	if err != nil {
		return err
	}
	defer a.poke()
	defer unlock()
	if err := a.still(ctx, v.uid); err != nil {
		return err
	}
	ctx, done := a.work(ctx, v)
	defer done()
	// An order that was taken before work began has not ended it.
	a.mu.Lock()
	order, err := v.record.Order, readable(&v.record, h)
	a.mu.Unlock()
	if !errors.Is(err, errUnchangedOwned) {
		return err
	}
	disk, err := a.openDisk(ctx, order, h.Disk)
	if err != nil {
		return refusal(err)
	}
	defer disk.Close()
	codec, err := wire.PickCodec(codecs, h.Codec)
	if err != nil {
		return err
	}
	a.o.Failpoint("disk.read")
	if err := stream.Accept(); err != nil {
		return err
	}
	conn, err := codec.Wrap(stream)
	if err != nil {
		return err
	}
	defer cutWith(ctx, conn)()
	a.o.Failpoint("disk.sending")
	if _, err = disk.Send(ctx, conn, func(int64) {}); err == nil && ctx.Err() == nil {
		return endWriting(conn)
	}
	err = refusal(because(ctx, err))
	abort(conn, err)
	return err
}

// readable says why a disk cannot be read by a VM's record; errUnchangedOwned: it can.
func readable(r *record, h wire.DiskHeader) error {
	o := r.Order
	switch {
	case o.VM == "":
		return api.Errorf(api.CodeNotFound, "VM %s is not here", h.VM)
	case o.Epoch != h.Epoch:
		return api.Errorf(api.CodeStale, "epoch %d of VM %s is not %d, the one that is here", h.Epoch, h.VM, o.Epoch)
	case r.Job != "":
		return api.Errorf(api.CodeConflict, "VM %s is part of migration %s", h.VM, r.Job)
	case o.Run != wire.RunOff && o.Run != wire.RunHard:
		return api.Errorf(api.CodeConflict, "VM %s is not stopped here, but %s", h.VM, o.Run)
	case h.Disk == api.RootDisk && h.Image != o.Image:
		return api.Errorf(api.CodeConflict, "the root disk of VM %s is over %s, not %.80s", h.VM, o.Image, h.Image)
	}
	return errUnchangedOwned
}

// openDisk opens a disk that is here. One that is larger by its order becomes so, as at the VM's next start.
func (a *Agent) openDisk(ctx context.Context, o wire.VMOrder, name string) (Export, error) {
	have, err := a.o.Volumes.Disks(ctx, o.VM)
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(o.Disks, func(k wire.DiskOrder) bool { return k.Name == name && !k.Gone })
	here := slices.ContainsFunc(have, func(k wire.DiskReport) bool { return k.Name == name })
	if !here || name != api.RootDisk && i < 0 {
		return nil, api.Errorf(api.CodeNotFound, "disk %.40s of VM %s is not here: a disk is made when its VM starts", name, o.Name)
	}
	var disk hyper.Disk
	if name == api.RootDisk {
		disk, err = a.o.Volumes.Create(ctx, o.VM, o.Image, o.DiskMiB)
	} else {
		disk, err = a.disk(ctx, o, o.Disks[i])
	}
	if err != nil {
		return nil, err
	}
	return a.o.Volumes.Export(ctx, disk)
}
