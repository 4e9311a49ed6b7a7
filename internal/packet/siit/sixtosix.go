package siit

import "encoding/binary"

// sixToSix exchanges service addresses and inside addresses. If both ends are
// mapped, as when one machine calls another's service address, both are
// exchanged, so that the answer comes back the same way.
func (t *Table) sixToSix(p *Packet, b []byte, h *head6) Verdict {
	src, dst := h.src, h.dst
	to, in := t.mapped6(&h.dst)
	if to != nil {
		dst = in
	}
	from, out := t.unmapped6(&h.src)
	inside := (from != nil || to == nil) && t.isInside(&h.dst)
	if from != nil && !inside {
		src = out
	} else {
		from = nil
	}
	if to == nil && from == nil && !inside {
		return reject(NoMapping, 1, 3, 0)
	}
	if h.hop <= t.hop {
		return reject(TTLExceeded, 3, 0, 0)
	}
	if h.segs != 0 {
		// The checksum covers the final destination, which is not in this header.
		return reject(RoutingHeader, 4, 0, h.segs)
	}
	l4 := b[h.l4:]
	field, least := checksumAt(h.proto)
	if h.proto == protoICMPv6 {
		field, least = 2, 8
	}
	if h.off != 0 {
		field = -1
	} else if len(l4) < least {
		return drop(Malformed)
	}
	if seg := p.segment(h.proto, l4, h.l4); t.spec.MTU6 > 0 && seg > t.spec.MTU6 {
		return reject(TooBig, 2, 0, t.spec.MTU6)
	}
	var quoted head6
	icmpError := h.proto == protoICMPv6 && h.off == 0 && isError6(l4[0])
	if icmpError {
		var ok bool
		if quoted, ok = parse6(l4[8:], true); !ok {
			return drop(UntranslatableInner)
		}
	}

	// From here on the packet is changed.
	b[7] -= t.hop
	p.Len = h.end
	if to == nil && from == nil {
		return Verdict{Action: Send, Reason: Unchanged, Mapping: NoEntry}
	}
	gone, come := sum6(&h.src)+sum6(&h.dst), sum6(&src)+sum6(&dst)
	switch {
	case field >= 0 && h.proto != protoICMPv6 && p.Offload.NeedsCsum && !h.fragment():
		adjustPartial(l4[field:field+2], gone, come)
	case field >= 0:
		p.complete()
		if icmpError {
			g, c := t.quote66(l4[8:], &quoted, h, to, from)
			gone, come = gone+g, come+c
		}
		if h.proto != protoUDP || l4[6]|l4[7] != 0 {
			adjust(l4[field:field+2], gone, come)
			neverZero(h.proto, l4)
		}
	default:
		p.complete()
	}
	copy(b[8:], src[:])
	copy(b[24:], dst[:])
	if to != nil {
		return inbound(SixToSix, to)
	}
	return outbound(SixToSix, from)
}

// quote66 undoes the exchange in the packet that an ICMPv6 error quotes, and
// returns what went from and came into the error's own checksum.
func (t *Table) quote66(q []byte, h, outer *head6, to, from *record) (gone, come uint64) {
	src, dst := h.src, h.dst
	if to != nil {
		if h.src == outer.dst { // the same mapping, even if it has changed meanwhile
			src = to.inward(key6(&h.src)).addr6()
		} else if m, in := t.mapped6(&h.src); m != nil {
			src = in
		}
	}
	if from != nil {
		if h.dst == outer.src {
			dst = from.outward(key6(&h.dst)).addr6()
		} else if m, out := t.unmapped6(&h.dst); m != nil {
			dst = out
		}
	}
	g, c := sum6(&h.src)+sum6(&h.dst), sum6(&src)+sum6(&dst)
	gone, come = g, c
	field, _ := checksumAt(h.proto)
	if h.proto == protoICMPv6 {
		field = 2
	}
	if at := h.l4 + field; field >= 0 && h.off == 0 && at+2 <= len(q) {
		f := q[at : at+2]
		was := uint64(binary.BigEndian.Uint16(f))
		if h.proto != protoUDP || was != 0 {
			adjust(f, g, c)
			if h.proto == protoUDP && f[0]|f[1] == 0 {
				f[0], f[1] = 0xff, 0xff
			}
		}
		gone, come = gone+was, come+uint64(binary.BigEndian.Uint16(f))
	}
	copy(q[8:], src[:])
	copy(q[24:], dst[:])
	return gone, come
}
