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
	Kind   string    // its plan's name
	Parent string    // the job that started it
	Ended  time.Time // zero: it has not ended
}

// Forget gives the jobs that are to be forgotten so that no more than keep ended ones of each kind are left, the oldest first.
// Jobs that have not ended are kept, and a job is not forgotten before its parent.
func Forget(jobs []Past, keep int) (old []string) {
	ended := slices.DeleteFunc(slices.Clone(jobs), func(j Past) bool { return j.Ended.IsZero() })
	slices.SortFunc(ended, func(a, b Past) int { return cmp.Or(a.Ended.Compare(b.Ended), cmp.Compare(a.Job, b.Job)) })
	left, stays := map[string]int{}, map[string]bool{}
	for _, j := range jobs {
		stays[j.Job] = true
	}
	for _, j := range ended {
		left[j.Kind]++
	}
	for _, j := range ended {
		if left[j.Kind] > keep {
			left[j.Kind]--
			stays[j.Job] = false
		}
	}
	for _, j := range ended {
		if !stays[j.Job] && !stays[j.Parent] {
			old = append(old, j.Job)
		}
	}
	return old
}
