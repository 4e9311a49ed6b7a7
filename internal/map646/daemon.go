package map646

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"widecloud/internal/map646/dns64"
	"widecloud/internal/netio"
	"widecloud/internal/packet/siit"
)

// Options are what a Daemon needs.
type Options struct {
	// ConfigPath is read by New and by each reload.
	ConfigPath string
	// NS is the network namespace of the device; nil: the process's own.
	NS  *netio.NS
	Log *slog.Logger
	// Now is the clock; nil: time.Now.
	Now func() time.Time
	// Check is a further check of health, done every second; nil: none.
	Check func() error
	// Handover is what Upgrade left in the environment (HandoverEnv) for the program
	// that takes over; "": nothing, this is a fresh start.
	Handover string
	// Args are the arguments of a program that takes over. Default: run, with
	// ConfigPath.
	Args []string
}

// Daemon is one translator.
type Daemon struct {
	o     Options
	log   *slog.Logger
	now   func() time.Time
	table atomic.Pointer[siit.Table]

	queues   []*queue
	readers  atomic.Int32 // queues that are being read
	fastPath atomic.Pointer[netio.Fast]

	// changing is held by whoever changes table, kernel or configuration, as long as
	// that takes; mu by whoever looks at or touches the fields below.
	changing sync.Mutex

	mu       sync.Mutex
	config   *Config
	ns       *netio.NS
	tun      *netio.TUN
	count4   int // mappings by family of the outside
	count6   int
	started  time.Time
	loaded   time.Time
	reloads  uint64
	failures uint64
	updates  uint64
	refused  uint64 // updates that changed nothing
	lastErr  string
	draining bool
	sick     []string // why we are not healthy
	lacks    []string // those of it that are about routes
	// withdrawn: the addresses are off the device, for draining or for health.
	withdrawn bool
	carried   carried // counted by the program before an upgrade
	fast      fastState

	// bases are what counters stood at when their ID was given to a new mapping.
	basesMu sync.RWMutex
	bases   baseCounts

	sampler   sampler
	dns       *dns64.Server
	handover  *handover
	upgrading chan upgradeRequest
}

// New reads the configuration; errors as from Load. Nothing is made yet.
func New(o Options) (*Daemon, error) {
	d := &Daemon{o: o, log: o.Log, now: o.Now, upgrading: make(chan upgradeRequest)}
	if d.log == nil {
		d.log = slog.New(slog.DiscardHandler)
	}
	if d.now == nil {
		d.now = time.Now
	}
	var err error
	if o.Handover != "" {
		if d.handover, err = readHandover(o.Handover); err != nil {
			return nil, err
		}
	}
	c, err := load(o.ConfigPath, d.handover == nil)
	if err != nil {
		return nil, err
	}
	d.config = c
	d.started = d.now()
	d.loaded = d.started
	if h := d.handover; h != nil {
		if _, _, err := c.table.Update(siit.Changes{Set: h.mappings}); err != nil {
			return nil, fmt.Errorf("take over the table: %w", err)
		}
		h.mappings = nil
		d.started, d.draining, d.carried = h.Started, h.Draining, h.Carried
		c.Refused = h.Refused // the mappings of the file were not read again
		d.carryOn(c.table, h.Carried.Mappings)
		d.carried.Mappings = nil // the bases have them
	}
	d.logRefused(c)
	d.table.Store(c.table)
	for e := range c.table.Entries() {
		d.tally(e, 1)
	}
	c.Translation.Mappings, c.Translation.Mappings66 = nil, nil // the table has them
	for range c.TUN.Queues {
		d.queues = append(d.queues, &queue{d: d, rate: float64(c.ICMPRate)})
	}
	return d, nil
}

func (d *Daemon) tally(e siit.Entry, n int) {
	if e.Outside.Addr().Is4() {
		d.count4 += n
	} else {
		d.count6 += n
	}
}

// Queues is how many readers the device has.
func (d *Daemon) Queues() int { return len(d.queues) }

// Run makes the device and translates until ctx ends; it returns nil then. All
// that it made is gone when it returns.
func (d *Daemon) Run(ctx context.Context) (err error) {
	ns := d.o.NS
	if ns == nil {
		if ns, err = netio.CurrentNS(); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, ns.Close()) }()
	}
	d.changing.Lock()
	tun, err := d.begin(ns)
	d.changing.Unlock()
	if tun != nil {
		defer func() { err = errors.Join(err, d.end(ns, tun)) }()
	}
	if err != nil {
		return err
	}
	c := d.config
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		<-ctx.Done()
		return tun.Close()
	})
	resume := func() {
		for i, q := range tun.Queues() {
			d.readers.Add(1)
			g.Go(func() error {
				defer d.readers.Add(-1)
				if err := d.queues[i].run(q); err != nil {
					return fmt.Errorf("queue %d: %w", i, err)
				}
				return nil
			})
		}
	}
	resume()
	g.Go(func() error { return d.serveControl(ctx, c.Control) })
	g.Go(func() error { return d.watch(ctx) })
	g.Go(func() error { return d.upgrades(ctx, tun, resume) })
	if c.MetricsListen != "" {
		g.Go(func() error { return d.serveMetrics(ctx, ns, c.MetricsListen) })
	}
	if d.dns != nil {
		g.Go(func() error { return d.dns.Run(ctx) })
	}
	// What it took to read a large table is not needed again.
	go debug.FreeOSMemory()
	d.log.Info("translating", "device", c.TUN.Name, "queues", c.TUN.Queues, "offload", c.TUN.Offload,
		"mappings", d.count4, "mappings66", d.count6)
	return g.Wait()
}

// begin makes all that is in the kernel. The device is returned also with an
// error, if it is there.
func (d *Daemon) begin(ns *netio.NS) (tun *netio.TUN, err error) {
	c := d.config
	if h := d.handover; h != nil {
		if len(h.TUN) != c.TUN.Queues {
			return nil, fmt.Errorf("%w: %s: tun.queues: cannot change without a restart", ErrConfig, d.o.ConfigPath)
		}
		tun, err = ns.AdoptTUN(c.TUN, h.TUN)
	} else {
		tun, err = ns.OpenTUN(c.TUN)
	}
	if err != nil {
		return nil, err
	}
	for _, err := range tun.Lacks() {
		d.log.Warn("the full path takes more CPU time than it could", "err", err)
	}
	d.mu.Lock()
	d.ns, d.tun = ns, tun
	d.mu.Unlock()
	for _, key := range []string{
		"net/ipv4/conf/" + c.TUN.Name + "/rp_filter=0",
		// ICMP errors come from an address that may be the node's own.
		"net/ipv4/conf/" + c.TUN.Name + "/accept_local=1",
		// A hairpinned packet goes out where it came in, and is right to.
		"net/ipv4/conf/" + c.TUN.Name + "/send_redirects=0",
	} {
		name, value := key[:len(key)-2], key[len(key)-1:]
		if err := ns.Sysctl(name, value); err != nil {
			return tun, err
		}
	}
	for _, name := range []string{"net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"} {
		if v, err := ns.GetSysctl(name); err == nil && v == "0" {
			d.log.Warn("the kernel does not forward packets, so nothing will come through", "sysctl", name)
		}
	}
	if v, err := ns.GetSysctl("net/ipv4/conf/all/rp_filter"); err == nil && v == "1" {
		d.log.Warn("the strict reverse path filter may drop translated packets", "sysctl", "net/ipv4/conf/all/rp_filter")
	}
	lacks := missingWays(ns, c)
	for _, s := range lacks {
		d.log.Warn("not announced until there is a route", "lacks", s)
	}
	d.mu.Lock()
	d.lacks, d.sick = lacks, lacks
	d.mu.Unlock()
	if err := d.place(c, d.draining || len(lacks) > 0); err != nil {
		return tun, err
	}
	if c.DNS64 != nil {
		o := *c.DNS64
		o.NS, o.Log = d.o.NS, d.log.With("part", "dns64")
		if d.dns, err = dns64.New(o); err != nil {
			return tun, fmt.Errorf("dns64: %w", err)
		}
	}
	d.openFast()
	return tun, d.relieve()
}

// end takes all away again.
func (d *Daemon) end(ns *netio.NS, tun *netio.TUN) error {
	d.changing.Lock()
	defer d.changing.Unlock()
	d.mu.Lock()
	c := d.config
	d.tun = nil
	d.mu.Unlock()
	err := tun.Close()
	if d.dns != nil {
		err = errors.Join(err, d.dns.Close())
	}
	// Routes and rules now lead to black holes. Were they gone before the routers
	// know that we are, packets would go back where they come from, or leave with
	// the machines' own addresses, and the clients would reset connections that
	// another node is about to serve. The fast path goes on for as long.
	if len(c.Addresses)+d.count6 > 0 {
		time.Sleep(c.Linger)
	}
	return errors.Join(err, d.closeFast(c), ns.ClearLinkPolicy(c.basePolicy()))
}

// policy is all that leads packets to the device by configuration c and table t.
func (d *Daemon) policy(c *Config, t *siit.Table, withdrawn bool) netio.LinkPolicy {
	p := c.basePolicy()
	c.mappingPolicy(&p, func(yield func(siit.Entry) bool) {
		for e := range t.Entries() {
			if p.Detour == 0 && e.Outside.Addr().Is6() {
				c.detour(&p)
			}
			if !yield(e) {
				return
			}
		}
	})
	if withdrawn {
		_, p.Locals = drained(c.Addresses)
	}
	return p
}

// Reload reads the configuration again and goes over to it: mappings by the
// difference, so that counters stay, and settings at once. On an error all is as
// it was. Name, queues, offload, priority and MTU of the device, numbers of routing, ICMP
// rate, listeners and the control socket's path cannot change.
func (d *Daemon) Reload() error {
	d.changing.Lock()
	defer d.changing.Unlock()
	err := d.reload()
	d.mu.Lock()
	defer d.mu.Unlock()
	if err != nil {
		d.failures++
		d.lastErr = err.Error()
		d.log.Error("reload failed, the old configuration stays", "err", err)
		return err
	}
	d.reloads++
	d.lastErr = ""
	d.loaded = d.now()
	go debug.FreeOSMemory()
	d.logRefused(d.config)
	d.log.Info("reloaded", "mappings", d.count4, "mappings66", d.count6, "refused", len(d.config.Refused))
	return nil
}

// logRefused logs the first lines that the mappings file's owner has to mend.
func (d *Daemon) logRefused(c *Config) {
	for i, r := range c.Refused {
		if i == 20 {
			d.log.Warn("more lines of the mappings file are left out", "lines", len(c.Refused)-i)
			return
		}
		d.log.Warn("a line of the mappings file is left out", "line", r.String())
	}
}

// Refused lists the lines of the mappings file in force that are left out.
func (d *Daemon) Refused() []RefusedLine {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.config.Refused)
}

func (d *Daemon) reload() error {
	if d.tun == nil {
		return errors.New("reload: not running")
	}
	c, err := Load(d.o.ConfigPath)
	if err != nil {
		return err
	}
	old := d.config
	fixed := func(field string, same bool) error {
		if same {
			return nil
		}
		return fmt.Errorf("%w: %s: %s: cannot change without a restart", ErrConfig, d.o.ConfigPath, field)
	}
	if err := errors.Join(
		fixed("tun.name", c.TUN.Name == old.TUN.Name), fixed("tun.queues", c.TUN.Queues == old.TUN.Queues),
		fixed("tun.offload", c.TUN.Offload == old.TUN.Offload), fixed("tun.mtu", c.TUN.MTU == old.TUN.MTU),
		fixed("tun.bulk_nice", c.TUN.BulkNice == old.TUN.BulkNice), fixed("tun.bulk_backlog", c.TUN.BulkBacklog == old.TUN.BulkBacklog),
		fixed("route.table", c.Table == old.Table), fixed("route.priority", c.Priority == old.Priority),
		fixed("icmp.rate", c.ICMPRate == old.ICMPRate), fixed("control", c.Control == old.Control),
		fixed("metrics.listen", c.MetricsListen == old.MetricsListen),
		fixed("fast.pin", c.Fast.Pin == old.Fast.Pin), fixed("fast.max_mappings", c.Fast.MaxMappings == old.Fast.MaxMappings),
		fixed("fast.max_prefixes", c.Fast.MaxPrefixes == old.Fast.MaxPrefixes), fixed("fast.clsact", c.Fast.Clsact == old.Fast.Clsact),
		fixed("dns64.listen", sameListen(c.DNS64, old.DNS64))); err != nil {
		return err
	}
	was := d.table.Load()
	changes := difference(was, c)
	c.Translation.Mappings, c.Translation.Mappings66 = nil, nil
	// First the sum of both, so that at no time a packet of either finds no way.
	next, prev := d.policy(c, c.table, d.withdrawn), d.policy(old, was, d.withdrawn)
	both := next
	both.Routes = union(both.Routes, prev.Routes)
	both.Sources = union(both.Sources, prev.Sources)
	both.Except = union(both.Except, prev.Except)
	both.Locals = union(both.Locals, prev.Locals)
	both.DetourExcept = union(both.DetourExcept, prev.DetourExcept)
	if both.Detour == 0 {
		both.Detour, both.DetourMark = prev.Detour, prev.DetourMark
	}
	undo := func(err error) error {
		return errors.Join(err, d.ns.SyncLinkPolicy(prev), d.tun.SetAddrs(old.onDevice(d.withdrawn)))
	}
	if err := d.ns.SyncLinkPolicy(both); err != nil {
		return undo(err)
	}
	if err := d.tun.SetAddrs(union(c.onDevice(d.withdrawn), old.onDevice(d.withdrawn))); err != nil {
		return undo(err)
	}
	if err := d.replaceTable(was, c, changes); err != nil {
		return undo(err)
	}
	d.mu.Lock()
	d.config = c
	d.mu.Unlock()
	d.configureFast()
	if d.dns != nil {
		o := *c.DNS64
		o.NS, o.Log = d.o.NS, d.log.With("part", "dns64")
		err = d.dns.Reload(o)
	}
	// Addresses go before routes do: the last IPv4 address takes the device's
	// IPv4 routes with it.
	return errors.Join(err, d.tun.SetAddrs(c.onDevice(d.withdrawn)), d.ns.SyncLinkPolicy(next))
}

func sameListen(a, b *dns64.Options) bool {
	if a == nil || b == nil {
		return a == b
	}
	if len(a.Listen) != len(b.Listen) {
		return false
	}
	for i := range a.Listen {
		if a.Listen[i] != b.Listen[i] {
			return false
		}
	}
	return true
}

func union[T comparable](a, b []T) []T {
	have := make(map[T]bool, len(a))
	out := make([]T, 0, len(a)+len(b))
	for _, l := range [][]T{a, b} {
		for _, p := range l {
			if !have[p] {
				have[p] = true
				out = append(out, p)
			}
		}
	}
	return out
}
