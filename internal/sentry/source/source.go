package source

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"image"
	"image/jpeg"
	"log/slog"
	"time"

	"widecloud/internal/sentry/still"
)

// MaxJPEG is the most bytes of a source's picture.
const MaxJPEG = 16 << 20

// maxPixels is the most pixels of a source's picture: what decoding it takes is three bytes for two of them.
const maxPixels = 40_000_000

// Frame is one picture of a source.
type Frame struct {
	Taken   time.Time
	JPEG    []byte      // as it came; nil: Picture is there
	Picture image.Image // as it was drawn
}

// Image is the picture, decoded.
func (f *Frame) Image() (image.Image, error) {
	if f.Picture != nil {
		return f.Picture, nil
	}
	c, err := jpeg.DecodeConfig(bytes.NewReader(f.JPEG))
	if err != nil {
		return nil, fmt.Errorf("decode a picture: %w", err)
	}
	if c.Width > still.MaxSide || c.Height > still.MaxSide || c.Width*c.Height > maxPixels {
		return nil, fmt.Errorf("a picture of %dx%d pixels is too large", c.Width, c.Height)
	}
	m, err := jpeg.Decode(bytes.NewReader(f.JPEG))
	if err != nil {
		return nil, fmt.Errorf("decode a picture: %w", err)
	}
	return m, nil
}

// Source is where pictures come from.
type Source interface {
	// Run calls emit with each picture, one after the other, until the video ends (nil), fails, or ctx ends. emit is quick.
	Run(ctx context.Context, emit func(Frame)) error
}

// errSilent says why a source was ended.
var errSilent = errors.New("there was no picture for too long")

// KeepOptions are the options of Keep.
type KeepOptions struct {
	Silence time.Duration // after which a source without a picture is begun again
	Retry   time.Duration // before the first new attempt; each of the next waits twice as long, up to 30 s
	Log     *slog.Logger
	State   func(err error) // told of each end, and with nil of the first picture after a beginning
}

// maxRetry is the longest wait between two attempts.
const maxRetry = 30 * time.Second

// Keep runs a source again and again until ctx ends.
func Keep(ctx context.Context, s Source, o KeepOptions, emit func(Frame)) {
	retry := o.Retry
	for ctx.Err() == nil {
		pictures := false
		err := runOnce(ctx, s, o.Silence, func(f Frame) {
			if !pictures {
				pictures = true
				o.State(nil)
				o.Log.Info("the source gives pictures")
			}
			emit(f)
		})
		if ctx.Err() != nil {
			return
		}
		if err == nil {
			err = errors.New("the video has ended")
		}
		o.State(err)
		if pictures {
			retry = o.Retry
		}
		o.Log.Warn("the source is begun again", "after", retry, "err", err)
		timer := time.NewTimer(retry)
		select {
		case <-ctx.Done():
		case <-timer.C:
		}
		timer.Stop()
		retry = min(2*retry, maxRetry)
	}
}

// runOnce runs a source until it ends or is silent.
func runOnce(ctx context.Context, s Source, silence time.Duration, emit func(Frame)) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	watchdog := time.AfterFunc(silence, func() { cancel(errSilent) })
	defer watchdog.Stop()
	err := s.Run(ctx, func(f Frame) {
		watchdog.Reset(silence)
		emit(f)
	})
	if context.Cause(ctx) == errSilent {
		return fmt.Errorf("%w: %v", errSilent, silence)
	}
	return err
}

// Cutter chooses pictures at a rate.
type Cutter struct {
	every time.Duration
	due   time.Time
}

// NewCutter makes a Cutter that takes rate pictures a second.
func NewCutter(rate float64) *Cutter { return &Cutter{every: Every(rate)} }

// Every is the time between two pictures at a rate of so many a second.
func Every(rate float64) time.Duration { return time.Duration(float64(time.Second) / rate) }

// Take tells whether the picture taken at t becomes a still. A source that gives pictures at the very rate is never quite
// even: a picture may come a quarter of the interval early.
func (c *Cutter) Take(t time.Time) bool {
	if t.Before(c.due.Add(-c.every / 4)) {
		return false
	}
	c.due = c.due.Add(c.every)
	if !c.due.After(t.Add(-c.every / 4)) { // the first picture, or one after a gap
		c.due = t.Add(c.every)
	}
	return true
}
