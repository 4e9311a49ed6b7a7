// Package joining is how hosts and peers come to a site, and how they leave it: one-time tokens and invitations, certificates, and what is
// forgotten with them. It also tells users which sites there are.
//
// Invariants:
//   - one key speaks for a host's name, until the host is deleted; the session ends with it;
//   - a token is good once, for the key that used it first, which may ask again when the answer was lost;
//   - nothing that a removed peer told is believed any more.
package joining

import (
	"time"

	"widecloud/api"
	"widecloud/internal/control/networks"
	"widecloud/internal/control/objects"
	"widecloud/internal/control/rooms"
	"widecloud/internal/state"
)

// Joining lets hosts and peers come to a site.
type Joining struct {
	*objects.Site
	rooms    *rooms.Rooms
	networks *networks.Networks

	sitesKept time.Time // when what is kept of sites was looked at
}

// New lets hosts and peers come to a site.
func New(site *objects.Site, rooms *rooms.Rooms, networks *networks.Networks) *Joining {
	jn := &Joining{Site: site, rooms: rooms, networks: networks}
	objects.Register(site, jn.hostLife())
	objects.Register(site, jn.peerLife())
	objects.Register(site, jn.siteLife())
	return jn
}

// Tables are those of peers, sites, one-time tokens and hosts' keys.
func Tables() state.Schema {
	return state.Schema{
		objects.NounTable[api.Peer](),
		objects.NounTable[api.Site](),
		objects.RecordTable[join](objects.PrefixJoins),
		objects.RecordTable[enrolment](prefixEnrolments),
	}
}
