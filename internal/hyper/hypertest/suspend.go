package hypertest

import (
	"testing"

	"widecloud/internal/hyper"
)

// testSuspend: a guest that is suspended stands still until it is resumed, and does nothing else meanwhile. It is told from one that a
// migration has paused, and the end of its agent changes nothing.
func testSuspend(t *testing.T, x *bench) {
	is(t, x.a.Suspend(x.ctx, x.vm), hyper.ErrNotFound)
	events, err := x.a.Watch(x.ctx)
	ok(t, err)
	next := func(want hyper.State) {
		t.Helper()
		for {
			if e := wait(t, "event "+string(want), events); e.VM == x.vm {
				if e.State != want {
					t.Fatalf("event says %s, want %s", e.State, want)
				}
				return
			}
		}
	}
	g := x.start(t, 1)
	next(hyper.Running)
	for range 2 {
		ok(t, x.a.Suspend(x.ctx, x.vm))
		x.state(t, x.a, hyper.Suspended)
	}
	next(hyper.Suspended)
	is(t, x.a.Shutdown(x.ctx, x.vm), hyper.ErrState)
	is(t, x.a.Reboot(x.ctx, x.vm, true), hyper.ErrState)
	is(t, x.a.GrowDisk(x.ctx, x.vm, "vda", 1<<30), hyper.ErrState)
	_, err = x.a.MigrateBegin(x.ctx, x.vm)
	is(t, err, hyper.ErrState)
	is(t, x.a.MigrateConfirm(x.ctx, x.vm, true), hyper.ErrState)
	x.state(t, x.a, hyper.Suspended)

	ok(t, x.a.Resume(x.ctx, x.vm))
	next(hyper.Running)
	x.state(t, x.a, hyper.Running)
	g = x.grows(t, x.A, x.a, g)

	// A restarted agent finds it, suspended. It moves when it runs again, and is destroyed when it does not.
	ok(t, x.a.Suspend(x.ctx, x.vm))
	ok(t, x.a.Close())
	x.a = x.A.Connect(t)
	x.state(t, x.a, hyper.Suspended)
	ok(t, x.a.Resume(x.ctx, x.vm))
	g = x.grows(t, x.A, x.a, g)
	x.migrate(t, x.a, x.b, x.B, 2, g)
	ok(t, x.b.Suspend(x.ctx, x.vm))
	ok(t, x.b.Destroy(x.ctx, x.vm))
	x.none(t, x.b)
}
