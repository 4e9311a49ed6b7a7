package httpd

import (
	"bufio"
	"bytes"
	"io"
	"net/http"
	"strconv"
	"strings"
	"testing"
)

const plain = "GET /stills/a/0/newest.jpg HTTP/1.1\r\nHost: a.example:80\r\nUser-Agent: x/1.0 (y)\r\nConnection: keep-alive\r\n\r\n"

func TestParseHead(t *testing.T) {
	for _, c := range []struct {
		what string
		in   string
		want outcome
	}{
		{"plain", plain, fast},
		{"HEAD", strings.Replace(plain, "GET", "HEAD", 1), fast},
		{"close", strings.Replace(plain, "keep-alive", "Close", 1), fast},
		{"another behind it", plain + "GE", fast},
		{"nothing", "", more},
		{"a byte less", plain[:len(plain)-1], more},
		{"the method alone", "GET", more},
		{"half a target", "GET /stills/", more},
		{"half another target", "GET /still-life", foreign},
		{"another method", "DELETE /stills/a", foreign},
		{"HTTP/2", "PRI * HTTP/2.0\r\n\r\n", foreign},
		{"HTTP/1.0", strings.Replace(plain, "1.1", "1.0", 1), foreign},
		{"the page", strings.Replace(plain, "/stills/a/0/newest.jpg", "/", 1), foreign},
		{"an absolute target", strings.Replace(plain, "/stills/", "http://a.example/stills/", 1), foreign},
		{"two spaces", strings.Replace(plain, "GET ", "GET  ", 1), foreign},
		{"no Host", strings.Replace(plain, "Host", "Hast", 1), foreign},
		{"two Hosts", strings.Replace(plain, "User-Agent", "host", 1), foreign},
		{"a body", strings.Replace(plain, "User-Agent: x/1.0 (y)", "Content-Length: 1", 1), foreign},
		{"chunks", strings.Replace(plain, "User-Agent: x/1.0 (y)", "Transfer-Encoding: chunked", 1), foreign},
		{"an upgrade", strings.Replace(plain, "keep-alive", "upgrade", 1), foreign},
		{"expectation", strings.Replace(plain, "User-Agent: x/1.0 (y)", "Expect: 100-continue", 1), foreign},
		{"a folded line", strings.Replace(plain, "User-Agent: ", "User-Agent:\r\n ", 1), foreign},
		{"a space before the colon", strings.Replace(plain, "User-Agent:", "User-Agent :", 1), foreign},
		{"a bare line feed", strings.Replace(plain, "x/1.0 (y)", "x\nHost: y", 1), foreign},
		{"a NUL", strings.Replace(plain, "x/1.0", "x\x00", 1), foreign},
		{"an encoded target", strings.Replace(plain, "/a/", "/%61/", 1), foreign},
	} {
		if _, got := parseHead([]byte(c.in)); got != c.want {
			t.Errorf("%s: %d, want %d", c.what, got, c.want)
		}
	}
	h, _ := parseHead([]byte("HEAD /stills/a/0/1.jpg HTTP/1.1\r\nhost:x\r\nIF-NONE-MATCH:  \"1-ab\" \r\nConnection: close\r\n\r\nmore"))
	if string(h.target) != "/stills/a/0/1.jpg" || string(h.noneMatch) != `"1-ab"` || !h.onlyHead || !h.close || h.length != 87 {
		t.Errorf("%q %q %v %v %d", h.target, h.noneMatch, h.onlyHead, h.close, h.length)
	}
}

// FuzzParseHead: what the fast loop takes means the same to net/http, however the bytes come.
func FuzzParseHead(f *testing.F) {
	f.Add([]byte(plain), 10)
	f.Add([]byte("HEAD /stills/a/0/newest.jpg?after=1 HTTP/1.1\r\nhost:[::1]:80\r\nIf-None-Match: W/\"1\", *\r\nConnection: close\r\n\r\n"), 30)
	f.Add([]byte("GET /stills/a HTTP/1.1\r\nHost: x\r\nConnection: keep-alive\r\nConnection: close\r\nCookie: a=b\r\n\r\nrest"), 3)
	f.Fuzz(func(t *testing.T, b []byte, cut int) {
		h, o := parseHead(b)
		if o != fast {
			return
		}
		if cut >= 0 && cut < h.length {
			if _, o := parseHead(b[:cut]); o != more {
				t.Fatalf("%d of its bytes: %d", cut, o)
			}
		}
		in := bufio.NewReader(bytes.NewReader(b))
		r, err := http.ReadRequest(in)
		if err != nil {
			t.Fatalf("net/http refuses %q: %v", b[:h.length], err)
		}
		body, err := io.ReadAll(r.Body)
		rest, _ := io.ReadAll(in)
		switch {
		case err != nil || len(body) > 0:
			t.Fatalf("it has a body: %q, %v", body, err)
		case !bytes.Equal(rest, b[h.length:]):
			t.Fatalf("it ends elsewhere: %q and %q", rest, b[h.length:])
		case r.RequestURI != string(h.target) || r.URL.RequestURI() != string(h.target):
			t.Fatalf("target %q, net/http's %q", h.target, r.RequestURI)
		case r.Method != map[bool]string{false: "GET", true: "HEAD"}[h.onlyHead]:
			t.Fatalf("method %s", r.Method)
		case r.Header.Get("If-None-Match") != string(h.noneMatch):
			t.Fatalf("If-None-Match %q, net/http's %q", h.noneMatch, r.Header.Get("If-None-Match"))
		case r.Close != h.close:
			t.Fatalf("close %v, net/http's %v", h.close, r.Close)
		}
	})
}

// FuzzParse: a target that is understood has the one spelling that it has.
func FuzzParse(f *testing.F) {
	for _, s := range []string{"/stills/a/0/newest.jpg", "/stills/a/0/newest.jpg?after=12", "/stills/a-1/3/12.jpg", "/stills/a/0/at.jpg?t=1300000000000",
		"/stills/a/0/live.mjpg", "/stills/a/0/events", "/stills/a/strip.jpg", "/stills/a/index.json", "/stills/a/caption.json?t=1"} {
		f.Add(s)
		if _, ok := parse(s); !ok {
			f.Errorf("%s is not understood", s)
		}
	}
	f.Fuzz(func(t *testing.T, s string) {
		r, ok := parse(s)
		if ok && spell(r) != s {
			t.Fatalf("%q is understood as %q", s, spell(r))
		}
	})
}

// spell is the target of a request.
func spell(r request) string {
	head := prefix + r.channel + "/"
	size := head + string(rune('0'+r.size)) + "/"
	number := func(n int64) string { return strconv.FormatInt(n, 10) }
	switch r.what {
	case newest:
		return size + "newest.jpg"
	case poll:
		return size + "newest.jpg?after=" + number(int64(r.number))
	case byNumber:
		return size + number(int64(r.number)) + ".jpg"
	case byTime:
		return size + "at.jpg?t=" + number(r.at.UnixMilli())
	case live:
		return size + "live.mjpg"
	case events:
		return size + "events"
	case strip:
		return head + "strip.jpg"
	case index:
		return head + "index.json"
	}
	if r.at.IsZero() {
		return head + "caption.json"
	}
	return head + "caption.json?t=" + number(r.at.UnixMilli())
}
