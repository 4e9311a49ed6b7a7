package play

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"widecloud/internal/lab/machine"
	"widecloud/internal/lab/script"
	"widecloud/internal/lab/stage"
)

// Outcome is how one of several scripts has gone.
type Outcome struct {
	Script *script.Script
	Result *stage.Result // nil: it was not begun
	Begun  time.Time
	Took   time.Duration
	Err    error // why it did not come to its end
}

// OK tells whether all is well.
func (o Outcome) OK() bool {
	if o.Result == nil || o.Err != nil {
		return false
	}
	_, failed := o.Result.Counts()
	return failed == 0
}

// Piece is one of several scripts, and the directory that its file names are
// relative to.
type Piece struct {
	Script *script.Script
	Dir    string
	Base   *Piece // that the script says; nil: none
}

// RunAll runs several scripts. Those that say the same base share its machines, one
// after the other; the others have machines of their own. They run beside each other
// as far as so many cores bear it; with 0 one at a time, as they were said. What one
// of several at a time prints comes as a whole.
func RunAll(ctx context.Context, pieces []Piece, cores int, o Options) ([]Outcome, error) {
	if err := o.complete(); err != nil {
		return nil, err
	}
	before, err := machine.Snapshot(machine.Scope{Name: o.Name})
	if err != nil {
		return nil, err
	}
	all := jobs(pieces)
	if cores == 0 {
		slices.SortFunc(all, func(a, b *job) int { return cmp.Compare(a.pieces[0], b.pieces[0]) })
	}
	var (
		outcomes = make([]Outcome, len(pieces))
		bases    []Outcome
		mu       sync.Mutex
	)
	schedule(all, cores, func(j *job, beside bool) {
		o := o
		o.beside = beside
		if beside {
			// The labs' names tell their machines apart.
			o.Name = fmt.Sprintf("%s%d", o.Name, slices.Index(all, j))
			text := &whole{to: o.Out, turn: &mu}
			defer text.Flush()
			o.Out, o.TTY = text, false
		}
		if j.base == nil {
			outcomes[j.pieces[0]] = runOne(ctx, pieces[j.pieces[0]], o)
			return
		}
		share := make([]Piece, len(j.pieces))
		for i, n := range j.pieces {
			share[i] = pieces[n]
		}
		o.LogDir = filepath.Join(o.LogDir, o.Name+"-"+filepath.Base(j.base.Script.File))
		l, _ := RunOn(ctx, *j.base, share, o) // its error is in the base's outcome, too
		for i, n := range j.pieces {
			outcomes[n] = l[i+1]
		}
		mu.Lock()
		bases = append(bases, l[0])
		mu.Unlock()
	})
	return append(bases, outcomes...), leftOver(before)
}

// leftOver says what all scripts together have left.
func leftOver(before machine.State) error {
	ctx, cancel := context.WithTimeout(context.Background(), leakTime)
	defer cancel()
	leaks, err := before.Diff(ctx)
	if err != nil {
		return err
	}
	var errs []error
	for _, l := range leaks {
		errs = append(errs, fmt.Errorf("left behind: %s", l))
	}
	return errors.Join(errs...)
}

// whole is a writer whose text comes out as a whole.
type whole struct {
	bytes.Buffer
	to   io.Writer
	turn *sync.Mutex // of those that write there
}

// Flush writes what has come so far. That it could not be written is seen by who writes there.
func (w *whole) Flush() {
	w.turn.Lock()
	defer w.turn.Unlock()
	_, _ = w.WriteTo(w.to)
}

// flush lets out what has come so far, if it is held back.
func flush(w io.Writer) {
	if f, ok := w.(*whole); ok {
		f.Flush()
	}
}

// runOne runs one script on machines of its own.
func runOne(ctx context.Context, piece Piece, o Options) Outcome {
	if err := ctx.Err(); err != nil {
		return Outcome{Script: piece.Script, Err: err}
	}
	begun := time.Now()
	o.Dir, o.LogDir = piece.Dir, filepath.Join(o.LogDir, o.Name+"-"+filepath.Base(piece.Script.File))
	fmt.Fprintf(o.Out, "\n== %s\n", piece.Script.File)
	result, err := Run(ctx, piece.Script, o)
	return Outcome{Script: piece.Script, Result: result, Begun: begun, Took: time.Since(begun), Err: err}
}

// RunOn builds a base once, and plays several scripts on its machines, one after the
// other. Each takes back what it has made, and the base must then be as it was, or a
// check of the script has failed. The base's own outcome comes first.
func RunOn(ctx context.Context, base Piece, pieces []Piece, o Options) ([]Outcome, error) {
	outcomes := make([]Outcome, len(pieces)+1)
	for i, p := range append([]Piece{base}, pieces...) {
		outcomes[i] = Outcome{Script: p.Script, Begun: time.Now(), Err: errNotBegun}
	}
	if err := o.complete(); err != nil {
		return outcomes, err
	}
	o.Dir, o.UpOnly = base.Dir, true
	st := stage.New(stage.Options{Script: base.Script, Bin: o.Bin, Dir: o.Dir, LogDir: o.LogDir, Out: stage.NewConsole(o.Out, o.TTY), Log: o.Log})
	fmt.Fprintf(o.Out, "\n== %s\n", base.Script.File)
	o.Hold = func(st *stage.Stage) {
		outcomes[0].Took = time.Since(outcomes[0].Begun)
		flush(o.Out)
		for i, piece := range pieces {
			outcomes[i+1] = playOn(ctx, st, piece, i+1, o)
			flush(o.Out)
		}
	}
	err := run(ctx, st, o)
	st.Result().Report(st.Out)
	outcomes[0].Result, outcomes[0].Err = st.Result(), err
	return outcomes, err
}

// errNotBegun says that a script's turn has not come.
var errNotBegun = errors.New("it was not begun")

// playOn plays a script on the machines of a base, as one of a number.
func playOn(ctx context.Context, base *stage.Stage, piece Piece, number int, o Options) (out Outcome) {
	out.Script, out.Begun = piece.Script, time.Now()
	defer func() { out.Took = time.Since(out.Begun) }()
	fmt.Fprintf(o.Out, "\n== %s on %s\n", piece.Script.File, base.Script.File)
	before, err := base.List(ctx)
	if err != nil {
		out.Err = err
		return out
	}
	s, err := piece.Script.Again(number)
	if err != nil {
		out.Err = err
		return out
	}
	st, err := base.On(ctx, stage.Options{Script: s, Dir: piece.Dir, Out: stage.NewConsole(o.Out, o.TTY)})
	if err != nil {
		out.Err = errors.Join(err, st.UndoAll(ctx))
		return out
	}
	out.Err = st.Play(ctx, false, func() { showLogs(st) })
	st.End()
	st.CheckBase(context.WithoutCancel(ctx), base, before)
	st.CheckBudget(o.beside)
	st.TakeLater()
	st.Result().Report(st.Out)
	out.Result = st.Result()
	return out
}

// Table is the scripts' times beside their budgets, and how each has gone.
func Table(outcomes []Outcome, whole time.Duration) string {
	var b bytes.Buffer
	fmt.Fprintf(&b, "\n%-26s %8s %8s  %s\n", "script", "seconds", "budget", "")
	var sum time.Duration
	for _, o := range outcomes {
		sum += o.Took
		may, word := "-", "passed"
		if t := budget(o.Script); t > 0 {
			may = fmt.Sprintf("%.0f", t.Seconds())
		}
		if !o.OK() {
			word = "FAILED"
		}
		fmt.Fprintf(&b, "%-26s %8.1f %8s  %s\n", filepath.Base(o.Script.File), o.Took.Seconds(), may, word)
		if o.Err != nil {
			fmt.Fprintf(&b, "    %v\n", o.Err)
		}
	}
	fmt.Fprintf(&b, "%-26s %8.1f\n%-26s %8.1f\n", "one after the other", sum.Seconds(), "by the clock", whole.Seconds())
	return b.String()
}
