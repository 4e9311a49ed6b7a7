package siit_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"widecloud/internal/packet/siit"
)

const (
	client4  = "198.51.100.7"
	service4 = "203.0.113.10"
	other4   = "203.0.113.11"
	vm6      = "2001:db8:a::10"
	vmB6     = "2001:db8:a::11"
	service6 = "2001:db8:f::10"
	serviceB = "2001:db8:f::11"
	client6  = "2001:db8:c::7"
	router6  = "2001:db8:d::1"
	client64 = "2001:db8:64::c633:6407" // client4 under the prefix
	other64  = "2001:db8:64::cb00:710b" // other4 under the prefix
	own4     = "192.0.2.1"
	own6     = "2001:db8:e::1"
)

func host(s string) netip.Prefix {
	a := netip.MustParseAddr(s)
	return netip.PrefixFrom(a, a.BitLen())
}

func spec() siit.Spec {
	return siit.Spec{
		Pref64:      netip.MustParsePrefix("2001:db8:64::/96"),
		Mappings:    []siit.Mapping{{V4: host(service4), V6: host(vm6)}, {V4: host(other4), V6: host(vmB6)}},
		Mappings66:  []siit.Mapping66{{Service: host(service6), Inside: host(vm6)}, {Service: host(serviceB), Inside: host(vmB6)}},
		Inside:      []netip.Prefix{netip.MustParsePrefix("2001:db8:b::/64")},
		ICMPSource4: netip.MustParseAddr(own4), ICMPSource6: netip.MustParseAddr(own6),
	}
}

func table(t testing.TB, change ...func(*siit.Spec)) *siit.Table {
	t.Helper()
	s := spec()
	for _, f := range change {
		f(&s)
	}
	tab, err := siit.NewTable(s)
	if err != nil {
		t.Fatal(err)
	}
	return tab
}

func load(b []byte) *siit.Packet {
	buf := make([]byte, siit.Headroom+len(b))
	copy(buf[siit.Headroom:], b)
	return &siit.Packet{Buf: buf, Off: siit.Headroom, Len: len(b)}
}

// build serialises layers with gopacket, which makes lengths and checksums.
func build(t testing.TB, ls ...gopacket.SerializableLayer) []byte {
	t.Helper()
	var ip gopacket.NetworkLayer
	for _, l := range ls {
		switch l := l.(type) {
		case *layers.IPv4:
			ip = l
		case *layers.IPv6:
			ip = l
		case *layers.TCP:
			_ = l.SetNetworkLayerForChecksum(ip)
		case *layers.UDP:
			_ = l.SetNetworkLayerForChecksum(ip)
		case *layers.ICMPv6:
			_ = l.SetNetworkLayerForChecksum(ip)
		}
	}
	b := gopacket.NewSerializeBuffer()
	if err := gopacket.SerializeLayers(b, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, ls...); err != nil {
		t.Fatal(err)
	}
	return bytes.Clone(b.Bytes())
}

func ip4(src, dst string, proto layers.IPProtocol) *layers.IPv4 {
	return &layers.IPv4{Version: 4, TTL: 61, TOS: 0x2c, Protocol: proto, Flags: layers.IPv4DontFragment,
		SrcIP: netip.MustParseAddr(src).AsSlice(), DstIP: netip.MustParseAddr(dst).AsSlice()}
}

func ip6(src, dst string, proto layers.IPProtocol) *layers.IPv6 {
	return &layers.IPv6{Version: 6, HopLimit: 61, TrafficClass: 0x2c, NextHeader: proto,
		SrcIP: netip.MustParseAddr(src).AsSlice(), DstIP: netip.MustParseAddr(dst).AsSlice()}
}

func tcp() *layers.TCP {
	return &layers.TCP{SrcPort: 4000, DstPort: 80, Seq: 77, ACK: true, Window: 512}
}
func udp() *layers.UDP { return &layers.UDP{SrcPort: 4000, DstPort: 9999} }

type payload = gopacket.Payload

func echo(typ uint8, body payload) payload {
	b := append([]byte{typ, 0, 0, 0, 0, 9, 0, 3}, body...)
	var s uint32
	for i, c := range b {
		s += uint32(c) << (8 * (1 - i&1))
	}
	for s>>16 != 0 {
		s = s>>16 + s&0xffff
	}
	binary.BigEndian.PutUint16(b[2:], ^uint16(s))
	return b
}

var data = gopacket.Payload("the quick brown fox jumps over the lazy dog")

// golden: what goes in, what comes out; gopacket makes both, so it is the
// second opinion on every length and checksum.
func TestTranslate(t *testing.T) {
	ttl := func(l gopacket.SerializableLayer) gopacket.SerializableLayer {
		switch l := l.(type) {
		case *layers.IPv4:
			l.TTL--
		case *layers.IPv6:
			l.HopLimit--
		}
		return l
	}
	echo4 := func(typ uint8) *layers.ICMPv4 {
		return &layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(typ, 0), Id: 9, Seq: 3}
	}
	echo6 := func(typ uint8) *layers.ICMPv6 {
		return &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(typ, 0)}
	}
	body6 := gopacket.Payload(append([]byte{0, 9, 0, 3}, data...))
	for _, c := range []struct {
		name    string
		in, out []gopacket.SerializableLayer
		reason  siit.Reason
	}{
		{"tcp 4to6", []gopacket.SerializableLayer{ip4(client4, service4, 6), tcp(), data},
			[]gopacket.SerializableLayer{ttl(ip6(client64, vm6, 6)), tcp(), data}, siit.FourToSix},
		{"tcp 6to4", []gopacket.SerializableLayer{ip6(vm6, client64, 6), tcp(), gopacket.Payload(make([]byte, 1300))},
			[]gopacket.SerializableLayer{ttl(ip4(service4, client4, 6)), tcp(), gopacket.Payload(make([]byte, 1300))}, siit.SixToFour},
		{"udp 4to6", []gopacket.SerializableLayer{ip4(client4, service4, 17), udp(), data},
			[]gopacket.SerializableLayer{ttl(ip6(client64, vm6, 17)), udp(), data}, siit.FourToSix},
		{"echo request 4to6", []gopacket.SerializableLayer{ip4(client4, service4, 1), echo4(8), data},
			[]gopacket.SerializableLayer{ttl(ip6(client64, vm6, 58)), echo6(128), body6}, siit.FourToSix},
		{"echo reply 4to6", []gopacket.SerializableLayer{ip4(client4, service4, 1), echo4(0), data},
			[]gopacket.SerializableLayer{ttl(ip6(client64, vm6, 58)), echo6(129), body6}, siit.FourToSix},
		{"unknown protocol", []gopacket.SerializableLayer{ip4(client4, service4, 132), data},
			[]gopacket.SerializableLayer{ttl(ip6(client64, vm6, 132)), data}, siit.FourToSix},
		{"service in", []gopacket.SerializableLayer{ip6(client6, service6, 6), tcp(), data},
			[]gopacket.SerializableLayer{ttl(ip6(client6, vm6, 6)), tcp(), data}, siit.SixToSix},
		{"service out", []gopacket.SerializableLayer{ip6(vm6, client6, 17), udp(), data},
			[]gopacket.SerializableLayer{ttl(ip6(service6, client6, 17)), udp(), data}, siit.SixToSix},
		{"service echo", []gopacket.SerializableLayer{ip6(client6, service6, 58), echo6(128), body6},
			[]gopacket.SerializableLayer{ttl(ip6(client6, vm6, 58)), echo6(128), body6}, siit.SixToSix},
		{"service hairpin", []gopacket.SerializableLayer{ip6(vm6, serviceB, 6), tcp(), data},
			[]gopacket.SerializableLayer{ttl(ip6(service6, vmB6, 6)), tcp(), data}, siit.SixToSix},
		{"to another inside", []gopacket.SerializableLayer{ip6(vm6, vmB6, 6), tcp(), data},
			[]gopacket.SerializableLayer{ttl(ip6(vm6, vmB6, 6)), tcp(), data}, siit.Unchanged},
		{"to an inside prefix", []gopacket.SerializableLayer{ip6(vm6, "2001:db8:b::1", 6), tcp(), data},
			[]gopacket.SerializableLayer{ttl(ip6(vm6, "2001:db8:b::1", 6)), tcp(), data}, siit.Unchanged},
		{"hairpin, first half", []gopacket.SerializableLayer{ip6(vm6, other64, 6), tcp(), gopacket.Payload(make([]byte, 1300))},
			[]gopacket.SerializableLayer{ttl(ip4(service4, other4, 6)), tcp(), gopacket.Payload(make([]byte, 1300))}, siit.SixToFour},
		{"hairpin, second half", []gopacket.SerializableLayer{ip4(service4, other4, 6), tcp(), data},
			[]gopacket.SerializableLayer{ttl(ip6("2001:db8:64::cb00:710a", vmB6, 6)), tcp(), data}, siit.FourToSix},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := load(build(t, c.in...))
			v := table(t).Translate(p)
			if v.Action != siit.Send || v.Reason != c.reason {
				t.Fatalf("verdict %+v", v)
			}
			if d := cmp.Diff(build(t, c.out...), p.Bytes()); d != "" {
				t.Error(d)
			}
		})
	}
}

func TestReject(t *testing.T) {
	short := func(b []byte) []byte { b[len(b)-1]++; return b }
	hop := func(l *layers.IPv4) *layers.IPv4 { l.TTL = 1; return l }
	hop6 := func(l *layers.IPv6) *layers.IPv6 { l.HopLimit = 1; return l }
	lsrr := ip4(client4, service4, 6)
	lsrr.Options = []layers.IPv4Option{{OptionType: 131, OptionLength: 7, OptionData: []byte{4, 192, 0, 2, 9}}}
	frag := ip4(client4, service4, 1)
	frag.Flags, frag.FragOffset = 0, 10
	ns := &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(135, 0)}
	rd := &layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(5, 1)}
	for _, c := range []struct {
		name string
		in   []byte
		want siit.Verdict
	}{
		{"no mapping 4", build(t, ip4(client4, "203.0.113.99", 6), tcp()),
			siit.Verdict{Action: siit.Reject, Mapping: siit.NoEntry, Reason: siit.NoMapping, Error: siit.ICMPError{Type: 3, Code: 1}}},
		{"no mapping 66", build(t, ip6(client6, "2001:db8:f::99", 6), tcp()),
			siit.Verdict{Action: siit.Reject, Mapping: siit.NoEntry, Reason: siit.NoMapping, Error: siit.ICMPError{Type: 1, Code: 3}}},
		{"no mapping 64", build(t, ip6("2001:db8:a::99", client64, 6), tcp()),
			siit.Verdict{Action: siit.Reject, Mapping: siit.NoEntry, Reason: siit.NoMapping, Error: siit.ICMPError{Type: 1, Code: 5}}},
		{"ttl 4", build(t, hop(ip4(client4, service4, 6)), tcp()),
			siit.Verdict{Action: siit.Reject, Mapping: siit.NoEntry, Reason: siit.TTLExceeded, Error: siit.ICMPError{Type: 11}}},
		{"ttl 6", build(t, hop6(ip6(vm6, client64, 6)), tcp()),
			siit.Verdict{Action: siit.Reject, Mapping: siit.NoEntry, Reason: siit.TTLExceeded, Error: siit.ICMPError{Type: 3}}},
		{"ttl 66", build(t, hop6(ip6(vm6, client6, 6)), tcp()),
			siit.Verdict{Action: siit.Reject, Mapping: siit.NoEntry, Reason: siit.TTLExceeded, Error: siit.ICMPError{Type: 3}}},
		{"source route", build(t, lsrr, tcp()),
			siit.Verdict{Action: siit.Reject, Mapping: siit.NoEntry, Reason: siit.SourceRoute, Error: siit.ICMPError{Type: 3, Code: 5}}},
		{"fragmented icmp", build(t, frag, data),
			siit.Verdict{Action: siit.Reject, Mapping: siit.NoEntry, Reason: siit.FragmentedICMP, Error: siit.ICMPError{Type: 3, Code: 13}}},
		{"neighbour solicitation", build(t, ip6(vm6, client6, 58), ns, data), siit.Verdict{Mapping: siit.NoEntry, Reason: siit.NotForwardable}},
		{"multicast", build(t, ip6(vm6, "ff02::1", 17), udp(), data), siit.Verdict{Mapping: siit.NoEntry, Reason: siit.NotForwardable}},
		{"link-local", build(t, ip6("fe80::1", client64, 17), udp(), data), siit.Verdict{Mapping: siit.NoEntry, Reason: siit.BadSource}},
		{"loopback source", build(t, ip4("127.0.0.1", service4, 17), udp(), data), siit.Verdict{Mapping: siit.NoEntry, Reason: siit.BadSource}},
		{"from the prefix to the prefix", build(t, ip6(other64, client64, 17), udp(), data), siit.Verdict{Mapping: siit.NoEntry, Reason: siit.BadSource}},
		{"redirect", build(t, ip4(client4, service4, 1), rd, data), siit.Verdict{Mapping: siit.NoEntry, Reason: siit.UntranslatableICMP}},
		{"too big 4", build(t, ip4(client4, service4, 6), tcp(), gopacket.Payload(make([]byte, 1460))),
			siit.Verdict{Action: siit.Reject, Mapping: siit.NoEntry, Reason: siit.TooBig, Error: siit.ICMPError{Type: 3, Code: 4, Info: 1410}}},
		{"too big 6", build(t, ip6(client6, service6, 6), tcp(), gopacket.Payload(make([]byte, 1440))),
			siit.Verdict{Action: siit.Reject, Mapping: siit.NoEntry, Reason: siit.TooBig, Error: siit.ICMPError{Type: 2, Info: 1430}}},
		{"corrupt header", func() []byte { b := build(t, ip4(client4, service4, 6), tcp()); b[8]--; return b }(),
			siit.Verdict{Mapping: siit.NoEntry, Reason: siit.BadHeaderChecksum}},
		{"truncated", build(t, ip4(client4, service4, 6), tcp(), data)[:30], siit.Verdict{Mapping: siit.NoEntry, Reason: siit.Malformed}},
		{"corrupt icmp error", short(build(t, ip4(client4, service4, 1), &layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(3, 1)},
			gopacket.Payload(build(t, ip4(service4, client4, 6), tcp())))), siit.Verdict{Mapping: siit.NoEntry, Reason: siit.BadICMPChecksum}},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := load(c.in)
			got := table(t, func(s *siit.Spec) { s.MTU6 = 1430 }).Translate(p)
			if d := cmp.Diff(c.want, got); d != "" {
				t.Error(d)
			}
			if !bytes.Equal(p.Bytes(), c.in) {
				t.Error("the packet was changed")
			}
		})
	}
}

func TestUDPWithoutChecksum(t *testing.T) {
	in := build(t, ip4(client4, service4, 17), udp(), data)
	in[26], in[27] = 0, 0
	p := load(in)
	if v := table(t).Translate(p); v.Action != siit.Send {
		t.Fatalf("verdict %+v", v)
	}
	l := ip6(client64, vm6, 17)
	l.HopLimit--
	if d := cmp.Diff(build(t, l, udp(), data), p.Bytes()); d != "" {
		t.Error(d)
	}
	v := table(t, func(s *siit.Spec) { s.UDPZero = siit.UDPZeroDrop }).Translate(load(in))
	if v.Reason != siit.UDPNoChecksum {
		t.Errorf("verdict %+v", v)
	}
}

// A wrong checksum has to stay wrong: the receiver is to notice.
func TestChecksumErrorsAreKept(t *testing.T) {
	for _, in := range [][]byte{
		build(t, ip4(client4, service4, 6), tcp(), data), build(t, ip6(vm6, client64, 17), udp(), data),
		build(t, ip6(vm6, client6, 6), tcp(), data),
	} {
		in[len(in)-1] ^= 0x55
		p := load(in)
		if v := table(t).Translate(p); v.Action != siit.Send {
			t.Fatalf("verdict %+v", v)
		}
		if checksumsRight(t, p.Bytes()) {
			t.Errorf("a corrupt packet came out with a right checksum: %x", p.Bytes())
		}
	}
}

// checksumsRight asks gopacket to make the packet's checksums anew.
func checksumsRight(t testing.TB, b []byte) bool {
	t.Helper()
	first := gopacket.LayerType(layers.LayerTypeIPv4)
	if b[0]>>4 == 6 {
		first = layers.LayerTypeIPv6
	}
	pkt := gopacket.NewPacket(b, first, gopacket.Default)
	if e := pkt.ErrorLayer(); e != nil {
		t.Fatalf("gopacket cannot read %x: %v", b, e.Error())
	}
	var ls []gopacket.SerializableLayer
	for _, l := range pkt.Layers() {
		switch l.LayerType() {
		case layers.LayerTypeIPv4, layers.LayerTypeIPv6, layers.LayerTypeTCP, layers.LayerTypeUDP,
			layers.LayerTypeICMPv4, layers.LayerTypeICMPv6:
			ls = append(ls, l.(gopacket.SerializableLayer))
			if s := l.LayerType(); s != layers.LayerTypeIPv4 && s != layers.LayerTypeIPv6 {
				ls = append(ls, gopacket.Payload(l.LayerPayload()))
				return bytes.Equal(build(t, ls...), b)
			}
		}
	}
	t.Fatalf("no transport layer in %x", b)
	return false
}

func TestFragments(t *testing.T) {
	big := make([]byte, 3000)
	for i := range big {
		big[i] = byte(i * 7)
	}
	whole := build(t, ip4(client4, service4, 17), udp(), gopacket.Payload(big))
	var got []byte
	ends := 0
	// The IPv4 side cuts at 1480 bytes, without DF; each piece is then cut again.
	for off := 0; off < len(whole)-20; off += 1480 {
		l := ip4(client4, service4, 17)
		l.Flags, l.Id, l.FragOffset = layers.IPv4MoreFragments, 0xbeef, uint16(off/8)
		end := min(off+1480, len(whole)-20)
		if end == len(whole)-20 {
			l.Flags = 0
		}
		p := load(build(t, l, gopacket.Payload(whole[20+off:20+end])))
		tab := table(t)
		v := tab.Translate(p)
		var pieces [][]byte
		switch v.Action {
		case siit.Send:
			pieces = append(pieces, bytes.Clone(p.Bytes()))
		case siit.SendFragments:
			for it := tab.Fragments(p); ; {
				piece, ok := it.Next()
				if !ok {
					break
				}
				pieces = append(pieces, bytes.Clone(piece.Bytes()))
			}
		default:
			t.Fatalf("verdict %+v", v)
		}
		for _, b := range pieces {
			if len(b) > 1280 {
				t.Errorf("piece of %d bytes", len(b))
			}
			f := gopacket.NewPacket(b, layers.LayerTypeIPv6, gopacket.Default).Layer(layers.LayerTypeIPv6Fragment).(*layers.IPv6Fragment)
			if f.Identification != 0xbeef || int(f.FragmentOffset)*8 != len(got) {
				t.Fatalf("piece %+v after %d bytes", f, len(got))
			}
			if !f.MoreFragments {
				ends++
			}
			got = append(got, b[48:]...)
		}
	}
	l := ip6(client64, vm6, 17)
	want := build(t, l, udp(), gopacket.Payload(big))
	if ends != 1 || !bytes.Equal(got, want[40:]) {
		t.Errorf("the pieces (%d ends, %d bytes) do not make up the datagram", ends, len(got))
	}

	// And back: fragments keep their offsets and the low half of their identification.
	fb := make([]byte, 8+64)
	fb[0] = 17
	binary.BigEndian.PutUint16(fb[2:], 1480)
	binary.BigEndian.PutUint32(fb[4:], 0x1234abcd)
	p := load(build(t, ip6(vm6, client64, 44), gopacket.Payload(fb)))
	if v := table(t).Translate(p); v.Action != siit.Send {
		t.Fatalf("verdict %+v", v)
	}
	g := gopacket.NewPacket(p.Bytes(), layers.LayerTypeIPv4, gopacket.Default).Layer(layers.LayerTypeIPv4).(*layers.IPv4)
	if g.Id != 0xabcd || g.FragOffset != 185 || g.Flags != 0 || g.Length != 84 {
		t.Errorf("fragment came out as %+v", g)
	}
}

// The virtio-net header of a super-packet moves with the IP header, and the
// partial checksum stays a sum of the pseudo-header.
func TestSuperPacket(t *testing.T) {
	partial := func(b []byte, l4 int) []byte {
		var s uint32
		add := func(b []byte) {
			for i := 0; i+1 < len(b); i += 2 {
				s += uint32(binary.BigEndian.Uint16(b[i:]))
			}
		}
		if l4 == 20 {
			add(b[12:20])
		} else {
			add(b[8:40])
		}
		s += 6 + uint32(len(b)-l4)
		for s>>16 != 0 {
			s = s>>16 + s&0xffff
		}
		binary.BigEndian.PutUint16(b[l4+16:], uint16(s))
		return b
	}
	pay := gopacket.Payload(make([]byte, 60000))
	p := load(partial(build(t, ip4(client4, service4, 6), tcp(), pay), 20))
	p.Offload = siit.Offload{NeedsCsum: true, GSOType: siit.GSOTCPv4 | siit.GSOECN, GSOSize: 1400, HdrLen: 40, CsumStart: 20, CsumOffset: 16}
	if v := table(t).Translate(p); v.Action != siit.Send {
		t.Fatalf("verdict %+v", v)
	}
	want := siit.Offload{NeedsCsum: true, GSOType: siit.GSOTCPv6 | siit.GSOECN, GSOSize: 1400, HdrLen: 60, CsumStart: 40, CsumOffset: 16}
	if d := cmp.Diff(want, p.Offload); d != "" {
		t.Error(d)
	}
	l := ip6(client64, vm6, 6)
	l.HopLimit--
	if !bytes.Equal(partial(build(t, l, tcp(), pay), 40), p.Bytes()) {
		t.Errorf("4to6: got % x", p.Bytes()[:60])
	}
	p.Buf = append([]byte(nil), p.Buf...)
	b := p.Bytes()
	copy(b[8:], netip.MustParseAddr(vm6).AsSlice())
	copy(b[24:], netip.MustParseAddr(client64).AsSlice())
	if v := table(t).Translate(p); v.Action != siit.Send || p.Offload.GSOType != siit.GSOTCPv4|siit.GSOECN || p.Offload.CsumStart != 20 || p.Offload.HdrLen != 40 {
		t.Fatalf("verdict %+v, offload %+v", v, p.Offload)
	}
	p = load(partial(build(t, ip4(client4, service4, 6), tcp(), pay), 20))
	p.Offload = siit.Offload{NeedsCsum: true, GSOType: siit.GSOTCPv4, GSOSize: 1400, HdrLen: 40, CsumStart: 24, CsumOffset: 16}
	if v := table(t).Translate(p); v.Reason != siit.BadOffload {
		t.Errorf("a lying virtio-net header: %+v", v)
	}
	// The MTU check looks at segments, not at the super-packet.
	p.Offload.CsumStart = 20
	if v := table(t, func(s *siit.Spec) { s.MTU6 = 1430 }).Translate(p); v.Error.Info != 1410 {
		t.Errorf("segments of 1460 bytes for an MTU of 1430: %+v", v)
	}
}

func TestICMPErrors(t *testing.T) {
	m4 := func(typ, code uint8, id, seq uint16) *layers.ICMPv4 {
		return &layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(typ, code), Id: id, Seq: seq}
	}
	m6 := func(typ, code uint8) *layers.ICMPv6 {
		return &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(typ, code)}
	}
	inner4 := build(t, ip4(service4, client4, 6), tcp(), gopacket.Payload(make([]byte, 1300)))
	inner6 := build(t, ip6(vm6, client64, 6), tcp(), gopacket.Payload(make([]byte, 1300)))
	q4, q6 := gopacket.Payload(inner4[:200]), inner6[:220]
	with := func(info uint32, q []byte) gopacket.Payload {
		return append(binary.BigEndian.AppendUint32(nil, info), q...)
	}
	for _, c := range []struct {
		name        string
		from, to    uint8
		code, code2 uint8
		id, seq     uint16
		info        uint32
	}{
		{"net unreachable", 3, 1, 0, 0, 0, 0, 0}, {"host unreachable", 3, 1, 1, 0, 0, 0, 0},
		{"protocol unreachable", 3, 4, 2, 1, 0, 0, 6}, {"port unreachable", 3, 1, 3, 4, 0, 0, 0},
		{"fragmentation needed", 3, 2, 4, 0, 0, 1400, 1420}, {"small mtu", 3, 2, 4, 0, 0, 576, 1280},
		{"no mtu told: plateau", 3, 2, 4, 0, 0, 0, 1280}, {"prohibited", 3, 1, 13, 1, 0, 0, 0},
		{"time exceeded", 11, 3, 0, 0, 0, 0, 0}, {"reassembly", 11, 3, 1, 1, 0, 0, 0},
		{"parameter problem", 12, 4, 0, 0, 8 << 8, 0, 7},
	} {
		t.Run("4to6 "+c.name, func(t *testing.T) {
			p := load(build(t, ip4("192.0.2.77", service4, 1), m4(c.from, c.code, c.id, c.seq), q4))
			if v := table(t).Translate(p); v.Action != siit.Send {
				t.Fatalf("verdict %+v", v)
			}
			l := ip6("2001:db8:64::c000:24d", vm6, 58)
			l.HopLimit--
			if d := cmp.Diff(build(t, l, m6(c.to, c.code2), with(c.info, q6)), p.Bytes()); d != "" {
				t.Error(d)
			}
		})
	}
	inner4 = build(t, ip4(client4, service4, 6), tcp(), gopacket.Payload(make([]byte, 1300)))
	inner6 = build(t, ip6(client64, vm6, 6), tcp(), gopacket.Payload(make([]byte, 1300)))
	for _, c := range []struct {
		name        string
		src, src4   string
		from, to    uint8
		code, code2 uint8
		info        uint32
		id, seq     uint16
	}{
		{"port unreachable", vm6, service4, 1, 3, 4, 3, 0, 0, 0},
		{"no route, from a router", router6, own4, 1, 3, 0, 1, 0, 0, 0},
		{"no route, from the node's own address", "2001:db8:64::1", own4, 1, 3, 0, 1, 0, 0, 0},
		{"prohibited", router6, own4, 1, 3, 1, 10, 0, 0, 0},
		{"packet too big", router6, own4, 2, 3, 0, 4, 1430, 0, 1410},
		{"packet too big, underflow", router6, own4, 2, 3, 0, 4, 3, 0, 68},
		{"packet too big, overflow", router6, own4, 2, 3, 0, 4, 0xffffffff, 0, 65535},
		{"hop limit", router6, own4, 3, 11, 0, 0, 0, 0, 0},
		{"parameter problem", router6, own4, 4, 12, 0, 0, 7, 8 << 8, 0},
		{"next header", router6, own4, 4, 3, 1, 2, 6, 0, 0},
	} {
		t.Run("6to4 "+c.name, func(t *testing.T) {
			p := load(build(t, ip6(c.src, client64, 58), m6(c.from, c.code), with(c.info, inner6[:300])))
			if v := table(t).Translate(p); v.Action != siit.Send {
				t.Fatalf("verdict %+v", v)
			}
			l := ip4(c.src4, client4, 1)
			l.TTL--
			l.Flags, l.Id = 0, binary.BigEndian.Uint16(p.Bytes()[4:]) // no longer than 1260 bytes
			if d := cmp.Diff(build(t, l, m4(c.to, c.code2, c.id, c.seq), gopacket.Payload(inner4[:280])), p.Bytes()); d != "" {
				t.Error(d)
			}
		})
	}
	// 1:1 IPv6: the quoted packet is turned back, both ways, its checksum too.
	out := build(t, ip6(vm6, client6, 6), tcp(), data)
	outside := build(t, ip6(service6, client6, 6), tcp(), data)
	p := load(build(t, ip6(router6, service6, 58), m6(2, 0), with(1400, outside)))
	if v := table(t).Translate(p); v.Action != siit.Send {
		t.Fatalf("verdict %+v", v)
	}
	l := ip6(router6, vm6, 58)
	l.HopLimit--
	if d := cmp.Diff(build(t, l, m6(2, 0), with(1400, out)), p.Bytes()); d != "" {
		t.Error(d)
	}
	p = load(build(t, ip6(vm6, client6, 58), m6(1, 4), with(0, build(t, ip6(client6, vm6, 17), udp(), data))))
	if v := table(t).Translate(p); v.Action != siit.Send {
		t.Fatalf("verdict %+v", v)
	}
	l = ip6(service6, client6, 58)
	l.HopLimit--
	if d := cmp.Diff(build(t, l, m6(1, 4), with(0, build(t, ip6(client6, service6, 17), udp(), data))), p.Bytes()); d != "" {
		t.Error(d)
	}
}

func TestAppendError(t *testing.T) {
	tab := table(t)
	in := build(t, ip4(client4, "203.0.113.99", 6), tcp(), gopacket.Payload(make([]byte, 1200)))
	e := tab.AppendError(nil, in, siit.ICMPError{Type: 3, Code: 1})
	if len(e) != 576 || !checksumsRight(t, e) {
		t.Errorf("%d bytes: %x", len(e), e)
	}
	in = build(t, ip6(client6, "2001:db8:f::99", 6), tcp(), gopacket.Payload(make([]byte, 1400)))
	e = tab.AppendError(nil, in, siit.ICMPError{Type: 1, Code: 3})
	if len(e) != 1280 || !checksumsRight(t, e) {
		t.Errorf("%d bytes: %x", len(e), e)
	}
	for name, in := range map[string][]byte{
		"about an error":   build(t, ip4(client4, "203.0.113.99", 1), &layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(3, 3)}, data),
		"about an error 6": build(t, ip6(client6, "2001:db8:f::99", 58), &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(1, 3)}, data),
		"to a multicast":   build(t, ip4("224.0.0.9", "203.0.113.99", 17), udp(), data),
	} {
		if e := tab.AppendError(nil, in, siit.ICMPError{Type: 3, Code: 1}); len(e) != 0 {
			t.Errorf("%s: an error was made: %x", name, e)
		}
	}
}

// Extension headers go, unless they would have to be taken from behind a fragment
// header; a Routing header that has somewhere to go is refused (RFC 7915 §5.1).
func TestExtensionHeaders(t *testing.T) {
	l4 := build(t, ip6(vm6, client64, 17), udp(), data)[40:]
	ext := func(next byte) []byte { return []byte{next, 0, 1, 4, 0, 0, 0, 0} }
	routing := func(next, left byte) []byte { return []byte{next, 0, 0, left, 0, 0, 0, 0} }
	fragment := func(next, low byte) []byte { return []byte{next, 0, 0, low, 0, 0, 0, 7} }
	for _, c := range []struct {
		name  string
		first layers.IPProtocol
		chain [][]byte
		dst   string
		want  siit.Verdict
	}{
		{"taken away", 0, [][]byte{ext(60), ext(43), routing(17, 0)}, client64, siit.Verdict{Action: siit.Send, Reason: siit.SixToFour, Outbound: true}},
		{"kept in IPv6", 0, [][]byte{ext(60), ext(43), routing(17, 0)}, client6, siit.Verdict{Action: siit.Send, Reason: siit.SixToSix, Outbound: true, Mapping: 2}},
		{"atomic fragment", 44, [][]byte{fragment(60, 0), ext(17)}, client64, siit.Verdict{Action: siit.Send, Reason: siit.SixToFour, Outbound: true}},
		{"routing", 60, [][]byte{ext(43), routing(17, 1)}, client64,
			siit.Verdict{Action: siit.Reject, Mapping: siit.NoEntry, Reason: siit.RoutingHeader, Error: siit.ICMPError{Type: 4, Info: 51}}},
		{"behind a fragment header", 44, [][]byte{fragment(60, 1), ext(17)}, client64,
			siit.Verdict{Action: siit.Reject, Mapping: siit.NoEntry, Reason: siit.FragmentHeaders, Error: siit.ICMPError{Type: 1, Code: 1}}},
		{"cut off", 0, [][]byte{{60, 20, 1, 4, 0, 0, 0, 0}}, client64, siit.Verdict{Mapping: siit.NoEntry, Reason: siit.Malformed}},
		{"two fragment headers", 44, [][]byte{fragment(44, 0), fragment(17, 0)}, client64, siit.Verdict{Mapping: siit.NoEntry, Reason: siit.Malformed}},
	} {
		t.Run(c.name, func(t *testing.T) {
			pay := l4
			if c.dst == client6 {
				pay = build(t, ip6(vm6, client6, 17), udp(), data)[40:]
			}
			in := build(t, ip6(vm6, c.dst, c.first), payload(append(bytes.Join(c.chain, nil), pay...)))
			p := load(in)
			if d := cmp.Diff(c.want, table(t).Translate(p)); d != "" {
				t.Fatal(d)
			}
			switch {
			case c.want.Action != siit.Send:
			case c.dst == client6:
				if w := build(t, ip6(service6, client6, 17), udp(), data)[40:]; !bytes.HasSuffix(p.Bytes(), w) || p.Len != len(in) {
					t.Errorf("got %x", p.Bytes())
				}
			case p.Len != 20+len(pay) || !checksumsRight(t, p.Bytes()):
				t.Errorf("got %x", p.Bytes())
			}
		})
	}
}

// RFC 6052 §2.4 has these examples.
func TestPrefixLengths(t *testing.T) {
	for prefix, want := range map[string]string{
		"2001:db8::/32": "2001:db8:c000:221::", "2001:db8:100::/40": "2001:db8:1c0:2:21::",
		"2001:db8:122::/48": "2001:db8:122:c000:2:2100::", "2001:db8:122:300::/56": "2001:db8:122:3c0:0:221::",
		"2001:db8:122:344::/64": "2001:db8:122:344:c0:2:2100::", "2001:db8:122:344::/96": "2001:db8:122:344::192.0.2.33",
	} {
		tab, err := siit.NewTable(siit.Spec{Pref64: netip.MustParsePrefix(prefix)})
		if err != nil {
			t.Fatal(err)
		}
		got, _ := tab.Embed(netip.MustParseAddr("192.0.2.33"))
		if got != netip.MustParseAddr(want) {
			t.Errorf("%s: %v, want %s", prefix, got, want)
		}
		if back, ok := tab.Extract(got); !ok || back.String() != "192.0.2.33" {
			t.Errorf("%s: back to %v", prefix, back)
		}
	}
}

func TestBadSpec(t *testing.T) {
	for _, c := range []struct {
		field  string
		change func(*siit.Spec)
		want   error
	}{
		{"pref64", func(s *siit.Spec) { s.Pref64 = netip.MustParsePrefix("2001:db8::/65") }, siit.ErrPrefix},
		{"pref64", func(s *siit.Spec) { s.Pref64 = netip.MustParsePrefix("2001:db8::1/96") }, siit.ErrPrefix},
		{"pref64", func(s *siit.Spec) { s.Pref64 = netip.MustParsePrefix("2001:db8:0:0:100::/96") }, siit.ErrPrefix},
		{"pref64", func(s *siit.Spec) { s.Pref64 = netip.Prefix{} }, siit.ErrPrefix},
		{"map[1].v4", func(s *siit.Spec) { s.Mappings[1].V4 = host(service4) }, siit.ErrDuplicate},
		{"map[1].v6", func(s *siit.Spec) { s.Mappings[1].V6 = host(vm6) }, siit.ErrDuplicate},
		{"map[0].v4", func(s *siit.Spec) { s.Mappings[0].V4 = host("224.0.0.1") }, siit.ErrAddress},
		{"map[0].v6", func(s *siit.Spec) { s.Mappings[0].V6 = host(client64) }, siit.ErrAddress},
		{"map[0].v4", func(s *siit.Spec) { s.Mappings[0].V4 = netip.MustParsePrefix("203.0.113.0/24") }, siit.ErrPrefix},
		{"map[0].v4", func(s *siit.Spec) { s.Mappings[0].V4 = host(service6) }, siit.ErrAddress},
		{"icmp.pool4", func(s *siit.Spec) { s.Pool4 = netip.MustParsePrefix("224.0.0.0/24") }, siit.ErrPrefix},
		{"private", func(s *siit.Spec) { s.Private = 3 }, siit.ErrValue},
		{"map66[1].service", func(s *siit.Spec) { s.Mappings66[1].Service = host(service6) }, siit.ErrDuplicate},
		{"map66[1].inside", func(s *siit.Spec) { s.Mappings66[1].Inside = host(vm6) }, siit.ErrDuplicate},
		{"map66[0].service", func(s *siit.Spec) { s.Mappings66[0].Service = host(vmB6) }, siit.ErrDuplicate},
		{"map66[0].inside", func(s *siit.Spec) { s.Mappings66[0].Inside = host("fe80::1") }, siit.ErrAddress},
		{"icmp.source4", func(s *siit.Spec) { s.ICMPSource4 = netip.MustParseAddr("::1") }, siit.ErrAddress},
		{"lowest_ipv6_mtu", func(s *siit.Spec) { s.LowestIPv6MTU = 1000 }, siit.ErrValue},
		{"mtu6", func(s *siit.Spec) { s.MTU6 = 1000 }, siit.ErrValue},
	} {
		s := spec()
		c.change(&s)
		_, err := siit.NewTable(s)
		if !errors.Is(err, c.want) || !strings.HasPrefix(err.Error(), c.field+": ") {
			t.Errorf("%s: %v", c.field, err)
		}
	}
}
