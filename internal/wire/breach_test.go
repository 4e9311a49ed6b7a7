package wire_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"widecloud/internal/wire"
)

// frame is one of the multiplexer's, as the comment on it describes them.
func frame(typ, flags byte, id uint32, payload []byte) []byte {
	b := []byte{typ, flags}
	b = binary.BigEndian.AppendUint16(b, uint16(len(payload)))
	b = binary.BigEndian.AppendUint32(b, id)
	return append(b, payload...)
}

func say(text string) []byte {
	return append(binary.BigEndian.AppendUint16(nil, uint16(len(text))), text...)
}

const politeHello = `{"version":1,"purpose":"control","window":262144}`

// hostile is a third site, nagoya, with a good certificate and bad manners: the TLS connection, after hello.
func hostile(t testing.TB, p *pair, greeting []byte) *tls.Conn {
	t.Helper()
	conn := shake(t, p, p.nagoya.cred, "widecloud/1")
	conn.Write(greeting)
	return conn
}

// shake is a TLS connection to osaka with a credential, or none, and nothing said on it.
func shake(t testing.TB, p *pair, cred *wire.Credential, proto string) *tls.Conn {
	t.Helper()
	config := &tls.Config{NextProtos: []string{proto}, InsecureSkipVerify: true}
	if cred != nil {
		config.Certificates = []tls.Certificate{tlsCertificate(t, cred)}
	}
	raw, err := p.net.Node("evil").Dial(t.Context(), "osaka:7646")
	if err != nil {
		t.Fatal(err)
	}
	conn := tls.Client(raw, config)
	if err := conn.HandshakeContext(t.Context()); err != nil {
		t.Fatal(err)
	}
	return conn
}

// tlsCertificate is a credential as crypto/tls wants it.
func tlsCertificate(t testing.TB, cred *wire.Credential) tls.Certificate {
	t.Helper()
	path := filepath.Join(t.TempDir(), "c.pem")
	if err := cred.Save(path); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := tls.X509KeyPair(text, text)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

// listenTLS is a listener at osaka that has osaka's certificate and is no wire.Server.
func listenTLS(t testing.TB, p *pair) (net.Listener, *tls.Config) {
	t.Helper()
	ln, err := p.net.Node("osaka").Listen(t.Context(), "osaka:1")
	if err != nil {
		t.Fatal(err)
	}
	return ln, &tls.Config{
		Certificates: []tls.Certificate{tlsCertificate(t, p.osaka.cred)}, NextProtos: []string{"widecloud/1"}, ClientAuth: tls.RequestClientCert,
	}
}

// answerTLS takes one connection and says something on it.
func answerTLS(ln net.Listener, config *tls.Config, words []byte) {
	raw, err := ln.Accept()
	if err != nil {
		return
	}
	defer raw.Close()
	conn := tls.Server(raw, config)
	if conn.Handshake() != nil {
		return
	}
	conn.Write(words)
	conn.CloseWrite()
	io.Copy(io.Discard, conn)
}

func TestHelloRefusals(t *testing.T) {
	p := newPair(t, wire.Control, nil)
	defer p.close()
	for name, greeting := range map[string][]byte{
		"version":    say(`{"version":2,"purpose":"control","window":262144}`),
		"purpose":    say(`{"version":1,"purpose":"fun","window":262144}`),
		"window":     say(`{"version":1,"purpose":"control","window":1}`),
		"big window": say(`{"version":1,"purpose":"control","window":1073741824}`),
		"not JSON":   say(`hello`),
		"too long":   {0xff, 0xff},
	} {
		conn := hostile(t, p, greeting)
		text, err := io.ReadAll(conn)
		if err != nil || !bytes.Contains(text, []byte(`"refused":{"code"`)) {
			t.Errorf("%s: %q, %v", name, text, err)
		}
		conn.Close()
	}
}

// Each breach of the protocol ends the session with a reason, and the session alone.
func TestMuxBreaches(t *testing.T) {
	p := newPair(t, wire.Control, nil)
	defer p.close()
	wire.Handle(p.osaka.mux, "POST /echo", func(_ context.Context, _ wire.Identity, q question) (answer, error) { return answer{}, nil })
	const open, data, fin, window, ping = 1, 2, 3, 5, 6
	opened := frame(open, 0, 1, nil)
	for name, c := range map[string]struct {
		frames [][]byte
		want   string
	}{
		"unknown type":       {[][]byte{frame(99, 0, 0, nil)}, "frame type 99"},
		"even stream":        {[][]byte{frame(open, 0, 2, nil)}, "opens stream 2"},
		"stream 0":           {[][]byte{frame(open, 0, 0, nil)}, "opens stream 0"},
		"opened twice":       {[][]byte{opened, opened}, "opens stream 1 after 1"},
		"counts down":        {[][]byte{frame(open, 0, 5, nil), frame(open, 0, 3, nil)}, "opens stream 3 after 5"},
		"data unopened":      {[][]byte{frame(data, 0, 7, []byte("x"))}, "never opened"},
		"data on ours":       {[][]byte{frame(data, 0, 2, []byte("x"))}, "never opened"},
		"data on 0":          {[][]byte{frame(data, 0, 0, []byte("x"))}, "never opened"},
		"long frame":         {[][]byte{frame(data, 0, 1, make([]byte, 20000))}, "frame of 20000"},
		"data after its end": {[][]byte{opened, frame(fin, 0, 1, nil), frame(data, 0, 1, []byte("x"))}, "after its end"},
		"odd window":         {[][]byte{opened, frame(window, 0, 1, []byte("abc"))}, "window of 3"},
		"huge window":        {[][]byte{opened, frame(window, 0, 1, []byte{0xff, 0xff, 0xff, 0xff})}, "window too large"},
		"short ping":         {[][]byte{frame(ping, 0, 0, []byte("abc"))}, "ping of 3"},
	} {
		conn := hostile(t, p, say(politeHello))
		conn.Write(bytes.Join(c.frames, nil))
		text, err := io.ReadAll(conn)
		if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) || !strings.Contains(string(text), c.want) {
			t.Errorf("%s: %q, %v", name, text, err)
		}
		conn.Close()
	}
	if err := wire.Call(t.Context(), p.s, "POST", "/echo", question{}, nil); err != nil {
		t.Errorf("the decent peer's session suffers: %v", err)
	}
}

// A peer that sends more than it was granted is stopped, and one that opens streams without end is refused them.
func TestMuxGreed(t *testing.T) {
	p := newPair(t, wire.Control, nil)
	defer p.close()
	wire.HandleStream(p.osaka.mux, "/hold", func(ctx context.Context, _ wire.Identity, _ none, s *wire.Stream) error {
		s.Accept()
		<-ctx.Done()
		return nil
	})
	conn := hostile(t, p, say(politeHello))
	request := "POST /hold HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: widecloud-stream\r\n\r\n"
	conn.Write(append(frame(1, 0, 1, nil), frame(2, 0, 1, []byte(request))...))
	go func() {
		for range 20 {
			if _, err := conn.Write(frame(2, 0, 1, make([]byte, 16384))); err != nil {
				return
			}
		}
	}()
	text, _ := io.ReadAll(conn)
	if !strings.Contains(string(text), "are granted") {
		t.Errorf("window: %q", text)
	}
	conn.Close()

	opener := hostile(t, p, say(politeHello)) // not conn: the one above may still be writing to it
	var many []byte
	for i := range uint32(5000) {
		many = append(many, frame(1, 0, 2*i+1, nil)...)
	}
	go opener.Write(many)
	got := make([]byte, 0, 1<<20)
	buf := make([]byte, 4096)
	// Which bound comes first, that on the open ones, on those not accepted yet, or on the refusals, is a matter of speed.
	for !strings.Contains(string(got), "more than 1024 streams") && !strings.Contains(string(got), "too many streams wait") &&
		!strings.Contains(string(got), "does not take their refusals") {
		n, err := opener.Read(buf)
		got = append(got, buf[:n]...)
		if err != nil {
			t.Fatalf("streams: %v after %q", err, got)
		}
	}
	opener.Close()
}

func FuzzFrames(f *testing.F) {
	p := newPair(f, wire.Control, nil)
	f.Cleanup(p.close)
	wire.Handle(p.osaka.mux, "POST /echo", func(_ context.Context, _ wire.Identity, q question) (answer, error) { return answer{}, nil })
	f.Add(append(frame(1, 0, 1, nil), frame(2, 0, 1, []byte("POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}"))...))
	f.Add(append(append(frame(1, 0, 1, nil), frame(3, 1, 1, nil)...), frame(4, 0, 1, []byte("{}"))...))
	f.Add(append(frame(6, 0, 0, make([]byte, 8)), frame(8, 0, 0, []byte("{}"))...))
	f.Fuzz(func(t *testing.T, data []byte) {
		conn := hostile(t, p, say(politeHello))
		conn.Write(data)
		conn.CloseWrite()
		io.Copy(io.Discard, conn)
		conn.Close()
		if err := wire.Call(t.Context(), p.s, "POST", "/echo", question{}, nil); err != nil {
			t.Errorf("the decent peer's session suffers: %v", err)
		}
	})
}
