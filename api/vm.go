package api

import (
	"cmp"
	"time"
)

// KindVM is the kind of VM.
const KindVM Kind = "vms"

var _ = describe[VM](Noun{
	Rank: 110, Singular: "VM", Help: "Virtual machines.",
	Created: true, Changed: true, Deleted: true, Owned: true, See: ItsOwner, Write: ItsOwner,
	States: phases,
})

// VM is a virtual machine. Its home site holds this object; where it runs is in its status.
type VM struct {
	Meta
	Spec   VMSpec   `json:"spec"`
	Status VMStatus `json:"status"`
}

// Hardware is the machine that a guest sees. It goes as it is from the VM's spec through the orders to the hypervisor's driver: a new
// field has its place here.
type Hardware struct {
	CPUs      int    `json:"cpus"`                // 1 to 64
	MemoryMiB int    `json:"memory_mib"`          // 64 to 1048576
	CPUModel  string `json:"cpu_model,omitempty"` // guest CPU model; empty: the baseline of the site
	// Profile says which devices there are, at which addresses: 1 has a serial console alone, 2 a display, too. A VM keeps it at
	// each host and release. 0: the newest that the host can make where the VM is placed first.
	Profile int `json:"profile,omitempty" since:"2"`
}

// NewestProfile is the newest hardware profile that this release knows.
const NewestProfile = 2

// ProfileOf is the hardware profile that a VM has, or will have once it is placed: its user's choice, or what it was given.
// 0: it is not decided yet.
func ProfileOf(v *VM) int { return cmp.Or(v.Spec.Profile, v.Status.CPU.Profile) }

// HasDisplay tells whether VMs of a hardware profile have a display. 0 is that of VMs of older releases.
func HasDisplay(profile int) bool { return profile >= 2 }

// Disk is a disk of a VM beside its root disk: empty at first. It lives, moves and ends with the VM, or is a Volume that the VM has for
// a while.
type Disk struct {
	// Name is unique in the VM, and the disk's serial number: in a Linux guest it is /dev/disk/by-id/virtio-NAME.
	Name    string `json:"name"`
	SizeGiB int    `json:"size_gib,omitempty"` // 1 to 65536; it can grow. Of a volume it may be left out, and is the volume's
	// Volume is the name of a volume of the VM's owner, which is attached; "": the disk is the VM's own.
	Volume string `json:"volume,omitempty"`
}

// The limits of disks beside the root disk.
const (
	MaxDisks    = 10 // of a VM
	MaxDiskName = 20 // bytes: a virtio disk's serial number has no more
)

// RootDisk is what the disk over the image is called among a VM's disks.
const RootDisk = "root"

// VMSpec is what its user wants.
type VMSpec struct {
	Hardware
	DiskGiB  int      `json:"disk_gib,omitempty"`  // size of the root disk; 0: the image's own size; it can grow
	Disks    []Disk   `json:"disks,omitempty"`     // beside the root disk
	Image    string   `json:"image"`               // name of an Image of the home site
	Network  string   `json:"network"`             // name of a Network of the home site
	Power    Power    `json:"power"`               // on, off, off-hard, suspended or hibernated
	Sites    []string `json:"sites,omitempty"`     // permitted sites (the seed's strict migration); empty: any
	UserData string   `json:"user_data,omitempty"` // cloud-init user-data, as it is
	SSHKeys  []string `json:"ssh_keys,omitempty"`  // authorized_keys lines
	Place    string   `json:"place,omitempty"`     // SITE or SITE/HOST wanted at creation; empty: wherever there is room
	// Service are service addresses, or pools to take a free one of, that lead to the VM from its creation on: it is created with
	// all of them or not at all. It is for the creation only, and not kept: Address objects say where each leads.
	Service []string `json:"service,omitempty"`
}

// Power is whether a VM is to run.
type Power string

// The wishes for a VM's power.
const (
	PowerOn      Power = "on"       // runs; a guest that powers itself off or crashes is started again
	PowerOff     Power = "off"      // is asked to stop (ACPI), and after a grace stopped
	PowerOffHard Power = "off-hard" // is stopped at once, as by pulling the plug
	// PowerSuspended is for a VM that runs: its guest stands still, with its memory where it is. PowerOn lets it go on. When its host
	// loses the memory, the VM is stopped, and not booted anew.
	PowerSuspended Power = "suspended"
	// PowerHibernated is for a VM that runs or is suspended: its memory is kept in a file beside its disks, and its host's memory is
	// free. PowerOn lets it go on from that, or says why it cannot; PowerOffHard gives the memory up.
	PowerHibernated Power = "hibernated"
)

// VMPhase is what a VM is doing.
type VMPhase string

// The phases of a VM.
const (
	PhasePending     VMPhase = "pending"  // not placed; Reasons says why
	PhaseStarting    VMPhase = "starting" // placed; image, volume and networks are being made ready
	PhaseRunning     VMPhase = "running"
	PhaseMigrating   VMPhase = "migrating"   // runs, and is being copied elsewhere
	PhaseSuspended   VMPhase = "suspended"   // stands still; its memory is kept on its host
	PhaseHibernating VMPhase = "hibernating" // its memory is being saved
	PhaseHibernated  VMPhase = "hibernated"  // its memory is saved beside its disks
	PhaseStopping    VMPhase = "stopping"
	PhaseStopped     VMPhase = "stopped" // its volume is kept where it ran last
	PhaseUnknown     VMPhase = "unknown" // its host is not reached; it may be running
	PhaseFailed      VMPhase = "failed"
)

var phases = []string{string(PhasePending), string(PhaseStarting), string(PhaseRunning), string(PhaseMigrating),
	string(PhaseSuspended), string(PhaseHibernating), string(PhaseHibernated), string(PhaseStopping), string(PhaseStopped), string(PhaseUnknown), string(PhaseFailed)}

// VMStatus is what is seen of a VM.
type VMStatus struct {
	Phase     VMPhase     `json:"phase"`
	Epoch     uint64      `json:"epoch"`          // of the one copy that may run (law 2)
	Site      string      `json:"site,omitempty"` // where it is placed
	Host      string      `json:"host,omitempty"`
	VTEP      string      `json:"vtep,omitempty"` // underlay IPv6 address of that host
	Loan      string      `json:"loan,omitempty"` // when Site is not its home
	CPU       CPU         `json:"cpu,omitzero"`   // what the copy runs on: architecture, accelerator, guest model, hardware profile
	MAC       string      `json:"mac,omitempty"`
	Hostname  string      `json:"hostname,omitempty"` // of a VM that was renamed: the name that its guest and its network know; empty: its name
	Addresses []VMAddress `json:"addresses,omitempty"`
	Job       string      `json:"job,omitempty"`  // the job that is at work on it
	Since     time.Time   `json:"since,omitzero"` // of the last change of Phase
	Message   string      `json:"message,omitempty"`
	Reasons   []Reason    `json:"reasons,omitempty"` // of the last placement
	// PowerChanges is how often its power or its disks were changed: a report says which of these it answers.
	PowerChanges uint64 `json:"power_changes,omitempty"`
	// Disks are those of the spec, and those that were taken out of it and are still there.
	Disks []VMDisk `json:"disks,omitempty"`
	// Machine is what the copy that runs has, as far as that is not what the spec says.
	Machine Machine `json:"machine,omitzero"`
	// Pending are the changes of the spec that are not in effect yet.
	Pending []Pending `json:"pending,omitempty"`
}

// HostnameOf is the name that a VM's guest was told by cloud-init, and that its network resolves: the first that the VM had.
func HostnameOf(v *VM) string {
	if v.Status.Hostname != "" {
		return v.Status.Hostname
	}
	return v.Name
}

// VMDisk is what is seen of a disk of a VM.
type VMDisk struct {
	Name    string `json:"name"`
	Slot    int    `json:"slot"`               // the place in the machine that it keeps, from 1 on
	SizeMiB int64  `json:"size_mib,omitempty"` // 0: it was not seen yet
	Plugged bool   `json:"plugged,omitempty"`  // the guest that runs has it
	Volume  string `json:"volume,omitempty"`   // name of the volume that it is
	SizeGiB int    `json:"size_gib,omitempty"` // of a volume that is being detached: what it is counted with until then
}

// Machine is what of a machine is changed by its next start. A zero is "as the spec says".
type Machine struct {
	CPUs      int   `json:"cpus,omitempty"`
	MemoryMiB int   `json:"memory_mib,omitempty"`
	DiskMiB   int64 `json:"disk_mib,omitempty"` // of the root disk
}

// Pending is a change that is not in effect yet.
type Pending struct {
	Field  string `json:"field"`            // cpus, memory_mib, disk_gib, disks.NAME, disks.NAME.size_gib
	Now    string `json:"now,omitempty"`    // "" of a disk that is to come
	Wanted string `json:"wanted,omitempty"` // "" of a disk that is to go
	Waits  string `json:"waits"`            // for what: "for its next start", "for the guest", "for its host"
}

// VMAddress is an address that a VM has, and from where it is known.
type VMAddress struct {
	Address string `json:"address"`
	Origin  string `json:"origin"`         // slaac, dhcp or service: it was given it; guest: it has taken it by itself
	Seen    bool   `json:"seen,omitempty"` // by its host: in its neighbour table or its DHCP leases
	// Sources say who saw the VM with it and when, each source once.
	Sources []AddressSeen `json:"sources,omitempty"`
	// Refused: the guest uses an address that is another's or not of its network, and the network drops what it sends with it.
	Refused bool `json:"refused,omitempty"`
}

// The origins of a VM's addresses.
const (
	OriginSLAAC   = "slaac"
	OriginDHCP    = "dhcp"
	OriginService = "service"
	OriginGuest   = "guest" // what a guest claims; it is shown, and means nothing to networks and quotas
)

// AddressSource is how it is known that a VM uses an address.
type AddressSource string

// The sources of a VM's addresses.
const (
	SourceDHCP      AddressSource = "dhcp"      // a lease of its host's DHCP server
	SourceNeighbour AddressSource = "neighbour" // its host has heard it speak of it in neighbour discovery or ARP, or send IPv6 packets from it
)

// AddressSources are all sources.
var AddressSources = []AddressSource{SourceDHCP, SourceNeighbour}

// AddressSeen is when a source saw an address last. Seen may be some minutes older than what the host knows.
type AddressSeen struct {
	Source AddressSource `json:"source"`
	Seen   time.Time     `json:"seen"`
}

// Kind is KindVM.
func (*VM) Kind() Kind { return KindVM }

// facets gives one that is new, and has no phase yet, the first.
func (v *VM) facets() facets {
	phase := cmp.Or(v.Status.Phase, PhasePending)
	return facets{sites: []string{v.Status.Site}, hosts: []string{v.Status.Host}, states: []string{string(phase)}}
}
