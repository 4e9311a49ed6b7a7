package network

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"time"
)

// Well-known values of the data plane; the same at every host of a federation.
const (
	// DefaultMTU is a network's MTU in bytes over an underlay of 1500: IPv6 40, UDP 8, VXLAN 8, inner Ethernet 14
	// (RFC 7348 §4.3 forbids fragmenting the outer packet).
	DefaultMTU = 1430
	// tableBase + VNI is the routing table of a network at a hypervisor. It is one for each network because
	// each has a default route of its own.
	tableBase = 646_000_000
)

var (
	// AnycastMAC is the router's MAC at every hypervisor.
	AnycastMAC = net.HardwareAddr{0x02, 0x57, 0x43, 0x00, 0x00, 0x01}
	// GatewayMAC is the gateways' MAC on every network.
	GatewayMAC = net.HardwareAddr{0x02, 0x57, 0x43, 0x00, 0x06, 0x46}
	// edgeOUI begins the MACs by which hosts that are hypervisor and gateway speak to VMs elsewhere.
	edgeOUI = net.HardwareAddr{0x02, 0x57, 0x47}
	// RouterAddr is the VMs' default router, the hypervisor that they run on.
	RouterAddr = netip.MustParseAddr("fe80::1")
	// GatewayAddr is the gateways' link-local address on every network.
	GatewayAddr = netip.MustParseAddr("fe80::646")
)

// Want is everything that the host's networks are to be; plain data, from the controller.
type Want struct {
	VTEP        netip.Addr // this host's VXLAN tunnel end point: an IPv6 address of the underlay that the host has already
	Role        Role
	AnycastVTEP netip.Addr // the address that all gateways share; on a gateway it is put on lo. Zero: there are no gateways (yet)
	Networks    []Network
}

// Role is what a host does for its networks. It may do both: the bridge is the gateway too then.
type Role struct {
	Hypervisor bool // VMs plug in here
	Gateway    bool // packets enter and leave the networks here
}

// Network is one network as this host is to carry it.
type Network struct {
	UID       string       // names the devices: the same at every host, see BridgeName
	Name      string       // a DNS label; for people, and the VMs' domain: NAME.internal
	VNI       uint32       // RFC 7348 §4: 1 to 16777215, another for each network
	Prefix    netip.Prefix // an IPv6 /64
	IPv4      netip.Prefix // private addresses by DHCP; zero: none
	MTU       int          // bytes; 0: DefaultMTU
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
}

// Lease is an IPv4 address that this host's dnsmasq has leased to a VM.
type Lease struct {
	MAC      net.HardwareAddr
	IPv4     netip.Addr
	Hostname string    // as the VM was told; may be empty
	Expires  time.Time // zero: never
}

// Neighbour is an IPv6 address that a VM of this host has used or asked for (RFC 4862 §5.4), by its MAC.
type Neighbour struct {
	MAC  net.HardwareAddr
	IPv6 netip.Addr
}

// ErrUnknownNetwork: the network is not among those of the last Apply.
var ErrUnknownNetwork = errors.New("unknown network")

var label = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$`)

// Validate returns every fault of w, each with its field. Apply calls it first.
func (w Want) Validate() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	vtep := func(field string, a netip.Addr) {
		if !a.Is6() || a.Is4In6() || a.Zone() != "" || a.IsMulticast() || a.IsUnspecified() || a.IsLinkLocalUnicast() {
			bad("%s: %q is no routable IPv6 unicast address", field, a)
		}
	}
	if len(w.Networks) > 0 || w.VTEP.IsValid() {
		vtep("vtep", w.VTEP)
	}
	if w.AnycastVTEP.IsValid() {
		vtep("anycast_vtep", w.AnycastVTEP)
		if w.AnycastVTEP == w.VTEP {
			bad("anycast_vtep: %s is the host's own VTEP too", w.VTEP)
		}
	} else if w.Role.Gateway && len(w.Networks) > 0 {
		bad("anycast_vtep: missing, and a gateway needs it")
	}
	if len(w.Networks) > 0 && !w.Role.Hypervisor && !w.Role.Gateway {
		bad("role: a host that carries networks is a hypervisor or a gateway")
	}
	uids, vnis, names := map[string]bool{}, map[uint32]string{}, map[string]string{}
	for i, n := range w.Networks {
		at := fmt.Sprintf("networks[%d].", i)
		if n.UID == "" {
			bad("%suid: missing", at)
		} else if uids[n.UID] {
			bad("%suid: %q is there twice", at, n.UID)
		}
		uids[n.UID] = true
		if other, ok := names[BridgeName(n.UID)]; ok && other != n.UID {
			bad("%suid: devices of %q would have the names of those of %q", at, n.UID, other)
		}
		names[BridgeName(n.UID)] = n.UID
		if !label.MatchString(n.Name) {
			bad("%sname: %q is no DNS label", at, n.Name)
		}
		if n.VNI == 0 || n.VNI >= 1<<24 {
			bad("%svni: %d is not in 1 to 16777215", at, n.VNI)
		} else if other, ok := vnis[n.VNI]; ok {
			bad("%svni: %d is that of network %s too", at, n.VNI, other)
		}
		vnis[n.VNI] = n.Name
		if !n.Prefix.IsValid() || n.Prefix.Bits() != 64 || !n.Prefix.Addr().Is6() || n.Prefix != n.Prefix.Masked() {
			bad("%sprefix: %s is no IPv6 /64", at, n.Prefix)
		}
		if n.IPv4.IsValid() && (!n.IPv4.Addr().Is4() || n.IPv4.Bits() < 8 || n.IPv4.Bits() > 29 || n.IPv4 != n.IPv4.Masked()) {
			bad("%sipv4: %s is no IPv4 prefix of /8 to /29", at, n.IPv4)
		}
		if n.MTU != 0 && (n.MTU < 1280 || n.MTU > 9000) {
			bad("%smtu: %d is not in 1280 to 9000", at, n.MTU)
		}
		for k, a := range n.Flood {
			vtep(fmt.Sprintf("%sflood[%d]", at, k), a)
		}
		macs, addrs := map[string]string{}, map[netip.Addr]string{}
		for k, e := range n.Endpoints {
			at := fmt.Sprintf("%sendpoints[%d].", at, k)
			if len(e.MAC) != 6 || e.MAC[0]&1 != 0 || e.MAC.String() == AnycastMAC.String() || e.MAC.String() == GatewayMAC.String() {
				bad("%smac: %q is no MAC for a VM", at, e.MAC)
			} else if other, ok := macs[e.MAC.String()]; ok {
				bad("%smac: %s is that of VM %s too", at, e.MAC, other)
			}
			macs[e.MAC.String()] = e.VM
			take := func(field string, a netip.Addr) {
				if other, ok := addrs[a]; ok {
					bad("%s%s: %s is that of VM %s too", at, field, a, other)
				}
				addrs[a] = e.VM
			}
			if !e.IPv6.IsValid() || !n.Prefix.Contains(e.IPv6) || e.IPv6 == n.router6() || e.IPv6 == n.gateway6() {
				bad("%sipv6: %q is no address for a VM in %s", at, e.IPv6, n.Prefix)
			} else {
				take("ipv6", e.IPv6)
			}
			if e.IPv4.IsValid() {
				if !n.IPv4.IsValid() || !n.IPv4.Contains(e.IPv4) || e.IPv4 == n.router4() || e.IPv4 == n.IPv4.Addr() || e.IPv4 == broadcast(n.IPv4) {
					bad("%sipv4: %s is no address for a VM in %s", at, e.IPv4, n.IPv4)
				} else {
					take("ipv4", e.IPv4)
				}
			}
			if e.VTEP.IsValid() {
				vtep(at+"vtep", e.VTEP)
			}
			if e.Hostname != "" && !label.MatchString(e.Hostname) {
				bad("%shostname: %q is no DNS label", at, e.Hostname)
			}
		}
	}
	return errors.Join(errs...)
}

func (n Network) mtu() int {
	if n.MTU == 0 {
		return DefaultMTU
	}
	return n.MTU
}

func (n Network) table() int { return tableBase + int(n.VNI) }

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
