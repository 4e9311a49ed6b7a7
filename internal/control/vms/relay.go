package vms

import (
	"context"
	"errors"
	"net"

	"widecloud/api"
	"widecloud/internal/control/objects"
	"widecloud/internal/state"
	"widecloud/internal/store"
	"widecloud/internal/wire"
)

// RelayOut takes a stream of an outgoing migration from the agent of its source on its way: to the target, if we coordinate,
// or to the home site, which does.
func (vs *VMs) RelayOut(ctx context.Context, host string, h wire.ChannelHeader, s *wire.Stream) error {
	var next end
	if err := vs.Read(ctx, func(tx *state.Tx) error {
		unknown := api.Errorf(api.CodeNotFound, "host %s is not the source of a migration %s of VM %s", host, h.Job, h.VM)
		m, err := objects.Record[objects.Migration](tx, objects.PrefixMigrations+h.Job)
		if err == nil {
			if m.UID != h.VM || m.Source.Site != vs.Name || m.Source.Host != host {
				return unknown
			}
			next = vs.endOf(m.Target.Site)
			return nil
		}
		if !errors.Is(err, store.ErrNotFound) {
			return err
		}
		g, err := objects.Record[wire.Claim](tx, objects.PrefixOrders+h.VM)
		if errors.Is(err, store.ErrNotFound) || err == nil && g.Host != host {
			return unknown
		}
		next = peer{vs, g.Home}
		return err
	}); err != nil {
		return err
	}
	to, err := next.Channel(ctx, h)
	if err != nil {
		return err
	}
	return PassOn(ctx, s, to)
}

// RelayIn takes a stream of a migration from a peer on its way: we are its target, or we coordinate and hand it on.
func (vs *VMs) RelayIn(ctx context.Context, from string, h wire.ChannelHeader, s *wire.Stream) error {
	var m objects.Migration
	ours := false
	if err := vs.Read(ctx, func(tx *state.Tx) error {
		var err error
		m, err = objects.Record[objects.Migration](tx, objects.PrefixMigrations+h.Job)
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
		to, err = vs.endOf(m.Target.Site).Channel(ctx, h)
	default:
		if err := vs.guests.IsJob(ctx, from, h.Job, h.VM); err != nil {
			return err
		}
		to, err = vs.guests.Channel(ctx, h)
	}
	if err != nil {
		return err
	}
	return PassOn(ctx, s, to)
}

// PassOn accepts a stream and relays it.
func PassOn(ctx context.Context, s *wire.Stream, to net.Conn) error {
	if err := s.Accept(); err != nil {
		to.Close()
		return err
	}
	_, _, err := wire.Relay(ctx, s, to)
	return err
}
