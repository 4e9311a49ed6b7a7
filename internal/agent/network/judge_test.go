package network_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"widecloud/internal/agent/network"
	"widecloud/internal/netio"
)

// twoNetworks is a want of h: network blue with VMs a and b, network red with VM r, each here and at another host.
func twoNetworks(h *host) network.Want {
	n, r := blue(), red()
	n.Endpoints = []network.Endpoint{endpoint(n, "a", 1, h), endpoint(n, "b", 2, h)}
	r.Endpoints = []network.Endpoint{endpoint(r, "r", 4, h)}
	n.Flood, r.Flood = []netip.Addr{netip.MustParseAddr("2001:db8:77::2")}, []netip.Addr{netip.MustParseAddr("2001:db8:77::2")}
	return network.Want{VTEP: h.vtep, Role: h.role, AnycastVTEP: anycast, Networks: []network.Network{n, r}}
}

// clone copies what tests change.
func clone(w network.Want) network.Want {
	w.Networks = slices.Clone(w.Networks)
	for i := range w.Networks {
		w.Networks[i].Flood = slices.Clone(w.Networks[i].Flood)
		w.Networks[i].Endpoints = slices.Clone(w.Networks[i].Endpoints)
	}
	return w
}

// carries tells which of the networks the host has a bridge for.
func (h *host) carries(networks ...network.Network) (names []string) {
	h.w.t.Helper()
	links, err := h.ns.Links()
	must(h.w.t, err)
	for _, n := range networks {
		there := slices.ContainsFunc(links, func(l netio.Link) bool { return l.Name == network.BridgeName(n.UID) })
		if there {
			names = append(names, n.Name)
		}
		if told := h.d.Bridge(n.UID); (told != "") != there {
			h.w.t.Errorf("Bridge of network %s = %q, it is there: %v", n.Name, told, there)
		}
	}
	return names
}

// TestOneBadNetworkHarmsNoOther: a network, endpoint or tunnel end point that is bad is left out alone, and named. Where its network
// was carried before, the network stays.
func TestOneBadNetworkHarmsNoOther(t *testing.T) {
	addr, prefix := netip.MustParseAddr, netip.MustParsePrefix
	at := func(f func(n *network.Network)) func(*network.Want) {
		return func(w *network.Want) { f(&w.Networks[0]) }
	}
	// second has blue come after red, in whose prefix a tunnel end point cannot be then.
	second := func(f func(n *network.Network)) func(*network.Want) {
		return func(w *network.Want) { f(&w.Networks[0]); slices.Reverse(w.Networks) }
	}
	end := func(f func(e *network.Endpoint)) func(*network.Want) {
		return at(func(n *network.Network) { f(&n.Endpoints[0]) })
	}
	for _, c := range []struct {
		err     string // of network blue: how it begins
		spoil   func(*network.Want)
		carried bool     // also where it is new
		lacks   []string // what of it is not there then: an address or MAC in the kernel's tables
	}{
		{err: "name: ", spoil: at(func(n *network.Network) { n.Name = "blue\nport=53" })},
		{err: "vni: 0", spoil: at(func(n *network.Network) { n.VNI = 0 })},
		{err: "vni: 16777216", spoil: at(func(n *network.Network) { n.VNI = 1 << 24 })},
		{err: "prefix: ", spoil: at(func(n *network.Network) { n.Prefix = prefix("2001:db8::/48") })},
		{err: "prefix: ", spoil: at(func(n *network.Network) { n.Prefix = netip.Prefix{} })},
		{err: "prefix: fe80::/64", spoil: at(func(n *network.Network) { n.Prefix = prefix("fe80::/64") })},
		{err: "prefix: ff02::/64", spoil: at(func(n *network.Network) { n.Prefix = prefix("ff02::/64") })},
		{err: "prefix: ::/64", spoil: at(func(n *network.Network) { n.Prefix = prefix("::/64") })},
		{err: "ipv4: ", spoil: at(func(n *network.Network) { n.IPv4 = prefix("10.0.0.1/16") })},
		{err: "ipv4: ", spoil: at(func(n *network.Network) { n.IPv4 = prefix("127.0.0.0/16") })},
		{err: "mobility: \"lisp\"", spoil: at(func(n *network.Network) { n.Mobility = "lisp" })},
		{err: "mtu: ", spoil: at(func(n *network.Network) { n.MTU = 1279 })},
		// It would take something away from the host.
		{err: "prefix: 2001:db8:1::/64 overlaps 2001:db8:1::2/128, this host's VTEP", spoil: at(func(n *network.Network) {
			n.Prefix, n.Endpoints = prefix("2001:db8:1::/64"), nil
		})},
		{err: "prefix: 2001:db8:fff::/64 overlaps 2001:db8:fff::646/128, the gateways' VTEP", spoil: at(func(n *network.Network) { n.Prefix = prefix("2001:db8:fff::/64") })},
		{err: "prefix: 2001:db8:acc::/64 overlaps 2001:db8:acc::7/128, an address of this host on lo", spoil: at(func(n *network.Network) { n.Prefix = prefix("2001:db8:acc::/64") })},
		{err: "ipv4: 192.0.2.0/24 overlaps 192.0.2.7/32, an address of this host on lo", spoil: at(func(n *network.Network) { n.IPv4 = prefix("192.0.2.0/24") })},
		{err: "prefix: 2001:db8:c0:1::/64 overlaps 2001:db8:c0::/48, which is reserved", spoil: func(w *network.Want) {
			w.Networks[0].Prefix, w.Reserved = prefix("2001:db8:c0:1::/64"), []netip.Prefix{prefix("2001:db8:c0::/48")}
		}},
		{err: "prefix: 2001:db8:c0:1::/64 overlaps 2001:db8:c0:1::5/128, which is reserved", spoil: func(w *network.Want) {
			w.Networks[0].Prefix, w.Reserved = prefix("2001:db8:c0:1::/64"), []netip.Prefix{prefix("2001:db8:c0:1::5/128")}
		}},
		{err: "ipv4: 198.51.100.0/24 overlaps 198.51.100.7/32, which is reserved", spoil: func(w *network.Want) {
			w.Networks[0].IPv4, w.Reserved = prefix("198.51.100.0/24"), []netip.Prefix{prefix("198.51.100.7/32")}
		}},
		{err: "prefix: 2001:db8:77::/64 contains 2001:db8:77::2, the tunnel end point of a host that carries the network", spoil: at(func(n *network.Network) { n.Prefix = prefix("2001:db8:77::/64") })},
		{err: "prefix: 2001:db8:78::/64 contains 2001:db8:78::2, the tunnel end point of a host that carries the network", spoil: at(func(n *network.Network) {
			n.Prefix, n.Endpoints[0].VTEP = prefix("2001:db8:78::/64"), addr("2001:db8:78::2")
		})},
		// What is bad is a part of it.
		{err: "nothing is sent there: flood[0]: ", spoil: at(func(n *network.Network) { n.Flood[0] = addr("ff02::1") }), carried: true, lacks: []string{"ff02::1 "}},
		{err: "nothing is sent there: flood[1]: ", spoil: second(func(n *network.Network) { n.Flood = append(n.Flood, addr("2001:db8:b1ae:2::2")) }), carried: true, lacks: []string{"2001:db8:b1ae:2::2"}},
		{err: "VM a is left out: endpoints[0].mac: ", spoil: end(func(e *network.Endpoint) { e.MAC = network.AnycastMAC }), carried: true},
		{err: "VM a is left out: endpoints[0].mac: ", spoil: end(func(e *network.Endpoint) { e.MAC = net.HardwareAddr{2, 0x57, 0x47, 0, 0, 1} }), carried: true, lacks: []string{"02:57:47:00:00:01"}},
		{err: "VM a is left out: endpoints[0].mac: ", spoil: end(func(e *network.Endpoint) { e.MAC = net.HardwareAddr{0xfe, 0x57, 0x43, 0, 0, 1} }), carried: true, lacks: []string{"fe:57:43:00:00:01"}},
		{err: "VM a is left out: endpoints[0].mac: ", spoil: end(func(e *network.Endpoint) { e.MAC = net.HardwareAddr{3, 0, 0, 0, 0, 1} }), carried: true, lacks: []string{"03:00:00:00:00:01"}},
		{err: "VM a is left out: endpoints[0].mac: ", spoil: end(func(e *network.Endpoint) { e.MAC = nil }), carried: true},
		{err: "VM a is left out: endpoints[0].ipv6: ", spoil: end(func(e *network.Endpoint) { e.IPv6 = outside }), carried: true, lacks: []string{"02:57:43:64:10:01"}},
		{err: "VM a is left out: endpoints[0].ipv6: ", spoil: end(func(e *network.Endpoint) { e.IPv6 = addr("2001:db8:b1ae:1::646") }), carried: true, lacks: []string{"02:57:43:64:10:01"}},
		{err: "VM a is left out: endpoints[0].ipv4: ", spoil: end(func(e *network.Endpoint) { e.IPv4 = addr("10.64.0.1") }), carried: true, lacks: []string{"02:57:43:64:10:01"}},
		{err: "VM a is left out: endpoints[0].vtep: ", spoil: end(func(e *network.Endpoint) { e.VTEP = addr("fe80::1") }), carried: true, lacks: []string{"02:57:43:64:10:01"}},
		{err: "VM a is left out: endpoints[0].vtep: ", spoil: second(func(n *network.Network) { n.Endpoints[0].VTEP = addr("2001:db8:b1ae:2::7") }), carried: true, lacks: []string{"02:57:43:64:10:01", "2001:db8:b1ae:2::7"}},
		{err: "VM a is left out: endpoints[0].hostname: ", spoil: end(func(e *network.Endpoint) { e.Hostname = "a,b" }), carried: true, lacks: []string{"02:57:43:64:10:01"}},
		{err: "VM b is left out: endpoints[1].mac: ", spoil: end(func(e *network.Endpoint) { e.MAC = net.HardwareAddr{0x06, 0x57, 0x43, 100, 0x10, 2} }), carried: true, lacks: []string{"02:57:43:64:10:02"}},
		{err: "VM b is left out: endpoints[1].ipv6: ", spoil: end(func(e *network.Endpoint) { e.IPv6 = addr("2001:db8:b1ae:1:57:43ff:fe64:1002") }), carried: true, lacks: []string{"02:57:43:64:10:02"}},
	} {
		t.Run(c.err, func(t *testing.T) {
			w := newWorld(t, "h1")
			h := w.hosts["h1"]
			must(t, h.ns.AddAddr("lo", prefix("2001:db8:acc::7/128")), h.ns.AddAddr("lo", prefix("192.0.2.7/32")))
			good := twoNetworks(h)
			bad := clone(good)
			c.spoil(&bad)
			apply := func(carried bool) {
				t.Helper()
				faults, rest := network.NetworkErrors(h.d.Apply(t.Context(), bad))
				if rest != nil || len(faults) != 1 {
					t.Fatalf("faults of networks %v, of the host %v", faults, rest)
				}
				f := faults[0]
				if f.UID != good.Networks[0].UID || !strings.HasPrefix(f.Name, "blue") || f.Carried != carried {
					t.Errorf("fault of %q %q, carried: %v, want carried: %v", f.UID, f.Name, f.Carried, carried)
				}
				if text := strings.TrimPrefix(f.Err.Error(), "it stays as it was before: "); !strings.HasPrefix(text, c.err) {
					t.Errorf("%q, want %q", text, c.err)
				}
			}
			apply(c.carried)
			if got, want := h.carries(good.Networks...), map[bool][]string{true: {"blue", "red"}, false: {"red"}}[c.carried]; !cmp.Equal(got, want) {
				t.Errorf("new: the host carries %v, want %v", got, want)
			}
			state := run(t, h.ns, "bridge", "fdb") + run(t, h.ns, "nft", "list", "ruleset")
			for _, lack := range c.lacks {
				if strings.Contains(state, lack) {
					t.Errorf("%s is in the tables", lack)
				}
			}
			w.apply(h, good)
			if got := h.carries(good.Networks...); !cmp.Equal(got, []string{"blue", "red"}) {
				t.Errorf("good: the host carries %v", got)
			}
			before := settled(h.snapshot())
			apply(true)
			must(t, h.d.Close(t.Context()))
			h.start() // what was carried is known over a restart
			apply(true)
			if got := h.carries(good.Networks...); !cmp.Equal(got, []string{"blue", "red"}) {
				t.Errorf("good before: the host carries %v", got)
			}
			if diff := cmp.Diff(before, settled(h.snapshot())); diff != "" && !c.carried {
				t.Errorf("good before (-before +after):\n%s", diff)
			}
		})
	}
}

// TestNetworksThatClash: of two networks that exclude each other the one that is carried stays; of new ones the first is carried.
func TestNetworksThatClash(t *testing.T) {
	w := newWorld(t, "h1")
	h := w.hosts["h1"]
	good := twoNetworks(h)
	n, r := good.Networks[0], good.Networks[1]
	for what, spoil := range map[string]func(r *network.Network){
		"vni: 100 is that of network blue too": func(r *network.Network) { r.VNI = n.VNI },
		"prefix: 2001:db8:b1ae:1::/64 overlaps 2001:db8:b1ae:1::/64 of network blue": func(r *network.Network) {
			r.Prefix, r.Endpoints = n.Prefix, nil
		},
		"prefix: 2001:db8:77::/64 contains 2001:db8:77::2, the tunnel end point of a host that carries network blue": func(r *network.Network) {
			r.Prefix, r.Flood, r.Endpoints = netip.MustParsePrefix("2001:db8:77::/64"), nil, nil
		},
	} {
		bad := clone(good)
		spoil(&bad.Networks[1])
		other := clone(bad)
		slices.Reverse(other.Networks)
		expect := func(step string, w network.Want, carried []string, faulty string, still bool) {
			t.Helper()
			faults, rest := network.NetworkErrors(h.d.Apply(t.Context(), w))
			if rest != nil || len(faults) != 1 || faults[0].Name != faulty || faults[0].Carried != still {
				t.Errorf("%s, %s: faults %v, %v, want one of %s", what, step, faults, rest, faulty)
			}
			if got := h.carries(n, r); !cmp.Equal(got, carried) {
				t.Errorf("%s, %s: the host carries %v, want %v", what, step, got, carried)
			}
			if len(faults) == 1 && faulty == "red" && !still && !strings.Contains(faults[0].Error(), what) {
				t.Errorf("%s, %s: %v", what, step, faults[0])
			}
		}
		expect("both new", bad, []string{"blue"}, "red", false)
		expect("blue carried, red first", other, []string{"blue"}, "red", false)
		must(t, h.d.Close(t.Context()))
		h.start()
		expect("after a restart", other, []string{"blue"}, "red", false)
		w.apply(h, good)
		expect("red changes", other, []string{"blue", "red"}, "red", true)
		if out := run(t, h.ns, "ip", "-d", "link", "show", network.VXLANName(r.UID)); !strings.Contains(out, "vxlan id 101 ") {
			t.Errorf("%s: red does not stay as it was: %s", what, out)
		}
		w.apply(h, network.Want{VTEP: h.vtep, Role: h.role, AnycastVTEP: anycast})
		if strings.HasPrefix(what, "prefix: 2001:db8:77") {
			continue // there the other one is carried with all but the tunnel end point
		}
		expect("both new, red first", other, []string{"red"}, "blue", false)
		w.apply(h, network.Want{VTEP: h.vtep, Role: h.role, AnycastVTEP: anycast})
	}
	twice := clone(good)
	twice.Networks = append(twice.Networks, twice.Networks[0])
	twice.Networks[2].VNI = 4711
	faults, rest := network.NetworkErrors(h.d.Apply(t.Context(), twice))
	if rest != nil || len(faults) != 1 || !strings.Contains(faults[0].Error(), "uid: ") || !cmp.Equal(h.carries(n, r), []string{"blue", "red"}) {
		t.Errorf("one UID twice: %v %v", faults, rest)
	}
}

// TestWhatIsReservedLaterIsGivenBack: a network that takes an address of the controller away must go, or no order to remove it would
// arrive.
func TestWhatIsReservedLaterIsGivenBack(t *testing.T) {
	w := newWorld(t, "h1")
	h := w.hosts["h1"]
	want := twoNetworks(h)
	w.apply(h, want)
	want.Reserved = []netip.Prefix{netip.PrefixFrom(want.Networks[0].Prefix.Addr().Next(), 128)}
	err := h.d.Apply(t.Context(), want)
	var fault *network.NetworkError
	if !errors.As(err, &fault) || fault.Carried || fault.Name != "blue" {
		t.Errorf("Apply: %v", err)
	}
	if got := h.carries(want.Networks...); !cmp.Equal(got, []string{"red"}) {
		t.Errorf("the host carries %v", got)
	}
}

// TestFaultsOfTheHostChangeNothing: what is wrong with the host itself is no network's fault.
func TestFaultsOfTheHostChangeNothing(t *testing.T) {
	w := newWorld(t, "h1")
	h := w.hosts["h1"]
	want := twoNetworks(h)
	w.apply(h, want)
	before := h.snapshot()
	bad := clone(want)
	bad.AnycastVTEP, bad.Networks = bad.VTEP, nil
	faults, rest := network.NetworkErrors(h.d.Apply(context.Background(), bad))
	if len(faults) != 0 || rest == nil || !strings.Contains(fmt.Sprint(rest), "anycast_vtep: ") {
		t.Errorf("faults %v, rest %v", faults, rest)
	}
	if diff := cmp.Diff(before, h.snapshot()); diff != "" {
		t.Errorf("(-before +after):\n%s", diff)
	}
}
