package saga_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"widecloud/api"
	"widecloud/internal/saga"
)

// move is a plan with everything that a plan can have but children.
var move = saga.Plan{Name: "move", Points: []saga.Point{
	{Step: "asked", Stage: saga.Open, Doing: "check", Next: []saga.Step{"ready", "failed"}, Back: "failed"},
	{Step: "ready", Stage: saga.Open, Next: []saga.Step{"copying", "undo"}, Back: "undo"},
	{Step: "copying", Stage: saga.Open, Doing: "copy", Next: []saga.Step{"copied", "undo"}, Back: "undo", Lost: "the copy died with its process"},
	{Step: "copied", Stage: saga.Open, Next: []saga.Step{"decided", "undo"}, Back: "undo"},
	{Step: "decided", Stage: saga.Decided, Next: []saga.Step{"switched", "undo"}},
	{Step: "switched", Stage: saga.Decided, Next: []saga.Step{"done"}},
	{Step: "done", Stage: saga.Done},
	{Step: "undo", Stage: saga.Undoing, Next: []saga.Step{"failed"}},
	{Step: "failed", Stage: saga.Failed},
}}

func TestPlan(t *testing.T) {
	if err := move.Check(); err != nil {
		t.Fatal(err)
	}
	if move.First() != "asked" || move.Doing("asked") != "check" || move.Doing("ready") != "ready" {
		t.Errorf("first %s, doing %s, %s", move.First(), move.Doing("asked"), move.Doing("ready"))
	}
	var cancellable, decided, ended []saga.Step
	for _, at := range move.Points {
		if move.Cancellable(at.Step) {
			cancellable = append(cancellable, at.Step)
		}
		if move.Decided(at.Step) {
			decided = append(decided, at.Step)
		}
		if move.Ended(at.Step) {
			ended = append(ended, at.Step)
		}
		for _, to := range move.Points {
			if got, want := move.Decides(at.Step, to.Step), at.Stage == saga.Open && (to.Step == "decided" || to.Step == "switched" || to.Step == "done"); got != want {
				t.Errorf("%s to %s decides: %t", at.Step, to.Step, got)
			}
		}
	}
	want := [][]saga.Step{{"asked", "ready", "copying", "copied"}, {"decided", "switched", "done"}, {"done", "failed"}}
	if d := cmp.Diff(want, [][]saga.Step{cancellable, decided, ended}); d != "" {
		t.Errorf("cancellable, decided, ended (-want +got):\n%s", d)
	}
	for _, c := range []struct{ from, to saga.Step }{{"", "ready"}, {"asked", ""}, {"nowhere", "done"}, {"asked", "copying"}, {"switched", "undo"}, {"done", "undo"}, {"copying", "copying"}} {
		if err := move.Follows(c.from, c.to); !errors.Is(err, &api.Error{Code: api.CodeConflict}) {
			t.Errorf("%q to %q: %v", c.from, c.to, err)
		}
	}
}

func TestPlanCheck(t *testing.T) {
	end := saga.Point{Step: "done", Stage: saga.Done}
	failed := saga.Point{Step: "failed", Stage: saga.Failed}
	to := func(s ...saga.Step) []saga.Step { return s }
	for want, points := range map[string][]saga.Point{
		"needs a name and points": nil,
		"there twice":             {{Step: "a", Stage: saga.Decided, Next: to("done")}, end, end},
		"exactly if it is a last": {{Step: "a", Stage: saga.Decided}},
		"from Open steps":         {{Step: "a", Stage: saga.Open, Next: to("done")}, end},
		"not one of Next":         {{Step: "a", Stage: saga.Open, Next: to("done"), Back: "failed"}, end, failed},
		"does not lead back":      {{Step: "a", Stage: saga.Open, Next: to("done"), Back: "done"}, end},
		"not in the plan":         {{Step: "a", Stage: saga.Decided, Next: to("done")}},
		"can be lost":             {{Step: "a", Stage: saga.Decided, Next: to("done"), Lost: "x"}, end},
		"not a parent's":          {{Step: "a", Stage: saga.Decided, Next: to("done"), Wait: true}, end},
		"failed cannot follow":    {{Step: "a", Stage: saga.Decided, Next: to("done", "failed")}, end, failed},
		"done cannot follow":      {{Step: "a", Stage: saga.Undoing, Next: to("done")}, end},
		"in circles":              {{Step: "a", Stage: saga.Decided, Next: to("b")}, {Step: "b", Stage: saga.Decided, Next: to("a")}},
	} {
		if err := (saga.Plan{Name: "p", Points: points}).Check(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want %q: %v", want, err)
		}
	}
}

func TestHold(t *testing.T) {
	holder := ""
	if err := saga.Hold("VM web1", &holder, "move-1"); err != nil || holder != "move-1" {
		t.Fatalf("held by %q: %v", holder, err)
	}
	if err := saga.Hold("VM web1", &holder, "move-1"); err != nil {
		t.Errorf("again: %v", err)
	}
	err := saga.Hold("VM web1", &holder, "move-2")
	if want := "job move-1 is at work on VM web1; wait for it or cancel it: wcc job cancel move-1"; !errors.Is(err, &api.Error{Code: api.CodeConflict}) || !strings.Contains(err.Error(), want) {
		t.Errorf("another one: %v", err)
	}
	if saga.Release(&holder, "move-2"); holder != "move-1" {
		t.Errorf("another one has released it")
	}
	if saga.Release(&holder, "move-1"); holder != "" {
		t.Errorf("still held by %s", holder)
	}
}

func TestForget(t *testing.T) {
	at := func(minutes int) time.Time { return time.Date(2026, 12, 1, 0, minutes, 0, 0, time.UTC) }
	jobs := []saga.Past{
		{Job: "another", Kind: "import", Ended: at(0)}, // alone of its kind
		{Job: "new", Ended: at(9)}, {Job: "old", Ended: at(1)}, {Job: "older", Ended: at(0)}, {Job: "runs"},
		{Job: "child", Parent: "runs", Ended: at(0)}, {Job: "parent", Ended: at(3)}, {Job: "grown", Parent: "parent", Ended: at(2)},
	}
	for keep, want := range map[int][]string{
		9: nil, 6: nil, 5: nil, 4: {"older"}, 3: {"older", "old"}, 2: {"older", "old"}, 1: {"older", "old", "grown", "parent"}, 0: {"another", "older", "old", "grown", "parent", "new"},
	} {
		if d := cmp.Diff(want, saga.Forget(jobs, keep)); d != "" {
			t.Errorf("keep %d (-want +got):\n%s", keep, d)
		}
	}
}
