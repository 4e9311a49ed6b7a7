package api

import (
	"context"
	"net/http"
	"net/url"
)

// Ledger is what was lent and borrowed over time, as this site has counted it: a row for each loan and day, the oldest
// day first. The other side of a loan keeps a ledger of its own.
type Ledger struct {
	Days []LedgerDay `json:"days"`
}

// LedgerDay is what was lent by one loan on one day.
type LedgerDay struct {
	Day      string  `json:"day"`            // of UTC: 2026-11-30
	Loan     string  `json:"loan,omitempty"` // empty: several loans between these sites, that have ended
	Lender   string  `json:"lender"`
	Borrower string  `json:"borrower"`
	Granted  Hours   `json:"granted"` // what the loan had room for, used or not
	Used     Hours   `json:"used"`    // what VMs took of it
	VMs      float64 `json:"vm_hours"`
}

// Hours are amounts times hours: two CPUs for half an hour are one CPU hour.
type Hours struct {
	CPUs      float64 `json:"cpu_hours"`
	Memory    float64 `json:"memory_gib_hours"`
	Disk      float64 `json:"disk_gib_hours"`
	Addresses float64 `json:"address_hours"`
}

// Ledger is what was lent and borrowed from a day (2026-11-30; empty: as long as it is kept) up to now.
func (c *Client) Ledger(ctx context.Context, from string) (*Ledger, error) {
	at := "/v1/ledger"
	if from != "" {
		at += "?" + url.Values{"from": {from}}.Encode()
	}
	return call[Ledger](ctx, c, http.MethodGet, at, nil)
}
