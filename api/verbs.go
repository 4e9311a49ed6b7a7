package api

// Listing is the answer to a list: what the reader may see of what it selected, in the order of names. A watch from its
// revision misses nothing; all pages of one list have the revision of the first.
type Listing[T any] struct {
	Revision int64  `json:"revision"`
	Items    []T    `json:"items"`
	Next     string `json:"next,omitempty"` // the cursor of the next page; empty: this is the last
}

// MigrateRequest is the body of POST /v1/vms/{name}/migrate.
type MigrateRequest struct {
	Target string `json:"target"`            // SITE or SITE/HOST
	DryRun bool   `json:"dry_run,omitempty"` // only say whether it would be accepted
}

// MigrateResult is its answer: a job, or with DryRun the reasons why it would be refused (none: it would be accepted).
type MigrateResult struct {
	Job     *Job     `json:"job,omitempty"`
	Reasons []Reason `json:"reasons,omitempty"`
}

// RebootRequest is the body of POST /v1/vms/{name}/reboot.
type RebootRequest struct {
	Hard bool `json:"hard,omitempty"` // like the reset button; otherwise the guest is asked (ACPI)
}

// RenameRequest is the body of POST /v1/vms/{name}/rename.
type RenameRequest struct {
	Name string `json:"name"` // the new one
}

// WhyResult is the answer of GET /v1/vms/{name}/why.
type WhyResult struct {
	Reasons []Reason `json:"reasons"`
}

// JoinTokenRequest is the body of POST /v1/hosts/join-tokens.
type JoinTokenRequest struct {
	Host  string     `json:"host"`
	Roles []HostRole `json:"roles"`
}

// Token is a secret that is shown this once: the answer of POST /v1/hosts/join-tokens.
type Token struct {
	Token string `json:"token"`
}

// Invitation is what one site's admin gives another's: the answer of POST /v1/peers/invitations there, the body of
// POST /v1/peers here.
type Invitation struct {
	Invitation string `json:"invitation"`
}

// LoanRequest is the body of POST /v1/loans: borrow an amount under a peer's offer.
type LoanRequest struct {
	Lender string    `json:"lender"`
	Offer  string    `json:"offer"`
	Amount Resources `json:"amount"`
}
