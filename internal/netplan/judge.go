package netplan

import (
	"fmt"
	"net/netip"
	"slices"

	"widecloud/api"
	"widecloud/internal/cloud"
)

// The limits of what is taken of a peer's network.
const (
	MaxMembers   = 1000 // hosts that carry a network
	maxEndpoints = 10000
)

// Judge holds what peers and agents tell of hosts and networks against what this site has allowed (law 9).
type Judge struct {
	Plan        cloud.Plan
	AnycastVTEP netip.Addr // that the gateways share; the zero address: none
}

// Refused is a part of what a peer tells that is not taken, and why. The other parts are.
type Refused struct {
	Network string     // UID
	Service netip.Addr // of a service address that its home may not have here
	Field   string     // body.networks[0].mappings[1]; what Err names is more exact where it names a field
	Err     error
}

// VTEP judges a tunnel end point that somebody tells of: it is not the gateways' common address, and in no pool, where users
// could get it.
func (j Judge) VTEP(field string, a netip.Addr) error {
	if err := cloud.CheckVTEP(field, a); err != nil {
		return err
	}
	if a == j.AnycastVTEP {
		return api.Invalidf(field, "%s is the gateways' common address", a)
	}
	return j.Plan.Underlay(field, a)
}

// Member judges a host that carries a network.
func (j Judge) Member(field string, m api.NetworkMember) error {
	if err := cloud.ValidateName(field+".site", m.Site); err != nil {
		return err
	}
	if err := cloud.ValidateName(field+".host", m.Host); err != nil {
		return err
	}
	if m.Role != api.RoleHypervisor && m.Role != api.RoleGateway {
		return api.Invalidf(field+".role", "%.40q is not hypervisor or gateway", m.Role)
	}
	a, err := netip.ParseAddr(m.VTEP)
	if err != nil {
		return api.Invalidf(field+".vtep", "%.60q is not an IPv6 address", m.VTEP)
	}
	return j.VTEP(field+".vtep", a)
}

// Views judges the networks that a peer tells of. It gives those that may be carried here once something of the peer asks for
// them, without the parts that are bad, and why the rest is refused. carried are the networks of this site and of other peers.
// guests are those of the peer, by UID, that have guests here: they are carried whatever the address plan says now. field is
// that of the views.
func (j Judge) Views(from, field string, views []View, carried []Known, guests map[string]bool, addresses *Addresses) (good []View, refused []Refused) {
	carried = slices.Clone(carried)
	for i, v := range views {
		at := fmt.Sprintf("%s[%d]", field, i)
		if err := j.view(at, from, v, carried, guests[v.UID]); err != nil {
			refused = append(refused, Refused{Network: v.UID, Field: at, Err: err})
			continue
		}
		v, errs := j.sound(at, v)
		for _, err := range errs {
			refused = append(refused, Refused{Network: v.UID, Field: at, Err: err})
		}
		var bad []Refused
		v.Mappings, bad = addresses.Judge(from, at, v)
		refused = append(refused, bad...)
		carried = append(carried, Known{from, v.Spec})
		good = append(good, v)
	}
	return good, refused
}

// view judges what makes a network: its identity, its prefix, what it clashes with.
func (j Judge) view(at, from string, v View, carried []Known, guests bool) error {
	if err := v.Check(at); err != nil {
		return err
	}
	if !guests {
		if err := j.Plan.CheckNetwork(at+".prefix", v.Prefix, cloud.Party{Peer: from}); err != nil {
			return err
		}
	}
	for _, k := range carried {
		if field, text := (Known{from, v.Spec}).Clash(k); field != "" {
			return &api.Error{Code: api.CodeExists, Field: at + "." + field, Message: text}
		}
	}
	if len(v.Members) > MaxMembers || len(v.Endpoints) > maxEndpoints {
		return api.Invalidf(at, "has %d members and %d endpoints, at most %d and %d are possible", len(v.Members), len(v.Endpoints), MaxMembers, maxEndpoints)
	}
	return nil
}

// sound gives a network without the members and endpoints that are bad, and an error for each of these. An endpoint whose
// VTEP alone is bad stays: it is nowhere.
func (j Judge) sound(at string, v View) (View, []error) {
	endpoints, errs := soundEndpoints(at, v.Spec, v.Endpoints)
	v.Endpoints = []Endpoint{}
	for i, e := range endpoints {
		if e.VTEP.IsValid() {
			if err := j.VTEP(fmt.Sprintf("%s.endpoints[%d].vtep", at, i), e.VTEP); err != nil {
				errs = append(errs, err)
				e.VTEP = netip.Addr{}
			}
		}
		v.Endpoints = append(v.Endpoints, e)
	}
	members := v.Members
	v.Members = []api.NetworkMember{}
	for i, m := range members {
		if err := j.Member(fmt.Sprintf("%s.members[%d]", at, i), m); err != nil {
			errs = append(errs, err)
			continue
		}
		v.Members = append(v.Members, m)
	}
	return v, errs
}
