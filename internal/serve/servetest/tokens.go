package servetest

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"

	"widecloud/api"
	"widecloud/internal/serve"
)

// user is a principal by name: that of a user object, or one that New has made.
func (m *Memory) user(name string) (serve.Principal, bool) {
	if u, ok := m.objects[key(api.KindUser, name)].(*api.User); ok {
		return serve.Principal{User: name, Owner: u.Owner, Admin: u.Spec.Admin}, true
	}
	p, ok := m.users[name]
	return p, ok
}

// Authenticate is that of serve.Controller.
func (m *Memory) Authenticate(_ context.Context, token string) (serve.Principal, error) {
	if token == "panic-token" {
		panic("a defect")
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for i, t := range m.tokens {
		p, ok := m.user(t.User)
		if t.Token != token || !ok || !alive(t, 0) {
			continue
		}
		p.First = t.First
		if time.Since(t.LastUsed) >= time.Hour {
			m.tokens[i].LastUsed = time.Now()
		}
		return p, nil
	}
	return serve.Principal{}, api.Errorf(api.CodeUnauthenticated, "the token is not known")
}

// alive tells whether a token is good after some time still.
func alive(t api.UserToken, after time.Duration) bool {
	return t.Expires.IsZero() || t.Expires.After(time.Now().Add(after))
}

func (m *Memory) mayToken(p serve.Principal, user string) error {
	if !p.Admin && p.User != user || p.First && p.User != user {
		return api.Errorf(api.CodeForbidden, "user %s is no admin", p.User)
	}
	if _, ok := m.user(user); !ok {
		return api.Errorf(api.CodeNotFound, "no users named %s", user)
	}
	return nil
}

// Tokens is that of serve.Controller.
func (m *Memory) Tokens(_ context.Context, p serve.Principal, user string) ([]api.UserToken, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.mayToken(p, user); err != nil {
		return nil, err
	}
	var l []api.UserToken
	for _, t := range m.tokens {
		if t.User == user {
			t.Token = ""
			l = append(l, t)
		}
	}
	return l, nil
}

// NewToken is that of serve.Controller. Its secret is "wcc_", the id, "_secret-of-", and the user's name.
func (m *Memory) NewToken(ctx context.Context, p serve.Principal, user string, r api.TokenRequest) (*api.UserToken, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.mayToken(p, user); err != nil {
		return nil, err
	}
	t := api.UserToken{User: user, Note: r.Note}
	switch {
	case r.Expires != 0 && (r.Expires < 60 || r.Expires > 1e9):
		return nil, api.Invalidf("expires_seconds", "is %v, must be 60 to 1e9", r.Expires)
	case len(r.Note) > 100 || strings.ContainsFunc(r.Note, unicode.IsControl):
		return nil, api.Invalidf("note", "is too long or has control characters")
	case r.Expires != 0:
		t.Expires = time.Now().UTC().Add(r.Expires.Duration())
	}
	if p.First {
		first := func(t api.UserToken) bool { return t.User == user && t.First }
		if !slices.ContainsFunc(m.tokens, func(t api.UserToken) bool { return first(t) && alive(t, 0) }) {
			return nil, api.Errorf(api.CodeUnauthenticated, "the first token was used")
		}
		m.tokens = slices.DeleteFunc(m.tokens, first)
	}
	m.tokens = slices.DeleteFunc(m.tokens, func(t api.UserToken) bool { return t.User == user && !alive(t, -30*24*time.Hour) })
	if m.tokensOf(user) >= 100 {
		expired := func(t api.UserToken) bool { return t.User == user && !alive(t, 0) }
		if i := slices.IndexFunc(m.tokens, expired); i >= 0 {
			m.tokens = slices.Delete(slices.Clone(m.tokens), i, i+1)
		}
	}
	if n := m.tokensOf(user); n >= 100 {
		return nil, api.Errorf(api.CodeRefused, "user %s has %d tokens", user, n)
	}
	m.keep(ctx, nil)
	return m.addToken(t), nil
}

// tokensOf must be called with the lock held.
func (m *Memory) tokensOf(user string) (n int) {
	for _, t := range m.tokens {
		if t.User == user {
			n++
		}
	}
	return n
}

// addToken must be called with the lock held.
func (m *Memory) addToken(t api.UserToken) *api.UserToken {
	m.made++
	t.ID = fmt.Sprintf("t%d", m.made)
	t.Token = "wcc_" + t.ID + "_secret-of-" + t.User
	t.Created = time.Now().UTC()
	m.tokens = append(m.tokens, t)
	return &t
}

// RevokeToken is that of serve.Controller.
func (m *Memory) RevokeToken(_ context.Context, p serve.Principal, user, id string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.mayToken(p, user); err != nil {
		return err
	}
	mine := func(t api.UserToken) bool { return t.User == user && t.ID == id }
	if !slices.ContainsFunc(m.tokens, mine) {
		return api.Errorf(api.CodeNotFound, "user %s has no token %s", user, id)
	}
	return m.keepAnAdmin(user, func() { m.tokens = slices.DeleteFunc(slices.Clone(m.tokens), mine) })
}

// keepAnAdmin does something to a user, and undoes it when no admin is left who can log in.
func (m *Memory) keepAnAdmin(user string, do func()) error {
	p, ok := m.user(user)
	could := ok && p.Admin && slices.ContainsFunc(m.tokens, func(t api.UserToken) bool { return t.User == user && alive(t, 0) })
	was, object := m.tokens, m.objects[key(api.KindUser, user)]
	do()
	if !could || slices.ContainsFunc(m.tokens, func(t api.UserToken) bool {
		p, ok := m.user(t.User)
		return ok && p.Admin && alive(t, 24*time.Hour)
	}) {
		return nil
	}
	m.tokens = was
	if object != nil {
		m.objects[key(api.KindUser, user)] = object
	}
	return api.Errorf(api.CodeConflict, "user %s is the last admin who can log in", user)
}
