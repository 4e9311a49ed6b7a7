package bolt

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"runtime/debug"

	"go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"

	"widecloud/internal/store"
)

// What is committed together at most: Updates, and about so many bytes of their changes. A watcher that has kept up has room for
// both in its queue.
const (
	maxGroup   = 128
	groupBytes = queueBytes / 8
)

// update is an Update and its outcome.
type update struct {
	ctx context.Context
	f   func(store.Tx) error

	rev      int64
	err      error
	panicked any
	// certain: the outcome depends on no commit. f wrote nothing, and saw nothing that others of its group have written.
	certain bool
}

var _ store.Grouper = (*Store)(nil)

// Update runs f and commits what it wrote, synced. The revision is the newest one: that of this Update if it wrote
// anything. On a full disk it drops old changes first and, if ctx is urgent, then uses the reserve. Updates that wait at the same
// time are committed together, so f may run in the goroutine of another Update.
func (s *Store) Update(ctx context.Context, f func(store.Tx) error) (int64, error) {
	u := &update{ctx: ctx, f: f}
	if err := s.queue.Do(ctx, []*update{u}, s.serve); err != nil {
		return 0, err
	}
	return u.outcome()
}

// UpdateAll makes several Updates together: see store.Grouper. If a function panics, so does UpdateAll, after all were run.
func (s *Store) UpdateAll(calls []*store.Call) {
	all := make([]*update, len(calls))
	for i, c := range calls {
		all[i] = &update{ctx: c.Ctx, f: c.F}
	}
	err := s.queue.Do(context.Background(), all, s.serve)
	for i, u := range all {
		calls[i].Revision, calls[i].Err = u.rev, u.err
		if err != nil {
			calls[i].Revision, calls[i].Err = 0, err
		}
	}
	for _, u := range all {
		u.outcome()
	}
}

// outcome is what Update returns.
func (u *update) outcome() (int64, error) {
	if u.panicked != nil {
		panic(u.panicked)
	}
	return u.rev, u.err
}

// serve makes all Updates of a batch. The turn is held.
func (s *Store) serve(batch [][]*update) {
	var all []*update
	for _, us := range batch {
		all = append(all, us...)
	}
	for len(all) > 0 {
		all = all[s.write(all[:min(len(all), s.group)]):]
	}
}

// write makes the first Updates of a group, as many as fit together, and returns how many those are. The turn is held.
func (s *Store) write(group []*update) int {
	if err := s.settle(); err != nil {
		return fail(group, err)
	}
	need, urgent := int64(minGrowth/4), false
	for {
		full := s.grow(need)
		if full != nil && !errors.Is(full, store.ErrFull) {
			return fail(group, full)
		}
		s.setLimit(s.limit(urgent))
		n, wrote, err := s.attempt(group)
		group = group[:n]
		switch {
		case err == nil:
			return n
		case !errors.Is(err, berrors.ErrMaxSizeReached):
			return fail(group, err)
		case full == nil:
			need = 4 * max(need, wrote)
			continue
		case n > 1: // what is too much together may fit one by one, and each has its own right to the reserve
			for i := range group {
				s.write(group[i : i+1])
			}
			return n
		}
		forgot, err := s.forget()
		switch {
		case err != nil:
			return fail(group, err)
		case forgot:
		case store.IsUrgent(group[0].ctx) && !urgent:
			urgent = true
		default:
			return fail(group, full)
		}
	}
}

// fail gives a group the error of its commit.
func fail(group []*update, err error) int {
	for _, u := range group {
		if !u.certain {
			u.rev, u.err = 0, err
		}
	}
	return len(group)
}

// attempt runs the first n Updates of a group and commits them. wrote is how many bytes they wrote, about. berrors.ErrMaxSizeReached:
// they do not fit. After an error nothing was changed, unless it is store.ErrUnsure.
func (s *Store) attempt(group []*update) (n int, wrote int64, err error) {
	btx, err := s.begin(true)
	if err != nil {
		return len(group), 0, err
	}
	defer btx.Rollback() // after Commit it does nothing
	log := btx.Bucket(bucketChanges)
	var made [][]store.Change // of each revision
	before := revision(btx)
	rev := before
	for n < len(group) && wrote < groupBytes {
		u := group[n]
		n++
		changes, err := s.run(btx, rev, u)
		if err != nil {
			return len(group), 0, err
		}
		u.certain = rev == before && len(changes) == 0
		if len(changes) == 0 {
			continue
		}
		rev++
		row := encodeChanges(changes)
		if err := log.Put(revisionKey(rev), row); err != nil {
			return len(group), 0, fmt.Errorf("write changes: %w", err)
		}
		wrote += 2 * int64(len(row))
		made = append(made, changes)
	}
	if rev == before {
		return n, 0, nil
	}
	if err := btx.Bucket(bucketMeta).Put(keyRevision, revisionKey(rev)); err != nil {
		return n, 0, fmt.Errorf("write revision: %w", err)
	}
	if err := compact(log, rev-s.history); err != nil {
		return n, 0, fmt.Errorf("compact changes: %w", err)
	}
	publish := func() {
		for i, changes := range made {
			s.publish(before+1+int64(i), changes)
		}
	}
	if err := s.commit(btx, publish); err != nil {
		return n, wrote, fmt.Errorf("commit revision %d: %w", rev, err)
	}
	return n, wrote, nil
}

func revisionKey(rev int64) []byte { return binary.BigEndian.AppendUint64(nil, uint64(rev)) }

// run runs the function of an Update after revision rev, and returns what it changed; nothing after an error of its own, which the
// Update has then. The error is one of the whole transaction.
func (s *Store) run(btx *bbolt.Tx, rev int64, u *update) ([]store.Change, error) {
	t := &tx{data: btx.Bucket(bucketData), revision: rev, writable: true, touched: map[string]int{}}
	u.rev, u.err, u.panicked = 0, u.ctx.Err(), nil
	if u.err == nil {
		s.call(u, t)
	}
	if u.err == nil {
		u.err = u.ctx.Err()
	}
	if u.err != nil || u.panicked != nil {
		return nil, t.undo()
	}
	changes := t.net()
	if u.rev = rev; len(changes) > 0 {
		u.rev = rev + 1
	}
	return changes, nil
}

// call calls the function of an Update. Its panic is kept for the Update's own goroutine.
func (s *Store) call(u *update, t *tx) {
	defer func() {
		t.end()
		if u.panicked = recover(); u.panicked != nil {
			s.log.Error("an update panicked", "panic", u.panicked, "stack", string(debug.Stack()))
		}
	}()
	u.err = u.f(t)
}
