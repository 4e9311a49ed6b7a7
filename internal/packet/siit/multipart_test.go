package siit_test

import (
	"bytes"
	"encoding/binary"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/gopacket/gopacket/layers"
	"pgregory.net/rapid"

	"widecloud/internal/packet/siit"
)

// extension is an extension structure (RFC 4884 §7) with one object of n bytes.
func extension(n int) []byte {
	b := append([]byte{0x20, 0, 0, 0, byte((n + 4) >> 8), byte(n + 4), 1, 1}, bytes.Repeat([]byte{0x5a}, n)...)
	var s uint32
	for i := 0; i < len(b); i += 2 {
		s += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	for s>>16 != 0 {
		s = s>>16 + s&0xffff
	}
	binary.BigEndian.PutUint16(b[2:], ^uint16(s))
	return b
}

func padded(b []byte, n int) []byte { return append(bytes.Clone(b), make([]byte, n-len(b))...) }

func icmp4(typ, code uint8, id, seq uint16) *layers.ICMPv4 {
	return &layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(typ, code), Id: id, Seq: seq}
}

func icmp6(typ, code uint8) *layers.ICMPv6 {
	return &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(typ, code)}
}

func word(n uint32, more ...[]byte) payload {
	return append(binary.BigEndian.AppendUint32(nil, n), bytes.Join(more, nil)...)
}

func TestICMPExtensions(t *testing.T) {
	mpls := extension(4)
	long := payload(make([]byte, 1200))
	short4, short6 := build(t, ip4(service4, client4, 17), udp(), data), build(t, ip6(vm6, client64, 17), udp(), data)
	long4, long6 := build(t, ip4(service4, client4, 6), tcp(), long), build(t, ip6(vm6, client64, 6), tcp(), long)
	for _, c := range []struct {
		name       string
		typ, code  uint8
		words, mtu uint16
		quote      []byte
		ext        []byte
		typ2       uint8
		code2      uint8
		want       payload
	}{
		{"time exceeded, short quote", 11, 0, 32, 0, padded(short4, 128), mpls, 3, 0, word(16<<24, padded(short6, 128), mpls)},
		{"unreachable, quote cut to units of 8", 3, 3, 33, 0, long4[:132], mpls, 1, 4, word(19<<24, long6[:152], mpls)},
		{"unreachable, quote of 133 bytes", 3, 1, 34, 0, long4[:136], mpls, 1, 0, word(19<<24, long6[:152], mpls)},
		{"quote cut to 1280 bytes", 11, 1, 255, 0, long4[:1020], extension(400), 3, 1, word(103<<24, long6[:824], extension(400))},
		{"more than fits", 11, 0, 32, 0, padded(short4, 128), extension(1200), 3, 0, word(0, short6)},
		{"no place in Packet Too Big", 3, 4, 32, 1400, long4[:128], mpls, 2, 0, word(1420, long6[:148])},
		{"no place in Parameter Problem", 3, 2, 32, 0, long4[:128], mpls, 4, 1, word(6, long6[:148])},
		{"length under 128", 11, 0, 20, 0, long4[:80], mpls, 3, 0, word(0, long6[:100])},
		{"no extension structure", 11, 0, 32, 0, long4[:128], []byte{1, 2, 3, 4}, 3, 0, word(0, long6[:148])},
		{"no length", 11, 0, 0, 0, long4[:128], nil, 3, 0, word(0, long6[:148])},
	} {
		t.Run("4to6 "+c.name, func(t *testing.T) {
			p := load(build(t, ip4("192.0.2.77", service4, 1), icmp4(c.typ, c.code, c.words, c.mtu), payload(append(bytes.Clone(c.quote), c.ext...))))
			if v := table(t).Translate(p); v.Action != siit.Send {
				t.Fatalf("verdict %+v", v)
			}
			l := ip6("2001:db8:64::c000:24d", vm6, 58)
			l.HopLimit--
			if d := cmp.Diff(build(t, l, icmp6(c.typ2, c.code2), c.want), p.Bytes()); d != "" {
				t.Error(d)
			}
		})
	}
	long = make(payload, 1300) // DF in the quote, and no Identification
	long4, long6 = build(t, ip4(client4, service4, 6), tcp(), long), build(t, ip6(client64, vm6, 6), tcp(), long)
	for _, c := range []struct {
		name      string
		typ, code uint8
		words     uint32
		quote     []byte
		ext       []byte
		typ2      uint8
		code2     uint8
		want      uint16
		quote4    []byte
	}{
		{"hop limit, long quote", 3, 0, 20, long6[:160], mpls, 11, 0, 35, long4[:140]},
		{"unreachable, long quote", 1, 4, 20, long6[:160], mpls, 3, 3, 35, long4[:140]},
		{"quote cut to 576 bytes", 1, 0, 140, long6[:1120], mpls, 3, 1, 134, long4[:536]},
		{"cut to 576 bytes without", 1, 0, 0, long6[:1120], nil, 3, 1, 0, long4[:548]},
		{"length under 128", 1, 0, 10, long6[:80], mpls, 3, 1, 0, long4[:60]},
	} {
		t.Run("6to4 "+c.name, func(t *testing.T) {
			p := load(build(t, ip6(router6, client64, 58), icmp6(c.typ, c.code), word(c.words<<24, c.quote, c.ext)))
			if v := table(t).Translate(p); v.Action != siit.Send {
				t.Fatalf("verdict %+v", v)
			}
			l := ip4(own4, client4, 1)
			l.TTL--
			l.Flags, l.Id = 0, binary.BigEndian.Uint16(p.Bytes()[4:])
			ext := c.ext
			if c.want == 0 {
				ext = nil
			}
			if d := cmp.Diff(build(t, l, icmp4(c.typ2, c.code2, c.want, 0), payload(append(bytes.Clone(c.quote4), ext...))), p.Bytes()); d != "" {
				t.Error(d)
			}
		})
	}
	p := load(build(t, ip6(router6, client64, 58), icmp6(3, 0), word(16<<24, padded(build(t, ip6(client64, vm6, 17), udp(), data), 128), mpls)))
	table(t).Translate(p)
	quoted := ip4(client4, service4, 17)
	quoted.Flags, quoted.Id = 0, binary.BigEndian.Uint16(p.Bytes()[32:])
	l4 := ip4(own4, client4, 1)
	l4.TTL--
	l4.Flags, l4.Id = 0, binary.BigEndian.Uint16(p.Bytes()[4:])
	if d := cmp.Diff(build(t, l4, icmp4(11, 0, 32, 0), payload(append(padded(build(t, quoted, udp(), data), 128), mpls...))), p.Bytes()); d != "" {
		t.Errorf("6to4 short quote: %s", d)
	}
	// Between IPv6 and IPv6 nothing moves.
	p = load(build(t, ip6(router6, service6, 58), icmp6(3, 0), word(16<<24, padded(build(t, ip6(service6, client6, 17), udp(), data), 128), mpls)))
	table(t).Translate(p)
	l := ip6(router6, vm6, 58)
	l.HopLimit--
	if d := cmp.Diff(build(t, l, icmp6(3, 0), word(16<<24, padded(build(t, ip6(vm6, client6, 17), udp(), data), 128), mpls)), p.Bytes()); d != "" {
		t.Error(d)
	}
}

// Whatever the sizes: the extensions come out as they went in, where the length
// attribute says, behind a quote that is the one that comes out without them; checksums
// are right and nothing is longer than it may be.
func TestICMPExtensionSizes(t *testing.T) {
	tab := table(t)
	rapid.Check(t, func(r *rapid.T) {
		body := payload(rapid.SliceOfN(rapid.Byte(), 0, 1200).Draw(r, "body"))
		ext := extension(4 * rapid.IntRange(0, 100).Draw(r, "object"))
		var with, without []byte
		var unit, at, limit, ip int
		if rapid.Bool().Draw(r, "4to6") {
			inner := ip4(service4, client4, 17)
			for range rapid.IntRange(0, 3).Draw(r, "options") {
				inner.Options = append(inner.Options, layers.IPv4Option{OptionType: 68, OptionLength: 12, OptionData: make([]byte, 10)})
			}
			if rapid.Bool().Draw(r, "fragment") {
				inner.Flags, inner.Id = layers.IPv4MoreFragments, 7
			}
			q := build(t, inner, udp(), body)
			n := 4 * rapid.IntRange(32, 255).Draw(r, "words")
			cut := q[:min(n, len(q))]
			with = build(t, ip4("192.0.2.77", service4, 1), icmp4(11, 0, uint16(n/4), 0), payload(append(padded(cut, n), ext...)))
			without = build(t, ip4("192.0.2.77", service4, 1), icmp4(11, 0, 0, 0), payload(cut))
			unit, at, limit, ip = 8, 44, 1280, 40
		} else {
			q := build(t, ip6(client64, vm6, 17), udp(), body)
			n := 8 * rapid.IntRange(16, 140).Draw(r, "words")
			cut := q[:min(n, len(q))]
			with = build(t, ip6(router6, client64, 58), icmp6(3, 0), word(uint32(n/8)<<24, padded(cut, n), ext))
			without = build(t, ip6(router6, client64, 58), icmp6(3, 0), word(0, cut))
			unit, at, limit, ip = 4, 25, 576, 20
		}
		p, plain := load(with), load(without)
		if v, w := tab.Translate(p), tab.Translate(plain); v.Action != siit.Send || w.Action != siit.Send {
			r.Fatalf("verdicts %+v, %+v", v, w)
		}
		got, want := p.Bytes(), plain.Bytes()
		if len(got) > limit || !checksumsRight(t, got) {
			r.Fatalf("%d bytes: %x", len(got), got)
		}
		n := int(got[at]) * unit
		if n < 128 || !bytes.Equal(got[ip+8+n:], ext) {
			r.Fatalf("quote of %d bytes, extensions %x", n, got[ip+8+n:])
		}
		quote, all := got[ip+8:ip+8+n], want[ip+8:]
		k := min(len(quote), len(all))
		if unit == 4 { // Identification is mixed of the quote
			copy(quote[4:6], all[4:6])
			copy(quote[10:12], all[10:12])
		}
		if !bytes.Equal(quote[:k], all[:k]) || len(bytes.Trim(quote[k:], "\x00")) > 0 {
			r.Fatalf("quote\n%x, without extensions\n%x", quote, all)
		}
	})
}
