// Package orders is what agents and lenders are told to run: the order of a VM, the claim by which a lender is asked for room, and the
// whole of what a host is to be.
//
// Invariants:
//   - orders follow from the store's objects alone, so that they can be made again at any time;
//   - what nothing has changed of is the same value, which nobody changes.
package orders

import (
	"widecloud/internal/control/networks"
	"widecloud/internal/control/objects"
	"widecloud/internal/control/rooms"
)

// Orders makes a site's orders.
type Orders struct {
	*objects.Site
	rooms    *rooms.Rooms
	networks *networks.Networks
}

// New makes the orders of a site.
func New(site *objects.Site, rooms *rooms.Rooms, networks *networks.Networks) *Orders {
	return &Orders{site, rooms, networks}
}
