package control

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"reflect"
	"slices"

	"widecloud/api"
	"widecloud/internal/access"
	"widecloud/internal/cloud"
	"widecloud/internal/serve"
	"widecloud/internal/state"
	"widecloud/internal/store"
)

// life says what it means at this site that users create, change, delete and read objects of a kind. What is nil is not done: an
// object without Create is written as it is, one without Change or Delete is not changed or deleted by hand.
type life[T any] struct {
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
	// Show fills in what is known at this moment only.
	Show func(tx *state.Tx, o *T) error
	// Made makes up the objects of a kind that is not kept, in the order of their names, as an actor sees them.
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
	show(tx *state.Tx, o api.Object) error
	made(tx *state.Tx, by access.Actor) ([]api.Object, bool)
}

// lead says what the life of a kind's objects is.
func lives[T any, P noun[T]](c *Controller, l life[T]) {
	c.nouns[P(nil).Kind()] = typed[T, P]{l}
}

// lifeOf is the life of a kind's objects; of one that is nobody's concern it is empty.
func (c *Controller) lifeOf(k api.Kind) lived {
	if l := c.nouns[k]; l != nil {
		return l
	}
	return typed[api.Event, *api.Event]{}
}

// typed is a life behind the common interface.
type typed[T any, P noun[T]] struct{ life[T] }

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
		return put(tx, o)
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

func (l typed[T, P]) show(tx *state.Tx, o api.Object) error {
	if l.Show == nil {
		return nil
	}
	return l.Show(tx, l.of(o))
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

// keep is the Change of a kind whose change means nothing more.
func keep[T any, P noun[T]](tx *state.Tx, _ access.Actor, _, now *T) error { return put(tx, P(now)) }

// visible reads an object, to be changed, as an actor sees it: what it may not see is not there.
func (c *Controller) visible(tx *state.Tx, by access.Actor, k api.Kind, name string) (api.Object, error) {
	missing := api.Errorf(api.CodeNotFound, "no %s is called %q", singular(k), name)
	if _, err := newObject(k); err != nil {
		return nil, err
	}
	l := c.lifeOf(k)
	if made, ok := l.made(tx, by); ok {
		for _, o := range made {
			if o.Metadata().Name == name {
				return o, nil
			}
		}
		return nil, missing
	}
	have, err := tx.Object(keyOf(k, name))
	if errors.Is(err, store.ErrNotFound) {
		return nil, missing
	}
	if err != nil {
		return nil, err
	}
	if !access.Sees(by, have.(api.Object)) {
		return nil, missing
	}
	o := state.Copy(have).(api.Object)
	return o, l.show(tx, o)
}

// shownTo is an object as an actor sees it, nil when it may not see it, or s does not take it. The object itself is shared and
// stays as it is.
func (c *Controller) shownTo(tx *state.Tx, by access.Actor, s api.Selector, o api.Object) (api.Object, error) {
	if !access.Sees(by, o) {
		return nil, nil
	}
	if l := c.lifeOf(o.Kind()); l.shows() {
		o = state.Copy(o).(api.Object)
		if err := l.show(tx, o); err != nil {
			return nil, err
		}
	}
	if !s.Matches(o) {
		return nil, nil
	}
	return o, nil
}

// shownNow is shownTo for a reader without a transaction.
func (c *Controller) shownNow(ctx context.Context, by access.Actor, s api.Selector, o api.Object) (out api.Object, err error) {
	if !c.lifeOf(o.Kind()).shows() {
		return c.shownTo(nil, by, s, o)
	}
	err = c.view(ctx, func(tx *state.Tx) error {
		out, err = c.shownTo(tx, by, s, o)
		return err
	})
	return out, err
}

// Get is serve.Controller's.
func (c *Controller) Get(ctx context.Context, by access.Actor, k api.Kind, name string) (o api.Object, err error) {
	err = c.view(ctx, func(tx *state.Tx) error {
		o, err = c.visible(tx, by, k, name)
		return err
	})
	return o, err
}

// List is serve.Controller's.
func (c *Controller) List(ctx context.Context, by access.Actor, k api.Kind, q serve.Query) (out []api.Object, revision int64, err error) {
	if _, err := newObject(k); err != nil {
		return nil, 0, err
	}
	out = []api.Object{}
	err = c.view(ctx, func(tx *state.Tx) error {
		revision = tx.Revision()
		full := func() bool { return q.Limit > 0 && len(out) >= q.Limit }
		if made, ok := c.lifeOf(k).made(tx, by); ok {
			for _, o := range made {
				if o.Metadata().Name > q.After && q.Matches(o) && !full() {
					out = append(out, o)
				}
			}
			return nil
		}
		for key, have := range candidates(tx, by, k, q.Selector) {
			if full() {
				break
			}
			if key <= keyOf(k, q.After) {
				continue
			}
			o, err := c.shownTo(tx, by, q.Selector, have.(api.Object))
			if err != nil {
				return err
			}
			if o != nil {
				out = append(out, o)
			}
		}
		return nil
	})
	return out, revision, err
}

// candidates are the objects of a kind among which a list has all that it wants: those of one owner, where nothing else can be in
// it, and otherwise all.
func candidates(tx *state.Tx, by access.Actor, k api.Kind, s api.Selector) iter.Seq2[string, any] {
	switch k {
	case api.KindVM, api.KindAddress, api.KindJob: // nobody but an admin sees those of others
		if !by.Admin {
			return tx.By(keyOf(k, ""), "owner", by.Owner)
		}
		if len(s.Owners) == 1 {
			return tx.By(keyOf(k, ""), "owner", s.Owners[0])
		}
	}
	return tx.Objects(keyOf(k, ""))
}

// Create is serve.Controller's.
func (c *Controller) Create(ctx context.Context, by access.Actor, o api.Object) (api.Object, error) {
	ctx = asUser(ctx, by)
	m := o.Metadata()
	access.Default(by, o)
	if err := access.Create(by, o); err != nil {
		return nil, err
	}
	fresh := c.newMeta(m.Name, m.Owner)
	fresh.Labels = m.Labels
	*m = fresh
	statusOf(o).SetZero() // it is the server's to write
	cloud.Default(o)
	if err := c.room(ctx); err != nil {
		return nil, err
	}
	err := c.update(ctx, func(tx *state.Tx) error {
		if err := c.createIn(tx, by, o); err != nil {
			return err
		}
		return c.answer(ctx, tx, o)
	})
	if err != nil {
		return nil, err
	}
	c.poke()
	return c.Get(ctx, by, o.Kind(), m.Name)
}

// createIn makes an object that its user may make, in a transaction.
func (c *Controller) createIn(tx *state.Tx, by access.Actor, o api.Object) error {
	if err := c.judgeNew(tx, by, o); err != nil {
		return err
	}
	if err := c.nameFree(tx, by, o); err != nil {
		return err
	}
	c.acted(tx, "created", o, "")
	return c.lifeOf(o.Kind()).create(tx, by, o)
}

// statusOf is an object's status, which is not valid if its kind has none.
func statusOf(o api.Object) settable {
	return settable{reflect.ValueOf(o).Elem().FieldByName("Status")}
}

// settable is a field that may not be there.
type settable struct{ reflect.Value }

func (v settable) SetZero() {
	if v.IsValid() {
		v.Value.SetZero()
	}
}

func (v settable) copyFrom(w settable) {
	if v.IsValid() {
		v.Set(w.Value)
	}
}

// judgeNew gives everything that is wrong about a new object at once. It gives the object what its user left to the site first.
func (c *Controller) judgeNew(tx *state.Tx, by access.Actor, o api.Object) error {
	m := o.Metadata()
	if err := cloud.ValidateName("name", m.Name); err != nil {
		return err // the name is in what follows
	}
	l := c.lifeOf(o.Kind())
	k, err := l.known(tx)
	if err != nil {
		return err
	}
	if err := l.complete(nil, o, k); err != nil {
		return err
	}
	faults := cloud.FaultsOf(o, k)
	if m.Owner != "" && o.Kind() != api.KindOwner {
		if _, err := find[api.Owner](tx, m.Owner); err != nil {
			faults = append(faults, api.Invalidf("owner", "no owner is called %q; create it first: wcc owner create %s", m.Owner, m.Owner))
		}
	}
	return c.allFaults(tx, by, nil, o, faults)
}

// judgeChange gives everything that is wrong about the change of an object at once.
func (c *Controller) judgeChange(tx *state.Tx, by access.Actor, was, now api.Object) error {
	l := c.lifeOf(now.Kind())
	k, err := l.known(tx)
	if err != nil {
		return err
	}
	k.Was = was
	if err := l.complete(was, now, k); err != nil {
		return err
	}
	return c.allFaults(tx, by, was, now, append(cloud.FaultsOf(now, k), cloud.UpdateFaults(was, now)...))
}

// allFaults adds what the kind's life finds to the faults of an object's own fields: one for each field.
func (c *Controller) allFaults(tx *state.Tx, by access.Actor, was, now api.Object, faults []*api.Error) error {
	more, err := c.lifeOf(now.Kind()).faults(tx, by, was, now)
	if err != nil {
		return err
	}
	own := faults
	for _, e := range more {
		if !slices.ContainsFunc(own, func(f *api.Error) bool { return f.Field == e.Field }) {
			faults = append(faults, e)
		}
	}
	if len(faults) > 0 {
		return api.Faults(faults...)
	}
	return nil
}

// nameFree refuses a name that is taken. Names are one space for all owners of a site, because they are keys and paths: a
// user who may not see the other object learns that the name is taken, and nothing else of it.
func (c *Controller) nameFree(tx *state.Tx, by access.Actor, o api.Object) error {
	name := o.Metadata().Name
	if _, err := tx.Get(keyOf(o.Kind(), name)); errors.Is(err, store.ErrNotFound) {
		return nil
	} else if err != nil {
		return err
	}
	message := fmt.Sprintf("%s %q already exists", singular(o.Kind()), name)
	if _, err := c.visible(tx, by, o.Kind(), name); err != nil {
		message = fmt.Sprintf("the name %q is taken at this site by another owner; choose another name", name)
	}
	return &api.Error{Code: api.CodeExists, Field: "name", Message: message}
}

// Update is serve.Controller's.
func (c *Controller) Update(ctx context.Context, by access.Actor, o api.Object) (api.Object, error) {
	ctx = asUser(ctx, by)
	m := o.Metadata()
	asked := *m
	err := c.update(ctx, func(tx *state.Tx) error {
		was, err := c.visible(tx, by, o.Kind(), m.Name)
		if err != nil {
			return err
		}
		if err := access.Change(by, was); err != nil {
			return err
		}
		have := was.Metadata()
		if err := sameRevision(was, asked.Revision); err != nil {
			return err
		}
		if have.Deleting {
			return api.Errorf(api.CodeConflict, "%s %s is being deleted", singular(o.Kind()), m.Name)
		}
		*m = *have
		m.Owner = cmp.Or(asked.Owner, have.Owner)
		if asked.Labels != nil {
			m.Labels = asked.Labels
		}
		cloud.Default(o)
		if err := c.judgeChange(tx, by, was, o); err != nil {
			return err
		}
		return c.changeIn(tx, by, was, o)
	})
	if err != nil {
		return nil, err
	}
	c.lifeOf(o.Kind()).done(o, false)
	c.poke()
	return c.Get(ctx, by, o.Kind(), m.Name)
}

// changeIn makes a change that has been judged, in a transaction.
func (c *Controller) changeIn(tx *state.Tx, by access.Actor, was, now api.Object) error {
	c.actedChange(tx, was, now)
	statusOf(now).copyFrom(statusOf(was))
	return c.lifeOf(now.Kind()).change(tx, by, was, now)
}

// sameRevision holds an object against the revision that a change of it states; 0 is any.
func sameRevision(o api.Object, stated int64) error {
	m := o.Metadata()
	if stated == 0 || stated == m.Revision {
		return nil
	}
	return &api.Error{Code: api.CodeConflict, Field: "revision", Message: fmt.Sprintf("%s %s has changed since revision %d (it is at %d)", singular(o.Kind()), m.Name, stated, m.Revision)}
}

// Delete is serve.Controller's. What is in use is not deleted.
func (c *Controller) Delete(ctx context.Context, by access.Actor, k api.Kind, name string) (o api.Object, err error) {
	ctx = asUser(ctx, by)
	err = c.update(store.Urgent(ctx), func(tx *state.Tx) error {
		if o, err = c.visible(tx, by, k, name); err != nil {
			return err
		}
		if err := access.Change(by, o); err != nil {
			return err
		}
		if err := sameRevision(o, serve.RevisionOf(ctx)); err != nil {
			return err
		}
		o.Metadata().Deleting = true
		if err := c.lifeOf(k).remove(tx, o); err != nil {
			return err
		}
		c.acted(tx, "delete", o, "")
		return nil
	})
	if err != nil {
		return nil, err
	}
	c.lifeOf(k).done(o, true)
	c.poke()
	return o, nil
}

// gone removes an object.
func gone(tx *state.Tx, o api.Object) error { return remove(tx, keyOf(o.Kind(), o.Metadata().Name)) }

// inUse refuses the deletion of what something else needs.
func inUse(o api.Object, field, format string, args ...any) error {
	return &api.Error{Code: api.CodeConflict, Field: field, Message: fmt.Sprintf("%s %s is in use by ", singular(o.Kind()), o.Metadata().Name) + fmt.Sprintf(format, args...)}
}

// notBy is the error of what only an admin may do.
func forbidden(format string, args ...any) error {
	return api.Errorf(api.CodeForbidden, "only an admin may "+format, args...)
}
