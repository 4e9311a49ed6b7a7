package viewer_test

import (
	"bytes"
	"context"
	"image"
	"image/jpeg"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"widecloud/internal/sentry/httpd"
	"widecloud/internal/sentry/pattern"
	"widecloud/internal/sentry/reel"
	"widecloud/internal/sentry/still"
	"widecloud/internal/sentry/viewer"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// server is a viewers' server of the channel "a".
type server struct {
	t    *testing.T
	reel *reel.Reel
	http *httpd.Server
	url  string
}

func serve(t *testing.T, set func(*httpd.Options)) *server {
	t.Helper()
	s := &server{t: t, reel: reel.New(reel.Options{Keep: time.Minute, MaxBytes: 32 << 20, MaxChannels: 4, Now: time.Now, Prepare: httpd.Prepare})}
	o := httpd.Options{Reel: s.reel, Keep: time.Minute, Log: slog.New(slog.DiscardHandler), MaxConnections: 100, MaxPerAddress: 100,
		PollWait: time.Minute, HeadTimeout: time.Minute, IdleTimeout: time.Minute, WriteTimeout: time.Minute, Now: time.Now}
	if set != nil {
		set(&o)
	}
	var err error
	if s.http, err = httpd.New(o); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.url = "http://" + l.Addr().String()
	done := make(chan error, 1)
	go func() { done <- s.http.Serve(l) }()
	t.Cleanup(func() {
		s.http.Close()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return s
}

var start = time.UnixMilli(1_300_000_000_000).UTC()

// add adds picture n, as still n+1000, to servers.
func add(t *testing.T, n uint64, servers ...*server) {
	t.Helper()
	taken := start.Add(time.Duration(n) * time.Second)
	for _, s := range servers {
		s.add(n+1000, taken, pattern.Draw(n, taken, 320, 180))
	}
}

func (s *server) add(number uint64, taken time.Time, picture image.Image) {
	s.t.Helper()
	var b bytes.Buffer
	if err := jpeg.Encode(&b, picture, nil); err != nil {
		s.t.Fatal(err)
	}
	if err := s.reel.Add(still.Still{Channel: "a", Number: number, Taken: taken, Width: 320, Height: 180, JPEG: b.Bytes()}); err != nil {
		s.t.Fatal(err)
	}
}

// watch begins to view. Both channels get what the viewer tells.
func watch(t *testing.T, servers ...*server) (seen <-chan viewer.Seen, trouble <-chan error) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	s, e := make(chan viewer.Seen, 100), make(chan error, 100)
	o := viewer.Options{Channel: "a", See: func(x viewer.Seen) { s <- x }, Trouble: func(err error) { e <- err }}
	for _, x := range servers {
		o.Servers = append(o.Servers, x.url)
	}
	var wg sync.WaitGroup
	wg.Go(func() { viewer.Watch(ctx, o) })
	t.Cleanup(func() { cancel(); wg.Wait() })
	return s, e
}

// next is what comes next.
func next[T any](t *testing.T, c <-chan T) (x T) {
	t.Helper()
	select {
	case x = <-c:
	case <-time.After(time.Minute):
		t.Fatal("nothing comes")
	}
	return x
}

// TestFollows: a viewer gets one still after the other, says what is in each, and does not get what was never there.
func TestFollows(t *testing.T) {
	s := serve(t, nil)
	seen, _ := watch(t, s)
	for _, n := range []uint64{1, 2, 3, 5, 6} {
		before := time.Now()
		add(t, n, s)
		got := next(t, seen)
		if got.Number != n || !got.Taken.Equal(start.Add(time.Duration(n)*time.Second)) || got.Server != s.url ||
			got.Bytes < 1000 || got.At.Before(before) || got.At.After(time.Now()) {
			t.Errorf("still %d: %+v", n, got)
		}
	}
}

// TestMoves: from a server that drains, that is gone and that is full viewers go to the next one, and go on there with the
// still after the last one.
func TestMoves(t *testing.T) {
	full := serve(t, func(o *httpd.Options) { o.MaxConnections = 1 })
	c, err := net.Dial("tcp", strings.TrimPrefix(full.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for full.http.Connections() < 1 {
		time.Sleep(time.Millisecond)
	}
	gone, draining, last := serve(t, nil), serve(t, nil), serve(t, nil)
	add(t, 1, full, gone, draining, last)
	seen, trouble := watch(t, full, gone, draining, last)
	if got := next(t, seen); got.Server != gone.url || got.Number != 1 {
		t.Errorf("%+v, not from the second server", got)
	}
	if err := next(t, trouble); !strings.Contains(err.Error(), "503") {
		t.Errorf("trouble with a full server: %v", err)
	}
	gone.http.Close()
	next(t, trouble)
	add(t, 2, draining, last)
	if got := next(t, seen); got.Server != draining.url || got.Number != 2 {
		t.Errorf("%+v, not from the third server", got)
	}
	drained := make(chan struct{})
	go func() { draining.http.Drain(context.Background()); close(drained) }()
	for !draining.http.Draining() {
		time.Sleep(time.Millisecond)
	}
	add(t, 3, last)
	if got := next(t, seen); got.Server != last.url || got.Number != 3 {
		t.Errorf("%+v, not from the last server", got)
	}
	<-drained
}

// TestWaits: without another server a viewer asks the same one again.
func TestWaits(t *testing.T) {
	s := serve(t, nil)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	dead := &server{url: "http://" + l.Addr().String()}
	l.Close()
	_, trouble := watch(t, dead)
	next(t, trouble)
	next(t, trouble)
	seen, _ := watch(t, dead, s)
	add(t, 1, s)
	if got := next(t, seen); got.Server != s.url {
		t.Errorf("%+v", got)
	}
}

// TestUnreadable: what is no still, or not one of the test picture, is not told of.
func TestUnreadable(t *testing.T) {
	s := serve(t, nil)
	add(t, 1, s)
	seen, trouble := watch(t, s)
	next(t, seen)
	s.add(1002, start, image.NewGray(image.Rect(0, 0, 320, 180)))
	if err := next(t, trouble); err == nil || !strings.Contains(err.Error(), "pattern") {
		t.Errorf("%v", err)
	}
	add(t, 3, s)
	if got := next(t, seen); got.Number != 3 {
		t.Errorf("%+v", got)
	}
}

// TestHalf: a still that breaks off is asked for again.
func TestHalf(t *testing.T) {
	s := serve(t, nil)
	broken := true
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	front := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if broken {
			broken = false
			w.Header().Set("Content-Length", "5000")
			w.Header().Set("Still", "1001 0")
			w.Write(make([]byte, 100))
			return
		}
		s.http.Handler().ServeHTTP(w, r)
	})}
	go front.Serve(l)
	t.Cleanup(func() { front.Close() })
	add(t, 1, s)
	seen, trouble := watch(t, &server{url: "http://" + l.Addr().String()})
	if err := next(t, trouble); !strings.Contains(err.Error(), "EOF") {
		t.Errorf("%v", err)
	}
	if got := next(t, seen); got.Number != 1 {
		t.Errorf("%+v", got)
	}
}
