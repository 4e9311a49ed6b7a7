package network

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
)

// judge decides which networks of a Want a host carries. Networks that it carries already come first, then those of the Want
// in their order: whoever comes later may not take what another has.
type judge struct {
	w       Want
	taken   map[netip.Prefix]string // what networks must keep off, and what it is
	before  map[string]Network      // carried before, by UID
	claims  map[string]claim        // by UID
	carried []Network
	errs    []error
}

// claim is what a network keeps others from having.
type claim struct {
	name, bridge string
	vni          uint32
	prefix       netip.Prefix
	vteps        map[netip.Addr]bool
}

func claimOf(n Network) claim {
	c := claim{name: n.Name, bridge: BridgeName(n.UID), vni: n.VNI, prefix: n.Prefix, vteps: map[netip.Addr]bool{}}
	for _, a := range n.Flood {
		c.vteps[a] = true
	}
	for _, e := range n.Endpoints {
		if e.VTEP.IsValid() {
			c.vteps[e.VTEP] = true
		}
	}
	return c
}

// carry returns the networks of w that this host is to carry, in w's order, and a NetworkError for each that is not carried as w
// wants it. before are the networks that it carries, own the addresses that it has on devices of others, by device.
func carry(w Want, before []Network, own map[netip.Addr]string) ([]Network, []error) {
	j := judge{w: w, taken: map[netip.Prefix]string{}, before: map[string]Network{}, claims: map[string]claim{}}
	for _, p := range w.Reserved {
		j.taken[p] = "which is reserved"
	}
	for a, device := range own {
		j.taken[netip.PrefixFrom(a, a.BitLen())] = "an address of this host on " + device
	}
	for what, a := range map[string]netip.Addr{"this host's VTEP": w.VTEP, "the gateways' VTEP": w.AnycastVTEP} {
		if a.IsValid() {
			j.taken[netip.PrefixFrom(a, a.BitLen())] = what
		}
	}
	wanted := map[string]bool{}
	for _, n := range w.Networks {
		wanted[n.UID] = true
	}
	for _, n := range before {
		if _, known := mobilities[n.Mobility]; known && wanted[n.UID] && j.keptOff(n) == nil {
			j.before[n.UID], j.claims[n.UID] = n, claimOf(n)
		}
	}
	order := slices.Clone(w.Networks)
	rank := func(n Network) int {
		if _, ok := j.before[n.UID]; ok {
			return 0
		}
		return 1
	}
	slices.SortStableFunc(order, func(a, b Network) int { return rank(a) - rank(b) })
	done := map[string]bool{}
	for _, n := range order {
		if done[n.UID] && n.UID != "" {
			j.refuse(n, true, fmt.Errorf("uid: %q is there twice", n.UID))
			continue
		}
		done[n.UID] = true
		j.decide(n)
	}
	at := func(n Network) int {
		return slices.IndexFunc(w.Networks, func(o Network) bool { return o.UID == n.UID })
	}
	slices.SortStableFunc(j.carried, func(a, b Network) int { return at(a) - at(b) })
	return j.carried, j.errs
}

func (j *judge) refuse(n Network, carried bool, err error) {
	j.errs = append(j.errs, &NetworkError{UID: n.UID, Name: n.Name, Carried: carried, Err: err})
}

// decide carries n: as it is wanted, or without what is bad in it, or as it was before, or not at all.
func (j *judge) decide(n Network) {
	err := n.validate()
	if err == nil {
		err = errors.Join(j.keptOff(n), j.clash(n))
	}
	if err == nil {
		j.accept(n)
		return
	}
	last, ok := j.before[n.UID]
	if !ok {
		j.refuse(n, false, err)
		return
	}
	j.refuse(n, true, fmt.Errorf("it stays as it was before: %w", err))
	j.carried = append(j.carried, last)
}

func (j *judge) accept(n Network) {
	vtep := func(field string, a netip.Addr) error { return j.vtep(n, field, a) }
	flood := n.Flood
	n.Flood = nil
	for i, a := range flood {
		if err := vtep(fmt.Sprintf("flood[%d]", i), a); err != nil {
			j.refuse(n, true, fmt.Errorf("nothing is sent there: %w", err))
			continue
		}
		n.Flood = append(n.Flood, a)
	}
	var bad []error
	n.Endpoints, bad = n.endpoints(vtep)
	for _, err := range bad {
		j.refuse(n, true, err)
	}
	j.carried = append(j.carried, n)
	j.claims[n.UID] = claimOf(n)
}

// vtep judges a tunnel end point of a network. It may not be in a network: what is sent there would go through the network.
func (j *judge) vtep(n Network, field string, a netip.Addr) error {
	var f faults
	if f.vtep(field, a); len(f) > 0 {
		return f[0]
	}
	for uid, c := range j.claims {
		if uid != n.UID && c.prefix.Contains(a) {
			return fmt.Errorf("%s: %s is in %s, the prefix of network %s", field, a, c.prefix, c.name)
		}
	}
	return nil
}

// keptOff says what of the host, or of its ways to others, a network would take away.
func (j *judge) keptOff(n Network) error {
	var f faults
	for p, what := range j.taken {
		if n.Prefix.Overlaps(p) {
			f.add("prefix: %s overlaps %s, %s: choose another one", n.Prefix, p, what)
		}
		if n.IPv4.IsValid() && n.IPv4.Overlaps(p) {
			f.add("ipv4: %s overlaps %s, %s: choose another one", n.IPv4, p, what)
		}
	}
	for a := range claimOf(n).vteps {
		if n.Prefix.Contains(a) {
			f.add("prefix: %s contains %s, the tunnel end point of a host that carries the network", n.Prefix, a)
		}
	}
	return f.join()
}

// clash says what of a network others have already.
func (j *judge) clash(n Network) error {
	var f faults
	for uid, c := range j.claims {
		if uid == n.UID {
			continue
		}
		if c.bridge == BridgeName(n.UID) {
			f.add("uid: devices of %q would have the names of those of %q", n.UID, uid)
		}
		if c.vni == n.VNI {
			f.add("vni: %d is that of network %s too", n.VNI, c.name)
		}
		if c.prefix.Overlaps(n.Prefix) {
			f.add("prefix: %s overlaps %s of network %s", n.Prefix, c.prefix, c.name)
		}
		for a := range c.vteps {
			if n.Prefix.Contains(a) {
				f.add("prefix: %s contains %s, the tunnel end point of a host that carries network %s", n.Prefix, a, c.name)
			}
		}
	}
	return f.join()
}
