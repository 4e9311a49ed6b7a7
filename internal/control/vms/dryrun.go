package vms

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"time"

	"widecloud/api"
	"widecloud/internal/access"
	"widecloud/internal/control/objects"
	"widecloud/internal/lend"
	"widecloud/internal/place"
	"widecloud/internal/state"
	"widecloud/internal/wire"
)

// askTime is how long a dry run waits for lenders, all at once: a site that is dead costs nobody a second.
const askTime = 900 * time.Millisecond

// DryRun says what the creation of a VM would come to: it is made in a transaction that is given up, and placed as Place would place it.
// Lenders are asked whether they would take it; they keep no room for it.
func (vs *VMs) DryRun(ctx context.Context, p access.Actor, v *api.VM) (*api.VMDryRun, error) {
	t := &trial{vs: vs, vm: v}
	if err := vs.Try(ctx, p, v, t.before, t.made); err != nil {
		return nil, err
	}
	if t.out.Refused == nil {
		t.ask(ctx)
		t.verdicts()
	}
	return &t.out, nil
}

// trial is a creation that is only tried.
type trial struct {
	vs      *VMs
	vm      *api.VM
	out     api.VMDryRun
	plan    place.Plan
	lenders []*lender // those that it could go to, the best first
}

// lender is a site that a trial asks.
type lender struct {
	loan   place.Score
	call   wire.ClaimCall
	use    api.LoanUse
	known  bool // its answer has come
	why    []api.Reason
	failed error
}

// before notes what the owner has.
func (t *trial) before(tx *state.Tx) error {
	o, err := objects.Find[api.Owner](tx, t.vm.Owner)
	if errors.Is(err, &api.Error{Code: api.CodeNotFound}) {
		return nil // the site's own, or the creation is refused
	}
	if err != nil {
		return err
	}
	used, err := t.vs.rooms.UsedBy(tx, o.Name)
	t.out.Quota = &api.QuotaUse{Owner: o.Name, Quota: o.Spec.Quota, Before: used}
	return err
}

// made judges the creation, and looks for a place, in the transaction in which the VM is there.
func (t *trial) made(tx *state.Tx, err error) error {
	wanted := len(t.vm.Spec.Service)
	switch {
	case err != nil && !errors.As(err, &t.out.Refused):
		return err
	case err != nil:
		return t.refused(tx, wanted)
	}
	if t.out.Quota != nil {
		if t.out.Quota.After, err = t.vs.rooms.UsedBy(tx, t.vm.Owner); err != nil {
			return err
		}
	}
	v := state.Clone(t.vm)
	switch {
	case v.Spec.Power != api.PowerOn:
		t.out.Waits, v.Spec.Power = "it is not to be started yet", api.PowerOn
	case !t.vs.imageReady(tx, v):
		t.out.Waits = waitsForImage(v)
	}
	return t.place(tx, v)
}

// refused says what the owner would have had, so that a quota that is too small shows by how much.
func (t *trial) refused(tx *state.Tx, addresses int) error {
	q := t.out.Quota
	if q == nil {
		return nil
	}
	needs, err := t.vs.rooms.Needs(tx, t.vm)
	needs.Addresses = addresses
	q.After = lend.Add(q.Before, needs)
	return err
}

// place finds the places that are possible, and what each lender of them would be asked.
func (t *trial) place(tx *state.Tx, v *api.VM) error {
	s, err := t.vs.rooms.Snapshot(tx, v.Name)
	if err != nil {
		return err
	}
	r, err := t.vs.wanted(tx, v)
	if err != nil {
		return err
	}
	t.plan = place.Explain(s, r)
	for _, p := range s.Sites {
		t.out.Places = append(t.out.Places, api.PlaceVerdict{Site: p.Name, Self: p.Self, Verdict: api.PlaceRefused})
	}
	for _, sc := range t.plan.Scores {
		if sc.Self || t.lender(sc.Site) != nil {
			continue // of a lender's loans the best one counts
		}
		l := &lender{loan: sc}
		if l.call, err = t.vs.createClaim(tx, v, sc.Choice, "check-"+t.vs.ShortID()); err != nil {
			return err
		}
		if l.use, err = t.loanUse(tx, sc.Choice, l.call.Needs); err != nil {
			return err
		}
		t.lenders = append(t.lenders, l)
	}
	return nil
}

func (t *trial) loanUse(tx *state.Tx, c place.Choice, needs api.Resources) (api.LoanUse, error) {
	l, err := objects.Find[api.Loan](tx, c.Loan)
	if err != nil {
		return api.LoanUse{}, err
	}
	used, err := t.vs.rooms.Borrowed(tx, c.Loan, "")
	return api.LoanUse{Loan: l.Name, Lender: c.Site, Amount: l.Spec.Amount, Before: used, After: lend.Add(used, needs)}, err
}

func (t *trial) lender(site string) *lender {
	i := slices.IndexFunc(t.lenders, func(l *lender) bool { return l.loan.Site == site })
	if i < 0 {
		return nil
	}
	return t.lenders[i]
}

// ask asks all lenders at once.
func (t *trial) ask(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	var asking sync.WaitGroup
	for _, l := range t.lenders {
		asking.Go(func() {
			l.why, l.failed = t.vs.endOf(l.loan.Site).Check(ctx, l.call)
			l.known = l.failed == nil
			if refused := refusal(l.failed); refused != nil {
				l.known, l.why = true, reasonsOf(refused, l.loan.Site)
			}
		})
	}
	asking.Wait()
}

// verdicts says what each site's place in the answer is.
func (t *trial) verdicts() {
	chosen := t.chosen()
	for i := range t.out.Places {
		p := &t.out.Places[i]
		for _, r := range t.plan.Refused {
			if r.Site == p.Site {
				p.Reasons = append(p.Reasons, r)
			}
		}
		p.Reasons = place.Grouped(p.Reasons)
		if at := slices.IndexFunc(t.plan.Scores, func(s place.Score) bool { return s.Site == p.Site }); at >= 0 {
			t.score(p, t.plan.Scores[at])
		}
		if p.Site == chosen && p.Verdict != api.PlaceRefused {
			p.Verdict = api.PlaceChosen
		}
		if up, since, _ := t.vs.Federation.Reached(p.Site); !p.Self && !up {
			p.Since = since.UTC()
			if p.Verdict == api.PlaceRefused && slices.ContainsFunc(p.Reasons, func(r api.Reason) bool { return r.Code == "unreachable" }) {
				p.Verdict = api.PlaceNoAnswer
			}
		}
	}
	rank := func(p api.PlaceVerdict) int {
		at := slices.IndexFunc(t.plan.Scores, func(s place.Score) bool { return s.Site == p.Site })
		switch {
		case p.Verdict == api.PlaceChosen:
			return -1
		case at < 0 || p.Verdict == api.PlaceRefused:
			return len(t.plan.Scores)
		}
		return at
	}
	slices.SortStableFunc(t.out.Places, func(a, b api.PlaceVerdict) int {
		return cmp.Or(cmp.Compare(rank(a), rank(b)), strings.Compare(a.Site, b.Site))
	})
	if l := t.lender(chosen); l != nil {
		t.out.Loan = &l.use
	}
}

// chosen is where Place would take the VM: the best place, but for lenders that say no. One that gives no answer is asked until it does.
func (t *trial) chosen() string {
	for _, sc := range t.plan.Scores {
		if l := t.lender(sc.Site); sc.Self || len(l.why) == 0 {
			return sc.Site
		}
	}
	return ""
}

// score says of a site that is possible by what is known here how good it is, and what it says itself.
func (t *trial) score(p *api.PlaceVerdict, sc place.Score) {
	p.Verdict, p.Loan, p.Free, p.Image = api.PlacePossible, sc.Loan, sc.Free, sc.Image
	if sc.Self {
		p.Host = sc.Host
		return
	}
	l := t.lender(sc.Site)
	p.Asked = l.known
	switch {
	case len(l.why) > 0:
		p.Verdict, p.Reasons = api.PlaceRefused, place.Grouped(l.why)
	case !l.known:
		p.Verdict = api.PlaceNoAnswer
		p.Reasons = []api.Reason{{Site: p.Site, Code: "unreachable", Message: "has not answered within " + askTime.String(), Advice: "wcc site list shows which sites are reached"}}
	}
}
