package control

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"widecloud/api"
	"widecloud/internal/access"
	"widecloud/internal/cloud"
	"widecloud/internal/state"
	"widecloud/internal/store"
	"widecloud/internal/wire"
)

// join is what is kept of a one-time token.
type join struct {
	Kind    wire.TokenKind `json:"kind"`
	Host    string         `json:"host,omitempty"`
	Roles   []api.HostRole `json:"roles,omitempty"`
	Key     string         `json:"key,omitempty"` // of who used it, which may ask again: an agent's key, or the fingerprint of a site
	Expires time.Time      `json:"expires,omitzero"`
}

// enrolment is who may speak for a host.
type enrolment struct {
	Key string `json:"key"` // as wire.JoinRequest's
}

// JoinToken is serve.Controller's.
func (c *Controller) JoinToken(ctx context.Context, p access.Actor, host string, roles []api.HostRole) (string, error) {
	ctx = asUser(ctx, p)
	if !p.Admin {
		return "", forbidden("let hosts join")
	}
	if err := cloud.ValidateName("host", host); err != nil {
		return "", err
	}
	if len(roles) == 0 {
		roles = []api.HostRole{api.RoleHypervisor}
	}
	for _, r := range roles {
		if r != api.RoleHypervisor && r != api.RoleGateway {
			return "", api.Invalidf("roles", "%q is not hypervisor or gateway", r)
		}
	}
	return c.oneTime(ctx, join{Kind: wire.TokenJoin, Host: host, Roles: roles})
}

func (c *Controller) oneTime(ctx context.Context, j join) (string, error) {
	t, err := wire.NewToken(j.Kind, c.o.Authority.Certificate())
	if err != nil {
		return "", err
	}
	j.Expires = c.now().Add(c.o.JoinLife)
	return t.String(), c.update(ctx, func(tx *state.Tx) error {
		if err := putJSON(tx, prefixJoins+t.ID(), j); err != nil {
			return err
		}
		return c.answer(ctx, tx, nil)
	})
}

// redeem reads a one-time token that somebody with a key shows: a new one, or one that the same key has used before.
func (c *Controller) redeem(tx *state.Tx, id string, kind wire.TokenKind, key, advice string) (join, error) {
	j, err := getJSON[join](tx, prefixJoins+id)
	refused := func(why string) error {
		return &api.Error{Code: api.CodeUnauthenticated, Field: "token", Message: why + "; " + advice}
	}
	switch {
	case errors.Is(err, store.ErrNotFound) || err == nil && j.Kind != kind:
		return j, refused("it is not known here")
	case err != nil:
		return j, err
	case !c.now().Before(j.Expires):
		return j, refused("it has expired")
	case j.Key != "" && j.Key != key:
		return j, refused("it was used by somebody else")
	}
	return j, nil
}

// pruneJoins removes the tokens that have expired, used or not.
func (c *Controller) pruneJoins(ctx context.Context) error {
	expired := func(j join) bool { return !c.now().Before(j.Expires) }
	any := false
	if err := c.view(ctx, func(tx *state.Tx) error {
		all, err := listJSON[join](tx, prefixJoins)
		for _, j := range all {
			any = any || expired(j)
		}
		return err
	}); err != nil || !any {
		return err
	}
	return c.update(ctx, func(tx *state.Tx) error { return c.forgetJoins(tx, expired) })
}

// forgetJoins removes the tokens that match.
func (c *Controller) forgetJoins(tx *state.Tx, match func(join) bool) error {
	all, err := listJSON[join](tx, prefixJoins)
	if err != nil {
		return err
	}
	for id, j := range all {
		if match(j) {
			if err := remove(tx, prefixJoins+id); err != nil {
				return err
			}
		}
	}
	return nil
}

// Join signs an agent's certificate against its one-time token. The same agent may ask again when the answer was lost, as
// long as its host was not removed meanwhile.
func (c *Controller) Join(ctx context.Context, r wire.JoinRequest) (wire.JoinReply, error) {
	ctx = asAgent(ctx, r.Host)
	err := c.update(ctx, func(tx *state.Tx) error {
		j, err := c.redeem(tx, r.Token, wire.TokenJoin, r.Key, "get another: wcc host join-token "+r.Host)
		if err != nil {
			return err
		}
		if j.Host != r.Host {
			return &api.Error{Code: api.CodeForbidden, Field: "host", Message: fmt.Sprintf("the token is for host %s, not %s", j.Host, r.Host)}
		}
		if j.Key != "" {
			return c.enrolled(tx, r.Host, r.Key)
		}
		j.Key = r.Key
		h, err := get[api.Host](tx, r.Host)
		if errors.Is(err, &api.Error{Code: api.CodeNotFound}) {
			h, err = &api.Host{Meta: c.newMeta(r.Host, "")}, nil
		}
		if err != nil {
			return err
		}
		h.Spec.Roles, h.Deleting = j.Roles, false
		c.event(tx, "host.joined", "hosts/"+r.Host, "", "it has its certificate")
		if err := putJSON(tx, prefixJoins+r.Token, j); err != nil {
			return err
		}
		if err := putJSON(tx, prefixEnrolments+r.Host, enrolment{Key: r.Key}); err != nil {
			return err
		}
		return put(tx, h)
	})
	if err != nil {
		return wire.JoinReply{}, err
	}
	c.o.Federation.Disconnect(wire.Agent(c.o.Site, r.Host), api.Errorf(api.CodeForbidden, "host %s has joined anew", r.Host))
	cert, err := c.o.Authority.SignAgent(r.Host, r.CSR)
	return wire.JoinReply{Certificate: cert}, err
}

// enrolled tells whether a key may speak for a host. The key of a host that joined before keys were kept becomes its key.
func (c *Controller) enrolled(tx *state.Tx, host, key string) error {
	advice := "join anew: wcc host join-token " + host
	if _, err := get[api.Host](tx, host); errors.Is(err, &api.Error{Code: api.CodeNotFound}) {
		return api.Errorf(api.CodeForbidden, "host %s was removed; %s", host, advice)
	} else if err != nil {
		return err
	}
	e, err := getJSON[enrolment](tx, prefixEnrolments+host)
	switch {
	case errors.Is(err, store.ErrNotFound):
		c.event(tx, "host.enrolled", "hosts/"+host, "", "its certificate's key is kept from now on; no other one speaks for it")
		return putJSON(tx, prefixEnrolments+host, enrolment{Key: key})
	case err != nil:
		return err
	case e.Key != key:
		return api.Errorf(api.CodeForbidden, "the certificate is not the one by which host %s joined last; %s", host, advice)
	}
	return nil
}

// peerInfo is what two sites tell each other when they exchange certificates.
type peerInfo struct {
	Endpoint string `json:"endpoint"`
}

// PeerInvite is serve.Controller's.
func (c *Controller) PeerInvite(ctx context.Context, p access.Actor) (string, error) {
	ctx = asUser(ctx, p)
	if !p.Admin {
		return "", forbidden("invite other sites")
	}
	if c.o.Endpoint == "" {
		return "", api.Errorf(api.CodeConflict, "this site cannot be dialled (outside.advertise is empty): have the other site invite you")
	}
	t, err := c.oneTime(ctx, join{Kind: wire.TokenPeer})
	return t + "@" + c.o.Endpoint, err
}

// PeerAdd is serve.Controller's.
func (c *Controller) PeerAdd(ctx context.Context, p access.Actor, invitation string) (*api.Peer, error) {
	ctx = asUser(ctx, p)
	if !p.Admin {
		return nil, forbidden("add peers")
	}
	text, endpoint, ok := strings.Cut(strings.TrimSpace(invitation), "@")
	if _, err := netip.ParseAddrPort(endpoint); !ok || err != nil && !strings.Contains(endpoint, ":") {
		return nil, api.Invalidf("invitation", "it is not what wcc peer invite prints (TOKEN@HOST:PORT)")
	}
	t, err := wire.ParseToken(text)
	if err != nil {
		return nil, err
	}
	ca, _, err := wire.JoinPeer(ctx, c.o.Network, endpoint, t, c.o.Authority.Certificate(), peerInfo{Endpoint: c.o.Endpoint})
	if err != nil {
		return nil, fmt.Errorf("exchange certificates: %w", err)
	}
	site, err := wire.SiteOf(ca)
	if err != nil {
		return nil, err
	}
	return c.peered(ctx, site, endpoint, string(wire.EncodeCertificate(ca)), wire.Fingerprint(ca))
}

// Peer answers another site that has an invitation of ours.
func (c *Controller) Peer(ctx context.Context, r wire.PeerRequest) (wire.PeerReply, error) {
	ctx = asPeer(ctx, r.Site)
	var info peerInfo
	if err := decodeInfo(r.Info, &info); err != nil {
		return wire.PeerReply{}, err
	}
	if r.Site == c.o.Site {
		return wire.PeerReply{}, api.Invalidf("site", "%s is this site's own name", r.Site)
	}
	fingerprint := wire.Fingerprint(r.CA)
	if err := c.update(ctx, func(tx *state.Tx) error {
		j, err := c.redeem(tx, r.Token, wire.TokenPeer, fingerprint, "ask for another invitation")
		if err != nil {
			return err
		}
		j.Key = fingerprint
		return putJSON(tx, prefixJoins+r.Token, j)
	}); err != nil {
		return wire.PeerReply{}, err
	}
	_, err := c.peered(ctx, r.Site, info.Endpoint, string(wire.EncodeCertificate(r.CA)), fingerprint)
	return wire.PeerReply{Info: wire.RawBody(peerInfo{Endpoint: c.o.Endpoint})}, err
}

// peered keeps a peer and begins to speak with it.
func (c *Controller) peered(ctx context.Context, site, endpoint, certificate, fingerprint string) (*api.Peer, error) {
	var out *api.Peer
	err := c.update(ctx, func(tx *state.Tx) error {
		out = &api.Peer{Meta: c.newMeta(site, ""), Spec: api.PeerSpec{Endpoint: endpoint, Certificate: certificate, Fingerprint: fingerprint}}
		if have, err := get[api.Peer](tx, site); err == nil {
			if have.Spec.Fingerprint != fingerprint {
				return &api.Error{Code: api.CodeExists, Field: "site", Message: fmt.Sprintf("another site called %s is a peer (fingerprint %s); remove it first: wcc peer remove %s", site, have.Spec.Fingerprint, site)}
			}
			have.Spec.Endpoint = endpoint
			out = have
		}
		if err := cloud.Validate(out, cloud.Known{}); err != nil {
			return err
		}
		c.event(tx, "peer.added", "peers/"+site, "", "certificates are exchanged; fingerprint "+fingerprint)
		if err := put(tx, out); err != nil {
			return err
		}
		return c.answer(ctx, tx, out)
	})
	if err != nil {
		return nil, err
	}
	return out, c.o.Federation.AddPeer(site, endpoint, []byte(certificate))
}

// Peers begins to speak with every peer that the store has; once, before Run.
func (c *Controller) Peers(ctx context.Context) error {
	var peers []*api.Peer
	if err := c.view(ctx, func(tx *state.Tx) (err error) {
		peers, err = list[api.Peer](tx)
		return err
	}); err != nil {
		return err
	}
	for _, p := range peers {
		if err := c.o.Federation.AddPeer(p.Name, p.Spec.Endpoint, []byte(p.Spec.Certificate)); err != nil {
			return err
		}
	}
	return nil
}
