package lab

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// flow is a running traffic statement: a client process, and what it has counted
// since the last measure statement.
type flow struct {
	stmt *TrafficStmt
	cmd  *Cmd

	mu      sync.Mutex
	partial []byte
	stopped bool
	seen    flowCount
	last    int64 // when something last came, Unix ns
	oldest  int64 // everything that was asked before is answered or lost
	lastErr string
}

// flowCount is what a flow's window has seen.
type flowCount struct {
	Done  int64         // requests answered, or bytes received
	Lost  int64         // requests without an answer; bytes wrong or missing
	Gap   time.Duration // longest time in which nothing came
	Since time.Time
}

// startClient begins a client process on a node. It ends with the node, the
// context, or its output's reader.
func startClient(ctx context.Context, n *Node, spec clientSpec) *Cmd {
	arg, err := json.Marshal(spec)
	if err != nil {
		panic(err) // plain data
	}
	c := n.Command(ctx, "/proc/self/exe", string(arg))
	c.Args[0] = clientName
	return c
}

// startFlow begins the traffic to an address or name; it is counted from now on.
func startFlow(ctx context.Context, n *Node, t *TrafficStmt, to string) (*flow, error) {
	f := &flow{stmt: t, cmd: startClient(ctx, n, clientSpec{URL: urlOf(to), Every: t.Every, Rate: t.Rate})}
	f.reset()
	f.last = time.Now().UnixNano()
	f.cmd.Stdout = f
	if err := f.cmd.Start(); err != nil {
		return nil, err
	}
	return f, nil
}

// urlOf is that of the web server at an address or name.
func urlOf(host string) string {
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	return "http://" + host
}

// Write takes the client's output.
func (f *flow) Write(b []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.partial = append(f.partial, b...)
	for {
		i := bytes.IndexByte(f.partial, '\n')
		if i < 0 {
			return len(b), nil
		}
		var e clientEvent
		if err := json.Unmarshal(f.partial[:i], &e); err != nil {
			f.seen.Lost++
			f.lastErr = "bad line of the client: " + err.Error()
		} else {
			f.take(e)
		}
		f.partial = f.partial[i+1:]
	}
}

func (f *flow) take(e clientEvent) {
	if e.Err != "" {
		f.lastErr = strings.TrimSpace(e.Err)
	}
	if e.Start != 0 { // a request
		f.oldest = max(f.oldest, e.Oldest)
		if e.Err != "" {
			f.seen.Lost++
			return
		}
		f.seen.Done++
		f.came(e.End, time.Duration(e.End-f.last))
		return
	}
	f.oldest = e.End
	f.seen.Done += e.Bytes - e.Wrong
	f.seen.Lost += e.Wrong + e.Lost
	if e.Bytes > 0 {
		f.came(e.End, time.Duration(max(e.Gap, 0)))
	}
}

// came notes that something came, a gap after what came before. A gap that began
// before the window counts from the window's beginning.
func (f *flow) came(at int64, gap time.Duration) {
	gap = min(gap, time.Duration(at-f.seen.Since.UnixNano()))
	f.seen.Gap = max(f.seen.Gap, gap)
	f.last = max(f.last, at)
}

// reset begins a new window.
func (f *flow) reset() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.seen = flowCount{Since: time.Now()}
}

// count is what the window has seen so far; what is missing right now counts as
// a gap, too.
func (f *flow) count() flowCount {
	f.mu.Lock()
	defer f.mu.Unlock()
	c := f.seen
	if !f.stopped {
		since := max(f.last, c.Since.UnixNano())
		// What comes every now and then is not missed before its time.
		if quiet := time.Duration(time.Now().UnixNano() - since); quiet > max(2*f.stmt.Every, 250*time.Millisecond) {
			c.Gap = max(c.Gap, quiet)
		}
	}
	return c
}

// settle waits until everything asked for before now is answered or lost.
func (f *flow) settle(ctx context.Context) flowCount {
	asked := time.Now().UnixNano()
	deadline := time.After(requestTimeout + time.Second)
	for {
		f.mu.Lock()
		done := f.oldest >= asked || f.stopped
		f.mu.Unlock()
		if done {
			break
		}
		select {
		case <-ctx.Done():
		case <-deadline:
		case <-time.After(20 * time.Millisecond):
			continue
		}
		break
	}
	return f.count()
}

// alive waits until something new comes.
func (f *flow) alive(ctx context.Context) error {
	before := f.count().Done
	for {
		if f.count().Done > before {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("nothing came (last error: %s)", f.why())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func (f *flow) why() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.lastErr == "" {
		return "none"
	}
	return f.lastErr
}

// stop ends the client. Its counts stay.
func (f *flow) stop() {
	f.mu.Lock()
	was := f.stopped
	f.stopped = true
	f.mu.Unlock()
	if was || f.cmd.Process == nil {
		return
	}
	f.cmd.Process.Signal(syscall.SIGTERM)
	f.cmd.Wait()
}

// request makes one request from a node and returns the answer.
func request(ctx context.Context, n *Node, method, url string) (string, error) {
	out, err := startClient(ctx, n, clientSpec{URL: url, Method: method}).Output()
	return string(out), err
}

// flowing are the flows of a name, or all that have not been stopped.
func (r *runner) flowing(name string) map[string]*flow {
	if name != allTraffic {
		return map[string]*flow{name: r.flows[name]}
	}
	l := map[string]*flow{}
	for name, f := range r.flows {
		if !f.ended() {
			l[name] = f
		}
	}
	return l
}

func (f *flow) ended() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.stopped
}

// judgeTraffic judges what has become of one traffic, or of each.
func (r *runner) judgeTraffic(ctx context.Context, e *ExpectStmt) (string, error) {
	flows := r.flowing(e.Traffic)
	if len(flows) == 0 {
		return "", errors.New("no traffic runs")
	}
	var (
		errs  []error
		lines []string
		sum   flowCount
	)
	begun := time.Now()
	for _, name := range slices.Sorted(maps.Keys(flows)) {
		f := flows[name]
		line, c, err := f.judge(ctx, e)
		if err != nil && e.Traffic == allTraffic {
			err = fmt.Errorf("%s: %w", name, err)
		}
		errs, lines = append(errs, err), append(lines, line)
		sum.Lost += c.Lost
		sum.Gap = max(sum.Gap, c.Gap)
	}
	if err := errors.Join(errs...); err != nil {
		return "", errors.New(strings.ReplaceAll(err.Error(), "\n", "; "))
	}
	switch {
	case e.What == "alive":
		return fmt.Sprintf("after %.1f s", time.Since(begun).Seconds()), nil
	case len(lines) == 1:
		return lines[0], nil
	}
	return fmt.Sprintf("all %d: %d lost, longest gap %v", len(lines), sum.Lost, sum.Gap.Round(time.Millisecond)), nil
}

func (f *flow) judge(ctx context.Context, e *ExpectStmt) (string, flowCount, error) {
	if e.What == "alive" {
		ctx, cancel := context.WithTimeout(ctx, e.Within)
		defer cancel()
		return "", flowCount{}, f.alive(ctx)
	}
	c := f.settle(ctx)
	unit := "requests"
	if f.stmt.Rate > 0 {
		unit = "bytes"
	}
	gap := c.Gap.Round(time.Millisecond)
	switch {
	case c.Done == 0:
		return "", c, fmt.Errorf("nothing came at all (last error: %s)", f.why())
	case e.What == "gap" && c.Gap >= e.Under:
		return "", c, fmt.Errorf("longest gap %v", gap)
	case e.What == "gap":
		return fmt.Sprintf("longest gap %v", gap), c, nil
	case c.Lost > e.Limit:
		return "", c, fmt.Errorf("%d %s lost, %d came; longest gap %v; last error: %s", c.Lost, unit, c.Done, gap, f.why())
	}
	return fmt.Sprintf("%d lost, %d %s came; longest gap %v", c.Lost, c.Done, unit, gap), c, nil
}
