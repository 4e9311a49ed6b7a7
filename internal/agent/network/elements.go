package network

import (
	"fmt"
	"net/netip"

	"widecloud/internal/netio"
)

// elements are those of the sets that the driver keeps: "family table set" -> element, as nft reads it.
type elements map[string]map[string]bool

func (e elements) add(set, format string, args ...any) {
	if e[set] == nil {
		e[set] = map[string]bool{}
	}
	e[set][canonical(fmt.Sprintf(format, args...))] = true
}

// plug is a port of a network's bridge that a VM of the network is on.
type plug struct {
	index    int
	name     string
	network  string // UID
	endpoint Endpoint
}

// plugsOf tells the ports of the networks' bridges: which VM each belongs to, and those that belong to none. libvirt gives the
// host's end of a plug the VM's MAC, but for the first byte. Ports are known by their number: libvirt uses a name again, the
// kernel does not use a number again.
func plugsOf(w Want, links []netio.Link, mobilities map[string]mobility) (plugs []plug, strangers []int) {
	if !w.Role.Hypervisor {
		return nil, nil
	}
	networks := map[string]Network{}
	for _, n := range w.Networks {
		networks[BridgeName(n.UID)] = n
	}
	for _, l := range links {
		n, ours := networks[l.Master]
		if !ours || l.Name == mobilities[n.Mobility].device(n) {
			continue
		}
		known := false
		for _, e := range n.Endpoints {
			if len(l.MAC) == 6 && l.MAC[0] == plugByte && tail(l.MAC) == tail(e.MAC) {
				plugs, known = append(plugs, plug{l.Index, l.Name, n.UID, e}), true
			}
		}
		if !known {
			strangers = append(strangers, l.Index)
		}
	}
	return plugs, strangers
}

// elementsOf are the elements for a host that carries w's networks and has the ports.
func elementsOf(w Want, plugs []plug, strangers []int, mobilities map[string]mobility) elements {
	el := elements{}
	if w.Role.Hypervisor {
		for _, a := range []netip.Addr{RouterAddr, GatewayAddr} {
			el.add("bridge widecloud known6", "%s", hex(a, 16))
		}
		el.add("bridge widecloud routers", "%s", hex(RouterAddr, 16))
		el.add("bridge widecloud gateways", "%s", hex(GatewayAddr, 16))
	}
	el.add("inet widecloud vteps", "%s", w.VTEP)
	if w.AnycastVTEP.IsValid() {
		el.add("inet widecloud vteps", "%s", w.AnycastVTEP)
	}
	here := map[string]bool{}
	for _, p := range plugs {
		here[p.network+" "+p.endpoint.VM] = true
	}
	for _, n := range w.Networks {
		m := mobilities[n.Mobility]
		m.elements(el, w, n, func(e Endpoint) bool { return here[n.UID+" "+e.VM] })
		device := m.device(n)
		if w.Role.Hypervisor {
			device = BridgeName(n.UID)
			el.frames(n)
		}
		el.packets(w, n, device)
	}
	for _, p := range plugs {
		for _, n := range w.Networks {
			if n.UID == p.network {
				el.plug(n, p)
			}
		}
	}
	for _, index := range strangers {
		el.add("bridge widecloud strangers", "%d", index)
	}
	return el
}

// packets are the elements about what comes from a network by device, and goes there.
func (el elements) packets(w Want, n Network, device string) {
	el.add("inet widecloud networks", "%q", device)
	el.add("inet widecloud same", "%q . %q", device, device)
	own := []netip.Addr{}
	if w.Role.Hypervisor {
		own = append(own, RouterAddr, n.router6())
		el.add("inet widecloud resolvers", "%q . %s", device, n.router6())
	}
	if w.Role.Gateway {
		own = append(own, GatewayAddr, n.gateway6())
	}
	for _, a := range own {
		el.add("inet widecloud own6", "%q . %s", device, a)
	}
	for _, e := range n.Endpoints {
		el.add("inet widecloud known", "%q . %s", device, e.IPv6)
		el.add("inet widecloud known", "%q . %s", device, linkLocal(e.MAC))
	}
}

// frames are the elements about who has which address in a network, at a hypervisor and wherever the VMs run.
func (el elements) frames(n Network) {
	el.add("bridge widecloud routers", "%s", hex(n.router6(), 16))
	el.add("bridge widecloud gateways", "%s", hex(n.gateway6(), 16))
	for _, a := range []netip.Addr{n.Prefix.Addr(), n.router6(), n.gateway6(), RouterAddr, GatewayAddr} {
		el.add("bridge widecloud known6", "%s", hex(a, 16))
	}
	for _, e := range n.Endpoints {
		for _, a := range []netip.Addr{e.IPv6, linkLocal(e.MAC)} {
			el.add("bridge widecloud known6", "%s", hex(a, 16))
		}
	}
}

// plug are the elements of a VM's plug.
func (el elements) plug(n Network, p plug) {
	e := p.endpoint
	el.add("bridge widecloud ports", "%d", p.index)
	el.add("bridge widecloud-seen ports", "%d", p.index)
	el.add("bridge widecloud plugs", "%d . %s", p.index, e.MAC)
	for _, a := range []netip.Addr{e.IPv6, linkLocal(e.MAC)} {
		el.add("bridge widecloud own6", "%d . %s", p.index, hex(a, 16))
	}
	if e.IPv4.IsValid() {
		el.add("bridge widecloud own4", "%d . %s", p.index, e.IPv4)
	}
	for _, a := range []netip.Addr{n.Prefix.Addr(), linkLocals.Addr()} {
		el.add("bridge widecloud prefixes", "%d . %s", p.index, hex(a, 8))
	}
}
