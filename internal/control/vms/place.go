package vms

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
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

// refusals are the lenders that have said no to a VM, and why.
type refusals map[string][]api.Reason

// placeVM decides where a VM goes. A peer that is to take it is written down before it is asked, so that a controller
// that dies in between asks the same one again. A lender that says no is left out, and the next one is asked.
func (vs *VMs) placeVM(ctx context.Context, name string) error {
	no := refusals{}
	for {
		err := vs.placeOnce(ctx, name, no)
		if errors.Is(err, errTaken) || errors.Is(err, errRefused) {
			continue
		}
		// What we know of those lenders said yes, and will say so again: without a pause they would be asked without end.
		if err == nil && len(no) > 0 && vs.unplaced(ctx, name) {
			vs.PauseFor(ctx, vs.Resync)
		}
		return err
	}
}

// unplaced tells whether a VM waits for a place.
func (vs *VMs) unplaced(ctx context.Context, name string) (waits bool) {
	_ = vs.Read(ctx, func(tx *state.Tx) error {
		v, err := objects.Find[api.VM](tx, name)
		waits = err == nil && v.Status.Site == ""
		return nil
	})
	return waits
}

var (
	// errTaken says that what was planned is no longer possible: somebody else has taken the room.
	errTaken = errors.New("the room is taken")
	// errRefused says that a lender has said no.
	errRefused = errors.New("the lender refuses")
)

func (vs *VMs) placeOnce(ctx context.Context, name string, no refusals) error {
	plan, err := vs.plan(ctx, name, no)
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
		call, err = vs.createClaim(tx, v, place.Choice{Site: v.Status.Site, Loan: v.Status.Loan}, fmt.Sprintf("create-%s-%d", v.UID, v.Status.Epoch))
		return err
	})
	if errors.Is(err, objects.ErrHalt) {
		return nil
	}
	if err != nil || call.Job == "" {
		return err
	}
	return vs.askLender(ctx, v, call, no)
}

// createClaim is what a lender is asked for a new VM.
func (vs *VMs) createClaim(tx *state.Tx, v *api.VM, at place.Choice, job string) (wire.ClaimCall, error) {
	call, err := vs.orders.Claim(tx, v, job, at.Site)
	call.Loan, call.Start, call.Order.Epoch = at.Loan, true, max(call.Order.Epoch, 1)
	if _, host, ok := strings.Cut(v.Spec.Place, "/"); ok {
		call.Host = host
	}
	return call, err
}

// plan decides where a VM would go. That looks at all hosts and loans, and so it is no part of the transaction that places the VM, which
// would run again whenever one of these has changed.
func (vs *VMs) plan(ctx context.Context, name string, no refusals) (plan place.Plan, err error) {
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
		for site := range no {
			r.Exclude = append(r.Exclude, place.Choice{Site: site})
		}
		plan = place.Decide(s, r)
		return nil
	})
	plan.Refused = no.instead(plan.Refused)
	return plan, err
}

// instead gives reasons with what lenders have said in the place of that they were left out.
func (no refusals) instead(reasons []api.Reason) (out []api.Reason) {
	for _, r := range reasons {
		if no[r.Site] == nil {
			out = append(out, r)
		}
	}
	for _, site := range slices.Sorted(maps.Keys(no)) {
		out = append(out, no[site]...)
	}
	return out
}

// imageReady tells whether a VM's image is there.
func (vs *VMs) imageReady(tx *state.Tx, v *api.VM) bool {
	img, err := objects.Find[api.Image](tx, v.Spec.Image)
	return err == nil && img.Status.Phase == "ready"
}

func waitsForImage(v *api.VM) string { return "waits for image " + v.Spec.Image }

// wanted is what a VM that has no place asks for.
func (vs *VMs) wanted(tx *state.Tx, v *api.VM) (place.Request, error) {
	r, err := vs.rooms.Request(tx, v)
	if err != nil {
		return r, err
	}
	r.Place = v.Spec.Place
	if at, _, err := vs.volumesAt(tx, v); err != nil {
		return r, err
	} else if at != nil {
		r.Place = at.Site + "/" + at.Host
	}
	return r, nil
}

// takePlace writes into a VM where it is to go by a plan: at this site with its host, or a peer and the loan there. What has been planned
// has to be possible still: if it is not, the VM is planned for again. A VM that has to wait says for what.
func (vs *VMs) takePlace(tx *state.Tx, v *api.VM, plan place.Plan) error {
	if !vs.imageReady(tx, v) {
		v.Status.Message = waitsForImage(v)
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
	if v.Status.CPU.Profile == 0 {
		v.Status.CPU.Profile = cmp.Or(v.Spec.Profile, s.Profile(*now, api.NewestProfile))
	}
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

// askLender has a lender take a VM in. Its no (errRefused) sends the VM back to be placed anew; an answer that did not come, or is not
// believed, has the same lender asked again.
func (vs *VMs) askLender(ctx context.Context, v *api.VM, call wire.ClaimCall, no refusals) error {
	asking, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	claim, err := vs.endOf(v.Status.Site).Reserve(asking, call)
	if refused := refusal(err); refused != nil {
		no[v.Status.Site] = reasonsOf(refused, v.Status.Site)
		if _, err = objects.Change(asking, vs.Site, v.Name, func(_ *state.Tx, v *api.VM) error {
			v.Status.Site, v.Status.Loan, v.Status.CPU = "", "", api.CPU{}
			v.Status.Message, v.Status.Reasons = refused.Message, place.Grouped(refused.Reasons)
			return nil
		}); err != nil {
			return err
		}
		return errRefused
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

// refusal is a site's no; nil when it has not said no, or not been heard.
func refusal(err error) *api.Error {
	var refused *api.Error
	if errors.As(err, &refused) && refused.Code != api.CodeUnavailable && !errors.Is(err, wire.ErrNoAnswer) {
		return refused
	}
	return nil
}

// reasonsOf are the reasons of a site's no: at least one.
func reasonsOf(refused *api.Error, site string) []api.Reason {
	if len(refused.Reasons) > 0 {
		return refused.Reasons
	}
	return []api.Reason{{Site: site, Code: string(refused.Code), Message: refused.Message}}
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

// arrived keeps where a VM was placed. Its hardware profile is its own, whatever the host can do.
func (vs *VMs) arrived(tx *state.Tx, v *api.VM, host, vtep string, cpu api.CPU) {
	cpu.Profile = v.Status.CPU.Profile
	v.Status.Host, v.Status.VTEP, v.Status.CPU = host, vtep, cpu
	v.Status.Phase, v.Status.Since, v.Status.Message, v.Status.Reasons = api.PhaseStarting, vs.Now(), "", nil
	vs.Event(tx, "vm.placed", "vms/"+v.Name, v.Owner, fmt.Sprintf("at %s/%s, epoch %d", v.Status.Site, host, v.Status.Epoch))
}
