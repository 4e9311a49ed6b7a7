package network_test

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"widecloud/internal/agent/network"
	"widecloud/internal/cloud"
	"widecloud/internal/netio"
	"widecloud/internal/netplan"
)

var (
	anycast = netip.MustParseAddr("2001:db8:fff::646")
	outside = netip.MustParseAddr("2001:db8:900::2")
	blueNet = netip.MustParsePrefix("2001:db8:b1ae:1::/64")
)

// world is an underlay: a router, and hosts and an outside host that hang on it.
type world struct {
	t      *testing.T
	router *netio.NS
	out    *netio.NS
	hosts  map[string]*host
}

var nss atomic.Int64 // number of namespaces made: their names differ

// host is a host of a federation; its driver acts in its namespace.
type host struct {
	w      *world
	name   string
	ns     *netio.NS
	vtep   netip.Addr
	role   network.Role
	runDir string
	d      *network.Driver
	want   network.Want // as it was applied last
}

// guest is a namespace in place of a VM.
type guest struct {
	w    *world
	ns   *netio.NS
	port string // the host's end of its plug
	at   *host
	ep   network.Endpoint
}

func newWorld(t *testing.T, hosts ...string) *world {
	t.Helper()
	t.Parallel() // they wait for the kernel's timers, mostly
	w := &world{t: t, hosts: map[string]*host{}}
	w.router = w.newNS("u")
	must(t, w.router.SetForwarding(true))
	w.out = w.cable("out", 0x900)
	for i, name := range hosts {
		h := &host{w: w, name: name, ns: w.cable(name, i+1), vtep: netip.MustParseAddr(fmt.Sprintf("2001:db8:%x::2", i+1))}
		h.role = network.Role{Hypervisor: name[0] != 'g', Gateway: name[0] != 'h'}
		h.runDir = runDir(t)
		if h.role.Gateway {
			must(t, h.ns.SetForwarding(true))
		}
		h.start()
		w.hosts[name] = h
		t.Cleanup(func() {
			if err := h.d.Remove(context.Background()); err != nil {
				t.Errorf("remove %s: %v", name, err)
			}
		})
	}
	return w
}

func runDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "nw")
	must(t, err, os.Chmod(dir, 0o755))
	t.Cleanup(func() { os.RemoveAll(dir) })
	return filepath.Join(dir, "run")
}

func (h *host) start() {
	h.w.t.Helper()
	d, err := network.New(network.Options{Logger: slog.New(slog.NewTextHandler(io.Discard, nil)), RunDir: h.runDir, NS: h.ns})
	must(h.w.t, err)
	h.d = d
}

func (w *world) newNS(suffix string) *netio.NS {
	w.t.Helper()
	name := fmt.Sprintf("nw%d-%d-%s", os.Getpid(), nss.Add(1), suffix)
	ns, err := netio.CreateNS(name)
	must(w.t, err)
	w.t.Cleanup(func() {
		ns.Close()
		if err := netio.DeleteNS(name); err != nil {
			w.t.Error(err)
		}
	})
	return ns
}

// cable makes a namespace with a cable to the router: 2001:db8:N::2, default route to the router.
func (w *world) cable(name string, n int) *netio.NS {
	w.t.Helper()
	ns := w.newNS(name)
	port := "r-" + name
	must(w.t,
		ns.AddVeth(netio.VethSpec{Name: "eth0", Peer: w.router, PeerName: port}),
		ns.SetUp("eth0"), w.router.SetUp(port),
		ns.AddAddr("eth0", netip.MustParsePrefix(fmt.Sprintf("2001:db8:%x::2/64", n))),
		w.router.AddAddr(port, netip.MustParsePrefix(fmt.Sprintf("2001:db8:%x::1/64", n))),
		ns.AddRoute(netio.Route{Dst: netip.MustParsePrefix("::/0"), Gateway: netip.MustParseAddr(fmt.Sprintf("2001:db8:%x::1", n)), Link: "eth0"}))
	return ns
}

// steer sends, on the underlay, the anycast VTEP to one gateway and a network's prefix to another.
func (w *world) steer(toVTEP, toPrefix string) {
	w.t.Helper()
	must(w.t,
		w.router.ReplaceRoute(netio.Route{Dst: netip.PrefixFrom(anycast, 128), Gateway: w.hosts[toVTEP].vtep}),
		w.router.ReplaceRoute(netio.Route{Dst: blueNet, Gateway: w.hosts[toPrefix].vtep}))
}

// plug makes a guest at h. Its end of the cable is eth0, with the endpoint's MAC.
func (w *world) plug(h *host, n network.Network, ep network.Endpoint) *guest {
	w.t.Helper()
	g := &guest{w: w, ns: w.newNS(ep.VM), port: "p-" + ep.VM, at: h, ep: ep}
	must(w.t,
		g.ns.Sysctl("net/ipv6/conf/default/router_solicitation_delay", "0"),
		g.ns.AddVeth(netio.VethSpec{Name: "eth0", Peer: h.ns, PeerName: g.port, MAC: ep.MAC, PeerMAC: hostMAC(ep.MAC)}),
		h.ns.SetMaster(g.port, h.d.Bridge(n.UID)), h.ns.SetUp(g.port))
	g.letIn()
	must(w.t, g.ns.SetUp("eth0")) // no guest speaks before it has booted
	return g
}

// letIn waits until the host knows the guest's plug.
func (g *guest) letIn() {
	g.w.t.Helper()
	g.w.eventually("plug "+g.port+" is let in", func() error {
		if out := run(g.w.t, g.at.ns, "nft", "list", "set", "bridge", "widecloud", "ports"); !strings.Contains(out, `"`+g.port+`"`) {
			return errors.New(out)
		}
		return nil
	})
}

// hostMAC is the MAC that libvirt gives the host's end of a plug.
func hostMAC(mac net.HardwareAddr) net.HardwareAddr {
	return slices.Concat(net.HardwareAddr{0xfe}, mac[1:])
}

// move takes the guest's plug to another host, and says so as QEMU does at the end of a migration: by RARP (RFC 903). The host
// that it leaves knows of the migration, no other.
func (g *guest) move(to *host, n network.Network) {
	g.w.t.Helper()
	g.leave(n)
	must(g.w.t, g.at.ns.MoveLink(g.port, to.ns), to.ns.SetMaster(g.port, to.d.Bridge(n.UID)), to.ns.SetUp(g.port))
	g.at = to
	g.letIn()
	// Frames pass once the kernel has seen the carrier come back.
	g.w.eventually("carrier", func() error {
		for ns, args := range map[*netio.NS][]string{g.ns: {"ip", "link", "show", "eth0"}, to.ns: {"bridge", "link", "show", "dev", g.port}} {
			if out := run(g.w.t, ns, args...); !strings.Contains(out, "state UP") && !strings.Contains(out, "state forwarding") {
				return errors.New(out)
			}
		}
		return nil
	})
	g.send(rarp(g.ep.MAC, g.ep.MAC))
}

// leave tells the guest's host that it migrates away.
func (g *guest) leave(n network.Network) {
	g.w.t.Helper()
	want := g.at.want
	want.Networks = slices.Clone(want.Networks)
	for i := range want.Networks {
		w := &want.Networks[i]
		w.Endpoints = slices.Clone(w.Endpoints)
		for k, e := range w.Endpoints {
			w.Endpoints[k].Leaving = e.Leaving || w.UID == n.UID && e.VM == g.ep.VM
		}
	}
	g.w.apply(g.at, want)
}

// send puts a frame on the guest's cable.
func (g *guest) send(frame []byte) {
	g.w.t.Helper()
	l, err := g.ns.Link("eth0")
	must(g.w.t, err, g.ns.Do(func() error {
		fd, err := syscall.Socket(syscall.AF_PACKET, syscall.SOCK_RAW, 0)
		if err != nil {
			return err
		}
		defer syscall.Close(fd)
		return syscall.Sendto(fd, frame, 0, &syscall.SockaddrLinklayer{Ifindex: l.Index})
	}))
}

// slaac waits until the guest has its address by SLAAC.
func (g *guest) slaac() {
	g.w.t.Helper()
	g.w.eventually("SLAAC of "+g.ep.VM, func() error {
		addrs, err := g.ns.Addrs("eth0")
		if err == nil && !slices.Contains(addrs, netip.PrefixFrom(g.ep.IPv6, 64)) {
			err = fmt.Errorf("addresses %v, want %v", addrs, g.ep.IPv6)
		}
		if err != nil {
			return err
		}
		if out := g.run("ip", "-6", "addr", "show", "dev", "eth0", "tentative"); out != "" {
			return fmt.Errorf("tentative: %s", out)
		}
		return nil
	})
}

// static gives the guest what RA would, at once.
func (g *guest) static() {
	g.w.t.Helper()
	must(g.w.t, g.ns.Sysctl("net/ipv6/conf/eth0/accept_ra", "0"))
	// A router may have been quicker, and the address is there already.
	g.run("ip", "-6", "addr", "flush", "dev", "eth0", "scope", "global")
	g.run("ip", "-6", "route", "flush", "dev", "eth0", "proto", "ra")
	must(g.w.t, g.ns.SetMTU("eth0", network.DefaultMTU),
		g.ns.AddAddr("eth0", netip.PrefixFrom(g.ep.IPv6, 64)),
		g.ns.ReplaceRoute(netio.Route{Dst: netip.MustParsePrefix("::/0"), Gateway: network.RouterAddr, Link: "eth0"}))
}

func (g *guest) run(args ...string) string { g.w.t.Helper(); return run(g.w.t, g.ns, args...) }

func run(t *testing.T, ns *netio.NS, args ...string) string {
	t.Helper()
	out, err := try(ns, args...)
	must(t, err)
	return out
}

func try(ns *netio.NS, args ...string) (string, error) {
	cmd := exec.Command(args[0], args[1:]...)
	var out, stderr strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &stderr
	err := ns.Do(cmd.Start)
	if err == nil {
		err = cmd.Wait()
	}
	if err != nil {
		return "", fmt.Errorf("%s: %w: %s%s", strings.Join(args, " "), err, out.String(), stderr.String())
	}
	return out.String(), nil
}

// reach sends one echo request, no second, and wants the answer.
func (w *world) reach(from *netio.NS, what string, to netip.Addr) {
	w.t.Helper()
	if _, err := try(from, "ping", "-n", "-c1", "-W3", to.String()); err != nil {
		w.t.Errorf("%s: %v", what, err)
	}
}

func (w *world) unreachable(from *netio.NS, what string, to netip.Addr) {
	w.t.Helper()
	if _, err := try(from, "ping", "-n", "-c1", "-W1", to.String()); err == nil {
		w.t.Errorf("%s: %s answers", what, to)
	}
}

func (w *world) eventually(what string, f func() error) {
	w.t.Helper()
	var err error
	for range 750 {
		if err = f(); err == nil {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	w.t.Fatalf("%s: %v", what, err)
}

func (w *world) apply(h *host, want network.Want) {
	w.t.Helper()
	if err := h.d.Apply(context.Background(), want); err != nil {
		w.t.Fatalf("%s: %v", h.name, err)
	}
	h.want = want
}

func blue() network.Network {
	return network.Network{Spec: netplan.Spec{
		UID: "6a1c7f0e-blue", Name: "blue", VNI: 100, Prefix: blueNet, IPv4: netip.MustParsePrefix("10.64.0.0/16"), MTU: 1430,
	}}
}

func endpoint(n network.Network, name string, i int, at *host) network.Endpoint {
	mac := net.HardwareAddr{0x02, 0x57, 0x43, byte(n.VNI), 0x10, byte(i)}
	e := network.Endpoint{VM: name, MAC: mac, IPv6: cloud.EUI64(n.Prefix, cloud.HardwareAddr(mac)), Hostname: name, VTEP: at.vtep}
	if n.IPv4.IsValid() {
		a := n.IPv4.Addr().As4()
		a[2], a[3] = 1, byte(i)
		e.IPv4 = netip.AddrFrom4(a)
	}
	return e
}

// dhcp is a client that asks for an address (RFC 2131 §4.4.1), from a guest without one, and takes the first offer.
func (g *guest) dhcp() (addr netip.Addr, options map[byte][]byte, err error) {
	var conn net.PacketConn
	err = g.ns.Do(func() error {
		lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
			var err error
			c.Control(func(fd uintptr) {
				err = errors.Join(syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_BROADCAST, 1),
					syscall.SetsockoptString(int(fd), syscall.SOL_SOCKET, syscall.SO_BINDTODEVICE, "eth0"))
			})
			return err
		}}
		conn, err = lc.ListenPacket(context.Background(), "udp4", "0.0.0.0:68")
		return err
	})
	if err != nil {
		return
	}
	defer conn.Close()
	exchange := func(opts ...byte) error {
		m := make([]byte, 240)
		m[0], m[1], m[2] = 1, 1, 6
		binary.BigEndian.PutUint32(m[4:], 0x57430001)
		m[10] = 0x80 // answer by broadcast
		copy(m[28:], g.ep.MAC)
		copy(m[236:], []byte{99, 130, 83, 99})
		m = append(append(m, opts...), 55, 4, 1, 3, 6, 26, 255)
		for range 5 {
			if _, err := conn.WriteTo(m, &net.UDPAddr{IP: net.IPv4bcast, Port: 67}); err != nil {
				return err
			}
			conn.SetReadDeadline(time.Now().Add(time.Second))
			b := make([]byte, 1500)
			k, _, err := conn.ReadFrom(b)
			if errors.Is(err, os.ErrDeadlineExceeded) {
				continue
			}
			if err != nil || k < 240 {
				return fmt.Errorf("answer of %d bytes: %w", k, err)
			}
			addr = netip.AddrFrom4([4]byte(b[16:20]))
			options = map[byte][]byte{}
			for o := b[240:k]; len(o) > 1 && o[0] != 255; {
				if o[0] == 0 {
					o = o[1:]
					continue
				}
				options[o[0]] = o[2 : 2+o[1]]
				o = o[2+o[1]:]
			}
			return nil
		}
		return errors.New("no answer")
	}
	if err = exchange(53, 1, 1); err != nil { // DISCOVER
		return
	}
	ip := addr.As4()
	err = exchange(slices.Concat([]byte{53, 1, 3, 50, 4}, ip[:], []byte{54, 4}, options[54])...) // REQUEST
	if err == nil && (len(options[53]) != 1 || options[53][0] != 5) {
		err = fmt.Errorf("request was answered by type %v", options[53])
	}
	return
}

// watch runs a monitor program in the namespace and returns its output up to the line that mark's effect shows in.
func watch(t *testing.T, ns *netio.NS, during, mark func(), marker string, args ...string) []string {
	t.Helper()
	cmd := exec.Command(args[0], args[1:]...)
	stdout, err := cmd.StdoutPipe()
	must(t, err, ns.Do(cmd.Start))
	defer func() { cmd.Process.Kill(); cmd.Wait() }()
	lines := bufio.NewScanner(stdout)
	read := make(chan string)
	go func() {
		defer close(read)
		for lines.Scan() {
			read <- lines.Text()
		}
	}()
	stop := time.After(20 * time.Second)
	next := func(again time.Duration) (string, bool) {
		select {
		case l, ok := <-read:
			if !ok {
				t.Fatalf("%v ended", args)
			}
			return l, true
		case <-time.After(again):
			return "", false
		case <-stop:
			t.Fatalf("%v shows nothing of %q", args, marker)
			return "", false
		}
	}
	// It listens once it shows the first mark.
	for ready := false; !ready; {
		mark()
		l, ok := next(200 * time.Millisecond)
		ready = ok && strings.Contains(l, marker)
	}
	for quiet := false; !quiet; {
		_, ok := next(300 * time.Millisecond)
		quiet = !ok
	}
	during()
	mark()
	var out []string
	for {
		l, ok := next(10 * time.Second)
		if ok && strings.Contains(l, marker) {
			go func() {
				for range read {
				}
			}()
			return out
		}
		out = append(out, l)
	}
}

func must(t *testing.T, errs ...error) {
	t.Helper()
	for _, err := range errs {
		if err != nil {
			t.Fatal(err)
		}
	}
}

// counted is a program in place of nft that runs it and keeps count.
type counted struct{ file string }

// path makes the program in a directory.
func (c *counted) path(t *testing.T, dir string) string {
	t.Helper()
	c.file = filepath.Join(dir, "runs")
	path := filepath.Join(dir, "nft")
	must(t, os.WriteFile(path, []byte("#!/bin/sh\necho run >> "+c.file+"\nexec nft \"$@\"\n"), 0o755))
	return path
}

func (c *counted) runs(t *testing.T) int {
	t.Helper()
	b, err := os.ReadFile(c.file)
	must(t, err)
	return strings.Count(string(b), "run\n")
}

// sees tells whether the host has seen each of these of a VM within the last minute: "SOURCE ADDRESS", with " refused" behind it if
// the filters drop it.
func (h *host) sees(n network.Network, ep network.Endpoint, want ...string) error {
	seen, err := h.d.Seen(context.Background(), n.UID, ep.MAC)
	if err != nil {
		return err
	}
	for _, s := range want {
		if !slices.ContainsFunc(seen, func(have network.Sighting) bool {
			text := fmt.Sprintf("%s %s", have.Source, have.Addr)
			if have.Refused {
				text += " refused"
			}
			age := time.Since(have.At)
			return text == s && age > -5*time.Second && age < time.Minute
		}) {
			return fmt.Errorf("%q is not seen: %+v", s, seen)
		}
	}
	return nil
}
