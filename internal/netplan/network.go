package netplan

import (
	"net/netip"
	"slices"
	"strings"

	"widecloud/api"
	"widecloud/internal/cloud"
)

// Host is a host of this site, or another one that an order is for.
type Host struct {
	Name                string
	VTEP                netip.Addr // the zero address: it has not reported yet
	Hypervisor, Gateway bool       // its roles
}

// gate tells whether a host carries networks as a gateway only. One that has both roles floods as a hypervisor: the other
// gateways have to hear what arrives at it.
func (h Host) gate() bool { return h.Gateway && !h.Hypervisor }

// Site is the site that is planned for, with what all of its networks have in common. Make it with [NewSite].
type Site struct {
	name   string
	plan   cloud.Plan
	hosts  []Host
	vteps  map[netip.Addr]bool
	byName map[string]Host
}

// NewSite describes a site by its name, its address plan and its hosts. The order of the hosts is the one in which they
// stand in flood lists.
func NewSite(name string, plan cloud.Plan, hosts []Host) *Site {
	s := &Site{name: name, plan: plan, hosts: hosts, vteps: map[netip.Addr]bool{}, byName: map[string]Host{}}
	for _, h := range hosts {
		s.byName[h.Name] = h
		if h.VTEP.IsValid() {
			s.vteps[h.VTEP] = true
		}
	}
	return s
}

// Network is a network that this site carries: one of its own, or a peer's. It is not changed once it is made.
type Network struct {
	Home     string    // site
	View     View      // as its home sees it; of a peer's, judged and put right
	Mappings []Mapping // that this site's gateways translate
	Guests   bool      // a peer's: it has guests here, or room is kept for one

	carriers []carrier       // all hosts that carry it, everywhere, each once
	here     map[string]bool // hosts of this site that have a VM on it, or keep room for one
	gateways bool            // this site's gateways serve it
	since    int64           // a peer's: when its home told of it first
}

// Known is what tells the network apart from others.
func (n Network) Known() Known { return Known{n.Home, n.View.Spec} }

// CarriedBy tells whether a host of this site is to carry the network.
func (n Network) CarriedBy(h Host) bool { return n.here[h.Name] || n.gateways && h.Gateway }

// Order is the network as host h is to carry it. The host may be one of another site that is about to carry it.
func (n Network) Order(h Host) Order {
	o := Order{Spec: n.View.Spec, Home: n.Home, Endpoints: n.View.Endpoints}
	if m, ok := mobilities[n.View.Mobility]; ok {
		m.reach(&o, h, n.carriers)
	}
	return o
}

// ForHost gives what a host of this site is to carry, in the order of the networks' UIDs, and, of a gateway, what it is to
// translate. networks may name others too, which the host does not carry.
func ForHost(h Host, networks []Network) (orders []Order, mappings []Mapping) {
	orders = []Order{}
	for _, n := range networks {
		if n.CarriedBy(h) {
			orders = append(orders, n.Order(h))
		}
		if h.Gateway {
			mappings = append(mappings, n.Mappings...)
		}
	}
	slices.SortFunc(orders, func(a, b Order) int { return strings.Compare(a.UID, b.UID) })
	sortMappings(mappings)
	return orders, mappings
}

// ForPeer gives what a peer must know of this site's own networks: those whose VMs it runs or is about to run, and those
// that its gateways serve. lent is how many service addresses it lends to this site: it would refuse all if it were told of
// more, and the networks with them.
func ForPeer(peer string, own []Network, lent int) []View {
	out := []View{}
	for _, n := range own {
		v := n.View
		at := func(m api.NetworkMember) bool { return m.Site == peer }
		if !slices.ContainsFunc(v.Members, at) {
			continue
		}
		v.Mappings = slices.Clone(v.Mappings)
		if !slices.ContainsFunc(v.Members, func(m api.NetworkMember) bool { return at(m) && m.Role == api.RoleGateway }) {
			v.Mappings = nil
		}
		sortMappings(v.Mappings)
		v.Mappings = v.Mappings[:min(len(v.Mappings), lent)]
		lent -= len(v.Mappings)
		out = append(out, v)
	}
	return out
}

func sortMappings(m []Mapping) {
	slices.SortFunc(m, func(a, b Mapping) int { return a.Service.Compare(b.Service) })
}
