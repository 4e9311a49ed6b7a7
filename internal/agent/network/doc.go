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
// What joins a network on this host to the same network elsewhere is behind a seam (mobility.go), with l2 (VXLAN) as its
// first kind. All else is common to all kinds.
//
// How a frame goes, which file does what, and what to look at when it does not, is in docs/networks.md.
//
// Invariants:
//   - Apply of a Want that is wrong in what concerns the host changes nothing; the error names the field.
//   - A network that cannot be carried as it is wanted harms no other. One that is carried stays as it was,
//     unless it takes from the host what it needs itself; an endpoint or tunnel end point that is bad is left
//     out alone. Of two networks that exclude each other the one that is carried stays.
//   - No network covers an address of the host, of its controller (Want.Reserved) or a tunnel end point.
//   - Apply of what is there already sends nothing to the kernel and no signal to dnsmasq.
//   - A VM that comes, moves or goes changes elements of the rule set, in one transaction, and no rule.
//   - Frames are carried to the hosts of Network.Flood and the endpoints' hosts, to no other, and are taken
//     from these only, each for its own networks.
//   - A forwarding entry that the data path learned is newer than the controller's word: Apply changes it only
//     when the controller's word itself has changed.
//   - No frame with the anycast MAC as source leaves a host, but to the gateways' MAC.
//   - A packet from a VM reaches no address of the host but its network's router addresses, and no service
//     there but ICMPv6, DHCP and DNS, and at a gateway ICMPv6 alone; what it sends elsewhere goes to a gateway
//     or nowhere.
//   - What a VM sends with another's MAC or address, tagged, or with its upper layer out of sight, is dropped
//     before the bridge learns from it. A port of a bridge that no VM is known to be on carries nothing.
//   - No VM fills a table: its MAC is one, its addresses beside its own are some tens, its multicast has a
//     rate, and nobody is asked for an address that no VM has.
package network
