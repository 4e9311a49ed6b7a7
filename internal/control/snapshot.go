package control

import (
	"cmp"
	"errors"
	"fmt"

	"widecloud/api"
	"widecloud/internal/lend"
	"widecloud/internal/netplan"
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

// needsAt is what a VM takes at a site: at a lender its image counts with it, since it is there for this VM.
func (c *Controller) needsAt(tx store.Tx, v *api.VM, site string) (api.Resources, error) {
	needs, err := c.needs(tx, v)
	if err != nil || site == c.o.Site {
		return needs, err
	}
	return c.lentNeeds(tx, v, needs)
}

func (c *Controller) lentNeeds(tx store.Tx, v *api.VM, needs api.Resources) (api.Resources, error) {
	img, err := get[api.Image](tx, v.Spec.Image)
	if errors.Is(err, &api.Error{Code: api.CodeNotFound}) {
		return needs, nil
	}
	if err == nil {
		needs.DiskGiB = max(needs.DiskGiB, lentDisk(diskMiB(v, img), img.Status.Bytes))
	}
	return needs, err
}

// diskMiB is the size of a VM's volume.
func diskMiB(v *api.VM, img *api.Image) int64 {
	return max(int64(v.Spec.DiskGiB)*1024, img.Status.VirtualMiB)
}

// shortOnHost says what a host has too little of when something on it takes more.
func (c *Controller) shortOnHost(tx store.Tx, host string, before, after api.Resources) ([]api.Reason, error) {
	h, err := get[api.Host](tx, host)
	if err != nil {
		return nil, err
	}
	allotted, err := c.allotted(tx, "")
	if err != nil {
		return nil, err
	}
	before.Addresses, after.Addresses = 0, 0
	reasons := lend.Fits("host "+host, lend.Sub(h.Status.Capacity, lend.Sub(allotted[host], before)), after)
	for i := range reasons {
		reasons[i].Site, reasons[i].Host = c.o.Site, host
		reasons[i].Advice = "stop or move another VM of this host"
	}
	return reasons, nil
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
			Name: h.Name, Roles: roles(h), Connected: h.Status.Connected, Cordoned: h.Spec.Cordoned || h.Deleting,
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
			needs, err := c.needsAt(tx, v, v.Status.Site)
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
	lent, err := c.lentNeeds(tx, v, needs)
	if err != nil {
		return place.Request{}, err
	}
	r := place.Request{Needs: needs, Lent: lent, CPUModel: cpuModel(v), Sites: v.Spec.Sites}
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
func (c *Controller) claimFor(tx store.Tx, v *api.VM, job, site string) (wire.ClaimCall, error) {
	order, err := c.orderOf(tx, v)
	if err != nil {
		return wire.ClaimCall{}, err
	}
	needs, err := c.needsAt(tx, v, site)
	if err != nil {
		return wire.ClaimCall{}, err
	}
	img, err := get[api.Image](tx, v.Spec.Image)
	if err != nil {
		return wire.ClaimCall{}, err
	}
	n, err := get[api.Network](tx, v.Spec.Network)
	if err != nil {
		return wire.ClaimCall{}, err
	}
	np, err := c.ownNetwork(tx, n)
	if err != nil {
		return wire.ClaimCall{}, err
	}
	return wire.ClaimCall{
		Job: job, Owner: v.Owner, Needs: needs, Image: img.Status.Bytes, Running: v.Status.CPU, Order: order,
		Network: np.Order(netplan.Host{Hypervisor: true}),
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
		Image: img.Status.Digest, DiskMiB: diskMiB(v, img),
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
