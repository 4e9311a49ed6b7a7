package networks

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"widecloud/api"
	"widecloud/internal/cloud"
	"widecloud/internal/control/objects"
	"widecloud/internal/netplan"
	"widecloud/internal/state"
	"widecloud/internal/wire"
)

// Reasons says why a network cannot be carried here beside the ones that are.
func (ns *Networks) Reasons(tx *state.Tx, n wire.NetworkOrder, home string) ([]api.Reason, error) {
	var reasons []api.Reason
	if home != ns.Name {
		if err := ns.Plan.CheckNetwork("network.prefix", n.Prefix, cloud.Party{Peer: home}); err != nil {
			reasons = append(reasons, api.Reason{Site: ns.Name, Code: "network", Message: err.Error(), Advice: "ask " + ns.Name + " to open a pool of its address plan to " + home})
		}
	}
	all, err := ns.networksKnown(tx)
	if err != nil {
		return nil, err
	}
	for _, other := range all {
		if field, text := (netplan.Known{Home: home, Spec: n.Spec}).Clash(other); text != "" {
			r := api.Reason{Site: ns.Name, Code: "network", Message: text}
			if field != "uid" {
				r.Advice = "give one of the two networks another " + field
			}
			reasons = append(reasons, r)
		}
	}
	return reasons, nil
}

// Here the objects are gathered that the plans of networks follow from; netplan makes the plans.

// SitePlan is what the plans of all networks have in common, and the plans that were made of it. It stays the same while the hosts
// do: a report that says nothing new of its host has nothing planned anew.
type SitePlan struct {
	Site     *netplan.Site
	Hosts    map[string]netplan.Host
	gateways []api.NetworkMember

	own     state.Memo[netplan.Network]   // by UID
	Foreign state.Memo[[]netplan.Network] // all, under ""
	States  state.Memo[*wire.HostState]   // by host
}

// Same tells whether two plans follow from the same hosts, whatever was made of each.
func (p *SitePlan) Same(other *SitePlan) bool {
	return maps.Equal(p.Hosts, other.Hosts) && slices.Equal(p.gateways, other.gateways)
}

// SitePlan gives the plan of the site as it is now.
func (ns *Networks) SitePlan(tx *state.Tx) (*SitePlan, error) {
	return ns.plans.Get(tx, "", func(tx *state.Tx) (*SitePlan, error) {
		var hosts []netplan.Host
		p := &SitePlan{Hosts: map[string]netplan.Host{}}
		for h := range objects.Each[api.Host](tx) {
			p.Hosts[h.Name] = planHost(h)
			hosts = append(hosts, p.Hosts[h.Name])
		}
		var err error
		if p.gateways, err = ns.gateways(tx); err != nil {
			return nil, err
		}
		if last := ns.plan.Load(); last != nil && last.Same(p) {
			return last, nil
		}
		p.Site = netplan.NewSite(ns.Name, ns.Plan, hosts)
		ns.plan.Store(p)
		return p, nil
	})
}

func planHost(h *api.Host) netplan.Host {
	vtep, _ := netip.ParseAddr(h.Status.VTEP) // a host that has not reported yet has none
	return netplan.Host{Name: h.Name, VTEP: vtep, Hypervisor: objects.HasRole(h, api.RoleHypervisor), Gateway: objects.HasRole(h, api.RoleGateway)}
}

// OwnNetwork plans one network of this site.
func (ns *Networks) OwnNetwork(tx *state.Tx, n *api.Network) (netplan.Network, error) {
	p, err := ns.SitePlan(tx)
	if err != nil {
		return netplan.Network{}, err
	}
	return p.OwnNetwork(tx, ns.Name, n.UID)
}

func (p *SitePlan) OwnNetwork(tx *state.Tx, site, uid string) (netplan.Network, error) {
	return p.own.Get(tx, uid, func(tx *state.Tx) (netplan.Network, error) {
		in := netplan.Own{Network: networkOf(tx, uid), Gateways: p.gateways}
		if in.Network == nil {
			return netplan.Network{}, api.Errorf(api.CodeNotFound, "no network %s", uid)
		}
		for v := range objects.By[api.VM](tx, "network", in.Network.Name) {
			in.VMs = append(in.VMs, v)
			for a := range objects.By[api.Address](tx, "vm", v.Name) {
				in.Addresses = append(in.Addresses, a)
			}
		}
		for _, m := range objects.Records[objects.Migration](tx, objects.PrefixMigrations, "network", uid) {
			in.Moves = append(in.Moves, m.Source.Member(), m.Target.Member())
		}
		for _, g := range objects.Records[wire.Claim](tx, objects.PrefixClaims, "network", uid) {
			if g.Home == site {
				in.Rooms = append(in.Rooms, g.Host)
			}
		}
		return p.Site.Own(in)
	})
}

// networkOf finds our network of a UID; nil when there is none. It is shared and must not be changed.
func networkOf(tx *state.Tx, uid string) *api.Network {
	for n := range objects.By[api.Network](tx, "uid", uid) {
		return n
	}
	return nil
}

// OwnNetworks plans all networks of this site.
func (ns *Networks) OwnNetworks(tx *state.Tx) (out []netplan.Network, err error) {
	p, err := ns.SitePlan(tx)
	if err != nil {
		return nil, err
	}
	for n := range objects.Each[api.Network](tx) {
		planned, err := p.OwnNetwork(tx, ns.Name, n.UID)
		if err != nil {
			return nil, err
		}
		out = append(out, planned)
	}
	return out, nil
}

// gateways are the hosts that let traffic in and out of our networks: our own, and those of peers that lend us addresses.
func (ns *Networks) gateways(tx *state.Tx) ([]api.NetworkMember, error) {
	out, err := ns.OwnGateways(tx)
	if err != nil {
		return nil, err
	}
	loans, err := objects.List[api.Loan](tx)
	if err != nil {
		return nil, err
	}
	for _, l := range loans {
		if l.Spec.Borrower != ns.Name || l.Spec.Amount.Addresses == 0 || l.Status.State == api.LoanEnded {
			continue
		}
		offers, err := ns.rooms.OffersOf(tx, l.Spec.Lender)
		if err != nil {
			return nil, err
		}
		for _, o := range offers {
			if o.Name == l.Spec.Offer {
				out = append(out, o.Gateways...)
			}
		}
	}
	return out, nil
}

func (ns *Networks) OwnGateways(tx *state.Tx) (out []api.NetworkMember, err error) {
	for h := range objects.Each[api.Host](tx) {
		if objects.HasRole(h, api.RoleGateway) && h.Status.VTEP != "" {
			out = append(out, api.NetworkMember{Site: ns.Name, Host: h.Name, VTEP: h.Status.VTEP, Role: api.RoleGateway})
		}
	}
	return out, err
}

// foreignNetworks plans the peers' networks that are carried here.
func (ns *Networks) foreignNetworks(tx *state.Tx) ([]netplan.Network, error) {
	p, err := ns.SitePlan(tx)
	if err != nil {
		return nil, err
	}
	return p.Foreign.Get(tx, "", func(tx *state.Tx) ([]netplan.Network, error) { return ns.PlanForeign(tx, p.Site) })
}

func (ns *Networks) PlanForeign(tx *state.Tx, site *netplan.Site) ([]netplan.Network, error) {
	lent, err := ns.addressesLent(tx)
	if err != nil {
		return nil, err
	}
	objects, err := ns.foreignObjects(tx, lent)
	if err != nil {
		return nil, err
	}
	var candidates []netplan.Network
	for _, f := range objects {
		if n, ok := site.Foreign(*f); ok {
			candidates = append(candidates, n)
		}
	}
	own, err := ns.ownKnown(tx)
	if err != nil {
		return nil, err
	}
	addresses, err := ns.addressJudge(tx, lent)
	if err != nil {
		return nil, err
	}
	return netplan.Carry(own, candidates, addresses), nil
}

// foreignObjects are the objects that the plans of the peers' networks follow from, by HOME/UID.
func (ns *Networks) foreignObjects(tx *state.Tx, lent map[string]int) (map[string]*netplan.Foreign, error) {
	out := map[string]*netplan.Foreign{}
	of := func(key, home string) *netplan.Foreign {
		if out[key] == nil {
			out[key] = &netplan.Foreign{Home: home, Lent: lent[home]}
		}
		return out[key]
	}
	for _, prefix := range []string{objects.PrefixOrders, objects.PrefixClaims} {
		guests, err := objects.ListRecords[wire.Claim](tx, prefix)
		if err != nil {
			return nil, err
		}
		for _, key := range slices.Sorted(maps.Keys(guests)) {
			g := guests[key]
			if g.Home == ns.Name {
				continue // a claim of our own migration
			}
			f := of(g.Home+"/"+g.Network.UID, g.Home)
			f.Guests = append(f.Guests, netplan.Guest{VM: g.VM, Host: g.Host, Network: g.Network})
		}
	}
	kvs, err := tx.List(objects.PrefixViews)
	if err != nil {
		return nil, err
	}
	for _, kv := range kvs {
		key := strings.TrimPrefix(kv.Key, objects.PrefixViews)
		home, _, _ := strings.Cut(key, "/")
		if out[key] == nil && lent[home] == 0 {
			continue // nothing of its home asks for it
		}
		v := new(wire.NetworkView)
		if err := json.Unmarshal(kv.Value, v); err != nil {
			return nil, fmt.Errorf("read %s: %w", kv.Key, err)
		}
		f := of(key, home)
		f.View, f.Since = v, kv.Created
	}
	return out, nil
}

// addressesLent is how many service addresses each peer has on loan here.
func (ns *Networks) addressesLent(tx *state.Tx) (map[string]int, error) {
	loans, err := ns.rooms.LoansFromUs(tx)
	if err != nil {
		return nil, err
	}
	out := map[string]int{}
	for _, l := range loans {
		if l.Status.State != api.LoanEnded {
			out[l.Spec.Borrower] += l.Spec.Amount.Addresses
		}
	}
	return out, nil
}

// addressJudge holds the service addresses that peers ask for against their loans, and against this site's own addresses.
func (ns *Networks) addressJudge(tx *state.Tx, lent map[string]int) (*netplan.Addresses, error) {
	var own []netip.Addr
	for a := range objects.Each[api.Address](tx) {
		if addr, err := netip.ParseAddr(a.Spec.Address); err == nil {
			own = append(own, addr)
		}
	}
	return netplan.NewAddresses(ns.Name, ns.Plan, own, lent), nil
}

// ownKnown are the networks of this site, as others must not clash with them.
func (ns *Networks) ownKnown(tx *state.Tx) ([]netplan.Known, error) {
	var out []netplan.Known
	for n := range objects.Each[api.Network](tx) {
		spec, err := netplan.SpecOf(n)
		if err != nil {
			return nil, err
		}
		out = append(out, netplan.Known{Home: ns.Name, Spec: spec})
	}
	return out, nil
}

// networksKnown lists our own networks, and those of peers that are carried here.
func (ns *Networks) networksKnown(tx *state.Tx) ([]netplan.Known, error) {
	out, err := ns.ownKnown(tx)
	if err != nil {
		return nil, err
	}
	foreign, err := ns.foreignNetworks(tx)
	for _, f := range foreign {
		out = append(out, f.Known())
	}
	return out, err
}
