package api

import (
	"slices"
	"time"
)

// KindNotice is the kind of Notice.
const KindNotice Kind = "notices"

var _ = describe[Notice](Noun{
	Rank: 165, Help: "What is pinned up for users: maintenance, outages, news.",
	Created: true, Changed: true, Deleted: true, Owned: true, See: ItsAudience, Write: ItsOwner,
	States: []string{string(NoticePlanned), string(NoticeShown), string(NoticeEnded)},
})

// Notice is a message that is shown to users for a while. One that an organisation owns is for its users; one of the site's own is for
// all, or for the organisations that it names.
type Notice struct {
	Meta
	Spec   NoticeSpec   `json:"spec"`
	Status NoticeStatus `json:"status"`
}

// NoticeLevel is how much a notice matters.
type NoticeLevel string

// The levels of notices.
const (
	NoticeInfo    NoticeLevel = "info"
	NoticeWarning NoticeLevel = "warning"
	NoticeUrgent  NoticeLevel = "urgent"
)

// NoticeSpec is what is pinned up.
type NoticeSpec struct {
	Title  string      `json:"title"`            // one line, at most 120 characters
	Text   string      `json:"text,omitempty"`   // plain text, at most 2000 characters
	Level  NoticeLevel `json:"level,omitempty"`  // info (the default), warning or urgent
	From   time.Time   `json:"from,omitzero"`    // left out: from its creation on
	Until  time.Time   `json:"until,omitzero"`   // left out: until it is deleted
	Owners []string    `json:"owners,omitempty"` // of the site's own: the organisations that it is for; empty: all
}

// The limits of a notice.
const (
	MaxNoticeTitle  = 120  // characters
	MaxNoticeText   = 2000 // characters
	MaxNoticeOwners = 100
)

// NoticeState is where a notice is in its life.
type NoticeState string

// The states of a notice, in order.
const (
	NoticePlanned NoticeState = "planned"
	NoticeShown   NoticeState = "shown"
	NoticeEnded   NoticeState = "ended" // it is kept for 30 days, and then removed
)

// NoticeStatus is the site's word on a notice.
type NoticeStatus struct {
	State NoticeState `json:"state"`
}

// StateAt is the state that a notice has at a time.
func (s NoticeSpec) StateAt(now time.Time) NoticeState {
	switch {
	case !s.Until.IsZero() && !now.Before(s.Until):
		return NoticeEnded
	case now.Before(s.From):
		return NoticePlanned
	}
	return NoticeShown
}

// Kind is KindNotice.
func (*Notice) Kind() Kind { return KindNotice }

func (n *Notice) facets() facets { return facets{states: []string{string(n.Status.State)}} }

// IsFor tells whether a notice is for those who act for an organisation. Only what is shown now is.
func (n *Notice) IsFor(owner string) bool {
	switch {
	case n.Owner != "":
		return n.Owner == owner // its members see what is planned and what has ended, too: they write it
	case n.Status.State != NoticeShown:
		return false
	}
	return len(n.Spec.Owners) == 0 || slices.Contains(n.Spec.Owners, owner)
}
