package serve_test

import (
	"bufio"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coder/websocket"

	"widecloud/api"
	"widecloud/internal/serve"
	"widecloud/internal/serve/servetest"
)

// TestMemory keeps the Controller of the tests honest.
func TestMemory(t *testing.T) {
	open := func(t *testing.T, test func(*testing.T, servetest.Site)) {
		synctest.Test(t, func(t *testing.T) {
			m, first := servetest.NewSite()
			test(t, servetest.Site{Controller: m, First: first})
		})
	}
	t.Run("Tokens", func(t *testing.T) { servetest.TestTokens(t, open) })
	t.Run("Objects", func(t *testing.T) { servetest.TestObjects(t, open) })
}

// TestFirstToken does everything that the first login's token is not for.
func TestFirstToken(t *testing.T) {
	ctl, first := servetest.NewSite()
	s := newSiteOf(t, ctl, serve.Options{})
	const refused = `{"code":"forbidden","message":"this token is good for the first login only: wcc login NAME --first FILE makes a lasting one of it"}`
	for _, r := range []string{"GET /v1/sites", "POST /v1/vms", "GET /v1/users/-/tokens", "DELETE /v1/users/-/tokens/t1", "GET /v1/nothing", "GET /v1/vms?watch=true"} {
		method, path, _ := strings.Cut(r, " ")
		if code, body := s.do(first, method, path, ""); code != 403 || body != refused {
			t.Errorf("%s: got %d %s", r, code, body)
		}
	}
	if code, body := s.do(first, "POST", "/v1/users/root/tokens", ""); code != 403 {
		t.Errorf("a token for another: got %d %s", code, body)
	}
	code, body := s.do(first, "POST", "/v1/users/-/tokens", "") // as clients that know no body do
	if want := `"token":"wcc_t2_secret-of-admin"`; code != 201 || !strings.Contains(body, want) {
		t.Errorf("got %d %s, want 201 with %s", code, body, want)
	}
	if code, body := s.do(first, "POST", "/v1/users/-/tokens", ""); code != 401 {
		t.Errorf("again: got %d %s, want 401", code, body)
	}
	if code, body := s.do("wcc_t2_secret-of-admin", "GET", "/v1/users/admin", ""); code != 200 {
		t.Errorf("with the lasting one: got %d %s", code, body)
	}
}

func TestTokenPaths(t *testing.T) {
	s := newSite(t, serve.Options{})
	code, body := s.do("alice-token", "POST", "/v1/users/-/tokens", `{"note":"laptop","expires_seconds":86400}`)
	if code != 201 || !strings.Contains(body, `"id":"t1","user":"alice","note":"laptop"`) {
		t.Errorf("create: got %d %s", code, body)
	}
	code, body = s.do("alice-token", "GET", "/v1/users/alice/tokens", "")
	if code != 200 || strings.Contains(body, `"token"`) || strings.Count(body, `"id"`) != 2 {
		t.Errorf("list: got %d %s", code, body)
	}
	if code, body = s.do("alice-token", "DELETE", "/v1/users/-/tokens/t1", ""); code != 204 || body != "" {
		t.Errorf("revoke: got %d %s", code, body)
	}
	code, body = s.do("alice-token", "DELETE", "/v1/users/alice/tokens/t1", "")
	if want := `{"code":"not-found","message":"user alice has no token t1"}`; code != 404 || body != want {
		t.Errorf("again: got %d %s", code, body)
	}
	code, body = s.do("alice-token", "POST", "/v1/users/-/tokens", `{"expire":1}`)
	if want := `{"code":"invalid","field":"expire","message":"unexpected property"}`; code != 400 || body != want {
		t.Errorf("unknown field: got %d %s", code, body)
	}
}

// TestStreamsEndWithTheirToken revokes the token of a watch and of a console.
func TestStreamsEndWithTheirToken(t *testing.T) {
	s := newSite(t, serve.Options{Heartbeat: 10 * time.Millisecond})
	s.ctl.Put(&api.VM{Meta: api.Meta{Name: "web1", Owner: "tokyo-u"}})
	token, err := s.ctl.NewToken(t.Context(), serve.Principal{Admin: true}, "alice", api.TokenRequest{})
	if err != nil {
		t.Fatal(err)
	}
	r, err := http.NewRequestWithContext(t.Context(), "GET", s.url+"/v1/vms?watch=true", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+token.Token)
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	console, _, err := websocket.Dial(t.Context(), s.url+"/v1/vms/web1/console", &websocket.DialOptions{HTTPHeader: r.Header})
	if err != nil {
		t.Fatal(err)
	}
	defer console.CloseNow()
	watch := bufio.NewReader(resp.Body)
	for range 6 { // it goes on while the token is good
		if _, err := watch.ReadString('\n'); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.ctl.RevokeToken(t.Context(), serve.Principal{Admin: true}, "alice", token.ID); err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, watch); err != nil {
		t.Errorf("the watch did not end in order: %v", err)
	}
	for {
		if _, _, err = console.Read(t.Context()); err != nil {
			break
		}
	}
	if websocket.CloseStatus(err) != websocket.StatusPolicyViolation {
		t.Errorf("the console ended with %v", err)
	}
}
