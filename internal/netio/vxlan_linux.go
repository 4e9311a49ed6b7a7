package netio

import (
	"fmt"
	"io/fs"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
)

// VXLANPort is the UDP port of VXLAN (RFC 7348 §5).
const VXLANPort = 4789

// vxlanAgeing is how long, in seconds, a VXLAN device keeps what it learned. As good as for ever: this kernel counts from
// the last time it was learned, not used, and reads zero as its default of 300; who wants an entry gone deletes it.
const vxlanAgeing = 4_000_000

// VXLANSpec describes a VXLAN device over IPv6 that sends nothing but to the entries of its forwarding database
// (see SetFDB and AddFlood) and learns from what it receives. It is bound to no underlay device: routes decide.
type VXLANSpec struct {
	Name  string
	VNI   uint32
	Local netip.Addr       // source address of the outer packets
	MAC   net.HardwareAddr // nil: the kernel's choice
	MTU   int              // bytes, of the inner packets
}

// AddVXLAN makes a VXLAN device, down, that makes itself no link-local address.
func (n *NS) AddVXLAN(s VXLANSpec) error {
	v := &netlink.Vxlan{
		LinkAttrs: attrs(s.Name, s.MTU, s.MAC), VxlanId: int(s.VNI), SrcAddr: s.Local.AsSlice(), Port: VXLANPort,
		TTL: 64, Learning: true, Age: vxlanAgeing, UDPCSum: true,
	}
	if err := n.h.LinkAdd(v); err != nil {
		return fmt.Errorf("add vxlan %s: %w", s.Name, err)
	}
	if err := n.onLink("silence", s.Name, n.silence); err != nil {
		return fmt.Errorf("add vxlan %s: %w", s.Name, err)
	}
	return nil
}

// VXLAN reads a VXLAN device; fs.ErrNotExist if there is none, or one of another kind or port.
func (n *NS) VXLAN(name string) (VXLANSpec, error) {
	l, err := n.h.LinkByName(name)
	if err != nil {
		return VXLANSpec{}, fmt.Errorf("read vxlan %s: %w", name, notExist(err))
	}
	v, ok := l.(*netlink.Vxlan)
	if !ok || v.Port != VXLANPort || !v.Learning {
		return VXLANSpec{}, fmt.Errorf("read vxlan %s: it is another device: %w", name, fs.ErrNotExist)
	}
	return VXLANSpec{Name: name, VNI: uint32(v.VxlanId), Local: toAddr(v.SrcAddr), MAC: v.HardwareAddr, MTU: v.MTU}, nil
}
