package machine_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"widecloud/internal/lab/machine"
	"widecloud/internal/netio"
)

// TestRouters: two gateways announce the same addresses to an edge router, which
// uses both; one dies without a word, and the other has all.
func TestRouters(t *testing.T) {
	l := open(t)
	service := []string{"203.0.113.10/32", "2001:db8:ffff::10/128"}
	edge, err := l.AddRouter(machine.NodeOptions{Name: "edge"})
	must(t, err)
	gw := map[string]*machine.Router{}
	var links []string
	for i, name := range []string{"gw1", "gw2"} {
		r, err := l.AddRouter(machine.NodeOptions{Name: name})
		must(t, err)
		gw[name] = r
		a, b := fmt.Sprintf("192.0.2.%d/31", 2*i), fmt.Sprintf("192.0.2.%d/31", 2*i+1)
		must(t, l.Link(machine.End{Node: edge.Node, Device: "to-" + name, Addrs: prefix(a)}, machine.End{Node: r.Node, Device: "up", Addrs: prefix(b)}))
		must(t, r.AddBridge(netio.BridgeSpec{Name: "service"}), r.Setup(func(ns *netio.NS) error {
			for _, p := range service {
				ns.AddAddr("service", netip.MustParsePrefix(p))
			}
			return nil
		}))
		must(t, r.StartRouting(machine.Routing{RouterID: netip.AddrFrom4([4]byte{10, 0, 0, byte(i + 1)}), Interfaces: []string{"up"}, Passive: []string{"service"}}))
		links = append(links, "to-"+name)
	}
	start := time.Now()
	must(t, edge.StartRouting(machine.Routing{RouterID: netip.MustParseAddr("10.0.0.9"), Interfaces: links}))
	ways := func(p string) (via []string) {
		must(t, edge.Inspect(func(ns *netio.NS) error {
			routes, err := ns.Routes(0)
			for _, r := range routes {
				if r.Dst == netip.MustParsePrefix(p) {
					via = append(via, r.Link)
				}
			}
			return err
		}))
		return via
	}
	for _, p := range service {
		eventually(t, "two ways to "+p, func() bool { return len(ways(p)) == 2 })
		t.Logf("%s after %.1f s", p, time.Since(start).Seconds())
	}
	t.Logf("figure ospf.converge_seconds %.1f s", time.Since(start).Seconds())
	eventually(t, "BFD is up", func() bool {
		out, err := edge.Vtysh(t.Context(), "bfdd", "show bfd peers brief")
		return err == nil && strings.Count(out, " up") == 4
	})
	// The links stay up: only BFD can notice.
	start = time.Now()
	must(t, gw["gw1"].KillRouting())
	for _, p := range service {
		eventually(t, "one way to "+p, func() bool { w := ways(p); return len(w) == 1 && w[0] == "to-gw2" })
	}
	t.Logf("figure ospf.failover_seconds %.2f s", time.Since(start).Seconds())
	start = time.Now()
	must(t, gw["gw1"].PowerOff(), gw["gw1"].PowerOn())
	for _, p := range service {
		eventually(t, "two ways again to "+p, func() bool { return len(ways(p)) == 2 })
	}
	t.Logf("figure ospf.rejoin_seconds %.1f s (from power-off)", time.Since(start).Seconds())
}
