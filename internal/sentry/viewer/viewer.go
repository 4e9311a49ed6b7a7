package viewer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"image/jpeg"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"widecloud/internal/sentry/pattern"
	"widecloud/internal/sentry/still"
)

// Times of the page (koshien.js).
const (
	pollTime  = 40 * time.Second // longer than a server holds a poll
	drainRest = 10 * time.Minute // for a server that drains
	slowRest  = time.Minute      // for one that is slower than stills come
	leastRest = 10 * time.Second // for one that has failed
	fullRest  = 10 * time.Second // for one that is full and does not say until when
	longest   = 30 * time.Second // wait before a viewer without another server asks again
)

// Seen is a still that has come.
type Seen struct {
	Number uint64    // the picture's
	Taken  time.Time // by the sender's clock
	At     time.Time // when it had come whole
	Bytes  int
	Server string
}

// Options are the options of Watch.
type Options struct {
	Servers []string // URLs without a path; the first one is asked first
	Channel string
	Size    int
	See     func(Seen)  // is told of each still, one after the other
	Trouble func(error) // is told of each answer that was none
}

// Watch views until ctx ends.
func Watch(ctx context.Context, o Options) {
	t := &http.Transport{MaxIdleConnsPerHost: 1, DisableCompression: true}
	defer t.CloseIdleConnections()
	v := &viewer{Options: o, http: &http.Client{Transport: t, Timeout: pollTime}, rest: make([]time.Time, len(o.Servers))}
	for ctx.Err() == nil {
		if err := v.next(ctx); err != nil && ctx.Err() == nil {
			o.Trouble(err)
			v.recover(ctx, err)
		}
	}
}

type viewer struct {
	Options
	http     *http.Client
	server   int         // in use
	rest     []time.Time // until when each server is left alone
	number   uint64      // the server's, of the last still
	taken    time.Time   // of the last still
	interval time.Duration
	slow     int // stills in a row that took nearly as long to come as stills follow each other
	failed   int // answers in a row that were none
}

// refusal is an answer that is no still.
type refusal struct {
	status string
	code   int
	after  time.Duration // Retry-After; 0: it does not say
}

func (r *refusal) Error() string { return r.status }

// next asks for the still after the last one, and takes it. That there is none yet is no error.
func (v *viewer) next(ctx context.Context) error {
	server := v.Servers[v.server]
	url := fmt.Sprintf("%s/stills/%s/%d/newest.jpg?after=%d", server, v.Channel, v.Size, v.number)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	res, err := v.http.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.Header.Get("Sentry") == "drain" {
		v.move(drainRest)
	}
	switch res.StatusCode {
	case http.StatusOK:
	case http.StatusNoContent:
		v.failed = 0
		return nil
	default:
		seconds, _ := strconv.Atoi(res.Header.Get("Retry-After"))
		return &refusal{res.Status, res.StatusCode, time.Duration(seconds) * time.Second}
	}
	began := time.Now()
	b, err := io.ReadAll(io.LimitReader(res.Body, still.MaxBytes+1))
	if err != nil {
		return err
	}
	return v.take(res.Header.Get("Still"), b, server, time.Since(began))
}

// take reads a still that took a while to load.
func (v *viewer) take(header string, b []byte, server string, load time.Duration) error {
	at := time.Now()
	text, _, _ := strings.Cut(header, " ")
	number, err := strconv.ParseUint(text, 10, 64)
	if err != nil || number <= v.number {
		return fmt.Errorf("the field Still is %q after number %d", header, v.number)
	}
	picture, err := jpeg.Decode(bytes.NewReader(b))
	if err != nil {
		return fmt.Errorf("a still of %d bytes: %w", len(b), err)
	}
	r, err := pattern.Read(picture)
	if err != nil {
		return err
	}
	if apart := r.Taken.Sub(v.taken); !v.taken.IsZero() && apart > 0 {
		v.interval = min(max((4*v.interval+apart)/5, 100*time.Millisecond), 5*time.Second)
	} else {
		v.interval = time.Second
	}
	v.number, v.taken, v.failed = number, r.Taken, 0
	v.adapt(load)
	v.See(Seen{Number: r.Number, Taken: r.Taken, At: at, Bytes: len(b), Server: server})
	return nil
}

// adapt leaves a server that gives three stills in a row more slowly than they follow each other.
func (v *viewer) adapt(load time.Duration) {
	if load <= v.interval*4/5 {
		v.slow = 0
		return
	}
	if v.slow++; v.slow >= 3 {
		v.slow = 0
		if load > v.interval*3/2 {
			v.move(slowRest)
		}
	}
}

// recover goes to another server after an error, or waits if there is none.
func (v *viewer) recover(ctx context.Context, err error) {
	v.failed++
	rest, wait := 5*time.Second*time.Duration(v.failed), time.Second*time.Duration(v.failed)
	var r *refusal
	if errors.As(err, &r) && r.code == http.StatusServiceUnavailable {
		if rest = r.after; rest == 0 {
			rest = fullRest
		}
		wait = rest
	}
	if v.move(max(leastRest, rest)) {
		return
	}
	select {
	case <-ctx.Done():
	case <-time.After(min(longest, wait)):
	}
	v.rest[v.server] = time.Time{}
}

// move leaves the server alone for a while, and goes to the next one that is not. Without one it stays.
func (v *viewer) move(rest time.Duration) bool {
	now := time.Now()
	v.rest[v.server] = now.Add(rest)
	for i := range v.Servers {
		next := (v.server + 1 + i) % len(v.Servers)
		if v.rest[next].Before(now) {
			v.server, v.slow = next, 0
			return true
		}
	}
	return false
}
