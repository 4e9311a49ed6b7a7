package rooms

import (
	"slices"
	"strings"

	"widecloud/api"
	"widecloud/internal/cloud"
	"widecloud/internal/control/objects"
	"widecloud/internal/lend"
	"widecloud/internal/state"
	"widecloud/internal/wire"
)

// ShortInLoan says what a loan to us has too little of when a VM under it takes more.
func (rs *Rooms) ShortInLoan(tx *state.Tx, name string, before, after api.Resources) ([]api.Reason, error) {
	l, err := objects.Get[api.Loan](tx, name)
	if err != nil {
		return nil, err
	}
	used, err := rs.Borrowed(tx, name, "")
	if err != nil {
		return nil, err
	}
	reasons := lend.Fits("loan "+name, lend.Sub(l.Spec.Amount, lend.Sub(used, before)), after)
	for i := range reasons {
		reasons[i].Site, reasons[i].Advice = l.Spec.Lender, "borrow more: wcc loan request"
	}
	return reasons, nil
}

// OffersOf is what a peer offers us.
func (rs *Rooms) OffersOf(tx *state.Tx, peer string) ([]wire.OfferBody, error) {
	m, err := objects.ListRecords[wire.OfferBody](tx, objects.PrefixOffers+peer+"/")
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

// OwnOffers are this site's own offers, by name.
func (rs *Rooms) OwnOffers(tx *state.Tx) (map[string]*api.Offer, error) {
	all, err := objects.List[api.Offer](tx)
	if err != nil {
		return nil, err
	}
	out := map[string]*api.Offer{}
	for _, o := range all {
		if o.Home == rs.Name {
			out[o.Name] = o
		}
	}
	return out, nil
}

func (rs *Rooms) LoansFromUs(tx *state.Tx) ([]api.Loan, error) {
	all, err := objects.List[api.Loan](tx)
	if err != nil {
		return nil, err
	}
	var out []api.Loan
	for _, l := range all {
		if l.Spec.Lender == rs.Name {
			out = append(out, *l)
		}
	}
	return out, nil
}

// Admit says why a VM does not fit under a loan from us.
func (rs *Rooms) Admit(tx *state.Tx, loan api.Loan, vm, job string, needs api.Resources) ([]api.Reason, error) {
	used, err := rs.LoanUse(tx, loan.Name, job)
	if err != nil {
		return nil, err
	}
	reasons := lend.Admit(loan, lend.Others(used, vm), needs)
	for i := range reasons {
		reasons[i].Site = rs.Name
	}
	return reasons, nil
}

// Borrowed is what our VMs and their migrations take of a loan to us, but for one VM.
func (rs *Rooms) Borrowed(tx *state.Tx, loan, exceptVM string) (api.Resources, error) {
	var sum api.Resources
	for v := range objects.By[api.VM](tx, "loan", loan) {
		if v.Name == exceptVM {
			continue
		}
		needs, err := rs.NeedsAt(tx, v, v.Status.Site)
		if err != nil {
			return sum, err
		}
		sum = lend.Add(sum, needs)
	}
	for _, m := range objects.Records[objects.Migration](tx, objects.PrefixMigrations, "target", loan) {
		if m.VM != exceptVM && m.Source.Loan != loan && !cloud.Migrate.Decided(m.Step) {
			sum = lend.Add(sum, m.Call.Needs)
		}
	}
	return sum, nil
}

// LoanUse is who uses a loan from us: the guests, and the claims of guests to come but for one job's.
func (rs *Rooms) LoanUse(tx *state.Tx, loan, exceptJob string) ([]api.Guest, error) {
	var out []api.Guest
	for _, prefix := range []string{objects.PrefixOrders, objects.PrefixClaims} {
		for key, g := range objects.Records[wire.Claim](tx, prefix, "loan", loan) {
			if key != objects.PrefixClaims+exceptJob {
				out = append(out, api.Guest{Spec: api.GuestSpec{VM: g.Order.Name, VMUID: g.VM, Loan: g.Loan, Needs: g.Needs, Host: g.Host, Epoch: g.Order.Epoch}})
			}
		}
	}
	return out, nil
}

// LoanAt chooses the loan under which a VM goes to a peer: the active one with the most memory left. None is not an error:
// the check says why.
func (rs *Rooms) LoanAt(tx *state.Tx, site, vm string, needs api.Resources) (string, error) {
	loans, err := objects.List[api.Loan](tx)
	if err != nil {
		return "", err
	}
	best, room := "", -1
	for _, l := range loans {
		if l.Spec.Lender != site || l.Spec.Borrower != rs.Name || l.Status.State != api.LoanActive {
			continue
		}
		used, err := rs.Borrowed(tx, l.Name, vm)
		if err != nil {
			return "", err
		}
		left := lend.Sub(l.Spec.Amount, used)
		score := left.MemoryMiB
		if len(lend.Fits(l.Name, left, needs)) > 0 {
			score = 0
		}
		if score > room {
			best, room = l.Name, score
		}
	}
	return best, nil
}
