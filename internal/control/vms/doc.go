// Package vms is the life of this site's VMs: they are created, placed here or at a lender, started and stopped, migrated, and deleted.
// Wherever a VM is, its home decides. An End is what that needs of a site: this one's is package guests, a peer's is a remote one.
//
// Invariants:
//   - the store's write comes before the deed;
//   - past its decision a migration is only repeated, whatever fails; the target's proven "not found" alone leads back;
//   - a lender that was asked to take a VM in is asked again, and no other one, until its answer is known;
//   - what a lender answers is believed only if it can be true.
package vms

import (
	"widecloud/api"
	"widecloud/internal/control/accounts"
	"widecloud/internal/control/guests"
	"widecloud/internal/control/hosts"
	"widecloud/internal/control/jobs"
	"widecloud/internal/control/networks"
	"widecloud/internal/control/objects"
	"widecloud/internal/control/orders"
	"widecloud/internal/control/rooms"
	"widecloud/internal/control/volumes"
	"widecloud/internal/state"
)

// VMs is the life of a site's VMs.
type VMs struct {
	*objects.Site
	rooms      *rooms.Rooms
	networks   *networks.Networks
	orders     *orders.Orders
	guests     *guests.Guests
	accounts   *accounts.Accounts
	volumes    *volumes.Volumes
	migrations *jobs.Of[objects.Migration]
	deletions  *jobs.Of[deletion]
	sizes      objects.Told // what lenders were asked to make of guests, by VM
}

// Parts are what VMs live on.
type Parts struct {
	Rooms    *rooms.Rooms
	Networks *networks.Networks
	Orders   *orders.Orders
	Hosts    *hosts.Hosts
	Guests   *guests.Guests
	Accounts *accounts.Accounts
	Volumes  *volumes.Volumes
	Jobs     *jobs.Jobs
}

// New begins the life of a site's VMs.
func New(site *objects.Site, p Parts) *VMs {
	vs := &VMs{Site: site, rooms: p.Rooms, networks: p.Networks, orders: p.Orders, guests: p.Guests, accounts: p.Accounts, volumes: p.Volumes}
	vs.migrations, vs.deletions = newMigrations(vs, p.Jobs), newDeletions(vs, p.Jobs)
	p.Jobs.Add(vs.migrations)
	p.Jobs.Add(vs.deletions)
	p.Hosts.Observe(vs.seeVMs)
	p.Hosts.OnLost(vs.unknown)
	p.Volumes.GrowDisk = vs.growVolume
	objects.Register(site, vs.vmLife())
	return vs
}

// Tables are those of VMs, and of the jobs that move and delete VMs.
func Tables() state.Schema {
	return state.Schema{
		objects.NounTable(
			objects.Index("host", func(v *api.VM) string { return objects.Placed(v.Status.Site, v.Status.Host) }),
			objects.Index("site", func(v *api.VM) string { return v.Status.Site }),
			objects.Index("loan", func(v *api.VM) string { return v.Status.Loan }),
			objects.Index("uid", func(v *api.VM) string { return v.UID }),
			objects.Index("owner", func(v *api.VM) string { return v.Owner }),
			objects.Index("image", func(v *api.VM) string { return v.Spec.Image }),
			objects.Index("network", func(v *api.VM) string { return v.Spec.Network }),
			objects.Index("todo", vmTodo),
		),
		objects.RecordTable(objects.PrefixMigrations,
			objects.Index("target", func(m *objects.Migration) string { return m.Target.Loan }),
			objects.Index("network", func(m *objects.Migration) string { return m.Call.Order.NIC.Network })),
		objects.RecordTable(prefixDeletions, objects.Index("uid", func(d *deletion) string { return d.UID })),
		objects.RecordTable[objects.Debris](objects.PrefixDebris),
	}
}
