// Package fed joins sites: it keeps the sessions with the peers up and carries signed documents between them. What the
// documents say is package control's business.
//
// Two sessions join a pair of sites, one for control and one for bulk streams. A site that has a peer's endpoint dials it;
// sessions that the peer dialled are used in both directions too, so one of the two may sit behind a firewall.
//
// Invariants:
//   - a document is believed only if its signer, audience, freshness and serial are right (package wire); the peer's clock
//     plays no part;
//   - a sent serial is on stable storage before it counts; a taken one is stored with the document's effect, in one
//     transaction: what is refused leaves nothing;
//   - of one peer no more than maxSubjects serials are kept;
//   - a removed peer's sessions are closed, and nothing of it is believed any more.
package fed

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"widecloud/api"
	"widecloud/internal/store"
	"widecloud/internal/wire"
)

// Options are what a federation is made of.
type Options struct {
	Credential *wire.Credential // the controller's
	Trust      *wire.Trust
	Store      store.Store  // the site's; keys under fed/
	Network    wire.Network // nil: TCP
	Handler    http.Handler // of the sessions that this site dials
	Logger     *slog.Logger
	// KeepAlive and DeadAfter are wire.Options's; 0: its defaults.
	KeepAlive, DeadAfter time.Duration
	// Changed, when set, is called when a peer's control session went up or down.
	Changed func(site string, up bool)
}

// Federation is a site's side of its peerings.
type Federation struct {
	o          Options
	site       string
	challenges *wire.Challenges
	verifier   *wire.Verifier

	mu    sync.Mutex
	ctx   context.Context // of Run; nil before
	work  sync.WaitGroup
	peers map[string]*peer
	takes map[string]Take
}

// Take has a verified document take effect. It calls Federation.Advance in the transaction of the effect. What it returns is
// the sender's answer.
type Take func(context.Context, wire.Verified) (answer any, err error)

type peer struct {
	endpoint string
	stop     context.CancelFunc // of its dialers
	dialled  map[wire.Purpose]*wire.Session
	accepted map[wire.Purpose]*wire.Session
	since    time.Time
	why      error // the last session or attempt ended
	whySince time.Time
	traffic  traffic
}

// whyKept is how long a reason why a peer is not reached stays before a newer one takes its place.
const whyKept = time.Minute

const (
	keySecret = "fed/secret"
	keySent   = "fed/sent/"
	keySeen   = "fed/seen/"
)

// New makes a federation without peers.
func New(ctx context.Context, o Options) (*Federation, error) {
	f := &Federation{
		o: o, site: o.Credential.Identity.Site,
		peers: map[string]*peer{}, takes: map[string]Take{},
	}
	var secret []byte
	if _, err := o.Store.Update(ctx, func(tx store.Tx) error {
		kv, err := tx.Get(keySecret)
		if err == nil {
			secret = kv.Value
			return nil
		}
		if !errors.Is(err, store.ErrNotFound) {
			return err
		}
		secret = make([]byte, 32)
		rand.Read(secret) // never fails (crypto/rand)
		return tx.Put(keySecret, secret)
	}); err != nil {
		return nil, fmt.Errorf("keep the secret of challenges: %w", err)
	}
	var err error
	if f.challenges, err = wire.NewChallenges(secret, nil); err != nil {
		return nil, err
	}
	f.verifier = &wire.Verifier{Trust: o.Trust, Challenges: f.challenges}
	return f, nil
}

// Run keeps the peers' sessions up until ctx ends.
func (f *Federation) Run(ctx context.Context) error {
	f.mu.Lock()
	f.ctx = ctx
	for site, p := range f.peers {
		f.dial(site, p)
	}
	f.mu.Unlock()
	f.work.Go(func() { f.measure(ctx) })
	<-ctx.Done()
	f.work.Wait()
	return nil
}

// AddPeer begins a peering, or changes the endpoint of one. The certificate is pinned in the trust set.
func (f *Federation) AddPeer(site, endpoint string, certificate []byte) error {
	ca, err := wire.DecodeCertificate(certificate)
	if err != nil {
		return fmt.Errorf("certificate of peer %s: %w", site, err)
	}
	if named, err := wire.SiteOf(ca); err != nil || named != site {
		return api.Invalidf("spec.certificate", "it is not site %s's", site)
	}
	if err := f.o.Trust.AddPeer(ca); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	p := f.peers[site]
	if p == nil {
		p = &peer{dialled: map[wire.Purpose]*wire.Session{}, accepted: map[wire.Purpose]*wire.Session{}, since: time.Now()}
		f.peers[site] = p
	} else if p.endpoint == endpoint {
		return nil
	}
	p.endpoint = endpoint
	f.dial(site, p)
	return nil
}

// RemovePeer ends a peering.
func (f *Federation) RemovePeer(site string) {
	f.mu.Lock()
	p := f.peers[site]
	delete(f.peers, site)
	f.mu.Unlock()
	if p != nil && p.stop != nil {
		p.stop()
	}
	f.o.Trust.RemovePeer(site) // closes the sessions
}

// Disconnect ends all sessions with an identity, an agent of ours or a peer, with a reason that it gets to see.
func (f *Federation) Disconnect(id wire.Identity, reason error) { f.o.Trust.Disconnect(id, reason) }

// dial starts the dialers of a peer; f.mu is held.
func (f *Federation) dial(site string, p *peer) {
	if p.stop != nil {
		p.stop()
		p.stop = nil
	}
	if f.ctx == nil || f.ctx.Err() != nil || p.endpoint == "" {
		return
	}
	ctx, stop := context.WithCancel(f.ctx)
	p.stop = stop
	for _, purpose := range []wire.Purpose{wire.Control, wire.Bulk} {
		d := &wire.Dialer{
			Addrs: []string{p.endpoint}, Peer: wire.Controller(site), Purpose: purpose, MaxBackoff: 2 * time.Second,
			Options: wire.Options{
				Credential: f.o.Credential, Trust: f.o.Trust, Network: f.o.Network, Handler: f.o.Handler, Log: f.o.Logger,
				KeepAlive: f.o.KeepAlive, DeadAfter: f.o.DeadAfter,
			},
			Up: func(s *wire.Session) { f.set(site, p.dialled, s) },
			Down: func(err error) {
				f.failed(site, purpose, err)
				f.clear(site, p.dialled, purpose)
			},
		}
		f.work.Go(func() {
			if err := d.Run(ctx); err != nil {
				f.o.Logger.Error("dial", "peer", site, "err", err)
			}
		})
	}
}

// Accept takes a session that a peer dialled; it returns when the session has ended.
func (f *Federation) Accept(s *wire.Session) {
	site := s.Peer().Site
	f.mu.Lock()
	p := f.peers[site]
	f.mu.Unlock()
	if p == nil {
		s.CloseWithError(api.Errorf(api.CodeForbidden, "site %s is no peer of %s", site, f.site))
		return
	}
	f.set(site, p.accepted, s)
	<-s.Done()
	f.failed(site, s.Purpose(), s.Err())
	f.mu.Lock()
	mine := p.accepted[s.Purpose()] == s
	f.mu.Unlock()
	if mine {
		f.clear(site, p.accepted, s.Purpose())
	}
}

func (f *Federation) set(site string, at map[wire.Purpose]*wire.Session, s *wire.Session) {
	f.mu.Lock()
	at[s.Purpose()] = s
	if p := f.peers[site]; p != nil {
		p.traffic.add(s)
	}
	f.mu.Unlock()
	f.changed(site, s.Purpose(), true)
}

func (f *Federation) clear(site string, at map[wire.Purpose]*wire.Session, purpose wire.Purpose) {
	f.mu.Lock()
	had := at[purpose] != nil
	if p := f.peers[site]; had && p != nil {
		p.traffic.end(at[purpose])
	}
	delete(at, purpose)
	f.mu.Unlock()
	if had {
		_, err := f.Session(site, false)
		f.changed(site, purpose, err == nil)
	}
}

func (f *Federation) changed(site string, purpose wire.Purpose, up bool) {
	if purpose != wire.Control {
		return
	}
	f.mu.Lock()
	if p := f.peers[site]; p != nil {
		p.since = time.Now()
	}
	f.mu.Unlock()
	if f.o.Changed != nil {
		f.o.Changed(site, up)
	}
}

// Session is the way to a peer's controller; api.CodeUnavailable when there is none now.
func (f *Federation) Session(site string, bulk bool) (*wire.Session, error) {
	purpose := wire.Control
	if bulk {
		purpose = wire.Bulk
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	p := f.peers[site]
	if p == nil {
		return nil, api.Errorf(api.CodeUnavailable, "site %s is no peer of %s", site, f.site)
	}
	for _, at := range []map[wire.Purpose]*wire.Session{p.dialled, p.accepted} {
		if s := at[purpose]; s != nil && s.Err() == nil {
			return s, nil
		}
	}
	return nil, api.Errorf(api.CodeUnavailable, "site %s is not reached", site)
}

// Reached tells whether a peer's control session is up, since when, and its round-trip time.
func (f *Federation) Reached(site string) (up bool, since time.Time, rtt time.Duration) {
	s, err := f.Session(site, false)
	f.mu.Lock()
	if p := f.peers[site]; p != nil {
		since = p.since
	}
	f.mu.Unlock()
	if err != nil {
		return false, since, 0
	}
	return true, since, s.RTT()
}

// Answered is when a peer was asked for the newest sign of life that it has given on its control session; zero: it has given
// none, or is not reached.
func (f *Federation) Answered(site string) time.Time {
	s, err := f.Session(site, false)
	if err != nil {
		return time.Time{}
	}
	return s.Answered()
}

// failed keeps why a peer's control session ended, or could not be made.
func (f *Federation) failed(site string, purpose wire.Purpose, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	p := f.peers[site]
	if p == nil || purpose != wire.Control || err == nil {
		return
	}
	// What is tried again and again fails with ever new words: a reason stays for a while.
	ended := p.dialled[purpose] != nil || p.accepted[purpose] != nil
	if ended || time.Since(p.whySince) >= whyKept {
		p.why, p.whySince = err, time.Now()
	}
}

// Why says why a peer is not reached; nil: nobody has said.
func (f *Federation) Why(site string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if p := f.peers[site]; p != nil {
		return p.why
	}
	return nil
}

// Send signs a document and gives it to a peer, which has taken it when Send returns nil.
func (f *Federation) Send(ctx context.Context, site, kind, subject string, valid time.Duration, body any) error {
	return f.Ask(ctx, site, kind, subject, valid, body, &wire.Empty{})
}

// Ask is Send, and reads the peer's answer into answer.
func (f *Federation) Ask(ctx context.Context, site, kind, subject string, valid time.Duration, body, answer any) error {
	s, err := f.Session(site, false)
	if err != nil {
		return err
	}
	var challenge wire.Challenge
	if err := wire.Call(ctx, s, http.MethodPost, wire.PathFedChallenge, wire.Empty{}, &challenge); err != nil {
		return fmt.Errorf("ask %s for a challenge: %w", site, err)
	}
	serial, err := f.nextSerial(ctx, site, kind, subject)
	if err != nil {
		return err
	}
	e, err := wire.Sign(f.o.Credential, wire.Envelope{
		Kind: kind, To: site, Subject: subject, Serial: serial, Challenge: challenge,
		ValidSeconds: int64(valid / time.Second), Body: s.RawBody(body),
	})
	if err != nil {
		return err
	}
	if err := wire.Call(ctx, s, http.MethodPost, wire.PathFedDocument, e, answer); err != nil {
		return fmt.Errorf("give %s to %s: %w", kind, site, err)
	}
	return nil
}

func (f *Federation) nextSerial(ctx context.Context, site, kind, subject string) (serial uint64, err error) {
	key := keySent + site + "/" + kind + "/" + subject
	_, err = f.o.Store.Update(ctx, func(tx store.Tx) error {
		serial = 0
		kv, err := tx.Get(key)
		if err == nil {
			err = json.Unmarshal(kv.Value, &serial)
		} else if errors.Is(err, store.ErrNotFound) {
			err = nil
		}
		if err != nil {
			return err
		}
		serial++
		value, err := json.Marshal(serial)
		if err != nil {
			return err
		}
		return tx.Put(key, value)
	})
	if err != nil {
		return 0, fmt.Errorf("keep the serial of %s for %s: %w", kind, site, err)
	}
	return serial, nil
}

// OnDocument has take called for each verified document of a kind.
func (f *Federation) OnDocument(kind string, take Take) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.takes[kind] = take
}

// Handle puts the paths of documents and challenges into a mux that serves sessions.
func (f *Federation) Handle(mux *http.ServeMux) {
	wire.Handle(mux, wire.PathFedChallenge, func(_ context.Context, from wire.Identity, _ wire.Empty) (wire.Challenge, error) {
		if from.Role != wire.RoleController {
			return "", api.Errorf(api.CodeForbidden, "%s is not a controller", from)
		}
		return f.challenges.New(from.Site), nil
	})
	wire.Handle(mux, wire.PathFedDocument, f.Take)
}

// Take verifies a document that came by a session and has it take effect. A document that was taken before takes effect
// again: its first effect may have been lost with a crash, and every effect is idempotent.
func (f *Federation) Take(ctx context.Context, from wire.Identity, e wire.Envelope) (answer any, err error) {
	if from.Role != wire.RoleController || from.Site != e.From {
		return nil, &api.Error{Code: api.CodeForbidden, Field: "from", Message: fmt.Sprintf("document of %q comes from %s", e.From, from)}
	}
	f.mu.Lock()
	take := f.takes[e.Kind]
	f.mu.Unlock()
	if take == nil {
		return nil, api.Invalidf("kind", "no document is called %q", e.Kind)
	}
	d, err := f.verifier.Check(e)
	if err != nil {
		return nil, err
	}
	d.Newer = wire.SessionOf(ctx).Newer()
	if answer, err = take(ctx, d); err != nil {
		return nil, err
	}
	if answer == nil {
		answer = wire.Empty{}
	}
	return answer, nil
}

// seen is the newest document that was taken of a peer, kind and subject.
type seen struct {
	Serial uint64            `json:"serial"`
	Digest [sha256.Size]byte `json:"digest"`
}

// maxSubjects bounds what is kept of one peer's documents.
const maxSubjects = 1000

// Advance takes a document's serial in the transaction of its effect: an error of either leaves nothing. The same document
// again is no error, since its answer may have been lost; every effect is idempotent.
func (f *Federation) Advance(tx store.Tx, d wire.Verified) error {
	at := keySeen + d.From + "/" + d.Kind + "/" + d.Subject
	var have seen
	kv, err := tx.Get(at)
	switch {
	case err == nil:
		err = json.Unmarshal(kv.Value, &have)
	case errors.Is(err, store.ErrNotFound):
		err = f.roomFor(tx, d.From)
	}
	if err != nil {
		return err
	}
	fresh, err := wire.NextSerial(have.Serial, have.Digest, d.Serial, d.Digest)
	if err != nil || !fresh {
		return err
	}
	value, err := json.Marshal(seen{d.Serial, d.Digest})
	if err != nil {
		return err
	}
	return tx.Put(at, value)
}

// roomFor keeps a peer from filling our store with documents of ever new subjects.
func (f *Federation) roomFor(tx store.Tx, site string) error {
	kvs, err := tx.List(keySeen + site + "/")
	if err == nil && len(kvs) >= maxSubjects {
		err = &api.Error{Code: api.CodeRefused, Field: "subject", Message: fmt.Sprintf("documents of %d subjects are kept of %s already: end what is no longer used", len(kvs), site)}
	}
	return err
}

// ForgetSubject removes what is kept of documents about a subject, to a peer and from it: there will be no more of them.
func (f *Federation) ForgetSubject(tx store.Tx, site, subject string, kinds ...string) error {
	for _, prefix := range []string{keySent, keySeen} {
		for _, kind := range kinds {
			if err := tx.Delete(prefix + site + "/" + kind + "/" + subject); err != nil && !errors.Is(err, store.ErrNotFound) {
				return err
			}
		}
	}
	return nil
}

// Forget removes what is kept of a peer's documents. Serials that were sent stay: the peer may remember them.
func (f *Federation) Forget(tx store.Tx, site string) error {
	kvs, err := tx.List(keySeen + site + "/")
	for _, kv := range kvs {
		if err := tx.Delete(kv.Key); err != nil {
			return err
		}
	}
	return err
}
