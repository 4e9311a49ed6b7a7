// Package guests is this site as a place for VMs: it keeps room for those that come, takes in those of other sites, has its agents begin
// and end migrations, and lets guests go. It serves this site's own coordinator and those of peers alike.
//
// Invariants:
//   - a peer's claim is a stranger's word: it is held against the loan, the address plan, and what is here;
//   - what runs is what the claim was granted for, whatever a later call says;
//   - every call is idempotent by its job, so that a coordinator that lost an answer asks again.
package guests

import (
	"widecloud/api"
	"widecloud/internal/control/hosts"
	"widecloud/internal/control/networks"
	"widecloud/internal/control/objects"
	"widecloud/internal/control/rooms"
	"widecloud/internal/state"
	"widecloud/internal/wire"
)

// Guests is a site as a place for VMs.
type Guests struct {
	*objects.Site
	rooms    *rooms.Rooms
	networks *networks.Networks
	hosts    *hosts.Hosts
}

// New makes a site a place for VMs.
func New(site *objects.Site, rooms *rooms.Rooms, networks *networks.Networks, hosts *hosts.Hosts) *Guests {
	gs := &Guests{site, rooms, networks, hosts}
	hosts.Observe(gs.seeGuests)
	return gs
}

// Tables are those of guests, and of the room that is kept for VMs.
func Tables() state.Schema {
	return state.Schema{
		objects.NounTable(objects.Index("host", func(g *api.Guest) string { return g.Spec.Host })),
		objects.RecordTable(objects.PrefixClaims, claimIndexes()...),
		objects.RecordTable(objects.PrefixOrders, claimIndexes()...),
	}
}

// claimIndexes find what is kept here for other VMs, by where it is and by whose it is.
func claimIndexes() []state.Index[wire.Claim] {
	return []state.Index[wire.Claim]{
		objects.Index("host", func(c *wire.Claim) string { return c.Host }),
		objects.Index("loan", func(c *wire.Claim) string { return c.Loan }),
		objects.Index("home", func(c *wire.Claim) string { return c.Home }),
		objects.Index("network", func(c *wire.Claim) string { return c.Order.NIC.Network }),
	}
}
