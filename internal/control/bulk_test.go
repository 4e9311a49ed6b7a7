package control_test

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"widecloud/api"
	"widecloud/internal/access"
	"widecloud/internal/serve"
)

// bulk asks for a bulk job.
func (s *site) bulk(by access.Actor, r api.BulkRequest) *api.Job {
	s.w.t.Helper()
	j, err := s.ctl.Bulk(s.w.t.Context(), by, r)
	if err != nil {
		s.w.t.Fatalf("%s: bulk %s: %v", s.name, r.Action, err)
	}
	return j
}

// results are what became of a job's VMs, in words, once it has ended.
func (s *site) results(job string) (out []string) {
	s.w.t.Helper()
	s.ended(job)
	all, err := s.ctl.BulkResults(s.w.t.Context(), s.admin, job)
	s.w.must(err)
	counts := api.BulkCounts{Total: len(all)}
	for _, r := range all {
		out = append(out, r.VM+" "+string(r.State))
		*counts.Of(r.State)++
	}
	if d := cmp.Diff(&counts, s.job(job).Status.Bulk); d != "" {
		s.w.t.Errorf("the results and the job's counts (-results +counts):\n%s", d)
	}
	return out
}

func (s *site) expect(job string, state api.JobState, want ...string) {
	s.w.t.Helper()
	if d := cmp.Diff(want, s.results(job)); d != "" {
		s.w.t.Errorf("job %s (-want +got):\n%s", job, d)
	}
	if got := s.job(job).Status; got.State != state {
		s.w.t.Errorf("job %s is %s, not %s: %s", job, got.State, state, got.Message)
	}
}

// TestBulk: many VMs are stopped, started, rebooted, moved and deleted by jobs, with a result for each.
func TestBulk(t *testing.T) {
	federation(t, options{sites: []string{"tokyo", "osaka"}}, func(t *testing.T, w *world) {
		tokyo := w.sites["tokyo"]
		tokyo.ready("2001:db8:a:1::/64")
		w.lend("osaka", "tokyo", api.Resources{CPUs: 4, MemoryMiB: 4096, DiskGiB: 40})
		w.connected()
		names := []string{"web1", "web2", "web3", "web4", "web5", "web6"}
		for _, name := range names {
			v := vmOf(name, "tokyo")
			v.Labels = map[string]string{"app": "web"}
			tokyo.create(v)
		}
		for _, name := range names {
			tokyo.runs(name)
		}
		web := &api.BulkSelector{Label: []string{"app=web"}}
		phase := func(p api.VMPhase) {
			t.Helper()
			for _, name := range names {
				if got := tokyo.vm(name).Status.Phase; got != p {
					t.Errorf("%s is %s, not %s", name, got, p)
				}
			}
		}
		all := func(state string) (out []string) {
			for _, name := range names {
				out = append(out, name+" "+state)
			}
			return out
		}

		j := tokyo.bulk(tokyo.admin, api.BulkRequest{Action: api.BulkStop, Selector: web})
		if j.Spec.By != "admin" || j.Owner != "lab" || j.Status.Bulk.Waiting != 6 {
			t.Errorf("the job: %+v", j)
		}
		tokyo.expect(j.Name, api.JobDone, all("done")...)
		phase(api.PhaseStopped)
		tokyo.expect(tokyo.bulk(tokyo.admin, api.BulkRequest{Action: api.BulkStart, VMs: names}).Name, api.JobDone, all("done")...)
		phase(api.PhaseRunning)
		tokyo.expect(tokyo.bulk(tokyo.admin, api.BulkRequest{Action: api.BulkReboot, VMs: names, Hard: true}).Name, api.JobDone, all("done")...)

		// The loan has room for four of the six; the others say what it is short of.
		j = tokyo.bulk(tokyo.admin, api.BulkRequest{Action: api.BulkMove, VMs: names, Target: "osaka"})
		states := tokyo.results(j.Name)
		moved := 0
		for _, name := range names {
			v := tokyo.vm(name)
			if v.Status.Site == "osaka" {
				moved++
			}
			if i := slices.Index(states, name+" done"); i >= 0 != (v.Status.Site == "osaka") {
				t.Errorf("%s is at %s: %v", name, v.Status.Site, states)
			}
		}
		if moved != 4 || tokyo.job(j.Name).Status.State != api.JobFailed {
			t.Errorf("%d moved: %v", moved, states)
		}
		jobs, _, err := tokyo.ctl.List(t.Context(), tokyo.admin, api.KindJob, serve.Query{})
		w.must(err)
		children := 0
		for _, o := range jobs {
			if c := o.(*api.Job); c.Spec.Parent == j.Name {
				children++
				if c.Spec.By != "admin" {
					t.Errorf("the child was started by %q", c.Spec.By)
				}
			}
		}
		if children != 6 {
			t.Errorf("%d children", children)
		}
		tokyo.expect(tokyo.bulk(tokyo.admin, api.BulkRequest{Action: api.BulkDelete, VMs: append(names, "nobody")}).Name, api.JobFailed, append([]string{"nobody refused"}, all("done")...)...)
	})
}

// TestBulkCancel: a cancel leaves alone the VMs whose turn has not come; what was begun goes on.
func TestBulkCancel(t *testing.T) {
	federation(t, options{sites: []string{"tokyo"}, hosts: 2, copyTime: time.Second}, func(t *testing.T, w *world) {
		tokyo := w.sites["tokyo"]
		tokyo.ready("2001:db8:a:1::/64")
		w.connected()
		var names []string
		for i := range 6 {
			names = append(names, fmt.Sprintf("web%d", i))
			tokyo.newVM(names[i], "tokyo/h1")
		}
		j := tokyo.bulk(tokyo.admin, api.BulkRequest{Action: api.BulkMove, VMs: names, Target: "tokyo/h2"})
		w.until("four are moving", func() bool { return tokyo.job(j.Name).Status.Bulk.Running == 4 })
		_, err := tokyo.ctl.Cancel(t.Context(), tokyo.admin, j.Name)
		w.must(err)
		tokyo.expect(j.Name, api.JobCancelled, "web0 done", "web1 done", "web2 done", "web3 done", "web4 cancelled", "web5 cancelled")
		for i, name := range names {
			if want := map[bool]string{true: "h2", false: "h1"}[i < 4]; tokyo.vm(name).Status.Host != want {
				t.Errorf("%s is on %s, not on %s", name, tokyo.vm(name).Status.Host, want)
			}
		}
	})
}

// TestBulkRestart: a job survives its controller, and does nothing twice.
func TestBulkRestart(t *testing.T) {
	federation(t, options{sites: []string{"tokyo"}, hosts: 2, copyTime: 200 * time.Millisecond}, func(t *testing.T, w *world) {
		tokyo := w.sites["tokyo"]
		tokyo.ready("2001:db8:a:1::/64")
		w.connected()
		var names, want []string
		for i := range 7 {
			names = append(names, fmt.Sprintf("web%d", i))
			want = append(want, names[i]+" done")
			tokyo.newVM(names[i], "tokyo/h1")
		}
		j := tokyo.bulk(tokyo.admin, api.BulkRequest{Action: api.BulkStop, VMs: names, Hard: true})
		w.until("some are stopped", func() bool { return tokyo.job(j.Name).Status.Bulk.Done > 0 })
		tokyo.start()
		w.connected()
		tokyo.expect(j.Name, api.JobDone, want...)
		for _, name := range names {
			if n := tokyo.vm(name).Status.PowerChanges; n != 2 {
				t.Errorf("the power of %s was changed %d times, with its creation", name, n)
			}
		}
	})
}

// TestBulkRights: each VM is judged by the rights that the job's user has when its turn comes.
func TestBulkRights(t *testing.T) {
	federation(t, options{sites: []string{"tokyo"}, hosts: 2, copyTime: time.Second}, func(t *testing.T, w *world) {
		tokyo := w.sites["tokyo"]
		tokyo.ready("2001:db8:a:1::/64")
		tokyo.create(&api.Owner{Meta: api.Meta{Name: "others"}})
		tokyo.create(&api.User{Meta: api.Meta{Name: "ann", Owner: "lab"}})
		ann := access.Actor{User: "ann", Owner: "lab"}
		w.connected()
		var names []string
		for i := range 5 {
			names = append(names, fmt.Sprintf("web%d", i))
			tokyo.newVM(names[i], "tokyo/h1")
		}
		other := vmOf("other", "tokyo/h1")
		other.Owner = "others"
		tokyo.create(other)
		w.until("it runs", func() bool { return tokyo.vm("other").Status.Phase == api.PhaseRunning })

		// Another organisation's VM is not there for ann; a selector does not take it.
		tokyo.expect(tokyo.bulk(ann, api.BulkRequest{Action: api.BulkReboot, VMs: []string{"other", "web0"}}).Name, api.JobFailed, "other refused", "web0 done")
		tokyo.expect(tokyo.bulk(ann, api.BulkRequest{Action: api.BulkReboot, Selector: &api.BulkSelector{State: []string{"running"}}}).Name, api.JobDone,
			"web0 done", "web1 done", "web2 done", "web3 done", "web4 done")

		j := tokyo.bulk(ann, api.BulkRequest{Action: api.BulkMove, VMs: names, Target: "tokyo/h2"})
		w.until("four are moving", func() bool { return tokyo.job(j.Name).Status.Bulk.Running == 4 })
		_, err := tokyo.ctl.Delete(t.Context(), tokyo.admin, api.KindUser, "ann")
		w.must(err)
		tokyo.expect(j.Name, api.JobFailed, "web0 done", "web1 done", "web2 done", "web3 done", "web4 refused")
		all, err := tokyo.ctl.BulkResults(t.Context(), tokyo.admin, j.Name)
		w.must(err)
		if got := all[4].Message; got != "user ann, who asked for it, is no longer there" {
			t.Errorf("web4: %q", got)
		}
		// Who may not see the job sees no results.
		if _, err := tokyo.ctl.BulkResults(t.Context(), access.Actor{User: "bob", Owner: "others"}, j.Name); !errors.Is(err, &api.Error{Code: api.CodeNotFound}) {
			t.Errorf("another organisation's: %v", err)
		}
	})
}

// TestBulkJudged: what is wrong with a request is said at once, field by field.
func TestBulkJudged(t *testing.T) {
	federation(t, options{sites: []string{"tokyo"}}, func(t *testing.T, w *world) {
		tokyo := w.sites["tokyo"]
		for field, r := range map[string]api.BulkRequest{
			"action":   {Action: "explode", VMs: []string{"web1"}},
			"target":   {Action: api.BulkMove, VMs: []string{"web1"}},
			"hard":     {Action: api.BulkStart, VMs: []string{"web1"}, Hard: true},
			"vms":      {Action: api.BulkStop},
			"vms[0]":   {Action: api.BulkStop, VMs: []string{"No Name"}},
			"selector": {Action: api.BulkStop, Selector: &api.BulkSelector{}},
			"state":    {Action: api.BulkStop, Selector: &api.BulkSelector{State: []string{"dancing"}}},
		} {
			_, err := tokyo.ctl.Bulk(t.Context(), tokyo.admin, r)
			if !errors.Is(err, &api.Error{Code: api.CodeInvalid, Field: field}) {
				t.Errorf("%s: %v", field, err)
			}
		}
		if _, err := tokyo.ctl.Bulk(t.Context(), tokyo.admin, api.BulkRequest{Action: api.BulkStop, VMs: make([]string, api.MaxBulk+1)}); !errors.Is(err, &api.Error{Code: api.CodeInvalid}) {
			t.Errorf("too many: %v", err)
		}
	})
}

// TestStartedBy: a job says who started it.
func TestStartedBy(t *testing.T) {
	federation(t, options{sites: []string{"tokyo", "osaka"}}, func(t *testing.T, w *world) {
		tokyo, osaka := w.sites["tokyo"], w.sites["osaka"]
		tokyo.ready("2001:db8:a:1::/64")
		tokyo.create(&api.User{Meta: api.Meta{Name: "ann", Owner: "lab"}})
		ann := access.Actor{User: "ann", Owner: "lab"}
		loan := w.lend("osaka", "tokyo", api.Resources{CPUs: 4, MemoryMiB: 4096, DiskGiB: 40})
		w.connected()
		tokyo.newVM("web1", "tokyo")
		j, _, err := tokyo.ctl.Migrate(t.Context(), ann, "web1", "osaka", false)
		w.must(err)
		tokyo.ended(j.Name)
		if by := tokyo.job(j.Name).Spec.By; by != "ann" {
			t.Errorf("the migration was started by %q", by)
		}
		_, err = osaka.ctl.Reclaim(t.Context(), osaka.admin, loan.Name)
		w.must(err)
		w.until("web1 is home", func() bool { return tokyo.vm("web1").Status.Site == "tokyo" && tokyo.vm("web1").Status.Job == "" })
		_, err = tokyo.ctl.Delete(t.Context(), ann, api.KindVM, "web1")
		w.must(err)
		var got []string
		jobs, _, err := tokyo.ctl.List(t.Context(), tokyo.admin, api.KindJob, serve.Query{})
		w.must(err)
		for _, o := range jobs {
			j := o.(*api.Job)
			got = append(got, j.Spec.Type+" "+j.Spec.Target+" by "+j.Spec.By+" "+j.Spec.Why)
		}
		slices.Sort(got)
		want := []string{"delete  by ann ", "migrate osaka by ann ", "migrate tokyo by site:tokyo osaka wants the room of loan " + loan.Name + " back"}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("(-want +got):\n%s", d)
		}
	})
}
