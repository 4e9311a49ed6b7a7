package joining

import (
	"context"
	"maps"
	"math"
	"reflect"
	"slices"
	"strings"
	"time"

	"widecloud/api"
	"widecloud/internal/access"
	"widecloud/internal/control/objects"
	"widecloud/internal/lend"
	"widecloud/internal/state"
	"widecloud/internal/store"
)

// sites lists this site, with the pools that an actor may use, and its peers, in the order of their names.
func (jn *Joining) sites(tx *state.Tx, p access.Actor) []*api.Site {
	self := &api.Site{Meta: api.Meta{Name: jn.Name, Home: jn.Name, Revision: tx.Revision()}, Spec: api.SiteSpec{Endpoint: jn.Endpoint, Location: jn.Location, Pools: jn.networks.PoolsFor(p)}, Status: api.SiteStatus{Self: true, Reached: true}}
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
			site.Spec.Endpoint, site.Spec.Location = peer.Spec.Endpoint, peer.Status.Location
		}
		if up {
			t := jn.Federation.Traffic(p.Name)
			site.Status.Sent, site.Status.Received = t.SentRate, t.ReceivedRate
		} else {
			site.Status.Message = jn.unreached(p.Name)
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

// siteLife is what users see of sites: made up at every look, and kept for those who watch.
func (jn *Joining) siteLife() objects.Life[api.Site] {
	return objects.Life[api.Site]{Made: jn.sites, Show: func(_ *state.Tx, by access.Actor, s *api.Site) error {
		if s.Name == jn.Name {
			s.Spec.Pools = jn.networks.PoolsFor(by)
		}
		return nil
	}}
}

// sitesEvery is how often at most what is kept of sites is looked at.
const sitesEvery = 500 * time.Millisecond

// KeepSites keeps what users see of sites, so that watches tell of its changes. Only what differs is written, by a transaction that has
// read nothing: it disturbs nobody.
func (jn *Joining) KeepSites(ctx context.Context) error {
	if jn.Now().Sub(jn.sitesKept) < sitesEvery {
		return nil
	}
	jn.sitesKept = jn.Now()
	var put []*api.Site
	var gone []string
	if err := jn.Read(ctx, func(tx *state.Tx) error {
		left := map[string]*api.Site{}
		for s := range objects.Each[api.Site](tx) {
			left[s.Name] = s
		}
		for _, s := range jn.sites(tx, access.Actor{}) {
			s.Revision, s.Spec.Pools = 0, nil // the pools are each reader's own
			if have := left[s.Name]; have == nil || differs(have, s) {
				put = append(put, s)
			}
			delete(left, s.Name)
		}
		gone = slices.Sorted(maps.Keys(left))
		return nil
	}); err != nil || len(put)+len(gone) == 0 {
		return err
	}
	return jn.Write(store.Urgent(ctx), func(tx *state.Tx) error {
		for _, s := range put {
			if err := objects.Put(tx, s); err != nil {
				return err
			}
		}
		for _, name := range gone {
			if err := objects.Remove(tx, objects.Key(api.KindSite, name)); err != nil {
				return err
			}
		}
		return nil
	})
}

// differs tells whether a site is another than what is kept of it. A round trip that is a little longer or shorter is no news, and a rate
// neither.
func differs(have, now *api.Site) bool {
	kept := *have
	kept.Revision = 0
	if near := math.Abs(kept.Status.RTT-now.Status.RTT) <= 0.2*kept.Status.RTT+0.001; near {
		kept.Status.RTT = now.Status.RTT
	}
	for _, rate := range []struct {
		kept *float64
		now  float64
	}{{&kept.Status.Sent, now.Status.Sent}, {&kept.Status.Received, now.Status.Received}} {
		if math.Abs(*rate.kept-rate.now) <= 0.2*max(*rate.kept, rate.now)+8<<10 {
			*rate.kept = rate.now
		}
	}
	return !reflect.DeepEqual(&kept, now)
}
