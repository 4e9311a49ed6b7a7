package networks

import (
	"errors"
	"net/netip"
	"slices"

	"widecloud/api"
	"widecloud/internal/access"
	"widecloud/internal/cloud"
	"widecloud/internal/control/objects"
	"widecloud/internal/state"
)

// networkLife is what users do with networks.
func (ns *Networks) networkLife() objects.Life[api.Network] {
	return objects.Life[api.Network]{
		Known: ns.known, Complete: ns.allotPrefix, Faults: ns.networkFaults, Create: ns.createNetwork,
		Change: func(tx *state.Tx, _ access.Actor, _, n *api.Network) error {
			n.Status = api.NetworkStatus{} // it is planned, not kept
			return objects.Put(tx, n)
		},
		Delete: func(tx *state.Tx, n *api.Network) error {
			for v := range objects.By[api.VM](tx, "network", n.Name) {
				return objects.InUse(n, "spec.network", "VM %s", v.Name)
			}
			return objects.Gone(tx, n)
		},
		Show: func(tx *state.Tx, _ access.Actor, n *api.Network) error {
			planned, err := ns.OwnNetwork(tx, n)
			n.Status.Members = slices.Clone(planned.View.Members)
			return err
		},
	}
}

// known is what new networks and addresses must not clash with: our own, and what is carried here of our peers.
func (ns *Networks) known(tx *state.Tx) (k cloud.Known, err error) {
	for n := range objects.Each[api.Network](tx) {
		k.Networks = append(k.Networks, *n)
	}
	for a := range objects.Each[api.Address](tx) {
		k.Addresses = append(k.Addresses, *a)
	}
	foreign, err := ns.foreignNetworks(tx)
	for _, f := range foreign {
		n := api.Network{Meta: api.Meta{Name: f.View.Name + "@" + f.Home, Home: f.Home}, Spec: api.NetworkSpec{Prefix: f.View.Prefix.String(), VNI: f.View.VNI}}
		if f.View.IPv4.IsValid() {
			n.Spec.IPv4 = f.View.IPv4.String()
		}
		k.Networks = append(k.Networks, n)
		for _, m := range f.Mappings {
			k.Addresses = append(k.Addresses, api.Address{Meta: api.Meta{Name: m.Service.String() + "@" + f.Home}, Spec: api.AddressSpec{Address: m.Service.String()}})
		}
	}
	return k, err
}

// networkFaults holds what a new network's user named against the site's address plan and the hosts' own addresses.
func (ns *Networks) networkFaults(tx *state.Tx, _ access.Actor, was, now *api.Network) ([]*api.Error, error) {
	if was != nil {
		return nil, nil // its prefixes do not change
	}
	var errs []error
	if p, err := netip.ParsePrefix(now.Spec.IPv4); err == nil {
		errs = append(errs, ns.Plan.CheckPrivate("spec.ipv4", p))
	}
	if p, err := netip.ParsePrefix(now.Spec.Prefix); err == nil {
		errs = append(errs, ns.Plan.CheckNetwork("spec.prefix", p, cloud.Party{Owner: now.Owner}), ns.clearOfHosts(tx, "spec.prefix", p))
	}
	return faultsOf(errs)
}

// faultsOf is what is wrong, the first thing of each field; an error that says nothing of the object is one.
func faultsOf(errs []error) (faults []*api.Error, err error) {
	seen := map[string]bool{}
	for _, err := range errs {
		var e *api.Error
		switch {
		case err == nil:
		case !errors.As(err, &e):
			return nil, err
		case !seen[e.Field]:
			seen[e.Field] = true
			faults = append(faults, e)
		}
	}
	return faults, nil
}

func (ns *Networks) createNetwork(tx *state.Tx, _ access.Actor, n *api.Network) error {
	if n.Spec.VNI == 0 {
		all, err := ns.networksKnown(tx)
		if err != nil {
			return err
		}
		taken := map[uint32]bool{}
		for _, other := range all {
			taken[other.VNI] = true
		}
		n.Spec.VNI = cloud.VNI(n.UID, func(vni uint32) bool { return taken[vni] })
	}
	return objects.Put(tx, n)
}
