package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

func main() {
	if err := realMain(); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func realMain() (err error) {
	var (
		p      plan
		paths  = flag.String("paths", "all", "paths, separated by commas: "+strings.Join(allPaths, ", ")+"; "+base+" is always among them")
		loads  = flag.String("loads", "all", "loads, separated by commas: "+strings.Join(allLoads, ", "))
		quick  = flag.Bool("quick", false, "two short rounds and a table of 10,000: a look, not a figure")
		write  = flag.String("write", "", "write map646-bench.md and map646-bench.svg into this directory, and the short form into the map646.md there")
		binary = flag.String("map646", "", "map646 to measure (default: built from this module)")
		role   = flag.String("role", "", "what this process does in a benchmark that runs already: end, web, tun")
		cpu    = flag.Int("cpu", -1, "for -role: the CPU to stay on")
	)
	flag.IntVar(&p.Rounds, "rounds", 10, "rounds")
	flag.Float64Var(&p.Seconds, "seconds", .5, "length of a sample, in seconds")
	flag.Float64Var(&p.Stream, "stream", 3, "TCP streams' time on each path in a round, in seconds")
	flag.Float64Var(&p.Turn, "turn", .1, "how long they last on a path before it is another one's turn, in seconds; longer ones hold less of the streams' start")
	flag.IntVar(&p.Mappings, "mappings", many, "mappings of the full table")
	flag.IntVar(&p.Rate, "rate", 10_000, "small packets a second")
	flag.IntVar(&p.Burst, "burst", 4, "small packets sent at a time (udp64)")
	flag.IntVar(&p.Pings, "pings", 2000, "round trips on each path in a round")
	flag.IntVar(&p.Queues, "queues", 0, "queues of map646's device (0: its own choice)")
	flag.Parse()
	switch *role {
	case "end":
		return runEnd(*cpu)
	case "web":
		return runWeb(*cpu)
	case "tun":
		return runTUN(p.Queues)
	}
	set := map[string]bool{}
	flag.Visit(func(f *flag.Flag) { set[f.Name] = true })
	if *quick {
		for name, do := range map[string]func(){
			"rounds": func() { p.Rounds = 2 }, "seconds": func() { p.Seconds = .3 }, "stream": func() { p.Stream = .3 }, "mappings": func() { p.Mappings = 10_000 }, "pings": func() { p.Pings = 300 },
		} {
			if !set[name] {
				do()
			}
		}
	}
	if p.Paths, err = choose("paths", *paths, allPaths); err != nil {
		return err
	}
	if !slices.Contains(p.Paths, base) {
		p.Paths = append([]string{base}, p.Paths...)
	}
	if p.Loads, err = choose("loads", *loads, allLoads); err != nil {
		return err
	}
	if err := p.check(); err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	r := &run{plan: p, book: newBook(), worlds: map[worldSpec]*world{}, begun: map[worldSpec]counters{}, name: fmt.Sprintf("m6b%d", os.Getpid())}
	defer func() { err = errors.Join(err, r.close()) }()
	if err := r.do(ctx, *binary); err != nil {
		return err
	}
	rep := r.report()
	fmt.Print(rep.lines())
	for _, v := range rep.verdicts() {
		fmt.Fprintf(os.Stderr, "%-10s %s %s: %s\n", strings.Trim(v[3], "*"), strings.Trim(v[0], "`"), v[1], v[2])
	}
	if *write == "" {
		return nil
	}
	return rep.write(*write)
}

// write writes the page and the picture into a directory, and the brief into the
// translator's own page if that is there.
func (r *report) write(dir string) error {
	err := errors.Join(
		os.WriteFile(filepath.Join(dir, "map646-bench.md"), []byte(r.markdown()), 0o644),
		os.WriteFile(filepath.Join(dir, "map646-bench.svg"), []byte(r.picture()), 0o644))
	page := filepath.Join(dir, "map646.md")
	text, readErr := os.ReadFile(page)
	if errors.Is(readErr, os.ErrNotExist) {
		return err
	}
	if readErr != nil {
		return errors.Join(err, readErr)
	}
	changed, markErr := r.inserted(string(text))
	if markErr != nil {
		return errors.Join(err, fmt.Errorf("%s: %w", page, markErr))
	}
	return errors.Join(err, os.WriteFile(page, []byte(changed), 0o644))
}

// run is a benchmark under way.
type run struct {
	plan   plan
	book   *book
	worlds map[worldSpec]*world
	name   string
	dir    string

	group, ksoftirqd, machine float64 // seconds of CPU in all samples
	generator                 bool    // a zero-loss rate was the generator's own limit
	began                     time.Time
	took                      time.Duration
	repeated                  int // samples that lost packets
	begun                     map[worldSpec]counters
	share                     float64 // the least share of packets that took the fast path; 0: there is none
	figures                   []figure
}

// slowRounds is for how many rounds a world that is not made quickly lives; others live
// for one. Where its processes and the kernel's things happen to lie makes a world some
// per cent cheaper or dearer for as long as it lives.
const slowRounds = 3

// step says on the standard error how far it is.
func (r *run) step(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "%6.1fs  %s\n", time.Since(r.began).Seconds(), fmt.Sprintf(format, args...))
}

func (r *run) do(ctx context.Context, binary string) (err error) {
	r.began = time.Now()
	if r.dir, err = os.MkdirTemp("", "map646-bench-"); err != nil {
		return err
	}
	specs := r.plan.worlds()
	if binary == "" && slices.ContainsFunc(specs, func(s worldSpec) bool { return s.fast() || strings.HasPrefix(s.Path, "full") }) {
		r.step("building map646")
		binary = filepath.Join(r.dir, "map646")
		if out, err := exec.CommandContext(ctx, "go", "build", "-o", binary, "widecloud/cmd/map646").CombinedOutput(); err != nil {
			return fmt.Errorf("build map646: %w\n%s", err, out)
		}
	}
	r.step("making %d worlds", len(specs))
	if err := r.open(ctx, specs, binary); err != nil {
		return err
	}
	if r.plan.wants("table") {
		if err := r.tables(ctx); err != nil {
			return err
		}
	}
	if err := r.begin(ctx, specs); err != nil {
		return err
	}
	quick := slices.DeleteFunc(slices.Clone(specs), func(s worldSpec) bool { return s.slow() })
	groups := r.plan.jobs()
	for round := range r.plan.Rounds {
		if anew := quick; round > 0 {
			if round%slowRounds == 0 {
				anew = specs
			}
			r.step("round %d: making %d worlds anew", round+1, len(anew))
			if err := r.renew(ctx, anew, binary); err != nil {
				return err
			}
		}
		for _, group := range groups {
			r.step("round %d: %s", round+1, group[0].Load)
			if err := r.samples(ctx, group, round); err != nil {
				return err
			}
		}
	}
	r.took = time.Since(r.began)
	return r.verify(ctx, specs)
}

// report sums up.
func (r *run) report() *report {
	extra := slices.Clone(r.figures)
	add := func(name string, value float64, unit string) { extra = append(extra, figure{name, value, unit}) }
	if r.group > 0 {
		// How much of the cost ksoftirqd bore, and what else went on in the machine, which
		// is why the machine's own figures are of no use.
		add("cost.ksoftirqd_share", r.ksoftirqd/(r.group+r.ksoftirqd), "share")
		add("machine.outside_share", (r.machine-r.group-r.ksoftirqd)/r.machine, "share")
	}
	if r.plan.wants("zero_loss") {
		limited := 0.0
		if r.generator {
			limited = 1
		}
		add("zero_loss.generator_was_limit", limited, "bool")
	}
	if r.share > 0 {
		add("fast.share", r.share, "share")
	}
	add("run.samples_repeated", float64(r.repeated), "count")
	add("run.seconds", r.took.Seconds(), "s")
	add("run.rounds", float64(r.plan.Rounds), "count")
	return &report{
		book: r.book, paths: r.plan.Paths, extra: extra, mapping: r.plan.Mappings, ended: r.began.UTC().Format("2006-01-02"),
		about: fmt.Sprintf("Linux %s, %d CPUs (client on the first, server on the second, translator on any), %d rounds, samples of %g s, of TCP %g s in turns of %g s, cubic, of small packets %g s in turns of %g s, paths interleaved, their order reversed each time.",
			kernel(), numCPU(), r.plan.Rounds, r.plan.Seconds, r.plan.Stream, r.plan.Turn, r.plan.packetTime(), r.plan.packetTime()/packetTurns),
	}
}

func kernel() string {
	text, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		return "?"
	}
	version, _, _ := strings.Cut(strings.TrimSpace(string(text)), "-")
	return version
}

// samples does a group of jobs, in turns or one after the other.
func (r *run) samples(ctx context.Context, group []job, round int) error {
	switch {
	case group[0].streams():
		return r.streams(ctx, group, round)
	case group[0].packets():
		return r.packets(ctx, group, round)
	case group[0].Load == "rtt":
		return r.roundTrips(ctx, group, round)
	}
	for _, i := range sequence(len(group), round) {
		if err := ctx.Err(); err != nil {
			return err
		}
		j := group[i]
		if err := r.again(j, func() error { return r.sample(ctx, j, round) }); err != nil {
			return err
		}
		// Others want to live, too.
		time.Sleep(50 * time.Millisecond)
	}
	return nil
}

// again does what loses packets once more, up to five times.
func (r *run) again(j job, do func() error) error {
	err := do()
	for n := 0; errors.Is(err, errLoss) && n < 5; n++ {
		r.step("%s.%s again: %v", j.Path, j.Load, err)
		r.repeated++
		err = do()
	}
	if err != nil {
		return fmt.Errorf("%s.%s: %w", j.Path, j.Load, err)
	}
	return nil
}

// renew makes others in the place of worlds that have done their work.
func (r *run) renew(ctx context.Context, specs []worldSpec, binary string) error {
	if err := r.verify(ctx, specs); err != nil {
		return err
	}
	if err := r.shut(specs); err != nil {
		return err
	}
	if err := r.open(ctx, specs, binary); err != nil {
		return err
	}
	return r.begin(ctx, specs)
}

// open makes worlds.
func (r *run) open(ctx context.Context, specs []worldSpec, binary string) (err error) {
	for _, s := range specs {
		if r.worlds[s], err = newWorld(ctx, s, r.name, binary, r.plan.Queues); err != nil {
			return err
		}
	}
	return nil
}

// shut takes worlds down.
func (r *run) shut(specs []worldSpec) error {
	var errs []error
	for _, s := range specs {
		if w := r.worlds[s]; w != nil {
			errs = append(errs, w.close())
		}
		delete(r.worlds, s)
	}
	return errors.Join(errs...)
}

func (r *run) close() error {
	err := r.shut(slices.Collect(maps.Keys(r.worlds)))
	if r.dir != "" {
		err = errors.Join(err, os.RemoveAll(r.dir))
	}
	return err
}
