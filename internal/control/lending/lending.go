package lending

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"time"

	"widecloud/api"
	"widecloud/internal/access"
	"widecloud/internal/control/objects"
	"widecloud/internal/lend"
	"widecloud/internal/place"
	"widecloud/internal/state"
	"widecloud/internal/store"
	"widecloud/internal/wire"
)

// Borrow asks a lender for a loan.
func (ln *Lending) Borrow(ctx context.Context, p access.Actor, lender, offer string, amount api.Resources) (*api.Loan, error) {
	if !p.Admin {
		return nil, objects.Forbidden("borrow")
	}
	name, err := ln.borrow(ctx, lender, strings.TrimSuffix(offer, "@"+lender), amount)
	if err != nil {
		return nil, err
	}
	o, err := ln.Get(ctx, p, api.KindLoan, name)
	if err != nil {
		return nil, err
	}
	return o.(*api.Loan), nil
}

// Reclaim takes a loan back from its borrower.
func (ln *Lending) Reclaim(ctx context.Context, p access.Actor, name string) (*api.Loan, error) {
	if !p.Admin {
		return nil, objects.Forbidden("reclaim loans")
	}
	return ln.reclaim(ctx, name)
}

// Return gives a loan back to its lender.
func (ln *Lending) Return(ctx context.Context, p access.Actor, name string) (*api.Loan, error) {
	if !p.Admin {
		return nil, objects.Forbidden("return loans")
	}
	var lender string
	if err := ln.Read(ctx, func(tx *state.Tx) error {
		l, err := objects.Get[api.Loan](tx, name)
		if err != nil {
			return err
		}
		if l.Spec.Borrower != ln.Name {
			return api.Errorf(api.CodeConflict, "loan %s is from this site, not to it: wcc loan reclaim %s", name, name)
		}
		lender = l.Spec.Lender
		return nil
	}); err != nil {
		return nil, err
	}
	if err := ln.AtMostOnce(ctx, &api.Loan{Meta: api.Meta{Name: name}}, func() error {
		return ln.Federation.Send(ctx, lender, wire.DocLoanRenew, name, objects.DocumentTime, wire.LoanRenew{Name: name, Return: true})
	}); err != nil {
		return nil, err
	}
	o, err := ln.Get(ctx, p, api.KindLoan, name)
	if err != nil {
		return nil, err
	}
	return o.(*api.Loan), nil
}

func (ln *Lending) leaseOf(o *api.Offer) time.Duration {
	if o != nil && o.Spec.Lease > 0 {
		return o.Spec.Lease.Duration()
	}
	return ln.Lease
}

func (ln *Lending) graceOf(o *api.Offer) time.Duration {
	if o != nil && o.Spec.Grace > 0 {
		return o.Spec.Grace.Duration()
	}
	return ln.Grace
}

func liveLoans(loans []api.Loan, borrower string) (n int) {
	for _, l := range loans {
		if l.Spec.Borrower == borrower && l.Status.State != api.LoanEnded {
			n++
		}
	}
	return n
}

func text(r api.Resources) string {
	b, _ := json.Marshal(r)
	return string(b)
}

// borrow asks a lender for a loan. The request is kept first: the loan comes before the answer does.
func (ln *Lending) borrow(ctx context.Context, lender, offer string, amount api.Resources) (name string, err error) {
	name = "loan-" + ln.ShortID()
	if err := ln.Room(ctx); err != nil {
		return "", err
	}
	if err := ln.Write(ctx, func(tx *state.Tx) error {
		if _, err := objects.Get[api.Peer](tx, lender); err != nil {
			return api.Invalidf("lender", "no peer is called %q", lender)
		}
		if err := objects.PutRecord(tx, requestKey(lender, name), loanRequest{Offer: offer, Amount: amount, Asked: ln.Now()}); err != nil {
			return err
		}
		return ln.Answer(ctx, tx, &api.Loan{Meta: api.Meta{Name: name}})
	}); err != nil {
		return "", err
	}
	err = ln.Federation.Send(ctx, lender, wire.DocLoanRequest, name, objects.DocumentTime, wire.LoanRequest{Name: name, Offer: offer, Amount: amount})
	if err != nil && !errors.Is(err, wire.ErrNoAnswer) {
		// The lender's own no, or it was never asked: nothing will come.
		if e := ln.Write(ctx, func(tx *state.Tx) error { return objects.Remove(tx, requestKey(lender, name)) }); e != nil {
			ln.Log.Error("forget a loan request", "peer", lender, "loan", name, "err", e)
		}
		ln.Unanswered(ctx)
	}
	return name, err
}

// due is what the ledger asks for beside itself.
type due struct {
	renew []*api.Loan // to us
	leave []*api.VM   // of ours, under loans that their lenders want back
}

// Keep keeps the ledger: uses are counted, leases renewed and ended, reclaimed guests sent home or stopped.
func (ln *Lending) Keep(ctx context.Context) error {
	var d due
	if err := ln.Write(store.Urgent(ctx), func(tx *state.Tx) (err error) {
		d, err = ln.count(tx)
		return err
	}); err != nil {
		return err
	}
	for _, l := range d.renew {
		ln.Once("renew/"+l.Name, func(ctx context.Context) { ln.renew(ctx, l) })
	}
	for _, v := range d.leave {
		ln.Once("leave/"+v.Name, func(ctx context.Context) { ln.sendHome(ctx, v) })
	}
	return nil
}

func (ln *Lending) renew(ctx context.Context, l *api.Loan) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	if err := ln.Federation.Send(ctx, l.Spec.Lender, wire.DocLoanRenew, l.Name, objects.DocumentTime, wire.LoanRenew{Name: l.Name}); err != nil {
		ln.Log.Debug("renew", "loan", l.Name, "err", err)
	}
}

// count brings the loans up to date, and what each offer has lent.
func (ln *Lending) count(tx *state.Tx) (d due, err error) {
	offers, err := ln.rooms.OwnOffers(tx)
	if err != nil {
		return d, err
	}
	loans, err := objects.List[api.Loan](tx)
	if err != nil {
		return d, err
	}
	lent := map[string]api.Resources{}
	for _, l := range loans {
		vms := 0
		if l.Spec.Lender != ln.Name {
			err = ln.countBorrowed(tx, l, &d)
			for range objects.By[api.VM](tx, "loan", l.Name) {
				vms++
			}
		} else if err = ln.countLent(tx, l, offers[l.Spec.Offer], &vms); err == nil {
			lent[l.Spec.Offer] = lend.Add(lent[l.Spec.Offer], lend.Held(*l))
		}
		if err == nil {
			err = objects.Put(tx, l)
		}
		if err == nil {
			err = ln.account(tx, l, vms)
		}
		if err != nil {
			return d, err
		}
	}
	if err := ln.closeForgotten(tx); err != nil {
		return d, err
	}
	for name, o := range offers {
		o.Status.Lent = lent[name]
		if err := objects.Put(tx, o); err != nil {
			return d, err
		}
	}
	return d, nil
}

// countLent brings a loan from us up to date. When it has ended, so have its guests.
func (ln *Lending) countLent(tx *state.Tx, l *api.Loan, o *api.Offer, vms *int) error {
	guests, err := ln.rooms.LoanUse(tx, l.Name, "")
	if err != nil {
		return err
	}
	l.Status.Used = lend.Used(l.Name, guests)
	*vms = len(guests)
	moved := false
	if *l, moved = lend.Advance(*l, ln.graceOf(o), ln.Now()); moved {
		ln.Event(tx, "loan."+string(l.Status.State), "loans/"+l.Name, "", l.Status.Message)
	}
	if l.Status.State == api.LoanEnded {
		return ln.guests.Stop(tx, l.Name)
	}
	return nil
}

// countBorrowed brings a loan to us up to date, and notes whether it is to be renewed, and which VMs are to leave.
func (ln *Lending) countBorrowed(tx *state.Tx, l *api.Loan, d *due) (err error) {
	now := ln.Now()
	if l.Status.Used, err = ln.rooms.Borrowed(tx, l.Name, ""); err != nil {
		return err
	}
	if over := l.Status.Expires.Add(l.Status.Grace.Duration()); l.Status.State != api.LoanEnded && now.After(over) {
		// The lender has not been heard of: by its own word it has ended the loan, and stopped what was there.
		l.Status.State, l.Status.Message = api.LoanEnded, "its lease ran out, and "+l.Spec.Lender+" was not reached to renew it"
		ln.Event(tx, "loan.ended", "loans/"+l.Name, "", l.Status.Message)
	}
	if half := l.Status.Expires.Sub(l.Status.Renewed) / 2; l.Status.State == api.LoanActive && now.After(l.Status.Renewed.Add(half)) {
		d.renew = append(d.renew, l)
	}
	if l.Status.State == api.LoanReclaimed {
		for v := range objects.By[api.VM](tx, "loan", l.Name) {
			if v.Status.Job == "" && !v.Deleting && v.Status.Host != "" && (v.Spec.Power == api.PowerOn || v.Status.Phase == api.PhaseStopped || v.Status.Phase == api.PhaseSuspended || v.Status.Phase == api.PhaseHibernated) {
				d.leave = append(d.leave, v)
			}
		}
	}
	return nil
}

// reclaim takes a loan from us back for a user, and tells the borrower.
func (ln *Lending) reclaim(ctx context.Context, name string) (*api.Loan, error) {
	l, err := objects.Change(ctx, ln.Site, name, func(tx *state.Tx, l *api.Loan) error {
		if l.Spec.Lender != ln.Name {
			return api.Errorf(api.CodeConflict, "loan %s is to this site, not from it: wcc loan return %s", name, name)
		}
		offers, err := ln.rooms.OwnOffers(tx)
		if err != nil {
			return err
		}
		*l = lend.Reclaim(*l, ln.graceOf(offers[l.Spec.Offer]), ln.Now(), "the lender wants it back")
		ln.Event(tx, "loan.reclaimed", "loans/"+l.Name, "", "from "+l.Spec.Borrower)
		return ln.Answer(ctx, tx, l)
	})
	if err != nil {
		return nil, err
	}
	if err := ln.sendLoan(ctx, name); err != nil {
		ln.Log.Warn("tell the borrower; it hears when it is reached", "loan", name, "err", err)
	}
	return l, nil
}

// sendHome migrates a VM away from a lender that wants its room back: home, or wherever else there is room.
func (ln *Lending) sendHome(ctx context.Context, v *api.VM) {
	reasons, err := ln.vms.Leave(ctx, v)
	if err != nil && ctx.Err() == nil {
		ln.Log.Warn("leave a lender", "vm", v.Name, "err", err)
		reasons = append(reasons, api.Reason{Code: "leave", Message: err.Error()})
	}
	if len(reasons) == 0 {
		return
	}
	if _, err := objects.Change(ctx, ln.Site, v.Name, func(_ *state.Tx, v *api.VM) error {
		v.Status.Message, v.Status.Reasons = "its lender wants the room back, and there is nowhere to go", place.Grouped(reasons)
		return nil
	}); err != nil {
		ln.Log.Debug("show why a VM cannot leave", "vm", v.Name, "err", err)
	}
	ln.Pause(ctx)
}

// loanLife is what users do with loans that are over.
func (ln *Lending) loanLife() objects.Life[api.Loan] {
	return objects.Life[api.Loan]{Delete: func(tx *state.Tx, l *api.Loan) error {
		if l.Status.State != api.LoanEnded {
			return api.Errorf(api.CodeConflict, "loan %s is %s; return or reclaim it first", l.Name, l.Status.State)
		}
		if err := ln.closeAccount(tx, l.Name); err != nil {
			return err
		}
		return objects.Gone(tx, l)
	}}
}
