package vms

import (
	"context"
	"errors"
	"time"

	"widecloud/api"
	"widecloud/internal/control/objects"
	"widecloud/internal/state"
	"widecloud/internal/store"
)

// Sweep tries to clean up what ended jobs have left.
func (vs *VMs) Sweep(ctx context.Context) error {
	var all map[string]objects.Debris
	if err := vs.Read(ctx, func(tx *state.Tx) (err error) {
		all, err = objects.ListRecords[objects.Debris](tx, objects.PrefixDebris)
		return err
	}); err != nil {
		return err
	}
	for job, d := range all {
		vs.Once("sweep/"+job, func(ctx context.Context) { vs.sweepOne(ctx, d) })
	}
	return nil
}

// sweepFor cleans up what earlier jobs of one VM have left, now, so that a new migration finds the ground free.
func (vs *VMs) sweepFor(ctx context.Context, uid string) {
	var all map[string]objects.Debris
	if err := vs.Read(ctx, func(tx *state.Tx) (err error) {
		all, err = objects.ListRecords[objects.Debris](tx, objects.PrefixDebris)
		return err
	}); err != nil {
		return
	}
	for _, d := range all {
		if d.VM == uid {
			vs.sweepOne(ctx, d)
		}
	}
}

func (vs *VMs) sweepOne(ctx context.Context, d objects.Debris) {
	ctx, cancel := context.WithTimeout(store.Urgent(ctx), 30*time.Second)
	defer cancel()
	var err error
	if d.Target != nil {
		err = vs.endOf(d.Target.Site).Finish(ctx, d.Call)
	} else {
		err = vs.endOf(d.Source.Site).Confirm(ctx, d.Call)
	}
	switch {
	case err == nil, errors.Is(err, &api.Error{Code: api.CodeNotFound}), errors.Is(err, &api.Error{Code: api.CodeStale}):
		// Stale: a newer order was carried out there since; nothing of this job is left.
	default:
		vs.Log.Debug("sweep", "job", d.Job, "err", err)
		return
	}
	if err := vs.Write(ctx, func(tx *state.Tx) error { return objects.Remove(tx, objects.PrefixDebris+d.Job) }); err != nil {
		vs.Log.Error("forget what was swept", "job", d.Job, "err", err)
	}
}
