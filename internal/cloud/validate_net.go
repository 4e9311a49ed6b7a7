package cloud

import (
	"encoding/base64"
	"encoding/binary"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"widecloud/api"
)

const (
	minMTU = 1280 // RFC 8200 §5
	maxMTU = 1430 // an underlay of 1500 less VXLAN over IPv6: 40 + 8 + 8 + 14
)

var (
	globalUnicast = netip.MustParsePrefix("2000::/3") // RFC 4291 §2.4, what IANA has given out
	uniqueLocal   = netip.MustParsePrefix("fd00::/8") // RFC 4193 §3.1
	private4      = []netip.Prefix{                   // RFC 1918 §3
		netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("172.16.0.0/12"), netip.MustParsePrefix("192.168.0.0/16"),
	}
)

// NetworkSpace tells whether a prefix is where networks may be: global unicast (RFC 4291 §2.4) or unique local (RFC 4193).
func NetworkSpace(p netip.Prefix) bool {
	return within(p, globalUnicast) || within(p, uniqueLocal)
}

// isPrivate tells whether an IPv4 prefix is of RFC 1918.
func isPrivate(p netip.Prefix) bool {
	return slices.ContainsFunc(private4, func(q netip.Prefix) bool { return within(p, q) })
}

// checkPrefix parses a prefix that has no bits beyond its length.
func checkPrefix(field, s string) (netip.Prefix, *api.Error) {
	p, err := netip.ParsePrefix(s)
	if err != nil {
		return p, api.Invalidf(field, "%.60q is no prefix", s)
	}
	if p != p.Masked() {
		return p, api.Invalidf(field, "%s has bits beyond its length; it would be %s", s, p.Masked())
	}
	return p, nil
}

func checkNetwork(n *api.Network, k Known) []*api.Error {
	s := n.Spec
	p6, err6 := checkPrefix6("spec.prefix", s.Prefix)
	p4, err4 := checkPrefix4("spec.ipv4", s.IPv4)
	faults := some(err6, err4)
	if s.Mobility != "" && s.Mobility != "l2" {
		faults = append(faults, api.Invalidf("spec.mobility", "%.60q is not l2", s.Mobility))
	}
	if s.MTU != 0 {
		faults = append(faults, some(checkRange("spec.mtu", s.MTU, minMTU, maxMTU))...)
	}
	if s.VNI > MaxVNI {
		faults = append(faults, api.Invalidf("spec.vni", "%d is not between 1 and %d", s.VNI, MaxVNI))
	}
	if err6 == nil {
		faults = append(faults, some(clearOfAddresses("spec.prefix", p6, k), clearOfPrefixes("spec.prefix", n.Name, p6, k))...)
	}
	if err4 == nil && p4.IsValid() {
		faults = append(faults, some(clearOfPrefixes("spec.ipv4", n.Name, p4, k))...) // hosts carry many networks and have an address in each
	}
	for _, o := range k.Networks {
		if o.Name != n.Name && s.VNI != 0 && s.VNI == o.Spec.VNI {
			faults = append(faults, taken("spec.vni", "%d is network %s's", s.VNI, o.Name))
			break
		}
	}
	return faults
}

// checkPrefix6 judges a network's own prefix.
func checkPrefix6(field, text string) (netip.Prefix, *api.Error) {
	p, err := checkPrefix(field, text)
	switch {
	case err != nil:
		return p, err
	case !p.Addr().Is6() || p.Bits() != 64:
		return p, api.Invalidf(field, "%s is not an IPv6 /64", p)
	case !NetworkSpace(p):
		return p, api.Invalidf(field, "%s is neither global unicast (%s) nor unique local (%s)", p, globalUnicast, uniqueLocal)
	}
	return p, nil
}

// checkPrefix4 judges the prefix of a network's DHCP; "" is none.
func checkPrefix4(field, text string) (p netip.Prefix, err *api.Error) {
	if text == "" {
		return p, nil
	}
	p, err = checkPrefix(field, text)
	switch {
	case err != nil:
		return p, err
	case !isPrivate(p):
		return p, api.Invalidf(field, "%s is not private: 10.0.0.0/8, 172.16.0.0/12 or 192.168.0.0/16 (RFC 1918)", p)
	case !dhcpPrefix(p):
		return p, api.Invalidf(field, "%s is not between a /16 and a /28", p)
	}
	return p, nil
}

// clearOfAddresses keeps a network's prefix apart from the service addresses.
func clearOfAddresses(field string, p netip.Prefix, k Known) *api.Error {
	for _, o := range k.Addresses {
		if a, err := netip.ParseAddr(o.Spec.Address); err == nil && p.Contains(a) {
			return taken(field, "%s holds the service address %s", p, a)
		}
	}
	return nil
}

// clearOfPrefixes keeps a network's prefix apart from those of the other networks.
func clearOfPrefixes(field, name string, p netip.Prefix, k Known) *api.Error {
	for _, o := range k.Networks {
		for _, text := range []string{o.Spec.Prefix, o.Spec.IPv4} {
			if q, err := netip.ParsePrefix(text); err == nil && o.Name != name && q.Overlaps(p) {
				return taken(field, "%s overlaps %s of network %s", p, q, o.Name)
			}
		}
	}
	return nil
}

func taken(field, format string, args ...any) *api.Error {
	e := api.Invalidf(field, format, args...)
	e.Code = api.CodeExists
	return e
}

func checkAddress(a *api.Address, k Known) []*api.Error {
	faults := some(checkServiceAddress("spec.address", a.Name, a.Spec.Address, k))
	if a.Spec.VM != "" {
		faults = append(faults, some(checkName("spec.vm", a.Spec.VM))...)
	}
	return faults
}

// checkServiceAddress judges a service address that the object of a name is to hold.
func checkServiceAddress(field, name, text string, k Known) *api.Error {
	addr, err := netip.ParseAddr(text)
	if err != nil {
		return api.Invalidf(field, "%.60q is no IPv4 or IPv6 address", text)
	}
	if err := CheckService(field, addr); err != nil {
		return err.(*api.Error)
	}
	if addr.String() != text {
		// One form for one address: it is compared and stored as text elsewhere (RFC 5952).
		return api.Invalidf(field, "%s is not in its canonical form; write %s", text, addr)
	}
	for _, n := range k.Networks {
		for _, prefix := range []string{n.Spec.Prefix, n.Spec.IPv4} {
			if p, err := netip.ParsePrefix(prefix); err == nil && p.Contains(addr) {
				return api.Invalidf(field, "%s is inside %s of network %s: a service address is not a VM's own", addr, p, n.Name)
			}
		}
	}
	for _, o := range k.Addresses {
		if other, err := netip.ParseAddr(o.Spec.Address); err == nil && other == addr && o.Name != name {
			return taken(field, "%s is address %s already", addr, o.Name)
		}
	}
	return nil
}

func checkEndpoint(field, s string) *api.Error {
	if err := checkText(field, s, 300); err != nil {
		return err
	}
	i := strings.LastIndexByte(s, ':')
	if i < 0 {
		return api.Invalidf(field, "%q is not HOST:PORT", s)
	}
	host, port := s[:i], s[i+1:]
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || n == 0 {
		return api.Invalidf(field, "%q: port %q is not between 1 and 65535", s, port)
	}
	if inner, ok := strings.CutPrefix(host, "["); ok {
		inner, ok = strings.CutSuffix(inner, "]")
		if a, err := netip.ParseAddr(inner); !ok || err != nil || !a.Is6() {
			return api.Invalidf(field, "%q: %q is no IPv6 address in brackets", s, host)
		}
		return nil
	}
	if host == "" || strings.ContainsAny(host, ":[]/ ") {
		return api.Invalidf(field, "%q is not HOST:PORT (an IPv6 address stands in brackets)", s)
	}
	return nil
}

// checkSSHKey judges a line of authorized_keys (sshd(8)): perhaps options, then a key type, then the key in base64, which
// begins with that same type (RFC 4253 §6.6), then perhaps a comment. Options are refused: the users of a VM have root on
// it anyway, and a quoted string is the one place where such a line can hide something.
func checkSSHKey(field, line string) *api.Error {
	if err := checkText(field, line, 16<<10); err != nil {
		return err
	}
	words := strings.Fields(line)
	if len(words) < 2 {
		return api.Invalidf(field, "is not a line of authorized_keys: TYPE BASE64 [COMMENT]")
	}
	if strings.Contains(words[0], "PRIVATE") || strings.HasPrefix(line, "-----") {
		return api.Invalidf(field, "looks like a private key: give the public one")
	}
	blob, err := base64.StdEncoding.DecodeString(words[1])
	if err != nil {
		return api.Invalidf(field, "the key of type %.40q is not base64", words[0])
	}
	if len(blob) < 4 {
		return api.Invalidf(field, "the key of type %.40q is cut off", words[0])
	}
	n := binary.BigEndian.Uint32(blob)
	if n == 0 || uint64(n) >= uint64(len(blob)-4) || string(blob[4:4+n]) != words[0] {
		return api.Invalidf(field, "the key is not of type %.40q, as its line says, or is cut off", words[0])
	}
	return nil
}
