package control

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"widecloud/api"
	"widecloud/internal/store"
	"widecloud/internal/wire"
)

// book is what the views of our networks are made of, read once for all of them.
type book struct {
	vms       []*api.VM
	moving    map[string]migration
	gateways  []api.NetworkMember
	addresses []*api.Address
}

func (c *Controller) openBook(tx store.Tx) (b book, err error) {
	if b.vms, err = list[api.VM](tx); err != nil {
		return b, err
	}
	if b.moving, err = listJSON[migration](tx, prefixMigrations); err != nil {
		return b, err
	}
	if b.gateways, err = c.gateways(tx); err != nil {
		return b, err
	}
	b.addresses, err = list[api.Address](tx)
	return b, err
}

// viewOf is a network of ours with everything that those who carry it must know.
func (c *Controller) viewOf(tx store.Tx, n *api.Network) (wire.NetworkView, error) {
	b, err := c.openBook(tx)
	if err != nil {
		return wire.NetworkView{}, err
	}
	return b.view(n)
}

// ownViews are the views of all our networks.
func (c *Controller) ownViews(tx store.Tx) ([]wire.NetworkView, error) {
	own, err := list[api.Network](tx)
	if err != nil {
		return nil, err
	}
	b, err := c.openBook(tx)
	if err != nil {
		return nil, err
	}
	out := make([]wire.NetworkView, 0, len(own))
	for _, n := range own {
		v, err := b.view(n)
		if err != nil {
			return nil, err
		}
		out = append(out, v)
	}
	return out, nil
}

func (b book) view(n *api.Network) (wire.NetworkView, error) {
	out := wire.NetworkView{UID: n.UID, Name: n.Name, VNI: n.Spec.VNI, MTU: n.Spec.MTU, Members: []api.NetworkMember{}, Endpoints: []wire.EndpointOrder{}}
	var err error
	if out.Prefix, err = netip.ParsePrefix(n.Spec.Prefix); err != nil {
		return out, fmt.Errorf("network %s: %w", n.Name, err)
	}
	if n.Spec.IPv4 != "" {
		if out.IPv4, err = netip.ParsePrefix(n.Spec.IPv4); err != nil {
			return out, fmt.Errorf("network %s: %w", n.Name, err)
		}
	}
	members := map[api.NetworkMember]bool{}
	ours := map[string]*api.VM{}
	for _, v := range b.vms {
		if v.Spec.Network != n.Name {
			continue
		}
		ours[v.Name] = v
		vtep, err := netip.ParseAddr(v.Status.VTEP)
		if err != nil {
			continue // not placed
		}
		members[api.NetworkMember{Site: v.Status.Site, Host: v.Status.Host, VTEP: v.Status.VTEP, Role: api.RoleHypervisor}] = true
		e := wire.EndpointOrder{VM: v.UID, Hostname: v.Name, MAC: v.Status.MAC, VTEP: vtep}
		for _, a := range v.Status.Addresses {
			addr, err := netip.ParseAddr(a.Address)
			switch {
			case err != nil:
			case a.Origin == "slaac":
				e.IPv6 = addr
			case a.Origin == "dhcp":
				e.IPv4 = addr
			}
		}
		out.Endpoints = append(out.Endpoints, e)
	}
	// Both ends of a migration carry the network while it lasts, so that what the VM's arrival announces is heard.
	for _, m := range b.moving {
		if ours[m.VM] == nil {
			continue
		}
		for _, at := range []location{m.Source, m.Target} {
			if at.VTEP != "" {
				members[api.NetworkMember{Site: at.Site, Host: at.Host, VTEP: at.VTEP, Role: api.RoleHypervisor}] = true
			}
		}
	}
	for _, g := range b.gateways {
		members[g] = true
	}
	for m := range members {
		out.Members = append(out.Members, m)
	}
	slices.SortFunc(out.Members, func(a, b api.NetworkMember) int {
		return strings.Compare(a.Site+"/"+a.Host+string(a.Role), b.Site+"/"+b.Host+string(b.Role))
	})
	for _, a := range b.addresses {
		service, err1 := netip.ParseAddr(a.Spec.Address)
		v := ours[a.Spec.VM]
		if v == nil || err1 != nil || a.Deleting {
			continue
		}
		for _, va := range v.Status.Addresses {
			if t, err := netip.ParseAddr(va.Address); err == nil && va.Origin == "slaac" {
				out.Mappings = append(out.Mappings, wire.Mapping{Service: service, Target: t})
			}
		}
	}
	return out, nil
}

// gateways are the hosts that let traffic in and out of our networks: our own, and those of peers that lend us addresses.
func (c *Controller) gateways(tx store.Tx) ([]api.NetworkMember, error) {
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

func (c *Controller) ownGateways(tx store.Tx) (out []api.NetworkMember, err error) {
	hosts, err := list[api.Host](tx)
	for _, h := range hosts {
		if hasRole(h, api.RoleGateway) && h.Status.VTEP != "" {
			out = append(out, api.NetworkMember{Site: c.o.Site, Host: h.Name, VTEP: h.Status.VTEP, Role: api.RoleGateway})
		}
	}
	return out, err
}

// networkOrder is a network as one host is to carry it: the others are its flood list. A gateway floods to hypervisors
// only: the gateways share one address and never speak to each other on a network.
func networkOrder(v wire.NetworkView, home, selfVTEP string, role api.HostRole) wire.NetworkOrder {
	o := wire.NetworkOrder{UID: v.UID, Name: v.Name, Home: home, VNI: v.VNI, Prefix: v.Prefix, IPv4: v.IPv4, MTU: v.MTU, Endpoints: v.Endpoints}
	for _, m := range v.Members {
		if m.VTEP == selfVTEP || role == api.RoleGateway && m.Role == api.RoleGateway {
			continue
		}
		if a, err := netip.ParseAddr(m.VTEP); err == nil && !slices.Contains(o.Flood, a) {
			o.Flood = append(o.Flood, a)
		}
	}
	return o
}

// knownNetwork is a network that this site carries or may carry.
type knownNetwork struct {
	UID, Name, Home string
	VNI             uint32
	Prefix          netip.Prefix
	IPv4            netip.Prefix
}

// ownNetworks are the networks of this site.
func (c *Controller) ownNetworks(tx store.Tx) ([]knownNetwork, error) {
	own, err := list[api.Network](tx)
	if err != nil {
		return nil, err
	}
	out := make([]knownNetwork, 0, len(own))
	for _, n := range own {
		k := knownNetwork{UID: n.UID, Name: n.Name, Home: c.o.Site, VNI: n.Spec.VNI}
		if k.Prefix, err = netip.ParsePrefix(n.Spec.Prefix); err != nil {
			return nil, fmt.Errorf("network %s: %w", n.Name, err)
		}
		if n.Spec.IPv4 != "" {
			if k.IPv4, err = netip.ParsePrefix(n.Spec.IPv4); err != nil {
				return nil, fmt.Errorf("network %s: %w", n.Name, err)
			}
		}
		out = append(out, k)
	}
	return out, nil
}

// networksKnown lists our own networks, and those of peers that are carried here.
func (c *Controller) networksKnown(tx store.Tx) ([]knownNetwork, error) {
	out, err := c.ownNetworks(tx)
	if err != nil {
		return nil, err
	}
	foreign, err := c.foreignNetworks(tx)
	for _, f := range foreign {
		out = append(out, f.known())
	}
	return out, err
}

// networkFor is a network of ours as the target of a migration is to carry it, before it is told by a view.
func (c *Controller) networkFor(ctx context.Context, uid, selfVTEP string) (out wire.NetworkOrder, err error) {
	err = c.view(ctx, func(tx store.Tx) error {
		all, err := list[api.Network](tx)
		if err != nil {
			return err
		}
		for _, n := range all {
			if n.UID == uid {
				v, err := c.viewOf(tx, n)
				out = networkOrder(v, c.o.Site, selfVTEP, api.RoleHypervisor)
				return err
			}
		}
		return api.Errorf(api.CodeNotFound, "no network %s", uid)
	})
	return out, err
}
