package jobs

import (
	"context"

	"widecloud/api"
	"widecloud/internal/access"
	"widecloud/internal/control/objects"
	"widecloud/internal/saga"
	"widecloud/internal/state"
	"widecloud/internal/store"
)

// Run sets every job that is not at work to work.
func (js *Jobs) Run(ctx context.Context) error {
	for _, k := range js.kinds {
		var names []string
		if err := js.Read(ctx, func(tx *state.Tx) error {
			names = k.unended(tx)
			return nil
		}); err != nil {
			return err
		}
		for _, job := range names {
			js.Once(k.plan().Name+"/"+job, func(ctx context.Context) { k.run(ctx, job) })
		}
	}
	return nil
}

// Cancel asks for the end of a job; api.CodeConflict when it is too late for that.
func (js *Jobs) Cancel(ctx context.Context, p access.Actor, job string) (*api.Job, error) {
	return js.cancelJob(ctx, job, func(tx *state.Tx, j *api.Job) error {
		if !access.Sees(p, j) {
			return api.Errorf(api.CodeNotFound, "no job is called %q", job)
		}
		js.Acted(tx, "cancel", j, "")
		return js.Answer(ctx, tx, j)
	})
}

// cancelJob asks for the end of a job, if may allows it; api.CodeConflict when it is too late for that.
func (js *Jobs) cancelJob(ctx context.Context, job string, may func(*state.Tx, *api.Job) error) (*api.Job, error) {
	j, err := objects.Change(store.Urgent(ctx), js.Site, job, func(tx *state.Tx, j *api.Job) error {
		if err := may(tx, j); err != nil {
			return err
		}
		if j.Status.State.Ended() {
			return api.Errorf(api.CodeConflict, "job %s has ended: %s", job, j.Status.State)
		}
		if !js.cancellable(j) {
			return api.Errorf(api.CodeConflict, "job %s is past the point where it can be cancelled (%s)", job, j.Status.Step)
		}
		j.Spec.Cancel = true
		return nil
	})
	js.Poke()
	return j, err
}

func (js *Jobs) cancellable(j *api.Job) bool {
	for _, k := range js.kinds {
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

// jobsKept is how many ended jobs of each kind are kept before the oldest are forgotten.
const jobsKept = 200

// Old are the keys of the jobs that are forgotten now, and of their results.
func Old(tx *state.Tx) (keys []string) {
	var past []saga.Past
	for j := range objects.Each[api.Job](tx) {
		past = append(past, saga.Past{Job: j.Name, Kind: j.Spec.Type, Parent: j.Spec.Parent, Ended: j.Status.Ended})
	}
	for _, j := range saga.Forget(past, jobsKept) {
		keys = append(keys, objects.Key(api.KindJob, j))
		for key := range tx.Objects(objects.PrefixResults + j + "/") {
			keys = append(keys, key)
		}
	}
	return keys
}

// jobLife is what users do with jobs that have ended.
func jobLife() objects.Life[api.Job] {
	return objects.Life[api.Job]{Delete: func(tx *state.Tx, j *api.Job) error {
		if !j.Status.State.Ended() {
			return api.Errorf(api.CodeConflict, "job %s has not ended; cancel it: wcc job cancel %s", j.Name, j.Name)
		}
		if err := objects.RemoveAll(tx, objects.PrefixResults+j.Name+"/"); err != nil {
			return err
		}
		return objects.Gone(tx, j)
	}}
}
