package serve

import (
	"errors"
	"io"
	"net/http"
	"os"
	"time"

	"widecloud/api"
)

const (
	// bodyTime is how long the body of an ordinary request may take to arrive; there is at most Options.MaxBody of it.
	bodyTime = 30 * time.Second
	// uploadStall is how long an upload may be silent. What does not stop has all the time that it needs.
	uploadStall = time.Minute
)

// body is a request's body that has to arrive in time. Its deadline is the connection's, and is taken away again at the
// body's end: left there, it would end the context of a call that takes longer.
type body struct {
	io.ReadCloser
	rc    *http.ResponseController
	stall time.Duration // of one read; 0: until decides alone
	until time.Time     // of all reads; zero: stall decides alone
	ended bool          // it was read to its end
}

// newBody wraps the body of r, which w answers; ended at once when there is none.
func newBody(w http.ResponseWriter, r *http.Request) *body {
	return &body{ReadCloser: r.Body, rc: http.NewResponseController(w), until: time.Now().Add(bodyTime),
		ended: r.Body == nil || r.Body == http.NoBody}
}

// stream lets the body take as long as it needs, if it does not stop.
func (b *body) stream() { b.stall, b.until = uploadStall, time.Time{} }

func (b *body) Read(p []byte) (int, error) {
	if b.ended {
		return 0, io.EOF
	}
	deadline := b.until
	if b.stall > 0 {
		deadline = time.Now().Add(b.stall)
	}
	_ = b.rc.SetReadDeadline(deadline) // a ResponseWriter that has no deadlines, as in some tests, has no stalled clients
	n, err := b.ReadCloser.Read(p)
	if err == nil {
		return n, nil
	}
	_ = b.rc.SetReadDeadline(time.Time{})
	switch {
	case errors.Is(err, io.EOF):
		b.ended = true
		return n, io.EOF
	case errors.Is(err, os.ErrDeadlineExceeded) && b.stall > 0:
		return n, errorBody{apiError: api.Invalidf("body", "stopped: no byte came for %v", b.stall), status: http.StatusRequestTimeout}
	case errors.Is(err, os.ErrDeadlineExceeded):
		return n, errorBody{apiError: api.Invalidf("body", "did not arrive within %v", bodyTime), status: http.StatusRequestTimeout}
	}
	return n, errorBody{apiError: api.Invalidf("body", "broke off: %v", err)}
}

// Close leaves the rest of the body where it is. (net/http's own Close would wait for it.)
func (b *body) Close() error { return nil }

// abandon keeps net/http from waiting for the rest of a body that nobody wants.
func (b *body) abandon() {
	if !b.ended {
		_ = b.rc.SetReadDeadline(time.Now())
	}
}
