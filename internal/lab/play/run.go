package play

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"widecloud/internal/lab/machine"
	"widecloud/internal/lab/script"
	"widecloud/internal/lab/stage"
)

// Options say how a script is run.
type Options struct {
	Name   string    // of the lab; "": "lab"
	Dir    string    // that file names in the script are relative to, and in the clone that its releases are built from; "": the working directory
	Bin    string    // directory with wcc and map646; "": that of this program
	Out    io.Writer // what happens, and the report
	TTY    bool      // Out is a terminal
	LogDir string    // logs of the processes; emptied first. "": beside the labs' state directories
	Log    *slog.Logger
	// UpOnly does what the script declares, and nothing else of it.
	UpOnly bool
	// Hold, if set, is called when everything has been done, with all machines still
	// up; they are taken down when Hold returns.
	Hold func(*stage.Stage)

	// beside: other scripts run beside this one. What is left of eBPF programs is seen
	// when all have ended.
	beside bool
}

// leakTime is how long the kernel may take to remove what nobody uses any more.
const leakTime = 10 * time.Second

// complete fills in what is not said, and looks for the programs.
func (o *Options) complete() error {
	if o.Name == "" {
		o.Name = "lab"
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.LogDir == "" {
		o.LogDir = filepath.Join(os.TempDir(), "widecloud-lab-logs", o.Name)
	}
	if o.Bin == "" {
		self, err := os.Executable()
		if err != nil {
			return fmt.Errorf("run lab: %w", err)
		}
		o.Bin = filepath.Dir(self)
	}
	for _, program := range []string{"wcc", "map646"} {
		if _, err := os.Stat(filepath.Join(o.Bin, program)); err != nil {
			return fmt.Errorf("run lab: %w (make build makes it)", err)
		}
	}
	return nil
}

// Run builds what the script declares, does what it says, checks what it expects,
// reports, and takes everything down, whatever happens and also when ctx ends. The
// error says why the script could not be run to its end; it counts as a failed
// check, too.
func Run(ctx context.Context, s *script.Script, o Options) (*stage.Result, error) {
	if err := o.complete(); err != nil {
		return nil, err
	}
	st := stage.New(stage.Options{Script: s, Bin: o.Bin, Dir: o.Dir, LogDir: o.LogDir, Out: stage.NewConsole(o.Out, o.TTY), Log: o.Log})
	err := run(ctx, st, o)
	st.Result().Report(st.Out)
	return st.Result(), err
}

func run(ctx context.Context, st *stage.Stage, o Options) (err error) {
	before, err := machine.Snapshot(machine.Scope{Name: o.Name, NoPrograms: o.beside})
	if err != nil {
		return st.Fatal(st.Begun(), "prepare", err)
	}
	if st.Lab, err = machine.Open(machine.Options{Name: o.Name, LogDir: o.LogDir, Log: o.Log, Congestion: congestion(st.Script)}); err != nil {
		return st.Fatal(st.Begun(), "prepare", err)
	}
	defer func() {
		takeDown(st, before)
		st.CheckBudget(o.beside)
		st.TakeLater()
	}()
	if err := build(ctx, st); err != nil {
		return err
	}
	err = st.Play(ctx, o.UpOnly, func() { showLogs(st) })
	if err != nil {
		showLogs(st)
	}
	st.End()
	if o.Hold != nil && ctx.Err() == nil {
		st.TakeLater()
		o.Hold(st)
	}
	return err
}

// build makes all that the script declares.
func build(ctx context.Context, st *stage.Stage) error {
	st.Out.Line("%s", announcement(st.Script))
	st.Out.Under("TCP by %s, where nothing else is said", cmp.Or(congestion(st.Script), machine.DefaultCongestion))
	begun := time.Now()
	if err := st.Build(ctx); err != nil {
		err = st.Fatal(st.Begun(), "build", err)
		showLogs(st)
		return err
	}
	st.Out.Line("all machines are up")
	st.Figure(stage.Figure{Name: "lab.up_seconds", Value: time.Since(begun).Seconds(), Unit: "s"})
	return nil
}

// congestion is TCP's congestion control of machines of which the script says nothing else.
func congestion(s *script.Script) string {
	if tcp, ok := script.Has[*stage.TCP](s); ok {
		return tcp.Congestion
	}
	return ""
}

// announcement says what is being built.
func announcement(s *script.Script) string {
	var l []string
	for _, st := range s.Statements {
		if st.Entry.Builds {
			l = append(l, strings.Join(strings.Fields(st.Text)[:2], " "))
		}
	}
	return "being built: " + strings.Join(l, ", ")
}

// takeDown takes everything down and makes the check of what is left.
func takeDown(st *stage.Stage, before machine.State) {
	st.Out.Line("everything is taken down")
	st.End()
	c := stage.Check{Pos: st.Begun(), Text: "nothing is left on the machine"}
	if n := len(st.Script.Statements); n > 0 {
		c.Pos = st.Script.Statements[n-1].Pos
	}
	if err := st.Lab.Close(); err != nil {
		c.Detail = err.Error()
		st.Check(c)
		return
	}
	// Not the script's context: this must be done after Ctrl-C, too.
	ctx, cancel := context.WithTimeout(context.Background(), leakTime)
	defer cancel()
	leaks, err := before.Diff(ctx)
	switch {
	case err != nil:
		c.Detail = err.Error()
	case len(leaks) > 0:
		var l []string
		for _, leak := range leaks {
			l = append(l, leak.String())
		}
		c.Detail = "left behind: " + strings.Join(l, "; ")
	default:
		c.OK, c.Detail = true, "no namespace, link, mount, process, eBPF program or file"
	}
	st.Check(c)
}

// showLogs prints the ends of the logs that a failure may be explained by:
// controllers, agents, translators.
func showLogs(st *stage.Stage) {
	paths, err := filepath.Glob(filepath.Join(st.LogDir, "*.log"))
	if err != nil {
		return // only a bad pattern
	}
	slices.Sort(paths)
	for _, p := range paths {
		explains := slices.ContainsFunc([]string{".controller.log", ".agent.log", ".map646.log", "-journal.log"}, func(s string) bool { return strings.HasSuffix(p, s) })
		text := strings.TrimSpace(stage.Tail(p, 1500))
		if !explains || text == "" {
			continue
		}
		lines := strings.Split(text, "\n")
		st.Out.Plain("  -- %s ends:", p)
		for _, line := range lines[max(0, len(lines)-8):] {
			st.Out.Plain("     %s", line)
		}
	}
}
