package store

import (
	"context"
	"errors"
	"slices"
	"sync"
)

// Call is one Update of an UpdateAll: what Update takes, and what it returns.
type Call struct {
	Ctx      context.Context
	F        func(Tx) error
	Revision int64
	Err      error
}

// Grouper is a Store that commits several Updates with one sync.
type Grouper interface {
	Store
	// UpdateAll is Update for each of the calls, in their order, and sets what they return. Each sees what those before it wrote, and
	// has a revision and an error of its own: one that fails harms no other. When it returns, all are synced.
	UpdateAll(calls []*Call)
}

// UpdateAll is Grouper's, or one Update after the other when s is none.
func UpdateAll(s Store, calls []*Call) {
	if g, ok := s.(Grouper); ok {
		g.UpdateAll(calls)
		return
	}
	for _, c := range calls {
		c.Revision, c.Err = s.Update(c.Ctx, c.F)
	}
}

// ErrAbandoned is what Do returns when the goroutine that served the item ended before it was done.
var ErrAbandoned = errors.New("the goroutine that was at work on it has ended")

// Queue serves those who come at the same time together: one of them has the turn, and serves all who wait. Make one with
// NewQueue; it may be used concurrently.
type Queue[T any] struct {
	most int
	turn chan struct{} // holds one token: the turn; a channel, so that waiting heeds a context

	mu      sync.Mutex
	waiting []*place[T] // in the order in which they came
}

type place[T any] struct {
	item T
	done chan struct{} // closed once it is served
	err  error         // once it is served
}

// NewQueue makes a queue whose items are served in batches of at most so many.
func NewQueue[T any](most int) *Queue[T] {
	return &Queue[T]{most: most, turn: make(chan struct{}, 1)}
}

// Lock takes the turn and serves nobody: for work that must be alone. Unlock gives it back. The error is that of ctx.
func (q *Queue[T]) Lock(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	select {
	case q.turn <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Unlock gives the turn back.
func (q *Queue[T]) Unlock() { <-q.turn }

// Do has an item served, and returns when it is. serve is called with the turn, here or by another caller of Do, for a batch in
// the order in which its items came. An item whose ctx ends before it is its turn is not served: the error is that of ctx.
func (q *Queue[T]) Do(ctx context.Context, item T, serve func(batch []T)) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	p := &place[T]{item: item, done: make(chan struct{})}
	q.mu.Lock()
	q.waiting = append(q.waiting, p)
	q.mu.Unlock()
	defer q.withdraw(p) // for a serve that panics while others' items are served
	for {
		select {
		case <-p.done:
			return p.err
		case <-ctx.Done():
			if q.withdraw(p) {
				return ctx.Err()
			}
			<-p.done
			return p.err
		case q.turn <- struct{}{}:
			q.lead(p, serve)
		}
	}
}

// lead serves those who wait. The turn is taken, and given back.
func (q *Queue[T]) lead(p *place[T], serve func([]T)) {
	defer q.Unlock()
	select {
	case <-p.done: // by whoever had the turn before
		return
	default:
	}
	batch := q.next()
	err := ErrAbandoned
	defer func() {
		for _, p := range batch {
			p.err = err
			close(p.done)
		}
	}()
	items := make([]T, len(batch))
	for i, p := range batch {
		items[i] = p.item
	}
	serve(items)
	err = nil
}

// next takes the first of those who wait.
func (q *Queue[T]) next() []*place[T] {
	q.mu.Lock()
	defer q.mu.Unlock()
	n := min(len(q.waiting), q.most)
	batch := slices.Clone(q.waiting[:n])
	q.waiting = slices.Delete(q.waiting, 0, n)
	return batch
}

// withdraw tells whether p still waited; then it does no longer.
func (q *Queue[T]) withdraw(p *place[T]) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	i := slices.Index(q.waiting, p)
	if i < 0 {
		return false
	}
	q.waiting = slices.Delete(q.waiting, i, i+1)
	return true
}
