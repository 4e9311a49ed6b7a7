package guests

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"slices"

	"widecloud/api"
	"widecloud/internal/control/objects"
	"widecloud/internal/control/rooms"
	"widecloud/internal/place"
	"widecloud/internal/state"
	"widecloud/internal/store"
	"widecloud/internal/wire"
)

// Check gives every reason at once.
func (gs *Guests) Check(ctx context.Context, call wire.ClaimCall) (reasons []api.Reason, err error) {
	err = gs.Read(ctx, func(tx *state.Tx) error {
		_, reasons, err = gs.choose(tx, call)
		return err
	})
	return reasons, err
}

// choose finds the host for a claim; without one, the reasons are all there are.
func (gs *Guests) choose(tx *state.Tx, call wire.ClaimCall) (*api.Host, []api.Reason, error) {
	var reasons []api.Reason
	if call.Order.Home != gs.Name {
		if err := gs.judgeClaim(tx, call); err != nil {
			return nil, nil, err
		}
		loan, err := objects.Get[api.Loan](tx, call.Loan)
		if errors.Is(err, &api.Error{Code: api.CodeNotFound}) {
			return nil, []api.Reason{{Site: gs.Name, Code: "loan", Message: fmt.Sprintf("there is no loan %q here", call.Loan), Advice: "borrow first: wcc loan request"}}, nil
		}
		if err != nil {
			return nil, nil, err
		}
		if loan.Spec.Borrower != call.Order.Home || loan.Spec.Lender != gs.Name {
			return nil, []api.Reason{{Site: gs.Name, Code: "loan", Message: fmt.Sprintf("loan %s is not %s's to use here", call.Loan, call.Order.Home)}}, nil
		}
		if reasons, err = gs.rooms.Admit(tx, *loan, call.Order.VM, call.Job, call.Needs); err != nil {
			return nil, nil, err
		}
	}
	if r, err := gs.networks.Reasons(tx, call.Network, call.Order.Home); err != nil {
		return nil, nil, err
	} else {
		reasons = append(reasons, r...)
	}
	self, err := gs.rooms.Here(tx, call.Job)
	if err != nil {
		return nil, nil, err
	}
	var old []api.Reason
	if !call.Start && call.Order.Run != wire.RunOn {
		self.Hosts, old = gs.movingStopped(self.Hosts, api.Power(call.Order.Run))
	}
	request := place.Request{
		Needs: call.Needs, CPUModel: call.Order.CPUModel, Profile: call.Order.Profile, Disks: len(call.Order.Disks), Arch: call.Running.Arch, Accel: call.Running.Accel, Image: call.Order.Image,
	}
	if call.Avoid != "" {
		request.Exclude = []place.Choice{{Site: gs.Name, Host: call.Avoid}}
	}
	if call.Host != "" {
		request.Place = gs.Name + "/" + call.Host
	}
	plan := place.Decide(place.Snapshot{Sites: []place.Site{self}}, request)
	if plan.Chosen == nil || len(reasons) > 0 {
		return nil, slices.Concat(reasons, old, plan.Refused), nil
	}
	host, err := objects.Get[api.Host](tx, plan.Chosen.Host)
	return host, nil, err
}

// movingStopped leaves out the hosts whose agents cannot take a stopped or hibernated VM in, and says why.
func (gs *Guests) movingStopped(hosts []place.Host, power api.Power) (able []place.Host, reasons []api.Reason) {
	for _, h := range hosts {
		if r := cmp.Or(gs.CannotMoveStopped(h.Name), gs.CannotRest(h.Name, power)); r != nil {
			reasons = append(reasons, *r)
			continue
		}
		able = append(able, h)
	}
	return able, reasons
}

// CannotMoveStopped says why a host's agent cannot send or take in a stopped VM; nil: it can, or is not reached, so that it is not
// known.
func (gs *Guests) CannotMoveStopped(host string) *api.Reason {
	s, err := gs.hosts.Session(host, false)
	if err != nil || s.Can(wire.CapMoveStopped) {
		return nil
	}
	return &api.Reason{
		Site: gs.Name, Host: host, Code: "release", Message: "the release of the host's agent moves only VMs that run",
		Advice: "start the VM first, or upgrade the agent",
	}
}

// Resting are the wishes for a VM's power that not every release knows.
var Resting = map[api.Power]wire.Capability{api.PowerSuspended: wire.CapSuspend, api.PowerHibernated: wire.CapHibernate}

// CannotRest says why a host's agent cannot suspend or hibernate a VM; nil: it can, or is not reached, so that it is not known.
func (gs *Guests) CannotRest(host string, power api.Power) *api.Reason {
	c, newer := Resting[power]
	s, err := gs.hosts.Session(host, false)
	if !newer || err != nil || s.Can(c) {
		return nil
	}
	return &api.Reason{Site: gs.Name, Host: host, Code: "release", Message: fmt.Sprintf("the release of the host's agent has no VMs that are %s", power), Advice: "stop the VM, or upgrade the agent"}
}

// Reserve keeps room for a job, and for a new VM takes it in at once.
func (gs *Guests) Reserve(ctx context.Context, call wire.ClaimCall) (wire.Claim, error) {
	var claim wire.Claim
	if err := gs.Room(ctx); err != nil && !store.IsUrgent(ctx) {
		return claim, err
	}
	err := gs.Write(ctx, func(tx *state.Tx) error {
		key := objects.PrefixClaims + call.Job
		if call.Start {
			key = objects.PrefixOrders + call.Order.VM
		}
		have, err := objects.Record[wire.Claim](tx, key)
		if err == nil && have.Job == call.Job && have.VM == call.Order.VM && have.Home == call.Order.Home {
			claim = have
			return nil
		}
		if err == nil {
			return api.Errorf(api.CodeConflict, "VM %s is here already, by job %s", call.Order.Name, have.Job)
		}
		if !errors.Is(err, store.ErrNotFound) {
			return err
		}
		host, reasons, err := gs.choose(tx, call)
		if err != nil {
			return err
		}
		if host == nil {
			return &api.Error{Code: api.CodeRefused, Message: "there is no room at " + gs.Name, Reasons: reasons}
		}
		vtep, err := netip.ParseAddr(host.Status.VTEP)
		if err != nil {
			return api.Errorf(api.CodeUnavailable, "host %s has not told its VTEP address yet", host.Name)
		}
		claim = wire.Claim{
			Job: call.Job, VM: call.Order.VM, Home: call.Order.Home, Owner: call.Owner, Loan: call.Loan, Host: host.Name,
			VTEP: vtep, CPU: rooms.GuestCPU(host, call.Order.CPUModel), Needs: call.Needs, Image: call.Image, Order: call.Order, Network: call.Network,
		}
		if call.Start {
			return gs.takeIn(tx, claim)
		}
		return objects.PutRecord(tx, key, claim)
	})
	return claim, err
}

// sourceHost is the host of this site where a VM runs that a job moves away: the one that the coordinator names. A guest that
// moves within this site is known here at its target already when its source is told the decision.
func (gs *Guests) sourceHost(ctx context.Context, job, vm, named string) (host string, err error) {
	if named != "" {
		return named, nil // the agent there judges by its own record
	}
	err = gs.Read(ctx, func(tx *state.Tx) error {
		if m, err := objects.Record[objects.Migration](tx, objects.PrefixMigrations+job); err == nil && m.Source.Site == gs.Name {
			host = m.Source.Host
			return nil
		}
		if d, err := objects.Record[objects.Debris](tx, objects.PrefixDebris+job); err == nil && d.Source != nil && d.Source.Site == gs.Name {
			host = d.Source.Host
			return nil
		}
		g, err := objects.Record[wire.Claim](tx, objects.PrefixOrders+vm)
		if errors.Is(err, store.ErrNotFound) {
			return api.Errorf(api.CodeNotFound, "VM %s is not here", vm)
		}
		host = g.Host
		return err
	})
	return host, err
}

// claim is the claim of a job.
func (gs *Guests) claim(ctx context.Context, job string) (claim wire.Claim, err error) {
	err = gs.Read(ctx, func(tx *state.Tx) error {
		claim, err = objects.Record[wire.Claim](tx, objects.PrefixClaims+job)
		if errors.Is(err, store.ErrNotFound) {
			return api.Errorf(api.CodeNotFound, "no room is kept here for job %s", job)
		}
		return err
	})
	return claim, err
}

func (gs *Guests) agent(ctx context.Context, host, path string, in, out any) error {
	s, err := gs.hosts.Session(host, false)
	if err != nil {
		return err
	}
	return wire.Call(ctx, s, http.MethodPost, path, in, out)
}

func (gs *Guests) Begin(ctx context.Context, c wire.MigrateCall) (out wire.MigrateOffer, err error) {
	host, err := gs.sourceHost(ctx, c.Job, c.VM, c.Host)
	if err != nil {
		return out, err
	}
	if r := gs.CannotMoveStopped(host); c.Cold && r != nil {
		return out, &api.Error{Code: api.CodeRefused, Message: "the stopped VM cannot leave host " + host, Reasons: []api.Reason{*r}}
	}
	err = gs.agent(ctx, host, wire.PathBegin, c, &out)
	return out, err
}

func (gs *Guests) Prepare(ctx context.Context, c wire.PrepareCall) (out wire.MigrateAnswer, err error) {
	claim, err := gs.claim(ctx, c.Job)
	if err != nil {
		return out, err
	}
	if claim.VM != c.Order.VM || claim.Order.Epoch != c.Order.Epoch {
		return out, api.Invalidf("order", "it is not what room was kept for")
	}
	if err := c.Network.Check("network"); err != nil {
		return out, err
	}
	c.Network, _ = c.Network.Sound("network")
	if c.Network.UID != claim.Network.UID || c.Network.VNI != claim.Network.VNI || c.Network.Prefix != claim.Network.Prefix {
		return out, api.Invalidf("network", "it is not the one of the VM for which room was kept")
	}
	c.Order = claim.Order // what runs is what the claim was granted for, whatever the call says
	err = gs.agent(ctx, claim.Host, wire.PathPrepare, c, &out)
	return out, err
}

func (gs *Guests) Perform(ctx context.Context, c wire.PerformCall) (out wire.MigrateResult, err error) {
	host, err := gs.sourceHost(ctx, c.Job, c.VM, c.Host)
	if err != nil {
		return out, err
	}
	err = gs.agent(ctx, host, wire.PathPerform, c, &out)
	return out, err
}

func (gs *Guests) Progress(ctx context.Context, c wire.MigrateCall) (out api.Progress, err error) {
	host, err := gs.sourceHost(ctx, c.Job, c.VM, c.Host)
	if err != nil {
		return out, err
	}
	err = gs.agent(ctx, host, wire.PathProgress, c, &out)
	return out, err
}

func (gs *Guests) Cancel(ctx context.Context, c wire.MigrateCall) error {
	host, err := gs.sourceHost(ctx, c.Job, c.VM, c.Host)
	if err != nil {
		return err
	}
	return gs.agent(ctx, host, wire.PathCancel, c, &wire.Empty{})
}

func (gs *Guests) Finish(ctx context.Context, c wire.FinishCall) error {
	claim, err := gs.claim(ctx, c.Job)
	if errors.Is(err, &api.Error{Code: api.CodeNotFound}) {
		if !c.Commit {
			return nil // the room was given back before
		}
		return gs.finished(ctx, c)
	}
	if err != nil {
		return err
	}
	err = gs.agent(ctx, claim.Host, wire.PathFinish, c, &wire.Empty{})
	if superseded := errors.Is(err, &api.Error{Code: api.CodeStale}) || errors.Is(err, &api.Error{Code: api.CodeConflict}); err != nil && (c.Commit || !superseded) {
		return err // an abort that a newer order has overtaken leaves nothing to put back but the room
	}
	gs.Failpoint("target-controller.finished")
	return gs.Write(store.Urgent(ctx), func(tx *state.Tx) error {
		if err := objects.Remove(tx, objects.PrefixClaims+c.Job); err != nil {
			return err
		}
		if !c.Commit || claim.Home == gs.Name {
			return nil
		}
		claim.Order.Epoch = c.Epoch
		return gs.takeIn(tx, claim)
	})
}

// finished tells whether a commit was carried out before.
func (gs *Guests) finished(ctx context.Context, c wire.FinishCall) error {
	return gs.Read(ctx, func(tx *state.Tx) error {
		if g, err := objects.Record[wire.Claim](tx, objects.PrefixOrders+c.VM); err == nil && g.Order.Epoch >= c.Epoch {
			return nil
		}
		if m, err := objects.Record[objects.Migration](tx, objects.PrefixMigrations+c.Job); err == nil && m.Target.Site == gs.Name {
			return nil // ours: the claim goes only after the agent has finished
		}
		return api.Errorf(api.CodeNotFound, "no room is kept here for job %s", c.Job)
	})
}

func (gs *Guests) Confirm(ctx context.Context, c wire.FinishCall) error {
	host, err := gs.sourceHost(ctx, c.Job, c.VM, c.Host)
	if errors.Is(err, &api.Error{Code: api.CodeNotFound}) && c.Commit {
		return nil // let go before
	}
	if err != nil {
		return err
	}
	if err := gs.agent(ctx, host, wire.PathConfirm, c, &wire.Empty{}); err != nil && !(c.Commit && errors.Is(err, &api.Error{Code: api.CodeNotFound})) {
		return err
	}
	gs.Failpoint("source-controller.confirmed")
	return gs.Write(store.Urgent(ctx), func(tx *state.Tx) error {
		g, err := objects.Record[wire.Claim](tx, objects.PrefixOrders+c.VM)
		if errors.Is(err, store.ErrNotFound) {
			return nil // our own VM: its home record says where it is
		}
		if err != nil {
			return err
		}
		if g.Order.Epoch >= c.Epoch && c.Commit || g.Host != host {
			return nil // it has moved within this site, or has come back since
		}
		if c.Commit {
			return gs.letGo(tx, g)
		}
		g.Order.Epoch = max(g.Order.Epoch, c.Epoch)
		return objects.PutRecord(tx, objects.PrefixOrders+c.VM, g)
	})
}

func (gs *Guests) Channel(ctx context.Context, h wire.ChannelHeader) (net.Conn, error) {
	claim, err := gs.claim(ctx, h.Job)
	if err != nil {
		return nil, err
	}
	return gs.stream(ctx, claim.Host, wire.PathChannel, h)
}

// whereIs is the host of this site that runs a VM, its own or a guest.
func (gs *Guests) whereIs(ctx context.Context, vm string) (host string, err error) {
	err = gs.Read(ctx, func(tx *state.Tx) error {
		if g, err := objects.Record[wire.Claim](tx, objects.PrefixOrders+vm); err == nil {
			host = g.Host
			return nil
		}
		if v := objects.VMOf(tx, vm); v != nil && v.Status.Site == gs.Name {
			host = v.Status.Host
			return nil
		}
		return api.Errorf(api.CodeNotFound, "VM %s is not here", vm)
	})
	return host, err
}

func (gs *Guests) Reboot(ctx context.Context, c wire.RebootCall) error {
	host, err := gs.whereIs(ctx, c.VM)
	if err != nil {
		return err
	}
	return gs.agent(ctx, host, wire.PathReboot, c, &wire.Empty{})
}

func (gs *Guests) Console(ctx context.Context, h wire.ConsoleHeader) (net.Conn, error) {
	host, err := gs.whereIs(ctx, h.VM)
	if err != nil {
		return nil, err
	}
	return gs.stream(ctx, host, wire.PathConsole, h)
}

// Display says so when a host's release makes none.
func (gs *Guests) Display(ctx context.Context, h wire.ConsoleHeader) (net.Conn, error) {
	host, err := gs.whereIs(ctx, h.VM)
	if err != nil {
		return nil, err
	}
	if s, err := gs.hosts.Session(host, true); err == nil && !s.Can(wire.CapDisplay) {
		return nil, api.Errorf(api.CodeRefused, "the release of host %s has no displays; the VM has the serial console", host)
	}
	return gs.stream(ctx, host, wire.PathDisplay, h)
}

// CannotReadDisk says why a host's agent cannot send a disk of a stopped VM; nil: it can, or is not reached, so that it is not known.
func (gs *Guests) CannotReadDisk(host string) *api.Reason {
	s, err := gs.hosts.Session(host, false)
	if err != nil || s.Can(wire.CapReadDisk) {
		return nil
	}
	return &api.Reason{
		Site: gs.Name, Host: host, Code: "release", Message: "the release of the host's agent does not read the disks of stopped VMs",
		Advice: "upgrade the agent, or move the VM to another host first",
	}
}

// Disk opens a disk of a stopped VM.
func (gs *Guests) Disk(ctx context.Context, h wire.DiskHeader) (net.Conn, error) {
	host, err := gs.whereIs(ctx, h.VM)
	if err != nil {
		return nil, err
	}
	if r := gs.CannotReadDisk(host); r != nil {
		return nil, &api.Error{Code: api.CodeRefused, Message: r.Message, Reasons: []api.Reason{*r}}
	}
	return gs.stream(ctx, host, wire.PathDisk, h)
}

// Usage says so when a host's release keeps none.
func (gs *Guests) Usage(ctx context.Context, c wire.UsageCall) (u api.Usage, err error) {
	host, err := gs.whereIs(ctx, c.VM)
	if err != nil {
		return u, err
	}
	s, err := gs.hosts.Session(host, false)
	if err != nil {
		return u, err
	}
	if !s.Can(wire.CapUsage) {
		return u, api.Errorf(api.CodeRefused, "the release of host %s does not keep what VMs use", host)
	}
	err = wire.Call(ctx, s, http.MethodPost, wire.PathUsage, c, &u)
	return u, err
}

func (gs *Guests) stream(ctx context.Context, host, path string, header any) (net.Conn, error) {
	s, err := gs.hosts.Session(host, true)
	if err != nil {
		return nil, err
	}
	return wire.OpenStream(ctx, s, path, header)
}

// Order changes what a guest is to do; only for guests.
func (gs *Guests) Order(ctx context.Context, o wire.GuestOrder) error {
	return gs.Write(store.Urgent(ctx), func(tx *state.Tx) error {
		g, err := objects.Record[wire.Claim](tx, objects.PrefixOrders+o.VM)
		if errors.Is(err, store.ErrNotFound) {
			if o.Run == wire.RunGone {
				return nil
			}
			return api.Errorf(api.CodeNotFound, "no guest %s is here", o.VM)
		}
		if err != nil {
			return err
		}
		if o.Epoch < g.Order.Epoch {
			return api.Errorf(api.CodeStale, "epoch %d of guest %s is lower than %d", o.Epoch, o.VM, g.Order.Epoch)
		}
		if !slices.Contains(wire.Runs, o.Run) {
			return api.Invalidf("run", "%.20q is not on, suspended, hibernated, off, hard or gone", o.Run)
		}
		rests := api.Power(o.Run)
		if g.Order.Run == wire.RunHibernated && o.Run == wire.RunOn { // an older release would not look for its memory
			rests = api.PowerHibernated
		}
		if r := gs.CannotRest(g.Host, rests); r != nil {
			return &api.Error{Code: api.CodeRefused, Message: fmt.Sprintf("guest %s cannot be %s", g.Order.Name, o.Run), Reasons: []api.Reason{*r}}
		}
		if o.Run == wire.RunHibernated && o.Size == nil {
			return api.Invalidf("size", "is missing: the saved memory of a hibernated guest is counted")
		}
		if o.Loan != "" && o.Loan != g.Loan {
			if err := gs.rehouse(tx, &g, o.Loan); err != nil {
				return err
			}
		}
		if o.Size != nil {
			if err := gs.resize(tx, &g, o.Run, *o.Size); err != nil {
				return err
			}
		}
		if loan, err := objects.Get[api.Loan](tx, g.Loan); o.Run.Up() && (err != nil || loan.Status.State != api.LoanActive) {
			return &api.Error{Code: api.CodeRefused, Message: "the guest may not be started or suspended", Reasons: []api.Reason{{Site: gs.Name, Code: "loan", Message: fmt.Sprintf("loan %s is not active", g.Loan)}}}
		}
		g.Order.Epoch, g.Order.Run, g.Order.Serial = o.Epoch, o.Run, o.Serial
		return objects.PutRecord(tx, objects.PrefixOrders+o.VM, g)
	})
}
