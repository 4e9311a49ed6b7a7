package lisp

import (
	"encoding/binary"
	"fmt"
	"net/netip"
)

// Encapsulated is an Encapsulated Control Message (RFC 9301 §5.8): a message inside of an IP and UDP header of the EIDs
// between which it goes, which the mapping system routes by.
type Encapsulated struct {
	DDT      bool           // from a DDT node
	From, To netip.AddrPort // of the inner headers: both IPv4, or both IPv6
	Message  Message        // not an Encapsulated
}

func (m *Encapsulated) name() string { return "Encapsulated Control Message" }

const (
	udpHeader  = 8
	ipv4Header = 20
	ipv6Header = 40
	protoUDP   = 17
	innerTTL   = 255
)

func (m *Encapsulated) append(b []byte) ([]byte, error) {
	if _, ok := m.Message.(*Encapsulated); ok || m.Message == nil {
		return nil, fmt.Errorf("it holds no message, or one of its own kind")
	}
	from, to := m.From.Addr(), m.To.Addr()
	if !from.IsValid() || from.BitLen() != to.BitLen() || from.Is4In6() || to.Is4In6() || from.Zone()+to.Zone() != "" {
		return nil, fmt.Errorf("from %v to %v: both must be IPv4, or both IPv6", from, to)
	}
	b = binary.BigEndian.AppendUint32(b, typeEncapsulated<<28|flag(5, m.DDT))
	ip := len(b)
	size := ipv6Header
	if from.Is4() {
		size = ipv4Header
	}
	b = append(b, zeros[:size+udpHeader]...)
	b, err := Append(b, m.Message)
	if err != nil {
		return nil, err
	}
	udp := b[ip+size:]
	if len(udp)+size > 0xffff {
		return nil, fmt.Errorf("%d bytes: at most 65535", len(udp)+size)
	}
	binary.BigEndian.PutUint16(udp[0:], m.From.Port())
	binary.BigEndian.PutUint16(udp[2:], m.To.Port())
	binary.BigEndian.PutUint16(udp[4:], uint16(len(udp)))
	if from.Is4() {
		putIPv4(b[ip:], from, to)
	} else {
		putIPv6(b[ip:], from, to)
	}
	binary.BigEndian.PutUint16(udp[6:], udpChecksum(from, to, udp))
	return b, nil
}

func putIPv4(b []byte, from, to netip.Addr) {
	b[0] = 4<<4 | ipv4Header/4
	binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
	b[6] = 0x40 // don't fragment
	b[8], b[9] = innerTTL, protoUDP
	copy(b[12:], from.AsSlice())
	copy(b[16:], to.AsSlice())
	binary.BigEndian.PutUint16(b[10:], ^sum(0, b[:ipv4Header]))
}

func putIPv6(b []byte, from, to netip.Addr) {
	b[0] = 6 << 4
	binary.BigEndian.PutUint16(b[4:], uint16(len(b)-ipv6Header))
	b[6], b[7] = protoUDP, innerTTL
	copy(b[8:], from.AsSlice())
	copy(b[24:], to.AsSlice())
}

func (m *Encapsulated) read(r *reader) {
	w := r.uint32()
	if bit(w, 4) {
		r.failf("LISP-SEC: %w", ErrUnsupported)
	}
	m.DDT = bit(w, 5)
	ip := r.rest()
	if r.err != nil {
		return
	}
	from, to, udp, err := inner(ip)
	if err != nil {
		r.err = err
		return
	}
	m.From = netip.AddrPortFrom(from, binary.BigEndian.Uint16(udp[0:]))
	m.To = netip.AddrPortFrom(to, binary.BigEndian.Uint16(udp[2:]))
	payload := udp[udpHeader:]
	if len(payload) > 0 && payload[0]>>4 == typeEncapsulated {
		r.failf("it holds one of its own kind")
		return
	}
	m.Message, r.err = Decode(payload)
}

// inner takes an IP packet of one UDP datagram apart. A checksum must be right; that of IPv4's UDP may be left out.
func inner(b []byte) (from, to netip.Addr, udp []byte, err error) {
	fail := func(format string, args ...any) (netip.Addr, netip.Addr, []byte, error) {
		return netip.Addr{}, netip.Addr{}, nil, fmt.Errorf("inner packet: "+format, args...)
	}
	var length int
	switch {
	case len(b) >= ipv4Header && b[0] == 4<<4|ipv4Header/4:
		if b[9] != protoUDP || binary.BigEndian.Uint16(b[6:])&0x3fff != 0 || sum(0, b[:ipv4Header]) != 0xffff {
			return fail("it is no whole UDP datagram, or its header's checksum is wrong")
		}
		from, to, length = netip.AddrFrom4([4]byte(b[12:])), netip.AddrFrom4([4]byte(b[16:])), int(binary.BigEndian.Uint16(b[2:]))
		udp = b[ipv4Header:]
	case len(b) >= ipv6Header && b[0]>>4 == 6:
		if b[6] != protoUDP {
			return fail("it is no UDP datagram")
		}
		from, to, length = netip.AddrFrom16([16]byte(b[8:])), netip.AddrFrom16([16]byte(b[24:])), ipv6Header+int(binary.BigEndian.Uint16(b[4:]))
		udp = b[ipv6Header:]
	default:
		return fail("no IP header, or one with options")
	}
	if length != len(b) || len(udp) < udpHeader || int(binary.BigEndian.Uint16(udp[4:])) != len(udp) {
		return fail("its lengths do not fit")
	}
	if from.Is4In6() || to.Is4In6() {
		return fail("IPv4 in IPv6")
	}
	if c := binary.BigEndian.Uint16(udp[6:]); (c != 0 || from.Is6()) && pseudo(from, to, udp) != 0xffff {
		return fail("its UDP checksum is wrong")
	}
	return from, to, udp, nil
}

// udpChecksum is the checksum of a datagram whose field for it is zero (RFC 768, RFC 8200 §8.1).
func udpChecksum(from, to netip.Addr, udp []byte) uint16 {
	if c := ^pseudo(from, to, udp); c != 0 {
		return c
	}
	return 0xffff
}

func pseudo(from, to netip.Addr, udp []byte) uint16 {
	s := sum(uint32(protoUDP)+uint32(len(udp)), from.AsSlice())
	return sum(uint32(sum(uint32(s), to.AsSlice())), udp)
}

// sum is the ones' complement sum of RFC 1071.
func sum(s uint32, b []byte) uint16 {
	for ; len(b) >= 2; b = b[2:] {
		s += uint32(binary.BigEndian.Uint16(b))
	}
	if len(b) == 1 {
		s += uint32(b[0]) << 8
	}
	for s > 0xffff {
		s = s>>16 + s&0xffff
	}
	return uint16(s)
}
