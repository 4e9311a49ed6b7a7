package cloud

import (
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"widecloud/api"
)

// The checks of single values, for what other processes write. The error is an *api.Error that names the field.

var reUID = regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$`)

// CheckUID judges the form of a UID: a UUID in lower case (RFC 9562 §4).
func CheckUID(field, uid string) error {
	if !reUID.MatchString(uid) {
		return api.Invalidf(field, "%.80q is not a UUID in lower case", uid)
	}
	return nil
}

// CheckVTEP judges the form of a host's address in the underlay: IPv6 unicast that can be routed.
func CheckVTEP(field string, a netip.Addr) error {
	if !a.Is6() || a.Is4In6() || a.Zone() != "" || !a.IsGlobalUnicast() {
		return api.Invalidf(field, "%q is not an IPv6 unicast address of an underlay", a)
	}
	return nil
}

// CheckService judges the form of a service address: unicast that can be reached from outside.
func CheckService(field string, a netip.Addr) error {
	switch {
	case a.Zone() != "":
		return api.Invalidf(field, "%s has a zone", a)
	case a.Is4In6():
		return api.Invalidf(field, "%s is an IPv4 address in IPv6 form; write %s", a, a.Unmap())
	case !a.IsGlobalUnicast() || a.Is4() && (a.As4()[0] == 0 || a.As4()[0] >= 240):
		return api.Invalidf(field, "%s is not a unicast address that can be reached", a)
	}
	return nil
}

// routerMACs begin the Ethernet addresses that the networks themselves use (package agent/network).
var routerMACs = []HardwareAddr{{0x02, 0x57, 0x43}, {0x02, 0x57, 0x46}, {0x02, 0x57, 0x47}}

// CheckMAC judges a VM's Ethernet address: unicast, and none that routers or the host's ends of plugs have.
func CheckMAC(field, mac string) error {
	a, err := ParseMAC(mac)
	if err != nil || mac != a.String() {
		return api.Invalidf(field, "%.40q is not a MAC address: six pairs of lower-case hexadecimal digits", mac)
	}
	if a[0]&1 != 0 || a == (HardwareAddr{}) || a[0] == 0xfe {
		return api.Invalidf(field, "%s is not a MAC address that a VM may have", mac)
	}
	for _, r := range routerMACs {
		if [3]byte(a[:3]) == [3]byte(r[:3]) {
			return api.Invalidf(field, "%s is a MAC address of the networks' routers", mac)
		}
	}
	return nil
}

// maxCarriedMTU is the largest MTU of a network, over an underlay of jumbo frames.
const maxCarriedMTU = 9000

// CheckMTU judges a network's MTU in bytes; 0 is the default.
func CheckMTU(field string, mtu int) error {
	if mtu != 0 && (mtu < minMTU || mtu > maxCarriedMTU) {
		return api.Invalidf(field, "%d is not between %d and %d", mtu, minMTU, maxCarriedMTU)
	}
	return nil
}

// CheckCarried judges the numbers of a network that a host is to carry.
func CheckCarried(field string, vni uint32, prefix, ipv4 netip.Prefix, mtu int) error {
	switch {
	case vni < 1 || vni > MaxVNI:
		return api.Invalidf(field+".vni", "%d is not between 1 and %d (RFC 7348 §4)", vni, MaxVNI)
	case !prefix.IsValid() || !prefix.Addr().Is6() || prefix.Bits() != 64 || prefix != prefix.Masked():
		return api.Invalidf(field+".prefix", "%s is not an IPv6 /64", prefix)
	case !NetworkSpace(prefix):
		return api.Invalidf(field+".prefix", "%s is neither global unicast (%s) nor unique local (%s)", prefix, globalUnicast, uniqueLocal)
	case ipv4.IsValid() && (ipv4 != ipv4.Masked() || !dhcpPrefix(ipv4) || !isPrivate(ipv4)):
		return api.Invalidf(field+".ipv4", "%s is not a private IPv4 prefix (RFC 1918) between a /16 and a /28", ipv4)
	}
	return CheckMTU(field+".mtu", mtu)
}

// CheckGuestAddresses judges a VM's addresses in its network: inside of its prefixes, and none that routers have there.
func CheckGuestAddresses(field string, prefix, ipv4 netip.Prefix, a6, a4 netip.Addr) error {
	if !a6.Is6() || a6.Zone() != "" || !prefix.Contains(a6) || routerIID(a6) {
		return api.Invalidf(field+".ipv6", "%q is not an address for a VM in %s", a6, prefix)
	}
	if a4.IsValid() && (!ipv4.IsValid() || !ipv4.Contains(a4) || a4 == ipv4.Addr() || a4 == ipv4.Addr().Next() || a4 == last(ipv4)) {
		return api.Invalidf(field+".ipv4", "%s is not an address for a VM in %s", a4, ipv4)
	}
	return nil
}

// routerIID tells whether the interface identifier is one of the networks' own: the subnet's anycast (RFC 4291 §2.6.1), the
// hypervisors' 1, the gateways' 646.
func routerIID(a netip.Addr) bool {
	b := a.As16()
	for _, iid := range [][2]byte{{0, 0}, {0, 1}, {6, 0x46}} {
		if [6]byte(b[8:14]) == [6]byte{} && [2]byte(b[14:]) == iid {
			return true
		}
	}
	return false
}

// CheckHardware judges the machine that a guest sees; the error names the first field that is wrong.
func CheckHardware(field string, h api.Hardware) error {
	for _, fault := range hardwareFaults(field, h) {
		return fault
	}
	return nil
}

// hardwareFaults is CheckHardware with all faults: where a new field of api.Hardware is judged, at controllers and agents alike.
func hardwareFaults(field string, h api.Hardware) []*api.Error {
	return some(
		checkRange(field+".cpus", h.CPUs, 1, maxCPUs),
		checkRange(field+".memory_mib", h.MemoryMiB, minMemoryMiB, maxMemoryMiB),
		checkCPUModel(field+".cpu_model", h.CPUModel),
		checkRange(field+".profile", h.Profile, 0, api.NewestProfile),
	)
}

// CheckDiskName judges what a disk beside the root disk is called.
func CheckDiskName(field, name string) error {
	if fault := checkDiskName(field, name); fault != nil {
		return fault
	}
	return nil
}

func checkDiskName(field, name string) *api.Error {
	switch err := checkName(field, name); {
	case err != nil:
		return err
	case len(name) > api.MaxDiskName:
		return api.Invalidf(field, "%q has %d characters, at most %d are possible: it is the disk's serial number", name, len(name), api.MaxDiskName)
	case name == api.RootDisk:
		return api.Invalidf(field, "%q is the disk over the image; its size is spec.disk_gib", name)
	}
	return nil
}

// diskFaults are what is wrong about the disks of a VM beside its root disk.
func diskFaults(field string, disks []api.Disk) (faults []*api.Error) {
	if len(disks) > api.MaxDisks {
		return some(api.Invalidf(field, "has %d disks, at most %d are possible beside the root disk", len(disks), api.MaxDisks))
	}
	for i, k := range disks {
		at := fmt.Sprintf("%s[%d]", field, i)
		least := 1
		if k.Volume != "" {
			least = 0 // it is the volume's
			faults = append(faults, some(checkName(at+".volume", k.Volume))...)
			if slices.ContainsFunc(disks[:i], func(o api.Disk) bool { return o.Volume == k.Volume }) {
				faults = append(faults, api.Invalidf(at+".volume", "%.40q is another disk of the VM already", k.Volume))
			}
		}
		faults = append(faults, some(
			checkDiskName(at+".name", k.Name),
			checkRange(at+".size_gib", k.SizeGiB, least, MaxDiskGiB),
		)...)
		if slices.ContainsFunc(disks[:i], func(o api.Disk) bool { return o.Name == k.Name }) {
			faults = append(faults, api.Invalidf(at+".name", "%.40q is another disk's name already", k.Name))
		}
	}
	return faults
}

// CheckSeed judges what cloud-init is told. Its limits are those of the oldest release, whose VMs run on.
func CheckSeed(field, hostname, userData string, keys []string) error {
	if hostname != "" {
		if err := ValidateName(field+".hostname", hostname); err != nil {
			return err
		}
	}
	if len(userData) > MaxUserData {
		return api.Invalidf(field+".user_data", "has %d bytes, at most %d are possible", len(userData), MaxUserData)
	}
	if len(keys) > MaxSSHKeys {
		return api.Invalidf(field+".ssh_keys", "has %d keys, at most %d are possible", len(keys), MaxSSHKeys)
	}
	for _, k := range keys {
		if err := checkText(field+".ssh_keys", k, 16<<10); err != nil {
			return err
		}
	}
	return nil
}

// CheckKeys holds the SSH keys of a VM to what a new VM may have.
func CheckKeys(field string, keys []string) error {
	bytes := 0
	for _, k := range keys {
		bytes += len(k)
	}
	if bytes > MaxKeyBytes {
		return api.Invalidf(field, "have %d bytes together, at most %d are possible", bytes, MaxKeyBytes)
	}
	return nil
}

// CheckCPUModel judges the name of a CPU model; empty: any.
func CheckCPUModel(field, model string) error {
	if err := checkCPUModel(field, model); err != nil {
		return err
	}
	return nil
}

// Line makes one line, of at most so many bytes, of a text that somebody else wrote: control and formatting characters,
// which could command a terminal or turn the order of what is read, become spaces.
func Line(s string, most int) string {
	if len(s) > most {
		s = s[:most]
		for len(s) > 0 && !utf8.ValidString(s[max(0, len(s)-utf8.UTFMax):]) {
			s = s[:len(s)-1]
		}
		s += "…"
	}
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || unicode.Is(unicode.Cf, r) || unicode.Is(unicode.Zl, r) || unicode.Is(unicode.Zp, r) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, " "))
}

// CheckCPUs looks at the kinds of CPUs that hosts have.
func CheckCPUs(field string, cpus []api.CPU) error {
	if len(cpus) > 100 {
		return api.Invalidf(field, "has %d kinds, at most 100 are possible", len(cpus))
	}
	for i, cpu := range cpus {
		at := fmt.Sprintf("%s[%d]", field, i)
		if len(cpu.Usable) > 1000 {
			return api.Invalidf(at+".usable", "has %d models, at most 1000 are possible", len(cpu.Usable))
		}
		for _, m := range append([]string{cpu.Arch, cpu.Accel, cpu.Model}, cpu.Usable...) {
			if err := CheckCPUModel(at, m); err != nil {
				return err
			}
		}
	}
	return nil
}
