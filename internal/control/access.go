package control

import (
	"context"
	"errors"
	"iter"
	"slices"
	"strings"

	"widecloud/api"
	"widecloud/internal/access"
	"widecloud/internal/lend"
	"widecloud/internal/serve"
	"widecloud/internal/state"
	"widecloud/internal/store"
)

func forbidden(format string, args ...any) error {
	return api.Errorf(api.CodeForbidden, "only an admin may "+format, args...)
}

// visible reads an object, to be changed, as a principal sees it: what it may not see is not there.
func (c *Controller) visible(tx *state.Tx, p access.Actor, k api.Kind, name string) (api.Object, error) {
	missing := api.Errorf(api.CodeNotFound, "no %s is called %q", singular(k), name)
	if _, err := newObject(k); err != nil {
		return nil, err
	}
	if k == api.KindSite {
		for _, s := range c.sites(tx, p) {
			if s.Name == name {
				return s, nil
			}
		}
		return nil, missing
	}
	have, err := tx.Object(keyOf(k, name))
	if errors.Is(err, store.ErrNotFound) {
		return nil, missing
	}
	if err != nil {
		return nil, err
	}
	if !access.Sees(p, have.(api.Object)) {
		return nil, missing
	}
	o := state.Copy(have).(api.Object)
	c.live(o)
	if o, ok := o.(*api.Owner); ok {
		o.Status.Used, err = c.usedBy(tx, o.Name)
	}
	return o, err
}

// live fills in what is known at this moment only.
func (c *Controller) live(o api.Object) {
	if p, ok := o.(*api.Peer); ok {
		up, since, rtt := c.o.Federation.Reached(p.Name)
		p.Status = api.PeerStatus{Reached: up, Since: since.UTC(), RTT: rtt.Seconds()}
		if !up {
			p.Status.Message = "no session is up"
		}
	}
}

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

// Get is serve.Controller's.
func (c *Controller) Get(ctx context.Context, p access.Actor, k api.Kind, name string) (o api.Object, err error) {
	err = c.view(ctx, func(tx *state.Tx) error {
		o, err = c.visible(tx, p, k, name)
		return err
	})
	return o, err
}

// candidates are the objects of a kind among which a list has all that it wants: those of one owner, where nothing else can be in
// it, and otherwise all.
func candidates(tx *state.Tx, p access.Actor, k api.Kind, s api.Selector) iter.Seq2[string, any] {
	switch k {
	case api.KindVM, api.KindAddress, api.KindJob: // nobody but an admin sees those of others
		if !p.Admin {
			return tx.By(keyOf(k, ""), "owner", p.Owner)
		}
		if len(s.Owners) == 1 {
			return tx.By(keyOf(k, ""), "owner", s.Owners[0])
		}
	}
	return tx.Objects(keyOf(k, ""))
}

// List is serve.Controller's.
func (c *Controller) List(ctx context.Context, p access.Actor, k api.Kind, q serve.Query) (out []api.Object, revision int64, err error) {
	if _, err := newObject(k); err != nil {
		return nil, 0, err
	}
	out = []api.Object{}
	err = c.view(ctx, func(tx *state.Tx) error {
		revision = tx.Revision()
		full := func() bool { return q.Limit > 0 && len(out) >= q.Limit }
		if k == api.KindSite {
			for _, s := range c.sites(tx, p) {
				if s.Name > q.After && q.Matches(s) && !full() {
					out = append(out, s)
				}
			}
			return nil
		}
		for key, have := range candidates(tx, p, k, q.Selector) {
			if full() {
				break
			}
			if key <= keyOf(k, q.After) {
				continue
			}
			if o := c.shownTo(p, q.Selector, have.(api.Object)); o != nil {
				if o, err = c.withUse(tx, o); err != nil {
					return err
				}
				out = append(out, o)
			}
		}
		return nil
	})
	return out, revision, err
}

// shownTo is an object as a principal sees it, nil when it may not see it, or s does not take it. The object itself is shared
// and stays as it is.
func (c *Controller) shownTo(p access.Actor, s api.Selector, o api.Object) api.Object {
	if !access.Sees(p, o) {
		return nil
	}
	if o.Kind() == api.KindPeer {
		o = state.Copy(o).(api.Object)
		c.live(o)
	}
	if !s.Matches(o) {
		return nil
	}
	return o
}

// withUse is an owner with what it uses; any other object as it is.
func (c *Controller) withUse(tx *state.Tx, o api.Object) (api.Object, error) {
	owner, ok := o.(*api.Owner)
	if !ok {
		return o, nil
	}
	used, err := c.usedBy(tx, owner.Name)
	owner = state.Clone(owner)
	owner.Status.Used = used
	return owner, err
}
