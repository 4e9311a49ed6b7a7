// Package lending is the life of offers and loans, from both sides: what is offered to peers and granted, what was asked for and came,
// leases, the lender's wish to have its room back, and the documents that two sites send each other.
//
// Invariants:
//   - a loan is kept only if it was asked for here, and does not change;
//   - a loan that is over holds nothing: what runs under it is sent home or stopped;
//   - what was lent is counted from one change to the next, by whoever runs the controller then: a restart loses no hour;
//   - a document takes effect once, and an older one never after a newer one.
package lending

import (
	"widecloud/api"
	"widecloud/internal/control/guests"
	"widecloud/internal/control/networks"
	"widecloud/internal/control/objects"
	"widecloud/internal/control/rooms"
	"widecloud/internal/control/vms"
	"widecloud/internal/lend"
	"widecloud/internal/state"
	"widecloud/internal/wire"
)

// Lending is the life of a site's offers and loans.
type Lending struct {
	*objects.Site
	rooms    *rooms.Rooms
	networks *networks.Networks
	guests   *guests.Guests
	vms      *vms.VMs
	letters  objects.Told  // documents, by kind and peer
	sending  chan struct{} // one loan is written to a borrower at a time
}

// New begins the life of a site's offers and loans.
func New(site *objects.Site, rooms *rooms.Rooms, networks *networks.Networks, guests *guests.Guests, vms *vms.VMs) *Lending {
	ln := &Lending{Site: site, rooms: rooms, networks: networks, guests: guests, vms: vms, sending: make(chan struct{}, 1)}
	ln.documents()
	objects.Register(site, ln.offerLife())
	objects.Register(site, ln.loanLife())
	return ln
}

// Tables are those of offers and loans, of loans that were asked for, and of what peers offer.
func Tables() state.Schema {
	return state.Schema{
		objects.NounTable[api.Offer](),
		objects.NounTable(
			objects.Index("lender", func(l *api.Loan) string { return l.Spec.Lender }),
			objects.Index("borrower", func(l *api.Loan) string { return l.Spec.Borrower }),
		),
		objects.RecordTable[loanRequest](objects.PrefixRequests),
		objects.RecordTable[wire.OfferBody](objects.PrefixOffers),
		objects.RecordTable[lend.Account](prefixAccounts),
		objects.RecordTable[api.LedgerDay](prefixLedger),
	}
}
