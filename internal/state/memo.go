package state

import (
	"fmt"
	"reflect"
	"sync"
)

// Memo keeps what was computed from objects, for as long as nothing that the computation has read changes. The zero Memo is empty.
type Memo[V any] struct {
	mu   sync.Mutex
	kept map[string]*memory[V]
}

type memory[V any] struct {
	reading
	value V
}

// reading is what a computation has read, at a revision.
type reading struct {
	revision int64
	changed  []<-chan struct{} // closed: something has changed since
	memos    []*reading        // of other Memos
}

// Get gives f's result for a key, which is computed only when it is not known or no longer true. Results are shared and must not be
// changed. Errors are not kept. A transaction that has written something computes for itself.
func (m *Memo[V]) Get(tx *Tx, key string, f func(*Tx) (V, error)) (V, error) {
	if tx.now != nil || tx.ended {
		return f(tx)
	}
	m.mu.Lock()
	have := m.kept[key]
	m.mu.Unlock()
	// At one revision nothing changes, although what is about to be committed has closed its channels already.
	if have != nil && (have.revision == tx.Revision() || have.revision < tx.Revision() && !have.outdated()) {
		tx.memos = append(tx.memos, &have.reading)
		return have.value, m.check(tx, key, have.value, f)
	}
	inner := tx.s.begin(tx.from, false)
	defer inner.end()
	inner.readOnly = true
	v, err := f(inner)
	if err != nil {
		return v, err
	}
	made := &memory[V]{reading: inner.reading(), value: v}
	tx.memos = append(tx.memos, &made.reading)
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.kept == nil {
		m.kept = map[string]*memory[V]{}
	}
	if now := m.kept[key]; now == nil || now.revision <= made.revision {
		m.kept[key] = made
	}
	return v, nil
}

// Sames are results that tell by themselves whether two of them are the same, as those do that keep results of their own. Others are
// compared as reflect.DeepEqual does.
type Sames[V any] interface {
	Same(V) bool
}

func same[V any](a, b V) bool {
	if x, ok := any(a).(Sames[V]); ok {
		return x.Same(b)
	}
	return reflect.DeepEqual(a, b)
}

// check finds a result that is kept and no longer true, in a State whose results are checked.
func (m *Memo[V]) check(tx *Tx, key string, have V, f func(*Tx) (V, error)) error {
	if !tx.s.checked {
		return nil
	}
	inner := tx.s.begin(tx.from, true)
	defer inner.end()
	if now, err := f(inner); err != nil || !same(have, now) {
		return fmt.Errorf("state: what is kept of %q is %+v, and would be %+v now (%v)", key, have, now, err)
	}
	return nil
}

// reading is what the transaction has read so far.
func (tx *Tx) reading() reading {
	r := reading{revision: tx.Revision(), memos: tx.memos}
	for changed := range tx.reads {
		r.changed = append(r.changed, changed)
	}
	return r
}

func (r *reading) outdated() bool {
	for _, changed := range r.changed {
		select {
		case <-changed:
			return true
		default:
		}
	}
	for _, m := range r.memos {
		if m.outdated() {
			return true
		}
	}
	return false
}
