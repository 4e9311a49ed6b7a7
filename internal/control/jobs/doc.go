// Package jobs runs a site's long work. A kind of job is a plan and its work (package saga), a record of its own in the store, and what a
// step means for objects. The package of a noun makes a kind of an Of, and gives it to Add.
//
// Invariants:
//   - a step, and what it means for objects, are written in one transaction;
//   - one job at a time holds an object, which names it (status.job);
//   - work that has begun may use the store's reserve (store.Urgent);
//   - a wish to cancel that was accepted is kept: the deciding transaction looks at it.
package jobs

import (
	"widecloud/api"
	"widecloud/internal/control/objects"
	"widecloud/internal/state"
)

// Jobs are a site's jobs of all kinds.
type Jobs struct {
	*objects.Site
	kinds []Kind
}

// New begins the life of a site's jobs.
func New(site *objects.Site) *Jobs {
	objects.Register(site, jobLife())
	return &Jobs{Site: site}
}

// Add lets a kind of job run. It is for the time before Run.
func (js *Jobs) Add(k Kind) { js.kinds = append(js.kinds, k) }

// Tables are those of jobs.
func Tables() state.Schema {
	return state.Schema{objects.NounTable(
		objects.Index("owner", func(j *api.Job) string { return j.Owner }),
		objects.Index("parent", func(j *api.Job) string { return j.Spec.Parent }),
	)}
}
