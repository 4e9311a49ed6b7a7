package siit

import "encoding/binary"

// from4 is RFC 7915 §4.
func (t *Table) from4(p *Packet, b []byte) Verdict {
	h, r, ok := parse4(b, false)
	if !ok {
		return drop(r)
	}
	b = b[:h.total]
	l4 := b[h.ihl:]
	switch {
	case !t.has64 || !usable4(h.dst) || h.proto == protoIGMP:
		return drop(NotForwardable)
	case !usable4(h.src):
		// The RFC has such sources translated in ICMP errors, for the sake of
		// whoever looks for the trouble (§4.1).
		if !t.private || h.proto != protoICMP || h.off != 0 || len(l4) == 0 || !isError4(l4[0]) {
			return drop(BadSource)
		}
	case !t.global(h.src):
		return drop(PrivateAddress)
	}
	m, dst := t.mapped4(&h.dst)
	if m == nil {
		return reject(NoMapping, 3, 1, 0)
	}
	if h.ttl <= t.hop {
		return reject(TTLExceeded, 11, 0, 0)
	}
	if h.ihl > 20 && sourceRouted(b[20:h.ihl]) {
		return reject(SourceRoute, 3, 5, 0)
	}
	if !p.checkOffload(h.proto, h.ihl, h.total, h.fragment()) {
		return drop(BadOffload)
	}
	src := t.embed(h.src)
	tc := h.tos
	if t.spec.ZeroTrafficClass {
		tc = 0
	}
	proto := h.proto
	switch proto {
	case protoICMP:
		switch {
		case h.fragment():
			// The ICMPv6 checksum covers the length of the whole message, which no
			// single fragment tells (§1.2). Type 3 code 13 is what §4.4 has for
			// whatever it does not name.
			return reject(FragmentedICMP, 3, 13, 0)
		case len(l4) < 8:
			return drop(Malformed)
		case l4[0] != 8 && l4[0] != 0:
			return t.error4(p, b, &h, tc, &src, &dst, m)
		}
		proto = protoICMPv6
	case protoHopByHop, protoRouting, protoFragment, protoICMPv6, protoDestOpts:
		// These numbers mean something else in an IPv6 chain of headers: whoever
		// could send them would make up headers behind the translator's back.
		return reject(UntranslatableProtocol, 3, 13, 0)
	}

	hdr := 40
	if h.fragment() {
		hdr = 48
	}
	field, least := checksumAt(proto)
	if h.off != 0 {
		field = -1
	} else if len(l4) < least {
		return drop(Malformed)
	}
	zeroUDP := field >= 0 && proto == protoUDP && !p.Offload.NeedsCsum && l4[6]|l4[7] == 0
	if zeroUDP && (h.mf || t.spec.UDPZero == UDPZeroDrop || int(binary.BigEndian.Uint16(l4[4:])) != len(l4)) {
		return reject(UDPNoChecksum, 3, 13, 0)
	}

	gso := p.Offload.GSOType&^GSOECN != GSONone
	seg := p.segment(proto, l4, hdr)
	if len(l4)+hdr-40 > 65535 {
		return reject(TooBig, 3, 4, 65535-20)
	}
	pieces := !h.df && seg > t.lowMTU
	if !pieces && t.spec.MTU6 > 0 && seg > t.spec.MTU6 {
		return reject(TooBig, 3, 4, t.spec.MTU6-hdr+20)
	}

	// From here on the packet is changed.
	p.Len = h.total
	come := sum6(&src) + sum6(&dst)
	switch {
	case proto == protoICMPv6:
		p.complete()
		typ := uint8(128)
		if l4[0] == 0 {
			typ = 129
		}
		gone := uint64(l4[0]) << 8
		l4[0] = typ
		adjust(l4[2:4], gone, uint64(typ)<<8+pseudo6(&src, &dst, len(l4), protoICMPv6))
	case zeroUDP:
		c := ^fold(sum(l4) + pseudo6(&src, &dst, len(l4), protoUDP))
		if c == 0 {
			c = 0xffff
		}
		binary.BigEndian.PutUint16(l4[6:], c)
	case field >= 0 && p.Offload.NeedsCsum && !h.fragment():
		adjustPartial(l4[field:field+2], sum4(&h.src)+sum4(&h.dst), come)
	case field >= 0:
		p.complete()
		adjust(l4[field:field+2], sum4(&h.src)+sum4(&h.dst), come)
		neverZero(proto, l4)
	default:
		p.complete()
	}
	at := p.Off + h.ihl - hdr
	out := p.Buf[at:]
	if hdr == 48 {
		put6(out, tc, h.ttl-t.hop, protoFragment, len(l4)+8, &src, &dst)
		putFragment(out[40:], proto, h.off, h.mf, uint32(h.id))
	} else {
		put6(out, tc, h.ttl-t.hop, proto, len(l4), &src, &dst)
	}
	p.Off, p.Len = at, hdr+len(l4)
	p.Offload.shift(hdr-h.ihl, GSOTCPv6)
	if pieces {
		if !gso { // else Fragments makes a checksum for each segment
			p.complete()
		}
		if hdr == 40 {
			t.insertFragment(p, proto, h.id)
		}
		v := inbound(FourToSix, m)
		v.Action = SendFragments
		return v
	}
	return inbound(FourToSix, m)
}

// insertFragment makes room for a fragment header behind the IPv6 header.
func (t *Table) insertFragment(p *Packet, proto uint8, id uint16) {
	copy(p.Buf[p.Off-8:], p.Buf[p.Off:p.Off+40])
	p.Off -= 8
	p.Len += 8
	b := p.Bytes()
	binary.BigEndian.PutUint16(b[4:], uint16(p.Len-40))
	b[6] = protoFragment
	putFragment(b[40:], proto, 0, false, uint32(id))
}

// neverZero: a UDP checksum that comes out as zero is sent as all ones (RFC 768).
func neverZero(proto uint8, l4 []byte) {
	if proto == protoUDP && l4[6]|l4[7] == 0 {
		l4[6], l4[7] = 0xff, 0xff
	}
}
