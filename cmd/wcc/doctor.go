package main

import (
	"context"
	"errors"
	"fmt"

	"widecloud/api"
	"widecloud/internal/agent/checkup"
	"widecloud/internal/config"
	"widecloud/internal/hyper"
	"widecloud/internal/hyper/libvirt"
)

type doctorCmd struct {
	Host   bool   `help:"Look at this machine as a host of a site, not at the site."`
	Config string `help:"With --host: the agent's configuration." type:"path" default:"/etc/widecloud/agent.toml" placeholder:"FILE"`
	JSON   bool   `name:"json" help:"Print the findings as JSON."`
}

// Run shows what is wrong, and what to do. The exit code is 1 if something is bad.
func (c *doctorCmd) Run(a *app) error {
	var findings []api.Finding
	if c.Host {
		var err error
		if findings, err = c.host(a); err != nil {
			return err
		}
	} else {
		client, err := a.client()
		if err != nil {
			return err
		}
		d, err := client.Doctor(a)
		if err != nil {
			return err
		}
		findings = d.Findings
	}
	if err := c.print(a, findings); err != nil {
		return err
	}
	wrong := map[api.Severity]int{}
	for _, f := range findings {
		wrong[f.Severity]++
	}
	if bad, warn := wrong[api.SeverityBad], wrong[api.SeverityWarn]; bad > 0 || warn > 0 && !c.Host {
		return fmt.Errorf("%d things are bad, %d need attention", bad, warn)
	}
	return nil
}

func (c *doctorCmd) print(a *app, findings []api.Finding) error {
	if c.JSON {
		if findings == nil {
			findings = []api.Finding{}
		}
		return a.out.json(findings)
	}
	if len(findings) == 0 {
		return a.out.printf("%-5s %s\n", api.SeverityOK, "nothing is wrong, as far as the controller knows")
	}
	for _, f := range findings {
		do := ""
		if f.Advice != "" {
			do = " -> " + f.Advice
		}
		if err := a.out.printf("%-5s %-20s %s%s\n", f.Severity, f.ID, f.Message, do); err != nil {
			return err
		}
	}
	return nil
}

// host looks at this machine.
func (c *doctorCmd) host(ctx context.Context) ([]api.Finding, error) {
	agent, err := config.LoadAgent(c.Config)
	if err != nil {
		return nil, usageError{err}
	}
	return checkup.Run(ctx, checkup.Options{Config: agent, Hypervisor: func(ctx context.Context) (caps hyper.Capabilities, err error) {
		driver, err := libvirt.New(libvirt.Options{Socket: agent.Libvirt.Socket, Accel: libvirt.Accel(agent.Libvirt.Accel)})
		if err != nil {
			return caps, err
		}
		defer func() { err = errors.Join(err, driver.Close()) }()
		return driver.Capabilities(ctx)
	}}), nil
}
