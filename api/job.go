package api

import (
	"strings"
	"time"
)

// KindJob is the kind of Job.
const KindJob Kind = "jobs"

var _ = describe[Job](Noun{
	Rank: 150, Help: "Long work: its progress, journal and outcome.",
	Owned: true, See: ItsOwner,
	States: []string{string(JobRunning), string(JobUndoing), string(JobDone), string(JobFailed), string(JobCancelled)},
})

// Job is long work with a journal, progress and an outcome (law 3).
type Job struct {
	Meta
	Spec   JobSpec   `json:"spec"`
	Status JobStatus `json:"status"`
}

// JobSpec says what is to be done.
type JobSpec struct {
	Type   string `json:"type"`             // migrate, create, delete, import, …
	Object string `json:"object"`           // KIND/NAME that it works on
	Target string `json:"target,omitempty"` // migrate: SITE or SITE/HOST
	Parent string `json:"parent,omitempty"` // the job that started it, and that ends after it
	Cancel bool   `json:"cancel,omitempty"` // set to ask for its end; the job undoes what it did
	// By is who started it, as in Event.Actor: a user by its name, agent:HOST, peer:SITE; and site:NAME for what a controller does by
	// itself, with Why. Empty: not known, of a job of an earlier release.
	By     string     `json:"by,omitempty"`
	Why    string     `json:"why,omitempty"`    // for what reason the controller started it by itself
	Action BulkAction `json:"action,omitempty"` // bulk: what is done to each VM
}

// JobState is how a job stands.
type JobState string

// The states of a job.
const (
	JobRunning   JobState = "running"
	JobUndoing   JobState = "undoing" // failed or cancelled; is putting everything back
	JobDone      JobState = "done"
	JobFailed    JobState = "failed"
	JobCancelled JobState = "cancelled"
)

// Ended tells whether the state is final.
func (s JobState) Ended() bool { return s == JobDone || s == JobFailed || s == JobCancelled }

// JobStatus is where a job is.
type JobStatus struct {
	State    JobState     `json:"state"`
	Step     string       `json:"step,omitempty"`
	Progress Progress     `json:"progress"`
	Message  string       `json:"message,omitempty"`
	Reasons  []Reason     `json:"reasons,omitempty"`
	Started  time.Time    `json:"started,omitzero"`
	Ended    time.Time    `json:"ended,omitzero"`
	Journal  []JournalRow `json:"journal,omitempty"`
	Bulk     *BulkCounts  `json:"bulk,omitempty"` // bulk: how many of its VMs are how far; GET /v1/jobs/{name}/results has each
}

// JournalRow is a step that has been reached; what it did is done, what follows is not.
type JournalRow struct {
	Step string    `json:"step"`
	Time time.Time `json:"time"`
	Note string    `json:"note,omitempty"`
}

// Progress is how far a job is. Zero totals mean "not known yet".
type Progress struct {
	MemoryDone  int64   `json:"memory_done_bytes,omitempty"`
	MemoryTotal int64   `json:"memory_total_bytes,omitempty"`
	DiskDone    int64   `json:"disk_done_bytes,omitempty"`
	DiskTotal   int64   `json:"disk_total_bytes,omitempty"`
	WireBytes   int64   `json:"wire_bytes,omitempty"`          // sent between the sites, after the codec
	RawBytes    int64   `json:"raw_bytes,omitempty" since:"2"` // what was given to the codec for that; 0: the agent does not count it
	Rate        float64 `json:"rate_bytes_per_second,omitempty"`
	DirtyRate   float64 `json:"dirty_rate_bytes_per_second,omitempty"`
	SecondsLeft float64 `json:"seconds_left,omitempty"`
	Downtime    float64 `json:"downtime_seconds,omitempty"` // of the switch, as the source measured it
}

// Kind is KindJob.
func (*Job) Kind() Kind { return KindJob }

func (j *Job) facets() facets {
	f := facets{states: []string{string(j.Status.State)}}
	if site, host, _ := strings.Cut(j.Spec.Target, "/"); site != "" {
		f.sites, f.hosts = []string{site}, []string{host}
	}
	return f
}
