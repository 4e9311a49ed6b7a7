package netio

import (
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Neighbour is an entry of a device's neighbour cache.
type Neighbour struct {
	Addr      netip.Addr
	MAC       net.HardwareAddr // nil while it is not known
	Permanent bool             // made by hand: it never ages, and no packet changes it
}

// Neighbours lists a device's IPv6 neighbour cache.
func (n *NS) Neighbours(link string) ([]Neighbour, error) {
	var out []Neighbour
	err := n.onLink("list neighbours of", link, func(l netlink.Link) error {
		list, err := n.h.NeighList(l.Attrs().Index, unix.AF_INET6)
		for _, e := range list {
			if e.State == netlink.NUD_NOARP { // multicast and the device's own addresses
				continue
			}
			out = append(out, Neighbour{Addr: toAddr(e.IP), MAC: e.HardwareAddr, Permanent: e.State&netlink.NUD_PERMANENT != 0})
		}
		return err
	})
	return out, err
}

// SetNeighbour makes a permanent entry of a device's neighbour cache, in place of any other of the address.
func (n *NS) SetNeighbour(link string, addr netip.Addr, mac net.HardwareAddr) error {
	return n.onLink("set neighbour "+addr.String()+" of", link, func(l netlink.Link) error {
		return n.h.NeighSet(&netlink.Neigh{
			LinkIndex: l.Attrs().Index, State: netlink.NUD_PERMANENT, IP: addr.AsSlice(), HardwareAddr: mac,
		})
	})
}

// DelNeighbour deletes an entry of a device's neighbour cache; fs.ErrNotExist if there is none.
func (n *NS) DelNeighbour(link string, addr netip.Addr) error {
	return n.onLink("delete neighbour "+addr.String()+" of", link, func(l netlink.Link) error {
		return n.h.NeighDel(&netlink.Neigh{LinkIndex: l.Attrs().Index, IP: addr.AsSlice()})
	})
}
