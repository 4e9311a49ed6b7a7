package studio

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"widecloud/internal/sentry/cast"
)

// Studio is a sentryd.
type Studio struct {
	sender   *cast.Sender
	channels []*channel // by name
	admin    net.Listener
	log      *slog.Logger
}

// State is what a Studio has done. It is what /status answers, as JSON.
type State struct {
	Channels []ChannelState
	cast.SenderStats
}

// New reads keys and certificates, opens the operators' port, and begins sessions with the receivers.
func New(c *Config, log *slog.Logger) (*Studio, error) {
	o := cast.SenderOptions{Loss: c.Send.Loss / 100, Bytes: c.Send.Datagram, Log: log}
	for _, name := range slices.Sorted(maps.Keys(c.Receiver)) {
		d, err := c.Receiver[name].destination(name)
		if err != nil {
			return nil, fmt.Errorf("receiver.%s: %w", name, err)
		}
		o.Destinations = append(o.Destinations, d)
	}
	sender, err := cast.NewSender(o)
	if err != nil {
		return nil, err
	}
	s := &Studio{sender: sender, log: log}
	for _, name := range slices.Sorted(maps.Keys(c.Channel)) {
		s.channels = append(s.channels, newChannel(name, c.Channel[name], sender, log))
	}
	if c.Admin.Listen != "" {
		if s.admin, err = net.Listen("tcp", c.Admin.Listen); err != nil {
			return nil, fmt.Errorf("admin.listen: %w", err)
		}
	}
	return s, nil
}

func (r Receiver) destination(name string) (cast.Destination, error) {
	key, err := cast.LoadKey(r.KeyFile)
	if err != nil {
		return cast.Destination{}, err
	}
	d := cast.Destination{Name: name, Address: r.Address, Transport: cast.Transport(r.Transport), Key: key, Rate: int64(r.Rate),
		Interface: r.Interface, Hops: r.Hops}
	if d.Transport == cast.TLS {
		d.TLS = &tls.Config{MinVersion: tls.VersionTLS12, ServerName: r.ServerName}
	}
	if r.CA != "" {
		pem, err := os.ReadFile(r.CA)
		if err != nil {
			return d, fmt.Errorf("ca: %w", err)
		}
		d.TLS.RootCAs = x509.NewCertPool()
		if !d.TLS.RootCAs.AppendCertsFromPEM(pem) {
			return d, fmt.Errorf("ca: %s has no certificate", r.CA)
		}
	}
	return d, nil
}

// Admin is the operators' address; nil: there is none.
func (s *Studio) Admin() net.Addr {
	if s.admin == nil {
		return nil
	}
	return s.admin.Addr()
}

// Run works until ctx ends.
func (s *Studio) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	var all sync.WaitGroup
	defer all.Wait()
	defer cancel()
	all.Go(func() { s.sender.Run(ctx) })
	for _, c := range s.channels {
		all.Go(func() { c.run(ctx) })
	}
	s.log.Info("sentryd works", "channels", len(s.channels), "receivers", len(s.sender.Stats().Destinations))
	if s.admin == nil {
		<-ctx.Done()
		return nil
	}
	return s.serveAdmin(ctx)
}

// State tells what has been done.
func (s *Studio) State() State {
	out := State{SenderStats: s.sender.Stats()}
	for _, c := range s.channels {
		out.Channels = append(out.Channels, c.snapshot())
	}
	return out
}

// Health lists what is wrong: channels without video, receivers that cannot be reached.
func (s State) Health() (wrong []string) {
	for _, c := range s.Channels {
		if c.Trouble != "" {
			wrong = append(wrong, "channel "+c.Name+": "+c.Trouble)
		}
	}
	for _, d := range s.Destinations {
		if d.Trouble != "" {
			wrong = append(wrong, "receiver "+d.Name+": "+d.Trouble)
		}
	}
	return wrong
}

// serveAdmin serves operators until ctx ends.
func (s *Studio) serveAdmin(ctx context.Context) error {
	r := prometheus.NewRegistry()
	r.MustRegister(collector{s})
	m := http.NewServeMux()
	m.Handle("GET /metrics", promhttp.HandlerFor(r, promhttp.HandlerOpts{MaxRequestsInFlight: 4}))
	m.HandleFunc("GET /status", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		if err := json.NewEncoder(w).Encode(s.State()); err != nil {
			s.log.Debug("a status was not sent", "err", err)
		}
	})
	m.HandleFunc("GET /health", func(w http.ResponseWriter, _ *http.Request) {
		if wrong := s.State().Health(); len(wrong) > 0 {
			http.Error(w, strings.Join(wrong, "\n"), http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ok")
	})
	server := &http.Server{Handler: m, ReadHeaderTimeout: 10 * time.Second, WriteTimeout: 30 * time.Second, IdleTimeout: time.Minute}
	stop := context.AfterFunc(ctx, func() { server.Close() })
	defer stop()
	if err := server.Serve(s.admin); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve operators: %w", err)
	}
	return nil
}
