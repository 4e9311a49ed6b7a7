package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"widecloud/api"
	"widecloud/internal/store"
	"widecloud/internal/wire"
)

// The controller's orders are kept entry by entry, so that a change of one VM writes one VM.
const (
	keyState  = "state"  // the revision of the orders; in an older release's store the orders, too
	keyOrders = "state/" // state/KEY -> the entry of that key (wire.StateEntry)

	maxKey = 1000 // bytes of an entry's key
)

func (a *Agent) loadOrders(tx store.Tx) error {
	kv, err := tx.Get(keyState)
	if errors.Is(err, store.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := json.Unmarshal(kv.Value, &a.state); err != nil {
		return err
	}
	if a.state.VMs != nil { // of a release before StateChange
		a.inForce, err = wire.OrdersOf(a.state, wire.Level)
		return err
	}
	if a.inForce, err = readOrders(tx); err != nil {
		return err
	}
	a.state, a.unread = a.inForce.State(a.state.Revision)
	return nil
}

// readOrders reads the entries that the store has.
func readOrders(tx store.Tx) (wire.Orders, error) {
	kvs, err := tx.List(keyOrders)
	if err != nil {
		return wire.Orders{}, err
	}
	set := make([]wire.StateEntry, len(kvs))
	for i, kv := range kvs {
		set[i] = wire.StateEntry{Key: strings.TrimPrefix(kv.Key, keyOrders), Value: kv.Value}
	}
	return wire.Orders{}.With(set, nil), nil
}

// SetState takes all of the controller's orders. They are kept on disk before it returns. Of orders that come in parts the last
// part puts all of them in force. One that is bad harms nothing but what it is about: reconcile leaves it out and reports it.
func (a *Agent) SetState(ctx context.Context, s wire.HostState) error {
	a.setting.Lock()
	defer a.setting.Unlock()
	if err := a.newer(s.Revision); err != nil {
		return err
	}
	if s.Parts > 0 {
		all, err := collect(&a.parts, s, wire.HostState.Place)
		if err != nil || all == nil {
			return err
		}
		s = wire.JoinParts(all)
	}
	next, err := wire.OrdersOf(s, wire.Level)
	if err != nil {
		return err
	}
	return a.take(ctx, next, s.Revision)
}

// ChangeState takes a change of the controller's orders, as SetState takes all of them. The error is api.CodeConflict when it is not
// a change of the ones in force.
func (a *Agent) ChangeState(ctx context.Context, c wire.StateChange) error {
	a.setting.Lock()
	defer a.setting.Unlock()
	if err := a.newer(c.Revision); err != nil {
		return err
	}
	if c.Parts > 0 {
		all, err := collect(&a.changes, c, wire.StateChange.Place)
		if err != nil || all == nil {
			return err
		}
		c = wire.JoinChanges(all)
	}
	for i, e := range c.Set {
		if len(e.Key) > maxKey {
			return api.Invalidf(fmt.Sprintf("set[%d].key", i), "has %d bytes, the limit is %d", len(e.Key), maxKey)
		}
	}
	next, err := a.inForce.Apply(c)
	if err != nil {
		return err
	}
	return a.take(ctx, next, c.Revision)
}

// newer refuses orders that are older than the ones in force.
func (a *Agent) newer(revision int64) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if revision < a.state.Revision {
		return api.Errorf(api.CodeStale, "orders of revision %d are older than the ones in force (%d)", revision, a.state.Revision)
	}
	return nil
}

// collect keeps a part of orders, and gives all parts with the last one. a.setting is held.
func collect[T any](have *[]T, part T, place func(T) wire.PartOf) ([]T, error) {
	p := place(part)
	if p.Part == 0 {
		*have = nil
	}
	if p.Part != len(*have) || p.Part > 0 && !p.Follows(place((*have)[0])) {
		return nil, api.Invalidf("part", "part %d of %d of revision %d does not follow what came before it", p.Part, p.Parts, p.Revision)
	}
	if *have = append(*have, part); len(*have) < p.Parts {
		return nil, nil
	}
	all := *have
	*have = nil
	return all, nil
}

// take keeps orders, of which only what has changed is written, and puts them in force. a.setting is held.
func (a *Agent) take(ctx context.Context, next wire.Orders, revision int64) error {
	head, err := json.Marshal(struct {
		Revision int64 `json:"revision"`
	}{revision})
	if err != nil {
		return fmt.Errorf("marshal the orders: %w", err)
	}
	if _, err := a.o.Store.Update(store.Urgent(ctx), func(tx store.Tx) error {
		have := a.stored
		if have == nil {
			read, err := readOrders(tx)
			if err != nil {
				return err
			}
			have = &read
		}
		set, gone := have.Diff(next)
		for _, e := range set {
			if err := tx.Put(keyOrders+e.Key, e.Value); err != nil {
				return err
			}
		}
		for _, key := range gone {
			if err := tx.Delete(keyOrders + key); err != nil && !errors.Is(err, store.ErrNotFound) {
				return err
			}
		}
		return tx.Put(keyState, head)
	}); err != nil {
		a.stored = nil
		return fmt.Errorf("keep the orders: %w", err)
	}
	a.stored, a.inForce = &next, next
	s, unread := next.State(revision)
	a.mu.Lock()
	a.state, a.unread = s, unread
	a.mu.Unlock()
	a.orders(ctx)
	a.poke()
	return nil
}
