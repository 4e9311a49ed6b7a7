package siit

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

	"widecloud/internal/lab/machine"
	"widecloud/internal/lab/script"
	"widecloud/internal/lab/stage"
	"widecloud/internal/lab/topic/flow"
	"widecloud/internal/lab/translator"
	"widecloud/internal/map646"
	"widecloud/internal/netio"
)

// Processes of a data centre's machines.
const (
	webProcess   = "web"
	namesProcess = "names"
)

// live is a data centre that is built.
type live struct {
	router *machine.Node
	names  *machine.Node // the name server in the Internet; nil: no translator has DNS64
	churn  *churn        // nil: none was begun

	mu    sync.Mutex                // guards changes of the table, on the translators and in their files
	table map[netip.Addr]netip.Addr // service address -> server's
	fill  []byte                    // lines of mappings of nobody's
}

func (d *Centre) hasDNS64() bool {
	return slices.ContainsFunc(d.Translators, func(t *Translator) bool { return t.DNS64 })
}

// lines are the mappings file that belongs to the table, and more.
func (d *Centre) lines(more string) []byte {
	return slices.Concat(translator.Lines(d.table), d.fill, []byte(more))
}

// Of is the data centre of a script; nil: it has none.
func Of(s *script.Script) *Centre {
	c, _ := script.Has[*Centre](s)
	return c
}

// Build implements stage.Builder. It returns when all translators are in use.
func (d *Centre) Build(ctx context.Context, s *stage.Stage, phase stage.Phase) error {
	if len(d.Translators) == 0 {
		return nil
	}
	switch phase {
	case stage.Machines:
		return d.makeMachines(s)
	case stage.Cables:
		return d.makeCables(s.Lab)
	case stage.Routing:
		return d.startRouting(ctx)
	case stage.Start:
		var g errgroup.Group
		for _, s := range d.Servers {
			g.Go(func() error { return d.startServer(s) })
		}
		if d.names != nil {
			g.Go(d.startNames)
		}
		return g.Wait()
	case stage.Join:
		return d.waitRoutes(ctx)
	}
	return nil
}

func (d *Centre) makeMachines(s *stage.Stage) error {
	d.table = map[netip.Addr]netip.Addr{}
	var b strings.Builder
	for i := range d.Fill {
		outside, inside := fillPair(i)
		fmt.Fprintf(&b, "map-static %s %s\n", outside, inside)
	}
	d.fill = []byte(b.String())
	var g errgroup.Group
	add := func(o machine.NodeOptions, to **machine.Node) {
		g.Go(func() (err error) { *to, err = s.Lab.AddNode(o); return err })
	}
	add(machine.NodeOptions{Name: "dc", Forward: true}, &d.router)
	for _, t := range d.Translators {
		add(machine.NodeOptions{Name: t.Name, Forward: true, Share: map[string]string{s.Bin: stage.NodeBin}}, &t.node)
	}
	for _, server := range d.Servers {
		add(machine.NodeOptions{Name: server.name}, &server.node)
		for _, a := range server.Service {
			d.table[a] = server.addr()
		}
	}
	if d.hasDNS64() {
		add(machine.NodeOptions{Name: "names"}, &d.names)
	}
	return g.Wait()
}

// cableMTU makes a link's devices carry no more than an MTU. Only the end that
// sends towards the narrow way needs it; the other end keeps 1500, so that its
// host does not know of it and has to find out.
func cableMTU(n *machine.Node, device string, mtu int) error {
	if mtu == 0 {
		return nil
	}
	return n.Setup(func(ns *netio.NS) error { return ns.SetMTU(device, mtu) })
}

func (d *Centre) makeCables(l *machine.Lab) error {
	inet := d.internet.Router.Node
	link := func(router *machine.Node, device string, n *machine.Node, own string, c cable) error {
		return l.Link(machine.End{Node: router, Device: device, Addrs: c.a}, machine.End{Node: n, Device: own, Addrs: c.b})
	}
	for i, t := range d.Translators {
		if err := errors.Join(link(inet, t.Name, t.node, "inet", outsideLink(i+1)), link(t.node, "dc", d.router, t.Name, insideLink(i+1)),
			cableMTU(inet, t.Name, t.OutsideMTU), cableMTU(t.node, "inet", t.OutsideMTU),
			cableMTU(t.node, "dc", t.InsideMTU), cableMTU(d.router, t.Name, t.InsideMTU)); err != nil {
			return err
		}
	}
	if err := d.router.Setup(func(ns *netio.NS) error { return ns.AddAddr("lo", dcLoopback) }); err != nil {
		return err
	}
	for _, s := range d.Servers {
		router := inet
		if s.At == "" {
			router = d.router
		}
		c := s.link()
		if err := errors.Join(link(router, s.name, s.node, "eth0", c), cableMTU(router, s.name, s.MTU), s.node.Setup(stage.DefaultRoutes("eth0", c.a))); err != nil {
			return err
		}
	}
	if d.names == nil {
		return nil
	}
	c := cable{
		a: []netip.Prefix{netip.PrefixFrom(namesAddr4.Prev(), 30), netip.PrefixFrom(namesAddr6.Prev(), 64)},
		b: []netip.Prefix{netip.PrefixFrom(namesAddr4, 30), netip.PrefixFrom(namesAddr6, 64)},
	}
	return errors.Join(link(inet, "names", d.names, "eth0", c), d.names.Setup(stage.DefaultRoutes("eth0", c.a)))
}

func (d *Centre) startRouting(ctx context.Context) error {
	g, _ := errgroup.WithContext(ctx)
	g.Go(func() error { return d.startRouter(d.router, d.insideRouting()) })
	for i, t := range d.Translators {
		g.Go(func() error {
			// The translator first: a zebra that starts at the same moment may miss its device.
			if err := translator.Start(t.node, d.config(i, t), d.lines("")); err != nil {
				return err
			}
			return d.startRouter(t.node, d.TranslatorRouting(i))
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	if d.Routing == "static" {
		return d.staticRoutes()
	}
	return nil
}

func (d *Centre) config(i int, t *Translator) translator.Config {
	c := translator.Config{
		Program: stage.NodeBin + "/map646", Services: d.services, Number: i + 1, MTU: cmp.Or(t.TunMTU, t.InsideMTU, 1500),
		Alone: []netip.Addr{wayOutAddr(i + 1)}, Inside: []netip.Prefix{dcPrefix},
	}
	if t.DNS64 {
		c.DNS64 = &translator.DNS64{Listen: netip.AddrPortFrom(dns64Addr, 53), Upstream: netip.AddrPortFrom(namesAddr6, 53), AllowFrom: dcPrefix}
	}
	if d.hasDNS64() {
		c.Alone = append(c.Alone, dns64Addr)
	}
	if t.Path == "fast" {
		c.Devices = []string{"inet", "dc"}
	}
	// Announced only while it has its own ways to both sides: when it comes back,
	// OSPF may bring one long before the other, or lead it through the other node.
	c.Ways = []map646.Way{{To: dcLoopback.Addr(), Devices: []string{"dc"}}}
	for _, a := range stage.InternetClients() {
		c.Ways = append(c.Ways, map646.Way{To: a, Devices: []string{"inet"}})
	}
	if d.Fill > 0 {
		c.Extra = []string{fmt.Sprintf("10.207.255.%d/12", 250+i)}
	}
	return c
}

// startServer runs the web server, and points a server in the data centre to the
// translators' DNS64 if there is one.
func (d *Centre) startServer(s *Server) error {
	n := s.node
	if s.At == "" && d.hasDNS64() {
		if err := n.WriteFile("/etc/resolv.conf", []byte("nameserver "+dns64Addr.String()+"\noptions timeout:1 attempts:3\n")); err != nil {
			return err
		}
	}
	_, err := n.Start(machine.ProcessOptions{
		Name: webProcess, Boot: true, Args: []string{"/proc/self/exe", s.name}, As: serverName,
		Ready: func(ctx context.Context) error {
			_, err := flow.Request(ctx, n, "GET", stage.URL(s.addr().String())+"/")
			return err
		},
	})
	return err
}

// startNames runs the name server of the Internet, which knows its servers.
func (d *Centre) startNames() error {
	args := []string{"/usr/sbin/dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--user=root",
		"--pid-file=/run/dnsmasq.pid", "--local=/example/", "--log-facility=-"}
	for _, s := range d.Servers {
		if s.At != "" {
			args = append(args, "--host-record="+s.name+nameSuffix+","+s.addr().String())
		}
	}
	_, err := d.names.Start(machine.ProcessOptions{Name: namesProcess, Boot: true, Args: args, Ready: func(context.Context) error {
		_, err := os.Stat(d.names.Path("/run/dnsmasq.pid"))
		return err
	}})
	return err
}

func routerID(kind, n int) netip.Addr { return netip.AddrFrom4([4]byte{10, byte(kind), 255, byte(n)}) }

// Numbers of autonomous systems (RFC 5398, for documentation).
const asInternet, asTranslators, asInside = 64496, 64497, 64498

// InternetRouting implements stage.OnInternet.
func (d *Centre) InternetRouting() machine.Routing {
	if len(d.Translators) == 0 || d.Routing == "static" {
		return machine.Routing{}
	}
	var r machine.Routing
	for _, s := range d.Servers {
		if s.At != "" {
			r.Passive = append(r.Passive, s.name)
		}
	}
	if d.hasDNS64() {
		r.Passive = append(r.Passive, "names")
	}
	b := &machine.BGP{AS: asInternet, Announce: r.Passive}
	for i, t := range d.Translators {
		r.Interfaces = append(r.Interfaces, t.Name)
		b.Neighbours = append(b.Neighbours, neighbours(asTranslators, outsideLink(i+1).b)...)
	}
	return d.routing(r, b)
}

func (d *Centre) insideRouting() machine.Routing {
	r := machine.Routing{RouterID: routerID(251, 1), Passive: []string{"lo"}, BFD: stage.BFDInterval}
	for _, s := range d.Servers {
		if s.At == "" {
			r.Passive = append(r.Passive, s.name)
		}
	}
	b := &machine.BGP{AS: asInside, Announce: r.Passive}
	for i, t := range d.Translators {
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
func (d *Centre) wayOut() string {
	var b strings.Builder
	permit := func(p netip.Prefix) { fmt.Fprintf(&b, "ipv6 prefix-list outside permit %s\n", p) }
	permit(d.services.Pref64)
	permit(netip.PrefixFrom(dns64Addr, 128))
	for i := range d.Translators {
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

// TranslatorRouting is that of translator number i, from 0: what examples/frr shows.
func (d *Centre) TranslatorRouting(i int) machine.Routing {
	b := &machine.BGP{AS: asTranslators, Announce: []string{"map646"}}
	b.Neighbours = append(neighbours(asInternet, outsideLink(i+1).a), neighbours(asInside, insideLink(i+1).b)...)
	return d.routing(machine.Routing{
		RouterID: routerID(252, i+1), Interfaces: []string{"inet", "dc"}, BFD: stage.BFDInterval,
		Extra: map[string]string{"ospfd": translatorOSPF, "ospf6d": fmt.Sprintf(translatorOSPF6, wayOutAddr(i+1))},
	}, b)
}

// What a translator announces: as a site's gateway, without its networks; and its
// address for the way out (leadOut) as OSPF-internal.
const (
	translatorOSPF  = translator.OSPF
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

func neighbours(as int, l []netip.Prefix) (out []machine.Neighbour) {
	for _, p := range l {
		out = append(out, machine.Neighbour{AS: as, Addr: p.Addr()})
	}
	return out
}

func (d *Centre) routing(r machine.Routing, b *machine.BGP) machine.Routing {
	if d.Routing == "bgp" {
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

func (d *Centre) startRouter(n *machine.Node, r machine.Routing) error {
	if d.Routing == "static" {
		return nil
	}
	return stage.StartRouter(n, r)
}

// staticRoutes lead to the only translator and back.
func (d *Centre) staticRoutes() error {
	out, in, name := outsideLink(1), insideLink(1), d.Translators[0].Name
	var errs []error
	route := func(n *machine.Node, device string, via netip.Addr, dst ...netip.Prefix) {
		for _, p := range dst {
			errs = append(errs, n.AddRoute(netio.Route{Dst: p, Gateway: via, Link: device}))
		}
	}
	route(d.internet.Router.Node, name, out.b[0].Addr(), d.services.V4)
	route(d.internet.Router.Node, name, out.b[1].Addr(), d.services.V6, dcPrefix)
	tr := d.Translators[0].node
	route(tr, "inet", out.a[0].Addr(), netip.MustParsePrefix("0.0.0.0/0"))
	route(tr, "inet", out.a[1].Addr(), netip.MustParsePrefix("::/0"))
	route(tr, "dc", in.b[0].Addr(), dcPrefix)
	route(d.router, name, in.a[0].Addr(), netip.MustParsePrefix("::/0"))
	return errors.Join(errs...)
}

// waitRoutes waits until the routers have a way to what each side needs over each
// of the translators, and gives the inside's router its way out.
func (d *Centre) waitRoutes(ctx context.Context) error {
	if d.Routing == "static" {
		return nil
	}
	for _, w := range []struct {
		node *machine.Node
		to   netip.Prefix
	}{{d.internet.Router.Node, d.services.V4}, {d.internet.Router.Node, d.services.V6}, {d.router, d.services.Pref64}} {
		if err := d.waitWays(ctx, w.node, w.to, 45*time.Second); err != nil {
			return err
		}
	}
	return d.leadOut(ctx)
}

// leadOut gives the inside's router its ways out. Zebra 8.4 takes a static route for
// unreachable that it looks at while the route to its next hop is being replaced,
// and does not look again before that route changes. So each translator has a next
// hop of its own, OSPF-internal, whose route is let alone when another translator
// comes or goes: docs/map646.md, "The way out". And this comes when all is quiet, and
// again if one was lost.
func (d *Centre) leadOut(ctx context.Context) (err error) {
	commands := []string{"configure terminal"}
	for i := range d.Translators {
		out := fmt.Sprintf("ipv6 route %s %s", world6, wayOutAddr(i+1))
		commands = append(commands, "no "+out, out)
	}
	for range 5 {
		if text, err := d.router.Vtysh(ctx, "staticd", commands...); err != nil {
			return fmt.Errorf("%s: %s: %w: %s", d.router.Name(), strings.Join(commands, "; "), err, text)
		}
		if err = d.waitWays(ctx, d.router, world6, 3*time.Second); err == nil {
			return nil
		}
	}
	return err
}

// waitWays waits until a router has a way to a prefix over each translator.
func (d *Centre) waitWays(ctx context.Context, node *machine.Node, to netip.Prefix, limit time.Duration) error {
	want := map[string]int{} // by device
	for _, t := range d.Translators {
		want[t.Name] = 1
	}
	return stage.Until(ctx, limit, func(context.Context) error {
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
			err = fmt.Errorf("%s has ways to %s over %v, not over %v", node.Name(), to, slices.Sorted(maps.Keys(ways)), slices.Sorted(maps.Keys(want)))
		}
		return err
	})
}

// Hints implements stage.Hinter.
func (d *Centre) Hints(string) string {
	var b strings.Builder
	for _, t := range d.Translators {
		fmt.Fprintf(&b, "  # translator %s\n  nsenter -t %d -a %s/map646 stats\n", t.Name, t.node.PID(), stage.NodeBin)
	}
	return b.String()
}
