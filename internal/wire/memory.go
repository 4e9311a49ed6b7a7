package wire

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Memory is a network without an operating system under it, for tests: it works inside a testing/synctest bubble, and has
// the faults of a real one. Addresses are NODE:PORT. Make it inside the bubble that uses it.
type Memory struct {
	mu        sync.Mutex
	changed   *sync.Cond // links, listeners
	listeners map[string]*memListener
	conns     map[*memConn]struct{}
	cut       map[link]bool
	delay     map[link]time.Duration
	port      int
}

// memBuffer is how much a direction holds before its writer waits, octets.
const memBuffer = 256 << 10

// link is a pair of nodes, in order.
type link struct{ a, b string }

func linkOf(a, b string) link {
	if a > b {
		a, b = b, a
	}
	return link{a, b}
}

// NewMemory makes a network without nodes, delay or faults.
func NewMemory() *Memory {
	m := &Memory{
		listeners: map[string]*memListener{}, conns: map[*memConn]struct{}{},
		cut: map[link]bool{}, delay: map[link]time.Duration{},
	}
	m.changed = sync.NewCond(&m.mu)
	return m
}

// Node is the network as the named node sees it. Nodes need not be announced.
func (m *Memory) Node(name string) Network { return memNode{m, name} }

// Cut silences the link between two nodes, as a broken cable would: what is under way stops, and goes on after Heal
// if both ends still wait for it. New connections wait too.
func (m *Memory) Cut(a, b string) { m.setCut(a, b, true) }

// Heal undoes Cut.
func (m *Memory) Heal(a, b string) { m.setCut(a, b, false) }

func (m *Memory) setCut(a, b string, cut bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if cut {
		m.cut[linkOf(a, b)] = true
	} else {
		delete(m.cut, linkOf(a, b))
	}
	m.broadcast()
}

// SetDelay sets the one-way delay between two nodes for what is sent from now on.
func (m *Memory) SetDelay(a, b string, d time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.delay[linkOf(a, b)] = d
}

// Kill does to a node's connections and listeners what the death of its process does: all are gone at once; the
// other ends are told, unless their link is cut. The node may listen and dial again.
func (m *Memory) Kill(node string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for c := range m.conns {
		if c.local.node == node {
			c.kill()
		}
	}
	for addr, l := range m.listeners {
		if l.addr.node == node {
			l.close()
			delete(m.listeners, addr)
		}
	}
	m.broadcast()
}

// broadcast wakes all, since the state of a link may matter to any. The lock is held.
func (m *Memory) broadcast() {
	m.changed.Broadcast()
	for c := range m.conns {
		c.cond.Broadcast()
	}
}

type memAddr struct {
	node string
	port string
}

func (memAddr) Network() string  { return "memory" }
func (a memAddr) String() string { return a.node + ":" + a.port }

type memNode struct {
	m    *Memory
	name string
}

// Listen opens NODE:PORT or :PORT; port 0 or none takes a free one.
func (n memNode) Listen(_ context.Context, addr string) (net.Listener, error) {
	node, port, _ := strings.Cut(addr, ":")
	if node != "" && node != n.name {
		return nil, fmt.Errorf("listen at %s: is not an address of node %s", addr, n.name)
	}
	m := n.m
	m.mu.Lock()
	defer m.mu.Unlock()
	if port == "" || port == "0" {
		m.port++
		port = fmt.Sprint(50000 + m.port)
	}
	l := &memListener{m: m, addr: memAddr{n.name, port}}
	if m.listeners[l.addr.String()] != nil {
		return nil, fmt.Errorf("listen at %s: %w", l.addr, syscall.EADDRINUSE)
	}
	m.listeners[l.addr.String()] = l
	m.changed.Broadcast()
	return l, nil
}

// Dial connects to NODE:PORT.
func (n memNode) Dial(ctx context.Context, addr string) (net.Conn, error) {
	m := n.m
	node, _, _ := strings.Cut(addr, ":")
	stop := context.AfterFunc(ctx, func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.changed.Broadcast()
	})
	defer stop()
	m.mu.Lock()
	defer m.mu.Unlock()
	link := linkOf(n.name, node)
	if d := 2 * m.delay[link]; d > 0 { // a round trip
		m.mu.Unlock()
		t := time.NewTimer(d)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
		}
		m.mu.Lock()
	}
	for m.cut[link] && ctx.Err() == nil {
		m.changed.Wait()
	}
	if ctx.Err() != nil {
		return nil, fmt.Errorf("dial %s: %w", addr, context.Cause(ctx))
	}
	l := m.listeners[addr]
	if l == nil || len(l.queue) >= backlog {
		return nil, fmt.Errorf("dial %s: %w", addr, syscall.ECONNREFUSED)
	}
	m.port++
	here, there := newMemConn(m), newMemConn(m)
	here.local, here.remote, here.other = memAddr{n.name, fmt.Sprint(50000 + m.port)}, l.addr, there
	there.local, there.remote, there.other = here.remote, here.local, here
	l.queue = append(l.queue, there)
	m.changed.Broadcast()
	return here, nil
}

type memListener struct {
	m      *Memory
	addr   memAddr
	queue  []*memConn
	closed bool
}

func (l *memListener) Accept() (net.Conn, error) {
	l.m.mu.Lock()
	defer l.m.mu.Unlock()
	for len(l.queue) == 0 {
		if l.closed {
			return nil, net.ErrClosed
		}
		l.m.changed.Wait()
	}
	c := l.queue[0]
	l.queue = l.queue[1:]
	return c, nil
}

func (l *memListener) Close() error {
	l.m.mu.Lock()
	defer l.m.mu.Unlock()
	if !l.closed {
		delete(l.m.listeners, l.addr.String())
		l.close()
		l.m.changed.Broadcast()
	}
	return nil
}

func (l *memListener) close() {
	l.closed = true
	for _, c := range l.queue {
		c.kill()
	}
	l.queue = nil
}

func (l *memListener) Addr() net.Addr { return l.addr }

// segment is what one write put on the way; nil data is the end of the direction.
type segment struct {
	data []byte
	at   time.Time
}

type memConn struct {
	m             *Memory
	cond          *sync.Cond
	local, remote memAddr
	other         *memConn

	in      []segment
	size    int
	shut    bool  // our direction has ended
	closed  bool  // by us
	reset   error // by the other end; is seen while the link is not cut
	readBy  time.Time
	writeBy time.Time
	ticks   []*time.Timer
}

func newMemConn(m *Memory) *memConn {
	c := &memConn{m: m, cond: sync.NewCond(&m.mu)}
	m.conns[c] = struct{}{}
	return c
}

func (c *memConn) kill() {
	c.closed, c.shut = true, true
	c.in, c.size = nil, 0
	c.other.reset = syscall.ECONNRESET
	c.cond.Broadcast()
	c.other.cond.Broadcast()
	delete(c.m.conns, c)
}

func (c *memConn) silent() bool { return c.m.cut[linkOf(c.local.node, c.remote.node)] }

func (c *memConn) wakeAt(t time.Time) {
	c.ticks = append(c.ticks, time.AfterFunc(time.Until(t), func() {
		c.m.mu.Lock()
		defer c.m.mu.Unlock()
		c.cond.Broadcast()
	}))
	if len(c.ticks) > 16 {
		c.ticks = c.ticks[1:] // fired long ago; only kept to be stopped
	}
}

func (c *memConn) Read(p []byte) (int, error) {
	c.m.mu.Lock()
	defer c.m.mu.Unlock()
	for {
		switch {
		case c.closed:
			return 0, net.ErrClosed
		case expired(c.readBy):
			return 0, os.ErrDeadlineExceeded
		case len(p) == 0:
			return 0, nil
		case c.silent():
		case c.reset != nil:
			return 0, c.reset
		case len(c.in) > 0:
			s := &c.in[0]
			if wait := time.Until(s.at); wait > 0 {
				c.wakeAt(s.at)
				break
			}
			if s.data == nil {
				return 0, io.EOF
			}
			n := copy(p, s.data)
			c.size -= n
			if s.data = s.data[n:]; len(s.data) == 0 {
				c.in = c.in[1:]
			}
			c.other.cond.Broadcast()
			return n, nil
		}
		c.cond.Wait()
	}
}

func (c *memConn) Write(p []byte) (int, error) {
	c.m.mu.Lock()
	defer c.m.mu.Unlock()
	sent := 0
	for {
		switch {
		case c.shut:
			return sent, net.ErrClosed
		case expired(c.writeBy):
			return sent, os.ErrDeadlineExceeded
		case !c.silent() && c.reset != nil:
			return sent, c.reset
		case !c.silent() && c.other.closed:
			return sent, syscall.EPIPE
		case len(p) == 0:
			return sent, nil
		}
		if n := min(len(p), memBuffer-c.other.size); n > 0 {
			c.send(append([]byte{}, p[:n]...))
			p = p[n:]
			sent += n
			continue
		}
		c.cond.Wait()
	}
}

// send puts a segment on the way; order is kept when the delay has become less.
func (c *memConn) send(data []byte) {
	o := c.other
	if o.closed {
		return
	}
	at := time.Now().Add(c.m.delay[linkOf(c.local.node, c.remote.node)])
	if n := len(o.in); n > 0 && o.in[n-1].at.After(at) {
		at = o.in[n-1].at
	}
	o.in = append(o.in, segment{data, at})
	o.size += len(data)
	o.cond.Broadcast()
}

// CloseWrite ends our direction.
func (c *memConn) CloseWrite() error {
	c.m.mu.Lock()
	defer c.m.mu.Unlock()
	c.closeWrite()
	return nil
}

func (c *memConn) closeWrite() {
	if !c.shut {
		c.shut = true
		c.send(nil)
		c.cond.Broadcast()
	}
}

func (c *memConn) Close() error {
	c.m.mu.Lock()
	defer c.m.mu.Unlock()
	if c.closed {
		return nil
	}
	c.closeWrite()
	c.closed = true
	c.in, c.size = nil, 0
	for _, t := range c.ticks {
		t.Stop()
	}
	delete(c.m.conns, c)
	c.cond.Broadcast()
	c.other.cond.Broadcast()
	return nil
}

func (c *memConn) LocalAddr() net.Addr  { return c.local }
func (c *memConn) RemoteAddr() net.Addr { return c.remote }

func (c *memConn) SetDeadline(t time.Time) error {
	c.setDeadline(t, &c.readBy, &c.writeBy)
	return nil
}
func (c *memConn) SetReadDeadline(t time.Time) error {
	c.setDeadline(t, &c.readBy)
	return nil
}
func (c *memConn) SetWriteDeadline(t time.Time) error {
	c.setDeadline(t, &c.writeBy)
	return nil
}

func (c *memConn) setDeadline(t time.Time, by ...*time.Time) {
	c.m.mu.Lock()
	defer c.m.mu.Unlock()
	for _, b := range by {
		*b = t
	}
	if !t.IsZero() && !expired(t) && !c.closed {
		c.wakeAt(t)
	}
	c.cond.Broadcast()
}
