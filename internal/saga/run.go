package saga

import (
	"context"
	"errors"
	"fmt"

	"widecloud/api"
)

// The errors between Run, the journal and the work of steps.
var (
	// ErrCancelled: somebody asked for the job's end, and that was accepted.
	ErrCancelled = api.Errorf(api.CodeConflict, "it was cancelled")
	// ErrGone is a Journal's: it has no such job.
	ErrGone = errors.New("the journal has no such job")
	// ErrWait is a step's: there is nothing to do until something changes. Run returns; whoever notices the change runs the
	// job again.
	ErrWait = errors.New("wait for a change")
)

// errJournal is in the chain of an error of the journal itself. Whether the step was written is then not known: the journal
// has to be read again before anything follows from it.
var errJournal = errors.New("journal")

// Head is what the record of every job has. Records embed it.
type Head struct {
	Job     string     `json:"job"`
	Step    Step       `json:"step"`
	Failure *api.Error `json:"failure,omitempty"` // why the job goes back
}

// Work is what is done at a step.
type Work[R any] struct {
	// Do does what follows the step, and gives the step that is reached by it. It may change the record; the journal keeps
	// that with the new step, and an error drops it. Do is called again after a crash and, past the decision, after an error.
	Do func(ctx context.Context, r *R) (Step, error)
	// Progress, if set, is asked now and then while Do is at work, with the record as it was at the step.
	Progress func(ctx context.Context, r *R) (api.Progress, error)
	// Stop asks the work to end, because the job was cancelled while Do is at work. It needs Progress. When it is nil, Do's
	// context ends instead, with ErrCancelled as its cause.
	Stop func(ctx context.Context, r *R) error
}

// Kind is a kind of job, whose records are of type R.
type Kind[R any] struct {
	Plan Plan
	Head func(r *R) *Head
	Work map[Step]Work[R] // of every step that is not a last one
}

// Journal is where jobs are kept.
type Journal[R any] interface {
	// Read gives a job's record as it was written last; ErrGone when there is none.
	Read(ctx context.Context, job string) (R, error)
	// Advance writes a record, which has come from a step to the one in its head, and in the same transaction everything
	// that this means for objects. When the plan says that this decides and the job's end was asked for, it writes nothing
	// and returns ErrCancelled. ErrGone: there is no such job any more; what ended it is no concern of the step. After any other error
	// the write may have taken effect or not.
	Advance(ctx context.Context, from Step, r *R) error
	// Cancelled tells whether the job's end was asked for.
	Cancelled(ctx context.Context, job string) (bool, error)
	// Show keeps how far the work of a step is, and tells whether the job's end was asked for.
	Show(ctx context.Context, job string, p api.Progress) (cancelled bool, err error)
	// Children are the jobs that a job has started. Only plans with Parent need it.
	Children(ctx context.Context, job string) ([]Child, error)
	// Cancel asks for the end of a child. One that is past its decision goes on, and that is no error.
	Cancel(ctx context.Context, job string) error
}

// Options are what Run needs of the world. All must be set.
type Options struct {
	Pause func(ctx context.Context) error // waits before something is tried again; an error when ctx has ended
	Tick  func(ctx context.Context) error // waits between two looks at the progress
	Visit func(job string, s Step)        // called at each step, before anything is done there; tests kill the process in it
	Note  func(n Note)                    // for the log
}

// Note tells what happens to a job, for the log.
type Note struct {
	Job  string
	Step Step
	What string // Visited, Reached, …
	Err  error
}

// What a Note tells.
const (
	Visited  = "visit a step"                            // before its work
	Reached  = "reached"                                 // written
	Repeated = "step failed; trying again"               // past the decision, or on the way back
	Fails    = "job fails"                               // goes back because of Err
	Rereads  = "write a step; reading the journal again" // Err is the journal's
	Unread   = "read the journal; trying again"
	Unseen   = "keep the progress" // Err is Progress's, Show's, or Stop's
)

type run[R any] struct {
	kind    Kind[R]
	journal Journal[R]
	o       Options
	rec     R          // as the journal has it
	found   bool       // rec was read, and not written by this run: what was at work there is gone
	lost    *api.Error // why, if found because of an error
}

// Run takes a job from the step in its journal to its end, and returns nil. It returns nil earlier when ctx ends, when a
// step says ErrWait, and when the journal has no such job. An error means that nothing was done: the record cannot be read,
// or is at a step that the plan does not have (of a newer release).
func Run[R any](ctx context.Context, k Kind[R], j Journal[R], o Options, job string) error {
	rec, err := j.Read(ctx, job)
	if errors.Is(err, ErrGone) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read job %s: %w", job, err)
	}
	r := &run[R]{kind: k, journal: j, o: o, rec: rec, found: true}
	for ctx.Err() == nil {
		step := r.head().Step
		at, known := k.Plan.At(step)
		if !known {
			return api.Errorf(api.CodeInternal, "job %s is at an unknown step %q", job, string(step))
		}
		if at.Stage.Ended() {
			return nil
		}
		o.Visit(job, step)
		r.note(Visited, nil)
		if err := r.step(ctx, at); err != nil && !r.recover(ctx, at, err) {
			return nil
		}
	}
	return nil
}

func (r *run[R]) head() *Head { return r.kind.Head(&r.rec) }

func (r *run[R]) note(what string, err error) {
	r.o.Note(Note{Job: r.head().Job, Step: r.head().Step, What: what, Err: err})
}

// step does the work of a step and journals what it has reached.
func (r *run[R]) step(ctx context.Context, at Point) error {
	if at.Lost != "" && r.found {
		return r.goBack(ctx, at, r.lost)
	}
	if at.Stage == Open {
		cancelled, err := r.journal.Cancelled(ctx, r.head().Job)
		if err != nil {
			return err
		}
		if cancelled {
			return ErrCancelled
		}
	}
	if at.Wait || at.Stage == Undoing {
		if err := r.settle(ctx, at, at.Stage == Undoing); err != nil {
			return err
		}
	}
	next := r.rec
	to, err := r.work(ctx, &next)
	if err != nil {
		return err
	}
	return r.advance(ctx, next, to)
}

// work does what follows the step. While it is at work, its progress is kept and a cancel is passed on to it.
func (r *run[R]) work(ctx context.Context, next *R) (Step, error) {
	w := r.kind.Work[r.head().Step]
	if w.Do == nil {
		return "", api.Errorf(api.CodeInternal, "kind %s has no work for step %s", r.kind.Plan.Name, r.head().Step)
	}
	if w.Progress == nil {
		return w.Do(ctx, next)
	}
	doing, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	watching, end := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		r.follow(watching, w, stop)
	}()
	to, err := w.Do(doing, next)
	end()
	<-done
	if err != nil && r.kind.Plan.Cancellable(r.head().Step) {
		cancelled, e := r.journal.Cancelled(ctx, r.head().Job)
		if e != nil {
			return to, e
		}
		if cancelled {
			return to, ErrCancelled // whatever it looked like to the work
		}
	}
	return to, err
}

// follow keeps the progress of a step's work until ctx ends. The record is not changed meanwhile.
func (r *run[R]) follow(ctx context.Context, w Work[R], stop context.CancelCauseFunc) {
	for r.o.Tick(ctx) == nil {
		rec := r.rec
		p, err := w.Progress(ctx, &rec)
		if err != nil {
			p = api.Progress{}
		}
		cancelled, err := r.journal.Show(ctx, r.head().Job, p)
		if err != nil {
			r.note(Unseen, err)
		}
		switch {
		case !cancelled || !r.kind.Plan.Cancellable(r.head().Step):
		case w.Stop == nil:
			stop(ErrCancelled)
		default:
			if err := w.Stop(ctx, &rec); err != nil {
				r.note(Unseen, err)
			}
		}
	}
}

// advance journals a step. Only then is it true.
func (r *run[R]) advance(ctx context.Context, next R, to Step) error {
	from := r.head().Step
	if err := r.kind.Plan.Follows(from, to); err != nil {
		return err
	}
	if at, _ := r.kind.Plan.At(to); at.Stage.Ended() && r.kind.Plan.Parent {
		if err := r.settle(ctx, Point{}, at.Stage == Failed); err != nil {
			return err
		}
	}
	r.kind.Head(&next).Step = to
	err := r.journal.Advance(ctx, from, &next)
	switch {
	case err == nil:
		r.rec, r.found, r.lost = next, false, nil
		r.note(Reached, nil)
		return nil
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(err, ErrCancelled) && r.kind.Plan.Decides(from, to):
		return ErrCancelled
	case errors.Is(err, ErrGone):
		return ErrGone
	}
	if r.lost = r.kind.Head(&next).Failure; r.lost == nil {
		r.lost = r.failure(err)
	}
	return fmt.Errorf("%w: write step %s: %w", errJournal, to, err)
}

// recover decides what follows an error of a step, and tells whether to go on. Before the decision an error leads back. Past
// it, and on the way back, the step is only ever repeated, whatever the error is.
func (r *run[R]) recover(ctx context.Context, at Point, err error) bool {
	switch {
	case ctx.Err() != nil || errors.Is(err, ErrWait) || errors.Is(err, ErrGone): // what it worked for has come by itself, and ended it
		return false
	case errors.Is(err, errJournal):
		r.note(Rereads, err)
		return r.reread(ctx)
	case at.Stage != Open:
		r.note(Repeated, err)
		return r.o.Pause(ctx) == nil
	}
	if err = r.goBack(ctx, at, r.failure(err)); err == nil || ctx.Err() != nil {
		return ctx.Err() == nil
	}
	if errors.Is(err, ErrGone) {
		return false
	}
	r.note(Rereads, err)
	return r.reread(ctx)
}

// goBack journals the step to which an error leads; why is nil when the work of the step was lost with its process. An error
// that it returns is the journal's, or the end of ctx.
func (r *run[R]) goBack(ctx context.Context, at Point, why *api.Error) error {
	if why == nil {
		why = api.Errorf(api.CodeUnavailable, "%s", at.Lost)
	}
	next := r.rec
	if h := r.kind.Head(&next); h.Failure == nil {
		h.Failure = why
	}
	r.note(Fails, why)
	return r.advance(ctx, next, at.Back)
}

func (r *run[R]) failure(err error) *api.Error {
	e := &api.Error{Code: api.CodeInternal, Message: err.Error()}
	errors.As(err, &e)
	return &api.Error{Code: e.Code, Message: r.kind.Plan.Doing(r.head().Step) + ": " + e.Message, Reasons: e.Reasons}
}

// reread takes the job to where the journal says it is, after a write whose outcome is not known. It tells whether the job
// is still there.
func (r *run[R]) reread(ctx context.Context) bool {
	for r.o.Pause(ctx) == nil {
		rec, err := r.journal.Read(ctx, r.head().Job)
		if errors.Is(err, ErrGone) {
			return false // the step was its last one
		}
		if err == nil {
			r.rec, r.found = rec, true
			return true
		}
		r.note(Unread, err)
	}
	return false
}

// settle waits until all children of the job have ended; with end it asks them to. Where the job can be cancelled, that ends
// the waiting.
func (r *run[R]) settle(ctx context.Context, at Point, end bool) error {
	if !r.kind.Plan.Parent {
		return nil
	}
	for {
		left, err := r.unended(ctx, end)
		if err == nil && left == 0 {
			return nil
		}
		if err != nil {
			r.note(Repeated, err)
		}
		if !end && at.Wait && at.Stage == Open {
			if cancelled, err := r.journal.Cancelled(ctx, r.head().Job); err == nil && cancelled {
				return ErrCancelled
			}
		}
		if err := r.o.Pause(ctx); err != nil {
			return err
		}
	}
}

// unended counts the children that have not ended; with end it asks them to.
func (r *run[R]) unended(ctx context.Context, end bool) (n int, err error) {
	all, err := r.journal.Children(ctx, r.head().Job)
	if err != nil {
		return 0, err
	}
	for _, child := range all {
		if child.Ended {
			continue
		}
		n++
		if end {
			err = errors.Join(err, r.journal.Cancel(ctx, child.Job))
		}
	}
	return n, err
}
