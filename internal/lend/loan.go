package lend

import (
	"time"

	"widecloud/api"
)

// Grant begins a loan that CanBorrow has allowed: active, with its lease running from now. The lender and the borrower
// each call it with their own clock (a peer's clock is not trusted).
func Grant(l api.Loan, lease time.Duration, now time.Time) api.Loan {
	l.Status.State = api.LoanActive
	l.Status.Renewed = now
	l.Status.Expires = now.Add(lease)
	l.Status.Serial++
	return l
}

// Renew begins the lease anew. A loan that is no longer active cannot be renewed: api.CodeConflict.
func Renew(l api.Loan, lease time.Duration, now time.Time) (api.Loan, error) {
	if l.Status.State != api.LoanActive {
		return l, api.Errorf(api.CodeConflict, "renew loan %s: it is %s, not active", l.Name, stateOr(l.Status.State))
	}
	l.Status.Renewed = now
	if e := now.Add(lease); e.After(l.Status.Expires) { // a clock set back must not shorten it
		l.Status.Expires = e
	}
	l.Status.Serial++
	return l, nil
}

// Reclaim takes a loan back: its guests have the grace to leave. Reclaiming again does not begin the grace anew. A loan
// that its borrower gives back takes the same way; without guests Advance ends it at once.
func Reclaim(l api.Loan, grace time.Duration, now time.Time, why string) api.Loan {
	if l.Status.State != api.LoanActive {
		return l
	}
	l.Status.State = api.LoanReclaimed
	l.Status.Expires = now.Add(grace)
	l.Status.Message = why
	l.Status.Serial++
	return l
}

// Advance makes the one step that is due at now, and tells whether there was one: a lease that ran out becomes a reclaim
// (whose grace begins now and not when the lease ran out: a lender that was down meanwhile could not be asked to renew);
// a reclaim ends when nothing is used any more or the grace is over. When it ends with guests still there (Status.Used),
// the lender does what Offer.Spec.OnReclaim says. A lender should call it only after it was reachable for a while.
func Advance(l api.Loan, grace time.Duration, now time.Time) (api.Loan, bool) {
	switch l.Status.State {
	case api.LoanActive:
		if now.Before(l.Status.Expires) {
			return l, false
		}
		return Reclaim(l, grace, now, "the lease ran out without being renewed"), true
	case api.LoanReclaimed:
		if now.Before(l.Status.Expires) && l.Status.Used != (api.Resources{}) {
			return l, false
		}
		l.Status.State = api.LoanEnded
		l.Status.Serial++
		return l, true
	}
	return l, false
}
