package volume

import (
	"encoding/binary"
	"net/netip"

	"widecloud/internal/packet/siit"
)

// refused4 are the IPv4 addresses that no public server has (IANA's special-purpose registry, RFC 6890). The prefixes for
// documentation are left in: nobody routes them, and tests use them.
var refused4 = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"),      // this network
	netip.MustParsePrefix("10.0.0.0/8"),     // private (RFC 1918)
	netip.MustParsePrefix("100.64.0.0/10"),  // shared (RFC 6598)
	netip.MustParsePrefix("127.0.0.0/8"),    // loopback
	netip.MustParsePrefix("169.254.0.0/16"), // link-local; the clouds' metadata services
	netip.MustParsePrefix("172.16.0.0/12"),  // private
	netip.MustParsePrefix("192.0.0.0/24"),   // protocol assignments
	netip.MustParsePrefix("192.168.0.0/16"), // private
	netip.MustParsePrefix("198.18.0.0/15"),  // benchmarks (RFC 2544)
	netip.MustParsePrefix("224.0.0.0/3"),    // multicast, reserved, broadcast
}

var (
	global6 = netip.MustParsePrefix("2000::/3")     // all other IPv6 addresses are local, reserved or no unicast (RFC 4291 §2.4)
	nat64   = netip.MustParsePrefix("64:ff9b::/96") // RFC 6052 §2.1
	teredo  = netip.MustParsePrefix("2001::/32")    // RFC 4380
	sixTo4  = netip.MustParsePrefix("2002::/16")    // RFC 3056
)

// permits is whether an address may be connected to.
func (o *FetchOptions) permits(a netip.Addr) bool {
	a = a.WithZone("").Unmap() // a prefix contains no address with a zone
	if within(o.Deny, a) {
		return false
	}
	inner, wrapped := o.unwrap(a)
	for _, v4 := range inner {
		if !o.permits(v4) {
			return within(o.Allow, a) && !within(o.Deny, v4)
		}
	}
	switch {
	case within(o.Allow, a), wrapped:
		return true
	case a.Is4():
		return !within(refused4, a)
	}
	return global6.Contains(a)
}

// unwrap returns the IPv4 addresses that packets to an IPv6 address are sent on to, by a translator or a tunnel's relay. What
// has the form of 64:ff9b:1::/48 (RFC 8215), or is IPv4-compatible or IPv4-translated, is not in global6.
func (o *FetchOptions) unwrap(a netip.Addr) (inner []netip.Addr, wrapped bool) {
	if !a.Is6() {
		return nil, false
	}
	b := a.As16()
	v4 := func(at int, flip uint32) netip.Addr {
		var out [4]byte
		binary.BigEndian.PutUint32(out[:], binary.BigEndian.Uint32(b[at:])^flip)
		return netip.AddrFrom4(out)
	}
	switch {
	case sixTo4.Contains(a):
		return []netip.Addr{v4(2, 0)}, true
	case teredo.Contains(a):
		return []netip.Addr{v4(4, 0), v4(12, 0xffffffff)}, true // the server, and the client, whose bits are inverted
	}
	for _, p := range []netip.Prefix{nat64, o.Pref64} {
		// No table can be made of what is no such prefix; then no translator has it either.
		if t, err := siit.NewTable(siit.Spec{Pref64: p}); err == nil {
			if v4, ok := t.Extract(a); ok {
				return []netip.Addr{v4}, true
			}
		}
	}
	return nil, false
}

func within(list []netip.Prefix, a netip.Addr) bool {
	for _, p := range list {
		if p.Contains(a) {
			return true
		}
	}
	return false
}
