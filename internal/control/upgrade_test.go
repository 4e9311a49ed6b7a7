package control_test

import (
	"bytes"
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"widecloud/api"
	"widecloud/internal/store"
	"widecloud/internal/store/bolt"
)

// oldMigration is the record of a migration as the release before the engine of jobs (104fb71) writes and reads it.
type oldMigration struct {
	Job     string          `json:"job"`
	VM      string          `json:"vm"`
	UID     string          `json:"uid"`
	Step    string          `json:"step"`
	Source  oldLocation     `json:"source"`
	Target  oldLocation     `json:"target"`
	Epoch   uint64          `json:"epoch"`
	Call    json.RawMessage `json:"call"`
	Offer   []byte          `json:"offer,omitempty"`
	Answer  []byte          `json:"answer,omitempty"`
	Result  []byte          `json:"result,omitempty"`
	Fenced  bool            `json:"fenced,omitempty"`
	Failure *api.Error      `json:"failure,omitempty"`
}

type oldLocation struct {
	Site string `json:"site"`
	Host string `json:"host"`
	VTEP string `json:"vtep,omitempty"`
	Loan string `json:"loan,omitempty"`
}

// TestMigrationOfTheReleaseBefore: a controller dies at each step of a migration, and the next one finds the record as the
// release before wrote it. The migration ends as its step says. The release before would read what
// this one writes, too.
func TestMigrationOfTheReleaseBefore(t *testing.T) {
	federation(t, options{sites: []string{"tokyo", "osaka"}, hosts: 2, copyTime: 2 * time.Millisecond}, func(t *testing.T, w *world) {
		tokyo := w.sites["tokyo"]
		w.lend("osaka", "tokyo", room())
		tokyo.ready("2001:db8:a::/64")
		tokyo.newVM("web1", "tokyo/h1")
		tokyo.runs("web1")
		for _, point := range points["coordinator"] {
			died := make(chan struct{})
			w.at("tokyo", point, func() { tokyo.die(); close(died) })
			j := tokyo.migrate("web1", "osaka/h1")
			<-died
			tokyo.kill()
			_, step, _ := strings.Cut(point, ".")
			tokyo.rewriteAsBefore(j.Name, step)
			tokyo.start()
			w.connected()
			tokyo.ended(j.Name)
			tokyo.runs("web1")
			st, v := tokyo.job(j.Name).Status, tokyo.vm("web1")
			if at := map[bool]string{true: "osaka/h1", false: "tokyo/h1"}[st.State == api.JobDone]; v.Status.Site+"/"+v.Status.Host != at {
				t.Errorf("%s: the job is %s (%s), and the VM is at %s/%s", point, st.State, st.Message, v.Status.Site, v.Status.Host)
			}
			switch step {
			case "copying": // its streams died
				if st.State != api.JobFailed || st.Message != "the controller was restarted while the VM was being copied" {
					t.Errorf("%s: the job is %s: %s", point, st.State, st.Message)
				}
			case "committed", "switched":
				if st.State != api.JobDone {
					t.Errorf("%s: the job is %s: %s", point, st.State, st.Message)
				}
			}
			if st.State == api.JobDone {
				tokyo.moved("web1", "tokyo/h1")
			}
		}
	})
}

// rewriteAsBefore writes the record of a migration anew in the store of a site that does not run, through the types of the
// release before.
func (s *site) rewriteAsBefore(job, step string) {
	s.w.t.Helper()
	s.offline(func(tx store.Tx) error {
		kv, err := tx.Get("migrations/" + job)
		if err != nil {
			return err
		}
		var old oldMigration
		d := json.NewDecoder(bytes.NewReader(kv.Value))
		d.DisallowUnknownFields()
		if err := d.Decode(&old); err != nil {
			return err
		}
		if old.Job != job || old.VM != "web1" || old.UID == "" || old.Step != step || old.Source.Host == "" || old.Epoch == 0 {
			s.w.t.Errorf("at %s the release before would read %+v", step, old)
		}
		value, err := json.Marshal(old)
		if err != nil {
			return err
		}
		return tx.Put(kv.Key, value)
	})
}

// offline changes the store of a site that does not run.
func (s *site) offline(change func(tx store.Tx) error) {
	s.w.t.Helper()
	st, err := bolt.Open(bolt.Options{Path: filepath.Join(s.dir, "store.db"), NoSync: true, History: 2000})
	s.w.must(err)
	defer st.Close()
	_, err = st.Update(s.w.t.Context(), change)
	s.w.must(err)
}
