package agent

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"widecloud/api"
	"widecloud/internal/hyper"
	"widecloud/internal/volume"
	"widecloud/internal/wire"
)

// A VM that is hibernated is a file with its memory beside its disks. Two rules keep its guest from running twice out of one file:
//   - the record says that there is a file before a byte of it is written, and which file it is (its seal) once it is whole and the
//     domain is gone. A start goes through the file as long as the record says so, and through nothing else;
//   - a domain is restored paused. The record forgets the file, and the file goes, before the guest runs.
// So an agent that dies anywhere finds in its record and at the hypervisor where it was.

// saved is what a VM's record knows of its saved memory.
type saved struct {
	Order wire.VMOrder `json:"order"`          // the machine that the memory is of, whatever was ordered since
	Seal  string       `json:"seal,omitempty"` // of the memory and the disks; "": it is being written, or was when the agent died
}

// whole tells whether a VM's memory is saved.
func (s *saved) whole() bool { return s != nil && s.Seal != "" }

// saveAgain is after how long a save is tried again that came to nothing: each one makes the guest stand still for a while.
const saveAgain = time.Minute

// remembered brings what the record knows of a VM's saved memory together with what is ordered; done: that is all there is to do now.
func (a *Agent) remembered(ctx context.Context, v *vm, r record, d hyper.Domain) (state wire.VMState, again, done bool, err error) {
	here, whole := d.VM != "", r.Saved.whole()
	off := r.Order.Run == wire.RunHard || r.Order.Run == wire.RunGone
	switch {
	case r.Saved == nil:
		return "", false, false, nil
	case off:
		return "", false, false, a.forgetMemory(ctx, v)
	case here && d.Migrating:
		return wire.CopyPaused, false, true, nil // by the call of an agent that has died meanwhile; libvirt goes on with it
	case !here && !whole:
		state, again, err = a.keepMemory(ctx, v)
		return state, again, true, err
	case !here && r.Order.Run == wire.RunOn:
		state, again, err = a.restore(ctx, v, r)
		return state, again, true, err
	case !here:
		return wire.CopyHibernated, true, true, nil
	case whole && r.Order.Run == wire.RunOn:
		state, again, err = a.goOn(ctx, v)
		return state, again, true, err
	case whole:
		// Restored, and never run: it is in the file.
		return wire.CopyHibernated, true, true, a.o.Hypervisor.Destroy(ctx, v.uid)
	case r.Order.Run == wire.RunHibernated:
		return "", false, false, nil // a save that came to nothing; it is tried again
	}
	return "", false, false, a.forgetMemory(ctx, v)
}

// hibernate saves the memory of a VM and ends its domain.
func (a *Agent) hibernate(ctx context.Context, v *vm, r record, d hyper.Domain) (wire.VMState, bool, error) {
	switch {
	case d.VM == "":
		return wire.CopyStopped, true, nil
	case d.State == hyper.Incoming: // as of a VM that is to run
		return "", true, a.o.Hypervisor.Destroy(ctx, d.VM)
	}
	a.mu.Lock()
	wait, why := v.saveAgain, v.message
	a.mu.Unlock()
	if time.Now().Before(wait) {
		return wire.CopyRunning, false, errors.New(why)
	}
	err := a.save(ctx, v, r, d)
	if err != nil {
		a.mu.Lock()
		v.saveAgain = time.Now().Add(saveAgain)
		a.mu.Unlock()
		return wire.CopyRunning, false, fmt.Errorf("save its memory: %w", err)
	}
	return a.keepMemory(ctx, v)
}

func (a *Agent) save(ctx context.Context, v *vm, r record, d hyper.Domain) error {
	order, err := a.liveOrder(ctx, r.Order, d)
	if err != nil {
		return err
	}
	path, err := a.o.Volumes.NewMemory(ctx, v.uid, int64(d.MemoryMiB))
	if err != nil {
		return err
	}
	if _, err := a.remember(ctx, v.uid, func(r *record) error { r.Saved = &saved{Order: order}; return nil }); err != nil {
		return err
	}
	a.o.Failpoint("hibernate.begun")
	if err := a.o.Hypervisor.Save(ctx, v.uid, path); err != nil {
		return err
	}
	a.o.Failpoint("hibernate.written")
	return nil
}

// liveOrder is the order that makes the machine of a domain as it is, whatever of its order is still pending.
func (a *Agent) liveOrder(ctx context.Context, o wire.VMOrder, d hyper.Domain) (wire.VMOrder, error) {
	have, err := a.o.Volumes.Disks(ctx, o.VM)
	if err != nil {
		return o, fmt.Errorf("look at the disks: %w", err)
	}
	size := func(name string, otherwise int64) int64 {
		if i := slices.IndexFunc(have, func(k wire.DiskReport) bool { return k.Name == name }); i >= 0 {
			return have[i].SizeMiB
		}
		return otherwise
	}
	all := o.Disks
	o.CPUs, o.MemoryMiB, o.DiskMiB, o.Disks = d.CPUs, d.MemoryMiB, size(api.RootDisk, o.DiskMiB), nil
	for _, k := range all {
		if slices.Contains(d.Disks, hyper.Target(o.Profile, k.Slot)) {
			k.Gone, k.SizeMiB = false, size(k.Name, k.SizeMiB)
			o.Disks = append(o.Disks, k)
		}
	}
	o.Disks = asOwn(o.Disks) // a volume is there under the VM's name, and is not taken anew
	return o, nil
}

// keepMemory records the memory of a VM that was saved and has no domain any more. Memory that is not whole is lost: the domain has ended
// in another way while it was being saved.
func (a *Agent) keepMemory(ctx context.Context, v *vm) (wire.VMState, bool, error) {
	path, err := a.o.Volumes.Memory(ctx, v.uid)
	if err == nil {
		err = a.o.Hypervisor.Saved(ctx, v.uid, path)
	}
	if errors.Is(err, volume.ErrNotFound) || errors.Is(err, hyper.ErrNotFound) || errors.Is(err, hyper.ErrTorn) {
		a.log.Error("the memory of a VM is not whole: it ended while it was being saved", "uid", v.uid, "err", err)
		return "", true, a.forgetMemory(ctx, v)
	}
	if err != nil {
		return wire.CopyPaused, false, err
	}
	seal, err := a.o.Volumes.KeepMemory(ctx, v.uid)
	if err != nil {
		return wire.CopyPaused, false, fmt.Errorf("keep its memory: %w", err)
	}
	a.o.Failpoint("hibernate.kept")
	if _, err := a.remember(ctx, v.uid, func(r *record) error {
		r.Saved = &saved{Order: r.Saved.Order, Seal: seal} // the one before is shared
		return nil
	}); err != nil {
		return wire.CopyPaused, false, err
	}
	a.o.Failpoint("hibernate.recorded")
	return wire.CopyHibernated, true, nil
}

// restore makes a paused domain of a VM's saved memory. When that cannot be, the VM is not booted instead.
func (a *Agent) restore(ctx context.Context, v *vm, r record) (wire.VMState, bool, error) {
	if err := a.restoreDomain(ctx, v, r); err != nil {
		return wire.CopyFailed, false, fmt.Errorf("resume from its saved memory: %w; to boot it without: wcc vm start --discard-memory %s", err, r.Order.Name)
	}
	a.o.Failpoint("resume.restored")
	return a.goOn(ctx, v)
}

func (a *Agent) restoreDomain(ctx context.Context, v *vm, r record) error {
	seal, err := a.o.Volumes.MemorySeal(ctx, v.uid)
	if errors.Is(err, volume.ErrNotFound) {
		return fmt.Errorf("a file of it is gone: %w", err)
	}
	if err != nil {
		return err
	}
	if seal != r.Saved.Seal {
		return errors.New("its disks, or the file with its memory, have been changed since it was saved")
	}
	path, err := a.o.Volumes.Memory(ctx, v.uid)
	if err != nil {
		return err
	}
	o := r.Saved.Order
	o.Name, o.Epoch = r.Order.Name, r.Order.Epoch
	spec, err := a.ready(ctx, o)
	if err != nil {
		return err
	}
	if err := a.o.Hypervisor.Restore(ctx, spec, path); err != nil && !errors.Is(err, hyper.ErrExists) {
		return err
	}
	return nil
}

// goOn lets a VM run whose memory is in a paused domain now. From the first moment on the file would be of the past.
func (a *Agent) goOn(ctx context.Context, v *vm) (wire.VMState, bool, error) {
	if err := a.forgetMemory(ctx, v); err != nil {
		return wire.CopyPaused, false, err
	}
	a.o.Failpoint("resume.forgotten")
	return wire.CopyRunning, true, a.o.Hypervisor.Resume(ctx, v.uid)
}

// forgetMemory gives up a VM's saved memory: the record first, so that no start goes through a file that is half gone.
func (a *Agent) forgetMemory(ctx context.Context, v *vm) error {
	if _, err := a.remember(ctx, v.uid, func(r *record) error { r.Saved = nil; return nil }); err != nil {
		return err
	}
	a.o.Failpoint("memory.forgotten")
	return a.o.Volumes.RemoveMemory(ctx, v.uid)
}

// maxSavedMore is what a saved memory may have beside the guest's memory, in bytes: its devices, a display's among them.
const maxSavedMore = 64 << 20

// savedMemory is a VM's saved memory as an Export.
type savedMemory struct {
	head *memoryHead // nil: there is none
	file io.ReadCloser
}

// openMemory opens a VM's saved memory, to be sent elsewhere. saved nil: the VM has none.
func (a *Agent) openMemory(ctx context.Context, vm string, s *saved) (m *savedMemory, err error) {
	if s == nil {
		return &savedMemory{}, nil
	}
	if seal, err := a.o.Volumes.MemorySeal(ctx, vm); err != nil || seal != s.Seal {
		return nil, api.Errorf(api.CodeConflict, "the saved memory of VM %s cannot be used (%v): its disks, or the file, have been changed since it was saved", vm, err)
	}
	file, size, err := a.o.Volumes.OpenMemory(ctx, vm)
	if err != nil {
		return nil, err
	}
	offer, from, err := a.o.Hypervisor.ReadSaved(ctx, vm, file)
	if err != nil {
		file.Close()
		return nil, err
	}
	return &savedMemory{head: &memoryHead{Offer: offer, Bytes: size - from}, file: file}, nil
}

// Size is Export's.
func (m *savedMemory) Size() int64 { return m.head.Bytes }

// Send is Export's.
func (m *savedMemory) Send(ctx context.Context, w io.Writer, sent func(int64)) (string, error) {
	sum := sha256.New()
	for left := m.head.Bytes; left > 0; {
		if err := ctx.Err(); err != nil {
			return "", context.Cause(ctx)
		}
		n, err := io.CopyN(io.MultiWriter(w, sum), m.file, min(left, 1<<20))
		if err != nil {
			return "", fmt.Errorf("send the memory: %w", err)
		}
		sent(n)
		left -= n
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}

// Close is Export's.
func (m *savedMemory) Close() error {
	if m.file == nil {
		return nil
	}
	return m.file.Close()
}

// judgeMemory looks at what a source says of the memory that it sends; nil: it sends none.
func judgeMemory(order wire.VMOrder, m *memoryHead) error {
	switch {
	case m == nil && order.Run != wire.RunHibernated:
		return nil
	case m == nil:
		return api.Invalidf("memory", "the VM is hibernated, and the source sends none")
	case order.Run != wire.RunHibernated:
		return api.Invalidf("memory", "the source sends some, and the VM is to be %s", order.Run)
	case m.Bytes < 1 || m.Bytes > int64(order.MemoryMiB)<<20+maxSavedMore:
		return api.Invalidf("memory.bytes", "%d are not those of a VM with %d MiB", m.Bytes, order.MemoryMiB)
	}
	return nil
}

// fillMemory writes the memory of a hibernated VM that comes, behind a head of this host's own.
func (a *Agent) fillMemory(ctx context.Context, order wire.VMOrder, m *memoryHead, in io.Reader) (digest string, err error) {
	spec, err := a.ready(ctx, order)
	if err != nil {
		return "", err
	}
	head, err := a.o.Hypervisor.SavedHead(ctx, spec, m.Offer)
	if err != nil {
		return "", err
	}
	if digest, err = a.o.Volumes.FillMemory(ctx, order.VM, head, m.Bytes, in); err != nil {
		return "", err
	}
	path, err := a.o.Volumes.Memory(ctx, order.VM)
	if err == nil {
		err = a.o.Hypervisor.Saved(ctx, order.VM, path)
	}
	return digest, err
}
