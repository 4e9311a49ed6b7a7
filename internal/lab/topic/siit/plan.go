package siit

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"widecloud/internal/lab/stage"
)

// cable is a point-to-point link's addresses, at either end.
type cable struct{ a, b []netip.Prefix }

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

// maxServers is how many servers there can be at one place: 192.0.2.6, .10, … up to
// the translators' links.
const maxServers = 30

// outsideLink is translator number t's way to the Internet's router (a),
// insideLink its way to the data centre's.
func outsideLink(t int) cable {
	return cable{
		a: stage.Prefixes("192.0.2.%d/30", 129+4*t, "2001:db8:1:%x::1/64", t),
		b: stage.Prefixes("192.0.2.%d/30", 130+4*t, "2001:db8:1:%x::2/64", t),
	}
}

func insideLink(t int) cable {
	return cable{a: stage.Prefixes("2001:db8:2:%x::1/64", t), b: stage.Prefixes("2001:db8:2:%x::2/64", t)}
}

// wayOutAddr is the address on translator number t's device to which the data
// centre's router sends what leaves.
func wayOutAddr(t int) netip.Addr {
	return netip.MustParseAddr(fmt.Sprintf("2001:db8:ffff::%x", t))
}

// link is a server's cable to its router (a).
func (s *Server) link() cable {
	switch s.At {
	case "inet4":
		return cable{a: stage.Prefixes("192.0.2.%d/30", 4*s.number+1), b: stage.Prefixes("192.0.2.%d/30", 4*s.number+2)}
	case "inet6":
		return cable{a: stage.Prefixes("2001:db8:c:%x::1/64", s.number), b: stage.Prefixes("2001:db8:c:%x::10/64", s.number)}
	}
	return cable{a: stage.Prefixes("2001:db8:a:%x::1/64", s.number), b: stage.Prefixes("2001:db8:a:%x::10/64", s.number)}
}

// addr is the server's own address.
func (s *Server) addr() netip.Addr { return s.link().b[0].Addr() }

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
