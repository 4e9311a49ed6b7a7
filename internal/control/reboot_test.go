package control_test

import (
	"errors"
	"testing"
	"time"

	"widecloud/api"
	"widecloud/internal/hyper"
	"widecloud/internal/hyper/fake"
)

// TestRebootInTheWrongMoment asks for reboots and consoles while a VM has none to give: each is a conflict with its state,
// or a part that is not reached, and never a defect.
func TestRebootInTheWrongMoment(t *testing.T) {
	o := options{sites: []string{"tokyo", "osaka"}, copyTime: time.Second}
	federation(t, o, func(t *testing.T, w *world) {
		tokyo := w.sites["tokyo"]
		tokyo.ready("2001:db8:a::/64")
		w.lend("osaka", "tokyo", api.Resources{CPUs: 4, MemoryMiB: 4096, DiskGiB: 40})
		h := tokyo.hosts["h1"]
		want := func(when string, code api.Code) {
			t.Helper()
			for _, hard := range []bool{false, true} {
				err := tokyo.ctl.Reboot(t.Context(), tokyo.admin, "web1", hard)
				var e *api.Error
				if !errors.As(err, &e) || e.Code != code {
					t.Errorf("%s, reboot (hard: %t): %v (%+v), want %s", when, hard, err, e, code)
				}
			}
		}
		wantConsole := func(when string, code api.Code) {
			t.Helper()
			c, err := tokyo.ctl.Console(t.Context(), tokyo.admin, "web1")
			var e *api.Error
			if !errors.As(err, &e) || e.Code != code {
				t.Errorf("%s, console: %v (%+v), want %s", when, err, e, code)
			}
			if err == nil {
				c.Close()
			}
		}

		// It starts, for long.
		h.machine.Inject(fake.Fault{Method: "Start", Delay: time.Minute})
		tokyo.create(vmOf("web1", "tokyo/h1"))
		want("without a place", api.CodeConflict)
		w.until("it starts", func() bool { return tokyo.vm("web1").Status.Host != "" })
		time.Sleep(5 * time.Second)
		want("starting", api.CodeConflict)
		wantConsole("starting", api.CodeConflict)
		w.until("web1 runs", func() bool { return tokyo.vm("web1").Status.Phase == api.PhaseRunning })
		for _, hard := range []bool{false, true} {
			if err := tokyo.ctl.Reboot(t.Context(), tokyo.admin, "web1", hard); err != nil {
				t.Errorf("running, hard: %t: %v", hard, err)
			}
		}

		h.machine.Inject(fake.Fault{Method: "Reboot", Err: hyper.ErrState, Times: 2})
		want("paused", api.CodeConflict)

		// It migrates.
		j := tokyo.migrate("web1", "osaka")
		w.until("it is copied", func() bool { return tokyo.job(j.Name).Status.Step == "copying" })
		want("while it is copied", api.CodeConflict)
		tokyo.ended(j.Name)
		tokyo.runs("web1")
		tokyo.moved("web1", "tokyo")

		// It has stopped.
		v := tokyo.vm("web1")
		v.Spec.Power = api.PowerOff
		if _, err := tokyo.ctl.Update(t.Context(), tokyo.admin, v); err != nil {
			t.Fatal(err)
		}
		w.until("web1 has stopped", func() bool { return tokyo.vm("web1").Status.Phase == api.PhaseStopped })
		want("stopped", api.CodeConflict)
		wantConsole("stopped", api.CodeConflict)

		// Neither the hypervisor nor the host is reached.
		h.machine.StopDaemon()
		want("the hypervisor's daemon is down", api.CodeUnavailable)
		h.machine.StartDaemon()
		h.kill()
		time.Sleep(10 * time.Second)
		want("the agent is down", api.CodeUnavailable)
		wantConsole("the agent is down", api.CodeUnavailable)
	})
}
