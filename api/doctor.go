package api

import (
	"context"
	"net/http"
	"time"
)

// Severity is how bad a finding is.
type Severity string

// The severities, the worst last.
const (
	SeverityOK   Severity = "ok"
	SeverityWarn Severity = "warn" // it works, but will not for long, or not for all
	SeverityBad  Severity = "bad"  // something does not work
)

// Finding is something that an operator should know of the site, or of a host.
type Finding struct {
	ID       string    `json:"id"` // a stable word for what it is: host.down, certificate.ends, …
	Severity Severity  `json:"severity"`
	Object   string    `json:"object,omitempty"` // KIND/NAME; empty: the site itself
	Owner    string    `json:"owner,omitempty"`  // of the object
	Message  string    `json:"message"`          // what is found, with figures
	Advice   string    `json:"advice,omitempty"` // what to do about it
	Since    time.Time `json:"since,omitzero"`   // when it began, if that is known
}

// Diagnosis is what a site's controller finds wrong with the site.
type Diagnosis struct {
	Time     time.Time `json:"time"`
	Findings []Finding `json:"findings"` // the worst first; empty: nothing is wrong
}

// Doctor asks what is wrong at the site.
func (c *Client) Doctor(ctx context.Context) (*Diagnosis, error) {
	return call[Diagnosis](ctx, c, http.MethodGet, path("doctor"), nil)
}
