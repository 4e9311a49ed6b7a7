package control

import (
	"context"
	"errors"
	"fmt"
	"time"

	"widecloud/api"
	"widecloud/internal/cloud"
	"widecloud/internal/state"
	"widecloud/internal/store"
	"widecloud/internal/wire"
)

// location says where a copy is.
type location struct {
	Site string `json:"site"`
	Host string `json:"host"`
	VTEP string `json:"vtep,omitempty"`
	Loan string `json:"loan,omitempty"`
}

// migration is the saga's own record: everything that a restarted coordinator needs to go on or to undo. It is kept until
// the job has ended.
type migration struct {
	Job     string            `json:"job"`
	VM      string            `json:"vm"`  // name
	UID     string            `json:"uid"` // of the VM
	Step    cloud.MigrateStep `json:"step"`
	Source  location          `json:"source"`
	Target  location          `json:"target"`
	Epoch   uint64            `json:"epoch"` // at the source; the commit makes it Epoch+1, an abort Epoch+2
	Call    wire.ClaimCall    `json:"call"`
	Offer   []byte            `json:"offer,omitempty"`
	Answer  []byte            `json:"answer,omitempty"`
	Result  []byte            `json:"result,omitempty"`
	Fenced  bool              `json:"fenced,omitempty"` // the target was told to commit: it hears of the abort first
	Failure *api.Error        `json:"failure,omitempty"`
}

func (m *migration) committed() uint64 { return m.Epoch + 1 }
func (m *migration) aborted() uint64   { return m.Epoch + 2 }

// debris is what a job that has ended could not clean up, because somebody was not reached. It is tried until it is done.
type debris struct {
	Job    string          `json:"job"`
	VM     string          `json:"vm"`
	Target *location       `json:"target,omitempty"` // hears Abort
	Source *location       `json:"source,omitempty"` // hears Commit
	Call   wire.FinishCall `json:"call"`
}

// startMigration makes the job and its saga in one transaction.
func (c *Controller) startMigration(ctx context.Context, vmName string, to location, wantHost, owner, why string) (*api.Job, error) {
	job := &api.Job{Meta: c.newMeta("migrate-"+c.shortID(), owner)}
	err := c.update(ctx, func(tx *state.Tx) error {
		v, err := get[api.VM](tx, vmName)
		if err != nil {
			return err
		}
		if v.Status.Job != "" {
			return api.Errorf(api.CodeConflict, "job %s is at work on VM %s; wait for it or cancel it: wcc job cancel %s", v.Status.Job, v.Name, v.Status.Job)
		}
		if v.Deleting {
			return api.Errorf(api.CodeConflict, "VM %s is being deleted", v.Name)
		}
		call, err := c.claimFor(tx, v, job.Name, to.Site)
		if err != nil {
			return err
		}
		call.Loan, call.Host, call.Order.Epoch = to.Loan, wantHost, v.Status.Epoch+1
		if to.Site == v.Status.Site {
			call.Avoid = v.Status.Host
		}
		m := migration{
			Job: job.Name, VM: v.Name, UID: v.UID, Step: cloud.StepNone, Epoch: v.Status.Epoch, Target: to, Call: call,
			Source: location{Site: v.Status.Site, Host: v.Status.Host, VTEP: v.Status.VTEP, Loan: v.Status.Loan},
		}
		job.Spec = api.JobSpec{Type: "migrate", Object: "vms/" + v.Name, Target: to.Site}
		if wantHost != "" {
			job.Spec.Target += "/" + wantHost
		}
		job.Status = api.JobStatus{State: api.JobRunning, Step: "check", Started: c.now(), Message: why}
		v.Status.Job, v.Status.Phase, v.Status.Since = job.Name, api.PhaseMigrating, c.now()
		if err := put(tx, v); err != nil {
			return err
		}
		if err := putJSON(tx, prefixMigrations+job.Name, m); err != nil {
			return err
		}
		return put(tx, job)
	})
	if err != nil {
		return nil, err
	}
	c.poke()
	return job, nil
}

// migrations sets every saga that is not at work to work.
func (c *Controller) migrations(ctx context.Context) error {
	var all map[string]migration
	if err := c.view(ctx, func(tx *state.Tx) (err error) {
		all, err = listJSON[migration](tx, prefixMigrations)
		return err
	}); err != nil {
		return err
	}
	for job := range all {
		c.once("migrate/"+job, func(ctx context.Context) {
			// Read again: between the list and now an earlier run may have taken the saga further, or to its end.
			m, err := c.readMigration(ctx, job)
			switch {
			case err == nil:
				c.runMigration(ctx, m)
			case !errors.Is(err, store.ErrNotFound) && ctx.Err() == nil:
				c.log.Error("read the migration", "job", job, "err", err)
			}
		})
	}
	return nil
}

// errHalt makes runMigration stop for now; the reconciler comes back to it.
var errHalt = errors.New("halt")

// errJournal is in the chain of an error of the journal itself. Whether the row is there or not is then not known: the
// journal has to be read again before anything follows from it.
var errJournal = errors.New("journal")

// runMigration takes the saga from the step it is at to its end, or until ctx ends.
func (c *Controller) runMigration(ctx context.Context, m migration) {
	ctx = store.Urgent(ctx) // it has begun, and must be able to end
	for ctx.Err() == nil {
		c.o.Failpoint("coordinator." + string(m.Step))
		c.log.Debug("migration step", "job", m.Job, "vm", m.VM, "epoch", m.Epoch, "step", m.Step)
		if err := c.stepMigration(ctx, &m); err != nil && !c.recoverMigration(ctx, &m, err) {
			return
		}
		if m.Step.Ended() {
			return
		}
	}
}

// recoverMigration decides what follows an error of a step, and tells whether to go on. Before the decision an error leads
// back. Past it, and on the way back, the step is only ever repeated, whatever the error is: another way could end with two
// running copies (law 2).
func (c *Controller) recoverMigration(ctx context.Context, m *migration, err error) bool {
	log := c.log.With("job", m.Job, "vm", m.VM, "epoch", m.Epoch, "step", m.Step)
	switch {
	case errors.Is(err, errHalt) || ctx.Err() != nil:
		return false
	case errors.Is(err, errJournal):
		log.Error("journal a step; reading the journal again", "err", err)
		return c.rereadMigration(ctx, m, err)
	case m.Step.Committed() || m.Step == cloud.StepUndo:
		log.Warn("migration step; trying again", "err", err)
		return c.pause(ctx) == nil
	}
	log.Warn("migration fails", "err", err)
	m.Failure = failureOf(m.Step, err)
	next := cloud.StepUndo
	if m.Step == cloud.StepNone {
		next = cloud.StepFailed
	}
	if err := c.advance(ctx, m, next, nil); err != nil {
		return c.recoverMigration(ctx, m, err)
	}
	return true
}

func failureOf(step cloud.MigrateStep, err error) *api.Error {
	e := &api.Error{Code: api.CodeInternal, Message: err.Error()}
	errors.As(err, &e)
	return &api.Error{Code: e.Code, Message: fmt.Sprintf("%s: %s", step.Doing(), e.Message), Reasons: e.Reasons}
}

// rereadMigration takes the saga to where the store says it is, after a write whose outcome is not known. It tells whether
// the saga is still there.
func (c *Controller) rereadMigration(ctx context.Context, m *migration, cause error) bool {
	failure := m.Failure
	if failure == nil {
		failure = failureOf(m.Step, cause)
	}
	for c.pause(ctx) == nil {
		stored, err := c.readMigration(ctx, m.Job)
		switch {
		case errors.Is(err, store.ErrNotFound):
			return false // the row was its last one
		case err != nil:
			c.log.Error("read the migration again", "job", m.Job, "vm", m.VM, "err", err)
			continue
		}
		*m = stored
		if m.Step == cloud.StepCopying {
			m.Failure = failure // the reason for which stepMigration leads back from there
		}
		return true
	}
	return false
}

func (c *Controller) readMigration(ctx context.Context, job string) (m migration, err error) {
	err = c.view(ctx, func(tx *state.Tx) (err error) {
		m, err = getJSON[migration](tx, prefixMigrations+job)
		return err
	})
	return m, err
}

// stepMigration does what follows the step that the journal has, and journals it.
func (c *Controller) stepMigration(ctx context.Context, m *migration) error {
	source, target := c.endOf(m.Source.Site), c.endOf(m.Target.Site)
	if m.Step.Cancellable() && m.Step != cloud.StepNone {
		if err := c.cancelled(ctx, m); err != nil {
			return err
		}
	}
	switch m.Step {
	case cloud.StepNone:
		reasons, err := c.checkMigration(ctx, m.VM, m.Call, m.Target)
		if err != nil {
			return err
		}
		if len(reasons) > 0 {
			return &api.Error{Code: api.CodeRefused, Message: "VM " + m.VM + " cannot move to " + m.Target.Site, Reasons: reasons}
		}
		return c.advance(ctx, m, cloud.StepChecked, nil)

	case cloud.StepChecked:
		c.sweepFor(ctx, m.UID)
		claim, err := target.reserve(ctx, m.Call)
		if err != nil {
			return err
		}
		if m.Target.Site != c.o.Site {
			if err := c.view(ctx, func(tx *state.Tx) error { return c.judgeAnswer(tx, m.Call, claim) }); err != nil {
				return err
			}
		}
		m.Target.Host, m.Target.VTEP = claim.Host, claim.VTEP.String()
		return c.advance(ctx, m, cloud.StepReserved, nil)

	case cloud.StepReserved:
		offer, err := source.begin(ctx, wire.MigrateCall{Job: m.Job, VM: m.UID, Epoch: m.Epoch, Host: m.Source.Host})
		if err != nil {
			return fmt.Errorf("source: %w", err)
		}
		call := wire.PrepareCall{Job: m.Job, Order: m.Call.Order, Offer: offer.Offer}
		if call.Network, err = c.networkFor(ctx, m.Call.Order.NIC.Network, m.Target.VTEP); err != nil {
			return err
		}
		answer, err := target.prepare(ctx, call)
		if err != nil {
			return fmt.Errorf("target: %w", err)
		}
		m.Answer = answer.Answer
		return c.advance(ctx, m, cloud.StepPrepared, nil)

	case cloud.StepPrepared:
		if err := c.advance(ctx, m, cloud.StepCopying, nil); err != nil {
			return err
		}
		c.o.Failpoint("coordinator." + string(m.Step))
		result, err := c.copy(ctx, m, source)
		if err != nil {
			return err
		}
		m.Result = result.Result
		return c.advance(ctx, m, cloud.StepCopied, &result.Progress)

	case cloud.StepCopying:
		// Read from the journal: whoever copied is gone, and the streams with it.
		if m.Failure == nil {
			m.Failure = api.Errorf(api.CodeUnavailable, "the controller was restarted while the VM was being copied")
		}
		return c.advance(ctx, m, cloud.StepUndo, nil)

	case cloud.StepCopied:
		// The decision. From here on the copy at the source never runs at its old epoch again.
		return c.advance(ctx, m, cloud.StepCommitted, nil)

	case cloud.StepCommitted:
		err := target.finish(ctx, wire.FinishCall{Job: m.Job, VM: m.UID, Epoch: m.committed(), Result: m.Result, Commit: true})
		switch {
		case err == nil:
			return c.advance(ctx, m, cloud.StepSwitched, nil)
		case errors.Is(err, &api.Error{Code: api.CodeNotFound}):
			// The definite answer: the target lost its copy before it ran. The source still has everything.
			m.Failure = api.Errorf(api.CodeUnavailable, "the target lost the copy before it ran: %v", err)
			m.Fenced = true
			return c.advance(ctx, m, cloud.StepUndo, nil)
		}
		c.log.Warn("finish at the target; trying again", "job", m.Job, "vm", m.VM, "err", err)
		return c.pause(ctx)

	case cloud.StepSwitched:
		call := wire.FinishCall{Job: m.Job, VM: m.UID, Epoch: m.committed(), Commit: true, Host: m.Source.Host}
		if err := source.confirm(ctx, call); err != nil {
			// The VM runs at the target. What is left at the source is cleaned when it is reached again.
			c.log.Warn("confirm at the source; left for later", "job", m.Job, "vm", m.VM, "err", err)
			d := debris{Job: m.Job, VM: m.UID, Source: &m.Source, Call: call}
			return c.advance(ctx, m, cloud.StepDone, nil, d)
		}
		return c.advance(ctx, m, cloud.StepDone, nil)

	case cloud.StepUndo:
		return c.undo(ctx, m, source, target)
	}
	return api.Errorf(api.CodeInternal, "migration %s is at an unknown step %q", m.Job, m.Step)
}

// undo puts everything back: the source runs on, the target forgets. A target that is not reached hears it later.
func (c *Controller) undo(ctx context.Context, m *migration, source, target end) error {
	abort := wire.FinishCall{Job: m.Job, VM: m.UID, Epoch: m.aborted()}
	if m.Fenced {
		if err := target.finish(ctx, abort); err != nil {
			c.log.Warn("fence the target; trying again", "job", m.Job, "vm", m.VM, "err", err)
			return c.pause(ctx)
		}
	}
	if err := source.cancel(ctx, wire.MigrateCall{Job: m.Job, VM: m.UID, Epoch: m.Epoch, Host: m.Source.Host}); err != nil {
		c.log.Debug("cancel at the source", "job", m.Job, "vm", m.VM, "err", err)
	}
	back := abort
	back.Host = m.Source.Host
	if err := source.confirm(ctx, back); err != nil && !errors.Is(err, &api.Error{Code: api.CodeNotFound}) {
		c.log.Warn("abort at the source; trying again", "job", m.Job, "vm", m.VM, "err", err)
		return c.pause(ctx)
	}
	var left []debris
	if !m.Fenced {
		if err := target.finish(ctx, abort); err != nil {
			c.log.Warn("abort at the target; left for later", "job", m.Job, "vm", m.VM, "err", err)
			left = append(left, debris{Job: m.Job, VM: m.UID, Target: &m.Target, Call: abort})
		}
	}
	return c.advance(ctx, m, cloud.StepFailed, nil, left...)
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

// copy runs the copying and keeps the job's progress up to date.
func (c *Controller) copy(ctx context.Context, m *migration, source end) (wire.MigrateResult, error) {
	watch, stop := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		c.followCopy(watch, m, source)
	}()
	result, err := source.perform(ctx, wire.PerformCall{Job: m.Job, VM: m.UID, Epoch: m.Epoch, Answer: m.Answer, Codec: c.o.Codec, Host: m.Source.Host})
	stop()
	<-done
	if err != nil {
		if e := c.cancelled(ctx, m); e != nil {
			return result, e
		}
		return result, fmt.Errorf("copy: %w", err)
	}
	return result, nil
}

// followCopy writes what the source tells of the copying, and passes a wish to cancel on.
func (c *Controller) followCopy(ctx context.Context, m *migration, source end) {
	call := wire.MigrateCall{Job: m.Job, VM: m.UID, Epoch: m.Epoch, Host: m.Source.Host}
	tick := time.NewTicker(c.o.ProgressEvery)
	defer tick.Stop()
	full := false
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if err := c.o.State.Room(ctx); errors.Is(err, store.ErrFull) != full && ctx.Err() == nil {
			full = !full
			c.showFull(ctx, m, full)
		}
		p, err := source.progress(ctx, call)
		if err != nil {
			continue
		}
		if full {
			p = api.Progress{} // nothing that can be done without is written
		}
		cancel, err := c.keepProgress(ctx, m.Job, p)
		if err != nil {
			c.log.Debug("keep progress", "job", m.Job, "err", err)
		}
		if cancel {
			if err := source.cancel(ctx, call); err != nil {
				c.log.Warn("cancel at the source", "job", m.Job, "err", err)
			}
		}
	}
}

// keepProgress shows how far the copying is (zero: as before), and tells whether it is to be cancelled.
func (c *Controller) keepProgress(ctx context.Context, job string, p api.Progress) (cancel bool, err error) {
	_, err = change(ctx, c, job, func(_ *state.Tx, j *api.Job) error {
		if p != (api.Progress{}) {
			j.Status.Progress = p
		}
		cancel = j.Spec.Cancel
		return nil
	})
	return cancel, err
}

// showFull says in the job that the store has no room for new work, or has it again. The migration goes on by the reserve.
func (c *Controller) showFull(ctx context.Context, m *migration, full bool) {
	message := ""
	if full {
		message = "the disk of the controller is full; the migration goes on with the room that is kept for it"
	}
	c.log.Warn("room for the journal of a migration", "job", m.Job, "vm", m.VM, "full", full)
	if _, err := change(ctx, c, m.Job, func(_ *state.Tx, j *api.Job) error {
		j.Status.Message = message
		return nil
	}); err != nil && ctx.Err() == nil {
		c.log.Error("show that the disk is full", "job", m.Job, "err", err)
	}
}

var errCancelled = api.Errorf(api.CodeConflict, "it was cancelled")

// cancelled tells whether somebody asked for the job's end.
func (c *Controller) cancelled(ctx context.Context, m *migration) error {
	return c.view(ctx, func(tx *state.Tx) error {
		j, err := get[api.Job](tx, m.Job)
		if err == nil && j.Spec.Cancel {
			return errCancelled
		}
		return err
	})
}

// advance journals a step and what it means for the VM, in one transaction; leftovers go with it.
func (c *Controller) advance(ctx context.Context, m *migration, step cloud.MigrateStep, p *api.Progress, left ...debris) error {
	if err := cloud.CheckMigrateStep(m.Step, step); err != nil {
		return err
	}
	from := m.Step
	m.Step = step
	err := c.update(ctx, func(tx *state.Tx) error {
		j, err := get[api.Job](tx, m.Job)
		if err != nil {
			return err
		}
		v, err := get[api.VM](tx, m.VM)
		if err != nil {
			return err
		}
		if step == cloud.StepCommitted && j.Spec.Cancel {
			return errCancelled // in the deciding transaction itself: a wish that was accepted is kept
		}
		now := c.now()
		j.Status.Step = string(step)
		j.Status.Journal = append(j.Status.Journal, api.JournalRow{Step: string(step), Time: now})
		if p != nil {
			j.Status.Progress = *p
		}
		if m.Failure != nil {
			j.Status.Message, j.Status.Reasons = m.Failure.Message, m.Failure.Reasons
		}
		switch step {
		case cloud.StepCommitted:
			v.Status.Site, v.Status.Host, v.Status.VTEP, v.Status.Loan = m.Target.Site, m.Target.Host, m.Target.VTEP, m.Target.Loan
			v.Status.Epoch = m.committed()
		case cloud.StepUndo:
			j.Status.State = api.JobUndoing
			v.Status.Site, v.Status.Host, v.Status.VTEP, v.Status.Loan = m.Source.Site, m.Source.Host, m.Source.VTEP, m.Source.Loan
			v.Status.Epoch = m.aborted()
		case cloud.StepDone, cloud.StepFailed:
			j.Status.State, j.Status.Ended = api.JobDone, now
			if step == cloud.StepFailed {
				j.Status.State = api.JobFailed
				if j.Spec.Cancel {
					j.Status.State = api.JobCancelled
				}
			}
			v.Status.Job, v.Status.Phase, v.Status.Since = "", api.PhaseRunning, now
			if err := remove(tx, prefixMigrations+m.Job); err != nil {
				return err
			}
		}
		if step == cloud.StepSwitched {
			c.event(tx, "vm.moved", "vms/"+m.VM, v.Owner, fmt.Sprintf("runs at %s/%s at epoch %d", m.Target.Site, m.Target.Host, m.committed()))
		}
		if step == cloud.StepFailed {
			c.event(tx, "migrate.failed", "vms/"+m.VM, v.Owner, j.Status.Message)
		}
		for _, d := range left {
			if err := putJSON(tx, prefixDebris+d.Job, d); err != nil {
				return err
			}
		}
		if step != cloud.StepDone && step != cloud.StepFailed {
			if err := putJSON(tx, prefixMigrations+m.Job, *m); err != nil {
				return err
			}
		}
		if err := put(tx, v); err != nil {
			return err
		}
		return put(tx, j)
	})
	if err != nil {
		m.Step = from
		if ctx.Err() != nil {
			return errHalt
		}
		if errors.Is(err, errCancelled) {
			return err
		}
		return fmt.Errorf("%w: write step %s: %w", errJournal, step, err)
	}
	c.log.Info("migration", "job", m.Job, "vm", m.VM, "step", step)
	c.poke()
	return nil
}

// sweep tries to clean up what ended jobs have left.
func (c *Controller) sweep(ctx context.Context) error {
	var all map[string]debris
	if err := c.view(ctx, func(tx *state.Tx) (err error) {
		all, err = listJSON[debris](tx, prefixDebris)
		return err
	}); err != nil {
		return err
	}
	for job, d := range all {
		c.once("sweep/"+job, func(ctx context.Context) { c.sweepOne(ctx, d) })
	}
	return nil
}

// sweepFor cleans up what earlier jobs of one VM have left, now, so that a new migration finds the ground free.
func (c *Controller) sweepFor(ctx context.Context, uid string) {
	var all map[string]debris
	if err := c.view(ctx, func(tx *state.Tx) (err error) {
		all, err = listJSON[debris](tx, prefixDebris)
		return err
	}); err != nil {
		return
	}
	for _, d := range all {
		if d.VM == uid {
			c.sweepOne(ctx, d)
		}
	}
}

func (c *Controller) sweepOne(ctx context.Context, d debris) {
	ctx, cancel := context.WithTimeout(store.Urgent(ctx), 30*time.Second)
	defer cancel()
	var err error
	if d.Target != nil {
		err = c.endOf(d.Target.Site).finish(ctx, d.Call)
	} else {
		err = c.endOf(d.Source.Site).confirm(ctx, d.Call)
	}
	switch {
	case err == nil, errors.Is(err, &api.Error{Code: api.CodeNotFound}), errors.Is(err, &api.Error{Code: api.CodeStale}):
		// Stale: a newer order was carried out there since; nothing of this job is left.
	default:
		c.log.Debug("sweep", "job", d.Job, "err", err)
		return
	}
	if err := c.update(ctx, func(tx *state.Tx) error { return remove(tx, prefixDebris+d.Job) }); err != nil {
		c.log.Error("forget what was swept", "job", d.Job, "err", err)
	}
}
