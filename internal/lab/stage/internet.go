package stage

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sync/errgroup"

	"widecloud/internal/lab/machine"
	"widecloud/internal/lab/script"
	"widecloud/internal/netio"
)

// The Internet's own addresses (RFC 5737, RFC 3849).
var (
	client4Addr   = netip.MustParsePrefix("198.51.100.7/24")
	client4Router = netip.MustParsePrefix("198.51.100.1/24")
	client6Addr   = netip.MustParsePrefix("2001:db8:c::7/64")
	client6Router = netip.MustParsePrefix("2001:db8:c::1/64")
)

// BFDInterval: three missing packets are a failure. Emulated guests keep both
// processors busy, so 50 ms would see failures where there is none.
const BFDInterval = 100 * time.Millisecond

// Internet is what all that is built hangs on: a router, and a client of IPv4 only
// and one of IPv6 only.
type Internet struct {
	Router  *machine.Router
	clients []*internetClient
	speaks  string // so far in the script: ospf, bgp, static; "": nothing
}

// Speak says what the Internet's router has to speak with something that hangs on it.
func (i *Internet) Speak(p *script.Parser, protocol string) {
	if i.speaks != "" && i.speaks != protocol {
		p.Fail(p.First(), "routing by %s and by %s in one script: the Internet's router speaks one of them", i.speaks, protocol)
	}
	i.speaks = protocol
}

// internetClient is a client in the Internet, inet4 or inet6.
type internetClient struct {
	name, node     string
	client, router netip.Prefix
	machine        *machine.Node
}

func (c *internetClient) Name() string              { return c.name }
func (c *internetClient) ClientNode() *machine.Node { return c.machine }
func (c *internetClient) Use(a netip.Addr) (netip.Addr, bool) {
	return a, a.Is4() == c.client.Addr().Is4()
}
func (c *internetClient) HostFor(from Client) (string, error) {
	return Choose(from, c.name, []netip.Addr{c.client.Addr()})
}

// OnInternet is a builder that hangs on the Internet's router.
type OnInternet interface {
	// InternetRouting is its part of the routing there; without interfaces it has none.
	InternetRouting() machine.Routing
}

// Begin declares what every script has: the Internet and its clients.
func Begin(p *script.Parser) {
	i := script.Shared(p, func() *Internet {
		return &Internet{clients: []*internetClient{
			{name: "inet4", node: "client4", client: client4Addr, router: client4Router},
			{name: "inet6", node: "client6", client: client6Addr, router: client6Router},
		}}
	})
	for _, c := range i.clients {
		p.Declare(c.name, c)
	}
}

// InternetClients are the addresses of the clients in the Internet.
func InternetClients() []netip.Addr { return []netip.Addr{client4Addr.Addr(), client6Addr.Addr()} }

// FromInternet is the first client in the Internet that can reach a target, and what
// it uses; nil: none can.
func FromInternet(s *script.Script, t Target) (Client, string) {
	for _, c := range InternetOf(s).clients {
		if host, err := t.HostFor(c); err == nil {
			return c, host
		}
	}
	return nil, ""
}

// ClientNode is the machine of a client in the Internet, inet4 or inet6; nil: there is
// no such one.
func (i *Internet) ClientNode(name string) *machine.Node {
	for _, c := range i.clients {
		if c.name == name {
			return c.machine
		}
	}
	return nil
}

// TCP is what all machines' TCP is like, if nothing else is said of one.
type TCP struct {
	Congestion string // its congestion control; "": the lab's default
}

// TCPOf is the script's.
func TCPOf(p *script.Parser) *TCP { return script.Shared(p, func() *TCP { return &TCP{} }) }

// InternetOf is a script's Internet.
func InternetOf(s *script.Script) *Internet {
	i, _ := script.Has[*Internet](s)
	return i
}

// Build implements Builder.
func (i *Internet) Build(_ context.Context, s *Stage, phase Phase) error {
	switch phase {
	case Machines:
		var g errgroup.Group
		g.Go(func() (err error) { i.Router, err = s.Lab.AddRouter(machine.NodeOptions{Name: "inet"}); return err })
		for _, c := range i.clients {
			g.Go(func() (err error) {
				c.machine, err = s.Lab.AddNode(machine.NodeOptions{Name: c.node, Share: map[string]string{s.Bin: NodeBin}})
				return err
			})
		}
		return g.Wait()
	case Cables:
		for _, c := range i.clients {
			if err := s.Lab.Link(machine.End{Node: i.Router.Node, Device: c.node, Addrs: []netip.Prefix{c.router}},
				machine.End{Node: c.machine, Device: "eth0", Addrs: []netip.Prefix{c.client}}); err != nil {
				return err
			}
			if err := c.machine.Setup(DefaultRoutes("eth0", []netip.Prefix{c.router})); err != nil {
				return err
			}
		}
	case Routing:
		if r := i.Routing(s.Script); len(r.Interfaces) > 0 {
			return StartRouter(i.Router.Node, r)
		}
	}
	return nil
}

// Routing is that of the Internet's router: of all that hangs on it.
func (i *Internet) Routing(s *script.Script) machine.Routing {
	r := machine.Routing{RouterID: netip.AddrFrom4([4]byte{10, 250, 255, 1}), Passive: []string{"client4", "client6"}, BFD: BFDInterval, Extra: map[string]string{}}
	for _, b := range script.SharedAll[OnInternet](s) {
		part := b.InternetRouting()
		r.Interfaces = append(r.Interfaces, part.Interfaces...)
		r.Passive = append(r.Passive, part.Passive...)
		if part.BGP != nil {
			r.BGP = part.BGP
			r.BGP.Announce = append([]string{"client4", "client6"}, r.BGP.Announce...)
		}
		for daemon, text := range part.Extra {
			r.Extra[daemon] += text
		}
	}
	return r
}

// DefaultRoutes lead everything to the routers at a device.
func DefaultRoutes(device string, via []netip.Prefix) func(*netio.NS) error {
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

// Prefixes takes formats, each with its number.
func Prefixes(formats ...any) (l []netip.Prefix) {
	for i := 0; i < len(formats); i += 2 {
		l = append(l, netip.MustParsePrefix(fmt.Sprintf(formats[i].(string), formats[i+1])))
	}
	return l
}

// StartRouter runs FRR on a node.
func StartRouter(n *machine.Node, r machine.Routing) error {
	err := n.Setup(func(ns *netio.NS) error {
		// Connections are spread over equal ways, not pairs of hosts.
		return errors.Join(ns.Sysctl("net/ipv4/fib_multipath_hash_policy", "1"), ns.Sysctl("net/ipv6/fib_multipath_hash_policy", "1"))
	})
	if err != nil {
		return err
	}
	return n.StartRouting(r)
}

// Keeper is a builder with something that a person needs while the machines are left up.
type Keeper interface {
	Keep(*Stage) error
}

// Hinter has commands for a person to play with what is up; self is this program.
type Hinter interface{ Hints(self string) string }

// Hints implements Hinter.
func (i *Internet) Hints(string) string {
	return fmt.Sprintf("  # clients in the Internet, IPv4 only and IPv6 only\n  ip netns exec %s curl http://203.0.113.10/\n  ip netns exec %s curl 'http://[2001:db8:f::10]/'\n",
		i.clients[0].machine.NSName(), i.clients[1].machine.NSName())
}

// Adopt implements Adopter.
func (i *Internet) Adopt(_ context.Context, _ *Stage, base *script.Script) error {
	b := InternetOf(base)
	i.Router = b.Router
	for n, c := range i.clients {
		c.machine = b.clients[n].machine
	}
	return nil
}
