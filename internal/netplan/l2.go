package netplan

import "slices"

// l2 stretches a network's layer 2 over all hosts that carry it, with VXLAN. What a host floods goes to all others by
// unicast; where each VM is stands in the endpoints.
type l2 struct{}

// reach names whom a host floods to. A gateway floods to hypervisors only: the gateways share one address and never speak
// to each other on a network.
func (l2) reach(o *Order, self Host, carriers []carrier) {
	o.Flood = slices.Grow(o.Flood, len(carriers))
	for _, c := range carriers {
		if c.vtep != self.VTEP && !(self.gate() && c.gate) {
			o.Flood = append(o.Flood, c.vtep)
		}
	}
}
