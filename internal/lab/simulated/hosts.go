package simulated

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sync/errgroup"

	"widecloud/api"
	"widecloud/internal/agent"
	"widecloud/internal/hyper"
	"widecloud/internal/hyper/fake"
	"widecloud/internal/store/bolt"
	"widecloud/internal/wire"
)

// Host is one of the hosts.
type Host struct {
	Name  string     `json:"name"`
	VTEP  netip.Addr `json:"vtep"`  // also where its connections come from; this machine must have it
	Token string     `json:"token"` // to join with, the first time
}

// Config is what a process is told. It is the text of a file in JSON.
type Config struct {
	Site       string        `json:"site"`
	Controller string        `json:"controller"` // HOST:PORT
	Dir        string        `json:"dir"`        // what the agents keep, a directory each
	Socket     string        `json:"socket"`     // answers what runs where; "": nobody asks
	Capacity   api.Resources `json:"capacity"`   // of each host
	Hosts      []Host        `json:"hosts"`
}

// Options of Run.
type Options struct {
	Config
	Logger               *slog.Logger
	KeepAlive, DeadAfter time.Duration // agent.LinkOptions's
}

const (
	// joining is how many hosts join at a time. A controller that has not the time for more handshakes refuses them.
	joining = 8
	// dialEvery is between the first connections of two agents.
	dialEvery = 5 * time.Millisecond
)

// Run runs all hosts until ctx ends.
func Run(ctx context.Context, o Options) error {
	world := fake.NewWorld()
	join := make(chan struct{}, joining)
	group, ctx := errgroup.WithContext(ctx)
	var machines []*fake.Host
	for i, h := range o.Hosts {
		m := fake.New(fake.Options{Name: h.Name, World: world, CPUs: o.Capacity.CPUs, MemoryMiB: o.Capacity.MemoryMiB})
		machines = append(machines, m)
		group.Go(func() error {
			if err := pause(ctx, time.Duration(i)*dialEvery); err != nil {
				return nil
			}
			if err := o.run(ctx, h, m, join); err != nil && ctx.Err() == nil {
				return fmt.Errorf("host %s: %w", h.Name, err)
			}
			return nil
		})
	}
	if o.Socket != "" {
		group.Go(func() error { return answer(ctx, o.Socket, world, machines) })
	}
	return group.Wait()
}

// run runs a host's agent.
func (o Options) run(ctx context.Context, h Host, m *fake.Host, join chan struct{}) error {
	dir := filepath.Join(o.Dir, h.Name)
	if err := os.MkdirAll(dir, 0o711); err != nil {
		return err
	}
	var from wire.Network = wire.TCP{Source: net.IP(h.VTEP.AsSlice())}
	credential, err := o.enrol(ctx, h, dir, from, join)
	if err != nil {
		return err
	}
	trust, err := wire.NewTrust(wire.TrustOptions{CA: credential.CA})
	if err != nil {
		return err
	}
	log := cmp.Or(o.Logger, slog.New(slog.DiscardHandler))
	// Hosts have a disk each; these share one, and would wait for its syncs. A kill of the process loses nothing without them.
	st, err := bolt.Open(bolt.Options{Path: filepath.Join(dir, "agent.db"), Logger: log, NoSync: true})
	if err != nil {
		return err
	}
	defer st.Close()
	link := agent.NewLink(agent.LinkOptions{
		Address: o.Controller, Credential: credential, Trust: trust, Network: from, Logger: log.With("host", h.Name),
		KeepAlive: o.KeepAlive, DeadAfter: o.DeadAfter,
	})
	driver := m.Connect()
	defer driver.Close()
	a, err := agent.New(ctx, agent.Options{
		Site: o.Site, Host: h.Name, Roles: []api.HostRole{api.RoleHypervisor}, VTEP: h.VTEP, Capacity: o.Capacity, Store: st,
		Hypervisor: mute{driver}, Volumes: newDisks(m), Networks: &networks{}, Controller: link, Logger: log,
		Boot: strconv.FormatInt(time.Now().UnixNano(), 36),
	})
	if err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return a.Run(ctx) })
	group.Go(func() error { return link.Run(ctx, a) })
	return group.Wait()
}

// mute is a hypervisor whose guests say nothing.
type mute struct{ hyper.Driver }

// Console implements hyper.Driver.
func (mute) Console(context.Context, string) (io.ReadWriteCloser, error) {
	return nil, api.Errorf(api.CodeRefused, "the host is simulated: its guests have no console")
}

// Display implements hyper.Driver.
func (mute) Display(context.Context, string) (io.ReadWriteCloser, error) {
	return nil, api.Errorf(api.CodeRefused, "the host is simulated: its guests have no display")
}

// joinTime is how long a host tries to join a controller that does not answer.
const joinTime = time.Minute

// enrol gives the host's certificate. It waits for its turn if the host has to join.
func (o Options) enrol(ctx context.Context, h Host, dir string, from wire.Network, join chan struct{}) (*wire.Credential, error) {
	e := agent.Enrolment{
		Site: o.Site, Host: h.Name, Controller: o.Controller, File: filepath.Join(dir, "credential.pem"), Network: from,
		Token: func() (string, error) { return h.Token, nil },
	}
	select {
	case join <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	defer func() { <-join }()
	for end := time.Now().Add(joinTime); ; {
		credential, _, err := agent.Enrol(ctx, e)
		var refused *api.Error
		if err == nil || errors.As(err, &refused) && refused.Code != api.CodeUnavailable || time.Now().After(end) {
			return credential, err
		}
		if err := pause(ctx, 200*time.Millisecond); err != nil {
			return nil, err
		}
	}
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}
