package control

import (
	"widecloud/api"
	"widecloud/internal/state"
	"widecloud/internal/wire"
)

// endOwner keeps an owner while anything is left of it: whoever gets its name later must not get what was its.
func (c *Controller) endOwner(tx *state.Tx, o *api.Owner) error {
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
	return gone(tx, o)
}

// endHost forgets a host's enrolment with it: its certificate and its join token admit nobody any more, also when another
// host has its name.
func (c *Controller) endHost(tx *state.Tx, h *api.Host) error {
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
	if err := c.reportTranslator(tx, h.Name, nil); err != nil { // what it said of its translator is said no more
		return err
	}
	return gone(tx, h)
}

// endPeer ends a peering with which nothing is left between the two sites.
func (c *Controller) endPeer(tx *state.Tx, p *api.Peer) error {
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

func (c *Controller) endOffer(tx *state.Tx, o *api.Offer) error {
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
	return gone(tx, o)
}
