package siit

import "encoding/binary"

// Train is datagrams of one UDP flow, one behind the other, that go on as one
// super-packet (VIRTIO_NET_HDR_GSO_UDP_L4, virtio 1.2 §5.1.6): they are received,
// routed and forwarded once, and whoever takes the super-packet apart finds them as
// they were. It is what the kernel's receive offload does, done behind the
// translation. The zero value is a train of none.
//
// Nothing that is not known to be right is joined, since a super-packet's checksums
// are made anew: only datagrams whose checksum is still to be made, or whose device has
// found it right. Over IPv4 only those with DF, whose Identification says nothing
// (RFC 6864 §4.1), for each gets another one.
type Train struct {
	p    Packet // the first datagram, and behind it the others' payloads
	l4   int    // where the UDP header is
	size int    // payload, in bytes, of all datagrams but the last, which may have less
	n    int
}

// The kernel's UDP_MAX_SEGMENTS is 64 (128 since Linux 6.9).
const maxTrain = 64

// Len is the number of datagrams.
func (t *Train) Len() int { return t.n }

// Start makes it a train of p, if there are datagrams that could join p. The train
// then owns p.Buf until the next Start.
func (t *Train) Start(p *Packet) bool {
	l4, ok := p.datagram()
	if !ok {
		return false
	}
	t.p, t.l4, t.size, t.n = *p, l4, p.Len-l4-8, 1
	return true
}

// Join adds p if it is the flow's next; the last one is never longer than the others,
// and nothing follows a shorter one. p.Buf stays the caller's.
func (t *Train) Join(p *Packet) bool {
	if t.n == 0 || t.n == maxTrain || t.p.Len != t.l4+8+t.n*t.size {
		return false
	}
	l4, ok := p.datagram()
	if !ok || l4 != t.l4 || p.Len > l4+8+t.size || !sameFlow(t.p.Bytes(), p.Bytes(), l4) {
		return false
	}
	payload := p.Bytes()[l4+8:]
	end := t.p.Off + t.p.Len
	if t.p.Len+len(payload) > 65535 || end+len(payload) > len(t.p.Buf) {
		return false
	}
	copy(t.p.Buf[end:], payload)
	t.p.Len += len(payload)
	t.n++
	return true
}

// Packet is the datagram that the train was started with, if no other has joined, or the
// super-packet. The train is empty then.
func (t *Train) Packet() Packet {
	p := t.p
	if t.n > 1 {
		b := p.Bytes()
		udp := b[t.l4:]
		var pseudo uint64
		if t.l4 == 40 {
			binary.BigEndian.PutUint16(b[4:], uint16(len(udp)))
			pseudo = sum(b[8:40])
		} else {
			binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
			b[10], b[11] = 0, 0
			binary.BigEndian.PutUint16(b[10:], ^fold(sum(b[:20])))
			pseudo = sum(b[12:20])
		}
		binary.BigEndian.PutUint16(udp[4:], uint16(len(udp)))
		binary.BigEndian.PutUint16(udp[6:], fold(pseudo+uint64(len(udp))+protoUDP))
		p.Offload = Offload{NeedsCsum: true, GSOType: GSOUDPL4, HdrLen: uint16(t.l4 + 8), GSOSize: uint16(t.size), CsumStart: uint16(t.l4), CsumOffset: 6}
	}
	t.n = 0
	return p
}

// datagram finds the UDP header of a packet that may be in a train.
func (p *Packet) datagram() (l4 int, ok bool) {
	b := p.Bytes()
	switch {
	case p.Offload.GSOType != GSONone || !p.Offload.NeedsCsum && !p.Offload.DataValid:
		return 0, false
	case len(b) > 48 && b[0]>>4 == 6 && b[6] == protoUDP:
		l4 = 40
	case len(b) > 28 && b[0] == 0x45 && b[9] == protoUDP && b[6] == 0x40 && b[7] == 0:
		l4 = 20
	default:
		return 0, false
	}
	udp := b[l4:]
	if int(binary.BigEndian.Uint16(udp[4:])) != len(udp) {
		return 0, false
	}
	if p.Offload.NeedsCsum {
		return l4, int(p.Offload.CsumStart) == l4 && p.Offload.CsumOffset == 6
	}
	return l4, udp[6]|udp[7] != 0 // 0: without a checksum, and to stay so
}

// sameFlow tells whether two datagrams' headers are equal in all but lengths, checksums
// and Identification.
func sameFlow(a, b []byte, l4 int) bool {
	ports := string(a[l4:l4+4]) == string(b[l4:l4+4])
	if l4 == 40 {
		return ports && string(a[:4]) == string(b[:4]) && string(a[6:40]) == string(b[6:40])
	}
	return ports && string(a[:2]) == string(b[:2]) && string(a[6:10]) == string(b[6:10]) && string(a[12:20]) == string(b[12:20])
}
