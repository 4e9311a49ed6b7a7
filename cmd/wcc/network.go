package main

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"widecloud/api"
)

type networkGroup struct {
	List   listCmd[api.Network, *api.Network]   `cmd:"" help:"List networks."`
	Show   showCmd[api.Network, *api.Network]   `cmd:"" help:"Show a network and the hosts that carry it."`
	Create networkCreateCmd                     `cmd:"" help:"Make a network."`
	Delete deleteCmd[api.Network, *api.Network] `cmd:"" help:"Delete networks."`
}

type networkCreateCmd struct {
	Name   string `arg:"" help:"Its name."`
	Prefix string `required:"" help:"Its IPv6 prefix, a /64." placeholder:"PREFIX"`
	IPv4   string `name:"ipv4" help:"Private IPv4 prefix for DHCP; left out: none." placeholder:"PREFIX"`
	MTU    int    `name:"mtu" help:"MTU in bytes; left out: the site's default."`
	VNI    uint32 `name:"vni" help:"VXLAN network identifier; left out: chosen."`
	Owner  string `help:"Organisation that owns it; left out: the user's." complete:"owners"`
	format
}

func (c *networkCreateCmd) Run(a *app) error {
	return create(a, c.format, &api.Network{Meta: api.Meta{Name: c.Name, Owner: c.Owner},
		Spec: api.NetworkSpec{Prefix: c.Prefix, IPv4: c.IPv4, MTU: c.MTU, VNI: c.VNI}})
}

type addressGroup struct {
	List   listCmd[api.Address, *api.Address] `cmd:"" help:"List service addresses."`
	Show   addressShowCmd                     `cmd:"" help:"Show a service address."`
	Create addressCreateCmd                   `cmd:"" help:"Hold a service address, and lead it to a VM."`
	Bind   addressBindCmd                     `cmd:"" help:"Lead a service address to another VM, or with no VM to nothing."`
	Delete addressDeleteCmd                   `cmd:"" help:"Give service addresses up."`
}

type addressShowCmd struct {
	Name   string `arg:"" help:"Its name, or the address." complete:"self"`
	Output string `short:"o" help:"How: yaml or json." enum:"yaml,json" default:"yaml"`
}

func (c *addressShowCmd) Run(a *app) error {
	name, err := addressName(a, c.Name)
	if err != nil {
		return err
	}
	return (&showCmd[api.Address, *api.Address]{Name: name, Output: c.Output}).Run(a)
}

type addressCreateCmd struct {
	Address netip.Addr `arg:"" help:"IPv4 or IPv6 address."`
	VM      string     `name:"vm" help:"VM that it leads to; left out: none yet." complete:"vms"`
	Name    string     `help:"Its name; left out: made of the address."`
	Owner   string     `help:"Organisation that owns it; left out: the user's." complete:"owners"`
	format
}

func (c *addressCreateCmd) Run(a *app) error {
	name := c.Name
	if name == "" {
		name = nameOf(c.Address)
	}
	return create(a, c.format, &api.Address{Meta: api.Meta{Name: name, Owner: c.Owner}, Spec: api.AddressSpec{Address: c.Address.String(), VM: c.VM}})
}

type addressBindCmd struct {
	Name string `arg:"" help:"Its name, or the address." complete:"self"`
	VM   string `arg:"" optional:"" help:"The VM." complete:"vms"`
	format
}

func (c *addressBindCmd) Run(a *app) error {
	name, err := addressName(a, c.Name)
	if err != nil {
		return err
	}
	o, err := api.Edit(a, a.made, name, func(o *api.Address) error { o.Spec.VM = c.VM; return nil })
	if err != nil {
		return err
	}
	if c.VM == "" {
		return c.done(a, o, "leads nowhere")
	}
	return c.done(a, o, "leads to vm "+c.VM)
}

type addressDeleteCmd struct {
	Names []string `arg:"" name:"name" help:"Their names, or the addresses." complete:"self"`
	Wait  bool     `help:"Wait until they are gone."`
}

func (c *addressDeleteCmd) Run(a *app) error {
	d := deleteCmd[api.Address, *api.Address]{Wait: c.Wait}
	for _, n := range c.Names {
		name, err := addressName(a, n)
		if err != nil {
			return err
		}
		d.Names = append(d.Names, name)
	}
	return d.Run(a)
}

// nameOf makes a name of an address: a DNS label, so that dots and colons become dashes.
func nameOf(addr netip.Addr) string {
	return strings.NewReplacer(".", "-", ":", "-").Replace(addr.WithZone("").Unmap().StringExpanded())
}

// addressName takes the name of an Address object, or the address itself, and gives the name.
func addressName(a *app, s string) (string, error) {
	client, err := a.client()
	if err != nil {
		return "", err
	}
	addr, err := netip.ParseAddr(s)
	if err != nil {
		return s, nil // a name
	}
	all, _, err := api.List[api.Address](a, client)
	if err != nil {
		return "", err
	}
	for _, o := range all {
		if have, err := netip.ParseAddr(o.Spec.Address); err == nil && have == addr {
			return o.Name, nil
		}
	}
	return "", api.Errorf(api.CodeNotFound, "no address object holds %s", addr)
}

// bindAddress leads an address to a VM: a new one, or one that is held and leads nowhere.
func bindAddress(a *app, client *api.Client, addr netip.Addr, vm, owner string) (*api.Address, error) {
	name, err := addressName(a, addr.String())
	if errors.Is(err, &api.Error{Code: api.CodeNotFound}) {
		return api.Create(a, client, &api.Address{Meta: api.Meta{Name: nameOf(addr), Owner: owner}, Spec: api.AddressSpec{Address: addr.String(), VM: vm}})
	}
	if err != nil {
		return nil, err
	}
	return api.Edit(a, client, name, func(o *api.Address) error {
		if o.Spec.VM != "" && o.Spec.VM != vm {
			return fmt.Errorf("it leads to vm %s; wcc address bind %s %s changes that", o.Spec.VM, addr, vm)
		}
		o.Spec.VM = vm
		return nil
	})
}

type translatorGroup struct {
	List listCmd[api.Translator, *api.Translator] `cmd:"" help:"List translators."`
	Show showCmd[api.Translator, *api.Translator] `cmd:"" help:"Show a translator."`
}
