package saga_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"widecloud/internal/saga"
)

// anyPlan draws a valid plan: some steps before the decision, some past it, some on the way back.
func anyPlan(rt *rapid.T, name string) saga.Plan {
	p := saga.Plan{Name: name}
	open, decided, undoing := rapid.IntRange(1, 4).Draw(rt, "open"), rapid.IntRange(0, 3).Draw(rt, "decided"), rapid.IntRange(0, 3).Draw(rt, "undoing")
	step := func(what string, i, n int, end saga.Step) saga.Step {
		if i >= n {
			return end
		}
		return saga.Step(fmt.Sprintf("%s%d", what, i))
	}
	for i := range open {
		at := saga.Point{Step: step("open", i, open, ""), Back: "failed"}
		if undoing > 0 && i > 0 {
			at.Back = step("undo", rapid.IntRange(0, undoing-1).Draw(rt, "back"), undoing, "failed")
		}
		next := step("open", i+1, open, step("decided", 0, decided, "done"))
		at.Next = []saga.Step{next, at.Back}
		if rapid.Bool().Draw(rt, "lost") && i > 0 {
			at.Lost = "it died with its process"
		}
		p.Points = append(p.Points, at)
	}
	for i := range decided {
		p.Points = append(p.Points, saga.Point{Step: step("decided", i, decided, ""), Stage: saga.Decided, Next: []saga.Step{step("decided", i+1, decided, "done")}})
	}
	for i := range undoing {
		p.Points = append(p.Points, saga.Point{Step: step("undo", i, undoing, ""), Stage: saga.Undoing, Next: []saga.Step{step("undo", i+1, undoing, "failed")}})
	}
	p.Points = append(p.Points, saga.Point{Step: "done", Stage: saga.Done}, saga.Point{Step: "failed", Stage: saga.Failed})
	return p
}

// TestAnySchedule runs jobs of any plans over a few objects, while reads, writes and works fail before or after they take
// effect, processes die, and users cancel. Never is a job undone past its decision, an accepted cancel forgotten, or an object
// held twice; and all jobs end once nothing fails any more.
func TestAnySchedule(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		w := newWorld(rapid.SliceOfN(rapid.SampledFrom([]fault{fine, fine, fine, before, after, kill, killed, cancel}), 0, 120).Draw(rt, "faults")...)
		kinds := map[string]saga.Kind[record]{}
		jobs := rapid.IntRange(1, 4).Draw(rt, "jobs")
		for i := range jobs {
			plan := anyPlan(rt, fmt.Sprintf("kind%d", i))
			if err := plan.Check(); err != nil {
				rt.Fatal(err)
			}
			job, object := fmt.Sprintf("job-%d", i), fmt.Sprintf("VM web%d", rapid.IntRange(0, 1).Draw(rt, "object"))
			holder := ""
			if h := w.holders[object]; h != nil {
				holder = *h
			}
			err := w.start(plan, job, object, "")
			if (err == nil) != (holder == "") || err != nil && !strings.Contains(err.Error(), holder) {
				rt.Fatalf("%s wants %s, which %q holds: %v", job, object, holder, err)
			}
			if err == nil {
				kinds[job] = w.kind(plan)
			}
			if rapid.Bool().Draw(rt, "run now") {
				w.runSome(kinds)
			}
		}
		faults := len(w.faults)
		if _, err := w.runAll(func(job string) saga.Kind[record] { return kinds[job] }, faults+1); err != nil {
			rt.Fatal(err)
		}
		if why := w.unlawful(); why != "" {
			rt.Fatalf("%s\n%s", why, strings.Join(w.notes, "\n"))
		}
	})
}

// runSome runs all jobs in one process, which may die before they have ended.
func (w *world) runSome(kinds map[string]saga.Kind[record]) {
	ctx := w.boot()
	defer w.die()
	for _, job := range w.unended() {
		saga.Run(ctx, kinds[job], journal{w}, w.options(), job)
	}
}

// TestAnyFamily: whatever fails, a parent ends after its children, and all of them end.
func TestAnyFamily(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		w := newWorld(rapid.SliceOfN(rapid.SampledFrom([]fault{fine, fine, fine, before, after, kill, killed, cancel}), 0, 150).Draw(rt, "faults")...)
		plan := parent
		if rapid.Bool().Draw(rt, "direct") {
			plan = direct
		}
		k, o := family(w, plan)
		for n := len(w.faults) + 2; len(w.unended()) > 0; n-- {
			if n == 0 {
				rt.Fatalf("%v have not ended:\n%s", w.unended(), strings.Join(w.notes, "\n"))
			}
			ctx := w.boot()
			saga.Run(ctx, k, journal{w}, o, "parent-1")
			if left := w.unended(); len(left) > 0 && !slices.Contains(left, "parent-1") {
				rt.Fatalf("the parent has ended before %v", left)
			}
			w.die()
		}
		if why := w.unlawful(); why != "" {
			rt.Fatalf("%s\n%s", why, strings.Join(w.notes, "\n"))
		}
	})
}
