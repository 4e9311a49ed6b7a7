package netplan

import (
	"fmt"
	"maps"
	"net/netip"

	"widecloud/api"
	"widecloud/internal/cloud"
)

// Addresses holds the service addresses that peers ask for against what they may have here. It remembers what it has
// granted: make one for each plan, with [NewAddresses].
type Addresses struct {
	plan   cloud.Plan
	left   map[string]int           // addresses that each peer still has on loan
	taken  map[netip.Addr]string    // which site uses an address
	single map[singleKey]netip.Addr // the one service address of a family
}

// singleKey names what has one service address at most: a VM, for each family.
type singleKey struct {
	home   string
	bits   int // of the family
	target netip.Addr
}

// NewAddresses begins with the service addresses of site itself and with how many each peer has on loan there.
func NewAddresses(site string, plan cloud.Plan, own []netip.Addr, lent map[string]int) *Addresses {
	a := &Addresses{plan: plan, left: maps.Clone(lent), taken: make(map[netip.Addr]string, len(own)), single: map[singleKey]netip.Addr{}}
	if a.left == nil {
		a.left = map[string]int{}
	}
	for _, addr := range own {
		a.taken[addr] = site
	}
	return a
}

// Take notes that a site uses addresses.
func (a *Addresses) Take(site string, mappings []Mapping) {
	for _, m := range mappings {
		a.taken[m.Service] = site
	}
}

// Judge gives the mappings of a network that its home may have, and why it may not have the others. field is put before the
// names of fields.
func (a *Addresses) Judge(home, field string, v View) (good []Mapping, refused []Refused) {
	for i, m := range v.Mappings {
		at := fmt.Sprintf("%s.mappings[%d]", field, i)
		if err := a.one(home, at, v.Spec, m); err != nil {
			refused = append(refused, Refused{v.UID, m.Service, at, err})
			continue
		}
		a.left[home]--
		a.taken[m.Service] = home
		a.single[singleKey{home, m.Service.BitLen(), m.Target}] = m.Service
		good = append(good, m)
	}
	return good, refused
}

func (a *Addresses) one(home, at string, s Spec, m Mapping) error {
	if err := cloud.CheckService(at+".service", m.Service); err != nil {
		return err
	}
	if !s.Prefix.Contains(m.Target) || m.Target.Zone() != "" {
		return api.Invalidf(at+".target", "%s is not in %s", m.Target, s.Prefix)
	}
	if err := a.plan.CheckAddress(at+".service", m.Service, cloud.Party{Peer: home}); err != nil {
		return err
	}
	if who, ok := a.taken[m.Service]; ok {
		return &api.Error{Code: api.CodeExists, Field: at + ".service", Message: fmt.Sprintf("%s is in use by %s", m.Service, who)}
	}
	if other, ok := a.single[singleKey{home, m.Service.BitLen(), m.Target}]; ok {
		return &api.Error{Code: api.CodeConflict, Field: at + ".target", Message: fmt.Sprintf("%s has the service address %s already; a VM has one of each family", m.Target, other)}
	}
	if a.left[home] < 1 {
		return &api.Error{Code: api.CodeRefused, Field: at, Message: fmt.Sprintf("no service address is left of the loans to %s", home)}
	}
	return nil
}
