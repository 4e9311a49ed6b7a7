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

// rights are those of a kind. A kind that there is not is for admins alone.
func rights(k api.Kind) (see, write api.Who) {
	n, err := api.NounOf(k)
	if err != nil {
		return api.OnlyAdmins, api.OnlyAdmins
	}
	return n.See, n.Write
}

// in tells whether an actor is one of a set, admins apart.
func in(w api.Who, a Actor, o api.Object) bool {
	m := o.Metadata()
	switch w {
	case api.Everybody:
		return true
	case api.ItsOwner:
		return m.Owner != "" && m.Owner == a.Owner
	case api.ItsOwnerOrAll:
		return m.Owner == "" || m.Owner == a.Owner
	case api.ItsUser:
		return m.Name == a.User
	case api.ItsMembers:
		return m.Name == a.Owner
	case api.ItsAudience:
		o, ok := o.(interface{ IsFor(owner string) bool })
		return ok && o.IsFor(a.Owner)
	}
	return false
}

// Sees tells whether an actor may see an object.
func Sees(a Actor, o api.Object) bool {
	see, _ := rights(o.Kind())
	return a.Admin || in(see, a, o)
}

// Default gives a new object of an actor's the owner that the actor acts for, if it names none.
func Default(a Actor, o api.Object) {
	_, write := rights(o.Kind())
	if m := o.Metadata(); m.Owner == "" && !a.Admin && write == api.ItsOwner {
		m.Owner = a.Owner
	}
}

// Create says why an actor may not create an object: nil, api.CodeForbidden, or api.CodeInvalid when nobody does that by hand.
func Create(a Actor, o api.Object) error {
	if n, err := api.NounOf(o.Kind()); err != nil || !n.Created {
		return api.Errorf(api.CodeInvalid, "%s are not created by hand", o.Kind())
	}
	return judgeWrite(a, o, "create")
}

// Change says why an actor may not change or delete an object: nil, or api.CodeForbidden.
func Change(a Actor, o api.Object) error { return judgeWrite(a, o, "change") }

func judgeWrite(a Actor, o api.Object, verb string) error {
	_, w := rights(o.Kind())
	switch m := o.Metadata(); {
	case a.Admin || in(w, a, o):
		return nil
	case w == api.ItsOwner:
		return &api.Error{Code: api.CodeForbidden, Field: "owner", Message: fmt.Sprintf("%s %s is owned by %q, the token's owner is %q", o.Kind().Singular(), m.Name, m.Owner, a.Owner)}
	}
	return api.Errorf(api.CodeForbidden, "only an admin may %s %s", verb, o.Kind())
}
