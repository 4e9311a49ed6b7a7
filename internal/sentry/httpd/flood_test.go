package httpd_test

import (
	"encoding/binary"
	"net"
	"runtime"
	"sync"
	"testing"
	"time"

	"widecloud/internal/sentry/httpd"
)

// flood is a listener at which many connections come at once, each from another network, with half a request and no more.
type flood struct {
	left   int
	closed chan struct{}
	once   sync.Once
}

func (f *flood) Accept() (net.Conn, error) {
	if f.left == 0 {
		<-f.closed
		return nil, net.ErrClosed
	}
	f.left--
	ip := make(net.IP, 16)
	binary.BigEndian.PutUint64(ip, 0x2001_0db8_0000_0000+uint64(f.left))
	return &halfOpen{from: &net.TCPAddr{IP: ip, Port: 1024}, closed: make(chan struct{})}, nil
}

func (f *flood) Close() error {
	f.once.Do(func() { close(f.closed) })
	return nil
}

func (f *flood) Addr() net.Addr { return &net.TCPAddr{} }

type halfOpen struct {
	net.Conn
	from   *net.TCPAddr
	said   bool
	closed chan struct{}
	once   sync.Once
}

func (c *halfOpen) Read(b []byte) (int, error) {
	if !c.said {
		c.said = true
		return copy(b, "GET /stills/a/0/ne"), nil
	}
	<-c.closed
	return 0, net.ErrClosed
}

func (c *halfOpen) Close() error {
	c.once.Do(func() { close(c.closed) })
	return nil
}

func (c *halfOpen) RemoteAddr() net.Addr { return c.from }

// TestAMillionHalfOpen: of a million connections that never end their request as many stay as there may be, the others
// are closed and counted, and memory is bounded. Those that stay have their time; then there is room again.
func TestAMillionHalfOpen(t *testing.T) {
	const all, most = 1_000_000, 1000
	w := start(t, false, func(o *httpd.Options) { o.MaxConnections, o.MaxPerAddress, o.HeadTimeout = most, most, time.Second })
	w.add(1, 0)
	heap := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before, peak := heap(), 0
	l := &flood{left: all, closed: make(chan struct{})}
	done := make(chan error, 1)
	go func() { done <- w.s.Serve(l) }()
	w.eventually("all have come", func() bool {
		peak = max(peak, w.s.Connections())
		return w.metric("sentryc_connections_total", "outcome", "accepted")+w.metric("sentryc_connections_total", "outcome", "dropped") >= all
	})
	if room := most + most/16 + 1; peak > room {
		t.Errorf("%d connections at a time, more than %d", peak, room)
	}
	if after := heap(); after > before+64<<20 {
		t.Errorf("%d bytes more are held", after-before)
	}
	w.eventually("they are gone", func() bool { return w.s.Connections() == 0 })
	if res, err := ask(t, w); err != nil || res.StatusCode != 200 {
		t.Errorf("afterwards: %v, %v", res, err)
	}
	if n := w.metric("sentryc_expired_total", "doing", "request"); n < most {
		t.Errorf("%v requests have had their time", n)
	}
	l.Close()
	if err := <-done; err == nil {
		t.Error("a closed listener is no error")
	}
}
