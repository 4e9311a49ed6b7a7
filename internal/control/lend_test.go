package control_test

import (
	"errors"
	"testing"
	"time"

	"widecloud/api"
)

func (s *site) loan(name string) *api.Loan {
	s.w.t.Helper()
	o, err := s.ctl.Get(s.w.t.Context(), s.admin, api.KindLoan, name)
	if err != nil {
		s.w.t.Fatalf("%s: loan %s: %v", s.name, name, err)
	}
	return o.(*api.Loan)
}

// TestReclaim takes a loan back: the VM comes home, alive, also when its home hears of it late.
func TestReclaim(t *testing.T) {
	for name, cut := range map[string]bool{"reached": false, "cut off": true} {
		t.Run(name, func(t *testing.T) {
			federation(t, options{sites: []string{"tokyo", "osaka"}, hosts: 2}, func(t *testing.T, w *world) {
				tokyo, osaka := w.sites["tokyo"], w.sites["osaka"]
				loan := w.lend("osaka", "tokyo", room())
				tokyo.ready("2001:db8:a::/64")
				tokyo.newVM("web1", "osaka")
				tokyo.runs("web1")
				_, before := tokyo.guest("web1")
				if cut {
					w.net.Cut("tokyo", "osaka")
					time.Sleep(10 * time.Second)
				}
				if _, err := osaka.ctl.Reclaim(t.Context(), osaka.admin, loan.Name); err != nil {
					t.Fatal(err)
				}
				if cut {
					time.Sleep(10 * time.Second)
					w.net.Heal("tokyo", "osaka")
				}
				w.until("the VM is home", func() bool { return tokyo.vm("web1").Status.Site == "tokyo" })
				tokyo.runs("web1")
				if _, g := tokyo.guest("web1"); g.Boot != before.Boot {
					t.Errorf("it was started anew")
				}
				w.until("the loan has ended on both sides", func() bool {
					return osaka.loan(loan.Name).Status.State == api.LoanEnded && tokyo.loan(loan.Name).Status.State == api.LoanEnded
				})
				if used := osaka.loan(loan.Name).Status.Used; used != (api.Resources{}) {
					t.Errorf("%+v of the loan is used", used)
				}
				if _, reasons, err := tokyo.ctl.Migrate(t.Context(), tokyo.admin, "web1", "osaka", true); err != nil || len(reasons) == 0 {
					t.Errorf("it may go back: %v %v", reasons, err)
				}
			})
		})
	}
}

// TestLeaseExpires cuts a borrower off until lease and grace are over: the lender stops the guest and keeps its volume.
// When the borrower is back, a new loan lets the guest start where it is, and go home.
func TestLeaseExpires(t *testing.T) {
	federation(t, options{sites: []string{"tokyo", "osaka"}, lease: 30 * time.Second}, func(t *testing.T, w *world) {
		tokyo, osaka := w.sites["tokyo"], w.sites["osaka"]
		loan := w.lend("osaka", "tokyo", room())
		tokyo.ready("2001:db8:a::/64")
		tokyo.newVM("web1", "osaka")
		tokyo.runs("web1")
		uid := tokyo.vm("web1").UID
		time.Sleep(5 * time.Minute) // it is renewed again and again
		if st := osaka.loan(loan.Name).Status.State; st != api.LoanActive {
			t.Fatalf("a loan that is renewed is %s", st)
		}
		w.net.Cut("tokyo", "osaka")
		time.Sleep(70 * time.Second) // at least half of the lease was left, and there are 60 s of grace
		if on := w.fake.Running(uid); len(on) != 1 {
			t.Errorf("in the grace it runs on %v", on)
		}
		w.until("the guest is stopped", func() bool { return len(w.fake.Running(uid)) == 0 })
		if !osaka.hosts["h1"].disks.has(uid) {
			t.Error("its volume is gone")
		}
		w.net.Heal("tokyo", "osaka")
		w.until("the borrower hears", func() bool { return tokyo.loan(loan.Name).Status.State == api.LoanEnded })
		time.Sleep(10 * time.Second)
		if on := w.fake.Running(uid); len(on) > 0 {
			t.Errorf("without a loan it runs on %v", on)
		}
		second := w.lend("osaka", "tokyo", room())
		w.until("it runs under the new loan", func() bool {
			v := tokyo.vm("web1")
			return len(w.fake.Running(uid)) == 1 && v.Status.Loan == second.Name && v.Status.Phase == api.PhaseRunning
		})
		w.until("the ledger agrees", func() bool {
			return osaka.loan(loan.Name).Status.Used == (api.Resources{}) && osaka.loan(second.Name).Status.Used.CPUs == 1
		})
		tokyo.moved("web1", "tokyo")
	})
}

// TestCutOff cuts a site off: its VMs run, and its users command them (law 4).
func TestCutOff(t *testing.T) {
	federation(t, options{sites: []string{"tokyo", "osaka"}, hosts: 2}, func(t *testing.T, w *world) {
		tokyo := w.sites["tokyo"]
		w.lend("osaka", "tokyo", room())
		tokyo.ready("2001:db8:a::/64")
		tokyo.newVM("web1", "tokyo")
		tokyo.newVM("far", "osaka")
		w.net.Cut("tokyo", "osaka")
		time.Sleep(30 * time.Second)
		for _, name := range []string{"web1", "far"} {
			if on := w.fake.Running(tokyo.vm(name).UID); len(on) != 1 {
				t.Errorf("%s runs on %v", name, on)
			}
		}
		tokyo.newVM("web2", "")
		tokyo.moved("web2", "tokyo/h2")
		tokyo.setPower("web1", api.PowerOff)
		tokyo.phase("web1", api.PhaseStopped)
		if _, reasons, err := tokyo.ctl.Migrate(t.Context(), tokyo.admin, "web2", "osaka", true); err != nil || len(reasons) == 0 || reasons[0].Code != "unreachable" {
			t.Errorf("%+v, %v", reasons, err)
		}
		if err := tokyo.ctl.Reboot(t.Context(), tokyo.admin, "far", false); !errors.Is(err, &api.Error{Code: api.CodeUnavailable}) {
			t.Errorf("reboot what is not reached: %v", err)
		}
		if _, err := tokyo.ctl.Delete(t.Context(), tokyo.admin, api.KindVM, "far"); err != nil {
			t.Fatal(err)
		}
		w.net.Heal("tokyo", "osaka")
		w.connected()
		w.until("what was deleted in the dark is gone", func() bool {
			_, err := tokyo.ctl.Get(t.Context(), tokyo.admin, api.KindVM, "far")
			return err != nil
		})
	})
}

// TestPeerRemoved ends a peering: not while anything of one is at the other, and then wholly.
func TestPeerRemoved(t *testing.T) {
	federation(t, options{sites: []string{"tokyo", "osaka"}}, func(t *testing.T, w *world) {
		tokyo, osaka := w.sites["tokyo"], w.sites["osaka"]
		loan := w.lend("osaka", "tokyo", room())
		tokyo.ready("2001:db8:a::/64")
		tokyo.newVM("web1", "osaka")
		remove := func(s *site, peer string) error {
			_, err := s.ctl.Delete(t.Context(), s.admin, api.KindPeer, peer)
			return err
		}
		if err := remove(tokyo, "osaka"); !errors.Is(err, &api.Error{Code: api.CodeConflict}) {
			t.Errorf("with a VM there: %v", err)
		}
		if err := remove(osaka, "tokyo"); !errors.Is(err, &api.Error{Code: api.CodeConflict}) {
			t.Errorf("with a guest here: %v", err)
		}
		tokyo.moved("web1", "tokyo")
		if _, err := tokyo.ctl.Return(t.Context(), tokyo.admin, loan.Name); err != nil {
			t.Fatal(err)
		}
		w.until("the loan has ended", func() bool {
			return tokyo.loan(loan.Name).Status.State == api.LoanEnded && osaka.loan(loan.Name).Status.State == api.LoanEnded
		})
		for s, peer := range map[*site]string{tokyo: "osaka", osaka: "tokyo"} {
			if err := remove(s, peer); err != nil {
				t.Error(err)
			}
		}
		for _, s := range []*site{tokyo, osaka} {
			for _, prefix := range []string{"peeroffers/", "views/", "objects/peers/", "objects/loans/"} {
				if keys := keysOf(s.proc, prefix); len(keys) > 0 {
					t.Errorf("%s has kept %v", s.name, keys)
				}
			}
		}
		w.peer("tokyo", "osaka") // and again
		w.connected()
		tokyo.runs("web1")
	})
}
