package vms

import (
	"context"
	"errors"
	"fmt"
	"time"

	"widecloud/api"
	"widecloud/internal/cloud"
	"widecloud/internal/control/objects"
	"widecloud/internal/state"
	"widecloud/internal/wire"
)

// Power passes on what is wished of VMs that run at a lender: their power, their size and their disks; to one of an older release,
// of those that are stopped alone.
func (vs *VMs) Power(ctx context.Context) error {
	var wishes []guestWish
	if err := vs.Read(ctx, func(tx *state.Tx) error {
		for v := range objects.By[api.VM](tx, "todo", "away") {
			if v.Status.Job != "" {
				continue
			}
			w, err := vs.wishFor(tx, v)
			if err != nil {
				return err
			}
			if w != nil {
				wishes = append(wishes, *w)
			}
		}
		return nil
	}); err != nil {
		return err
	}
	for _, w := range wishes {
		vs.Once("power/"+w.vm.Name, func(ctx context.Context) { vs.passWish(ctx, w) })
	}
	return nil
}

// guestWish is what a lender is to make of a guest.
type guestWish struct {
	vm   *api.VM
	call wire.GuestOrder
	size string // seal of the size, to be asked for once
}

// wishFor is what a VM's lender has to be asked for; nil: nothing.
func (vs *VMs) wishFor(tx *state.Tx, v *api.VM) (*guestWish, error) {
	o, err := vs.orders.Of(tx, v)
	if err != nil {
		return nil, err
	}
	phase := v.Status.Phase
	running := phase == api.PhaseRunning || phase == api.PhaseSuspended
	settled := phase == api.PhaseRunning && o.Run == wire.RunOn || phase == api.PhaseSuspended && o.Run == wire.RunSuspended || phase == api.PhaseHibernated && (o.Run == wire.RunHibernated || o.Run == wire.RunOff) ||
		phase == api.PhaseStopped && o.Run != wire.RunOn
	w := &guestWish{vm: v, call: wire.GuestOrder{VM: v.UID, Epoch: v.Status.Epoch, Run: o.Run, Serial: o.Serial}}
	if !running || (peer{vs, v.Status.Site}).can(wire.CapDisks) {
		needs, err := vs.rooms.NeedsAt(tx, v, v.Status.Site)
		if err != nil {
			return nil, err
		}
		w.call.Size = &wire.GuestSize{Hardware: o.Hardware, Needs: needs, DiskMiB: o.DiskMiB, Disks: o.Disks}
		w.size = fmt.Sprintf("%d %+v", v.Status.Epoch, *w.call.Size)
		settled = settled && vs.sizes.Is(v.UID, w.size)
	}
	if settled {
		return nil, nil
	}
	w.call.Loan, err = vs.loanInstead(tx, v)
	return w, err
}

func (vs *VMs) passWish(ctx context.Context, w guestWish) {
	cctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	err := vs.endOf(w.vm.Status.Site).Order(cctx, w.call)
	if err == nil {
		vs.sizes.Set(w.vm.UID, w.size)
	} else if errors.Is(err, &api.Error{Code: api.CodeRefused}) && w.call.Size != nil && !w.call.Run.Up() {
		// A size that cannot be had keeps no VM from being stopped. What is wrong is shown all the same.
		power := w.call
		power.Size = nil
		err = errors.Join(err, vs.endOf(w.vm.Status.Site).Order(cctx, power))
	}
	if err == nil && w.call.Loan == "" || ctx.Err() != nil {
		return
	}
	if _, err := objects.Change(ctx, vs.Site, w.vm.Name, func(_ *state.Tx, v *api.VM) error {
		switch {
		case err != nil:
			v.Status.Message = cloud.Line(err.Error(), objects.MaxText)
		case v.Status.Site == w.vm.Status.Site:
			v.Status.Loan = w.call.Loan
		}
		return nil
	}); err != nil {
		vs.Log.Debug("show why a guest is not powered", "vm", w.vm.Name, "err", err)
	}
	if err != nil {
		vs.Pause(ctx)
	}
}

// loanInstead is another loan for a guest that is to be started and whose own loan is over; "" when there is no need or none.
func (vs *VMs) loanInstead(tx *state.Tx, v *api.VM) (string, error) {
	l, err := objects.Get[api.Loan](tx, v.Status.Loan)
	if err == nil && l.Status.State == api.LoanActive || v.Spec.Power != api.PowerOn {
		return "", nil
	}
	if err != nil && !errors.Is(err, &api.Error{Code: api.CodeNotFound}) {
		return "", err
	}
	needs, err := vs.rooms.NeedsAt(tx, v, v.Status.Site)
	if err != nil {
		return "", err
	}
	return vs.rooms.LoanAt(tx, v.Status.Site, v.Name, needs)
}
