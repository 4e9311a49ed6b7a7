package stage

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"widecloud/internal/lab/machine"
	"widecloud/internal/lab/script"
)

// Where things are inside of machines.
const (
	NodeBin    = "/opt/widecloud/bin"
	NodeImages = "/opt/widecloud/images"
)

// Options of a stage.
type Options struct {
	Script *script.Script
	Lab    *machine.Lab // open, and empty
	Bin    string       // directory with wcc and map646
	Dir    string       // that file names in the script are relative to, in a clone of the sources; "": the working directory
	LogDir string       // of the lab's processes
	Out    *Console
	Log    *slog.Logger
}

// Stage is a script being played. Its methods are safe for concurrent use.
type Stage struct {
	Options

	mu     sync.Mutex
	result Result
	atEnd  []func()        // end what runs in the background
	undo   []undoing       // take back what the script has made, the last first
	later  []func() Figure // figures of the whole run
}

type undoing struct {
	what string
	do   func(context.Context) error
}

// New makes a stage on which nothing is yet.
func New(o Options) *Stage {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return &Stage{Options: o}
}

// Doer is a statement that does something. An error ends the script.
type Doer interface {
	Do(context.Context, *Stage) error
}

// Judge is a statement that checks something: what was found, or what is wrong.
type Judge interface {
	Judge(context.Context, *Stage) (detail string, err error)
}

// Play does the script's statements; only those that declare something, if so said.
// The error says why the script could not be played to its end; it counts as a
// failed check, too. After each failed check, failed is called.
func (s *Stage) Play(ctx context.Context, declare bool, failed func()) error {
	for _, st := range s.Script.Statements {
		if declare && st.Entry.Part != script.Declares {
			continue
		}
		ok, err := s.statement(ctx, st)
		if err != nil {
			return s.Fatal(st.Pos, st.Text, fmt.Errorf("%s: %w", st.Pos, err))
		}
		if !ok {
			failed()
		}
	}
	return nil
}

func (s *Stage) statement(ctx context.Context, st script.Statement) (ok bool, err error) {
	doer, does := st.Do.(Doer)
	judge, judges := st.Do.(Judge)
	if !does && !judges {
		return true, nil // it has declared something that is there already
	}
	if !st.Entry.Quiet {
		s.Out.Line("%s", st.Text)
	}
	c := Check{Pos: st.Pos, Text: st.Text, OK: true}
	if does {
		err = doer.Do(ctx, s)
	} else if c.Detail, err = judge.Judge(ctx, s); err != nil {
		c.OK, c.Detail = false, Describe(err)
	}
	if ctx.Err() != nil {
		return false, errors.New("interrupted")
	}
	if does {
		return true, err
	}
	s.Check(c)
	return c.OK, nil
}

// Fatal is an error that ends the run; it counts as a failed check.
func (s *Stage) Fatal(pos script.Pos, text string, err error) error {
	s.Check(Check{Pos: pos, Text: text, Detail: Describe(err)})
	return err
}

// Check takes the outcome of a check.
func (s *Stage) Check(c Check) {
	s.mu.Lock()
	s.result.Checks = append(s.result.Checks, c)
	s.mu.Unlock()
	s.Out.check(c)
}

// Figure takes something measured.
func (s *Stage) Figure(f Figure) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.result.Figures = append(s.result.Figures, f)
}

// Later takes a figure of the whole run, at its end.
func (s *Stage) Later(f func() Figure) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.later = append(s.later, f)
}

// TakeLater takes the figures that were left for the end, once.
func (s *Stage) TakeLater() {
	s.mu.Lock()
	later := s.later
	s.later = nil
	s.mu.Unlock()
	for _, f := range later {
		s.Figure(f())
	}
}

// AtEnd says how to end what runs in the background. It is called once.
func (s *Stage) AtEnd(end func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.atEnd = append(s.atEnd, end)
}

// End ends all that runs in the background.
func (s *Stage) End() {
	s.mu.Lock()
	ends := s.atEnd
	s.atEnd = nil
	s.mu.Unlock()
	for _, end := range ends {
		end()
	}
}

// Undo says how to take back what a statement has done, so that the machines can be
// used for another script.
func (s *Stage) Undo(what string, do func(context.Context) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.undo = append(s.undo, undoing{what, do})
}

// UndoAll takes back what the statements have done, the last first. It goes on
// after errors and returns them all.
func (s *Stage) UndoAll(ctx context.Context) error {
	s.mu.Lock()
	undo := s.undo
	s.undo = nil
	s.mu.Unlock()
	var errs []error
	for i := len(undo) - 1; i >= 0; i-- {
		if err := undo[i].do(ctx); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", undo[i].what, err))
		}
	}
	return errors.Join(errs...)
}

// Result is what has been checked and measured so far.
func (s *Stage) Result() *Result {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.result
	return &r
}

// Begun is the first place of the script, for what belongs to no statement.
func (s *Stage) Begun() script.Pos { return script.Pos{File: s.Script.File, Line: 1, Col: 1} }

// ErrGiveUp ends Until.
var ErrGiveUp = errors.New("no use in waiting")

// Until tries until f succeeds, and returns its last error after the time.
func Until(ctx context.Context, within time.Duration, f func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	var last error
	for {
		err := f(ctx)
		if err == nil || errors.Is(err, ErrGiveUp) {
			return err
		}
		if last == nil || ctx.Err() == nil {
			last = err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("not within %v: %w", within, last)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// Tail is the end of a file, for a message.
func Tail(path string, limit int) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	return string(b[max(0, len(b)-limit):])
}

// CheckBudget is a check: the script has not taken half as much again as it may, or
// beside others not twice as much. A script without a budget is not checked.
func (s *Stage) CheckBudget(beside bool) {
	b, ok := script.Has[*Budget](s.Script)
	if !ok {
		return
	}
	took, most, word := s.Out.Elapsed(), b.Time*3/2, "half as much again"
	if beside {
		most, word = b.Time*2, "beside other scripts as much again"
	}
	s.Check(Check{
		Pos: s.Begun(), Text: fmt.Sprintf("budget %v", b.Time), OK: took <= most,
		Detail: fmt.Sprintf("it took %.1f s, of %v and %s", took.Seconds(), b.Time, word),
	})
}
