package watch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"widecloud/api"
	"widecloud/internal/access"
	"widecloud/internal/control/objects"
	"widecloud/internal/serve"
	"widecloud/internal/state"
	"widecloud/internal/store"
)

// Watch opens a watch of some kinds after a revision; from < 0: from now on.
func (ws *Watches) Watch(ctx context.Context, p access.Actor, kinds []api.Kind, s api.Selector, from int64) (serve.Watch, error) {
	for _, k := range kinds {
		if _, err := objects.NewObject(k); err != nil {
			return nil, err
		}
	}
	prefix := objects.PrefixObjects
	if len(kinds) == 1 {
		prefix = objects.Key(kinds[0], "")
	}
	ctx, done, err := ws.accounts.Begin(ctx, p)
	if err != nil {
		return nil, err
	}
	lasting := context.WithoutCancel(ctx) // the first of an audience may leave before the others
	w := &watch{ctx: ctx, done: done, feed: &ws.feed, of: audienceOf(p, kinds, s), take: func(changes []*seen) []serve.Change {
		return ws.shown(lasting, p, kinds, s, changes)
	}}
	if err := ws.open(w, prefix, from); err != nil {
		done()
		return nil, err
	}
	return w, nil
}

// audienceOf names those who are shown the same. Of a user only its organisation and its rights count, but for users, who see
// themselves.
func audienceOf(p access.Actor, kinds []api.Kind, s api.Selector) string {
	if !slices.Contains(kinds, api.KindUser) {
		p.User = ""
	}
	return fmt.Sprintf("%+v %q %+q", p, kinds, s)
}

// watch is one watcher: of the feed, or of the store until it has caught up with the feed.
type watch struct {
	ctx    context.Context // of the user and its rights
	done   func()
	feed   *feed
	of     string // its audience
	take   func([]*seen) []serve.Change
	reader *reader
	store  store.Watcher
	cancel context.CancelFunc // of the store's watch
}

// open finds the place in the feed, or in the store, from which a watch goes on.
func (ws *Watches) open(w *watch, prefix string, from int64) error {
	stale := api.Errorf(api.CodeStale, "revision %d is no longer kept: list, and watch from the list's revision", from)
	var newest int64
	if err := ws.Read(w.ctx, func(tx *state.Tx) error {
		newest = tx.Revision()
		return nil
	}); err != nil {
		return err
	}
	if from > newest {
		return stale // of a store that was put back from a copy
	}
	if from < 0 {
		from = newest
	}
	if w.reader = ws.feed.join(from, w.of, w.take); w.reader != nil {
		return nil
	}
	ctx, cancel := context.WithCancel(w.ctx)
	var err error
	if w.store, err = ws.State.Watch(ctx, prefix, from); err != nil {
		cancel()
	}
	if errors.Is(err, store.ErrCompacted) {
		err = stale
	}
	w.cancel = cancel
	return err
}

// Close is serve.Watch's.
func (w *watch) Close() {
	if w.reader != nil {
		w.feed.leave(w.reader)
	}
	if w.cancel != nil {
		w.cancel()
	}
	w.done()
}

// Next is serve.Watch's.
func (w *watch) Next(ctx context.Context) ([]serve.Change, int64, error) {
	for w.reader == nil {
		changes, err := w.catchUp(ctx)
		if err != nil || len(changes) > 0 {
			return changes, 0, err
		}
	}
	return w.feed.read(ctx, w.ctx, w.reader)
}

// catchUp gives the store's next changes, and joins the feed once that has the ones that follow.
func (w *watch) catchUp(ctx context.Context) ([]serve.Change, error) {
	select {
	case changes, ok := <-w.store.C():
		if !ok || w.ctx.Err() != nil {
			return nil, io.EOF
		}
		w.reader = w.feed.join(changes[0].Revision, w.of, w.take)
		return w.take(decodeChanges(changes)), nil
	case <-w.ctx.Done():
		return nil, io.EOF
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// shown makes of the changes of one revision those that a watcher is to have. Their objects are shared.
func (ws *Watches) shown(ctx context.Context, by access.Actor, kinds []api.Kind, s api.Selector, changes []*seen) (out []serve.Change) {
	see := func(ch *seen, have api.Object, send *serve.Encoding, deleted bool) bool {
		if have == nil {
			return false
		}
		o, err := ws.ShownNow(ctx, by, s, have)
		if err != nil || o == nil {
			return false
		}
		if o != have { // it is of this moment
			send = nil
		}
		out = append(out, serve.Change{Revision: ch.revision, Deleted: deleted, Object: o, Shared: send})
		return true
	}
	for _, ch := range changes {
		if slices.Contains(kinds, ch.kind) && !see(ch, ch.now, &ch.sendNow, false) {
			see(ch, ch.was, &ch.sendWas, true) // it was deleted, or is no longer the watcher's to see
		}
	}
	for i := range len(out) - 1 {
		out[i].More = true
	}
	return out
}
