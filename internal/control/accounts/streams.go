package accounts

import (
	"context"
	"errors"
	"sync"

	"widecloud/api"
	"widecloud/internal/access"
	"widecloud/internal/control/objects"
	"widecloud/internal/state"
)

// streams are what users have open: watches and consoles. They end when their user is deleted or has other rights.
type streams struct {
	mu   sync.Mutex
	open map[string]map[*stream]bool // by user
}

type stream struct{ end context.CancelCauseFunc }

// errRights ends a stream whose user is no longer who it was.
var errRights = api.Errorf(api.CodeForbidden, "the user was deleted, or has other rights now")

// Begin notes a stream of a user; done forgets it. The user is looked at again once the stream is noted: a deletion before that
// would not end it.
func (ac *Accounts) Begin(ctx context.Context, p access.Actor) (_ context.Context, done func(), err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	s := &stream{cancel}
	ac.streams.mu.Lock()
	if ac.streams.open[p.User] == nil {
		ac.streams.open[p.User] = map[*stream]bool{}
	}
	ac.streams.open[p.User][s] = true
	ac.streams.mu.Unlock()
	done = func() {
		cancel(nil)
		ac.streams.mu.Lock()
		defer ac.streams.mu.Unlock()
		if delete(ac.streams.open[p.User], s); len(ac.streams.open[p.User]) == 0 {
			delete(ac.streams.open, p.User)
		}
	}
	if err := ac.Read(ctx, func(tx *state.Tx) error { return stands(tx, p) }); err != nil {
		done()
		return nil, nil, err
	}
	return ctx, done, nil
}

// stands tells whether a actor's user is there with the same rights.
func stands(tx *state.Tx, p access.Actor) error {
	u, err := objects.Get[api.User](tx, p.User)
	if errors.Is(err, &api.Error{Code: api.CodeNotFound}) {
		return errRights
	}
	if err == nil && (u.Deleting || u.Owner != p.Owner || u.Spec.Admin != p.Admin) {
		err = errRights
	}
	return err
}

// endStreams ends what a user has open. A client whose user still is one begins anew.
func (ac *Accounts) endStreams(user string) {
	ac.streams.mu.Lock()
	defer ac.streams.mu.Unlock()
	for s := range ac.streams.open[user] {
		s.end(errRights)
	}
}
