package lend

import (
	"fmt"
	"slices"
	"strings"

	"widecloud/api"
)

// counts tells whether a loan was granted under an offer. A document that leaves its lender or home open counts: rather
// lend too little than too much.
func counts(o api.Offer, l api.Loan) bool {
	return l.Spec.Offer == o.Name && (l.Spec.Lender == o.Home || l.Spec.Lender == "" || o.Home == "")
}

// Held is what a loan takes out of its offer now.
func Held(l api.Loan) api.Resources {
	if l.Status.State == api.LoanEnded {
		return l.Status.Used
	}
	return l.Spec.Amount
}

// Lent is what the loans take out of an offer: over all borrowers, or to one of them. (borrower "": all)
func Lent(o api.Offer, loans []api.Loan, borrower string) api.Resources {
	var sum api.Resources
	for _, l := range loans {
		if counts(o, l) && (borrower == "" || l.Spec.Borrower == borrower) {
			sum = Add(sum, Held(l))
		}
	}
	return sum
}

// Used is what the guests under a loan need.
func Used(loan string, guests []api.Guest) api.Resources {
	var sum api.Resources
	for _, g := range guests {
		if g.Spec.Loan == loan {
			sum = Add(sum, g.Spec.Needs)
		}
	}
	return sum
}

// Addressed tells whether an offer is to a site. A site does not lend to itself.
func Addressed(o api.Offer, borrower string) bool {
	return borrower != "" && borrower != o.Home &&
		(slices.Contains(o.Spec.To, "*") || slices.Contains(o.Spec.To, borrower))
}

// CanBorrow tells whether the lender may grant a new loan of amount: nil, or every reason against it. loans are those of
// the lender's own store.
func CanBorrow(o api.Offer, loans []api.Loan, borrower string, amount api.Resources) []api.Reason {
	var rs []api.Reason
	refuse := func(code, advice, format string, args ...any) {
		rs = append(rs, api.Reason{Site: o.Home, Code: code, Message: fmt.Sprintf(format, args...), Advice: advice})
	}
	switch {
	case borrower == "":
		refuse("permit", "", "the borrower is not named")
	case borrower == o.Home:
		refuse("permit", "use the hosts of the site itself", "a site does not borrow from itself")
	case !Addressed(o, borrower):
		refuse("permit", fmt.Sprintf("ask %s to add %s to the offer", o.Home, borrower),
			"offer %s is to %s, not to %s", o.Name, listOr(o.Spec.To, "nobody"), borrower)
	}
	if o.Deleting {
		refuse("loan", "choose another offer", "offer %s is being withdrawn", o.Name)
	}
	if name := Negative(amount); name != "" {
		refuse("loan", "", "amount.%s is negative", name)
	}
	if amount == (api.Resources{}) {
		refuse("loan", "say how much is wanted", "nothing is asked for")
	}
	limit := func(limit, lent api.Resources, to string) {
		for _, d := range fields {
			want, all, out := d.of(amount), d.of(limit), d.of(lent)
			if left := max(0, all-out); want > left {
				advice := fmt.Sprintf("ask for at most %d", left)
				if left == 0 {
					advice = "wait until something is given back, or ask for more to be offered"
				}
				refuse(d.code, advice, "asks for %d %s; offer %s lends %d to %s, %d lent, %d left",
					want, d.unit, o.Name, all, to, out, left)
			}
		}
	}
	limit(o.Spec.LendLimit, Lent(o, loans, ""), "all borrowers together")
	if o.Spec.BorrowLimit != nil {
		limit(*o.Spec.BorrowLimit, Lent(o, loans, borrower), borrower)
	}
	return rs
}

func listOr(names []string, none string) string {
	if len(names) == 0 {
		return none
	}
	return strings.Join(names, ", ")
}

// Admit tells whether a new guest with these needs fits under a loan: nil, or every reason against it. guests are those
// of the lender's own store, without the one that is asked about (see Others).
func Admit(l api.Loan, guests []api.Guest, needs api.Resources) []api.Reason {
	var rs []api.Reason
	switch l.Status.State {
	case api.LoanActive:
	case api.LoanReclaimed:
		rs = append(rs, api.Reason{Code: "loan", Message: fmt.Sprintf("loan %s was taken back: it takes no new guest", l.Name),
			Advice: "borrow anew, or choose another site"})
	default:
		rs = append(rs, api.Reason{Code: "loan", Message: fmt.Sprintf("loan %s is %s, not active", l.Name, stateOr(l.Status.State)),
			Advice: "borrow anew"})
	}
	if l.Deleting {
		rs = append(rs, api.Reason{Code: "loan", Message: fmt.Sprintf("loan %s is being given back", l.Name), Advice: "borrow anew"})
	}
	if name := Negative(needs); name != "" {
		rs = append(rs, api.Reason{Code: "loan", Message: fmt.Sprintf("needs.%s is negative", name)})
	}
	short := Fits("loan "+l.Name, Sub(l.Spec.Amount, Used(l.Name, guests)), needs)
	for i := range short {
		short[i].Advice = "borrow more, or move a guest of this loan away"
	}
	rs = append(rs, short...)
	for i := range rs {
		rs[i].Site = l.Spec.Lender
	}
	return rs
}

func stateOr(s api.LoanState) string {
	if s == "" {
		return "not granted"
	}
	return string(s)
}

// Others are the guests without those of one VM: a reservation that is asked for again does not stand in its own way.
func Others(guests []api.Guest, vmUID string) []api.Guest {
	var out []api.Guest
	for _, g := range guests {
		if g.Spec.VMUID != vmUID {
			out = append(out, g)
		}
	}
	return out
}
