package network

import (
	"errors"
	"io/fs"
	"net"
	"net/netip"
	"slices"

	"widecloud/internal/netio"
)

// l2 stretches a network's layer 2 over all hosts that carry it, by VXLAN (RFC 7348): the VXLAN device is a port of the bridge.
// The controller says to which hosts multicast goes (Network.Flood) and where each VM is (Endpoint.VTEP); nothing is flooded to
// find a VM. All gateways share one MAC and one VTEP, so the nearest one is used.
type l2 struct {
	kernel
	*l2State
}

// l2State is what the kernel does not remember for l2.
type l2State struct {
	// Word is the controller's last word on where each endpoint is: device suffix -> MAC -> VTEP. What the data path
	// learned since is newer, so only a change of the word counts.
	Word map[string]map[string]string `json:"word"`
}

// VXLANName is a network's VXLAN device; on a gateway the device that routes to the network.
func VXLANName(networkUID string) string { return "vx-" + short(networkUID) }

func (*l2) device(n Network) string { return VXLANName(n.UID) }

// join makes the VXLAN device a port of the bridge.
func (m *l2) join(w Want, n Network) error {
	br, vx := BridgeName(n.UID), VXLANName(n.UID)
	if err := m.vxlan(n, w.VTEP, nil); err != nil {
		return err
	}
	if err := m.sysctl("net/ipv6/conf/"+vx+"/disable_ipv6", "1"); err != nil { // a port has nothing to say
		return err
	}
	if l, err := m.ns.Link(vx); err != nil {
		return err
	} else if l.Master != br {
		if err := m.ns.SetMaster(vx, br); err != nil {
			return err
		}
	}
	if err := m.forward(w, n); err != nil {
		return err
	}
	return m.dress(vx, alias(n), n.mtu(), nil)
}

// wayOut is by the gateways' MAC, which leads to the VTEP that they share.
func (m *l2) wayOut(w Want, n Network) ([]netio.Route, map[netip.Addr]net.HardwareAddr, error) {
	leads := !w.Role.Gateway && w.AnycastVTEP.IsValid()
	if err := m.pin(VXLANName(n.UID), leads); err != nil || !leads {
		return nil, nil, err
	}
	any6 := netip.PrefixFrom(netip.IPv6Unspecified(), 0)
	return []netio.Route{{
		Dst: any6, Gateway: GatewayAddr, Link: BridgeName(n.UID), Table: n.table(), Metric: defaultMetric, Protocol: staticProtocol,
	}}, map[netip.Addr]net.HardwareAddr{GatewayAddr: GatewayMAC}, nil
}

// edge is a VXLAN device with the gateways' common MAC and VTEP.
func (m *l2) edge(w Want, n Network) error {
	if err := m.vxlan(n, w.AnycastVTEP, GatewayMAC); err != nil {
		return err
	}
	return m.forward(w, n)
}

func (m *l2) forget(stays map[string]bool) {
	for suffix := range m.Word {
		if !stays["vx-"+suffix] {
			delete(m.Word, suffix)
		}
	}
}

// vxlan makes sure of a network's VXLAN device. One that is wrong in what cannot be changed is made anew.
func (m *l2) vxlan(n Network, local netip.Addr, mac net.HardwareAddr) error {
	name := VXLANName(n.UID)
	v, err := m.ns.VXLAN(name)
	gateway := mac != nil
	switch {
	case err == nil && v.VNI == n.VNI && v.Local == local && (v.MAC.String() == GatewayMAC.String()) == gateway:
		return nil
	case err == nil:
		m.log.Info("make VXLAN device anew", "device", name, "network", n.Name, "vni", n.VNI, "was", v.VNI)
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	if err := m.ns.DeleteLink(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	// A new device knows no endpoint: whatever the controller says of them is news.
	delete(m.Word, short(n.UID))
	return m.ns.AddVXLAN(netio.VXLANSpec{Name: name, VNI: n.VNI, Local: local, MAC: mac, MTU: n.mtu()})
}

// forward makes sure of where the VXLAN device sends to.
func (m *l2) forward(w Want, n Network) error {
	name := VXLANName(n.UID)
	have, flood, err := m.ns.FDB(name)
	if err != nil {
		return err
	}
	for _, a := range n.Flood {
		if a != w.VTEP && !slices.Contains(flood, a) {
			if err := m.ns.AddFlood(name, a); err != nil {
				return err
			}
			flood = append(flood, a) // the list may name it twice
		}
	}
	for _, a := range flood {
		if a == w.VTEP || !slices.Contains(n.Flood, a) {
			if err := m.ns.DelFlood(name, a); err != nil {
				return err
			}
		}
	}

	entries := map[string]netio.FDBEntry{}
	for _, e := range have {
		entries[e.MAC.String()] = e
	}
	if e, ok := entries[GatewayMAC.String()]; !w.Role.Gateway && w.AnycastVTEP.IsValid() {
		if !ok || e.VTEP != w.AnycastVTEP || !e.Static {
			if err := m.ns.SetFDB(name, netio.FDBEntry{MAC: GatewayMAC, VTEP: w.AnycastVTEP, Static: true}); err != nil {
				return err
			}
		}
		delete(entries, GatewayMAC.String())
	} else if ok && !e.Static { // learned from another gateway; never sent to
		delete(entries, GatewayMAC.String())
	}
	// A gateway learns the routers' common MAC from every hypervisor in turn, and never sends to it.
	delete(entries, AnycastMAC.String())
	said := m.Word[short(n.UID)]
	words := map[string]string{}
	for _, e := range n.Endpoints {
		mac, word := e.MAC.String(), ""
		if e.VTEP.IsValid() && e.VTEP != w.VTEP {
			word = e.VTEP.String()
		}
		words[mac] = word
		cur, there := entries[mac]
		delete(entries, mac)
		last, known := said[mac]
		news := !known || last != word
		switch {
		case word != "" && (!there || news && cur.VTEP != e.VTEP):
			err = m.ns.SetFDB(name, netio.FDBEntry{MAC: e.MAC, VTEP: e.VTEP})
		case word == "" && there && news:
			err = m.ns.DelFDB(name, cur)
		}
		if err != nil {
			return err
		}
	}
	for vtep := range claimOf(n).vteps { // a gateway elsewhere may be a hypervisor, too
		delete(entries, edgeMAC(vtep).String())
	}
	// What is left was learned of MACs that are nobody's any more, or set for VMs that are gone.
	for _, e := range entries {
		if err := m.ns.DelFDB(name, e); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	if m.Word == nil {
		m.Word = map[string]map[string]string{}
	}
	m.Word[short(n.UID)] = words
	return nil
}

// pin makes sure that what goes to the gateways leaves by the VXLAN device, or that nothing leads there.
func (m *l2) pin(vx string, want bool) error {
	pinned, err := m.ns.Pinned(vx, GatewayMAC)
	switch {
	case err != nil || pinned == want:
		return err
	case want:
		return m.ns.PinMAC(vx, GatewayMAC)
	}
	return m.ns.UnpinMAC(vx, GatewayMAC)
}
