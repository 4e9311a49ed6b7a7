// Package networks is the life of networks and service addresses: what they may be made of, where they are carried, and what this site
// and its peers tell each other of them. What each host's networks must be is for netplan to say, from the objects that it is given here.
//
// Invariants:
//   - a network is of a pool that is open to its owner, or its home, and so is a service address; neither is over the site's own addresses;
//   - what a peer has here follows from its guests, claims and address loans here, and from nothing else: never from its lists;
//   - of a peer's networks, one that is bad is left out, and the peer is told; the others act.
package networks

import (
	"sync/atomic"

	"widecloud/api"
	"widecloud/internal/control/objects"
	"widecloud/internal/control/rooms"
	"widecloud/internal/state"
	"widecloud/internal/wire"
)

// Networks is the life of a site's networks.
type Networks struct {
	*objects.Site
	rooms *rooms.Rooms
	plans state.Memo[*SitePlan]
	plan  atomic.Pointer[SitePlan] // the newest

	carried carried
}

// New begins the life of a site's networks and service addresses.
func New(site *objects.Site, rooms *rooms.Rooms) *Networks {
	ns := &Networks{Site: site, rooms: rooms}
	objects.Register(site, ns.networkLife())
	objects.Register(site, ns.addressLife())
	return ns
}

// Tables are those of networks, addresses and translators, and of what peers tell of their networks.
func Tables() state.Schema {
	return state.Schema{
		objects.NounTable(objects.Index("uid", func(n *api.Network) string { return n.UID })),
		objects.NounTable(
			objects.Index("vm", func(a *api.Address) string { return a.Spec.VM }),
			objects.Index("owner", func(a *api.Address) string { return a.Owner }),
			objects.Index("address", func(a *api.Address) string { return a.Spec.Address }),
			state.Index[api.Address]{Name: "translator", Keys: func(a *api.Address) []string { return a.Status.Translators }},
		),
		objects.NounTable[api.Translator](),
		objects.RecordTable[wire.NetworkView](objects.PrefixViews),
	}
}
