package httpd

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"widecloud/internal/sentry/reel"
)

// Options says what a Server serves, and what it bears. Zero values of times and numbers are errors.
type Options struct {
	Reel *reel.Reel
	Keep time.Duration // of the Reel: how long others may keep a still by its number
	Log  *slog.Logger
	TLS  *tls.Config  // nil: plain
	Page http.Handler // what is not below /stills/; nil: nothing

	MaxConnections int            // in all
	MaxPerAddress  int            // for each IPv4 address or IPv6 /64
	NAT64          []netip.Prefix // /96s whose low 32 bits are the IPv4 address of a viewer behind a translator

	PollWait     time.Duration // how long a poll waits for the next still
	HeadTimeout  time.Duration // from a connection, or a request's first byte, to the end of its head
	IdleTimeout  time.Duration // between requests
	WriteTimeout time.Duration // for taking an answer

	Servers []Place // where else a page can go
	Now     func() time.Time
}

// Place is a server of the same stills.
type Place struct {
	URL    string `json:"url"`
	Weight int    `json:"weight"` // how many viewers it is to have, beside others
}

// Server serves a Reel. Serve may be called for several listeners.
type Server struct {
	o           Options
	cacheNumber string
	web         *http.Server
	handed      chan net.Conn // from the fast loop to net/http
	strips      strips
	files       files

	draining chan struct{} // closed by Drain
	drain    sync.Once
	closed   chan struct{}
	close    sync.Once

	mu        sync.Mutex
	conns     map[*conn]struct{}
	listeners map[net.Listener]struct{}
	limit     limit
	open      sync.WaitGroup // connections

	seconds atomic.Int64 // a coarse clock; see sweep
	date    atomic.Pointer[[]byte]
	polls   atomic.Int64
	streams atomic.Int64
	counts  counts
}

// New makes a Server and starts its own goroutines, which end with Close or Drain.
func New(o Options) (*Server, error) {
	for _, x := range []struct {
		name string
		ok   bool
	}{{"Reel", o.Reel != nil}, {"Log", o.Log != nil}, {"Now", o.Now != nil}, {"Keep", o.Keep >= time.Second},
		{"MaxConnections", o.MaxConnections > 0}, {"MaxPerAddress", o.MaxPerAddress > 0}, {"PollWait", o.PollWait > 0},
		{"HeadTimeout", o.HeadTimeout >= time.Second}, {"IdleTimeout", o.IdleTimeout >= time.Second}, {"WriteTimeout", o.WriteTimeout >= time.Second}} {
		if !x.ok {
			return nil, fmt.Errorf("httpd.Options.%s is missing or too small", x.name)
		}
	}
	s := &Server{o: o, cacheNumber: "public, max-age=" + strconv.Itoa(int(o.Keep/time.Second)) + ", immutable",
		handed: make(chan net.Conn), draining: make(chan struct{}), closed: make(chan struct{}),
		conns: map[*conn]struct{}{}, listeners: map[net.Listener]struct{}{},
		limit: limit{all: o.MaxConnections, each: o.MaxPerAddress, nat64: o.NAT64, count: map[netip.Addr]int{}}}
	s.web = &http.Server{Handler: s.Handler(), ConnContext: withConn, ReadHeaderTimeout: o.HeadTimeout, IdleTimeout: o.IdleTimeout, MaxHeaderBytes: maxHead,
		ErrorLog: slog.NewLogLogger(o.Log.Handler(), slog.LevelDebug), HTTP2: &http.HTTP2Config{MaxConcurrentStreams: 32,
			MaxReadFrameSize: 16 << 10, MaxReceiveBufferPerConnection: 64 << 10, MaxReceiveBufferPerStream: 16 << 10,
			SendPingTimeout: o.IdleTimeout, WriteByteTimeout: o.WriteTimeout}}
	s.web.Protocols = new(http.Protocols)
	s.web.Protocols.SetHTTP1(true)
	s.web.Protocols.SetHTTP2(true)
	if o.TLS != nil {
		s.o.TLS = o.TLS.Clone()
		s.o.TLS.NextProtos = []string{"h2", "http/1.1"}
		// A still goes out in few large records: small ones first would only be for bytes that are used before the rest is here.
		s.o.TLS.DynamicRecordSizingDisabled = true
	}
	s.tick()
	go s.sweep()
	go func() { _ = s.web.Serve(handedListener{s}) }() // ends with Close
	return s, nil
}

// maxHead is how long the head of a request may be, in bytes.
const maxHead = 8 << 10

// Serve takes connections from l until Close or Drain; then it returns nil. It closes l.
func (s *Server) Serve(l net.Listener) error {
	defer l.Close()
	s.mu.Lock()
	s.listeners[l] = struct{}{}
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		delete(s.listeners, l)
		s.mu.Unlock()
	}()
	for wait := time.Duration(0); ; {
		c, err := l.Accept()
		switch {
		case err == nil:
			wait = 0
			s.take(c)
		case s.Draining() || isClosed(s.closed):
			return nil
		case errors.Is(err, net.ErrClosed):
			return fmt.Errorf("accept: %w", err)
		default: // no descriptors, most likely: connections that end give them back
			wait = min(max(2*wait, 5*time.Millisecond), time.Second)
			s.o.Log.Warn("cannot accept a connection", "err", err, "again_in", wait)
			select {
			case <-time.After(wait):
			case <-s.closed:
				return nil
			}
		}
	}
}

// take gives a connection that was accepted a place, if there is one, and its loop.
func (s *Server) take(nc net.Conn) {
	c := &conn{Conn: nc, s: s}
	if a, ok := nc.RemoteAddr().(*net.TCPAddr); ok {
		c.from = s.limit.key(a.AddrPort().Addr())
	}
	s.mu.Lock()
	verdict := s.limit.take(c.from)
	if verdict == dropped || isClosed(s.closed) {
		s.mu.Unlock()
		s.counts.dropped.Add(1)
		nc.Close()
		return
	}
	s.conns[c] = struct{}{}
	s.open.Add(1)
	s.mu.Unlock()
	c.refused = verdict == refused
	s.counts.accepted.Add(1)
	go c.serve()
}

// Draining tells whether Drain was called.
func (s *Server) Draining() bool { return isClosed(s.draining) }

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// Drain tells viewers to go elsewhere: answers say so and are the last of their connections, polls and streams end. It
// takes new connections for that, too, until ctx ends or no connection is left for a second; then it closes the Server.
func (s *Server) Drain(ctx context.Context) {
	s.drain.Do(func() { close(s.draining) })
	defer s.Close()
	t := time.NewTicker(time.Second)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
			if s.Connections() == 0 {
				return
			}
		}
	}
}

// Close closes all listeners and connections, and waits until all have ended.
func (s *Server) Close() {
	s.close.Do(func() {
		close(s.closed)
		s.mu.Lock()
		for l := range s.listeners {
			l.Close()
		}
		for c := range s.conns {
			c.Conn.Close()
		}
		s.mu.Unlock()
		s.web.Close()
	})
	s.open.Wait()
	s.files.close()
}

// Connections is how many there are.
func (s *Server) Connections() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.conns)
}

// sweep keeps the clock, and closes what has had its time, once a second.
func (s *Server) sweep() {
	t := time.NewTicker(time.Second)
	defer t.Stop()
	for {
		select {
		case <-s.closed:
			return
		case <-t.C:
		}
		s.tick()
		s.seconds.Add(1)
		s.expire()
	}
}

// expire closes the connections whose time is over.
func (s *Server) expire() {
	now := s.seconds.Load()
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		due := c.due.Load()
		if p := phase(due & phaseMask); p != free && due>>phaseBits < now {
			s.counts.expired[p].Add(1)
			c.Conn.Close()
		}
	}
}

// tick makes the Date field anew.
func (s *Server) tick() {
	d := s.o.Now().UTC().AppendFormat([]byte("Date: "), http.TimeFormat)
	d = append(d, '\r', '\n')
	s.date.Store(&d)
}

// handedListener gives net/http the connections that the fast loop hands over.
type handedListener struct{ s *Server }

func (l handedListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.s.handed:
		return c, nil
	case <-l.s.closed:
		return nil, net.ErrClosed
	}
}

func (l handedListener) Close() error   { return nil }
func (l handedListener) Addr() net.Addr { return &net.TCPAddr{} }
