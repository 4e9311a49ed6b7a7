package jobs

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"strings"

	"widecloud/api"
	"widecloud/internal/control/objects"
	"widecloud/internal/saga"
	"widecloud/internal/state"
	"widecloud/internal/store"
)

// Kind is a kind of job that this controller runs.
type Kind interface {
	plan() saga.Plan
	unended(tx *state.Tx) []string
	run(ctx context.Context, job string)
}

// Of are the jobs of one kind, whose records are of type R. Each has a record under prefix while it runs, and an
// api.Job that stays when it has ended.
type Of[R any] struct {
	Jobs      *Jobs
	Kind      saga.Kind[R]
	Prefix    string                                     // PREFIX/JOB -> R
	Failpoint string                                     // FAILPOINT.STEP is called at each step
	Means     func(tx *state.Tx, j *api.Job, r *R) error // what a record's new step means for objects; it may change the job
	About     func(r *R) []any                           // for the log: what the job works on
	After     func(r *R)                                 // if set, is called after each Advance, whatever became of it
}

func (s *Of[R]) plan() saga.Plan { return s.Kind.Plan }

func (s *Of[R]) unended(tx *state.Tx) (names []string) {
	for key := range tx.Objects(s.Prefix) {
		names = append(names, strings.TrimPrefix(key, s.Prefix))
	}
	return names
}

// Begin makes a job in the transaction that gives it its object. The record's head and the job's status are filled in, and who started
// it: the transaction's actor.
func (s *Of[R]) Begin(tx *state.Tx, j *api.Job, r *R) error {
	first := s.Kind.Plan.First()
	*s.Kind.Head(r) = saga.Head{Job: j.Name, Step: first}
	j.Spec.Type = s.Kind.Plan.Name
	if j.Spec.By = cmp.Or(j.Spec.By, tx.Actor()); j.Spec.By == "" {
		j.Spec.By = objects.BySite(s.Jobs.Name)
	}
	j.Status.State, j.Status.Step, j.Status.Started = api.JobRunning, s.Kind.Plan.Doing(first), s.Jobs.Now()
	if err := objects.PutRecord(tx, s.Prefix+j.Name, r); err != nil {
		return err
	}
	return objects.Put(tx, j)
}

// run takes a job to its end, or to where it has to wait.
func (s *Of[R]) run(ctx context.Context, job string) {
	ctx = store.Urgent(ctx) // it has begun, and must be able to end
	j := &journal[R]{Of: s, log: s.Jobs.Log.With("job", job)}
	err := saga.Run(ctx, s.Kind, j, saga.Options{
		Pause: s.Jobs.Pause,
		Tick:  func(ctx context.Context) error { return s.Jobs.PauseFor(ctx, s.Jobs.ProgressEvery) },
		Visit: func(_ string, step saga.Step) { s.Jobs.Failpoint(s.Failpoint + "." + string(step)) },
		Note:  j.note,
	}, job)
	if err != nil && ctx.Err() == nil {
		s.Jobs.Log.Error("run a job", "job", job, "err", err)
	}
}

// journal is the store as the journal of one job that is being run.
type journal[R any] struct {
	*Of[R]
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
	err = j.Jobs.Read(ctx, func(tx *state.Tx) (err error) {
		r, err = objects.Record[R](tx, j.Prefix+job)
		return err
	})
	if errors.Is(err, store.ErrNotFound) {
		return r, saga.ErrGone
	}
	if err == nil {
		j.log = j.Jobs.Log.With(append([]any{"job", job}, j.About(&r)...)...)
	}
	return r, err
}

// Advance journals a step and what it means for objects, in one transaction.
func (j *journal[R]) Advance(ctx context.Context, from saga.Step, r *R) error {
	h := j.Kind.Head(r)
	if j.After != nil {
		defer j.After(r)
	}
	err := j.Jobs.Write(ctx, func(tx *state.Tx) error {
		stored, err := objects.Record[R](tx, j.Prefix+h.Job)
		if errors.Is(err, store.ErrNotFound) {
			return saga.ErrGone
		}
		if err != nil {
			return err
		}
		if at := j.Kind.Head(&stored).Step; at != from {
			return api.Errorf(api.CodeConflict, "job %s is at %s, not at %s", h.Job, at, from)
		}
		job, err := objects.Get[api.Job](tx, h.Job)
		if err != nil {
			return err
		}
		if j.Kind.Plan.Decides(from, h.Step) && job.Spec.Cancel {
			return saga.ErrCancelled // in the deciding transaction itself: a wish that was accepted is kept
		}
		j.show(job, h)
		if err := j.Means(tx, job, r); err != nil {
			return err
		}
		return j.keep(tx, job, r)
	})
	if err != nil {
		return err
	}
	j.log.Info(j.Kind.Plan.Name, "step", h.Step)
	j.Jobs.Poke()
	return nil
}

// Finish ends a job whose last step something else has reached than its own work.
func (s *Of[R]) Finish(tx *state.Tx, r *R) error {
	h := s.Kind.Head(r)
	job, err := objects.Get[api.Job](tx, h.Job)
	if err != nil {
		return err
	}
	job.Status.Message = "" // of what it waited for
	s.show(job, h)
	return s.keep(tx, job, r)
}

// keep writes a record, and its job, at a new step.
func (s *Of[R]) keep(tx *state.Tx, job *api.Job, r *R) (err error) {
	h := s.Kind.Head(r)
	if s.Kind.Plan.Ended(h.Step) {
		err = objects.Remove(tx, s.Prefix+h.Job)
	} else {
		err = objects.PutRecord(tx, s.Prefix+h.Job, r)
	}
	if err != nil {
		return err
	}
	return objects.Put(tx, job)
}

// show writes into a job which step it has reached.
func (s *Of[R]) show(job *api.Job, h *saga.Head) {
	now := s.Jobs.Now()
	job.Status.Step = string(h.Step)
	job.Status.Journal = append(job.Status.Journal, api.JournalRow{Step: string(h.Step), Time: now})
	if h.Failure != nil {
		job.Status.Message, job.Status.Reasons = h.Failure.Message, h.Failure.Reasons
	}
	switch at, _ := s.Kind.Plan.At(h.Step); {
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
	err = j.Jobs.Read(ctx, func(tx *state.Tx) error {
		o, err := objects.Find[api.Job](tx, job)
		cancelled = err == nil && o.Spec.Cancel
		return err
	})
	return cancelled, err
}

// Show keeps how far a job is (zero: as before). While the store is full it writes only that, once.
func (j *journal[R]) Show(ctx context.Context, job string, p api.Progress) (cancelled bool, err error) {
	if err := j.Jobs.State.Room(ctx); errors.Is(err, store.ErrFull) != j.full && ctx.Err() == nil {
		j.full = !j.full
		j.showFull(ctx, job)
	}
	if j.full {
		p = api.Progress{}
	}
	_, err = objects.Change(ctx, j.Jobs.Site, job, func(_ *state.Tx, o *api.Job) error {
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
	if _, err := objects.Change(ctx, j.Jobs.Site, job, func(_ *state.Tx, o *api.Job) error {
		o.Status.Message = message
		return nil
	}); err != nil && ctx.Err() == nil {
		j.log.Error("show that the disk is full", "err", err)
	}
}

func (j *journal[R]) Children(ctx context.Context, job string) (children []saga.Child, err error) {
	err = j.Jobs.Read(ctx, func(tx *state.Tx) error {
		children = nil
		for o := range objects.By[api.Job](tx, "parent", job) {
			children = append(children, saga.Child{Job: o.Name, Ended: o.Status.State.Ended()})
		}
		return nil
	})
	return children, err
}

func (j *journal[R]) Cancel(ctx context.Context, job string) error {
	_, err := j.Jobs.cancelJob(ctx, job, func(*state.Tx, *api.Job) error { return nil })
	if errors.Is(err, &api.Error{Code: api.CodeConflict}) {
		return nil
	}
	return err
}
