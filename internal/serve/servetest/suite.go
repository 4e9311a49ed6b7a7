package servetest

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"widecloud/api"
	"widecloud/internal/serve"
)

// Site is what the suite tests: a controller without owners, users and tokens of its own, but for the first admin's.
type Site struct {
	serve.Controller
	First string // the first login's token of the user admin
}

// TestTokens is the suite of what a Controller does with users' tokens. Each test has a new site, and runs in the
// testing/synctest bubble that open makes around it: hours cost nothing.
func TestTokens(t *testing.T, open func(t *testing.T, test func(t *testing.T, s Site))) {
	run(t, open, []test{
		{"FirstLogin", (*bench).firstLogin},
		{"FirstLoginExpires", (*bench).firstLoginExpires},
		{"MakeListRevoke", (*bench).makeListRevoke},
		{"Expiry", (*bench).expiry},
		{"LastUsed", (*bench).lastUsed},
		{"Rights", (*bench).rights},
		{"WrongTokens", (*bench).wrongTokens},
		{"Limits", (*bench).limits},
		{"DeletedUser", (*bench).deletedUser},
		{"StatusOfOthers", (*bench).statusOfOthers},
		{"LastAdmin", (*bench).lastAdmin},
		{"LastAdminByExpiry", (*bench).lastAdminByExpiry},
	})
}

type test struct {
	name string
	f    func(*bench)
}

func run(t *testing.T, open func(t *testing.T, test func(t *testing.T, s Site)), tests []test) {
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			open(t, func(t *testing.T, s Site) { tc.f(&bench{T: t, Site: s}) })
		})
	}
}

type bench struct {
	*testing.T
	Site
}

// who is the principal of a token that is good.
func (b *bench) who(token string) serve.Principal {
	b.Helper()
	p, err := b.Authenticate(b.Context(), token)
	if err != nil {
		b.Fatalf("authenticate: %v", err)
	}
	return p
}

// bad fails unless a token is refused.
func (b *bench) bad(what, token string) {
	b.Helper()
	p, err := b.Authenticate(b.Context(), token)
	b.code(what, api.CodeUnauthenticated, err)
	if p != (serve.Principal{}) {
		b.Errorf("%s: its principal is %+v", what, p)
	}
}

// code fails unless err has a code; "" is no error.
func (b *bench) code(what string, want api.Code, err error) {
	b.Helper()
	var e *api.Error
	switch {
	case want == "" && err != nil, want != "" && !errors.As(err, &e), want != "" && e.Code != want:
		b.Errorf("%s: %v, want %q", what, err, want)
	}
}

// token makes a token.
func (b *bench) token(p serve.Principal, user string, r api.TokenRequest) *api.UserToken {
	b.Helper()
	t, err := b.NewToken(b.Context(), p, user, r)
	if err != nil {
		b.Fatalf("new token of %s: %v", user, err)
	}
	return t
}

// admin logs in for the first time.
func (b *bench) admin() serve.Principal {
	b.Helper()
	return b.who(b.token(b.who(b.First), "admin", api.TokenRequest{}).Token)
}

// user makes a user with a token, and is the one the token stands for.
func (b *bench) user(by serve.Principal, name string, admin bool) (serve.Principal, *api.UserToken) {
	b.Helper()
	u := &api.User{Meta: api.Meta{Name: name}, Spec: api.UserSpec{Admin: admin}}
	if !admin {
		u.Owner = "uni"
		if _, err := b.Create(b.Context(), by, &api.Owner{Meta: api.Meta{Name: "uni"}}); err != nil && !errors.Is(err, &api.Error{Code: api.CodeExists}) {
			b.Fatalf("create owner: %v", err)
		}
	}
	if _, err := b.Create(b.Context(), by, u); err != nil {
		b.Fatalf("create user %s: %v", name, err)
	}
	t := b.token(by, name, api.TokenRequest{})
	return b.who(t.Token), t
}

// list is a user's tokens by their ids.
func (b *bench) list(p serve.Principal, user string) (tokens []api.UserToken, ids []string) {
	b.Helper()
	tokens, err := b.Tokens(b.Context(), p, user)
	if err != nil {
		b.Fatalf("tokens of %s: %v", user, err)
	}
	for _, t := range tokens {
		ids = append(ids, t.ID)
	}
	return tokens, ids
}

// delete deletes a user.
func (b *bench) delete(p serve.Principal, user string) error {
	_, err := b.Delete(b.Context(), p, api.KindUser, user)
	return err
}

func (b *bench) firstLogin() {
	first := b.who(b.First)
	if want := (serve.Principal{User: "admin", Admin: true, First: true}); first != want {
		b.Errorf("the first token is of %+v, want %+v", first, want)
	}
	_, err := b.NewToken(b.Context(), first, "other", api.TokenRequest{})
	b.code("a token for another user", api.CodeForbidden, err)
	lasting := b.token(first, "admin", api.TokenRequest{Note: "laptop"})
	if lasting.User != "admin" || lasting.Note != "laptop" || lasting.First || !lasting.Expires.IsZero() {
		b.Errorf("the lasting token is %+v", lasting)
	}
	if p := b.who(lasting.Token); p != (serve.Principal{User: "admin", Admin: true}) {
		b.Errorf("the lasting token is of %+v", p)
	}
	b.bad("the first token, after the first login", b.First)
	_, err = b.NewToken(b.Context(), first, "admin", api.TokenRequest{})
	b.code("a second first login that has begun before the first", api.CodeUnauthenticated, err)
}

func (b *bench) firstLoginExpires() {
	first := b.who(b.First)
	time.Sleep(25 * time.Hour)
	b.bad("the first token, after a day", b.First)
	_, err := b.NewToken(b.Context(), first, "admin", api.TokenRequest{})
	b.code("a first login that has begun in time and took a day", api.CodeUnauthenticated, err)
}

func (b *bench) makeListRevoke() {
	admin := b.admin()
	_, first := b.user(admin, "ann", false)
	began := time.Now()
	time.Sleep(time.Minute)
	second := b.token(admin, "ann", api.TokenRequest{Note: "backup script", Expires: 3600})
	tokens, ids := b.list(admin, "ann")
	if d := cmp.Diff([]string{first.ID, second.ID}, ids); d != "" {
		b.Fatalf("ids (-want +got):\n%s", d)
	}
	want := api.UserToken{ID: second.ID, User: "ann", Note: "backup script", Created: second.Created, Expires: second.Created.Add(time.Hour)}
	if d := cmp.Diff(want, tokens[1]); d != "" {
		b.Errorf("the second (-want +got):\n%s", d)
	}
	if age := second.Created.Sub(began); age < time.Minute || age > 2*time.Minute {
		b.Errorf("it was created %v after the first", age)
	}
	for _, t := range []*api.UserToken{first, second} {
		if t.Token == "" || slices.ContainsFunc(tokens, func(l api.UserToken) bool { return l.Token != "" }) {
			b.Errorf("a secret is shown again, or was not: %+v, %+v", t, tokens)
		}
	}
	b.code("revoke a token of another", api.CodeNotFound, b.RevokeToken(b.Context(), admin, "admin", second.ID))
	b.code("revoke", "", b.RevokeToken(b.Context(), admin, "ann", second.ID))
	b.bad("the revoked token", second.Token)
	b.who(first.Token)
	if _, ids := b.list(admin, "ann"); !slices.Equal(ids, []string{first.ID}) {
		b.Errorf("after the revocation: %v", ids)
	}
	b.code("revoke again", api.CodeNotFound, b.RevokeToken(b.Context(), admin, "ann", second.ID))
	_, err := b.Tokens(b.Context(), admin, "nobody")
	b.code("tokens of nobody", api.CodeNotFound, err)
	_, err = b.NewToken(b.Context(), admin, "nobody", api.TokenRequest{})
	b.code("a token for nobody", api.CodeNotFound, err)
	b.code("revoke of nobody", api.CodeNotFound, b.RevokeToken(b.Context(), admin, "nobody", first.ID))
}

func (b *bench) expiry() {
	admin := b.admin()
	_, lasting := b.user(admin, "ann", false)
	short := b.token(admin, "ann", api.TokenRequest{Expires: 3600})
	time.Sleep(time.Hour - time.Second)
	b.who(short.Token)
	time.Sleep(2 * time.Second)
	b.bad("the expired token", short.Token)
	b.who(lasting.Token)
	for _, r := range []struct {
		what, field string
		r           api.TokenRequest
	}{
		{"too short", "expires_seconds", api.TokenRequest{Expires: 1}},
		{"negative", "expires_seconds", api.TokenRequest{Expires: -60}},
		{"too long", "expires_seconds", api.TokenRequest{Expires: 1e12}},
		{"long note", "note", api.TokenRequest{Note: strings.Repeat("x", 101)}},
		{"note with controls", "note", api.TokenRequest{Note: "a\x1b[2J"}},
	} {
		_, err := b.NewToken(b.Context(), admin, "ann", r.r)
		var e *api.Error
		if !errors.As(err, &e) || e.Code != api.CodeInvalid || e.Field != r.field {
			b.Errorf("%s: %v, want %s to be invalid", r.what, err, r.field)
		}
	}
}

func (b *bench) lastUsed() {
	admin := b.admin()
	p, t := b.user(admin, "ann", false)
	time.Sleep(time.Second)
	unused := b.token(admin, "ann", api.TokenRequest{})
	used := func() time.Time {
		time.Sleep(time.Minute) // it need not be kept at once
		l, _ := b.list(p, "ann")
		if !l[1].LastUsed.IsZero() || l[1].ID != unused.ID {
			b.Errorf("the other token is %+v", l[1])
		}
		return l[0].LastUsed
	}
	once := used()
	if since := time.Since(once); since > 2*time.Minute {
		b.Errorf("it was used now, and last %v ago", since)
	}
	time.Sleep(20 * time.Minute)
	b.who(t.Token)
	if again := used(); !again.Equal(once) {
		b.Errorf("it is written more than once an hour: %v, %v", once, again)
	}
	time.Sleep(time.Hour)
	b.who(t.Token)
	if again := used(); !again.After(once.Add(time.Hour)) {
		b.Errorf("used again after an hour, it has %v, as before %v", again, once)
	}
}

func (b *bench) rights() {
	admin := b.admin()
	ann, annToken := b.user(admin, "ann", false)
	_, bobToken := b.user(admin, "bob", false)
	own := b.token(ann, "ann", api.TokenRequest{})
	if _, ids := b.list(ann, "ann"); len(ids) != 2 {
		b.Errorf("ann sees %v of her own", ids)
	}
	for _, user := range []string{"bob", "admin", "nobody"} {
		_, err := b.Tokens(b.Context(), ann, user)
		b.code("ann lists "+user, api.CodeForbidden, err)
		_, err = b.NewToken(b.Context(), ann, user, api.TokenRequest{})
		b.code("ann makes one for "+user, api.CodeForbidden, err)
		b.code("ann revokes one of "+user, api.CodeForbidden, b.RevokeToken(b.Context(), ann, user, bobToken.ID))
	}
	b.code("bob's by ann's name", api.CodeNotFound, b.RevokeToken(b.Context(), ann, "ann", bobToken.ID))
	b.code("her own", "", b.RevokeToken(b.Context(), ann, "ann", own.ID))
	b.code("her last", "", b.RevokeToken(b.Context(), ann, "ann", annToken.ID))
	b.bad("ann's", annToken.Token)
	b.who(bobToken.Token)
}

// wrongTokens wants one answer for all that is not a token, so that nobody learns what is nearly one.
func (b *bench) wrongTokens() {
	good := b.token(b.who(b.First), "admin", api.TokenRequest{}).Token
	_, want := b.Authenticate(b.Context(), "x")
	for what, token := range map[string]string{
		"nothing": "", "another secret": good + "x", "a part": good[:len(good)-1], "another id": strings.Replace(good, "_", "_0", 1), "its id": good[:min(len(good), 13)],
	} {
		b.bad(what, token)
		if _, err := b.Authenticate(b.Context(), token); err == nil || err.Error() != want.Error() {
			b.Errorf("%s is answered %v, nonsense %v", what, err, want)
		}
	}
}

func (b *bench) limits() {
	admin := b.admin()
	for range 99 {
		b.token(admin, "admin", api.TokenRequest{Expires: 3600})
	}
	_, err := b.NewToken(b.Context(), admin, "admin", api.TokenRequest{})
	b.code("the 101st token", api.CodeRefused, err)
	time.Sleep(2 * time.Hour) // those that have expired make room for others, the oldest first
	b.token(admin, "admin", api.TokenRequest{})
	if _, ids := b.list(admin, "admin"); len(ids) != 100 {
		b.Errorf("%d tokens are listed, want 100", len(ids))
	}
	time.Sleep(31 * 24 * time.Hour) // tokens that have expired are forgotten some time after
	b.token(admin, "admin", api.TokenRequest{})
	if _, ids := b.list(admin, "admin"); len(ids) != 3 {
		b.Errorf("%d tokens are left, want 3", len(ids))
	}
}

func (b *bench) deletedUser() {
	admin := b.admin()
	_, one := b.user(admin, "ann", false)
	two := b.token(admin, "ann", api.TokenRequest{})
	_, bob := b.user(admin, "bob", false)
	b.code("delete", "", b.delete(admin, "ann"))
	b.bad("a token of a deleted user", one.Token)
	b.bad("another", two.Token)
	b.who(bob.Token)
	b.user(admin, "ann", false)
	b.bad("a token of an earlier user of the same name", one.Token)
}

// statusOfOthers makes users whose status has tokens that are not theirs: their end is nobody else's.
func (b *bench) statusOfOthers() {
	admin := b.admin()
	_, ann := b.user(admin, "ann", false)
	eve := &api.User{Meta: api.Meta{Name: "eve", Owner: "uni"}, Status: api.UserStatus{Tokens: []string{ann.ID}}}
	if _, err := b.Create(b.Context(), admin, eve); err != nil {
		b.Fatal(err)
	}
	eve.Status.Tokens, eve.Revision = []string{ann.ID}, 0
	if _, err := b.Update(b.Context(), admin, eve); err != nil {
		b.Fatal(err)
	}
	b.code("delete", "", b.delete(admin, "eve"))
	b.who(ann.Token)
}

func (b *bench) lastAdmin() {
	admin := b.admin()
	_, ids := b.list(admin, "admin")
	demote := func(name string, admin bool) error {
		_, err := b.Update(b.Context(), serve.Principal{User: "admin", Admin: true}, &api.User{Meta: api.Meta{Name: name}, Spec: api.UserSpec{Admin: admin}})
		return err
	}
	// Another admin who has no token cannot take over.
	if _, err := b.Create(b.Context(), admin, &api.User{Meta: api.Meta{Name: "idle"}, Spec: api.UserSpec{Admin: true}}); err != nil {
		b.Fatal(err)
	}
	b.user(admin, "ann", false)
	refused := func(when string) {
		b.Helper()
		b.code(when+": delete the last admin", api.CodeConflict, b.delete(admin, "admin"))
		b.code(when+": take the right from it", api.CodeConflict, demote("admin", false))
		b.code(when+": revoke its last token", api.CodeConflict, b.RevokeToken(b.Context(), admin, "admin", ids[0]))
	}
	refused("with one")
	b.code("delete an admin without a token", "", b.delete(admin, "idle"))

	_, other := b.user(admin, "root2", true)
	b.code("take the right from one of two", "", demote("root2", false))
	refused("the other is no admin now")
	b.code("give it back", "", demote("root2", true))
	b.code("revoke the token of one of two", "", b.RevokeToken(b.Context(), admin, "root2", other.ID))
	refused("the other has no token now")
	b.token(admin, "root2", api.TokenRequest{})
	b.code("delete one of two", "", b.delete(admin, "admin"))
}

// lastAdminByExpiry: an admin whose tokens end soon does not count as one who stays.
func (b *bench) lastAdminByExpiry() {
	admin := b.admin()
	_, ids := b.list(admin, "admin")
	soon := b.token(admin, "admin", api.TokenRequest{Expires: 3600})
	_, other := b.user(admin, "root2", true)
	b.code("revoke its lasting one", "", b.RevokeToken(b.Context(), admin, "root2", other.ID))
	b.token(admin, "root2", api.TokenRequest{Expires: 12 * 3600})
	b.code("revoke the only lasting token", api.CodeConflict, b.RevokeToken(b.Context(), admin, "admin", ids[0]))
	b.code("delete its user", api.CodeConflict, b.delete(admin, "admin"))
	b.token(admin, "root2", api.TokenRequest{Expires: 90 * 24 * 3600})
	b.code("with another that lasts", "", b.RevokeToken(b.Context(), admin, "admin", ids[0]))
	b.code("and the short one", "", b.RevokeToken(b.Context(), admin, "admin", soon.ID))
}
