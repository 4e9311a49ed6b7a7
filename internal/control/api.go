package control

import (
	"context"
	"io"
	"log/slog"

	"github.com/prometheus/client_golang/prometheus"

	"widecloud/api"
	"widecloud/internal/access"
	"widecloud/internal/control/accounts"
	"widecloud/internal/control/objects"
	"widecloud/internal/serve"
	"widecloud/internal/state"
	"widecloud/internal/wire"
)

// What users ask for, by serve.Controller. What is written is marked with who asks; the package of the noun does it.

func (c *Controller) Authenticate(ctx context.Context, token string) (access.Actor, error) {
	return c.accounts.Authenticate(ctx, token)
}

func (c *Controller) Answered(ctx context.Context, a serve.Attempt) (*serve.Answer, error) {
	return c.site.Answered(ctx, a)
}

func (c *Controller) Get(ctx context.Context, p access.Actor, k api.Kind, name string) (api.Object, error) {
	return c.site.Get(ctx, p, k, name)
}

func (c *Controller) List(ctx context.Context, p access.Actor, k api.Kind, q serve.Query) ([]api.Object, int64, error) {
	return c.site.List(ctx, p, k, q)
}

func (c *Controller) Create(ctx context.Context, p access.Actor, o api.Object) (api.Object, error) {
	return c.site.Create(objects.AsUser(ctx, p), p, o)
}

func (c *Controller) Update(ctx context.Context, p access.Actor, o api.Object) (api.Object, error) {
	return c.site.Update(objects.AsUser(ctx, p), p, o)
}

func (c *Controller) Delete(ctx context.Context, p access.Actor, k api.Kind, name string) (api.Object, error) {
	return c.site.Delete(objects.AsUser(ctx, p), p, k, name)
}

func (c *Controller) Watch(ctx context.Context, p access.Actor, kinds []api.Kind, s api.Selector, from int64) (serve.Watch, error) {
	return c.watch.Watch(ctx, p, kinds, s, from)
}

func (c *Controller) Migrate(ctx context.Context, p access.Actor, vm, target string, dryRun bool) (*api.Job, []api.Reason, error) {
	return c.vms.Migrate(objects.AsUser(ctx, p), p, vm, target, dryRun)
}

func (c *Controller) DryRun(ctx context.Context, p access.Actor, v *api.VM) (*api.VMDryRun, error) {
	return c.vms.DryRun(objects.AsUser(ctx, p), p, v)
}

func (c *Controller) Bulk(ctx context.Context, p access.Actor, r api.BulkRequest) (*api.Job, error) {
	return c.bulk.Ask(objects.AsUser(ctx, p), p, r)
}

func (c *Controller) BulkResults(ctx context.Context, p access.Actor, job string) ([]api.BulkResult, error) {
	return c.bulk.Results(ctx, p, job)
}

func (c *Controller) Cancel(ctx context.Context, p access.Actor, job string) (*api.Job, error) {
	return c.jobs.Cancel(objects.AsUser(ctx, p), p, job)
}

func (c *Controller) Why(ctx context.Context, p access.Actor, vm, not string) ([]api.Reason, error) {
	return c.vms.Why(ctx, p, vm, not)
}

func (c *Controller) Reboot(ctx context.Context, p access.Actor, vm string, hard bool) error {
	return c.vms.Reboot(objects.AsUser(ctx, p), p, vm, hard)
}

func (c *Controller) Rename(ctx context.Context, p access.Actor, vm, name string) (*api.VM, error) {
	return c.vms.Rename(objects.AsUser(ctx, p), p, vm, name)
}

func (c *Controller) Usage(ctx context.Context, p access.Actor, vm string) (*api.Usage, error) {
	return c.vms.Usage(ctx, p, vm)
}

func (c *Controller) Ledger(ctx context.Context, p access.Actor, from string) (*api.Ledger, error) {
	return c.lending.Ledger(ctx, p, from)
}

func (c *Controller) AddressTraffic(ctx context.Context, p access.Actor, name string) (*api.Traffic, error) {
	return c.networks.AddressTraffic(ctx, p, name)
}

func (c *Controller) TranslatorTraffic(ctx context.Context, p access.Actor, name string) (*api.Traffic, error) {
	return c.networks.TranslatorTraffic(ctx, p, name)
}

func (c *Controller) Console(ctx context.Context, p access.Actor, vm string) (io.ReadWriteCloser, error) {
	return c.vms.Console(ctx, p, vm)
}

func (c *Controller) Display(ctx context.Context, p access.Actor, vm string) (io.ReadWriteCloser, error) {
	return c.vms.Display(ctx, p, vm)
}

func (c *Controller) Upload(ctx context.Context, p access.Actor, image string, content io.Reader) (*api.Image, error) {
	return c.images.Upload(objects.AsUser(ctx, p), p, image, content)
}

func (c *Controller) JoinToken(ctx context.Context, p access.Actor, host string, roles []api.HostRole) (string, error) {
	return c.joining.JoinToken(objects.AsUser(ctx, p), p, host, roles)
}

func (c *Controller) PeerInvite(ctx context.Context, p access.Actor) (string, error) {
	return c.joining.PeerInvite(objects.AsUser(ctx, p), p)
}

func (c *Controller) PeerAdd(ctx context.Context, p access.Actor, invitation string) (*api.Peer, error) {
	return c.joining.PeerAdd(objects.AsUser(ctx, p), p, invitation)
}

func (c *Controller) Borrow(ctx context.Context, p access.Actor, lender, offer string, amount api.Resources) (*api.Loan, error) {
	return c.lending.Borrow(objects.AsUser(ctx, p), p, lender, offer, amount)
}

func (c *Controller) Reclaim(ctx context.Context, p access.Actor, loan string) (*api.Loan, error) {
	return c.lending.Reclaim(objects.AsUser(ctx, p), p, loan)
}

func (c *Controller) Return(ctx context.Context, p access.Actor, loan string) (*api.Loan, error) {
	return c.lending.Return(objects.AsUser(ctx, p), p, loan)
}

func (c *Controller) Tokens(ctx context.Context, p access.Actor, user string) ([]api.UserToken, error) {
	return c.accounts.Tokens(ctx, p, user)
}

func (c *Controller) NewToken(ctx context.Context, p access.Actor, user string, r api.TokenRequest) (*api.UserToken, error) {
	return c.accounts.NewToken(objects.AsUser(ctx, p), p, user, r)
}

func (c *Controller) RevokeToken(ctx context.Context, p access.Actor, user, id string) error {
	return c.accounts.RevokeToken(objects.AsUser(ctx, p), p, user, id)
}

// Metrics are the figures of the site's hosts, VMs, migrations, peers and loans, made when they are asked for.
func (c *Controller) Metrics() prometheus.Collector { return c.meter }

// Bootstrap lets the first admin into a new site: see accounts.Bootstrap.
func (c *Controller) Bootstrap(ctx context.Context, keep func(token string) error) (waits bool, err error) {
	return c.accounts.Bootstrap(ctx, keep)
}

// FirstTokenTime is how long the token of a first login is good.
const FirstTokenTime = accounts.FirstTokenTime

// Recover is the way back in when no admin can log in: see accounts.Recover.
func Recover(ctx context.Context, st *state.State, site, user string, log *slog.Logger, keep func(token string) error) error {
	return accounts.Recover(ctx, st, site, user, log, keep)
}

// Join signs an agent's certificate against its one-time token.
func (c *Controller) Join(ctx context.Context, r wire.JoinRequest) (reply wire.JoinReply, err error) {
	err = c.site.ByNewcomer(objects.AsAgent(ctx, r.Host), "agent:"+r.Host, "join", func(ctx context.Context) (err error) {
		reply, err = c.joining.Join(ctx, r)
		return err
	})
	return reply, err
}

// Peer answers another site that has an invitation of ours.
func (c *Controller) Peer(ctx context.Context, r wire.PeerRequest) (reply wire.PeerReply, err error) {
	err = c.site.ByNewcomer(objects.AsPeer(ctx, r.Site), "peer:"+r.Site, "peer", func(ctx context.Context) (err error) {
		reply, err = c.joining.Peer(ctx, r)
		return err
	})
	return reply, err
}

// Peers begins to speak with every peer that the store has; once, before Run.
func (c *Controller) Peers(ctx context.Context) error { return c.joining.Peers(ctx) }

// Admit refuses an agent whose key does not speak for its host.
func (c *Controller) Admit(caller wire.Caller) error { return c.joining.Admit(caller) }
