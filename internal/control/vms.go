package control

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"widecloud/api"
	"widecloud/internal/cloud"
	"widecloud/internal/lend"
	"widecloud/internal/place"
	"widecloud/internal/state"
	"widecloud/internal/wire"
)

// placeVMs finds a place for every VM that has none, and takes it there.
func (c *Controller) placeVMs(ctx context.Context) error {
	var pending []string
	if err := c.view(ctx, func(tx *state.Tx) error {
		for v := range by[api.VM](tx, "todo", "place") {
			pending = append(pending, v.Name)
		}
		return nil
	}); err != nil {
		return err
	}
	for _, name := range pending {
		c.once("place/"+name, func(ctx context.Context) {
			if err := c.placeVM(ctx, name); err != nil && ctx.Err() == nil {
				c.log.Warn("place", "vm", name, "err", err)
			}
		})
	}
	return nil
}

// placeVM decides where a VM goes. A peer that is to take it is written down before it is asked, so that a controller
// that dies in between asks the same one again.
func (c *Controller) placeVM(ctx context.Context, name string) error {
	var call wire.ClaimCall
	v, err := change(ctx, c, name, func(tx *state.Tx, v *api.VM) error {
		if v.Status.Host != "" || v.Deleting {
			return errHalt
		}
		img, err := get[api.Image](tx, v.Spec.Image)
		if err != nil || img.Status.Phase != "ready" {
			v.Status.Message = fmt.Sprintf("waits for image %s", v.Spec.Image)
			v.Status.Reasons = []api.Reason{{Code: "image", Message: v.Status.Message}}
			return nil
		}
		if v.Status.Site == "" {
			s, err := c.snapshot(tx)
			if err != nil {
				return err
			}
			r, err := c.request(tx, v)
			if err != nil {
				return err
			}
			r.Place = v.Spec.Place
			plan := place.Decide(s, r)
			v.Status.Reasons = place.Grouped(plan.Refused)
			if plan.Chosen == nil {
				v.Status.Message = "there is no room for it now"
				return nil
			}
			v.Status.Message = ""
			v.Status.Epoch++
			v.Status.Site, v.Status.Loan = plan.Chosen.Site, plan.Chosen.Loan
			if plan.Chosen.Site == c.o.Site {
				h, err := get[api.Host](tx, plan.Chosen.Host)
				if err != nil {
					return err
				}
				c.arrived(tx, v, h.Name, h.Status.VTEP, guestCPU(h, v.Spec.CPUModel))
				return nil
			}
		}
		call, err = c.claimFor(tx, v, fmt.Sprintf("create-%s-%d", v.UID, v.Status.Epoch), v.Status.Site)
		call.Loan, call.Start = v.Status.Loan, true
		if _, host, ok := strings.Cut(v.Spec.Place, "/"); ok {
			call.Host = host
		}
		return err
	})
	if errors.Is(err, errHalt) {
		return nil
	}
	if err != nil || call.Job == "" {
		return err
	}
	parent := ctx
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	claim, err := c.endOf(v.Status.Site).X_reserve(ctx, call)
	var refused *api.Error
	if errors.As(err, &refused) && refused.Code != api.CodeUnavailable && !errors.Is(err, wire.ErrNoAnswer) {
		_, err = change(ctx, c, name, func(_ *state.Tx, v *api.VM) error {
			v.Status.Site, v.Status.Loan = "", ""
			v.Status.Message, v.Status.Reasons = refused.Message, place.Grouped(refused.Reasons)
			return nil
		})
		// What we know of the lender said yes, and will say so again: without a pause it would be asked without end.
		if err == nil && c.pauseFor(parent, c.o.Resync) != nil {
			return nil
		}
		return err
	}
	if err != nil {
		return err // it may have been granted: the same site is asked again
	}
	if err := c.view(parent, func(tx *state.Tx) error { return c.judgeAnswer(tx, call, claim) }); err != nil {
		// It may run there all the same: the lender is asked again, and no other one.
		return c.distrust(parent, name, v.Status.Site, err)
	}
	_, err = change(parent, c, name, func(tx *state.Tx, v *api.VM) error {
		c.arrived(tx, v, claim.Host, claim.VTEP.String(), claim.CPU)
		return nil
	})
	return err
}

// distrust shows why a lender's answer is not believed.
func (c *Controller) distrust(ctx context.Context, name, site string, why error) error {
	_, err := change(ctx, c, name, func(_ *state.Tx, v *api.VM) error {
		v.Status.Message = fmt.Sprintf("what %s answers is not believed: %s; delete the VM, or ask that site's admin", site, cloud.Line(why.Error(), maxText))
		v.Status.Reasons = []api.Reason{{Site: site, Code: "lender", Message: v.Status.Message}}
		return nil
	})
	if err == nil {
		c.pauseFor(ctx, c.o.Resync)
	}
	return err
}

// arrived keeps where a VM was placed.
func (c *Controller) arrived(tx *state.Tx, v *api.VM, host, vtep string, cpu api.CPU) {
	v.Status.Host, v.Status.VTEP, v.Status.CPU = host, vtep, cpu
	v.Status.Phase, v.Status.Since, v.Status.Message, v.Status.Reasons = api.PhaseStarting, c.now(), "", nil
	c.event(tx, "vm.placed", "vms/"+v.Name, v.Owner, fmt.Sprintf("at %s/%s, epoch %d", v.Status.Site, host, v.Status.Epoch))
}

// guestCPU is what a guest of a model, or of none in particular, has on a host.
func guestCPU(h *api.Host, model string) api.CPU {
	return api.CPU{Arch: h.Status.CPU.Arch, Accel: h.Status.CPU.Accel, Model: cmp.Or(model, h.Status.CPU.Model)}
}

// newVM gives a VM its addresses: the MAC follows from its UID, the IPv6 address from MAC and prefix (RFC 4291 App. A), the
// IPv4 address is the lowest that is free.
func (c *Controller) newVM(tx *state.Tx, v *api.VM) error {
	n, err := get[api.Network](tx, v.Spec.Network)
	if err != nil {
		return api.Invalidf("spec.network", "no network is called %q", v.Spec.Network)
	}
	if _, err := get[api.Image](tx, v.Spec.Image); err != nil {
		return api.Invalidf("spec.image", "no image is called %q", v.Spec.Image)
	}
	mac := cloud.MAC(v.UID)
	v.Status = api.VMStatus{Phase: api.PhasePending, Since: c.now(), MAC: mac.String()}
	prefix, err := netip.ParsePrefix(n.Spec.Prefix)
	if err != nil {
		return fmt.Errorf("network %s: %w", n.Name, err)
	}
	v.Status.Addresses = append(v.Status.Addresses, api.VMAddress{Address: cloud.EUI64(prefix, mac).String(), Origin: "slaac"})
	if n.Spec.IPv4 == "" {
		return nil
	}
	prefix4, err := netip.ParsePrefix(n.Spec.IPv4)
	if err != nil {
		return fmt.Errorf("network %s: %w", n.Name, err)
	}
	taken := map[string]bool{}
	for other := range by[api.VM](tx, "network", v.Spec.Network) {
		for _, a := range other.Status.Addresses {
			taken[a.Address] = true
		}
	}
	for i := 1; ; i++ { // the first host address is the router's
		a := cloud.IPv4For(prefix4, i)
		if !a.IsValid() {
			return &api.Error{Code: api.CodeRefused, Field: "spec.network", Message: fmt.Sprintf("network %s has no IPv4 address left in %s", n.Name, prefix4)}
		}
		if !taken[a.String()] {
			v.Status.Addresses = append(v.Status.Addresses, api.VMAddress{Address: a.String(), Origin: "dhcp"})
			return nil
		}
	}
}

// serviceAddresses shows a VM's service addresses in its status.
func (c *Controller) serviceAddresses(tx *state.Tx, name string) error {
	if name == "" {
		return nil
	}
	v, err := get[api.VM](tx, name)
	if errors.Is(err, &api.Error{Code: api.CodeNotFound}) {
		return nil
	}
	if err != nil {
		return err
	}
	var keep []api.VMAddress
	target := ""
	for _, a := range v.Status.Addresses {
		if a.Origin != "service" {
			keep = append(keep, a)
		}
		if a.Origin == "slaac" {
			target = a.Address
		}
	}
	for a := range by[api.Address](tx, "vm", name) {
		if !a.Deleting {
			a = state.Clone(a)
			keep = append(keep, api.VMAddress{Address: a.Spec.Address, Origin: "service"})
			a.Status.Target = target
			if err := put(tx, a); err != nil {
				return err
			}
		}
	}
	v.Status.Addresses = keep
	return put(tx, v)
}

// powerGuests passes on what is wished of VMs that run at a lender: their power, and, of those that are stopped, their size.
func (c *Controller) powerGuests(ctx context.Context) error {
	var wishes []guestWish
	if err := c.view(ctx, func(tx *state.Tx) error {
		for v := range by[api.VM](tx, "todo", "away") {
			if v.Status.Job != "" {
				continue
			}
			w, err := c.wishFor(tx, v)
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
		c.once("power/"+w.vm.Name, func(ctx context.Context) { c.passWish(ctx, w) })
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
func (c *Controller) wishFor(tx *state.Tx, v *api.VM) (*guestWish, error) {
	o, err := c.orderOf(tx, v)
	if err != nil {
		return nil, err
	}
	running := v.Status.Phase == api.PhaseRunning
	settled := running && o.Run == wire.RunOn || v.Status.Phase == api.PhaseStopped && o.Run != wire.RunOn
	w := &guestWish{vm: v, call: wire.GuestOrder{VM: v.UID, Epoch: v.Status.Epoch, Run: o.Run}}
	if !running {
		needs, err := c.needsAt(tx, v, v.Status.Site)
		if err != nil {
			return nil, err
		}
		w.call.Size = &wire.GuestSize{Hardware: o.Hardware, Needs: needs}
		w.size = fmt.Sprintf("%d %+v", v.Status.Epoch, *w.call.Size)
		settled = settled && c.sizes.Is(v.UID, w.size)
	}
	if settled {
		return nil, nil
	}
	w.call.Loan, err = c.loanInstead(tx, v)
	return w, err
}

func (c *Controller) passWish(ctx context.Context, w guestWish) {
	cctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	err := c.endOf(w.vm.Status.Site).X_order(cctx, w.call)
	if err == nil {
		c.sizes.Set(w.vm.UID, w.size)
	}
	if err == nil && w.call.Loan == "" || ctx.Err() != nil {
		return
	}
	if _, err := change(ctx, c, w.vm.Name, func(_ *state.Tx, v *api.VM) error {
		switch {
		case err != nil:
			v.Status.Message = cloud.Line(err.Error(), maxText)
		case v.Status.Site == w.vm.Status.Site:
			v.Status.Loan = w.call.Loan
		}
		return nil
	}); err != nil {
		c.log.Debug("show why a guest is not powered", "vm", w.vm.Name, "err", err)
	}
	if err != nil {
		c.pause(ctx)
	}
}

// loanInstead is another loan for a guest that is to be started and whose own loan is over; "" when there is no need or none.
func (c *Controller) loanInstead(tx *state.Tx, v *api.VM) (string, error) {
	l, err := get[api.Loan](tx, v.Status.Loan)
	if err == nil && l.Status.State == api.LoanActive || v.Spec.Power != api.PowerOn {
		return "", nil
	}
	if err != nil && !errors.Is(err, &api.Error{Code: api.CodeNotFound}) {
		return "", err
	}
	needs, err := c.needsAt(tx, v, v.Status.Site)
	if err != nil {
		return "", err
	}
	return c.loanAt(tx, v.Status.Site, needs)
}

// checkMigration gives every reason at once why a VM cannot move.
func (c *Controller) checkMigration(ctx context.Context, vm string, call wire.ClaimCall, to location) ([]api.Reason, error) {
	var reasons []api.Reason
	err := c.view(ctx, func(tx *state.Tx) error {
		v, err := get[api.VM](tx, vm)
		if err != nil {
			return err
		}
		if v.Spec.Power != api.PowerOn || v.Status.Host == "" {
			reasons = append(reasons, api.Reason{Site: v.Status.Site, Code: "power", Message: fmt.Sprintf("VM %s does not run (%s)", v.Name, v.Status.Phase), Advice: "start it first: wcc vm start " + v.Name})
		}
		if to.Site == v.Status.Site && (call.Host == "" || call.Host == v.Status.Host) && to.Site != c.o.Site {
			reasons = append(reasons, api.Reason{Site: to.Site, Code: "place", Message: fmt.Sprintf("VM %s is at %s already", v.Name, to.Site)})
		}
		if call.Host != "" && to.Site == v.Status.Site && call.Host == v.Status.Host {
			reasons = append(reasons, api.Reason{Site: to.Site, Host: call.Host, Code: "place", Message: fmt.Sprintf("VM %s is on host %s already", v.Name, call.Host)})
		}
		if to.Site == c.o.Site {
			if len(v.Spec.Sites) > 0 && !slices.Contains(v.Spec.Sites, c.o.Site) {
				reasons = append(reasons, api.Reason{Site: to.Site, Code: "permit", Message: fmt.Sprintf("VM %s may only be at %s", v.Name, strings.Join(v.Spec.Sites, ", ")), Advice: "add the site to spec.sites"})
			}
			return nil
		}
		s, err := c.snapshot(tx)
		if err != nil {
			return err
		}
		r, err := c.request(tx, v)
		if err != nil {
			return err
		}
		r.Place = to.Site
		r.CPUModel, r.Arch, r.Accel = "", "", "" // the lender judges by its hosts, and is asked below
		plan := place.Decide(s, r)
		if plan.Chosen == nil {
			reasons = append(reasons, place.Why(plan, to.Site)...)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	theirs, err := c.endOf(to.Site).X_check(ctx, call)
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

// loanAt chooses the loan under which a VM goes to a peer: the active one with the most memory left. None is not an error:
// the check says why.
func (c *Controller) loanAt(tx *state.Tx, site string, needs api.Resources) (string, error) {
	loans, err := list[api.Loan](tx)
	if err != nil {
		return "", err
	}
	best, room := "", -1
	for _, l := range loans {
		if l.Spec.Lender != site || l.Spec.Borrower != c.o.Site || l.Status.State != api.LoanActive {
			continue
		}
		used, err := c.borrowed(tx, l.Name)
		if err != nil {
			return "", err
		}
		left := lend.Sub(l.Spec.Amount, used)
		score := left.MemoryMiB
		if len(lend.Fits(l.Name, left, needs)) > 0 {
			score = 0
		}
		if score > room {
			best, room = l.Name, score
		}
	}
	return best, nil
}
