package fed_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"widecloud/api"
	"widecloud/internal/fed"
	"widecloud/internal/store"
	"widecloud/internal/store/bolt"
	"widecloud/internal/wire"
)

// end is one site's side.
type end struct {
	*fed.Federation
	authority *wire.Authority
	mux       *http.ServeMux
	taken     chan wire.Verified
	store     store.Store
}

// seen counts the serials that are kept of a peer.
func (e *end) seen(t *testing.T, site string) (n int) {
	t.Helper()
	if err := e.store.View(t.Context(), func(tx store.Tx) error {
		kvs, err := tx.List("fed/seen/" + site + "/")
		n = len(kvs)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return n
}

type note struct {
	Text string `json:"text"`
}

// start runs a site's side until ctx ends.
func start(t *testing.T, ctx context.Context, work *sync.WaitGroup, m *wire.Memory, authority *wire.Authority, path string) *end {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	st, err := bolt.Open(bolt.Options{Path: path, NoSync: true})
	must(err)
	cred, err := authority.Controller()
	must(err)
	trust, err := wire.NewTrust(wire.TrustOptions{CA: authority.Certificate()})
	must(err)
	e := &end{authority: authority, mux: http.NewServeMux(), taken: make(chan wire.Verified, 10)}
	log := slog.New(slog.DiscardHandler)
	e.Federation, err = fed.New(ctx, fed.Options{Credential: cred, Trust: trust, Store: st, Network: m.Node(authority.Site()), Handler: e.mux, Logger: log})
	must(err)
	e.Handle(e.mux)
	e.store = st
	e.OnDocument("note", func(ctx context.Context, d wire.Verified) (any, error) {
		var n note
		if err := d.DecodeBody(&n); err != nil {
			return nil, err
		}
		if n.Text == "refuse" {
			return nil, api.Invalidf("body.text", "is refused")
		}
		if _, err := st.Update(ctx, func(tx store.Tx) error { return e.Advance(tx, d) }); err != nil {
			return nil, err
		}
		e.taken <- d
		return note{"taken: " + n.Text}, nil
	})
	server, err := wire.Listen(ctx, ":1", wire.Options{
		Credential: cred, Trust: trust, Network: m.Node(authority.Site()), Handler: e.mux,
		OnSession: func(s *wire.Session) { work.Go(func() { e.Accept(s) }) },
	})
	must(err)
	work.Go(func() { e.Run(ctx) })
	work.Go(func() {
		<-ctx.Done()
		server.Close()
		st.Close()
	})
	return e
}

func authority(t *testing.T, site string) *wire.Authority {
	t.Helper()
	a, err := wire.NewAuthority(wire.AuthorityOptions{Site: site})
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// TestOneSideDials has a site behind a firewall be a full member: the sessions that it dials carry both sides' documents;
// serials go on over a restart; and a removed peer is a stranger.
func TestOneSideDials(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		var work sync.WaitGroup
		defer work.Wait()
		defer cancel()
		m, dir := wire.NewMemory(), t.TempDir()
		tokyoCA, osakaCA := authority(t, "tokyo"), authority(t, "osaka")
		tokyo := start(t, ctx, &work, m, tokyoCA, filepath.Join(dir, "tokyo"))
		osakaCtx, stopOsaka := context.WithCancel(ctx)
		var osakaWork sync.WaitGroup
		osaka := start(t, osakaCtx, &osakaWork, m, osakaCA, filepath.Join(dir, "osaka"))
		join := func() {
			t.Helper()
			if err := tokyo.AddPeer("osaka", "osaka:1", wire.EncodeCertificate(osakaCA.Certificate())); err != nil {
				t.Fatal(err)
			}
			if err := osaka.AddPeer("tokyo", "", wire.EncodeCertificate(tokyoCA.Certificate())); err != nil {
				t.Fatal(err)
			}
		}
		send := func(from, to *end, site string, serial uint64) {
			t.Helper()
			if err := from.Send(ctx, site, "note", "s", time.Minute, note{"hello"}); err != nil {
				t.Fatalf("to %s: %v", site, err)
			}
			if d := <-to.taken; d.Serial != serial {
				t.Errorf("to %s: serial %d, want %d", site, d.Serial, serial)
			}
		}
		if err := tokyo.Send(ctx, "osaka", "note", "s", time.Minute, note{}); !errors.Is(err, &api.Error{Code: api.CodeUnavailable}) {
			t.Errorf("to a stranger: %v", err)
		}
		if err := tokyo.AddPeer("kyoto", "", wire.EncodeCertificate(osakaCA.Certificate())); !errors.Is(err, &api.Error{Code: api.CodeInvalid, Field: "spec.certificate"}) {
			t.Errorf("another site's certificate: %v", err)
		}
		join()
		time.Sleep(time.Minute)
		send(tokyo, osaka, "osaka", 1)
		send(osaka, tokyo, "tokyo", 1)
		send(tokyo, osaka, "osaka", 2)
		var e *api.Error
		if err := tokyo.Send(ctx, "osaka", "letter", "", time.Minute, note{}); !errors.As(err, &e) || e.Field != "kind" {
			t.Errorf("a kind that is not known: %v", err)
		}
		if err := tokyo.Send(ctx, "osaka", "note", "", time.Minute, map[string]int{"texts": 1}); !errors.As(err, &e) || e.Field != "body.texts" {
			t.Errorf("a field that is not known: %v", err)
		}

		var answer note
		if err := tokyo.Ask(ctx, "osaka", "note", "asked", time.Minute, note{"hello"}, &answer); err != nil || answer.Text != "taken: hello" {
			t.Errorf("an answer: %+v, %v", answer, err)
		}
		<-osaka.taken
		// What is refused leaves nothing, and what is taken has a bound.
		before := osaka.seen(t, "tokyo")
		for i := range 20 {
			if err := tokyo.Send(ctx, "osaka", "note", fmt.Sprint("refused-", i), time.Minute, note{"refuse"}); !errors.As(err, &e) || e.Field != "body.text" {
				t.Fatalf("a refused document: %v", err)
			}
		}
		if after := osaka.seen(t, "tokyo"); after != before {
			t.Errorf("refused documents left %d keys", after-before)
		}
		for i := 0; ; i++ {
			err := tokyo.Send(ctx, "osaka", "note", fmt.Sprint("subject-", i), time.Minute, note{"x"})
			if errors.As(err, &e) && e.Code == api.CodeRefused && e.Field == "subject" {
				break
			}
			if err != nil || i > 2000 {
				t.Fatalf("document %d of as many subjects: %v", i, err)
			}
			<-osaka.taken
		}
		if n := osaka.seen(t, "tokyo"); n != 1000 {
			t.Errorf("%d subjects are kept, want 1000", n)
		}
		for i := range 500 {
			if _, err := osaka.store.Update(ctx, func(tx store.Tx) error { return osaka.ForgetSubject(tx, "tokyo", fmt.Sprint("subject-", i), "note") }); err != nil {
				t.Fatal(err)
			}
		}
		if n := osaka.seen(t, "tokyo"); n != 500 {
			t.Errorf("%d subjects are kept, want 500", n)
		}

		stopOsaka()
		osakaWork.Wait()
		time.Sleep(10 * time.Second)
		if up, _, _ := tokyo.Reached("osaka"); up {
			t.Error("a dead peer is reached")
		}
		osaka = start(t, ctx, &work, m, osakaCA, filepath.Join(dir, "osaka"))
		join()
		time.Sleep(time.Minute)
		send(tokyo, osaka, "osaka", 3)
		send(osaka, tokyo, "tokyo", 2)

		osaka.RemovePeer("tokyo")
		time.Sleep(time.Minute)
		for site, f := range map[string]*end{"osaka": tokyo, "tokyo": osaka} {
			if _, err := f.Session(site, false); !errors.Is(err, &api.Error{Code: api.CodeUnavailable}) {
				t.Errorf("%s is reached after its removal: %v", site, err)
			}
		}
	})
}
