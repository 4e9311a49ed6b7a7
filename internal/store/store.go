// Package store is a site's memory: a revisioned key-value store with transactions and watches. store/bolt is the
// default driver; every driver passes the conformance suite in store/storetest.
//
// Invariants:
//   - an Update that returned nil has been synced to stable storage (law 3);
//   - every Update that wrote anything has one revision of its own, larger than all before it, also across restarts;
//   - Updates are serialisable; a View sees one revision;
//   - a View, and a watch, show only what has been synced;
//   - a watch gives every change of its prefix once, in the order of revisions, or ends with ErrCompacted or ErrSlow;
//   - an Update that returned an error has changed nothing, unless the error is ErrUnsure;
//   - Updates may share a sync; one that fails harms no other;
//   - a full disk ends no work that is under way: an urgent Update has a reserve that ordinary ones cannot use.
package store

import (
	"context"
	"errors"
)

// The errors that callers tell apart.
var (
	ErrNotFound  = errors.New("key not found")
	ErrCompacted = errors.New("revision is no longer kept")
	ErrSlow      = errors.New("watcher fell behind")
	ErrClosed    = errors.New("store is closed")
	// ErrFull: there is no room for the write. Nothing was changed. The message gives the figures and says what to do.
	ErrFull = errors.New("the store has no room")
	// ErrUnsure: the write may have taken effect, or not, and nobody can know yet. Do not act on either: neither go on as if
	// it were written nor undo it. View and Update return ErrUnsure until the store knows; then read, and decide by that.
	ErrUnsure = errors.New("the store does not know whether a write took effect")
)

type urgentKey struct{}

// Urgent marks the Updates of ctx as ones that may use the store's reserve. It is for work that has begun and must be able to
// go forward or back (the journal of a job, a VM's record, the removal of something); new work is ordinary.
func Urgent(ctx context.Context) context.Context { return context.WithValue(ctx, urgentKey{}, true) }

// IsUrgent is for drivers: whether ctx is one of Urgent.
func IsUrgent(ctx context.Context) bool { return ctx.Value(urgentKey{}) != nil }

// KV is a key with its value and the revisions of its creation and last write.
type KV struct {
	Key               string
	Value             []byte
	Created, Modified int64
}

// Tx is a transaction; valid only inside View or Update. Values that it returns may be kept.
type Tx interface {
	// Revision is the newest committed revision that the transaction sees.
	Revision() int64
	Get(key string) (KV, error)       // ErrNotFound
	List(prefix string) ([]KV, error) // in key order
	Put(key string, value []byte) error
	Delete(key string) error // ErrNotFound
}

// Change is one change of one key. A deletion has no Value, and Prev is what was there.
type Change struct {
	Revision int64
	Key      string
	Value    []byte
	Deleted  bool
	Prev     []byte
}

// Watcher gives changes. C is closed when the watch ends; Err says why (nil after the context's end).
type Watcher interface {
	C() <-chan []Change // all changes of one revision together
	Err() error
}

// Store is a site's memory.
type Store interface {
	View(ctx context.Context, f func(Tx) error) error
	// Update runs f and commits its writes; an error of f undoes them and is returned as it is. f may run more than once, and in
	// another goroutine.
	// ErrFull: the write would need the reserve and ctx is not urgent, or the reserve is used up. ErrUnsure: see there.
	Update(ctx context.Context, f func(Tx) error) (revision int64, err error)
	// Watch gives the changes of keys with the prefix after revision from; from < 0: from now on.
	Watch(ctx context.Context, prefix string, from int64) (Watcher, error)
	// Room is nil while the reserve is whole and there is room beside it, and ErrFull otherwise. It is for refusing new work
	// before it begins: an ordinary Update may still go through, if it finds room that earlier writes have left in the store.
	Room(ctx context.Context) error
	Close() error
}
