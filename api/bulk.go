package api

import (
	"net/url"
	"time"
)

// MaxBulk is how many VMs one bulk job takes at most.
const MaxBulk = 1000

// BulkAction is what a bulk job does to each of its VMs.
type BulkAction string

// The actions of bulk jobs.
const (
	BulkStart  BulkAction = "start"
	BulkStop   BulkAction = "stop"
	BulkReboot BulkAction = "reboot"
	BulkDelete BulkAction = "delete"
	BulkMove   BulkAction = "move"
)

// BulkActions are all actions of bulk jobs.
func BulkActions() []BulkAction {
	return []BulkAction{BulkStart, BulkStop, BulkReboot, BulkDelete, BulkMove}
}

// BulkRequest is the body of POST /v1/bulk: one action on many VMs, a few at a time. Its answer is a Job. Whether its user may act on a
// VM is judged when it is that VM's turn.
type BulkRequest struct {
	Action   BulkAction    `json:"action"`             // start, stop, reboot, delete or move
	VMs      []string      `json:"vms,omitempty"`      // names; at most MaxBulk
	Selector *BulkSelector `json:"selector,omitempty"` // instead of vms: those that it takes now; at most MaxBulk
	Target   string        `json:"target,omitempty"`   // move: SITE or SITE/HOST
	Hard     bool          `json:"hard,omitempty"`     // stop, reboot: at once, without asking the guest
}

// BulkSelector says which VMs are wanted, as the parameters of a list do: all that it names must hold.
type BulkSelector struct {
	Owner []string `json:"owner,omitempty"`
	Site  []string `json:"site,omitempty"`
	Host  []string `json:"host,omitempty"`
	State []string `json:"state,omitempty"`
	Label []string `json:"label,omitempty"` // KEY=VALUE, KEY!=VALUE, KEY, !KEY
	Name  string   `json:"name,omitempty"`  // what the name begins with
}

// Selector reads it. The error is CodeInvalid and names the field.
func (s BulkSelector) Selector() (Selector, error) {
	out, err := SelectorOf(url.Values{"owner": s.Owner, "site": s.Site, "host": s.Host, "state": s.State, "label": s.Label, "name": {s.Name}})
	if err == nil {
		err = out.Check(KindVM)
	}
	return out, err
}

// BulkSelectorOf is a Selector as a BulkRequest has it.
func BulkSelectorOf(s Selector) *BulkSelector {
	out := &BulkSelector{Owner: s.Owners, Site: s.Sites, Host: s.Hosts, State: s.States, Name: s.Name}
	for _, t := range s.Labels {
		out.Label = append(out.Label, t.String())
	}
	return out
}

// BulkState is how far a VM of a bulk job is.
type BulkState string

// The states of a VM of a bulk job.
const (
	BulkWaiting   BulkState = "waiting"   // nothing was done yet
	BulkRunning   BulkState = "running"   // the action was accepted; its effect is not seen yet
	BulkDone      BulkState = "done"      // its effect was seen
	BulkRefused   BulkState = "refused"   // nothing was done; the reasons say why
	BulkFailed    BulkState = "failed"    // it was accepted, and did not come to its end
	BulkCancelled BulkState = "cancelled" // the job was cancelled before its turn: nothing was done
)

// BulkResult is what became of a VM of a bulk job.
type BulkResult struct {
	VM      string    `json:"vm"`
	State   BulkState `json:"state"`
	Job     string    `json:"job,omitempty"` // move: the migration
	Begun   time.Time `json:"begun,omitzero"`
	Ended   time.Time `json:"ended,omitzero"`
	Message string    `json:"message,omitempty"`
	Reasons []Reason  `json:"reasons,omitempty"`
}

// BulkResults is the answer of GET /v1/jobs/{name}/results: the VMs in the order of their names.
type BulkResults struct {
	Items []BulkResult `json:"items"`
}

// BulkCounts is how many VMs of a bulk job are in each state; those that were refused are among Failed.
type BulkCounts struct {
	Total     int `json:"total"`
	Waiting   int `json:"waiting"`
	Running   int `json:"running"`
	Done      int `json:"done"`
	Failed    int `json:"failed"`
	Cancelled int `json:"cancelled"`
}

// Of is the count that a state belongs to.
func (c *BulkCounts) Of(s BulkState) *int {
	switch s {
	case BulkWaiting:
		return &c.Waiting
	case BulkRunning:
		return &c.Running
	case BulkDone:
		return &c.Done
	case BulkCancelled:
		return &c.Cancelled
	}
	return &c.Failed
}
