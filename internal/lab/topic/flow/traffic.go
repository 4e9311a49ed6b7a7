package flow

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"syscall"
	"time"

	"widecloud/internal/lab/machine"
	"widecloud/internal/lab/stage"
)

// Flow is a running traffic statement: a client process, and what it has counted
// since the last measure statement.
type Flow struct {
	spec *Traffic
	cmd  *machine.Cmd

	mu      sync.Mutex
	partial []byte
	stopped bool
	seen    Count
	last    int64 // when something last came, Unix ns
	oldest  int64 // everything that was asked before is answered or lost
	lastErr string
}

// Count is what a flow's window has seen.
type Count struct {
	Done  int64         // requests answered, or bytes received
	Lost  int64         // requests without an answer; bytes wrong or missing
	Gap   time.Duration // longest time in which nothing came
	Since time.Time
}

// startClient begins a client process on a node. It ends with the node, the
// context, or its output's reader.
func startClient(ctx context.Context, n *machine.Node, spec clientSpec) *machine.Cmd {
	arg, err := json.Marshal(spec)
	if err != nil {
		panic(err) // plain data
	}
	c := n.Command(ctx, "/proc/self/exe", string(arg))
	c.Args[0] = clientName
	return c
}

// StartFlow begins the traffic from a machine to an address or name; it is counted
// from now on.
func StartFlow(ctx context.Context, n *machine.Node, t *Traffic, to string) (*Flow, error) {
	f := &Flow{spec: t, cmd: startClient(ctx, n, clientSpec{URL: stage.URL(to), Every: t.Every, Rate: t.Rate})}
	f.Reset()
	f.last = time.Now().UnixNano()
	f.cmd.Stdout = f
	if err := f.cmd.Start(); err != nil {
		return nil, err
	}
	return f, nil
}

// Write takes the client's output.
func (f *Flow) Write(b []byte) (int, error) {
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

func (f *Flow) take(e clientEvent) {
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
func (f *Flow) came(at int64, gap time.Duration) {
	gap = min(gap, time.Duration(at-f.seen.Since.UnixNano()))
	f.seen.Gap = max(f.seen.Gap, gap)
	f.last = max(f.last, at)
}

// Reset begins a new window.
func (f *Flow) Reset() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.seen = Count{Since: time.Now()}
}

// Count is what the window has seen so far; what is missing right now counts as
// a gap, too.
func (f *Flow) Count() Count {
	f.mu.Lock()
	defer f.mu.Unlock()
	c := f.seen
	if !f.stopped {
		since := max(f.last, c.Since.UnixNano())
		// What comes every now and then is not missed before its time.
		if quiet := time.Duration(time.Now().UnixNano() - since); quiet > max(2*f.spec.Every, 250*time.Millisecond) {
			c.Gap = max(c.Gap, quiet)
		}
	}
	return c
}

// Settle waits until everything asked for before now is answered or lost.
func (f *Flow) Settle(ctx context.Context) Count {
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
	return f.Count()
}

// Alive waits until something new comes.
func (f *Flow) Alive(ctx context.Context) error {
	before := f.Count().Done
	for {
		if f.Count().Done > before {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("nothing came (last error: %s)", f.why())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func (f *Flow) why() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.lastErr == "" {
		return "none"
	}
	return f.lastErr
}

// Stop ends the client. Its counts stay.
func (f *Flow) Stop() {
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

// Request makes one request from a machine and returns the answer.
func Request(ctx context.Context, n *machine.Node, method, url string) (string, error) {
	out, err := startClient(ctx, n, clientSpec{URL: url, Method: method}).Output()
	return string(out), err
}

// Resolve asks a machine's resolver for the IPv6 addresses of a name.
func Resolve(ctx context.Context, n *machine.Node, name string) (string, error) {
	out, err := startClient(ctx, n, clientSpec{Lookup: name}).Output()
	return strings.Join(strings.Fields(string(out)), ", "), err
}

func (f *Flow) ended() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.stopped
}
