package machine

import (
	"context"
	"runtime"

	"golang.org/x/sync/semaphore"
)

// What it takes to start something, in tenths of a core, while it starts. Beyond that, starting more at a time makes each
// slower, and what waits for an answer gives up.
const (
	startNode    = 2
	startRouting = 5
	startLibvirt = 10
	startSystem  = 10
)

// cores are those of this machine, in tenths, for what a lab starts.
type cores struct {
	free *semaphore.Weighted
	all  int64
}

func newCores() *cores {
	// Starting is waiting for the kernel half of the time.
	all := int64(20 * runtime.NumCPU())
	return &cores{semaphore.NewWeighted(all), all}
}

// start runs f when there is room for it.
func (c *cores) start(tenths int64, f func() error) error {
	tenths = min(tenths, c.all)
	if err := c.free.Acquire(context.Background(), tenths); err != nil {
		return err
	}
	defer c.free.Release(tenths)
	return f()
}
