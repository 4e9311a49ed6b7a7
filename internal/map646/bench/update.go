package main

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"widecloud/internal/map646"
)

// Sizes of what updates does.
const (
	singles = 200
	batch   = 10_000
)

// changes are lines for the control socket, about n mappings from number first
// on; the inside addresses are moved by shift.
func changes(op string, first, n, shift int) string {
	var b strings.Builder
	for i := first; i < first+n; i++ {
		fmt.Fprintf(&b, "%s %v", op, offset(manyV4, i))
		if op != "remove" {
			fmt.Fprintf(&b, " %v", offset(manyV6, i+shift))
		}
		b.WriteByte('\n')
	}
	return b.String()
}

// updates measures changes of a table in force, as an operator makes them, over
// the control socket: of one mapping, of many at once, and what packets that are
// on their way feel of it. All is as it was afterwards.
func (r *run) updates(ctx context.Context, w *world, add func(name string, value float64, unit string)) error {
	n := w.spec.Table
	ask := func(lines string) (float64, error) {
		var c map646.Changed
		start := time.Now()
		err := map646.Ask(ctx, w.control, "change", strings.NewReader(lines), &c)
		return since(start), err
	}
	var one []float64
	for i := range singles {
		// There and back again.
		t, err := ask(changes("replace", (i/2*7919)%n, 1, (i+1)%2<<24))
		if err != nil {
			return fmt.Errorf("replace: %w", err)
		}
		one = append(one, t*1e6)
	}
	add("update", percentile(one, .5), "us")
	many := min(batch, n)
	grow, err := ask(changes("add", n, many, 0))
	if err != nil {
		return fmt.Errorf("add: %w", err)
	}
	shrink, err := ask(changes("remove", n, many, 0))
	if err != nil {
		return fmt.Errorf("remove: %w", err)
	}
	add("add_batch", grow*1e6/float64(many), "us/mapping")
	add("remove_batch", shrink*1e6/float64(many), "us/mapping")
	// Replace all that packets go to, while they go.
	done := make(chan error, 1)
	go func() {
		time.Sleep(100 * time.Millisecond)
		_, err := ask(changes("replace", 0, many, 1<<24))
		if err == nil {
			_, err = ask(changes("replace", 0, many, 0))
		}
		done <- err
	}()
	o := order{Op: "udp", To: netip.AddrPortFrom(w.spec.target(), portUDP), Size: payload, Rate: 5000, Burst: 1, Seconds: 1, Spread: many, First: manyV4}
	sent, got, err := trial(w.client, w.server, o)
	if updateErr := <-done; updateErr != nil {
		return fmt.Errorf("replace under traffic: %w", updateErr)
	}
	if err != nil {
		return err
	}
	add("update_packets", float64(sent), "count")
	add("update_lost", float64(sent)-float64(got), "count")
	return nil
}

// counters are a translator's packets, translated by each of its ways.
type counters struct{ Fast, Full float64 }

// counts asks a translator that has a fast path; it is an error if that is not as
// the world's path has it.
func (w *world) counts(ctx context.Context) (counters, error) {
	var c counters
	var s map646.Stats
	if err := map646.Control(ctx, w.control, "stats", &s); err != nil {
		return c, err
	}
	if s.Fast == nil || !s.Fast.On || len(s.Fast.Refused) > 0 {
		return c, fmt.Errorf("%s: the fast path is not on: %+v", w.spec.name(), s.Fast)
	}
	if s.Fast.Direct == w.spec.stack() {
		return c, fmt.Errorf("%s: sends on itself: %v, for %v", w.spec.name(), s.Fast.Direct, s.Fast.Hooks)
	}
	for _, outcome := range []string{"4to6", "6to4", "6to6"} {
		c.Fast += float64(s.Fast.Packets[outcome])
		c.Full += float64(s.Packets[outcome])
	}
	return c, nil
}

// begin has the packets of worlds with a fast path count from now on.
func (r *run) begin(ctx context.Context, specs []worldSpec) error {
	for _, s := range specs {
		if !s.fast() {
			continue
		}
		var err error
		if r.begun[s], err = r.worlds[s].counts(ctx); err != nil {
			return err
		}
	}
	return nil
}

// verify looks whether the packets of these worlds have taken the fast path.
func (r *run) verify(ctx context.Context, specs []worldSpec) error {
	for _, s := range specs {
		if !s.fast() {
			continue
		}
		c, err := r.worlds[s].counts(ctx)
		if err != nil {
			return err
		}
		fast, full := c.Fast-r.begun[s].Fast, c.Full-r.begun[s].Full
		if fast+full == 0 {
			continue // the table was measured, and nothing else
		}
		share := fast / (fast + full)
		if share < .99 {
			return fmt.Errorf("%s: only %.1f %% of the packets took the fast path", s.name(), 100*share)
		}
		if r.share == 0 || share < r.share {
			r.share = share
		}
	}
	return nil
}
