package wire

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"widecloud/api"
)

// TokenKind says what a token admits to.
type TokenKind string

// The kinds of tokens; they are the tokens' prefixes too.
const (
	TokenJoin TokenKind = "wcjoin" // one agent joins a site
	TokenPeer TokenKind = "wcpeer" // one site peers with another
)

const secretLen = 16

// Token is a one-time invitation. It says by which authority's fingerprint to know the inviter, so that the secret is
// told to nobody else.
type Token struct {
	Kind        TokenKind
	Fingerprint [sha256.Size]byte // of the inviter's authority
	Secret      [secretLen]byte
}

// NewToken makes a token with a new secret for the site of an authority.
func NewToken(kind TokenKind, ca *x509.Certificate) (Token, error) {
	t := Token{Kind: kind, Fingerprint: sha256.Sum256(ca.Raw)}
	if _, err := rand.Read(t.Secret[:]); err != nil {
		return Token{}, fmt.Errorf("make token: %w", err)
	}
	return t, nil
}

// String is the token as a person copies it.
func (t Token) String() string {
	return string(t.Kind) + "." + base64.RawURLEncoding.EncodeToString(append(t.Fingerprint[:], t.Secret[:]...))
}

// ParseToken reads what String gives. Its errors do not repeat the text, which is secret.
func ParseToken(text string) (Token, error) {
	kind, rest, ok := strings.Cut(strings.TrimSpace(text), ".")
	t := Token{Kind: TokenKind(kind)}
	if !ok || t.Kind != TokenJoin && t.Kind != TokenPeer {
		return Token{}, api.Invalidf("token", "does not begin with %s. or %s.", TokenJoin, TokenPeer)
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(rest)
	if err != nil || len(b) != sha256.Size+secretLen {
		return Token{}, api.Invalidf("token", "is not complete or has a wrong character")
	}
	copy(t.Fingerprint[:], b)
	copy(t.Secret[:], b[sha256.Size:])
	return t, nil
}

// ID names the token without giving it away: the SHA-256 of its secret, in hex. It is what the inviter keeps, and
// what the requests carry in the callbacks.
func (t Token) ID() string {
	sum := sha256.Sum256(t.Secret[:])
	return hex.EncodeToString(sum[:])
}

// JoinRequest is an agent's request to be a member of the site.
type JoinRequest struct {
	Token string          // Token.ID; the callback finds out whether it is good, and uses it up
	Host  string          // the name that the host asks for
	CSR   []byte          // PEM; Authority.SignAgent signs it
	Key   string          // SHA-256 of the request's public key, hex: the same token with the same key is the same agent asking again
	Info  json.RawMessage // what the callers on both sides have to tell each other
}

// JoinReply is the answer to a JoinRequest.
type JoinReply struct {
	Certificate *x509.Certificate // by Authority.SignAgent
	Info        json.RawMessage
}

// PeerRequest is another site's request to peer.
type PeerRequest struct {
	Token string            // Token.ID; the callback finds out whether it is good, and uses it up
	Site  string            // by its certificate
	CA    *x509.Certificate // to be pinned, by Trust.AddPeer
	Info  json.RawMessage   // endpoints, and what else the callers have to tell each other
}

// PeerReply is the answer to a PeerRequest. The inviter's certificate is proved by the handshake.
type PeerReply struct {
	Info json.RawMessage
}

// The forms of the requests inside TLS.
type joinMessage struct {
	Secret []byte          `json:"secret"`
	Host   string          `json:"host,omitempty"`
	CSR    string          `json:"csr,omitempty"`
	CA     string          `json:"ca,omitempty"`
	Info   json.RawMessage `json:"info,omitempty"`
}

type joinAnswer struct {
	Certificate string          `json:"certificate,omitempty"`
	Info        json.RawMessage `json:"info,omitempty"`
}

const (
	pathJoin = "/v1/join"
	pathPeer = "/v1/peer"
	maxJoin  = 64 << 10
)

// Join makes a key, has the site's controller at addr sign it against a join token, and gives the agent's credential.
// A controller that does not have the authority that the token names gets to see neither the secret nor the request.
func Join(ctx context.Context, network Network, addr string, token Token, host string, info any) (*Credential, json.RawMessage, error) {
	if token.Kind != TokenJoin {
		return nil, nil, api.Invalidf("token", "is for %s, want one for %s", token.Kind, TokenJoin)
	}
	if !isLabel(host) {
		return nil, nil, api.Invalidf("host", "%q is not a DNS label", host)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("make agent's key: %w", err)
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: host}}, key)
	if err != nil {
		return nil, nil, fmt.Errorf("make signing request: %w", err)
	}
	m := joinMessage{
		Secret: token.Secret[:], Host: host,
		CSR: string(pem.EncodeToMemory(&pem.Block{Type: pemRequest, Bytes: csr})),
	}
	answer, ca, err := askToJoin(ctx, network, addr, token, pathJoin, m, info)
	if err != nil {
		return nil, nil, err
	}
	leaf, err := DecodeCertificate([]byte(answer.Certificate))
	if err != nil {
		return nil, nil, fmt.Errorf("join at %s: %w", addr, err)
	}
	cred, err := newCredential(leaf, ca, key)
	if err != nil {
		return nil, nil, fmt.Errorf("join at %s: %w", addr, err)
	}
	if cred.Identity.Role != RoleAgent || cred.Identity.Host != host {
		return nil, nil, fmt.Errorf("join at %s: got a certificate of %s, asked for host %q", addr, cred.Identity, host)
	}
	return cred, answer.Info, nil
}

// JoinPeer shows our authority's certificate to the site that gave a peer token, and gives back that site's, to be
// pinned with Trust.AddPeer.
func JoinPeer(ctx context.Context, network Network, addr string, token Token, ca *x509.Certificate, info any) (*x509.Certificate, json.RawMessage, error) {
	if token.Kind != TokenPeer {
		return nil, nil, api.Invalidf("token", "is for %s, want one for %s", token.Kind, TokenPeer)
	}
	m := joinMessage{Secret: token.Secret[:], CA: string(EncodeCertificate(ca))}
	answer, theirs, err := askToJoin(ctx, network, addr, token, pathPeer, m, info)
	if err != nil {
		return nil, nil, err
	}
	return theirs, answer.Info, nil
}

// askToJoin makes one request over one connection whose other end has proved to be the controller of the token's site.
func askToJoin(ctx context.Context, network Network, addr string, token Token, path string, m joinMessage, info any) (answer joinAnswer, ca *x509.Certificate, err error) {
	fail := func(err error) (joinAnswer, *x509.Certificate, error) {
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		return joinAnswer{}, nil, fmt.Errorf("join at %s: %w", addr, err)
	}
	if network == nil {
		network = TCP{}
	}
	if info != nil {
		if m.Info, err = json.Marshal(info); err != nil {
			return fail(err)
		}
	}
	text, err := json.Marshal(m)
	if err != nil {
		return fail(err)
	}
	ctx, cancel := context.WithTimeout(ctx, 3*handshakeTime)
	defer cancel()
	raw, err := network.Dial(ctx, addr)
	if err != nil {
		return fail(err)
	}
	defer raw.Close()
	stop := context.AfterFunc(ctx, func() { raw.Close() })
	defer stop()
	conn := tls.Client(raw, &tls.Config{
		MinVersion:         tls.VersionTLS13,
		NextProtos:         []string{protoJoin},
		InsecureSkipVerify: true, // the token's fingerprint is all that is known; VerifyConnection holds to it
		VerifyConnection: func(cs tls.ConnectionState) error {
			ca, err = verifyInviter(cs, token.Fingerprint)
			return err
		},
	})
	if err := conn.HandshakeContext(ctx); err != nil {
		return fail(err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://widecloud"+path, bytes.NewReader(text))
	if err != nil {
		return fail(err)
	}
	if err := req.Write(conn); err != nil {
		return fail(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(io.LimitReader(conn, 2*maxJoin)), req)
	if err != nil {
		return fail(fmt.Errorf("%w: %w", ErrNoAnswer, err))
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return fail(fmt.Errorf("%w: %w", ErrNoAnswer, err))
	}
	if resp.StatusCode != http.StatusOK {
		return fail(decodeError(resp.StatusCode, body))
	}
	if err := json.Unmarshal(body, &answer); err != nil {
		return fail(fmt.Errorf("read answer: %w", err))
	}
	return answer, ca, nil
}

// verifyInviter finds the token's authority in the chain and holds the leaf against it. Time is not checked: a machine
// that joins may not have set its clock yet, and the fingerprint is the proof.
func verifyInviter(cs tls.ConnectionState, fingerprint [sha256.Size]byte) (*x509.Certificate, error) {
	if cs.NegotiatedProtocol != protoJoin {
		return nil, errors.New("no widecloud controller answers there")
	}
	if len(cs.PeerCertificates) < 2 {
		return nil, errors.New("the controller shows no authority")
	}
	leaf := cs.PeerCertificates[0]
	for _, ca := range cs.PeerCertificates[1:] {
		if sha256.Sum256(ca.Raw) != fingerprint {
			continue
		}
		site, err := SiteOf(ca)
		if err != nil {
			return nil, err
		}
		if err := leaf.CheckSignatureFrom(ca); err != nil {
			return nil, fmt.Errorf("the controller's certificate: %w", err)
		}
		if id, err := identityOf(leaf); err != nil || id != Controller(site) {
			return nil, fmt.Errorf("not the controller of site %q answers there (%v)", site, id)
		}
		return ca, nil
	}
	return nil, fmt.Errorf("the controller's authority has SHA-256 %s, the token is of another", Fingerprint(cs.PeerCertificates[len(cs.PeerCertificates)-1]))
}

// serveJoin answers a stranger's one request.
func (s *Server) serveJoin(ctx context.Context, conn *tls.Conn) error {
	defer conn.Close()
	req, err := http.ReadRequest(bufio.NewReader(io.LimitReader(conn, 2*maxJoin)))
	if err != nil {
		return fmt.Errorf("read join request: %w", err)
	}
	defer req.Body.Close()
	out := s.outwardTo(conn.RemoteAddr())
	answer, err := func() (answer joinAnswer, err error) {
		defer out.guard(req.URL.Path, &err)
		return s.answerJoin(ctx, req)
	}()
	status, body := http.StatusOK, []byte(nil)
	if err != nil {
		e := out.tell(err)
		status = e.HTTPStatus()
		body, _ = json.Marshal(e)
	} else if body, err = json.Marshal(answer); err != nil {
		return fmt.Errorf("answer join request: %w", err)
	}
	resp := http.Response{
		StatusCode: status, ProtoMajor: 1, ProtoMinor: 1, Request: req, Close: true,
		Header:        http.Header{"Content-Type": {"application/json"}},
		Body:          io.NopCloser(bytes.NewReader(body)),
		ContentLength: int64(len(body)),
	}
	return errors.Join(err, resp.Write(conn))
}

func (s *Server) answerJoin(ctx context.Context, req *http.Request) (joinAnswer, error) {
	if req.Method != http.MethodPost || req.URL.Path != pathJoin && req.URL.Path != pathPeer {
		return joinAnswer{}, api.Errorf(api.CodeUnauthenticated, "%s %s needs a certificate", req.Method, req.URL.Path)
	}
	body, err := io.ReadAll(io.LimitReader(req.Body, maxJoin+1))
	if err != nil || len(body) > maxJoin {
		return joinAnswer{}, api.Errorf(api.CodeInvalid, "request is not complete or longer than %d octets", maxJoin)
	}
	var m joinMessage
	if err := decodeStrict(body, &m); err != nil {
		return joinAnswer{}, err
	}
	if len(m.Secret) != secretLen {
		return joinAnswer{}, api.Invalidf("secret", "has %d octets, want %d", len(m.Secret), secretLen)
	}
	id := Token{Secret: [secretLen]byte(m.Secret)}.ID()

	if req.URL.Path == pathPeer {
		if s.o.Peer == nil {
			return joinAnswer{}, api.Errorf(api.CodeForbidden, "this end takes no peers")
		}
		ca, err := DecodeCertificate([]byte(m.CA))
		if err != nil {
			return joinAnswer{}, api.Invalidf("ca", "%v", err)
		}
		site, err := SiteOf(ca)
		if err != nil {
			return joinAnswer{}, api.Invalidf("ca", "%v", err)
		}
		if site == s.o.Trust.Site() {
			return joinAnswer{}, api.Invalidf("ca", "is for the name of this very site, %q", site)
		}
		reply, err := s.o.Peer(ctx, PeerRequest{Token: id, Site: site, CA: ca, Info: m.Info})
		return joinAnswer{Info: reply.Info}, err
	}

	if s.o.Join == nil {
		return joinAnswer{}, api.Errorf(api.CodeForbidden, "this end takes no agents")
	}
	if !isLabel(m.Host) {
		return joinAnswer{}, api.Invalidf("host", "%q is not a DNS label", m.Host)
	}
	block, _ := pem.Decode([]byte(m.CSR))
	if block == nil {
		return joinAnswer{}, api.Invalidf("csr", "is not PEM")
	}
	csr, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return joinAnswer{}, api.Invalidf("csr", "%v", err)
	}
	reply, err := s.o.Join(ctx, JoinRequest{Token: id, Host: m.Host, CSR: []byte(m.CSR), Key: keyOf(csr.RawSubjectPublicKeyInfo), Info: m.Info})
	if err != nil {
		return joinAnswer{}, err
	}
	if reply.Certificate == nil {
		return joinAnswer{}, errors.New("join: no certificate was made")
	}
	return joinAnswer{Certificate: string(EncodeCertificate(reply.Certificate)), Info: reply.Info}, nil
}
