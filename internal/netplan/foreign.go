package netplan

import (
	"cmp"
	"net/netip"
	"slices"

	"widecloud/api"
	"widecloud/internal/cloud"
)

// Guest is a peer's VM that runs at a host of this site, or for which room is kept there.
type Guest struct {
	VM      string // UID
	Host    string
	Network Order // as the peer described it when it asked for the room
}

// Foreign is a peer's network and all that its plan follows from.
type Foreign struct {
	Home   string
	Guests []Guest // those on this network. What the first one says of the network is in force until View is told.
	View   *View   // that the home told, judged; nil: none yet
	Since  int64   // revision of the store at which the home told of it first
	Lent   int     // service addresses that the home has on loan from this site
}

// Foreign plans a peer's network by itself: [Carry] says whether it can be carried beside the others. ok is false when the
// peer has nothing here that asks for it.
func (s *Site) Foreign(in Foreign) (n Network, ok bool) {
	n = Network{Home: in.Home, Guests: len(in.Guests) > 0, here: map[string]bool{}}
	var elsewhere []carrier
	switch {
	case in.View != nil && (n.Guests || in.Lent > 0):
		if !n.Guests && s.plan.CheckNetwork("", in.View.Prefix, cloud.Party{Peer: in.Home}) != nil {
			return n, false // the plan has changed since the view was taken
		}
		n.View, n.gateways, n.since = *in.View, in.Lent > 0, in.Since
		elsewhere = s.elsewhere(in.View.Members)
	case n.Guests:
		o, _ := in.Guests[0].Network.Sound("network")
		n.View = View{Spec: o.Spec, Endpoints: o.Endpoints}
		for _, a := range o.Flood {
			elsewhere = append(elsewhere, carrier{vtep: a})
		}
	default:
		return n, false
	}
	at := map[string]netip.Addr{} // VM -> where it is
	for _, g := range in.Guests {
		n.here[g.Host] = true
		at[g.VM] = s.byName[g.Host].VTEP
	}
	n.View.Endpoints = s.corrected(n.View.Endpoints, at)
	n.carriers = slices.DeleteFunc(elsewhere, func(c carrier) bool { return s.vteps[c.vtep] })
	for _, h := range s.hosts {
		if h.VTEP.IsValid() && n.CarriedBy(h) {
			n.carriers = append(n.carriers, carrier{h.VTEP, h.gate()})
		}
	}
	n.carriers = merged(n.carriers)
	return n, true
}

// elsewhere are the members at other sites. What the home says of hosts here is left out.
func (s *Site) elsewhere(members []api.NetworkMember) (out []carrier) {
	other := map[netip.Addr]bool{}
	for _, m := range members {
		if m.Site != s.name {
			other[parse(m.VTEP)] = true
		}
	}
	for _, m := range members {
		if a := parse(m.VTEP); a.IsValid() && other[a] {
			out = append(out, carrier{a, m.Role == api.RoleGateway})
		}
	}
	return out
}

// corrected holds what a home says of hosts here against what is so: a guest is where this site has it, and no VM is on a
// host here that has no such guest.
func (s *Site) corrected(told []Endpoint, at map[string]netip.Addr) []Endpoint {
	out := slices.Clone(told)
	for i, e := range out {
		if !e.VTEP.IsValid() || s.vteps[e.VTEP] {
			out[i].VTEP = at[e.VM]
		}
	}
	return out
}

// Carry gives those of the peers' networks that this site carries, with the service addresses that are theirs. None clashes
// with a network of this site (own), nor with another one. Those of guests, which were held against all others when their
// room was reserved, come first, then the older ones.
func Carry(own []Known, foreign []Network, addresses *Addresses) []Network {
	foreign = slices.Clone(foreign)
	slices.SortFunc(foreign, func(a, b Network) int {
		if a.Guests != b.Guests {
			return map[bool]int{true: -1, false: 1}[a.Guests]
		}
		return cmp.Or(cmp.Compare(a.since, b.since), cmp.Compare(a.Home, b.Home), cmp.Compare(a.View.UID, b.View.UID))
	})
	carried := slices.Clone(own)
	var out []Network
	for _, n := range foreign {
		known := n.Known()
		if slices.ContainsFunc(carried, func(k Known) bool { field, _ := known.Clash(k); return field != "" }) {
			continue
		}
		if n.gateways {
			n.Mappings, _ = addresses.Judge(n.Home, "", n.View)
		}
		carried = append(carried, known)
		out = append(out, n)
	}
	return out
}
