package network_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"widecloud/internal/netio"
)

// sniffer keeps the frames that a device receives.
type sniffer struct {
	mu     sync.Mutex
	frames [][]byte
}

// sniff listens on a device until the test ends.
func (w *world) sniff(ns *netio.NS, device string) *sniffer {
	w.t.Helper()
	l, err := ns.Link(device)
	must(w.t, err)
	const all = 0x0300 // ETH_P_ALL in network byte order
	var fd int
	must(w.t, ns.Do(func() (err error) {
		if fd, err = syscall.Socket(syscall.AF_PACKET, syscall.SOCK_RAW, all); err != nil {
			return err
		}
		return errors.Join(syscall.Bind(fd, &syscall.SockaddrLinklayer{Protocol: all, Ifindex: l.Index}),
			syscall.SetsockoptInt(fd, syscall.SOL_SOCKET, syscall.SO_RCVBUF, 8<<20),
			syscall.SetsockoptTimeval(fd, syscall.SOL_SOCKET, syscall.SO_RCVTIMEO, &syscall.Timeval{Usec: 100_000}))
	}))
	s := &sniffer{}
	ended := make(chan struct{})
	var stop atomic.Bool
	go func() {
		defer close(ended)
		b := make([]byte, 1<<16)
		for !stop.Load() {
			k, from, err := syscall.Recvfrom(fd, b, 0)
			if err != nil {
				continue
			}
			if ll, ok := from.(*syscall.SockaddrLinklayer); ok && ll.Pkttype == syscall.PACKET_OUTGOING {
				continue
			}
			s.mu.Lock()
			s.frames = append(s.frames, bytes.Clone(b[:k]))
			s.mu.Unlock()
		}
	}()
	w.t.Cleanup(func() {
		stop.Store(true)
		<-ended
		syscall.Close(fd)
	})
	return s
}

// count tells how many frames contain what.
func (s *sniffer) count(what []byte) (k int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, f := range s.frames {
		if bytes.Contains(f, what) {
			k++
		}
	}
	return k
}

var markers atomic.Int64

// mark is eight bytes that no other frame has.
func mark() []byte {
	return binary.BigEndian.AppendUint64(nil, 0xc0ffee00_00000000+uint64(markers.Add(1)))
}

// drops tells how often the host's rules of a comment have dropped something.
func (h *host) drops(comment string) (k int) {
	h.w.t.Helper()
	for line := range strings.Lines(run(h.w.t, h.ns, "nft", "list", "ruleset")) {
		if i := strings.Index(line, "counter packets "); i >= 0 && strings.Contains(line, `"`+comment+`"`) {
			var p int
			fmt.Sscanf(line[i:], "counter packets %d", &p)
			k += p
		}
	}
	return k
}

// within tells whether f comes to hold, for what is an error of one case and not the end of the test.
func within(t *testing.T, what string, f func() error) bool {
	t.Helper()
	var err error
	for end := time.Now().Add(5 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if err = f(); err == nil {
			return true
		}
	}
	t.Errorf("%s: %v", what, err)
	return false
}

// sendFrames puts frames on a device, in one go.
func sendFrames(t *testing.T, ns *netio.NS, device string, frames ...[]byte) {
	t.Helper()
	l, err := ns.Link(device)
	must(t, err, ns.Do(func() error {
		fd, err := syscall.Socket(syscall.AF_PACKET, syscall.SOCK_RAW, 0)
		if err != nil {
			return err
		}
		defer syscall.Close(fd)
		for _, f := range frames {
			if err := syscall.Sendto(fd, f, 0, &syscall.SockaddrLinklayer{Ifindex: l.Index}); err != nil {
				return err
			}
		}
		return nil
	}))
}
