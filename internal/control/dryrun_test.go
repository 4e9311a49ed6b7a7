package control_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"widecloud/api"
	"widecloud/internal/access"
)

// tried is what a dry run says of a VM; nothing is written by it.
func (s *site) tried(by access.Actor, v *api.VM) *api.VMDryRun {
	s.w.t.Helper()
	d, err := s.ctl.DryRun(s.w.t.Context(), by, v)
	if err != nil {
		s.w.t.Fatalf("%s: dry run of %s: %v", s.name, v.Name, err)
	}
	if _, err := s.ctl.Get(s.w.t.Context(), s.admin, api.KindVM, v.Name); v.UID != "" && err == nil && s.vm(v.Name).UID == v.UID {
		s.w.t.Errorf("the dry run has made VM %s", v.Name)
	}
	return d
}

// TestDryRun: a dry run says what a creation is refused with, where it would go, why not elsewhere, and what it takes of quota and loan.
func TestDryRun(t *testing.T) {
	federation(t, options{sites: []string{"tokyo", "osaka", "nara"}, capacity: api.Resources{CPUs: 2, MemoryMiB: 1024, DiskGiB: 20}}, func(t *testing.T, w *world) {
		tokyo := w.sites["tokyo"]
		tokyo.ready("2001:db8:a:1::/64")
		loan := w.lend("osaka", "tokyo", api.Resources{CPUs: 2, MemoryMiB: 1024, DiskGiB: 20})
		w.connected()
		cpus := 3
		tokyo.create(&api.Owner{Meta: api.Meta{Name: "small"}, Spec: api.OwnerSpec{Quota: &api.Quota{CPUs: &cpus}}})
		vm := func(cpus, memory int) *api.VM {
			v := vmOf("new1", "")
			v.Owner, v.Spec.CPUs, v.Spec.MemoryMiB = "small", cpus, memory
			return v
		}

		d := tokyo.tried(tokyo.admin, vm(1, 256))
		if c := d.Chosen(); c == nil || c.Site != "tokyo" || c.Host != "h1" || c.Free != 0.75 || d.Loan != nil || d.Refused != nil {
			t.Fatalf("at an empty site: %+v", d)
		}
		if q := d.Quota; q == nil || q.Before.CPUs != 0 || q.After.CPUs != 1 || *q.Quota.CPUs != 3 {
			t.Errorf("quota: %+v", q)
		}
		if p := d.Places[1]; p.Site != "osaka" || p.Verdict != api.PlacePossible || !p.Asked || p.Loan != loan.Name {
			t.Errorf("osaka could take it: %+v", p)
		}
		if p := d.Places[2]; p.Site != "nara" || p.Verdict != api.PlaceRefused || p.Reasons[0].Code != "loan" {
			t.Errorf("nothing is borrowed from nara: %+v", p)
		}

		// Larger than what is left here: it would go to the lender.
		full := vmOf("full", "tokyo")
		full.Spec.CPUs = 2
		tokyo.create(full)
		w.until("it is placed", func() bool { return tokyo.vm("full").Status.Host != "" })
		d = tokyo.tried(tokyo.admin, vm(2, 512))
		if c := d.Chosen(); c == nil || c.Site != "osaka" || d.Loan == nil {
			t.Fatalf("when the own site is full: %+v", d)
		}
		if d := cmp.Diff(&api.LoanUse{Loan: loan.Name, Lender: "osaka", Amount: loan.Spec.Amount, After: api.Resources{CPUs: 2, MemoryMiB: 512, DiskGiB: 1}}, d.Loan); d != "" {
			t.Errorf("the loan (-want +got):\n%s", d)
		}

		// A lender that says no for itself: its only host takes no VMs.
		osaka := w.sites["osaka"]
		cordon(osaka)
		d = tokyo.tried(tokyo.admin, vm(2, 512))
		if d.Chosen() != nil || d.Loan != nil {
			t.Errorf("nobody takes it: %+v", d)
		}
		if p := d.Places[2]; p.Site != "tokyo" || p.Reasons[0].Code != "cpu" {
			t.Errorf("tokyo: %+v", p)
		}
		if p := d.Places[1]; p.Site != "osaka" || p.Verdict != api.PlaceRefused || p.Reasons[0].Code != "cordon" {
			t.Errorf("osaka: %+v", p)
		}

		// What a creation is refused with, with what is missing of the quota.
		d = tokyo.tried(tokyo.admin, vm(4, 512))
		if d.Refused == nil || d.Refused.Code != api.CodeRefused || d.Refused.Field != "spec.cpus" || d.Quota.After.CPUs != 4 || d.Places != nil {
			t.Errorf("beyond the quota: %+v", d)
		}
		bad := vm(1, 1)
		bad.Name, bad.Spec.Network = "Not A Name", "none"
		if d = tokyo.tried(tokyo.admin, bad); d.Refused == nil || len(d.Refused.Reasons) != 2 || d.Refused.Reasons[0].Field != "name" {
			t.Errorf("a bad name: %+v", d.Refused)
		}
		bad.Name = "new1"
		if d = tokyo.tried(tokyo.admin, bad); d.Refused == nil || len(d.Refused.Reasons) != 2 {
			t.Errorf("two faults: %+v", d.Refused)
		}
		// Of an organisation that is not its user's, nothing is told.
		if d = tokyo.tried(access.Actor{User: "eve", Owner: "lab"}, vm(1, 256)); d.Refused == nil || d.Refused.Code != api.CodeForbidden || d.Quota != nil {
			t.Errorf("another one's organisation: %+v", d)
		}

		// A site that is dead costs nobody a second. As long as that is not known, a creation would ask it until it answers.
		w.net.Cut("tokyo", "osaka")
		began := time.Now()
		d = tokyo.tried(tokyo.admin, vm(2, 512))
		if took := time.Since(began); took >= time.Second {
			t.Errorf("a dead site costs %v", took)
		}
		if p := d.Places[0]; p.Site != "osaka" || p.Verdict != api.PlaceChosen || p.Asked || p.Reasons[0].Code != "unreachable" {
			t.Errorf("osaka does not answer: %+v", p)
		}
		w.until("osaka is known to be lost", func() bool { up, _, _ := tokyo.fed.Reached("osaka"); return !up })
		d = tokyo.tried(tokyo.admin, vm(2, 512))
		for _, p := range d.Places {
			if p.Site == "osaka" && (p.Verdict != api.PlaceNoAnswer || p.Since.IsZero()) {
				t.Errorf("osaka is not reached: %+v", p)
			}
		}
		w.net.Heal("tokyo", "osaka")
	})
}

// TestDryRunAgrees holds dry runs against the creations that follow them, on random worlds.
func TestDryRunAgrees(t *testing.T) {
	for seed := range uint64(6) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			random := rand.New(rand.NewPCG(seed, 15))
			capacity := api.Resources{CPUs: 2 + random.IntN(3), MemoryMiB: 512 * (1 + random.IntN(3)), DiskGiB: 8}
			federation(t, options{sites: []string{"tokyo", "osaka", "nara"}, hosts: 1 + random.IntN(2), capacity: capacity}, func(t *testing.T, w *world) {
				tokyo := w.sites["tokyo"]
				tokyo.ready("2001:db8:a:1::/64")
				for _, lender := range []string{"osaka", "nara"} {
					if random.IntN(4) > 0 {
						w.lend(lender, "tokyo", api.Resources{CPUs: 1 + random.IntN(8), MemoryMiB: 256 * (1 + random.IntN(8)), DiskGiB: 2 + random.IntN(8)})
					}
					if random.IntN(3) == 0 {
						cordon(w.sites[lender])
					}
				}
				quota := 2 + random.IntN(10)
				tokyo.create(&api.Owner{Meta: api.Meta{Name: "small"}, Spec: api.OwnerSpec{Quota: &api.Quota{CPUs: &quota}}})
				w.connected()
				for i := range 12 {
					agree(t, tokyo, randomVM(random, i))
				}
			})
		})
	}
}

func randomVM(random *rand.Rand, i int) *api.VM {
	v := vmOf(fmt.Sprintf("vm%d", i), "")
	if random.IntN(8) == 0 {
		v.Name = "vm0" // perhaps taken
	}
	v.Spec.CPUs, v.Spec.MemoryMiB = 1+random.IntN(2), 128*(1+random.IntN(4))
	for field, values := range map[*string][]string{
		&v.Owner:        {"lab", "small", "small"},
		&v.Spec.Place:   {"", "", "", "osaka", "tokyo/h1", "nara/h1", "kyoto"},
		&v.Spec.Network: {"blue", "blue", "blue", "none"},
	} {
		*field = values[random.IntN(len(values))]
	}
	if random.IntN(4) == 0 {
		v.Spec.Service = []string{"public4"}
	}
	return v
}

// agree makes a VM, and holds what became of it against the dry run before.
func agree(t *testing.T, s *site, v *api.VM) {
	t.Helper()
	sent := *v
	d := s.tried(s.admin, &sent)
	_, err := s.ctl.Create(t.Context(), s.admin, v)
	var refused *api.Error
	errors.As(err, &refused)
	if diff := cmp.Diff(refused, d.Refused); diff != "" {
		t.Fatalf("%s: refused (-creation +dry run):\n%s", v.Name, diff)
	}
	if err != nil {
		return
	}
	s.w.until(v.Name+" is placed, or waits", func() bool {
		now := s.vm(v.Name).Status
		return now.Host != "" || now.Site == "" && len(now.Reasons) > 0 && now.Message == "there is no room for it now"
	})
	now := s.vm(v.Name)
	want, got := "", ""
	if c := d.Chosen(); c != nil {
		want = c.Site + " " + c.Loan
	}
	if now.Status.Host != "" {
		got = now.Status.Site + " " + now.Status.Loan
	}
	if want != got {
		t.Fatalf("%s: the dry run said %q, and it went to %q\n%+v\n%+v", v.Name, want, got, d, now.Status)
	}
	if c := d.Chosen(); c != nil && c.Self && c.Host != now.Status.Host {
		t.Fatalf("%s: the dry run said %s, and it went to %s", v.Name, c.Host, now.Status.Host)
	}
	owner, err := s.ctl.Get(t.Context(), s.admin, api.KindOwner, now.Owner)
	s.w.must(err)
	if diff := cmp.Diff(owner.(*api.Owner).Status.Used, d.Quota.After); diff != "" {
		t.Fatalf("%s: of the quota (-used +said):\n%s", v.Name, diff)
	}
	if d.Loan == nil {
		return
	}
	s.w.until("the loan's use is counted", func() bool {
		o, err := s.ctl.Get(t.Context(), s.admin, api.KindLoan, d.Loan.Loan)
		s.w.must(err)
		return o.(*api.Loan).Status.Used == d.Loan.After
	})
}

// cordon has the first host of a site take no VMs.
func cordon(s *site) {
	s.w.t.Helper()
	o, err := s.ctl.Get(s.w.t.Context(), s.admin, api.KindHost, "h1")
	s.w.must(err)
	h := *o.(*api.Host)
	h.Spec.Cordoned = true
	_, err = s.ctl.Update(s.w.t.Context(), s.admin, &h)
	s.w.must(err)
}
