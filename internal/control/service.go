package control

import (
	"fmt"
	"net/netip"
	"strings"

	"widecloud/api"
	"widecloud/internal/access"
	"widecloud/internal/state"
)

// lead leads a service address to a new VM: a free one of a pool, a new one, or one that its owner has and that leads nowhere.
func (c *Controller) lead(tx *state.Tx, p access.Actor, service string, v *api.VM) error {
	a := &api.Address{Spec: api.AddressSpec{VM: v.Name}}
	if !strings.ContainsAny(service, ".:") { // no address is without one of these, and no name has them
		a.Meta, a.Spec.Pool = c.newMeta(v.Name+"-"+service, v.Owner), service
		return c.createIn(tx, p, a)
	}
	addr, err := netip.ParseAddr(service)
	if err != nil {
		return api.Invalidf("", "%.60q is neither an IP address nor the name of a pool", service)
	}
	for have := range by[api.Address](tx, "address", addr.String()) {
		if _, err := c.visible(tx, p, api.KindAddress, have.Name); err == nil {
			return c.leadHeld(tx, p, state.Clone(have), v)
		}
	}
	a.Meta, a.Spec.Address = c.newMeta(addressName(addr), v.Owner), addr.String()
	return c.createIn(tx, p, a)
}

// leadHeld leads an address that exists and leads nowhere to a new VM.
func (c *Controller) leadHeld(tx *state.Tx, p access.Actor, a *api.Address, v *api.VM) error {
	if err := access.Change(p, a); err != nil {
		return err
	}
	if a.Spec.VM != "" {
		return &api.Error{Code: api.CodeConflict, Message: fmt.Sprintf("%s leads to VM %s; wcc address bind changes that", a.Spec.Address, a.Spec.VM)}
	}
	was := state.Clone(a)
	a.Spec.VM = v.Name
	return c.changeIn(tx, p, was, a)
}

// addressName makes a name of an address: a DNS label, so that dots and colons become hyphens. Clients make the same.
func addressName(a netip.Addr) string {
	return strings.NewReplacer(".", "-", ":", "-").Replace(a.StringExpanded())
}
