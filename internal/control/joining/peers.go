package joining

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"

	"widecloud/api"
	"widecloud/internal/access"
	"widecloud/internal/cloud"
	"widecloud/internal/control/objects"
	"widecloud/internal/state"
	"widecloud/internal/wire"
)

// endPeer ends a peering with which nothing is left between the two sites.
func (jn *Joining) endPeer(tx *state.Tx, p *api.Peer) error {
	for v := range objects.By[api.VM](tx, "site", p.Name) {
		return objects.InUse(p, "status.site", "VM %s, which is there", v.Name)
	}
	for _, prefix := range []string{objects.PrefixOrders, objects.PrefixClaims} {
		for _, g := range objects.Records[wire.Claim](tx, prefix, "home", p.Name) {
			return objects.InUse(p, "home", "its guest %s, which is here", g.Order.Name)
		}
	}
	loans, err := objects.List[api.Loan](tx)
	if err != nil {
		return err
	}
	for _, l := range loans {
		if l.Spec.Lender != p.Name && l.Spec.Borrower != p.Name {
			continue
		}
		if l.Status.State != api.LoanEnded {
			return objects.InUse(p, "spec.lender", "loan %s", l.Name)
		}
		if err := objects.Remove(tx, objects.Key(api.KindLoan, l.Name)); err != nil {
			return err
		}
	}
	return jn.forgetPeer(tx, p)
}

// forgetPeer removes a peer, what it told us, and the invitation by which it came.
func (jn *Joining) forgetPeer(tx *state.Tx, p *api.Peer) error {
	name := p.Name
	for _, prefix := range []string{objects.PrefixOffers + name + "/", objects.PrefixViews + name + "/", objects.PrefixRequests + name + "/"} {
		if err := objects.RemoveAll(tx, prefix); err != nil {
			return err
		}
	}
	if err := jn.Federation.Forget(tx, name); err != nil {
		return err
	}
	if err := jn.forgetJoins(tx, func(j join) bool { return j.Kind == wire.TokenPeer && j.Key == p.Spec.Fingerprint }); err != nil {
		return err
	}
	offers, err := objects.List[api.Offer](tx)
	if err != nil {
		return err
	}
	for _, o := range offers {
		if o.Home == name {
			if err := objects.Remove(tx, objects.Key(api.KindOffer, o.Name)); err != nil {
				return err
			}
		}
	}
	jn.Event(tx, "peer.removed", "peers/"+name, "", "nothing of it is believed any more")
	return objects.Remove(tx, objects.Key(api.KindPeer, name))
}

// peerInfo is what two sites tell each other when they exchange certificates.
type peerInfo struct {
	Endpoint string `json:"endpoint"`
}

// PeerInvite makes an invitation for another site: TOKEN@HOST:PORT.
func (jn *Joining) PeerInvite(ctx context.Context, p access.Actor) (string, error) {
	if !p.Admin {
		return "", objects.Forbidden("invite other sites")
	}
	if jn.Endpoint == "" {
		return "", api.Errorf(api.CodeConflict, "this site cannot be dialled (outside.advertise is empty): have the other site invite you")
	}
	t, err := jn.oneTime(ctx, join{Kind: wire.TokenPeer})
	return t + "@" + jn.Endpoint, err
}

// PeerAdd makes a peer of the site that sent an invitation.
func (jn *Joining) PeerAdd(ctx context.Context, p access.Actor, invitation string) (*api.Peer, error) {
	if !p.Admin {
		return nil, objects.Forbidden("add peers")
	}
	text, endpoint, ok := strings.Cut(strings.TrimSpace(invitation), "@")
	if _, err := netip.ParseAddrPort(endpoint); !ok || err != nil && !strings.Contains(endpoint, ":") {
		return nil, api.Invalidf("invitation", "it is not what wcc peer invite prints (TOKEN@HOST:PORT)")
	}
	t, err := wire.ParseToken(text)
	if err != nil {
		return nil, err
	}
	ca, _, err := wire.JoinPeer(ctx, jn.Network, endpoint, t, jn.Authority.Certificate(), peerInfo{Endpoint: jn.Endpoint})
	if err != nil {
		return nil, fmt.Errorf("exchange certificates: %w", err)
	}
	site, err := wire.SiteOf(ca)
	if err != nil {
		return nil, err
	}
	return jn.peered(ctx, site, endpoint, string(wire.EncodeCertificate(ca)), wire.Fingerprint(ca))
}

// Peer answers another site that has an invitation of ours.
func (jn *Joining) Peer(ctx context.Context, r wire.PeerRequest) (wire.PeerReply, error) {
	var info peerInfo
	if err := decodeInfo(r.Info, &info); err != nil {
		return wire.PeerReply{}, err
	}
	if r.Site == jn.Name {
		return wire.PeerReply{}, api.Invalidf("site", "%s is this site's own name", r.Site)
	}
	fingerprint := wire.Fingerprint(r.CA)
	if err := jn.Write(ctx, func(tx *state.Tx) error {
		j, err := jn.redeem(tx, r.Token, wire.TokenPeer, fingerprint, "ask for another invitation")
		if err != nil {
			return err
		}
		j.Key = fingerprint
		return objects.PutRecord(tx, objects.PrefixJoins+r.Token, j)
	}); err != nil {
		return wire.PeerReply{}, err
	}
	_, err := jn.peered(ctx, r.Site, info.Endpoint, string(wire.EncodeCertificate(r.CA)), fingerprint)
	return wire.PeerReply{Info: wire.RawBody(peerInfo{Endpoint: jn.Endpoint})}, err
}

// peered keeps a peer and begins to speak with it.
func (jn *Joining) peered(ctx context.Context, site, endpoint, certificate, fingerprint string) (*api.Peer, error) {
	var out *api.Peer
	err := jn.Write(ctx, func(tx *state.Tx) error {
		out = &api.Peer{Meta: jn.NewMeta(site, ""), Spec: api.PeerSpec{Endpoint: endpoint, Certificate: certificate, Fingerprint: fingerprint}}
		if have, err := objects.Get[api.Peer](tx, site); err == nil {
			if have.Spec.Fingerprint != fingerprint {
				return &api.Error{Code: api.CodeExists, Field: "site", Message: fmt.Sprintf("another site called %s is a peer (fingerprint %s); remove it first: wcc peer remove %s", site, have.Spec.Fingerprint, site)}
			}
			have.Spec.Endpoint = endpoint
			out = have
		}
		if err := cloud.Validate(out, cloud.Known{}); err != nil {
			return err
		}
		jn.Event(tx, "peer.added", "peers/"+site, "", "certificates are exchanged; fingerprint "+fingerprint)
		if err := objects.Put(tx, out); err != nil {
			return err
		}
		return jn.Answer(ctx, tx, out)
	})
	if err != nil {
		return nil, err
	}
	return out, jn.Federation.AddPeer(site, endpoint, []byte(certificate))
}

// Peers begins to speak with every peer that the store has; once, before Run.
func (jn *Joining) Peers(ctx context.Context) error {
	var peers []*api.Peer
	if err := jn.Read(ctx, func(tx *state.Tx) (err error) {
		peers, err = objects.List[api.Peer](tx)
		return err
	}); err != nil {
		return err
	}
	for _, p := range peers {
		if err := jn.Federation.AddPeer(p.Name, p.Spec.Endpoint, []byte(p.Spec.Certificate)); err != nil {
			return err
		}
	}
	return nil
}

// peerLife is what users do with peers.
func (jn *Joining) peerLife() objects.Life[api.Peer] {
	return objects.Life[api.Peer]{
		Delete: jn.endPeer,
		Done:   func(p *api.Peer, _ bool) { jn.Federation.RemovePeer(p.Name) },
		Show: func(_ *state.Tx, _ access.Actor, p *api.Peer) error {
			up, since, rtt := jn.Federation.Reached(p.Name)
			p.Status = api.PeerStatus{Reached: up, Since: since.UTC(), RTT: rtt.Seconds(), Answered: jn.Federation.Answered(p.Name).UTC(), Location: p.Status.Location}
			if up {
				t := jn.Federation.Traffic(p.Name)
				p.Status.Sent, p.Status.Received = t.SentRate, t.ReceivedRate
			} else {
				p.Status.Message = jn.unreached(p.Name)
			}
			return nil
		},
	}
}

// unreached says why a peer is not reached.
func (jn *Joining) unreached(peer string) string {
	if why := jn.Federation.Why(peer); why != nil {
		return cloud.Line("no session is up: "+why.Error(), objects.MaxText)
	}
	return "no session is up"
}

// decodeInfo reads what another site told when certificates were exchanged.
func decodeInfo(raw json.RawMessage, v any) error {
	if err := json.Unmarshal(raw, v); err != nil {
		return api.Invalidf("info", "%v", err)
	}
	return nil
}
