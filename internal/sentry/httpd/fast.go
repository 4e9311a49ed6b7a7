package httpd

import (
	"bytes"
	"context"
	"crypto/tls"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// phase is what a connection is doing, as far as there is a limit for it.
type phase int64

const (
	free    phase = iota // waiting for a still, or net/http's
	reading              // the first bytes, or the rest of a head
	idle                 // between requests
	writing              // an answer
	phases
)

// conn.due has a phase in its low bits.
const (
	phaseBits = 3
	phaseMask = 1<<phaseBits - 1
)

// conn is a viewer's connection; its Close gives its place back.
type conn struct {
	net.Conn
	s       *Server
	from    netip.Addr
	refused bool
	gone    sync.Once
	due     atomic.Int64 // when the phase must have ended, in Server.seconds, and the phase

	tls *tls.Conn          // nil: plain
	tcp *net.TCPConn       // nil: TLS, or no TCP
	raw syscall.RawConn    // of tcp
	out func(uintptr) bool // c.push
	b   *buffers           // nil: there are no bytes
	err error              // why the connection ends

	// The last target and If-None-Match, as most viewers send the same again.
	target    string
	request   request
	known     bool // request is what target asks for, and the fast loop's
	foreign   bool // what was read is for net/http
	noneMatch string
}

// buffers are what a connection needs from the first byte of a request until its answer is written.
type buffers struct {
	in   [4 << 10]byte
	n    int // of in
	out  [record]byte
	pair [2][]byte
	vec  net.Buffers

	// What push has to send.
	head []byte
	file *file
	off  int64
	left int
}

// record is the most that TLS puts into one record (RFC 8446 §5.1), in bytes. Heads are much shorter.
const record = 16 << 10

var pool = sync.Pool{New: func() any { return new(buffers) }}

func (c *conn) Close() error {
	err := c.Conn.Close()
	c.gone.Do(func() {
		c.s.mu.Lock()
		delete(c.s.conns, c)
		c.s.limit.give(c.from)
		c.s.mu.Unlock()
		c.s.open.Done()
	})
	return err
}

// within gives the connection time for a phase.
func (c *conn) within(p phase, d time.Duration) {
	c.due.Store((c.s.seconds.Load()+int64(d/time.Second))<<phaseBits | int64(p))
}

// serve is the life of a connection, or of its part before net/http's.
func (c *conn) serve() {
	c.within(reading, c.s.o.HeadTimeout)
	if c.s.o.TLS != nil {
		c.tls = tls.Server(c, c.s.o.TLS)
		if err := c.tls.HandshakeContext(context.Background()); err != nil { // sweep ends it
			c.s.counts.handshakes.Add(1)
			c.Close()
			return
		}
		if c.tls.ConnectionState().NegotiatedProtocol == "h2" {
			c.hand()
			return
		}
	}
	if tcp, ok := c.Conn.(*net.TCPConn); ok && c.tls == nil {
		c.tcp = tcp
		c.serveRaw()
	} else {
		for c.err == nil && !c.foreign {
			c.fill()
			c.answerAll()
		}
	}
	if c.foreign {
		c.hand()
		return
	}
	c.put()
	c.Close()
}

// answerAll answers the requests that have been read. c.foreign says that what follows is for net/http.
func (c *conn) answerAll() {
	for c.b != nil && c.err == nil && !c.foreign {
		h, o := parseHead(c.b.in[:c.b.n])
		switch {
		case o == fast && c.understand(h):
			c.answer(h)
		case o == more && c.b.n < len(c.b.in):
			if phase(c.due.Load()&phaseMask) != reading {
				c.within(reading, c.s.o.HeadTimeout)
			}
			return
		default:
			c.foreign = true
		}
	}
}

// fill waits for bytes of a request.
func (c *conn) fill() {
	if c.b == nil {
		c.get()
	}
	r := c.Conn
	if c.tls != nil {
		r = c.tls
	}
	n, err := r.Read(c.b.in[c.b.n:])
	c.b.n += n
	if n == 0 {
		c.err = err
	}
}

// serveRaw serves a TCP connection inside of one RawConn.Read, so that buffers are taken only when there are bytes, and
// nothing is read only to see that there is nothing.
func (c *conn) serveRaw() {
	if c.raw, c.err = c.tcp.SyscallConn(); c.err != nil {
		return
	}
	c.out = c.push
	if err := c.raw.Read(c.turn); err != nil {
		c.err = err
	}
}

// turn reads and answers what is there. False waits for more.
//
// A read that does not fill its buffer has taken all that there was. What comes after it is a new event, for which
// RawConn.Read waits; it resets no event between the two. The end of a connection that came with its last request is seen
// when the answer fails or when idle time is over.
func (c *conn) turn(fd uintptr) bool {
	for {
		if c.b == nil {
			c.get()
		}
		room := len(c.b.in) - c.b.n
		n, err := read(fd, c.b.in[c.b.n:])
		switch {
		case err == syscall.EINTR:
			continue
		case err == syscall.EAGAIN:
			if c.b.n == 0 {
				c.put()
			}
			return false
		case err != nil:
			c.err = err
			return true
		case n == 0:
			c.err = io.EOF
			return true
		}
		c.b.n += n
		c.answerAll()
		if c.err != nil || c.foreign {
			return true
		}
		if n < room {
			return false
		}
	}
}

func (c *conn) get() {
	c.b = pool.Get().(*buffers)
	c.b.n = 0
}

func (c *conn) put() {
	if c.b != nil {
		c.b.pair = [2][]byte{} // no still is held by buffers that wait
		pool.Put(c.b)
		c.b = nil
	}
}

// hand gives the connection and what was read of it to net/http.
func (c *conn) hand() {
	var nc net.Conn = c
	if c.tls != nil {
		nc = c.tls
	}
	if c.b != nil && c.b.n > 0 {
		nc = &replay{Conn: nc, c: c, first: bytes.Clone(c.b.in[:c.b.n])}
	}
	c.put()
	c.due.Store(int64(free))
	c.target, c.noneMatch = "", ""
	select {
	case c.s.handed <- nc:
	case <-c.s.closed:
		c.Close()
	}
}

// replay is a connection of which some bytes were read.
type replay struct {
	net.Conn
	c     *conn
	first []byte
}

func (r *replay) Read(b []byte) (int, error) {
	if len(r.first) == 0 {
		return r.Conn.Read(b)
	}
	n := copy(b, r.first)
	r.first = r.first[n:]
	return n, nil
}

// understand makes c.request of the head's target; false: it is not for the fast loop.
func (c *conn) understand(h head) bool {
	if string(h.target) != c.target {
		c.target = string(h.target)
		c.request, c.known = parse(c.target)
		c.known = c.known && c.request.what <= byNumber
	}
	if string(h.noneMatch) != c.noneMatch {
		c.noneMatch = string(h.noneMatch)
	}
	return c.known
}

// answer answers c.request, and takes it out of the bytes that were read.
func (c *conn) answer(h head) {
	c.b.n = copy(c.b.in[:], c.b.in[h.length:c.b.n])
	if c.refused {
		c.within(writing, c.s.o.WriteTimeout)
		c.s.counts.refused.Add(1)
		c.write(append(c.b.out[:0], tooMany()...), nil)
		c.err = io.EOF
		return
	}
	if c.request.what == poll {
		if c.b.n == 0 {
			c.put()
		}
		c.due.Store(int64(free))
		c.s.wait(&c.request, c.s.closed)
		if c.b == nil {
			c.get()
		}
	}
	a := c.s.answer(&c.request, c.noneMatch)
	last := h.close || c.s.Draining()
	out := a.head(c.b.out[:0], *c.s.date.Load(), last, c.s.Draining())
	var body []byte
	if a.status == http.StatusOK && !h.onlyHead {
		body = a.frame.JPEG
	}
	c.within(writing, c.s.o.WriteTimeout)
	if f := c.file(&a, body); f != nil {
		c.send(out, f, len(body))
	} else {
		c.write(out, body)
	}
	c.s.counts.answered(c.request.what, a.status, len(body))
	c.within(idle, c.s.o.IdleTimeout)
	if c.b.n == 0 {
		c.put()
	}
	if last && c.err == nil {
		c.err = io.EOF
	}
}

// head appends the head of the answer by HTTP/1.1.
func (a *answer) head(b, date []byte, last, drain bool) []byte {
	b = append(b, "HTTP/1.1 "...)
	b = strconv.AppendInt(b, int64(a.status), 10)
	b = append(b, ' ')
	b = append(b, http.StatusText(a.status)...)
	b = append(b, "\r\n"...)
	b = append(b, date...)
	switch a.status {
	case http.StatusOK:
		b = append(b, a.frame.Prepared.(*prepared).fields...)
	case http.StatusNotModified:
		b = append(b, a.frame.Prepared.(*prepared).same...)
	case http.StatusNoContent:
		b = append(b, sharedFields...)
	default:
		b = append(b, sharedFields+"Content-Length: 0\r\n"...)
	}
	b = append(b, "Cache-Control: "...)
	b = append(b, a.cache...)
	if drain {
		b = append(b, "\r\nSentry: drain"...)
	}
	if last {
		b = append(b, "\r\nConnection: close"...)
	}
	return append(b, "\r\n\r\n"...)
}

// sharedFields let a page of another server read an answer.
const sharedFields = "Access-Control-Allow-Origin: *\r\nAccess-Control-Expose-Headers: " + exposed + "\r\n"

// tooMany is the answer to a connection for which there is no room.
func tooMany() string {
	return "HTTP/1.1 503 Service Unavailable\r\n" + sharedFields + "Retry-After: " + retryAfter() +
		"\r\nCache-Control: no-store\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
}

// retryAfter is a time in seconds that is not the same for all, so that they do not all come back at once.
func retryAfter() string { return strconv.Itoa(5 + rand.IntN(11)) }

// file is the file that body can be sent from, taken; nil: there is none.
func (c *conn) file(a *answer, body []byte) *file {
	if c.raw == nil || body == nil || c.request.what == byNumber {
		return nil
	}
	return c.s.files.take(a.frame)
}

// send sends head, and n bytes of a file, which it gives back if there is one.
func (c *conn) send(head []byte, f *file, n int) {
	b := c.b
	b.head, b.file, b.off, b.left = head, f, 0, n
	if err := c.raw.Write(c.out); err != nil {
		c.err = err
	}
	b.head, b.file = nil, nil
	if f != nil {
		f.give()
	}
}

// push sends what the socket takes of c.b; false: there is more.
func (c *conn) push(fd uintptr) bool {
	b := c.b
	for len(b.head) > 0 || b.left > 0 {
		n := 0
		var err error
		if len(b.head) > 0 {
			n, err = send(fd, b.head, b.left > 0)
			b.head = b.head[max(0, n):]
		} else {
			n, err = sendfile(fd, b.file.fd, &b.off, b.left)
			b.left -= max(0, n)
		}
		switch {
		case err == syscall.EINTR:
		case err == syscall.EAGAIN:
			return false
		case err != nil:
			c.err = err
			return true
		case n == 0:
			c.err = io.ErrUnexpectedEOF // the file has as many bytes as it was given
			return true
		}
	}
	return true
}

// write writes head, which is c.b.out, and body: with one call if it is plain, with one for each record if it is TLS.
func (c *conn) write(head, body []byte) {
	b := c.b
	switch {
	case c.tls != nil:
		// The first record takes as much of the body as there is room for.
		n := min(len(body), len(b.out)-len(head))
		head = append(head, body[:n]...)
		if _, c.err = c.tls.Write(head); c.err == nil && n < len(body) {
			_, c.err = c.tls.Write(body[n:])
		}
	case len(body) == 0 && c.raw != nil:
		c.send(head, nil, 0)
	case len(body) == 0:
		_, c.err = c.Conn.Write(head)
	case c.tcp == nil:
		if _, c.err = c.Conn.Write(head); c.err == nil {
			_, c.err = c.Conn.Write(body)
		}
	default:
		b.pair = [2][]byte{head, body}
		b.vec = b.pair[:]
		_, c.err = b.vec.WriteTo(c.tcp)
	}
}
