package bulk

import (
	"context"
	"fmt"
	"slices"

	"widecloud/api"
	"widecloud/internal/access"
	"widecloud/internal/cloud"
	"widecloud/internal/control/objects"
	"widecloud/internal/state"
)

// most is how many bulk jobs of one user may be under way.
const most = 8

// Ask begins a bulk job.
func (b *Bulk) Ask(ctx context.Context, p access.Actor, r api.BulkRequest) (*api.Job, error) {
	if err := b.judge(r); err != nil {
		return nil, err
	}
	if err := b.Room(ctx); err != nil {
		return nil, err
	}
	job := &api.Job{Meta: b.NewMeta("bulk-"+b.ShortID(), "")}
	err := b.Write(ctx, func(tx *state.Tx) error {
		names, err := selected(tx, p, r)
		if err != nil {
			return err
		}
		if err := b.few(tx, p.User); err != nil {
			return err
		}
		job.Owner = ownerOf(tx, p, names)
		job.Spec = api.JobSpec{Object: string(api.KindVM), Target: r.Target, Action: r.Action}
		job.Status = api.JobStatus{Bulk: &api.BulkCounts{Total: len(names), Waiting: len(names)}}
		for _, name := range names {
			if err := objects.PutRecord(tx, keyOf(job.Name, name), turn{BulkResult: api.BulkResult{VM: name, State: api.BulkWaiting}}); err != nil {
				return err
			}
		}
		if err := b.of.Begin(tx, job, &record{User: p.User, Action: r.Action, Target: r.Target, Hard: r.Hard}); err != nil {
			return err
		}
		b.Acted(tx, string(r.Action)+"-many", job, fmt.Sprintf("%d VMs", len(names)))
		return b.Answer(ctx, tx, job)
	})
	if err != nil {
		return nil, err
	}
	b.Poke()
	return job, nil
}

// judge finds everything that is wrong about a request by itself.
func (b *Bulk) judge(r api.BulkRequest) error {
	var faults []*api.Error
	bad := func(field, format string, args ...any) { faults = append(faults, api.Invalidf(field, format, args...)) }
	if !slices.Contains(api.BulkActions(), r.Action) {
		bad("action", "%.40q is not an action; possible: %v", string(r.Action), api.BulkActions())
	}
	switch {
	case r.Action == api.BulkMove && r.Target == "":
		bad("target", "must be given: SITE or SITE/HOST")
	case r.Action == api.BulkMove && cloud.CheckPlace("target", r.Target, nil) != nil:
		bad("target", "%.80q is not SITE or SITE/HOST", r.Target)
	case r.Action != api.BulkMove && r.Target != "":
		bad("target", "is for moves only")
	}
	if r.Hard && r.Action != api.BulkStop && r.Action != api.BulkReboot {
		bad("hard", "is for stop and reboot only")
	}
	switch {
	case len(r.VMs) > 0 && r.Selector != nil:
		bad("selector", "give vms or a selector, not both")
	case len(r.VMs) > api.MaxBulk:
		bad("vms", "are %d; one job takes at most %d", len(r.VMs), api.MaxBulk)
	}
	for i, name := range r.VMs[:min(len(r.VMs), api.MaxBulk)] {
		if err := cloud.ValidateName(fmt.Sprintf("vms[%d]", i), name); err != nil {
			bad(fmt.Sprintf("vms[%d]", i), "%.60q is not a VM's name", name)
		}
	}
	if len(faults) > 0 {
		return api.Faults(faults...)
	}
	return nil
}

// selected are the names of the VMs that a request is about, each once, in their order.
func selected(tx *state.Tx, p access.Actor, r api.BulkRequest) ([]string, error) {
	if r.Selector == nil {
		names := slices.Compact(slices.Sorted(slices.Values(r.VMs)))
		if len(names) == 0 {
			return nil, api.Invalidf("vms", "must be given, or a selector")
		}
		return names, nil
	}
	s, err := r.Selector.Selector()
	if err != nil {
		return nil, err
	}
	if s.IsZero() {
		return nil, api.Invalidf("selector", "would take every VM; name what is wanted")
	}
	var names []string
	for v := range objects.Each[api.VM](tx) {
		if access.Change(p, v) == nil && s.Matches(v) {
			names = append(names, v.Name)
		}
	}
	switch {
	case len(names) == 0:
		return nil, api.Invalidf("selector", "takes no VM that you may change")
	case len(names) > api.MaxBulk:
		return nil, api.Invalidf("selector", "takes %d VMs; one job takes at most %d", len(names), api.MaxBulk)
	}
	return names, nil
}

// few holds a user to how many bulk jobs it may have under way.
func (b *Bulk) few(tx *state.Tx, user string) error {
	n := 0
	for _, o := range tx.Objects(prefixRecords) {
		if o.(*record).User == user {
			n++
		}
	}
	if n >= most {
		return api.Errorf(api.CodeTooMany, "%d bulk jobs of user %s are under way; wait for one of them or cancel it", n, user)
	}
	return nil
}

// ownerOf is whose job it is: that of its VMs, if they are all of one organisation. A job of several is an admin's, and only admins see it.
func ownerOf(tx *state.Tx, p access.Actor, names []string) string {
	if !p.Admin {
		return p.Owner
	}
	owner := ""
	for i, name := range names {
		v, err := objects.Find[api.VM](tx, name)
		if err != nil || i > 0 && v.Owner != owner {
			return ""
		}
		owner = v.Owner
	}
	return owner
}

// Results are what became of the VMs of a bulk job, in the order of their names.
func (b *Bulk) Results(ctx context.Context, p access.Actor, job string) (out []api.BulkResult, err error) {
	err = b.Read(ctx, func(tx *state.Tx) error {
		o, err := b.Visible(tx, p, api.KindJob, job)
		if err != nil {
			return err
		}
		if j := o.(*api.Job); j.Status.Bulk == nil {
			return api.Errorf(api.CodeConflict, "job %s is not a bulk job: it has no results but its own", job)
		}
		for _, o := range tx.Objects(keyOf(job, "")) {
			out = append(out, o.(*turn).BulkResult)
		}
		return nil
	})
	return out, err
}
