package control

import (
	"context"
	"errors"
	"slices"

	"widecloud/api"
	"widecloud/internal/access"
	"widecloud/internal/control/objects"
	"widecloud/internal/doctor"
	"widecloud/internal/serve"
	"widecloud/internal/state"
	"widecloud/internal/volume"
	"widecloud/internal/wire"
)

// Doctor says what is wrong at the site: see package doctor, which judges.
func (c *Controller) Doctor(ctx context.Context, by access.Actor) (*api.Diagnosis, error) {
	s, err := c.snapshot(ctx)
	if err != nil {
		return nil, err
	}
	found := doctor.Find(s)
	if !by.Admin {
		found = slices.DeleteFunc(found, func(f api.Finding) bool { return f.Owner == "" || f.Owner != by.Owner })
	}
	d := &api.Diagnosis{Time: s.Now, Findings: doctor.Bounded(found)}
	if d.Findings == nil {
		d.Findings = []api.Finding{}
	}
	return d, nil
}

// snapshot collects what the doctor looks at.
func (c *Controller) snapshot(ctx context.Context) (s doctor.Snapshot, err error) {
	s = doctor.Snapshot{Now: c.site.Now(), Site: c.site.Name, Used: map[string]api.Resources{}}
	if s.Peers, err = c.peersShown(ctx); err != nil {
		return s, err
	}
	err = c.site.Read(ctx, func(tx *state.Tx) (err error) {
		s.Hosts = slices.Collect(objects.Each[api.Host](tx))
		s.Loans = slices.Collect(objects.Each[api.Loan](tx))
		s.VMs = slices.Collect(objects.Each[api.VM](tx))
		s.Guests = slices.Collect(objects.Each[api.Guest](tx))
		s.Jobs = slices.Collect(objects.Each[api.Job](tx))
		s.Images = slices.Collect(objects.Each[api.Image](tx))
		s.Networks = slices.Collect(objects.Each[api.Network](tx))
		s.Translators = slices.Collect(objects.Each[api.Translator](tx))
		s.Addresses = slices.Collect(objects.Each[api.Address](tx))
		for o := range objects.Each[api.Owner](tx) {
			if o.Spec.Quota == nil {
				continue
			}
			s.Owners = append(s.Owners, o)
			if s.Used[o.Name], err = c.rooms.UsedBy(tx, o.Name); err != nil {
				return err
			}
		}
		s.Unclean = unclean(tx)
		return nil
	})
	for _, i := range s.Images {
		if i.Status.Phase == "ready" && i.Status.Digest != "" && c.site.Images != nil && !c.site.Images.HasBase(volume.Digest(i.Status.Digest)) {
			s.Lost = append(s.Lost, i.Name)
		}
	}
	s.Sessions = c.sessions(s)
	var refused *api.Error
	s.StoreFull = errors.As(c.site.Room(ctx), &refused)
	if fault := c.site.Audit.Failing(); fault != nil {
		s.AuditFault = fault.Error()
	}
	if c.site.Machine != nil {
		s.Machine = c.site.Machine()
	}
	return s, err
}

// peersShown are the peers with what is seen of them at this moment.
func (c *Controller) peersShown(ctx context.Context) (out []*api.Peer, err error) {
	all, _, err := c.site.List(ctx, access.Actor{Admin: true}, api.KindPeer, serve.Query{})
	for _, o := range all {
		out = append(out, o.(*api.Peer))
	}
	return out, err
}

// unclean lists what jobs that have ended could not clean up yet.
func unclean(tx *state.Tx) (out []doctor.Unclean) {
	for _, o := range tx.Objects(objects.PrefixDebris) {
		d := o.(*objects.Debris)
		u := doctor.Unclean{Job: d.Job, VM: d.VM}
		for _, l := range []*objects.Location{d.Source, d.Target} {
			if l != nil {
				u.At = append(u.At, l.Site+"/"+l.Host)
			}
		}
		if vm := objects.VMOf(tx, d.VM); vm != nil {
			u.VM = vm.Name
		}
		out = append(out, u)
	}
	return out
}

// sessions are those with the agents and peers that are reached.
func (c *Controller) sessions(s doctor.Snapshot) (out []doctor.Session) {
	add := func(object string, session *wire.Session, err error) {
		if err == nil && session != nil {
			out = append(out, doctor.Session{Object: object, Older: session.Level() < wire.Level, Newer: session.Newer(), Ends: session.Ends()})
		}
	}
	for _, h := range s.Hosts {
		session, err := c.hosts.Session(h.Name, false)
		add("hosts/"+h.Name, session, err)
	}
	for _, p := range s.Peers {
		session, err := c.site.Federation.Session(p.Name, false)
		add("peers/"+p.Name, session, err)
	}
	return out
}
