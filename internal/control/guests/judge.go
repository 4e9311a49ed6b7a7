package guests

import (
	"fmt"
	"slices"
	"strings"

	"widecloud/api"
	"widecloud/internal/cloud"
	"widecloud/internal/control/objects"
	"widecloud/internal/control/rooms"
	"widecloud/internal/state"
	"widecloud/internal/wire"
)

// judgeClaim looks at a peer's claim. That there is room is not its question.
func (gs *Guests) judgeClaim(tx *state.Tx, call wire.ClaimCall) error {
	o, home := call.Order, call.Order.Home
	forbidden := func(field, format string, args ...any) error {
		return &api.Error{Code: api.CodeForbidden, Field: field, Message: fmt.Sprintf(format, args...)}
	}
	if err := o.Check("order"); err != nil {
		return err
	}
	if err := cloud.CheckKeys("order.seed.ssh_keys", o.Seed.SSHKeys); err != nil {
		return err
	}
	switch {
	case call.Job == "" || len(call.Job) > 80 || strings.ContainsAny(call.Job, "/@ ") || cloud.Line(call.Job, 80) != call.Job:
		return api.Invalidf("job", "%.80q is not a job's name", call.Job)
	case o.Run != wire.RunOn && (call.Start || o.Run != wire.RunOff && o.Run != wire.RunHibernated):
		return api.Invalidf("order.run", "%q is asked for with room; a new VM is to be on, and one that moves on, off or hibernated", o.Run)
	case call.Network.UID != o.NIC.Network:
		return api.Invalidf("network.uid", "is %q, and the VM's is %q", call.Network.UID, o.NIC.Network)
	case call.Network.Home != home:
		return forbidden("network.home", "is %s, and %s asks", call.Network.Home, home)
	case call.Owner != "" && cloud.ValidateName("", call.Owner) != nil:
		return api.Invalidf("owner", "%.80q is not an owner's name", call.Owner)
	}
	if err := call.Network.Check("network"); err != nil {
		return err
	}
	if err := honest(holds(o, o.Run, api.PhaseHibernated), call.Needs, call.Image); err != nil {
		return err
	}
	if objects.VMOf(tx, o.VM) != nil {
		return forbidden("order.vm", "VM %s is not %s's", o.VM, home)
	}
	for _, prefix := range []string{objects.PrefixOrders, objects.PrefixClaims} {
		all, err := objects.ListRecords[wire.Claim](tx, prefix)
		if err != nil {
			return err
		}
		for _, g := range all {
			if g.VM == o.VM && g.Home != home {
				return forbidden("order.vm", "VM %s is not %s's", o.VM, home)
			}
			if g.Job == call.Job && (g.Home != home || g.VM != o.VM) {
				return forbidden("job", "job %s is another one's", call.Job)
			}
			if g.Home == home && g.VM != o.VM && g.Order.Name == o.Name {
				return forbidden("order.name", "another VM %s of %s is here", o.Name, home)
			}
		}
	}
	return nil
}

// honest holds what a borrower wants to run against what it says that this needs: the loan counts the needs. An image of its
// own counts with the disk over it.
func honest(o wire.VMOrder, n api.Resources, image int64) error {
	switch {
	case n.CPUs < o.CPUs:
		return api.Invalidf("needs.cpus", "is %d, and the VM has %d", n.CPUs, o.CPUs)
	case n.MemoryMiB < o.MemoryMiB:
		return api.Invalidf("needs.memory_mib", "is %d, and the VM has %d", n.MemoryMiB, o.MemoryMiB)
	case image < 0 || image > maxImage:
		return api.Invalidf("image_bytes", "%d is not between 0 and %d", image, int64(maxImage))
	case n.DiskGiB < rooms.LentDisk(disksMiB(o), image):
		return api.Invalidf("needs.disk_gib", "is %d, and the VM's disks have %d MiB over an image of %d bytes: %d are needed", n.DiskGiB, disksMiB(o), image, rooms.LentDisk(disksMiB(o), image))
	case n.Addresses != 0:
		return api.Invalidf("needs.addresses", "is %d: a VM's room has none", n.Addresses)
	case slices.ContainsFunc(o.Disks, func(k wire.DiskOrder) bool { return k.Volume != "" }):
		return api.Invalidf("order.disks", "names a volume: those that are kept here are this site's")
	}
	return nil
}

// disksMiB is what the disks of an order take when they are full. One that is to go takes its room until it is gone.
func disksMiB(o wire.VMOrder) int64 {
	sum := o.DiskMiB
	for _, k := range o.Disks {
		sum += k.SizeMiB
	}
	return sum
}

// maxImage bounds the size of an image's file, in bytes, so that sums do not overflow.
const maxImage = 1 << 50
