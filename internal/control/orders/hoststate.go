package orders

import (
	"context"
	"maps"
	"slices"
	"strings"

	"widecloud/api"
	"widecloud/internal/control/networks"
	"widecloud/internal/control/objects"
	"widecloud/internal/netplan"
	"widecloud/internal/state"
	"widecloud/internal/wire"
)

// Host is everything that a host is to be as of a revision. It is made again only when something that it follows from has
// changed; while nothing has, it is the same pointer. It must not be changed.
func (ord *Orders) Host(ctx context.Context, host string) (s *wire.HostState, revision int64, err error) {
	err = ord.Read(ctx, func(tx *state.Tx) error {
		revision = tx.Revision()
		p, err := ord.networks.SitePlan(tx)
		if err != nil {
			return err
		}
		h, ok := p.Hosts[host]
		if !ok {
			return api.Errorf(api.CodeNotFound, "no host is called %q", host)
		}
		s, err = p.States.Get(tx, host, func(tx *state.Tx) (*wire.HostState, error) { return ord.stateOf(tx, p, h) })
		return err
	})
	return s, revision, err
}

func (ord *Orders) stateOf(tx *state.Tx, p *networks.SitePlan, h netplan.Host) (*wire.HostState, error) {
	orders, err := ord.on(tx, h.Name)
	if err != nil {
		return nil, err
	}
	s := &wire.HostState{AnycastVTEP: ord.AnycastVTEP, Pref64: ord.Pref64, VMs: append([]wire.VMOrder{}, orders...)}
	slices.SortFunc(s.VMs, func(a, b wire.VMOrder) int { return strings.Compare(a.VM, b.VM) })
	for v := range objects.By[api.Volume](tx, "host", objects.Placed(ord.Name, h.Name)) {
		s.Volumes = append(s.Volumes, volumeOrder(v))
	}
	networks, err := p.Foreign.Get(tx, "", func(tx *state.Tx) ([]netplan.Network, error) { return ord.networks.PlanForeign(tx, p.Site) })
	if err != nil {
		return nil, err
	}
	networks = slices.Clone(networks)
	for _, uid := range ord.networksAt(tx, h, orders) {
		n, err := p.OwnNetwork(tx, ord.Name, uid)
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
func (ord *Orders) networksAt(tx *state.Tx, h netplan.Host, orders []wire.VMOrder) []string {
	set := map[string]bool{}
	if h.Gateway {
		for n := range objects.Each[api.Network](tx) {
			set[n.UID] = true
		}
	}
	for _, o := range orders {
		if o.Home == ord.Name {
			set[o.NIC.Network] = true
		}
	}
	for _, g := range objects.Records[wire.Claim](tx, objects.PrefixClaims, "host", h.Name) {
		if g.Home == ord.Name {
			set[g.Order.NIC.Network] = true
		}
	}
	return slices.Sorted(maps.Keys(set))
}
