package volumes

import (
	"fmt"

	"widecloud/api"
	"widecloud/internal/control/objects"
	"widecloud/internal/state"
)

// What VMs do with volumes. All of it is in the transaction that changes the VM.

// Against says why a VM cannot have a volume; nil: it can. at is where the VM is, or is to be: without a host it is open.
func (vs *Volumes) Against(v *api.Volume, vm *api.VM, field string) *api.Error {
	refuse := func(code api.Code, format string, args ...any) *api.Error {
		return &api.Error{Code: code, Field: field, Message: fmt.Sprintf(format, args...)}
	}
	switch {
	case v.IsDisk():
		return refuse(api.CodeInvalid, "%s is a disk of VM %s, and no volume", v.Name, v.Status.VM)
	case v.Owner != vm.Owner:
		return refuse(api.CodeForbidden, "volume %s is %s, and VM %s is %s: they must have the same owner", v.Name, ownedBy(v.Owner), vm.Name, ownedBy(vm.Owner))
	case v.Deleting:
		return refuse(api.CodeConflict, "volume %s is being deleted", v.Name)
	case v.Status.Phase == api.VolumeLost:
		return refuse(api.CodeConflict, "volume %s is lost: %s", v.Name, v.Status.Message)
	case v.Status.Phase == api.VolumeDetaching:
		return refuse(api.CodeConflict, "volume %s is still being detached from VM %s; wait until it is detached: wcc volume show %s", v.Name, v.Status.VM, v.Name)
	case v.Status.VM != "":
		return refuse(api.CodeConflict, "volume %s is attached to VM %s; detach it first: wcc volume detach %s", v.Name, v.Status.VM, v.Name)
	}
	return nil
}

func ownedBy(owner string) string {
	if owner == "" {
		return "the site's own"
	}
	return owner + "'s"
}

// Attach gives a volume to a VM, as a disk of a name. That it may have it has been judged (Against).
func (vs *Volumes) Attach(tx *state.Tx, name string, vm *api.VM, disk string) error {
	v, err := objects.Get[api.Volume](tx, name)
	if err != nil {
		return err
	}
	v.Status.VM, v.Status.Disk, v.Status.Message = vm.Name, disk, ""
	v.Status.Pending = []api.Pending{{Field: "vm", Wanted: vm.Name, Waits: "for its host"}} // until it reports of the VM (Seen)
	v.Status.Epoch++
	vs.setPhase(v, api.VolumeAttached)
	vs.Event(tx, "volume.attached", "volumes/"+name, v.Owner, "to VM "+vm.Name)
	return objects.Put(tx, v)
}

// Detaching shows that a VM is to let a volume go.
func (vs *Volumes) Detaching(tx *state.Tx, name string) error {
	v, err := objects.Get[api.Volume](tx, name)
	if err != nil {
		return err
	}
	vs.setPhase(v, api.VolumeDetaching)
	return objects.Put(tx, v)
}

// Detached ends what a VM had of a volume: nothing of the VM has it any more. It is where the VM was, if that has had a place.
func (vs *Volumes) Detached(tx *state.Tx, name string, vm *api.VM) error {
	v, err := objects.Get[api.Volume](tx, name)
	if err != nil {
		return err
	}
	if vm.Status.Host != "" {
		v.Status.Site, v.Status.Host = vm.Status.Site, vm.Status.Host
	}
	phase := api.VolumeDetached
	switch {
	case v.Status.Host == "":
		phase = api.VolumeNew
	case v.Status.Site != vs.Name: // with the guest whose disk it was
		phase = api.VolumeLost
		v.Status.Message = fmt.Sprintf("it was at %s with VM %s, which was given up there", v.Status.Site, vm.Name)
	case v.Status.SizeMiB == 0:
		phase = api.VolumeMaking
	}
	v.Status.VM, v.Status.Disk = "", ""
	v.Status.Epoch++
	v.Status.Pending = pending(v)
	vs.setPhase(v, phase)
	vs.Event(tx, "volume.detached", "volumes/"+name, v.Owner, "from VM "+vm.Name)
	return objects.Put(tx, v)
}

// Seen keeps where a VM's volume is, and how large; 0 MiB: it was not seen there.
func (vs *Volumes) Seen(tx *state.Tx, name string, vm *api.VM, sizeMiB, bytes int64, pending []api.Pending) error {
	v, err := objects.Find[api.Volume](tx, name)
	if err != nil {
		return err
	}
	now := state.Clone(v)
	if vm.Status.Host != "" {
		now.Status.Site, now.Status.Host = vm.Status.Site, vm.Status.Host
	}
	if sizeMiB > 0 {
		now.Status.SizeMiB, now.Status.AllocatedBytes = sizeMiB, bytes
	}
	now.Status.Pending = pending
	return objects.Put(tx, now)
}
