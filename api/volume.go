package api

// KindVolume is the kind of Volume.
const KindVolume Kind = "volumes"

var _ = describe[Volume](Noun{
	Rank: 90, Help: "Disks of VMs.",
	Owned: true, See: ItsOwner,
})

// Volume is a VM's disk: its root disk is a qcow2 overlay over its image, and is called as the VM; another one is an empty qcow2
// image at first, and is called VM.DISK. It lives on the VM's host.
type Volume struct {
	Meta
	Spec   VolumeSpec   `json:"spec"`
	Status VolumeStatus `json:"status"`
}

// VolumeSpec says what a volume is over.
type VolumeSpec struct {
	VM      string `json:"vm"`
	Disk    string `json:"disk,omitempty"`  // name in the VM; root: the one over the image
	Image   string `json:"image,omitempty"` // digest of the base; "": it has none
	SizeMiB int64  `json:"size_mib"`
}

// VolumeStatus says where a volume is.
type VolumeStatus struct {
	Site           string `json:"site,omitempty"`
	Host           string `json:"host,omitempty"`
	AllocatedBytes int64  `json:"allocated_bytes,omitempty"` // on the host: of a root disk, the difference from the base
}

// Kind is KindVolume.
func (*Volume) Kind() Kind { return KindVolume }

func (v *Volume) facets() facets {
	return facets{sites: []string{v.Status.Site}, hosts: []string{v.Status.Host}}
}
