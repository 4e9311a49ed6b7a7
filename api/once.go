package api

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"
)

// A request whose answer is lost is repeated after pauses of 0.2, 0.4, … s: long enough for a controller that restarts.
const (
	onceTries    = 6
	oncePauseMin = 200 * time.Millisecond
)

// postOnce makes a POST under a key of its own (Idempotency-Key), and repeats it when the answer is lost: the controller does it
// once, and answers again. One of an earlier release, which knows no keys, refuses what is there already.
func (c *Client) postOnce(ctx context.Context, path string, body, into any) error {
	b, err := json.Marshal(body)
	if err != nil {
		return fmt.Errorf("encode the request: %w", err)
	}
	key, pause := rand.Text(), oncePauseMin
	for try := 1; ; try++ {
		r, err := c.request(ctx, http.MethodPost, path, bytes.NewReader(b))
		if err != nil {
			return err
		}
		r.Header.Set("Content-Type", "application/json")
		r.Header.Set("Idempotency-Key", key)
		if err = c.send(r, into); err == nil || ctx.Err() != nil || try == onceTries || !lost(err, try == 1) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(pause):
		}
		pause *= 2
	}
}

// lost tells whether a request may have been taken though its answer did not arrive. The first one that finds nobody at all was
// not; a later one finds a controller that restarts.
func lost(err error, first bool) bool {
	var refused *Error
	var broken net.Error
	var dial *net.OpError
	switch {
	case errors.As(err, &refused):
		return false
	case errors.As(err, &dial) && dial.Op == "dial":
		return !first
	}
	return errors.As(err, &broken) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
}
