package stage

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"

	"widecloud/internal/lab/script"
)

// Phase is a step of the building.
type Phase int

// The phases.
const (
	Prepare  Phase = iota // files that machines need: images, programs
	Machines              // machines, not joined yet
	Cables                // links and addresses
	Routing               // routers and translators
	Start                 // what runs on machines, and needs no way beyond its site's router
	Join                  // what needs the ways between sites, and all that runs
	phases
)

var phaseNames = [phases]string{"files", "machines", "cables", "routing and translators", "controllers, agents and servers", "what joins them"}

// after are the phases that each phase waits for: of all builders, since cables lead from the machines of one to those of
// another.
var after = [phases][]Phase{Machines: {Prepare}, Cables: {Machines}, Routing: {Cables}, Start: {Cables}, Join: {Routing, Start}}

// Builder is a part of what a script declares. It is what script.Shared has made.
type Builder interface {
	Build(ctx context.Context, s *Stage, phase Phase) error
}

// Build makes all that the script declares: each phase as soon as those are done that it waits for. How much starts at the
// same time is the lab's to bound, by this machine's cores.
func (s *Stage) Build(outer context.Context) error {
	var done [phases]chan struct{}
	for p := range done {
		done[p] = make(chan struct{})
	}
	builders := script.SharedAll[Builder](s.Script)
	g, ctx := errgroup.WithContext(outer)
	for phase := range phases {
		g.Go(func() error {
			for _, p := range after[phase] {
				select {
				case <-done[p]:
				case <-ctx.Done():
					return ctx.Err()
				}
			}
			if err := s.build(ctx, builders, phase); err != nil {
				return fmt.Errorf("build: %s: %w", phaseNames[phase], err)
			}
			close(done[phase])
			return nil
		})
	}
	err := g.Wait()
	if outer.Err() != nil {
		return errors.New("interrupted")
	}
	return err
}

// build is one phase of all builders.
func (s *Stage) build(ctx context.Context, builders []Builder, phase Phase) error {
	start := time.Now()
	g, ctx := errgroup.WithContext(ctx)
	for _, b := range builders {
		g.Go(func() error { return b.Build(ctx, s, phase) })
	}
	if err := g.Wait(); err != nil {
		return err
	}
	if took := time.Since(start); took > 10*time.Millisecond {
		s.Out.Under("%s (%.1f s)", phaseNames[phase], took.Seconds())
	}
	return nil
}
