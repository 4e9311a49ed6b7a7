package serve_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"widecloud/api"
	"widecloud/internal/serve"
	"widecloud/internal/serve/servetest"
)

// slow is a site in a bubble: connections are pipes, so that a test sees to the second when one ends.
type slow struct {
	*testing.T
	ctl *servetest.Memory
	ln  *pipes
	log *lockedBuffer
}

// inBubble runs f with a site whose time is the bubble's.
func inBubble(t *testing.T, secure *tls.Config, f func(s *slow)) {
	synctest.Test(t, func(t *testing.T) {
		s := &slow{T: t, ctl: servetest.New(), ln: &pipes{conns: make(chan net.Conn), closed: make(chan struct{})}, log: &lockedBuffer{}}
		s.ctl.Put(&api.VM{Meta: api.Meta{Name: "web1", Owner: "tokyo-u"}})
		s.ctl.Put(&api.Image{Meta: api.Meta{Name: "tiny", Owner: "tokyo-u"}})
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		srv := serve.New(serve.Options{Controller: s.ctl, Logger: slog.New(slog.NewTextHandler(s.log, nil))})
		go func() { done <- srv.Serve(ctx, s.ln, secure) }()
		defer func() {
			s.ln.hangUp()
			cancel()
			if err := <-done; err != nil {
				t.Errorf("serve: %v", err)
			}
		}()
		f(s)
	})
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// pipes is a listener in memory.
type pipes struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
	mu     sync.Mutex
	open   []net.Conn // the clients' ends
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error   { p.once.Do(func() { close(p.closed) }); return nil }
func (p *pipes) Addr() net.Addr { return address("server") }

// hangUp ends all clients.
func (p *pipes) hangUp() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.open {
		c.Close()
	}
}

// dial connects from an address such as "192.0.2.1:1234".
func (p *pipes) dial(from string) net.Conn {
	a, b := net.Pipe()
	p.mu.Lock()
	p.open = append(p.open, a)
	p.mu.Unlock()
	p.conns <- from1{b, address(from)}
	return a
}

type address string

func (address) Network() string  { return "pipe" }
func (a address) String() string { return string(a) }

type from1 struct {
	net.Conn
	remote net.Addr
}

func (f from1) RemoteAddr() net.Addr { return f.remote }

const here = "192.0.2.1:1000"

// answer is what came of a request, and how long it and the connection's end took.
type answer struct {
	status      int
	err         api.Error
	header      http.Header
	after, ends time.Duration // ends < 0: the connection was still open a quarter of an hour later
}

// ask sends bytes from an address and reads one answer.
func (s *slow) ask(from, request string) answer {
	s.Helper()
	c := s.ln.dial(from)
	defer c.Close()
	a, _ := s.answer(c, request)
	return a
}

// askToTheEnd waits for the connection's end, too.
func (s *slow) askToTheEnd(from, request string) answer {
	s.Helper()
	began := time.Now()
	c := s.ln.dial(from)
	defer c.Close()
	a, r := s.answer(c, request)
	_ = c.SetReadDeadline(time.Now().Add(15 * time.Minute))
	if _, err := r.ReadByte(); errors.Is(err, io.EOF) {
		a.ends = time.Since(began)
	} else {
		a.ends = -1
	}
	return a
}

func (s *slow) answer(c net.Conn, request string) (answer, *bufio.Reader) {
	s.Helper()
	began := time.Now()
	go io.WriteString(c, request)
	r := bufio.NewReader(c)
	resp, err := http.ReadResponse(r, nil)
	if err != nil {
		return answer{status: -1}, r
	}
	a := answer{status: resp.StatusCode, header: resp.Header, after: time.Since(began)}
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		s.Fatal(err)
	}
	if a.status >= 400 {
		if err := json.Unmarshal(b, &a.err); err != nil {
			s.Errorf("%q is not an error of ours", b)
		}
	}
	return a, r
}

// request is the head of a request with a token and a body of so many bytes, and the first of them.
func request(token, line string, length int, body string) string {
	h := line + " HTTP/1.1\r\nHost: x\r\n"
	if token != "" {
		h += "Authorization: Bearer " + token + "\r\n"
	}
	if length > 0 {
		h += fmt.Sprintf("Content-Length: %d\r\n", length)
	}
	return h + "\r\n" + body
}

// TestBodiesThatNeverCome promises bodies and does not send them: nobody waits for one that nobody wants, and no client
// holds a connection longer than the deadline.
func TestBodiesThatNeverCome(t *testing.T) {
	const linger = 500 * time.Millisecond // of net/http, so that the answer is read
	tests := []struct {
		name, request string
		status        int
		field         string
		after         time.Duration
	}{
		{"no token", request("", "POST /v1/vms", 1000, "{"), 401, "", 0},
		{"no token, DELETE", request("", "DELETE /v1/vms/web1", 1000, ""), 401, "", 0},
		{"no token, chunks", "POST /v1/vms HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n", 401, "", 0},
		{"wrong token", request("stolen", "PUT /v1/images/tiny/content", 1<<30, "x"), 401, "", 0},
		{"open route", request("", "GET /healthz", 1000, ""), 200, "", 0},
		{"a body that is not read", request("alice-token", "DELETE /v1/vms/web1", 1000, "{"), 202, "", 0},
		{"unknown path", request("alice-token", "POST /v1/nothing", 1000, "{"), 404, "", 0},
		{"unknown query", request("alice-token", "POST /v1/vms?x=1", 1000, "{"), 400, "x", 0},
		{"an object", request("alice-token", "POST /v1/vms", 1000, "{"), 408, "body", 30 * time.Second},
		{"an upload", request("alice-token", "PUT /v1/images/tiny/content", 1000, "x"), 408, "body", time.Minute},
		{"an upload to nothing", request("alice-token", "PUT /v1/images/none/content", 1000, "x"), 408, "body", time.Minute},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			inBubble(t, nil, func(s *slow) {
				a := s.askToTheEnd(here, tt.request)
				if a.status != tt.status || a.err.Field != tt.field || a.after != tt.after || a.ends < tt.after || a.ends > tt.after+linger {
					t.Errorf("got %d %v after %v, and the end after %v; want %d of %q, and the end, after %v",
						a.status, &a.err, a.after, a.ends, tt.status, tt.field, tt.after)
				}
			})
		})
	}
}

// TestUploadThatGoesOn sends a byte now and then: it has all the time that it needs.
func TestUploadThatGoesOn(t *testing.T) {
	inBubble(t, nil, func(s *slow) {
		c := s.ln.dial(here)
		go func() {
			io.WriteString(c, request("alice-token", "PUT /v1/images/tiny/content", 10, ""))
			for range 10 {
				time.Sleep(50 * time.Second)
				io.WriteString(c, "x")
			}
		}()
		resp, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil || resp.StatusCode != http.StatusOK {
			t.Fatalf("%v, %v", resp, err)
		}
		if got := s.ctl.Uploaded("tiny"); string(got) != strings.Repeat("x", 10) {
			t.Errorf("uploaded %q", got)
		}
	})
}

// TestSilentConnections holds connections without ever asking anything.
func TestSilentConnections(t *testing.T) {
	for _, tt := range []struct {
		name, says string
		secure     bool
		ends       time.Duration
	}{
		{"nothing", "", false, 10 * time.Second},
		{"half a header", "GET /v1/vms HTTP/1.1\r\nHost: x\r\n", false, 10 * time.Second},
		{"no handshake", "", true, 10 * time.Second},
		{"half a handshake", "\x16\x03\x01\x02\x00", true, 10 * time.Second},
		{"idle", request("alice-token", "GET /v1/vms/none", 0, ""), false, time.Minute},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var secure *tls.Config
			if tt.secure {
				secure = testCertificate(t)
			}
			inBubble(t, secure, func(s *slow) {
				began := time.Now()
				c := s.ln.dial(here)
				go io.WriteString(c, tt.says)
				if _, err := io.Copy(io.Discard, c); err != nil {
					t.Fatal(err)
				}
				if took := time.Since(began); took != tt.ends {
					t.Errorf("the connection ended after %v, want %v", took, tt.ends)
				}
			})
		})
	}
}

// TestReaderThatDoesNotRead asks for a long list and takes none of it.
func TestReaderThatDoesNotRead(t *testing.T) {
	inBubble(t, nil, func(s *slow) {
		for i := range 50 {
			s.ctl.Put(&api.VM{Meta: api.Meta{Name: fmt.Sprintf("vm%d", i), Owner: "tokyo-u"}, Spec: api.VMSpec{UserData: strings.Repeat("x", 10_000)}})
		}
		c := s.ln.dial(here)
		if _, err := io.WriteString(c, request("alice-token", "GET /v1/vms", 0, "")); err != nil {
			t.Fatal(err)
		}
		time.Sleep(31 * time.Second)
		synctest.Wait()
		b, err := io.ReadAll(c)
		if err != nil || len(b) > 100_000 {
			t.Errorf("after half a minute in which nothing was read, %d bytes came, and %v", len(b), err)
		}
	})
}

// TestLimitsOfAUser opens as many as one user may have at once. One more is refused, another user is not, and an end
// makes room.
func TestLimitsOfAUser(t *testing.T) {
	const upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
	head := func(token, line string) string { return strings.TrimSuffix(request(token, line, 0, ""), "\r\n") }
	for _, tt := range []struct {
		name    string
		most    int
		request func(token string) string
	}{
		{"requests", 32, func(token string) string { return request(token, "POST /v1/vms", 1000, "{") }},
		{"watches", 100, func(token string) string { return request(token, "GET /v1/vms?watch=true&from=0", 0, "") }},
		{"consoles", 16, func(token string) string { return head(token, "GET /v1/vms/web1/console") + upgrade }},
		{"uploads", 4, func(token string) string { return request(token, "PUT /v1/images/tiny/content", 1000, "x") }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			inBubble(t, nil, func(s *slow) {
				open := func(token string) net.Conn {
					c := s.ln.dial(here)
					go io.WriteString(c, tt.request(token))
					go io.Copy(io.Discard, c)
					synctest.Wait()
					return c
				}
				var first net.Conn
				for i := range tt.most {
					if c := open("alice-token"); i == 0 {
						first = c
					}
				}
				a := s.ask(here, tt.request("alice-token"))
				if a.status != 429 || a.err.Code != api.CodeTooMany || a.header.Get("Retry-After") != "5" ||
					!strings.Contains(a.err.Message, fmt.Sprintf("user alice has %d %s open", tt.most, tt.name)) {
					t.Errorf("one more: %d %+v, Retry-After %q", a.status, a.err, a.header.Get("Retry-After"))
				}
				if a := s.ask(here, request("alice-token", "GET /v1/vms/web1", 0, "")); tt.name != "requests" && a.status != 200 {
					t.Errorf("another request of the same user: %d %v", a.status, &a.err)
				}
				if a := s.ask(here, request("admin-token", "GET /v1/vms/web1", 0, "")); a.status != 200 {
					t.Errorf("another user: %d %v", a.status, &a.err)
				}
				first.Close()
				synctest.Wait()
				open("alice-token")
				if a := s.ask(here, tt.request("alice-token")); a.status != 429 {
					t.Errorf("after one has ended there was room for more than one: %d", a.status)
				}
			})
		})
	}
}

// TestWrongTokens tries tokens. Who fails too often has to wait, alone: not other sources, and not who shares the address
// and has a token that was right before.
func TestWrongTokens(t *testing.T) {
	get := func(token string) string { return request(token, "GET /v1/vms/web1", 0, "") }
	inBubble(t, nil, func(s *slow) {
		want := func(from, token string, status int, retry string) {
			t.Helper()
			a := s.ask(from, get(token))
			if a.status != status || a.header.Get("Retry-After") != retry {
				t.Errorf("%s from %s: %d %v, Retry-After %q; want %d, %q", token, from, a.status, &a.err, a.header.Get("Retry-After"), status, retry)
			}
		}
		want("[2001:db8:0:1::1]:1", "alice-token", 200, "")
		for i := range 20 { // from all over its /64
			want(fmt.Sprintf("[2001:db8:0:1::%x]:1", i+1), fmt.Sprint("guess", i), 401, "")
		}
		want("[2001:db8:0:1::99]:1", "guess", 429, "5")
		want("[2001:db8:0:1::99]:1", "admin-token", 429, "5") // it may be a guess, too
		want("[2001:db8:0:1::99]:1", "alice-token", 200, "")
		want("[2001:db8:0:2::1]:1", "guess", 401, "")
		want("192.0.2.7:1", "admin-token", 200, "")
		time.Sleep(5 * time.Second)
		want("[2001:db8:0:1::99]:1", "guess", 401, "")
		want("[2001:db8:0:1::99]:1", "guess", 429, "5")
		time.Sleep(5 * time.Second)
		want("[2001:db8:0:1::99]:1", "admin-token", 200, "")
		if n := strings.Count(s.log.String(), "status=429"); n != 0 {
			t.Errorf("%d refusals of a stranger are in the log", n)
		}
	})
}

// TestManySourcesOfWrongTokens fills the table of sources: it does not grow, at the price that the source that failed the
// longest ago is forgotten.
func TestManySourcesOfWrongTokens(t *testing.T) {
	inBubble(t, nil, func(s *slow) {
		status := func(from string) int {
			return s.ask(from, request("guess", "GET /v1/vms/web1", 0, "")).status
		}
		for range 20 {
			status("192.0.2.1:1")
			status("192.0.2.2:1")
		}
		for i := range 4095 {
			status(fmt.Sprintf("10.0.%d.%d:1", i/256, i%256))
		}
		if a, b := status("192.0.2.2:1"), status("192.0.2.1:1"); a != 429 || b != 401 {
			t.Errorf("the newer source has %d, want 429; the oldest %d, want 401", a, b)
		}
	})
}

// TestConnectionsOfASource opens connections from one source. Idle ones make room for new ones, busy ones do not, and
// other sources do not feel it.
func TestConnectionsOfASource(t *testing.T) {
	inBubble(t, nil, func(s *slow) {
		var ended sync.WaitGroup
		ends := make(map[int]time.Duration)
		var mu sync.Mutex
		began := time.Now()
		open := func(i int, from, says string) {
			c := s.ln.dial(from)
			ended.Go(func() {
				io.WriteString(c, says)
				io.Copy(io.Discard, c)
				mu.Lock()
				defer mu.Unlock()
				ends[i] = time.Since(began)
			})
			synctest.Wait()
		}
		gone := func(i int) bool {
			synctest.Wait()
			mu.Lock()
			defer mu.Unlock()
			_, ok := ends[i]
			return ok
		}
		watch := request("admin-token", "GET /v1/vms?watch=true", 0, "")
		open(0, "[2001:db8::1]:1", watch) // busy
		for i := 1; i < 256; i++ {
			open(i, fmt.Sprintf("[2001:db8::%x]:1", i), "")
			time.Sleep(time.Millisecond)
		}
		open(256, "[2001:db8::ffff]:1", "")
		if gone(0) || !gone(1) || gone(2) || gone(256) {
			t.Errorf("gone are the busy one: %t, the oldest: %t, the next: %t, the newest: %t", gone(0), gone(1), gone(2), gone(256))
		}
		open(1000, "[2001:db8:0:1::1]:1", "")
		if gone(2) || gone(1000) {
			t.Errorf("another source: closed %t, closed one of the first: %t", gone(1000), gone(2))
		}
		if n := strings.Count(s.log.String(), "too many connections"); n != 1 {
			t.Errorf("it is logged %d times, want 1", n)
		}
		s.ln.hangUp()
		ended.Wait()
	})
}

// TestConnectionsInAll opens as many as there may be, from many sources.
func TestConnectionsInAll(t *testing.T) {
	inBubble(t, nil, func(s *slow) {
		first := s.ln.dial("10.0.0.0:1")
		end := make(chan time.Duration, 1)
		began := time.Now()
		go func() {
			io.Copy(io.Discard, first)
			end <- time.Since(began)
		}()
		time.Sleep(time.Millisecond)
		for i := 1; i < 8192; i++ {
			s.ln.dial(fmt.Sprintf("10.0.%d.%d:1", i%64, i%3))
		}
		synctest.Wait()
		if a := s.ask("192.0.2.1:1", request("alice-token", "GET /v1/vms/web1", 0, "")); a.status != 200 {
			t.Errorf("with all places taken by silent connections a user is answered %d %v", a.status, &a.err)
		}
		if took := <-end; took != time.Millisecond {
			t.Errorf("the oldest ended after %v, want at once", took)
		}
	})
}
