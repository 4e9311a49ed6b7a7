package objects

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

// Visible reads an object, to be changed, as an actor sees it: what it may not see is not there.
func (st *Site) Visible(tx *state.Tx, by access.Actor, k api.Kind, name string) (api.Object, error) {
	missing := api.Errorf(api.CodeNotFound, "no %s is called %q", k.Singular(), name)
	if _, err := NewObject(k); err != nil {
		return nil, err
	}
	l := st.lifeOf(k)
	if made, ok := l.made(tx, by); ok {
		for _, o := range made {
			if o.Metadata().Name == name {
				return o, nil
			}
		}
		return nil, missing
	}
	have, err := tx.Object(Key(k, name))
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
	return o, l.show(tx, by, o)
}

// shownTo is an object as an actor sees it, nil when it may not see it, or s does not take it. Without a transaction nothing of
// this moment is added to it. The object itself is shared and stays as it is.
func (st *Site) shownTo(tx *state.Tx, by access.Actor, s api.Selector, o api.Object) (api.Object, error) {
	if !access.Sees(by, o) {
		return nil, nil
	}
	if l := st.lifeOf(o.Kind()); tx != nil && l.shows() {
		o = state.Copy(o).(api.Object)
		if err := l.show(tx, by, o); err != nil {
			return nil, err
		}
	}
	if !s.Matches(o) {
		return nil, nil
	}
	return o, nil
}

// ShownNow is shownTo for a reader without a transaction. The object may be gone meanwhile: then it is shown as it was.
func (st *Site) ShownNow(ctx context.Context, by access.Actor, s api.Selector, o api.Object) (out api.Object, err error) {
	if !st.lifeOf(o.Kind()).shows() {
		return st.shownTo(nil, by, s, o)
	}
	err = st.Read(ctx, func(tx *state.Tx) error {
		have, err := tx.Object(Key(o.Kind(), o.Metadata().Name))
		switch {
		case errors.Is(err, store.ErrNotFound):
			tx = nil
		case err != nil:
			return err
		case have.(api.Object).Metadata().UID != o.Metadata().UID: // another one of its name
			tx = nil
		}
		out, err = st.shownTo(tx, by, s, o)
		return err
	})
	return out, err
}

// Get reads an object as an actor sees it.
func (st *Site) Get(ctx context.Context, by access.Actor, k api.Kind, name string) (o api.Object, err error) {
	err = st.Read(ctx, func(tx *state.Tx) error {
		o, err = st.Visible(tx, by, k, name)
		return err
	})
	return o, err
}

// List reads the objects of a kind that an actor sees and a query takes, and the revision as of which they are.
func (st *Site) List(ctx context.Context, by access.Actor, k api.Kind, q serve.Query) (out []api.Object, revision int64, err error) {
	if _, err := NewObject(k); err != nil {
		return nil, 0, err
	}
	out = []api.Object{}
	err = st.Read(ctx, func(tx *state.Tx) error {
		revision = tx.Revision()
		full := func() bool { return q.Limit > 0 && len(out) >= q.Limit }
		if made, ok := st.lifeOf(k).made(tx, by); ok {
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
			if key <= Key(k, q.After) {
				continue
			}
			o, err := st.shownTo(tx, by, q.Selector, have.(api.Object))
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
			return tx.By(Key(k, ""), "owner", by.Owner)
		}
		if len(s.Owners) == 1 {
			return tx.By(Key(k, ""), "owner", s.Owners[0])
		}
	}
	return tx.Objects(Key(k, ""))
}

// fresh makes of what a user sent a new object that its user may make. The error says why not.
func (st *Site) fresh(ctx context.Context, by access.Actor, o api.Object) error {
	m := o.Metadata()
	access.Default(by, o)
	if err := access.Create(by, o); err != nil {
		return err
	}
	fresh := st.NewMeta(m.Name, m.Owner)
	fresh.Labels = m.Labels
	*m = fresh
	setStatus(o, nil)
	cloud.Default(o)
	return st.Room(ctx)
}

// errTried ends the transaction of a creation that was only tried.
var errTried = errors.New("it was only tried")

// Try does all that Create does, and writes nothing. tried is called with the transaction in which o was made, which is then given up,
// and with the error that Create would give; before sees the transaction as it was, unless the user may not make o at all.
func (st *Site) Try(ctx context.Context, by access.Actor, o api.Object, before func(*state.Tx) error, tried func(*state.Tx, error) error) error {
	if err := st.fresh(ctx, by, o); err != nil {
		return st.Read(ctx, func(tx *state.Tx) error { return tried(tx, err) })
	}
	err := st.Write(ctx, func(tx *state.Tx) error {
		if err := before(tx); err != nil {
			return err
		}
		if err := tried(tx, st.CreateIn(tx, by, o)); err != nil {
			return err
		}
		return errTried
	})
	if errors.Is(err, errTried) {
		return nil
	}
	return err
}

// Create makes an object.
func (st *Site) Create(ctx context.Context, by access.Actor, o api.Object) (api.Object, error) {
	m := o.Metadata()
	if err := st.fresh(ctx, by, o); err != nil {
		return nil, err
	}
	err := st.Write(ctx, func(tx *state.Tx) error {
		if err := st.CreateIn(tx, by, o); err != nil {
			return err
		}
		return st.Answer(ctx, tx, o)
	})
	if err != nil {
		return nil, err
	}
	st.Poke()
	return st.Get(ctx, by, o.Kind(), m.Name)
}

// CreateIn makes an object that its user may make, in a transaction.
func (st *Site) CreateIn(tx *state.Tx, by access.Actor, o api.Object) error {
	if err := st.judgeNew(tx, by, o); err != nil {
		return err
	}
	if err := st.nameFree(tx, by, o); err != nil {
		return err
	}
	st.Acted(tx, "created", o, "")
	return st.lifeOf(o.Kind()).create(tx, by, o)
}

// setStatus gives an object the status of another one of its kind; nil: an empty one. The status is the server's to write.
func setStatus(o, from api.Object) {
	status := func(o api.Object) reflect.Value { return reflect.ValueOf(o).Elem().FieldByName("Status") }
	switch s := status(o); {
	case !s.IsValid(): // the kind has none
	case from == nil:
		s.SetZero()
	default:
		s.Set(status(from))
	}
}

// judgeNew gives everything that is wrong about a new object at once. It gives the object what its user left to the site first.
func (st *Site) judgeNew(tx *state.Tx, by access.Actor, o api.Object) error {
	m := o.Metadata()
	l := st.lifeOf(o.Kind())
	k, err := l.known(tx)
	if err != nil {
		return err
	}
	if err := l.complete(nil, o, k); err != nil {
		return err
	}
	if cloud.ValidateName("name", m.Name) != nil {
		return cloud.Validate(o, k) // what the store is asked has the name in it
	}
	faults := cloud.FaultsOf(o, k)
	if m.Owner != "" && o.Kind() != api.KindOwner {
		if _, err := Find[api.Owner](tx, m.Owner); err != nil {
			faults = append(faults, api.Invalidf("owner", "no owner is called %q; create it first: wcc owner create %s", m.Owner, m.Owner))
		}
	}
	return st.allFaults(tx, by, nil, o, faults)
}

// judgeChange gives everything that is wrong about the change of an object at once.
func (st *Site) judgeChange(tx *state.Tx, by access.Actor, was, now api.Object) error {
	l := st.lifeOf(now.Kind())
	k, err := l.known(tx)
	if err != nil {
		return err
	}
	k.Was = was
	if err := l.complete(was, now, k); err != nil {
		return err
	}
	return st.allFaults(tx, by, was, now, append(cloud.FaultsOf(now, k), cloud.UpdateFaults(was, now)...))
}

// allFaults adds what the kind's life finds to the faults of an object's own fields: one for each field.
func (st *Site) allFaults(tx *state.Tx, by access.Actor, was, now api.Object, faults []*api.Error) error {
	more, err := st.lifeOf(now.Kind()).faults(tx, by, was, now)
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
func (st *Site) nameFree(tx *state.Tx, by access.Actor, o api.Object) error {
	name := o.Metadata().Name
	if _, err := tx.Get(Key(o.Kind(), name)); errors.Is(err, store.ErrNotFound) {
		return nil
	} else if err != nil {
		return err
	}
	message := fmt.Sprintf("%s %q already exists", o.Kind().Singular(), name)
	if _, err := st.Visible(tx, by, o.Kind(), name); err != nil {
		message = fmt.Sprintf("the name %q is taken at this site by another owner; choose another name", name)
	}
	return &api.Error{Code: api.CodeExists, Field: "name", Message: message}
}

// Update replaces an object's spec, and its labels where they are given.
func (st *Site) Update(ctx context.Context, by access.Actor, o api.Object) (api.Object, error) {
	m := o.Metadata()
	asked := *m
	err := st.Write(ctx, func(tx *state.Tx) error {
		*m = asked // it may run again
		return st.UpdateIn(tx, by, o)
	})
	if err != nil {
		return nil, err
	}
	st.lifeOf(o.Kind()).done(o, false)
	st.Poke()
	return st.Get(ctx, by, o.Kind(), m.Name)
}

// UpdateIn is Update in a transaction. What follows from the change beside it is the caller's.
func (st *Site) UpdateIn(tx *state.Tx, by access.Actor, o api.Object) error {
	m := o.Metadata()
	asked := *m
	was, err := st.Visible(tx, by, o.Kind(), m.Name)
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
		return api.Errorf(api.CodeConflict, "%s %s is being deleted", o.Kind().Singular(), m.Name)
	}
	*m = *have
	m.Owner = cmp.Or(asked.Owner, have.Owner)
	if asked.Labels != nil {
		m.Labels = asked.Labels
	}
	cloud.Default(o)
	if err := st.judgeChange(tx, by, was, o); err != nil {
		return err
	}
	return st.ChangeIn(tx, by, was, o)
}

// ChangeIn makes a change that has been judged, in a transaction.
func (st *Site) ChangeIn(tx *state.Tx, by access.Actor, was, now api.Object) error {
	st.actedChange(tx, was, now)
	setStatus(now, was)
	return st.lifeOf(now.Kind()).change(tx, by, was, now)
}

// sameRevision holds an object against the revision that a change of it states; 0 is any.
func sameRevision(o api.Object, stated int64) error {
	m := o.Metadata()
	if stated == 0 || stated == m.Revision {
		return nil
	}
	return &api.Error{Code: api.CodeConflict, Field: "revision", Message: fmt.Sprintf("%s %s has changed since revision %d (it is at %d)", o.Kind().Singular(), m.Name, stated, m.Revision)}
}

// Delete accepts the deletion of an object. What is in use is not deleted.
func (st *Site) Delete(ctx context.Context, by access.Actor, k api.Kind, name string) (o api.Object, err error) {
	err = st.Write(store.Urgent(ctx), func(tx *state.Tx) error {
		o, err = st.DeleteIn(tx, by, k, name, serve.RevisionOf(ctx))
		return err
	})
	if err != nil {
		return nil, err
	}
	st.lifeOf(k).done(o, true)
	st.Poke()
	return o, nil
}

// DeleteIn is Delete in a transaction, of an object that is still at a revision (0: any).
func (st *Site) DeleteIn(tx *state.Tx, by access.Actor, k api.Kind, name string, revision int64) (api.Object, error) {
	o, err := st.Visible(tx, by, k, name)
	if err != nil {
		return nil, err
	}
	if err := access.Change(by, o); err != nil {
		return nil, err
	}
	if err := sameRevision(o, revision); err != nil {
		return nil, err
	}
	o.Metadata().Deleting = true
	if err := st.lifeOf(k).remove(tx, o); err != nil {
		return nil, err
	}
	st.Acted(tx, "delete", o, "")
	return o, nil
}

// Gone removes an object.
func Gone(tx *state.Tx, o api.Object) error { return Remove(tx, Key(o.Kind(), o.Metadata().Name)) }

// InUse refuses the deletion of what something else needs.
func InUse(o api.Object, field, format string, args ...any) error {
	return &api.Error{Code: api.CodeConflict, Field: field, Message: fmt.Sprintf("%s %s is in use by ", o.Kind().Singular(), o.Metadata().Name) + fmt.Sprintf(format, args...)}
}

// Forbidden is the error of what only an admin may do.
func Forbidden(format string, args ...any) error {
	return api.Errorf(api.CodeForbidden, "only an admin may "+format, args...)
}
