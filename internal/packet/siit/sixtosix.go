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
	l4 := b[h.l4:]
	var quoted head6
	var about *record
	icmpError := h.proto == protoICMPv6 && h.off == 0 && len(l4) >= 8 && isError6(l4[0])
	readable := false
	if icmpError {
		if quoted, readable = parse6(l4[8:], true); readable && to == nil && from == nil && !inside {
			about, _ = t.unmapped6(&quoted.dst)
		}
	}
	switch transit := to == nil && from == nil && about == nil && passes(h.proto); {
	case transit && !inside && (t.isServed(&h.dst) || t.isConfined(h, l4)):
		// What came by the routes of a destination would come back by them.
		return reject(NoMapping, 1, 3, 0)
	case transit:
		// It came because all ICMPv6 does, and would be none the worse for not having
		// met us: the kernel counts hops and knows the MTU behind.
		p.Len = h.end
		return Verdict{Action: Send, Reason: Unchanged, Mapping: NoEntry}
	case to == nil && from == nil && about == nil && !inside:
		return reject(NoMapping, 1, 3, 0)
	}
	if v4, ok := t.extract(h.src); ok && !icmpError && !source4(v4) {
		// As between IPv4 and IPv6, ICMP errors aside: those of a node's kernel come from its own address under the prefix.
		return drop(BadSource)
	}
	if h.hop <= t.hop {
		return reject(TTLExceeded, 3, 0, 0)
	}
	if about != nil {
		t.passedBy(p, b, h, &quoted, about)
		return outbound(SixToSix, about)
	}
	if h.segs != 0 {
		// The checksum covers the final destination, which is not in this header.
		return reject(RoutingHeader, 4, 0, h.segs)
	}
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
	if icmpError && !readable {
		return drop(UntranslatableInner)
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
			g, c := t.quote66(l4[8:], &quoted, h, to, from, nil)
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

// passes tells of protocols whose packets the kernel brings although nothing is
// mapped: ICMPv6, for the errors that quote mapped addresses; and tunnels, because
// the kernel's policy rules go by what is innermost (its flow dissector).
func passes(proto uint8) bool {
	switch proto {
	case protoICMPv6, 4, 41, 47, 137: // IPv4, IPv6, GRE, MPLS
		return true
	}
	return false
}

// isConfined tells of an echo request of an unmapped machine that may not send it.
func (t *Table) isConfined(h *head6, l4 []byte) bool {
	return t.spec.Confined && h.proto == protoICMPv6 && h.off == 0 && len(l4) > 0 && l4[0] == 128 && within(t.spec.Inside, &h.src)
}

// passedBy translates what a router behind us, or the kernel itself, quotes of a
// packet on its way to a machine: the client knows nothing of the inside address.
// The error's own addresses are a router's and the client's.
func (t *Table) passedBy(p *Packet, b []byte, h, quoted *head6, about *record) {
	p.Len = h.end
	p.complete()
	b[7] -= t.hop
	l4 := b[h.l4:]
	gone, come := t.quote66(l4[8:], quoted, h, nil, nil, about)
	if s := t.spec.ICMPSource6; s.IsValid() && t.in64(h.src) {
		// The kernel likes to speak from an address that it was given under the prefix,
		// where to an IPv6 client there is nobody.
		src := s.As16()
		gone, come = gone+sum6(&h.src), come+sum6(&src)
		copy(b[8:], src[:])
	}
	adjust(l4[2:4], gone, come)
}

// quote66 undoes the exchange in the packet that an ICMPv6 error quotes, and
// returns what went from and came into the error's own checksum. about is the
// mapping of the quoted destination, if that is known.
func (t *Table) quote66(q []byte, h, outer *head6, to, from, about *record) (gone, come uint64) {
	src, dst := h.src, h.dst
	if to != nil {
		if h.src == outer.dst { // the same mapping, even if it has changed meanwhile
			src = to.inward(key6(&h.src)).addr6()
		} else if m, in := t.mapped6(&h.src); m != nil {
			src = in
		}
	}
	switch {
	case about != nil:
		dst = about.outward(key6(&h.dst)).addr6()
	case from != nil && h.dst == outer.src:
		dst = from.outward(key6(&h.dst)).addr6()
	default:
		// Also if one machine called another, and a router between them speaks.
		if m, out := t.unmapped6(&h.dst); m != nil {
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
