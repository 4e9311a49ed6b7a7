package cloud

import "widecloud/internal/saga"

// The steps of a bulk job.
const (
	BulkActing saga.Step = "acting" // its VMs have their turns
	BulkDone   saga.Step = "acted"  // every VM is as was asked for
	BulkEnded  saga.Step = "ended"  // it was cancelled, or some VMs are not as was asked for; what was done stays done
)

// Bulk is the plan of a job that does one thing to many VMs. Nothing of it is undone: a cancel keeps the VMs that are left as they are.
var Bulk = saga.Plan{Name: "bulk", Points: []saga.Point{
	{Step: BulkActing, Stage: saga.Open, Doing: "act on the VMs", Next: []saga.Step{BulkDone, BulkEnded}, Back: BulkEnded},
	{Step: BulkDone, Stage: saga.Done},
	{Step: BulkEnded, Stage: saga.Failed},
}}
