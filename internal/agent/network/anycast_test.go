package network_test

import (
	"net/netip"
	"slices"
	"testing"
)

// TestAnycastFollowsTheTranslator: where the translator's device has the gateways' common address, lo has it not; when
// that device has gone, lo has it, until it comes back.
func TestAnycastFollowsTheTranslator(t *testing.T) {
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
		if slices.Contains(lo, p) == there {
			t.Errorf("another device has the address: %v; lo: %v", there, lo)
		}
		if there {
			must(t, g.ns.DelAddr("eth0", p))
		}
	}
}
