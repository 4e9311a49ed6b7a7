package network_test

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"widecloud/internal/agent/network"
)

// many makes n frames, each by its number.
func many(n int, frame func(i int) []byte) (out [][]byte) {
	for i := range n {
		out = append(out, frame(i))
	}
	return out
}

// addrIn is the i-th of many addresses of a /64 that nobody has.
func addrIn(p netip.Prefix, i int) netip.Addr {
	a := p.Addr().As16()
	a[8] = 0x66
	binary.BigEndian.PutUint32(a[12:], uint32(i+1))
	return netip.AddrFrom16(a)
}

// lines counts those that a command prints.
func (h *host) lines(args ...string) int {
	h.w.t.Helper()
	return strings.Count(run(h.w.t, h.ns, args...), "\n")
}

// TestHostileGuestFillsNothing: however much a VM sends, no table of its host, of another host or of a gateway grows by more than
// what is one VM's, and other VMs are not drowned.
func TestHostileGuestFillsNothing(t *testing.T) {
	const n = 2000 // more than the kernel's neighbour table holds (gc_thresh3 is 1024)
	for _, hosts := range homes {
		t.Run(strings.Join(hosts, ","), func(t *testing.T) {
			d := newDen(t, hosts...)
			bad, b, c := d.bad.ep, d.b.ep, d.c.ep
			atB, atC := d.sniff(d.b.ns, "eth0"), d.sniff(d.c.ns, "eth0")
			br, vx := network.BridgeName(d.blue.UID), network.VXLANName(d.blue.UID)
			link := netip.MustParsePrefix("fe80::/64")
			all, gateway6, router6 := netip.MustParseAddr("ff02::1"), netip.MustParseAddr("2001:db8:b1ae:1::646"), netip.MustParseAddr("2001:db8:b1ae:1::1")
			mac := func(i int) net.HardwareAddr { return binary.BigEndian.AppendUint32([]byte{2, 0}, uint32(i)) }
			tables := map[string]func() int{
				"bridge's MACs":             func() int { return d.home.lines("bridge", "fdb", "show", "br", br) },
				"other host's VXLAN":        func() int { return d.other.lines("bridge", "fdb", "show", "dev", vx) },
				"host's neighbours":         func() int { return d.home.lines("ip", "-6", "neigh", "show", "nud", "all") },
				"gateway's neighbours":      func() int { return d.gateway.lines("ip", "-6", "neigh", "show", "nud", "all") },
				"other host's neighbours":   func() int { return d.other.lines("ip", "-6", "neigh", "show", "nud", "all") },
				"neighbours of a VM":        func() int { return strings.Count(d.b.run("ip", "-6", "neigh", "show", "nud", "all"), "\n") },
				"neighbours of a VM beyond": func() int { return strings.Count(d.c.run("ip", "-6", "neigh", "show", "nud", "all"), "\n") },
				"addresses seen":            func() int { return strings.Count(run(t, d.home.ns, "nft", "list", "ruleset"), "expires") },
			}
			size := map[string]int{}
			for name, of := range tables {
				size[name] = of()
			}
			const some = 40 // what one VM may add
			for _, flood := range []struct {
				what, comment string
				at            *host // of the rule
				least         int   // of n frames are dropped
				frames        [][]byte
				atB, atC      int // frames that a VM gets, at most
			}{
				{"MACs", "another's MAC", d.home, n, many(n, func(i int) []byte { return frame6(mac(i), b.MAC, bad.IPv6, b.IPv6, noNext, nil) }), 0, 0},
				{"MACs in frames that end at the bridge", "for the bridge itself", d.home, n, many(n, func(i int) []byte {
					return ether(net.HardwareAddr{1, 0x80, 0xc2, 0, 0, 2}, mac(i), []int{0x8809}, make([]byte, 46))
				}), 0, 0},
				{"unicast to nobody", "for another's plug", d.home, n, many(n, func(i int) []byte { return frame6(bad.MAC, mac(i), bad.IPv6, b.IPv6, noNext, nil) }), 0, 0},
				{"unicast to nobody, beyond", "for nobody", d.home, n, many(n, func(i int) []byte { return frame6(bad.MAC, mac(i), bad.IPv6, c.IPv6, noNext, nil) }), 0, 0},
				{"multicast", "VM floods", d.home, n / 2, many(2*n, func(i int) []byte { return frame6(bad.MAC, allNodes, bad.IPv6, all, noNext, nil) }), 2 * n, 2 * n},
				{"broadcast", "VM floods", d.home, n / 2, many(2*n, func(i int) []byte {
					return arp(broadcast, bad.MAC, 1, bad.MAC, bad.IPv4, make(net.HardwareAddr, 6), b.IPv4)
				}), 2 * n, 2 * n},
				{"sources, link-local, at a VM", "VM takes too many addresses", d.home, n - some, many(n, func(i int) []byte {
					return frame6(bad.MAC, b.MAC, addrIn(link, i), b.IPv6, icmp6, solicit(b.IPv6, bad.MAC))
				}), some, some},
				{"sources at a VM beyond", "VM takes too many addresses", d.home, n - some, many(n, func(i int) []byte {
					return frame6(bad.MAC, c.MAC, addrIn(link, n+i), c.IPv6, icmp6, solicit(c.IPv6, bad.MAC))
				}), some, some},
				{"sources at the router", "VM takes too many addresses", d.home, n - some, many(n, func(i int) []byte {
					return frame6(bad.MAC, network.AnycastMAC, addrIn(link, 2*n+i), network.RouterAddr, icmp6, solicit(network.RouterAddr, bad.MAC))
				}), 0, 0},
				{"questions to the router", "VM takes too many addresses", d.home, n - some, many(n, func(i int) []byte {
					return frame6(bad.MAC, network.AnycastMAC, addrIn(blueNet, i), router6, icmp6, echoTo(i))
				}), 0, 0},
				{"questions to the gateway", "VM takes too many addresses", d.home, n - some, many(n, func(i int) []byte {
					return frame6(bad.MAC, network.GatewayMAC, addrIn(blueNet, n+i), gateway6, icmp6, echoTo(i))
				}), some, some},
				{"answers", "VM takes too many addresses", d.home, n - some, many(n, func(i int) []byte {
					return frame6(bad.MAC, b.MAC, bad.IPv6, b.IPv6, icmp6, advertise(addrIn(blueNet, 2*n+i), bad.MAC))
				}), some, some},
				{"duplicate address detection", "VM takes too many addresses", d.home, 100, many(n, func(i int) []byte {
					return frame6(bad.MAC, allNodes, netip.IPv6Unspecified(), all, icmp6, solicit(addrIn(blueNet, 3*n+i), nil))
				}), some, some},
				{"scan by the router", "no VM has this address", d.gateway, n, many(n, func(i int) []byte {
					return frame6(bad.MAC, network.AnycastMAC, bad.IPv6, addrIn(blueNet, i), icmp6, echoTo(i))
				}), 0, 0},
				{"scan by the gateway", "no VM has this address", d.gateway, n, many(n, func(i int) []byte {
					return frame6(bad.MAC, network.GatewayMAC, bad.IPv6, addrIn(blueNet, i), icmp6, echoTo(i))
				}), 0, 0},
			} {
				id, before := mark(), flood.at.drops(flood.comment)
				for i, f := range flood.frames {
					flood.frames[i] = append(slices.Clone(f), id...)
				}
				sendFrames(t, d.bad.ns, "eth0", flood.frames...)
				within(t, flood.what, func() error {
					if k := flood.at.drops(flood.comment) - before; k < flood.least {
						return fmt.Errorf("%q: %d drops, want %d", flood.comment, k, flood.least)
					}
					return nil
				})
				if k := atB.count(id); k > flood.atB {
					t.Errorf("%s: the VM at the same host gets %d frames", flood.what, k)
				}
				if k := atC.count(id); k > flood.atC {
					t.Errorf("%s: the VM at the other host gets %d frames", flood.what, k)
				}
				for name, of := range tables {
					if k := of(); k > size[name]+2*some {
						t.Errorf("%s: %s are %d, were %d", flood.what, name, k, size[name])
						size[name] = k
					}
				}
			}
			// From outside, too.
			id := mark()
			router, err := d.router.Link("r-out")
			must(t, err)
			before := d.gateway.drops("no VM has this address")
			out, err := d.out.Link("eth0")
			must(t, err)
			sendFrames(t, d.out, "eth0", many(n, func(i int) []byte {
				return append(frame6(out.MAC, router.MAC, outside, addrIn(blueNet, i), icmp6, echoTo(i)), id...)
			})...)
			within(t, "scan from outside", func() error {
				if k := d.gateway.drops("no VM has this address") - before; k < n {
					return fmt.Errorf("%d drops, want %d", k, n)
				}
				return nil
			})
			for name, of := range tables {
				if k := of(); k > size[name]+2*some {
					t.Errorf("scan from outside: %s are %d, were %d", name, k, size[name])
				}
			}
			// The others have what is theirs.
			privacy := netip.MustParsePrefix("2001:db8:b1ae:1:4321::1/64")
			must(t, d.b.ns.AddAddr("eth0", privacy))
			d.reach(d.c.ns, "another address of another VM", privacy.Addr())
			d.reach(d.out, "another VM from outside", b.IPv6)
			within(t, "the address of the other VM is seen", func() error {
				return d.home.sees(d.blue, d.b.ep, "neighbour "+privacy.Addr().String())
			})
		})
	}
}

// TestFloodLimitIsByPlug: what a VM may send of multicast is what passes, frames that it sends later pass again, and another VM is not
// held back.
func TestFloodLimitIsByPlug(t *testing.T) {
	d := newDen(t, "h1", "h2", "g1")
	atC, atR := d.sniff(d.c.ns, "eth0"), d.sniff(d.r.ns, "eth0")
	id := mark()
	flood := many(3000, func(i int) []byte {
		return append(frame6(d.bad.ep.MAC, allNodes, d.bad.ep.IPv6, netip.MustParseAddr("ff02::1"), noNext, nil), id...)
	})
	start := time.Now()
	sendFrames(t, d.bad.ns, "eth0", flood...)
	within(t, "flood", func() error {
		if d.home.drops("VM floods")+atC.count(id) < len(flood) {
			return fmt.Errorf("%d dropped, %d passed", d.home.drops("VM floods"), atC.count(id))
		}
		return nil
	})
	if k, most := atC.count(id), 600+int(300*time.Since(start).Seconds())+1; k > most || k < 300 {
		t.Errorf("%d of %d passed, want 300 to %d", k, len(flood), most)
	}
	if k := atR.count(id); k != 0 {
		t.Errorf("%d passed to another network", k)
	}
	other := mark()
	sendFrames(t, d.b.ns, "eth0", append(frame6(d.b.ep.MAC, allNodes, d.b.ep.IPv6, netip.MustParseAddr("ff02::1"), noNext, nil), other...))
	within(t, "another VM's multicast", func() error {
		if atC.count(other) != 1 {
			return fmt.Errorf("it has arrived %d times", atC.count(other))
		}
		return nil
	})
	within(t, "the VM's multicast later", func() error {
		later := mark()
		sendFrames(t, d.bad.ns, "eth0", append(frame6(d.bad.ep.MAC, allNodes, d.bad.ep.IPv6, netip.MustParseAddr("ff02::1"), noNext, nil), later...))
		time.Sleep(10 * time.Millisecond)
		if atC.count(later) != 1 {
			return fmt.Errorf("it does not arrive")
		}
		return nil
	})
}
