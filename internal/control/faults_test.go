package control_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"widecloud/api"
	"widecloud/internal/access"
	"widecloud/internal/store"
	"widecloud/internal/wire"
)

// errFull is what a store says on a full disk.
var errFull = errors.New("write store.db: no space left on device")

// faultyStore fails the Updates that strike chooses by their writes: as a full disk does, with nothing written; or, with
// committed, so that the writes are there and only the answer is an error, as when a sync fails late.
type faultyStore struct {
	store.Store
	strike    func(key string, value []byte) bool
	committed bool
}

type faultyTx struct {
	store.Tx
	s      *faultyStore
	struck bool
}

func (t *faultyTx) Put(key string, value []byte) error {
	t.struck = t.s.strike(key, value) || t.struck
	return t.Tx.Put(key, value)
}

func (t *faultyTx) Delete(key string) error {
	t.struck = t.s.strike(key, nil) || t.struck
	return t.Tx.Delete(key)
}

func (s *faultyStore) Update(ctx context.Context, f func(store.Tx) error) (int64, error) {
	struck := false
	rev, err := s.Store.Update(ctx, func(tx store.Tx) error {
		ft := &faultyTx{Tx: tx, s: s}
		if err := f(ft); err != nil {
			return err
		}
		if struck = ft.struck; struck && !s.committed {
			return errFull
		}
		return nil
	})
	if err == nil && struck {
		return 0, errFull
	}
	return rev, err
}

// firstWrite strikes the first write of a key that begins with prefix and whose value holds a text.
func firstWrite(prefix, holds string) func(string, []byte) bool {
	done := false
	return func(key string, value []byte) bool {
		if done || !strings.HasPrefix(key, prefix) || !bytes.Contains(value, []byte(holds)) {
			return false
		}
		done = true
		return true
	}
}

// instead answers the paths that fill names as a hostile site would; the rest goes to the real controller.
func instead(fill func(mux *http.ServeMux)) func(http.Handler) http.Handler {
	return func(real http.Handler) http.Handler {
		mux := http.NewServeMux()
		fill(mux)
		mux.Handle("/", real)
		return mux
	}
}

// orders is what the host's agent was told to be.
func (h *host) orders() (state wire.HostState) {
	h.site.w.t.Helper()
	err := h.proc.store.View(context.Background(), func(tx store.Tx) error {
		kvs, err := tx.List("state/")
		var set []wire.StateEntry
		for _, kv := range kvs {
			set = append(set, wire.StateEntry{Key: strings.TrimPrefix(kv.Key, "state/"), Value: kv.Value})
		}
		var bad []error
		state, bad = wire.Orders{}.With(set, nil).State(0)
		if kv, err := tx.Get("state"); err == nil {
			bad = append(bad, json.Unmarshal(kv.Value, &state))
		}
		return errors.Join(append(bad, err)...)
	})
	h.site.w.must(err)
	return state
}

// carries tells whether the host was told to carry a network.
func (h *host) carries(uid string) bool {
	for _, n := range h.orders().Networks {
		if n.UID == uid {
			return true
		}
	}
	return false
}

// session dials a site's outside port with a credential, from a machine of the test's choice.
func (w *world) session(site, from string, c *wire.Credential, purpose wire.Purpose) (*wire.Session, error) {
	trust, err := wire.NewTrust(wire.TrustOptions{CA: c.CA})
	w.must(err)
	return wire.Dial(w.t.Context(), site+":646", wire.Controller(site), purpose, wire.Options{Credential: c, Trust: trust, Network: w.net.Node(from)})
}

// member makes a user of an owner, without admin rights, and gives its token.
func (s *site) member(name, owner string) (access.Actor, string) {
	s.w.t.Helper()
	s.create(&api.User{Meta: api.Meta{Name: name, Owner: owner}})
	token, err := s.ctl.NewToken(s.w.t.Context(), s.admin, name, api.TokenRequest{})
	s.w.must(err)
	p, err := s.ctl.Authenticate(s.w.t.Context(), token.Token)
	s.w.must(err)
	return p, token.Token
}

func (s *site) network(name string) *api.Network {
	s.w.t.Helper()
	o, err := s.ctl.Get(s.w.t.Context(), s.admin, api.KindNetwork, name)
	s.w.must(err)
	return o.(*api.Network)
}

func (s *site) host(name string) *api.Host {
	s.w.t.Helper()
	o, err := s.ctl.Get(s.w.t.Context(), s.admin, api.KindHost, name)
	s.w.must(err)
	return o.(*api.Host)
}

// soon waits for a condition, up to a limit of the bubble's time, and tells whether it came.
func soon(limit time.Duration, ok func() bool) bool {
	for began := time.Now(); !ok(); time.Sleep(50 * time.Millisecond) {
		if time.Since(began) > limit {
			return false
		}
	}
	return true
}

// wantError fails the test unless the error has one of the codes.
func wantError(t *testing.T, what string, err error, codes ...api.Code) {
	t.Helper()
	for _, c := range codes {
		if errors.Is(err, &api.Error{Code: c}) {
			return
		}
	}
	t.Errorf("%s: %v, want an error of %v", what, err, codes)
}

func codeOf(err error) api.Code {
	var e *api.Error
	errors.As(err, &e)
	if e == nil {
		return ""
	}
	return e.Code
}
