package api

import (
	"strings"
	"time"
)

// KindVolume is the kind of Volume.
const KindVolume Kind = "volumes"

var _ = describe[Volume](Noun{
	Rank: 90, Help: "Disks that outlive VMs and go from one to another, and the disks of VMs.",
	Created: true, Changed: true, Deleted: true, Owned: true, See: ItsOwner, Write: ItsOwner,
	States: volumePhases,
})

// Volume is a disk with a name and a life of its own: it is attached to a VM (Disk.Volume), detached from it, and attached to another
// one. It is empty at first. While it is attached it is where its VM is, and moves with it; otherwise it stays on its host.
//
// The disks that a VM has as its own are listed as volumes, too, by the name VM.DISK; users change them by the VM's spec.
type Volume struct {
	Meta
	Spec   VolumeSpec   `json:"spec"`
	Status VolumeStatus `json:"status"`
}

// VolumeSpec is what its user wants.
type VolumeSpec struct {
	SizeGiB int `json:"size_gib"` // 1 to 65536; it can grow
	// Place is the host of the home site, as SITE/HOST, on which it is made at once. Left out: it is made where the VM is to which it
	// is attached first. It is for the creation; where it is now is in its status.
	Place string `json:"place,omitempty"`
}

// VolumePhase is where a volume is in its life.
type VolumePhase string

// The phases of a volume.
const (
	VolumeNew       VolumePhase = "new"       // it is nowhere yet
	VolumeMaking    VolumePhase = "making"    // its host was told to make it
	VolumeDetached  VolumePhase = "detached"  // it is on its host, and no VM has it
	VolumeAttached  VolumePhase = "attached"  // a VM has it, or gets it with its next start
	VolumeDetaching VolumePhase = "detaching" // its VM is to let it go
	VolumeDeleting  VolumePhase = "deleting"
	VolumeLost      VolumePhase = "lost" // its VM was given up at a lender that was not reached
	VolumeOwn       VolumePhase = "own"  // not a volume of its own: a disk that lives and ends with its VM
)

var volumePhases = []string{string(VolumeNew), string(VolumeMaking), string(VolumeDetached), string(VolumeAttached),
	string(VolumeDetaching), string(VolumeDeleting), string(VolumeLost), string(VolumeOwn)}

// VolumeStatus is what is seen of a volume.
type VolumeStatus struct {
	Phase VolumePhase `json:"phase"`
	Since time.Time   `json:"since,omitzero"` // of the last change of Phase
	// Epoch counts who had the volume: whatever was ordered at a lower one is refused where it is kept. One VM has it at a time.
	Epoch          uint64    `json:"epoch,omitempty"`
	Site           string    `json:"site,omitempty"` // where it is; while it is attached, where its VM is
	Host           string    `json:"host,omitempty"`
	VM             string    `json:"vm,omitempty"`              // that it is attached to, or a disk of
	Disk           string    `json:"disk,omitempty"`            // what it is called in that VM
	Image          string    `json:"image,omitempty"`           // of a VM's root disk: the digest of the image that it is over
	SizeMiB        int64     `json:"size_mib,omitempty"`        // as it was seen; 0: it was not seen yet
	AllocatedBytes int64     `json:"allocated_bytes,omitempty"` // that it takes on its host; of a root disk, beside its image
	Pending        []Pending `json:"pending,omitempty"`         // what of its spec is not in effect yet
	Message        string    `json:"message,omitempty"`
}

// Kind is KindVolume.
func (*Volume) Kind() Kind { return KindVolume }

// IsDisk tells whether it is a disk of a VM, and no volume of its own. No name that a user gives has a dot.
func (v *Volume) IsDisk() bool { return strings.Contains(v.Name, ".") }

func (v *Volume) facets() facets {
	return facets{sites: []string{v.Status.Site}, hosts: []string{v.Status.Host}, states: []string{string(v.Status.Phase)}}
}
