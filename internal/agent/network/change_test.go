package network_test

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"widecloud/internal/agent/network"
)

// A network's and a host's properties change while it is carried; each Apply leads to the same as a new host would have.
func TestChangesLeadToTheSame(t *testing.T) {
	w := newWorld(t, "h1", "h2", "g1")
	hosts := []string{"h1", "h2", "g1"}
	w.steer("g1", "g1")
	h1, n := w.hosts["h1"], blue()
	n.IPv4 = netip.Prefix{}
	a := endpoint(n, "a", 1, h1)
	n.Endpoints = []network.Endpoint{a}
	w.everywhere(n, hosts...)
	g := w.plug(h1, n, a)
	g.slaac()
	w.reach(g.ns, "without IPv4", outside)
	if leases, err := h1.d.Leases(t.Context()); err != nil || len(leases) != 0 {
		t.Errorf("leases: %v %v", leases, err)
	}

	n.IPv4 = blue().IPv4
	n.Endpoints[0].IPv4 = netip.MustParseAddr("10.64.1.1")
	w.everywhere(n, hosts...)
	if addr, _, err := g.dhcp(); err != nil || addr != n.Endpoints[0].IPv4 {
		t.Errorf("IPv4 added: %v %v", addr, err)
	}

	n.VNI = 4242
	w.everywhere(n, hosts...)
	w.reach(g.ns, "another VNI", outside)
	w.reach(w.out, "another VNI", a.IPv6)
	if rules := run(t, h1.ns, "ip", "-6", "rule"); !strings.Contains(rules, "lookup 646004242") || strings.Contains(rules, "lookup 646000100") {
		t.Errorf("rules after the VNI changed: %s", rules)
	}
	if old := run(t, h1.ns, "ip", "-6", "route", "show", "table", "all"); strings.Contains(old, "646000100") {
		t.Errorf("the old VNI's routes are left: %s", old)
	}

	for _, role := range []network.Role{{Hypervisor: true, Gateway: true}, {Gateway: true}, {Hypervisor: true}} {
		h := w.hosts["h2"]
		h.role = role
		w.everywhere(n, hosts...)
		changed := settled(h.snapshot())
		must(t, h.d.Remove(t.Context()))
		if left := h.snapshot(); strings.Contains(left, "widecloud") || strings.Contains(left, "vx-") || strings.Contains(left, "br-") || strings.Contains(left, anycast.String()) {
			t.Errorf("%+v: left after Remove: %s", role, left)
		}
		h.start()
		w.everywhere(n, hosts...)
		if diff := cmp.Diff(settled(h.snapshot()), changed); diff != "" {
			t.Errorf("%+v (-made new +changed to):\n%s", role, diff)
		}
	}
	// No gateways any more: nothing leaves, and nothing falls through to the underlay.
	for _, name := range []string{"h1", "h2"} {
		want := w.wantAmong(w.hosts[name], n, []string{"h1", "h2"})
		want.AnycastVTEP = netip.Addr{}
		w.apply(w.hosts[name], want)
	}
	if out := run(t, h1.ns, "ip", "-6", "route", "show", "table", "646004242"); strings.Contains(out, "fe80::646") || !strings.Contains(out, "blackhole default") {
		t.Errorf("routes without gateways: %s", out)
	}
	w.unreachable(g.ns, "beyond without gateways", outside)
}
