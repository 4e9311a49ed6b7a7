package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"widecloud/api"
	"widecloud/internal/cloud"
	"widecloud/internal/lend"
	"widecloud/internal/place"
	"widecloud/internal/state"
	"widecloud/internal/store"
	"widecloud/internal/wire"
)

// documentTime is how long a document may be under way.
const documentTime = 2 * time.Minute

// keepTelling is how long a borrower that was not reached is still told of a loan that has ended.
const keepTelling = 30 * 24 * time.Hour

// documents says what is done with each kind of document.
func (c *Controller) documents() {
	on := func(kind string, take func(context.Context, wire.Verified) (any, error)) {
		c.o.Federation.OnDocument(kind, func(ctx context.Context, d wire.Verified) (any, error) { return take(asPeer(ctx, d.From), d) })
	}
	on(wire.DocOffers, c.takeOffers)
	on(wire.DocLoanRequest, c.takeLoanRequest)
	on(wire.DocLoan, c.takeLoan)
	on(wire.DocLoanRenew, c.takeLoanRenew)
	on(wire.DocViews, c.takeViews)
}

// prefixOffers keeps what peers offer: peeroffers/PEER/NAME -> wire.OfferBody.
const prefixOffers = "peeroffers/"

// offersOf is what a peer offers us.
func (c *Controller) offersOf(tx *state.Tx, peer string) ([]wire.OfferBody, error) {
	m, err := listJSON[wire.OfferBody](tx, prefixOffers+peer+"/")
	if err != nil {
		return nil, err
	}
	var out []wire.OfferBody
	for _, o := range m {
		out = append(out, o)
	}
	slices.SortFunc(out, func(a, b wire.OfferBody) int { return strings.Compare(a.Name, b.Name) })
	return out, nil
}

// takeOffers keeps a peer's offers, all of them at once.
func (c *Controller) takeOffers(ctx context.Context, d wire.Verified) (any, error) {
	var body wire.Offers
	if err := d.DecodeBody(&body); err != nil {
		return nil, err
	}
	if err := c.judgeOffers(d.From, body.Offers); err != nil {
		return nil, err
	}
	return nil, c.update(ctx, func(tx *state.Tx) error {
		if err := c.o.Federation.Advance(tx, d); err != nil {
			return err
		}
		old, err := listJSON[wire.OfferBody](tx, prefixOffers+d.From+"/")
		if err != nil {
			return err
		}
		for _, o := range body.Offers {
			delete(old, o.Name)
			if err := putJSON(tx, prefixOffers+d.From+"/"+o.Name, o); err != nil {
				return err
			}
			shown := &api.Offer{Meta: api.Meta{Name: o.Name + "@" + d.From, UID: o.UID, Home: d.From, Created: c.now()}, Spec: o.Spec, Status: api.OfferStatus{Serial: d.Serial}}
			if have, err := get[api.Offer](tx, shown.Name); err == nil {
				shown.Created = have.Created
			}
			if err := put(tx, shown); err != nil {
				return err
			}
		}
		for name := range old {
			if err := remove(tx, prefixOffers+d.From+"/"+name); err != nil {
				return err
			}
			if err := remove(tx, keyOf(api.KindOffer, name+"@"+d.From)); err != nil {
				return err
			}
		}
		return nil
	})
}

// ownOffers are this site's own offers, by name.
func (c *Controller) ownOffers(tx *state.Tx) (map[string]*api.Offer, error) {
	all, err := list[api.Offer](tx)
	if err != nil {
		return nil, err
	}
	out := map[string]*api.Offer{}
	for _, o := range all {
		if o.Home == c.o.Site {
			out[o.Name] = o
		}
	}
	return out, nil
}

func (c *Controller) loansFromUs(tx *state.Tx) ([]api.Loan, error) {
	all, err := list[api.Loan](tx)
	if err != nil {
		return nil, err
	}
	var out []api.Loan
	for _, l := range all {
		if l.Spec.Lender == c.o.Site {
			out = append(out, *l)
		}
	}
	return out, nil
}

func (c *Controller) leaseOf(o *api.Offer) time.Duration {
	if o != nil && o.Spec.Lease > 0 {
		return o.Spec.Lease.Duration()
	}
	return c.o.Lease
}

func (c *Controller) graceOf(o *api.Offer) time.Duration {
	if o != nil && o.Spec.Grace > 0 {
		return o.Spec.Grace.Duration()
	}
	return c.o.Grace
}

// takeLoanRequest grants a loan if the offer has room for it, and tells the borrower before it answers.
func (c *Controller) takeLoanRequest(ctx context.Context, d wire.Verified) (any, error) {
	var r wire.LoanRequest
	if err := d.DecodeBody(&r); err != nil {
		return nil, err
	}
	if err := cloud.ValidateName("body.name", r.Name); err != nil {
		return nil, err
	}
	err := c.update(ctx, func(tx *state.Tx) error {
		if err := c.o.Federation.Advance(tx, d); err != nil {
			return err
		}
		if have, err := get[api.Loan](tx, r.Name); err == nil {
			if have.Spec.Borrower != d.From || have.Spec.Lender != c.o.Site || have.Spec.Offer != r.Offer || have.Spec.Amount != r.Amount {
				return api.Errorf(api.CodeExists, "there is another loan called %s", r.Name)
			}
			return nil
		}
		offers, err := c.ownOffers(tx)
		if err != nil {
			return err
		}
		o := offers[r.Offer]
		if o == nil || o.Deleting {
			return &api.Error{Code: api.CodeRefused, Field: "body.offer", Message: fmt.Sprintf("site %s has no offer %q", c.o.Site, r.Offer), Reasons: []api.Reason{{Site: c.o.Site, Code: "loan", Message: "there is no such offer", Advice: "wcc offer list"}}}
		}
		loans, err := c.loansFromUs(tx)
		if err != nil {
			return err
		}
		if n := liveLoans(loans, d.From); n >= maxLoans {
			return &api.Error{Code: api.CodeRefused, Field: "body.name", Message: fmt.Sprintf("%s has %d loans from %s already: give one back first", d.From, n, c.o.Site)}
		}
		if reasons := lend.CanBorrow(*o, loans, d.From, r.Amount); len(reasons) > 0 {
			return &api.Error{Code: api.CodeRefused, Field: "body.amount", Message: fmt.Sprintf("offer %s does not lend that to %s", o.Name, d.From), Reasons: reasons}
		}
		l := api.Loan{Meta: c.newMeta(r.Name, ""), Spec: api.LoanSpec{Offer: r.Offer, Lender: c.o.Site, Borrower: d.From, Amount: r.Amount}}
		l = lend.Grant(l, c.leaseOf(o), c.now())
		c.event(tx, "loan.granted", "loans/"+l.Name, "", fmt.Sprintf("%s borrows %s", d.From, text(r.Amount)))
		return put(tx, &l)
	})
	if err != nil {
		return nil, err
	}
	return nil, c.sendLoan(ctx, r.Name)
}

// maxLoans is how many loans a site has from us at a time.
const maxLoans = 100

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

// sendLoan tells a borrower of its loan. One letter of a loan is under way at a time: of two, the older one could come last.
func (c *Controller) sendLoan(ctx context.Context, name string) error {
	select {
	case c.sending <- struct{}{}:
		defer func() { <-c.sending }()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	var body wire.LoanBody
	var borrower, seal string
	if err := c.view(ctx, func(tx *state.Tx) error {
		l, err := get[api.Loan](tx, name)
		if err != nil {
			return err
		}
		offers, err := c.ownOffers(tx)
		if err != nil {
			return err
		}
		left := max(0, l.Status.Expires.Sub(c.now()).Seconds())
		body = wire.LoanBody{
			Name: l.Name, UID: l.UID, Spec: l.Spec, State: l.Status.State, LeaseSeconds: left,
			GraceSeconds: c.graceOf(offers[l.Spec.Offer]).Seconds(), Message: l.Status.Message,
		}
		borrower, seal = l.Spec.Borrower, loanSeal(l)
		return nil
	}); err != nil {
		return err
	}
	s, err := c.o.Federation.Session(borrower, false)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	if err := c.o.Federation.Send(ctx, borrower, wire.DocLoan, name, documentTime, body); err != nil {
		return err
	}
	c.letters.Set("loan/"+name, fmt.Sprintf("%d %s", s.ID(), seal))
	return nil
}

// loanSeal is what a borrower must know of a loan: when it is another one, it is told again.
func loanSeal(l *api.Loan) string {
	return fmt.Sprintf("%s %d", l.Status.State, l.Status.Expires.UnixMilli())
}

// takeLoan keeps what a lender says of a loan to us. Only what was asked for here is a loan: a gift would send VMs, and
// what their users wrote for them, to whoever gives it.
func (c *Controller) takeLoan(ctx context.Context, d wire.Verified) (any, error) {
	var b wire.LoanBody
	if err := d.DecodeBody(&b); err != nil {
		return nil, err
	}
	if err := c.judgeLoan(d.From, b); err != nil {
		return nil, err
	}
	return nil, c.update(store.Urgent(ctx), func(tx *state.Tx) error {
		if err := c.o.Federation.Advance(tx, d); err != nil {
			return err
		}
		l, err := get[api.Loan](tx, b.Name)
		switch {
		case errors.Is(err, &api.Error{Code: api.CodeNotFound}):
			if l, err = c.newLoan(tx, d.From, b); err != nil {
				return err
			}
		case err != nil:
			return err
		case l.Spec != b.Spec:
			return &api.Error{Code: api.CodeConflict, Field: "body.spec", Message: fmt.Sprintf("loan %s was agreed on otherwise: a loan does not change; give it back and borrow anew", b.Name)}
		}
		if l.Status.State != b.State && b.State == api.LoanReclaimed {
			c.event(tx, "loan.reclaimed", "loans/"+b.Name, "", fmt.Sprintf("%s takes it back: %s", d.From, cloud.Line(b.Message, maxText)))
		}
		l.Status = api.LoanStatus{
			State: b.State, Serial: d.Serial, Message: cloud.Line(b.Message, maxText), Renewed: c.now(), Grace: api.Seconds(b.GraceSeconds),
			Expires: c.now().Add(api.Seconds(b.LeaseSeconds).Duration()),
		}
		if l.Status.Used, err = c.borrowed(tx, l.Name); err != nil {
			return err
		}
		return put(tx, l)
	})
}

// loanRequest is a loan that was asked for and has not come yet.
type loanRequest struct {
	Offer  string        `json:"offer"`
	Amount api.Resources `json:"amount"`
	Asked  time.Time     `json:"asked"`
}

func requestKey(lender, name string) string { return prefixRequests + lender + "/" + name }

// newLoan makes a loan of what was asked for.
func (c *Controller) newLoan(tx *state.Tx, lender string, b wire.LoanBody) (*api.Loan, error) {
	r, err := getJSON[loanRequest](tx, requestKey(lender, b.Name))
	if errors.Is(err, store.ErrNotFound) {
		return nil, &api.Error{Code: api.CodeForbidden, Field: "body.name", Message: fmt.Sprintf("%s has not asked %s for a loan %s", c.o.Site, lender, b.Name)}
	}
	if err != nil {
		return nil, err
	}
	if b.Spec.Offer != r.Offer || b.Spec.Amount != r.Amount {
		return nil, &api.Error{Code: api.CodeConflict, Field: "body.spec", Message: fmt.Sprintf("loan %s was asked for as %s of offer %s", b.Name, text(r.Amount), r.Offer)}
	}
	l := &api.Loan{Meta: api.Meta{Name: b.Name, UID: b.UID, Home: lender, Created: c.now()}, Spec: b.Spec}
	return l, remove(tx, requestKey(lender, b.Name))
}

// borrow asks a lender for a loan. The request is kept first: the loan comes before the answer does.
func (c *Controller) borrow(ctx context.Context, lender, offer string, amount api.Resources) (name string, err error) {
	name = "loan-" + c.shortID()
	if err := c.room(ctx); err != nil {
		return "", err
	}
	if err := c.update(ctx, func(tx *state.Tx) error {
		if _, err := get[api.Peer](tx, lender); err != nil {
			return api.Invalidf("lender", "no peer is called %q", lender)
		}
		if err := putJSON(tx, requestKey(lender, name), loanRequest{Offer: offer, Amount: amount, Asked: c.now()}); err != nil {
			return err
		}
		return c.answer(ctx, tx, &api.Loan{Meta: api.Meta{Name: name}})
	}); err != nil {
		return "", err
	}
	err = c.o.Federation.Send(ctx, lender, wire.DocLoanRequest, name, documentTime, wire.LoanRequest{Name: name, Offer: offer, Amount: amount})
	if err != nil && !errors.Is(err, wire.ErrNoAnswer) {
		// The lender's own no, or it was never asked: nothing will come.
		if e := c.update(ctx, func(tx *state.Tx) error { return remove(tx, requestKey(lender, name)) }); e != nil {
			c.log.Error("forget a loan request", "peer", lender, "loan", name, "err", e)
		}
		c.unanswered(ctx)
	}
	return name, err
}

// endedLoansKept is how many loans that are over are kept for each peer and direction, for people to read.
const endedLoansKept = 20

// requestLife is how long a loan that was asked for is waited for.
const requestLife = 24 * time.Hour

// pruneLoans forgets the oldest loans that are over and that nothing is under, and requests that nobody answered.
func (c *Controller) pruneLoans(ctx context.Context) error {
	var old []*api.Loan
	var unanswered []string
	if err := c.view(ctx, func(tx *state.Tx) error {
		loans, err := list[api.Loan](tx)
		if err != nil {
			return err
		}
		slices.SortFunc(loans, func(a, b *api.Loan) int { return b.Status.Expires.Compare(a.Status.Expires) })
		kept := map[string]int{}
		for _, l := range loans {
			if between := l.Spec.Lender + " " + l.Spec.Borrower; l.Status.State == api.LoanEnded && l.Status.Used == (api.Resources{}) {
				if kept[between]++; kept[between] > endedLoansKept {
					old = append(old, l)
				}
			}
		}
		requests, err := listJSON[loanRequest](tx, prefixRequests)
		for key, r := range requests {
			if c.now().Sub(r.Asked) > requestLife {
				unanswered = append(unanswered, prefixRequests+key)
			}
		}
		return err
	}); err != nil || len(old)+len(unanswered) == 0 {
		return err
	}
	return c.update(store.Urgent(ctx), func(tx *state.Tx) error {
		for _, key := range unanswered {
			if err := remove(tx, key); err != nil {
				return err
			}
		}
		for _, l := range old {
			peer := l.Spec.Lender
			if peer == c.o.Site {
				peer = l.Spec.Borrower
			}
			if err := c.o.Federation.ForgetSubject(tx, peer, l.Name, wire.DocLoan, wire.DocLoanRequest, wire.DocLoanRenew); err != nil {
				return err
			}
			if err := remove(tx, keyOf(api.KindLoan, l.Name)); err != nil {
				return err
			}
		}
		return nil
	})
}

// takeLoanRenew extends a loan from us, or takes it back from a borrower that has no more use for it.
func (c *Controller) takeLoanRenew(ctx context.Context, d wire.Verified) (any, error) {
	var b wire.LoanRenew
	if err := d.DecodeBody(&b); err != nil {
		return nil, err
	}
	if err := c.update(store.Urgent(ctx), func(tx *state.Tx) error {
		if err := c.o.Federation.Advance(tx, d); err != nil {
			return err
		}
		l, err := get[api.Loan](tx, b.Name)
		if err != nil {
			return err
		}
		if l.Spec.Borrower != d.From || l.Spec.Lender != c.o.Site {
			return api.Errorf(api.CodeForbidden, "loan %s is not %s's", b.Name, d.From)
		}
		offers, err := c.ownOffers(tx)
		if err != nil {
			return err
		}
		o := offers[l.Spec.Offer]
		changed := *l
		if b.Return {
			changed = lend.Reclaim(*l, c.graceOf(o), c.now(), "given back by "+d.From)
		} else if l.Status.State == api.LoanActive {
			if changed, err = lend.Renew(*l, c.leaseOf(o), c.now()); err != nil {
				return err
			}
		}
		return put(tx, &changed)
	}); err != nil {
		return nil, err
	}
	return nil, c.sendLoan(ctx, b.Name)
}

// lending keeps the ledger: uses are counted, leases renewed and ended, reclaimed guests sent home or stopped.
func (c *Controller) lending(ctx context.Context) error {
	var renew []string
	var leave []*api.VM
	err := c.update(store.Urgent(ctx), func(tx *state.Tx) error {
		renew, leave = renew[:0], leave[:0]
		offers, err := c.ownOffers(tx)
		if err != nil {
			return err
		}
		loans, err := list[api.Loan](tx)
		if err != nil {
			return err
		}
		now := c.now()
		lent := map[string]api.Resources{}
		for _, l := range loans {
			before := *l
			if l.Spec.Lender == c.o.Site {
				guests, err := c.loanUse(tx, l.Name, "")
				if err != nil {
					return err
				}
				l.Status.Used = lend.Used(l.Name, guests)
				moved := false
				*l, moved = lend.Advance(*l, c.graceOf(offers[l.Spec.Offer]), now)
				if moved {
					c.event(tx, "loan."+string(l.Status.State), "loans/"+l.Name, "", l.Status.Message)
				}
				if l.Status.State == api.LoanEnded {
					if err := c.stopGuests(tx, l.Name); err != nil {
						return err
					}
				}
				if offers[l.Spec.Offer] != nil {
					lent[l.Spec.Offer] = lend.Add(lent[l.Spec.Offer], lend.Held(*l))
				}
			} else {
				if l.Status.Used, err = c.borrowed(tx, l.Name); err != nil {
					return err
				}
				if over := l.Status.Expires.Add(l.Status.Grace.Duration()); l.Status.State != api.LoanEnded && now.After(over) {
					// The lender has not been heard of: by its own word it has ended the loan, and stopped what was there.
					l.Status.State, l.Status.Message = api.LoanEnded, "its lease ran out, and "+l.Spec.Lender+" was not reached to renew it"
					c.event(tx, "loan.ended", "loans/"+l.Name, "", l.Status.Message)
				}
				if half := l.Status.Expires.Sub(l.Status.Renewed) / 2; l.Status.State == api.LoanActive && now.After(l.Status.Renewed.Add(half)) {
					renew = append(renew, l.Name+"@"+l.Spec.Lender)
				}
				if l.Status.State == api.LoanReclaimed {
					for v := range by[api.VM](tx, "loan", l.Name) {
						if v.Status.Job == "" && !v.Deleting && v.Status.Host != "" && v.Spec.Power == api.PowerOn {
							leave = append(leave, v)
						}
					}
				}
			}
			if l.Spec != before.Spec || l.Status != before.Status {
				if err := put(tx, l); err != nil {
					return err
				}
			}
		}
		for name, o := range offers {
			if o.Status.Lent != lent[name] {
				o.Status.Lent = lent[name]
				if err := put(tx, o); err != nil {
					return err
				}
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, r := range renew {
		name, lender, _ := strings.Cut(r, "@")
		c.once("renew/"+name, func(ctx context.Context) {
			ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
			defer cancel()
			if err := c.o.Federation.Send(ctx, lender, wire.DocLoanRenew, name, documentTime, wire.LoanRenew{Name: name}); err != nil {
				c.log.Debug("renew", "loan", name, "err", err)
			}
		})
	}
	for _, v := range leave {
		c.once("leave/"+v.Name, func(ctx context.Context) { c.sendHome(ctx, v) })
	}
	return nil
}

// reclaim takes a loan from us back for a user, and tells the borrower.
func (c *Controller) reclaim(ctx context.Context, name string) (*api.Loan, error) {
	l, err := change(ctx, c, name, func(tx *state.Tx, l *api.Loan) error {
		if l.Spec.Lender != c.o.Site {
			return api.Errorf(api.CodeConflict, "loan %s is to this site, not from it: wcc loan return %s", name, name)
		}
		offers, err := c.ownOffers(tx)
		if err != nil {
			return err
		}
		*l = lend.Reclaim(*l, c.graceOf(offers[l.Spec.Offer]), c.now(), "the lender wants it back")
		c.event(tx, "loan.reclaimed", "loans/"+l.Name, "", "from "+l.Spec.Borrower)
		return c.answer(ctx, tx, l)
	})
	if err != nil {
		return nil, err
	}
	if err := c.sendLoan(ctx, name); err != nil {
		c.log.Warn("tell the borrower; it hears when it is reached", "loan", name, "err", err)
	}
	return l, nil
}

// sendHome migrates a VM away from a lender that wants its room back: home, or wherever else there is room.
func (c *Controller) sendHome(ctx context.Context, v *api.VM) {
	reasons, err := c.leave(ctx, v)
	if err != nil && ctx.Err() == nil {
		c.log.Warn("leave a lender", "vm", v.Name, "err", err)
		reasons = append(reasons, api.Reason{Code: "leave", Message: err.Error()})
	}
	if len(reasons) == 0 {
		return
	}
	if _, err := change(ctx, c, v.Name, func(_ *state.Tx, v *api.VM) error {
		v.Status.Message, v.Status.Reasons = "its lender wants the room back, and there is nowhere to go", place.Grouped(reasons)
		return nil
	}); err != nil {
		c.log.Debug("show why a VM cannot leave", "vm", v.Name, "err", err)
	}
	c.pause(ctx)
}

// stopGuests carries out what the offer says when the grace is over: stop. The volume is kept.
func (c *Controller) stopGuests(tx *state.Tx, loan string) error {
	for key, g := range records[wire.Claim](tx, prefixOrders, "loan", loan) {
		if g.Order.Run != wire.RunOn {
			continue
		}
		g = state.Clone(g)
		g.Order.Run = wire.RunOff
		c.event(tx, "guest.stopped", "guests/"+g.Order.Name+"@"+g.Home, g.Owner, "its loan has ended")
		if err := putJSON(tx, key, g); err != nil {
			return err
		}
	}
	return nil
}

// sendDocuments keeps each peer's picture of our offers and networks the same as ours.
func (c *Controller) sendDocuments(ctx context.Context) error {
	type letter struct {
		peer, key, seal string
		send            func(context.Context) error
	}
	var letters []letter
	document := func(peer, kind string, body any) {
		value := wire.RawBody(body)
		letters = append(letters, letter{peer, kind + "/" + peer, string(value), func(ctx context.Context) error {
			return c.o.Federation.Send(ctx, peer, kind, "", documentTime, body)
		}})
	}
	if err := c.view(ctx, func(tx *state.Tx) error {
		peers, err := list[api.Peer](tx)
		if err != nil || len(peers) == 0 {
			return err
		}
		offers, err := c.ownOffers(tx)
		if err != nil {
			return err
		}
		gateways, err := c.ownGateways(tx)
		if err != nil {
			return err
		}
		own, err := c.ownNetworks(tx)
		if err != nil {
			return err
		}
		cpus, err := c.cpuKinds(tx)
		if err != nil {
			return err
		}
		for _, p := range peers {
			out := wire.Offers{Offers: []wire.OfferBody{}}
			for _, o := range offers {
				if !o.Deleting && lend.Addressed(*o, p.Name) {
					out.Offers = append(out.Offers, wire.OfferBody{Name: o.Name, UID: o.UID, Spec: o.Spec, CPUs: cpus, Gateways: gateways})
				}
			}
			slices.SortFunc(out.Offers, func(a, b wire.OfferBody) int { return strings.Compare(a.Name, b.Name) })
			views, err := c.viewsFor(tx, p.Name, own)
			if err != nil {
				return err
			}
			document(p.Name, wire.DocOffers, out)
			letters = append(letters, letter{p.Name, wire.DocViews + "/" + p.Name, string(wire.RawBody(views)), func(ctx context.Context) error {
				return c.sendViews(ctx, p.Name, views)
			}})
		}
		loans, err := c.loansFromUs(tx)
		for _, l := range loans {
			if l.Status.State == api.LoanEnded && c.now().Sub(l.Status.Expires) > keepTelling {
				continue
			}
			letters = append(letters, letter{l.Spec.Borrower, "loan/" + l.Name, loanSeal(&l), func(ctx context.Context) error { return c.sendLoan(ctx, l.Name) }})
		}
		return err
	}); err != nil {
		return err
	}
	for _, l := range letters {
		s, err := c.o.Federation.Session(l.peer, false)
		if err != nil {
			continue
		}
		// A new session means that the peer may have been restored from an old copy: it is told again.
		seal := fmt.Sprintf("%d %s", s.ID(), l.seal)
		if c.letters.Is(l.key, seal) {
			continue
		}
		c.once("tell/"+l.key, func(ctx context.Context) {
			cctx, cancel := context.WithTimeout(ctx, 10*time.Second)
			defer cancel()
			if err := l.send(cctx); err != nil {
				c.log.Warn("tell the peer", "peer", l.peer, "document", l.key, "err", err)
				c.pause(ctx)
				return
			}
			c.letters.Set(l.key, seal)
			c.poke() // it may have changed meanwhile
		})
	}
	return nil
}

// cpuKinds are the kinds of hypervisors of this site, each with the guest models that every one of the kind can run.
func (c *Controller) cpuKinds(tx *state.Tx) ([]api.CPU, error) {
	var kinds []api.CPU
	for h := range each[api.Host](tx) {
		if !hasRole(h, api.RoleHypervisor) || h.Status.Hypervisor == "" {
			continue
		}
		cpu := h.Status.CPU
		i := slices.IndexFunc(kinds, func(k api.CPU) bool { return k.Arch == cpu.Arch && k.Accel == cpu.Accel })
		if i < 0 {
			kinds = append(kinds, api.CPU{Arch: cpu.Arch, Accel: cpu.Accel, Usable: slices.Clone(cpu.Usable)})
			continue
		}
		kinds[i].Usable = slices.DeleteFunc(kinds[i].Usable, func(m string) bool { return !slices.Contains(cpu.Usable, m) })
	}
	return kinds, nil
}
