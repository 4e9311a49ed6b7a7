package serve_test

import (
	"encoding/json"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"widecloud/api"
	"widecloud/internal/audit"
	"widecloud/internal/serve"
)

// newAudited is a site with an audit log.
func newAudited(t *testing.T) (*site, *audit.Log) {
	t.Helper()
	l, err := audit.Open(audit.Options{Dir: t.TempDir(), Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return newSite(t, serve.Options{Audit: l}), l
}

// newest is the newest entry of a log, or an empty one.
func newest(l *audit.Log) api.AuditEntry {
	items, _ := l.Page(api.AuditQuery{Limit: 1}, func(api.AuditEntry) bool { return true })
	if len(items) == 0 {
		return api.AuditEntry{}
	}
	return items[0]
}

// description is what the test reads of the API's own description.
type description struct {
	Paths map[string]map[string]struct {
		OperationID string `json:"operationId"`
	} `json:"paths"`
}

// TestEveryWriteIsAudited takes every route that changes something out of the API's description, and tries it as an admin, as a member and
// as nobody: each attempt has an entry, whatever became of it. A new route is in the description, and so in this test.
func TestEveryWriteIsAudited(t *testing.T) {
	var d description
	if err := json.Unmarshal(serve.Describe("test"), &d); err != nil {
		t.Fatal(err)
	}
	type route struct{ method, path, verb string }
	var routes []route
	for path, ops := range d.Paths {
		for method, op := range ops {
			if m := strings.ToUpper(method); m != http.MethodGet || op.OperationID == "console-vm" {
				routes = append(routes, route{m, path, op.OperationID})
			}
		}
	}
	slices.SortFunc(routes, func(a, b route) int { return strings.Compare(a.verb, b.verb) })
	if len(routes) < 40 {
		t.Fatalf("the description has %d routes that change something: the test does not find them", len(routes))
	}
	onlyAsk := map[string]bool{"dry-run-vm": true} // POST, because they have a body: they write nothing
	s, l := newAudited(t)
	fill := strings.NewReplacer("{name}", "some", "{id}", "00000000")
	for _, r := range routes {
		for actor, token := range map[string]string{"root": "admin-token", "alice": "alice-token", "": "stolen"} {
			before := newest(l).ID
			sent := `{"name":"some","spec":{}}`
			if r.verb == "log-in" { // a user is known by the token in its body
				sent = `{"token":"` + token + `"}`
			}
			status, body := s.do(token, r.method, fill.Replace(r.path), sent)
			e := newest(l)
			switch {
			case onlyAsk[r.verb] && status < 400:
				if e.ID != before {
					t.Errorf("%s by %s only asks, and has the entry %+v", r.verb, actor, e)
				}
			case onlyAsk[r.verb] && e.ID == before && actor != "": // refused by who answers it
			case actor == "" && status != http.StatusUnauthorized && status != http.StatusTooManyRequests:
				t.Errorf("%s by nobody: %d %s", r.verb, status, body)
			case actor == "" && e.ID == before:
				// Strangers' refusals are bounded: audit has a test of that.
			case e.ID == before:
				t.Errorf("%s by %s (%d %s) has no entry", r.verb, actor, status, body)
			case e.Verb != r.verb || e.Actor != actor:
				t.Errorf("%s by %s has the entry %+v", r.verb, actor, e)
			case (status < 400) != (e.Result == api.AuditDone):
				t.Errorf("%s by %s: %d, and the entry says %s", r.verb, actor, status, e.Result)
			}
		}
	}
}

// TestAuditEntries: what an entry says, and what it does not.
func TestAuditEntries(t *testing.T) {
	s, l := newAudited(t)
	for _, c := range []struct {
		token, method, path, body string
		want                      api.AuditEntry
	}{
		{"alice-token", "POST", "/v1/vms", vmBody, api.AuditEntry{Actor: "alice", Verb: "create-vm", Kind: "vms", Name: "web1", Result: api.AuditDone}},
		{"alice-token", "POST", "/v1/vms", `{"name":"web2","spec":{"user_data":7}}`, api.AuditEntry{Actor: "alice", Verb: "create-vm", Kind: "vms", Result: api.AuditRefused, Code: api.CodeInvalid, Field: "spec.user_data"}},
		{"admin-token", "DELETE", "/v1/vms/none", "", api.AuditEntry{Actor: "root", Verb: "delete-vm", Kind: "vms", Name: "none", Result: api.AuditRefused, Code: api.CodeNotFound, Message: "no vms named none"}},
		{"alice-token", "GET", "/v1/settings", "", api.AuditEntry{Actor: "alice", Verb: "get-settings", Result: api.AuditRefused, Code: api.CodeForbidden, Message: "only an admin may read the site's settings"}},
		{"stolen", "DELETE", "/v1/vms/web1", "", api.AuditEntry{Verb: "delete-vm", Kind: "vms", Name: "web1", Result: api.AuditRefused, Code: api.CodeUnauthenticated, Message: "the token is not known"}},
		{"stolen", "GET", "/v1/vms", "", api.AuditEntry{Verb: "list-vms", Kind: "vms", Result: api.AuditRefused, Code: api.CodeUnauthenticated, Message: "the token is not known"}},
		{"alice-token", "POST", "/v1/users/-/tokens", `{"note":"mine"}`, api.AuditEntry{Actor: "alice", Verb: "create-token", Kind: "users", Name: "-", Result: api.AuditDone}},
	} {
		s.do(c.token, c.method, c.path, c.body)
		got := newest(l)
		if d := cmp.Diff(c.want, got, cmpopts.IgnoreFields(api.AuditEntry{}, "ID", "Time", "Address", "Token")); d != "" {
			t.Errorf("%s %s (-want +got):\n%s", c.method, c.path, d)
		}
		if got.Address != "127.0.0.1" {
			t.Errorf("%s %s: from %q", c.method, c.path, got.Address)
		}
	}
	before := newest(l).ID
	s.do("alice-token", "GET", "/v1/vms", "")
	s.do("", "GET", "/v1/vms", "")
	s.do("alice-token", "POST", "/v1/vms/web1/migrate", `{"target":"nara","dry_run":true}`)
	if e := newest(l); e.ID != before {
		t.Errorf("what only asks has the entry %+v", e)
	}
}

// TestReadAudit: admins read all, members what is of their organisation, and who waits hears of what is new.
func TestReadAudit(t *testing.T) {
	s, l := newAudited(t)
	l.Append(api.AuditEntry{Actor: "root", Verb: "one", Owner: "tokyo-u", Address: "192.0.2.1", Result: api.AuditDone})
	l.Append(api.AuditEntry{Actor: "root", Verb: "two", Owner: "others", Result: api.AuditDone})
	read := func(token, query string) (out []string) {
		t.Helper()
		status, body := s.do(token, "GET", "/v1/audit"+query, "")
		var page api.Audit
		if err := json.Unmarshal([]byte(body), &page); err != nil || status != 200 {
			t.Fatalf("%d %s", status, body)
		}
		for _, e := range page.Items {
			out = append(out, strings.TrimSpace(e.Verb+" "+e.Address))
		}
		return out
	}
	for _, c := range []struct {
		token, query string
		want         []string
	}{
		{"admin-token", "", []string{"two", "one 192.0.2.1"}},
		{"alice-token", "", []string{"one"}},
		{"admin-token", "?verb=one", []string{"one 192.0.2.1"}},
		{"admin-token", "?limit=1", []string{"two"}},
		{"admin-token", "?before=2", []string{"one 192.0.2.1"}},
		{"admin-token", "?after=1&wait=30", []string{"two"}},
	} {
		if d := cmp.Diff(c.want, read(c.token, c.query)); d != "" {
			t.Errorf("%s %s (-want +got):\n%s", c.token, c.query, d)
		}
	}
	heard := make(chan []string)
	go func() { heard <- read("alice-token", "?after=2&wait=30") }()
	l.Append(api.AuditEntry{Actor: "root", Verb: "three", Owner: "others", Result: api.AuditDone}) // not for alice
	l.Append(api.AuditEntry{Actor: "root", Verb: "four", Owner: "tokyo-u", Result: api.AuditDone})
	if d := cmp.Diff([]string{"four"}, <-heard); d != "" {
		t.Error(d)
	}
	for query, want := range map[string]string{"?result=perhaps": "result", "?limit=5000": "limit", "?wait=3600": "wait", "?since=yesterday": "since"} {
		if status, body := s.do("admin-token", "GET", "/v1/audit"+query, ""); status != 400 || !strings.Contains(body, want) {
			t.Errorf("%s: %d %s", query, status, body)
		}
	}
}

// TestWaitEndsWithTheServer: whoever waits for entries keeps no controller from stopping.
func TestWaitEndsWithTheServer(t *testing.T) {
	s, _ := newAudited(t)
	done := make(chan struct{})
	go func() {
		s.do("admin-token", "GET", "/v1/audit?after=0&wait=30", "")
		close(done)
	}()
	s.srv.Stop()
	select {
	case <-done:
	case <-time.After(20 * time.Second): // less than it would wait
		t.Error("a request still waits")
	}
}

// TestSettingsAndDoctor: who may ask, and what the answers are like.
func TestSettingsAndDoctor(t *testing.T) {
	s := newSite(t, serve.Options{Settings: []api.Setting{{Key: "site", Value: `"tokyo"`, Source: api.FromFile}}})
	s.ctl.Put(&api.Host{Meta: api.Meta{Name: "h1"}})
	for _, c := range []struct {
		token, path string
		status      int
		want        string
	}{
		{"admin-token", "/v1/settings", 200, `{"items":[{"key":"site","value":"\"tokyo\"","source":"file"}]}`},
		{"alice-token", "/v1/settings", 403, "only an admin"},
		{"admin-token", "/v1/doctor", 200, `"id":"host.down"`},
		{"alice-token", "/v1/doctor", 200, `"findings":[]`},
		{"admin-token", "/v1/audit", 200, `{"items":[]}`}, // a controller without an audit log
	} {
		if status, body := s.do(c.token, "GET", c.path, ""); status != c.status || !strings.Contains(body, c.want) {
			t.Errorf("%s %s: %d %s, want %d %s", c.token, c.path, status, body, c.status, c.want)
		}
	}
}
