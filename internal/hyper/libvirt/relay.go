package libvirt

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"widecloud/internal/hyper"
)

// The buffers on the way are small on purpose: QEMU judges the line, and with it the downtime, by how fast its socket drains.
// 212 KB of kernel buffer and a greedy copier were seen to turn 0.3 s of wanted downtime into 20 s on a thin line.
const pumpBuffer = 16 << 10

// socketPath makes the path of a new socket. Its name cannot be guessed: the directory may be passed through by all users.
func (d *Driver) socketPath(kind string) string {
	return filepath.Join(d.o.Dir, rand.Text()[:16]+"."+kind)
}

// relay is the source's way out: sockets that QEMU connects to, and the connections that were dialled for them.
type relay struct {
	memory, storage string // socket paths

	ctx    context.Context
	cancel context.CancelCauseFunc
	dial   func(ctx context.Context, c hyper.Channel) (net.Conn, error)
	pace   pacer
	opened func(c hyper.Channel) // called when QEMU came

	ls []net.Listener
	wg sync.WaitGroup

	mu    sync.Mutex
	conns []net.Conn
	cause error
}

func (d *Driver) newRelay(ctx context.Context, o hyper.Outgoing, opened func(hyper.Channel)) (*relay, error) {
	r := &relay{memory: d.socketPath("memory"), storage: d.socketPath("disk"), dial: o.Dial, opened: opened}
	r.pace.rate = o.Bandwidth
	r.ctx, r.cancel = context.WithCancelCause(ctx)
	for path, c := range map[string]hyper.Channel{r.memory: hyper.Memory, r.storage: hyper.Storage} {
		l, err := net.Listen("unix", path)
		if err == nil {
			err = os.Chmod(path, 0o666) // QEMU may be another user
		}
		if err != nil {
			r.close()
			return nil, fmt.Errorf("listen for the %s stream: %w", c, err)
		}
		r.ls = append(r.ls, l)
		r.wg.Add(1)
		go r.accept(l, c)
	}
	return r, nil
}

func (r *relay) accept(l net.Listener, c hyper.Channel) {
	defer r.wg.Done()
	for {
		near, err := l.Accept()
		if err != nil {
			return
		}
		if !r.track(near) {
			return
		}
		r.wg.Add(1)
		go func() {
			defer r.wg.Done()
			defer near.Close()
			far, err := r.dial(r.ctx, c)
			if err != nil {
				r.fail(fmt.Errorf("dial %s stream: %w", c, err))
				return
			}
			defer far.Close()
			if !r.track(far) {
				return
			}
			r.opened(c)
			back := make(chan struct{})
			go func() {
				defer close(back)
				pump(near, far, nil)
			}()
			if err := pump(far, near, r.pace.wait); err != nil {
				r.fail(fmt.Errorf("%s stream: %w", c, err))
			}
			<-back
		}()
	}
}

// pump copies to the end of from, and passes the end on.
func pump(to, from net.Conn, pace func(n int)) error {
	buf := make([]byte, pumpBuffer)
	for {
		n, err := from.Read(buf)
		if n > 0 {
			if pace != nil {
				pace(n)
			}
			if _, werr := to.Write(buf[:n]); werr != nil {
				from.Close() // so that QEMU sees it now
				return werr
			}
		}
		if err != nil {
			if w, ok := to.(interface{ CloseWrite() error }); ok && errors.Is(err, io.EOF) {
				w.CloseWrite()
			} else {
				to.Close()
			}
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
	}
}

// track remembers a connection to be cut; false when that has happened already.
func (r *relay) track(c net.Conn) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ctx.Err() != nil {
		c.Close()
		return false
	}
	r.conns = append(r.conns, c)
	return true
}

// fail keeps the first reason and cuts everything.
func (r *relay) fail(err error) {
	r.mu.Lock()
	if r.cause == nil {
		r.cause = err
	}
	r.mu.Unlock()
	r.cut(err)
}

func (r *relay) why() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.cause
}

func (r *relay) cut(err error) {
	r.cancel(err)
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range r.conns {
		c.Close()
	}
}

func (r *relay) close() {
	for _, l := range r.ls {
		l.Close() // removes the socket
	}
	r.cut(nil)
	r.wg.Wait()
}

// pacer holds the sum of all streams at a rate in bytes per second; 0: no limit.
type pacer struct {
	rate int64
	mu   sync.Mutex
	next time.Time
}

func (p *pacer) wait(n int) {
	if p.rate <= 0 {
		return
	}
	p.mu.Lock()
	now := time.Now()
	if p.next.Before(now) {
		p.next = now
	}
	p.next = p.next.Add(time.Duration(float64(n) / float64(p.rate) * float64(time.Second)))
	until := p.next.Sub(now)
	p.mu.Unlock()
	time.Sleep(until)
}

// sweep removes the migration sockets that a killed agent left: those that no process in this network namespace has open.
// What still is open is of a domain that libvirtd is about to destroy; it is kept in mind for sweepLate.
// A socket is never tried by connecting to it: QEMU would take that for the stream.
func (d *Driver) sweep() error {
	var found []string
	for _, kind := range []string{"memory", "disk", "display"} {
		paths, err := filepath.Glob(filepath.Join(d.o.Dir, "*."+kind))
		if err != nil {
			return err
		}
		found = append(found, paths...)
	}
	return d.remove(found)
}

// sweepLate removes what sweep found open, once it no longer is. Sockets that were made since are none of its business.
func (d *Driver) sweepLate() {
	d.mu.Lock()
	found := d.strays
	d.mu.Unlock()
	if len(found) == 0 {
		return
	}
	if err := d.remove(found); err != nil {
		d.log.Warn("remove old sockets", "err", err)
	}
}

func (d *Driver) remove(found []string) error {
	table, err := os.ReadFile("/proc/self/net/unix")
	if err != nil {
		return err
	}
	live := map[string]bool{}
	for line := range strings.Lines(string(table)) {
		if f := strings.Fields(line); len(f) > 7 {
			live[f[7]] = true
		}
	}
	var left []string
	for _, p := range found {
		if live[p] {
			left = append(left, p)
			continue
		}
		if err := os.Remove(p); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	d.mu.Lock()
	d.strays = left
	d.mu.Unlock()
	return nil
}
