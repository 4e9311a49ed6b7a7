package siit_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"

	"github.com/gopacket/gopacket/layers"
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
	inner = build(f, ip6(client6, vm6, 6), tcp(), data)
	f.Add(build(f, ip6(router6, client6, 58), raw(2, 0, 1400, inner)), uint8(0), uint16(0), uint16(0), uint16(0))
	f.Fuzz(func(t *testing.T, in []byte, gso uint8, size, start, off uint16) {
		o := siit.Offload{}
		if gso != 0 {
			o = siit.Offload{NeedsCsum: gso&0x40 != 0, GSOType: gso &^ 0x40, GSOSize: size, CsumStart: start, CsumOffset: off}
		}
		invariants(t, in, o)
	})
}

var fuzzTables = sync.OnceValue(func() (out []*siit.Table) {
	for _, change := range []func(*siit.Spec){
		func(*siit.Spec) {},
		func(s *siit.Spec) {
			s.MTU4, s.MTU6, s.KeepTTL, s.UDPZero, s.ZeroTrafficClass = 1400, 1430, true, siit.UDPZeroDrop, true
			s.Private, s.Pool4 = siit.PrivateDrop, netip.MustParsePrefix("192.0.2.64/28")
			s.Served = []netip.Prefix{netip.MustParsePrefix("2001:db8:f::/64")}
			s.Mappings = append(s.Mappings, siit.Mapping{V4: netip.MustParsePrefix("9.0.0.0/8"), V6: netip.MustParsePrefix("2001:db8:9::/48")})
		},
	} {
		s := spec()
		change(&s)
		t, err := siit.NewTable(s)
		if err != nil {
			panic(err)
		}
		out = append(out, t)
	}
	return out
})

// invariants are what holds for each packet, however broken.
func invariants(t *testing.T, in []byte, o siit.Offload) {
	if len(in) > 70000 {
		return
	}
	for _, tab := range fuzzTables() {
		const tail = 16
		buf := make([]byte, siit.Headroom+len(in)+tail)
		for i := range buf {
			buf[i] = 0xa5
		}
		copy(buf[siit.Headroom:], in)
		p := &siit.Packet{Buf: buf, Off: siit.Headroom, Len: len(in), Offload: o}
		v := tab.Translate(p)
		if !bytes.Equal(buf[len(buf)-tail:], bytes.Repeat([]byte{0xa5}, tail)) {
			t.Fatal("wrote behind the packet")
		}
		if used := siit.Headroom - p.Off; used > 56 {
			t.Fatalf("took %d bytes of headroom", used)
		}
		switch v.Action {
		case siit.Send:
			wellFormed(t, p.Bytes())
		case siit.SendFragments:
			whole := p.Len
			for it := tab.Fragments(p); ; {
				piece, ok := it.Next()
				if !ok {
					break
				}
				wellFormed(t, piece.Bytes())
				if piece.Len > 1280 {
					t.Fatalf("piece of %d bytes", piece.Len)
				}
				if whole -= piece.Len - 48; whole < 0 && o.GSOSize == 0 {
					t.Fatal("more pieces than packet")
				}
			}
		default:
			if o == (siit.Offload{}) && !bytes.Equal(p.Bytes(), in) {
				t.Fatalf("%v: the packet was changed", v.Reason)
			}
			if v.Mapping != siit.NoEntry {
				t.Fatalf("%v counts for mapping %d", v.Reason, v.Mapping)
			}
			if e := tab.AppendError(nil, in, v.Error); len(e) > 0 && v.Action == siit.Reject {
				wellFormed(t, e)
				if !checksumsRight(t, e) {
					t.Fatalf("wrong checksum in %x", e)
				}
			}
		}
	}
}

func wellFormed(t *testing.T, b []byte) {
	switch b[0] >> 4 {
	case 4:
		var sum uint32
		for i := 0; i < 20; i += 2 {
			sum += uint32(binary.BigEndian.Uint16(b[i:]))
		}
		if int(binary.BigEndian.Uint16(b[2:])) != len(b) || b[0] != 0x45 || (sum>>16+sum&0xffff) != 0xffff {
			t.Fatalf("IPv4 header %x", b)
		}
	case 6:
		if int(binary.BigEndian.Uint16(b[4:]))+40 != len(b) {
			t.Fatalf("IPv6 length %x", b)
		}
	default:
		t.Fatalf("not IP: %x", b)
	}
}

// sum16 is the Internet checksum of b.
func sum16(b []byte) uint16 {
	var s uint32
	for i, c := range b {
		s += uint32(c) << (8 * (1 - i&1))
	}
	for s>>16 != 0 {
		s = s>>16 + s&0xffff
	}
	return ^uint16(s)
}

// FuzzIPv4 repairs the header's length and checksum, so that what is behind them
// is reached: options, fragments, addresses, transport headers.
func FuzzIPv4(f *testing.F) {
	lsrr := ip4(client4, service4, 6)
	lsrr.Options = []layers.IPv4Option{{OptionType: 131, OptionLength: 7, OptionData: []byte{4, 192, 0, 2, 9}}}
	f.Add(build(f, lsrr, tcp(), data))
	f.Add(build(f, ip4(client4, service4, 17), udp(), data))
	frag := ip4(client4, service4, 17)
	frag.Flags, frag.FragOffset = layers.IPv4MoreFragments, 3
	f.Add(build(f, frag, payload(make([]byte, 1400))))
	f.Fuzz(func(t *testing.T, in []byte) {
		if len(in) < 20 || len(in) > 65535 {
			return
		}
		in[0] = 0x40 | in[0]&15
		binary.BigEndian.PutUint16(in[2:], uint16(len(in)))
		if n := int(in[0]&15) * 4; n >= 20 && n <= len(in) {
			in[10], in[11] = 0, 0
			binary.BigEndian.PutUint16(in[10:], sum16(in[:n]))
		}
		invariants(t, in, siit.Offload{})
	})
}

// FuzzIPv6 is given the chain of headers behind the addresses.
func FuzzIPv6(f *testing.F) {
	f.Add(uint8(0), uint8(0), []byte{60, 0, 1, 4, 0, 0, 0, 0, 43, 0, 1, 4, 0, 0, 0, 0, 17, 0, 0, 1, 0, 0, 0, 0})
	f.Add(uint8(44), uint8(1), []byte{17, 0, 0, 1, 0, 0, 0, 7, 1, 2, 3, 4, 0, 8, 0, 0})
	f.Add(uint8(58), uint8(5), build(f, ip6(router6, client6, 58), icmp6(3, 0), word(0, build(f, ip6(client6, vm6, 6), tcp())))[40:])
	f.Add(uint8(58), uint8(2), build(f, ip6(router6, service6, 58), icmp6(2, 0), word(1400, build(f, ip6(service6, client6, 6), tcp())))[40:])
	f.Fuzz(func(t *testing.T, next, to uint8, chain []byte) {
		if len(chain) > 65535 {
			return
		}
		ends := [][2]string{{vm6, client64}, {vm6, client6}, {client6, service6}, {vm6, serviceB}, {router6, client64}, {router6, client6}}[to%6]
		invariants(t, build(t, ip6(ends[0], ends[1], layers.IPProtocol(next)), payload(chain)), siit.Offload{})
	})
}

// FuzzICMPInner is given what an ICMP error quotes, and sends the error, with its
// checksum right, from either side.
func FuzzICMPInner(f *testing.F) {
	f.Add(uint8(3), uint8(4), uint32(1400), build(f, ip4(service4, client4, 6), tcp(), data))
	f.Add(uint8(11), uint8(0), uint32(32<<16), append(padded(build(f, ip4(service4, client4, 1), icmp4(8, 0, 1, 1), data), 128), extension(4)...))
	f.Add(uint8(2), uint8(0), uint32(1400), build(f, ip6(client64, vm6, 6), tcp(), data))
	f.Add(uint8(3), uint8(0), uint32(16<<24), append(padded(build(f, ip6(client64, vm6, 17), udp(), data), 128), extension(4)...))
	f.Add(uint8(1), uint8(4), uint32(0), build(f, ip6(client6, vm6, 17), udp(), data))
	f.Fuzz(func(t *testing.T, typ, code uint8, info uint32, quote []byte) {
		if len(quote) > 2000 {
			return
		}
		for _, in := range [][]byte{
			build(t, ip4("9.9.9.9", service4, 1), icmp4(typ, code, uint16(info>>16), uint16(info)), payload(quote)),
			build(t, ip6(router6, client64, 58), icmp6(typ, code), word(info, quote)),
			build(t, ip6(router6, service6, 58), icmp6(typ, code), word(info, quote)),
			build(t, ip6(vm6, client6, 58), icmp6(typ, code), word(info, quote)),
			build(t, ip6(router6, client6, 58), icmp6(typ, code), word(info, quote)),
		} {
			invariants(t, in, siit.Offload{})
			p := load(in)
			if v := fuzzTables()[0].Translate(p); v.Action == siit.Send && !checksumsRight(t, p.Bytes()) {
				t.Fatalf("%v: wrong checksum in %x of %x", v.Reason, p.Bytes(), in)
			}
		}
	})
}

// FuzzMultipart varies only what RFC 4884 is about: the length attribute, how much
// is quoted, and what is behind it.
func FuzzMultipart(f *testing.F) {
	f.Add(uint8(32), uint16(128), uint16(100), extension(4))
	f.Add(uint8(255), uint16(1300), uint16(1200), extension(300))
	f.Add(uint8(3), uint16(12), uint16(0), []byte{0x20})
	f.Fuzz(func(t *testing.T, words uint8, quoted, body uint16, ext []byte) {
		if quoted > 2000 || body > 2000 || len(ext) > 2000 {
			return
		}
		q4, q6 := build(t, ip4(service4, client4, 17), udp(), payload(make([]byte, body))), build(t, ip6(client64, vm6, 17), udp(), payload(make([]byte, body)))
		q4, q6 = padded(q4, max(len(q4), int(quoted)))[:quoted], padded(q6, max(len(q6), int(quoted)))[:quoted]
		for i, in := range [][]byte{
			build(t, ip4("9.9.9.9", service4, 1), icmp4(11, 0, uint16(words), 0), payload(append(q4, ext...))),
			build(t, ip6(router6, client64, 58), icmp6(3, 0), word(uint32(words)<<24, q6, ext)),
		} {
			invariants(t, in, siit.Offload{})
			p := load(in)
			if v := fuzzTables()[0].Translate(p); v.Action != siit.Send {
				continue
			}
			b := p.Bytes()
			if !checksumsRight(t, b) || len(b) > []int{1280, 576}[i] {
				t.Fatalf("%d bytes: %x", len(b), b)
			}
			if n := []int{int(b[min(44, len(b)-1)]) * 8, int(b[25]) * 4}[i]; n != 0 {
				rest := b[[]int{48, 28}[i]:]
				if n < 128 || n >= len(rest) || !bytes.HasSuffix(ext, rest[n:]) && !bytes.HasSuffix(rest, ext) {
					t.Fatalf("quote of %d bytes, %x", n, b)
				}
			}
		}
	})
}

// FuzzExplain: whatever comes in, the explanation ends as Translate does, and names
// a rule that refused exactly if one did.
func FuzzExplain(f *testing.F) {
	f.Add(build(f, ip4(client4, service4, 6), tcp(), data))
	f.Add(build(f, ip6(vm6, client64, 17), udp(), data))
	f.Add(build(f, ip6(router6, client64, 58), icmp6(2, 0), word(1400, build(f, ip6(client64, vm6, 6), tcp()))))
	f.Add(build(f, ip6(router6, client6, 58), icmp6(2, 0), word(1400, build(f, ip6(client6, vm6, 6), tcp()))))
	f.Fuzz(func(t *testing.T, in []byte) {
		if len(in) > 4000 {
			return
		}
		agrees(t, fuzzTables()[0], in)
	})
}

// agrees holds an explanation against the translation.
func agrees(t *testing.T, tab *siit.Table, in []byte) (all string) {
	var v siit.Verdict
	p := load(in)
	if len(in) > 0 {
		v = tab.Translate(p)
	} else {
		v = siit.Verdict{Reason: siit.Malformed, Mapping: siit.NoEntry}
	}
	was := bytes.Clone(in)
	steps := tab.Explain(in)
	if !bytes.Equal(was, in) {
		t.Fatal("the packet was changed")
	}
	refused := 0
	for _, s := range steps {
		all += s.Rule + ": " + s.Result + "\n"
		if strings.HasPrefix(s.Result, "refused: ") {
			refused++
		}
	}
	last := steps[len(steps)-1]
	if v.Mapping != siit.NoEntry {
		if want := fmt.Sprintf("mapping %d, ", v.Mapping); last.Rule != "counted" || !strings.HasPrefix(last.Result, want) {
			t.Fatalf("%+v:\n%s", v, all)
		}
		last = steps[len(steps)-2]
	}
	begin := "sent"
	if v.Action == siit.Drop || v.Action == siit.Reject {
		begin = "dropped"
	}
	if !strings.HasPrefix(last.Rule, "result") || !strings.HasPrefix(last.Result, begin+" ("+v.Reason.String()+")") || (refused == 1) != (begin == "dropped") || refused > 1 {
		t.Fatalf("%+v, but explained as\n%s", v, all)
	}
	return all
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
