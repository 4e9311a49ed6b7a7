package control

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"
	"unicode"

	"widecloud/api"
	"widecloud/internal/access"
	"widecloud/internal/cloud"
	"widecloud/internal/state"
	"widecloud/internal/store"
)

const (
	// FirstTokenTime is how long the token of a first login is good.
	FirstTokenTime = 24 * time.Hour
	// maxTokens is how many tokens a user may have.
	maxTokens = 100
	// expiredKept is how long a token that has expired is still listed; it goes when its user makes another.
	expiredKept = 30 * 24 * time.Hour
	// usedEvery is how often at most it is written down that a token was used.
	usedEvery = time.Hour
	// lasting is how long a token of an admin must still be good for the site to count on it.
	lasting = 24 * time.Hour

	minTokenTime = time.Minute
	maxTokenTime = 10 * 365 * 24 * time.Hour
	maxNote      = 100
)

// token is what is kept of a user's token: enough to know it again, not to make it. Those of earlier releases have only the
// first two fields.
type token struct {
	User    string    `json:"user"`
	Hash    string    `json:"hash"` // SHA-256 of the secret, hex
	Note    string    `json:"note,omitempty"`
	Created time.Time `json:"created,omitzero"`
	Expires time.Time `json:"expires,omitzero"` // zero: never
	Used    time.Time `json:"used,omitzero"`    // last, to usedEvery
	First   bool      `json:"first,omitempty"`  // good only for making a lasting token
}

// good tells whether the token is good at a time.
func (t token) good(at time.Time) bool { return t.Expires.IsZero() || t.Expires.After(at) }

// shown is the token as the API shows it.
func (t token) shown(id string) api.UserToken {
	return api.UserToken{ID: id, User: t.User, Note: t.Note, Created: t.Created, Expires: t.Expires, LastUsed: t.Used, First: t.First}
}

// tokenText is a token as its user has it.
func tokenText(id, secret string) string { return "wcc_" + id + "_" + secret }

func hashOf(secret string) string {
	sum := sha256.Sum256([]byte(secret))
	return hex.EncodeToString(sum[:])
}

// newSecret is 192 random bits.
func newSecret() string {
	var b [24]byte
	rand.Read(b[:]) // never fails (crypto/rand)
	return base64.RawURLEncoding.EncodeToString(b[:])
}

// Authenticate is serve.Controller's. What is not a token, an unknown id and a wrong secret are answered alike.
func (c *Controller) Authenticate(ctx context.Context, given string) (p access.Actor, err error) {
	unknown := api.Errorf(api.CodeUnauthenticated, "the token is not known here")
	rest, ok := strings.CutPrefix(given, "wcc_")
	id, secret, ok2 := strings.Cut(rest, "_")
	if !ok || !ok2 {
		return p, unknown
	}
	var t token
	err = c.view(ctx, func(tx *state.Tx) error {
		var err error
		if t, err = getJSON[token](tx, prefixTokens+id); err != nil && !errors.Is(err, store.ErrNotFound) {
			return err
		}
		// An unknown id has no hash; the comparison takes as long.
		if subtle.ConstantTimeCompare([]byte(hashOf(secret)), []byte(cmp.Or(t.Hash, strings.Repeat("-", 2*sha256.Size)))) != 1 {
			return unknown
		}
		if !t.good(c.now()) {
			return api.Errorf(api.CodeUnauthenticated, "the token has expired at %s: get another", t.Expires.Format(time.RFC3339))
		}
		u, err := get[api.User](tx, t.User)
		if errors.Is(err, &api.Error{Code: api.CodeNotFound}) || err == nil && u.Deleting {
			return unknown
		}
		if err != nil {
			return err
		}
		p = access.Actor{User: u.Name, Owner: u.Owner, Admin: u.Spec.Admin, First: t.First}
		return nil
	})
	if err == nil && c.now().Sub(t.Used) >= usedEvery {
		c.once("token/"+id, func(ctx context.Context) { c.used(ctx, id) })
	}
	return p, err
}

// used writes down that a token was used. Nobody waits for it: a login must work on a full disk.
func (c *Controller) used(ctx context.Context, id string) {
	err := c.update(ctx, func(tx *state.Tx) error {
		t, err := getJSON[token](tx, prefixTokens+id)
		if err != nil {
			return err
		}
		t.Used = c.now()
		return putJSON(tx, prefixTokens+id, t)
	})
	if err != nil && ctx.Err() == nil && !errors.Is(err, store.ErrNotFound) {
		c.log.Debug("write down when a token was used", "token", id, "err", err)
	}
}

// ofUser reads a user's tokens, by their ids.
func ofUser(tx *state.Tx, user string) (map[string]token, error) {
	all, err := listJSON[token](tx, prefixTokens)
	for id, t := range all {
		if t.User != user {
			delete(all, id)
		}
	}
	return all, err
}

// byAge are the ids of tokens, the oldest first.
func byAge(tokens map[string]token) []string {
	ids := make([]string, 0, len(tokens))
	for id := range tokens {
		ids = append(ids, id)
	}
	slices.SortFunc(ids, func(a, b string) int {
		return cmp.Or(tokens[a].Created.Compare(tokens[b].Created), strings.Compare(a, b))
	})
	return ids
}

// showTokens writes into a user's status which tokens it has. The tokens themselves are what counts.
func showTokens(tx *state.Tx, user string) error {
	u, err := get[api.User](tx, user)
	if err != nil {
		return err
	}
	tokens, err := ofUser(tx, user)
	if err != nil {
		return err
	}
	u.Status.Tokens = byAge(tokens)
	return put(tx, u)
}

// addToken keeps a new token in a transaction, and forgets those of its user that expired long ago.
func (c *Controller) addToken(tx *state.Tx, t token) (id string, err error) {
	if _, err := get[api.User](tx, t.User); err != nil {
		return "", err
	}
	have, err := ofUser(tx, t.User)
	if err != nil {
		return "", err
	}
	for id, old := range have {
		if !old.good(c.now().Add(-expiredKept)) {
			delete(have, id)
			if err := remove(tx, prefixTokens+id); err != nil {
				return "", err
			}
		}
	}
	if len(have) >= maxTokens {
		return "", api.Errorf(api.CodeRefused, "user %s has %d tokens, as many as are possible: revoke what is not used (wcc user token list %s)", t.User, len(have), t.User)
	}
	t.Created = c.now()
	for {
		id = c.shortID()
		if _, err := tx.Get(prefixTokens + id); errors.Is(err, store.ErrNotFound) {
			break
		} else if err != nil {
			return "", err
		}
	}
	if err := putJSON(tx, prefixTokens+id, t); err != nil {
		return "", err
	}
	return id, showTokens(tx, t.User)
}

func mayToken(p access.Actor, user string) error {
	if p.User == user || p.Admin && !p.First {
		return nil
	}
	return forbidden("see and change the tokens of %s", user)
}

// Tokens is serve.Controller's.
func (c *Controller) Tokens(ctx context.Context, p access.Actor, user string) (out []api.UserToken, err error) {
	if err := mayToken(p, user); err != nil {
		return nil, err
	}
	err = c.view(ctx, func(tx *state.Tx) error {
		if _, err := get[api.User](tx, user); err != nil {
			return err
		}
		tokens, err := ofUser(tx, user)
		for _, id := range byAge(tokens) {
			out = append(out, tokens[id].shown(id))
		}
		return err
	})
	return out, err
}

// NewToken is serve.Controller's.
func (c *Controller) NewToken(ctx context.Context, p access.Actor, user string, r api.TokenRequest) (*api.UserToken, error) {
	ctx = asUser(ctx, p)
	if err := mayToken(p, user); err != nil {
		return nil, err
	}
	if err := checkTokenRequest(r); err != nil {
		return nil, err
	}
	secret := newSecret()
	t := token{User: user, Hash: hashOf(secret), Note: r.Note}
	if r.Expires != 0 {
		t.Expires = c.now().Add(r.Expires.Duration())
	}
	var made api.UserToken
	err := c.update(ctx, func(tx *state.Tx) error {
		if p.First {
			if err := c.firstLogin(tx, user); err != nil {
				return err
			}
		}
		id, err := c.addToken(tx, t)
		if err != nil {
			return err
		}
		kept, err := getJSON[token](tx, prefixTokens+id)
		made = kept.shown(id)
		made.Token = tokenText(id, secret)
		if err != nil {
			return err
		}
		return c.answer(ctx, tx, nil)
	})
	if err != nil {
		return nil, err
	}
	if p.First && c.o.OnFirstLogin != nil {
		c.o.OnFirstLogin()
	}
	return &made, nil
}

func checkTokenRequest(r api.TokenRequest) error {
	switch s := r.Expires; {
	case s != 0 && (s < api.Seconds(minTokenTime.Seconds()) || s > api.Seconds(maxTokenTime.Seconds())):
		return api.Invalidf("expires_seconds", "is %v, must be %v to %v, or 0 for a token that does not expire", float64(s), minTokenTime.Seconds(), maxTokenTime.Seconds())
	case len(r.Note) > maxNote:
		return api.Invalidf("note", "has %d bytes, at most %d are possible", len(r.Note), maxNote)
	case strings.ContainsFunc(r.Note, func(c rune) bool { return !unicode.IsPrint(c) }):
		return api.Invalidf("note", "%q has characters that cannot be printed", r.Note)
	}
	return nil
}

// firstLogin uses a first login's token up; only one of those who use it at once succeeds.
func (c *Controller) firstLogin(tx *state.Tx, user string) error {
	tokens, err := ofUser(tx, user)
	if err != nil {
		return err
	}
	was := false
	for id, t := range tokens {
		if !t.First {
			continue
		}
		was = was || t.good(c.now())
		if err := remove(tx, prefixTokens+id); err != nil {
			return err
		}
	}
	if !was {
		return api.Errorf(api.CodeUnauthenticated, "the token of the first login was used, or has expired")
	}
	c.event(tx, "user.first-login", "users/"+user, "", "the token of the first login was used, and is of no more use")
	return nil
}

// RevokeToken is serve.Controller's.
func (c *Controller) RevokeToken(ctx context.Context, p access.Actor, user, id string) error {
	ctx = asUser(ctx, p)
	if err := mayToken(p, user); err != nil {
		return err
	}
	// What is open by it ends; what is open by another token of the user begins anew.
	defer c.endStreams(user)
	return c.update(store.Urgent(ctx), func(tx *state.Tx) error {
		u, err := get[api.User](tx, user)
		if err != nil {
			return err
		}
		t, err := getJSON[token](tx, prefixTokens+id)
		if errors.Is(err, store.ErrNotFound) || err == nil && t.User != user {
			return api.Errorf(api.CodeNotFound, "user %s has no token %s: wcc user token list %s shows them", user, id, user)
		}
		if err != nil {
			return err
		}
		return c.keepAnAdmin(tx, u, func() error {
			if err := remove(tx, prefixTokens+id); err != nil {
				return err
			}
			return showTokens(tx, user)
		})
	})
}

// updateUser writes a user's new spec.
func (c *Controller) updateUser(tx *state.Tx, _ access.Actor, was, now *api.User) error {
	if !was.Spec.Admin || now.Spec.Admin {
		return put(tx, now)
	}
	return c.keepAnAdmin(tx, was, func() error { return put(tx, now) })
}

// deleteUser removes a user and its tokens. Which these are, the tokens themselves say.
func (c *Controller) deleteUser(tx *state.Tx, u *api.User) error {
	return c.keepAnAdmin(tx, u, func() error {
		if err := removeAll(tx, answersOf(u.Name)); err != nil {
			return err
		}
		tokens, err := ofUser(tx, u.Name)
		if err != nil {
			return err
		}
		for id := range tokens {
			if err := remove(tx, prefixTokens+id); err != nil {
				return err
			}
		}
		return remove(tx, keyOf(api.KindUser, u.Name))
	})
}

// keepAnAdmin makes a change that takes something from a user, and refuses it when it would lock everybody out: when the
// user is an admin who can log in, an admin must be left whose token is good for a day at least.
func (c *Controller) keepAnAdmin(tx *state.Tx, u *api.User, change func() error) error {
	tokens, err := ofUser(tx, u.Name)
	if err != nil {
		return err
	}
	could := false
	for _, t := range tokens {
		could = could || u.Spec.Admin && t.good(c.now())
	}
	if err := change(); err != nil || !could {
		return err
	}
	all, err := listJSON[token](tx, prefixTokens)
	if err != nil {
		return err
	}
	for _, t := range all {
		if !t.good(c.now().Add(lasting)) {
			continue
		}
		if other, err := get[api.User](tx, t.User); err == nil && other.Spec.Admin && !other.Deleting {
			return nil
		}
	}
	return api.Errorf(api.CodeConflict, "then no admin would be left who can log in for another day: make one first (wcc user create NAME --admin, wcc user token NAME)")
}

// Bootstrap lets the first admin into a new site. While nobody has ever had a lasting token, and no first one is good, it
// makes one for the user admin, whom it makes too. It gives it to keep, which must store it where only the site's operator
// can read it, before it is of any use. waits tells whether a first login is still to come.
func (c *Controller) Bootstrap(ctx context.Context, keep func(token string) error) (waits bool, err error) {
	used := false
	if err := c.view(ctx, func(tx *state.Tx) error {
		all, err := listJSON[token](tx, prefixTokens)
		for _, t := range all {
			used = used || !t.First
			waits = waits || t.First && t.good(c.now())
		}
		return err
	}); err != nil || used || waits {
		return waits, err
	}
	return true, c.firstToken(ctx, "admin", keep, "user.bootstrap", "the site's first admin was made")
}

// Recover is the way back in when no admin can log in, on the store of a controller that does not run. It gives the user the
// right of an admin, whom it makes if there is none, and gives the token of another first login to keep.
func Recover(ctx context.Context, st *state.State, site, user string, log *slog.Logger, keep func(token string) error) error {
	if err := cloud.ValidateName("user", user); err != nil {
		return err
	}
	c := &Controller{o: Options{Site: site, State: st}, log: log}
	return c.firstToken(ctx, user, keep, "user.recovered", "somebody with access to the controller's data made it an admin, and a token for its next login")
}

// firstToken makes a first login's token for an admin, in the place of any other.
func (c *Controller) firstToken(ctx context.Context, user string, keep func(token string) error, event, message string) error {
	id, secret := newUID()[24:], newSecret() // longer than those of other tokens: it is chosen before they are seen
	if err := keep(tokenText(id, secret)); err != nil {
		return fmt.Errorf("keep the token of the first login: %w", err)
	}
	return c.update(ctx, func(tx *state.Tx) error {
		u, err := get[api.User](tx, user)
		if errors.Is(err, &api.Error{Code: api.CodeNotFound}) {
			u, err = &api.User{Meta: c.newMeta(user, "")}, nil
		}
		if err != nil {
			return err
		}
		u.Spec.Admin, u.Deleting = true, false
		if err := put(tx, u); err != nil {
			return err
		}
		all, err := listJSON[token](tx, prefixTokens)
		if err != nil {
			return err
		}
		for old, t := range all {
			if !t.First {
				continue
			}
			if err := remove(tx, prefixTokens+old); err != nil {
				return err
			}
			if err := showTokens(tx, t.User); err != nil {
				return err
			}
		}
		t := token{User: user, Hash: hashOf(secret), Note: "first login", Created: c.now(), Expires: c.now().Add(FirstTokenTime), First: true}
		if err := putJSON(tx, prefixTokens+id, t); err != nil {
			return err
		}
		c.event(tx, event, "users/"+user, "", message)
		return showTokens(tx, user)
	})
}
