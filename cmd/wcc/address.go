package main

import (
	"cmp"
	"fmt"
	"net/netip"
	"strings"

	"widecloud/api"
)

var _ = present[addressGroup](api.KindAddress,
	col("ADDRESS", func(o *api.Address) string { return o.Spec.Address }),
	col("VM", func(o *api.Address) string { return o.Spec.VM }),
	col("TARGET", func(o *api.Address) string { return o.Status.Target }),
	wide("TRANSLATORS", func(o *api.Address) string { return list(o.Status.Translators) }),
	wide("REFUSED", func(o *api.Address) string {
		var l []string
		for _, r := range o.Status.Refused {
			l = append(l, r.By+": "+r.Message)
		}
		return strings.Join(l, "; ")
	}),
)

type addressGroup struct {
	List   listCmd          `cmd:"" help:"List service addresses."`
	Show   addressShowCmd   `cmd:"" help:"Show a service address."`
	Create addressCreateCmd `cmd:"" help:"Hold a service address, and lead it to a VM."`
	Bind   addressBindCmd   `cmd:"" help:"Lead a service address to another VM, or with no VM to nothing."`
	Delete addressDeleteCmd `cmd:"" help:"Give service addresses up."`

	Traffic addressTrafficCmd `cmd:"" help:"Show what translators have carried for a service address."`
}

type addressShowCmd struct {
	Name   string `arg:"" help:"Its name, or the address." complete:"self"`
	Output string `short:"o" help:"How: yaml or json." enum:"yaml,json" default:"yaml"`
}

func (c *addressShowCmd) Run(a *app, n api.Noun) error {
	name, err := addressName(a, c.Name)
	if err != nil {
		return err
	}
	return (&showCmd{Name: name, Output: c.Output}).Run(a, n)
}

type addressCreateCmd struct {
	Address string `arg:"" help:"IPv4 or IPv6 address, or a pool of the site's address plan: one of it that is free." complete:"pools"`
	VM      string `name:"vm" help:"VM that it leads to; left out: none yet." complete:"vms"`
	Name    string `help:"Its name; left out: made of the address, or of the VM and the pool."`
	Owner   string `help:"Organisation that owns it; left out: the user's." complete:"owners"`
	labelled
	format
}

func (c *addressCreateCmd) Run(a *app) error {
	addr, pool, err := addressOrPool(c.Address)
	if err != nil {
		return err
	}
	labels, err := c.labels()
	if err != nil {
		return err
	}
	o := &api.Address{Meta: api.Meta{Name: c.Name, Owner: c.Owner, Labels: labels}, Spec: api.AddressSpec{Pool: pool, VM: c.VM}}
	switch {
	case pool == "":
		o.Name, o.Spec.Address = cmp.Or(o.Name, nameOf(addr)), addr.String()
	case o.Name == "" && c.VM == "":
		return fmt.Errorf("an address of the pool %s needs --vm or --name, to have a name", pool)
	case o.Name == "":
		o.Name = nameOfPooled(c.VM, pool)
	}
	client, err := a.client()
	if err != nil {
		return err
	}
	o, err = api.Create(a, client, o)
	if err != nil {
		return err
	}
	return c.done(a, o, "created with "+o.Spec.Address)
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
	o, err := api.Patch[api.Address](a, a.made, name, specOf("vm", c.VM), 0)
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

func (c *addressDeleteCmd) Run(a *app, n api.Noun) error {
	d := deleteCmd{Wait: c.Wait}
	for _, word := range c.Names {
		name, err := addressName(a, word)
		if err != nil {
			return err
		}
		d.Names = append(d.Names, name)
	}
	return d.Run(a, n)
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

// addressOrPool reads an address, or the name of a pool, which has neither dot nor colon.
func addressOrPool(s string) (addr netip.Addr, pool string, err error) {
	if !strings.ContainsAny(s, ".:") {
		return addr, s, nil
	}
	addr, err = netip.ParseAddr(s)
	if err != nil {
		return addr, "", fmt.Errorf("%q is neither an IP address nor the name of a pool", s)
	}
	return addr, "", nil
}

// nameOfPooled makes a name of a VM and the pool that its address is of.
func nameOfPooled(vm, pool string) string { return vm + "-" + pool }
