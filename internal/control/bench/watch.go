package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// boards is how many watchers see all VMs; the others see those of the first organisation.
	boards = 20
	// dials is how many watchers connect at a time.
	dials = 64
	// maxBeacons is how many beacons a run may send: one a second.
	maxBeacons = 10_000
)

// crowd is all watchers. They watch VMs. Once a second a VM of the first organisation is changed, the beacon, which all of
// them see.
type crowd struct {
	site     *site
	watchers []*watcher
	dialling chan struct{}

	events atomic.Int64
	missed atomic.Int64
	failed atomic.Pointer[error]

	sent [maxBeacons]atomic.Int64 // when, ns since 1970
	seen [maxBeacons]atomic.Int64 // by how many
	last series                   // from the request to the last watcher
}

// watcher is one watch.
type watcher struct {
	c     *crowd
	user  string
	id    string       // Last-Event-ID
	at    int          // the newest beacon seen
	since atomic.Int64 // when the watch was accepted, ns since 1970; 0: it is not
}

func newCrowd(s *site, n int) *crowd {
	c := &crowd{site: s, dialling: make(chan struct{}, dials)}
	for i := range n {
		w := &watcher{c: c, user: watcherName(i / watchesOfUser)}
		if i < min(boards, n/10) {
			w.user = "board"
		}
		c.watchers = append(c.watchers, w)
	}
	return c
}

func (c *crowd) run(ctx context.Context) error {
	var all sync.WaitGroup
	defer all.Wait()
	for _, w := range c.watchers {
		all.Go(func() { w.run(ctx) })
	}
	return nil
}

// up is how many watchers were accepted after a time.
func (c *crowd) up(since time.Time) (have, all int) {
	for _, w := range c.watchers {
		if at := w.since.Load(); at != 0 && at > since.UnixNano() {
			have++
		}
	}
	return have, len(c.watchers)
}

// run watches, and resumes where a connection broke, until ctx ends.
func (w *watcher) run(ctx context.Context) {
	for ctx.Err() == nil {
		if err := w.watch(ctx); err != nil && ctx.Err() == nil {
			w.c.failed.Store(&err)
		}
		w.since.Store(0)
		if pause(ctx, 500*time.Millisecond) != nil {
			return
		}
	}
}

func (w *watcher) watch(ctx context.Context) error {
	resp, err := w.dial(ctx)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	stop := context.AfterFunc(ctx, func() { resp.Body.Close() })
	defer stop()
	w.since.Store(time.Now().UnixNano())
	lines := bufio.NewReaderSize(resp.Body, 4096)
	for {
		line, err := lines.ReadSlice('\n')
		if err == bufio.ErrBufferFull {
			err = nil // of a longer line the first part has all that counts
		}
		if err != nil {
			return fmt.Errorf("a watch ended: %w", err)
		}
		switch {
		case bytes.HasPrefix(line, []byte("id: ")):
			w.id = string(bytes.TrimSpace(line[4:]))
			w.c.events.Add(1)
		case bytes.HasPrefix(line, []byte("data: ")):
			w.data(line)
		}
	}
}

// dial opens the watch on a connection of its own, as a browser does.
func (w *watcher) dial(ctx context.Context) (*http.Response, error) {
	w.c.dialling <- struct{}{}
	defer func() { <-w.c.dialling }()
	conn, err := (&net.Dialer{Timeout: 10 * time.Second}).DialContext(ctx, "tcp", w.c.site.api)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+w.c.site.api+"/v1/vms?watch=true", nil)
	if err != nil {
		conn.Close()
		return nil, err
	}
	req.Header.Set("Authorization", "Bearer "+tokenOf(w.user))
	if w.id != "" {
		req.Header.Set("Last-Event-ID", w.id)
	}
	conn.SetDeadline(time.Now().Add(30 * time.Second))
	if err := req.Write(conn); err != nil {
		conn.Close()
		return nil, err
	}
	resp, err := http.ReadResponse(bufio.NewReaderSize(conn, 2048), req)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("watch: %s", resp.Status)
	}
	if err != nil {
		conn.Close()
		return nil, err
	}
	conn.SetDeadline(time.Time{})
	resp.Body = &connBody{resp.Body, conn}
	return resp, nil
}

// connBody is a body whose end is its connection's.
type connBody struct {
	body interface {
		Read([]byte) (int, error)
	}
	conn net.Conn
}

func (b *connBody) Read(p []byte) (int, error) { return b.body.Read(p) }

// Close ends the connection.
func (b *connBody) Close() error { return b.conn.Close() }

const beaconMark = "beacon "

// data looks for a beacon in an event.
func (w *watcher) data(line []byte) {
	at := bytes.Index(line, []byte(beaconMark))
	if at < 0 {
		return
	}
	digits := line[at+len(beaconMark):]
	end := bytes.IndexByte(digits, '.')
	if end < 0 {
		return
	}
	n, err := strconv.Atoi(string(digits[:end]))
	if err != nil || n <= w.at {
		return // it was seen already: the VM has changed in another way
	}
	w.c.missed.Add(int64(n - w.at - 1))
	w.at = n
	if w.c.seen[n].Add(1) == int64(len(w.c.watchers)) {
		w.c.last.add(time.Duration(time.Now().UnixNano() - w.c.sent[n].Load()))
	}
}

// check is an error when a watcher missed a beacon up to n.
func (c *crowd) check(n int) error {
	if missed := c.missed.Load(); missed > 0 {
		return fmt.Errorf("the watchers missed %d changes", missed)
	}
	for i := 1; i <= n; i++ {
		if seen := c.seen[i].Load(); seen != int64(len(c.watchers)) {
			return fmt.Errorf("change %d of %d was seen by %d of %d watchers", i, n, seen, len(c.watchers))
		}
	}
	return nil
}
