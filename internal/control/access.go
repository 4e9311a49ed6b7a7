package control

import (
	"slices"
	"strings"

	"widecloud/api"
	"widecloud/internal/access"
	"widecloud/internal/lend"
	"widecloud/internal/state"
)

// sites lists this site, with the pools that a principal may use, and its peers, in the order of their names.
func (c *Controller) sites(tx *state.Tx, p access.Actor) []*api.Site {
	self := &api.Site{Meta: api.Meta{Name: c.o.Site, Home: c.o.Site, Revision: tx.Revision()}, Spec: api.SiteSpec{Endpoint: c.o.Endpoint, Pools: c.poolsFor(p)}, Status: api.SiteStatus{Self: true, Reached: true}}
	for h := range each[api.Host](tx) {
		self.Status.Hosts++
		used, err := c.allotted(tx, h.Name, "")
		if err != nil {
			self.Status.Message = err.Error()
		}
		self.Status.Free = lend.Add(self.Status.Free, lend.Sub(h.Status.Capacity, used))
	}
	out := []*api.Site{self}
	s, err := c.snapshot(tx)
	if err != nil {
		self.Status.Message = err.Error()
		return out
	}
	for _, p := range s.Sites[1:] {
		up, since, rtt := c.o.Federation.Reached(p.Name)
		site := &api.Site{Meta: api.Meta{Name: p.Name, Home: p.Name, Revision: tx.Revision()}, Status: api.SiteStatus{Reached: up, Since: since.UTC(), RTT: rtt.Seconds()}}
		if peer, err := find[api.Peer](tx, p.Name); err == nil {
			site.Spec.Endpoint = peer.Spec.Endpoint
		}
		for _, l := range p.Loans {
			if l.State == api.LoanActive {
				site.Status.Free.CPUs += max(0, l.Amount.CPUs-l.Used.CPUs)
				site.Status.Free.MemoryMiB += max(0, l.Amount.MemoryMiB-l.Used.MemoryMiB)
				site.Status.Free.DiskGiB += max(0, l.Amount.DiskGiB-l.Used.DiskGiB)
				site.Status.Free.Addresses += l.Amount.Addresses
			}
		}
		out = append(out, site)
	}
	slices.SortFunc(out, func(a, b *api.Site) int { return strings.Compare(a.Name, b.Name) })
	return out
}
