package site

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"widecloud/api"
	"widecloud/internal/lab/script"
)

// Adopt implements stage.Adopter: each site and link of the script is the base's.
func (f *Federation) Adopt(base *script.Script) error {
	b := Of(base)
	if b == nil {
		return errors.New("the base has no sites")
	}
	f.Images, f.services = b.Images, b.services
	for _, s := range f.Sites {
		have := b.Site(s.name)
		if have == nil {
			return fmt.Errorf("the base has no site %s", s.name)
		}
		if err := s.adopt(have); err != nil {
			return fmt.Errorf("site %s: %w", s.name, err)
		}
	}
	for _, have := range b.Sites {
		if s := f.Site(have.name); have.gateway != nil && (s == nil || s.gateway == nil) {
			return fmt.Errorf("the base's gateway at %s would take part in what is for the script's", have.name)
		}
	}
	for _, w := range f.WANs {
		i := slices.IndexFunc(b.WANs, func(o *WAN) bool { return o.A.name == w.A.name && o.B.name == w.B.name })
		if i < 0 || b.WANs[i].Options != w.Options {
			return fmt.Errorf("the base has no such link between %s and %s", w.A.name, w.B.name)
		}
		w.link = b.WANs[i].link
	}
	return nil
}

// adopt takes the machines of a site that has at least what this one has.
func (s *Site) adopt(have *Site) error {
	switch {
	case s.size() > have.size():
		return fmt.Errorf("the base has %d hosts, not %d", have.size(), s.size())
	case s.Simulated() != have.Simulated():
		return errors.New("the base's hosts are of the other kind: simulated, or machines")
	case s.gateway != nil && (have.gateway == nil || s.Path != have.Path):
		return errors.New("the base has no such gateway")
	case s.Controller != nil || s.Agents != nil || have.Controller != nil || have.Agents != nil:
		return errors.New("other releases cannot be shared")
	case s.Lend != nil && (have.Lend == nil || *s.Lend != *have.Lend), s.Percent != 0 && s.Percent != have.Percent, s.Grace != have.Grace:
		return errors.New("the base lends otherwise")
	}
	s.number, s.router, s.ctl, s.user, s.token, s.client = have.number, have.router, have.ctl, have.user, have.token, have.client
	for i, h := range s.hosts {
		h.node, h.hypervisor = have.hosts[i].node, have.hosts[i].hypervisor
	}
	if s.gateway != nil {
		s.gateway.node = have.gateway.node
	}
	if s.fleet != nil {
		s.fleet.node = have.fleet.node
	}
	return nil
}

// userKinds are the objects that scripts make.
var userKinds = []api.Kind{api.KindVM, api.KindNetwork, api.KindAddress, api.KindGuest}

// List implements stage.Lister. A loan that has ended is none.
func (f *Federation) List(ctx context.Context) (all []string, err error) {
	var mu sync.Mutex
	err = f.Each(ctx, func(ctx context.Context, s *Site) error {
		var l []string
		for _, kind := range userKinds {
			names, err := s.client.Names(ctx, kind)
			if err != nil {
				return err
			}
			for _, n := range names {
				l = append(l, fmt.Sprintf("%s %s at %s", kind, n, s.name))
			}
		}
		loans, _, err := api.List[api.Loan](ctx, s.client)
		for _, o := range loans {
			if o.Status.State != api.LoanEnded {
				l = append(l, fmt.Sprintf("loan %s at %s", o.Name, s.name))
			}
		}
		mu.Lock()
		all = append(all, l...)
		mu.Unlock()
		return err
	})
	return all, err
}
