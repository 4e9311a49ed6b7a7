package wire

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"sync/atomic"
	"time"

	"widecloud/api"
)

const (
	maxMessage   = 16 << 20  // octets of a call, each way
	maxErrorText = 256 << 10 // octets of an answer that is an error
	maxHeader    = 8 << 10   // octets of a request or an answer before its body, a stream's header in it
	headerTime   = 30 * time.Second
	messageTime  = 2 * time.Minute // for a message to come whole, and for an answer to be taken whole

	// sessionMemory is what all messages of a session may take that are read or worked on at the same time, octets.
	sessionMemory = 64 << 20
	// valueCost is what a value of a message may take once it is decoded: "{}," is an element of a list of structs.
	valueCost = 256
)

// budget is memory that may be taken and is given back, octets.
type budget struct{ left atomic.Int64 }

func (b *budget) take(n int) bool {
	if b.left.Add(-int64(n)) < 0 {
		b.give(n)
		return false
	}
	return true
}

func (b *budget) give(n int) { b.left.Add(int64(n)) }

// charge reads at the charge of a budget.
type charge struct {
	r     io.Reader
	b     *budget
	taken int
}

var errBusy = api.Errorf(api.CodeUnavailable, "the messages of this session take more than %d octets already; try again", sessionMemory)

func (c *charge) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	if takeErr := c.take(n); takeErr != nil {
		return 0, takeErr
	}
	return n, err
}

func (c *charge) take(n int) error {
	if !c.b.take(n) {
		return errBusy
	}
	c.taken += n
	return nil
}

// readMessage reads a call's body within messageTime. The session's memory is charged for the text and for what it may
// become; release gives it back.
func (s *Session) readMessage(w http.ResponseWriter, r *http.Request) (text []byte, release func(), err error) {
	c := &charge{r: r.Body, b: &s.memory}
	release = func() { c.b.give(c.taken) }
	rc := http.NewResponseController(w)
	if err := rc.SetReadDeadline(time.Now().Add(messageTime)); err != nil {
		return nil, release, fmt.Errorf("read message: %w", err)
	}
	// To its end, so that net/http watches for the caller's going away.
	text, err = io.ReadAll(io.LimitReader(c, maxMessage+1))
	switch {
	case errors.Is(err, errBusy):
		return nil, release, errBusy
	case errors.Is(err, os.ErrDeadlineExceeded):
		return nil, release, api.Errorf(api.CodeInvalid, "message is not complete after %v", messageTime)
	case err != nil:
		return nil, release, api.Errorf(api.CodeInvalid, "read message: %v", err)
	case len(text) > maxMessage:
		return nil, release, api.Errorf(api.CodeInvalid, "message is longer than %d octets", maxMessage)
	}
	if err := rc.SetReadDeadline(time.Time{}); err != nil {
		return nil, release, fmt.Errorf("read message: %w", err)
	}
	grown, err := decodedSize(text)
	if err != nil {
		return nil, release, err
	}
	return text, release, c.take(grown)
}

// decodedSize bounds what a JSON text takes once it is decoded. One that takes more than a session may is CodeInvalid.
func decodedSize(text []byte) (int, error) {
	values, quoted := 1, false
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case quoted && c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case !quoted && (c == ',' || c == '{' || c == '['):
			values++
		}
	}
	if size := values * valueCost; size <= sessionMemory-maxMessage {
		return size, nil
	}
	return 0, api.Errorf(api.CodeInvalid, "message has %d values; %d are too many", values, (sessionMemory-maxMessage)/valueCost+1)
}
