package cloud

import (
	"slices"

	"widecloud/api"
)

// phaseNext says which phases may follow which. The empty phase is that of a VM that was just created.
var phaseNext = map[api.VMPhase][]api.VMPhase{
	"":                 {api.PhasePending, api.PhaseStopped},
	api.PhasePending:   {api.PhaseStarting, api.PhaseStopped, api.PhaseFailed},
	api.PhaseStarting:  {api.PhaseRunning, api.PhasePending, api.PhaseStopping, api.PhaseStopped, api.PhaseUnknown, api.PhaseFailed},
	api.PhaseRunning:   {api.PhaseMigrating, api.PhaseStopping, api.PhaseStopped, api.PhaseStarting, api.PhaseUnknown, api.PhaseFailed},
	api.PhaseMigrating: {api.PhaseRunning, api.PhaseStopped, api.PhaseUnknown, api.PhaseFailed}, // to stop it, cancel first
	api.PhaseStopping:  {api.PhaseStopped, api.PhaseUnknown, api.PhaseFailed},
	api.PhaseStopped:   {api.PhaseStarting, api.PhasePending, api.PhaseUnknown, api.PhaseFailed},
	api.PhaseUnknown:   {api.PhaseRunning, api.PhaseMigrating, api.PhaseStopping, api.PhaseStopped, api.PhaseStarting, api.PhaseFailed},
	api.PhaseFailed:    {api.PhasePending, api.PhaseStarting, api.PhaseRunning, api.PhaseStopping, api.PhaseStopped, api.PhaseUnknown},
}

// NextPhases are the phases that may follow one.
func NextPhases(from api.VMPhase) []api.VMPhase { return slices.Clone(phaseNext[from]) }

// CheckPhase tells whether a VM may go from a phase to another (or stay): nil, or api.CodeConflict.
func CheckPhase(from, to api.VMPhase) error {
	if _, known := phaseNext[to]; !known || to == "" {
		return api.Invalidf("status.phase", "%q is no phase", string(to))
	}
	if from == to || slices.Contains(phaseNext[from], to) {
		return nil
	}
	return api.Errorf(api.CodeConflict, "a VM that is %s does not become %s", from, to)
}
