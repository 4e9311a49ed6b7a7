package netio_test

import (
	"bytes"
	"context"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"widecloud/internal/netio"
)

// output runs a command in a namespace and returns what it printed.
func output(t *testing.T, ns *netio.NS, name string, arg ...string) (string, error) {
	t.Helper()
	var out bytes.Buffer
	cmd := exec.CommandContext(t.Context(), name, arg...)
	cmd.Stdout, cmd.Stderr = &out, &out
	must(t, ns.Do(cmd.Start))
	err := cmd.Wait()
	return out.String(), err
}

// TestFastDirect: what the program sends on by itself arrives as if the stack had
// sent it, and what is not a matter of sending on comes to the stack. (The errors that
// the stack then makes: TestFastPath and TestRouterErrors of map646.)
func TestFastDirect(t *testing.T) {
	w := newFastWorld(t, "fd")
	f := openFast(t, w.node, netio.FastSpec{MaxMappings: 100})
	m, err := w.node.Link("m")
	must(t, err)
	// A second machine, which nobody has asked for yet, and one that is the node itself.
	entries := append(slices.Clone(fastEntries), entry(2, "203.0.113.11/32", "2001:db8:a::11/128"), entry(3, "203.0.113.12/32", "2001:db8:a::1/128"))
	must(t, f.Configure(fastSettings), f.Set(entries), f.Attach("c"), f.Attach("m"), w.machine.AddAddr("r", netip.MustParsePrefix("2001:db8:a::11/64")))
	for _, addr := range []string{"203.0.113.10", "2001:db8:f::10"} {
		w.run(w.client, "ping", "-n", "-c", "1", "-W", "5", addr)
	}
	for _, c := range []struct {
		what, from, args string
		device           int // of the full path
		want             string
		stack            uint64 // packets that the stack forwards if the program sends
	}{
		{"a neighbour not known yet", "client", "-c 2 203.0.113.11", 0, " 0% packet loss", 1},
		{"hops, IPv4", "client", "-c 1 -t 5 203.0.113.10", 0, "bytes from 203.0.113.10: icmp_seq=1 ttl=61 ", 0},
		{"hops, IPv6", "client", "-c 1 -t 5 2001:db8:f::10", 0, "bytes from 2001:db8:f::10: icmp_seq=1 ttl=61 ", 0},
		{"hops, from the machine", "machine", "-c 1 -t 5 2001:db8:64::198.51.100.7", 0, "bytes from 2001:db8:64::c633:6407: icmp_seq=1 ttl=61 ", 0},
		{"the last hop", "client", "-c 1 -t 4 203.0.113.10", 0, " 0% packet loss", 0},
		{"to the full path's device", "client", "-c 1 203.0.113.10", m.Index, " 0% packet loss", 1},
	} {
		ns := map[string]*netio.NS{"client": w.client, "machine": w.machine}[c.from]
		for _, direct := range []bool{true, false} {
			s := fastSettings
			s.Direct, s.Device = direct, c.device
			must(t, f.Configure(s))
			before := forwarded(t, w.node)
			out, _ := output(t, ns, "ping", append([]string{"-n", "-W", "2", "-i", "0.2"}, strings.Fields(c.args)...)...)
			if !regexp.MustCompile(c.want).MatchString(out) {
				t.Errorf("%s, direct %v: want %s in\n%s", c.what, direct, c.want, out)
			}
			if n := forwarded(t, w.node) - before; direct && n != c.stack {
				t.Errorf("%s: the stack forwarded %d packets, want %d", c.what, n, c.stack)
			}
		}
	}

	s := fastSettings
	s.Direct = true
	must(t, f.Configure(s))
	echoes := func() (n uint64) {
		must(t, w.node.Do(func() error {
			b, err := os.ReadFile("/proc/thread-self/net/snmp6")
			for line := range strings.Lines(string(b)) {
				if v, ok := strings.CutPrefix(line, "Icmp6InEchos"); ok {
					n, err = strconv.ParseUint(strings.TrimSpace(v), 10, 64)
				}
			}
			return err
		}))
		return n
	}
	before := echoes()
	output(t, w.client, "ping", "-n", "-c", "1", "-W", "1", "203.0.113.12")
	if n := echoes() - before; n != 1 {
		t.Errorf("%d of an echo to the node itself came to it", n)
	}
	must(t, w.node.Sysctl("net/ipv6/conf/all/forwarding", "0"))
	if out, _ := output(t, w.client, "ping", "-n", "-c", "1", "-W", "1", "203.0.113.10"); !strings.Contains(out, "100% packet loss") {
		t.Errorf("without forwarding:\n%s", out)
	}
	if n := f.Counters()["drop_failed"].Packets; n != 0 {
		t.Errorf("drop_failed: %d", n)
	}
}

// A neighbour whose address has changed is found again: the kernel keeps asking for
// those that packets are sent to past its stack.
func TestFastDirectNeighbour(t *testing.T) {
	w := newFastWorld(t, "fn")
	f := openFast(t, w.node, netio.FastSpec{MaxMappings: 100})
	s := fastSettings
	s.Direct = true
	must(t, f.Configure(s), f.Set(fastEntries), f.Attach("c"), f.Attach("m"))
	for _, family := range []string{"ipv4", "ipv6"} {
		for key, ms := range map[string]string{"base_reachable_time_ms": "500", "retrans_time_ms": "100"} {
			must(t, w.node.Sysctl("net/"+family+"/neigh/m/"+key, ms))
		}
		must(t, w.node.Sysctl("net/"+family+"/neigh/m/delay_first_probe_time", "1"))
	}
	ping := func() bool {
		out, _ := output(t, w.client, "ping", "-n", "-c", "1", "-W", "1", "2001:db8:f::10")
		return strings.Contains(out, " 0% packet loss")
	}
	if !ping() {
		t.Fatal("no answer")
	}
	mac, err := net.ParseMAC("02:00:00:00:aa:01")
	must(t, err)
	w.run(w.machine, "ip", "link", "set", "r", "address", mac.String())
	w.run(w.machine, "ip", "neigh", "flush", "dev", "r")
	for end := time.Now().Add(20 * time.Second); !ping(); {
		if time.Now().After(end) {
			t.Fatal("the neighbour's new address is not found")
		}
	}
}

func TestForwardHooks(t *testing.T) {
	ns := newNS(t, "fh")
	must(t, ns.SetUp("lo"))
	hooks := func() []string {
		t.Helper()
		h, err := ns.ForwardHooks(246)
		must(t, err)
		return h
	}
	run := func(command string) {
		t.Helper()
		f := strings.Fields(command)
		if out, err := output(t, ns, f[0], f[1:]...); err != nil {
			t.Fatalf("%s: %v\n%s", command, err, out)
		}
	}
	if h := hooks(); len(h) != 0 {
		t.Fatalf("in an empty namespace: %v", h)
	}
	for _, c := range []struct {
		what string
		do   []string
		undo []string
		want []string
	}{
		{what: "rules in a chain of forwarded packets",
			do:   []string{"nft add table inet fw", "nft add chain inet fw f { type filter hook forward priority 0 ; }", "nft add rule inet fw f counter"},
			undo: []string{"nft delete table inet fw"}, want: []string{"nftables chain inet fw f"}},
		{what: "an empty chain",
			do:   []string{"nft add table inet fw", "nft add chain inet fw f { type filter hook forward priority 0 ; }"},
			undo: []string{"nft delete table inet fw"}},
		{what: "an empty chain that drops",
			do:   []string{"nft add table ip6 fw", "nft add chain ip6 fw f { type filter hook forward priority 0 ; policy drop ; }"},
			undo: []string{"nft delete table ip6 fw"}, want: []string{"nftables chain ip6 fw f"}},
		{what: "before and behind routing",
			do: []string{"nft add table ip nat", "nft add chain ip nat pre { type nat hook prerouting priority 0 ; }", "nft add chain ip nat post { type nat hook postrouting priority 0 ; }",
				"nft add rule ip nat pre counter", "nft add rule ip nat post counter"},
			undo: []string{"nft delete table ip nat"}, want: []string{"nftables chain ip nat post", "nftables chain ip nat pre"}},
		{what: "what comes in by a device",
			do:   []string{"nft add table netdev fw", "nft add chain netdev fw in { type filter hook ingress device lo priority 0 ; }", "nft add rule netdev fw in counter"},
			undo: []string{"nft delete table netdev fw"}, want: []string{"nftables chain netdev fw in"}},
		{what: "what is for the host, and chains that are none of hooks",
			do: []string{"nft add table inet fw", "nft add chain inet fw in { type filter hook input priority 0 ; policy drop ; }", "nft add chain inet fw other",
				"nft add rule inet fw other counter", "nft add rule inet fw in counter"},
			undo: []string{"nft delete table inet fw"}},
		{what: "policy rules", do: []string{"ip rule add from 192.0.2.7 lookup 100 priority 7", "ip -6 rule add iif lo lookup 100 priority 8"},
			undo: []string{"ip rule del priority 7", "ip -6 rule del priority 8"}, want: []string{"IPv4 rule 7", "IPv6 rule 8"}},
		{what: "policy rules of our own", do: []string{"ip -6 rule add iif lo lookup 100 priority 8 protocol 246"}, undo: []string{"ip -6 rule del priority 8"}},
		{what: "IPsec", do: []string{"ip xfrm policy add src 192.0.2.0/24 dst 198.51.100.0/24 dir out tmpl src 192.0.2.1 dst 198.51.100.1 proto esp mode tunnel"},
			undo: []string{"ip xfrm policy flush"}, want: []string{"IPsec policies"}},
	} {
		for _, command := range c.do {
			run(command)
		}
		got := hooks()
		slices.Sort(got)
		if d := cmp.Diff(c.want, got); d != "" {
			t.Errorf("%s (-want +got):\n%s", c.what, d)
		}
		for _, command := range c.undo {
			run(command)
		}
		if h := hooks(); len(h) != 0 {
			t.Errorf("after %s: %v", c.what, h)
		}
	}
	// The older iptables has its tables once somebody has asked for them.
	run("iptables-legacy -t filter -L")
	if d := cmp.Diff([]string{"ip_tables filter"}, hooks()); d != "" {
		t.Errorf("iptables (-want +got):\n%s", d)
	}
}

// Watch tells of all that ForwardHooks, Links and Addrs look at, and of nothing that
// they do not.
func TestWatch(t *testing.T) {
	ns := newNS(t, "wa")
	ctx, cancel := context.WithCancel(t.Context())
	changed, err := ns.Watch(ctx)
	must(t, err)
	// told is whether a value comes; the kernel notifies before the change's call returns.
	told := func(within time.Duration) bool {
		select {
		case _, ok := <-changed:
			if !ok {
				t.Fatal("the watch has ended")
			}
			return true
		case <-time.After(within):
			return false
		}
	}
	for _, c := range []struct {
		command string
		silent  bool
	}{
		{command: "ip addr add 192.0.2.1/24 dev lo"},
		{command: "ip addr add 2001:db8::1/64 dev lo"},
		{command: "ip rule add from 192.0.2.7 lookup 100 priority 7"},
		{command: "ip -6 rule add from 2001:db8::7 lookup 100 priority 7"},
		{command: "ip route add 198.51.100.0/24 dev lo", silent: true},
		{command: "ip -6 route add 2001:db8:1::/64 dev lo", silent: true},
		{command: "nft add table inet fw"},
		{command: "nft add chain inet fw f { type filter hook forward priority 0 ; policy drop ; }"},
		{command: "nft add rule inet fw f counter"},
		{command: "nft delete table inet fw"},
		{command: "ip xfrm policy add src 192.0.2.0/24 dst 198.51.100.0/24 dir out tmpl src 192.0.2.1 dst 198.51.100.1 proto esp mode tunnel"},
		{command: "ip -6 rule del priority 7"},
		{command: "ip addr del 192.0.2.1/24 dev lo"},
		{command: "ip link add d0 type veth peer name d1"},
		{command: "ip link del d0"},
	} {
		for told(300 * time.Millisecond) { // of what came before
		}
		f := strings.Fields(c.command)
		if out, err := output(t, ns, f[0], f[1:]...); err != nil {
			t.Fatalf("%s: %v\n%s", c.command, err, out)
		}
		within := 5 * time.Second
		if c.silent {
			within = 300 * time.Millisecond
		}
		if got := told(within); got == c.silent {
			t.Errorf("%s: told %v", c.command, got)
		}
	}
	cancel()
	for range changed {
	}
}
