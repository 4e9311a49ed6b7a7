package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"widecloud/api"
	"widecloud/internal/store"
)

// The store's keys. Objects are under their kind; what only this controller needs is beside them.
const (
	prefixObjects    = "objects/"    // objects/KIND/NAME -> the noun
	prefixMigrations = "migrations/" // migrations/JOB -> migration
	prefixDebris     = "debris/"     // debris/JOB -> debris: what a job could not clean up yet
	prefixClaims     = "claims/"     // claims/JOB -> wire.Claim: room kept here for a job
	prefixOrders     = "orders/"     // orders/VMUID -> wire.Claim of a guest that has arrived
	prefixTokens     = "tokens/"     // tokens/ID -> token
	prefixJoins      = "joins/"      // joins/ID -> join
	prefixViews      = "views/"      // views/HOME/UID -> wire.NetworkView of a peer's network
	prefixRequests   = "requests/"   // requests/LENDER/LOAN -> loanRequest: a loan that was asked for, and is not here yet
	prefixEnrolments = "enrolments/" // enrolments/HOST -> enrolment: the key that may speak for a host
)

func keyOf(k api.Kind, name string) string { return prefixObjects + string(k) + "/" + name }

// newObject makes an empty noun of a kind.
func newObject(k api.Kind) (api.Object, error) {
	switch k {
	case api.KindSite:
		return &api.Site{}, nil
	case api.KindHost:
		return &api.Host{}, nil
	case api.KindOwner:
		return &api.Owner{}, nil
	case api.KindUser:
		return &api.User{}, nil
	case api.KindPeer:
		return &api.Peer{}, nil
	case api.KindOffer:
		return &api.Offer{}, nil
	case api.KindLoan:
		return &api.Loan{}, nil
	case api.KindImage:
		return &api.Image{}, nil
	case api.KindVolume:
		return &api.Volume{}, nil
	case api.KindNetwork:
		return &api.Network{}, nil
	case api.KindVM:
		return &api.VM{}, nil
	case api.KindGuest:
		return &api.Guest{}, nil
	case api.KindAddress:
		return &api.Address{}, nil
	case api.KindTranslator:
		return &api.Translator{}, nil
	case api.KindJob:
		return &api.Job{}, nil
	case api.KindEvent:
		return &api.Event{}, nil
	}
	return nil, api.Errorf(api.CodeNotFound, "no kind of object is called %q", k)
}

// decode reads a noun out of the store; its Revision is the store's.
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

// get reads one noun; api.CodeNotFound when there is none.
func get[T any, P interface {
	*T
	api.Object
}](tx store.Tx, name string) (P, error) {
	o := P(new(T))
	kv, err := tx.Get(keyOf(o.Kind(), name))
	if errors.Is(err, store.ErrNotFound) {
		return nil, api.Errorf(api.CodeNotFound, "no %s is called %q", singular(o.Kind()), name)
	}
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(kv.Value, o); err != nil {
		return nil, fmt.Errorf("read %s: %w", kv.Key, err)
	}
	o.Metadata().Revision = kv.Modified
	return o, nil
}

// list reads all nouns of a kind in the order of their names.
func list[T any, P interface {
	*T
	api.Object
}](tx store.Tx) ([]P, error) {
	kind := P(new(T)).Kind()
	kvs, err := tx.List(keyOf(kind, ""))
	if err != nil {
		return nil, err
	}
	out := make([]P, 0, len(kvs))
	for _, kv := range kvs {
		o := P(new(T))
		if err := json.Unmarshal(kv.Value, o); err != nil {
			return nil, fmt.Errorf("read %s: %w", kv.Key, err)
		}
		o.Metadata().Revision = kv.Modified
		out = append(out, o)
	}
	return out, nil
}

// put writes a noun. What did not change is not written, so that it wakes nobody.
func put(tx store.Tx, o api.Object) error {
	m := o.Metadata()
	revision := m.Revision
	m.Revision = 0
	value, err := json.Marshal(o)
	m.Revision = revision
	if err != nil {
		return fmt.Errorf("marshal %s %s: %w", singular(o.Kind()), m.Name, err)
	}
	return putRaw(tx, keyOf(o.Kind(), m.Name), value)
}

func putRaw(tx store.Tx, key string, value []byte) error {
	if kv, err := tx.Get(key); err == nil && string(kv.Value) == string(value) {
		return nil
	}
	return tx.Put(key, value)
}

// putJSON writes a record of the controller's own.
func putJSON(tx store.Tx, key string, v any) error {
	value, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("marshal %s: %w", key, err)
	}
	return putRaw(tx, key, value)
}

// getJSON reads a record of the controller's own; store.ErrNotFound when there is none.
func getJSON[T any](tx store.Tx, key string) (T, error) {
	var v T
	kv, err := tx.Get(key)
	if err != nil {
		return v, err
	}
	if err := json.Unmarshal(kv.Value, &v); err != nil {
		return v, fmt.Errorf("read %s: %w", key, err)
	}
	return v, nil
}

// listJSON reads all records under a prefix, by the rest of their keys.
func listJSON[T any](tx store.Tx, prefix string) (map[string]T, error) {
	kvs, err := tx.List(prefix)
	if err != nil {
		return nil, err
	}
	out := make(map[string]T, len(kvs))
	for _, kv := range kvs {
		var v T
		if err := json.Unmarshal(kv.Value, &v); err != nil {
			return nil, fmt.Errorf("read %s: %w", kv.Key, err)
		}
		out[strings.TrimPrefix(kv.Key, prefix)] = v
	}
	return out, nil
}

// decodeInfo reads what another site told when certificates were exchanged.
func decodeInfo(raw json.RawMessage, v any) error {
	if err := json.Unmarshal(raw, v); err != nil {
		return api.Invalidf("info", "%v", err)
	}
	return nil
}

// remove deletes a key; nil when it is not there.
func remove(tx store.Tx, key string) error {
	if err := tx.Delete(key); err != nil && !errors.Is(err, store.ErrNotFound) {
		return err
	}
	return nil
}

// removeAll deletes the keys under a prefix.
func removeAll(tx store.Tx, prefix string) error {
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
func singular(k api.Kind) string {
	switch k {
	case api.KindAddress:
		return "address"
	case api.KindVM:
		return "VM"
	}
	return strings.TrimSuffix(string(k), "s")
}

func (c *Controller) view(ctx context.Context, f func(store.Tx) error) error {
	return c.o.Store.View(ctx, f)
}

// update runs a transaction. One of new work is refused when the store has no room for it; store.Urgent marks the others.
func (c *Controller) update(ctx context.Context, f func(store.Tx) error) error {
	_, err := c.o.Store.Update(ctx, f)
	return c.noRoom(err)
}

// room refuses new work before it begins, when the store has no room for what will follow.
func (c *Controller) room(ctx context.Context) error { return c.noRoom(c.o.Store.Room(ctx)) }

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
}](ctx context.Context, c *Controller, name string, f func(store.Tx, P) error) (P, error) {
	var o P
	err := c.update(ctx, func(tx store.Tx) error {
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
