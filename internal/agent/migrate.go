package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"time"

	"widecloud/api"
	"widecloud/internal/hyper"
	"widecloud/internal/volume"
	"widecloud/internal/wire"
)

// progressSource tells what a migration under way has sent.
type progressSource struct {
	job   string
	since time.Time
	conns []wire.Coded // guarded by Agent.mu
	cold  *copied      // of a stopped VM; nil: the hypervisor knows
}

// codecs are what this agent can speak, the preferred first.
var codecs = []wire.Codec{wire.Zstd, wire.None}

// Begin is the source's first step: from now on the copy belongs to the job.
func (a *Agent) Begin(ctx context.Context, c wire.MigrateCall) (wire.MigrateOffer, error) {
	var network string
	v, unlock, err := a.claim(ctx, c.VM, func(r *record) error {
		switch {
		case r.Order.Epoch != c.Epoch:
			return api.Errorf(api.CodeStale, "epoch %d of VM %s is not %d, the one that runs here", c.Epoch, c.VM, r.Order.Epoch)
		case r.Job != "" && r.Job != c.Job:
			return api.Errorf(api.CodeConflict, "VM %s is part of migration %s", c.VM, r.Job)
		case !c.Cold && r.Order.Run != wire.RunOn:
			return api.Errorf(api.CodeConflict, "VM %s is not to run here (%s)", c.VM, r.Order.Run)
		case c.Cold && !slices.Contains([]wire.Run{wire.RunOff, wire.RunHard, wire.RunSuspended, wire.RunHibernated}, r.Order.Run):
			return api.Errorf(api.CodeConflict, "VM %s is not stopped here, but %s", c.VM, r.Order.Run)
		}
		if r.Order.Run == wire.RunSuspended || r.Order.Run == wire.RunHibernated && r.Saved == nil {
			r.Order.Run = wire.RunOff // it has lost its memory, and moves as a stopped one
		}
		if r.Saved != nil && !(c.Cold && r.Saved.whole()) {
			return api.Errorf(api.CodeConflict, "VM %s is being hibernated or resumed here", c.VM)
		}
		r.Job, r.Role = c.Job, source
		network = r.Order.NIC.Network
		return nil
	})
	if err != nil {
		return wire.MigrateOffer{}, err
	}
	defer unlock()
	a.o.Failpoint("source.begin")
	if c.Cold {
		return wire.MigrateOffer{}, a.still(ctx, v.uid)
	}
	if err := a.unsettled(ctx, v); err != nil {
		return wire.MigrateOffer{}, fmt.Errorf("begin at the source: %w", err)
	}
	// From now on the VM's MAC may appear at another host, before any other order says so.
	if err := a.carry(ctx, network); err != nil {
		return wire.MigrateOffer{}, fmt.Errorf("begin at the source: prepare network: %w", err)
	}
	offer, err := a.o.Hypervisor.MigrateBegin(ctx, v.uid)
	if err != nil {
		return wire.MigrateOffer{}, fmt.Errorf("begin at the source: %w", err)
	}
	return wire.MigrateOffer{Offer: offer}, nil
}

// Prepare is the target's first step: image, volume, network, and an incoming domain that waits.
func (a *Agent) Prepare(ctx context.Context, c wire.PrepareCall) (wire.MigrateAnswer, error) {
	n := c.Network
	if err := n.Check("network"); err != nil {
		return wire.MigrateAnswer{}, err
	}
	if err := c.Order.Check("order"); err != nil {
		return wire.MigrateAnswer{}, err
	}
	v, unlock, err := a.claim(ctx, c.Order.VM, func(r *record) error {
		switch {
		case r.Order.Home != "" && c.Order.Home != r.Order.Home:
			return api.Errorf(api.CodeForbidden, "VM %s is %s's, not %s's", c.Order.VM, r.Order.Home, c.Order.Home)
		case r.Job != "" && r.Job != c.Job:
			return api.Errorf(api.CodeConflict, "VM %s is part of migration %s", c.Order.VM, r.Job)
		case c.Order.Epoch < r.Order.Epoch, c.Order.Epoch == r.Order.Epoch && r.Job != c.Job:
			return api.Errorf(api.CodeStale, "epoch %d of VM %s is not higher than %d, the highest seen", c.Order.Epoch, c.Order.VM, r.Order.Epoch)
		}
		r.Order, r.Network, r.Job, r.Role, r.Copied, r.Saved = c.Order, &n, c.Job, target, "", nil
		if r.Order.Run != wire.RunOn && r.Order.Run != wire.RunHibernated {
			r.Order.Run = wire.RunOff // it comes as a stopped one
		}
		return nil
	})
	if err != nil {
		return wire.MigrateAnswer{}, err
	}
	defer unlock()
	a.o.Failpoint("target.reserved")
	if err := a.carry(ctx, n.UID); err != nil {
		return wire.MigrateAnswer{}, fmt.Errorf("prepare network: %w", err)
	}
	spec, err := a.ready(ctx, c.Order)
	if err != nil {
		return wire.MigrateAnswer{}, refusal(fmt.Errorf("prepare: %w", err))
	}
	if c.Order.Run != wire.RunOn {
		if err := a.still(ctx, v.uid); err != nil {
			return wire.MigrateAnswer{}, err
		}
		a.o.Failpoint("target.prepared")
		return wire.MigrateAnswer{}, nil
	}
	// A repeated call finds the incoming domain of the first one; its answer is lost, so it starts anew.
	if err := a.o.Hypervisor.MigrateFinish(ctx, v.uid, nil, false); err != nil {
		return wire.MigrateAnswer{}, fmt.Errorf("clear an earlier attempt: %w", err)
	}
	answer, err := a.o.Hypervisor.MigratePrepare(ctx, spec, c.Offer)
	if err != nil {
		return wire.MigrateAnswer{}, refusal(fmt.Errorf("prepare the hypervisor: %w", err))
	}
	a.o.Failpoint("target.prepared")
	a.poke()
	return wire.MigrateAnswer{Answer: answer}, nil
}

// Perform copies. When it returns without an error the source is paused and both ends wait for the decision.
func (a *Agent) Perform(ctx context.Context, c wire.PerformCall) (wire.MigrateResult, error) {
	v, unlock, err := a.claim(ctx, c.VM, func(r *record) error { return ownedBy(r, c.Job, source) })
	if err != nil {
		return wire.MigrateResult{}, err
	}
	defer unlock()
	codec, err := wire.PickCodec(codecs, c.Codec)
	if err != nil {
		return wire.MigrateResult{}, err
	}
	a.mu.Lock()
	v.progress = progressSource{job: c.Job, since: time.Now()}
	cold := v.record.cold()
	if cold {
		v.progress.cold = &copied{}
	}
	a.mu.Unlock()
	dial := func(ctx context.Context, ch hyper.Channel) (net.Conn, error) {
		conn, err := a.o.Controller.Channel(ctx, wire.ChannelHeader{Job: c.Job, VM: c.VM, Channel: string(ch), Codec: c.Codec})
		if err != nil {
			return nil, fmt.Errorf("open the way to the target: %w", err)
		}
		a.o.Failpoint("source.copying")
		coded, err := codec.Wrap(conn)
		if err != nil {
			conn.Close()
			return nil, err
		}
		a.mu.Lock()
		v.progress.conns = append(v.progress.conns, coded)
		a.mu.Unlock()
		return coded, nil
	}
	var result []byte
	if cold {
		result, err = a.sendDisks(ctx, v, c, dial)
	} else {
		result, err = a.o.Hypervisor.MigratePerform(ctx, v.uid, hyper.Outgoing{Answer: c.Answer, Dial: dial, Bandwidth: c.Bandwidth, Downtime: wantedDowntime})
	}
	paused := time.Now()
	if err != nil {
		return wire.MigrateResult{}, refusal(err)
	}
	a.o.Failpoint("source.copied")
	p := a.seen(ctx, v)
	a.poke()
	return wire.MigrateResult{Result: result, Progress: p, PausedAt: paused}, nil
}

// wantedDowntime is what the source may need for the rest once it has paused. The hypervisors' usual 300 ms and the switch
// together are more than the half second that a service may be gone; what a guest writes faster than the line carries in
// so short a time would not end in 300 ms either.
const wantedDowntime = 100 * time.Millisecond

// refusal gives a hypervisor's error the code that callers act on.
func refusal(err error) error {
	switch {
	case errors.Is(err, hyper.ErrNoSpace), errors.Is(err, volume.ErrNoSpace):
		return &api.Error{Code: api.CodeRefused, Message: err.Error(), Reasons: []api.Reason{{Code: "disk", Message: err.Error(), Advice: "free space at the target, or choose another one"}}}
	case errors.Is(err, hyper.ErrCancelled):
		return api.Errorf(api.CodeConflict, "%v", err)
	case errors.Is(err, hyper.ErrNotFound):
		return api.Errorf(api.CodeNotFound, "%v", err)
	}
	return err
}

// Finish tells the target the decision.
func (a *Agent) Finish(ctx context.Context, c wire.FinishCall) error {
	if !c.Commit {
		return a.abandon(ctx, c)
	}
	cold := false
	v, unlock, err := a.claim(ctx, c.VM, func(r *record) error {
		switch {
		case c.Epoch < r.Order.Epoch:
			return api.Errorf(api.CodeStale, "epoch %d of VM %s is lower than %d, the highest seen", c.Epoch, c.VM, r.Order.Epoch)
		case r.Job == "" && r.Order.Epoch == c.Epoch && r.Order.Run != wire.RunGone:
			return errUnchanged // done before; the answer was lost
		case r.Job != c.Job || r.Role != target:
			return api.Errorf(api.CodeNotFound, "no incoming migration %s of VM %s", c.Job, c.VM)
		case r.cold() && (r.Copied == "" || r.Copied != string(c.Result)):
			// As of a live one whose copy is lost: the source has the only one that is whole.
			return api.Errorf(api.CodeNotFound, "the disks of VM %s have not come here by migration %s", c.VM, c.Job)
		}
		r.Order.Epoch, cold = c.Epoch, r.cold()
		return nil
	})
	if errors.Is(err, errUnchanged) {
		return nil
	}
	if err != nil {
		return err
	}
	defer unlock()
	a.o.Failpoint("target.committed")
	if !cold {
		if err := a.o.Hypervisor.MigrateFinish(ctx, v.uid, c.Result, true); err != nil {
			// ErrNotFound is the definite answer that this copy never ran and never will: the record still names the job,
			// so nothing here starts it.
			return refusal(fmt.Errorf("finish at the target: %w", err))
		}
	}
	a.o.Failpoint("target.switched")
	defer a.poke()
	_, err = a.remember(ctx, c.VM, func(r *record) error { r.Job, r.Role, r.Copied = "", "", ""; return nil })
	return err
}

// abandon is the target's part of an abort: the copy is removed and its epoch fenced off.
func (a *Agent) abandon(ctx context.Context, c wire.FinishCall) error {
	a.stopCopying(c.VM, c.Job, target, api.Errorf(api.CodeConflict, "the migration was called off"))
	_, unlock, err := a.claim(ctx, c.VM, func(r *record) error {
		if r.Role == source || (r.Job == "" && r.Order.Run != wire.RunGone && r.Order.Epoch >= c.Epoch) {
			return api.Errorf(api.CodeConflict, "VM %s is not an incoming copy here", c.VM)
		}
		if r.Job != "" && r.Job != c.Job {
			return api.Errorf(api.CodeConflict, "VM %s is part of migration %s", c.VM, r.Job)
		}
		r.Order.VM = c.VM
		r.Order.Epoch = max(r.Order.Epoch, c.Epoch)
		r.Order.Run, r.Saved = wire.RunGone, nil
		return nil
	})
	if err != nil {
		return err
	}
	defer unlock()
	if err := a.o.Hypervisor.MigrateFinish(ctx, c.VM, nil, false); err != nil {
		return fmt.Errorf("abort at the target: %w", err)
	}
	if err := a.o.Volumes.Remove(ctx, c.VM); err != nil {
		return fmt.Errorf("remove the target's volume: %w", err)
	}
	defer a.poke()
	_, err = a.remember(ctx, c.VM, func(r *record) error { r.Job, r.Role, r.Network, r.Copied = "", "", nil, ""; return nil })
	return err
}

// Confirm tells the source the decision: the copy is gone (commit) or runs on (abort). The record says so first, so that
// an agent that dies here ends the work when it comes back.
func (a *Agent) Confirm(ctx context.Context, c wire.FinishCall) error {
	v, unlock, err := a.claim(ctx, c.VM, func(r *record) error {
		switch {
		case r.Job != "" && (r.Job != c.Job || r.Role != source):
			return api.Errorf(api.CodeConflict, "VM %s is part of migration %s", c.VM, r.Job)
		case c.Epoch < r.Order.Epoch:
			return api.Errorf(api.CodeStale, "epoch %d of VM %s is lower than %d, the highest seen", c.Epoch, c.VM, r.Order.Epoch)
		case r.Job == "" && r.Order.VM == "":
			return api.Errorf(api.CodeNotFound, "no VM %s", c.VM)
		case r.Job == "" && r.Order.Epoch == c.Epoch && (r.Order.Run == wire.RunGone) == c.Commit:
			return errUnchanged
		case r.Job == "" && c.Commit && r.Order.Run != wire.RunGone:
			// Only a copy that the job has claimed is given up: this one may be the only one there is.
			return api.Errorf(api.CodeConflict, "VM %s is not the source of migration %s here", c.VM, c.Job)
		}
		if c.Commit {
			r.Order.Run, r.Saved = wire.RunGone, nil
			r.Order.Disks = asOwn(r.Order.Disks) // its volumes are at the target: what is here goes
		}
		r.Order.Epoch, r.Job, r.Role = c.Epoch, "", ""
		return nil
	})
	if errors.Is(err, errUnchanged) {
		return nil
	}
	if err != nil {
		return err
	}
	defer unlock()
	defer a.poke()
	a.o.Failpoint("source.confirmed")
	if err := a.o.Hypervisor.MigrateConfirm(ctx, v.uid, c.Commit); err != nil && !(errors.Is(err, hyper.ErrNotFound) && c.Commit) {
		if errors.Is(err, hyper.ErrNotFound) {
			return nil // the host lost it meanwhile; the record says that it is to run, so it is started again
		}
		return fmt.Errorf("confirm at the source: %w", err)
	}
	if !c.Commit {
		return nil
	}
	if err := a.o.Volumes.Remove(ctx, v.uid); err != nil {
		return fmt.Errorf("remove the source's volume: %w", err)
	}
	return nil
}

// Cancel makes the copying end. The coordinator's abort follows.
func (a *Agent) Cancel(ctx context.Context, c wire.MigrateCall) error {
	a.mu.Lock()
	v := a.vms[c.VM]
	mine := v != nil && v.record.Job == c.Job && v.record.Role == source
	cold := mine && v.record.cold()
	a.mu.Unlock()
	if !mine {
		return nil
	}
	if cold {
		a.stopCopying(c.VM, c.Job, source, hyper.ErrCancelled)
		return nil
	}
	return a.o.Hypervisor.MigrateCancel(ctx, c.VM)
}

// Progress tells how far the copying is.
func (a *Agent) Progress(ctx context.Context, c wire.MigrateCall) (api.Progress, error) {
	a.mu.Lock()
	v := a.vms[c.VM]
	mine := v != nil && v.progress.job == c.Job
	a.mu.Unlock()
	if !mine {
		return api.Progress{}, api.Errorf(api.CodeNotFound, "no outgoing migration %s of VM %s", c.Job, c.VM)
	}
	return a.seen(ctx, v), nil
}

// seen is the progress of a VM's migration as the hypervisor and the codec see it.
func (a *Agent) seen(ctx context.Context, v *vm) api.Progress {
	a.mu.Lock()
	src := v.progress
	a.mu.Unlock()
	var p api.Progress
	if src.cold != nil {
		p.DiskDone, p.DiskTotal = src.cold.done.Load(), src.cold.total.Load()
	} else if h, err := a.o.Hypervisor.MigrateProgress(ctx, v.uid); err == nil {
		p = api.Progress{
			MemoryDone: h.MemoryDone, MemoryTotal: h.MemoryTotal, DiskDone: h.DiskDone, DiskTotal: h.DiskTotal,
			DirtyRate: h.DirtyRate, Downtime: h.Downtime.Seconds(),
		}
	}
	for _, conn := range src.conns {
		st := conn.Stats()
		p.WireBytes += int64(st.WireIn + st.WireOut)
		p.RawBytes += int64(st.PlainIn + st.PlainOut)
	}
	if t := time.Since(src.since).Seconds(); t > 0 {
		p.Rate = float64(p.MemoryDone+p.DiskDone) / t
		left := float64(p.MemoryTotal + p.DiskTotal - p.MemoryDone - p.DiskDone)
		if gain := p.Rate - p.DirtyRate; left > 0 && gain > 0 {
			p.SecondsLeft = left / gain
		}
	}
	return p
}

// Channel joins a stream of an incoming migration to the hypervisor.
func (a *Agent) Channel(ctx context.Context, h wire.ChannelHeader, conn *wire.Stream) error {
	a.mu.Lock()
	v := a.vms[h.VM]
	mine := v != nil && v.record.Job == h.Job && v.record.Role == target
	cold := mine && v.record.cold()
	a.mu.Unlock()
	if !mine {
		return api.Errorf(api.CodeNotFound, "no incoming migration %s of VM %s", h.Job, h.VM)
	}
	if cold != (h.Channel == coldChannel) {
		return api.Invalidf("channel", "%.20q is none of migration %s", h.Channel, h.Job)
	}
	if cold {
		return a.receiveDisks(ctx, h, conn)
	}
	codec, err := wire.PickCodec(codecs, h.Codec)
	if err != nil {
		return err
	}
	inner, err := a.o.Hypervisor.MigrateConnect(ctx, h.VM, hyper.Channel(h.Channel))
	if err != nil {
		return fmt.Errorf("reach the hypervisor's %s channel: %w", h.Channel, err)
	}
	defer inner.Close()
	if err := conn.Accept(); err != nil {
		return err
	}
	outer, err := codec.Wrap(conn)
	if err != nil {
		return err
	}
	_, _, err = wire.Relay(ctx, outer, inner)
	return err
}

// Reboot asks the guest to reboot.
func (a *Agent) Reboot(ctx context.Context, c wire.RebootCall) error {
	a.mu.Lock()
	v := a.vms[c.VM]
	ok := v != nil && v.record.Order.Epoch == c.Epoch && v.record.Job == ""
	a.mu.Unlock()
	if !ok {
		return api.Errorf(api.CodeConflict, "VM %s does not run here at epoch %d, or it is migrating", c.VM, c.Epoch)
	}
	return notNow(c.VM, a.o.Hypervisor.Reboot(ctx, c.VM, c.Hard))
}

// notNow gives a hypervisor's error about a VM that was asked for something which only a running one can do the code that
// users act on.
func notNow(vm string, err error) error {
	switch {
	case errors.Is(err, hyper.ErrNotFound), errors.Is(err, hyper.ErrState):
		return api.Errorf(api.CodeConflict, "VM %s is not running just now: %v", vm, err)
	case errors.Is(err, hyper.ErrUnreachable):
		return api.Errorf(api.CodeUnavailable, "%v", err)
	}
	return refusal(err)
}

// Console attaches to a VM's serial console.
func (a *Agent) Console(ctx context.Context, vm string) (io.ReadWriteCloser, error) {
	rw, err := a.o.Hypervisor.Console(ctx, vm)
	return rw, notNow(vm, err)
}

// Display attaches to a VM's display.
func (a *Agent) Display(ctx context.Context, vm string) (io.ReadWriteCloser, error) {
	rw, err := a.o.Hypervisor.Display(ctx, vm)
	if errors.Is(err, hyper.ErrNoDisplay) {
		return nil, api.Errorf(api.CodeRefused, "the hardware of VM %s has no display; it has the serial console", vm)
	}
	return rw, notNow(vm, err)
}

func ownedBy(r *record, job string, as role) error {
	if r.Job != job || r.Role != as {
		return api.Errorf(api.CodeConflict, "VM %s is not the %s of migration %s here", r.Order.VM, as, job)
	}
	return errUnchangedOwned
}

// errUnchangedOwned lets claim take the VM's lock without a write.
var errUnchangedOwned = errors.New("owned")

// claim waits for whoever works on the VM's copy, changes the record, and keeps others away until unlock.
func (a *Agent) claim(ctx context.Context, uid string, change func(*record) error) (*vm, func(), error) {
	if a.o.Hypervisor == nil {
		return nil, nil, api.Errorf(api.CodeRefused, "host %s is not a hypervisor", a.o.Host)
	}
	a.mu.Lock()
	v, known := a.vms[uid]
	if !known {
		v = &vm{uid: uid}
		a.vms[uid] = v
	}
	a.mu.Unlock()
	if err := lock(ctx, v); err != nil {
		return nil, nil, api.Errorf(api.CodeConflict, "VM %s is being worked on: %v", uid, err)
	}
	v, err := a.remember(ctx, uid, change)
	if err != nil && !errors.Is(err, errUnchangedOwned) {
		v.busy.Unlock()
		return nil, nil, err
	}
	return v, v.busy.Unlock, nil
}

// lock takes the VM's lock or gives up when ctx ends: a start that pulls an image may take minutes.
func lock(ctx context.Context, v *vm) error {
	for !v.busy.TryLock() {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
	}
	return nil
}
