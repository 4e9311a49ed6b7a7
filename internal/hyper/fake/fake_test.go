package fake_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"widecloud/api"
	"widecloud/internal/hyper"
	"widecloud/internal/hyper/fake"
	"widecloud/internal/hyper/hypertest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func spec(vm string, epoch uint64) hyper.Spec {
	return hyper.Spec{VM: vm, Name: "web1", Epoch: epoch, Hardware: api.Hardware{CPUs: 1, MemoryMiB: 128}, Disks: []hyper.Disk{
		{Target: "vda", Path: "/vol/" + vm + ".qcow2", Format: "qcow2"},
		{Target: "vdb", Path: "/vol/" + vm + ".seed", Format: "raw", ReadOnly: true},
	}}
}

func end(h *fake.Host) hypertest.Host {
	return hypertest.Host{
		Connect: func(*testing.T) hyper.Driver { return h.Connect() },
		Spec: func(t *testing.T, vm string, epoch uint64) hyper.Spec {
			s := spec(vm, epoch)
			h.WriteDisk(s.Disks[0].Path, 0)
			return s
		},
		Disk: func(_ *testing.T, vm, target string) hyper.Disk {
			k := hyper.Disk{Target: target, Serial: target, Path: "/volumes/" + vm + "." + target, Format: "qcow2"}
			h.WriteDisk(k.Path, 0)
			return k
		},
		Size: func(_ *testing.T, _ string, k hyper.Disk) int64 { return h.Grown(k.Path) },
		Deaf: func(vm string) { h.SetDeaf(vm, true) },
		Guest: func(t *testing.T, _ hyper.Driver, vm string) hypertest.Guest {
			g, _ := h.Guest(vm)
			return hypertest.Guest{Boot: fmt.Sprint(g.Boot, "/", g.Resets), Counter: g.Counter}
		},
		Memory: func(t *testing.T, vm string) string {
			t.Cleanup(func() { h.RemoveMemory(vm) })
			return h.NewMemory(vm)
		},
		ReadMemory: func(_ *testing.T, vm string) []byte {
			h.KeepMemory(vm)
			return h.ReadMemory(vm)
		},
		WriteMemory: func(t *testing.T, vm string, content []byte) {
			if err := h.WriteMemory(vm, content, spec(vm, 0).Disks[0].Path); err != nil {
				t.Fatal(err)
			}
		},
		Tear: func(_ *testing.T, vm string) { h.Tear(vm) },
		Fill: func(t *testing.T, s hyper.Spec) {
			h.SetFree(8 << 10)
			t.Cleanup(func() { h.SetFree(-1) })
		},
	}
}

func pair(t *testing.T) (*fake.World, *fake.Host, *fake.Host) {
	w := fake.NewWorld()
	a := fake.New(fake.Options{Name: "tokyo-1", World: w})
	b := fake.New(fake.Options{Name: "osaka-1", World: w})
	t.Cleanup(func() {
		for _, s := range w.Breaches() {
			t.Error(s)
		}
		if w.Most() > 1 {
			t.Errorf("%d copies ran at once", w.Most())
		}
		for _, h := range []*fake.Host{a, b} {
			if left := h.VMs(); len(left) > 0 {
				t.Errorf("domains are left: %v", left)
			}
		}
	})
	return w, a, b
}

// In real time: what a user of the package gets without further ado.
func TestConformance(t *testing.T) {
	hypertest.Run(t, func(t *testing.T) hypertest.Env {
		_, a, b := pair(t)
		return hypertest.Env{A: end(a), B: end(b)}
	})
}

const vm = "00000000-0000-4000-8000-000000000001"

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func migrate(t *testing.T, from, to *fake.Host, src, dst hyper.Driver, epoch uint64) error {
	ctx := t.Context()
	offer, err := src.MigrateBegin(ctx, vm)
	check(t, err)
	answer, err := dst.MigratePrepare(ctx, spec(vm, epoch), offer)
	check(t, err)
	r := hypertest.NewRelay(dst, vm, nil)
	defer r.Close()
	result, err := src.MigratePerform(ctx, vm, hyper.Outgoing{Answer: answer, Dial: r.Dial})
	if err != nil {
		return err
	}
	if err := dst.MigrateFinish(ctx, vm, result, true); err != nil {
		return err
	}
	return src.MigrateConfirm(ctx, vm, true)
}

func TestVirtualTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := fake.NewWorld()
		a := fake.New(fake.Options{Name: "a", World: w, ChunkTime: time.Second, Tick: time.Second})
		b := fake.New(fake.Options{Name: "b", World: w})
		src, dst := a.Connect(), b.Connect()
		defer src.Close()
		defer dst.Close()
		began := time.Now()
		check(t, src.Start(t.Context(), spec(vm, 1)))
		check(t, migrate(t, a, b, src, dst, 2))
		// 32 KiB of disk and 16 of memory are 12 chunks.
		if d := time.Since(began); d != 12*time.Second {
			t.Errorf("migration took %v of virtual time", d)
		}
		g, _ := b.Guest(vm)
		if g.Counter < 13 {
			t.Errorf("counter is %d: the guest did not run during the copy", g.Counter)
		}
		check(t, dst.Destroy(t.Context(), vm))
		if b.Written("/vol/"+vm+".qcow2") < 13 {
			t.Error("the guest's writes are not on its disk")
		}
		if got := w.Breaches(); got != nil {
			t.Error(got)
		}
	})
}

func TestWorldSeesBreaches(t *testing.T) {
	w, a, b := fake.NewWorld(), (*fake.Host)(nil), (*fake.Host)(nil)
	a = fake.New(fake.Options{Name: "a", World: w})
	b = fake.New(fake.Options{Name: "b", World: w})
	da, db := a.Connect(), b.Connect()
	defer da.Close()
	defer db.Close()
	var seen []fake.Change
	w.Observe(func(c fake.Change) { seen = append(seen, c) })
	check(t, da.Start(t.Context(), spec(vm, 2)))
	check(t, db.Start(t.Context(), spec(vm, 1)))
	got := strings.Join(w.Breaches(), "\n")
	for _, want := range []string{"runs at once on [a b]", "at epoch 1 after epoch 2"} {
		if !strings.Contains(got, want) {
			t.Errorf("breaches %q lack %q", got, want)
		}
	}
	if w.Most() != 2 || len(w.Running(vm)) != 2 || len(seen) != 2 {
		t.Errorf("most %d, running %v, seen %v", w.Most(), w.Running(vm), seen)
	}
	check(t, db.Destroy(t.Context(), vm))

	// A source that is resumed after its target ran is a stale copy.
	offer, err := da.MigrateBegin(t.Context(), vm)
	check(t, err)
	answer, err := db.MigratePrepare(t.Context(), spec(vm, 3), offer)
	check(t, err)
	result, err := da.MigratePerform(t.Context(), vm, hyper.Outgoing{Answer: answer, Dial: hypertest.NewRelay(db, vm, nil).Dial})
	check(t, err)
	check(t, db.MigrateFinish(t.Context(), vm, result, true))
	time.Sleep(5 * time.Millisecond)
	check(t, db.Destroy(t.Context(), vm))
	before := len(w.Breaches())
	check(t, da.Resume(t.Context(), vm))
	if got := strings.Join(w.Breaches()[before:], "\n"); !strings.Contains(got, "but had come to") {
		t.Errorf("breaches %q lack the stale copy", got)
	}
	check(t, da.Destroy(t.Context(), vm))
}

func TestPowerAndDaemon(t *testing.T) {
	w, a, _ := pair(t)
	d := a.Connect()
	defer d.Close()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	events, err := d.Watch(ctx)
	check(t, err)
	check(t, d.Start(ctx, spec(vm, 1)))

	a.StopDaemon()
	if _, err := d.Domains(ctx); !errors.Is(err, hyper.ErrUnreachable) {
		t.Errorf("error is %v", err)
	}
	if got := w.Running(vm); len(got) != 1 {
		t.Errorf("the guest did not outlive the daemon: %v", got)
	}
	a.StartDaemon()
	if e := <-events; e.State != hyper.Running {
		t.Errorf("event is %+v", e)
	}
	if e := <-events; !e.Lost {
		t.Errorf("event is %+v", e)
	}

	a.PowerOff()
	if got := w.Running(vm); len(got) != 0 {
		t.Errorf("the guest outlived the power: %v", got)
	}
	a.PowerOn()
	list, err := d.Domains(ctx)
	check(t, err)
	if len(list) != 0 {
		t.Errorf("domains are %v", list)
	}
	check(t, d.Start(ctx, spec(vm, 2)))
	if g, _ := a.Guest(vm); g.Counter < 2 {
		t.Errorf("counter is %d: the disk was lost", g.Counter)
	}
	check(t, d.Destroy(ctx, vm))
}

func TestFaults(t *testing.T) {
	_, a, _ := pair(t)
	d := a.Connect()
	defer d.Close()
	ctx := t.Context()
	boom := errors.New("boom")
	a.Inject(fake.Fault{Method: "Start", Err: boom})
	a.Inject(fake.Fault{Method: "Start", Err: boom, After: true, Skip: 0})
	if err := d.Start(ctx, spec(vm, 1)); !errors.Is(err, boom) || len(a.VMs()) != 0 {
		t.Errorf("error is %v, domains %v", err, a.VMs())
	}
	if err := d.Start(ctx, spec(vm, 1)); !errors.Is(err, boom) || len(a.VMs()) != 1 {
		t.Errorf("error is %v, domains %v", err, a.VMs())
	}
	a.Inject(fake.Fault{Method: "Destroy", Hang: true})
	short, cancel := context.WithTimeout(ctx, time.Millisecond)
	defer cancel()
	if err := d.Destroy(short, vm); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error is %v", err)
	}
	check(t, d.Destroy(ctx, vm))
}

// A relay that changes one byte must not pass for a migration.
func TestCorruptStream(t *testing.T) {
	_, a, b := pair(t)
	src, dst := a.Connect(), b.Connect()
	defer src.Close()
	defer dst.Close()
	check(t, src.Start(t.Context(), spec(vm, 1)))
	offer, err := src.MigrateBegin(t.Context(), vm)
	check(t, err)
	answer, err := dst.MigratePrepare(t.Context(), spec(vm, 2), offer)
	check(t, err)
	r := hypertest.NewRelay(dst, vm, nil)
	defer r.Close()
	_, err = src.MigratePerform(t.Context(), vm, hyper.Outgoing{Answer: answer, Dial: hypertest.Corrupt(r.Dial, 9000)})
	if err == nil {
		t.Fatal("a corrupted stream passed")
	}
	if g, _ := a.Guest(vm); g.State != hyper.Running {
		t.Errorf("source is %s", g.State)
	}
	check(t, src.Destroy(t.Context(), vm))
	check(t, dst.MigrateFinish(t.Context(), vm, nil, false))
}
