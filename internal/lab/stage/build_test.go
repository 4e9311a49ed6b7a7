package stage_test

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"widecloud/internal/lab/script"
	"widecloud/internal/lab/stage"
)

// works is a builder whose phases take some time, of the bubble, or fail.
type works struct {
	takes  map[stage.Phase]time.Duration
	fails  map[stage.Phase]error
	begun  time.Time
	starts map[stage.Phase]time.Duration // when each began
	ends   chan func()
}

func (w *works) Build(ctx context.Context, _ *stage.Stage, phase stage.Phase) error {
	at := time.Since(w.begun)
	w.ends <- func() { w.starts[phase] = at }
	select {
	case <-time.After(w.takes[phase]):
	case <-ctx.Done():
		return ctx.Err()
	}
	return w.fails[phase]
}

// build builds a script with one builder, and gives when its phases began.
func build(t *testing.T, w *works) (map[stage.Phase]time.Duration, error) {
	t.Helper()
	language := script.NewRegistry(script.Topic{Title: "Works", Statements: []script.Entry{{
		Form: "works", Doc: "works", Part: script.Declares, Builds: true,
		Parse: func(p *script.Parser) any { script.Shared(p, func() *works { return w }); return nil },
	}}})
	s, err := language.Parse("x", "works\n")
	if err != nil {
		t.Fatal(err)
	}
	w.begun, w.starts, w.ends = time.Now(), map[stage.Phase]time.Duration{}, make(chan func(), 10)
	err = stage.New(stage.Options{Script: s, Out: stage.NewConsole(io.Discard, false)}).Build(t.Context())
	close(w.ends)
	for note := range w.ends {
		note()
	}
	return w.starts, err
}

// TestBuildOrder: each phase begins when those are done that it waits for, and no later.
func TestBuildOrder(t *testing.T) {
	const s = time.Second
	for name, c := range map[string]struct {
		takes map[stage.Phase]time.Duration
		want  map[stage.Phase]time.Duration
	}{
		"routing is slow": {
			map[stage.Phase]time.Duration{stage.Prepare: s, stage.Machines: s, stage.Cables: s, stage.Routing: 5 * s, stage.Start: 2 * s, stage.Join: s},
			map[stage.Phase]time.Duration{stage.Prepare: 0, stage.Machines: s, stage.Cables: 2 * s, stage.Routing: 3 * s, stage.Start: 3 * s, stage.Join: 8 * s},
		},
		"processes are slow": {
			map[stage.Phase]time.Duration{stage.Cables: s, stage.Routing: s, stage.Start: 4 * s},
			map[stage.Phase]time.Duration{stage.Prepare: 0, stage.Machines: 0, stage.Cables: 0, stage.Routing: s, stage.Start: s, stage.Join: 5 * s},
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				got, err := build(t, &works{takes: c.takes})
				if err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(c.want, got); diff != "" {
					t.Errorf("-want +got\n%s", diff)
				}
			})
		})
	}
}

// TestBuildFails: a phase that fails ends what runs beside it, and nothing begins after it.
func TestBuildFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cause := errors.New("no such router")
		begun := time.Now()
		got, err := build(t, &works{
			takes: map[stage.Phase]time.Duration{stage.Routing: time.Second, stage.Start: time.Hour},
			fails: map[stage.Phase]error{stage.Routing: cause},
		})
		if !errors.Is(err, cause) || !strings.Contains(err.Error(), "routing and translators") {
			t.Errorf("error %v", err)
		}
		if _, joined := got[stage.Join]; joined || time.Since(begun) != time.Second {
			t.Errorf("after %v: %v", time.Since(begun), got)
		}
	})
}
