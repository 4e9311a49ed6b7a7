package flow_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"widecloud/internal/lab/machine"
	"widecloud/internal/lab/topic/flow"
)

// TestTrafficCounts: the clients notice what is lost, wrong and late. The server
// is ours, and spoils what it sends on demand.
func TestTrafficCounts(t *testing.T) {
	l := open(t)
	a := node(t, l, machine.NodeOptions{Name: "a"})
	b := node(t, l, machine.NodeOptions{Name: "b"})
	must(t, l.Link(machine.End{Node: a, Device: "eth0", Addrs: prefix("192.0.2.1/24")}, machine.End{Node: b, Device: "eth0", Addrs: prefix("192.0.2.2/24")}))
	var refuse, spoil, hold, broken atomic.Bool
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) {
		if refuse.Load() {
			http.Error(w, "no", http.StatusTeapot)
		}
		fmt.Fprintln(w, "page")
	})
	mux.HandleFunc("GET /stream", func(w http.ResponseWriter, r *http.Request) {
		rate, _ := strconv.ParseInt(r.FormValue("rate"), 10, 64)
		at, _ := strconv.ParseInt(r.FormValue("from"), 10, 64)
		for r.Context().Err() == nil {
			if broken.CompareAndSwap(true, false) {
				panic(http.ErrAbortHandler)
			}
			if hold.Load() {
				time.Sleep(10 * time.Millisecond)
				continue
			}
			var word [8]byte
			for range rate / 8 / 100 {
				binary.BigEndian.PutUint64(word[:], uint64(at))
				if spoil.CompareAndSwap(true, false) {
					word[7] ^= 1
				}
				at += 8
				w.Write(word[:])
			}
			http.NewResponseController(w).Flush()
			time.Sleep(10 * time.Millisecond)
		}
	})
	var ln net.Listener
	must(t, b.Do(func() (err error) { ln, err = net.Listen("tcp", "192.0.2.2:80"); return err }))
	srv := &http.Server{Handler: mux}
	go srv.Serve(ln)
	t.Cleanup(func() { srv.Close() })

	const to = "192.0.2.2"
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	pages, err := flow.StartFlow(ctx, a, &flow.Traffic{Every: 10 * time.Millisecond}, to)
	must(t, err)
	stream, err := flow.StartFlow(ctx, a, &flow.Traffic{Rate: 100_000}, to)
	must(t, err)
	defer pages.Stop()
	defer stream.Stop()
	must(t, pages.Alive(ctx), stream.Alive(ctx))
	for name, f := range map[string]*flow.Flow{"pages": pages, "stream": stream} {
		if c := f.Settle(ctx); c.Lost != 0 || c.Done == 0 {
			t.Errorf("%s: %+v", name, c)
		}
	}
	spoil.Store(true)
	refuse.Store(true)
	eventually(t, "a wrong byte is counted", func() bool { return stream.Settle(ctx).Lost == 1 })
	eventually(t, "lost requests are counted", func() bool { return pages.Settle(ctx).Lost >= 3 })
	refuse.Store(false)
	must(t, pages.Alive(ctx))
	pages.Reset()
	stream.Reset()
	hold.Store(true)
	eventually(t, "a gap that lasts is seen", func() bool { return stream.Count().Gap > 500*time.Millisecond })
	hold.Store(false)
	must(t, stream.Alive(ctx))
	if c := stream.Settle(ctx); c.Lost != 0 || c.Gap < 500*time.Millisecond {
		t.Errorf("after a gap: %+v", c)
	}
	broken.Store(true)
	eventually(t, "a broken connection is a loss", func() bool { return stream.Settle(ctx).Lost > 0 })
	must(t, stream.Alive(ctx))
	if c := pages.Settle(ctx); c.Lost != 0 {
		t.Errorf("the window did not begin anew: %+v", c)
	}
	out, err := flow.Request(ctx, a, "GET", "http://192.0.2.2/")
	if err != nil || out != "page\n" {
		t.Errorf("request: %q, %v", out, err)
	}
}
