package cloud

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"widecloud/api"
)

// Plan is a site's address plan: which prefixes networks may be cut from, which service addresses there are, who may use
// them, and what nobody may use. What is in no pool is refused, whoever asks: the site's own users, and its peers.
type Plan struct {
	Pools    []Pool
	Reserved []Reserved
}

// PoolUse is what the addresses of a pool are for.
type PoolUse string

// The uses of pools.
const (
	PoolNetworks  PoolUse = "networks"  // networks are cut from it: IPv6, a /64 each
	PoolAddresses PoolUse = "addresses" // service addresses, IPv4 or IPv6
)

// Pool is a part of the plan.
type Pool struct {
	Name     string
	Use      PoolUse
	Prefixes []netip.Prefix
	Except   []netip.Prefix // inside of Prefixes, and never given
	Owners   []string       // of this site, or * for all of them
	Peers    []string       // sites whose networks or service addresses may be in it here, or * for every peer
}

// Reserved is a range that nobody may use, and why.
type Reserved struct {
	Prefix netip.Prefix
	Why    string // "the gateways' common address (network.anycast_vtep)"
}

// Party is who asks for addresses: an owner of this site (empty: the site itself), or a peer.
type Party struct {
	Owner string
	Peer  string
}

func (p Party) String() string {
	switch {
	case p.Peer != "":
		return "site " + p.Peer
	case p.Owner != "":
		return "owner " + p.Owner
	}
	return "this site"
}

// open tells whether a party may use the pool. What belongs to the site itself is in the hands of its admins: every pool is
// open to them.
func (p Pool) open(who Party) bool {
	list, name := p.Owners, who.Owner
	if who.Peer != "" {
		list, name = p.Peers, who.Peer
	} else if who.Owner == "" {
		return true
	}
	return slices.Contains(list, "*") || slices.Contains(list, name)
}

// holds tells whether a range is wholly in the pool and touches nothing that the pool excepts.
func (p Pool) holds(r netip.Prefix) bool {
	return slices.ContainsFunc(p.Prefixes, func(q netip.Prefix) bool { return within(r, q) }) && !overlaps(r, p.Except)
}

func within(r, q netip.Prefix) bool { return q.Bits() <= r.Bits() && q.Contains(r.Addr()) }

func overlaps(r netip.Prefix, list []netip.Prefix) bool {
	return slices.ContainsFunc(list, r.Overlaps)
}

// OpenTo gives the pools that a party may use.
func (p Plan) OpenTo(who Party) (out []Pool) {
	for _, pool := range p.Pools {
		if pool.open(who) {
			out = append(out, pool)
		}
	}
	return out
}

// CheckNetwork judges a network's prefix, an IPv6 /64: nil, or an error that names the field and says who may have it.
func (p Plan) CheckNetwork(field string, prefix netip.Prefix, who Party) error {
	return p.check(field, prefix, PoolNetworks, who)
}

// CheckAddress judges a service address: nil, or an error that names the field and says who may have it.
func (p Plan) CheckAddress(field string, a netip.Addr, who Party) error {
	if err := p.check(field, netip.PrefixFrom(a, a.BitLen()), PoolAddresses, who); err != nil {
		return err
	}
	for _, pool := range p.Pools {
		if q, ok := pool.edge(a); ok && pool.Use == PoolAddresses {
			return refusedRange(field, "%s is the network's or the broadcast address of %s", a, q)
		}
	}
	return nil
}

// edge tells whether an address is the first or, of IPv4, the last one of a prefix of the pool: an address that no machine
// can have (RFC 1122 §3.2.1.3; RFC 4291 §2.6.1). Prefixes of one or two addresses have no such (RFC 3021).
func (p Pool) edge(a netip.Addr) (netip.Prefix, bool) {
	for _, q := range p.Prefixes {
		if q.Contains(a) && a.BitLen()-q.Bits() > 1 && (a == q.Addr() || a.Is4() && a == last(q)) {
			return q, true
		}
	}
	return netip.Prefix{}, false
}

// last is the highest address of a prefix.
func last(q netip.Prefix) netip.Addr {
	b := q.Addr().AsSlice()
	for i := q.Bits(); i < len(b)*8; i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}

// CheckPrivate judges a network's private IPv4 prefix, which is in no pool: it must touch nothing that is reserved.
func (p Plan) CheckPrivate(field string, prefix netip.Prefix) error {
	if why, ok := p.reserved(prefix); ok {
		return refusedRange(field, "%s is reserved: %s", prefix, why)
	}
	for _, pool := range p.Pools {
		if overlaps(prefix, pool.Prefixes) {
			return refusedRange(field, "%s overlaps pool %s of this site's address plan", prefix, pool.Name)
		}
	}
	return nil
}

func (p Plan) check(field string, r netip.Prefix, use PoolUse, who Party) error {
	if why, ok := p.reserved(r); ok {
		return refusedRange(field, "%s is reserved: %s", shown(r), why)
	}
	var others []string
	for _, pool := range p.Pools {
		switch {
		case pool.Use != use:
		case overlaps(r, pool.Except):
			return refusedRange(field, "%s is kept from everybody in pool %s of this site's address plan (except)", shown(r), pool.Name)
		case !pool.holds(r):
		case pool.open(who):
			return nil
		default:
			others = append(others, pool.Name)
		}
	}
	if len(others) > 0 {
		return &api.Error{Code: api.CodeForbidden, Field: field, Message: fmt.Sprintf("%s is in pool %s of this site's address plan, which is not open to %s", shown(r), strings.Join(others, ", "), who)}
	}
	return refusedRange(field, "%s is in no pool of this site's address plan that is for %s; open to %s: %s", shown(r), use, who, p.list(use, who))
}

func refusedRange(field, format string, args ...any) error {
	return &api.Error{Code: api.CodeRefused, Field: field, Message: fmt.Sprintf(format, args...)}
}

// shown writes a single address as an address.
func shown(r netip.Prefix) string {
	if r.IsSingleIP() {
		return r.Addr().String()
	}
	return r.String()
}

// reserved tells whether a range touches one that nobody may use.
func (p Plan) reserved(r netip.Prefix) (why string, ok bool) {
	for _, x := range p.Reserved {
		if x.Prefix.Overlaps(r) {
			return x.Why, true
		}
	}
	return "", false
}

// list says which pools of a use a party may use.
func (p Plan) list(use PoolUse, who Party) string {
	var out []string
	for _, pool := range p.OpenTo(who) {
		if pool.Use == use {
			prefixes := make([]string, len(pool.Prefixes))
			for i, q := range pool.Prefixes {
				prefixes[i] = q.String()
			}
			out = append(out, fmt.Sprintf("%s (%s)", pool.Name, strings.Join(prefixes, ", ")))
		}
	}
	if len(out) == 0 {
		return "none"
	}
	return strings.Join(out, ", ")
}

// Underlay judges an address of a host's own, which must be in no pool: a network or a service address there would take the
// host away from the site. nil, or an error that names the field.
func (p Plan) Underlay(field string, a netip.Addr) error {
	for _, pool := range p.Pools {
		for _, q := range pool.Prefixes {
			if q.Contains(a) {
				return refusedRange(field, "%s is in pool %s of this site's address plan: users may get it", a, pool.Name)
			}
		}
	}
	return nil
}

// FreeNetwork finds the first /64 that is free in a pool (empty: in any that is open to the party).
func (p Plan) FreeNetwork(pool string, who Party, taken func(netip.Prefix) bool) (netip.Prefix, error) {
	return p.free(pool, PoolNetworks, who, func(q netip.Prefix) (netip.Prefix, bool) {
		return first(q, 64, func(r netip.Prefix) bool { return p.CheckNetwork("", r, who) == nil && !taken(r) })
	})
}

// FreeAddress finds the first service address that is free in a pool (empty: in any that is open to the party).
func (p Plan) FreeAddress(pool string, who Party, taken func(netip.Addr) bool) (netip.Addr, error) {
	r, err := p.free(pool, PoolAddresses, who, func(q netip.Prefix) (netip.Prefix, bool) {
		return first(q, q.Addr().BitLen(), func(r netip.Prefix) bool { return p.CheckAddress("", r.Addr(), who) == nil && !taken(r.Addr()) })
	})
	return r.Addr(), err
}

func (p Plan) free(pool string, use PoolUse, who Party, find func(netip.Prefix) (netip.Prefix, bool)) (netip.Prefix, error) {
	found := false
	for _, candidate := range p.OpenTo(who) {
		if candidate.Use != use || pool != "" && candidate.Name != pool {
			continue
		}
		found = true
		for _, q := range candidate.Prefixes {
			if r, ok := find(q); ok {
				return r, nil
			}
		}
	}
	switch {
	case found:
		return netip.Prefix{}, refusedRange("spec.pool", "nothing is free in %s", p.list(use, who))
	case pool == "":
		return netip.Prefix{}, refusedRange("spec.pool", "this site's address plan has no pool for %s that is open to %s", use, who)
	}
	return netip.Prefix{}, refusedRange("spec.pool", "no pool called %q is for %s and open to %s; open are: %s", pool, use, who, p.list(use, who))
}

// tries bounds a search: a pool may have more addresses than anybody will look at.
const tries = 1 << 17

// first finds the first part of q, of a length in bits, that will do.
func first(q netip.Prefix, bits int, ok func(netip.Prefix) bool) (netip.Prefix, bool) {
	if q.Bits() > bits {
		return netip.Prefix{}, false
	}
	r := netip.PrefixFrom(q.Addr(), bits)
	for range tries {
		if !q.Contains(r.Addr()) {
			break
		}
		if ok(r) {
			return r, true
		}
		next := last(r).Next()
		if !next.IsValid() {
			break
		}
		r = netip.PrefixFrom(next, bits)
	}
	return netip.Prefix{}, false
}
