package wire_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"widecloud/api"
	"widecloud/internal/wire"
)

type none struct{}

type question struct {
	Word string `json:"word"`
	N    int    `json:"n,omitempty"`
}

type answer struct {
	Word string `json:"word"`
	From string `json:"from"`
}

func TestCallBothWays(t *testing.T) {
	for name, network := range map[string]func() (a, b wire.Network, addr string){
		"memory": func() (wire.Network, wire.Network, string) {
			m := wire.NewMemory()
			return m.Node("tokyo"), m.Node("osaka"), "osaka:7646"
		},
		"tcp": func() (wire.Network, wire.Network, string) { return wire.TCP{}, wire.TCP{}, "127.0.0.1:0" },
	} {
		t.Run(name, func(t *testing.T) {
			tokyo, osaka := newSite(t, "tokyo"), newSite(t, "osaka")
			befriend(t, tokyo, osaka)
			for _, s := range []*site{tokyo, osaka} {
				wire.Handle(s.mux, "POST /echo", func(_ context.Context, id wire.Identity, q question) (answer, error) {
					return answer{q.Word, id.String()}, nil
				})
			}
			a, b, addr := network()
			got := make(chan *wire.Session, 1)
			o := osaka.options(b)
			o.OnSession = func(s *wire.Session) { got <- s }
			server, err := wire.Listen(t.Context(), addr, o)
			if err != nil {
				t.Fatal(err)
			}
			defer server.Close()
			for _, purpose := range []wire.Purpose{wire.Control, wire.Bulk} {
				s, err := wire.Dial(t.Context(), server.Addr().String(), wire.Controller("osaka"), purpose, tokyo.options(a))
				if err != nil {
					t.Fatal(err)
				}
				defer s.Close()
				peer := <-got
				if peer.Peer() != wire.Controller("tokyo") || s.Peer() != wire.Controller("osaka") || peer.Purpose() != purpose {
					t.Errorf("peers %v and %v, purpose %v", peer.Peer(), s.Peer(), peer.Purpose())
				}
				for _, end := range []*wire.Session{s, peer} {
					for range 20 {
						var out answer
						if err := wire.Call(t.Context(), end, "POST", "/echo", question{Word: "hai"}, &out); err != nil {
							t.Fatal(err)
						}
						want := map[string]string{"osaka": "tokyo/controller", "tokyo": "osaka/controller"}[end.Peer().Site]
						if out.Word != "hai" || out.From != want {
							t.Errorf("got %+v, want from %s", out, want)
						}
					}
				}
			}
		})
	}
}

func TestCallErrors(t *testing.T) {
	p := newPair(t, wire.Control, nil)
	defer p.close()
	refusal := &api.Error{Code: api.CodeRefused, Message: "no room", Reasons: []api.Reason{{Host: "h1", Code: "memory", Message: "512 MiB free, 1024 wanted"}}}
	wire.Handle(p.osaka.mux, "POST /refuse", func(context.Context, wire.Identity, question) (none, error) { return none{}, refusal })
	wire.Handle(p.osaka.mux, "POST /break", func(context.Context, wire.Identity, question) (none, error) {
		return none{}, errors.New("disk on fire")
	})
	wire.Handle(p.osaka.mux, "POST /panic", func(context.Context, wire.Identity, question) (none, error) { panic("oh no") })
	wire.Handle(p.osaka.mux, "POST /empty", func(context.Context, wire.Identity, none) (none, error) { return none{}, nil })
	wire.HandleStream(p.osaka.mux, "/stream", func(context.Context, wire.Identity, none, *wire.Stream) error { return nil })

	for _, c := range []struct {
		path string
		in   any
		want api.Error // Message: a part of it
	}{
		{"/refuse", question{}, *refusal},
		{"/break", question{}, api.Error{Code: api.CodeInternal, Message: "disk on fire"}},
		{"/panic", question{}, api.Error{Code: api.CodeInternal, Message: "internal error at osaka/controller"}},
		{"/refuse", map[string]any{"word": "x", "colour": 1}, api.Error{Code: api.CodeInvalid, Field: "colour", Message: "not known"}},
		{"/refuse", map[string]any{"word": 1}, api.Error{Code: api.CodeInvalid, Field: "word", Message: "number"}},
		{"/refuse", []int{1}, api.Error{Code: api.CodeInvalid, Message: "array"}},
		{"/refuse", nil, api.Error{Code: api.CodeInvalid, Message: "missing"}},
		{"/empty", question{}, api.Error{Code: api.CodeInvalid, Field: "word", Message: "not known"}},
		{"/nowhere", question{}, api.Error{Code: api.CodeNotFound, Message: "404"}},
		{"/stream", question{}, api.Error{Code: api.CodeInvalid, Field: "upgrade", Message: "stream"}},
	} {
		err := wire.Call(t.Context(), p.s, "POST", c.path, c.in, nil)
		var got *api.Error
		if !errors.As(err, &got) {
			t.Errorf("%s %v: got %v", c.path, c.in, err)
			continue
		}
		if got.Code != c.want.Code || got.Field != c.want.Field || !strings.Contains(got.Message, c.want.Message) || len(got.Reasons) != len(c.want.Reasons) {
			t.Errorf("%s %v: got %+v, want %+v", c.path, c.in, got, c.want)
		}
		if errors.Is(err, wire.ErrNoAnswer) {
			t.Errorf("%s: passes for unanswered: %v", c.path, err)
		}
	}
	if err := wire.Call(t.Context(), p.s, "POST", "/empty", nil, nil); err != nil {
		t.Error(err)
	}
	if err := wire.Call(t.Context(), p.s, "POST", "/empty", none{}, nil); err != nil {
		t.Error(err)
	}
	if err := wire.Call(t.Context(), p.s, "POST", "/refuse", question{Word: strings.Repeat("x", 17<<20)}, nil); !errors.Is(err, &api.Error{Code: api.CodeInvalid}) {
		t.Errorf("oversized message: %v", err)
	}
}

// The caller's deadline and its cancellation reach the handler's context, and the handler sees them end.
func TestCallContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t, wire.Control, nil)
		defer p.close()
		ended := make(chan time.Duration, 1)
		wire.Handle(p.osaka.mux, "POST /wait", func(ctx context.Context, _ wire.Identity, _ none) (none, error) {
			began := time.Now()
			<-ctx.Done()
			ended <- time.Since(began)
			return none{}, ctx.Err()
		})
		ctx, cancel := context.WithTimeout(t.Context(), 7*time.Second)
		defer cancel()
		err := wire.Call(ctx, p.s, "POST", "/wait", nil, nil)
		if !errors.Is(err, &api.Error{Code: api.CodeUnavailable}) {
			t.Errorf("deadline: %v", err)
		}
		if d := <-ended; d < 6*time.Second || d > 8*time.Second {
			t.Errorf("deadline reached the handler after %v", d)
		}
		ctx, cancel = context.WithCancel(t.Context())
		time.AfterFunc(3*time.Second, cancel)
		err = wire.Call(ctx, p.s, "POST", "/wait", nil, nil)
		if !errors.Is(err, context.Canceled) || !errors.Is(err, wire.ErrNoAnswer) {
			t.Errorf("cancelled: %v", err)
		}
		if d := <-ended; d < 2*time.Second || d > 4*time.Second {
			t.Errorf("cancellation reached the handler after %v", d)
		}
	})
}

// A controller that hands a call on, and gets no answer, does not make an answer of it.
func TestNoAnswerHandedOn(t *testing.T) {
	p := newPair(t, wire.Control, nil)
	defer p.close()
	other := newPair(t, wire.Control, nil)
	other.close()
	wire.Handle(p.osaka.mux, "POST /on", func(ctx context.Context, _ wire.Identity, _ none) (none, error) {
		if err := wire.Call(ctx, other.s, "POST", "/x", nil, nil); err != nil {
			return none{}, fmt.Errorf("hand on: %w", err)
		}
		return none{}, nil
	})
	err := wire.Call(t.Context(), p.s, "POST", "/on", nil, nil)
	if !errors.Is(err, wire.ErrNoAnswer) || !errors.Is(err, &api.Error{Code: api.CodeUnavailable}) || errors.Is(err, wire.ErrClosed) {
		t.Errorf("got %v", err)
	}
}

// A silent peer is noticed by both ends within DeadAfter, and everything under way fails with ErrNoAnswer.
func TestDeadPeer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t, wire.Control, nil)
		defer p.close()
		stopped := make(chan struct{})
		wire.Handle(p.osaka.mux, "POST /wait", func(ctx context.Context, _ wire.Identity, _ none) (none, error) {
			<-ctx.Done()
			close(stopped)
			return none{}, nil
		})
		began := time.Now()
		time.AfterFunc(time.Second, func() { p.net.Cut("tokyo", "osaka") })
		err := wire.Call(t.Context(), p.s, "POST", "/wait", nil, nil)
		if !errors.Is(err, wire.ErrNoAnswer) || !errors.Is(err, wire.ErrClosed) || !errors.Is(err, &api.Error{Code: api.CodeUnavailable}) {
			t.Errorf("got %v", err)
		}
		if d := time.Since(began); d > 21*time.Second {
			t.Errorf("noticed after %v", d)
		}
		<-stopped
		<-p.peer.Done()
		if d := time.Since(began); d > 21*time.Second {
			t.Errorf("noticed by the handler after %v", d)
		}
		if err := wire.Call(t.Context(), p.s, "POST", "/wait", nil, nil); !errors.Is(err, wire.ErrNoAnswer) {
			t.Errorf("call on a dead session: %v", err)
		}
	})
}

// A cut shorter than DeadAfter disturbs nothing.
func TestShortCut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t, wire.Control, nil)
		defer p.close()
		wire.Handle(p.osaka.mux, "POST /echo", func(_ context.Context, _ wire.Identity, q question) (answer, error) {
			return answer{Word: q.Word}, nil
		})
		p.net.SetDelay("tokyo", "osaka", 6*time.Millisecond)
		p.net.Cut("tokyo", "osaka")
		time.AfterFunc(8*time.Second, func() { p.net.Heal("tokyo", "osaka") })
		var out answer
		if err := wire.Call(t.Context(), p.s, "POST", "/echo", question{Word: "mada"}, &out); err != nil || out.Word != "mada" {
			t.Errorf("got %v, %v", out, err)
		}
		time.Sleep(time.Minute)
		if rtt := p.s.RTT(); rtt < 12*time.Millisecond || rtt > 2*time.Second {
			t.Errorf("round trip %v, link's is 12 ms", rtt)
		}
	})
}

// TestAnswered: a session that nothing gets through is up until its end is noticed, and says since when nobody has answered.
func TestAnswered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t, wire.Control, nil)
		defer p.close()
		time.Sleep(time.Minute)
		cut := time.Now()
		p.net.Cut("tokyo", "osaka")
		time.Sleep(8 * time.Second)
		if at := p.s.Answered(); p.s.Err() != nil || at.IsZero() || at.After(cut) {
			t.Errorf("8 s after the cut: %v, answered %v before it", p.s.Err(), cut.Sub(at))
		}
		healed := time.Now()
		p.net.Heal("tokyo", "osaka")
		time.Sleep(time.Minute)
		if at := p.s.Answered(); p.s.Err() != nil || !at.After(healed) {
			t.Errorf("a minute after it was healed: %v, answered %v after that", p.s.Err(), at.Sub(healed))
		}
	})
}

func TestDialer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t, wire.Control, nil)
		p.close()
		up, down := make(chan *wire.Session, 10), make(chan error, 1000)
		d := &wire.Dialer{
			Addrs: []string{"osaka:7646"}, Peer: wire.Controller("osaka"), Purpose: wire.Control,
			Options: p.tokyo.options(p.net.Node("tokyo")),
			Up:      func(s *wire.Session) { up <- s },
			Down:    func(err error) { down <- err },
		}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		ended := make(chan error)
		go func() { ended <- d.Run(ctx) }()
		time.Sleep(time.Minute)
		if len(up) != 0 || len(down) < 6 || len(down) > 60 {
			t.Errorf("without a listener: %d up, %d down", len(up), len(down))
		}
		for round := range 3 {
			server, err := wire.Listen(t.Context(), "osaka:7646", p.osaka.options(p.net.Node("osaka")))
			if err != nil {
				t.Fatal(err)
			}
			s := <-up
			synctest.Wait() // the listener's end is there too
			for len(down) > 0 {
				<-down
			}
			switch round {
			case 0:
				server.Close()
			default:
				p.net.Kill("osaka")
			}
			<-s.Done()
			err = <-down
			if round == 0 && !strings.Contains(err.Error(), "osaka/controller shuts down") {
				t.Errorf("the reason is lost: %v", err)
			}
			server.Close()
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

func TestStream(t *testing.T) {
	p := newPair(t, wire.Bulk, nil)
	defer p.close()
	type header struct {
		Volume string `json:"volume"`
	}
	wire.HandleStream(p.osaka.mux, "/sum", func(_ context.Context, id wire.Identity, h header, s *wire.Stream) error {
		if h.Volume == "none" {
			return &api.Error{Code: api.CodeNotFound, Field: "volume", Message: "is not here"}
		}
		if h.Volume == "full" {
			io.ReadFull(s, make([]byte, 1000))
			return api.Errorf(api.CodeRefused, "disk full")
		}
		// The answer comes after the other direction has ended: half-close.
		sum := sha256.New()
		if _, err := io.Copy(sum, s); err != nil {
			return err
		}
		_, err := s.Write(sum.Sum(nil))
		return err
	})

	data := make([]byte, 3<<20)
	for i := range data {
		data[i] = byte(rand.Uint32())
	}
	want := sha256.Sum256(data)
	errs := make(chan error)
	for range 4 {
		go func() {
			errs <- func() error {
				s, err := wire.OpenStream(t.Context(), p.s, "/sum", header{"v1"})
				if err != nil {
					return err
				}
				defer s.Close()
				if _, err := s.Write(data); err != nil {
					return err
				}
				s.CloseWrite()
				got, err := io.ReadAll(s)
				if err == nil && !bytes.Equal(got, want[:]) {
					err = errors.New("sums differ")
				}
				return err
			}()
		}()
	}
	for range 4 {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}

	_, err := wire.OpenStream(t.Context(), p.s, "/sum", header{"none"})
	if !errors.Is(err, &api.Error{Code: api.CodeNotFound, Field: "volume"}) || errors.Is(err, wire.ErrNoAnswer) {
		t.Errorf("refused stream: %v", err)
	}
	_, err = wire.OpenStream(t.Context(), p.s, "/sum", map[string]int{"colour": 1})
	if !errors.Is(err, &api.Error{Code: api.CodeInvalid, Field: "colour"}) {
		t.Errorf("unknown field: %v", err)
	}
	_, err = wire.OpenStream(t.Context(), p.s, "/nowhere", nil)
	if !errors.Is(err, &api.Error{Code: api.CodeNotFound}) {
		t.Errorf("unknown path: %v", err)
	}
	s, err := wire.OpenStream(t.Context(), p.s, "/sum", header{"full"})
	if err != nil {
		t.Fatal(err)
	}
	for err == nil {
		_, err = s.Write(data)
	}
	if !errors.Is(err, &api.Error{Code: api.CodeRefused}) || !strings.Contains(err.Error(), "disk full") {
		t.Errorf("reason of a torn stream, written to: %v", err)
	}
	if _, err = s.Read(data); !errors.Is(err, &api.Error{Code: api.CodeRefused}) {
		t.Errorf("reason of a torn stream, read from: %v", err)
	}
	s.Close()
}

// A stream's other end going away, the session's end and the opener's impatience all end the handler's context.
func TestStreamContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t, wire.Bulk, nil)
		defer p.close()
		ended := make(chan struct{})
		wire.HandleStream(p.osaka.mux, "/hang", func(ctx context.Context, _ wire.Identity, _ none, s *wire.Stream) error {
			<-ctx.Done()
			ended <- struct{}{}
			return ctx.Err()
		})
		wire.HandleStream(p.osaka.mux, "/open", func(ctx context.Context, _ wire.Identity, _ none, s *wire.Stream) error {
			s.Accept()
			<-ctx.Done()
			ended <- struct{}{}
			return ctx.Err()
		})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := wire.OpenStream(ctx, p.s, "/hang", nil); !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, wire.ErrNoAnswer) {
			t.Errorf("impatience: %v", err)
		}
		<-ended
		s, err := wire.OpenStream(t.Context(), p.s, "/open", nil)
		if err != nil {
			t.Fatal(err)
		}
		s.CloseWithError(api.Errorf(api.CodeConflict, "cancelled"))
		<-ended
		if s, err = wire.OpenStream(t.Context(), p.s, "/open", nil); err != nil {
			t.Fatal(err)
		}
		p.s.CloseWithError(api.Errorf(api.CodeUnavailable, "going home"))
		<-ended
		<-p.peer.Done()
		if err := p.peer.Err(); !strings.Contains(err.Error(), "going home") {
			t.Errorf("reason of the session's end: %v", err)
		}
		if _, err := s.Read(make([]byte, 1)); !errors.Is(err, wire.ErrClosed) {
			t.Errorf("read on an ended session: %v", err)
		}
	})
}

// A writer may not run ahead of a reader that does not read, and other streams go on meanwhile.
func TestBackPressure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t, wire.Bulk, nil)
		defer p.close()
		wire.HandleStream(p.osaka.mux, "/slow", func(ctx context.Context, _ wire.Identity, _ none, s *wire.Stream) error {
			s.Accept()
			<-ctx.Done()
			return nil
		})
		wire.Handle(p.osaka.mux, "POST /echo", func(_ context.Context, _ wire.Identity, q question) (answer, error) {
			return answer{Word: q.Word}, nil
		})
		s, err := wire.OpenStream(t.Context(), p.s, "/slow", nil)
		if err != nil {
			t.Fatal(err)
		}
		sent := 0
		s.SetWriteDeadline(time.Now().Add(time.Second))
		for {
			n, err := s.Write(make([]byte, 10000))
			sent += n
			if err != nil {
				var timeout net.Error
				if !errors.As(err, &timeout) || !timeout.Timeout() {
					t.Errorf("got %v, want a timeout", err)
				}
				break
			}
		}
		if sent < 256<<10 || sent > 300<<10 {
			t.Errorf("%d octets were taken from a reader that reads none", sent)
		}
		if err := wire.Call(t.Context(), p.s, "POST", "/echo", question{Word: "x"}, nil); err != nil {
			t.Error(err)
		}
		s.CloseWithError(errors.New("enough"))
	})
}

func TestAdmit(t *testing.T) {
	p := newPair(t, wire.Control, nil)
	p.close()
	o := p.osaka.options(p.net.Node("osaka"))
	o.Admit = func(c wire.Caller) error {
		return api.Errorf(api.CodeForbidden, "%s is on holiday", c)
	}
	server, err := wire.Listen(t.Context(), ":7646", o)
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	_, err = wire.Dial(t.Context(), "osaka:7646", wire.Controller("osaka"), wire.Control, p.tokyo.options(p.net.Node("tokyo")))
	if !errors.Is(err, &api.Error{Code: api.CodeForbidden}) || !strings.Contains(err.Error(), "holiday") {
		t.Errorf("got %v", err)
	}
}

func TestHandleOutsideSession(t *testing.T) {
	mux := http.NewServeMux()
	wire.Handle(mux, "POST /x", func(context.Context, wire.Identity, none) (none, error) { return none{}, nil })
	// A handler that is put on another server by mistake lets nobody in.
	w := &recorder{head: http.Header{}}
	r, _ := http.NewRequest("POST", "/x", strings.NewReader("{}"))
	mux.ServeHTTP(w, r)
	if w.status != http.StatusUnauthorized {
		t.Errorf("status %d", w.status)
	}
}

type recorder struct {
	head   http.Header
	status int
}

func (r *recorder) Header() http.Header         { return r.head }
func (r *recorder) Write(p []byte) (int, error) { return len(p), nil }
func (r *recorder) WriteHeader(status int)      { r.status = status }
