package siit

import "encoding/binary"

// from6 sorts IPv6 packets: to the prefix means IPv6 -> IPv4, all else is a
// matter of 1:1 mappings.
func (t *Table) from6(p *Packet, b []byte) Verdict {
	h, ok := parse6(b, false)
	if !ok || p.Offload.GSOType&^GSOECN != GSONone && h.end == 40 {
		return drop(Malformed)
	}
	b = b[:h.end]
	switch {
	case !usable6(h.dst):
		// Neighbour discovery, MLD and whatever else stays on its link.
		return drop(NotForwardable)
	case !usable6(h.src):
		return drop(BadSource)
	}
	if h.proto == protoICMPv6 && h.off == 0 && h.l4 < h.end {
		switch typ := b[h.l4]; {
		case typ >= 130 && typ <= 137, typ >= 141 && typ <= 143, typ == 148, typ == 149, typ >= 151 && typ <= 153:
			// Neighbour discovery to a global address (unreachability probes) must
			// never be forwarded, let alone rewritten.
			return drop(NotForwardable)
		}
	}
	if !p.checkOffload(h.proto, h.l4, h.end, h.fragment()) {
		return drop(BadOffload)
	}
	if dst, ok := t.extract(h.dst); ok {
		return t.sixToFour(p, b, &h, &dst)
	}
	return t.sixToSix(p, b, &h)
}

func isError6(typ uint8) bool { return typ < 128 }

// sixToFour is RFC 7915 §5.
func (t *Table) sixToFour(p *Packet, b []byte, h *head6, dst *addr4) Verdict {
	l4 := b[h.l4:]
	m, src := t.unmapped4(&h.src)
	icmpError := h.proto == protoICMPv6 && h.off == 0 && len(l4) > 0 && isError6(l4[0])
	switch {
	case !usable4(*dst):
		return reject(NotForwardable, 1, 0, 0)
	case !t.global(*dst):
		// Administratively prohibited (RFC 7915 §5.4).
		return reject(PrivateAddress, 1, 1, 0)
	case m != nil:
	case icmpError:
		// A router without an IPv4 address of its own (RFC 6791). It may be the
		// node's own kernel, which likes to speak from an address that it was given
		// under the prefix.
		if !t.routers {
			return drop(NoICMPSource)
		}
		src = t.source4(&h.src)
	case t.in64(h.src):
		return drop(BadSource)
	default:
		return reject(NoMapping, 1, 5, 0)
	}
	if h.hop <= t.hop {
		return reject(TTLExceeded, 3, 0, 0)
	}
	if h.segs != 0 {
		return reject(RoutingHeader, 4, 0, h.segs)
	}
	if h.behind || h.fragment() && h.proto == protoAH {
		// Taking them away would move the later fragments' data; RFC 7915 §5.1.1
		// has them dropped, Authentication Headers too, and §5.4 answered.
		return reject(FragmentHeaders, 1, 1, 0)
	}
	tos := h.tc
	if t.spec.ZeroTrafficClass {
		tos = 0
	}
	proto := h.proto
	switch proto {
	case protoICMPv6:
		switch {
		case h.fragment():
			return drop(FragmentedICMP)
		case len(l4) < 8:
			return drop(Malformed)
		case icmpError:
			return t.error6(p, b, h, tos, &src, dst, m)
		case l4[0] != 128 && l4[0] != 129:
			return drop(UntranslatableICMP)
		}
		proto = protoICMP
	case protoICMP, protoIGMP:
		return reject(UntranslatableProtocol, 1, 1, 0)
	}
	field, least := checksumAt(proto)
	if h.off != 0 {
		field = -1
	} else if len(l4) < least {
		return drop(Malformed)
	}
	total := 20 + len(l4)
	if seg := p.segment(proto, l4, 20); !h.frag && t.spec.MTU4 > 0 && seg > t.spec.MTU4 {
		// IPv6 may not be told less than 1280; what is no longer than that goes
		// without DF and may be fragmented behind us.
		if t.spec.MTU4+20 >= minMTU6 || seg > minMTU6-20 {
			return reject(TooBig, 2, 0, max(t.spec.MTU4+20, minMTU6))
		}
	}
	if total > 65535 {
		return reject(TooBig, 2, 0, 65535)
	}

	// From here on the packet is changed.
	p.Len = h.end
	id, frag := fragment4(h, &src, dst, l4, total)
	gone, come := sum6(&h.src)+sum6(&h.dst), sum4(&src)+sum4(dst)
	switch {
	case proto == protoICMP:
		p.complete()
		typ := uint8(8)
		if l4[0] == 129 {
			typ = 0
		}
		was := uint64(l4[0]) << 8
		l4[0] = typ
		adjust(l4[2:4], was+pseudo6(&h.src, &h.dst, len(l4), protoICMPv6), uint64(typ)<<8)
	case field >= 0 && p.Offload.NeedsCsum && !h.fragment():
		adjustPartial(l4[field:field+2], gone, come)
	case field >= 0:
		p.complete()
		if proto != protoUDP || l4[6]|l4[7] != 0 {
			adjust(l4[field:field+2], gone, come)
			neverZero(proto, l4)
		}
	default:
		p.complete()
	}
	at := p.Off + h.l4 - 20
	put4(p.Buf[at:], tos, h.hop-t.hop, proto, total, id, frag, &src, dst)
	p.Off, p.Len = at, total
	p.Offload.shift(20-h.l4, GSOTCPv4)
	return outbound(SixToFour, m)
}

// fragment4 makes Identification and the flags (RFC 7915 §5.1, §5.1.1). What is
// no longer than 1260 bytes goes without DF, because a path with an IPv4 MTU
// below 1260 cannot be told to an IPv6 host. Such a packet needs an
// Identification, and one drawn from a counter would differ from node to node,
// so it is mixed out of the packet.
func fragment4(h *head6, src, dst *addr4, l4 []byte, total int) (id, frag uint16) {
	if h.frag {
		frag = uint16(h.off / 8)
		if h.mf {
			frag |= 0x2000
		}
		return uint16(h.id), frag
	}
	if total > minMTU6-20 {
		return 0, 0x4000
	}
	x := uint64(binary.BigEndian.Uint32(src[:]))<<32 | uint64(binary.BigEndian.Uint32(dst[:]))
	x = (x ^ uint64(total)<<16 ^ uint64(h.proto)) * 0x9e3779b97f4a7c15
	for n := 0; n < 3 && len(l4) >= 8; n++ {
		x = (x ^ x>>29 ^ binary.BigEndian.Uint64(l4)) * 0x9e3779b97f4a7c15
		l4 = l4[8:]
	}
	return uint16(x >> 48), 0
}
