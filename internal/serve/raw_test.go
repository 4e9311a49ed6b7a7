package serve_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"widecloud/api"
	"widecloud/internal/serve"
	"widecloud/internal/serve/servetest"
)

// served is a site behind real sockets, by Serve itself: what net/http answers by its own is part of it.
func served(t *testing.T, ctl serve.Controller, secure *tls.Config) (address string) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	srv := serve.New(serve.Options{Controller: ctl, Logger: slog.New(slog.DiscardHandler)})
	go func() { done <- srv.Serve(ctx, ln, secure) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	return ln.Addr().String()
}

// testCertificate is one that clients which do not look at it take.
func testCertificate(t *testing.T) *tls.Config {
	t.Helper()
	h := httptest.NewTLSServer(nil)
	defer h.Close()
	return &tls.Config{Certificates: h.TLS.Certificates}
}

// TestRawRequests sends what no library sends: every refusal is an api.Error in JSON, also where net/http or the
// websocket's library answers by itself.
func TestRawRequests(t *testing.T) {
	const token = "Authorization: Bearer alice-token\r\n"
	const upgrade = "GET /v1/vms/web1/console HTTP/1.1\r\nHost: x\r\n" + token + "Connection: Upgrade\r\nUpgrade: websocket\r\n"
	const key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
	tests := []struct {
		name, request string
		status        int
		code          api.Code
		field         string
		message       string // a part of it
	}{
		{"not HTTP", "hello\r\n\r\n", 400, api.CodeInvalid, "", "not well-formed"},
		{"no host", "GET /v1/vms HTTP/1.1\r\n" + token + "\r\n", 400, api.CodeInvalid, "", "missing required Host header"},
		{"version", "GET /v1/vms HTTP/9.9\r\nHost: x\r\n\r\n", 505, api.CodeInvalid, "", "unsupported protocol version"},
		{"transfer encoding", "POST /v1/vms HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: rot13\r\n\r\n", 501, api.CodeInvalid, "", "Unsupported transfer encoding"},
		{"length", "POST /v1/vms HTTP/1.1\r\nHost: x\r\nContent-Length: -4\r\n\r\n", 400, api.CodeInvalid, "", "not well-formed"},
		{"large header", "GET /v1/vms HTTP/1.1\r\nHost: x\r\nX: " + strings.Repeat("x", 100<<10) + "\r\n\r\n", 431, api.CodeInvalid, "header", "is larger than 65536 bytes"},
		{"very large header", "GET /v1/vms HTTP/1.1\r\nHost: x\r\nX: " + strings.Repeat("x", 2<<20) + "\r\n\r\n", 431, api.CodeInvalid, "header", "is larger than 65536 bytes"},
		{"OPTIONS *", "OPTIONS * HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n", 401, api.CodeUnauthenticated, "", "no token"},
		{"OPTIONS * with a token", "OPTIONS * HTTP/1.1\r\nHost: x\r\n" + token + "\r\n", 404, api.CodeNotFound, "", "no such path"},
		{"CONNECT", "CONNECT x:80 HTTP/1.1\r\nHost: x\r\n" + token + "\r\n", 404, api.CodeNotFound, "", "no such path"},
		{"chunks that are none", "POST /v1/vms HTTP/1.1\r\nHost: x\r\n" + token + "Transfer-Encoding: chunked\r\n\r\nzz\r\n", 400, api.CodeInvalid, "body", "broke off: invalid byte in chunk length"},
		{"content type", "POST /v1/vms HTTP/1.1\r\nHost: x\r\n" + token + "Content-Type: application/x-www-form-urlencoded\r\nContent-Length: 2\r\n\r\n{}", 415, api.CodeInvalid, "Content-Type", "is application/x-www-form-urlencoded, must be application/json"},
		{"websocket's version", upgrade + key + "Sec-WebSocket-Version: 7\r\n\r\n", 400, api.CodeInvalid, "", "only 13 is supported"},
		{"websocket without a key", upgrade + "Sec-WebSocket-Version: 13\r\n\r\n", 400, api.CodeInvalid, "", "missing Sec-WebSocket-Key"},
		{"websocket of another origin", upgrade + key + "Sec-WebSocket-Version: 13\r\nOrigin: https://evil.example\r\n\r\n", 403, api.CodeForbidden, "", "evil.example"},
		{"websocket of HTTP/1.0", strings.Replace(upgrade, "HTTP/1.1", "HTTP/1.0", 1) + key + "Sec-WebSocket-Version: 13\r\n\r\n", 426, api.CodeInvalid, "", "HTTP/1.1"},
		{"websocket, refused", strings.Replace(upgrade, "web1", "none", 1) + key + "Sec-WebSocket-Version: 13\r\n\r\n", 404, api.CodeNotFound, "", "no vms named none"},
		{"no websocket", "GET /v1/vms/web1/console HTTP/1.1\r\nHost: x\r\n" + token + "\r\n", 426, api.CodeInvalid, "Upgrade", "RFC 6455"},
	}
	ctl := servetest.New()
	ctl.Put(&api.VM{Meta: api.Meta{Name: "web1", Owner: "tokyo-u"}})
	ports := map[string]string{"http": served(t, ctl, nil), "https": served(t, ctl, testCertificate(t))}
	for scheme, address := range ports {
		for _, tt := range tests {
			t.Run(scheme+"/"+tt.name, func(t *testing.T) {
				c, err := net.Dial("tcp", address)
				if err != nil {
					t.Fatal(err)
				}
				defer c.Close()
				if scheme == "https" {
					c = tls.Client(c, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"http/1.1"}})
				}
				go io.WriteString(c, tt.request) // the server need not take all of it
				checkAnswer(t, c, tt.status, tt.code, tt.field, tt.message)
			})
		}
	}
	t.Run("http to https", func(t *testing.T) {
		c, err := net.Dial("tcp", ports["https"])
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if _, err := io.WriteString(c, "GET /v1/vms HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		checkAnswer(t, c, 400, api.CodeInvalid, "", "use https://")
	})
}

// checkAnswer reads an answer, which must be an api.Error.
func checkAnswer(t *testing.T, c net.Conn, status int, code api.Code, field, message string) {
	t.Helper()
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Fatal(err)
	}
	var e api.Error
	if err := json.Unmarshal(b, &e); err != nil {
		t.Fatalf("%s: %s is not JSON: %q", resp.Status, resp.Header.Get("Content-Type"), b)
	}
	if resp.StatusCode != status || e.Code != code || e.Field != field || !strings.Contains(e.Message, message) {
		t.Errorf("got %d %s, want %d %s of %q with %q", resp.StatusCode, b, status, code, field, message)
	}
	if ct := resp.Header.Get("Content-Type"); ct != "application/json" {
		t.Errorf("Content-Type is %q", ct)
	}
}

// TestOverHTTP2 makes sure that the listener of our own leaves HTTP/2 alone.
func TestOverHTTP2(t *testing.T) {
	ctl := servetest.New()
	address := served(t, ctl, testCertificate(t))
	transport := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, ForceAttemptHTTP2: true}
	defer transport.CloseIdleConnections()
	h := &http.Client{Transport: transport}
	c, err := api.NewClient("https://"+address, "alice-token", h)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := api.Create(t.Context(), c, &api.VM{Meta: api.Meta{Name: "web1"}, Spec: api.VMSpec{Image: "tiny"}}); err != nil {
		t.Fatal(err)
	}
	resp, err := h.Get("https://" + address + "/healthz")
	if err != nil || resp.ProtoMajor != 2 {
		t.Fatalf("%v, %v: want HTTP/2", resp, err)
	}
	resp.Body.Close()
	for e, err := range api.Watch[api.VM](t.Context(), c, 0) {
		if err != nil || e.Object.Name != "web1" {
			t.Errorf("watch: %+v, %v", e, err)
		}
		break
	}
}
