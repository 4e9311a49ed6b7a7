package control

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"widecloud/api"
	"widecloud/internal/access"
	"widecloud/internal/lend"
	"widecloud/internal/place"
	"widecloud/internal/serve"
	"widecloud/internal/state"
	"widecloud/internal/wire"
)

var _ serve.Controller = (*Controller)(nil)

// growth holds a VM that is made larger against the quota, and against the host or the loan where its room is.
func (c *Controller) growth(tx *state.Tx, was, now *api.VM) error {
	before, err := c.needsAt(tx, was, was.Status.Site)
	if err != nil {
		return err
	}
	after, err := c.needsAt(tx, now, was.Status.Site)
	if err != nil || after == before {
		return err
	}
	if err := c.quota(tx, now.Owner, api.Resources{CPUs: after.CPUs - before.CPUs, MemoryMiB: after.MemoryMiB - before.MemoryMiB}); err != nil {
		return err
	}
	var reasons []api.Reason
	switch {
	case was.Status.Host == "":
	case was.Status.Site == c.o.Site:
		reasons, err = c.shortOnHost(tx, was.Status.Host, before, after)
	default:
		if reasons = (peer{c, was.Status.Site}).cannotResize(); len(reasons) == 0 {
			reasons, err = c.shortInLoan(tx, was.Status.Loan, before, after)
		}
	}
	if err == nil && len(reasons) > 0 {
		err = &api.Error{Code: api.CodeRefused, Field: "spec", Message: fmt.Sprintf("VM %s cannot have that size at %s/%s", now.Name, was.Status.Site, was.Status.Host), Reasons: reasons}
	}
	return err
}

// shortInLoan says what a loan to us has too little of when a VM under it takes more.
func (c *Controller) shortInLoan(tx *state.Tx, name string, before, after api.Resources) ([]api.Reason, error) {
	l, err := get[api.Loan](tx, name)
	if err != nil {
		return nil, err
	}
	used, err := c.borrowed(tx, name)
	if err != nil {
		return nil, err
	}
	reasons := lend.Fits("loan "+name, lend.Sub(l.Spec.Amount, lend.Sub(used, before)), after)
	for i := range reasons {
		reasons[i].Site, reasons[i].Advice = l.Spec.Lender, "borrow more: wcc loan request"
	}
	return reasons, nil
}

// own reads a VM that the principal may act on.
func (c *Controller) own(tx *state.Tx, p access.Actor, vm string) (*api.VM, error) {
	o, err := c.visible(tx, p, api.KindVM, vm)
	if err != nil {
		return nil, err
	}
	return o.(*api.VM), access.Change(p, o)
}

// Migrate is serve.Controller's.
func (c *Controller) Migrate(ctx context.Context, p access.Actor, vm, target string, dryRun bool) (*api.Job, []api.Reason, error) {
	ctx = asUser(ctx, p)
	site, host, _ := strings.Cut(target, "/")
	to := location{Site: site}
	var call wire.ClaimCall
	var v *api.VM
	if err := c.view(ctx, func(tx *state.Tx) (err error) {
		if v, err = c.own(tx, p, vm); err != nil {
			return err
		}
		if site != c.o.Site {
			if _, err := get[api.Peer](tx, site); err != nil {
				return api.Invalidf("target", "no site is called %q", site)
			}
			needs, err := c.needsAt(tx, v, site)
			if err != nil {
				return err
			}
			if to.Loan, err = c.loanAt(tx, site, needs); err != nil {
				return err
			}
		} else if err := c.takesVMs(tx, "target", host); err != nil {
			return err
		}
		call, err = c.claimFor(tx, v, "check-"+c.shortID(), site)
		call.Loan, call.Host, call.Order.Epoch = to.Loan, host, v.Status.Epoch+1
		if site == v.Status.Site {
			call.Avoid = v.Status.Host
		}
		return err
	}); err != nil {
		return nil, nil, err
	}
	if err := c.room(ctx); err != nil {
		return nil, nil, err
	}
	if dryRun {
		reasons, err := c.checkMigration(ctx, vm, call, to)
		return nil, reasons, err
	}
	job, err := c.startMigration(ctx, vm, to, host, v.Owner, "")
	if err == nil {
		c.note(ctx, "migrate", v, "to "+target+", job "+job.Name)
	}
	return job, nil, err
}

// leave migrates a VM away from where it is: home if there is room, or to another lender.
func (c *Controller) leave(ctx context.Context, v *api.VM) ([]api.Reason, error) {
	var to location
	var reasons []api.Reason
	if err := c.view(ctx, func(tx *state.Tx) error {
		s, err := c.snapshot(tx)
		if err != nil {
			return err
		}
		r, err := c.request(tx, v)
		if err != nil {
			return err
		}
		r.Exclude = []place.Choice{{Site: v.Status.Site}}
		plan := place.Decide(s, r)
		reasons = plan.Refused
		if plan.Chosen != nil {
			to, reasons = location{Site: plan.Chosen.Site, Loan: plan.Chosen.Loan}, nil
		}
		return nil
	}); err != nil || len(reasons) > 0 {
		return reasons, err
	}
	job, err := c.startMigration(ctx, v.Name, to, "", v.Owner, "its lender wants the room back")
	if err != nil {
		return nil, err
	}
	c.log.Info("VM leaves a lender", "vm", v.Name, "job", job.Name, "peer", v.Status.Site, "to", to.Site)
	return nil, nil
}

// Why is serve.Controller's.
func (c *Controller) Why(ctx context.Context, p access.Actor, vm, not string) (reasons []api.Reason, err error) {
	err = c.view(ctx, func(tx *state.Tx) error {
		v, err := c.own(tx, p, vm)
		if err != nil {
			return err
		}
		s, err := c.snapshot(tx)
		if err != nil {
			return err
		}
		r, err := c.request(tx, v)
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

// running is a VM of the principal that is somewhere.
func (c *Controller) running(ctx context.Context, p access.Actor, vm string) (v *api.VM, err error) {
	err = c.view(ctx, func(tx *state.Tx) error {
		if v, err = c.own(tx, p, vm); err != nil {
			return err
		}
		if v.Status.Host == "" {
			return api.Errorf(api.CodeConflict, "VM %s has no place yet", vm)
		}
		return nil
	})
	return v, err
}

// Reboot is serve.Controller's.
func (c *Controller) Reboot(ctx context.Context, p access.Actor, vm string, hard bool) error {
	ctx = asUser(ctx, p)
	v, err := c.running(ctx, p, vm)
	if err != nil {
		return err
	}
	if err := c.atMostOnce(ctx, v, func() error {
		return c.endOf(v.Status.Site).X_reboot(ctx, wire.RebootCall{VM: v.UID, Epoch: v.Status.Epoch, Hard: hard})
	}); err != nil {
		return notThere(v, err)
	}
	c.note(ctx, "reboot", v, "")
	return nil
}

// notThere is an end's error for the user of a VM: one that is not where it was a moment ago is on its way.
func notThere(v *api.VM, err error) error {
	if errors.Is(err, &api.Error{Code: api.CodeNotFound}) {
		return api.Errorf(api.CodeConflict, "VM %s is not at %s/%s just now: %v", v.Name, v.Status.Site, v.Status.Host, err)
	}
	return err
}

// Borrow is serve.Controller's.
func (c *Controller) Borrow(ctx context.Context, p access.Actor, lender, offer string, amount api.Resources) (*api.Loan, error) {
	ctx = asUser(ctx, p)
	if !p.Admin {
		return nil, forbidden("borrow")
	}
	name, err := c.borrow(ctx, lender, strings.TrimSuffix(offer, "@"+lender), amount)
	if err != nil {
		return nil, err
	}
	o, err := c.Get(ctx, p, api.KindLoan, name)
	if err != nil {
		return nil, err
	}
	return o.(*api.Loan), nil
}

// Reclaim is serve.Controller's.
func (c *Controller) Reclaim(ctx context.Context, p access.Actor, name string) (*api.Loan, error) {
	ctx = asUser(ctx, p)
	if !p.Admin {
		return nil, forbidden("reclaim loans")
	}
	return c.reclaim(ctx, name)
}

// Return is serve.Controller's.
func (c *Controller) Return(ctx context.Context, p access.Actor, name string) (*api.Loan, error) {
	ctx = asUser(ctx, p)
	if !p.Admin {
		return nil, forbidden("return loans")
	}
	var lender string
	if err := c.view(ctx, func(tx *state.Tx) error {
		l, err := get[api.Loan](tx, name)
		if err != nil {
			return err
		}
		if l.Spec.Borrower != c.o.Site {
			return api.Errorf(api.CodeConflict, "loan %s is from this site, not to it: wcc loan reclaim %s", name, name)
		}
		lender = l.Spec.Lender
		return nil
	}); err != nil {
		return nil, err
	}
	if err := c.atMostOnce(ctx, &api.Loan{Meta: api.Meta{Name: name}}, func() error {
		return c.o.Federation.Send(ctx, lender, wire.DocLoanRenew, name, documentTime, wire.LoanRenew{Name: name, Return: true})
	}); err != nil {
		return nil, err
	}
	o, err := c.Get(ctx, p, api.KindLoan, name)
	if err != nil {
		return nil, err
	}
	return o.(*api.Loan), nil
}
