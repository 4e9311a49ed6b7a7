package main

import "widecloud/api"

type vmAddressesCmd struct {
	Name   string `arg:"" help:"Its name." complete:"self"`
	Output string `short:"o" help:"How: json; left out: a table." enum:",json" default:""`
}

// Run shows a VM's addresses, a row for each source that has seen one.
func (c *vmAddressesCmd) Run(a *app) error {
	client, err := a.client()
	if err != nil {
		return err
	}
	v, err := api.Get[api.VM](a, client, c.Name)
	if err != nil {
		return err
	}
	if c.Output == "json" {
		return a.out.json(v.Status.Addresses)
	}
	rows := [][]string{{"ADDRESS", "ORIGIN", "SOURCE", "LAST SEEN", "NETWORK", "REMARK"}}
	for _, x := range v.Status.Addresses {
		network, remark := v.Spec.Network, ""
		switch {
		case x.Origin == api.OriginService:
			network, remark = "", "public; leads to the VM"
		case x.Refused:
			remark = "claimed by the guest and not permitted: the network drops it"
		case x.Origin == api.OriginGuest:
			remark = "taken by the guest itself"
		case !x.Seen:
			remark = "planned; not seen yet"
		}
		if len(x.Sources) == 0 {
			rows = append(rows, []string{x.Address, x.Origin, "", "", network, remark})
		}
		for _, s := range x.Sources {
			rows = append(rows, []string{x.Address, x.Origin, string(s.Source), stamp(s.Seen), network, remark})
		}
	}
	return a.out.table(rows)
}
