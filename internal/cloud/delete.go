package cloud

import "widecloud/internal/saga"

// The steps of the deletion of a VM.
const (
	DeleteAccepted saga.Step = "deleting" // the user was told that it will be gone
	DeleteGone     saga.Step = "gone"     // nothing of it is left
)

// Delete is the plan of the deletion of a VM. It is decided when it is accepted: there is no way back.
var Delete = saga.Plan{Name: "delete", Points: []saga.Point{
	{Step: DeleteAccepted, Stage: saga.Decided, Doing: "delete", Next: []saga.Step{DeleteGone}},
	{Step: DeleteGone, Stage: saga.Done},
}}
