package control

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"widecloud/api"
	"widecloud/internal/control/accounts"
	"widecloud/internal/control/bulk"
	"widecloud/internal/control/guests"
	"widecloud/internal/control/hosts"
	"widecloud/internal/control/images"
	"widecloud/internal/control/jobs"
	"widecloud/internal/control/joining"
	"widecloud/internal/control/lending"
	"widecloud/internal/control/meter"
	"widecloud/internal/control/networks"
	"widecloud/internal/control/notices"
	"widecloud/internal/control/objects"
	"widecloud/internal/control/orders"
	"widecloud/internal/control/rooms"
	"widecloud/internal/control/vms"
	"widecloud/internal/control/volumes"
	"widecloud/internal/control/watch"
	"widecloud/internal/serve"
	"widecloud/internal/state"
	"widecloud/internal/store"
)

// Options are what a controller is made of.
type Options = objects.Options

// Controller is a site's controller: the lives of all its nouns.
type Controller struct {
	site     *objects.Site
	rooms    *rooms.Rooms
	orders   *orders.Orders
	jobs     *jobs.Jobs
	networks *networks.Networks
	hosts    *hosts.Hosts
	images   *images.Images
	guests   *guests.Guests
	accounts *accounts.Accounts
	volumes  *volumes.Volumes
	vms      *vms.VMs
	bulk     *bulk.Bulk
	joining  *joining.Joining
	watch    *watch.Watches
	lending  *lending.Lending
	notices  *notices.Notices
	meter    *meter.Meter
}

var _ serve.Controller = (*Controller)(nil)

// New makes a controller. Its agents and peers reach it through Handler.
func New(o Options) *Controller {
	site := objects.New(o)
	c := &Controller{site: site, jobs: jobs.New(site)}
	room := rooms.New(site)
	nets := networks.New(site, room)
	c.rooms = room
	c.networks = nets
	c.orders = orders.New(site, room, nets)
	c.hosts = hosts.New(site, room, nets, c.orders)
	c.images = images.New(site, c.jobs)
	c.guests = guests.New(site, room, nets, c.hosts)
	c.accounts = accounts.New(site, room)
	c.volumes = volumes.New(site, room, c.hosts)
	c.vms = vms.New(site, vms.Parts{
		Rooms: room, Networks: nets, Orders: c.orders, Hosts: c.hosts, Guests: c.guests, Accounts: c.accounts, Volumes: c.volumes, Jobs: c.jobs,
	})
	c.images.Of(c.vms)
	c.bulk = bulk.New(site, c.jobs, c.vms, c.accounts)
	c.joining = joining.New(site, room, nets)
	c.watch = watch.New(site, c.accounts)
	c.lending = lending.New(site, room, nets, c.guests, c.vms)
	c.notices = notices.New(site)
	c.meter = meter.New(site, c.hosts)
	return c
}

// Tables is the schema of a site's state: every kind of object, and the controller's own records, each with what it is found by.
func Tables() state.Schema {
	return slices.Concat(
		objects.Tables(), networks.Tables(), jobs.Tables(), hosts.Tables(), images.Tables(), guests.Tables(), accounts.Tables(), volumes.Tables(), vms.Tables(), bulk.Tables(),
		joining.Tables(), lending.Tables(), notices.Tables(),
	)
}

// Run keeps the site's objects and what they stand for the same until ctx ends.
func (c *Controller) Run(ctx context.Context) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	wait := c.site.Start(ctx)
	w, err := c.site.State.Watch(ctx, "", -1)
	if ctx.Err() != nil {
		return nil // stopped before it began
	}
	if err != nil {
		return fmt.Errorf("watch the store: %w", err)
	}
	c.site.Go(func() {
		for changes := range w.C() {
			if slices.ContainsFunc(changes, func(ch store.Change) bool { return objects.Concerns(ch.Key) }) {
				c.site.Poke()
			}
		}
		c.site.Poke()
	})
	defer wait()
	defer stop()
	c.site.Go(func() { c.watch.Run(ctx) })
	if err := c.volumes.Forget(ctx); err != nil && ctx.Err() == nil {
		c.site.Log.Error("forget the disks of an earlier release", "err", err)
	}
	c.site.Once("hosts", c.hosts.Await)
	c.site.Once("meter", c.meter.Run)
	tick := time.NewTicker(c.site.Resync)
	defer tick.Stop()
	for {
		changed := c.site.WhenChanged()
		for _, step := range []struct {
			name string
			f    func(context.Context) error
		}{
			{"place VMs", c.vms.Place}, {"end VMs", c.vms.End}, {"power guests", c.vms.Power}, {"jobs", c.jobs.Run},
			{"sweep", c.vms.Sweep}, {"lending", c.lending.Keep}, {"documents", c.lending.Tell}, {"images", c.images.Import}, {"unused images", c.images.Sweep}, {"notices", c.notices.Keep}, {"events", c.forget}, {"sites", c.joining.KeepSites},
		} {
			if err := step.f(ctx); err != nil && ctx.Err() == nil {
				c.site.Log.Error(step.name, "err", err)
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

func (c *Controller) settle(ctx context.Context) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(hosts.SettleTime):
		return true
	}
}

// eventsKept is how many events are kept before the oldest are forgotten.
const eventsKept = 1000

// forget removes what is no longer of use: the oldest events, ended jobs, loans and answers, tokens that have expired.
func (c *Controller) forget(ctx context.Context) error {
	if err := c.forgetEvents(ctx); err != nil {
		return err
	}
	if err := c.lending.Prune(ctx); err != nil {
		return err
	}
	if err := c.site.PruneAnswers(ctx); err != nil {
		return err
	}
	return c.joining.Prune(ctx)
}

func (c *Controller) forgetEvents(ctx context.Context) error {
	var old []string
	if err := c.site.Read(ctx, func(tx *state.Tx) error {
		for key := range tx.Objects(objects.Key(api.KindEvent, "")) {
			old = append(old, key)
		}
		old = append(old[:max(0, len(old)-eventsKept)], jobs.Old(tx)...)
		return nil
	}); err != nil || len(old) < 100 {
		return err
	}
	return c.site.Write(store.Urgent(ctx), func(tx *state.Tx) error {
		for _, key := range old {
			if err := objects.Remove(tx, key); err != nil {
				return err
			}
		}
		return nil
	})
}
