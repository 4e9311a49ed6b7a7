package serve_test

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"widecloud/api"
	"widecloud/internal/serve"
	"widecloud/internal/serve/servetest"
)

// list asks for a page of VMs, and gives it with its names.
func (s *site) list(token, query string) (l api.Listing[*api.VM], names string) {
	s.Helper()
	code, body := s.do(token, "GET", "/v1/vms"+query, "")
	if code != http.StatusOK {
		s.Fatalf("list %s: %d %s", query, code, body)
	}
	if err := json.Unmarshal([]byte(body), &l); err != nil {
		s.Fatal(err)
	}
	for _, v := range l.Items {
		names += v.Name + " "
	}
	return l, strings.TrimSpace(names)
}

func TestListSelects(t *testing.T) {
	s := newSite(t, serve.Options{})
	for i, phase := range []api.VMPhase{api.PhaseRunning, api.PhaseStopped, api.PhaseRunning} {
		s.ctl.Put(&api.VM{Meta: api.Meta{Name: fmt.Sprint("web", i), Owner: "tokyo-u", Labels: map[string]string{"app": "web", "n": fmt.Sprint(i)}},
			Status: api.VMStatus{Phase: phase, Site: "tokyo", Host: fmt.Sprint("h", i)}})
	}
	s.ctl.Put(&api.VM{Meta: api.Meta{Name: "db", Owner: "osaka-u"}, Status: api.VMStatus{Phase: api.PhaseRunning, Site: "osaka", Host: "h1"}})
	for query, want := range map[string]string{
		"":                                 "db web0 web1 web2",
		"?owner=tokyo-u&state=running":     "web0 web2",
		"?site=osaka":                      "db",
		"?site=osaka,tokyo&host=h1":        "db web1",
		"?label=app%3Dweb&label=n!%3D0":    "web1 web2",
		"?label=app%3Dweb,n!%3D0":          "web1 web2",
		"?label=!app":                      "db",
		"?name=web&state=stopped,starting": "web1",
		"?state=deleting":                  "",
	} {
		if _, got := s.list("admin-token", query); got != want {
			t.Errorf("%s gives %q, want %q", query, got, want)
		}
	}
	if _, got := s.list("alice-token", "?site=osaka"); got != "" {
		t.Errorf("alice sees %q", got)
	}
	for query, want := range map[string]string{
		"?state=runing":                   `{"code":"invalid","field":"state","message":"\"runing\" is not a state of vms; possible: pending, starting, running, migrating, suspended, hibernating, hibernated, stopping, stopped, unknown, failed, deleting"}`,
		"?watch=true&state=runing":        `{"code":"invalid","field":"state","message":"\"runing\" is not a state of vms; possible: pending, starting, running, migrating, suspended, hibernating, hibernated, stopping, stopped, unknown, failed, deleting"}`,
		"?label=a%20b":                    `{"code":"invalid","field":"label","message":"\"a b\" is not KEY=VALUE, KEY!=VALUE, KEY or !KEY: the label's key \"a b\" has other characters than letters, digits and inner - _ . /"}`,
		"?limit=0":                        `{"code":"invalid","field":"limit","message":"expected number >= 1"}`,
		"?limit=5001":                     `{"code":"invalid","field":"limit","message":"expected number <= 5000"}`,
		"?cursor=x":                       `{"code":"invalid","field":"cursor","message":"is not the next of a page of vms: begin again without it"}`,
		"?cursor=" + url.QueryEscape("🙂"): `{"code":"invalid","field":"cursor","message":"is not the next of a page of vms: begin again without it"}`,
		"?watch=true&cursor=x":            `{"code":"invalid","field":"cursor","message":"is for lists: a watch has no pages"}`,
		"?watch=true&limit=3":             `{"code":"invalid","field":"limit","message":"is for lists: a watch has no pages"}`,
		"?phase=running":                  `{"code":"invalid","field":"phase","message":"unknown query parameter"}`,
	} {
		if code, body := s.do("admin-token", "GET", "/v1/vms"+query, ""); code != http.StatusBadRequest || body != want {
			t.Errorf("%s:\n got %d %s\nwant 400 %s", query, code, body, want)
		}
	}
}

// TestListPages reads pages while objects come and go, and watches from a page's revision.
func TestListPages(t *testing.T) {
	s := newSite(t, serve.Options{})
	put := func(name string) { s.ctl.Put(&api.VM{Meta: api.Meta{Name: name, Owner: "tokyo-u"}}) }
	for i := range 5 {
		put(fmt.Sprint("web", i))
	}
	first, names := s.list("alice-token", "?limit=2")
	if names != "web0 web1" || first.Next == "" || first.Revision != 5 {
		t.Fatalf("the first page has %q, next %q, revision %d", names, first.Next, first.Revision)
	}
	if code, body := s.do("alice-token", "DELETE", "/v1/vms/web1", ""); code != 202 {
		t.Fatalf("delete: %d %s", code, body)
	}
	put("web00")
	put("web3")
	second, names := s.list("alice-token", "?limit=2&cursor="+first.Next)
	if names != "web2 web3" || second.Next == "" || second.Revision != first.Revision {
		t.Errorf("the second page has %q, next %q, revision %d", names, second.Next, second.Revision)
	}
	again, _ := s.list("alice-token", "?limit=2&cursor="+first.Next)
	if d := cmp.Diff(second, again); d != "" {
		t.Errorf("the same cursor gives another page:\n%s", d)
	}
	third, names := s.list("alice-token", "?limit=2&cursor="+second.Next)
	if names != "web4" || third.Next != "" || third.Revision != first.Revision {
		t.Errorf("the third page has %q, next %q, revision %d", names, third.Next, third.Revision)
	}
	if all, names := s.list("alice-token", "?limit=5000"); names != "web0 web00 web2 web3 web4" || all.Next != "" {
		t.Errorf("all in one page: %q, next %q", names, all.Next)
	}
	code, body := s.do("alice-token", "GET", "/v1/jobs?cursor="+first.Next, "")
	if want := `{"code":"invalid","field":"cursor","message":"is not the next of a page of jobs: begin again without it"}`; code != 400 || body != want {
		t.Errorf("a cursor of another kind: %d %s", code, body)
	}
	// A page that is exactly full has no next.
	if l, _ := s.list("alice-token", "?limit=5"); l.Next != "" {
		t.Errorf("after all there is %q", l.Next)
	}
}

// batches gives a watcher the changes of two revisions, and notes what was asked for.
type batches struct {
	*servetest.Memory
	kinds []api.Kind
	from  int64
}

func (b *batches) Watch(ctx context.Context, _ serve.Principal, kinds []api.Kind, _ api.Selector, from int64) (serve.Watch, error) {
	b.kinds, b.from = kinds, from
	c := make(chan serve.Change, 3)
	vm, job := &api.VM{Meta: api.Meta{Name: "web1"}}, &api.Job{Meta: api.Meta{Name: "j1"}}
	c <- serve.Change{Revision: 7, Object: vm, More: true}
	c <- serve.Change{Revision: 7, Object: job}
	c <- serve.Change{Revision: 8, Object: vm, More: true}
	close(c) // the watcher has fallen behind, in the middle of revision 8
	return servetest.Channel(c, func() {}), nil
}

// TestWatchKinds: a revision is a client's only when it has all of it.
func TestWatchKinds(t *testing.T) {
	ctl := &batches{Memory: servetest.New()}
	srv := serve.New(serve.Options{Controller: ctl, Logger: slog.New(slog.DiscardHandler)})
	h := httptest.NewServer(srv)
	defer http.DefaultClient.CloseIdleConnections()
	defer func() { srv.Stop(); h.CloseClientConnections(); h.Close() }()
	s := &site{T: t, url: h.URL}
	resp, body := s.send("GET", "/v1/watch?kinds=vms,jobs,vms&from=5", "")
	var got []string
	for line := range strings.Lines(body) {
		if id, ok := strings.CutPrefix(line, "id: "); ok {
			got = append(got, "id "+strings.TrimSpace(id))
		}
		if data, ok := strings.CutPrefix(line, "data: "); ok {
			var e api.WatchEvent[api.Meta]
			if err := json.Unmarshal([]byte(data), &e); err != nil {
				t.Fatal(err)
			}
			got = append(got, fmt.Sprint(e.Type, " ", e.Kind, " ", e.Object.Name, " ", e.Revision))
		}
	}
	want := []string{"put vms web1 7", "id 7", "put jobs j1 7", "put vms web1 8"}
	if d := cmp.Diff(want, got); d != "" || resp.Header.Get("Content-Type") != "text/event-stream" {
		t.Errorf("%s (-want +got):\n%s", resp.Status, d)
	}
	if d := cmp.Diff([]api.Kind{api.KindVM, api.KindJob}, ctl.kinds); d != "" || ctl.from != 5 {
		t.Errorf("watched from %d (-want +got):\n%s", ctl.from, d)
	}
	if s.send("GET", "/v1/watch?kinds=vms&from=5", "", "Last-Event-ID", "7"); ctl.from != 7 {
		t.Errorf("resumed from %d, want 7", ctl.from)
	}
	if s.send("GET", "/v1/watch?kinds=vms", ""); ctl.from != -1 {
		t.Errorf("from now is %d", ctl.from)
	}
	for query, want := range map[string]string{
		"":                            `{"code":"invalid","field":"kinds","message":"\"\" is not a kind; possible: [sites hosts owners users peers offers loans images volumes networks vms guests addresses translators jobs events notices]"}`,
		"?kinds=vms,pods":             `"field":"kinds","message":"\"pods\" is not a kind; possible: `,
		"?kinds=vms,jobs&state=ended": `"field":"state","message":"\"ended\" is not a state of vms; possible: `,
		"?kinds=vms&limit=3":          `{"code":"invalid","field":"limit","message":"unknown query parameter"}`,
	} {
		if resp, body := s.send("GET", "/v1/watch"+query, ""); resp.StatusCode != 400 || !strings.Contains(body, want) {
			t.Errorf("%s: %s %s, want %s", query, resp.Status, body, want)
		}
	}
	if resp, _ := s.send("HEAD", "/v1/watch?kinds=vms", ""); resp.StatusCode != 405 {
		t.Errorf("HEAD: %s", resp.Status)
	}
}
