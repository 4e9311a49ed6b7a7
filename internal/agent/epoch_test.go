package agent_test

import (
	"context"
	"encoding/json"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"widecloud/api"
	"widecloud/internal/agent"
	"widecloud/internal/store"
	"widecloud/internal/store/bolt"
	"widecloud/internal/wire"
)

// TestEpochs gives an agent orders of whatever epochs, for two VMs, and starts it anew in between: of each VM the order of the
// highest epoch is the one that counts, on disk too, and of the orders of one epoch the newest. Epoch 0 is none.
func TestEpochs(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		st, err := bolt.Open(bolt.Options{Path: filepath.Join(t.TempDir(), "agent.db"), NoSync: true})
		if err != nil {
			rt.Fatal(err)
		}
		defer st.Close()
		vms := []string{"11111111-1111-4111-8111-111111111111", "22222222-2222-4222-8222-222222222222"}
		var a *agent.Agent
		restart := func(*rapid.T) { a = gatewayOver(t, st) }
		restart(rt)
		revision := int64(0)
		want := map[string]wire.VMOrder{}
		rt.Repeat(map[string]func(*rapid.T){
			"restart": restart,
			"order": func(rt *rapid.T) {
				vm := rapid.SampledFrom(vms).Draw(rt, "vm")
				o := wire.VMOrder{
					VM: vm, Name: "web1", Home: "tokyo", Epoch: rapid.Uint64Range(0, 6).Draw(rt, "epoch"),
					Run:      rapid.SampledFrom([]wire.Run{wire.RunOn, wire.RunOff}).Draw(rt, "run"),
					Hardware: api.Hardware{CPUs: rapid.IntRange(1, 4).Draw(rt, "cpus"), MemoryMiB: 128}, Image: anImage, DiskMiB: 16,
					Seed: wire.SeedOrder{Hostname: "web1"},
					NIC:  wire.NICOrder{Network: "33333333-3333-4333-8333-333333333333", MAC: "06:00:00:00:00:01", MTU: 1430},
				}
				revision++
				if err := a.SetState(t.Context(), wire.HostState{Revision: revision, VMs: []wire.VMOrder{o}}); err != nil {
					rt.Fatal(err)
				}
				if o.Epoch > 0 && o.Epoch >= want[vm].Epoch {
					want[vm] = o
				}
			},
			"": func(rt *rapid.T) {
				if d := cmp.Diff(want, records(rt, st)); d != "" {
					rt.Fatalf("on disk (-want +got):\n%s", d)
				}
				got := map[string]uint64{}
				for _, v := range a.Report(t.Context()).VMs {
					got[v.VM] = v.Epoch
				}
				for _, vm := range vms {
					if got[vm] != want[vm].Epoch {
						rt.Fatalf("it reports epoch %d of VM %s, the highest was %d", got[vm], vm, want[vm].Epoch)
					}
				}
			},
		})
	})
}

// records are the orders that an agent's store keeps, by VM.
func records(t interface{ Fatal(...any) }, st store.Store) map[string]wire.VMOrder {
	out := map[string]wire.VMOrder{}
	if err := st.View(context.Background(), func(tx store.Tx) error {
		kvs, err := tx.List("vms/")
		for _, kv := range kvs {
			var r struct {
				Order wire.VMOrder `json:"order"`
			}
			if err := json.Unmarshal(kv.Value, &r); err != nil {
				return err
			}
			if r.Order.VM != "" {
				out[r.Order.VM] = r.Order
			}
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return out
}
