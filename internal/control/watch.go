package control

import (
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"sync"

	"widecloud/api"
	"widecloud/internal/serve"
	"widecloud/internal/state"
	"widecloud/internal/store"
	"widecloud/internal/wire"
)

// streams are what users have open: watches and consoles. They end when their user is deleted or has other rights.
type streams struct {
	mu   sync.Mutex
	open map[string]map[*stream]bool // by user
}

type stream struct{ end context.CancelCauseFunc }

// errRights ends a stream whose user is no longer who it was.
var errRights = api.Errorf(api.CodeForbidden, "the user was deleted, or has other rights now")

// begin notes a stream of a user; done forgets it. The user is looked at again once the stream is noted: a deletion before that
// would not end it.
func (c *Controller) begin(ctx context.Context, p serve.Principal) (_ context.Context, done func(), err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	s := &stream{cancel}
	c.streams.mu.Lock()
	if c.streams.open[p.User] == nil {
		c.streams.open[p.User] = map[*stream]bool{}
	}
	c.streams.open[p.User][s] = true
	c.streams.mu.Unlock()
	done = func() {
		cancel(nil)
		c.streams.mu.Lock()
		defer c.streams.mu.Unlock()
		if delete(c.streams.open[p.User], s); len(c.streams.open[p.User]) == 0 {
			delete(c.streams.open, p.User)
		}
	}
	if err := c.view(ctx, func(tx *state.Tx) error { return stands(tx, p) }); err != nil {
		done()
		return nil, nil, err
	}
	return ctx, done, nil
}

// stands tells whether a principal's user is there with the same rights.
func stands(tx *state.Tx, p serve.Principal) error {
	u, err := get[api.User](tx, p.User)
	if errors.Is(err, &api.Error{Code: api.CodeNotFound}) {
		return errRights
	}
	if err == nil && (u.Deleting || u.Owner != p.Owner || u.Spec.Admin != p.Admin) {
		err = errRights
	}
	return err
}

// endStreams ends what a user has open. A client whose user still is one begins anew.
func (c *Controller) endStreams(user string) {
	c.streams.mu.Lock()
	defer c.streams.mu.Unlock()
	for s := range c.streams.open[user] {
		s.end(errRights)
	}
}

// Watch is serve.Controller's. Sites are made up at every look and cannot be watched.
func (c *Controller) Watch(ctx context.Context, p serve.Principal, kinds []api.Kind, s api.Selector, from int64) (<-chan serve.Change, error) {
	for _, k := range kinds {
		if _, err := newObject(k); err != nil {
			return nil, err
		}
		if k == api.KindSite {
			return nil, api.Errorf(api.CodeInvalid, "sites cannot be watched; watch peers and hosts")
		}
	}
	prefix := prefixObjects
	if len(kinds) == 1 {
		prefix = keyOf(kinds[0], "")
	}
	ctx, done, err := c.begin(ctx, p)
	if err != nil {
		return nil, err
	}
	w, err := c.o.State.Watch(ctx, prefix, from)
	if errors.Is(err, store.ErrCompacted) {
		err = api.Errorf(api.CodeStale, "revision %d is no longer kept: list, and watch from the list's revision", from)
	}
	if err != nil {
		done()
		return nil, err
	}
	out := make(chan serve.Change)
	go func() {
		defer close(out)
		defer done()
		for changes := range w.C() {
			if !pass(ctx, c.shown(ctx, p, kinds, s, changes), out) {
				return
			}
		}
	}()
	return out, nil
}

// shown makes of the changes of one revision those that a watcher is to have.
func (c *Controller) shown(ctx context.Context, p serve.Principal, kinds []api.Kind, s api.Selector, changes []store.Change) (out []serve.Change) {
	for _, ch := range changes {
		k, _, _ := strings.Cut(strings.TrimPrefix(ch.Key, prefixObjects), "/")
		if !slices.Contains(kinds, api.Kind(k)) {
			continue
		}
		see := func(value []byte) api.Object {
			if value == nil {
				return nil
			}
			o, err := decode(api.Kind(k), store.KV{Key: ch.Key, Value: value, Modified: ch.Revision})
			if err != nil {
				return nil
			}
			if o = c.shownTo(p, s, o); o == nil || o.Kind() != api.KindOwner {
				return o
			}
			if err := c.view(ctx, func(tx *state.Tx) (err error) { o, err = c.withUse(tx, o); return err }); err != nil {
				return nil
			}
			return o
		}
		if o := see(ch.Value); o != nil {
			out = append(out, serve.Change{Revision: ch.Revision, Object: o})
		} else if o := see(ch.Prev); o != nil { // it was deleted, or is no longer the watcher's to see
			out = append(out, serve.Change{Revision: ch.Revision, Deleted: true, Object: o})
		}
	}
	return out
}

// pass gives a watcher the changes of one revision; false when the watch has ended.
func pass(ctx context.Context, changes []serve.Change, out chan<- serve.Change) bool {
	for i, ch := range changes {
		if ctx.Err() != nil {
			return false // before select, which would choose either way
		}
		ch.More = i < len(changes)-1
		select {
		case out <- ch:
		case <-ctx.Done():
			return false
		}
	}
	return true
}

// Console is serve.Controller's.
func (c *Controller) Console(ctx context.Context, p serve.Principal, vm string) (io.ReadWriteCloser, error) {
	v, err := c.running(ctx, p, vm)
	if err != nil {
		return nil, err
	}
	open, done, err := c.begin(context.WithoutCancel(ctx), p)
	if err != nil {
		return nil, err
	}
	conn, err := c.endOf(v.Status.Site).console(ctx, wire.ConsoleHeader{VM: v.UID})
	if err != nil {
		done()
		return nil, notThere(v, err)
	}
	context.AfterFunc(open, func() { conn.Close() })
	return &console{conn, done}, nil
}

// console is one that its user's end closes, too.
type console struct {
	io.ReadWriteCloser
	done func()
}

func (c *console) Close() error {
	c.done()
	return c.ReadWriteCloser.Close()
}
