package vms

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"time"

	"widecloud/api"
	"widecloud/internal/access"
	"widecloud/internal/control/guests"
	"widecloud/internal/control/hosts"
	"widecloud/internal/control/objects"
	"widecloud/internal/place"
	"widecloud/internal/state"
	"widecloud/internal/wire"
)

// unknown shows that what is known of the VMs of a host whose agent is not reached is of the past.
func (vs *VMs) unknown(tx *state.Tx, host string) error {
	for v := range objects.By[api.VM](tx, "host", objects.Placed(vs.Name, host)) {
		if v.Status.Phase != api.PhaseRunning && v.Status.Phase != api.PhaseSuspended {
			continue
		}
		v = state.Clone(v)
		v.Status.Phase, v.Status.Since = api.PhaseUnknown, vs.Now()
		v.Status.Message = "the agent of host " + host + " is not reached"
		if err := objects.Put(tx, v); err != nil {
			return err
		}
	}
	return nil
}

// seeVMs keeps what a host reports of our VMs.
func (vs *VMs) seeVMs(tx *state.Tx, host string, seen map[string]wire.VMReport) (func(), error) {
	for v := range objects.By[api.VM](tx, "host", objects.Placed(vs.Name, host)) {
		if s, ok := seen[v.UID]; ok {
			if err := vs.seeVM(tx, v, s); err != nil {
				return nil, err
			}
		}
	}
	return nil, nil
}

// phaseEvent tells of a VM that begins to run, has stopped or fails. One that fails again for the same reason is no news.
func (vs *VMs) phaseEvent(tx *state.Tx, v *api.VM, now api.VMPhase, message string) {
	at := v.Status.Site + "/" + v.Status.Host
	switch now {
	case api.PhaseRunning:
		vs.Event(tx, "vm.running", "vms/"+v.Name, v.Owner, "runs at "+at)
	case api.PhaseSuspended:
		vs.Event(tx, "vm.suspended", "vms/"+v.Name, v.Owner, "is suspended at "+at)
	case api.PhaseHibernated:
		vs.Event(tx, "vm.hibernated", "vms/"+v.Name, v.Owner, "is hibernated at "+at)
	case api.PhaseStopped:
		vs.Event(tx, "vm.stopped", "vms/"+v.Name, v.Owner, "has stopped at "+at)
	case api.PhaseFailed:
		if message != v.Status.Message {
			vs.Event(tx, "vm.failed", "vms/"+v.Name, v.Owner, "at "+at+": "+message)
		}
	}
}

// seeVM keeps what is seen of one of our VMs, wherever it runs. v is shared: it is copied only if the report says something new, which
// most reports do not.
func (vs *VMs) seeVM(tx *state.Tx, v *api.VM, s wire.VMReport) error {
	if s.Epoch < v.Status.Epoch {
		return nil // of a copy that is no longer the one
	}
	if v.Deleting && s.State == wire.CopyGone {
		return vs.forgetVM(tx, v)
	}
	if err := vs.seeVolumes(tx, v, s); err != nil {
		return err
	}
	now := vs.seenStatus(tx, v, s)
	if err := vs.seeMachine(tx, v, &now, s); err != nil {
		return err
	}
	if !reflect.DeepEqual(now, v.Status) {
		v = state.Clone(v)
		v.Status = now
		return objects.Put(tx, v)
	}
	return nil
}

// seenStatus is a VM's status after a report. It shares what is the same.
func (vs *VMs) seenStatus(tx *state.Tx, v *api.VM, s wire.VMReport) api.VMStatus {
	now := v.Status
	if v.Status.Job == "" {
		run := wire.RunOff
		switch {
		case v.Deleting:
		case v.Spec.Power == api.PowerOn:
			run = wire.RunOn
		case v.Spec.Power == api.PowerSuspended:
			run = wire.RunSuspended
		case v.Spec.Power == api.PowerHibernated:
			run = wire.RunHibernated
		}
		if phase := guests.PhaseOf(run, v.Status.PowerChanges, s); phase != v.Status.Phase {
			vs.phaseEvent(tx, v, phase, s.Message)
			if phase == api.PhaseRunning {
				now.Reasons = nil // of the placement, which earlier releases kept
			}
			now.Phase, now.Since = phase, vs.Now()
		}
		now.Message = s.Message
	}
	now.Addresses = sightings(v.Status.Addresses, s, vs.Now())
	return now
}

func isAddress(a netip.Addr, text string) bool { return a.IsValid() && a.String() == text }

// own reads a VM that the actor may act on.
func (vs *VMs) own(tx *state.Tx, p access.Actor, vm string) (*api.VM, error) {
	o, err := vs.Visible(tx, p, api.KindVM, vm)
	if err != nil {
		return nil, err
	}
	return o.(*api.VM), access.Change(p, o)
}

// Why says why a VM is where it is, or why it is not at a place.
func (vs *VMs) Why(ctx context.Context, p access.Actor, vm, not string) (reasons []api.Reason, err error) {
	err = vs.Read(ctx, func(tx *state.Tx) error {
		v, err := vs.own(tx, p, vm)
		if err != nil {
			return err
		}
		s, err := vs.rooms.Snapshot(tx, vm)
		if err != nil {
			return err
		}
		r, err := vs.rooms.Request(tx, v)
		if err != nil {
			return err
		}
		if not == "" {
			at := "it has no place"
			if v.Status.Host != "" {
				at = fmt.Sprintf("it is at %s/%s, epoch %d", v.Status.Site, v.Status.Host, v.Status.Epoch)
			}
			reasons = append(reasons, api.Reason{Site: v.Status.Site, Host: v.Status.Host, Code: "placed", Message: at})
			if v.Status.Message != "" {
				reasons = append(reasons, api.Reason{Code: "message", Message: v.Status.Message})
			}
			if v.Status.Host != "" {
				r.Exclude = []place.Choice{{Site: v.Status.Site, Host: v.Status.Host}}
			}
			plan := place.Explain(s, r)
			reasons = append(reasons, plan.Refused...)
			return nil
		}
		if not == v.Status.Site || not == v.Status.Site+"/"+v.Status.Host {
			reasons = append(reasons, api.Reason{Site: v.Status.Site, Host: v.Status.Host, Code: "placed", Message: "it is there now"})
			return nil
		}
		r.Place = not
		plan := place.Explain(s, r)
		reasons = place.Why(plan, not)
		return nil
	})
	return reasons, err
}

// running is a VM of the actor that is somewhere.
func (vs *VMs) running(ctx context.Context, p access.Actor, vm string) (v *api.VM, err error) {
	err = vs.Read(ctx, func(tx *state.Tx) error {
		v, err = vs.placed(tx, p, vm)
		return err
	})
	return v, err
}

func (vs *VMs) placed(tx *state.Tx, p access.Actor, vm string) (*api.VM, error) {
	v, err := vs.own(tx, p, vm)
	if err == nil && v.Status.Host == "" {
		err = api.Errorf(api.CodeConflict, "VM %s has no place yet", vm)
	}
	return v, err
}

// MayReboot says why a user may not reboot a VM now; nil: it may.
func (vs *VMs) MayReboot(tx *state.Tx, p access.Actor, vm string) error {
	_, err := vs.placed(tx, p, vm)
	return err
}

// RebootNow restarts a VM where it is, without asking whether anybody may.
func (vs *VMs) RebootNow(ctx context.Context, vm, uid string, hard bool) error {
	var v *api.VM
	if err := vs.Read(ctx, func(tx *state.Tx) (err error) {
		if v, err = objects.Get[api.VM](tx, vm); err == nil && v.UID != uid {
			err = api.Errorf(api.CodeNotFound, "VM %s is another one now", vm)
		}
		return err
	}); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, rebootTime)
	defer cancel()
	return notThere(v, vs.endOf(v.Status.Site).Reboot(ctx, wire.RebootCall{VM: v.UID, Epoch: v.Status.Epoch, Hard: hard}))
}

// rebootTime is how long a host has to answer.
const rebootTime = 30 * time.Second

// Reboot restarts a VM where it is.
func (vs *VMs) Reboot(ctx context.Context, p access.Actor, vm string, hard bool) error {
	v, err := vs.running(ctx, p, vm)
	if err != nil {
		return err
	}
	if err := vs.AtMostOnce(ctx, v, func() error {
		return vs.endOf(v.Status.Site).Reboot(ctx, wire.RebootCall{VM: v.UID, Epoch: v.Status.Epoch, Hard: hard})
	}); err != nil {
		return notThere(v, err)
	}
	vs.Note(ctx, "reboot", v, "")
	return nil
}

// notThere is an end's error for the user of a VM: one that is not where it was a moment ago is on its way.
func notThere(v *api.VM, err error) error {
	if errors.Is(err, &api.Error{Code: api.CodeNotFound}) {
		return api.Errorf(api.CodeConflict, "VM %s is not at %s/%s just now: %v", v.Name, v.Status.Site, v.Status.Host, err)
	}
	return err
}

// GuestReport keeps what a lender sees of a VM of ours.
func (vs *VMs) GuestReport(ctx context.Context, from string, g wire.GuestReport) error {
	if err := hosts.JudgeVMReport("report", &g.Report); err != nil {
		return err
	}
	orphan := false
	defer func() {
		if !orphan || g.Report.State == wire.CopyGone {
			return
		}
		// Its VM was deleted while the lender was being asked to take it in, and the answer was lost.
		vs.Once("orphan/"+g.Report.VM, func(ctx context.Context) {
			ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
			defer cancel()
			if err := vs.endOf(from).Order(ctx, wire.GuestOrder{VM: g.Report.VM, Epoch: g.Report.Epoch, Run: wire.RunGone}); err != nil {
				vs.Log.Debug("end a guest without a VM", "peer", from, "vm", g.Report.VM, "err", err)
			}
		})
	}()
	return vs.Write(ctx, func(tx *state.Tx) error {
		v := objects.VMOf(tx, g.Report.VM)
		if orphan = v == nil; orphan || v.Status.Site != from || v.Status.Host != g.Host {
			return nil // it moved on; a report of the past
		}
		return vs.seeVM(tx, v, g.Report)
	})
}

// usageTime is how long to wait for what a VM's host has to tell.
const usageTime = 10 * time.Second

// Usage is what a VM has used lately, as its host has seen it.
func (vs *VMs) Usage(ctx context.Context, p access.Actor, vm string) (*api.Usage, error) {
	v, err := vs.running(ctx, p, vm)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, usageTime)
	defer cancel()
	u, err := vs.endOf(v.Status.Site).Usage(ctx, wire.UsageCall{VM: v.UID})
	if err != nil {
		return nil, notThere(v, err)
	}
	if err := wire.CheckUsage(u); err != nil {
		return nil, api.Errorf(api.CodeUnavailable, "what %s/%s tells of VM %s is no account of its use: %v", v.Status.Site, v.Status.Host, vm, err)
	}
	return &u, nil
}
