package state

import (
	"context"
	"time"

	"widecloud/internal/store"
)

// showTime is how long a commit may take to show what it has written before a watch looks after it.
const showTime = 100 * time.Millisecond

// Watch is the store's, a little later: a change is shown once reads see it.
func (s *State) Watch(ctx context.Context, prefix string, from int64) (store.Watcher, error) {
	w, err := s.store.Watch(ctx, prefix, from)
	if err != nil {
		return nil, err
	}
	out := &watcher{Watcher: w, c: make(chan []store.Change)}
	go out.pass(ctx, s)
	return out, nil
}

type watcher struct {
	store.Watcher
	c chan []store.Change
}

func (w *watcher) C() <-chan []store.Change { return w.c }

func (w *watcher) pass(ctx context.Context, s *State) {
	defer close(w.c)
	for changes := range w.Watcher.C() {
		for len(changes) > 0 {
			v := s.now.Load()
			if v.revision >= changes[0].Revision {
				break
			}
			// The commit that made it is about to show it. To wait for the turn would be to wait for all who want to commit.
			select {
			case <-v.replaced:
			case <-time.After(showTime):
				if s.reach(ctx, changes[0].Revision) != nil {
					return
				}
			case <-ctx.Done():
				return
			}
		}
		select {
		case w.c <- changes:
		case <-ctx.Done():
			return
		}
	}
}

// reach waits until reads see a revision that the store has.
func (s *State) reach(ctx context.Context, revision int64) error {
	if err := s.queue.Lock(ctx); err != nil {
		return err
	}
	defer s.queue.Unlock()
	if s.now.Load().revision < revision { // not of the commit that was under way
		s.doubt.Store(true)
	}
	return s.reload(ctx)
}
