package control

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"

	"widecloud/api"
	"widecloud/internal/cloud"
	"widecloud/internal/lend"
	"widecloud/internal/netplan"
	"widecloud/internal/place"
	"widecloud/internal/state"
	"widecloud/internal/store"
	"widecloud/internal/wire"
)

// X_check gives every reason at once.
func (l *Controller) X_check(ctx context.Context, call wire.ClaimCall) (reasons []api.Reason, err error) {
	err = l.view(ctx, func(tx *state.Tx) error {
		_, reasons, err = l.X_choose(tx, call)
		return err
	})
	return reasons, err
}

// X_choose finds the host for a claim; without one, the reasons are all there are.
func (l *Controller) X_choose(tx *state.Tx, call wire.ClaimCall) (*api.Host, []api.Reason, error) {
	var reasons []api.Reason
	if call.Order.Home != l.o.Site {
		if err := l.judgeClaim(tx, call); err != nil {
			return nil, nil, err
		}
		loan, err := get[api.Loan](tx, call.Loan)
		if errors.Is(err, &api.Error{Code: api.CodeNotFound}) {
			return nil, []api.Reason{{Site: l.o.Site, Code: "loan", Message: fmt.Sprintf("there is no loan %q here", call.Loan), Advice: "borrow first: wcc loan request"}}, nil
		}
		if err != nil {
			return nil, nil, err
		}
		if loan.Spec.Borrower != call.Order.Home || loan.Spec.Lender != l.o.Site {
			return nil, []api.Reason{{Site: l.o.Site, Code: "loan", Message: fmt.Sprintf("loan %s is not %s's to use here", call.Loan, call.Order.Home)}}, nil
		}
		if reasons, err = l.admit(tx, *loan, call.Order.VM, call.Job, call.Needs); err != nil {
			return nil, nil, err
		}
	}
	if r, err := l.X_networkReasons(tx, call.Network, call.Order.Home); err != nil {
		return nil, nil, err
	} else {
		reasons = append(reasons, r...)
	}
	self, err := l.siteSnapshot(tx, call.Job)
	if err != nil {
		return nil, nil, err
	}
	request := place.Request{
		Needs: call.Needs, CPUModel: call.Order.CPUModel, Arch: call.Running.Arch, Accel: call.Running.Accel, Image: call.Order.Image,
	}
	if call.Avoid != "" {
		request.Exclude = []place.Choice{{Site: l.o.Site, Host: call.Avoid}}
	}
	if call.Host != "" {
		request.Place = l.o.Site + "/" + call.Host
	}
	plan := place.Decide(place.Snapshot{Sites: []place.Site{self}}, request)
	if plan.Chosen == nil || len(reasons) > 0 {
		return nil, append(reasons, plan.Refused...), nil
	}
	host, err := get[api.Host](tx, plan.Chosen.Host)
	return host, nil, err
}

// admit says why a VM does not fit under a loan from us.
func (c *Controller) admit(tx *state.Tx, loan api.Loan, vm, job string, needs api.Resources) ([]api.Reason, error) {
	used, err := c.loanUse(tx, loan.Name, job)
	if err != nil {
		return nil, err
	}
	reasons := lend.Admit(loan, lend.Others(used, vm), needs)
	for i := range reasons {
		reasons[i].Site = c.o.Site
	}
	return reasons, nil
}

// X_networkReasons says why a network cannot be carried here beside the ones that are.
func (l *Controller) X_networkReasons(tx *state.Tx, n wire.NetworkOrder, home string) ([]api.Reason, error) {
	var reasons []api.Reason
	if home != l.o.Site {
		if err := l.o.Plan.CheckNetwork("network.prefix", n.Prefix, cloud.Party{Peer: home}); err != nil {
			reasons = append(reasons, api.Reason{Site: l.o.Site, Code: "network", Message: err.Error(), Advice: "ask " + l.o.Site + " to open a pool of its address plan to " + home})
		}
	}
	all, err := l.networksKnown(tx)
	if err != nil {
		return nil, err
	}
	for _, other := range all {
		if field, text := (netplan.Known{Home: home, Spec: n.Spec}).Clash(other); text != "" {
			r := api.Reason{Site: l.o.Site, Code: "network", Message: text}
			if field != "uid" {
				r.Advice = "give one of the two networks another " + field
			}
			reasons = append(reasons, r)
		}
	}
	return reasons, nil
}

// X_reserve keeps room for a job, and for a new VM takes it in at once.
func (l *Controller) X_reserve(ctx context.Context, call wire.ClaimCall) (wire.Claim, error) {
	var claim wire.Claim
	if err := l.room(ctx); err != nil && !store.IsUrgent(ctx) {
		return claim, err
	}
	err := l.update(ctx, func(tx *state.Tx) error {
		key := prefixClaims + call.Job
		if call.Start {
			key = prefixOrders + call.Order.VM
		}
		have, err := getJSON[wire.Claim](tx, key)
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
		host, reasons, err := l.X_choose(tx, call)
		if err != nil {
			return err
		}
		if host == nil {
			return &api.Error{Code: api.CodeRefused, Message: "there is no room at " + l.o.Site, Reasons: reasons}
		}
		vtep, err := netip.ParseAddr(host.Status.VTEP)
		if err != nil {
			return api.Errorf(api.CodeUnavailable, "host %s has not told its VTEP address yet", host.Name)
		}
		claim = wire.Claim{
			Job: call.Job, VM: call.Order.VM, Home: call.Order.Home, Owner: call.Owner, Loan: call.Loan, Host: host.Name,
			VTEP: vtep, CPU: guestCPU(host, call.Order.CPUModel), Needs: call.Needs, Image: call.Image, Order: call.Order, Network: call.Network,
		}
		if call.Start {
			return l.takeIn(tx, claim)
		}
		return putJSON(tx, key, claim)
	})
	return claim, err
}

// takeIn makes a guest of a claim.
func (c *Controller) takeIn(tx *state.Tx, claim wire.Claim) error {
	g := &api.Guest{
		Meta:   c.newMeta(claim.Order.Name+"@"+claim.Home, claim.Owner),
		Spec:   api.GuestSpec{VM: claim.Order.Name, VMUID: claim.VM, Loan: claim.Loan, Needs: claim.Needs, Host: claim.Host, Epoch: claim.Order.Epoch},
		Status: api.GuestStatus{Phase: api.PhaseStarting, Since: c.now()},
	}
	if have, err := get[api.Guest](tx, g.Name); err == nil {
		g.Meta = have.Meta
	}
	if err := put(tx, g); err != nil {
		return err
	}
	return putJSON(tx, prefixOrders+claim.VM, claim)
}

// letGo forgets a guest.
func (c *Controller) letGo(tx *state.Tx, claim wire.Claim) error {
	if err := remove(tx, keyOf(api.KindGuest, claim.Order.Name+"@"+claim.Home)); err != nil {
		return err
	}
	return remove(tx, prefixOrders+claim.VM)
}

// X_sourceHost is the host of this site where a VM runs that a job moves away: the one that the coordinator names. A guest that
// moves within this site is known here at its target already when its source is told the decision.
func (l *Controller) X_sourceHost(ctx context.Context, job, vm, named string) (host string, err error) {
	if named != "" {
		return named, nil // the agent there judges by its own record
	}
	err = l.view(ctx, func(tx *state.Tx) error {
		if m, err := getJSON[migration](tx, prefixMigrations+job); err == nil && m.Source.Site == l.o.Site {
			host = m.Source.Host
			return nil
		}
		if d, err := getJSON[debris](tx, prefixDebris+job); err == nil && d.Source != nil && d.Source.Site == l.o.Site {
			host = d.Source.Host
			return nil
		}
		g, err := getJSON[wire.Claim](tx, prefixOrders+vm)
		if errors.Is(err, store.ErrNotFound) {
			return api.Errorf(api.CodeNotFound, "VM %s is not here", vm)
		}
		host = g.Host
		return err
	})
	return host, err
}

// X_claim is the claim of a job.
func (l *Controller) X_claim(ctx context.Context, job string) (claim wire.Claim, err error) {
	err = l.view(ctx, func(tx *state.Tx) error {
		claim, err = getJSON[wire.Claim](tx, prefixClaims+job)
		if errors.Is(err, store.ErrNotFound) {
			return api.Errorf(api.CodeNotFound, "no room is kept here for job %s", job)
		}
		return err
	})
	return claim, err
}

func (l *Controller) X_agent(ctx context.Context, host, path string, in, out any) error {
	s, err := l.session(host, false)
	if err != nil {
		return err
	}
	return wire.Call(ctx, s, http.MethodPost, path, in, out)
}

func (l *Controller) X_begin(ctx context.Context, c wire.MigrateCall) (out wire.MigrateOffer, err error) {
	host, err := l.X_sourceHost(ctx, c.Job, c.VM, c.Host)
	if err != nil {
		return out, err
	}
	err = l.X_agent(ctx, host, wire.PathBegin, c, &out)
	return out, err
}

func (l *Controller) X_prepare(ctx context.Context, c wire.PrepareCall) (out wire.MigrateAnswer, err error) {
	claim, err := l.X_claim(ctx, c.Job)
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
	err = l.X_agent(ctx, claim.Host, wire.PathPrepare, c, &out)
	return out, err
}

func (l *Controller) X_perform(ctx context.Context, c wire.PerformCall) (out wire.MigrateResult, err error) {
	host, err := l.X_sourceHost(ctx, c.Job, c.VM, c.Host)
	if err != nil {
		return out, err
	}
	err = l.X_agent(ctx, host, wire.PathPerform, c, &out)
	return out, err
}

func (l *Controller) X_progress(ctx context.Context, c wire.MigrateCall) (out api.Progress, err error) {
	host, err := l.X_sourceHost(ctx, c.Job, c.VM, c.Host)
	if err != nil {
		return out, err
	}
	err = l.X_agent(ctx, host, wire.PathProgress, c, &out)
	return out, err
}

func (l *Controller) X_cancel(ctx context.Context, c wire.MigrateCall) error {
	host, err := l.X_sourceHost(ctx, c.Job, c.VM, c.Host)
	if err != nil {
		return err
	}
	return l.X_agent(ctx, host, wire.PathCancel, c, &wire.Empty{})
}

func (l *Controller) X_finish(ctx context.Context, c wire.FinishCall) error {
	claim, err := l.X_claim(ctx, c.Job)
	if errors.Is(err, &api.Error{Code: api.CodeNotFound}) {
		if !c.Commit {
			return nil // the room was given back before
		}
		return l.X_finished(ctx, c)
	}
	if err != nil {
		return err
	}
	err = l.X_agent(ctx, claim.Host, wire.PathFinish, c, &wire.Empty{})
	if superseded := errors.Is(err, &api.Error{Code: api.CodeStale}) || errors.Is(err, &api.Error{Code: api.CodeConflict}); err != nil && (c.Commit || !superseded) {
		return err // an abort that a newer order has overtaken leaves nothing to put back but the room
	}
	l.o.Failpoint("target-controller.finished")
	return l.update(store.Urgent(ctx), func(tx *state.Tx) error {
		if err := remove(tx, prefixClaims+c.Job); err != nil {
			return err
		}
		if !c.Commit || claim.Home == l.o.Site {
			return nil
		}
		claim.Order.Epoch, claim.Order.Run = c.Epoch, wire.RunOn
		return l.takeIn(tx, claim)
	})
}

// X_finished tells whether a commit was carried out before.
func (l *Controller) X_finished(ctx context.Context, c wire.FinishCall) error {
	return l.view(ctx, func(tx *state.Tx) error {
		if g, err := getJSON[wire.Claim](tx, prefixOrders+c.VM); err == nil && g.Order.Epoch >= c.Epoch {
			return nil
		}
		if m, err := getJSON[migration](tx, prefixMigrations+c.Job); err == nil && m.Target.Site == l.o.Site {
			return nil // ours: the claim goes only after the agent has finished
		}
		return api.Errorf(api.CodeNotFound, "no room is kept here for job %s", c.Job)
	})
}

func (l *Controller) X_confirm(ctx context.Context, c wire.FinishCall) error {
	host, err := l.X_sourceHost(ctx, c.Job, c.VM, c.Host)
	if errors.Is(err, &api.Error{Code: api.CodeNotFound}) && c.Commit {
		return nil // let go before
	}
	if err != nil {
		return err
	}
	if err := l.X_agent(ctx, host, wire.PathConfirm, c, &wire.Empty{}); err != nil && !(c.Commit && errors.Is(err, &api.Error{Code: api.CodeNotFound})) {
		return err
	}
	l.o.Failpoint("source-controller.confirmed")
	return l.update(store.Urgent(ctx), func(tx *state.Tx) error {
		g, err := getJSON[wire.Claim](tx, prefixOrders+c.VM)
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
			return l.letGo(tx, g)
		}
		g.Order.Epoch = max(g.Order.Epoch, c.Epoch)
		return putJSON(tx, prefixOrders+c.VM, g)
	})
}

func (l *Controller) X_channel(ctx context.Context, h wire.ChannelHeader) (net.Conn, error) {
	claim, err := l.X_claim(ctx, h.Job)
	if err != nil {
		return nil, err
	}
	return l.X_stream(ctx, claim.Host, wire.PathChannel, h)
}

// X_whereIs is the host of this site that runs a VM, its own or a guest.
func (l *Controller) X_whereIs(ctx context.Context, vm string) (host string, err error) {
	err = l.view(ctx, func(tx *state.Tx) error {
		if g, err := getJSON[wire.Claim](tx, prefixOrders+vm); err == nil {
			host = g.Host
			return nil
		}
		if v := vmOf(tx, vm); v != nil && v.Status.Site == l.o.Site {
			host = v.Status.Host
			return nil
		}
		return api.Errorf(api.CodeNotFound, "VM %s is not here", vm)
	})
	return host, err
}

func (l *Controller) X_reboot(ctx context.Context, c wire.RebootCall) error {
	host, err := l.X_whereIs(ctx, c.VM)
	if err != nil {
		return err
	}
	return l.X_agent(ctx, host, wire.PathReboot, c, &wire.Empty{})
}

func (l *Controller) X_console(ctx context.Context, h wire.ConsoleHeader) (net.Conn, error) {
	host, err := l.X_whereIs(ctx, h.VM)
	if err != nil {
		return nil, err
	}
	return l.X_stream(ctx, host, wire.PathConsole, h)
}

func (l *Controller) X_stream(ctx context.Context, host, path string, header any) (net.Conn, error) {
	s, err := l.session(host, true)
	if err != nil {
		return nil, err
	}
	return wire.OpenStream(ctx, s, path, header)
}

// X_order changes what a guest is to do; only for guests.
func (l *Controller) X_order(ctx context.Context, o wire.GuestOrder) error {
	return l.update(store.Urgent(ctx), func(tx *state.Tx) error {
		g, err := getJSON[wire.Claim](tx, prefixOrders+o.VM)
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
		switch o.Run {
		case wire.RunOn, wire.RunOff, wire.RunHard, wire.RunGone:
		default:
			return api.Invalidf("run", "%q is not on, off, hard or gone", o.Run)
		}
		if o.Loan != "" && o.Loan != g.Loan {
			if err := l.X_rehouse(tx, &g, o.Loan); err != nil {
				return err
			}
		}
		if o.Size != nil {
			if err := l.X_resize(tx, &g, *o.Size); err != nil {
				return err
			}
		}
		if loan, err := get[api.Loan](tx, g.Loan); o.Run == wire.RunOn && (err != nil || loan.Status.State != api.LoanActive) {
			return &api.Error{Code: api.CodeRefused, Message: "the guest may not be started", Reasons: []api.Reason{{Site: l.o.Site, Code: "loan", Message: fmt.Sprintf("loan %s is not active", g.Loan)}}}
		}
		g.Order.Epoch, g.Order.Run = o.Epoch, o.Run
		return putJSON(tx, prefixOrders+o.VM, g)
	})
}
