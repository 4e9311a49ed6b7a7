package hypertest

import (
	"slices"
	"testing"

	"widecloud/api"
	"widecloud/internal/hyper"
)

// testDisks: a disk is plugged into a running guest, grows, and leaves when the guest lets it go and no earlier. The guest of the
// suite does not answer: it gives the disk up when it boots anew.
func testDisks(t *testing.T, x *bench) {
	x.A = withProfile(x.A)
	s := x.A.Spec(t, x.vm, 1)
	data := x.A.Disk(t, x.vm, hyper.Target(s.Profile, 2))
	is(t, x.a.AttachDisk(x.ctx, x.vm, data), hyper.ErrNotFound)
	is(t, x.a.DetachDisk(x.ctx, x.vm, data.Target), hyper.ErrNotFound)
	is(t, x.a.GrowDisk(x.ctx, x.vm, "vda", 1<<30), hyper.ErrNotFound)
	ok(t, x.a.Start(x.ctx, s))
	g := x.grows(t, x.A, x.a, Guest{})

	for range 2 { // a repeated call finds it there
		ok(t, x.a.AttachDisk(x.ctx, x.vm, data))
		x.has(t, x.a, "vda", data.Target)
	}
	if err := x.a.AttachDisk(x.ctx, x.vm, hyper.Disk{Target: "hda", Path: data.Path, Format: "qcow2"}); err == nil {
		t.Error("a disk at no place was attached")
	}
	for range 2 {
		ok(t, x.a.GrowDisk(x.ctx, x.vm, data.Target, 3<<20))
		if n := x.A.Size(t, x.vm, data); n != 3<<20 {
			t.Fatalf("the disk has %d bytes, and was to grow to %d", n, 3<<20)
		}
	}
	ok(t, x.a.GrowDisk(x.ctx, x.vm, data.Target, 2<<20)) // it has as many
	if n := x.A.Size(t, x.vm, data); n != 3<<20 {
		t.Fatalf("the disk has become smaller: %d bytes", n)
	}
	ok(t, x.a.GrowDisk(x.ctx, x.vm, "vda", 64<<20))
	if n := x.A.Size(t, x.vm, s.Disks[0]); n != 64<<20 {
		t.Fatalf("the root disk has %d bytes, and was to grow to %d", n, 64<<20)
	}
	x.grows(t, x.A, x.a, g)

	if x.A.Deaf != nil {
		x.A.Deaf(x.vm)
	}
	for range 2 { // the guest does not answer
		ok(t, x.a.DetachDisk(x.ctx, x.vm, data.Target))
		x.has(t, x.a, "vda", data.Target)
	}
	ok(t, x.a.Reboot(x.ctx, x.vm, true))
	eventually(t, "the disk is gone with the reset", func() bool {
		m, _ := x.see(t, x.a)
		return slices.Equal(m.Disks, []string{"vda"})
	})
	ok(t, x.a.DetachDisk(x.ctx, x.vm, data.Target))
	ok(t, x.a.AttachDisk(x.ctx, x.vm, data))
	x.has(t, x.a, "vda", data.Target)
}

// has checks which disks a guest has.
func (x *bench) has(t *testing.T, d hyper.Driver, targets ...string) {
	t.Helper()
	if m, _ := x.see(t, d); !slices.Equal(m.Disks, targets) {
		t.Fatalf("the guest has disks %v, want %v", m.Disks, targets)
	}
}

// testNoPlug: the machine of the first hardware profile has no ports for disks. It has disks from its start on, and they grow.
func testNoPlug(t *testing.T, x *bench) {
	s := x.A.Spec(t, x.vm, 1)
	s.Profile = 1
	more := x.A.Disk(t, x.vm, hyper.Target(1, api.MaxDisks))
	s.Disks = append(s.Disks, more)
	ok(t, x.a.Start(x.ctx, s))
	x.grows(t, x.A, x.a, Guest{})
	x.has(t, x.a, "vda", more.Target)
	is(t, x.a.AttachDisk(x.ctx, x.vm, x.A.Disk(t, x.vm, "vdd")), hyper.ErrNoPlug)
	is(t, x.a.DetachDisk(x.ctx, x.vm, more.Target), hyper.ErrNoPlug)
	ok(t, x.a.GrowDisk(x.ctx, x.vm, more.Target, 2<<20))
	if n := x.A.Size(t, x.vm, more); n != 2<<20 {
		t.Fatalf("the disk has %d bytes, and was to grow to %d", n, 2<<20)
	}
}

// testMigrateDisks: a guest with disks, one of them plugged while it ran, moves with all of them; a target with others is refused.
func testMigrateDisks(profile int) func(t *testing.T, x *bench) {
	return func(t *testing.T, x *bench) {
		more := func(h Host, slots ...int) Host {
			plain := h.Spec
			h.Spec = func(t *testing.T, vm string, epoch uint64) hyper.Spec {
				s := plain(t, vm, epoch)
				s.Profile, s.Disks[1].Target = profile, hyper.SeedTarget(profile)
				for _, slot := range slots {
					s.Disks = append(s.Disks, h.Disk(t, vm, hyper.Target(profile, slot)))
				}
				return s
			}
			return h
		}
		first, last := hyper.Target(profile, 1), hyper.Target(profile, api.MaxDisks)
		source := []int{api.MaxDisks, 1}
		if profile > 1 {
			source = source[:1]
		}
		ok(t, x.a.Start(x.ctx, more(x.A, source...).Spec(t, x.vm, 1)))
		g := x.grows(t, x.A, x.a, Guest{})
		if profile > 1 {
			ok(t, x.a.AttachDisk(x.ctx, x.vm, x.A.Disk(t, x.vm, first)))
		}
		x.has(t, x.a, "vda", first, last)
		offer, err := x.a.MigrateBegin(x.ctx, x.vm)
		ok(t, err)
		if _, err := x.b.MigratePrepare(x.ctx, more(x.B, 1).Spec(t, x.vm, 2), offer); err == nil {
			t.Fatal("a target without one of the disks was prepared")
		}
		g = x.migrate(t, x.a, x.b, more(x.B, 1, api.MaxDisks), 2, g)
		x.has(t, x.b, "vda", first, last)
		x.migrate(t, x.b, x.a, more(x.A, api.MaxDisks, 1), 3, g)
		x.has(t, x.a, "vda", first, last)
	}
}
