package netplan

import (
	"fmt"
	"net/netip"

	"widecloud/api"
)

// Spec is what a network is, at every host and every site that carries it. Orders and views embed it: a new field of a
// network has its place here.
type Spec struct {
	UID      string       `json:"uid"`
	Name     string       `json:"name"`
	VNI      uint32       `json:"vni"`
	Prefix   netip.Prefix `json:"prefix"`
	IPv4     netip.Prefix `json:"ipv4,omitzero"`
	MTU      int          `json:"mtu"`
	Mobility string       `json:"mobility,omitempty" since:"1"` // empty: l2
}

// SpecOf gives the spec of a network object. The error names the network whose prefix cannot be read.
func SpecOf(n *api.Network) (Spec, error) {
	s := Spec{UID: n.UID, Name: n.Name, VNI: n.Spec.VNI, MTU: n.Spec.MTU, Mobility: n.Spec.Mobility}
	if s.Mobility == defaultMobility {
		s.Mobility = ""
	}
	var err error
	if s.Prefix, err = netip.ParsePrefix(n.Spec.Prefix); err != nil {
		return s, fmt.Errorf("network %s: %w", n.Name, err)
	}
	if n.Spec.IPv4 != "" {
		if s.IPv4, err = netip.ParsePrefix(n.Spec.IPv4); err != nil {
			return s, fmt.Errorf("network %s: %w", n.Name, err)
		}
	}
	return s, nil
}

// Order is a network as one host is to carry it.
type Order struct {
	Spec
	Home      string       `json:"home"`            // site
	Flood     []netip.Addr `json:"flood,omitempty"` // l2: VTEPs of the other hosts that carry it
	Endpoints []Endpoint   `json:"endpoints,omitempty"`
}

// View is a network with its VMs and mappings as its home site sees them. It goes to the peers that carry the network; its
// home is who signed the document.
type View struct {
	Spec
	Members   []api.NetworkMember `json:"members"`
	Endpoints []Endpoint          `json:"endpoints"`
	Mappings  []Mapping           `json:"mappings,omitempty"`
}

// Endpoint is a VM's place on a network.
type Endpoint struct {
	VM       string     `json:"vm"` // UID
	Hostname string     `json:"hostname"`
	MAC      string     `json:"mac"`
	IPv6     netip.Addr `json:"ipv6"`
	IPv4     netip.Addr `json:"ipv4,omitzero"`
	VTEP     netip.Addr `json:"vtep"` // of the host where it runs
}

// Mapping leads a public service address to a VM's IPv6 address.
type Mapping struct {
	Service netip.Addr `json:"service"`
	Target  netip.Addr `json:"target"`
}

// Known is a network that a site carries or may carry, with its home: what tells networks apart.
type Known struct {
	Home string
	Spec
}

// Clash says what n and k cannot share: the field (uid, vni or prefix) and a text for people. Both are empty when the two can
// be carried side by side.
func (n Known) Clash(k Known) (field, text string) {
	switch same := k.UID == n.UID; {
	case same && k.Home == n.Home && k.VNI == n.VNI && k.Prefix == n.Prefix:
		return "", ""
	case same:
		return "uid", fmt.Sprintf("network %s is %s's network %s (vni %d, %s)", n.UID, k.Home, k.Name, k.VNI, k.Prefix)
	case k.VNI == n.VNI:
		return "vni", fmt.Sprintf("VXLAN identifier %d is in use here by network %s of %s", n.VNI, k.Name, k.Home)
	case k.Prefix.Overlaps(n.Prefix):
		return "prefix", fmt.Sprintf("prefix %s overlaps %s of network %s of %s", n.Prefix, k.Prefix, k.Name, k.Home)
	}
	return "", ""
}
