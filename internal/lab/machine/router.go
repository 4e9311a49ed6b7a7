package machine

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"time"
)

// Routing describes a node's part in OSPF and OSPFv3 (area 0), or in BGP.
type Routing struct {
	RouterID netip.Addr // IPv4 form, unique
	// Interfaces are the point-to-point links on which neighbours are spoken to.
	Interfaces []string
	// Passive interfaces are announced only: their prefixes are OSPF-internal, so
	// that another announcer of the same prefix takes over as fast as BFD sees the
	// failure. Redistributed ones would take a second longer in IPv4.
	Passive []string
	// BFD is the interval of its packets; three missing ones are a failure. 0: 50 ms.
	BFD time.Duration
	// BGP, if set, is spoken instead; Interfaces and Passive do not matter then.
	BGP *BGP
	// Extra is text for the daemons' configurations, by their names (zebra, ospfd,
	// ospf6d, bgpd, bfdd, staticd). staticd runs only if it has some.
	Extra map[string]string
}

// Router is a node that forwards packets and speaks OSPF and OSPFv3.
type Router struct{ *Node }

// AddRouter makes a forwarding node. Its routing begins with StartRouting, when
// it has its links.
func (l *Lab) AddRouter(o NodeOptions) (*Router, error) {
	o.Forward = true
	n, err := l.AddNode(o)
	if err != nil {
		return nil, err
	}
	return &Router{n}, nil
}

// frrDaemons in the order of their start.
var frrDaemons = []string{"zebra", "bfdd", "ospfd", "ospf6d", "bgpd", "staticd"}

// StartRouting runs FRR on the node, now and whenever it powers on, as processes
// named zebra, bfdd, ospfd and ospf6d, or zebra, bfdd and bgpd. The interfaces need not exist yet. A
// gateway host can route as well as a Router. On a node with a system of its own, FRR
// is that system's service.
func (n *Node) StartRouting(r Routing) error {
	return n.lab.cores.start(startRouting, func() error { return n.startRouting(r) })
}

func (n *Node) startRouting(r Routing) error {
	if !r.RouterID.Is4() {
		return fmt.Errorf("start routing on %s: router id %q is not of IPv4's form", n.name, r.RouterID)
	}
	if n.HasSystem() {
		return n.startFRR(r)
	}
	if frrUser() == [2]int{} {
		return fmt.Errorf("start routing on %s: %w (Debian: frr)", n.name, exec.ErrNotFound)
	}
	configs := r.configs(n.name)
	for daemon, text := range configs {
		if err := n.WriteFile("/etc/frr/"+daemon+".conf", []byte(text)); err != nil {
			return fmt.Errorf("start routing on %s: %w", n.name, err)
		}
	}
	for _, d := range frrDaemons {
		if _, ok := configs[d]; !ok {
			continue
		}
		args := []string{"/usr/lib/frr/" + d, "-f", "/etc/frr/" + d + ".conf", "--log", "stdout", "--log-level", "warnings"}
		socket := n.frrSocket(d)
		// At real-time priority, as a router's control processor has nothing else
		// to do: emulated guests keep both processors busy, and BFD must not
		// mistake that for a dead neighbour.
		priority := []string{"chrt", "--fifo", "10"}
		if d == "bgpd" {
			// Not so bgpd: of a connection that broke, its I/O thread asks the kernel
			// over and over until its main thread has closed it, and two of these
			// threads, on two processors, would never let a main thread run.
			priority = []string{"nice", "-n", "-20"}
		}
		args = append(priority, args...)
		_, err := n.Start(ProcessOptions{Name: d, Args: args, Boot: true, Ready: func(context.Context) error {
			_, err := os.Stat(n.Path(socket))
			return err
		}})
		if err != nil {
			return err
		}
	}
	return nil
}

// routingTime is how long FRR may take to start as a service.
const routingTime = time.Minute

// startFRR runs FRR as the service that its package installs.
func (n *Node) startFRR(r Routing) error {
	daemons := "vtysh_enable=yes\nall_wrap=\"chrt --fifo 10\"\n"
	for d := range r.configs(n.name) {
		if d != "zebra" { // it always runs
			daemons += d + "=yes\n"
		}
	}
	for path, text := range map[string]string{"/etc/frr/daemons": daemons, "/etc/frr/frr.conf": r.Config(n.name)} {
		if err := n.WriteFile(path, []byte(text)); err != nil {
			return fmt.Errorf("start routing on %s: %w", n.name, err)
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), routingTime)
	defer cancel()
	return n.StartService(ctx, "frr", "frr.service")
}

func (n *Node) frrSocket(daemon string) string { return "/run/frr/" + daemon + ".vty" }

// configs returns the daemons' configurations.
func (r Routing) configs(host string) map[string]string {
	if r.BFD == 0 {
		r.BFD = 50 * time.Millisecond
	}
	var ospfd, ospf6d strings.Builder
	for _, name := range r.Interfaces {
		fmt.Fprintf(&ospfd, "interface %s\n ip ospf network point-to-point\n ip ospf area 0\n ip ospf hello-interval 1\n ip ospf dead-interval 10\n ip ospf retransmit-interval 1\n"+
			" ip ospf bfd\n ip ospf bfd profile lab\nexit\n", name)
		fmt.Fprintf(&ospf6d, "interface %s\n ipv6 ospf6 network point-to-point\n ipv6 ospf6 area 0\n ipv6 ospf6 hello-interval 1\n ipv6 ospf6 dead-interval 10\n ipv6 ospf6 retransmit-interval 1\n"+
			" ipv6 ospf6 bfd profile lab\nexit\n", name)
	}
	for _, name := range r.Passive {
		fmt.Fprintf(&ospfd, "interface %s\n ip ospf area 0\n ip ospf passive\nexit\n", name)
		fmt.Fprintf(&ospf6d, "interface %s\n ipv6 ospf6 area 0\n ipv6 ospf6 passive\nexit\n", name)
	}
	// Throttles: the first calculation at once, then at most every half second;
	// what a router says of itself is not held back for the default five seconds.
	fmt.Fprintf(&ospfd, "router ospf\n ospf router-id %s\n timers throttle spf 0 50 500\n timers throttle lsa all 50\n timers lsa min-arrival 20\n maximum-paths 8\nexit\n", r.RouterID)
	fmt.Fprintf(&ospf6d, "router ospf6\n ospf6 router-id %s\n timers throttle spf 0 50 500\n timers lsa min-arrival 20\n maximum-paths 8\nexit\n", r.RouterID)
	// zebra 8.4 takes a kernel next-hop group for complete after a member's link
	// came back, although the kernel had taken the member out: one way of two
	// would be lost for good. Without groups it installs plain multipath routes.
	const zebra = "no zebra nexthop kernel enable\n"
	configs := map[string]string{"zebra": zebra, "bfdd": bfdConfig(r.BFD)}
	if r.BGP != nil {
		configs["bgpd"] = r.BGP.config(r.RouterID)
	} else {
		configs["ospfd"], configs["ospf6d"] = ospfd.String(), ospf6d.String()
	}
	if r.Extra["staticd"] != "" {
		configs["staticd"] = ""
	}
	for d := range configs {
		configs[d] = "hostname " + host + "\n" + configs[d] + r.Extra[d]
	}
	return configs
}

// Config is the text for /etc/frr/frr.conf that does the same.
func (r Routing) Config(host string) string {
	configs := r.configs(host)
	var b strings.Builder
	for _, daemon := range frrDaemons {
		if text, ok := configs[daemon]; ok {
			b.WriteString("!\n! " + daemon + "\n" + text)
		}
	}
	return b.String()
}

// KillRouting kills the node's routing daemons at once (kill -9): its neighbours
// learn of it from BFD. The kernel keeps its routes. StartRouting begins anew.
func (n *Node) KillRouting() error {
	var errs []error
	for _, d := range frrDaemons {
		p := n.Process(d)
		if p == nil {
			continue
		}
		select {
		case <-p.Done():
			continue
		default:
		}
		errs = append(errs, p.cmd.Process.Kill())
		<-p.done
		os.Remove(n.Path(n.frrSocket(d)))
	}
	return errors.Join(errs...)
}

// Vtysh runs commands of FRR's shell on a daemon of the node, "show ip ospf
// neighbor" on "ospfd" say.
func (n *Node) Vtysh(ctx context.Context, daemon string, commands ...string) (string, error) {
	args := []string{"-d", daemon}
	for _, c := range commands {
		args = append(args, "-c", c)
	}
	out, err := n.Command(ctx, "vtysh", args...).Output()
	return string(out), err
}
