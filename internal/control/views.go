package control

import (
	"context"
	"net/netip"
	"slices"
	"strings"

	"widecloud/api"
	"widecloud/internal/cloud"
	"widecloud/internal/netplan"
	"widecloud/internal/state"
	"widecloud/internal/wire"
)

// viewsFor is what a peer must know of our networks: those whose VMs it runs or is about to run, and those that its
// gateways serve.
func (c *Controller) viewsFor(tx *state.Tx, peer string, own []netplan.Network) (wire.Views, error) {
	var out wire.Views
	loans, err := list[api.Loan](tx)
	if err != nil {
		return out, err
	}
	lent := 0
	for _, l := range loans {
		if l.Spec.Lender == peer && l.Spec.Borrower == c.o.Site && l.Status.State != api.LoanEnded {
			lent += l.Spec.Amount.Addresses
		}
	}
	out.Networks = netplan.ForPeer(peer, own, lent)
	return out, nil
}

// sendViews tells a peer of our networks, and shows at our addresses which of them it does not translate.
func (c *Controller) sendViews(ctx context.Context, peer string, views wire.Views) error {
	var answer wire.ViewsAnswer
	if err := c.o.Federation.Ask(ctx, peer, wire.DocViews, "", documentTime, views, &answer); err != nil {
		return err
	}
	refused := map[netip.Addr]string{}
	for _, r := range answer.Refused {
		c.log.Warn("a peer does not take what it was told of a network", "peer", peer, "field", cloud.Line(r.Field, maxText), "network", cloud.Line(r.Network, maxText), "message", cloud.Line(r.Message, maxText))
		if r.Service.IsValid() {
			refused[r.Service] = cloud.Line(r.Message, maxText)
		}
	}
	return c.update(ctx, func(tx *state.Tx) error { return c.showRefused(tx, peer, refused) })
}

// showRefused keeps, at our addresses, why a translator or a peer does not translate them; those that it has no complaint of
// lose what it said before.
func (c *Controller) showRefused(tx *state.Tx, by string, refused map[netip.Addr]string) error {
	all, err := list[api.Address](tx)
	if err != nil {
		return err
	}
	for _, a := range all {
		addr, err := netip.ParseAddr(a.Spec.Address)
		if err != nil {
			continue
		}
		rest := slices.DeleteFunc(slices.Clone(a.Status.Refused), func(r api.AddressRefusal) bool { return r.By == by })
		if message := refused[addr]; message != "" {
			rest = append(rest, api.AddressRefusal{By: by, Message: message})
		}
		slices.SortFunc(rest, func(x, y api.AddressRefusal) int { return strings.Compare(x.By, y.By) })
		a.Status.Refused = rest
		if err := put(tx, a); err != nil {
			return err
		}
	}
	return nil
}

// takeViews keeps a peer's networks. Each is judged by itself: one that is refused keeps no other back, since the two may be
// of different users of the peer.
func (c *Controller) takeViews(ctx context.Context, d wire.Verified) (any, error) {
	var body wire.Views
	if err := d.DecodeBody(&body); err != nil {
		return nil, err
	}
	if len(body.Networks) > maxViews {
		return nil, api.Invalidf("body.networks", "has %d networks, at most %d are possible", len(body.Networks), maxViews)
	}
	var answer wire.ViewsAnswer
	err := c.update(ctx, func(tx *state.Tx) error {
		if err := c.o.Federation.Advance(tx, d); err != nil {
			return err
		}
		good, refused, err := c.judgeViews(tx, d.From, body.Networks)
		if err != nil {
			return err
		}
		answer.Refused = refused
		old, err := listJSON[wire.NetworkView](tx, prefixViews+d.From+"/")
		if err != nil {
			return err
		}
		for _, v := range good {
			delete(old, v.UID)
			if err := putJSON(tx, prefixViews+d.From+"/"+v.UID, v); err != nil {
				return err
			}
		}
		for uid := range old {
			if err := remove(tx, prefixViews+d.From+"/"+uid); err != nil {
				return err
			}
		}
		return nil
	})
	for _, r := range answer.Refused {
		c.log.Info("a peer's network is not taken as it was told", "peer", d.From, "field", r.Field, "network", r.Network, "message", r.Message)
	}
	return answer, err
}
