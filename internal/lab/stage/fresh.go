package stage

import (
	"fmt"
	"net/netip"

	"widecloud/internal/lab/script"
)

// A script that is one of several on a base has names, networks and addresses of its
// own there: what it says is moved by its number, so that nothing that another script
// has left (a lease, a route, an entry in a cache) is about them.

// Networks is where scripts' networks have their IPv6 prefixes, and with ipv4 their
// private ones.
var (
	Networks  = netip.MustParsePrefix("2001:db8:b000::/36")
	networks4 = netip.MustParsePrefix("10.0.0.0/8")
)

// FreshName is what a thing of the script is called on its site.
func FreshName(p *script.Parser, name string) string {
	if n := p.Script().Number; n > 0 {
		return fmt.Sprintf("%s-%d", name, n)
	}
	return name
}

// FreshPrefix is the prefix of a script's network, which the script says.
func FreshPrefix(p *script.Parser, said netip.Prefix) netip.Prefix {
	return netip.PrefixFrom(moved(said.Addr(), p.Script().Number), said.Bits())
}

// moved moves an address of a network.
func moved(a netip.Addr, number int) netip.Addr {
	switch {
	case Networks.Contains(a):
		b := a.As16()
		b[6] += byte(number) // of the number of the subnet, which scripts count from 1
		return netip.AddrFrom16(b)
	case networks4.Contains(a):
		b := a.As4()
		b[1] += byte(number)
		return netip.AddrFrom4(b)
	}
	return a
}

// FreshAddr is the address that is meant by one that a script says: one of services or
// of a network is moved, another one is not.
func FreshAddr(p *script.Parser, said netip.Addr) netip.Addr {
	n := p.Script().Number
	for _, s := range plans {
		switch {
		case s.V4.Contains(said):
			b := said.As4()
			if b[3] < ownV4 {
				b[3] = byte((int(b[3]) + 16*n) % ownV4)
			}
			return netip.AddrFrom4(b)
		case s.V6.Contains(said):
			b := said.As16()
			if b[14] < ownV6 {
				b[13] += byte(n)
			}
			return netip.AddrFrom16(b)
		}
	}
	return moved(said, n)
}

// The last addresses of the services are the translators' own: in IPv4 those from this
// byte on, in IPv6 those whose last byte but one is this.
const ownV4, ownV6 = 0xf0, 0xff
