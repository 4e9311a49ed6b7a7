package siit_test

import (
	"strings"
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"widecloud/internal/packet/siit"
)

// TestExplain reads what an operator reads. That it is true is checked beside, by
// agrees, and by FuzzExplain.
func TestExplain(t *testing.T) {
	hop := func(l *layers.IPv4) *layers.IPv4 { l.TTL = 1; return l }
	cut := func(l *layers.IPv4) *layers.IPv4 { l.Flags = 0; return l }
	big := payload(make([]byte, 1400))
	for _, c := range []struct {
		name   string
		change func(*siit.Spec)
		in     []gopacket.SerializableLayer
		want   []string
	}{
		{"4to6", nil, []gopacket.SerializableLayer{ip4(client4, service4, 6), tcp(), data}, []string{
			"packet: IPv4 198.51.100.7 -> 203.0.113.10, TTL 61, 83 bytes, DF, TCP 4000 -> 80",
			"destination: 203.0.113.10: mapping 0, 203.0.113.10/32 <-> 2001:db8:a::10/128: becomes 2001:db8:a::10",
			"source: 198.51.100.7: under the prefix 2001:db8:64::/96: becomes 2001:db8:64::c633:6407",
			"TTL: 61, less 1", "MTU: not known here",
			"result: sent (4to6): IPv6 2001:db8:64::c633:6407 -> 2001:db8:a::10, hop limit 60, 103 bytes, TCP 4000 -> 80",
			"counted: mapping 0, in"}},
		{"6to4", nil, []gopacket.SerializableLayer{ip6(vm6, client64, 17), udp(), data}, []string{
			"destination: 2001:db8:64::c633:6407: under the prefix 2001:db8:64::/96: becomes 198.51.100.7",
			"source: 2001:db8:a::10: mapping 0,", "counted: mapping 0, out"}},
		{"stays inside", nil, []gopacket.SerializableLayer{ip6(vm6, vmB6, 6), tcp()}, []string{
			"source: 2001:db8:a::10: stays, because the destination is inside", "result: sent (unchanged)"}},
		{"no mapping", nil, []gopacket.SerializableLayer{ip4(client4, "203.0.113.99", 6), tcp()}, []string{
			"destination: refused: no mapping covers the address",
			"result: dropped (no_mapping), answered by: IPv4 192.0.2.1 -> 198.51.100.7, TTL 64, 68 bytes, ICMP type 3 code 1 about [IPv4 198.51.100.7 -> 203.0.113.99"}},
		{"TTL", nil, []gopacket.SerializableLayer{hop(ip4(client4, service4, 6)), tcp()}, []string{"TTL: refused: ", "ICMP type 11 code 0"}},
		{"too big", func(s *siit.Spec) { s.MTU6 = 1280 }, []gopacket.SerializableLayer{ip4(client4, service4, 6), tcp(), big}, []string{
			"MTU: refused: ", "ICMP type 3 code 4, MTU 1260"}},
		{"cut", nil, []gopacket.SerializableLayer{cut(ip4(client4, service4, 6)), tcp(), big}, []string{
			"MTU: without DF, cut into pieces of at most 1280 bytes", "result, piece 2: sent (4to6)", "fragment 0x0 at 1232, more: false"}},
		{"fits", func(s *siit.Spec) { s.MTU6 = 1500 }, []gopacket.SerializableLayer{ip4(client4, service4, 6), tcp()}, []string{"MTU: 1500 bytes: fits"}},
		{"an error", nil, []gopacket.SerializableLayer{ip6(router6, client64, 58), icmp6(2, 0), word(1400, build(t, ip6(client64, vm6, 6), tcp()))}, []string{
			"source: 2001:db8:d::1: a router without an IPv4 address: 192.0.2.1 stands for it (RFC 6791)",
			"ICMP type 3 code 4, MTU 1380 about [IPv4 198.51.100.7 -> 203.0.113.10"}},
		{"no answer", nil, []gopacket.SerializableLayer{ip4(client4, "203.0.113.99", 1), icmp4(3, 1, 0, 0), data}, []string{"dropped (no_mapping); no answer"}},
		{"neighbour discovery", nil, []gopacket.SerializableLayer{ip6(vm6, client6, 58), icmp6(135, 0), data}, []string{"addresses: refused: not to be forwarded"}},
		{"private", func(s *siit.Spec) { s.Private = siit.PrivateDrop }, []gopacket.SerializableLayer{ip4(client4, service4, 6), tcp()}, []string{"private addresses: refused: "}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.change == nil {
				c.change = func(*siit.Spec) {}
			}
			all := agrees(t, table(t, c.change), build(t, c.in...))
			for _, w := range c.want {
				if !strings.Contains(all, w) {
					t.Errorf("%q is not in\n%s", w, all)
				}
			}
		})
	}
	for _, in := range [][]byte{nil, {0x45}, make([]byte, 100), build(t, ip4(client4, service4, 6), tcp())[:30]} {
		agrees(t, table(t), in)
	}
}
