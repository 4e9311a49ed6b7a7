package vms

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"widecloud/api"
	"widecloud/internal/access"
	"widecloud/internal/cloud"
	"widecloud/internal/control/objects"
	"widecloud/internal/place"
	"widecloud/internal/state"
	"widecloud/internal/wire"
)

// A volume that is attached is a disk of its VM, which plugs, grows and moves as the VM's own disks do. Here is what is different: where
// the VM can have it, and that it outlives the VM.

// completeVM gives the volumes that a VM keeps the sizes that its user left out.
func completeVM(was, now *api.VM, _ cloud.Known) error {
	if was == nil {
		return nil
	}
	for i, k := range now.Spec.Disks {
		if had := wantedDisk(was, k.Name); had != nil && k.Volume != "" && k.Volume == had.Volume && k.SizeGiB == 0 {
			now.Spec.Disks[i].SizeGiB = had.SizeGiB
		}
	}
	return nil
}

// nowhere tells whether nothing of a VM is at any host.
func nowhere(v *api.VM) bool { return v.Status.Host == "" && v.Status.Site == "" }

// added are the places in a VM's spec of the volumes that it did not have.
func added(was, now *api.VM) (out []int) {
	for i, k := range now.Spec.Disks {
		if k.Volume != "" && wantedDisk(was, k.Name) == nil {
			out = append(out, i)
		}
	}
	return out
}

// volumeFaults finds what is wrong about the volumes that a VM is to have and did not have.
func (vs *VMs) volumeFaults(tx *state.Tx, by access.Actor, was, now *api.VM) (faults []*api.Error) {
	for _, i := range added(was, now) {
		k, at := now.Spec.Disks[i], fmt.Sprintf("spec.disks[%d].volume", i)
		o, err := vs.Visible(tx, by, api.KindVolume, k.Volume)
		if err != nil {
			faults = append(faults, api.Invalidf(at, "no volume is called %.60q", k.Volume))
			continue
		}
		vol := o.(*api.Volume)
		fault := vs.volumes.Against(vol, now, at)
		switch {
		case fault != nil:
		case access.Change(by, vol) != nil:
			fault = &api.Error{Code: api.CodeForbidden, Field: at, Message: access.Change(by, vol).Error()}
		case k.SizeGiB != 0 && k.SizeGiB != vol.Spec.SizeGiB:
			fault = api.Invalidf(fmt.Sprintf("spec.disks[%d].size_gib", i), "is %d, and volume %s has %d GiB: leave it out", k.SizeGiB, k.Volume, vol.Spec.SizeGiB)
		default:
			fault = vs.outOfReach(tx, vol, was, now, at)
		}
		if fault != nil {
			faults = append(faults, fault)
		}
	}
	return faults
}

// outOfReach refuses a volume that is kept where the VM is not, and will not be.
func (vs *VMs) outOfReach(tx *state.Tx, vol *api.Volume, was, now *api.VM, field string) *api.Error {
	refuse := func(advice, format string, args ...any) *api.Error {
		message := fmt.Sprintf(format, args...)
		return &api.Error{Code: api.CodeRefused, Field: field, Message: message, Reasons: []api.Reason{{
			Site: vol.Status.Site, Host: vol.Status.Host, Code: "volume", Message: message, Advice: advice}}}
	}
	kept := place.Choice{Site: vol.Status.Site, Host: vol.Status.Host}
	if kept.Host == "" {
		return nil // it is made where the VM is
	}
	switch st := was.Status; { // what was has the status
	case st.Host != "" && (place.Choice{Site: st.Site, Host: st.Host}) != kept:
		return refuse(fmt.Sprintf("move the VM there first: wcc vm migrate %s %s", now.Name, kept),
			"volume %s is kept at %s, and VM %s is at %s/%s", vol.Name, kept, now.Name, st.Site, st.Host)
	case st.Host != "":
		return nil
	case st.Site != "":
		return refuse("wait until it has a place", "volume %s is kept at %s, and VM %s is about to get a place at %s", vol.Name, kept, now.Name, st.Site)
	}
	if wish, host, split := strings.Cut(now.Spec.Place, "/"); wish != "" && (wish != kept.Site || split && host != kept.Host) {
		return refuse("leave spec.place out", "volume %s is kept at %s, and VM %s is to be at %s", vol.Name, kept, now.Name, now.Spec.Place)
	}
	if len(now.Spec.Sites) > 0 && !slices.Contains(now.Spec.Sites, kept.Site) {
		return refuse("add "+kept.Site+" to spec.sites", "volume %s is kept at %s, where VM %s may not be", vol.Name, kept, now.Name)
	}
	if at, name, err := vs.volumesAt(tx, now); err == nil && at != nil && *at != kept {
		return refuse("choose one of them", "volume %s is kept at %s, and volume %s at %s: VM %s cannot have both", vol.Name, kept, name, at, now.Name)
	}
	return nil
}

// volumesAt is where a VM that has no place has to be placed, and the volume for whose sake; nil: anywhere.
func (vs *VMs) volumesAt(tx *state.Tx, v *api.VM) (at *place.Choice, volume string, err error) {
	for _, k := range v.Spec.Disks {
		if k.Volume == "" {
			continue
		}
		vol, err := objects.Find[api.Volume](tx, k.Volume)
		if errors.Is(err, &api.Error{Code: api.CodeNotFound}) {
			continue // that is said elsewhere
		}
		if err != nil {
			return nil, "", err
		}
		if vol.Status.Host != "" {
			return &place.Choice{Site: vol.Status.Site, Host: vol.Status.Host}, vol.Name, nil
		}
	}
	return nil, "", nil
}

// takeVolumes takes a change of a VM's volumes: those that are new are the VM's from now on, those that were taken out will be free once they
// are gone.
func (vs *VMs) takeVolumes(tx *state.Tx, was, now *api.VM) error {
	for _, i := range added(was, now) {
		k := &now.Spec.Disks[i]
		vol, err := objects.Find[api.Volume](tx, k.Volume)
		if err != nil {
			return err
		}
		k.SizeGiB = vol.Spec.SizeGiB
		if err := vs.volumes.Attach(tx, k.Volume, now, k.Name); err != nil {
			return err
		}
	}
	for i, k := range was.Spec.Disks {
		if k.Volume == "" || wantedDisk(now, k.Name) != nil {
			continue
		}
		if away := was.Status.Site; away != "" && away != vs.Name {
			message := fmt.Sprintf("volume %s cannot be detached at %s, where VM %s is: a volume without a VM is kept at its home", k.Volume, away, was.Name)
			return &api.Error{Code: api.CodeRefused, Field: fmt.Sprintf("spec.disks[%d]", i), Message: message, Reasons: []api.Reason{{
				Site: away, Host: was.Status.Host, Code: "volume", Message: message, Advice: fmt.Sprintf("move the VM home first: wcc vm migrate %s %s", was.Name, vs.Name)}}}
		}
		do := vs.volumes.Detaching
		if nowhere(was) {
			do = func(tx *state.Tx, name string) error { return vs.volumes.Detached(tx, name, was) }
		}
		if err := do(tx, k.Volume); err != nil {
			return err
		}
	}
	return nil
}

// growVolume makes a disk of a VM as large as the volume that it is.
func (vs *VMs) growVolume(tx *state.Tx, by access.Actor, vm, disk string, sizeGiB int) error {
	was, err := objects.Get[api.VM](tx, vm)
	if err != nil {
		return err
	}
	now := state.Clone(was)
	k := wantedDisk(now, disk)
	if k == nil {
		return api.Errorf(api.CodeConflict, "VM %s is about to lose disk %s", vm, disk)
	}
	k.SizeGiB = sizeGiB
	return vs.changeVM(tx, by, was, now)
}

// detached lets a disk's volume go, of which the VM's host has nothing more.
func (vs *VMs) detached(tx *state.Tx, v *api.VM, k api.VMDisk) error {
	if k.Volume == "" {
		return nil
	}
	return vs.volumes.Detached(tx, k.Volume, v)
}

// seeAttached keeps what is seen of the volumes that a VM has.
func (vs *VMs) seeAttached(tx *state.Tx, v *api.VM, now *api.VMStatus, m *wire.MachineReport) error {
	for _, k := range now.Disks {
		if k.Volume == "" {
			continue
		}
		var waits []api.Pending
		for _, p := range now.Pending {
			if p.Field == "disks."+k.Name || p.Field == "disks."+k.Name+".size_gib" {
				waits = append(waits, p)
			}
		}
		seen := wire.DiskReport{}
		if i := slices.IndexFunc(m.Disks, func(d wire.DiskReport) bool { return d.Name == k.Name }); i >= 0 {
			seen = m.Disks[i]
		}
		if err := vs.volumes.Seen(tx, k.Volume, v, seen.SizeMiB, seen.Bytes, waits); err != nil {
			return err
		}
	}
	return nil
}

// carryVolumes shows a VM's volumes where the VM is.
func (vs *VMs) carryVolumes(tx *state.Tx, v *api.VM) error {
	for _, k := range v.Status.Disks {
		if k.Volume == "" {
			continue
		}
		vol, err := objects.Get[api.Volume](tx, k.Volume)
		if err != nil {
			return err
		}
		vol.Status.Site, vol.Status.Host = v.Status.Site, v.Status.Host
		if err := objects.Put(tx, vol); err != nil {
			return err
		}
	}
	return nil
}

// detaching says which volume keeps a VM from being moved; nil: none. Where its host gives it back is where it stays.
func detaching(v *api.VM) *api.Reason {
	for _, k := range v.Status.Disks {
		if k.Volume != "" && wantedDisk(v, k.Name) == nil {
			return &api.Reason{
				Site: v.Status.Site, Host: v.Status.Host, Code: "volume", Message: fmt.Sprintf("volume %s is being detached from VM %s", k.Volume, v.Name),
				Advice: "wait until it is: wcc volume show " + k.Volume,
			}
		}
	}
	return nil
}

// keepsVolumes refuses the deletion of a VM at a lender that has volumes, which would end there with it. A lender that is not reached, and
// whose loan has ended, may never be again: then they are given up with the VM.
func (vs *VMs) keepsVolumes(tx *state.Tx, v *api.VM) error {
	if v.Status.Site == "" || v.Status.Site == vs.Name {
		return nil
	}
	i := slices.IndexFunc(v.Status.Disks, func(k api.VMDisk) bool { return k.Volume != "" })
	if i < 0 {
		return nil
	}
	if l, err := objects.Find[api.Loan](tx, v.Status.Loan); err == nil && l.Status.State == api.LoanEnded {
		if _, err := vs.Federation.Session(v.Status.Site, false); err != nil {
			return nil
		}
	}
	message := fmt.Sprintf("volume %s is attached to VM %s, and both are at %s: it would end there with the VM", v.Status.Disks[i].Volume, v.Name, v.Status.Site)
	return &api.Error{Code: api.CodeConflict, Message: message, Reasons: []api.Reason{{
		Site: v.Status.Site, Host: v.Status.Host, Code: "volume", Message: message, Advice: fmt.Sprintf("move the VM home first: wcc vm migrate %s %s", v.Name, vs.Name)}}}
}

// freeVolumes removes a VM's own disks from the books, and lets the volumes go that it had.
func (vs *VMs) freeVolumes(tx *state.Tx, v *api.VM) error {
	var all []*api.Volume
	for vol := range objects.By[api.Volume](tx, "vm", v.Name) {
		all = append(all, vol)
	}
	for _, vol := range all {
		free := func() error { return vs.volumes.Detached(tx, vol.Name, v) }
		if vol.IsDisk() {
			free = func() error { return objects.Gone(tx, vol) }
		}
		if err := free(); err != nil {
			return err
		}
	}
	return nil
}
