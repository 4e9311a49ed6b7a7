package objects

import (
	"context"
	"maps"
	"slices"
	"strings"

	"widecloud/api"
	"widecloud/internal/audit"
	"widecloud/internal/state"
)

// ByMachine does what an agent or a peer asks for, and has it noted in the audit log: what it changed, or why it was refused. What
// changes nothing, as most reports, is not noted.
func (st *Site) ByMachine(ctx context.Context, actor, verb string, do func(ctx context.Context) error) error {
	if st.Audit == nil || audit.DeedOf(ctx) != nil {
		return do(ctx)
	}
	d := audit.NewDeed(api.AuditEntry{Actor: actor, Verb: verb})
	err := do(audit.With(ctx, d))
	if e, _ := d.Entry(err); len(e.Changes) > 0 || err != nil && ctx.Err() == nil {
		st.Audit.Append(e)
	}
	return err
}

// ByNewcomer does what somebody asks for who says to be actor and has only a word of ours to show, and has it noted: by that name once
// the word has proved to be good, and as a stranger's otherwise.
func (st *Site) ByNewcomer(ctx context.Context, actor, verb string, do func(ctx context.Context) error) error {
	d := audit.NewDeed(api.AuditEntry{Verb: verb})
	err := do(audit.With(ctx, d))
	if err == nil {
		d.By(actor, "")
	}
	st.Audit.End(d, err)
	return err
}

// noteChanges tells the deed of a context what a transaction has changed. What somebody does outside of a door has an entry of its own.
func (st *Site) noteChanges(ctx context.Context, actor string, written []state.Written) {
	owner, changes := changesIn(written)
	if len(changes) == 0 {
		return
	}
	if d := audit.DeedOf(ctx); d != nil {
		d.Changed(owner, changes)
		return
	}
	st.Audit.Append(api.AuditEntry{Actor: actor, Verb: "write", Result: api.AuditDone, Owner: owner, Changes: changes})
}

// changesIn lists what became of objects: their specs, labels, owners and states. What is measured (progress, use, times) is no change
// here, and neither are events, which say the same.
func changesIn(written []state.Written) (owner string, changes []api.AuditChange) {
	for _, w := range written {
		object, ok := strings.CutPrefix(w.Key, PrefixObjects)
		if !ok || strings.HasPrefix(object, string(api.KindEvent)+"/") {
			continue
		}
		was, _ := w.Was.(api.Object)
		now, _ := w.Now.(api.Object)
		c := api.AuditChange{Object: object, Change: "changed"}
		switch {
		case was == nil && now == nil:
			continue
		case was == nil:
			c.Change = "created"
		case now == nil:
			c.Change, now = "deleted", was
		default:
			if c.Fields = differences(was, now); len(c.Fields) == 0 {
				continue
			}
		}
		if owner == "" && now.Kind() != api.KindOwner {
			owner = now.Metadata().Owner
		}
		changes = append(changes, c)
	}
	return owner, changes
}

// differences lists what differs between two versions of an object.
func differences(was, now api.Object) (out []string) {
	a, b := was.Metadata(), now.Metadata()
	if a.Owner != b.Owner {
		out = append(out, "owner: "+a.Owner+" -> "+b.Owner)
	}
	if !maps.Equal(a.Labels, b.Labels) {
		out = append(out, "labels")
	}
	out = append(out, specChanges(was, now)...)
	if x, y := api.StatesOf(was), api.StatesOf(now); !slices.Equal(x, y) {
		out = append(out, "state: "+strings.Join(x, " ")+" -> "+strings.Join(y, " "))
	}
	return out
}
