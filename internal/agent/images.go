package agent

import (
	"context"
	"maps"
	"time"

	"widecloud/internal/wire"
)

// imageSweep is what Run remembers of base images that no order names.
type imageSweep struct {
	last   time.Time
	unused map[string]time.Time // since when, by digest
}

// lookEvery is how often it is looked for base images that nothing needs, at least.
const lookEvery = 10 * time.Minute

// sweepImages removes base images that no order has named for a while. One that was used just now is kept: the next VM is
// likely to be made from it.
func (a *Agent) sweepImages(ctx context.Context, s *imageSweep) {
	now := time.Now()
	if a.o.Volumes == nil || now.Sub(s.last) < min(a.o.ImageKept/10, lookEvery) {
		return
	}
	s.last = now
	seen := map[string]bool{}
	err := a.o.Volumes.Sweep(ctx, func(digest string) bool {
		if a.names(digest) {
			return true
		}
		seen[digest] = true
		if s.unused[digest].IsZero() {
			s.unused[digest] = now
		}
		return now.Sub(s.unused[digest]) < a.o.ImageKept
	})
	if err != nil && ctx.Err() == nil {
		a.log.Error("remove base images that nothing needs", "err", err)
	}
	maps.DeleteFunc(s.unused, func(digest string, _ time.Time) bool { return !seen[digest] })
}

// names tells whether an order, or a VM that is here, is of a base image.
func (a *Agent) names(digest string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, o := range a.state.VMs {
		if o.Image == digest && o.Run != wire.RunGone {
			return true
		}
	}
	for _, v := range a.vms {
		if o := v.record.Order; o.Image == digest && o.Run != wire.RunGone {
			return true
		}
	}
	return false
}
