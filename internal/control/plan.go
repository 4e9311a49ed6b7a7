package control

import (
	"fmt"
	"net/netip"
	"slices"

	"widecloud/api"
	"widecloud/internal/cloud"
	"widecloud/internal/serve"
	"widecloud/internal/store"
)

// allot gives a new network its prefix, or a new address its address, out of the site's plan where its user named none, and
// holds what the user named against the plan.
func (c *Controller) allot(tx store.Tx, o api.Object) error {
	who := cloud.Party{Owner: o.Metadata().Owner}
	switch o := o.(type) {
	case *api.Network:
		return c.allotNetwork(tx, o, who)
	case *api.Address:
		return c.allotAddress(tx, o, who)
	}
	return nil
}

func (c *Controller) allotNetwork(tx store.Tx, n *api.Network, who cloud.Party) error {
	known, err := c.known(tx)
	if err != nil {
		return err
	}
	if n.Spec.Prefix == "" {
		p, err := c.o.Plan.FreeNetwork(n.Spec.Pool, who, func(p netip.Prefix) bool {
			return slices.ContainsFunc(known.Networks, func(k api.Network) bool {
				q, err := netip.ParsePrefix(k.Spec.Prefix)
				return err == nil && q.Overlaps(p)
			})
		})
		if err != nil {
			return err
		}
		n.Spec.Prefix = p.String()
	}
	if err := cloud.Validate(n, known); err != nil {
		return err
	}
	if p, err := netip.ParsePrefix(n.Spec.IPv4); err == nil {
		if err := c.o.Plan.CheckPrivate("spec.ipv4", p); err != nil {
			return err
		}
	}
	p, err := netip.ParsePrefix(n.Spec.Prefix)
	if err != nil {
		return err // Validate has read it before
	}
	if err := c.o.Plan.CheckNetwork("spec.prefix", p, who); err != nil {
		return err
	}
	return c.clearOfHosts(tx, "spec.prefix", p)
}

func (c *Controller) allotAddress(tx store.Tx, a *api.Address, who cloud.Party) error {
	known, err := c.known(tx)
	if err != nil {
		return err
	}
	if a.Spec.Address == "" {
		free, err := c.o.Plan.FreeAddress(a.Spec.Pool, who, func(x netip.Addr) bool {
			return slices.ContainsFunc(known.Addresses, func(k api.Address) bool { return k.Spec.Address == x.String() })
		})
		if err != nil {
			return err
		}
		a.Spec.Address = free.String()
	}
	if err := cloud.Validate(a, known); err != nil {
		return err
	}
	x, err := netip.ParseAddr(a.Spec.Address)
	if err != nil {
		return err // Validate has read it before
	}
	if err := c.o.Plan.CheckAddress("spec.address", x, who); err != nil {
		return err
	}
	return c.clearOfHosts(tx, "spec.address", netip.PrefixFrom(x, x.BitLen()))
}

// clearOfHosts refuses what holds a host's own address. The plan keeps the two apart; a host that was there before the plan
// may still be in a pool.
func (c *Controller) clearOfHosts(tx store.Tx, field string, p netip.Prefix) error {
	hosts, err := list[api.Host](tx)
	if err != nil {
		return err
	}
	for _, h := range hosts {
		if a, err := netip.ParseAddr(h.Status.VTEP); err == nil && p.Contains(a) {
			return &api.Error{Code: api.CodeRefused, Field: field, Message: fmt.Sprintf("%s holds %s, the underlay address of host %s", p, a, h.Name)}
		}
	}
	return nil
}

// poolsFor shows the parts of the address plan that a principal may use.
func (c *Controller) poolsFor(p serve.Principal) (out []api.AddressPool) {
	pools := c.o.Plan.Pools
	if !p.Admin {
		pools = c.o.Plan.OpenTo(cloud.Party{Owner: p.Owner})
		if p.Owner == "" {
			return nil
		}
	}
	for _, x := range pools {
		pool := api.AddressPool{Name: x.Name, Use: string(x.Use), Prefixes: texts(x.Prefixes), Except: texts(x.Except)}
		if p.Admin {
			pool.Owners, pool.Peers = x.Owners, x.Peers
		}
		out = append(out, pool)
	}
	return out
}

func texts(list []netip.Prefix) (out []string) {
	for _, p := range list {
		out = append(out, p.String())
	}
	return out
}
