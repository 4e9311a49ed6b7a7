package wire_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"widecloud/api"
	"widecloud/internal/wire"
)

// drawState makes a host's state of a few VMs, networks and mappings, in the order in which controllers send them.
func drawState(t *rapid.T, revision int64) wire.HostState {
	s := wire.HostState{Revision: revision, VMs: []wire.VMOrder{}, Networks: []wire.NetworkOrder{}}
	if rapid.Bool().Draw(t, "gateway") {
		s.Pref64 = netip.MustParsePrefix("64:ff9b::/96")
	}
	for i := range 6 {
		if rapid.Bool().Draw(t, "vm") {
			s.VMs = append(s.VMs, wire.VMOrder{
				VM: fmt.Sprintf("vm-%d", i), Home: "tokyo", Name: fmt.Sprintf("web%d", i), Epoch: rapid.Uint64Range(1, 3).Draw(t, "epoch"),
				Seed: wire.SeedOrder{UserData: rapid.SampledFrom([]string{"", "<a & b>"}).Draw(t, "seed")},
			})
		}
	}
	for i := range 3 {
		if rapid.Bool().Draw(t, "network") {
			n := wire.NetworkOrder{Home: "tokyo"}
			n.UID, n.MTU = fmt.Sprintf("net-%d", i), rapid.IntRange(1280, 1282).Draw(t, "mtu")
			s.Networks = append(s.Networks, n)
		}
	}
	for i := range 3 {
		if rapid.Bool().Draw(t, "mapping") {
			s.Mappings = append(s.Mappings, wire.Mapping{
				Service: netip.AddrFrom4([4]byte{203, 0, 113, byte(i)}), Target: netip.MustParseAddr(rapid.SampledFrom([]string{"2001:db8::1", "2001:db8::2"}).Draw(t, "target")),
			})
		}
	}
	return s
}

// sendChange carries a change over, as sessions do.
func sendChange(t *rapid.T, c wire.StateChange) (out wire.StateChange) {
	text, err := json.Marshal(c)
	if err == nil {
		err = json.Unmarshal(text, &out)
	}
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// TestOrders: an agent that is told what changes has what the controller has, and notices each step that it did not get.
func TestOrders(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var has wire.Orders // the agent's
		var sent wire.Sent  // the controller's
		for revision := range int64(rapid.IntRange(1, 6).Draw(t, "steps")) {
			want := drawState(t, revision)
			next, err := wire.OrdersOf(want, wire.Level)
			if err != nil {
				t.Fatal(err)
			}
			lost := rapid.IntRange(0, 3).Draw(t, "lost") == 0
			var parts []wire.StateChange
			for _, p := range sent.Changes(next, revision) {
				parts = append(parts, sendChange(t, p))
			}
			sent = wire.SentOf(next)
			if lost {
				continue
			}
			got, err := has.Apply(wire.JoinChanges(parts))
			if err != nil {
				if !errors.Is(err, &api.Error{Code: api.CodeConflict}) {
					t.Fatal(err)
				}
				if got.Sum() != has.Sum() {
					t.Fatal("a refused change has changed something")
				}
				all := wire.JoinChanges(wire.Sent{}.Changes(next, revision))
				if got, err = has.Apply(sendChange(t, all)); err != nil {
					t.Fatalf("all orders are refused: %v", err)
				}
			}
			has = got
			state, bad := has.State(revision)
			if d := cmp.Diff(want, state, cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{}), cmpopts.EquateEmpty()); d != "" || bad != nil {
				t.Fatalf("%v (-controller +agent):\n%s", bad, d)
			}
			if has.Sum() != next.Sum() {
				t.Fatal("the sums differ")
			}
		}
	})
}

// TestOrdersChangeLittle: a change has what has changed, and nothing else.
func TestOrdersChangeLittle(t *testing.T) {
	state := wire.HostState{VMs: []wire.VMOrder{{VM: "1", Home: "a", Epoch: 1}, {VM: "2", Home: "a", Epoch: 1}, {VM: "3", Home: "a", Epoch: 1}}}
	before, err := wire.OrdersOf(state, wire.Level)
	if err != nil {
		t.Fatal(err)
	}
	state.VMs = []wire.VMOrder{{VM: "1", Home: "a", Epoch: 1}, {VM: "2", Home: "a", Epoch: 2}, {VM: "4", Home: "a", Epoch: 1}}
	after, err := wire.OrdersOf(state, wire.Level)
	if err != nil {
		t.Fatal(err)
	}
	parts := wire.SentOf(before).Changes(after, 7)
	if len(parts) != 1 {
		t.Fatalf("%d parts", len(parts))
	}
	var set []string
	for _, e := range parts[0].Set {
		set = append(set, e.Key)
	}
	if d := cmp.Diff([]string{"vms/a/2", "vms/a/4"}, set); d != "" {
		t.Errorf("set (-want +got):\n%s", d)
	}
	if d := cmp.Diff([]string{"vms/a/3"}, parts[0].Gone); d != "" {
		t.Errorf("gone (-want +got):\n%s", d)
	}
	if same := wire.SentOf(after).Changes(after, 8); len(same) != 1 || len(same[0].Set)+len(same[0].Gone) != 0 {
		t.Errorf("without a change: %+v", same)
	}
}

// TestOrdersInParts: orders that are more than a message holds come in parts, none of which is much larger than it should be.
func TestOrdersInParts(t *testing.T) {
	var state wire.HostState
	for i := range 200 {
		state.VMs = append(state.VMs, wire.VMOrder{VM: fmt.Sprint(i), Home: "a", Seed: wire.SeedOrder{UserData: strings.Repeat("x", 64<<10)}})
	}
	all, err := wire.OrdersOf(state, wire.Level)
	if err != nil {
		t.Fatal(err)
	}
	parts := wire.Sent{}.Changes(all, 7)
	if len(parts) < 3 {
		t.Fatalf("%d parts", len(parts))
	}
	for i, p := range parts {
		if text, err := json.Marshal(p); err != nil || len(text) > 5<<20 || p.Part != i || p.Parts != len(parts) {
			t.Errorf("part %d says %d of %d and has %d octets, %v", i, p.Part, p.Parts, len(text), err)
		}
		if i > 0 && !p.Place().Follows(parts[0].Place()) {
			t.Errorf("part %d does not follow", i)
		}
	}
	got, err := wire.Orders{}.Apply(wire.JoinChanges(parts))
	if err != nil || !slices.Equal(got.Keys(), all.Keys()) {
		t.Errorf("%d entries of %d, %v", len(got.Keys()), len(all.Keys()), err)
	}
}

// TestBadEntry: an entry that cannot be read is left out alone, and named.
func TestBadEntry(t *testing.T) {
	for name, e := range map[string]wire.StateEntry{
		"another form": {Key: "vms/a/1", Value: json.RawMessage(`{"vm":7}`)},
		"unknown kind": {Key: "disks/a/1", Value: json.RawMessage(`{}`)},
		"no value":     {Key: "networks/a/1"},
	} {
		t.Run(name, func(t *testing.T) {
			o := wire.Orders{}.With([]wire.StateEntry{e, {Key: "vms/a/2", Value: json.RawMessage(`{"vm":"2","home":"a"}`)}}, nil)
			state, bad := o.State(1)
			if len(bad) != 1 || !strings.Contains(bad[0].Error(), e.Key) {
				t.Errorf("faults %v", bad)
			}
			if len(state.VMs) != 1 || state.VMs[0].VM != "2" {
				t.Errorf("VMs %+v", state.VMs)
			}
		})
	}
}
