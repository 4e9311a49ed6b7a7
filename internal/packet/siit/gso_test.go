package siit_test

import (
	"bytes"
	"encoding/binary"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/gopacket/gopacket/layers"

	"widecloud/internal/packet/siit"
)

// pieces are the packets that a translated packet goes out as.
func pieces(t *testing.T, tab *siit.Table, p *siit.Packet) (out [][]byte) {
	t.Helper()
	switch v := tab.Translate(p); v.Action {
	case siit.Send:
		return [][]byte{bytes.Clone(p.Bytes())}
	case siit.SendFragments:
		for f := tab.Fragments(p); ; {
			piece, ok := f.Next()
			if !ok {
				return out
			}
			out = append(out, bytes.Clone(piece.Bytes()))
		}
	default:
		t.Fatalf("verdict %+v", v)
	}
	return nil
}

// bare replaces the transport checksum by the sum of the pseudo-header, as a
// device finds it that is to complete it.
func bare(b []byte, field int) []byte {
	var s uint32
	for i := 12; i < 20; i += 2 {
		s += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	s += uint32(b[9]) + uint32(len(b)-20)
	for s>>16 != 0 {
		s = s>>16 + s&0xffff
	}
	binary.BigEndian.PutUint16(b[20+field:], uint16(s))
	return b
}

// A super-packet without DF, whose segments are longer than IPv6 may count on, comes
// out as each of its segments would have come out by itself.
func TestSuperPacketWithoutDF(t *testing.T) {
	body := make(payload, 5000)
	for i := range body {
		body[i] = byte(i * 13)
	}
	ip := func(proto layers.IPProtocol, k int) *layers.IPv4 {
		l := ip4(client4, service4, proto)
		l.Flags, l.Id = 0, uint16(0xfffe+k)
		return l
	}
	for _, size := range []int{1400, 1250, 1213, 1200} {
		whole := tcp()
		whole.FIN, whole.PSH, whole.CWR = true, true, true
		whole.Options = []layers.TCPOption{{OptionType: 8, OptionLength: 10, OptionData: make([]byte, 8)}}
		p := load(bare(build(t, ip(6, 0), whole, body), 16))
		p.Offload = siit.Offload{NeedsCsum: true, GSOType: siit.GSOTCPv4 | siit.GSOECN, GSOSize: uint16(size), HdrLen: 52, CsumStart: 20, CsumOffset: 16}
		u := load(bare(build(t, ip(17, 0), udp(), body), 6))
		u.Offload = siit.Offload{NeedsCsum: true, GSOType: siit.GSOUDPL4, GSOSize: uint16(size), HdrLen: 28, CsumStart: 20, CsumOffset: 6}
		var want, wantUDP [][]byte
		for k := 0; k*size < len(body); k++ {
			part := body[k*size : min(len(body), (k+1)*size)]
			seg := tcp()
			seg.Options = whole.Options
			seg.Seq += uint32(k * size)
			seg.CWR = k == 0
			seg.FIN, seg.PSH = (k+1)*size >= len(body), (k+1)*size >= len(body)
			want = append(want, pieces(t, table(t), load(build(t, ip(6, k), seg, part)))...)
			wantUDP = append(wantUDP, pieces(t, table(t), load(build(t, ip(17, k), udp(), part)))...)
		}
		if size > 1208 {
			if d := cmp.Diff(want, pieces(t, table(t), p)); d != "" {
				t.Errorf("TCP, %d: %s", size, d)
			}
		} else if v := table(t).Translate(p); v.Action != siit.Send || p.Offload.GSOSize != uint16(size) {
			t.Errorf("segments of %d fit: %+v", size, v)
		}
		if size > 1232 {
			if d := cmp.Diff(wantUDP, pieces(t, table(t), u)); d != "" {
				t.Errorf("UDP, %d: %s", size, d)
			}
		}
	}
	// With DF the sender is told, or it goes whole.
	l := ip(6, 0)
	l.Flags = layers.IPv4DontFragment
	p := load(bare(build(t, l, tcp(), body), 16))
	p.Offload = siit.Offload{NeedsCsum: true, GSOType: siit.GSOTCPv4, GSOSize: 1400, HdrLen: 40, CsumStart: 20, CsumOffset: 16}
	if v := table(t).Translate(p); v.Action != siit.Send || p.Len != 5060 {
		t.Errorf("with DF: %+v", v)
	}
}
