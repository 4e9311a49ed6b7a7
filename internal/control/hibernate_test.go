package control_test

import (
	"errors"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"widecloud/api"
	"widecloud/internal/hyper"
	"widecloud/internal/hyper/fake"
)

// asleep waits until a VM is hibernated: no domain, its memory in a file, and nothing else of it anywhere.
func (s *site) asleep(name string) {
	s.w.t.Helper()
	s.phase(name, api.PhaseHibernated)
	v := s.vm(name)
	h := s.w.sites[v.Status.Site].hosts[v.Status.Host]
	if slices.Contains(h.machine.VMs(), v.UID) || h.machine.Memory(v.UID) == "" {
		s.w.t.Errorf("%s is hibernated, with domains %v and its memory at %q", name, h.machine.VMs(), h.machine.Memory(v.UID))
	}
}

// goesOn waits until a VM runs, and looks whether its guest is the one of before, and its file is gone.
func (s *site) goesOn(name string, was fake.Guest) {
	s.w.t.Helper()
	s.runs(name)
	h, now := s.guest(name)
	if now.Boot != was.Boot || now.Counter <= was.Counter {
		s.w.t.Errorf("%s goes on as %+v, was %+v", name, now, was)
	}
	if path := h.machine.Memory(s.vm(name).UID); path != "" {
		s.w.t.Errorf("%s runs, and its saved memory is still at %s", name, path)
	}
}

// TestHibernate: the memory of a VM is saved, and its host's, or the loan's, is another one's. It goes on from it, whoever was restarted
// meanwhile, if there is room.
func TestHibernate(t *testing.T) {
	for _, place := range []string{"tokyo", "osaka"} {
		t.Run(place, func(t *testing.T) {
			little := api.Resources{CPUs: 3, MemoryMiB: 400, DiskGiB: 20}
			federation(t, options{sites: []string{"tokyo", "osaka"}, capacity: little}, func(t *testing.T, w *world) {
				tokyo := w.sites["tokyo"]
				loan := w.lend("osaka", "tokyo", little)
				tokyo.ready("2001:db8:a::/64")
				create := func(name string) {
					v := vmOf(name, place)
					v.Spec.CPUs, v.Spec.MemoryMiB = 2, 256
					tokyo.create(v)
				}
				create("web1")
				tokyo.runs("web1")
				h, was := tokyo.guest("web1")
				end := tokyo.follow("web1")
				tokyo.setPower("web1", api.PowerHibernated)
				tokyo.asleep("web1")
				got := end()
				if d := cmp.Diff([]api.VMPhase{api.PhaseRunning, api.PhaseHibernated}, slices.DeleteFunc(got, func(p api.VMPhase) bool { return p == api.PhaseHibernating })); d != "" {
					t.Errorf("phases (-want +got):\n%s", d)
				}
				for what, restart := range map[string]func(){
					"agent":      h.start,
					"controller": tokyo.start,
					"lender":     w.sites["osaka"].start,
					"hypervisor": func() { h.machine.StopDaemon(); time.Sleep(5 * time.Second); h.machine.StartDaemon() },
					"host":       func() { h.machine.PowerOff(); time.Sleep(5 * time.Second); h.machine.PowerOn(); h.start() },
				} {
					restart()
					time.Sleep(20 * time.Second)
					w.connected()
					if tokyo.asleep("web1"); t.Failed() {
						t.Fatalf("after a restart of its %s", what)
					}
				}

				create("web2") // there is no room for both
				tokyo.runs("web2")
				err := tokyo.change("web1", func(s *api.VMSpec) { s.Power = api.PowerOn })
				var e *api.Error
				if !errors.As(err, &e) || e.Code != api.CodeRefused || e.Field != "spec.power" || len(e.Reasons) == 0 {
					t.Errorf("a start without room: %v", err)
				}
				tokyo.asleep("web1")
				_, err = tokyo.ctl.Delete(t.Context(), tokyo.admin, api.KindVM, "web2")
				w.must(err)
				tokyo.gone("web2")

				w.until("there is room", func() bool {
					return tokyo.change("web1", func(s *api.VMSpec) { s.Power = api.PowerOn }) == nil
				})
				tokyo.goesOn("web1", was)
				if place == "osaka" {
					w.until("both ledgers agree", func() bool {
						mine, theirs := tokyo.loan(loan.Name).Status.Used, w.sites["osaka"].loan(loan.Name).Status.Used
						return mine == theirs && mine.MemoryMiB == 256 && mine.CPUs == 2
					})
				}
			})
		})
	}
}

// TestHibernatedStays: what a hibernated VM does not take is refused or waits, and it is ended in all ways.
func TestHibernatedStays(t *testing.T) {
	federation(t, options{sites: []string{"tokyo", "osaka"}, hosts: 2}, func(t *testing.T, w *world) {
		tokyo := w.sites["tokyo"]
		w.lend("osaka", "tokyo", room())
		tokyo.ready("2001:db8:a::/64")
		v := vmOf("web1", "tokyo/h1")
		disksOf("old")(&v.Spec)
		tokyo.create(v)
		tokyo.settled("web1")
		h, was := tokyo.guest("web1")
		uid := tokyo.vm("web1").UID
		tokyo.setPower("web1", api.PowerSuspended)
		tokyo.phase("web1", api.PhaseSuspended)
		tokyo.setPower("web1", api.PowerHibernated)
		tokyo.asleep("web1")

		wantError(t, "a suspension", tokyo.change("web1", func(s *api.VMSpec) { s.Power = api.PowerSuspended }), api.CodeConflict)
		wantError(t, "an ACPI stop", tokyo.change("web1", func(s *api.VMSpec) { s.Power = api.PowerOff }), api.CodeConflict)
		wantError(t, "a reboot", tokyo.ctl.Reboot(t.Context(), tokyo.admin, "web1", true), api.CodeConflict)

		_, err := tokyo.ctl.Create(t.Context(), tokyo.admin, imageOf("golden", "web1", ""))
		wantError(t, "an image of its disk", err, api.CodeConflict)

		// Its disks are as they were until it goes on.
		w.must(tokyo.change("web1", func(s *api.VMSpec) { disksOf("new")(s); s.DiskGiB = 5 }))
		w.must(tokyo.resize("web1", 2, 512))
		time.Sleep(30 * time.Second)
		tokyo.asleep("web1")
		var waits []string
		for _, p := range tokyo.vm("web1").Status.Pending {
			waits = append(waits, p.Field+" "+p.Waits)
		}
		if d := cmp.Diff([]string{"cpus for its next start", "memory_mib for its next start", "disk_gib until it is resumed", "disks.old until it is resumed", "disks.new until it is resumed"}, waits); d != "" {
			t.Errorf("pending (-want +got):\n%s", d)
		}
		tokyo.setPower("web1", api.PowerOn)
		tokyo.goesOn("web1", was)
		w.until("its disks are as wished", func() bool { return len(tokyo.vm("web1").Status.Pending) == 2 })
		if _, now := tokyo.guest("web1"); now.Spec.CPUs != 1 || now.Boot != was.Boot {
			t.Errorf("it has %d CPUs, boot %s", now.Spec.CPUs, now.Boot)
		}

		// Its memory is given up, and it boots anew.
		tokyo.setPower("web1", api.PowerHibernated)
		tokyo.asleep("web1")
		tokyo.setPower("web1", api.PowerOffHard)
		tokyo.runs("web1")
		if path := h.machine.Memory(uid); path != "" {
			t.Errorf("its memory is still at %s", path)
		}
		tokyo.setPower("web1", api.PowerOn)
		tokyo.runs("web1")
		if _, now := tokyo.guest("web1"); now.Boot == was.Boot || now.Spec.CPUs != 2 {
			t.Errorf("it was to boot anew with 2 CPUs: %+v", now)
		}

		tokyo.setPower("web1", api.PowerHibernated)
		tokyo.asleep("web1")
		_, err = tokyo.ctl.Delete(t.Context(), tokyo.admin, api.KindVM, "web1")
		w.must(err)
		tokyo.gone("web1")
		if path := h.machine.Memory(uid); path != "" {
			t.Errorf("it is deleted, and its memory is still at %s", path)
		}
	})
}

// TestMemoryUnusable: a VM whose saved memory cannot be used is not booted instead. The error says what to do, and that does it; what was
// only for a while is over by itself.
func TestMemoryUnusable(t *testing.T) {
	federation(t, options{sites: []string{"tokyo"}}, func(t *testing.T, w *world) {
		tokyo := w.sites["tokyo"]
		tokyo.ready("2001:db8:a::/64")
		tokyo.newVM("web1", "tokyo")
		uid := tokyo.vm("web1").UID
		for what, spoil := range map[string]func(h *host){
			"the file is gone":          func(h *host) { h.machine.RemoveMemory(uid) },
			"half of the file is there": func(h *host) { h.machine.Tear(uid) },
			"a disk has been changed":   func(h *host) { h.machine.WriteDisk(h.disks.path(uid), h.machine.Written(h.disks.path(uid))+1) },
		} {
			tokyo.runs("web1")
			h, was := tokyo.guest("web1")
			tokyo.setPower("web1", api.PowerHibernated)
			tokyo.asleep("web1")
			spoil(h)
			tokyo.setPower("web1", api.PowerOn)
			tokyo.phase("web1", api.PhaseFailed)
			time.Sleep(30 * time.Second)
			if v := tokyo.vm("web1"); v.Status.Phase != api.PhaseFailed || !strings.Contains(v.Status.Message, "wcc vm start --discard-memory web1") || len(h.machine.VMs()) > 0 {
				t.Errorf("%s: it is %s (%s), domains %v", what, v.Status.Phase, v.Status.Message, h.machine.VMs())
			}
			tokyo.setPower("web1", api.PowerOffHard)
			tokyo.phase("web1", api.PhaseStopped)
			tokyo.setPower("web1", api.PowerOn)
			tokyo.runs("web1")
			if _, now := tokyo.guest("web1"); now.Boot == was.Boot {
				t.Errorf("%s: it goes on as %s", what, now.Boot)
			}
		}
		_, was := tokyo.guest("web1")
		h := tokyo.hosts["h1"]
		tokyo.setPower("web1", api.PowerHibernated)
		tokyo.asleep("web1")
		h.machine.Inject(fake.Fault{Method: "Restore", Times: 3, Err: errors.New("the hypervisor has no such machine")})
		h.machine.Inject(fake.Fault{Method: "Resume", Times: 2, Err: hyper.ErrUnreachable})
		tokyo.setPower("web1", api.PowerOn)
		tokyo.phase("web1", api.PhaseFailed)
		tokyo.goesOn("web1", was)
	})
}

// TestHibernateFaults: a save that comes to nothing leaves the guest running, and is tried again; one whose answer is lost is found.
func TestHibernateFaults(t *testing.T) {
	federation(t, options{sites: []string{"tokyo"}}, func(t *testing.T, w *world) {
		tokyo := w.sites["tokyo"]
		tokyo.ready("2001:db8:a::/64")
		tokyo.newVM("web1", "tokyo")
		tokyo.runs("web1")
		h, was := tokyo.guest("web1")

		h.machine.SetFree(0)
		tokyo.setPower("web1", api.PowerHibernated)
		w.until("it says why not", func() bool { return strings.Contains(tokyo.vm("web1").Status.Message, "save its memory") })
		if _, now := tokyo.guest("web1"); now.State != hyper.Running || tokyo.vm("web1").Status.Phase != api.PhaseHibernating {
			t.Errorf("it is %s, its guest %s", tokyo.vm("web1").Status.Phase, now.State)
		}
		tokyo.setPower("web1", api.PowerOn) // its user thinks better of it
		tokyo.goesOn("web1", was)
		_, was = tokyo.guest("web1")
		tokyo.setPower("web1", api.PowerHibernated)
		w.until("it says why not", func() bool { return strings.Contains(tokyo.vm("web1").Status.Message, "save its memory") })
		h.machine.SetFree(-1)
		tokyo.asleep("web1")
		tokyo.setPower("web1", api.PowerOn)
		tokyo.goesOn("web1", was)

		for _, f := range []fake.Fault{
			{Method: "Save", Err: hyper.ErrUnreachable, After: true}, {Method: "Save", Delay: 90 * time.Second}, {Method: "Saved", Err: hyper.ErrUnreachable},
			{Method: "Restore", Err: hyper.ErrUnreachable, After: true}, {Method: "Restore", Delay: 90 * time.Second}, {Method: "Resume", Err: hyper.ErrUnreachable},
		} {
			_, was = tokyo.guest("web1")
			h.machine.Inject(f)
			tokyo.setPower("web1", api.PowerHibernated)
			tokyo.asleep("web1")
			tokyo.setPower("web1", api.PowerOn)
			tokyo.goesOn("web1", was)
			if t.Failed() {
				t.Fatalf("with %+v", f)
			}
		}
	})
}

// TestHibernateKilled kills, with -9, the agent of a VM that is hibernated and started at each of its steps, and with another turn cuts the
// host's power there. The VM is hibernated, and goes on; what was in its memory is lost only with the host's, as that of any VM.
func TestHibernateKilled(t *testing.T) {
	const (
		kept = iota // its memory
		lost
	)
	for _, c := range []struct {
		point string
		cut   int // when the host's power is cut
	}{
		{"hibernate.begun", lost}, {"hibernate.written", kept}, {"hibernate.kept", kept}, {"hibernate.recorded", kept},
		{"resume.restored", kept}, {"memory.forgotten", lost}, {"resume.forgotten", lost},
	} {
		for _, cut := range []bool{false, true} {
			t.Run(map[bool]string{false: "agent", true: "host"}[cut]+"/"+c.point, func(t *testing.T) {
				t.Parallel()
				federation(t, options{sites: []string{"tokyo", "osaka"}}, func(t *testing.T, w *world) {
					tokyo := w.sites["tokyo"]
					w.lend("osaka", "tokyo", room())
					tokyo.ready("2001:db8:a::/64")
					for _, place := range []string{"tokyo", "osaka"} {
						name := "web-" + place
						tokyo.newVM(name, place)
						tokyo.runs(name)
						h, was := tokyo.guest(name)
						var struck atomic.Bool
						w.at(h.node(), c.point, func() {
							struck.Store(true)
							if h.die(); cut {
								h.machine.PowerOff()
							}
						})
						restart := func() {
							w.until(c.point+" is reached", struck.Load)
							time.Sleep(10 * time.Second)
							if cut {
								h.machine.PowerOn()
							}
							w.restartDead()
						}
						begins := strings.HasPrefix(c.point, "hibernate.")
						tokyo.setPower(name, api.PowerHibernated)
						if begins {
							restart()
						}
						if begins && cut && c.cut == lost {
							tokyo.phase(name, api.PhaseStopped)
							if v := tokyo.vm(name); v.Status.Message == "" || len(h.machine.VMs()) > 0 {
								t.Errorf("its memory is lost: %s (%s), domains %v", v.Status.Phase, v.Status.Message, h.machine.VMs())
							}
							tokyo.setPower(name, api.PowerOn)
							tokyo.runs(name)
							continue
						}
						tokyo.asleep(name)
						tokyo.setPower(name, api.PowerOn)
						if !begins {
							restart()
						}
						if cut && c.cut == lost {
							tokyo.runs(name)
							if path := h.machine.Memory(tokyo.vm(name).UID); path != "" {
								t.Errorf("its memory is still at %s", path)
							}
							continue
						}
						tokyo.goesOn(name, was)
					}
				})
			})
		}
	}
}

// TestHibernatedMoves moves a hibernated VM in every direction: its memory goes with its disks, and it goes on from it there, as the machine
// that it was, whatever is pending. A wish to start it meanwhile is refused, since its room is not kept.
func TestHibernatedMoves(t *testing.T) {
	federation(t, options{sites: []string{"tokyo", "osaka", "kyoto"}, hosts: 2, copyTime: time.Millisecond}, func(t *testing.T, w *world) {
		tokyo := w.sites["tokyo"]
		loans := map[string]*api.Loan{"osaka": w.lend("osaka", "tokyo", room()), "kyoto": w.lend("kyoto", "tokyo", room())}
		tokyo.ready("2001:db8:a::/64")
		v := vmOf("web1", "tokyo/h1")
		disksOf("data")(&v.Spec)
		tokyo.create(v)
		tokyo.settled("web1")
		_, first := tokyo.guest("web1")
		for i, place := range []string{"osaka/h1", "osaka/h2", "kyoto/h1", "tokyo/h2", "tokyo/h1"} {
			_, was := tokyo.guest("web1")
			tokyo.rests("web1", api.PowerHibernated)
			if i == 0 {
				w.must(tokyo.resize("web1", 2, 512))
			}
			w.at("tokyo", "coordinator.copying", func() {
				v := tokyo.vm("web1")
				v.Spec.Power, v.Revision = api.PowerOn, 0
				_, err := tokyo.ctl.Update(t.Context(), tokyo.admin, v)
				wantError(t, "a start while it moves", err, api.CodeConflict)
			})
			tokyo.moved("web1", place)
			if site, _, _ := strings.Cut(place, "/"); loans[site] != nil {
				w.until("both ledgers agree that it takes no memory", func() bool {
					mine, theirs := tokyo.loan(loans[site].Name).Status.Used, w.sites[site].loan(loans[site].Name).Status.Used
					return mine == theirs && mine.MemoryMiB == 0 && mine.DiskGiB > 0
				})
			}
			tokyo.setPower("web1", api.PowerOn)
			tokyo.goesOn("web1", was)
			if _, now := tokyo.guest("web1"); now.Boot != first.Boot || now.Spec.CPUs != 1 || len(now.Spec.Disks) != 3 {
				t.Errorf("at %s it is %+v", place, now)
			}
		}
	})
}

// TestHibernateRefused: none where the release knows nothing of it.
func TestHibernateRefused(t *testing.T) {
	hibernated := func(s *api.VMSpec) { s.Power = api.PowerHibernated }
	federation(t, options{sites: []string{"tokyo", "osaka"}, older: "osaka"}, func(t *testing.T, w *world) {
		tokyo := w.sites["tokyo"]
		w.lend("osaka", "tokyo", room())
		tokyo.ready("2001:db8:a::/64")
		tokyo.newVM("web1", "osaka")
		wantError(t, "at an older lender", tokyo.change("web1", hibernated), api.CodeRefused)
		tokyo.runs("web1")
	})
	federation(t, options{sites: []string{"tokyo"}, older: "tokyo"}, func(t *testing.T, w *world) {
		tokyo := w.sites["tokyo"]
		tokyo.ready("2001:db8:a::/64")
		tokyo.newVM("web1", "tokyo")
		wantError(t, "by an older agent", tokyo.change("web1", hibernated), api.CodeRefused)
		tokyo.runs("web1")
	})
	// One that was hibernated before a release went back is not booted by it.
	federation(t, options{sites: []string{"tokyo", "osaka"}}, func(t *testing.T, w *world) {
		tokyo := w.sites["tokyo"]
		w.lend("osaka", "tokyo", room())
		tokyo.ready("2001:db8:a::/64")
		for _, place := range []string{"tokyo", "osaka"} {
			tokyo.newVM("web-"+place, place)
			tokyo.runs("web-" + place)
			_, was := tokyo.guest("web-" + place)
			w.must(tokyo.change("web-"+place, hibernated))
			tokyo.asleep("web-" + place)
			w.older = place
			w.sites[place].start()
			w.connected()
			time.Sleep(20 * time.Second) // whoever is not reached yet is taken for able
			wantError(t, "a start by an older release", tokyo.change("web-"+place, func(s *api.VMSpec) { s.Power = api.PowerOn }), api.CodeRefused)
			w.older = ""
			w.sites[place].start()
			w.connected()
			tokyo.setPower("web-"+place, api.PowerOn)
			tokyo.goesOn("web-"+place, was)
		}
	})
}
