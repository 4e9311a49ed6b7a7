package bulk

import (
	"context"
	"errors"
	"fmt"
	"time"

	"widecloud/api"
	"widecloud/internal/control/objects"
	"widecloud/internal/state"
)

// patience is how long a turn waits for a VM to start, stop or go before the next VM has its turn. What was asked for stays in force.
const patience = 5 * time.Minute

// do does what is asked for to a VM, by the rights that the job's user has now. The error says why not.
func (b *Bulk) do(tx *state.Tx, r *record, t *turn) error {
	p, err := b.accounts.ActorOf(tx, r.User)
	if err != nil {
		return err
	}
	o, err := b.Visible(tx, p, api.KindVM, t.VM)
	if err != nil {
		return err
	}
	v := o.(*api.VM)
	t.UID = v.UID
	switch r.Action {
	case api.BulkStart, api.BulkStop:
		v.Spec.Power = r.power()
		v.Revision = 0
		return b.UpdateIn(tx, p, v)
	case api.BulkDelete:
		_, err := b.DeleteIn(tx, p, api.KindVM, t.VM, 0)
		return err
	case api.BulkMove:
		j, err := b.vms.MoveIn(tx, p, t.VM, r.Target, r.Job)
		if err == nil {
			t.Job = j.Name
		}
		return err
	case api.BulkReboot:
		return b.vms.MayReboot(tx, p, t.VM)
	}
	return api.Errorf(api.CodeInternal, "bulk jobs do not know the action %s", r.Action)
}

// power is what the job wants of its VMs.
func (r *record) power() api.Power {
	switch {
	case r.Action == api.BulkStart:
		return api.PowerOn
	case r.Hard:
		return api.PowerOffHard
	}
	return api.PowerOff
}

// end is what a turn has come to.
type end struct {
	State   api.BulkState
	Message string
	Reasons []api.Reason
}

func failed(format string, args ...any) *end {
	return &end{State: api.BulkFailed, Message: fmt.Sprintf(format, args...)}
}

var done = &end{State: api.BulkDone}

// await waits for what a turn comes to. fresh: it has begun in this process.
func (b *Bulk) await(ctx context.Context, r *record, t turn, fresh bool) *end {
	if r.Action == api.BulkReboot {
		return b.reboot(ctx, r, t, fresh)
	}
	for ctx.Err() == nil {
		changed := b.WhenChanged()
		e, err := b.look(ctx, r, t)
		if err != nil {
			b.Log.Warn("look at a VM of a bulk job; trying again", "job", r.Job, "vm", t.VM, "err", err)
		}
		if e != nil {
			return e
		}
		select {
		case <-ctx.Done():
		case <-changed:
			_ = b.PauseFor(ctx, settle)
		case <-time.After(b.Resync):
		}
	}
	return done // of a process that ends: it is not looked at
}

// settle is how long a turn waits after a change before it looks again: one event often brings several.
const settle = 50 * time.Millisecond

// reboot is done when the VM's host has heard of it. One that a controller began and did not come back from is not done twice.
func (b *Bulk) reboot(ctx context.Context, r *record, t turn, fresh bool) *end {
	if !fresh {
		return failed("the controller was restarted in its turn: whether the VM was rebooted is not known")
	}
	if err := b.vms.RebootNow(ctx, t.VM, t.UID, r.Hard); err != nil {
		e := failed("%s", err)
		var refused *api.Error
		if errors.As(err, &refused) {
			e.Message, e.Reasons = refused.Message, refused.Reasons
		}
		return e
	}
	return done
}

// look tells what a turn has come to; nil: nothing yet.
func (b *Bulk) look(ctx context.Context, r *record, t turn) (e *end, err error) {
	err = b.Read(ctx, func(tx *state.Tx) error {
		if r.Action == api.BulkMove {
			e, err = moved(tx, t)
			return err
		}
		v, err := objects.Find[api.VM](tx, t.VM)
		gone := errors.Is(err, &api.Error{Code: api.CodeNotFound}) || err == nil && v.UID != t.UID
		switch {
		case gone && r.Action == api.BulkDelete:
			e = done
		case gone:
			e = failed("it was deleted meanwhile")
		case err != nil:
			return err
		case r.Action == api.BulkDelete:
		case v.Spec.Power != r.power():
			e = failed("somebody has changed spec.power to %s meanwhile", v.Spec.Power)
		case r.Action == api.BulkStart:
			e = started(v)
		default:
			e = stopped(v)
		}
		if e == nil && b.Now().Sub(t.Begun) > patience {
			e = failed("not within %s: it is %s; what was asked for stays in force", patience, v.Status.Phase)
			e.Reasons = v.Status.Reasons
		}
		return nil
	})
	return e, err
}

func started(v *api.VM) *end {
	switch s := v.Status; {
	case s.Phase == api.PhaseRunning || s.Phase == api.PhaseMigrating:
		return done
	case s.Phase == api.PhaseFailed:
		return failed("%s", s.Message)
	case s.Phase == api.PhasePending && len(s.Reasons) > 0:
		e := failed("%s; it starts when there is", s.Message)
		e.Reasons = s.Reasons
		return e
	}
	return nil
}

func stopped(v *api.VM) *end {
	if v.Status.Phase == api.PhaseStopped || v.Status.Host == "" {
		return done
	}
	return nil
}

// moved tells what the migration of a turn has come to.
func moved(tx *state.Tx, t turn) (*end, error) {
	j, err := objects.Find[api.Job](tx, t.Job)
	switch {
	case errors.Is(err, &api.Error{Code: api.CodeNotFound}):
		return failed("its job %s is no longer known", t.Job), nil
	case err != nil:
		return nil, err
	case j.Status.State == api.JobDone:
		return done, nil
	case j.Status.State.Ended():
		return &end{State: api.BulkFailed, Message: fmt.Sprintf("%s: %s", j.Status.State, j.Status.Message), Reasons: j.Status.Reasons}, nil
	}
	return nil, nil
}
