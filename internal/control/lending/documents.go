package lending

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"widecloud/api"
	"widecloud/internal/cloud"
	"widecloud/internal/control/objects"
	"widecloud/internal/lend"
	"widecloud/internal/state"
	"widecloud/internal/store"
	"widecloud/internal/wire"
)

// keepTelling is how long a borrower that was not reached is still told of a loan that has ended.
const keepTelling = 30 * 24 * time.Hour

// documents says what is done with each kind of document.
func (ln *Lending) documents() {
	on := func(kind string, take func(context.Context, wire.Verified) (any, error)) {
		ln.Federation.OnDocument(kind, func(ctx context.Context, d wire.Verified) (answer any, err error) {
			err = ln.ByMachine(objects.AsPeer(ctx, d.From), "peer:"+d.From, "document "+kind, func(ctx context.Context) (err error) {
				answer, err = take(ctx, d)
				return err
			})
			return answer, err
		})
	}
	on(wire.DocOffers, ln.takeOffers)
	on(wire.DocLoanRequest, ln.takeLoanRequest)
	on(wire.DocLoan, ln.takeLoan)
	on(wire.DocLoanRenew, ln.takeLoanRenew)
	on(wire.DocViews, ln.networks.TakeViews)
}

// takeOffers keeps a peer's offers, all of them at once.
func (ln *Lending) takeOffers(ctx context.Context, d wire.Verified) (any, error) {
	var body wire.Offers
	if err := d.DecodeBody(&body); err != nil {
		return nil, err
	}
	if err := ln.judgeOffers(d.From, body.Offers); err != nil {
		return nil, err
	}
	if err := judgeLocation(body.Location); err != nil {
		return nil, err
	}
	return nil, ln.Write(ctx, func(tx *state.Tx) error {
		if err := ln.Federation.Advance(tx, d); err != nil {
			return err
		}
		old, err := objects.ListRecords[wire.OfferBody](tx, objects.PrefixOffers+d.From+"/")
		if err != nil {
			return err
		}
		for _, o := range body.Offers {
			delete(old, o.Name)
			if err := objects.PutRecord(tx, objects.PrefixOffers+d.From+"/"+o.Name, o); err != nil {
				return err
			}
			shown := &api.Offer{Meta: api.Meta{Name: o.Name + "@" + d.From, UID: o.UID, Home: d.From, Created: ln.Now()}, Spec: o.Spec, Status: api.OfferStatus{Serial: d.Serial}}
			if have, err := objects.Get[api.Offer](tx, shown.Name); err == nil {
				shown.Created = have.Created
			}
			if err := objects.Put(tx, shown); err != nil {
				return err
			}
		}
		if err := showLocation(tx, d.From, body.Location); err != nil {
			return err
		}
		for name := range old {
			if err := objects.Remove(tx, objects.PrefixOffers+d.From+"/"+name); err != nil {
				return err
			}
			if err := objects.Remove(tx, objects.Key(api.KindOffer, name+"@"+d.From)); err != nil {
				return err
			}
		}
		return nil
	})
}

// showLocation keeps where a peer says that it is.
func showLocation(tx *state.Tx, peer string, at *api.Location) error {
	p, err := objects.Get[api.Peer](tx, peer)
	if err != nil {
		return err
	}
	p.Status.Location = at
	return objects.Put(tx, p)
}

// takeLoanRequest grants a loan if the offer has room for it, and tells the borrower before it answers.
func (ln *Lending) takeLoanRequest(ctx context.Context, d wire.Verified) (any, error) {
	var r wire.LoanRequest
	if err := d.DecodeBody(&r); err != nil {
		return nil, err
	}
	if err := cloud.ValidateName("body.name", r.Name); err != nil {
		return nil, err
	}
	err := ln.Write(ctx, func(tx *state.Tx) error {
		if err := ln.Federation.Advance(tx, d); err != nil {
			return err
		}
		if have, err := objects.Get[api.Loan](tx, r.Name); err == nil {
			if have.Spec.Borrower != d.From || have.Spec.Lender != ln.Name || have.Spec.Offer != r.Offer || have.Spec.Amount != r.Amount {
				return api.Errorf(api.CodeExists, "there is another loan called %s", r.Name)
			}
			return nil
		}
		offers, err := ln.rooms.OwnOffers(tx)
		if err != nil {
			return err
		}
		o := offers[r.Offer]
		if o == nil || o.Deleting {
			return &api.Error{Code: api.CodeRefused, Field: "body.offer", Message: fmt.Sprintf("site %s has no offer %q", ln.Name, r.Offer), Reasons: []api.Reason{{Site: ln.Name, Code: "loan", Message: "there is no such offer", Advice: "wcc offer list"}}}
		}
		loans, err := ln.rooms.LoansFromUs(tx)
		if err != nil {
			return err
		}
		if n := liveLoans(loans, d.From); n >= maxLoans {
			return &api.Error{Code: api.CodeRefused, Field: "body.name", Message: fmt.Sprintf("%s has %d loans from %s already: give one back first", d.From, n, ln.Name)}
		}
		if reasons := lend.CanBorrow(*o, loans, d.From, r.Amount); len(reasons) > 0 {
			return &api.Error{Code: api.CodeRefused, Field: "body.amount", Message: fmt.Sprintf("offer %s does not lend that to %s", o.Name, d.From), Reasons: reasons}
		}
		l := api.Loan{Meta: ln.NewMeta(r.Name, ""), Spec: api.LoanSpec{Offer: r.Offer, Lender: ln.Name, Borrower: d.From, Amount: r.Amount}}
		l = lend.Grant(l, ln.leaseOf(o), ln.Now())
		ln.Event(tx, "loan.granted", "loans/"+l.Name, "", fmt.Sprintf("%s borrows %s", d.From, text(r.Amount)))
		return objects.Put(tx, &l)
	})
	if err != nil {
		return nil, err
	}
	return nil, ln.sendLoan(ctx, r.Name)
}

// maxLoans is how many loans a site has from us at a time.
const maxLoans = 100

// sendLoan tells a borrower of its loan. One letter of a loan is under way at a time: of two, the older one could come last.
func (ln *Lending) sendLoan(ctx context.Context, name string) error {
	select {
	case ln.sending <- struct{}{}:
		defer func() { <-ln.sending }()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	var body wire.LoanBody
	var borrower, seal string
	if err := ln.Read(ctx, func(tx *state.Tx) error {
		l, err := objects.Get[api.Loan](tx, name)
		if err != nil {
			return err
		}
		offers, err := ln.rooms.OwnOffers(tx)
		if err != nil {
			return err
		}
		left := max(0, l.Status.Expires.Sub(ln.Now()).Seconds())
		body = wire.LoanBody{
			Name: l.Name, UID: l.UID, Spec: l.Spec, State: l.Status.State, LeaseSeconds: left,
			GraceSeconds: ln.graceOf(offers[l.Spec.Offer]).Seconds(), Message: l.Status.Message,
		}
		borrower, seal = l.Spec.Borrower, loanSeal(l)
		return nil
	}); err != nil {
		return err
	}
	s, err := ln.Federation.Session(borrower, false)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	if err := ln.Federation.Send(ctx, borrower, wire.DocLoan, name, objects.DocumentTime, body); err != nil {
		return err
	}
	ln.letters.Set("loan/"+name, fmt.Sprintf("%d %s", s.ID(), seal))
	return nil
}

// loanSeal is what a borrower must know of a loan: when it is another one, it is told again.
func loanSeal(l *api.Loan) string {
	return fmt.Sprintf("%s %d", l.Status.State, l.Status.Expires.UnixMilli())
}

// takeLoan keeps what a lender says of a loan to us. Only what was asked for here is a loan: a gift would send VMs, and
// what their users wrote for them, to whoever gives it.
func (ln *Lending) takeLoan(ctx context.Context, d wire.Verified) (any, error) {
	var b wire.LoanBody
	if err := d.DecodeBody(&b); err != nil {
		return nil, err
	}
	if err := ln.judgeLoan(d.From, b); err != nil {
		return nil, err
	}
	return nil, ln.Write(store.Urgent(ctx), func(tx *state.Tx) error {
		if err := ln.Federation.Advance(tx, d); err != nil {
			return err
		}
		l, err := objects.Get[api.Loan](tx, b.Name)
		switch {
		case errors.Is(err, &api.Error{Code: api.CodeNotFound}):
			if l, err = ln.newLoan(tx, d.From, b); err != nil {
				return err
			}
		case err != nil:
			return err
		case l.Spec != b.Spec:
			return &api.Error{Code: api.CodeConflict, Field: "body.spec", Message: fmt.Sprintf("loan %s was agreed on otherwise: a loan does not change; give it back and borrow anew", b.Name)}
		}
		if l.Status.State != b.State && b.State == api.LoanReclaimed {
			ln.Event(tx, "loan.reclaimed", "loans/"+b.Name, "", fmt.Sprintf("%s takes it back: %s", d.From, cloud.Line(b.Message, objects.MaxText)))
		}
		l.Status = api.LoanStatus{
			State: b.State, Serial: d.Serial, Message: cloud.Line(b.Message, objects.MaxText), Renewed: ln.Now(), Grace: api.Seconds(b.GraceSeconds),
			Expires: ln.Now().Add(api.Seconds(b.LeaseSeconds).Duration()),
		}
		if l.Status.Used, err = ln.rooms.Borrowed(tx, l.Name, ""); err != nil {
			return err
		}
		return objects.Put(tx, l)
	})
}

// loanRequest is a loan that was asked for and has not come yet.
type loanRequest struct {
	Offer  string        `json:"offer"`
	Amount api.Resources `json:"amount"`
	Asked  time.Time     `json:"asked"`
}

func requestKey(lender, name string) string { return objects.PrefixRequests + lender + "/" + name }

// newLoan makes a loan of what was asked for.
func (ln *Lending) newLoan(tx *state.Tx, lender string, b wire.LoanBody) (*api.Loan, error) {
	r, err := objects.Record[loanRequest](tx, requestKey(lender, b.Name))
	if errors.Is(err, store.ErrNotFound) {
		return nil, &api.Error{Code: api.CodeForbidden, Field: "body.name", Message: fmt.Sprintf("%s has not asked %s for a loan %s", ln.Name, lender, b.Name)}
	}
	if err != nil {
		return nil, err
	}
	if b.Spec.Offer != r.Offer || b.Spec.Amount != r.Amount {
		return nil, &api.Error{Code: api.CodeConflict, Field: "body.spec", Message: fmt.Sprintf("loan %s was asked for as %s of offer %s", b.Name, text(r.Amount), r.Offer)}
	}
	l := &api.Loan{Meta: api.Meta{Name: b.Name, UID: b.UID, Home: lender, Created: ln.Now()}, Spec: b.Spec}
	return l, objects.Remove(tx, requestKey(lender, b.Name))
}

// endedLoansKept is how many loans that are over are kept for each peer and direction, for people to read.
const endedLoansKept = 20

// requestLife is how long a loan that was asked for is waited for.
const requestLife = 24 * time.Hour

// Prune forgets the oldest loans that are over and that nothing is under, and requests that nobody answered.
func (ln *Lending) Prune(ctx context.Context) error {
	var old []*api.Loan
	var unanswered []string
	if err := ln.Read(ctx, func(tx *state.Tx) error {
		loans, err := objects.List[api.Loan](tx)
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
		requests, err := objects.ListRecords[loanRequest](tx, objects.PrefixRequests)
		for key, r := range requests {
			if ln.Now().Sub(r.Asked) > requestLife {
				unanswered = append(unanswered, objects.PrefixRequests+key)
			}
		}
		return err
	}); err != nil {
		return err
	}
	if err := ln.pruneLedger(ctx); err != nil || len(old)+len(unanswered) == 0 {
		return err
	}
	return ln.Write(store.Urgent(ctx), func(tx *state.Tx) error {
		for _, key := range unanswered {
			if err := objects.Remove(tx, key); err != nil {
				return err
			}
		}
		for _, l := range old {
			peer := l.Spec.Lender
			if peer == ln.Name {
				peer = l.Spec.Borrower
			}
			if err := ln.Federation.ForgetSubject(tx, peer, l.Name, wire.DocLoan, wire.DocLoanRequest, wire.DocLoanRenew); err != nil {
				return err
			}
			if err := ln.closeAccount(tx, l.Name); err != nil {
				return err
			}
			if err := objects.Remove(tx, objects.Key(api.KindLoan, l.Name)); err != nil {
				return err
			}
		}
		return nil
	})
}

// takeLoanRenew extends a loan from us, or takes it back from a borrower that has no more use for it.
func (ln *Lending) takeLoanRenew(ctx context.Context, d wire.Verified) (any, error) {
	var b wire.LoanRenew
	if err := d.DecodeBody(&b); err != nil {
		return nil, err
	}
	if err := ln.Write(store.Urgent(ctx), func(tx *state.Tx) error {
		if err := ln.Federation.Advance(tx, d); err != nil {
			return err
		}
		l, err := objects.Get[api.Loan](tx, b.Name)
		if err != nil {
			return err
		}
		if l.Spec.Borrower != d.From || l.Spec.Lender != ln.Name {
			return api.Errorf(api.CodeForbidden, "loan %s is not %s's", b.Name, d.From)
		}
		offers, err := ln.rooms.OwnOffers(tx)
		if err != nil {
			return err
		}
		o := offers[l.Spec.Offer]
		changed := *l
		if b.Return {
			changed = lend.Reclaim(*l, ln.graceOf(o), ln.Now(), "given back by "+d.From)
		} else if l.Status.State == api.LoanActive {
			if changed, err = lend.Renew(*l, ln.leaseOf(o), ln.Now()); err != nil {
				return err
			}
		}
		return objects.Put(tx, &changed)
	}); err != nil {
		return nil, err
	}
	return nil, ln.sendLoan(ctx, b.Name)
}

// letter is a document that a peer is to have. It is sent again when its seal is another one.
type letter struct {
	peer, key, seal string
	send            func(context.Context) error
}

// Tell sends each peer what it does not know yet: our offers, our networks as they concern it, and its loans.
func (ln *Lending) Tell(ctx context.Context) error {
	var all []letter
	if err := ln.Read(ctx, func(tx *state.Tx) (err error) {
		all, err = ln.write(tx)
		return err
	}); err != nil {
		return err
	}
	for _, l := range all {
		s, err := ln.Federation.Session(l.peer, false)
		if err != nil {
			continue
		}
		// A new session means that the peer may have been restored from an old copy: it is told again.
		seal := fmt.Sprintf("%d %s", s.ID(), l.seal)
		if ln.letters.Is(l.key, seal) {
			continue
		}
		ln.Once("tell/"+l.key, func(ctx context.Context) { ln.post(ctx, l, seal) })
	}
	return nil
}

// post sends a letter.
func (ln *Lending) post(ctx context.Context, l letter, seal string) {
	sending, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	if err := l.send(sending); err != nil {
		ln.Log.Warn("tell the peer", "peer", l.peer, "document", l.key, "err", err)
		ln.Pause(ctx)
		return
	}
	ln.letters.Set(l.key, seal)
	ln.Poke() // it may have changed meanwhile
}

// write writes the letters to all peers.
func (ln *Lending) write(tx *state.Tx) (out []letter, err error) {
	peers, err := objects.List[api.Peer](tx)
	if err != nil || len(peers) == 0 {
		return nil, err
	}
	offers, err := ln.offerBodies(tx)
	if err != nil {
		return nil, err
	}
	own, err := ln.networks.OwnNetworks(tx)
	if err != nil {
		return nil, err
	}
	for _, p := range peers {
		theirs := wire.Offers{Offers: []wire.OfferBody{}, Location: ln.Location}
		for _, o := range offers {
			if lend.Addressed(api.Offer{Meta: api.Meta{Home: ln.Name}, Spec: o.Spec}, p.Name) {
				theirs.Offers = append(theirs.Offers, o)
			}
		}
		out = append(out, letter{p.Name, wire.DocOffers + "/" + p.Name, string(wire.RawBody(theirs)), func(ctx context.Context) error {
			return ln.Federation.Send(ctx, p.Name, wire.DocOffers, "", objects.DocumentTime, theirs)
		}})
		views, err := ln.networks.ViewsFor(tx, p.Name, own)
		if err != nil {
			return nil, err
		}
		out = append(out, letter{p.Name, wire.DocViews + "/" + p.Name, string(wire.RawBody(views)), func(ctx context.Context) error {
			return ln.networks.SendViews(ctx, p.Name, views)
		}})
	}
	loans, err := ln.rooms.LoansFromUs(tx)
	for _, l := range loans {
		if l.Status.State == api.LoanEnded && ln.Now().Sub(l.Status.Expires) > keepTelling {
			continue
		}
		out = append(out, letter{l.Spec.Borrower, "loan/" + l.Name, loanSeal(&l), func(ctx context.Context) error { return ln.sendLoan(ctx, l.Name) }})
	}
	return out, err
}

// offerBodies are our offers as peers are told of them, in the order of their names.
func (ln *Lending) offerBodies(tx *state.Tx) (out []wire.OfferBody, err error) {
	offers, err := ln.rooms.OwnOffers(tx)
	if err != nil {
		return nil, err
	}
	gateways, err := ln.networks.OwnGateways(tx)
	if err != nil {
		return nil, err
	}
	cpus, err := ln.cpuKinds(tx)
	if err != nil {
		return nil, err
	}
	for _, name := range slices.Sorted(maps.Keys(offers)) {
		if o := offers[name]; !o.Deleting {
			out = append(out, wire.OfferBody{Name: o.Name, UID: o.UID, Spec: o.Spec, CPUs: cpus, Gateways: gateways})
		}
	}
	return out, nil
}

// cpuKinds are the kinds of hypervisors of this site, each with the guest models that every one of the kind can run.
func (ln *Lending) cpuKinds(tx *state.Tx) ([]api.CPU, error) {
	var kinds []api.CPU
	for h := range objects.Each[api.Host](tx) {
		if !objects.HasRole(h, api.RoleHypervisor) || h.Status.Hypervisor == "" {
			continue
		}
		cpu := h.Status.CPU
		i := slices.IndexFunc(kinds, func(k api.CPU) bool { return k.Arch == cpu.Arch && k.Accel == cpu.Accel })
		if i < 0 {
			kinds = append(kinds, api.CPU{Arch: cpu.Arch, Accel: cpu.Accel, Usable: slices.Clone(cpu.Usable), Profile: cpu.Profile, Disks: cpu.Disks})
			continue
		}
		kinds[i].Profile, kinds[i].Disks = min(kinds[i].Profile, cpu.Profile), min(kinds[i].Disks, cpu.Disks)
		kinds[i].Usable = slices.DeleteFunc(kinds[i].Usable, func(m string) bool { return !slices.Contains(cpu.Usable, m) })
	}
	return kinds, nil
}
