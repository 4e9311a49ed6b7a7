package control

import (
	"context"
	"slices"
	"strings"

	"widecloud/api"
	"widecloud/internal/store"
	"widecloud/internal/wire"
)

// hostState is everything that a host is to be now. The states of all hosts are made at once and kept until the store
// changes: every change has every host's state looked at.
func (c *Controller) hostState(ctx context.Context, host string) (s wire.HostState, err error) {
	err = c.view(ctx, func(tx store.Tx) error {
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

func (c *Controller) hostStates(tx store.Tx) (map[string]wire.HostState, error) {
	hosts, err := list[api.Host](tx)
	if err != nil {
		return nil, err
	}
	orders, err := c.ordersByHost(tx)
	if err != nil {
		return nil, err
	}
	own, err := c.ownViews(tx)
	if err != nil {
		return nil, err
	}
	foreign, err := c.foreignNetworks(tx)
	if err != nil {
		return nil, err
	}
	moving, err := c.movingHere(tx)
	if err != nil {
		return nil, err
	}
	out := make(map[string]wire.HostState, len(hosts))
	for _, h := range hosts {
		s := wire.HostState{Revision: tx.Revision(), AnycastVTEP: c.o.AnycastVTEP, Pref64: c.o.Pref64, VMs: []wire.VMOrder{}, Networks: []wire.NetworkOrder{}}
		s.VMs = append(s.VMs, orders[h.Name]...)
		gateway := hasRole(h, api.RoleGateway)
		for _, v := range own {
			if gateway || moving[h.Name][v.UID] || slices.ContainsFunc(s.VMs, func(o wire.VMOrder) bool { return o.NIC.Network == v.UID }) {
				s.Networks = append(s.Networks, networkOrder(v, c.o.Site, h.Status.VTEP, floodRole(h)))
			}
			if gateway {
				s.Mappings = append(s.Mappings, v.Mappings...)
			}
		}
		for _, f := range foreign {
			if n, ok := f.orderFor(h, hosts); ok {
				s.Networks = append(s.Networks, n)
			}
			if gateway {
				s.Mappings = append(s.Mappings, f.mappings...)
			}
		}
		slices.SortFunc(s.VMs, func(a, b wire.VMOrder) int { return strings.Compare(a.VM, b.VM) })
		slices.SortFunc(s.Networks, func(a, b wire.NetworkOrder) int { return strings.Compare(a.UID, b.UID) })
		slices.SortFunc(s.Mappings, func(a, b wire.Mapping) int { return a.Service.Compare(b.Service) })
		out[h.Name] = s
	}
	return out, nil
}

// ordersByHost are the orders for our own VMs that are here, and for guests.
func (c *Controller) ordersByHost(tx store.Tx) (map[string][]wire.VMOrder, error) {
	out := map[string][]wire.VMOrder{}
	vms, err := list[api.VM](tx)
	if err != nil {
		return nil, err
	}
	for _, v := range vms {
		if v.Status.Site != c.o.Site || v.Status.Epoch == 0 {
			continue
		}
		o, err := c.orderOf(tx, v)
		if err != nil {
			return nil, err
		}
		out[v.Status.Host] = append(out[v.Status.Host], o)
	}
	guests, err := listJSON[wire.Claim](tx, prefixOrders)
	for _, g := range guests {
		out[g.Host] = append(out[g.Host], g.Order)
	}
	return out, err
}

// movingHere are the own networks of VMs for which a host keeps room, by host and UID: they are carried before the VM arrives.
func (c *Controller) movingHere(tx store.Tx) (map[string]map[string]bool, error) {
	claims, err := listJSON[wire.Claim](tx, prefixClaims)
	out := map[string]map[string]bool{}
	for _, g := range claims {
		if g.Home != c.o.Site {
			continue
		}
		if out[g.Host] == nil {
			out[g.Host] = map[string]bool{}
		}
		out[g.Host][g.Order.NIC.Network] = true
	}
	return out, err
}

// hasRole tells whether a host is for a role: by its admin's word, and by its agent's configuration once that is known.
func hasRole(h *api.Host, r api.HostRole) bool {
	return slices.Contains(h.Spec.Roles, r) && (len(h.Status.Roles) == 0 || slices.Contains(h.Status.Roles, r))
}

// roles are those that a host has.
func roles(h *api.Host) []api.HostRole {
	return slices.DeleteFunc(slices.Clone(h.Spec.Roles), func(r api.HostRole) bool { return !hasRole(h, r) })
}

// floodRole is the role in which a host floods. One that is both floods as a hypervisor: the other gateways hear what arrives
// at it.
func floodRole(h *api.Host) api.HostRole {
	if hasRole(h, api.RoleGateway) && !hasRole(h, api.RoleHypervisor) {
		return api.RoleGateway
	}
	return api.RoleHypervisor
}
