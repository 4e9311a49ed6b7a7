package networks

import (
	"cmp"
	"context"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"widecloud/api"
	"widecloud/internal/access"
	"widecloud/internal/control/objects"
	"widecloud/internal/wire"
)

// rateOver is how long the interval of a rate is, at least.
const rateOver = 4 * time.Second

// mostBusy is how many addresses of a translator are told.
const mostBusy = 20

// carried is what the site's translators have carried, as their hosts' agents told last. It is in memory: it changes with
// every report, and means nothing when it is old.
type carried struct {
	mu    sync.Mutex
	hosts map[string]*counts
}

// counts are one translator's: what it told last, and what it told before that, at least rateOver earlier.
type counts struct {
	outcomes []wire.OutcomeCount
	now, was reading
}

type reading struct {
	at      time.Time
	traffic map[netip.Addr]wire.ServiceTraffic
}

// Carried keeps what a host's translator has carried.
func (ns *Networks) Carried(host string, outcomes []wire.OutcomeCount, traffic []wire.ServiceTraffic) {
	now := reading{ns.Now(), make(map[netip.Addr]wire.ServiceTraffic, len(traffic))}
	for _, t := range traffic {
		now.traffic[t.Service.Unmap()] = t
	}
	ns.carried.mu.Lock()
	defer ns.carried.mu.Unlock()
	if ns.carried.hosts == nil {
		ns.carried.hosts = map[string]*counts{}
	}
	c := ns.carried.hosts[host]
	if c == nil {
		c = &counts{}
		ns.carried.hosts[host] = c
	}
	if c.was.at.IsZero() || c.now.at.Sub(c.was.at) >= rateOver {
		c.was = c.now
	}
	c.now, c.outcomes = now, outcomes
}

// Silent forgets what a host's translator has carried: its agent is not reached.
func (ns *Networks) Silent(host string) {
	ns.carried.mu.Lock()
	defer ns.carried.mu.Unlock()
	delete(ns.carried.hosts, host)
}

// of is what was carried for an address, with its rates; ok is false when nothing was.
func (c *counts) of(service netip.Addr) (t api.AddressTraffic, ok bool) {
	n, ok := c.now.traffic[service]
	if !ok {
		return t, false
	}
	t = api.AddressTraffic{Address: service.String(), PacketsIn: n.PacketsIn, BytesIn: n.BytesIn, PacketsOut: n.PacketsOut, BytesOut: n.BytesOut}
	took := c.now.at.Sub(c.was.at).Seconds()
	if c.was.at.IsZero() || took <= 0 {
		return t, true
	}
	w := c.was.traffic[service] // of an address that had carried nothing: zero
	t.RateIn, t.RateOut = max(0, float64(n.BytesIn-w.BytesIn)/took), max(0, float64(n.BytesOut-w.BytesOut)/took)
	return t, true
}

// AddressTraffic is what this site's translators have carried for a service address.
func (ns *Networks) AddressTraffic(ctx context.Context, p access.Actor, name string) (*api.Traffic, error) {
	o, err := ns.Get(ctx, p, api.KindAddress, name)
	if err != nil {
		return nil, err
	}
	out := &api.Traffic{Translators: []api.TranslatorTraffic{}}
	service, err := netip.ParseAddr(o.(*api.Address).Spec.Address)
	if err != nil {
		return out, nil // it has none yet
	}
	ns.carried.mu.Lock()
	defer ns.carried.mu.Unlock()
	for _, host := range slices.Sorted(maps.Keys(ns.carried.hosts)) {
		c := ns.carried.hosts[host]
		if t, ok := c.of(service.Unmap()); ok {
			out.Translators = append(out.Translators, api.TranslatorTraffic{
				Translator: ns.Name + "/" + host, At: c.now.at, PacketsIn: t.PacketsIn, BytesIn: t.BytesIn,
				PacketsOut: t.PacketsOut, BytesOut: t.BytesOut, RateIn: t.RateIn, RateOut: t.RateOut,
			})
		}
	}
	return out, nil
}

// TranslatorTraffic is what a translator has carried. It names the users' addresses: it is for admins.
func (ns *Networks) TranslatorTraffic(ctx context.Context, p access.Actor, name string) (*api.Traffic, error) {
	if !p.Admin {
		return nil, objects.Forbidden("see what a translator carries")
	}
	if _, err := ns.Get(ctx, p, api.KindTranslator, name); err != nil {
		return nil, err
	}
	out := &api.Traffic{Translators: []api.TranslatorTraffic{}}
	ns.carried.mu.Lock()
	defer ns.carried.mu.Unlock()
	c := ns.carried.hosts[name]
	if c == nil {
		return out, nil
	}
	out.Translators = append(out.Translators, c.whole(ns.Name+"/"+name))
	return out, nil
}

// whole adds up what a translator has carried.
func (c *counts) whole(name string) api.TranslatorTraffic {
	sum := api.TranslatorTraffic{Translator: name, At: c.now.at}
	for _, o := range c.outcomes {
		sum.Outcomes = append(sum.Outcomes, api.Outcome(o))
	}
	for service := range c.now.traffic {
		t, _ := c.of(service)
		sum.PacketsIn += t.PacketsIn
		sum.BytesIn += t.BytesIn
		sum.PacketsOut += t.PacketsOut
		sum.BytesOut += t.BytesOut
		sum.RateIn += t.RateIn
		sum.RateOut += t.RateOut
		sum.Busiest = append(sum.Busiest, t)
	}
	slices.SortFunc(sum.Busiest, func(a, b api.AddressTraffic) int {
		return cmp.Or(-cmp.Compare(a.BytesIn+a.BytesOut, b.BytesIn+b.BytesOut), cmp.Compare(a.Address, b.Address))
	})
	sum.Busiest = sum.Busiest[:min(mostBusy, len(sum.Busiest))]
	return sum
}
