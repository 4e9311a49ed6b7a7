package httpd_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"image/jpeg"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"widecloud/internal/sentry/httpd"
	"widecloud/internal/sentry/reel"
)

// each runs a test with all three: HTTP/1.1, HTTP/1.1 over TLS, HTTP/2.
func each(t *testing.T, test func(t *testing.T, w *world, c *http.Client)) {
	for _, x := range []struct {
		name          string
		secure, http2 bool
	}{{"plain", false, false}, {"tls", true, false}, {"http2", true, true}} {
		t.Run(x.name, func(t *testing.T) {
			w := start(t, x.secure, nil)
			test(t, w, w.client(x.http2))
		})
	}
}

func TestNewest(t *testing.T) {
	each(t, func(t *testing.T, w *world, c *http.Client) {
		if res, _ := w.get(c, "/stills/a/0/newest.jpg"); res.StatusCode != 404 || res.Header.Get("Cache-Control") != "no-store" {
			t.Errorf("no still: %s %v", res.Status, res.Header)
		}
		var etags []string
		for n := uint64(1); n < 4; n++ {
			f := w.add(n, 0)
			w.move(time.Second)
			res, body := w.get(c, "/stills/a/0/newest.jpg")
			got := map[string]string{}
			for _, name := range []string{"Content-Type", "Content-Length", "Cache-Control", "Still", "Last-Modified", "Access-Control-Allow-Origin"} {
				got[name] = res.Header.Get(name)
			}
			want := map[string]string{"Content-Type": "image/jpeg", "Content-Length": strconv.Itoa(len(f.JPEG)), "Cache-Control": "public, max-age=1",
				"Still": fmt.Sprintf("%d %d", n, f.Taken.UnixMilli()), "Last-Modified": f.Taken.UTC().Format(http.TimeFormat), "Access-Control-Allow-Origin": "*"}
			if d := cmp.Diff(want, got); res.StatusCode != 200 || d != "" || !bytes.Equal(body, f.JPEG) {
				t.Errorf("%d: %s, %d bytes: %s", n, res.Status, len(body), d)
			}
			if _, err := http.ParseTime(res.Header.Get("Date")); err != nil {
				t.Errorf("Date: %v", err)
			}
			etag := res.Header.Get("ETag")
			if !strings.HasPrefix(etag, `"`) {
				t.Errorf("ETag %s is not a strong one", etag)
			}
			for _, match := range []string{etag, "W/" + etag, `"x", ` + etag, "*"} {
				if res, body := w.get(c, "/stills/a/0/newest.jpg", "If-None-Match", match); res.StatusCode != 304 || len(body) > 0 ||
					res.Header.Get("ETag") != etag || res.Header.Get("Cache-Control") != "public, max-age=1" {
					t.Errorf("If-None-Match %s: %s, %d bytes, %v", match, res.Status, len(body), res.Header)
				}
			}
			for _, old := range etags {
				if res, body := w.get(c, "/stills/a/0/newest.jpg", "If-None-Match", old); res.StatusCode != 200 || !bytes.Equal(body, f.JPEG) {
					t.Errorf("an old ETag: %s", res.Status)
				}
			}
			etags = append(etags, etag)
		}
		res, err := c.Head(w.url("/stills/a/0/newest.jpg"))
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if n := res.ContentLength; res.StatusCode != 200 || n != int64(len(w.reel.Newest("a", 0).JPEG)) {
			t.Errorf("HEAD: %s, length %d", res.Status, n)
		}
		if d := cmp.Diff([]string{`"1-`, `"2-`, `"3-`}, []string{etags[0][:3], etags[1][:3], etags[2][:3]}); d != "" {
			t.Error(d)
		}
	})
}

func TestByNumberAndTime(t *testing.T) {
	each(t, func(t *testing.T, w *world, c *http.Client) {
		for n := uint64(1); n < 4; n++ {
			w.add(n, 1)
		}
		res, body := w.get(c, "/stills/a/1/2.jpg")
		if res.StatusCode != 200 || !bytes.Equal(body, picture(2, 1).JPEG) || res.Header.Get("Cache-Control") != "public, max-age=60, immutable" {
			t.Errorf("by number: %s, %v", res.Status, res.Header)
		}
		if res, _ := w.get(c, "/stills/a/1/9.jpg"); res.StatusCode != 404 || res.Header.Get("Cache-Control") != "no-store" {
			t.Errorf("not there yet: %s", res.Status)
		}
		w.move(time.Hour)
		w.add(4, 1)
		if res, _ := w.get(c, "/stills/a/1/2.jpg"); res.StatusCode != 410 {
			t.Errorf("not kept any more: %s", res.Status)
		}
		if res, _ := w.get(c, "/stills/a/1/at.jpg?t=1300000004500"); res.StatusCode != 302 || res.Header.Get("Location") != "/stills/a/1/4.jpg" {
			t.Errorf("by time: %s, %s", res.Status, res.Header.Get("Location"))
		}
	})
}

func TestPoll(t *testing.T) {
	each(t, func(t *testing.T, w *world, c *http.Client) {
		w.add(1, 0)
		if res, _ := w.get(c, "/stills/a/0/newest.jpg?after=0"); res.StatusCode != 200 || res.Header.Get("Still") != "1 1300000001000" {
			t.Errorf("a newer one is there: %s", res.Status)
		}
		const pollers = 5
		var wg sync.WaitGroup
		for range pollers {
			wg.Go(func() {
				res, body := w.get(c, "/stills/a/0/newest.jpg?after=1")
				if res.StatusCode != 200 || !bytes.Equal(body, picture(2, 0).JPEG) {
					t.Errorf("poll: %s, %d bytes", res.Status, len(body))
				}
			})
		}
		w.eventually("all wait", func() bool { return w.metric("sentryc_polls_waiting") == pollers })
		w.add(2, 0)
		wg.Wait()
		wg.Go(func() {
			if res, _ := w.get(c, "/stills/a/0/newest.jpg?after=2"); res.StatusCode != 204 || res.Header.Get("Sentry") != "drain" {
				t.Errorf("poll of a server that drains: %s, %v", res.Status, res.Header)
			}
		})
		w.eventually("it waits", func() bool { return w.metric("sentryc_polls_waiting") == 1 })
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		go w.s.Drain(ctx)
		wg.Wait()
	})
}

func TestPollTimesOut(t *testing.T) {
	w := start(t, false, func(o *httpd.Options) { o.PollWait = time.Millisecond })
	w.add(1, 0)
	if res, _ := w.get(w.client(false), "/stills/a/0/newest.jpg?after=1"); res.StatusCode != 204 || res.Header.Get("Cache-Control") != "no-store" {
		t.Errorf("%s, %v", res.Status, res.Header)
	}
}

func TestStreams(t *testing.T) {
	each(t, func(t *testing.T, w *world, c *http.Client) {
		w.add(1, 0)
		res, err := c.Get(w.url("/stills/a/0/live.mjpg"))
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		_, params, err := mime.ParseMediaType(res.Header.Get("Content-Type"))
		if err != nil {
			t.Fatal(err)
		}
		parts := multipart.NewReader(res.Body, params["boundary"])
		sse, err := c.Get(w.url("/stills/a/0/events"))
		if err != nil {
			t.Fatal(err)
		}
		defer sse.Body.Close()
		events := bufio.NewReader(sse.Body)
		for n := uint64(1); n < 5; n++ {
			want := w.reel.Newest("a", 0)
			p, err := parts.NextPart()
			if err != nil {
				t.Fatal(err)
			}
			// The part ends with the boundary, which has been sent: no other still is needed to see it.
			got, err := io.ReadAll(p)
			if err != nil || !bytes.Equal(got, want.JPEG) || p.Header.Get("Content-Length") != strconv.Itoa(len(want.JPEG)) {
				t.Errorf("part %d: %v, %d bytes, %v", n, err, len(got), p.Header)
			}
			if got, want := block(t, events), fmt.Sprintf("id: %d\nevent: still\ndata: {\"number\":%d,\"taken\":%d,\"bytes\":%d}\n\n",
				n, n, want.Taken.UnixMilli(), len(want.JPEG)); got != want {
				t.Errorf("event %q, want %q", got, want)
			}
			w.add(n+1, 0)
		}
		block(t, events) // 5
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		go w.s.Drain(ctx)
		if got := block(t, events); got != "event: drain\ndata: {}\n\n" {
			t.Errorf("drained: %q", got)
		}
	})
}

// block reads an event with its empty line.
func block(t *testing.T, r *bufio.Reader) (s string) {
	t.Helper()
	for !strings.HasSuffix(s, "\n\n") {
		line, err := r.ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		s += line
	}
	return s
}

func TestIndexCaptionStrip(t *testing.T) {
	w := start(t, false, func(o *httpd.Options) { o.Servers = []httpd.Place{{URL: "https://b.example", Weight: 2}} })
	c := w.client(false)
	for _, path := range []string{"index.json", "caption.json", "strip.jpg"} {
		if res, _ := w.get(c, "/stills/a/"+path); res.StatusCode != 404 {
			t.Errorf("%s of nothing: %s", path, res.Status)
		}
	}
	for n := uint64(1); n <= 30; n++ {
		w.add(n, 0)
		w.add(n, 2)
		w.move(time.Second)
	}
	_, body := w.get(c, "/stills/a/index.json")
	var got httpd.Index
	if err := json.Unmarshal(body, &got); err != nil {
		t.Fatal(err)
	}
	want := httpd.Index{Channel: "a", Now: 1_300_000_030_000, Servers: []httpd.Place{{URL: "https://b.example", Weight: 2}}}
	for _, size := range []int{0, 2} {
		f := w.reel.Newest("a", size)
		want.Sizes = append(want.Sizes, httpd.IndexSize{Size: size, Width: 320 >> size, Height: 320 >> size, Bytes: len(f.JPEG), Newest: 30,
			Taken: 1_300_000_030_000, Oldest: 1, Since: 1_300_000_001_000})
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	if _, body := w.get(c, "/stills/a/caption.json"); string(body) != `{"from":0,"text":"","alt":""}` {
		t.Errorf("no caption: %s", body)
	}
	if err := w.reel.AddCaption("a", reel.Caption{From: time.Unix(1_300_000_010, 0), Text: "9回裏 3-4", Alt: "二死満塁"}); err != nil {
		t.Fatal(err)
	}
	if _, body := w.get(c, "/stills/a/caption.json"); string(body) != `{"from":1300000010000,"text":"9回裏 3-4","alt":"二死満塁"}` {
		t.Errorf("caption: %s", body)
	}
	if _, body := w.get(c, "/stills/a/caption.json?t=1300000009999"); string(body) != `{"from":0,"text":"","alt":""}` {
		t.Errorf("caption before the first one: %s", body)
	}
	res, body := w.get(c, "/stills/a/strip.jpg")
	if cfg, err := jpeg.DecodeConfig(bytes.NewReader(body)); err != nil || cfg.Width != 12*96 || cfg.Height != 54 {
		t.Errorf("strip: %v, %+v", err, cfg)
	}
	// Steps of 5 s: at the start, and 5, 10, 15, 20, 25, 30 s later.
	if s := res.Header.Get("Stills"); s != "1 5 10 15 20 25 30" {
		t.Errorf("strip of %s", s)
	}
	if res, _ := w.get(c, "/stills/a/strip.jpg", "If-None-Match", res.Header.Get("ETag")); res.StatusCode != 304 {
		t.Errorf("the same strip: %s", res.Status)
	}
}

// TestPathTricks: what is not spelled as it is defined is not found, whoever serves it.
func TestPathTricks(t *testing.T) {
	w := start(t, false, nil)
	w.add(1, 0)
	for _, target := range []string{
		"/stills/a/0/../0/newest.jpg", "/stills//a/0/newest.jpg", "/stills/a/0//newest.jpg", "/stills/a/00/newest.jpg", "/stills/a/4/newest.jpg",
		"/stills/%61/0/newest.jpg", "/stills/a/0/newest%2ejpg", "/stills/A/0/newest.jpg", "/stills/a/0/newest.jpg/", "/stills/a/0/newest.jpg?",
		"/stills/a/0/newest.jpg?after=", "/stills/a/0/newest.jpg?after=-1", "/stills/a/0/newest.jpg?after=01", "/stills/a/0/newest.jpg?after=1&after=2",
		"/stills/a/0/newest.jpg?x=1", "/stills/a/0/1.jpg?x", "/stills/a/0/+1.jpg", "/stills/a/0/9007199254740992.jpg", "/stills/a/0/99999999999999999999.jpg",
		"/stills/a/0/1.jpeg", "/stills/../stills/a/0/newest.jpg", "/stills/a\\0\\newest.jpg", "/stills/", "/stills/a/index.json?x=1", "/stills/a/caption.json?t=x",
		"/stills/../../etc/passwd", "/etc/passwd", "/..%2f..%2fetc/passwd", "/stills/a/0/at.jpg", "/stills/a/0/.jpg",
	} {
		c, r := w.dial()
		fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: x\r\n\r\n", target)
		res, err := http.ReadResponse(r, nil)
		if err != nil {
			t.Fatalf("%s: %v", target, err)
		}
		res.Body.Close()
		c.Close()
		if res.StatusCode != 404 && res.StatusCode != 400 {
			t.Errorf("%s: %s", target, res.Status)
		}
	}
}

// TestMethods: only GET, HEAD and what browsers ask before them.
func TestMethods(t *testing.T) {
	w := start(t, false, nil)
	w.add(1, 0)
	c := w.client(false)
	for method, want := range map[string]int{"POST": 405, "PUT": 405, "DELETE": 405, "OPTIONS": 204} {
		req, err := http.NewRequest(method, w.url("/stills/a/0/newest.jpg"), strings.NewReader("x"))
		if err != nil {
			t.Fatal(err)
		}
		res, err := c.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if res.StatusCode != want {
			t.Errorf("%s: %s", method, res.Status)
		}
	}
}

// metric is the value of a metric; with labels, "name{label="value"}", it is the sum of those that have them.
func (w *world) metric(name string, labels ...string) float64 {
	w.t.Helper()
	r := prometheus.NewRegistry()
	if err := r.Register(w.s); err != nil {
		w.t.Fatal(err)
	}
	families, err := r.Gather()
	if err != nil {
		w.t.Fatal(err)
	}
	sum := 0.0
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
	metrics:
		for _, m := range f.GetMetric() {
			have := map[string]string{}
			for _, l := range m.GetLabel() {
				have[l.GetName()] = l.GetValue()
			}
			for i := 0; i+1 < len(labels); i += 2 {
				if have[labels[i]] != labels[i+1] {
					continue metrics
				}
			}
			sum += m.GetCounter().GetValue() + m.GetGauge().GetValue()
		}
	}
	return sum
}
