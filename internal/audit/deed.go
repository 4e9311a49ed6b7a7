package audit

import (
	"cmp"
	"context"
	"errors"
	"net/http"
	"sync"

	"widecloud/api"
)

const (
	maxChanges = 50  // of an entry
	maxFields  = 40  // of a change
	maxText    = 300 // bytes of a text of an entry
)

// Deed is an entry in the making. A nil Deed takes everything and keeps nothing.
type Deed struct {
	mu      sync.Mutex
	entry   api.AuditEntry
	dropped bool
}

// NewDeed begins an entry.
func NewDeed(e api.AuditEntry) *Deed { return &Deed{entry: e} }

type deedKey struct{}

// With makes a context in which d is done.
func With(ctx context.Context, d *Deed) context.Context { return context.WithValue(ctx, deedKey{}, d) }

// DeedOf is the deed of a context; nil when there is none.
func DeedOf(ctx context.Context) *Deed {
	d, _ := ctx.Value(deedKey{}).(*Deed)
	return d
}

// By says who does it.
func (d *Deed) By(actor, token string) {
	d.with(func(e *api.AuditEntry) { e.Actor, e.Token = actor, token })
}

// About says which object it is about, as far as that is known: what is empty says nothing.
func (d *Deed) About(k api.Kind, name, owner string) {
	d.with(func(e *api.AuditEntry) {
		e.Kind, e.Name, e.Owner = cmp.Or(k, e.Kind), cmp.Or(name, e.Name), cmp.Or(owner, e.Owner)
	})
}

// Changed says what was changed. owner is the organisation whose objects these are.
func (d *Deed) Changed(owner string, changes []api.AuditChange) {
	d.with(func(e *api.AuditEntry) {
		e.Owner = cmp.Or(e.Owner, owner)
		e.Changes = append(e.Changes, changes...)
	})
}

// Drop says that nothing was to be done: a question that had the form of a deed.
func (d *Deed) Drop() {
	if d == nil {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.dropped = true
}

func (d *Deed) with(f func(*api.AuditEntry)) {
	if d == nil {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	f(&d.entry)
}

// Entry is what is to be noted of the deed, which ended with err; ok is false when nothing is.
func (d *Deed) Entry(err error) (e api.AuditEntry, ok bool) {
	if d == nil {
		return e, false
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	e, ok = d.entry, !d.dropped
	e.Result = api.AuditDone
	var refusal *api.Error
	switch {
	case err == nil:
	case errors.As(err, &refusal):
		e.Result, e.Code, e.Field, e.Message = api.AuditRefused, refusal.Code, refusal.Field, refusal.Message
		if refusal.HTTPStatus() >= http.StatusInternalServerError {
			e.Result = api.AuditFailed
		}
	default:
		e.Result, e.Code = api.AuditFailed, api.CodeInternal // its text is for the log of the controller
	}
	return bounded(e), ok
}

// bounded cuts what is too long. It changes nothing that the entry shares.
func bounded(e api.AuditEntry) api.AuditEntry {
	for _, s := range []*string{&e.Actor, &e.Token, &e.Address, &e.Verb, (*string)(&e.Kind), &e.Name, &e.Owner, &e.Field, &e.Message} {
		*s = cut(*s)
	}
	n := min(len(e.Changes), maxChanges)
	e.More += len(e.Changes) - n
	changes := make([]api.AuditChange, n)
	for i, c := range e.Changes[:n] {
		fields := make([]string, min(len(c.Fields), maxFields))
		for j := range fields {
			fields[j] = cut(c.Fields[j])
		}
		if changes[i] = (api.AuditChange{Object: cut(c.Object), Change: c.Change}); len(fields) > 0 {
			changes[i].Fields = fields
		}
	}
	if e.Changes = nil; n > 0 {
		e.Changes = changes
	}
	return e
}

func cut(s string) string {
	if len(s) <= maxText {
		return s
	}
	n := maxText
	for n > 0 && s[n]&0xc0 == 0x80 { // not inside of a character (RFC 3629 §3)
		n--
	}
	return s[:n] + "…"
}
