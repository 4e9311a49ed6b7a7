package control

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"widecloud/api"
	"widecloud/internal/cloud"
	"widecloud/internal/state"
	"widecloud/internal/wire"
)

// agents are the sessions of this site's agents.
type agents struct {
	c  *Controller
	mu sync.Mutex
	up map[string]*agentSessions
}

type agentSessions struct {
	control, bulk *wire.Session
}

func newAgents(c *Controller) *agents { return &agents{c: c, up: map[string]*agentSessions{}} }

// session is the way to a host's agent.
func (a *agents) session(host string, bulk bool) (*wire.Session, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	s := a.up[host]
	switch {
	case s == nil, !bulk && s.control == nil, bulk && s.bulk == nil && s.control == nil:
		return nil, api.Errorf(api.CodeUnavailable, "the agent of host %s is not reached", host)
	case bulk && s.bulk != nil:
		return s.bulk, nil
	}
	return s.control, nil
}

// count is how many hosts have had a session.
func (a *agents) count() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.up)
}

// accept takes an agent's session in; it returns when the session ends.
func (a *agents) accept(ctx context.Context, host string, s *wire.Session) {
	a.mu.Lock()
	have := a.up[host]
	if have == nil {
		have = &agentSessions{}
		a.up[host] = have
	}
	place := &have.control
	if s.Purpose() == wire.Bulk {
		place = &have.bulk
	}
	old := *place
	*place = s
	a.mu.Unlock()
	if old != nil {
		old.Close() // the agent was restarted; the old session is dead or will be
	}
	if s.Purpose() == wire.Control {
		a.c.log.Info("agent is up", "host", host)
		a.push(ctx, host, s)
	}
	select {
	case <-s.Done():
	case <-ctx.Done():
	}
	a.mu.Lock()
	if *place == s {
		*place = nil
	}
	gone := have.control == nil
	a.mu.Unlock()
	if s.Purpose() == wire.Control && gone && ctx.Err() == nil {
		a.c.log.Info("agent is down", "host", host)
		a.c.hostDown(ctx, host)
	}
}

// session is the way to a host's agent; api.CodeUnavailable when there is none.
func (c *Controller) session(host string, bulk bool) (*wire.Session, error) {
	return c.agents.session(host, bulk)
}

// accept takes an agent's session in; it returns when the session ends.
func (c *Controller) accept(ctx context.Context, host string, s *wire.Session) {
	c.agents.accept(ctx, host, s)
}

// push keeps a host's orders with its agent the same as the store's until the session ends.
func (a *agents) push(ctx context.Context, host string, s *wire.Session) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		select {
		case <-s.Done():
			cancel()
		case <-ctx.Done():
		}
	}()
	told := teller{s: s}
	for ctx.Err() == nil {
		changed := a.c.whenChanged()
		state, revision, err := a.c.hostState(ctx, host)
		if err == nil {
			err = told.tell(ctx, state, revision)
		}
		wait := settleAgents(a.count())
		if err != nil && ctx.Err() == nil {
			a.c.log.Warn("give the agent its orders", "host", host, "err", err)
			wait = a.c.o.Retry
		}
		select {
		case <-ctx.Done():
			return
		case <-changed:
		case <-time.After(a.c.o.Resync):
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
	}
}

// hostLost is the message of a host that was lost, until its agent is back.
const hostLost = "the agent is not reached; its VMs run on"

// teller tells an agent its orders on a session: all of them at first, and then what has changed.
type teller struct {
	s    *wire.Session
	last *wire.HostState // that the agent has taken; nil: none
	sent wire.Sent
}

// tell returns once the agent has taken the orders of a revision.
func (t *teller) tell(ctx context.Context, state *wire.HostState, revision int64) error {
	if state == t.last {
		return nil
	}
	if !t.s.Can(wire.CapChanges) {
		return t.tellAll(ctx, state, revision)
	}
	orders, err := wire.OrdersOf(*state, t.s.Level())
	if err != nil {
		return err
	}
	if t.last != nil && t.sent.Sum() == orders.Sum() {
		t.last = state
		return nil
	}
	for _, part := range t.sent.Changes(orders, revision) {
		if err := wire.Call(ctx, t.s, http.MethodPut, wire.PathChange, part, &wire.Empty{}); err != nil {
			t.last, t.sent = nil, wire.Sent{} // it may have taken it, or something else: all of them the next time
			return err
		}
	}
	t.last, t.sent = state, wire.SentOf(orders)
	return nil
}

// tellAll is tell for an agent that takes no changes.
func (t *teller) tellAll(ctx context.Context, state *wire.HostState, revision int64) error {
	if t.last != nil && reflect.DeepEqual(t.last, state) {
		t.last = state
		return nil
	}
	all := *state
	all.Revision = revision
	for _, part := range all.SplitFor(t.s) {
		if err := wire.Call(ctx, t.s, http.MethodPut, wire.PathState, part, &wire.Empty{}); err != nil {
			t.last = nil
			return err
		}
	}
	t.last = state
	return nil
}

// hostDown shows that a host's agent is not reached.
func (c *Controller) hostDown(ctx context.Context, host string) {
	err := c.update(ctx, func(tx *state.Tx) error {
		h, err := get[api.Host](tx, host)
		if err != nil {
			return err
		}
		if h.Status.Message != hostLost {
			c.event(tx, "host.lost", "hosts/"+host, "", hostLost)
		}
		h.Status.Connected, h.Status.Since, h.Status.Message = false, c.now(), hostLost
		for _, f := range c.lost {
			if err := f(tx, host); err != nil {
				return err
			}
		}
		return put(tx, h)
	})
	if err != nil && ctx.Err() == nil {
		c.log.Error("show that the host is down", "host", host, "err", err)
	}
}

// vmsUnknown shows that what is known of the VMs of a host whose agent is not reached is of the past.
func (c *Controller) vmsUnknown(tx *state.Tx, host string) error {
	for v := range by[api.VM](tx, "host", placed(c.o.Site, host)) {
		if v.Status.Phase != api.PhaseRunning {
			continue
		}
		v = state.Clone(v)
		v.Status.Phase, v.Status.Since = api.PhaseUnknown, c.now()
		v.Status.Message = "the agent of host " + host + " is not reached"
		if err := put(tx, v); err != nil {
			return err
		}
	}
	return nil
}

// awaitHosts shows that no agent has been heard of since this controller started, and, after a while, which ones are still
// missing: what the store says of them is of its predecessor's time.
func (c *Controller) awaitHosts(ctx context.Context) {
	missing := func(f func(tx *state.Tx, h *api.Host) error) {
		err := c.update(ctx, func(tx *state.Tx) error {
			hosts, err := list[api.Host](tx)
			if err != nil {
				return err
			}
			for _, h := range hosts {
				if _, err := c.session(h.Name, false); err == nil {
					continue
				}
				if err := f(tx, h); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil && ctx.Err() == nil {
			c.log.Error("show which hosts are missing", "err", err)
		}
	}
	missing(func(tx *state.Tx, h *api.Host) error {
		if !h.Status.Connected {
			return nil
		}
		h.Status.Connected, h.Status.Since, h.Status.Message = false, c.now(), "the controller was started anew; the agent has not called yet"
		return put(tx, h)
	})
	select {
	case <-ctx.Done():
	case <-time.After(10 * time.Second):
		missing(func(_ *state.Tx, h *api.Host) error {
			c.once("down/"+h.Name, func(ctx context.Context) { c.hostDown(ctx, h.Name) })
			return nil
		})
	}
}

// seeHost keeps what an agent says of its host. Roles are its admin's to give: what the agent is configured for is shown, and
// can only be less.
func (c *Controller) seeHost(tx *state.Tx, h *api.Host, r wire.HostReport) error {
	if h.Status.Message == hostLost {
		c.event(tx, "host.back", "hosts/"+h.Name, "", fmt.Sprintf("its agent was not reached for %v", c.now().Sub(h.Status.Since).Round(time.Second)))
	}
	if !h.Status.Connected {
		h.Status.Connected, h.Status.Since = true, c.now()
	}
	h.Status.Roles = r.Roles
	h.Status.VTEP, h.Status.Hypervisor, h.Status.CPU, h.Status.Capacity = r.VTEP.String(), r.Hypervisor, r.CPU, r.Capacity
	h.Status.Images, h.Status.Message = r.Images, r.Message
	for _, role := range r.Roles {
		if !slices.Contains(h.Spec.Roles, role) {
			h.Status.Message = fmt.Sprintf("its agent is configured as %s, which it is not here (spec.roles); %s", role, r.Message)
		}
	}
	var err error
	if h.Status.Allotted, err = c.allotted(tx, h.Name, ""); err != nil {
		return err
	}
	return put(tx, h)
}

// seeVMs keeps what a host reports of our VMs.
func (c *Controller) seeVMs(tx *state.Tx, host string, seen map[string]wire.VMReport) (func(), error) {
	for v := range by[api.VM](tx, "host", placed(c.o.Site, host)) {
		if s, ok := seen[v.UID]; ok {
			if err := c.seeVM(tx, state.Clone(v), s); err != nil {
				return nil, err
			}
		}
	}
	return nil, nil
}

// showReportRefused shows at a host why its agent's report is not taken. What it said before stays in force.
func (c *Controller) showReportRefused(ctx context.Context, host string, why error) {
	if _, err := change(ctx, c, host, func(_ *state.Tx, h *api.Host) error {
		h.Status.Message = "its agent's report is refused: " + cloud.Line(why.Error(), maxText)
		return nil
	}); err != nil && ctx.Err() == nil {
		c.log.Error("show why a report is refused", "host", host, "err", err)
	}
}

// tellHome passes what is seen of a guest to its home, when that is reached; the next report repeats it.
func (c *Controller) tellHome(home string, g wire.GuestReport) {
	c.once("tell/"+g.Report.VM, func(ctx context.Context) {
		ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
		s, err := c.o.Federation.Session(home, false)
		if err == nil {
			err = wire.Call(ctx, s, http.MethodPost, wire.PathFedStatus, g, &wire.Empty{})
		}
		if err != nil {
			c.log.Debug("tell the home site", "peer", home, "vm", g.Report.VM, "err", err)
		}
	})
}

// seeGuests keeps what a host reports of guests, and then tells their homes.
func (c *Controller) seeGuests(tx *state.Tx, host string, seen map[string]wire.VMReport) (func(), error) {
	type letter struct {
		home string
		said wire.GuestReport
	}
	var letters []letter
	for _, g := range records[wire.Claim](tx, prefixOrders, "host", host) {
		s, ok := seen[g.VM]
		if !ok || s.Epoch < g.Order.Epoch {
			continue
		}
		letters = append(letters, letter{g.Home, wire.GuestReport{Host: host, VTEP: g.VTEP, Report: s}})
		if err := c.seeGuest(tx, *state.Clone(g), s); err != nil {
			return nil, err
		}
	}
	return func() {
		for _, l := range letters {
			c.tellHome(l.home, l.said)
		}
	}, nil
}

func (c *Controller) seeGuest(tx *state.Tx, claim wire.Claim, s wire.VMReport) error {
	if s.State == wire.CopyGone && claim.Order.Run == wire.RunGone {
		return c.letGo(tx, claim)
	}
	name := claim.Order.Name + "@" + claim.Home
	g, err := get[api.Guest](tx, name)
	if errors.Is(err, &api.Error{Code: api.CodeNotFound}) {
		// One of the same name was let go. A report must not fail for it: it is of all the host's VMs.
		if err := c.takeIn(tx, claim); err != nil {
			return err
		}
		g, err = get[api.Guest](tx, name)
	}
	if err != nil {
		return err
	}
	if phase := phaseOf(claim.Order.Run, s); phase != g.Status.Phase {
		g.Status.Phase, g.Status.Since = phase, c.now()
	}
	g.Status.Message, g.Spec.Epoch, g.Spec.Job = s.Message, claim.Order.Epoch, s.Job
	return put(tx, g)
}

// phaseOf is the phase that a report means. What is not to run can only be on its way to its end: the report may be older than
// the order, and an agent that has just begun does not know yet what is there.
func phaseOf(run wire.Run, s wire.VMReport) api.VMPhase {
	switch {
	case s.Job != "":
		return api.PhaseMigrating
	case s.State == wire.CopyFailed:
		return api.PhaseFailed
	case run == wire.RunOn && s.State == wire.CopyRunning:
		return api.PhaseRunning
	case run == wire.RunOn:
		return api.PhaseStarting
	case s.State == wire.CopyStopped:
		return api.PhaseStopped
	}
	return api.PhaseStopping
}

// phaseEvent tells of a VM that begins to run, has stopped or fails. One that fails again for the same reason is no news.
func (c *Controller) phaseEvent(tx *state.Tx, v *api.VM, now api.VMPhase, message string) {
	at := v.Status.Site + "/" + v.Status.Host
	switch now {
	case api.PhaseRunning:
		c.event(tx, "vm.running", "vms/"+v.Name, v.Owner, "runs at "+at)
	case api.PhaseStopped:
		c.event(tx, "vm.stopped", "vms/"+v.Name, v.Owner, "has stopped at "+at)
	case api.PhaseFailed:
		if message != v.Status.Message {
			c.event(tx, "vm.failed", "vms/"+v.Name, v.Owner, "at "+at+": "+message)
		}
	}
}

// seeVM keeps what is seen of one of our VMs, wherever it runs.
func (c *Controller) seeVM(tx *state.Tx, v *api.VM, s wire.VMReport) error {
	if s.Epoch < v.Status.Epoch {
		return nil // of a copy that is no longer the one
	}
	if v.Deleting && s.State == wire.CopyGone {
		return c.forgetVM(tx, v)
	}
	if v.Status.Job == "" {
		run := wire.RunOn
		if v.Spec.Power != api.PowerOn || v.Deleting {
			run = wire.RunOff
		}
		if phase := phaseOf(run, s); phase != v.Status.Phase {
			c.phaseEvent(tx, v, phase, s.Message)
			if phase == api.PhaseRunning {
				v.Status.Reasons = nil // of the placement, which earlier releases kept
			}
			v.Status.Phase, v.Status.Since = phase, c.now()
		}
		v.Status.Message = s.Message
	}
	for i, a := range v.Status.Addresses {
		switch a.Origin {
		case "slaac":
			v.Status.Addresses[i].Seen = a.Seen || s.IPv6Seen.IsValid() && s.IPv6Seen.String() == a.Address
		case "dhcp":
			v.Status.Addresses[i].Seen = a.Seen || s.IPv4Seen.IsValid() && s.IPv4Seen.String() == a.Address
		}
	}
	vol := &api.Volume{Meta: c.newMeta(v.Name, v.Owner), Spec: api.VolumeSpec{VM: v.Name}}
	if have, err := get[api.Volume](tx, v.Name); err == nil {
		vol = have
	}
	if img, err := get[api.Image](tx, v.Spec.Image); err == nil && vol.Spec.Image == "" {
		vol.Spec.Image, vol.Spec.SizeMiB = img.Status.Digest, max(img.Status.VirtualMiB, int64(v.Spec.DiskGiB)*1024)
	}
	vol.Status = api.VolumeStatus{Site: v.Status.Site, Host: v.Status.Host, AllocatedBytes: s.DiskBytes}
	if err := put(tx, vol); err != nil {
		return err
	}
	return put(tx, v)
}

func (c *Controller) reportTranslator(tx *state.Tx, host string, r *wire.TranslatorReport) error {
	if r == nil {
		if _, err := get[api.Translator](tx, host); errors.Is(err, &api.Error{Code: api.CodeNotFound}) {
			return nil
		}
		if err := c.reportTranslator(tx, host, &wire.TranslatorReport{}); err != nil { // no address is there any more
			return err
		}
		return remove(tx, keyOf(api.KindTranslator, host))
	}
	t := &api.Translator{Meta: c.newMeta(host, ""), Spec: api.TranslatorSpec{Host: host}}
	if have, err := get[api.Translator](tx, host); err == nil {
		t = have
	}
	t.Status = api.TranslatorStatus{Running: r.Running, Mappings: len(r.Mappings), Message: r.Message}
	if err := put(tx, t); err != nil {
		return err
	}
	refused := map[netip.Addr]string{}
	for _, m := range r.Refused {
		refused[m.Service] = m.Message
	}
	if err := c.showRefused(tx, c.o.Site+"/"+host, refused); err != nil {
		return err
	}
	name := c.o.Site + "/" + host
	concerned := map[string]*api.Address{}
	for a := range by[api.Address](tx, "translator", name) {
		concerned[a.Name] = a
	}
	for _, m := range r.Mappings {
		for a := range by[api.Address](tx, "address", m.String()) {
			concerned[a.Name] = a
		}
	}
	for _, a := range slices.SortedFunc(maps.Values(concerned), func(a, b *api.Address) int { return strings.Compare(a.Name, b.Name) }) {
		a = state.Clone(a)
		in := slices.ContainsFunc(r.Mappings, func(m netip.Addr) bool { return m.String() == a.Spec.Address })
		i := slices.Index(a.Status.Translators, name)
		switch {
		case in && r.Running && i < 0:
			a.Status.Translators = append(a.Status.Translators, name)
			slices.Sort(a.Status.Translators)
		case (!in || !r.Running) && i >= 0:
			a.Status.Translators = slices.Delete(a.Status.Translators, i, i+1)
		default:
			continue
		}
		if err := put(tx, a); err != nil {
			return err
		}
	}
	return nil
}
