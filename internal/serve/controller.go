package serve

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"sync"

	"widecloud/api"
	"widecloud/internal/access"
)

// Principal is who makes a request.
type Principal = access.Actor

// Change is one change of one object. A deletion carries the object as the watcher was last able to see it.
type Change struct {
	Revision int64
	Deleted  bool
	Object   api.Object
	More     bool      // the watcher has more changes of this revision to come
	Shared   *Encoding // of those watchers that get this change as it is; nil: it is this one's alone
}

// Watch is an open watch.
type Watch interface {
	// Next waits until there is something to tell, and gives all of it. The watcher then has everything up to revision upTo (0: that is
	// not known). io.EOF: the watch has ended, because the watcher fell behind or its user has other rights now. An error of ctx: nothing
	// has come until ctx ended; upTo holds all the same.
	Next(ctx context.Context) (changes []Change, upTo int64, err error)
	Close()
}

// Encoding keeps how a change is sent, so that it is encoded once, whoever watches. The zero Encoding is empty.
type Encoding struct {
	once sync.Once
	data []byte
	err  error
}

// event is how a change is sent, but for its id.
func (c Change) event() ([]byte, error) {
	if c.Shared == nil {
		return c.encode()
	}
	c.Shared.once.Do(func() { c.Shared.data, c.Shared.err = c.encode() })
	return c.Shared.data, c.Shared.err
}

// encode makes a Server-Sent Event (WHATWG HTML §9.2), but for its id.
func (c Change) encode() ([]byte, error) {
	event := "put"
	if c.Deleted {
		event = "delete"
	}
	data, err := json.Marshal(api.WatchEvent[api.Object]{Type: event, Revision: c.Revision, Kind: c.Object.Kind(), Object: c.Object})
	if err != nil {
		return nil, err
	}
	return fmt.Appendf(nil, "event: %s\ndata: %s\n\n", event, data), nil
}

// Query says which objects of a kind to list. Its zero value is all.
type Query struct {
	api.Selector
	After string // only names after this one
	Limit int    // at most so many; 0: no limit
}

// Controller is what the API serves. Errors should be *api.Error (perhaps wrapped); any other error is logged and shown
// as CodeInternal without its text. Methods may be called concurrently.
type Controller interface {
	// Authenticate gives the principal of a token, or api.CodeUnauthenticated.
	Authenticate(ctx context.Context, token string) (Principal, error)

	// Answered is what an attempt was answered with in the last 24 h; nil when it was not. What a method does for an attempt
	// (AttemptOf) and the Answer are kept in one transaction, after which another with the same user and key is refused.
	Answered(ctx context.Context, a Attempt) (*Answer, error)

	Get(ctx context.Context, p Principal, k api.Kind, name string) (api.Object, error)
	// List gives what p may see and q takes, in the order of names, as of the revision. The objects are shared and must not be
	// changed.
	List(ctx context.Context, p Principal, k api.Kind, q Query) (objects []api.Object, revision int64, err error)
	Create(ctx context.Context, p Principal, o api.Object) (api.Object, error)
	// Update replaces the spec of the object of this kind and name, and its labels unless they are nil. A revision that is not
	// zero must match: if not, api.CodeConflict with the field revision.
	Update(ctx context.Context, p Principal, o api.Object) (api.Object, error)
	// Delete accepts the deletion; the object shows Deleting until what it stood for is gone. RevisionOf(ctx) is as in Update.
	Delete(ctx context.Context, p Principal, k api.Kind, name string) (api.Object, error)
	// Watch opens a watch of the objects of some kinds that p may see and s takes, after revision from (below 0: from now on). An object
	// that no longer is one of these is told as deleted. api.CodeStale: the changes after from are not kept any more; the client has to
	// list again. The watch ends with ctx, too.
	Watch(ctx context.Context, p Principal, kinds []api.Kind, s api.Selector, from int64) (Watch, error)

	// Migrate starts a migration to SITE or SITE/HOST. With dryRun there is no job, and the reasons say why it would be
	// refused (none: it would be accepted).
	Migrate(ctx context.Context, p Principal, vm, target string, dryRun bool) (*api.Job, []api.Reason, error)
	// DryRun says what the creation of a VM would come to; it writes nothing. What a creation would be refused with is in the answer.
	DryRun(ctx context.Context, p Principal, v *api.VM) (*api.VMDryRun, error)
	// Bulk starts a job that does one thing to many VMs; BulkResults are what became of each, in the order of their names.
	Bulk(ctx context.Context, p Principal, r api.BulkRequest) (*api.Job, error)
	BulkResults(ctx context.Context, p Principal, job string) ([]api.BulkResult, error)
	Cancel(ctx context.Context, p Principal, job string) (*api.Job, error)
	// Why says why a VM is not at a site (SITE or SITE/HOST), or, with an empty one, where it is now and why not elsewhere.
	Why(ctx context.Context, p Principal, vm, not string) ([]api.Reason, error)
	Reboot(ctx context.Context, p Principal, vm string, hard bool) error
	// Rename gives a VM another name.
	Rename(ctx context.Context, p Principal, vm, name string) (*api.VM, error)
	// Usage is what a VM has used lately; api.CodeConflict: nothing is known yet.
	Usage(ctx context.Context, p Principal, vm string) (*api.Usage, error)
	// Ledger is what was lent and borrowed from a day on (2026-11-30; empty: as long as it is kept).
	Ledger(ctx context.Context, p Principal, from string) (*api.Ledger, error)
	// AddressTraffic and TranslatorTraffic are what this site's translators have carried.
	AddressTraffic(ctx context.Context, p Principal, name string) (*api.Traffic, error)
	TranslatorTraffic(ctx context.Context, p Principal, name string) (*api.Traffic, error)
	// Console attaches to the serial console; closing it ends the attachment only. An *api.Error of a Read says why it has ended.
	Console(ctx context.Context, p Principal, vm string) (io.ReadWriteCloser, error)
	// Display attaches to the display, as RFB (RFC 6143). api.CodeRefused: the VM's hardware has none.
	Display(ctx context.Context, p Principal, vm string) (io.ReadWriteCloser, error)

	// Upload takes the content of an image that was created without a source, and checks its digest.
	Upload(ctx context.Context, p Principal, image string, content io.Reader) (*api.Image, error)

	// JoinToken gives a one-time token with which a host's agent enrols.
	JoinToken(ctx context.Context, p Principal, host string, roles []api.HostRole) (string, error)

	// PeerInvite gives a one-time invitation for the admin of another site.
	PeerInvite(ctx context.Context, p Principal) (string, error)
	PeerAdd(ctx context.Context, p Principal, invitation string) (*api.Peer, error)

	Borrow(ctx context.Context, p Principal, lender, offer string, amount api.Resources) (*api.Loan, error)
	Reclaim(ctx context.Context, p Principal, loan string) (*api.Loan, error) // by the lender
	Return(ctx context.Context, p Principal, loan string) (*api.Loan, error)  // by the borrower

	// Tokens lists a user's tokens, the oldest first, without their secrets.
	Tokens(ctx context.Context, p Principal, user string) ([]api.UserToken, error)
	// NewToken gives a user a new token, whose secret is shown this once. The token of a First principal ends with it.
	NewToken(ctx context.Context, p Principal, user string, r api.TokenRequest) (*api.UserToken, error)
	// RevokeToken ends one token. The last admin who can log in keeps one: api.CodeConflict.
	RevokeToken(ctx context.Context, p Principal, user, id string) error

	// Doctor says what is wrong at the site, or soon will be: all of it to an admin, to others what concerns their organisation.
	Doctor(ctx context.Context, p Principal) (*api.Diagnosis, error)
}
