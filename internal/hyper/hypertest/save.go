package hypertest

import (
	"bytes"
	"testing"

	"widecloud/api"
	"widecloud/internal/hyper"
)

// testSave: a guest's memory goes to a file, and comes back from it as a paused domain: of the next epoch, with the disks that it had, one
// of them plugged while it ran. Nothing of it runs before it is resumed, and then it goes on where it was.
func testSave(t *testing.T, x *bench) {
	path := x.A.Memory(t, x.vm)
	is(t, x.a.Save(x.ctx, x.vm, path), hyper.ErrNotFound)
	is(t, x.a.Saved(x.ctx, x.vm, path), hyper.ErrNotFound)
	x.A = withProfile(x.A)
	s := x.A.Spec(t, x.vm, 1)
	s.Disks[1].Target = hyper.SeedTarget(s.Profile)
	data := x.A.Disk(t, x.vm, hyper.Target(s.Profile, 2))
	is(t, x.a.Restore(x.ctx, s, path), hyper.ErrNotFound)
	ok(t, x.a.Start(x.ctx, s))
	g := x.grows(t, x.A, x.a, Guest{})
	ok(t, x.a.AttachDisk(x.ctx, x.vm, data))
	s.Disks = append(s.Disks, data)

	ok(t, x.a.Save(x.ctx, x.vm, path))
	x.none(t, x.a)
	ok(t, x.a.Saved(x.ctx, x.vm, path))
	if err := x.a.Saved(x.ctx, NewVM(), path); err == nil {
		t.Error("the file is taken for another VM's")
	}
	ok(t, x.a.Close())
	x.a = x.A.Connect(t)

	s.Epoch = 2
	for range 2 { // the file stays, and its guest has not run
		ok(t, x.a.Restore(x.ctx, s, path))
		x.state(t, x.a, hyper.Paused)
		if m, _ := x.see(t, x.a); m.Epoch != 2 || m.MemoryMiB != s.MemoryMiB {
			t.Fatalf("the restored domain is %+v", m)
		}
		x.has(t, x.a, "vda", data.Target)
		is(t, x.a.Restore(x.ctx, s, path), hyper.ErrExists)
		ok(t, x.a.Destroy(x.ctx, x.vm))
		x.none(t, x.a)
	}
	ok(t, x.a.Restore(x.ctx, s, path))
	ok(t, x.a.Resume(x.ctx, x.vm))
	x.state(t, x.a, hyper.Running)
	g = x.grows(t, x.A, x.a, g)

	// One that is suspended is saved as well.
	ok(t, x.a.Suspend(x.ctx, x.vm))
	ok(t, x.a.Save(x.ctx, x.vm, path))
	x.none(t, x.a)
	ok(t, x.a.Restore(x.ctx, s, path))
	ok(t, x.a.Resume(x.ctx, x.vm))
	x.grows(t, x.A, x.a, g)
	ok(t, x.a.Destroy(x.ctx, x.vm))
}

// testSaveTorn: a file that is not whole is known, and no domain is made of it; nor of one of another machine.
func testSaveTorn(t *testing.T, x *bench) {
	path := x.A.Memory(t, x.vm)
	s := x.A.Spec(t, x.vm, 1)
	ok(t, x.a.Start(x.ctx, s))
	x.grows(t, x.A, x.a, Guest{})
	ok(t, x.a.Save(x.ctx, x.vm, path))
	other := s
	other.Profile = api.NewestProfile
	if err := x.a.Restore(x.ctx, other, path); err == nil {
		t.Error("a domain of another hardware profile was restored")
	}
	x.none(t, x.a)
	x.A.Tear(t, x.vm)
	is(t, x.a.Saved(x.ctx, x.vm, path), hyper.ErrTorn)
	is(t, x.a.Restore(x.ctx, s, path), hyper.ErrTorn)
	x.none(t, x.a)
}

// testSaveElsewhere: what was saved on one host goes on at the other, behind a head that is made there, of its own spec. One of another
// machine is refused before.
func testSaveElsewhere(t *testing.T, x *bench) {
	x.A, x.B = withProfile(x.A), withProfile(x.B)
	specOf := func(h Host, epoch uint64) hyper.Spec {
		s := h.Spec(t, x.vm, epoch)
		s.Disks[1].Target = hyper.SeedTarget(s.Profile)
		return s
	}
	ok(t, x.a.Start(x.ctx, specOf(x.A, 1)))
	g := x.grows(t, x.A, x.a, Guest{})
	ok(t, x.a.Save(x.ctx, x.vm, x.A.Memory(t, x.vm)))
	content := x.A.ReadMemory(t, x.vm)
	file := bytes.NewReader(content)
	offer, from, err := x.a.ReadSaved(x.ctx, x.vm, file)
	ok(t, err)
	if int64(file.Len()) != int64(len(content))-from {
		t.Fatalf("%d bytes are left of %d, and the head has %d", file.Len(), len(content), from)
	}
	_, _, err = x.a.ReadSaved(x.ctx, x.vm, bytes.NewReader(content[:10]))
	is(t, err, hyper.ErrTorn)

	s, path := specOf(x.B, 2), x.B.Memory(t, x.vm)
	for what, spoil := range map[string]func(s *hyper.Spec){
		"vm": func(s *hyper.Spec) { s.VM = NewVM() }, "profile": func(s *hyper.Spec) { s.Profile = 1 }, "disks": func(s *hyper.Spec) { s.Disks = s.Disks[1:] },
	} {
		other := s
		spoil(&other)
		if _, err := x.b.SavedHead(x.ctx, other, offer); err == nil {
			t.Errorf("a saved domain with another %s was taken in", what)
		}
	}
	head, err := x.b.SavedHead(x.ctx, s, offer)
	ok(t, err)
	x.B.WriteMemory(t, x.vm, append(head, content[from:]...))
	ok(t, x.b.Saved(x.ctx, x.vm, path))
	ok(t, x.b.Restore(x.ctx, s, path))
	x.state(t, x.b, hyper.Paused)
	ok(t, x.b.Resume(x.ctx, x.vm))
	x.state(t, x.b, hyper.Running)
	x.grows(t, x.B, x.b, g)
}
