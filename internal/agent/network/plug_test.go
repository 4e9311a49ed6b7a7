package network_test

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"widecloud/internal/agent/network"
	"widecloud/internal/netio"
)

// TestPlugIsLetInAtOnce: no Apply is needed for a VM that is known to speak, and none for another that gets the name of its plug.
func TestPlugIsLetInAtOnce(t *testing.T) {
	w := newWorld(t, "h1")
	h, n := w.hosts["h1"], blue()
	a, b := endpoint(n, "a", 1, h), endpoint(n, "b", 2, h)
	n.Endpoints = []network.Endpoint{a, b}
	w.apply(h, w.wantAmong(h, n, []string{"h1"}))
	w.plug(h, n, a).slaac()
	gb := w.plug(h, n, b)
	gb.slaac()
	// The plug of one goes, and the other's has its name then.
	must(t, h.ns.DeleteLink("p-a"), h.ns.DeleteLink("p-b"))
	must(t, gb.ns.AddVeth(netio.VethSpec{Name: "eth0", Peer: h.ns, PeerName: "p-a", MAC: b.MAC, PeerMAC: hostMAC(b.MAC)}),
		h.ns.SetMaster("p-a", h.d.Bridge(n.UID)), h.ns.SetUp("p-a"))
	gb.port = "p-a"
	gb.letIn()
	must(t, gb.ns.SetUp("eth0"))
	gb.slaac()
	if k := h.drops("another's MAC"); k != 0 {
		t.Errorf("%d drops of another's MAC", k)
	}
	w.eventually("seen", func() error { return h.sees(n, b, "neighbour "+b.IPv6.String()) })
}

// TestUnknownPlug: what no VM of the network is known to be on says nothing to anybody, nor hears what is another's. Bridges of others on
// the same host are not judged.
func TestUnknownPlug(t *testing.T) {
	w := newWorld(t, "h1")
	h, n, r := w.hosts["h1"], blue(), red()
	a := endpoint(n, "a", 1, h)
	n.Endpoints, r.Endpoints = []network.Endpoint{a}, []network.Endpoint{endpoint(r, "r", 4, h)}
	want := w.wantAmong(h, n, []string{"h1"})
	want.Networks = append(want.Networks, r)
	w.apply(h, want)
	ga := w.plug(h, n, a)
	ga.slaac()
	heard := w.sniff(ga.ns, "eth0")
	bridge := w.sniff(h.ns, h.d.Bridge(n.UID))
	for i, c := range []struct {
		what      string
		mac, plug []byte // the guest's MAC; that of the host's end
	}{
		{"a MAC that is no VM's", []byte{2, 0, 0, 0, 0, 5}, []byte{0xfe, 0, 0, 0, 0, 5}},
		{"a VM of another network", r.Endpoints[0].MAC, hostMAC(r.Endpoints[0].MAC)},
		{"a plug that is not named by the VM's MAC", a.MAC, []byte{2, 1, 1, 1, 1, 1}},
	} {
		ns, port := w.newNS(fmt.Sprint("x", i)), fmt.Sprint("p-x", i)
		must(t, ns.AddVeth(netio.VethSpec{Name: "eth0", Peer: h.ns, PeerName: port, MAC: c.mac, PeerMAC: c.plug}),
			h.ns.SetMaster(port, h.d.Bridge(n.UID)), h.ns.SetUp(port), ns.SetUp("eth0"))
		w.eventually(c.what+" is noticed", func() error {
			if out := run(t, h.ns, "nft", "list", "set", "bridge", "widecloud", "strangers"); !strings.Contains(out, `"`+port+`"`) {
				return errors.New(out)
			}
			return nil
		})
		ll := linkLocal(c.mac)
		for _, f := range [][]byte{
			frame6(c.mac, a.MAC, ll, a.IPv6, noNext, nil), frame6(c.mac, allNodes, ll, netip.MustParseAddr("ff02::1"), icmp6, solicit(a.IPv6, c.mac)),
			rarp(a.MAC, a.MAC), frame6(c.mac, network.AnycastMAC, ll, network.RouterAddr, icmp6, echoTo(1)), frame6(c.mac, allRouters, ll, netip.MustParseAddr("ff02::2"), icmp6, []byte{133, 0, 0, 0, 0, 0, 0, 0}),
		} {
			id, before := mark(), h.drops("unknown plug")
			sendFrames(t, ns, "eth0", append(f, id...))
			w.eventually(c.what+" is dropped", func() error {
				if h.drops("unknown plug") <= before {
					return errors.New("not counted")
				}
				return nil
			})
			if heard.count(id)+bridge.count(id) != 0 {
				t.Errorf("%s is heard", c.what)
			}
		}
		// What floods the bridge is not for it.
		at, id := w.sniff(ns, "eth0"), mark()
		ga.send(append(frame6(a.MAC, allNodes, a.IPv6, netip.MustParseAddr("ff02::1"), noNext, nil), id...))
		w.eventually("multicast is not sent there", func() error {
			if bridge.count(id) == 0 {
				return errors.New("it has not passed the bridge yet")
			}
			return nil
		})
		if at.count(id) != 0 {
			t.Errorf("%s: it hears the VMs' multicast", c.what)
		}
		must(t, h.ns.DeleteLink(port))
	}
	w.reach(ga.ns, "the router afterwards", network.RouterAddr.WithZone("eth0"))

	// Somebody else's bridge, with addresses and MACs as they come.
	must(t, h.ns.AddBridge(netio.BridgeSpec{Name: "br-other"}))
	x, y := w.newNS("ox"), w.newNS("oy")
	for i, ns := range []*netio.NS{x, y} {
		port := fmt.Sprint("o-", i)
		must(t, ns.AddVeth(netio.VethSpec{Name: "eth0", Peer: h.ns, PeerName: port, MAC: []byte{2, 9, 9, 9, 9, byte(i)}}),
			h.ns.SetMaster(port, "br-other"), h.ns.SetUp(port), ns.SetUp("eth0"), ns.AddAddr("eth0", netip.MustParsePrefix(fmt.Sprintf("10.64.1.%d/16", i+1))),
			ns.AddAddr("eth0", netip.MustParsePrefix(fmt.Sprintf("2001:db8:b1ae:1::%d/64", i+1))))
	}
	w.reach(x, "IPv4 on another's bridge", netip.MustParseAddr("10.64.1.2"))
	w.reach(x, "IPv6 on another's bridge", netip.MustParseAddr("2001:db8:b1ae:1::2"))
}

// logged keeps what a driver logs, as text.
type logged struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *logged) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// transactions tells how often the rule set has been changed by a transaction.
func (h *host) transactions() int {
	h.w.t.Helper()
	k, err := h.ns.NftGeneration()
	must(h.w.t, err)
	return int(k)
}

// TestVMChangesElementsOnly: a VM that comes, moves or goes changes elements of sets, in one transaction, and no rule: counters count on, and
// what was seen of others stays.
func TestVMChangesElementsOnly(t *testing.T) {
	w := newWorld(t, "h1")
	h, n := w.hosts["h1"], blue()
	var log logged
	must(t, h.d.Close(t.Context()))
	d, err := network.New(network.Options{Logger: slog.New(slog.NewTextHandler(&log, nil)), RunDir: h.runDir, NS: h.ns})
	must(t, err)
	h.d = d
	a, b := endpoint(n, "a", 1, h), endpoint(n, "b", 2, h)
	n.Endpoints = []network.Endpoint{a}
	apply := func() { t.Helper(); w.apply(h, w.wantAmong(h, n, []string{"h1"})) }
	apply()
	ga := w.plug(h, n, a)
	ga.slaac()
	ga.send(frame6(b.MAC, a.MAC, a.IPv6, a.IPv6, noNext, nil))
	w.eventually("a counter counts", func() error {
		if h.drops("another's MAC") != 1 {
			return errors.New("not yet")
		}
		return nil
	})
	rules := func() string {
		return run(t, h.ns, "nft", "-s", "-t", "list", "table", "bridge", "widecloud") + run(t, h.ns, "nft", "-s", "-t", "list", "table", "inet", "widecloud")
	}
	before := rules()
	elsewhere, leaving, plain := b, a, a
	elsewhere.VTEP, leaving.Leaving, plain.IPv4 = netip.MustParseAddr("2001:db8:7::2"), true, netip.Addr{}
	for _, change := range []struct {
		what      string
		endpoints []network.Endpoint
		ipv4      string
	}{
		{"a VM comes", []network.Endpoint{a, b}, "10.64.0.0/16"},
		{"a VM is elsewhere", []network.Endpoint{a, elsewhere}, "10.64.0.0/16"},
		{"a VM goes", []network.Endpoint{a}, "10.64.0.0/16"},
		{"a VM migrates away", []network.Endpoint{leaving}, "10.64.0.0/16"},
		{"the network's IPv4 changes", []network.Endpoint{plain}, "10.65.0.0/16"},
	} {
		what := change.what
		n.Endpoints, n.IPv4 = change.endpoints, netip.MustParsePrefix(change.ipv4)
		transactions := h.transactions()
		apply()
		if k := h.transactions() - transactions; k != 1 {
			t.Errorf("%s: %d transactions, want 1", what, k)
		}
		if diff := cmp.Diff(before, rules()); diff != "" {
			t.Errorf("%s: rules (-before +after):\n%s", what, diff)
		}
		if k := h.drops("another's MAC"); k != 1 {
			t.Errorf("%s: the counter is %d, was 1", what, k)
		}
		apply()
		if k := h.transactions() - transactions; k != 1 {
			t.Errorf("%s, again: %d transactions, want 1", what, k)
		}
	}
	if err := h.sees(n, a, "neighbour "+a.IPv6.String()); err != nil {
		t.Error(err)
	}

	// What others do is noticed: to rules, to elements, and to neither.
	expect := func(what string, transactions int, warned bool) {
		t.Helper()
		at, was := h.transactions(), strings.Count(log.String(), "changed by somebody else")
		apply()
		if k := h.transactions() - at; k != transactions {
			t.Errorf("%s: %d transactions, want %d", what, k, transactions)
		}
		if now := strings.Count(log.String(), "changed by somebody else") > was; now != warned {
			t.Errorf("%s: warned: %v, want %v", what, now, warned)
		}
	}
	n.Endpoints, n.IPv4 = []network.Endpoint{a}, blue().IPv4
	apply()
	elements := run(t, h.ns, "nft", "-s", "list", "table", "inet", "widecloud")
	run(t, h.ns, "nft", "add table ip somebody; add chain ip somebody c")
	expect("another table", 0, false)
	run(t, h.ns, "nft", "add element inet widecloud known { \"br-x\" . 2001:db8::77 }; flush set inet widecloud macs")
	expect("elements", 1, false)
	if diff := cmp.Diff(sorted(elements), sorted(run(t, h.ns, "nft", "-s", "list", "table", "inet", "widecloud"))); diff != "" {
		t.Errorf("elements that somebody changed (-want +got):\n%s", diff)
	}
	run(t, h.ns, "nft", "insert rule bridge widecloud from-vm accept")
	expect("a rule", 1, true)
	if diff := cmp.Diff(before, rules()); diff != "" {
		t.Errorf("rules (-before +after):\n%s", diff)
	}
}

func sorted(text string) []string {
	words := strings.FieldsFunc(text, func(r rune) bool { return strings.ContainsRune(" \t\n,", r) })
	slices.Sort(words)
	return words
}

// TestSeenIsReadOnce: what many VMs show costs one look at the rule set in a second, not one for each.
func TestSeenIsReadOnce(t *testing.T) {
	w := newWorld(t, "h1")
	h, n := w.hosts["h1"], blue()
	for i := range 50 {
		n.Endpoints = append(n.Endpoints, endpoint(n, fmt.Sprint("v", i), i+1, h))
	}
	w.apply(h, w.wantAmong(h, n, []string{"h1"}))
	g := w.plug(h, n, n.Endpoints[7])
	g.slaac()
	w.eventually("seen", func() error { return h.sees(n, g.ep, "neighbour "+g.ep.IPv6.String()) })
	nft := &counted{}
	must(t, h.d.Close(t.Context()))
	d, err := network.New(network.Options{Logger: slog.New(slog.DiscardHandler), RunDir: h.runDir, NS: h.ns, Nft: nft.path(t, filepath.Dir(h.runDir))})
	must(t, err)
	h.d = d
	w.apply(h, w.wantAmong(h, n, []string{"h1"}))
	before := nft.runs(t)
	for range 3 {
		for _, e := range n.Endpoints {
			_, err := h.d.Seen(t.Context(), n.UID, e.MAC)
			must(t, err)
		}
	}
	if k := nft.runs(t) - before; k < 1 || k > 10 {
		t.Errorf("nft was run %d times, want once a second", k)
	}
	before = nft.runs(t)
	for range 5 {
		w.apply(h, w.wantAmong(h, n, []string{"h1"}))
	}
	if k := nft.runs(t) - before; k != 0 {
		t.Errorf("nft was run %d times by Apply of what is there, want 0", k)
	}
}
