package control_test

import (
	"errors"
	"testing"
	"time"

	"widecloud/api"
)

func (s *site) resize(name string, cpus, memoryMiB int) error {
	v := s.vm(name)
	v.Spec.CPUs, v.Spec.MemoryMiB, v.Revision = cpus, memoryMiB, 0
	_, err := s.ctl.Update(s.w.t.Context(), s.admin, v)
	return err
}

// TestResizeAtLender: a VM that is at a lender is stopped, made larger and started. It runs at the size that its home says, or
// is refused with a reason; and both ledgers agree, also before it is started.
func TestResizeAtLender(t *testing.T) {
	federation(t, options{sites: []string{"tokyo", "osaka"}}, func(t *testing.T, w *world) {
		tokyo, osaka := w.sites["tokyo"], w.sites["osaka"]
		loan := w.lend("osaka", "tokyo", room())
		tokyo.ready("2001:db8:a::/64")
		tokyo.newVM("web1", "osaka")
		tokyo.runs("web1")
		tokyo.setPower("web1", api.PowerOff)
		tokyo.phase("web1", api.PhaseStopped)
		wantError(t, "more than the loan has", tokyo.resize("web1", 11, 512), api.CodeRefused)
		agree := func() bool {
			ours, theirs := tokyo.loan(loan.Name).Status.Used, osaka.loan(loan.Name).Status.Used
			return ours == theirs && ours.CPUs == tokyo.vm("web1").Spec.CPUs
		}
		for _, size := range []struct{ cpus, memory int }{{2, 512}, {4, 1024}, {1, 128}} {
			if err := tokyo.resize("web1", size.cpus, size.memory); err != nil {
				t.Fatal(err)
			}
			w.until("both ledgers agree while it is stopped", agree)
			tokyo.setPower("web1", api.PowerOn)
			tokyo.phase("web1", api.PhaseRunning)
			tokyo.runs("web1")
			if _, g := tokyo.guest("web1"); g.Spec.CPUs != size.cpus || g.Spec.MemoryMiB != size.memory {
				t.Errorf("its spec says %+v, and it runs with %d and %d", size, g.Spec.CPUs, g.Spec.MemoryMiB)
			}
			w.until("both ledgers agree while it runs", agree)
			tokyo.setPower("web1", api.PowerOff)
			tokyo.phase("web1", api.PhaseStopped)
		}
		// The lender's host has 8 CPUs; the loan has more.
		if err := tokyo.resize("web1", 10, 128); err != nil {
			t.Fatal(err)
		}
		tokyo.setPower("web1", api.PowerOn)
		w.until("the lender says why not", func() bool { return tokyo.vm("web1").Status.Message != "" })
		time.Sleep(10 * time.Second)
		if on := w.fake.Running(tokyo.vm("web1").UID); len(on) > 0 {
			t.Errorf("it runs on %v, which has no room for it", on)
		}
		tokyo.setPower("web1", api.PowerOff)
		tokyo.phase("web1", api.PhaseStopped)
		if err := tokyo.resize("web1", 1, 128); err != nil {
			t.Fatal(err)
		}
		tokyo.setPower("web1", api.PowerOn)
		tokyo.phase("web1", api.PhaseRunning)
		tokyo.runs("web1")
	})
}

// TestGrowBeyondHost: a stopped VM cannot be made larger than its host has room for.
func TestGrowBeyondHost(t *testing.T) {
	federation(t, options{sites: []string{"tokyo"}}, func(t *testing.T, w *world) {
		tokyo := w.sites["tokyo"] // its host has 8 CPUs and 8 GiB
		tokyo.ready("2001:db8:a::/64")
		tokyo.newVM("web1", "")
		tokyo.newVM("web2", "")
		tokyo.setPower("web1", api.PowerOff)
		tokyo.phase("web1", api.PhaseStopped)
		for _, size := range []struct {
			cpus, memory int
			ok           bool
		}{{64, 1 << 20, false}, {8, 256, false}, {1, 8000, false}, {7, 7936, true}} {
			err := tokyo.resize("web1", size.cpus, size.memory)
			if size.ok && err != nil {
				t.Errorf("%+v: %v", size, err)
			} else if !size.ok {
				wantError(t, "more than the host has", err, api.CodeRefused)
			}
		}
		tokyo.setPower("web1", api.PowerOn)
		tokyo.runs("web1")
		if h := tokyo.host("h1").Status; h.Allotted.CPUs > h.Capacity.CPUs || h.Allotted.MemoryMiB > h.Capacity.MemoryMiB {
			t.Errorf("host h1 has %+v and has given away %+v", h.Capacity, h.Allotted)
		}
	})
}

// TestResizeAtOlderLender: a lender of the release before levels takes VMs, starts and stops them. It cannot change their size,
// and the user is told so.
func TestResizeAtOlderLender(t *testing.T) {
	federation(t, options{sites: []string{"tokyo", "osaka"}, older: "osaka"}, func(t *testing.T, w *world) {
		tokyo := w.sites["tokyo"]
		w.lend("osaka", "tokyo", room())
		tokyo.ready("2001:db8:a::/64")
		tokyo.newVM("web1", "osaka")
		tokyo.runs("web1")
		tokyo.setPower("web1", api.PowerOff)
		tokyo.phase("web1", api.PhaseStopped)
		err := tokyo.resize("web1", 2, 512)
		wantError(t, "at an older lender", err, api.CodeRefused)
		var refused *api.Error
		if !errors.As(err, &refused) || len(refused.Reasons) != 1 || refused.Reasons[0].Site != "osaka" || refused.Reasons[0].Code != "release" {
			t.Errorf("the reasons of %v are %+v", err, refused)
		}
		tokyo.setPower("web1", api.PowerOn)
		tokyo.phase("web1", api.PhaseRunning)
		tokyo.runs("web1")
	})
}
