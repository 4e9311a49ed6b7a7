package agent_test

import (
	"context"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"widecloud/api"
	"widecloud/internal/agent"
	"widecloud/internal/hyper"
	"widecloud/internal/hyper/fake"
	"widecloud/internal/store"
	"widecloud/internal/store/bolt"
	"widecloud/internal/volume"
	"widecloud/internal/wire"
)

// realDisks are real files beside root disks that are none.
type realDisks struct {
	noVolumes
	files agent.Disks
}

func (d realDisks) Disks(ctx context.Context, vm string) ([]wire.DiskReport, error) {
	return d.files.Disks(ctx, vm)
}

func (d realDisks) CreateDisk(ctx context.Context, vm, name string, sizeMiB int64) (hyper.Disk, error) {
	return d.files.CreateDisk(ctx, vm, name, sizeMiB)
}

func (d realDisks) RemoveDisk(ctx context.Context, vm, name string) error {
	return d.files.RemoveDisk(ctx, vm, name)
}

func (d realDisks) MoveDisk(ctx context.Context, from, name, to, as string) (bool, error) {
	return d.files.MoveDisk(ctx, from, name, to, as)
}

func (d realDisks) Remove(ctx context.Context, vm string) error { return d.files.Remove(ctx, vm) }

// keeper is an agent whose volumes are real files, under orders of the test.
type keeper struct {
	t        *testing.T
	dir      string
	volumes  realDisks
	store    store.Store
	driver   hyper.Driver
	agent    *agent.Agent
	stop     func()
	revision int64
}

const (
	vmA, vmB, volV = "11111111-2222-4333-8444-00000000000a", "11111111-2222-4333-8444-00000000000b", "11111111-2222-4333-8444-0000000000ff"
)

func newKeeper(t *testing.T) *keeper {
	t.Helper()
	if _, err := exec.LookPath("qemu-io"); err != nil {
		t.Fatalf("%v: scripts/deps --test installs it", err)
	}
	k := &keeper{t: t, dir: t.TempDir()}
	files, err := volume.Open(volume.Options{Dir: k.dir})
	if err != nil {
		t.Fatal(err)
	}
	k.volumes = realDisks{files: agent.Disks{Store: files}}
	if k.store, err = bolt.Open(bolt.Options{Path: filepath.Join(t.TempDir(), "agent.db"), NoSync: true}); err != nil {
		t.Fatal(err)
	}
	k.driver = fake.New(fake.Options{World: fake.NewWorld(), Name: "h1", Profile: 2, Logger: slog.New(slog.DiscardHandler)}).Connect()
	k.start()
	t.Cleanup(func() { k.stop(); k.driver.Close(); k.store.Close(); files.Close() })
	return k
}

// start begins an agent over what is on disk.
func (k *keeper) start() {
	k.t.Helper()
	a, err := agent.New(k.t.Context(), agent.Options{
		Site: "tokyo", Host: "h1", Roles: []api.HostRole{api.RoleHypervisor}, VTEP: netip.MustParseAddr("2001:db8::1"), Store: k.store, Networks: &carrying{},
		Volumes: k.volumes, Hypervisor: k.driver, Controller: noController{}, Logger: slog.New(slog.DiscardHandler), ReportEvery: 20 * time.Millisecond,
	})
	if err != nil {
		k.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var work sync.WaitGroup
	work.Go(func() { a.Run(ctx) })
	k.agent, k.stop = a, func() { cancel(); work.Wait() }
}

func (k *keeper) restart() { k.stop(); k.start() }

// orders gives the agent all of its orders anew.
func (k *keeper) orders(volumes []wire.VolumeOrder, vms ...wire.VMOrder) {
	k.t.Helper()
	k.revision++
	if err := k.agent.SetState(k.t.Context(), wire.HostState{Revision: k.revision, VMs: vms, Networks: []wire.NetworkOrder{network77(1)}, Volumes: volumes}); err != nil {
		k.t.Fatal(err)
	}
}

// vm is the order of a running VM with these disks.
func (k *keeper) vm(uid string, serial uint64, disks ...wire.DiskOrder) wire.VMOrder {
	return wire.VMOrder{
		VM: uid, Name: "web-" + uid[len(uid)-1:], Home: "tokyo", Epoch: 1, Serial: serial, Run: wire.RunOn, Hardware: api.Hardware{CPUs: 1, MemoryMiB: 128, Profile: 2}, Image: anImage,
		Seed: wire.SeedOrder{Hostname: "web"}, DiskMiB: 16, NIC: wire.NICOrder{Network: network77(1).UID, MAC: "06:00:00:00:00:0" + uid[len(uid)-1:], MTU: 1430}, Disks: disks,
	}
}

func (k *keeper) until(what string, ok func(wire.HostReport) bool) {
	k.t.Helper()
	for range 500 {
		if ok(k.agent.Report(k.t.Context())) {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	k.t.Fatalf("waited in vain: %s; %+v", what, k.agent.Report(k.t.Context()))
}

// files are the names of what is in the directory of disks.
func (k *keeper) files() (out []string) {
	all, err := os.ReadDir(filepath.Join(k.dir, "disk"))
	if err != nil {
		k.t.Fatal(err)
	}
	for _, f := range all {
		out = append(out, f.Name())
	}
	return out
}

func (k *keeper) wantFiles(want ...string) {
	k.t.Helper()
	if d := cmp.Diff(want, k.files()); d != "" {
		k.t.Fatalf("files (-want +got):\n%s", d)
	}
}

func (k *keeper) io(file, command string) {
	k.t.Helper()
	if out, err := exec.Command("qemu-io", "-f", "qcow2", "-c", command, filepath.Join(k.dir, "disk", file)).CombinedOutput(); err != nil || strings.Contains(string(out), "failed") {
		k.t.Fatalf("%s of %s: %v\n%s", command, file, err, out)
	}
}

// plugged tells whether a VM's guest has a disk, by the report.
func plugged(r wire.HostReport, vm, disk string) bool {
	i := slices.IndexFunc(r.VMs, func(v wire.VMReport) bool { return v.VM == vm })
	return i >= 0 && r.VMs[i].Machine != nil && slices.ContainsFunc(r.VMs[i].Machine.Disks, func(d wire.DiskReport) bool { return d.Name == disk && d.Plugged })
}

// TestVolumeGoesRound: a volume is made, goes from one running VM to another with what is on it, grows, outlives its VM, and is removed.
// An order of a lower epoch does nothing, also after the agent has died.
func TestVolumeGoesRound(t *testing.T) {
	k := newKeeper(t)
	kept, ofA, ofB := volV+".Kept.qcow2", vmA+".data.qcow2", vmB+".data.qcow2"
	disk := func(epoch uint64, mib int64) wire.DiskOrder {
		return wire.DiskOrder{Name: "data", Slot: 1, SizeMiB: mib, Volume: volV, Epoch: epoch}
	}
	gone := func(d wire.DiskOrder) wire.DiskOrder { d.Gone = true; return d }
	order := wire.VolumeOrder{Volume: volV, Name: "data", Epoch: 1, SizeMiB: 8, New: true}
	seen := func(epoch uint64, mib int64) func(wire.HostReport) bool {
		return func(r wire.HostReport) bool {
			return len(r.Volumes) == 1 && r.Volumes[0].Epoch == epoch && r.Volumes[0].SizeMiB == mib && r.Volumes[0].Message == ""
		}
	}
	k.orders([]wire.VolumeOrder{order})
	k.until("it is made", seen(1, 8))
	k.wantFiles(kept)
	k.io(kept, "write -P 7 1M 64k")

	k.orders(nil, k.vm(vmA, 1, disk(2, 8)), k.vm(vmB, 1))
	k.until("A has it", func(r wire.HostReport) bool { return plugged(r, vmA, "data") })
	k.wantFiles(ofA)

	// Orders of before: they take nothing from A, and make no second file.
	k.restart()
	k.orders([]wire.VolumeOrder{order}, k.vm(vmA, 1, disk(2, 8)), k.vm(vmB, 2, disk(1, 8)))
	k.until("B says why not", func(r wire.HostReport) bool {
		i := slices.IndexFunc(r.VMs, func(v wire.VMReport) bool { return v.VM == vmB })
		return strings.Contains(r.VMs[i].Message, "epoch 1 of volume")
	})
	k.wantFiles(ofA)

	k.orders(nil, k.vm(vmA, 2, gone(disk(2, 8))), k.vm(vmB, 3))
	k.until("A has let it go", func(r wire.HostReport) bool {
		return !plugged(r, vmA, "data") && slices.Equal(k.files(), []string{kept})
	})
	k.orders(nil, k.vm(vmA, 3), k.vm(vmB, 4, disk(4, 12)))
	k.until("B has it, larger", func(r wire.HostReport) bool { return plugged(r, vmB, "data") })
	k.wantFiles(ofB)
	k.io(ofB, "read -P 7 1M 64k") // the fake hypervisor has nothing open

	// B ends; the volume does not.
	end := k.vm(vmB, 5, disk(4, 12))
	end.Run = wire.RunGone
	k.orders(nil, k.vm(vmA, 3), end)
	k.until("B is gone", func(r wire.HostReport) bool {
		return slices.ContainsFunc(r.VMs, func(v wire.VMReport) bool { return v.VM == vmB && v.State == wire.CopyGone })
	})
	k.wantFiles(kept)
	order.Epoch, order.SizeMiB, order.New = 5, 16, false
	k.orders([]wire.VolumeOrder{order}, k.vm(vmA, 3))
	k.until("it has grown", seen(5, 16))
	k.io(kept, "read -P 7 1M 64k")
	order.Epoch, order.Gone = 6, true
	k.orders([]wire.VolumeOrder{order}, k.vm(vmA, 3))
	k.until("it is gone", seen(6, 0))
	k.wantFiles()
}

// TestVolumeMissing: a volume that was written to and is not here is not made anew: the VM says so, and gets nothing.
func TestVolumeMissing(t *testing.T) {
	k := newKeeper(t)
	k.orders([]wire.VolumeOrder{{Volume: volV, Name: "data", Epoch: 1, SizeMiB: 8}},
		k.vm(vmA, 1, wire.DiskOrder{Name: "data", Slot: 1, SizeMiB: 8, Volume: "11111111-2222-4333-8444-0000000000fe", Epoch: 3}))
	k.until("both are reported", func(r wire.HostReport) bool {
		return len(r.Volumes) == 1 && strings.Contains(r.Volumes[0].Message, "not on this host") && len(r.VMs) == 1 && strings.Contains(r.VMs[0].Message, "not on this one")
	})
	k.wantFiles()
}

// TestVolumeLeavesWithItsVM: the source of a migration that is done removes the volume's file with the VM's; one that is called off keeps
// it, and gives it back when the VM ends.
func TestVolumeLeavesWithItsVM(t *testing.T) {
	for _, commit := range []bool{true, false} {
		k := newKeeper(t)
		disk := wire.DiskOrder{Name: "data", Slot: 1, SizeMiB: 8, Volume: volV, Epoch: 2, New: true}
		k.orders(nil, k.vm(vmA, 1, disk))
		k.until("A has it", func(r wire.HostReport) bool { return plugged(r, vmA, "data") })
		off := k.vm(vmA, 2, disk)
		off.Run = wire.RunHard
		k.orders(nil, off)
		k.until("A is stopped", func(r wire.HostReport) bool { return r.VMs[0].State == wire.CopyStopped })
		k.wantFiles(vmA + ".data.qcow2")
		if _, err := k.agent.Begin(t.Context(), wire.MigrateCall{VM: vmA, Epoch: 1, Job: "migrate-1", Cold: true}); err != nil {
			t.Fatal(err)
		}
		epoch, want := uint64(3), []string{volV + ".Kept.qcow2"}
		if commit {
			epoch, want = 2, nil
		}
		if err := k.agent.Confirm(t.Context(), wire.FinishCall{VM: vmA, Epoch: epoch, Job: "migrate-1", Commit: commit}); err != nil {
			t.Fatal(err)
		}
		k.restart()
		end := k.vm(vmA, 3, disk)
		end.Epoch, end.Run = epoch, wire.RunGone
		if commit {
			k.orders(nil) // the VM is no longer here
		} else {
			k.orders(nil, end)
		}
		k.until("nothing of A is left", func(r wire.HostReport) bool {
			return slices.ContainsFunc(r.VMs, func(v wire.VMReport) bool { return v.State == wire.CopyGone })
		})
		k.wantFiles(want...)
	}
}
