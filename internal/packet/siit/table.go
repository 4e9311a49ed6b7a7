package siit

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
)

// Sentinel errors of NewTable, Rebase and Update, wrapped with the field's name.
var (
	ErrPrefix    = errors.New("bad prefix")
	ErrAddress   = errors.New("bad address")
	ErrDuplicate = errors.New("duplicate address")
	ErrValue     = errors.New("bad value")
	ErrNotMapped = errors.New("no such mapping")
)

// Mapping is one explicit address mapping (RFC 7757): what follows the one
// prefix in an address is put behind the other. V6 must leave as many bits for it
// as V4 has; any more are zero.
type Mapping struct {
	V4, V6 netip.Prefix
}

// Mapping66 is one IPv6 <-> IPv6 mapping: Service is what the outside sees,
// Inside is the machine's own address. Both are of the same length.
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

// Private says whether IPv4 addresses that have no meaning in the Internet are
// translated from and to addresses under Pref64: private, shared, link-local,
// documentation and benchmarking ones (NonGlobal4). Addresses that no packet may
// have (0.0.0.0/8, loopback, multicast, class E, broadcast) never are, and the
// explicit mappings are not concerned.
type Private uint8

const (
	// PrivateAuto drops them if Pref64 is 64:ff9b::/96, as RFC 6052 §3.1 demands.
	PrivateAuto Private = iota
	// PrivateAllow translates them under any prefix.
	PrivateAllow
	// PrivateDrop drops them under any prefix.
	PrivateDrop
)

// NonGlobal4 are the prefixes that Private is about (RFC 6890, without those
// that are never translated).
var NonGlobal4 = [...]netip.Prefix{
	netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("100.64.0.0/10"),
	netip.MustParsePrefix("169.254.0.0/16"), netip.MustParsePrefix("172.16.0.0/12"),
	netip.MustParsePrefix("192.0.0.0/24"), netip.MustParsePrefix("192.0.2.0/24"),
	netip.MustParsePrefix("192.168.0.0/16"), netip.MustParsePrefix("198.18.0.0/15"),
	netip.MustParsePrefix("198.51.100.0/24"), netip.MustParsePrefix("203.0.113.0/24"),
}

func nonGlobal4(a addr4) bool {
	switch a[0] {
	case 10:
		return true
	case 100:
		return a[1]&0xc0 == 64
	case 169:
		return a[1] == 254
	case 172:
		return a[1]&0xf0 == 16
	case 192:
		return a[1] == 168 || a[1] == 0 && (a[2] == 0 || a[2] == 2)
	case 198:
		return a[1]&0xfe == 18 || a[1] == 51 && a[2] == 100
	case 203:
		return a[1] == 0 && a[2] == 113
	}
	return false
}

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
	// Served are IPv6 prefixes that are led to the translator by their destination.
	// What is for an address there that is not mapped is refused. ICMPv6 (and what
	// may carry it) to other addresses is sent on as it is, if it is about no mapping:
	// the kernel brings all of it, for the errors in it.
	Served []netip.Prefix
	// Confined: all that comes from Inside is led here, too, and what machines there
	// without a mapping send elsewhere is refused. Of ICMPv6 this is echo requests: the
	// rest may be the host's own, which has addresses there.
	Confined bool

	// ICMPSource4 and ICMPSource6 are the sources of our own ICMP errors.
	// ICMPSource4 also stands for IPv6 routers that have no IPv4 address, if there
	// is no Pool4. Invalid: no errors are sent, and errors of such routers are
	// dropped.
	ICMPSource4, ICMPSource6 netip.Addr
	// Pool4 are the IPv4 addresses that stand for IPv6 routers without one (RFC
	// 6791 §3.1). A hash of the router's address chooses, so that it is the same on
	// every node, and two routers of one path are rarely taken for one.
	Pool4 netip.Prefix

	// Private is what becomes of IPv4 addresses that are not global, under Pref64.
	Private Private

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

// Table is a Spec made ready for lookups: settings, which never change, and
// mappings, which Update changes while others translate. Tables made of each other
// by Rebase share the mappings.
type Table struct {
	spec     Spec
	store    *store
	has64    bool
	prefix   addr6
	bits     int
	src4     addr4
	has4     bool // src4 is there
	routers  bool // routers without an IPv4 address have a source
	pool     key
	poolSize uint32
	private  bool // addresses of NonGlobal4 are translated
	lowMTU   int
	hop      uint8
}

var wellKnown = netip.MustParsePrefix("64:ff9b::/96")

// NewTable checks the spec and builds the table. Errors name the field, as in
// `map[3].v4: duplicate address 203.0.113.10/32: is mapped to 2001:db8::1/128`, and
// wrap one of the sentinel errors.
func NewTable(s Spec) (*Table, error) {
	t, err := settings(s)
	if err != nil {
		return nil, err
	}
	t.store = newStore()
	return t, t.fill(s)
}

// Rebase makes a table of other settings that has the same mappings: an Update of
// either changes both. s.Mappings and s.Mappings66 are ignored.
func (t *Table) Rebase(s Spec) (*Table, error) {
	n, err := settings(s)
	if err != nil {
		return nil, err
	}
	n.store = t.store
	if n.has64 == t.has64 && n.prefix == t.prefix && n.bits == t.bits {
		return n, nil
	}
	n.store.mu.Lock()
	defer n.store.mu.Unlock()
	for _, r := range n.store.records() {
		switch in := prefix6(r.in, r.ibits); {
		case !n.has64 && r.v4:
			return nil, fmt.Errorf("pref64: %w: needed by IPv4 mappings", ErrPrefix)
		case n.has64 && (in.Overlaps(s.Pref64) || !r.v4 && prefix6(r.out, r.obits).Overlaps(s.Pref64)):
			return nil, fmt.Errorf("pref64: %w %v: there are mapped addresses in it (%v)", ErrPrefix, s.Pref64, r.entry().Outside)
		}
	}
	return n, nil
}

// settings makes a table without mappings.
func settings(s Spec) (*Table, error) {
	need64 := len(s.Mappings) > 0
	s.Mappings, s.Mappings66 = nil, nil
	t := &Table{spec: s}
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
	} else if need64 {
		return nil, fmt.Errorf("pref64: %w: needed by IPv4 mappings", ErrPrefix)
	}
	for i, p := range s.Inside {
		if !p.IsValid() || !p.Addr().Is6() || p.Masked() != p {
			return nil, fmt.Errorf("inside[%d]: %w %v", i, ErrPrefix, p)
		}
	}
	for i, p := range s.Served {
		if !p.IsValid() || !p.Addr().Is6() || p.Masked() != p {
			return nil, fmt.Errorf("served[%d]: %w %v", i, ErrPrefix, p)
		}
	}
	if s.ICMPSource4.IsValid() {
		if !s.ICMPSource4.Is4() || !usable4(s.ICMPSource4.As4()) {
			return nil, fmt.Errorf("icmp.source4: %w %v: must be a unicast IPv4 address", ErrAddress, s.ICMPSource4)
		}
		t.has4, t.src4, t.routers = true, s.ICMPSource4.As4(), true
		t.pool, t.poolSize = key4(&t.src4), 1
	}
	if p := s.Pool4; p.IsValid() {
		if !unicast4(p) || p.Bits() < 8 {
			return nil, fmt.Errorf("icmp.pool4: %w %v: must be unicast IPv4, of length 8 to 32, with no bits set behind it", ErrPrefix, p)
		}
		a := p.Addr().As4()
		t.pool, t.poolSize, t.routers = key4(&a), uint32(1)<<(32-p.Bits()), true
		if p.Bits() < 31 {
			// Without the network's own and its broadcast address.
			t.pool.hi += 1 << 32
			t.poolSize -= 2
		}
	}
	if s.ICMPSource6.IsValid() && (!s.ICMPSource6.Is6() || !usable6(s.ICMPSource6.As16())) {
		return nil, fmt.Errorf("icmp.source6: %w %v: must be a global unicast IPv6 address", ErrAddress, s.ICMPSource6)
	}
	switch {
	case s.LowestIPv6MTU != 0 && (s.LowestIPv6MTU < minMTU6 || s.LowestIPv6MTU > 65535):
		return nil, fmt.Errorf("lowest_ipv6_mtu: %w %d: must be 1280 to 65535", ErrValue, s.LowestIPv6MTU)
	case s.MTU6 != 0 && (s.MTU6 < minMTU6 || s.MTU6 > 65535):
		return nil, fmt.Errorf("mtu6: %w %d: must be 1280 to 65535", ErrValue, s.MTU6)
	case s.MTU4 != 0 && (s.MTU4 < 68 || s.MTU4 > 65535):
		return nil, fmt.Errorf("mtu4: %w %d: must be 68 to 65535", ErrValue, s.MTU4)
	case s.UDPZero > UDPZeroDrop:
		return nil, fmt.Errorf("udp_zero_checksum: %w %d", ErrValue, s.UDPZero)
	case s.Private > PrivateDrop:
		return nil, fmt.Errorf("private: %w %d", ErrValue, s.Private)
	}
	t.private = s.Private == PrivateAllow || s.Private == PrivateAuto && s.Pref64 != wellKnown
	t.lowMTU = max(s.LowestIPv6MTU, minMTU6)
	if s.MTU6 > 0 {
		t.lowMTU = min(t.lowMTU, s.MTU6)
	}
	if !s.KeepTTL {
		t.hop = 1
	}
	return t, nil
}

// unicast4 tells whether each address of the prefix may stand in a packet.
func unicast4(p netip.Prefix) bool {
	if !p.IsValid() || !p.Addr().Is4() || p.Masked() != p || !usable4(p.Addr().As4()) {
		return false
	}
	a := p.Addr().As4()
	last := key4(&a).or(key{hi: 0xffffffff << 32}.andNot(maskOf(p.Bits()))).addr4()
	return usable4(last) && !(a[0] < 127 && last[0] > 127)
}

func unicast6(p netip.Prefix) bool {
	a := p.Addr()
	return p.IsValid() && a.Is6() && !a.Is4In6() && p.Masked() == p && p.Bits() > 0 && usable6(a.As16()) &&
		!p.Overlaps(netip.MustParsePrefix("fe80::/10")) && !p.Overlaps(netip.MustParsePrefix("ff00::/8"))
}

// outsideOf reads an Outside alone.
func outsideOf(p netip.Prefix) (r record, err error) {
	switch {
	case unicast4(p):
		a := p.Addr().As4()
		return record{out: key4(&a), obits: uint8(p.Bits()), v4: true}, nil
	case unicast6(p):
		a := p.Addr().As16()
		return record{out: key6(&a), obits: uint8(p.Bits())}, nil
	}
	return r, fmt.Errorf("%w %v: must be unicast, with no bits set behind its length", ErrAddress, p)
}

// check makes a record of a pair that could stand alone; name gives the names of
// the fields of pair i.
func (t *Table) check(m Pair, i int, name func(int) (string, string)) (record, error) {
	fail := func(inside bool, err error, format string, args ...any) (record, error) {
		f, g := name(i)
		if inside {
			f = g
		}
		return record{}, fmt.Errorf("%s: %w "+format, append([]any{f, err}, args...)...)
	}
	r, err := outsideOf(m.Outside)
	switch {
	case err != nil:
		f, _ := name(i)
		return r, fmt.Errorf("%s: %w", f, err)
	case r.v4 && !t.has64:
		return r, fmt.Errorf("pref64: %w: needed by IPv4 mappings", ErrPrefix)
	case !unicast6(m.Inside):
		return fail(true, ErrAddress, "%v: must be global unicast IPv6, with no bits set behind its length", m.Inside)
	case t.has64 && m.Inside.Overlaps(t.spec.Pref64):
		return fail(true, ErrAddress, "%v: lies in pref64 %v", m.Inside, t.spec.Pref64)
	case t.has64 && !r.v4 && m.Outside.Overlaps(t.spec.Pref64):
		return fail(false, ErrAddress, "%v: lies in pref64 %v", m.Outside, t.spec.Pref64)
	case r.v4 && 32-m.Outside.Bits() > 128-m.Inside.Bits():
		return fail(false, ErrPrefix, "%v: has %d bits behind it, %v only %d (RFC 7757 §3.2)", m.Outside, 32-m.Outside.Bits(), m.Inside, 128-m.Inside.Bits())
	case !r.v4 && m.Outside.Bits() != m.Inside.Bits():
		return fail(false, ErrPrefix, "%v: must be as long as %v", m.Outside, m.Inside)
	}
	a := m.Inside.Addr().As16()
	r.in, r.ibits = key6(&a), uint8(m.Inside.Bits())
	return r, nil
}

// fill puts the spec's mappings into a store that nobody else sees yet.
func (t *Table) fill(s Spec) error {
	n := len(s.Mappings)
	pair := func(i int) Pair {
		if i < n {
			return Pair{s.Mappings[i].V4, s.Mappings[i].V6}
		}
		return Pair{s.Mappings66[i-n].Service, s.Mappings66[i-n].Inside}
	}
	name := func(i int) (string, string) {
		if i < n {
			return fmt.Sprintf("map[%d].v4", i), fmt.Sprintf("map[%d].v6", i)
		}
		return fmt.Sprintf("map66[%d].service", i-n), fmt.Sprintf("map66[%d].inside", i-n)
	}
	var wide bool
	all := n + len(s.Mappings66)
	for i := range all {
		m := pair(i)
		r, err := t.check(m, i, name)
		if err != nil {
			return err
		}
		if r.v4 != (i < n) {
			fo, _ := name(i)
			return fmt.Errorf("%s: %w %v: is of the other family", fo, ErrAddress, m.Outside)
		}
		if old := t.store.exactOutside(&r); old != nil {
			fo, _ := name(i)
			return fmt.Errorf("%s: %w %v: is mapped to %v", fo, ErrDuplicate, m.Outside, old.entry().Inside)
		}
		if old := t.store.exactInside(&r); old != nil {
			_, fi := name(i)
			return fmt.Errorf("%s: %w %v: is that of %v", fi, ErrDuplicate, m.Inside, old.entry().Outside)
		}
		t.store.add(r, nil, all-i-1)
		wide = wide || r.ibits != 128
	}
	crosses := wide && all > n
	for i := n; i < all && !crosses; i++ {
		r, _ := outsideOf(pair(i).Outside)
		crosses = t.store.find(&t.store.in4, r.out) != nil || t.store.find(&t.store.in6, r.out) != nil
	}
	if !crosses {
		return nil
	}
	set := make([]record, 0, all)
	for i := range all {
		r, _ := t.check(pair(i), i, name)
		set = append(set, r)
	}
	if i, x := newStore().sweep(nil, set); x != nil {
		fo, fi := name(i)
		if x.outside {
			fi = fo
		}
		return fmt.Errorf("%s: %w", fi, x.error)
	}
	return nil
}

// Spec returns the settings that the table was made of, without the mappings. It
// must not be changed.
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

func (t *Table) isInside(a *addr6) bool {
	if t.store.find(&t.store.in6, key6(a)) != nil {
		return true
	}
	return within(t.spec.Inside, a)
}

func (t *Table) isServed(a *addr6) bool { return within(t.spec.Served, a) }

func within(list []netip.Prefix, a *addr6) bool {
	if len(list) == 0 {
		return false
	}
	ip := netip.AddrFrom16(*a)
	for _, p := range list {
		if p.Contains(ip) {
			return true
		}
	}
	return false
}

// mapped4 finds the mapping of an outside IPv4 address.
func (t *Table) mapped4(a *addr4) (*record, addr6) {
	k := key4(a)
	r := t.store.find(&t.store.out4, k)
	if r == nil {
		return nil, addr6{}
	}
	return r, r.inward(k).addr6()
}

// unmapped4 finds the IPv4 mapping of an inside address.
func (t *Table) unmapped4(a *addr6) (*record, addr4) {
	k := key6(a)
	r := t.store.find(&t.store.in4, k)
	if r == nil {
		return nil, addr4{}
	}
	return r, r.outward(k).addr4()
}

// mapped6 and unmapped6 are the same for 1:1 mappings.
func (t *Table) mapped6(a *addr6) (*record, addr6) {
	k := key6(a)
	r := t.store.find(&t.store.out6, k)
	if r == nil {
		return nil, addr6{}
	}
	return r, r.inward(k).addr6()
}

func (t *Table) unmapped6(a *addr6) (*record, addr6) {
	k := key6(a)
	r := t.store.find(&t.store.in6, k)
	if r == nil {
		return nil, addr6{}
	}
	return r, r.outward(k).addr6()
}

// global tells whether an IPv4 address may stand under the prefix (RFC 6052 §3.1).
func (t *Table) global(a addr4) bool { return t.private || !nonGlobal4(a) }

// AllowsPrivate tells whether addresses of NonGlobal4 are translated under Pref64:
// Spec.Private, applied to Spec.Pref64.
func (t *Table) AllowsPrivate() bool { return t.private }

// source4 stands for an IPv6 router without an IPv4 address (RFC 6791).
func (t *Table) source4(router *addr6) addr4 {
	if t.poolSize <= 1 {
		return t.pool.addr4()
	}
	k := t.pool
	k.hi += (key6(router).hash() >> 32) % uint64(t.poolSize) << 32
	return k.addr4()
}

// usable4: what may stand as a source or destination in a forwarded packet
// (RFC 1812 §5.3.7). Private addresses are the operator's business.
func usable4(a addr4) bool {
	return a[0] != 0 && a[0] != 127 && a[0] < 224
}

// source4: what may stand under the prefix as the source of a packet between IPv6 addresses. No router forwards link-local
// addresses either (RFC 3927 §7), so nothing has been translated from one.
func source4(a addr4) bool { return usable4(a) && !(a[0] == 169 && a[1] == 254) }

func usable6(a addr6) bool {
	switch {
	case a[0] == 0xff, a[0] == 0xfe && a[1]&0xc0 == 0x80:
		return false
	case binary.BigEndian.Uint64(a[:8]) == 0 && binary.BigEndian.Uint64(a[8:]) <= 1:
		return false
	}
	return true
}
