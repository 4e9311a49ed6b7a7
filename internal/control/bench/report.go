package main

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// figure is one number of the output.
type figure struct {
	Name  string
	Value float64
	Unit  string
}

// report is what a run has to say.
type report struct {
	figures []figure
}

func (r *report) add(name string, value float64, unit string) {
	r.figures = append(r.figures, figure{name, value, unit})
}

// lines is the output: `figure NAME VALUE UNIT`.
func (r *report) lines() string {
	var b strings.Builder
	for _, f := range r.figures {
		fmt.Fprintf(&b, "figure %s %s %s\n", f.Name, short(f.Value), f.Unit)
	}
	return b.String()
}

// short is a number with three digits that count, or as an integer.
func short(v float64) string {
	if math.Abs(v) >= 100 || v == math.Trunc(v) {
		return strconv.FormatFloat(v, 'f', 0, 64)
	}
	return strconv.FormatFloat(v, 'g', 3, 64)
}

// series gathers durations, from any goroutine, with when they were over.
type series struct {
	mu sync.Mutex
	at []time.Time
	d  []time.Duration
}

func (s *series) add(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.at, s.d = append(s.at, time.Now()), append(s.d, d)
}

// between are the durations that were over within a time, sorted.
func (s *series) between(from, to time.Time) []time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []time.Duration
	for i, at := range s.at {
		if !at.Before(from) && at.Before(to) {
			out = append(out, s.d[i])
		}
	}
	slices.Sort(out)
	return out
}

// percentile is the p-th of 100 of sorted durations, in ms; 0 when there are none.
func percentile(sorted []time.Duration, p int) float64 {
	if len(sorted) == 0 {
		return 0
	}
	return ms(sorted[(len(sorted)-1)*p/100])
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
