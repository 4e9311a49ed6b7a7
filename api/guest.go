package api

import "time"

// KindGuest is the kind of Guest.
const KindGuest Kind = "guests"

var _ = describe[Guest](Noun{
	Rank: 120, Help: "Other sites' VMs that run here under a loan.",
	States: phases,
})

// Guest is another site's VM that runs here under a loan; kept by the lender.
type Guest struct {
	Meta
	Spec   GuestSpec   `json:"spec"`
	Status GuestStatus `json:"status"`
}

// GuestSpec is what the VM's home site asked for, under which loan.
type GuestSpec struct {
	VM    string    `json:"vm"` // name at its home
	VMUID string    `json:"vm_uid"`
	Loan  string    `json:"loan"`
	Needs Resources `json:"needs"`
	Host  string    `json:"host"`
	Epoch uint64    `json:"epoch"`
	Job   string    `json:"job,omitempty"` // the migration that is bringing it; empty once it has arrived
}

// GuestStatus is what is seen of a guest.
type GuestStatus struct {
	Phase   VMPhase   `json:"phase"`
	Since   time.Time `json:"since,omitzero"`
	Message string    `json:"message,omitempty"`
	Has     Resources `json:"has,omitzero"` // what it was seen to take; a change that waits is not in it
}

// Kind is KindGuest.
func (*Guest) Kind() Kind { return KindGuest }

func (g *Guest) facets() facets {
	return facets{hosts: []string{g.Spec.Host}, states: []string{string(g.Status.Phase)}}
}
