package cloud

import "widecloud/internal/saga"

// The steps of an import of an image.
const (
	ImportAsked  saga.Step = "asked"
	ImportDone   saga.Step = "done"   // the image is ready
	ImportFailed saga.Step = "failed" // the image says why
)

// Import is the plan of an import of an image from its source. A controller that was restarted reads it from the beginning.
var Import = saga.Plan{Name: "import", Points: []saga.Point{
	{Step: ImportAsked, Stage: saga.Open, Doing: "import", Next: []saga.Step{ImportDone, ImportFailed}, Back: ImportFailed},
	{Step: ImportDone, Stage: saga.Done},
	{Step: ImportFailed, Stage: saga.Failed},
}}
