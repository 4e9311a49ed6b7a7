package control

import (
	"context"
	"errors"
	"io"
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
func (c *Controller) Watch(ctx context.Context, p serve.Principal, k api.Kind, from int64) (<-chan serve.Change, error) {
	if _, err := newObject(k); err != nil {
		return nil, err
	}
	if k == api.KindSite {
		return nil, api.Errorf(api.CodeInvalid, "sites cannot be watched; watch peers and hosts")
	}
	ctx, done, err := c.begin(ctx, p)
	if err != nil {
		return nil, err
	}
	w, err := c.o.State.Watch(ctx, keyOf(k, ""), from)
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
			for _, ch := range changes {
				if !c.pass(ctx, p, k, ch, out) {
					return
				}
			}
		}
	}()
	return out, nil
}

// pass gives a change to a watcher that may see it; false when the watch has ended.
func (c *Controller) pass(ctx context.Context, p serve.Principal, k api.Kind, ch store.Change, out chan<- serve.Change) bool {
	value := ch.Value
	if ch.Deleted {
		value = ch.Prev
	}
	o, err := decode(k, store.KV{Key: ch.Key, Value: value, Modified: ch.Revision})
	if err != nil || !sees(p, o) {
		return true
	}
	c.live(o)
	if o, ok := o.(*api.Owner); ok {
		if err := c.view(ctx, func(tx *state.Tx) (err error) { o.Status.Used, err = c.usedBy(tx, o.Name); return err }); err != nil {
			return ctx.Err() == nil
		}
	}
	if ctx.Err() != nil {
		return false // before select, which would choose either way
	}
	select {
	case out <- serve.Change{Revision: ch.Revision, Deleted: ch.Deleted, Object: o}:
		return true
	case <-ctx.Done():
		return false
	}
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
