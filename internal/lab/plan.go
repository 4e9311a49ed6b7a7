package lab

import (
	"fmt"
	"net/netip"
)

// The federation's address plan. Documentation prefixes only, and 10.0.0.0/8,
// which is the underlay's IPv4.
var (
	servicePrefix4 = netip.MustParsePrefix("203.0.113.0/24")
	servicePrefix6 = netip.MustParsePrefix("2001:db8:f::/64")
	pref64         = netip.MustParsePrefix("2001:db8:64::/96")
	anycastVTEP    = netip.MustParseAddr("2001:db8:ffff::646")
	client4Addr    = netip.MustParsePrefix("198.51.100.7/24")
	client4Router  = netip.MustParsePrefix("198.51.100.1/24")
	client6Addr    = netip.MustParsePrefix("2001:db8:c::7/64")
	client6Router  = netip.MustParsePrefix("2001:db8:c::1/64")
)

// cable is a point-to-point link's addresses, at either end.
type cable struct{ a, b []netip.Prefix }

// leaf is the link between site number s's router (a) and its machine number m.
func leaf(s, m int) cable {
	p := func(f string, args ...any) netip.Prefix { return netip.MustParsePrefix(fmt.Sprintf(f, args...)) }
	return cable{
		a: []netip.Prefix{p("10.%d.%d.1/30", s, m), p("2001:db8:%x:%x::1/64", s, m)},
		b: []netip.Prefix{p("10.%d.%d.2/30", s, m), p("2001:db8:%x:%x::2/64", s, m)},
	}
}

// trunk is the link between the routers of sites s and t, or with t = 0 between
// site s's and the Internet's.
func trunk(s, t int) cable { return leaf(200+s, t) }
