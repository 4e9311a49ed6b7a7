package network

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"slices"

	"widecloud/internal/cloud"
)

// BridgeName is the device that VMs of a network plug into. It follows from the UID alone, so a migrating VM finds
// the same name at its target, and 40 bits of a digest fit the kernel's 15 characters.
func BridgeName(networkUID string) string { return "br-" + short(networkUID) }

// ours matches the names of a network's devices: its bridge, and those of the mobilities (vx: l2). Devices of networks that
// are no longer wanted are found by it, and are removed when they are of one of the kinds.
var (
	ours  = regexp.MustCompile(`^(br|vx)-([0-9a-f]{10})$`)
	kinds = []string{"bridge", "vxlan"}
)

func short(uid string) string {
	sum := sha256.Sum256([]byte(uid))
	return fmt.Sprintf("%x", sum[:5])
}

var (
	// AnycastMAC is the router's MAC at every hypervisor.
	AnycastMAC = net.HardwareAddr{0x02, 0x57, 0x43, 0x00, 0x00, 0x01}
	// GatewayMAC is the gateways' MAC on every network.
	GatewayMAC = net.HardwareAddr{0x02, 0x57, 0x43, 0x00, 0x06, 0x46}
	// routedMAC stands for another host's router in a frame that a host that is both takes as the gateway: its bridge must
	// not see its own MAC as a source.
	routedMAC = net.HardwareAddr{0x02, 0x57, 0x46, 0x00, 0x00, 0x01}
	// edgeOUI begins the MACs by which hosts that are hypervisor and gateway speak to VMs elsewhere.
	edgeOUI = net.HardwareAddr{0x02, 0x57, 0x47}
)

// plugByte is the first byte of the MAC that libvirt gives the host's end of a plug; the others are the VM's.
const plugByte = 0xfe

// edgeMAC is that of the host with a VTEP.
func edgeMAC(vtep netip.Addr) net.HardwareAddr {
	sum := sha256.Sum256(vtep.AsSlice())
	return slices.Concat(edgeOUI, net.HardwareAddr(sum[:3]))
}

// routersMAC tells whether a MAC is one that hosts route with.
func routersMAC(mac net.HardwareAddr) bool {
	return bytes.Equal(mac, AnycastMAC) || bytes.Equal(mac, GatewayMAC) || bytes.Equal(mac, routedMAC) || bytes.HasPrefix(mac, edgeOUI)
}

// linkLocal is the link-local address that a VM makes from its MAC.
func linkLocal(mac net.HardwareAddr) netip.Addr {
	return cloud.EUI64(linkLocals, cloud.HardwareAddr(mac))
}

var linkLocals = netip.MustParsePrefix("fe80::/64")

// tail is what a VM's MAC and that of the host's end of its plug have in common.
func tail(mac net.HardwareAddr) string {
	if len(mac) != 6 {
		return ""
	}
	return mac[1:].String()
}
