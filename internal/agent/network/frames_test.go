package network_test

import (
	"encoding/binary"
	"net"
	"net/netip"
	"slices"
)

// Ethernet types and IPv6 next headers of the frames that tests make.
const (
	typeIPv4, typeARP, typeVLAN, typeIPv6, typeRARP, typeQinQ = 0x0800, 0x0806, 0x8100, 0x86dd, 0x8035, 0x88a8

	hopByHop, tcp, udp, routing, fragment, icmp6, noNext, destOpts, hip = 0, 6, 17, 43, 44, 58, 59, 60, 139
)

var (
	broadcast  = net.HardwareAddr{255, 255, 255, 255, 255, 255}
	allNodes   = net.HardwareAddr{0x33, 0x33, 0, 0, 0, 1}
	allRouters = net.HardwareAddr{0x33, 0x33, 0, 0, 0, 2}
)

func be16(v int) []byte { return binary.BigEndian.AppendUint16(nil, uint16(v)) }

// ether is a frame from src to dst; kinds are its Ethernet type, or tags' types and tags before it.
func ether(dst, src net.HardwareAddr, kinds []int, payload []byte) []byte {
	f := slices.Concat(dst, src)
	for _, k := range kinds {
		f = append(f, be16(k)...)
	}
	return append(f, payload...)
}

// tagged puts tags (type, tag, type, tag, …) in front of a frame's Ethernet type.
func tagged(frame []byte, tags ...int) []byte {
	var t []byte
	for _, k := range tags {
		t = append(t, be16(k)...)
	}
	return slices.Concat(frame[:12], t, frame[12:])
}

// packet6 is an IPv6 packet (RFC 8200 §3), with the upper layer's checksum filled in where it is ICMPv6 or UDP and stands
// right behind the header.
func packet6(src, dst netip.Addr, next byte, payload []byte) []byte {
	s, d := src.As16(), dst.As16()
	payload = slices.Clone(payload)
	if at := map[byte]int{icmp6: 2, udp: 6}[next]; at > 0 && len(payload) >= 8 {
		checksum6(src, dst, next, payload, at)
	}
	return slices.Concat([]byte{0x60, 0, 0, 0}, be16(len(payload)), []byte{next, 255}, s[:], d[:], payload)
}

// checksum6 fills in an upper layer's checksum (RFC 8200 §8.1).
func checksum6(src, dst netip.Addr, next byte, b []byte, at int) {
	s, d := src.As16(), dst.As16()
	b[at], b[at+1] = 0, 0
	sum := uint32(len(b)) + uint32(next)
	for _, part := range [][]byte{s[:], d[:], b} {
		for i, v := range part {
			sum += uint32(v) << (8 * (1 - i%2))
		}
	}
	for sum>>16 != 0 {
		sum = sum&0xffff + sum>>16
	}
	binary.BigEndian.PutUint16(b[at:], ^uint16(sum))
}

// frame6 is an Ethernet frame with an IPv6 packet.
func frame6(srcMAC, dstMAC net.HardwareAddr, src, dst netip.Addr, next byte, payload []byte) []byte {
	return ether(dstMAC, srcMAC, []int{typeIPv6}, packet6(src, dst, next, payload))
}

// frame4 is an Ethernet frame with an IPv4 packet; the checksum of its header is right, the upper layer's is not there.
func frame4(srcMAC, dstMAC net.HardwareAddr, src, dst netip.Addr, protocol byte, payload []byte) []byte {
	h := slices.Concat([]byte{0x45, 0}, be16(20+len(payload)), []byte{0, 1, 0, 0, 64, protocol, 0, 0}, src.AsSlice(), dst.AsSlice())
	var sum uint32
	for i := 0; i < 20; i += 2 {
		sum += uint32(h[i])<<8 | uint32(h[i+1])
	}
	for sum>>16 != 0 {
		sum = sum&0xffff + sum>>16
	}
	binary.BigEndian.PutUint16(h[10:], ^uint16(sum))
	return ether(dstMAC, srcMAC, []int{typeIPv4}, slices.Concat(h, payload))
}

func udpTo(src, dst int, payload []byte) []byte {
	return slices.Concat(be16(src), be16(dst), be16(8+len(payload)), []byte{0, 0}, payload)
}

// advertisement is a router advertisement (RFC 4861 §4.2) of a router that wants all traffic.
func advertisement(mac net.HardwareAddr) []byte {
	return slices.Concat([]byte{134, 0, 0, 0, 64, 0, 7, 8}, make([]byte, 8), []byte{1, 1}, mac)
}

// redirect (RFC 4861 §4.5) leads dst to target.
func redirect(target, dst netip.Addr) []byte {
	return slices.Concat([]byte{137, 0, 0, 0, 0, 0, 0, 0}, target.AsSlice(), dst.AsSlice())
}

// solicit is a neighbour solicitation (RFC 4861 §4.3); without a MAC it is that of duplicate address detection.
func solicit(target netip.Addr, mac net.HardwareAddr) []byte {
	b := slices.Concat([]byte{135, 0, 0, 0, 0, 0, 0, 0}, target.AsSlice())
	if mac != nil {
		b = slices.Concat(b, []byte{1, 1}, mac)
	}
	return b
}

// advertise is a neighbour advertisement (RFC 4861 §4.4) that overrides what is known.
func advertise(target netip.Addr, mac net.HardwareAddr) []byte {
	return slices.Concat([]byte{136, 0, 0, 0, 0x20, 0, 0, 0}, target.AsSlice(), []byte{2, 1}, mac)
}

func echoTo(id int) []byte { return slices.Concat([]byte{128, 0, 0, 0}, be16(id), be16(1)) }

// extension is an extension header of 8 bytes that is padding (RFC 8200 §4.2) before next.
func extension(next byte) []byte { return []byte{next, 0, 1, 4, 0, 0, 0, 0} }

// fragmentOf is a fragment header (RFC 8200 §4.5) before next; offset in bytes.
func fragmentOf(next byte, offset int, more bool) []byte {
	v := offset
	if more {
		v |= 1
	}
	return slices.Concat([]byte{next, 0}, be16(v), []byte{0, 0, 0x57, 0x43})
}

// arp is an ARP packet (RFC 826) in a frame.
func arp(dst, src net.HardwareAddr, op int, senderMAC net.HardwareAddr, sender netip.Addr, targetMAC net.HardwareAddr, target netip.Addr) []byte {
	return ether(dst, src, []int{typeARP}, slices.Concat([]byte{0, 1, 8, 0, 6, 4}, be16(op), senderMAC, sender.AsSlice(), targetMAC, target.AsSlice()))
}

// rarp is what QEMU sends where a migrated VM goes on (RFC 903, a request).
func rarp(src, mac net.HardwareAddr) []byte {
	return ether(broadcast, src, []int{typeRARP}, slices.Concat([]byte{0, 1, 8, 0, 6, 4, 0, 3}, mac, make([]byte, 4), mac, make([]byte, 4), make([]byte, 18)))
}

// linkLocal is the address that a kernel makes from a MAC (RFC 4291 appendix A).
func linkLocal(mac net.HardwareAddr) netip.Addr {
	return netip.AddrFrom16([16]byte{0xfe, 0x80, 8: mac[0] ^ 2, mac[1], mac[2], 0xff, 0xfe, mac[3], mac[4], mac[5]})
}

// vxlan is a frame in VXLAN's header (RFC 7348 §5).
func vxlan(vni uint32, frame []byte) []byte {
	return slices.Concat([]byte{8, 0, 0, 0, byte(vni >> 16), byte(vni >> 8), byte(vni), 0}, frame)
}
