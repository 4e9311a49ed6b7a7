package control

import (
	"context"
	"errors"
	"net/http"

	"widecloud/api"
	"widecloud/internal/control/objects"
	"widecloud/internal/control/vms"
	"widecloud/internal/volume"
	"widecloud/internal/wire"
)

// Handler answers what agents and peers ask for by their sessions.
func (c *Controller) Handler() http.Handler {
	mux := http.NewServeMux()
	c.site.Federation.Handle(mux)

	agent := func(id wire.Identity) error {
		if id.Role != wire.RoleAgent || id.Site != c.site.Name {
			return api.Errorf(api.CodeForbidden, "%s is not an agent of %s", id, c.site.Name)
		}
		return nil
	}
	wire.Handle(mux, wire.PathReport, func(ctx context.Context, id wire.Identity, r wire.HostReport) (wire.Empty, error) {
		if err := agent(id); err != nil {
			return wire.Empty{}, err
		}
		return wire.Empty{}, c.hosts.Report(ctx, id.Host, r)
	})
	wire.HandleStream(mux, wire.PathAgentImage, func(ctx context.Context, id wire.Identity, h wire.ImageHeader, s *wire.Stream) error {
		if err := agent(id); err != nil {
			return err
		}
		if err := c.orders.MayFetch(ctx, id.Host, h.Digest); err != nil {
			return err
		}
		if err := c.images.Fetch(ctx, volume.Digest(h.Digest)); err != nil {
			return err
		}
		return c.images.Send(ctx, h, s)
	})
	wire.HandleStream(mux, wire.PathOutgoing, func(ctx context.Context, id wire.Identity, h wire.ChannelHeader, s *wire.Stream) error {
		if err := agent(id); err != nil {
			return err
		}
		return c.vms.RelayOut(ctx, id.Host, h, s)
	})

	// A peer may act on what it lends us of its own VMs, on its guests here, and on the jobs that it coordinates.
	claimOf := func(ctx context.Context, from string, in wire.ClaimCall) error {
		if in.Order.Home != from {
			return &api.Error{Code: api.CodeForbidden, Field: "order.home", Message: "is " + in.Order.Home + ", and " + from + " asks"}
		}
		return nil
	}
	handlePeer(mux, wire.PathFedCheck, claimOf, func(ctx context.Context, in wire.ClaimCall) (wire.CheckAnswer, error) {
		reasons, err := c.guests.Check(ctx, in)
		return wire.CheckAnswer{Reasons: reasons}, err
	})
	handlePeer(mux, wire.PathFedReserve, claimOf, c.guests.Reserve)
	handlePeer(mux, wire.PathFedPrepare, func(ctx context.Context, from string, in wire.PrepareCall) error {
		return c.guests.IsJob(ctx, from, in.Job, in.Order.VM)
	}, c.guests.Prepare)
	handlePeer(mux, wire.PathFedBegin, func(ctx context.Context, from string, in wire.MigrateCall) error {
		return c.guests.Is(ctx, from, in.VM)
	}, c.guests.Begin)
	handlePeer(mux, wire.PathFedPerform, func(ctx context.Context, from string, in wire.PerformCall) error {
		return c.guests.Is(ctx, from, in.VM)
	}, c.guests.Perform)
	handlePeer(mux, wire.PathFedProgress, func(ctx context.Context, from string, in wire.MigrateCall) error {
		return c.guests.Is(ctx, from, in.VM)
	}, c.guests.Progress)
	handlePeer(mux, wire.PathFedCancel, func(ctx context.Context, from string, in wire.MigrateCall) error {
		return c.guests.Is(ctx, from, in.VM)
	}, func(ctx context.Context, in wire.MigrateCall) (wire.Empty, error) {
		return wire.Empty{}, c.guests.Cancel(ctx, in)
	})
	finishable := func(ctx context.Context, from string, in wire.FinishCall) error {
		err := c.guests.IsJob(ctx, from, in.Job, in.VM)
		if errors.Is(err, &api.Error{Code: api.CodeNotFound}) {
			return nil // local.finish knows what an unknown job means
		}
		return err
	}
	handlePeer(mux, wire.PathFedFinish, finishable, func(ctx context.Context, in wire.FinishCall) (wire.Empty, error) {
		return wire.Empty{}, c.guests.Finish(ctx, in)
	})
	handlePeer(mux, wire.PathFedConfirm, nil, func(ctx context.Context, in wire.FinishCall) (wire.Empty, error) {
		id, _ := wire.PeerOf(ctx)
		err := c.guests.Is(ctx, id.Site, in.VM)
		if in.Commit && errors.Is(err, &api.Error{Code: api.CodeNotFound}) {
			return wire.Empty{}, nil // let go before; no agent is asked about a VM that is not the peer's guest
		}
		if err != nil {
			return wire.Empty{}, err
		}
		return wire.Empty{}, c.guests.Confirm(ctx, in)
	})
	handlePeer(mux, wire.PathFedOrder, func(ctx context.Context, from string, in wire.GuestOrder) error {
		err := c.guests.Is(ctx, from, in.VM)
		if errors.Is(err, &api.Error{Code: api.CodeNotFound}) {
			return nil
		}
		return err
	}, func(ctx context.Context, in wire.GuestOrder) (wire.Empty, error) {
		err := c.guests.Order(ctx, in)
		if err == nil && in.Run == wire.RunGone {
			err = c.guests.TellIfGone(ctx, in)
		}
		return wire.Empty{}, err
	})
	handlePeer(mux, wire.PathFedReboot, func(ctx context.Context, from string, in wire.RebootCall) error {
		return c.guests.Is(ctx, from, in.VM)
	}, func(ctx context.Context, in wire.RebootCall) (wire.Empty, error) {
		return wire.Empty{}, c.guests.Reboot(ctx, in)
	})
	handlePeer(mux, wire.PathFedStatus, nil, func(ctx context.Context, in wire.GuestReport) (wire.Empty, error) {
		id, _ := wire.PeerOf(ctx)
		return wire.Empty{}, c.vms.GuestReport(ctx, id.Site, in)
	})

	wire.HandleStream(mux, wire.PathFedChannel, func(ctx context.Context, id wire.Identity, h wire.ChannelHeader, s *wire.Stream) error {
		if id.Role != wire.RoleController {
			return api.Errorf(api.CodeForbidden, "%s is not a controller", id)
		}
		return c.vms.RelayIn(ctx, id.Site, h, s)
	})
	wire.HandleStream(mux, wire.PathFedConsole, func(ctx context.Context, id wire.Identity, h wire.ConsoleHeader, s *wire.Stream) error {
		if id.Role != wire.RoleController {
			return api.Errorf(api.CodeForbidden, "%s is not a controller", id)
		}
		if err := c.guests.Is(ctx, id.Site, h.VM); err != nil {
			return err
		}
		to, err := c.guests.Console(ctx, h)
		if err != nil {
			return err
		}
		return vms.PassOn(ctx, s, to)
	})
	wire.HandleStream(mux, wire.PathFedImage, func(ctx context.Context, id wire.Identity, h wire.ImageHeader, s *wire.Stream) error {
		if id.Role != wire.RoleController {
			return api.Errorf(api.CodeForbidden, "%s is not a controller", id)
		}
		if err := c.images.MayFetch(ctx, id.Site, h.Digest); err != nil {
			return err
		}
		return c.images.Send(ctx, h, s)
	})
	return mux
}

// handlePeer answers a call of a peer's controller, after a check whether it may.
func handlePeer[In, Out any](mux *http.ServeMux, path string, may func(context.Context, string, In) error, f func(context.Context, In) (Out, error)) {
	wire.Handle(mux, path, func(ctx context.Context, id wire.Identity, in In) (out Out, err error) {
		if id.Role != wire.RoleController {
			return out, api.Errorf(api.CodeForbidden, "%s is not a controller", id)
		}
		if may != nil {
			if err := may(ctx, id.Site, in); err != nil {
				return out, err
			}
		}
		return f(objects.AsPeer(ctx, id.Site), in)
	})
}

// Session takes in a session that an agent or a peer dialled; it returns when the session has ended.
func (c *Controller) Session(ctx context.Context, s *wire.Session) {
	if id := s.Peer(); id.Role == wire.RoleAgent {
		c.hosts.Accept(ctx, id.Host, s)
		return
	}
	c.site.Federation.Accept(s)
}
