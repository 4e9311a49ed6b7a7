package network

import (
	"context"
	"fmt"
)

// watch has plugs let in as soon as they appear, also between two calls of Apply.
type watch struct {
	cancel context.CancelFunc
	ended  chan struct{}
}

// watchPorts watches where VMs plug in, and nowhere else.
func (d *Driver) watchPorts(w Want) error {
	if d.watch != nil {
		select {
		case <-d.watch.ended: // the kernel's notifications have ended
			d.watch = nil
		default:
		}
	}
	if needed := w.Role.Hypervisor && len(w.Networks) > 0; needed == (d.watch != nil) {
		return nil
	} else if !needed {
		d.watch.end()
		d.watch = nil
		return nil
	}
	ctx, cancel := context.WithCancel(context.Background())
	changes, err := d.ns.WatchLinks(ctx)
	if err != nil {
		cancel()
		return fmt.Errorf("watch for plugs: %w", err)
	}
	d.watch = &watch{cancel: cancel, ended: make(chan struct{})}
	go func(ended chan<- struct{}) {
		defer close(ended)
		for range changes {
			if err := d.filter.refresh(ctx); err != nil && ctx.Err() == nil {
				d.o.Logger.Error("let plugs in", "err", err) // Apply tries again
			}
		}
	}(d.watch.ended)
	return nil
}

// end stops watching and waits for it. There may be none.
func (w *watch) end() {
	if w != nil {
		w.cancel()
		<-w.ended
	}
}
