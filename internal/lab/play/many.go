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

	"widecloud/internal/lab/script"
	"widecloud/internal/lab/stage"
)

// Outcome is how one of several scripts has gone.
type Outcome struct {
	Script *script.Script
	Result *stage.Result // nil: it was not begun
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
}

// RunAll runs several scripts, so many at a time, each in a lab of its own. What each
// prints comes as a whole when it has ended.
func RunAll(ctx context.Context, pieces []Piece, jobs int, o Options) ([]Outcome, error) {
	if err := o.complete(); err != nil {
		return nil, err
	}
	outcomes := make([]Outcome, len(pieces))
	var (
		next  = make(chan int)
		print sync.Mutex
		work  sync.WaitGroup
	)
	for worker := range jobs {
		work.Go(func() {
			for i := range next {
				outcomes[i] = runOne(ctx, pieces[i], o, worker, jobs > 1, &print)
			}
		})
	}
	order := longestFirst(pieces)
	if jobs == 1 {
		slices.Sort(order) // as they were said
	}
	for _, i := range order {
		next <- i
	}
	close(next)
	work.Wait()
	return outcomes, nil
}

// longestFirst orders scripts by their budgets, so that none that is long is begun
// when all others have ended.
func longestFirst(pieces []Piece) []int {
	order := make([]int, len(pieces))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(budget(pieces[b].Script), budget(pieces[a].Script)) })
	return order
}

// budget is what a script may take; 0: it has not said.
func budget(s *script.Script) time.Duration {
	b, ok := script.Has[*stage.Budget](s)
	if !ok {
		return 0
	}
	return b.Time
}

// runOne runs one script in the lab of a worker.
func runOne(ctx context.Context, piece Piece, o Options, worker int, aside bool, print *sync.Mutex) Outcome {
	if err := ctx.Err(); err != nil {
		return Outcome{Script: piece.Script, Err: err}
	}
	begun := time.Now()
	out := o.Out
	var text bytes.Buffer
	if aside {
		// Of several at a time, each prints as a whole; the labs' names tell their machines apart.
		o.Out, o.TTY, o.shared = &text, false, true
		o.Name = fmt.Sprintf("%s%d", o.Name, worker)
	}
	o.Dir, o.LogDir = piece.Dir, filepath.Join(o.LogDir, o.Name+"-"+filepath.Base(piece.Script.File))
	fmt.Fprintf(o.Out, "\n== %s\n", piece.Script.File)
	result, err := Run(ctx, piece.Script, o)
	if aside {
		print.Lock()
		defer print.Unlock()
		if _, e := io.Copy(out, &text); e != nil {
			err = errors.Join(err, e)
		}
	}
	return Outcome{Script: piece.Script, Result: result, Took: time.Since(begun), Err: err}
}

// RunOn builds a base once, and plays several scripts on its machines, one after the
// other. Each takes back what it has made, and the base must then be as it was, or a
// check of the script has failed. The base's own outcome comes first.
func RunOn(ctx context.Context, base Piece, pieces []Piece, o Options) ([]Outcome, error) {
	if err := o.complete(); err != nil {
		return nil, err
	}
	begun := time.Now()
	o.Dir, o.UpOnly = base.Dir, true
	st := stage.New(stage.Options{Script: base.Script, Bin: o.Bin, Dir: o.Dir, LogDir: o.LogDir, Out: stage.NewConsole(o.Out, o.TTY), Log: o.Log})
	outcomes := []Outcome{{Script: base.Script}}
	o.Hold = func(st *stage.Stage) {
		outcomes[0].Took = time.Since(begun)
		for _, piece := range pieces {
			outcomes = append(outcomes, playOn(ctx, st, piece, o))
		}
	}
	err := run(ctx, st, o)
	st.Result().Report(st.Out)
	outcomes[0].Result, outcomes[0].Err = st.Result(), err
	return outcomes, err
}

// playOn plays a script on the machines of a base.
func playOn(ctx context.Context, base *stage.Stage, piece Piece, o Options) (out Outcome) {
	begun := time.Now()
	out.Script = piece.Script
	defer func() { out.Took = time.Since(begun) }()
	fmt.Fprintf(o.Out, "\n== %s on %s\n", piece.Script.File, base.Script.File)
	before, err := base.List(ctx)
	if err != nil {
		out.Err = err
		return out
	}
	st, err := base.On(stage.Options{Script: piece.Script, Dir: piece.Dir, Out: stage.NewConsole(o.Out, o.TTY)})
	if err != nil {
		out.Err = err
		return out
	}
	out.Err = st.Play(ctx, false, func() { showLogs(st) })
	st.End()
	st.CheckBase(context.WithoutCancel(ctx), before)
	st.CheckBudget()
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
