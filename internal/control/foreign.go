package control

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"widecloud/api"
	"widecloud/internal/cloud"
	"widecloud/internal/store"
	"widecloud/internal/wire"
)

// foreignNetwork is a network of a peer that is carried here. What a peer has here follows from its guests, its claims and
// its loans of addresses here, and from nothing that it says: what it says only fills in the rest.
type foreignNetwork struct {
	home     string
	view     wire.NetworkView      // as its home told it, judged; of a guest whose home has not told yet, as its claim has it
	flood    []netip.Addr          // VTEPs elsewhere
	hosts    map[string]bool       // ours that have guests in it, or keep room for one
	guests   map[string]netip.Addr // those guests, by UID, with their hosts' VTEPs
	gateways bool                  // our gateways serve it: its home has a loan of addresses
	mappings []wire.Mapping        // that its home may have under that loan
	since    int64                 // revision at which its home told of it first
}

func (f foreignNetwork) known() knownNetwork {
	return knownNetwork{f.view.UID, f.view.Name, f.home, f.view.VNI, f.view.Prefix, f.view.IPv4}
}

// foreignNetworks lists the peers' networks that are carried here. None clashes with one of ours, nor with another one:
// those of guests, which were held against all others when their room was reserved, come first, then the older ones.
func (c *Controller) foreignNetworks(tx store.Tx) ([]foreignNetwork, error) {
	lent, err := c.addressesLent(tx)
	if err != nil {
		return nil, err
	}
	all, err := c.foreignCandidates(tx, lent)
	if err != nil {
		return nil, err
	}
	slices.SortFunc(all, func(a, b *foreignNetwork) int {
		if guestsOfA, guestsOfB := len(a.hosts) > 0, len(b.hosts) > 0; guestsOfA != guestsOfB {
			return map[bool]int{true: -1, false: 1}[guestsOfA]
		}
		return cmp.Or(cmp.Compare(a.since, b.since), cmp.Compare(a.home, b.home), cmp.Compare(a.view.UID, b.view.UID))
	})
	carried, err := c.ownNetworks(tx)
	if err != nil {
		return nil, err
	}
	mappings, err := c.newMappingJudge(tx, lent)
	if err != nil {
		return nil, err
	}
	var out []foreignNetwork
	for _, f := range all {
		if slices.ContainsFunc(carried, func(k knownNetwork) bool {
			field, _ := clash(f.known(), k)
			return field != ""
		}) {
			continue
		}
		if f.gateways {
			f.mappings, _ = mappings.judge(f.home, "", f.view)
		}
		carried = append(carried, f.known())
		out = append(out, *f)
	}
	return out, nil
}

// foreignCandidates are the networks that a guest, a claim or a loan of addresses gives a peer here.
func (c *Controller) foreignCandidates(tx store.Tx, lent map[string]int) ([]*foreignNetwork, error) {
	byUID := map[string]*foreignNetwork{} // HOME/UID
	hosts, err := list[api.Host](tx)
	if err != nil {
		return nil, err
	}
	vteps := map[string]netip.Addr{}
	for _, h := range hosts {
		if a, err := netip.ParseAddr(h.Status.VTEP); err == nil {
			vteps[h.Name] = a
		}
	}
	for _, prefix := range []string{prefixOrders, prefixClaims} {
		guests, err := listJSON[wire.Claim](tx, prefix)
		if err != nil {
			return nil, err
		}
		for _, key := range slices.Sorted(maps.Keys(guests)) {
			g := guests[key]
			if g.Home == c.o.Site {
				continue // a claim of our own migration
			}
			f := byUID[g.Home+"/"+g.Network.UID]
			if f == nil {
				n, _ := g.Network.Sound("network")
				f = &foreignNetwork{home: g.Home, view: viewOfOrder(n), flood: n.Flood, hosts: map[string]bool{}, guests: map[string]netip.Addr{}}
				byUID[g.Home+"/"+g.Network.UID] = f
			}
			f.hosts[g.Host] = true
			f.guests[g.VM] = vteps[g.Host]
		}
	}
	kvs, err := tx.List(prefixViews)
	if err != nil {
		return nil, err
	}
	for _, kv := range kvs {
		key := strings.TrimPrefix(kv.Key, prefixViews)
		home, _, _ := strings.Cut(key, "/")
		f := byUID[key]
		if f == nil && lent[home] == 0 {
			continue
		}
		var v wire.NetworkView
		if err := json.Unmarshal(kv.Value, &v); err != nil {
			return nil, fmt.Errorf("read %s: %w", kv.Key, err)
		}
		if f == nil {
			if c.o.Plan.CheckNetwork("", v.Prefix, cloud.Party{Peer: home}) != nil {
				continue // the plan has changed since the view was taken
			}
			f = &foreignNetwork{home: home}
			byUID[key] = f
		}
		f.view, f.flood, f.gateways, f.since = v, elsewhere(v, c.o.Site), lent[home] > 0, kv.Created
	}
	own := slices.Collect(maps.Values(vteps))
	for _, f := range byUID {
		f.correct(own)
	}
	return slices.Collect(maps.Values(byUID)), nil
}

// viewOfOrder is a network as a claim has it.
func viewOfOrder(n wire.NetworkOrder) wire.NetworkView {
	return wire.NetworkView{UID: n.UID, Name: n.Name, VNI: n.VNI, Prefix: n.Prefix, IPv4: n.IPv4, MTU: n.MTU, Endpoints: n.Endpoints}
}

// elsewhere gives the tunnel end points of the members at other sites.
func elsewhere(v wire.NetworkView, site string) (out []netip.Addr) {
	for _, m := range v.Members {
		if a, err := netip.ParseAddr(m.VTEP); err == nil && m.Site != site && !slices.Contains(out, a) {
			out = append(out, a)
		}
	}
	return out
}

// correct holds what a home says of our own hosts against what is so: a guest is where we have it, and no VM is on a host of
// ours that has no such guest.
func (f *foreignNetwork) correct(own []netip.Addr) {
	f.flood = slices.DeleteFunc(slices.Clone(f.flood), func(a netip.Addr) bool { return slices.Contains(own, a) })
	f.view.Endpoints = slices.Clone(f.view.Endpoints)
	for i, e := range f.view.Endpoints {
		if at := f.guests[e.VM]; !e.VTEP.IsValid() || slices.Contains(own, e.VTEP) {
			f.view.Endpoints[i].VTEP = at
		}
	}
}

// orderFor is the network as one of our hosts is to carry it; ok tells whether it is to.
func (f foreignNetwork) orderFor(h *api.Host, hosts []*api.Host) (n wire.NetworkOrder, ok bool) {
	role := floodRole(h)
	if !f.carriedBy(h) {
		return n, false
	}
	n = wire.NetworkOrder{UID: f.view.UID, Name: f.view.Name, Home: f.home, VNI: f.view.VNI, Prefix: f.view.Prefix, IPv4: f.view.IPv4, MTU: f.view.MTU, Endpoints: f.view.Endpoints}
	for _, m := range f.view.Members {
		if a, err := netip.ParseAddr(m.VTEP); err == nil && slices.Contains(f.flood, a) && !(role == api.RoleGateway && m.Role == api.RoleGateway) {
			n.Flood = append(n.Flood, a)
		}
	}
	if len(f.view.Members) == 0 {
		n.Flood = slices.Clone(f.flood)
	}
	for _, o := range hosts {
		if o.Name == h.Name || !f.carriedBy(o) || role == api.RoleGateway && floodRole(o) == api.RoleGateway {
			continue
		}
		if a, err := netip.ParseAddr(o.Status.VTEP); err == nil && !slices.Contains(n.Flood, a) {
			n.Flood = append(n.Flood, a)
		}
	}
	return n, true
}

func (f foreignNetwork) carriedBy(h *api.Host) bool {
	return f.hosts[h.Name] || f.gateways && hasRole(h, api.RoleGateway)
}

// addressesLent is how many service addresses each peer has on loan here.
func (c *Controller) addressesLent(tx store.Tx) (map[string]int, error) {
	loans, err := c.loansFromUs(tx)
	if err != nil {
		return nil, err
	}
	out := map[string]int{}
	for _, l := range loans {
		if l.Status.State != api.LoanEnded {
			out[l.Spec.Borrower] += l.Spec.Amount.Addresses
		}
	}
	return out, nil
}

// mappingJudge holds the service addresses that peers ask for against what they may have here.
type mappingJudge struct {
	plan   cloud.Plan
	left   map[string]int        // addresses that each peer still has on loan
	taken  map[netip.Addr]string // who has an address: this site, or another peer
	single map[string]netip.Addr // HOME FAMILY TARGET -> the one service address of that family
}

func (c *Controller) newMappingJudge(tx store.Tx, lent map[string]int) (*mappingJudge, error) {
	own, err := list[api.Address](tx)
	if err != nil {
		return nil, err
	}
	j := &mappingJudge{plan: c.o.Plan, left: maps.Clone(lent), taken: map[netip.Addr]string{}, single: map[string]netip.Addr{}}
	for _, a := range own {
		if addr, err := netip.ParseAddr(a.Spec.Address); err == nil {
			j.taken[addr] = c.o.Site
		}
	}
	return j, nil
}

// judge gives the mappings of a network that its home may have, and why it may not have the others.
func (j *mappingJudge) judge(home, field string, v wire.NetworkView) (good []wire.Mapping, refused []wire.Refusal) {
	for i, m := range v.Mappings {
		at := fmt.Sprintf("%s.mappings[%d]", field, i)
		if err := j.one(home, at, v, m); err != nil {
			refused = append(refused, refusal(v, m.Service, at, err))
			continue
		}
		j.left[home]--
		j.taken[m.Service] = home
		j.single[singleKey(home, m)] = m.Service
		good = append(good, m)
	}
	return good, refused
}

func singleKey(home string, m wire.Mapping) string {
	return fmt.Sprintf("%s %d %s", home, m.Service.BitLen(), m.Target)
}

func (j *mappingJudge) one(home, at string, v wire.NetworkView, m wire.Mapping) error {
	if err := cloud.CheckService(at+".service", m.Service); err != nil {
		return err
	}
	if !v.Prefix.Contains(m.Target) || m.Target.Zone() != "" {
		return api.Invalidf(at+".target", "%s is not in %s", m.Target, v.Prefix)
	}
	if err := j.plan.CheckAddress(at+".service", m.Service, cloud.Party{Peer: home}); err != nil {
		return err
	}
	if who, ok := j.taken[m.Service]; ok {
		return &api.Error{Code: api.CodeExists, Field: at + ".service", Message: fmt.Sprintf("%s is in use by %s", m.Service, who)}
	}
	if other, ok := j.single[singleKey(home, m)]; ok {
		return &api.Error{Code: api.CodeConflict, Field: at + ".target", Message: fmt.Sprintf("%s has the service address %s already; a VM has one of each family", m.Target, other)}
	}
	if j.left[home] < 1 {
		return &api.Error{Code: api.CodeRefused, Field: at, Message: fmt.Sprintf("no service address is left of the loans to %s", home)}
	}
	return nil
}
