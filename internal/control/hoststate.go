package control

import (
	"context"
	"slices"
	"strings"

	"widecloud/api"
	"widecloud/internal/netplan"
	"widecloud/internal/state"
	"widecloud/internal/wire"
)

// hostState is everything that a host is to be now. The states of all hosts are made at once and kept until the store
// changes: every change has every host's state looked at.
func (c *Controller) hostState(ctx context.Context, host string) (s wire.HostState, err error) {
	err = c.view(ctx, func(tx *state.Tx) error {
		c.stateMu.Lock()
		defer c.stateMu.Unlock()
		if c.states == nil || c.statesAt != tx.Revision() {
			states, err := c.hostStates(tx)
			if err != nil {
				return err
			}
			c.states, c.statesAt = states, tx.Revision()
		}
		var ok bool
		if s, ok = c.states[host]; !ok {
			return api.Errorf(api.CodeNotFound, "no host is called %q", host)
		}
		return nil
	})
	return s, err
}

func (c *Controller) hostStates(tx *state.Tx) (map[string]wire.HostState, error) {
	hosts, err := list[api.Host](tx)
	if err != nil {
		return nil, err
	}
	networks, err := c.ownNetworks(tx)
	if err != nil {
		return nil, err
	}
	foreign, err := c.foreignNetworks(tx)
	if err != nil {
		return nil, err
	}
	networks = append(networks, foreign...)
	out := make(map[string]wire.HostState, len(hosts))
	for _, h := range hosts {
		orders, err := c.ordersOf(tx, h.Name)
		if err != nil {
			return nil, err
		}
		s := wire.HostState{Revision: tx.Revision(), AnycastVTEP: c.o.AnycastVTEP, Pref64: c.o.Pref64, VMs: append([]wire.VMOrder{}, orders...)}
		slices.SortFunc(s.VMs, func(a, b wire.VMOrder) int { return strings.Compare(a.VM, b.VM) })
		s.Networks, s.Mappings = netplan.ForHost(planHost(h), networks)
		out[h.Name] = s
	}
	return out, nil
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
