package site

import "net/netip"

// LeafAddrs and TrunkAddrs are the addresses of either end of a link.
func LeafAddrs(s, m int) []netip.Prefix { c := leaf(s, m); return append(c.a, c.b...) }
func TrunkAddrs(n int) []netip.Prefix   { c := trunk(n); return append(c.a, c.b...) }

// The plan's limits, and where a site's machines are.
const (
	MaxSites, MaxHosts, MaxTrunks = maxSites, maxHosts, maxTrunks
	FirstHost                     = firstHost
)

var Underlay = underlay
