package control

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"widecloud/api"
	"widecloud/internal/netplan"
	"widecloud/internal/state"
	"widecloud/internal/wire"
)

// Here the objects are gathered that the plans of networks follow from; netplan makes the plans.

// sitePlan is what the plans of all networks have in common, and the plans that were made of it. It stays the same while the hosts
// do: a report that says nothing new of its host has nothing planned anew.
type sitePlan struct {
	site     *netplan.Site
	hosts    map[string]netplan.Host
	gateways []api.NetworkMember

	own     state.Memo[netplan.Network]   // by UID
	foreign state.Memo[[]netplan.Network] // all, under ""
	states  state.Memo[*wire.HostState]   // by host
}

// sitePlan gives the plan of the site as it is now.
func (c *Controller) sitePlan(tx *state.Tx) (*sitePlan, error) {
	return c.plans.Get(tx, "", func(tx *state.Tx) (*sitePlan, error) {
		var hosts []netplan.Host
		p := &sitePlan{hosts: map[string]netplan.Host{}}
		for h := range each[api.Host](tx) {
			p.hosts[h.Name] = planHost(h)
			hosts = append(hosts, p.hosts[h.Name])
		}
		var err error
		if p.gateways, err = c.gateways(tx); err != nil {
			return nil, err
		}
		if last := c.plan.Load(); last != nil && maps.Equal(last.hosts, p.hosts) && slices.Equal(last.gateways, p.gateways) {
			return last, nil
		}
		p.site = netplan.NewSite(c.o.Site, c.o.Plan, hosts)
		c.plan.Store(p)
		return p, nil
	})
}

func planHost(h *api.Host) netplan.Host {
	vtep, _ := netip.ParseAddr(h.Status.VTEP) // a host that has not reported yet has none
	return netplan.Host{Name: h.Name, VTEP: vtep, Hypervisor: hasRole(h, api.RoleHypervisor), Gateway: hasRole(h, api.RoleGateway)}
}

func (l location) member() api.NetworkMember {
	return api.NetworkMember{Site: l.Site, Host: l.Host, VTEP: l.VTEP, Role: api.RoleHypervisor}
}

// ownNetwork plans one network of this site.
func (c *Controller) ownNetwork(tx *state.Tx, n *api.Network) (netplan.Network, error) {
	p, err := c.sitePlan(tx)
	if err != nil {
		return netplan.Network{}, err
	}
	return p.ownNetwork(tx, c.o.Site, n.UID)
}

func (p *sitePlan) ownNetwork(tx *state.Tx, site, uid string) (netplan.Network, error) {
	return p.own.Get(tx, uid, func(tx *state.Tx) (netplan.Network, error) {
		in := netplan.Own{Network: networkOf(tx, uid), Gateways: p.gateways}
		if in.Network == nil {
			return netplan.Network{}, api.Errorf(api.CodeNotFound, "no network %s", uid)
		}
		for v := range by[api.VM](tx, "network", in.Network.Name) {
			in.VMs = append(in.VMs, v)
			for a := range by[api.Address](tx, "vm", v.Name) {
				in.Addresses = append(in.Addresses, a)
			}
		}
		for _, m := range records[migration](tx, prefixMigrations, "network", uid) {
			in.Moves = append(in.Moves, m.Source.member(), m.Target.member())
		}
		for _, g := range records[wire.Claim](tx, prefixClaims, "network", uid) {
			if g.Home == site {
				in.Rooms = append(in.Rooms, g.Host)
			}
		}
		return p.site.Own(in)
	})
}

// networkOf finds our network of a UID; nil when there is none. It is shared and must not be changed.
func networkOf(tx *state.Tx, uid string) *api.Network {
	for n := range by[api.Network](tx, "uid", uid) {
		return n
	}
	return nil
}

// ownNetworks plans all networks of this site.
func (c *Controller) ownNetworks(tx *state.Tx) (out []netplan.Network, err error) {
	p, err := c.sitePlan(tx)
	if err != nil {
		return nil, err
	}
	for n := range each[api.Network](tx) {
		planned, err := p.ownNetwork(tx, c.o.Site, n.UID)
		if err != nil {
			return nil, err
		}
		out = append(out, planned)
	}
	return out, nil
}

// gateways are the hosts that let traffic in and out of our networks: our own, and those of peers that lend us addresses.
func (c *Controller) gateways(tx *state.Tx) ([]api.NetworkMember, error) {
	out, err := c.ownGateways(tx)
	if err != nil {
		return nil, err
	}
	loans, err := list[api.Loan](tx)
	if err != nil {
		return nil, err
	}
	for _, l := range loans {
		if l.Spec.Borrower != c.o.Site || l.Spec.Amount.Addresses == 0 || l.Status.State == api.LoanEnded {
			continue
		}
		offers, err := c.offersOf(tx, l.Spec.Lender)
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

func (c *Controller) ownGateways(tx *state.Tx) (out []api.NetworkMember, err error) {
	for h := range each[api.Host](tx) {
		if hasRole(h, api.RoleGateway) && h.Status.VTEP != "" {
			out = append(out, api.NetworkMember{Site: c.o.Site, Host: h.Name, VTEP: h.Status.VTEP, Role: api.RoleGateway})
		}
	}
	return out, err
}

// foreignNetworks plans the peers' networks that are carried here.
func (c *Controller) foreignNetworks(tx *state.Tx) ([]netplan.Network, error) {
	p, err := c.sitePlan(tx)
	if err != nil {
		return nil, err
	}
	return p.foreign.Get(tx, "", func(tx *state.Tx) ([]netplan.Network, error) { return c.planForeign(tx, p.site) })
}

func (c *Controller) planForeign(tx *state.Tx, site *netplan.Site) ([]netplan.Network, error) {
	lent, err := c.addressesLent(tx)
	if err != nil {
		return nil, err
	}
	objects, err := c.foreignObjects(tx, lent)
	if err != nil {
		return nil, err
	}
	var candidates []netplan.Network
	for _, f := range objects {
		if n, ok := site.Foreign(*f); ok {
			candidates = append(candidates, n)
		}
	}
	own, err := c.ownKnown(tx)
	if err != nil {
		return nil, err
	}
	addresses, err := c.addressJudge(tx, lent)
	if err != nil {
		return nil, err
	}
	return netplan.Carry(own, candidates, addresses), nil
}

// foreignObjects are the objects that the plans of the peers' networks follow from, by HOME/UID.
func (c *Controller) foreignObjects(tx *state.Tx, lent map[string]int) (map[string]*netplan.Foreign, error) {
	out := map[string]*netplan.Foreign{}
	of := func(key, home string) *netplan.Foreign {
		if out[key] == nil {
			out[key] = &netplan.Foreign{Home: home, Lent: lent[home]}
		}
		return out[key]
	}
	for _, prefix := range []string{prefixOrders, prefixClaims} {
		guests, err := listJSON[wire.Claim](tx, prefix)
		if err != nil {
			return nil, err
		}
		for _, key := range slices.Sorted(maps.Keys(guests)) {
			g := guests[key]
			if g.Home == c.o.Site {
				continue // a claim of our own migration
			}
			f := of(g.Home+"/"+g.Network.UID, g.Home)
			f.Guests = append(f.Guests, netplan.Guest{VM: g.VM, Host: g.Host, Network: g.Network})
		}
	}
	kvs, err := tx.List(prefixViews)
	if err != nil {
		return nil, err
	}
	for _, kv := range kvs {
		key := strings.TrimPrefix(kv.Key, prefixViews)
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
func (c *Controller) addressesLent(tx *state.Tx) (map[string]int, error) {
	loans, err := c.loansFromUs(tx)
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
func (c *Controller) addressJudge(tx *state.Tx, lent map[string]int) (*netplan.Addresses, error) {
	var own []netip.Addr
	for a := range each[api.Address](tx) {
		if addr, err := netip.ParseAddr(a.Spec.Address); err == nil {
			own = append(own, addr)
		}
	}
	return netplan.NewAddresses(c.o.Site, c.o.Plan, own, lent), nil
}

// ownKnown are the networks of this site, as others must not clash with them.
func (c *Controller) ownKnown(tx *state.Tx) ([]netplan.Known, error) {
	var out []netplan.Known
	for n := range each[api.Network](tx) {
		spec, err := netplan.SpecOf(n)
		if err != nil {
			return nil, err
		}
		out = append(out, netplan.Known{Home: c.o.Site, Spec: spec})
	}
	return out, nil
}

// networksKnown lists our own networks, and those of peers that are carried here.
func (c *Controller) networksKnown(tx *state.Tx) ([]netplan.Known, error) {
	out, err := c.ownKnown(tx)
	if err != nil {
		return nil, err
	}
	foreign, err := c.foreignNetworks(tx)
	for _, f := range foreign {
		out = append(out, f.Known())
	}
	return out, err
}

// networkFor is a network of ours as the target of a migration is to carry it, before it is told by a view.
func (c *Controller) networkFor(ctx context.Context, uid, vtep string) (out wire.NetworkOrder, err error) {
	target := netplan.Host{Hypervisor: true}
	target.VTEP, _ = netip.ParseAddr(vtep) // none: nothing is left out of the flood list
	err = c.view(ctx, func(tx *state.Tx) error {
		p, err := c.sitePlan(tx)
		if err != nil {
			return err
		}
		n, err := p.ownNetwork(tx, c.o.Site, uid)
		out = n.Order(target)
		return err
	})
	return out, err
}
