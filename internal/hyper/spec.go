package hyper

import (
	"fmt"
	"path/filepath"
	"regexp"

	"widecloud/api"
)

var (
	reUID    = regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$`)
	reTarget = regexp.MustCompile(`^vd[a-z]$`)
	reBridge = regexp.MustCompile(`^[A-Za-z0-9._-]{1,15}$`)
	reMAC    = regexp.MustCompile(`^[0-9a-f]{2}(:[0-9a-f]{2}){5}$`)
	reSerial = regexp.MustCompile(`^[A-Za-z0-9_-]{0,20}$`)
	reModel  = regexp.MustCompile(`^[A-Za-z0-9._-]+$`)
)

// Target is where a disk of a VM is: slot 0 is the root disk's, the others follow. In profile 1 the cloud-init seed stands between
// them, as it always has.
func Target(profile, slot int) string {
	if slot > 0 && profile <= 1 {
		slot++
	}
	return "vd" + string(rune('a'+slot))
}

// SeedTarget is where the cloud-init seed is.
func SeedTarget(profile int) string {
	if profile <= 1 {
		return "vdb"
	}
	return "vdz" // the last: no other disk comes after it
}

// Validate refuses a Spec that no driver can make a domain of; the error names the field.
func (s Spec) Validate() error {
	switch {
	case !reUID.MatchString(s.VM):
		return fmt.Errorf("spec.vm: %q is not a lower-case UUID", s.VM)
	case s.CPUs < 1:
		return fmt.Errorf("spec.cpus: %d is less than 1", s.CPUs)
	case s.MemoryMiB < 1:
		return fmt.Errorf("spec.memory: %d MiB is less than 1", s.MemoryMiB)
	case s.Profile < 0 || s.Profile > api.NewestProfile:
		return fmt.Errorf("spec.profile: %d is not a hardware profile between 0 and %d", s.Profile, api.NewestProfile)
	case s.CPUModel != "" && !reModel.MatchString(s.CPUModel):
		return fmt.Errorf("spec.cpuModel: %q is not a name", s.CPUModel)
	}
	targets := map[string]bool{}
	for i, d := range s.Disks {
		if targets[d.Target] {
			return fmt.Errorf("spec.disks[%d].target: %q is there twice", i, d.Target)
		}
		if err := ValidateDisk(d); err != nil {
			return fmt.Errorf("spec.disks[%d].%w", i, err)
		}
		targets[d.Target] = true
	}
	for i, n := range s.NICs {
		switch {
		case !reBridge.MatchString(n.Bridge):
			return fmt.Errorf("spec.nics[%d].bridge: %q is not an interface's name", i, n.Bridge)
		case !reMAC.MatchString(n.MAC):
			return fmt.Errorf("spec.nics[%d].mac: %q is not a lower-case MAC address", i, n.MAC)
		case n.MTU < 0 || n.MTU > 65535:
			return fmt.Errorf("spec.nics[%d].mtu: %d is out of range", i, n.MTU)
		}
	}
	return nil
}

// IsTarget tells whether a text names a disk's place.
func IsTarget(s string) bool { return reTarget.MatchString(s) }

// ValidateDisk refuses a disk that no driver can give a domain; the error names the field.
func ValidateDisk(d Disk) error {
	switch {
	case !IsTarget(d.Target):
		return fmt.Errorf("target: %q is not vda, vdb, …", d.Target)
	case !filepath.IsAbs(d.Path):
		return fmt.Errorf("path: %q is not absolute", d.Path)
	case !reSerial.MatchString(d.Serial):
		return fmt.Errorf("serial: %q is not up to 20 letters, digits, '-' and '_'", d.Serial)
	case d.Format != "qcow2" && d.Format != "raw":
		return fmt.Errorf("format: %q is neither qcow2 nor raw", d.Format)
	case d.Base != "" && !filepath.IsAbs(d.Base):
		return fmt.Errorf("base: %q is not absolute", d.Base)
	case d.BaseFormat != "" && d.BaseFormat != "qcow2" && d.BaseFormat != "raw":
		return fmt.Errorf("baseFormat: %q is neither qcow2 nor raw", d.BaseFormat)
	}
	return nil
}
