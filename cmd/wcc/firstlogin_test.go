package main

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// TestFirstLogin takes a site from its first start to a lost token and back, with the programs themselves: no output and
// no log has a token, and the file that has it is gone once it was used.
func TestFirstLogin(t *testing.T) {
	dir := t.TempDir()
	data, conf := filepath.Join(dir, "data"), filepath.Join(dir, "site.toml")
	first := filepath.Join(data, "first-admin-token")
	api := freePort(t)
	text := fmt.Sprintf("site = \"tokyo\"\ndata_dir = %q\n[api]\nlisten = %q\n[outside]\nlisten = %q\n[log]\nlevel = \"debug\"\n", data, api, freePort(t))
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("WCC_CONFIG", filepath.Join(dir, "wcc.toml"))
	for _, v := range []string{"WCC_SERVER", "WCC_TOKEN", "WCC_CA", "WCC_CONTEXT"} {
		t.Setenv(v, "")
	}
	wcc := func(wantCode int, args ...string) string {
		t.Helper()
		var out bytes.Buffer
		if code := run(t.Context(), args, strings.NewReader(""), &out, &out, false); code != wantCode {
			t.Fatalf("wcc %v: code %d, want %d: %s", args, code, wantCode, &out)
		}
		return out.String()
	}
	server := "http://" + api

	said, stop := serveSite(t, conf, api)
	if got := said.String(); !strings.Contains(got, first) || strings.Contains(got, "wcc_") {
		t.Errorf("the first start says %q, want the file %s and no token", got, first)
	}
	info, err := os.Stat(first)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("the file of the first token: %v, %v", info, err)
	}
	secret, err := os.ReadFile(first)
	if err != nil {
		t.Fatal(err)
	}
	token := strings.TrimSpace(string(secret))
	if got := wcc(1, "--server", server, "--token", token, "site", "list"); !strings.Contains(got, "wcc login NAME --first FILE") {
		t.Errorf("the first token, used as if it were lasting: %s", got)
	}
	wcc(0, "--server", server, "login", "tokyo", "--first", first)
	if _, err := os.Stat(first); !os.IsNotExist(err) {
		t.Errorf("after the login the file is there: %v", err)
	}
	if got := wcc(0, "user", "token", "list"); !strings.Contains(got, "never") || !strings.Contains(got, "first login at ") || strings.Count(got, "\n") != 2 {
		t.Errorf("tokens: %s", got)
	}
	if got := wcc(1, "user", "delete", "admin"); !strings.Contains(got, "no admin would be left") {
		t.Errorf("delete the only admin: %s", got)
	}
	if err := os.WriteFile(first, secret, 0o600); err != nil { // a copy, say
		t.Fatal(err)
	}
	if got := wcc(1, "--server", server, "login", "other", "--first", first); !strings.Contains(got, "first login: the token is not known") {
		t.Errorf("the first token again: %s", got)
	}
	if got := wcc(1, "site", "recover", "--config", conf); !strings.Contains(got, "the controller must be stopped") {
		t.Errorf("recover while it runs: %s", got)
	}
	stop()

	said, stop = serveSite(t, conf, api)
	if got := said.String(); strings.Contains(got, first) {
		t.Errorf("the second start says %q", got)
	}
	if _, err := os.Stat(first); !os.IsNotExist(err) {
		t.Errorf("the second start has left a file that is of no use: %v", err)
	}
	stop()

	wcc(0, "contexts", "delete", "tokyo") // the token is lost
	if got := wcc(0, "site", "recover", "--config", conf, "--user", "root"); !strings.Contains(got, first) || strings.Contains(got, "wcc_") {
		t.Errorf("recover says %q", got)
	}
	_, stop = serveSite(t, conf, api)
	wcc(0, "--server", server, "login", "tokyo", "--first", first)
	if got := wcc(0, "user", "list"); !strings.Contains(got, "root") || !strings.Contains(got, "admin") {
		t.Errorf("users: %s", got)
	}
	if got := wcc(0, "event", "list"); !strings.Contains(got, "user.recovered") {
		t.Errorf("events: %s", got)
	}
	stop()

	if got := wcc(1, "site", "recover", "--config", writeConfig(t, dir, strings.Replace(text, data, filepath.Join(dir, "none"), 1))); !strings.Contains(got, "there is no site here") {
		t.Errorf("recover of nothing: %s", got)
	}
}

func writeConfig(t *testing.T, dir, text string) string {
	t.Helper()
	path := filepath.Join(dir, "other.toml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// output is what a program that runs beside the test has said.
type output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

// serveSite runs wcc serve until stop, and returns when its API answers.
func serveSite(t *testing.T, conf, api string) (said *output, stop func()) {
	t.Helper()
	said = &output{}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan int, 1)
	go func() {
		ended <- run(ctx, []string{"serve", "--config", conf}, strings.NewReader(""), said, said, false)
	}()
	stop = sync.OnceFunc(func() {
		cancel()
		if code := <-ended; code != 0 {
			t.Errorf("wcc serve ended with %d: %s", code, said)
		}
	})
	t.Cleanup(stop)
	for began := time.Now(); ; time.Sleep(10 * time.Millisecond) {
		c, err := net.Dial("tcp", api)
		if err == nil {
			c.Close()
			return said, stop
		}
		if time.Since(began) > time.Minute {
			t.Fatalf("the API does not answer: %v; %s", err, said)
		}
	}
}
