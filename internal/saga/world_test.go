package saga_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"

	"widecloud/api"
	"widecloud/internal/saga"
)

// fault is what goes wrong at a moment.
type fault int

const (
	fine   fault = iota
	before       // the write, the read or the work fails, and has done nothing
	after        // it has taken effect, and its answer is an error
	kill         // the process dies before it
	killed       // the process dies when it is done
	cancel       // a user asks for the end of the job before it
)

var (
	errFault = errors.New("no space left on device")
	errDead  = errors.New("the process is dead")
)

// record is a job's record in these tests.
type record struct {
	saga.Head
	Object string
	Parent string
	Kept   int // works whose result the journal has
}

func headOf(r *record) *saga.Head { return &r.Head }

// entry is a job as its journal has it.
type entry struct {
	plan   saga.Plan
	rec    record
	rows   []saga.Step
	cancel int // rows when its end was asked for; 0: it was not
	means  func(w *world, r record)
}

func (e *entry) ended() bool { return e.plan.Ended(e.rec.Step) }

// world is a store with jobs in it, and what they do. Processes come and go; it stays.
type world struct {
	mu      sync.Mutex
	jobs    map[string]*entry
	holders map[string]*string // by object
	done    []string           // JOB STEP of each work that has taken effect
	faults  []fault            // of the next moments; none left: all is well
	dead    bool
	die     context.CancelFunc
	notes   []string
	shown   map[string]api.Progress
}

func newWorld(faults ...fault) *world {
	return &world{jobs: map[string]*entry{}, holders: map[string]*string{}, shown: map[string]api.Progress{}, faults: faults}
}

// start makes a job, as one transaction does.
func (w *world) start(plan saga.Plan, job, object, parent string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.startLocked(plan, job, object, parent)
}

func (w *world) startLocked(plan saga.Plan, job, object, parent string) error {
	if w.holders[object] == nil {
		w.holders[object] = new(string)
	}
	if err := saga.Hold(object, w.holders[object], job); err != nil {
		return err
	}
	w.jobs[job] = &entry{plan: plan, rec: record{Head: saga.Head{Job: job, Step: plan.First()}, Object: object, Parent: parent}, rows: []saga.Step{plan.First()}}
	return nil
}

// ask asks for a job's end, and tells whether that was accepted.
func (w *world) ask(job string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.askLocked(job)
}

func (w *world) askLocked(job string) bool {
	e := w.jobs[job]
	if !e.plan.Cancellable(e.rec.Step) {
		return false
	}
	if e.cancel == 0 {
		e.cancel = len(e.rows)
	}
	return true
}

// moment is a point at which something may go wrong. It runs f, unless that is what goes wrong.
func (w *world) moment(job string, f func() error) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.dead {
		return errDead
	}
	now := fine
	if len(w.faults) > 0 {
		now, w.faults = w.faults[0], w.faults[1:]
	}
	switch now {
	case before:
		return errFault
	case kill:
		w.dead = true
		w.die()
		return errDead
	case cancel:
		w.askLocked(job)
	}
	if err := f(); err != nil {
		return err
	}
	switch now {
	case after:
		return errFault
	case killed:
		w.dead = true
		w.die()
		return errDead
	}
	return nil
}

// journal is what the engine sees of the world.
type journal struct{ *world }

func (j journal) Read(ctx context.Context, job string) (record, error) {
	var r record
	err := j.moment(job, func() error {
		e := j.jobs[job]
		if e == nil || e.ended() {
			return saga.ErrGone
		}
		r = e.rec
		return nil
	})
	return r, err
}

func (w *world) Advance(_ context.Context, from saga.Step, r *record) error {
	return w.moment(r.Job, func() error {
		e := w.jobs[r.Job]
		if e == nil {
			return saga.ErrGone
		}
		if e.rec.Step != from {
			return fmt.Errorf("%s is at %s, not at %s", r.Job, e.rec.Step, from)
		}
		if e.plan.Decides(from, r.Step) && e.cancel > 0 {
			return saga.ErrCancelled
		}
		e.rec = *r
		e.rows = append(e.rows, r.Step)
		if e.means != nil {
			e.means(w, *r)
		}
		if e.ended() {
			saga.Release(w.holders[r.Object], r.Job)
		}
		return nil
	})
}

func (w *world) Cancelled(_ context.Context, job string) (bool, error) {
	cancelled := false
	err := w.moment(job, func() error { cancelled = w.jobs[job].cancel > 0; return nil })
	return cancelled, err
}

func (w *world) Show(_ context.Context, job string, p api.Progress) (bool, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.shown[job] = p
	return w.jobs[job].cancel > 0, nil
}

func (w *world) Children(_ context.Context, job string) ([]saga.Child, error) {
	var all []saga.Child
	err := w.moment(job, func() error {
		for _, name := range slices.Sorted(maps.Keys(w.jobs)) {
			if e := w.jobs[name]; e.rec.Parent == job {
				all = append(all, saga.Child{Job: name, Ended: e.ended()})
			}
		}
		return nil
	})
	return all, err
}

func (w *world) Cancel(_ context.Context, job string) error {
	return w.moment(job, func() error { w.askLocked(job); return nil })
}

// work is what is done at a step: it is noted, and leads to the first that may follow, or elsewhere.
func (w *world) work(plan saga.Plan, s saga.Step) func(context.Context, *record) (saga.Step, error) {
	return func(_ context.Context, r *record) (saga.Step, error) {
		err := w.moment(r.Job, func() error {
			w.done = append(w.done, r.Job+" "+string(s))
			r.Kept++
			return nil
		})
		at, _ := plan.At(s)
		return at.Next[0], err
	}
}

// kind is a plan whose works are all noted.
func (w *world) kind(plan saga.Plan) saga.Kind[record] {
	k := saga.Kind[record]{Plan: plan, Head: headOf, Work: map[saga.Step]saga.Work[record]{}}
	for _, at := range plan.Points {
		if !at.Stage.Ended() {
			k.Work[at.Step] = saga.Work[record]{Do: w.work(plan, at.Step)}
		}
	}
	return k
}

// boot is a process that runs jobs; it lives until it is killed.
func (w *world) boot() context.Context {
	ctx, die := context.WithCancel(context.Background())
	w.mu.Lock()
	defer w.mu.Unlock()
	w.dead, w.die = false, die
	return ctx
}

func (w *world) options() saga.Options {
	return saga.Options{
		Pause: func(ctx context.Context) error { return ctx.Err() },
		Tick:  func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() },
		Visit: func(job string, _ saga.Step) { w.moment(job, func() error { return nil }) },
		Note: func(n saga.Note) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.notes = append(w.notes, fmt.Sprintf("%s at %s: %s: %v", n.Job, n.Step, n.What, n.Err))
		},
	}
}

// unended are the jobs that have not ended, by name.
func (w *world) unended() (jobs []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, name := range slices.Sorted(maps.Keys(w.jobs)) {
		if !w.jobs[name].ended() {
			jobs = append(jobs, name)
		}
	}
	return jobs
}

// runAll runs processes, one after the other's death, until all jobs have ended. It tells after how many.
func (w *world) runAll(kindOf func(job string) saga.Kind[record], most int) (processes int, err error) {
	for processes = 1; ; processes++ {
		ctx := w.boot()
		for _, job := range w.unended() {
			saga.Run(ctx, kindOf(job), journal{w}, w.options(), job)
		}
		w.die()
		if len(w.unended()) == 0 {
			return processes, nil
		}
		if processes > most {
			return processes, fmt.Errorf("after %d processes %v have not ended:\n%v", processes, w.unended(), w.notes)
		}
	}
}
