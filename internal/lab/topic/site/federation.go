package site

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"sync"

	"golang.org/x/sync/errgroup"

	"widecloud/api"
	"widecloud/internal/lab/image"
	"widecloud/internal/lab/machine"
	"widecloud/internal/lab/script"
	"widecloud/internal/lab/stage"
	"widecloud/internal/lab/translator"
)

// Names of processes, as scripts and logs have them.
const (
	controllerProcess = "controller"
	agentProcess      = "agent"
	libvirtProcess    = "libvirtd"
)

const stateDir = "/var/lib/widecloud"

// Capacity that each hypervisor of the lab reports: the same on every machine,
// so that a script means the same everywhere.
var hostCapacity = api.Resources{CPUs: 4, MemoryMiB: 1024, DiskGiB: 16}

// OfferName is the offer of a site that lends.
const OfferName = "spare"

// Federation is the script's sites: what is declared of them, and once it is built,
// their machines. Its methods are safe for concurrent use.
type Federation struct {
	Sites    []*Site
	WANs     []*WAN
	Releases []*Release
	services *stage.Services
	internet *stage.Internet
	systems  map[image.Role]string // directories of the Debians of machines with systemd
	// Images are files that controllers can import; topics add to them in their Prepare.
	Images string

	mu    sync.Mutex
	shown map[string]string // directories that controllers' machines see beside their programs: path outside -> path inside
}

// Show lets the machines of controllers see directories, which are writable: path outside -> path inside. It is for topics,
// in their Prepare.
func (f *Federation) Show(dirs map[string]string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.shown == nil {
		f.shown = map[string]string{}
	}
	maps.Copy(f.shown, dirs)
}

// Of are the sites of a script; nil: it has none.
func Of(s *script.Script) *Federation {
	f, _ := script.Has[*Federation](s)
	return f
}

// Site is one by its name; nil: there is none.
func (f *Federation) Site(name string) *Site {
	for _, s := range f.Sites {
		if s.name == name {
			return s
		}
	}
	return nil
}

// federation is the script's, which begins with the first statement about it.
func federation(p *script.Parser) *Federation {
	return script.Shared(p, func() *Federation {
		return &Federation{services: stage.ServicesOf(p, "sites"), internet: stage.InternetOf(p.Script())}
	})
}

// Services are the service prefixes of the sites.
func Services(p *script.Parser) *stage.Services { return federation(p).services }

// Build implements stage.Builder. It returns when all sites have peered.
func (f *Federation) Build(ctx context.Context, s *stage.Stage, phase stage.Phase) error {
	if len(f.Sites) == 0 {
		return nil
	}
	switch phase {
	case stage.Prepare:
		if err := f.makeSystems(ctx); err != nil {
			return err
		}
		return f.buildReleases(ctx, s)
	case stage.Machines:
		return f.makeMachines(ctx, s)
	case stage.Cables:
		return f.makeCables(ctx, s.Lab)
	case stage.Routing:
		return f.startRouting(ctx)
	case stage.Start:
		if err := f.startControllers(ctx); err != nil {
			return err
		}
		return f.startAgents(ctx)
	case stage.Join:
		g, ctx := errgroup.WithContext(ctx)
		g.Go(func() error { return f.startGateways(ctx) })
		g.Go(func() error { return f.peer(ctx) })
		return g.Wait()
	}
	return nil
}

// Each does something at every site at once.
func (f *Federation) Each(ctx context.Context, do func(context.Context, *Site) error) error {
	g, ctx := errgroup.WithContext(ctx)
	for _, s := range f.Sites {
		g.Go(func() error {
			if err := do(ctx, s); err != nil {
				return fmt.Errorf("site %s: %w", s.name, err)
			}
			return nil
		})
	}
	return g.Wait()
}

func (f *Federation) makeMachines(ctx context.Context, st *stage.Stage) error {
	var g errgroup.Group
	add := func(to **machine.Node, o machine.NodeOptions) {
		make := st.Lab.AddNode
		if o.System != "" {
			make = st.Lab.AddSystem
		}
		g.Go(func() (err error) { *to, err = make(o); return err })
	}
	system := func(has bool, role image.Role) string {
		if !has {
			return ""
		}
		return f.systems[role]
	}
	bin := map[string]string{st.Bin: stage.NodeBin}
	withImages := map[string]string{st.Bin: stage.NodeBin}
	if f.Images != "" {
		withImages[f.Images] = stage.NodeImages
	}
	maps.Copy(withImages, f.shown)
	for _, s := range f.Sites {
		g.Go(func() (err error) {
			s.router, err = st.Lab.AddRouter(machine.NodeOptions{Name: s.name + "-r", Congestion: s.Congestion})
			return err
		})
		add(&s.ctl, machine.NodeOptions{Name: s.name + "-ctl", Congestion: s.Congestion, Share: share(s.Controller, withImages), System: system(s.systemd, image.Controller)})
		add(&s.user, machine.NodeOptions{Name: s.name + "-user", Congestion: s.Congestion})
		if s.gateway != nil {
			add(&s.gateway.node, machine.NodeOptions{Name: s.name + "-gw", Congestion: s.Congestion, Forward: true, Share: share(s.Agents, bin),
				System: system(s.gateway.systemd, image.Gateway)})
		}
		if s.fleet != nil {
			add(&s.fleet.node, machine.NodeOptions{Name: s.name + "-hosts", Congestion: s.Congestion, Share: bin})
		}
		for _, l := range s.leaves {
			l.Options.Name, l.Options.Congestion = l.name, s.Congestion
			add(&l.node, l.Options)
		}
		for _, h := range s.hosts {
			g.Go(func() (err error) {
				o := machine.NodeOptions{Name: s.name + "-" + h.name, Congestion: s.Congestion, Share: share(s.Agents, bin), System: system(h.systemd, image.Hypervisor)}
				add := st.Lab.AddHost
				if h.systemd {
					add = st.Lab.AddSystemHost
				}
				h.hypervisor, err = add(o)
				if err == nil {
					h.node = h.hypervisor.Node
				}
				return err
			})
		}
	}
	return errors.Join(g.Wait(), ctx.Err())
}

// Numbers of a site's machines, which their addresses hang on.
const (
	ctlNumber, userNumber, gwNumber, fleetNumber, firstHost = 1, 2, 3, 4, 11
)

// leafNode is a machine that hangs on its site's router.
type leafNode struct {
	node   *machine.Node
	number int
	device string // the router's
}

func (s *Site) machines() []leafNode {
	l := []leafNode{{s.ctl, ctlNumber, "ctl"}, {s.user, userNumber, "user"}}
	for _, h := range s.all() {
		l = append(l, leafNode{h.node, h.number, h.name})
	}
	if s.fleet != nil {
		l = append(l, leafNode{s.fleet.node, fleetNumber, "hosts"})
	}
	for _, m := range s.leaves {
		l = append(l, leafNode{m.node, m.number, "s-" + m.name})
	}
	return l
}

// addr6 is a machine's underlay IPv6 address.
func (s *Site) addr6(number int) netip.Addr { return leaf(s.number, number).b[1].Addr() }

func (f *Federation) makeCables(ctx context.Context, l *machine.Lab) error {
	if err := f.Each(ctx, func(_ context.Context, s *Site) error {
		for _, m := range s.machines() {
			c := leaf(s.number, m.number)
			if err := l.Link(machine.End{Node: s.router.Node, Device: m.device, Addrs: c.a}, machine.End{Node: m.node, Device: "eth0", Addrs: c.b}); err != nil {
				return err
			}
			if err := m.node.Setup(stage.DefaultRoutes("eth0", c.a)); err != nil {
				return err
			}
		}
		if s.fleet != nil {
			if err := s.fleet.giveAddresses(); err != nil {
				return err
			}
		}
		c := trunk(s.number)
		return l.Link(machine.End{Node: s.router.Node, Device: "inet", Addrs: c.a}, machine.End{Node: f.internet.Router.Node, Device: s.name, Addrs: c.b})
	}); err != nil {
		return err
	}
	for i, w := range f.WANs {
		c := trunk(maxSites + 1 + i)
		var err error
		w.link, err = l.WAN(machine.End{Node: w.A.router.Node, Device: linkDevice(w.B), Addrs: c.a},
			machine.End{Node: w.B.router.Node, Device: linkDevice(w.A), Addrs: c.b}, w.Options)
		if err == nil && w.Pinned {
			err = errors.Join(w.A.pin(w.B, linkDevice(w.B), c), w.B.pin(w.A, linkDevice(w.A), cable{a: c.b, b: c.a}))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// farCost makes OSPF use a device only when there is no other way: the way between
// sites is the link between them, as long as there is one.
func farCost(device string) map[string]string {
	return map[string]string{
		"ospfd": "interface " + device + "\n ip ospf cost 100\nexit\n", "ospf6d": "interface " + device + "\n ipv6 ospf6 cost 100\nexit\n",
	}
}

// InternetRouting implements stage.OnInternet.
func (f *Federation) InternetRouting() machine.Routing {
	r := machine.Routing{Extra: map[string]string{}}
	for _, s := range f.Sites {
		r.Interfaces = append(r.Interfaces, s.name)
		for daemon, text := range farCost(s.name) {
			r.Extra[daemon] += text
		}
	}
	return r
}

func (f *Federation) startRouting(ctx context.Context) error {
	g, _ := errgroup.WithContext(ctx)
	for _, s := range f.Sites {
		r := machine.Routing{RouterID: routerID(s.number, 1), Interfaces: []string{"inet"}, BFD: stage.BFDInterval, Extra: farCost("inet")}
		for _, w := range f.WANs {
			switch s {
			case w.A:
				r.Interfaces = append(r.Interfaces, linkDevice(w.B))
			case w.B:
				r.Interfaces = append(r.Interfaces, linkDevice(w.A))
			}
		}
		for _, m := range s.machines() {
			if s.gateway != nil && m.node == s.gateway.node {
				r.Interfaces = append(r.Interfaces, m.device)
			} else {
				r.Passive = append(r.Passive, m.device)
			}
		}
		g.Go(func() error { return stage.StartRouter(s.router.Node, r) })
		if s.gateway != nil {
			g.Go(func() error {
				// The translator first: a zebra that starts at the same moment may miss its device.
				if err := f.startTranslator(s); err != nil {
					return err
				}
				return stage.StartRouter(s.gateway.node, machine.Routing{
					RouterID: routerID(s.number, 2), Interfaces: []string{"eth0"}, BFD: stage.BFDInterval,
					Extra: map[string]string{"ospfd": translator.OSPF, "ospf6d": gatewayOSPF6},
				})
			})
		}
	}
	return g.Wait()
}

// startTranslator runs map646 on a site's gateway.
func (f *Federation) startTranslator(s *Site) error {
	c := translator.Config{Program: s.Agents.program("map646"), Services: f.services, Number: s.gateway.translator, MTU: 1430, Alone: []netip.Addr{anycastVTEP}}
	if s.Path == "fast" {
		c.Devices = []string{"eth0", "vx-*"}
	}
	return translator.Start(s.gateway.node, c, []byte("# none yet\n"))
}

// What a gateway announces beside translator.OSPF (docs/map646.md has the reasons):
// the translator's prefixes in OSPFv3 as external ones; and the networks' prefixes,
// whose devices come and go with the networks. The gateways' common address is on
// map646's device, too, and must go with it, so the copy on the loopback is kept back.
const gatewayOSPF6 = `ipv6 prefix-list networks seq 5 permit ::/0 ge 64 le 64
route-map announced permit 10
 match interface map646
exit
route-map announced permit 20
 match ipv6 address prefix-list networks
exit
router ospf6
 redistribute connected route-map announced
exit
`
