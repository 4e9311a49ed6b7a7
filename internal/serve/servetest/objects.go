package servetest

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"widecloud/api"
	"widecloud/internal/serve"
)

// TestObjects is the suite of how a Controller lists, selects, changes and watches objects. Each test has a new site, and
// runs in the testing/synctest bubble that open makes around it.
func TestObjects(t *testing.T, open func(t *testing.T, test func(t *testing.T, s Site))) {
	run(t, open, []test{
		{"Labels", (*bench).labels},
		{"Revisions", (*bench).revisions},
		{"Answers", (*bench).answers},
		{"Select", (*bench).selects},
		{"Pages", (*bench).pages},
		{"WatchSelected", (*bench).watchSelected},
		{"WatchFrom", (*bench).watchFrom},
		{"WatchKinds", (*bench).watchKinds},
		{"WatchRights", (*bench).watchRights},
		{"Bulk", (*bench).bulk},
		{"DryRun", (*bench).dryRun},
	})
}

// owner makes an organisation with labels, written as key and value in turn.
func (b *bench) owner(by serve.Principal, name string, labels ...string) *api.Owner {
	b.Helper()
	o := &api.Owner{Meta: api.Meta{Name: name, Labels: pairs(labels)}}
	made, err := b.Create(b.Context(), by, o)
	if err != nil {
		b.Fatalf("create owner %s: %v", name, err)
	}
	return made.(*api.Owner)
}

func pairs(l []string) map[string]string {
	if l == nil {
		return nil
	}
	m := map[string]string{}
	for i := 0; i+1 < len(l); i += 2 {
		m[l[i]] = l[i+1]
	}
	return m
}

// relabel gives an owner other labels.
func (b *bench) relabel(by serve.Principal, name string, labels ...string) (*api.Owner, error) {
	o, err := b.Update(b.Context(), by, &api.Owner{Meta: api.Meta{Name: name, Labels: pairs(labels)}})
	if err != nil {
		return nil, err
	}
	return o.(*api.Owner), nil
}

// names lists objects by their names, with the list's revision.
func (b *bench) names(by serve.Principal, k api.Kind, q serve.Query) (names []string, revision int64) {
	b.Helper()
	l, revision, err := b.List(b.Context(), by, k, q)
	if err != nil {
		b.Fatalf("list %s: %v", k, err)
	}
	for _, o := range l {
		names = append(names, o.Metadata().Name)
	}
	return names, revision
}

func terms(text string) api.Selector {
	l, err := api.ParseLabelTerms(text)
	if err != nil {
		panic(err)
	}
	return api.Selector{Labels: l}
}

func (b *bench) labels() {
	admin := b.admin()
	want := map[string]string{"app": "web", "tier": ""}
	made := b.owner(admin, "a", "app", "web", "tier", "")
	got, err := b.Get(b.Context(), admin, api.KindOwner, "a")
	if err != nil || !cmp.Equal(want, made.Labels) || !cmp.Equal(want, got.Metadata().Labels) {
		b.Errorf("made with %v, read with %v, %v; want %v", made.Labels, got.Metadata().Labels, err, want)
	}
	// A client that knows no labels sends none, and removes none.
	o, err := b.relabel(admin, "a")
	if err != nil || !cmp.Equal(want, o.Labels) {
		b.Errorf("after a change without labels: %v, %v", o.Labels, err)
	}
	if o, err = b.relabel(admin, "a", "app", "db"); err != nil || !cmp.Equal(map[string]string{"app": "db"}, o.Labels) {
		b.Errorf("after a change: %v, %v", o.Labels, err)
	}
	if o, err = b.relabel(admin, "a", []string{}...); err != nil || o.Labels != nil {
		b.Errorf("after the removal of all: %v, %v", o.Labels, err)
	}
	_, err = b.relabel(admin, "a", "a b", "x")
	b.field("a bad key", "labels", err)
	_, err = b.relabel(admin, "a", "app", "x,y")
	b.field("a bad value", "labels", err)
	_, err = b.Create(b.Context(), admin, &api.Owner{Meta: api.Meta{Name: "b", Labels: map[string]string{"": "x"}}})
	b.field("a bad label of a new object", "labels", err)
	many := map[string]string{}
	for i := range api.MaxLabels + 1 {
		many[fmt.Sprint("k", i)] = ""
	}
	_, err = b.Create(b.Context(), admin, &api.Owner{Meta: api.Meta{Name: "b", Labels: many}})
	b.field("many labels", "labels", err)
}

// revisions: what states a revision that is no longer the newest changes nothing.
func (b *bench) revisions() {
	admin := b.admin()
	old := b.owner(admin, "a")
	now, err := b.relabel(admin, "a", "x", "y")
	if err != nil || now.Revision <= old.Revision {
		b.Fatalf("from revision %d to %+v, %v", old.Revision, now, err)
	}
	conflict := func(what string, err error) {
		b.Helper()
		var e *api.Error
		if !errors.As(err, &e) || e.Code != api.CodeConflict || e.Field != "revision" {
			b.Errorf("%s: %v, want a conflict of the revision", what, err)
		}
	}
	_, err = b.Update(b.Context(), admin, old)
	conflict("update", err)
	_, err = b.Delete(serve.WithRevision(b.Context(), old.Revision), admin, api.KindOwner, "a")
	conflict("delete", err)
	got, err := b.Get(b.Context(), admin, api.KindOwner, "a")
	if err != nil || got.Metadata().Revision != now.Revision {
		b.Errorf("after the refusals: %+v, %v; want revision %d", got, err, now.Revision)
	}
	if now, err = b.relabel(admin, "a", "x", "z"); err != nil {
		b.Fatal(err)
	}
	_, err = b.Delete(serve.WithRevision(b.Context(), now.Revision), admin, api.KindOwner, "a")
	b.code("delete the newest", "", err)
}

// answers: what is done for an attempt and its answer are kept together, for a day, and for its user alone.
func (b *bench) answers() {
	admin := b.admin()
	attempt := serve.Attempt{User: "admin", Key: "a / key", Hash: "1"}
	create := func(a serve.Attempt, name string) error {
		_, err := b.Create(serve.WithAttempt(b.Context(), a), admin, &api.Owner{Meta: api.Meta{Name: name}})
		return err
	}
	answered := func(what string, a serve.Attempt, want string) {
		b.Helper()
		have, err := b.Answered(b.Context(), a)
		got := ""
		if have != nil {
			got = fmt.Sprint(have.Hash, " ", have.Kind, "/", have.Name)
		}
		if err != nil || got != want {
			b.Errorf("%s: answered with %q, %v; want %q", what, got, err, want)
		}
	}
	answered("before", attempt, "")
	b.code("a refused attempt", api.CodeInvalid, create(attempt, ""))
	answered("after a refusal", attempt, "")
	b.code("the first", "", create(attempt, "a"))
	answered("after it", attempt, "1 owners/a")
	b.code("a repeated attempt", api.CodeConflict, create(attempt, "b"))
	if got, _ := b.names(admin, api.KindOwner, serve.Query{}); !slices.Equal(got, []string{"a"}) {
		b.Errorf("after a repeated attempt there are %v", got)
	}
	other := attempt
	other.User = "other"
	answered("of another user", other, "")
	b.code("another user's", "", create(other, "b"))
	secret := serve.Attempt{User: "admin", Key: "secret", Hash: "2"}
	if _, err := b.NewToken(serve.WithAttempt(b.Context(), secret), admin, "admin", api.TokenRequest{}); err != nil {
		b.Fatal(err)
	}
	answered("a secret", secret, "2 /")
	time.Sleep(23 * time.Hour)
	answered("after 23 hours", attempt, "1 owners/a")
	time.Sleep(2 * time.Hour)
	answered("after a day", attempt, "")
	b.code("after a day", "", create(attempt, "c"))
	answered("again", attempt, "1 owners/c")
}

// field fails unless err is CodeInvalid and names a field.
func (b *bench) field(what, field string, err error) {
	b.Helper()
	var e *api.Error
	if !errors.As(err, &e) || e.Code != api.CodeInvalid || e.Field != field {
		b.Errorf("%s: %v, want %s to be invalid", what, err, field)
	}
}

func (b *bench) selects() {
	admin := b.admin()
	b.owner(admin, "web-a", "app", "web", "tier", "front")
	b.owner(admin, "web-b", "app", "web")
	b.owner(admin, "db-a", "app", "db")
	b.owner(admin, "plain")
	ann, _ := b.user(admin, "ann", false) // of uni
	for _, tt := range []struct {
		s    api.Selector
		want []string
	}{
		{api.Selector{}, []string{"db-a", "plain", "uni", "web-a", "web-b"}},
		{api.Selector{Name: "web-"}, []string{"web-a", "web-b"}},
		{terms("app=web"), []string{"web-a", "web-b"}},
		{terms("app=web,!tier"), []string{"web-b"}},
		{terms("app!=web"), []string{"db-a", "plain", "uni"}},
		{api.Selector{Owners: []string{"lab"}}, nil},
	} {
		if got, _ := b.names(admin, api.KindOwner, serve.Query{Selector: tt.s}); !slices.Equal(got, tt.want) {
			b.Errorf("%+v takes %v, want %v", tt.s, got, tt.want)
		}
	}
	if got, _ := b.names(admin, api.KindUser, serve.Query{Selector: api.Selector{Owners: []string{"uni"}}}); !slices.Equal(got, []string{"ann"}) {
		b.Errorf("the users of uni are %v", got)
	}
	// A selector shows nobody more than he may see.
	if got, _ := b.names(ann, api.KindOwner, serve.Query{Selector: terms("app=web")}); got != nil {
		b.Errorf("ann selects %v", got)
	}
}

func (b *bench) pages() {
	admin := b.admin()
	var want []string
	for i := range 7 {
		want = append(want, fmt.Sprint("o", i))
		b.owner(admin, want[i], "odd", fmt.Sprint(i%2))
	}
	read := func(s api.Selector, limit int, between func(after string)) (got []string) {
		q := serve.Query{Selector: s, Limit: limit}
		for {
			l, _ := b.names(admin, api.KindOwner, q)
			if len(l) > limit {
				b.Fatalf("a page of at most %d has %v", limit, l)
			}
			if got = append(got, l...); len(l) < limit {
				return got
			}
			q.After = l[limit-1]
			between(q.After)
		}
	}
	for limit := 1; limit < 9; limit++ {
		if got := read(api.Selector{}, limit, func(string) {}); !slices.Equal(got, want) {
			b.Errorf("in pages of %d: %v", limit, got)
		}
	}
	if got := read(terms("odd=1"), 2, func(string) {}); !slices.Equal(got, []string{"o1", "o3", "o5"}) {
		b.Errorf("the odd ones in pages: %v", got)
	}
	// What is deleted and made between pages moves nothing else.
	got := read(api.Selector{}, 2, func(after string) {
		if after == "o1" {
			b.code("delete", "", b.deleteOwner(admin, "o1"))
			b.owner(admin, "o00")
			b.owner(admin, "o99")
		}
	})
	if want := append(want, "o99"); !slices.Equal(got, want) {
		b.Errorf("with changes between pages: %v, want %v", got, want)
	}
}

func (b *bench) deleteOwner(by serve.Principal, name string) error {
	_, err := b.Delete(b.Context(), by, api.KindOwner, name)
	return err
}

// watch begins a watch that ends with the test.
func (b *bench) watch(by serve.Principal, s api.Selector, from int64, kinds ...api.Kind) <-chan serve.Change {
	b.Helper()
	changes, err := b.Watch(b.Context(), by, kinds, s, from)
	if err != nil {
		b.Fatalf("watch %v: %v", kinds, err)
	}
	return Changes(b.Context(), changes)
}

// see fails unless the next changes are these, each written as KIND/NAME, with a - before a deletion.
func (b *bench) see(what string, changes <-chan serve.Change, want ...string) {
	b.Helper()
	last := int64(0)
	for _, w := range want {
		c, ok := <-changes
		if !ok {
			b.Fatalf("%s: the watch has ended before %s", what, w)
		}
		text := string(c.Object.Kind()) + "/" + c.Object.Metadata().Name
		if c.Deleted {
			text = "-" + text
		}
		if text != w || c.Revision < last {
			b.Fatalf("%s: got %s at revision %d, want %s, not before %d", what, text, c.Revision, w, last)
		}
		last = c.Revision
	}
}

func (b *bench) watchSelected() {
	admin := b.admin()
	b.owner(admin, "a", "app", "web")
	_, from := b.names(admin, api.KindOwner, serve.Query{})
	changes := b.watch(admin, terms("app=web"), from, api.KindOwner)
	b.owner(admin, "b", "app", "web")
	b.owner(admin, "c", "app", "db")
	must := func(_ any, err error) { b.Helper(); b.code("relabel", "", err) }
	must(b.relabel(admin, "a", "app", "db")) // leaves
	must(b.relabel(admin, "a", "app", "db2"))
	must(b.relabel(admin, "c", "app", "web")) // comes
	must(b.relabel(admin, "c", "app", "web", "new", ""))
	b.code("delete", "", b.deleteOwner(admin, "a")) // is not watched any more
	b.code("delete", "", b.deleteOwner(admin, "b"))
	want := []string{"owners/b", "-owners/a", "owners/c", "owners/c", "-owners/b"}
	b.see("selected", changes, want...)
	b.see("again from the same revision", b.watch(admin, terms("app=web"), from, api.KindOwner), want...)
}

// watchFrom resumes after each revision that the watch has given: every change comes that is not there yet.
func (b *bench) watchFrom() {
	admin := b.admin()
	_, from := b.names(admin, api.KindOwner, serve.Query{})
	changes := b.watch(admin, api.Selector{}, from, api.KindOwner)
	var want []string
	for i := range 5 {
		b.owner(admin, fmt.Sprint("o", i))
		want = append(want, fmt.Sprint("owners/o", i))
	}
	for i := range want {
		c := <-changes
		b.see(fmt.Sprint("after the change ", i), b.watch(admin, api.Selector{}, c.Revision, api.KindOwner), want[i+1:]...)
	}
	b.see("from the beginning", b.watch(admin, api.Selector{}, from, api.KindOwner), want...)
}

func (b *bench) watchKinds() {
	admin := b.admin()
	_, from := b.names(admin, api.KindOwner, serve.Query{})
	both := b.watch(admin, api.Selector{}, from, api.KindOwner, api.KindOffer)
	named := b.watch(admin, api.Selector{Name: "x"}, from, api.KindOwner, api.KindOffer)
	offer := func(name string) {
		b.Helper()
		_, err := b.Create(b.Context(), admin, &api.Offer{Meta: api.Meta{Name: name}, Spec: api.OfferSpec{To: []string{"*"}, LendLimit: api.Resources{CPUs: 1}, Lease: 60}})
		b.code("create offer", "", err)
	}
	b.owner(admin, "a")
	offer("a")
	if _, err := b.Create(b.Context(), admin, &api.User{Meta: api.Meta{Name: "x1", Owner: "a"}}); err != nil {
		b.Fatal(err)
	}
	offer("x1")
	b.owner(admin, "x2")
	b.see("two kinds", both, "owners/a", "offers/a", "offers/x1", "owners/x2")
	b.see("two kinds with a name", named, "offers/x1", "owners/x2")
	_, err := b.Watch(b.Context(), admin, []api.Kind{api.KindOwner, "nonsense"}, api.Selector{}, -1)
	b.code("a kind that is none", api.CodeNotFound, err)
}

// watchRights: nobody is shown what he may not see, nor its end.
func (b *bench) watchRights() {
	admin := b.admin()
	ann, _ := b.user(admin, "ann", false)
	_, from := b.names(admin, api.KindUser, serve.Query{})
	changes := b.watch(ann, api.Selector{}, from, api.KindUser, api.KindOwner)
	b.user(admin, "bob", true)
	b.code("delete", "", b.delete(admin, "bob"))
	b.owner(admin, "other")
	if _, err := b.Update(b.Context(), admin, &api.User{Meta: api.Meta{Name: "ann", Labels: map[string]string{"a": "b"}}}); err != nil {
		b.Fatal(err)
	}
	for c := range changes { // a change of its own user may end the watch, too
		if name := c.Object.Metadata().Name; name != "ann" && name != "uni" {
			b.Errorf("ann is shown %s", name)
		}
		if c.Object.Metadata().Name == "ann" {
			break
		}
	}
}

// bulk: a job has a result for each VM, in the order of their names; who may not see the job sees none.
func (b *bench) bulk() {
	root := b.admin()
	ann, _ := b.user(root, "ann", false)
	ctx := b.Context()
	for what, r := range map[string]api.BulkRequest{
		"no VMs":              {Action: api.BulkStop},
		"a bad selector":      {Action: api.BulkStop, Selector: &api.BulkSelector{Label: []string{"=x"}}},
		"a state that is not": {Action: api.BulkStop, Selector: &api.BulkSelector{State: []string{"dancing"}}},
	} {
		_, err := b.Controller.Bulk(ctx, ann, r)
		b.code(what, api.CodeInvalid, err)
	}
	attempt := serve.WithAttempt(ctx, serve.Attempt{User: "root", Key: "k1", Hash: "h1"})
	job, err := b.Controller.Bulk(attempt, root, api.BulkRequest{Action: api.BulkStop, VMs: []string{"web1", "web2"}})
	if err != nil {
		b.Fatal(err)
	}
	if job.Spec.Type != "bulk" || job.Spec.Action != api.BulkStop || job.Spec.By != root.User || job.Status.Bulk == nil || job.Status.Bulk.Total != 2 {
		b.Errorf("the job: %+v", job)
	}
	if a, err := b.Answered(ctx, serve.Attempt{User: "root", Key: "k1", Hash: "h1"}); err != nil || a == nil || a.Name != job.Name {
		b.Errorf("the request is answered again with %+v, %v", a, err)
	}
	results, err := b.BulkResults(ctx, root, job.Name)
	if err != nil || len(results) != 2 || results[0].VM != "web1" || results[1].VM != "web2" {
		b.Errorf("results: %+v, %v", results, err)
	}
	_, err = b.BulkResults(ctx, ann, job.Name)
	b.code("another one's results", api.CodeNotFound, err)
	_, err = b.BulkResults(ctx, root, "nothing")
	b.code("the results of no job", api.CodeNotFound, err)
}

// dryRun: what a creation would be refused with is in the answer, and nothing is written.
func (b *bench) dryRun() {
	root := b.admin()
	d, err := b.Controller.DryRun(b.Context(), root, &api.VM{Spec: api.VMSpec{Hardware: api.Hardware{CPUs: 1, MemoryMiB: 128}, Image: "tiny", Network: "blue"}})
	if err != nil || d.Refused == nil || d.Refused.Code != api.CodeInvalid || d.Refused.Field != "name" {
		b.Errorf("without a name: %+v, %v", d, err)
	}
	d, err = b.Controller.DryRun(b.Context(), root, &api.VM{Meta: api.Meta{Name: "web1"}, Spec: api.VMSpec{Hardware: api.Hardware{CPUs: 1, MemoryMiB: 128}, Network: "blue"}})
	if err != nil || d.Refused == nil || d.Refused.Code != api.CodeInvalid {
		b.Errorf("without an image: %+v, %v", d, err)
	}
	if _, err := b.Get(b.Context(), root, api.KindVM, "web1"); !errors.Is(err, &api.Error{Code: api.CodeNotFound}) {
		b.Errorf("after a dry run: %v", err)
	}
}
