package vms

import (
	"cmp"
	"errors"
	"fmt"
	"slices"

	"widecloud/api"
	"widecloud/internal/cloud"
	"widecloud/internal/control/objects"
	"widecloud/internal/control/rooms"
	"widecloud/internal/place"
	"widecloud/internal/state"
	"widecloud/internal/wire"
)

// firstDisks gives the disks of a new VM their places.
func firstDisks(v *api.VM) {
	for i, k := range v.Spec.Disks {
		v.Status.Disks = append(v.Status.Disks, api.VMDisk{Name: k.Name, Slot: i + 1, Volume: k.Volume})
	}
}

// changeMachine takes a change of what a VM is made of: new disks get their places, and what the copy that runs has is kept, so that
// it is counted until it is no more.
func (vs *VMs) changeMachine(tx *state.Tx, was, now *api.VM) error {
	disks := !slices.Equal(was.Spec.Disks, now.Spec.Disks) || was.Spec.DiskGiB != now.Spec.DiskGiB
	running := was.Spec.Hardware != now.Spec.Hardware && !cloud.Stopped(was)
	if !disks && !running {
		return nil
	}
	if was.Status.Job != "" {
		return &api.Error{Code: api.CodeConflict, Field: "spec", Message: fmt.Sprintf("job %s is at work on VM %s; wait for it or cancel it", was.Status.Job, was.Name)}
	}
	if err := vs.changeable(tx, was, now, running); err != nil {
		return err
	}
	rootMiB, err := vs.rootMiB(tx, was)
	if err != nil {
		return err
	}
	if disks {
		now.Status.PowerChanges++ // so that a report says which disks it knows of
		if err := placeDisks(was, now); err != nil {
			return err
		}
	}
	if !cloud.Stopped(was) {
		had := &now.Status.Machine
		had.CPUs, had.MemoryMiB, had.DiskMiB = cmp.Or(had.CPUs, was.Spec.CPUs), cmp.Or(had.MemoryMiB, was.Spec.MemoryMiB), cmp.Or(had.DiskMiB, rootMiB)
	}
	if rootMiB, err = vs.rootMiB(tx, now); err == nil {
		settle(now, &now.Status, rootMiB)
	}
	return err
}

// rootMiB is the size that a VM's root disk is to have; 0 while the image is not there.
func (vs *VMs) rootMiB(tx *state.Tx, v *api.VM) (int64, error) {
	img, err := objects.Find[api.Image](tx, v.Spec.Image)
	if errors.Is(err, &api.Error{Code: api.CodeNotFound}) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	return rooms.DiskMiB(v, img), nil
}

// changeable refuses a change that the release where the VM is knows nothing of.
func (vs *VMs) changeable(tx *state.Tx, was, now *api.VM, running bool) error {
	if was.Status.Host == "" {
		return nil
	}
	at := place.Choice{Site: was.Status.Site, Host: was.Status.Host}
	able := false
	if was.Status.Site == vs.Name {
		h, err := objects.Find[api.Host](tx, was.Status.Host)
		if err != nil {
			return err
		}
		able = h.Status.CPU.Disks > 0
	} else {
		s, err := vs.Federation.Session(was.Status.Site, false)
		if err != nil {
			return api.Errorf(api.CodeUnavailable, "site %s, where VM %s is, is not reached now: %v", was.Status.Site, was.Name, err)
		}
		able = s.Can(wire.CapDisks)
	}
	if able {
		return nil
	}
	if running && slices.Equal(was.Spec.Disks, now.Spec.Disks) && was.Spec.DiskGiB == now.Spec.DiskGiB {
		return &api.Error{Code: api.CodeConflict, Field: "spec", Message: fmt.Sprintf("the release at %s changes a VM only while it is stopped; it is %s", at, was.Status.Phase)}
	}
	return &api.Error{Code: api.CodeRefused, Field: "spec.disks", Message: fmt.Sprintf("the disks of VM %s cannot be changed at %s", was.Name, at), Reasons: []api.Reason{{
		Site: at.Site, Host: at.Host, Code: "release", Message: "its release knows no other disk than the root disk at its first size", Advice: "move the VM away first, or ask for an upgrade"}}}
}

// placeDisks gives new disks places in the machine. A disk that was taken out keeps its own until it is gone.
func placeDisks(was, now *api.VM) error {
	now.Status.Disks = slices.Clone(now.Status.Disks)
	for i, k := range now.Spec.Disks {
		if slices.ContainsFunc(was.Spec.Disks, func(o api.Disk) bool { return o.Name == k.Name }) {
			continue
		}
		at := fmt.Sprintf("spec.disks[%d]", i)
		if slices.ContainsFunc(now.Status.Disks, func(o api.VMDisk) bool { return o.Name == k.Name }) {
			return &api.Error{Code: api.CodeConflict, Field: at + ".name", Message: fmt.Sprintf("the disk %s of before is still being removed; wait until it is gone, or choose another name", k.Name)}
		}
		slot := 1
		for slices.ContainsFunc(now.Status.Disks, func(o api.VMDisk) bool { return o.Slot == slot }) {
			slot++
		}
		if slot > api.MaxDisks {
			return &api.Error{Code: api.CodeConflict, Field: at, Message: "there is no place for it until a disk that is being removed is gone"}
		}
		now.Status.Disks = append(now.Status.Disks, api.VMDisk{Name: k.Name, Slot: slot, Volume: k.Volume})
	}
	for i, k := range now.Status.Disks {
		if had := wantedDisk(was, k.Name); k.Volume != "" && had != nil && wantedDisk(now, k.Name) == nil {
			now.Status.Disks[i].SizeGiB = had.SizeGiB // it is counted with that until it is gone, seen or not
		}
	}
	if nowhere(now) {
		now.Status.Disks = slices.DeleteFunc(now.Status.Disks, func(o api.VMDisk) bool { return wantedDisk(now, o.Name) == nil })
	}
	return nil
}

// wantedDisk is a disk of a VM's spec; nil: there is none of that name.
func wantedDisk(v *api.VM, name string) *api.Disk {
	if i := slices.IndexFunc(v.Spec.Disks, func(k api.Disk) bool { return k.Name == name }); i >= 0 {
		return &v.Spec.Disks[i]
	}
	return nil
}

// seeMachine keeps in a VM's status what a report says of what its copy is made of.
func (vs *VMs) seeMachine(tx *state.Tx, v *api.VM, now *api.VMStatus, s wire.VMReport) error {
	m := s.Machine
	if m == nil {
		return nil
	}
	rootMiB, err := vs.rootMiB(tx, v)
	if err != nil {
		return nil // what its image says comes with a later report
	}
	var disks []api.VMDisk
	for _, k := range v.Status.Disks {
		i := slices.IndexFunc(m.Disks, func(d wire.DiskReport) bool { return d.Name == k.Name })
		switch {
		case i >= 0:
			k.SizeMiB, k.Plugged = m.Disks[i].SizeMiB, m.Disks[i].Plugged
		case wantedDisk(v, k.Name) == nil && s.Serial >= v.Status.PowerChanges:
			if err := vs.detached(tx, v, k); err != nil {
				return err
			}
			continue // its host knows that it is to go, and it is gone
		default:
			k.SizeMiB, k.Plugged = 0, false
		}
		disks = append(disks, k)
	}
	now.Disks = disks
	had := &now.Machine
	if m.CPUs > 0 && s.State == wire.CopyRunning {
		had.CPUs, had.MemoryMiB = m.CPUs, m.MemoryMiB
	} else if now.Phase == api.PhaseStopped {
		had.CPUs, had.MemoryMiB = 0, 0
	}
	if i := slices.IndexFunc(m.Disks, func(d wire.DiskReport) bool { return d.Name == api.RootDisk }); i >= 0 {
		had.DiskMiB = m.Disks[i].SizeMiB
	}
	settle(v, now, rootMiB)
	return vs.seeAttached(tx, v, now, m)
}

// settle leaves in a status what of the machine is not as the VM's spec says, and shows what is pending.
func settle(v *api.VM, now *api.VMStatus, rootMiB int64) {
	had := &now.Machine
	if had.CPUs == v.Spec.CPUs {
		had.CPUs = 0
	}
	if had.MemoryMiB == v.Spec.MemoryMiB {
		had.MemoryMiB = 0
	}
	if had.DiskMiB >= rootMiB || now.Phase == api.PhaseStopped {
		had.DiskMiB = 0
	}
	now.Pending = pending(v, now, rootMiB)
}

// What a change waits for.
const (
	untilStart = "for its next start"
	untilGuest = "for the guest to let it go"
	untilHost  = "for its host"
	// untilResumed is what the disks of a VM that stands still wait for.
	untilResumed = "until it is resumed"
)

// pending are the changes of a VM's spec that are not in effect. What is changed of a VM that does not run is in effect when it
// starts, and is not shown.
func pending(v *api.VM, now *api.VMStatus, rootMiB int64) (out []api.Pending) {
	plugs, runs := untilStart, now.Host != "" && now.Phase != api.PhaseStopped && now.Phase != api.PhasePending
	host := untilHost
	if slices.Contains([]api.VMPhase{api.PhaseSuspended, api.PhaseHibernating, api.PhaseHibernated}, now.Phase) { // its disks are left as they are
		host = untilResumed
	}
	if cmp.Or(v.Spec.Profile, now.CPU.Profile) >= 2 {
		plugs = host
	}
	size := func(mib int64) string {
		if mib%1024 != 0 {
			return fmt.Sprintf("%dMiB", mib)
		}
		return fmt.Sprintf("%dGiB", mib/1024)
	}
	if had := now.Machine; runs {
		for _, f := range []struct {
			field       string
			had, wanted int64
			show        func(int64) string
			waits       string
		}{
			{"cpus", int64(had.CPUs), int64(v.Spec.CPUs), func(n int64) string { return fmt.Sprint(n) }, untilStart},
			{"memory_mib", int64(had.MemoryMiB), int64(v.Spec.MemoryMiB), func(n int64) string { return fmt.Sprint(n) }, untilStart},
			{"disk_gib", had.DiskMiB, rootMiB, size, host},
		} {
			if f.had != 0 && f.had != f.wanted {
				out = append(out, api.Pending{Field: f.field, Now: f.show(f.had), Wanted: f.show(f.wanted), Waits: f.waits})
			}
		}
	}
	for _, k := range now.Disks {
		field := "disks." + k.Name
		wanted := wantedDisk(v, k.Name)
		switch {
		case wanted == nil && !k.Plugged:
			out = append(out, api.Pending{Field: field, Now: size(k.SizeMiB), Waits: host})
		case wanted == nil && plugs == untilHost:
			out = append(out, api.Pending{Field: field, Now: size(k.SizeMiB), Waits: untilGuest})
		case wanted == nil:
			out = append(out, api.Pending{Field: field, Now: size(k.SizeMiB), Waits: plugs})
		case runs && !k.Plugged && now.Phase != api.PhaseStarting:
			out = append(out, api.Pending{Field: field, Wanted: size(int64(wanted.SizeGiB) * 1024), Waits: plugs})
		case runs && k.Plugged && k.SizeMiB < int64(wanted.SizeGiB)*1024:
			out = append(out, api.Pending{Field: field + ".size_gib", Now: size(k.SizeMiB), Wanted: size(int64(wanted.SizeGiB) * 1024), Waits: host})
		}
	}
	return out
}

// unplugged says which disk of a running VM keeps it from being moved: one that its guest is about to get.
func unplugged(v *api.VM) []api.Reason {
	for _, k := range v.Status.Disks {
		if !k.Plugged && wantedDisk(v, k.Name) != nil && (api.ProfileOf(v) >= 2 || k.SizeMiB > 0) {
			return []api.Reason{{
				Site: v.Status.Site, Host: v.Status.Host, Code: "disk", Message: fmt.Sprintf("disk %s is not plugged into the guest yet", k.Name),
				Advice: "wait until it is, or take it out of spec.disks",
			}}
		}
	}
	return nil
}

// volumeName is what a VM's own disk is called among volumes. No VM, and no volume of its own, has a dot in its name.
func volumeName(vm, disk string) string { return vm + "." + disk }

// seeVolumes keeps what is seen of a VM's disks.
func (vs *VMs) seeVolumes(tx *state.Tx, v *api.VM, s wire.VMReport) error {
	if s.Machine == nil {
		// Of a host of an older release, or one that is at work on the VM: then what was seen last stays.
		return vs.seeVolume(tx, v, wire.DiskReport{Name: api.RootDisk, Bytes: s.DiskBytes})
	}
	for _, k := range s.Machine.Disks {
		if slices.ContainsFunc(v.Status.Disks, func(o api.VMDisk) bool { return o.Name == k.Name && o.Volume != "" }) {
			continue // it is shown as the volume that it is (seeAttached)
		}
		if err := vs.seeVolume(tx, v, k); err != nil {
			return err
		}
	}
	for vol := range objects.By[api.Volume](tx, "vm", v.Name) {
		seen := slices.ContainsFunc(s.Machine.Disks, func(k wire.DiskReport) bool { return volumeName(v.Name, k.Name) == vol.Name })
		if !seen && vol.IsDisk() && vol.Status.Disk != api.RootDisk {
			if err := objects.Remove(tx, objects.Key(api.KindVolume, vol.Name)); err != nil {
				return err
			}
		}
	}
	return nil
}

func (vs *VMs) seeVolume(tx *state.Tx, v *api.VM, k wire.DiskReport) error {
	name := volumeName(v.Name, k.Name)
	vol, err := objects.Find[api.Volume](tx, name)
	switch {
	case errors.Is(err, &api.Error{Code: api.CodeNotFound}):
		vol = &api.Volume{Meta: vs.NewMeta(name, v.Owner), Status: api.VolumeStatus{Phase: api.VolumeOwn, Since: vs.Now(), VM: v.Name, Disk: k.Name}}
	case err != nil:
		return err
	}
	now := *vol // it shares what does not change
	vol = &now
	st := &vol.Status
	st.Site, st.Host, st.SizeMiB = v.Status.Site, v.Status.Host, max(k.SizeMiB, st.SizeMiB)
	if k.Name == api.RootDisk {
		if img, err := objects.Find[api.Image](tx, v.Spec.Image); err == nil {
			st.Image, st.SizeMiB = img.Status.Digest, cmp.Or(k.SizeMiB, rooms.DiskMiB(v, img))
		}
	}
	if k.Bytes != 0 || k.SizeMiB != 0 {
		st.AllocatedBytes = k.Bytes
	}
	vol.Spec.SizeGiB = int((st.SizeMiB + 1023) / 1024)
	return objects.Put(tx, vol)
}
