package control

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"widecloud/api"
	"widecloud/internal/lend"
	"widecloud/internal/place"
	"widecloud/internal/store"
	"widecloud/internal/wire"
)

// allotted is what each host of this site has given away: its VMs, guests and claims. except names a job whose claim does
// not count.
func (c *Controller) allotted(tx store.Tx, except string) (map[string]api.Resources, error) {
	out := map[string]api.Resources{}
	vms, err := list[api.VM](tx)
	if err != nil {
		return nil, err
	}
	for _, v := range vms {
		if v.Status.Site == c.o.Site && v.Status.Host != "" {
			needs, err := c.needs(tx, v)
			if err != nil {
				return nil, err
			}
			out[v.Status.Host] = lend.Add(out[v.Status.Host], needs)
		}
	}
	guests, err := listJSON[wire.Claim](tx, prefixOrders)
	if err != nil {
		return nil, err
	}
	for _, g := range guests {
		out[g.Host] = lend.Add(out[g.Host], g.Needs)
	}
	claims, err := listJSON[wire.Claim](tx, prefixClaims)
	if err != nil {
		return nil, err
	}
	for job, g := range claims {
		if job != except {
			out[g.Host] = lend.Add(out[g.Host], g.Needs)
		}
	}
	return out, nil
}

// needs is what a VM takes.
func (c *Controller) needs(tx store.Tx, v *api.VM) (api.Resources, error) {
	disk := v.Spec.DiskGiB
	if img, err := get[api.Image](tx, v.Spec.Image); err == nil {
		disk = max(disk, int((img.Status.VirtualMiB+1023)/1024))
	} else if !errors.Is(err, &api.Error{Code: api.CodeNotFound}) {
		return api.Resources{}, err
	}
	return api.Resources{CPUs: v.Spec.CPUs, MemoryMiB: v.Spec.MemoryMiB, DiskGiB: disk}, nil
}

// siteSnapshot is this site as placement sees it.
func (c *Controller) siteSnapshot(tx store.Tx, exceptJob string) (place.Site, error) {
	s := place.Site{Name: c.o.Site, Self: true, Reached: true}
	allotted, err := c.allotted(tx, exceptJob)
	if err != nil {
		return s, err
	}
	hosts, err := list[api.Host](tx)
	if err != nil {
		return s, err
	}
	for _, h := range hosts {
		s.Hosts = append(s.Hosts, place.Host{
			Name: h.Name, Roles: h.Spec.Roles, Connected: h.Status.Connected, Cordoned: h.Spec.Cordoned || h.Deleting,
			Capacity: h.Status.Capacity, Allotted: allotted[h.Name], CPU: h.Status.CPU, Images: h.Status.Images,
		})
	}
	return s, nil
}

// snapshot is everything that placement sees: this site and what its peers lend it.
func (c *Controller) snapshot(tx store.Tx) (place.Snapshot, error) {
	self, err := c.siteSnapshot(tx, "")
	if err != nil {
		return place.Snapshot{}, err
	}
	out := place.Snapshot{Sites: []place.Site{self}}
	peers, err := list[api.Peer](tx)
	if err != nil {
		return out, err
	}
	loans, err := list[api.Loan](tx)
	if err != nil {
		return out, err
	}
	for _, p := range peers {
		_, err := c.o.Federation.Session(p.Name, false)
		s := place.Site{Name: p.Name, Reached: err == nil}
		for _, l := range loans {
			if l.Spec.Lender != p.Name || l.Spec.Borrower != c.o.Site {
				continue
			}
			used, err := c.borrowed(tx, l.Name)
			if err != nil {
				return out, err
			}
			s.Loans = append(s.Loans, place.Loan{Name: l.Name, State: l.Status.State, Amount: l.Spec.Amount, Used: used})
		}
		offers, err := c.offersOf(tx, p.Name)
		if err != nil {
			return out, err
		}
		for _, o := range offers {
			s.CPUs = append(s.CPUs, o.CPUs...)
		}
		out.Sites = append(out.Sites, s)
	}
	return out, nil
}

// borrowed is what our VMs and their migrations take of a loan to us.
func (c *Controller) borrowed(tx store.Tx, loan string) (api.Resources, error) {
	var sum api.Resources
	vms, err := list[api.VM](tx)
	if err != nil {
		return sum, err
	}
	for _, v := range vms {
		if v.Status.Loan == loan {
			needs, err := c.needs(tx, v)
			if err != nil {
				return sum, err
			}
			sum = lend.Add(sum, needs)
		}
	}
	moving, err := listJSON[migration](tx, prefixMigrations)
	if err != nil {
		return sum, err
	}
	for _, m := range moving {
		if m.Target.Loan == loan && m.Source.Loan != loan && !m.Step.Committed() {
			sum = lend.Add(sum, m.Call.Needs)
		}
	}
	return sum, nil
}

// loanUse is who uses a loan from us: the guests, and the claims of guests to come but for one job's.
func (c *Controller) loanUse(tx store.Tx, loan, exceptJob string) ([]api.Guest, error) {
	var out []api.Guest
	guests, err := listJSON[wire.Claim](tx, prefixOrders)
	if err != nil {
		return nil, err
	}
	claims, err := listJSON[wire.Claim](tx, prefixClaims)
	if err != nil {
		return nil, err
	}
	delete(claims, exceptJob)
	for _, m := range []map[string]wire.Claim{guests, claims} {
		for _, g := range m {
			if g.Loan == loan {
				out = append(out, api.Guest{Spec: api.GuestSpec{VM: g.Order.Name, VMUID: g.VM, Loan: g.Loan, Needs: g.Needs, Host: g.Host, Epoch: g.Order.Epoch}})
			}
		}
	}
	return out, nil
}

// request is a VM as placement sees it.
func (c *Controller) request(tx store.Tx, v *api.VM) (place.Request, error) {
	needs, err := c.needs(tx, v)
	if err != nil {
		return place.Request{}, err
	}
	r := place.Request{Needs: needs, CPUModel: cpuModel(v), Sites: v.Spec.Sites}
	if v.Status.Host != "" && v.Spec.Power == api.PowerOn {
		r.Arch, r.Accel = v.Status.CPU.Arch, v.Status.CPU.Accel
	}
	if img, err := get[api.Image](tx, v.Spec.Image); err == nil {
		r.Image = img.Status.Digest
	}
	return r, nil
}

// cpuModel is the guest CPU model of a VM: its user's choice, or the baseline of the host where it ran first, which it keeps.
func cpuModel(v *api.VM) string { return cmp.Or(v.Spec.CPUModel, v.Status.CPU.Model) }

// claimFor is what a VM asks a site for.
func (c *Controller) claimFor(tx store.Tx, v *api.VM, job string) (wire.ClaimCall, error) {
	order, err := c.orderOf(tx, v)
	if err != nil {
		return wire.ClaimCall{}, err
	}
	needs, err := c.needs(tx, v)
	if err != nil {
		return wire.ClaimCall{}, err
	}
	n, err := get[api.Network](tx, v.Spec.Network)
	if err != nil {
		return wire.ClaimCall{}, err
	}
	nv, err := c.viewOf(tx, n)
	if err != nil {
		return wire.ClaimCall{}, err
	}
	return wire.ClaimCall{
		Job: job, Owner: v.Owner, Needs: needs, Running: v.Status.CPU, Order: order,
		Network: networkOrder(nv, c.o.Site, "", api.RoleHypervisor),
	}, nil
}

// orderOf is a VM of ours as an agent is told of it.
func (c *Controller) orderOf(tx store.Tx, v *api.VM) (wire.VMOrder, error) {
	img, err := get[api.Image](tx, v.Spec.Image)
	if err != nil {
		return wire.VMOrder{}, fmt.Errorf("image of VM %s: %w", v.Name, err)
	}
	n, err := get[api.Network](tx, v.Spec.Network)
	if err != nil {
		return wire.VMOrder{}, fmt.Errorf("network of VM %s: %w", v.Name, err)
	}
	o := wire.VMOrder{
		VM: v.UID, Name: v.Name, Home: c.o.Site, Epoch: v.Status.Epoch, Run: wire.RunOn,
		CPUs: v.Spec.CPUs, MemoryMiB: v.Spec.MemoryMiB, CPUModel: cpuModel(v),
		Image: img.Status.Digest, DiskMiB: max(int64(v.Spec.DiskGiB)*1024, img.Status.VirtualMiB),
		NIC:  wire.NICOrder{Network: n.UID, MAC: v.Status.MAC, MTU: n.Spec.MTU},
		Seed: wire.SeedOrder{Hostname: v.Name, UserData: v.Spec.UserData, SSHKeys: v.Spec.SSHKeys, Prefix: n.Spec.Prefix},
	}
	for _, a := range v.Status.Addresses {
		switch a.Origin {
		case "slaac":
			o.NIC.IPv6 = a.Address
		case "dhcp":
			o.NIC.IPv4 = a.Address
		}
	}
	switch {
	case v.Deleting:
		o.Run = wire.RunGone
	case v.Spec.Power == api.PowerOff:
		o.Run = wire.RunOff
	case v.Spec.Power == api.PowerOffHard:
		o.Run = wire.RunHard
	}
	return o, nil
}

// book is what the views of our networks are made of, read once for all of them.
type book struct {
	vms       []*api.VM
	moving    map[string]migration
	gateways  []api.NetworkMember
	addresses []*api.Address
}

func (c *Controller) openBook(tx store.Tx) (b book, err error) {
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

// viewOf is a network of ours with everything that those who carry it must know.
func (c *Controller) viewOf(tx store.Tx, n *api.Network) (wire.NetworkView, error) {
	b, err := c.openBook(tx)
	if err != nil {
		return wire.NetworkView{}, err
	}
	return b.view(n)
}

// ownViews are the views of all our networks.
func (c *Controller) ownViews(tx store.Tx) ([]wire.NetworkView, error) {
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
	out := wire.NetworkView{UID: n.UID, Name: n.Name, VNI: n.Spec.VNI, MTU: n.Spec.MTU, Members: []api.NetworkMember{}, Endpoints: []wire.EndpointOrder{}}
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

// gateways are the hosts that let traffic in and out of our networks: our own, and those of peers that lend us addresses.
func (c *Controller) gateways(tx store.Tx) ([]api.NetworkMember, error) {
	out, err := c.ownGateways(tx)
	if err != nil {
		return nil, err
	}
	loans, err := list[api.Loan](tx)
	if err != nil {
		return nil, err
	}
	for _, l := range loans {
		if l.Spec.Borrower != c.o.Site || l.Spec.Amount.Addresses == 0 || l.Status.State == api.LoanEnded {
			continue
		}
		offers, err := c.offersOf(tx, l.Spec.Lender)
		if err != nil {
			return nil, err
		}
		for _, o := range offers {
			if o.Name == l.Spec.Offer {
				out = append(out, o.Gateways...)
			}
		}
	}
	return out, nil
}

func (c *Controller) ownGateways(tx store.Tx) (out []api.NetworkMember, err error) {
	hosts, err := list[api.Host](tx)
	for _, h := range hosts {
		if slices.Contains(h.Spec.Roles, api.RoleGateway) && h.Status.VTEP != "" {
			out = append(out, api.NetworkMember{Site: c.o.Site, Host: h.Name, VTEP: h.Status.VTEP, Role: api.RoleGateway})
		}
	}
	return out, err
}

// networkOrder is a network as one host is to carry it: the others are its flood list. A gateway floods to hypervisors
// only: the gateways share one address and never speak to each other on a network.
func networkOrder(v wire.NetworkView, home, selfVTEP string, role api.HostRole) wire.NetworkOrder {
	o := wire.NetworkOrder{UID: v.UID, Name: v.Name, Home: home, VNI: v.VNI, Prefix: v.Prefix, IPv4: v.IPv4, MTU: v.MTU, Endpoints: v.Endpoints}
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
}

// networksKnown lists our own networks and those of our peers' views and guests.
func (c *Controller) networksKnown(tx store.Tx) ([]knownNetwork, error) {
	var out []knownNetwork
	own, err := list[api.Network](tx)
	if err != nil {
		return nil, err
	}
	for _, n := range own {
		p, err := netip.ParsePrefix(n.Spec.Prefix)
		if err != nil {
			return nil, fmt.Errorf("network %s: %w", n.Name, err)
		}
		out = append(out, knownNetwork{n.UID, n.Name, c.o.Site, n.Spec.VNI, p})
	}
	views, err := listJSON[wire.NetworkView](tx, prefixViews)
	if err != nil {
		return nil, err
	}
	for key, v := range views {
		home, _, _ := strings.Cut(key, "/")
		out = append(out, knownNetwork{v.UID, v.Name, home, v.VNI, v.Prefix})
	}
	for _, prefix := range []string{prefixClaims, prefixOrders} { // of guests whose home has not sent its view yet
		all, err := listJSON[wire.Claim](tx, prefix)
		if err != nil {
			return nil, err
		}
		for _, g := range all {
			if n := g.Network; g.Home != c.o.Site {
				out = append(out, knownNetwork{n.UID, n.Name, g.Home, n.VNI, n.Prefix})
			}
		}
	}
	return out, nil
}

// networkFor is a network of ours as the target of a migration is to carry it, before it is told by a view.
func (c *Controller) networkFor(ctx context.Context, uid, selfVTEP string) (out wire.NetworkOrder, err error) {
	err = c.view(ctx, func(tx store.Tx) error {
		all, err := list[api.Network](tx)
		if err != nil {
			return err
		}
		for _, n := range all {
			if n.UID == uid {
				v, err := c.viewOf(tx, n)
				out = networkOrder(v, c.o.Site, selfVTEP, api.RoleHypervisor)
				return err
			}
		}
		return api.Errorf(api.CodeNotFound, "no network %s", uid)
	})
	return out, err
}

// hostState is everything that a host is to be now. The states of all hosts are made at once and kept until the store
// changes: every change has every host's state looked at.
func (c *Controller) hostState(ctx context.Context, host string) (s wire.HostState, err error) {
	err = c.view(ctx, func(tx store.Tx) error {
		c.stateMu.Lock()
		defer c.stateMu.Unlock()
		if c.states == nil || c.statesAt != tx.Revision() {
			states, err := c.hostStates(tx)
			if err != nil {
				return err
			}
			c.states, c.statesAt = states, tx.Revision()
		}
		var ok bool
		if s, ok = c.states[host]; !ok {
			return api.Errorf(api.CodeNotFound, "no host is called %q", host)
		}
		return nil
	})
	return s, err
}

func (c *Controller) hostStates(tx store.Tx) (map[string]wire.HostState, error) {
	hosts, err := list[api.Host](tx)
	if err != nil {
		return nil, err
	}
	orders := map[string][]wire.VMOrder{}
	carried, fallback := map[string]map[string]bool{}, map[string]map[string]wire.NetworkOrder{}
	for _, h := range hosts {
		carried[h.Name], fallback[h.Name] = map[string]bool{}, map[string]wire.NetworkOrder{}
	}
	vms, err := list[api.VM](tx)
	if err != nil {
		return nil, err
	}
	for _, v := range vms {
		if v.Status.Site != c.o.Site || carried[v.Status.Host] == nil || v.Status.Epoch == 0 {
			continue
		}
		o, err := c.orderOf(tx, v)
		if err != nil {
			return nil, err
		}
		orders[v.Status.Host] = append(orders[v.Status.Host], o)
		carried[v.Status.Host][o.NIC.Network] = true
	}
	for _, prefix := range []string{prefixOrders, prefixClaims} {
		guests, err := listJSON[wire.Claim](tx, prefix)
		if err != nil {
			return nil, err
		}
		for _, g := range guests {
			if carried[g.Host] == nil {
				continue
			}
			if prefix == prefixOrders {
				orders[g.Host] = append(orders[g.Host], g.Order)
			}
			carried[g.Host][g.Order.NIC.Network] = true
			fallback[g.Host][g.Network.UID] = g.Network
		}
	}
	own, err := c.ownViews(tx)
	if err != nil {
		return nil, err
	}
	views, err := listJSON[wire.NetworkView](tx, prefixViews)
	if err != nil {
		return nil, err
	}
	out := make(map[string]wire.HostState, len(hosts))
	for _, h := range hosts {
		s := wire.HostState{Revision: tx.Revision(), AnycastVTEP: c.o.AnycastVTEP, Pref64: c.o.Pref64, VMs: []wire.VMOrder{}, Networks: []wire.NetworkOrder{}}
		s.VMs = append(s.VMs, orders[h.Name]...)
		gateway := slices.Contains(h.Spec.Roles, api.RoleGateway)
		role := api.RoleHypervisor // a host that is both floods as a hypervisor: the other gateways hear what arrives at it
		if gateway && !slices.Contains(h.Spec.Roles, api.RoleHypervisor) {
			role = api.RoleGateway
		}
		add := func(v wire.NetworkView, home string) {
			delete(fallback[h.Name], v.UID)
			if carried[h.Name][v.UID] || gateway {
				s.Networks = append(s.Networks, networkOrder(v, home, h.Status.VTEP, role))
			}
			if gateway {
				s.Mappings = append(s.Mappings, v.Mappings...)
			}
		}
		for _, v := range own {
			add(v, c.o.Site)
		}
		for key, v := range views {
			home, _, _ := strings.Cut(key, "/")
			if gateway && !slices.ContainsFunc(v.Members, func(m api.NetworkMember) bool { return m.Site == c.o.Site && m.Host == h.Name }) {
				continue // its home borrows no addresses here
			}
			add(v, home)
		}
		for uid, n := range fallback[h.Name] {
			if carried[h.Name][uid] && !gateway {
				s.Networks = append(s.Networks, n) // of a guest whose home has not sent its view yet
			}
		}
		slices.SortFunc(s.VMs, func(a, b wire.VMOrder) int { return strings.Compare(a.VM, b.VM) })
		slices.SortFunc(s.Networks, func(a, b wire.NetworkOrder) int { return strings.Compare(a.UID, b.UID) })
		slices.SortFunc(s.Mappings, func(a, b wire.Mapping) int { return a.Service.Compare(b.Service) })
		out[h.Name] = s
	}
	return out, nil
}
