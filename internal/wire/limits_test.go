package wire_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"widecloud/api"
	"widecloud/internal/wire"
)

// ask opens a stream and writes the beginning of a request on it.
func ask(t testing.TB, s *wire.Session, request string) net.Conn {
	t.Helper()
	c, err := s.OpenRaw()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(c, request); err != nil {
		t.Fatal(err)
	}
	return c
}

// reply reads an answer to its end.
func reply(c net.Conn) (status int, body string, err error) {
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(text), err
}

// TestUnfinishedRequests has a peer begin requests that never end. Each is over in its time, and all others go on.
func TestUnfinishedRequests(t *testing.T) {
	for name, c := range map[string]struct {
		begin, rest string // the rest goes octet by octet
		within      time.Duration
		want        string // in the answer; "": there is none
	}{
		"nothing":          {"", "", 31 * time.Second, ""},
		"headers":          {"POST /echo HTTP/1.1\r\nHost: x\r\nA: ", strings.Repeat("x", 1000), 31 * time.Second, ""},
		"long headers":     {"POST /echo HTTP/1.1\r\nHost: x\r\nA: " + strings.Repeat("x", 16<<10), "", time.Second, "431"},
		"no body":          {"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n", "", 121 * time.Second, "not complete after 2m0s"},
		"a slow body":      {"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n", strings.Repeat(" ", 999), 121 * time.Second, "not complete after 2m0s"},
		"slow chunks":      {"POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n", strings.Repeat("1\r\n \r\n", 200), 121 * time.Second, "not complete after 2m0s"},
		"a second request": {"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 12\r\n\r\n{\"word\":\"x\"}", "", time.Second, "x"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPair(t, wire.Control, nil)
				defer p.close()
				handleEcho(p.osaka)
				s := ask(t, p.s, c.begin)
				began := time.Now()
				ended := make(chan struct{})
				go func() {
					defer close(ended)
					drip(s, []byte(c.rest), time.Second)
				}()
				status, body, err := reply(s)
				if took := time.Since(began); took > c.within || took < c.within-2*time.Second {
					t.Errorf("over after %v, want %v", took, c.within)
				}
				if got := fmt.Sprint(status, " ", body); c.want == "" && err == nil || c.want != "" && !strings.Contains(got, c.want) {
					t.Errorf("answer %s, %v; want %q", got, err, c.want)
				}
				if n, err := s.Read(make([]byte, 1)); err == nil {
					t.Errorf("the stream goes on with %d octets", n)
				}
				s.Close()
				<-ended
				if err := wire.Call(t.Context(), p.s, "POST", "/echo", question{Word: "x"}, nil); err != nil {
					t.Errorf("another call: %v", err)
				}
				time.Sleep(time.Second) // net/http waits for a moment before it closes what it has refused
			})
		})
	}
}

func handleEcho(s *site) {
	wire.Handle(s.mux, "POST /echo", func(_ context.Context, _ wire.Identity, q question) (answer, error) {
		return answer{Word: q.Word}, nil
	})
}

// TestAnswerNobodyReads has a peer ask and not take the answers: they are given up.
func TestAnswerNobodyReads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t, wire.Control, nil)
		defer p.close()
		handleEcho(p.osaka)
		big := strings.Repeat("x", 2<<20)
		text, _ := json.Marshal(question{Word: big})
		var all []net.Conn
		for range 3 {
			c := ask(t, p.s, fmt.Sprintf("POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n", len(text)))
			if _, err := c.Write(text); err != nil {
				t.Fatal(err)
			}
			all = append(all, c)
		}
		began := time.Now()
		time.Sleep(4 * time.Minute)
		for _, c := range all {
			n, err := io.Copy(io.Discard, c)
			if !errors.Is(err, &api.Error{Code: api.CodeUnavailable}) || n > 0 {
				t.Errorf("after %v the answer has %d octets, %v", time.Since(began), n, err)
			}
			c.Close()
		}
		if err := wire.Call(t.Context(), p.s, "POST", "/echo", question{Word: big}, nil); err != nil {
			t.Errorf("a call whose answer is read: %v", err)
		}
	})
}

// TestAnswerThatNeverEnds has the answering end begin an answer and not end it, or say more than an answer may have.
func TestAnswerThatNeverEnds(t *testing.T) {
	for name, c := range map[string]struct {
		begin, more string // more is repeated
		pause       time.Duration
		within      time.Duration
	}{
		"a slow body":  {"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n", " ", time.Second, 121 * time.Second},
		"endless head": {"HTTP/1.1 200 OK\r\nA: ", strings.Repeat("x", 32<<10), 0, time.Second},
		"endless body": {"HTTP/1.1 200 OK\r\n\r\n", strings.Repeat(" ", 32<<10), 0, time.Second},
		"long error":   {"HTTP/1.1 500 No\r\n\r\n", strings.Repeat(" ", 32<<10), 0, time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPair(t, wire.Control, nil)
				defer p.close()
				taken := make(chan int, 1)
				p.osaka.mux.HandleFunc("/odd", func(w http.ResponseWriter, r *http.Request) {
					conn, _, err := http.NewResponseController(w).Hijack()
					if err != nil {
						t.Error(err)
						return
					}
					n, err := io.WriteString(conn, c.begin)
					for all := n; ; {
						if err != nil || all > 64<<20 {
							taken <- all
							conn.Close()
							return
						}
						time.Sleep(c.pause)
						n, err = io.WriteString(conn, c.more)
						all += n
					}
				})
				began := time.Now()
				if err := wire.Call(t.Context(), p.s, "POST", "/odd", nil, &answer{}); err == nil || time.Since(began) > c.within {
					t.Errorf("after %v: %v", time.Since(began), err)
				}
				if n := <-taken; n > 20<<20 || name == "endless head" && n > 1<<20 || name == "long error" && n > 1<<20 {
					t.Errorf("%d octets of the answer were taken", n)
				}
				if name == "a slow body" {
					return // an opener's patience is its context's
				}
				if _, err := wire.OpenStream(t.Context(), p.s, "/odd", nil); err == nil {
					t.Error("a stream is opened")
				}
				if n := <-taken; n > 1<<20 {
					t.Errorf("%d octets of the answer to an opening were taken", n)
				}
			})
		})
	}
}

// tolledBody says when its reader comes for more after the first toll octets: those are on the session's account then.
type tolledBody struct {
	io.ReadCloser
	toll  int
	taken chan<- struct{}
}

func (b *tolledBody) Read(p []byte) (int, error) {
	if b.toll == 0 {
		b.taken <- struct{}{}
	}
	n, err := b.ReadCloser.Read(p)
	b.toll -= n
	return n, err
}

// TestMessageMemory sends long messages on many streams and ends none of them. Those that have no room are refused, and the
// session's memory comes back with the end of the others.
func TestMessageMemory(t *testing.T) {
	p := newPair(t, wire.Control, nil)
	defer p.close()
	const each = 12 << 20
	echo := site{mux: http.NewServeMux()}
	handleEcho(&echo)
	taken, over := make(chan struct{}, 16), make(chan struct{}, 16)
	p.osaka.mux.HandleFunc("/echo", func(w http.ResponseWriter, r *http.Request) {
		defer func() { over <- struct{}{} }()
		r.Body = &tolledBody{r.Body, each, taken}
		echo.mux.ServeHTTP(w, r)
	})
	spaces := bytes.Repeat([]byte{' '}, each)
	type call struct {
		net.Conn
		answer chan string
	}
	send := func(more int) (call, error) {
		c := call{ask(t, p.s, fmt.Sprintf("POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n", each+more)), make(chan string, 1)}
		t.Cleanup(func() { c.Close() })
		go func() { // at once: one who is refused and goes on writing loses the answer
			status, body, err := reply(c)
			c.answer <- fmt.Sprint(status, " ", body, " ", err)
		}()
		_, err := c.Write(spaces)
		return c, err
	}
	end := func(c call, end, want string) {
		io.WriteString(c, end)
		if got := <-c.answer; !strings.HasPrefix(got, want) {
			t.Errorf("answer %s, want %s", got, want)
		}
		<-over
	}

	var held []call
	refused := 0
	for range 8 {
		c, err := send(1)
		if err == nil {
			<-taken // else the next could take its room
			held = append(held, c)
			continue
		}
		end(c, "", `503 {"code":"unavailable"`)
		refused++
	}
	if len(held) != 5 || refused != 3 { // of 12 MiB each in 64
		t.Errorf("%d messages are held, %d were refused", len(held), refused)
	}
	for _, c := range held {
		end(c, " ", "400")
	}
	const text = `{"word":"x"}`
	for range 2 { // there would be no room for them beside those before
		c, err := send(len(text))
		if err != nil {
			t.Fatal(err)
		}
		end(c, text, "200")
	}
}

// TestManyValues has short texts that would become much memory, both ways.
func TestManyValues(t *testing.T) {
	p := newPair(t, wire.Control, nil)
	defer p.close()
	type element struct{ A, B, C, D, E, F, G, H string }
	wire.Handle(p.osaka.mux, "POST /list", func(_ context.Context, _ wire.Identity, in []element) (answer, error) {
		return answer{Word: fmt.Sprint(len(in))}, nil
	})
	wire.Handle(p.osaka.mux, "POST /answer", func(context.Context, wire.Identity, none) (json.RawMessage, error) {
		return list(5_000_000), nil
	})
	var out answer
	if err := wire.Call(t.Context(), p.s, "POST", "/list", list(50_000), &out); err != nil || out.Word != "50000" {
		t.Errorf("50,000 elements: %q, %v", out.Word, err)
	}
	if err := wire.Call(t.Context(), p.s, "POST", "/list", list(5_000_000), &out); !errors.Is(err, &api.Error{Code: api.CodeInvalid}) || !strings.Contains(err.Error(), "values") {
		t.Errorf("5,000,000 elements: %v", err)
	}
	var elements []element
	if err := wire.Call(t.Context(), p.s, "POST", "/answer", nil, &elements); !errors.Is(err, &api.Error{Code: api.CodeInternal}) || !strings.Contains(err.Error(), "values") {
		t.Errorf("5,000,000 elements in an answer: %v", err)
	}
	text := strings.Repeat(`,[{\"`, 1<<20)
	if err := wire.Call(t.Context(), p.s, "POST", "/list", []element{{A: text}}, &out); err != nil {
		t.Errorf("a text with many commas: %v", err)
	}
}

func list(n int) json.RawMessage {
	return json.RawMessage("[" + strings.Repeat("{},", n-1) + "{}]")
}

// TestUnread has a peer fill as many streams as it may, and nobody reads them. The session's memory is bounded, and so is that
// of a peer that opens streams and resets them while their handlers still run.
func TestUnread(t *testing.T) {
	p := newPair(t, wire.Bulk, nil)
	defer p.close()
	handleEcho(p.osaka)
	wire.HandleStream(p.osaka.mux, "POST /hold", func(ctx context.Context, _ wire.Identity, _ none, s *wire.Stream) error {
		s.Accept()
		<-ctx.Done()
		return nil
	})
	before := heap()
	var streams []*wire.Stream
	chunk := make([]byte, 64<<10)
	torn := 0
	for range 300 {
		s, err := wire.OpenStream(t.Context(), p.s, "/hold", nil)
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		streams = append(streams, s)
		for range 4 {
			if _, err := s.Write(chunk); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, s := range streams[:100] {
		select {
		case <-s.Gone():
			torn++
		default:
		}
	}
	if grown := heap() - before; grown > 100<<20 {
		t.Errorf("%d MiB are held", grown>>20)
	}
	torn = 0
	for _, s := range streams {
		s.SetWriteDeadline(time.Now().Add(time.Millisecond))
		_, err := s.Write(make([]byte, 128<<10))
		if errors.Is(err, &api.Error{Code: api.CodeUnavailable}) && strings.Contains(err.Error(), "nobody reads") {
			torn++
		}
	}
	if torn < 150 || torn == len(streams) {
		t.Errorf("%d of %d streams are torn", torn, len(streams))
	}
	if err := wire.Call(t.Context(), p.s, "POST", "/echo", question{Word: "x"}, nil); err != nil {
		t.Errorf("a call beside them: %v", err)
	}
}

func heap() int {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return int(m.HeapAlloc)
}

// TestResetRequests asks and resets again and again, while the handlers do not notice. There are never more of them than streams.
func TestResetRequests(t *testing.T) {
	started, end := make(chan struct{}), make(chan struct{})
	var handlers sync.WaitGroup
	p := newPair(t, wire.Control, nil)
	wire.Handle(p.osaka.mux, "POST /stubborn", func(context.Context, wire.Identity, none) (none, error) {
		handlers.Add(1)
		defer handlers.Done()
		started <- struct{}{}
		<-end
		return none{}, nil
	})
	running, refused := 0, 0
	for range 1100 {
		c := ask(t, p.s, "POST /stubborn HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
		answered := make(chan string, 1)
		go func() {
			status, body, err := reply(c)
			answered <- fmt.Sprint(status, " ", body, " ", err)
		}()
		select {
		case <-started:
			running++
		case got := <-answered:
			if !strings.HasPrefix(got, "503") || !strings.Contains(got, "more than 1024 requests") {
				t.Fatalf("with %d requests under way: %s", running, got)
			}
			refused++
		}
		c.(interface{ CloseWithError(error) error }).CloseWithError(errors.New("never mind"))
	}
	if running != 1024 || refused != 1100-1024 {
		t.Errorf("%d requests run at once, %d were refused", running, refused)
	}
	close(end)
	p.close()
	handlers.Wait()
}

// TestOwnStreams opens more streams than a peer takes: this end refuses them before the peer must.
func TestOwnStreams(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t, wire.Control, nil)
		defer p.close()
		handleEcho(p.osaka)
		var open []net.Conn
		for len(open) < 1024 {
			c, err := p.s.OpenRaw()
			if err != nil {
				t.Fatalf("after %d: %v", len(open), err)
			}
			open = append(open, c)
			synctest.Wait() // the peer has accepted it
		}
		if _, err := p.s.OpenRaw(); !errors.Is(err, &api.Error{Code: api.CodeUnavailable}) {
			t.Errorf("one more: %v", err)
		}
		if err := wire.Call(t.Context(), p.s, "POST", "/echo", question{}, nil); !errors.Is(err, wire.ErrNoAnswer) {
			t.Errorf("a call: %v", err)
		}
		for _, c := range open {
			c.Close()
		}
		synctest.Wait()
		if err := wire.Call(t.Context(), p.s, "POST", "/echo", question{}, nil); err != nil {
			t.Errorf("a call once there is room: %v", err)
		}
	})
}

// TestTakesNothing has a peer that sends and takes nothing: what we have for it must not pile up.
func TestTakesNothing(t *testing.T) {
	const open, data, ping = 1, 2, 6
	for name, c := range map[string]struct {
		send func(i uint32) []byte
		want string
	}{
		"opens streams without end": {func(i uint32) []byte { return frame(open, 0, 2*i+101, nil) }, "does not take their refusals"},
		"pings for ever": {func(uint32) []byte {
			time.Sleep(100 * time.Millisecond)
			return frame(ping, 0, 0, binary.BigEndian.AppendUint64(nil, 1))
		}, "nothing taken by the other end"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				sessions := make(chan *wire.Session, 2)
				p := newPair(t, wire.Control, func(o *wire.Options) {
					if keep := o.OnSession; keep != nil {
						o.OnSession = func(s *wire.Session) { sessions <- s; keep(s) }
					}
				})
				defer p.close()
				<-sessions
				wire.HandleStream(p.osaka.mux, "POST /flood", func(_ context.Context, _ wire.Identity, _ none, s *wire.Stream) error {
					for {
						if _, err := s.Write(make([]byte, 32<<10)); err != nil {
							return err
						}
					}
				})
				conn := hostile(t, p, say(politeHello))
				defer conn.Close()
				s := <-sessions
				for id := uint32(1); id < 9; id += 2 {
					request := "POST /flood HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: widecloud-stream\r\n\r\n"
					conn.Write(append(frame(open, 0, id, nil), frame(data, 0, id, []byte(request))...))
				}
				began := time.Now()
				for i := uint32(0); ; i++ {
					if _, err := conn.Write(c.send(i)); err != nil {
						break
					}
					if i > 1_000_000 {
						t.Fatal("it goes on")
					}
				}
				<-s.Done()
				if took := time.Since(began); took > 25*time.Second || !strings.Contains(s.Err().Error(), c.want) {
					t.Errorf("after %v: %v", took, s.Err())
				}
			})
		})
	}
}
