package rooms

import (
	"errors"
	"slices"

	"widecloud/api"
	"widecloud/internal/control/objects"
	"widecloud/internal/lend"
	"widecloud/internal/state"
	"widecloud/internal/store"
	"widecloud/internal/wire"
)

// LentDisk is what a VM takes of a lender's disk, in GiB: its volume when it is full, and its image.
func LentDisk(diskMiB, imageBytes int64) int {
	return int((diskMiB<<20 + imageBytes + 1<<30 - 1) >> 30)
}

// Allotted is what a host of this site has given away: its VMs, guests, claims, and volumes that no VM has. except names a job whose claim does not count.
func (rs *Rooms) Allotted(tx *state.Tx, host, except string) (api.Resources, error) {
	sum, err := rs.given.Get(tx, host, func(tx *state.Tx) (sum api.Resources, err error) {
		for v := range objects.By[api.VM](tx, "host", objects.Placed(rs.Name, host)) {
			needs, err := rs.Needs(tx, v)
			if err != nil {
				return sum, err
			}
			sum = lend.Add(sum, needs)
		}
		for v := range objects.By[api.Volume](tx, "host", objects.Placed(rs.Name, host)) {
			sum = lend.Add(sum, loose(v))
		}
		for _, prefix := range []string{objects.PrefixOrders, objects.PrefixClaims} {
			for _, g := range objects.Records[wire.Claim](tx, prefix, "host", host) {
				sum = lend.Add(sum, g.Needs)
			}
		}
		return sum, nil
	})
	if err != nil || except == "" {
		return sum, err
	}
	g, err := objects.Record[wire.Claim](tx, objects.PrefixClaims+except)
	if errors.Is(err, store.ErrNotFound) || err == nil && g.Host != host {
		return sum, nil
	}
	return lend.Sub(sum, g.Needs), err
}

// Needs is what a VM takes. While a change of it is pending, that is the larger one of what it has and what it is to have.
func (rs *Rooms) Needs(tx *state.Tx, v *api.VM) (api.Resources, error) {
	disk := v.Spec.DiskGiB
	if img, err := objects.Find[api.Image](tx, v.Spec.Image); err == nil {
		disk = max(disk, int((img.Status.VirtualMiB+1023)/1024))
	} else if !errors.Is(err, &api.Error{Code: api.CodeNotFound}) {
		return api.Resources{}, err
	}
	had := v.Status.Machine
	needs := api.Resources{CPUs: max(v.Spec.CPUs, had.CPUs), MemoryMiB: max(v.Spec.MemoryMiB, had.MemoryMiB), DiskGiB: disk + further(v) + savedMemory(v)}
	if Asleep(v) {
		needs.CPUs, needs.MemoryMiB = 0, 0
	}
	return needs, nil
}

// Asleep tells whether a VM has given its host's memory back: it is hibernated, or moves as such, and nobody wishes it to run.
func Asleep(v *api.VM) bool {
	return v.Spec.Power == api.PowerHibernated && (v.Status.Phase == api.PhaseHibernated || v.Status.Phase == api.PhaseMigrating)
}

// savedMemory is what the memory of a VM takes of the disk, in GiB, once it is to be hibernated.
func savedMemory(v *api.VM) int {
	if v.Spec.Power != api.PowerHibernated {
		return 0
	}
	return gib(int64(max(v.Spec.MemoryMiB, v.Status.Machine.MemoryMiB)))
}

// further is what the disks of a VM beside its root disk take, in GiB: those of its spec, and those that are still there.
func further(v *api.VM) (sum int) {
	for _, k := range v.Spec.Disks {
		size := k.SizeGiB
		if i := slices.IndexFunc(v.Status.Disks, func(s api.VMDisk) bool { return s.Name == k.Name }); i >= 0 {
			size = max(size, gib(v.Status.Disks[i].SizeMiB))
		}
		sum += size
	}
	for _, k := range v.Status.Disks {
		if !slices.ContainsFunc(v.Spec.Disks, func(s api.Disk) bool { return s.Name == k.Name }) {
			sum += max(gib(k.SizeMiB), k.SizeGiB)
		}
	}
	return sum
}

// loose is what a volume takes while no VM has it, and counts it: room on its host once it has one, and of its owner's quota.
func loose(v *api.Volume) api.Resources {
	return api.Resources{DiskGiB: max(v.Spec.SizeGiB, gib(v.Status.SizeMiB))}
}

// gib rounds up.
func gib(mib int64) int { return int((mib + 1023) / 1024) }

// NeedsAt is what a VM takes at a site: at a lender its image counts with it, since it is there for this VM.
func (rs *Rooms) NeedsAt(tx *state.Tx, v *api.VM, site string) (api.Resources, error) {
	needs, err := rs.Needs(tx, v)
	if err != nil || site == rs.Name {
		return needs, err
	}
	return rs.lentNeeds(tx, v, needs)
}

func (rs *Rooms) lentNeeds(tx *state.Tx, v *api.VM, needs api.Resources) (api.Resources, error) {
	img, err := objects.Find[api.Image](tx, v.Spec.Image)
	if errors.Is(err, &api.Error{Code: api.CodeNotFound}) {
		return needs, nil
	}
	if err == nil {
		needs.DiskGiB = max(needs.DiskGiB, LentDisk(DiskMiB(v, img)+int64(further(v)+savedMemory(v))*1024, img.Status.Bytes))
	}
	return needs, err
}

// DiskMiB is the size that a VM's root disk is to have.
func DiskMiB(v *api.VM, img *api.Image) int64 {
	return max(int64(v.Spec.DiskGiB)*1024, img.Status.VirtualMiB)
}

// ShortOnHost says what a host has too little of when something on it takes more.
func (rs *Rooms) ShortOnHost(tx *state.Tx, host string, before, after api.Resources) ([]api.Reason, error) {
	h, err := objects.Get[api.Host](tx, host)
	if err != nil {
		return nil, err
	}
	allotted, err := rs.Allotted(tx, host, "")
	if err != nil {
		return nil, err
	}
	before.Addresses, after.Addresses = 0, 0
	reasons := lend.Fits("host "+host, lend.Sub(h.Status.Capacity, lend.Sub(allotted, before)), after)
	for i := range reasons {
		reasons[i].Site, reasons[i].Host = rs.Name, host
		reasons[i].Advice = "stop or move another VM of this host"
	}
	return reasons, nil
}
