package api

// KindOffer is the kind of Offer.
const KindOffer Kind = "offers"

var _ = describe[Offer](Noun{
	Rank: 60, Help: "What this site lends, and what others offer it.",
	Created: true, Changed: true, Deleted: true,
})

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

// OfferStatus says what is lent of it.
type OfferStatus struct {
	Lent   Resources `json:"lent"`
	Serial uint64    `json:"serial"` // of the signed document
}

// Kind is KindOffer.
func (*Offer) Kind() Kind { return KindOffer }
