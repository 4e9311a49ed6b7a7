// Package store is a site's memory: a revisioned key-value store with transactions and watches. store/bolt is the
// default driver; every driver passes the conformance suite in store/storetest.
//
// Invariants:
//   - an Update that returned nil has been synced to stable storage (law 3);
//   - every Update that wrote anything has one revision of its own, larger than all before it, also across restarts;
//   - Updates are serialisable; a View sees one revision;
//   - a watch gives every change of its prefix once, in the order of revisions, or ends with ErrCompacted or ErrSlow.
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
)

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
	// Update runs f and commits its writes; an error of f undoes them and is returned as it is. f may run more than once.
	Update(ctx context.Context, f func(Tx) error) (revision int64, err error)
	// Watch gives the changes of keys with the prefix after revision from; from < 0: from now on.
	Watch(ctx context.Context, prefix string, from int64) (Watcher, error)
	Close() error
}
