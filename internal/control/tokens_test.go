package control_test

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"path/filepath"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"widecloud/api"
	"widecloud/internal/access"
	"widecloud/internal/control"
	"widecloud/internal/fed"
	"widecloud/internal/serve"
	"widecloud/internal/serve/servetest"
	"widecloud/internal/state"
	"widecloud/internal/store"
	"widecloud/internal/store/bolt"
	"widecloud/internal/volume"
	"widecloud/internal/wire"
)

// alone is a controller without hosts and peers, in a bubble in which days pass quickly because it has nothing to do.
type alone struct {
	*control.Controller
	store       *state.State
	admin       access.Actor
	firstLogins int // calls of OnFirstLogin
}

func controllerAlone(t *testing.T, f func(t *testing.T, a *alone)) {
	bubble(t, func(t *testing.T) {
		must := func(err error) {
			t.Helper()
			if err != nil {
				t.Fatal(err)
			}
		}
		log := slog.New(slog.DiscardHandler)
		a := &alone{admin: access.Actor{User: "operator", Admin: true}}
		var err error
		file, err := bolt.Open(bolt.Options{Path: filepath.Join(t.TempDir(), "store.db"), NoSync: true})
		must(err)
		a.store, err = state.Open(t.Context(), file, control.Tables())
		must(err)
		defer a.store.Close()
		authority, err := wire.NewAuthority(wire.AuthorityOptions{Site: "tokyo"})
		must(err)
		credential, err := authority.Controller()
		must(err)
		trust, err := wire.NewTrust(wire.TrustOptions{CA: authority.Certificate()})
		must(err)
		ctx, cancel := context.WithCancel(context.Background())
		node := wire.NewMemory().Node("tokyo")
		federation, err := fed.New(ctx, fed.Options{Credential: credential, Trust: trust, Store: a.store, Network: node, Logger: log, Handler: http.NotFoundHandler()})
		must(err)
		images, err := volume.Open(volume.Options{Dir: t.TempDir()})
		must(err)
		defer images.Close()
		a.Controller = control.New(control.Options{
			Name: "tokyo", State: a.store, Authority: authority, Federation: federation, Images: images, Network: node, Logger: log, Resync: 24 * time.Hour,
			OnFirstLogin: func() { a.firstLogins++ },
		})
		ended := make(chan error, 1)
		go func() { ended <- a.Run(ctx) }()
		synctest.Wait() // it runs now
		defer func() {
			cancel()
			if err := <-ended; err != nil {
				t.Errorf("run: %v", err)
			}
		}()
		f(t, a)
	})
}

// bootstrap is the first login's token that a start makes; "" when it makes none.
func (a *alone) bootstrap(t *testing.T) (token string, waits bool) {
	t.Helper()
	waits, err := a.Bootstrap(t.Context(), func(made string) error { token = made; return nil })
	if err != nil {
		t.Fatal(err)
	}
	return token, waits
}

// siteAlone is a new site for the suites of serve's Controllers.
func siteAlone(t *testing.T, test func(*testing.T, servetest.Site)) {
	controllerAlone(t, func(t *testing.T, a *alone) {
		first, _ := a.bootstrap(t)
		test(t, servetest.Site{Controller: a.Controller, First: first})
	})
}

func TestTokens(t *testing.T) { servetest.TestTokens(t, siteAlone) }

func TestObjects(t *testing.T) { servetest.TestObjects(t, siteAlone) }

// TestBootstrap is the beginning of a site, with crashes and late comers.
func TestBootstrap(t *testing.T) {
	controllerAlone(t, func(t *testing.T, a *alone) {
		// What cannot be kept is not made: nobody is locked out by a full disk.
		full := errors.New("no space left on device")
		if _, err := a.Bootstrap(t.Context(), func(string) error { return full }); !errors.Is(err, full) {
			t.Errorf("got %v", err)
		}
		first, waits := a.bootstrap(t)
		if first == "" || !waits {
			t.Fatalf("the first start: %q, %t", first, waits)
		}
		if again, waits := a.bootstrap(t); again != "" || !waits {
			t.Errorf("a restart before the first login: %q, %t; want nothing new, and to wait", again, waits)
		}
		time.Sleep(control.FirstTokenTime)
		second, _ := a.bootstrap(t)
		if second == "" {
			t.Fatal("a restart after the first token expired makes no other")
		}
		p, err := a.Authenticate(t.Context(), second)
		if err != nil {
			t.Fatal(err)
		}
		lasting, err := a.NewToken(t.Context(), p, p.User, api.TokenRequest{})
		if err != nil {
			t.Fatal(err)
		}
		if a.firstLogins != 1 {
			t.Errorf("OnFirstLogin was called %d times, want 1", a.firstLogins)
		}
		if again, waits := a.bootstrap(t); again != "" || waits {
			t.Errorf("a restart after the first login: %q, %t", again, waits)
		}
		// A site that has had an admin makes no other by itself, also when nobody can log in any more.
		if _, err := a.NewToken(t.Context(), a.admin, "admin", api.TokenRequest{Expires: 25 * 3600}); err != nil {
			t.Fatal(err)
		}
		if err := a.RevokeToken(t.Context(), a.admin, "admin", lasting.ID); err != nil {
			t.Fatal(err)
		}
		time.Sleep(26 * time.Hour)
		if again, waits := a.bootstrap(t); again != "" || waits {
			t.Errorf("a restart after all tokens expired: %q, %t", again, waits)
		}
	})
}

// TestTokensOfEarlierReleases have a user and a hash, and nothing else.
func TestTokensOfEarlierReleases(t *testing.T) {
	controllerAlone(t, func(t *testing.T, a *alone) {
		const user = `{"name":"admin","spec":{"admin":true},"status":{"tokens":["0123abcd"]}}`
		// The secret is "old".
		const old = `{"user":"admin","hash":"cba06b5736faf67e54b07b561eae94395e774c517a7d910a54369e1263ccfbd4"}`
		if _, err := a.store.Update(t.Context(), func(tx store.Tx) error {
			return errors.Join(tx.Put("objects/users/admin", []byte(user)), tx.Put("tokens/0123abcd", []byte(old)))
		}); err != nil {
			t.Fatal(err)
		}
		p, err := a.Authenticate(t.Context(), "wcc_0123abcd_old")
		if want := (access.Actor{User: "admin", Admin: true}); err != nil || p != want {
			t.Fatalf("got %+v, %v; want %+v", p, err, want)
		}
		if token, waits := a.bootstrap(t); token != "" || waits {
			t.Errorf("an old site is bootstrapped again: %q, %t", token, waits)
		}
		time.Sleep(time.Second)
		l, err := a.Tokens(t.Context(), p, "admin")
		if err != nil || len(l) != 1 || l[0].ID != "0123abcd" || !l[0].Created.IsZero() || l[0].LastUsed.IsZero() {
			t.Errorf("after its use: %+v, %v", l, err)
		}
		if err := a.RevokeToken(t.Context(), p, "admin", "0123abcd"); !errors.Is(err, &api.Error{Code: api.CodeConflict}) {
			t.Errorf("the last admin's last token: %v", err)
		}
	})
}

// TestRecover is the way back in, on the store of a controller that does not run: for a user that is not there, and for
// one that is no admin.
func TestRecover(t *testing.T) {
	controllerAlone(t, func(t *testing.T, a *alone) {
		for _, o := range []api.Object{&api.Owner{Meta: api.Meta{Name: "lab"}}, &api.User{Meta: api.Meta{Name: "ann", Owner: "lab"}}} {
			if _, err := a.Create(t.Context(), a.admin, o); err != nil {
				t.Fatal(err)
			}
		}
		old, err := a.NewToken(t.Context(), a.admin, "ann", api.TokenRequest{})
		if err != nil {
			t.Fatal(err)
		}
		for _, user := range []string{"admin", "ann"} {
			var token string
			if err := control.Recover(t.Context(), a.store, "tokyo", user, slog.New(slog.DiscardHandler), func(made string) error { token = made; return nil }); err != nil {
				t.Fatal(err)
			}
			if made, waits := a.bootstrap(t); made != "" || !waits {
				t.Errorf("the next start makes %q, and waits: %t; want nothing new, and to wait for the login", made, waits)
			}
			p, err := a.Authenticate(t.Context(), token)
			if err != nil || p.User != user || !p.Admin || !p.First {
				t.Fatalf("%+v, %v", p, err)
			}
			lasting, err := a.NewToken(t.Context(), p, user, api.TokenRequest{})
			if err != nil {
				t.Fatal(err)
			}
			if p, err = a.Authenticate(t.Context(), lasting.Token); err != nil || p.First || !p.Admin {
				t.Errorf("%+v, %v", p, err)
			}
		}
		if _, err := a.Authenticate(t.Context(), old.Token); err != nil {
			t.Errorf("a token from before: %v", err)
		}
		err = control.Recover(t.Context(), a.store, "tokyo", "No Name", slog.New(slog.DiscardHandler), func(string) error { return nil })
		if !errors.Is(err, &api.Error{Code: api.CodeInvalid, Field: "user"}) {
			t.Errorf("a name that is none: %v", err)
		}
		events, _, err := a.List(t.Context(), a.admin, api.KindEvent, serve.Query{})
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, o := range events {
			if e := o.(*api.Event); e.Type == "user.recovered" {
				got = append(got, e.Object)
			}
		}
		slices.Sort(got)
		if d := cmp.Diff([]string{"users/admin", "users/ann"}, got); d != "" {
			t.Errorf("events (-want +got):\n%s", d)
		}
	})
}

// TestFirstLoginOnce has ten who use the first login's token at once: one of them gets in.
func TestFirstLoginOnce(t *testing.T) {
	controllerAlone(t, func(t *testing.T, a *alone) {
		first, _ := a.bootstrap(t)
		p, err := a.Authenticate(t.Context(), first)
		if err != nil {
			t.Fatal(err)
		}
		won := make(chan error, 10)
		for range cap(won) {
			go func() {
				_, err := a.NewToken(context.Background(), p, p.User, api.TokenRequest{})
				won <- err
			}()
		}
		n := 0
		for range cap(won) {
			if err := <-won; err == nil {
				n++
			} else if !errors.Is(err, &api.Error{Code: api.CodeUnauthenticated}) {
				t.Error(err)
			}
		}
		if n != 1 {
			t.Errorf("%d logins by one token", n)
		}
	})
}
