package control

import (
	"context"
	"errors"
	"fmt"
	"time"

	"widecloud/api"
	"widecloud/internal/cloud"
	"widecloud/internal/saga"
	"widecloud/internal/state"
	"widecloud/internal/store"
	"widecloud/internal/wire"
)

// deletion is the record of a job that deletes a VM.
type deletion struct {
	saga.Head
	VM  string `json:"vm"`  // name
	UID string `json:"uid"` // of the VM

	site    string // where it was, when there was nothing left of it
	givenUp bool   // nobody could be asked whether there is
}

// newDeletions is the kind of job that deletes VMs. A VM's Deleting keeps other jobs off it, from the moment at which the
// deletion was accepted.
func newDeletions(c *Controller) *jobs[deletion] {
	return &jobs[deletion]{
		c: c, prefix: prefixDeletions, failpoint: "delete", means: c.deletionMeans,
		about: func(d *deletion) []any { return []any{"vm", d.VM} },
		kind: saga.Kind[deletion]{
			Plan: cloud.Delete, Head: func(d *deletion) *saga.Head { return &d.Head },
			Work: map[saga.Step]saga.Work[deletion]{cloud.DeleteAccepted: {Do: c.deleteVM}},
		},
	}
}

// endVMs begins the job for each VM whose deletion was accepted.
func (c *Controller) endVMs(ctx context.Context) error {
	return c.update(store.Urgent(ctx), func(tx *state.Tx) error {
		for v := range by[api.VM](tx, "todo", "end") {
			if deletionOf(tx, v.UID) != nil {
				continue
			}
			job := &api.Job{Meta: c.newMeta("delete-"+c.shortID(), v.Owner), Spec: api.JobSpec{Object: "vms/" + v.Name}}
			if err := c.deletions.begin(tx, job, &deletion{VM: v.Name, UID: v.UID}); err != nil {
				return err
			}
		}
		return nil
	})
}

// deletionOf finds the deletion of a VM; nil when none is under way. It is shared and must not be changed.
func deletionOf(tx *state.Tx, uid string) *deletion {
	for _, d := range records[deletion](tx, prefixDeletions, "uid", uid) {
		return d
	}
	return nil
}

// deleteVM removes a VM: one without a place at once, one elsewhere by asking its lender. One that is here goes when its agent
// says that it is gone (forgetVM).
func (c *Controller) deleteVM(ctx context.Context, d *deletion) (saga.Step, error) {
	var v *api.VM
	if err := c.view(ctx, func(tx *state.Tx) (err error) {
		v, err = find[api.VM](tx, d.VM)
		return err
	}); errors.Is(err, &api.Error{Code: api.CodeNotFound}) {
		return cloud.DeleteGone, nil
	} else if err != nil {
		return "", err
	}
	d.site = v.Status.Site
	switch {
	case v.UID != d.UID || v.Status.Site == "":
		return cloud.DeleteGone, nil
	case v.Status.Job != "" || v.Status.Site == c.o.Site:
		return "", saga.ErrWait
	case c.at("place/" + v.Name):
		return "", saga.ErrWait // its lender may be about to take it in: "not here" would mean "not yet"
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	err := c.endOf(v.Status.Site).X_order(ctx, wire.GuestOrder{VM: v.UID, Epoch: v.Status.Epoch, Run: wire.RunGone})
	if errors.Is(err, &api.Error{Code: api.CodeNotFound}) {
		return cloud.DeleteGone, nil // the lender has let it go, and its word of that was lost
	}
	if errors.Is(err, &api.Error{Code: api.CodeUnavailable}) {
		if d.givenUp, err = c.loanEnded(ctx, v.Status.Loan); d.givenUp {
			return cloud.DeleteGone, nil
		}
	}
	if err != nil {
		c.log.Debug("end guest", "vm", v.Name, "err", err)
	}
	return "", saga.ErrWait // for the lender's word, or to be asked again
}

// loanEnded tells whether a loan is over: by its own word the lender has then stopped the VMs under it, and a lender that is not
// reached need not be asked any more.
func (c *Controller) loanEnded(ctx context.Context, name string) (ended bool, err error) {
	err = c.view(ctx, func(tx *state.Tx) error {
		l, err := find[api.Loan](tx, name)
		ended = err == nil && l.Status.State == api.LoanEnded
		return err
	})
	return ended, err
}

// deletionMeans removes the VM.
func (c *Controller) deletionMeans(tx *state.Tx, _ *api.Job, d *deletion) error {
	v, err := get[api.VM](tx, d.VM)
	if errors.Is(err, &api.Error{Code: api.CodeNotFound}) || err == nil && v.UID != d.UID {
		return nil
	}
	if err != nil {
		return err
	}
	if v.Status.Site != d.site {
		return api.Errorf(api.CodeConflict, "VM %s has come to %s meanwhile", v.Name, v.Status.Site) // it is looked at again
	}
	if d.givenUp {
		c.event(tx, "vm.given-up", "vms/"+v.Name, v.Owner, fmt.Sprintf("%s is not reached, and its loan has ended: the VM's volume may still be there", d.site))
	}
	return c.removeVM(tx, v)
}

// forgetVM removes a VM that is gone, by the word of who had it, and ends the job that waits for that.
func (c *Controller) forgetVM(tx *state.Tx, v *api.VM) error {
	if d := deletionOf(tx, v.UID); d != nil {
		d = state.Clone(d)
		d.Step = cloud.DeleteGone
		if err := c.deletions.finish(tx, d); err != nil {
			return err
		}
	}
	return c.removeVM(tx, v)
}

// removeVM removes a VM's object and what hangs on it.
func (c *Controller) removeVM(tx *state.Tx, v *api.VM) error {
	c.event(tx, "vm.deleted", "vms/"+v.Name, v.Owner, "it is gone")
	for a := range by[api.Address](tx, "vm", v.Name) {
		a = state.Clone(a)
		a.Spec.VM, a.Status.Target = "", ""
		if err := put(tx, a); err != nil {
			return err
		}
	}
	c.sizes.Forget(v.UID)
	if err := remove(tx, keyOf(api.KindVolume, v.Name)); err != nil {
		return err
	}
	return remove(tx, keyOf(api.KindVM, v.Name))
}
