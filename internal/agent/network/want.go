package network

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"widecloud/internal/netplan"
)

// Well-known values of the data plane; the same at every host of a federation.
const (
	// DefaultMTU is a network's MTU in bytes over an underlay of 1500: IPv6 40, UDP 8, VXLAN 8, inner Ethernet 14
	// (RFC 7348 §4.3 forbids fragmenting the outer packet).
	DefaultMTU = 1430
	// tableBase + VNI is the routing table of a network at a hypervisor. It is one for each network because
	// each has a default route of its own. answerBase + VNI is the table for what the network's router answers itself.
	tableBase, answerBase = 646_000_000, 663_000_000
)

var (
	// RouterAddr is the VMs' default router, the hypervisor that they run on.
	RouterAddr = netip.MustParseAddr("fe80::1")
	// GatewayAddr is the gateways' link-local address on every network.
	GatewayAddr = netip.MustParseAddr("fe80::646")
)

// Want is everything that the host's networks are to be; plain data, from the controller.
type Want struct {
	VTEP        netip.Addr // this host's VXLAN tunnel end point: an IPv6 address of the underlay that the host has already
	Role        Role
	AnycastVTEP netip.Addr // the address that all gateways share. Zero: there are no gateways (yet)
	// Reserved are prefixes of both families that no network may overlap: the controller's addresses, pref64, … The driver
	// adds the addresses that the host has on devices of others, and the tunnel end points.
	Reserved []netip.Prefix
	// Networks in the order of trust: of two that exclude each other, and that the host does not carry yet, the first is carried.
	Networks []Network
}

// Role is what a host does for its networks. It may do both: the bridge is the gateway too then.
type Role struct {
	Hypervisor bool // VMs plug in here
	Gateway    bool // packets enter and leave the networks here
}

// Network is one network as this host is to carry it.
type Network struct {
	// Spec's UID names the devices, the same at every host (see BridgeName). Its Name is a DNS label, for people, and the VMs'
	// domain: NAME.internal. An MTU of 0 is DefaultMTU.
	netplan.Spec
	Flood     []netip.Addr // unicast VTEPs of the other hosts that carry it; this host's own is passed over
	Endpoints []Endpoint   // all VMs of the network, wherever they run
}

// Endpoint is a VM's plug in a network.
type Endpoint struct {
	VM       string // UID
	MAC      net.HardwareAddr
	IPv6     netip.Addr // in Prefix; cloud.EUI64(Prefix, MAC)
	IPv4     netip.Addr // in IPv4; zero: none
	VTEP     netip.Addr // of the host that it runs on; zero: it runs nowhere
	Hostname string     // a DNS label, for DHCP and names; empty: none
	// Leaving is set, at the host that the VM runs on, while it migrates away: its MAC may then appear at another host
	// before the controller says so. Otherwise what another host sends with the MAC of a VM that runs here is dropped.
	Leaving bool
}

// Lease is an IPv4 address that this host's dnsmasq has leased to a VM.
type Lease struct {
	MAC      net.HardwareAddr
	IPv4     netip.Addr
	Hostname string    // as the VM was told; may be empty
	Expires  time.Time // zero: never
}

// Source is how a host knows that a VM has an address.
type Source string

// The sources of addresses. Their names are those of package api.
const (
	ByLease     Source = "dhcp"      // dnsmasq has leased it to the VM's MAC
	ByNeighbour Source = "neighbour" // the VM has spoken of it in neighbour discovery (RFC 4861, RFC 4862 §5.4) or ARP, or has sent IPv6 packets from it
)

// Sighting is an address that a VM of this host was seen with. What a guest says of itself may be false: Refused is set where the
// filters have dropped that, because the address is another's or outside the network.
type Sighting struct {
	Addr    netip.Addr
	Source  Source
	At      time.Time // when it was seen last, by the host's clock
	Refused bool
}

// NetworkError says why a network is not carried as it was wanted. It harms no other network.
type NetworkError struct {
	UID, Name string
	// Carried tells that the network is carried all the same: without the endpoint or the address that Err names, or, where
	// it was carried before, as it was then.
	Carried bool
	Err     error // names the field
}

// Error is error's.
func (e *NetworkError) Error() string {
	if e.Carried {
		return fmt.Sprintf("network %q (%s): %v", e.Name, e.UID, e.Err)
	}
	return fmt.Sprintf("network %q (%s) is not carried: %v", e.Name, e.UID, e.Err)
}

// Unwrap is errors.Is's and errors.As's.
func (e *NetworkError) Unwrap() error { return e.Err }

// NetworkErrors takes an error of Apply apart: the networks that are not carried as wanted, and what else went wrong.
func NetworkErrors(err error) (networks []*NetworkError, rest error) {
	switch e := err.(type) {
	case nil:
	case *NetworkError:
		networks = append(networks, e)
	case interface{ Unwrap() []error }:
		var others []error
		for _, one := range e.Unwrap() {
			n, other := NetworkErrors(one)
			networks, others = append(networks, n...), append(others, other)
		}
		rest = errors.Join(others...)
	case interface{ Unwrap() error }:
		if networks, rest = NetworkErrors(e.Unwrap()); len(networks) == 0 {
			rest = err
		}
	default:
		rest = err
	}
	return networks, rest
}

// ErrUnknownNetwork: the network is not among those of the last Apply.
var ErrUnknownNetwork = errors.New("unknown network")

func (n Network) mtu() int {
	if n.MTU == 0 {
		return DefaultMTU
	}
	return n.MTU
}

func (n Network) table() int { return tableBase + int(n.VNI) }

func (n Network) answerTable() int { return answerBase + int(n.VNI) }

// router6 is the hypervisor's global address in the network: dnsmasq advertises a prefix only where the device has an
// address of it. Anycast like fe80::1.
func (n Network) router6() netip.Addr { return withIID(n.Prefix, 1) }

// both tells whether VMs' packets enter and leave the network right where they are switched.
func (r Role) both() bool { return r.Hypervisor && r.Gateway }

// gateway6 is the gateways' global address in the network.
func (n Network) gateway6() netip.Addr { return withIID(n.Prefix, 0x646) }

// router4 is the first host address of the private prefix, the DHCP server's.
func (n Network) router4() netip.Addr { return n.IPv4.Addr().Next() }

func withIID(p netip.Prefix, iid uint16) netip.Addr {
	a := p.Addr().As16()
	a[14], a[15] = byte(iid>>8), byte(iid)
	return netip.AddrFrom16(a)
}

func broadcast(p netip.Prefix) netip.Addr {
	a := p.Addr().As4()
	for i := p.Bits(); i < 32; i++ {
		a[i/8] |= 0x80 >> (i % 8)
	}
	return netip.AddrFrom4(a)
}
