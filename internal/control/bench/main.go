package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
)

// plan is how large a run is.
type plan struct {
	Hosts    int
	VMs      int // that run
	Stopped  int // VMs beside them that do not run
	Watchers int
	Changes  int           // a second
	Reads    int           // a second
	Load     time.Duration // how long the load lasts
	Warm     time.Duration // of the load, before the figures begin
	Report   time.Duration // between an agent's reports
	Profile  string        // of the controller's CPU, of the load; empty: none

	Curve     []int         // numbers of hosts for the placement's curve
	CurveTime time.Duration // for each of them
}

// full is what the site must hold.
var full = plan{
	Hosts: 1000, VMs: 20_000, Stopped: 5000, Watchers: 5000, Changes: 100, Reads: 50,
	Load: 2 * time.Minute, Warm: 10 * time.Second, Report: 5 * time.Second,
	Curve: []int{10, 100, 1000, 10_000}, CurveTime: 2 * time.Second,
}

// quick is a look, not a figure: a minute in all.
var quick = plan{
	Hosts: 50, VMs: 1000, Stopped: 250, Watchers: 250, Changes: 20, Reads: 10,
	Load: 20 * time.Second, Warm: 3 * time.Second, Report: 5 * time.Second,
	Curve: []int{10, 100, 1000, 10_000}, CurveTime: 2 * time.Second,
}

func main() {
	if err := realMain(); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func realMain() error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	var c controllerOptions
	p := full
	web := flag.Bool("page", false, "measure the web page of a large site in Chromium, instead of the controller")
	small := flag.Bool("quick", false, "a small site and a short load: a look, not a figure")
	role := flag.String("role", "", "what this process does in a benchmark that runs already: controller")
	flag.StringVar(&c.Dir, "dir", "", "for -role: the controller's directory")
	flag.StringVar(&c.API, "api", "", "for -role: HOST:PORT of its API")
	flag.StringVar(&c.Outside, "outside", "", "for -role: HOST:PORT of its outside port")
	flag.IntVar(&p.Hosts, "hosts", p.Hosts, "hosts, each with an agent")
	flag.IntVar(&p.VMs, "vms", p.VMs, "VMs that run")
	flag.IntVar(&p.Stopped, "stopped", p.Stopped, "VMs beside them that are stopped")
	flag.IntVar(&p.Watchers, "watchers", p.Watchers, "watches over HTTP")
	flag.IntVar(&p.Changes, "changes", p.Changes, "requests a second that change something")
	flag.IntVar(&p.Reads, "reads", p.Reads, "requests a second that read")
	flag.DurationVar(&p.Load, "load", p.Load, "how long the load lasts")
	flag.DurationVar(&p.Warm, "warm", p.Warm, "of the load, before the figures begin")
	flag.StringVar(&p.Profile, "cpuprofile", "", "write the controller's CPU profile of the load here")
	flag.Parse()
	if *role == "controller" {
		return runController(ctx, c)
	}
	switch {
	case *web && *small:
		p = merged(p, quickPage)
	case *web:
		p = merged(p, largePage)
	case *small:
		p = merged(p, quick)
	}
	if err := p.check(); err != nil {
		return err
	}
	phases := (*run).phases
	if *web {
		phases = (*run).pagePhases
	}
	r, err := measure(ctx, p, phases)
	fmt.Print(r.lines())
	return err
}

// merged is another plan with what was set on the command line.
func merged(set, other plan) plan {
	flag.Visit(func(f *flag.Flag) {
		switch f.Name {
		case "hosts":
			other.Hosts = set.Hosts
		case "vms":
			other.VMs = set.VMs
		case "stopped":
			other.Stopped = set.Stopped
		case "watchers":
			other.Watchers = set.Watchers
		case "changes":
			other.Changes = set.Changes
		case "reads":
			other.Reads = set.Reads
		case "load":
			other.Load = set.Load
		case "warm":
			other.Warm = set.Warm
		case "cpuprofile":
			other.Profile = set.Profile
		}
	})
	return other
}

// check refuses what cannot be measured.
func (p plan) check() error {
	switch {
	case p.Hosts < 1 || p.Hosts > 65_000:
		return fmt.Errorf("-hosts: %d is not between 1 and 65000", p.Hosts)
	case p.VMs < 2*p.owners():
		return fmt.Errorf("-vms: %d are too few: each of the %d organisations has two or more", p.VMs, p.owners())
	case p.Watchers < 1:
		return fmt.Errorf("-watchers: %d is not 1 or more", p.Watchers)
	case p.Changes < 2:
		return fmt.Errorf("-changes: %d is not 2 or more", p.Changes)
	case p.Load <= p.Warm:
		return fmt.Errorf("-load: %v is not longer than -warm (%v)", p.Load, p.Warm)
	}
	return nil
}

// vmsOfOwner is how many VMs an organisation has, about.
const vmsOfOwner = 20

// owners is how many organisations there are. The first one is the watchers'.
func (p plan) owners() int { return max(2, p.VMs/vmsOfOwner) }

// run is a benchmark under way.
type run struct {
	plan  plan
	site  *site
	ctl   *controller
	crowd *crowd
	fleet *fleet
	began time.Time
	*report
}

// step says on the standard error how far it is.
func (r *run) step(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "%6.1fs  %s\n", time.Since(r.began).Seconds(), fmt.Sprintf(format, args...))
}

// measure does a whole run of some phases. The report has what was measured until an error.
func measure(ctx context.Context, p plan, phases func(*run, context.Context) error) (_ *report, err error) {
	r := &run{plan: p, began: time.Now(), report: &report{}}
	dir, err := os.MkdirTemp("", "controller-bench-")
	if err != nil {
		return r.report, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	r.step("making a site of %d hosts and %d VMs", p.Hosts, p.VMs+p.Stopped)
	if r.site, err = newSite(filepath.Join(dir, "site"), p); err != nil {
		return r.report, err
	}
	r.ctl = &controller{site: r.site}
	defer func() { r.ctl.kill() }()
	return r.report, phases(r, ctx)
}

// phases are what is done to measure a controller.
func (r *run) phases(ctx context.Context) error {
	r.step("placement")
	if err := r.placement(ctx); err != nil {
		return err
	}
	return r.do(ctx, r.agents, r.watchers, r.load, r.lists, r.restart)
}

// pagePhases are what is done to measure the web page.
func (r *run) pagePhases(ctx context.Context) error { return r.do(ctx, r.agents, r.page) }

// do starts the controller and does some phases, one after the other.
func (r *run) do(ctx context.Context, phases ...func(context.Context, *errgroup.Group) error) error {
	took, err := r.ctl.start(ctx)
	if err != nil {
		return err
	}
	r.step("the controller serves after %v", took)
	r.add("start.seconds", took.Seconds(), "s")
	ctx, cancel := context.WithCancel(ctx)
	group, ctx := errgroup.WithContext(ctx)
	defer group.Wait()
	defer cancel()
	for _, phase := range phases {
		if err := phase(ctx, group); err != nil {
			return err
		}
	}
	return nil
}

// agents starts the agents and waits until the controller has heard of all.
func (r *run) agents(ctx context.Context, group *errgroup.Group) error {
	began := time.Now()
	r.fleet = newFleet(r.site, r.plan)
	group.Go(func() error { return r.fleet.run(ctx) })
	if err := r.await(ctx, "agents", time.Time{}, r.fleet.up); err != nil {
		return err
	}
	r.add("controller.hosts", float64(r.plan.Hosts), "count")
	r.add("controller.vms", float64(r.plan.VMs), "count")
	r.add("start.agents_seconds", time.Since(began).Seconds(), "s")
	r.step("all agents are there")
	return nil
}

// watchers starts the watchers and waits until all watch.
func (r *run) watchers(ctx context.Context, group *errgroup.Group) error {
	began := time.Now()
	r.crowd = newCrowd(r.site, r.plan.Watchers)
	group.Go(func() error { return r.crowd.run(ctx) })
	if err := r.await(ctx, "watchers", time.Time{}, r.crowd.up); err != nil {
		return err
	}
	r.add("controller.watchers", float64(r.plan.Watchers), "count")
	r.add("start.watchers_seconds", time.Since(began).Seconds(), "s")
	r.step("all watchers watch")
	return nil
}

// patience is how long agents or watchers may take to come, before the run is given up.
const patience = 5 * time.Minute

// await waits until all of something have come since a time, and says how far it is.
func (r *run) await(ctx context.Context, what string, since time.Time, count func(time.Time) (have, all int)) error {
	said, gaveUp := time.Now(), time.Now().Add(patience)
	for {
		have, all := count(since)
		if have == all {
			return nil
		}
		if time.Now().After(gaveUp) {
			return fmt.Errorf("%d of %d %s have come within %v", have, all, what, patience)
		}
		if time.Since(said) > 5*time.Second {
			said = time.Now()
			r.step("%d of %d %s are there", have, all, what)
		}
		if err := pause(ctx, 20*time.Millisecond); err != nil {
			return err
		}
	}
}

// restart kills the controller and starts it again, with agents and watchers that all come back at once.
func (r *run) restart(ctx context.Context, _ *errgroup.Group) error {
	r.step("kill -9")
	r.fleet.expectLoss()
	r.ctl.kill()
	began := time.Now()
	took, err := r.ctl.start(ctx)
	if err != nil {
		return err
	}
	r.add("restart.seconds", took.Seconds(), "s")
	if err := r.await(ctx, "agents", began, r.fleet.up); err != nil {
		return err
	}
	r.add("restart.agents_seconds", time.Since(began).Seconds(), "s")
	if err := r.await(ctx, "watchers", began, r.crowd.up); err != nil {
		return err
	}
	r.add("restart.watchers_seconds", time.Since(began).Seconds(), "s")
	r.step("all are back")
	r.add("machine.cpus", float64(runtime.NumCPU()), "count")
	return nil
}

// pause waits, or ends with the context.
func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
