package bulk

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"widecloud/api"
	"widecloud/internal/access"
	"widecloud/internal/cloud"
	"widecloud/internal/control/jobs"
	"widecloud/internal/control/objects"
	"widecloud/internal/place"
	"widecloud/internal/saga"
	"widecloud/internal/state"
)

// prefixRecords is where the records of bulk jobs are: bulk/JOB.
const prefixRecords = "bulk/"

// atOnce is how many VMs of one job have their turn at the same time.
const atOnce = 4

// record is the record of a job that acts on many VMs.
type record struct {
	saga.Head
	User   string         `json:"user"` // who asked for it
	Action api.BulkAction `json:"action"`
	Target string         `json:"target,omitempty"`
	Hard   bool           `json:"hard,omitempty"`
}

// turn is the record of one VM of a job: results/JOB/VM. It stays as long as the job is known.
type turn struct {
	api.BulkResult
	UID string `json:"uid,omitempty"` // of the VM that its turn was about
}

func keyOf(job, vm string) string { return objects.PrefixResults + job + "/" + vm }

func newKind(b *Bulk, js *jobs.Jobs) *jobs.Of[record] {
	return &jobs.Of[record]{
		Jobs: js, Prefix: prefixRecords, Failpoint: "bulk",
		Means: func(*state.Tx, *api.Job, *record) error { return nil },
		About: func(r *record) []any { return []any{"action", r.Action} },
		Kind: saga.Kind[record]{
			Plan: cloud.Bulk, Head: func(r *record) *saga.Head { return &r.Head },
			Work: map[saga.Step]saga.Work[record]{cloud.BulkActing: {Do: b.act}},
		},
	}
}

// act gives the VMs of a job their turns, and waits for what they come to. After a restart it goes on with those that are left.
func (b *Bulk) act(ctx context.Context, r *record) (saga.Step, error) {
	begun, waiting, err := b.left(ctx, r.Job)
	if err != nil {
		return "", err
	}
	queue := make(chan turn)
	var workers sync.WaitGroup
	for range atOnce {
		workers.Go(func() {
			for t := range queue {
				b.turn(ctx, r, t)
			}
		})
	}
	for _, t := range append(begun, waiting...) {
		queue <- t
	}
	close(queue)
	workers.Wait()
	if ctx.Err() != nil {
		return "", ctx.Err()
	}
	return b.outcome(ctx, r)
}

// left are the VMs of a job that are not through: those whose turn has begun, and the others.
func (b *Bulk) left(ctx context.Context, job string) (begun, waiting []turn, err error) {
	err = b.Read(ctx, func(tx *state.Tx) error {
		for _, o := range tx.Objects(keyOf(job, "")) {
			switch t := o.(*turn); t.State {
			case api.BulkRunning:
				begun = append(begun, *t)
			case api.BulkWaiting:
				waiting = append(waiting, *t)
			}
		}
		return nil
	})
	return begun, waiting, err
}

// turn takes a VM through. What cannot be written is tried again until it is.
func (b *Bulk) turn(ctx context.Context, r *record, t turn) {
	fresh := t.State == api.BulkWaiting
	if fresh && !b.begin(ctx, r, &t) {
		return
	}
	end := b.await(ctx, r, t, fresh)
	if ctx.Err() != nil {
		return // the next controller goes on
	}
	t.State, t.Message, t.Reasons = end.State, cloud.Line(end.Message, objects.MaxText), place.Grouped(end.Reasons)
	b.keep(ctx, r, t, api.BulkRunning)
}

// begin does what is asked for to a VM, and notes that its turn has begun, in one transaction. It tells whether there is something to
// wait for: not when the VM was refused, nor when the job was cancelled.
func (b *Bulk) begin(ctx context.Context, r *record, t *turn) bool {
	for ctx.Err() == nil {
		next := *t
		err := b.Write(objects.AsUser(ctx, access.Actor{User: r.User}), func(tx *state.Tx) error {
			j, err := objects.Get[api.Job](tx, r.Job)
			if err != nil {
				return err
			}
			if next = *t; j.Spec.Cancel {
				return objects.ErrHalt
			}
			if err := b.do(tx, r, &next); err != nil {
				return err
			}
			next.State, next.Begun = api.BulkRunning, b.Now()
			return b.put(tx, j, next, api.BulkWaiting)
		})
		var refused *api.Error
		switch {
		case err == nil:
			*t = next
			b.Poke()
			return true
		case errors.Is(err, objects.ErrHalt):
			return false // outcome says so of all that are left
		case errors.As(err, &refused) && refused.Code != api.CodeInternal && refused.Code != api.CodeUnavailable:
			t.State, t.Message, t.Reasons = api.BulkRefused, cloud.Line(refused.Message, objects.MaxText), place.Grouped(refused.Reasons)
			b.keep(ctx, r, *t, api.BulkWaiting)
			return false
		}
		b.Log.Warn("begin with a VM of a bulk job; trying again", "job", r.Job, "vm", t.VM, "err", err)
		_ = b.Pause(ctx)
	}
	return false
}

// keep writes what became of a VM.
func (b *Bulk) keep(ctx context.Context, r *record, t turn, was api.BulkState) {
	t.Ended = b.Now()
	for ctx.Err() == nil {
		err := b.Write(ctx, func(tx *state.Tx) error {
			j, err := objects.Get[api.Job](tx, r.Job)
			if err != nil {
				return err
			}
			return b.put(tx, j, t, was)
		})
		if err == nil {
			return
		}
		b.Log.Warn("keep the result of a bulk job; trying again", "job", r.Job, "vm", t.VM, "err", err)
		_ = b.Pause(ctx)
	}
}

// put writes a turn, and counts it in its job.
func (b *Bulk) put(tx *state.Tx, j *api.Job, t turn, was api.BulkState) error {
	*j.Status.Bulk.Of(was)--
	*j.Status.Bulk.Of(t.State)++
	if err := objects.Put(tx, j); err != nil {
		return err
	}
	return objects.PutRecord(tx, keyOf(j.Name, t.VM), t)
}

// outcome ends a job whose VMs have had their turns. Those of a cancelled job that are left are left alone.
func (b *Bulk) outcome(ctx context.Context, r *record) (saga.Step, error) {
	var job *api.Job
	if err := b.Write(ctx, func(tx *state.Tx) (err error) {
		if job, err = objects.Get[api.Job](tx, r.Job); err != nil {
			return err
		}
		for _, o := range tx.Objects(keyOf(r.Job, "")) {
			if t := *o.(*turn); t.State == api.BulkWaiting {
				t.State = api.BulkCancelled
				if err := b.put(tx, job, t, api.BulkWaiting); err != nil {
					return err
				}
			}
		}
		return nil
	}); err != nil {
		return "", err
	}
	switch c := job.Status.Bulk; {
	case job.Spec.Cancel:
		return "", saga.ErrCancelled
	case c.Failed > 0:
		return "", &api.Error{Code: api.CodeRefused, Message: fmt.Sprintf("%d of %d are not as was asked for; the results say why", c.Failed, c.Total)}
	}
	return cloud.BulkDone, nil
}
