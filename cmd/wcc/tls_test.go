package main

import (
	"bytes"
	"context"
	"encoding/pem"
	"errors"
	"io"
	"log/slog"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"widecloud/api"
	"widecloud/internal/serve"
	"widecloud/internal/serve/servetest"
)

// TestTLS logs in with a CA, lists, and attaches to a console, all over HTTPS with HTTP/2 on offer.
func TestTLS(t *testing.T) {
	ctl := servetest.New()
	fixture(ctl)
	srv := serve.New(serve.Options{Controller: ctl, Logger: slog.New(slog.DiscardHandler)})
	h := httptest.NewUnstartedServer(srv)
	h.EnableHTTP2 = true
	h.StartTLS()
	defer func() { srv.Stop(); h.CloseClientConnections(); h.Close() }()
	dir := t.TempDir()
	ca := filepath.Join(dir, "ca.pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: h.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("WCC_CONFIG", filepath.Join(dir, "wcc.toml"))
	for _, v := range []string{"WCC_SERVER", "WCC_TOKEN", "WCC_CA", "WCC_CONTEXT"} {
		t.Setenv(v, "")
	}
	wcc := func(wantCode int, in string, args ...string) string {
		t.Helper()
		var out, errs bytes.Buffer
		if code := run(context.Background(), args, strings.NewReader(in), &out, &errs, false); code != wantCode {
			t.Fatalf("wcc %v: code %d, want %d: %s", args, code, wantCode, &errs)
		}
		return out.String() + errs.String()
	}
	if got := wcc(1, "", "--server", h.URL, "--token", "alice-token", "vm", "list"); !strings.Contains(got, "certificate") {
		t.Errorf("without the CA: %s", got)
	}
	wcc(0, "alice-token\n", "--server", h.URL, "--ca", ca, "login", "tokyo")
	if got := wcc(0, "", "vm", "list"); !strings.Contains(got, "web1  running") {
		t.Errorf("list: %s", got)
	}
	if got := wcc(0, "exit\n", "vm", "console", "web1"); !strings.Contains(got, "login: ") {
		t.Errorf("console: %s", got)
	}
	if got := wcc(0, "x\x1dy", "vm", "console", "web1"); !strings.HasSuffix(got, "\r\n") {
		t.Errorf("console ended by Ctrl-]: %q", got)
	}
	if got := wcc(2, "", "--ca", "/nothing", "vm", "list"); !strings.Contains(got, "read the CA") {
		t.Errorf("no CA: %s", got)
	}
}

// TestInterruptedLogin has a user who gives up instead of typing a token.
func TestInterruptedLogin(t *testing.T) {
	t.Setenv("WCC_CONFIG", filepath.Join(t.TempDir(), "none.toml"))
	t.Setenv("WCC_TOKEN", "")
	in, typed, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	defer typed.Close()
	ctx, cancel := context.WithCancelCause(t.Context())
	out := &notice{enough: "token: ", then: func() { cancel(errors.New("interrupt")) }}
	if code := run(ctx, []string{"login", "tokyo"}, in, out, out, false); code != 1 || !strings.Contains(out.String(), "read the token: interrupt") {
		t.Errorf("code %d: %s", code, out)
	}
}

// TestWatch shows changes until it is told to end: a deletion, and what is no longer selected.
func TestWatch(t *testing.T) {
	for _, tt := range []struct {
		flags  []string
		change func(*servetest.Memory) error
		want   string
	}{
		{nil, func(ctl *servetest.Memory) error {
			_, err := ctl.Delete(t.Context(), serve.Principal{Admin: true}, "vms", "web1")
			return err
		}, "-web1 (deleting)  running  tokyo/h1  1     512MiB  2001:db8:b:0:57:43ff:feaa:bbcc,10.1.0.5\n"},
		{[]string{"--state", "running"}, func(ctl *servetest.Memory) error {
			ctl.Put(&api.VM{Meta: api.Meta{Name: "other"}, Status: api.VMStatus{Phase: api.PhaseStopped}})
			ctl.Put(&api.VM{Meta: api.Meta{Name: "web2"}, Status: api.VMStatus{Phase: api.PhaseRunning}})
			ctl.Put(&api.VM{Meta: api.Meta{Name: "web1"}, Status: api.VMStatus{Phase: api.PhaseStopped}})
			return nil
		}, "web2  running  -         0     0B      -\n" +
			"-web1  running  tokyo/h1  1     512MiB  2001:db8:b:0:57:43ff:feaa:bbcc,10.1.0.5\n"},
	} {
		ctl := servetest.New()
		fixture(ctl)
		srv := serve.New(serve.Options{Controller: ctl, Logger: slog.New(slog.DiscardHandler)})
		h := httptest.NewServer(srv)
		defer func() { srv.Stop(); h.CloseClientConnections(); h.Close() }()
		t.Setenv("WCC_CONFIG", filepath.Join(t.TempDir(), "none.toml"))
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		out := &notice{enough: "-web1", then: cancel}
		go func() {
			for ctl.Watching() == 0 && ctx.Err() == nil {
				time.Sleep(time.Millisecond)
			}
			if err := tt.change(ctl); err != nil {
				t.Error(err)
			}
		}()
		var errs bytes.Buffer
		args := append([]string{"--server", h.URL, "--token", "admin-token", "vm", "list", "-w"}, tt.flags...)
		if code := run(ctx, args, strings.NewReader(""), out, &errs, false); code != 0 {
			t.Errorf("code %d: %s", code, &errs)
		}
		want := "NAME  PHASE    PLACE     CPUS  MEMORY  ADDRESSES\n" +
			"web1  running  tokyo/h1  1     512MiB  2001:db8:b:0:57:43ff:feaa:bbcc,10.1.0.5\n" + tt.want
		if got := out.String(); got != want {
			t.Errorf("got\n%swant\n%s", got, want)
		}
	}
}

// TestWatchKinds shows changes of two kinds, in a table and as JSON, and none of others.
func TestWatchKinds(t *testing.T) {
	for output, want := range map[string]string{
		"table": "job  j1  migrate  vms/web1  -  running  -  -\nvm  web2  running  -  0  0B  -\nvm  -web2  running  -  0  0B  -\n",
		"json":  `{"type":"put","revision":17,"kind":"jobs","object":{"name":"j1"`,
	} {
		ctl := servetest.New()
		fixture(ctl)
		srv := serve.New(serve.Options{Controller: ctl, Logger: slog.New(slog.DiscardHandler)})
		h := httptest.NewServer(srv)
		defer func() { srv.Stop(); h.CloseClientConnections(); h.Close() }()
		t.Setenv("WCC_CONFIG", filepath.Join(t.TempDir(), "none.toml"))
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		out := &notice{enough: "-web2", then: cancel}
		if output == "json" {
			out.enough = `"delete"`
		}
		go func() {
			for ctl.Watching() == 0 && ctx.Err() == nil {
				time.Sleep(time.Millisecond)
			}
			ctl.Put(&api.Job{Meta: api.Meta{Name: "j1"}, Spec: api.JobSpec{Type: "migrate", Object: "vms/web1"}, Status: api.JobStatus{State: api.JobRunning}})
			ctl.Put(&api.Image{Meta: api.Meta{Name: "other"}, Status: api.ImageStatus{Phase: "ready"}})
			ctl.Put(&api.VM{Meta: api.Meta{Name: "web2"}, Status: api.VMStatus{Phase: api.PhaseRunning}})
			ctl.Put(&api.VM{Meta: api.Meta{Name: "web2"}, Status: api.VMStatus{Phase: api.PhaseStopped}})
		}()
		var errs bytes.Buffer
		args := []string{"--server", h.URL, "--token", "admin-token", "watch", "vm", "jobs", "--state", "running", "-o", output}
		if code := run(ctx, args, strings.NewReader(""), out, &errs, false); code != 0 {
			t.Errorf("code %d: %s", code, &errs)
		}
		if got := out.String(); !strings.HasPrefix(got, want) {
			t.Errorf("got\n%swant\n%s", got, want)
		}
	}
	var errs bytes.Buffer
	if code := run(t.Context(), []string{"watch", "pod"}, strings.NewReader(""), io.Discard, &errs, false); code != 2 || !strings.Contains(errs.String(), `no kind "pod"`) {
		t.Errorf("code %d: %s", code, &errs)
	}
}

// notice calls then once it has been written enough.
type notice struct {
	bytes.Buffer
	enough string
	then   func()
}

func (n *notice) Write(b []byte) (int, error) {
	c, err := n.Buffer.Write(b)
	if strings.Contains(n.String(), n.enough) {
		n.then()
	}
	return c, err
}
