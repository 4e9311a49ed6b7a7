package network

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"net/netip"

	"widecloud/internal/netio"
)

const (
	// rulePriority of the rules that send what VMs route to their network's table, answerPriority of those that send what
	// the router itself answers to its network.
	rulePriority, answerPriority = 646, 645
	// defaultMetric is the kernel's own for IPv6; the blackhole behind it catches what has no gateway, so that it does
	// not fall through to the main table, which is the underlay's.
	defaultMetric, blackholeMetric = 1024, 65535
	staticProtocol                 = 4 // RTPROT_STATIC
)

// hypervisor makes the bridge that is the VMs' switch and router.
func (d *Driver) hypervisor(ctx context.Context, w Want, n Network, m mobility) error {
	br := BridgeName(n.UID)
	if _, err := d.ns.Link(br); errors.Is(err, fs.ErrNotExist) {
		if err := d.ns.AddSilentBridge(netio.BridgeSpec{Name: br, MAC: AnycastMAC, MTU: n.mtu()}); err != nil {
			return err
		}
	} else if err != nil {
		return err
	}
	if err := d.ns.HideBridge(br); err != nil {
		return err
	}
	for key, value := range map[string]string{
		"net/ipv6/conf/" + br + "/addr_gen_mode": "1", // none: a bridge that was here before
		"net/ipv6/conf/" + br + "/accept_ra":     "0", // its own RAs come back to it
		"net/ipv6/conf/" + br + "/forwarding":    "1",
		"net/ipv4/conf/" + br + "/rp_filter":     "0", // the VMs' private prefix is no route of the host
		"net/ipv4/conf/" + br + "/arp_ignore":    "1", // the host's other addresses are none of the VMs' business
	} {
		if err := d.sysctl(key, value); err != nil {
			return err
		}
	}
	if l, err := d.ns.Link(br); err != nil {
		return err
	} else if l.MAC.String() != AnycastMAC.String() {
		if err := d.ns.SetMAC(br, AnycastMAC); err != nil {
			return err
		}
	}
	if err := m.join(w, n); err != nil {
		return err
	}
	addrs := map[netip.Prefix]bool{
		netip.PrefixFrom(RouterAddr, 64): true,
		// The rest without a route: the host itself has no business in the VMs' prefixes, which may
		// be another network's too as far as IPv4 goes.
		netip.PrefixFrom(n.router6(), 64): false,
	}
	if n.IPv4.IsValid() {
		addrs[netip.PrefixFrom(n.router4(), n.IPv4.Bits())] = false
	}
	if w.Role.both() {
		addrs[netip.PrefixFrom(n.gateway6(), 64)] = true // for OSPF to announce, as on a gateway
	}
	if err := d.dress(br, alias(n), n.mtu(), addrs); err != nil {
		return err
	}
	if err := d.routes(w, n, m); err != nil {
		return err
	}
	return d.dnsmasq(ctx, n)
}

// routes leads what the VMs send beyond their network to the gateways, and nowhere else, and what the router answers to the VMs.
// Where the host is a gateway itself, its main table is the gateway's, and the bridge reaches the VMs as a gateway does.
func (d *Driver) routes(w Want, n Network, m mobility) error {
	br, any6 := BridgeName(n.UID), netip.PrefixFrom(netip.IPv6Unspecified(), 0)
	out, more, err := m.wayOut(w, n)
	if err != nil {
		return err
	}
	neighbours := endpointNeighbours(n, func(e Endpoint) bool { return w.Role.Gateway || e.VTEP == w.VTEP })
	maps.Copy(neighbours, more)
	var answers []netio.Route
	if !w.Role.Gateway {
		out = append(out, netio.Route{Dst: any6, Table: n.table(), Metric: blackholeMetric, Protocol: staticProtocol})
		// Names are answered from an address of the VMs' prefix, and the underlay's route to that is the gateways', if any.
		for _, p := range []netip.Prefix{n.Prefix, linkLocals} {
			answers = append(answers, netio.Route{Dst: p, Link: br, Table: n.answerTable(), Metric: defaultMetric, Protocol: staticProtocol})
		}
		answers = append(answers, netio.Route{Dst: any6, Table: n.answerTable(), Metric: blackholeMetric, Protocol: staticProtocol})
	}
	return errors.Join(
		d.neighbours(br, neighbours),
		d.tableRoutes(n.table(), out),
		d.tableRoutes(n.answerTable(), answers),
		d.linkRule(netio.LinkRule{Link: br, Table: n.table(), Priority: rulePriority}, !w.Role.Gateway),
		d.linkRule(netio.LinkRule{Link: "lo", Src: n.router6(), Table: n.answerTable(), Priority: answerPriority}, !w.Role.Gateway))
}

// gateway makes the device by which packets enter and leave a network. Its prefix is a route of the host, for OSPF to
// announce.
func (d *Driver) gateway(_ context.Context, w Want, n Network, m mobility) error {
	if err := m.edge(w, n); err != nil {
		return err
	}
	device := m.device(n)
	for key, value := range map[string]string{
		"net/ipv6/conf/" + device + "/disable_ipv6":  "0",
		"net/ipv6/conf/" + device + "/addr_gen_mode": "1",
		"net/ipv6/conf/" + device + "/accept_ra":     "0",
		"net/ipv6/conf/" + device + "/forwarding":    "1",
		"net/ipv4/conf/" + device + "/arp_ignore":    "8", // a gateway answers nobody's ARP, and learns nobody's address by it
	} {
		if err := d.sysctl(key, value); err != nil {
			return err
		}
	}
	if err := d.dress(device, alias(n), n.mtu(), map[netip.Prefix]bool{
		netip.PrefixFrom(GatewayAddr, 64):  true,
		netip.PrefixFrom(n.gateway6(), 64): true,
	}); err != nil {
		return err
	}
	return d.neighbours(device, endpointNeighbours(n, func(Endpoint) bool { return true }))
}

// endpointNeighbours are the neighbours that are known: what a VM says changes none of them, and none is ever asked. All gateways
// share a MAC and an address, so the answer to one's neighbour solicitation might reach another.
func endpointNeighbours(n Network, which func(Endpoint) bool) map[netip.Addr]net.HardwareAddr {
	neighbours := map[netip.Addr]net.HardwareAddr{}
	for _, e := range n.Endpoints {
		if which(e) {
			neighbours[e.IPv6], neighbours[linkLocal(e.MAC)] = e.MAC, e.MAC
		}
	}
	return neighbours
}

func alias(n Network) string { return fmt.Sprintf("widecloud network %s (VNI %d)", n.Name, n.VNI) }
