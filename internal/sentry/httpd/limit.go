package httpd

import (
	"net/netip"
	"slices"
)

// verdict is what becomes of a new connection.
type verdict int

const (
	served  verdict = iota
	refused         // it is told to come back later
	dropped         // it is closed
)

// limit counts connections, in all and by address.
type limit struct {
	all, each int
	nat64     []netip.Prefix

	total int
	count map[netip.Addr]int
}

// key is the address under which a connection counts: the IPv4 address, also one that a translator put into an IPv6
// address (RFC 6052 §2.2, /96), or else the IPv6 /64, which is one household's or one machine's.
func (l *limit) key(a netip.Addr) netip.Addr {
	a = a.Unmap().WithZone("")
	if a.Is4() {
		return a
	}
	if slices.ContainsFunc(l.nat64, func(p netip.Prefix) bool { return p.Contains(a) }) {
		b := a.As16()
		return netip.AddrFrom4([4]byte(b[12:]))
	}
	p, _ := a.Prefix(64) // no error: it is an IPv6 address
	return p.Addr()
}

// take counts a connection that is not dropped. Above each limit there is some room for telling connections that they are
// too many.
func (l *limit) take(a netip.Addr) verdict {
	n := l.count[a]
	if l.total >= l.all+l.all/16+1 || n >= l.each+l.each/16+1 {
		return dropped
	}
	v := served
	if l.total >= l.all || n >= l.each {
		v = refused
	}
	l.total++
	l.count[a]++
	return v
}

// give takes a connection out of the counts.
func (l *limit) give(a netip.Addr) {
	l.total--
	if l.count[a]--; l.count[a] == 0 {
		delete(l.count, a)
	}
}
