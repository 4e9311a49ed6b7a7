package page_test

import (
	"compress/gzip"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"

	"widecloud/internal/serve/page"
)

func of(t *testing.T) http.Handler {
	t.Helper()
	h, err := page.Of(fstest.MapFS{
		"index.html":       {Data: []byte("<!doctype html>" + strings.Repeat("<p>page</p>", 100))},
		"assets/app-1.js":  {Data: []byte(strings.Repeat("render();", 100))},
		"assets/dot-2.png": {Data: []byte("\x89PNG\r\n\x1a\n")},
	})
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func get(h http.Handler, method, path string, header ...string) *http.Response {
	r := httptest.NewRequest(method, path, nil)
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w.Result()
}

func TestPaths(t *testing.T) {
	h := of(t)
	for _, c := range []struct {
		method, path string
		status       int
		kind, cache  string
	}{
		{"GET", "/", 200, "text/html; charset=utf-8", "no-cache"},
		{"GET", "/vms/web1", 200, "text/html; charset=utf-8", "no-cache"},
		{"HEAD", "/jobs", 200, "text/html; charset=utf-8", "no-cache"},
		{"GET", "/assets/app-1.js", 200, "text/javascript; charset=utf-8", "public, max-age=31536000, immutable"},
		{"GET", "/assets/dot-2.png", 200, "image/png", "public, max-age=31536000, immutable"},
		{"GET", "/assets/app-0.js", 404, "text/plain; charset=utf-8", ""}, // of another release: the page must not come as a script
		{"POST", "/", 405, "text/plain; charset=utf-8", ""},
	} {
		got := get(h, c.method, c.path)
		type answer struct {
			Status      int
			Kind, Cache string
		}
		if diff := cmp.Diff(answer{c.status, c.kind, c.cache}, answer{got.StatusCode, got.Header.Get("Content-Type"), got.Header.Get("Cache-Control")}); diff != "" {
			t.Errorf("%s %s: -want +got\n%s", c.method, c.path, diff)
		}
		if p := got.Header.Get("Content-Security-Policy"); !strings.HasPrefix(p, "default-src 'none'; ") || strings.Contains(p, "unsafe") {
			t.Errorf("%s %s: policy %q", c.method, c.path, p)
		}
	}
}

func TestCompressionAndETag(t *testing.T) {
	h := of(t)
	plain := get(h, "GET", "/assets/app-1.js")
	want, _ := io.ReadAll(plain.Body)
	for accept, coding := range map[string]string{"": "", "gzip": "gzip", "br, GZIP;q=0.5": "gzip", "gzip;q=0": "", "gzip; q=0.000": "", "deflate": ""} {
		got := get(h, "GET", "/assets/app-1.js", "Accept-Encoding", accept)
		if c := got.Header.Get("Content-Encoding"); c != coding {
			t.Errorf("%q: coding %q, want %q", accept, c, coding)
		}
		body := io.Reader(got.Body)
		if coding != "" {
			var err error
			if body, err = gzip.NewReader(body); err != nil {
				t.Fatal(err)
			}
		}
		if b, err := io.ReadAll(body); err != nil || string(b) != string(want) {
			t.Errorf("%q: %q, %v", accept, b, err)
		}
		again := get(h, "GET", "/assets/app-1.js", "Accept-Encoding", accept, "If-None-Match", got.Header.Get("ETag"))
		if again.StatusCode != http.StatusNotModified {
			t.Errorf("%q: again: %d", accept, again.StatusCode)
		}
	}
	if same := get(h, "GET", "/assets/app-1.js", "Accept-Encoding", "gzip").Header.Get("ETag"); same == plain.Header.Get("ETag") {
		t.Error("one strong ETag for two representations (RFC 9110 section 8.8.3)")
	}
}

func TestNoIndex(t *testing.T) {
	if _, err := page.Of(fstest.MapFS{"assets/app.js": {}}); err == nil {
		t.Error("files without a page are taken")
	}
}

// TestBuilt: what is built into wcc is a page.
func TestBuilt(t *testing.T) {
	h, err := page.Handler()
	if err != nil {
		t.Fatal(err)
	}
	if got := get(h, "GET", "/"); got.StatusCode != 200 || !strings.HasPrefix(got.Header.Get("Content-Type"), "text/html") {
		t.Errorf("%d %s", got.StatusCode, got.Header.Get("Content-Type"))
	}
}
