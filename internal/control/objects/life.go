package objects

import (
	"widecloud/api"
	"widecloud/internal/access"
	"widecloud/internal/cloud"
	"widecloud/internal/state"
)

// Life says what it means at this site that users create, change, delete and read objects of a kind. What is nil is not done: an
// object without Create is written as it is, one without Change or Delete is not changed or deleted by hand.
type Life[T any] struct {
	// Known gives what a new or changed object must not clash with.
	Known func(tx *state.Tx) (cloud.Known, error)
	// Complete gives an object what its user left open, before it is judged. was is nil for a new one.
	Complete func(was, now *T, k cloud.Known) error
	// Faults finds what is wrong with an object beside its own fields: what it names and is not there, what it may not have. was is nil
	// for a new one.
	Faults func(tx *state.Tx, by access.Actor, was, now *T) ([]*api.Error, error)
	// Create, Change and Delete do what a user's deed means, and write or remove the object. Who may, and what is wrong with the object
	// by itself, has been judged. An object that is changed has the status that it had; one that is deleted is marked as Deleting.
	Create func(tx *state.Tx, by access.Actor, o *T) error
	Change func(tx *state.Tx, by access.Actor, was, now *T) error
	Delete func(tx *state.Tx, o *T) error
	// Done is called once a change or deletion has been written.
	Done func(o *T, deleted bool)
	// Show fills in what is known at this moment only, or differs from reader to reader.
	Show func(tx *state.Tx, by access.Actor, o *T) error
	// Made makes up the objects of a kind whose newest state is not in the store, in the order of their names, as an actor sees them.
	// What watches tell of such a kind is what its package keeps of it in the store.
	Made func(tx *state.Tx, by access.Actor) []*T
}

// lived is a life of whatever kind.
type lived interface {
	known(tx *state.Tx) (cloud.Known, error)
	complete(was, now api.Object, k cloud.Known) error
	faults(tx *state.Tx, by access.Actor, was, now api.Object) ([]*api.Error, error)
	create(tx *state.Tx, by access.Actor, o api.Object) error
	change(tx *state.Tx, by access.Actor, was, now api.Object) error
	remove(tx *state.Tx, o api.Object) error
	done(o api.Object, deleted bool)
	shows() bool
	show(tx *state.Tx, by access.Actor, o api.Object) error
	made(tx *state.Tx, by access.Actor) ([]api.Object, bool)
}

// Register says what the life of a kind's objects is.
func Register[T any, P noun[T]](st *Site, l Life[T]) {
	st.nouns[P(nil).Kind()] = typed[T, P]{l}
}

// lifeOf is the life of a kind's objects; of one that is nobody's concern it is empty.
func (st *Site) lifeOf(k api.Kind) lived {
	if l := st.nouns[k]; l != nil {
		return l
	}
	return typed[api.Event, *api.Event]{}
}

// typed is a life behind the common interface.
type typed[T any, P noun[T]] struct{ Life[T] }

func (l typed[T, P]) of(o api.Object) *T {
	if o == nil {
		return nil
	}
	return o.(P)
}

func (l typed[T, P]) known(tx *state.Tx) (k cloud.Known, err error) {
	if l.Known == nil {
		return k, nil
	}
	return l.Known(tx)
}

func (l typed[T, P]) complete(was, now api.Object, k cloud.Known) error {
	if l.Complete == nil {
		return nil
	}
	return l.Complete(l.of(was), l.of(now), k)
}

func (l typed[T, P]) faults(tx *state.Tx, by access.Actor, was, now api.Object) ([]*api.Error, error) {
	if l.Faults == nil {
		return nil, nil
	}
	return l.Faults(tx, by, l.of(was), l.of(now))
}

func (l typed[T, P]) create(tx *state.Tx, by access.Actor, o api.Object) error {
	if l.Create == nil {
		return Put(tx, o)
	}
	return l.Create(tx, by, l.of(o))
}

func (l typed[T, P]) change(tx *state.Tx, by access.Actor, was, now api.Object) error {
	if l.Change == nil {
		return api.Errorf(api.CodeInvalid, "%s are not changed by hand", now.Kind())
	}
	return l.Change(tx, by, l.of(was), l.of(now))
}

func (l typed[T, P]) remove(tx *state.Tx, o api.Object) error {
	if l.Delete == nil {
		return api.Errorf(api.CodeInvalid, "%s are not deleted by hand", o.Kind())
	}
	return l.Delete(tx, l.of(o))
}

func (l typed[T, P]) done(o api.Object, deleted bool) {
	if l.Done != nil {
		l.Done(l.of(o), deleted)
	}
}

func (l typed[T, P]) shows() bool { return l.Show != nil }

func (l typed[T, P]) show(tx *state.Tx, by access.Actor, o api.Object) error {
	if l.Show == nil {
		return nil
	}
	return l.Show(tx, by, l.of(o))
}

func (l typed[T, P]) made(tx *state.Tx, by access.Actor) (out []api.Object, ok bool) {
	if l.Made == nil {
		return nil, false
	}
	for _, o := range l.Made(tx, by) {
		out = append(out, P(o))
	}
	return out, true
}

// Keep is the Change of a kind whose change means nothing more.
func Keep[T any, P noun[T]](tx *state.Tx, _ access.Actor, _, now *T) error { return Put(tx, P(now)) }
