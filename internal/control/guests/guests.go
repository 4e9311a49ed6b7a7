package guests

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"reflect"
	"time"

	"widecloud/api"
	"widecloud/internal/control/objects"
	"widecloud/internal/control/rooms"
	"widecloud/internal/lend"
	"widecloud/internal/place"
	"widecloud/internal/state"
	"widecloud/internal/store"
	"widecloud/internal/wire"
)

// tellHome passes what is seen of a guest to its home, when that is reached; the next report repeats it.
func (gs *Guests) tellHome(home string, g wire.GuestReport) {
	gs.Once("tell/"+g.Report.VM, func(ctx context.Context) {
		ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
		s, err := gs.Federation.Session(home, false)
		if err == nil {
			g.Report = g.Report.For(s)
			err = wire.Call(ctx, s, http.MethodPost, wire.PathFedStatus, g, &wire.Empty{})
		}
		if err != nil {
			gs.Log.Debug("tell the home site", "peer", home, "vm", g.Report.VM, "err", err)
		}
	})
}

// seeGuests keeps what a host reports of guests, and then tells their homes.
func (gs *Guests) seeGuests(tx *state.Tx, host string, seen map[string]wire.VMReport) (func(), error) {
	type letter struct {
		home string
		said wire.GuestReport
	}
	var letters []letter
	for _, g := range objects.Records[wire.Claim](tx, objects.PrefixOrders, "host", host) {
		s, ok := seen[g.VM]
		if !ok || s.Epoch < g.Order.Epoch {
			continue
		}
		letters = append(letters, letter{g.Home, wire.GuestReport{Host: host, VTEP: g.VTEP, Report: s}})
		if err := gs.seeGuest(tx, *state.Clone(g), s); err != nil {
			return nil, err
		}
	}
	return func() {
		for _, l := range letters {
			gs.tellHome(l.home, l.said)
		}
	}, nil
}

func (gs *Guests) seeGuest(tx *state.Tx, claim wire.Claim, s wire.VMReport) error {
	if s.State == wire.CopyGone && claim.Order.Run == wire.RunGone {
		return gs.letGo(tx, claim)
	}
	name := claim.Order.Name + "@" + claim.Home
	g, err := objects.Get[api.Guest](tx, name)
	if errors.Is(err, &api.Error{Code: api.CodeNotFound}) {
		// One of the same name was let go. A report must not fail for it: it is of all the host's VMs.
		if err := gs.takeIn(tx, claim); err != nil {
			return err
		}
		g, err = objects.Get[api.Guest](tx, name)
	}
	if err != nil {
		return err
	}
	if phase := PhaseOf(claim.Order.Run, claim.Order.Serial, s); phase != g.Status.Phase {
		g.Status.Phase, g.Status.Since = phase, gs.Now()
	}
	g.Status.Message, g.Spec.Epoch, g.Spec.Job = s.Message, claim.Order.Epoch, s.Job
	if s.Machine != nil {
		if err := gs.seeNeeds(tx, &claim, g, s.Machine); err != nil {
			return err
		}
	}
	return objects.Put(tx, g)
}

// PhaseOf is the phase that a report means for a VM with an order of a serial. What is not to run can only be on its way to its end:
// the report may answer an older order, and an agent that has just begun does not know yet what is there.
func PhaseOf(run wire.Run, serial uint64, s wire.VMReport) api.VMPhase {
	late := s.Serial != 0 && s.Serial < serial // it may have been started since
	switch {
	case s.Job != "":
		return api.PhaseMigrating
	case s.State == wire.CopyFailed:
		return api.PhaseFailed
	case run.Up() && s.State == wire.CopyRunning:
		return api.PhaseRunning
	case run.Up() && s.State == wire.CopySuspended:
		return api.PhaseSuspended
	case run == wire.RunSuspended && (late || s.State != wire.CopyStopped):
		return api.PhaseRunning // it does not stand still yet
	case run == wire.RunOn:
		return api.PhaseStarting
	case s.State == wire.CopyHibernated && !late:
		return api.PhaseHibernated
	case run == wire.RunHibernated && (late || s.State != wire.CopyStopped):
		return api.PhaseHibernating
	case s.State == wire.CopyStopped && !late:
		return api.PhaseStopped
	}
	return api.PhaseStopping
}

// resize gives a guest another size or other disks, if its loan and its host have room for them. Of one that runs, its agent changes
// at once what can be changed, and the rest when it starts next; until then it takes the larger one of both.
func (gs *Guests) resize(tx *state.Tx, g *wire.Claim, run wire.Run, size wire.GuestSize) error {
	order := g.Order
	order.Hardware = size.Hardware
	if size.DiskMiB > 0 { // an older release says nothing of disks
		order.DiskMiB, order.Disks = size.DiskMiB, size.Disks
	}
	guest, err := objects.Get[api.Guest](tx, g.Order.Name+"@"+g.Home)
	if err != nil {
		return err
	}
	has := guest.Status.Has
	if g.Order.Run.Up() && has.CPUs == 0 {
		has = lend.Max(has, api.Resources{CPUs: g.Order.CPUs, MemoryMiB: g.Order.MemoryMiB}) // as it is being started
	}
	size.Needs = lend.Max(size.Needs, has)
	if reflect.DeepEqual(order, g.Order) && size.Needs == g.Needs {
		return nil
	}
	if err := gs.changesRunning(tx, g, order); err != nil {
		return err
	}
	if err := order.Check("order"); err != nil {
		return err
	}
	if err := honest(holds(order, run, guest.Status.Phase), size.Needs, g.Image); err != nil {
		return err
	}
	loan, err := objects.Get[api.Loan](tx, g.Loan)
	if err != nil {
		return err
	}
	reasons, err := gs.rooms.Admit(tx, *loan, g.VM, g.Job, size.Needs)
	if err != nil {
		return err
	}
	short, err := gs.rooms.ShortOnHost(tx, g.Host, g.Needs, size.Needs)
	if err != nil {
		return err
	}
	at := place.Choice{Site: gs.Name, Host: g.Host}
	here, err := gs.rooms.Only(tx, at)
	if err != nil {
		return err
	}
	if most := here.Profile(at, api.NewestProfile); order.Profile > most {
		short = append(short, api.Reason{Site: gs.Name, Host: g.Host, Code: "profile", Message: fmt.Sprintf("the host makes hardware profiles up to %d", most)})
	}
	if reasons = append(reasons, short...); len(reasons) > 0 {
		return &api.Error{Code: api.CodeRefused, Field: "size", Message: "there is no room for guest " + g.Order.Name + " at its new size", Reasons: reasons}
	}
	g.Order, g.Needs = order, size.Needs
	guest.Spec.Needs = g.Needs
	return objects.Put(tx, guest)
}

// holds is an order with what a guest of a phase has of its host, if that is to do what run says: its memory is on the disk, too, once it is to be
// hibernated, and no longer in the host's memory once it is.
func holds(order wire.VMOrder, run wire.Run, phase api.VMPhase) wire.VMOrder {
	if run != wire.RunHibernated {
		return order
	}
	order.DiskMiB += int64(order.MemoryMiB)
	if phase == api.PhaseHibernated {
		order.CPUs, order.MemoryMiB = 0, 0
	}
	return order
}

// changesRunning refuses a change of a guest that is to run, if it is another machine then, or if the release of its host's agent
// cannot change it.
func (gs *Guests) changesRunning(tx *state.Tx, g *wire.Claim, order wire.VMOrder) error {
	h, err := objects.Find[api.Host](tx, g.Host)
	if err != nil {
		return err
	}
	model := cmp.Or(g.Order.CPUModel, g.CPU.Model) // the first order leaves it to the host
	same := order.Profile == g.Order.Profile && cmp.Or(order.CPUModel, model) == model
	switch {
	case g.Order.Run.Up() && (!same || h.Status.CPU.Disks == 0 && order.Hardware != g.Order.Hardware):
		return &api.Error{Code: api.CodeConflict, Field: "size", Message: fmt.Sprintf("guest %s is to run: its size changes while it is stopped", g.Order.Name)}
	case h.Status.CPU.Disks == 0 && (len(order.Disks) > 0 || order.DiskMiB != g.Order.DiskMiB):
		return &api.Error{Code: api.CodeRefused, Field: "size", Message: "the disks of guest " + g.Order.Name + " cannot be changed", Reasons: []api.Reason{{
			Site: gs.Name, Host: g.Host, Code: "release", Message: "the release of the host's agent knows no other disk than the root disk at its first size"}}}
	}
	return nil
}

// seeNeeds keeps what a guest was seen to take. It is never less than what its loan counts.
func (gs *Guests) seeNeeds(tx *state.Tx, claim *wire.Claim, g *api.Guest, m *wire.MachineReport) error {
	var mib int64
	for _, k := range m.Disks {
		mib += k.SizeMiB
	}
	g.Status.Has = api.Resources{CPUs: m.CPUs, MemoryMiB: m.MemoryMiB}
	if mib > 0 {
		g.Status.Has.DiskGiB = rooms.LentDisk(mib, claim.Image)
	}
	needs := lend.Max(claim.Needs, g.Status.Has)
	if needs == claim.Needs {
		return nil
	}
	claim.Needs, g.Spec.Needs = needs, needs
	return objects.PutRecord(tx, objects.PrefixOrders+claim.VM, *claim)
}

// rehouse puts a guest whose loan is over under another one of its home's.
func (gs *Guests) rehouse(tx *state.Tx, g *wire.Claim, name string) error {
	loan, err := objects.Get[api.Loan](tx, name)
	if errors.Is(err, &api.Error{Code: api.CodeNotFound}) {
		return api.Invalidf("loan", "there is no loan %q here", name)
	}
	if err != nil {
		return err
	}
	if loan.Spec.Borrower != g.Home || loan.Spec.Lender != gs.Name {
		return &api.Error{Code: api.CodeForbidden, Field: "loan", Message: fmt.Sprintf("loan %s is not %s's to use here", name, g.Home)}
	}
	reasons, err := gs.rooms.Admit(tx, *loan, g.VM, g.Job, g.Needs)
	if err != nil {
		return err
	}
	if len(reasons) > 0 {
		return &api.Error{Code: api.CodeRefused, Field: "loan", Message: "the guest does not fit under loan " + name, Reasons: reasons}
	}
	g.Loan = name
	guest, err := objects.Get[api.Guest](tx, g.Order.Name+"@"+g.Home)
	if err != nil {
		return err
	}
	guest.Spec.Loan = name
	return objects.Put(tx, guest)
}

// Is tells whether a VM is a guest of a peer here: nil, CodeNotFound or CodeForbidden.
func (gs *Guests) Is(ctx context.Context, from, vm string) error {
	return gs.Read(ctx, func(tx *state.Tx) error {
		g, err := objects.Record[wire.Claim](tx, objects.PrefixOrders+vm)
		if errors.Is(err, store.ErrNotFound) {
			return api.Errorf(api.CodeNotFound, "no guest %s is here", vm)
		}
		if err == nil && g.Home != from {
			return api.Errorf(api.CodeForbidden, "guest %s is not %s's", vm, from)
		}
		return err
	})
}

// IsJob tells whether room is kept here for a peer's job.
func (gs *Guests) IsJob(ctx context.Context, from, job, vm string) error {
	claim, err := gs.claim(ctx, job)
	if err == nil && (claim.Home != from || claim.VM != vm) {
		return api.Errorf(api.CodeForbidden, "job %s is not %s's for VM %s", job, from, vm)
	}
	return err
}

// TellIfGone answers a home that still asks for the end of a guest that is gone already.
func (gs *Guests) TellIfGone(ctx context.Context, o wire.GuestOrder) error {
	id, _ := wire.PeerOf(ctx)
	if err := gs.Is(ctx, id.Site, o.VM); !errors.Is(err, &api.Error{Code: api.CodeNotFound}) {
		return err
	}
	return api.Errorf(api.CodeNotFound, "no guest %s is here", o.VM)
}

// Stop carries out what the offer says when the grace is over: stop. The volume is kept.
func (gs *Guests) Stop(tx *state.Tx, loan string) error {
	for key, g := range objects.Records[wire.Claim](tx, objects.PrefixOrders, "loan", loan) {
		if !g.Order.Run.Up() {
			continue
		}
		g = state.Clone(g)
		g.Order.Run = wire.RunOff
		gs.Event(tx, "guest.stopped", "guests/"+g.Order.Name+"@"+g.Home, g.Owner, "its loan has ended")
		if err := objects.PutRecord(tx, key, g); err != nil {
			return err
		}
	}
	return nil
}

// takeIn makes a guest of a claim.
func (gs *Guests) takeIn(tx *state.Tx, claim wire.Claim) error {
	g := &api.Guest{
		Meta:   gs.NewMeta(claim.Order.Name+"@"+claim.Home, claim.Owner),
		Spec:   api.GuestSpec{VM: claim.Order.Name, VMUID: claim.VM, Loan: claim.Loan, Needs: claim.Needs, Host: claim.Host, Epoch: claim.Order.Epoch},
		Status: api.GuestStatus{Phase: api.PhaseStarting, Since: gs.Now()},
	}
	switch claim.Order.Run {
	case wire.RunOn:
	case wire.RunHibernated:
		g.Status.Phase = api.PhaseHibernated
	default:
		g.Status.Phase = api.PhaseStopped
	}
	if have, err := objects.Get[api.Guest](tx, g.Name); err == nil {
		g.Meta = have.Meta
	}
	if err := objects.Put(tx, g); err != nil {
		return err
	}
	return objects.PutRecord(tx, objects.PrefixOrders+claim.VM, claim)
}

// letGo forgets a guest.
func (gs *Guests) letGo(tx *state.Tx, claim wire.Claim) error {
	if err := objects.Remove(tx, objects.Key(api.KindGuest, claim.Order.Name+"@"+claim.Home)); err != nil {
		return err
	}
	return objects.Remove(tx, objects.PrefixOrders+claim.VM)
}
