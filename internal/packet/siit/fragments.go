package siit

import "encoding/binary"

// Fragments yields the pieces of a packet whose verdict was SendFragments, each
// as a place in p.Buf, in order. A piece's headers overwrite the end of the
// piece before it, so each has to be written before the next is asked for.
//
// A super-packet is first cut into the segments that its sender meant, with
// checksums, sequence numbers and Identifications of their own; those that fit
// go whole.
type Fragments struct {
	p          *Packet
	head       [48]byte
	base, size int // offset of the first piece in its datagram; data per piece
	more       bool
	low        int

	// The datagram or segment at hand is Buf[from:end], of which at is next.
	from, at, end int
	// What follows is for super-packets: the data not yet cut, the transport
	// header before each segment, how many there were.
	data, dataEnd, gso int
	l4                 [60]byte
	l4len, segments    int
}

// Fragments begins the iteration.
func (t *Table) Fragments(p *Packet) Fragments {
	f := Fragments{p: p, size: (t.lowMTU - 48) &^ 7, low: t.lowMTU}
	b := p.Bytes()
	if len(b) < 48 || b[6] != protoFragment {
		return f
	}
	copy(f.head[:], b)
	fo := binary.BigEndian.Uint16(b[42:])
	f.base, f.more = int(fo&^7), fo&1 != 0
	f.from, f.at, f.end = p.Off+48, p.Off+48, p.Off+p.Len
	if p.Offload.GSOType&^GSOECN != GSONone {
		f.l4len, f.gso = 8, int(p.Offload.GSOSize)
		if b[40] == protoTCP {
			f.l4len = int(b[48+12]>>4) * 4
		}
		copy(f.l4[:f.l4len], b[48:])
		f.data, f.dataEnd, f.end = f.from+f.l4len, f.end, f.at
		p.Offload = Offload{}
	}
	return f
}

// Next returns the next piece.
func (f *Fragments) Next() (piece Packet, ok bool) {
	whole := false
	if f.at == f.end {
		if f.data == f.dataEnd {
			return Packet{}, false
		}
		f.segment()
		whole = 40+f.end-f.from <= f.low
	}
	n := min(f.size, f.end-f.at)
	hdr := 48
	if whole {
		n, hdr = f.end-f.at, 40
	}
	at := f.at - hdr
	b := f.p.Buf[at:]
	copy(b, f.head[:hdr])
	binary.BigEndian.PutUint16(b[4:], uint16(n+hdr-40))
	if whole {
		b[6] = f.head[40]
	} else {
		putFragment(b[40:], f.head[40], f.base+f.at-f.from, f.more || f.at+n < f.end, binary.BigEndian.Uint32(f.head[44:]))
	}
	f.at += n
	return Packet{Buf: f.p.Buf, Off: at, Len: hdr + n}, true
}

// segment puts the transport header before the next piece of a super-packet's
// data, as the sender's device would have done it.
func (f *Fragments) segment() {
	n := min(f.gso, f.dataEnd-f.data)
	last := f.data+n == f.dataEnd
	f.from = f.data - f.l4len
	f.at, f.end = f.from, f.data+n
	f.data += n
	s := f.p.Buf[f.from:f.end]
	copy(s, f.l4[:f.l4len])
	if f.segments > 0 {
		// Identification: one higher each, as for segments of a device.
		id := binary.BigEndian.Uint16(f.head[46:])
		binary.BigEndian.PutUint16(f.head[46:], id+1)
	}
	field := 16
	if f.head[40] == protoUDP {
		field = 6
		binary.BigEndian.PutUint16(s[4:], uint16(len(s)))
	} else {
		seq := binary.BigEndian.Uint32(s[4:])
		binary.BigEndian.PutUint32(s[4:], seq+uint32(f.segments*f.gso))
		if !last {
			s[13] &^= 0x09 // FIN, PSH
		}
		if f.segments > 0 {
			s[13] &^= 0x80 // CWR
		}
	}
	s[field], s[field+1] = 0, 0
	src, dst := addr6(f.head[8:24]), addr6(f.head[24:40])
	c := ^fold(sum(s) + pseudo6(&src, &dst, len(s), f.head[40]))
	if c == 0 && field == 6 {
		c = 0xffff
	}
	binary.BigEndian.PutUint16(s[field:], c)
	f.segments++
}
