package main

import (
	"fmt"

	"widecloud/api"
)

var _ = present[hostGroup](api.KindHost,
	col("ROLES", func(o *api.Host) string { return list(o.Spec.Roles) }),
	col("STATE", func(o *api.Host) string {
		s := "down"
		if o.Status.Connected {
			s = "up"
		}
		if o.Spec.Cordoned {
			s += ",cordoned"
		}
		return s
	}),
	col("CPU", func(o *api.Host) string { return o.Status.CPU.Accel }),
	col("CAPACITY", func(o *api.Host) string { return amount(o.Status.Capacity) }),
	col("ALLOTTED", func(o *api.Host) string { return amount(o.Status.Allotted) }),
	wide("VTEP", func(o *api.Host) string { return o.Status.VTEP }),
	wide("HYPERVISOR", func(o *api.Host) string { return o.Status.Hypervisor }),
	wide("IMAGES", func(o *api.Host) string { return sizeOr(o.Status.ImageBytes) }),
	wide("UNUSED", func(o *api.Host) string { return sizeOr(o.Status.UnusedImageBytes) }),
	wide("MODEL", func(o *api.Host) string { return o.Status.CPU.Model }),
	wide("MESSAGE", func(o *api.Host) string { return o.Status.Message }),
)

type hostGroup struct {
	List      listCmd      `cmd:"" help:"List hosts."`
	Show      showCmd      `cmd:"" help:"Show a host."`
	JoinToken joinTokenCmd `cmd:"" help:"Make a one-time token with which the agent of a new host enrols."`
	Roles     hostRolesCmd `cmd:"" help:"Set what a host is for; its agent's configuration must have the roles, too."`
	Cordon    cordonCmd    `cmd:"" help:"Put no further VM on hosts."`
	Uncordon  uncordonCmd  `cmd:"" help:"Put VMs on hosts again."`
	Delete    deleteCmd    `cmd:"" help:"Forget hosts; their agents can no longer connect."`
}

type joinTokenCmd struct {
	Name string         `arg:"" help:"The host's name."`
	Role []api.HostRole `help:"Its roles: hypervisor, gateway." enum:"hypervisor,gateway" default:"hypervisor"`
}

func (c *joinTokenCmd) Run(a *app) error {
	client, err := a.client()
	if err != nil {
		return err
	}
	token, err := client.JoinToken(a, c.Name, c.Role)
	if err != nil {
		return err
	}
	return a.out.printf("%s\n", token)
}

type hostRolesCmd struct {
	Name  string         `arg:"" help:"The host's name." complete:"self"`
	Roles []api.HostRole `arg:"" help:"Its roles: hypervisor, gateway." enum:"hypervisor,gateway"`
	format
}

func (c *hostRolesCmd) Run(a *app) error {
	client, err := a.client()
	if err != nil {
		return err
	}
	h, err := api.Patch[api.Host](a, client, c.Name, specOf("roles", c.Roles), 0)
	if err != nil {
		return err
	}
	return c.done(a, h, "is "+list(h.Spec.Roles))
}

type cordonCmd struct {
	Names []string `arg:"" name:"name" help:"Their names." complete:"self"`
}

func (c *cordonCmd) Run(a *app) error { return cordon(a, c.Names, true) }

type uncordonCmd struct {
	Names []string `arg:"" name:"name" help:"Their names." complete:"self"`
}

func (c *uncordonCmd) Run(a *app) error { return cordon(a, c.Names, false) }

func cordon(a *app, names []string, cordoned bool) error {
	client, err := a.client()
	if err != nil {
		return err
	}
	what := "takes VMs again"
	if cordoned {
		what = "takes no new VM"
	}
	for _, name := range names {
		if _, err := api.Patch[api.Host](a, client, name, specOf("cordoned", cordoned), 0); err != nil {
			return fmt.Errorf("host %s: %w", name, err)
		}
		if err := a.out.printf("host %s %s\n", name, what); err != nil {
			return err
		}
	}
	return nil
}
