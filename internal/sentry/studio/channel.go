package studio

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"widecloud/internal/sentry/cast"
	"widecloud/internal/sentry/scale"
	"widecloud/internal/sentry/source"
	"widecloud/internal/sentry/still"
)

// firstRetry is how soon a source that has failed is begun again for the first time.
const firstRetry = time.Second

// channel is a Channel at work.
type channel struct {
	name   string
	source source.Source
	keep   source.KeepOptions
	cutter *source.Cutter
	makers []*scale.Maker
	send   func(*still.Still) error
	log    *slog.Logger
	newest chan source.Frame // of one slot

	mu    sync.Mutex
	state ChannelState
}

// ChannelState is what a channel has done.
type ChannelState struct {
	Name     string
	Pictures uint64      // of the source
	Cut      uint64      // chosen to become stills
	Skipped  uint64      // of these, not made: the one before was not ready
	Broken   uint64      // of these, not made: they could not be decoded or made small enough
	Stills   uint64      // pictures that became stills
	Number   uint64      // of the last still
	Taken    time.Time   // of the last still
	Work     float64     // seconds spent on decoding, scaling and compression
	Sizes    []SizeState // of the last still
	Trouble  string      // why there is no video; empty: there is, or the first picture is awaited
}

// SizeState is what one size of the last still was.
type SizeState struct {
	Width, Height, Bytes, Quality int
}

func newChannel(name string, c Channel, sender *cast.Sender, log *slog.Logger) *channel {
	ch := &channel{name: name, source: c.open(), cutter: source.NewCutter(c.Rate), send: sender.Send, log: log.With("channel", name),
		newest: make(chan source.Frame, 1), state: ChannelState{Name: name, Sizes: make([]SizeState, len(c.Sizes))}}
	ch.keep = source.KeepOptions{Silence: c.Silence.Duration, Retry: firstRetry, Log: ch.log, State: ch.trouble}
	for _, s := range c.Sizes {
		ch.makers = append(ch.makers, scale.NewMaker(s.spec()))
	}
	return ch
}

// open makes a channel's source.
func (c Channel) open() source.Source {
	every := source.Every(c.Rate)
	switch c.Source {
	case sourcePattern:
		return source.Pattern{Width: c.Sizes[0].Width, Height: c.Sizes[0].Height, Every: every}
	case sourcePipe:
		return source.Pipe{Path: c.Input}
	case sourceHTTP:
		return source.HTTP{URL: c.Input, Every: every}
	case sourceDirectory:
		return source.Directory{Path: c.Input, Every: every, Newest: c.Order == "newest"}
	case sourceFFmpeg:
		return source.FFmpeg{Program: "ffmpeg", Input: c.Input, Arguments: c.Arguments, Rate: c.Rate}
	}
	panic("source " + c.Source) // Check has refused it
}

func (c *channel) count(f func(*ChannelState)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f(&c.state)
}

func (c *channel) snapshot() ChannelState {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.state
	s.Sizes = append([]SizeState(nil), s.Sizes...)
	return s
}

func (c *channel) trouble(err error) {
	c.count(func(s *ChannelState) {
		s.Trouble = ""
		if err != nil {
			s.Trouble = err.Error()
		}
	})
}

// run reads the video and makes stills of it until ctx ends.
func (c *channel) run(ctx context.Context) {
	var reader sync.WaitGroup
	defer reader.Wait()
	reader.Go(func() { source.Keep(ctx, c.source, c.keep, c.offer) })
	last := uint64(0)
	for {
		select {
		case <-ctx.Done():
			return
		case f := <-c.newest:
			last = still.Next(last, f.Taken)
			if err := c.publish(f, last); err != nil {
				c.count(func(s *ChannelState) { s.Broken++ })
				c.log.Warn("a picture does not become a still", "err", err)
			}
		}
	}
}

// offer puts a picture that was chosen into the slot, in place of an older one that nobody has taken.
func (c *channel) offer(f source.Frame) {
	take := c.cutter.Take(f.Taken)
	skipped := false
	if take {
		select {
		case <-c.newest:
			skipped = true
		default:
		}
		c.newest <- f // there is room: nobody else puts anything in
	}
	c.count(func(s *ChannelState) {
		s.Pictures++
		if take {
			s.Cut++
		}
		if skipped {
			s.Skipped++
		}
	})
}

// publish makes a picture's stills and sends them, the smallest first: those on thin lines wait for it longest.
func (c *channel) publish(f source.Frame, number uint64) error {
	began := time.Now()
	picture, err := f.Image()
	if err != nil {
		return err
	}
	sizes := make([]SizeState, len(c.makers))
	var all []error
	for i := len(c.makers) - 1; i >= 0; i-- {
		made, err := c.makers[i].Make(picture)
		if err == nil {
			sizes[i] = SizeState{made.Width, made.Height, len(made.JPEG), made.Quality}
			err = c.send(&still.Still{Channel: c.name, Size: i, Number: number, Taken: f.Taken, Width: made.Width, Height: made.Height, JPEG: made.JPEG})
		}
		if err != nil {
			all = append(all, fmt.Errorf("size %d: %w", i, err))
		}
	}
	if len(all) > 0 {
		return errors.Join(all...)
	}
	c.count(func(s *ChannelState) {
		s.Stills++
		s.Number, s.Taken, s.Sizes = number, f.Taken, sizes
		s.Work += time.Since(began).Seconds()
	})
	return nil
}
