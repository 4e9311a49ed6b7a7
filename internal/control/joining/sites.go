package joining

import (
	"slices"
	"strings"

	"widecloud/api"
	"widecloud/internal/access"
	"widecloud/internal/control/objects"
	"widecloud/internal/lend"
	"widecloud/internal/state"
)

// sites lists this site, with the pools that an actor may use, and its peers, in the order of their names.
func (jn *Joining) sites(tx *state.Tx, p access.Actor) []*api.Site {
	self := &api.Site{Meta: api.Meta{Name: jn.Name, Home: jn.Name, Revision: tx.Revision()}, Spec: api.SiteSpec{Endpoint: jn.Endpoint, Pools: jn.networks.PoolsFor(p)}, Status: api.SiteStatus{Self: true, Reached: true}}
	for h := range objects.Each[api.Host](tx) {
		self.Status.Hosts++
		used, err := jn.rooms.Allotted(tx, h.Name, "")
		if err != nil {
			self.Status.Message = err.Error()
		}
		self.Status.Free = lend.Add(self.Status.Free, lend.Sub(h.Status.Capacity, used))
	}
	out := []*api.Site{self}
	s, err := jn.rooms.Snapshot(tx, "")
	if err != nil {
		self.Status.Message = err.Error()
		return out
	}
	for _, p := range s.Sites[1:] {
		up, since, rtt := jn.Federation.Reached(p.Name)
		site := &api.Site{Meta: api.Meta{Name: p.Name, Home: p.Name, Revision: tx.Revision()}, Status: api.SiteStatus{Reached: up, Since: since.UTC(), RTT: rtt.Seconds()}}
		if peer, err := objects.Find[api.Peer](tx, p.Name); err == nil {
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

// siteLife is what users see of sites.
func (jn *Joining) siteLife() objects.Life[api.Site] { return objects.Life[api.Site]{Made: jn.sites} }
