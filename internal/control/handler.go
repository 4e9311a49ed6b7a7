package control

import (
	"context"
	"errors"
	"net"
	"net/http"
	"slices"
	"time"

	"widecloud/api"
	"widecloud/internal/state"
	"widecloud/internal/store"
	"widecloud/internal/volume"
	"widecloud/internal/wire"
)

// Handler answers what agents and peers ask for by their sessions.
func (c *Controller) Handler() http.Handler {
	mux := http.NewServeMux()
	c.o.Federation.Handle(mux)

	agent := func(id wire.Identity) error {
		if id.Role != wire.RoleAgent || id.Site != c.o.Site {
			return api.Errorf(api.CodeForbidden, "%s is not an agent of %s", id, c.o.Site)
		}
		return nil
	}
	wire.Handle(mux, wire.PathReport, func(ctx context.Context, id wire.Identity, r wire.HostReport) (wire.Empty, error) {
		if err := agent(id); err != nil {
			return wire.Empty{}, err
		}
		return wire.Empty{}, c.report(ctx, id.Host, r)
	})
	wire.HandleStream(mux, wire.PathAgentImage, func(ctx context.Context, id wire.Identity, h wire.ImageHeader, s *wire.Stream) error {
		if err := agent(id); err != nil {
			return err
		}
		if err := c.agentImage(ctx, id.Host, h.Digest); err != nil {
			return err
		}
		if err := c.fetchImage(ctx, volume.Digest(h.Digest)); err != nil {
			return err
		}
		return c.sendImage(ctx, h, s)
	})
	wire.HandleStream(mux, wire.PathOutgoing, func(ctx context.Context, id wire.Identity, h wire.ChannelHeader, s *wire.Stream) error {
		if err := agent(id); err != nil {
			return err
		}
		return c.relayOut(ctx, id.Host, h, s)
	})

	// A peer may act on what it lends us of its own VMs, on its guests here, and on the jobs that it coordinates.
	claimOf := func(ctx context.Context, from string, in wire.ClaimCall) error {
		if in.Order.Home != from {
			return &api.Error{Code: api.CodeForbidden, Field: "order.home", Message: "is " + in.Order.Home + ", and " + from + " asks"}
		}
		return nil
	}
	handlePeer(mux, wire.PathFedCheck, claimOf, func(ctx context.Context, in wire.ClaimCall) (wire.CheckAnswer, error) {
		reasons, err := c.X_check(ctx, in)
		return wire.CheckAnswer{Reasons: reasons}, err
	})
	handlePeer(mux, wire.PathFedReserve, claimOf, c.X_reserve)
	handlePeer(mux, wire.PathFedPrepare, func(ctx context.Context, from string, in wire.PrepareCall) error {
		return c.peerJob(ctx, from, in.Job, in.Order.VM)
	}, c.X_prepare)
	handlePeer(mux, wire.PathFedBegin, func(ctx context.Context, from string, in wire.MigrateCall) error {
		return c.peerGuest(ctx, from, in.VM)
	}, c.X_begin)
	handlePeer(mux, wire.PathFedPerform, func(ctx context.Context, from string, in wire.PerformCall) error {
		return c.peerGuest(ctx, from, in.VM)
	}, c.X_perform)
	handlePeer(mux, wire.PathFedProgress, func(ctx context.Context, from string, in wire.MigrateCall) error {
		return c.peerGuest(ctx, from, in.VM)
	}, c.X_progress)
	handlePeer(mux, wire.PathFedCancel, func(ctx context.Context, from string, in wire.MigrateCall) error {
		return c.peerGuest(ctx, from, in.VM)
	}, func(ctx context.Context, in wire.MigrateCall) (wire.Empty, error) {
		return wire.Empty{}, c.X_cancel(ctx, in)
	})
	finishable := func(ctx context.Context, from string, in wire.FinishCall) error {
		err := c.peerJob(ctx, from, in.Job, in.VM)
		if errors.Is(err, &api.Error{Code: api.CodeNotFound}) {
			return nil // local.finish knows what an unknown job means
		}
		return err
	}
	handlePeer(mux, wire.PathFedFinish, finishable, func(ctx context.Context, in wire.FinishCall) (wire.Empty, error) {
		return wire.Empty{}, c.X_finish(ctx, in)
	})
	handlePeer(mux, wire.PathFedConfirm, nil, func(ctx context.Context, in wire.FinishCall) (wire.Empty, error) {
		id, _ := wire.PeerOf(ctx)
		err := c.peerGuest(ctx, id.Site, in.VM)
		if in.Commit && errors.Is(err, &api.Error{Code: api.CodeNotFound}) {
			return wire.Empty{}, nil // let go before; no agent is asked about a VM that is not the peer's guest
		}
		if err != nil {
			return wire.Empty{}, err
		}
		return wire.Empty{}, c.X_confirm(ctx, in)
	})
	handlePeer(mux, wire.PathFedOrder, func(ctx context.Context, from string, in wire.GuestOrder) error {
		err := c.peerGuest(ctx, from, in.VM)
		if errors.Is(err, &api.Error{Code: api.CodeNotFound}) {
			return nil
		}
		return err
	}, func(ctx context.Context, in wire.GuestOrder) (wire.Empty, error) {
		err := c.X_order(ctx, in)
		if err == nil && in.Run == wire.RunGone {
			err = c.tellIfGone(ctx, in)
		}
		return wire.Empty{}, err
	})
	handlePeer(mux, wire.PathFedReboot, func(ctx context.Context, from string, in wire.RebootCall) error {
		return c.peerGuest(ctx, from, in.VM)
	}, func(ctx context.Context, in wire.RebootCall) (wire.Empty, error) {
		return wire.Empty{}, c.X_reboot(ctx, in)
	})
	handlePeer(mux, wire.PathFedStatus, nil, func(ctx context.Context, in wire.GuestReport) (wire.Empty, error) {
		id, _ := wire.PeerOf(ctx)
		return wire.Empty{}, c.guestReport(ctx, id.Site, in)
	})

	wire.HandleStream(mux, wire.PathFedChannel, func(ctx context.Context, id wire.Identity, h wire.ChannelHeader, s *wire.Stream) error {
		if id.Role != wire.RoleController {
			return api.Errorf(api.CodeForbidden, "%s is not a controller", id)
		}
		return c.relayIn(ctx, id.Site, h, s)
	})
	wire.HandleStream(mux, wire.PathFedConsole, func(ctx context.Context, id wire.Identity, h wire.ConsoleHeader, s *wire.Stream) error {
		if id.Role != wire.RoleController {
			return api.Errorf(api.CodeForbidden, "%s is not a controller", id)
		}
		if err := c.peerGuest(ctx, id.Site, h.VM); err != nil {
			return err
		}
		to, err := c.X_console(ctx, h)
		if err != nil {
			return err
		}
		return passOn(ctx, s, to)
	})
	wire.HandleStream(mux, wire.PathFedImage, func(ctx context.Context, id wire.Identity, h wire.ImageHeader, s *wire.Stream) error {
		if id.Role != wire.RoleController {
			return api.Errorf(api.CodeForbidden, "%s is not a controller", id)
		}
		if err := c.peerImage(ctx, id.Site, h.Digest); err != nil {
			return err
		}
		return c.sendImage(ctx, h, s)
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
		return f(asPeer(ctx, id.Site), in)
	})
}

// peerGuest tells whether a VM is a guest of a peer here: nil, CodeNotFound or CodeForbidden.
func (c *Controller) peerGuest(ctx context.Context, from, vm string) error {
	return c.view(ctx, func(tx *state.Tx) error {
		g, err := getJSON[wire.Claim](tx, prefixOrders+vm)
		if errors.Is(err, store.ErrNotFound) {
			return api.Errorf(api.CodeNotFound, "no guest %s is here", vm)
		}
		if err == nil && g.Home != from {
			return api.Errorf(api.CodeForbidden, "guest %s is not %s's", vm, from)
		}
		return err
	})
}

// peerJob tells whether room is kept here for a peer's job.
func (c *Controller) peerJob(ctx context.Context, from, job, vm string) error {
	claim, err := c.X_claim(ctx, job)
	if err == nil && (claim.Home != from || claim.VM != vm) {
		return api.Errorf(api.CodeForbidden, "job %s is not %s's for VM %s", job, from, vm)
	}
	return err
}

// agentImage tells whether an agent may have an image: something that it was ordered to run is made from it.
func (c *Controller) agentImage(ctx context.Context, host, digest string) error {
	return c.view(ctx, func(tx *state.Tx) error {
		orders, err := c.ordersOf(tx, host)
		if err != nil {
			return err
		}
		named := slices.ContainsFunc(orders, func(o wire.VMOrder) bool { return o.Image == digest })
		for _, g := range records[wire.Claim](tx, prefixClaims, "host", host) {
			named = named || g.Order.Image == digest
		}
		if !named {
			return api.Errorf(api.CodeForbidden, "nothing that host %s was ordered to run is made from %.80s", host, digest)
		}
		return nil
	})
}

// peerImage tells whether a peer may have an image of ours: it runs, or is about to run, a VM of ours from it.
func (c *Controller) peerImage(ctx context.Context, from, digest string) error {
	return c.view(ctx, func(tx *state.Tx) error {
		made := func(v *api.VM) bool {
			img, err := find[api.Image](tx, v.Spec.Image)
			return err == nil && img.Status.Digest == digest
		}
		for v := range by[api.VM](tx, "site", from) {
			if made(v) {
				return nil
			}
		}
		moving, err := listJSON[migration](tx, prefixMigrations)
		if err != nil {
			return err
		}
		for _, m := range moving {
			if v, err := find[api.VM](tx, m.VM); err == nil && m.Target.Site == from && made(v) {
				return nil
			}
		}
		return api.Errorf(api.CodeForbidden, "no VM of %s at %s is made from %s", c.o.Site, from, digest)
	})
}

// relayOut takes a stream of an outgoing migration from the agent of its source on its way: to the target, if we coordinate,
// or to the home site, which does.
func (c *Controller) relayOut(ctx context.Context, host string, h wire.ChannelHeader, s *wire.Stream) error {
	var next end
	if err := c.view(ctx, func(tx *state.Tx) error {
		unknown := api.Errorf(api.CodeNotFound, "host %s is not the source of a migration %s of VM %s", host, h.Job, h.VM)
		m, err := getJSON[migration](tx, prefixMigrations+h.Job)
		if err == nil {
			if m.UID != h.VM || m.Source.Site != c.o.Site || m.Source.Host != host {
				return unknown
			}
			next = c.endOf(m.Target.Site)
			return nil
		}
		if !errors.Is(err, store.ErrNotFound) {
			return err
		}
		g, err := getJSON[wire.Claim](tx, prefixOrders+h.VM)
		if errors.Is(err, store.ErrNotFound) || err == nil && g.Host != host {
			return unknown
		}
		next = peer{c, g.Home}
		return err
	}); err != nil {
		return err
	}
	to, err := next.X_channel(ctx, h)
	if err != nil {
		return err
	}
	return passOn(ctx, s, to)
}

// relayIn takes a stream of a migration from a peer on its way: we are its target, or we coordinate and hand it on.
func (c *Controller) relayIn(ctx context.Context, from string, h wire.ChannelHeader, s *wire.Stream) error {
	var m migration
	ours := false
	if err := c.view(ctx, func(tx *state.Tx) error {
		var err error
		m, err = getJSON[migration](tx, prefixMigrations+h.Job)
		ours = err == nil
		if errors.Is(err, store.ErrNotFound) {
			return nil
		}
		return err
	}); err != nil {
		return err
	}
	var to net.Conn
	var err error
	switch {
	case ours && (m.Source.Site != from || m.UID != h.VM):
		return api.Errorf(api.CodeForbidden, "migration %s of VM %s does not come from %s", h.Job, h.VM, from)
	case ours:
		to, err = c.endOf(m.Target.Site).X_channel(ctx, h)
	default:
		if err := c.peerJob(ctx, from, h.Job, h.VM); err != nil {
			return err
		}
		to, err = c.X_channel(ctx, h)
	}
	if err != nil {
		return err
	}
	return passOn(ctx, s, to)
}

// passOn accepts a stream and relays it.
func passOn(ctx context.Context, s *wire.Stream, to net.Conn) error {
	if err := s.Accept(); err != nil {
		to.Close()
		return err
	}
	_, _, err := wire.Relay(ctx, s, to)
	return err
}

// guestReport keeps what a lender sees of a VM of ours.
func (c *Controller) guestReport(ctx context.Context, from string, g wire.GuestReport) error {
	ctx = asPeer(ctx, from)
	if err := judgeVMReport("report", &g.Report); err != nil {
		return err
	}
	orphan := false
	defer func() {
		if !orphan || g.Report.State == wire.CopyGone {
			return
		}
		// Its VM was deleted while the lender was being asked to take it in, and the answer was lost.
		c.once("orphan/"+g.Report.VM, func(ctx context.Context) {
			ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
			defer cancel()
			if err := c.endOf(from).X_order(ctx, wire.GuestOrder{VM: g.Report.VM, Epoch: g.Report.Epoch, Run: wire.RunGone}); err != nil {
				c.log.Debug("end a guest without a VM", "peer", from, "vm", g.Report.VM, "err", err)
			}
		})
	}()
	return c.update(ctx, func(tx *state.Tx) error {
		v := vmOf(tx, g.Report.VM)
		if orphan = v == nil; orphan || v.Status.Site != from || v.Status.Host != g.Host {
			return nil // it moved on; a report of the past
		}
		return c.seeVM(tx, state.Clone(v), g.Report)
	})
}

// tellIfGone answers a home that still asks for the end of a guest that is gone already.
func (c *Controller) tellIfGone(ctx context.Context, o wire.GuestOrder) error {
	id, _ := wire.PeerOf(ctx)
	if err := c.peerGuest(ctx, id.Site, o.VM); !errors.Is(err, &api.Error{Code: api.CodeNotFound}) {
		return err
	}
	return api.Errorf(api.CodeNotFound, "no guest %s is here", o.VM)
}

// Session takes in a session that an agent or a peer dialled; it returns when the session has ended.
func (c *Controller) Session(ctx context.Context, s *wire.Session) {
	if id := s.Peer(); id.Role == wire.RoleAgent {
		c.accept(ctx, id.Host, s)
		return
	}
	c.o.Federation.Accept(s)
}

// Admit refuses sessions of hosts that were removed, and of machines that are no longer the host of their name.
func (c *Controller) Admit(caller wire.Caller) error {
	if caller.Role != wire.RoleAgent {
		return nil
	}
	return c.update(store.Urgent(context.Background()), func(tx *state.Tx) error { return c.enrolled(tx, caller.Host, caller.Key) })
}
