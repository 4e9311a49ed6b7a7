package control

import (
	"context"
	"net"

	"widecloud/api"
	"widecloud/internal/wire"
)

// end is what a saga needs of a site, its own or a peer's. Every call is idempotent by its job, so that a coordinator that
// lost an answer asks again.
type end interface {
	// check gives every reason at once why a claim would be refused now.
	check(ctx context.Context, c wire.ClaimCall) ([]api.Reason, error)
	// reserve keeps room and chooses the host; api.CodeRefused with all reasons when there is none.
	reserve(ctx context.Context, c wire.ClaimCall) (wire.Claim, error)

	begin(ctx context.Context, c wire.MigrateCall) (wire.MigrateOffer, error)
	prepare(ctx context.Context, c wire.PrepareCall) (wire.MigrateAnswer, error)
	perform(ctx context.Context, c wire.PerformCall) (wire.MigrateResult, error)
	progress(ctx context.Context, c wire.MigrateCall) (api.Progress, error)
	cancel(ctx context.Context, c wire.MigrateCall) error
	// finish tells the target the decision. An abort also gives the claim's room back.
	finish(ctx context.Context, c wire.FinishCall) error
	// confirm tells the source the decision. A commit also gives the guest's room back.
	confirm(ctx context.Context, c wire.FinishCall) error

	// channel opens a stream towards the target's hypervisor.
	channel(ctx context.Context, h wire.ChannelHeader) (net.Conn, error)
	reboot(ctx context.Context, c wire.RebootCall) error
	console(ctx context.Context, h wire.ConsoleHeader) (net.Conn, error)
	// order wishes a guest's power or removal; only of a peer.
	order(ctx context.Context, o wire.GuestOrder) error
}

// endOf is the end of a site: this one, or a peer.
func (c *Controller) endOf(site string) end {
	if site == c.o.Site {
		return local{c}
	}
	return peer{c, site}
}
