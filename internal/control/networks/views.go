package networks

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"strings"

	"widecloud/api"
	"widecloud/internal/cloud"
	"widecloud/internal/control/objects"
	"widecloud/internal/netplan"
	"widecloud/internal/state"
	"widecloud/internal/wire"
)

// maxViews is how many networks are taken of a peer.
const maxViews = 1000

// refusal is a part of a view that is not taken, as its home gets to see it.
func refusal(r netplan.Refused) wire.Refusal {
	out := wire.Refusal{
		Code: api.CodeInvalid, Field: objects.FieldOf(r.Err, r.Field), Network: cloud.Line(r.Network, objects.MaxText), Service: r.Service,
		Message: cloud.Line(r.Err.Error(), objects.MaxText),
	}
	var e *api.Error
	if errors.As(r.Err, &e) {
		out.Code, out.Message = e.Code, cloud.Line(e.Message, objects.MaxText)
	}
	return out
}

// judgeViews looks at a peer's networks, and gives those that may be carried here once something of the peer asks for them,
// without the parts that are bad, and why the rest is refused.
func (ns *Networks) judgeViews(tx *state.Tx, from string, views []wire.NetworkView) (good []wire.NetworkView, refused []wire.Refusal, err error) {
	known, err := ns.networksKnown(tx)
	if err != nil {
		return nil, nil, err
	}
	known = slices.DeleteFunc(known, func(k netplan.Known) bool { return k.Home == from })
	lent, err := ns.addressesLent(tx)
	if err != nil {
		return nil, nil, err
	}
	addresses, err := ns.addressJudge(tx, lent)
	if err != nil {
		return nil, nil, err
	}
	foreign, err := ns.foreignNetworks(tx)
	if err != nil {
		return nil, nil, err
	}
	guests := map[string]bool{} // networks of its guests, which are carried whatever the plan says now
	for _, f := range foreign {
		if f.Home != from {
			addresses.Take(f.Home, f.Mappings)
		} else if f.Guests {
			guests[f.View.UID] = true
		}
	}
	good, bad := ns.Judge().Views(from, "body.networks", views, known, guests, addresses)
	for _, r := range bad[:min(len(bad), maxRefusals)] {
		refused = append(refused, refusal(r))
	}
	return good, refused, nil
}

// maxRefusals bounds an answer.
const maxRefusals = 100

// ViewsFor is what a peer must know of our networks: those whose VMs it runs or is about to run, and those that its
// gateways serve.
func (ns *Networks) ViewsFor(tx *state.Tx, peer string, own []netplan.Network) (wire.Views, error) {
	var out wire.Views
	loans, err := objects.List[api.Loan](tx)
	if err != nil {
		return out, err
	}
	lent := 0
	for _, l := range loans {
		if l.Spec.Lender == peer && l.Spec.Borrower == ns.Name && l.Status.State != api.LoanEnded {
			lent += l.Spec.Amount.Addresses
		}
	}
	out.Networks = netplan.ForPeer(peer, own, lent)
	return out, nil
}

// SendViews tells a peer of our networks, and shows at our addresses which of them it does not translate.
func (ns *Networks) SendViews(ctx context.Context, peer string, views wire.Views) error {
	var answer wire.ViewsAnswer
	if err := ns.Federation.Ask(ctx, peer, wire.DocViews, "", objects.DocumentTime, views, &answer); err != nil {
		return err
	}
	refused := map[netip.Addr]string{}
	for _, r := range answer.Refused {
		ns.Log.Warn("a peer does not take what it was told of a network", "peer", peer, "field", cloud.Line(r.Field, objects.MaxText), "network", cloud.Line(r.Network, objects.MaxText), "message", cloud.Line(r.Message, objects.MaxText))
		if r.Service.IsValid() {
			refused[r.Service] = cloud.Line(r.Message, objects.MaxText)
		}
	}
	return ns.Write(ctx, func(tx *state.Tx) error { return ns.showRefused(tx, peer, refused) })
}

// showRefused keeps, at our addresses, why a translator or a peer does not translate them; those that it has no complaint of
// lose what it said before.
func (ns *Networks) showRefused(tx *state.Tx, by string, refused map[netip.Addr]string) error {
	all, err := objects.List[api.Address](tx)
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
		if err := objects.Put(tx, a); err != nil {
			return err
		}
	}
	return nil
}

// TakeViews keeps a peer's networks. Each is judged by itself: one that is refused keeps no other back, since the two may be
// of different users of the peer.
func (ns *Networks) TakeViews(ctx context.Context, d wire.Verified) (any, error) {
	var body wire.Views
	if err := d.DecodeBody(&body); err != nil {
		return nil, err
	}
	if len(body.Networks) > maxViews {
		return nil, api.Invalidf("body.networks", "has %d networks, at most %d are possible", len(body.Networks), maxViews)
	}
	var answer wire.ViewsAnswer
	err := ns.Write(ctx, func(tx *state.Tx) error {
		if err := ns.Federation.Advance(tx, d); err != nil {
			return err
		}
		good, refused, err := ns.judgeViews(tx, d.From, body.Networks)
		if err != nil {
			return err
		}
		answer.Refused = refused
		old, err := objects.ListRecords[wire.NetworkView](tx, objects.PrefixViews+d.From+"/")
		if err != nil {
			return err
		}
		for _, v := range good {
			delete(old, v.UID)
			if err := objects.PutRecord(tx, objects.PrefixViews+d.From+"/"+v.UID, v); err != nil {
				return err
			}
		}
		for uid := range old {
			if err := objects.Remove(tx, objects.PrefixViews+d.From+"/"+uid); err != nil {
				return err
			}
		}
		return nil
	})
	for _, r := range answer.Refused {
		ns.Log.Info("a peer's network is not taken as it was told", "peer", d.From, "field", r.Field, "network", r.Network, "message", r.Message)
	}
	return answer, err
}
