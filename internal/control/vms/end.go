package vms

import (
	"context"
	"net"

	"widecloud/api"
	"widecloud/internal/wire"
)

// end is what a saga needs of a site, its own or a peer's. Every call is idempotent by its job, so that a coordinator that
// lost an answer asks again.
type end interface {
	// Check gives every reason at once why a claim would be refused now.
	Check(ctx context.Context, c wire.ClaimCall) ([]api.Reason, error)
	// Reserve keeps room and chooses the host; api.CodeRefused with all reasons when there is none.
	Reserve(ctx context.Context, c wire.ClaimCall) (wire.Claim, error)

	Begin(ctx context.Context, c wire.MigrateCall) (wire.MigrateOffer, error)
	Prepare(ctx context.Context, c wire.PrepareCall) (wire.MigrateAnswer, error)
	Perform(ctx context.Context, c wire.PerformCall) (wire.MigrateResult, error)
	Progress(ctx context.Context, c wire.MigrateCall) (api.Progress, error)
	Cancel(ctx context.Context, c wire.MigrateCall) error
	// Finish tells the target the decision. An abort also gives the claim's room back.
	Finish(ctx context.Context, c wire.FinishCall) error
	// Confirm tells the source the decision. A commit also gives the guest's room back.
	Confirm(ctx context.Context, c wire.FinishCall) error

	// Channel opens a stream towards the target's hypervisor.
	Channel(ctx context.Context, h wire.ChannelHeader) (net.Conn, error)
	Reboot(ctx context.Context, c wire.RebootCall) error
	Console(ctx context.Context, h wire.ConsoleHeader) (net.Conn, error)
	Display(ctx context.Context, h wire.ConsoleHeader) (net.Conn, error)
	Usage(ctx context.Context, c wire.UsageCall) (api.Usage, error)
	// Disk opens a disk of a stopped VM, as it is sent in the header's codec.
	Disk(ctx context.Context, h wire.DiskHeader) (net.Conn, error)
	// Order wishes a guest's power or removal; only of a peer.
	Order(ctx context.Context, o wire.GuestOrder) error
}

// endOf is the end of a site: this one, or a peer.
func (vs *VMs) endOf(site string) end {
	if site == vs.Name {
		return vs.guests
	}
	return peer{vs, site}
}
