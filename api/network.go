package api

// KindNetwork is the kind of Network.
const KindNetwork Kind = "networks"

var _ = describe[Network](Noun{
	Rank: 100, Help: "Networks: an IPv6 /64 that is the same wherever its VMs are.",
	Created: true, Changed: true, Deleted: true, Owned: true, See: ItsOwnerOrAll, Write: ItsOwner,
})

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

func (n *Network) facets() (f facets) {
	for _, m := range n.Status.Members {
		f.sites, f.hosts = append(f.sites, m.Site), append(f.hosts, m.Host)
	}
	return f
}
