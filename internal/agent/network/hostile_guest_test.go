package network_test

import (
	"cmp"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"widecloud/internal/agent/network"
)

// den is a world with a VM that means ill.
type den struct {
	*world
	home, other, gateway *host // of the VM; of VM c; where packets leave
	blue, red            network.Network
	bad, b, c, r         *guest // b: at home, c: at the other host, r: at home on network red
}

func red() network.Network {
	n := blue()
	n.UID, n.Name, n.VNI, n.Prefix = "77e1-red", "red", 101, netip.MustParsePrefix("2001:db8:b1ae:2::/64")
	return n
}

// newDen makes a world of hosts: the first is the home, the second the other, the last the gateway.
func newDen(t *testing.T, hosts ...string) *den {
	t.Helper()
	d := &den{world: newWorld(t, hosts...), blue: blue(), red: red()}
	d.home, d.other, d.gateway = d.hosts[hosts[0]], d.hosts[hosts[1]], d.hosts[hosts[len(hosts)-1]]
	if d.home.role.Gateway {
		d.gateway = d.home
	}
	d.steer(d.gateway.name, d.gateway.name)
	bad, b, c := endpoint(d.blue, "bad", 1, d.home), endpoint(d.blue, "b", 2, d.home), endpoint(d.blue, "c", 3, d.other)
	d.blue.Endpoints = []network.Endpoint{bad, b, c}
	r := endpoint(d.red, "r", 4, d.home)
	d.red.Endpoints = []network.Endpoint{r}
	for _, name := range hosts {
		h := d.hosts[name]
		want := d.wantAmong(h, d.blue, hosts)
		want.Networks = append(want.Networks, d.wantAmong(h, d.red, hosts).Networks...)
		d.apply(h, want)
	}
	d.bad, d.b, d.c, d.r = d.plug(d.home, d.blue, bad), d.plug(d.home, d.blue, b), d.plug(d.other, d.blue, c), d.plug(d.home, d.red, r)
	for _, g := range []*guest{d.bad, d.b, d.c, d.r} {
		g.slaac()
	}
	return d
}

// homes are the kinds of hosts that a hostile guest may run on: one that leaves the way out to a gateway, one that is both.
var homes = [][]string{{"h1", "h2", "g1"}, {"b1", "h2"}}

// TestVMsMayNot has a VM that means ill send what it must not, frame by frame: no other VM gets it, and the rule that is meant for
// it counts it.
func TestVMsMayNot(t *testing.T) {
	for _, hosts := range homes {
		t.Run(strings.Join(hosts, ","), func(t *testing.T) {
			d := newDen(t, hosts...)
			victims := map[string]*sniffer{
				"VM at the same host": d.sniff(d.b.ns, "eth0"), "VM at the other host": d.sniff(d.c.ns, "eth0"), "VM of the other network": d.sniff(d.r.ns, "eth0"),
			}
			for _, a := range attacks(t, d) {
				for i, f := range a.frames {
					what := fmt.Sprintf("%s, frame %d", a.name, i)
					at := cmp.Or(a.at, d.home)
					id, before := mark(), at.drops(a.comment)
					d.bad.send(append(slices.Clone(f), id...))
					within(t, what, func() error {
						if k := at.drops(a.comment) - before; k != 1 {
							return fmt.Errorf("%q: %d drops, want 1", a.comment, k)
						}
						return nil
					})
					if a.quiet {
						continue
					}
					// What is allowed, sent after it, has arrived.
					after := mark()
					d.bad.send(frame6(d.bad.ep.MAC, d.b.ep.MAC, d.bad.ep.IPv6, d.b.ep.IPv6, noNext, after))
					d.bad.send(frame6(d.bad.ep.MAC, d.c.ep.MAC, d.bad.ep.IPv6, d.c.ep.IPv6, noNext, after))
					within(t, what+": what is sent after it", func() error {
						if victims["VM at the same host"].count(after) == 0 || victims["VM at the other host"].count(after) == 0 {
							return fmt.Errorf("not everywhere yet")
						}
						return nil
					})
					for name, s := range victims {
						if s.count(id) != 0 {
							t.Errorf("%s: the %s gets it", what, name)
						}
					}
				}
			}
			// All that did not keep the honest from talking.
			d.reach(d.b.ns, "b to c", d.c.ep.IPv6)
			d.reach(d.c.ns, "c to bad", d.bad.ep.IPv6)
			d.reach(d.b.ns, "b to the outside", outside)
		})
	}
}

// TestClaimsAreSeen: what a VM claims beside its own addresses is seen, and whether it may have it; nobody else is said to have it.
func TestClaimsAreSeen(t *testing.T) {
	d := newDen(t, homes[0]...)
	bad, b := d.bad.ep, d.b.ep
	addr := netip.MustParseAddr
	privacy, foreign, static := addr("2001:db8:b1ae:1:4321::7"), addr("2001:db8:bad::7"), addr("192.0.2.7")
	all, none := addr("ff02::1"), netip.IPv6Unspecified()
	claim := func(a netip.Addr) []byte { return frame6(bad.MAC, allNodes, none, all, icmp6, solicit(a, nil)) }
	d.bad.send(claim(privacy))
	d.bad.send(claim(foreign))
	d.bad.send(claim(b.IPv6))
	for _, a := range []netip.Addr{static, b.IPv4, bad.IPv4} {
		d.bad.send(arp(broadcast, bad.MAC, 1, bad.MAC, a, make(net.HardwareAddr, 6), b.IPv4))
	}
	within(t, "claims", func() error {
		return d.home.sees(d.blue, bad, "neighbour "+bad.IPv6.String(), "neighbour "+bad.IPv4.String(), "neighbour "+privacy.String(),
			"neighbour "+foreign.String()+" refused", "neighbour "+b.IPv6.String()+" refused",
			"neighbour "+static.String()+" refused", "neighbour "+b.IPv4.String()+" refused")
	})
	for what, of := range map[string]func() ([]network.Sighting, error){
		"the other VM":      func() ([]network.Sighting, error) { return d.home.d.Seen(t.Context(), d.blue.UID, b.MAC) },
		"the VM, elsewhere": func() ([]network.Sighting, error) { return d.other.d.Seen(t.Context(), d.blue.UID, bad.MAC) },
	} {
		seen, err := of()
		must(t, err)
		for _, s := range seen {
			if s.Refused || s.Addr != b.IPv6 && s.Addr != b.IPv4 {
				t.Errorf("%s was seen with %+v", what, s)
			}
		}
	}
}

type attack struct {
	name, comment string // comment: of the rule that drops it
	frames        [][]byte
	at            *host // where the rule is; nil: the VM's host
	quiet         bool  // only the counter is looked at
}

func attacks(t *testing.T, d *den) []attack {
	t.Helper()
	bad, b, c, r := d.bad.ep, d.b.ep, d.c.ep, d.r.ep
	ll, none := linkLocal(bad.MAC), netip.IPv6Unspecified()
	all, routers := netip.MustParseAddr("ff02::1"), netip.MustParseAddr("ff02::2")
	addr := netip.MustParseAddr
	router6, gateway6 := addr("2001:db8:b1ae:1::1"), addr("2001:db8:b1ae:1::646")
	nd := func(src netip.Addr, m []byte) []byte { return frame6(bad.MAC, allNodes, src, all, icmp6, m) }
	ra := nd(ll, advertisement(bad.MAC))
	behind := func(first byte, headers ...[]byte) []byte {
		return frame6(bad.MAC, allNodes, ll, all, first, slices.Concat(headers...))
	}
	adv := advertisement(bad.MAC)
	checksum6(ll, all, icmp6, adv, 2)
	from := func(mac net.HardwareAddr) []byte { return frame6(mac, b.MAC, ll, b.IPv6, noNext, nil) }
	source := func(a netip.Addr) []byte { return frame6(bad.MAC, b.MAC, a, b.IPv6, noNext, nil) }
	v4 := func(src netip.Addr, protocol byte, payload []byte) []byte {
		return frame4(bad.MAC, b.MAC, src, b.IPv4, protocol, payload)
	}
	mac := func(h *host, device string) net.HardwareAddr {
		l, err := h.ns.Link(device)
		must(t, err)
		return l.MAC
	}
	reserved := func(n byte) net.HardwareAddr { return net.HardwareAddr{1, 0x80, 0xc2, 0, 0, n} }
	own := arp(broadcast, bad.MAC, 1, bad.MAC, bad.IPv4, make(net.HardwareAddr, 6), b.IPv4)
	odd := func(at int, v byte) []byte { f := slices.Clone(own); f[14+at] = v; return f }
	return []attack{
		{name: "tags", comment: "tagged, or neither IP nor ARP", frames: [][]byte{
			tagged(ra, typeVLAN, 0), tagged(ra, typeVLAN, 5), tagged(ra, typeQinQ, 5, typeVLAN, 6), tagged(ra, typeVLAN, 0, typeVLAN, 0), tagged(ra, typeQinQ, 0),
			tagged(source(bad.IPv6), typeVLAN, 1), tagged(own, typeVLAN, 0),
		}},
		{name: "other kinds of frames", comment: "tagged, or neither IP nor ARP", frames: [][]byte{
			ether(allNodes, bad.MAC, []int{0x88cc}, make([]byte, 46)),                                                            // LLDP
			ether(net.HardwareAddr{1, 0x80, 0xc2, 0, 0, 0x0e}, b.MAC, []int{0x88cc}, make([]byte, 46)),                           // a bridge learns from what ends at it
			ether(allNodes, bad.MAC, []int{46}, slices.Concat([]byte{0xaa, 0xaa, 3, 0, 0, 0}, be16(typeIPv6), make([]byte, 38))), // SNAP
		}},
		{name: "frames that end at the bridge", comment: "for the bridge itself", frames: [][]byte{
			ether(reserved(2), b.MAC, []int{0x8809}, make([]byte, 46)), frame6(b.MAC, reserved(2), bad.IPv6, d.home.vtep, udp, udpTo(99, 99, nil)),
		}},
		{name: "router", comment: "acts as a router", frames: [][]byte{
			ra, frame6(bad.MAC, b.MAC, ll, b.IPv6, icmp6, redirect(bad.IPv6, outside)),
			nd(ll, []byte{138, 0, 0, 0, 0, 0, 0, 0}),                             // router renumbering
			v4(bad.IPv4, 1, []byte{5, 1, 0, 0, 10, 64, 1, 1}),                    // redirect (RFC 792)
			v4(bad.IPv4, 1, []byte{9, 0, 0, 0, 1, 2, 0, 30, 10, 64, 1, 1, 0, 0}), // router advertisement (RFC 1256)
		}},
		{name: "neighbour discovery behind headers", comment: "neighbour discovery behind another header", frames: [][]byte{
			behind(hopByHop, extension(icmp6), adv), behind(destOpts, extension(icmp6), adv), behind(destOpts, extension(destOpts), extension(icmp6), adv),
			behind(routing, []byte{icmp6, 0, 4, 0, 0, 0, 0, 0}, adv),
			behind(fragment, fragmentOf(icmp6, 0, false), adv), behind(fragment, fragmentOf(icmp6, 0, true), append(slices.Clone(adv), make([]byte, 32)...)),
			behind(fragment, fragmentOf(icmp6, 0, false), advertise(bad.IPv6, bad.MAC)),
		}},
		{name: "upper layer out of sight", comment: "upper layer out of sight", frames: [][]byte{
			behind(fragment, fragmentOf(icmp6, 0, true), adv),
			behind(fragment, fragmentOf(destOpts, 0, true), []byte{icmp6, 1, 1, 12, 0, 0, 0, 0}), // its second half is in the next fragment
			behind(fragment, fragmentOf(destOpts, 0, true), extension(icmp6), adv), behind(destOpts, extension(fragment), fragmentOf(icmp6, 0, true), adv),
			behind(fragment, fragmentOf(destOpts, 0, true), extension(icmp6)),
			// What is behind the packet's end is no part of it, but is there to be read: here an echo request.
			append(behind(fragment, fragmentOf(destOpts, 0, true), extension(icmp6)), echoTo(1)...),
			append(behind(fragment, fragmentOf(destOpts, 0, true), extension(udp)), udpTo(99, 99, make([]byte, 64))...),
			append(behind(fragment, fragmentOf(icmp6, 0, true)), append(echoTo(1), make([]byte, 64)...)...),
			behind(fragment, fragmentOf(destOpts, 0, true), extension(udp)),
			behind(fragment, fragmentOf(fragment, 0, true), fragmentOf(icmp6, 0, true)),
			behind(hip, extension(icmp6), adv), behind(140, extension(icmp6), adv), behind(253, extension(icmp6), adv), behind(254, extension(icmp6), adv),
		}},
		{name: "routers' MACs", comment: "VM claims to be a router", frames: [][]byte{
			from(network.AnycastMAC), from(network.GatewayMAC), from(net.HardwareAddr{2, 0x57, 0x47, 1, 2, 3}), from(net.HardwareAddr{2, 0x57, 0x46, 0, 0, 1}),
		}},
		{name: "MACs of others", comment: "another's MAC", frames: [][]byte{
			from(b.MAC), from(c.MAC), from(r.MAC), from(net.HardwareAddr{2, 0, 0, 0, 0, 9}),
			from(mac(d.home, network.VXLANName(d.blue.UID))), from(mac(d.home, d.bad.port)), from(mac(d.home, d.b.port)),
			rarp(b.MAC, b.MAC), rarp(c.MAC, c.MAC), arp(broadcast, b.MAC, 2, b.MAC, b.IPv4, b.MAC, b.IPv4),
		}},
		{name: "IPv6 addresses of others", comment: "another's IPv6 address", frames: [][]byte{
			source(c.IPv6), source(linkLocal(c.MAC)), source(network.RouterAddr), source(network.GatewayAddr), source(router6), source(gateway6), source(addr("2001:db8:b1ae:1::")),
			frame6(bad.MAC, c.MAC, b.IPv6, c.IPv6, noNext, nil), frame6(bad.MAC, c.MAC, linkLocal(b.MAC), c.IPv6, noNext, nil),
		}},
		{name: "answers", comment: "answers for another", frames: [][]byte{
			nd(ll, advertise(b.IPv6, bad.MAC)), nd(ll, advertise(c.IPv6, bad.MAC)), nd(ll, advertise(linkLocal(b.MAC), bad.MAC)), nd(ll, advertise(network.RouterAddr, bad.MAC)),
			nd(ll, advertise(router6, bad.MAC)), nd(ll, advertise(gateway6, bad.MAC)), nd(ll, advertise(network.GatewayAddr, bad.MAC)),
			frame6(bad.MAC, b.MAC, ll, b.IPv6, icmp6, advertise(linkLocal(c.MAC), bad.MAC)), nd(ll, advertise(addr("2001:db8:900::2"), bad.MAC)),
		}},
		{name: "duplicate address detection", comment: "takes another's address", frames: [][]byte{
			nd(none, solicit(b.IPv6, nil)), nd(none, solicit(linkLocal(b.MAC), nil)), nd(none, solicit(c.IPv6, nil)), nd(none, solicit(linkLocal(c.MAC), nil)),
			nd(none, solicit(network.RouterAddr, nil)), nd(none, solicit(gateway6, nil)), nd(none, solicit(network.GatewayAddr, nil)),
		}},
		{name: "sources", comment: "source not in the network", frames: [][]byte{
			source(addr("2001:db8:bad::1")), source(r.IPv6), source(addr("::1")), source(addr("::ffff:10.64.1.1")), source(all), source(none),
			nd(none, echoTo(1)), frame6(bad.MAC, allRouters, none, routers, udp, udpTo(546, 547, nil)), frame6(bad.MAC, b.MAC, d.home.vtep, b.IPv6, noNext, nil),
		}},
		{name: "DHCP server", comment: "acts as a DHCP server", frames: [][]byte{
			frame6(bad.MAC, b.MAC, ll, linkLocal(b.MAC), udp, udpTo(547, 546, nil)), frame6(bad.MAC, b.MAC, ll, linkLocal(b.MAC), udp, udpTo(1234, 546, nil)),
			frame6(bad.MAC, b.MAC, ll, linkLocal(b.MAC), destOpts, slices.Concat(extension(udp), udpTo(1234, 546, nil))),
			frame6(bad.MAC, b.MAC, ll, linkLocal(b.MAC), fragment, slices.Concat(fragmentOf(udp, 0, true), udpTo(547, 546, make([]byte, 64)))),
			v4(bad.IPv4, udp, udpTo(67, 68, nil)), v4(bad.IPv4, udp, udpTo(1234, 68, nil)), v4(bad.IPv4, udp, udpTo(67, 1234, nil)),
		}},
		{name: "ARP", comment: "another's IPv4 address", frames: [][]byte{
			arp(broadcast, bad.MAC, 2, bad.MAC, b.IPv4, bad.MAC, b.IPv4), arp(broadcast, bad.MAC, 1, bad.MAC, b.IPv4, bad.MAC, c.IPv4), arp(b.MAC, bad.MAC, 2, bad.MAC, c.IPv4, b.MAC, b.IPv4),
			arp(broadcast, bad.MAC, 1, bad.MAC, addr("192.0.2.1"), bad.MAC, b.IPv4), arp(broadcast, bad.MAC, 2, bad.MAC, addr("10.64.0.1"), bad.MAC, addr("10.64.0.1")),
			arp(broadcast, bad.MAC, 1, b.MAC, bad.IPv4, bad.MAC, b.IPv4),                            // a MAC inside that is not the sender's
			arp(broadcast, bad.MAC, 1, bad.MAC, addr("0.0.0.0"), make(net.HardwareAddr, 6), b.IPv4), // a probe (RFC 5227) of another's
			odd(1, 6), odd(2, 9), odd(4, 8), odd(5, 16), odd(7, 3), ether(broadcast, bad.MAC, []int{typeARP}, []byte{0, 1, 8, 0, 6, 4, 0, 1}), odd(7, 9), // no ARP of Ethernet and IPv4
		}},
		{name: "IPv4 sources", comment: "IPv4 source not its own", frames: [][]byte{
			v4(c.IPv4, noNext, nil), v4(addr("10.64.0.1"), udp, udpTo(53, 99, nil)), v4(addr("192.0.2.1"), noNext, nil), v4(addr("0.0.0.0"), noNext, nil),
			v4(addr("0.0.0.0"), udp, udpTo(68, 69, nil)), v4(addr("255.255.255.255"), noNext, nil),
		}},
		{name: "IPv4 to the router", comment: "IPv4 is not routed", frames: [][]byte{
			frame4(bad.MAC, network.AnycastMAC, bad.IPv4, addr("192.0.2.9"), udp, udpTo(99, 99, nil)), frame4(bad.MAC, network.GatewayMAC, bad.IPv4, addr("192.0.2.9"), tcp, make([]byte, 20)),
			frame4(bad.MAC, network.AnycastMAC, bad.IPv4, addr("10.64.0.1"), 1, []byte{8, 0, 0xf7, 0xff, 0, 0, 0, 0}),
		}},
		{name: "VXLAN", comment: "VM makes VXLAN", at: d.gateway, quiet: true, frames: [][]byte{
			frame6(bad.MAC, network.AnycastMAC, bad.IPv6, outside, udp, udpTo(99, 4789, vxlan(100, ra))),
		}},
		{name: "the host's underlay address", comment: "VM reaches for the host", quiet: true, frames: [][]byte{
			frame6(bad.MAC, network.AnycastMAC, bad.IPv6, d.home.vtep, udp, udpTo(99, 99, nil)), frame6(bad.MAC, network.AnycastMAC, bad.IPv6, d.home.vtep, icmp6, echoTo(1)),
			frame6(bad.MAC, reserved(14), bad.IPv6, d.home.vtep, udp, udpTo(99, 99, nil)),
			frame6(bad.MAC, network.AnycastMAC, bad.IPv6, router6, udp, udpTo(99, 179, nil)), frame6(bad.MAC, network.AnycastMAC, bad.IPv6, addr("2001:db8:b1ae:2::1"), udp, udpTo(99, 53, nil)),
		}},
	}
}
