package control

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"

	"widecloud/api"
	"widecloud/internal/cloud"
	"widecloud/internal/place"
	"widecloud/internal/serve"
	"widecloud/internal/store"
	"widecloud/internal/wire"
)

var _ serve.Controller = (*Controller)(nil)

// known is what new specs must not clash with: our own, and what our peers told us of theirs.
func (c *Controller) known(tx store.Tx) (k cloud.Known, err error) {
	networks, err := list[api.Network](tx)
	if err != nil {
		return k, err
	}
	for _, n := range networks {
		k.Networks = append(k.Networks, *n)
	}
	views, err := listJSON[wire.NetworkView](tx, prefixViews)
	if err != nil {
		return k, err
	}
	for key, v := range views {
		home, _, _ := strings.Cut(key, "/")
		n := api.Network{Meta: api.Meta{Name: v.Name + "@" + home, Home: home}, Spec: api.NetworkSpec{Prefix: v.Prefix.String(), VNI: v.VNI}}
		if v.IPv4.IsValid() {
			n.Spec.IPv4 = v.IPv4.String()
		}
		k.Networks = append(k.Networks, n)
		for _, m := range v.Mappings {
			k.Addresses = append(k.Addresses, api.Address{Meta: api.Meta{Name: m.Service.String() + "@" + home}, Spec: api.AddressSpec{Address: m.Service.String()}})
		}
	}
	addresses, err := list[api.Address](tx)
	for _, a := range addresses {
		k.Addresses = append(k.Addresses, *a)
	}
	return k, err
}

// Create is serve.Controller's.
func (c *Controller) Create(ctx context.Context, p serve.Principal, o api.Object) (api.Object, error) {
	m := o.Metadata()
	switch o.Kind() {
	case api.KindOwner, api.KindUser, api.KindOffer:
		if !p.Admin {
			return nil, forbidden("create %s", o.Kind())
		}
	case api.KindVM, api.KindImage, api.KindNetwork, api.KindAddress:
		if m.Owner == "" && !p.Admin {
			m.Owner = p.Owner
		}
	default:
		return nil, api.Errorf(api.CodeInvalid, "%s are not created by hand", o.Kind())
	}
	if err := changes(p, o); err != nil {
		return nil, err
	}
	fresh := c.newMeta(m.Name, m.Owner)
	*m = fresh
	cloud.Default(o)
	err := c.update(ctx, func(tx store.Tx) error {
		k, err := c.known(tx)
		if err != nil {
			return err
		}
		if err := cloud.Validate(o, k); err != nil {
			return err
		}
		if _, err := tx.Get(keyOf(o.Kind(), m.Name)); err == nil {
			return &api.Error{Code: api.CodeExists, Field: "name", Message: fmt.Sprintf("there is a %s called %q", singular(o.Kind()), m.Name)}
		}
		if m.Owner != "" && o.Kind() != api.KindOwner {
			if _, err := get[api.Owner](tx, m.Owner); err != nil {
				return api.Invalidf("owner", "no owner is called %q; create it first: wcc owner create %s", m.Owner, m.Owner)
			}
		}
		return c.created(tx, p, o)
	})
	if err != nil {
		return nil, err
	}
	c.poke()
	return c.Get(ctx, p, o.Kind(), m.Name)
}

// created does what a kind's creation means, and writes the object.
func (c *Controller) created(tx store.Tx, p serve.Principal, o api.Object) error {
	switch o := o.(type) {
	case *api.VM:
		for _, ref := range []struct {
			field string
			kind  api.Kind
			name  string
		}{{"spec.network", api.KindNetwork, o.Spec.Network}, {"spec.image", api.KindImage, o.Spec.Image}} {
			if _, err := c.visible(tx, p, ref.kind, ref.name); err != nil {
				return api.Invalidf(ref.field, "no %s is called %q", singular(ref.kind), ref.name)
			}
		}
		if err := c.quota(tx, o); err != nil {
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

// addressVM checks that the VM that an address is to lead to is there and the principal's.
func (c *Controller) addressVM(tx store.Tx, p serve.Principal, a *api.Address) error {
	if a.Spec.VM == "" {
		return nil
	}
	o, err := c.visible(tx, p, api.KindVM, a.Spec.VM)
	if err != nil {
		return api.Invalidf("spec.vm", "no VM is called %q", a.Spec.VM)
	}
	return changes(p, o)
}

// quota holds an owner to what the site gives it.
func (c *Controller) quota(tx store.Tx, v *api.VM) error {
	if v.Owner == "" {
		return nil
	}
	owner, err := get[api.Owner](tx, v.Owner)
	if err != nil || owner.Spec.Quota == nil {
		return err
	}
	used := api.Resources{CPUs: v.Spec.CPUs, MemoryMiB: v.Spec.MemoryMiB, DiskGiB: v.Spec.DiskGiB}
	vms, err := list[api.VM](tx)
	if err != nil {
		return err
	}
	for _, o := range vms {
		if o.Owner == v.Owner {
			used.CPUs += o.Spec.CPUs
			used.MemoryMiB += o.Spec.MemoryMiB
			used.DiskGiB += o.Spec.DiskGiB
		}
	}
	q := owner.Spec.Quota
	for _, f := range []struct {
		field      string
		used, have int
	}{{"spec.cpus", used.CPUs, q.CPUs}, {"spec.memory_mib", used.MemoryMiB, q.MemoryMiB}, {"spec.disk_gib", used.DiskGiB, q.DiskGiB}} {
		if f.used > f.have {
			return &api.Error{Code: api.CodeRefused, Field: f.field, Message: fmt.Sprintf("owner %s would use %d of a quota of %d", v.Owner, f.used, f.have)}
		}
	}
	return nil
}

// Update is serve.Controller's.
func (c *Controller) Update(ctx context.Context, p serve.Principal, o api.Object) (api.Object, error) {
	m := o.Metadata()
	cloud.Default(o)
	err := c.update(ctx, func(tx store.Tx) error {
		was, err := c.visible(tx, p, o.Kind(), m.Name)
		if err != nil {
			return err
		}
		if err := changes(p, was); err != nil {
			return err
		}
		have := was.Metadata()
		if m.Revision != 0 && m.Revision != have.Revision {
			return &api.Error{Code: api.CodeConflict, Field: "revision", Message: fmt.Sprintf("%s %s has changed since revision %d (it is at %d)", singular(o.Kind()), m.Name, m.Revision, have.Revision)}
		}
		if have.Deleting {
			return api.Errorf(api.CodeConflict, "%s %s is being deleted", singular(o.Kind()), m.Name)
		}
		if m.Owner == "" {
			m.Owner = have.Owner
		}
		owner := m.Owner
		*m = *have
		m.Owner = owner
		k, err := c.known(tx)
		if err != nil {
			return err
		}
		if err := cloud.Validate(o, k); err != nil {
			return err
		}
		if err := cloud.CheckUpdate(was, o); err != nil {
			return err
		}
		return c.updated(tx, p, was, o)
	})
	if err != nil {
		return nil, err
	}
	c.poke()
	return c.Get(ctx, p, o.Kind(), m.Name)
}

// updated keeps the status, and does what a kind's change means.
func (c *Controller) updated(tx store.Tx, p serve.Principal, was, now api.Object) error {
	switch now := now.(type) {
	case *api.VM:
		was := was.(*api.VM)
		if was.Status.Job != "" && now.Spec.Power != was.Spec.Power {
			return &api.Error{Code: api.CodeConflict, Field: "spec.power", Message: fmt.Sprintf("job %s is at work on VM %s; wait for it or cancel it", was.Status.Job, was.Name)}
		}
		now.Status = was.Status
	case *api.Network:
		now.Status = was.(*api.Network).Status
	case *api.Image:
		now.Status = was.(*api.Image).Status
	case *api.Host:
		now.Spec.Roles = was.(*api.Host).Spec.Roles // the agent tells them
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
			now.Status.Target = ""
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

// Delete is serve.Controller's.
func (c *Controller) Delete(ctx context.Context, p serve.Principal, k api.Kind, name string) (o api.Object, err error) {
	err = c.update(ctx, func(tx store.Tx) error {
		if o, err = c.visible(tx, p, k, name); err != nil {
			return err
		}
		if err := changes(p, o); err != nil {
			return err
		}
		o.Metadata().Deleting = true
		return c.deleted(tx, o)
	})
	if err != nil {
		return nil, err
	}
	if k == api.KindPeer {
		c.o.Federation.RemovePeer(name)
	}
	c.poke()
	return o, nil
}

// forgetPeer removes a peer and what it told us.
func (c *Controller) forgetPeer(tx store.Tx, name string) error {
	for _, prefix := range []string{prefixOffers + name + "/", prefixViews + name + "/"} {
		kvs, err := tx.List(prefix)
		if err != nil {
			return err
		}
		for _, kv := range kvs {
			if err := remove(tx, kv.Key); err != nil {
				return err
			}
		}
	}
	offers, err := list[api.Offer](tx)
	if err != nil {
		return err
	}
	for _, o := range offers {
		if o.Home == name {
			if err := remove(tx, keyOf(api.KindOffer, o.Name)); err != nil {
				return err
			}
		}
	}
	c.event(tx, "peer.removed", "peers/"+name, "", "nothing of it is believed any more")
	return remove(tx, keyOf(api.KindPeer, name))
}

// deleted begins, or does, what a kind's deletion means.
func (c *Controller) deleted(tx store.Tx, o api.Object) error {
	name := o.Metadata().Name
	inUse := func(field, by string) error {
		return &api.Error{Code: api.CodeConflict, Message: fmt.Sprintf("%s %s is in use by %s", singular(o.Kind()), name, by), Field: field}
	}
	vms, err := list[api.VM](tx)
	if err != nil {
		return err
	}
	switch o := o.(type) {
	case *api.VM:
		if o.Status.Job != "" {
			return api.Errorf(api.CodeConflict, "job %s is at work on VM %s; wait for it or cancel it: wcc job cancel %s", o.Status.Job, o.Name, o.Status.Job)
		}
		return put(tx, o) // endVMs and the agents do the rest
	case *api.Image, *api.Network, *api.Owner:
		for _, v := range vms {
			if _, ok := o.(*api.Image); ok && v.Spec.Image == name {
				return inUse("spec.image", "VM "+v.Name)
			}
			if _, ok := o.(*api.Network); ok && v.Spec.Network == name {
				return inUse("spec.network", "VM "+v.Name)
			}
			if _, ok := o.(*api.Owner); ok && v.Owner == name {
				return inUse("owner", "VM "+v.Name)
			}
		}
	case *api.Address:
		if err := put(tx, o); err != nil {
			return err
		}
		if o.Spec.VM != "" {
			if err := c.serviceAddresses(tx, o.Spec.VM); err != nil {
				return err
			}
		}
	case *api.User:
		return c.deleteUser(tx, o)
	case *api.Host:
		for _, v := range vms {
			if v.Status.Site == c.o.Site && v.Status.Host == name {
				return inUse("status.host", "VM "+v.Name)
			}
		}
		guests, err := listJSON[wire.Claim](tx, prefixOrders)
		if err != nil {
			return err
		}
		for _, g := range guests {
			if g.Host == name {
				return inUse("status.host", "guest "+g.Order.Name+" of "+g.Home)
			}
		}
	case *api.Peer:
		for _, v := range vms {
			if v.Status.Site == name {
				return inUse("status.site", "VM "+v.Name+", which is there")
			}
		}
		for _, prefix := range []string{prefixOrders, prefixClaims} {
			guests, err := listJSON[wire.Claim](tx, prefix)
			if err != nil {
				return err
			}
			for _, g := range guests {
				if g.Home == name {
					return inUse("home", "its guest "+g.Order.Name+", which is here")
				}
			}
		}
		loans, err := list[api.Loan](tx)
		if err != nil {
			return err
		}
		for _, l := range loans {
			if l.Spec.Lender != name && l.Spec.Borrower != name {
				continue
			}
			if l.Status.State != api.LoanEnded {
				return inUse("spec.lender", "loan "+l.Name)
			}
			if err := remove(tx, keyOf(api.KindLoan, l.Name)); err != nil {
				return err
			}
		}
		return c.forgetPeer(tx, name)
	case *api.Offer:
		if o.Home != c.o.Site {
			return api.Errorf(api.CodeForbidden, "offer %s is %s's", o.Name, o.Home)
		}
		loans, err := c.loansFromUs(tx)
		if err != nil {
			return err
		}
		for _, l := range loans {
			if l.Spec.Offer == name && l.Status.State != api.LoanEnded {
				return inUse("spec.offer", "loan "+l.Name+" (reclaim it first: wcc loan reclaim "+l.Name+")")
			}
		}
	case *api.Loan:
		if o.Status.State != api.LoanEnded {
			return api.Errorf(api.CodeConflict, "loan %s is %s; return or reclaim it first", name, o.Status.State)
		}
	case *api.Job:
		if !o.Status.State.Ended() {
			return api.Errorf(api.CodeConflict, "job %s has not ended; cancel it: wcc job cancel %s", name, name)
		}
	default:
		return api.Errorf(api.CodeInvalid, "%s are not deleted by hand", o.Kind())
	}
	return remove(tx, keyOf(o.Kind(), name))
}

// own reads a VM that the principal may act on.
func (c *Controller) own(tx store.Tx, p serve.Principal, vm string) (*api.VM, error) {
	o, err := c.visible(tx, p, api.KindVM, vm)
	if err != nil {
		return nil, err
	}
	return o.(*api.VM), changes(p, o)
}

// Migrate is serve.Controller's.
func (c *Controller) Migrate(ctx context.Context, p serve.Principal, vm, target string, dryRun bool) (*api.Job, []api.Reason, error) {
	site, host, _ := strings.Cut(target, "/")
	to := location{Site: site}
	var call wire.ClaimCall
	var v *api.VM
	if err := c.view(ctx, func(tx store.Tx) (err error) {
		if v, err = c.own(tx, p, vm); err != nil {
			return err
		}
		if site != c.o.Site {
			if _, err := get[api.Peer](tx, site); err != nil {
				return api.Invalidf("target", "no site is called %q", site)
			}
			needs, err := c.needs(tx, v)
			if err != nil {
				return err
			}
			if to.Loan, err = c.loanAt(tx, site, needs); err != nil {
				return err
			}
		}
		call, err = c.claimFor(tx, v, "check-"+c.shortID())
		call.Loan, call.Host, call.Order.Epoch = to.Loan, host, v.Status.Epoch+1
		if site == v.Status.Site {
			call.Avoid = v.Status.Host
		}
		return err
	}); err != nil {
		return nil, nil, err
	}
	if dryRun {
		reasons, err := c.checkMigration(ctx, vm, call, to)
		return nil, reasons, err
	}
	job, err := c.startMigration(ctx, vm, to, host, v.Owner, "")
	return job, nil, err
}

// leave migrates a VM away from where it is: home if there is room, or to another lender.
func (c *Controller) leave(ctx context.Context, v *api.VM) ([]api.Reason, error) {
	var to location
	var reasons []api.Reason
	if err := c.view(ctx, func(tx store.Tx) error {
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

// Cancel is serve.Controller's.
func (c *Controller) Cancel(ctx context.Context, p serve.Principal, job string) (*api.Job, error) {
	j, err := change(ctx, c, job, func(tx store.Tx, j *api.Job) error {
		if !sees(p, j) {
			return api.Errorf(api.CodeNotFound, "no job is called %q", job)
		}
		if j.Status.State.Ended() {
			return api.Errorf(api.CodeConflict, "job %s has ended: %s", job, j.Status.State)
		}
		if !cloud.MigrateStep(j.Status.Step).Cancellable() && j.Status.Step != "check" {
			return api.Errorf(api.CodeConflict, "job %s is past the point where it can be cancelled (%s)", job, j.Status.Step)
		}
		j.Spec.Cancel = true
		return nil
	})
	c.poke()
	return j, err
}

// Why is serve.Controller's.
func (c *Controller) Why(ctx context.Context, p serve.Principal, vm, not string) (reasons []api.Reason, err error) {
	err = c.view(ctx, func(tx store.Tx) error {
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
			plan := place.Decide(s, r)
			reasons = append(reasons, plan.Refused...)
			return nil
		}
		if not == v.Status.Site || not == v.Status.Site+"/"+v.Status.Host {
			reasons = append(reasons, api.Reason{Site: v.Status.Site, Host: v.Status.Host, Code: "placed", Message: "it is there now"})
			return nil
		}
		r.Place = not
		plan := place.Decide(s, r)
		reasons = place.Why(plan, not)
		return nil
	})
	return reasons, err
}

// running is a VM of the principal that is somewhere.
func (c *Controller) running(ctx context.Context, p serve.Principal, vm string) (v *api.VM, err error) {
	err = c.view(ctx, func(tx store.Tx) error {
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
func (c *Controller) Reboot(ctx context.Context, p serve.Principal, vm string, hard bool) error {
	v, err := c.running(ctx, p, vm)
	if err != nil {
		return err
	}
	return notThere(v, c.endOf(v.Status.Site).reboot(ctx, wire.RebootCall{VM: v.UID, Epoch: v.Status.Epoch, Hard: hard}))
}

// notThere is an end's error for the user of a VM: one that is not where it was a moment ago is on its way.
func notThere(v *api.VM, err error) error {
	if errors.Is(err, &api.Error{Code: api.CodeNotFound}) {
		return api.Errorf(api.CodeConflict, "VM %s is not at %s/%s just now: %v", v.Name, v.Status.Site, v.Status.Host, err)
	}
	return err
}

// Console is serve.Controller's.
func (c *Controller) Console(ctx context.Context, p serve.Principal, vm string) (io.ReadWriteCloser, error) {
	v, err := c.running(ctx, p, vm)
	if err != nil {
		return nil, err
	}
	con, err := c.endOf(v.Status.Site).console(ctx, wire.ConsoleHeader{VM: v.UID})
	return con, notThere(v, err)
}

// Upload is serve.Controller's.
func (c *Controller) Upload(ctx context.Context, p serve.Principal, image string, content io.Reader) (*api.Image, error) {
	o, err := c.Get(ctx, p, api.KindImage, image)
	if err != nil {
		return nil, err
	}
	if err := changes(p, o); err != nil {
		return nil, err
	}
	i := o.(*api.Image)
	if i.Spec.Source != "" {
		return nil, api.Errorf(api.CodeConflict, "image %s has a source: %s", image, path.Base(i.Spec.Source))
	}
	if i.Status.Phase == "ready" {
		return nil, api.Errorf(api.CodeConflict, "image %s has its content; it never changes: create another one", image)
	}
	return c.importImage(ctx, i, content)
}

// Borrow is serve.Controller's.
func (c *Controller) Borrow(ctx context.Context, p serve.Principal, lender, offer string, amount api.Resources) (*api.Loan, error) {
	if !p.Admin {
		return nil, forbidden("borrow")
	}
	name := "loan-" + c.shortID()
	if err := c.o.Federation.Send(ctx, lender, wire.DocLoanRequest, name, documentTime, wire.LoanRequest{Name: name, Offer: strings.TrimSuffix(offer, "@"+lender), Amount: amount}); err != nil {
		return nil, err
	}
	o, err := c.Get(ctx, p, api.KindLoan, name)
	if err != nil {
		return nil, err
	}
	return o.(*api.Loan), nil
}

// Reclaim is serve.Controller's.
func (c *Controller) Reclaim(ctx context.Context, p serve.Principal, name string) (*api.Loan, error) {
	if !p.Admin {
		return nil, forbidden("reclaim loans")
	}
	return c.reclaim(ctx, name)
}

// Return is serve.Controller's.
func (c *Controller) Return(ctx context.Context, p serve.Principal, name string) (*api.Loan, error) {
	if !p.Admin {
		return nil, forbidden("return loans")
	}
	var lender string
	if err := c.view(ctx, func(tx store.Tx) error {
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
	if err := c.o.Federation.Send(ctx, lender, wire.DocLoanRenew, name, documentTime, wire.LoanRenew{Name: name, Return: true}); err != nil {
		return nil, err
	}
	o, err := c.Get(ctx, p, api.KindLoan, name)
	if err != nil {
		return nil, err
	}
	return o.(*api.Loan), nil
}
