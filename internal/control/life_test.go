package control_test

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"widecloud/api"
	"widecloud/internal/access"
	"widecloud/internal/hyper/fake"
	"widecloud/internal/serve"
)

func bubble(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	synctest.Test(t, f)
}

func room() api.Resources { return api.Resources{CPUs: 10, MemoryMiB: 10240, DiskGiB: 100} }

// guest is the VM as its host's hypervisor has it.
func (s *site) guest(name string) (*host, fake.Guest) {
	s.w.t.Helper()
	v := s.vm(name)
	h := s.w.sites[v.Status.Site].hosts[v.Status.Host]
	g, ok := h.machine.Guest(v.UID)
	if !ok {
		s.w.t.Fatalf("no domain of %s on %s", name, h.node())
	}
	return h, g
}

func (s *site) setPower(name string, p api.Power) {
	s.w.t.Helper()
	v := s.vm(name)
	v.Spec.Power, v.Revision = p, 0
	if _, err := s.ctl.Update(s.w.t.Context(), s.admin, v); err != nil {
		s.w.t.Fatal(err)
	}
}

func (s *site) phase(name string, p api.VMPhase) {
	s.w.t.Helper()
	s.w.until(fmt.Sprintf("%s is %s", name, p), func() bool { return s.vm(name).Status.Phase == p })
}

// gone waits until nothing of a VM is left in the whole world.
func (s *site) gone(name string) {
	s.w.t.Helper()
	v := s.vm(name)
	s.w.until(name+" is gone", func() bool {
		if _, err := s.ctl.Get(s.w.t.Context(), s.admin, api.KindVM, name); !errors.Is(err, &api.Error{Code: api.CodeNotFound}) {
			return false
		}
		for _, h := range s.w.hosts() {
			if h.disks.has(v.UID) || h.machine != nil && slices.Contains(h.machine.VMs(), v.UID) {
				return false
			}
		}
		for _, o := range s.w.sites {
			if len(keysOf(o.proc, "orders/"+v.UID)) > 0 {
				return false
			}
		}
		return true
	})
}

// TestLife is a VM's, from its creation to its end, at home and at a lender.
func TestLife(t *testing.T) {
	for _, place := range []string{"tokyo", "osaka"} {
		t.Run(place, func(t *testing.T) {
			federation(t, options{sites: []string{"tokyo", "osaka"}, hosts: 2}, func(t *testing.T, w *world) {
				tokyo := w.sites["tokyo"]
				w.lend("osaka", "tokyo", room())
				tokyo.ready("2001:db8:a::/64")
				tokyo.newVM("web1", place)
				tokyo.runs("web1")
				if v := tokyo.vm("web1"); v.Status.Site != place || v.Status.Epoch != 1 || len(v.Status.Addresses) != 2 {
					t.Errorf("created: %+v", v.Status)
				}
				if err := tokyo.ctl.Reboot(t.Context(), tokyo.admin, "web1", false); err != nil {
					t.Fatal(err)
				}
				_, g := tokyo.guest("web1")
				if g.Resets != 1 {
					t.Errorf("%d resets after a reboot", g.Resets)
				}
				c, err := tokyo.ctl.Console(t.Context(), tokyo.admin, "web1")
				if err != nil {
					t.Fatal(err)
				}
				io.WriteString(c, "hello")
				echo := make([]byte, 5)
				if _, err := io.ReadFull(c, echo); err != nil || string(echo) != "hello" {
					t.Errorf("console says %q, %v", echo, err)
				}
				c.Close()

				time.Sleep(time.Minute)
				u, err := tokyo.ctl.Usage(t.Context(), tokyo.admin, "web1")
				if err != nil || len(u.Recent) < 3 || u.Recent[2].CPU < 0.5 || u.Recent[2].Memory != 256<<20 {
					t.Errorf("what web1 uses: %+v, %v", u, err)
				}

				// What the guest wrote is there after every stop.
				written := g.Counter
				for _, off := range []api.Power{api.PowerOff, api.PowerOffHard} {
					tokyo.setPower("web1", off)
					tokyo.phase("web1", api.PhaseStopped)
					if on := w.fake.Running(tokyo.vm("web1").UID); len(on) > 0 {
						t.Errorf("%s, and it runs on %v", off, on)
					}
					tokyo.setPower("web1", api.PowerOn)
					tokyo.phase("web1", api.PhaseRunning)
					tokyo.runs("web1")
					if _, g := tokyo.guest("web1"); g.Counter < written {
						t.Errorf("after %s the disk is at %d, was at %d", off, g.Counter, written)
					} else {
						written = g.Counter
					}
				}

				// A guest that takes no notice of ACPI is stopped all the same.
				h, _ := tokyo.guest("web1")
				h.machine.SetDeaf(tokyo.vm("web1").UID, true)
				tokyo.setPower("web1", api.PowerOff)
				tokyo.phase("web1", api.PhaseStopped)
				tokyo.setPower("web1", api.PowerOn)
				tokyo.phase("web1", api.PhaseRunning)

				// One that powers itself off is started again.
				if err := h.machine.GuestStops(tokyo.vm("web1").UID); err != nil {
					t.Fatal(err)
				}
				time.Sleep(time.Second)
				tokyo.runs("web1")

				if _, err := tokyo.ctl.Delete(t.Context(), tokyo.admin, api.KindVM, "web1"); err != nil {
					t.Fatal(err)
				}
				tokyo.gone("web1")
				// The name is free again, with nothing of the old one.
				tokyo.newVM("web1", place)
				tokyo.runs("web1")
			})
		})
	}
}

func TestMigrateThereAndBack(t *testing.T) {
	federation(t, options{sites: []string{"tokyo", "osaka"}, hosts: 2}, func(t *testing.T, w *world) {
		tokyo := w.sites["tokyo"]
		w.lend("osaka", "tokyo", room())
		tokyo.ready("2001:db8:a::/64")
		tokyo.newVM("web1", "tokyo/h1")
		tokyo.runs("web1")
		_, before := tokyo.guest("web1")
		for _, target := range []string{"osaka", "tokyo/h1", "tokyo/h2", "osaka/h2", "osaka/h1", "tokyo"} {
			tokyo.moved("web1", target)
		}
		if _, g := tokyo.guest("web1"); g.Boot != before.Boot || g.Counter < before.Counter {
			t.Errorf("the guest was started anew: %+v, was %+v", g, before)
		}
	})
}

// TestLastOfALoan moves a VM to where a loan has room for just that one, between the lender's hosts, and back.
func TestLastOfALoan(t *testing.T) {
	federation(t, options{sites: []string{"tokyo", "osaka"}, hosts: 2}, func(t *testing.T, w *world) {
		tokyo := w.sites["tokyo"]
		needs := vmOf("web1", "").Spec
		w.lend("osaka", "tokyo", api.Resources{CPUs: needs.CPUs, MemoryMiB: needs.MemoryMiB, DiskGiB: 1})
		tokyo.ready("2001:db8:a::/64")
		tokyo.newVM("web1", "tokyo/h1")
		tokyo.newVM("web2", "tokyo/h2")
		tokyo.runs("web1")
		tokyo.runs("web2")
		for _, target := range []string{"osaka/h1", "osaka/h2", "tokyo/h2", "osaka"} {
			tokyo.moved("web1", target)
		}
		_, reasons, err := tokyo.ctl.Migrate(t.Context(), tokyo.admin, "web2", "osaka", true)
		if err != nil || !slices.ContainsFunc(reasons, func(r api.Reason) bool { return r.Code == "cpu" }) {
			t.Errorf("a second VM: %+v, %v", reasons, err)
		}
	})
}

// TestCancel cancels migrations after every short while.
func TestCancel(t *testing.T) {
	federation(t, options{sites: []string{"tokyo", "osaka"}, copyTime: 20 * time.Millisecond}, func(t *testing.T, w *world) {
		tokyo := w.sites["tokyo"]
		w.net.SetDelay("tokyo", "osaka", 6*time.Millisecond)
		w.lend("osaka", "tokyo", room())
		tokyo.ready("2001:db8:a::/64")
		tokyo.newVM("web1", "tokyo")
		tokyo.runs("web1")
		cancelled := 0
		for i := range 60 {
			target := "osaka"
			if tokyo.vm("web1").Status.Site == "osaka" {
				target = "tokyo"
			}
			j := tokyo.migrate("web1", target)
			time.Sleep(time.Duration(i) * 10 * time.Millisecond)
			_, err := tokyo.ctl.Cancel(t.Context(), tokyo.admin, j.Name)
			tokyo.ended(j.Name)
			state := tokyo.job(j.Name).Status.State
			// A wish that was accepted is kept; one that was refused, for what reason ever, came too late.
			if (err == nil) != (state == api.JobCancelled) || err != nil && state != api.JobDone {
				t.Errorf("cancelled after %d ms: %v, and the job is %s (%s)", i*10, err, state, tokyo.job(j.Name).Status.Message)
			}
			if err == nil {
				cancelled++
			}
			tokyo.runs("web1")
		}
		if cancelled == 0 || cancelled == 60 {
			t.Errorf("%d of 60 were cancelled: the test does not reach both sides of the decision", cancelled)
		}
	})
}

// TestReasons wants all reasons against a migration at once, before anything is done.
func TestReasons(t *testing.T) {
	federation(t, options{sites: []string{"tokyo", "osaka"}}, func(t *testing.T, w *world) {
		tokyo := w.sites["tokyo"]
		w.lend("osaka", "tokyo", api.Resources{CPUs: 1, MemoryMiB: 128, DiskGiB: 10})
		tokyo.ready("2001:db8:a::/64")
		v := vmOf("web1", "tokyo")
		v.Spec.Sites, v.Spec.CPUModel = []string{"tokyo"}, "Nehalem"
		tokyo.create(v)
		tokyo.phase("web1", api.PhaseRunning)
		tokyo.setPower("web1", api.PowerOff)
		tokyo.phase("web1", api.PhaseStopped)
		_, reasons, err := tokyo.ctl.Migrate(t.Context(), tokyo.admin, "web1", "osaka", true)
		if err != nil {
			t.Fatal(err)
		}
		for _, code := range []string{"memory", "permit"} {
			if !slices.ContainsFunc(reasons, func(r api.Reason) bool { return r.Code == code }) {
				t.Errorf("no reason %q in %+v", code, reasons)
			}
		}
		if jobs, _, _ := tokyo.ctl.List(t.Context(), tokyo.admin, api.KindJob, serve.Query{}); len(jobs) > 0 {
			t.Errorf("a dry run has left %d jobs", len(jobs))
		}
		// The same as a job: it fails with the same reasons, and nothing is left.
		j := tokyo.migrate("web1", "osaka")
		tokyo.ended(j.Name)
		if j = tokyo.job(j.Name); j.Status.State != api.JobFailed || len(j.Status.Reasons) < 2 {
			t.Errorf("job is %s: %+v", j.Status.State, j.Status.Reasons)
		}
		if left := w.leftovers(); left != "" {
			t.Error(left)
		}
	})
}

// TestCPU wants it said before the first byte when a running VM cannot go on with the CPU of the other end; also of a VM whose
// user named no model, and which has the one of the host where it began.
func TestCPU(t *testing.T) {
	cpus := map[string]api.CPU{
		"osaka": {Accel: "kvm", Model: "Nehalem", Usable: []string{"Nehalem"}},
		"kyoto": {Accel: "tcg", Model: "Westmere", Usable: []string{"Westmere"}},
		"nara":  {Accel: "tcg", Model: "Westmere", Usable: []string{"Nehalem", "Westmere"}},
	}
	federation(t, options{sites: []string{"tokyo", "osaka", "kyoto", "nara"}, cpus: cpus}, func(t *testing.T, w *world) {
		tokyo := w.sites["tokyo"]
		for site := range cpus {
			w.lend(site, "tokyo", room())
		}
		tokyo.ready("2001:db8:a::/64")
		tokyo.newVM("web1", "tokyo")
		tokyo.runs("web1")
		has := api.CPU{Arch: "x86_64", Accel: "tcg", Model: "Nehalem", Profile: api.NewestProfile}
		if diff := cmp.Diff(has, tokyo.vm("web1").Status.CPU); diff != "" {
			t.Error(diff)
		}
		for site, want := range map[string]string{
			"osaka": "the VM runs with tcg, the hypervisor has kvm",
			"kyoto": "CPU model Nehalem cannot run on Westmere; usable: Westmere",
		} {
			_, reasons, err := tokyo.ctl.Migrate(t.Context(), tokyo.admin, "web1", site, true)
			if err != nil || len(reasons) != 1 || reasons[0].Code != "cpu-model" || reasons[0].Host != "h1" || reasons[0].Message != want {
				t.Errorf("to %s: %+v, %v; want %q", site, reasons, err, want)
			}
		}
		tokyo.moved("web1", "nara")
		if diff := cmp.Diff(has, tokyo.vm("web1").Status.CPU); diff != "" {
			t.Errorf("after the migration: %s", diff)
		}
		// It is the lender's to start now, with the model that it has.
		tokyo.setPower("web1", api.PowerOff)
		tokyo.phase("web1", api.PhaseStopped)
		tokyo.setPower("web1", api.PowerOn)
		tokyo.runs("web1")
		tokyo.moved("web1", "tokyo")
	})
}

// TestTargetLosesItsCopy kills the target's agent between the decision and the switch: the incoming domain dies with its
// connection, and the source runs on at an epoch above the one that the target was promised.
func TestTargetLosesItsCopy(t *testing.T) {
	federation(t, options{sites: []string{"tokyo", "osaka"}}, func(t *testing.T, w *world) {
		tokyo, h := w.sites["tokyo"], w.sites["osaka"].hosts["h1"]
		w.lend("osaka", "tokyo", room())
		tokyo.ready("2001:db8:a::/64")
		tokyo.newVM("web1", "tokyo")
		tokyo.runs("web1")
		_, before := tokyo.guest("web1")
		w.at("osaka.h1", "target.committed", h.die)
		j := tokyo.migrate("web1", "osaka")
		w.until("the agent dies", h.proc.dead.Load)
		time.Sleep(3 * time.Second)
		if on := w.fake.Running(tokyo.vm("web1").UID); len(on) > 0 {
			t.Errorf("runs on %v while the target's answer is not known", on)
		}
		w.restartDead()
		tokyo.ended(j.Name)
		tokyo.runs("web1")
		v := tokyo.vm("web1")
		_, after := tokyo.guest("web1")
		if st := tokyo.job(j.Name).Status.State; st != api.JobFailed || v.Status.Site != "tokyo" || v.Status.Epoch != 3 || after.Boot != before.Boot {
			t.Errorf("job %s, at %s, epoch %d, boot %s (was %s)", st, v.Status.Site, v.Status.Epoch, after.Boot, before.Boot)
		}
		tokyo.moved("web1", "osaka")
	})
}

// TestDiskFull fills the target's disk in mid-copy.
func TestDiskFull(t *testing.T) {
	federation(t, options{sites: []string{"tokyo", "osaka"}}, func(t *testing.T, w *world) {
		tokyo, h := w.sites["tokyo"], w.sites["osaka"].hosts["h1"]
		w.lend("osaka", "tokyo", room())
		tokyo.ready("2001:db8:a::/64")
		tokyo.newVM("web1", "tokyo")
		tokyo.runs("web1")
		for _, free := range []int64{0, 40 << 10} {
			h.machine.SetFree(free)
			if free > 0 { // enough for the preparation, and taken by somebody else when the copying begins
				w.at("tokyo.h1", "source.copying", func() { h.machine.SetFree(8 << 10) })
			}
			j := tokyo.migrate("web1", "osaka")
			tokyo.ended(j.Name)
			j = tokyo.job(j.Name)
			if j.Status.State != api.JobFailed || !strings.Contains(j.Status.Message, "no space left") {
				t.Errorf("with %d bytes free the job is %s: %s", free, j.Status.State, j.Status.Message)
			}
			tokyo.runs("web1")
			if v := tokyo.vm("web1"); v.Status.Site != "tokyo" {
				t.Errorf("it is at %s", v.Status.Site)
			}
		}
		h.machine.SetFree(-1)
		tokyo.moved("web1", "osaka")
	})
}

// TestOwners keeps the owners of one site apart, and each within its quota.
func TestOwners(t *testing.T) {
	federation(t, options{sites: []string{"tokyo"}}, func(t *testing.T, w *world) {
		tokyo := w.sites["tokyo"]
		tokyo.ready("2001:db8:a::/64")
		tokyo.create(&api.Owner{Meta: api.Meta{Name: "uni"}, Spec: api.OwnerSpec{Quota: &api.Quota{CPUs: new(1), MemoryMiB: new(4096), DiskGiB: new(10)}}})
		tokyo.create(&api.User{Meta: api.Meta{Name: "ann", Owner: "uni"}})
		tokyo.newVM("web1", "")
		token, err := tokyo.ctl.NewToken(t.Context(), tokyo.admin, "ann", api.TokenRequest{})
		if err != nil {
			t.Fatal(err)
		}
		ann, err := tokyo.ctl.Authenticate(t.Context(), token.Token)
		if err != nil || ann != (access.Actor{User: "ann", Owner: "uni"}) {
			t.Fatalf("%+v, %v", ann, err)
		}
		if _, err := tokyo.ctl.Authenticate(t.Context(), token.Token+"x"); !errors.Is(err, &api.Error{Code: api.CodeUnauthenticated}) {
			t.Errorf("a wrong token: %v", err)
		}
		code := func(want api.Code, field string, err error) {
			t.Helper()
			var e *api.Error
			if !errors.As(err, &e) || e.Code != want || field != "" && e.Field != field {
				t.Errorf("%v (%+v), want %s of %q", err, e, want, field)
			}
		}
		_, err = tokyo.ctl.Get(t.Context(), ann, api.KindVM, "web1")
		code(api.CodeNotFound, "", err)
		_, err = tokyo.ctl.Delete(t.Context(), ann, api.KindVM, "web1")
		code(api.CodeNotFound, "", err)
		_, _, err = tokyo.ctl.Migrate(t.Context(), ann, "web1", "tokyo/h1", false)
		code(api.CodeNotFound, "", err)
		code(api.CodeNotFound, "", tokyo.ctl.Reboot(t.Context(), ann, "web1", true))
		_, err = tokyo.ctl.Console(t.Context(), ann, "web1")
		code(api.CodeNotFound, "", err)
		_, err = tokyo.ctl.Usage(t.Context(), ann, "web1")
		code(api.CodeNotFound, "", err)
		_, err = tokyo.ctl.JoinToken(t.Context(), ann, "h9", nil)
		code(api.CodeForbidden, "", err)
		_, err = tokyo.ctl.Create(t.Context(), ann, &api.Owner{Meta: api.Meta{Name: "mine"}})
		code(api.CodeForbidden, "", err)
		_, err = tokyo.ctl.Create(t.Context(), ann, &api.VM{Meta: api.Meta{Name: "x", Owner: "lab"}, Spec: vmOf("x", "").Spec})
		code(api.CodeForbidden, "owner", err)
		for i, want := range []string{"", "spec.cpus"} {
			_, err := tokyo.ctl.Create(t.Context(), ann, &api.VM{Meta: api.Meta{Name: fmt.Sprintf("ann%d", i)}, Spec: vmOf("", "").Spec})
			if want == "" && err != nil {
				t.Errorf("within the quota: %v", err)
			} else if want != "" {
				code(api.CodeRefused, want, err)
			}
		}
		if on := w.fake.Running(tokyo.vm("web1").UID); len(on) != 1 {
			t.Errorf("web1 runs on %v", on)
		}
	})
}
