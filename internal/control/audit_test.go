package control_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"widecloud/api"
)

// audited are the entries of a site's audit log that a query takes, the oldest first: "ACTOR VERB RESULT: CHANGES".
func (s *site) audited(q api.AuditQuery) (out []string) {
	q.Limit = 1000
	items, _ := s.audit.Page(q, func(api.AuditEntry) bool { return true })
	for _, e := range slices.Backward(items) {
		var changes []string
		for _, c := range e.Changes {
			changes = append(changes, strings.TrimSpace(c.Change+" "+c.Object+" "+strings.Join(c.Fields, ",")))
		}
		out = append(out, e.Actor+" "+e.Verb+" "+string(e.Result)+": "+strings.Join(changes, "; "))
	}
	return out
}

// TestAuditOfMachines: what agents and peers change is in the audit log, with what changed; their reports that change nothing are not,
// and no secret is.
func TestAuditOfMachines(t *testing.T) {
	federation(t, options{sites: []string{"tokyo", "osaka"}, hosts: 1}, func(t *testing.T, w *world) {
		tokyo, osaka := w.sites["tokyo"], w.sites["osaka"]
		tokyo.ready("2001:db8:a::/64")
		ann, _ := tokyo.member("ann", "lab")
		v := &api.VM{Meta: api.Meta{Name: "web1"}, Spec: vmOf("", "tokyo/h1").Spec}
		v.Spec.UserData = "#cloud-config\npassword: very-secret"
		w.must(second(tokyo.ctl.Create(t.Context(), ann, v)))
		tokyo.runs("web1")
		time.Sleep(30 * time.Second) // of the bubble: all that follows has come
		got := tokyo.audited(api.AuditQuery{Kind: api.KindVM, Name: "web1"})
		for i := range got { // the volume is seen in the same report, or in one before
			got[i] = strings.Replace(got[i], "created volumes/web1; ", "", 1)
		}
		if d := cmp.Diff([]string{
			"ann write done: created vms/web1", // there is no door here: the API's has the verb
			"agent:h1 /control/v1/report done: changed vms/web1 state: starting -> running",
		}, got); d != "" {
			t.Errorf("(-want +got):\n%s\nall: %q", d, tokyo.audited(api.AuditQuery{}))
		}
		before := len(tokyo.audited(api.AuditQuery{}))
		time.Sleep(5 * time.Minute) // reports go on
		if after := tokyo.audited(api.AuditQuery{}); len(after) != before {
			t.Errorf("reports that change nothing have entries: %q", after[before:])
		}
		w.lend("osaka", "tokyo", api.Resources{CPUs: 4, MemoryMiB: 4096, DiskGiB: 40})
		if got := osaka.audited(api.AuditQuery{Actor: "peer:tokyo", Kind: api.KindLoan}); len(got) == 0 {
			t.Errorf("osaka has no entry of tokyo's loan: %q", osaka.audited(api.AuditQuery{}))
		}
		tokyo.moved("web1", "osaka/h1")
		if got := osaka.audited(api.AuditQuery{Actor: "peer:tokyo", Kind: api.KindGuest}); len(got) == 0 {
			t.Errorf("osaka has no entry of tokyo's guest: %q", osaka.audited(api.AuditQuery{}))
		}
		items, _ := tokyo.audit.Page(api.AuditQuery{Limit: 1000}, func(api.AuditEntry) bool { return true })
		for _, e := range items {
			for _, c := range e.Changes {
				if strings.Contains(strings.Join(c.Fields, " "), "secret") {
					t.Errorf("the secret is in the entry %+v", e)
				}
			}
		}
	})
}

// TestNotices: a notice is shown between its times to those whom it is for, is watched as it comes and goes, and is removed in the end.
func TestNotices(t *testing.T) {
	federation(t, options{sites: []string{"tokyo"}, hosts: 1}, func(t *testing.T, w *world) {
		tokyo := w.sites["tokyo"]
		tokyo.create(&api.Owner{Meta: api.Meta{Name: "lab"}})
		tokyo.create(&api.Owner{Meta: api.Meta{Name: "others"}})
		ann, _ := tokyo.member("ann", "lab")
		bob, _ := tokyo.member("bob", "others")
		watch, err := tokyo.watch(t.Context(), ann, []api.Kind{api.KindNotice}, api.Selector{}, -1)
		w.must(err)
		notice := func(name string, spec api.NoticeSpec) *api.Notice {
			return &api.Notice{Meta: api.Meta{Name: name}, Spec: spec}
		}
		start := time.Now()
		w.must(second(tokyo.ctl.Create(t.Context(), tokyo.admin, notice("works", api.NoticeSpec{Title: "Works", From: start.Add(2 * time.Minute), Until: start.Add(4 * time.Minute), Owners: []string{"lab"}}))))
		seen := func(name string) string {
			_, forAnn := tokyo.ctl.Get(t.Context(), ann, api.KindNotice, name)
			_, forBob := tokyo.ctl.Get(t.Context(), bob, api.KindNotice, name)
			o, err := tokyo.ctl.Get(t.Context(), tokyo.admin, api.KindNotice, name)
			if err != nil {
				return "gone"
			}
			out := string(o.(*api.Notice).Status.State)
			if forAnn == nil {
				out += " ann"
			}
			if forBob == nil {
				out += " bob"
			}
			return out
		}
		for _, step := range []struct {
			wait time.Duration
			want string
		}{{time.Minute, "planned"}, {2 * time.Minute, "shown ann"}, {2 * time.Minute, "ended"}} {
			time.Sleep(step.wait)
			if got := seen("works"); got != step.want {
				t.Errorf("after another %v it is %q, want %q", step.wait, got, step.want)
			}
		}
		long := start.Add(-31 * 24 * time.Hour).UTC().Format(time.RFC3339) // it ended so long ago
		w.must(tokyo.write("objects/notices/old", `{"name":"old","spec":{"title":"Old","until":"`+long+`"},"status":{"state":"ended"}}`))
		time.Sleep(time.Minute)
		if got := seen("old"); got != "gone" {
			t.Errorf("a notice that ended 31 days ago is %q", got)
		}
		for _, deleted := range []bool{false, true} {
			if c := <-watch; c.Deleted != deleted || c.Object.Metadata().Name != "works" {
				t.Errorf("ann's watch tells %+v, want deleted %v", c, deleted)
			}
		}
		w.must(second(tokyo.ctl.Create(t.Context(), ann, notice("ours", api.NoticeSpec{Title: "Ours"}))))
		if got := seen("ours"); got != "shown ann" {
			t.Errorf("a member's notice is %q", got)
		}
	})
}

// TestNoticeFaults: what is wrong with a notice is said, all at once.
func TestNoticeFaults(t *testing.T) {
	federation(t, options{sites: []string{"tokyo"}, hosts: 1}, func(t *testing.T, w *world) {
		tokyo := w.sites["tokyo"]
		tokyo.create(&api.Owner{Meta: api.Meta{Name: "lab"}})
		ann, _ := tokyo.member("ann", "lab")
		now := time.Now()
		for _, c := range []struct {
			own  bool
			spec api.NoticeSpec
			want string
		}{
			{false, api.NoticeSpec{}, "spec.title: must be given"},
			{false, api.NoticeSpec{Title: strings.Repeat("x", 121)}, "spec.title: has 121 characters, and may have 120"},
			{false, api.NoticeSpec{Title: "a\x1b[2Jb"}, "spec.title: has control characters"},
			{false, api.NoticeSpec{Title: "a\nb"}, "spec.title: has control characters"},
			{false, api.NoticeSpec{Title: "a", Text: strings.Repeat("あ", 2001)}, "spec.text: has 2001 characters"},
			{false, api.NoticeSpec{Title: "a", Level: "loud"}, `spec.level: "loud" is not a level`},
			{false, api.NoticeSpec{Title: "a", From: now.Add(time.Hour), Until: now.Add(time.Hour)}, "spec.until: is not after spec.from"},
			{false, api.NoticeSpec{Title: "a", Until: now.Add(-time.Hour)}, "has passed"},
			{false, api.NoticeSpec{Title: "a", Owners: []string{"nobody"}}, `spec.owners[0]: no owner is called "nobody"`},
			{true, api.NoticeSpec{Title: "a", Owners: []string{"lab"}}, "spec.owners: is for notices of the site's own"},
			{false, api.NoticeSpec{Title: "a", Text: "two\nlines", Level: api.NoticeUrgent}, ""},
		} {
			by := tokyo.admin
			if c.own {
				by = ann
			}
			_, err := tokyo.ctl.Create(t.Context(), by, &api.Notice{Meta: api.Meta{Name: "n"}, Spec: c.spec})
			switch {
			case c.want == "" && err != nil, c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
				t.Errorf("%+v: %v, want %q", c.spec, err, c.want)
			}
		}
		for i := 1; ; i++ {
			_, err := tokyo.ctl.Create(t.Context(), ann, &api.Notice{Meta: api.Meta{Name: "n" + strings.Repeat("x", i%30) + string(rune('a'+i/30))}, Spec: api.NoticeSpec{Title: "a"}})
			if err != nil {
				if i != 51 || !strings.Contains(err.Error(), "there are 50 notices already") {
					t.Errorf("the notice %d: %v", i, err)
				}
				break
			}
		}
	})
}

// TestDoctorOfASite: a host that is down is found, by an admin; a member hears of its own VMs.
func TestDoctorOfASite(t *testing.T) {
	federation(t, options{sites: []string{"tokyo"}, hosts: 1}, func(t *testing.T, w *world) {
		tokyo := w.sites["tokyo"]
		tokyo.ready("2001:db8:a::/64")
		ann, _ := tokyo.member("ann", "lab")
		ids := func(of api.Severity, member bool) (out []string) {
			by := tokyo.admin
			if member {
				by = ann
			}
			d, err := tokyo.ctl.Doctor(t.Context(), by)
			w.must(err)
			for _, f := range d.Findings {
				if f.Severity == of {
					out = append(out, f.ID+" "+f.Object)
				}
			}
			return out
		}
		w.must(second(tokyo.ctl.Create(t.Context(), ann, &api.VM{Meta: api.Meta{Name: "web1"}, Spec: vmOf("", "tokyo/h1").Spec})))
		tokyo.runs("web1")
		if got := ids(api.SeverityBad, false); got != nil {
			t.Errorf("a site that is well has %q", got)
		}
		tokyo.hosts["h1"].kill()
		time.Sleep(time.Minute)
		if d := cmp.Diff([]string{"host.down hosts/h1", "vm.doubt vms/web1"}, ids(api.SeverityBad, false)); d != "" {
			t.Errorf("(-want +got):\n%s", d)
		}
		if d := cmp.Diff([]string{"vm.doubt vms/web1"}, ids(api.SeverityBad, true)); d != "" {
			t.Errorf("a member (-want +got):\n%s", d)
		}
	})
}
