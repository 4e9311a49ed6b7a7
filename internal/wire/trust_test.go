package wire_test

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"widecloud/api"
	"widecloud/internal/wire"
)

var errRemoved = api.Errorf(api.CodeForbidden, "host was removed")

// TestDisconnect closes the sessions of one identity, at whichever end, and of no other.
func TestDisconnect(t *testing.T) {
	for name, ends := range map[string]struct {
		from func(p *pair) *wire.Trust
		id   wire.Identity
	}{
		"at the listener": {func(p *pair) *wire.Trust { return p.osaka.trust }, wire.Controller("tokyo")},
		"at the dialer":   {func(p *pair) *wire.Trust { return p.tokyo.trust }, wire.Controller("osaka")},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPair(t, wire.Control, nil)
			defer p.close()
			h1 := p.osaka.agent(t, "h1")
			agent, err := wire.Dial(t.Context(), "osaka:7646", wire.Controller("osaka"), wire.Control, h1.options(p.net.Node("h1")))
			if err != nil {
				t.Fatal(err)
			}
			defer agent.Close()
			ends.from(p).Disconnect(wire.Agent("osaka", "h2"), errRemoved) // nobody: nothing
			if p.s.Err() != nil || p.peer.Err() != nil || agent.Err() != nil {
				t.Fatal("closed by the removal of another")
			}
			ends.from(p).Disconnect(ends.id, errRemoved)
			<-p.s.Done()
			<-p.peer.Done()
			for end, s := range map[string]*wire.Session{"dialer": p.s, "listener": p.peer} {
				if err := s.Err(); !errors.Is(err, errRemoved) || !strings.Contains(err.Error(), errRemoved.Message) {
					t.Errorf("%s: %v", end, err)
				}
			}
			if err := agent.Err(); err != nil {
				t.Errorf("the agent's session: %v", err)
			}
		})
	}
}

// TestDisconnectInHandshake removes an identity while its handshake is under way: no session comes of it, whatever Admit had
// found before.
func TestDisconnectInHandshake(t *testing.T) {
	for name, remove := range map[string]func(*site){
		"disconnected":         func(s *site) { s.trust.Disconnect(wire.Controller("tokyo"), errRemoved) },
		"removed":              func(s *site) { s.trust.RemovePeer("tokyo") },
		"removed and restored": nil, // below: it needs the pair
	} {
		t.Run(name, func(t *testing.T) {
			p := newPair(t, wire.Control, nil)
			defer p.close()
			if remove == nil {
				remove = func(s *site) {
					s.trust.RemovePeer("tokyo")
					if err := s.trust.AddPeer(p.tokyo.ca.Certificate()); err != nil {
						t.Error(err)
					}
				}
			}
			o := p.osaka.options(p.net.Node("osaka"))
			o.Admit = func(c wire.Caller) error {
				remove(p.osaka)
				return nil
			}
			o.OnSession = func(s *wire.Session) { t.Errorf("%s has session %d", s.Peer(), s.ID()) }
			server, err := wire.Listen(t.Context(), "osaka:1", o)
			if err != nil {
				t.Fatal(err)
			}
			defer server.Close()
			s, err := wire.Dial(t.Context(), "osaka:1", wire.Controller("osaka"), wire.Control, p.tokyo.options(p.net.Node("tokyo")))
			if err == nil {
				<-s.Done()
				err = s.Err()
			}
			if !errors.Is(err, &api.Error{Code: api.CodeForbidden}) {
				t.Errorf("reason: %v", err)
			}
		})
	}
}

// TestDisconnectRace disconnects again and again while an identity dials again and again. After the last time nothing is
// left, and nothing waits for ever.
func TestDisconnectRace(t *testing.T) {
	var mu sync.Mutex
	var sessions []*wire.Session
	removed := false
	p := newPair(t, wire.Control, func(o *wire.Options) {
		if o.Credential.Identity.Site != "osaka" {
			return
		}
		o.Admit = func(wire.Caller) error {
			mu.Lock()
			defer mu.Unlock()
			if removed {
				return errRemoved
			}
			return nil
		}
		keep := o.OnSession
		o.OnSession = func(s *wire.Session) {
			mu.Lock()
			sessions = append(sessions, s)
			mu.Unlock()
			keep(s)
		}
	})
	defer p.close()
	var dialers sync.WaitGroup
	ctx, stop := context.WithCancel(t.Context())
	for range 4 {
		dialers.Go(func() {
			var mine []*wire.Session
			for ctx.Err() == nil {
				s, err := wire.Dial(ctx, "osaka:7646", wire.Controller("osaka"), wire.Bulk, p.tokyo.options(p.net.Node("tokyo")))
				if err == nil {
					mine = append(mine, s)
				}
			}
			for _, s := range mine {
				<-s.Done()
				s.Close()
			}
		})
	}
	for range 50 {
		p.osaka.trust.Disconnect(wire.Controller("tokyo"), errRemoved)
		time.Sleep(time.Millisecond)
	}
	mu.Lock()
	removed = true
	mu.Unlock()
	p.osaka.trust.Disconnect(wire.Controller("tokyo"), errRemoved)
	stop()
	dialers.Wait()
	mu.Lock()
	defer mu.Unlock()
	if len(sessions) < 10 {
		t.Errorf("%d sessions only", len(sessions))
	}
	for i, s := range sessions {
		if s.Err() == nil {
			t.Errorf("session %d of %d lives on", i, len(sessions))
		}
	}
}

// TestCallerKey names the same key to Join, to Admit and to handlers, and another one for another key of the same name.
func TestCallerKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, osaka := wire.NewMemory(), newSite(t, "osaka")
		var joined []string
		var callers []wire.Caller
		wire.Handle(osaka.mux, "POST /who", func(ctx context.Context, _ wire.Identity, _ none) (answer, error) {
			return answer{Word: wire.SessionOf(ctx).Key()}, nil
		})
		o := osaka.options(m.Node("osaka"))
		o.Join = func(_ context.Context, r wire.JoinRequest) (wire.JoinReply, error) {
			joined = append(joined, r.Key)
			cert, err := osaka.ca.SignAgent(r.Host, r.CSR)
			return wire.JoinReply{Certificate: cert}, err
		}
		o.Admit = func(c wire.Caller) error {
			callers = append(callers, c)
			return nil
		}
		server, err := wire.Listen(t.Context(), "osaka:1", o)
		if err != nil {
			t.Fatal(err)
		}
		defer server.Close()
		token, err := wire.NewToken(wire.TokenJoin, osaka.ca.Certificate())
		if err != nil {
			t.Fatal(err)
		}
		var want []wire.Caller
		var keys []string
		for range 2 {
			cred, _, err := wire.Join(t.Context(), m.Node("h1"), "osaka:1", token, "h1", nil)
			if err != nil {
				t.Fatal(err)
			}
			trust, err := wire.NewTrust(wire.TrustOptions{CA: cred.CA})
			if err != nil {
				t.Fatal(err)
			}
			s, err := wire.Dial(t.Context(), "osaka:1", wire.Controller("osaka"), wire.Bulk, wire.Options{Credential: cred, Trust: trust, Network: m.Node("h1")})
			if err != nil {
				t.Fatal(err)
			}
			var who answer
			if err := wire.Call(t.Context(), s, http.MethodPost, "/who", nil, &who); err != nil || who.Word != cred.Key() {
				t.Errorf("a handler sees key %q, want %q; %v", who.Word, cred.Key(), err)
			}
			if s.Key() != osaka.cred.Key() {
				t.Errorf("the controller's key is %q, want %q", s.Key(), osaka.cred.Key())
			}
			s.Close()
			want = append(want, wire.Caller{Identity: wire.Agent("osaka", "h1"), Purpose: wire.Bulk, Key: cred.Key()})
			keys = append(keys, cred.Key())
		}
		if d := cmp.Diff(want, callers); d != "" {
			t.Errorf("Admit is asked for (-want +got):\n%s", d)
		}
		if d := cmp.Diff(keys, joined); d != "" || keys[0] == keys[1] || len(keys[0]) != 64 {
			t.Errorf("keys of the join requests (-want +got):\n%s", d)
		}
	})
}
