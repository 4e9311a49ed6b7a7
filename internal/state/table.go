package state

import (
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"strings"

	"github.com/hashicorp/go-memdb"

	"widecloud/internal/store"
)

// Table is the objects of one type: those whose keys begin with Prefix, encoded as JSON. The rest of the key is the object's name.
type Table[T any] struct {
	Prefix  string
	Indexes []Index[T]
	// Revised, when set, tells an object its revision in the store after each decoding.
	Revised func(o *T, revision int64)
}

// Index finds objects by what they say. Keys gives what one is found by; none: it is not in the index. It must depend on the
// object alone.
type Index[T any] struct {
	Name string
	Keys func(*T) []string
}

// Get reads an object; store.ErrNotFound when there is none of that name.
func (t *Table[T]) Get(tx *Tx, name string) (*T, error) {
	object, err := tx.Object(t.Prefix + name)
	if err != nil {
		return nil, err
	}
	o, ok := object.(*T)
	if !ok {
		return nil, fmt.Errorf("%s%s is a %T in the schema", t.Prefix, name, object)
	}
	return o, nil
}

// Edit reads an object to be changed: a copy.
func (t *Table[T]) Edit(tx *Tx, name string) (*T, error) {
	o, err := t.Get(tx, name)
	if err != nil {
		return nil, err
	}
	return Clone(o), nil
}

// All gives all objects with their names, in the order of names. What the transaction writes meanwhile is not seen.
func (t *Table[T]) All(tx *Tx) iter.Seq2[string, *T] {
	return t.typed(tx.Objects(t.Prefix))
}

// By gives the objects that an index finds by a key, in the order of their names.
func (t *Table[T]) By(tx *Tx, index, key string) iter.Seq2[string, *T] {
	return t.typed(tx.By(t.Prefix, index, key))
}

func (t *Table[T]) typed(all iter.Seq2[string, any]) iter.Seq2[string, *T] {
	return func(yield func(string, *T) bool) {
		for key, object := range all {
			if o, ok := object.(*T); ok && !yield(strings.TrimPrefix(key, t.Prefix), o) {
				return
			}
		}
	}
}

// Put writes an object. What is as it was is not written, so that it wakes nobody.
func (t *Table[T]) Put(tx *Tx, name string, o *T) error {
	if t.Revised != nil {
		o = Clone(o)
		t.Revised(o, 0) // it is the store's to know
	}
	value, err := json.Marshal(o)
	if err != nil {
		return fmt.Errorf("marshal %s%s: %w", t.Prefix, name, err)
	}
	return tx.Set(t.Prefix+name, value)
}

// Delete removes an object; nil when there is none.
func (t *Table[T]) Delete(tx *Tx, name string) error {
	if err := tx.Delete(t.Prefix + name); !errors.Is(err, store.ErrNotFound) {
		return err
	}
	return nil
}

// definition is a Table whose type is not known here.
type definition interface {
	prefix() string
	decode(key string, value []byte) (any, error)
	revise(object any, revision int64)
	indexes() map[string]*memdb.IndexSchema
}

// Schema is the tables of a state. No prefix begins with another one.
type Schema []definition

func (t *Table[T]) prefix() string { return t.Prefix }

func (t *Table[T]) decode(key string, value []byte) (any, error) {
	o := new(T)
	if err := json.Unmarshal(value, o); err != nil {
		return nil, fmt.Errorf("read %s: %w", key, err)
	}
	return o, nil
}

func (t *Table[T]) revise(object any, revision int64) {
	if o, ok := object.(*T); ok && t.Revised != nil {
		t.Revised(o, revision)
	}
}

func (t *Table[T]) indexes() map[string]*memdb.IndexSchema {
	out := map[string]*memdb.IndexSchema{}
	for _, i := range t.Indexes {
		out[i.Name] = &memdb.IndexSchema{Name: i.Name, AllowMissing: true, Indexer: indexer(func(object any) []string {
			o, ok := object.(*T)
			if !ok {
				return nil
			}
			return i.Keys(o)
		})}
	}
	return out
}

// plain is the table of the keys that no other has.
type plain struct{}

func (plain) prefix() string                         { return "" }
func (plain) decode(string, []byte) (any, error)     { return nil, nil }
func (plain) revise(any, int64)                      {}
func (plain) indexes() map[string]*memdb.IndexSchema { return nil }
