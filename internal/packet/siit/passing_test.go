package siit_test

import (
	"bytes"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"pgregory.net/rapid"

	"widecloud/internal/packet/siit"
)

func hops(l *layers.IPv6, n uint8) *layers.IPv6 { l.HopLimit = n; return l }

// What routers behind the translator, or its own kernel, say about packets to a
// service address reaches the client with the address that it knows (RFC 4443 §2.4 (c), (d)).
func TestRouterErrors(t *testing.T) {
	type layer = gopacket.SerializableLayer
	about := func(src, dst string, proto layers.IPProtocol, l4 ...layer) []byte {
		return build(t, append([]layer{hops(ip6(src, dst, proto), 1)}, l4...)...)
	}
	echo6 := []layer{icmp6(128, 0), payload("\x00\x09\x00\x03ping")}
	for _, l4 := range []struct {
		name  string
		proto layers.IPProtocol
		ls    []layer
	}{
		{"tcp", 6, []layer{tcp(), data}}, {"udp", 17, []layer{udp(), data}}, {"echo", 58, echo6},
		{"sctp", 132, []layer{payload("no checksum over addresses")}},
		{"fragment", 44, []layer{payload("\x11\x00\x00\x08\x00\x00\x00\x07later")}},
	} {
		for _, c := range []struct {
			name              string
			src, dst          string // of the error
			from, to          string // it quotes
			newSrc, newDst    string
			newFrom, newTo    string
			mapping, outbound string
		}{
			{"router to client", router6, client6, client6, vm6, router6, client6, client6, service6, service6, "out"},
			{"kernel under the prefix", "2001:db8:64::1", client6, client6, vm6, own6, client6, client6, service6, service6, "out"},
			{"one machine called another", router6, service6, service6, vmB6, router6, vm6, vm6, serviceB, service6, "in"},
		} {
			for _, kind := range []struct {
				typ, code uint8
				info      uint32
			}{{1, 0, 0}, {1, 3, 0}, {2, 0, 1400}, {3, 0, 0}, {4, 1, 6}, {100, 0, 0}} {
				p := load(build(t, ip6(c.src, c.dst, 58), icmp6(kind.typ, kind.code), word(kind.info, about(c.from, c.to, l4.proto, l4.ls...))))
				agrees(t, table(t), p.Bytes())
				v := table(t).Translate(p)
				want := build(t, hops(ip6(c.newSrc, c.newDst, 58), 60), icmp6(kind.typ, kind.code), word(kind.info, about(c.newFrom, c.newTo, l4.proto, l4.ls...)))
				if d := cmp.Diff(want, p.Bytes()); d != "" {
					t.Errorf("%s, %s, type %d: %s", l4.name, c.name, kind.typ, d)
				}
				e, _ := table(t).Lookup(netip.MustParseAddr(c.mapping))
				if w := (siit.Verdict{Action: siit.Send, Reason: siit.SixToSix, Mapping: e.ID, Outbound: c.outbound == "out"}); v != w {
					t.Errorf("%s, %s, type %d: %+v, want %+v", l4.name, c.name, kind.typ, v, w)
				}
			}
		}
	}
	// There is nothing to answer when such an error has lived too long.
	p := load(build(t, hops(ip6(router6, client6, 58), 1), icmp6(3, 0), word(0, about(client6, vm6, 6, tcp()))))
	if v := table(t).Translate(p); v.Reason != siit.TTLExceeded || len(table(t).AppendError(nil, p.Bytes(), v.Error)) > 0 {
		t.Errorf("used up: %+v", v)
	}
}

// All ICMPv6 is led to the device, so what is about no mapping goes on as it came,
// but for what the routes lead here: that would come back.
func TestPassing(t *testing.T) {
	served := func(s *siit.Spec) { s.Served = []netip.Prefix{netip.MustParsePrefix("2001:db8:f::/64")} }
	tab := table(t, served)
	const other = "2001:db8:d::99"
	quote := build(t, ip6(client6, other, 6), tcp())
	inside := build(t, ip6(vmB6, vm6, 6), tcp())
	echo := payload("\x00\x09\x00\x03ping")
	routing := payload([]byte{58, 2, 4, 1, 0, 0, 0, 0, 32, 1, 13, 184, 0, 10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 16, 128, 0, 0, 0, 0, 0, 0, 0})
	for name, in := range map[string][]byte{
		"echo":                        build(t, hops(ip6(client6, other, 58), 1), icmp6(128, 0), echo),
		"long echo":                   build(t, ip6(client6, other, 58), icmp6(128, 0), payload(make([]byte, 1800))),
		"echo to an inside address":   build(t, ip6(client6, vm6, 58), icmp6(128, 0), echo),
		"echo between machines":       build(t, ip6(vm6, vmB6, 58), icmp6(128, 0), echo),
		"error about others":          build(t, ip6(router6, client6, 58), icmp6(3, 0), word(0, quote)),
		"error between machines":      build(t, ip6(router6, vmB6, 58), icmp6(3, 0), word(0, inside)),
		"error to an inside prefix":   build(t, ip6(router6, "2001:db8:b::1", 58), icmp6(3, 0), word(0, inside)),
		"error about nothing legible": build(t, ip6(router6, client6, 58), icmp6(1, 0), payload("\x00\x00\x00\x00nonsense")),
		"error to a machine, too":     build(t, ip6(router6, vmB6, 58), icmp6(1, 0), payload("\x00\x00\x00\x00nonsense")),
		"too short":                   build(t, ip6(router6, client6, 58), payload("\x03")),
		"empty":                       build(t, ip6(router6, client6, 58)),
		"later fragment":              build(t, ip6(client6, other, 44), payload("\x3a\x00\x00\x08\x00\x00\x00\x07later")),
		"segments left":               build(t, ip6(client6, other, 43), routing),
		"tunnel":                      build(t, ip6(client6, other, 41), payload(quote)),
		"to the prefix's neighbour":   build(t, ip6(client6, "2001:db8:f:1::99", 58), icmp6(128, 0), echo),
	} {
		for _, tab := range []*siit.Table{tab, table(t, served, func(s *siit.Spec) { s.MTU6 = 1400 })} {
			p := load(in)
			agrees(t, tab, in)
			want := siit.Verdict{Action: siit.Send, Reason: siit.Unchanged, Mapping: siit.NoEntry}
			if v := tab.Translate(p); v != want || !bytes.Equal(p.Bytes(), in) {
				t.Errorf("%s: %+v %x", name, v, p.Bytes())
			}
		}
	}
	for name, in := range map[string][]byte{
		"echo to a served address":  build(t, ip6(client6, "2001:db8:f::99", 58), icmp6(128, 0), echo),
		"error to a served address": build(t, ip6(router6, "2001:db8:f::99", 58), icmp6(3, 0), word(0, quote)),
		"tunnel to one":             build(t, ip6(client6, "2001:db8:f::99", 41), payload(quote)),
		"tcp":                       build(t, ip6(client6, other, 6), tcp()),
		"udp":                       build(t, ip6(router6, client6, 17), udp(), data),
	} {
		agrees(t, tab, in)
		want := siit.Verdict{Action: siit.Reject, Reason: siit.NoMapping, Mapping: siit.NoEntry, Error: siit.ICMPError{Type: 1, Code: 3}}
		if d := cmp.Diff(want, tab.Translate(load(in))); d != "" {
			t.Errorf("%s: %s", name, d)
		}
	}
	// Where all from inside comes here, unmapped machines do not get out with their own
	// addresses; the host there may answer and report.
	confined := table(t, func(s *siit.Spec) { s.Confined = true })
	for typ, want := range map[uint8]siit.Reason{128: siit.NoMapping, 129: siit.Unchanged, 3: siit.Unchanged} {
		for _, c := range []struct {
			src, dst string
			want     siit.Reason
		}{{"2001:db8:b::1", client6, want}, {"2001:db8:b::1", "2001:db8:b::2", siit.Unchanged}, {client6, other, siit.Unchanged}} {
			in := build(t, ip6(c.src, c.dst, 58), icmp6(typ, 0), echo)
			agrees(t, confined, in)
			if v := confined.Translate(load(in)); v.Reason != c.want {
				t.Errorf("type %d from %s to %s: %+v", typ, c.src, c.dst, v)
			}
		}
	}
	// Neighbour discovery is nobody's to forward.
	ns := build(t, ip6(router6, client6, 58), icmp6(135, 0), payload(make([]byte, 20)))
	if v := tab.Translate(load(ns)); v.Action != siit.Drop || v.Reason != siit.NotForwardable {
		t.Errorf("neighbour solicitation: %+v", v)
	}
}

// Whatever a client sends to a service address, be it one of a prefix: an error
// about it, made behind the translator and quoting any part, quotes to the client
// what it has sent, and its checksum is right.
func TestRouterErrorsRoundTrip(t *testing.T) {
	tab := table(t, func(s *siit.Spec) {
		s.Mappings66 = append(s.Mappings66, siit.Mapping66{Service: netip.MustParsePrefix("2001:db8:e0::/56"), Inside: netip.MustParsePrefix("2001:db8:a0::/56")})
	})
	rapid.Check(t, func(r *rapid.T) {
		body := payload(rapid.SliceOfN(rapid.Byte(), 0, 1000).Draw(r, "body"))
		to := netip.MustParseAddr(service6)
		if rapid.Bool().Draw(r, "prefix") {
			a := netip.MustParseAddr("2001:db8:e0::").As16()
			copy(a[7:], rapid.SliceOfN(rapid.Byte(), 9, 9).Draw(r, "suffix"))
			to = netip.AddrFrom16(a)
		}
		proto := rapid.SampledFrom([]layers.IPProtocol{6, 17, 58}).Draw(r, "protocol")
		ls := []gopacket.SerializableLayer{ip6(client6, to.String(), proto)}
		switch proto {
		case 6:
			ls = append(ls, tcp())
		case 17:
			ls = append(ls, udp())
		case 58:
			ls = append(ls, icmp6(128, 0), payload("\x00\x01\x00\x01"))
		}
		sent := build(t, append(ls, body)...)
		p := load(bytes.Clone(sent))
		if v := tab.Translate(p); v.Reason != siit.SixToSix {
			r.Fatalf("there: %+v", v)
		}
		quoted := p.Bytes()
		quoted = quoted[:rapid.IntRange(40, len(quoted)).Draw(r, "quoted")]
		p = load(build(t, ip6(router6, client6, 58), icmp6(2, 0), word(1400, quoted)))
		v := tab.Translate(p)
		if v.Action != siit.Send || v.Reason != siit.SixToSix || !v.Outbound || !checksumsRight(t, p.Bytes()) {
			r.Fatalf("back: %+v, %x", v, p.Bytes())
		}
		got, want := p.Bytes()[48:], bytes.Clone(sent[:len(quoted)])
		want[7]-- // the hop that the translator counted
		if at := 40 + map[layers.IPProtocol]int{6: 16, 17: 6, 58: 2}[proto]; len(quoted) == at+1 {
			got, want = got[:at], want[:at] // half a checksum cannot be undone
		}
		if !bytes.Equal(got, want) {
			r.Fatalf("quotes %x\nof %x", got, want)
		}
	})
}
