package wire

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"reflect"
	"strconv"
	"strings"
	"sync"
	"time"

	"widecloud/api"
)

const (
	fieldTimeout = "Widecloud-Timeout-Ms" // what is left of the caller's deadline: a duration, since clocks differ
	fieldHeader  = "Widecloud-Header"     // a stream's header: JSON in base64
	fieldUnsure  = "Widecloud-No-Answer"  // of an error answer: a call further on had no answer
	upgradeTo    = "widecloud-stream"
)

// ErrNoAnswer is in the chain of the errors of a call or stream whose other end did not answer: what was asked for may
// have been done, or not. An error without it is the other end's own answer.
var ErrNoAnswer = errors.New("the other end did not answer")

// noAnswer is an api.Error of CodeUnavailable for people, with the cause for programs.
type noAnswer struct {
	reason *api.Error
	cause  error
}

func (e *noAnswer) Error() string   { return e.reason.Error() }
func (e *noAnswer) Unwrap() []error { return []error{e.reason, ErrNoAnswer, e.cause} }

func notAnswered(ctx context.Context, s *Session, what string, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		err = cause
	} else if end := s.Err(); end != nil {
		err = end
	}
	return &noAnswer{api.Errorf(api.CodeUnavailable, "%s at %s: %v: %v", what, s.peer, ErrNoAnswer, err), err}
}

// Call asks the session's peer: in goes as JSON (nil: no body), without the fields that are newer than the session's
// Level; the answer comes in out (nil: it is thrown away), and what out does not have of it is ignored. The
// context's deadline holds at both ends, and its cancellation cancels the context at the other end. An error is the
// peer's api.Error, or, with ErrNoAnswer in its chain, one of CodeUnavailable.
func Call(ctx context.Context, s *Session, method, path string, in, out any) error {
	var body io.Reader = http.NoBody
	if in != nil {
		text, err := json.Marshal(forLevel(in, s.agreed.level))
		if err != nil {
			return fmt.Errorf("call %s: %w", path, err)
		}
		if len(text) > maxMessage {
			return api.Errorf(api.CodeInvalid, "call %s: message of %d octets is longer than %d", path, len(text), maxMessage)
		}
		body = bytes.NewReader(text)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	req, err := http.NewRequestWithContext(ctx, method, "http://widecloud"+path, body)
	if err != nil {
		return fmt.Errorf("call %s: %w", path, err)
	}
	setTimeout(ctx, req.Header)
	req.Header.Set("Content-Type", "application/json")
	resp, err := s.client.Do(req)
	if err != nil {
		return notAnswered(ctx, s, "call "+path, err)
	}
	defer resp.Body.Close()
	// The work behind an answer may last for hours; the answer itself may not.
	slow := time.AfterFunc(messageTime, func() { cancel(fmt.Errorf("the answer is not complete after %v", messageTime)) })
	defer slow.Stop()
	limit := maxMessage
	if resp.StatusCode != http.StatusOK {
		limit = maxErrorText
	}
	text, err := io.ReadAll(io.LimitReader(resp.Body, int64(limit)+1))
	if err != nil {
		return notAnswered(ctx, s, "call "+path, err)
	}
	if len(text) > limit {
		return api.Errorf(api.CodeInternal, "call %s at %s: answer with status %d is longer than %d octets", path, s.peer, resp.StatusCode, limit)
	}
	if resp.StatusCode != http.StatusOK {
		return decodeAnswer(resp, text)
	}
	if out == nil {
		return nil
	}
	if _, err = decodedSize(text); err == nil {
		err = json.Unmarshal(text, out)
	}
	if err != nil {
		return api.Errorf(api.CodeInternal, "call %s at %s: read answer: %v", path, s.peer, err)
	}
	return nil
}

func setTimeout(ctx context.Context, h http.Header) {
	if deadline, ok := ctx.Deadline(); ok {
		h.Set(fieldTimeout, strconv.FormatInt(max(time.Until(deadline).Milliseconds(), 1), 10))
	}
}

// decodeAnswer reads an error answer. Where the answering end had itself no answer from the one that it asked, the
// doubt is handed on.
func decodeAnswer(resp *http.Response, body []byte) error {
	err := decodeError(resp.StatusCode, body)
	if resp.Header.Get(fieldUnsure) != "" {
		return &noAnswer{asError(err), err}
	}
	return err
}

// decodeError reads an error answer; one that is not ours keeps its status and text.
func decodeError(status int, body []byte) error {
	e := new(api.Error)
	if json.Unmarshal(body, e) == nil && e.Code != "" {
		return e
	}
	code := api.CodeInternal
	switch status {
	case http.StatusNotFound, http.StatusMethodNotAllowed:
		code = api.CodeNotFound
	case http.StatusRequestHeaderFieldsTooLarge, http.StatusBadRequest:
		code = api.CodeInvalid
	}
	text := strings.TrimSpace(string(body[:min(len(body), 200)]))
	return api.Errorf(code, "%d %s: %s", status, http.StatusText(status), text)
}

// decodeStrict reads JSON into v and refuses, naming the field, what v does not have.
func decodeStrict(text []byte, v any) error { return decode(text, v, false) }

// decode is decodeStrict, or with newer ignores what v does not have: the sender's release has more fields than ours.
func decode(text []byte, v any, newer bool) error {
	d := json.NewDecoder(bytes.NewReader(text))
	if !newer {
		d.DisallowUnknownFields()
	}
	if err := d.Decode(v); err != nil {
		var typ *json.UnmarshalTypeError
		if errors.As(err, &typ) {
			return api.Invalidf(typ.Field, "a JSON %s does not fit", typ.Value)
		}
		if name, ok := strings.CutPrefix(err.Error(), "json: unknown field "); ok {
			if n, err := strconv.Unquote(name); err == nil {
				name = n
			}
			return api.Invalidf(name, "field is not known")
		}
		return api.Errorf(api.CodeInvalid, "message is not well-formed: %v", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return api.Errorf(api.CodeInvalid, "something follows the message")
	}
	return nil
}

// Handle makes f answer calls of a pattern (as of http.ServeMux). A body with an unknown field is refused and names it,
// unless the caller is Newer; no body is right only where In has no fields. An error of f crosses as it is if it has an api.Error in its chain,
// and as CodeInternal if not, to another site without paths and addresses. A panic of f is logged, and the caller gets
// CodeInternal. f's context ends with the caller's, with its deadline, and with the session.
func Handle[In, Out any](mux *http.ServeMux, pattern string, f func(context.Context, Identity, In) (Out, error)) {
	mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
		s := SessionOf(r.Context())
		if s == nil {
			refuseOutsider(w)
			return
		}
		ctx, cancel := withTimeout(r)
		defer cancel()
		text, err := func() (text []byte, err error) {
			defer s.out.guard(pattern, &err)
			text, release, err := s.readMessage(w, r)
			defer release()
			if err != nil {
				return nil, err
			}
			var in In
			if err := decodeMessage(text, &in, s.agreed.newer); err != nil {
				return nil, err
			}
			out, err := f(ctx, s.peer, in)
			if err != nil {
				return nil, err
			}
			if text, err = json.Marshal(out); err != nil {
				return nil, fmt.Errorf("write answer: %w", err)
			}
			return text, nil
		}()
		if err != nil {
			s.writeError(w, err)
			return
		}
		writeAnswer(w, http.StatusOK, text)
	})
}

// decodeMessage reads a call's body into in.
func decodeMessage(text []byte, in any, newer bool) error {
	if len(text) > 0 {
		return decode(text, in, newer)
	}
	if t := reflect.TypeOf(in).Elem(); t.Kind() != reflect.Struct || t.NumField() > 0 {
		return api.Errorf(api.CodeInvalid, "message is missing")
	}
	return nil
}

func withTimeout(r *http.Request) (context.Context, context.CancelFunc) {
	ms, err := strconv.ParseInt(r.Header.Get(fieldTimeout), 10, 64)
	if err != nil || ms <= 0 || ms > int64(365*24*time.Hour/time.Millisecond) {
		return context.WithCancel(r.Context())
	}
	return context.WithTimeout(r.Context(), time.Duration(ms)*time.Millisecond)
}

// writeAnswer writes an answer, within messageTime: a caller that does not take it holds nothing for longer.
func writeAnswer(w http.ResponseWriter, status int, text []byte) {
	http.NewResponseController(w).SetWriteDeadline(time.Now().Add(messageTime)) // an error shows in the writing
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(len(text)))
	w.WriteHeader(status)
	w.Write(text)
}

func (s *Session) writeError(w http.ResponseWriter, err error) {
	if errors.Is(err, ErrNoAnswer) || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		w.Header().Set(fieldUnsure, "1")
	}
	writeAPIError(w, s.out.tell(err))
}

// refuseOutsider answers a request of a server that is not a session's, where a handler was put by mistake.
func refuseOutsider(w http.ResponseWriter) {
	writeAPIError(w, api.Errorf(api.CodeUnauthenticated, "the request came by no session"))
}

func writeAPIError(w http.ResponseWriter, e *api.Error) {
	text, err := json.Marshal(e)
	if err != nil || len(text) > maxErrorText {
		text, _ = json.Marshal(api.Errorf(e.Code, "%.1000s", e.Message))
	}
	writeAnswer(w, e.HTTPStatus(), text)
}

// Stream is one end of a bulk stream: a net.Conn with half-close and with a reason when it is torn.
type Stream struct {
	*stream
	rest *bufio.Reader // octets that were read with the header; nil: none

	// At the answering end until the stream is accepted.
	once   sync.Once
	accept func() error
	failed error
}

// Accept tells the opener that the stream is open. Reading and writing do so too.
func (s *Stream) Accept() error {
	s.once.Do(func() {
		if s.accept != nil {
			s.failed = s.accept()
		}
	})
	return s.failed
}

// Read reads; io.EOF means that the other end has closed its direction in good order.
func (s *Stream) Read(p []byte) (int, error) {
	if err := s.Accept(); err != nil {
		return 0, err
	}
	if s.rest != nil && s.rest.Buffered() > 0 {
		return s.rest.Read(p[:min(len(p), s.rest.Buffered())])
	}
	return s.stream.Read(p)
}

// Write writes; it waits while the other end is slow.
func (s *Stream) Write(p []byte) (int, error) {
	if err := s.Accept(); err != nil {
		return 0, err
	}
	return s.stream.Write(p)
}

// CloseWrite ends our direction in good order; reading goes on.
func (s *Stream) CloseWrite() error {
	if err := s.Accept(); err != nil {
		return err
	}
	return s.stream.CloseWrite()
}

// Gone is closed when the other end neither reads nor writes any more. What it wrote before may still be read.
func (s *Stream) Gone() <-chan struct{} { return s.stream.done }

// OpenStream opens a bulk stream to the session's peer. The header goes as JSON (nil: none). It returns once the other end
// has accepted, or with the other end's reason. After that the context has no hold on the stream.
func OpenStream(ctx context.Context, s *Session, path string, header any) (*Stream, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://widecloud"+path, http.NoBody)
	if err != nil {
		return nil, fmt.Errorf("open stream %s: %w", path, err)
	}
	req.Header.Set("Connection", "Upgrade")
	req.Header.Set("Upgrade", upgradeTo)
	if header != nil {
		text, err := json.Marshal(forLevel(header, s.agreed.level))
		if err != nil {
			return nil, fmt.Errorf("open stream %s: %w", path, err)
		}
		req.Header.Set(fieldHeader, base64.StdEncoding.EncodeToString(text))
	}
	setTimeout(ctx, req.Header)
	st, err := s.m.open()
	if err != nil {
		return nil, notAnswered(ctx, s, "open stream "+path, err)
	}
	stop := context.AfterFunc(ctx, func() {
		st.CloseWithError(api.Errorf(api.CodeUnavailable, "the opener does not wait any longer"))
	})
	stream, err := upgrade(st, req)
	if !stop() && err == nil {
		err = notAnswered(ctx, s, "open stream "+path, context.Cause(ctx))
	}
	if err != nil {
		st.CloseWithError(api.Errorf(api.CodeUnavailable, "the stream was not opened"))
		var answer *api.Error
		if !errors.As(err, &answer) {
			err = notAnswered(ctx, s, "open stream "+path, err)
		}
		return nil, err
	}
	return stream, nil
}

func upgrade(st *stream, req *http.Request) (*Stream, error) {
	if err := req.Write(st); err != nil {
		return nil, transportError(err)
	}
	// The head of an answer, or an answer that is an error, is bounded; what follows an accepted opening is not.
	head := &io.LimitedReader{R: st, N: maxHeader + maxErrorText}
	r := bufio.NewReaderSize(head, 4<<10)
	resp, err := http.ReadResponse(r, req)
	if err != nil {
		return nil, transportError(err)
	}
	if resp.StatusCode != http.StatusSwitchingProtocols {
		text, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil {
			return nil, transportError(err)
		}
		return nil, decodeAnswer(resp, text)
	}
	if resp.Header.Get("Upgrade") != upgradeTo {
		return nil, api.Errorf(api.CodeInternal, "the other end switches to %q, not %q", resp.Header.Get("Upgrade"), upgradeTo)
	}
	return &Stream{stream: st, rest: r}, nil // rest is read only as far as it is filled
}

// transportError keeps a reset's or a closing's api.Error from passing for the handler's answer, except a reset's,
// which is one.
func transportError(err error) error {
	var reset *resetError
	if errors.As(err, &reset) {
		return reset.reason
	}
	return errors.New(err.Error())
}

// HandleStream makes f answer the streams of a pattern. H is the header's type, decoded as Handle decodes
// a body. f may look at the header and return an error before it touches the stream: the opener gets it as its answer. An error after that tears
// the stream with that reason; nil closes it in good order. f owns the stream until it returns. Its context ends when the
// stream is torn and when the session ends; the opener's deadline is for the opening only.
func HandleStream[H any](mux *http.ServeMux, pattern string, f func(context.Context, Identity, H, *Stream) error) {
	mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
		serveStream(w, r, func(ctx context.Context, peer Identity, text []byte, s *Stream) error {
			var h H
			if err := decode(text, &h, SessionOf(ctx).Newer()); err != nil {
				return err
			}
			return f(ctx, peer, h, s)
		})
	})
}

func serveStream(w http.ResponseWriter, r *http.Request, f func(context.Context, Identity, []byte, *Stream) error) {
	session := SessionOf(r.Context())
	under, _ := r.Context().Value(keyStream).(*stream)
	if session == nil || under == nil {
		refuseOutsider(w)
		return
	}
	writeError := func(err error) { session.writeError(w, err) }
	if r.Header.Get("Upgrade") != upgradeTo {
		writeError(api.Invalidf("upgrade", "%s is a stream: the request must upgrade to %s", r.URL.Path, upgradeTo))
		return
	}
	text := []byte("{}")
	if enc := r.Header.Get(fieldHeader); enc != "" {
		var err error
		if text, err = base64.StdEncoding.DecodeString(enc); err != nil {
			writeError(api.Invalidf("header", "is not base64"))
			return
		}
	}
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	accepted := false
	s := &Stream{stream: under}
	s.accept = func() error {
		conn, buffered, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return fmt.Errorf("accept stream: %w", err)
		}
		accepted = true
		if buffered.Reader.Buffered() > 0 {
			s.rest = buffered.Reader
		}
		_, err = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: "+upgradeTo+"\r\n\r\n")
		return err
	}
	ended := make(chan struct{})
	defer close(ended)
	go func() {
		select {
		case <-under.torn:
			cancel()
		case <-ended:
		}
	}()
	err := func() (err error) {
		defer session.out.guard(r.URL.Path, &err)
		return f(ctx, session.peer, text, s)
	}()
	if err == nil {
		err = s.Accept()
	} else {
		s.once.Do(func() { s.failed = net.ErrClosed }) // no use of the stream after f has returned
	}
	switch {
	case !accepted && err != nil:
		writeError(err)
	case err != nil:
		s.CloseWithError(err)
	default:
		s.Close()
	}
}
