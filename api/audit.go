package api

import (
	"context"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// AuditResult is what became of an attempt.
type AuditResult string

// The results of attempts.
const (
	AuditDone    AuditResult = "done"
	AuditRefused AuditResult = "refused" // nothing was done: Code says why
	AuditFailed  AuditResult = "failed"  // the site could not: an internal error, or no room
)

// AuditEntry says who did what, or tried to. It never has a secret: of what may hold one, it has the name alone.
type AuditEntry struct {
	ID      int64       `json:"id"` // only goes up
	Time    time.Time   `json:"time"`
	Actor   string      `json:"actor,omitempty"`   // a user, "agent:HOST" or "peer:SITE"; empty: somebody who is not known
	Token   string      `json:"token,omitempty"`   // the id of the user's token
	Address string      `json:"address,omitempty"` // from where the user came: an IP address
	Verb    string      `json:"verb"`              // the operation, as the API's description names it; of agents and peers, their call's path
	Kind    Kind        `json:"kind,omitempty"`    // of the object
	Name    string      `json:"name,omitempty"`    // of the object
	Owner   string      `json:"owner,omitempty"`   // of the object
	Result  AuditResult `json:"result"`
	Code    Code        `json:"code,omitempty"` // why it was not done
	Field   string      `json:"field,omitempty"`
	Message string      `json:"message,omitempty"`
	// Changes are the objects that were created, changed and deleted by it. More is how many of them are left out here.
	Changes []AuditChange `json:"changes,omitempty"`
	More    int           `json:"more,omitempty"`
	// Omitted is how many attempts of the same kind of actor were refused before this one and have no entry: too many came at once.
	Omitted int `json:"omitted,omitempty"`
}

// AuditChange is what became of an object.
type AuditChange struct {
	Object string   `json:"object"`           // KIND/NAME
	Change string   `json:"change"`           // created, changed or deleted
	Fields []string `json:"fields,omitempty"` // what is different: "spec.cpus: 1 -> 2"; of texts that may hold secrets, the name alone
}

// AuditQuery says which entries are wanted: those that fulfil everything that it names. Its zero value is all.
type AuditQuery struct {
	Actor  string      // a user, "agent:HOST" or "peer:SITE"; "agent:" and "peer:" are all of these; "-" is whoever is not known
	Kind   Kind        // of the object, or of one that was changed by it
	Name   string      // of the same object
	Result AuditResult // "": any
	Verb   string
	Since  time.Time
	Before int64 // only entries older than the one of this id; 0: all
	After  int64 // only entries newer than the one of this id
	Limit  int   // of a page; 0: 100
}

// Audit is a page of the audit log.
type Audit struct {
	Items []AuditEntry `json:"items"`          // the newest first
	Next  int64        `json:"next,omitempty"` // for before, of the page of older ones; left out: there are none
}

// Audit gives a page of the audit log.
func (c *Client) Audit(ctx context.Context, q AuditQuery) (*Audit, error) {
	return call[Audit](ctx, c, http.MethodGet, path("audit")+"?"+q.values(0).Encode(), nil)
}

// AuditAfter waits up to wait (at most 30 s) until there are entries after that of q.After, and gives them. There may be none.
func (c *Client) AuditAfter(ctx context.Context, q AuditQuery, wait time.Duration) (*Audit, error) {
	return call[Audit](ctx, c, http.MethodGet, path("audit")+"?"+q.values(wait).Encode(), nil)
}

func (q AuditQuery) values(wait time.Duration) url.Values {
	v := url.Values{}
	for key, text := range map[string]string{"actor": q.Actor, "kind": string(q.Kind), "name": q.Name, "result": string(q.Result), "verb": q.Verb} {
		if text != "" {
			v.Set(key, text)
		}
	}
	for key, n := range map[string]int64{"before": q.Before, "after": q.After, "limit": int64(q.Limit)} {
		if n != 0 {
			v.Set(key, strconv.FormatInt(n, 10))
		}
	}
	if !q.Since.IsZero() {
		v.Set("since", q.Since.UTC().Format(time.RFC3339))
	}
	if wait > 0 {
		v.Set("wait", strconv.Itoa(int(wait.Seconds())))
	}
	return v
}
