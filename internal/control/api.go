package control

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"reflect"
	"strings"

	"widecloud/api"
	"widecloud/internal/access"
	"widecloud/internal/cloud"
	"widecloud/internal/lend"
	"widecloud/internal/place"
	"widecloud/internal/serve"
	"widecloud/internal/state"
	"widecloud/internal/wire"
)

var _ serve.Controller = (*Controller)(nil)

// known is what new networks and addresses must not clash with: our own, and what is carried here of our peers. Other kinds clash with
// nothing.
func (c *Controller) known(tx *state.Tx, of api.Kind) (k cloud.Known, err error) {
	if of != api.KindNetwork && of != api.KindAddress {
		return k, nil
	}
	for n := range each[api.Network](tx) {
		k.Networks = append(k.Networks, *n)
	}
	for a := range each[api.Address](tx) {
		k.Addresses = append(k.Addresses, *a)
	}
	foreign, err := c.foreignNetworks(tx)
	for _, f := range foreign {
		n := api.Network{Meta: api.Meta{Name: f.View.Name + "@" + f.Home, Home: f.Home}, Spec: api.NetworkSpec{Prefix: f.View.Prefix.String(), VNI: f.View.VNI}}
		if f.View.IPv4.IsValid() {
			n.Spec.IPv4 = f.View.IPv4.String()
		}
		k.Networks = append(k.Networks, n)
		for _, m := range f.Mappings {
			k.Addresses = append(k.Addresses, api.Address{Meta: api.Meta{Name: m.Service.String() + "@" + f.Home}, Spec: api.AddressSpec{Address: m.Service.String()}})
		}
	}
	return k, err
}

// Create is serve.Controller's.
func (c *Controller) Create(ctx context.Context, p access.Actor, o api.Object) (api.Object, error) {
	m := o.Metadata()
	access.Default(p, o)
	if err := access.Create(p, o); err != nil {
		return nil, err
	}
	fresh := c.newMeta(m.Name, m.Owner)
	fresh.Labels = m.Labels
	*m = fresh
	clearStatus(o)
	cloud.Default(o)
	if err := c.room(ctx); err != nil {
		return nil, err
	}
	err := c.update(ctx, func(tx *state.Tx) error {
		if err := c.judgeNew(tx, p, o); err != nil {
			return err
		}
		if err := c.nameFree(tx, p, o); err != nil {
			return err
		}
		c.acted(tx, p, "created", o, "")
		made := func() error { return c.created(tx, p, o) }
		if v, ok := o.(*api.VM); ok {
			made = func() error { return c.createdWith(tx, p, v) }
		}
		if err := made(); err != nil {
			return err
		}
		return c.answer(ctx, tx, o)
	})
	if err != nil {
		return nil, err
	}
	c.poke()
	return c.Get(ctx, p, o.Kind(), m.Name)
}

// clearStatus empties the status of an object that a client sent, of whatever kind: it is the server's to write.
func clearStatus(o api.Object) {
	if status := reflect.ValueOf(o).Elem().FieldByName("Status"); status.IsValid() {
		status.SetZero()
	}
}

// created does what a kind's creation means, and writes the object.
func (c *Controller) created(tx *state.Tx, p access.Actor, o api.Object) error {
	switch o := o.(type) {
	case *api.VM:
		needs, err := c.needs(tx, o)
		if err != nil {
			return err
		}
		if err := c.quota(tx, o.Owner, needs); err != nil {
			return err
		}
		if err := c.newVM(tx, o); err != nil {
			return err
		}
	case *api.Network:
		if o.Spec.VNI == 0 {
			all, err := c.networksKnown(tx)
			if err != nil {
				return err
			}
			o.Spec.VNI = cloud.VNI(o.UID, func(vni uint32) bool {
				for _, n := range all {
					if n.VNI == vni {
						return true
					}
				}
				return false
			})
		}
	case *api.Image:
		if strings.HasPrefix(o.Spec.Source, "/") && !p.Admin {
			return &api.Error{Code: api.CodeForbidden, Field: "spec.source", Message: "only an admin may name a path of the controller's machine; upload the file, or give a URL"}
		}
		o.Status = api.ImageStatus{Phase: "importing"}
		if o.Spec.Source == "" {
			o.Status.Message = "waits for its content"
		}
	case *api.Address:
		if err := c.quota(tx, o.Owner, api.Resources{Addresses: 1}); err != nil {
			return err
		}
		if err := c.addressVM(tx, p, o); err != nil {
			return err
		}
		if err := put(tx, o); err != nil {
			return err
		}
		return c.serviceAddresses(tx, o.Spec.VM)
	}
	return put(tx, o)
}

// addressVM checks that the VM that an address is to lead to is there, the principal's, and has no address of the family
// yet: a translator has one for each machine (RFC 7757 §3.2).
func (c *Controller) addressVM(tx *state.Tx, p access.Actor, a *api.Address) error {
	if a.Spec.VM == "" {
		return nil
	}
	o, err := c.visible(tx, p, api.KindVM, a.Spec.VM)
	if err != nil {
		return api.Invalidf("spec.vm", "no VM is called %q", a.Spec.VM)
	}
	if err := access.Change(p, o); err != nil {
		return err
	}
	for other := range by[api.Address](tx, "vm", a.Spec.VM) {
		if other.Name != a.Name && !other.Deleting && strings.Contains(other.Spec.Address, ":") == strings.Contains(a.Spec.Address, ":") {
			return &api.Error{Code: api.CodeConflict, Field: "spec.vm", Message: fmt.Sprintf("VM %s has the service address %s already; a VM has one of each family", a.Spec.VM, other.Spec.Address)}
		}
	}
	return nil
}

// Update is serve.Controller's.
func (c *Controller) Update(ctx context.Context, p access.Actor, o api.Object) (api.Object, error) {
	m := o.Metadata()
	asked := *m
	err := c.update(ctx, func(tx *state.Tx) error {
		was, err := c.visible(tx, p, o.Kind(), m.Name)
		if err != nil {
			return err
		}
		if err := access.Change(p, was); err != nil {
			return err
		}
		have := was.Metadata()
		if err := sameRevision(was, asked.Revision); err != nil {
			return err
		}
		if have.Deleting {
			return api.Errorf(api.CodeConflict, "%s %s is being deleted", singular(o.Kind()), m.Name)
		}
		*m = *have
		m.Owner = cmp.Or(asked.Owner, have.Owner)
		if asked.Labels != nil {
			m.Labels = asked.Labels
		}
		cloud.Default(o)
		if a, ok := o.(*api.Address); ok && a.Spec.Address == "" {
			a.Spec.Address, a.Spec.Pool = was.(*api.Address).Spec.Address, was.(*api.Address).Spec.Pool
		}
		if err := c.judgeChange(tx, p, was, o); err != nil {
			return err
		}
		c.actedChange(tx, p, was, o)
		return c.updated(tx, p, was, o)
	})
	if err != nil {
		return nil, err
	}
	if o.Kind() == api.KindUser {
		c.endStreams(m.Name)
	}
	c.poke()
	return c.Get(ctx, p, o.Kind(), m.Name)
}

// sameRevision holds an object against the revision that a change of it states; 0 is any.
func sameRevision(o api.Object, stated int64) error {
	m := o.Metadata()
	if stated == 0 || stated == m.Revision {
		return nil
	}
	return &api.Error{Code: api.CodeConflict, Field: "revision", Message: fmt.Sprintf("%s %s has changed since revision %d (it is at %d)", singular(o.Kind()), m.Name, stated, m.Revision)}
}

// updated keeps the status, and does what a kind's change means.
func (c *Controller) updated(tx *state.Tx, p access.Actor, was, now api.Object) error {
	switch now := now.(type) {
	case *api.VM:
		was := was.(*api.VM)
		if was.Status.Job != "" && now.Spec.Power != was.Spec.Power {
			return &api.Error{Code: api.CodeConflict, Field: "spec.power", Message: fmt.Sprintf("job %s is at work on VM %s; wait for it or cancel it", was.Status.Job, was.Name)}
		}
		now.Status = was.Status
		if err := c.growth(tx, was, now); err != nil {
			return err
		}
	case *api.Network:
		now.Status = was.(*api.Network).Status
	case *api.Image:
		now.Status = was.(*api.Image).Status
	case *api.Host:
		now.Status = was.(*api.Host).Status
	case *api.Owner:
		now.Status = was.(*api.Owner).Status
	case *api.User:
		return c.updateUser(tx, was.(*api.User), now)
	case *api.Offer:
		if now.Home != c.o.Site {
			return api.Errorf(api.CodeForbidden, "offer %s is %s's", now.Name, now.Home)
		}
		now.Status = was.(*api.Offer).Status
	case *api.Address:
		was := was.(*api.Address)
		if err := c.addressVM(tx, p, now); err != nil {
			return err
		}
		now.Status = was.Status
		if now.Spec.VM != was.Spec.VM {
			now.Status.Target, now.Status.Refused = "", nil
		}
		if err := put(tx, now); err != nil {
			return err
		}
		for _, vm := range []string{was.Spec.VM, now.Spec.VM} {
			if vm != "" {
				if err := c.serviceAddresses(tx, vm); err != nil {
					return err
				}
			}
		}
		return nil
	default:
		return api.Errorf(api.CodeInvalid, "%s are not changed by hand", now.Kind())
	}
	return put(tx, now)
}

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
		c.note(ctx, p, "migrate", v, "to "+target+", job "+job.Name)
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
	v, err := c.running(ctx, p, vm)
	if err != nil {
		return err
	}
	if err := c.atMostOnce(ctx, v, func() error {
		return c.endOf(v.Status.Site).reboot(ctx, wire.RebootCall{VM: v.UID, Epoch: v.Status.Epoch, Hard: hard})
	}); err != nil {
		return notThere(v, err)
	}
	c.note(ctx, p, "reboot", v, "")
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
	if !p.Admin {
		return nil, forbidden("reclaim loans")
	}
	return c.reclaim(ctx, p.User, name)
}

// Return is serve.Controller's.
func (c *Controller) Return(ctx context.Context, p access.Actor, name string) (*api.Loan, error) {
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
