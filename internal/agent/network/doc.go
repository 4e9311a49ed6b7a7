// Package network makes the networks of one host: on a hypervisor a bridge, a
// VXLAN device and a dnsmasq for each network, on a gateway (a translator's
// host) a VXLAN device with the gateways' addresses. A network is the same
// layer 2 at every host that carries it, and every hypervisor is its router:
// the same MAC and the same fe80::1 everywhere (a distributed anycast gateway),
// so a VM that moves finds its router where it left it.
//
// The caller gives the whole of what is wanted ([Want]); [Driver.Apply] compares
// it with what the kernel has and changes the difference. Nothing that is right
// is touched, so a restarted agent disturbs no packet, and dnsmasq and all devices
// stay when the agent goes.
//
// How a frame goes, and what to look at when it does not, is in docs/networks.md.
//
// Invariants:
//   - Apply of a Want that fails to validate changes nothing; the error names the field.
//   - Apply of what is there already sends nothing to the kernel and no signal to dnsmasq.
//   - Frames are carried to the hosts of Network.Flood and the endpoints' hosts, to no other.
//   - A forwarding entry that the data path learned is newer than the controller's word: Apply
//     changes it only when the controller's word itself has changed.
//   - No frame with the anycast MAC as source leaves a host, but to the gateways' MAC.
//   - A packet from a VM reaches no address of the host but its network's router addresses, and no
//     service there but ICMPv6, DHCP and DNS; what it sends elsewhere goes to a gateway or nowhere.
//   - What a VM sends with another's MAC or address is dropped before the bridge learns from it.
package network
