package control

import (
	"cmp"
	"errors"
	"fmt"

	"widecloud/api"
	"widecloud/internal/cloud"
	"widecloud/internal/lend"
	"widecloud/internal/netplan"
	"widecloud/internal/place"
	"widecloud/internal/state"
	"widecloud/internal/store"
	"widecloud/internal/wire"
)

// allotted is what a host of this site has given away: its VMs, guests and claims. except names a job whose claim does not count.
func (c *Controller) allotted(tx *state.Tx, host, except string) (api.Resources, error) {
	sum, err := c.rooms.Get(tx, host, func(tx *state.Tx) (sum api.Resources, err error) {
		for v := range by[api.VM](tx, "host", placed(c.o.Site, host)) {
			needs, err := c.needs(tx, v)
			if err != nil {
				return sum, err
			}
			sum = lend.Add(sum, needs)
		}
		for _, prefix := range []string{prefixOrders, prefixClaims} {
			for _, g := range records[wire.Claim](tx, prefix, "host", host) {
				sum = lend.Add(sum, g.Needs)
			}
		}
		return sum, nil
	})
	if err != nil || except == "" {
		return sum, err
	}
	g, err := getJSON[wire.Claim](tx, prefixClaims+except)
	if errors.Is(err, store.ErrNotFound) || err == nil && g.Host != host {
		return sum, nil
	}
	return lend.Sub(sum, g.Needs), err
}

// needs is what a VM takes.
func (c *Controller) needs(tx *state.Tx, v *api.VM) (api.Resources, error) {
	disk := v.Spec.DiskGiB
	if img, err := find[api.Image](tx, v.Spec.Image); err == nil {
		disk = max(disk, int((img.Status.VirtualMiB+1023)/1024))
	} else if !errors.Is(err, &api.Error{Code: api.CodeNotFound}) {
		return api.Resources{}, err
	}
	return api.Resources{CPUs: v.Spec.CPUs, MemoryMiB: v.Spec.MemoryMiB, DiskGiB: disk}, nil
}

// needsAt is what a VM takes at a site: at a lender its image counts with it, since it is there for this VM.
func (c *Controller) needsAt(tx *state.Tx, v *api.VM, site string) (api.Resources, error) {
	needs, err := c.needs(tx, v)
	if err != nil || site == c.o.Site {
		return needs, err
	}
	return c.lentNeeds(tx, v, needs)
}

func (c *Controller) lentNeeds(tx *state.Tx, v *api.VM, needs api.Resources) (api.Resources, error) {
	img, err := find[api.Image](tx, v.Spec.Image)
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
func (c *Controller) shortOnHost(tx *state.Tx, host string, before, after api.Resources) ([]api.Reason, error) {
	h, err := get[api.Host](tx, host)
	if err != nil {
		return nil, err
	}
	allotted, err := c.allotted(tx, host, "")
	if err != nil {
		return nil, err
	}
	before.Addresses, after.Addresses = 0, 0
	reasons := lend.Fits("host "+host, lend.Sub(h.Status.Capacity, lend.Sub(allotted, before)), after)
	for i := range reasons {
		reasons[i].Site, reasons[i].Host = c.o.Site, host
		reasons[i].Advice = "stop or move another VM of this host"
	}
	return reasons, nil
}

// siteSnapshot is this site as placement sees it.
func (c *Controller) siteSnapshot(tx *state.Tx, exceptJob string) (place.Site, error) {
	s := place.Site{Name: c.o.Site, Self: true, Reached: true}
	for h := range each[api.Host](tx) {
		allotted, err := c.allotted(tx, h.Name, exceptJob)
		if err != nil {
			return s, err
		}
		s.Hosts = append(s.Hosts, place.Host{
			Name: h.Name, Roles: roles(h), Connected: h.Status.Connected, Cordoned: h.Spec.Cordoned || h.Deleting,
			Capacity: h.Status.Capacity, Allotted: allotted, CPU: h.Status.CPU, Images: h.Status.Images,
		})
	}
	return s, nil
}

// snapshot is everything that placement sees: this site and what its peers lend it.
func (c *Controller) snapshot(tx *state.Tx) (place.Snapshot, error) {
	self, err := c.siteSnapshot(tx, "")
	if err != nil {
		return place.Snapshot{}, err
	}
	out := place.Snapshot{Sites: []place.Site{self}}
	for p := range each[api.Peer](tx) {
		_, err := c.o.Federation.Session(p.Name, false)
		s := place.Site{Name: p.Name, Reached: err == nil}
		for l := range by[api.Loan](tx, "lender", p.Name) {
			if l.Spec.Borrower != c.o.Site {
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
func (c *Controller) borrowed(tx *state.Tx, loan string) (api.Resources, error) {
	var sum api.Resources
	for v := range by[api.VM](tx, "loan", loan) {
		needs, err := c.needsAt(tx, v, v.Status.Site)
		if err != nil {
			return sum, err
		}
		sum = lend.Add(sum, needs)
	}
	for _, m := range records[migration](tx, prefixMigrations, "target", loan) {
		if m.Source.Loan != loan && !cloud.Migrate.Decided(m.Step) {
			sum = lend.Add(sum, m.Call.Needs)
		}
	}
	return sum, nil
}

// loanUse is who uses a loan from us: the guests, and the claims of guests to come but for one job's.
func (c *Controller) loanUse(tx *state.Tx, loan, exceptJob string) ([]api.Guest, error) {
	var out []api.Guest
	for _, prefix := range []string{prefixOrders, prefixClaims} {
		for key, g := range records[wire.Claim](tx, prefix, "loan", loan) {
			if key != prefixClaims+exceptJob {
				out = append(out, api.Guest{Spec: api.GuestSpec{VM: g.Order.Name, VMUID: g.VM, Loan: g.Loan, Needs: g.Needs, Host: g.Host, Epoch: g.Order.Epoch}})
			}
		}
	}
	return out, nil
}

// request is a VM as placement sees it.
func (c *Controller) request(tx *state.Tx, v *api.VM) (place.Request, error) {
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
	if img, err := find[api.Image](tx, v.Spec.Image); err == nil {
		r.Image = img.Status.Digest
	}
	return r, nil
}

// cpuModel is the guest CPU model of a VM: its user's choice, or the baseline of the host where it ran first, which it keeps.
func cpuModel(v *api.VM) string { return cmp.Or(v.Spec.CPUModel, v.Status.CPU.Model) }

// claimFor is what a VM asks a site for.
func (c *Controller) claimFor(tx *state.Tx, v *api.VM, job, site string) (wire.ClaimCall, error) {
	order, err := c.orderOf(tx, v)
	if err != nil {
		return wire.ClaimCall{}, err
	}
	needs, err := c.needsAt(tx, v, site)
	if err != nil {
		return wire.ClaimCall{}, err
	}
	img, err := find[api.Image](tx, v.Spec.Image)
	if err != nil {
		return wire.ClaimCall{}, err
	}
	n, err := find[api.Network](tx, v.Spec.Network)
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
func (c *Controller) orderOf(tx *state.Tx, v *api.VM) (wire.VMOrder, error) {
	img, err := find[api.Image](tx, v.Spec.Image)
	if err != nil {
		return wire.VMOrder{}, fmt.Errorf("image of VM %s: %w", v.Name, err)
	}
	n, err := find[api.Network](tx, v.Spec.Network)
	if err != nil {
		return wire.VMOrder{}, fmt.Errorf("network of VM %s: %w", v.Name, err)
	}
	o := wire.VMOrder{
		VM: v.UID, Name: v.Name, Home: c.o.Site, Epoch: v.Status.Epoch, Run: wire.RunOn,
		Hardware: v.Spec.Hardware, Image: img.Status.Digest, DiskMiB: diskMiB(v, img),
		NIC:  wire.NICOrder{Network: n.UID, MAC: v.Status.MAC, MTU: n.Spec.MTU},
		Seed: wire.SeedOrder{Hostname: v.Name, UserData: v.Spec.UserData, SSHKeys: v.Spec.SSHKeys, Prefix: n.Spec.Prefix},
	}
	o.CPUModel = cpuModel(v)
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
