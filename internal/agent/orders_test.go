package agent_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/netip"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"widecloud/api"
	"widecloud/internal/agent"
	"widecloud/internal/store"
	"widecloud/internal/store/bolt"
	"widecloud/internal/wire"
)

// spy is a store that tells which keys are written, and fails when it is told to: before or after the write took effect.
type spy struct {
	store.Store
	keys []string
	fail string
}

type spyTx struct {
	store.Tx
	s *spy
}

func (t spyTx) Put(key string, value []byte) error {
	t.s.keys = append(t.s.keys, key)
	return t.Tx.Put(key, value)
}

func (t spyTx) Delete(key string) error {
	t.s.keys = append(t.s.keys, "-"+key)
	return t.Tx.Delete(key)
}

var errDisk = errors.New("the disk is full")

func (s *spy) Update(ctx context.Context, f func(store.Tx) error) (int64, error) {
	if s.fail == "before" {
		return 0, errDisk
	}
	rev, err := s.Store.Update(ctx, func(tx store.Tx) error { return f(spyTx{tx, s}) })
	if s.fail == "after" && err == nil {
		return 0, errDisk
	}
	return rev, err
}

// written are the keys that were written since it was asked last.
func (s *spy) written() []string {
	out := slices.Sorted(slices.Values(s.keys))
	s.keys = nil
	return out
}

// controllerOf is what a controller does for one agent.
type controllerOf struct {
	t    *testing.T
	sent wire.Sent
}

// change tells an agent what leads to a state.
func (c *controllerOf) change(a *agent.Agent, s wire.HostState) error {
	c.t.Helper()
	next, err := wire.OrdersOf(s, wire.Level)
	if err != nil {
		c.t.Fatal(err)
	}
	for _, part := range c.sent.Changes(next, s.Revision) {
		if err := a.ChangeState(c.t.Context(), part); err != nil {
			return err
		}
	}
	c.sent = wire.SentOf(next)
	return nil
}

func gatewayOver(t *testing.T, s store.Store) *agent.Agent {
	t.Helper()
	a, err := agent.New(t.Context(), agent.Options{
		Site: "tokyo", Host: "h1", Roles: []api.HostRole{api.RoleGateway}, VTEP: netip.MustParseAddr("2001:db8::1"),
		Store: s, Networks: &recorded{}, Controller: noController{}, Logger: slog.New(slog.NewTextHandler(io.Discard, nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func networks(revision int64, mtu int, numbers ...int) wire.HostState {
	s := wire.HostState{Revision: revision, VMs: []wire.VMOrder{}, Networks: []wire.NetworkOrder{}}
	for _, i := range numbers {
		n := network77(i)
		n.MTU = mtu
		s.Networks = append(s.Networks, n)
	}
	return s
}

var byValue = cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{})

// TestChanges: of a change only what has changed is written; one that is not of the orders in force changes nothing; and an agent
// that was started anew goes on where it was.
func TestChanges(t *testing.T) {
	st, err := bolt.Open(bolt.Options{Path: filepath.Join(t.TempDir(), "agent.db"), NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	s := &spy{Store: st}
	a, c := gatewayOver(t, s), &controllerOf{t: t}
	key := func(i int) string { return "state/networks/tokyo/" + network77(i).UID }
	step := func(a *agent.Agent, state wire.HostState, want ...string) {
		t.Helper()
		if err := c.change(a, state); err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(want, s.written()); d != "" {
			t.Errorf("written (-want +got):\n%s", d)
		}
		if d := cmp.Diff(state, kept(t, st), byValue); d != "" {
			t.Errorf("(-ordered +kept):\n%s", d)
		}
	}
	step(a, networks(1, 1430, 1, 2, 3), "state", "state/host", key(1), key(2), key(3))
	changed := networks(2, 1430, 1, 2, 4)
	changed.Networks[1].MTU = 1280
	step(a, changed, "-"+key(3), "state", key(2), key(4))

	// A step gets lost.
	lost := *c
	if next, err := wire.OrdersOf(networks(3, 1430, 1), wire.Level); err != nil {
		t.Fatal(err)
	} else {
		lost.sent = wire.SentOf(next)
	}
	if err := lost.change(a, networks(4, 1430, 1, 2)); !errors.Is(err, &api.Error{Code: api.CodeConflict}) {
		t.Errorf("a change of other orders: %v", err)
	}
	if d := cmp.Diff(changed, kept(t, st), byValue); d != "" {
		t.Errorf("after a refused change (-before +kept):\n%s", d)
	}

	again := gatewayOver(t, s)
	step(again, networks(5, 1430, 1, 4), "-"+key(2), "state")
	if err := again.SetState(t.Context(), networks(6, 1430, 1, 5)); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]string{"-" + key(4), "state", key(5)}, s.written()); d != "" {
		t.Errorf("of all orders, written (-want +got):\n%s", d)
	}
}

// TestChangesOnAFailingDisk: orders that could not be kept are not in force; and whatever was written all the same is put right with
// the next ones.
func TestChangesOnAFailingDisk(t *testing.T) {
	for _, fail := range []string{"before", "after"} {
		t.Run(fail, func(t *testing.T) {
			st, err := bolt.Open(bolt.Options{Path: filepath.Join(t.TempDir(), "agent.db"), NoSync: true})
			if err != nil {
				t.Fatal(err)
			}
			defer st.Close()
			s := &spy{Store: st}
			a, c := gatewayOver(t, s), &controllerOf{t: t}
			if err := c.change(a, networks(1, 1430, 1, 2)); err != nil {
				t.Fatal(err)
			}
			s.fail = fail
			if err := c.change(a, networks(2, 1430, 1, 3)); !errors.Is(err, errDisk) {
				t.Fatalf("with a full disk: %v", err)
			}
			s.fail = ""
			want := networks(3, 1430, 2, 4)
			if err := c.change(a, want); err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(want, kept(t, st), byValue); d != "" {
				t.Errorf("(-ordered +kept):\n%s", d)
			}
		})
	}
}

// TestOrdersOfAnOlderRelease: an agent that was just upgraded has the orders that its predecessor kept, in one piece.
func TestOrdersOfAnOlderRelease(t *testing.T) {
	st, err := bolt.Open(bolt.Options{Path: filepath.Join(t.TempDir(), "agent.db"), NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	old := networks(7, 1430, 1, 2)
	text, err := json.Marshal(old)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := st.Update(t.Context(), func(tx store.Tx) error { return tx.Put("state", text) }); err != nil {
		t.Fatal(err)
	}
	a := gatewayOver(t, st)
	if err := a.SetState(t.Context(), networks(6, 1430, 1)); !errors.Is(err, &api.Error{Code: api.CodeStale}) {
		t.Errorf("older orders than those: %v", err)
	}
	inForce, err := wire.OrdersOf(old, wire.Level)
	if err != nil {
		t.Fatal(err)
	}
	c := &controllerOf{t: t, sent: wire.SentOf(inForce)}
	want := networks(8, 1430, 2, 3)
	if err := c.change(a, want); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, kept(t, st), byValue); d != "" {
		t.Errorf("(-ordered +kept):\n%s", d)
	}
}
