package state

import (
	"context"
	"errors"
	"fmt"

	"widecloud/internal/store"
)

// maxGroup is how many transactions are committed together at most.
const maxGroup = 64

// commit is a transaction that is to be committed, and its outcome.
type commit struct {
	ctx      context.Context
	tx       *Tx
	revision int64
	err      error // errOutdated: something that the transaction has read was changed
}

// commitAll commits the transactions of a group in their order. The turn is held.
//
// Each is put into the memory at once, so that those behind it in the group find out whether it has changed what they have read. What
// reads see is the memory as it was, until the store has synced.
func (s *State) commitAll(group []*commit) {
	before := s.now.Load()
	var made []*commit
	var calls []*store.Call
	for _, c := range group {
		if s.doubt.Load() || (c.tx.from != before || len(made) > 0) && c.tx.outdated() {
			c.err = errOutdated
			continue
		}
		if c.err = s.apply(c.tx); c.err == nil {
			made = append(made, c)
			calls = append(calls, &store.Call{Ctx: c.ctx, F: c.tx.write})
		}
	}
	if len(made) == 0 {
		return
	}
	failed, newest := made, before.revision // unless the store says otherwise
	defer func() {
		if len(failed) > 0 {
			s.doubt.Store(true) // until the store's own revision was seen
		}
		for _, c := range failed {
			s.undo(c.tx)
		}
		s.show(newest)
	}()
	store.UpdateAll(s.store, calls)
	failed, newest = outcome(made, calls, before.revision)
}

// outcome gives the transactions what the store said, and tells which have failed and what the newest revision is. The errors are not
// trusted: if there is a revision more than there are commits, nobody knows whose it is, and all is to be read from the store.
func outcome(made []*commit, calls []*store.Call, before int64) (failed []*commit, newest int64) {
	newest = before
	revisions := int64(0)
	for i, c := range made {
		c.revision, c.err = calls[i].Revision, calls[i].Err
		switch {
		case c.err != nil:
			c.revision = 0
			failed = append(failed, c)
		case c.revision > newest: // else it changed nothing in the end
			newest = c.revision
			revisions++
			c.tx.revise(c.revision)
		}
	}
	if len(failed) > 0 && newest-before != revisions {
		return made, before
	}
	return failed, newest
}

// apply puts the writes of a transaction into the memory.
func (s *State) apply(tx *Tx) error {
	memory := s.db.Txn(true)
	defer memory.Abort()
	for _, key := range tx.order {
		table := tableName(s.tableOf(key).prefix())
		var err error
		if r := tx.writes[key].row; r != nil {
			err = memory.Insert(table, r)
		} else {
			_, err = memory.DeleteAll(table, indexKey, key)
		}
		if err != nil {
			return fmt.Errorf("keep %s: %w", key, err)
		}
	}
	memory.Commit()
	return nil
}

// undo puts back into the memory what was there before a transaction that was applied.
func (s *State) undo(tx *Tx) {
	memory := s.db.Txn(true)
	defer memory.Abort()
	for _, key := range tx.order {
		table := tableName(s.tableOf(key).prefix())
		was, err := tx.base.First(table, indexKey, key)
		if err == nil && was != nil {
			err = memory.Insert(table, was)
		} else if err == nil {
			_, err = memory.DeleteAll(table, indexKey, key)
		}
		if err != nil {
			panic(fmt.Sprintf("state: undo the write of %s: %v", key, err)) // it was in the memory before
		}
	}
	memory.Commit()
}

// revise tells the rows of a transaction their revision. Nobody can read them yet.
func (tx *Tx) revise(revision int64) {
	for _, key := range tx.order {
		r := tx.writes[key].row
		if r == nil {
			continue
		}
		if r.created > tx.from.revision { // it was not there before
			r.created = revision
		}
		r.modified = revision
		tx.s.tableOf(key).revise(r.object, revision)
	}
}

// write writes the transaction into the store's.
func (tx *Tx) write(st store.Tx) error {
	for _, key := range tx.order {
		w := tx.writes[key]
		if w.removed {
			if err := st.Delete(key); err != nil && !errors.Is(err, store.ErrNotFound) { // made and removed again
				return err
			}
		}
		if w.row == nil {
			continue
		}
		if err := st.Put(key, w.row.value); err != nil {
			return err
		}
	}
	return nil
}

// show makes the memory what reads see. The turn is held.
func (s *State) show(revision int64) {
	before := s.now.Swap(&version{db: s.db.Snapshot(), revision: revision, replaced: make(chan struct{})})
	close(before.replaced)
}
