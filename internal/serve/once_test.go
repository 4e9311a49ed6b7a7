package serve_test

import (
	"encoding/json"
	"net/http"
	"strings"
	"sync"
	"testing"

	"widecloud/api"
	"widecloud/internal/serve"
)

const key = "Idempotency-Key"

// TestIdempotencyKey repeats every POST under its key.
func TestIdempotencyKey(t *testing.T) {
	s := newSite(t, serve.Options{})
	admin := []string{"Content-Type", "application/json", "Authorization", "Bearer admin-token"}
	s.ctl.Put(&api.VM{Meta: api.Meta{Name: "old", Owner: "tokyo-u"}})
	s.ctl.Put(&api.Job{Meta: api.Meta{Name: "slow"}, Status: api.JobStatus{State: api.JobRunning}})
	for _, tt := range []struct {
		name, path, body string
		status           int
		again            string // a part of the second answer; "": the same as the first
	}{
		{"create", "/v1/vms", vmBody, 201, ""},
		{"migrate", "/v1/vms/old/migrate", `{"target":"osaka"}`, 202, ""},
		{"cancel", "/v1/jobs/slow/cancel", "", 200, ""},
		{"reboot", "/v1/vms/old/reboot", `{"hard":true}`, 204, ""},
		{"rename", "/v1/vms/old/rename", `{"name":"older"}`, 200, ""},
		{"borrow", "/v1/loans", `{"lender":"osaka","offer":"o","amount":{"cpus":1}}`, 201, ""},
		{"join-token", "/v1/hosts/join-tokens", `{"host":"h2"}`, 201, "its secret is shown once"},
		{"token", "/v1/users/alice/tokens", `{"note":"x"}`, 201, "its secret is shown once"},
	} {
		resp, first := s.send("POST", tt.path, tt.body, append(admin, key, tt.name+"-key")...)
		if resp.StatusCode != tt.status {
			t.Fatalf("%s: %s %s", tt.name, resp.Status, first)
		}
		before, _ := s.ctl.Answered(t.Context(), serve.Attempt{User: "root", Key: tt.name + "-key"})
		if before == nil {
			t.Errorf("%s: no answer is kept", tt.name)
		}
		resp, again := s.send("POST", tt.path, tt.body, append(admin, key, tt.name+"-key")...)
		switch {
		case tt.again == "" && (resp.StatusCode != tt.status || again != first):
			t.Errorf("%s, repeated: %s %s\nwant %s", tt.name, resp.Status, again, first)
		case tt.again != "" && (resp.StatusCode != 409 || !strings.Contains(again, tt.again)):
			t.Errorf("%s, repeated: %s %s", tt.name, resp.Status, again)
		}
	}
	if n := s.ctl.Reboots(); n != 1 {
		t.Errorf("it was rebooted %d times", n)
	}
	for _, bad := range []string{"a key", strings.Repeat("x", 101), "schlüssel"} {
		resp, body := s.send("POST", "/v1/vms", vmBody, append(admin, key, bad)...)
		if want := `{"code":"invalid","field":"Idempotency-Key","message":"is not 1 to 100 visible ASCII characters"}`; resp.StatusCode != 400 || body != want {
			t.Errorf("the key %q: %s %s", bad, resp.Status, body)
		}
	}
	// The key of another request, and the same key of another user.
	resp, body := s.send("POST", "/v1/vms", strings.Replace(vmBody, "web1", "web2", 1), append(admin, key, "create-key")...)
	if want := `{"code":"conflict","field":"Idempotency-Key","message":"\"create-key\" is the key of another request: take a new key for each"}`; resp.StatusCode != 409 || body != want {
		t.Errorf("the key of another request: %s %s", resp.Status, body)
	}
	if resp, body := s.send("POST", "/v1/vms", strings.Replace(vmBody, "web1", "web3", 1), "Content-Type", "application/json", key, "create-key"); resp.StatusCode != 201 {
		t.Errorf("the key of another user: %s %s", resp.Status, body)
	}
	// A refusal uses no key up.
	for range 2 {
		if resp, body := s.send("POST", "/v1/vms", `{"name":"web4"}`, append(admin, key, "refused")...); resp.StatusCode != 400 {
			t.Errorf("refused: %s %s", resp.Status, body)
		}
	}
	if resp, body := s.send("POST", "/v1/vms", strings.Replace(vmBody, "web1", "web4", 1), append(admin, key, "refused")...); resp.StatusCode != 201 {
		t.Errorf("after a refusal: %s %s", resp.Status, body)
	}
	// What was made and is gone is not made again.
	s.do("admin-token", "DELETE", "/v1/vms/web1", "")
	if resp, body := s.send("POST", "/v1/vms", vmBody, append(admin, key, "create-key")...); resp.StatusCode != 409 || !strings.Contains(body, "what it made is not there now: vms/web1") {
		t.Errorf("after the deletion: %s %s", resp.Status, body)
	}
}

// TestIdempotencyKeyAtOnce makes the same request many times at once: it takes effect once, and all have its answer.
func TestIdempotencyKeyAtOnce(t *testing.T) {
	s := newSite(t, serve.Options{})
	var all sync.WaitGroup
	for range 16 {
		all.Go(func() {
			r, err := http.NewRequest("POST", s.url+"/v1/vms", strings.NewReader(vmBody))
			if err != nil {
				t.Error(err)
				return
			}
			r.Header.Set("Authorization", "Bearer alice-token")
			r.Header.Set(key, "k")
			resp, err := http.DefaultClient.Do(r)
			if err != nil {
				t.Error(err)
				return
			}
			defer resp.Body.Close()
			var v api.VM
			if err := json.NewDecoder(resp.Body).Decode(&v); err != nil || resp.StatusCode != 201 || v.Revision != 1 {
				t.Errorf("%s: %+v, %v", resp.Status, v, err)
			}
		})
	}
	all.Wait()
}
