package control

import (
	"context"
	"errors"
	"fmt"
	"time"

	"widecloud/api"
	"widecloud/internal/cloud"
	"widecloud/internal/saga"
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
	saga.Head
	VM     string         `json:"vm"`  // name
	UID    string         `json:"uid"` // of the VM
	Source location       `json:"source"`
	Target location       `json:"target"`
	Epoch  uint64         `json:"epoch"` // at the source; the commit makes it Epoch+1, an abort Epoch+2
	Call   wire.ClaimCall `json:"call"`
	Offer  []byte         `json:"offer,omitempty"`
	Answer []byte         `json:"answer,omitempty"`
	Result []byte         `json:"result,omitempty"`
	Fenced bool           `json:"fenced,omitempty"` // the target was told to commit: it hears of the abort first

	// What the work of a step leaves for the transaction that journals the next one.
	measured *api.Progress // of the whole copying
	left     *debris
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
		if err := saga.Hold("VM "+v.Name, &v.Status.Job, job.Name); err != nil {
			return err
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
			VM: v.Name, UID: v.UID, Epoch: v.Status.Epoch, Target: to, Call: call,
			Source: location{Site: v.Status.Site, Host: v.Status.Host, VTEP: v.Status.VTEP, Loan: v.Status.Loan},
		}
		job.Spec = api.JobSpec{Object: "vms/" + v.Name, Target: to.Site}
		if wantHost != "" {
			job.Spec.Target += "/" + wantHost
		}
		job.Status = api.JobStatus{Message: why}
		v.Status.Phase, v.Status.Since = api.PhaseMigrating, c.now()
		if err := put(tx, v); err != nil {
			return err
		}
		if err := c.migrations.begin(tx, job, &m); err != nil {
			return err
		}
		return c.answer(ctx, tx, job)
	})
	if err != nil {
		return nil, err
	}
	c.poke()
	return job, nil
}

// newMigrations is the kind of job that migrates.
func newMigrations(c *Controller) *jobs[migration] {
	return &jobs[migration]{
		c: c, prefix: prefixMigrations, failpoint: "coordinator", means: c.migrationMeans,
		about: func(m *migration) []any { return []any{"vm", m.VM, "epoch", m.Epoch} },
		kind: saga.Kind[migration]{
			Plan: cloud.Migrate, Head: func(m *migration) *saga.Head { return &m.Head },
			Work: map[saga.Step]saga.Work[migration]{
				cloud.StepNone:     {Do: c.migrateCheck},
				cloud.StepChecked:  {Do: c.migrateReserve},
				cloud.StepReserved: {Do: c.migratePrepare},
				cloud.StepPrepared: {Do: func(context.Context, *migration) (saga.Step, error) { return cloud.StepCopying, nil }},
				cloud.StepCopying:  {Do: c.migrateCopy, Progress: c.migrateProgress, Stop: c.migrateStop},
				// The decision. From here on the copy at the source never runs at its old epoch again.
				cloud.StepCopied:    {Do: func(context.Context, *migration) (saga.Step, error) { return cloud.StepCommitted, nil }},
				cloud.StepCommitted: {Do: c.migrateSwitch},
				cloud.StepSwitched:  {Do: c.migrateConfirm},
				cloud.StepConfirmed: {Do: func(context.Context, *migration) (saga.Step, error) { return cloud.StepDone, nil }},
				cloud.StepUndo:      {Do: c.migrateUndo},
			},
		},
	}
}

func (c *Controller) migrateCheck(ctx context.Context, m *migration) (saga.Step, error) {
	reasons, err := c.checkMigration(ctx, m.VM, m.Call, m.Target)
	if err != nil {
		return "", err
	}
	if len(reasons) > 0 {
		return "", &api.Error{Code: api.CodeRefused, Message: "VM " + m.VM + " cannot move to " + m.Target.Site, Reasons: reasons}
	}
	return cloud.StepChecked, nil
}

// migrateReserve has the target keep room, and takes from its answer where the VM will be.
func (c *Controller) migrateReserve(ctx context.Context, m *migration) (saga.Step, error) {
	c.sweepFor(ctx, m.UID)
	claim, err := c.endOf(m.Target.Site).X_reserve(ctx, m.Call)
	if err != nil {
		return "", err
	}
	if m.Target.Site != c.o.Site {
		if err := c.view(ctx, func(tx *state.Tx) error { return c.judgeAnswer(tx, m.Call, claim) }); err != nil {
			return "", err
		}
	}
	m.Target.Host, m.Target.VTEP = claim.Host, claim.VTEP.String()
	return cloud.StepReserved, nil
}

func (c *Controller) migratePrepare(ctx context.Context, m *migration) (saga.Step, error) {
	offer, err := c.endOf(m.Source.Site).X_begin(ctx, m.toSource())
	if err != nil {
		return "", fmt.Errorf("source: %w", err)
	}
	call := wire.PrepareCall{Job: m.Job, Order: m.Call.Order, Offer: offer.Offer}
	if call.Network, err = c.networkFor(ctx, m.Call.Order.NIC.Network, m.Target.VTEP); err != nil {
		return "", err
	}
	answer, err := c.endOf(m.Target.Site).X_prepare(ctx, call)
	if err != nil {
		return "", fmt.Errorf("target: %w", err)
	}
	m.Answer = answer.Answer
	return cloud.StepPrepared, nil
}

func (c *Controller) migrateCopy(ctx context.Context, m *migration) (saga.Step, error) {
	call := wire.PerformCall{Job: m.Job, VM: m.UID, Epoch: m.Epoch, Answer: m.Answer, Codec: c.o.Codec, Host: m.Source.Host}
	result, err := c.endOf(m.Source.Site).X_perform(ctx, call)
	if err != nil {
		return "", fmt.Errorf("copy: %w", err)
	}
	m.Result, m.measured = result.Result, &result.Progress
	return cloud.StepCopied, nil
}

func (c *Controller) migrateProgress(ctx context.Context, m *migration) (api.Progress, error) {
	return c.endOf(m.Source.Site).X_progress(ctx, m.toSource())
}

func (c *Controller) migrateStop(ctx context.Context, m *migration) error {
	return c.endOf(m.Source.Site).X_cancel(ctx, m.toSource())
}

// migrateSwitch tells the target to run. Only its definite "not found" leads back.
func (c *Controller) migrateSwitch(ctx context.Context, m *migration) (saga.Step, error) {
	call := wire.FinishCall{Job: m.Job, VM: m.UID, Epoch: m.committed(), Result: m.Result, Commit: true}
	err := c.endOf(m.Target.Site).X_finish(ctx, call)
	if errors.Is(err, &api.Error{Code: api.CodeNotFound}) {
		// The target lost its copy before it ran. The source still has everything.
		m.Failure = api.Errorf(api.CodeUnavailable, "the target lost the copy before it ran: %v", err)
		m.Fenced = true
		return cloud.StepUndo, nil
	}
	if err != nil {
		return "", fmt.Errorf("finish at the target: %w", err)
	}
	return cloud.StepSwitched, nil
}

func (c *Controller) migrateConfirm(ctx context.Context, m *migration) (saga.Step, error) {
	call := wire.FinishCall{Job: m.Job, VM: m.UID, Epoch: m.committed(), Commit: true, Host: m.Source.Host}
	if err := c.endOf(m.Source.Site).X_confirm(ctx, call); err != nil {
		// The VM runs at the target. What is left at the source is cleaned when it is reached again.
		c.log.Warn("confirm at the source; left for later", "job", m.Job, "vm", m.VM, "err", err)
		m.left = &debris{Job: m.Job, VM: m.UID, Source: &m.Source, Call: call}
	}
	return cloud.StepDone, nil
}

// migrateUndo puts everything back: the source runs on, the target forgets. A target that is not reached hears it later.
func (c *Controller) migrateUndo(ctx context.Context, m *migration) (saga.Step, error) {
	source, target := c.endOf(m.Source.Site), c.endOf(m.Target.Site)
	abort := wire.FinishCall{Job: m.Job, VM: m.UID, Epoch: m.aborted()}
	if m.Fenced {
		if err := target.X_finish(ctx, abort); err != nil {
			return "", fmt.Errorf("fence the target: %w", err)
		}
	}
	if err := source.X_cancel(ctx, m.toSource()); err != nil {
		c.log.Debug("cancel at the source", "job", m.Job, "vm", m.VM, "err", err)
	}
	back := abort
	back.Host = m.Source.Host
	if err := source.X_confirm(ctx, back); err != nil && !errors.Is(err, &api.Error{Code: api.CodeNotFound}) {
		return "", fmt.Errorf("abort at the source: %w", err)
	}
	if !m.Fenced {
		if err := target.X_finish(ctx, abort); err != nil {
			c.log.Warn("abort at the target; left for later", "job", m.Job, "vm", m.VM, "err", err)
			m.left = &debris{Job: m.Job, VM: m.UID, Target: &m.Target, Call: abort}
		}
	}
	return cloud.StepFailed, nil
}

// toSource names the migration to its source.
func (m *migration) toSource() wire.MigrateCall {
	return wire.MigrateCall{Job: m.Job, VM: m.UID, Epoch: m.Epoch, Host: m.Source.Host}
}

// migrationMeans does what a step means for the VM: where it is, at which epoch, and whether the job still holds it.
func (c *Controller) migrationMeans(tx *state.Tx, j *api.Job, m *migration) error {
	v, err := get[api.VM](tx, m.VM)
	if err != nil {
		return err
	}
	if m.measured != nil {
		j.Status.Progress = *m.measured
	}
	switch m.Step {
	case cloud.StepCommitted:
		setPlace(v, m.Target, m.committed())
	case cloud.StepUndo:
		setPlace(v, m.Source, m.aborted())
	case cloud.StepSwitched:
		c.event(tx, "vm.moved", "vms/"+m.VM, v.Owner, fmt.Sprintf("runs at %s/%s at epoch %d", m.Target.Site, m.Target.Host, m.committed()))
	case cloud.StepFailed:
		c.event(tx, "migrate.failed", "vms/"+m.VM, v.Owner, j.Status.Message)
	}
	if cloud.Migrate.Ended(m.Step) {
		saga.Release(&v.Status.Job, m.Job)
		v.Status.Phase, v.Status.Since = api.PhaseRunning, c.now()
	}
	if m.left != nil {
		if err := putJSON(tx, prefixDebris+m.Job, m.left); err != nil {
			return err
		}
	}
	return put(tx, v)
}

// setPlace writes into a VM's status where it is, and at which epoch.
func setPlace(v *api.VM, l location, epoch uint64) {
	v.Status.Site, v.Status.Host, v.Status.VTEP, v.Status.Loan, v.Status.Epoch = l.Site, l.Host, l.VTEP, l.Loan, epoch
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
		err = c.endOf(d.Target.Site).X_finish(ctx, d.Call)
	} else {
		err = c.endOf(d.Source.Site).X_confirm(ctx, d.Call)
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
