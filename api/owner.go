package api

// KindOwner is the kind of Owner.
const KindOwner Kind = "owners"

var _ = describe[Owner](Noun{
	Rank: 30, Help: "Organisations.",
	Created: true, Changed: true, Deleted: true, See: ItsMembers,
})

// Owner is an organisation.
type Owner struct {
	Meta
	Spec   OwnerSpec   `json:"spec"`
	Status OwnerStatus `json:"status"`
}

// OwnerSpec describes an organisation.
type OwnerSpec struct {
	Title string `json:"title,omitempty"`
	Quota *Quota `json:"quota,omitempty"` // at most this much at the home site and on loan together; nil: no limit
}

// Quota limits what an organisation may use. A field that is left out has no limit; zero means none of it.
type Quota struct {
	CPUs      *int `json:"cpus,omitempty"`       // virtual CPUs
	MemoryMiB *int `json:"memory_mib,omitempty"` // guest memory, MiB
	DiskGiB   *int `json:"disk_gib,omitempty"`   // virtual disk size, GiB
	Addresses *int `json:"addresses,omitempty"`  // public service addresses
}

// OwnerStatus is what the organisation uses.
type OwnerStatus struct {
	Used Resources `json:"used"`
}

// Kind is KindOwner.
func (*Owner) Kind() Kind { return KindOwner }
