package serve_test

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coder/websocket"
	"github.com/prometheus/client_golang/prometheus"

	"widecloud/api"
	"widecloud/internal/rfb"
	"widecloud/internal/serve"
	"widecloud/internal/serve/servetest"
)

// withVMs is a site with two VMs that have a display, and one that has none.
func withVMs(t *testing.T, o serve.Options) *site {
	s := newSite(t, o)
	for _, name := range []string{"web1", "web2"} {
		s.ctl.Put(&api.VM{Meta: api.Meta{Name: name, UID: "uid-" + name, Owner: "tokyo-u"}, Spec: api.VMSpec{Hardware: api.Hardware{Profile: 2}}})
	}
	s.ctl.Put(&api.VM{Meta: api.Meta{Name: "old1", UID: "uid-old1", Owner: "tokyo-u"}})
	return s
}

// ticket makes one.
func (s *site) ticket(token, vm string, kind api.TicketKind) api.Ticket {
	s.Helper()
	code, body := s.do(token, "POST", "/v1/vms/"+vm+"/tickets", fmt.Sprintf(`{"kind":%q}`, kind))
	var t api.Ticket
	if err := json.Unmarshal([]byte(body), &t); code != 201 || err != nil {
		s.Fatalf("a ticket: %d %s", code, body)
	}
	return t
}

// dial opens a websocket, and gives the status where that is refused.
func (s *site) dial(path string, o *websocket.DialOptions) (*websocket.Conn, int, string) {
	s.Helper()
	ws, resp, err := websocket.Dial(s.Context(), s.url+path, o)
	if err == nil {
		s.Cleanup(func() { ws.CloseNow() })
		return ws, 101, ""
	}
	if resp == nil {
		s.Fatal(err)
	}
	e := api.AnswerError(resp)
	return nil, resp.StatusCode, e.Error()
}

// TestDisplay looks at a VM's display by a ticket, as noVNC does, and sees where the VM has gone.
func TestDisplay(t *testing.T) {
	s := withVMs(t, serve.Options{})
	ticket := s.ticket("alice-token", "web1", api.TicketDisplay)
	if want := "/v1/vms/web1/display?ticket=" + ticket.Ticket; ticket.Path != want || ticket.VM != "web1" || ticket.Kind != "display" {
		t.Errorf("the ticket is %+v", ticket)
	}
	if left := time.Until(ticket.Expires); left <= 0 || left > 30*time.Second {
		t.Errorf("the ticket is good for %v", left)
	}
	ws, status, why := s.dial("/v1/vms/web1/display", &websocket.DialOptions{Subprotocols: []string{"binary", "ticket." + ticket.Ticket}})
	if status != 101 {
		t.Fatalf("refused: %d %s", status, why)
	}
	if ws.Subprotocol() != "binary" {
		t.Errorf("the subprotocol is %q", ws.Subprotocol())
	}
	m, err := rfb.Capture(websocket.NetConn(t.Context(), ws, websocket.MessageBinary))
	if err != nil || rfb.Black(m) {
		t.Fatalf("the display shows %v, %v", m, err)
	}
	s.ctl.Move("web1")
	_, _, err = ws.Read(t.Context())
	if websocket.CloseStatus(err) != websocket.StatusNormalClosure || !strings.Contains(err.Error(), "VM web1 has moved to osaka/h1: connect again") {
		t.Errorf("the display's end: %v", err)
	}
	ticket = s.ticket("alice-token", "old1", api.TicketDisplay)
	if _, status, why := s.dial(ticket.Path, nil); status != 422 || !strings.Contains(why, "has no display; it has the serial console") {
		t.Errorf("a VM without a display: %d %s", status, why)
	}
}

func TestTicketRefused(t *testing.T) {
	s := withVMs(t, serve.Options{Metrics: prometheus.NewRegistry()})
	s.ctl.Put(&api.User{Meta: api.Meta{Name: "bob", Owner: "tokyo-u"}})
	bob, err := s.ctl.NewToken(t.Context(), serve.Principal{Admin: true}, "bob", api.TokenRequest{})
	if err != nil {
		t.Fatal(err)
	}
	used := s.ticket("alice-token", "web1", api.TicketConsole)
	if _, status, why := s.dial(used.Path, nil); status != 101 {
		t.Fatalf("refused: %d %s", status, why)
	}
	for _, c := range []struct {
		name, path string
		o          *websocket.DialOptions
		status     int
		want       string
	}{
		{"used before", used.Path, nil, 401, "the ticket is not good"},
		{"made up", "/v1/vms/web1/console?ticket=wct_x", nil, 401, "the ticket is not good"},
		{"another VM", strings.Replace(s.ticket("alice-token", "web1", "console").Path, "web1", "web2", 1), nil, 403, "is for the console of VM web1"},
		{"another kind", strings.Replace(s.ticket("alice-token", "web1", "console").Path, "console", "display", 1), nil, 403, "is for the console of VM web1"},
		{"another origin", s.ticket("alice-token", "web1", "console").Path,
			&websocket.DialOptions{HTTPHeader: http.Header{"Origin": {"https://evil.example"}}}, 403, "not authorized"},
		{"beside a wrong token", s.ticket("alice-token", "web1", "console").Path,
			&websocket.DialOptions{HTTPHeader: http.Header{"Authorization": {"Bearer wrong"}}}, 101, ""},
	} {
		if _, status, why := s.dial(c.path, c.o); status != c.status || !strings.Contains(why, c.want) {
			t.Errorf("%s: %d %s, want %d %q", c.name, status, why, c.status, c.want)
		}
	}
	lost := s.ticket(bob.Token, "web1", api.TicketConsole)
	if err := s.ctl.RevokeToken(t.Context(), serve.Principal{Admin: true}, "bob", bob.ID); err != nil {
		t.Fatal(err)
	}
	if _, status, why := s.dial(lost.Path, nil); status != 401 {
		t.Errorf("a ticket whose user's token was revoked: %d %s", status, why)
	}
	again := s.ticket("alice-token", "web1", api.TicketConsole)
	s.ctl.Put(&api.VM{Meta: api.Meta{Name: "web1", UID: "uid-other", Owner: "tokyo-u"}})
	if _, status, why := s.dial(again.Path, nil); status != 403 || !strings.Contains(why, "is for another VM") {
		t.Errorf("a ticket for a VM that was deleted: %d %s", status, why)
	}
	for path, want := range map[string]int{"/v1/vms?ticket=" + again.Ticket: 401, "/v1/vms/web1/why?ticket=" + again.Ticket: 401} {
		if code, body := s.do("", "GET", path, ""); code != want {
			t.Errorf("%s: %d %s", path, code, body)
		}
	}
	for body, want := range map[string]string{`{"kind":"disk"}`: "kind", `{}`: "kind"} {
		if code, got := s.do("alice-token", "POST", "/v1/vms/web1/tickets", body); code != 400 || !strings.Contains(got, want) {
			t.Errorf("%s: %d %s", body, code, got)
		}
	}
	if code, got := s.do("alice-token", "POST", "/v1/vms/web9/tickets", `{"kind":"console"}`); code != 404 {
		t.Errorf("no such VM: %d %s", code, got)
	}
	if _, metrics := s.do("", "GET", "/metrics", ""); !strings.Contains(metrics, `widecloud_api_tickets_total{kind="console",outcome="used"} 3`) ||
		!strings.Contains(metrics, `widecloud_api_tickets_total{kind="",outcome="refused"} 2`) {
		t.Errorf("counted: %s", metrics)
	}
}

// TestTicketsBounded makes as many as one user may, and more when those have expired.
func TestTicketsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctl := servetest.New()
		ctl.Put(&api.VM{Meta: api.Meta{Name: "web1", UID: "uid-web1", Owner: "tokyo-u"}})
		srv := serve.New(serve.Options{Controller: ctl, Logger: slog.New(slog.DiscardHandler)})
		do := func(token, method, path, body string) (int, string) {
			r := httptest.NewRequestWithContext(t.Context(), method, path, strings.NewReader(body))
			if token != "" {
				r.Header.Set("Authorization", "Bearer "+token)
			}
			w := httptest.NewRecorder()
			srv.ServeHTTP(w, r)
			return w.Code, w.Body.String()
		}
		made := func(token string) (made api.Ticket) {
			t.Helper()
			code, body := do(token, "POST", "/v1/vms/web1/tickets", `{"kind":"console"}`)
			if err := json.Unmarshal([]byte(body), &made); code != 201 || err != nil {
				t.Fatalf("a ticket: %d %s", code, body)
			}
			return made
		}
		for range 16 {
			made("alice-token")
		}
		if code, body := do("alice-token", "POST", "/v1/vms/web1/tickets", `{"kind":"console"}`); code != 429 || !strings.Contains(body, "has 16 tickets that are not used") {
			t.Errorf("the 17th: %d %s", code, body)
		}
		made("admin-token")
		time.Sleep(31 * time.Second)
		last := made("alice-token")
		time.Sleep(31 * time.Second)
		if code, body := do("", "GET", last.Path, ""); code != 401 || !strings.Contains(body, "is not good") {
			t.Errorf("an expired one: %d %s", code, body)
		}
	})
}
