package siit_test

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"widecloud/internal/packet/siit"
)

var comparePrefixes = cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })

func prefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }

func pair(outside, inside string) siit.Pair {
	return siit.Pair{Outside: prefix(outside), Inside: prefix(inside)}
}

// through sends a packet and tells where it went: the destination inside for a
// packet to an outside address, the source outside for one from an inside address.
func through(t testing.TB, tab *siit.Table, a netip.Addr, inside bool) (netip.Addr, siit.Verdict) {
	var in []byte
	switch {
	case a.Is4():
		in = build(t, ip4(client4, a.String(), 6), tcp())
	case inside:
		in = build(t, ip6(a.String(), client64, 6), tcp())
	default:
		in = build(t, ip6(client6, a.String(), 6), tcp())
	}
	p := load(in)
	v := tab.Translate(p)
	if v.Action != siit.Send {
		return netip.Addr{}, v
	}
	b := p.Bytes()
	if b[0]>>4 == 4 {
		return netip.AddrFrom4([4]byte(b[12:16])), v
	}
	return netip.AddrFrom16([16]byte(b[24:40])), v
}

// The examples are of RFC 7757 §3.2 and its kind: suffixes of unequal length.
func TestPrefixMappings(t *testing.T) {
	tab := table(t, func(s *siit.Spec) {
		s.Mappings = []siit.Mapping{
			{V4: prefix("192.0.2.1/32"), V6: prefix("2001:db8:aaaa::/128")},
			{V4: prefix("192.0.2.2/32"), V6: prefix("2001:db8:bbbb::b/128")},
			{V4: prefix("192.0.2.16/28"), V6: prefix("2001:db8:cccc::/124")},
			{V4: prefix("192.0.2.128/26"), V6: prefix("2001:db8:dddd::/64")},
			{V4: prefix("192.0.2.192/29"), V6: prefix("2001:db8:eeee:8::/62")},
			{V4: prefix("192.0.2.224/31"), V6: prefix("2001:db8:ffff::/127")},
			{V4: prefix("192.0.2.194/32"), V6: prefix("2001:db8:1111::1/128")}, // nested
		}
		s.Mappings66 = []siit.Mapping66{{Service: prefix("2001:db8:f:100::/56"), Inside: prefix("2001:db8:a:ff00::/56")}}
	})
	for _, c := range []struct{ outside, inside string }{
		{"192.0.2.1", "2001:db8:aaaa::"}, {"192.0.2.2", "2001:db8:bbbb::b"},
		{"192.0.2.16", "2001:db8:cccc::"}, {"192.0.2.24", "2001:db8:cccc::8"}, {"192.0.2.31", "2001:db8:cccc::f"},
		{"192.0.2.128", "2001:db8:dddd::"}, {"192.0.2.152", "2001:db8:dddd:0:6000::"}, {"192.0.2.183", "2001:db8:dddd:0:dc00::"},
		{"192.0.2.199", "2001:db8:eeee:b:8000::"}, {"192.0.2.225", "2001:db8:ffff::1"}, {"192.0.2.194", "2001:db8:1111::1"},
		{"2001:db8:f:123::45", "2001:db8:a:ff23::45"},
	} {
		out, in := netip.MustParseAddr(c.outside), netip.MustParseAddr(c.inside)
		got, v := through(t, tab, out, false)
		e, ok := tab.Lookup(out)
		if got != in || !ok || v.Mapping != e.ID || !e.Outside.Contains(out) || !e.Inside.Contains(in) || v.Outbound {
			t.Errorf("%v became %v (%+v, %+v), not %v", out, got, v, e, in)
		}
		if out.Is4() {
			got, v = through(t, tab, in, true)
			if got != out || v.Mapping != e.ID || !v.Outbound {
				t.Errorf("%v became %v (%+v), not %v", in, got, v, out)
			}
			if e2, ok := tab.Lookup(in); !ok || e2 != e {
				t.Errorf("lookup of %v: %+v", in, e2)
			}
		}
	}
	// What follows the suffix in an inside address falls off.
	if got, _ := through(t, tab, netip.MustParseAddr("2001:db8:dddd:0:6000::77"), true); got != netip.MustParseAddr("192.0.2.152") {
		t.Errorf("trailing bits: %v", got)
	}
	p := load(build(t, ip6("2001:db8:a:ff23::45", client6, 6), tcp(), data))
	if tab.Translate(p); netip.AddrFrom16([16]byte(p.Bytes()[8:24])) != netip.MustParseAddr("2001:db8:f:123::45") || !checksumsRight(t, p.Bytes()) {
		t.Errorf("1:1 prefix, outwards: %x", p.Bytes())
	}
}

func TestUpdate(t *testing.T) {
	tab := table(t)
	collect := func() (out []siit.Pair) {
		for e := range tab.Entries() {
			out = append(out, siit.Pair{Outside: e.Outside, Inside: e.Inside})
		}
		return out
	}
	before := collect()
	if len(before) != 4 || tab.Len() != 4 {
		t.Fatalf("%d mappings: %v", tab.Len(), before)
	}
	s4, v6 := prefix(service4+"/32"), prefix(vm6+"/128")
	for _, c := range []struct {
		field  string
		change siit.Changes
		want   error
	}{
		{"remove[0]", siit.Changes{Remove: []netip.Prefix{prefix("203.0.113.99/32")}}, siit.ErrNotMapped},
		{"remove[0]", siit.Changes{Remove: []netip.Prefix{prefix("203.0.113.0/24")}}, siit.ErrNotMapped},
		{"remove[0]", siit.Changes{Remove: []netip.Prefix{{}}}, siit.ErrNotMapped},
		{"remove[1]", siit.Changes{Remove: []netip.Prefix{s4, s4}}, siit.ErrDuplicate},
		{"set[0].outside", siit.Changes{Set: []siit.Pair{{Outside: prefix("224.0.0.1/32"), Inside: v6}}}, siit.ErrAddress},
		{"set[0].outside", siit.Changes{Set: []siit.Pair{{Outside: prefix("96.0.0.0/3"), Inside: prefix("2001:db8:a::/64")}}}, siit.ErrAddress},
		{"set[0].outside", siit.Changes{Set: []siit.Pair{pair("192.0.2.0/24", "2001:db8:a::/121")}}, siit.ErrPrefix},
		{"set[0].outside", siit.Changes{Set: []siit.Pair{pair("2001:db8:f::/64", "2001:db8:a::/63")}}, siit.ErrPrefix},
		{"set[0].outside", siit.Changes{Set: []siit.Pair{{Outside: prefix("192.0.2.9/24"), Inside: v6}}}, siit.ErrAddress},
		{"set[0].inside", siit.Changes{Set: []siit.Pair{pair("192.0.2.9/32", "fe80::1/128")}}, siit.ErrAddress},
		{"set[0].inside", siit.Changes{Set: []siit.Pair{pair("192.0.2.9/32", "2001:db8:64::1/128")}}, siit.ErrAddress},
		{"set[0].inside", siit.Changes{Set: []siit.Pair{{Outside: prefix("192.0.2.9/32"), Inside: v6}}}, siit.ErrDuplicate},
		{"set[1].inside", siit.Changes{Set: []siit.Pair{pair("192.0.2.9/32", "2001:db8:a::9/128"), pair("192.0.2.8/32", "2001:db8:a::9/128")}}, siit.ErrDuplicate},
		{"set[1].outside", siit.Changes{Set: []siit.Pair{pair("192.0.2.9/32", "2001:db8:a::9/128"), pair("192.0.2.9/32", "2001:db8:a::8/128")}}, siit.ErrDuplicate},
		{"set[0].outside", siit.Changes{Set: []siit.Pair{pair(vmB6+"/128", "2001:db8:a::9/128")}}, siit.ErrDuplicate},
		{"set[0].inside", siit.Changes{Set: []siit.Pair{pair("192.0.2.9/32", service6+"/128")}}, siit.ErrDuplicate},
		{"set[0].inside", siit.Changes{Set: []siit.Pair{pair("192.0.2.0/24", "2001:db8:f::/64")}}, siit.ErrDuplicate},
		{"set[0].outside", siit.Changes{Set: []siit.Pair{pair("2001:db8:a::/64", "2001:db8:9::/64")}}, siit.ErrDuplicate},
		{"set[1].inside", siit.Changes{Set: []siit.Pair{pair("2001:db8:7::/64", "2001:db8:9::/64"), pair("192.0.2.0/24", "2001:db8:7::/96")}}, siit.ErrDuplicate},
	} {
		removed, set, err := tab.Update(c.change)
		if !errors.Is(err, c.want) || !strings.HasPrefix(fmt.Sprint(err), c.field+": ") || removed != nil || set != nil {
			t.Errorf("%+v: %v", c.change, err)
		}
		if d := cmp.Diff(before, collect(), comparePrefixes); d != "" {
			t.Fatalf("%v changed the table: %s", err, d)
		}
	}

	// A machine is replaced: the Outside keeps its ID, both entries are told.
	old, _ := tab.Lookup(s4.Addr())
	removed, set, err := tab.Update(siit.Changes{Set: []siit.Pair{pair(service4+"/32", "2001:db8:a::77/128")}})
	now := siit.Entry{ID: old.ID, Outside: s4, Inside: prefix("2001:db8:a::77/128")}
	if err != nil || !slices.Equal(removed, []siit.Entry{old}) || !slices.Equal(set, []siit.Entry{now}) {
		t.Fatalf("replaced: %v, %v, %v", removed, set, err)
	}
	if got, v := through(t, tab, s4.Addr(), false); got != now.Inside.Addr() || v.Mapping != old.ID {
		t.Errorf("after the change: %v, %+v", got, v)
	}
	if _, v := through(t, tab, v6.Addr(), true); v.Reason != siit.NoMapping {
		t.Errorf("the old inside address: %+v", v)
	}
	// Two exchange their addresses, in one go; a third goes, and its ID comes back.
	a, _ := tab.Lookup(netip.MustParseAddr(other4))
	removed, set, err = tab.Update(siit.Changes{
		Remove: []netip.Prefix{prefix(serviceB + "/128")},
		Set:    []siit.Pair{{Outside: s4, Inside: a.Inside}, {Outside: a.Outside, Inside: now.Inside}, pair("192.0.2.0/24", "2001:db8:9::/64")},
	})
	if err != nil || len(removed) != 3 || len(set) != 3 || tab.Len() != 4 || set[2].ID != removed[0].ID {
		t.Fatalf("exchanged: %v, %v, %v", removed, set, err)
	}
	if got, _ := through(t, tab, now.Inside.Addr(), true); got != a.Outside.Addr() {
		t.Errorf("after the exchange: %v", got)
	}

	// Other settings, same mappings; both tables change together.
	s := tab.Spec()
	s.Pref64, s.MTU6 = prefix("2001:db8:65::/96"), 1400
	other, err := tab.Rebase(s)
	if err != nil || other.Len() != 4 {
		t.Fatalf("rebase: %v", err)
	}
	if _, _, err := other.Update(siit.Changes{Remove: []netip.Prefix{s4}}); err != nil || tab.Len() != 3 {
		t.Errorf("update through the other: %v", err)
	}
	s.Pref64 = prefix("2001:db8:a::/96")
	if _, err := tab.Rebase(s); !errors.Is(err, siit.ErrPrefix) || !strings.HasPrefix(err.Error(), "pref64: ") {
		t.Errorf("a prefix over mapped addresses: %v", err)
	}
	s.Pref64 = netip.Prefix{}
	if _, err := tab.Rebase(s); !errors.Is(err, siit.ErrPrefix) {
		t.Errorf("no prefix, but IPv4 mappings: %v", err)
	}
}

// model is the table as a list, with addresses as strings of bits.
type model []siit.Pair

func bitsOf(a netip.Addr) string {
	var b strings.Builder
	for _, c := range a.AsSlice() {
		fmt.Fprintf(&b, "%08b", c)
	}
	return b.String()
}

func (m model) find(a netip.Addr, inside, six bool) (siit.Pair, bool) {
	best, found := siit.Pair{}, -1
	for _, p := range m {
		side := p.Outside
		if inside {
			side = p.Inside
		}
		if p.Outside.Addr().Is6() == six && side.Contains(a) && side.Bits() > found {
			best, found = p, side.Bits()
		}
	}
	return best, found >= 0
}

func (m model) translate(a netip.Addr, inside, six bool) (netip.Addr, bool) {
	p, ok := m.find(a, inside, six)
	from, to := p.Outside, p.Inside
	if inside {
		from, to = to, from
	}
	if !ok {
		return netip.Addr{}, false
	}
	b := bitsOf(to.Addr())[:to.Bits()] + bitsOf(a)[from.Bits():]
	b = (b + strings.Repeat("0", 128))[:to.Addr().BitLen()]
	out := make([]byte, len(b)/8)
	for i := range b {
		out[i/8] = out[i/8]<<1 | b[i]&1
	}
	addr, _ := netip.AddrFromSlice(out)
	return addr, true
}

// apply is Update's contract in its simplest form.
func (m model) apply(c siit.Changes) (model, bool) {
	next := slices.Clone(m)
	for i, r := range c.Remove {
		at := slices.IndexFunc(next, func(p siit.Pair) bool { return p.Outside == r })
		if at < 0 || slices.Contains(c.Remove[:i], r) {
			return nil, false
		}
		next = slices.Delete(next, at, at+1)
	}
	for i, s := range c.Set {
		if slices.ContainsFunc(c.Set[:i], func(p siit.Pair) bool { return p.Outside == s.Outside }) {
			return nil, false
		}
		next = slices.DeleteFunc(next, func(p siit.Pair) bool { return p.Outside == s.Outside })
	}
	next = append(next, c.Set...)
	for i, p := range next {
		for j, q := range next {
			if i != j && p.Outside.Addr().Is6() == q.Outside.Addr().Is6() && p.Inside == q.Inside {
				return nil, false
			}
			if p.Outside.Addr().Is6() && p.Outside.Overlaps(q.Inside) {
				return nil, false
			}
		}
	}
	return next, true
}

// Admit takes what Update would take one by one, and nothing else, and both say the same of the others.
func TestAdmit(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		list := rapid.SliceOfN(pairs(), 0, 30).Draw(r, "pairs")
		empty := func(s *siit.Spec) { s.Mappings, s.Mappings66, s.Inside = nil, nil, nil }
		one, all := table(t, empty), table(t, empty)
		refused := all.Admit(list[:len(list)/2])
		for i, err := range all.Admit(list[len(list)/2:]) {
			refused[len(list)/2+i] = err
		}
		for i, p := range list {
			var want error
			for e := range one.Entries() {
				if e.Outside == p.Outside { // Update would replace it
					want = siit.ErrDuplicate
				}
			}
			if want == nil {
				_, _, want = one.Update(siit.Changes{Set: []siit.Pair{p}})
			}
			got := refused[i]
			if got != nil && !strings.HasPrefix(got.Error(), "outside: ") && !strings.HasPrefix(got.Error(), "inside: ") {
				r.Fatalf("%v names no side: %v", p, got)
			}
			for _, is := range []error{siit.ErrAddress, siit.ErrPrefix, siit.ErrDuplicate} {
				if errors.Is(want, is) != errors.Is(got, is) {
					r.Fatalf("%v of %v: %v, one by one %v", p, list, got, want)
				}
			}
			if (want == nil) != (got == nil) {
				r.Fatalf("%v of %v: %v, one by one %v", p, list, got, want)
			}
		}
		if d := cmp.Diff(slices.Collect(one.Entries()), slices.Collect(all.Entries()), comparePrefixes); d != "" {
			r.Fatalf("%v (-one by one +admitted):\n%s", list, d)
		}
	})
}

// pairs are of few addresses, so that many are in each other's way.
func pairs() *rapid.Generator[siit.Pair] {
	length := func(r *rapid.T, max int) int {
		return max - rapid.SampledFrom([]int{0, 0, 0, 1, 2, 4}).Draw(r, "suffix")
	}
	return rapid.Custom(func(r *rapid.T) siit.Pair {
		n := length(r, 128)
		in := netip.PrefixFrom(addr6(0xa).Draw(r, "inside"), n).Masked()
		if rapid.Bool().Draw(r, "six") {
			site := rapid.SampledFrom([]byte{0xf, 0xf, 0xf, 0xf, 0xa}).Draw(r, "site")
			return siit.Pair{Outside: netip.PrefixFrom(addr6(site).Draw(r, "outside"), n).Masked(), Inside: in}
		}
		n4 := max(length(r, 32), n-96)
		return siit.Pair{Outside: netip.PrefixFrom(addr4().Draw(r, "outside"), n4).Masked(), Inside: in}
	})
}

func addr4() *rapid.Generator[netip.Addr] {
	return rapid.Custom(func(r *rapid.T) netip.Addr {
		return netip.AddrFrom4([4]byte{203, 0, 113, byte(rapid.IntRange(0, 31).Draw(r, "host"))})
	})
}

func addr6(site byte) *rapid.Generator[netip.Addr] {
	return rapid.Custom(func(r *rapid.T) netip.Addr {
		return netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, 0, site, 15: byte(rapid.IntRange(0, 63).Draw(r, "host"))})
	})
}

func TestTableModel(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		tab := table(t, func(s *siit.Spec) { s.Mappings, s.Mappings66, s.Inside = nil, nil, nil })
		var m model
		for range rapid.IntRange(1, 12).Draw(r, "steps") {
			c := siit.Changes{Set: rapid.SliceOfN(pairs(), 0, 5).Draw(r, "set")}
			for _, p := range m {
				if rapid.IntRange(0, 5).Draw(r, "remove") == 0 {
					c.Remove = append(c.Remove, p.Outside)
				}
			}
			next, ok := m.apply(c)
			removed, set, err := tab.Update(c)
			if ok != (err == nil) {
				r.Fatalf("%+v on %v: %v, the model says %v", c, m, err, ok)
			}
			if err == nil {
				m = next
				if len(set) != len(c.Set) || len(removed) < len(c.Remove) {
					r.Fatalf("%+v: removed %v, set %v", c, removed, set)
				}
			}
			var got []siit.Pair
			ids := map[uint32]bool{}
			for e := range tab.Entries() {
				got = append(got, siit.Pair{Outside: e.Outside, Inside: e.Inside})
				ids[e.ID] = true
				if same, ok := tab.Entry(e.ID); !ok || same != e {
					r.Fatalf("entry %d: %v, %v, not %v", e.ID, same, ok, e)
				}
			}
			if in := slices.Collect(tab.IDs()); !slices.Equal(in, slices.Sorted(maps.Keys(ids))) {
				r.Fatalf("IDs %v, entries have %v", in, ids)
			}
			for _, e := range removed {
				if _, ok := tab.Entry(e.ID); ok && !ids[e.ID] {
					r.Fatalf("entry %d is there, and was removed", e.ID)
				}
			}
			byOutside := func(a, b siit.Pair) bool { return a.Outside.String() < b.Outside.String() }
			if d := cmp.Diff([]siit.Pair(m), got, comparePrefixes, cmpopts.SortSlices(byOutside), cmpopts.EquateEmpty()); d != "" || len(ids) != len(m) || tab.Len() != len(m) {
				r.Fatalf("after %+v (%d IDs): %s", c, len(ids), d)
			}
		}
		for _, a := range []netip.Addr{addr4().Draw(r, "a"), addr6(0xf).Draw(r, "a"), addr6(0xa).Draw(r, "a")} {
			want, ok := m.translate(a, false, a.Is6())
			if got, v := through(t, tab, a, false); ok != (v.Mapping != siit.NoEntry) || ok && got != want {
				r.Fatalf("to %v in %v: %v, want %v", a, m, got, want)
			}
			if a.Is4() {
				// There and back, unless a longer prefix covers the inside address.
				p, _ := m.find(a, false, false)
				if q, _ := m.find(want, true, false); ok && p == q {
					if back, _ := through(t, tab, want, true); back != a {
						r.Fatalf("%v became %v, and that %v", a, want, back)
					}
				}
				continue
			}
			want, ok = m.translate(a, true, false)
			if got, v := through(t, tab, a, true); ok != (v.Action == siit.Send) || got != want {
				r.Fatalf("from %v in %v: %v (%v), want %v", a, m, got, v.Reason, want)
			}
		}
	})
}

// While mappings change, a reader sees the old or the new one; and when no change
// is under way, the one that is in force, both ways. Inside addresses move between
// lengths, so that longest matches move between hashes.
func TestUpdateUnderReaders(t *testing.T) {
	const n = 8
	aggregate := pair("198.18.0.0/24", "2001:db8:a::/64")
	// Mapping i is of one IPv4 address. With an odd i its inside address changes and
	// is gone for a turn; with an even one it gets longer and shorter, so that its
	// first address is covered at all times.
	in := func(i, turn int) netip.Prefix {
		a := [16]byte{0x20, 1, 0xd, 0xb8, 0, 0xa, 15: byte(i * 16)}
		if i%2 == 1 {
			a[13] = byte(turn)
			return netip.PrefixFrom(netip.AddrFrom16(a), 128)
		}
		return netip.PrefixFrom(netip.AddrFrom16(a), []int{128, 124, 127, 125}[turn])
	}
	out := func(i int) netip.Prefix {
		return netip.PrefixFrom(netip.AddrFrom4([4]byte{203, 0, 113, byte(i)}), 32)
	}
	gone := func(i, turn int) bool { return i%2 == 1 && turn == 3 }
	state := func(i, turn int) siit.Pair { return siit.Pair{Outside: out(i), Inside: in(i, turn)} }
	tab := table(t, func(s *siit.Spec) {
		s.Mappings, s.Mappings66 = []siit.Mapping{{V4: aggregate.Outside, V6: aggregate.Inside}}, nil
	})
	var gen [n]atomic.Int64 // odd: a change is under way; else the turn is half of it
	for i := range n {
		if _, _, err := tab.Update(siit.Changes{Set: []siit.Pair{state(i, 0)}}); err != nil {
			t.Fatal(err)
		}
	}
	var stop atomic.Bool
	var sure, all atomic.Int64
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			var packets [n][]byte
			for i := range n {
				packets[i] = build(t, ip4(client4, out(i).Addr().String(), 6), tcp())
			}
			p := load(packets[0])
			for !stop.Load() {
				for i := range n {
					p.Off, p.Len = siit.Headroom, len(packets[i])
					copy(p.Bytes(), packets[i])
					if v := tab.Translate(p); v.Action == siit.Send {
						dst := netip.AddrFrom16([16]byte(p.Bytes()[24:40]))
						if dst != in(i, 0).Addr() && dst != in(i, 1).Addr() && dst != in(i, 2).Addr() && dst != in(i, 3).Addr() {
							t.Errorf("a packet to %v went to %v", out(i), dst)
						}
					} else if i%2 == 0 || v.Reason != siit.NoMapping {
						t.Errorf("a packet to %v: %+v", out(i), v)
					}
					before := gen[i].Load()
					e, ok := tab.Lookup(out(i).Addr())
					got, okIn := tab.Lookup(in(i, 0).Addr())
					after := gen[i].Load()
					all.Add(1)
					if ok && e.Inside != in(i, 0) && e.Inside != in(i, 1) && e.Inside != in(i, 2) && e.Inside != in(i, 3) {
						t.Errorf("a mixture: %+v", e)
					}
					if !okIn || i%2 == 0 && got.Outside != out(i) {
						t.Errorf("%v is that of %+v", in(i, 0), got)
					}
					if before != after || before&1 != 0 {
						continue
					}
					sure.Add(1)
					turn := int(before/2) % 4
					if ok == gone(i, turn) || ok && e.Inside != in(i, turn) {
						t.Errorf("turn %d: %v is %+v, not %v", turn, out(i), e, in(i, turn))
					}
					want := aggregate.Outside
					if in(i, turn).Contains(in(i, 0).Addr()) {
						want = out(i)
					}
					if got.Outside != want {
						t.Errorf("turn %d: %v is that of %+v", turn, in(i, 0), got)
					}
				}
			}
		})
	}
	for step := 1; step <= 20000 || sure.Load() < 1000; step++ {
		i := step % n
		turn := int(gen[i].Load()/2+1) % 4
		gen[i].Add(1)
		c := siit.Changes{Set: []siit.Pair{state(i, turn)}}
		if gone(i, turn) {
			c = siit.Changes{Remove: []netip.Prefix{out(i)}}
		}
		if _, _, err := tab.Update(c); err != nil {
			t.Fatal(err)
		}
		gen[i].Add(1)
	}
	stop.Store(true)
	wg.Wait()
	t.Logf("%d readings, %d while nothing changed", all.Load(), sure.Load())
}

// Changes leave nothing behind: replacing and removing for ever costs no memory.
func TestUpdateLeavesNothing(t *testing.T) {
	tab := table(t)
	heap := func() int64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	var before int64
	for i := range 100_000 {
		if i == 1000 {
			before = heap()
		}
		a := netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, 0, 9, 12: byte(i >> 24), 13: byte(i >> 16), 14: byte(i >> 8), 15: byte(i)})
		c := siit.Changes{Set: []siit.Pair{{Outside: prefix(service4 + "/32"), Inside: netip.PrefixFrom(a, 128-i&3)}}}
		c.Set[0].Inside = c.Set[0].Inside.Masked()
		if i%5 == 0 {
			c.Remove = []netip.Prefix{prefix(service4 + "/32")}
		}
		if _, _, err := tab.Update(c); err != nil {
			t.Fatal(err)
		}
	}
	more := heap() - before
	t.Logf("%d bytes more", more)
	if more > 256<<10 || tab.Len() != 4 {
		t.Errorf("%d bytes more, %d mappings", more, tab.Len())
	}
	runtime.KeepAlive(tab)
}

// many is a table spread over 10.0.0.0/8.
func many(n int) siit.Spec {
	s := spec()
	s.Mappings, s.Mappings66 = make([]siit.Mapping, n), nil
	for i := range s.Mappings {
		a := uint32(i)*16 + uint32(i)*2654435761>>28
		s.Mappings[i] = siit.Mapping{
			V4: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(a >> 16), byte(a >> 8), byte(a)}), 32),
			V6: netip.PrefixFrom(netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, 0, 0xa, byte(i >> 16), byte(i >> 8), 15: byte(i)}), 128),
		}
	}
	return s
}
