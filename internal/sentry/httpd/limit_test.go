package httpd_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"time"

	"widecloud/internal/sentry/httpd"
)

// ask sends a request for the newest still on a connection, and reads the answer to the end.
func ask(t *testing.T, w *world) (*http.Response, error) {
	t.Helper()
	c, r := w.dial()
	fmt.Fprintf(c, "GET /stills/a/0/newest.jpg HTTP/1.1\r\nHost: x\r\n\r\n")
	res, err := http.ReadResponse(r, nil)
	if err == nil {
		_, err = io.Copy(io.Discard, res.Body)
		res.Body.Close()
	}
	return res, err
}

// TestTooMany: above the limits a connection is told when to come back, and further above it is closed. When one ends
// there is room again.
func TestTooMany(t *testing.T) {
	for name, set := range map[string]func(*httpd.Options){
		"all":         func(o *httpd.Options) { o.MaxConnections = 3 },
		"one address": func(o *httpd.Options) { o.MaxPerAddress = 3 },
	} {
		t.Run(name, func(t *testing.T) {
			w := start(t, false, set)
			w.add(1, 0)
			var held []net.Conn
			for range 3 {
				c, _ := w.dial()
				held = append(held, c)
			}
			w.eventually("three connections", func() bool { return w.s.Connections() == 3 })
			res, err := ask(t, w)
			if err != nil || res.StatusCode != 503 {
				t.Fatalf("a fourth connection: %v, %v", res, err)
			}
			if n, err := strconv.Atoi(res.Header.Get("Retry-After")); err != nil || n < 5 || n > 15 || !res.Close {
				t.Errorf("it is told: %v", res.Header)
			}
			w.eventually("it has ended", func() bool { return w.s.Connections() == 3 })
			c, _ := w.dial() // it is to be told, and says nothing yet
			w.eventually("four connections", func() bool { return w.s.Connections() == 4 })
			if res, err := ask(t, w); err == nil {
				t.Errorf("a fifth connection: %s", res.Status)
			}
			c.Close()
			held[0].Close()
			w.eventually("room", func() bool { return w.s.Connections() == 2 })
			if res, err := ask(t, w); err != nil || res.StatusCode != 200 {
				t.Errorf("when there is room: %v, %v", res, err)
			}
			if r, d := w.metric("sentryc_connections_total", "outcome", "refused"), w.metric("sentryc_connections_total", "outcome", "dropped"); r != 1 || d != 1 {
				t.Errorf("%v refused, %v dropped", r, d)
			}
		})
	}
}

// TestTooManyHTTP2: a refused connection is told over HTTP/2 as well.
func TestTooManyHTTP2(t *testing.T) {
	w := start(t, true, func(o *httpd.Options) { o.MaxConnections = 1 })
	w.add(1, 0)
	w.dial()
	w.eventually("one connection", func() bool { return w.s.Connections() == 1 })
	if res, _ := w.get(w.client(true), "/stills/a/0/newest.jpg"); res.StatusCode != 503 || res.Header.Get("Retry-After") == "" || res.ProtoMajor != 2 {
		t.Errorf("%s %s, %v", res.Proto, res.Status, res.Header)
	}
}

func TestAddressesCount(t *testing.T) {
	translator := netip.MustParsePrefix("2001:db8:64::/96")
	for _, c := range []struct {
		a, b string
		same bool
	}{
		{"192.0.2.1", "192.0.2.2", false},
		{"192.0.2.1", "::ffff:192.0.2.1", true},
		{"2001:db8::1", "2001:db8::2:0:0:1", true},
		{"2001:db8::1", "2001:db8:0:1::1", false},
		{"fe80::1%a", "fe80::2%b", true},
		{"2001:db8:64::c000:201", "2001:db8:64::c000:202", false},
		{"2001:db8:64::c000:201", "192.0.2.1", true},
	} {
		key := func(a string) netip.Addr { return httpd.Key(netip.MustParseAddr(a), translator) }
		if got := key(c.a) == key(c.b); got != c.same {
			t.Errorf("%s and %s count as one: %v", c.a, c.b, got)
		}
	}
}

// TestSlow: who takes too long, in whatever phase, is closed, and counted as what it is.
func TestSlow(t *testing.T) {
	for _, c := range []struct {
		doing string
		set   func(*httpd.Options)
		send  string
		read  bool // the answer, and then nothing follows
		big   bool // an answer that does not fit into the kernel's buffers
	}{
		{"request", func(o *httpd.Options) { o.HeadTimeout = time.Second }, "", false, false},
		{"request", func(o *httpd.Options) { o.HeadTimeout = time.Second }, "GET /stills/a/0/new", false, false},
		{"idle", func(o *httpd.Options) { o.IdleTimeout = time.Second }, "GET /stills/a/0/newest.jpg HTTP/1.1\r\nHost: x\r\n\r\n", true, false},
		{"answer", func(o *httpd.Options) { o.WriteTimeout = time.Second }, strings.Repeat("GET /stills/a/0/newest.jpg HTTP/1.1\r\nHost: x\r\n\r\n", 400), false, true},
	} {
		t.Run(c.doing, func(t *testing.T) {
			w := start(t, false, c.set)
			s := picture(1, 0)
			if c.big {
				s.JPEG = append(append(s.JPEG[:len(s.JPEG)-2:len(s.JPEG)-2], make([]byte, 1<<19)...), 0xff, 0xd9)
			}
			if err := w.reel.Add(s); err != nil {
				t.Fatal(err)
			}
			conn, r := w.dial()
			// It may be closed in the middle of it.
			_, _ = io.WriteString(conn, c.send)
			if c.read {
				res, err := http.ReadResponse(r, nil)
				if err != nil {
					t.Fatal(err)
				}
				if _, err := io.Copy(io.Discard, res.Body); err != nil {
					t.Fatal(err)
				}
			}
			w.eventually("it is closed", func() bool { return w.metric("sentryc_expired_total", "doing", c.doing) == 1 })
			w.eventually("it is gone", func() bool { return w.s.Connections() == 0 })
		})
	}
}

// TestTrickle: a head that comes byte by byte is one request, and bytes do not prolong its time.
func TestTrickle(t *testing.T) {
	w := start(t, false, func(o *httpd.Options) { o.HeadTimeout = time.Second })
	w.add(1, 0)
	c, r := w.dial()
	for _, b := range []byte("GET /stills/a/0/newest.jpg HTTP/1.1\r\nHost: x\r\n\r\n") {
		if _, err := c.Write([]byte{b}); err != nil {
			t.Fatal(err)
		}
	}
	if res, err := http.ReadResponse(r, nil); err != nil || res.StatusCode != 200 {
		t.Errorf("%v, %v", res, err)
	}
	slow, _ := w.dial()
	go func() {
		for range 10_000 {
			if _, err := slow.Write([]byte("GET /stills/a/0/newest.jpg HTTP/1.1\r\nHost: x\r\nA: ")[:1]); err != nil {
				return
			}
			time.Sleep(10 * time.Millisecond)
		}
	}()
	w.eventually("it is closed", func() bool {
		return w.metric("sentryc_expired_total", "doing", "request") >= 1 || w.s.Connections() <= 1
	})
}

// TestPipelined: requests that come together are answered in their order, also by both loops in turn.
func TestPipelined(t *testing.T) {
	w := start(t, false, nil)
	f := w.add(1, 0)
	c, r := w.dial()
	for _, target := range []string{"/stills/a/0/newest.jpg", "/stills/a/0/1.jpg", "/stills/a/0/newest.jpg?after=0", "/stills/a/0/7.jpg", "/health"} {
		fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: x\r\n\r\n", target)
	}
	for i, want := range []int{200, 200, 200, 404, 200} {
		res, err := http.ReadResponse(r, nil)
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(res.Body)
		if err != nil || res.StatusCode != want || i < 3 && string(b) != string(f.JPEG) {
			t.Errorf("%d: %s, %d bytes, %v", i, res.Status, len(b), err)
		}
	}
}

// TestDrain: every answer says so and is the last one of its connection; Drain ends when all have gone.
func TestDrain(t *testing.T) {
	w := start(t, false, nil)
	w.add(1, 0)
	c, r := w.dial()
	send := func() (*http.Response, error) {
		fmt.Fprintf(c, "GET /stills/a/0/newest.jpg HTTP/1.1\r\nHost: x\r\n\r\n")
		res, err := http.ReadResponse(r, nil)
		if err == nil {
			_, err = io.Copy(io.Discard, res.Body)
		}
		return res, err
	}
	if res, err := send(); err != nil || res.Header.Get("Sentry") != "" {
		t.Fatalf("%v, %v", res, err)
	}
	done := make(chan struct{})
	go func() {
		w.s.Drain(context.Background())
		close(done)
	}()
	w.eventually("it drains", w.s.Draining)
	if res, err := ask(t, w); err != nil || res.Header.Get("Sentry") != "drain" {
		t.Errorf("a new connection: %v, %v", res, err)
	}
	if err := w.s.Healthy(); err == nil {
		t.Error("a server that drains is healthy")
	}
	res, err := send()
	if err != nil || res.StatusCode != 200 || res.Header.Get("Sentry") != "drain" || !res.Close || res.Header.Get("Cache-Control") != "no-store" {
		t.Errorf("%v, %v", res, err)
	}
	<-done
}

// TestNoAllocation: a request that is like the one before costs the server no allocation. What is counted is the whole
// process: the client must do without, too.
func TestNoAllocation(t *testing.T) {
	w := start(t, false, nil)
	f := w.add(1, 0)
	c, r := w.dial()
	etag := httpd.ETag(f)
	for name, x := range map[string]struct {
		req  string
		head string
		body int
	}{
		"200": {"GET /stills/a/0/newest.jpg HTTP/1.1\r\nHost: x\r\n\r\n", "HTTP/1.1 200 OK", len(f.JPEG)},
		"304": {"GET /stills/a/0/newest.jpg HTTP/1.1\r\nHost: x\r\nIf-None-Match: " + etag + "\r\n\r\n", "HTTP/1.1 304 Not Modified", 0},
	} {
		req := []byte(x.req)
		n := testing.AllocsPerRun(500, func() {
			if _, err := c.Write(req); err != nil {
				t.Fatal(err)
			}
			for first := true; ; first = false {
				line, err := r.ReadSlice('\n')
				if err != nil || first && string(line[:len(line)-2]) != x.head {
					t.Fatalf("%s: %q, %v", name, line, err)
				}
				if len(line) == 2 {
					break
				}
			}
			if _, err := r.Discard(x.body); err != nil {
				t.Fatal(err)
			}
		})
		if n >= 1 {
			t.Errorf("%s: %v allocations a request", name, n)
		}
	}
}

// BenchmarkHandler is what net/http's part costs: what the fast loop saves.
func BenchmarkHandler(b *testing.B) {
	w := start(b, false, nil)
	w.add(1, 0)
	h := w.s.Handler()
	r, err := http.NewRequest(http.MethodGet, "/stills/a/0/newest.jpg", nil)
	if err != nil {
		b.Fatal(err)
	}
	r.RequestURI = "/stills/a/0/newest.jpg"
	b.ReportAllocs()
	for b.Loop() {
		h.ServeHTTP(&nowhere{h: http.Header{}}, r)
	}
}

// nowhere is a ResponseWriter that keeps nothing.
type nowhere struct{ h http.Header }

func (n *nowhere) Header() http.Header         { return n.h }
func (n *nowhere) Write(b []byte) (int, error) { return len(b), nil }
func (n *nowhere) WriteHeader(int)             {}
