package netplan

import "net/netip"

// mobility is what is particular to one way in which VMs keep their addresses when they move. All that the ways have in
// common is outside of it: which hosts carry a network, which VMs are on it and where, who translates its service addresses.
type mobility interface {
	// reach adds to o what host self must know to reach the other hosts that carry the network. No two carriers have one VTEP.
	reach(o *Order, self Host, carriers []carrier)
}

// defaultMobility is the mobility of a network whose spec names none.
const defaultMobility = "l2"

// mobilities are those that are known, by their name in a [Spec].
var mobilities = map[string]mobility{
	"": l2{},
}

// carrier is a host that carries a network, here or at another site.
type carrier struct {
	vtep netip.Addr
	gate bool // it carries the network as a gateway only
}

// merged gives each VTEP once, where it stands first.
func merged(carriers []carrier) []carrier {
	at := make(map[netip.Addr]int, len(carriers))
	out := make([]carrier, 0, len(carriers))
	for _, c := range carriers {
		i, there := at[c.vtep]
		if !there {
			at[c.vtep] = len(out)
			out = append(out, c)
			continue
		}
		out[i].gate = out[i].gate && c.gate
	}
	return out
}
