package control

import (
	"context"
	"fmt"

	"widecloud/api"
	"widecloud/internal/access"
	"widecloud/internal/saga"
	"widecloud/internal/serve"
	"widecloud/internal/state"
	"widecloud/internal/store"
	"widecloud/internal/wire"
)

// Delete is serve.Controller's.
func (c *Controller) Delete(ctx context.Context, p access.Actor, k api.Kind, name string) (o api.Object, err error) {
	err = c.update(store.Urgent(ctx), func(tx *state.Tx) error {
		if o, err = c.visible(tx, p, k, name); err != nil {
			return err
		}
		if err := access.Change(p, o); err != nil {
			return err
		}
		if err := sameRevision(o, serve.RevisionOf(ctx)); err != nil {
			return err
		}
		o.Metadata().Deleting = true
		if err := c.deleted(tx, o); err != nil {
			return err
		}
		c.acted(tx, p, "delete", o, "")
		return nil
	})
	if err != nil {
		return nil, err
	}
	switch k {
	case api.KindImage:
		c.endImport(o.Metadata().UID)
	case api.KindUser:
		c.endStreams(name)
	case api.KindPeer:
		c.o.Federation.RemovePeer(name)
	case api.KindHost:
		c.o.Federation.Disconnect(wire.Agent(c.o.Site, name), api.Errorf(api.CodeForbidden, "host %s was removed", name))
	}
	c.poke()
	return o, nil
}

// deleted begins, or does, what a kind's deletion means. What is in use is not deleted.
func (c *Controller) deleted(tx *state.Tx, o api.Object) error {
	switch o := o.(type) {
	case *api.VM:
		if err := saga.Held("VM "+o.Name, o.Status.Job); err != nil {
			return err
		}
		return put(tx, o) // endVMs and the agents do the rest
	case *api.Image, *api.Network:
		if err := unusedByVMs(tx, o); err != nil {
			return err
		}
		if i, ok := o.(*api.Image); ok {
			if err := c.cancelImport(tx, i); err != nil {
				return err
			}
		}
	case *api.Owner:
		if err := c.ownerGone(tx, o); err != nil {
			return err
		}
	case *api.Address:
		if err := c.addressGone(tx, o); err != nil {
			return err
		}
	case *api.User:
		return c.deleteUser(tx, o)
	case *api.Host:
		if err := c.hostGone(tx, o); err != nil {
			return err
		}
	case *api.Peer:
		return c.peerGone(tx, o)
	case *api.Offer:
		if err := c.offerGone(tx, o); err != nil {
			return err
		}
	case *api.Loan:
		if o.Status.State != api.LoanEnded {
			return api.Errorf(api.CodeConflict, "loan %s is %s; return or reclaim it first", o.Name, o.Status.State)
		}
	case *api.Job:
		if !o.Status.State.Ended() {
			return api.Errorf(api.CodeConflict, "job %s has not ended; cancel it: wcc job cancel %s", o.Name, o.Name)
		}
	default:
		return api.Errorf(api.CodeInvalid, "%s are not deleted by hand", o.Kind())
	}
	return remove(tx, keyOf(o.Kind(), o.Metadata().Name))
}

// inUse refuses the deletion of what something else needs.
func inUse(o api.Object, field, format string, args ...any) error {
	return &api.Error{Code: api.CodeConflict, Field: field, Message: fmt.Sprintf("%s %s is in use by ", singular(o.Kind()), o.Metadata().Name) + fmt.Sprintf(format, args...)}
}

func unusedByVMs(tx *state.Tx, o api.Object) error {
	index := map[api.Kind]string{api.KindImage: "image", api.KindNetwork: "network"}[o.Kind()]
	for v := range by[api.VM](tx, index, o.Metadata().Name) {
		return inUse(o, "spec."+index, "VM %s", v.Name)
	}
	return nil
}

// ownerGone keeps an owner while anything is left of it: whoever gets its name later must not get what was its.
func (c *Controller) ownerGone(tx *state.Tx, o *api.Owner) error {
	for _, n := range api.Nouns() {
		if !n.Owned {
			continue
		}
		for key, x := range tx.Objects(keyOf(n.Kind, "")) {
			m := x.(api.Object).Metadata()
			if m.Owner != o.Name {
				continue
			}
			if n.Kind != api.KindJob && n.Kind != api.KindEvent { // those tell of what was its, and go with it
				return inUse(o, "owner", "%s %s", n.Singular, m.Name)
			}
			if j, ok := x.(*api.Job); ok && !j.Status.State.Ended() {
				return inUse(o, "owner", "job %s, which has not ended", m.Name)
			}
			if err := remove(tx, key); err != nil {
				return err
			}
		}
	}
	return nil
}

func (c *Controller) addressGone(tx *state.Tx, a *api.Address) error {
	if err := put(tx, a); err != nil {
		return err
	}
	if a.Spec.VM == "" {
		return nil
	}
	return c.serviceAddresses(tx, a.Spec.VM)
}

// hostGone forgets a host's enrolment with it: its certificate and its join token admit nobody any more, also when another
// host has its name.
func (c *Controller) hostGone(tx *state.Tx, h *api.Host) error {
	for v := range by[api.VM](tx, "host", placed(c.o.Site, h.Name)) {
		return inUse(h, "status.host", "VM %s", v.Name)
	}
	for _, prefix := range []string{prefixOrders, prefixClaims} {
		for _, g := range records[wire.Claim](tx, prefix, "host", h.Name) {
			return inUse(h, "status.host", "VM %s of %s", g.Order.Name, g.Home)
		}
	}
	if err := c.forgetJoins(tx, func(j join) bool { return j.Kind == wire.TokenJoin && j.Host == h.Name }); err != nil {
		return err
	}
	if err := remove(tx, prefixEnrolments+h.Name); err != nil {
		return err
	}
	return c.reportTranslator(tx, h.Name, nil) // what it said of its translator is said no more
}

// peerGone ends a peering with which nothing is left between the two sites.
func (c *Controller) peerGone(tx *state.Tx, p *api.Peer) error {
	for v := range by[api.VM](tx, "site", p.Name) {
		return inUse(p, "status.site", "VM %s, which is there", v.Name)
	}
	for _, prefix := range []string{prefixOrders, prefixClaims} {
		for _, g := range records[wire.Claim](tx, prefix, "home", p.Name) {
			return inUse(p, "home", "its guest %s, which is here", g.Order.Name)
		}
	}
	loans, err := list[api.Loan](tx)
	if err != nil {
		return err
	}
	for _, l := range loans {
		if l.Spec.Lender != p.Name && l.Spec.Borrower != p.Name {
			continue
		}
		if l.Status.State != api.LoanEnded {
			return inUse(p, "spec.lender", "loan %s", l.Name)
		}
		if err := remove(tx, keyOf(api.KindLoan, l.Name)); err != nil {
			return err
		}
	}
	return c.forgetPeer(tx, p)
}

// forgetPeer removes a peer, what it told us, and the invitation by which it came.
func (c *Controller) forgetPeer(tx *state.Tx, p *api.Peer) error {
	name := p.Name
	for _, prefix := range []string{prefixOffers + name + "/", prefixViews + name + "/", prefixRequests + name + "/"} {
		if err := removeAll(tx, prefix); err != nil {
			return err
		}
	}
	if err := c.o.Federation.Forget(tx, name); err != nil {
		return err
	}
	if err := c.forgetJoins(tx, func(j join) bool { return j.Kind == wire.TokenPeer && j.Key == p.Spec.Fingerprint }); err != nil {
		return err
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

func (c *Controller) offerGone(tx *state.Tx, o *api.Offer) error {
	if o.Home != c.o.Site {
		return api.Errorf(api.CodeForbidden, "offer %s is %s's", o.Name, o.Home)
	}
	loans, err := c.loansFromUs(tx)
	if err != nil {
		return err
	}
	for _, l := range loans {
		if l.Spec.Offer == o.Name && l.Status.State != api.LoanEnded {
			return inUse(o, "spec.offer", "loan %s (reclaim it first: wcc loan reclaim %s)", l.Name, l.Name)
		}
	}
	return nil
}
