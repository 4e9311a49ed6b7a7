// Package accounts is the life of owners and users: their tokens, the first login, and the streams that they have open.
//
// Invariants:
//   - of a token only a hash is kept;
//   - an admin who can log in is always left;
//   - a stream to a user ends with the user, the token, and the right that it was opened with;
//   - a name that an owner had gives nothing of that owner to who gets it next.
package accounts

import (
	"widecloud/api"
	"widecloud/internal/control/objects"
	"widecloud/internal/control/rooms"
	"widecloud/internal/state"
)

// Accounts is the life of a site's owners and users.
type Accounts struct {
	*objects.Site
	rooms   *rooms.Rooms
	streams streams
}

// New begins the life of a site's owners and users.
func New(site *objects.Site, rooms *rooms.Rooms) *Accounts {
	ac := &Accounts{Site: site, rooms: rooms, streams: streams{open: map[string]map[*stream]bool{}}}
	objects.Register(site, ac.ownerLife())
	objects.Register(site, ac.userLife())
	return ac
}

// Tables are those of owners, users and tokens.
func Tables() state.Schema {
	return state.Schema{
		objects.NounTable[api.Owner](),
		objects.NounTable(objects.Index("owner", func(u *api.User) string { return u.Owner })),
		objects.RecordTable(objects.PrefixTokens, objects.Index("user", func(t *token) string { return t.User })),
	}
}
