// Package notices is the life of notices: what is pinned up for users, from when until when. An admin pins for all users of the site, or
// for those of organisations that it names; a member pins for its own organisation.
//
// Invariants:
//   - a notice is shown to its audience between its two times, by this site's clock, and to nobody else;
//   - one that has ended is kept for 30 days for those who may write it, and then removed;
//   - an organisation has at most 50 notices, and so has the site.
package notices

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"widecloud/api"
	"widecloud/internal/access"
	"widecloud/internal/cloud"
	"widecloud/internal/control/objects"
	"widecloud/internal/state"
	"widecloud/internal/store"
)

const (
	// kept is how long a notice that has ended is kept.
	kept = 30 * 24 * time.Hour
	// most is how many notices an organisation may have, and the site itself.
	most = 50
)

// Notices is the life of a site's notices.
type Notices struct{ *objects.Site }

// New begins the life of a site's notices.
func New(site *objects.Site) *Notices {
	ns := &Notices{site}
	objects.Register(site, objects.Life[api.Notice]{
		Complete: func(_, now *api.Notice, _ cloud.Known) error {
			if now.Spec.Level == "" {
				now.Spec.Level = api.NoticeInfo
			}
			return nil
		},
		Faults: ns.faults,
		Create: func(tx *state.Tx, _ access.Actor, n *api.Notice) error { return ns.put(tx, n) },
		Change: func(tx *state.Tx, _ access.Actor, _, n *api.Notice) error { return ns.put(tx, n) },
		Delete: func(tx *state.Tx, n *api.Notice) error { return objects.Gone(tx, n) },
	})
	return ns
}

// Tables is that of notices.
func Tables() state.Schema {
	return state.Schema{objects.NounTable(objects.Index("owner", func(n *api.Notice) string { return ownerKey(n.Owner) }))}
}

// ownerKey is an owner as the index has it, which has the site's own, too. No organisation is called so.
func ownerKey(owner string) string {
	if owner == "" {
		return "-"
	}
	return owner
}

// put writes a notice with the state that it has now.
func (ns *Notices) put(tx *state.Tx, n *api.Notice) error {
	n.Status.State = n.Spec.StateAt(ns.Now())
	return objects.Put(tx, n)
}

// faults finds what is wrong with a notice.
func (ns *Notices) faults(tx *state.Tx, _ access.Actor, was, n *api.Notice) (out []*api.Error, err error) {
	wrong := func(field, format string, args ...any) { out = append(out, api.Invalidf(field, format, args...)) }
	checkText(wrong, "spec.title", n.Spec.Title, api.MaxNoticeTitle, false)
	if strings.TrimSpace(n.Spec.Title) == "" {
		wrong("spec.title", "must be given")
	}
	checkText(wrong, "spec.text", n.Spec.Text, api.MaxNoticeText, true)
	switch n.Spec.Level {
	case api.NoticeInfo, api.NoticeWarning, api.NoticeUrgent:
	default:
		wrong("spec.level", "%.40q is not a level: it must be info, warning or urgent", n.Spec.Level)
	}
	if until := n.Spec.Until; !until.IsZero() {
		if !until.After(n.Spec.From) {
			wrong("spec.until", "is not after spec.from")
		} else if was == nil && !until.After(ns.Now()) {
			wrong("spec.until", "%s has passed", until.Format(time.RFC3339))
		}
	}
	ns.checkOwners(tx, wrong, n)
	if was == nil {
		count := 0
		for range objects.By[api.Notice](tx, "owner", ownerKey(n.Owner)) {
			count++
		}
		if count >= most {
			return append(out, &api.Error{Code: api.CodeRefused, Message: fmt.Sprintf("there are %d notices already: delete some", count)}), nil
		}
	}
	return out, nil
}

// checkOwners judges whom a notice of the site's own is for.
func (ns *Notices) checkOwners(tx *state.Tx, wrong func(field, format string, args ...any), n *api.Notice) {
	switch {
	case len(n.Spec.Owners) == 0:
		return
	case n.Owner != "":
		wrong("spec.owners", "is for notices of the site's own: this one is for the users of %s", n.Owner)
		return
	case len(n.Spec.Owners) > api.MaxNoticeOwners:
		wrong("spec.owners", "are more than %d: leave it out to have the notice shown to all", api.MaxNoticeOwners)
		return
	}
	for i, name := range n.Spec.Owners {
		if _, err := objects.Find[api.Owner](tx, name); errors.Is(err, &api.Error{Code: api.CodeNotFound}) {
			wrong(fmt.Sprintf("spec.owners[%d]", i), "no owner is called %.40q; wcc owner list shows them", name)
		}
	}
}

// checkText wants text of so many characters, without those that a screen takes for commands.
func checkText(wrong func(field, format string, args ...any), field, text string, most int, lines bool) {
	switch n := utf8.RuneCountInString(text); {
	case !utf8.ValidString(text):
		wrong(field, "is not UTF-8")
	case n > most:
		wrong(field, "has %d characters, and may have %d", n, most)
	case strings.ContainsFunc(text, func(r rune) bool {
		return unicode.IsControl(r) && !(lines && r == '\n') || unicode.Is(unicode.Bidi_Control, r) || r == '\u2028' || r == '\u2029'
	}):
		wrong(field, "has control characters: plain text is possible")
	}
}

// Keep gives each notice the state that the time has brought, and removes those that ended long ago.
func (ns *Notices) Keep(ctx context.Context) error {
	now := ns.Now()
	old := func(n *api.Notice) bool { return !n.Spec.Until.IsZero() && now.Sub(n.Spec.Until) > kept }
	var due []string
	if err := ns.Read(ctx, func(tx *state.Tx) error {
		for n := range objects.Each[api.Notice](tx) {
			if old(n) || n.Status.State != n.Spec.StateAt(now) {
				due = append(due, n.Name)
			}
		}
		return nil
	}); err != nil || len(due) == 0 {
		return err
	}
	return ns.Write(store.Urgent(ctx), func(tx *state.Tx) error {
		for _, name := range due {
			n, err := objects.Get[api.Notice](tx, name)
			if errors.Is(err, &api.Error{Code: api.CodeNotFound}) {
				continue
			}
			if err != nil {
				return err
			}
			if old(n) {
				err = objects.Gone(tx, n)
			} else {
				err = ns.put(tx, n)
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
}
