package orders

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"slices"

	"widecloud/api"
	"widecloud/internal/control/objects"
	"widecloud/internal/control/rooms"
	"widecloud/internal/netplan"
	"widecloud/internal/state"
	"widecloud/internal/wire"
)

// MayFetch tells whether an agent may have an image: something that it was ordered to run is made from it.
func (ord *Orders) MayFetch(ctx context.Context, host, digest string) error {
	return ord.Read(ctx, func(tx *state.Tx) error {
		orders, err := ord.on(tx, host)
		if err != nil {
			return err
		}
		named := slices.ContainsFunc(orders, func(o wire.VMOrder) bool { return o.Image == digest })
		for _, g := range objects.Records[wire.Claim](tx, objects.PrefixClaims, "host", host) {
			named = named || g.Order.Image == digest
		}
		if !named {
			return api.Errorf(api.CodeForbidden, "nothing that host %s was ordered to run is made from %.80s", host, digest)
		}
		return nil
	})
}

// on are the orders for our own VMs that are on a host, and for guests.
func (ord *Orders) on(tx *state.Tx, host string) (out []wire.VMOrder, err error) {
	for v := range objects.By[api.VM](tx, "host", objects.Placed(ord.Name, host)) {
		if v.Status.Epoch == 0 {
			continue
		}
		o, err := ord.Of(tx, v)
		if err != nil {
			return nil, err
		}
		out = append(out, o)
	}
	for _, g := range objects.Records[wire.Claim](tx, objects.PrefixOrders, "host", host) {
		out = append(out, g.Order)
	}
	return out, nil
}

// NetworkFor is a network of ours as the target of a migration is to carry it, before it is told by a view.
func (ord *Orders) NetworkFor(ctx context.Context, uid, vtep string) (out wire.NetworkOrder, err error) {
	target := netplan.Host{Hypervisor: true}
	target.VTEP, _ = netip.ParseAddr(vtep) // none: nothing is left out of the flood list
	err = ord.Read(ctx, func(tx *state.Tx) error {
		p, err := ord.networks.SitePlan(tx)
		if err != nil {
			return err
		}
		n, err := p.OwnNetwork(tx, ord.Name, uid)
		out = n.Order(target)
		return err
	})
	return out, err
}

// Claim is what a VM asks a site for: one without a place as its spec says, another one as it runs now, or did when its memory was saved,
// or as it is stopped.
func (ord *Orders) Claim(tx *state.Tx, v *api.VM, job, site string) (wire.ClaimCall, error) {
	made := ord.Of
	switch {
	case v.Status.Host != "" && (v.Spec.Power == api.PowerOn || rooms.Asleep(v)):
		made = ord.live
	case v.Status.Host != "":
		made = ord.stopped
	}
	order, err := made(tx, v)
	if err != nil {
		return wire.ClaimCall{}, err
	}
	for i := range order.Disks { // a volume that moves with its VM is a new disk there until it has come
		order.Disks[i].Volume, order.Disks[i].Epoch, order.Disks[i].New = "", 0, false
	}
	needs, err := ord.rooms.NeedsAt(tx, v, site)
	if err != nil {
		return wire.ClaimCall{}, err
	}
	img, err := objects.Find[api.Image](tx, v.Spec.Image)
	if err != nil {
		return wire.ClaimCall{}, err
	}
	n, err := objects.Find[api.Network](tx, v.Spec.Network)
	if err != nil {
		return wire.ClaimCall{}, err
	}
	np, err := ord.networks.OwnNetwork(tx, n)
	if err != nil {
		return wire.ClaimCall{}, err
	}
	running := v.Status.CPU
	if v.Spec.Power != api.PowerOn && !rooms.Asleep(v) {
		running = api.CPU{Arch: running.Arch}
	}
	return wire.ClaimCall{
		Job: job, Owner: v.Owner, Needs: needs, Image: img.Status.Bytes, Running: running, Order: order,
		Network: np.Order(netplan.Host{Hypervisor: true}),
	}, nil
}

// stopped is the order of a VM that moves as a stopped one: it takes along what it has when it starts next.
func (ord *Orders) stopped(tx *state.Tx, v *api.VM) (wire.VMOrder, error) {
	o, err := ord.Of(tx, v)
	o.Disks = slices.DeleteFunc(o.Disks, func(k wire.DiskOrder) bool { return k.Gone })
	return o, err
}

// live is the order of a VM as its copy that runs is made, whatever of its spec is still pending: the other end of a migration
// makes the same machine.
func (ord *Orders) live(tx *state.Tx, v *api.VM) (wire.VMOrder, error) {
	o, err := ord.Of(tx, v)
	had := v.Status.Machine
	o.CPUs, o.MemoryMiB, o.DiskMiB = cmp.Or(had.CPUs, o.CPUs), cmp.Or(had.MemoryMiB, o.MemoryMiB), cmp.Or(had.DiskMiB, o.DiskMiB)
	o.Disks = nil
	for _, k := range v.Status.Disks {
		if k.Plugged {
			o.Disks = append(o.Disks, wire.DiskOrder{Name: k.Name, Slot: k.Slot, SizeMiB: k.SizeMiB})
		}
	}
	return o, err
}

// ofVolume says in a disk's order which volume it is. At a lender it is a disk like others, which lives and ends with its guest: a
// volume is detached at its home, and a lender need not know what it is.
func (ord *Orders) ofVolume(tx *state.Tx, v *api.VM, k api.VMDisk, d *wire.DiskOrder) error {
	if k.Volume == "" || v.Status.Site != ord.Name {
		return nil
	}
	vol, err := objects.Find[api.Volume](tx, k.Volume)
	if err != nil {
		return fmt.Errorf("disk %s of VM %s: %w", k.Name, v.Name, err)
	}
	d.Volume, d.Epoch, d.New = vol.UID, vol.Status.Epoch, vol.Status.SizeMiB == 0
	return nil
}

// volumeOrder is a volume that no VM has, as the agent of its host is told of it.
func volumeOrder(v *api.Volume) wire.VolumeOrder {
	return wire.VolumeOrder{
		Volume: v.UID, Name: v.Name, Epoch: v.Status.Epoch, SizeMiB: int64(v.Spec.SizeGiB) * 1024, New: v.Status.SizeMiB == 0, Gone: v.Deleting,
	}
}

// Of is a VM of ours as an agent is told of it.
func (ord *Orders) Of(tx *state.Tx, v *api.VM) (wire.VMOrder, error) {
	img, err := objects.Find[api.Image](tx, v.Spec.Image)
	if err != nil {
		return wire.VMOrder{}, fmt.Errorf("image of VM %s: %w", v.Name, err)
	}
	n, err := objects.Find[api.Network](tx, v.Spec.Network)
	if err != nil {
		return wire.VMOrder{}, fmt.Errorf("network of VM %s: %w", v.Name, err)
	}
	o := wire.VMOrder{
		VM: v.UID, Name: v.Name, Home: ord.Name, Epoch: v.Status.Epoch, Run: wire.RunOn, Serial: v.Status.PowerChanges,
		Hardware: v.Spec.Hardware, Image: img.Status.Digest, DiskMiB: rooms.DiskMiB(v, img),
		NIC:  wire.NICOrder{Network: n.UID, MAC: v.Status.MAC, MTU: n.Spec.MTU},
		Seed: wire.SeedOrder{Hostname: api.HostnameOf(v), UserData: v.Spec.UserData, SSHKeys: v.Spec.SSHKeys, Prefix: n.Spec.Prefix},
	}
	for _, k := range v.Status.Disks {
		d := wire.DiskOrder{Name: k.Name, Slot: k.Slot, SizeMiB: max(1, k.SizeMiB), Gone: true}
		if i := slices.IndexFunc(v.Spec.Disks, func(s api.Disk) bool { return s.Name == k.Name }); i >= 0 {
			d.SizeMiB, d.Gone = int64(v.Spec.Disks[i].SizeGiB)*1024, false
		}
		if err := ord.ofVolume(tx, v, k, &d); err != nil {
			return wire.VMOrder{}, err
		}
		o.Disks = append(o.Disks, d)
	}
	o.CPUModel = rooms.CPUModel(v)
	if o.Profile = api.ProfileOf(v); o.Profile == 1 {
		o.Profile = 0 // as releases that know no other say it
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
	case v.Spec.Power == api.PowerOff, objects.KeepsStopped(tx, v.Status.Job):
		o.Run = wire.RunOff // a start that is wished for meanwhile waits for the end of the job
	case v.Spec.Power == api.PowerOffHard:
		o.Run = wire.RunHard
	case v.Spec.Power == api.PowerSuspended:
		o.Run = wire.RunSuspended
	case v.Spec.Power == api.PowerHibernated:
		o.Run = wire.RunHibernated
	}
	return o, nil
}
