package fake

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"

	"widecloud/internal/hyper"
)

// saved is a file that Save has written. Guarded by Host.mu.
type saved struct {
	vm    string
	guest guest
	disks map[string]uint64 // what they held
	torn  bool

	profile int
	targets []string // of the disks, sorted
}

// Save writes a domain to a file and ends it. A fault that is no call's end leaves what a real one would: Tear makes half of a file.
func (d *driver) Save(ctx context.Context, vm, path string) error {
	return d.call(ctx, "Save", vm, func() error {
		m, err := d.find(vm)
		if err != nil {
			return err
		}
		if d.h.free >= 0 && d.h.free < int64(d.h.o.GuestMemory) {
			return fmt.Errorf("%w: %s", hyper.ErrNoSpace, path)
		}
		if m.state == hyper.Incoming || m.out != nil && m.out.cancel != nil {
			return fmt.Errorf("%w: %s", hyper.ErrState, m.state)
		}
		d.h.halt(m, hyper.Paused)
		f := &saved{vm: vm, guest: m.guest, profile: m.spec.Profile, targets: m.writable(), disks: map[string]uint64{}}
		for _, k := range m.spec.Disks {
			if !k.ReadOnly {
				f.disks[k.Path] = d.h.disks[k.Path]
			}
		}
		d.h.saved[path] = f
		d.h.remove(vm, hyper.ErrNotFound)
		return nil
	})
}

func (d *driver) Saved(ctx context.Context, vm, path string) error {
	return d.call(ctx, "Saved", vm, func() error { return d.h.whole(vm, path) })
}

func (h *Host) whole(vm, path string) error {
	switch f := h.saved[path]; {
	case f == nil:
		return fmt.Errorf("%w: %s", hyper.ErrNotFound, path)
	case f.torn || f.vm != vm:
		return fmt.Errorf("%w: %s", hyper.ErrTorn, path)
	}
	return nil
}

// Restore makes a paused domain of a file. That the disks are not those of then is a breach of law: the guest would write over what it does
// not know of.
func (d *driver) Restore(ctx context.Context, s hyper.Spec, path string) error {
	return d.call(ctx, "Restore", s.VM, func() error {
		if err := s.Validate(); err != nil {
			return err
		}
		if d.h.domains[s.VM] != nil {
			return hyper.ErrExists
		}
		if err := d.h.whole(s.VM, path); err != nil {
			return err
		}
		if d.h.saved[path].profile != s.Profile {
			return fmt.Errorf("the saved domain has hardware profile %d, not %d", d.h.saved[path].profile, s.Profile)
		}
		f, now := d.h.saved[path], map[string]uint64{}
		for _, k := range s.Disks {
			if !k.ReadOnly {
				now[k.Path] = d.h.disks[k.Path]
			}
		}
		if !maps.Equal(now, f.disks) {
			d.h.o.World.breach("vm %s is restored on %s with disks %v, and was saved with %v", s.VM, d.h.o.Name, now, f.disks)
		}
		d.h.domains[s.VM] = &domain{spec: s, state: hyper.Paused, guest: f.guest}
		return nil
	})
}

// The files of saved domains are kept beside the hypervisor: what follows is what package volume is on a real host.

func memoryFile(vm string) string { return "/memory/" + vm + ".memory" }
func memoryPart(vm string) string { return "/memory/" + vm + ".part" }

// NewMemory is where a VM's memory is to be written; what was there is gone.
func (h *Host) NewMemory(vm string) string {
	h.RemoveMemory(vm)
	return memoryPart(vm)
}

// Memory is where a VM's saved memory is, whole or not; "": nowhere.
func (h *Host) Memory(vm string) string {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, path := range []string{memoryFile(vm), memoryPart(vm)} {
		if h.saved[path] != nil {
			return path
		}
	}
	return ""
}

// KeepMemory gives a VM's memory its name.
func (h *Host) KeepMemory(vm string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if f := h.saved[memoryPart(vm)]; f != nil {
		h.saved[memoryFile(vm)] = f
		delete(h.saved, memoryPart(vm))
	}
}

// MemorySeal tells the memory and the disks at some paths by what they hold; "": there is no memory.
func (h *Host) MemorySeal(vm string, disks ...string) string {
	h.mu.Lock()
	defer h.mu.Unlock()
	f := h.saved[memoryFile(vm)]
	if f == nil {
		return ""
	}
	seal := fmt.Sprintf("%s@%d", f.guest.boot, f.guest.counter)
	for _, path := range disks {
		seal += fmt.Sprintf(" %s:%d", path, h.disks[path])
	}
	return seal
}

// RemoveMemory removes a VM's saved memory.
func (h *Host) RemoveMemory(vm string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.saved, memoryFile(vm))
	delete(h.saved, memoryPart(vm))
}

// Tear makes a VM's saved memory half of a file, as a crash of the host in the middle of a Save leaves it.
func (h *Host) Tear(vm string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.saved, memoryFile(vm))
	h.saved[memoryPart(vm)] = &saved{vm: vm, torn: true}
}

// savedPaper is the head of a saved domain's file: one line. What follows are as many bytes as a migration sends of a guest's memory, the
// first of which are a line with the guest.
type savedPaper struct {
	VM      string
	Profile int
	Disks   []string // targets
}

type savedGuest struct {
	Boot    string
	Counter uint64
	Resets  int
}

// ReadMemory is the content of a VM's saved memory; nil: there is none.
func (h *Host) ReadMemory(vm string) []byte {
	h.mu.Lock()
	defer h.mu.Unlock()
	f := h.saved[memoryFile(vm)]
	if f == nil {
		return nil
	}
	guest := append(paper(savedGuest{f.guest.boot, f.guest.counter, f.guest.resets}), '\n')
	if pad := h.o.GuestMemory - len(guest); pad > 0 {
		guest = append(guest, make([]byte, pad)...)
	}
	return append(append(paper(savedPaper{VM: vm, Profile: f.profile, Disks: f.targets}), '\n'), guest...)
}

// WriteMemory writes a VM's saved memory, which is whole, to where NewMemory says. The disks at some paths are those that it belongs to.
func (h *Host) WriteMemory(vm string, content []byte, disks ...string) error {
	head, rest, _ := bytes.Cut(content, []byte{'\n'})
	line, _, _ := bytes.Cut(rest, []byte{'\n'})
	var p savedPaper
	var g savedGuest
	if err := json.Unmarshal(head, &p); err != nil {
		return err
	}
	if err := json.Unmarshal(line, &g); err != nil {
		return err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	f := &saved{vm: p.VM, guest: guest{boot: g.Boot, counter: g.Counter, resets: g.Resets}, disks: map[string]uint64{}, profile: p.Profile, targets: p.Disks}
	for _, path := range disks {
		f.disks[path] = h.disks[path]
	}
	h.saved[memoryPart(vm)] = f
	return nil
}

func (d *driver) ReadSaved(ctx context.Context, vm string, file io.Reader) (offer []byte, from int64, err error) {
	err = d.call(ctx, "ReadSaved", vm, func() error {
		var line []byte
		for b := make([]byte, 1); len(line) == 0 || line[len(line)-1] != '\n'; line = append(line, b[0]) {
			if _, err := io.ReadFull(file, b); err != nil {
				return fmt.Errorf("%w: %w", hyper.ErrTorn, err)
			}
		}
		offer, from = line, int64(len(line))
		return nil
	})
	return offer, from, err
}

func (d *driver) SavedHead(ctx context.Context, s hyper.Spec, offer []byte) ([]byte, error) {
	err := d.call(ctx, "SavedHead", s.VM, func() error {
		var p savedPaper
		if err := json.Unmarshal(offer, &p); err != nil {
			return fmt.Errorf("read offer: %w", err)
		}
		var targets []string
		for _, k := range s.Disks {
			if !k.ReadOnly {
				targets = append(targets, k.Target)
			}
		}
		slices.Sort(targets)
		if p.VM != s.VM || p.Profile != s.Profile || !slices.Equal(p.Disks, targets) {
			return fmt.Errorf("offer: it is of %+v, and the VM is %s of hardware profile %d with %v", p, s.VM, s.Profile, targets)
		}
		return d.canRun(s.CPUModel)
	})
	return offer, err
}
