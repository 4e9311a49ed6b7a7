package api

// KindImage is the kind of Image.
const KindImage Kind = "images"

var _ = describe[Image](Noun{
	Rank: 80, Help: "Disk images that VMs start from.",
	Created: true, Changed: true, Deleted: true, Owned: true, See: ItsOwnerOrAll, Write: ItsOwner,
	States: []string{"importing", "ready", "failed"},
})

// Image is a disk image that VMs start from. Its content never changes: it is known by its digest.
type Image struct {
	Meta
	Spec   ImageSpec   `json:"spec"`
	Status ImageStatus `json:"status"`
}

// ImageSpec says where an image comes from.
type ImageSpec struct {
	Source string `json:"source"`           // an absolute path on the controller's machine, or an http(s) URL; empty: uploaded, or of a VM
	VM     string `json:"vm,omitempty"`     // a stopped VM, of whose disk it is made as that is now; empty: of none
	Disk   string `json:"disk,omitempty"`   // of that VM: root, or the name of another one; empty: root
	Digest string `json:"digest,omitempty"` // expected sha256:HEX of the source's bytes; checked before use
	Format string `json:"format,omitempty"` // qcow2 or raw; empty: qcow2, since a raw image must be declared
}

// ImageStatus is what was imported.
type ImageStatus struct {
	Phase      string `json:"phase"` // importing, ready, failed
	Digest     string `json:"digest,omitempty"`
	Format     string `json:"format,omitempty"`
	Bytes      int64  `json:"bytes,omitempty"`       // of the file
	VirtualMiB int64  `json:"virtual_mib,omitempty"` // of the disk
	Job        string `json:"job,omitempty"`         // the job that is bringing it in
	Message    string `json:"message,omitempty"`
}

// Kind is KindImage.
func (*Image) Kind() Kind { return KindImage }

func (i *Image) facets() facets { return facets{states: []string{i.Status.Phase}} }
