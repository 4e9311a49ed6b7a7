package state

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"

	"github.com/hashicorp/go-memdb"

	"widecloud/internal/store"
)

// Tx is a transaction of a State; valid only inside View or Update, in one goroutine.
type Tx struct {
	s        *State
	actor    string // on whose account it writes
	from     *version
	base     *memdb.Txn       // what was there when it began
	now      *memdb.Txn       // base with the writes; nil: there are none yet
	reads    memdb.WatchSet   // closed: something that was read has changed. nil: nobody will ask
	absent   []string         // keys that were read and not there, of a transaction that may write
	writes   map[string]write // by key
	order    []string         // of the writes
	memos    []*reading       // that were read
	readOnly bool
	ended    bool
}

// write is what a transaction does to a key.
type write struct {
	row     *row // nil: it is deleted
	removed bool // it was deleted, perhaps to be made anew
}

var _ store.Tx = (*Tx)(nil)

var (
	errEnded    = errors.New("transaction has ended")
	errReadOnly = errors.New("write in a View")
)

func (s *State) begin(v *version, readOnly bool) *Tx {
	tx := &Tx{s: s, from: v, base: v.db.Txn(false), readOnly: readOnly}
	if !readOnly {
		tx.reads = memdb.NewWatchSet()
	}
	return tx
}

func (tx *Tx) end() {
	tx.ended = true
	tx.base.Abort()
	if tx.now != nil {
		tx.now.Abort()
	}
}

// Revision is the newest committed revision that the transaction sees.
func (tx *Tx) Revision() int64 { return tx.from.revision }

// Get reads a key; store.ErrNotFound when it is not there.
func (tx *Tx) Get(key string) (store.KV, error) {
	r, err := tx.get(key)
	if err != nil {
		return store.KV{}, err
	}
	return r.kv(), nil
}

// List reads the keys with a prefix, in their order.
func (tx *Tx) List(prefix string) ([]store.KV, error) {
	if tx.ended {
		return nil, errEnded
	}
	var kvs []store.KV
	for _, d := range tx.s.schema {
		if of := d.prefix(); of != "" && (strings.HasPrefix(prefix, of) || strings.HasPrefix(of, prefix)) {
			for r := range tx.scan(of, indexKey+"_prefix", longer(prefix, of)) {
				kvs = append(kvs, r.kv())
			}
		}
	}
	for r := range tx.scan("", indexKey+"_prefix", prefix) {
		kvs = append(kvs, r.kv())
	}
	slices.SortFunc(kvs, func(a, b store.KV) int { return cmp.Compare(a.Key, b.Key) })
	return kvs, nil
}

func longer(a, b string) string {
	if len(a) > len(b) {
		return a
	}
	return b
}

// Put writes a key.
func (tx *Tx) Put(key string, value []byte) error {
	switch {
	case tx.ended:
		return errEnded
	case tx.readOnly:
		return errReadOnly
	case key == "":
		return errors.New("key is empty")
	}
	r := &row{key: key, value: bytes.Clone(value), created: tx.from.revision + 1, modified: tx.from.revision + 1}
	if have, err := tx.get(key); err == nil {
		r.created = have.created
	}
	d := tx.s.tableOf(key)
	var err error
	if r.object, err = d.decode(key, value); err != nil {
		return err
	}
	d.revise(r.object, r.modified)
	if err := tx.own().Insert(tableName(d.prefix()), r); err != nil {
		return fmt.Errorf("put %s: %w", key, err)
	}
	tx.note(key, write{r, tx.writes[key].removed})
	return nil
}

// Delete removes a key; store.ErrNotFound when it is not there.
func (tx *Tx) Delete(key string) error {
	if tx.readOnly {
		return errReadOnly
	}
	r, err := tx.get(key)
	if err != nil {
		return err
	}
	if err := tx.own().Delete(tableName(tx.s.tableOf(key).prefix()), r); err != nil {
		return fmt.Errorf("delete %s: %w", key, err)
	}
	tx.note(key, write{nil, true})
	return nil
}

// Set is Put for what may be there already: then nothing is written, and nobody is woken.
func (tx *Tx) Set(key string, value []byte) error {
	if r, err := tx.get(key); err == nil && bytes.Equal(r.value, value) {
		return nil
	}
	return tx.Put(key, value)
}

// Object reads the object of a key, of whatever table: a *T of a Table[T], or nil. It must not be changed. store.ErrNotFound when the
// key is not there.
func (tx *Tx) Object(key string) (any, error) {
	r, err := tx.get(key)
	if err != nil {
		return nil, err
	}
	return r.object, nil
}

// Objects gives the objects of the keys with a prefix that lies within one table, in their order. They must not be changed. What
// the transaction writes meanwhile is not seen.
func (tx *Tx) Objects(prefix string) iter.Seq2[string, any] {
	return objects(tx.scan(tx.s.tableOf(prefix).prefix(), indexKey+"_prefix", prefix))
}

// By gives the objects of the table of a prefix that an index finds by a key, in the order of their keys. They must not be changed.
func (tx *Tx) By(prefix, index, key string) iter.Seq2[string, any] {
	return objects(tx.scan(prefix, index, key))
}

func objects(rows iter.Seq[*row]) iter.Seq2[string, any] {
	return func(yield func(string, any) bool) {
		for r := range rows {
			if !yield(r.key, r.object) {
				return
			}
		}
	}
}

// note keeps a write, in the order of the keys' first ones.
func (tx *Tx) note(key string, w write) {
	if _, ok := tx.writes[key]; !ok {
		tx.order = append(tx.order, key)
	}
	tx.writes[key] = w
}

// own is the memory that takes the transaction's own writes.
func (tx *Tx) own() *memdb.Txn {
	if tx.now == nil {
		tx.now = tx.from.db.Snapshot().Txn(true)
		tx.writes = map[string]write{}
	}
	return tx.now
}

func (tx *Tx) get(key string) (*row, error) {
	if tx.ended {
		return nil, errEnded
	}
	table := tableName(tx.s.tableOf(key).prefix())
	changed, raw, err := tx.base.FirstWatch(table, indexKey, key)
	if err == nil && tx.now != nil {
		raw, err = tx.now.First(table, indexKey, key)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", key, err)
	}
	if raw == nil {
		tx.noteAbsent(key, changed)
		return nil, fmt.Errorf("%s: %w", key, store.ErrNotFound)
	}
	tx.noteRead(changed)
	return raw.(*row), nil
}

// scan gives the rows of a table that an index finds.
func (tx *Tx) scan(prefix, index, key string) iter.Seq[*row] {
	return func(yield func(*row) bool) {
		if tx.ended {
			return
		}
		found, err := tx.base.Get(tableName(prefix), index, key)
		if err != nil {
			panic(fmt.Sprintf("state: scan %q by %s: %v", prefix, index, err)) // the schema has no such index
		}
		tx.noteRead(found.WatchCh())
		if tx.now != nil {
			if found, err = tx.now.Get(tableName(prefix), index, key); err != nil {
				panic(fmt.Sprintf("state: scan %q by %s: %v", prefix, index, err))
			}
		}
		for raw := found.Next(); raw != nil; raw = found.Next() {
			if !yield(raw.(*row)) {
				return
			}
		}
	}
}

func (tx *Tx) noteRead(changed <-chan struct{}) {
	if tx.reads != nil {
		tx.reads.Add(changed)
	}
}

// noteAbsent notes that a key was not there. The channel is closed by a change of its neighbours, too: transactions that make different
// objects of a kind would disturb each other. A transaction that may write looks the key up again instead, before it is committed.
func (tx *Tx) noteAbsent(key string, changed <-chan struct{}) {
	if tx.reads == nil || tx.readOnly {
		tx.noteRead(changed)
		return
	}
	tx.absent = append(tx.absent, key)
}

// outdated tells whether something that the transaction has read was changed since. The turn to commit is held.
func (tx *Tx) outdated() bool {
	r := tx.reading()
	return r.outdated() || slices.ContainsFunc(tx.absent, tx.s.has)
}

// has tells whether a key is in the memory, also if reads do not see it yet.
func (s *State) has(key string) bool {
	raw, err := s.db.Txn(false).First(tableName(s.tableOf(key).prefix()), indexKey, key)
	return err != nil || raw != nil
}
