// Package bulk does one thing to many VMs: a job that starts, stops, reboots, deletes or moves them, a few at a time, and keeps what became
// of each.
//
// Invariants:
//   - that a VM's turn has come, and what is done to it, are written in one transaction: after a restart nothing is done twice;
//   - each VM is judged by the rights that the job's user has when its turn comes;
//   - a cancel keeps off the VMs whose turn has not come; what was begun goes on;
//   - a VM is done when its effect was seen, not when it was asked for.
package bulk

import (
	"widecloud/internal/control/accounts"
	"widecloud/internal/control/jobs"
	"widecloud/internal/control/objects"
	"widecloud/internal/control/vms"
	"widecloud/internal/state"
)

// Bulk is the life of a site's bulk jobs.
type Bulk struct {
	*objects.Site
	vms      *vms.VMs
	accounts *accounts.Accounts
	of       *jobs.Of[record]
}

// New begins the life of a site's bulk jobs.
func New(site *objects.Site, js *jobs.Jobs, vs *vms.VMs, ac *accounts.Accounts) *Bulk {
	b := &Bulk{Site: site, vms: vs, accounts: ac}
	b.of = newKind(b, js)
	js.Add(b.of)
	return b
}

// Tables are those of bulk jobs and of their VMs.
func Tables() state.Schema {
	return state.Schema{objects.RecordTable[record](prefixRecords), objects.RecordTable[turn](objects.PrefixResults)}
}
