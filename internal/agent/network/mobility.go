package network

// A network's mobility is how its VMs keep their addresses when they move to another host. What all mobilities have in common is
// the driver's: the bridge that VMs plug into, and what they may do there (rules.go); its addresses, by which the host is their
// router; dnsmasq; a gateway's addresses and the entries of the VMs (roles.go). What differs is how hosts reach each other: that
// is behind this interface. The file l2.go has the first one.

import (
	"net"
	"net/netip"

	"widecloud/internal/netio"
)

// mobility joins a network on this host to the same network on other hosts.
type mobility interface {
	// device names the network's device beside the bridge. On a gateway packets enter and leave the network by it.
	device(n Network) string
	// join makes sure of what joins the network's bridge to the other hosts. The bridge is there.
	join(w Want, n Network) error
	// wayOut leads what the VMs here send beyond their network to the gateways: it makes sure of what that needs, and returns
	// routes for the network's table and neighbours for its bridge. Both are empty where the host is a gateway itself, or where
	// there are no gateways.
	wayOut(w Want, n Network) ([]netio.Route, map[netip.Addr]net.HardwareAddr, error)
	// edge makes the device by which this host, a gateway, reaches the other hosts. The driver gives it its addresses and its
	// entries of VMs, and sets it up.
	edge(w Want, n Network) error
	// forget drops what is remembered of networks whose devices do not stay.
	forget(stays map[string]bool)
	// elements adds those of the rule set's sets that tell what may come from other hosts and go there. plugged tells which VMs
	// are plugged in here.
	elements(el elements, w Want, n Network, plugged func(Endpoint) bool)
}

// mobilities makes those that are known, by their name in a network's spec. s is the part of the state that is theirs.
var mobilities = map[string]func(k kernel, s *state) mobility{
	"": func(k kernel, s *state) mobility { return &l2{k, &s.l2State} },
}

// newMobilities makes one of each.
func newMobilities(k kernel, s *state) map[string]mobility {
	out := make(map[string]mobility, len(mobilities))
	for name, f := range mobilities {
		out[name] = f(k, s)
	}
	return out
}
