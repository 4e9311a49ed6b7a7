package reel

import (
	"fmt"
	"slices"
	"time"
	"unicode/utf8"

	"widecloud/internal/sentry/still"
)

// MaxCaption is how long a caption's texts may be, in bytes each; MaxCaptions, how many a channel keeps.
const (
	MaxCaption  = 1000
	MaxCaptions = 1000
)

// Caption is what is to be read beside the picture from a time on: the score, the inning.
type Caption struct {
	From time.Time
	Text string // shown
	Alt  string // what the picture shows, for those who do not see it; empty: Text
}

// AddCaption keeps a caption, which must be later than the channel's last one. Errors: still.ErrBounds, ErrLate, ErrFull.
func (r *Reel) AddCaption(name string, c Caption) error {
	if err := still.CheckChannel(name); err != nil {
		return err
	}
	for _, f := range []struct{ field, text string }{{"text", c.Text}, {"alt", c.Alt}} {
		if len(f.text) > MaxCaption || !utf8.ValidString(f.text) {
			return fmt.Errorf("%w: caption.%s: it is not UTF-8 of at most %d bytes", still.ErrBounds, f.field, MaxCaption)
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	ch, err := r.channel(name)
	if err != nil {
		return err
	}
	if n := len(ch.captions); n > 0 && !c.From.After(ch.captions[n-1].From) {
		return fmt.Errorf("%w: caption of %s", ErrLate, name)
	}
	ch.captions = append(ch.captions, c)
	if n := len(ch.captions); n > MaxCaptions {
		ch.captions = slices.Clone(ch.captions[n-MaxCaptions:])
	}
	return nil
}

// Caption is the channel's caption at t; false: there is none.
func (r *Reel) Caption(name string, t time.Time) (Caption, bool) {
	ch := (*r.channels.Load())[name]
	if ch == nil {
		return Caption{}, false
	}
	r.mu.RLock()
	defer r.mu.RUnlock()
	for _, c := range slices.Backward(ch.captions) {
		if !c.From.After(t) {
			return c, true
		}
	}
	return Caption{}, false
}
