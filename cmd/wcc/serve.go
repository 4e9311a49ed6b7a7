package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"widecloud/api"
	"widecloud/examples"
	"widecloud/internal/audit"
	"widecloud/internal/config"
	"widecloud/internal/control"
	"widecloud/internal/doctor"
	"widecloud/internal/fed"
	"widecloud/internal/serve"
	"widecloud/internal/serve/certs"
	"widecloud/internal/serve/page"
	"widecloud/internal/state"
	"widecloud/internal/store/bolt"
	"widecloud/internal/volume"
	"widecloud/internal/wire"
)

type serveCmd struct {
	Config string `help:"The site's configuration; examples/site.toml explains it." required:"" type:"path" placeholder:"FILE"`
}

// Run loads the configuration and serves until the process is told to end.
func (c *serveCmd) Run(a *app) error {
	site, err := config.LoadSite(c.Config)
	if err != nil {
		return usageError{err}
	}
	settings, err := site.Settings(c.Config, examples.Site)
	if err != nil {
		return err
	}
	return runServe(a, site, settings, site.Log.Logger(a.err.raw), a.out)
}

// runServe constructs the controller and serves it until ctx ends. What a person is to see once goes to out. The
// controller adds the site to its own lines.
func runServe(ctx context.Context, site *config.Site, settings []api.Setting, plain *slog.Logger, out screen) error {
	log := plain.With("site", site.Site)
	if err := os.MkdirAll(site.DataDir, 0o700); err != nil {
		return fmt.Errorf("data_dir: %w", err)
	}
	st, err := openState(ctx, bolt.Options{Path: filepath.Join(site.DataDir, "store.db"), Logger: log, Reserve: bolt.DefaultReserve})
	if err != nil {
		return err
	}
	defer st.Close()
	authority, err := loadAuthority(filepath.Join(site.DataDir, "authority.pem"), site.Site)
	if err != nil {
		return err
	}
	credential, err := authority.Controller()
	if err != nil {
		return err
	}
	trust, err := wire.NewTrust(wire.TrustOptions{CA: authority.Certificate()})
	if err != nil {
		return err
	}
	dir := site.Volumes.Dir
	if dir == "" {
		dir = filepath.Join(site.DataDir, "images")
	}
	if err := os.MkdirAll(dir, 0o711); err != nil {
		return fmt.Errorf("volumes.dir: %w", err)
	}
	images, err := volume.Open(volume.Options{Dir: dir, Logger: log, Reserve: int64(site.Volumes.Reserve), MaxBytes: int64(site.API.MaxUpload)})
	if err != nil {
		return err
	}
	defer images.Close()
	auditLog, err := audit.Open(audit.Options{Dir: filepath.Join(site.DataDir, "audit"), MaxBytes: int64(site.Audit.MaxSize), MaxAge: site.Audit.Keep.Duration, Logger: log})
	if err != nil {
		return err
	}
	defer auditLog.Close()
	secure, err := certificates(ctx, site, authority, log)
	if err != nil {
		return err
	}
	// The sessions' handler is the controller's, which is made of the federation: it is filled in below, before
	// anything is dialled.
	var handler http.Handler
	federation, err := fed.New(ctx, fed.Options{
		Credential: credential, Trust: trust, Store: st, Logger: log, KeepAlive: keepAlive, DeadAfter: deadAfter,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { handler.ServeHTTP(w, r) }),
	})
	if err != nil {
		return err
	}
	controller := control.New(control.Options{
		Name: site.Site, State: st, Authority: authority, Federation: federation, Images: images, Logger: plain,
		Endpoint: site.Outside.Advertise, Location: site.Location.Where(), AnycastVTEP: site.Network.AnycastVTEP, Pref64: site.Network.Pref64,
		MTU: site.Network.MTU, Plan: site.Plan(), Underlay: site.Network.Underlay, FetchFrom: site.Volumes.FetchFrom, ImageKept: site.Volumes.KeepImages.Duration, Lease: site.Lending.Lease.Duration, MetricsVMs: site.Metrics.VMs, Failpoint: failpoint(log),
		Audit: auditLog, Machine: func() doctor.Machine { return machineOf(site, authority, secure) },
		OnFirstLogin: func() { dropFirstLogin(filepath.Join(site.DataDir, firstLoginFile), log) },
	})
	handler = controller.Handler()
	details := prometheus.NewRegistry()
	details.MustRegister(controller.Metrics())
	if err := offerFirstLogin(ctx, controller, site, out, log); err != nil {
		return err
	}
	if err := controller.Peers(ctx); err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return controller.Run(ctx) })
	group.Go(func() error { return federation.Run(ctx) })
	group.Go(func() error { return auditLog.Run(ctx) })
	group.Go(func() error {
		outside, err := wire.Listen(ctx, site.Outside.Listen, wire.Options{
			Credential: credential, Trust: trust, Handler: handler, Admit: controller.Admit, Join: controller.Join, Peer: controller.Peer,
			OnSession: func(s *wire.Session) { group.Go(func() error { controller.Session(ctx, s); return nil }) },
			Log:       log, KeepAlive: keepAlive, DeadAfter: deadAfter,
		})
		if err != nil {
			return fmt.Errorf("outside.listen: %w", err)
		}
		log.Info("outside port is open", "listen", site.Outside.Listen, "fingerprint", wire.Fingerprint(authority.Certificate()))
		<-ctx.Done()
		return outside.Close()
	})
	group.Go(func() error {
		return serveAPI(ctx, site, secure, serve.Options{Controller: controller, Logger: log, Audit: auditLog, Settings: settings, Details: details})
	})
	return group.Wait()
}

// openState opens a controller's store and reads its objects.
func openState(ctx context.Context, o bolt.Options) (*state.State, error) {
	file, err := bolt.Open(o)
	if err != nil {
		return nil, err
	}
	st, err := state.Open(ctx, file, control.Tables())
	if err != nil {
		file.Close()
		return nil, fmt.Errorf("store.path: %s: %w", o.Path, err)
	}
	return st, nil
}

// keepAlive and deadAfter are of the sessions: a peer or an agent that is silent for deadAfter is taken for gone.
const (
	keepAlive = 2 * time.Second
	deadAfter = 6 * time.Second
)

func loadAuthority(path, site string) (*wire.Authority, error) {
	o := wire.AuthorityOptions{Site: site}
	a, err := wire.LoadAuthority(path, o)
	if errors.Is(err, fs.ErrNotExist) {
		if a, err = wire.NewAuthority(o); err == nil {
			err = a.Save(path)
		}
	}
	return a, err
}

// serveAPI serves the users' API until ctx ends, by TLS unless secure is nil.
func serveAPI(ctx context.Context, site *config.Site, secure *tls.Config, o serve.Options) error {
	web, err := page.Handler()
	if err != nil {
		return err
	}
	o.Site, o.Page, o.Version, o.MaxUpload = site.Site, web, version(), int64(site.API.MaxUpload)
	if site.Metrics.Enabled {
		o.Metrics = prometheus.NewRegistry()
	}
	listener, err := net.Listen("tcp", site.API.Listen)
	if err != nil {
		return fmt.Errorf("api.listen: %w", err)
	}
	o.Logger.Info("API is open", "listen", site.API.Listen, "tls", site.API.TLS)
	return serve.New(o).Serve(ctx, listener, secure)
}

// certificates are what the API's port shows; nil: it has no TLS.
func certificates(ctx context.Context, site *config.Site, authority *wire.Authority, log *slog.Logger) (*tls.Config, error) {
	switch site.API.TLS {
	case "files":
		c, err := certs.Files(site.API.Certificate, site.API.Key, log)
		if err != nil {
			return nil, fmt.Errorf("api.certificate: %w", err)
		}
		return c, nil
	case "acme":
		o := site.API.ACME
		a := certs.ACME{Domains: o.Domains, Directory: o.Directory, Email: o.Email, Dir: filepath.Join(site.DataDir, "acme"), Logger: log}
		if o.Roots != "" {
			pem, err := os.ReadFile(o.Roots)
			if err != nil {
				return nil, fmt.Errorf("api.acme.roots: %w", err)
			}
			if a.Roots = x509.NewCertPool(); !a.Roots.AppendCertsFromPEM(pem) {
				return nil, fmt.Errorf("api.acme.roots: %s has no certificate", o.Roots)
			}
		}
		return a.Serve(ctx), nil
	case "site":
		host, _, err := net.SplitHostPort(site.API.Listen)
		if err != nil {
			return nil, fmt.Errorf("api.listen: %w", err)
		}
		name, err := os.Hostname()
		if err != nil {
			return nil, err
		}
		pair, err := authority.Web([]string{host, name, "localhost"})
		if err != nil {
			return nil, err
		}
		return &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}, nil
	}
	return nil, nil
}

// failpoint kills this very process, as kill -9 would, at the point that WCC_FAILPOINT names; the lab's tests use it.
func failpoint(log *slog.Logger) func(string) {
	at := os.Getenv("WCC_FAILPOINT")
	if at == "" {
		return nil
	}
	log.Warn("a failpoint is set: this process will kill itself", "at", at)
	return func(name string) {
		if name == at {
			syscall.Kill(os.Getpid(), syscall.SIGKILL)
		}
	}
}
