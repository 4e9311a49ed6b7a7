package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"widecloud/api"
)

// RunOptions say how a script is run.
type RunOptions struct {
	Name   string    // of the lab; "": "lab"
	Dir    string    // that file names in the script are relative to, and in the clone that its releases are built from; "": the working directory
	Bin    string    // directory with wcc and map646; "": that of this program
	Out    io.Writer // what happens, and the report
	TTY    bool      // Out is a terminal
	LogDir string    // logs of the processes; emptied first. "": beside the labs' state directories
	Log    *slog.Logger
	// UpOnly builds the federation, images, loans, networks and VMs, and does
	// nothing else of the script.
	UpOnly bool
	// Hold, if set, is called when everything has been done, with the federation
	// still up; it is taken down when Hold returns.
	Hold func(r *Result, f *Federation)
}

// Run builds the script's federation, does what the script says, checks what it
// expects, reports, and takes everything down, whatever happens and also when
// ctx ends. The error says why the script could not be run to its end; it counts
// as a failed check, too.
func Run(ctx context.Context, s *Script, o RunOptions) (*Result, error) {
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
			return nil, fmt.Errorf("run lab: %w", err)
		}
		o.Bin = filepath.Dir(self)
	}
	for _, program := range []string{"wcc", "map646"} {
		if _, err := os.Stat(filepath.Join(o.Bin, program)); err != nil {
			return nil, fmt.Errorf("run lab: %w (make build makes it)", err)
		}
	}
	r := &runner{
		o: o, script: s, out: &console{out: o.Out, tty: o.TTY, start: time.Now()}, result: &Result{},
		vms: map[string]*vmState{}, flows: map[string]*flow{}, jobs: map[string]jobRef{},
		images: map[string]string{}, data: map[string]string{},
	}
	err := r.run(ctx)
	r.result.report(r.out)
	return r.result, err
}

// Report prints the table of checks, the figures, and the last line.
func (r *Result) Report(out io.Writer, tty bool) { r.report(&console{out: out, tty: tty}) }

// imageMakers make the images that scripts can name.
var imageMakers = map[string]func(context.Context, ImageOptions) (string, error){"tiny": TinyImage, "debian": DebianImage}

type runner struct {
	o       RunOptions
	script  *Script
	out     *console
	result  *Result
	fed     *Federation
	vms     map[string]*vmState
	flows   map[string]*flow
	jobs    map[string]jobRef // by VM: its last migration
	elapsed []string          // names of figures of the whole run's time
	images  map[string]string // paths of the images' files
	data    map[string]string // user-data of VMs
	churn   *churn            // nil: none
}

// vmState is what the runner knows of a VM from when it was made.
type vmState struct {
	stmt      *VMStmt
	uid       string
	addresses map[string]bool // at its first running
	boot      string          // its boot id, once asked
	disk      string          // digest of what was written
	diskMiB   int
}

type jobRef struct {
	name  string
	begun time.Time
}

func (r *runner) run(ctx context.Context) (err error) {
	begun := Pos{File: r.script.File, Line: 1, Col: 1}
	if err := os.RemoveAll(r.o.LogDir); err != nil {
		return r.fatal(begun, "prepare", err)
	}
	before, err := Snapshot(Scope{Name: r.o.Name})
	if err != nil {
		return r.fatal(begun, "prepare", err)
	}
	dir := ""
	for _, name := range r.script.Images {
		path, err := imageMakers[name](ctx, ImageOptions{})
		if err != nil {
			return r.fatal(begun, "prepare", err)
		}
		r.images[name], dir = path, filepath.Dir(path) // they are all in the same cache
	}
	for _, st := range r.script.Statements {
		if v, ok := st.Do.(*VMStmt); ok && v.UserData != "" {
			b, err := os.ReadFile(filepath.Join(r.o.Dir, v.UserData))
			if err != nil {
				return r.fatal(st.Pos, st.Text, fmt.Errorf("%s: %w", st.Pos, err))
			}
			r.data[v.Name] = string(b)
		}
	}
	l, err := Open(Options{Name: r.o.Name, LogDir: r.o.LogDir, Log: r.o.Log})
	if err != nil {
		return r.fatal(begun, "prepare", err)
	}
	defer func() {
		r.teardown(l, before)
		r.total()
	}()
	r.out.line("%s", r.announcement())
	r.fed, err = BuildFederation(ctx, l, FederationOptions{
		Script: r.script, Bin: r.o.Bin, Images: dir, Source: r.o.Dir, Log: r.o.Log,
		Progress: func(format string, args ...any) { r.out.under(format, args...) },
	})
	if err != nil {
		err = r.fatal(begun, "build the federation", err)
		r.showLogs(allLogs(r.o.LogDir))
		return err
	}
	up := time.Since(r.out.start)
	r.out.line("the federation is up")
	r.figure(Figure{"lab.up_seconds", up.Seconds(), "s"})
	failed := 0
	for _, st := range r.script.Statements {
		if r.o.UpOnly && !builds(st.Do) {
			continue
		}
		if err = r.statement(ctx, st); err != nil {
			break
		}
		if _, now := r.result.Counts(); now > failed {
			failed = now
			r.showLogs(r.fed.logs())
		}
	}
	if err != nil {
		r.showLogs(r.fed.logs())
	}
	for _, f := range r.flows {
		f.stop()
	}
	if r.churn != nil {
		r.churn.stop()
	}
	if r.o.Hold != nil && ctx.Err() == nil {
		r.total()
		r.o.Hold(r.result, r.fed)
	}
	return err
}

// total takes the figures of the whole run's time, once.
func (r *runner) total() {
	for _, name := range r.elapsed {
		r.figure(Figure{name, time.Since(r.out.start).Seconds(), "s"})
	}
	r.elapsed = nil
}

// builds tells whether a statement declares what is there, rather than does
// something.
func builds(do any) bool {
	switch do.(type) {
	case *ReleaseStmt, *SiteStmt, *WANStmt, *ImageStmt, *BorrowStmt, *NetworkStmt, *VMStmt, *RoutingStmt, *TranslatorStmt, *ServerStmt, *FillStmt:
		return true
	}
	return false
}

func (r *runner) announcement() string {
	if d := r.script.DC; d != nil {
		return fmt.Sprintf("a data centre is being built: translators %s; servers %s; routing by %s", known(d.names("translators")), known(d.names("servers")), d.Routing)
	}
	var l []string
	for _, s := range r.script.Sites {
		l = append(l, s.Name)
	}
	return fmt.Sprintf("%d sites are being built: %s", len(l), strings.Join(l, ", "))
}

// fatal is an error that ends the run; it counts as a failed check.
func (r *runner) fatal(pos Pos, text string, err error) error {
	r.check(Check{Pos: pos, Text: text, Detail: describe(err)})
	return err
}

func (r *runner) check(c Check) {
	r.result.Checks = append(r.result.Checks, c)
	r.out.check(c)
}

func (r *runner) figure(f Figure) { r.result.Figures = append(r.result.Figures, f) }

// describe is an error with all its reasons.
func describe(err error) string {
	text := err.Error()
	var e *api.Error
	if errors.As(err, &e) {
		for _, reason := range e.Reasons {
			if reason.Advice != "" {
				text += " (" + reason.Advice + ")"
			}
		}
	}
	return text
}

// statement does one statement. An error ends the run; a check that fails does
// not.
func (r *runner) statement(ctx context.Context, st Statement) error {
	switch do := st.Do.(type) {
	case *ReleaseStmt, *SiteStmt, *WANStmt, *RoutingStmt, *TranslatorStmt, *ServerStmt, *FillStmt:
		return nil // they are there already
	case *SayStmt:
		r.out.say(do.Text)
		return nil
	}
	r.out.line("%s", st.Text)
	var err error
	switch do := st.Do.(type) {
	case *ExpectStmt:
		err = r.expect(ctx, st, do)
	case *MigrateStmt:
		err = r.migrate(ctx, st, do)
	case *StopChurnStmt:
		r.stopChurn(ctx, st)
	case *FigureStmt:
		err = r.measured(ctx, do)
	default:
		err = r.act(ctx, st.Do)
	}
	if ctx.Err() != nil {
		err = errors.New("interrupted")
	}
	if err != nil {
		return r.fatal(st.Pos, st.Text, fmt.Errorf("%s: %w", st.Pos, err))
	}
	return nil
}

// teardown takes everything down and makes the check of what is left.
func (r *runner) teardown(l *Lab, before State) {
	r.out.line("everything is taken down")
	for _, f := range r.flows {
		f.stop()
	}
	c := Check{Pos: Pos{File: r.script.File, Line: max(1, len(r.script.Statements))}, Text: "nothing is left on the machine"}
	if n := len(r.script.Statements); n > 0 {
		c.Pos = r.script.Statements[n-1].Pos
	}
	if err := l.Close(); err != nil {
		c.Detail = err.Error()
		r.check(c)
		return
	}
	// Not the script's context: this must be done after Ctrl-C, too.
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
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
	r.check(c)
}

// showLogs prints the ends of logs.
func (r *runner) showLogs(paths []string) {
	for _, p := range paths {
		text := strings.TrimSpace(tail(p, 1500))
		if text == "" {
			continue
		}
		lines := strings.Split(text, "\n")
		if len(lines) > 8 {
			lines = lines[len(lines)-8:]
		}
		r.out.plain("  -- %s ends:", p)
		for _, line := range lines {
			r.out.plain("     %s", line)
		}
	}
}

func allLogs(dir string) []string {
	l, err := filepath.Glob(filepath.Join(dir, "*.log"))
	if err != nil {
		return nil // only a bad pattern
	}
	var out []string
	for _, p := range l {
		for _, name := range []string{controllerProcess, agentProcess, map646Process} {
			if strings.HasSuffix(p, "."+name+".log") {
				out = append(out, p)
			}
		}
	}
	return out
}
