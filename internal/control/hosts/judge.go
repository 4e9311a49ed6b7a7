package hosts

import (
	"fmt"
	"net/netip"
	"slices"

	"widecloud/api"
	"widecloud/internal/cloud"
	"widecloud/internal/control/objects"
	"widecloud/internal/state"
	"widecloud/internal/wire"
)

// An agent's word is that of a machine that may have been stolen. It is held against what its site knows of the host.

// The limits of what is taken of an agent.
const (
	maxReportVMs     = 10000
	maxReportImages  = 10000
	maxReportVolumes = 100000
	maxHostCPUs      = 1 << 16
	maxHostMemoryMiB = 1 << 30 // a PiB
	maxHostDiskGiB   = 1 << 30 // an EiB
	maxSeenAge       = 1 << 30 // seconds: 34 years, of a host without a clock
)

// judgeReport looks at a report by itself: nil, or an error that names the field. Texts become lines that can be shown.
func (hs *Hosts) judgeReport(r *wire.HostReport) error {
	for i, role := range r.Roles {
		if role != api.RoleHypervisor && role != api.RoleGateway || slices.Contains(r.Roles[:i], role) {
			return api.Invalidf(fmt.Sprintf("roles[%d]", i), "%.40q is not hypervisor or gateway, or is there twice", role)
		}
	}
	if err := hs.Judge().VTEP("vtep", r.VTEP); err != nil {
		return err
	}
	if len(hs.Underlay) > 0 && !slices.ContainsFunc(hs.Underlay, func(p netip.Prefix) bool { return p.Contains(r.VTEP) }) {
		return &api.Error{Code: api.CodeRefused, Field: "vtep", Message: fmt.Sprintf("%s is not in the site's underlay (network.underlay: %s)", r.VTEP, hs.Underlay)}
	}
	for _, f := range []struct {
		field      string
		have, most int
	}{
		{"capacity.cpus", r.Capacity.CPUs, maxHostCPUs}, {"capacity.memory_mib", r.Capacity.MemoryMiB, maxHostMemoryMiB},
		{"capacity.disk_gib", r.Capacity.DiskGiB, maxHostDiskGiB}, {"capacity.addresses", r.Capacity.Addresses, 0},
		{"vms", len(r.VMs), maxReportVMs}, {"images", len(r.Images), maxReportImages}, {"volumes", len(r.Volumes), maxReportVolumes},
	} {
		if f.have < 0 || f.have > f.most {
			return api.Invalidf(f.field, "%d is not between 0 and %d", f.have, f.most)
		}
	}
	if err := cloud.CheckCPUs("cpu", []api.CPU{r.CPU}); err != nil {
		return err
	}
	for i, d := range r.Images {
		if err := cloud.ValidateDigest(fmt.Sprintf("images[%d]", i), d); err != nil {
			return err
		}
	}
	if r.ImageBytes < 0 || r.UnusedBytes < 0 || r.UnusedBytes > r.ImageBytes {
		return api.Invalidf("unused_image_bytes", "%d of %d bytes of images are not a part of them", r.UnusedBytes, r.ImageBytes)
	}
	for i := range r.VMs {
		if err := JudgeVMReport(fmt.Sprintf("vms[%d]", i), &r.VMs[i]); err != nil {
			return err
		}
	}
	for i := range r.Volumes {
		if err := judgeVolume(fmt.Sprintf("volumes[%d]", i), &r.Volumes[i]); err != nil {
			return err
		}
	}
	if err := judgeUsage(r.Usage); err != nil {
		return err
	}
	r.Message, r.Hypervisor, r.Boot = cloud.Line(r.Message, objects.MaxText), cloud.Line(r.Hypervisor, 100), cloud.Line(r.Boot, 100)
	if t := r.Translator; t != nil {
		t.Message = cloud.Line(t.Message, objects.MaxText)
		if err := judgeTraffic(t); err != nil {
			return err
		}
		for i := range t.Refused {
			t.Refused[i].Message = cloud.Line(t.Refused[i].Message, objects.MaxText)
		}
	}
	return nil
}

// judgeVolume looks at what is told of a volume. Its text becomes a line that can be shown.
func judgeVolume(field string, v *wire.VolumeReport) error {
	if err := cloud.CheckUID(field+".volume", v.Volume); err != nil {
		return err
	}
	if v.SizeMiB < 0 || v.SizeMiB > maxHostDiskGiB<<10 || v.Bytes < 0 {
		return api.Invalidf(field, "%d MiB, and %d bytes of the host's disk, are not a volume's", v.SizeMiB, v.Bytes)
	}
	v.Message = cloud.Line(v.Message, objects.MaxText)
	return nil
}

// judgeUsage looks at what VMs are said to have used.
func judgeUsage(all []wire.VMUsage) error {
	if len(all) > maxReportVMs {
		return api.Invalidf("usage", "has %d VMs, more than %d", len(all), maxReportVMs)
	}
	for i, u := range all {
		at := fmt.Sprintf("usage[%d]", i)
		if err := cloud.CheckUID(at+".vm", u.VM); err != nil {
			return err
		}
		if !(u.CPU >= 0) || min(u.Memory, u.DiskRead, u.DiskWritten, u.Reads, u.Writes, u.Received, u.Sent) < 0 {
			return api.Invalidf(at, "has a use below nothing")
		}
	}
	return nil
}

// judgeTraffic looks at what a translator is said to have carried.
func judgeTraffic(t *wire.TranslatorReport) error {
	if len(t.Outcomes) > wire.MaxOutcomes || len(t.Traffic) > wire.MaxTraffic {
		return api.Invalidf("translator", "has %d outcomes and %d addresses, more than %d or %d", len(t.Outcomes), len(t.Traffic), wire.MaxOutcomes, wire.MaxTraffic)
	}
	for i := range t.Outcomes {
		o := &t.Outcomes[i]
		if o.Outcome = cloud.Line(o.Outcome, 40); min(o.Packets, o.Bytes) < 0 {
			return api.Invalidf(fmt.Sprintf("translator.outcomes[%d]", i), "has a count below nothing")
		}
	}
	for i, a := range t.Traffic {
		if !a.Service.IsValid() || min(a.PacketsIn, a.BytesIn, a.PacketsOut, a.BytesOut) < 0 {
			return api.Invalidf(fmt.Sprintf("translator.traffic[%d]", i), "names no address, or has a count below nothing")
		}
	}
	return nil
}

// JudgeVMReport looks at what is told of a copy of a VM: nil, or an error that names the field. Its texts become lines that can be shown.
func JudgeVMReport(field string, v *wire.VMReport) error {
	if err := cloud.CheckUID(field+".vm", v.VM); err != nil {
		return err
	}
	states := []wire.VMState{"", wire.CopyStarting, wire.CopyRunning, wire.CopyPaused, wire.CopySuspended, wire.CopyHibernated, wire.CopyIncoming, wire.CopyStopped, wire.CopyGone, wire.CopyFailed}
	switch {
	case !slices.Contains(states, v.State):
		return api.Invalidf(field+".state", "%.40q is not a state of a VM's copy", v.State)
	case v.DiskBytes < 0:
		return api.Invalidf(field+".disk_bytes", "%d is negative", v.DiskBytes)
	}
	if m := v.Machine; m != nil {
		if m.CPUs < 0 || m.CPUs > maxHostCPUs || m.MemoryMiB < 0 || m.MemoryMiB > maxHostMemoryMiB || len(m.Disks) > 2*api.MaxDisks {
			return api.Invalidf(field+".machine", "%d CPUs, %d MiB of memory and %d disks are not a machine's", m.CPUs, m.MemoryMiB, len(m.Disks))
		}
		for i, k := range m.Disks {
			at := fmt.Sprintf("%s.machine.disks[%d]", field, i)
			if err := cloud.ValidateName(at+".name", k.Name); err != nil {
				return err
			}
			if k.SizeMiB < 0 || k.SizeMiB > maxHostDiskGiB<<10 || k.Bytes < 0 {
				return api.Invalidf(at, "%d MiB, and %d bytes of the host's disk, are not a disk's", k.SizeMiB, k.Bytes)
			}
		}
	}
	v.Job, v.Message = cloud.Line(v.Job, 80), cloud.Line(v.Message, objects.MaxText)
	// A newer release may have sources that this one cannot name.
	v.Addresses = slices.DeleteFunc(v.Addresses, func(a wire.SeenAddress) bool { return !slices.Contains(api.AddressSources, a.Source) })
	return judgeAddresses(field+".addresses", v.Addresses)
}

// judgeAddresses looks at what a VM is said to have been seen with.
func judgeAddresses(field string, all []wire.SeenAddress) error {
	if len(all) > wire.MaxSeen {
		return api.Invalidf(field, "has %d addresses, more than %d", len(all), wire.MaxSeen)
	}
	for i, a := range all {
		at := fmt.Sprintf("%s[%d]", field, i)
		switch {
		case !a.Address.IsValid() || a.Address.Zone() != "" || a.Address.Is4In6():
			return api.Invalidf(at+".address", "%q is not an address of a VM", a.Address)
		case a.Age < 0 || a.Age > maxSeenAge:
			return api.Invalidf(at+".age_seconds", "%d is not between 0 and %d", a.Age, maxSeenAge)
		}
	}
	return nil
}

// judgeVTEP refuses a tunnel end point that another host has.
func (hs *Hosts) judgeVTEP(tx *state.Tx, host string, vtep netip.Addr) error {
	for h := range objects.By[api.Host](tx, "vtep", vtep.String()) {
		if h.Name != host {
			return &api.Error{Code: api.CodeInvalid, Field: "vtep", Message: fmt.Sprintf("%s is host %s's", vtep, h.Name)}
		}
	}
	return nil
}
