package control

import (
	"context"
	"errors"
	"net"
	"net/http"

	"widecloud/api"
	"widecloud/internal/control/objects"
	"widecloud/internal/control/vms"
	"widecloud/internal/volume"
	"widecloud/internal/wire"
)

// Handler answers what agents and peers ask for by their sessions. Who may ask for what is said here, and nowhere else.
func (c *Controller) Handler() http.Handler {
	mux := http.NewServeMux()
	c.site.Federation.Handle(mux)
	c.handleAgents(mux)
	c.handlePeers(mux)
	c.handlePeersStreams(mux)
	return mux
}

// Session takes in a session that an agent or a peer dialled; it returns when the session has ended.
func (c *Controller) Session(ctx context.Context, s *wire.Session) {
	if id := s.Peer(); id.Role == wire.RoleAgent {
		c.hosts.Accept(ctx, id.Host, s)
		return
	}
	c.site.Federation.Accept(s)
}

// handleAgents is for this site's own agents.
func (c *Controller) handleAgents(mux *http.ServeMux) {
	own := func(id wire.Identity) error {
		if id.Role != wire.RoleAgent || id.Site != c.site.Name {
			return api.Errorf(api.CodeForbidden, "%s is not an agent of %s", id, c.site.Name)
		}
		return nil
	}
	wire.Handle(mux, wire.PathReport, func(ctx context.Context, id wire.Identity, r wire.HostReport) (wire.Empty, error) {
		if err := own(id); err != nil {
			return wire.Empty{}, err
		}
		return wire.Empty{}, c.site.ByMachine(objects.AsAgent(ctx, id.Host), "agent:"+id.Host, wire.PathReport, func(ctx context.Context) error {
			return c.hosts.Report(ctx, id.Host, r)
		})
	})
	wire.HandleStream(mux, wire.PathAgentImage, func(ctx context.Context, id wire.Identity, h wire.ImageHeader, s *wire.Stream) error {
		if err := own(id); err != nil {
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
		if err := own(id); err != nil {
			return err
		}
		return c.vms.RelayOut(ctx, id.Host, h, s)
	})
}

// handlePeers is for peers' controllers. A peer may act on what it lends us of its own VMs, on its guests here, and on the jobs that it
// coordinates.
func (c *Controller) handlePeers(mux *http.ServeMux) {
	gs := c.guests
	itsOwn := func(_ context.Context, from string, in wire.ClaimCall) error {
		if in.Order.Home != from {
			return &api.Error{Code: api.CodeForbidden, Field: "order.home", Message: "is " + in.Order.Home + ", and " + from + " asks"}
		}
		return nil
	}
	itsGuest := func(ctx context.Context, from string, in wire.MigrateCall) error { return gs.Is(ctx, from, in.VM) }

	handlePeer(c.site, mux, wire.PathFedCheck, itsOwn, func(ctx context.Context, in wire.ClaimCall) (wire.CheckAnswer, error) {
		reasons, err := gs.Check(ctx, in)
		return wire.CheckAnswer{Reasons: reasons}, err
	})
	handlePeer(c.site, mux, wire.PathFedReserve, itsOwn, gs.Reserve)
	handlePeer(c.site, mux, wire.PathFedPrepare, func(ctx context.Context, from string, in wire.PrepareCall) error {
		return gs.IsJob(ctx, from, in.Job, in.Order.VM)
	}, gs.Prepare)
	handlePeer(c.site, mux, wire.PathFedBegin, itsGuest, gs.Begin)
	handlePeer(c.site, mux, wire.PathFedPerform, func(ctx context.Context, from string, in wire.PerformCall) error {
		return gs.Is(ctx, from, in.VM)
	}, gs.Perform)
	handlePeer(c.site, mux, wire.PathFedProgress, itsGuest, gs.Progress)
	handlePeer(c.site, mux, wire.PathFedCancel, itsGuest, nothing(gs.Cancel))
	handlePeer(c.site, mux, wire.PathFedFinish, func(ctx context.Context, from string, in wire.FinishCall) error {
		return unlessGone(gs.IsJob(ctx, from, in.Job, in.VM)) // Finish knows what an unknown job means
	}, nothing(gs.Finish))
	handlePeer(c.site, mux, wire.PathFedConfirm, nil, func(ctx context.Context, in wire.FinishCall) (wire.Empty, error) {
		id, _ := wire.PeerOf(ctx)
		err := gs.Is(ctx, id.Site, in.VM)
		if in.Commit && isGone(err) {
			return wire.Empty{}, nil // let go before; no agent is asked about a VM that is not the peer's guest
		}
		if err != nil {
			return wire.Empty{}, err
		}
		return wire.Empty{}, gs.Confirm(ctx, in)
	})
	handlePeer(c.site, mux, wire.PathFedOrder, func(ctx context.Context, from string, in wire.GuestOrder) error {
		return unlessGone(gs.Is(ctx, from, in.VM))
	}, nothing(func(ctx context.Context, in wire.GuestOrder) error {
		err := gs.Order(ctx, in)
		if err == nil && in.Run == wire.RunGone {
			err = gs.TellIfGone(ctx, in)
		}
		return err
	}))
	handlePeer(c.site, mux, wire.PathFedReboot, func(ctx context.Context, from string, in wire.RebootCall) error {
		return gs.Is(ctx, from, in.VM)
	}, nothing(gs.Reboot))
	handlePeer(c.site, mux, wire.PathFedUsage, func(ctx context.Context, from string, in wire.UsageCall) error {
		return gs.Is(ctx, from, in.VM)
	}, gs.Usage)
	handlePeer(c.site, mux, wire.PathFedStatus, nil, nothing(func(ctx context.Context, in wire.GuestReport) error {
		id, _ := wire.PeerOf(ctx)
		return c.vms.GuestReport(ctx, id.Site, in)
	}))
}

// handlePeersStreams is for what peers' controllers stream.
func (c *Controller) handlePeersStreams(mux *http.ServeMux) {
	peerStream(mux, wire.PathFedChannel, c.vms.RelayIn)
	for path, open := range map[string]func(context.Context, wire.ConsoleHeader) (net.Conn, error){
		wire.PathFedConsole: c.guests.Console, wire.PathFedDisplay: c.guests.Display,
	} {
		peerStream(mux, path, func(ctx context.Context, from string, h wire.ConsoleHeader, s *wire.Stream) error {
			if err := c.guests.Is(ctx, from, h.VM); err != nil {
				return err
			}
			to, err := open(ctx, h)
			if err != nil {
				return err
			}
			return vms.PassOn(ctx, s, to)
		})
	}
	peerStream(mux, wire.PathFedDisk, func(ctx context.Context, from string, h wire.DiskHeader, s *wire.Stream) error {
		if err := c.guests.Is(ctx, from, h.VM); err != nil {
			return err
		}
		to, err := c.guests.Disk(ctx, h)
		if err != nil {
			return err
		}
		return vms.PassOn(ctx, s, to)
	})
	peerStream(mux, wire.PathFedImage, func(ctx context.Context, from string, h wire.ImageHeader, s *wire.Stream) error {
		if err := c.images.MayFetch(ctx, from, h.Digest); err != nil {
			return err
		}
		return c.images.Send(ctx, h, s)
	})
}

// handlePeer answers a call of a peer's controller, after a check whether it may.
func handlePeer[In, Out any](site *objects.Site, mux *http.ServeMux, path string, may func(context.Context, string, In) error, f func(context.Context, In) (Out, error)) {
	wire.Handle(mux, path, func(ctx context.Context, id wire.Identity, in In) (out Out, err error) {
		err = site.ByMachine(objects.AsPeer(ctx, id.Site), "peer:"+id.Site, path, func(ctx context.Context) (err error) {
			if err := isController(id); err != nil {
				return err
			}
			if may != nil {
				if err := may(ctx, id.Site, in); err != nil {
					return err
				}
			}
			out, err = f(ctx, in)
			return err
		})
		return out, err
	})
}

// peerStream takes a stream of a peer's controller.
func peerStream[H any](mux *http.ServeMux, path string, f func(ctx context.Context, from string, h H, s *wire.Stream) error) {
	wire.HandleStream(mux, path, func(ctx context.Context, id wire.Identity, h H, s *wire.Stream) error {
		if err := isController(id); err != nil {
			return err
		}
		return f(objects.AsPeer(ctx, id.Site), id.Site, h, s)
	})
}

func isController(id wire.Identity) error {
	if id.Role != wire.RoleController {
		return api.Errorf(api.CodeForbidden, "%s is not a controller", id)
	}
	return nil
}

// nothing is a call whose answer says nothing.
func nothing[In any](f func(context.Context, In) error) func(context.Context, In) (wire.Empty, error) {
	return func(ctx context.Context, in In) (wire.Empty, error) { return wire.Empty{}, f(ctx, in) }
}

// unlessGone is an error but for "not found": the call itself knows what that means.
func unlessGone(err error) error {
	if isGone(err) {
		return nil
	}
	return err
}

func isGone(err error) bool { return errors.Is(err, &api.Error{Code: api.CodeNotFound}) }
