package serve_test

import (
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/coder/websocket"
	"github.com/google/go-cmp/cmp"

	"widecloud/api"
	"widecloud/internal/serve"
	"widecloud/internal/serve/page"
	"widecloud/internal/serve/servetest"
)

// ask makes a request with headers, in pairs.
func (s *site) ask(method, path, body string, header ...string) (*http.Response, string) {
	s.Helper()
	r, err := http.NewRequest(method, s.url+path, strings.NewReader(body))
	if err != nil {
		s.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
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

// logIn logs a browser in, and gives the cookie as it is sent back.
func (s *site) logIn(token string) string {
	s.Helper()
	resp, body := s.ask("POST", "/v1/session", `{"token":"`+token+`"}`, "Sec-Fetch-Site", "same-origin")
	if resp.StatusCode != 200 || len(resp.Cookies()) != 1 {
		s.Fatalf("log in: %d %s", resp.StatusCode, body)
	}
	c := resp.Cookies()[0]
	return c.Name + "=" + c.Value
}

func TestSession(t *testing.T) {
	s := newSite(t, serve.Options{Site: "tokyo", Version: "1.2"})
	resp, body := s.ask("POST", "/v1/session", `{"token":"alice-token"}`)
	var got api.Session
	if err := json.Unmarshal([]byte(body), &got); err != nil || resp.StatusCode != 200 {
		t.Fatalf("%d %s", resp.StatusCode, body)
	}
	want := api.Session{User: "alice", Owner: "tokyo-u", Site: "tokyo", Version: "1.2"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
	c := resp.Cookies()[0]
	if !c.HttpOnly || c.SameSite != http.SameSiteStrictMode || c.Secure || c.Path != "/" || c.MaxAge != 12*3600 || strings.Contains(c.Value, "alice-token") {
		t.Errorf("cookie %+v", c)
	}
	cookie := c.Name + "=" + c.Value
	if _, again := s.ask("GET", "/v1/session", "", "Cookie", cookie); again != body {
		t.Errorf("who am I: %s", again)
	}
	if _, tokens := s.ask("GET", "/v1/users/-/tokens", "", "Cookie", cookie); !strings.Contains(tokens, `"note":"web page"`) || strings.Contains(tokens, "secret") {
		t.Errorf("the session is not listed: %s", tokens)
	}

	resp, body = s.ask("DELETE", "/v1/session", "", "Cookie", cookie, "Sec-Fetch-Site", "same-origin")
	if resp.StatusCode != 204 || resp.Cookies()[0].MaxAge >= 0 {
		t.Errorf("log out: %d %s %v", resp.StatusCode, body, resp.Cookies())
	}
	resp, body = s.ask("GET", "/v1/vms", "", "Cookie", cookie)
	if resp.StatusCode != 401 || len(resp.Cookies()) != 1 || resp.Cookies()[0].MaxAge >= 0 {
		t.Errorf("with the cookie of a session that has ended: %d %s %v", resp.StatusCode, body, resp.Cookies())
	}
	if code, body := s.do("alice-token", "GET", "/v1/vms", ""); code != 200 {
		t.Errorf("the token has ended with the session: %d %s", code, body)
	}
}

func TestSessionRefused(t *testing.T) {
	ctl, first := servetest.NewSite()
	s := newSiteOf(t, ctl, serve.Options{})
	for name, c := range map[string]struct {
		body   string
		header []string
		status int
		want   string
	}{
		"a wrong token":          {`{"token":"stolen"}`, nil, 401, "not known"},
		"no token":               {`{}`, nil, 400, "must be given"},
		"another field":          {`{"tokem":"x"}`, nil, 400, "tokem"},
		"no JSON":                {`token`, nil, 400, "is not JSON"},
		"a long body":            {`{"token":"` + strings.Repeat("x", 5000) + `"}`, nil, 413, "larger"},
		"the first login's":      {`{"token":"` + first + `"}`, nil, 403, "first login"},
		"a page of another site": {`{"token":"` + first + `"}`, []string{"Sec-Fetch-Site", "cross-site"}, 403, "another origin"},
		"another origin":         {`{"token":"` + first + `"}`, []string{"Origin", "https://evil.example"}, 403, "another origin"},
	} {
		resp, body := s.ask("POST", "/v1/session", c.body, c.header...)
		if resp.StatusCode != c.status || !strings.Contains(body, c.want) || len(resp.Cookies()) != 0 {
			t.Errorf("%s: %d %s %v", name, resp.StatusCode, body, resp.Cookies())
		}
	}
}

// TestSessionIsForThisOrigin: what changes something by a cookie comes from a page of this server; a token says that by itself.
func TestSessionIsForThisOrigin(t *testing.T) {
	s := newSite(t, serve.Options{})
	cookie := s.logIn("alice-token")
	for _, c := range []struct {
		name, method, path string
		header             []string
		status             int
	}{
		{"this page", "POST", "/v1/vms", []string{"Cookie", cookie, "Sec-Fetch-Site", "same-origin"}, 201},
		{"another page", "POST", "/v1/vms", []string{"Cookie", cookie, "Sec-Fetch-Site", "cross-site"}, 403},
		{"a page of a neighbour", "DELETE", "/v1/vms/web9", []string{"Cookie", cookie, "Sec-Fetch-Site", "same-site"}, 403},
		{"an old browser", "DELETE", "/v1/vms/web9", []string{"Cookie", cookie, "Origin", "https://evil.example"}, 403},
		{"another page that logs out", "DELETE", "/v1/session", []string{"Cookie", cookie, "Sec-Fetch-Site", "cross-site"}, 403},
		{"a program with a token", "DELETE", "/v1/vms/web9", []string{"Authorization", "Bearer alice-token", "Sec-Fetch-Site", "cross-site"}, 202},
		{"a wrong token beside a good cookie", "GET", "/v1/vms", []string{"Cookie", cookie, "Authorization", "Bearer wrong"}, 401},
	} {
		body := ""
		if c.method == "POST" {
			body = strings.Replace(vmBody, "web1", "web9", 1)
		}
		if resp, got := s.ask(c.method, c.path, body, c.header...); resp.StatusCode != c.status {
			t.Errorf("%s: %d %s, want %d", c.name, resp.StatusCode, got, c.status)
		}
	}
	if code, body := s.do("alice-token", "POST", "/v1/vms", strings.Replace(vmBody, "web1", "web8", 1)); code != 201 {
		t.Fatalf("%d %s", code, body)
	}
	url := strings.Replace(s.url, "http://", "ws://", 1) + "/v1/vms/web8/console"
	for origin, ok := range map[string]bool{s.url: true, "https://evil.example": false} {
		ws, _, err := websocket.Dial(t.Context(), url, &websocket.DialOptions{HTTPHeader: http.Header{"Cookie": {cookie}, "Origin": {origin}}})
		if (err == nil) != ok {
			t.Errorf("a console for %s: %v", origin, err)
		}
		if err == nil {
			ws.CloseNow()
		}
	}
}

// TestPageBesideTheAPI: the page has what the API has not, for everybody, and the API's paths stay as they are.
func TestPageBesideTheAPI(t *testing.T) {
	web, err := page.Of(fstest.MapFS{"index.html": {Data: []byte("<title>page</title>")}})
	if err != nil {
		t.Fatal(err)
	}
	s := newSite(t, serve.Options{Page: web})
	for path, want := range map[string]int{"/": 200, "/vms/web1": 200, "/v1x": 200, "/v1": 401, "/v1/nonsense": 401, "/v1/vms": 401, "/healthz": 200, "/openapi.json": 200, "//vms": 401} {
		resp, body := s.ask("GET", path, "")
		if isPage := strings.Contains(body, "<title>page</title>"); resp.StatusCode != want || isPage != (want == 200 && path != "/healthz" && path != "/openapi.json") {
			t.Errorf("%s: %d %q", path, resp.StatusCode, body)
		}
	}
}
