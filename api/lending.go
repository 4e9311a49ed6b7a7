package api

import "time"

// Offer is what this site lends: who may borrow how much, and what happens when it is taken back. An offer from a peer
// is shown here too, with Meta.Home set to the peer.
type Offer struct {
	Meta
	Spec   OfferSpec   `json:"spec"`
	Status OfferStatus `json:"status"`
}

// OfferSpec is the lender's word. (Model: Kueue's cohorts: LendLimit and BorrowLimit, reclaim.)
type OfferSpec struct {
	To          []string      `json:"to"`                     // site names, or "*" for every peer
	LendLimit   Resources     `json:"lend_limit"`             // at most this much over all borrowers
	BorrowLimit *Resources    `json:"borrow_limit,omitempty"` // at most this much for one borrower; nil: LendLimit
	Lease       Seconds       `json:"lease_seconds"`          // a loan that is not renewed for so long ends
	Grace       Seconds       `json:"grace_seconds"`          // time that a borrower has after a reclaim
	OnReclaim   ReclaimAction `json:"on_reclaim"`             // what the lender does when the grace is over
}

// ReclaimAction is what happens to a guest that is still there when the grace is over.
type ReclaimAction string

// The reclaim actions. Before the grace ends the borrower is asked to migrate its guests away in every case.
const (
	ReclaimStop ReclaimAction = "stop"
)

// Seconds is a length of time in seconds, as it stands in documents.
type Seconds float64

// Duration is s as a time.Duration.
func (s Seconds) Duration() time.Duration { return time.Duration(float64(s) * float64(time.Second)) }

// OfferStatus says what is lent of it.
type OfferStatus struct {
	Lent   Resources `json:"lent"`
	Serial uint64    `json:"serial"` // of the signed document
}

// Kind is KindOffer.
func (*Offer) Kind() Kind { return KindOffer }

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
