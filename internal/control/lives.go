package control

import (
	"strings"

	"widecloud/api"
	"widecloud/internal/access"
	"widecloud/internal/state"
	"widecloud/internal/wire"
)

// imageLife is what users do with images.
func (c *Controller) imageLife() life[api.Image] {
	return life[api.Image]{
		Create: func(tx *state.Tx, by access.Actor, i *api.Image) error {
			if strings.HasPrefix(i.Spec.Source, "/") && !by.Admin {
				return &api.Error{Code: api.CodeForbidden, Field: "spec.source", Message: "only an admin may name a path of the controller's machine; upload the file, or give a URL"}
			}
			i.Status = api.ImageStatus{Phase: "importing"}
			if i.Spec.Source == "" {
				i.Status.Message = "waits for its content"
			}
			return put(tx, i)
		},
		Change: keep[api.Image],
		Delete: func(tx *state.Tx, i *api.Image) error {
			for v := range by[api.VM](tx, "image", i.Name) {
				return inUse(i, "spec.image", "VM %s", v.Name)
			}
			if err := c.cancelImport(tx, i); err != nil {
				return err
			}
			return gone(tx, i)
		},
		Done: func(i *api.Image, deleted bool) {
			if deleted {
				c.endImport(i.UID)
			}
		},
	}
}

// ownerLife is what users do with owners.
func (c *Controller) ownerLife() life[api.Owner] {
	return life[api.Owner]{
		Change: keep[api.Owner], Delete: c.endOwner,
		Show: func(tx *state.Tx, o *api.Owner) (err error) {
			o.Status.Used, err = c.usedBy(tx, o.Name)
			return err
		},
	}
}

// userLife is what users do with users. What one has open ends when its rights change.
func (c *Controller) userLife() life[api.User] {
	return life[api.User]{
		Change: c.updateUser, Delete: c.deleteUser,
		Done: func(u *api.User, _ bool) { c.endStreams(u.Name) },
	}
}

// hostLife is what users do with hosts.
func (c *Controller) hostLife() life[api.Host] {
	return life[api.Host]{
		Change: keep[api.Host], Delete: c.endHost,
		Done: func(h *api.Host, deleted bool) {
			if deleted {
				c.o.Federation.Disconnect(wire.Agent(c.o.Site, h.Name), api.Errorf(api.CodeForbidden, "host %s was removed", h.Name))
			}
		},
	}
}

// peerLife is what users do with peers.
func (c *Controller) peerLife() life[api.Peer] {
	return life[api.Peer]{
		Delete: c.endPeer,
		Done:   func(p *api.Peer, _ bool) { c.o.Federation.RemovePeer(p.Name) },
		Show: func(_ *state.Tx, p *api.Peer) error {
			up, since, rtt := c.o.Federation.Reached(p.Name)
			p.Status = api.PeerStatus{Reached: up, Since: since.UTC(), RTT: rtt.Seconds()}
			if !up {
				p.Status.Message = "no session is up"
			}
			return nil
		},
	}
}

// offerLife is what users do with offers.
func (c *Controller) offerLife() life[api.Offer] {
	return life[api.Offer]{
		Faults: c.offerFaults, Delete: c.endOffer,
		Change: func(tx *state.Tx, _ access.Actor, _, now *api.Offer) error {
			if now.Home != c.o.Site {
				return api.Errorf(api.CodeForbidden, "offer %s is %s's", now.Name, now.Home)
			}
			return put(tx, now)
		},
	}
}

// loanLife is what users do with loans that are over.
func (c *Controller) loanLife() life[api.Loan] {
	return life[api.Loan]{Delete: func(tx *state.Tx, l *api.Loan) error {
		if l.Status.State != api.LoanEnded {
			return api.Errorf(api.CodeConflict, "loan %s is %s; return or reclaim it first", l.Name, l.Status.State)
		}
		return gone(tx, l)
	}}
}

// jobLife is what users do with jobs that have ended.
func jobLife() life[api.Job] {
	return life[api.Job]{Delete: func(tx *state.Tx, j *api.Job) error {
		if !j.Status.State.Ended() {
			return api.Errorf(api.CodeConflict, "job %s has not ended; cancel it: wcc job cancel %s", j.Name, j.Name)
		}
		return gone(tx, j)
	}}
}

// siteLife is what users see of sites.
func (c *Controller) siteLife() life[api.Site] { return life[api.Site]{Made: c.sites} }

func (c *Controller) allLives() {
	c.nouns = map[api.Kind]lived{}
	c.observers = []observer{c.seeVMs, c.seeGuests}
	c.lost = append(c.lost, c.vmsUnknown)
	lives(c, c.vmLife())
	lives(c, c.networkLife())
	lives(c, c.addressLife())
	lives(c, c.imageLife())
	lives(c, c.ownerLife())
	lives(c, c.userLife())
	lives(c, c.hostLife())
	lives(c, c.peerLife())
	lives(c, c.offerLife())
	lives(c, c.loanLife())
	lives(c, jobLife())
	lives(c, c.siteLife())
}
