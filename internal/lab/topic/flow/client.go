package flow

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"widecloud/internal/lab/stream"
)

// clientName is the argv[0] that turns this program into a client process inside
// a node. As for a node's first process, an init function sees to it.
const clientName = "widecloud-lab-client"

func init() {
	if len(os.Args) == 2 && os.Args[0] == clientName {
		os.Exit(clientMain(os.Args[1]))
	}
}

// clientSpec is what a client process is told, as JSON in its only argument.
type clientSpec struct {
	URL    string        `json:"url"` // http://ADDRESS
	Method string        `json:"method,omitempty"`
	Every  time.Duration `json:"every,omitempty"`  // requests at this distance
	Rate   int64         `json:"rate,omitempty"`   // download at so many bytes a second
	Lookup string        `json:"lookup,omitempty"` // only ask for the IPv6 addresses of this name
}

// clientEvent is one line of a client's output. Times are Unix nanoseconds.
type clientEvent struct {
	Start  int64  `json:"s,omitempty"` // of the request
	End    int64  `json:"e"`           // of the request; or when the bytes had come
	Bytes  int64  `json:"n,omitempty"` // that came since the last event
	Gap    int64  `json:"g,omitempty"` // longest time without a byte that ended since the last event, ns
	Wrong  int64  `json:"w,omitempty"` // bytes that were not what belongs at their place
	Lost   int64  `json:"l,omitempty"` // bytes that had been due when the connection broke
	Oldest int64  `json:"o,omitempty"` // start of the oldest request without an answer; End if there is none
	Err    string `json:"err,omitempty"`
}

// requestTimeout is when a request counts as lost.
const requestTimeout = 5 * time.Second

func clientMain(arg string) int {
	var spec clientSpec
	if err := json.Unmarshal([]byte(arg), &spec); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	c := &client{out: json.NewEncoder(os.Stdout), http: &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true, DisableCompression: true, DialContext: (&net.Dialer{Timeout: requestTimeout}).DialContext,
	}}}
	switch {
	case spec.Lookup != "":
		return lookup(ctx, spec.Lookup)
	case spec.Rate > 0:
		c.download(ctx, spec)
	case spec.Every > 0:
		c.requests(ctx, spec)
	default:
		return c.once(ctx, spec)
	}
	return 0
}

type client struct {
	http *http.Client
	mu   sync.Mutex
	out  *json.Encoder
	open map[int64]bool // starts of the requests without an answer
}

func (c *client) emit(e clientEvent) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e.Start != 0 {
		delete(c.open, e.Start)
		e.Oldest = e.End
		for s := range c.open {
			e.Oldest = min(e.Oldest, s)
		}
	}
	if c.out.Encode(e) != nil {
		os.Exit(1) // nobody listens any more
	}
}

// requests fetches the page again and again, each time by a new connection,
// without waiting for the one before.
func (c *client) requests(ctx context.Context, spec clientSpec) {
	c.open = map[int64]bool{}
	var work sync.WaitGroup
	defer work.Wait()
	tick := time.NewTicker(spec.Every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		start := time.Now().UnixNano()
		c.mu.Lock()
		full := len(c.open) >= 1000
		if !full {
			c.open[start] = true
		}
		c.mu.Unlock()
		if full {
			c.emit(clientEvent{Start: start, End: time.Now().UnixNano(), Err: "1000 requests without an answer already"})
			continue
		}
		work.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, requestTimeout)
			defer cancel()
			_, err := c.fetch(ctx, http.MethodGet, spec.URL)
			if ctx.Err() == context.Canceled {
				return // told to end
			}
			e := clientEvent{Start: start, End: time.Now().UnixNano()}
			if err != nil {
				e.Err = err.Error()
			}
			c.emit(e)
		})
	}
}

func (c *client) fetch(ctx context.Context, method, url string) (string, error) {
	r, err := http.NewRequestWithContext(ctx, method, url, nil)
	if err != nil {
		return "", err
	}
	resp, err := c.http.Do(r)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", resp.Status, b)
	}
	return string(b), err
}

// once makes one request and prints the answer.
func (c *client) once(ctx context.Context, spec clientSpec) int {
	text, err := c.fetch(ctx, spec.Method, spec.URL)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	fmt.Print(text)
	return 0
}

// lookup prints the IPv6 addresses of a name, as the resolver gives them.
func lookup(ctx context.Context, name string) int {
	l, err := net.DefaultResolver.LookupNetIP(ctx, "ip6", name)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	for _, a := range l {
		fmt.Println(a)
	}
	return 0
}

// download reads the guest's endless stream by one connection, and checks every
// byte by its place. A connection that breaks is a loss; the next one goes on
// where the last one ended.
func (c *client) download(ctx context.Context, spec clientSpec) {
	var offset int64
	for ctx.Err() == nil {
		start, from := time.Now(), offset
		err := c.stream(ctx, spec, &offset)
		if ctx.Err() != nil {
			return
		}
		now := time.Now()
		due := int64(now.Sub(start).Seconds() * float64(spec.Rate))
		c.emit(clientEvent{End: now.UnixNano(), Lost: max(due-(offset-from), 1), Err: err.Error()})
		select {
		case <-ctx.Done():
		case <-time.After(200 * time.Millisecond):
		}
		offset &^= 7
	}
}

// stallTimeout is when a silent connection counts as broken: longer than
// anything from which it should recover.
const stallTimeout = 60 * time.Second

func (c *client) stream(ctx context.Context, spec clientSpec, offset *int64) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stall := time.AfterFunc(stallTimeout, func() { cancel(fmt.Errorf("no byte for %v", stallTimeout)) })
	defer stall.Stop()
	url := fmt.Sprintf("%s/stream?rate=%d&seconds=86400&from=%d", spec.URL, spec.Rate, *offset)
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := c.http.Do(r)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return errors.New(resp.Status)
	}
	var (
		b       = make([]byte, 64<<10)
		e       clientEvent
		last    = time.Now()
		emitted = last
	)
	for {
		n, err := resp.Body.Read(b)
		now := time.Now()
		if n > 0 {
			stall.Reset(stallTimeout)
			e.Gap = max(e.Gap, now.Sub(last).Nanoseconds())
			last = now
			e.Wrong += stream.Wrong(*offset, b[:n])
			e.Bytes += int64(n)
			*offset += int64(n)
		}
		if now.Sub(emitted) > 20*time.Millisecond && n > 0 || err != nil {
			e.End = now.UnixNano()
			c.emit(e)
			e, emitted = clientEvent{}, now
		}
		if err != nil {
			if cause := context.Cause(ctx); cause != nil {
				err = cause
			}
			return err
		}
	}
}
