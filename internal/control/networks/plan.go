package networks

import (
	"fmt"
	"net/netip"
	"slices"

	"widecloud/api"
	"widecloud/internal/access"
	"widecloud/internal/cloud"
	"widecloud/internal/control/objects"
	"widecloud/internal/state"
)

// allotPrefix gives a new network its prefix out of the site's plan, where its user named none.
func (ns *Networks) allotPrefix(was, now *api.Network, known cloud.Known) error {
	if was != nil || now.Spec.Prefix != "" {
		return nil
	}
	p, err := ns.Plan.FreeNetwork(now.Spec.Pool, cloud.Party{Owner: now.Owner}, func(p netip.Prefix) bool {
		return slices.ContainsFunc(known.Networks, func(k api.Network) bool {
			q, err := netip.ParsePrefix(k.Spec.Prefix)
			return err == nil && q.Overlaps(p)
		})
	})
	if err != nil {
		return err
	}
	now.Spec.Prefix = p.String()
	return nil
}

// allotAddress gives a new address one out of the site's plan, where its user named none. One that is changed keeps what it is.
func (ns *Networks) allotAddress(was, now *api.Address, known cloud.Known) error {
	if now.Spec.Address != "" {
		return nil
	}
	if was != nil {
		now.Spec.Address, now.Spec.Pool = was.Spec.Address, was.Spec.Pool
		return nil
	}
	free, err := ns.Plan.FreeAddress(now.Spec.Pool, cloud.Party{Owner: now.Owner}, func(x netip.Addr) bool {
		return slices.ContainsFunc(known.Addresses, func(k api.Address) bool { return k.Spec.Address == x.String() })
	})
	if err != nil {
		return err
	}
	now.Spec.Address = free.String()
	return nil
}

// clearOfHosts refuses what holds a host's own address. The plan keeps the two apart; a host that was there before the plan
// may still be in a pool.
func (ns *Networks) clearOfHosts(tx *state.Tx, field string, p netip.Prefix) error {
	hosts, err := objects.List[api.Host](tx)
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

// PoolsFor shows the parts of the address plan that an actor may use.
func (ns *Networks) PoolsFor(p access.Actor) (out []api.AddressPool) {
	pools := ns.Plan.Pools
	if !p.Admin {
		pools = ns.Plan.OpenTo(cloud.Party{Owner: p.Owner})
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
