package lab

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"widecloud/internal/map646"
	"widecloud/internal/netio"
)

// Processes of a data centre's machines.
const (
	webProcess   = "web"
	namesProcess = "names"
)

// dataCentre is a script's data centre, up: machines of translators and servers,
// the data centre's router, and the table that all translators have.
type dataCentre struct {
	spec        *DataCentre
	router      *Node
	names       *Node // the name server in the Internet; nil: no translator has DNS64
	translators map[string]*Node
	servers     map[string]*Node

	mu    sync.Mutex                // guards changes of the table, on the translators and in their files
	table map[netip.Addr]netip.Addr // service address -> server's
	fill  []byte                    // lines of mappings of nobody's
}

func (d *dataCentre) hasDNS64() bool {
	return slices.ContainsFunc(d.spec.Translators, func(t *TranslatorStmt) bool { return t.DNS64 })
}

// lines are the mappings file that belongs to the table, and more.
func (d *dataCentre) lines(more string) []byte {
	return slices.Concat(mappingLines(d.table), d.fill, []byte(more))
}

func sortedAddrs[V any](m map[netip.Addr]V) []netip.Addr {
	return slices.SortedFunc(maps.Keys(m), netip.Addr.Compare)
}

// buildDC makes the Internet and the script's data centre, and returns when all
// translators are in use.
func (f *Federation) buildDC(ctx context.Context) error {
	if err := f.step(ctx, "machines", f.makeNodes); err != nil {
		return err
	}
	return f.step(ctx, "cables, routing, translators and servers", func(ctx context.Context) error {
		if err := f.cableClients(); err != nil {
			return err
		}
		return f.makeDCNetwork(ctx)
	})
}

// cableClients joins the clients in the Internet to its router.
func (f *Federation) cableClients() error {
	for _, c := range []struct {
		node           *Node
		device         string
		client, router netip.Prefix
	}{{f.client4, "client4", client4Addr, client4Router}, {f.client6, "client6", client6Addr, client6Router}} {
		if err := f.lab.Link(End{Node: f.inet.Node, Device: c.device, Addrs: []netip.Prefix{c.router}}, End{Node: c.node, Device: "eth0", Addrs: []netip.Prefix{c.client}}); err != nil {
			return err
		}
		if err := c.node.Setup(defaultRoutes("eth0", []netip.Prefix{c.router})); err != nil {
			return err
		}
	}
	return nil
}

// makeDCNodes makes the machines of a script's data centre.
func (f *Federation) makeDCNodes() error {
	spec := f.o.Script.DC
	d := &dataCentre{spec: spec, translators: map[string]*Node{}, servers: map[string]*Node{}, table: map[netip.Addr]netip.Addr{}}
	f.dc = d
	var b strings.Builder
	for i := range spec.Fill {
		outside, inside := fillPair(i)
		fmt.Fprintf(&b, "map-static %s %s\n", outside, inside)
	}
	d.fill = []byte(b.String())
	var g errgroup.Group
	var mu sync.Mutex
	add := func(o NodeOptions, keep func(*Node)) {
		g.Go(func() error {
			n, err := f.lab.AddNode(o)
			mu.Lock()
			defer mu.Unlock()
			keep(n)
			return err
		})
	}
	add(NodeOptions{Name: "dc", Forward: true}, func(n *Node) { d.router = n })
	for _, t := range spec.Translators {
		add(NodeOptions{Name: t.Name, Forward: true, Share: map[string]string{f.o.Bin: nodeBin}}, func(n *Node) { d.translators[t.Name] = n })
	}
	for _, s := range spec.Servers {
		add(NodeOptions{Name: s.Name}, func(n *Node) { d.servers[s.Name] = n })
		for _, a := range s.Service {
			d.table[a] = s.addr()
		}
	}
	if d.hasDNS64() {
		add(NodeOptions{Name: "names"}, func(n *Node) { d.names = n })
	}
	return g.Wait()
}

// cableMTU makes a link's devices carry no more than an MTU. Only the end that
// sends towards the narrow way needs it; the other end keeps 1500, so that its
// host does not know of it and has to find out.
func cableMTU(n *Node, device string, mtu int) error {
	if mtu == 0 {
		return nil
	}
	return n.Setup(func(ns *netio.NS) error { return ns.SetMTU(device, mtu) })
}

func (f *Federation) makeDCNetwork(ctx context.Context) error {
	d := f.dc
	link := func(router *Node, device string, n *Node, own string, c cable) error {
		return f.lab.Link(End{Node: router, Device: device, Addrs: c.a}, End{Node: n, Device: own, Addrs: c.b})
	}
	for i, t := range d.spec.Translators {
		n := d.translators[t.Name]
		if err := errors.Join(link(f.inet.Node, t.Name, n, "inet", outsideLink(i+1)), link(n, "dc", d.router, t.Name, insideLink(i+1)),
			cableMTU(f.inet.Node, t.Name, t.OutsideMTU), cableMTU(n, "inet", t.OutsideMTU),
			cableMTU(n, "dc", t.InsideMTU), cableMTU(d.router, t.Name, t.InsideMTU)); err != nil {
			return err
		}
	}
	if err := d.router.Setup(func(ns *netio.NS) error { return ns.AddAddr("lo", dcLoopback) }); err != nil {
		return err
	}
	for _, s := range d.spec.Servers {
		router := f.inet.Node
		if s.At == "" {
			router = d.router
		}
		n, c := d.servers[s.Name], s.link()
		if err := errors.Join(link(router, s.Name, n, "eth0", c), cableMTU(router, s.Name, s.MTU), n.Setup(defaultRoutes("eth0", c.a))); err != nil {
			return err
		}
	}
	if d.names != nil {
		c := cable{
			a: []netip.Prefix{netip.PrefixFrom(namesAddr4.Prev(), 30), netip.PrefixFrom(namesAddr6.Prev(), 64)},
			b: []netip.Prefix{netip.PrefixFrom(namesAddr4, 30), netip.PrefixFrom(namesAddr6, 64)},
		}
		if err := errors.Join(link(f.inet.Node, "names", d.names, "eth0", c), d.names.Setup(defaultRoutes("eth0", c.a))); err != nil {
			return err
		}
	}
	g, _ := errgroup.WithContext(ctx)
	for _, s := range d.spec.Servers {
		g.Go(func() error { return d.startServer(s) })
	}
	if d.names != nil {
		g.Go(d.startNames)
	}
	g.Go(func() error { return f.startDCRouter(f.inet.Node, d.inetRouting()) })
	g.Go(func() error { return f.startDCRouter(d.router, d.insideRouting()) })
	for i, t := range d.spec.Translators {
		g.Go(func() error {
			// The translator first: a zebra that starts at the same moment may miss its device.
			if err := startMap646(d.translators[t.Name], d.config(i, t), d.lines("")); err != nil {
				return err
			}
			return f.startDCRouter(d.translators[t.Name], d.translatorRouting(i))
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	if d.spec.Routing == "static" {
		if err := f.staticRoutes(); err != nil {
			return err
		}
	}
	return f.waitRoutes(ctx)
}

func (d *dataCentre) config(i int, t *TranslatorStmt) translatorConfig {
	c := translatorConfig{number: i + 1, mtu: cmp.Or(t.TunMTU, t.InsideMTU, 1500), alone: []netip.Addr{wayOutAddr(i + 1)}, inside: []netip.Prefix{dcPrefix}, dns64: t.DNS64}
	if d.hasDNS64() {
		c.alone = append(c.alone, dns64Addr)
	}
	if t.Path == "fast" {
		c.devices = []string{"inet", "dc"}
	}
	// Announced only while it has its own ways to both sides: when it comes back,
	// OSPF may bring one long before the other, or lead it through the other node.
	c.ways = []map646.Way{
		{To: dcLoopback.Addr(), Devices: []string{"dc"}},
		{To: client4Addr.Addr(), Devices: []string{"inet"}}, {To: client6Addr.Addr(), Devices: []string{"inet"}},
	}
	if d.spec.Fill > 0 {
		c.extra = []string{fmt.Sprintf("10.207.255.%d/12", 250+i)}
	}
	return c
}

// startServer runs the web server, and points a server in the data centre to the
// translators' DNS64 if there is one.
func (d *dataCentre) startServer(s *ServerStmt) error {
	n := d.servers[s.Name]
	if s.At == "" && d.hasDNS64() {
		if err := n.WriteFile("/etc/resolv.conf", []byte("nameserver "+dns64Addr.String()+"\noptions timeout:1 attempts:3\n")); err != nil {
			return err
		}
	}
	_, err := n.Start(ProcessOptions{
		Name: webProcess, Boot: true, Args: []string{"/proc/self/exe", s.Name}, As: serverName,
		Ready: func(ctx context.Context) error {
			_, err := request(ctx, n, "GET", urlOf(s.addr().String())+"/")
			return err
		},
	})
	return err
}

// startNames runs the name server of the Internet, which knows its servers.
func (d *dataCentre) startNames() error {
	args := []string{"/usr/sbin/dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--user=root",
		"--pid-file=/run/dnsmasq.pid", "--local=/example/", "--log-facility=-"}
	for _, s := range d.spec.Servers {
		if s.At != "" {
			args = append(args, "--host-record="+s.Name+nameSuffix+","+s.addr().String())
		}
	}
	_, err := d.names.Start(ProcessOptions{Name: namesProcess, Boot: true, Args: args, Ready: func(context.Context) error {
		_, err := os.Stat(d.names.Path("/run/dnsmasq.pid"))
		return err
	}})
	return err
}

// Numbers of autonomous systems (RFC 5398, for documentation).
const asInternet, asTranslators, asInside = 64496, 64497, 64498

func (d *dataCentre) inetRouting() Routing {
	r := Routing{RouterID: routerID(250, 1), Passive: []string{"client4", "client6"}, BFD: bfdInterval}
	for _, s := range d.spec.Servers {
		if s.At != "" {
			r.Passive = append(r.Passive, s.Name)
		}
	}
	if d.names != nil {
		r.Passive = append(r.Passive, "names")
	}
	b := &BGP{AS: asInternet, Announce: r.Passive}
	for i, t := range d.spec.Translators {
		r.Interfaces = append(r.Interfaces, t.Name)
		b.Neighbours = append(b.Neighbours, neighbours(asTranslators, outsideLink(i+1).b)...)
	}
	return d.routing(r, b)
}

func (d *dataCentre) insideRouting() Routing {
	r := Routing{RouterID: routerID(251, 1), Passive: []string{"lo"}, BFD: bfdInterval}
	for _, s := range d.spec.Servers {
		if s.At == "" {
			r.Passive = append(r.Passive, s.Name)
		}
	}
	b := &BGP{AS: asInside, Announce: r.Passive}
	for i, t := range d.spec.Translators {
		r.Interfaces = append(r.Interfaces, t.Name)
		b.Neighbours = append(b.Neighbours, neighbours(asTranslators, insideLink(i+1).a)...)
	}
	r = d.routing(r, b)
	r.Extra["zebra"] = d.wayOut()
	return r
}

// wayOut keeps the inside's router from learning ways out that do not depend on
// translation: what machines with service addresses send must leave where it is
// translated. All goes to an address of each translator that is on map646's device,
// and leaves the routing with it.
func (d *dataCentre) wayOut() string {
	var b strings.Builder
	permit := func(p netip.Prefix) { fmt.Fprintf(&b, "ipv6 prefix-list outside permit %s\n", p) }
	permit(pref64)
	permit(netip.PrefixFrom(dns64Addr, 128))
	for i := range d.spec.Translators {
		permit(netip.PrefixFrom(wayOutAddr(i+1), 128))
	}
	b.WriteString(`route-map outside permit 10
 match ipv6 address prefix-list outside
exit
ipv6 protocol ospf6 route-map outside
ipv6 protocol bgp route-map outside
`)
	return b.String()
}

// translatorRouting is what examples/frr shows.
func (d *dataCentre) translatorRouting(i int) Routing {
	b := &BGP{AS: asTranslators, Announce: []string{"map646"}}
	b.Neighbours = append(neighbours(asInternet, outsideLink(i+1).a), neighbours(asInside, insideLink(i+1).b)...)
	return d.routing(Routing{
		RouterID: routerID(252, i+1), Interfaces: []string{"inet", "dc"}, BFD: bfdInterval,
		Extra: map[string]string{"ospfd": translatorOSPF, "ospf6d": fmt.Sprintf(translatorOSPF6, wayOutAddr(i+1))},
	}, b)
}

// What a translator announces: as a site's gateway, without its networks; and its
// address for the way out (leadOut) as OSPF-internal.
const (
	translatorOSPF  = gatewayOSPF
	translatorOSPF6 = `ipv6 prefix-list way-out permit %s/128
interface map646
 ipv6 ospf6 area 0
 ipv6 ospf6 passive
 ipv6 ospf6 advertise prefix-list way-out
exit
route-map map646 deny 5
 match ipv6 address prefix-list way-out
exit
route-map map646 permit 10
 match interface map646
exit
router ospf6
 redistribute connected route-map map646
exit
`
)

func neighbours(as int, l []netip.Prefix) (out []Neighbour) {
	for _, p := range l {
		out = append(out, Neighbour{AS: as, Addr: p.Addr()})
	}
	return out
}

func (d *dataCentre) routing(r Routing, b *BGP) Routing {
	if d.spec.Routing == "bgp" {
		r.BGP, r.Extra = b, nil
	}
	if r.Extra == nil {
		r.Extra = map[string]string{}
	}
	r.Extra["staticd"] += noUnreachable
	return r
}

// noUnreachable keeps routers from answering "no route" while zebra exchanges a
// route (of IPv6 ones it deletes the old before it adds the new): a connection
// that was about to begin would fail at once, not try again a second later.
const noUnreachable = "ip route 0.0.0.0/0 blackhole 250\nipv6 route ::/0 blackhole 250\n"

func (f *Federation) startDCRouter(n *Node, r Routing) error {
	if f.dc.spec.Routing == "static" {
		return nil
	}
	return startRouter(n, r)
}

// staticRoutes lead to the only translator and back.
func (f *Federation) staticRoutes() error {
	d := f.dc
	out, in, name := outsideLink(1), insideLink(1), d.spec.Translators[0].Name
	var errs []error
	route := func(n *Node, device string, via netip.Addr, dst ...netip.Prefix) {
		for _, p := range dst {
			errs = append(errs, n.AddRoute(netio.Route{Dst: p, Gateway: via, Link: device}))
		}
	}
	route(f.inet.Node, name, out.b[0].Addr(), servicePrefix4)
	route(f.inet.Node, name, out.b[1].Addr(), servicePrefix6, dcPrefix)
	tr := d.translators[name]
	route(tr, "inet", out.a[0].Addr(), netip.MustParsePrefix("0.0.0.0/0"))
	route(tr, "inet", out.a[1].Addr(), netip.MustParsePrefix("::/0"))
	route(tr, "dc", in.b[0].Addr(), dcPrefix)
	route(d.router, name, in.a[0].Addr(), netip.MustParsePrefix("::/0"))
	return errors.Join(errs...)
}

// waitRoutes waits until the routers have a way to what each side needs over each
// of the translators, and gives the inside's router its way out.
func (f *Federation) waitRoutes(ctx context.Context) error {
	if f.dc.spec.Routing == "static" {
		return nil
	}
	for _, w := range []struct {
		node *Node
		to   netip.Prefix
	}{{f.inet.Node, servicePrefix4}, {f.inet.Node, servicePrefix6}, {f.dc.router, pref64}} {
		if err := f.waitWays(ctx, w.node, w.to, 45*time.Second); err != nil {
			return err
		}
	}
	return f.leadOut(ctx)
}

// leadOut gives the inside's router its ways out. Zebra 8.4 takes a static route for
// unreachable that it looks at while the route to its next hop is being replaced,
// and does not look again before that route changes. So each translator has a next
// hop of its own, OSPF-internal, whose route is let alone when another translator
// comes or goes: docs/map646.md, "The way out". And this comes when all is quiet, and
// again if one was lost.
func (f *Federation) leadOut(ctx context.Context) (err error) {
	commands := []string{"configure terminal"}
	for i := range f.dc.spec.Translators {
		out := fmt.Sprintf("ipv6 route %s %s", world6, wayOutAddr(i+1))
		commands = append(commands, "no "+out, out)
	}
	for range 5 {
		if text, err := f.dc.router.Vtysh(ctx, "staticd", commands...); err != nil {
			return fmt.Errorf("%s: %s: %w: %s", f.dc.router.name, strings.Join(commands, "; "), err, text)
		}
		if err = f.waitWays(ctx, f.dc.router, world6, 3*time.Second); err == nil {
			return nil
		}
	}
	return err
}

// waitWays waits until a router has a way to a prefix over each translator.
func (f *Federation) waitWays(ctx context.Context, node *Node, to netip.Prefix, limit time.Duration) error {
	want := map[string]int{} // by device
	for _, t := range f.dc.spec.Translators {
		want[t.Name] = 1
	}
	return until(ctx, limit, func(context.Context) error {
		ways := map[string]int{}
		err := node.Inspect(func(ns *netio.NS) error {
			routes, err := ns.Routes(0)
			for _, r := range routes {
				if r.Dst == to {
					ways[r.Link]++
				}
			}
			return err
		})
		if err == nil && !maps.Equal(ways, want) {
			err = fmt.Errorf("%s has ways to %s over %v, not over %v", node.name, to, slices.Sorted(maps.Keys(ways)), slices.Sorted(maps.Keys(want)))
		}
		return err
	})
}

// dcMachine is a machine of the data centre by its name in the script; nil: none.
func (f *Federation) dcMachine(name string) *Node {
	if f.dc == nil {
		return nil
	}
	return cmp.Or(f.dc.translators[name], f.dc.servers[name])
}
