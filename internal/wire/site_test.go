package wire_test

import (
	"context"
	"net/http"
	"testing"

	"go.uber.org/goleak"

	"widecloud/internal/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// site is a site's controller for tests.
type site struct {
	ca    *wire.Authority
	cred  *wire.Credential
	trust *wire.Trust
	mux   *http.ServeMux
}

func newSite(t testing.TB, name string) *site {
	t.Helper()
	ca, err := wire.NewAuthority(wire.AuthorityOptions{Site: name})
	if err != nil {
		t.Fatal(err)
	}
	cred, err := ca.Controller()
	if err != nil {
		t.Fatal(err)
	}
	trust, err := wire.NewTrust(wire.TrustOptions{CA: ca.Certificate()})
	if err != nil {
		t.Fatal(err)
	}
	return &site{ca: ca, cred: cred, trust: trust, mux: http.NewServeMux()}
}

func befriend(t testing.TB, a, b *site) {
	t.Helper()
	if err := a.trust.AddPeer(b.ca.Certificate()); err != nil {
		t.Fatal(err)
	}
	if err := b.trust.AddPeer(a.ca.Certificate()); err != nil {
		t.Fatal(err)
	}
}

func (s *site) options(n wire.Network) wire.Options {
	return wire.Options{Credential: s.cred, Trust: s.trust, Network: n, Handler: s.mux}
}

// agent is an agent of the site, with a credential that it got by a join token.
func (s *site) agent(t testing.TB, host string) *site {
	t.Helper()
	m := wire.NewMemory()
	token, err := wire.NewToken(wire.TokenJoin, s.ca.Certificate())
	if err != nil {
		t.Fatal(err)
	}
	o := s.options(m.Node("controller"))
	o.Join = func(_ context.Context, r wire.JoinRequest) (wire.JoinReply, error) {
		cert, err := s.ca.SignAgent(r.Host, r.CSR)
		return wire.JoinReply{Certificate: cert}, err
	}
	server, err := wire.Listen(t.Context(), "controller:1", o)
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	cred, _, err := wire.Join(t.Context(), m.Node(host), "controller:1", token, host, nil)
	if err != nil {
		t.Fatal(err)
	}
	trust, err := wire.NewTrust(wire.TrustOptions{CA: cred.CA})
	if err != nil {
		t.Fatal(err)
	}
	return &site{cred: cred, trust: trust, mux: http.NewServeMux()}
}

// pair is two sites' controllers and a session between them on a memory network, osaka's the listener.
type pair struct {
	net          *wire.Memory
	tokyo, osaka *site
	nagoya       *site // another peer of osaka
	server       *wire.Server
	s            *wire.Session // tokyo's end
	peer         *wire.Session // osaka's end
}

func newPair(t testing.TB, purpose wire.Purpose, change func(*wire.Options)) *pair {
	t.Helper()
	p := &pair{net: wire.NewMemory(), tokyo: newSite(t, "tokyo"), osaka: newSite(t, "osaka"), nagoya: newSite(t, "nagoya")}
	befriend(t, p.tokyo, p.osaka)
	befriend(t, p.nagoya, p.osaka)
	got := make(chan *wire.Session, 1)
	o := p.osaka.options(p.net.Node("osaka"))
	o.OnSession = func(s *wire.Session) {
		select {
		case got <- s:
		default: // only the first is wanted
		}
	}
	if change != nil {
		change(&o)
	}
	var err error
	if p.server, err = wire.Listen(context.Background(), "osaka:7646", o); err != nil {
		t.Fatal(err)
	}
	o = p.tokyo.options(p.net.Node("tokyo"))
	if change != nil {
		change(&o)
	}
	if p.s, err = wire.Dial(t.Context(), "osaka:7646", wire.Controller("osaka"), purpose, o); err != nil {
		t.Fatal(err)
	}
	p.peer = <-got
	return p
}

func (p *pair) close() {
	p.s.Close()
	p.server.Close()
}
