// Package usage keeps what each VM of a host has used: half an hour finely and a day coarsely, in memory.
//
// Invariants:
//   - what is kept of a VM is bounded, and gone when the VM is gone from the host;
//   - counters that begin anew (a VM that was started again) make a gap, and no wrong sample.
package usage

import (
	"slices"
	"sync"
	"time"

	"widecloud/api"
	"widecloud/internal/hyper"
)

const (
	// Every is how often to take what is used.
	Every = 10 * time.Second

	fine, fineKept     = Every, 180           // half an hour
	coarse, coarseKept = 5 * time.Minute, 288 // a day
)

// History is what the VMs of a host have used. The zero History is empty. It is safe for concurrent use.
type History struct {
	mu  sync.Mutex
	vms map[string]*[2]series // fine and coarse
	now []hyper.Usage         // as taken last
}

// series is one resolution of a VM's history.
type series struct {
	from    hyper.Usage // where the interval began that is not over
	at      time.Time   // when
	samples []api.Sample
}

// Take enters what the running VMs have used up to now, and forgets the VMs that are not among them.
func (h *History) Take(now time.Time, all []hyper.Usage) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.now = slices.Clone(all)
	was := h.vms
	h.vms = make(map[string]*[2]series, len(all))
	for _, u := range all {
		v := was[u.VM]
		if v == nil {
			v = &[2]series{}
		}
		v[0].take(now, u, fine, fineKept)
		v[1].take(now, u, coarse, coarseKept)
		h.vms[u.VM] = v
	}
}

// Of is what is known of a VM; ok is false when nothing is.
func (h *History) Of(vm string) (u api.Usage, ok bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	v := h.vms[vm]
	if v == nil {
		return u, false
	}
	return api.Usage{Recent: append([]api.Sample{}, v[0].samples...), Day: append([]api.Sample{}, v[1].samples...)}, true
}

// Now is what the VMs that run have used since they run on this host, as it was taken last.
func (h *History) Now() []hyper.Usage {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.now)
}

// take ends the interval that is open if it has lasted long enough: a clock that ticks a little early counts as in time.
func (s *series) take(now time.Time, u hyper.Usage, step time.Duration, kept int) {
	took := now.Sub(s.at)
	begun := !s.at.IsZero() && u.CPU >= s.from.CPU && took > 0
	if begun && took < step-step/4 {
		return
	}
	if begun && took < 2*step {
		if len(s.samples) == kept {
			s.samples = append(s.samples[:0], s.samples[1:]...)
		}
		s.samples = append(s.samples, sample(now, took, s.from, u))
	}
	s.from, s.at = u, now
}

// sample is what was used between two readings of the counters.
func sample(at time.Time, took time.Duration, from, to hyper.Usage) api.Sample {
	rate := func(from, to int64) float64 { return max(0, float64(to-from)/took.Seconds()) }
	return api.Sample{
		At: at, CPU: (to.CPU - from.CPU).Seconds() / took.Seconds(), Memory: to.Memory,
		DiskRead: rate(from.DiskRead, to.DiskRead), DiskWritten: rate(from.DiskWritten, to.DiskWritten),
		Reads: rate(from.Reads, to.Reads), Writes: rate(from.Writes, to.Writes),
		Received: rate(from.Received, to.Received), Sent: rate(from.Sent, to.Sent),
	}
}
