package lab

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"widecloud/api"
	"widecloud/internal/netio"
)

// Names of processes, as scripts and logs have them.
const (
	controllerProcess = "controller"
	agentProcess      = "agent"
	map646Process     = "map646"
)

// Where things are inside of nodes.
const (
	nodeBin    = "/opt/widecloud/bin"
	nodeImages = "/opt/widecloud/images"
	stateDir   = "/var/lib/widecloud"
)

// Capacity that each hypervisor of the lab reports: the same on every machine,
// so that a script means the same everywhere.
var hostCapacity = api.Resources{CPUs: 4, MemoryMiB: 1024, DiskGiB: 16}

// offerName is the offer of a site that lends.
const offerName = "spare"

// FederationOptions say what to build.
type FederationOptions struct {
	Script *Script
	Bin    string // directory with wcc and map646
	Images string // directory that holds the images' files
	Source string // directory in a clone of the sources, for the script's releases; "": the working directory
	Log    *slog.Logger
	// Progress, if set, is told what has been done.
	Progress func(format string, args ...any)
}

// Federation is the script's sites, up and peered. Its methods are safe for
// concurrent use.
type Federation struct {
	o        FederationOptions
	lab      *Lab
	releases map[string]release // by the script's names; "" is the one that is tested
	sites    map[string]*fedSite
	order    []*fedSite
	wans     map[[2]string]*WAN
	inet     *Router
	client4  *Node
	client6  *Node
	dc       *dataCentre // nil: none
}

type fedSite struct {
	stmt   *SiteStmt
	number int // from 1; its addresses hang on it
	router *Router
	ctl    *Node
	user   *Node
	gw     *Node            // nil: none
	hosts  map[string]*Host // hypervisors
	nodes  map[string]*Node // the script's names: h1, gw
	token  string
	client *api.Client
}

// BuildFederation makes everything that the script's site and wan statements
// declare, in an open lab, and returns when all sites have peered.
func BuildFederation(ctx context.Context, l *Lab, o FederationOptions) (*Federation, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Progress == nil {
		o.Progress = func(string, ...any) {}
	}
	f := &Federation{o: o, lab: l, releases: map[string]release{"": {plan: true}}, sites: map[string]*fedSite{}, wans: map[[2]string]*WAN{}}
	for i, s := range o.Script.Sites {
		fs := &fedSite{stmt: s, number: i + 1, hosts: map[string]*Host{}, nodes: map[string]*Node{}}
		f.sites[s.Name] = fs
		f.order = append(f.order, fs)
	}
	if o.Script.DC != nil {
		if err := f.buildDC(ctx); err != nil {
			return nil, err
		}
		return f, nil
	}
	if len(f.order) > 9 {
		return nil, errors.New("build federation: more than nine sites")
	}
	if len(o.Script.Releases) > 0 {
		if err := f.step(ctx, "other releases", f.buildReleases); err != nil {
			return nil, err
		}
	}
	for _, step := range []struct {
		what string
		do   func(context.Context) error
	}{
		{"machines", f.makeNodes}, {"cables, routing and translators", f.makeNetwork}, {"controllers", f.startControllers},
		{"agents", f.startAgents}, {"peers and offers", f.peer},
	} {
		if err := f.step(ctx, step.what, step.do); err != nil {
			return nil, err
		}
	}
	return f, nil
}

// step is a part of the building.
func (f *Federation) step(ctx context.Context, what string, do func(context.Context) error) error {
	start := time.Now()
	if err := do(ctx); err != nil {
		return fmt.Errorf("build federation: %s: %w", what, err)
	}
	f.o.Progress("%s (%.1f s)", what, time.Since(start).Seconds())
	return nil
}

// each does something at every site at once.
func (f *Federation) each(ctx context.Context, do func(context.Context, *fedSite) error) error {
	g, ctx := errgroup.WithContext(ctx)
	for _, s := range f.order {
		g.Go(func() error {
			if err := do(ctx, s); err != nil {
				return fmt.Errorf("site %s: %w", s.stmt.Name, err)
			}
			return nil
		})
	}
	return g.Wait()
}

func (f *Federation) makeNodes(ctx context.Context) error {
	var g errgroup.Group
	var mu sync.Mutex
	add := func(to **Node, o NodeOptions) {
		g.Go(func() error {
			n, err := f.lab.AddNode(o)
			mu.Lock()
			*to = n
			mu.Unlock()
			return err
		})
	}
	router := func(to **Router, name string) {
		g.Go(func() error {
			r, err := f.lab.AddRouter(NodeOptions{Name: name})
			mu.Lock()
			*to = r
			mu.Unlock()
			return err
		})
	}
	router(&f.inet, "inet")
	add(&f.client4, NodeOptions{Name: "client4"})
	add(&f.client6, NodeOptions{Name: "client6"})
	bin := map[string]string{f.o.Bin: nodeBin}
	withImages := map[string]string{f.o.Bin: nodeBin}
	if f.o.Images != "" {
		withImages[f.o.Images] = nodeImages
	}
	for _, s := range f.order {
		name := s.stmt.Name
		router(&s.router, name+"-r")
		add(&s.ctl, NodeOptions{Name: name + "-ctl", Share: f.share(s.stmt.Controller, withImages)})
		add(&s.user, NodeOptions{Name: name + "-user"})
		if s.stmt.Gateway {
			add(&s.gw, NodeOptions{Name: name + "-gw", Forward: true, Share: f.share(s.stmt.Agents, bin)})
		}
		for i := range s.stmt.Hosts {
			g.Go(func() error {
				h, err := f.lab.AddHost(NodeOptions{Name: fmt.Sprintf("%s-h%d", name, i+1), Share: f.share(s.stmt.Agents, bin)})
				if err != nil {
					return err
				}
				mu.Lock()
				defer mu.Unlock()
				s.hosts[fmt.Sprintf("h%d", i+1)] = h
				s.nodes[fmt.Sprintf("h%d", i+1)] = h.Node
				return nil
			})
		}
	}
	if f.o.Script.DC != nil {
		g.Go(f.makeDCNodes)
	}
	if err := g.Wait(); err != nil {
		return err
	}
	for _, s := range f.order {
		if s.gw != nil {
			s.nodes["gw"] = s.gw
		}
	}
	return ctx.Err()
}

// Numbers of a site's machines, which their addresses hang on.
const (
	ctlNumber, userNumber, gwNumber, firstHost = 1, 2, 3, 11
)

// machine is one that hangs on its site's router.
type machine struct {
	node   *Node
	number int
	device string // the router's
}

func (s *fedSite) machines() []machine {
	l := []machine{{s.ctl, ctlNumber, "ctl"}, {s.user, userNumber, "user"}}
	if s.gw != nil {
		l = append(l, machine{s.gw, gwNumber, "gw"})
	}
	for i := range s.stmt.Hosts {
		l = append(l, machine{s.hosts[fmt.Sprintf("h%d", i+1)].Node, firstHost + i, fmt.Sprintf("h%d", i+1)})
	}
	return l
}

// addr6 is a machine's underlay IPv6 address.
func (s *fedSite) addr6(number int) netip.Addr { return leaf(s.number, number).b[1].Addr() }

func (f *Federation) makeNetwork(ctx context.Context) error {
	if err := f.each(ctx, func(_ context.Context, s *fedSite) error {
		for _, m := range s.machines() {
			c := leaf(s.number, m.number)
			if err := f.lab.Link(End{Node: s.router.Node, Device: m.device, Addrs: c.a}, End{Node: m.node, Device: "eth0", Addrs: c.b}); err != nil {
				return err
			}
			if err := m.node.Setup(defaultRoutes("eth0", c.a)); err != nil {
				return err
			}
		}
		c := trunk(s.number, 0)
		return f.lab.Link(End{Node: s.router.Node, Device: "inet", Addrs: c.a}, End{Node: f.inet.Node, Device: s.stmt.Name, Addrs: c.b})
	}); err != nil {
		return err
	}
	if err := f.cableClients(); err != nil {
		return err
	}
	links := map[string][]string{}
	for _, w := range f.o.Script.WANs {
		a, b := f.sites[w.A], f.sites[w.B]
		c := trunk(a.number, b.number)
		wan, err := f.lab.WAN(End{Node: a.router.Node, Device: "w-" + w.B, Addrs: c.a}, End{Node: b.router.Node, Device: "w-" + w.A, Addrs: c.b},
			WANOptions{RTT: w.RTT, Rate: w.Rate})
		if err != nil {
			return err
		}
		f.wans[pair(w.A, w.B)] = wan
		links[w.A] = append(links[w.A], "w-"+w.B)
		links[w.B] = append(links[w.B], "w-"+w.A)
	}
	g, _ := errgroup.WithContext(ctx)
	var inetLinks []string
	var inetCost4, inetCost6 strings.Builder
	cost := func(device string) (four, six string) {
		// The way between sites is the link between them, as long as there is one.
		return "interface " + device + "\n ip ospf cost 100\nexit\n", "interface " + device + "\n ipv6 ospf6 cost 100\nexit\n"
	}
	for _, s := range f.order {
		inetLinks = append(inetLinks, s.stmt.Name)
		four, six := cost(s.stmt.Name)
		inetCost4.WriteString(four)
		inetCost6.WriteString(six)
		r := Routing{RouterID: routerID(s.number, 1), Interfaces: append([]string{"inet"}, links[s.stmt.Name]...), BFD: bfdInterval}
		four, six = cost("inet")
		r.Extra = map[string]string{"ospfd": four, "ospf6d": six}
		for _, m := range s.machines() {
			if m.node == s.gw {
				r.Interfaces = append(r.Interfaces, m.device)
			} else {
				r.Passive = append(r.Passive, m.device)
			}
		}
		g.Go(func() error { return startRouter(s.router.Node, r) })
		if s.gw != nil {
			g.Go(func() error {
				// The translator first: a zebra that starts at the same moment may miss its device.
				if err := f.startTranslator(s); err != nil {
					return err
				}
				return startRouter(s.gw, Routing{
					RouterID: routerID(s.number, 2), Interfaces: []string{"eth0"}, BFD: bfdInterval,
					Extra: map[string]string{"ospfd": gatewayOSPF, "ospf6d": gatewayOSPF6},
				})
			})
		}
	}
	g.Go(func() error {
		return startRouter(f.inet.Node, Routing{RouterID: routerID(250, 1), Interfaces: inetLinks, Passive: []string{"client4", "client6"}, BFD: bfdInterval,
			Extra: map[string]string{"ospfd": inetCost4.String(), "ospf6d": inetCost6.String()}})
	})
	return g.Wait()
}

// bfdInterval: three missing packets are a failure. Emulated guests keep both
// processors busy, so 50 ms would see failures where there is none.
const bfdInterval = 100 * time.Millisecond

// What a gateway announces (docs/map646.md has the reasons): the translator's
// prefixes, in OSPFv2 as internal ones, and in OSPFv3 as external ones; and the
// networks' prefixes, whose devices come and go with the networks. The gateways'
// common address is on map646's device, too, and must go with it, so the copy on
// the loopback is kept back.
const (
	gatewayOSPF = `interface map646
 ip ospf area 0
 ip ospf passive
exit
`
	gatewayOSPF6 = `ipv6 prefix-list networks seq 5 permit ::/0 ge 64 le 64
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
)

func routerID(site, n int) netip.Addr { return netip.AddrFrom4([4]byte{10, byte(site), 255, byte(n)}) }

func startRouter(n *Node, r Routing) error {
	err := n.Setup(func(ns *netio.NS) error {
		// Connections are spread over equal ways, not pairs of hosts.
		return errors.Join(ns.Sysctl("net/ipv4/fib_multipath_hash_policy", "1"), ns.Sysctl("net/ipv6/fib_multipath_hash_policy", "1"))
	})
	if err != nil {
		return err
	}
	return n.StartRouting(r)
}

func defaultRoutes(device string, via []netip.Prefix) func(*netio.NS) error {
	return func(ns *netio.NS) error {
		for _, p := range via {
			dst := netip.MustParsePrefix("0.0.0.0/0")
			if p.Addr().Is6() {
				dst = netip.MustParsePrefix("::/0")
			}
			if err := ns.ReplaceRoute(netio.Route{Dst: dst, Gateway: p.Addr(), Link: device}); err != nil {
				return err
			}
		}
		return nil
	}
}

const (
	apiAddress  = "[::1]:7646"
	outsidePort = "7647"
)

func (f *Federation) startControllers(ctx context.Context) error {
	return f.each(ctx, func(ctx context.Context, s *fedSite) error { return f.startController(ctx, s, s.stmt.Controller) })
}

// startController runs a site's controller of a release, and logs in if nobody has.
func (f *Federation) startController(ctx context.Context, s *fedSite, release string) error {
	if err := s.ctl.WriteFile("/etc/widecloud/site.toml", []byte(f.controllerConfig(s, release))); err != nil {
		return err
	}
	c, err := api.NewClient("http://"+apiAddress, "", s.http())
	if err != nil {
		return err
	}
	_, err = s.ctl.Start(ProcessOptions{
		Name: controllerProcess, Boot: true, Args: []string{program(release, "wcc"), "serve", "--config", "/etc/widecloud/site.toml"},
		Ready: func(ctx context.Context) error {
			ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
			defer cancel()
			// Any answer of the API is a sign of life; without a token it is a refusal.
			_, err := c.Names(ctx, api.KindSite)
			if errors.Is(err, &api.Error{Code: api.CodeUnauthenticated}) {
				return nil
			}
			return err
		},
	})
	if err != nil || s.client != nil {
		return err
	}
	if s.token, err = s.firstLogin(ctx); err != nil {
		return fmt.Errorf("first login at %s: %w", s.stmt.Name, err)
	}
	s.client, err = api.NewClient("http://"+apiAddress, s.token, s.http())
	return err
}

func (f *Federation) controllerConfig(s *fedSite, release string) string {
	address := net.JoinHostPort(s.addr6(ctlNumber).String(), outsidePort)
	conf := fmt.Sprintf("site = %q\ndata_dir = %q\n[outside]\nadvertise = %q\n[network]\npref64 = %q\nanycast_vtep = %q\n",
		s.stmt.Name, stateDir+"/controller", address, pref64, anycastVTEP)
	if f.releases[release].plan {
		conf += fmt.Sprintf("underlay = [%q]\n%s", underlay(s.number), poolsText())
	}
	return conf
}

// tokenRE finds the first admin's token where a release before first logins has printed it.
var tokenRE = regexp.MustCompile(`wcc_[A-Za-z0-9-]+_[A-Za-z0-9_-]+`)

// firstLogin makes a lasting token of the one that the controller has left for its operator.
func (s *fedSite) firstLogin(ctx context.Context) (string, error) {
	first, err := os.ReadFile(s.ctl.Path(stateDir + "/controller/first-admin-token"))
	if errors.Is(err, fs.ErrNotExist) {
		printed, err := os.ReadFile(s.ctl.LogPath(controllerProcess))
		if token := tokenRE.Find(printed); err == nil && token != nil {
			return string(token), nil
		}
		return "", errors.Join(errors.New("the controller has neither left a first token nor printed one"), err)
	}
	if err != nil {
		return "", err
	}
	c, err := api.NewClient("http://"+apiAddress, strings.TrimSpace(string(first)), s.http())
	if err != nil {
		return "", err
	}
	t, err := c.NewToken(ctx, api.OwnTokens, api.TokenRequest{Note: "lab"})
	if err != nil {
		return "", err
	}
	return t.Token, nil
}

// http is a client whose connections begin on the site's controller's machine,
// where the API is on the loopback.
func (s *fedSite) http() *http.Client {
	return &http.Client{Transport: &http.Transport{
		MaxIdleConnsPerHost: 4,
		DialContext: func(ctx context.Context, network, addr string) (c net.Conn, err error) {
			err = s.ctl.Do(func() (err error) {
				d := net.Dialer{Timeout: 2 * time.Second}
				c, err = d.DialContext(ctx, network, addr)
				return err
			})
			return c, err
		},
	}}
}

func (f *Federation) startAgents(ctx context.Context) error {
	return f.each(ctx, func(ctx context.Context, s *fedSite) error {
		var g errgroup.Group
		for i := range s.stmt.Hosts {
			name := fmt.Sprintf("h%d", i+1)
			g.Go(func() error { return f.startAgent(ctx, s, name, firstHost+i, api.RoleHypervisor) })
		}
		if s.gw != nil {
			g.Go(func() error { return f.startAgent(ctx, s, "gw", gwNumber, api.RoleGateway) })
		}
		return g.Wait()
	})
}

func (f *Federation) startAgent(ctx context.Context, s *fedSite, name string, number int, role api.HostRole) error {
	n := s.nodes[name]
	token, err := s.client.JoinToken(ctx, name, []api.HostRole{role})
	if err != nil {
		return fmt.Errorf("make join token of %s: %w", name, err)
	}
	conf := fmt.Sprintf("site = %q\nhost = %q\ncontroller = %q\njoin_token = \"/etc/widecloud/join-token\"\nroles = [%q]\nvtep = %q\n"+
		"[capacity]\ncpus = %d\nmemory_mib = %d\ndisk_gib = %d\n",
		s.stmt.Name, name, net.JoinHostPort(s.addr6(ctlNumber).String(), outsidePort), role, s.addr6(number),
		hostCapacity.CPUs, hostCapacity.MemoryMiB, hostCapacity.DiskGiB)
	if role == api.RoleGateway {
		conf += fmt.Sprintf("[map646]\ncontrol = %q\nconfig = %q\n", map646Control, mappings)
	}
	if err := errors.Join(n.WriteFile("/etc/widecloud/agent.toml", []byte(conf)), n.WriteFile("/etc/widecloud/join-token", []byte(token+"\n"))); err != nil {
		return err
	}
	return f.runAgent(ctx, s, name, s.stmt.Agents)
}

// agentTime is how long an agent may take to be connected.
const agentTime = time.Minute

// runAgent starts the agent of a release on a configured host, and waits until it is connected.
func (f *Federation) runAgent(ctx context.Context, s *fedSite, name, release string) error {
	n := s.nodes[name]
	if _, err := n.Start(ProcessOptions{Name: agentProcess, Boot: true, Args: []string{program(release, "wcc"), "agent", "--config", "/etc/widecloud/agent.toml"}}); err != nil {
		return err
	}
	return until(ctx, agentTime, func(ctx context.Context) error {
		if p := n.Process(agentProcess); p != nil {
			select {
			case <-p.Done():
				return fmt.Errorf("%w: the agent of %s ended: %v; its log ends: %s", errGiveUp, name, p.Err(), tail(n.LogPath(agentProcess), 2000))
			default:
			}
		}
		h, err := api.Get[api.Host](ctx, s.client, name)
		if err != nil {
			return err
		}
		if !h.Status.Connected {
			return fmt.Errorf("host %s is not connected: %s", name, h.Status.Message)
		}
		return nil
	})
}

// peer introduces every site to every other, and makes the offers.
func (f *Federation) peer(ctx context.Context) error {
	g, gctx := errgroup.WithContext(ctx)
	for i, a := range f.order {
		for _, b := range f.order[i+1:] {
			g.Go(func() error {
				return until(gctx, time.Minute, func(ctx context.Context) error {
					invitation, err := a.client.PeerInvite(ctx)
					if err != nil {
						return fmt.Errorf("invite %s to %s: %w", b.stmt.Name, a.stmt.Name, err)
					}
					_, err = b.client.PeerAdd(ctx, invitation)
					if errors.Is(err, &api.Error{Code: api.CodeExists}) {
						err = nil // an earlier try whose answer was lost
					}
					if err != nil {
						return fmt.Errorf("add peer %s at %s: %w", a.stmt.Name, b.stmt.Name, err)
					}
					return nil
				})
			})
		}
	}
	if err := g.Wait(); err != nil {
		return err
	}
	return f.each(ctx, func(ctx context.Context, s *fedSite) error {
		if r, ok := s.lends(); ok {
			_, err := api.Create(ctx, s.client, &api.Offer{Meta: api.Meta{Name: offerName}, Spec: api.OfferSpec{
				To: s.stmt.To, LendLimit: r, Lease: api.Seconds(time.Hour.Seconds()), Grace: api.Seconds(s.stmt.Grace.Seconds()), OnReclaim: api.ReclaimStop}})
			if err != nil {
				return fmt.Errorf("make offer: %w", err)
			}
		}
		return until(ctx, time.Minute, func(ctx context.Context) error {
			peers, _, err := api.List[api.Peer](ctx, s.client)
			if err != nil {
				return err
			}
			if len(peers) != len(f.order)-1 {
				return fmt.Errorf("%d peers, not %d", len(peers), len(f.order)-1)
			}
			for _, p := range peers {
				if err := reached(p); err != nil {
					return err
				}
			}
			return nil
		})
	})
}

func reached(p *api.Peer) error {
	if !p.Status.Reached {
		return fmt.Errorf("peer %s is not reached: %s", p.Name, p.Status.Message)
	}
	return nil
}

// reaches tells whether the site's controller has a session with another one's.
func (s *fedSite) reaches(ctx context.Context, site string) error {
	p, err := api.Get[api.Peer](ctx, s.client, site)
	if err != nil {
		return err
	}
	return reached(p)
}

// lends is what the site offers.
func (s *fedSite) lends() (api.Resources, bool) {
	if s.stmt.Lend != nil {
		return *s.stmt.Lend, true
	}
	if s.stmt.Percent == 0 {
		return api.Resources{}, false
	}
	part := func(n int) int { return n * s.stmt.Hosts * s.stmt.Percent / 100 }
	r := api.Resources{CPUs: part(hostCapacity.CPUs), MemoryMiB: part(hostCapacity.MemoryMiB), DiskGiB: part(hostCapacity.DiskGiB)}
	if s.stmt.Gateway {
		r.Addresses = 100 * s.stmt.Percent / 100
	}
	return r, true
}

// errGiveUp ends until.
var errGiveUp = errors.New("no use in waiting")

// until tries until f succeeds, and returns its last error after the time.
func until(ctx context.Context, within time.Duration, f func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	var last error
	for {
		err := f(ctx)
		if err == nil || errors.Is(err, errGiveUp) {
			return err
		}
		if last == nil || ctx.Err() == nil {
			last = err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("not within %v: %w", within, last)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// cut cuts or heals the link between two sites, or with b == "" all of a's.
func (f *Federation) cut(a, b string, heal bool) error {
	set := func(w *WAN) {
		if heal {
			w.Heal()
		} else {
			w.Cut()
		}
	}
	if b != "" {
		set(f.wans[pair(a, b)])
		return nil
	}
	for ends, w := range f.wans {
		if slices.Contains(ends[:], a) {
			set(w)
		}
	}
	return f.sites[a].router.CutLink("inet", !heal)
}

// from is the node of clients at a place.
func (f *Federation) from(place string) *Node {
	switch place {
	case "inet4":
		return f.client4
	case "inet6":
		return f.client6
	}
	if n := f.dcMachine(place); n != nil {
		return n
	}
	return f.sites[place].user
}

// node is the machine on which a process runs.
func (f *Federation) node(site, host string) *Node {
	if n := f.dcMachine(site); n != nil {
		return n
	}
	if host == "" {
		return f.sites[site].ctl
	}
	return f.sites[site].nodes[host]
}

func (f *Federation) kill(site, host, process, signal string) error {
	sig := map[string]syscall.Signal{
		"KILL": syscall.SIGKILL, "TERM": syscall.SIGTERM, "HUP": syscall.SIGHUP, "STOP": syscall.SIGSTOP, "CONT": syscall.SIGCONT,
	}[signal]
	return f.node(site, host).Kill(process, sig)
}

func (f *Federation) start(site, host, process string) error {
	_, err := f.node(site, host).Restart(process)
	return err
}

// copies is where a VM is, by the hypervisors' own word: SITE/HOST -> state.
type copies struct {
	active  map[string]string // running, paused, …
	defined []string
}

// find asks every hypervisor of every site that is on, not the controllers.
func (f *Federation) find(ctx context.Context, uid string) (copies, error) {
	c := copies{active: map[string]string{}}
	var mu sync.Mutex
	err := f.each(ctx, func(ctx context.Context, s *fedSite) error {
		for name, h := range s.hosts {
			if !h.On() {
				continue
			}
			out, err := h.Virsh(ctx, "list", "--all", "--uuid")
			if err != nil {
				return err
			}
			if !slices.Contains(strings.Fields(out), uid) {
				continue
			}
			where := s.stmt.Name + "/" + name
			state, err := h.Virsh(ctx, "domstate", uid)
			if err != nil {
				continue // it went meanwhile
			}
			state = strings.TrimSpace(state)
			mu.Lock()
			c.defined = append(c.defined, where)
			if state != "shut off" && state != "crashed" {
				c.active[where] = state
			}
			mu.Unlock()
		}
		return nil
	})
	return c, err
}

// logs returns the log files of the federation's processes that a failure may be
// explained by: controllers, agents, translators.
func (f *Federation) logs() []string {
	var l []string
	for _, s := range f.order {
		if s.ctl != nil {
			l = append(l, s.ctl.LogPath(controllerProcess))
		}
		for name, n := range s.nodes {
			l = append(l, n.LogPath(agentProcess))
			if name == "gw" {
				l = append(l, n.LogPath(map646Process))
			}
		}
	}
	if f.dc != nil {
		for _, n := range f.dc.translators {
			l = append(l, n.LogPath(map646Process))
		}
	}
	l = slices.DeleteFunc(l, func(p string) bool { _, err := os.Stat(p); return err != nil })
	slices.SortFunc(l, func(a, b string) int { return strings.Compare(filepath.Base(a), filepath.Base(b)) })
	return l
}
