package site_test

import (
	"net/netip"
	"testing"

	"pgregory.net/rapid"

	"widecloud/internal/lab/topic/site"
)

// TestPlan: two links of whatever sites and machines share no address, each end has
// the other in its prefix, and a site's machines are in its underlay.
func TestPlan(t *testing.T) {
	shared, all := netip.MustParsePrefix("100.64.0.0/10"), netip.MustParsePrefix("2001:db8::/32")
	type link struct{ trunk, site, machine int }
	addrs := func(l link) []netip.Prefix {
		if l.trunk > 0 {
			return site.TrunkAddrs(l.trunk)
		}
		return site.LeafAddrs(l.site, l.machine)
	}
	draw := func(t *rapid.T, name string) link {
		if rapid.Bool().Draw(t, name+" is a trunk") {
			return link{trunk: rapid.IntRange(1, site.MaxTrunks-1).Draw(t, name)}
		}
		return link{site: rapid.IntRange(1, site.MaxSites).Draw(t, name+"'s site"), machine: rapid.IntRange(1, site.FirstHost+site.MaxHosts-1).Draw(t, name)}
	}
	rapid.Check(t, func(t *rapid.T) {
		one, two := draw(t, "one"), draw(t, "two")
		a, b := addrs(one), addrs(two)
		for _, p := range a {
			if !shared.Contains(p.Addr()) && !all.Contains(p.Addr()) {
				t.Fatalf("%+v has %s", one, p)
			}
			if one.trunk == 0 && p.Addr().Is6() && !site.Underlay(one.site).Contains(p.Addr()) {
				t.Fatalf("%s is not in site %d's underlay", p, one.site)
			}
			for _, q := range b {
				if one != two && p.Overlaps(q) {
					t.Fatalf("%+v and %+v share %s and %s", one, two, p, q)
				}
			}
		}
		if a[0].Masked() != a[2].Masked() || a[1].Masked() != a[3].Masked() || a[0] == a[2] || a[1] == a[3] {
			t.Fatalf("the ends of %+v: %v", one, a)
		}
	})
}
