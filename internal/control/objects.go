package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"reflect"
	"strings"

	"widecloud/api"
	"widecloud/internal/state"
	"widecloud/internal/store"
)

// The store's keys. Objects are under their kind; what only this controller needs is beside them.
const (
	prefixObjects    = "objects/"    // objects/KIND/NAME -> the noun
	prefixMigrations = "migrations/" // migrations/JOB -> migration
	prefixImports    = "imports/"    // imports/JOB -> imageImport
	prefixDeletions  = "deletions/"  // deletions/JOB -> deletion of a VM
	prefixDebris     = "debris/"     // debris/JOB -> debris: what a job could not clean up yet
	prefixClaims     = "claims/"     // claims/JOB -> wire.Claim: room kept here for a job
	prefixOrders     = "orders/"     // orders/VMUID -> wire.Claim of a guest that has arrived
	prefixTokens     = "tokens/"     // tokens/ID -> token
	prefixJoins      = "joins/"      // joins/ID -> join
	prefixViews      = "views/"      // views/HOME/UID -> wire.NetworkView of a peer's network
	prefixRequests   = "requests/"   // requests/LENDER/LOAN -> loanRequest: a loan that was asked for, and is not here yet
	prefixAnswers    = "answers/"    // answers/USER/HASH -> answer: of a request that its client may repeat
	prefixEnrolments = "enrolments/" // enrolments/HOST -> enrolment: the key that may speak for a host
)

func keyOf(k api.Kind, name string) string { return prefixObjects + string(k) + "/" + name }

// newObject makes an empty noun of a kind; api.CodeNotFound when there is no such kind.
func newObject(k api.Kind) (api.Object, error) {
	n, err := api.NounOf(k)
	if err != nil {
		return nil, err
	}
	return n.New(), nil
}

// decode reads a noun out of a change of the store; its Revision is the change's.
func decode(k api.Kind, kv store.KV) (api.Object, error) {
	o, err := newObject(k)
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(kv.Value, o); err != nil {
		return nil, fmt.Errorf("read %s: %w", kv.Key, err)
	}
	o.Metadata().Revision = kv.Modified
	return o, nil
}

// noun is the pointer to a noun's struct.
type noun[T any] interface {
	*T
	api.Object
}

// find reads one noun, which is shared and must not be changed; api.CodeNotFound when there is none.
func find[T any, P noun[T]](tx *state.Tx, name string) (P, error) {
	kind := P(nil).Kind()
	o, err := tx.Object(keyOf(kind, name))
	if errors.Is(err, store.ErrNotFound) {
		return nil, api.Errorf(api.CodeNotFound, "no %s is called %q", singular(kind), name)
	}
	if err != nil {
		return nil, err
	}
	return o.(P), nil
}

// get reads one noun to be changed; api.CodeNotFound when there is none.
func get[T any, P noun[T]](tx *state.Tx, name string) (P, error) {
	o, err := find[T, P](tx, name)
	if err != nil {
		return nil, err
	}
	return state.Clone(o), nil
}

// each gives all nouns of a kind in the order of their names. They are shared and must not be changed.
func each[T any, P noun[T]](tx *state.Tx) iter.Seq[P] {
	return nouns[T, P](tx.Objects(keyOf(P(nil).Kind(), "")))
}

// by gives the nouns that an index of their table (tables.go) finds, in the order of their names. They are shared and must not be
// changed.
func by[T any, P noun[T]](tx *state.Tx, index, key string) iter.Seq[P] {
	return nouns[T, P](tx.By(keyOf(P(nil).Kind(), ""), index, key))
}

func nouns[T any, P noun[T]](all iter.Seq2[string, any]) iter.Seq[P] {
	return func(yield func(P) bool) {
		for _, o := range all {
			if !yield(o.(P)) {
				return
			}
		}
	}
}

// list reads all nouns of a kind to be changed, in the order of their names.
func list[T any, P noun[T]](tx *state.Tx) ([]P, error) {
	var out []P
	for o := range each[T, P](tx) {
		out = append(out, state.Clone(o))
	}
	return out, nil
}

// put writes a noun. What did not change is not written, so that it wakes nobody.
func put(tx *state.Tx, o api.Object) error {
	if have, err := tx.Object(keyOf(o.Kind(), o.Metadata().Name)); err == nil && have != any(o) && reflect.DeepEqual(have, o) {
		return nil // as most reports say; to encode it would tell the same
	}
	o = state.Copy(o).(api.Object)
	m := o.Metadata()
	m.Revision = 0 // the store knows it
	value, err := json.Marshal(o)
	if err != nil {
		return fmt.Errorf("marshal %s %s: %w", singular(o.Kind()), m.Name, err)
	}
	return tx.Set(keyOf(o.Kind(), m.Name), value)
}

// putJSON writes a record of the controller's own.
func putJSON(tx *state.Tx, key string, v any) error {
	value, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("marshal %s: %w", key, err)
	}
	return tx.Set(key, value)
}

// getJSON reads a record of the controller's own; store.ErrNotFound when there is none.
func getJSON[T any](tx *state.Tx, key string) (T, error) {
	o, err := tx.Object(key)
	if err != nil {
		var none T
		return none, err
	}
	return *state.Clone(o.(*T)), nil
}

// listJSON reads all records under a prefix, by the rest of their keys.
func listJSON[T any](tx *state.Tx, prefix string) (map[string]T, error) {
	out := map[string]T{}
	for key, o := range tx.Objects(prefix) {
		out[strings.TrimPrefix(key, prefix)] = *state.Clone(o.(*T))
	}
	return out, nil
}

// records gives the controller's own records of a table that an index finds, with their whole keys. They are shared and must not be
// changed.
func records[T any](tx *state.Tx, prefix, index, key string) iter.Seq2[string, *T] {
	return func(yield func(string, *T) bool) {
		for k, o := range tx.By(prefix, index, key) {
			if !yield(k, o.(*T)) {
				return
			}
		}
	}
}

// vmOf finds our VM of a UID; nil when there is none. It is shared and must not be changed.
func vmOf(tx *state.Tx, uid string) *api.VM {
	for v := range by[api.VM](tx, "uid", uid) {
		return v
	}
	return nil
}

// decodeInfo reads what another site told when certificates were exchanged.
func decodeInfo(raw json.RawMessage, v any) error {
	if err := json.Unmarshal(raw, v); err != nil {
		return api.Invalidf("info", "%v", err)
	}
	return nil
}

// remove deletes a key; nil when it is not there.
func remove(tx *state.Tx, key string) error {
	if err := tx.Delete(key); err != nil && !errors.Is(err, store.ErrNotFound) {
		return err
	}
	return nil
}

// removeAll deletes the keys under a prefix.
func removeAll(tx *state.Tx, prefix string) error {
	kvs, err := tx.List(prefix)
	if err != nil {
		return err
	}
	for _, kv := range kvs {
		if err := remove(tx, kv.Key); err != nil {
			return err
		}
	}
	return nil
}

// singular is a kind as a person says it of one object.
func singular(k api.Kind) string { return k.Singular() }

func (c *Controller) view(ctx context.Context, f func(*state.Tx) error) error {
	return c.o.State.Read(ctx, f)
}

// update runs a transaction. One of new work is refused when the store has no room for it; store.Urgent marks the others.
func (c *Controller) update(ctx context.Context, f func(*state.Tx) error) error {
	_, err := c.o.State.Write(ctx, f)
	return c.noRoom(err)
}

// room refuses new work before it begins, when the store has no room for what will follow.
func (c *Controller) room(ctx context.Context) error { return c.noRoom(c.o.State.Room(ctx)) }

// noRoom tells a user, or a peer, that the store is full. The log has the figures.
func (c *Controller) noRoom(err error) error {
	if !errors.Is(err, store.ErrFull) {
		return err
	}
	c.log.Error("the store is full: new work is refused", "err", err)
	return &api.Error{Code: api.CodeUnavailable, Message: "the disk of site " + c.o.Site + "'s controller is full: nothing new can be begun until its admin makes room there"}
}

// change reads a noun, lets f change it, and writes it back in one transaction.
func change[T any, P interface {
	*T
	api.Object
}](ctx context.Context, c *Controller, name string, f func(*state.Tx, P) error) (P, error) {
	var o P
	err := c.update(ctx, func(tx *state.Tx) error {
		var err error
		if o, err = get[T, P](tx, name); err != nil {
			return err
		}
		if err := f(tx, o); err != nil {
			return err
		}
		return put(tx, o)
	})
	if err != nil {
		return nil, err
	}
	return o, nil
}
