package serve_test

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"widecloud/api"
	"widecloud/internal/serve"
	"widecloud/internal/serve/servetest"
)

const mergePatch = "application/merge-patch+json"

// send makes a request with headers, written as name and value in turn, and gives the answer with its body read.
func (s *site) send(method, path, body string, headers ...string) (*http.Response, string) {
	s.Helper()
	r, err := http.NewRequest(method, s.url+path, strings.NewReader(body))
	if err != nil {
		s.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer alice-token")
	for i := 0; i+1 < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		s.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		s.Fatal(err)
	}
	return resp, strings.TrimSpace(string(b))
}

func TestPatch(t *testing.T) {
	s := newSite(t, serve.Options{MaxBody: 4096})
	vm := &api.VM{Meta: api.Meta{Name: "web1", Owner: "tokyo-u", Labels: map[string]string{"app": "web", "old": "x"}},
		Spec: api.VMSpec{Hardware: api.Hardware{CPUs: 1, MemoryMiB: 256}, Image: "tiny", Network: "blue", Power: api.PowerOn, Sites: []string{"tokyo"}}, Status: api.VMStatus{Phase: api.PhaseRunning}}
	s.ctl.Put(vm)
	for _, tt := range []struct {
		name, patch string
		want        func(*api.VM)
	}{
		{"a member", `{"spec":{"power":"off"}}`, func(v *api.VM) { v.Spec.Power = "off" }},
		{"null", `{"spec":{"sites":null,"disk_gib":null}}`, func(v *api.VM) { v.Spec.Sites = nil }},
		{"a list", `{"spec":{"sites":["osaka","nara"]}}`, func(v *api.VM) { v.Spec.Sites = []string{"osaka", "nara"} }},
		{"a label, and one that goes", `{"labels":{"new":"","old":null,"none":null}}`, func(v *api.VM) { v.Labels = map[string]string{"app": "web", "new": ""} }},
		{"all labels", `{"labels":null}`, func(v *api.VM) { v.Labels = nil }},
		{"labels where none are", `{"labels":{"a":"b"},"spec":{"cpus":2}}`, func(v *api.VM) { v.Labels, v.Spec.CPUs = map[string]string{"a": "b"}, 2 }},
		{"the last label", `{"labels":{"a":null}}`, func(v *api.VM) { v.Labels = nil }},
		{"nothing", `{}`, func(*api.VM) {}},
	} {
		resp, body := s.send("PATCH", "/v1/vms/web1", tt.patch, "Content-Type", mergePatch+"; charset=utf-8")
		if resp.StatusCode != 200 {
			t.Fatalf("%s: %s %s", tt.name, resp.Status, body)
		}
		var got api.VM
		if err := json.Unmarshal([]byte(body), &got); err != nil {
			t.Fatal(err)
		}
		tt.want(vm)
		vm.Home, vm.Revision = got.Home, got.Revision
		if d := cmp.Diff(vm, &got); d != "" {
			t.Errorf("%s (-want +got):\n%s", tt.name, d)
		}
		if want := api.ETag(got.Revision); resp.Header.Get("ETag") != want {
			t.Errorf("%s: ETag %s, want %s", tt.name, resp.Header.Get("ETag"), want)
		}
	}
	revision := vm.Revision
	for _, tt := range []struct {
		name, patch, contentType string
		status                   int
		want                     string
	}{
		{"unknown member", `{"spec":{"cpu":2}}`, "", 400, `{"code":"invalid","field":"spec.cpu","message":"unexpected property"}`},
		{"unknown member that goes", `{"spec":{"cpu":null}}`, "", 400, `{"code":"invalid","field":"spec.cpu","message":"unexpected property"}`},
		{"unknown at the top", `{"nam":"x"}`, "", 400, `{"code":"invalid","field":"nam","message":"unexpected property"}`},
		{"case", `{"Spec":{}}`, "", 400, `{"code":"invalid","field":"Spec","message":"unexpected property"}`},
		{"type", `{"spec":{"cpus":"two"}}`, "", 400, `{"code":"invalid","field":"spec.cpus","message":"expected integer"}`},
		{"label's type", `{"labels":{"a":1}}`, "", 400, `{"code":"invalid","field":"labels.a","message":"expected string"}`},
		{"label's key", `{"labels":{"a b":"1"}}`, "", 400, `{"code":"invalid","field":"labels","message":"the label's key \"a b\" has other characters than letters, digits and inner - _ . /"}`},
		{"status", `{"status":{"phase":"running"}}`, "", 400, `{"code":"invalid","field":"status","message":"is read only: a patch changes spec and labels"}`},
		{"name", `{"name":"web2"}`, "", 400, `{"code":"invalid","field":"name","message":"is read only: a patch changes spec and labels"}`},
		{"revision", `{"revision":7}`, "", 400, `{"code":"invalid","field":"revision","message":"is read only: a patch changes spec and labels"}`},
		{"two faults", `{"uid":"x","spec":{"cpus":true}}`, "", 400,
			`{"code":"invalid","message":"the request is not valid","reasons":[{"field":"spec.cpus","code":"invalid","message":"spec.cpus: expected integer"},{"field":"uid","code":"invalid","message":"uid: is read only: a patch changes spec and labels"}]}`},
		{"a list", `[]`, "", 400, `{"code":"invalid","field":"body","message":"expected object"}`},
		{"null", `null`, "", 400, `{"code":"invalid","field":"body","message":"expected object"}`},
		{"nothing", ``, "", 400, `{"code":"invalid","field":"body","message":"is missing: send a JSON object"}`},
		{"no JSON", `{"spec"`, "", 400, `{"code":"invalid","field":"body","message":"is not JSON: unexpected end of JSON input"}`},
		{"large", `{"spec":{"user_data":"` + strings.Repeat("x", 4096) + `"}}`, "", 413, `{"code":"invalid","field":"body","message":"is larger than 4096 bytes"}`},
		{"JSON's content type", `{}`, "application/json", 415, `{"code":"invalid","field":"Content-Type","message":"is application/json, must be application/merge-patch+json"}`},
	} {
		if tt.contentType == "" {
			tt.contentType = mergePatch
		}
		if resp, body := s.send("PATCH", "/v1/vms/web1", tt.patch, "Content-Type", tt.contentType); resp.StatusCode != tt.status || body != tt.want {
			t.Errorf("%s:\n got %d %s\nwant %d %s", tt.name, resp.StatusCode, body, tt.status, tt.want)
		}
	}
	if resp, body := s.send("PATCH", "/v1/vms/none", `{}`, "Content-Type", mergePatch); resp.StatusCode != 404 {
		t.Errorf("of nothing: %s %s", resp.Status, body)
	}
	if resp, _ := s.send("GET", "/v1/vms/web1", ""); resp.Header.Get("ETag") != api.ETag(revision) {
		t.Errorf("refused patches have changed it: ETag %s, revision %d before", resp.Header.Get("ETag"), revision)
	}
}

func TestIfMatch(t *testing.T) {
	s := newSite(t, serve.Options{})
	put := func() {
		s.ctl.Put(&api.VM{Meta: api.Meta{Name: "web1", Owner: "tokyo-u"}, Spec: api.VMSpec{Image: "tiny"}})
	}
	put()
	put() // revision 2
	for _, change := range []struct{ method, body, contentType string }{
		{"PUT", `{"spec":{"image":"tiny"}}`, "application/json"}, {"PATCH", `{}`, mergePatch}, {"DELETE", ``, ""},
	} {
		for _, tt := range []struct {
			ifMatch string
			status  int
			want    string // a part of it
		}{
			{`"1"`, 412, `{"code":"conflict","field":"revision",`}, {`"other"`, 412, `"code":"conflict"`}, {`W/"1"`, 412, `"code":"conflict"`}, {`"-1"`, 412, `"code":"conflict"`},
			{`1`, 400, `{"code":"invalid","field":"If-Match","message":"\"1\" is not one ETag, such as \"42\", or *"}`},
			{`"1", "2"`, 400, `"field":"If-Match"`},
		} {
			if resp, body := s.send(change.method, "/v1/vms/web1", change.body, "Content-Type", change.contentType, "If-Match", tt.ifMatch); resp.StatusCode != tt.status || !strings.Contains(body, tt.want) {
				t.Errorf("%s if %s: %d %s, want %d with %s", change.method, tt.ifMatch, resp.StatusCode, body, tt.status, tt.want)
			}
		}
	}
	// Each that has the newest ETag goes through, and makes it old.
	etag := `"2"`
	for i, change := range []struct{ method, body, contentType string }{
		{"PUT", `{"spec":{"image":"tiny"}}`, "application/json"}, {"PATCH", `{}`, mergePatch}, {"PATCH", `{}`, mergePatch}, {"DELETE", ``, ""},
	} {
		if i == 2 {
			etag = "W/" + etag // a proxy did that
		}
		resp, body := s.send(change.method, "/v1/vms/web1", change.body, "Content-Type", change.contentType, "If-Match", etag)
		if resp.StatusCode >= 300 || resp.Header.Get("ETag") == etag {
			t.Errorf("%s if %s: %s %s, ETag %s", change.method, etag, resp.Status, body, resp.Header.Get("ETag"))
		}
		etag = resp.Header.Get("ETag")
	}
	put()
	if resp, body := s.send("PUT", "/v1/vms/web1", `{"revision":1,"spec":{"image":"tiny"}}`, "Content-Type", "application/json", "If-Match", `"2"`); resp.StatusCode != 400 {
		t.Errorf("two revisions: %s %s", resp.Status, body)
	}
	if resp, body := s.send("DELETE", "/v1/vms/web1", ``, "If-Match", `*`); resp.StatusCode != 202 {
		t.Errorf("any: %s %s", resp.Status, body)
	}
}

// racing changes an object between the read and the write of a patch.
type racing struct {
	*servetest.Memory
	races int
}

func (r *racing) Update(ctx context.Context, p serve.Principal, o api.Object) (api.Object, error) {
	if r.races > 0 {
		r.races--
		have, err := r.Get(ctx, p, o.Kind(), o.Metadata().Name)
		if err != nil {
			return nil, err
		}
		v := have.(*api.VM)
		v.Spec.MemoryMiB++
		r.Put(v)
	}
	return r.Memory.Update(ctx, p, o)
}

// TestPatchLosesNothing: a patch and what others change at the same time are both there in the end.
func TestPatchLosesNothing(t *testing.T) {
	ctl := &racing{Memory: servetest.New()}
	srv := serve.New(serve.Options{Controller: ctl, Logger: slog.New(slog.DiscardHandler)})
	h := httptest.NewServer(srv)
	defer http.DefaultClient.CloseIdleConnections()
	defer func() { srv.Stop(); h.CloseClientConnections(); h.Close() }()
	s := &site{T: t, url: h.URL}
	ctl.Put(&api.VM{Meta: api.Meta{Name: "web1", Owner: "tokyo-u"}, Spec: api.VMSpec{Hardware: api.Hardware{CPUs: 1, MemoryMiB: 100}}})
	ctl.races = 3
	resp, body := s.send("PATCH", "/v1/vms/web1", `{"spec":{"cpus":2}}`, "Content-Type", mergePatch)
	if resp.StatusCode != 200 || !strings.Contains(body, `"cpus":2,"memory_mib":103`) {
		t.Errorf("after three races: %s %s", resp.Status, body)
	}
	ctl.races = 1
	resp, body = s.send("PATCH", "/v1/vms/web1", `{"spec":{"cpus":3}}`, "Content-Type", mergePatch, "If-Match", resp.Header.Get("ETag"))
	if resp.StatusCode != 412 {
		t.Errorf("with a condition that a race breaks: %s %s", resp.Status, body)
	}
	ctl.races = 1000
	if resp, body := s.send("PATCH", "/v1/vms/web1", `{"spec":{"cpus":3}}`, "Content-Type", mergePatch); resp.StatusCode != 409 {
		t.Errorf("with races without end: %s %s", resp.Status, body)
	}
}
