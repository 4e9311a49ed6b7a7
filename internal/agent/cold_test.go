package agent_test

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"path/filepath"
	"testing"

	"widecloud/api"
	"widecloud/internal/agent"
	"widecloud/internal/hyper"
	"widecloud/internal/hyper/fake"
	"widecloud/internal/store"
	"widecloud/internal/store/bolt"
	"widecloud/internal/wire"
)

const coldVM = "11111111-2222-4333-8444-000000000001"

// coldHost is an agent whose host is to have a stopped VM, or to get one.
type coldHost struct {
	*agent.Agent
	driver hyper.Driver
	store  store.Store
	order  wire.VMOrder
	net    wire.NetworkOrder
}

// carrying are networks that are all well.
type carrying struct{ recorded }

func (*carrying) Bridge(string) string { return "br-n1" }

func newColdHost(t *testing.T) *coldHost {
	t.Helper()
	n := network77(1)
	st, err := bolt.Open(bolt.Options{Path: filepath.Join(t.TempDir(), "agent.db"), NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { st.Close() })
	h := &coldHost{store: st, net: n, driver: fake.New(fake.Options{World: fake.NewWorld(), Name: "h1", Logger: slog.New(slog.DiscardHandler)}).Connect()}
	t.Cleanup(func() { h.driver.Close() })
	h.order = wire.VMOrder{
		VM: coldVM, Name: "web1", Home: "tokyo", Epoch: 1, Run: wire.RunOff, Hardware: api.Hardware{CPUs: 1, MemoryMiB: 128}, Image: anImage,
		Seed: wire.SeedOrder{Hostname: "web1"}, DiskMiB: 16, NIC: wire.NICOrder{Network: n.UID, MAC: "06:00:00:00:00:01", MTU: 1430},
	}
	h.restart(t)
	return h
}

// restart is a new agent over the same store.
func (h *coldHost) restart(t *testing.T) {
	t.Helper()
	a, err := agent.New(t.Context(), agent.Options{
		Site: "tokyo", Host: "h1", Roles: []api.HostRole{api.RoleHypervisor}, VTEP: netip.MustParseAddr("2001:db8::1"), Store: h.store, Networks: &carrying{},
		Volumes: noVolumes{}, Hypervisor: h.driver, Controller: noController{}, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	h.Agent = a
}

func (h *coldHost) orders(t *testing.T, revision int64, run wire.Run) {
	t.Helper()
	h.order.Run = run
	if err := h.SetState(t.Context(), wire.HostState{Revision: revision, VMs: []wire.VMOrder{h.order}, Networks: []wire.NetworkOrder{h.net}}); err != nil {
		t.Fatal(err)
	}
}

func wantCode(t *testing.T, what string, err error, code api.Code) {
	t.Helper()
	if !errors.Is(err, &api.Error{Code: code}) {
		t.Errorf("%s: %v, want an error of code %s", what, err, code)
	}
}

// TestBeginStopped: a VM moves as a stopped one only if it is one, by its order and by the hypervisor's word, and as one that runs only if
// it is to run. What was begun holds it: an order to start it is kept for later.
func TestBeginStopped(t *testing.T) {
	h := newColdHost(t)
	call := wire.MigrateCall{VM: coldVM, Epoch: 1, Job: "migrate-1", Cold: true}
	live := call
	live.Cold = false
	h.orders(t, 1, wire.RunOn)
	_, err := h.Begin(t.Context(), call)
	wantCode(t, "stopped, of one that is to run", err, api.CodeConflict)
	h.orders(t, 2, wire.RunOff)
	_, err = h.Begin(t.Context(), live)
	wantCode(t, "alive, of one that is off", err, api.CodeConflict)
	spec := hyper.Spec{VM: coldVM, Name: "web1", Epoch: 1, Hardware: h.order.Hardware}
	if err := h.driver.Start(t.Context(), spec); err != nil {
		t.Fatal(err)
	}
	_, err = h.Begin(t.Context(), call)
	wantCode(t, "stopped, of one that still runs", err, api.CodeConflict)
	if err := h.driver.Destroy(t.Context(), coldVM); err != nil {
		t.Fatal(err)
	}
	for range 2 { // a repeated call is as the first
		if _, err := h.Begin(t.Context(), call); err != nil {
			t.Fatal(err)
		}
		h.restart(t)
	}
	other := call
	other.Job = "migrate-2"
	_, err = h.Begin(t.Context(), other)
	wantCode(t, "another migration", err, api.CodeConflict)
	h.orders(t, 3, wire.RunOn)
	if o := records(t, h.store)[coldVM]; o.Run != wire.RunOff {
		t.Errorf("an order to start it is taken while it moves: %s", o.Run)
	}
	if err := h.Confirm(t.Context(), wire.FinishCall{VM: coldVM, Epoch: 3, Job: "migrate-1"}); err != nil {
		t.Fatal(err)
	}
	h.order.Epoch = 3
	h.orders(t, 4, wire.RunOn)
	if o := records(t, h.store)[coldVM]; o.Run != wire.RunOn || o.Epoch != 3 {
		t.Errorf("after the move was called off: %s at epoch %d", o.Run, o.Epoch)
	}
}

// TestFinishNeedsDisks: a target that is told to commit and has not all of the disks, or has others, says for certain that it has no copy.
func TestFinishNeedsDisks(t *testing.T) {
	h := newColdHost(t)
	h.order.Epoch = 2
	prepare := wire.PrepareCall{Job: "migrate-1", Order: h.order, Network: h.net}
	if _, err := h.Prepare(t.Context(), prepare); err != nil {
		t.Fatal(err)
	}
	for _, result := range []string{"", "abc"} {
		err := h.Finish(t.Context(), wire.FinishCall{Job: "migrate-1", VM: coldVM, Epoch: 2, Commit: true, Result: []byte(result)})
		wantCode(t, "commit with "+result, err, api.CodeNotFound)
	}
	domains, err := h.driver.Domains(context.Background())
	if err != nil || len(domains) > 0 {
		t.Errorf("domains %v, %v", domains, err)
	}
	if err := h.Finish(t.Context(), wire.FinishCall{Job: "migrate-1", VM: coldVM, Epoch: 4}); err != nil {
		t.Errorf("abort: %v", err)
	}
	if o := records(t, h.store)[coldVM]; o.Run != wire.RunGone || o.Epoch != 4 {
		t.Errorf("after the abort: %s at epoch %d", o.Run, o.Epoch)
	}
	_, err = h.Prepare(t.Context(), prepare)
	wantCode(t, "prepare at an epoch that is over", err, api.CodeStale)
}
