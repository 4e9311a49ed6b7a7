package lisp

import (
	"encoding/binary"
	"fmt"
	"net/netip"
)

// Address family numbers (IANA; RFC 9301 §5, RFC 8060 §3).
const (
	afiNone = 0
	afiIPv4 = 1
	afiIPv6 = 2
	afiLCAF = 16387
	afiMAC  = 16389
)

// Address is what may stand where a locator does: an IP, a MAC, a List, a NAT, an Unknown, or nil for no address at all.
type Address interface {
	// appendTo appends the address with its family.
	appendTo(b []byte) ([]byte, error)
	String() string
}

// IP is an IPv4 or IPv6 address.
type IP netip.Addr

// MAC is an Ethernet address.
type MAC [6]byte

// List is several addresses of one thing (LCAF type 1, RFC 8060 §4.7), say an IPv4 and an IPv6 locator.
type List []Address

// NAT is where a device behind a NAT is reached (LCAF type 7, RFC 8060 §4.3).
type NAT struct {
	MapServerPort, ETRPort                    uint16
	GlobalETR, MapServer, PrivateETR, Relayed Address // Relayed: the first RTR's locator
}

// Unknown is an LCAF of a type that this package does not know, as it came.
type Unknown struct {
	Flags, Type, Rsvd2 uint8
	Bytes              string // what follows the length
}

// deepest is how many LCAFs may be inside of one another.
const deepest = 4

// LCAF types (RFC 8060 §3).
const (
	lcafList     = 1
	lcafInstance = 2
	lcafNAT      = 7
)

func (a IP) String() string { return netip.Addr(a).String() }
func (a MAC) String() string {
	return fmt.Sprintf("%02x:%02x:%02x:%02x:%02x:%02x", a[0], a[1], a[2], a[3], a[4], a[5])
}
func (a List) String() string {
	return fmt.Sprint([]Address(a))
}

func (a NAT) String() string {
	return fmt.Sprintf("nat(%v port %d, map-server %v port %d)", a.GlobalETR, a.ETRPort, a.MapServer, a.MapServerPort)
}
func (a Unknown) String() string { return fmt.Sprintf("lcaf(type %d, %d bytes)", a.Type, len(a.Bytes)) }

func (a IP) appendTo(b []byte) ([]byte, error) {
	ip := netip.Addr(a)
	switch {
	case !ip.IsValid() || ip.Zone() != "" || ip.Is4In6():
		return nil, fmt.Errorf("address %q: it must be IPv4 or IPv6, without a zone", ip)
	case ip.Is4():
		b = binary.BigEndian.AppendUint16(b, afiIPv4)
	default:
		b = binary.BigEndian.AppendUint16(b, afiIPv6)
	}
	return append(b, ip.AsSlice()...), nil
}

func (a MAC) appendTo(b []byte) ([]byte, error) {
	return append(binary.BigEndian.AppendUint16(b, afiMAC), a[:]...), nil
}

func (a List) appendTo(b []byte) ([]byte, error) {
	return appendLCAF(b, 0, lcafList, 0, func(b []byte) ([]byte, error) { return appendAddresses(b, a...) })
}

func (a NAT) appendTo(b []byte) ([]byte, error) {
	return appendLCAF(b, 0, lcafNAT, 0, func(b []byte) ([]byte, error) {
		b = binary.BigEndian.AppendUint16(b, a.MapServerPort)
		b = binary.BigEndian.AppendUint16(b, a.ETRPort)
		return appendAddresses(b, a.GlobalETR, a.MapServer, a.PrivateETR, a.Relayed)
	})
}

func (a Unknown) appendTo(b []byte) ([]byte, error) {
	switch a.Type {
	case lcafList, lcafInstance, lcafNAT:
		return nil, fmt.Errorf("LCAF type %d is known and has a type of its own", a.Type)
	}
	return appendLCAF(b, a.Flags, a.Type, a.Rsvd2, func(b []byte) ([]byte, error) { return append(b, a.Bytes...), nil })
}

func appendAddress(b []byte, a Address) ([]byte, error) {
	if a == nil {
		return binary.BigEndian.AppendUint16(b, afiNone), nil
	}
	return a.appendTo(b)
}

func appendAddresses(b []byte, as ...Address) (_ []byte, err error) {
	for _, a := range as {
		if b, err = appendAddress(b, a); err != nil {
			return nil, err
		}
	}
	return b, nil
}

// appendLCAF appends an LCAF (RFC 8060 §3) with what body appends.
func appendLCAF(b []byte, flags, kind, rsvd2 uint8, body func([]byte) ([]byte, error)) ([]byte, error) {
	b = binary.BigEndian.AppendUint16(b, afiLCAF)
	b = append(b, 0, flags, kind, rsvd2, 0, 0)
	start := len(b)
	b, err := body(b)
	if err != nil {
		return nil, err
	}
	n := len(b) - start
	if n > 0xffff {
		return nil, fmt.Errorf("an LCAF of %d bytes: at most 65535", n)
	}
	binary.BigEndian.PutUint16(b[start-2:], uint16(n))
	return b, nil
}

// address reads an address with its family.
func (r *reader) address() Address { return r.addressIn(deepest) }

func (r *reader) addressIn(depth int) Address {
	switch afi := r.uint16(); afi {
	case afiNone:
		return nil
	case afiIPv4:
		return r.ip(4)
	case afiIPv6:
		return r.ip(16)
	case afiMAC:
		return MAC(r.take(6))
	case afiLCAF:
		return r.lcaf(depth - 1)
	default:
		r.failf("address family %d: %w", afi, ErrUnsupported)
		return nil
	}
}

func (r *reader) ip(n int) Address {
	ip, ok := netip.AddrFromSlice(r.take(n))
	if ok && ip.Is4In6() {
		r.failf("address %s: IPv4 in IPv6", ip)
	}
	return IP(ip)
}

func (r *reader) lcaf(depth int) Address {
	if depth < 0 {
		r.failf("more than %d LCAFs in one another", deepest)
		return nil
	}
	h := r.take(6) // reserved, flags, type, reserved, length
	in := r.part(int(binary.BigEndian.Uint16(h[4:])))
	switch h[2] {
	case lcafList:
		l := List{}
		for in.more() {
			l = append(l, in.addressIn(depth))
		}
		r.join(in)
		return l
	case lcafNAT:
		a := NAT{MapServerPort: in.uint16(), ETRPort: in.uint16()}
		for _, to := range []*Address{&a.GlobalETR, &a.MapServer, &a.PrivateETR, &a.Relayed} {
			*to = in.addressIn(depth)
		}
		r.join(in)
		return a
	case lcafInstance:
		r.failf("an instance ID outside of an EID: %w", ErrUnsupported)
		return nil
	default:
		return Unknown{Flags: h[1], Type: h[2], Rsvd2: h[3], Bytes: string(in.rest())}
	}
}
