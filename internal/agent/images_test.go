package agent_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net/netip"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"widecloud/api"
	"widecloud/internal/agent"
	"widecloud/internal/hyper/fake"
	"widecloud/internal/store/bolt"
	"widecloud/internal/volume"
	"widecloud/internal/wire"
)

// library is a controller that has images, by their digests.
type library struct {
	noController
	images map[string][]byte
}

func (l library) Image(_ context.Context, digest string) (string, io.ReadCloser, error) {
	return "raw", io.NopCloser(bytes.NewReader(l.images[digest])), nil
}

// TestSweepBesideOrders orders VMs and removes them in whatever order, at a host that removes each base image as soon as nothing
// names it: no VM ever fails for the lack of its base, each that is to run does, over its own base, and in the end nothing is kept.
func TestSweepBesideOrders(t *testing.T) {
	lib := library{images: map[string][]byte{}}
	for i := range 3 {
		content := bytes.Repeat([]byte{byte(i + 1)}, 4096)
		sum := sha256.Sum256(content)
		lib.images["sha256:"+hex.EncodeToString(sum[:])] = content
	}
	digests := slices.Sorted(maps.Keys(lib.images))
	disks, err := volume.Open(volume.Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer disks.Close()
	st, err := bolt.Open(bolt.Options{Path: filepath.Join(t.TempDir(), "agent.db"), NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	driver := fake.New(fake.Options{World: fake.NewWorld(), Name: "h1", Logger: slog.New(slog.DiscardHandler)}).Connect()
	defer driver.Close()
	a, err := agent.New(t.Context(), agent.Options{
		Site: "tokyo", Host: "h1", Roles: []api.HostRole{api.RoleHypervisor}, VTEP: netip.MustParseAddr("2001:db8::1"), Store: st, Networks: &carrying{},
		Volumes: agent.Disks{Store: disks}, Hypervisor: driver, Controller: lib, Logger: slog.New(slog.DiscardHandler),
		ImageKept: time.Nanosecond, ReportEvery: 2 * time.Millisecond,
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var work sync.WaitGroup
	work.Go(func() {
		if err := a.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	defer work.Wait()
	defer cancel()

	n, revision := network77(1), int64(0)
	vms := map[string]wire.VMOrder{}
	tell := func() {
		t.Helper()
		revision++
		s := wire.HostState{Revision: revision, VMs: slices.SortedFunc(maps.Values(vms), func(x, y wire.VMOrder) int { return bytes.Compare([]byte(x.VM), []byte(y.VM)) }), Networks: []wire.NetworkOrder{n}}
		if err := a.SetState(t.Context(), s); err != nil {
			t.Fatal(err)
		}
	}
	states := func() (out map[string]wire.VMReport) {
		t.Helper()
		out = map[string]wire.VMReport{}
		for _, v := range a.Report(t.Context()).VMs {
			// One that is to go may have lost its base in the middle of its start: it needs none.
			if v.State == wire.CopyFailed && vms[v.VM].Run == wire.RunOn {
				t.Fatalf("VM %s failed: %s", v.VM, v.Message)
			}
			out[v.VM] = v
		}
		return out
	}
	await := func(what string, ok func() bool) {
		t.Helper()
		for began := time.Now(); !ok(); time.Sleep(time.Millisecond) {
			if time.Since(began) > time.Minute {
				t.Fatalf("waited in vain: %s: %+v", what, states())
			}
		}
	}
	random := rand.New(rand.NewPCG(1, 2))
	for made := range 40 {
		uid := fmt.Sprintf("11111111-2222-4333-8444-%012d", made)
		vms[uid] = wire.VMOrder{
			VM: uid, Name: fmt.Sprintf("web%d", made), Home: "tokyo", Epoch: 1, Run: wire.RunOn, Hardware: api.Hardware{CPUs: 1, MemoryMiB: 128},
			Image: digests[random.IntN(len(digests))], DiskMiB: 1, Seed: wire.SeedOrder{Hostname: "web"},
			NIC: wire.NICOrder{Network: n.UID, MAC: fmt.Sprintf("06:00:00:00:00:%02x", made), MTU: 1430},
		}
		for uid, o := range vms {
			if random.IntN(3) == 0 && o.Run == wire.RunOn {
				o.Run = wire.RunGone
				vms[uid] = o
			}
		}
		tell()
		if random.IntN(4) == 0 {
			time.Sleep(time.Duration(random.IntN(20)) * time.Millisecond)
		}
		states()
	}
	await("each VM is as ordered", func() bool {
		seen := states()
		for uid, o := range vms {
			if want := map[wire.Run]wire.VMState{wire.RunOn: wire.CopyRunning, wire.RunGone: wire.CopyGone}[o.Run]; seen[uid].State != want {
				return false
			}
		}
		return true
	})
	used := map[string]bool{}
	for uid, o := range vms {
		if o.Run != wire.RunOn {
			continue
		}
		used[o.Image] = true
		if u, err := disks.Stat(t.Context(), uid); err != nil || string(u.Base) != o.Image || !disks.HasBase(u.Base) {
			t.Errorf("VM %s is over %s, %v; its base is there: %t", uid, u.Base, err, disks.HasBase(u.Base))
		}
	}
	await("only the bases in use are left", func() bool { return len(a.Report(t.Context()).Images) == len(used) })
	if r := a.Report(t.Context()); r.ImageBytes != 4096*int64(len(used)) || r.UnusedBytes != 0 {
		t.Errorf("%d bases of %d bytes, of which %d are unused", len(used), r.ImageBytes, r.UnusedBytes)
	}
	for uid, o := range vms {
		o.Run = wire.RunGone
		vms[uid] = o
	}
	tell()
	await("no base is left", func() bool { states(); return len(a.Report(t.Context()).Images) == 0 })
}

// TestUnusedBytes: what a host's base images take is told, and what of that nothing needs.
func TestUnusedBytes(t *testing.T) {
	h := newColdHost(t)
	if r := h.Report(t.Context()); len(r.Images) != 1 || r.ImageBytes != 4096 || r.UnusedBytes != 4096 {
		t.Errorf("before any order: %v, %d bytes, %d unused", r.Images, r.ImageBytes, r.UnusedBytes)
	}
	h.orders(t, 1, wire.RunOff)
	if r := h.Report(t.Context()); r.ImageBytes != 4096 || r.UnusedBytes != 0 {
		t.Errorf("with a stopped VM: %d bytes, %d unused", r.ImageBytes, r.UnusedBytes)
	}
	h.orders(t, 2, wire.RunGone)
	if r := h.Report(t.Context()); r.UnusedBytes != 4096 {
		t.Errorf("with one that goes: %d unused", r.UnusedBytes)
	}
}
