package cloud_test

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"widecloud/api"
	"widecloud/internal/cloud"
	"widecloud/internal/saga"
)

var steps = []saga.Step{
	cloud.StepNone, cloud.StepChecked, cloud.StepReserved, cloud.StepPrepared, cloud.StepCopying, cloud.StepCopied,
	cloud.StepCommitted, cloud.StepSwitched, cloud.StepConfirmed, cloud.StepDone, cloud.StepUndo, cloud.StepFailed,
}

func nextSteps(from saga.Step) (next []saga.Step) {
	for _, to := range steps {
		if cloud.Migrate.Follows(from, to) == nil {
			next = append(next, to)
		}
	}
	return next
}

func TestMigrateSteps(t *testing.T) {
	for _, plan := range []saga.Plan{cloud.Migrate, cloud.Import, cloud.Delete, cloud.Bulk} {
		if err := plan.Check(); err != nil {
			t.Fatal(err)
		}
	}
	// The way forward, and from where there is a way back.
	forward := steps[:10]
	for i, s := range forward[:9] {
		if err := cloud.Migrate.Follows(s, forward[i+1]); err != nil {
			t.Error(err)
		}
		if cloud.Migrate.Doing(s) == "" || cloud.Migrate.Ended(s) {
			t.Errorf("%s: doing %q, ended %t", s, cloud.Migrate.Doing(s), cloud.Migrate.Ended(s))
		}
	}
	var undo, cancel, committed []saga.Step
	for _, s := range steps {
		if cloud.Migrate.Follows(s, cloud.StepUndo) == nil {
			undo = append(undo, s)
		}
		if cloud.Migrate.Cancellable(s) {
			cancel = append(cancel, s)
		}
		if cloud.Migrate.Decided(s) {
			committed = append(committed, s)
		}
	}
	if d := cmp.Diff(steps[1:7], undo); d != "" {
		t.Errorf("undone from (-want +got):\n%s", d)
	}
	if d := cmp.Diff(steps[:6], cancel); d != "" {
		t.Errorf("cancellable at (-want +got):\n%s", d)
	}
	if d := cmp.Diff(steps[6:10], committed); d != "" {
		t.Errorf("committed at (-want +got):\n%s", d)
	}
	for _, s := range steps {
		if cloud.Migrate.Ended(s) != (len(nextSteps(s)) == 0) {
			t.Errorf("%s: ended %t, next %v", s, cloud.Migrate.Ended(s), nextSteps(s))
		}
	}
	for _, tc := range []struct{ from, to saga.Step }{
		{"", cloud.StepChecked}, {cloud.StepNone, ""}, {cloud.StepNone, "copid"}, {cloud.StepCopied, cloud.StepCopying},
		{cloud.StepCopying, cloud.StepCommitted}, {cloud.StepSwitched, cloud.StepUndo}, {cloud.StepUndo, cloud.StepCommitted},
		{cloud.StepDone, cloud.StepUndo}, {cloud.StepCopying, cloud.StepCopying},
	} {
		if err := cloud.Migrate.Follows(tc.from, tc.to); !errors.Is(err, &api.Error{Code: api.CodeConflict}) {
			t.Errorf("%q to %q: error is %v", tc.from, tc.to, err)
		}
	}
}

// However a migration goes, it ends, visits no step twice, and copies before it commits.
func TestMigrateWalk(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		at := cloud.StepNone
		seen := map[saga.Step]bool{}
		for !cloud.Migrate.Ended(at) {
			if seen[at] {
				rt.Fatalf("%s twice", at)
			}
			seen[at] = true
			at = rapid.SampledFrom(nextSteps(at)).Draw(rt, "next")
			if cloud.Migrate.Decided(at) && !seen[cloud.StepCopied] {
				rt.Fatalf("%s without a copy", at)
			}
			if at == cloud.StepFailed && len(seen) > 1 && !seen[cloud.StepUndo] {
				rt.Fatalf("failed after %v without being undone", seen)
			}
		}
	})
}
