package site

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"widecloud/api"
	"widecloud/internal/lab/machine"
	"widecloud/internal/lab/script"
	"widecloud/internal/lab/stage"
	"widecloud/internal/netio"
)

// Adopt implements stage.Adopter: each site and link of the script is the base's, and
// each site gets an owner for what the script makes.
func (f *Federation) Adopt(ctx context.Context, st *stage.Stage, base *script.Script) error {
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
	return f.Each(ctx, func(ctx context.Context, s *Site) error { return s.admit(ctx, st) })
}

// admit gives the script an organisation and a user of its own at the site, until its end.
func (s *Site) admit(ctx context.Context, st *stage.Stage) error {
	name := fmt.Sprintf("script-%d", st.Script.Number)
	if _, err := api.Create(ctx, s.client, &api.Owner{Meta: api.Meta{Name: name}}); err != nil {
		return err
	}
	st.Undo("delete owner "+name+" at "+s.name, func(ctx context.Context) error {
		_, err := api.Delete[api.Owner](ctx, s.client, name)
		return err
	})
	if _, err := api.Create(ctx, s.client, &api.User{Meta: api.Meta{Name: name, Owner: name}}); err != nil {
		return err
	}
	st.Undo("delete user "+name+" at "+s.name, func(ctx context.Context) error {
		_, err := api.Delete[api.User](ctx, s.client, name)
		return err
	})
	t, err := s.client.NewToken(ctx, name, api.TokenRequest{Note: "lab"})
	if err != nil {
		return err
	}
	s.tenant, err = api.NewClient("http://"+APIAddress, t.Token, s.http())
	return err
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
	case len(s.leaves) > 0:
		return errors.New("the script's servers are machines of its own")
	case s.systemd != have.systemd, s.gateway != nil && s.gateway.systemd != have.gateway.systemd:
		return errors.New("only one of the two has systemd")
	case s.Controller != nil || s.Agents != nil || have.Controller != nil || have.Agents != nil:
		return errors.New("other releases cannot be shared")
	case s.Lend != nil && (have.Lend == nil || *s.Lend != *have.Lend), s.Percent != 0 && s.Percent != have.Percent, s.Grace != have.Grace:
		return errors.New("the base lends otherwise")
	}
	s.number, s.router, s.ctl, s.user, s.token, s.client = have.number, have.router, have.ctl, have.user, have.token, have.client
	for i, h := range s.hosts {
		if h.systemd != have.hosts[i].systemd {
			return fmt.Errorf("only one of the two %s has systemd", h.name)
		}
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

// List implements stage.Lister: what there is at the sites of the base, and that it is
// whole. What is only history (events, ended jobs and loans) is not among it.
func (f *Federation) List(ctx context.Context) (all []string, err error) {
	var mu sync.Mutex
	err = f.Each(ctx, func(ctx context.Context, s *Site) error {
		l, err := s.list(ctx)
		mu.Lock()
		defer mu.Unlock()
		all = append(all, l...)
		return err
	})
	return all, err
}

// plainKinds are the objects of which the name says enough.
var plainKinds = []api.Kind{
	api.KindVM, api.KindNetwork, api.KindAddress, api.KindVolume, api.KindGuest, api.KindImage, api.KindOffer, api.KindOwner, api.KindTranslator,
}

func (s *Site) list(ctx context.Context) (all []string, err error) {
	add := func(format string, args ...any) { all = append(all, fmt.Sprintf(format, args...)+" at "+s.name) }
	for _, kind := range plainKinds {
		names, err := s.client.Names(ctx, kind)
		if err != nil {
			return nil, err
		}
		for _, n := range names {
			add("%s %s", kind.Singular(), n)
		}
	}
	users, _, err := api.List[api.User](ctx, s.client)
	for _, o := range users {
		add("user %s with tokens %v", o.Name, o.Status.Tokens)
	}
	loans, _, e := api.List[api.Loan](ctx, s.client)
	for _, o := range loans {
		if o.Status.State != api.LoanEnded {
			add("loan %s", o.Name)
		}
	}
	jobs, _, e2 := api.List[api.Job](ctx, s.client)
	for _, o := range jobs {
		if !o.Status.State.Ended() {
			add("job %s", o.Name)
		}
	}
	peers, _, e3 := api.List[api.Peer](ctx, s.client)
	for _, o := range peers {
		add("peer %s, reached: %t", o.Name, o.Status.Reached)
	}
	hosts, _, e4 := api.List[api.Host](ctx, s.client)
	for _, o := range hosts {
		add("host %s, connected: %t", o.Name, o.Status.Connected)
	}
	if err := errors.Join(err, e, e2, e3, e4); err != nil {
		return nil, err
	}
	nodes := []*machine.Node{s.router.Node}
	for _, m := range s.machines() {
		nodes = append(nodes, m.node)
	}
	for _, n := range nodes {
		l, err := inside(n)
		if err != nil {
			return nil, err
		}
		for _, what := range l {
			add("%s of %s", what, n.Name())
		}
	}
	for _, h := range s.hosts {
		domains, err := h.hypervisor.Virsh(ctx, "list", "--all", "--name")
		if err != nil {
			return nil, err
		}
		for _, d := range strings.Fields(domains) {
			add("domain %s of %s", d, h.Name())
		}
	}
	return all, nil
}

// agentFiles are what an agent has of VMs and networks; bases, which it fetches once,
// are not among them.
var agentFiles = []string{"agent/vms/seed/*", "agent/vms/volume/*", "agent/networks/*/*"}

// inside is what a machine has: devices, ways to networks, processes and files.
func inside(n *machine.Node) (all []string, err error) {
	if !n.On() {
		return []string{"no power"}, nil
	}
	err = n.Inspect(func(ns *netio.NS) error {
		links, err := ns.Links()
		for _, l := range links {
			all = append(all, "device "+l.Name)
		}
		if err != nil {
			return err
		}
		routes, err := ns.Routes(0)
		for _, r := range routes {
			if stage.Networks.Contains(r.Dst.Addr()) {
				all = append(all, "route to "+r.Dst.String())
			}
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	for _, p := range n.Running() {
		all = append(all, "process "+p)
	}
	for _, pattern := range agentFiles {
		files, err := filepath.Glob(filepath.Join(n.Path(stateDir), pattern))
		if err != nil {
			return nil, err
		}
		for _, f := range files {
			all = append(all, "file "+strings.TrimPrefix(f, strings.TrimSuffix(n.Path("/"), "/")))
		}
	}
	return all, nil
}
