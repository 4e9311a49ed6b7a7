package serve_test

import (
	"log/slog"
	"testing"

	"github.com/google/go-cmp/cmp"

	"widecloud/internal/serve"
	"widecloud/internal/serve/servetest"
)

// TestDescribe: without a site, the description is that of one that is served.
func TestDescribe(t *testing.T) {
	served := serve.New(serve.Options{Controller: servetest.New(), Logger: slog.New(slog.DiscardHandler), Version: "1"})
	if diff := cmp.Diff(string(served.OpenAPI()), string(serve.Describe("1"))); diff != "" {
		t.Error(diff)
	}
}
