package network

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"slices"
	"strings"
)

var label = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$`)

// faults gathers what is wrong, each with its field.
type faults []error

func (f *faults) add(format string, args ...any) { *f = append(*f, fmt.Errorf(format, args...)) }

// join returns the faults in the order of their texts, so that the same faults read the same each time.
func (f faults) join() error {
	slices.SortFunc(f, func(a, b error) int { return strings.Compare(a.Error(), b.Error()) })
	return errors.Join(f...)
}

// Validate returns every fault of w that concerns the host itself, each with its field. Apply calls it first. What is wrong
// with a network is judged network by network (see [NetworkError]).
func (w Want) Validate() error {
	var f faults
	if len(w.Networks) > 0 || w.VTEP.IsValid() {
		f.vtep("vtep", w.VTEP)
	}
	if w.AnycastVTEP.IsValid() {
		f.vtep("anycast_vtep", w.AnycastVTEP)
		if w.AnycastVTEP == w.VTEP {
			f.add("anycast_vtep: %s is the host's own VTEP too", w.VTEP)
		}
	} else if w.Role.Gateway && len(w.Networks) > 0 {
		f.add("anycast_vtep: missing, and a gateway needs it")
	}
	if len(w.Networks) > 0 && !w.Role.Hypervisor && !w.Role.Gateway {
		f.add("role: a host that carries networks is a hypervisor or a gateway")
	}
	for i, p := range w.Reserved {
		if !p.IsValid() {
			f.add("reserved[%d]: missing", i)
		}
	}
	return errors.Join(f...)
}

func (f *faults) vtep(field string, a netip.Addr) {
	if !a.Is6() || a.Is4In6() || a.Zone() != "" || a.IsMulticast() || a.IsUnspecified() || a.IsLoopback() || a.IsLinkLocalUnicast() {
		f.add("%s: %q is not a routable IPv6 unicast address", field, a)
	}
}

// validate returns the faults that keep a network from being carried at all.
func (n Network) validate() error {
	var f faults
	if n.UID == "" {
		f.add("uid: missing")
	}
	if !label.MatchString(n.Name) {
		f.add("name: %q is not a DNS label", n.Name)
	}
	if _, ok := mobilities[n.Mobility]; !ok {
		f.add("mobility: %q is not known to this host's agent", n.Mobility)
	}
	if n.VNI == 0 || n.VNI >= 1<<24 {
		f.add("vni: %d is not between 1 and 16777215", n.VNI)
	}
	switch p := n.Prefix; {
	case !p.IsValid() || p.Bits() != 64 || !p.Addr().Is6() || p != p.Masked():
		f.add("prefix: %s is not an IPv6 /64", p)
	case p.Addr().IsMulticast() || p.Addr().IsLinkLocalUnicast() || p.Addr().IsUnspecified():
		f.add("prefix: %s has no addresses for VMs", p)
	}
	switch p := n.IPv4; {
	case !p.IsValid():
	case !p.Addr().Is4() || p.Bits() < 8 || p.Bits() > 29 || p != p.Masked():
		f.add("ipv4: %s is not an IPv4 prefix of /8 to /29", p)
	case p.Addr().IsMulticast() || p.Addr().IsLinkLocalUnicast() || p.Addr().IsLoopback() || p.Addr().As4()[0] == 0 || p.Addr().As4()[0] >= 240:
		f.add("ipv4: %s has no addresses for VMs", p)
	}
	if n.MTU != 0 && (n.MTU < 1280 || n.MTU > 9000) {
		f.add("mtu: %d is not between 1280 and 9000", n.MTU)
	}
	return errors.Join(f...)
}

// endpoints returns those of a network's endpoints that are sound, and the faults of the others. Of two that exclude each other
// the first is sound.
func (n Network) endpoints(vtep func(field string, a netip.Addr) error) (sound []Endpoint, bad []error) {
	tails, addrs := map[string]string{}, map[netip.Addr]string{}
	for i, e := range n.Endpoints {
		f := n.faultsOf(e, fmt.Sprintf("endpoints[%d].", i), vtep)
		// A plug is known by the last five bytes of its VM's MAC.
		if other, ok := tails[tail(e.MAC)]; ok {
			f.add("endpoints[%d].mac: %s differs from that of VM %s in its first byte at most", i, e.MAC, other)
		}
		if other, ok := addrs[e.IPv6]; ok {
			f.add("endpoints[%d].ipv6: %s is that of VM %s too", i, e.IPv6, other)
		}
		if other, ok := addrs[e.IPv4]; ok && e.IPv4.IsValid() {
			f.add("endpoints[%d].ipv4: %s is that of VM %s too", i, e.IPv4, other)
		}
		if len(f) > 0 {
			bad = append(bad, fmt.Errorf("VM %s is left out: %w", e.VM, errors.Join(f...)))
			continue
		}
		tails[tail(e.MAC)], addrs[e.IPv6], addrs[e.IPv4] = e.VM, e.VM, e.VM
		sound = append(sound, e)
	}
	return sound, bad
}

func (n Network) faultsOf(e Endpoint, at string, vtep func(field string, a netip.Addr) error) (f faults) {
	switch {
	case len(e.MAC) != 6 || e.MAC[0]&1 != 0 || bytes.Equal(e.MAC, make(net.HardwareAddr, 6)):
		f.add("%smac: %q is not a MAC for a VM", at, e.MAC)
	case routersMAC(e.MAC) || e.MAC[0] == plugByte:
		f.add("%smac: %s is not a MAC for a VM: hosts use it", at, e.MAC)
	}
	if a := e.IPv6; !a.IsValid() || !n.Prefix.Contains(a) || a == n.router6() || a == n.gateway6() || a == n.Prefix.Addr() {
		f.add("%sipv6: %q is not an address for a VM in %s", at, a, n.Prefix)
	}
	if a := e.IPv4; a.IsValid() && (!n.IPv4.IsValid() || !n.IPv4.Contains(a) || a == n.router4() || a == n.IPv4.Addr() || a == broadcast(n.IPv4)) {
		f.add("%sipv4: %s is not an address for a VM in %s", at, a, n.IPv4)
	}
	if e.VTEP.IsValid() {
		if err := vtep(at+"vtep", e.VTEP); err != nil {
			f = append(f, err)
		}
	}
	if e.Hostname != "" && !label.MatchString(e.Hostname) {
		f.add("%shostname: %q is not a DNS label", at, e.Hostname)
	}
	return f
}
