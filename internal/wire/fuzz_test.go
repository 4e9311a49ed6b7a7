package wire_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"net/http"
	"testing"

	"widecloud/internal/wire"
)

// The other fuzz targets are FuzzFrames (breach_test.go), FuzzOpen for documents (document_test.go) and FuzzZstdRead
// (codec_test.go).

// FuzzHello says anything where a hello should be.
func FuzzHello(f *testing.F) {
	p := newPair(f, wire.Control, nil)
	f.Cleanup(p.close)
	handleEcho(p.osaka)
	f.Add(say(politeHello))
	f.Add(say(`{"version":1,"purpose":"control","window":262144,"refused":{"code":"x"}}`))
	f.Add(say(`{"version":1e400}`))
	f.Add(say(`{"version":1,"purpose":"bulk","window":262144,"level":9,"can":["state-parts",""]}`))
	f.Add([]byte{0xff, 0xff, '{'})
	f.Fuzz(func(t *testing.T, data []byte) {
		conn := hostile(t, p, data)
		conn.CloseWrite()
		io.Copy(io.Discard, conn)
		conn.Close()
		stillWell(t, p)
	})
}

// stillWell tells whether a decent peer has its session and calls.
func stillWell(t *testing.T, p *pair) {
	t.Helper()
	if err := wire.Call(t.Context(), p.s, "POST", "/echo", question{}, nil); err != nil {
		t.Errorf("the decent peer's session suffers: %v", err)
	}
}

// FuzzJoinRequest has a stranger say anything inside of TLS. No callback may see what is no token's ID.
func FuzzJoinRequest(f *testing.F) {
	see := func(id string) error {
		if len(id) != 64 {
			return fmt.Errorf("token ID %q", id)
		}
		return nil
	}
	var broken error
	p := newPair(f, wire.Control, func(o *wire.Options) {
		o.Join = func(_ context.Context, r wire.JoinRequest) (wire.JoinReply, error) {
			if broken = see(r.Token); broken == nil && (len(r.Key) != 64 || r.Host == "") {
				broken = fmt.Errorf("request %+v", r)
			}
			return wire.JoinReply{}, io.EOF
		}
		o.Peer = func(_ context.Context, r wire.PeerRequest) (wire.PeerReply, error) {
			if broken = see(r.Token); broken == nil && (r.CA == nil || r.Site == "" || r.Site == "osaka") {
				broken = fmt.Errorf("request %+v", r)
			}
			return wire.PeerReply{}, io.EOF
		}
	})
	f.Cleanup(p.close)
	handleEcho(p.osaka)
	ca, err := json.Marshal(string(wire.EncodeCertificate(p.tokyo.ca.Certificate())))
	if err != nil {
		f.Fatal(err)
	}
	const head = "POST /v1/%s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s"
	for path, body := range map[string]string{
		"join":  `{"secret":"AAAAAAAAAAAAAAAAAAAAAA==","host":"h1","csr":"-----BEGIN CERTIFICATE REQUEST-----\nAA==\n-----END CERTIFICATE REQUEST-----\n"}`,
		"peer":  `{"secret":"AAAAAAAAAAAAAAAAAAAAAA==","ca":` + string(ca) + `,"info":[1]}`,
		"other": `{"secret":1,"host":[]}`,
	} {
		f.Add(fmt.Appendf(nil, head, path, len(body), body))
	}
	f.Add([]byte("POST /v1/join HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		conn := shake(t, p, nil, "widecloud-join/1")
		conn.Write(data)
		conn.CloseWrite()
		io.Copy(io.Discard, conn)
		conn.Close()
		if broken != nil {
			t.Error(broken)
		}
		stillWell(t, p)
	})
}

// FuzzMessage calls with any text for a message.
func FuzzMessage(f *testing.F) {
	p := newPair(f, wire.Control, nil)
	f.Cleanup(p.close)
	handleEcho(p.osaka)
	wire.Handle(p.osaka.mux, "POST /report", func(context.Context, wire.Identity, wire.HostReport) (none, error) { return none{}, nil })
	wire.Handle(p.osaka.mux, "POST /claim", func(context.Context, wire.Identity, wire.ClaimCall) (none, error) { return none{}, nil })
	f.Add([]byte(`{"boot":"1","vtep":"::1","vms":[{"vm":"a","epoch":18446744073709551615}]}`))
	f.Add([]byte(`{"network":{"prefix":"2001:db8::/64","flood":["fe80::1%eth0"]}}`))
	f.Add([]byte(`{"word":"\"\\",}`))
	f.Add([]byte(`[[[[{{{{,,,,`))
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, path := range []string{"/report", "/claim"} {
			c := ask(t, p.s, fmt.Sprintf("POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n", path, len(data)))
			c.Write(data)
			status, body, err := reply(c)
			c.Close()
			if err != nil || status != http.StatusOK && status != http.StatusBadRequest || status == http.StatusOK && !json.Valid(data) && len(data) > 0 {
				t.Errorf("%s: %d %s, %v", path, status, body, err)
			}
		}
		stillWell(t, p)
	})
}

// FuzzImage reads any octets as an image. What is taken for one is exactly as long as announced.
func FuzzImage(f *testing.F) {
	p := newPair(f, wire.Bulk, nil)
	f.Cleanup(p.close)
	octets := make(chan []byte, 1)
	serveImage(p, func(_ context.Context, s *wire.Stream) error {
		_, err := s.Write(<-octets)
		return err
	})
	f.Add(append(imageHead(10, "raw"), "0123456789"...))
	f.Add(append(imageHead(1<<63, "raw"), "0123456789"...))
	f.Add(imageHead(0, "qcow2"))
	f.Add(bytes.Repeat([]byte{'x'}, 100))
	f.Fuzz(func(t *testing.T, data []byte) {
		octets <- data
		format, size, content, err := wire.OpenImage(t.Context(), p.s, "/image", "sha256:1")
		if err != nil {
			return
		}
		defer content.Close()
		n, err := io.Copy(io.Discard, content)
		announced := binary.BigEndian.Uint64(data)
		if announced > math.MaxInt64 || size != int64(announced) || format == "" || (n == size) != (err == nil) || n > size {
			t.Errorf("%q of %d octets, announced %d: read %d, %v", format, size, announced, n, err)
		}
	})
}

// FuzzHelloAnswer dials a listener that answers anything.
func FuzzHelloAnswer(f *testing.F) {
	p := newPair(f, wire.Control, nil)
	f.Cleanup(p.close)
	ln, config := listenTLS(f, p)
	f.Cleanup(func() { ln.Close() })
	f.Add(say(politeHello))
	f.Add(say(`{"version":1,"refused":{"code":"forbidden","message":"no"}}`))
	f.Add(append(say(politeHello), frame(8, 0, 0, []byte(`{"code":"x"}`))...))
	f.Add(append(say(politeHello), frame(1, 0, 2, nil)...))
	f.Fuzz(func(t *testing.T, data []byte) {
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			answerTLS(ln, config, data)
		}()
		s, err := wire.Dial(t.Context(), "osaka:1", wire.Controller("osaka"), wire.Control, p.tokyo.options(p.net.Node("tokyo")))
		if err == nil {
			<-s.Done()
			s.Close()
		}
		<-ended
	})
}

func FuzzToken(f *testing.F) {
	ca := newSite(f, "tokyo").ca.Certificate()
	token, err := wire.NewToken(wire.TokenPeer, ca)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(token.String())
	f.Add("wcjoin.")
	f.Fuzz(func(t *testing.T, text string) {
		if token, err := wire.ParseToken(text); err == nil {
			if again, err := wire.ParseToken(token.String()); err != nil || again != token {
				t.Errorf("%v, %v", again, err)
			}
		}
	})
}

func FuzzIdentity(f *testing.F) {
	f.Add("widecloud://tokyo/agent/h1")
	f.Add("widecloud://tokyo/controller")
	f.Fuzz(func(t *testing.T, uri string) {
		if id, err := wire.ParseIdentity(uri); err == nil && (id.URI().String() != uri || id.Validate() != nil) {
			t.Errorf("%q passes for %v", uri, id)
		}
	})
}

func FuzzCertificate(f *testing.F) {
	s := newSite(f, "tokyo")
	f.Add(wire.EncodeCertificate(s.ca.Certificate()))
	f.Fuzz(func(t *testing.T, text []byte) {
		cert, err := wire.DecodeCertificate(text)
		if err != nil {
			return
		}
		if site, err := wire.SiteOf(cert); err == nil && wire.Controller(site).Validate() != nil {
			t.Errorf("an authority of site %q", site)
		}
		if id, err := s.trust.Verify(cert); err == nil {
			t.Errorf("it is believed to be %v", id)
		}
	})
}
