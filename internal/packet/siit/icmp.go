package siit

import "encoding/binary"

// plateaus are RFC 1191 §7's, for routers that do not tell their MTU.
var plateaus = [...]int{65535, 32000, 17914, 8166, 4352, 2002, 1492, 1006, 508, 296, 68}

// pointer4to6 and pointer6to4 are the figures of RFC 7915 §4.2 and §5.2: where
// a Parameter Problem points in the other header; -1 for nowhere.
var (
	pointer4to6 = [20]int8{0, 1, 4, 4, -1, -1, -1, -1, 7, 6, -1, -1, 8, 8, 8, 8, 24, 24, 24, 24}
	pointer6to4 = [40]int8{0, 1, -1, -1, 2, 2, 9, 8,
		12, 12, 12, 12, 12, 12, 12, 12, 12, 12, 12, 12, 12, 12, 12, 12,
		16, 16, 16, 16, 16, 16, 16, 16, 16, 16, 16, 16, 16, 16, 16, 16}
)

// kind4to6 is the table of RFC 7915 §4.2 for errors.
func (t *Table) kind4to6(m []byte, quoted *head4) (e ICMPError, ok bool) {
	switch m[0] {
	case 3:
		switch m[1] {
		case 0, 1, 5, 6, 7, 8, 11, 12:
			return ICMPError{Type: 1, Code: 0}, true
		case 2:
			return ICMPError{Type: 4, Code: 1, Info: 6}, true
		case 3:
			return ICMPError{Type: 1, Code: 4}, true
		case 4:
			mtu := int(binary.BigEndian.Uint16(m[6:]))
			if mtu == 0 {
				for _, p := range plateaus {
					if p < quoted.total {
						mtu = p
						break
					}
				}
			}
			mtu += 20
			if t.spec.MTU6 > 0 {
				mtu = min(mtu, t.spec.MTU6)
			}
			if t.spec.MTU4 > 0 {
				mtu = min(mtu, t.spec.MTU4+20)
			}
			return ICMPError{Type: 2, Info: uint32(max(mtu, minMTU6))}, true
		case 9, 10, 13, 15:
			return ICMPError{Type: 1, Code: 1}, true
		}
	case 11:
		return ICMPError{Type: 3, Code: m[1]}, m[1] <= 1
	case 12:
		if (m[1] == 0 || m[1] == 2) && int(m[4]) < len(pointer4to6) {
			if at := pointer4to6[m[4]]; at >= 0 {
				return ICMPError{Type: 4, Info: uint32(at)}, true
			}
		}
	}
	return e, false
}

// kind6to4 is the table of RFC 7915 §5.2 for errors.
func (t *Table) kind6to4(m []byte, quoted *head6) (e ICMPError, ok bool) {
	info := binary.BigEndian.Uint32(m[4:])
	switch m[0] {
	case 1:
		switch m[1] {
		case 0, 2, 3:
			return ICMPError{Type: 3, Code: 1}, true
		case 1:
			return ICMPError{Type: 3, Code: 10}, true
		case 4:
			return ICMPError{Type: 3, Code: 3}, true
		}
	case 2:
		// An MTU under 20 must not wrap around, one over 65535 not be cut.
		mtu := int(min(info, 65535+20))
		if t.spec.MTU6 > 0 {
			mtu = min(mtu, t.spec.MTU6)
		}
		less := 20
		if quoted.frag {
			less = 28
		}
		mtu = max(mtu-less, 68)
		if t.spec.MTU4 > 0 {
			mtu = min(mtu, t.spec.MTU4)
		}
		return ICMPError{Type: 3, Code: 4, Info: uint32(min(mtu, 65535))}, true
	case 3:
		return ICMPError{Type: 11, Code: m[1]}, m[1] <= 1
	case 4:
		switch m[1] {
		case 0:
			if info < uint32(len(pointer6to4)) {
				if at := pointer6to4[info]; at >= 0 {
					return ICMPError{Type: 12, Info: uint32(at) << 24}, true
				}
			}
		case 1:
			return ICMPError{Type: 3, Code: 2}, true
		}
	}
	return e, false
}

func isError4(typ uint8) bool { return typ == 3 || typ == 11 || typ == 12 }

// multipart divides what follows the header of an ICMP error into the quoted
// packet and, of the length ext, the extension structure behind it. n is the
// length attribute in bytes (RFC 4884 §4.1, §4.2). A quote under 128 bytes, or
// what does not begin like an extension structure (§7), has none.
func multipart(q []byte, n int) (quote []byte, ext int) {
	if n == 0 || n >= len(q) {
		return q, 0
	}
	if ext = len(q) - n; n < 128 || ext < 4 || q[n]>>4 != 2 {
		ext = 0
	}
	return q[:n], ext
}

// arrange makes room for headers of hdr bytes before the quoted payload
// Buf[data:data+n] and puts the extension structure Buf[ext:ext+size] where it
// belongs behind it: the quote padded with zeros to 128 bytes and to units of 4
// or 8 (RFC 4884 §3), or cut to such if it does not hold all of its packet. It is
// cut, too, so that all fits into room; if that is not enough, the extensions go
// (RFC 7915 §4.3). It returns where the payload is now,
// its length with all that follows, and the length attribute in units.
func (p *Packet) arrange(data, n, hdr int, all bool, ext, size, unit, room int) (at, length, words int) {
	if size == 0 || 128+size > room {
		return data, min(n, room-hdr), 0
	}
	quote := min(hdr+n, (room-size)/unit*unit)
	if !all && quote > 128 {
		quote = quote / unit * unit
	}
	n = quote - hdr
	quote = max(128, (quote+unit-1)/unit*unit)
	end := data - hdr + quote
	if more := end - ext; more > 0 {
		// The buffer may end here, but there is room in front.
		copy(p.Buf[data-more:], p.Buf[data:data+n])
		data -= more
		end = ext
	}
	clear(p.Buf[data+n : end])
	copy(p.Buf[end:end+size], p.Buf[ext:ext+size])
	return data, end + size - data, quote / unit
}

// error4 translates an ICMPv4 error with the packet that it quotes. All new
// headers are longer and grow backwards from the quoted payload.
func (t *Table) error4(p *Packet, b []byte, h *head4, tc uint8, src, dst *addr6, to *record) Verdict {
	m := b[h.ihl:]
	q := m[8:]
	if !isError4(m[0]) {
		return drop(UntranslatableICMP)
	}
	if p.Offload.NeedsCsum {
		p.Len = h.total
		p.complete()
	}
	if fold(sum(m)) != 0xffff {
		return drop(BadICMPChecksum)
	}
	q, ext := multipart(q, int(m[5])*4)
	in, _, ok := parse4(q, true)
	if !ok {
		return drop(UntranslatableInner)
	}
	e, ok := t.kind4to6(m, &in)
	if !ok {
		return drop(UntranslatableICMP)
	}
	isrc := *dst
	if in.src != h.dst {
		var m *record
		if m, isrc = t.mapped4(&in.src); m == nil {
			return drop(UntranslatableInner)
		}
	}
	if !t.global(in.dst) {
		return drop(UntranslatableInner)
	}
	idst := t.embed(in.dst)
	proto, pay := in.proto, q[in.ihl:min(len(q), in.total)]
	ihdr := 40
	if in.fragment() {
		ihdr = 48
	}
	switch proto {
	case protoICMP:
		if in.off == 0 && (len(pay) < 4 || pay[0] != 8 && pay[0] != 0) {
			return drop(UntranslatableInner)
		}
		proto = protoICMPv6
	case protoHopByHop, protoIGMP, protoRouting, protoFragment, protoICMPv6, protoDestOpts:
		return drop(UntranslatableInner)
	}

	// From here on the packet is changed.
	if in.off == 0 {
		if proto == protoICMPv6 {
			typ := uint8(128)
			if pay[0] == 0 {
				typ = 129
			}
			was := uint64(pay[0]) << 8
			pay[0] = typ
			if !in.mf {
				adjust(pay[2:4], was, uint64(typ)<<8+pseudo6(&isrc, &idst, in.total-in.ihl, protoICMPv6))
			}
		} else {
			adjustQuoted(proto, pay, sum4(&in.src)+sum4(&in.dst), sum6(&isrc)+sum6(&idst))
		}
	}
	if e.Type != 1 && e.Type != 3 {
		ext = 0 // there is no place for the length (RFC 4884 §4.3 and after)
	}
	// RFC 4443 §2.4: an ICMPv6 error is no longer than 1280 bytes.
	data, n, words := p.arrange(p.Off+h.ihl+8+in.ihl, len(pay), ihdr, len(q) >= in.total, p.Off+h.total-ext, ext, 8, minMTU6-40-8)
	e.Info |= uint32(words) << 24
	at := data - ihdr
	length := in.total - in.ihl
	if ihdr == 48 {
		putFragment(p.Buf[at+40:], proto, in.off, in.mf, uint32(in.id))
		proto, length = protoFragment, length+8
	}
	put6(p.Buf[at:], in.tos, in.ttl, proto, min(length, 65535), &isrc, &idst)
	at -= 8
	n += 8 + ihdr
	out := p.Buf[at : at+n]
	out[0], out[1], out[2], out[3] = e.Type, e.Code, 0, 0
	binary.BigEndian.PutUint32(out[4:], e.Info)
	binary.BigEndian.PutUint16(out[2:], ^fold(sum(out)+pseudo6(src, dst, n, protoICMPv6)))
	at -= 40
	put6(p.Buf[at:], tc, h.ttl-t.hop, protoICMPv6, n, src, dst)
	p.Off, p.Len, p.Offload = at, 40+n, Offload{}
	return inbound(FourToSix, to)
}

// error6 translates an ICMPv6 error with the packet that it quotes.
func (t *Table) error6(p *Packet, b []byte, h *head6, tos uint8, src, dst *addr4, from *record) Verdict {
	m := b[h.l4:]
	q := m[8:]
	if p.Offload.NeedsCsum {
		p.Len = h.end
		p.complete()
	}
	if fold(sum(m)+pseudo6(&h.src, &h.dst, len(m), protoICMPv6)) != 0xffff {
		return drop(BadICMPChecksum)
	}
	ext := 0
	if m[0] == 1 || m[0] == 3 {
		q, ext = multipart(q, int(m[4])*8)
	}
	in, ok := parse6(q, true)
	if !ok || in.behind {
		return drop(UntranslatableInner)
	}
	e, ok := t.kind6to4(m, &in)
	if !ok {
		return drop(UntranslatableICMP)
	}
	isrc, ok := t.extract(in.src)
	if !ok || !t.global(isrc) {
		return drop(UntranslatableInner)
	}
	idst := *src
	if from == nil || in.dst != h.src {
		var m *record
		if m, idst = t.unmapped4(&in.dst); m == nil {
			return drop(UntranslatableInner)
		}
	}
	proto, pay := in.proto, q[min(in.l4, len(q)):min(len(q), in.end)]
	length := in.end - in.l4
	switch proto {
	case protoICMPv6:
		if in.off == 0 && (len(pay) < 4 || pay[0] != 128 && pay[0] != 129) {
			return drop(UntranslatableInner)
		}
		proto = protoICMP
	case protoICMP, protoIGMP:
		return drop(UntranslatableInner)
	}
	if length < 0 || 20+length > 65535 {
		return drop(UntranslatableInner)
	}
	// From here on the packet is changed.
	id, frag := fragment4(&in, &isrc, &idst, pay, 20+length)
	if in.off == 0 {
		if proto == protoICMP {
			typ := uint8(8)
			if pay[0] == 129 {
				typ = 0
			}
			was := uint64(pay[0]) << 8
			pay[0] = typ
			if !in.mf {
				adjust(pay[2:4], was+pseudo6(&in.src, &in.dst, length, protoICMPv6), uint64(typ)<<8)
			}
		} else {
			adjustQuoted(proto, pay, sum6(&in.src)+sum6(&in.dst), sum4(&isrc)+sum4(&idst))
		}
	}
	if e.Type != 3 && e.Type != 11 || e.Code == 4 && e.Type == 3 {
		ext = 0
	}
	// RFC 1812 §4.3.2.3: an ICMP error is no longer than 576 bytes.
	data, n, words := p.arrange(p.Off+h.l4+8+in.l4, len(pay), 20, len(q) >= in.end, p.Off+h.end-ext, ext, 4, 576-20-8)
	e.Info |= uint32(words) << 16
	at := data - 20
	put4(p.Buf[at:], in.tc, in.hop, proto, 20+length, id, frag, &isrc, &idst)
	at -= 8
	n += 8 + 20
	out := p.Buf[at : at+n]
	out[0], out[1], out[2], out[3] = e.Type, e.Code, 0, 0
	binary.BigEndian.PutUint32(out[4:], e.Info)
	binary.BigEndian.PutUint16(out[2:], ^fold(sum(out)))
	at -= 20
	id, frag = fragment4(h, src, dst, out, 20+n)
	put4(p.Buf[at:], tos, h.hop-t.hop, protoICMP, 20+n, id, frag, src, dst)
	p.Off, p.Len, p.Offload = at, 20+n, Offload{}
	v := Verdict{Action: Send, Reason: SixToFour, Mapping: NoEntry, Outbound: true}
	if from != nil {
		v.Mapping = from.id
	}
	return v
}

// adjustQuoted adjusts the transport checksum of a quoted packet, if the quote
// reaches that far.
func adjustQuoted(proto uint8, pay []byte, gone, come uint64) {
	field, _ := checksumAt(proto)
	if field < 0 || len(pay) < field+2 || proto == protoUDP && pay[6]|pay[7] == 0 {
		return
	}
	adjust(pay[field:field+2], gone, come)
	neverZero(proto, pay)
}

// AppendError appends to dst the whole packet of the ICMP error e about the
// packet orig, from the table's ICMP source. It appends nothing if there is no
// such source, or if RFC 1812 §4.3.2.7 and RFC 4443 §2.4 (e) forbid an error:
// about ICMP errors, later fragments, and packets not from or to one machine.
func (t *Table) AppendError(dst, orig []byte, e ICMPError) []byte {
	if len(orig) == 0 {
		return dst
	}
	start := len(dst)
	switch orig[0] >> 4 {
	case 4:
		h, _, ok := parse4(orig, false)
		if !ok || !t.has4 || h.off != 0 || !usable4(h.src) || !usable4(h.dst) {
			return dst
		}
		if h.proto == protoICMP {
			if h.total == h.ihl {
				return dst
			}
			switch orig[h.ihl] {
			case 0, 8, 13, 14, 15, 16, 17, 18:
			default:
				return dst
			}
		}
		q := orig[:min(h.total, 576-28)]
		dst = append(dst, make([]byte, 28)...)
		dst = append(dst, q...)
		b := dst[start:]
		b[20], b[21] = e.Type, e.Code
		binary.BigEndian.PutUint32(b[24:], e.Info)
		binary.BigEndian.PutUint16(b[22:], ^fold(sum(b[20:])))
		src, to := t.src4, h.src
		put4(b, 0xc0, 64, protoICMP, len(b), 0, 0, &src, &to)
	case 6:
		h, ok := parse6(orig, false)
		if !ok || !t.spec.ICMPSource6.IsValid() || h.off != 0 || !usable6(h.src) || !usable6(h.dst) {
			return dst
		}
		if h.proto == protoICMPv6 && (h.l4 >= h.end || isError6(orig[h.l4]) || orig[h.l4] == 137) {
			return dst
		}
		q := orig[:min(h.end, minMTU6-48)]
		dst = append(dst, make([]byte, 48)...)
		dst = append(dst, q...)
		b := dst[start:]
		src, to := t.spec.ICMPSource6.As16(), h.src
		b[40], b[41] = e.Type, e.Code
		binary.BigEndian.PutUint32(b[44:], e.Info)
		binary.BigEndian.PutUint16(b[42:], ^fold(sum(b[40:])+pseudo6(&src, &to, len(b)-40, protoICMPv6)))
		put6(b, 0, 64, protoICMPv6, len(b)-40, &src, &to)
	}
	return dst
}
