package api_test

import (
	"errors"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"widecloud/api"
)

func TestCheckLabel(t *testing.T) {
	long := strings.Repeat("a", 63)
	for _, tt := range []struct {
		key, value string
		want       string // a part of the error; "": none
	}{
		{"app", "web", ""}, {"app", "", ""}, {"example.org/app_1-x", "10.1.0.5:80", ""}, {"A", "ann@example.org", ""}, {long, long, ""},
		{"", "web", `the label's key "" is empty`},
		{long + "a", "", "at most 63 bytes"}, {"app", long + "a", "at most 63 bytes"},
		{"-app", "", "inner - _ . /"}, {"app/", "", "inner - _ . /"}, {"a b", "", "inner"}, {"a:b", "", "inner"}, {"é", "", "inner"},
		{"app", "a,b", `the value "a,b" of the label app has other characters`}, {"app", "a=b", "inner"}, {"app", "a b", "inner"}, {"app", "\x1b", "inner"}, {"app", "web-", "inner"},
	} {
		err := api.CheckLabel(tt.key, tt.value)
		if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%q=%q: %v, want %q", tt.key, tt.value, err, tt.want)
		}
	}
}

func TestParseLabelTerms(t *testing.T) {
	terms, err := api.ParseLabelTerms("app=web", "tier!=db, !old,new,empty=")
	want := []api.LabelTerm{{Key: "app", Op: "=", Value: "web"}, {Key: "tier", Op: "!=", Value: "db"}, {Key: "old", Op: "!"}, {Key: "new"}, {Key: "empty", Op: "="}}
	if d := cmp.Diff(want, terms); d != "" || err != nil {
		t.Errorf("%v (-want +got):\n%s", err, d)
	}
	for _, text := range []string{"", "=web", "!", "a b", "app==web", "app=web=x", "!app=web", "a,,b", "app!web"} {
		if _, err := api.ParseLabelTerms(text); !errors.Is(err, &api.Error{Code: api.CodeInvalid, Field: "label"}) {
			t.Errorf("%q: %v", text, err)
		}
	}
}

// TestSelectorMatches judges one object of each kind that has a site, host or state by each selector that takes it, and by
// one that does not.
func TestSelectorMatches(t *testing.T) {
	home := func(name string) api.Meta { return api.Meta{Name: name, Owner: "lab", Home: "tokyo"} }
	vm := &api.VM{Meta: home("web1"), Status: api.VMStatus{Phase: api.PhaseRunning, Site: "osaka", Host: "h2"}}
	vm.Labels = map[string]string{"app": "web", "new": ""}
	going := &api.VM{Meta: home("web2"), Status: api.VMStatus{Phase: api.PhaseStopping}}
	going.Deleting = true
	for _, tt := range []struct {
		o        api.Object
		yes, not []string // as the parameters of a request
	}{
		{vm, []string{"", "owner=lab", "owner=x,lab", "site=osaka", "host=h2", "state=running", "state=stopped,running", "name=web", "name=web1",
			"label=app", "label=app%3Dweb", "label=app!%3Ddb", "label=!old", "label=tier!%3Ddb", "label=app&label=new%3D", "label=app,new", "owner=lab&site=osaka&host=h2&state=running&name=w&label=app%3Dweb"},
			[]string{"owner=x", "site=tokyo", "host=h1", "state=stopped", "state=deleting", "name=eb1", "name=web11", "label=app%3Ddb", "label=app!%3Dweb", "label=!app", "label=old", "label=app,old",
				"label=new%3Dx", "owner=lab&state=stopped"}},
		{going, []string{"state=deleting", "state=stopping"}, []string{"state=running", "site=tokyo", "label=app"}},
		{&api.VM{}, []string{"state=pending", "label=app!%3Dweb"}, []string{"state=running", "owner=lab"}},
		{&api.Host{Meta: home("h1"), Spec: api.HostSpec{Cordoned: true}, Status: api.HostStatus{Connected: true}}, []string{"state=up", "state=cordoned", "host=h1", "site=tokyo"}, []string{"state=down", "host=h2", "site=osaka"}},
		{&api.Host{}, []string{"state=down"}, []string{"state=up", "state=cordoned"}},
		{&api.Site{Meta: home("tokyo"), Status: api.SiteStatus{Self: true}}, []string{"state=reached", "site=tokyo"}, []string{"state=unreached"}},
		{&api.Peer{Meta: home("osaka")}, []string{"state=unreached", "site=osaka"}, []string{"state=reached", "site=tokyo"}},
		{&api.Loan{Spec: api.LoanSpec{Lender: "tokyo", Borrower: "osaka"}, Status: api.LoanStatus{State: api.LoanActive}}, []string{"site=tokyo", "site=osaka", "state=active"}, []string{"site=nara", "state=ended"}},
		{&api.Image{Meta: home("tiny"), Status: api.ImageStatus{Phase: "ready"}}, []string{"state=ready", "site=tokyo"}, []string{"state=failed", "host=h1"}},
		{&api.Volume{Status: api.VolumeStatus{Site: "osaka", Host: "h2", Phase: api.VolumeDetached}}, []string{"site=osaka", "host=h2", "state=detached"}, []string{"site=tokyo", "state=deleting"}},
		{&api.Network{Meta: home("blue"), Status: api.NetworkStatus{Members: []api.NetworkMember{{Site: "tokyo", Host: "h1"}, {Site: "osaka", Host: "h2"}}}}, []string{"site=osaka", "host=h1"}, []string{"site=nara", "host=h3"}},
		{&api.Network{Meta: home("blue")}, []string{"site=tokyo"}, []string{"host=h1"}},
		{&api.Guest{Spec: api.GuestSpec{Host: "h1"}, Status: api.GuestStatus{Phase: api.PhaseRunning}}, []string{"host=h1", "state=running"}, []string{"host=h2", "state=stopped"}},
		{&api.Address{Spec: api.AddressSpec{VM: "web1"}}, []string{"state=bound"}, []string{"state=free"}},
		{&api.Address{}, []string{"state=free"}, []string{"state=bound"}},
		{&api.Translator{Spec: api.TranslatorSpec{Host: "h1"}, Status: api.TranslatorStatus{Running: true}}, []string{"host=h1", "state=running"}, []string{"host=h2", "state=stopped"}},
		{&api.Job{Spec: api.JobSpec{Target: "osaka/h2"}, Status: api.JobStatus{State: api.JobDone}}, []string{"site=osaka", "host=h2", "state=done"}, []string{"site=tokyo", "state=running"}},
		{&api.Job{Meta: home("j"), Status: api.JobStatus{State: api.JobRunning}}, []string{"site=tokyo", "state=running"}, []string{"host=h1"}},
		{&api.Event{Meta: home("e")}, []string{"site=tokyo", "owner=lab"}, []string{"host=h1"}},
	} {
		for _, query := range slices.Concat(tt.yes, tt.not) {
			q, err := url.ParseQuery(query)
			if err != nil {
				t.Fatal(err)
			}
			s, err := api.SelectorOf(q)
			if err != nil {
				t.Fatal(err)
			}
			if err := s.Check(tt.o.Kind()); err != nil {
				t.Errorf("%s %q: %v", tt.o.Kind(), query, err)
			}
			if want := slices.Contains(tt.yes, query); s.Matches(tt.o) != want {
				t.Errorf("%q of %+v: %t, want %t", query, tt.o, !want, want)
			}
			again, err := api.SelectorOf(s.Query())
			if d := cmp.Diff(s, again); d != "" || err != nil {
				t.Errorf("%q does not survive its own query (%v, -want +got):\n%s", query, err, d)
			}
			if s.IsZero() != (query == "") {
				t.Errorf("%q is zero: %t", query, s.IsZero())
			}
		}
	}
}

func TestSelectorCheck(t *testing.T) {
	err := api.Selector{States: []string{"running", "runing"}}.Check(api.KindVM)
	var e *api.Error
	if !errors.As(err, &e) || e.Field != "state" || !strings.Contains(e.Message, `"runing" is not a state of vms; possible: pending, starting, running,`) {
		t.Errorf("got %v", err)
	}
	if err := (api.Selector{States: []string{"running"}}).Check(api.KindNetwork); !errors.As(err, &e) || !strings.Contains(e.Message, "possible: deleting") {
		t.Errorf("got %v", err)
	}
}
