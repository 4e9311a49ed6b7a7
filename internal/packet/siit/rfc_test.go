package siit_test

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/gopacket/gopacket/layers"

	"widecloud/internal/packet/siit"
)

// TestICMPTable goes through all types and codes of RFC 7915 §4.2 and §5.2, and
// all that they do not name.
func TestICMPTable(t *testing.T) {
	type kind struct{ typ, code uint8 }
	to6 := map[kind]kind{
		{8, 0}: {128, 0}, {0, 0}: {129, 0},
		{3, 0}: {1, 0}, {3, 1}: {1, 0}, {3, 2}: {4, 1}, {3, 3}: {1, 4}, {3, 4}: {2, 0}, {3, 5}: {1, 0}, {3, 6}: {1, 0}, {3, 7}: {1, 0},
		{3, 8}: {1, 0}, {3, 9}: {1, 1}, {3, 10}: {1, 1}, {3, 11}: {1, 0}, {3, 12}: {1, 0}, {3, 13}: {1, 1}, {3, 15}: {1, 1},
		{11, 0}: {3, 0}, {11, 1}: {3, 1}, {12, 0}: {4, 0}, {12, 2}: {4, 0},
	}
	to4 := map[kind]kind{
		{128, 0}: {8, 0}, {129, 0}: {0, 0},
		{1, 0}: {3, 1}, {1, 1}: {3, 10}, {1, 2}: {3, 1}, {1, 3}: {3, 1}, {1, 4}: {3, 3},
		{2, 0}: {3, 4}, {3, 0}: {11, 0}, {3, 1}: {11, 1}, {4, 0}: {12, 0}, {4, 1}: {3, 2},
	}
	inner4, inner6 := build(t, ip4(service4, client4, 6), tcp()), build(t, ip6(client64, vm6, 6), tcp())
	for typ := range 256 {
		for code := range 20 {
			k := kind{uint8(typ), uint8(code)}
			p := load(build(t, ip4("192.0.2.77", service4, 1), icmp4(k.typ, k.code, 0, 1400), payload(inner4)))
			v := table(t).Translate(p)
			want, ok := to6[k]
			if k.code > 0 && (k.typ == 8 || k.typ == 0) {
				want, ok = kind{k.typ>>3 ^ 129, k.code}, true
			}
			if ok != (v.Action == siit.Send) || !ok && v.Reason != siit.UntranslatableICMP {
				t.Errorf("ICMP type %d code %d: %+v", typ, code, v)
			} else if b := p.Bytes(); ok && (kind{b[40], b[41]} != want || !checksumsRight(t, b)) {
				t.Errorf("ICMP type %d code %d became %d, %d", typ, code, b[40], b[41])
			}

			p = load(build(t, ip6(vm6, client64, 58), icmp6(k.typ, k.code), word(0, inner6)))
			v = table(t).Translate(p)
			want, ok = to4[k]
			if k.code > 0 && (k.typ == 128 || k.typ == 129) {
				want, ok = kind{(129 - k.typ) << 3, k.code}, true
			}
			if k.typ == 2 {
				want, ok = kind{3, 4}, true // the code of Packet Too Big says nothing (RFC 4443 §3.2)
			}
			if ok != (v.Action == siit.Send) || !ok && v.Reason != siit.UntranslatableICMP && v.Reason != siit.NotForwardable {
				t.Errorf("ICMPv6 type %d code %d: %+v", typ, code, v)
			} else if b := p.Bytes(); ok && (kind{b[20], b[21]} != want || !checksumsRight(t, b)) {
				t.Errorf("ICMPv6 type %d code %d became %d, %d", typ, code, b[20], b[21])
			}
		}
	}
}

// The pointers of Parameter Problem, RFC 7915 figures 3 and 6.
func TestICMPPointers(t *testing.T) {
	to6 := map[uint8]uint32{0: 0, 1: 1, 2: 4, 3: 4, 8: 7, 9: 6, 12: 8, 13: 8, 14: 8, 15: 8, 16: 24, 17: 24, 18: 24, 19: 24}
	to4 := map[uint32]uint8{0: 0, 1: 1, 4: 2, 5: 2, 6: 9, 7: 8}
	for i := uint32(8); i < 40; i++ {
		to4[i] = 12 + uint8(i-8)/16*4
	}
	inner4, inner6 := build(t, ip4(service4, client4, 6), tcp()), build(t, ip6(client64, vm6, 6), tcp())
	for at := range 256 {
		p := load(build(t, ip4("192.0.2.77", service4, 1), icmp4(12, 0, uint16(at)<<8, 0), payload(inner4)))
		v := table(t).Translate(p)
		want, ok := to6[uint8(at)]
		if ok != (v.Action == siit.Send) || ok && binary.BigEndian.Uint32(p.Bytes()[44:]) != want {
			t.Errorf("IPv4 pointer %d: %+v, %x", at, v, p.Bytes())
		}
		for _, high := range []uint32{0, 1 << 31} {
			p = load(build(t, ip6(vm6, client64, 58), icmp6(4, 0), word(high|uint32(at), inner6)))
			v = table(t).Translate(p)
			want, ok := to4[high|uint32(at)]
			if ok != (v.Action == siit.Send) || ok && p.Bytes()[24] != want {
				t.Errorf("IPv6 pointer %d: %+v, %x", at, v, p.Bytes())
			}
		}
	}
}

// MTUs in errors: the arithmetic of RFC 7915 §4.2 and §5.2 with the next hops'
// MTUs, the plateaus of RFC 1191 §7, the least that IPv6 may be told.
func TestICMPMTU(t *testing.T) {
	for _, c := range []struct{ mtu4, mtu6, told, total, want int }{
		{0, 0, 1400, 1500, 1420}, {0, 1410, 1400, 1500, 1410}, {1380, 0, 1400, 1500, 1400}, {0, 0, 100, 1500, 1280},
		{0, 0, 0, 1500, 1512}, {0, 0, 0, 1492, 1280}, {0, 0, 0, 2002, 1512}, {0, 0, 0, 9000, 8186}, {0, 0, 0, 65535, 32020}, {0, 9000, 0, 65535, 9000},
	} {
		inner := build(t, ip4(service4, client4, 6), tcp())
		binary.BigEndian.PutUint16(inner[2:], uint16(c.total))
		p := load(build(t, ip4("192.0.2.77", service4, 1), icmp4(3, 4, 0, uint16(c.told)), payload(inner)))
		v := table(t, func(s *siit.Spec) { s.MTU4, s.MTU6 = c.mtu4, c.mtu6 }).Translate(p)
		if got := int(binary.BigEndian.Uint32(p.Bytes()[44:])); v.Action != siit.Send || got != c.want {
			t.Errorf("%+v: %d (%+v)", c, got, v)
		}
	}
	for _, c := range []struct {
		mtu4, mtu6 int
		told       uint32
		fragment   bool
		want       int
	}{
		{0, 0, 1400, false, 1380}, {0, 0, 1400, true, 1372}, {1300, 0, 1400, false, 1300}, {0, 1300, 1400, false, 1280},
		{0, 0, 10, false, 68}, {0, 0, 1 << 31, false, 65535}, {0, 0, 1 << 31, true, 65527},
	} {
		inner := build(t, ip6(client64, vm6, 6), tcp())
		if c.fragment {
			inner = build(t, ip6(client64, vm6, 44), payload(append([]byte{6, 0, 0, 1, 0, 0, 0, 1}, inner[40:]...)))
		}
		p := load(build(t, ip6(router6, client64, 58), icmp6(2, 0), word(c.told, inner)))
		v := table(t, func(s *siit.Spec) { s.MTU4, s.MTU6 = c.mtu4, c.mtu6 }).Translate(p)
		if got := int(binary.BigEndian.Uint16(p.Bytes()[26:])); v.Action != siit.Send || got != c.want {
			t.Errorf("%+v: %d (%+v)", c, got, v)
		}
	}
}

// IPv4 addresses that are not global: RFC 6052 §3.1 and the option.
func TestPrivate(t *testing.T) {
	private := []string{"10.0.0.1", "100.64.0.1", "100.127.255.255", "169.254.1.1", "172.16.0.1", "172.31.255.255", "192.0.0.1", "192.0.2.200",
		"192.168.1.1", "198.18.0.1", "198.19.255.255", "198.51.100.9", "203.0.113.99"}
	global := []string{"9.255.255.255", "11.0.0.0", "100.63.255.255", "100.128.0.0", "172.15.0.1", "172.32.0.0", "192.0.1.1", "192.167.0.1",
		"198.17.0.1", "198.20.0.0", "223.255.255.255"}
	never := []string{"0.0.0.0", "0.1.2.3", "127.0.0.1", "224.0.0.1", "240.0.0.1", "255.255.255.255"}
	try := func(tab *siit.Table, a string) (in, out siit.Verdict) {
		in = tab.Translate(load(build(t, ip4(a, service4, 6), tcp())))
		e, _ := tab.Embed(netip.MustParseAddr(a))
		return in, tab.Translate(load(build(t, ip6(vm6, e.String(), 6), tcp())))
	}
	wk := netip.MustParsePrefix("64:ff9b::/96")
	for _, c := range []struct {
		pref    netip.Prefix
		private siit.Private
		allowed bool
	}{
		{wk, siit.PrivateAuto, false}, {wk, siit.PrivateAllow, true}, {wk, siit.PrivateDrop, false},
		{spec().Pref64, siit.PrivateAuto, true}, {spec().Pref64, siit.PrivateAllow, true}, {spec().Pref64, siit.PrivateDrop, false},
	} {
		tab := table(t, func(s *siit.Spec) { s.Pref64, s.Private = c.pref, c.private })
		if tab.AllowsPrivate() != c.allowed {
			t.Errorf("%+v: AllowsPrivate", c)
		}
		for _, a := range private {
			in, out := try(tab, a)
			if c.allowed != (in.Action == siit.Send) || c.allowed != (out.Action == siit.Send) {
				t.Errorf("%+v, %s: %+v, %+v", c, a, in, out)
			}
			if !c.allowed && (in != siit.Verdict{Action: siit.Drop, Reason: siit.PrivateAddress, Mapping: siit.NoEntry} ||
				out != siit.Verdict{Action: siit.Reject, Reason: siit.PrivateAddress, Mapping: siit.NoEntry, Error: siit.ICMPError{Type: 1, Code: 1}}) {
				t.Errorf("%+v, %s: %+v, %+v", c, a, in, out)
			}
			covered := false
			for _, p := range siit.NonGlobal4 {
				covered = covered || p.Contains(netip.MustParseAddr(a))
			}
			if !covered {
				t.Errorf("%s is not in NonGlobal4", a)
			}
		}
		for _, a := range global {
			if in, out := try(tab, a); in.Action != siit.Send || out.Action != siit.Send {
				t.Errorf("%+v, %s: %+v, %+v", c, a, in, out)
			}
		}
		for _, a := range never {
			in, out := try(tab, a)
			if in.Reason != siit.BadSource || out.Reason != siit.NotForwardable {
				t.Errorf("%+v, %s: %+v, %+v", c, a, in, out)
			}
		}
		// But in ICMP errors any source is translated (RFC 7915 §4.1).
		for _, a := range never {
			p := load(build(t, ip4(a, service4, 1), icmp4(3, 1, 0, 0), payload(build(t, ip4(service4, "9.9.9.9", 6), tcp()))))
			e, _ := tab.Embed(netip.MustParseAddr(a))
			v := tab.Translate(p)
			if c.allowed != (v.Action == siit.Send) || c.allowed && netip.AddrFrom16([16]byte(p.Bytes()[8:24])) != e {
				t.Errorf("%+v, ICMP error of %s: %+v", c, a, v)
			}
		}
		// Packets quoted by errors are no way around it.
		p := load(build(t, ip4("9.9.9.9", service4, 1), icmp4(3, 1, 0, 0), payload(build(t, ip4(service4, "10.0.0.1", 6), tcp()))))
		if v := tab.Translate(p); c.allowed != (v.Action == siit.Send) || !c.allowed && v.Reason != siit.UntranslatableInner {
			t.Errorf("%+v, quoted: %+v", c, v)
		}
	}
}

// Under the prefix, in 1:1 IPv6 too, an address that no IPv4 packet can have come from is nobody's, whatever its rank (RFC 1122
// §3.2.1.3, RFC 3927 §7): no translator has made it. But in ICMP errors any source goes (RFC 7915 §4.1).
func TestSourcesUnderPrefix(t *testing.T) {
	bad := []string{"0.0.0.0", "0.1.2.3", "127.0.0.1", "127.255.255.255", "169.254.0.0", "169.254.169.254", "224.0.0.1", "239.255.255.255",
		"240.0.0.1", "255.255.255.255"}
	good := []string{"1.0.0.0", "10.0.0.1", "126.255.255.255", "128.0.0.0", "169.253.255.255", "169.255.0.0", "198.51.100.7", "223.255.255.255"}
	quote := build(t, ip6(service6, client6, 6), tcp())
	for _, bits := range []string{"2001:db8:64::/32", "2001:db8:6400::/40", "2001:db8:64::/48", "2001:db8:64:6400::/56", "2001:db8:64:6464::/64", "2001:db8:64::/96"} {
		pref := netip.MustParsePrefix(bits).Masked()
		tab := table(t, func(s *siit.Spec) {
			s.Pref64, s.Private = pref, siit.PrivateAllow
			if pref.Bits() == 32 { // it covers the other addresses of these tests
				s.Pref64 = netip.MustParsePrefix("2001:dba::/32")
			}
		})
		for _, a := range append(bad, good...) {
			e, _ := tab.Embed(netip.MustParseAddr(a))
			for name, in := range map[string][]byte{
				"tcp":   build(t, ip6(e.String(), service6, 6), tcp(), data),
				"udp":   build(t, ip6(e.String(), service6, 17), udp(), data),
				"echo":  build(t, ip6(e.String(), service6, 58), icmp6(128, 0), payload("\x00\x09\x00\x03ping")),
				"error": build(t, ip6(e.String(), service6, 58), icmp6(1, 0), word(0, quote)),
				"hop":   build(t, hops(ip6(e.String(), service6, 6), 1), tcp(), data),
			} {
				agrees(t, tab, in)
				p := load(in)
				v := tab.Translate(p)
				refused := v == siit.Verdict{Reason: siit.BadSource, Mapping: siit.NoEntry} && bytes.Equal(p.Bytes(), in)
				if refused != (slices.Contains(bad, a) && name != "error") {
					t.Errorf("%s from %s under %v: %+v", name, a, pref, v)
				}
			}
		}
	}
}

// RFC 6791: each router has an address of the pool, always the same, and many routers
// have many; never the network's or the broadcast address.
func TestPool(t *testing.T) {
	from := func(tab *siit.Table, router netip.Addr) netip.Addr {
		p := load(build(t, ip6(router.String(), client64, 58), icmp6(3, 0), word(0, build(t, ip6(client64, vm6, 6), tcp()))))
		if v := tab.Translate(p); v.Action != siit.Send || v.Mapping != siit.NoEntry {
			t.Fatalf("verdict %+v", v)
		}
		return netip.AddrFrom4([4]byte(p.Bytes()[12:16]))
	}
	for _, c := range []struct {
		pool  string
		least int
		most  int
	}{{"192.0.2.64/28", 12, 14}, {"192.0.2.64/31", 2, 2}, {"192.0.2.77/32", 1, 1}, {"192.0.2.64/30", 2, 2}} {
		pool := netip.MustParsePrefix(c.pool)
		tab, again := table(t, func(s *siit.Spec) { s.Pool4 = pool }), table(t, func(s *siit.Spec) { s.Pool4, s.ICMPSource4 = pool, netip.Addr{} })
		seen := map[netip.Addr]bool{}
		r := netip.MustParseAddr(router6)
		for range 200 {
			a := from(tab, r)
			if !pool.Contains(a) || pool.Bits() < 31 && (a == pool.Addr() || !pool.Contains(a.Next())) {
				t.Errorf("%v for %v", a, pool)
			}
			if b := from(again, r); a != b {
				t.Errorf("%v and %v for %v", a, b, r)
			}
			seen[a] = true
			r = r.Next()
		}
		if len(seen) < c.least || len(seen) > c.most {
			t.Errorf("%v: %d addresses", pool, len(seen))
		}
	}
}

// RFC 7757 §4: two mapped machines see each other under the prefix, there, back and
// in errors. What goes out to the IPv4 side is taken up again as it is.
func TestHairpinning(t *testing.T) {
	tab := table(t)
	bounce := func(in []byte) []byte {
		p := load(in)
		if v := tab.Translate(p); v.Action != siit.Send || v.Reason != siit.SixToFour {
			t.Fatalf("outwards: %+v", v)
		}
		p = load(bytes.Clone(p.Bytes()))
		if v := tab.Translate(p); v.Action != siit.Send || v.Reason != siit.FourToSix {
			t.Fatalf("inwards: %+v", v)
		}
		return p.Bytes()
	}
	service64 := "2001:db8:64::cb00:710a"
	less := func(l *layers.IPv6) *layers.IPv6 { l.HopLimit -= 2; return l }
	there := bounce(build(t, ip6(vm6, other64, 17), udp(), data))
	if d := cmp.Diff(build(t, less(ip6(service64, vmB6, 17)), udp(), data), there); d != "" {
		t.Error(d)
	}
	long := make(payload, 1300)
	quote := build(t, ip6(service64, vmB6, 17), udp(), long)[:200]
	back := bounce(build(t, ip6(vmB6, service64, 58), icmp6(1, 4), word(0, quote)))
	if d := cmp.Diff(build(t, less(ip6(other64, vm6, 58)), icmp6(1, 4), word(0, build(t, ip6(vm6, other64, 17), udp(), long)[:200])), back); d != "" {
		t.Error(d)
	}
}

// Between IPv6 and IPv6, each end of a quoted packet is turned back by its own
// mapping, whoever the error is sent to; and no further.
func TestICMPQuotesOfOthers(t *testing.T) {
	for _, c := range []struct{ quoted, want string }{{serviceB, vmB6}, {service6, vm6}, {"2001:db8:f::99", "2001:db8:f::99"}} {
		p := load(build(t, ip6(router6, service6, 58), icmp6(1, 0), word(0, build(t, ip6(c.quoted, client6, 17), udp(), data))))
		if v := table(t).Translate(p); v.Action != siit.Send {
			t.Fatalf("verdict %+v", v)
		}
		l := ip6(router6, vm6, 58)
		l.HopLimit--
		if d := cmp.Diff(build(t, l, icmp6(1, 0), word(0, build(t, ip6(c.want, client6, 17), udp(), data))), p.Bytes()); d != "" {
			t.Error(d)
		}
		p = load(build(t, ip6(vm6, client6, 58), icmp6(1, 0), word(0, build(t, ip6(client6, c.want, 17), udp(), data))))
		if v := table(t).Translate(p); v.Action != siit.Send {
			t.Fatalf("verdict %+v", v)
		}
		l = ip6(service6, client6, 58)
		l.HopLimit--
		if d := cmp.Diff(build(t, l, icmp6(1, 0), word(0, build(t, ip6(client6, c.quoted, 17), udp(), data))), p.Bytes()); d != "" {
			t.Error(d)
		}
	}
}

func TestOptions(t *testing.T) {
	// TTL and traffic class, left alone or zeroed, in all directions.
	tab := table(t, func(s *siit.Spec) { s.KeepTTL, s.ZeroTrafficClass = true, true })
	p := load(build(t, ip4(client4, service4, 6), tcp(), data))
	if v := tab.Translate(p); v.Action != siit.Send || p.Bytes()[7] != 61 || p.Bytes()[0] != 0x60 || p.Bytes()[1] != 0 {
		t.Errorf("4to6: %x", p.Bytes())
	}
	p = load(build(t, ip6(vm6, client64, 6), tcp(), data))
	if v := tab.Translate(p); v.Action != siit.Send || p.Bytes()[8] != 61 || p.Bytes()[1] != 0 {
		t.Errorf("6to4: %x", p.Bytes())
	}
	p = load(build(t, ip6(client6, service6, 6), tcp(), data))
	if v := tab.Translate(p); v.Action != siit.Send || p.Bytes()[7] != 61 || p.Bytes()[1] != 0xc0 {
		t.Errorf("6to6 has no traffic class to translate: %x", p.Bytes())
	}
	// IPv4 options are left out; a used-up source route is one of them.
	for _, pointer := range []byte{4, 8} {
		l := ip4(client4, service4, 17)
		l.Options = []layers.IPv4Option{{OptionType: 1}, {OptionType: 137, OptionLength: 7, OptionData: []byte{pointer, 192, 0, 2, 9}}}
		p = load(build(t, l, udp(), data))
		v := table(t).Translate(p)
		want := ip6(client64, vm6, 17)
		want.HopLimit--
		if pointer == 4 {
			if v.Reason != siit.SourceRoute {
				t.Errorf("source route: %+v", v)
			}
		} else if d := cmp.Diff(build(t, want, udp(), data), p.Bytes()); d != "" {
			t.Error(d)
		}
	}
	// A fragment with DF that does not fit is told what leaves room for its header.
	l := ip4(client4, service4, 17)
	l.Flags |= layers.IPv4MoreFragments
	if v := table(t, func(s *siit.Spec) { s.MTU6 = 1280 }).Translate(load(build(t, l, udp(), make(payload, 1232)))); v.Error != (siit.ICMPError{Type: 3, Code: 4, Info: 1252}) {
		t.Errorf("a fragment with DF: %+v", v)
	}
	// An MTU of the IPv6 side bounds what packets without DF are cut to.
	l = ip4(client4, service4, 17)
	l.Flags, l.Id = 0, 9
	tab = table(t, func(s *siit.Spec) { s.LowestIPv6MTU, s.MTU6 = 1500, 1400 })
	for i, b := range pieces(t, tab, load(build(t, l, udp(), make(payload, 1440)))) {
		if i == 0 && len(b) != 1400 || len(b) > 1400 {
			t.Errorf("piece %d: %d bytes", i, len(b))
		}
	}
}

// What cannot be translated without state, and what may not.
func TestUntranslatable(t *testing.T) {
	frag := func(l *layers.IPv4, off uint16, more bool) *layers.IPv4 {
		l.Flags, l.FragOffset = 0, off
		if more {
			l.Flags = layers.IPv4MoreFragments
		}
		return l
	}
	fh := func(next byte, off uint16, more byte) payload {
		return binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint16([]byte{next, 0}, off<<3|uint16(more)), 7)
	}
	zero := build(t, frag(ip4(client4, service4, 17), 0, true), udp(), payload(make([]byte, 40)))
	zero[26], zero[27] = 0, 0
	later := build(t, frag(ip4(client4, service4, 17), 6, false), payload(make([]byte, 40)))
	for _, c := range []struct {
		name string
		in   []byte
		want siit.Reason
	}{
		{"first fragment of ICMP", build(t, frag(ip4(client4, service4, 1), 0, true), icmp4(8, 0, 1, 1), payload(make([]byte, 40))), siit.FragmentedICMP},
		{"later fragment of ICMPv6", build(t, ip6(vm6, client64, 44), append(fh(58, 6, 0), make([]byte, 40)...)), siit.FragmentedICMP},
		{"first fragment of UDP without checksum", zero, siit.UDPNoChecksum},
		{"later fragment of UDP", later, siit.FourToSix},
		{"IGMP", build(t, ip4(client4, service4, 2), data), siit.NotForwardable},
		{"protocol 58 in IPv4", build(t, ip4(client4, service4, 58), data), siit.UntranslatableProtocol},
		{"protocol 44 in IPv4", build(t, ip4(client4, service4, 44), data), siit.UntranslatableProtocol},
		{"protocol 1 in IPv6", build(t, ip6(vm6, client64, 1), data), siit.UntranslatableProtocol},
		{"ESP", build(t, ip6(vm6, client64, 50), data), siit.SixToFour},
		{"AH", build(t, ip4(client4, service4, 51), data), siit.FourToSix},
		{"AH behind a fragment header", build(t, ip6(vm6, client64, 44), append(fh(51, 0, 1), make([]byte, 40)...)), siit.FragmentHeaders},
		{"ESP behind a fragment header", build(t, ip6(vm6, client64, 44), append(fh(50, 0, 1), make([]byte, 40)...)), siit.SixToFour},
		{"destination options behind a later fragment header", build(t, ip6(vm6, client64, 44), append(fh(60, 6, 0), make([]byte, 40)...)), siit.FragmentHeaders},
		{"MLD", build(t, ip6(vm6, client64, 58), icmp6(131, 0), word(0)), siit.NotForwardable},
		{"router renumbering", build(t, ip6(vm6, client64, 58), icmp6(138, 0), word(0)), siit.UntranslatableICMP},
		{"ICMP error about an ICMP error", build(t, ip4(client4, service4, 1), icmp4(3, 1, 0, 0),
			payload(build(t, ip4(service4, client4, 1), icmp4(3, 1, 0, 0), data))), siit.UntranslatableInner},
		{"ICMP error about somebody else's packet", build(t, ip4(client4, service4, 1), icmp4(3, 1, 0, 0),
			payload(build(t, ip4("203.0.113.99", client4, 6), tcp()))), siit.UntranslatableInner},
		{"ICMPv6 error about what never came out of the prefix", build(t, ip6(vm6, client64, 58), icmp6(1, 0),
			word(0, build(t, ip6(client6, vm6, 6), tcp()))), siit.UntranslatableInner},
		{"router without an IPv4 address, no pool", build(t, ip6(router6, client64, 58), icmp6(1, 0),
			word(0, build(t, ip6(client64, vm6, 6), tcp()))), siit.NoICMPSource},
		{"tiny first fragment", build(t, frag(ip4(client4, service4, 6), 0, true), payload(make([]byte, 8))), siit.Malformed},
		{"fragments past 65535", build(t, frag(ip4(client4, service4, 17), 0x1fff, true), payload(make([]byte, 800))), siit.Malformed},
		{"fragments past 65535, IPv6", build(t, ip6(vm6, client64, 44), append(fh(17, 0x1fff, 0), make([]byte, 800)...)), siit.Malformed},
	} {
		p := load(c.in)
		v := table(t, func(s *siit.Spec) { s.ICMPSource4 = netip.Addr{} }).Translate(p)
		if sent := c.want <= siit.Unchanged; v.Reason != c.want || sent != (v.Action == siit.Send) {
			t.Errorf("%s: %v, %+v", c.name, v.Reason, v)
		}
		// What is not said to be dropped silently is answered as prohibited (RFC 7915
		// §4.4, §5.4).
		var e siit.ICMPError
		switch four := c.in[0]>>4 == 4; c.want {
		case siit.UDPNoChecksum, siit.UntranslatableProtocol, siit.FragmentHeaders:
			e = siit.ICMPError{Type: 1, Code: 1}
			if four {
				e = siit.ICMPError{Type: 3, Code: 13}
			}
		case siit.FragmentedICMP:
			if four {
				e = siit.ICMPError{Type: 3, Code: 13}
			}
		}
		if v.Error != e || (v.Action == siit.Reject) != (e != siit.ICMPError{}) {
			t.Errorf("%s: answered by %+v, want %+v", c.name, v.Error, e)
		}
	}
}

// UDP-Lite and DCCP have the addresses in their checksums, too; with other protocols
// nothing is touched behind the header.
func TestOtherTransports(t *testing.T) {
	body := bytes.Repeat([]byte{0x11, 0x22, 0x33, 0x44}, 10)
	pseudo := func(b []byte, proto uint32) []byte {
		n := 40
		addresses := b[8:40]
		if b[0]>>4 == 4 {
			n, addresses = 20, b[12:20]
		}
		l4 := b[n:]
		return binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(append(bytes.Clone(addresses), l4...), uint32(len(l4))), proto)
	}
	for proto, covered := range map[uint8]bool{33: true, 136: true, 132: false, 47: false} {
		for _, c := range []struct {
			in   []byte
			ip   int
			back siit.Reason
		}{
			{build(t, ip4(client4, service4, layers.IPProtocol(proto)), payload(body)), 20, siit.FourToSix},
			{build(t, ip6(vm6, client64, layers.IPProtocol(proto)), payload(body)), 40, siit.SixToFour},
			{build(t, ip6(client6, service6, layers.IPProtocol(proto)), payload(body)), 40, siit.SixToSix},
		} {
			field := c.in[c.ip+6 : c.ip+8]
			field[0], field[1] = 0, 0
			binary.BigEndian.PutUint16(field, sum16(pseudo(c.in, uint32(proto))))
			before := bytes.Clone(c.in[c.ip:])
			p := load(c.in)
			if v := table(t).Translate(p); v.Action != siit.Send || v.Reason != c.back {
				t.Fatalf("protocol %d: %+v", proto, v)
			}
			right := sum16(pseudo(p.Bytes(), uint32(proto))) == 0
			if same := bytes.HasSuffix(p.Bytes(), before); right != covered || same == covered {
				t.Errorf("protocol %d, %v: %x", proto, c.back, p.Bytes())
			}
		}
	}
}

// DF and the IPv4 MTU (RFC 7915 §5): what is no longer than 1260 bytes may be
// fragmented behind us, whatever the MTU; what is longer must not be.
func TestIPv4MTU(t *testing.T) {
	for _, c := range []struct {
		total, mtu4 int // of the IPv4 packet
		df          bool
		told        uint32
	}{
		{1260, 0, false, 0}, {1261, 0, true, 0}, {1260, 600, false, 0}, {1261, 600, false, 1280}, {1400, 1400, true, 0}, {1401, 1400, false, 1420},
	} {
		in := build(t, ip6(vm6, client64, 17), udp(), make(payload, c.total-28))
		p := load(in)
		v := table(t, func(s *siit.Spec) { s.MTU4 = c.mtu4 }).Translate(p)
		if c.told != 0 {
			if v.Action != siit.Reject || v.Error != (siit.ICMPError{Type: 2, Info: c.told}) {
				t.Errorf("%+v: %+v", c, v)
			}
			continue
		}
		b := p.Bytes()
		if v.Action != siit.Send || len(b) != c.total || b[6] != map[bool]byte{true: 0x40}[c.df] || c.df != (b[4]|b[5] == 0) {
			t.Errorf("%+v: %+v, %x", c, v, b[:20])
		}
		// The same packet has the same Identification everywhere.
		q := load(in)
		if table(t).Translate(q); !bytes.Equal(b, q.Bytes()) {
			t.Errorf("%+v: another node made %x of it", c, q.Bytes()[:20])
		}
	}
}
