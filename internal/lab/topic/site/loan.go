package site

import (
	"context"
	"errors"
	"fmt"
	"time"

	"widecloud/api"
	"widecloud/internal/lab/script"
	"widecloud/internal/lab/stage"
)

// Borrow takes a loan.
type Borrow struct {
	Borrower, Lender *Site
	Amount           api.Resources
}

func parseBorrow(p *script.Parser) any {
	b := &Borrow{Borrower: ref(p)}
	p.OneOf("from")
	b.Lender = other(p, b.Borrower)
	if b.Lender.Lend == nil && b.Lender.Percent == 0 {
		p.Fail(p.Last(), "%s lends nothing; say so in its site statement", b.Lender.name)
	}
	b.Borrower.mustBeLike(p, b.Lender)
	b.Amount = amount(p)
	b.Lender.lentTo[b.Borrower] = true
	return b
}

// loanTime is how long an offer, and then a loan, may take to be there.
const loanTime = 30 * time.Second

// Do implements stage.Doer.
func (b *Borrow) Do(ctx context.Context, s *stage.Stage) error {
	c := b.Borrower.client
	var loan *api.Loan
	err := stage.Until(ctx, loanTime, func(ctx context.Context) (err error) {
		loan, err = c.Borrow(ctx, b.Lender.name, OfferName, b.Amount)
		// The offer travels by itself; until it is there, it is not known.
		if errors.Is(err, &api.Error{Code: api.CodeRefused}) {
			return fmt.Errorf("%w: %w", stage.ErrGiveUp, err)
		}
		return err
	})
	if err != nil {
		return err
	}
	s.Undo("return loan "+loan.Name, func(ctx context.Context) error { return b.giveBack(ctx, loan.Name) })
	return stage.Until(ctx, loanTime, func(ctx context.Context) error {
		l, err := api.Get[api.Loan](ctx, c, loan.Name)
		if err == nil && l.Status.State != api.LoanActive {
			err = fmt.Errorf("loan %s is %s: %s", l.Name, l.Status.State, l.Status.Message)
		}
		return err
	})
}

// giveBack returns the loan, unless it has ended already.
func (b *Borrow) giveBack(ctx context.Context, loan string) error {
	l, err := api.Get[api.Loan](ctx, b.Borrower.client, loan)
	if errors.Is(err, &api.Error{Code: api.CodeNotFound}) || err == nil && l.Status.State == api.LoanEnded {
		return nil
	}
	if err == nil {
		_, err = b.Borrower.client.Return(ctx, loan)
	}
	return err
}

// between takes `of LENDER to BORROWER`, of which there is a loan.
func between(p *script.Parser) (lender, borrower *Site) {
	at := p.Last()
	lender = ref(p)
	p.OneOf("to")
	borrower = other(p, lender)
	if !lender.lentTo[borrower] {
		p.Fail(at, "%s has borrowed nothing from %s", borrower.name, lender.name)
	}
	return lender, borrower
}

// newest finds the newest loan between two sites, as the lender sees it.
func newest(ctx context.Context, lender, borrower *Site) (*api.Loan, error) {
	loans, _, err := api.List[api.Loan](ctx, lender.client)
	if err != nil {
		return nil, err
	}
	var found *api.Loan
	for _, l := range loans {
		if l.Spec.Lender == lender.name && l.Spec.Borrower == borrower.name && (found == nil || l.Created.After(found.Created)) {
			found = l
		}
	}
	if found == nil {
		return nil, &api.Error{Code: api.CodeNotFound, Message: fmt.Sprintf("%s knows of no loan to %s", lender.name, borrower.name)}
	}
	return found, nil
}

// Revoke takes the newest loan back.
type Revoke struct{ Lender, Borrower *Site }

func parseRevoke(p *script.Parser) any {
	r := &Revoke{}
	r.Lender, r.Borrower = between(p)
	return r
}

// Do implements stage.Doer.
func (r *Revoke) Do(ctx context.Context, _ *stage.Stage) error {
	loan, err := newest(ctx, r.Lender, r.Borrower)
	if err != nil {
		return err
	}
	_, err = r.Lender.client.Reclaim(ctx, loan.Name)
	return err
}

// ExpectLoan expects the state of the newest loan.
type ExpectLoan struct {
	Lender, Borrower *Site
	Want             api.LoanState
	Within           time.Duration
}

func parseExpectLoan(p *script.Parser) any {
	e := &ExpectLoan{}
	e.Lender, e.Borrower = between(p)
	e.Want = api.LoanState(p.OneOf("active", "reclaimed", "ended"))
	e.Within = p.Within(time.Minute)
	return e
}

func after(start time.Time) string { return fmt.Sprintf("after %.1f s", time.Since(start).Seconds()) }

// Judge implements stage.Judge.
func (e *ExpectLoan) Judge(ctx context.Context, _ *stage.Stage) (string, error) {
	start := time.Now()
	err := stage.Until(ctx, e.Within, func(ctx context.Context) error {
		l, err := newest(ctx, e.Lender, e.Borrower)
		if errors.Is(err, &api.Error{Code: api.CodeNotFound}) && e.Want == api.LoanEnded {
			return nil
		}
		if err == nil && l.Status.State != e.Want {
			err = fmt.Errorf("loan %s is %s", l.Name, l.Status.State)
		}
		return err
	})
	return after(start), err
}

// ExpectPeer expects that a site has a session with another one.
type ExpectPeer struct {
	Peer, Of *Site
	Within   time.Duration
}

func parseExpectPeer(p *script.Parser) any {
	e := &ExpectPeer{Peer: ref(p)}
	p.OneOf("of")
	e.Of = other(p, e.Peer)
	p.OneOf("reached")
	e.Within = p.Within(30 * time.Second)
	return e
}

// Judge implements stage.Judge.
func (e *ExpectPeer) Judge(ctx context.Context, _ *stage.Stage) (string, error) {
	start := time.Now()
	err := stage.Until(ctx, e.Within, func(ctx context.Context) error { return e.Of.reaches(ctx, e.Peer.name, start) })
	return after(start), err
}
