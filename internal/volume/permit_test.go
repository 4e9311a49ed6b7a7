package volume_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"widecloud/api"
	"widecloud/internal/volume"
)

func prefixes(s ...string) (out []netip.Prefix) {
	for _, p := range s {
		out = append(out, netip.MustParsePrefix(p))
	}
	return out
}

// What a user's URL must not lead the controller to. A permitted address is tried, and does not answer.
func TestFetchAddresses(t *testing.T) {
	site := volume.FetchOptions{
		Deny:   prefixes("2001:db8:aaaa::/48", "192.0.2.64/26"),
		Pref64: netip.MustParsePrefix("2001:db8:64::/96"),
	}
	private := volume.FetchOptions{
		Allow:  prefixes("10.1.0.0/16", "fd00:1::/64", "64:ff9b:1::/48"),
		Deny:   prefixes("10.1.2.0/24", "fd00:1::5/128"),
		Pref64: netip.MustParsePrefix("2001:db8:64::/48"),
	}
	for _, tc := range []struct {
		o         volume.FetchOptions
		permitted bool
		addresses string
	}{
		{volume.FetchOptions{}, false, "127.0.0.1 ::1 169.254.169.254 fe80::1%25lo 224.0.0.1 ff02::1 0.0.0.0 :: ::ffff:127.0.0.1"},
		{volume.FetchOptions{}, false, "10.0.0.1 172.16.0.1 172.31.255.255 192.168.0.1 fd00::1 fc00::1 ::ffff:10.0.0.1"}, // private
		{volume.FetchOptions{}, false, "100.64.0.1 100.127.255.255 0.1.2.3 192.0.0.1 198.18.0.1 240.0.0.1 255.255.255.255 fec0::1 100::1 4000::1"},
		{volume.FetchOptions{}, false, "64:ff9b::7f00:1 64:ff9b::a9fe:a9fe 64:ff9b::10.0.0.1 64:ff9b:1::8.8.8.8 64:ff9b:1:a00:0:100::"}, // NAT64
		{volume.FetchOptions{}, false, "::127.0.0.1 ::10.0.0.1 ::ffff:0:127.0.0.1 ::ffff:0:10.0.0.1"},                                   // IPv4-compatible, -translated
		{volume.FetchOptions{}, false, "2002:7f00:1:: 2002:a00:1::1"},                                                                   // 6to4
		{volume.FetchOptions{}, false, "2001:0:7f00:1::3fff:fdfe 2001:0:c000:201::f5ff:fffe"},                                           // Teredo: the server, the client 10.0.0.1
		{volume.FetchOptions{}, true, "192.0.2.1 198.51.100.1 203.0.113.1 2001:db8::1 64:ff9b::192.0.2.1 2002:c000:201::1 2001:0:c000:201::3fff:fdfe"},
		{site, false, "192.0.2.65 ::ffff:192.0.2.65 64:ff9b::192.0.2.65 2001:db8:64::192.0.2.65 2001:db8:aaaa::1 2001:db8:64::127.0.0.1 2001:db8:64::10.0.0.1"},
		{site, true, "192.0.2.1 2001:db8:64::192.0.2.1 2001:db8:aaab::1"},
		{private, false, "10.1.2.3 10.2.0.1 fd00:1::5 fd00:2::1 2001:db8:64:a01:2:300:: 2001:db8:64:a02:0:100:: 2002:a01:203::1"},
		{private, true, "10.1.3.1 fd00:1::6 2001:db8:64:a01:3:100:: 2002:a01:301::1 64:ff9b:1::1"},
	} {
		for _, a := range strings.Fields(tc.addresses) {
			o := tc.o
			o.Stall = 20 * time.Millisecond
			r, _, err := volume.Fetch(context.Background(), "http://"+net.JoinHostPort(a, "9")+"/image", o)
			if err == nil {
				r.Close()
				t.Fatalf("%s answers", a)
			}
			refused := errors.Is(err, &api.Error{Code: api.CodeInvalid, Field: "spec.source"}) && strings.Contains(err.Error(), "may not be fetched from")
			if refused == tc.permitted {
				t.Errorf("%s with %+v: %v", a, tc.o, err)
			}
		}
	}
}

// Each redirect is judged as the first address was, and does not tell where it led.
func TestFetchJudgesRedirects(t *testing.T) {
	asked := false
	secret := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked = true }))
	defer secret.Close()
	l, err := net.Listen("tcp", "127.0.0.2:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: http.RedirectHandler(secret.URL+"/", http.StatusFound)}
	go srv.Serve(l)
	defer srv.Close()
	var log strings.Builder
	_, _, err = volume.Fetch(context.Background(), "http://"+l.Addr().String(), volume.FetchOptions{
		Allow: prefixes("127.0.0.2/32"), Logger: slog.New(slog.NewTextHandler(&log, nil)),
	})
	if !errors.Is(err, &api.Error{Code: api.CodeInvalid, Field: "spec.source"}) || !strings.Contains(err.Error(), "may not be fetched from") {
		t.Errorf("error is %v", err)
	}
	if asked {
		t.Error("the private server was asked")
	}
	if strings.Contains(fmt.Sprint(err), "127.0.0.1") || !strings.Contains(log.String(), "127.0.0.1") {
		t.Errorf("the address is for the log alone; error: %v; log: %s", err, log.String())
	}
}

// A server's words do not reach the user, whatever part of its answer they are in; the log has them.
func TestFetchDropsTheServersWords(t *testing.T) {
	const words = "evil\x1b[31m"
	for name, answer := range map[string]string{
		"status text":        "HTTP/1.1 404 " + words + "\r\n\r\n",
		"status of a fault":  "HTTP/1.1 503 " + words + "\r\nContent-Length: 0\r\n\r\n",
		"status line":        words + "\r\n\r\n",
		"status code":        "HTTP/1.1 " + words + "\r\n\r\n",
		"header":             "HTTP/1.1 200 OK\r\n" + words + "\r\n\r\n",
		"header name":        "HTTP/1.1 200 OK\r\n" + words + ": x\r\n\r\n",
		"length":             "HTTP/1.1 200 OK\r\nContent-Length: " + words + "\r\n\r\n",
		"encoding":           "HTTP/1.1 200 OK\r\nTransfer-Encoding: " + words + "\r\n\r\n",
		"chunk":              "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + words + "\r\n",
		"redirect":           "HTTP/1.1 302 Found\r\nLocation: http://" + words + "/\r\n\r\n",
		"redirect to a name": "HTTP/1.1 302 Found\r\nLocation: http://evil.invalid/\r\n\r\n",
		"redirect elsewhere": "HTTP/1.1 302 Found\r\nLocation: evil://x/\r\n\r\n",
		"redirect nowhere":   "HTTP/1.1 302 evil\r\n\r\n",
		"redirect refused":   "HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/evil\r\n\r\n",
		"body":               "HTTP/1.1 403 Forbidden\r\nContent-Length: 4\r\n\r\nevil",
		"nothing":            "",
	} {
		t.Run(name, func(t *testing.T) {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			go func() {
				c, err := l.Accept()
				if err != nil {
					return
				}
				defer c.Close()
				if _, err := http.ReadRequest(bufio.NewReader(c)); err == nil {
					io.WriteString(c, answer)
				}
			}()
			r, _, err := volume.Fetch(context.Background(), "http://"+l.Addr().String()+"/", volume.FetchOptions{Allow: here})
			if err == nil {
				_, err = io.ReadAll(r)
				r.Close()
			}
			var e *api.Error
			if !errors.As(err, &e) || e.Field != "spec.source" {
				t.Fatalf("error is %v", err)
			}
			if strings.Contains(err.Error(), "evil") || strings.Contains(err.Error(), "127.0.0.1") || strings.ContainsAny(err.Error(), "\x1b\r\n") {
				t.Errorf("the server's words reach the user: %q", err)
			}
		})
	}
}
