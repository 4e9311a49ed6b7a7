package reel

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"widecloud/internal/sentry/still"
)

// Errors of Add and AddCaption, beside still.ErrBounds.
var (
	ErrLate = errors.New("a newer still is here already")
	ErrFull = errors.New("no room")
)

// Options says how much a Reel keeps.
type Options struct {
	Keep        time.Duration // how long a still is kept after it was added
	MaxBytes    int64         // of all stills, with what the reel adds to each
	MaxChannels int
	Now         func() time.Time

	// Prepare makes what readers need of each still beside its JPEG, once for all of them; nil: nothing.
	Prepare func(*still.Still) any
}

// overhead is what a frame takes beside its JPEG, in bytes: itself, its place in a list, and what Prepare made.
const overhead = 2048

// Frame is a still that a Reel keeps.
type Frame struct {
	still.Still
	Added    time.Time
	Prepared any // by Options.Prepare; shared, as the JPEG
	next     chan struct{}
}

// Next is closed when f is not the newest of its channel and size any more.
func (f *Frame) Next() <-chan struct{} { return f.next }

func (f *Frame) size() int64 { return int64(len(f.JPEG)) + overhead }

// Reel keeps stills. Its methods may be called from many goroutines.
type Reel struct {
	o  Options
	mu sync.RWMutex // of what is not atomic: lists of frames and captions

	channels atomic.Pointer[map[string]*channel] // the map is replaced when a channel comes or goes
	bytes    atomic.Int64
}

type channel struct {
	tracks   [still.Sizes]track
	captions []Caption // by time
}

// track is a channel in one size.
type track struct {
	newest atomic.Pointer[Frame] // the last of frames; nil: there are none
	frames []*Frame              // by number
}

// New makes an empty Reel.
func New(o Options) *Reel {
	if o.Prepare == nil {
		o.Prepare = func(*still.Still) any { return nil }
	}
	r := &Reel{o: o}
	r.channels.Store(&map[string]*channel{})
	return r
}

// Bytes is what the stills take now.
func (r *Reel) Bytes() int64 { return r.bytes.Load() }

// Add keeps s, which from now on belongs to all readers, and wakes who waits. Errors: still.ErrBounds, ErrLate, ErrFull.
func (r *Reel) Add(s still.Still) error {
	if err := s.Check(); err != nil {
		return err
	}
	f := &Frame{Still: s, Prepared: r.o.Prepare(&s), Added: r.o.Now(), next: make(chan struct{})}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.forget(f.Added)
	c, err := r.channel(s.Channel)
	if err != nil {
		return err
	}
	t := &c.tracks[s.Size]
	if n := t.newest.Load(); n != nil && n.Number >= s.Number {
		return fmt.Errorf("%w: %s, size %d: %d follows %d", ErrLate, s.Channel, s.Size, s.Number, n.Number)
	}
	if !r.room(f.size(), t) {
		return fmt.Errorf("%w for %d bytes of %s: the newest stills alone take nearly %d", ErrFull, f.size(), s.Channel, r.o.MaxBytes)
	}
	t.frames = append(t.frames, f)
	r.bytes.Add(f.size())
	if last := t.newest.Swap(f); last != nil {
		close(last.next)
	}
	return nil
}

// channel finds or makes a channel; r.mu is held.
func (r *Reel) channel(name string) (*channel, error) {
	all := *r.channels.Load()
	if c := all[name]; c != nil {
		return c, nil
	}
	if len(all) >= r.o.MaxChannels {
		return nil, fmt.Errorf("%w for channel %s: there are %d", ErrFull, name, len(all))
	}
	c := &channel{}
	more := maps.Clone(all)
	more[name] = c
	r.channels.Store(&more)
	return c, nil
}

// room drops the oldest stills until there are n bytes free. A newest still stays, but that of t, which gets a successor.
func (r *Reel) room(n int64, t *track) bool {
	for r.bytes.Load()+n > r.o.MaxBytes {
		var oldest *track
		for _, c := range *r.channels.Load() {
			for i := range c.tracks {
				c := &c.tracks[i]
				if (len(c.frames) > 1 || len(c.frames) == 1 && c == t) &&
					(oldest == nil || c.frames[0].Added.Before(oldest.frames[0].Added)) {
					oldest = c
				}
			}
		}
		if oldest == nil {
			return false
		}
		r.drop(oldest)
	}
	return true
}

// drop forgets the oldest still of t. If it was the newest too, who waits for a next one finds that there is none.
func (r *Reel) drop(t *track) {
	f := t.frames[0]
	t.frames[0] = nil
	t.frames = t.frames[1:]
	r.bytes.Add(-f.size())
	if len(t.frames) == 0 {
		t.frames = nil
		t.newest.Store(nil)
		close(f.next)
	}
}

// Forget drops what is older than Options.Keep. Add does it too: it is for the time when nothing is added.
func (r *Reel) Forget() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.forget(r.o.Now())
}

func (r *Reel) forget(now time.Time) {
	limit := now.Add(-r.o.Keep)
	var empty []string
	for name, c := range *r.channels.Load() {
		left := 0
		for i := range c.tracks {
			t := &c.tracks[i]
			for len(t.frames) > 0 && t.frames[0].Added.Before(limit) {
				r.drop(t)
			}
			left += len(t.frames)
		}
		// The last caption of a channel is good until there is another one: it goes with the channel.
		for len(c.captions) > 1 && c.captions[1].From.Before(limit) {
			c.captions = c.captions[1:]
		}
		if left == 0 && (len(c.captions) == 0 || c.captions[len(c.captions)-1].From.Before(limit)) {
			empty = append(empty, name)
		}
	}
	if len(empty) > 0 {
		fewer := maps.Clone(*r.channels.Load())
		for _, name := range empty {
			delete(fewer, name)
		}
		r.channels.Store(&fewer)
	}
}

// Newest is the newest still of a channel in a size; nil: there is none.
func (r *Reel) Newest(channel string, size int) *Frame {
	c := (*r.channels.Load())[channel]
	if c == nil || size < 0 || size >= still.Sizes {
		return nil
	}
	return c.tracks[size].newest.Load()
}

// Number is the still with that number; nil: it is not kept. Gone tells that it is older than what is.
func (r *Reel) Number(channel string, size int, number uint64) (f *Frame, gone bool) {
	f = r.find(channel, size, func(frames []*Frame) *Frame {
		i, ok := slices.BinarySearchFunc(frames, number, func(f *Frame, n uint64) int { return cmp.Compare(f.Number, n) })
		gone = !ok && i < len(frames)
		if !ok {
			return nil
		}
		return frames[i]
	})
	return f, gone
}

// At is the last still that was taken at t or before, or else the oldest one; nil: there is none.
func (r *Reel) At(channel string, size int, t time.Time) *Frame {
	return r.find(channel, size, func(frames []*Frame) *Frame {
		for _, f := range slices.Backward(frames) {
			if !f.Taken.After(t) {
				return f
			}
		}
		return frames[0]
	})
}

// Oldest is the oldest still that is kept; nil: there is none.
func (r *Reel) Oldest(channel string, size int) *Frame {
	return r.find(channel, size, func(frames []*Frame) *Frame { return frames[0] })
}

// find calls in with the frames of a channel and size, if there are any.
func (r *Reel) find(channel string, size int, in func([]*Frame) *Frame) *Frame {
	c := (*r.channels.Load())[channel]
	if c == nil || size < 0 || size >= still.Sizes {
		return nil
	}
	r.mu.RLock()
	defer r.mu.RUnlock()
	if len(c.tracks[size].frames) == 0 {
		return nil
	}
	return in(c.tracks[size].frames)
}

// Channels is the names of all channels, in order.
func (r *Reel) Channels() []string { return slices.Sorted(maps.Keys(*r.channels.Load())) }
