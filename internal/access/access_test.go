package access_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"widecloud/api"
	"widecloud/internal/access"
)

var actors = map[string]access.Actor{
	"admin":    {User: "root", Admin: true},
	"ann":      {User: "ann", Owner: "lab1"},
	"homeless": {User: "homeless"}, // acts for no organisation
}

func object(k api.Kind, name, owner string) api.Object {
	n, err := api.NounOf(k)
	if err != nil {
		panic(err)
	}
	o := n.New()
	*o.Metadata() = api.Meta{Name: name, Owner: owner}
	return o
}

// TestRules has all nouns in it: who sees, creates and changes an object of the actor's owner (own), of another one (other) and
// of the site (site). "-": nobody but admins.
func TestRules(t *testing.T) {
	type row struct{ See, Create, Change string }
	want := map[api.Kind]row{
		api.KindSite:       {"own other site", "never", "-"},
		api.KindHost:       {"-", "never", "-"},
		api.KindOwner:      {"-", "-", "-"}, // but for its own: TestSelf
		api.KindUser:       {"-", "-", "-"}, // but for itself: TestSelf
		api.KindPeer:       {"-", "never", "-"},
		api.KindOffer:      {"-", "-", "-"},
		api.KindLoan:       {"-", "never", "-"},
		api.KindImage:      {"own site", "own", "own"},
		api.KindVolume:     {"own", "own", "own"},
		api.KindNetwork:    {"own site", "own", "own"},
		api.KindVM:         {"own", "own", "own"},
		api.KindGuest:      {"-", "never", "-"},
		api.KindAddress:    {"own", "own", "own"},
		api.KindTranslator: {"own other site", "never", "-"},
		api.KindJob:        {"own", "never", "-"},
		api.KindEvent:      {"own", "never", "-"},
		api.KindNotice:     {"own", "own", "own"}, // the site's own when it is shown: TestAudience
	}
	got := map[api.Kind]row{}
	for _, k := range api.Kinds() {
		var see, create, change []string
		for _, c := range []struct{ word, owner string }{{"own", "lab1"}, {"other", "lab2"}, {"site", ""}} {
			o := object(k, "x", c.owner)
			if access.Sees(actors["ann"], o) {
				see = append(see, c.word)
			}
			switch err := access.Create(actors["ann"], o); {
			case err == nil:
				create = append(create, c.word)
			case errors.Is(err, &api.Error{Code: api.CodeInvalid}):
				create = []string{"never"}
			}
			if access.Change(actors["ann"], o) == nil {
				change = append(change, c.word)
			}
		}
		text := func(words []string) string {
			if len(words) == 0 {
				return "-"
			}
			return strings.Join(words, " ")
		}
		got[k] = row{text(see), text(create), text(change)}
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}

// TestSelf: a user sees itself, and its organisation.
func TestSelf(t *testing.T) {
	for _, c := range []struct {
		o    api.Object
		want bool
	}{
		{object(api.KindUser, "ann", "lab1"), true}, {object(api.KindUser, "bob", "lab1"), false},
		{object(api.KindOwner, "lab1", ""), true}, {object(api.KindOwner, "lab2", ""), false},
	} {
		if got := access.Sees(actors["ann"], c.o); got != c.want {
			t.Errorf("ann sees %s %s: %v", c.o.Kind(), c.o.Metadata().Name, got)
		}
		if access.Sees(actors["homeless"], c.o) {
			t.Errorf("a user without an organisation sees %s %s", c.o.Kind(), c.o.Metadata().Name)
		}
	}
}

// TestAudience: the site's notices are seen by those whom they are for, while they are shown.
func TestAudience(t *testing.T) {
	notice := func(state api.NoticeState, owners ...string) *api.Notice {
		return &api.Notice{Spec: api.NoticeSpec{Owners: owners}, Status: api.NoticeStatus{State: state}}
	}
	for _, c := range []struct {
		n             *api.Notice
		ann, homeless bool
	}{
		{notice(api.NoticeShown), true, true},
		{notice(api.NoticePlanned), false, false},
		{notice(api.NoticeEnded), false, false},
		{notice(api.NoticeShown, "lab1", "lab2"), true, false},
		{notice(api.NoticeShown, "lab2"), false, false},
	} {
		for name, want := range map[string]bool{"ann": c.ann, "homeless": c.homeless, "admin": true} {
			if got := access.Sees(actors[name], c.n); got != want {
				t.Errorf("%s sees a notice that is %s for %v: %v", name, c.n.Status.State, c.n.Spec.Owners, got)
			}
		}
	}
}

// TestReasons: a refusal names the field, or says who may.
func TestReasons(t *testing.T) {
	for _, c := range []struct {
		err  error
		want string
	}{
		{access.Create(actors["ann"], object(api.KindVM, "web1", "lab2")), `owner: VM web1 is owned by "lab2", the token's owner is "lab1"`},
		{access.Change(actors["homeless"], object(api.KindVM, "web1", "")), `owner: VM web1 is owned by "", the token's owner is ""`},
		{access.Change(actors["ann"], object(api.KindHost, "h1", "")), "only an admin may change hosts"},
		{access.Create(actors["ann"], object(api.KindOwner, "lab3", "")), "only an admin may create owners"},
		{access.Create(actors["admin"], object(api.KindJob, "j", "")), "jobs are not created by hand"},
	} {
		var e *api.Error
		if !errors.As(c.err, &e) {
			t.Errorf("%v is not an api.Error", c.err)
			continue
		}
		got := e.Message
		if e.Field != "" {
			got = e.Field + ": " + got
		}
		if got != c.want {
			t.Errorf("%q, want %q", got, c.want)
		}
	}
}

// TestDefault: what a member of an organisation makes is the organisation's; what an admin makes is whose it says.
func TestDefault(t *testing.T) {
	for _, c := range []struct {
		actor, owner, want string
		kind               api.Kind
	}{
		{"ann", "", "lab1", api.KindVM}, {"ann", "lab2", "lab2", api.KindVM}, {"admin", "", "", api.KindVM}, {"ann", "", "", api.KindOffer},
	} {
		o := object(c.kind, "x", c.owner)
		access.Default(actors[c.actor], o)
		if got := o.Metadata().Owner; got != c.want {
			t.Errorf("%s of %s's without %q is %q's, want %q", c.kind, c.actor, c.owner, got, c.want)
		}
	}
}

// TestInvariants holds the invariants of doc.go for whatever names there are.
func TestInvariants(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		name := rapid.SampledFrom([]string{"", "a", "b"})
		a := access.Actor{User: name.Draw(t, "user"), Owner: name.Draw(t, "for"), Admin: rapid.Bool().Draw(t, "admin")}
		o := object(rapid.SampledFrom(api.Kinds()).Draw(t, "kind"), name.Draw(t, "name"), name.Draw(t, "owner"))
		what := fmt.Sprintf("%+v and %s of %q", a, o.Kind(), o.Metadata().Owner)
		may := access.Change(a, o) == nil
		if may && !access.Sees(a, o) {
			t.Errorf("%s: it may be changed and not be seen", what)
		}
		if owner := o.Metadata().Owner; may && !a.Admin && (owner == "" || owner != a.Owner) {
			t.Errorf("%s: it may be changed", what)
		}
		if access.Create(a, o) == nil && access.Change(a, o) != nil {
			t.Errorf("%s: it may be created and not be changed", what)
		}
	})
}
