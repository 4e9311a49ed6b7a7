package objects

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"reflect"
	"strings"
	"time"

	"widecloud/api"
	"widecloud/internal/state"
	"widecloud/internal/store"
)

func (st *Site) Now() time.Time { return time.Now().UTC().Truncate(time.Millisecond) }

// NewUID is a random UUID (RFC 9562 §5.4).
func NewUID() string {
	var b [16]byte
	rand.Read(b[:]) // never fails (crypto/rand)
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

func (st *Site) ShortID() string { return NewUID()[:8] }

func (st *Site) NewMeta(name, owner string) api.Meta {
	return api.Meta{Name: name, UID: NewUID(), Owner: owner, Home: st.Name, Created: st.Now()}
}

// PrefixOffers keeps what peers offer: peeroffers/PEER/NAME -> wire.OfferBody.
const PrefixOffers = "peeroffers/"

// The store's keys. Objects are under their kind; what only this controller needs is beside them. What one package alone reads has its
// prefix there.
const (
	PrefixObjects    = "objects/"    // objects/KIND/NAME -> the noun
	PrefixMigrations = "migrations/" // migrations/JOB -> migration
	PrefixDebris     = "debris/"     // debris/JOB -> debris: what a job could not clean up yet
	PrefixClaims     = "claims/"     // claims/JOB -> wire.Claim: room kept here for a job
	PrefixOrders     = "orders/"     // orders/VMUID -> wire.Claim of a guest that has arrived
	PrefixTokens     = "tokens/"     // tokens/ID -> token
	PrefixJoins      = "joins/"      // joins/ID -> join
	PrefixViews      = "views/"      // views/HOME/UID -> wire.NetworkView of a peer's network
	PrefixRequests   = "requests/"   // requests/LENDER/LOAN -> loanRequest: a loan that was asked for, and is not here yet
	PrefixResults    = "results/"    // results/JOB/VM -> what became of a VM of a bulk job
	PrefixAnswers    = "answers/"    // answers/USER/HASH -> answer: of a request that its client may repeat
)

// Key is where an object is in the store.
func Key(k api.Kind, name string) string { return PrefixObjects + string(k) + "/" + name }

// NewObject makes an empty noun of a kind; api.CodeNotFound when there is no such kind.
func NewObject(k api.Kind) (api.Object, error) {
	n, err := api.NounOf(k)
	if err != nil {
		return nil, err
	}
	return n.New(), nil
}

// Decode reads a noun out of a change of the store; its Revision is the change's.
func Decode(k api.Kind, kv store.KV) (api.Object, error) {
	o, err := NewObject(k)
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

// Find reads one noun, which is shared and must not be changed; api.CodeNotFound when there is none.
func Find[T any, P noun[T]](tx *state.Tx, name string) (P, error) {
	kind := P(nil).Kind()
	o, err := tx.Object(Key(kind, name))
	if errors.Is(err, store.ErrNotFound) {
		return nil, api.Errorf(api.CodeNotFound, "no %s is called %q", kind.Singular(), name)
	}
	if err != nil {
		return nil, err
	}
	return o.(P), nil
}

// Get reads one noun to be changed; api.CodeNotFound when there is none.
func Get[T any, P noun[T]](tx *state.Tx, name string) (P, error) {
	o, err := Find[T, P](tx, name)
	if err != nil {
		return nil, err
	}
	return state.Clone(o), nil
}

// Each gives all nouns of a kind in the order of their names. They are shared and must not be changed.
func Each[T any, P noun[T]](tx *state.Tx) iter.Seq[P] {
	return nouns[T, P](tx.Objects(Key(P(nil).Kind(), "")))
}

// By gives the nouns that an index of their table (tables.go) finds, in the order of their names. They are shared and must not be
// changed.
func By[T any, P noun[T]](tx *state.Tx, index, key string) iter.Seq[P] {
	return nouns[T, P](tx.By(Key(P(nil).Kind(), ""), index, key))
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

// List reads all nouns of a kind to be changed, in the order of their names.
func List[T any, P noun[T]](tx *state.Tx) ([]P, error) {
	var out []P
	for o := range Each[T, P](tx) {
		out = append(out, state.Clone(o))
	}
	return out, nil
}

// Put writes a noun. What did not change is not written, so that it wakes nobody.
func Put(tx *state.Tx, o api.Object) error {
	if have, err := tx.Object(Key(o.Kind(), o.Metadata().Name)); err == nil && have != any(o) && reflect.DeepEqual(have, o) {
		return nil // as most reports say; to encode it would tell the same
	}
	o = state.Copy(o).(api.Object)
	m := o.Metadata()
	m.Revision = 0 // the store knows it
	value, err := json.Marshal(o)
	if err != nil {
		return fmt.Errorf("marshal %s %s: %w", o.Kind().Singular(), m.Name, err)
	}
	return tx.Set(Key(o.Kind(), m.Name), value)
}

// PutRecord writes a record of the controller's own.
func PutRecord(tx *state.Tx, key string, v any) error {
	value, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("marshal %s: %w", key, err)
	}
	return tx.Set(key, value)
}

// Record reads a record of the controller's own; store.ErrNotFound when there is none.
func Record[T any](tx *state.Tx, key string) (T, error) {
	o, err := tx.Object(key)
	if err != nil {
		var none T
		return none, err
	}
	return *state.Clone(o.(*T)), nil
}

// ListRecords reads all records under a prefix, by the rest of their keys.
func ListRecords[T any](tx *state.Tx, prefix string) (map[string]T, error) {
	out := map[string]T{}
	for key, o := range tx.Objects(prefix) {
		out[strings.TrimPrefix(key, prefix)] = *state.Clone(o.(*T))
	}
	return out, nil
}

// Records gives the controller's own records of a table that an index finds, with their whole keys. They are shared and must not be
// changed.
func Records[T any](tx *state.Tx, prefix, index, key string) iter.Seq2[string, *T] {
	return func(yield func(string, *T) bool) {
		for k, o := range tx.By(prefix, index, key) {
			if !yield(k, o.(*T)) {
				return
			}
		}
	}
}

// Remove deletes a key; nil when it is not there.
func Remove(tx *state.Tx, key string) error {
	if err := tx.Delete(key); err != nil && !errors.Is(err, store.ErrNotFound) {
		return err
	}
	return nil
}

// RemoveAll deletes the keys under a prefix.
func RemoveAll(tx *state.Tx, prefix string) error {
	kvs, err := tx.List(prefix)
	if err != nil {
		return err
	}
	for _, kv := range kvs {
		if err := Remove(tx, kv.Key); err != nil {
			return err
		}
	}
	return nil
}

func (st *Site) Read(ctx context.Context, f func(*state.Tx) error) error {
	return st.State.Read(ctx, f)
}

// Write runs a transaction. One of new work is refused when the store has no room for it; store.Urgent marks the others. What somebody
// changes by it is noted for the audit log; what the site does by itself is not.
func (st *Site) Write(ctx context.Context, f func(*state.Tx) error) error {
	var actor string
	var written []state.Written
	_, err := st.State.Write(ctx, func(tx *state.Tx) error {
		if err := f(tx); err != nil {
			return err
		}
		if actor = tx.Actor(); actor != "" && st.Audit != nil {
			written = tx.Written()
		}
		return nil
	})
	if err == nil && len(written) > 0 {
		st.noteChanges(ctx, actor, written)
	}
	return st.noRoom(err)
}

// Room refuses new work before it begins, when the store has no room for what will follow.
func (st *Site) Room(ctx context.Context) error { return st.noRoom(st.State.Room(ctx)) }

// noRoom tells a user, or a peer, that the store is full. The log has the figures.
func (st *Site) noRoom(err error) error {
	if !errors.Is(err, store.ErrFull) {
		return err
	}
	st.Log.Error("the store is full: new work is refused", "err", err)
	return &api.Error{Code: api.CodeUnavailable, Message: "the disk of site " + st.Name + "'s controller is full: nothing new can be begun until its admin makes room there"}
}

// Change reads a noun, lets f change it, and writes it back in one transaction.
func Change[T any, P interface {
	*T
	api.Object
}](ctx context.Context, st *Site, name string, f func(*state.Tx, P) error) (P, error) {
	var o P
	err := st.Write(ctx, func(tx *state.Tx) error {
		var err error
		if o, err = Get[T, P](tx, name); err != nil {
			return err
		}
		if err := f(tx, o); err != nil {
			return err
		}
		return Put(tx, o)
	})
	if err != nil {
		return nil, err
	}
	return o, nil
}
