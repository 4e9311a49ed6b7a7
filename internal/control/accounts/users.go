package accounts

import (
	"errors"

	"widecloud/api"
	"widecloud/internal/access"
	"widecloud/internal/control/objects"
	"widecloud/internal/state"
)

// userLife is what users do with users. What one has open ends when its rights change.
func (ac *Accounts) userLife() objects.Life[api.User] {
	return objects.Life[api.User]{
		Change: ac.updateUser, Delete: ac.deleteUser,
		Done: func(u *api.User, _ bool) { ac.endStreams(u.Name) },
	}
}

// updateUser writes a user's new spec.
func (ac *Accounts) updateUser(tx *state.Tx, _ access.Actor, was, now *api.User) error {
	if !was.Spec.Admin || now.Spec.Admin {
		return objects.Put(tx, now)
	}
	return ac.keepAnAdmin(tx, was, func() error { return objects.Put(tx, now) })
}

// deleteUser removes a user and its tokens. Which these are, the tokens themselves say.
func (ac *Accounts) deleteUser(tx *state.Tx, u *api.User) error {
	return ac.keepAnAdmin(tx, u, func() error {
		if err := objects.RemoveAll(tx, objects.AnswersOf(u.Name)); err != nil {
			return err
		}
		tokens, err := ofUser(tx, u.Name)
		if err != nil {
			return err
		}
		for id := range tokens {
			if err := objects.Remove(tx, objects.PrefixTokens+id); err != nil {
				return err
			}
		}
		return objects.Remove(tx, objects.Key(api.KindUser, u.Name))
	})
}

// keepAnAdmin makes a change that takes something from a user, and refuses it when it would lock everybody out: when the
// user is an admin who can log in, an admin must be left whose token is good for a day at least.
func (ac *Accounts) keepAnAdmin(tx *state.Tx, u *api.User, change func() error) error {
	tokens, err := ofUser(tx, u.Name)
	if err != nil {
		return err
	}
	could := false
	for _, t := range tokens {
		could = could || u.Spec.Admin && t.good(ac.Now())
	}
	if err := change(); err != nil || !could {
		return err
	}
	all, err := objects.ListRecords[token](tx, objects.PrefixTokens)
	if err != nil {
		return err
	}
	for _, t := range all {
		if !t.good(ac.Now().Add(lasting)) {
			continue
		}
		if other, err := objects.Get[api.User](tx, t.User); err == nil && other.Spec.Admin && !other.Deleting {
			return nil
		}
	}
	return api.Errorf(api.CodeConflict, "then no admin would be left who can log in for another day: make one first (wcc user create NAME --admin, wcc user token NAME)")
}

// ActorOf is a user with the rights that it has now; api.CodeForbidden when it is gone.
func (ac *Accounts) ActorOf(tx *state.Tx, user string) (access.Actor, error) {
	u, err := objects.Find[api.User](tx, user)
	if errors.Is(err, &api.Error{Code: api.CodeNotFound}) || err == nil && u.Deleting {
		return access.Actor{}, api.Errorf(api.CodeForbidden, "user %s, who asked for it, is no longer there", user)
	}
	if err != nil {
		return access.Actor{}, err
	}
	return access.Actor{User: u.Name, Owner: u.Owner, Admin: u.Spec.Admin}, nil
}
