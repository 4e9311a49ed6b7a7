package network_test

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
)

// TestAnycastIsOnNoDevice: a gateway takes packets for the gateways' common address, whoever has it beside; but lo, whose
// address the routing daemon would prefer to the translator's and not announce, never has it.
func TestAnycastIsOnNoDevice(t *testing.T) {
	w := newWorld(t, "h1", "g1")
	g, n := w.hosts["g1"], blue()
	p := netip.PrefixFrom(anycast, 128)
	for _, there := range []bool{false, true, false, true} {
		if there {
			must(t, g.ns.AddAddr("eth0", p)) // it stands for the translator's device
		}
		w.everywhere(n, "h1", "g1")
		lo, err := g.ns.Addrs("lo")
		must(t, err)
		if slices.Contains(lo, p) {
			t.Errorf("lo has the address; another device: %v", there)
		}
		if there {
			must(t, g.ns.DelAddr("eth0", p))
		}
		if out := run(t, g.ns, "ip", "-6", "route", "show", "table", "local", anycast.String()); !strings.Contains(out, "local "+anycast.String()+" dev lo") {
			t.Errorf("with no other device that has it, packets for it are not taken: %q", out)
		}
	}
	must(t, g.d.Remove(t.Context()))
	if out := run(t, g.ns, "ip", "-6", "route", "show", "table", "local", anycast.String()); out != "" {
		t.Errorf("left after Remove: %s", out)
	}
}
