package api_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"widecloud/api"
	"widecloud/internal/serve"
	"widecloud/internal/serve/servetest"
)

func newClient(t *testing.T, token string) (*api.Client, *servetest.Memory, *httptest.Server) {
	t.Helper()
	ctl := servetest.New()
	srv := serve.New(serve.Options{Controller: ctl, Logger: slog.New(slog.DiscardHandler)})
	h := httptest.NewServer(srv)
	t.Cleanup(func() { srv.Stop(); h.CloseClientConnections(); h.Close() })
	c, err := api.NewClient(h.URL, token, h.Client())
	if err != nil {
		t.Fatal(err)
	}
	return c, ctl, h
}

func TestClientNeedsAURL(t *testing.T) {
	for _, base := range []string{"", "tokyo:7646", "ftp://tokyo", "http://", "http://u:p@tokyo", "http://[::1"} {
		if _, err := api.NewClient(base, "", nil); err == nil {
			t.Errorf("NewClient(%q) has no error", base)
		}
	}
}

func TestClientObjects(t *testing.T) {
	c, _, _ := newClient(t, "admin-token")
	ctx := t.Context()
	vm := &api.VM{Meta: api.Meta{Name: "web1"}, Spec: api.VMSpec{Hardware: api.Hardware{CPUs: 1, MemoryMiB: 256}, Image: "tiny", Network: "blue", Power: api.PowerOn}}
	made, err := api.Create(ctx, c, vm)
	if err != nil {
		t.Fatal(err)
	}
	got, err := api.Get[api.VM](ctx, c, "web1")
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(made, got); d != "" {
		t.Errorf("get differs (-create +get):\n%s", d)
	}
	if _, err = api.Create(ctx, c, vm); !errors.Is(err, &api.Error{Code: api.CodeExists}) {
		t.Errorf("create again: %v", err)
	}
	tries := 0
	got, err = api.Edit(ctx, c, "web1", func(v *api.VM) error {
		if tries++; tries == 1 { // somebody else is faster once
			other := *v
			other.Spec.CPUs = 2
			if _, err := api.Update(ctx, c, &other); err != nil {
				t.Error(err)
			}
		}
		v.Spec.Power = api.PowerOff
		return nil
	})
	if err != nil || tries != 2 || got.Spec.Power != api.PowerOff || got.Spec.CPUs != 2 {
		t.Errorf("edit in %d tries: %v, %+v", tries, err, got)
	}
	list, revision, err := api.List[api.VM](ctx, c)
	if err != nil || len(list) != 1 || revision != got.Revision {
		t.Errorf("list: %v, revision %d, %v", list, revision, err)
	}
	if gone, err := api.Delete[api.VM](ctx, c, "web1"); err != nil || !gone.Deleting {
		t.Errorf("delete: %+v, %v", gone, err)
	}
	if _, err := api.Get[api.VM](ctx, c, "web1"); !errors.Is(err, &api.Error{Code: api.CodeNotFound}) {
		t.Errorf("get after delete: %v", err)
	}
}

func TestClientVerbs(t *testing.T) {
	c, ctl, _ := newClient(t, "admin-token")
	ctx := t.Context()
	ctl.Put(&api.VM{Meta: api.Meta{Name: "web1"}})
	ctl.Put(&api.Image{Meta: api.Meta{Name: "tiny"}})
	check := func(what string, err error, got, want any) {
		t.Helper()
		if err != nil || got != want {
			t.Errorf("%s: %v, %v; want %v", what, got, err, want)
		}
	}
	job, err := c.Migrate(ctx, "web1", "osaka")
	check("migrate", err, job.Name, "migrate-web1")
	_, err = c.Migrate(ctx, "web1", "nara")
	var e *api.Error
	if !errors.As(err, &e) || e.Code != api.CodeRefused || len(e.Reasons) != 2 {
		t.Errorf("migrate to nara: %v", err)
	}
	reasons, err := c.MigrateDryRun(ctx, "web1", "nara")
	check("dry run", err, len(reasons), 2)
	reasons, err = c.Why(ctx, "web1", "nara")
	check("why", err, len(reasons), 2)
	check("reboot", c.Reboot(ctx, "web1", true), nil, nil)
	renamed, err := c.Rename(ctx, "web1", "www")
	check("rename", err, renamed.Name, "www")
	job, err = c.Cancel(ctx, "migrate-web1")
	check("cancel", err, job.Status.State, api.JobUndoing)
	image, err := c.Upload(ctx, "tiny", strings.NewReader("content"), 7)
	check("upload", err, image.Status.Bytes, int64(7))
	token, err := c.JoinToken(ctx, "h1", []api.HostRole{api.RoleGateway})
	check("join token", err, token, "join-h1-[gateway]")
	made, err := c.NewToken(ctx, "alice", api.TokenRequest{Note: "laptop", Expires: 3600})
	check("token", err, made.Token, "wcc_t1_secret-of-alice")
	tokens, err := c.Tokens(ctx, "alice")
	check("tokens", err, len(tokens), 2)
	check("token's note", err, tokens[1].Note, "laptop")
	check("revoke", c.RevokeToken(ctx, "alice", made.ID), nil, nil)
	tokens, err = c.Tokens(ctx, "alice")
	check("tokens", err, len(tokens), 1)
	tokens, err = c.Tokens(ctx, api.OwnTokens)
	check("own tokens", err, tokens[0].User, "root")
	invitation, err := c.PeerInvite(ctx)
	check("invite", err, invitation, "invitation-1")
	peer, err := c.PeerAdd(ctx, invitation)
	check("peer", err, peer.Name, "osaka")
	loan, err := c.Borrow(ctx, "osaka", "spare", api.Resources{CPUs: 2})
	check("borrow", err, loan.Spec.Lender, "osaka")
	loan, err = c.Reclaim(ctx, "loan-1")
	check("reclaim", err, loan.Status.State, api.LoanReclaimed)
	loan, err = c.Return(ctx, "loan-1")
	check("return", err, loan.Status.State, api.LoanEnded)
}

// TestWatchResumes breaks the connection in two ways between events; none is lost, none comes twice.
func TestWatchResumes(t *testing.T) {
	c, ctl, h := newClient(t, "admin-token")
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	put := func(n int) { ctl.Put(&api.VM{Meta: api.Meta{Name: fmt.Sprintf("vm%d", n)}}) }
	put(0) // before the watch
	go func() {
		for ctl.Watching() == 0 {
			time.Sleep(time.Millisecond)
		}
		put(1)
	}()
	var got []string
	for e, err := range api.Watch[api.VM](ctx, c, -1) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, e.Object.Name)
		switch len(got) {
		case 1:
			ctl.Drop()
			put(2)
		case 2:
			h.CloseClientConnections()
			put(3)
			put(4)
		}
		if len(got) == 4 {
			break
		}
	}
	if d := cmp.Diff([]string{"vm1", "vm2", "vm3", "vm4"}, got); d != "" {
		t.Errorf("events (-want +got):\n%s", d)
	}
}

func TestWatchErrors(t *testing.T) {
	c, ctl, h := newClient(t, "admin-token")
	ctl.Compact(2)
	for _, err := range api.Watch[api.VM](t.Context(), c, 1) {
		if !errors.Is(err, &api.Error{Code: api.CodeStale}) {
			t.Errorf("a revision that is no longer kept: %v", err)
		}
	}
	h.Close()
	n := 0
	for _, err := range api.Watch[api.VM](t.Context(), c, 5) {
		if n++; err == nil {
			t.Error("no error although nobody answers")
		}
	}
	if n != 1 {
		t.Errorf("%d errors, want 1", n)
	}
}

func TestFollow(t *testing.T) {
	c, ctl, _ := newClient(t, "admin-token")
	j := &api.Job{Meta: api.Meta{Name: "j1"}, Status: api.JobStatus{State: api.JobRunning}}
	ctl.Put(j)
	ctl.Put(&api.Job{Meta: api.Meta{Name: "j2"}})
	var got []string
	for o, err := range api.Follow[api.Job](t.Context(), c, "j1") {
		if err != nil {
			if !errors.Is(err, &api.Error{Code: api.CodeNotFound}) {
				t.Errorf("the end: %v", err)
			}
			got = append(got, "gone")
			continue
		}
		got = append(got, string(o.Status.State))
		if o.Status.State == api.JobRunning {
			ctl.Put(&api.Job{Meta: api.Meta{Name: "j2"}})
			ctl.Put(&api.Job{Meta: api.Meta{Name: "j1"}, Status: api.JobStatus{State: api.JobDone}})
		} else if _, err := ctl.Delete(t.Context(), serve.Principal{Admin: true}, api.KindJob, "j1"); err != nil {
			t.Fatal(err)
		}
	}
	if d := cmp.Diff([]string{"running", "done", "gone"}, got); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}

func TestAnswersOfOthers(t *testing.T) {
	h := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "bad gateway here", http.StatusBadGateway)
	}))
	defer h.Close()
	c, err := api.NewClient(h.URL, "t", nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := api.Get[api.VM](t.Context(), c, "x"); !errors.Is(err, &api.Error{Code: api.CodeUnavailable}) || !strings.Contains(err.Error(), "bad gateway here") {
		t.Errorf("got %v", err)
	}
}
