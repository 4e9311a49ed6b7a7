package control

import (
	"errors"
	"net/netip"
	"strings"

	"widecloud/api"
	"widecloud/internal/access"
	"widecloud/internal/cloud"
	"widecloud/internal/state"
)

// networkLife is what users do with networks.
func (c *Controller) networkLife() life[api.Network] {
	return life[api.Network]{
		Known: c.known, Complete: c.allotPrefix, Faults: c.networkFaults, Create: c.createNetwork, Change: keep[api.Network],
		Delete: func(tx *state.Tx, n *api.Network) error {
			for v := range by[api.VM](tx, "network", n.Name) {
				return inUse(n, "spec.network", "VM %s", v.Name)
			}
			return gone(tx, n)
		},
	}
}

// addressLife is what users do with service addresses.
func (c *Controller) addressLife() life[api.Address] {
	return life[api.Address]{
		Known: c.known, Complete: c.allotAddress, Faults: c.addressFaults, Create: c.createAddress, Change: c.changeAddress,
		Delete: func(tx *state.Tx, a *api.Address) error {
			if err := put(tx, a); err != nil { // as one that is being deleted, which leads nowhere
				return err
			}
			if err := c.serviceAddresses(tx, a.Spec.VM); err != nil {
				return err
			}
			return gone(tx, a)
		},
	}
}

// known is what new networks and addresses must not clash with: our own, and what is carried here of our peers.
func (c *Controller) known(tx *state.Tx) (k cloud.Known, err error) {
	for n := range each[api.Network](tx) {
		k.Networks = append(k.Networks, *n)
	}
	for a := range each[api.Address](tx) {
		k.Addresses = append(k.Addresses, *a)
	}
	foreign, err := c.foreignNetworks(tx)
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
func (c *Controller) networkFaults(tx *state.Tx, _ access.Actor, was, now *api.Network) ([]*api.Error, error) {
	if was != nil {
		return nil, nil // its prefixes do not change
	}
	var errs []error
	if p, err := netip.ParsePrefix(now.Spec.IPv4); err == nil {
		errs = append(errs, c.o.Plan.CheckPrivate("spec.ipv4", p))
	}
	if p, err := netip.ParsePrefix(now.Spec.Prefix); err == nil {
		errs = append(errs, c.o.Plan.CheckNetwork("spec.prefix", p, cloud.Party{Owner: now.Owner}), c.clearOfHosts(tx, "spec.prefix", p))
	}
	return faultsOf(errs)
}

// addressFaults is networkFaults for a new address.
func (c *Controller) addressFaults(tx *state.Tx, _ access.Actor, was, now *api.Address) ([]*api.Error, error) {
	x, err := netip.ParseAddr(now.Spec.Address)
	if was != nil || err != nil {
		return nil, nil // it does not change; what is no address has been found
	}
	return faultsOf([]error{
		c.o.Plan.CheckAddress("spec.address", x, cloud.Party{Owner: now.Owner}),
		c.clearOfHosts(tx, "spec.address", netip.PrefixFrom(x, x.BitLen())),
	})
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

func (c *Controller) createNetwork(tx *state.Tx, _ access.Actor, n *api.Network) error {
	if n.Spec.VNI == 0 {
		all, err := c.networksKnown(tx)
		if err != nil {
			return err
		}
		taken := map[uint32]bool{}
		for _, other := range all {
			taken[other.VNI] = true
		}
		n.Spec.VNI = cloud.VNI(n.UID, func(vni uint32) bool { return taken[vni] })
	}
	return put(tx, n)
}

func (c *Controller) createAddress(tx *state.Tx, by access.Actor, a *api.Address) error {
	if err := c.quota(tx, a.Owner, api.Resources{Addresses: 1}); err != nil {
		return err
	}
	if err := c.addressVM(tx, by, a); err != nil {
		return err
	}
	if err := put(tx, a); err != nil {
		return err
	}
	return c.serviceAddresses(tx, a.Spec.VM)
}

func (c *Controller) changeAddress(tx *state.Tx, by access.Actor, was, now *api.Address) error {
	if err := c.addressVM(tx, by, now); err != nil {
		return err
	}
	if now.Spec.VM != was.Spec.VM {
		now.Status.Target, now.Status.Refused = "", nil
	}
	if err := put(tx, now); err != nil {
		return err
	}
	if err := c.serviceAddresses(tx, was.Spec.VM); err != nil {
		return err
	}
	return c.serviceAddresses(tx, now.Spec.VM)
}

// addressVM checks that the VM that an address is to lead to is there, the actor's, and has no address of the family yet: a
// translator has one for each machine (RFC 7757 §3.2).
func (c *Controller) addressVM(tx *state.Tx, who access.Actor, a *api.Address) error {
	if a.Spec.VM == "" {
		return nil
	}
	o, err := c.visible(tx, who, api.KindVM, a.Spec.VM)
	if err != nil {
		return api.Invalidf("spec.vm", "no VM is called %q", a.Spec.VM)
	}
	if err := access.Change(who, o); err != nil {
		return err
	}
	for other := range by[api.Address](tx, "vm", a.Spec.VM) {
		if other.Name != a.Name && !other.Deleting && strings.Contains(other.Spec.Address, ":") == strings.Contains(a.Spec.Address, ":") {
			return &api.Error{Code: api.CodeConflict, Field: "spec.vm", Message: "VM " + a.Spec.VM + " has the service address " + other.Spec.Address + " already; a VM has one of each family"}
		}
	}
	return nil
}
