// Package watch tells users of changes. The feed reads the store's changes once, decodes an object once, and has it encoded once, whoever
// watches.
//
// Invariants:
//   - a watcher gets every change that it may see, once, in the order of revisions, or its watch ends;
//   - who may no longer see an object is told that it is gone;
//   - a watcher that is too slow ends, and keeps nobody else.
package watch

import (
	"widecloud/internal/control/accounts"
	"widecloud/internal/control/objects"
)

// Watches are what users watch.
type Watches struct {
	*objects.Site
	accounts *accounts.Accounts
	feed     feed
}

// New lets users watch a site.
func New(site *objects.Site, accounts *accounts.Accounts) *Watches {
	return &Watches{Site: site, accounts: accounts}
}
