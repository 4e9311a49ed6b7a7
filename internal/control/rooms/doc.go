// Package rooms is how much room there is: what VMs need, what this site's hosts have given away, what is lent and borrowed, and what
// owners may have. It is placement's view of the site and its peers.
//
// Invariants:
//   - what a host has given away is counted from VMs, guests and claims, and kept nowhere;
//   - a VM at a lender takes its image's room with it, since the image is there for its sake.
package rooms

import (
	"widecloud/api"
	"widecloud/internal/control/objects"
	"widecloud/internal/state"
)

// Rooms counts a site's room.
type Rooms struct {
	*objects.Site
	given state.Memo[api.Resources] // what each host has given away
}

// New counts the room of a site.
func New(site *objects.Site) *Rooms { return &Rooms{Site: site} }
