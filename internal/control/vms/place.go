package vms

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"widecloud/api"
	"widecloud/internal/cloud"
	"widecloud/internal/control/objects"
	"widecloud/internal/control/rooms"
	"widecloud/internal/place"
	"widecloud/internal/state"
	"widecloud/internal/wire"
)

// judgeAnswer looks at what a lender answers to a claim: where the VM is, and what it runs on.
func (vs *VMs) judgeAnswer(tx *state.Tx, call wire.ClaimCall, claim wire.Claim) error {
	if claim.Job != call.Job || claim.VM != call.Order.VM {
		return api.Invalidf("claim.job", "is %.80q for VM %.80q, and job %s for VM %s was asked for", claim.Job, claim.VM, call.Job, call.Order.VM)
	}
	if err := cloud.ValidateName("claim.host", claim.Host); err != nil {
		return err
	}
	if err := cloud.CheckCPUs("claim.cpu", []api.CPU{claim.CPU}); err != nil {
		return err
	}
	if err := vs.Judge().VTEP("claim.vtep", claim.VTEP); err != nil {
		return err
	}
	hosts, err := objects.List[api.Host](tx)
	if err != nil {
		return err
	}
	for _, h := range hosts {
		if h.Status.VTEP == claim.VTEP.String() {
			return api.Invalidf("claim.vtep", "%s is host %s of this site", claim.VTEP, h.Name)
		}
	}
	return nil
}

// Place finds a place for every VM that has none, and takes it there.
func (vs *VMs) Place(ctx context.Context) error {
	var pending []string
	if err := vs.Read(ctx, func(tx *state.Tx) error {
		for v := range objects.By[api.VM](tx, "todo", "place") {
			pending = append(pending, v.Name)
		}
		return nil
	}); err != nil {
		return err
	}
	for _, name := range pending {
		vs.Once("place/"+name, func(ctx context.Context) {
			if err := vs.placeVM(ctx, name); err != nil && ctx.Err() == nil {
				vs.Log.Warn("place", "vm", name, "err", err)
			}
		})
	}
	return nil
}

// placeVM decides where a VM goes. A peer that is to take it is written down before it is asked, so that a controller
// that dies in between asks the same one again.
func (vs *VMs) placeVM(ctx context.Context, name string) error {
	for {
		if err := vs.placeOnce(ctx, name); !errors.Is(err, errTaken) {
			return err
		}
	}
}

// errTaken says that what was planned is no longer possible: somebody else has taken the room.
var errTaken = errors.New("the room is taken")

func (vs *VMs) placeOnce(ctx context.Context, name string) error {
	plan, err := vs.plan(ctx, name)
	if err != nil {
		return err
	}
	var call wire.ClaimCall
	v, err := objects.Change(ctx, vs.Site, name, func(tx *state.Tx, v *api.VM) (err error) {
		if v.Status.Host != "" || v.Deleting {
			return objects.ErrHalt
		}
		if v.Status.Site == "" {
			if err := vs.takePlace(tx, v, plan); err != nil || v.Status.Site == "" || v.Status.Host != "" {
				return err
			}
		}
		call, err = vs.orders.Claim(tx, v, fmt.Sprintf("create-%s-%d", v.UID, v.Status.Epoch), v.Status.Site)
		call.Loan, call.Start = v.Status.Loan, true
		if _, host, ok := strings.Cut(v.Spec.Place, "/"); ok {
			call.Host = host
		}
		return err
	})
	if errors.Is(err, objects.ErrHalt) {
		return nil
	}
	if err != nil || call.Job == "" {
		return err
	}
	return vs.askLender(ctx, v, call)
}

// plan decides where a VM would go. That looks at all hosts and loans, and so it is no part of the transaction that places the VM, which
// would run again whenever one of these has changed.
func (vs *VMs) plan(ctx context.Context, name string) (plan place.Plan, err error) {
	err = vs.Read(ctx, func(tx *state.Tx) error {
		v, err := objects.Find[api.VM](tx, name)
		if err != nil || v.Status.Site != "" || !vs.imageReady(tx, v) {
			return err
		}
		s, err := vs.rooms.Snapshot(tx, name)
		if err != nil {
			return err
		}
		r, err := vs.wanted(tx, v)
		if err != nil {
			return err
		}
		plan = place.Decide(s, r)
		return nil
	})
	return plan, err
}

// imageReady tells whether a VM's image is there.
func (vs *VMs) imageReady(tx *state.Tx, v *api.VM) bool {
	img, err := objects.Find[api.Image](tx, v.Spec.Image)
	return err == nil && img.Status.Phase == "ready"
}

// wanted is what a VM that has no place asks for.
func (vs *VMs) wanted(tx *state.Tx, v *api.VM) (place.Request, error) {
	r, err := vs.rooms.Request(tx, v)
	r.Place = v.Spec.Place
	return r, err
}

// takePlace writes into a VM where it is to go by a plan: at this site with its host, or a peer and the loan there. What has been planned
// has to be possible still: if it is not, the VM is planned for again. A VM that has to wait says for what.
func (vs *VMs) takePlace(tx *state.Tx, v *api.VM, plan place.Plan) error {
	if !vs.imageReady(tx, v) {
		v.Status.Message = fmt.Sprintf("waits for image %s", v.Spec.Image)
		v.Status.Reasons = []api.Reason{{Code: "image", Message: v.Status.Message}}
		return nil
	}
	v.Status.Message, v.Status.Reasons = "there is no room for it now", place.Grouped(plan.Refused)
	if plan.Chosen == nil {
		return nil
	}
	s, err := vs.rooms.Only(tx, *plan.Chosen)
	if err != nil {
		return err
	}
	r, err := vs.wanted(tx, v)
	if err != nil {
		return err
	}
	now := place.Decide(s, r).Chosen
	if now == nil {
		return errTaken
	}
	v.Status.Message = ""
	v.Status.Epoch++
	v.Status.Site, v.Status.Loan = now.Site, now.Loan
	if now.Site != vs.Name {
		return nil
	}
	h, err := objects.Find[api.Host](tx, now.Host)
	if err != nil {
		return err
	}
	vs.arrived(tx, v, h.Name, h.Status.VTEP, rooms.GuestCPU(h, v.Spec.CPUModel))
	return nil
}

// askLender has a lender take a VM in. Its no sends the VM back to be placed anew; an answer that did not come, or is not believed, has the
// same lender asked again.
func (vs *VMs) askLender(ctx context.Context, v *api.VM, call wire.ClaimCall) error {
	asking, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	claim, err := vs.endOf(v.Status.Site).Reserve(asking, call)
	var refused *api.Error
	if errors.As(err, &refused) && refused.Code != api.CodeUnavailable && !errors.Is(err, wire.ErrNoAnswer) {
		_, err = objects.Change(asking, vs.Site, v.Name, func(_ *state.Tx, v *api.VM) error {
			v.Status.Site, v.Status.Loan = "", ""
			v.Status.Message, v.Status.Reasons = refused.Message, place.Grouped(refused.Reasons)
			return nil
		})
		// What we know of the lender said yes, and will say so again: without a pause it would be asked without end.
		if err == nil && vs.PauseFor(ctx, vs.Resync) != nil {
			return nil
		}
		return err
	}
	if err != nil {
		return err // it may have been granted
	}
	if err := vs.Read(ctx, func(tx *state.Tx) error { return vs.judgeAnswer(tx, call, claim) }); err != nil {
		return vs.distrust(ctx, v.Name, v.Status.Site, err) // it may run there all the same
	}
	_, err = objects.Change(ctx, vs.Site, v.Name, func(tx *state.Tx, v *api.VM) error {
		vs.arrived(tx, v, claim.Host, claim.VTEP.String(), claim.CPU)
		return nil
	})
	return err
}

// distrust shows why a lender's answer is not believed.
func (vs *VMs) distrust(ctx context.Context, name, site string, why error) error {
	_, err := objects.Change(ctx, vs.Site, name, func(_ *state.Tx, v *api.VM) error {
		v.Status.Message = fmt.Sprintf("what %s answers is not believed: %s; delete the VM, or ask that site's admin", site, cloud.Line(why.Error(), objects.MaxText))
		v.Status.Reasons = []api.Reason{{Site: site, Code: "lender", Message: v.Status.Message}}
		return nil
	})
	if err == nil {
		vs.PauseFor(ctx, vs.Resync)
	}
	return err
}

// arrived keeps where a VM was placed.
func (vs *VMs) arrived(tx *state.Tx, v *api.VM, host, vtep string, cpu api.CPU) {
	v.Status.Host, v.Status.VTEP, v.Status.CPU = host, vtep, cpu
	v.Status.Phase, v.Status.Since, v.Status.Message, v.Status.Reasons = api.PhaseStarting, vs.Now(), "", nil
	vs.Event(tx, "vm.placed", "vms/"+v.Name, v.Owner, fmt.Sprintf("at %s/%s, epoch %d", v.Status.Site, host, v.Status.Epoch))
}
