package koshien

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"slices"
	"sync"
	"syscall"
	"time"

	"widecloud/internal/lab/machine"
	"widecloud/internal/sentry/viewer"
)

// clientName is the argv[0] that turns this program into viewers, or what scrapes,
// inside a node. As for a node's first process, an init function sees to it.
const clientName = "widecloud-lab-koshien"

func init() {
	if len(os.Args) == 2 && os.Args[0] == clientName {
		os.Exit(clientMain(os.Args[1]))
	}
}

// clientSpec is what a client process is told, as JSON in its only argument.
type clientSpec struct {
	Viewers int           `json:"viewers,omitempty"`
	Servers []string      `json:"servers,omitempty"`
	Scrape  string        `json:"scrape,omitempty"` // URL
	Every   time.Duration `json:"every,omitempty"`
}

// event is one line of a client's output: a still that a viewer has got, an answer to a scrape, or an error.
type event struct {
	Viewer int         `json:"v,omitempty"`
	Seen   viewer.Seen `json:"seen,omitzero"`
	Err    string      `json:"err,omitempty"`
}

// start begins a client process on a node.
func (spec clientSpec) start(ctx context.Context, n *machine.Node, out io.Writer) (*machine.Cmd, error) {
	arg, err := json.Marshal(spec)
	if err != nil {
		return nil, err
	}
	c := n.Command(ctx, "/proc/self/exe", string(arg))
	c.Args[0] = clientName
	c.Stdout = out
	return c, c.Start()
}

func clientMain(arg string) int {
	var spec clientSpec
	if err := json.Unmarshal([]byte(arg), &spec); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	var (
		mu  sync.Mutex
		out = json.NewEncoder(os.Stdout)
	)
	emit := func(e event) {
		mu.Lock()
		defer mu.Unlock()
		if out.Encode(e) != nil {
			os.Exit(1) // nobody listens any more
		}
	}
	if spec.Scrape != "" {
		spec.scrape(ctx, emit)
		return 0
	}
	var wg sync.WaitGroup
	for i := range spec.Viewers {
		first := i % len(spec.Servers)
		o := viewer.Options{
			Servers: slices.Concat(spec.Servers[first:], spec.Servers[:first]), Channel: channel,
			See:     func(s viewer.Seen) { emit(event{Viewer: i, Seen: s}) },
			Trouble: func(err error) { emit(event{Viewer: i, Err: err.Error()}) },
		}
		wg.Go(func() { viewer.Watch(ctx, o) })
	}
	wg.Wait()
	return 0
}

// scrape asks again and again, one request at a time.
func (spec clientSpec) scrape(ctx context.Context, emit func(event)) {
	t := time.NewTicker(spec.Every)
	defer t.Stop()
	client := &http.Client{Timeout: 10 * time.Second}
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		err := get(ctx, client, spec.Scrape)
		if ctx.Err() != nil {
			return
		}
		var e event
		if err != nil {
			e.Err = err.Error()
		}
		emit(e)
	}
}

func get(ctx context.Context, c *http.Client, url string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	res, err := c.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return errors.New(res.Status)
	}
	_, err = io.Copy(io.Discard, res.Body)
	return err
}

// lines calls take with each event of a client's output.
type lines struct {
	take    func(event)
	partial []byte
}

// Write takes the client's output.
func (l *lines) Write(b []byte) (int, error) {
	l.partial = append(l.partial, b...)
	for {
		i := slices.Index(l.partial, '\n')
		if i < 0 {
			return len(b), nil
		}
		var e event
		if err := json.Unmarshal(l.partial[:i], &e); err != nil {
			return 0, fmt.Errorf("line of a client: %w", err)
		}
		l.take(e)
		l.partial = l.partial[i+1:]
	}
}
