package access

import (
	"fmt"

	"widecloud/api"
)

// Actor is who does something: a user, for an organisation.
type Actor struct {
	User  string // its name
	Owner string // the organisation that it acts for; "": none
	Admin bool   // of this site
	First bool   // its token is for the first login only: all that it may do is make a token for its own user, once
}

// who is a set of actors, as seen from an object.
type who int

const (
	admins      who = iota // nobody else
	owners                 // those who act for the object's owner
	ownersOrAll            // the same; an object of the site's own is for all
	itself                 // the user that the object is
	ownOrg                 // those who act for the owner that the object is
	everybody              // all users
)

// rule is who may see the objects of a kind, and who may create, change and delete them. Whether that is done by hand at all is the
// noun's to say.
type rule struct{ see, write who }

// rules are those of the nouns that are not for admins alone.
var rules = map[api.Kind]rule{
	api.KindSite:       {see: everybody},
	api.KindTranslator: {see: everybody},
	api.KindOwner:      {see: ownOrg},
	api.KindUser:       {see: itself},
	api.KindVM:         {see: owners, write: owners},
	api.KindAddress:    {see: owners, write: owners},
	api.KindImage:      {see: ownersOrAll, write: owners},
	api.KindNetwork:    {see: ownersOrAll, write: owners},
	api.KindVolume:     {see: owners},
	api.KindJob:        {see: owners},
	api.KindEvent:      {see: owners},
}

// in tells whether an actor is one of a set.
func (w who) in(a Actor, o api.Object) bool {
	m := o.Metadata()
	switch w {
	case everybody:
		return true
	case owners:
		return m.Owner != "" && m.Owner == a.Owner
	case ownersOrAll:
		return m.Owner == "" || m.Owner == a.Owner
	case itself:
		return m.Name == a.User
	case ownOrg:
		return m.Name == a.Owner
	}
	return false
}

// Sees tells whether an actor may see an object.
func Sees(a Actor, o api.Object) bool { return a.Admin || rules[o.Kind()].see.in(a, o) }

// Default gives a new object of an actor's the owner that the actor acts for, if it names none.
func Default(a Actor, o api.Object) {
	if m := o.Metadata(); m.Owner == "" && !a.Admin && rules[o.Kind()].write == owners {
		m.Owner = a.Owner
	}
}

// Create says why an actor may not create an object: nil, api.CodeForbidden, or api.CodeInvalid when nobody does that by hand.
func Create(a Actor, o api.Object) error {
	if n, err := api.NounOf(o.Kind()); err != nil || !n.Created {
		return api.Errorf(api.CodeInvalid, "%s are not created by hand", o.Kind())
	}
	return write(a, o, "create")
}

// Change says why an actor may not change or delete an object: nil, or api.CodeForbidden.
func Change(a Actor, o api.Object) error { return write(a, o, "change") }

func write(a Actor, o api.Object, verb string) error {
	w := rules[o.Kind()].write
	switch m := o.Metadata(); {
	case a.Admin || w.in(a, o):
		return nil
	case w == owners:
		return &api.Error{Code: api.CodeForbidden, Field: "owner", Message: fmt.Sprintf("%s %s is owned by %q, the token's owner is %q", o.Kind().Singular(), m.Name, m.Owner, a.Owner)}
	}
	return api.Errorf(api.CodeForbidden, "only an admin may %s %s", verb, o.Kind())
}
