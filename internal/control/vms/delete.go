package vms

import (
	"context"
	"errors"
	"fmt"
	"time"

	"widecloud/api"
	"widecloud/internal/cloud"
	"widecloud/internal/control/jobs"
	"widecloud/internal/control/objects"
	"widecloud/internal/saga"
	"widecloud/internal/state"
	"widecloud/internal/store"
	"widecloud/internal/wire"
)

// prefixDeletions is where the records of deletions are: deletions/JOB.
const prefixDeletions = "deletions/"

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
func newDeletions(vs *VMs, js *jobs.Jobs) *jobs.Of[deletion] {
	return &jobs.Of[deletion]{
		Jobs: js, Prefix: prefixDeletions, Failpoint: "delete", Means: vs.deletionMeans,
		About: func(d *deletion) []any { return []any{"vm", d.VM} },
		Kind: saga.Kind[deletion]{
			Plan: cloud.Delete, Head: func(d *deletion) *saga.Head { return &d.Head },
			Work: map[saga.Step]saga.Work[deletion]{cloud.DeleteAccepted: {Do: vs.deleteVM}},
		},
	}
}

// End begins the job for each VM whose deletion was accepted by an earlier release, which did not begin it at once.
func (vs *VMs) End(ctx context.Context) error {
	return vs.Write(store.Urgent(ctx), func(tx *state.Tx) error {
		for v := range objects.By[api.VM](tx, "todo", "end") {
			if deletionOf(tx, v.UID) != nil {
				continue
			}
			if err := vs.beginDeletion(tx, v); err != nil {
				return err
			}
		}
		return nil
	})
}

// beginDeletion makes the job that deletes a VM.
func (vs *VMs) beginDeletion(tx *state.Tx, v *api.VM) error {
	job := &api.Job{Meta: vs.NewMeta("delete-"+vs.ShortID(), v.Owner), Spec: api.JobSpec{Object: "vms/" + v.Name}}
	return vs.deletions.Begin(tx, job, &deletion{VM: v.Name, UID: v.UID})
}

// deletionOf finds the deletion of a VM; nil when none is under way. It is shared and must not be changed.
func deletionOf(tx *state.Tx, uid string) *deletion {
	for _, d := range objects.Records[deletion](tx, prefixDeletions, "uid", uid) {
		return d
	}
	return nil
}

// deleteVM removes a VM: one without a place at once, one elsewhere by asking its lender. One that is here goes when its agent
// says that it is gone (forgetVM).
func (vs *VMs) deleteVM(ctx context.Context, d *deletion) (saga.Step, error) {
	var v *api.VM
	if err := vs.Read(ctx, func(tx *state.Tx) (err error) {
		v, err = objects.Find[api.VM](tx, d.VM)
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
	case v.Status.Job != "" || v.Status.Site == vs.Name:
		return "", saga.ErrWait
	case vs.Working("place/" + v.Name):
		return "", saga.ErrWait // its lender may be about to take it in: "not here" would mean "not yet"
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	err := vs.endOf(v.Status.Site).Order(ctx, wire.GuestOrder{VM: v.UID, Epoch: v.Status.Epoch, Run: wire.RunGone})
	if errors.Is(err, &api.Error{Code: api.CodeNotFound}) {
		return cloud.DeleteGone, nil // the lender has let it go, and its word of that was lost
	}
	if errors.Is(err, &api.Error{Code: api.CodeUnavailable}) {
		var e error
		if d.givenUp, e = vs.loanEnded(ctx, v.Status.Loan); d.givenUp {
			return cloud.DeleteGone, nil
		}
		err = errors.Join(err, e)
	}
	vs.showWait(ctx, d, v.Status.Site, err)
	return "", saga.ErrWait // for the lender's word, or to be asked again
}

// showWait shows in a deletion's job what it waits for.
func (vs *VMs) showWait(ctx context.Context, d *deletion, site string, why error) {
	message := "waits until " + site + " has removed the VM"
	if why != nil {
		message = fmt.Sprintf("waits for %s: %s", site, cloud.Line(why.Error(), objects.MaxText))
	}
	if _, err := objects.Change(ctx, vs.Site, d.Job, func(_ *state.Tx, j *api.Job) error {
		if !j.Status.State.Ended() { // by the word of who had the VM
			j.Status.Message = message
		}
		return nil
	}); err != nil && ctx.Err() == nil {
		vs.Log.Debug("show what a deletion waits for", "job", d.Job, "err", err)
	}
}

// loanEnded tells whether a loan is over: by its own word the lender has then stopped the VMs under it, and a lender that is not
// reached need not be asked any more.
func (vs *VMs) loanEnded(ctx context.Context, name string) (ended bool, err error) {
	err = vs.Read(ctx, func(tx *state.Tx) error {
		l, err := objects.Find[api.Loan](tx, name)
		ended = err == nil && l.Status.State == api.LoanEnded
		return err
	})
	return ended, err
}

// deletionMeans removes the VM.
func (vs *VMs) deletionMeans(tx *state.Tx, j *api.Job, d *deletion) error {
	j.Status.Message = ""
	v, err := objects.Get[api.VM](tx, d.VM)
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
		vs.Event(tx, "vm.given-up", "vms/"+v.Name, v.Owner, fmt.Sprintf("%s is not reached, and its loan has ended: the VM's volume may still be there", d.site))
	}
	return vs.removeVM(tx, v)
}

// forgetVM removes a VM that is gone, by the word of who had it, and ends the job that waits for that.
func (vs *VMs) forgetVM(tx *state.Tx, v *api.VM) error {
	if d := deletionOf(tx, v.UID); d != nil {
		d = state.Clone(d)
		d.Step = cloud.DeleteGone
		if err := vs.deletions.Finish(tx, d); err != nil {
			return err
		}
	}
	return vs.removeVM(tx, v)
}

// removeVM removes a VM's object and what hangs on it.
func (vs *VMs) removeVM(tx *state.Tx, v *api.VM) error {
	vs.Event(tx, "vm.deleted", "vms/"+v.Name, v.Owner, "it is gone")
	for a := range objects.By[api.Address](tx, "vm", v.Name) {
		a = state.Clone(a)
		a.Spec.VM, a.Status.Target = "", ""
		if err := objects.Put(tx, a); err != nil {
			return err
		}
	}
	vs.sizes.Forget(v.UID)
	if err := vs.freeVolumes(tx, v); err != nil {
		return err
	}
	return objects.Remove(tx, objects.Key(api.KindVM, v.Name))
}
