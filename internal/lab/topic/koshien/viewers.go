package koshien

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"syscall"
	"time"

	"widecloud/internal/lab/machine"
	"widecloud/internal/lab/script"
	"widecloud/internal/lab/stage"
	"widecloud/internal/lab/topic/vm"
)

// Viewers are some viewers at one place.
type Viewers struct {
	Name string
	N    int
	From stage.Client
	To   []*vm.VM

	cmd *machine.Cmd

	mu      sync.Mutex
	counts  []Count
	lastErr string
}

func parseViewers(p *script.Parser) any {
	v := &Viewers{Name: p.NewName("viewers")}
	v.N = p.Number("number of viewers", 1, 1000)
	v.From = stage.From(p)
	p.OneOf("->")
	v.To = parseVMs(p, v.From, "")
	p.Declare(v.Name, v)
	return v
}

// beginTime is how long it may take until each viewer has a still: VMs that have just got power boot, and sentryc with them.
const beginTime = 60 * time.Second

// Do implements stage.Doer. It returns when each viewer sees the picture; from then on it counts.
func (v *Viewers) Do(ctx context.Context, s *stage.Stage) (err error) {
	spec := clientSpec{Viewers: v.N}
	for _, to := range v.To {
		spec.Servers = append(spec.Servers, "http://"+hostPort(to, v.From, webPort))
	}
	v.counts = make([]Count, v.N)
	if v.cmd, err = spec.start(ctx, v.From.ClientNode(), &lines{take: v.take}); err != nil {
		return err
	}
	s.AtEnd(func() {
		_ = v.cmd.Process.Signal(syscall.SIGTERM)
		_ = v.cmd.Wait()
	})
	if err := v.settle(ctx, beginTime); err != nil {
		return fmt.Errorf("the viewers see nothing: %w", err)
	}
	v.reset()
	return nil
}

// take counts what a viewer tells.
func (v *Viewers) take(e event) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if e.Err != "" {
		v.lastErr = e.Err
		return
	}
	v.counts[e.Viewer].See(e.Seen)
}

func (v *Viewers) reset() {
	v.mu.Lock()
	defer v.mu.Unlock()
	for i := range v.counts {
		v.counts[i].Reset(time.Now())
	}
}

// settle waits until each viewer has a still that was taken after now: what was taken before has come then, or is lost.
func (v *Viewers) settle(ctx context.Context, within time.Duration) error {
	now := time.Now()
	return stage.Until(ctx, within, func(context.Context) error {
		v.mu.Lock()
		defer v.mu.Unlock()
		waiting := 0
		for _, c := range v.counts {
			if !c.last.Taken.After(now) {
				waiting++
			}
		}
		if waiting > 0 {
			return fmt.Errorf("%d of %d viewers have no new still; last error: %s", waiting, v.N, v.lastErr)
		}
		return nil
	})
}

// now is what has been counted so far.
func (v *Viewers) now(at time.Time) (l []Count) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, c := range v.counts {
		l = append(l, c.At(at))
	}
	return l
}

// group are one or all of a script's viewers.
type group []*Viewers

func parseGroup(p *script.Parser) group {
	if all := script.Earlier[*Viewers](p); len(all) > 0 && p.Is("all") {
		return all
	}
	return group{script.Ref[*Viewers](p, "viewers")}
}

// settleTime is how long a still may take to get to a viewer; a freeze of that length is one.
const settleTime = 15 * time.Second

// sum is what the group has counted, when all that was taken before now has come or is lost. Viewers that get nothing
// any more are an error.
func (g group) sum(ctx context.Context) (Sum, error) {
	var (
		wg   sync.WaitGroup
		errs = make([]error, len(g))
	)
	for i, v := range g {
		wg.Go(func() { errs[i] = v.settle(ctx, settleTime) })
	}
	wg.Wait()
	now := time.Now()
	return sum(g.now(now), now), errors.Join(errs...)
}

func (g group) now(at time.Time) (all []Count) {
	for _, v := range g {
		all = append(all, v.now(at)...)
	}
	return all
}

// judge is a check of the group's sum.
func (g group) judge(ctx context.Context, wrong func(Sum) bool) (string, error) {
	s, err := g.sum(ctx)
	if err == nil && wrong(s) {
		err = errors.New(s.String())
	}
	return s.String(), err
}

// Freeze expects that no viewer was without a new still for so long.
type Freeze struct {
	group
	Under time.Duration
}

// Judge implements stage.Judge.
func (f *Freeze) Judge(ctx context.Context, _ *stage.Stage) (string, error) {
	return f.judge(ctx, func(s Sum) bool { return s.Freeze >= f.Under })
}

// Missed expects that no viewer has missed more stills.
type Missed struct {
	group
	Limit int
}

// Judge implements stage.Judge.
func (m *Missed) Judge(ctx context.Context, _ *stage.Stage) (string, error) {
	return m.judge(ctx, func(s Sum) bool { return s.Missed > m.Limit })
}

// Measure begins new windows.
type Measure struct {
	groups []group
	shares *shares
}

func parseMeasure(p *script.Parser) any {
	m := &Measure{groups: []group{parseGroup(p)}, shares: sharesOf(p)}
	for p.More() {
		m.groups = append(m.groups, parseGroup(p))
	}
	return m
}

// Do implements stage.Doer.
func (m *Measure) Do(ctx context.Context, s *stage.Stage) error {
	for _, g := range m.groups {
		for _, v := range g {
			v.reset()
		}
	}
	return m.shares.reset(ctx, s)
}

// Figure is one of what viewers have counted.
type Figure struct {
	Name, What string
	group
}

func parseFigure(p *script.Parser) any {
	f := &Figure{Name: stage.NewFigure(p)}
	p.OneOf("viewers")
	f.group = parseGroup(p)
	f.What = p.OneOf("lost", "late", "freeze", "delay", "bytes")
	return f
}

// Do implements stage.Doer. It waits for nothing: a check before it has done so.
func (f *Figure) Do(_ context.Context, s *stage.Stage) error {
	now := time.Now()
	c := sum(f.now(now), now)
	ms := func(d time.Duration) float64 { return float64(d) / 1e6 }
	value, unit := float64(c.Lost), "stills"
	switch f.What {
	case "late":
		value = float64(c.Late)
	case "freeze":
		value, unit = ms(c.Freeze), "ms"
	case "delay":
		value, unit = ms(c.Delay), "ms"
	case "bytes":
		value, unit = c.Rate, "bytes/s"
	}
	out := stage.Figure{Name: f.Name, Value: value, Unit: unit}
	s.Figure(out)
	s.Out.Under("%s", out)
	return nil
}
