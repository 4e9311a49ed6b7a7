package api

import "time"

// KindLoan is the kind of Loan.
const KindLoan Kind = "loans"

var _ = describe[Loan](Noun{
	Rank: 70, Help: "What is lent and borrowed.",
	States: []string{string(LoanActive), string(LoanReclaimed), string(LoanEnded)},
})

// Loan is an accepted part of an offer, with a lease. Both sites keep it; the lender's copy counts.
type Loan struct {
	Meta
	Spec   LoanSpec   `json:"spec"`
	Status LoanStatus `json:"status"`
}

// LoanSpec is the agreement.
type LoanSpec struct {
	Offer    string    `json:"offer"`
	Lender   string    `json:"lender"`
	Borrower string    `json:"borrower"`
	Amount   Resources `json:"amount"`
}

// LoanState is where a loan is in its life.
type LoanState string

// The states of a loan, in order.
const (
	LoanActive    LoanState = "active"
	LoanReclaimed LoanState = "reclaimed" // taken back; guests have the offer's grace to leave; nothing new is taken in
	LoanEnded     LoanState = "ended"
)

// LoanStatus is what is seen of a loan.
type LoanStatus struct {
	State   LoanState `json:"state"`
	Used    Resources `json:"used"`
	Renewed time.Time `json:"renewed,omitzero"`        // by this site's clock
	Expires time.Time `json:"expires,omitzero"`        // by this site's clock
	Grace   Seconds   `json:"grace_seconds,omitempty"` // that follows the lease; the borrower's copy only
	Serial  uint64    `json:"serial"`
	Message string    `json:"message,omitempty"`
}

// Kind is KindLoan.
func (*Loan) Kind() Kind { return KindLoan }

func (l *Loan) facets() facets {
	return facets{sites: []string{l.Spec.Lender, l.Spec.Borrower}, states: []string{string(l.Status.State)}}
}
