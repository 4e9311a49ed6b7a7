package siit

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
)

// Sentinel errors of NewTable, wrapped with the field's name.
var (
	ErrPrefix    = errors.New("bad prefix")
	ErrAddress   = errors.New("bad address")
	ErrDuplicate = errors.New("duplicate address")
	ErrValue     = errors.New("bad value")
)

// Mapping is one explicit address mapping (RFC 7757). V4 is a /32 and V6 a
// /128 for now; longest-prefix mappings will use the same type.
type Mapping struct {
	V4, V6 netip.Prefix
}

// Mapping66 is one IPv6 <-> IPv6 mapping: Service is what the outside sees,
// Inside is the machine's own address. Both are /128.
type Mapping66 struct {
	Service, Inside netip.Prefix
}

// UDPZero says what becomes of IPv4 UDP packets without a checksum, which IPv6
// does not allow (RFC 7915 §4.5).
type UDPZero uint8

const (
	// UDPZeroCompute makes the checksum. Fragments are dropped, as the whole
	// datagram is not at hand.
	UDPZeroCompute UDPZero = iota
	// UDPZeroDrop drops them.
	UDPZeroDrop
)

// Spec is the plain data that a Table is made of.
type Spec struct {
	// Pref64 is the RFC 6052 prefix of the IPv4 Internet as the inside sees it;
	// length 32, 40, 48, 56, 64 or 96. Invalid: there is no IPv4 translation.
	Pref64 netip.Prefix
	// Mappings and Mappings66 are the explicit mappings.
	Mappings   []Mapping
	Mappings66 []Mapping66
	// Inside are prefixes whose machines talk to each other under their own
	// addresses: a mapped machine's packets to them keep their source.
	Inside []netip.Prefix

	// ICMPSource4 and ICMPSource6 are the sources of our own ICMP errors.
	// ICMPSource4 also stands for IPv6 routers that have no IPv4 address (RFC
	// 6791). Invalid: no errors are sent, and errors of such routers are dropped.
	ICMPSource4, ICMPSource6 netip.Addr

	// UDPZero is the policy for IPv4 UDP without a checksum.
	UDPZero UDPZero
	// KeepTTL leaves TTL and Hop Limit alone, for a translator that is behind
	// a kernel which already counts the hop. RFC 7915 wants them decremented.
	KeepTTL bool
	// ZeroTrafficClass writes 0 instead of copying TOS and traffic class
	// (RFC 7915 §4.1, §5.1: an option).
	ZeroTrafficClass bool
	// LowestIPv6MTU is the size, in bytes, that IPv4 packets without DF are
	// fragmented to (RFC 7915 §4); 0 means 1280, lower values are refused.
	LowestIPv6MTU int
	// MTU4 and MTU6 are the next hops' MTUs in bytes on either side. They enter
	// the MTU arithmetic of ICMP errors (RFC 7915 §4.2, §5.2), and packets too
	// big for them are rejected. 0: not known, left to whoever forwards.
	MTU4, MTU6 int
}

type (
	addr4 = [4]byte
	addr6 = [16]byte
)

// Table is a Spec made ready for lookups.
type Table struct {
	spec      Spec
	has64     bool
	prefix    addr6
	bits      int
	to6       map[addr4]addr6
	to4       map[addr6]addr4
	toInside  map[addr6]addr6
	toService map[addr6]addr6
	src4      addr4
	has4      bool
	lowMTU    int
	hop       uint8
}

// NewTable checks the spec and builds the table. Errors name the field, as in
// `map[3].v4: duplicate address 203.0.113.10 (also map[0].v4)`, and wrap one of
// the sentinel errors.
func NewTable(s Spec) (*Table, error) {
	t := &Table{
		spec: s, to6: make(map[addr4]addr6, len(s.Mappings)), to4: make(map[addr6]addr4, len(s.Mappings)),
		toInside: make(map[addr6]addr6, len(s.Mappings66)), toService: make(map[addr6]addr6, len(s.Mappings66)),
	}
	if s.Pref64.IsValid() {
		switch s.Pref64.Bits() {
		case 32, 40, 48, 56, 64, 96:
		default:
			return nil, fmt.Errorf("pref64: %w %v: length must be 32, 40, 48, 56, 64 or 96 (RFC 6052)", ErrPrefix, s.Pref64)
		}
		if !s.Pref64.Addr().Is6() || s.Pref64.Addr().Is4In6() || s.Pref64.Masked() != s.Pref64 {
			return nil, fmt.Errorf("pref64: %w %v: must be IPv6, with no bits set behind its length", ErrPrefix, s.Pref64)
		}
		t.has64, t.prefix, t.bits = true, s.Pref64.Addr().As16(), s.Pref64.Bits()
		if t.prefix[8] != 0 {
			return nil, fmt.Errorf("pref64: %w %v: bits 64 to 71 must be zero (RFC 6052 §2.2)", ErrPrefix, s.Pref64)
		}
	} else if len(s.Mappings) > 0 {
		return nil, fmt.Errorf("pref64: %w: needed by IPv4 mappings", ErrPrefix)
	}
	if err := t.fill(s); err != nil {
		return nil, err
	}
	for i, p := range s.Inside {
		if !p.IsValid() || !p.Addr().Is6() || p.Masked() != p {
			return nil, fmt.Errorf("inside[%d]: %w %v", i, ErrPrefix, p)
		}
	}
	if s.ICMPSource4.IsValid() {
		if !s.ICMPSource4.Is4() || !usable4(s.ICMPSource4.As4()) {
			return nil, fmt.Errorf("icmp.source4: %w %v: must be a unicast IPv4 address", ErrAddress, s.ICMPSource4)
		}
		t.has4, t.src4 = true, s.ICMPSource4.As4()
	}
	if s.ICMPSource6.IsValid() && (!s.ICMPSource6.Is6() || !usable6(s.ICMPSource6.As16())) {
		return nil, fmt.Errorf("icmp.source6: %w %v: must be a global unicast IPv6 address", ErrAddress, s.ICMPSource6)
	}
	t.lowMTU = max(s.LowestIPv6MTU, minMTU6)
	switch {
	case s.LowestIPv6MTU != 0 && (s.LowestIPv6MTU < minMTU6 || s.LowestIPv6MTU > 65535):
		return nil, fmt.Errorf("lowest_ipv6_mtu: %w %d: must be 1280 to 65535", ErrValue, s.LowestIPv6MTU)
	case s.MTU6 != 0 && (s.MTU6 < minMTU6 || s.MTU6 > 65535):
		return nil, fmt.Errorf("mtu6: %w %d: must be 1280 to 65535", ErrValue, s.MTU6)
	case s.MTU4 != 0 && (s.MTU4 < 68 || s.MTU4 > 65535):
		return nil, fmt.Errorf("mtu4: %w %d: must be 68 to 65535", ErrValue, s.MTU4)
	case s.UDPZero > UDPZeroDrop:
		return nil, fmt.Errorf("udp_zero_checksum: %w %d", ErrValue, s.UDPZero)
	}
	if !s.KeepTTL {
		t.hop = 1
	}
	return t, nil
}

func (t *Table) fill(s Spec) error {
	host6 := func(field string, p netip.Prefix) (addr6, error) {
		a := p.Addr()
		if !p.IsValid() || !a.Is6() || a.Is4In6() || a.Zone() != "" || !usable6(a.As16()) {
			return addr6{}, fmt.Errorf("%s: %w %v: must be a global unicast IPv6 address", field, ErrAddress, p)
		}
		if p.Bits() != 128 {
			return addr6{}, fmt.Errorf("%s: %w %v: must be a single address (/128)", field, ErrPrefix, p)
		}
		if t.has64 && s.Pref64.Contains(a) {
			return addr6{}, fmt.Errorf("%s: %w %v: lies in pref64 %v", field, ErrAddress, a, s.Pref64)
		}
		return a.As16(), nil
	}
	for i, m := range s.Mappings {
		f4, f6 := fmt.Sprintf("map[%d].v4", i), fmt.Sprintf("map[%d].v6", i)
		if !m.V4.IsValid() || !m.V4.Addr().Is4() || !usable4(m.V4.Addr().As4()) {
			return fmt.Errorf("%s: %w %v: must be a unicast IPv4 address", f4, ErrAddress, m.V4)
		}
		if m.V4.Bits() != 32 {
			return fmt.Errorf("%s: %w %v: must be a single address (/32)", f4, ErrPrefix, m.V4)
		}
		a4 := m.V4.Addr().As4()
		a6, err := host6(f6, m.V6)
		if err != nil {
			return err
		}
		if _, dup := t.to6[a4]; dup {
			return fmt.Errorf("%s: %w %v", f4, ErrDuplicate, m.V4.Addr())
		}
		if _, dup := t.to4[a6]; dup {
			return fmt.Errorf("%s: %w %v", f6, ErrDuplicate, m.V6.Addr())
		}
		t.to6[a4], t.to4[a6] = a6, a4
	}
	for i, m := range s.Mappings66 {
		fs, fi := fmt.Sprintf("map66[%d].service", i), fmt.Sprintf("map66[%d].inside", i)
		as, err := host6(fs, m.Service)
		if err != nil {
			return err
		}
		ai, err := host6(fi, m.Inside)
		if err != nil {
			return err
		}
		if _, dup := t.toInside[as]; dup {
			return fmt.Errorf("%s: %w %v", fs, ErrDuplicate, m.Service.Addr())
		}
		if _, dup := t.toService[ai]; dup {
			return fmt.Errorf("%s: %w %v", fi, ErrDuplicate, m.Inside.Addr())
		}
		t.toInside[as], t.toService[ai] = ai, as
	}
	// An address on both sides would be translated twice, or for ever.
	for i, m := range s.Mappings66 {
		if _, both := t.toService[m.Service.Addr().As16()]; both {
			return fmt.Errorf("map66[%d].service: %w %v: is also an inside address", i, ErrDuplicate, m.Service.Addr())
		}
		if _, both := t.to4[m.Service.Addr().As16()]; both {
			return fmt.Errorf("map66[%d].service: %w %v: is also the IPv6 address of an IPv4 mapping", i, ErrDuplicate, m.Service.Addr())
		}
	}
	return nil
}

// Spec returns the spec that the table was made of. It must not be changed.
func (t *Table) Spec() Spec { return t.spec }

// Embed puts an IPv4 address into the table's RFC 6052 prefix.
func (t *Table) Embed(a netip.Addr) (netip.Addr, bool) {
	if !t.has64 || !a.Is4() {
		return netip.Addr{}, false
	}
	return netip.AddrFrom16(t.embed(a.As4())), true
}

// Extract takes the IPv4 address out of an address under the table's prefix.
func (t *Table) Extract(a netip.Addr) (netip.Addr, bool) {
	if !a.Is6() {
		return netip.Addr{}, false
	}
	v4, ok := t.extract(a.As16())
	return netip.AddrFrom4(v4), ok
}

// embed follows RFC 6052 §2.2: the address goes behind the prefix, but jumps
// over octet 8, which stays zero.
func (t *Table) embed(a addr4) addr6 {
	out := t.prefix
	if t.bits == 96 {
		copy(out[12:], a[:])
		return out
	}
	at := t.bits / 8
	for _, b := range a {
		if at == 8 {
			at++
		}
		out[at] = b
		at++
	}
	return out
}

func (t *Table) extract(a addr6) (out addr4, ok bool) {
	if !t.in64(a) {
		return out, false
	}
	if t.bits == 96 {
		return addr4(a[12:16]), true
	}
	at := t.bits / 8
	for i := range out {
		if at == 8 {
			at++
		}
		out[i] = a[at]
		at++
	}
	return out, true
}

func (t *Table) in64(a addr6) bool {
	if !t.has64 {
		return false
	}
	n := t.bits / 8
	return string(a[:n]) == string(t.prefix[:n])
}

func (t *Table) isInside(a addr6) bool {
	if _, ok := t.toService[a]; ok {
		return true
	}
	if len(t.spec.Inside) == 0 {
		return false
	}
	ip := netip.AddrFrom16(a)
	for _, p := range t.spec.Inside {
		if p.Contains(ip) {
			return true
		}
	}
	return false
}

// usable4: what may stand as a source or destination in a forwarded packet
// (RFC 1812 §5.3.7). Private addresses are the operator's business.
func usable4(a addr4) bool {
	return a[0] != 0 && a[0] != 127 && a[0] < 224
}

func usable6(a addr6) bool {
	switch {
	case a[0] == 0xff, a[0] == 0xfe && a[1]&0xc0 == 0x80:
		return false
	case binary.BigEndian.Uint64(a[:8]) == 0 && binary.BigEndian.Uint64(a[8:]) <= 1:
		return false
	}
	return true
}
