package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sync/errgroup"

	"widecloud/api"
	"widecloud/internal/agent"
	"widecloud/internal/agent/network"
	"widecloud/internal/config"
	"widecloud/internal/hyper/libvirt"
	"widecloud/internal/store/bolt"
	"widecloud/internal/volume"
	"widecloud/internal/wire"
)

type agentCmd struct {
	Config string `help:"The host's configuration; examples/agent.toml explains it." required:"" type:"path" placeholder:"FILE"`
}

// Run loads the configuration and works until the process is told to end.
func (c *agentCmd) Run(a *app) error {
	agent, err := config.LoadAgent(c.Config)
	if err != nil {
		return usageError{err}
	}
	return runAgent(a, agent, agent.Log.Logger(a.err.raw))
}

// runAgent constructs the agent and its drivers and runs them until ctx ends. The agent adds site and host to its own
// lines.
func runAgent(ctx context.Context, c *config.Agent, plain *slog.Logger) error {
	log := plain.With("site", c.Site, "host", c.Host)
	if err := os.MkdirAll(c.DataDir, 0o711); err != nil {
		return fmt.Errorf("data_dir: %w", err)
	}
	credential, err := enrol(ctx, c, log)
	if err != nil {
		return err
	}
	trust, err := wire.NewTrust(wire.TrustOptions{CA: credential.CA})
	if err != nil {
		return err
	}
	st, err := bolt.Open(bolt.Options{Path: filepath.Join(c.DataDir, "agent.db"), Logger: log, Reserve: bolt.DefaultReserve})
	if err != nil {
		return err
	}
	defer st.Close()
	links, err := network.New(network.Options{Logger: log, RunDir: filepath.Join(c.DataDir, "networks")})
	if err != nil {
		return err
	}
	defer links.Close(context.WithoutCancel(ctx))
	link := agent.NewLink(agent.LinkOptions{Address: c.Controller, Credential: credential, Trust: trust, Logger: log, KeepAlive: keepAlive, DeadAfter: deadAfter})
	o := agent.Options{
		Site: c.Site, Host: c.Host, Roles: c.Roles, VTEP: c.VTEP, Store: st, Networks: agent.Links{Driver: links}, Controller: link, Logger: plain,
		Capacity:  api.Resources{CPUs: c.Capacity.CPUs, MemoryMiB: c.Capacity.MemoryMiB, DiskGiB: c.Capacity.DiskGiB},
		Boot:      strconv.FormatInt(time.Now().UnixNano(), 36),
		Failpoint: failpoint(log),
	}
	if c.Has(api.RoleHypervisor) {
		driver, err := libvirt.New(libvirt.Options{Socket: c.Libvirt.Socket, Accel: libvirt.Accel(c.Libvirt.Accel), Logger: log})
		if err != nil {
			return err
		}
		defer driver.Close()
		if err := os.MkdirAll(c.Libvirt.StateDir, 0o711); err != nil {
			return fmt.Errorf("libvirt.state_dir: %w", err)
		}
		disks, err := volume.Open(volume.Options{Dir: c.Libvirt.StateDir, Logger: log, Reserve: int64(c.Libvirt.Reserve)})
		if err != nil {
			return err
		}
		defer disks.Close()
		if o.Capacity.DiskGiB == 0 {
			free, err := disks.Free(ctx)
			if err != nil {
				return err
			}
			o.Capacity.DiskGiB = int(free >> 30)
		}
		o.Hypervisor, o.Volumes, o.ImageKept = driver, agent.Disks{Store: disks}, c.Libvirt.KeepImages.Duration
	}
	if c.Has(api.RoleGateway) {
		o.Translator = &agent.Map646{File: c.Map646.Config, Control: c.Map646.Control}
	}
	a, err := agent.New(ctx, o)
	if err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return a.Run(ctx) })
	group.Go(func() error { return link.Run(ctx, a) })
	return group.Wait()
}

// enrol gives the host's certificate, which a host that has none gets by its one-time join token.
func enrol(ctx context.Context, c *config.Agent, log *slog.Logger) (*wire.Credential, error) {
	path := filepath.Join(c.DataDir, "credential.pem")
	credential, joined, err := agent.Enrol(ctx, agent.Enrolment{
		Site: c.Site, Host: c.Host, Controller: c.Controller, File: path,
		Token: func() (string, error) {
			if c.JoinToken == "" {
				return "", fmt.Errorf("this host has not joined site %s yet: put what `wcc host join-token %s` prints into a file, and name it here", c.Site, c.Host)
			}
			text, err := os.ReadFile(c.JoinToken)
			return string(text), err
		},
	})
	if joined && err == nil {
		log.Info("host has joined", "certificate", path)
	}
	return credential, err
}
