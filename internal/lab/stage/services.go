package stage

import (
	"net/netip"
	"slices"
	"strings"

	"widecloud/internal/lab/script"
)

// Services are the public prefixes that one set of translators announces.
type Services struct {
	V4, V6 netip.Prefix
	// Pref64 is under what IPv4 clients appear in IPv6 (RFC 6052, /96).
	Pref64 netip.Prefix

	owner string
	taken map[netip.Addr]Named
}

// plans are the prefixes for the sites of a script, or for its data centre: who is
// declared first has the first. Documentation prefixes (RFC 5737, RFC 3849), and for
// the second that of benchmarks (RFC 2544).
var plans = []Services{
	{V4: netip.MustParsePrefix("203.0.113.0/24"), V6: netip.MustParsePrefix("2001:db8:f::/64"), Pref64: netip.MustParsePrefix("2001:db8:64::/96")},
	{V4: netip.MustParsePrefix("198.18.0.0/24"), V6: netip.MustParsePrefix("2001:db8:e::/64"), Pref64: netip.MustParsePrefix("2001:db8:65::/96")},
}

type servicePlan struct{ given []*Services }

// ServicesOf are the service prefixes of an owner, the sites or the data centre.
func ServicesOf(p *script.Parser, owner string) *Services {
	plan := script.Shared(p, func() *servicePlan { return &servicePlan{} })
	for _, s := range plan.given {
		if s.owner == owner {
			return s
		}
	}
	s := plans[len(plan.given)]
	s.owner, s.taken = owner, map[netip.Addr]Named{}
	plan.given = append(plan.given, &s)
	return &s
}

// Addr takes one address of the services.
func (s *Services) Addr(p *script.Parser) netip.Addr {
	w := p.Next("address")
	a, err := netip.ParseAddr(strings.TrimSuffix(w.Text, ","))
	if err != nil || a.Zone() != "" {
		p.Fail(w, "%q is no address", w.Text)
	}
	if !s.V4.Contains(a) && !s.V6.Contains(a) {
		p.Fail(w, "%s is in none of the service prefixes %s and %s", a, s.V4, s.V6)
	}
	return FreshAddr(p, a)
}

// Take takes addresses that nothing has yet, for a thing.
func (s *Services) Take(p *script.Parser, thing Named) (l []netip.Addr) {
	for {
		w := p.Peek()
		a := s.Addr(p)
		if by, ok := s.taken[a]; ok {
			p.Fail(w, "%s is that of %s", a, by.Name())
		}
		s.taken[a] = thing
		l = append(l, a)
		if !p.More() || !strings.ContainsAny(p.Peek().Text, ".:") {
			return l
		}
	}
}

// Give gives an address to a thing, or to nothing.
func (s *Services) Give(a netip.Addr, thing Named) {
	if thing == nil {
		delete(s.taken, a)
	} else {
		s.taken[a] = thing
	}
}

// Owner is the thing that has an address; nil: none.
func (s *Services) Owner(a netip.Addr) Named { return s.taken[a] }

// Of are the addresses of a thing, sorted.
func (s *Services) Of(thing Named) (l []netip.Addr) {
	for a, by := range s.taken {
		if by == thing {
			l = append(l, a)
		}
	}
	slices.SortFunc(l, netip.Addr.Compare)
	return l
}

// Embed puts an IPv4 address under Pref64 (RFC 6052, section 2.2).
func (s *Services) Embed(a netip.Addr) netip.Addr {
	b, four := s.Pref64.Addr().As16(), a.As4()
	copy(b[12:], four[:])
	return netip.AddrFrom16(b)
}
