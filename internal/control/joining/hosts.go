package joining

import (
	"context"
	"errors"
	"fmt"

	"widecloud/api"
	"widecloud/internal/access"
	"widecloud/internal/cloud"
	"widecloud/internal/control/objects"
	"widecloud/internal/state"
	"widecloud/internal/store"
	"widecloud/internal/wire"
)

// endHost forgets a host's enrolment with it: its certificate and its join token admit nobody any more, also when another
// host has its name.
func (jn *Joining) endHost(tx *state.Tx, h *api.Host) error {
	for v := range objects.By[api.VM](tx, "host", objects.Placed(jn.Name, h.Name)) {
		return objects.InUse(h, "status.host", "VM %s", v.Name)
	}
	for v := range objects.By[api.Volume](tx, "host", objects.Placed(jn.Name, h.Name)) {
		return objects.InUse(h, "status.host", "volume %s", v.Name)
	}
	for _, prefix := range []string{objects.PrefixOrders, objects.PrefixClaims} {
		for _, g := range objects.Records[wire.Claim](tx, prefix, "host", h.Name) {
			return objects.InUse(h, "status.host", "VM %s of %s", g.Order.Name, g.Home)
		}
	}
	if err := jn.forgetJoins(tx, func(j join) bool { return j.Kind == wire.TokenJoin && j.Host == h.Name }); err != nil {
		return err
	}
	if err := objects.Remove(tx, prefixEnrolments+h.Name); err != nil {
		return err
	}
	if err := jn.networks.ReportTranslator(tx, h.Name, nil); err != nil { // what it said of its translator is said no more
		return err
	}
	return objects.Gone(tx, h)
}

// Admit refuses sessions of hosts that were removed, and of machines that are no longer the host of their name.
func (jn *Joining) Admit(caller wire.Caller) error {
	if caller.Role != wire.RoleAgent {
		return nil
	}
	return jn.Write(store.Urgent(context.Background()), func(tx *state.Tx) error { return jn.enrolled(tx, caller.Host, caller.Key) })
}

// prefixEnrolments is where the keys of hosts are: enrolments/HOST.
const prefixEnrolments = "enrolments/"

// enrolment is who may speak for a host.
type enrolment struct {
	Key string `json:"key"` // as wire.JoinRequest's
}

// JoinToken makes the one-time token by which a host joins.
func (jn *Joining) JoinToken(ctx context.Context, p access.Actor, host string, roles []api.HostRole) (string, error) {
	if !p.Admin {
		return "", objects.Forbidden("let hosts join")
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
	return jn.oneTime(ctx, join{Kind: wire.TokenJoin, Host: host, Roles: roles})
}

// Join signs an agent's certificate against its one-time token. The same agent may ask again when the answer was lost, as
// long as its host was not removed meanwhile.
func (jn *Joining) Join(ctx context.Context, r wire.JoinRequest) (wire.JoinReply, error) {
	err := jn.Write(ctx, func(tx *state.Tx) error {
		j, err := jn.redeem(tx, r.Token, wire.TokenJoin, r.Key, "get another: wcc host join-token "+r.Host)
		if err != nil {
			return err
		}
		if j.Host != r.Host {
			return &api.Error{Code: api.CodeForbidden, Field: "host", Message: fmt.Sprintf("the token is for host %s, not %s", j.Host, r.Host)}
		}
		if j.Key != "" {
			return jn.enrolled(tx, r.Host, r.Key)
		}
		j.Key = r.Key
		h, err := objects.Get[api.Host](tx, r.Host)
		if errors.Is(err, &api.Error{Code: api.CodeNotFound}) {
			h, err = &api.Host{Meta: jn.NewMeta(r.Host, "")}, nil
		}
		if err != nil {
			return err
		}
		h.Spec.Roles, h.Deleting = j.Roles, false
		jn.Event(tx, "host.joined", "hosts/"+r.Host, "", "it has its certificate")
		if err := objects.PutRecord(tx, objects.PrefixJoins+r.Token, j); err != nil {
			return err
		}
		if err := objects.PutRecord(tx, prefixEnrolments+r.Host, enrolment{Key: r.Key}); err != nil {
			return err
		}
		return objects.Put(tx, h)
	})
	if err != nil {
		return wire.JoinReply{}, err
	}
	jn.Federation.Disconnect(wire.Agent(jn.Name, r.Host), api.Errorf(api.CodeForbidden, "host %s has joined anew", r.Host))
	cert, err := jn.Authority.SignAgent(r.Host, r.CSR)
	return wire.JoinReply{Certificate: cert}, err
}

// enrolled tells whether a key may speak for a host. The key of a host that joined before keys were kept becomes its key.
func (jn *Joining) enrolled(tx *state.Tx, host, key string) error {
	advice := "join anew: wcc host join-token " + host
	if _, err := objects.Get[api.Host](tx, host); errors.Is(err, &api.Error{Code: api.CodeNotFound}) {
		return api.Errorf(api.CodeForbidden, "host %s was removed; %s", host, advice)
	} else if err != nil {
		return err
	}
	e, err := objects.Record[enrolment](tx, prefixEnrolments+host)
	switch {
	case errors.Is(err, store.ErrNotFound):
		jn.Event(tx, "host.enrolled", "hosts/"+host, "", "its certificate's key is kept from now on; no other one speaks for it")
		return objects.PutRecord(tx, prefixEnrolments+host, enrolment{Key: key})
	case err != nil:
		return err
	case e.Key != key:
		return api.Errorf(api.CodeForbidden, "the certificate is not the one by which host %s joined last; %s", host, advice)
	}
	return nil
}

// hostLife is what users do with hosts.
func (jn *Joining) hostLife() objects.Life[api.Host] {
	return objects.Life[api.Host]{
		Change: objects.Keep[api.Host], Delete: jn.endHost,
		Done: func(h *api.Host, deleted bool) {
			if deleted {
				jn.Federation.Disconnect(wire.Agent(jn.Name, h.Name), api.Errorf(api.CodeForbidden, "host %s was removed", h.Name))
			}
		},
	}
}
