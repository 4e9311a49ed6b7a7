package vms

import (
	"context"
	"errors"
	"fmt"

	"widecloud/api"
	"widecloud/internal/access"
	"widecloud/internal/cloud"
	"widecloud/internal/control/objects"
	"widecloud/internal/saga"
	"widecloud/internal/state"
)

// Rename gives a VM another name, in one transaction with all that names it. Its UID, addresses and disks stay, and the hostname
// that its guest was told and its network resolves; a VM that is given its first name again has that as both.
func (vs *VMs) Rename(ctx context.Context, p access.Actor, vm, name string) (*api.VM, error) {
	if err := cloud.ValidateName("name", name); err != nil {
		return nil, err
	}
	if err := vs.Write(ctx, func(tx *state.Tx) error {
		v, err := vs.own(tx, p, vm)
		if err != nil {
			return err
		}
		if v.Name == name {
			return vs.Answer(ctx, tx, v)
		}
		if err := vs.renameable(tx, v, name); err != nil {
			return err
		}
		if err := objects.Remove(tx, objects.Key(api.KindVM, v.Name)); err != nil {
			return err
		}
		was := v.Name
		if v.Status.Hostname = api.HostnameOf(v); v.Status.Hostname == name {
			v.Status.Hostname = ""
		}
		v.Name = name
		if err := objects.Put(tx, v); err != nil {
			return err
		}
		if err := renameParts(tx, was, name); err != nil {
			return err
		}
		vs.Acted(tx, "rename", v, "was "+was)
		return vs.Answer(ctx, tx, v)
	}); err != nil {
		return nil, err
	}
	vs.Poke()
	var renamed *api.VM
	err := vs.Read(ctx, func(tx *state.Tx) (err error) {
		renamed, err = objects.Get[api.VM](tx, name)
		return err
	})
	return renamed, err
}

// renameable says why a VM cannot have another name now. A lender knows its guests by name.
func (vs *VMs) renameable(tx *state.Tx, v *api.VM, name string) error {
	if err := saga.Held("VM "+v.Name, v.Status.Job); err != nil {
		return err
	}
	switch _, err := objects.Find[api.VM](tx, name); {
	case err == nil:
		return &api.Error{Code: api.CodeExists, Field: "name", Message: fmt.Sprintf("VM %q already exists", name)}
	case !errors.Is(err, &api.Error{Code: api.CodeNotFound}):
		return err
	case v.Deleting:
		return api.Errorf(api.CodeConflict, "VM %s is being deleted", v.Name)
	case v.Status.Site != "" && v.Status.Site != vs.Name:
		return api.Errorf(api.CodeConflict, "VM %s is at %s, which knows it by its name: move it home first", v.Name, v.Status.Site)
	case v.Status.Host == "" && (v.Spec.Power == api.PowerOn || vs.Working("place/"+v.Name)):
		return api.Errorf(api.CodeConflict, "VM %s is being placed: wait until it runs, or stop it", v.Name)
	}
	return hostnameFree(tx, v.Spec.Network, name, v.UID)
}

// hostnameFree refuses a name for a VM that is still the hostname of another one on its network, which was renamed.
func hostnameFree(tx *state.Tx, network, name, uid string) error {
	for other := range objects.By[api.VM](tx, "network", network) {
		if other.UID != uid && other.Status.Hostname == name {
			return &api.Error{Code: api.CodeConflict, Field: "name", Message: fmt.Sprintf("%s is still the hostname of VM %s on network %s, which was renamed", name, other.Name, network)}
		}
	}
	return nil
}

// renameParts has what names a VM name it by its new name: its service addresses, the volumes that it has, and its own disks, which
// are called after it.
func renameParts(tx *state.Tx, was, now string) error {
	for a := range objects.By[api.Address](tx, "vm", was) {
		a = state.Clone(a)
		a.Spec.VM = now
		if err := objects.Put(tx, a); err != nil {
			return err
		}
	}
	for vol := range objects.By[api.Volume](tx, "vm", was) {
		had := vol.Name
		vol = state.Clone(vol)
		if vol.Status.VM = now; vol.IsDisk() {
			vol.Name = volumeName(now, vol.Status.Disk)
			if err := objects.Remove(tx, objects.Key(api.KindVolume, had)); err != nil {
				return err
			}
		}
		if err := objects.Put(tx, vol); err != nil {
			return err
		}
	}
	return nil
}
