package saga_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"widecloud/api"
	"widecloud/internal/saga"
)

var forward = []saga.Step{"asked", "ready", "copying", "copied", "decided", "switched", "done"}

// once runs one job in one process.
func once(w *world, k saga.Kind[record], job string) error {
	return saga.Run(w.boot(), k, journal{w}, w.options(), job)
}

func TestRunForward(t *testing.T) {
	w := newWorld()
	w.start(move, "move-1", "VM web1", "")
	if err := once(w, w.kind(move), "move-1"); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(forward, w.jobs["move-1"].rows); d != "" {
		t.Errorf("journal (-want +got):\n%s", d)
	}
	if got := w.jobs["move-1"].rec.Kept; got != 6 {
		t.Errorf("the record has the results of %d works", got)
	}
	if err := once(w, w.kind(move), "move-1"); err != nil || len(w.done) != 6 {
		t.Errorf("a job that has ended was run again: %v %v", err, w.done)
	}
}

// TestWorkFails has the work of each step fail once: before the decision that leads back, with the reason; past it the step is
// repeated.
func TestWorkFails(t *testing.T) {
	for _, c := range []struct {
		at     saga.Step
		want   []saga.Step
		reason string
	}{
		{"asked", []saga.Step{"asked", "failed"}, "check: the target says no"},
		{"ready", []saga.Step{"asked", "ready", "undo", "failed"}, "ready: the target says no"},
		{"copying", []saga.Step{"asked", "ready", "copying", "undo", "failed"}, "copy: the target says no"},
		{"copied", []saga.Step{"asked", "ready", "copying", "copied", "undo", "failed"}, "copied: the target says no"},
		{"decided", forward, ""},
		{"switched", forward, ""},
	} {
		t.Run(string(c.at), func(t *testing.T) {
			w := newWorld()
			w.start(move, "move-1", "VM web1", "")
			k, failed := w.kind(move), false
			do := k.Work[c.at].Do
			k.Work[c.at] = saga.Work[record]{Do: func(ctx context.Context, r *record) (saga.Step, error) {
				if !failed {
					failed = true
					r.Kept += 100 // must not be kept
					return "", fmt.Errorf("at work: %w", &api.Error{Code: api.CodeRefused, Message: "the target says no", Reasons: []api.Reason{{Code: "room"}}})
				}
				return do(ctx, r)
			}}
			if err := once(w, k, "move-1"); err != nil {
				t.Fatal(err)
			}
			e := w.jobs["move-1"]
			if d := cmp.Diff(c.want, e.rows); d != "" {
				t.Errorf("journal (-want +got):\n%s", d)
			}
			if e.rec.Kept >= 100 {
				t.Errorf("what a failed work wrote into the record was kept")
			}
			switch f := e.rec.Failure; {
			case c.reason == "" && f != nil, c.reason != "" && (f == nil || f.Message != c.reason || f.Code != api.CodeRefused || len(f.Reasons) != 1):
				t.Errorf("the reason is %v, want %q", f, c.reason)
			}
		})
	}
}

// TestEachMoment has each single moment of a job (a read, a write, a work) go wrong in each way.
func TestEachMoment(t *testing.T) {
	for _, f := range []fault{before, after, kill, killed, cancel} {
		for n := 0; ; n++ {
			w := newWorld(append(make([]fault, n), f)...)
			w.start(move, "move-1", "VM web1", "")
			k := w.kind(move)
			if _, err := w.runAll(func(string) saga.Kind[record] { return k }, 3); err != nil {
				t.Fatalf("fault %d at moment %d: %v", f, n, err)
			}
			if why := w.unlawful(); why != "" {
				t.Errorf("fault %d at moment %d: %s\n%s", f, n, why, strings.Join(w.notes, "\n"))
			}
			if len(w.faults) > 0 {
				if n < 20 {
					t.Errorf("there were only %d moments", n)
				}
				break // there are no more moments
			}
		}
	}
}

// unlawful says what law a job has broken; "" is well.
func (w *world) unlawful() string {
	for name, e := range w.jobs {
		for i, s := range e.rows[1:] {
			if err := e.plan.Follows(e.rows[i], s); err != nil {
				return fmt.Sprintf("%s: %v", name, err)
			}
		}
		if !e.ended() || *w.holders[e.rec.Object] == name {
			return fmt.Sprintf("%s has not ended, or holds %s still", name, e.rec.Object)
		}
		last, _ := e.plan.At(e.rec.Step)
		if e.cancel > 0 && last.Stage == saga.Done {
			return fmt.Sprintf("%s: its end was asked for, and that was accepted: %v", name, e.rows)
		}
		if back := slices.IndexFunc(e.rows, func(s saga.Step) bool { at, _ := e.plan.At(s); return at.Stage == saga.Undoing }); back > 0 && e.plan.Decided(e.rows[back-1]) {
			return fmt.Sprintf("%s was undone past its decision: %v", name, e.rows)
		}
		if last.Stage == saga.Failed && e.rec.Failure == nil {
			return fmt.Sprintf("%s failed without a reason", name)
		}
	}
	// Works that have taken effect: each at a step that the journal has, and none of an earlier stage after a later one.
	stages := map[string]saga.Stage{}
	for _, d := range w.done {
		job, s, _ := strings.Cut(d, " ")
		e := w.jobs[job]
		at, _ := e.plan.At(saga.Step(s))
		if !slices.Contains(e.rows, at.Step) || at.Stage < stages[job] {
			return fmt.Sprintf("the work of %s of %s was done out of turn: %v, journal %v", s, job, w.done, e.rows)
		}
		stages[job] = at.Stage
	}
	return ""
}

// TestLost: work that died with its process is not done again; the job goes back and says why.
func TestLost(t *testing.T) {
	for name, c := range map[string]struct {
		die    bool
		reason string
	}{"killed": {true, "the copy died with its process"}, "the write of the result failed": {false, "copy: no space left on device"}} {
		t.Run(name, func(t *testing.T) {
			w := newWorld()
			w.start(move, "move-1", "VM web1", "")
			k := w.kind(move)
			do := k.Work["copying"].Do
			k.Work["copying"] = saga.Work[record]{Do: func(ctx context.Context, r *record) (saga.Step, error) {
				s, err := do(ctx, r)
				w.mu.Lock()
				defer w.mu.Unlock()
				w.faults = map[bool][]fault{true: {kill}, false: {before}}[c.die]
				return s, err
			}}
			if _, err := w.runAll(func(string) saga.Kind[record] { return k }, 3); err != nil {
				t.Fatal(err)
			}
			e := w.jobs["move-1"]
			if d := cmp.Diff([]saga.Step{"asked", "ready", "copying", "undo", "failed"}, e.rows); d != "" {
				t.Errorf("journal (-want +got):\n%s", d)
			}
			if e.rec.Failure.Message != c.reason {
				t.Errorf("the reason is %q", e.rec.Failure.Message)
			}
		})
	}
}

// TestBackByProof: only the work of a decided step itself leads back from there.
func TestBackByProof(t *testing.T) {
	w := newWorld()
	w.start(move, "move-1", "VM web1", "")
	k := w.kind(move)
	k.Work["decided"] = saga.Work[record]{Do: func(_ context.Context, r *record) (saga.Step, error) {
		r.Failure = api.Errorf(api.CodeUnavailable, "the target has lost it")
		return "undo", nil
	}}
	if err := once(w, k, "move-1"); err != nil {
		t.Fatal(err)
	}
	e := w.jobs["move-1"]
	if d := cmp.Diff([]saga.Step{"asked", "ready", "copying", "copied", "decided", "undo", "failed"}, e.rows); d != "" {
		t.Errorf("journal (-want +got):\n%s", d)
	}
	if e.rec.Failure.Message != "the target has lost it" {
		t.Errorf("the reason is %q", e.rec.Failure.Message)
	}
}

// TestCancelAtWork: a cancel reaches the work that is under way, by Stop or by the end of its context.
func TestCancelAtWork(t *testing.T) {
	for _, byStop := range []bool{false, true} {
		w := newWorld()
		w.start(move, "move-1", "VM web1", "")
		k := w.kind(move)
		o := w.options()
		o.Tick = func(ctx context.Context) error { return ctx.Err() }
		stopped := make(chan struct{})
		work := saga.Work[record]{
			Do: func(ctx context.Context, _ *record) (saga.Step, error) {
				w.ask("move-1")
				if byStop {
					<-stopped
					return "", errors.New("the source was told to stop")
				}
				<-ctx.Done()
				return "", context.Cause(ctx)
			},
			Progress: func(context.Context, *record) (api.Progress, error) { return api.Progress{MemoryDone: 7}, nil },
		}
		if byStop {
			first := true
			work.Stop = func(context.Context, *record) error {
				if first {
					first = false
					close(stopped)
				}
				return nil
			}
		}
		k.Work["copying"] = work
		if err := saga.Run(w.boot(), k, journal{w}, o, "move-1"); err != nil {
			t.Fatal(err)
		}
		e := w.jobs["move-1"]
		if d := cmp.Diff([]saga.Step{"asked", "ready", "copying", "undo", "failed"}, e.rows); d != "" {
			t.Errorf("by Stop %t: journal (-want +got):\n%s", byStop, d)
		}
		if e.rec.Failure.Message != "copy: it was cancelled" || w.shown["move-1"].MemoryDone != 7 {
			t.Errorf("by Stop %t: the reason is %q, shown %+v", byStop, e.rec.Failure.Message, w.shown["move-1"])
		}
	}
}

// TestCancelBetween: a cancel is followed at the next step, not only at the decision.
func TestCancelBetween(t *testing.T) {
	for at, want := range map[saga.Step][]saga.Step{"asked": {"asked", "failed"}, "ready": {"asked", "ready", "undo", "failed"}} {
		w := newWorld()
		w.start(move, "move-1", "VM web1", "")
		o := w.options()
		o.Visit = func(job string, s saga.Step) {
			if s == at {
				w.ask(job)
			}
		}
		if err := saga.Run(w.boot(), w.kind(move), journal{w}, o, "move-1"); err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(want, w.jobs["move-1"].rows); d != "" {
			t.Errorf("cancelled at %s: journal (-want +got):\n%s", at, d)
		}
	}
}

// TestWait: a step that has nothing to do until something changes leaves the job where it is.
func TestWait(t *testing.T) {
	w := newWorld()
	w.start(move, "move-1", "VM web1", "")
	k, changed := w.kind(move), false
	do := k.Work["ready"].Do
	k.Work["ready"] = saga.Work[record]{Do: func(ctx context.Context, r *record) (saga.Step, error) {
		if !changed {
			return "", saga.ErrWait
		}
		return do(ctx, r)
	}}
	if err := once(w, k, "move-1"); err != nil || w.jobs["move-1"].rec.Step != "ready" {
		t.Fatalf("at %s: %v", w.jobs["move-1"].rec.Step, err)
	}
	changed = true
	if err := once(w, k, "move-1"); err != nil || w.jobs["move-1"].rec.Step != "done" {
		t.Errorf("at %s: %v", w.jobs["move-1"].rec.Step, err)
	}
}

// TestEndedByAnother: a job that somebody else has ended while a step was at work is over, whatever the work comes to, and nobody has to
// look into the journal for that.
func TestEndedByAnother(t *testing.T) {
	for name, works := range map[string]error{"done": nil, "failed": errors.New("it is gone")} {
		t.Run(name, func(t *testing.T) {
			w := newWorld()
			w.start(move, "move-1", "VM web1", "")
			k := w.kind(move)
			do := k.Work["ready"].Do
			k.Work["ready"] = saga.Work[record]{Do: func(ctx context.Context, r *record) (saga.Step, error) {
				delete(w.jobs, "move-1")
				if works != nil {
					return "", works
				}
				return do(ctx, r)
			}}
			if err := once(w, k, "move-1"); err != nil {
				t.Fatal(err)
			}
			if i := slices.IndexFunc(w.notes, func(n string) bool { return strings.Contains(n, saga.Rereads) }); i >= 0 {
				t.Errorf("note: %s", w.notes[i])
			}
		})
	}
}

// TestUnknownStep: a job of a newer release is left alone.
func TestUnknownStep(t *testing.T) {
	w := newWorld()
	w.start(move, "move-1", "VM web1", "")
	w.jobs["move-1"].rec.Step = "compressed"
	if err := once(w, w.kind(move), "move-1"); err == nil || !strings.Contains(err.Error(), `unknown step "compressed"`) || len(w.done) > 0 {
		t.Errorf("%v, done %v", err, w.done)
	}
}

// parent starts two children with its second step, and waits for them at its third.
var parent = saga.Plan{Name: "parent", Parent: true, Points: []saga.Point{
	{Step: "asked", Stage: saga.Open, Next: []saga.Step{"started", "failed"}, Back: "failed"},
	{Step: "started", Stage: saga.Open, Next: []saga.Step{"done", "undo"}, Back: "undo", Wait: true},
	{Step: "done", Stage: saga.Done},
	{Step: "undo", Stage: saga.Undoing, Next: []saga.Step{"failed"}},
	{Step: "failed", Stage: saga.Failed},
}}

// direct is a parent that has nothing of its own to undo.
var direct = saga.Plan{Name: "direct", Parent: true, Points: []saga.Point{
	{Step: "asked", Stage: saga.Open, Next: []saga.Step{"started", "failed"}, Back: "failed"},
	{Step: "started", Stage: saga.Open, Next: []saga.Step{"done", "failed"}, Back: "failed", Wait: true},
	{Step: "done", Stage: saga.Done},
	{Step: "failed", Stage: saga.Failed},
}}

// family makes a parent; whenever it pauses, its children are run to their ends, in the same process.
func family(w *world, plan saga.Plan) (saga.Kind[record], saga.Options) {
	w.start(plan, "parent-1", "host h1", "")
	w.jobs["parent-1"].means = func(w *world, r record) {
		if r.Step == "started" {
			w.startLocked(move, "child-1", "VM web1", "parent-1")
			w.startLocked(move, "child-2", "VM web2", "parent-1")
		}
	}
	o := w.options()
	children := w.kind(move)
	o.Pause = func(ctx context.Context) error {
		for _, child := range w.unended() {
			if child != "parent-1" {
				saga.Run(ctx, children, journal{w}, w.options(), child)
			}
		}
		return ctx.Err()
	}
	return w.kind(plan), o
}

func TestChildren(t *testing.T) {
	for name, c := range map[string]struct {
		before             func(w *world)
		parent, one, other saga.Step
	}{
		"all done":          {func(*world) {}, "done", "done", "done"},
		"one was cancelled": {func(w *world) { w.ask("child-1") }, "done", "failed", "done"},
		"the parent was cancelled; one is past its decision": {func(w *world) {
			w.ask("parent-1")
			w.jobs["child-2"].rec.Step, w.jobs["child-2"].rows = "decided", forward[:5]
		}, "failed", "failed", "done"},
	} {
		for _, plan := range []saga.Plan{parent, direct} {
			if err := plan.Check(); err != nil {
				t.Fatal(err)
			}
			t.Run(name+"/"+plan.Name, func(t *testing.T) {
				w := newWorld()
				k, o := family(w, plan)
				pause, first := o.Pause, true
				o.Pause = func(ctx context.Context) error {
					if first {
						first = false
						c.before(w)
						return nil
					}
					return pause(ctx)
				}
				if err := saga.Run(w.boot(), k, journal{w}, o, "parent-1"); err != nil {
					t.Fatal(err)
				}
				got := []saga.Step{w.jobs["parent-1"].rec.Step, w.jobs["child-1"].rec.Step, w.jobs["child-2"].rec.Step}
				if left := w.unended(); len(left) > 0 {
					t.Errorf("the parent has ended before %v", left)
				}
				if d := cmp.Diff([]saga.Step{c.parent, c.one, c.other}, got); d != "" {
					t.Errorf("parent and children ended (-want +got):\n%s\n%s", d, strings.Join(w.notes, "\n"))
				}
			})
		}
	}
}
