package serve_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"widecloud/api"
	"widecloud/internal/serve"
	"widecloud/internal/serve/servetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type site struct {
	*testing.T
	ctl *servetest.Memory
	srv *serve.Server
	url string
	log *bytes.Buffer
}

func newSite(t *testing.T, o serve.Options) *site {
	t.Helper()
	return newSiteOf(t, servetest.New(), o)
}

func newSiteOf(t *testing.T, ctl *servetest.Memory, o serve.Options) *site {
	t.Helper()
	s := &site{T: t, ctl: ctl, log: &bytes.Buffer{}}
	o.Controller = s.ctl
	o.Logger = slog.New(slog.NewTextHandler(s.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	s.srv = serve.New(o)
	h := httptest.NewServer(s.srv)
	s.url = h.URL
	t.Cleanup(func() {
		s.srv.Stop()
		h.CloseClientConnections()
		h.Close()
		http.DefaultClient.CloseIdleConnections()
	})
	return s
}

// do makes a request and gives its status and body.
func (s *site) do(token, method, path, body string) (int, string) {
	s.Helper()
	r, err := http.NewRequest(method, s.url+path, strings.NewReader(body))
	if err != nil {
		s.Fatal(err)
	}
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
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
	return resp.StatusCode, strings.TrimSpace(string(b))
}

const vmBody = `{"name":"web1","spec":{"cpus":1,"memory_mib":256,"image":"tiny","network":"blue","power":"on"}}`

func TestErrors(t *testing.T) {
	const admin, alice = "admin-token", "alice-token"
	tests := []struct {
		name, token, method, path, body string
		status                          int
		want                            string
	}{
		{"no token", "", "GET", "/v1/vms", "", 401, `{"code":"unauthenticated","message":"no token: send the header Authorization: Bearer TOKEN"}`},
		{"wrong token", "stolen", "GET", "/v1/vms", "", 401, `{"code":"unauthenticated","message":"the token is not known"}`},
		{"path before token", "", "GET", "/v1/nonsense", "", 401, `{"code":"unauthenticated","message":"no token: send the header Authorization: Bearer TOKEN"}`},
		{"panic", "panic-token", "GET", "/v1/vms", "", 500, `{"code":"internal","message":"internal error"}`},
		{"dots in the path", alice, "GET", "/v1/vms/../users", "", 404, `{"code":"not-found","message":"no such path: /v1/vms/../users"}`},
		{"escaped dots in the path", alice, "GET", "/v1/vms/%2e%2e/users", "", 404, `{"code":"not-found","message":"no such path: /v1/vms/../users"}`},
		{"empty segment", alice, "GET", "/v1//vms", "", 404, `{"code":"not-found","message":"no such path: /v1//vms"}`},
		{"slash at the end", alice, "GET", "/v1/vms/", "", 404, `{"code":"not-found","message":"no such path: /v1/vms/"}`},
		{"control characters in the path", alice, "GET", "/v1/vms/%1b%5bm", "", 404, `{"code":"not-found","message":"no vms named \u001b[m"}`},
		{"no websocket", alice, "GET", "/v1/vms/web1/console", "", 426, `{"code":"invalid","field":"Upgrade","message":"a console is a websocket (RFC 6455): the request must have Upgrade: websocket"}`},
		{"OPTIONS", alice, "OPTIONS", "/v1/vms", "", 405, `{"code":"invalid","message":"OPTIONS is not possible on /v1/vms; possible: [GET POST]"}`},
		{"PATCH", alice, "PATCH", "/v1/vms", "{}", 405, `{"code":"invalid","message":"PATCH is not possible on /v1/vms; possible: [GET POST]"}`},
		{"OPTIONS of an object", alice, "OPTIONS", "/v1/vms/web1", "", 405, `{"code":"invalid","message":"OPTIONS is not possible on /v1/vms/web1; possible: [GET PUT PATCH DELETE]"}`},
		{"HEAD", alice, "HEAD", "/v1/vms/none", "", 404, ``},
		{"HEAD of a watch", alice, "HEAD", "/v1/vms?watch=true", "", 405, ``},
		{"HEAD of a console", alice, "HEAD", "/v1/vms/web1/console", "", 405, ``},
		{"not a boolean", alice, "GET", "/v1/vms?watch=perhaps", "", 400, `{"code":"invalid","field":"watch","message":"invalid boolean"}`},
		{"not a number", alice, "GET", "/v1/vms?watch=true&from=x", "", 400, `{"code":"invalid","field":"from","message":"invalid integer"}`},
		{"unknown path", alice, "GET", "/v1/nonsense", "", 404, `{"code":"not-found","message":"no such path: /v1/nonsense"}`},
		{"wrong method", alice, "POST", "/v1/guests", "{}", 405, `{"code":"invalid","message":"POST is not possible on /v1/guests; possible: [GET]"}`},
		{"unknown object", alice, "GET", "/v1/vms/none", "", 404, `{"code":"not-found","message":"no vms named none"}`},
		{"unknown field", alice, "POST", "/v1/vms", `{"name":"a","spec":{"cpu":1}}`, 400, `{"code":"invalid","field":"spec.cpu","message":"unexpected property"}`},
		{"unknown field at the top", alice, "POST", "/v1/vms", `{"nam":"a"}`, 400, `{"code":"invalid","field":"nam","message":"unexpected property"}`},
		{"case matters", alice, "POST", "/v1/vms", `{"Name":"a"}`, 400, `{"code":"invalid","field":"Name","message":"unexpected property"}`},
		{"wrong type", alice, "POST", "/v1/vms", `{"name":"a","spec":{"memory_mib":"much"}}`, 400, `{"code":"invalid","field":"spec.memory_mib","message":"expected integer"}`},
		{"wrong element", alice, "POST", "/v1/vms", `{"name":"a","spec":{"sites":["x",3]}}`, 400, `{"code":"invalid","field":"spec.sites[1]","message":"expected string"}`},
		{"several at once", alice, "POST", "/v1/vms", `{"name":"a","spec":{"cpus":true,"memory_mib":"x"}}`, 400,
			`{"code":"invalid","message":"the request is not valid","reasons":[{"field":"spec.cpus","code":"invalid","message":"spec.cpus: expected integer"},{"field":"spec.memory_mib","code":"invalid","message":"spec.memory_mib: expected integer"}]}`},
		{"not json", alice, "POST", "/v1/vms", `{"name":`, 400, `{"code":"invalid","field":"body","message":"is not JSON: unexpected end of JSON input"}`},
		{"more after the json", alice, "POST", "/v1/vms", `{} {}`, 400, `{"code":"invalid","field":"body","message":"is not JSON: invalid character '{' after top-level value"}`},
		{"not an object", alice, "POST", "/v1/vms", `[]`, 400, `{"code":"invalid","field":"body","message":"expected object"}`},
		{"empty body", alice, "POST", "/v1/vms", ``, 400, `{"code":"invalid","field":"body","message":"is missing: send a JSON object"}`},
		{"too large", alice, "POST", "/v1/vms", `{"name":"` + strings.Repeat("a", 5000) + `"}`, 413, `{"code":"invalid","field":"body","message":"is larger than 4096 bytes"}`},
		{"controller's field", alice, "POST", "/v1/vms", `{"name":"a","spec":{"cpus":1}}`, 400, `{"code":"invalid","field":"spec.image","message":"must be given"}`},
		{"unknown query", alice, "GET", "/v1/vms?wach=true", "", 400, `{"code":"invalid","field":"wach","message":"unknown query parameter"}`},
		{"names differ", alice, "PUT", "/v1/vms/web1", `{"name":"web2"}`, 400, `{"code":"invalid","field":"name","message":"is \"web2\" in the body and \"web1\" in the path"}`},
		{"exists", alice, "POST", "/v1/vms", vmBody, 409, `{"code":"already-exists","message":"vms web1 exists"}`},
		{"conflict", alice, "PUT", "/v1/vms/web1", `{"revision":77,"spec":{"image":"tiny"}}`, 409, `{"code":"conflict","field":"revision","message":"web1 is at revision 1"}`},
		{"refused with a reason", admin, "POST", "/v1/loans", `{"lender":"osaka","offer":"o","amount":{"cpus":9}}`, 422,
			`{"code":"refused","message":"the offer does not reach","reasons":[{"site":"osaka","code":"cpu","message":"8 are lent at most","advice":"ask for less"}]}`},
		{"refused with all reasons", alice, "POST", "/v1/vms/web1/migrate", `{"target":"nara"}`, 422,
			`{"code":"refused","message":"vm web1 cannot migrate to nara","reasons":[{"site":"nara","host":"h1","code":"memory","message":"needs 512 MiB, has 100 MiB","advice":"ask for a larger loan"},{"site":"nara","host":"h1","code":"cpu","message":"cannot run the model qemu64"}]}`},
		{"forbidden", alice, "POST", "/v1/users/root/tokens", "", 403, `{"code":"forbidden","message":"user alice is no admin"}`},
		{"stale watch", alice, "GET", "/v1/vms?watch=true&from=1", "", 409, `{"code":"stale","message":"revision 1 is no longer kept"}`},
		{"negative revision", alice, "GET", "/v1/vms?watch=true&from=-4", "", 400, `{"code":"invalid","field":"from","message":"expected number >= 0"}`},
	}
	s := newSite(t, serve.Options{MaxBody: 4096})
	if code, body := s.do(alice, "POST", "/v1/vms", vmBody); code != 201 {
		t.Fatalf("create: %d %s", code, body)
	}
	s.ctl.Compact(2)
	_, before := s.do(admin, "GET", "/v1/vms", "")
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s.T = t
			code, body := s.do(tt.token, tt.method, tt.path, tt.body)
			if code != tt.status || body != tt.want {
				t.Errorf("%s %s:\n got %d %s\nwant %d %s", tt.method, tt.path, code, body, tt.status, tt.want)
			}
		})
	}
	s.T = t
	if _, after := s.do(admin, "GET", "/v1/vms", ""); after != before {
		t.Errorf("errors changed something:\n%s\n%s", before, after)
	}
	for _, secret := range []string{"admin-token", "alice-token", "stolen"} {
		if strings.Contains(s.log.String(), secret) {
			t.Errorf("the log has the token %q", secret)
		}
	}
}

func TestUnknownErrorsAreHidden(t *testing.T) {
	s := newSite(t, serve.Options{})
	s.ctl.Fail(errors.New("open /secret/path: disk on fire"))
	code, body := s.do("admin-token", "GET", "/v1/vms", "")
	if want := `{"code":"internal","message":"internal error; the controller's log has more"}`; code != 500 || body != want {
		t.Errorf("got %d %s, want 500 %s", code, body, want)
	}
	if !strings.Contains(s.log.String(), "disk on fire") {
		t.Errorf("the log has not the error:\n%s", s.log)
	}
}

func TestPanicsAreLogged(t *testing.T) {
	s := newSite(t, serve.Options{})
	code, body := s.do("panic-token", "GET", "/v1/vms", "")
	if want := `{"code":"internal","message":"internal error"}`; code != 500 || body != want {
		t.Errorf("got %d %s, want 500 %s", code, body, want)
	}
	for _, want := range []string{"a defect", "servetest.(*Memory).Authenticate", "tokens.go:"} {
		if !strings.Contains(s.log.String(), want) {
			t.Errorf("the log has not %q:\n%s", want, s.log)
		}
	}
}

func TestObjects(t *testing.T) {
	s := newSite(t, serve.Options{})
	want := func(wantCode int, method, path, body string, into any) {
		t.Helper()
		code, got := s.do("alice-token", method, path, body)
		if code != wantCode {
			t.Fatalf("%s %s: got %d %s, want %d", method, path, code, got, wantCode)
		}
		if into != nil {
			if err := json.Unmarshal([]byte(got), into); err != nil {
				t.Fatalf("%s %s: %v in %s", method, path, err, got)
			}
		}
	}
	var list api.Listing[*api.VM]
	want(200, "GET", "/v1/vms", "", &list)
	if list.Items == nil || len(list.Items) != 0 {
		t.Errorf("an empty list is %v, want []", list.Items)
	}
	var vm, got api.VM
	want(201, "POST", "/v1/vms", vmBody, &vm)
	want(200, "GET", "/v1/vms/web1", "", &got)
	if d := cmp.Diff(vm, got); d != "" {
		t.Errorf("get differs from create (-create +get):\n%s", d)
	}
	// A whole object, status and all, comes back by PUT as a client read it; null stands for what is not there.
	whole, err := json.Marshal(&vm)
	if err != nil {
		t.Fatal(err)
	}
	body := strings.Replace(string(whole), `"power":"on"`, `"power":"off","sites":null`, 1)
	want(200, "PUT", "/v1/vms/web1", body, &got)
	if got.Spec.Power != api.PowerOff || got.Revision <= vm.Revision {
		t.Errorf("after the update: %+v", got)
	}
	want(409, "PUT", "/v1/vms/web1", body, nil) // its revision is old now
	want(202, "POST", "/v1/vms/web1/migrate", `{"target":"osaka"}`, nil)
	want(200, "POST", "/v1/vms/web1/migrate", `{"target":"osaka","dry_run":true}`, nil)
	want(200, "POST", "/v1/jobs/migrate-web1/cancel", "", nil)
	want(409, "POST", "/v1/vms/web1/reboot", `{}`, nil)
	want(204, "POST", "/v1/vms/web1/reboot", `{"hard":true}`, nil)
	var why api.WhyResult
	want(200, "GET", "/v1/vms/web1/why?not=nara", "", &why)
	if len(why.Reasons) != 2 {
		t.Errorf("why: %+v", why)
	}
	want(202, "DELETE", "/v1/vms/web1", "", &got)
	if !got.Deleting {
		t.Error("a deleted object does not show deleting")
	}
	want(404, "GET", "/v1/vms/web1", "", nil)
}

func TestUpload(t *testing.T) {
	s := newSite(t, serve.Options{MaxUpload: 2 << 20, MaxBody: 100})
	if code, body := s.do("alice-token", "POST", "/v1/images", `{"name":"tiny"}`); code != 201 {
		t.Fatalf("create: %d %s", code, body)
	}
	content := strings.Repeat("x", 2<<20)
	if code, body := s.do("alice-token", "PUT", "/v1/images/tiny/content", content); code != 200 {
		t.Fatalf("upload: %d %s", code, body)
	}
	if got := s.ctl.Uploaded("tiny"); string(got) != content {
		t.Errorf("uploaded %d bytes, want %d", len(got), len(content))
	}
	code, body := s.do("alice-token", "PUT", "/v1/images/tiny/content", content+"y")
	if want := `{"code":"invalid","field":"content","message":"is larger than the limit of 2097152 bytes"}`; code != 400 || body != want {
		t.Errorf("too large: got %d %s, want 400 %s", code, body, want)
	}
}

// TestWatch reads the stream by hand, as any SSE client would.
func TestWatch(t *testing.T) {
	s := newSite(t, serve.Options{Heartbeat: 10 * time.Millisecond})
	vm := &api.VM{Meta: api.Meta{Name: "web1", Owner: "tokyo-u"}}
	s.ctl.Put(&api.Owner{Meta: api.Meta{Name: "tokyo-u"}}) // revision 1: another kind
	s.ctl.Put(vm)                                          // 2
	s.ctl.Put(vm)                                          // 3

	watch := func(query, lastID string) (*bufio.Reader, func()) {
		t.Helper()
		r, _ := http.NewRequest("GET", s.url+"/v1/vms?watch=true"+query, nil)
		r.Header.Set("Authorization", "Bearer alice-token")
		if lastID != "" {
			r.Header.Set("Last-Event-ID", lastID)
		}
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		if ct := resp.Header.Get("Content-Type"); resp.StatusCode != 200 || ct != "text/event-stream" {
			t.Fatalf("watch: %s, %s", resp.Status, ct)
		}
		return bufio.NewReader(resp.Body), func() { resp.Body.Close() }
	}
	next := func(r *bufio.Reader) string {
		t.Helper()
		var event []string
		for {
			line, err := r.ReadString('\n')
			if err != nil {
				return "end"
			}
			line = strings.TrimSuffix(line, "\n")
			switch {
			case strings.HasPrefix(line, "id: "), strings.HasPrefix(line, "event: "):
				event = append(event, line)
			case line == "" && event != nil:
				return strings.Join(event, ", ")
			}
		}
	}

	r, done := watch("&from=2", "")
	if got, want := next(r), "id: 3, event: put"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	s.ctl.Put(vm)
	if got, want := next(r), "id: 4, event: put"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	// A sign of life comes without events.
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasPrefix(line, ": idle") {
			break
		}
	}
	s.ctl.Drop() // fell behind: the stream ends, and the last id resumes it
	if got := next(r); got != "end" {
		t.Errorf("got %q after the watch ended", got)
	}
	done()
	if code, body := s.do("alice-token", "DELETE", "/v1/vms/web1", ""); code != 202 {
		t.Fatalf("delete: %d %s", code, body)
	}
	r, done = watch("&from=2", "4")
	if got, want := next(r), "id: 5, event: delete"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	done()
	r, done = watch("", "")
	defer done()
	s.srv.Stop()
	if got := next(r); got != "end" {
		t.Errorf("got %q after Stop", got)
	}
}

func TestConsole(t *testing.T) {
	s := newSite(t, serve.Options{})
	s.ctl.Put(&api.VM{Meta: api.Meta{Name: "web1", Owner: "tokyo-u"}})
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	dial := func(token string) (*websocket.Conn, *http.Response, error) {
		return websocket.Dial(ctx, s.url+"/v1/vms/web1/console", &websocket.DialOptions{
			HTTPHeader: http.Header{"Authorization": {"Bearer " + token}}})
	}
	if _, resp, err := dial("stolen"); err == nil || resp.StatusCode != 401 {
		t.Fatalf("with a wrong token: %v, %v", resp, err)
	}
	c, _, err := dial("alice-token")
	if err != nil {
		t.Fatal(err)
	}
	defer c.CloseNow()
	read := func() string {
		t.Helper()
		_, b, err := c.Read(ctx)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	if got := read(); got != "login: " {
		t.Errorf("got %q", got)
	}
	if err := c.Write(ctx, websocket.MessageBinary, []byte("root")); err != nil {
		t.Fatal(err)
	}
	if got := read(); got != "ROOT" {
		t.Errorf("got %q", got)
	}
	if err := c.Write(ctx, websocket.MessageText, []byte("exit")); err != nil {
		t.Fatal(err)
	}
	if _, _, err = c.Read(ctx); websocket.CloseStatus(err) != websocket.StatusNormalClosure {
		t.Errorf("the console's end: %v", err)
	}
}

func TestServeStopsCleanly(t *testing.T) {
	ctl := servetest.New()
	srv := serve.New(serve.Options{Controller: ctl, Logger: slog.New(slog.DiscardHandler)})
	ln, err := net.Listen("tcp", "[::1]:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- srv.Serve(ctx, ln, nil) }()
	r, _ := http.NewRequest("GET", "http://"+ln.Addr().String()+"/v1/vms?watch=true", nil)
	r.Header.Set("Authorization", "Bearer admin-token")
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	cancel()
	if err := <-done; err != nil {
		t.Errorf("serve: %v", err)
	}
	if _, err := io.ReadAll(resp.Body); err != nil {
		t.Errorf("the watch did not end in order: %v", err)
	}
	http.DefaultClient.CloseIdleConnections()
}

func TestOpenRoutes(t *testing.T) {
	s := newSite(t, serve.Options{Metrics: prometheus.NewRegistry(), Version: "1.2.3"})
	if code, body := s.do("", "GET", "/healthz", ""); code != 200 || body != "ok" {
		t.Errorf("healthz: %d %s", code, body)
	}
	s.do("admin-token", "GET", "/v1/vms/a-name-of-the-client", "")
	s.do("admin-token", "GET", "/not/there", "")
	code, body := s.do("", "GET", "/metrics", "")
	for _, want := range []string{
		`widecloud_api_requests_total{method="GET",route="/v1/vms/{name}",status="404"} 1`,
		`widecloud_api_requests_total{method="",route="none",status="404"} 1`,
	} {
		if code != 200 || !strings.Contains(body, want) {
			t.Errorf("metrics (%d) lack %s in:\n%s", code, want, body)
		}
	}
	if strings.Contains(body, "a-name-of-the-client") {
		t.Error("a client's words became a label")
	}
	without := newSite(t, serve.Options{})
	if code, _ := without.do("", "GET", "/metrics", ""); code != 401 {
		t.Errorf("/metrics without metrics: %d, want 401", code)
	}
}

func TestOpenAPI(t *testing.T) {
	s := newSite(t, serve.Options{Version: "1.2.3"})
	code, body := s.do("", "GET", "/openapi.json", "")
	var doc struct {
		OpenAPI    string                    `json:"openapi"`
		Paths      map[string]map[string]any `json:"paths"`
		Components struct {
			Schemas map[string]struct {
				Properties map[string]map[string]any `json:"properties"`
				Required   []string                  `json:"required"`
			} `json:"schemas"`
		} `json:"components"`
	}
	if err := json.Unmarshal([]byte(body), &doc); err != nil || code != 200 {
		t.Fatalf("%d %v", code, err)
	}
	if !strings.HasPrefix(doc.OpenAPI, "3.1") {
		t.Errorf("openapi %s, want 3.1", doc.OpenAPI)
	}
	methods := func(path string) string {
		var l []string
		for _, m := range []string{"get", "post", "put", "patch", "delete"} {
			if doc.Paths[path][m] != nil {
				l = append(l, m)
			}
		}
		return strings.Join(l, " ")
	}
	for path, want := range map[string]string{
		"/v1/watch": "get", "/v1/sites": "get", "/v1/sites/{name}": "get",
		"/v1/hosts": "get", "/v1/hosts/{name}": "get put patch delete", "/v1/hosts/join-tokens": "post",
		"/v1/owners": "get post", "/v1/users": "get post", "/v1/users/{name}/tokens": "get post", "/v1/users/{name}/tokens/{id}": "delete",
		"/v1/peers": "get post", "/v1/peers/{name}": "get put patch delete", "/v1/peers/invitations": "post",
		"/v1/offers": "get post", "/v1/offers/{name}": "get put patch delete",
		"/v1/loans": "get post", "/v1/loans/{name}": "get", "/v1/loans/{name}/reclaim": "post", "/v1/loans/{name}/return": "post",
		"/v1/images": "get post", "/v1/images/{name}/content": "put", "/v1/volumes": "get post", "/v1/networks": "get post",
		"/v1/vms": "get post", "/v1/vms/{name}": "get put patch delete", "/v1/vms/{name}/migrate": "post", "/v1/vms/{name}/reboot": "post", "/v1/vms/{name}/rename": "post",
		"/v1/vms/{name}/why": "get", "/v1/vms/{name}/console": "get", "/v1/vms/{name}/display": "get", "/v1/vms/{name}/tickets": "post", "/v1/guests": "get", "/v1/addresses": "get post",
		"/v1/translators": "get", "/v1/jobs": "get", "/v1/jobs/{name}": "get", "/v1/jobs/{name}/cancel": "post", "/v1/events": "get",
	} {
		if got := methods(path); got != want {
			t.Errorf("%s has %q, want %q", path, got, want)
		}
	}
	patch, _ := json.Marshal(doc.Paths["/v1/vms/{name}"]["patch"])
	for _, want := range []string{`"application/merge-patch+json":{"schema":{"$ref":"#/components/schemas/VM"}}`, `"name":"If-Match"`, `"412"`, `"ETag"`} {
		if !strings.Contains(string(patch), want) {
			t.Errorf("the PATCH of a VM lacks %s: %s", want, patch)
		}
	}
	var parameters []string
	list, _ := doc.Paths["/v1/vms"]["get"].(map[string]any)
	for _, p := range list["parameters"].([]any) {
		parameters = append(parameters, p.(map[string]any)["name"].(string))
	}
	slices.Sort(parameters)
	if d := cmp.Diff([]string{"Last-Event-ID", "cursor", "from", "host", "label", "limit", "name", "owner", "site", "state", "watch"}, parameters); d != "" {
		t.Errorf("parameters of a list (-want +got):\n%s", d)
	}
	vm := doc.Components.Schemas["VM"]
	if vm.Properties["status"]["readOnly"] != true {
		t.Errorf("VM.status is %v, want readOnly", vm.Properties["status"])
	}
	if d := cmp.Diff([]string{"name", "spec", "status"}, vm.Required); d != "" {
		t.Errorf("VM.required (-want +got):\n%s", d)
	}
	if doc.Components.Schemas["Error"].Properties["reasons"] == nil {
		t.Error("no schema of Error")
	}
}

// counted is an object that counts how often it is encoded.
type counted struct {
	api.VM
	n *atomic.Int32
}

// MarshalJSON is json.Marshaler's.
func (c *counted) MarshalJSON() ([]byte, error) {
	c.n.Add(1)
	return json.Marshal(&c.VM)
}

// sharing gives every watcher one and the same change.
type sharing struct {
	*servetest.Memory
	change serve.Change
}

// Watch is serve.Controller's.
func (s *sharing) Watch(ctx context.Context, _ serve.Principal, _ []api.Kind, _ api.Selector, _ int64) (serve.Watch, error) {
	ch := make(chan serve.Change, 1)
	ch <- s.change
	context.AfterFunc(ctx, func() { close(ch) })
	return servetest.Channel(ch, func() {}), nil
}

// TestEncodedOnce: what several watchers are sent is encoded once.
func TestEncodedOnce(t *testing.T) {
	o := &counted{VM: api.VM{Meta: api.Meta{Name: "web1"}}, n: new(atomic.Int32)}
	ctl := &sharing{servetest.New(), serve.Change{Revision: 7, Object: o, Shared: new(serve.Encoding)}}
	srv := serve.New(serve.Options{Controller: ctl, Logger: slog.New(slog.DiscardHandler)})
	h := httptest.NewServer(srv)
	defer h.Close()
	defer srv.Stop()
	defer http.DefaultClient.CloseIdleConnections()
	for range 3 {
		r, err := http.NewRequest(http.MethodGet, h.URL+"/v1/vms?watch=true", nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Authorization", "Bearer alice-token")
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		lines := bufio.NewScanner(resp.Body)
		for lines.Scan() && !strings.HasPrefix(lines.Text(), "data: ") {
		}
		if !strings.Contains(lines.Text(), `"revision":7`) || !strings.Contains(lines.Text(), `"name":"web1"`) {
			t.Errorf("a watcher is sent %q, %v", lines.Text(), lines.Err())
		}
	}
	if n := o.n.Load(); n != 1 {
		t.Errorf("it was encoded %d times", n)
	}
}

// TestMetricsOfObjects: what names VMs and organisations is for admins.
func TestMetricsOfObjects(t *testing.T) {
	details := prometheus.NewRegistry()
	details.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "widecloud_vm_secret", Help: "x"}, func() float64 { return 1 }))
	s := newSite(t, serve.Options{Metrics: prometheus.NewRegistry(), Details: details})
	for token, want := range map[string]struct {
		code  int
		shown bool
	}{"": {200, false}, "stolen": {401, false}, "alice-token": {403, false}, "admin-token": {200, true}} {
		code, body := s.do(token, "GET", "/metrics", "")
		if code != want.code || strings.Contains(body, "widecloud_vm_secret") != want.shown {
			t.Errorf("with token %q: %d %s", token, code, body)
		}
	}
}
