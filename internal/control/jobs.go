package control

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"time"

	"widecloud/api"
	"widecloud/internal/access"
	"widecloud/internal/saga"
	"widecloud/internal/state"
	"widecloud/internal/store"
)

// jobKind is a kind of job that this controller runs.
type jobKind interface {
	plan() saga.Plan
	unended(tx *state.Tx) []string
	run(ctx context.Context, job string)
}

// jobs are the jobs of one kind, whose records are of type R. Each has a record under prefix while it runs, and an
// api.Job that stays when it has ended.
type jobs[R any] struct {
	c         *Controller
	kind      saga.Kind[R]
	prefix    string                                     // PREFIX/JOB -> R
	failpoint string                                     // FAILPOINT.STEP is called at each step
	means     func(tx *state.Tx, j *api.Job, r *R) error // what a record's new step means for objects; it may change the job
	about     func(r *R) []any                           // for the log: what the job works on
	after     func(r *R)                                 // if set, is called after each Advance, whatever became of it
}

func (s *jobs[R]) plan() saga.Plan { return s.kind.Plan }

func (s *jobs[R]) unended(tx *state.Tx) (names []string) {
	for key := range tx.Objects(s.prefix) {
		names = append(names, strings.TrimPrefix(key, s.prefix))
	}
	return names
}

// begin makes a job in the transaction that gives it its object. The record's head and the job's status are filled in.
func (s *jobs[R]) begin(tx *state.Tx, j *api.Job, r *R) error {
	first := s.kind.Plan.First()
	*s.kind.Head(r) = saga.Head{Job: j.Name, Step: first}
	j.Spec.Type = s.kind.Plan.Name
	j.Status.State, j.Status.Step, j.Status.Started = api.JobRunning, s.kind.Plan.Doing(first), s.c.now()
	if err := putJSON(tx, s.prefix+j.Name, r); err != nil {
		return err
	}
	return put(tx, j)
}

// run takes a job to its end, or to where it has to wait.
func (s *jobs[R]) run(ctx context.Context, job string) {
	ctx = store.Urgent(ctx) // it has begun, and must be able to end
	j := &journal[R]{jobs: s, log: s.c.log.With("job", job)}
	err := saga.Run(ctx, s.kind, j, saga.Options{
		Pause: s.c.pause,
		Tick:  func(ctx context.Context) error { return s.c.pauseFor(ctx, s.c.o.ProgressEvery) },
		Visit: func(_ string, step saga.Step) { s.c.o.Failpoint(s.failpoint + "." + string(step)) },
		Note:  j.note,
	}, job)
	if err != nil && ctx.Err() == nil {
		s.c.log.Error("run a job", "job", job, "err", err)
	}
}

// journal is the store as the journal of one job that is being run.
type journal[R any] struct {
	*jobs[R]
	log  *slog.Logger
	full bool // the job shows that the store is full
}

func (j *journal[R]) note(n saga.Note) {
	log := j.log.With("step", n.Step)
	switch n.What {
	case saga.Reached: // Advance has said it, with the new step
	case saga.Visited, saga.Unseen:
		log.Debug(n.What, "err", n.Err)
	case saga.Rereads, saga.Unread:
		log.Error(n.What, "err", n.Err)
	default:
		log.Warn(n.What, "err", n.Err)
	}
}

func (j *journal[R]) Read(ctx context.Context, job string) (r R, err error) {
	err = j.c.view(ctx, func(tx *state.Tx) (err error) {
		r, err = getJSON[R](tx, j.prefix+job)
		return err
	})
	if errors.Is(err, store.ErrNotFound) {
		return r, saga.ErrGone
	}
	if err == nil {
		j.log = j.c.log.With(append([]any{"job", job}, j.about(&r)...)...)
	}
	return r, err
}

// Advance journals a step and what it means for objects, in one transaction.
func (j *journal[R]) Advance(ctx context.Context, from saga.Step, r *R) error {
	h := j.kind.Head(r)
	if j.after != nil {
		defer j.after(r)
	}
	err := j.c.update(ctx, func(tx *state.Tx) error {
		stored, err := getJSON[R](tx, j.prefix+h.Job)
		if err != nil {
			return err
		}
		if at := j.kind.Head(&stored).Step; at != from {
			return api.Errorf(api.CodeConflict, "job %s is at %s, not at %s", h.Job, at, from)
		}
		job, err := get[api.Job](tx, h.Job)
		if err != nil {
			return err
		}
		if j.kind.Plan.Decides(from, h.Step) && job.Spec.Cancel {
			return saga.ErrCancelled // in the deciding transaction itself: a wish that was accepted is kept
		}
		j.show(job, h)
		if err := j.means(tx, job, r); err != nil {
			return err
		}
		return j.keep(tx, job, r)
	})
	if err != nil {
		return err
	}
	j.log.Info(j.kind.Plan.Name, "step", h.Step)
	j.c.poke()
	return nil
}

// finish ends a job whose last step something else has reached than its own work.
func (s *jobs[R]) finish(tx *state.Tx, r *R) error {
	h := s.kind.Head(r)
	job, err := get[api.Job](tx, h.Job)
	if err != nil {
		return err
	}
	s.show(job, h)
	return s.keep(tx, job, r)
}

// keep writes a record, and its job, at a new step.
func (s *jobs[R]) keep(tx *state.Tx, job *api.Job, r *R) (err error) {
	h := s.kind.Head(r)
	if s.kind.Plan.Ended(h.Step) {
		err = remove(tx, s.prefix+h.Job)
	} else {
		err = putJSON(tx, s.prefix+h.Job, r)
	}
	if err != nil {
		return err
	}
	return put(tx, job)
}

// show writes into a job which step it has reached.
func (s *jobs[R]) show(job *api.Job, h *saga.Head) {
	now := s.c.now()
	job.Status.Step = string(h.Step)
	job.Status.Journal = append(job.Status.Journal, api.JournalRow{Step: string(h.Step), Time: now})
	if h.Failure != nil {
		job.Status.Message, job.Status.Reasons = h.Failure.Message, h.Failure.Reasons
	}
	switch at, _ := s.kind.Plan.At(h.Step); {
	case at.Stage == saga.Undoing:
		job.Status.State = api.JobUndoing
	case at.Stage == saga.Done:
		job.Status.State, job.Status.Ended = api.JobDone, now
	case at.Stage == saga.Failed && job.Spec.Cancel:
		job.Status.State, job.Status.Ended = api.JobCancelled, now
	case at.Stage == saga.Failed:
		job.Status.State, job.Status.Ended = api.JobFailed, now
	}
}

func (j *journal[R]) Cancelled(ctx context.Context, job string) (cancelled bool, err error) {
	err = j.c.view(ctx, func(tx *state.Tx) error {
		o, err := find[api.Job](tx, job)
		cancelled = err == nil && o.Spec.Cancel
		return err
	})
	return cancelled, err
}

// Show keeps how far a job is (zero: as before). While the store is full it writes only that, once.
func (j *journal[R]) Show(ctx context.Context, job string, p api.Progress) (cancelled bool, err error) {
	if err := j.c.o.State.Room(ctx); errors.Is(err, store.ErrFull) != j.full && ctx.Err() == nil {
		j.full = !j.full
		j.showFull(ctx, job)
	}
	if j.full {
		p = api.Progress{}
	}
	_, err = change(ctx, j.c, job, func(_ *state.Tx, o *api.Job) error {
		if p != (api.Progress{}) {
			o.Status.Progress = p
		}
		cancelled = o.Spec.Cancel
		return nil
	})
	return cancelled, err
}

// showFull says in a job that the store has no room for new work, or has it again. The job goes on by the reserve.
func (j *journal[R]) showFull(ctx context.Context, job string) {
	message := ""
	if j.full {
		message = "the disk of the controller is full; the job goes on with the room that is kept for it"
	}
	j.log.Warn("room for the journal of a job", "full", j.full)
	if _, err := change(ctx, j.c, job, func(_ *state.Tx, o *api.Job) error {
		o.Status.Message = message
		return nil
	}); err != nil && ctx.Err() == nil {
		j.log.Error("show that the disk is full", "err", err)
	}
}

func (j *journal[R]) Children(ctx context.Context, job string) (children []saga.Child, err error) {
	err = j.c.view(ctx, func(tx *state.Tx) error {
		children = nil
		for o := range by[api.Job](tx, "parent", job) {
			children = append(children, saga.Child{Job: o.Name, Ended: o.Status.State.Ended()})
		}
		return nil
	})
	return children, err
}

func (j *journal[R]) Cancel(ctx context.Context, job string) error {
	_, err := j.c.cancelJob(ctx, job, func(*state.Tx, *api.Job) error { return nil })
	if errors.Is(err, &api.Error{Code: api.CodeConflict}) {
		return nil
	}
	return err
}

// runJobs sets every job that is not at work to work.
func (c *Controller) runJobs(ctx context.Context) error {
	for _, k := range c.kinds {
		var names []string
		if err := c.view(ctx, func(tx *state.Tx) error {
			names = k.unended(tx)
			return nil
		}); err != nil {
			return err
		}
		for _, job := range names {
			c.once(k.plan().Name+"/"+job, func(ctx context.Context) { k.run(ctx, job) })
		}
	}
	return nil
}

// Cancel is serve.Controller's.
func (c *Controller) Cancel(ctx context.Context, p access.Actor, job string) (*api.Job, error) {
	ctx = asUser(ctx, p)
	return c.cancelJob(ctx, job, func(tx *state.Tx, j *api.Job) error {
		if !access.Sees(p, j) {
			return api.Errorf(api.CodeNotFound, "no job is called %q", job)
		}
		c.acted(tx, "cancel", j, "")
		return c.answer(ctx, tx, j)
	})
}

// cancelJob asks for the end of a job, if may allows it; api.CodeConflict when it is too late for that.
func (c *Controller) cancelJob(ctx context.Context, job string, may func(*state.Tx, *api.Job) error) (*api.Job, error) {
	j, err := change(store.Urgent(ctx), c, job, func(tx *state.Tx, j *api.Job) error {
		if err := may(tx, j); err != nil {
			return err
		}
		if j.Status.State.Ended() {
			return api.Errorf(api.CodeConflict, "job %s has ended: %s", job, j.Status.State)
		}
		if !c.cancellable(j) {
			return api.Errorf(api.CodeConflict, "job %s is past the point where it can be cancelled (%s)", job, j.Status.Step)
		}
		j.Spec.Cancel = true
		return nil
	})
	c.poke()
	return j, err
}

func (c *Controller) cancellable(j *api.Job) bool {
	for _, k := range c.kinds {
		if p := k.plan(); p.Name == j.Spec.Type {
			step := saga.Step(j.Status.Step)
			if j.Status.Step == p.Doing(p.First()) { // as begin shows it
				step = p.First()
			}
			return p.Cancellable(step)
		}
	}
	return false
}

// pause waits a little before a call is repeated that has to succeed.
func (c *Controller) pause(ctx context.Context) error { return c.pauseFor(ctx, c.o.Retry) }

func (c *Controller) pauseFor(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return errHalt
	case <-time.After(d):
		return nil
	}
}

// errHalt says that there is nothing to do now.
var errHalt = errors.New("halt")

// jobsKept is how many ended jobs of each kind are kept before the oldest are forgotten.
const jobsKept = 200

// oldJobs are the keys of the jobs that are forgotten now.
func oldJobs(tx *state.Tx) (keys []string) {
	var past []saga.Past
	for j := range each[api.Job](tx) {
		past = append(past, saga.Past{Job: j.Name, Kind: j.Spec.Type, Parent: j.Spec.Parent, Ended: j.Status.Ended})
	}
	for _, j := range saga.Forget(past, jobsKept) {
		keys = append(keys, keyOf(api.KindJob, j))
	}
	return keys
}
