package libvirt

import (
	"fmt"
	"regexp"
)

// profile is a hardware profile (api.Hardware): which devices there are, and at which addresses. The addresses are given, not
// left to libvirt: both ends of a migration make the same machine of the same spec, whatever their releases, and nothing of the
// XML that a peer's host sends is ever used. So a profile never changes once VMs have it: what is to be otherwise is a new one.
type profile struct {
	machine  string         // libvirt makes a versioned name of it; the offer of a migration carries that one
	versions *regexp.Regexp // the versioned names
	disks    []pci          // vda, vdb, …
	nics     []pci
	seed     pci // of the disk that is only read; zero: its target says where it is
	RNG      pci
	Ports    []port   // to plug into
	Display  *display // nil: there is none
}

// display is where the devices are that a person at a screen needs. The keyboard is PS/2, which every guest knows. The pointer is a
// USB tablet: only one that says where it is, not how far it has gone, is where the viewer's is.
type display struct{ Video, USB, SATA pci }

// pci is the address of a device.
type pci struct {
	bus, slot, function int
	multi               bool // there are others at the slot
}

// String is libvirt's element.
func (a pci) String() string {
	multi := ""
	if a.multi {
		multi = " multifunction='on'"
	}
	return fmt.Sprintf("<address type='pci' domain='0x0000' bus='0x%02x' slot='0x%02x' function='0x%x'%s/>", a.bus, a.slot, a.function, multi)
}

// port is a PCIe root port, behind which one device is, or can be plugged.
type port struct {
	Bus int
	At  pci
}

// seedTarget is the name of the cloud-init seed where it is not one of the disks.
const seedTarget = "vdz"

// profiles are all of them, from 1 on.
var profiles = []*profile{
	{
		machine: "pc", versions: regexp.MustCompile(`^pc-i440fx-[0-9]+\.[0-9]+$`),
		disks: slots(0x03, 12), nics: slots(0x10, 12), RNG: pci{slot: 0x1e},
	},
	{
		// Behind ports of their own, disks and cards can be plugged and unplugged while the guest runs. Guests name disks in the
		// order of the ports: the seed's is the last.
		machine: "q35", versions: regexp.MustCompile(`^pc-q35-[0-9]+\.[0-9]+$`),
		disks: buses(1, 12), nics: buses(13, 11), seed: pci{bus: 24}, RNG: pci{slot: 0x05},
		Ports:   ports(0x02, 24),
		Display: &display{Video: pci{slot: 0x01}, USB: pci{slot: 0x06}, SATA: pci{slot: 0x1f, function: 2}},
	},
}

// profileOf is a profile by its number. The oldest releases do not say that it is the first.
func profileOf(number int) *profile { return profiles[max(1, number)-1] }

// slots are addresses of neighbours on the first bus.
func slots(first, n int) (out []pci) {
	for i := range n {
		out = append(out, pci{slot: first + i})
	}
	return out
}

// buses are addresses behind neighbouring ports.
func buses(first, n int) (out []pci) {
	for i := range n {
		out = append(out, pci{bus: first + i})
	}
	return out
}

// ports are root ports, eight at a slot.
func ports(slot, n int) (out []port) {
	for i := range n {
		out = append(out, port{Bus: 1 + i, At: pci{slot: slot + i/8, function: i % 8, multi: i%8 == 0}})
	}
	return out
}
