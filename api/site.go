package api

import "time"

// Site is one organisation's part of the federation, as this site knows it. A site lists itself and its peers.
type Site struct {
	Meta
	Spec   SiteSpec   `json:"spec"`
	Status SiteStatus `json:"status"`
}

// SiteSpec is what a site says of itself.
type SiteSpec struct {
	Endpoint string        `json:"endpoint"`        // host:port of the site's one outside port
	Pools    []AddressPool `json:"pools,omitempty"` // own site only: the parts of its address plan that the reader may use
}

// AddressPool is a part of a site's address plan. It is set in the site's configuration.
type AddressPool struct {
	Name     string   `json:"name"`
	Use      string   `json:"use"` // networks or addresses
	Prefixes []string `json:"prefixes"`
	Except   []string `json:"except,omitempty"` // inside of Prefixes, and never given
	Owners   []string `json:"owners,omitempty"` // * is all of the site's
	Peers    []string `json:"peers,omitempty"`  // * is every peer
}

// SiteStatus is what is seen of a site.
type SiteStatus struct {
	Self    bool      `json:"self"`
	Reached bool      `json:"reached"`        // a control session is up now
	Since   time.Time `json:"since,omitzero"` // of the last change of Reached
	RTT     float64   `json:"rtt_seconds,omitempty"`
	Hosts   int       `json:"hosts"` // own site only
	Free    Resources `json:"free"`  // own site: not allotted; a peer: what is left of its loans to us
	Message string    `json:"message,omitempty"`
}

// Kind is KindSite.
func (*Site) Kind() Kind { return KindSite }

// Peer is another site with which certificates were exchanged.
type Peer struct {
	Meta
	Spec   PeerSpec   `json:"spec"`
	Status PeerStatus `json:"status"`
}

// PeerSpec is what was exchanged once, by hand or by `wcc peer add`.
type PeerSpec struct {
	Endpoint    string `json:"endpoint"`    // host:port of its outside port; empty when only the peer can dial
	Certificate string `json:"certificate"` // PEM of its site CA certificate
	Fingerprint string `json:"fingerprint"` // SHA-256 of the certificate's DER, hex; what people compare by voice
}

// PeerStatus is what is seen of a peer.
type PeerStatus struct {
	Reached bool      `json:"reached"`
	Since   time.Time `json:"since,omitzero"`
	RTT     float64   `json:"rtt_seconds,omitempty"`
	Message string    `json:"message,omitempty"`
}

// Kind is KindPeer.
func (*Peer) Kind() Kind { return KindPeer }

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
	Message    string     `json:"message,omitempty"`
}

// CPU is what a host offers to guests; two hosts can exchange running guests when the guest's model is usable at both.
type CPU struct {
	Arch   string   `json:"arch,omitempty"`
	Accel  string   `json:"accel,omitempty"`  // kvm or tcg
	Model  string   `json:"model,omitempty"`  // the host's own model
	Usable []string `json:"usable,omitempty"` // guest CPU models that can run here
}

// Kind is KindHost.
func (*Host) Kind() Kind { return KindHost }

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

// User is a person or a program with tokens.
type User struct {
	Meta
	Spec   UserSpec   `json:"spec"`
	Status UserStatus `json:"status"`
}

// UserSpec says what a user may do. A user without Admin sees and changes what its Owner owns.
type UserSpec struct {
	Admin bool `json:"admin,omitempty"`
}

// UserStatus lists the user's tokens by their ids; the tokens themselves are shown once, when made.
type UserStatus struct {
	Tokens []string `json:"tokens,omitempty"`
}

// Kind is KindUser.
func (*User) Kind() Kind { return KindUser }
