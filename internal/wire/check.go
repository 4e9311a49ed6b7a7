package wire

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"widecloud/api"
	"widecloud/internal/cloud"
)

// The checks of what one process orders of another. Those of networks are in netplan. The same ones judge a peer's word at a site's controller, and a
// controller's word at its agents. An error names the field, with field before it.

// Check judges a VM's order by itself.
func (o VMOrder) Check(field string) error {
	at := func(name string) string { return field + "." + name }
	for _, err := range []error{
		cloud.CheckUID(at("vm"), o.VM),
		cloud.ValidateName(at("name"), o.Name),
		cloud.ValidateName(at("home"), o.Home),
		cloud.CheckHardware(field, o.Hardware),
		cloud.ValidateDigest(at("image"), o.Image),
		o.NIC.check(at("nic")),
		cloud.CheckSeed(at("seed"), o.Seed.Hostname, o.Seed.UserData, o.Seed.SSHKeys),
	} {
		if err != nil {
			return err
		}
	}
	switch {
	case o.Epoch == 0:
		return api.Invalidf(at("epoch"), "is 0, and counts from 1")
	case !slices.Contains(Runs, o.Run):
		return api.Invalidf(at("run"), "%.20q is not on, suspended, hibernated, off, hard or gone", o.Run)
	case o.DiskMiB < 1 || o.DiskMiB > cloud.MaxDiskGiB*1024:
		return api.Invalidf(at("disk_mib"), "%d is not between 1 and %d", o.DiskMiB, cloud.MaxDiskGiB*1024)
	}
	return checkDisks(at("disks"), o.Disks)
}

// checkDisks judges the disks beside the root disk: each has a name and a place of its own.
func checkDisks(field string, disks []DiskOrder) error {
	for i, k := range disks {
		at := fmt.Sprintf("%s[%d]", field, i)
		if err := cloud.CheckDiskName(at+".name", k.Name); err != nil {
			return err
		}
		switch {
		case k.Slot < 1 || k.Slot > api.MaxDisks:
			return api.Invalidf(at+".slot", "%d is not between 1 and %d", k.Slot, api.MaxDisks)
		case k.SizeMiB < 1 || k.SizeMiB > cloud.MaxDiskGiB*1024:
			return api.Invalidf(at+".size_mib", "%d is not between 1 and %d", k.SizeMiB, cloud.MaxDiskGiB*1024)
		case slices.ContainsFunc(disks[:i], func(o DiskOrder) bool { return o.Name == k.Name || o.Slot == k.Slot }):
			return api.Invalidf(at, "its name %q or its slot %d is another disk's", k.Name, k.Slot)
		case k.Volume == "":
			continue
		case k.Epoch == 0:
			return api.Invalidf(at+".epoch", "is 0, and counts from 1")
		case slices.ContainsFunc(disks[:i], func(o DiskOrder) bool { return o.Volume == k.Volume }):
			return api.Invalidf(at+".volume", "%s is another disk already", k.Volume)
		}
		if err := cloud.CheckUID(at+".volume", k.Volume); err != nil {
			return err
		}
	}
	return nil
}

// Check judges the order of a volume by itself.
func (o VolumeOrder) Check(field string) error {
	switch {
	case o.Epoch == 0:
		return api.Invalidf(field+".epoch", "is 0, and counts from 1")
	case o.SizeMiB < 1 || o.SizeMiB > cloud.MaxDiskGiB*1024:
		return api.Invalidf(field+".size_mib", "%d is not between 1 and %d", o.SizeMiB, cloud.MaxDiskGiB*1024)
	}
	return errors.Join(cloud.CheckUID(field+".volume", o.Volume), cloud.ValidateName(field+".name", o.Name))
}

func (n NICOrder) check(field string) error {
	if err := cloud.CheckUID(field+".network", n.Network); err != nil {
		return err
	}
	if err := cloud.CheckMAC(field+".mac", n.MAC); err != nil {
		return err
	}
	for _, a := range []struct{ name, text string }{{"ipv6", n.IPv6}, {"ipv4", n.IPv4}} {
		if _, err := netip.ParseAddr(a.text); a.text != "" && err != nil {
			return api.Invalidf(field+"."+a.name, "%.60q is not an IP address", a.text)
		}
	}
	return cloud.CheckMTU(field+".mtu", n.MTU)
}

// maxSamples bounds an account of a VM's use, twice as long as ours.
const maxSamples = 600

// CheckUsage judges an account of what a VM has used.
func CheckUsage(u api.Usage) error {
	for _, series := range []struct {
		field   string
		samples []api.Sample
	}{{"recent", u.Recent}, {"day", u.Day}} {
		if n := len(series.samples); n > maxSamples {
			return api.Invalidf(series.field, "has %d samples, more than %d", n, maxSamples)
		}
		for i, s := range series.samples {
			at := fmt.Sprintf("%s[%d]", series.field, i)
			switch {
			case i > 0 && !s.At.After(series.samples[i-1].At):
				return api.Invalidf(at+".at", "is not after the one before it")
			case !(min(s.CPU, float64(s.Memory), s.DiskRead, s.DiskWritten, s.Received, s.Sent, s.Reads, s.Writes) >= 0):
				return api.Invalidf(at, "has a use below nothing")
			}
		}
	}
	return nil
}

// maxPart bounds a part of a state, in bytes of JSON: far less than a message may have, so that one VM more never matters.
const maxPart = 4 << 20

// SplitFor gives the state as the messages that the session's peer takes: parts, or the whole where the peer takes no parts.
func (s HostState) SplitFor(to *Session) []HostState {
	if !to.Can(CapStateParts) {
		return []HostState{s}
	}
	return s.Split()
}

// Split gives the state as parts that fit into messages; one that fits as a whole is the only one.
func (s HostState) Split() []HostState {
	head := s
	head.VMs, head.Networks, head.Mappings, head.Volumes = []VMOrder{}, []NetworkOrder{}, nil, nil
	parts, size := []HostState{head}, 0
	part := func(v any) *HostState {
		b, _ := json.Marshal(v) // of plain data: it cannot fail
		if size > 0 && size+len(b) > maxPart {
			parts, size = append(parts, head), 0
		}
		size += len(b)
		return &parts[len(parts)-1]
	}
	for _, v := range s.VMs {
		p := part(v)
		p.VMs = append(p.VMs, v)
	}
	for _, n := range s.Networks {
		p := part(n)
		p.Networks = append(p.Networks, n)
	}
	for _, m := range s.Mappings {
		p := part(m)
		p.Mappings = append(p.Mappings, m)
	}
	for _, v := range s.Volumes {
		p := part(v)
		p.Volumes = append(p.Volumes, v)
	}
	if len(parts) > 1 {
		for i := range parts {
			parts[i].Part, parts[i].Parts = i, len(parts)
		}
	}
	return parts
}

// JoinParts puts the parts of a state together. They are of one revision, and in order.
func JoinParts(parts []HostState) HostState {
	whole := parts[0]
	for _, p := range parts[1:] {
		whole.VMs = append(whole.VMs, p.VMs...)
		whole.Networks = append(whole.Networks, p.Networks...)
		whole.Mappings = append(whole.Mappings, p.Mappings...)
		whole.Volumes = append(whole.Volumes, p.Volumes...)
	}
	whole.Part, whole.Parts = 0, 0
	return whole
}
