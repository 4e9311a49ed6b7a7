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
	reModel  = regexp.MustCompile(`^[A-Za-z0-9._-]+$`)
)

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
		switch {
		case !reTarget.MatchString(d.Target) || targets[d.Target]:
			return fmt.Errorf("spec.disks[%d].target: %q is not vda, vdb, … or is there twice", i, d.Target)
		case !filepath.IsAbs(d.Path):
			return fmt.Errorf("spec.disks[%d].path: %q is not absolute", i, d.Path)
		case d.Format != "qcow2" && d.Format != "raw":
			return fmt.Errorf("spec.disks[%d].format: %q is neither qcow2 nor raw", i, d.Format)
		case d.Base != "" && !filepath.IsAbs(d.Base):
			return fmt.Errorf("spec.disks[%d].base: %q is not absolute", i, d.Base)
		case d.BaseFormat != "" && d.BaseFormat != "qcow2" && d.BaseFormat != "raw":
			return fmt.Errorf("spec.disks[%d].baseFormat: %q is neither qcow2 nor raw", i, d.BaseFormat)
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
