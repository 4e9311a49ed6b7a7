package libvirt

import (
	"context"
	"strings"
	"sync"
	"time"

	golibvirt "github.com/digitalocean/go-libvirt"

	"widecloud/internal/hyper"
)

// The watchdog asks the event link for a sign of life that often; a libvirtd that gives none within the driver's patience is
// left and dialled anew. While it cannot be reached, it is tried again after retryEvents.
const (
	pingEvents  = 10 * time.Second
	retryEvents = time.Second
)

// Watch has a link of its own: go-libvirt has a history of deadlocks when events and calls share one.
func (d *Driver) Watch(ctx context.Context) (<-chan hyper.Event, error) {
	if d.over.Err() != nil {
		return nil, errClosed
	}
	out := make(chan hyper.Event)
	ctx, cancel := context.WithCancel(ctx)
	context.AfterFunc(d.over, cancel)
	first := make(chan struct{})
	go func() {
		defer cancel()
		defer close(out)
		ready := sync.OnceFunc(func() { close(first) })
		for lost := false; ctx.Err() == nil; lost = true {
			err := d.watchOnce(ctx, out, lost, ready)
			ready()
			if ctx.Err() != nil {
				return
			}
			d.log.Warn("lost the events of libvirtd", "err", err)
			select {
			case <-ctx.Done():
			case <-time.After(retryEvents):
			}
		}
	}()
	// What happens after Watch returned is told: so the subscription is waited for, unless libvirtd is not there.
	select {
	case <-first:
	case <-ctx.Done():
	}
	return out, nil
}

func (d *Driver) watchOnce(ctx context.Context, out chan<- hyper.Event, lost bool, ready func()) error {
	short, cancel := context.WithTimeout(ctx, d.o.Patience)
	defer cancel()
	k, err := d.open(short)
	if err != nil {
		return err
	}
	defer k.close()
	evctx, stop := context.WithCancel(ctx)
	var events <-chan golibvirt.DomainEventLifecycleMsg
	err = k.do(short, func(l *golibvirt.Libvirt) (err error) {
		events, err = l.LifecycleEvents(evctx)
		return err
	})
	defer func() {
		// go-libvirt's pump may be blocked on its channel; it ends when that is read to the end.
		stop()
		k.close()
		if events != nil {
			go func() {
				for range events {
				}
			}()
		}
	}()
	if err != nil {
		return err
	}
	ready()
	send := func(e hyper.Event) bool {
		select {
		case out <- e:
			return true
		case <-ctx.Done():
			return false
		}
	}
	if lost && !send(hyper.Event{Lost: true}) {
		return ctx.Err()
	}
	seen := map[string]hyper.State{} // libvirt says twice that a domain runs: started, and resumed
	ping := time.NewTicker(pingEvents)
	defer ping.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case e, open := <-events:
			if !open {
				return hyper.ErrUnreachable
			}
			s := stateOf(e)
			if s == "" || !strings.HasPrefix(e.Dom.Name, namePrefix) {
				continue
			}
			vm := uid(e.Dom.UUID)
			if seen[vm] == s {
				continue
			}
			seen[vm] = s
			if s == hyper.Stopped {
				delete(seen, vm)
			}
			if !send(hyper.Event{VM: vm, State: s}) {
				return ctx.Err()
			}
		case <-ping.C:
			short, cancel := context.WithTimeout(ctx, d.o.Patience)
			err := k.do(short, func(l *golibvirt.Libvirt) error {
				_, err := l.ConnectGetLibVersion()
				return err
			})
			cancel()
			if err != nil {
				return err
			}
		}
	}
}

func stateOf(e golibvirt.DomainEventLifecycleMsg) hyper.State {
	switch golibvirt.DomainEventType(e.Event) {
	case golibvirt.DomainEventStarted:
		if golibvirt.DomainEventStartedDetailType(e.Detail) == golibvirt.DomainEventStartedMigrated {
			return hyper.Incoming
		}
		return hyper.Running
	case golibvirt.DomainEventSuspended:
		if golibvirt.DomainEventSuspendedDetailType(e.Detail) == golibvirt.DomainEventSuspendedPaused {
			return hyper.Suspended
		}
		return hyper.Paused
	case golibvirt.DomainEventResumed:
		return hyper.Running
	case golibvirt.DomainEventStopped, golibvirt.DomainEventCrashed:
		return hyper.Stopped
	}
	return ""
}
