package watch

import (
	"cmp"
	"context"
	"errors"
	"io"
	"slices"
	"sort"
	"strings"
	"sync"

	"widecloud/api"
	"widecloud/internal/control/objects"
	"widecloud/internal/serve"
	"widecloud/internal/store"
)

// feedBehind is how many changes a watcher may be behind before its watch ends.
const feedBehind = 1024

// feed hands the changes of objects to the watchers. It reads the store's changes once, decodes an object once and has it
// encoded once, whoever watches; and it wakes only those watchers that may see a change.
type feed struct {
	kept int // how many changes it keeps for watchers that come late, at least

	mu      sync.Mutex
	on      bool
	changes []*seen // the newest ones, oldest first, whole revisions
	first   int64   // what came after this revision is in changes
	last    int64   // the newest revision that was published
	groups  map[string]*audience
}

// audience is the watchers that are shown the same, so that it is found out once for all of them.
type audience struct {
	take    func([]*seen) []serve.Change // of the changes of one revision those that they may see
	readers map[*reader]bool
}

// seen is one change of one object.
type seen struct {
	revision int64
	kind     api.Kind
	now, was api.Object // nil: it is not there. They are shared: nobody changes them
	// What serve sends of now and of was, for all watchers.
	sendNow, sendWas serve.Encoding
}

// reader is one watcher's place in the feed.
type reader struct {
	of    string // its audience
	after int64  // revisions up to this one are not for the reader

	// Guarded by feed.mu.
	queue []serve.Change
	slow  bool
	wake  chan struct{} // has an element when there is something to look at
}

// Run keeps the feed going until ctx ends.
func (ws *Watches) Run(ctx context.Context) {
	ws.feed.kept = cmp.Or(ws.WatchKept, 4096)
	for {
		err := ws.feed.run(ctx, ws.State)
		if ctx.Err() != nil {
			return
		}
		ws.Log.Error("feed the watches", "err", err)
		if ws.PauseFor(ctx, ws.Retry) != nil {
			return
		}
	}
}

// run feeds until ctx ends or the store's watch does; then all readers end, and their clients begin anew.
func (f *feed) run(ctx context.Context, st store.Store) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var newest int64
	if err := st.View(ctx, func(tx store.Tx) error {
		newest = tx.Revision()
		return nil
	}); err != nil {
		return err
	}
	// Those who watched before a restart come back, all at once, with the revision that they have seen last.
	from := max(0, newest-int64(f.kept))
	w, err := st.Watch(ctx, objects.PrefixObjects, from)
	if errors.Is(err, store.ErrCompacted) {
		from = newest
		w, err = st.Watch(ctx, objects.PrefixObjects, from)
	}
	if err != nil {
		return err
	}
	f.mu.Lock()
	f.on, f.changes, f.first, f.last = true, nil, from, from
	f.mu.Unlock()
	defer f.stop()
	for changes := range w.C() {
		f.publish(decodeChanges(changes))
	}
	return w.Err()
}

// stop ends all readers.
func (f *feed) stop() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.on, f.changes = false, nil
	for _, a := range f.groups {
		for r := range a.readers {
			f.end(r)
		}
	}
}

// end ends a reader. The lock is held.
func (f *feed) end(r *reader) {
	r.slow, r.queue = true, nil
	f.remove(r)
	r.poke()
}

func (r *reader) poke() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// publish hands the changes of one revision to the readers.
func (f *feed) publish(changes []*seen) {
	if len(changes) == 0 {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.changes, f.last = append(f.changes, changes...), changes[0].revision
	if len(f.changes) >= 2*f.kept { // not at each change: what stays is copied
		over := len(f.changes) - f.kept
		for over < len(f.changes) && f.changes[over].revision == f.changes[over-1].revision {
			over++ // a revision is kept whole or not at all
		}
		f.first = f.changes[over-1].revision
		f.changes = slices.Clone(f.changes[over:])
	}
	for _, a := range f.groups {
		if mine := a.take(changes); len(mine) > 0 {
			for r := range a.readers {
				f.give(r, mine)
			}
		}
	}
}

// give puts what its audience is shown of one revision into a reader's queue. The lock is held.
func (f *feed) give(r *reader, mine []serve.Change) {
	if mine[0].Revision <= r.after {
		return
	}
	if len(r.queue)+len(mine) > feedBehind && len(r.queue) > 0 {
		f.end(r)
		return
	}
	r.queue = append(r.queue, mine...)
	r.poke()
}

// join makes a reader of what comes after a revision; nil when the feed does not have all of that. Readers of one audience are
// shown the same.
func (f *feed) join(after int64, of string, take func([]*seen) []serve.Change) *reader {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.on || after < f.first {
		return nil
	}
	a := f.groups[of]
	if a == nil {
		a = &audience{take: take, readers: map[*reader]bool{}}
		if f.groups == nil {
			f.groups = map[string]*audience{}
		}
		f.groups[of] = a
	}
	r := &reader{of: of, after: after, wake: make(chan struct{}, 1)}
	a.readers[r] = true
	for i := sort.Search(len(f.changes), func(i int) bool { return f.changes[i].revision > after }); i < len(f.changes); {
		j := i + 1
		for j < len(f.changes) && f.changes[j].revision == f.changes[i].revision {
			j++
		}
		if mine := a.take(f.changes[i:j]); len(mine) > 0 {
			f.give(r, mine)
		}
		i = j
	}
	return r
}

// leave gives a reader's place up.
func (f *feed) leave(r *reader) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.remove(r)
}

// remove takes a reader out of its audience. The lock is held.
func (f *feed) remove(r *reader) {
	a := f.groups[r.of]
	if a == nil {
		return
	}
	if delete(a.readers, r); len(a.readers) == 0 {
		delete(f.groups, r.of)
	}
}

// read takes what is queued, and waits for it: until ctx ends, or user, the context of the reader's user. With it the reader has
// everything up to revision upTo.
func (f *feed) read(ctx, user context.Context, r *reader) (changes []serve.Change, upTo int64, err error) {
	for {
		f.mu.Lock()
		queue, slow, upTo := r.queue, r.slow, max(f.last, r.after)
		r.queue = nil
		f.mu.Unlock()
		switch {
		case slow || user.Err() != nil:
			return nil, 0, io.EOF
		case len(queue) > 0:
			return queue, upTo, nil
		case ctx.Err() != nil:
			return nil, upTo, ctx.Err()
		}
		select {
		case <-r.wake:
		case <-user.Done():
		case <-ctx.Done():
		}
	}
}

// decodeChanges decodes the changes of objects of one revision. What cannot be read is left out.
func decodeChanges(changes []store.Change) []*seen {
	out := make([]*seen, 0, len(changes))
	for _, ch := range changes {
		kind, _, _ := strings.Cut(strings.TrimPrefix(ch.Key, objects.PrefixObjects), "/")
		d := &seen{revision: ch.Revision, kind: api.Kind(kind)}
		read := func(value []byte) api.Object {
			if value == nil {
				return nil
			}
			o, err := objects.Decode(d.kind, store.KV{Key: ch.Key, Value: value, Modified: ch.Revision})
			if err != nil {
				return nil
			}
			return o
		}
		if d.now, d.was = read(ch.Value), read(ch.Prev); d.now != nil || d.was != nil {
			out = append(out, d)
		}
	}
	return out
}
