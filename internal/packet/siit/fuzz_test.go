package siit_test

import (
	"bytes"
	"encoding/binary"
	"testing"

	"pgregory.net/rapid"

	"widecloud/internal/packet/siit"
)

// FuzzTranslate: whatever comes in, nothing panics, nothing outside the packet
// and its headroom changes, a packet that is not sent is not changed, and what
// is sent is well-formed for the translator itself.
func FuzzTranslate(f *testing.F) {
	f.Add(build(f, ip4(client4, service4, 6), tcp(), data), uint8(0), uint16(0), uint16(0), uint16(0))
	f.Add(build(f, ip6(vm6, client64, 17), udp(), data), uint8(0), uint16(0), uint16(0), uint16(0))
	f.Add(build(f, ip6(client6, service6, 6), tcp(), data), uint8(0x14), uint16(20), uint16(40), uint16(16))
	f.Add(build(f, ip4(client4, service4, 1), data), uint8(0), uint16(0), uint16(0), uint16(0))
	inner := build(f, ip6(client64, vm6, 6), tcp(), data)
	f.Add(build(f, ip6(router6, client64, 58), raw(2, 0, 1400, inner)), uint8(0), uint16(0), uint16(0), uint16(0))
	inner = build(f, ip4(service4, client4, 17), udp(), data)
	f.Add(build(f, ip4("192.0.2.9", service4, 1), raw(3, 4, 1400, inner)), uint8(0), uint16(0), uint16(0), uint16(0))
	tabs := []*siit.Table{table(f), table(f, func(s *siit.Spec) {
		s.MTU4, s.MTU6, s.KeepTTL, s.UDPZero, s.ZeroTrafficClass = 1400, 1430, true, siit.UDPZeroDrop, true
	})}
	f.Fuzz(func(t *testing.T, in []byte, gso uint8, size, start, off uint16) {
		if len(in) > 70000 {
			return
		}
		for _, tab := range tabs {
			const tail = 16
			buf := make([]byte, siit.Headroom+len(in)+tail)
			for i := range buf {
				buf[i] = 0xa5
			}
			copy(buf[siit.Headroom:], in)
			p := &siit.Packet{Buf: buf, Off: siit.Headroom, Len: len(in)}
			if gso != 0 {
				p.Offload = siit.Offload{NeedsCsum: gso&0x40 != 0, GSOType: gso &^ 0x40, GSOSize: size, CsumStart: start, CsumOffset: off}
			}
			plain := gso == 0
			v := tab.Translate(p)
			if !bytes.Equal(buf[len(buf)-tail:], bytes.Repeat([]byte{0xa5}, tail)) {
				t.Fatal("wrote behind the packet")
			}
			switch v.Action {
			case siit.Send, siit.SendFragments:
				b := p.Bytes()
				switch b[0] >> 4 {
				case 4:
					if int(binary.BigEndian.Uint16(b[2:])) != len(b) {
						t.Fatalf("IPv4 length %x", b)
					}
				case 6:
					if int(binary.BigEndian.Uint16(b[4:]))+40 != len(b) {
						t.Fatalf("IPv6 length %x", b)
					}
				default:
					t.Fatalf("not IP: %x", b)
				}
				if v.Action == siit.SendFragments {
					for it := tab.Fragments(p); ; {
						piece, ok := it.Next()
						if !ok {
							break
						}
						if piece.Len > 1280 {
							t.Fatalf("piece of %d bytes", piece.Len)
						}
					}
				}
			default:
				if plain && !bytes.Equal(p.Bytes(), in) {
					t.Fatalf("%v: the packet was changed", v.Reason)
				}
				tab.AppendError(nil, in, v.Error)
			}
		}
	})
}

func raw(typ, code uint8, info uint32, quote []byte) payload {
	b := append([]byte{typ, code, 0, 0}, binary.BigEndian.AppendUint32(nil, info)...)
	return payload(append(b, quote...))
}

// TestRoundTrip: IPv4 -> IPv6, answered by a host that swaps the addresses,
// -> IPv4 gives the swapped packet, but for TTL, and DF and Identification of
// short packets; and its checksums are right at each step.
func TestRoundTrip(t *testing.T) {
	tab := table(t)
	rapid.Check(t, func(r *rapid.T) {
		body := payload(rapid.SliceOfN(rapid.Byte(), 0, 1400).Draw(r, "body"))
		var in []byte
		ip := ip4(client4, service4, 6)
		back := ip4(service4, client4, 6)
		ip.TTL = uint8(rapid.IntRange(3, 255).Draw(r, "ttl"))
		ip.TOS = rapid.Byte().Draw(r, "tos")
		back.TTL, back.TOS = ip.TTL-2, ip.TOS
		var want []byte
		switch rapid.IntRange(0, 2).Draw(r, "proto") {
		case 0:
			l := tcp()
			l.Seq, l.SYN = rapid.Uint32().Draw(r, "seq"), rapid.Bool().Draw(r, "syn")
			in, want = build(t, ip, l, body), build(t, back, l, body)
		case 1:
			ip.Protocol, back.Protocol = 17, 17
			in, want = build(t, ip, udp(), body), build(t, back, udp(), body)
		case 2:
			ip.Protocol, back.Protocol = 1, 1
			in, want = build(t, ip, echo(8, body)), build(t, back, echo(8, body))
		}
		p := load(in)
		if v := tab.Translate(p); v.Action != siit.Send {
			r.Fatalf("there: %+v", v)
		}
		b := p.Bytes()
		if !checksumsRight(t, b) {
			r.Fatalf("wrong checksum in %x", b)
		}
		var a [16]byte // the sum does not mind the exchange
		copy(a[:], b[8:24])
		copy(b[8:24], b[24:40])
		copy(b[24:40], a[:])
		p = load(bytes.Clone(b))
		if v := tab.Translate(p); v.Action != siit.Send {
			r.Fatalf("back: %+v", v)
		}
		got := p.Bytes()
		if !checksumsRight(t, got) {
			r.Fatalf("wrong checksum in %x", got)
		}
		copy(got[4:8], want[4:8])
		copy(got[10:12], want[10:12])
		if !bytes.Equal(got, want) {
			r.Fatalf("got  %x\nwant %x", got, want)
		}
	})
}
