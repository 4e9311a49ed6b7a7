package networks

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"widecloud/api"
	"widecloud/internal/access"
	"widecloud/internal/cloud"
	"widecloud/internal/control/objects"
	"widecloud/internal/state"
)

// addressLife is what users do with service addresses.
func (ns *Networks) addressLife() objects.Life[api.Address] {
	return objects.Life[api.Address]{
		Known: ns.known, Complete: ns.allotAddress, Faults: ns.addressFaults, Create: ns.createAddress, Change: ns.changeAddress,
		Delete: func(tx *state.Tx, a *api.Address) error {
			if err := objects.Put(tx, a); err != nil { // as one that is being deleted, which leads nowhere
				return err
			}
			if err := ns.serviceAddresses(tx, a.Spec.VM); err != nil {
				return err
			}
			return objects.Gone(tx, a)
		},
	}
}

// addressFaults is networkFaults for a new address.
func (ns *Networks) addressFaults(tx *state.Tx, _ access.Actor, was, now *api.Address) ([]*api.Error, error) {
	x, err := netip.ParseAddr(now.Spec.Address)
	if was != nil || err != nil {
		return nil, nil // it does not change; what is no address has been found
	}
	return faultsOf([]error{
		ns.Plan.CheckAddress("spec.address", x, cloud.Party{Owner: now.Owner}),
		ns.clearOfHosts(tx, "spec.address", netip.PrefixFrom(x, x.BitLen())),
	})
}

func (ns *Networks) createAddress(tx *state.Tx, by access.Actor, a *api.Address) error {
	if err := ns.rooms.Quota(tx, a.Owner, api.Resources{Addresses: 1}); err != nil {
		return err
	}
	if err := ns.addressVM(tx, by, a); err != nil {
		return err
	}
	if err := objects.Put(tx, a); err != nil {
		return err
	}
	return ns.serviceAddresses(tx, a.Spec.VM)
}

func (ns *Networks) changeAddress(tx *state.Tx, by access.Actor, was, now *api.Address) error {
	if err := ns.addressVM(tx, by, now); err != nil {
		return err
	}
	if now.Spec.VM != was.Spec.VM {
		now.Status.Target, now.Status.Refused = "", nil
	}
	if err := objects.Put(tx, now); err != nil {
		return err
	}
	if err := ns.serviceAddresses(tx, was.Spec.VM); err != nil {
		return err
	}
	return ns.serviceAddresses(tx, now.Spec.VM)
}

// addressVM checks that the VM that an address is to lead to is there, the actor's, and has no address of the family yet: a
// translator has one for each machine (RFC 7757 §3.2).
func (ns *Networks) addressVM(tx *state.Tx, who access.Actor, a *api.Address) error {
	if a.Spec.VM == "" {
		return nil
	}
	o, err := ns.Visible(tx, who, api.KindVM, a.Spec.VM)
	if err != nil {
		return api.Invalidf("spec.vm", "no VM is called %q", a.Spec.VM)
	}
	if err := access.Change(who, o); err != nil {
		return err
	}
	for other := range objects.By[api.Address](tx, "vm", a.Spec.VM) {
		if other.Name != a.Name && !other.Deleting && strings.Contains(other.Spec.Address, ":") == strings.Contains(a.Spec.Address, ":") {
			return &api.Error{Code: api.CodeConflict, Field: "spec.vm", Message: "VM " + a.Spec.VM + " has the service address " + other.Spec.Address + " already; a VM has one of each family"}
		}
	}
	return nil
}

// Lead leads a service address to a new VM: a free one of a pool, a new one, or one that its owner has and that leads nowhere.
func (ns *Networks) Lead(tx *state.Tx, p access.Actor, service string, v *api.VM) error {
	a := &api.Address{Spec: api.AddressSpec{VM: v.Name}}
	if !strings.ContainsAny(service, ".:") { // no address is without one of these, and no name has them
		a.Meta, a.Spec.Pool = ns.NewMeta(v.Name+"-"+service, v.Owner), service
		return ns.CreateIn(tx, p, a)
	}
	addr, err := netip.ParseAddr(service)
	if err != nil {
		return api.Invalidf("", "%.60q is neither an IP address nor the name of a pool", service)
	}
	for have := range objects.By[api.Address](tx, "address", addr.String()) {
		if _, err := ns.Visible(tx, p, api.KindAddress, have.Name); err == nil {
			return ns.leadHeld(tx, p, state.Clone(have), v)
		}
	}
	a.Meta, a.Spec.Address = ns.NewMeta(addressName(addr), v.Owner), addr.String()
	return ns.CreateIn(tx, p, a)
}

// leadHeld leads an address that exists and leads nowhere to a new VM.
func (ns *Networks) leadHeld(tx *state.Tx, p access.Actor, a *api.Address, v *api.VM) error {
	if err := access.Change(p, a); err != nil {
		return err
	}
	if a.Spec.VM != "" {
		return &api.Error{Code: api.CodeConflict, Message: fmt.Sprintf("%s leads to VM %s; wcc address bind changes that", a.Spec.Address, a.Spec.VM)}
	}
	was := state.Clone(a)
	a.Spec.VM = v.Name
	return ns.ChangeIn(tx, p, was, a)
}

// addressName makes a name of an address: a DNS label, so that dots and colons become hyphens. Clients make the same.
func addressName(a netip.Addr) string {
	return strings.NewReplacer(".", "-", ":", "-").Replace(a.StringExpanded())
}

// serviceAddresses shows a VM's service addresses in its status.
func (ns *Networks) serviceAddresses(tx *state.Tx, name string) error {
	if name == "" {
		return nil
	}
	v, err := objects.Get[api.VM](tx, name)
	if errors.Is(err, &api.Error{Code: api.CodeNotFound}) {
		return nil
	}
	if err != nil {
		return err
	}
	var keep []api.VMAddress
	target := ""
	for _, a := range v.Status.Addresses {
		if a.Origin != "service" {
			keep = append(keep, a)
		}
		if a.Origin == "slaac" {
			target = a.Address
		}
	}
	for a := range objects.By[api.Address](tx, "vm", name) {
		if !a.Deleting {
			a = state.Clone(a)
			keep = append(keep, api.VMAddress{Address: a.Spec.Address, Origin: "service"})
			a.Status.Target = target
			if err := objects.Put(tx, a); err != nil {
				return err
			}
		}
	}
	v.Status.Addresses = keep
	return objects.Put(tx, v)
}
