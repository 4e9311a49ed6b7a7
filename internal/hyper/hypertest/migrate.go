package hypertest

import (
	"context"
	"errors"
	"net"
	"strings"
	"testing"

	"widecloud/internal/hyper"
)

func testMigrate(t *testing.T, x *bench) {
	g := x.start(t, 1)
	x.migrate(t, x.a, x.b, x.B, 2, g)
	c, err := x.b.Console(x.ctx, x.vm)
	ok(t, err)
	defer c.Close()
	echo(t, c, "hello from the other side")
}

func testBackAndForth(t *testing.T, x *bench) {
	g := x.start(t, 1)
	g = x.migrate(t, x.a, x.b, x.B, 2, g)
	g = x.migrate(t, x.b, x.a, x.A, 3, g)
	g = x.migrate(t, x.a, x.b, x.B, 4, g)
	x.migrate(t, x.b, x.a, x.A, 5, g)
}

func testPrepareRefuses(t *testing.T, x *bench) {
	g := x.start(t, 1)
	offer, err := x.a.MigrateBegin(x.ctx, x.vm)
	ok(t, err)
	// A copy that is there is never overwritten.
	_, err = x.a.MigratePrepare(x.ctx, x.A.Spec(t, x.vm, 2), offer)
	is(t, err, hyper.ErrExists)
	// An offer is of one VM.
	s := x.B.Spec(t, NewVM(), 2)
	if _, err = x.b.MigratePrepare(x.ctx, s, offer); err == nil {
		t.Fatal("prepare took the offer of another vm")
	}
	ok(t, x.a.MigrateConfirm(x.ctx, x.vm, false))
	x.none(t, x.b)
	x.failed(t, g)
}

func testAbortBeforeCopy(t *testing.T, x *bench) {
	g := x.start(t, 1)
	x.begin(t, x.a, x.b, x.B, 2)
	is(t, x.b.Resume(x.ctx, x.vm), hyper.ErrState)
	ok(t, x.b.MigrateFinish(x.ctx, x.vm, nil, false))
	x.none(t, x.b)
	ok(t, x.a.MigrateConfirm(x.ctx, x.vm, false))
	x.failed(t, g)
}

func testAbortAfterCopy(t *testing.T, x *bench) {
	g := x.start(t, 1)
	answer := x.begin(t, x.a, x.b, x.B, 2)
	result := x.perform(t, x.a, x.b, answer)
	is(t, x.b.Resume(x.ctx, x.vm), hyper.ErrState)
	ok(t, x.b.MigrateFinish(x.ctx, x.vm, result, false))
	x.none(t, x.b)
	x.state(t, x.a, hyper.Paused)
	ok(t, x.a.MigrateConfirm(x.ctx, x.vm, false))
	ok(t, x.a.MigrateConfirm(x.ctx, x.vm, false))
	x.state(t, x.a, hyper.Running)
	x.failed(t, g)
}

func testCancel(t *testing.T, x *bench) {
	g := x.start(t, 1)
	answer := x.begin(t, x.a, x.b, x.B, 2)
	r, ch := x.performHeld(t, x.ctx, x.a, x.b, answer, hyper.Memory)
	if m, _ := x.see(t, x.a); !m.Migrating {
		t.Error("domain is not shown as migrating")
	}
	p, err := x.a.MigrateProgress(x.ctx, x.vm)
	ok(t, err)
	if p.MemoryTotal <= 0 {
		t.Errorf("progress is %+v", p)
	}
	ok(t, x.a.MigrateCancel(x.ctx, x.vm))
	is(t, wait(t, "perform returns", ch).err, hyper.ErrCancelled)
	x.state(t, x.a, hyper.Running)
	r.Close()
	x.failed(t, g)
}

func testContextEnds(t *testing.T, x *bench) {
	g := x.start(t, 1)
	answer := x.begin(t, x.a, x.b, x.B, 2)
	ctx, cancel := context.WithCancel(x.ctx)
	defer cancel()
	_, ch := x.performHeld(t, ctx, x.a, x.b, answer, hyper.Storage)
	cancel()
	is(t, wait(t, "perform returns", ch).err, hyper.ErrCancelled)
	x.state(t, x.a, hyper.Running)
	x.failed(t, g)
}

func testStreamCut(t *testing.T, x *bench) {
	g := x.start(t, 1)
	for _, c := range []hyper.Channel{hyper.Memory, hyper.Storage} {
		answer := x.begin(t, x.a, x.b, x.B, 2)
		r, ch := x.performHeld(t, x.ctx, x.a, x.b, answer, c)
		r.Cut()
		r.Release()
		err := wait(t, "perform returns", ch).err
		if err == nil || errors.Is(err, hyper.ErrCancelled) || errors.Is(err, hyper.ErrParted) {
			t.Fatalf("error is %v", err)
		}
		x.state(t, x.a, hyper.Running)
		g = x.grows(t, x.A, x.a, g)
		ok(t, x.b.MigrateFinish(x.ctx, x.vm, nil, false))
		x.gone(t, x.b)
	}
	x.failed(t, g)
}

func testDialFails(t *testing.T, x *bench) {
	g := x.start(t, 1)
	answer := x.begin(t, x.a, x.b, x.B, 2)
	broken := errors.New("no way to the target")
	_, err := x.a.MigratePerform(x.ctx, x.vm, hyper.Outgoing{Answer: answer, Dial: func(context.Context, hyper.Channel) (net.Conn, error) {
		return nil, broken
	}})
	is(t, err, broken)
	x.state(t, x.a, hyper.Running)
	x.failed(t, g)
}

func testTargetDiesInCopy(t *testing.T, x *bench) {
	g := x.start(t, 1)
	answer := x.begin(t, x.a, x.b, x.B, 2)
	r, ch := x.performHeld(t, x.ctx, x.a, x.b, answer, hyper.Memory)
	ok(t, x.b.Close())
	x.b = x.B.Connect(t)
	x.gone(t, x.b)
	r.Release()
	if d := wait(t, "perform returns", ch); d.err == nil {
		t.Fatal("perform says nothing of the target's death")
	}
	x.state(t, x.a, hyper.Running)
	x.failed(t, g)
}

func testTargetDiesBeforeFinish(t *testing.T, x *bench) {
	g := x.start(t, 1)
	answer := x.begin(t, x.a, x.b, x.B, 2)
	result := x.perform(t, x.a, x.b, answer)
	ok(t, x.b.Close())
	x.b = x.B.Connect(t)
	x.gone(t, x.b)
	is(t, x.b.MigrateFinish(x.ctx, x.vm, result, true), hyper.ErrNotFound)
	x.none(t, x.b)
	ok(t, x.a.MigrateConfirm(x.ctx, x.vm, false))
	x.failed(t, g)
}

func testSourceDiesInCopy(t *testing.T, x *bench) {
	g := x.start(t, 1)
	answer := x.begin(t, x.a, x.b, x.B, 2)
	r, ch := x.performHeld(t, x.ctx, x.a, x.b, answer, hyper.Memory)
	ok(t, x.a.Close())
	if d := wait(t, "perform returns", ch); d.err == nil {
		t.Fatal("perform of a closed driver returned nil")
	}
	r.Close()
	x.a = x.A.Connect(t)
	eventually(t, "source runs", func() bool {
		m, there := x.see(t, x.a)
		return there && m.State == hyper.Running && !m.Migrating
	})
	x.failed(t, g)
}

func testSourceDiesBeforeConfirm(t *testing.T, x *bench) {
	g := x.start(t, 1)
	// Once the decision was to abort, once to commit; a new agent carries both out.
	answer := x.begin(t, x.a, x.b, x.B, 2)
	x.perform(t, x.a, x.b, answer)
	ok(t, x.a.Close())
	x.a = x.A.Connect(t)
	x.state(t, x.a, hyper.Paused)
	ok(t, x.b.MigrateFinish(x.ctx, x.vm, nil, false))
	ok(t, x.a.Resume(x.ctx, x.vm))
	x.state(t, x.a, hyper.Running)
	g = x.grows(t, x.A, x.a, g)

	answer = x.begin(t, x.a, x.b, x.B, 3)
	result := x.perform(t, x.a, x.b, answer)
	ok(t, x.a.Close())
	x.a = x.A.Connect(t)
	ok(t, x.b.MigrateFinish(x.ctx, x.vm, result, true))
	x.state(t, x.a, hyper.Paused)
	ok(t, x.a.MigrateConfirm(x.ctx, x.vm, true))
	x.none(t, x.a)
	g = x.grows(t, x.B, x.b, g)
	x.migrate(t, x.b, x.a, x.A, 4, g)
}

func testRetries(t *testing.T, x *bench) {
	g := x.start(t, 1)
	is(t, x.a.MigrateFinish(x.ctx, x.vm, nil, false), hyper.ErrState)
	is(t, x.a.MigrateConfirm(x.ctx, x.vm, true), hyper.ErrState)
	answer := x.begin(t, x.a, x.b, x.B, 2)
	result := x.perform(t, x.a, x.b, answer)
	is(t, x.a.MigrateFinish(x.ctx, x.vm, result, true), hyper.ErrState)
	for range 2 {
		ok(t, x.b.MigrateFinish(x.ctx, x.vm, result, true))
	}
	// After the commit nothing at the target undoes it, not even the death of its agent.
	is(t, x.b.MigrateFinish(x.ctx, x.vm, result, false), hyper.ErrState)
	ok(t, x.b.Close())
	x.b = x.B.Connect(t)
	x.state(t, x.b, hyper.Running)
	ok(t, x.b.MigrateFinish(x.ctx, x.vm, result, true))
	for range 2 {
		ok(t, x.a.MigrateConfirm(x.ctx, x.vm, true))
	}
	x.grows(t, x.B, x.b, g)
	is(t, x.b.MigrateConfirm(x.ctx, x.vm, true), hyper.ErrState)
	x.state(t, x.b, hyper.Running)
}

func testDiskFull(t *testing.T, x *bench) {
	g := x.start(t, 1)
	t.Run("full", func(t *testing.T) {
		offer, err := x.a.MigrateBegin(x.ctx, x.vm)
		ok(t, err)
		s := x.B.Spec(t, x.vm, 2)
		answer, err := x.b.MigratePrepare(x.ctx, s, offer)
		ok(t, err)
		x.B.Fill(t, s)
		r := NewRelay(x.b, x.vm, nil)
		defer r.Close()
		_, err = x.a.MigratePerform(x.ctx, x.vm, hyper.Outgoing{Answer: answer, Dial: r.Dial})
		is(t, err, hyper.ErrNoSpace)
		if !strings.Contains(err.Error(), s.Disks[0].Path) {
			t.Errorf("error %q does not name %s", err, s.Disks[0].Path)
		}
		x.state(t, x.a, hyper.Running)
		g = x.grows(t, x.A, x.a, g)
		ok(t, x.b.MigrateFinish(x.ctx, x.vm, nil, false))
		x.gone(t, x.b)
	})
	x.failed(t, g)
}
