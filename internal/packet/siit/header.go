package siit

import "encoding/binary"

// head4 is a parsed IPv4 header. off is the fragment offset in bytes.
type head4 struct {
	ihl, total, off int
	tos, ttl, proto uint8
	id              uint16
	df, mf          bool
	src, dst        addr4
}

func (h *head4) fragment() bool { return h.mf || h.off != 0 }

// parse4 parses the header; quoted: b is what an ICMP error quotes, which may
// be cut short and whose checksum a router may have left stale.
func parse4(b []byte, quoted bool) (h head4, r Reason, ok bool) {
	if len(b) < 20 || b[0]>>4 != 4 {
		return h, Malformed, false
	}
	h.ihl, h.total = int(b[0]&15)*4, int(binary.BigEndian.Uint16(b[2:]))
	if h.ihl < 20 || h.ihl > len(b) || h.total < h.ihl || !quoted && h.total > len(b) {
		return h, Malformed, false
	}
	if !quoted && fold(sum(b[:h.ihl])) != 0xffff {
		return h, BadHeaderChecksum, false
	}
	fo := binary.BigEndian.Uint16(b[6:])
	h.tos, h.id, h.ttl, h.proto = b[1], binary.BigEndian.Uint16(b[4:]), b[8], b[9]
	h.df, h.mf, h.off = fo&0x4000 != 0, fo&0x2000 != 0, int(fo&0x1fff)*8
	if h.off+h.total-h.ihl > 65535 {
		return h, Malformed, false
	}
	h.src, h.dst = addr4(b[12:16]), addr4(b[16:20])
	return h, 0, true
}

// sourceRouted tells of an unexpired source route (RFC 7915 §4.1).
func sourceRouted(opts []byte) bool {
	for len(opts) > 1 && opts[0] != 0 {
		if opts[0] == 1 {
			opts = opts[1:]
			continue
		}
		n := int(opts[1])
		if n < 2 || n > len(opts) {
			return false
		}
		// The pointer is counted from 1 and points behind the option when used up.
		if (opts[0] == 131 || opts[0] == 137) && n >= 3 && int(opts[2]) <= n {
			return true
		}
		opts = opts[n:]
	}
	return false
}

// head6 is a parsed IPv6 header with its extension headers. l4 is where the
// upper layer (or a later fragment's data) begins, end where the packet ends,
// both from the packet's first byte; end may lie behind what a quoting ICMP
// error holds. segs is the place of a non-zero Segments Left field, or 0.
type head6 struct {
	l4, end, off, segs int
	tc, hop, proto     uint8
	frag, mf, behind   bool // behind: extension headers behind a fragment header
	id                 uint32
	src, dst           addr6
}

func (h *head6) fragment() bool { return h.mf || h.off != 0 }

func parse6(b []byte, quoted bool) (h head6, ok bool) {
	if len(b) < 40 || b[0]>>4 != 6 {
		return h, false
	}
	h.end = 40 + int(binary.BigEndian.Uint16(b[4:]))
	if !quoted && h.end > len(b) {
		return h, false
	}
	b = b[:min(len(b), h.end)]
	h.tc, h.proto, h.hop = b[0]<<4|b[1]>>4, b[6], b[7]
	h.src, h.dst = addr6(b[8:24]), addr6(b[24:40])
	h.l4 = 40
	for range 16 {
		switch h.proto {
		case protoHopByHop, protoRouting, protoDestOpts:
			if h.off != 0 {
				return h, true
			}
			if len(b) < h.l4+8 {
				return h, false
			}
			if h.proto == protoRouting && b[h.l4+3] != 0 && h.segs == 0 {
				h.segs = h.l4 + 3
			}
			n := int(b[h.l4+1])*8 + 8
			if len(b) < h.l4+n {
				return h, false
			}
			h.behind = h.behind || h.frag && h.mf
			h.proto = b[h.l4]
			h.l4 += n
		case protoFragment:
			if h.frag || len(b) < h.l4+8 {
				return h, false
			}
			fo := binary.BigEndian.Uint16(b[h.l4+2:])
			h.frag, h.off, h.mf = true, int(fo&^7), fo&1 != 0
			h.id = binary.BigEndian.Uint32(b[h.l4+4:])
			h.proto = b[h.l4]
			h.l4 += 8
			if h.off+h.end-h.l4 > 65535 {
				return h, false
			}
			if h.off != 0 {
				switch h.proto {
				case protoHopByHop, protoRouting, protoDestOpts:
					h.behind = true
				}
				return h, true
			}
		default:
			return h, true
		}
	}
	return h, false
}

// put6 writes an IPv6 header, and a fragment header if one is given.
func put6(b []byte, tc, hop, proto uint8, payload int, src, dst *addr6) {
	b[0], b[1], b[2], b[3] = 0x60|tc>>4, tc<<4, 0, 0
	binary.BigEndian.PutUint16(b[4:], uint16(payload))
	b[6], b[7] = proto, hop
	copy(b[8:], src[:])
	copy(b[24:], dst[:])
}

func putFragment(b []byte, proto uint8, off int, mf bool, id uint32) {
	fo := uint16(off &^ 7)
	if mf {
		fo |= 1
	}
	b[0], b[1] = proto, 0
	binary.BigEndian.PutUint16(b[2:], fo)
	binary.BigEndian.PutUint32(b[4:], id)
}

func put4(b []byte, tos, ttl, proto uint8, total int, id, frag uint16, src, dst *addr4) {
	b[0], b[1] = 0x45, tos
	binary.BigEndian.PutUint16(b[2:], uint16(total))
	binary.BigEndian.PutUint16(b[4:], id)
	binary.BigEndian.PutUint16(b[6:], frag)
	b[8], b[9], b[10], b[11] = ttl, proto, 0, 0
	copy(b[12:], src[:])
	copy(b[16:], dst[:])
	binary.BigEndian.PutUint16(b[10:], ^fold(sum(b[:20])))
}

// checksumAt returns the place of the transport checksum in its header, for the
// protocols whose checksum covers the addresses, and the header's least length.
func checksumAt(proto uint8) (field, least int) {
	switch proto {
	case protoTCP:
		return 16, 20
	case protoUDP:
		return 6, 8
	case 33: // DCCP, RFC 4340 §9.1
		return 6, 12
	case 136: // UDP-Lite, RFC 3828 §3.1
		return 6, 8
	}
	return -1, 0
}

// checkOffload holds the virtio-net header against the packet that it came
// with; l4 is the transport header's place in the packet.
func (p *Packet) checkOffload(proto uint8, l4, end int, fragment bool) bool {
	o := &p.Offload
	if o.GSOType&^GSOECN != GSONone {
		if o.GSOSize == 0 || fragment || !o.NeedsCsum {
			return false
		}
		switch o.GSOType {
		case GSOTCPv4, GSOTCPv6, GSOTCPv4 | GSOECN, GSOTCPv6 | GSOECN:
			if proto != protoTCP || end-l4 < 20 {
				return false
			}
			if n := int(p.Buf[p.Off+l4+12]>>4) * 4; n < 20 || l4+n > end {
				return false
			}
		case GSOUDPL4:
			if proto != protoUDP {
				return false
			}
		default:
			return false
		}
	}
	if !o.NeedsCsum {
		return true
	}
	field, _ := checksumAt(proto)
	if field >= 0 && !fragment {
		return int(o.CsumStart) == l4 && int(o.CsumOffset) == field
	}
	return int(o.CsumStart) >= l4 && int(o.CsumStart)+int(o.CsumOffset)+2 <= end
}

// complete does in software what NeedsCsum asks the device for. Needed where
// the result is no longer one whole TCP or UDP packet.
func (p *Packet) complete() {
	o := &p.Offload
	if !o.NeedsCsum {
		return
	}
	b := p.Bytes()[o.CsumStart:]
	c := ^fold(sum(b))
	if c == 0 {
		c = 0xffff
	}
	binary.BigEndian.PutUint16(b[o.CsumOffset:], c)
	*o = Offload{}
}

// shift moves the virtio-net header's places after the IP header has changed
// its length, and names the GSO type of the new family.
func (o *Offload) shift(by int, tcp uint8) {
	if o.NeedsCsum {
		o.CsumStart = uint16(int(o.CsumStart) + by)
	}
	switch o.GSOType &^ GSOECN {
	case GSOTCPv4, GSOTCPv6:
		o.GSOType = tcp | o.GSOType&GSOECN
	case GSONone:
		o.HdrLen = 0
		return
	}
	o.HdrLen = uint16(max(0, int(o.HdrLen)+by))
}

// segment is the length of the longest packet that this one will be on the
// wire, given the length of its IP headers.
func (p *Packet) segment(proto uint8, l4 []byte, headers int) int {
	if p.Offload.GSOType&^GSOECN == GSONone {
		return headers + len(l4)
	}
	n := 8
	if proto == protoTCP {
		n = int(l4[12]>>4) * 4
	}
	return headers + n + int(p.Offload.GSOSize)
}
