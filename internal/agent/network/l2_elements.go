package network

import "net/netip"

// elements tells who may send by VXLAN, and what.
func (m *l2) elements(el elements, w Want, n Network, plugged func(Endpoint) bool) {
	m.packets(el, w, n, plugged)
	if w.Role.Hypervisor {
		m.frames(el, n)
	}
}

// packets are the elements about VXLAN packets: who may send into a network, and by which MACs.
func (*l2) packets(el elements, w Want, n Network, plugged func(Endpoint) bool) {
	el.add("inet widecloud prefixes", "%d . %s", n.VNI, hex(n.Prefix.Addr(), 8))
	el.add("inet widecloud prefixes", "%d . %s", n.VNI, hex(linkLocals.Addr(), 8))
	for vtep := range claimOf(n).vteps {
		if vtep == w.VTEP {
			continue
		}
		el.add("inet widecloud vteps", "%s", vtep)
		el.add("inet widecloud peers", "%s . %d", vtep, n.VNI)
		el.add("inet widecloud routers", "%s . %d . %s", vtep, n.VNI, number(edgeMAC(vtep)))
		if w.Role.Gateway { // it routes what hypervisors lead to it
			el.add("inet widecloud routers", "%s . %d . %s", vtep, n.VNI, number(AnycastMAC))
		}
	}
	if w.AnycastVTEP.IsValid() && w.Role.Hypervisor { // gateways never speak to each other
		el.add("inet widecloud peers", "%s . %d", w.AnycastVTEP, n.VNI)
		el.add("inet widecloud routers", "%s . %d . %s", w.AnycastVTEP, n.VNI, number(GatewayMAC))
	}
	for _, e := range n.Endpoints {
		el.add("inet widecloud macs", "%d . %s", n.VNI, number(e.MAC))
		if plugged(e) && e.VTEP == w.VTEP && !e.Leaving {
			el.add("inet widecloud here", "%d . %s", n.VNI, number(e.MAC))
		}
	}
}

// frames are the elements about frames that come out of VXLAN at a hypervisor, or go into it: who has which address and MAC.
func (*l2) frames(el elements, n Network) {
	vx := VXLANName(n.UID)
	el.add("bridge widecloud fabric", "%q", vx)
	el.add("bridge widecloud fabric6", "%q . %s", vx, hex(n.Prefix.Addr(), 8))
	el.add("bridge widecloud fabric6", "%q . %s", vx, hex(linkLocals.Addr(), 8))
	el.add("bridge widecloud macs", "%q . %s", vx, GatewayMAC)
	for _, a := range []netip.Addr{n.Prefix.Addr(), n.router6(), n.gateway6(), RouterAddr, GatewayAddr} {
		el.add("bridge widecloud taken6", "%q . %s", vx, hex(a, 16))
	}
	gateways := []string{GatewayMAC.String()}
	for vtep := range claimOf(n).vteps {
		gateways = append(gateways, edgeMAC(vtep).String())
	}
	for _, mac := range gateways {
		for _, a := range []netip.Addr{n.gateway6(), GatewayAddr} {
			el.add("bridge widecloud pairs6", "%q . %s . %s", vx, mac, hex(a, 16))
		}
	}
	for _, e := range n.Endpoints {
		el.add("bridge widecloud macs", "%q . %s", vx, e.MAC)
		for _, a := range []netip.Addr{e.IPv6, linkLocal(e.MAC)} {
			el.add("bridge widecloud taken6", "%q . %s", vx, hex(a, 16))
			el.add("bridge widecloud pairs6", "%q . %s . %s", vx, e.MAC, hex(a, 16))
		}
		if e.IPv4.IsValid() {
			el.add("bridge widecloud pairs4", "%q . %s . %s", vx, e.MAC, e.IPv4)
		}
	}
}
