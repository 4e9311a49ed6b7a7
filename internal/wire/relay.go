package wire

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"sync/atomic"
	"time"

	"widecloud/api"
)

// relayBuffer is read at once: enough for a codec to find something to compress, little to hold back.
const relayBuffer = 32 << 10

// Relay copies both ways between a and b until both directions have ended in good order (each end is handed on as a
// half-close), or either fails (both are torn then, with the reason where the connection can carry one), or the
// context ends. Both are closed when it returns. A connection without CloseWrite ends wholly with its first direction.
func Relay(ctx context.Context, a, b net.Conn) (aToB, bToA int64, err error) {
	var toB, toA atomic.Int64
	stop := context.AfterFunc(ctx, func() {
		abort(a, context.Cause(ctx))
		abort(b, context.Cause(ctx))
	})
	errs := make(chan error, 2)
	go func() { errs <- pump(b, a, &toB) }()
	go func() { errs <- pump(a, b, &toA) }()
	for range 2 {
		if e := <-errs; e != nil && err == nil {
			if err = e; ctx.Err() != nil {
				err = context.Cause(ctx) // which has made the error
			}
			abort(a, err)
			abort(b, err)
		}
	}
	if !stop() {
		err = context.Cause(ctx)
	}
	if err == nil {
		err = errors.Join(a.Close(), b.Close())
	}
	return toB.Load(), toA.Load(), err
}

// abort closes a connection with a reason if it can carry one.
func abort(c net.Conn, reason error) {
	if t, ok := c.(interface{ CloseWithError(error) error }); ok {
		t.CloseWithError(relayed(reason))
		return
	}
	c.Close()
}

// relayError says that the other side of a relay failed: no defect of ours.
type relayError struct{ cause error }

func (e *relayError) Error() string { return "the relay's other side failed: " + e.cause.Error() }
func (e *relayError) Unwrap() error { return e.cause }

// relayed is the reason that the far side of a relay gets.
func relayed(err error) error {
	var e *api.Error
	if errors.As(err, &e) {
		return err
	}
	return &relayError{err}
}

// pump copies one direction and ends it.
func pump(dst, src net.Conn, count *atomic.Int64) error {
	// A destination that is wholly gone is noticed by a write; a source that stays silent never makes one.
	ended := make(chan struct{})
	defer close(ended)
	var gone <-chan struct{}
	if g, ok := dst.(interface{ Gone() <-chan struct{} }); ok {
		gone = g.Gone()
		go func() {
			select {
			case <-gone:
				src.SetReadDeadline(time.Unix(1, 0))
			case <-ended:
			}
		}()
	}
	buf := make([]byte, relayBuffer)
	for {
		n, err := src.Read(buf)
		if n > 0 {
			w, werr := dst.Write(buf[:n])
			count.Add(int64(w))
			if werr != nil {
				return werr
			}
		}
		if err == io.EOF {
			if c, ok := dst.(interface{ CloseWrite() error }); ok {
				return c.CloseWrite()
			}
			return dst.Close()
		}
		if err != nil {
			select {
			case <-gone:
				if errors.Is(err, os.ErrDeadlineExceeded) {
					return nil // what it has sent before may still be under way in the other direction
				}
			default:
			}
			return err
		}
	}
}
