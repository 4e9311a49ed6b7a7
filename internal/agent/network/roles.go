package network

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"slices"

	"widecloud/internal/netio"
)

const (
	// rulePriority of the rules that send what VMs route to their network's table.
	rulePriority = 646
	// defaultMetric is the kernel's own for IPv6; the blackhole behind it catches what has no gateway, so that it does
	// not fall through to the main table, which is the underlay's.
	defaultMetric, blackholeMetric = 1024, 65535
	staticProtocol                 = 4 // RTPROT_STATIC
)

// hypervisor makes the bridge that is the VMs' switch and router, and its VXLAN port.
func (d *Driver) hypervisor(ctx context.Context, w Want, n Network) error {
	br, vx := BridgeName(n.UID), VXLANName(n.UID)
	if _, err := d.ns.Link(br); errors.Is(err, fs.ErrNotExist) {
		if err := d.ns.AddSilentBridge(netio.BridgeSpec{Name: br, MAC: AnycastMAC, MTU: n.mtu()}); err != nil {
			return err
		}
	} else if err != nil {
		return err
	}
	for key, value := range map[string]string{
		"net/ipv6/conf/" + br + "/addr_gen_mode": "1", // none: a bridge that was here before
		"net/ipv6/conf/" + br + "/accept_ra":     "0", // its own RAs come back to it
		"net/ipv6/conf/" + br + "/forwarding":    "1",
		"net/ipv4/conf/" + br + "/rp_filter":     "0", // the VMs' private prefix is no route of the host
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
	if err := d.vxlan(n, w.VTEP, nil); err != nil {
		return err
	}
	if err := d.sysctl("net/ipv6/conf/"+vx+"/disable_ipv6", "1"); err != nil { // a port has nothing to say
		return err
	}
	if l, err := d.ns.Link(vx); err != nil {
		return err
	} else if l.Master != br {
		if err := d.ns.SetMaster(vx, br); err != nil {
			return err
		}
	}
	if err := d.forward(w, n); err != nil {
		return err
	}
	if err := d.device(vx, alias(n), n.mtu(), nil); err != nil {
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
	if err := d.device(br, alias(n), n.mtu(), addrs); err != nil {
		return err
	}
	if err := d.routes(w, n, br, vx); err != nil {
		return err
	}
	return d.dnsmasq(ctx, n)
}

// routes leads what the VMs send beyond their network to the gateways, and nowhere else. Where the host is a gateway
// itself, its main table is the gateway's, and the bridge reaches the VMs as a gateway does.
func (d *Driver) routes(w Want, n Network, br, vx string) error {
	any6 := netip.PrefixFrom(netip.IPv6Unspecified(), 0)
	var want []netio.Route
	if !w.Role.Gateway {
		want = append(want, netio.Route{Dst: any6, Table: n.table(), Metric: blackholeMetric, Protocol: staticProtocol})
	}
	neighbours := map[netip.Addr]net.HardwareAddr{}
	pinned, err := d.ns.Pinned(vx, GatewayMAC)
	if err != nil {
		return err
	}
	if !w.Role.Gateway && w.AnycastVTEP.IsValid() {
		want = append(want, netio.Route{
			Dst: any6, Gateway: GatewayAddr, Link: br, Table: n.table(), Metric: defaultMetric, Protocol: staticProtocol,
		})
		neighbours[GatewayAddr] = GatewayMAC
		if !pinned {
			err = d.ns.PinMAC(vx, GatewayMAC)
		}
	} else if pinned {
		err = d.ns.UnpinMAC(vx, GatewayMAC)
	}
	if err != nil {
		return err
	}
	if w.Role.Gateway {
		neighbours = endpointNeighbours(n)
	}
	if err := d.neighbours(br, neighbours); err != nil {
		return err
	}
	have, err := d.ns.Routes(n.table())
	if err != nil {
		return err
	}
	for _, r := range have {
		if !slices.Contains(want, r) {
			if err := d.ns.DelRoute(r); err != nil {
				return err
			}
		}
	}
	for _, r := range want {
		if !slices.Contains(have, r) {
			if err := d.ns.AddRoute(r); err != nil {
				return err
			}
		}
	}
	rule := netio.LinkRule{Link: br, Table: n.table(), Priority: rulePriority}
	rules, err := d.ns.LinkRules(rulePriority)
	if err != nil {
		return err
	}
	if !w.Role.Gateway && !slices.Contains(rules, rule) {
		if err := d.ns.AddLinkRule(rule); err != nil {
			return err
		}
	}
	for _, r := range rules { // of a VNI that the network had before, or of a host that is a gateway now
		if r.Link == br && (r.Table != rule.Table || w.Role.Gateway) {
			if err := errors.Join(d.ns.DelLinkRule(r), d.flushTable(r.Table)); err != nil {
				return err
			}
		}
	}
	return nil
}

// gateway makes the VXLAN device by which packets enter and leave a network. Its prefix is a route of the host, for
// OSPF to announce.
func (d *Driver) gateway(_ context.Context, w Want, n Network) error {
	vx := VXLANName(n.UID)
	if err := d.vxlan(n, w.AnycastVTEP, GatewayMAC); err != nil {
		return err
	}
	for key, value := range map[string]string{
		"net/ipv6/conf/" + vx + "/disable_ipv6":  "0",
		"net/ipv6/conf/" + vx + "/addr_gen_mode": "1",
		"net/ipv6/conf/" + vx + "/accept_ra":     "0",
		"net/ipv6/conf/" + vx + "/forwarding":    "1",
	} {
		if err := d.sysctl(key, value); err != nil {
			return err
		}
	}
	if err := d.forward(w, n); err != nil {
		return err
	}
	if err := d.device(vx, alias(n), n.mtu(), map[netip.Prefix]bool{
		netip.PrefixFrom(GatewayAddr, 64):  true,
		netip.PrefixFrom(n.gateway6(), 64): true,
	}); err != nil {
		return err
	}
	return d.neighbours(vx, endpointNeighbours(n))
}

// endpointNeighbours are the neighbours of a gateway. All gateways share a MAC and an address, so the answer to one's
// neighbour solicitation may reach another: none is ever asked.
func endpointNeighbours(n Network) map[netip.Addr]net.HardwareAddr {
	neighbours := map[netip.Addr]net.HardwareAddr{}
	for _, e := range n.Endpoints {
		neighbours[e.IPv6] = e.MAC
	}
	return neighbours
}

func alias(n Network) string { return fmt.Sprintf("widecloud network %s (VNI %d)", n.Name, n.VNI) }
