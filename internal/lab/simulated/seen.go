package simulated

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"os"
	"time"

	"widecloud/internal/hyper/fake"
)

// Seen is what the hypervisors say, not the agents.
type Seen struct {
	// Copies are all that there are of the VMs: VM -> host -> state.
	Copies map[string]map[string]string `json:"copies"`
	// Breaches are what must never be, as it was seen since the process began: a VM that ran twice at once, or a stale copy.
	Breaches []string `json:"breaches"`
}

// look asks every hypervisor.
func look(world *fake.World, machines []*fake.Host) Seen {
	s := Seen{Copies: map[string]map[string]string{}, Breaches: world.Breaches()}
	for _, m := range machines {
		for _, vm := range m.VMs() {
			g, ok := m.Guest(vm)
			if !ok {
				continue // it went meanwhile
			}
			if s.Copies[vm] == nil {
				s.Copies[vm] = map[string]string{}
			}
			s.Copies[vm][m.Name()] = string(g.State)
		}
	}
	return s
}

// answer tells whoever asks on the socket what there is.
func answer(ctx context.Context, socket string, world *fake.World, machines []*fake.Host) error {
	if err := os.Remove(socket); err != nil && !os.IsNotExist(err) {
		return err
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "unix", socket)
	if err != nil {
		return err
	}
	s := &http.Server{ReadHeaderTimeout: 5 * time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		json.NewEncoder(w).Encode(look(world, machines)) // who asks sees that it is cut off
	})}
	stop := context.AfterFunc(ctx, func() { s.Close() })
	defer stop()
	if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// Ask asks on a socket what there is.
func Ask(ctx context.Context, socket string) (s Seen, err error) {
	c := http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", socket)
		},
	}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://hosts/", nil)
	if err != nil {
		return s, err
	}
	r, err := c.Do(req)
	if err != nil {
		return s, err
	}
	defer r.Body.Close()
	return s, json.NewDecoder(r.Body).Decode(&s)
}
