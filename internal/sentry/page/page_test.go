package page_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"flag"
	"image"
	"image/color"
	"image/draw"
	"image/jpeg"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"widecloud/internal/sentry/httpd"
	"widecloud/internal/sentry/page"
	"widecloud/internal/sentry/reel"
	"widecloud/internal/sentry/still"
)

var shots = flag.String("shots", "", "write screenshots of the page into this directory")

// server is a sentryc without its sender: stills are added by the test.
type server struct {
	t    *testing.T
	reel *reel.Reel
	http *httpd.Server
	url  string
	last uint64
}

// serve starts servers that know of each other.
func serve(t *testing.T, n int) []*server {
	t.Helper()
	var listeners []net.Listener
	places := []httpd.Place{}
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		listeners = append(listeners, l)
		if n > 1 {
			places = append(places, httpd.Place{URL: "http://" + l.Addr().String(), Weight: 1})
		}
	}
	var all []*server
	for _, l := range listeners {
		s := &server{t: t, url: "http://" + l.Addr().String()}
		s.reel = reel.New(reel.Options{Keep: time.Minute, MaxBytes: 32 << 20, MaxChannels: 2, Now: time.Now, Prepare: httpd.Prepare})
		p, err := page.New(page.Options{Reel: s.reel, Servers: places, Now: time.Now})
		if err != nil {
			t.Fatal(err)
		}
		s.http, err = httpd.New(httpd.Options{Reel: s.reel, Keep: time.Minute, Log: slog.New(slog.DiscardHandler), Page: p, Servers: places,
			MaxConnections: 100, MaxPerAddress: 100, PollWait: 20 * time.Second, HeadTimeout: time.Minute, IdleTimeout: time.Minute, WriteTimeout: time.Minute, Now: time.Now})
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan error, 1)
		go func() { done <- s.http.Serve(l) }()
		t.Cleanup(func() {
			s.http.Close()
			if err := <-done; err != nil {
				t.Error(err)
			}
		})
		all = append(all, s)
	}
	return all
}

// add adds a still in two sizes, taken now or ago.
func (s *server) add(ago time.Duration) uint64 {
	s.t.Helper()
	at := time.Now().Add(-ago)
	s.last = still.Next(s.last, at)
	for size, width := range []int{640, 320} {
		x := still.Still{Channel: "koshien", Size: size, Number: s.last, Taken: at, Width: width, Height: width * 9 / 16, JPEG: field(width, s.last)}
		if err := s.reel.Add(x); err != nil {
			s.t.Fatal(err)
		}
	}
	return s.last
}

// field is a baseball field, with a ball that moves from still to still.
func field(width int, n uint64) []byte {
	height := width * 9 / 16
	img := image.NewRGBA(image.Rect(0, 0, width, height))
	fill := func(r image.Rectangle, c color.RGBA) { draw.Draw(img, r, &image.Uniform{c}, image.Point{}, draw.Src) }
	fill(img.Rect, color.RGBA{120, 180, 235, 255})
	fill(image.Rect(0, height/3, width, height), color.RGBA{50, 125, 60, 255})
	for y := height / 2; y < height; y++ {
		half := (y - height/2) * 9 / 10
		fill(image.Rect(width/2-half, y, width/2+half, y+1), color.RGBA{165, 115, 70, 255})
	}
	x, r := int(n/10%12)*width/12+width/24, max(2, width/50)
	fill(image.Rect(x-r, height/4-r, x+r, height/4+r), color.RGBA{255, 255, 255, 255})
	var b bytes.Buffer
	if err := jpeg.Encode(&b, img, nil); err != nil {
		panic(err)
	}
	return b.Bytes()
}

// shown waits until the page shows still n.
func shown(b *browser, n uint64) {
	b.t.Helper()
	b.until("document.documentElement.dataset.number === '" + strconv.FormatUint(n, 10) + "' && document.getElementById('still').naturalWidth > 0")
}

// TestFlipBook: in a real browser, live, paused, back in time and live again, by keys and by the mouse; captions.
func TestFlipBook(t *testing.T) {
	s := serve(t, 1)[0]
	var numbers []uint64
	for i := 30; i > 0; i-- {
		numbers = append(numbers, s.add(time.Duration(i)*time.Second))
	}
	if err := s.reel.AddCaption("koshien", reel.Caption{From: time.Now(), Text: "9th inning, 3–4", Alt: "Two out, bases loaded"}); err != nil {
		t.Fatal(err)
	}
	b := open(t)
	b.visit(s.url+"/?lang=en", 1280, 800)
	shown(b, numbers[29])
	shown(b, s.add(0))
	shown(b, s.add(0))
	b.until("document.getElementById('caption').textContent === '9th inning, 3–4'")
	b.until("document.getElementById('still').alt === 'Two out, bases loaded'")
	b.until("document.querySelectorAll('#strip span').length > 4")
	if got := b.eval("[...document.getElementById('size').options].map(o => o.text).join()"); got != "automatic,640×360,320×180" {
		t.Errorf("sizes: %s", got)
	}
	write(t, b, "koshien-1280.png")

	b.press("k")
	b.until("document.documentElement.dataset.state === 'paused'")
	held := b.eval("document.documentElement.dataset.number")
	newest := s.add(0)
	b.press("k")
	shown(b, newest)
	if held == strconv.FormatUint(newest, 10) {
		t.Error("a paused page went on")
	}
	b.press("Home")
	b.until("document.documentElement.dataset.state === 'back'")
	b.until("+document.documentElement.dataset.number < " + strconv.FormatUint(numbers[5], 10))
	// It plays on: the next one follows by itself.
	from := b.eval("document.documentElement.dataset.number")
	b.until("+document.documentElement.dataset.number > " + from)
	b.press("l")
	shown(b, newest)
	b.eval("(document.getElementById('earlier').click(), 1)")
	b.until("document.documentElement.dataset.state === 'back'")
	b.eval("(document.getElementById('live').click(), 1)")
	shown(b, newest)
	b.press("f")
	b.until("document.fullscreenElement !== null && document.fullscreenElement.id === 'stage'")
}

// TestNarrow: 320 pixels are enough, in Japanese too, and nothing is wider than the screen.
func TestNarrow(t *testing.T) {
	s := serve(t, 1)[0]
	for i := 30; i >= 0; i-- {
		s.add(time.Duration(i) * time.Second)
	}
	if err := s.reel.AddCaption("koshien", reel.Caption{From: time.Now(), Text: "9回裏 3–4 二死満塁"}); err != nil {
		t.Fatal(err)
	}
	b := open(t)
	b.visit(s.url+"/?lang=ja", 320, 640)
	shown(b, s.add(0))
	b.until("document.querySelectorAll('#strip span').length > 4")
	b.until("document.getElementById('caption').textContent !== ''")
	if got := b.eval("document.documentElement.scrollWidth"); got != "320" {
		t.Errorf("the page is %s pixels wide", got)
	}
	if got := b.eval("document.documentElement.lang + document.querySelector('h1').textContent"); got != "jaライブ画像" {
		t.Errorf("language: %s", got)
	}
	// What is to be touched is large enough (WCAG 2.2, 2.5.8 asks for 24 pixels).
	if got := b.eval("[...document.querySelectorAll('button, select')].filter(e => e.offsetWidth < 40 || e.offsetHeight < 40).length"); got != "0" {
		t.Errorf("%s controls are small", got)
	}
	write(t, b, "koshien-320.png")
}

// TestMoves: the page goes on at the other server when one drains, and when one dies, without being loaded again.
func TestMoves(t *testing.T) {
	servers := serve(t, 3)
	last := uint64(0)
	add := func(list ...*server) uint64 {
		now := time.Now()
		last = still.Next(last, now)
		for _, s := range list {
			if err := s.reel.Add(still.Still{Channel: "koshien", Number: last, Taken: now, Width: 320, Height: 180, JPEG: field(320, last)}); err != nil {
				t.Fatal(err)
			}
		}
		return last
	}
	add(servers...)
	b := open(t)
	b.visit(servers[0].url+"/", 800, 600)
	shown(b, add(servers...))
	at := func() (int, string) {
		url := b.eval("document.documentElement.dataset.server")
		for i, s := range servers {
			if s.url == url || url == "" && i == 0 {
				return i, url
			}
		}
		t.Fatalf("it is at %q", url)
		return 0, ""
	}
	first, url := at()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go servers[first].http.Drain(ctx)
	b.until("document.documentElement.dataset.server !== '" + url + "'")
	rest := append(append([]*server{}, servers[:first]...), servers[first+1:]...)
	shown(b, add(rest...))
	second, url := at()
	if second == first {
		t.Fatal("it is still at the server that drains")
	}
	servers[second].http.Close()
	b.until("document.documentElement.dataset.server !== '" + url + "'")
	third, _ := at()
	if third == first || third == second {
		t.Fatalf("it is at server %d; %d drains, %d is dead", third, first, second)
	}
	shown(b, add(servers[third]))
}

// TestPlainDirectory: the page shows what a server without polls has, as nginx with a directory of stills.
func TestPlainDirectory(t *testing.T) {
	var n atomic.Uint64
	n.Store(1)
	s := serve(t, 1)[0]
	s.add(0)
	shell := httptest.NewRecorder()
	p, err := page.New(page.Options{Reel: s.reel, Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	p.ServeHTTP(shell, httptest.NewRequest("GET", "/", nil))
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		_, _ = w.Write(shell.Body.Bytes())
	})
	mux.Handle("GET /koshien.js", p)
	mux.Handle("GET /koshien.css", p)
	mux.HandleFunc("GET /stills/koshien/{size}/newest.jpg", func(w http.ResponseWriter, r *http.Request) {
		i := n.Load()
		w.Header().Set("Cache-Control", "no-cache")
		http.ServeContent(w, r, "newest.jpg", time.Unix(1_300_000_000+int64(i), 0), bytes.NewReader(field(320, i)))
	})
	h := httptest.NewServer(mux)
	t.Cleanup(h.Close)
	b := open(t)
	b.visit(h.URL+"/", 800, 600)
	shown(b, 1_300_000_001_000)
	n.Store(2)
	shown(b, 1_300_000_002_000)
	n.Store(3)
	shown(b, 1_300_000_003_000)
}

// TestWithoutScript: the page loads itself again, and has picture, text and languages as they are.
func TestWithoutScript(t *testing.T) {
	s := serve(t, 1)[0]
	b := open(t)
	b.visit(s.url+"/?lang=en", 800, 600)
	b.until("document.body.innerText.includes('There is no picture yet.')")
	s.add(0)
	b.call("Emulation.setScriptExecutionDisabled", map[string]any{"value": true})
	b.call("Page.navigate", map[string]any{"url": s.url + "/watch/koshien?lang=en"})
	b.until("document.readyState === 'complete' && document.getElementById('still') !== null && document.getElementById('still').naturalWidth === 320")
	if got := b.eval("document.getElementById('tools').offsetHeight + document.querySelector('noscript meta').content"); got != "05" {
		t.Errorf("tools and refresh: %s", got)
	}
}

func TestPageByLanguage(t *testing.T) {
	s := serve(t, 1)[0]
	s.add(0)
	for accept, want := range map[string]string{"": `lang="en"`, "ja": `lang="ja"`, "fr, ja-JP;q=0.8, en;q=0.7": `lang="ja"`, "en-GB,ja": `lang="en"`, "de": `lang="en"`} {
		req, err := http.NewRequest("GET", s.url+"/", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Accept-Language", accept)
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(res.Body)
		res.Body.Close()
		if !strings.Contains(string(body), want) || !strings.Contains(res.Header.Get("Vary"), "Accept-Language") {
			t.Errorf("Accept-Language %q: %.60s, %v", accept, body, res.Header)
		}
	}
	for path, want := range map[string]int{"/watch/other": 404, "/watch/": 404, "/watch/../x": 404, "/koshien.html": 404, "/page.go": 404, "/watch/koshien": 200} {
		c := http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
		res, err := c.Get(s.url + path)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if res.StatusCode != want {
			t.Errorf("%s: %s", path, res.Status)
		}
	}
}

// TestWeight: page, script and style are less than 15 kB with gzip.
func TestWeight(t *testing.T) {
	s := serve(t, 1)[0]
	s.add(0)
	sum := 0
	for _, path := range []string{"/", "/koshien.js", "/koshien.css"} {
		req, err := http.NewRequest("GET", s.url+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Accept-Encoding", "gzip")
		res, err := http.DefaultTransport.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(res.Body)
		res.Body.Close()
		if err != nil || res.Header.Get("Content-Encoding") != "gzip" {
			t.Fatalf("%s: %v, %v", path, err, res.Header)
		}
		z, err := gzip.NewReader(bytes.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		if text, err := io.ReadAll(z); err != nil || len(text) < 500 {
			t.Errorf("%s: %d bytes, %v", path, len(text), err)
		}
		sum += len(body)
	}
	if sum >= 15_000 {
		t.Errorf("%d bytes", sum)
	}
	t.Logf("%d bytes", sum)
}

// TestScriptHasNoWords: texts are in the page's languages, not in the script.
func TestScriptHasNoWords(t *testing.T) {
	js, err := os.ReadFile("koshien.js")
	if err != nil {
		t.Fatal(err)
	}
	code := regexp.MustCompile(`(?m)//.*$`).ReplaceAll(js, nil)
	if m := regexp.MustCompile(`'[A-Za-z]+( [a-z]+)+[^']*'`).FindAll(code, -1); len(m) > 1 { // 'use strict'
		t.Errorf("words: %q", m)
	}
}

// TestFiles: the page for other web servers is whole, and leads to what they have.
func TestFiles(t *testing.T) {
	r := reel.New(reel.Options{Keep: time.Minute, MaxBytes: 32 << 20, MaxChannels: 2, Now: time.Now})
	p, err := page.New(page.Options{Reel: r, Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	(&server{t: t, reel: r}).add(0)
	files := p.Files(r.Channels())
	for name, want := range map[string][]string{"index.html": {`lang="en"`, `data-sizes="0 1"`, `href="/index.ja.html"`, "</html>"},
		"index.ja.html": {`lang="ja"`, `href="/index.html"`, "</html>"}, "koshien.js": {"use strict"}, "koshien.css": {"figure"}} {
		for _, w := range want {
			if !strings.Contains(string(files[name]), w) {
				t.Errorf("%s has no %s", name, w)
			}
		}
	}
	if len(files) != 4 {
		t.Errorf("%d files", len(files))
	}
}

func TestBadServers(t *testing.T) {
	for _, url := range []string{"live.example", "ftp://live.example", "https://live.example/x", "https://live.example; script-src *", "https://a@b"} {
		if _, err := page.New(page.Options{Servers: []httpd.Place{{URL: url}}}); err == nil {
			t.Errorf("%q is taken", url)
		}
	}
}

// write keeps a screenshot for the documentation, if they are asked for.
func write(t *testing.T, b *browser, name string) {
	png := b.picture()
	if len(png) < 1000 {
		t.Errorf("a screenshot of %d bytes", len(png))
	}
	if *shots != "" {
		if err := os.WriteFile(filepath.Join(*shots, name), png, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}
