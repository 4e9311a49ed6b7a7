package api

// KindAddress is the kind of Address.
const KindAddress Kind = "addresses"

var _ = describe[Address](Noun{
	Rank: 130, Singular: "address", Help: "Public service addresses, IPv4 and IPv6.",
	Created: true, Changed: true, Deleted: true, Owned: true, See: ItsOwner, Write: ItsOwner,
	States: []string{"bound", "free"},
})

// Address is a public service address, IPv4 or IPv6, that leads to one VM wherever it is (RFC 7757).
type Address struct {
	Meta
	Spec   AddressSpec   `json:"spec"`
	Status AddressStatus `json:"status"`
}

// AddressSpec binds an address to a VM.
type AddressSpec struct {
	Address string `json:"address"`        // one IPv4 or IPv6 address; empty at creation: the first one that is free in Pool
	Pool    string `json:"pool,omitempty"` // of the site's address plan, to take Address from; empty: any that is open to the owner
	VM      string `json:"vm,omitempty"`   // empty: held, leads nowhere
}

// AddressStatus is what is seen of an address.
type AddressStatus struct {
	Target      string           `json:"target,omitempty"`      // the VM's IPv6 address
	Translators []string         `json:"translators,omitempty"` // SITE/HOST that have it in their table
	Refused     []AddressRefusal `json:"refused,omitempty"`     // who does not translate it, and why
}

// AddressRefusal says why a translator, or a whole peer, does not translate an address.
type AddressRefusal struct {
	By      string `json:"by"` // SITE/HOST, or SITE
	Message string `json:"message"`
}

// Kind is KindAddress.
func (*Address) Kind() Kind { return KindAddress }

func (a *Address) facets() facets { return facets{states: either(a.Spec.VM != "", "bound", "free")} }
