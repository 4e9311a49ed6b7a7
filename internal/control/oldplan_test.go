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
	"widecloud/internal/netplan"
	"widecloud/internal/store"
	"widecloud/internal/wire"
)

// old is how the controller planned its networks before netplan: what netplan's plans are compared with.
type old struct{ *Controller }

// book is what the views of our networks are made of, read once for all of them.
type book struct {
	vms       []*api.VM
	moving    map[string]migration
	gateways  []api.NetworkMember
	addresses []*api.Address
}

func (c old) openBook(tx store.Tx) (b book, err error) {
	if b.vms, err = list[api.VM](tx); err != nil {
		return b, err
	}
	if b.moving, err = listJSON[migration](tx, prefixMigrations); err != nil {
		return b, err
	}
	if b.gateways, err = c.gateways(tx); err != nil {
		return b, err
	}
	b.addresses, err = list[api.Address](tx)
	return b, err
}

// ownViews are the views of all our networks.
func (c old) ownViews(tx store.Tx) ([]wire.NetworkView, error) {
	own, err := list[api.Network](tx)
	if err != nil {
		return nil, err
	}
	b, err := c.openBook(tx)
	if err != nil {
		return nil, err
	}
	out := make([]wire.NetworkView, 0, len(own))
	for _, n := range own {
		v, err := b.view(n)
		if err != nil {
			return nil, err
		}
		out = append(out, v)
	}
	return out, nil
}

func (b book) view(n *api.Network) (wire.NetworkView, error) {
	out := wire.NetworkView{Spec: netplan.Spec{UID: n.UID, Name: n.Name, VNI: n.Spec.VNI, MTU: n.Spec.MTU}, Members: []api.NetworkMember{}, Endpoints: []wire.EndpointOrder{}}
	var err error
	if out.Prefix, err = netip.ParsePrefix(n.Spec.Prefix); err != nil {
		return out, fmt.Errorf("network %s: %w", n.Name, err)
	}
	if n.Spec.IPv4 != "" {
		if out.IPv4, err = netip.ParsePrefix(n.Spec.IPv4); err != nil {
			return out, fmt.Errorf("network %s: %w", n.Name, err)
		}
	}
	members := map[api.NetworkMember]bool{}
	ours := map[string]*api.VM{}
	for _, v := range b.vms {
		if v.Spec.Network != n.Name {
			continue
		}
		ours[v.Name] = v
		vtep, err := netip.ParseAddr(v.Status.VTEP)
		if err != nil {
			continue // not placed
		}
		members[api.NetworkMember{Site: v.Status.Site, Host: v.Status.Host, VTEP: v.Status.VTEP, Role: api.RoleHypervisor}] = true
		e := wire.EndpointOrder{VM: v.UID, Hostname: v.Name, MAC: v.Status.MAC, VTEP: vtep}
		for _, a := range v.Status.Addresses {
			addr, err := netip.ParseAddr(a.Address)
			switch {
			case err != nil:
			case a.Origin == "slaac":
				e.IPv6 = addr
			case a.Origin == "dhcp":
				e.IPv4 = addr
			}
		}
		out.Endpoints = append(out.Endpoints, e)
	}
	// Both ends of a migration carry the network while it lasts, so that what the VM's arrival announces is heard.
	for _, m := range b.moving {
		if ours[m.VM] == nil {
			continue
		}
		for _, at := range []location{m.Source, m.Target} {
			if at.VTEP != "" {
				members[api.NetworkMember{Site: at.Site, Host: at.Host, VTEP: at.VTEP, Role: api.RoleHypervisor}] = true
			}
		}
	}
	for _, g := range b.gateways {
		members[g] = true
	}
	for m := range members {
		out.Members = append(out.Members, m)
	}
	slices.SortFunc(out.Members, func(a, b api.NetworkMember) int {
		return strings.Compare(a.Site+"/"+a.Host+string(a.Role), b.Site+"/"+b.Host+string(b.Role))
	})
	for _, a := range b.addresses {
		service, err1 := netip.ParseAddr(a.Spec.Address)
		v := ours[a.Spec.VM]
		if v == nil || err1 != nil || a.Deleting {
			continue
		}
		for _, va := range v.Status.Addresses {
			if t, err := netip.ParseAddr(va.Address); err == nil && va.Origin == "slaac" {
				out.Mappings = append(out.Mappings, wire.Mapping{Service: service, Target: t})
			}
		}
	}
	return out, nil
}

// networkOrder is a network as one host is to carry it: the others are its flood list. A gateway floods to hypervisors
// only: the gateways share one address and never speak to each other on a network.
func networkOrder(v wire.NetworkView, home, selfVTEP string, role api.HostRole) wire.NetworkOrder {
	o := wire.NetworkOrder{Home: home, Spec: netplan.Spec{UID: v.UID, Name: v.Name, VNI: v.VNI, Prefix: v.Prefix, IPv4: v.IPv4, MTU: v.MTU}, Endpoints: v.Endpoints}
	for _, m := range v.Members {
		if m.VTEP == selfVTEP || role == api.RoleGateway && m.Role == api.RoleGateway {
			continue
		}
		if a, err := netip.ParseAddr(m.VTEP); err == nil && !slices.Contains(o.Flood, a) {
			o.Flood = append(o.Flood, a)
		}
	}
	return o
}

// knownNetwork is a network that this site carries or may carry.
type knownNetwork struct {
	UID, Name, Home string
	VNI             uint32
	Prefix          netip.Prefix
	IPv4            netip.Prefix
}

// ownNetworks are the networks of this site.
func (c old) ownNetworks(tx store.Tx) ([]knownNetwork, error) {
	own, err := list[api.Network](tx)
	if err != nil {
		return nil, err
	}
	out := make([]knownNetwork, 0, len(own))
	for _, n := range own {
		k := knownNetwork{UID: n.UID, Name: n.Name, Home: c.o.Site, VNI: n.Spec.VNI}
		if k.Prefix, err = netip.ParsePrefix(n.Spec.Prefix); err != nil {
			return nil, fmt.Errorf("network %s: %w", n.Name, err)
		}
		if n.Spec.IPv4 != "" {
			if k.IPv4, err = netip.ParsePrefix(n.Spec.IPv4); err != nil {
				return nil, fmt.Errorf("network %s: %w", n.Name, err)
			}
		}
		out = append(out, k)
	}
	return out, nil
}

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
func (c old) foreignNetworks(tx store.Tx) ([]foreignNetwork, error) {
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
func (c old) foreignCandidates(tx store.Tx, lent map[string]int) ([]*foreignNetwork, error) {
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
	return wire.NetworkView{Spec: netplan.Spec{UID: n.UID, Name: n.Name, VNI: n.VNI, Prefix: n.Prefix, IPv4: n.IPv4, MTU: n.MTU}, Endpoints: n.Endpoints}
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
	n = wire.NetworkOrder{Home: f.home, Spec: netplan.Spec{UID: f.view.UID, Name: f.view.Name, VNI: f.view.VNI, Prefix: f.view.Prefix, IPv4: f.view.IPv4, MTU: f.view.MTU}, Endpoints: f.view.Endpoints}
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

// mappingJudge holds the service addresses that peers ask for against what they may have here.
type mappingJudge struct {
	plan   cloud.Plan
	left   map[string]int        // addresses that each peer still has on loan
	taken  map[netip.Addr]string // who has an address: this site, or another peer
	single map[string]netip.Addr // HOME FAMILY TARGET -> the one service address of that family
}

func (c old) newMappingJudge(tx store.Tx, lent map[string]int) (*mappingJudge, error) {
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
func (c old) hostStates(tx store.Tx) (map[string]wire.HostState, error) {
	hosts, err := list[api.Host](tx)
	if err != nil {
		return nil, err
	}
	orders, err := c.ordersByHost(tx)
	if err != nil {
		return nil, err
	}
	own, err := c.ownViews(tx)
	if err != nil {
		return nil, err
	}
	foreign, err := c.foreignNetworks(tx)
	if err != nil {
		return nil, err
	}
	moving, err := c.movingHere(tx)
	if err != nil {
		return nil, err
	}
	out := make(map[string]wire.HostState, len(hosts))
	for _, h := range hosts {
		s := wire.HostState{Revision: tx.Revision(), AnycastVTEP: c.o.AnycastVTEP, Pref64: c.o.Pref64, VMs: []wire.VMOrder{}, Networks: []wire.NetworkOrder{}}
		s.VMs = append(s.VMs, orders[h.Name]...)
		gateway := hasRole(h, api.RoleGateway)
		for _, v := range own {
			if gateway || moving[h.Name][v.UID] || slices.ContainsFunc(s.VMs, func(o wire.VMOrder) bool { return o.NIC.Network == v.UID }) {
				s.Networks = append(s.Networks, networkOrder(v, c.o.Site, h.Status.VTEP, floodRole(h)))
			}
			if gateway {
				s.Mappings = append(s.Mappings, v.Mappings...)
			}
		}
		for _, f := range foreign {
			if n, ok := f.orderFor(h, hosts); ok {
				s.Networks = append(s.Networks, n)
			}
			if gateway {
				s.Mappings = append(s.Mappings, f.mappings...)
			}
		}
		slices.SortFunc(s.VMs, func(a, b wire.VMOrder) int { return strings.Compare(a.VM, b.VM) })
		slices.SortFunc(s.Networks, func(a, b wire.NetworkOrder) int { return strings.Compare(a.UID, b.UID) })
		slices.SortFunc(s.Mappings, func(a, b wire.Mapping) int { return a.Service.Compare(b.Service) })
		out[h.Name] = s
	}
	return out, nil
}

// movingHere are the own networks of VMs for which a host keeps room, by host and UID: they are carried before the VM arrives.
func (c old) movingHere(tx store.Tx) (map[string]map[string]bool, error) {
	claims, err := listJSON[wire.Claim](tx, prefixClaims)
	out := map[string]map[string]bool{}
	for _, g := range claims {
		if g.Home != c.o.Site {
			continue
		}
		if out[g.Host] == nil {
			out[g.Host] = map[string]bool{}
		}
		out[g.Host][g.Order.NIC.Network] = true
	}
	return out, err
}

// floodRole is the role in which a host floods. One that is both floods as a hypervisor: the other gateways hear what arrives
// at it.
func floodRole(h *api.Host) api.HostRole {
	if hasRole(h, api.RoleGateway) && !hasRole(h, api.RoleHypervisor) {
		return api.RoleGateway
	}
	return api.RoleHypervisor
}

// viewsFor is what a peer must know of our networks: those whose VMs it runs or is about to run, and those that its
// gateways serve.
func (c old) viewsFor(tx store.Tx, peer string, own []wire.NetworkView) (wire.Views, error) {
	out := wire.Views{Networks: []wire.NetworkView{}}
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
	for _, v := range own {
		serves := slices.ContainsFunc(v.Members, func(m api.NetworkMember) bool { return m.Site == peer })
		if !serves {
			continue
		}
		if !slices.ContainsFunc(v.Members, func(m api.NetworkMember) bool { return m.Site == peer && m.Role == api.RoleGateway }) {
			v.Mappings = nil
		}
		// No more than the peer has lent: it would refuse them all, and the networks with them.
		v.Mappings = slices.Clone(v.Mappings)
		slices.SortFunc(v.Mappings, func(a, b wire.Mapping) int { return a.Service.Compare(b.Service) })
		v.Mappings = v.Mappings[:min(len(v.Mappings), lent)]
		lent -= len(v.Mappings)
		out.Networks = append(out.Networks, v)
	}
	return out, nil
}

// clash says what two networks cannot share; "" when they can live side by side.
func clash(n, k knownNetwork) (field, text string) {
	switch same := k.UID == n.UID; {
	case same && k.Home == n.Home && k.VNI == n.VNI && k.Prefix == n.Prefix:
		return "", ""
	case same:
		return "uid", fmt.Sprintf("network %s is %s's network %s (vni %d, %s)", n.UID, k.Home, k.Name, k.VNI, k.Prefix)
	case k.VNI == n.VNI:
		return "vni", fmt.Sprintf("VXLAN identifier %d is in use here by network %s of %s", n.VNI, k.Name, k.Home)
	case k.Prefix.Overlaps(n.Prefix):
		return "prefix", fmt.Sprintf("prefix %s overlaps %s of network %s of %s", n.Prefix, k.Prefix, k.Name, k.Home)
	}
	return "", ""
}
