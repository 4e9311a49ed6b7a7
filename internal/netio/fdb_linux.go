package netio

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// allZero is the MAC of the entries that unknown and multicast destinations go to.
var allZero = net.HardwareAddr{0, 0, 0, 0, 0, 0}

// FDBEntry is an entry of a VXLAN device's forwarding database: frames for MAC go to VTEP.
type FDBEntry struct {
	MAC  net.HardwareAddr
	VTEP netip.Addr
	// Static entries stay where they are, and frames from MAC that come from another VTEP are dropped. Others
	// follow the MAC when frames from it come from another VTEP.
	Static bool
}

// FDB lists a VXLAN device's unicast entries, and the VTEPs that it floods to, sorted.
func (n *NS) FDB(vxlan string) (entries []FDBEntry, flood []netip.Addr, err error) {
	err = n.onLink("list forwarding database of", vxlan, func(l netlink.Link) error {
		list, err := n.h.NeighList(l.Attrs().Index, unix.AF_BRIDGE)
		if err != nil {
			return err
		}
		for _, e := range list {
			switch {
			case e.Flags&netlink.NTF_SELF == 0 || len(e.HardwareAddr) != 6: // the bridge's entry for this port
			case bytes.Equal(e.HardwareAddr, allZero):
				flood = append(flood, toAddr(e.IP))
			default:
				entries = append(entries, FDBEntry{
					MAC: e.HardwareAddr, VTEP: toAddr(e.IP), Static: e.State&(netlink.NUD_PERMANENT|netlink.NUD_NOARP) != 0,
				})
			}
		}
		return nil
	})
	slices.SortFunc(flood, netip.Addr.Compare)
	slices.SortFunc(entries, func(a, b FDBEntry) int { return bytes.Compare(a.MAC, b.MAC) })
	return entries, flood, err
}

// SetFDB makes an entry of a VXLAN device, or changes the one of the same MAC.
func (n *NS) SetFDB(vxlan string, e FDBEntry) error {
	return n.onFDB("set entry", vxlan, e, n.h.NeighSet)
}

// DelFDB deletes an entry; fs.ErrNotExist if there is none.
func (n *NS) DelFDB(vxlan string, e FDBEntry) error {
	return n.onFDB("delete entry", vxlan, e, n.h.NeighDel)
}

// AddFlood makes a VXLAN device send a copy of each frame for an unknown or multicast MAC to vtep too.
func (n *NS) AddFlood(vxlan string, vtep netip.Addr) error {
	return n.onFDB("flood", vxlan, FDBEntry{MAC: allZero, VTEP: vtep, Static: true}, n.h.NeighAppend)
}

// DelFlood undoes AddFlood.
func (n *NS) DelFlood(vxlan string, vtep netip.Addr) error {
	return n.onFDB("stop flooding", vxlan, FDBEntry{MAC: allZero, VTEP: vtep, Static: true}, n.h.NeighDel)
}

func (n *NS) onFDB(what, vxlan string, e FDBEntry, f func(*netlink.Neigh) error) error {
	return n.onLink(fmt.Sprintf("%s %s -> %s on", what, e.MAC, e.VTEP), vxlan, func(l netlink.Link) error {
		k := &netlink.Neigh{
			LinkIndex: l.Attrs().Index, Family: unix.AF_BRIDGE, Flags: netlink.NTF_SELF, State: netlink.NUD_REACHABLE,
			HardwareAddr: e.MAC, IP: e.VTEP.AsSlice(),
		}
		if e.Static {
			k.State = netlink.NUD_PERMANENT
		}
		return f(k)
	})
}

// PinMAC makes the bridge that port belongs to send frames for mac out of port, whatever it learns (a static, sticky
// entry).
func (n *NS) PinMAC(port string, mac net.HardwareAddr) error {
	return n.onLink("pin "+mac.String()+" to", port, func(l netlink.Link) error {
		return n.h.NeighSet(&netlink.Neigh{
			LinkIndex: l.Attrs().Index, Family: unix.AF_BRIDGE, Flags: netlink.NTF_MASTER | netlink.NTF_STICKY,
			State: netlink.NUD_NOARP, HardwareAddr: mac,
		})
	})
}

// UnpinMAC undoes PinMAC; fs.ErrNotExist if there is no such entry.
func (n *NS) UnpinMAC(port string, mac net.HardwareAddr) error {
	return n.onLink("unpin "+mac.String()+" from", port, func(l netlink.Link) error {
		return n.h.NeighDel(&netlink.Neigh{
			LinkIndex: l.Attrs().Index, Family: unix.AF_BRIDGE, Flags: netlink.NTF_MASTER, HardwareAddr: mac,
		})
	})
}

// Pinned tells whether PinMAC's entry is there.
func (n *NS) Pinned(port string, mac net.HardwareAddr) (bool, error) {
	found := false
	err := n.onLink("list bridge entries of", port, func(l netlink.Link) error {
		list, err := n.h.NeighList(l.Attrs().Index, unix.AF_BRIDGE)
		for _, e := range list {
			found = found || e.Flags&netlink.NTF_SELF == 0 && e.State&netlink.NUD_NOARP != 0 && bytes.Equal(e.HardwareAddr, mac)
		}
		return err
	})
	return found, err
}
