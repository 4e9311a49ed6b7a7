package machine

import (
	"fmt"
	"net/netip"
	"strings"
	"time"
)

// BGP describes a node's part in BGP, instead of OSPF and OSPFv3.
type BGP struct {
	AS         int
	Neighbours []Neighbour
	// Announce are the devices whose connected prefixes the node originates. It
	// passes on what it learns.
	Announce []string
}

// Neighbour is one BGP session, of the address's family.
type Neighbour struct {
	AS   int
	Addr netip.Addr
}

// config is bgpd's. Sessions are watched by BFD; nothing is held back: a prefix
// that goes is withdrawn at once.
func (b *BGP) config(id netip.Addr) string {
	var t strings.Builder
	for i, d := range b.Announce {
		fmt.Fprintf(&t, "route-map announced permit %d\n match interface %s\nexit\n", 10*(i+1), d)
	}
	fmt.Fprintf(&t, "router bgp %d\n bgp router-id %s\n no bgp default ipv4-unicast\n no bgp ebgp-requires-policy\n"+
		" bgp bestpath as-path multipath-relax\n timers bgp 3 9\n", b.AS, id)
	for _, n := range b.Neighbours {
		fmt.Fprintf(&t, " neighbor %[1]s remote-as %[2]d\n neighbor %[1]s bfd profile lab\n neighbor %[1]s advertisement-interval 0\n neighbor %[1]s timers connect 1\n", n.Addr, n.AS)
	}
	for _, family := range []string{"ipv4", "ipv6"} {
		fmt.Fprintf(&t, " address-family %s unicast\n", family)
		for _, n := range b.Neighbours {
			if n.Addr.Is4() == (family == "ipv4") {
				fmt.Fprintf(&t, "  neighbor %s activate\n", n.Addr)
			}
		}
		if len(b.Announce) > 0 {
			t.WriteString("  redistribute connected route-map announced\n")
		}
		t.WriteString("  maximum-paths 8\n exit-address-family\n")
	}
	t.WriteString("exit\n")
	return t.String()
}

// bfdConfig is bfdd's: three missing packets are a failure.
func bfdConfig(interval time.Duration) string {
	return fmt.Sprintf("bfd\n profile lab\n  detect-multiplier 3\n  receive-interval %[1]d\n  transmit-interval %[1]d\n exit\nexit\n", interval.Milliseconds())
}
