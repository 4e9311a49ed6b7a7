package control_test

import (
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"widecloud/api"
	"widecloud/internal/hyper"
)

// TestSuspend: a VM stands still with what is in its memory, whoever restarts around it, and goes on with it; at home and at a lender.
func TestSuspend(t *testing.T) {
	for _, place := range []string{"tokyo", "osaka"} {
		t.Run(place, func(t *testing.T) {
			federation(t, options{sites: []string{"tokyo", "osaka"}, hosts: 2}, func(t *testing.T, w *world) {
				tokyo := w.sites["tokyo"]
				w.lend("osaka", "tokyo", room())
				tokyo.ready("2001:db8:a::/64")
				tokyo.newVM("web1", place+"/h1")
				tokyo.settled("web1")
				end := tokyo.follow("web1")
				tokyo.setPower("web1", api.PowerSuspended)
				tokyo.phase("web1", api.PhaseSuspended)
				h, was := tokyo.guest("web1")
				if was.State != hyper.Suspended {
					t.Fatalf("its domain is %s", was.State)
				}
				for what, restart := range map[string]func(){
					"agent":      h.start,
					"controller": tokyo.start,
					"lender":     w.sites["osaka"].start,
					"hypervisor": func() { h.machine.StopDaemon(); time.Sleep(5 * time.Second); h.machine.StartDaemon() },
				} {
					restart()
					time.Sleep(20 * time.Second) // of the bubble: all that would wake it has the time
					w.connected()
					if _, now := tokyo.guest("web1"); now.State != hyper.Suspended || now.Counter != was.Counter || now.Boot != was.Boot {
						t.Fatalf("after a restart of its %s it is %+v, was %+v", what, now, was)
					}
					tokyo.phase("web1", api.PhaseSuspended)
				}
				if on := w.fake.Running(tokyo.vm("web1").UID); len(on) > 0 {
					t.Errorf("it runs on %v", on)
				}

				_, reasons, err := tokyo.ctl.Migrate(t.Context(), tokyo.admin, "web1", place+"/h2", true)
				w.must(err)
				if !slices.ContainsFunc(reasons, func(r api.Reason) bool { return r.Code == "power" && r.Advice != "" }) {
					t.Errorf("against its move are %+v", reasons)
				}
				_, _, err = tokyo.ctl.Migrate(t.Context(), tokyo.admin, "web1", place+"/h2", false)
				wantError(t, "a move while it is suspended", err, api.CodeConflict)
				wantError(t, "a reboot while it is suspended", tokyo.ctl.Reboot(t.Context(), tokyo.admin, "web1", true), api.CodeConflict)
				w.must(tokyo.change("web1", disksOf("data")))
				time.Sleep(20 * time.Second)
				if d := cmp.Diff([]api.Pending{{Field: "disks.data", Wanted: "2GiB", Waits: "until it is resumed"}}, tokyo.vm("web1").Status.Pending); d != "" {
					t.Errorf("pending (-want +got):\n%s", d)
				}

				tokyo.setPower("web1", api.PowerOn)
				tokyo.settled("web1")
				if _, now := tokyo.guest("web1"); now.Boot != was.Boot || now.Counter <= was.Counter {
					t.Errorf("it goes on as %+v, was %+v", now, was)
				}
				if got := end(); place == "tokyo" { // the watch at a home that was restarted has ended
					got = slices.DeleteFunc(got, func(p api.VMPhase) bool { return p == api.PhaseUnknown })
					if d := cmp.Diff([]api.VMPhase{api.PhaseRunning, api.PhaseSuspended}, slices.Compact(got)[:2]); d != "" {
						t.Errorf("phases (-want +got):\n%s", d)
					}
				}
				if d := cmp.Diff([]string{"vm.suspend vms/web1 admin", "vm.suspended vms/web1 "}, tokyo.events(tokyo.admin, "vm.suspend")[:2], cmp.Transformer("kind", func(s string) string { return s[:14] })); d != "" {
					t.Errorf("events (-want +got):\n%s", d)
				}
			})
		})
	}
}

// TestSuspendedEnds: a suspended VM is stopped, at once or in good order, and deleted. When its memory is lost, it is stopped and not
// booted anew.
func TestSuspendedEnds(t *testing.T) {
	federation(t, options{sites: []string{"tokyo", "osaka"}}, func(t *testing.T, w *world) {
		tokyo := w.sites["tokyo"]
		w.lend("osaka", "tokyo", room())
		tokyo.ready("2001:db8:a::/64")
		for _, place := range []string{"tokyo", "osaka"} {
			tokyo.newVM("web1", place)
			suspend := func() {
				tokyo.setPower("web1", api.PowerSuspended)
				tokyo.phase("web1", api.PhaseSuspended)
			}
			for _, p := range []api.Power{api.PowerOff, api.PowerOffHard} {
				suspend()
				tokyo.setPower("web1", p)
				tokyo.runs("web1") // as one that is stopped
				wantError(t, "a suspension of a stopped VM", tokyo.change("web1", suspended), api.CodeConflict)
				tokyo.setPower("web1", api.PowerOn)
				tokyo.runs("web1")
			}

			suspend()
			h, was := tokyo.guest("web1")
			h.machine.PowerOff()
			time.Sleep(10 * time.Second)
			h.machine.PowerOn()
			h.start()
			tokyo.phase("web1", api.PhaseStopped)
			time.Sleep(20 * time.Second)
			if v := tokyo.vm("web1"); v.Status.Phase != api.PhaseStopped || v.Status.Message == "" || len(h.machine.VMs()) > 0 {
				t.Errorf("its host has lost its memory, and it is %s (%s), domains %v", v.Status.Phase, v.Status.Message, h.machine.VMs())
			}
			tokyo.setPower("web1", api.PowerOn)
			tokyo.runs("web1")
			if _, now := tokyo.guest("web1"); now.Boot == was.Boot {
				t.Error("it was not booted anew, and it was to be")
			}
			if m := tokyo.vm("web1").Status.Message; m != "" {
				t.Errorf("it still says %q", m)
			}

			suspend()
			_, err := tokyo.ctl.Delete(t.Context(), tokyo.admin, api.KindVM, "web1")
			w.must(err)
			tokyo.gone("web1")
		}
	})
}

func suspended(s *api.VMSpec) { s.Power = api.PowerSuspended }

// TestSuspendRefused: a VM that does not run is not suspended, and none where the release knows nothing of it.
func TestSuspendRefused(t *testing.T) {
	federation(t, options{sites: []string{"tokyo", "osaka"}, older: "osaka"}, func(t *testing.T, w *world) {
		tokyo := w.sites["tokyo"]
		w.lend("osaka", "tokyo", room())
		tokyo.ready("2001:db8:a::/64")
		v := vmOf("web1", "tokyo")
		v.Spec.Power = api.PowerSuspended
		_, err := tokyo.ctl.Create(t.Context(), tokyo.admin, v)
		wantError(t, "a VM that is suspended from the start", err, api.CodeInvalid)
		tokyo.newVM("web2", "osaka")
		wantError(t, "a suspension at an older lender", tokyo.change("web2", suspended), api.CodeRefused)
		tokyo.runs("web2")
	})
	federation(t, options{sites: []string{"tokyo"}, older: "tokyo"}, func(t *testing.T, w *world) {
		tokyo := w.sites["tokyo"]
		tokyo.ready("2001:db8:a::/64")
		tokyo.newVM("web1", "tokyo")
		wantError(t, "a suspension by an older agent", tokyo.change("web1", suspended), api.CodeRefused)
		tokyo.runs("web1")
	})
}

// TestSuspendedLeaves: a lender that wants its room back does not get it by a move of a suspended VM, and when the grace is over it is
// stopped there as others are.
func TestSuspendedLeaves(t *testing.T) {
	federation(t, options{sites: []string{"tokyo", "osaka"}}, func(t *testing.T, w *world) {
		tokyo, osaka := w.sites["tokyo"], w.sites["osaka"]
		loan := w.lend("osaka", "tokyo", room())
		tokyo.ready("2001:db8:a::/64")
		tokyo.newVM("web1", "osaka")
		tokyo.setPower("web1", api.PowerSuspended)
		tokyo.phase("web1", api.PhaseSuspended)
		_, err := osaka.ctl.Reclaim(t.Context(), osaka.admin, loan.Name)
		w.must(err)
		tokyo.phase("web1", api.PhaseStopped)
		if v := tokyo.vm("web1"); v.Status.Site != "osaka" || len(osaka.hosts["h1"].machine.VMs()) > 0 {
			t.Errorf("it is at %s, and osaka has %v", v.Status.Site, osaka.hosts["h1"].machine.VMs())
		}
	})
}
