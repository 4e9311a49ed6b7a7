package serve

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"time"

	"widecloud/api"
)

const (
	// headerTime is how long a TLS handshake, and then a request's header, may take.
	headerTime = 10 * time.Second
	// idleTime is how long a connection without a request is kept.
	idleTime = time.Minute
	// maxHeader is the largest header of a request, in bytes.
	maxHeader = 64 << 10
	// maxConnections is how many connections there may be; maxOfSource is how many of them from one source. The loopback is
	// no source: a proxy may be there.
	maxConnections = 8192
	maxOfSource    = 256
	// fullLogEvery is how often it is logged at most that there are too many.
	fullLogEvery = 10 * time.Second
)

// connections accepts connections within the limits. To let one in, the oldest that has no request under way must go, of
// the same source or of all; if all are busy, the new one is closed.
type connections struct {
	net.Listener
	log     *slog.Logger
	metrics metrics

	mu     sync.Mutex
	all    map[*connection]struct{}
	of     map[netip.Prefix]int
	logged time.Time
}

type connection struct {
	net.Conn
	list   *connections
	source netip.Prefix

	// Guarded by list.mu.
	busy  bool      // a request, or a console, is under way
	since time.Time // when it was not
}

func newConnections(ln net.Listener, log *slog.Logger, m metrics) *connections {
	return &connections{Listener: ln, log: log, metrics: m, all: map[*connection]struct{}{}, of: map[netip.Prefix]int{}}
}

// Accept is net.Listener's.
func (l *connections) Accept() (net.Conn, error) {
	for {
		raw, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		c := &connection{Conn: raw, list: l, source: sourceOf(raw.RemoteAddr().String()), since: time.Now()}
		victim, ok := l.admit(c)
		if victim != nil {
			victim.Conn.Close()
		}
		if ok {
			return c, nil
		}
		raw.Close()
	}
}

// admit counts a connection, in the place of victim if there is one; ok is false when there is no place.
func (l *connections) admit(c *connection) (victim *connection, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	ofSource := l.of[c.source] >= maxOfSource && !c.source.Addr().IsLoopback()
	if ofSource || len(l.all) >= maxConnections {
		l.metrics.refused("connections")
		if now := time.Now(); now.Sub(l.logged) >= fullLogEvery {
			l.logged = now
			l.log.Warn("too many connections: the oldest that are idle are closed", "source", c.source, "of_source", l.of[c.source], "all", len(l.all))
		}
		for o := range l.all {
			if !o.busy && (!ofSource || o.source == c.source) && (victim == nil || o.since.Before(victim.since)) {
				victim = o
			}
		}
		if victim == nil {
			return nil, false
		}
		l.forget(victim)
	}
	l.all[c] = struct{}{}
	l.of[c.source]++
	return victim, true
}

// forget is to be called with the lock held.
func (l *connections) forget(c *connection) {
	if _, ok := l.all[c]; !ok {
		return
	}
	delete(l.all, c)
	if l.of[c.source]--; l.of[c.source] == 0 {
		delete(l.of, c.source)
	}
}

// state is http.Server's ConnState.
func (l *connections) state(c net.Conn, s http.ConnState) {
	if e, ok := c.(errorConn); ok {
		c = e.Conn
	}
	if t, ok := c.(*tls.Conn); ok {
		c = t.NetConn()
	}
	conn, ok := c.(*connection)
	if !ok {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	conn.busy = s == http.StateActive || s == http.StateHijacked
	conn.since = time.Now()
}

// Close ends the connection and gives its place back.
func (c *connection) Close() error {
	c.list.mu.Lock()
	c.list.forget(c)
	c.list.mu.Unlock()
	return c.Conn.Close()
}

// CloseWrite lets a client read the answer to a request that it has not sent whole.
func (c *connection) CloseWrite() error { return closeWrite(c.Conn) }

func closeWrite(c net.Conn) error {
	if h, ok := c.(interface{ CloseWrite() error }); ok {
		return h.CloseWrite()
	}
	return nil
}

// handshakes is a listener whose connections have TLS. Handshakes run beside each other, each within headerTime.
type handshakes struct {
	net.Listener
	config *tls.Config
	ctx    context.Context
	cancel context.CancelFunc
	ready  chan net.Conn
	failed chan error
	work   sync.WaitGroup
}

func newHandshakes(ln net.Listener, config *tls.Config) *handshakes {
	config = config.Clone()
	config.NextProtos = append([]string{"h2", "http/1.1"}, config.NextProtos...)
	h := &handshakes{Listener: ln, config: config, ready: make(chan net.Conn), failed: make(chan error)}
	h.ctx, h.cancel = context.WithCancel(context.Background())
	h.work.Go(h.run)
	return h
}

func (h *handshakes) run() {
	for {
		c, err := h.Listener.Accept()
		if err != nil {
			select {
			case h.failed <- err: // net/http decides how long to wait after it
			case <-h.ctx.Done():
				return
			}
			continue
		}
		h.work.Go(func() { h.shake(c) })
	}
}

// shake gives a connection on when its handshake is done. Of HTTP/2 net/http wants the tls.Conn itself.
func (h *handshakes) shake(raw net.Conn) {
	t := tls.Server(raw, h.config)
	ctx, cancel := context.WithTimeout(h.ctx, headerTime)
	defer cancel()
	err := t.HandshakeContext(ctx)
	if err != nil {
		var no tls.RecordHeaderError
		if errors.As(err, &no) && no.Conn != nil && httpMethod(no.RecordHeader) {
			_ = no.Conn.SetWriteDeadline(time.Now().Add(headerTime))
			_, _ = no.Conn.Write(bareAnswer(http.StatusBadRequest, api.Errorf(api.CodeInvalid, "this port speaks HTTPS: use https:// in the URL")))
		}
		raw.Close()
		return
	}
	var c net.Conn = t
	switch t.ConnectionState().NegotiatedProtocol {
	case "h2":
	case "", "http/1.1":
		c = errorConn{t}
	default: // the handshake was all of it (RFC 8737 §3)
		raw.Close()
		return
	}
	select {
	case h.ready <- c:
	case <-h.ctx.Done():
		raw.Close()
	}
}

// httpMethod tells whether what came instead of a TLS record is the beginning of an HTTP request.
func httpMethod(b [5]byte) bool {
	for _, m := range []string{"GET /", "HEAD ", "POST ", "PUT /", "DELET", "OPTIO"} {
		if string(b[:]) == m {
			return true
		}
	}
	return false
}

// Accept is net.Listener's.
func (h *handshakes) Accept() (net.Conn, error) {
	select {
	case c := <-h.ready:
		return c, nil
	case err := <-h.failed:
		return nil, err
	case <-h.ctx.Done():
		return nil, net.ErrClosed
	}
}

// Close is net.Listener's. Handshakes under way end.
func (h *handshakes) Close() error {
	h.cancel()
	return h.Listener.Close()
}

// wait returns when no goroutine is left, after Close.
func (h *handshakes) wait() { h.work.Wait() }

// plain is a listener whose connections have no TLS.
type plain struct{ net.Listener }

// Accept is net.Listener's.
func (p plain) Accept() (net.Conn, error) {
	c, err := p.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return errorConn{c}, nil
}

// errorConn puts into our shape what net/http answers by itself, in plain text, when it cannot read a request's header.
type errorConn struct{ net.Conn }

// bareHeaders are what net/http sends with such an answer, and with no other.
const bareHeaders = "\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\n\r\n"

// Write is net.Conn's.
func (c errorConn) Write(b []byte) (int, error) {
	line, text, ok := bytes.Cut(b[:min(len(b), 1024)], []byte(bareHeaders))
	if !ok || !bytes.HasPrefix(line, []byte("HTTP/1.1 ")) || bytes.ContainsRune(line, '\n') {
		return c.Conn.Write(b)
	}
	words := strings.SplitN(string(line), " ", 3)
	status, err := strconv.Atoi(words[1])
	if err != nil {
		return c.Conn.Write(b)
	}
	e := api.Errorf(api.CodeInvalid, "the request is not well-formed: %s", text)
	if status == http.StatusRequestHeaderFieldsTooLarge {
		e = api.Invalidf("header", "is larger than %d bytes", maxHeader)
	}
	if _, err := c.Conn.Write(bareAnswer(status, e)); err != nil {
		return 0, err
	}
	return len(b), nil
}

// CloseWrite lets the client read the answer.
func (c errorConn) CloseWrite() error { return closeWrite(c.Conn) }

// bareAnswer is an answer outside of any handler. The connection ends with it.
func bareAnswer(status int, e *api.Error) []byte {
	body, err := json.Marshal(e)
	if err != nil {
		body = nil // an Error without Reasons is only strings
	}
	return fmt.Appendf(nil, "HTTP/1.1 %d %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s",
		status, http.StatusText(status), len(body), body)
}
