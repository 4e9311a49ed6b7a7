package vms

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"widecloud/api"
	"widecloud/internal/access"
	"widecloud/internal/cloud"
	"widecloud/internal/control/jobs"
	"widecloud/internal/control/objects"
	"widecloud/internal/control/rooms"
	"widecloud/internal/place"
	"widecloud/internal/saga"
	"widecloud/internal/state"
	"widecloud/internal/wire"
)

// Migrate moves a VM to SITE or SITE/HOST; a dry run only gives what is against it.
func (vs *VMs) Migrate(ctx context.Context, p access.Actor, vm, target string, dryRun bool) (*api.Job, []api.Reason, error) {
	site, host, _ := strings.Cut(target, "/")
	var to objects.Location
	var call wire.ClaimCall
	var v *api.VM
	if err := vs.Read(ctx, func(tx *state.Tx) (err error) {
		if v, err = vs.own(tx, p, vm); err != nil {
			return err
		}
		if to, err = vs.locate(tx, v, site, host); err != nil {
			return err
		}
		call, err = vs.moveClaim(tx, v, "check-"+vs.ShortID(), to, host)
		return err
	}); err != nil {
		return nil, nil, err
	}
	if err := vs.Room(ctx); err != nil {
		return nil, nil, err
	}
	if dryRun {
		reasons, err := vs.checkMigration(ctx, vm, call, to)
		return nil, reasons, err
	}
	job, err := vs.startMigration(ctx, vm, v.Owner, to, host, func(*api.Job) {})
	if err == nil {
		vs.Note(ctx, "migrate", v, "to "+target+", job "+job.Name)
	}
	return job, nil, err
}

// MoveIn begins a migration to SITE or SITE/HOST in a transaction, as a child of another job.
func (vs *VMs) MoveIn(tx *state.Tx, p access.Actor, vm, target, parent string) (*api.Job, error) {
	v, err := vs.own(tx, p, vm)
	if err != nil {
		return nil, err
	}
	site, host, _ := strings.Cut(target, "/")
	to, err := vs.locate(tx, v, site, host)
	if err != nil {
		return nil, err
	}
	job := &api.Job{Meta: vs.NewMeta("migrate-"+vs.ShortID(), v.Owner), Spec: api.JobSpec{Parent: parent}}
	if err := vs.beginMigration(tx, job, v, to, host); err != nil {
		return nil, err
	}
	vs.Acted(tx, "migrate", v, "to "+target+", job "+job.Name)
	return job, nil
}

// locate is where a VM would go at a site, and under which loan. The error is api.CodeInvalid when there is no such place.
func (vs *VMs) locate(tx *state.Tx, v *api.VM, site, host string) (to objects.Location, err error) {
	to.Site = site
	if site == vs.Name {
		return to, vs.takesVMs(tx, "target", host)
	}
	if _, err := objects.Find[api.Peer](tx, site); err != nil {
		return to, api.Invalidf("target", "no site is called %.60q", site)
	}
	needs, err := vs.rooms.NeedsAt(tx, v, site)
	if err != nil {
		return to, err
	}
	to.Loan, err = vs.rooms.LoanAt(tx, site, v.Name, needs)
	return to, err
}

// Leave migrates a VM away from where it is: home if there is room, or to another lender.
func (vs *VMs) Leave(ctx context.Context, v *api.VM) ([]api.Reason, error) {
	if v.Spec.Power != api.PowerOn {
		if r := cmp.Or(restless(v), vs.cannotLeaveStopped(v)); r != nil {
			return []api.Reason{*r}, nil
		}
	}
	var to objects.Location
	var reasons []api.Reason
	if err := vs.Read(ctx, func(tx *state.Tx) error {
		s, err := vs.rooms.Snapshot(tx, v.Name)
		if err != nil {
			return err
		}
		r, err := vs.rooms.Request(tx, v)
		if err != nil {
			return err
		}
		r.Exclude = []place.Choice{{Site: v.Status.Site}}
		plan := place.Decide(s, r)
		reasons = plan.Refused
		if plan.Chosen != nil {
			to, reasons = objects.Location{Site: plan.Chosen.Site, Loan: plan.Chosen.Loan}, nil
		}
		return nil
	}); err != nil || len(reasons) > 0 {
		return reasons, err
	}
	why := fmt.Sprintf("%s wants the room of loan %s back", v.Status.Site, v.Status.Loan)
	job, err := vs.startMigration(ctx, v.Name, v.Owner, to, "", func(j *api.Job) { j.Spec.Why = why })
	if err != nil {
		return nil, err
	}
	vs.Log.Info("VM leaves a lender", "vm", v.Name, "job", job.Name, "peer", v.Status.Site, "to", to.Site)
	return nil, nil
}

// startMigration makes the job and its saga in one transaction; about says more of the job.
func (vs *VMs) startMigration(ctx context.Context, vmName, owner string, to objects.Location, wantHost string, about func(*api.Job)) (*api.Job, error) {
	meta := vs.NewMeta("migrate-"+vs.ShortID(), owner)
	var job *api.Job
	err := vs.Write(ctx, func(tx *state.Tx) error {
		v, err := objects.Get[api.VM](tx, vmName)
		if err != nil {
			return err
		}
		job = &api.Job{Meta: meta}
		about(job)
		if err := vs.beginMigration(tx, job, v, to, wantHost); err != nil {
			return err
		}
		return vs.Answer(ctx, tx, job)
	})
	if err != nil {
		return nil, err
	}
	vs.Poke()
	return job, nil
}

// beginMigration gives a VM to a new job that moves it.
func (vs *VMs) beginMigration(tx *state.Tx, job *api.Job, v *api.VM, to objects.Location, wantHost string) error {
	if err := saga.Hold("VM "+v.Name, &v.Status.Job, job.Name); err != nil {
		return err
	}
	if v.Deleting {
		return api.Errorf(api.CodeConflict, "VM %s is being deleted", v.Name)
	}
	for _, r := range []*api.Reason{restless(v), detaching(v)} {
		if r != nil {
			return &api.Error{Code: api.CodeConflict, Message: r.Message, Reasons: []api.Reason{*r}}
		}
	}
	call, err := vs.moveClaim(tx, v, job.Name, to, wantHost)
	if err != nil {
		return err
	}
	m := objects.Migration{
		VM: v.Name, UID: v.UID, Epoch: v.Status.Epoch, Target: to, Call: call,
		Source: objects.Location{Site: v.Status.Site, Host: v.Status.Host, VTEP: v.Status.VTEP, Loan: v.Status.Loan},
	}
	job.Spec.Object, job.Spec.Target = "vms/"+v.Name, to.Site
	if wantHost != "" {
		job.Spec.Target += "/" + wantHost
	}
	v.Status.Phase, v.Status.Since = api.PhaseMigrating, vs.Now()
	if err := objects.Put(tx, v); err != nil {
		return err
	}
	return vs.migrations.Begin(tx, job, &m)
}

// moveClaim is what a VM that is to move asks of its target. One that is not to run stays stopped.
func (vs *VMs) moveClaim(tx *state.Tx, v *api.VM, job string, to objects.Location, host string) (wire.ClaimCall, error) {
	call, err := vs.orders.Claim(tx, v, job, to.Site)
	if err != nil {
		return call, err
	}
	call.Loan, call.Host, call.Order.Epoch = to.Loan, host, v.Status.Epoch+1
	if to.Site == v.Status.Site {
		call.Avoid = v.Status.Host
	}
	if call.Order.Run != wire.RunOn && !rooms.Asleep(v) {
		call.Order.Run = wire.RunOff
	}
	return call, nil
}

// restless says that a VM which is not to run has not stopped yet; nil: it runs, or has stopped.
func restless(v *api.VM) *api.Reason {
	if v.Spec.Power == api.PowerOn || v.Status.Host == "" || v.Status.Phase == api.PhaseStopped {
		return nil
	}
	if rooms.Asleep(v) {
		return nil
	}
	if v.Spec.Power == api.PowerHibernated {
		return &api.Reason{
			Site: v.Status.Site, Host: v.Status.Host, Code: "power", Message: fmt.Sprintf("VM %s is to be hibernated, and is %s", v.Name, v.Status.Phase),
			Advice: "wait until it is: wcc vm show " + v.Name,
		}
	}
	if v.Spec.Power == api.PowerSuspended {
		return &api.Reason{
			Site: v.Status.Site, Host: v.Status.Host, Code: "power", Message: fmt.Sprintf("VM %s is suspended: its memory stays where it is", v.Name),
			Advice: fmt.Sprintf("let it go on first: wcc vm resume %s; or stop it: wcc vm stop %s", v.Name, v.Name),
		}
	}
	return &api.Reason{
		Site: v.Status.Site, Host: v.Status.Host, Code: "power", Message: fmt.Sprintf("VM %s is to be stopped, and is %s", v.Name, v.Status.Phase),
		Advice: "wait until it has stopped: wcc vm show " + v.Name,
	}
}

// newMigrations is the kind of job that migrates.
func newMigrations(vs *VMs, js *jobs.Jobs) *jobs.Of[objects.Migration] {
	return &jobs.Of[objects.Migration]{
		Jobs: js, Prefix: objects.PrefixMigrations, Failpoint: "coordinator", Means: vs.migrationMeans,
		About: func(m *objects.Migration) []any { return []any{"vm", m.VM, "epoch", m.Epoch} },
		Kind: saga.Kind[objects.Migration]{
			Plan: cloud.Migrate, Head: func(m *objects.Migration) *saga.Head { return &m.Head },
			Work: map[saga.Step]saga.Work[objects.Migration]{
				cloud.StepNone:     {Do: vs.migrateCheck},
				cloud.StepChecked:  {Do: vs.migrateReserve},
				cloud.StepReserved: {Do: vs.migratePrepare},
				cloud.StepPrepared: {Do: func(context.Context, *objects.Migration) (saga.Step, error) { return cloud.StepCopying, nil }},
				cloud.StepCopying:  {Do: vs.migrateCopy, Progress: vs.migrateProgress, Stop: vs.migrateStop},
				// The decision. From here on the copy at the source never runs at its old epoch again.
				cloud.StepCopied:    {Do: func(context.Context, *objects.Migration) (saga.Step, error) { return cloud.StepCommitted, nil }},
				cloud.StepCommitted: {Do: vs.migrateSwitch},
				cloud.StepSwitched:  {Do: vs.migrateConfirm},
				cloud.StepConfirmed: {Do: func(context.Context, *objects.Migration) (saga.Step, error) { return cloud.StepDone, nil }},
				cloud.StepUndo:      {Do: vs.migrateUndo},
			},
		},
	}
}

func (vs *VMs) migrateCheck(ctx context.Context, m *objects.Migration) (saga.Step, error) {
	reasons, err := vs.checkMigration(ctx, m.VM, m.Call, m.Target)
	if err != nil {
		return "", err
	}
	if len(reasons) > 0 {
		return "", &api.Error{Code: api.CodeRefused, Message: "VM " + m.VM + " cannot move to " + m.Target.Site, Reasons: reasons}
	}
	return cloud.StepChecked, nil
}

// migrateReserve has the target keep room, and takes from its answer where the VM will be.
func (vs *VMs) migrateReserve(ctx context.Context, m *objects.Migration) (saga.Step, error) {
	vs.sweepFor(ctx, m.UID)
	claim, err := vs.endOf(m.Target.Site).Reserve(ctx, m.Call)
	if err != nil {
		return "", err
	}
	if m.Target.Site != vs.Name {
		if err := vs.Read(ctx, func(tx *state.Tx) error { return vs.judgeAnswer(tx, m.Call, claim) }); err != nil {
			return "", err
		}
	}
	m.Target.Host, m.Target.VTEP = claim.Host, claim.VTEP.String()
	if m.Cold() {
		m.CPU = claim.CPU
	}
	return cloud.StepReserved, nil
}

func (vs *VMs) migratePrepare(ctx context.Context, m *objects.Migration) (saga.Step, error) {
	offer, err := vs.endOf(m.Source.Site).Begin(ctx, m.ToSource())
	if err != nil {
		return "", fmt.Errorf("source: %w", err)
	}
	call := wire.PrepareCall{Job: m.Job, Order: m.Call.Order, Offer: offer.Offer}
	if call.Network, err = vs.orders.NetworkFor(ctx, m.Call.Order.NIC.Network, m.Target.VTEP); err != nil {
		return "", err
	}
	answer, err := vs.endOf(m.Target.Site).Prepare(ctx, call)
	if err != nil {
		return "", fmt.Errorf("target: %w", err)
	}
	m.Answer = answer.Answer
	return cloud.StepPrepared, nil
}

func (vs *VMs) migrateCopy(ctx context.Context, m *objects.Migration) (saga.Step, error) {
	call := wire.PerformCall{Job: m.Job, VM: m.UID, Epoch: m.Epoch, Answer: m.Answer, Codec: vs.Codec, Host: m.Source.Host}
	result, err := vs.endOf(m.Source.Site).Perform(ctx, call)
	if err != nil {
		return "", fmt.Errorf("copy: %w", err)
	}
	m.Result, m.Measured = result.Result, &result.Progress
	return cloud.StepCopied, nil
}

func (vs *VMs) migrateProgress(ctx context.Context, m *objects.Migration) (api.Progress, error) {
	return vs.endOf(m.Source.Site).Progress(ctx, m.ToSource())
}

func (vs *VMs) migrateStop(ctx context.Context, m *objects.Migration) error {
	return vs.endOf(m.Source.Site).Cancel(ctx, m.ToSource())
}

// migrateSwitch tells the target to run. Only its definite "not found" leads back.
func (vs *VMs) migrateSwitch(ctx context.Context, m *objects.Migration) (saga.Step, error) {
	call := wire.FinishCall{Job: m.Job, VM: m.UID, Epoch: m.Committed(), Result: m.Result, Commit: true}
	err := vs.endOf(m.Target.Site).Finish(ctx, call)
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

func (vs *VMs) migrateConfirm(ctx context.Context, m *objects.Migration) (saga.Step, error) {
	call := wire.FinishCall{Job: m.Job, VM: m.UID, Epoch: m.Committed(), Commit: true, Host: m.Source.Host}
	if err := vs.endOf(m.Source.Site).Confirm(ctx, call); err != nil {
		// The VM runs at the target. What is left at the source is cleaned when it is reached again.
		vs.Log.Warn("confirm at the source; left for later", "job", m.Job, "vm", m.VM, "err", err)
		m.Left = &objects.Debris{Job: m.Job, VM: m.UID, Source: &m.Source, Call: call}
	}
	return cloud.StepDone, nil
}

// migrateUndo puts everything back: the source runs on, the target forgets. A target that is not reached hears it later.
func (vs *VMs) migrateUndo(ctx context.Context, m *objects.Migration) (saga.Step, error) {
	source, target := vs.endOf(m.Source.Site), vs.endOf(m.Target.Site)
	abort := wire.FinishCall{Job: m.Job, VM: m.UID, Epoch: m.Aborted()}
	if m.Fenced {
		if err := target.Finish(ctx, abort); err != nil {
			return "", fmt.Errorf("fence the target: %w", err)
		}
	}
	if err := source.Cancel(ctx, m.ToSource()); err != nil {
		vs.Log.Debug("cancel at the source", "job", m.Job, "vm", m.VM, "err", err)
	}
	back := abort
	back.Host = m.Source.Host
	if err := source.Confirm(ctx, back); err != nil && !errors.Is(err, &api.Error{Code: api.CodeNotFound}) {
		return "", fmt.Errorf("abort at the source: %w", err)
	}
	if !m.Fenced {
		if err := target.Finish(ctx, abort); err != nil {
			vs.Log.Warn("abort at the target; left for later", "job", m.Job, "vm", m.VM, "err", err)
			m.Left = &objects.Debris{Job: m.Job, VM: m.UID, Target: &m.Target, Call: abort}
		}
	}
	return cloud.StepFailed, nil
}

// migrationMeans does what a step means for the VM: where it is, at which epoch, and whether the job still holds it.
func (vs *VMs) migrationMeans(tx *state.Tx, j *api.Job, m *objects.Migration) error {
	v, err := objects.Get[api.VM](tx, m.VM)
	if err != nil {
		return err
	}
	if m.Measured != nil {
		j.Status.Progress = *m.Measured
	}
	switch m.Step {
	case cloud.StepCommitted:
		setPlace(v, m.Target, m.Committed())
		if m.Cold() {
			v.Status.CPU.Arch, v.Status.CPU.Accel = m.CPU.Arch, m.CPU.Accel
		}
	case cloud.StepUndo:
		setPlace(v, m.Source, m.Aborted())
	case cloud.StepSwitched:
		does := "runs"
		switch {
		case m.Call.Order.Run == wire.RunHibernated:
			does = "is hibernated"
		case m.Cold():
			does = "is stopped"
		}
		vs.Event(tx, "vm.moved", "vms/"+m.VM, v.Owner, fmt.Sprintf("%s at %s/%s at epoch %d", does, m.Target.Site, m.Target.Host, m.Committed()))
	case cloud.StepFailed:
		vs.Event(tx, "migrate.failed", "vms/"+m.VM, v.Owner, j.Status.Message)
	}
	if cloud.Migrate.Ended(m.Step) {
		saga.Release(&v.Status.Job, m.Job)
		v.Status.Phase, v.Status.Since = phaseAfter(m, v), vs.Now()
	}
	if err := vs.carryVolumes(tx, v); err != nil {
		return err
	}
	if m.Left != nil {
		if err := objects.PutRecord(tx, objects.PrefixDebris+m.Job, m.Left); err != nil {
			return err
		}
	}
	return objects.Put(tx, v)
}

// phaseAfter is the phase of a VM whose migration has ended, until its host reports.
func phaseAfter(m *objects.Migration, v *api.VM) api.VMPhase {
	switch {
	case !m.Cold():
		return api.PhaseRunning
	case v.Spec.Power == api.PowerOn: // its user has wished so meanwhile
		return api.PhaseStarting
	case m.Call.Order.Run == wire.RunHibernated:
		return api.PhaseHibernated
	}
	return api.PhaseStopped
}

// setPlace writes into a VM's status where it is, and at which epoch.
func setPlace(v *api.VM, l objects.Location, epoch uint64) {
	v.Status.Site, v.Status.Host, v.Status.VTEP, v.Status.Loan, v.Status.Epoch = l.Site, l.Host, l.VTEP, l.Loan, epoch
}

// checkMigration gives every reason at once why a VM cannot move.
func (vs *VMs) checkMigration(ctx context.Context, vm string, call wire.ClaimCall, to objects.Location) ([]api.Reason, error) {
	var reasons []api.Reason
	if err := vs.Read(ctx, func(tx *state.Tx) (err error) {
		reasons, err = vs.againstMove(tx, vm, call, to)
		return err
	}); err != nil {
		return nil, err
	}
	if to.Site != vs.Name && call.Order.Run != wire.RunOn {
		p := peer{vs, to.Site}
		if r := cmp.Or(p.cannotMoveStopped(), p.cannotRest(api.Power(call.Order.Run))); r != nil {
			return append(reasons, *r), nil // it does not know what is asked
		}
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	theirs, err := vs.endOf(to.Site).Check(ctx, call)
	if err != nil {
		reasons = append(reasons, api.Reason{Site: to.Site, Code: "unreachable", Message: err.Error(), Advice: "wcc site list shows which sites are reached"})
	}
	seen := map[string]bool{}
	for _, r := range reasons {
		seen[r.Code+r.Host] = true
	}
	for _, r := range theirs {
		if !seen[r.Code+r.Host] {
			reasons = append(reasons, r)
		}
	}
	return reasons, nil
}

// againstMove is what this site knows against a VM's move.
func (vs *VMs) againstMove(tx *state.Tx, vm string, call wire.ClaimCall, to objects.Location) (reasons []api.Reason, err error) {
	v, err := objects.Get[api.VM](tx, vm)
	if err != nil {
		return nil, err
	}
	add := func(r *api.Reason) {
		if r != nil {
			reasons = append(reasons, *r)
		}
	}
	if v.Status.Host == "" {
		add(&api.Reason{Code: "power", Message: fmt.Sprintf("VM %s has no place yet (%s)", v.Name, v.Status.Phase), Advice: "start it first: wcc vm start " + v.Name})
	}
	add(detaching(v))
	if call.Order.Run != wire.RunOn {
		if v.Status.Job == "" {
			add(restless(v))
		}
		add(vs.cannotLeaveStopped(v))
	} else {
		reasons = append(reasons, unplugged(v)...)
	}
	if to.Site == v.Status.Site && (call.Host == "" || call.Host == v.Status.Host) && to.Site != vs.Name {
		add(&api.Reason{Site: to.Site, Code: "place", Message: fmt.Sprintf("VM %s is at %s already", v.Name, to.Site)})
	}
	if call.Host != "" && to.Site == v.Status.Site && call.Host == v.Status.Host {
		add(&api.Reason{Site: to.Site, Host: call.Host, Code: "place", Message: fmt.Sprintf("VM %s is on host %s already", v.Name, call.Host)})
	}
	if to.Site == vs.Name {
		if len(v.Spec.Sites) > 0 && !slices.Contains(v.Spec.Sites, vs.Name) {
			add(&api.Reason{Site: to.Site, Code: "permit", Message: fmt.Sprintf("VM %s may only be at %s", v.Name, strings.Join(v.Spec.Sites, ", ")), Advice: "add the site to spec.sites"})
		}
		return reasons, nil
	}
	s, err := vs.rooms.Snapshot(tx, v.Name)
	if err != nil {
		return nil, err
	}
	r, err := vs.rooms.Request(tx, v)
	if err != nil {
		return nil, err
	}
	r.Place = to.Site
	r.CPUModel, r.Arch, r.Accel = "", "", "" // the lender judges by its hosts, and is asked
	if plan := place.Decide(s, r); plan.Chosen == nil {
		reasons = append(reasons, place.Why(plan, to.Site)...)
	}
	return reasons, nil
}

// cannotLeaveStopped says why a stopped VM cannot leave where it is; nil: it can, as far as is known here.
func (vs *VMs) cannotLeaveStopped(v *api.VM) *api.Reason {
	switch v.Status.Site {
	case "":
		return nil
	case vs.Name:
		return vs.guests.CannotMoveStopped(v.Status.Host)
	}
	return peer{vs, v.Status.Site}.cannotMoveStopped()
}
