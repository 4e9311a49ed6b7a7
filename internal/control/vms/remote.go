package vms

import (
	"context"
	"fmt"
	"net"
	"net/http"

	"widecloud/api"
	"widecloud/internal/control/guests"
	"widecloud/internal/wire"
)

// peer is an end at another site: every call goes to its controller, which judges it by the loan.
type peer struct {
	c    *VMs
	site string
}

func (p peer) call(ctx context.Context, path string, in, out any) error {
	s, err := p.c.Federation.Session(p.site, false)
	if err != nil {
		return err
	}
	return wire.Call(ctx, s, http.MethodPost, path, in, out)
}

func (p peer) Check(ctx context.Context, c wire.ClaimCall) ([]api.Reason, error) {
	var out wire.CheckAnswer
	err := p.call(ctx, wire.PathFedCheck, c, &out)
	return out.Reasons, err
}

func (p peer) Reserve(ctx context.Context, c wire.ClaimCall) (out wire.Claim, err error) {
	err = p.call(ctx, wire.PathFedReserve, c, &out)
	return out, err
}

func (p peer) Begin(ctx context.Context, c wire.MigrateCall) (out wire.MigrateOffer, err error) {
	err = p.call(ctx, wire.PathFedBegin, c, &out)
	return out, err
}

func (p peer) Prepare(ctx context.Context, c wire.PrepareCall) (out wire.MigrateAnswer, err error) {
	err = p.call(ctx, wire.PathFedPrepare, c, &out)
	return out, err
}

func (p peer) Perform(ctx context.Context, c wire.PerformCall) (out wire.MigrateResult, err error) {
	err = p.call(ctx, wire.PathFedPerform, c, &out)
	return out, err
}

func (p peer) Progress(ctx context.Context, c wire.MigrateCall) (out api.Progress, err error) {
	err = p.call(ctx, wire.PathFedProgress, c, &out)
	return out, err
}

func (p peer) Cancel(ctx context.Context, c wire.MigrateCall) error {
	return p.call(ctx, wire.PathFedCancel, c, &wire.Empty{})
}

func (p peer) Finish(ctx context.Context, c wire.FinishCall) error {
	return p.call(ctx, wire.PathFedFinish, c, &wire.Empty{})
}

func (p peer) Confirm(ctx context.Context, c wire.FinishCall) error {
	return p.call(ctx, wire.PathFedConfirm, c, &wire.Empty{})
}

func (p peer) Reboot(ctx context.Context, c wire.RebootCall) error {
	return p.call(ctx, wire.PathFedReboot, c, &wire.Empty{})
}

// order leaves the size out for a peer whose release cannot change it: growth has refused every other one than the guest has.
func (p peer) Order(ctx context.Context, o wire.GuestOrder) error {
	s, err := p.c.Federation.Session(p.site, false)
	if err != nil {
		return err
	}
	if !s.Can(wire.CapGuestSize) {
		o.Size = nil
	}
	return wire.Call(ctx, s, http.MethodPost, wire.PathFedOrder, o, &wire.Empty{})
}

// can tells whether a lender is reached and has a capability.
func (p peer) can(c wire.Capability) bool {
	s, err := p.c.Federation.Session(p.site, false)
	return err == nil && s.Can(c)
}

// cannotResize says why a lender does not change the size of guests; nil: it does, or is not reached, so that it is not known.
func (p peer) cannotResize() []api.Reason {
	s, err := p.c.Federation.Session(p.site, false)
	if err != nil || s.Can(wire.CapGuestSize) {
		return nil
	}
	return []api.Reason{{
		Site: p.site, Code: "release", Message: "its release cannot change the size of a guest",
		Advice: "move the VM away first, or ask the site's operator for an upgrade",
	}}
}

// cannotMoveStopped says why a lender sends and takes in no stopped VM; nil: it does, or is not reached, so that it is not known.
func (p peer) cannotMoveStopped() *api.Reason {
	s, err := p.c.Federation.Session(p.site, false)
	if err != nil || s.Can(wire.CapMoveStopped) {
		return nil
	}
	return &api.Reason{
		Site: p.site, Code: "release", Message: "its release moves only VMs that run",
		Advice: "start the VM first, or ask the site's operator for an upgrade",
	}
}

// cannotRest says why a lender suspends or hibernates no guests; nil: it does, or is not reached, so that it is not known.
func (p peer) cannotRest(power api.Power) *api.Reason {
	c, newer := guests.Resting[power]
	s, err := p.c.Federation.Session(p.site, false)
	if !newer || err != nil || s.Can(c) {
		return nil
	}
	return &api.Reason{Site: p.site, Code: "release", Message: fmt.Sprintf("its release has no VMs that are %s", power), Advice: "stop the VM, or ask the site's operator for an upgrade"}
}

func (p peer) Channel(ctx context.Context, h wire.ChannelHeader) (net.Conn, error) {
	return p.stream(ctx, wire.PathFedChannel, h)
}

func (p peer) Console(ctx context.Context, h wire.ConsoleHeader) (net.Conn, error) {
	return p.stream(ctx, wire.PathFedConsole, h)
}

// Display says so when a peer's release relays none.
func (p peer) Display(ctx context.Context, h wire.ConsoleHeader) (net.Conn, error) {
	if s, err := p.c.Federation.Session(p.site, true); err == nil && !s.Can(wire.CapDisplay) {
		return nil, api.Errorf(api.CodeRefused, "the release of site %s has no displays; the VM has the serial console", p.site)
	}
	return p.stream(ctx, wire.PathFedDisplay, h)
}

// cannotReadDisk says why a lender does not send the disks of stopped VMs; nil: it does, or is not reached, so that it is not known.
func (p peer) cannotReadDisk() *api.Reason {
	s, err := p.c.Federation.Session(p.site, false)
	if err != nil || s.Can(wire.CapReadDisk) {
		return nil
	}
	return &api.Reason{
		Site: p.site, Code: "release", Message: "its release does not send the disks of stopped VMs",
		Advice: "move the VM home first, or ask the site's operator for an upgrade",
	}
}

func (p peer) Disk(ctx context.Context, h wire.DiskHeader) (net.Conn, error) {
	return p.stream(ctx, wire.PathFedDisk, h)
}

// Usage says so when a peer's release keeps none.
func (p peer) Usage(ctx context.Context, c wire.UsageCall) (u api.Usage, err error) {
	s, err := p.c.Federation.Session(p.site, false)
	if err != nil {
		return u, err
	}
	if !s.Can(wire.CapUsage) {
		return u, api.Errorf(api.CodeRefused, "the release of site %s does not tell what VMs use", p.site)
	}
	err = wire.Call(ctx, s, http.MethodPost, wire.PathFedUsage, c, &u)
	return u, err
}

// stream opens a bulk stream, on the session that control does not wait behind.
func (p peer) stream(ctx context.Context, path string, header any) (net.Conn, error) {
	s, err := p.c.Federation.Session(p.site, true)
	if err != nil {
		return nil, err
	}
	return wire.OpenStream(ctx, s, path, header)
}
