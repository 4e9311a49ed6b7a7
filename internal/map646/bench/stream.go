package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"sync"
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
func listen(port int) (net.Listener, error) {
	c := net.ListenConfig{Control: cubic}
	return c.Listen(context.Background(), "tcp", fmt.Sprintf("[::]:%d", port))
}

func listenTCP() error {
	for port, serve := range map[int]func(*net.TCPConn){portSink: serveSink, portSource: serveSource} {
		l, err := listen(port)
		if err != nil {
			return err
		}
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				go func() {
					defer c.Close()
					serve(c.(*net.TCPConn))
				}()
			}
		}()
	}
	return nil
}

var buffers = sync.Pool{New: func() any { return new([chunk]byte) }}

// drain reads to the end without splice or WriterTo, which would cost otherwise.
func drain(r io.Reader) (n uint64, err error) {
	buf := buffers.Get().(*[chunk]byte)
	defer buffers.Put(buf)
	b := buf[:]
	for {
		m, err := r.Read(b)
		n += uint64(m)
		if errors.Is(err, io.EOF) {
			return n, nil
		}
		if err != nil {
			return n, err
		}
	}
}

func serveSink(c *net.TCPConn) {
	n, err := drain(c)
	if err == nil {
		c.Write(binary.BigEndian.AppendUint64(nil, n))
	}
}

// serveSource writes until the client has closed its half, and then closes its
// own, so that each byte sent is a byte received.
func serveSource(c *net.TCPConn) {
	stop := make(chan struct{})
	go func() {
		defer close(stop)
		drain(c)
	}()
	buf := buffers.Get().(*[chunk]byte)
	defer buffers.Put(buf)
	b := buf[:]
	for {
		select {
		case <-stop:
			return
		default:
			if _, err := c.Write(b); err != nil {
				return
			}
		}
	}
}

// blast sends, or has the server send, on some streams at once.
func blast(o order) (answer, error) {
	port := uint16(portSink)
	if o.Reverse {
		port = portSource
	}
	var conns []*net.TCPConn
	for range max(o.Streams, 1) {
		d := net.Dialer{Timeout: 3 * time.Second, Control: cubic}
		c, err := d.Dial("tcp", net.JoinHostPort(o.To.Addr().String(), strconv.Itoa(int(port))))
		if err != nil {
			return answer{}, err
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(time.Duration(o.Seconds*1e9) + 10*time.Second))
		conns = append(conns, c.(*net.TCPConn))
	}
	type result struct {
		n   uint64
		err error
	}
	results := make(chan result, len(conns))
	start := time.Now()
	for _, c := range conns {
		go func() {
			n, err := pushOrPull(c, o.Reverse, start.Add(time.Duration(o.Seconds*1e9)))
			results <- result{n, err}
		}()
	}
	var a answer
	var errs []error
	for range conns {
		r := <-results
		a.Bytes += r.n
		errs = append(errs, r.err)
	}
	a.Seconds = since(start)
	return a, errors.Join(errs...)
}

func pushOrPull(c *net.TCPConn, pull bool, until time.Time) (uint64, error) {
	if pull {
		timer := time.AfterFunc(time.Until(until), func() { c.CloseWrite() })
		defer timer.Stop()
		return drain(c)
	}
	buf := buffers.Get().(*[chunk]byte)
	defer buffers.Put(buf)
	b := buf[:]
	var sent uint64
	for time.Now().Before(until) {
		n, err := c.Write(b)
		sent += uint64(n)
		if err != nil {
			return sent, err
		}
	}
	if err := c.CloseWrite(); err != nil {
		return sent, err
	}
	var reply [8]byte
	if _, err := io.ReadFull(c, reply[:]); err != nil {
		return sent, fmt.Errorf("the server's count: %w", err)
	}
	if got := binary.BigEndian.Uint64(reply[:]); got != sent {
		return sent, fmt.Errorf("%d bytes sent, %d received", sent, got)
	}
	return sent, nil
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
