package station

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/sync/errgroup"

	"widecloud/internal/sentry/folder"
	"widecloud/internal/sentry/httpd"
	"widecloud/internal/sentry/page"
	"widecloud/internal/sentry/reel"
)

// look is how often directories and files are looked at.
const look = 200 * time.Millisecond

// Station is a sentryc.
type Station struct {
	c    *Config
	log  *slog.Logger
	reel *reel.Reel
	page *page.Page
	web  []*httpd.Server // plain, and TLS

	listeners []net.Listener // of web, in its order
	serving   []*httpd.Server
	admin     net.Listener
	entrance  *entrance // nil: nothing is received

	kept, late, full atomic.Uint64 // stills that were received
}

// New makes a Station and opens its addresses.
func New(c *Config, log *slog.Logger) (*Station, error) {
	s := &Station{c: c, log: log}
	s.reel = reel.New(reel.Options{Keep: c.Keep.Time.Duration, MaxBytes: int64(c.Keep.Memory), MaxChannels: c.Keep.Channels, Now: time.Now,
		Prepare: httpd.Prepare})
	if err := s.make(); err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

// make makes the parts and opens the addresses.
func (s *Station) make() (err error) {
	c := s.c
	titles := map[string]string{"en": c.Page.TitleEN, "ja": c.Page.TitleJA}
	if s.page, err = page.New(page.Options{Reel: s.reel, Title: titles, Servers: c.servers(), Now: time.Now}); err != nil {
		return err
	}
	if err := s.open(nil, "web.listen", c.Web.Listen); err != nil {
		return err
	}
	secure := &tls.Config{MinVersion: tls.VersionTLS12}
	if c.TLS.Certificate != "" {
		cert, err := tls.LoadX509KeyPair(c.TLS.Certificate, c.TLS.Key)
		if err != nil {
			return fmt.Errorf("tls.certificate: %w", err)
		}
		secure.Certificates = []tls.Certificate{cert}
	}
	if err := s.open(secure, "tls.listen", c.TLS.Listen); err != nil {
		return err
	}
	if err := s.openEntrance(secure.Clone()); err != nil { // the web's gets HTTP's protocols
		return err
	}
	if c.Admin.Listen != "" {
		if s.admin, err = net.Listen("tcp", c.Admin.Listen); err != nil {
			return fmt.Errorf("admin.listen: %w", err)
		}
	}
	return nil
}

// open makes a server and its listeners.
func (s *Station) open(secure *tls.Config, field string, addresses []string) error {
	if len(addresses) == 0 {
		return nil
	}
	w := s.c.Web
	var nat64 []netip.Prefix
	for _, p := range w.NAT64 {
		nat64 = append(nat64, netip.MustParsePrefix(p)) // Check has parsed it
	}
	h, err := httpd.New(httpd.Options{Reel: s.reel, Keep: s.c.Keep.Time.Duration, Log: s.log, TLS: secure, Page: s.page, Servers: s.c.servers(),
		MaxConnections: w.MaxConnections, MaxPerAddress: w.MaxPerAddress, NAT64: nat64, PollWait: w.PollWait.Duration, HeadTimeout: w.HeadTimeout.Duration,
		IdleTimeout: w.IdleTimeout.Duration, WriteTimeout: w.WriteTimeout.Duration, Now: time.Now})
	if err != nil {
		return err
	}
	s.web = append(s.web, h)
	for _, a := range addresses {
		l, err := net.Listen("tcp", a)
		if err != nil {
			return fmt.Errorf("%s: %w", field, err)
		}
		s.listeners, s.serving = append(s.listeners, l), append(s.serving, h)
	}
	return nil
}

func (s *Station) close() {
	for _, l := range s.listeners {
		l.Close()
	}
	for _, h := range s.web {
		h.Close()
	}
	if s.admin != nil {
		s.admin.Close()
	}
	if s.entrance != nil {
		s.entrance.close()
	}
}

// Entrances are the addresses at which stills are received: of UDP, TCP and TLS, in the configuration's order.
func (s *Station) Entrances() (list []net.Addr) {
	if s.entrance != nil {
		for _, c := range s.entrance.packets {
			list = append(list, c.LocalAddr())
		}
		for _, l := range s.entrance.streams {
			list = append(list, l.Addr())
		}
	}
	return list
}

// Addresses are those at which viewers are served, in the configuration's order, web before tls.
func (s *Station) Addresses() (list []net.Addr) {
	for _, l := range s.listeners {
		list = append(list, l.Addr())
	}
	return list
}

// Run serves until ctx ends, then drains for as long as the configuration says.
func (s *Station) Run(ctx context.Context) error {
	defer s.close()
	g, ctx := errgroup.WithContext(ctx)
	for i, l := range s.listeners {
		s.log.Info("serving", "address", l.Addr().String())
		g.Go(func() error { return s.serving[i].Serve(l) })
	}
	if s.entrance != nil {
		g.Go(func() error { return s.entrance.run(ctx) })
	}
	for _, d := range s.c.Directory {
		g.Go(func() error {
			return folder.NewSource(folder.SourceOptions{Dir: d.Path, Channel: d.Channel, Size: d.Size, Every: look, Reel: s.reel, Log: s.log}).Run(ctx)
		})
	}
	for _, f := range s.c.Caption {
		g.Go(func() error {
			return folder.Captions(ctx, folder.CaptionOptions{File: f.File, Channel: f.Channel, Every: look, Reel: s.reel, Log: s.log, Now: time.Now})
		})
	}
	if s.c.Write.Dir != "" {
		w, err := folder.NewWriter(folder.WriterOptions{Dir: s.c.Write.Dir, Reel: s.reel, Every: look, Log: s.log, Files: s.page.Files})
		if err != nil {
			return fmt.Errorf("write.dir: %w", err)
		}
		g.Go(func() error { return w.Run(ctx) })
	}
	g.Go(func() error { return s.forget(ctx) })
	if s.admin != nil {
		g.Go(func() error { return s.administer(ctx) })
	}
	g.Go(func() error {
		<-ctx.Done()
		s.drain()
		return nil
	})
	return g.Wait()
}

// forget drops old stills also when no new ones come.
func (s *Station) forget(ctx context.Context) error {
	t := time.NewTicker(10 * time.Second)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
			s.reel.Forget()
		}
	}
}

// drain tells viewers to go elsewhere, and ends when they have gone or time is up.
func (s *Station) drain() {
	ctx, stop := context.WithTimeout(context.Background(), s.c.Web.Drain.Duration)
	defer stop()
	s.log.Info("draining", "at_most", s.c.Web.Drain.Duration)
	var g errgroup.Group
	for _, h := range s.web {
		g.Go(func() error {
			h.Drain(ctx)
			return nil
		})
	}
	_ = g.Wait() // no errors
}

// administer serves metrics and health to operators.
func (s *Station) administer(ctx context.Context) error {
	r := prometheus.NewRegistry()
	r.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), s)
	for i, h := range s.web {
		prometheus.WrapRegistererWith(prometheus.Labels{"server": []string{"0", "1"}[i]}, r).MustRegister(h)
	}
	m := http.NewServeMux()
	m.Handle("GET /metrics", promhttp.HandlerFor(r, promhttp.HandlerOpts{MaxRequestsInFlight: 2, DisableCompression: true}))
	m.HandleFunc("GET /health", func(w http.ResponseWriter, _ *http.Request) {
		for _, h := range s.web {
			if err := h.Healthy(); err != nil {
				http.Error(w, err.Error(), http.StatusServiceUnavailable)
				return
			}
		}
		fmt.Fprintln(w, "ok")
	})
	h := &http.Server{Handler: m, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: time.Minute}
	stop := context.AfterFunc(ctx, func() { h.Close() })
	defer stop()
	s.log.Info("serving metrics", "address", s.admin.Addr().String())
	if err := h.Serve(s.admin); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve metrics: %w", err)
	}
	return nil
}
