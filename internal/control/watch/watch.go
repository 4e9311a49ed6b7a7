package watch

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"widecloud/api"
	"widecloud/internal/access"
	"widecloud/internal/control/objects"
	"widecloud/internal/serve"
	"widecloud/internal/state"
	"widecloud/internal/store"
)

// Watch gives the changes of some kinds after a revision; from < 0: from now on. Sites are made up at every look and cannot be watched.
func (ws *Watches) Watch(ctx context.Context, p access.Actor, kinds []api.Kind, s api.Selector, from int64) (<-chan serve.Change, error) {
	for _, k := range kinds {
		if _, err := objects.NewObject(k); err != nil {
			return nil, err
		}
		if k == api.KindSite {
			return nil, api.Errorf(api.CodeInvalid, "sites cannot be watched; watch peers and hosts")
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
	w, err := ws.openWatch(ctx, prefix, from, audienceOf(p, kinds, s), func(changes []*seen) []serve.Change {
		return ws.shown(lasting, p, kinds, s, changes)
	})
	if err != nil {
		done()
		return nil, err
	}
	out := make(chan serve.Change)
	go func() {
		defer close(out)
		defer done()
		w.run(ctx, out)
	}()
	return out, nil
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
	feed   *feed
	of     string // its audience
	take   func([]*seen) []serve.Change
	reader *reader
	store  store.Watcher
	cancel context.CancelFunc // of the store's watch
}

func (ws *Watches) openWatch(ctx context.Context, prefix string, from int64, of string, take func([]*seen) []serve.Change) (*watch, error) {
	stale := api.Errorf(api.CodeStale, "revision %d is no longer kept: list, and watch from the list's revision", from)
	var newest int64
	if err := ws.Read(ctx, func(tx *state.Tx) error {
		newest = tx.Revision()
		return nil
	}); err != nil {
		return nil, err
	}
	if from > newest {
		return nil, stale // of a store that was put back from a copy
	}
	if from < 0 {
		from = newest
	}
	w := &watch{feed: &ws.feed, of: of, take: take}
	if w.reader = ws.feed.join(from, of, take); w.reader != nil {
		return w, nil
	}
	ctx, w.cancel = context.WithCancel(ctx)
	var err error
	if w.store, err = ws.State.Watch(ctx, prefix, from); err != nil {
		w.cancel()
	}
	if errors.Is(err, store.ErrCompacted) {
		err = stale
	}
	return w, err
}

// run gives the changes until the watch ends.
func (w *watch) run(ctx context.Context, out chan<- serve.Change) {
	if w.reader == nil && !w.catchUp(ctx, out) {
		return
	}
	defer w.feed.leave(w.reader)
	for {
		changes, ok := w.feed.read(ctx, w.reader)
		if !ok || !pass(ctx, changes, out) {
			return
		}
	}
}

// catchUp gives the changes of the store until the feed has the ones that follow; false when the watch has ended.
func (w *watch) catchUp(ctx context.Context, out chan<- serve.Change) bool {
	defer w.cancel()
	for changes := range w.store.C() {
		if !pass(ctx, w.take(decodeChanges(changes)), out) {
			return false
		}
		if w.reader = w.feed.join(changes[0].Revision, w.of, w.take); w.reader != nil {
			return true
		}
	}
	return false
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

// pass gives changes to a watcher; false when the watch has ended.
func pass(ctx context.Context, changes []serve.Change, out chan<- serve.Change) bool {
	for _, ch := range changes {
		if ctx.Err() != nil {
			return false // before select, which would choose either way
		}
		select {
		case out <- ch:
		case <-ctx.Done():
			return false
		}
	}
	return true
}
