package network_test

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"widecloud/internal/agent/network"
	"widecloud/internal/netio"
)

// outerSource is how a host in the underlay sends a VXLAN packet.
type outer struct {
	from     netip.Addr // its source
	to       netip.Addr
	headers  []byte // extension headers, the first of them is of type next
	next     byte
	fragment int // bytes of the packet behind the IPv6 header that go into the first fragment; 0: it is not fragmented
}

// packets are the IPv6 packets that carry payload by UDP to VXLAN's port.
func (o outer) packets(payload []byte) [][]byte {
	u := udpTo(40000, netio.VXLANPort, payload)
	checksum6(o.from, o.to, udp, u, 6)
	next, body := byte(udp), u
	if o.headers != nil {
		next, body = o.next, slices.Concat(o.headers, u)
	}
	if o.fragment == 0 {
		return [][]byte{bare6(o.from, o.to, next, body)}
	}
	first := slices.Concat(fragmentOf(next, 0, true), body[:o.fragment])
	rest := slices.Concat(fragmentOf(next, o.fragment, false), body[o.fragment:])
	id := make([]byte, 4)
	binary.BigEndian.PutUint32(id, uint32(markers.Add(1)))
	copy(first[4:], id)
	copy(rest[4:], id)
	return [][]byte{bare6(o.from, o.to, fragment, first), bare6(o.from, o.to, fragment, rest)}
}

// bare6 is an IPv6 packet with its payload as it is.
func bare6(src, dst netip.Addr, next byte, payload []byte) []byte {
	s, d := src.As16(), dst.As16()
	return slices.Concat([]byte{0x60, 0, 0, 0}, be16(len(payload)), []byte{next, 64}, s[:], d[:], payload)
}

// throw puts packets on the underlay at a host, whoever their source is.
func (w *world) throw(h *host, packets ...[]byte) {
	w.t.Helper()
	router, err := w.router.Link("r-" + h.name)
	must(w.t, err)
	own, err := h.ns.Link("eth0")
	must(w.t, err)
	for i, p := range packets {
		packets[i] = ether(router.MAC, own.MAC, []int{typeIPv6}, p)
	}
	sendFrames(w.t, h.ns, "eth0", packets...)
}

// TestHostileHost has a host of the underlay send what it must not into network blue: one that carries nothing, one that shares
// another network with the victim, and one that carries blue itself. Its frames reach no VM, and the rule that is meant for
// them counts them.
func TestHostileHost(t *testing.T) {
	for _, victim := range []string{"h1", "b1"} {
		t.Run(victim, func(t *testing.T) {
			hosts := []string{victim, "h2", "h3", "g1"}
			w := newWorld(t, append(hosts, "h4")...)
			v, member, redHost, stranger := w.hosts[victim], w.hosts["h2"], w.hosts["h3"], w.hosts["h4"]
			w.steer("g1", "g1")
			n, r := blue(), red()
			b, c := endpoint(n, "b", 1, v), endpoint(n, "c", 2, member)
			n.Endpoints = []network.Endpoint{b, c}
			r.Endpoints = []network.Endpoint{endpoint(r, "r", 3, v), endpoint(r, "s", 4, redHost)}
			carry := map[string][]network.Network{victim: {n, r}, "h2": {n}, "h3": {r}, "g1": {n, r}}
			members := map[string][]string{n.UID: {victim, "h2", "g1"}, r.UID: {victim, "h3", "g1"}}
			for _, name := range hosts {
				want := network.Want{VTEP: w.hosts[name].vtep, Role: w.hosts[name].role, AnycastVTEP: anycast}
				for _, n := range carry[name] {
					want.Networks = append(want.Networks, w.wantAmong(w.hosts[name], n, members[n.UID]).Networks...)
				}
				w.apply(w.hosts[name], want)
			}
			gb, gr, gc := w.plug(v, n, b), w.plug(v, r, r.Endpoints[0]), w.plug(member, n, c)
			for _, g := range []*guest{gb, gr, gc} {
				g.slaac()
			}
			w.reach(gb.ns, "b to c", c.IPv6)
			w.reach(w.out, "b from outside", b.IPv6) // whom a host that is both learns of by this is known from now on
			atB, atR := w.sniff(gb.ns, "eth0"), w.sniff(gr.ns, "eth0")
			fdb := func() string {
				return strings.Join(slices.Sorted(strings.Lines(run(t, v.ns, "bridge", "fdb", "show", "dev", network.VXLANName(n.UID)))), "")
			}
			before := fdb()
			good := frame6(c.MAC, b.MAC, c.IPv6, b.IPv6, noNext, nil)
			for _, a := range hostHits(n, b, c, v, member, redHost, stranger) {
				for i, f := range a.frames {
					what := fmt.Sprintf("%s, frame %d", a.name, i)
					id, drops := mark(), v.drops(a.comment)
					w.throw(a.at, a.outer.packets(vxlan(a.vni, append(slices.Clone(f), id...)))...)
					within(t, what, func() error {
						if k := v.drops(a.comment) - drops; k != 1 {
							return fmt.Errorf("%q: %d drops, want 1", a.comment, k)
						}
						return nil
					})
					// What is allowed, sent after it, has arrived.
					after := mark()
					w.throw(member, outer{from: member.vtep, to: v.vtep}.packets(vxlan(n.VNI, append(slices.Clone(good), after...)))...)
					within(t, what+": what is sent after it", func() error {
						if atB.count(after) == 0 {
							return fmt.Errorf("it has not arrived")
						}
						return nil
					})
					if atB.count(id)+atR.count(id) != 0 {
						t.Errorf("%s: a VM gets it", what)
					}
				}
			}
			if after := fdb(); after != before {
				t.Errorf("the forwarding table was\n%s and is\n%s", before, after)
			}
			w.reach(gb.ns, "b to c afterwards", c.IPv6)
			w.reach(gb.ns, "b to the outside afterwards", outside)
		})
	}
}

type hostHit struct {
	name, comment string
	at            *host // that sends
	outer         outer
	vni           uint32
	frames        [][]byte
}

func hostHits(n network.Network, b, c network.Endpoint, v, member, redHost, stranger *host) []hostHit {
	good := frame6(c.MAC, b.MAC, c.IPv6, b.IPv6, noNext, nil)
	// More than what a fragment of a VXLAN packet holds.
	long := frame6(c.MAC, b.MAC, c.IPv6, b.IPv6, noNext, make([]byte, 200))
	ll, none, all := linkLocal(c.MAC), netip.IPv6Unspecified(), netip.MustParseAddr("ff02::1")
	router6, gateway6 := netip.MustParseAddr("2001:db8:b1ae:1::1"), netip.MustParseAddr("2001:db8:b1ae:1::646")
	plain := func(h *host) outer { return outer{from: h.vtep, to: v.vtep} }
	inner := func(name, comment string, frames ...[]byte) hostHit {
		return hostHit{name: name, comment: comment, at: member, outer: plain(member), vni: n.VNI, frames: frames}
	}
	nd := func(src netip.Addr, m []byte) []byte { return frame6(c.MAC, allNodes, src, all, icmp6, m) }
	from := func(mac net.HardwareAddr) []byte { return frame6(mac, b.MAC, c.IPv6, b.IPv6, noNext, nil) }
	source := func(a netip.Addr) []byte { return frame6(c.MAC, b.MAC, a, b.IPv6, noNext, nil) }
	ra := nd(ll, advertisement(c.MAC))
	adv := advertisement(c.MAC)
	checksum6(ll, all, icmp6, adv, 2)
	return []hostHit{
		{name: "a host that carries nothing", comment: "VXLAN from a stranger", at: stranger, outer: plain(stranger), vni: n.VNI, frames: [][]byte{good, rarp(c.MAC, c.MAC), rarp(b.MAC, b.MAC)}},
		{name: "a host of another network", comment: "VXLAN from a stranger", at: redHost, outer: plain(redHost), vni: n.VNI, frames: [][]byte{good, rarp(c.MAC, c.MAC), rarp(b.MAC, b.MAC)}},
		{name: "a network that is not carried", comment: "VXLAN from a stranger", at: member, outer: plain(member), vni: 4711, frames: [][]byte{good}},
		{name: "as the victim itself", comment: "VXLAN from a stranger", at: stranger, outer: outer{from: v.vtep, to: v.vtep}, vni: n.VNI, frames: [][]byte{good}},
		{name: "behind other headers", comment: "VXLAN from a stranger", at: redHost, outer: outer{from: redHost.vtep, to: v.vtep, headers: extension(udp), next: destOpts}, vni: n.VNI, frames: [][]byte{good}},
		{name: "fragments", comment: "VXLAN in fragments", at: redHost, outer: outer{from: redHost.vtep, to: v.vtep, fragment: 64}, vni: n.VNI, frames: [][]byte{long}},
		{name: "a member's fragments", comment: "VXLAN in fragments", at: member, outer: outer{from: member.vtep, to: v.vtep, fragment: 8}, vni: n.VNI, frames: [][]byte{long}},
		{name: "fragments without UDP", comment: "upper layer out of sight", at: redHost, outer: outer{from: redHost.vtep, to: v.vtep, headers: extension(udp), next: destOpts, fragment: 8}, vni: n.VNI, frames: [][]byte{long}},
		inner("tags", "tagged, or neither IP nor ARP", tagged(ra, typeVLAN, 0), tagged(good, typeVLAN, 5), tagged(good, typeQinQ, 5, typeVLAN, 6), ether(allNodes, c.MAC, []int{0x88cc}, make([]byte, 46))),
		inner("the routers' MAC", "another host's router speaks", from(network.AnycastMAC)),
		inner("MACs", "unknown MAC from another host", from(network.GatewayMAC), from(net.HardwareAddr{2, 0, 0, 0, 0, 9}), from(net.HardwareAddr{2, 0x57, 0x47, 1, 2, 3}), from(net.HardwareAddr{2, 0x57, 0x46, 0, 0, 1})),
		inner("the MAC of a VM that runs here", "the MAC of a VM that runs here", from(b.MAC), rarp(b.MAC, b.MAC), arp(broadcast, b.MAC, 2, b.MAC, b.IPv4, b.MAC, b.IPv4)),
		inner("router", "acts as a router", ra, frame6(c.MAC, b.MAC, ll, b.IPv6, icmp6, redirect(c.IPv6, outside))),
		inner("router behind other headers", "neighbour discovery behind another header", frame6(c.MAC, allNodes, ll, all, destOpts, slices.Concat(extension(icmp6), adv)), frame6(c.MAC, allNodes, ll, all, fragment, slices.Concat(fragmentOf(icmp6, 0, false), adv))),
		inner("upper layer out of sight", "upper layer out of sight", frame6(c.MAC, allNodes, ll, all, fragment, slices.Concat(fragmentOf(destOpts, 0, true), extension(icmp6)))),
		inner("routers' business", "routers are each host's own", frame6(c.MAC, allRouters, ll, netip.MustParseAddr("ff02::2"), icmp6, []byte{133, 0, 0, 0, 0, 0, 0, 0}), nd(ll, solicit(network.RouterAddr, c.MAC)), nd(ll, solicit(router6, c.MAC))),
		inner("the router", "another host reaches for the router", frame6(c.MAC, network.AnycastMAC, c.IPv6, router6, udp, udpTo(99, 53, nil)), frame6(c.MAC, network.AnycastMAC, c.IPv6, v.vtep, udp, udpTo(99, 99, nil))),
		inner("DHCP", "acts as a DHCP server", frame6(c.MAC, b.MAC, ll, linkLocal(b.MAC), udp, udpTo(547, 546, nil)), frame4(c.MAC, b.MAC, c.IPv4, b.IPv4, udp, udpTo(67, 68, nil))),
		inner("answers", "answers for another", nd(ll, advertise(b.IPv6, c.MAC)), nd(ll, advertise(linkLocal(b.MAC), c.MAC)), nd(ll, advertise(network.RouterAddr, c.MAC)), nd(ll, advertise(gateway6, c.MAC))),
		inner("duplicate address detection", "takes another's address", nd(none, solicit(b.IPv6, nil)), nd(none, solicit(linkLocal(b.MAC), nil)), nd(none, solicit(gateway6, nil))),
		inner("IPv6 addresses", "another's IPv6 address", source(b.IPv6), source(linkLocal(b.MAC)), source(network.RouterAddr), source(network.GatewayAddr), source(router6), source(gateway6)),
		inner("sources", "source not in the network", source(netip.MustParseAddr("2001:db8:bad::1")), source(netip.MustParseAddr("2001:db8:b1ae:2::1")), source(v.vtep)),
		inner("IPv4 addresses", "another's IPv4 address", arp(broadcast, c.MAC, 2, c.MAC, b.IPv4, c.MAC, b.IPv4), arp(broadcast, c.MAC, 2, c.MAC, netip.MustParseAddr("10.64.0.1"), c.MAC, b.IPv4), frame4(c.MAC, b.MAC, b.IPv4, c.IPv4, noNext, nil)),
	}
}

// TestHostileHostAtAGateway has a host that carries network blue send what it must not to a gateway.
func TestHostileHostAtAGateway(t *testing.T) {
	const many = 2000
	w := newWorld(t, "h1", "g1")
	w.steer("g1", "g1")
	h, g, n := w.hosts["h1"], w.hosts["g1"], blue()
	a := endpoint(n, "a", 1, h)
	n.Endpoints = []network.Endpoint{a}
	w.everywhere(n, "h1", "g1")
	ga := w.plug(h, n, a)
	ga.slaac()
	w.reach(ga.ns, "before", outside)
	run(t, g.ns, "ip", "addr", "add", "192.0.2.1/24", "dev", "eth0")
	heard, out := w.serve(g), w.sniff(w.out, "eth0")
	gateway6 := netip.MustParseAddr("2001:db8:b1ae:1::646")
	routed := func(src, dst netip.Addr, next byte, payload []byte) []byte {
		return frame6(network.AnycastMAC, network.GatewayMAC, src, dst, next, payload)
	}
	inside := func(i int) netip.Addr { return addrIn(blueNet, i) }
	neighbours := func() int {
		return g.lines("ip", "-6", "neigh", "show", "nud", "all") + g.lines("ip", "-4", "neigh", "show", "nud", "all")
	}
	for _, c := range []struct {
		what, comment  string
		times, counted int
		frame          func(i int, id []byte) []byte // id: what it carries
	}{
		{"a source of another network", "source not in the network", 1, 1, func(_ int, id []byte) []byte {
			return routed(netip.MustParseAddr("2001:db8:b1ae:2::5"), outside, noNext, id)
		}},
		{"a source of the underlay", "source not in the network", 1, 1, func(_ int, id []byte) []byte { return routed(h.vtep, outside, noNext, id) }},
		{"a source of the world", "source not in the network", 1, 1, func(_ int, id []byte) []byte {
			return routed(netip.MustParseAddr("2001:db8:77::1"), outside, noNext, id)
		}},
		{"a source of another network, to the gateway", "source not in the network", 1, 1, func(_ int, id []byte) []byte {
			return routed(netip.MustParseAddr("2001:db8:b1ae:2::5"), gateway6, icmp6, echoTo(1))
		}},
		{"a service of the gateway", "VM reaches for the host", 1, 1, func(_ int, id []byte) []byte { return routed(a.IPv6, gateway6, udp, udpTo(99, 161, nil)) }},
		{"a service at its VTEP", "VM reaches for the host", 1, 1, func(_ int, id []byte) []byte { return routed(a.IPv6, g.vtep, udp, udpTo(99, 161, nil)) }},
		{"a host of the underlay", "VM reaches for the underlay", 1, 1, func(_ int, id []byte) []byte { return routed(a.IPv6, h.vtep, udp, udpTo(99, 161, nil)) }},
		{"ARP", "IPv4 is not routed", many, 1, func(i int, id []byte) []byte {
			if i == many-1 { // the one that is counted
				return frame4(network.AnycastMAC, network.GatewayMAC, a.IPv4, netip.MustParseAddr("192.0.2.9"), noNext, id)
			}
			return arp(broadcast, a.MAC, 1, a.MAC, netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}), make(net.HardwareAddr, 6), netip.MustParseAddr("192.0.2.1"))
		}},
		{"IPv4", "IPv4 is not routed", 1, 1, func(_ int, id []byte) []byte {
			return frame4(network.AnycastMAC, network.GatewayMAC, a.IPv4, netip.MustParseAddr("192.0.2.9"), noNext, id)
		}},
		{"neighbours", "gateways know their neighbours", many, many, func(i int, id []byte) []byte {
			return frame6(a.MAC, network.GatewayMAC, inside(i), gateway6, icmp6, solicit(gateway6, a.MAC))
		}},
		{"neighbours' answers", "gateways know their neighbours", 1, 1, func(i int, id []byte) []byte {
			return frame6(a.MAC, network.GatewayMAC, a.IPv6, gateway6, icmp6, advertise(a.IPv6, net.HardwareAddr{2, 0, 0, 0, 0, 7}))
		}},
		{"echoes", "no VM has this address", many, many, func(i int, id []byte) []byte { return routed(inside(many+i), gateway6, icmp6, echoTo(i)) }},
		{"scan", "no VM has this address", many, many, func(i int, id []byte) []byte { return routed(a.IPv6, inside(i), icmp6, echoTo(i)) }},
		{"MACs", "unknown MAC from another host", many, many, func(i int, id []byte) []byte {
			return frame6(binary.BigEndian.AppendUint32([]byte{2, 0}, uint32(i)), network.GatewayMAC, a.IPv6, gateway6, icmp6, echoTo(i))
		}},
	} {
		id, drops, before := mark(), g.drops(c.comment), neighbours()
		var packets [][]byte
		for i := range c.times {
			packets = append(packets, outer{from: h.vtep, to: anycast}.packets(vxlan(n.VNI, c.frame(i, id)))...)
		}
		w.throw(h, packets...)
		within(t, c.what, func() error {
			if k := g.drops(c.comment) - drops; k != c.counted {
				return fmt.Errorf("%q: %d drops, want %d", c.comment, k, c.counted)
			}
			return nil
		})
		if out.count(id) != 0 {
			t.Errorf("%s: it gets out", c.what)
		}
		if after := neighbours(); after > before+8 {
			t.Errorf("%s: %d neighbours, were %d", c.what, after, before)
		}
	}
	if k := heard.reached.Load(); k != 0 {
		t.Errorf("a service of the gateway was reached %d times", k)
	}
	if k := g.lines("bridge", "fdb", "show", "dev", network.VXLANName(n.UID)); k > 6 {
		t.Errorf("%d forwarding entries at the gateway", k)
	}
	w.reach(ga.ns, "afterwards", outside)
	w.reach(w.out, "from outside afterwards", a.IPv6)
}
