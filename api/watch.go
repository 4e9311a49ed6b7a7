package api

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"maps"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

const (
	// watchRetryMin and watchRetryMax bound the pause between attempts to resume.
	watchRetryMin = 100 * time.Millisecond
	watchRetryMax = 5 * time.Second
)

// WatchEvent is one change of an object in a watch (Server-Sent Events, data field).
type WatchEvent[T any] struct {
	Type     string `json:"type"` // put or delete
	Revision int64  `json:"revision"`
	Kind     Kind   `json:"kind,omitempty"`
	Object   T      `json:"object"`
}

// Watch gives the changes of a kind after revision from (that of a List; below 0: from now on), one by one in the order
// of revisions, until ctx ends or the loop is left:
//
//	for e, err := range api.Watch[api.VM](ctx, c, revision) { … }
//
// A connection that breaks is resumed where it was, for as long as it takes, also while the controller has too many
// watches: it may still count those that broke. The changes of the revision that was not received whole come again. An error
// ends the watch: CodeStale (the revision is no longer kept; list again), any other refusal, or that the first connection
// could not be made.
func Watch[T any, P object[T]](ctx context.Context, c *Client, from int64) iter.Seq2[WatchEvent[*T], error] {
	return WatchSelected[T, P](ctx, c, Selector{}, from)
}

// WatchSelected is Watch of the objects that a selector takes. One that it no longer takes, or that the user may no longer
// see, is deleted as far as this watch goes.
func WatchSelected[T any, P object[T]](ctx context.Context, c *Client, s Selector, from int64) iter.Seq2[WatchEvent[*T], error] {
	return func(yield func(WatchEvent[*T], error) bool) {
		if from < 0 {
			_, revision, err := Select[T, P](ctx, c, s)
			if err != nil {
				yield(WatchEvent[*T]{}, err)
				return
			}
			from = revision // so that a break before the first event loses none
		}
		w := watching{c: c, path: path(string(kindOf[T, P]())), query: s.Query(), from: from}
		w.query.Set("watch", "true")
		w.earlier = func() { w.query = url.Values{"watch": {"true"}} } // a release that knows no selectors
		var bad error
		err := w.run(ctx, func(data []byte) bool {
			var e WatchEvent[*T]
			err := json.Unmarshal(data, &e)
			if err == nil && e.Object == nil {
				err = errors.New("it has no object")
			}
			if err != nil {
				bad = fmt.Errorf("decode an event of a watch: %w", err)
				return false
			}
			if e.Type == "put" && !s.Matches(P(e.Object)) {
				return true // only such a release sends it
			}
			return yield(e, nil)
		})
		if err = cmp.Or(bad, err); err != nil {
			yield(WatchEvent[*T]{}, err)
		}
	}
}

// WatchKinds is WatchSelected of several kinds in one stream: what was written together comes together, in the order of
// revisions. It gives pointers to the nouns' structs. Sites cannot be watched.
func WatchKinds(ctx context.Context, c *Client, kinds []Kind, s Selector, from int64) iter.Seq2[WatchEvent[Object], error] {
	return func(yield func(WatchEvent[Object], error) bool) {
		if from < 0 && len(kinds) > 0 {
			now, err := call[boundedListing[Meta]](ctx, c, http.MethodGet, path(string(kinds[0]))+"?limit=1", nil)
			if err != nil {
				yield(WatchEvent[Object]{}, err)
				return
			}
			from = now.Revision
		}
		w := watching{c: c, path: path("watch"), query: s.Query(), from: from}
		for i, k := range kinds {
			if i > 0 {
				w.query.Set("kinds", w.query.Get("kinds")+",")
			}
			w.query.Set("kinds", w.query.Get("kinds")+string(k))
		}
		var bad error
		err := w.run(ctx, func(data []byte) bool {
			var e WatchEvent[Object]
			if e, bad = decodeEvent(data); bad != nil {
				return false
			}
			return e.Object == nil || yield(e, nil)
		})
		if err = cmp.Or(bad, err); err != nil {
			yield(WatchEvent[Object]{}, err)
		}
	}
}

// decodeEvent reads an event by its kind. One of a kind that this release does not know has no object.
func decodeEvent(data []byte) (e WatchEvent[Object], err error) {
	var raw WatchEvent[json.RawMessage]
	if err := json.Unmarshal(data, &raw); err != nil {
		return e, fmt.Errorf("decode an event of a watch: %w", err)
	}
	e = WatchEvent[Object]{Type: raw.Type, Revision: raw.Revision, Kind: raw.Kind, Object: NewObject(raw.Kind)}
	if e.Object == nil {
		return e, nil
	}
	if err := json.Unmarshal(raw.Object, e.Object); err != nil {
		return e, fmt.Errorf("decode an event of a watch: %s: %w", raw.Kind, err)
	}
	return e, nil
}

// watching is a watch over all its connections.
type watching struct {
	c       *Client
	path    string
	query   url.Values
	from    int64
	earlier func() // makes query one for a controller of an earlier release; nil when there is none
}

// run gives the data of each event, until ctx ends or event says false, and nil; or the error that ends the watch.
func (w *watching) run(ctx context.Context, event func(data []byte) bool) error {
	pause := watchRetryMin
	for first := true; ; first = false {
		left := false
		last, err := watchOnce(ctx, w.c, w.path, w.query, w.from, func(data []byte) bool {
			left = !event(data)
			return !left
		})
		if left || ctx.Err() != nil {
			return nil
		}
		if unknownParameter(err) && w.earlier != nil {
			w.earlier()
			w.earlier = nil
			continue
		}
		var refused *Error
		if err != nil && (first || errors.As(err, &refused) && refused.Code != CodeUnavailable && refused.Code != CodeTooMany) {
			return err
		}
		if last > w.from {
			w.from, pause = last, watchRetryMin
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pause):
		}
		pause = min(2*pause, watchRetryMax)
	}
}

// watchOnce reads one connection's events (Server-Sent Events, WHATWG HTML §9.2) and gives the last id. The error says
// why there was no connection, or that what came is not a watch; that a connection ended is no error.
func watchOnce(ctx context.Context, c *Client, path string, q url.Values, from int64, event func(data []byte) bool) (last int64, err error) {
	p := newPatience(ctx, watchSilence, "the controller has not answered within %v")
	defer p.end()
	last = from
	q = maps.Clone(q)
	q.Set("from", strconv.FormatInt(from, 10))
	r, err := c.request(p.ctx, http.MethodGet, path+"?"+q.Encode(), nil)
	if err != nil {
		return last, err
	}
	r.Header.Set("Accept", "text/event-stream")
	r.Header.Set("Last-Event-ID", strconv.FormatInt(from, 10))
	resp, err := c.http.Do(r)
	if err != nil {
		return last, p.explain(fmt.Errorf("call the controller: %w", err))
	}
	defer resp.Body.Close()
	resp.Body = &awaitedBody{resp.Body, p, watchSilence}
	if resp.StatusCode != http.StatusOK {
		return last, p.explain(AnswerError(resp))
	}
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(make([]byte, 0, 64<<10), maxEvent)
	var data []byte
	size := 0
	id := last
	for lines.Scan() {
		if size += len(lines.Bytes()) + 1; size > maxEvent {
			return last, errLargeEvent
		}
		field, value, _ := bytes.Cut(lines.Bytes(), []byte(":"))
		value = bytes.TrimPrefix(value, []byte(" "))
		switch {
		case len(lines.Bytes()) == 0: // the end of an event
			if data != nil && !event(data) {
				return last, nil
			}
			last, data, size = id, nil, 0
		case string(field) == "id":
			if n, err := strconv.ParseInt(string(value), 10, 64); err == nil {
				id = n
			}
		case string(field) == "data" && data != nil:
			data = append(append(data, '\n'), value...)
		case string(field) == "data":
			data = bytes.Clone(value)
		}
	}
	if errors.Is(lines.Err(), bufio.ErrTooLong) {
		return last, errLargeEvent
	}
	return last, nil
}

// errLargeEvent ends a watch: what sends it is not a controller, and would send it again.
var errLargeEvent = Errorf(CodeInternal, "an event of a watch is larger than %d MiB: what sends it is not a controller", maxEvent>>20)

// Follow gives an object as it is and after each change of it, until ctx ends or the loop is left. Its end is the error
// CodeNotFound. Changes in quick succession may come as one.
func Follow[T any, P object[T]](ctx context.Context, c *Client, name string) iter.Seq2[*T, error] {
	only := Selector{Name: name} // and what begins with it
	return func(yield func(*T, error) bool) {
		gone := Errorf(CodeNotFound, "no %s named %s", kindOf[T, P](), name)
		for ctx.Err() == nil {
			items, revision, err := Select[T, P](ctx, c, only)
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
			for e, err := range WatchSelected[T, P](ctx, c, only, revision) {
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
