package main

import (
	"strconv"

	"widecloud/api"
)

var _ = present[networkGroup](api.KindNetwork,
	col("PREFIX", func(o *api.Network) string { return o.Spec.Prefix }),
	col("IPV4", func(o *api.Network) string { return o.Spec.IPv4 }),
	col("VNI", func(o *api.Network) string { return strconv.FormatUint(uint64(o.Spec.VNI), 10) }),
	col("HOSTS", func(o *api.Network) string { return strconv.Itoa(len(o.Status.Members)) }),
	wide("MTU", func(o *api.Network) string { return strconv.Itoa(o.Spec.MTU) }),
	wide("MOBILITY", func(o *api.Network) string { return o.Spec.Mobility }),
)

type networkGroup struct {
	List   listCmd          `cmd:"" help:"List networks."`
	Show   showCmd          `cmd:"" help:"Show a network and the hosts that carry it."`
	Create networkCreateCmd `cmd:"" help:"Make a network."`
	Delete deleteCmd        `cmd:"" help:"Delete networks."`
}

type networkCreateCmd struct {
	Name   string `arg:"" help:"Its name."`
	Prefix string `help:"Its IPv6 prefix, a /64; left out: one that is free." placeholder:"PREFIX"`
	Pool   string `help:"Pool of the site's address plan to take the prefix from; left out: any." complete:"pools"`
	IPv4   string `name:"ipv4" help:"Private IPv4 prefix for DHCP; left out: none." placeholder:"PREFIX"`
	MTU    int    `name:"mtu" help:"MTU in bytes; left out: the site's default."`
	VNI    uint32 `name:"vni" help:"VXLAN network identifier; left out: chosen."`
	Owner  string `help:"Organisation that owns it; left out: the user's." complete:"owners"`
	labelled
	format
}

func (c *networkCreateCmd) Run(a *app) error {
	labels, err := c.labels()
	if err != nil {
		return err
	}
	client, err := a.client()
	if err != nil {
		return err
	}
	n, err := api.Create(a, client, &api.Network{Meta: api.Meta{Name: c.Name, Owner: c.Owner, Labels: labels},
		Spec: api.NetworkSpec{Prefix: c.Prefix, Pool: c.Pool, IPv4: c.IPv4, MTU: c.MTU, VNI: c.VNI}})
	if err != nil {
		return err
	}
	return c.done(a, n, "created with "+n.Spec.Prefix)
}
