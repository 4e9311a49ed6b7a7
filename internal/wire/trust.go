package wire

import (
	"crypto/x509"
	"fmt"
	"sync"
	"time"

	"widecloud/api"
)

// Trust is the set of authorities that a process believes: its own site's, and, pinned one by one, those of its peers.
// A peer's authority vouches for widecloud://PEER/controller and for nothing else.
type Trust struct {
	site string
	now  func() time.Time

	mu       sync.Mutex
	own      *x509.Certificate
	peers    map[string]*x509.Certificate
	arrivals map[*arrival]struct{}
	sessions map[*Session]struct{}
}

// arrival is a connection whose certificate is good and that is not a session yet. It is in the trust set so that a session
// that is unwanted by now does not slip in between.
type arrival struct {
	peer   Identity
	key    string
	ends   time.Time // of its certificate
	refuse error     // why no session may come of it any more
}

// TrustOptions says what a Trust starts with.
type TrustOptions struct {
	CA  *x509.Certificate // own site's authority
	Now func() time.Time  // nil: time.Now
}

// NewTrust makes a Trust that believes the own site's authority only.
func NewTrust(o TrustOptions) (*Trust, error) {
	site, err := SiteOf(o.CA)
	if err != nil {
		return nil, fmt.Errorf("make trust set: %w", err)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	return &Trust{
		site: site, own: o.CA, now: o.Now,
		peers: map[string]*x509.Certificate{}, arrivals: map[*arrival]struct{}{}, sessions: map[*Session]struct{}{},
	}, nil
}

// Site is the own site's name.
func (t *Trust) Site() string { return t.site }

// AddPeer pins a peer site's authority. Pinning the same certificate again changes nothing; another certificate for a
// pinned site is refused with CodeExists (remove the peer first).
func (t *Trust) AddPeer(ca *x509.Certificate) error {
	site, err := SiteOf(ca)
	if err != nil {
		return api.Invalidf("ca", "%v", err)
	}
	if site == t.site {
		return api.Invalidf("ca", "is for our own site's name, %q", site)
	}
	if err := ca.CheckSignatureFrom(ca); err != nil {
		return api.Invalidf("ca", "is not signed by itself: %v", err)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if have := t.peers[site]; have != nil && !have.Equal(ca) {
		return &api.Error{Code: api.CodeExists, Field: "ca", Message: fmt.Sprintf("site %q is pinned to another certificate (SHA-256 %s)", site, Fingerprint(have))}
	}
	t.peers[site] = ca
	return nil
}

// RemovePeer forgets a peer's authority and closes the peer's sessions. An unknown peer is no error.
func (t *Trust) RemovePeer(site string) {
	t.mu.Lock()
	delete(t.peers, site)
	t.mu.Unlock()
	t.end(func(id Identity) bool { return id.Site == site && site != t.site },
		api.Errorf(api.CodeForbidden, "peering with site %q is ended", site))
}

// Disconnect closes all sessions with an identity, whoever dialled, and tells the other end the reason (an api.Error if reason
// has one). A connection whose handshake is under way becomes no session either. It does not keep the identity from dialling
// again: Options.Admit does. Requests that are being handled have their context cancelled; they are not waited for.
func (t *Trust) Disconnect(id Identity, reason error) {
	t.end(func(other Identity) bool { return other == id }, reason)
}

func (t *Trust) end(match func(Identity) bool, reason error) {
	t.mu.Lock()
	for a := range t.arrivals {
		if match(a.peer) {
			a.refuse = reason
		}
	}
	var gone []*Session
	for s := range t.sessions {
		if match(s.peer) {
			gone = append(gone, s)
		}
	}
	t.mu.Unlock()
	for _, s := range gone {
		s.fail(reason)
	}
	for _, s := range gone {
		s.wg.Wait()
	}
}

// Peer gives a peer's pinned authority.
func (t *Trust) Peer(site string) (*x509.Certificate, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	ca, ok := t.peers[site]
	return ca, ok
}

// Verify says whose certificate it is, if it is one that we believe: in time by our own clock, signed by the authority
// of the very site that it names.
func (t *Trust) Verify(leaf *x509.Certificate) (Identity, error) {
	now := t.now()
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.verify(leaf, now)
}

// verify is Verify at a time. The lock is held.
func (t *Trust) verify(leaf *x509.Certificate, now time.Time) (Identity, error) {
	id, err := identityOf(leaf)
	if err != nil {
		return Identity{}, fmt.Errorf("verify certificate: %w", err)
	}
	ca := t.own
	if id.Site != t.site {
		if ca = t.peers[id.Site]; ca == nil {
			return Identity{}, fmt.Errorf("verify certificate: site %q is no peer of ours", id.Site)
		}
		if id.Role != RoleController {
			return Identity{}, fmt.Errorf("verify certificate: a peer's authority may vouch for its controller only, not for %s", id)
		}
	}
	return id, verifyBy(leaf, ca, now)
}

func verifyBy(leaf, ca *x509.Certificate, now time.Time) error {
	if leaf.IsCA {
		return fmt.Errorf("verify certificate: an authority's certificate is no identity")
	}
	roots := x509.NewCertPool()
	roots.AddCert(ca)
	_, err := leaf.Verify(x509.VerifyOptions{
		Roots: roots, CurrentTime: now,
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	if err != nil {
		return fmt.Errorf("verify certificate: %w", err)
	}
	return nil
}

// expect verifies a certificate and enters the connection that shows it, until forget.
func (t *Trust) expect(leaf *x509.Certificate) (*arrival, error) {
	now := t.now()
	t.mu.Lock()
	defer t.mu.Unlock()
	id, err := t.verify(leaf, now)
	if err != nil {
		return nil, err
	}
	a := &arrival{peer: id, key: keyOf(leaf.RawSubjectPublicKeyInfo), ends: leaf.NotAfter}
	t.arrivals[a] = struct{}{}
	return a, nil
}

func (t *Trust) forget(a *arrival) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.arrivals, a)
}

// register enters a session in the list that RemovePeer and Disconnect close, unless its end was asked for between the
// handshake and now.
func (t *Trust) register(s *Session, a *arrival) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if a.refuse != nil {
		return a.refuse
	}
	select {
	case <-s.m.done: // unregister may have been here before
		return s.Err()
	default:
	}
	t.sessions[s] = struct{}{}
	return nil
}

func (t *Trust) unregister(s *Session) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.sessions, s)
}
