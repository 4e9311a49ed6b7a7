package fake

import (
	"fmt"
	"slices"
	"sync"
)

// Change is a copy of a VM that began or ceased to run.
type Change struct {
	VM      string
	Host    string
	Epoch   uint64
	Boot    string // names the boot of the guest; a migration keeps it, a start makes a new one
	Counter uint64 // of the guest, at that moment
	Runs    bool
}

// World sees every copy that runs on the hosts that share it, and keeps the breaches of law that it saw:
// two running copies of a VM; a run of an epoch lower than one that ran before; a stale copy of a boot that ran on elsewhere.
type World struct {
	mu       sync.Mutex
	vms      map[string]*history
	breaches []string
	observe  []func(Change)
	boots    uint64
}

type history struct {
	running map[string]uint64 // host -> epoch
	epoch   uint64            // highest that ran
	boot    string
	counter uint64 // highest of that boot
	most    int    // running at once
}

// NewWorld makes an empty one.
func NewWorld() *World { return &World{vms: map[string]*history{}} }

// Observe calls f at every change from now on. f must not call a Host or the World.
func (w *World) Observe(f func(Change)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.observe = append(w.observe, f)
}

// Running lists the hosts on which copies of the VM run now, sorted.
func (w *World) Running(vm string) []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var hosts []string
	if h := w.vms[vm]; h != nil {
		for host := range h.running {
			hosts = append(hosts, host)
		}
	}
	slices.Sort(hosts)
	return hosts
}

// Most is the largest number of copies of any VM that ever ran at once.
func (w *World) Most() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	most := 0
	for _, h := range w.vms {
		most = max(most, h.most)
	}
	return most
}

// Breaches lists what broke a law, in the order in which it was seen.
func (w *World) Breaches() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.breaches)
}

// Forget drops what is known of a VM, for a test that deletes it and uses its UID again.
func (w *World) Forget(vm string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.vms, vm)
}

func (w *World) newBoot(vm, host string) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.boots++
	return fmt.Sprintf("%s@%s#%d", vm, host, w.boots)
}

func (w *World) breach(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.breaches = append(w.breaches, fmt.Sprintf(format, args...))
}

func (w *World) report(c Change) {
	w.mu.Lock()
	defer w.mu.Unlock()
	h := w.vms[c.VM]
	if h == nil {
		h = &history{running: map[string]uint64{}}
		w.vms[c.VM] = h
	}
	if c.Runs {
		h.running[c.Host] = c.Epoch
		h.most = max(h.most, len(h.running))
		if len(h.running) > 1 {
			hosts := make([]string, 0, len(h.running))
			for host := range h.running {
				hosts = append(hosts, host)
			}
			slices.Sort(hosts)
			w.breaches = append(w.breaches, fmt.Sprintf("vm %s runs at once on %v", c.VM, hosts))
		}
		if c.Epoch < h.epoch {
			w.breaches = append(w.breaches, fmt.Sprintf("vm %s runs on %s at epoch %d after epoch %d ran", c.VM, c.Host, c.Epoch, h.epoch))
		}
		if c.Boot == h.boot && c.Counter < h.counter {
			w.breaches = append(w.breaches, fmt.Sprintf("vm %s runs on %s from %d, but had come to %d", c.VM, c.Host, c.Counter, h.counter))
		}
	} else {
		delete(h.running, c.Host)
	}
	h.epoch = max(h.epoch, c.Epoch)
	if c.Boot != h.boot {
		h.boot, h.counter = c.Boot, 0
	}
	h.counter = max(h.counter, c.Counter)
	for _, f := range w.observe {
		f(c)
	}
}
