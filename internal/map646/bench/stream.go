package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strconv"
	"syscall"
	"time"
)

// threads lists the threads of this process.
func threads() []int {
	var out []int
	entries, _ := os.ReadDir("/proc/self/task")
	for _, e := range entries {
		if n, err := strconv.Atoi(e.Name()); err == nil {
			out = append(out, n)
		}
	}
	return out
}

// chunk is how much a stream reads and writes at a time.
const chunk = 128 << 10

// cubic sets a socket's congestion control, whatever the machine's default: bbr
// paces, which costs timers.
func cubic(_, _ string, c syscall.RawConn) (err error) {
	if e := c.Control(func(fd uintptr) {
		err = syscall.SetsockoptString(int(fd), syscall.IPPROTO_TCP, syscall.TCP_CONGESTION, "cubic")
	}); e != nil {
		return e
	}
	return err
}

// listen takes connections of both families; they inherit the congestion control.
func listen(port int) (*net.TCPListener, error) {
	c := net.ListenConfig{Control: cubic}
	l, err := c.Listen(context.Background(), "tcp", fmt.Sprintf("[::]:%d", port))
	if err != nil {
		return nil, err
	}
	return l.(*net.TCPListener), nil
}

// A stream is a connection that carries slices of traffic, one after the other and
// either way. Both ends are told when a slice begins, and who sends it; he sends
// chunks, the last of which is marked by its first byte. There is nothing else on the
// connection: a message of a few bytes would shift all that follows in the kernel's
// pages, and a copy costs many times as much if its destination is a few bytes ahead
// of its source modulo 4096.
type stream struct {
	c   net.Conn
	buf []byte // a chunk, which begins a page
}

func newStream(c net.Conn) stream { return stream{c, make([]byte, chunk)} }

// lastChunk is the first byte of a slice's last chunk; of others it is 0.
const lastChunk = 1

// push sends chunks until it is time for the last one, and returns the number of
// bytes.
func (s stream) push(until time.Time) (sent uint64, err error) {
	for s.buf[0] = 0; s.buf[0] != lastChunk; {
		if !time.Now().Before(until) {
			s.buf[0] = lastChunk
		}
		n, err := s.c.Write(s.buf)
		sent += uint64(n)
		if err != nil {
			return sent, err
		}
	}
	return sent, nil
}

// pull reads to the end of the last chunk, and returns the number of bytes.
func (s stream) pull() (got uint64, err error) {
	in, last := 0, false // how far into a chunk, and whether it is the last
	for {
		n, err := s.c.Read(s.buf)
		got += uint64(n)
		for rest := s.buf[:n]; len(rest) > 0; {
			if in == 0 {
				last = rest[0] == lastChunk
			}
			some := min(chunk-in, len(rest))
			rest = rest[some:]
			if in += some; in == chunk {
				in = 0
				if last {
					return got, nil
				}
			}
		}
		if err != nil {
			return got, err
		}
	}
}

// patience is how long a stream's end waits for the other.
const patience = 10 * time.Second

// connect opens streams, in place of those that are open.
func (e *end) connect(o order) error {
	e.hangUp()
	for range o.Streams {
		d := net.Dialer{Timeout: patience, Control: cubic}
		c, err := d.Dial("tcp", netip.AddrPortFrom(o.To.Addr(), portStream).String())
		if err != nil {
			return err
		}
		e.streams = append(e.streams, newStream(c))
	}
	return nil
}

// accept takes the other end's streams, in place of those that are open.
func (e *end) accept(o order) error {
	e.hangUp()
	for range o.Streams {
		if err := e.listener.SetDeadline(time.Now().Add(patience)); err != nil {
			return err
		}
		c, err := e.listener.Accept()
		if err != nil {
			return err
		}
		e.streams = append(e.streams, newStream(c))
	}
	return nil
}

func (e *end) hangUp() {
	for _, s := range e.streams {
		s.c.Close()
	}
	e.streams = nil
}

// slice sends, or receives, on all open streams at once.
func (e *end) slice(o order) (answer, error) {
	type result struct {
		n   uint64
		err error
	}
	results := make(chan result, len(e.streams))
	start := time.Now()
	until := start.Add(time.Duration(o.Seconds * 1e9))
	for _, s := range e.streams {
		go func() {
			var r result
			if r.err = s.c.SetDeadline(until.Add(patience)); r.err == nil {
				if o.Op == "push" {
					r.n, r.err = s.push(until)
				} else {
					r.n, r.err = s.pull()
				}
			}
			results <- r
		}()
	}
	var a answer
	var errs []error
	for range e.streams {
		r := <-results
		a.Bytes += r.n
		errs = append(errs, r.err)
	}
	a.Seconds = since(start)
	return a, errors.Join(errs...)
}

// serveWeb is a web server with one page of 4 KB, at any path.
func serveWeb() error {
	page := append([]byte("<!DOCTYPE html><title>bench</title>"), bytes.Repeat([]byte("0123456789abcde\n"), 256)...)
	l, err := listen(portWeb)
	if err != nil {
		return err
	}
	s := &http.Server{ReadHeaderTimeout: 5 * time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		w.Write(page)
	})}
	return s.Serve(l)
}
