package accounts

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"slices"
	"strings"
	"time"
	"unicode"

	"widecloud/api"
	"widecloud/internal/access"
	"widecloud/internal/control/objects"
	"widecloud/internal/state"
	"widecloud/internal/store"
)

const (
	// FirstTokenTime is how long the token of a first login is good.
	FirstTokenTime = 24 * time.Hour
	// maxTokens is how many tokens a user may have.
	maxTokens = 100
	// expiredKept is how long a token that has expired is still listed; it goes when its user makes another, or sooner when
	// the user has maxTokens.
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

// Authenticate says whose a token is. What is not a token, an unknown id and a wrong secret are answered alike.
func (ac *Accounts) Authenticate(ctx context.Context, given string) (p access.Actor, err error) {
	unknown := api.Errorf(api.CodeUnauthenticated, "the token is not known here")
	rest, ok := strings.CutPrefix(given, "wcc_")
	id, secret, ok2 := strings.Cut(rest, "_")
	if !ok || !ok2 {
		return p, unknown
	}
	var t token
	err = ac.Read(ctx, func(tx *state.Tx) error {
		var err error
		if t, err = objects.Record[token](tx, objects.PrefixTokens+id); err != nil && !errors.Is(err, store.ErrNotFound) {
			return err
		}
		// An unknown id has no hash; the comparison takes as long.
		if subtle.ConstantTimeCompare([]byte(hashOf(secret)), []byte(cmp.Or(t.Hash, strings.Repeat("-", 2*sha256.Size)))) != 1 {
			return unknown
		}
		if !t.good(ac.Now()) {
			return api.Errorf(api.CodeUnauthenticated, "the token has expired at %s: get another", t.Expires.Format(time.RFC3339))
		}
		u, err := objects.Get[api.User](tx, t.User)
		if errors.Is(err, &api.Error{Code: api.CodeNotFound}) || err == nil && u.Deleting {
			return unknown
		}
		if err != nil {
			return err
		}
		p = access.Actor{User: u.Name, Owner: u.Owner, Admin: u.Spec.Admin, First: t.First}
		return nil
	})
	if err == nil && ac.Now().Sub(t.Used) >= usedEvery {
		ac.Once("token/"+id, func(ctx context.Context) { ac.used(ctx, id) })
	}
	return p, err
}

// used writes down that a token was used. Nobody waits for it: a login must work on a full disk.
func (ac *Accounts) used(ctx context.Context, id string) {
	err := ac.Write(ctx, func(tx *state.Tx) error {
		t, err := objects.Record[token](tx, objects.PrefixTokens+id)
		if err != nil {
			return err
		}
		t.Used = ac.Now()
		return objects.PutRecord(tx, objects.PrefixTokens+id, t)
	})
	if err != nil && ctx.Err() == nil && !errors.Is(err, store.ErrNotFound) {
		ac.Log.Debug("write down when a token was used", "token", id, "err", err)
	}
}

// ofUser reads a user's tokens, by their ids.
func ofUser(tx *state.Tx, user string) (map[string]token, error) {
	all, err := objects.ListRecords[token](tx, objects.PrefixTokens)
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
	u, err := objects.Get[api.User](tx, user)
	if err != nil {
		return err
	}
	tokens, err := ofUser(tx, user)
	if err != nil {
		return err
	}
	u.Status.Tokens = byAge(tokens)
	return objects.Put(tx, u)
}

// forgetExpired forgets a user's tokens that expired long ago, and to make room for one more also those that have only expired, the
// oldest first: browsers' sessions that nobody logged out of are many.
func (ac *Accounts) forgetExpired(tx *state.Tx, have map[string]token) error {
	for _, id := range byAge(have) {
		old := have[id]
		if old.good(ac.Now()) || old.good(ac.Now().Add(-expiredKept)) && len(have) < maxTokens {
			continue
		}
		delete(have, id)
		if err := objects.Remove(tx, objects.PrefixTokens+id); err != nil {
			return err
		}
	}
	return nil
}

// addToken keeps a new token in a transaction, and forgets those of its user that have expired.
func (ac *Accounts) addToken(tx *state.Tx, t token) (id string, err error) {
	if _, err := objects.Get[api.User](tx, t.User); err != nil {
		return "", err
	}
	have, err := ofUser(tx, t.User)
	if err != nil {
		return "", err
	}
	if err := ac.forgetExpired(tx, have); err != nil {
		return "", err
	}
	if len(have) >= maxTokens {
		return "", api.Errorf(api.CodeRefused, "user %s has %d tokens, as many as are possible: revoke what is not used (wcc user token list %s)", t.User, len(have), t.User)
	}
	t.Created = ac.Now()
	for {
		id = ac.ShortID()
		if _, err := tx.Get(objects.PrefixTokens + id); errors.Is(err, store.ErrNotFound) {
			break
		} else if err != nil {
			return "", err
		}
	}
	if err := objects.PutRecord(tx, objects.PrefixTokens+id, t); err != nil {
		return "", err
	}
	return id, showTokens(tx, t.User)
}

func mayToken(p access.Actor, user string) error {
	if p.User == user || p.Admin && !p.First {
		return nil
	}
	return objects.Forbidden("see and change the tokens of %s", user)
}

// Tokens are a user's tokens, as the API shows them.
func (ac *Accounts) Tokens(ctx context.Context, p access.Actor, user string) (out []api.UserToken, err error) {
	if err := mayToken(p, user); err != nil {
		return nil, err
	}
	err = ac.Read(ctx, func(tx *state.Tx) error {
		if _, err := objects.Get[api.User](tx, user); err != nil {
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

// NewToken makes a token for a user. Its secret is in the answer, and nowhere else.
func (ac *Accounts) NewToken(ctx context.Context, p access.Actor, user string, r api.TokenRequest) (*api.UserToken, error) {
	if err := mayToken(p, user); err != nil {
		return nil, err
	}
	if err := checkTokenRequest(r); err != nil {
		return nil, err
	}
	secret := newSecret()
	t := token{User: user, Hash: hashOf(secret), Note: r.Note}
	if r.Expires != 0 {
		t.Expires = ac.Now().Add(r.Expires.Duration())
	}
	var made api.UserToken
	err := ac.Write(ctx, func(tx *state.Tx) error {
		if p.First {
			if err := ac.firstLogin(tx, user); err != nil {
				return err
			}
		}
		id, err := ac.addToken(tx, t)
		if err != nil {
			return err
		}
		kept, err := objects.Record[token](tx, objects.PrefixTokens+id)
		made = kept.shown(id)
		made.Token = tokenText(id, secret)
		if err != nil {
			return err
		}
		return ac.Answer(ctx, tx, nil)
	})
	if err != nil {
		return nil, err
	}
	if p.First && ac.OnFirstLogin != nil {
		ac.OnFirstLogin()
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

// RevokeToken ends a user's token, and what is open with the user's rights.
func (ac *Accounts) RevokeToken(ctx context.Context, p access.Actor, user, id string) error {
	if err := mayToken(p, user); err != nil {
		return err
	}
	// What is open by it ends; what is open by another token of the user begins anew.
	defer ac.endStreams(user)
	return ac.Write(store.Urgent(ctx), func(tx *state.Tx) error {
		u, err := objects.Get[api.User](tx, user)
		if err != nil {
			return err
		}
		t, err := objects.Record[token](tx, objects.PrefixTokens+id)
		if errors.Is(err, store.ErrNotFound) || err == nil && t.User != user {
			return api.Errorf(api.CodeNotFound, "user %s has no token %s: wcc user token list %s shows them", user, id, user)
		}
		if err != nil {
			return err
		}
		return ac.keepAnAdmin(tx, u, func() error {
			if err := objects.Remove(tx, objects.PrefixTokens+id); err != nil {
				return err
			}
			return showTokens(tx, user)
		})
	})
}
