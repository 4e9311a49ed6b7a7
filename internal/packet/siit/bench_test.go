package siit_test

import (
	"fmt"
	"net/netip"
	"runtime"
	"testing"

	"widecloud/internal/packet/siit"
)

// BenchmarkTranslate takes small TCP packets both ways, their addresses spread over
// the whole table. The time to copy the packet is in it.
func BenchmarkTranslate(b *testing.B) {
	for _, n := range []int{1, 1_000_000} {
		s := many(n)
		tab, err := siit.NewTable(s)
		if err != nil {
			b.Fatal(err)
		}
		const flows = 1 << 14
		to4, to6 := make([][]byte, flows), make([][]byte, flows)
		for i := range to4 {
			m := s.Mappings[(i*7919)%n]
			to6[i] = build(b, ip4(client4, m.V4.Addr().String(), 6), tcp(), data)
			to4[i] = build(b, ip6(m.V6.Addr().String(), client64, 6), tcp(), data)
		}
		for _, c := range []struct {
			name    string
			packets [][]byte
		}{{"4to6", to6}, {"6to4", to4}} {
			b.Run(fmt.Sprintf("%s/mappings=%d", c.name, n), func(b *testing.B) {
				p := load(make([]byte, 200))
				i := 0
				b.ReportAllocs()
				for b.Loop() {
					in := c.packets[i%flows]
					i++
					p.Off, p.Len = siit.Headroom, len(in)
					copy(p.Buf[p.Off:], in)
					if v := tab.Translate(p); v.Action != siit.Send {
						b.Fatal(v)
					}
				}
			})
		}
	}
}

func BenchmarkNewTable(b *testing.B) {
	s := many(1_000_000)
	var tab *siit.Table
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	for b.Loop() {
		tab = nil
		var err error
		if tab, err = siit.NewTable(s); err != nil {
			b.Fatal(err)
		}
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	runtime.KeepAlive(s)
	b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/float64(tab.Len()), "bytes/mapping")
}

// BenchmarkUpdateAll puts a million mappings into an empty table in one Update.
func BenchmarkUpdateAll(b *testing.B) {
	s := many(1_000_000)
	c := siit.Changes{Set: make([]siit.Pair, len(s.Mappings))}
	for i, m := range s.Mappings {
		c.Set[i] = siit.Pair{Outside: m.V4, Inside: m.V6}
	}
	s.Mappings = nil
	for b.Loop() {
		tab, err := siit.NewTable(s)
		if err != nil {
			b.Fatal(err)
		}
		if _, _, err := tab.Update(c); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkUpdate replaces the inside of one of a million mappings.
func BenchmarkUpdate(b *testing.B) {
	s := many(1_000_000)
	tab, err := siit.NewTable(s)
	if err != nil {
		b.Fatal(err)
	}
	i := 0
	for b.Loop() {
		m := s.Mappings[i*7919%len(s.Mappings)]
		i++
		in := m.V6.Addr().As16()
		in[9] = byte(i >> 8)
		in[10] = byte(i)
		c := siit.Changes{Set: []siit.Pair{{Outside: m.V4, Inside: netip.PrefixFrom(netip.AddrFrom16(in), 128)}}}
		if _, _, err := tab.Update(c); err != nil {
			b.Fatal(err)
		}
	}
}

func TestNoAllocation(t *testing.T) {
	tab := table(t)
	noDF := ip4(client4, service4, 17)
	noDF.Flags = 0
	super := ip4(client4, service4, 6)
	super.Flags = 0
	quote6, quote4 := build(t, ip6(client64, vm6, 17), udp(), data), build(t, ip4(service4, client4, 17), udp(), data)
	gso := siit.Offload{NeedsCsum: true, GSOType: siit.GSOTCPv4, GSOSize: 1400, HdrLen: 40, CsumStart: 20, CsumOffset: 16}
	for name, c := range map[string]struct {
		in      []byte
		offload siit.Offload
		want    siit.Action
	}{
		"4to6":        {build(t, ip4(client4, service4, 6), tcp(), data), siit.Offload{}, siit.Send},
		"6to4":        {build(t, ip6(vm6, client64, 6), tcp(), data), siit.Offload{}, siit.Send},
		"6to6":        {build(t, ip6(client6, service6, 6), tcp(), data), siit.Offload{}, siit.Send},
		"fragments":   {build(t, noDF, udp(), make(payload, 3000)), siit.Offload{}, siit.SendFragments},
		"segments":    {build(t, super, tcp(), make(payload, 9000)), gso, siit.SendFragments},
		"error 4to6":  {build(t, ip4("192.0.2.77", service4, 1), icmp4(11, 0, 32, 0), payload(append(padded(quote4, 128), extension(4)...))), siit.Offload{}, siit.Send},
		"error 6to4":  {build(t, ip6(router6, client64, 58), icmp6(3, 0), word(16<<24, padded(quote6, 128), extension(4))), siit.Offload{}, siit.Send},
		"no mapping":  {build(t, ip4(client4, "203.0.113.99", 6), tcp(), data), siit.Offload{}, siit.Reject},
		"no mapping6": {build(t, ip6(client6, "2001:db8:f::99", 6), tcp(), data), siit.Offload{}, siit.Reject},
	} {
		p := load(make([]byte, 20000))
		reply := make([]byte, 0, 1280)
		var v siit.Verdict
		n := testing.AllocsPerRun(100, func() {
			p.Off, p.Len, p.Offload = siit.Headroom, len(c.in), c.offload
			copy(p.Buf[p.Off:], c.in)
			switch v = tab.Translate(p); v.Action {
			case siit.SendFragments:
				for f := tab.Fragments(p); ; {
					if _, ok := f.Next(); !ok {
						break
					}
				}
			case siit.Reject:
				reply = tab.AppendError(reply[:0], p.Bytes(), v.Error)
			}
		})
		if n != 0 || v.Action != c.want || v.Action == siit.Reject && len(reply) == 0 {
			t.Errorf("%s: %v allocations, verdict %+v", name, n, v)
		}
	}
}
