package control

import (
	"context"
	"maps"
	"slices"
	"strings"

	"widecloud/api"
	"widecloud/internal/netplan"
	"widecloud/internal/state"
	"widecloud/internal/wire"
)

// hostState is everything that a host is to be as of a revision. It is made again only when something that it follows from has
// changed; while nothing has, it is the same pointer. It must not be changed.
func (c *Controller) hostState(ctx context.Context, host string) (s *wire.HostState, revision int64, err error) {
	err = c.view(ctx, func(tx *state.Tx) error {
		revision = tx.Revision()
		p, err := c.sitePlan(tx)
		if err != nil {
			return err
		}
		h, ok := p.hosts[host]
		if !ok {
			return api.Errorf(api.CodeNotFound, "no host is called %q", host)
		}
		s, err = p.states.Get(tx, host, func(tx *state.Tx) (*wire.HostState, error) { return c.stateOf(tx, p, h) })
		return err
	})
	return s, revision, err
}

func (c *Controller) stateOf(tx *state.Tx, p *sitePlan, h netplan.Host) (*wire.HostState, error) {
	orders, err := c.ordersOf(tx, h.Name)
	if err != nil {
		return nil, err
	}
	s := &wire.HostState{AnycastVTEP: c.o.AnycastVTEP, Pref64: c.o.Pref64, VMs: append([]wire.VMOrder{}, orders...)}
	slices.SortFunc(s.VMs, func(a, b wire.VMOrder) int { return strings.Compare(a.VM, b.VM) })
	networks, err := p.foreign.Get(tx, "", func(tx *state.Tx) ([]netplan.Network, error) { return c.planForeign(tx, p.site) })
	if err != nil {
		return nil, err
	}
	networks = slices.Clone(networks)
	for _, uid := range c.networksAt(tx, h, orders) {
		n, err := p.ownNetwork(tx, c.o.Site, uid)
		if err != nil {
			return nil, err
		}
		networks = append(networks, n)
	}
	s.Networks, s.Mappings = netplan.ForHost(h, networks)
	return s, nil
}

// networksAt are the UIDs of our networks that a host may have to carry: those of the VMs that it has or keeps room for, and at a
// gateway all.
func (c *Controller) networksAt(tx *state.Tx, h netplan.Host, orders []wire.VMOrder) []string {
	set := map[string]bool{}
	if h.Gateway {
		for n := range each[api.Network](tx) {
			set[n.UID] = true
		}
	}
	for _, o := range orders {
		if o.Home == c.o.Site {
			set[o.NIC.Network] = true
		}
	}
	for _, g := range records[wire.Claim](tx, prefixClaims, "host", h.Name) {
		if g.Home == c.o.Site {
			set[g.Order.NIC.Network] = true
		}
	}
	return slices.Sorted(maps.Keys(set))
}

// ordersOf are the orders for our own VMs that are on a host, and for guests.
func (c *Controller) ordersOf(tx *state.Tx, host string) (out []wire.VMOrder, err error) {
	for v := range by[api.VM](tx, "host", placed(c.o.Site, host)) {
		if v.Status.Epoch == 0 {
			continue
		}
		o, err := c.orderOf(tx, v)
		if err != nil {
			return nil, err
		}
		out = append(out, o)
	}
	for _, g := range records[wire.Claim](tx, prefixOrders, "host", host) {
		out = append(out, g.Order)
	}
	return out, nil
}

// hasRole tells whether a host is for a role: by its admin's word, and by its agent's configuration once that is known.
func hasRole(h *api.Host, r api.HostRole) bool {
	return slices.Contains(h.Spec.Roles, r) && (len(h.Status.Roles) == 0 || slices.Contains(h.Status.Roles, r))
}

// roles are those that a host has.
func roles(h *api.Host) []api.HostRole {
	return slices.DeleteFunc(slices.Clone(h.Spec.Roles), func(r api.HostRole) bool { return !hasRole(h, r) })
}
