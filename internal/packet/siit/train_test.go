package siit_test

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/gopacket/gopacket/layers"

	"widecloud/internal/packet/siit"
)

// carriage is a datagram and what its device says about it.
type carriage struct {
	ip  []byte // with its right checksum
	how string // "needs", "valid", ""
}

// loaded is the packet as it is read from a device, with room for n bytes.
func (c carriage) loaded(n int) *siit.Packet {
	p := &siit.Packet{Buf: make([]byte, siit.Headroom+n), Off: siit.Headroom, Len: len(c.ip)}
	copy(p.Buf[p.Off:], c.ip)
	switch c.how {
	case "needs":
		l4 := headerLen(c.ip)
		udp := p.Bytes()[l4:]
		binary.BigEndian.PutUint16(udp[6:], pseudo(p.Bytes(), l4))
		p.Offload = siit.Offload{NeedsCsum: true, CsumStart: uint16(l4), CsumOffset: 6}
	case "valid":
		p.Offload = siit.Offload{DataValid: true}
	}
	return p
}

// headerLen is the length of a packet's IP header, without extension headers.
func headerLen(b []byte) int {
	if b[0]>>4 == 6 {
		return 40
	}
	return int(b[0]&15) * 4
}

// pseudo is the bare sum of a datagram's pseudo-header.
func pseudo(b []byte, l4 int) uint16 {
	addrs := b[12:20]
	if b[0]>>4 == 6 {
		addrs = b[8:40]
	}
	return ^sum16(append(bytes.Clone(addrs), 0, 17, byte((len(b)-l4)>>8), byte(len(b)-l4)))
}

// segments are what a kernel makes of what a train goes on as; each has another
// Identification.
func segments(t *testing.T, p siit.Packet) (out [][]byte) {
	t.Helper()
	b := bytes.Clone(p.Bytes())
	if !p.Offload.NeedsCsum {
		return [][]byte{b} // nothing is left to do
	}
	l4 := headerLen(b)
	size := len(b) - l4 - 8
	if o := p.Offload; o.GSOType != siit.GSONone {
		want := siit.Offload{NeedsCsum: true, GSOType: siit.GSOUDPL4, HdrLen: uint16(l4 + 8), GSOSize: o.GSOSize, CsumStart: uint16(l4), CsumOffset: 6}
		if d := cmp.Diff(want, o); d != "" {
			t.Fatal(d)
		}
		size = int(o.GSOSize)
		if size >= len(b)-l4-8 {
			t.Fatalf("a super-packet of %d bytes in segments of %d", len(b), size)
		}
	}
	if got, want := binary.BigEndian.Uint16(b[l4+6:]), pseudo(b, l4); got != want {
		t.Fatalf("sum of the pseudo-header %04x, want %04x", got, want)
	}
	length := int(binary.BigEndian.Uint16(b[2:]))
	if b[0]>>4 == 6 {
		length = 40 + int(binary.BigEndian.Uint16(b[4:]))
	} else if sum16(b[:l4]) != 0 {
		t.Fatalf("header checksum of %x", b[:l4])
	}
	if udp := int(binary.BigEndian.Uint16(b[l4+4:])); length != len(b) || udp != len(b)-l4 {
		t.Fatalf("%d bytes with lengths %d and %d", len(b), length, udp)
	}
	for rest := b[l4+8:]; ; rest = rest[size:] {
		s := append(bytes.Clone(b[:l4+8]), rest[:min(size, len(rest))]...)
		if b[0]>>4 == 6 {
			binary.BigEndian.PutUint16(s[4:], uint16(len(s)-40))
		} else {
			binary.BigEndian.PutUint16(s[2:], uint16(len(s)))
			s[10], s[11] = 0, 0
			binary.BigEndian.PutUint16(s[10:], sum16(s[:l4]))
			binary.BigEndian.PutUint16(b[4:], binary.BigEndian.Uint16(b[4:])+1)
		}
		udp := s[l4:]
		binary.BigEndian.PutUint16(udp[4:], uint16(len(udp)))
		binary.BigEndian.PutUint16(udp[6:], 0)
		c := sum16(binary.BigEndian.AppendUint16(append(bytes.Clone(udp), make([]byte, len(udp)%2)...), pseudo(s, l4)))
		if c == 0 {
			c = 0xffff
		}
		binary.BigEndian.PutUint16(udp[6:], c)
		out = append(out, s)
		if len(rest) <= size {
			return out
		}
	}
}

// cut joins what it can, and returns how many datagrams went on together, and what
// comes out of it.
func cut(t *testing.T, list []carriage) (lengths []int, out [][]byte) {
	t.Helper()
	var train siit.Train
	depart := func() {
		if n := train.Len(); n > 0 {
			lengths = append(lengths, n)
			s := segments(t, train.Packet())
			if len(s) != n {
				t.Fatalf("%d datagrams in %d segments", n, len(s))
			}
			out = append(out, s...)
		}
	}
	for _, c := range list {
		p := c.loaded(65535 + 64)
		if train.Join(p) {
			continue
		}
		depart()
		if !train.Start(p) {
			lengths = append(lengths, 1)
			out = append(out, segments(t, *p)...)
		}
	}
	depart()
	return lengths, out
}

// withoutID are IPv4 packets with DF without their Identification.
func withoutID(list [][]byte) (out [][]byte) {
	for _, b := range list {
		b = bytes.Clone(b)
		if b[0]>>4 == 4 && b[6] == 0x40 {
			copy(b[4:6], "\x00\x00")
			copy(b[10:12], "\x00\x00")
		}
		out = append(out, b)
	}
	return out
}

// Which datagrams go on together, and that they come out as they were.
func TestTrain(t *testing.T) {
	data := make(payload, 2000)
	for i := range data {
		data[i] = byte(i * 7)
	}
	six := func(n int, change ...func(*layers.IPv6, *layers.UDP)) carriage {
		ip, u := ip6(client64, vm6, 17), udp()
		for _, f := range change {
			f(ip, u)
		}
		return carriage{build(t, ip, u, data[:n]), "needs"}
	}
	four := func(n int, change ...func(*layers.IPv4)) carriage {
		ip := ip4(service4, client4, 17)
		for _, f := range change {
			f(ip)
		}
		return carriage{build(t, ip, udp(), data[:n]), "needs"}
	}
	as := func(how string, c carriage) carriage { c.how = how; return c }
	without := func(c carriage, field int) carriage {
		c.ip = bytes.Clone(c.ip)
		c.ip[field], c.ip[field+1] = 0, 0
		return c
	}
	many := func(n int, c carriage) (out []carriage) {
		for range n {
			out = append(out, c)
		}
		return out
	}
	for _, c := range []struct {
		what string
		list []carriage
		want []int
	}{
		{"one", many(1, six(64)), []int{1}},
		{"equal ones", many(3, six(64)), []int{3}},
		{"IPv4 with DF", many(3, four(1400)), []int{3}},
		{"IPv4 without DF", many(2, four(64, func(l *layers.IPv4) { l.Flags = 0 })), []int{1, 1}},
		{"IPv4 fragments", many(2, four(64, func(l *layers.IPv4) { l.Flags = layers.IPv4DontFragment | layers.IPv4MoreFragments })), []int{1, 1}},
		{"IPv4 options", many(2, four(64, func(l *layers.IPv4) {
			l.Options = []layers.IPv4Option{{OptionType: 0x94, OptionLength: 4, OptionData: make([]byte, 2)}}
		})), []int{1, 1}},
		{"a shorter one ends it", []carriage{six(64), six(64), six(63), six(63), six(1)}, []int{3, 2}},
		{"a longer one", []carriage{six(64), six(65), six(65)}, []int{1, 2}},
		{"checked by a device", many(3, as("valid", six(64))), []int{3}},
		{"both kinds", []carriage{six(64), as("valid", six(64)), six(64)}, []int{3}},
		{"checked by nobody", many(2, as("", six(64))), []int{1, 1}},
		{"not checked, amid", []carriage{six(64), six(64), as("", six(64)), six(64)}, []int{2, 1, 1}},
		{"without a checksum", many(2, as("valid", without(four(64), 26))), []int{1, 1}},
		{"empty ones", many(2, six(0)), []int{1, 1}},
		{"an empty one amid", []carriage{six(9), six(0), six(9)}, []int{1, 1, 1}},
		{"other ports", []carriage{six(64), six(64, func(_ *layers.IPv6, u *layers.UDP) { u.SrcPort++ }), six(64, func(_ *layers.IPv6, u *layers.UDP) { u.DstPort++ })}, []int{1, 1, 1}},
		{"other addresses", []carriage{six(64), six(64, func(l *layers.IPv6, _ *layers.UDP) { l.DstIP[15]++ }), six(64, func(l *layers.IPv6, _ *layers.UDP) { l.SrcIP[15]++ })}, []int{1, 1, 1}},
		{"other hop limit, class, label", []carriage{six(64), six(64, func(l *layers.IPv6, _ *layers.UDP) { l.HopLimit++ }), six(64, func(l *layers.IPv6, _ *layers.UDP) { l.TrafficClass |= 3 }), six(64, func(l *layers.IPv6, _ *layers.UDP) { l.FlowLabel = 9 })}, []int{1, 1, 1, 1}},
		{"other TTL, TOS, addresses of IPv4", []carriage{four(64), four(64, func(l *layers.IPv4) { l.TTL++ }), four(64, func(l *layers.IPv4) { l.TOS |= 3 }), four(64, func(l *layers.IPv4) { l.SrcIP[3]++ }), four(64, func(l *layers.IPv4) { l.DstIP[3]++ })}, []int{1, 1, 1, 1, 1}},
		{"other family", []carriage{four(64), six(64), four(64)}, []int{1, 1, 1}},
		{"another protocol", []carriage{six(64), {build(t, ip6(client64, vm6, 6), tcp(), data[:64]), ""}, six(64)}, []int{1, 1, 1}},
		{"more than a kernel takes", many(130, six(9)), []int{64, 64, 2}},
		{"more than a packet takes", many(80, four(1400)), []int{46, 34}},
		{"more than an IPv6 packet takes", many(50, six(2000)), []int{32, 18}},
	} {
		got, out := cut(t, c.list)
		if d := cmp.Diff(c.want, got); d != "" {
			t.Errorf("%s (-want +got):\n%s", c.what, d)
		}
		var want [][]byte
		for _, l := range c.list {
			want = append(want, l.ip)
		}
		if d := cmp.Diff(withoutID(want), withoutID(out)); d != "" {
			t.Errorf("%s, what comes out (-want +got):\n%s", c.what, d)
		}
	}
}

// Any mixture of flows comes out as it went in.
func TestTrainsKeepAll(t *testing.T) {
	for seed := range uint64(50) {
		r := rand.New(rand.NewPCG(seed, 1))
		var list []carriage
		var want [][]byte
		for range 100 {
			data := make(payload, []int{1, 64, 64, 64, 1200}[r.IntN(5)])
			for i := range data {
				data[i] = byte(r.Uint32())
			}
			u := udp()
			u.SrcPort += layers.UDPPort(r.IntN(2))
			var b []byte
			if seed%2 == 0 {
				b = build(t, ip6(client64, vm6, 17), u, data)
			} else {
				b = build(t, ip4(service4, client4, 17), u, data)
			}
			list = append(list, carriage{b, []string{"needs", "needs", "needs", "valid", ""}[r.IntN(5)]})
			want = append(want, b)
		}
		_, out := cut(t, list)
		if want, out := withoutID(want), withoutID(out); !slices.EqualFunc(want, out, bytes.Equal) {
			t.Fatalf("seed %d: %s", seed, cmp.Diff(want, out))
		}
	}
}

// Whatever bytes and offloads come, a train that takes them has right headers, and as
// many segments as datagrams.
func FuzzTrain(f *testing.F) {
	six := build(f, ip6(client64, vm6, 17), udp(), payload("12345678"))
	four := build(f, ip4(service4, client4, 17), udp(), payload("12345678"))
	f.Add(six, six, uint8(1), uint16(40))
	f.Add(four, four, uint8(2), uint16(20))
	f.Add(six, four, uint8(3), uint16(40))
	f.Fuzz(func(t *testing.T, a, b []byte, flags uint8, start uint16) {
		var train siit.Train
		o := siit.Offload{NeedsCsum: flags&1 != 0, DataValid: flags&2 != 0, GSOType: flags >> 4, CsumStart: start, CsumOffset: 6}
		p, q := load(append(bytes.Clone(a), make([]byte, 70000)...)), load(b)
		p.Len, p.Offload, q.Offload = len(a), o, o
		if len(a) > 65535 || len(b) > 65535 || !train.Start(p) || !train.Join(q) {
			return
		}
		if n := len(segments(t, train.Packet())); n != 2 {
			t.Errorf("%d segments", n)
		}
	})
}
