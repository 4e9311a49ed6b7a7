package api

// Network is an IPv6 /64 that is the same wherever its VMs are.
type Network struct {
	Meta
	Spec   NetworkSpec   `json:"spec"`
	Status NetworkStatus `json:"status"`
}

// NetworkSpec describes a network.
type NetworkSpec struct {
	Prefix   string `json:"prefix"`             // IPv6 /64; empty at creation: the first one that is free in Pool
	Pool     string `json:"pool,omitempty"`     // of the site's address plan, to take Prefix from; empty: any that is open to the owner
	IPv4     string `json:"ipv4,omitempty"`     // private IPv4 prefix for DHCP (RFC 1918), /16 to /28; empty: none
	Mobility string `json:"mobility,omitempty"` // l2 (the default and, so far, the only one)
	MTU      int    `json:"mtu,omitempty"`      // bytes; default 1430: 1500 less VXLAN over IPv6 (70)
	VNI      uint32 `json:"vni,omitempty"`      // VXLAN network identifier (RFC 7348 §4), 1 to 16777215; 0: chosen by the home site
}

// NetworkStatus says where a network is.
type NetworkStatus struct {
	Members []NetworkMember `json:"members,omitempty"`
}

// NetworkMember is a host that carries a network.
type NetworkMember struct {
	Site string   `json:"site"`
	Host string   `json:"host"`
	VTEP string   `json:"vtep"`
	Role HostRole `json:"role"`
}

// Kind is KindNetwork.
func (*Network) Kind() Kind { return KindNetwork }

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

// Translator is a map646 node as its agent reports it.
type Translator struct {
	Meta
	Spec   TranslatorSpec   `json:"spec"`
	Status TranslatorStatus `json:"status"`
}

// TranslatorSpec names the host.
type TranslatorSpec struct {
	Host string `json:"host"`
}

// TranslatorStatus is what is seen of a translator.
type TranslatorStatus struct {
	Running  bool   `json:"running"`
	Mappings int    `json:"mappings"`
	Message  string `json:"message,omitempty"`
}

// Kind is KindTranslator.
func (*Translator) Kind() Kind { return KindTranslator }
