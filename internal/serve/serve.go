package serve

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"widecloud/api"
)

// Options says what to serve.
type Options struct {
	Controller Controller           // required
	Logger     *slog.Logger         // required; keys: method, route, status, user, seconds
	Metrics    *prometheus.Registry // nil: nothing is counted and /metrics is not served
	Version    string               // shown in the OpenAPI description
	MaxBody    int64                // bytes of a JSON body; 0: 1 MiB
	MaxUpload  int64                // bytes of an image; 0: no limit but the disk's
	Heartbeat  time.Duration        // between signs of life on an idle watch; 0: 15 s
}

// Server is the API as an http.Handler.
type Server struct {
	o       Options
	log     *slog.Logger
	mux     *http.ServeMux
	metrics metrics
	spec    []byte // OpenAPI 3.1, JSON

	stopOnce sync.Once
	stopped  chan struct{} // closed: watches and consoles end
}

// New makes the API. It panics on an Options without a Controller or Logger, which only a programmer can leave out.
func New(o Options) *Server {
	if o.Controller == nil || o.Logger == nil {
		panic("serve: Options need a Controller and a Logger")
	}
	if o.MaxBody == 0 {
		o.MaxBody = 1 << 20
	}
	if o.Heartbeat == 0 {
		o.Heartbeat = 15 * time.Second
	}
	if o.Version == "" {
		o.Version = "0"
	}
	s := &Server{o: o, log: o.Logger, mux: http.NewServeMux(), stopped: make(chan struct{}), metrics: newMetrics(o.Metrics)}
	s.describe()
	s.mux.HandleFunc("GET /openapi.json", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/openapi+json")
		_, _ = w.Write(s.spec)
	})
	s.mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		_, _ = w.Write([]byte("ok\n"))
	})
	if o.Metrics != nil {
		s.mux.Handle("GET /metrics", promhttp.HandlerFor(o.Metrics, promhttp.HandlerOpts{}))
	}
	return s
}

// OpenAPI is the description that is served at /openapi.json.
func (s *Server) OpenAPI() []byte { return s.spec }

// Stop ends all watches and consoles, so that an http.Server's Shutdown need not wait for them. The handler goes on.
func (s *Server) Stop() { s.stopOnce.Do(func() { close(s.stopped) }) }

// Serve serves the API on ln, by TLS unless tlsConfig is nil, until ctx ends; then it ends the watches and consoles,
// gives other requests up to 5 s, and returns nil. It closes ln.
func (s *Server) Serve(ctx context.Context, ln net.Listener, tlsConfig *tls.Config) error {
	srv := &http.Server{
		Handler:           s,
		TLSConfig:         tlsConfig,
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute,
		// No WriteTimeout: watches and consoles are long; each of their writes has a deadline of its own.
		ErrorLog: slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
	done := make(chan error, 1)
	go func() {
		if tlsConfig != nil {
			done <- srv.ServeTLS(ln, "", "")
		} else {
			done <- srv.Serve(ln)
		}
	}()
	select {
	case err := <-done:
		return fmt.Errorf("serve api on %s: %w", ln.Addr(), err)
	case <-ctx.Done():
	}
	s.Stop()
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	if err := srv.Shutdown(grace); err != nil {
		s.log.Warn("api requests cut off at shutdown", "error", err)
		_ = srv.Close()
	}
	<-done
	return nil
}

// ServeHTTP authenticates, routes, logs and counts a request.
func (s *Server) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	start := time.Now()
	w := &recorder{ResponseWriter: rw}
	_, route := s.mux.Handler(r)
	var p Principal
	defer func() {
		if v := recover(); v != nil {
			if v == http.ErrAbortHandler {
				panic(v)
			}
			if r.Context().Err() == nil {
				s.log.Error("api handler panicked", "method", r.Method, "route", route, "panic", fmt.Sprint(v))
			}
			if w.status == 0 {
				writeError(w, api.Errorf(api.CodeInternal, "internal error"))
			}
		}
		s.finish(r, w, route, p, time.Since(start))
	}()

	w.Header().Set("X-Content-Type-Options", "nosniff")
	if !open(route) {
		var err error
		if p, err = s.authenticate(r); err != nil {
			if errors.Is(err, &api.Error{Code: api.CodeUnauthenticated}) {
				w.Header().Set("WWW-Authenticate", `Bearer realm="widecloud"`)
			}
			writeError(w, s.fail(r.Context(), err))
			return
		}
	}
	if route == "" {
		s.noRoute(w, r)
		return
	}
	s.mux.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), principalKey{}, p)))
}

// open tells the routes that need no token.
func open(route string) bool {
	return route == "GET /openapi.json" || route == "GET /healthz" || route == "GET /metrics"
}

type principalKey struct{}

// who gives the principal of a request that ServeHTTP has authenticated.
func who(ctx context.Context) Principal { return ctx.Value(principalKey{}).(Principal) }

func (s *Server) authenticate(r *http.Request) (Principal, error) {
	scheme, token := "", ""
	if h := r.Header.Get("Authorization"); h != "" {
		scheme, token, _ = strings.Cut(h, " ")
		token = strings.TrimSpace(token)
	}
	switch {
	case scheme == "":
		return Principal{}, api.Errorf(api.CodeUnauthenticated, "no token: send the header Authorization: Bearer TOKEN")
	case !strings.EqualFold(scheme, "bearer") || token == "":
		return Principal{}, api.Errorf(api.CodeUnauthenticated, "the Authorization header is not of the form Bearer TOKEN")
	}
	return s.o.Controller.Authenticate(r.Context(), token)
}

// noRoute answers a request that no pattern matches: 404, or 405 where another method would do.
func (s *Server) noRoute(w http.ResponseWriter, r *http.Request) {
	var allowed []string
	for _, m := range []string{http.MethodGet, http.MethodPost, http.MethodPut, http.MethodDelete} {
		if _, route := s.mux.Handler(&http.Request{Method: m, URL: r.URL, Host: r.Host}); route != "" {
			allowed = append(allowed, m)
		}
	}
	if len(allowed) == 0 {
		writeError(w, api.Errorf(api.CodeNotFound, "no such path: %s", r.URL.Path))
		return
	}
	for _, m := range allowed {
		w.Header().Add("Allow", m)
	}
	writeErrorStatus(w, http.StatusMethodNotAllowed,
		api.Errorf(api.CodeInvalid, "%s is not possible on %s; possible: %v", r.Method, r.URL.Path, allowed))
}

// finish logs and counts a request that has been answered.
func (s *Server) finish(r *http.Request, w *recorder, route string, p Principal, took time.Duration) {
	s.metrics.observe(r.Method, route, w.status, took)
	level := slog.LevelInfo
	switch {
	case open(route):
		return
	case w.status >= 500:
		level = slog.LevelError
	case r.Method == http.MethodGet && w.status < 400:
		level = slog.LevelDebug
	}
	s.log.Log(r.Context(), level, "api request", "method", r.Method, "route", route, "path", r.URL.Path,
		"status", w.status, "user", p.User, "seconds", took.Seconds(), "remote", r.RemoteAddr)
}

// writeJSON answers with a JSON body.
func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	_ = enc.Encode(v) // a client that went away is no error of ours
}

// recorder notes the status for the log; everything else goes through.
type recorder struct {
	http.ResponseWriter
	status int
}

func (w *recorder) WriteHeader(status int) {
	if w.status == 0 || w.status < 200 {
		w.status = status
	}
	w.ResponseWriter.WriteHeader(status)
}

func (w *recorder) Write(b []byte) (int, error) {
	if w.status == 0 {
		w.status = http.StatusOK
	}
	return w.ResponseWriter.Write(b)
}

// Unwrap lets http.ResponseController and the websocket reach the connection.
func (w *recorder) Unwrap() http.ResponseWriter { return w.ResponseWriter }
