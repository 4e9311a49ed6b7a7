package wire_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"strings"
	"syscall"
	"testing"

	"widecloud/api"
	"widecloud/internal/wire"
)

// TestPanicStaysHere has handlers panic: the peer is told that there was an error, and the log has the panic and its stack.
func TestPanicStaysHere(t *testing.T) {
	var log lines
	p := newPair(t, wire.Bulk, func(o *wire.Options) {
		o.Log = log.logger()
		o.Join = func(context.Context, wire.JoinRequest) (wire.JoinReply, error) {
			panic("token wcc_1234_secret of user ann")
		}
	})
	defer p.close()
	wire.Handle(p.osaka.mux, "POST /boom", func(context.Context, wire.Identity, none) (answer, error) {
		panic("token wcc_1234_secret of user ann")
	})
	wire.Handle(p.osaka.mux, "POST /boom/answer", func(context.Context, wire.Identity, none) (explosive, error) { return explosive{}, nil })
	wire.HandleStream(p.osaka.mux, "POST /boom/stream", func(_ context.Context, _ wire.Identity, h question, s *wire.Stream) error {
		if h.Word == "late" {
			s.Accept()
		}
		panic("token wcc_1234_secret of user ann")
	})
	token, err := wire.NewToken(wire.TokenJoin, p.osaka.ca.Certificate())
	if err != nil {
		t.Fatal(err)
	}
	for what, ask := range map[string]func() error{
		"call":   func() error { return wire.Call(t.Context(), p.s, http.MethodPost, "/boom", nil, nil) },
		"answer": func() error { return wire.Call(t.Context(), p.s, http.MethodPost, "/boom/answer", nil, nil) },
		"stream": func() error {
			_, err := wire.OpenStream(t.Context(), p.s, "/boom/stream", question{Word: "x"})
			return err
		},
		"accepted stream": func() error {
			s, err := wire.OpenStream(t.Context(), p.s, "/boom/stream", question{Word: "late"})
			if err != nil {
				return err
			}
			defer s.Close()
			_, err = s.Read(make([]byte, 1))
			return err
		},
		"join": func() error {
			_, _, err := wire.Join(t.Context(), p.net.Node("h1"), "osaka:7646", token, "h1", nil)
			return err
		},
	} {
		err := ask()
		if !errors.Is(err, &api.Error{Code: api.CodeInternal}) || !strings.Contains(err.Error(), "internal error at osaka/controller; its log has more") {
			t.Errorf("%s: %v", what, err)
			continue
		}
		for _, leak := range []string{"goroutine ", ".go:", "/src/", "wcc_1234_secret"} {
			if strings.Contains(err.Error(), leak) {
				t.Errorf("%s: the peer is told %q", what, err)
			}
		}
	}
	panics := 0
	for _, line := range log.all() {
		if strings.Contains(line, "wcc_1234_secret") && strings.Contains(line, "level=ERROR") && strings.Contains(line, "outward_test.go") {
			panics++
		}
	}
	if panics != 5 {
		t.Errorf("the log has %d panics with their stacks, want 5:\n%s", panics, strings.Join(log.all(), "\n"))
	}
}

// explosive panics when it is written as JSON.
type explosive struct{}

func (explosive) MarshalJSON() ([]byte, error) { panic("token wcc_1234_secret of user ann") }

// TestErrorsThatCross gives a peer of another site, and an agent of our own, the same errors.
func TestErrorsThatCross(t *testing.T) {
	disk := &fs.PathError{Op: "open", Path: "/var/lib/widecloud/volume/4f-2a.qcow2", Err: syscall.ENOSPC}
	socket := &net.OpError{
		Op: "read", Net: "tcp", Source: &net.TCPAddr{IP: net.ParseIP("fd00:12::1"), Port: 7647},
		Addr: &net.TCPAddr{IP: net.IPv4(10, 0, 0, 7), Port: 40000}, Err: syscall.ECONNRESET,
	}
	const unsure = "call /agent/v1/reboot at osaka/controller: the other end did not answer: session is closed by this end: read tcp ["
	cases := []struct {
		name          string
		err           error
		near, far     string // what an agent of ours, and a peer, get to see
		code          api.Code
		logged        bool // if it goes to a peer
		doubt, prefix bool
	}{
		{name: "plain", err: errors.New("disk on fire"), near: "disk on fire", far: "disk on fire", code: api.CodeInternal, logged: true},
		{
			name: "path", err: fmt.Errorf("make volume: %w", disk), code: api.CodeInternal, logged: true,
			near: "make volume: open /var/lib/widecloud/volume/4f-2a.qcow2: no space left on device",
			far:  "make volume: open (path): no space left on device",
		},
		{
			name: "addresses", err: socket, code: api.CodeInternal, logged: true,
			near: "read tcp [fd00:12::1]:7647->10.0.0.7:40000: connection reset by peer",
			far:  "read tcp [(address)]:7647->(address): connection reset by peer",
		},
		{
			name: "an agent's own internal error, handed on", err: api.Errorf(api.CodeInternal, "dial fd00:12::1: open '/run/x y': 10.0.0.0/8 at 12:30:05"),
			code: api.CodeInternal, logged: true,
			near: "dial fd00:12::1: open '/run/x y': 10.0.0.0/8 at 12:30:05",
			far:  "dial (address): open '(path) y': (address)/8 at 12:30:05",
		},
		{
			name: "chosen words", err: fmt.Errorf("ignored: %w", api.Errorf(api.CodeExists, "203.0.113.7 is taken, and so is /etc/motd")),
			code: api.CodeExists,
			near: "203.0.113.7 is taken, and so is /etc/motd", far: "203.0.113.7 is taken, and so is /etc/motd",
		},
		{
			name: "names stay", err: errors.New("osaka/agent/h1 and/or sha256:4fa0 1.5 4/5 deadbeef"), code: api.CodeInternal, logged: true,
			near: "osaka/agent/h1 and/or sha256:4fa0 1.5 4/5 deadbeef", far: "osaka/agent/h1 and/or sha256:4fa0 1.5 4/5 deadbeef",
		},
		{
			name: "an URL", err: errors.New("get https://10.0.0.7:8443/secret/x.img: refused"), code: api.CodeInternal, logged: true,
			near: "get https://10.0.0.7:8443/secret/x.img: refused", far: "get (url): refused",
		},
		{
			name: "out of time", err: fmt.Errorf("%s: %w", os.TempDir()+"/x", context.DeadlineExceeded), code: api.CodeUnavailable, doubt: true,
			near: os.TempDir() + "/x: context deadline exceeded", far: "(path): context deadline exceeded",
		},
		{
			name: "no answer", err: noAnswer(t, socket), code: api.CodeUnavailable, doubt: true, prefix: true,
			near: unsure, far: unsure,
		},
	}
	var log lines
	p := newPair(t, wire.Control, func(o *wire.Options) { o.Log = log.logger() })
	defer p.close()
	h1 := p.osaka.agent(t, "h1")
	agent, err := wire.Dial(t.Context(), "osaka:7646", wire.Controller("osaka"), wire.Control, h1.options(p.net.Node("h1")))
	if err != nil {
		t.Fatal(err)
	}
	defer agent.Close()
	byName := map[string]error{}
	for _, c := range cases {
		byName[c.name] = c.err
	}
	wire.Handle(p.osaka.mux, "POST /fail", func(_ context.Context, _ wire.Identity, q question) (none, error) {
		return none{}, byName[q.Word]
	})
	wire.HandleStream(p.osaka.mux, "POST /fail/stream", func(_ context.Context, _ wire.Identity, q question, s *wire.Stream) error {
		s.Accept()
		return byName[q.Word]
	})
	for _, c := range cases {
		for end, s := range map[string]*wire.Session{c.near: agent, c.far: p.s} {
			if c.near == c.far {
				end = c.near
			}
			err := wire.Call(t.Context(), s, http.MethodPost, "/fail", question{Word: c.name}, nil)
			stream, streamErr := wire.OpenStream(t.Context(), s, "/fail/stream", question{Word: c.name})
			if streamErr == nil { // the reset may overtake the acceptance
				_, streamErr = io.ReadAll(stream)
				stream.Close()
			}
			for what, err := range map[string]error{"call": err, "stream": streamErr} {
				var got *api.Error
				if !errors.As(err, &got) || got.Code != c.code || got.Message != end && !(c.prefix && strings.HasPrefix(got.Message, end)) {
					t.Errorf("%s: %s: %v, want %s", c.name, what, err, end)
				}
				if s == p.s && c.prefix && (strings.Contains(err.Error(), "fd00") || strings.Contains(err.Error(), "10.0.0.7")) {
					t.Errorf("%s: %s: %v", c.name, what, err)
				}
			}
			if errors.Is(err, wire.ErrNoAnswer) != c.doubt {
				t.Errorf("%s: in doubt: %v", c.name, err)
			}
		}
	}
	text := strings.Join(log.all(), "\n")
	if !strings.Contains(text, "make volume: open /var/lib/widecloud/volume/4f-2a.qcow2: no space left on device") || !strings.Contains(text, "peer=tokyo/controller") {
		t.Errorf("the log does not have the whole error:\n%s", text)
	}
}

// TestRelayErrorThatCrosses has the far side of a relay break: the opener's site is told so, without the far side's address.
func TestRelayErrorThatCrosses(t *testing.T) {
	p := newPair(t, wire.Bulk, nil)
	defer p.close()
	wire.HandleStream(p.osaka.mux, "/relay", func(ctx context.Context, _ wire.Identity, _ none, s *wire.Stream) error {
		s.Accept()
		near, far := net.Pipe()
		defer far.Close()
		_, _, err := wire.Relay(ctx, s, brokenConn{near})
		return err
	})
	s, err := wire.OpenStream(t.Context(), p.s, "/relay", nil)
	if err == nil {
		_, err = s.Read(make([]byte, 1))
		s.Close()
	}
	if !errors.Is(err, &api.Error{Code: api.CodeUnavailable}) || !strings.Contains(err.Error(), "the relay's other side failed: read unix (path): connection reset") {
		t.Errorf("got %v", err)
	}
}

type brokenConn struct{ net.Conn }

func (brokenConn) Read([]byte) (int, error) {
	return 0, &net.OpError{Op: "read", Net: "unix", Source: &net.UnixAddr{Name: "/run/widecloud/qemu.sock"}, Err: syscall.ECONNRESET}
}

// noAnswer is the error of a call whose session ended by cause.
func noAnswer(t *testing.T, cause error) error {
	p := newPair(t, wire.Control, nil)
	defer p.close()
	p.s.CloseWithError(cause)
	err := wire.Call(t.Context(), p.s, http.MethodPost, "/agent/v1/reboot", nil, nil)
	if !errors.Is(err, wire.ErrNoAnswer) || !strings.Contains(err.Error(), "fd00:12::1") {
		t.Fatalf("got %v", err)
	}
	return errors.Join(errors.New("handed on"), err)
}
