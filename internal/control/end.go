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
	// X_check gives every reason at once why a claim would be refused now.
	X_check(ctx context.Context, c wire.ClaimCall) ([]api.Reason, error)
	// X_reserve keeps room and chooses the host; api.CodeRefused with all reasons when there is none.
	X_reserve(ctx context.Context, c wire.ClaimCall) (wire.Claim, error)

	X_begin(ctx context.Context, c wire.MigrateCall) (wire.MigrateOffer, error)
	X_prepare(ctx context.Context, c wire.PrepareCall) (wire.MigrateAnswer, error)
	X_perform(ctx context.Context, c wire.PerformCall) (wire.MigrateResult, error)
	X_progress(ctx context.Context, c wire.MigrateCall) (api.Progress, error)
	X_cancel(ctx context.Context, c wire.MigrateCall) error
	// X_finish tells the target the decision. An abort also gives the claim's room back.
	X_finish(ctx context.Context, c wire.FinishCall) error
	// X_confirm tells the source the decision. A commit also gives the guest's room back.
	X_confirm(ctx context.Context, c wire.FinishCall) error

	// X_channel opens a stream towards the target's hypervisor.
	X_channel(ctx context.Context, h wire.ChannelHeader) (net.Conn, error)
	X_reboot(ctx context.Context, c wire.RebootCall) error
	X_console(ctx context.Context, h wire.ConsoleHeader) (net.Conn, error)
	// X_order wishes a guest's power or removal; only of a peer.
	X_order(ctx context.Context, o wire.GuestOrder) error
}

// endOf is the end of a site: this one, or a peer.
func (c *Controller) endOf(site string) end {
	if site == c.o.Site {
		return c
	}
	return peer{c, site}
}
