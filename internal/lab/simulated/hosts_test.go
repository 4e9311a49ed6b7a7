package simulated_test

import (
	"context"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"widecloud/internal/lab/simulated"
)

// TestToken: a host whose token is none ends the process, and is named.
func TestToken(t *testing.T) {
	c := simulated.Config{Site: "tokyo", Controller: "127.0.0.1:1", Dir: t.TempDir(), Hosts: []simulated.Host{
		{Name: "h1", VTEP: netip.MustParseAddr("127.0.0.1"), Token: "nonsense"},
	}}
	err := simulated.Run(t.Context(), simulated.Options{Config: c})
	if err == nil || !strings.HasPrefix(err.Error(), "host h1: join_token: ") {
		t.Errorf("error %v", err)
	}
}

// TestAsk: who asks is told what the hypervisors have, also while no host has joined, and again after another process.
func TestAsk(t *testing.T) {
	c := simulated.Config{Site: "tokyo", Dir: t.TempDir(), Socket: filepath.Join(t.TempDir(), "s")}
	for range 2 {
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- simulated.Run(ctx, simulated.Options{Config: c}) }()
		for {
			seen, err := simulated.Ask(ctx, c.Socket)
			if err == nil && (seen.Copies == nil || len(seen.Copies) > 0 || len(seen.Breaches) > 0) {
				t.Errorf("seen %+v", seen)
			}
			if err == nil {
				break
			}
			select {
			case err := <-ended:
				t.Fatal("it has ended: ", err)
			case <-time.After(time.Millisecond):
			}
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
}
