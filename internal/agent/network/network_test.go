package network_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"widecloud/internal/agent/network"
)

// everywhere applies the network to the hosts that carry it: all that are named.
func (w *world) everywhere(n network.Network, hosts ...string) {
	w.t.Helper()
	for _, name := range hosts {
		w.apply(w.hosts[name], w.wantAmong(w.hosts[name], n, hosts))
	}
}

// wantAmong is what the controller tells h: hypervisors flood to all, gateways to hypervisors.
func (w *world) wantAmong(h *host, n network.Network, hosts []string) network.Want {
	n.Endpoints = slices.Clone(n.Endpoints)
	n.Flood = nil
	for _, name := range hosts {
		if o := w.hosts[name]; o != h && (h.role.Hypervisor || o.role.Hypervisor) {
			n.Flood = append(n.Flood, o.vtep)
		}
	}
	return network.Want{VTEP: h.vtep, Role: h.role, AnycastVTEP: anycast, Networks: []network.Network{n}}
}

func TestGuestConfiguresItself(t *testing.T) {
	w := newWorld(t, "h1", "h2", "g1")
	w.steer("g1", "g1")
	h1, n := w.hosts["h1"], blue()
	a := endpoint(n, "a", 1, h1)
	n.Endpoints = []network.Endpoint{a}
	w.everywhere(n, "h1", "h2", "g1")
	g := w.plug(h1, n, a)
	g.slaac()

	if routes := g.run("ip", "-6", "route", "show", "default"); !strings.HasPrefix(routes, "default via fe80::1 dev eth0 proto ra") || strings.Contains(routes, "\ndefault") {
		t.Errorf("default route: %s", routes)
	}
	if mtu, err := g.ns.GetSysctl("net/ipv6/conf/eth0/mtu"); err != nil || mtu != "1430" {
		t.Errorf("MTU from RA = %s %v", mtu, err)
	}
	addr, opts, err := g.dhcp()
	must(t, err)
	if addr != a.IPv4 || !cmp.Equal(opts[26], []byte{1430 >> 8, 1430 & 0xff}) || opts[3] != nil || !cmp.Equal(opts[1], []byte{255, 255, 0, 0}) {
		t.Errorf("DHCP: %s %v", addr, opts)
	}
	leases, err := h1.d.Leases(t.Context())
	must(t, err)
	if len(leases) != 1 || leases[0].IPv4 != a.IPv4 || leases[0].MAC.String() != a.MAC.String() || leases[0].Hostname != "a" || leases[0].Expires.Before(time.Unix(1, 0)) {
		t.Errorf("Leases = %+v", leases)
	}
	if other, err := w.hosts["h2"].d.Leases(t.Context()); err != nil || len(other) != 0 {
		t.Errorf("leases of a host that the VM is not at: %v %v", other, err)
	}
	w.eventually("seen", func() error { return h1.sees(n, a, "dhcp "+a.IPv4.String(), "neighbour "+a.IPv6.String()) })
	if other, err := w.hosts["h2"].d.Seen(t.Context(), n.UID, a.MAC); err != nil || len(other) != 0 {
		t.Errorf("seen at a host that the VM is not at: %v %v", other, err)
	}
	if _, err := h1.d.Seen(t.Context(), "none", a.MAC); !errors.Is(err, network.ErrUnknownNetwork) {
		t.Errorf("addresses on an unknown network: %v", err)
	}

	// A VM that comes later: its reservation and name are there without a new dnsmasq.
	pid := h1.pid(n)
	b := endpoint(n, "b", 2, h1)
	n.Endpoints = append(n.Endpoints, b)
	w.everywhere(n, "h1", "h2", "g1")
	gb := w.plug(h1, n, b)
	if addr, _, err := gb.dhcp(); err != nil || addr != b.IPv4 {
		t.Errorf("second VM's DHCP: %v %v", addr, err)
	}
	if h1.pid(n) != pid {
		t.Error("dnsmasq was restarted for a new VM")
	}
	w.eventually("name", func() error {
		var got []netip.Addr
		err := g.ns.Do(func() error {
			r := net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (c net.Conn, err error) {
				err = g.ns.Do(func() error {
					c, err = net.Dial("udp", "["+netip.MustParsePrefix(n.Prefix.String()).Addr().Next().String()+"]:53")
					return err
				})
				return c, err
			}}
			var err error
			got, err = r.LookupNetIP(t.Context(), "ip6", "b.blue.internal")
			return err
		})
		if err == nil && !slices.Equal(got, []netip.Addr{b.IPv6}) {
			err = fmt.Errorf("b.blue.internal = %v", got)
		}
		return err
	})
}

func (h *host) pid(n network.Network) string {
	h.w.t.Helper()
	b, err := os.ReadFile(filepath.Join(h.runDir, strings.TrimPrefix(network.BridgeName(n.UID), "br-"), "dhcp.pid"))
	must(h.w.t, err)
	return strings.TrimSpace(string(b))
}

func TestPacketsGoWhereTheyShould(t *testing.T) {
	w := newWorld(t, "h1", "h2", "h3", "g1", "g2")
	hosts := []string{"h1", "h2", "g1", "g2"}
	w.steer("g1", "g2")
	h1, h2, n := w.hosts["h1"], w.hosts["h2"], blue()
	a, b, c := endpoint(n, "a", 1, h1), endpoint(n, "b", 2, h1), endpoint(n, "c", 3, h2)
	n.Endpoints = []network.Endpoint{a, b, c}
	// h3 carries no network: whatever comes to its VXLAN port went astray.
	var stray net.PacketConn
	must(t, w.hosts["h3"].ns.Do(func() (err error) { stray, err = net.ListenPacket("udp6", ":4789"); return err }))
	defer stray.Close()
	w.everywhere(n, hosts...)
	ga, gb, gc := w.plug(h1, n, a), w.plug(h1, n, b), w.plug(h2, n, c)
	for _, g := range []*guest{ga, gb, gc} {
		g.static()
	}
	// A guest's own link-local address must be there before it can ask for neighbours.
	for _, g := range []*guest{ga, gb, gc} {
		w.eventually("link-local address", func() error {
			if out := g.run("ip", "-6", "addr", "show", "dev", "eth0", "tentative"); out != "" {
				return errors.New(out)
			}
			return nil
		})
	}
	gw := netip.MustParseAddr("2001:db8:b1ae:1::646")
	w.reach(ga.ns, "same host", b.IPv6)
	w.reach(ga.ns, "across hosts", c.IPv6)
	w.reach(gc.ns, "across hosts, back", a.IPv6)
	w.reach(ga.ns, "its router", netip.MustParseAddr("2001:db8:b1ae:1::1"))
	w.reach(ga.ns, "the gateway", gw)
	w.reach(ga.ns, "beyond, back by the other gateway", outside)
	w.reach(w.out, "from outside", c.IPv6)
	w.steer("g2", "g1")
	w.reach(ga.ns, "beyond after the other gateway took over", outside)
	w.reach(w.out, "from outside after that", a.IPv6)
	if _, err := try(ga.ns, "ping", "-n", "-c1", "-W3", "-Mdo", "-s", fmt.Sprint(1430-48), c.IPv6.String()); err != nil {
		t.Errorf("a full packet: %v", err)
	}

	w.unreachable(ga.ns, "the host's underlay address", h1.vtep)
	w.unreachable(ga.ns, "another host's underlay address", h2.vtep)
	must(t, stray.SetReadDeadline(time.Now()))
	if k, from, err := stray.ReadFrom(make([]byte, 2000)); err == nil {
		t.Errorf("a host that does not carry the network got %d bytes from %v", k, from)
	}

	// A migration: the VM's frames come from the other host before any controller says so.
	stale := map[string]network.Want{}
	for _, name := range hosts {
		stale[name] = w.wantAmong(w.hosts[name], n, hosts)
	}
	w.steer("g1", "g2")
	ga.move(h2, n)
	w.reach(w.out, "migrated VM from outside", a.IPv6)
	w.reach(gb.ns, "migrated VM from its old host", a.IPv6)
	w.reach(gc.ns, "migrated VM from its new host", a.IPv6)
	ga.send(slices.Concat(net.HardwareAddr{255, 255, 255, 255, 255, 255}, a.MAC, []byte{8, 6, 0, 1, 8, 0, 6, 4, 0, 1}, a.MAC, a.IPv4.AsSlice(), make([]byte, 6), a.IPv4.AsSlice()))
	w.eventually("addresses seen at the new host", func() error {
		return h2.sees(n, a, "neighbour "+a.IPv4.String(), "neighbour "+a.IPv6.String())
	})
	// What the network learned outlives an Apply of old news, of a restarted agent too.
	for _, name := range hosts {
		h := w.hosts[name]
		w.apply(h, stale[name])
		must(t, h.d.Close(t.Context()))
		h.start()
		w.apply(h, stale[name])
	}
	w.reach(w.out, "migrated VM after old news", a.IPv6)
	w.reach(gb.ns, "migrated VM after old news", a.IPv6)
	n.Endpoints[0].VTEP = h2.vtep
	w.everywhere(n, hosts...)
	w.reach(w.out, "migrated VM after the news", a.IPv6)

	// A migration whose announcement was lost: the controller's word makes up for it.
	for _, name := range []string{"h1", "h2"} {
		run(t, w.hosts[name].ns, "nft", "table ip6 nw-mute { chain output { type filter hook output priority 0; udp dport 4789 drop; }; }")
	}
	ga.move(h1, n)
	for _, name := range []string{"h1", "h2"} {
		run(t, w.hosts[name].ns, "nft", "delete table ip6 nw-mute")
	}
	n.Endpoints[0].VTEP = h1.vtep
	w.everywhere(n, hosts...)
	w.reach(w.out, "VM that moved in silence", a.IPv6)
}

func TestHostThatIsBoth(t *testing.T) {
	for _, hosts := range [][]string{{"h1", "b1"}, {"h1", "b1", "b2", "g1"}} {
		t.Run(strings.Join(hosts, ","), func(t *testing.T) {
			w := newWorld(t, hosts...)
			h1, b1, n := w.hosts["h1"], w.hosts["b1"], blue()
			a, b := endpoint(n, "a", 1, h1), endpoint(n, "b", 2, b1)
			n.Endpoints = []network.Endpoint{a, b}
			w.everywhere(n, hosts...)
			ga, gb := w.plug(h1, n, a), w.plug(b1, n, b)
			ga.slaac()
			gb.slaac()
			gw := netip.MustParseAddr("2001:db8:b1ae:1::646")
			for _, toVTEP := range hosts[1:] {
				for _, toPrefix := range hosts[1:] {
					w.steer(toVTEP, toPrefix)
					what := toVTEP + " out, " + toPrefix + " in: "
					w.reach(ga.ns, what+"VM at a hypervisor", outside)
					w.reach(gb.ns, what+"VM at a host that is both", outside)
					w.reach(w.out, what+"from outside, a", a.IPv6)
					w.reach(w.out, what+"from outside, b", b.IPv6)
				}
				w.reach(ga.ns, "gateway", gw)
				w.reach(gb.ns, "gateway", gw)
			}
			w.reach(ga.ns, "a to b", b.IPv6)
			w.steer("b1", "b1")
			ga.move(b1, n)
			w.reach(w.out, "migrated VM", a.IPv6)
			gb.move(h1, n)
			w.reach(w.out, "VM that migrated away", b.IPv6)
			w.reach(gb.ns, "b to a", a.IPv6)
			w.unreachable(ga.ns, "an underlay address", h1.vtep)
			w.unreachable(ga.ns, "the host's underlay address", b1.vtep)
			again := func() { w.everywhere(n, hosts...) }
			addr := func() {
				run(t, b1.ns, "ip", "addr", "add", "203.0.113.99/32", "dev", "lo")
				run(t, b1.ns, "ip", "addr", "del", "203.0.113.99/32", "dev", "lo")
			}
			if out := watch(t, b1.ns, again, addr, "203.0.113.99", "ip", "-o", "monitor", "link", "address", "route", "rule", "netconf"); len(out) > 0 {
				t.Errorf("events of a second Apply: %s", strings.Join(out, "\n"))
			}
		})
	}
}

// snapshot is what the kernel has, but for counters and what learning changes.
func (h *host) snapshot() string {
	h.w.t.Helper()
	var b strings.Builder
	for _, args := range [][]string{
		{"ip", "-o", "link"}, {"ip", "-o", "addr"}, {"ip", "-6", "route", "show", "table", "all"}, {"ip", "-6", "rule"}, {"ip", "-4", "rule"}, {"nft", "-s", "list", "ruleset"},
	} {
		for line := range strings.Lines(run(h.w.t, h.ns, args...)) {
			if !strings.Contains(line, "pref") { // the state of timers
				b.WriteString(line)
			}
		}
	}
	return b.String()
}

func TestApplyAgainChangesNothing(t *testing.T) {
	w := newWorld(t, "h1", "g1")
	n, red := blue(), blue()
	red.UID, red.Name, red.VNI, red.Prefix = "77e1-red", "red", 101, netip.MustParsePrefix("2001:db8:b1ae:2::/64")
	n.Endpoints = []network.Endpoint{endpoint(n, "a", 1, w.hosts["h1"]), endpoint(n, "b", 2, w.hosts["g1"])}
	red.Endpoints = []network.Endpoint{endpoint(red, "a", 1, w.hosts["h1"])}
	for _, name := range []string{"h1", "g1"} {
		h := w.hosts[name]
		clean := h.snapshot()
		want := w.wantAmong(h, n, []string{"h1", "g1"})
		want.Networks = append(want.Networks, w.wantAmong(h, red, []string{"h1", "g1"}).Networks...)
		w.apply(h, want)
		again := func() {
			w.apply(h, want)
			must(t, h.d.Close(t.Context()))
			h.start()
			w.apply(h, want)
		}
		var pid string
		if h.role.Hypervisor {
			pid = h.pid(n)
		}
		toggle := func(add, del []string) func() {
			return func() { run(t, h.ns, add...); run(t, h.ns, del...) }
		}
		addr := toggle([]string{"ip", "addr", "add", "203.0.113.99/32", "dev", "lo"}, []string{"ip", "addr", "del", "203.0.113.99/32", "dev", "lo"})
		if out := watch(t, h.ns, again, addr, "203.0.113.99", "ip", "-o", "monitor", "link", "address", "route", "rule", "netconf"); len(out) > 0 {
			t.Errorf("%s: events: %s", name, strings.Join(out, "\n"))
		}
		vx := network.VXLANName(n.UID)
		fdb := toggle([]string{"bridge", "fdb", "add", "02:00:00:00:00:77", "dev", vx, "dst", "2001:db8::77", "self"}, []string{"bridge", "fdb", "del", "02:00:00:00:00:77", "dev", vx, "self"})
		if out := watch(t, h.ns, again, fdb, "02:00:00:00:00:77", "bridge", "monitor", "fdb"); len(out) > 0 {
			t.Errorf("%s: forwarding entries: %s", name, strings.Join(out, "\n"))
		}
		nft := toggle([]string{"nft", "add table ip nw-marker"}, []string{"nft", "delete table ip nw-marker"})
		if out := watch(t, h.ns, again, nft, "nw-marker", "nft", "monitor"); len(out) > 0 {
			t.Errorf("%s: nft events: %s", name, strings.Join(out, "\n"))
		}
		if h.role.Hypervisor && h.pid(n) != pid {
			t.Errorf("%s: dnsmasq was restarted", name)
		}

		// What others broke is mended.
		good := h.snapshot()
		for _, broken := range [][]string{
			{"ip", "link", "set", vx, "down"},
			{"ip", "link", "set", vx, "mtu", "1400"},
			{"ip", "link", "del", vx},
			{"nft", "flush chain bridge widecloud to-fabric"},
			{"nft", "delete table inet widecloud"},
			{"ip", "addr", "flush", "dev", map[bool]string{true: h.d.Bridge(n.UID), false: vx}[h.role.Hypervisor]},
			{"bridge", "fdb", "del", "00:00:00:00:00:00", "dev", vx, "dst", want.Networks[0].Flood[0].String(), "self"},
		} {
			run(t, h.ns, broken...)
			w.apply(h, want)
		}
		if flood := run(t, h.ns, "bridge", "fdb", "show", "dev", vx); strings.Count(flood, "00:00:00:00:00:00 dst") != len(want.Networks[0].Flood) {
			t.Errorf("%s: flood list after mending: %s", name, flood)
		}
		// Device numbers and random MACs of what was made anew differ, so compare without them.
		if diff := cmp.Diff(settled(good), settled(h.snapshot())); diff != "" {
			t.Errorf("%s: after mending (-good +now):\n%s", name, diff)
		}

		// One network goes, the other stays.
		less := want
		less.Networks = want.Networks[1:]
		w.apply(h, less)
		if left := h.snapshot(); strings.Contains(left, strings.TrimPrefix(vx, "vx-")) || strings.Contains(left, n.Prefix.Addr().String()) || !strings.Contains(left, network.VXLANName(red.UID)) {
			t.Errorf("%s: after one network went:\n%s", name, left)
		}
		must(t, h.d.Remove(t.Context()))
		if diff := cmp.Diff(settled(clean), settled(h.snapshot())); diff != "" {
			t.Errorf("%s: after Remove (-before +now):\n%s", name, diff)
		}
		if procs, err := exec.Command("ip", "netns", "pids", h.ns.Name()).CombinedOutput(); err != nil || len(procs) > 0 {
			t.Errorf("%s: processes left: %s %v", name, procs, err)
		}
		if _, err := os.Stat(h.runDir); !os.IsNotExist(err) {
			t.Errorf("%s: run directory left: %v", name, err)
		}
		h.start()
	}
}

// settled drops what changes whenever a device is made anew.
func settled(snapshot string) []string {
	var out []string
	for line := range strings.Lines(snapshot) {
		if strings.Contains(line, "vx-") && strings.Contains(line, "link/ether") {
			line = line[strings.Index(line, "vx-"):strings.Index(line, "link/ether")]
		}
		f := strings.Fields(line)
		if len(f) > 1 && strings.HasSuffix(f[0], ":") {
			f = f[1:]
		}
		out = append(out, strings.Join(f, " "))
	}
	slices.Sort(out)
	return out
}

func TestRestartDisturbsNoPacket(t *testing.T) {
	w := newWorld(t, "h1", "h2", "g1")
	hosts := []string{"h1", "h2", "g1"}
	w.steer("g1", "g1")
	h1, n := w.hosts["h1"], blue()
	a := endpoint(n, "a", 1, h1)
	n.Endpoints = []network.Endpoint{a}
	w.everywhere(n, hosts...)
	g := w.plug(h1, n, a)
	g.slaac()
	w.reach(g.ns, "before", outside)
	const pings = 150
	lost := make(chan string, 1)
	go func() {
		out, err := try(g.ns, "ping", "-n", "-q", "-i0.01", "-W3", "-c", fmt.Sprint(pings), outside.String())
		lost <- fmt.Sprint(out, err)
	}()
	for range 3 {
		for _, name := range hosts {
			h := w.hosts[name]
			must(t, h.d.Close(t.Context()))
			h.start()
			w.apply(h, w.wantAmong(h, n, hosts))
		}
	}
	if out := <-lost; !strings.Contains(out, fmt.Sprintf("%d received", pings)) {
		t.Errorf("pings while agents restarted: %s", out)
	}
	// dnsmasq that died is started again, with the lease that it knew.
	_, _, err := g.dhcp()
	must(t, err)
	run(t, h1.ns, "kill", "-9", h1.pid(n))
	pid := h1.pid(n)
	w.eventually("new dnsmasq", func() error {
		w.apply(h1, w.wantAmong(h1, n, hosts))
		if h1.pid(n) == pid {
			return errors.New("old pid")
		}
		return nil
	})
	if leases, err := h1.d.Leases(t.Context()); err != nil || len(leases) != 1 {
		t.Errorf("leases after dnsmasq's end: %v %v", leases, err)
	}
}
