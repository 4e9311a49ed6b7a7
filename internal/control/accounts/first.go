package accounts

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"widecloud/api"
	"widecloud/internal/cloud"
	"widecloud/internal/control/objects"
	"widecloud/internal/state"
)

// firstLogin uses a first login's token up; only one of those who use it at once succeeds.
func (ac *Accounts) firstLogin(tx *state.Tx, user string) error {
	tokens, err := ofUser(tx, user)
	if err != nil {
		return err
	}
	was := false
	for id, t := range tokens {
		if !t.First {
			continue
		}
		was = was || t.good(ac.Now())
		if err := objects.Remove(tx, objects.PrefixTokens+id); err != nil {
			return err
		}
	}
	if !was {
		return api.Errorf(api.CodeUnauthenticated, "the token of the first login was used, or has expired")
	}
	ac.Event(tx, "user.first-login", "users/"+user, "", "the token of the first login was used, and is of no more use")
	return nil
}

// Bootstrap lets the first admin into a new site. While nobody has ever had a lasting token, and no first one is good, it
// makes one for the user admin, whom it makes too. It gives it to keep, which must store it where only the site's operator
// can read it, before it is of any use. waits tells whether a first login is still to come.
func (ac *Accounts) Bootstrap(ctx context.Context, keep func(token string) error) (waits bool, err error) {
	used := false
	if err := ac.Read(ctx, func(tx *state.Tx) error {
		all, err := objects.ListRecords[token](tx, objects.PrefixTokens)
		for _, t := range all {
			used = used || !t.First
			waits = waits || t.First && t.good(ac.Now())
		}
		return err
	}); err != nil || used || waits {
		return waits, err
	}
	return true, ac.firstToken(ctx, "admin", keep, "user.bootstrap", "the site's first admin was made")
}

// Recover is the way back in when no admin can log in, on the store of a controller that does not run. It gives the user the
// right of an admin, whom it makes if there is none, and gives the token of another first login to keep.
func Recover(ctx context.Context, st *state.State, site, user string, log *slog.Logger, keep func(token string) error) error {
	if err := cloud.ValidateName("user", user); err != nil {
		return err
	}
	ac := New(objects.New(objects.Options{Name: site, State: st, Logger: log}), nil)
	return ac.firstToken(ctx, user, keep, "user.recovered", "somebody with access to the controller's data made it an admin, and a token for its next login")
}

// firstToken makes a first login's token for an admin, in the place of any other.
func (ac *Accounts) firstToken(ctx context.Context, user string, keep func(token string) error, event, message string) error {
	id, secret := objects.NewUID()[24:], newSecret() // longer than those of other tokens: it is chosen before they are seen
	if err := keep(tokenText(id, secret)); err != nil {
		return fmt.Errorf("keep the token of the first login: %w", err)
	}
	return ac.Write(ctx, func(tx *state.Tx) error {
		u, err := objects.Get[api.User](tx, user)
		if errors.Is(err, &api.Error{Code: api.CodeNotFound}) {
			u, err = &api.User{Meta: ac.NewMeta(user, "")}, nil
		}
		if err != nil {
			return err
		}
		u.Spec.Admin, u.Deleting = true, false
		if err := objects.Put(tx, u); err != nil {
			return err
		}
		all, err := objects.ListRecords[token](tx, objects.PrefixTokens)
		if err != nil {
			return err
		}
		for old, t := range all {
			if !t.First {
				continue
			}
			if err := objects.Remove(tx, objects.PrefixTokens+old); err != nil {
				return err
			}
			if err := showTokens(tx, t.User); err != nil {
				return err
			}
		}
		t := token{User: user, Hash: hashOf(secret), Note: "first login", Created: ac.Now(), Expires: ac.Now().Add(FirstTokenTime), First: true}
		if err := objects.PutRecord(tx, objects.PrefixTokens+id, t); err != nil {
			return err
		}
		ac.Event(tx, event, "users/"+user, "", message)
		return showTokens(tx, user)
	})
}
