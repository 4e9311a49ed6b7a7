package api_test

import (
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"widecloud/api"
	"widecloud/internal/serve"
	"widecloud/internal/serve/servetest"
)

// TestLostAnswers does what is asked for and then loses the answer, whole or in the middle: the client repeats the request, under the
// same key, and it takes effect once.
func TestLostAnswers(t *testing.T) {
	ctl := servetest.New()
	srv := serve.New(serve.Options{Controller: ctl, Logger: slog.New(slog.DiscardHandler)})
	var lose atomic.Int32
	var mu sync.Mutex // a connection that was cut may still be served
	keys := map[string]int{}
	known := func(key string) int {
		mu.Lock()
		defer mu.Unlock()
		return keys[key]
	}
	count := func() int {
		mu.Lock()
		defer mu.Unlock()
		return len(keys)
	}
	h := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		keys[r.Header.Get("Idempotency-Key")]++
		mu.Unlock()
		left := lose.Add(-1)
		if left < 0 {
			srv.ServeHTTP(w, r)
			return
		}
		answer := httptest.NewRecorder()
		srv.ServeHTTP(answer, r)
		if left == 0 { // the last time, a part arrives
			w.Header().Set("Content-Length", "10000")
			w.WriteHeader(answer.Code)
			w.Write(answer.Body.Bytes()[:10])
		}
		panic(http.ErrAbortHandler)
	}))
	defer func() { srv.Stop(); h.CloseClientConnections(); h.Close() }()
	c, err := api.NewClient(h.URL, "admin-token", h.Client())
	if err != nil {
		t.Fatal(err)
	}
	lose.Store(2)
	v, err := api.Create(t.Context(), c, &api.VM{Meta: api.Meta{Name: "web1"}, Spec: api.VMSpec{Image: "tiny"}})
	if err != nil || v.Name != "web1" || v.Revision != 1 {
		t.Errorf("create: %+v, %v", v, err)
	}
	lose.Store(1)
	job, err := c.Migrate(t.Context(), "web1", "osaka")
	if err != nil || job.Name != "migrate-web1" || job.Revision != 2 {
		t.Errorf("migrate: %+v, %v", job, err)
	}
	if count() != 2 || known("") != 0 {
		t.Errorf("the keys and how often: %v, want 3 of one and 2 of another", keys)
	}
	// A refusal is an answer.
	before := count()
	if _, err := api.Create(t.Context(), c, &api.VM{Meta: api.Meta{Name: "web1"}, Spec: api.VMSpec{Image: "tiny"}}); !errors.Is(err, &api.Error{Code: api.CodeExists}) || count() != before+1 {
		t.Errorf("another one of the same name: %v, after %d requests", err, len(keys)-before)
	}
	// So is that nobody is there at all.
	h.CloseClientConnections()
	h.Close()
	if _, err := api.Create(t.Context(), c, &api.VM{Meta: api.Meta{Name: "web2"}}); err == nil || !strings.Contains(err.Error(), "call the controller") {
		t.Errorf("without a server: %v", err)
	}
}
