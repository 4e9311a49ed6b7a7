package lab

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"strings"
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

// pools are the address plan of every site: the whole federation shares its networks' and service prefixes.
var pools = []struct{ name, use, prefix, except string }{
	{"networks", "networks", "2001:db8:b000::/36", ""},
	// Without the translators' own addresses.
	{"public4", "addresses", servicePrefix4.String(), "203.0.113.240/28"},
	{"public6", "addresses", servicePrefix6.String(), "2001:db8:f::fff0/124"},
}

// poolsText is the pools as a site's configuration has them.
func poolsText() string {
	var b strings.Builder
	for _, p := range pools {
		fmt.Fprintf(&b, "[pool.%s]\nuse = %q\nprefixes = [%q]\npeers = [\"*\"]\n", p.name, p.use, p.prefix)
		if p.except != "" {
			fmt.Fprintf(&b, "except = [%q]\n", p.except)
		}
	}
	return b.String()
}

// cable is a point-to-point link's addresses, at either end.
type cable struct{ a, b []netip.Prefix }

// underlay is where the machines of site number s are.
func underlay(s int) netip.Prefix { return netip.MustParsePrefix(fmt.Sprintf("2001:db8:%x::/48", s)) }

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

// The data centre's plan. Its links to the Internet have public addresses, so
// that what a router there says of itself can be translated, too.
var (
	world6      = netip.MustParsePrefix("2000::/3") // all that is global
	dcPrefix    = netip.MustParsePrefix("2001:db8:a::/48")
	dcLoopback  = netip.MustParsePrefix("2001:db8:a:ffff::1/128") // of the data centre's router
	dns64Addr   = netip.MustParseAddr("2001:db8:64:53::1")        // of all translators
	namesAddr4  = netip.MustParseAddr("192.0.2.2")
	namesAddr6  = netip.MustParseAddr("2001:db8:53::2")
	fillOutside = netip.MustParsePrefix("10.192.0.0/12") // mappings of nobody's
	fillInside  = netip.MustParsePrefix("2001:db8:a:ff00::/64")
	churnInside = netip.MustParsePrefix("2001:db8:a:ff01::/64")
)

// maxFill is how many mappings of nobody's there can be; the last addresses are
// the translators' own.
const maxFill = 1_000_000

// outsideLink is translator number t's way to the Internet's router (a),
// insideLink its way to the data centre's.
func outsideLink(t int) cable {
	return cable{
		a: prefixes("192.0.2.%d/30", 129+4*t, "2001:db8:1:%x::1/64", t),
		b: prefixes("192.0.2.%d/30", 130+4*t, "2001:db8:1:%x::2/64", t),
	}
}

func insideLink(t int) cable {
	return cable{a: prefixes("2001:db8:2:%x::1/64", t), b: prefixes("2001:db8:2:%x::2/64", t)}
}

// wayOutAddr is the address on translator number t's device to which the data
// centre's router sends what leaves.
func wayOutAddr(t int) netip.Addr {
	return netip.MustParseAddr(fmt.Sprintf("2001:db8:ffff::%x", t))
}

// prefixes takes formats, each with its number.
func prefixes(formats ...any) (l []netip.Prefix) {
	for i := 0; i < len(formats); i += 2 {
		l = append(l, netip.MustParsePrefix(fmt.Sprintf(formats[i].(string), formats[i+1])))
	}
	return l
}

// link is a server's cable to its router (a).
func (s *ServerStmt) link() cable {
	switch s.At {
	case "inet4":
		return cable{a: prefixes("192.0.2.%d/30", 4*s.number+1), b: prefixes("192.0.2.%d/30", 4*s.number+2)}
	case "inet6":
		return cable{a: prefixes("2001:db8:c:%x::1/64", s.number), b: prefixes("2001:db8:c:%x::10/64", s.number)}
	}
	return cable{a: prefixes("2001:db8:a:%x::1/64", s.number), b: prefixes("2001:db8:a:%x::10/64", s.number)}
}

// addr is the server's own address.
func (s *ServerStmt) addr() netip.Addr { return s.link().b[0].Addr() }

// embed puts an IPv4 address under the federation's prefix (RFC 6052, /96).
func embed(a netip.Addr) netip.Addr {
	b, four := pref64.Addr().As16(), a.As4()
	copy(b[12:], four[:])
	return netip.AddrFrom16(b)
}

// fillPair is mapping number i of nobody's.
func fillPair(i int) (outside, inside netip.Addr) {
	o := fillOutside.Addr().As4()
	n := uint32(i + 1)
	o[1] |= byte(n >> 16)
	o[2], o[3] = byte(n>>8), byte(n)
	return netip.AddrFrom4(o), numbered(fillInside, n)
}

// numbered is an address of a /64.
func numbered(p netip.Prefix, n uint32) netip.Addr {
	b := p.Addr().As16()
	binary.BigEndian.PutUint32(b[12:], n)
	return netip.AddrFrom16(b)
}
