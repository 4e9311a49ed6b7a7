package httpd

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"strconv"
	"time"

	"widecloud/internal/sentry/still"
)

// connKey is the key of a request's *conn in its context.
type connKey struct{}

// withConn puts the connection into the context of its requests.
func withConn(ctx context.Context, nc net.Conn) context.Context {
	if t, ok := nc.(*tls.Conn); ok {
		nc = t.NetConn()
	}
	if r, ok := nc.(*replay); ok {
		nc = r.c
	}
	return context.WithValue(ctx, connKey{}, nc)
}

// Handler serves all that the Server does, by net/http.
func (s *Server) Handler() http.Handler { return http.HandlerFunc(s.serveHTTP) }

func (s *Server) serveHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h["Access-Control-Allow-Origin"] = anyOrigin
	h["Access-Control-Expose-Headers"] = exposedHeaders
	s.sayDraining(w)
	if c, _ := r.Context().Value(connKey{}).(*conn); c != nil && c.refused {
		s.counts.refused.Add(1)
		h.Set("Retry-After", retryAfter())
		h.Set("Connection", "close")
		h.Set("Cache-Control", cacheNever)
		http.Error(w, "too many connections; please come back later", http.StatusServiceUnavailable)
		return
	}
	switch {
	case r.Method == http.MethodOptions:
		s.preflight(w)
	case r.Method != http.MethodGet && r.Method != http.MethodHead:
		h.Set("Allow", "GET, HEAD, OPTIONS")
		http.Error(w, "only GET and HEAD are understood", http.StatusMethodNotAllowed)
	case r.URL.Path == "/health":
		s.health(w)
	default:
		req, ok := parse(r.RequestURI)
		switch {
		case ok:
			s.serveRequest(w, r, &req)
		case s.o.Page == nil || len(r.URL.Path) >= len(prefix) && r.URL.Path[:len(prefix)] == prefix:
			http.NotFound(w, r)
		default:
			s.comeBack(w, r)
			_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(s.o.WriteTimeout))
			s.o.Page.ServeHTTP(w, r)
		}
	}
}

// sayDraining tells a page to go elsewhere, if that is so.
func (s *Server) sayDraining(w http.ResponseWriter) {
	if s.Draining() {
		w.Header().Set("Sentry", "drain")
		w.Header().Set("Connection", "close")
	}
}

var (
	anyOrigin      = []string{"*"}
	exposedHeaders = []string{exposed}
)

// comeBack ends the connection after this answer, if it is HTTP/1: the viewer's next one, for stills, begins in the fast
// loop, and stays there.
func (s *Server) comeBack(w http.ResponseWriter, r *http.Request) {
	if r.ProtoMajor == 1 {
		w.Header().Set("Connection", "close")
	}
}

// preflight lets pages of other servers send If-None-Match.
func (s *Server) preflight(w http.ResponseWriter) {
	h := w.Header()
	h.Set("Access-Control-Allow-Methods", "GET, HEAD")
	h.Set("Access-Control-Allow-Headers", "If-None-Match, Last-Event-ID, Cache-Control")
	h.Set("Access-Control-Max-Age", "86400")
	w.WriteHeader(http.StatusNoContent)
}

func (s *Server) serveRequest(w http.ResponseWriter, r *http.Request, req *request) {
	switch req.what {
	case newest, poll, byNumber:
		s.still(w, r, req)
	case live:
		s.live(w, r, req)
	case events:
		s.events(w, r, req)
	case byTime:
		s.byTime(w, r, req)
	default:
		s.comeBack(w, r)
		switch req.what {
		case strip:
			s.strip(w, r, req)
		case caption:
			s.caption(w, r, req)
		default:
			s.index(w, r, req)
		}
	}
}

// still serves one still, as the fast loop does.
func (s *Server) still(w http.ResponseWriter, r *http.Request, req *request) {
	if req.what == poll {
		s.wait(req, r.Context().Done())
		s.sayDraining(w) // it may have begun in the meantime
	}
	a := s.answer(req, r.Header.Get("If-None-Match"))
	h := w.Header()
	if a.frame != nil {
		maps.Copy(h, a.frame.Prepared.(*prepared).header)
	}
	h.Set("Cache-Control", a.cache)
	if a.status != http.StatusOK {
		delete(h, "Content-Length")
		delete(h, "Content-Type")
	}
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(s.o.WriteTimeout))
	w.WriteHeader(a.status)
	n := 0
	if a.status == http.StatusOK && r.Method == http.MethodGet {
		n, _ = w.Write(a.frame.JPEG) // an error ends the connection, which is net/http's business
	}
	s.counts.answered(req.what, a.status, n)
}

// byTime leads to the still of a time: caches keep one copy of it, whatever time was asked for.
func (s *Server) byTime(w http.ResponseWriter, r *http.Request, req *request) {
	f := s.o.Reel.At(req.channel, req.size, req.at)
	w.Header().Set("Cache-Control", cacheNever)
	if f == nil {
		s.notFound(w, r, req)
		return
	}
	s.counts.answered(req.what, http.StatusFound, 0)
	http.Redirect(w, r, fmt.Sprintf("%s%s/%d/%d.jpg", prefix, req.channel, req.size, f.Number), http.StatusFound)
}

func (s *Server) notFound(w http.ResponseWriter, r *http.Request, req *request) {
	s.counts.answered(req.what, http.StatusNotFound, 0)
	w.Header().Set("Cache-Control", cacheNever)
	http.NotFound(w, r)
}

// health says whether a balancer should send viewers here.
func (s *Server) health(w http.ResponseWriter) {
	w.Header().Set("Cache-Control", cacheNever)
	if err := s.Healthy(); err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	fmt.Fprintln(w, "ok")
}

// Healthy tells why viewers should go elsewhere; nil: they need not.
func (s *Server) Healthy() error {
	if s.Draining() {
		return errors.New("draining")
	}
	if len(s.o.Reel.Channels()) == 0 {
		return errors.New("there is no still to show")
	}
	return nil
}

// textOf is the body of caption.json.
type textOf struct {
	From int64  `json:"from"` // Unix time in milliseconds
	Text string `json:"text"`
	Alt  string `json:"alt"`
}

// Index is the body of index.json: what there is of a channel, and where else.
type Index struct {
	Channel string      `json:"channel"`
	Now     int64       `json:"now"` // the server's clock, as all times in Unix milliseconds
	Sizes   []IndexSize `json:"sizes"`
	Servers []Place     `json:"servers"`
}

// IndexSize is one size of a channel.
type IndexSize struct {
	Size   int    `json:"size"`
	Width  int    `json:"width"`
	Height int    `json:"height"`
	Bytes  int    `json:"bytes"` // of the newest
	Newest uint64 `json:"newest"`
	Taken  int64  `json:"taken"`
	Oldest uint64 `json:"oldest"`
	Since  int64  `json:"since"` // when the oldest was taken
}

func (s *Server) index(w http.ResponseWriter, r *http.Request, req *request) {
	x := Index{Channel: req.channel, Now: s.o.Now().UnixMilli(), Servers: s.o.Servers}
	for size := range still.Sizes {
		f, o := s.o.Reel.Newest(req.channel, size), s.o.Reel.Oldest(req.channel, size)
		if f == nil || o == nil {
			continue
		}
		x.Sizes = append(x.Sizes, IndexSize{Size: size, Width: f.Width, Height: f.Height, Bytes: len(f.JPEG), Newest: f.Number,
			Taken: f.Taken.UnixMilli(), Oldest: o.Number, Since: o.Taken.UnixMilli()})
	}
	if x.Sizes == nil {
		s.notFound(w, r, req)
		return
	}
	s.json(w, req, x)
}

func (s *Server) caption(w http.ResponseWriter, r *http.Request, req *request) {
	at := req.at
	if at.IsZero() {
		at = s.o.Now()
	}
	c, ok := s.o.Reel.Caption(req.channel, at)
	if !ok && s.o.Reel.Newest(req.channel, 0) == nil {
		s.notFound(w, r, req)
		return
	}
	t := textOf{Text: c.Text, Alt: c.Alt}
	if ok {
		t.From = c.From.UnixMilli()
	}
	s.json(w, req, t)
}

// json writes v, which caches may keep for a second.
func (s *Server) json(w http.ResponseWriter, req *request, v any) {
	b, err := json.Marshal(v)
	if err != nil { // what is marshalled are plain structs
		s.o.Log.Error("cannot write JSON", "err", err)
		http.Error(w, "internal error", http.StatusInternalServerError)
		return
	}
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Content-Length", strconv.Itoa(len(b)))
	h.Set("Cache-Control", cacheNewest)
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(s.o.WriteTimeout))
	_, _ = w.Write(b)
	s.counts.answered(req.what, http.StatusOK, len(b))
}
