package map646

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

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
	// Now is the clock, for the rate of ICMP errors only; nil: time.Now.
	Now func() time.Time
}

// Daemon is one translator.
type Daemon struct {
	o     Options
	log   *slog.Logger
	now   func() time.Time
	table atomic.Pointer[siit.Table]

	queues []*queue

	mu       sync.Mutex // guards what follows
	config   *Config
	tun      *netio.TUN
	loaded   time.Time
	reloads  uint64
	failures uint64
	lastErr  string
}

// New reads the configuration; errors as from Load. Nothing is made yet.
func New(o Options) (*Daemon, error) {
	c, err := Load(o.ConfigPath)
	if err != nil {
		return nil, err
	}
	d := &Daemon{o: o, log: o.Log, now: o.Now, config: c}
	if d.log == nil {
		d.log = slog.New(slog.DiscardHandler)
	}
	if d.now == nil {
		d.now = time.Now
	}
	d.loaded = d.now()
	d.table.Store(c.table)
	for range c.TUN.Queues {
		d.queues = append(d.queues, &queue{d: d, rate: float64(c.ICMPRate)})
	}
	return d, nil
}

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
	c := d.config
	tun, err := ns.OpenTUN(c.TUN)
	if err != nil {
		return err
	}
	d.mu.Lock()
	d.tun = tun
	d.mu.Unlock()
	defer func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.tun = nil
		err = errors.Join(err, tun.Close())
		// Routes and rules now lead to black holes. Were they gone before the routers
		// know that we are, packets would go back where they come from, or leave with
		// the machines' own addresses, and the clients would reset connections that
		// another node is about to serve.
		if len(d.config.Addresses)+len(d.config.Translation.Mappings66) > 0 {
			time.Sleep(d.config.Linger)
		}
		err = errors.Join(err, ns.ClearLinkPolicy(d.config.policy()))
	}()
	for _, key := range []string{
		"net/ipv4/conf/" + c.TUN.Name + "/rp_filter=0",
		// ICMP errors come from an address that may be the node's own.
		"net/ipv4/conf/" + c.TUN.Name + "/accept_local=1",
		// A hairpinned packet goes out where it came in, and is right to.
		"net/ipv4/conf/" + c.TUN.Name + "/send_redirects=0",
	} {
		name, value := key[:len(key)-2], key[len(key)-1:]
		if err := ns.Sysctl(name, value); err != nil {
			return err
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
	if err := tun.SetAddrs(c.Addresses); err != nil {
		return err
	}
	if err := ns.SyncLinkPolicy(c.policy()); err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		<-ctx.Done()
		return tun.Close()
	})
	for i, q := range tun.Queues() {
		g.Go(func() error {
			if err := d.queues[i].run(q); !errors.Is(err, os.ErrClosed) {
				return fmt.Errorf("queue %d: %w", i, err)
			}
			return nil
		})
	}
	g.Go(func() error { return d.serveControl(ctx, c.Control) })
	d.log.Info("translating", "device", c.TUN.Name, "queues", c.TUN.Queues, "offload", c.TUN.Offload,
		"mappings", len(c.Translation.Mappings), "mappings66", len(c.Translation.Mappings66))
	return g.Wait()
}

// Reload reads the configuration again and goes over to it. On an error all is
// as it was. Name, queues, offload of the device and the control socket's path
// cannot change.
func (d *Daemon) Reload() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	err := d.reload()
	if err != nil {
		d.failures++
		d.lastErr = err.Error()
		d.log.Error("reload failed, the old configuration stays", "err", err)
		return err
	}
	d.reloads++
	d.lastErr = ""
	d.loaded = d.now()
	d.log.Info("reloaded", "mappings", len(d.config.Translation.Mappings), "mappings66", len(d.config.Translation.Mappings66))
	return nil
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
		fixed("route.table", c.Table == old.Table), fixed("route.priority", c.Priority == old.Priority),
		fixed("icmp.rate", c.ICMPRate == old.ICMPRate), fixed("control", c.Control == old.Control)); err != nil {
		return err
	}
	// First the sum of both, so that at no time a packet of either finds no way.
	both, sum := c.policy(), old.policy()
	both.Routes = union(both.Routes, sum.Routes)
	both.Sources = union(both.Sources, sum.Sources)
	both.Except = union(both.Except, sum.Except)
	ns := d.tun.NS()
	err = d.tun.SetAddrs(union(c.Addresses, old.Addresses))
	if err == nil {
		err = ns.SyncLinkPolicy(both)
	}
	if err != nil {
		return errors.Join(err, ns.SyncLinkPolicy(old.policy()), d.tun.SetAddrs(old.Addresses))
	}
	d.table.Store(c.table)
	d.config = c
	return errors.Join(ns.SyncLinkPolicy(c.policy()), d.tun.SetAddrs(c.Addresses))
}

func union(a, b []netip.Prefix) []netip.Prefix {
	have := make(map[netip.Prefix]bool, len(a))
	for _, p := range a {
		have[p] = true
	}
	out := slices.Clone(a)
	for _, p := range b {
		if !have[p] {
			out = append(out, p)
		}
	}
	return out
}

// queue is one reader of the device, with its counters: written by it alone,
// read by whoever asks.
type queue struct {
	d    *Daemon
	rate float64

	packets, bytes [siit.NumReasons]atomic.Uint64
	icmpSent       atomic.Uint64
	icmpLimited    atomic.Uint64
	writeErrors    atomic.Uint64

	tokens float64
	filled time.Time
	_      [64]byte // the next queue's counters are another CPU's
}

// count adds without a locked instruction: there is one writer.
func count(c *atomic.Uint64, n uint64) { c.Store(c.Load() + n) }

func (q *queue) run(dev *netio.TUNQueue) error {
	buf := make([]byte, siit.Headroom+1<<16+64)
	reply := make([]byte, netio.VNetHeaderLen, netio.VNetHeaderLen+1280)
	for {
		n, h, err := dev.Read(buf, siit.Headroom)
		if err != nil {
			return err
		}
		p := siit.Packet{Buf: buf, Off: siit.Headroom, Len: n, Offload: siit.Offload(h)}
		t := q.d.table.Load()
		v := t.Translate(&p)
		count(&q.packets[v.Reason], 1)
		count(&q.bytes[v.Reason], uint64(n))
		switch v.Action {
		case siit.Send:
			q.wrote(dev.Write(buf, p.Off, p.Len, netio.VNetHeader(p.Offload)))
		case siit.SendFragments:
			for it := t.Fragments(&p); ; {
				piece, ok := it.Next()
				if !ok {
					break
				}
				// The virtio-net header goes before the piece, where the end of the
				// piece before it was.
				q.wrote(dev.Write(buf, piece.Off, piece.Len, netio.VNetHeader{}))
			}
		case siit.Reject:
			e := t.AppendError(reply, p.Bytes(), v.Error)
			if len(e) == len(reply) {
				break
			}
			if !q.allow() {
				count(&q.icmpLimited, 1)
				break
			}
			count(&q.icmpSent, 1)
			q.wrote(dev.Write(e, len(reply), len(e)-len(reply), netio.VNetHeader{}))
		}
	}
}

// wrote counts a failed write. The device refuses packets while it is down, and
// nonsensical ones; neither is a reason to stop.
func (q *queue) wrote(err error) {
	if err != nil && !errors.Is(err, fs.ErrClosed) {
		count(&q.writeErrors, 1)
	}
}

// allow is a token bucket of one second's worth (RFC 4443 §2.4 (f)).
func (q *queue) allow() bool {
	now := q.d.now()
	if q.filled.IsZero() {
		q.tokens = q.rate
	} else {
		q.tokens = min(q.rate, q.tokens+now.Sub(q.filled).Seconds()*q.rate)
	}
	q.filled = now
	if q.tokens < 1 {
		return false
	}
	q.tokens--
	return true
}
