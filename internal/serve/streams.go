package serve

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/coder/websocket"
	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"widecloud/api"
)

// registerStreams makes the paths whose bodies are no JSON.
func (s *Server) registerStreams(h huma.API) {
	op := s.operation("upload-image", http.MethodPut, "/v1/images/{name}/content", "images", "Upload an image's content")
	op.Description = "For an image that was created without a source. Its digest is checked, and nothing is kept when it is another."
	op.RequestBody = &huma.RequestBody{Required: true, Content: map[string]*huma.MediaType{
		"application/octet-stream": {Schema: &huma.Schema{Type: huma.TypeString, Format: "binary"}}}}
	huma.Register(h, op, func(ctx context.Context, in *uploadInput) (*objectOutput[*api.Image], error) {
		body := in.body
		if s.o.MaxUpload > 0 {
			body = &limitReader{r: body, left: s.o.MaxUpload, limit: s.o.MaxUpload}
		}
		image, err := s.o.Controller.Upload(ctx, who(ctx), in.Name, body)
		return objectResult(s, ctx, image, err)
	})

	s.registerTickets(h)
	s.registerConsole(h, api.TicketConsole, "Attach to a VM's serial console (websocket)",
		"Binary messages carry the console's bytes in both directions.", s.o.Controller.Console)
	s.registerConsole(h, api.TicketDisplay, "Attach to a VM's display (websocket)",
		"Binary messages carry the bytes of RFB (RFC 6143) in both directions, as noVNC speaks it, without authentication. "+
			"The reason of the websocket's end says why it is that: a VM that has moved is to be connected to again.", s.o.Controller.Display)
}

// registerConsole makes a path that joins a websocket with something of a VM.
func (s *Server) registerConsole(h huma.API, kind api.TicketKind, summary, doc string,
	open func(context.Context, Principal, string) (io.ReadWriteCloser, error)) {
	op := s.operation(string(kind)+"-vm", http.MethodGet, "/v1/vms/{name}/"+string(kind), "vms", summary)
	op.Description = doc
	op.Responses = map[string]*huma.Response{"101": {Description: "Switching to websocket (RFC 6455)"}}
	huma.Register(h, op, func(ctx context.Context, in *consoleInput) (*streamOutput, error) {
		if !in.upgrade {
			return nil, errorBody{status: http.StatusUpgradeRequired, header: http.Header{"Upgrade": {"websocket"}, "Connection": {"Upgrade"}},
				apiError: api.Invalidf("Upgrade", "a %s is a websocket (RFC 6455): the request must have Upgrade: websocket", kind)}
		}
		if err := s.admits(ctx, in.Name, kind); err != nil {
			return nil, s.fail(ctx, err)
		}
		con, err := open(ctx, who(ctx), in.Name)
		if err != nil {
			return nil, s.fail(ctx, err)
		}
		return &streamOutput{func(hc huma.Context) {
			r, w := humago.Unwrap(hc)
			s.console(w, r, kind, con)
		}}, nil
	})
}

// consoleInput says whether the request asks for a websocket at all.
type consoleInput struct {
	Name    string `path:"name" doc:"the VM's name"`
	Ticket  string `query:"ticket" doc:"a ticket, instead of other credentials"`
	upgrade bool
}

// Resolve is huma.Resolver's.
func (in *consoleInput) Resolve(ctx huma.Context) []error {
	in.upgrade = strings.EqualFold(ctx.Header("Upgrade"), "websocket")
	return nil
}

// limitReader fails, rather than ends, at its limit: a cut image must not look like a whole one.
type limitReader struct {
	r           io.Reader
	left, limit int64
}

func (l *limitReader) Read(b []byte) (int, error) {
	if l.left < 0 {
		return 0, api.Invalidf("content", "is larger than the limit of %d bytes", l.limit)
	}
	if int64(len(b)) > l.left+1 {
		b = b[:l.left+1]
	}
	n, err := l.r.Read(b)
	if l.left -= int64(n); l.left < 0 {
		return 0, api.Invalidf("content", "is larger than the limit of %d bytes", l.limit)
	}
	return n, err
}

// watch answers with Server-Sent Events (WHATWG HTML §9.2) until the client goes, the watcher falls behind, or Stop.
func (s *Server) watch(ctx context.Context, kinds []api.Kind, selector api.Selector, resume ResumeInput) (*streamOutput, error) {
	from := int64(-1)
	if resume.has {
		from = resume.From
	}
	watch, err := s.o.Controller.Watch(ctx, who(ctx), kinds, selector, from)
	if err != nil {
		return nil, s.fail(ctx, err)
	}
	return &streamOutput{func(hc huma.Context) {
		defer watch.Close()
		_, w := humago.Unwrap(hc)
		defer s.metrics.stream("watch")()
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		defer context.AfterFunc(s.running, cancel)()
		s.stream(ctx, w, watch)
	}}, nil
}

// stream sends what a watch gives, all that is there at once, and a sign of life when nothing comes.
func (s *Server) stream(ctx context.Context, w http.ResponseWriter, watch Watch) {
	rc := http.NewResponseController(w)
	h := w.Header()
	h.Set("Content-Type", "text/event-stream")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Accel-Buffering", "no") // nginx would hold events back
	w.WriteHeader(http.StatusOK)
	send := func(b []byte) bool {
		_, err := w.Write(b)
		return err == nil && rc.Flush() == nil
	}
	if !send([]byte(": watching\n\n")) {
		return
	}
	var b bytes.Buffer
	beat := time.Now().Add(s.o.Heartbeat)
	for {
		wait, cancel := context.WithDeadline(ctx, beat)
		changes, upTo, err := watch.Next(wait)
		cancel()
		if ctx.Err() != nil || err != nil && !errors.Is(err, context.DeadlineExceeded) {
			return // the client resumes with its last id, or learns by CodeStale that it must list again
		}
		if !time.Now().Before(beat) {
			if !s.stillGood(ctx) {
				return
			}
			beat = time.Now().Add(s.o.Heartbeat)
		}
		b.Reset()
		if err != nil {
			writeIdle(&b, upTo)
		} else if err := writeEvents(&b, changes); err != nil {
			s.log.Error("watch cannot encode an object", "error", err)
			return
		}
		if !send(b.Bytes()) {
			return
		}
	}
}

// writeIdle writes a sign of life. A client that is told of nothing for long stays near enough to resume all the same.
func writeIdle(b *bytes.Buffer, upTo int64) {
	b.WriteString(": idle\n")
	if upTo > 0 {
		fmt.Fprintf(b, "id: %d\n", upTo)
	}
	b.WriteString("\n")
}

func writeEvents(b *bytes.Buffer, changes []Change) error {
	for _, c := range changes {
		event, err := c.event()
		if err != nil {
			return err
		}
		if !c.More { // a client that has this id has all of the revision, and resumes after it
			fmt.Fprintf(b, "id: %d\n", c.Revision)
		}
		b.Write(event)
	}
	return nil
}

// console joins a websocket and a console or display until either ends. It closes con.
func (s *Server) console(w http.ResponseWriter, r *http.Request, kind api.TicketKind, con io.ReadWriteCloser) {
	defer con.Close()
	// Accept refuses browsers of other origins by itself; compression would cost more than a console's bytes.
	refusal := &refusalWriter{ResponseWriter: w}
	ws, err := websocket.Accept(refusal, r, &websocket.AcceptOptions{
		CompressionMode: websocket.CompressionDisabled, Subprotocols: []string{"binary"},
	})
	if err != nil {
		refusal.answer()
		return
	}
	defer ws.CloseNow()
	defer s.metrics.stream(string(kind))()
	ws.SetReadLimit(64 << 10)
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()

	fromClient := make(chan struct{})
	go func() {
		defer close(fromClient)
		for {
			_, b, err := ws.Read(ctx)
			if err != nil {
				return
			}
			if _, err := con.Write(b); err != nil {
				return
			}
		}
	}()
	fromGuest := make(chan struct{})
	why := fmt.Sprintf("the %s ended", kind)
	go func() {
		defer close(fromGuest)
		b := make([]byte, 16<<10)
		for {
			n, err := con.Read(b)
			if n > 0 {
				wctx, done := context.WithTimeout(ctx, writeWait)
				werr := ws.Write(wctx, websocket.MessageBinary, b[:n])
				done()
				if werr != nil {
					return
				}
			}
			var known *api.Error
			if errors.As(err, &known) {
				why = closeReason(known.Message)
			}
			if err != nil {
				return
			}
		}
	}()
	beat := time.NewTicker(s.o.Heartbeat)
	defer beat.Stop()
	for open := true; open; {
		open = false
		select {
		case <-fromClient:
		case <-fromGuest:
			_ = ws.Close(websocket.StatusNormalClosure, why)
		case <-s.running.Done():
			_ = ws.Close(websocket.StatusGoingAway, "the controller is stopping")
		case <-ctx.Done():
		case <-beat.C:
			if open = s.stillGood(ctx); !open {
				_ = ws.Close(websocket.StatusPolicyViolation, "the token is no longer good")
			}
		}
	}
	cancel()
	_ = con.Close()
	<-fromClient
	<-fromGuest
}

// closeReason makes a text fit into a websocket's end (RFC 6455 §5.5: a control frame has at most 125 bytes, two are the code's).
func closeReason(text string) string {
	const most = 123
	for len(text) > most {
		_, size := utf8.DecodeLastRuneInString(text)
		text = text[:len(text)-size]
	}
	return text
}

// refusalWriter keeps what the websocket's library answers to a request that it refuses, so that it can be put into our
// shape.
type refusalWriter struct {
	http.ResponseWriter
	status int
	text   bytes.Buffer
}

// WriteHeader is http.ResponseWriter's.
func (w *refusalWriter) WriteHeader(status int) {
	if status == http.StatusSwitchingProtocols {
		w.ResponseWriter.WriteHeader(status)
		return
	}
	w.status = status
}

func (w *refusalWriter) Write(b []byte) (int, error) { return w.text.Write(b) }

// Unwrap lets the websocket reach the connection.
func (w *refusalWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// answer answers with what was kept.
func (w *refusalWriter) answer() {
	if w.status == 0 {
		return // the connection is no longer HTTP
	}
	code := api.CodeInvalid
	if w.status == http.StatusForbidden {
		code = api.CodeForbidden
	}
	writeError(w.ResponseWriter, errorBody{apiError: api.Errorf(code, "%s", strings.TrimSpace(w.text.String())), status: w.status})
}
