package control_test

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"widecloud/api"
	"widecloud/internal/serve"
	"widecloud/internal/store"
)

// jobsOn are the jobs that work, or have worked, on an object.
func (s *site) jobsOn(object string) (out []*api.Job) {
	s.w.t.Helper()
	jobs, _, err := s.ctl.List(s.w.t.Context(), s.admin, api.KindJob, serve.Query{})
	s.w.must(err)
	for _, o := range jobs {
		if j := o.(*api.Job); j.Spec.Object == object {
			out = append(out, j)
		}
	}
	return out
}

// TestDeletionIsAJob: the deletion of a VM is a job that nobody can cancel, and that goes on after a restart until its lender is
// reached: also when the release before had accepted it, without a job.
func TestDeletionIsAJob(t *testing.T) {
	for name, before := range map[string]bool{"accepted here": false, "accepted by the release before": true} {
		t.Run(name, func(t *testing.T) {
			federation(t, options{sites: []string{"tokyo", "osaka"}}, func(t *testing.T, w *world) {
				tokyo := w.sites["tokyo"]
				w.lend("osaka", "tokyo", room())
				tokyo.ready("2001:db8:a::/64")
				tokyo.newVM("web1", "osaka")
				tokyo.runs("web1")
				w.net.Cut("tokyo", "osaka")
				if _, err := tokyo.ctl.Delete(t.Context(), tokyo.admin, api.KindVM, "web1"); err != nil {
					t.Fatal(err)
				}
				time.Sleep(5 * time.Second)
				tokyo.kill()
				if before {
					tokyo.offline(func(tx store.Tx) error {
						all, err := tx.List("")
						for _, kv := range all {
							if dir := filepath.Dir(kv.Key); dir == "deletions" || dir == "objects/jobs" {
								err = errors.Join(err, tx.Delete(kv.Key))
							}
						}
						return err
					})
				}
				tokyo.start()
				w.until("the job is at work", func() bool { return len(tokyo.jobsOn("vms/web1")) > 0 })
				j := tokyo.jobsOn("vms/web1")[0]
				if !tokyo.vm("web1").Deleting || j.Spec.Type != "delete" || j.Status.State != api.JobRunning || j.Owner != tokyo.vm("web1").Owner {
					t.Errorf("VM %+v, job %+v", tokyo.vm("web1"), j)
				}
				_, err := tokyo.ctl.Cancel(t.Context(), tokyo.admin, j.Name)
				wantError(t, "the cancel of a deletion", err, api.CodeConflict)
				w.until("the job says what it waits for", func() bool {
					return strings.Contains(tokyo.jobsOn("vms/web1")[0].Status.Message, "waits for osaka: ")
				})
				w.net.Heal("tokyo", "osaka")
				tokyo.gone("web1")
				if all := tokyo.jobsOn("vms/web1"); len(all) != 1 || all[0].Status.State != api.JobDone || all[0].Status.Step != "gone" || all[0].Status.Message != "" {
					t.Errorf("jobs %+v", all)
				}
				if left := w.leftovers(); left != "" {
					t.Error(left)
				}
			})
		})
	}
}
