package main

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"widecloud/api"
	"widecloud/internal/wire"
)

// writers and readers are how many requests may be under way at a time.
const (
	writers = 64
	readers = 32
)

// traffic is the requests of the load.
type traffic struct {
	r      *run
	client *client
	writes series
	reads  series
	done   atomic.Int64 // changes
	failed atomic.Pointer[error]

	mu      sync.Mutex
	order   []int // VMs, in the order in which they are changed
	next    int
	created []string // VMs, the oldest first
	owner   map[string]string
	n       int

	beacons int // sent
}

// newTraffic is the requests of a load on a site.
func newTraffic(r *run) *traffic {
	t := &traffic{r: r, client: newClient(r.site), owner: map[string]string{}}
	for i := range r.plan.VMs {
		if i%r.plan.owners() != 0 { // the first organisation's are left to the beacon
			t.order = append(t.order, i)
		}
	}
	rand.Shuffle(len(t.order), func(i, j int) { t.order[i], t.order[j] = t.order[j], t.order[i] })
	return t
}

// load runs the load and adds its figures.
func (r *run) load(ctx context.Context, _ *errgroup.Group) error {
	t := newTraffic(r)
	r.step("load: %d changes and %d reads a second for %v", r.plan.Changes, r.plan.Reads, r.plan.Load)
	if r.plan.Profile != "" {
		if err := r.ctl.ask("profile "+r.plan.Profile, nil); err != nil {
			return err
		}
	}
	began := time.Now()
	end := began.Add(r.plan.Load)
	from := began.Add(r.plan.Warm)
	group, gctx := errgroup.WithContext(ctx)
	group.Go(func() error { return t.pace(gctx, end, r.plan.Changes-1, writers, &t.writes, t.change) })
	group.Go(func() error { return t.pace(gctx, end, max(r.plan.Reads, 1), readers, &t.reads, t.read) })
	group.Go(func() error { return t.pace(gctx, end, 1, 1, &t.writes, t.beacon) })
	group.Go(func() error { return r.meters(gctx, t, from, end) })
	if err := group.Wait(); err != nil {
		return err
	}
	if r.plan.Profile != "" {
		if err := r.ctl.ask("stop", nil); err != nil {
			return err
		}
		if err := r.ctl.ask("heap "+r.plan.Profile+".heap", nil); err != nil {
			return err
		}
	}
	r.latencies(t, from, end)
	return r.settled(ctx, t)
}

// settled waits until everything that was asked for has come, and is an error when something has not.
func (r *run) settled(ctx context.Context, t *traffic) error {
	if e := t.failed.Load(); e != nil {
		return fmt.Errorf("a request failed: %w", *e)
	}
	ended := time.Now()
	open := r.fleet.open(ended)
	r.add("queue.orders_open", float64(open), "count")
	var err error
	for time.Since(ended) < time.Minute {
		open = r.fleet.open(ended)
		if err = r.crowd.check(t.beacons); err == nil && open == 0 {
			break
		}
		if err := pause(ctx, 50*time.Millisecond); err != nil {
			return err
		}
	}
	r.add("queue.drained_seconds", time.Since(ended).Seconds(), "s")
	if err != nil {
		return err
	}
	if open > 0 {
		return fmt.Errorf("%d orders have not come to their agents within a minute", open)
	}
	if e := r.crowd.failed.Load(); e != nil {
		return fmt.Errorf("a watch failed: %w", *e)
	}
	return r.fleet.check()
}

// pace does something so many times a second, by the clock, until a time. What takes longer than its turn delays the next
// ones, and their latency shows it.
func (t *traffic) pace(ctx context.Context, end time.Time, perSecond, most int, took *series, do func(context.Context) error) error {
	turns := make(chan time.Time, perSecond*int(t.r.plan.Load/time.Second+2))
	var all sync.WaitGroup
	defer all.Wait()
	defer close(turns)
	for range most {
		all.Go(func() {
			for due := range turns {
				if time.Now().After(end.Add(10 * time.Second)) {
					continue // it never had its turn
				}
				if err := do(ctx); err != nil && ctx.Err() == nil {
					t.failed.CompareAndSwap(nil, &err)
				}
				took.add(time.Since(due))
			}
		})
	}
	began := time.Now()
	for n := 0; ; n++ {
		due := began.Add(time.Duration(n) * time.Second / time.Duration(perSecond))
		if due.After(end) {
			return nil
		}
		if err := pause(ctx, time.Until(due)); err != nil {
			return err
		}
		turns <- due
	}
}

// change makes one change: of eight, four start or stop a VM, two edit one, one creates one, one deletes one.
func (t *traffic) change(ctx context.Context) error {
	t.mu.Lock()
	t.n++
	kind := t.n % 8
	if kind == 7 && len(t.created) < 50 {
		kind = 4
	}
	defer t.done.Add(1)
	switch kind {
	case 6:
		name, owner := fmt.Sprintf("new%06d", t.n), ownerName(1+t.n%(t.r.plan.owners()-1))
		t.mu.Unlock()
		t.r.fleet.await(name, expectation{wire.RunOn, true, time.Now()})
		v := &api.VM{Meta: api.Meta{Name: name}, Spec: t.r.site.vms[0].Spec}
		v.Spec.Network, v.Spec.UserData, v.Spec.Power = owner, "", api.PowerOn
		if _, err := t.client.do(ctx, owner, http.MethodPost, "/v1/vms", v); err != nil {
			return err
		}
		t.mu.Lock()
		defer t.mu.Unlock()
		t.created, t.owner[name] = append(t.created, name), owner
		return nil
	case 7:
		name := t.created[0]
		owner := t.owner[name]
		t.created = t.created[1:]
		delete(t.owner, name)
		t.mu.Unlock()
		t.r.fleet.await(name, expectation{wire.RunGone, false, time.Now()})
		_, err := t.client.do(ctx, owner, http.MethodDelete, "/v1/vms/"+name, nil)
		return err
	}
	v := t.r.site.vms[t.order[t.next%len(t.order)]]
	t.next++
	if kind < 4 {
		run := wire.RunOn
		if v.Spec.Power == api.PowerOn {
			v.Spec.Power, run = api.PowerOff, wire.RunOff
		} else {
			v.Spec.Power = api.PowerOn
		}
		t.r.fleet.await(v.Name, expectation{run, false, time.Now()})
	} else {
		v.Spec.UserData = fmt.Sprintf("#cloud-config\n# %d\n", t.n)
	}
	body := &api.VM{Meta: api.Meta{Name: v.Name}, Spec: v.Spec}
	t.mu.Unlock()
	_, err := t.client.do(ctx, v.Owner, http.MethodPut, "/v1/vms/"+v.Name, body)
	return err
}

// beacon changes the VM that all watchers see.
func (t *traffic) beacon(ctx context.Context) error {
	n := t.beacons + 1
	if n >= maxBeacons {
		return nil
	}
	v := t.r.site.vms[0]
	v.Spec.UserData = fmt.Sprintf("#cloud-config\n# %s%d.\n", beaconMark, n)
	t.r.crowd.sent[n].Store(time.Now().UnixNano())
	t.beacons = n
	_, err := t.client.do(ctx, v.Owner, http.MethodPut, "/v1/vms/"+v.Name, &api.VM{Meta: api.Meta{Name: v.Name}, Spec: v.Spec})
	return err
}

// read makes one request that reads: of ten, nine get a VM, one lists the VMs of an organisation.
func (t *traffic) read(ctx context.Context) error {
	v := t.r.site.vms[rand.IntN(len(t.r.site.vms))]
	path := "/v1/vms/" + v.Name
	if rand.IntN(10) == 0 {
		path = "/v1/vms"
	}
	_, err := t.client.get(ctx, v.Owner, path)
	return err
}

// meters adds what the controller uses while the load lasts.
func (r *run) meters(ctx context.Context, t *traffic, from, end time.Time) error {
	if err := pause(ctx, time.Until(from)); err != nil {
		return err
	}
	pid := r.ctl.cmd.Process.Pid
	var first, last inside
	if err := r.ctl.ask("inside", &first); err != nil {
		return err
	}
	before, err := meter(pid)
	if err != nil {
		return err
	}
	done, events := t.done.Load(), r.crowd.events.Load()
	if err := pause(ctx, time.Until(end)); err != nil {
		return err
	}
	after, err := meter(pid)
	if err != nil {
		return err
	}
	if err := r.ctl.ask("inside", &last); err != nil {
		return err
	}
	rss, err := resident(pid)
	if err != nil {
		return err
	}
	seconds := after.at.Sub(before.at).Seconds()
	r.add("load.changes_per_second", float64(t.done.Load()-done)/seconds, "1/s")
	r.add("watch.events_per_second", float64(r.crowd.events.Load()-events)/seconds, "1/s")
	cpu, bench := (after.process-before.process).Seconds()/seconds, (after.bench-before.bench).Seconds()/seconds
	r.add("controller.cpu", cpu, "CPUs")
	r.add("controller.cpu_ms_per_change", 1000*cpu/(float64(t.done.Load()-done)/seconds), "ms")
	r.add("bench.cpu", bench, "CPUs")
	r.add("machine.others_cpu", (after.machine-before.machine).Seconds()/seconds-cpu-bench, "CPUs")
	r.add("controller.rss", rss, "MiB")
	r.add("controller.heap", float64(last.Heap)/(1<<20), "MiB")
	r.add("controller.goroutines", float64(last.Goroutines), "count")
	r.add("queue.goroutines_growth", float64(last.Goroutines-first.Goroutines), "count")
	return nil
}

// latencies adds the figures of the requests. Those of the first and the last quarter tell whether a queue grows.
func (r *run) latencies(t *traffic, from, end time.Time) {
	late := time.Now()
	for _, s := range []struct {
		name string
		s    *series
	}{
		{"api.read_", &t.reads}, {"api.write_", &t.writes}, {"watch.", &r.crowd.last},
		{"agents.report_", &r.fleet.reports}, {"agents.order_", &r.fleet.orders}, {"agents.new_vm_", &r.fleet.creations},
	} {
		d := s.s.between(from, late)
		r.add(s.name+"p50_ms", percentile(d, 50), "ms")
		r.add(s.name+"p99_ms", percentile(d, 99), "ms")
	}
	quarter := end.Sub(from) / 4
	for _, s := range []struct {
		name string
		s    *series
	}{{"write", &t.writes}, {"report", &r.fleet.reports}, {"order", &r.fleet.orders}} {
		r.add("queue."+s.name+"_first_ms", percentile(s.s.between(from, from.Add(quarter)), 50), "ms")
		r.add("queue."+s.name+"_last_ms", percentile(s.s.between(end.Add(-quarter), late), 50), "ms")
	}
}

// lists measures the list of all VMs, as an admin sees it.
func (r *run) lists(ctx context.Context, _ *errgroup.Group) error {
	c := newClient(r.site)
	var took []time.Duration
	for range 5 {
		began := time.Now()
		text, err := c.get(ctx, "admin", "/v1/vms")
		if err != nil {
			return err
		}
		took = append(took, time.Since(began))
		var l struct {
			Items []json.RawMessage `json:"items"`
		}
		if err := json.Unmarshal(text, &l); err != nil {
			return err
		}
		if len(l.Items) < len(r.site.vms) {
			return fmt.Errorf("the list has %d of %d VMs", len(l.Items), len(r.site.vms))
		}
	}
	slices.Sort(took)
	r.add("list.vms_ms", percentile(took, 50), "ms")
	r.add("list.vms", float64(len(r.site.vms)), "count")
	return nil
}
