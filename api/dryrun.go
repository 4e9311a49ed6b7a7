package api

import "time"

// VMDryRun is the answer of POST /v1/vms/dry-run: what a creation of the VM would come to now. Nothing was written and nobody keeps
// room for it.
type VMDryRun struct {
	// Refused is the error that a creation would be answered with; nil: it would be accepted. Then Places are not known.
	Refused *Error `json:"refused,omitempty"`
	// Places has this site and its peers: first where the VM would go, then where else it could, then the others. When none is chosen
	// the VM would wait for room.
	Places []PlaceVerdict `json:"places,omitempty"`
	Waits  string         `json:"waits,omitempty"` // for what it would wait before it is placed: its image, or to be started
	Quota  *QuotaUse      `json:"quota,omitempty"` // of its owner
	Loan   *LoanUse       `json:"loan,omitempty"`  // that it would take from
}

// Chosen is where the VM would go; nil: nowhere now.
func (d *VMDryRun) Chosen() *PlaceVerdict {
	for i := range d.Places {
		if d.Places[i].Verdict == PlaceChosen {
			return &d.Places[i]
		}
	}
	return nil
}

// Verdict is what a dry run says of a place.
type Verdict string

// The verdicts.
const (
	PlaceChosen   Verdict = "chosen"    // it would go there
	PlacePossible Verdict = "possible"  // it could, and another place is better
	PlaceRefused  Verdict = "refused"   // the reasons say why
	PlaceNoAnswer Verdict = "no-answer" // the site is not reached, or has not answered in time; a creation that chose it would ask again
)

// PlaceVerdict is a site in the answer of a dry run.
type PlaceVerdict struct {
	Site    string    `json:"site"`
	Self    bool      `json:"self,omitempty"`
	Verdict Verdict   `json:"verdict"`
	Asked   bool      `json:"asked,omitempty"`       // a lender that has answered for itself; the others are judged by what is known here
	Host    string    `json:"host,omitempty"`        // own site: the best host
	Loan    string    `json:"loan,omitempty"`        // a lender: the loan that it would be under
	Free    float64   `json:"free_memory,omitempty"` // part of the memory that would be left of the host or the loan, 0 to 1
	Image   bool      `json:"image,omitempty"`       // the host has the image already
	Since   time.Time `json:"since,omitzero"`        // no-answer: not reached since then; zero: it is reached, or that is not known
	Reasons []Reason  `json:"reasons,omitempty"`     // why not; of the own site also why not on its other hosts
}

// QuotaUse is what an owner has and may have.
type QuotaUse struct {
	Owner  string    `json:"owner"`
	Quota  *Quota    `json:"quota,omitempty"` // nil: no limit
	Before Resources `json:"before"`
	After  Resources `json:"after"`
}

// LoanUse is what is taken of a loan.
type LoanUse struct {
	Loan   string    `json:"loan"`
	Lender string    `json:"lender"`
	Amount Resources `json:"amount"`
	Before Resources `json:"before"`
	After  Resources `json:"after"`
}
