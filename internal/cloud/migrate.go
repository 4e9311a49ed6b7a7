package cloud

import "widecloud/internal/saga"

// The steps of a migration, in order. Up to StepCopied the source's copy is the one that runs; StepCommitted is the
// decision (the epoch goes up), after which only the target's copy may run.
const (
	StepNone      saga.Step = "none"      // asked for
	StepChecked   saga.Step = "checked"   // every reason against it was looked for; there is none
	StepReserved  saga.Step = "reserved"  // the target keeps room
	StepPrepared  saga.Step = "prepared"  // volume, network and an incoming domain are there, paused
	StepCopying   saga.Step = "copying"   // the source was told to copy
	StepCopied    saga.Step = "copied"    // both ends hold everything, both are paused
	StepCommitted saga.Step = "committed" // the VM is the target's, durably
	StepSwitched  saga.Step = "switched"  // it runs at the target
	StepConfirmed saga.Step = "confirmed" // the source has destroyed its copy
	StepDone      saga.Step = "done"      // nothing is left over

	StepUndo   saga.Step = "undo"   // decided to go back; everything is being put back as it was
	StepFailed saga.Step = "failed" // everything is as it was
)

// Migrate is the plan of a migration.
var Migrate = saga.Plan{Name: "migrate", Points: []saga.Point{
	// Nothing was done yet: nothing to undo.
	{Step: StepNone, Stage: saga.Open, Doing: "check", Next: []saga.Step{StepChecked, StepFailed}, Back: StepFailed},
	{Step: StepChecked, Stage: saga.Open, Doing: "reserve", Next: []saga.Step{StepReserved, StepUndo}, Back: StepUndo},
	{Step: StepReserved, Stage: saga.Open, Doing: "prepare", Next: []saga.Step{StepPrepared, StepUndo}, Back: StepUndo},
	{Step: StepPrepared, Stage: saga.Open, Doing: "copy", Next: []saga.Step{StepCopying, StepUndo}, Back: StepUndo},
	{Step: StepCopying, Stage: saga.Open, Doing: "copy", Next: []saga.Step{StepCopied, StepUndo}, Back: StepUndo,
		Lost: "the controller was restarted while the VM was being copied"}, // the streams died with it
	{Step: StepCopied, Stage: saga.Open, Doing: "commit", Next: []saga.Step{StepCommitted, StepUndo}, Back: StepUndo},
	// Back only when the target has said for certain that it holds no copy, and with an epoch above the committed one, so
	// that a late order to the target is refused there.
	{Step: StepCommitted, Stage: saga.Decided, Doing: "switch", Next: []saga.Step{StepSwitched, StepUndo}},
	// Done directly: what the source still holds is journalled as left to clean.
	{Step: StepSwitched, Stage: saga.Decided, Doing: "confirm", Next: []saga.Step{StepConfirmed, StepDone}},
	{Step: StepConfirmed, Stage: saga.Decided, Doing: "clean up", Next: []saga.Step{StepDone}},
	{Step: StepDone, Stage: saga.Done},
	{Step: StepUndo, Stage: saga.Undoing, Next: []saga.Step{StepFailed}},
	{Step: StepFailed, Stage: saga.Failed},
}}
