package agent_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"widecloud/api"
	"widecloud/internal/agent"
	"widecloud/internal/agent/network"
	"widecloud/internal/hyper"
	"widecloud/internal/hyper/fake"
	"widecloud/internal/store/bolt"
	"widecloud/internal/wire"
)

var anImage = "sha256:" + strings.Repeat("1", 64)

// noVolumes has a disk for whoever asks.
type noVolumes struct{}

func (noVolumes) Bases(context.Context) ([]agent.Base, error) {
	return []agent.Base{{Digest: anImage, Bytes: 4096}}, nil
}
func (noVolumes) Import(context.Context, string, string, io.Reader) error { return nil }
func (noVolumes) Sweep(context.Context, func(string) bool) error          { return nil }
func (noVolumes) Seed(context.Context, wire.VMOrder) (hyper.Disk, error) {
	return hyper.Disk{Target: "vdb", Path: "/seed", Format: "raw", ReadOnly: true}, nil
}
func (noVolumes) Disks(context.Context, string) ([]wire.DiskReport, error) { return nil, nil }
func (noVolumes) CreateDisk(_ context.Context, _, name string, _ int64) (hyper.Disk, error) {
	return hyper.Disk{Path: "/disk." + name, Format: "qcow2"}, nil
}
func (noVolumes) NewMemory(context.Context, string, int64) (string, error) { return "/memory", nil }
func (noVolumes) Memory(context.Context, string) (string, error) {
	return "", errors.ErrUnsupported
}
func (noVolumes) KeepMemory(context.Context, string) (string, error) {
	return "", errors.ErrUnsupported
}
func (noVolumes) MemorySeal(context.Context, string) (string, error) {
	return "", errors.ErrUnsupported
}
func (noVolumes) OpenMemory(context.Context, string) (io.ReadCloser, int64, error) {
	return nil, 0, errors.ErrUnsupported
}
func (noVolumes) FillMemory(context.Context, string, []byte, int64, io.Reader) (string, error) {
	return "", errors.ErrUnsupported
}
func (noVolumes) RemoveMemory(context.Context, string) error       { return nil }
func (noVolumes) RemoveDisk(context.Context, string, string) error { return nil }
func (noVolumes) MoveDisk(context.Context, string, string, string, string) (bool, error) {
	return true, nil
}
func (noVolumes) Remove(context.Context, string) error { return nil }
func (noVolumes) Export(context.Context, hyper.Disk) (agent.Export, error) {
	return nil, errors.ErrUnsupported
}
func (noVolumes) Fill(context.Context, hyper.Disk, io.Reader) (string, error) {
	return "", errors.ErrUnsupported
}
func (noVolumes) Create(context.Context, string, string, int64) (hyper.Disk, error) {
	return hyper.Disk{Target: "vda", Path: "/disk", Format: "qcow2"}, nil
}

// leaver is a hypervisor that looks at the networks when a migration begins.
type leaver struct {
	hyper.Driver
	begin func(vm string)
}

func (l leaver) MigrateBegin(ctx context.Context, vm string) ([]byte, error) {
	l.begin(vm)
	return l.Driver.MigrateBegin(ctx, vm)
}

// leaving tells which VMs the networks were told of as migrating away.
func (r *recorded) leaving() (vms []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, n := range r.want.Networks {
		for _, e := range n.Endpoints {
			if e.Leaving {
				vms = append(vms, e.VM)
			}
		}
	}
	return vms
}

// faulty are networks of which some are bad.
type faulty struct {
	recorded
	bad []error
}

func (f *faulty) Apply(ctx context.Context, w network.Want) error {
	f.recorded.Apply(ctx, w)
	return fmt.Errorf("apply: %w", joined(f.bad))
}

func (*faulty) Bridge(string) string { return "br-n1" }

type joined []error

func (j joined) Error() string   { return fmt.Sprint([]error(j)) }
func (j joined) Unwrap() []error { return j }

// TestNetworksHearOfAMigration: before a VM can appear at another host, the source's networks know that it may; not before, and not after
// it has been called off. A network that is bad is no reason against a VM of another.
func TestNetworksHearOfAMigration(t *testing.T) {
	n := network77(1)
	const vm = "11111111-2222-4333-8444-000000000001"
	n.Endpoints = []wire.EndpointOrder{{VM: vm, MAC: "06:00:00:00:00:01", IPv6: n.Prefix.Addr().Next().Next(), VTEP: netip.MustParseAddr("2001:db8::1")}}
	networks := &faulty{bad: []error{&network.NetworkError{UID: "other", Name: "other", Err: io.EOF}, &network.NetworkError{UID: n.UID, Name: n.Name, Carried: true, Err: io.EOF}}}
	host := fake.New(fake.Options{World: fake.NewWorld(), Name: "h1", Logger: slog.New(slog.DiscardHandler)})
	driver := host.Connect()
	defer driver.Close()
	var atBegin []string
	st, err := bolt.Open(bolt.Options{Path: filepath.Join(t.TempDir(), "agent.db"), NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	a, err := agent.New(t.Context(), agent.Options{
		Site: "tokyo", Host: "h1", Roles: []api.HostRole{api.RoleHypervisor}, VTEP: netip.MustParseAddr("2001:db8::1"), Store: st, Networks: networks, Volumes: noVolumes{},
		Hypervisor: leaver{driver, func(string) { atBegin = networks.leaving() }}, Controller: noController{}, Logger: slog.New(slog.DiscardHandler),
		Guarded: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")},
	})
	if err != nil {
		t.Fatal(err)
	}
	order := wire.VMOrder{VM: vm, Name: "web1", Home: "tokyo", Epoch: 1, Run: wire.RunOn, Hardware: api.Hardware{CPUs: 1, MemoryMiB: 128}, Image: anImage, Seed: wire.SeedOrder{Hostname: "web1"}, DiskMiB: 16, NIC: wire.NICOrder{Network: n.UID, MAC: "06:00:00:00:00:01", MTU: 1430}}
	if err := a.SetState(t.Context(), wire.HostState{Revision: 1, VMs: []wire.VMOrder{order}, Networks: []wire.NetworkOrder{n}}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var work sync.WaitGroup
	work.Go(func() { a.Run(ctx) })
	defer work.Wait()
	defer cancel()
	eventually := func(what string, f func() bool) {
		t.Helper()
		for range 1000 {
			if f() {
				return
			}
			time.Sleep(10 * time.Millisecond)
		}
		t.Fatalf("%s: %+v", what, a.Report(ctx))
	}
	eventually("the VM runs", func() bool {
		r := a.Report(ctx)
		return len(r.VMs) == 1 && r.VMs[0].State == wire.CopyRunning
	})
	if vms := networks.leaving(); len(vms) > 0 {
		t.Errorf("before: %v", vms)
	}
	if _, err := a.Begin(ctx, wire.MigrateCall{VM: vm, Epoch: 1, Job: "migrate-1"}); err != nil {
		t.Fatal(err)
	}
	if len(atBegin) != 1 || atBegin[0] != vm {
		t.Errorf("when the hypervisor begins, the networks know of %v", atBegin)
	}
	if err := a.Confirm(ctx, wire.FinishCall{VM: vm, Epoch: 3, Job: "migrate-1"}); err != nil {
		t.Fatal(err)
	}
	eventually("the networks hear that it stays", func() bool { return len(networks.leaving()) == 0 })
	networks.mu.Lock()
	defer networks.mu.Unlock()
	if len(networks.want.Reserved) < 2 {
		t.Errorf("reserved: %v", networks.want.Reserved)
	}
}
