package koshien

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"widecloud/internal/sentry/viewer"
)

// Count is what one viewer has seen in a window of time, and what it has missed.
type Count struct {
	Since  time.Time
	Stills int
	Lost   int           // numbers that never came
	Late   int           // came when the next one had been taken
	Moved  int           // to another server
	Freeze time.Duration // longest time without a new still
	Bytes  int64
	Delays []time.Duration // of each still, from its taking

	last viewer.Seen
}

// See counts a still. The first one that a viewer sees begins its window.
func (c *Count) See(s viewer.Seen) {
	last := c.last
	c.last = s
	c.Stills++
	c.Bytes += int64(s.Bytes)
	c.Delays = append(c.Delays, s.At.Sub(s.Taken))
	if last.Number == 0 {
		c.Since = s.At
		return
	}
	c.Freeze = max(c.Freeze, s.At.Sub(later(last.At, c.Since)))
	if s.Server != last.Server {
		c.Moved++
	}
	if s.Number <= last.Number { // the sender has begun anew
		return
	}
	apart := int(s.Number - last.Number)
	c.Lost += apart - 1
	if s.At.Sub(s.Taken) > s.Taken.Sub(last.Taken)/time.Duration(apart) {
		c.Late++
	}
}

// Reset begins a new window.
func (c *Count) Reset(now time.Time) { *c = Count{Since: now, last: c.last} }

// At is the count as it stands at a time: what is missing then is a freeze, too.
func (c *Count) At(now time.Time) Count {
	n := *c
	n.Freeze = max(n.Freeze, now.Sub(later(n.last.At, n.Since)))
	return n
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// Sum is what a number of viewers have seen. Lost, Late, Missed and Freeze are those of the one that has most.
type Sum struct {
	Viewers, Stills, Moved int
	Lost, Late, Missed     int
	AllLost, AllLate       int
	Freeze, Delay          time.Duration // Delay: that of 99 of 100 stills is less
	Rate                   float64       // bytes a second of one viewer, mean
}

// sum sums up counts as they stand at a time.
func sum(all []Count, now time.Time) (s Sum) {
	var delays []time.Duration
	for _, c := range all {
		s.Viewers++
		s.Stills += c.Stills
		s.Moved += c.Moved
		s.AllLost += c.Lost
		s.AllLate += c.Late
		s.Lost, s.Late, s.Missed = max(s.Lost, c.Lost), max(s.Late, c.Late), max(s.Missed, c.Lost+c.Late)
		s.Freeze = max(s.Freeze, c.Freeze)
		s.Rate += float64(c.Bytes) / max(now.Sub(c.Since).Seconds(), 0.001) / float64(len(all))
		delays = append(delays, c.Delays...)
	}
	if len(delays) > 0 {
		slices.SortFunc(delays, cmp.Compare)
		s.Delay = delays[len(delays)*99/100]
	}
	return s
}

func (s Sum) String() string {
	return fmt.Sprintf("%d viewers got %d stills; %d lost, %d late, at most %d by one viewer; longest freeze %v; delay p99 %v; moved %d times",
		s.Viewers, s.Stills, s.AllLost, s.AllLate, s.Missed, s.Freeze.Round(time.Millisecond), s.Delay.Round(time.Millisecond), s.Moved)
}
