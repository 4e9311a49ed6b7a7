package control_test

import (
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"testing"

	"github.com/google/go-cmp/cmp"

	"widecloud/api"
	"widecloud/internal/store"
)

// source makes a file of a raw image on the controllers' machine, and an owner's image of it.
func (s *site) source(name, owner string) {
	s.w.t.Helper()
	path := filepath.Join(s.w.dir, name)
	s.w.must(os.WriteFile(path, s.w.image, 0o600))
	s.create(&api.Image{Meta: api.Meta{Name: name, Owner: owner}, Spec: api.ImageSpec{Source: path, Format: "raw"}})
}

func (s *site) image(name string) api.ImageStatus {
	s.w.t.Helper()
	o, err := s.ctl.Get(s.w.t.Context(), s.admin, api.KindImage, name)
	s.w.must(err)
	return o.(*api.Image).Status
}

// TestImport: an image comes in from its source by a job, which says how far it is and how it has ended.
func TestImport(t *testing.T) {
	for name, c := range map[string]struct {
		during func(w *world, tokyo *site) // when the job is about to read
		state  api.JobState
		phase  string
		says   string
	}{
		"done":                  {func(*world, *site) {}, api.JobDone, "ready", ""},
		"cancelled":             {func(w *world, s *site) { w.cancelImport(s) }, api.JobCancelled, "failed", "it was cancelled"},
		"the source is away":    {func(w *world, _ *site) { w.must(os.Remove(filepath.Join(w.dir, "disk"))) }, api.JobFailed, "failed", ""},
		"controller was killed": {func(_ *world, s *site) { s.die() }, api.JobDone, "ready", ""},
	} {
		t.Run(name, func(t *testing.T) {
			federation(t, options{sites: []string{"tokyo"}}, func(t *testing.T, w *world) {
				tokyo := w.sites["tokyo"]
				tokyo.ready("2001:db8:a::/64")
				held := make(chan string, 1)
				w.at("tokyo", "import.asked", func() {
					job := tokyo.image("disk").Job
					c.during(w, tokyo)
					held <- job
				})
				tokyo.source("disk", "lab")
				job := <-held
				w.restartDead()
				w.until("the import has ended", func() bool { return tokyo.job(job).Status.State.Ended() })
				j, i := tokyo.job(job), tokyo.image("disk")
				if j.Spec.Type != "import" || j.Owner != "lab" || j.Status.State != c.state || i.Phase != c.phase || i.Job != "" || c.says != "" && i.Message != c.says {
					t.Errorf("job %+v, image %+v", j, i)
				}
				if c.state == api.JobDone && (j.Status.Progress.DiskDone != int64(len(w.image)) || i.Bytes != int64(len(w.image))) {
					t.Errorf("read %d of %d bytes, the image has %d", j.Status.Progress.DiskDone, len(w.image), i.Bytes)
				}
				if all := tokyo.jobsOn("images/disk"); len(all) != 1 || len(keysOf(tokyo.proc, "imports/")) != 0 {
					t.Errorf("%d jobs, records %v", len(all), keysOf(tokyo.proc, "imports/"))
				}
			})
		})
	}
}

// cancelImport asks for the end of the only import.
func (w *world) cancelImport(s *site) {
	w.t.Helper()
	_, err := s.ctl.Cancel(w.t.Context(), s.admin, s.jobsOn("images/disk")[0].Name)
	w.must(err)
}

// TestImportOfTheReleaseBefore: an image that the release before was bringing in when it was stopped, without a job, comes in.
func TestImportOfTheReleaseBefore(t *testing.T) {
	federation(t, options{sites: []string{"tokyo"}}, func(t *testing.T, w *world) {
		tokyo := w.sites["tokyo"]
		tokyo.ready("2001:db8:a::/64")
		died := make(chan struct{})
		w.at("tokyo", "import.asked", func() { tokyo.die(); close(died) })
		tokyo.source("disk", "lab")
		<-died
		tokyo.kill()
		tokyo.offline(func(tx store.Tx) error {
			all, err := tx.List("")
			var had []string
			for _, kv := range all {
				switch dir := filepath.Dir(kv.Key); {
				case dir == "imports", dir == "objects/jobs":
					err = errors.Join(err, tx.Delete(kv.Key))
					had = append(had, dir)
				case kv.Key == "objects/images/disk":
					before := regexp.MustCompile(`,"job":"[^"]*"`).ReplaceAll(kv.Value, nil)
					err = errors.Join(err, tx.Put(kv.Key, before))
				}
			}
			if d := cmp.Diff([]string{"imports", "objects/jobs"}, had); d != "" {
				t.Errorf("the job had (-want +got):\n%s", d)
			}
			return err
		})
		tokyo.start()
		w.until("the image is ready", func() bool { return tokyo.image("disk").Phase == "ready" })
	})
}

// TestDeletedImageEndsItsJob: the deletion of an image ends the job that brings it in.
func TestDeletedImageEndsItsJob(t *testing.T) {
	federation(t, options{sites: []string{"tokyo"}}, func(t *testing.T, w *world) {
		tokyo := w.sites["tokyo"]
		tokyo.ready("2001:db8:a::/64")
		held := make(chan string, 1)
		w.at("tokyo", "import.asked", func() {
			job := tokyo.image("disk").Job
			_, err := tokyo.ctl.Delete(t.Context(), tokyo.admin, api.KindImage, "disk")
			w.must(err)
			_, err = tokyo.ctl.Delete(t.Context(), tokyo.admin, api.KindOwner, "uni")
			wantField(t, "an owner whose job has not ended", err, api.CodeConflict, "owner")
			held <- job
		})
		tokyo.create(&api.Owner{Meta: api.Meta{Name: "uni"}})
		tokyo.source("disk", "uni")
		tokyo.ended(<-held)
		if st := tokyo.jobsOn("images/disk")[0].Status; st.State != api.JobCancelled {
			t.Errorf("the job is %s: %s", st.State, st.Message)
		}
		if _, err := tokyo.ctl.Get(t.Context(), tokyo.admin, api.KindImage, "disk"); !errors.Is(err, &api.Error{Code: api.CodeNotFound}) {
			t.Errorf("the image: %v", err)
		}
	})
}
