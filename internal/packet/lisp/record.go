package lisp

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"time"
)

// EID is an endpoint identifier's prefix in an instance (RFC 9301 §5.4, RFC 8060 §4.1). The zero Prefix is no EID.
type EID struct {
	Instance uint32 // 24 bits; 0: none is named
	Prefix   netip.Prefix
}

// String is the prefix, with the instance before it if there is one: "7:2001:db8::/64" is written "[7]2001:db8::/64".
func (e EID) String() string {
	if e.Instance == 0 {
		return e.Prefix.String()
	}
	return fmt.Sprintf("[%d]%s", e.Instance, e.Prefix)
}

// Action is what an ITR does with packets to an EID that has no locators (RFC 9301 §5.4).
type Action uint8

const (
	NoAction Action = iota
	NativelyForward
	SendMapRequest
	DropNoReason
	DropPolicyDenied
	DropAuthFailure
)

// Record is a mapping: where an EID is (RFC 9301 §5.4).
type Record struct {
	EID           EID
	TTL           time.Duration // of whole minutes; Forever, or 0: take it out
	Action        Action        // when there are no locators
	Authoritative bool          // the ETR itself says it
	Version       uint16        // 12 bits; 0: none (RFC 9302)
	Locators      []Locator     // at most 255
}

// Forever is the TTL of a mapping that is kept as long as there is room for it.
const Forever time.Duration = 1<<63 - 1

// ttlForever is how Forever goes over the wire.
const ttlForever = 0xffffffff

// Locator is a routing locator of an EID (RFC 9301 §5.4).
type Locator struct {
	Address                            Address
	Priority, Weight                   uint8 // lowest priority first; 255: not to be used
	MulticastPriority, MulticastWeight uint8
	Local                              bool // of the ETR that says it
	Probed                             bool // the answer to a probe comes from this locator
	Reachable                          bool
}

// Unusable is the priority of a locator that must not be used.
const Unusable = 255

func appendEID(b []byte, e EID, length func(bits uint8) []byte) ([]byte, error) {
	p := e.Prefix
	switch {
	case e.Instance >= 1<<24:
		return nil, fmt.Errorf("EID %s: an instance has 24 bits", e)
	case p == netip.Prefix{}:
		if e.Instance != 0 {
			return nil, fmt.Errorf("EID: instance %d without a prefix", e.Instance)
		}
		return appendAddress(append(b, length(0)...), nil)
	case !p.IsValid() || p != p.Masked():
		return nil, fmt.Errorf("EID %s: not a prefix, or bits are set beyond its length", e)
	}
	b = append(b, length(uint8(p.Bits()))...)
	if e.Instance == 0 {
		return IP(p.Addr()).appendTo(b)
	}
	return appendLCAF(b, 0, lcafInstance, 0, func(b []byte) ([]byte, error) {
		return IP(p.Addr()).appendTo(binary.BigEndian.AppendUint32(b, e.Instance))
	})
}

// eid reads the address of an EID whose mask has bits; bits < 0: a host's, or none.
func (r *reader) eid(bits int) (e EID) {
	afi := r.uint16()
	in := r
	if afi == afiLCAF {
		h := r.take(6)
		if h[2] != lcafInstance {
			r.failf("EID of LCAF type %d: %w", h[2], ErrUnsupported)
			return EID{}
		}
		// h[3] is a mask of the instance (RFC 8060 §4.1), for a range of them: 0 names this one alone.
		if h[3] != 0 && h[3] != 32 {
			r.failf("EID of a range of instances (mask of %d): %w", h[3], ErrUnsupported)
			return EID{}
		}
		in = r.part(int(binary.BigEndian.Uint16(h[4:])))
		if e.Instance = in.uint32(); e.Instance >= 1<<24 {
			r.failf("EID: instance %d has more than 24 bits", e.Instance)
		}
		afi = in.uint16()
	}
	n := 0
	switch afi {
	case afiNone:
	case afiIPv4:
		n = 4
	case afiIPv6:
		n = 16
	default:
		r.failf("EID of address family %d: %w", afi, ErrUnsupported)
		return EID{}
	}
	ip, _ := netip.AddrFromSlice(in.take(n))
	if in != r {
		r.join(in)
	}
	if n == 0 {
		if e.Instance != 0 || bits > 0 {
			r.failf("EID: no address, but an instance or a mask length")
		}
		return EID{}
	}
	if bits < 0 {
		bits = ip.BitLen()
	}
	e.Prefix = netip.PrefixFrom(ip, bits)
	if r.err == nil && (!e.Prefix.IsValid() || e.Prefix != e.Prefix.Masked() || ip.Is4In6()) {
		r.failf("EID %s/%d: not a prefix, or bits are set beyond its length", ip, bits)
	}
	if r.err != nil {
		return EID{}
	}
	return e
}

func (c *Record) append(b []byte) ([]byte, error) {
	ttl := uint32(ttlForever)
	if c.TTL != Forever {
		minutes := c.TTL / time.Minute
		if c.TTL < 0 || c.TTL%time.Minute != 0 {
			return nil, fmt.Errorf("EID %s: a TTL of %v is not one of whole minutes", c.EID, c.TTL)
		}
		ttl = uint32(minutes)
	}
	switch {
	case len(c.Locators) > 255:
		return nil, fmt.Errorf("EID %s: %d locators: at most 255", c.EID, len(c.Locators))
	case c.Action > 7:
		return nil, fmt.Errorf("EID %s: action %d has more than 3 bits", c.EID, c.Action)
	case c.Version >= 1<<12:
		return nil, fmt.Errorf("EID %s: version %d has more than 12 bits", c.EID, c.Version)
	}
	b = binary.BigEndian.AppendUint32(b, ttl)
	b, err := appendEID(b, c.EID, func(bits uint8) []byte {
		act := byte(c.Action) << 5
		if c.Authoritative {
			act |= 1 << 4
		}
		return []byte{uint8(len(c.Locators)), bits, act, 0, byte(c.Version >> 8), byte(c.Version)}
	})
	if err != nil {
		return nil, err
	}
	for _, l := range c.Locators {
		flags := flag(31, l.Reachable) | flag(30, l.Probed) | flag(29, l.Local)
		b = append(b, l.Priority, l.Weight, l.MulticastPriority, l.MulticastWeight, 0, byte(flags))
		if b, err = appendAddress(b, l.Address); err != nil {
			return nil, fmt.Errorf("EID %s: %w", c.EID, err)
		}
	}
	return b, nil
}

func (r *reader) record() (c Record) {
	c.TTL = Forever // what a Duration cannot hold, some 290 years, is that, too
	if ttl := int64(r.uint32()); ttl <= int64(Forever/time.Minute) {
		c.TTL = time.Duration(ttl) * time.Minute
	}
	h := r.take(6)
	c.Action = Action(h[2] >> 5)
	c.Authoritative = h[2]&(1<<4) != 0
	c.Version = binary.BigEndian.Uint16(h[4:]) & 0xfff
	n := int(h[0])
	c.EID = r.eid(int(h[1]))
	for i := 0; i < n && r.err == nil; i++ {
		h := r.take(6)
		c.Locators = append(c.Locators, Locator{
			Priority: h[0], Weight: h[1], MulticastPriority: h[2], MulticastWeight: h[3],
			Local: h[5]&4 != 0, Probed: h[5]&2 != 0, Reachable: h[5]&1 != 0,
			Address: r.address(),
		})
	}
	return c
}

func appendRecords(b []byte, cs []Record) (_ []byte, err error) {
	for i := range cs {
		if b, err = cs[i].append(b); err != nil {
			return nil, err
		}
	}
	return b, nil
}

func (r *reader) records(n int) (cs []Record) {
	for i := 0; i < n && r.err == nil; i++ {
		cs = append(cs, r.record())
	}
	return cs
}
