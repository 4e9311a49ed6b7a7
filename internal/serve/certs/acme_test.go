package certs_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"widecloud/internal/serve"
	"widecloud/internal/serve/certs"
	"widecloud/internal/serve/servetest"
)

// pebble is Let's Encrypt's ACME server for tests.
const pebble = "github.com/letsencrypt/pebble/v2/cmd/"
const pebbleVersion = "v2.10.3"

// tool builds a program of pebble's.
func tool(t *testing.T, dir, name string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	cmd := exec.Command("go", "install", pebble+name+"@"+pebbleVersion)
	cmd.Env = append(os.Environ(), "GOBIN="+dir, "GOFLAGS=")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build %s: %v\n%s", name, err, out)
	}
	return path
}

// background runs a program until the test ends.
func background(t *testing.T, path string, args ...string) {
	t.Helper()
	cmd := exec.Command(path, args...)
	cmd.Env = append(os.Environ(), "PEBBLE_VA_NOSLEEP=1", "PEBBLE_WFE_NONCEREJECT=0")
	cmd.Stdout, cmd.Stderr = t.Output(), t.Output()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
}

// freePort is a port of the loopback that nobody has just now.
func freePort(t *testing.T) int {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().(*net.TCPAddr).Port
}

// acmeServer runs pebble, which looks all names up as 127.0.0.1 and dials a port of it to prove them.
func acmeServer(t *testing.T, prove int) (directory, management string, roots *x509.CertPool) {
	t.Helper()
	dir := t.TempDir()
	server, names := tool(t, dir, "pebble"), tool(t, dir, "pebble-challtestsrv")
	certificate, key := pair(t, dir, "acme.example", time.Now())
	text, err := os.ReadFile(certificate)
	if err != nil {
		t.Fatal(err)
	}
	roots = x509.NewCertPool()
	roots.AppendCertsFromPEM(text)
	api, manage, dns := freePort(t), freePort(t), freePort(t)
	config, err := json.Marshal(map[string]any{"pebble": map[string]any{
		"listenAddress": fmt.Sprintf("127.0.0.1:%d", api), "managementListenAddress": fmt.Sprintf("127.0.0.1:%d", manage),
		"certificate": certificate, "privateKey": key, "httpPort": freePort(t), "tlsPort": prove, "keyAlgorithm": "ecdsa",
		"profiles": map[string]any{"default": map[string]any{"description": "of the test", "validityPeriod": 7776000}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "pebble.json")
	if err := os.WriteFile(file, config, 0o600); err != nil {
		t.Fatal(err)
	}
	background(t, names, "-defaultIPv4", "127.0.0.1", "-defaultIPv6", "", "-dnsserver", fmt.Sprintf("127.0.0.1:%d", dns),
		"-http01", "", "-https01", "", "-tlsalpn01", "", "-doh", "", "-management", fmt.Sprintf("127.0.0.1:%d", freePort(t)))
	background(t, server, "-config", file, "-dnsserver", fmt.Sprintf("127.0.0.1:%d", dns))
	return fmt.Sprintf("https://127.0.0.1:%d/dir", api), fmt.Sprintf("https://127.0.0.1:%d", manage), roots
}

// TestACME has the API's port get a certificate from a real ACME server, which dials it to prove the name.
func TestACME(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	directory, management, roots := acmeServer(t, ln.Addr().(*net.TCPAddr).Port)
	ctx, stop := context.WithTimeout(t.Context(), 2*time.Minute)
	defer stop()
	dir, log := t.TempDir(), slog.New(slog.NewTextHandler(t.Output(), nil))
	a := certs.ACME{Domains: []string{"cloud.example"}, Directory: directory, Dir: filepath.Join(dir, "acme"), Roots: roots, Logger: log}
	api := serve.New(serve.Options{Controller: servetest.New(), Logger: log})
	served := make(chan error, 1)
	go func() { served <- api.Serve(ctx, ln, a.Serve(ctx)) }()
	defer func() {
		stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	}()

	var shown *x509.Certificate
	for shown == nil {
		if shown, err = handshake(ctx, ln.Addr().String(), "cloud.example", issuer(t, ctx, management, roots)); ctx.Err() != nil {
			t.Fatalf("no certificate: %v", err)
		}
		time.Sleep(100 * time.Millisecond)
	}
	if err := shown.VerifyHostname("cloud.example"); err != nil {
		t.Error(err)
	}
	if _, err := handshake(ctx, ln.Addr().String(), "evil.example", nil); err == nil {
		t.Error("another name has a certificate")
	}
	kept, err := os.ReadDir(filepath.Join(dir, "acme"))
	if err != nil || len(kept) < 2 {
		t.Errorf("account and certificate are not kept: %v, %v", kept, err)
	}
}

// issuer is the authority that pebble signs by, which it makes anew at each start; nil while it is not up.
func issuer(t *testing.T, ctx context.Context, management string, roots *x509.CertPool) *x509.CertPool {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}, DisableKeepAlives: true}}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, management+"/roots/0", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := client.Do(r)
	if err != nil {
		return nil
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(text)
	return pool
}
