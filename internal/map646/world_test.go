package map646_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"widecloud/internal/map646"
	"widecloud/internal/netio"
)

// world is a set of namespaces that goes with the test.
type world struct {
	t  *testing.T
	ns map[string]*netio.NS
}

var worlds atomic.Int32

func newWorld(t *testing.T, names ...string) *world {
	t.Helper()
	w := &world{t: t, ns: map[string]*netio.NS{}}
	number := worlds.Add(1)
	for _, n := range names {
		full := fmt.Sprintf("m6t%d-%d-%s", os.Getpid(), number, n)
		ns, err := netio.CreateNS(full)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := errors.Join(ns.Close(), netio.DeleteNS(full)); err != nil {
				t.Error(err)
			}
		})
		w.ns[n] = ns
		// Without duplicate address detection of link-local addresses, which takes a
		// second, the first packets come through.
		w.must(ns.Sysctl("net/ipv6/conf/default/accept_dad", "0"), ns.SetUp("lo"))
	}
	return w
}

func (w *world) must(errs ...error) {
	w.t.Helper()
	if err := errors.Join(errs...); err != nil {
		w.t.Fatal(err)
	}
}

// link joins two namespaces; each end is named after the other one.
func (w *world) link(a, b string, mtu int, addrA, addrB []string) {
	w.t.Helper()
	w.must(w.ns[a].AddVeth(netio.VethSpec{Name: b, PeerName: a, Peer: w.ns[b], MTU: mtu}))
	for _, e := range []struct {
		ns, dev string
		addrs   []string
	}{{a, b, addrA}, {b, a, addrB}} {
		for _, s := range e.addrs {
			w.must(w.ns[e.ns].AddAddr(e.dev, netip.MustParsePrefix(s)))
		}
		w.must(w.ns[e.ns].SetUp(e.dev))
	}
}

func (w *world) route(ns, dst, via string) {
	w.t.Helper()
	w.must(w.ns[ns].AddRoute(netio.Route{Dst: netip.MustParsePrefix(dst), Gateway: netip.MustParseAddr(via)}))
}

// run runs a command inside a namespace and returns what it printed.
func (w *world) run(ns string, name string, arg ...string) string {
	w.t.Helper()
	out, err := w.try(ns, name, arg...)
	if err != nil {
		w.t.Fatalf("%s: %s %v: %v\n%s", ns, name, arg, err, out)
	}
	return out
}

func (w *world) try(ns string, name string, arg ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	var out bytes.Buffer
	cmd := exec.CommandContext(ctx, name, arg...)
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := w.ns[ns].Do(cmd.Start); err != nil {
		return "", err
	}
	err := cmd.Wait()
	return out.String(), err
}

// until waits for something that the kernel or a daemon brings about.
func (w *world) until(what string, limit time.Duration, f func() bool) {
	w.t.Helper()
	for end := time.Now().Add(limit); !f(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			w.t.Fatalf("%s: not after %v", what, limit)
		}
	}
}

// translator runs a daemon in this process, its device in a namespace. The
// configuration's %CONTROL% becomes a socket of the test's own.
func (w *world) translator(ns, conf string) (d *map646.Daemon, path, socket string) {
	w.t.Helper()
	dir := w.t.TempDir()
	path, socket = filepath.Join(dir, "map646.toml"), filepath.Join(dir, "s")
	w.config(path, conf, socket)
	d, err := map646.New(map646.Options{ConfigPath: path, NS: w.ns[ns], Log: slog.New(slog.NewTextHandler(w.t.Output(), nil))})
	w.must(err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- d.Run(ctx) }()
	w.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			w.t.Errorf("translator %s: %v", ns, err)
		}
		if out := w.run(ns, "ip", "-6", "rule"); strings.Contains(out, "proto 246") || strings.Contains(out, "647") || strings.Contains(out, "map646") {
			w.t.Errorf("rules left:\n%s", out)
		}
		if out := w.run(ns, "ip", "route") + w.run(ns, "ip", "-6", "route"); strings.Contains(out, "246") {
			w.t.Errorf("routes left:\n%s", out)
		}
	})
	w.until("control socket", 5*time.Second, func() bool {
		var s map646.Stats
		return map646.Control(ctx, socket, "stats", &s) == nil
	})
	return d, path, socket
}

func (w *world) config(path, conf, socket string) {
	w.t.Helper()
	// Replaced at once, as a careful program does it.
	w.must(os.WriteFile(path+".new", []byte(strings.ReplaceAll(conf, "%CONTROL%", socket)), 0o600), os.Rename(path+".new", path))
}

// serve serves size bytes of noise by TCP, and echoes UDP, on port 8080 of all
// addresses, and returns the noise's digest.
func (w *world) serve(ns string, size int, pause time.Duration) (digest [32]byte) {
	w.t.Helper()
	data := make([]byte, size)
	src := rand.NewChaCha8([32]byte{1, 2, 3})
	src.Read(data)
	var l net.Listener
	var u net.PacketConn
	w.must(w.ns[ns].Do(func() (err error) {
		if l, err = net.Listen("tcp", "[::]:8080"); err != nil {
			return err
		}
		u, err = net.ListenPacket("udp", "[::]:8080")
		return err
	}))
	done := make(chan struct{}, 2)
	w.t.Cleanup(func() { l.Close(); u.Close(); <-done; <-done })
	go func() {
		defer func() { done <- struct{}{} }()
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				for b := data; len(b) > 0; time.Sleep(pause) {
					n := min(len(b), 64<<10)
					if pause == 0 {
						n = len(b)
					}
					if _, err := c.Write(b[:n]); err != nil {
						return
					}
					b = b[n:]
				}
			}()
		}
	}()
	go func() {
		defer func() { done <- struct{}{} }()
		b := make([]byte, 65535)
		for {
			n, from, err := u.ReadFrom(b)
			if err != nil {
				return
			}
			u.WriteTo(b[:n], from)
		}
	}()
	return sha256.Sum256(data)
}

// download fetches it all; gap is the longest time without a byte.
func (w *world) download(ns, addr string) (digest [32]byte, n int64, gap time.Duration, err error) {
	var c net.Conn
	// On a busy machine a routing session may be lost for a moment, and a first
	// packet then finds no route; what counts is what happens to connections.
	for end := time.Now().Add(15 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		err = w.ns[ns].Do(func() (err error) {
			c, err = net.DialTimeout("tcp", addr, 10*time.Second)
			return err
		})
		if err == nil {
			break
		}
		if time.Now().After(end) {
			return digest, 0, 0, err
		}
	}
	defer c.Close()
	h := sha256.New()
	b := make([]byte, 256<<10)
	for last := time.Now(); ; {
		c.SetReadDeadline(time.Now().Add(30 * time.Second))
		m, err := c.Read(b)
		now := time.Now()
		gap = max(gap, now.Sub(last))
		last = now
		h.Write(b[:m])
		n += int64(m)
		if err == io.EOF {
			return [32]byte(h.Sum(nil)), n, gap, nil
		}
		if err != nil {
			return digest, n, gap, err
		}
	}
}

// echo sends a datagram and wants it back.
func (w *world) echo(ns, addr string, size int) {
	w.t.Helper()
	var c net.Conn
	w.must(w.ns[ns].Do(func() (err error) {
		c, err = net.Dial("udp", addr)
		return err
	}))
	defer c.Close()
	want := bytes.Repeat([]byte("0123456789"), size/10+1)[:size]
	got := make([]byte, 65535)
	var err error
	// The first big datagrams may go for finding out the path's MTU.
	for range 4 {
		if _, err = c.Write(want); err != nil {
			continue
		}
		c.SetReadDeadline(time.Now().Add(2 * time.Second))
		var n int
		if n, err = c.Read(got); err == nil {
			if !bytes.Equal(got[:n], want) {
				w.t.Fatalf("%s: echo of %d bytes from %s differs", ns, size, addr)
			}
			return
		}
	}
	w.t.Fatalf("%s: no echo of %d bytes from %s: %v", ns, size, addr, err)
}

func matches(text, pattern string) bool {
	return regexp.MustCompile(pattern).MatchString(text)
}
