package state

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/hashicorp/go-memdb"

	"widecloud/internal/store"
)

// State is a site's objects. Make one with Open; all of it may be used concurrently.
type State struct {
	store  store.Store
	schema Schema
	db     *memdb.MemDB

	now     atomic.Pointer[version]
	queue   *store.Queue[*commit] // whoever has its turn may commit and reload, and change db
	doubt   atomic.Bool           // a commit failed: the store may have more than the memory
	checked bool                  // of CheckMemos
}

// version is the objects as of a revision.
type version struct {
	db       *memdb.MemDB
	revision int64
	replaced chan struct{} // closed when there is a newer one
}

var _ store.Store = (*State)(nil)

// Open reads all of a store. From then on the store is written through the State alone. Close closes the store, too.
func Open(ctx context.Context, st store.Store, schema Schema) (*State, error) {
	for i, d := range schema {
		for _, other := range schema[:i] {
			if strings.HasPrefix(d.prefix(), other.prefix()) || strings.HasPrefix(other.prefix(), d.prefix()) {
				return nil, fmt.Errorf("schema: the prefix %q is not apart from %q", d.prefix(), other.prefix())
			}
		}
	}
	db, err := database(schema)
	if err != nil {
		return nil, err
	}
	s := &State{store: st, schema: schema, db: db, queue: store.NewQueue[*commit](maxGroup)}
	s.now.Store(&version{db: db.Snapshot(), replaced: make(chan struct{})})
	s.doubt.Store(true)
	return s, s.settle(ctx)
}

// tableOf is the table of a key.
func (s *State) tableOf(key string) definition {
	for _, d := range s.schema {
		if strings.HasPrefix(key, d.prefix()) {
			return d
		}
	}
	return plain{}
}

// View runs f on a snapshot; the transaction is a *Tx.
func (s *State) View(ctx context.Context, f func(store.Tx) error) error {
	return s.Read(ctx, func(tx *Tx) error { return f(tx) })
}

// Read runs f on a snapshot.
func (s *State) Read(ctx context.Context, f func(*Tx) error) error {
	if err := s.current(ctx); err != nil {
		return err
	}
	tx := s.begin(s.now.Load(), true)
	defer tx.end()
	return f(tx)
}

// Update runs f and commits its writes; the transaction is a *Tx. The errors are the store's.
func (s *State) Update(ctx context.Context, f func(store.Tx) error) (int64, error) {
	return s.Write(ctx, func(tx *Tx) error { return f(tx) })
}

// tries is how often a transaction runs beside others before it runs alone.
const tries = 3

// Write runs f and commits its writes: see store.Store's Update. f runs again when something that it has read was changed before its
// writes could be committed. Transactions that wait for that at the same time are committed together.
func (s *State) Write(ctx context.Context, f func(*Tx) error) (int64, error) {
	for range tries {
		if err := s.current(ctx); err != nil {
			return 0, err
		}
		revision, err := s.try(ctx, f, false)
		if !errors.Is(err, errOutdated) {
			return revision, err
		}
	}
	// Once more with nobody beside it, so that it comes to an end.
	if err := s.queue.Lock(ctx); err != nil {
		return 0, err
	}
	defer s.queue.Unlock()
	for {
		if err := s.reload(ctx); err != nil {
			return 0, err
		}
		revision, err := s.try(ctx, f, true)
		if !errors.Is(err, errOutdated) { // as it is when the State is closed meanwhile
			return revision, err
		}
	}
}

var errOutdated = errors.New("what was read has changed")

// try runs f and commits, unless something that f has read was changed meanwhile: errOutdated. alone: the turn is held.
func (s *State) try(ctx context.Context, f func(*Tx) error, alone bool) (int64, error) {
	tx := s.begin(s.now.Load(), false)
	defer tx.end()
	tx.actor = actorOf(ctx)
	if err := f(tx); err != nil {
		return 0, err
	}
	if len(tx.writes) == 0 {
		return tx.Revision(), nil
	}
	c := &commit{ctx: ctx, tx: tx}
	if alone {
		s.commitAll([]*commit{c})
	} else if err := s.queue.Do(ctx, c, s.commitAll); err != nil {
		return 0, err
	}
	return c.revision, c.err
}

// current settles a doubt, if there is one.
func (s *State) current(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if !s.doubt.Load() {
		return nil
	}
	return s.settle(ctx)
}

func (s *State) settle(ctx context.Context) error {
	if err := s.queue.Lock(ctx); err != nil {
		return err
	}
	defer s.queue.Unlock()
	return s.reload(ctx)
}

// reload makes the memory what the store is, if there is a doubt. The turn is held.
func (s *State) reload(ctx context.Context) error {
	if !s.doubt.Load() {
		return nil
	}
	var kvs []store.KV
	var revision int64
	if err := s.store.View(ctx, func(tx store.Tx) (err error) {
		if revision = tx.Revision(); revision != 0 && revision == s.now.Load().revision {
			return nil // nothing was written
		}
		kvs, err = tx.List("")
		return err
	}); err != nil {
		return err
	}
	if revision != s.now.Load().revision {
		if err := s.replace(kvs, revision); err != nil {
			return err
		}
	}
	s.doubt.Store(false)
	return nil
}

// replace puts what the store has in the place of what the memory has. What is the same stays, so that nobody who read it is
// disturbed.
func (s *State) replace(kvs []store.KV, revision int64) error {
	memory := s.db.Txn(true)
	defer memory.Abort()
	there := make(map[string]bool, len(kvs))
	for _, kv := range kvs {
		there[kv.Key] = true
		d := s.tableOf(kv.Key)
		if have, _ := memory.First(tableName(d.prefix()), indexKey, kv.Key); have != nil && have.(*row).modified == kv.Modified {
			continue
		}
		r := &row{key: kv.Key, value: kv.Value, created: kv.Created, modified: kv.Modified}
		var err error
		if r.object, err = d.decode(kv.Key, kv.Value); err != nil {
			return err
		}
		d.revise(r.object, kv.Modified)
		if err := memory.Insert(tableName(d.prefix()), r); err != nil {
			return fmt.Errorf("keep %s: %w", kv.Key, err)
		}
	}
	for _, d := range append(Schema{plain{}}, s.schema...) {
		found, err := memory.Get(tableName(d.prefix()), indexKey+"_prefix", d.prefix())
		if err != nil {
			return err
		}
		var gone []*row
		for raw := found.Next(); raw != nil; raw = found.Next() {
			if r := raw.(*row); !there[r.key] {
				gone = append(gone, r)
			}
		}
		for _, r := range gone {
			if err := memory.Delete(tableName(d.prefix()), r); err != nil {
				return err
			}
		}
	}
	memory.Commit()
	s.show(revision)
	return nil
}

// CheckMemos has each result of a Memo computed again when it is asked for, and makes it an error when it is not what was kept. It is
// for tests, before the State is used.
func (s *State) CheckMemos() { s.checked = true }

// Verify finds an object that was changed by somebody who has read it, and one that an index does not find, or finds where it is
// not: nil, or an error that names its key. It is for tests.
func (s *State) Verify() error {
	tx := s.begin(s.now.Load(), true)
	defer tx.end()
	for _, d := range s.schema {
		for r := range tx.scan(d.prefix(), indexKey+"_prefix", d.prefix()) {
			want, err := d.decode(r.key, r.value)
			if err != nil {
				return err
			}
			d.revise(want, r.modified)
			if !reflect.DeepEqual(want, r.object) {
				return fmt.Errorf("%s was changed in memory: it is %+v, stored is %+v", r.key, r.object, want)
			}
		}
		if err := tx.verifyIndexes(d); err != nil {
			return err
		}
	}
	return nil
}

// verifyIndexes holds what the indexes of a table find against a scan.
func (tx *Tx) verifyIndexes(d definition) error {
	for name, index := range d.indexes() {
		found := map[string]int{} // by key; it counts to 1 and back
		for r := range tx.scan(d.prefix(), indexKey+"_prefix", d.prefix()) {
			keys := slices.Clone(index.Indexer.(indexer)(r.object))
			slices.Sort(keys)
			for _, key := range slices.Compact(keys) {
				for by := range tx.scan(d.prefix(), name, key) {
					if by == r {
						found[key]++
					}
				}
				if found[key]--; found[key] != 0 {
					return fmt.Errorf("index %s of %s finds %s not once by %q", name, d.prefix(), r.key, key)
				}
			}
		}
		for key := range found {
			for r := range tx.scan(d.prefix(), name, key) {
				if !slices.Contains(index.Indexer.(indexer)(r.object), key) {
					return fmt.Errorf("index %s of %s finds %s by %q", name, d.prefix(), r.key, key)
				}
			}
		}
	}
	return nil
}

// Room is the store's.
func (s *State) Room(ctx context.Context) error { return s.store.Room(ctx) }

// Close closes the store.
func (s *State) Close() error {
	s.doubt.Store(true) // whoever asks later hears of it from the store
	return s.store.Close()
}
