package cloud

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net/netip"
)

// HardwareAddr is an Ethernet address.
type HardwareAddr [6]byte

func (a HardwareAddr) String() string {
	return fmt.Sprintf("%02x:%02x:%02x:%02x:%02x:%02x", a[0], a[1], a[2], a[3], a[4], a[5])
}

// ParseMAC reads what String writes.
func ParseMAC(s string) (HardwareAddr, error) {
	var a HardwareAddr
	if len(s) != 17 {
		return a, fmt.Errorf("parse mac %q: not six pairs of hexadecimal digits", s)
	}
	for i := range a {
		if _, err := hex.Decode(a[i:i+1], []byte(s[3*i:3*i+2])); err != nil || (i < 5 && s[3*i+2] != ':') {
			return HardwareAddr{}, fmt.Errorf("parse mac %q: not six pairs of hexadecimal digits", s)
		}
	}
	return a, nil
}

// MAC is the Ethernet address of a VM's network card: locally administered, unicast, the same wherever it runs. The first
// octet is 06, so that it never meets the addresses that networks use themselves (02:57:43:…) nor the fe:… that libvirt
// gives to the host's end; the other 40 bits are a hash of the UID.
func MAC(uid string) HardwareAddr {
	h := sha256.Sum256([]byte("mac " + uid))
	return HardwareAddr{0x06, h[0], h[1], h[2], h[3], h[4]}
}

// EUI64 is the address that SLAAC makes in a /64 for an Ethernet address: RFC 4291 Appendix A, the universal/local bit
// inverted and fffe in the middle. The zero Addr if the prefix is not an IPv6 /64.
func EUI64(prefix netip.Prefix, mac HardwareAddr) netip.Addr {
	if !prefix.Addr().Is6() || prefix.Bits() != 64 {
		return netip.Addr{}
	}
	b := prefix.Masked().Addr().As16()
	copy(b[8:], []byte{mac[0] ^ 0x02, mac[1], mac[2], 0xff, 0xfe, mac[3], mac[4], mac[5]})
	return netip.AddrFrom16(b)
}

// IPv4For is the index-th host address of a network's IPv4 prefix. Index 0 is the network's own address, the router's on
// every host; VMs have 1 and up. The zero Addr when the prefix is none that a Network may have, or has not so many.
func IPv4For(prefix netip.Prefix, index int) netip.Addr {
	if !dhcpPrefix(prefix) || index < 0 || index >= 1<<(32-prefix.Bits())-2 {
		return netip.Addr{}
	}
	b := prefix.Masked().Addr().As4()
	binary.BigEndian.PutUint32(b[:], binary.BigEndian.Uint32(b[:])+1+uint32(index))
	return netip.AddrFrom4(b)
}

func dhcpPrefix(p netip.Prefix) bool {
	return p.Addr().Is4() && p.Bits() >= 16 && p.Bits() <= 28
}

// MaxVNI is the largest VXLAN network identifier (RFC 7348 §4: 24 bits).
const MaxVNI = 1<<24 - 1

// VNI chooses a network's VXLAN identifier: a hash of its UID, so that networks of different sites seldom meet, moved on
// past those that are taken. 0 when all are taken.
func VNI(uid string, taken func(uint32) bool) uint32 {
	h := sha256.Sum256([]byte("vni " + uid))
	first := binary.BigEndian.Uint32(h[:]) % MaxVNI // 0 to MaxVNI-1
	for i := range uint32(MaxVNI) {
		if v := (first+i)%MaxVNI + 1; !taken(v) {
			return v
		}
	}
	return 0
}
