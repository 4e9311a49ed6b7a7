package site

import (
	"fmt"
	"net/netip"
	"strings"

	"widecloud/internal/lab/stage"
)

// The sites' address plan: shared address space (RFC 6598) and a documentation
// prefix for the underlay, and for VMs' networks another part of that.
var anycastVTEP = netip.MustParseAddr("2001:db8:ffff::646")

// Limits of the plan: a site's links are numbered, and so are those between sites.
const (
	maxSites  = 500
	maxHosts  = 1000
	maxTrunks = 1 << 16
)

// pools are the address plan of every site: the whole federation shares its networks' and service prefixes.
func pools(s *stage.Services) string {
	var b strings.Builder
	for _, p := range []struct{ name, use, prefix, except string }{
		{"networks", "networks", stage.Networks.String(), ""},
		// Without the translators' own addresses.
		{"public4", "addresses", s.V4.String(), lastOf(s.V4, 28)},
		{"public6", "addresses", s.V6.String(), lastOf(s.V6, 124)},
	} {
		fmt.Fprintf(&b, "[pool.%s]\nuse = %q\nprefixes = [%q]\npeers = [\"*\"]\n", p.name, p.use, p.prefix)
		if p.except != "" {
			fmt.Fprintf(&b, "except = [%q]\n", p.except)
		}
	}
	return b.String()
}

// lastOf are the last addresses of a /24 or a /64, as a prefix of a length: those of
// the last byte, or the last two.
func lastOf(p netip.Prefix, length int) string {
	if p.Addr().Is4() {
		a := p.Addr().As4()
		a[3] = 0xf0
		return netip.PrefixFrom(netip.AddrFrom4(a), length).String()
	}
	a := p.Addr().As16()
	a[14], a[15] = 0xff, 0xf0
	return netip.PrefixFrom(netip.AddrFrom16(a), length).String()
}

// cable is a point-to-point link's addresses, at either end.
type cable struct{ a, b []netip.Prefix }

// underlay is where the machines of site number s are.
func underlay(s int) netip.Prefix {
	return netip.MustParsePrefix(fmt.Sprintf("2001:db8:%x::/48", 0x1000+s))
}

// link is point-to-point link number n of the IPv4 underlay, with these addresses in
// IPv6: a /30 of 100.64.0.0/10.
func link(n int, six string) cable {
	at := func(n int) netip.Prefix {
		return netip.PrefixFrom(netip.AddrFrom4([4]byte{100, byte(64 + n>>16), byte(n >> 8), byte(n)}), 30)
	}
	p := netip.MustParsePrefix(six)
	one := p.Addr().Next()
	return cable{
		a: []netip.Prefix{at(4*n + 1), netip.PrefixFrom(one, 64)},
		b: []netip.Prefix{at(4*n + 2), netip.PrefixFrom(one.Next(), 64)},
	}
}

// leaf is the link between site number s's router (a) and its machine number m.
func leaf(s, m int) cable { return link(s<<10|m, fmt.Sprintf("2001:db8:%x:%x::/64", 0x1000+s, m)) }

// trunk is link number n between routers of sites, or of a site and the Internet.
func trunk(n int) cable { return link(1<<19|n, fmt.Sprintf("2001:db8:2000:%x::/64", n)) }

// routerID of machine n of those of a site that are routers (1 or 2).
func routerID(site, n int) netip.Addr {
	return netip.AddrFrom4([4]byte{11, byte(site >> 8), byte(site), byte(n)})
}
