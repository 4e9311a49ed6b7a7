package hosts

import (
	"context"
	"net/http"
	"reflect"
	"sync"
	"time"

	"widecloud/api"
	"widecloud/internal/control/objects"
	"widecloud/internal/state"
	"widecloud/internal/wire"
)

// agents are the sessions of this site's agents.
type agents struct {
	c  *Hosts
	mu sync.Mutex
	up map[string]*agentSessions
}

type agentSessions struct {
	control, bulk *wire.Session
}

func newAgents(hs *Hosts) *agents { return &agents{c: hs, up: map[string]*agentSessions{}} }

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
		a.c.Log.Info("agent is up", "host", host)
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
		a.c.Log.Info("agent is down", "host", host)
		a.c.hostDown(ctx, host)
	}
}

// Session is the way to a host's agent; api.CodeUnavailable when there is none.
func (hs *Hosts) Session(host string, bulk bool) (*wire.Session, error) {
	return hs.agents.session(host, bulk)
}

// Accept takes an agent's session in; it returns when the session ends.
func (hs *Hosts) Accept(ctx context.Context, host string, s *wire.Session) {
	hs.agents.accept(ctx, host, s)
}

// push keeps a host's orders with its agent the same as the store's until the session ends.
func (a *agents) push(ctx context.Context, host string, s *wire.Session) {
	told := teller{s: s}
	for ctx.Err() == nil && s.Err() == nil {
		changed := a.c.WhenChanged()
		state, revision, err := a.c.orders.Host(ctx, host)
		if err == nil {
			err = told.tell(ctx, state, revision)
		}
		wait := settleAgents(a.count())
		if err != nil && ctx.Err() == nil && s.Err() == nil {
			a.c.Log.Warn("give the agent its orders", "host", host, "err", err)
			wait = a.c.Retry
		}
		select {
		case <-ctx.Done():
		case <-s.Done():
		case <-changed:
		case <-time.After(a.c.Resync):
		}
		select {
		case <-ctx.Done():
		case <-s.Done():
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
func (hs *Hosts) hostDown(ctx context.Context, host string) {
	hs.used.set(host, nil)
	hs.networks.Silent(host)
	err := hs.Write(ctx, func(tx *state.Tx) error {
		h, err := objects.Get[api.Host](tx, host)
		if err != nil {
			return err
		}
		if h.Status.Message != hostLost {
			hs.Event(tx, "host.lost", "hosts/"+host, "", hostLost)
		}
		h.Status.Connected, h.Status.Since, h.Status.Message = false, hs.Now(), hostLost
		for _, f := range hs.lost {
			if err := f(tx, host); err != nil {
				return err
			}
		}
		return objects.Put(tx, h)
	})
	if err != nil && ctx.Err() == nil {
		hs.Log.Error("show that the host is down", "host", host, "err", err)
	}
}

// Await shows that no agent has been heard of since this controller started, and, after a while, which ones are still
// missing: what the store says of them is of its predecessor's time.
func (hs *Hosts) Await(ctx context.Context) {
	missing := func(f func(tx *state.Tx, h *api.Host) error) {
		err := hs.Write(ctx, func(tx *state.Tx) error {
			hosts, err := objects.List[api.Host](tx)
			if err != nil {
				return err
			}
			for _, h := range hosts {
				if _, err := hs.Session(h.Name, false); err == nil {
					continue
				}
				if err := f(tx, h); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil && ctx.Err() == nil {
			hs.Log.Error("show which hosts are missing", "err", err)
		}
	}
	missing(func(tx *state.Tx, h *api.Host) error {
		if !h.Status.Connected {
			return nil
		}
		h.Status.Connected, h.Status.Since, h.Status.Message = false, hs.Now(), "the controller was started anew; the agent has not called yet"
		return objects.Put(tx, h)
	})
	select {
	case <-ctx.Done():
	case <-time.After(10 * time.Second):
		missing(func(_ *state.Tx, h *api.Host) error {
			hs.Once("down/"+h.Name, func(ctx context.Context) { hs.hostDown(ctx, h.Name) })
			return nil
		})
	}
}

// SettleTime is what is waited after a change before everything is looked at: changes come in groups.
const SettleTime = 10 * time.Millisecond

// settleAgents is settleTime for the orders of each of a number of agents: all of them look at each change.
func settleAgents(n int) time.Duration {
	return min(max(1, time.Duration(n/100))*SettleTime, 10*SettleTime)
}
