package cloud

import (
	"cmp"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"widecloud/api"
)

// UpdateFaults gives what is wrong about the change of an object: CodeInvalid and CodeConflict with the fields that must stay, one
// error for each, none if there is none. Both objects are of one kind; now has passed Default and Validate.
func UpdateFaults(was, now api.Object) []*api.Error {
	if was.Kind() != now.Kind() {
		return some(api.Invalidf("kind", "is %s, not %s", was.Kind(), now.Kind()))
	}
	a, b := was.Metadata(), now.Metadata()
	faults := some(
		stays("name", a.Name, b.Name, "delete it and create another"),
		stays("uid", a.UID, b.UID, "it is given once"),
		stays("owner", a.Owner, b.Owner, "delete it and create another"),
		stays("home", a.Home, b.Home, "delete it and create another"),
	)
	return append(faults, specUpdateFaults(was, now)...)
}

// specUpdateFaults are what is wrong about the change of a spec.
func specUpdateFaults(was, now api.Object) []*api.Error {
	switch now := now.(type) {
	case *api.VM:
		return checkVMUpdate(was.(*api.VM), now)
	case *api.Network:
		was := was.(*api.Network)
		const why = "its VMs have their addresses in it"
		return some(
			stays("spec.prefix", was.Spec.Prefix, now.Spec.Prefix, why),
			stays("spec.ipv4", was.Spec.IPv4, now.Spec.IPv4, why),
			stays("spec.vni", was.Spec.VNI, now.Spec.VNI, "every host carries the network by it"),
			stays("spec.mtu", was.Spec.MTU, now.Spec.MTU, "running VMs have it"),
		)
	case *api.Volume:
		was := was.(*api.Volume)
		return some(
			grows("spec.size_gib", was.Spec.SizeGiB, now.Spec.SizeGiB),
			stays("spec.place", was.Spec.Place, now.Spec.Place, "it is for the creation; a volume moves with the VM that has it"),
		)
	case *api.Address:
		return some(stays("spec.address", was.(*api.Address).Spec.Address, now.Spec.Address, "create another one"))
	case *api.Image:
		was := was.(*api.Image)
		const why = "an image's content never changes: create another one"
		return some(
			stays("spec.source", was.Spec.Source, now.Spec.Source, why),
			stays("spec.vm", was.Spec.VM, now.Spec.VM, why),
			stays("spec.disk", was.Spec.Disk, now.Spec.Disk, why),
			stays("spec.digest", was.Spec.Digest, now.Spec.Digest, why),
			stays("spec.format", was.Spec.Format, now.Spec.Format, why),
		)
	case *api.Loan:
		if was.(*api.Loan).Spec != now.Spec {
			return some(api.Invalidf("spec", "cannot be changed: a loan is an agreement; borrow anew"))
		}
	case *api.Peer:
		was := was.(*api.Peer)
		const why = "remove the peer and exchange certificates again"
		return some(
			stays("spec.certificate", was.Spec.Certificate, now.Spec.Certificate, why),
			stays("spec.fingerprint", was.Spec.Fingerprint, now.Spec.Fingerprint, why),
		)
	}
	return nil
}

func stays[T comparable](field string, was, now T, why string) *api.Error {
	if was == now {
		return nil
	}
	return api.Invalidf(field, "cannot be changed from %v to %v: %s", was, now, why)
}

func checkVMUpdate(was, now *api.VM) []*api.Error {
	a, b := was.Spec, now.Spec
	faults := some(
		stays("spec.image", a.Image, b.Image, "the VM's disk is over it"),
		stays("spec.network", a.Network, b.Network, "the VM has its address in it"),
		grows("spec.disk_gib", a.DiskGiB, b.DiskGiB),
		stays("spec.place", a.Place, b.Place, "it is for the creation; migrate the VM"),
	)
	for i, k := range b.Disks {
		old := slices.IndexFunc(a.Disks, func(o api.Disk) bool { return o.Name == k.Name })
		if old < 0 {
			continue
		}
		was, at := a.Disks[old], fmt.Sprintf("spec.disks[%d]", i)
		if fault := stays(at+".volume", was.Volume, k.Volume, "take the disk out first, or choose another name"); fault != nil {
			faults = append(faults, fault)
		} else if was.Volume != "" {
			faults = append(faults, some(stays(at+".size_gib", was.SizeGiB, k.SizeGiB, "it is volume "+was.Volume+"'s size, which grows by itself: wcc volume grow "+was.Volume))...)
		} else {
			faults = append(faults, some(grows(at+".size_gib", was.SizeGiB, k.SizeGiB))...)
		}
	}
	faults = append(faults, some(checkPowerUpdate(was, b.Power))...)
	if Stopped(was) {
		return faults
	}
	for _, field := range changedFields(a.Hardware, b.Hardware) {
		if slices.Contains(atNextStart, field) {
			continue
		}
		faults = append(faults, &api.Error{
			Code: api.CodeConflict, Field: "spec." + field,
			Message: "can be changed only while the VM is stopped; it is " + string(was.Status.Phase),
		})
	}
	return faults
}

// checkPowerUpdate judges a wish for a VM's power by what the VM is doing.
func checkPowerUpdate(was *api.VM, power api.Power) *api.Error {
	phase := cmp.Or(was.Status.Phase, api.PhasePending)
	runs := was.Spec.Power == api.PowerOn && phase == api.PhaseRunning
	conflict := func(format string, args ...any) *api.Error {
		return &api.Error{Code: api.CodeConflict, Field: "spec.power", Message: fmt.Sprintf(format, args...)}
	}
	switch {
	case power == was.Spec.Power:
	case power == api.PowerSuspended && !runs:
		return conflict("only a VM that runs can be suspended; it is %s", phase)
	case power == api.PowerHibernated && !runs && phase != api.PhaseSuspended:
		return conflict("only a VM that runs or is suspended can be hibernated; it is %s", phase)
	case power == api.PowerOff && was.Spec.Power == api.PowerHibernated && phase != api.PhaseStopped:
		return conflict("a hibernated guest cannot be asked to stop: start it first, or give its memory up (wcc vm stop --hard %s)", was.Name)
	}
	return nil
}

// atNextStart are the fields of api.Hardware that are changed while the VM runs, and are in effect when it starts next. Of the
// others a migration would find another machine than the one that runs.
var atNextStart = []string{"cpus", "memory_mib"}

// Stopped tells whether no copy of a VM runs, for certain.
func Stopped(v *api.VM) bool {
	switch v.Status.Phase {
	case "", api.PhasePending, api.PhaseStopped:
		return true
	}
	return false
}

// grows refuses a smaller size.
func grows(field string, was, now int) *api.Error {
	if now >= was {
		return nil
	}
	return api.Invalidf(field, "cannot shrink from %d to %d: the guest's data may be there; make a smaller disk, and copy them in the guest", was, now)
}

// changedFields are the names, as in JSON, of a struct's fields that differ.
func changedFields[T any](a, b T) (out []string) {
	x, y := reflect.ValueOf(a), reflect.ValueOf(b)
	for i := range x.NumField() {
		if !reflect.DeepEqual(x.Field(i).Interface(), y.Field(i).Interface()) {
			name, _, _ := strings.Cut(x.Type().Field(i).Tag.Get("json"), ",")
			out = append(out, name)
		}
	}
	return out
}
