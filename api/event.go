package api

import "time"

// KindEvent is the kind of Event.
const KindEvent Kind = "events"

var _ = describe[Event](Noun{
	Rank: 160, Help: "What happened.",
	Owned: true, See: ItsOwner,
})

// Event is something that happened, worth a person's notice. Events are kept for a while, then forgotten.
type Event struct {
	Meta
	Time    time.Time `json:"time"`
	Type    string    `json:"type"`            // a stable word: vm.stop, vm.stopped, host.lost, loan.reclaimed, …
	Object  string    `json:"object"`          // KIND/NAME
	Actor   string    `json:"actor,omitempty"` // who did it or tells of it: a user, "agent:HOST", "peer:SITE"; empty: the site itself
	Message string    `json:"message"`
}

// Kind is KindEvent.
func (*Event) Kind() Kind { return KindEvent }
