package api

import "time"

// KindHost is the kind of Host.
const KindHost Kind = "hosts"

var _ = describe[Host](Noun{
	Rank: 20, Help: "Hypervisors and gateways.",
	Changed: true, Deleted: true,
	States: []string{"up", "down", "cordoned"},
})

// Host is a machine with an agent: a hypervisor, a gateway, or both.
type Host struct {
	Meta
	Spec   HostSpec   `json:"spec"`
	Status HostStatus `json:"status"`
}

// HostRole is what a host is for.
type HostRole string

// The roles of a host.
const (
	RoleHypervisor HostRole = "hypervisor"
	RoleGateway    HostRole = "gateway"
)

// HostSpec is what the operator wants of a host. Roles are the join token's, until an admin changes them; a host has a role
// if its agent's configuration has it too.
type HostSpec struct {
	Roles    []HostRole `json:"roles"`
	Cordoned bool       `json:"cordoned,omitempty"` // takes no new VM
}

// HostStatus is what the agent reports.
type HostStatus struct {
	Connected  bool       `json:"connected"`
	Since      time.Time  `json:"since,omitzero"`
	Roles      []HostRole `json:"roles,omitempty"`      // of the agent's own configuration
	VTEP       string     `json:"vtep,omitempty"`       // underlay IPv6 address that carries the networks
	Hypervisor string     `json:"hypervisor,omitempty"` // "qemu 7.2.0 (tcg)"
	CPU        CPU        `json:"cpu"`
	Capacity   Resources  `json:"capacity"`
	Allotted   Resources  `json:"allotted"`
	Images     []string   `json:"images,omitempty"` // digests of the base images kept here
	// ImageBytes is what the files of these take, UnusedImageBytes what of that no VM of the host needs any more. The agent removes
	// those after a while (its libvirt.keep_images). Both are 0 of agents of older releases.
	ImageBytes       int64  `json:"image_bytes,omitempty"`
	UnusedImageBytes int64  `json:"unused_image_bytes,omitempty"`
	Message          string `json:"message,omitempty"`
}

// CPU is what a host offers to guests; two hosts can exchange running guests when the guest's model is usable at both.
type CPU struct {
	Arch   string   `json:"arch,omitempty"`
	Accel  string   `json:"accel,omitempty"`  // kvm or tcg
	Model  string   `json:"model,omitempty"`  // the host's own model
	Usable []string `json:"usable,omitempty"` // guest CPU models that can run here
	// Profile is the newest hardware profile that the hypervisor makes, or of a VM, the one that it has. 0: 1.
	Profile int `json:"profile,omitempty" since:"2"`
	// Disks is how many disks beside the root disk the hypervisor's agent gives a VM. 0: its release gives none.
	Disks int `json:"disks,omitempty" since:"2"`
}

// Kind is KindHost.
func (*Host) Kind() Kind { return KindHost }

func (h *Host) facets() facets {
	f := facets{hosts: []string{h.Name}, states: either(h.Status.Connected, "up", "down")}
	if h.Spec.Cordoned {
		f.states = append(f.states, "cordoned")
	}
	return f
}
