package wire_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"widecloud/api"
	"widecloud/internal/wire"
)

// socketPair is two ends of a unix stream socket, as a hypervisor offers them.
func socketPair(t *testing.T) (a, b *net.UnixConn) {
	t.Helper()
	ln, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	c, err := net.Dial("unix", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	d, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	return c.(*net.UnixConn), d.(*net.UnixConn)
}

// chain is a stream that goes through a relay at osaka to a service that f is.
func chain(p *pair, f func(context.Context, net.Conn) error) {
	wire.HandleStream(p.tokyo.mux, "/service", func(ctx context.Context, _ wire.Identity, _ none, s *wire.Stream) error {
		return f(ctx, s)
	})
	wire.HandleStream(p.osaka.mux, "/relay", func(ctx context.Context, _ wire.Identity, _ none, s *wire.Stream) error {
		far, err := wire.OpenStream(ctx, p.peer, "/service", nil)
		if err != nil {
			return err
		}
		_, _, err = wire.Relay(ctx, s, far)
		return err
	})
}

func TestRelayHalfClose(t *testing.T) {
	p := newPair(t, wire.Bulk, nil)
	defer p.close()
	chain(p, func(_ context.Context, c net.Conn) error {
		data, err := io.ReadAll(c) // to the end, then the answer
		if err != nil {
			return err
		}
		_, err = c.Write(bytes.ToUpper(data))
		return err
	})
	s, err := wire.OpenStream(t.Context(), p.s, "/relay", nil)
	if err != nil {
		t.Fatal(err)
	}
	want := strings.Repeat("abcdefgh", 100_000)
	go func() {
		io.WriteString(s, want)
		s.CloseWrite()
	}()
	got, err := io.ReadAll(s)
	if err != nil || string(got) != strings.ToUpper(want) {
		t.Errorf("%d octets, %v", len(got), err)
	}
	s.Close()
}

// The far end's reason comes through the relay, whether before or after it has accepted.
func TestRelayReason(t *testing.T) {
	for _, accept := range []bool{false, true} {
		p := newPair(t, wire.Bulk, nil)
		chain(p, func(_ context.Context, c net.Conn) error {
			if accept {
				io.ReadFull(c, make([]byte, 1))
			}
			return api.Errorf(api.CodeRefused, "disk full at target")
		})
		s, err := wire.OpenStream(t.Context(), p.s, "/relay", nil)
		if accept {
			if err != nil {
				t.Fatal(err)
			}
			s.Write([]byte("x"))
			_, err = s.Read(make([]byte, 1))
			s.Close()
		}
		if !errors.Is(err, &api.Error{Code: api.CodeRefused}) || !strings.Contains(err.Error(), "disk full at target") {
			t.Errorf("accept %t: %v", accept, err)
		}
		p.close()
	}
}

// An opener that goes away ends the relay and the far service, even if that stays silent (a console). What it wrote before arrives, also
// when the far service reads it only after the relay has ended.
func TestRelayOpenerGone(t *testing.T) {
	for name, slow := range map[string]time.Duration{"at once": 0, "after the relay": time.Second} { // of the bubble
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPair(t, wire.Bulk, nil)
				defer p.close()
				got := make(chan string)
				chain(p, func(_ context.Context, c net.Conn) error {
					c.(*wire.Stream).Accept()
					time.Sleep(slow)
					data, err := io.ReadAll(c)
					got <- string(data)
					return err
				})
				s, err := wire.OpenStream(t.Context(), p.s, "/relay", nil)
				if err != nil {
					t.Fatal(err)
				}
				io.WriteString(s, "last words")
				s.Close()
				if words := <-got; words != "last words" {
					t.Errorf("got %q", words)
				}
			})
		})
	}
}

func TestRelayContext(t *testing.T) {
	p := newPair(t, wire.Bulk, nil)
	defer p.close()
	a, near := socketPair(t)
	defer a.Close()
	ended := make(chan error, 1)
	wire.HandleStream(p.osaka.mux, "/hold", func(ctx context.Context, _ wire.Identity, _ none, s *wire.Stream) error {
		s.Accept()
		_, err := s.Read(make([]byte, 1))
		ended <- err
		return err
	})
	s, err := wire.OpenStream(t.Context(), p.s, "/hold", nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	time.AfterFunc(10*time.Millisecond, func() { cancel(api.Errorf(api.CodeConflict, "migration is cancelled")) })
	if _, _, err := wire.Relay(ctx, near, s); !errors.Is(err, &api.Error{Code: api.CodeConflict}) {
		t.Errorf("relay: %v", err)
	}
	if err := <-ended; err == nil || !strings.Contains(err.Error(), "migration is cancelled") {
		t.Errorf("far end: %v", err)
	}
	if _, err := a.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("near end: %v", err)
	}
}

func TestRelayCounts(t *testing.T) {
	a, near := socketPair(t)
	far, b := socketPair(t)
	go func() {
		a.Write(make([]byte, 100_000))
		a.CloseWrite()
	}()
	go func() {
		io.Copy(io.Discard, b)
		b.Write(make([]byte, 70_000))
		b.CloseWrite()
	}()
	go io.Copy(io.Discard, a)
	aToB, bToA, err := wire.Relay(t.Context(), near, far)
	if aToB != 100_000 || bToA != 70_000 || err != nil {
		t.Errorf("%d, %d, %v", aToB, bToA, err)
	}
	if _, err := near.Write([]byte("x")); !errors.Is(err, net.ErrClosed) && !errors.Is(err, os.ErrClosed) {
		t.Errorf("not closed: %v", err)
	}
	a.Close()
	b.Close()
}

// The way of a migration's channel: a hypervisor's socket, a codec, a site's port, a relay that does not look into it,
// another site's port, the codec, the other hypervisor's socket. Requests are answered, ends are handed on.
func TestRelayCoded(t *testing.T) {
	eachCodec(t, func(t *testing.T, c wire.Codec) {
		p := newPair(t, wire.Bulk, nil)
		defer p.close()
		target, targetNear := socketPair(t)
		source, sourceNear := socketPair(t)
		chain(p, func(ctx context.Context, s net.Conn) error {
			z, err := c.Wrap(s)
			if err != nil {
				return err
			}
			_, _, err = wire.Relay(ctx, z, targetNear)
			return err
		})
		s, err := wire.OpenStream(t.Context(), p.s, "/relay", nil)
		if err != nil {
			t.Fatal(err)
		}
		z, err := c.Wrap(s)
		if err != nil {
			t.Fatal(err)
		}
		ended := make(chan error, 2)
		go func() {
			_, _, err := wire.Relay(t.Context(), sourceNear, z)
			ended <- err
		}()
		go func() { // answers each 100 octets with 1, and their end with its own
			b := make([]byte, 100)
			for {
				if _, err := io.ReadFull(target, b); err != nil {
					target.Write([]byte("bye"))
					ended <- target.Close()
					return
				}
				target.Write(b[:1])
			}
		}()
		for i := range 200 {
			source.Write(bytes.Repeat([]byte{byte(i)}, 100))
			var b [1]byte
			if _, err := io.ReadFull(source, b[:]); err != nil || b[0] != byte(i) {
				t.Fatalf("request %d: %v, %v", i, b, err)
			}
		}
		source.CloseWrite()
		if words, err := io.ReadAll(source); string(words) != "bye" || err != nil {
			t.Errorf("at the end: %q, %v", words, err)
		}
		source.Close()
		for range 2 {
			if err := <-ended; err != nil {
				t.Error(err)
			}
		}
		if st := z.Stats(); st.PlainOut != 20_000 || st.PlainIn != 203 {
			t.Errorf("stats %+v", st)
		}
	})
}
