package saga

import (
	"cmp"
	"slices"
	"time"

	"widecloud/api"
)

// Held refuses work on an object that a job holds: api.CodeConflict that names the job; nil when holder is empty. Object is
// as a person says it: "VM web1".
func Held(object, holder string) error {
	if holder == "" {
		return nil
	}
	return api.Errorf(api.CodeConflict, "job %s is at work on %s; wait for it or cancel it: wcc job cancel %s", holder, object, holder)
}

// Hold gives an object to a job, in the transaction that makes the job. Holder is where the object says which job holds it.
// The object of another job is refused as Held says.
func Hold(object string, holder *string, job string) error {
	if *holder != job {
		if err := Held(object, *holder); err != nil {
			return err
		}
	}
	*holder = job
	return nil
}

// Release takes an object from a job, if that is the one that holds it.
func Release(holder *string, job string) {
	if *holder == job {
		*holder = ""
	}
}

// Child is a job that another one started.
type Child struct {
	Job   string
	Ended bool
}

// Past is a job as Forget judges it.
type Past struct {
	Job    string
	Parent string    // the job that started it
	Ended  time.Time // zero: it has not ended
}

// Forget gives the jobs that are to be forgotten so that no more than keep ended ones are left, the oldest first. Jobs that
// have not ended are kept, and a job is not forgotten before its parent.
func Forget(jobs []Past, keep int) (old []string) {
	ended := slices.DeleteFunc(slices.Clone(jobs), func(j Past) bool { return j.Ended.IsZero() })
	slices.SortFunc(ended, func(a, b Past) int { return cmp.Or(a.Ended.Compare(b.Ended), cmp.Compare(a.Job, b.Job)) })
	last := map[string]bool{} // kept
	for _, j := range jobs {
		last[j.Job] = j.Ended.IsZero()
	}
	n := max(len(ended)-keep, 0)
	for _, j := range ended[n:] {
		last[j.Job] = true
	}
	for _, j := range ended[:n] {
		if !last[j.Parent] {
			old = append(old, j.Job)
		}
	}
	return old
}
