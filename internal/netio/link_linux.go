package netio

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"sort"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Link is what the kernel says of a network device.
type Link struct {
	Name      string
	Index     int
	Kind      string // "veth", "bridge", "vxlan", "tun", …; "device" for others
	MAC       net.HardwareAddr
	MTU       int    // bytes
	Up        bool   // administratively
	Carrier   bool   // it could carry packets now
	Master    string // bridge it is a port of, or ""
	RxBytes   uint64
	TxBytes   uint64
	RxPackets uint64
	TxPackets uint64
	RxDropped uint64
	TxDropped uint64
}

// VethSpec describes a cable between two namespaces.
type VethSpec struct {
	Name     string
	Peer     *NS // nil: the same namespace
	PeerName string
	MTU      int              // bytes; 0: 1500
	MAC      net.HardwareAddr // nil: the kernel's choice
	PeerMAC  net.HardwareAddr
}

// BridgeSpec describes an Ethernet bridge.
type BridgeSpec struct {
	Name string
	MAC  net.HardwareAddr // nil: the kernel's choice
	MTU  int              // bytes; 0: 1500
}

// Route is an entry of a routing table. Gateway and Link may both be given
// (a link-local gateway needs both); with neither it is a blackhole route.
type Route struct {
	Dst     netip.Prefix // 0.0.0.0/0 or ::/0 for the default route
	Gateway netip.Addr   // zero: on-link
	Link    string
	Src     netip.Addr // preferred source address; zero: the kernel's choice
	Table   int        // 0: main (254)
	Metric  int
	MTU     int // bytes; 0: the link's
	// Protocol is the kernel's number for who made the route (4 static,
	// 188 OSPF of FRR, …). 0 when adding: static.
	Protocol int
}

// AddVeth makes a pair of connected devices, one end here, one end in the peer
// namespace. Both are down. Frames never pass through a third namespace.
func (n *NS) AddVeth(s VethSpec) error {
	if s.MTU == 0 {
		s.MTU = 1500
	}
	v := &netlink.Veth{
		LinkAttrs:        attrs(s.Name, s.MTU, s.MAC),
		PeerName:         s.PeerName,
		PeerHardwareAddr: s.PeerMAC,
		PeerMTU:          uint32(s.MTU),
	}
	if s.Peer != nil {
		v.PeerNamespace = netlink.NsFd(int(s.Peer.fd))
	}
	if err := n.h.LinkAdd(v); err != nil {
		return fmt.Errorf("add veth %s: %w", s.Name, err)
	}
	return nil
}

// AddBridge makes a bridge, up, without multicast snooping (there is no
// querier, so snooping would drop neighbour discovery after a while), and keeps
// bridged packets of the namespace away from netfilter's IP hooks.
func (n *NS) AddBridge(s BridgeSpec) error {
	if s.MTU == 0 {
		s.MTU = 1500
	}
	off := false
	b := &netlink.Bridge{LinkAttrs: attrs(s.Name, s.MTU, s.MAC), MulticastSnooping: &off}
	if err := n.h.LinkAdd(b); err != nil {
		return fmt.Errorf("add bridge %s: %w", s.Name, err)
	}
	if err := n.bridgesBypassNetfilter(); err != nil {
		return fmt.Errorf("add bridge %s: %w", s.Name, errors.Join(err, n.DeleteLink(s.Name)))
	}
	return n.SetUp(s.Name)
}

// OpenTAP makes an Ethernet device whose other end is the returned file: one
// frame per read and write, no extra header. The device goes when it is closed.
func (n *NS) OpenTAP(name string) (*os.File, error) {
	if len(name) >= unix.IFNAMSIZ {
		return nil, fmt.Errorf("open tap %s: name longer than %d bytes", name, unix.IFNAMSIZ-1)
	}
	var f *os.File
	err := n.Do(func() error {
		fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
		if err != nil {
			return err
		}
		ifr, err := unix.NewIfreq(name)
		if err == nil {
			ifr.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_TUN_EXCL)
			err = unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr)
		}
		if err != nil {
			unix.Close(fd)
			return err
		}
		f = os.NewFile(uintptr(fd), "tap "+name)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("open tap %s: %w", name, err)
	}
	return f, nil
}

// DeleteLink removes a device; fs.ErrNotExist if there is none.
func (n *NS) DeleteLink(name string) error {
	return n.onLink("delete link", name, n.h.LinkDel)
}

// SetUp brings a device up.
func (n *NS) SetUp(name string) error { return n.onLink("set link up", name, n.h.LinkSetUp) }

// SetDown takes a device down; a veth's other end loses its carrier.
func (n *NS) SetDown(name string) error { return n.onLink("set link down", name, n.h.LinkSetDown) }

// SetMTU sets a device's MTU in bytes.
func (n *NS) SetMTU(name string, mtu int) error {
	return n.onLink("set link mtu", name, func(l netlink.Link) error { return n.h.LinkSetMTU(l, mtu) })
}

// setNoqueue takes the queueing discipline from a device.
func (n *NS) setNoqueue(name string) error {
	return n.onLink("set link noqueue", name, func(l netlink.Link) error {
		return n.h.QdiscReplace(&netlink.GenericQdisc{QdiscAttrs: netlink.QdiscAttrs{LinkIndex: l.Attrs().Index, Parent: netlink.HANDLE_ROOT}, QdiscType: "noqueue"})
	})
}

// SetMAC sets a device's hardware address.
func (n *NS) SetMAC(name string, mac net.HardwareAddr) error {
	return n.onLink("set link mac", name, func(l netlink.Link) error { return n.h.LinkSetHardwareAddr(l, mac) })
}

// SetMaster makes a device a port of a bridge, or of none if bridge is "".
func (n *NS) SetMaster(name, bridge string) error {
	return n.onLink("set link master", name, func(l netlink.Link) error {
		if bridge == "" {
			return n.h.LinkSetNoMaster(l)
		}
		m, err := n.h.LinkByName(bridge)
		if err != nil {
			return notExist(err)
		}
		return n.h.LinkSetMasterByIndex(l, m.Attrs().Index)
	})
}

// MoveLink moves a device to another namespace. It arrives down, without
// addresses and routes.
func (n *NS) MoveLink(name string, to *NS) error {
	return n.onLink("move link", name, func(l netlink.Link) error { return n.h.LinkSetNsFd(l, int(to.fd)) })
}

// Link returns a device; fs.ErrNotExist if there is none.
func (n *NS) Link(name string) (Link, error) {
	links, err := n.Links()
	if err != nil {
		return Link{}, err
	}
	for _, l := range links {
		if l.Name == name {
			return l, nil
		}
	}
	return Link{}, fmt.Errorf("find link %s: %w", name, fs.ErrNotExist)
}

// Links returns all devices of the namespace, by index.
func (n *NS) Links() ([]Link, error) {
	list, err := n.h.LinkList()
	if err != nil {
		return nil, fmt.Errorf("list links: %w", err)
	}
	names := map[int]string{}
	for _, l := range list {
		names[l.Attrs().Index] = l.Attrs().Name
	}
	links := make([]Link, 0, len(list))
	for _, l := range list {
		a := l.Attrs()
		out := Link{
			Name: a.Name, Index: a.Index, Kind: l.Type(), MAC: a.HardwareAddr, MTU: a.MTU,
			Up: a.Flags&net.FlagUp != 0, Carrier: a.RawFlags&unix.IFF_LOWER_UP != 0, Master: names[a.MasterIndex],
		}
		if s := a.Statistics; s != nil {
			out.RxBytes, out.TxBytes, out.RxPackets, out.TxPackets = s.RxBytes, s.TxBytes, s.RxPackets, s.TxPackets
			out.RxDropped, out.TxDropped = s.RxDropped, s.TxDropped
		}
		links = append(links, out)
	}
	sort.Slice(links, func(i, j int) bool { return links[i].Index < links[j].Index })
	return links, nil
}

// AddAddr gives a device an address with its prefix length; fs.ErrExist when it
// has it already.
func (n *NS) AddAddr(link string, p netip.Prefix) error {
	return n.onLink("add address "+p.String()+" to", link, func(l netlink.Link) error {
		return n.h.AddrAdd(l, netlinkAddr(p))
	})
}

// DelAddr takes an address from a device; fs.ErrNotExist when it has not got it.
func (n *NS) DelAddr(link string, p netip.Prefix) error {
	return n.onLink("delete address "+p.String()+" from", link, func(l netlink.Link) error {
		return n.h.AddrDel(l, netlinkAddr(p))
	})
}

// Addrs returns a device's addresses of both families, link-local ones too.
func (n *NS) Addrs(link string) ([]netip.Prefix, error) {
	var out []netip.Prefix
	err := n.onLink("list addresses of", link, func(l netlink.Link) error {
		list, err := n.h.AddrList(l, netlink.FAMILY_ALL)
		if err != nil {
			return err
		}
		for _, a := range list {
			if p, ok := toPrefix(a.IPNet); ok {
				out = append(out, p)
			}
		}
		return nil
	})
	return out, err
}

// LinkAddr is an address of a device.
type LinkAddr struct {
	Link string
	Addr netip.Addr
}

// AllAddrs returns the addresses of all devices, of both families, link-local ones too.
func (n *NS) AllAddrs() ([]LinkAddr, error) {
	links, err := n.Links()
	if err != nil {
		return nil, err
	}
	list, err := n.h.AddrList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	names := map[int]string{}
	for _, l := range links {
		names[l.Index] = l.Name
	}
	var out []LinkAddr
	for _, a := range list {
		if p, ok := toPrefix(a.IPNet); ok {
			out = append(out, LinkAddr{Link: names[a.LinkIndex], Addr: p.Addr()})
		}
	}
	return out, nil
}

// AddRoute adds a route; fs.ErrExist when there is one like it.
func (n *NS) AddRoute(r Route) error {
	return n.onRoute("add", r, n.h.RouteAdd)
}

// ReplaceRoute adds a route or takes the place of the one with the same
// destination, table and metric.
func (n *NS) ReplaceRoute(r Route) error {
	return n.onRoute("replace", r, n.h.RouteReplace)
}

// DelRoute deletes a route; fs.ErrNotExist if there is none.
func (n *NS) DelRoute(r Route) error {
	return n.onRoute("delete", r, n.h.RouteDel)
}

// Routes lists the unicast and blackhole routes of a table (0: main) in both
// families. A multipath route comes as one Route per next hop.
func (n *NS) Routes(table int) ([]Route, error) {
	if table == 0 {
		table = unix.RT_TABLE_MAIN
	}
	links, err := n.h.LinkList()
	if err != nil {
		return nil, fmt.Errorf("list routes: %w", err)
	}
	names := map[int]string{}
	for _, l := range links {
		names[l.Attrs().Index] = l.Attrs().Name
	}
	var out []Route
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		list, err := n.h.RouteListFiltered(family, &netlink.Route{Table: table}, netlink.RT_FILTER_TABLE)
		if err != nil {
			return nil, fmt.Errorf("list routes: %w", err)
		}
		for _, k := range list {
			r := Route{Table: k.Table, Metric: k.Priority, MTU: k.MTU, Protocol: int(k.Protocol)}
			r.Gateway, r.Src = toAddr(k.Gw), toAddr(k.Src)
			var ok bool
			if r.Dst, ok = toPrefix(k.Dst); !ok {
				r.Dst = netip.PrefixFrom(netip.IPv4Unspecified(), 0)
				if family == netlink.FAMILY_V6 {
					r.Dst = netip.PrefixFrom(netip.IPv6Unspecified(), 0)
				}
			}
			if k.LinkIndex != 0 && k.Type != unix.RTN_BLACKHOLE {
				r.Link = names[k.LinkIndex]
			}
			if len(k.MultiPath) == 0 {
				out = append(out, r)
			}
			for _, hop := range k.MultiPath {
				r.Gateway, r.Link = toAddr(hop.Gw), names[hop.LinkIndex]
				out = append(out, r)
			}
		}
	}
	return out, nil
}

func (n *NS) onLink(what, name string, f func(netlink.Link) error) error {
	l, err := n.h.LinkByName(name)
	if err == nil {
		err = f(l)
	}
	if err != nil {
		return fmt.Errorf("%s %s: %w", what, name, notExist(err))
	}
	return nil
}

func (n *NS) onRoute(what string, r Route, f func(*netlink.Route) error) error {
	k := &netlink.Route{
		Dst: ipNet(r.Dst.Masked()), Table: r.Table, Priority: r.Metric, MTU: r.MTU,
		Protocol: netlink.RouteProtocol(r.Protocol),
	}
	if k.Protocol == 0 && what != "delete" {
		k.Protocol = unix.RTPROT_STATIC
	}
	err := error(nil)
	if r.Gateway.IsValid() {
		k.Gw = r.Gateway.AsSlice()
	}
	if r.Src.IsValid() {
		k.Src = r.Src.AsSlice()
	}
	switch {
	case r.Link != "":
		var l netlink.Link
		if l, err = n.h.LinkByName(r.Link); err == nil {
			k.LinkIndex = l.Attrs().Index
		}
		if !r.Gateway.IsValid() && r.Dst.Addr().Is4() {
			k.Scope = netlink.SCOPE_LINK
		}
	case !r.Gateway.IsValid():
		k.Type = unix.RTN_BLACKHOLE
	}
	if err == nil {
		err = f(k)
	}
	if err != nil {
		return fmt.Errorf("%s route %s: %w", what, r.Dst, notExist(err))
	}
	return nil
}

// notExist adds fs.ErrNotExist to the kernel's and the netlink library's ways
// of saying that something is not there.
func notExist(err error) error {
	var missing netlink.LinkNotFoundError
	switch {
	case errors.As(err, &missing), errors.Is(err, unix.ESRCH), errors.Is(err, unix.EADDRNOTAVAIL), errors.Is(err, unix.ENODEV):
		return fmt.Errorf("%w (%w)", err, fs.ErrNotExist)
	}
	return err
}

func attrs(name string, mtu int, mac net.HardwareAddr) netlink.LinkAttrs {
	a := netlink.NewLinkAttrs()
	a.Name, a.MTU, a.HardwareAddr = name, mtu, mac
	return a
}

func netlinkAddr(p netip.Prefix) *netlink.Addr {
	a := &netlink.Addr{IPNet: ipNet(p)}
	if p.Addr().Is6() {
		a.Flags = unix.IFA_F_NODAD
	} else if p.Addr().IsLinkLocalUnicast() {
		a.Scope = unix.RT_SCOPE_LINK // no source for what goes further
	}
	return a
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

func toPrefix(n *net.IPNet) (netip.Prefix, bool) {
	if n == nil {
		return netip.Prefix{}, false
	}
	a := toAddr(n.IP)
	ones, _ := n.Mask.Size()
	return netip.PrefixFrom(a, ones), a.IsValid()
}

func toAddr(ip net.IP) netip.Addr {
	a, ok := netip.AddrFromSlice(ip)
	if !ok {
		return netip.Addr{}
	}
	return a.Unmap()
}
