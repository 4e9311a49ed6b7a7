package machine

import "encoding/binary"

// isControl tells whether an Ethernet frame is what routers and neighbours need
// to know each other: ARP, OSPF and OSPFv3, BFD (RFC 5881, RFC 5883), BGP, and
// neighbour discovery (RFC 4861). It goes by protocols and not by the DSCP, which
// whoever fills the link could set, too. What is inside of a tunnel is not looked at.
func isControl(frame []byte) bool {
	const (
		arp, ipv4, ipv6, vlan   = 0x0806, 0x0800, 0x86dd, 0x8100
		tcp, udp, icmpv6, ospf  = 6, 17, 58, 89
		firstND, lastND         = 133, 137
		bgp                     = 179
		bfd, bfdEcho, bfdMulti  = 3784, 3785, 4784
		ethernetHeader, vlanTag = 14, 4
	)
	if len(frame) < ethernetHeader {
		return false
	}
	kind, b := binary.BigEndian.Uint16(frame[12:]), frame[ethernetHeader:]
	if kind == vlan && len(b) >= vlanTag {
		kind, b = binary.BigEndian.Uint16(b[2:]), b[vlanTag:]
	}
	var protocol byte
	switch {
	case kind == arp:
		return true
	case kind == ipv4 && len(b) >= 20:
		const offset = 0x1fff
		header := int(b[0]&15) * 4
		if header < 20 || len(b) < header || binary.BigEndian.Uint16(b[6:])&offset != 0 {
			return false // a later fragment has no ports; routers do not send such ones
		}
		protocol, b = b[9], b[header:]
	case kind == ipv6 && len(b) >= 40:
		protocol, b = b[6], b[40:]
	default:
		return false
	}
	switch {
	case protocol == ospf:
		return true
	case protocol == icmpv6 && len(b) >= 1:
		return b[0] >= firstND && b[0] <= lastND
	case len(b) < 4:
		return false
	}
	from, to := binary.BigEndian.Uint16(b), binary.BigEndian.Uint16(b[2:])
	switch protocol {
	case udp:
		return to == bfd || to == bfdEcho || to == bfdMulti
	case tcp:
		return from == bgp || to == bgp
	}
	return false
}
