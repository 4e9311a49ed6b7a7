package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"
)

// What a Client takes, and how long it waits. The comment of Client states these.
const (
	maxAnswer = 64 << 20 // bytes
	maxError  = 1 << 20  // bytes of an answer that is a refusal
	maxEvent  = 16 << 20 // bytes of an event of a watch
	maxItems  = 200_000  // objects in a listing: an empty one has three bytes in JSON, and hundreds in memory

	answerTime   = 30 * time.Second
	watchSilence = time.Minute // controllers send a sign of life every 15 s
	uploadStall  = 2 * time.Minute
	uploadTime   = 10 * time.Minute // after an upload's last byte: the controller reads the image once more
)

// patience ends a call when nothing has come for some time.
type patience struct {
	ctx    context.Context
	cancel context.CancelCauseFunc

	mu    sync.Mutex
	timer *time.Timer
}

// newPatience ends ctx after a time, with a format that says what did not happen in it.
func newPatience(ctx context.Context, wait time.Duration, format string) *patience {
	p := &patience{}
	p.ctx, p.cancel = context.WithCancelCause(ctx)
	p.await(wait, format)
	return p
}

// await begins to wait, for the next thing now.
func (p *patience) await(wait time.Duration, format string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.timer != nil {
		p.timer.Stop()
	}
	p.timer = time.AfterFunc(wait, func() { p.cancel(Errorf(CodeUnavailable, format, wait)) })
}

func (p *patience) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.timer.Stop()
	p.cancel(nil)
}

// explain is the reason why ctx ended, if that made the error, and the error if not.
func (p *patience) explain(err error) error {
	if cause := context.Cause(p.ctx); cause != nil {
		return cause
	}
	return err
}

// awaitedBody is an answer's body, of which each piece is waited for.
type awaitedBody struct {
	io.ReadCloser
	p    *patience
	wait time.Duration
}

func (b *awaitedBody) Read(buf []byte) (int, error) {
	b.p.await(b.wait, "the controller's answer has stopped for %v")
	return b.ReadCloser.Read(buf)
}

// sentReader is what an upload sends; after its end, the answer is waited for.
type sentReader struct {
	r    io.Reader
	p    *patience
	left int64 // of the content; below 0: not known
}

func (s *sentReader) Read(b []byte) (int, error) {
	n, err := s.r.Read(b)
	if s.left > 0 {
		s.left -= int64(n)
	}
	if err != nil || s.left == 0 {
		s.p.await(uploadTime, "the controller has not answered within %v of the upload's end")
	} else {
		s.p.await(uploadStall, uploadStopped)
	}
	return n, err
}

const uploadStopped = "the upload has stopped for %v"

// boundedReader fails, rather than ends, at its limit.
type boundedReader struct {
	r    io.Reader
	left int64
}

func (b *boundedReader) Read(buf []byte) (int, error) {
	if b.left <= 0 {
		return 0, fmt.Errorf("it is larger than %d MiB", maxAnswer>>20)
	}
	n, err := b.r.Read(buf[:min(int64(len(buf)), b.left)])
	b.left -= int64(n)
	return n, err
}

// boundedListing is a Listing as a Client reads it.
type boundedListing[T any] struct {
	Revision int64           `json:"revision"`
	Items    boundedItems[T] `json:"items"`
	Next     string          `json:"next"`
}

type boundedItems[T any] []T

var errManyItems = fmt.Errorf("it has more than %d objects", maxItems)

// UnmarshalJSON is json.Unmarshaler's.
func (l *boundedItems[T]) UnmarshalJSON(b []byte) error {
	*l = nil
	d := json.NewDecoder(bytes.NewReader(b))
	switch t, err := d.Token(); {
	case err != nil || t == nil:
		return err
	case t != json.Delim('['):
		return errors.New("its items are not a list")
	}
	*l = []T{}
	for d.More() {
		if len(*l) == maxItems {
			return errManyItems
		}
		var v T
		if err := d.Decode(&v); err != nil {
			return err
		}
		*l = append(*l, v)
	}
	return nil
}
