package main

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"widecloud/api"
	"widecloud/internal/wire"
)

const (
	hypervisor = "qemu 7.2.0 (kvm)"
	diskBytes  = 1 << 30

	// startTime and stopTime are how long a VM takes to start and to stop.
	startTime = time.Second
	stopTime  = 500 * time.Millisecond
	// startEvery is between the first starts of two agents: hosts are not switched on all at once. After a restart of the
	// controller they do come all at once.
	startEvery = 10 * time.Millisecond
)

// fleet is all simulated agents.
type fleet struct {
	site   *site
	agents []*agent
	lossOK atomic.Bool // a session that ends is part of the run
	lost   atomic.Int64

	reports, orders, creations series

	mu     sync.Mutex
	expect map[string]expectation // by the VM's name
}

// expectation is an order that an agent is to get because of a request.
type expectation struct {
	run     wire.Run
	created bool
	at      time.Time // of the request
}

func newFleet(s *site, p plan) *fleet {
	f := &fleet{site: s, expect: map[string]expectation{}}
	for i := range p.Hosts {
		a := &agent{f: f, i: i, every: p.Report, vms: map[string]*copyOf{}, ask: make(chan struct{}, 1)}
		for _, v := range s.onHost[i] {
			c := &copyOf{epoch: 1, run: wire.RunOn, state: wire.CopyRunning, name: v.Name}
			if v.Spec.Power == api.PowerOff {
				c.run, c.state = wire.RunOff, wire.CopyStopped
			}
			a.vms[v.UID] = c
		}
		f.agents = append(f.agents, a)
	}
	return f
}

// run keeps all agents going until ctx ends.
func (f *fleet) run(ctx context.Context) error {
	trust, err := wire.NewTrust(wire.TrustOptions{CA: f.site.ca})
	if err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	for i, a := range f.agents {
		group.Go(func() error {
			if pause(ctx, time.Duration(i)*startEvery) != nil {
				return nil
			}
			return a.run(ctx, trust)
		})
	}
	return group.Wait()
}

// up is how many agents have both sessions and had a report taken since a time.
func (f *fleet) up(since time.Time) (have, all int) {
	for _, a := range f.agents {
		if a.control.Load() != nil && a.bulk.Load() != nil && a.reported.Load() > max(0, since.UnixNano()) {
			have++
		}
	}
	return have, len(f.agents)
}

// expectLoss tells that sessions may end from now on.
func (f *fleet) expectLoss() { f.lossOK.Store(true) }

// await notes that a request was made that will bring an agent an order.
func (f *fleet) await(vm string, e expectation) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.expect[vm] = e
}

// open is how many orders have not come that were asked for before a time.
func (f *fleet) open(before time.Time) (n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, e := range f.expect {
		if e.at.Before(before) {
			n++
		}
	}
	return n
}

// ordered notes an order that is new to an agent.
func (f *fleet) ordered(vm string, run wire.Run) {
	f.mu.Lock()
	defer f.mu.Unlock()
	e, ok := f.expect[vm]
	if !ok || e.run != run {
		return
	}
	delete(f.expect, vm)
	if e.created {
		f.creations.add(time.Since(e.at))
		return
	}
	f.orders.add(time.Since(e.at))
}

// agent stands for the agent of a host, as far as the controller can see.
type agent struct {
	f     *fleet
	i     int
	every time.Duration

	control, bulk atomic.Pointer[wire.Session]
	reported      atomic.Int64 // when a report was taken last, ns since 1970
	ask           chan struct{}

	mu      sync.Mutex
	applied int64
	has     string // Orders.Sum of the orders in force
	parts   []order
	vms     map[string]*copyOf // by UID
}

// copyOf is what an agent has of a VM.
type copyOf struct {
	name  string
	epoch uint64
	run   wire.Run
	state wire.VMState
}

// order is what the simulation looks at in a wire.VMOrder.
type order struct {
	VM    string   `json:"vm"`
	Name  string   `json:"name"`
	Epoch uint64   `json:"epoch"`
	Run   wire.Run `json:"run"`
}

// stateCall is a wire.HostState whose larger part is left unread: a real host has a CPU of its own for that.
type stateCall struct {
	Revision    int64             `json:"revision"`
	AnycastVTEP netip.Addr        `json:"anycast_vtep"`
	Pref64      netip.Prefix      `json:"pref64"`
	VMs         []json.RawMessage `json:"vms"`
	Networks    json.RawMessage   `json:"networks"`
	Mappings    json.RawMessage   `json:"mappings"`
	Part        int               `json:"part"`
	Parts       int               `json:"parts"`
}

func (a *agent) run(ctx context.Context, trust *wire.Trust) error {
	mux := http.NewServeMux()
	wire.Handle(mux, wire.PathState, func(ctx context.Context, _ wire.Identity, s stateCall) (wire.Empty, error) {
		return wire.Empty{}, a.setState(ctx, s)
	})
	wire.Handle(mux, wire.PathChange, func(ctx context.Context, _ wire.Identity, c wire.StateChange) (wire.Empty, error) {
		return wire.Empty{}, a.changeState(ctx, c)
	})
	group, ctx := errgroup.WithContext(ctx)
	for _, side := range []struct {
		purpose wire.Purpose
		session *atomic.Pointer[wire.Session]
	}{{wire.Control, &a.control}, {wire.Bulk, &a.bulk}} {
		d := &wire.Dialer{
			Addrs: []string{a.f.site.outside}, Peer: wire.Controller(siteName), Purpose: side.purpose, MaxBackoff: 2 * time.Second,
			Options: wire.Options{Credential: a.f.site.agents[a.i], Trust: trust, Handler: mux, KeepAlive: keepAlive, DeadAfter: deadAfter,
				Network: wire.TCP{Source: a.source()}},
			Up: func(s *wire.Session) {
				side.session.Store(s)
				a.poke()
			},
			Down: func(err error) {
				if side.session.Swap(nil) != nil && !a.f.lossOK.Load() && ctx.Err() == nil {
					a.f.lost.Add(1)
				}
			},
		}
		group.Go(func() error { return d.Run(ctx) })
	}
	group.Go(func() error { return a.reportLoop(ctx) })
	return group.Wait()
}

// source is an address of the host's own: the controller lets only so many handshakes of one address be under way.
func (a *agent) source() net.IP { return net.IPv4(127, 1, byte((a.i+1)>>8), byte(a.i+1)) }

func (a *agent) poke() {
	select {
	case a.ask <- struct{}{}:
	default:
	}
}

// reportLoop reports when something has changed, and every few seconds.
func (a *agent) reportLoop(ctx context.Context) error {
	next := time.NewTimer(rand.N(a.every)) // the hosts' clocks do not tick together
	defer next.Stop()
	for {
		if s := a.control.Load(); s != nil {
			cctx, cancel := context.WithTimeout(ctx, 10*time.Second)
			began := time.Now()
			err := wire.Call(cctx, s, http.MethodPost, wire.PathReport, a.report(), &wire.Empty{})
			cancel()
			if err == nil {
				a.f.reports.add(time.Since(began))
				a.reported.Store(time.Now().UnixNano())
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-a.ask:
		case <-next.C:
			next.Reset(a.every)
		}
	}
}

func (a *agent) report() wire.HostReport {
	a.mu.Lock()
	defer a.mu.Unlock()
	r := wire.HostReport{
		Boot: "1", Roles: []api.HostRole{api.RoleHypervisor}, VTEP: vtep(a.i), Hypervisor: hypervisor, CPU: hostCPU, Capacity: hostRoom,
		Applied: a.applied, VMs: make([]wire.VMReport, 0, len(a.vms)), Images: []string{imageDigest},
	}
	for uid, c := range a.vms {
		v := wire.VMReport{VM: uid, Epoch: c.epoch, State: c.state}
		if c.state != wire.CopyGone {
			v.DiskBytes = diskBytes
		}
		r.VMs = append(r.VMs, v)
	}
	slices.SortFunc(r.VMs, func(x, y wire.VMReport) int { return strings.Compare(x.VM, y.VM) })
	return r
}

// setState takes the controller's word, which may come in parts.
// changeState takes a change of the orders, of which only those of VMs are looked at.
func (a *agent) changeState(ctx context.Context, c wire.StateChange) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if c.From != "" && c.From != a.has {
		return api.Errorf(api.CodeConflict, "a change of other orders")
	}
	for _, e := range c.Set {
		if !strings.HasPrefix(e.Key, "vms/") {
			continue
		}
		var o order
		if err := json.Unmarshal(e.Value, &o); err != nil {
			return api.Invalidf("set", "%v", err)
		}
		a.obey(ctx, o)
	}
	for _, key := range c.Gone {
		uid := key[strings.LastIndexByte(key, '/')+1:]
		if v := a.vms[uid]; strings.HasPrefix(key, "vms/") && v != nil && v.state == wire.CopyGone {
			delete(a.vms, uid)
		}
	}
	if c.Parts == 0 || c.Part == c.Parts-1 {
		a.applied, a.has = c.Revision, c.To
	}
	return nil
}

func (a *agent) setState(ctx context.Context, s stateCall) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if s.Part == 0 {
		a.parts = nil
	}
	for _, raw := range s.VMs {
		var o order
		if err := json.Unmarshal(raw, &o); err != nil {
			return api.Invalidf("vms", "%v", err)
		}
		a.parts = append(a.parts, o)
	}
	if s.Parts > 0 && s.Part < s.Parts-1 {
		return nil
	}
	named := map[string]bool{}
	for _, o := range a.parts {
		named[o.VM] = true
		a.obey(ctx, o)
	}
	for uid, c := range a.vms {
		if c.state == wire.CopyGone && !named[uid] {
			delete(a.vms, uid)
		}
	}
	a.applied, a.parts = s.Revision, nil
	return nil
}

// obey begins what an order asks for. The lock is held.
func (a *agent) obey(ctx context.Context, o order) {
	c := a.vms[o.VM]
	if c == nil {
		c = &copyOf{name: o.Name, state: wire.CopyStopped}
		a.vms[o.VM] = c
	}
	if c.epoch == o.Epoch && c.run == o.Run {
		return
	}
	c.epoch, c.run = o.Epoch, o.Run
	a.f.ordered(c.name, o.Run)
	switch o.Run {
	case wire.RunOn:
		if c.state != wire.CopyRunning {
			c.state = wire.CopyStarting
			a.later(ctx, startTime, o, wire.CopyRunning)
		}
	case wire.RunOff, wire.RunHard:
		a.later(ctx, stopTime, o, wire.CopyStopped)
	case wire.RunGone:
		c.state = wire.CopyGone
	}
	a.poke()
}

// later brings a VM into a state after a while, unless another order has come.
func (a *agent) later(ctx context.Context, d time.Duration, o order, state wire.VMState) {
	time.AfterFunc(d, func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		if c := a.vms[o.VM]; c != nil && c.epoch == o.Epoch && c.run == o.Run {
			c.state = state
			a.poke()
		}
	})
}

// check is an error when the run was not as it is to be.
func (f *fleet) check() error {
	if n := f.lost.Load(); n > 0 {
		return fmt.Errorf("%d sessions of agents ended under the load", n)
	}
	return nil
}
