package netio_test

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"widecloud/internal/netio"
)

func ipOut(t *testing.T, ns *netio.NS, arg ...string) string {
	t.Helper()
	var out []byte
	must(t, ns.Do(func() (err error) {
		out, err = exec.Command("ip", arg...).CombinedOutput()
		return err
	}))
	return string(out)
}

// dialUDP opens a socket inside a namespace.
func dialUDP(t *testing.T, ns *netio.NS, to string) (c net.Conn) {
	t.Helper()
	must(t, ns.Do(func() (err error) {
		c, err = net.Dial("udp", to)
		return err
	}))
	return c
}

func TestTUN(t *testing.T) {
	for _, offload := range []bool{false, true} {
		ns := newNS(t, map[bool]string{false: "tun", true: "tunv"}[offload])
		tun, err := ns.OpenTUN(netio.TUNSpec{Name: "t0", MTU: 1400, Queues: 2, Offload: offload})
		must(t, err)
		defer tun.Close()
		if _, err := ns.OpenTUN(netio.TUNSpec{Name: "t0"}); !errors.Is(err, fs.ErrExist) {
			t.Errorf("a second device of the same name: %v", err)
		}
		if l, err := ns.Link("t0"); err != nil || l.MTU != 1400 || len(tun.Queues()) != 2 {
			t.Errorf("link %+v, %v", l, err)
		}
		a, b := netip.MustParsePrefix("203.0.113.1/24"), netip.MustParsePrefix("203.0.113.2/24")
		must(t, tun.SetAddrs([]netip.Prefix{a}), tun.SetAddrs([]netip.Prefix{b}), tun.SetAddrs([]netip.Prefix{b}))
		if out := ipOut(t, ns, "-4", "addr", "show", "dev", "t0"); strings.Contains(out, "113.1/") || !strings.Contains(out, "113.2/24") {
			t.Errorf("addresses:\n%s", out)
		}
		// What goes out by the device comes to one of the queues, whole.
		c := dialUDP(t, ns, "203.0.113.77:9")
		defer c.Close()
		got := make(chan []byte, 2)
		for _, q := range tun.Queues() {
			go func() {
				buf := make([]byte, 70000)
				for {
					n, _, err := q.Read(buf, 64)
					if err != nil {
						if !errors.Is(err, os.ErrClosed) {
							t.Errorf("read: %v", err)
						}
						return
					}
					if n > 28 && buf[64]>>4 == 4 {
						got <- append([]byte(nil), buf[64:64+n]...)
					}
				}
			}()
		}
		if _, err := c.Write([]byte("hello")); err != nil {
			t.Fatal(err)
		}
		p := <-got
		if string(p[28:]) != "hello" {
			t.Errorf("read %x", p)
		}
		// And what is written comes in: the same packet with its ends exchanged.
		var src, dst [4]byte
		copy(src[:], p[12:16])
		copy(dst[:], p[16:20])
		buf := make([]byte, 64, 200)
		buf = append(buf, p...)
		copy(buf[64+12:], dst[:])
		copy(buf[64+16:], src[:])
		sp, dp := [2]byte(p[20:22]), [2]byte(p[22:24])
		copy(buf[64+20:], dp[:])
		copy(buf[64+22:], sp[:])
		buf[64+26], buf[64+27] = 0, 0
		must(t, tun.Queues()[0].Write(buf, 64, len(p), netio.VNetHeader{}))
		answer := make([]byte, 100)
		if n, err := c.Read(answer); err != nil || string(answer[:n]) != "hello" {
			t.Errorf("answer %q, %v", answer[:n], err)
		}
		must(t, tun.Close())
		if _, err := ns.Link("t0"); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("after Close: %v", err)
		}
	}
}

func TestLinkPolicy(t *testing.T) {
	ns := newNS(t, "pol")
	tun, err := ns.OpenTUN(netio.TUNSpec{Name: "t0"})
	must(t, err)
	defer tun.Close()
	prefix := netip.MustParsePrefix
	p := netio.LinkPolicy{
		Link: "t0", Protocol: 246, Table: 647, Priority: 640,
		Routes:  []netip.Prefix{prefix("203.0.113.10/32"), prefix("2001:db8:f::10/128")},
		Sources: []netip.Prefix{prefix("2001:db8:a::10/128"), prefix("2001:db8:a::11/128")},
		Except:  []netip.Prefix{prefix("2001:db8:a::/64")},
	}
	all := func() string {
		return ipOut(t, ns, "-6", "rule") + ipOut(t, ns, "-4", "route", "show", "proto", "246") +
			ipOut(t, ns, "-6", "route", "show", "table", "all", "proto", "246")
	}
	must(t, ns.SyncLinkPolicy(p))
	first := all()
	for _, want := range []string{"640:\tfrom all iif t0 lookup main", "640:\tfrom all iif lo lookup main", "641:\tfrom all lookup 647", "203.0.113.10 dev t0",
		"2001:db8:f::10 dev t0", "default from 2001:db8:a::10 dev t0 table 647", "blackhole default from 2001:db8:a::11", "blackhole 203.0.113.10", "blackhole 2001:db8:f::10", "throw 2001:db8:a::/64"} {
		if !strings.Contains(first, want) {
			t.Errorf("no %q in\n%s", want, first)
		}
	}
	must(t, ns.SyncLinkPolicy(p))
	if again := all(); again != first {
		t.Errorf("the second time:\n%s\nthe first:\n%s", again, first)
	}
	// Another's routes are left alone.
	must(t, ns.AddRoute(netio.Route{Dst: prefix("198.51.100.0/24"), Link: "t0"}))
	p.Routes, p.Sources = p.Routes[1:], p.Sources[1:]
	must(t, ns.SyncLinkPolicy(p))
	if out := all(); strings.Contains(out, "203.0.113.10") || strings.Contains(out, "from 2001:db8:a::10") || !strings.Contains(out, "from 2001:db8:a::11") {
		t.Errorf("after taking away:\n%s", out)
	}
	if out := ipOut(t, ns, "route"); !strings.Contains(out, "198.51.100.0/24") {
		t.Errorf("another's route has gone:\n%s", out)
	}
	must(t, tun.Close(), ns.ClearLinkPolicy(p), ns.ClearLinkPolicy(p))
	if out := all(); strings.Contains(out, "647") || strings.Contains(out, "iif") || strings.Contains(out, "blackhole") {
		t.Errorf("after clearing:\n%s", out)
	}
	p.Table = 254
	if err := ns.SyncLinkPolicy(p); err == nil {
		t.Error("the main table was accepted as a table of one's own")
	}
}

// A detour leads one protocol to the device and nothing else, whatever was left
// behind by whom, and is as if it were not there when the device has gone.
func TestDetour(t *testing.T) {
	ns := newNS(t, "detour")
	tun, err := ns.OpenTUN(netio.TUNSpec{Name: "t0"})
	must(t, err)
	defer tun.Close()
	prefix := netip.MustParsePrefix
	must(t, ns.SetUp("lo"), ns.AddVeth(netio.VethSpec{Name: "v0", PeerName: "v1"}), ns.SetUp("v0"), ns.SetUp("v1"),
		ns.AddAddr("v0", prefix("2001:db8:1::1/64")), ns.AddAddr("v0", prefix("fe80::1/64")), ns.AddAddr("t0", prefix("2001:db8:f::ffff/64")),
		ns.AddRoute(netio.Route{Dst: prefix("::/0"), Gateway: netip.MustParseAddr("2001:db8:1::2")}))
	p := netio.LinkPolicy{
		Link: "t0", Protocol: 246, Table: 647, Priority: 640, Sources: []netip.Prefix{prefix("2001:db8:a::10/128")},
		Detour: 58, DetourMark: 1 << 26, DetourExcept: []netip.Prefix{prefix("2001:db8:f::/64")},
	}
	all := func() string {
		return ipOut(t, ns, "-6", "rule") + ipOut(t, ns, "-6", "route", "show", "table", "all", "proto", "246")
	}
	before := all()
	must(t, ns.SyncLinkPolicy(p))
	first := all()
	for _, c := range []struct{ args, want string }{
		{"2001:db8:c::7 from 2001:db8:2::2 iif v0 ipproto ipv6-icmp", "dev t0"},
		{"2001:db8:c::7 from 2001:db8:2::2 iif v0 ipproto tcp", "dev v0"},
		{"2001:db8:c::7 from 2001:db8:2::2 iif v0 ipproto ipv6-icmp mark 0x4000001", "dev v0"},
		{"2001:db8:c::7 from 2001:db8:a::10 iif v0 ipproto ipv6-icmp mark 0x4000000", "dev t0"}, // a way of its own
		{"2001:db8:c::7 from 2001:db8:2::2 iif t0 ipproto ipv6-icmp", "dev v0"},
		{"2001:db8:c::7 from 2001:db8:1::1 ipproto ipv6-icmp", "dev t0"},
		{"2001:db8:c::7 ipproto ipv6-icmp", "dev v0"}, // a socket that has no source yet
		{"2001:db8:f::9 from 2001:db8:2::2 iif v0 ipproto ipv6-icmp", "dev t0 proto kernel"},
		{"fe80::9 from fe80::1 oif v0 ipproto ipv6-icmp", "dev v0"},
		{"ff02::1 from fe80::1 oif v0 ipproto ipv6-icmp", "dev v0"},
	} {
		if out := ipOut(t, ns, append([]string{"-6", "route", "get"}, strings.Fields(c.args)...)...); !strings.Contains(out, c.want) {
			t.Errorf("%s: no %q in %s", c.args, c.want, out)
		}
	}
	if missing, err := ns.MissingDetour(p); err != nil || missing != "" {
		t.Errorf("missing: %s, %v", missing, err)
	}
	must(t, ns.SetMTU("t0", 1280), ns.SyncLinkPolicy(p), ns.SetMTU("t0", 1500), ns.SyncLinkPolicy(p))
	if again := all(); again != first {
		t.Errorf("the second time:\n%s\nthe first:\n%s", again, first)
	}
	// Without it, and half of it, as a killed program may leave it.
	off := p
	off.Detour = 0
	must(t, ns.SyncLinkPolicy(off))
	if out := all(); strings.Contains(out, "648") || strings.Contains(out, "icmp") || strings.Contains(out, "nop") {
		t.Errorf("turned off:\n%s", out)
	}
	must(t, ns.SyncLinkPolicy(p))
	ipOut(t, ns, "-6", "rule", "del", "priority", "637")
	ipOut(t, ns, "-6", "route", "flush", "table", "648")
	if missing, err := ns.MissingDetour(p); err != nil || missing != "637: protocol 58 from t0 goto 642" {
		t.Errorf("missing: %s, %v", missing, err)
	}
	must(t, ns.SyncLinkPolicy(p))
	if again := all(); again != first {
		t.Errorf("mended:\n%s\nthe first:\n%s", again, first)
	}
	must(t, tun.Close())
	if out := ipOut(t, ns, "-6", "route", "get", "2001:db8:c::7", "from", "2001:db8:2::2", "iif", "v0", "ipproto", "ipv6-icmp"); !strings.Contains(out, "dev v0") {
		t.Errorf("without the device: %s", out)
	}
	must(t, ns.ClearLinkPolicy(p))
	if out := all(); out != before {
		t.Errorf("cleared:\n%s\nat first:\n%s", out, before)
	}
	for _, bad := range []netio.LinkPolicy{{Table: 647, Priority: 5}, {Table: 252, Priority: 640}} {
		bad.Link, bad.Protocol, bad.Detour = "lo", 246, 58
		if err := ns.SyncLinkPolicy(bad); err == nil {
			t.Errorf("accepted: %+v", bad)
		}
	}
}

// Queues go from one owner to the next without the device noticing, a parked
// queue keeps its packets, and Watch tells of devices that come.
func TestAdoptTUN(t *testing.T) {
	ns := newNS(t, "adopt")
	spec := netio.TUNSpec{Name: "t0", Queues: 2, Offload: true}
	tun, err := ns.OpenTUN(spec)
	must(t, err)
	defer tun.Close()
	a := netip.MustParsePrefix("2001:db8::1/64")
	must(t, tun.SetAddrs([]netip.Prefix{a}), tun.SetAddrs([]netip.Prefix{netip.PrefixFrom(a.Addr(), 128)}), tun.SetAddrs([]netip.Prefix{a}))
	if have, err := ns.Addrs("t0"); err != nil || !slices.Contains(have, a) {
		t.Errorf("addresses %v, %v", have, err)
	}
	// The IPv4 routes stay when the address goes, and whatever becomes of its length.
	four := netip.MustParsePrefix("203.0.113.1/24")
	must(t, tun.SetAddrs([]netip.Prefix{a, four}), ns.AddRoute(netio.Route{Dst: four.Masked(), Link: "t0", Metric: 1}))
	for _, want := range [][]netip.Prefix{{four, a}, {a}, {netip.PrefixFrom(four.Addr(), 32), a}, {four, a}} {
		must(t, tun.SetAddrs(want))
		if r, err := ns.RouteTo(netip.MustParseAddr("203.0.113.9"), netip.Addr{}, ""); err != nil || r.Link != "t0" {
			t.Errorf("with %v, the route has gone: %+v, %v", want, r, err)
		}
		have, err := ns.Addrs("t0")
		must(t, err)
		have = slices.DeleteFunc(have, func(p netip.Prefix) bool { return p.Addr().IsLinkLocalUnicast() })
		if d := cmp.Diff(want, have, cmpopts.EquateComparable(netip.Prefix{})); d != "" {
			t.Errorf("addresses: %s", d)
		}
	}
	for _, q := range tun.Queues() {
		must(t, q.Park())
		if _, _, err := q.Read(make([]byte, 70000), 64); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("read of a parked queue: %v", err)
		}
	}
	fds, err := tun.Descriptors()
	must(t, err)
	if _, err := ns.AdoptTUN(netio.TUNSpec{Name: "t1", Offload: true}, fds); err == nil {
		t.Error("adopted under another name")
	}
	// What cannot be adopted leaves nothing open of its own.
	open := func() int {
		list, err := os.ReadDir("/proc/self/fd")
		must(t, err)
		return len(list)
	}
	before := open()
	if _, err := ns.AdoptTUN(spec, []int{fds[0], 1 << 20}); !errors.Is(err, syscall.EBADF) {
		t.Errorf("adopted by what is no descriptor: %v", err)
	}
	if after := open(); after != before {
		t.Errorf("%d descriptors, %d before", after, before)
	}
	must(t, tun.Close())
	ctx, cancel := context.WithCancel(t.Context())
	changed, err := ns.Watch(ctx)
	must(t, err)
	again, err := ns.AdoptTUN(spec, fds)
	must(t, err)
	if l, err := ns.Link("t0"); err != nil || !l.Up {
		t.Errorf("adopted: %+v, %v", l, err)
	}
	if r, err := ns.RouteTo(netip.MustParseAddr("2001:db8::77"), netip.Addr{}, ""); err != nil || r.Link != "t0" {
		t.Errorf("route %+v, %v", r, err)
	}
	must(t, again.Close())
	if _, ok := <-changed; !ok {
		t.Error("the watch ended")
	}
	cancel()
	for range changed {
	}
	if _, err := ns.Link("t0"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("after Close: %v", err)
	}
}

// A queue that waits, with and without a packet a moment ago, holds up neither a
// collection of garbage nor Park and Close, although the runtime does not know that it
// waits; and a reader allocates nothing.
func TestTUNQueueWaits(t *testing.T) {
	ns := newNS(t, "waits")
	tun, err := ns.OpenTUN(netio.TUNSpec{Name: "t0", Offload: true})
	must(t, err)
	defer tun.Close()
	must(t, tun.SetAddrs([]netip.Prefix{netip.MustParsePrefix("203.0.113.1/24")}))
	c := dialUDP(t, ns, "203.0.113.77:9")
	defer c.Close()
	q := tun.Queues()[0]
	packets, ended := make(chan int), make(chan error)
	read := func() {
		buf := make([]byte, 70000)
		for {
			n, _, err := q.Read(buf, 64)
			if err != nil {
				ended <- err
				return
			}
			if n == 28+5 {
				packets <- n
			}
		}
	}
	hello := []byte("hello")
	send := func() {
		if _, err := c.Write(hello); err != nil {
			t.Fatal(err)
		}
		<-packets
	}
	go read()
	for range 20 {
		send()
		runtime.GC() // the queue waits on its own
	}
	for range 3 {
		send()
		must(t, q.Park())
		if err := <-ended; !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("parked in mid-wait: %v", err)
		}
		must(t, q.Unpark())
		go read()
	}
	must(t, q.Park(), q.Park())
	if err := <-ended; !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("parked while idle: %v", err)
	}
	must(t, q.Unpark(), q.Unpark())
	buf := make([]byte, 70000)
	each := testing.AllocsPerRun(100, func() {
		if _, err := c.Write(hello); err != nil {
			t.Fatal(err)
		}
		for n := 0; n != 28+5; {
			if n, _, err = q.Read(buf, 64); err != nil {
				t.Fatal(err)
			}
		}
	})
	if each != 0 {
		t.Errorf("a packet allocates %v objects", each)
	}
	go read()
	send()
	must(t, tun.Close(), tun.Close())
	if err := <-ended; !errors.Is(err, os.ErrClosed) {
		t.Errorf("closed in mid-wait: %v", err)
	}
	for what, err := range map[string]error{"park": q.Park(), "unpark": q.Unpark(), "write": q.Write(buf, 64, 33, netio.VNetHeader{})} {
		if !errors.Is(err, os.ErrClosed) {
			t.Errorf("%s after Close: %v", what, err)
		}
	}
}
