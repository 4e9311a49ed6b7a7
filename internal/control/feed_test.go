package control_test

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"widecloud/api"
	"widecloud/internal/access"
	"widecloud/internal/serve"
	"widecloud/internal/store"
)

// shown is what a watcher is shown of a change.
type shown struct {
	Revision int64
	Name     string
	Deleted  bool
}

// watching gathers what a watch shows.
type watching struct {
	name    string
	from    int64
	owner   string // "": everything
	changes <-chan serve.Change
	got     []shown
}

func (s *site) watchNetworks(name string, p access.Actor, from int64) *watching {
	s.w.t.Helper()
	ch, err := s.watch(s.w.t.Context(), p, []api.Kind{api.KindNetwork}, api.Selector{}, from)
	s.w.must(err)
	if from < 0 {
		_, from, err = s.ctl.List(s.w.t.Context(), s.admin, api.KindNetwork, serve.Query{})
		s.w.must(err)
	}
	return &watching{name: name, from: from, owner: p.Owner, changes: ch}
}

// upTo reads until the change of a revision.
func (w *watching) upTo(t *testing.T, last shown) {
	t.Helper()
	over := time.After(within)
	for {
		select {
		case ch, ok := <-w.changes:
			if !ok {
				t.Fatalf("the watch of %s ended after %v", w.name, w.got)
			}
			w.got = append(w.got, shown{ch.Revision, ch.Object.Metadata().Name, ch.Deleted})
			if w.got[len(w.got)-1] == last {
				return
			}
		case <-over:
			t.Fatalf("%s is not shown %v, but %v", w.name, last, w.got)
		}
	}
}

// logged reads the changes of networks out of the store's own log, and whose they are.
func (s *site) logged(from int64, last shown) (all []shown, owners map[string]string) {
	s.w.t.Helper()
	ctx, cancel := context.WithCancel(s.w.t.Context())
	defer cancel()
	w, err := s.proc.store.Watch(ctx, "objects/networks/", from)
	s.w.must(err)
	owners = map[string]string{}
	for changes := range w.C() {
		for _, ch := range changes {
			name := ch.Key[len("objects/networks/"):]
			owners[name] = name[:3] // the test's networks are called after their owners
			all = append(all, shown{ch.Revision, name, ch.Deleted})
		}
		if slices.Contains(all, last) {
			return all, owners
		}
	}
	s.w.t.Fatalf("the store's log ended: %v", w.Err())
	return nil, nil
}

// TestWatchersAgree: whoever watches is shown every change that it may see, once and in order, whether it has watched all the
// time, comes after a while, or comes so late that only the store still has what it missed; and after a restart.
func TestWatchersAgree(t *testing.T) {
	federation(t, options{sites: []string{"tokyo"}}, func(t *testing.T, w *world) {
		s := w.sites["tokyo"]
		who := []access.Actor{s.admin}
		for _, owner := range []string{"lab", "uni"} {
			s.create(&api.Owner{Meta: api.Meta{Name: owner}})
			p, _ := s.member("ann-of-"+owner, owner)
			who = append(who, p)
		}
		var all []*watching
		join := func(what string, from int64) {
			for _, p := range who {
				all = append(all, s.watchNetworks(p.User+", "+what, p, from))
			}
		}
		n := 0
		change := func() {
			for _, owner := range []string{"lab", "uni"} {
				n++
				name := fmt.Sprintf("%s-%d", owner, n)
				s.create(&api.Network{Meta: api.Meta{Name: name, Owner: owner}, Spec: api.NetworkSpec{Prefix: fmt.Sprintf("2001:db8:a00:%x::/64", n)}})
				if n%3 == 0 {
					_, err := s.ctl.Delete(t.Context(), s.admin, api.KindNetwork, name)
					w.must(err)
				}
			}
		}
		var began int64
		w.must(s.proc.store.View(t.Context(), func(tx store.Tx) error { began = tx.Revision(); return nil }))
		join("from the beginning", -1)
		change()
		change()
		join("a little late", began)
		// So many changes of other things that no memory holds all of them.
		for i := range 200 {
			w.must(s.write(fmt.Sprintf("objects/volumes/v%d", i%7), fmt.Sprintf(`{"name":"v%d","spec":{"size_mib":%d}}`, i%7, i)))
		}
		join("late", began)
		change()
		last := s.last()
		check := func() {
			t.Helper()
			for _, x := range all {
				log, owners := s.logged(x.from, last)
				var want []shown
				for _, ch := range log {
					if x.owner == "" || owners[ch.Name] == x.owner || owners[ch.Name] == "all" {
						want = append(want, ch)
					}
				}
				x.upTo(t, last)
				if d := cmp.Diff(want, x.got); d != "" {
					t.Errorf("%s is shown other changes than the store's log has (-log +shown):\n%s", x.name, d)
				}
			}
		}
		check()
		all = nil
		s.start()
		join("from before a restart", began)
		join("from the restart on", -1)
		change()
		last = s.last()
		check()
	})
}

// last makes the last change, of a network that everybody sees, and gives what is shown of it.
func (s *site) last() shown {
	s.w.t.Helper()
	name := fmt.Sprintf("all-%d", len(keysOf(s.proc, "objects/networks/")))
	s.create(&api.Network{Meta: api.Meta{Name: name}})
	o, err := s.ctl.Get(s.w.t.Context(), s.admin, api.KindNetwork, name)
	s.w.must(err)
	return shown{o.Metadata().Revision, name, false}
}

// TestAudience: of two watchers who are shown the same, one goes on when the other, who came first, leaves.
func TestAudience(t *testing.T) {
	federation(t, options{sites: []string{"tokyo"}}, func(t *testing.T, w *world) {
		s := w.sites["tokyo"]
		lab := s.create(&api.Owner{Meta: api.Meta{Name: "lab"}}).(*api.Owner)
		ann, _ := s.member("ann", "lab")
		bob, _ := s.member("bob", "lab")
		ctx, leave := context.WithCancel(t.Context())
		kinds := []api.Kind{api.KindOwner}
		first, err := s.watch(ctx, ann, kinds, api.Selector{}, -1)
		w.must(err)
		second, err := s.watch(t.Context(), bob, kinds, api.Selector{}, -1)
		w.must(err)
		leave()
		for range first { // until it has ended
		}
		lab.Spec.Title, lab.Revision = "the laboratory", 0
		_, err = s.ctl.Update(t.Context(), s.admin, lab)
		w.must(err)
		select {
		case ch := <-second:
			if o, ok := ch.Object.(*api.Owner); !ok || o.Spec.Title != "the laboratory" {
				t.Errorf("the one who stays is shown %+v", ch)
			}
		case <-time.After(within):
			t.Error("the one who stays is shown nothing")
		}
	})
}
