package config

import (
	"maps"
	"net"
	"net/netip"
	"slices"

	"widecloud/internal/cloud"
)

// Plan is the site's address plan: the pools, and what the rest of the configuration keeps for the site itself.
func (s *Site) Plan() cloud.Plan {
	plan := cloud.Plan{Reserved: s.reserved()}
	for _, name := range slices.Sorted(maps.Keys(s.Pool)) {
		p := s.Pool[name]
		if p.Owners == nil {
			p.Owners = []string{"*"}
		}
		plan.Pools = append(plan.Pools, cloud.Pool{Name: name, Use: p.Use, Prefixes: p.Prefixes, Except: p.Except, Owners: p.Owners, Peers: p.Peers})
	}
	return plan
}

// reserved are the ranges that are the site's own by other fields.
func (s *Site) reserved() (out []cloud.Reserved) {
	add := func(p netip.Prefix, why string) {
		if p.IsValid() && !p.Addr().IsUnspecified() && !p.Addr().IsLoopback() {
			out = append(out, cloud.Reserved{Prefix: p, Why: why})
		}
	}
	for _, p := range s.Network.Underlay {
		add(p, "the hosts' underlay (network.underlay)")
	}
	for _, p := range s.Network.Reserved {
		add(p, "network.reserved")
	}
	add(s.Network.Pref64, "it stands for the IPv4 Internet (network.pref64)")
	for _, f := range []struct {
		addr netip.Addr
		why  string
	}{
		{s.Network.AnycastVTEP, "the gateways' common address (network.anycast_vtep)"},
		{hostOf(s.Outside.Advertise), "the controller's address (outside.advertise)"},
		{hostOf(s.Outside.Listen), "the controller's address (outside.listen)"},
		{hostOf(s.API.Listen), "the controller's address (api.listen)"},
	} {
		if f.addr.IsValid() {
			add(netip.PrefixFrom(f.addr, f.addr.BitLen()), f.why)
		}
	}
	return out
}

// hostOf is the address of HOST:PORT; invalid where the host is a name.
func hostOf(hostPort string) netip.Addr {
	host, _, err := net.SplitHostPort(hostPort)
	if err != nil {
		return netip.Addr{}
	}
	a, err := netip.ParseAddr(host)
	if err != nil {
		return netip.Addr{}
	}
	return a.Unmap().WithZone("")
}

// checkPools judges the address plan.
func (s *Site) checkPools(wrong func(field, format string, args ...any)) {
	type placed struct {
		pool   string
		prefix netip.Prefix
	}
	var all []placed
	for _, name := range slices.Sorted(maps.Keys(s.Pool)) {
		p, at := s.Pool[name], "pool."+name
		checkLabel(wrong, at, name)
		if p.Use != cloud.PoolNetworks && p.Use != cloud.PoolAddresses {
			wrong(at+".use", "is %q, must be %q or %q", p.Use, cloud.PoolNetworks, cloud.PoolAddresses)
		}
		if len(p.Prefixes) == 0 {
			wrong(at+".prefixes", "must name at least one prefix")
		}
		if !checkPrefixes(wrong, at+".prefixes", p.Prefixes) || !checkPrefixes(wrong, at+".except", p.Except) {
			continue
		}
		for _, q := range p.Prefixes {
			if why := unfit(p.Use, q); why != "" {
				wrong(at+".prefixes", "%s %s", q, why)
			}
			for _, other := range all {
				if other.prefix.Overlaps(q) {
					wrong(at+".prefixes", "%s overlaps %s of pool %s", q, other.prefix, other.pool)
				}
			}
			for _, r := range s.reserved() {
				if r.Prefix.Overlaps(q) {
					wrong(at+".prefixes", "%s overlaps %s, which is reserved: %s", q, r.Prefix, r.Why)
				}
			}
			all = append(all, placed{name, q})
		}
		for _, x := range p.Except {
			if !slices.ContainsFunc(p.Prefixes, func(q netip.Prefix) bool { return q.Bits() <= x.Bits() && q.Contains(x.Addr()) }) {
				wrong(at+".except", "%s is not inside of the pool", x)
			}
		}
		for _, list := range []struct {
			field string
			names []string
		}{{"owners", p.Owners}, {"peers", p.Peers}} {
			for _, n := range list.names {
				if n != "*" && !label.MatchString(n) {
					wrong(at+"."+list.field, "%q is not a name, nor *", n)
				}
			}
		}
	}
}

// unfit says why a prefix cannot be a pool's; empty: it can.
func unfit(use cloud.PoolUse, q netip.Prefix) string {
	if use == cloud.PoolNetworks {
		if !q.Addr().Is6() || q.Bits() > 64 {
			return "is not an IPv6 prefix of a /64 or larger: networks are /64s"
		}
		if !cloud.NetworkSpace(q) {
			return "is neither global unicast (2000::/3) nor unique local (fd00::/8)"
		}
		return ""
	}
	if a := q.Addr(); a.IsLoopback() || a.IsMulticast() || a.IsLinkLocalUnicast() || a.IsUnspecified() || a.Is4In6() {
		return "has no unicast addresses that can be reached"
	}
	return ""
}

// checkPrefixes judges the form of prefixes, and tells whether it is right.
func checkPrefixes(wrong func(string, string, ...any), field string, list []netip.Prefix) bool {
	ok := true
	for _, p := range list {
		if !p.IsValid() {
			wrong(field, "a prefix is missing")
			ok = false
		} else if p != p.Masked() {
			wrong(field, "%s has bits set after its length; did you mean %s?", p, p.Masked())
			ok = false
		}
	}
	return ok
}
