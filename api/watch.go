package api

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"strconv"
	"strings"
	"time"
)

const (
	// watchSilence is how long a watch may be silent before it counts as dead; controllers send a sign of life every 15 s.
	watchSilence = 60 * time.Second
	// watchLine bounds one event, so that a mad server cannot fill the memory.
	watchLine = 16 << 20
	// watchRetryMin and watchRetryMax bound the pause between attempts to resume.
	watchRetryMin = 100 * time.Millisecond
	watchRetryMax = 5 * time.Second
)

// Watch gives the changes of a kind after revision from (that of a List; below 0: from now on), one by one in the order
// of revisions, until ctx ends or the loop is left:
//
//	for e, err := range api.Watch[api.VM](ctx, c, revision) { … }
//
// A connection that breaks is resumed where it was, for as long as it takes. An error ends the watch: CodeStale (the
// revision is no longer kept; list again), any other refusal, or that the first connection could not be made.
func Watch[T any, P object[T]](ctx context.Context, c *Client, from int64) iter.Seq2[WatchEvent[*T], error] {
	return func(yield func(WatchEvent[*T], error) bool) {
		if from < 0 {
			_, revision, err := List[T, P](ctx, c)
			if err != nil {
				yield(WatchEvent[*T]{}, err)
				return
			}
			from = revision // so that a break before the first event loses none
		}
		pause := watchRetryMin
		for first := true; ; first = false {
			left := false
			last, err := watchOnce(ctx, c, path(string(kindOf[T, P]())), from, func(data []byte) bool {
				var e WatchEvent[*T]
				if err := json.Unmarshal(data, &e); err != nil {
					yield(e, fmt.Errorf("decode an event of a watch: %w", err))
					left = true
					return false
				}
				left = !yield(e, nil)
				return !left
			})
			if left || ctx.Err() != nil {
				return
			}
			var refused *Error
			if err != nil && (first || errors.As(err, &refused) && refused.Code != CodeUnavailable) {
				yield(WatchEvent[*T]{}, err)
				return
			}
			if last > from {
				from, pause = last, watchRetryMin
			}
			select {
			case <-ctx.Done():
				return
			case <-time.After(pause):
			}
			pause = min(2*pause, watchRetryMax)
		}
	}
}

// watchOnce reads one connection's events (Server-Sent Events, WHATWG HTML §9.2) and gives the last id. The error says
// why there was no connection; that one ended is no error.
func watchOnce(ctx context.Context, c *Client, path string, from int64, event func(data []byte) bool) (last int64, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	last = from
	r, err := c.request(ctx, http.MethodGet, path+"?watch=true&from="+strconv.FormatInt(from, 10), nil)
	if err != nil {
		return last, err
	}
	r.Header.Set("Accept", "text/event-stream")
	r.Header.Set("Last-Event-ID", strconv.FormatInt(from, 10))
	silence := time.AfterFunc(watchSilence, cancel)
	defer silence.Stop()
	resp, err := c.http.Do(r)
	if err != nil {
		return last, fmt.Errorf("call the controller: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return last, responseError(resp)
	}
	lines := bufio.NewScanner(aliveReader{resp.Body, silence})
	lines.Buffer(make([]byte, 0, 64<<10), watchLine)
	var data []byte
	id := last
	for lines.Scan() {
		field, value, _ := strings.Cut(lines.Text(), ":")
		value = strings.TrimPrefix(value, " ")
		switch {
		case lines.Text() == "": // the end of an event
			if data != nil && !event(data) {
				return last, nil
			}
			last, data = id, nil
		case field == "id":
			if n, err := strconv.ParseInt(value, 10, 64); err == nil {
				id = n
			}
		case field == "data" && data != nil:
			data = append(append(data, '\n'), value...)
		case field == "data":
			data = []byte(value)
		}
	}
	return last, nil
}

// aliveReader puts the end of patience off with every byte.
type aliveReader struct {
	r       io.Reader
	silence *time.Timer
}

func (a aliveReader) Read(b []byte) (int, error) {
	n, err := a.r.Read(b)
	if n > 0 {
		a.silence.Reset(watchSilence)
	}
	return n, err
}

// Follow gives an object as it is and after each change of it, until ctx ends or the loop is left. Its end is the error
// CodeNotFound. Changes in quick succession may come as one.
func Follow[T any, P object[T]](ctx context.Context, c *Client, name string) iter.Seq2[*T, error] {
	return func(yield func(*T, error) bool) {
		gone := Errorf(CodeNotFound, "no %s named %s", kindOf[T, P](), name)
		for ctx.Err() == nil {
			items, revision, err := List[T, P](ctx, c)
			if err != nil {
				yield(nil, err)
				return
			}
			found := false
			for _, o := range items {
				if P(o).Metadata().Name == name {
					if found = true; !yield(o, nil) {
						return
					}
				}
			}
			if !found {
				yield(nil, gone)
				return
			}
			for e, err := range Watch[T, P](ctx, c, revision) {
				if errors.Is(err, &Error{Code: CodeStale}) {
					break // list again
				}
				if err != nil {
					yield(nil, err)
					return
				}
				if P(e.Object).Metadata().Name != name {
					continue
				}
				if e.Type == "delete" {
					yield(nil, gone)
					return
				}
				if !yield(e.Object, nil) {
					return
				}
			}
		}
	}
}
