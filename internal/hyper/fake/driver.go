package fake

import (
	"context"
	"errors"
	"fmt"
	"image"
	"io"
	"net"
	"slices"
	"sync"
	"time"

	"widecloud/api"
	"widecloud/internal/hyper"
	"widecloud/internal/rfb"
)

// driver is one agent's connection to a Host.
type driver struct {
	h        *Host
	closed   bool
	done     chan struct{}
	watchers map[*watcher]struct{}
	consoles map[*console]struct{}
}

var _ hyper.Driver = (*driver)(nil)

var errClosed = errors.New("driver is closed")

// call runs work with the host's lock held, with the faults of the method around it.
func (d *driver) call(ctx context.Context, method, vm string, work func() error) error {
	if err := d.around(ctx, method, vm, func() error {
		d.h.mu.Lock()
		defer d.h.mu.Unlock()
		if err := d.up(); err != nil {
			return err
		}
		return work()
	}); err != nil {
		return fmt.Errorf("%s %s: %w", method, vm, err)
	}
	return nil
}

func (d *driver) around(ctx context.Context, method, vm string, work func() error) error {
	d.h.mu.Lock()
	f := d.h.strike(method, vm)
	d.h.mu.Unlock()
	if f == nil {
		if err := ctx.Err(); err != nil {
			return err
		}
		return work()
	}
	if f.Hang {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-d.done:
			return errors.Join(hyper.ErrUnreachable, errClosed)
		}
	}
	if err := sleep(ctx, f.Delay); err != nil {
		return err
	}
	if f.Err != nil && !f.After {
		return f.Err
	}
	if err := work(); err != nil {
		return err
	}
	return f.Err
}

func (d *driver) up() error {
	switch {
	case d.closed:
		return fmt.Errorf("%w: %w", hyper.ErrUnreachable, errClosed)
	case !d.h.power || !d.h.daemon:
		return hyper.ErrUnreachable
	}
	return nil
}

func (d *driver) Capabilities(ctx context.Context) (hyper.Capabilities, error) {
	var c hyper.Capabilities
	err := d.call(ctx, "Capabilities", "", func() error {
		o := d.h.o
		c = hyper.Capabilities{
			Hypervisor: "fake", Arch: "x86_64", Accel: o.Accel, AccelWhy: "a simulated host", CPUModel: o.CPUModel, Profile: o.Profile,
			CPUUsable: append([]string(nil), o.CPUUsable...), CPUs: o.CPUs, MemoryMiB: o.MemoryMiB,
		}
		return nil
	})
	return c, err
}

func (d *driver) Domains(ctx context.Context) ([]hyper.Domain, error) {
	var list []hyper.Domain
	err := d.call(ctx, "Domains", "", func() error {
		for _, m := range d.h.domains {
			list = append(list, hyper.Domain{
				VM: m.spec.VM, Name: m.spec.Name, Epoch: m.spec.Epoch, State: m.state, MemoryMiB: m.spec.MemoryMiB,
				CPUs: m.spec.CPUs, Migrating: m.out != nil && m.out.cancel != nil, Disks: m.writable(),
			})
		}
		return nil
	})
	return list, err
}

func (d *driver) Start(ctx context.Context, s hyper.Spec) error {
	return d.call(ctx, "Start", s.VM, func() error {
		if err := s.Validate(); err != nil {
			return err
		}
		if d.h.domains[s.VM] != nil {
			return hyper.ErrExists
		}
		if err := d.canRun(s.CPUModel); err != nil {
			return err
		}
		m := &domain{spec: s, state: hyper.Stopped, guest: guest{boot: d.h.o.World.newBoot(s.VM, d.h.o.Name)}}
		for _, k := range s.Disks {
			if !k.ReadOnly {
				m.guest.counter = max(m.guest.counter, d.h.disks[k.Path])
			}
		}
		d.h.domains[s.VM] = m
		d.h.run(m)
		return nil
	})
}

func (d *driver) canRun(model string) error {
	if model != "" && !slices.Contains(d.h.o.CPUUsable, model) {
		return fmt.Errorf("spec.cpuModel: %s cannot run here", model)
	}
	return nil
}

// find is the domain of a VM. Called with the lock held.
func (d *driver) find(vm string) (*domain, error) {
	if m := d.h.domains[vm]; m != nil {
		return m, nil
	}
	return nil, hyper.ErrNotFound
}

func (d *driver) running(vm string) (*domain, error) {
	m, err := d.find(vm)
	if err == nil && m.state != hyper.Running {
		err = fmt.Errorf("%w: %s", hyper.ErrState, m.state)
	}
	return m, err
}

func (d *driver) Shutdown(ctx context.Context, vm string) error {
	return d.call(ctx, "Shutdown", vm, func() error {
		m, err := d.running(vm)
		if err != nil || d.h.deaf[vm] || m.stop != nil {
			return err
		}
		h := d.h
		m.stop = time.AfterFunc(h.o.StopTime, func() {
			h.mu.Lock()
			defer h.mu.Unlock()
			if h.domains[vm] == m && m.state == hyper.Running {
				h.remove(vm, hyper.ErrNotFound)
			}
		})
		return nil
	})
}

func (d *driver) Reboot(ctx context.Context, vm string, hard bool) error {
	return d.call(ctx, "Reboot", vm, func() error {
		m, err := d.running(vm)
		if err != nil || d.h.deaf[vm] && !hard {
			return err
		}
		m.guest.resets++
		d.h.unplug(m, m.leaving...)
		m.leaving = nil
		return nil
	})
}

func (d *driver) Destroy(ctx context.Context, vm string) error {
	return d.call(ctx, "Destroy", vm, func() error {
		d.h.remove(vm, hyper.ErrNotFound)
		return nil
	})
}

func (d *driver) Suspend(ctx context.Context, vm string) error {
	return d.call(ctx, "Suspend", vm, func() error {
		m, err := d.find(vm)
		switch {
		case err != nil || m.state == hyper.Suspended:
			return err
		case m.state != hyper.Running || m.out != nil && m.out.cancel != nil:
			return fmt.Errorf("%w: %s", hyper.ErrState, m.state)
		}
		d.h.halt(m, hyper.Suspended)
		d.h.tell(vm, hyper.Suspended)
		return nil
	})
}

func (d *driver) Resume(ctx context.Context, vm string) error {
	return d.call(ctx, "Resume", vm, func() error { return d.resume(vm) })
}

func (d *driver) resume(vm string) error {
	m, err := d.find(vm)
	if err != nil {
		return err
	}
	if m.state == hyper.Incoming || m.out != nil && m.out.cancel != nil {
		return fmt.Errorf("%w: migrates", hyper.ErrState)
	}
	m.out = nil
	d.h.run(m)
	return nil
}

func (d *driver) AttachDisk(ctx context.Context, vm string, k hyper.Disk) error {
	return d.call(ctx, "AttachDisk", vm, func() error {
		m, err := d.pluggable(vm)
		if err != nil {
			return err
		}
		if err := hyper.ValidateDisk(k); err != nil {
			return err
		}
		if !slices.Contains(m.writable(), k.Target) {
			m.spec.Disks = append(slices.Clone(m.spec.Disks), k)
		}
		return nil
	})
}

// DetachDisk: a guest that is deaf does not let the disk go until it boots anew, as those of real machines.
func (d *driver) DetachDisk(ctx context.Context, vm, target string) error {
	return d.call(ctx, "DetachDisk", vm, func() error {
		m, err := d.pluggable(vm)
		switch {
		case err != nil:
			return err
		case d.h.deaf[vm]:
			m.leaving = append(m.leaving, target)
		default:
			d.h.unplug(m, target)
		}
		return nil
	})
}

// pluggable is a running domain into which disks can be plugged.
func (d *driver) pluggable(vm string) (*domain, error) {
	m, err := d.running(vm)
	if err == nil && m.spec.Profile < 2 {
		err = fmt.Errorf("%w: hardware profile %d", hyper.ErrNoPlug, m.spec.Profile)
	}
	return m, err
}

func (d *driver) GrowDisk(ctx context.Context, vm, target string, bytes int64) error {
	return d.call(ctx, "GrowDisk", vm, func() error {
		m, err := d.running(vm)
		if err != nil {
			return err
		}
		i := slices.IndexFunc(m.spec.Disks, func(k hyper.Disk) bool { return k.Target == target && !k.ReadOnly })
		if i < 0 {
			return fmt.Errorf("the domain has no disk %s", target)
		}
		path := m.spec.Disks[i].Path
		d.h.sizes[path] = max(d.h.sizes[path], bytes)
		return nil
	})
}

// Close is idempotent.
func (d *driver) Close() error {
	d.h.mu.Lock()
	defer d.h.mu.Unlock()
	if d.closed {
		return nil
	}
	d.closed = true
	close(d.done)
	delete(d.h.conns, d)
	for vm, m := range d.h.domains {
		if m.in != nil && m.in.owner == d {
			d.h.remove(vm, hyper.ErrUnreachable)
			continue
		}
		if m.out != nil && m.out.owner == d {
			if m.out.cancel != nil {
				m.out.cancel(hyper.ErrUnreachable)
			} else if m.state == hyper.Running {
				m.out = nil // begun, not performed: forgotten
			}
		}
	}
	for w := range d.watchers {
		w.end()
	}
	for c := range d.consoles {
		c.end(io.EOF)
	}
	return nil
}

func (d *driver) Watch(ctx context.Context) (<-chan hyper.Event, error) {
	w := &watcher{more: make(chan struct{}, 1), over: make(chan struct{})}
	err := d.around(ctx, "Watch", "", func() error {
		d.h.mu.Lock()
		defer d.h.mu.Unlock()
		if d.closed {
			return fmt.Errorf("Watch: %w: %w", hyper.ErrUnreachable, errClosed)
		}
		d.watchers[w] = struct{}{} // while the daemon is down, too: it is told Lost when that comes back
		return nil
	})
	if err != nil {
		return nil, err
	}
	out := make(chan hyper.Event)
	go func() {
		defer close(out)
		defer func() {
			d.h.mu.Lock()
			defer d.h.mu.Unlock()
			delete(d.watchers, w)
		}()
		for {
			e, ok := w.take()
			if !ok {
				select {
				case <-ctx.Done():
					return
				case <-w.over:
					return
				case <-w.more:
				}
				continue
			}
			select {
			case <-ctx.Done():
				return
			case <-w.over:
				return
			case out <- e:
			}
		}
	}()
	return out, nil
}

// watcher queues events for a reader; what a slow reader leaves unread becomes one Lost.
type watcher struct {
	mu    sync.Mutex
	queue []hyper.Event
	more  chan struct{}
	over  chan struct{}
	once  sync.Once
}

const watchQueue = 256

func (w *watcher) put(e hyper.Event) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.queue) >= watchQueue {
		w.queue = []hyper.Event{{Lost: true}}
	} else {
		w.queue = append(w.queue, e)
	}
	select {
	case w.more <- struct{}{}:
	default:
	}
}

func (w *watcher) take() (hyper.Event, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.queue) == 0 {
		return hyper.Event{}, false
	}
	e := w.queue[0]
	w.queue = w.queue[1:]
	return e, true
}

func (w *watcher) end() { w.once.Do(func() { close(w.over) }) }

// Usage tells that a domain has one of its CPUs busy all the time, holds its memory, and writes a counter of 8 bytes with every tick.
func (d *driver) Usage(ctx context.Context) ([]hyper.Usage, error) {
	var list []hyper.Usage
	err := d.call(ctx, "Usage", "", func() error {
		for _, m := range d.h.domains {
			if m.state == hyper.Running {
				ticks := int64(d.h.count(m) - m.before)
				list = append(list, hyper.Usage{
					VM: m.spec.VM, CPU: time.Duration(ticks) * d.h.o.Tick, Memory: int64(m.spec.MemoryMiB) << 20, DiskWritten: 8 * ticks, Writes: ticks,
				})
			}
		}
		return nil
	})
	return list, err
}

// console echoes what is written to it.
type console struct {
	mu   sync.Mutex
	cond *sync.Cond
	buf  []byte
	err  error
	gone func()
}

const consoleBuffer = 64 << 10

func (d *driver) Console(ctx context.Context, vm string) (io.ReadWriteCloser, error) {
	var c *console
	err := d.call(ctx, "Console", vm, func() error {
		m, err := d.find(vm)
		if err != nil {
			return err
		}
		if m.term != nil {
			m.term.end(io.EOF)
		}
		c = &console{}
		c.cond = sync.NewCond(&c.mu)
		c.gone = func() {
			d.h.mu.Lock()
			defer d.h.mu.Unlock()
			delete(d.consoles, c)
		}
		m.term = c
		d.consoles[c] = struct{}{}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return c, nil
}

// Display shows a picture of nothing in particular, to as many viewers as there are.
func (d *driver) Display(ctx context.Context, vm string) (io.ReadWriteCloser, error) {
	ours, theirs := net.Pipe()
	v := &view{Conn: theirs}
	err := d.call(ctx, "Display", vm, func() error {
		m, err := d.find(vm)
		if err != nil {
			return err
		}
		if !api.HasDisplay(m.spec.Profile) {
			return hyper.ErrNoDisplay
		}
		v.gone = func() {
			d.h.mu.Lock()
			defer d.h.mu.Unlock()
			delete(m.views, v)
		}
		if m.views == nil {
			m.views = map[*view]struct{}{}
		}
		m.views[v] = struct{}{}
		return nil
	})
	if err != nil {
		return nil, err
	}
	go func() {
		defer ours.Close()
		_ = rfb.Serve(ours, testCard)
	}()
	return v, nil
}

// view is a viewer's end of a display.
type view struct {
	net.Conn
	gone func()
}

func (v *view) Close() error {
	v.gone()
	return v.Conn.Close()
}

// Read ends as a display's socket does.
func (v *view) Read(p []byte) (int, error) {
	n, err := v.Conn.Read(p)
	if err != nil {
		err = io.EOF
	}
	return n, err
}

// testCard is what all displays show.
var testCard = func() *image.RGBA {
	m := image.NewRGBA(image.Rect(0, 0, 64, 48))
	for i := range m.Pix {
		m.Pix[i] = byte(i) | 1
	}
	return m
}()

func (c *console) end(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err == nil {
		c.err = err
	}
	c.cond.Broadcast()
}

func (c *console) Read(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for len(c.buf) == 0 && c.err == nil {
		c.cond.Wait()
	}
	if len(c.buf) == 0 {
		return 0, c.err
	}
	n := copy(p, c.buf)
	c.buf = c.buf[n:]
	return n, nil
}

// Write drops what nobody reads, as a serial line does.
func (c *console) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return 0, io.ErrClosedPipe
	}
	if len(c.buf)+len(p) <= consoleBuffer {
		c.buf = append(c.buf, p...)
	}
	c.cond.Broadcast()
	return len(p), nil
}

func (c *console) Close() error {
	c.end(io.ErrClosedPipe)
	c.gone()
	return nil
}
