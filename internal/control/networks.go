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

// networkObjects are the objects that the plans of this site's networks follow from, read once for all of them.
type networkObjects struct {
	site      *netplan.Site
	networks  []*api.Network
	vms       map[string][]*api.VM           // by the network's name
	moves     map[string][]api.NetworkMember // by the network's name
	addresses map[string][]*api.Address      // by the network's name
	rooms     map[string][]string            // by the network's UID: hosts that keep room for a VM of it
	gateways  []api.NetworkMember
}

func (c *Controller) networkObjects(tx *state.Tx) (o networkObjects, err error) {
	o.vms, o.moves, o.addresses = map[string][]*api.VM{}, map[string][]api.NetworkMember{}, map[string][]*api.Address{}
	if o.site, err = c.planSite(tx); err != nil {
		return o, err
	}
	if o.networks, err = list[api.Network](tx); err != nil {
		return o, err
	}
	if o.gateways, err = c.gateways(tx); err != nil {
		return o, err
	}
	if o.rooms, err = c.roomsForOwn(tx); err != nil {
		return o, err
	}
	vms, err := list[api.VM](tx)
	if err != nil {
		return o, err
	}
	networkOf := make(map[string]string, len(vms)) // VM -> network
	for _, v := range vms {
		networkOf[v.Name] = v.Spec.Network
		o.vms[v.Spec.Network] = append(o.vms[v.Spec.Network], v)
	}
	moving, err := listJSON[migration](tx, prefixMigrations)
	if err != nil {
		return o, err
	}
	for _, m := range moving {
		if n := networkOf[m.VM]; n != "" {
			o.moves[n] = append(o.moves[n], m.Source.member(), m.Target.member())
		}
	}
	addresses, err := list[api.Address](tx)
	for _, a := range addresses {
		if n := networkOf[a.Spec.VM]; n != "" {
			o.addresses[n] = append(o.addresses[n], a)
		}
	}
	return o, err
}

func (l location) member() api.NetworkMember {
	return api.NetworkMember{Site: l.Site, Host: l.Host, VTEP: l.VTEP, Role: api.RoleHypervisor}
}

// plan plans one network of this site.
func (o networkObjects) plan(n *api.Network) (netplan.Network, error) {
	return o.site.Own(netplan.Own{
		Network: n, VMs: o.vms[n.Name], Moves: o.moves[n.Name], Rooms: o.rooms[n.UID], Gateways: o.gateways, Addresses: o.addresses[n.Name],
	})
}

// ownNetworks plans all networks of this site.
func (c *Controller) ownNetworks(tx *state.Tx) ([]netplan.Network, error) {
	o, err := c.networkObjects(tx)
	if err != nil {
		return nil, err
	}
	out := make([]netplan.Network, 0, len(o.networks))
	for _, n := range o.networks {
		p, err := o.plan(n)
		if err != nil {
			return nil, err
		}
		out = append(out, p)
	}
	return out, nil
}

// ownNetwork plans one network of this site.
func (c *Controller) ownNetwork(tx *state.Tx, n *api.Network) (netplan.Network, error) {
	o, err := c.networkObjects(tx)
	if err != nil {
		return netplan.Network{}, err
	}
	return o.plan(n)
}

// planSite is this site as its networks are planned.
func (c *Controller) planSite(tx *state.Tx) (*netplan.Site, error) {
	hosts, err := list[api.Host](tx)
	if err != nil {
		return nil, err
	}
	out := make([]netplan.Host, len(hosts))
	for i, h := range hosts {
		out[i] = planHost(h)
	}
	return netplan.NewSite(c.o.Site, c.o.Plan, out), nil
}

func planHost(h *api.Host) netplan.Host {
	vtep, _ := netip.ParseAddr(h.Status.VTEP) // a host that has not reported yet has none
	return netplan.Host{Name: h.Name, VTEP: vtep, Hypervisor: hasRole(h, api.RoleHypervisor), Gateway: hasRole(h, api.RoleGateway)}
}

// roomsForOwn are the hosts that keep room for VMs of this site that are about to arrive, by the UIDs of their networks.
func (c *Controller) roomsForOwn(tx *state.Tx) (map[string][]string, error) {
	claims, err := listJSON[wire.Claim](tx, prefixClaims)
	out := map[string][]string{}
	for _, g := range claims {
		if g.Home == c.o.Site {
			out[g.Order.NIC.Network] = append(out[g.Order.NIC.Network], g.Host)
		}
	}
	return out, err
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
	hosts, err := list[api.Host](tx)
	for _, h := range hosts {
		if hasRole(h, api.RoleGateway) && h.Status.VTEP != "" {
			out = append(out, api.NetworkMember{Site: c.o.Site, Host: h.Name, VTEP: h.Status.VTEP, Role: api.RoleGateway})
		}
	}
	return out, err
}

// foreignNetworks plans the peers' networks that are carried here.
func (c *Controller) foreignNetworks(tx *state.Tx) ([]netplan.Network, error) {
	site, err := c.planSite(tx)
	if err != nil {
		return nil, err
	}
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
	objects, err := list[api.Address](tx)
	if err != nil {
		return nil, err
	}
	var own []netip.Addr
	for _, a := range objects {
		if addr, err := netip.ParseAddr(a.Spec.Address); err == nil {
			own = append(own, addr)
		}
	}
	return netplan.NewAddresses(c.o.Site, c.o.Plan, own, lent), nil
}

// ownKnown are the networks of this site, as others must not clash with them.
func (c *Controller) ownKnown(tx *state.Tx) ([]netplan.Known, error) {
	own, err := list[api.Network](tx)
	if err != nil {
		return nil, err
	}
	out := make([]netplan.Known, 0, len(own))
	for _, n := range own {
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
		all, err := list[api.Network](tx)
		if err != nil {
			return err
		}
		for _, n := range all {
			if n.UID == uid {
				p, err := c.ownNetwork(tx, n)
				out = p.Order(target)
				return err
			}
		}
		return api.Errorf(api.CodeNotFound, "no network %s", uid)
	})
	return out, err
}
