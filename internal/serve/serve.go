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
	"path"
	"runtime/debug"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/prometheus/client_golang/prometheus"

	"widecloud/api"
	"widecloud/internal/audit"
)

// Options says what to serve.
type Options struct {
	Controller Controller           // required
	Logger     *slog.Logger         // required; keys: method, route, status, user, seconds
	Metrics    *prometheus.Registry // nil: nothing is counted and /metrics is not served
	Details    prometheus.Gatherer  // what /metrics has for admins beside; nil: nothing
	Site       string               // its name, shown to users
	Page       http.Handler         // the web page, for all paths that are not the API's; nil: there is none
	Version    string               // shown in the OpenAPI description
	MaxBody    int64                // bytes of a JSON body; 0: 1 MiB
	MaxUpload  int64                // bytes of an image; 0: no limit but the disk's
	Heartbeat  time.Duration        // between signs of life on an idle watch; 0: 15 s
	Audit      *audit.Log           // who did what; nil: it is not noted
	Settings   []api.Setting        // the controller's configuration as it is in force
}

// Server is the API as an http.Handler.
type Server struct {
	o       Options
	log     *slog.Logger
	mux     *http.ServeMux
	metrics metrics
	spec    []byte                    // OpenAPI 3.1, JSON
	events  map[api.Kind]*huma.Schema // of the watch of each kind
	verbs   map[string]string         // the operations' names, by their routes
	usage   usage
	logins  *logins
	tickets tickets

	sameOrigin *http.CrossOriginProtection

	running context.Context // of watches and consoles
	stop    context.CancelFunc
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
	s := &Server{o: o, log: o.Logger, mux: http.NewServeMux(), metrics: newMetrics(o.Metrics), logins: newLogins(), events: map[api.Kind]*huma.Schema{},
		sameOrigin: http.NewCrossOriginProtection()}
	s.running, s.stop = context.WithCancel(context.Background())
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
		s.mux.Handle("GET /metrics", s.metricsHandler())
	}
	return s
}

// OpenAPI is the description that is served at /openapi.json.
func (s *Server) OpenAPI() []byte { return s.spec }

// Stop ends all watches and consoles, so that an http.Server's Shutdown need not wait for them. The handler goes on.
func (s *Server) Stop() { s.stop() }

// Serve serves the API on ln, by TLS unless tlsConfig is nil, until ctx ends; then it ends the watches and consoles,
// gives other requests up to 5 s, and returns nil. It closes ln.
func (s *Server) Serve(ctx context.Context, ln net.Listener, tlsConfig *tls.Config) error {
	limited := newConnections(ln, s.log, s.metrics)
	srv := &http.Server{
		Handler:           s,
		ReadHeaderTimeout: headerTime,
		IdleTimeout:       idleTime,
		MaxHeaderBytes:    maxHeader,
		ConnState:         limited.state,
		// No ReadTimeout and WriteTimeout: uploads, watches and consoles are long; each read and write has its own deadline.
		HTTP2: &http.HTTP2Config{SendPingTimeout: writeWait, PingTimeout: writeWait, WriteByteTimeout: writeWait},
		// Its own answer to OPTIONS * would read a stranger's body.
		DisableGeneralOptionsHandler: true,
		ErrorLog:                     slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
	var accept net.Listener = plain{limited}
	if tlsConfig != nil {
		secure := newHandshakes(limited, tlsConfig)
		defer secure.wait()
		srv.TLSConfig = secure.config
		accept = secure
	}
	done := make(chan error, 1)
	go func() { done <- srv.Serve(accept) }()
	select {
	case err := <-done:
		accept.Close()
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
	body := newBody(rw, r)
	w := &recorder{ResponseWriter: rw, rc: http.NewResponseController(rw), body: body, http1: r.ProtoMajor == 1}
	defer body.abandon()
	_ = w.rc.SetWriteDeadline(time.Time{}) // that of the connection's last answer
	_, route := s.mux.Handler(r)
	if !clean(r.URL.Path) {
		route = "" // the mux would redirect, and no client of an API follows that with its token
	}
	var c caller
	deed := s.deed(r, route)
	defer func() {
		if v := recover(); v != nil {
			s.panicked(w, r, route, v)
		}
		s.note(r, w, route, deed)
		s.finish(r, w, route, c.User, time.Since(start))
	}()
	r = r.WithContext(audit.With(r.Context(), deed))
	w.Header().Set("X-Content-Type-Options", "nosniff")
	if open(route) {
		s.mux.ServeHTTP(w, r)
		return
	}
	if s.o.Page != nil && !ofAPI(r.URL.Path) {
		s.o.Page.ServeHTTP(w, r)
		return
	}
	if route == sessionRoute {
		if w.http1 {
			w.Header().Set("Connection", "close") // a stranger keeps none
		}
		r.Body = body
		s.mux.ServeHTTP(w, r)
		return
	}
	var err error
	if text := ticketOf(route, r); text != "" {
		c, err = s.redeem(r, text)
	} else {
		c, err = s.authenticate(r)
	}
	if err != nil {
		s.refuse(w, r, err)
		return
	}
	deed.By(c.User, tokenID(c.token))
	if c.First && route != firstRoute {
		s.refuse(w, r, firstOnly())
		return
	}
	l := limitOf(route, r)
	release, err := s.usage.take(c.User, l)
	if err != nil {
		s.metrics.refused(l)
		writeError(w, s.fail(r.Context(), err))
		return
	}
	defer release()
	r = r.WithContext(context.WithValue(r.Context(), callerKey{}, c))
	r.Body = body
	switch {
	case route == "":
		s.noRoute(w, r)
	case r.Method == http.MethodHead && l != limitRequests:
		s.wrongMethod(w, r, []string{http.MethodGet}) // it would go on without end
	default:
		if l == limitUploads {
			body.stream()
		}
		s.mux.ServeHTTP(w, r)
	}
}

// clean tells whether a path is as the mux wants it: rooted, and without empty segments and dots.
func clean(p string) bool {
	return p != "" && p[0] == '/' && (p == "/" || path.Clean(p) == strings.TrimSuffix(p, "/"))
}

// panicked logs a defect with its stack. The client hears nothing of it.
func (s *Server) panicked(w *recorder, r *http.Request, route string, v any) {
	if v == http.ErrAbortHandler {
		panic(v)
	}
	if err, ok := v.(error); ok && w.failed != nil && errors.Is(err, w.failed) {
		return // huma panics when a client is gone before it has its answer
	}
	s.log.Error("api handler panicked", "method", r.Method, "route", route, "panic", fmt.Sprint(v), "stack", string(debug.Stack()))
	if w.status == 0 {
		writeError(w, errorBody{apiError: api.Errorf(api.CodeInternal, "internal error")})
	}
}

// firstRoute is all that a First principal may ask for.
const firstRoute = "POST /v1/users/{name}/tokens"

func firstOnly() error {
	return api.Errorf(api.CodeForbidden, "this token is good for the first login only: wcc login NAME --first FILE makes a lasting one of it")
}

// ofAPI tells the API's paths from the web page's.
func ofAPI(p string) bool {
	return p == "/v1" || strings.HasPrefix(p, "/v1/") || open("GET "+p) || !clean(p)
}

// open tells the routes that need no token.
func open(route string) bool {
	return route == "GET /openapi.json" || route == "GET /healthz" || route == "GET /metrics"
}

// caller is who made a request, with the token that says so.
type caller struct {
	Principal
	token  string
	cookie bool    // the token came in a browser's cookie
	ticket *ticket // by which a console is opened; nil: by the token itself
}

type callerKey struct{}

// who gives the principal of a request that ServeHTTP has authenticated.
func who(ctx context.Context) Principal { return callerOf(ctx).Principal }

func callerOf(ctx context.Context) caller { return ctx.Value(callerKey{}).(caller) }

// authenticate finds out who makes a request, by the header or, without one, by a browser's cookie.
func (s *Server) authenticate(r *http.Request) (caller, error) {
	header := r.Header.Get("Authorization")
	if cookie, err := r.Cookie(sessionCookie); header == "" && err == nil {
		if err := s.sameOrigin.Check(r); err != nil {
			return caller{}, crossOrigin(err)
		}
		p, err := s.principal(r.Context(), r, cookie.Value)
		return caller{Principal: p, token: cookie.Value, cookie: true}, err
	}
	scheme, token, _ := strings.Cut(header, " ")
	token = strings.TrimSpace(token)
	switch {
	case scheme == "":
		return caller{}, api.Errorf(api.CodeUnauthenticated, "no token: send the header Authorization: Bearer TOKEN")
	case !strings.EqualFold(scheme, "bearer") || token == "":
		return caller{}, api.Errorf(api.CodeUnauthenticated, "the Authorization header is not of the form Bearer TOKEN")
	}
	p, err := s.principal(r.Context(), r, token)
	return caller{Principal: p, token: token}, err
}

// principal is whose a token is. Only a token that is tried counts as a login that failed.
func (s *Server) principal(ctx context.Context, r *http.Request, token string) (Principal, error) {
	source := sourceOf(r.RemoteAddr)
	if wait := s.logins.wait(source, token, time.Now()); wait > 0 {
		s.metrics.refused("logins")
		return Principal{}, errorBody{header: retryIn(wait),
			apiError: api.Errorf(api.CodeTooMany, "too many tokens from %s were wrong: try again in %v", source, wait.Round(time.Second))}
	}
	p, err := s.o.Controller.Authenticate(ctx, token)
	switch {
	case errors.Is(err, &api.Error{Code: api.CodeUnauthenticated}):
		s.logins.failed(source, token, time.Now())
	case err == nil:
		s.logins.succeeded(token)
	}
	return p, err
}

// refuse answers a request whose sender is not known, or hardly, and ends the connection: a stranger keeps none.
func (s *Server) refuse(w *recorder, r *http.Request, err error) {
	e := s.fail(r.Context(), err)
	if e.Code == api.CodeUnauthenticated {
		w.Header().Set("WWW-Authenticate", `Bearer realm="widecloud"`)
		if _, err := r.Cookie(sessionCookie); err == nil { // it is not tried again
			ended := cookieOf(r, "", -1)
			http.SetCookie(w, &ended)
		}
	}
	if w.http1 {
		w.Header().Set("Connection", "close")
	}
	writeError(w, e)
}

// stillGood tells whether the token of a request that has gone on for long is what it was.
func (s *Server) stillGood(ctx context.Context) bool {
	c := callerOf(ctx)
	p, err := s.o.Controller.Authenticate(ctx, c.token)
	if err != nil {
		return !errors.Is(err, &api.Error{Code: api.CodeUnauthenticated}) // the store's trouble is not the user's
	}
	return p == c.Principal
}

// noRoute answers a request that no pattern matches: 404, or 405 where another method would do.
func (s *Server) noRoute(w http.ResponseWriter, r *http.Request) {
	var allowed []string
	for _, m := range []string{http.MethodGet, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete} {
		if _, route := s.mux.Handler(&http.Request{Method: m, URL: r.URL, Host: r.Host}); route != "" {
			allowed = append(allowed, m)
		}
	}
	if len(allowed) == 0 || !clean(r.URL.Path) {
		writeError(w, errorBody{apiError: api.Errorf(api.CodeNotFound, "no such path: %s", r.URL.Path)})
		return
	}
	s.wrongMethod(w, r, allowed)
}

func (s *Server) wrongMethod(w http.ResponseWriter, r *http.Request, allowed []string) {
	for _, m := range allowed {
		w.Header().Add("Allow", m)
	}
	writeError(w, errorBody{status: http.StatusMethodNotAllowed,
		apiError: api.Errorf(api.CodeInvalid, "%s is not possible on %s; possible: %v", r.Method, r.URL.Path, allowed)})
}

// finish logs and counts a request that has been answered. What strangers do in any number is not logged by default.
func (s *Server) finish(r *http.Request, w *recorder, route, user string, took time.Duration) {
	s.metrics.observe(r.Method, route, w.status, took)
	level := slog.LevelInfo
	switch {
	case open(route):
		return
	case w.status >= 500 && r.Context().Err() == nil: // otherwise the client has gone
		level = slog.LevelError
	case r.Method == http.MethodGet && w.status < 400, user == "" && !s.tried(r, w.status):
		level = slog.LevelDebug
	}
	s.log.Log(r.Context(), level, "api request", "method", r.Method, "route", route, "path", r.URL.Path,
		"status", w.status, "user", user, "seconds", took.Seconds(), "remote", r.RemoteAddr)
}

// writeJSON answers with a JSON body.
func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	_ = enc.Encode(v) // a client that went away is no error of ours
}

// tried tells whether a request without a user tried a token, which is rare: logins sees to that.
func (s *Server) tried(r *http.Request, status int) bool {
	_, err := r.Cookie(sessionCookie)
	return status == http.StatusUnauthorized && (r.Header.Get("Authorization") != "" || err == nil)
}

const (
	// writeWait is how long a client may take to read a piece of what it is sent before it is let go.
	writeWait = 30 * time.Second
	// writePiece is the size of such a piece, in bytes.
	writePiece = 64 << 10
	// maxErrorKept is how many bytes of an error are kept, to note it.
	maxErrorKept = 16 << 10
)

// recorder notes the status for the log, and lets no client keep an answer waiting.
type recorder struct {
	http.ResponseWriter
	rc     *http.ResponseController
	body   *body
	http1  bool
	status int
	failed error  // of a write: the client is gone
	error  []byte // the beginning of an answer that is an error
}

// WriteHeader ends the connection after an answer that comes before the body: net/http would wait for the rest of it.
func (w *recorder) WriteHeader(status int) {
	if w.status == 0 || w.status < 200 {
		w.status = status
	}
	w.hurry()
	if w.http1 && !w.body.ended && status != http.StatusSwitchingProtocols {
		w.Header().Set("Connection", "close")
	}
	w.ResponseWriter.WriteHeader(status)
}

func (w *recorder) Write(b []byte) (n int, err error) {
	if w.status == 0 {
		w.WriteHeader(http.StatusOK)
	}
	if w.status >= http.StatusBadRequest {
		w.error = append(w.error, b[:min(len(b), maxErrorKept-len(w.error))]...)
	}
	for {
		piece := b[n:min(len(b), n+writePiece)]
		w.hurry()
		m, err := w.ResponseWriter.Write(piece)
		n += m
		if err != nil {
			w.failed = err
			return n, err
		}
		if n == len(b) {
			return n, nil
		}
	}
}

// hurry gives the client writeWait for the next piece. A ResponseWriter without deadlines, as in some tests, has no slow clients.
func (w *recorder) hurry() { _ = w.rc.SetWriteDeadline(time.Now().Add(writeWait)) }

// Unwrap lets http.ResponseController and the websocket reach the connection.
func (w *recorder) Unwrap() http.ResponseWriter { return w.ResponseWriter }
