package vm

import (
	"context"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"widecloud/api"
	"widecloud/internal/lab/script"
	"widecloud/internal/lab/stage"
	"widecloud/internal/lab/topic/site"
)

// Many are VMs that are alike.
type Many struct {
	name string
	VMs  []*VM
}

const maxMany = 2000

func parseVMs(p *script.Parser) any {
	m := &Many{name: p.NewName("vms")}
	at := p.Last()
	n := p.Number("number of VMs", 1, maxMany)
	alike := &VM{name: m.name}
	alike.parse(p, slices.DeleteFunc(slices.Clone(words), func(w string) bool { return w == "service" || w == "user-data" }))
	for i := range n {
		v := *alike
		v.name = fmt.Sprintf("%s%d", m.name, i+1)
		if _, taken := script.Lookup[any](p, v.name); taken || !script.IsName(v.name) {
			p.Fail(at, "no VM of these can be called %q: it is taken, or too long", v.name)
		}
		p.Declare(v.name, &v)
		v.name = stage.FreshName(p, v.name)
		m.VMs = append(m.VMs, &v)
	}
	p.Declare(m.name, m)
	return m
}

// together is how many requests are under way at a time.
const together = 8

// Do implements stage.Doer.
func (m *Many) Do(ctx context.Context, s *stage.Stage) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(together)
	for _, v := range m.VMs {
		g.Go(func() error { return v.Do(ctx, s) })
	}
	return g.Wait()
}

// ManyRunning expects each of many VMs to run, once.
type ManyRunning struct {
	Many   *Many
	Within time.Duration
}

func parseManyRunning(p *script.Parser) any {
	e := &ManyRunning{Many: script.Ref[*Many](p, "many VMs")}
	p.OneOf("running")
	e.Within = p.Within(time.Minute)
	return e
}

// Judge implements stage.Judge.
func (e *ManyRunning) Judge(ctx context.Context, s *stage.Stage) (detail string, err error) {
	start := time.Now()
	err = stage.Until(ctx, e.Within, func(ctx context.Context) (err error) { detail, err = e.check(ctx, s); return err })
	return fmt.Sprintf("%s; after %.1f s", detail, time.Since(start).Seconds()), err
}

// check asks the hypervisors for every VM, and holds what the home controller says of
// each against that.
func (e *ManyRunning) check(ctx context.Context, s *stage.Stage) (string, error) {
	var uids []string
	for _, v := range e.Many.VMs {
		uids = append(uids, v.uid)
	}
	said, err := allByName(ctx, e.Many.VMs[0].client())
	if err != nil {
		return "", err
	}
	found, err := site.Of(s.Script).FindAll(ctx, uids...)
	if err != nil {
		return "", err
	}
	on := map[string]int{}
	wrong, first := 0, ""
	for _, v := range e.Many.VMs {
		o, c := said[v.name], found[v.uid]
		where := o.Status.Site + "/" + o.Status.Host
		on[where]++
		if o.Status.Phase == api.PhaseRunning && len(c.Active) == 1 && len(c.Defined) == 1 && c.Active[where] == "running" {
			continue
		}
		if wrong++; first == "" {
			first = fmt.Sprintf("the controller has vm %s as %s at %s: %s; the hypervisors have it as %v", v.name, o.Status.Phase, where, o.Status.Message, c.Active)
		}
	}
	if wrong > 0 {
		return "", fmt.Errorf("%d of %d do not run exactly once: %s", wrong, len(uids), first)
	}
	most := 0
	for _, n := range on {
		most = max(most, n)
	}
	return fmt.Sprintf("%d VMs on %d hosts, at most %d on one, by the hypervisors' own word", len(uids), len(on), most), nil
}

// allByName are all VMs of a site, as its controller has them.
func allByName(ctx context.Context, c *api.Client) (map[string]api.VM, error) {
	list, _, err := api.List[api.VM](ctx, c)
	all := map[string]api.VM{}
	for _, v := range list {
		all[v.Name] = *v
	}
	return all, err
}
