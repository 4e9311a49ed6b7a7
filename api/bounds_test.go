package api_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"widecloud/api"
)

// TestEndlessAnswers meets servers that never stop: each call ends with what is wrong.
func TestEndlessAnswers(t *testing.T) {
	repeat := func(s string) func(io.Writer) {
		s = strings.Repeat(s, 1+(64<<10)/len(s))
		return func(w io.Writer) {
			for {
				if _, err := io.WriteString(w, s); err != nil {
					return
				}
			}
		}
	}
	list := func(c *api.Client) error { _, _, err := api.List[api.VM](context.Background(), c); return err }
	watch := func(c *api.Client) error {
		for _, err := range api.Watch[api.VM](context.Background(), c, 1) {
			return err
		}
		return errors.New("the watch ended without a word")
	}
	for _, tt := range []struct {
		name   string
		status int
		begin  string
		body   func(io.Writer)
		call   func(*api.Client) error
		want   string
	}{
		{"a string", 200, `{"items":[{"name":"`, repeat("x"), list, "larger than 64 MiB"},
		{"objects", 200, `{"items":[{}`, repeat(",{}"), list, "larger than 64 MiB"},
		{"many objects", 200, `{"items":[{}`, func(w io.Writer) { io.WriteString(w, strings.Repeat(",{}", 300_000)+"]}") }, list, "more than 200000 objects"},
		{"names", 200, `{"items":[{}`, func(w io.Writer) { io.WriteString(w, strings.Repeat(",{}", 300_000)+"]}") },
			func(c *api.Client) error { _, err := c.Names(context.Background(), api.KindVM); return err }, "more than 200000 objects"},
		{"an error", 500, `{"code":"internal","message":"`, repeat("x"), list, "not a controller's: 500 Internal Server Error"},
		{"an error of a watch", 409, ``, repeat("x"), watch, "not a controller's: 409 Conflict"},
		{"an event", 200, "data: ", repeat("x"), watch, "an event of a watch is larger than 16 MiB"},
		{"lines of an event", 200, "", repeat("data: xxxxxxxx\n"), watch, "an event of a watch is larger than 16 MiB"},
		{"fields that nobody knows", 200, "", repeat("x: y\n"), watch, "an event of a watch is larger than 16 MiB"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.WriteHeader(tt.status)
				io.WriteString(w, tt.begin)
				tt.body(w)
			}))
			defer h.Close()
			defer h.CloseClientConnections()
			c, err := api.NewClient(h.URL, "t", h.Client())
			if err != nil {
				t.Fatal(err)
			}
			if err := tt.call(c); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
}

// TestRedirects leads the client to another server: it does not go there, with its token or without, and says where it was led.
func TestRedirects(t *testing.T) {
	var visits atomic.Int32
	elsewhere := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		visits.Add(1)
		io.WriteString(w, `{}`)
	}))
	defer elsewhere.Close()
	for _, status := range []int{301, 302, 303, 307, 308} {
		h := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, elsewhere.URL+r.URL.Path, status)
		}))
		defer h.Close()
		c, err := api.NewClient(h.URL, "secret", nil)
		if err != nil {
			t.Fatal(err)
		}
		ctx := t.Context()
		for what, call := range map[string]func() error{
			"get":    func() error { _, err := api.Get[api.VM](ctx, c, "x"); return err },
			"create": func() error { _, err := api.Create(ctx, c, &api.VM{}); return err },
			"delete": func() error { _, err := api.Delete[api.VM](ctx, c, "x"); return err },
			"upload": func() error { _, err := c.Upload(ctx, "x", strings.NewReader("content"), 7); return err },
			"watch": func() error {
				for _, err := range api.Watch[api.VM](ctx, c, 1) {
					return err
				}
				return nil
			},
			"console": func() error {
				address, header := c.Console("x")
				r, err := http.NewRequestWithContext(ctx, "GET", address, nil)
				if err != nil {
					return err
				}
				r.Header = header
				resp, err := c.HTTP().Do(r)
				if err != nil {
					return err
				}
				defer resp.Body.Close()
				return api.AnswerError(resp)
			},
		} {
			if err := call(); err == nil || !strings.Contains(err.Error(), "leads to "+elsewhere.URL) || strings.Contains(err.Error(), "secret") {
				t.Errorf("%d, %s: %v", status, what, err)
			}
		}
	}
	if n := visits.Load(); n != 0 {
		t.Errorf("the client went there %d times", n)
	}
	if http.DefaultClient.CheckRedirect != nil {
		t.Error("the client that was handed in was changed")
	}
}

// silent is a client, in a bubble, of a server that f plays, once for each connection.
func silent(t *testing.T, f func(net.Conn, *bufio.Reader), test func(t *testing.T, c *api.Client)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		var servers sync.WaitGroup
		defer servers.Wait()
		transport := &http.Transport{
			ExpectContinueTimeout: time.Second,
			DialContext: func(context.Context, string, string) (net.Conn, error) {
				a, b := net.Pipe()
				servers.Go(func() {
					f(b, bufio.NewReader(b))
					b.Close()
				})
				return a, nil
			},
		}
		defer transport.CloseIdleConnections()
		c, err := api.NewClient("http://tokyo", "t", &http.Client{Transport: transport})
		if err != nil {
			t.Fatal(err)
		}
		test(t, c)
	})
}

// TestSilentServers meets servers that say nothing, or stop in the middle.
func TestSilentServers(t *testing.T) {
	list := func(ctx context.Context, c *api.Client) error { _, _, err := api.List[api.VM](ctx, c); return err }
	reads := func(_ net.Conn, r *bufio.Reader) { io.Copy(io.Discard, r) }
	// An answer that comes before its request ends the connection.
	asked := func(r *bufio.Reader) {
		if _, err := http.ReadRequest(r); err != nil {
			t.Error(err)
		}
	}
	for _, tt := range []struct {
		name  string
		serve func(net.Conn, *bufio.Reader)
		call  func(context.Context, *api.Client) error
		after time.Duration
		want  string
	}{
		{"nothing", reads, list, 30 * time.Second, "the controller has not answered within 30s"},
		{"half an answer", func(c net.Conn, r *bufio.Reader) {
			asked(r)
			io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{")
			reads(c, r)
		}, list, 30 * time.Second, "the controller's answer has stopped for 30s"},
		{"half an error", func(c net.Conn, r *bufio.Reader) {
			asked(r)
			io.WriteString(c, "HTTP/1.1 500 Oh\r\nContent-Length: 1000\r\n\r\n{")
			reads(c, r)
		}, list, 30 * time.Second, "the controller's answer has stopped for 30s"},
		{"a watch", reads, func(ctx context.Context, c *api.Client) error {
			for _, err := range api.Watch[api.VM](ctx, c, 1) {
				return err
			}
			return nil
		}, time.Minute, "the controller has not answered within 1m0s"},
		{"an upload that is not taken", func(c net.Conn, r *bufio.Reader) { time.Sleep(time.Hour) }, func(ctx context.Context, c *api.Client) error {
			_, err := c.Upload(ctx, "x", strings.NewReader(strings.Repeat("x", 1<<20)), 1<<20)
			return err
		}, 2 * time.Minute, "the upload has stopped for 2m0s"},
		{"an upload that is not answered", reads, func(ctx context.Context, c *api.Client) error {
			_, err := c.Upload(ctx, "x", strings.NewReader("content"), 7)
			return err
		}, 10*time.Minute + time.Second, "the controller has not answered within 10m0s of the upload's end"}, // a second for 100 Continue
		{"the user has no patience", reads, func(ctx context.Context, c *api.Client) error {
			ctx, cancel := context.WithTimeoutCause(ctx, time.Second, errors.New("Ctrl-C"))
			defer cancel()
			return list(ctx, c)
		}, time.Second, "Ctrl-C"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			silent(t, tt.serve, func(t *testing.T, c *api.Client) {
				began := time.Now()
				err := tt.call(t.Context(), c)
				if took := time.Since(began); err == nil || !strings.Contains(err.Error(), tt.want) || took != tt.after {
					t.Errorf("got %v after %v, want %q after %v", err, took, tt.want, tt.after)
				}
			})
		})
	}
}

// TestSlowAnswers takes long, and goes on: that is no reason to give up.
func TestSlowAnswers(t *testing.T) {
	const body = `{"revision":7,"items":[]}`
	serve := func(c net.Conn, r *bufio.Reader) {
		if _, err := http.ReadRequest(r); err != nil {
			return
		}
		time.Sleep(29 * time.Second)
		fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n", len(body))
		for _, b := range body {
			time.Sleep(29 * time.Second)
			if _, err := io.WriteString(c, string(b)); err != nil {
				return
			}
		}
	}
	silent(t, serve, func(t *testing.T, c *api.Client) {
		if _, revision, err := api.List[api.VM](t.Context(), c); err != nil || revision != 7 {
			t.Errorf("revision %d, %v", revision, err)
		}
	})
}

// TestUploadIsRefusedAtOnce asks before it sends: of a refused upload not a byte goes out.
func TestUploadIsRefusedAtOnce(t *testing.T) {
	sent := -1
	serve := func(c net.Conn, r *bufio.Reader) {
		req, err := http.ReadRequest(r)
		if err != nil {
			return
		}
		const refusal = `{"code":"too-many","message":"4 uploads"}`
		fmt.Fprintf(c, "HTTP/1.1 429 Too Many Requests\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s", len(refusal), refusal)
		n, _ := io.Copy(io.Discard, req.Body)
		sent = int(n)
	}
	silent(t, serve, func(t *testing.T, c *api.Client) {
		_, err := c.Upload(t.Context(), "x", strings.NewReader(strings.Repeat("x", 1<<20)), 1<<20)
		synctest.Wait()
		if !errors.Is(err, &api.Error{Code: api.CodeTooMany}) || sent != 0 {
			t.Errorf("%v, after %d bytes", err, sent)
		}
	})
}
