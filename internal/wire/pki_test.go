package wire_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io/fs"
	"math/big"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"widecloud/api"
	"widecloud/internal/wire"
)

func TestParseIdentity(t *testing.T) {
	for uri, want := range map[string]wire.Identity{
		"widecloud://tokyo/controller": wire.Controller("tokyo"),
		"widecloud://tokyo/agent/h-1":  wire.Agent("tokyo", "h-1"),
	} {
		got, err := wire.ParseIdentity(uri)
		if err != nil || got != want || got.URI().String() != uri {
			t.Errorf("%s: %v, %v, back %s", uri, got, err, got.URI())
		}
	}
	for _, uri := range []string{
		"", "tokyo/controller", "https://tokyo/controller", "widecloud://tokyo", "widecloud://tokyo/", "widecloud:///controller",
		"widecloud://tokyo/king", "widecloud://tokyo/controller/h1", "widecloud://tokyo/agent", "widecloud://tokyo/agent/",
		"widecloud://tokyo/agent/h1/x", "widecloud://Tokyo/controller", "widecloud://tokyo/controller?x", "widecloud://tokyo/controller#x",
		"widecloud://u@tokyo/controller", "widecloud://tokyo:1/controller", "widecloud://-tokyo/controller", "widecloud://to.kyo/controller",
		"widecloud://tokyo/agent/%68", "widecloud://tokyo/agent/" + strings.Repeat("h", 64),
	} {
		if id, err := wire.ParseIdentity(uri); err == nil {
			t.Errorf("%q passes for %v", uri, id)
		}
	}
}

func TestAuthorityFiles(t *testing.T) {
	dir := t.TempDir()
	s := newSite(t, "tokyo")
	caPath, credPath := filepath.Join(dir, "ca.pem"), filepath.Join(dir, "controller.pem")
	if err := s.ca.Save(caPath); err != nil {
		t.Fatal(err)
	}
	if err := s.ca.Save(caPath); err != nil { // again: replaced
		t.Fatal(err)
	}
	if err := s.cred.Save(credPath); err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{caPath, credPath} {
		if st, err := os.Stat(p); err != nil || st.Mode().Perm() != 0o600 {
			t.Errorf("%s: mode %v, %v", p, st.Mode(), err)
		}
	}
	if files, _ := os.ReadDir(dir); len(files) != 2 {
		t.Errorf("files left over: %v", files)
	}
	ca, err := wire.LoadAuthority(caPath, wire.AuthorityOptions{Site: "tokyo"})
	if err != nil || !ca.Certificate().Equal(s.ca.Certificate()) {
		t.Errorf("load authority: %v", err)
	}
	cred, err := wire.LoadCredential(credPath)
	if err != nil || cred.Identity != wire.Controller("tokyo") || !cred.CA.Equal(ca.Certificate()) {
		t.Errorf("load credential: %v", err)
	}
	if fp := wire.Fingerprint(ca.Certificate()); len(fp) != 64 {
		t.Errorf("fingerprint %q", fp)
	}

	if _, err := wire.LoadAuthority(filepath.Join(dir, "none"), wire.AuthorityOptions{Site: "tokyo"}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing file: %v", err)
	}
	if _, err := wire.LoadAuthority(caPath, wire.AuthorityOptions{Site: "osaka"}); err == nil {
		t.Error("another site's authority is taken")
	}
	if _, err := wire.LoadAuthority(credPath, wire.AuthorityOptions{Site: "tokyo"}); err == nil {
		t.Error("a credential passes for an authority")
	}
	if _, err := wire.LoadCredential(caPath); err == nil {
		t.Error("an authority passes for a credential")
	}
	other := newSite(t, "tokyo")
	other.ca.Save(filepath.Join(dir, "other.pem"))
	a, _ := os.ReadFile(caPath)
	b, _ := os.ReadFile(filepath.Join(dir, "other.pem"))
	cert, _, _ := strings.Cut(string(a), "-----BEGIN PRIVATE")
	_, key, _ := strings.Cut(string(b), "-----BEGIN PRIVATE")
	mixed := filepath.Join(dir, "mixed.pem")
	os.WriteFile(mixed, []byte(cert+"-----BEGIN PRIVATE"+key), 0o600)
	if _, err := wire.LoadAuthority(mixed, wire.AuthorityOptions{Site: "tokyo"}); err == nil || !strings.Contains(err.Error(), "belong together") {
		t.Errorf("key and certificate of two authorities: %v", err)
	}
	if _, err := wire.NewAuthority(wire.AuthorityOptions{Site: "To kyo"}); err == nil {
		t.Error("a site's name with a space is taken")
	}
}

// forge makes a leaf as an authority of any name would that does not keep to the rules.
func forge(t *testing.T, caSite string, uris ...string) (ca, leaf *x509.Certificate) {
	t.Helper()
	key, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		URIs: []*url.URL{{Scheme: "widecloud", Host: caSite}},
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	ca, _ = x509.ParseCertificate(der)
	leafTmpl := &x509.Certificate{
		SerialNumber: big.NewInt(2), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}
	for _, u := range uris {
		parsed, err := url.Parse(u)
		if err != nil {
			t.Fatal(err)
		}
		leafTmpl.URIs = append(leafTmpl.URIs, parsed)
	}
	if der, err = x509.CreateCertificate(rand.Reader, leafTmpl, ca, key.Public(), key); err != nil {
		t.Fatal(err)
	}
	leaf, _ = x509.ParseCertificate(der)
	return ca, leaf
}

func TestTrustRefusals(t *testing.T) {
	tokyo := newSite(t, "tokyo")
	for name, c := range map[string]struct {
		pin  bool
		ca   string
		uris []string
		want string // "" is good
	}{
		"peer's controller":           {true, "osaka", []string{"widecloud://osaka/controller"}, ""},
		"no peer":                     {false, "osaka", []string{"widecloud://osaka/controller"}, "no peer"},
		"peer's agent":                {true, "osaka", []string{"widecloud://osaka/agent/h1"}, "controller only"},
		"peer vouches for us":         {true, "osaka", []string{"widecloud://tokyo/controller"}, "unknown authority"},
		"peer vouches for our agent":  {true, "osaka", []string{"widecloud://tokyo/agent/h1"}, "unknown authority"},
		"peer vouches for a third":    {true, "osaka", []string{"widecloud://nagoya/controller"}, "no peer"},
		"two names":                   {true, "osaka", []string{"widecloud://osaka/controller", "widecloud://tokyo/controller"}, "2 URI names"},
		"no name":                     {true, "osaka", nil, "0 URI names"},
		"other scheme":                {true, "osaka", []string{"https://osaka/controller"}, "not a widecloud"},
		"authority named as we are":   {false, "tokyo", []string{"widecloud://tokyo/controller"}, "unknown authority"},
		"its own certificate as leaf": {true, "osaka", []string{"widecloud://osaka"}, "want SITE/controller"},
	} {
		trust, err := wire.NewTrust(wire.TrustOptions{CA: tokyo.ca.Certificate()})
		if err != nil {
			t.Fatal(err)
		}
		ca, leaf := forge(t, c.ca, c.uris...)
		if c.pin {
			if err := trust.AddPeer(ca); err != nil {
				t.Fatal(err)
			}
		}
		_, err = trust.Verify(leaf)
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: got %v, want %q", name, err, c.want)
		}
	}

	// By our own clock only.
	ca, leaf := forge(t, "osaka", "widecloud://osaka/controller")
	for _, shift := range []time.Duration{-2 * time.Hour, 2 * time.Hour} {
		trust, _ := wire.NewTrust(wire.TrustOptions{CA: tokyo.ca.Certificate(), Now: func() time.Time { return time.Now().Add(shift) }})
		trust.AddPeer(ca)
		if _, err := trust.Verify(leaf); err == nil || !strings.Contains(err.Error(), "expired or is not yet valid") {
			t.Errorf("clock off by %v: %v", shift, err)
		}
	}

	invalid := &api.Error{Code: api.CodeInvalid, Field: "ca"}
	if err := tokyo.trust.AddPeer(leaf); !errors.Is(err, invalid) {
		t.Errorf("pin a leaf: %v", err)
	}
	impostor := newSite(t, "tokyo")
	if err := tokyo.trust.AddPeer(impostor.ca.Certificate()); !errors.Is(err, invalid) {
		t.Errorf("pin an authority of our own name: %v", err)
	}
	a, b := newSite(t, "osaka"), newSite(t, "osaka")
	if err := tokyo.trust.AddPeer(a.ca.Certificate()); err != nil {
		t.Error(err)
	}
	if err := tokyo.trust.AddPeer(a.ca.Certificate()); err != nil {
		t.Errorf("pin the same again: %v", err)
	}
	if err := tokyo.trust.AddPeer(b.ca.Certificate()); !errors.Is(err, &api.Error{Code: api.CodeExists, Field: "ca"}) {
		t.Errorf("pin another for the same name: %v", err)
	}
}

// The refusals at the door: who is not known gets no session, whatever it says, and is told so.
func TestDialRefusals(t *testing.T) {
	net := wire.NewMemory()
	tokyo, osaka, nagoya := newSite(t, "tokyo"), newSite(t, "osaka"), newSite(t, "nagoya")
	befriend(t, tokyo, osaka)
	server, err := wire.Listen(t.Context(), "osaka:1", osaka.options(net.Node("osaka")))
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	dial := func(s *site, peer wire.Identity, o wire.Options) error {
		sess, err := wire.Dial(t.Context(), "osaka:1", peer, wire.Control, o)
		if err == nil {
			sess.Close()
		}
		return err
	}
	if err := dial(tokyo, wire.Controller("osaka"), tokyo.options(net.Node("tokyo"))); err != nil {
		t.Errorf("a peer is refused: %v", err)
	}
	if err := nagoya.trust.AddPeer(osaka.ca.Certificate()); err != nil {
		t.Fatal(err)
	}
	if err := dial(nagoya, wire.Controller("osaka"), nagoya.options(net.Node("nagoya"))); err == nil {
		t.Error("a stranger gets in")
	}
	if err := dial(tokyo, wire.Controller("tokyo"), tokyo.options(net.Node("tokyo"))); err == nil || !strings.Contains(err.Error(), "osaka/controller answers there") {
		t.Errorf("another answers than was dialled: %v", err)
	}
	impostor := newSite(t, "tokyo")
	impostor.trust.AddPeer(osaka.ca.Certificate())
	if err := dial(impostor, wire.Controller("osaka"), impostor.options(net.Node("x"))); err == nil {
		t.Error("an impostor of a peer's name gets in")
	}
	// Without a certificate, and with other protocols.
	for _, proto := range []string{"widecloud/1", "h2", ""} {
		raw, err := net.Node("x").Dial(t.Context(), "osaka:1")
		if err != nil {
			t.Fatal(err)
		}
		cfg := &tls.Config{InsecureSkipVerify: true}
		if proto != "" {
			cfg.NextProtos = []string{proto}
		}
		conn := tls.Client(raw, cfg)
		err = conn.Handshake()
		if err == nil {
			_, err = conn.Read(make([]byte, 1)) // TLS 1.3 tells a client of its refusal with the first read
		}
		if err == nil {
			t.Errorf("protocol %q without a certificate gets an answer", proto)
		}
		raw.Close()
	}
}

// A session ends with the peering, at both ends, and with the reason.
func TestRemovePeer(t *testing.T) {
	p := newPair(t, wire.Control, nil)
	defer p.close()
	p.osaka.trust.RemovePeer("nagoya") // unknown: nothing
	select {
	case <-p.peer.Done():
		t.Fatal("closed by the removal of another")
	default:
	}
	p.osaka.trust.RemovePeer("tokyo")
	<-p.peer.Done()
	<-p.s.Done()
	if err := p.s.Err(); !errors.Is(err, &api.Error{Code: api.CodeForbidden}) || !strings.Contains(err.Error(), "peering") {
		t.Errorf("reason: %v", err)
	}
	_, err := wire.Dial(t.Context(), "osaka:7646", wire.Controller("osaka"), wire.Control, p.tokyo.options(p.net.Node("tokyo")))
	if err == nil {
		t.Error("a removed peer gets in again")
	}
}

func TestToken(t *testing.T) {
	ca := newSite(t, "tokyo").ca.Certificate()
	tok, err := wire.NewToken(wire.TokenJoin, ca)
	if err != nil {
		t.Fatal(err)
	}
	got, err := wire.ParseToken(" " + tok.String() + "\n")
	if err != nil || got != tok || got.ID() != tok.ID() || strings.Contains(tok.String(), tok.ID()) {
		t.Errorf("%v, %v", got, err)
	}
	for _, text := range []string{"", "x", "wcjoin", "wcjoin.", "wcking." + tok.String()[7:], tok.String()[:40], tok.String() + "A", tok.String() + "!", strings.Replace(tok.String(), ".", "..", 1)} {
		if _, err := wire.ParseToken(text); !errors.Is(err, &api.Error{Code: api.CodeInvalid, Field: "token"}) || len(text) > 10 && strings.Contains(err.Error(), text[7:]) {
			t.Errorf("%q: %v", text, err)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		if tok, err := wire.ParseToken(rapid.String().Draw(t, "text")); err == nil {
			if again, err := wire.ParseToken(tok.String()); err != nil || again != tok {
				t.Errorf("%v, %v", again, err)
			}
		}
	})
}

// door is a site that takes joiners with one token of each kind.
func door(t *testing.T, s *site, n wire.Network, change ...func(*wire.Options)) (server *wire.Server, join, peer wire.Token) {
	t.Helper()
	join, err := wire.NewToken(wire.TokenJoin, s.ca.Certificate())
	if err != nil {
		t.Fatal(err)
	}
	if peer, err = wire.NewToken(wire.TokenPeer, s.ca.Certificate()); err != nil {
		t.Fatal(err)
	}
	left := map[string]bool{join.ID(): true, peer.ID(): true}
	use := func(id string) error {
		if !left[id] {
			return &api.Error{Code: api.CodeUnauthenticated, Field: "token", Message: "is not known or was used"}
		}
		delete(left, id)
		return nil
	}
	o := s.options(n)
	o.Join = func(_ context.Context, r wire.JoinRequest) (wire.JoinReply, error) {
		if err := use(r.Token); err != nil {
			return wire.JoinReply{}, err
		}
		cert, err := s.ca.SignAgent(r.Host, r.CSR)
		return wire.JoinReply{Certificate: cert, Info: r.Info}, err
	}
	o.Peer = func(_ context.Context, r wire.PeerRequest) (wire.PeerReply, error) {
		if err := use(r.Token); err != nil {
			return wire.PeerReply{}, err
		}
		return wire.PeerReply{Info: r.Info}, s.trust.AddPeer(r.CA)
	}
	for _, f := range change {
		f(&o)
	}
	if server, err = wire.Listen(t.Context(), listenAt(n), o); err != nil {
		t.Fatal(err)
	}
	return server, join, peer
}

func listenAt(n wire.Network) string {
	if _, ok := n.(wire.TCP); ok {
		return "127.0.0.1:0"
	}
	return ""
}

func TestJoin(t *testing.T) {
	net := wire.NewMemory()
	tokyo := newSite(t, "tokyo")
	server, tok, peerTok := door(t, tokyo, net.Node("tokyo"))
	defer server.Close()
	addr, node := server.Addr().String(), net.Node("h1")

	// The refusals first: none of them may use the token up.
	field := func(f string) error { return &api.Error{Code: api.CodeInvalid, Field: f} }
	if _, _, err := wire.Join(t.Context(), node, addr, peerTok, "h1", nil); !errors.Is(err, field("token")) {
		t.Errorf("peer token: %v", err)
	}
	if _, _, err := wire.Join(t.Context(), node, addr, tok, "H 1", nil); !errors.Is(err, field("host")) {
		t.Errorf("bad host: %v", err)
	}
	wrong := tok
	wrong.Fingerprint[0] ^= 1
	if _, _, err := wire.Join(t.Context(), node, addr, wrong, "h1", nil); err == nil || !strings.Contains(err.Error(), "SHA-256") {
		t.Errorf("wrong authority: %v", err)
	}
	wrong = tok
	wrong.Secret[0] ^= 1
	if _, _, err := wire.Join(t.Context(), node, addr, wrong, "h1", nil); !errors.Is(err, &api.Error{Code: api.CodeUnauthenticated, Field: "token"}) {
		t.Errorf("wrong secret: %v", err)
	}

	cred, info, err := wire.Join(t.Context(), node, addr, tok, "h1", map[string]int{"cpus": 4})
	if err != nil {
		t.Fatal(err)
	}
	if cred.Identity != wire.Agent("tokyo", "h1") || string(info) != `{"cpus":4}` {
		t.Errorf("%v, %s", cred.Identity, info)
	}
	trust, err := wire.NewTrust(wire.TrustOptions{CA: cred.CA})
	if err != nil {
		t.Fatal(err)
	}
	s, err := wire.Dial(t.Context(), addr, wire.Controller("tokyo"), wire.Control, wire.Options{Credential: cred, Trust: trust, Network: node})
	if err != nil {
		t.Fatal(err)
	}
	s.Close()

	if _, _, err := wire.Join(t.Context(), node, addr, tok, "h2", nil); !errors.Is(err, &api.Error{Code: api.CodeUnauthenticated, Field: "token"}) {
		t.Errorf("second use: %v", err)
	}
}

// Somebody between the joiner and the controller gets nothing of the token.
func TestJoinImpostor(t *testing.T) {
	net := wire.NewMemory()
	real, fake := newSite(t, "tokyo"), newSite(t, "tokyo")
	asked := false
	o := fake.options(net.Node("tokyo"))
	o.Join = func(context.Context, wire.JoinRequest) (wire.JoinReply, error) {
		asked = true
		return wire.JoinReply{}, nil
	}
	server, err := wire.Listen(t.Context(), ":1", o)
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	tok, _ := wire.NewToken(wire.TokenJoin, real.ca.Certificate())
	if _, _, err := wire.Join(t.Context(), net.Node("h1"), "tokyo:1", tok, "h1", nil); err == nil || asked {
		t.Errorf("err %v, asked %t", err, asked)
	}
}

func TestJoinPeer(t *testing.T) {
	net := wire.NewMemory()
	tokyo, osaka := newSite(t, "tokyo"), newSite(t, "osaka")
	server, joinTok, tok := door(t, tokyo, net.Node("tokyo"))
	defer server.Close()
	addr := server.Addr().String()
	if _, _, err := wire.JoinPeer(t.Context(), net.Node("osaka"), addr, joinTok, osaka.ca.Certificate(), nil); !errors.Is(err, &api.Error{Code: api.CodeInvalid, Field: "token"}) {
		t.Errorf("join token: %v", err)
	}
	for name, cert := range map[string]*x509.Certificate{
		"a leaf":             leafOf(t),
		"tokyo's own name":   newSite(t, "tokyo").ca.Certificate(),
		"tokyo's very own":   tokyo.ca.Certificate(),
		"a name of no label": func() *x509.Certificate { ca, _ := forge(t, "o.saka"); return ca }(),
	} {
		if _, _, err := wire.JoinPeer(t.Context(), net.Node("osaka"), addr, tok, cert, nil); !errors.Is(err, &api.Error{Code: api.CodeInvalid, Field: "ca"}) {
			t.Errorf("%s: %v", name, err)
		}
	}
	theirs, info, err := wire.JoinPeer(t.Context(), net.Node("osaka"), addr, tok, osaka.ca.Certificate(), []string{"osaka:7646"})
	if err != nil || !theirs.Equal(tokyo.ca.Certificate()) {
		t.Fatal(err)
	}
	var endpoints []string
	if json.Unmarshal(info, &endpoints); len(endpoints) != 1 {
		t.Errorf("info %s", info)
	}
	if err := osaka.trust.AddPeer(theirs); err != nil {
		t.Fatal(err)
	}
	s, err := wire.Dial(t.Context(), addr, wire.Controller("tokyo"), wire.Bulk, osaka.options(net.Node("osaka")))
	if err != nil {
		t.Fatal(err)
	}
	s.Close()
	if _, _, err := wire.JoinPeer(t.Context(), net.Node("osaka"), addr, tok, osaka.ca.Certificate(), nil); !errors.Is(err, &api.Error{Code: api.CodeUnauthenticated}) {
		t.Errorf("second use: %v", err)
	}
}

func leafOf(t *testing.T) *x509.Certificate {
	_, leaf := forge(t, "osaka", "widecloud://osaka/controller")
	return leaf
}

func TestSignAgentRefusals(t *testing.T) {
	ca := newSite(t, "tokyo").ca
	key, _ := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	der, _ := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: "x"}}, key)
	other := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})
	key, _ = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	der, _ = x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: "x"}}, key)
	good := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})
	der = append([]byte{}, der...)
	der[len(der)-1] ^= 1
	forged := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})
	for name, c := range map[string]struct {
		host string
		csr  []byte
	}{
		"no PEM":          {"h1", []byte("x")},
		"another curve":   {"h1", other},
		"wrong signature": {"h1", forged},
		"bad host":        {"H1", good},
		"slash in host":   {"h1/../x", good},
	} {
		if _, err := ca.SignAgent(c.host, c.csr); err == nil {
			t.Errorf("%s: signed", name)
		}
	}
	if _, err := ca.SignAgent("h1", good); err != nil {
		t.Error(err)
	}
}
