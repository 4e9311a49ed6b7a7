package cloud

import (
	"slices"

	"widecloud/api"
)

// MigrateStep is how far a migration is: what the newest row of its journal says has been reached.
type MigrateStep string

// The steps of a migration, in order. Up to StepCopied the source's copy is the one that runs; StepCommitted is the
// decision (the epoch goes up), after which only the target's copy may run.
const (
	StepNone      MigrateStep = "none"      // asked for
	StepChecked   MigrateStep = "checked"   // every reason against it was looked for; there is none
	StepReserved  MigrateStep = "reserved"  // the target keeps room
	StepPrepared  MigrateStep = "prepared"  // volume, network and an incoming domain are there, paused
	StepCopying   MigrateStep = "copying"   // the source was told to copy
	StepCopied    MigrateStep = "copied"    // both ends hold everything, both are paused
	StepCommitted MigrateStep = "committed" // the VM is the target's, durably
	StepSwitched  MigrateStep = "switched"  // it runs at the target
	StepConfirmed MigrateStep = "confirmed" // the source has destroyed its copy
	StepDone      MigrateStep = "done"      // nothing is left over

	StepUndo   MigrateStep = "undo"   // decided to go back; everything is being put back as it was
	StepFailed MigrateStep = "failed" // everything is as it was
)

// migrateNext is the legal order.
var migrateNext = map[MigrateStep][]MigrateStep{
	StepNone:     {StepChecked, StepFailed}, // nothing was done: nothing to undo
	StepChecked:  {StepReserved, StepUndo},
	StepReserved: {StepPrepared, StepUndo},
	StepPrepared: {StepCopying, StepUndo},
	StepCopying:  {StepCopied, StepUndo},
	StepCopied:   {StepCommitted, StepUndo},
	// Back only when the target has said for certain that it holds no copy, and with an epoch above the committed one, so
	// that a late order to the target is refused there.
	StepCommitted: {StepSwitched, StepUndo},
	StepSwitched:  {StepConfirmed, StepDone}, // done directly: what the source still holds is journalled as left to clean
	StepConfirmed: {StepDone},
	StepDone:      nil,
	StepUndo:      {StepFailed},
	StepFailed:    nil,
}

// CheckMigrateStep tells whether a migration's journal may go from a step to another: nil, or api.CodeConflict.
func CheckMigrateStep(from, to MigrateStep) error {
	next, known := migrateNext[from]
	if !known {
		return api.Errorf(api.CodeConflict, "migration is at an unknown step %q", string(from))
	}
	if !slices.Contains(next, to) {
		return api.Errorf(api.CodeConflict, "migration cannot go from %s to %q", from, string(to))
	}
	return nil
}

// Doing says what is done from this step on, for messages: "reserve", "copy".
func (s MigrateStep) Doing() string {
	switch s {
	case StepNone:
		return "check"
	case StepChecked:
		return "reserve"
	case StepReserved:
		return "prepare"
	case StepPrepared, StepCopying:
		return "copy"
	case StepCopied:
		return "commit"
	case StepCommitted:
		return "switch"
	case StepSwitched:
		return "confirm"
	case StepConfirmed:
		return "clean up"
	case StepUndo:
		return "undo"
	default:
		return string(s)
	}
}

// Ended tells whether the step is a last one.
func (s MigrateStep) Ended() bool { return s == StepDone || s == StepFailed }

// Committed tells whether the VM is the target's: the decision was made and not taken back.
func (s MigrateStep) Committed() bool {
	return s == StepCommitted || s == StepSwitched || s == StepConfirmed || s == StepDone
}

// Cancellable tells whether a user's wish to end the migration can still be followed: until the decision.
func (s MigrateStep) Cancellable() bool {
	return !s.Committed() && s != StepUndo && s != StepFailed
}
