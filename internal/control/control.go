package control

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"widecloud/api"
	"widecloud/internal/cloud"
	"widecloud/internal/fed"
	"widecloud/internal/state"
	"widecloud/internal/store"
	"widecloud/internal/volume"
	"widecloud/internal/wire"
)

// Options are what a controller is made of.
type Options struct {
	Site        string
	State       *state.State    // of Tables; it is the federation's store, too
	Authority   *wire.Authority // the site's CA
	Federation  *fed.Federation
	Images      *volume.Store // the site's base images
	Network     wire.Network  // to invite and be invited by; nil: TCP
	Logger      *slog.Logger
	Endpoint    string         // host:port of the one outside port, as peers dial it
	AnycastVTEP netip.Addr     // of the gateways
	Pref64      netip.Prefix   // IPv4 clients appear under it (RFC 6052)
	MTU         int            // of networks that do not say; default 1430
	Plan        cloud.Plan     // what networks and service addresses may be made of
	Underlay    []netip.Prefix // where the hosts' VTEPs are; empty: anywhere outside of the plan's pools
	Lease       time.Duration  // of offers that do not say; default 24 h
	Grace       time.Duration  // of offers that do not say; default 10 min
	JoinLife    time.Duration  // of join tokens and invitations; default 24 h
	FetchFrom   []netip.Prefix // of no global reach, that users' URLs may lead to all the same
	ImageKept   time.Duration  // a base image that nothing needs is removed after so long; default 1 h
	Codec       string         // of migrations' streams; default zstd
	WatchKept   int            // changes in memory for watchers that come late, at least; default 4096

	Retry         time.Duration // between repetitions of a call that has to succeed; default 500 ms
	Resync        time.Duration // everything is looked at again so often; default 2 s
	ProgressEvery time.Duration // default 500 ms
	// Failpoint, when set, is called at each named point of a migration; tests kill the process there.
	Failpoint func(name string)
	// OnFirstLogin, when set, is called when the token that Bootstrap or Recover made was used, and is of no more use.
	OnFirstLogin func()
}

// Controller is a site's controller.
type Controller struct {
	o         Options
	log       *slog.Logger
	agents    *agents
	reports   reports
	streams   streams
	events    atomic.Uint32 // counts them
	feed      feed
	nouns     map[api.Kind]lived
	letters   memory     // documents, by kind and peer
	sizes     memory     // what lenders were asked to make of guests, by VM
	reads     sync.Mutex // of fetching and reading
	observers []observer
	lost      []func(tx *state.Tx, host string) error

	kinds      []jobKind // all of them
	migrations *jobs[migration]
	imports    *jobs[imageImport]
	deletions  *jobs[deletion]

	mu       sync.Mutex
	busy     map[string]bool          // work that once has under way
	changed  chan struct{}            // closed and replaced at every change: whoever waits looks again
	sending  chan struct{}            // one loan is written to a borrower at a time
	fetching map[string]chan struct{} // by peer: one image is fetched from it at a time
	reading  map[string]*reading      // of images whose content is being read, by UID
	work     sync.WaitGroup
	ctx      context.Context // of Run

	// Of Run's goroutine alone.
	sweptImages time.Time
	unusedSince map[volume.Digest]time.Time

	rooms state.Memo[api.Resources] // what each host has given away
	plans state.Memo[*sitePlan]
	plan  atomic.Pointer[sitePlan] // the newest
}

// New makes a controller. Its agents and peers reach it through Handler.
func New(o Options) (*Controller, error) {
	for _, d := range []struct {
		v   *time.Duration
		def time.Duration
	}{
		{&o.Lease, 24 * time.Hour}, {&o.Grace, 10 * time.Minute}, {&o.JoinLife, 24 * time.Hour}, {&o.ImageKept, time.Hour}, {&o.Retry, 500 * time.Millisecond},
		{&o.Resync, 2 * time.Second}, {&o.ProgressEvery, 500 * time.Millisecond},
	} {
		if *d.v == 0 {
			*d.v = d.def
		}
	}
	if o.MTU == 0 {
		o.MTU = 1430
	}
	if o.Codec == "" {
		o.Codec = "zstd"
	}
	if o.Failpoint == nil {
		o.Failpoint = func(string) {}
	}
	c := &Controller{o: o, log: o.Logger.With("site", o.Site), busy: map[string]bool{}, sending: make(chan struct{}, 1), fetching: map[string]chan struct{}{}, reading: map[string]*reading{}, unusedSince: map[volume.Digest]time.Time{}, changed: make(chan struct{})}
	c.reports.c = c
	c.agents, c.streams.open = newAgents(c), map[string]map[*stream]bool{}
	c.migrations, c.imports, c.deletions = newMigrations(c), newImports(c), newDeletions(c)
	c.kinds = []jobKind{c.migrations, c.imports, c.deletions}
	c.documents()
	c.allLives()
	return c, nil
}

// Run keeps the site's objects and what they stand for the same until ctx ends.
func (c *Controller) Run(ctx context.Context) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	c.mu.Lock()
	c.ctx = ctx
	c.mu.Unlock()
	w, err := c.o.State.Watch(ctx, "", -1)
	if ctx.Err() != nil {
		return nil // stopped before it began
	}
	if err != nil {
		return fmt.Errorf("watch the store: %w", err)
	}
	c.work.Go(func() {
		for changes := range w.C() {
			if slices.ContainsFunc(changes, func(ch store.Change) bool { return concerns(ch.Key) }) {
				c.poke()
			}
		}
		c.poke()
	})
	defer c.work.Wait()
	defer stop()
	c.work.Go(func() { c.runFeed(ctx) })
	c.once("hosts", c.awaitHosts)
	tick := time.NewTicker(c.o.Resync)
	defer tick.Stop()
	for {
		changed := c.whenChanged()
		for _, step := range []struct {
			name string
			f    func(context.Context) error
		}{
			{"place VMs", c.placeVMs}, {"end VMs", c.endVMs}, {"power guests", c.powerGuests}, {"jobs", c.runJobs},
			{"sweep", c.sweep}, {"lending", c.lending}, {"documents", c.sendDocuments}, {"images", c.importImages}, {"unused images", c.sweepImages}, {"events", c.forget},
		} {
			if err := step.f(ctx); err != nil && ctx.Err() == nil {
				c.log.Error(step.name, "err", err)
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		case <-tick.C:
		}
		if !c.settle(ctx) {
			return nil
		}
		if err := w.Err(); errors.Is(err, store.ErrSlow) {
			return fmt.Errorf("watch the store: %w", err)
		}
	}
}

// settleTime is what is waited after a change before everything is looked at: changes come in groups.
const settleTime = 10 * time.Millisecond

// settleAgents is settleTime for the orders of each of a number of agents: all of them look at each change.
func settleAgents(n int) time.Duration {
	return min(max(1, time.Duration(n/100))*settleTime, 10*settleTime)
}

func (c *Controller) settle(ctx context.Context) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(settleTime):
		return true
	}
}

// concerns tells whether anybody has something to do because of a change of a key. Events and progress come often, and
// nothing follows from them; Cancel pokes by itself.
func concerns(key string) bool {
	for _, prefix := range []string{keyOf(api.KindEvent, ""), keyOf(api.KindJob, ""), keyOf(api.KindVolume, ""), prefixTokens, prefixJoins, prefixAnswers, "fed/"} {
		if strings.HasPrefix(key, prefix) {
			return false
		}
	}
	return true
}

// poke wakes everybody who waits for a change.
func (c *Controller) poke() {
	c.mu.Lock()
	defer c.mu.Unlock()
	close(c.changed)
	c.changed = make(chan struct{})
}

// whenChanged is closed at the next change.
func (c *Controller) whenChanged() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.changed
}

// once runs f in the background unless work of that name is under way already.
func (c *Controller) once(name string, f func(context.Context)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.busy[name] || c.ctx == nil || c.ctx.Err() != nil {
		return
	}
	c.busy[name] = true
	ctx := c.ctx
	c.work.Go(func() {
		defer func() {
			c.mu.Lock()
			delete(c.busy, name)
			c.mu.Unlock()
		}()
		f(ctx)
	})
}

// at tells whether work of a name is under way.
func (c *Controller) at(name string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.busy[name]
}

func (c *Controller) now() time.Time { return time.Now().UTC().Truncate(time.Millisecond) }

// newUID is a random UUID (RFC 9562 §5.4).
func newUID() string {
	var b [16]byte
	rand.Read(b[:]) // never fails (crypto/rand)
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

func (c *Controller) shortID() string { return newUID()[:8] }

func (c *Controller) newMeta(name, owner string) api.Meta {
	return api.Meta{Name: name, UID: newUID(), Owner: owner, Home: c.o.Site, Created: c.now()}
}

// eventsKept is how many events are kept before the oldest are forgotten.
const eventsKept = 1000

// event tells people of something, in the transaction that makes it so. Its actor is the transaction's.
func (c *Controller) event(tx *state.Tx, typ, object, owner, message string) {
	e := &api.Event{
		// Names are in the order of the events, of those of one millisecond, too.
		Meta: c.newMeta(fmt.Sprintf("%016x-%04x-%s", c.now().UnixMilli(), uint16(c.events.Add(1)), c.shortID()), owner),
		Time: c.now(), Type: typ, Object: object, Actor: tx.Actor(), Message: message,
	}
	if err := put(tx, e); err != nil {
		c.log.Error("keep event", "type", typ, "err", err)
	}
}

// forget removes what is no longer of use: the oldest events, ended jobs, loans and answers, tokens that have expired.
func (c *Controller) forget(ctx context.Context) error {
	if err := c.forgetEvents(ctx); err != nil {
		return err
	}
	if err := c.pruneLoans(ctx); err != nil {
		return err
	}
	if err := c.pruneAnswers(ctx); err != nil {
		return err
	}
	return c.pruneJoins(ctx)
}

func (c *Controller) forgetEvents(ctx context.Context) error {
	var old []string
	if err := c.view(ctx, func(tx *state.Tx) error {
		for key := range tx.Objects(keyOf(api.KindEvent, "")) {
			old = append(old, key)
		}
		old = append(old[:max(0, len(old)-eventsKept)], oldJobs(tx)...)
		return nil
	}); err != nil || len(old) < 100 {
		return err
	}
	return c.update(store.Urgent(ctx), func(tx *state.Tx) error {
		for _, key := range old {
			if err := remove(tx, key); err != nil {
				return err
			}
		}
		return nil
	})
}
