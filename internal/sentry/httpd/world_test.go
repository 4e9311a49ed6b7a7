package httpd_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"image"
	"image/jpeg"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"

	"widecloud/internal/sentry/httpd"
	"widecloud/internal/sentry/reel"
	"widecloud/internal/sentry/still"
)

// world is a server of a reel with stills 1, 2, 3 … of channel "a", and what it takes to ask it.
type world struct {
	t    testing.TB
	reel *reel.Reel
	s    *httpd.Server
	addr string
	tls  *tls.Config // the client's; nil: plain

	mu  sync.Mutex
	now time.Time
}

func (w *world) clock() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.now
}

func (w *world) move(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.now = w.now.Add(d)
}

// start makes a world, which ends with the test. set may be nil.
func start(t testing.TB, secure bool, set func(*httpd.Options)) *world {
	w := &world{t: t, now: time.Unix(1_300_000_000, 0)}
	const keep = time.Minute
	w.reel = reel.New(reel.Options{Keep: keep, MaxBytes: 32 << 20, MaxChannels: 4, Now: w.clock, Prepare: httpd.Prepare})
	o := httpd.Options{Reel: w.reel, Keep: keep, Log: slog.New(slog.DiscardHandler), MaxConnections: 100, MaxPerAddress: 100,
		PollWait: time.Minute, HeadTimeout: time.Minute, IdleTimeout: time.Minute, WriteTimeout: time.Minute, Now: w.clock}
	if secure {
		o.TLS, w.tls = certificate(t)
	}
	if set != nil {
		set(&o)
	}
	s, err := httpd.New(o)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w.s, w.addr = s, l.Addr().String()
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	t.Cleanup(func() {
		s.Close()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if n := s.Connections(); n != 0 {
			t.Errorf("%d connections are left", n)
		}
	})
	return w
}

// add adds still n of channel "a" in a size, n seconds after the start.
func (w *world) add(n uint64, size int) *reel.Frame {
	w.t.Helper()
	s := picture(n, size)
	if err := w.reel.Add(s); err != nil {
		w.t.Fatal(err)
	}
	return w.reel.Newest("a", size)
}

// picture is a real JPEG, another one for each number and size.
func picture(n uint64, size int) still.Still {
	side := 320 >> size
	img := image.NewYCbCr(image.Rect(0, 0, side, side), image.YCbCrSubsampleRatio420)
	for i := range img.Y {
		img.Y[i] = uint8(uint64(i) * n)
	}
	for i := range img.Cb {
		img.Cb[i], img.Cr[i] = uint8(n*16), 128
	}
	var b bytes.Buffer
	if err := jpeg.Encode(&b, img, nil); err != nil {
		panic(err)
	}
	return still.Still{Channel: "a", Size: size, Number: n, Taken: time.Unix(1_300_000_000+int64(n), 0), Width: side, Height: side, JPEG: b.Bytes()}
}

func (w *world) url(path string) string {
	if w.tls != nil {
		return "https://" + w.addr + path
	}
	return "http://" + w.addr + path
}

// client is a client that keeps its connections; http2 is for TLS.
func (w *world) client(http2 bool) *http.Client {
	tr := &http.Transport{TLSClientConfig: w.tls.Clone(), Protocols: new(http.Protocols), DisableCompression: true}
	tr.Protocols.SetHTTP1(!http2)
	tr.Protocols.SetHTTP2(http2)
	w.t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

// get asks c for path, with fields "Name: value".
func (w *world) get(c *http.Client, path string, fields ...string) (*http.Response, []byte) {
	w.t.Helper()
	req, err := http.NewRequestWithContext(context.Background(), http.MethodGet, w.url(path), nil)
	if err != nil {
		w.t.Fatal(err)
	}
	for i := 0; i+1 < len(fields); i += 2 {
		req.Header.Set(fields[i], fields[i+1])
	}
	res, err := c.Do(req)
	if err != nil {
		w.t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		w.t.Fatal(err)
	}
	return res, b
}

// dial opens a connection for bytes as they are.
func (w *world) dial() (net.Conn, *bufio.Reader) {
	w.t.Helper()
	c, err := net.Dial("tcp", w.addr)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { c.Close() })
	return c, bufio.NewReader(c)
}

// eventually waits until ok.
func (w *world) eventually(what string, ok func() bool) {
	w.t.Helper()
	for range 6000 {
		if ok() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	w.t.Fatalf("never: %s", what)
}

func certificate(t testing.TB) (server, client *tls.Config) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(leaf)
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}, &tls.Config{RootCAs: roots}
}
