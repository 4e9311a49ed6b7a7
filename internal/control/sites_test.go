package control_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"widecloud/api"
	"widecloud/internal/access"
)

// TestWatchSites: a site that is lost and comes back, and one that leaves, are told by a watch; the pools are each reader's own.
func TestWatchSites(t *testing.T) {
	federation(t, options{sites: []string{"tokyo", "osaka"}}, func(t *testing.T, w *world) {
		w.connected()
		tokyo := w.sites["tokyo"]
		tokyo.ready("2001:db8:a:1::/64")
		tokyo.create(&api.User{Meta: api.Meta{Name: "ann", Owner: "lab"}})
		ann := access.Actor{User: "ann", Owner: "lab"}
		changes, err := tokyo.watch(t.Context(), ann, []api.Kind{api.KindSite}, api.Selector{}, -1)
		w.must(err)
		next := func(what string, ok func(*api.Site, bool) bool) *api.Site {
			for c := range changes {
				if s := c.Object.(*api.Site); ok(s, c.Deleted) {
					return s
				}
			}
			t.Fatalf("the watch has ended before %s", what)
			return nil
		}
		w.sites["osaka"].kill()
		next("osaka is lost", func(s *api.Site, _ bool) bool { return s.Name == "osaka" && !s.Status.Reached })
		w.sites["osaka"].start()
		next("osaka is back", func(s *api.Site, _ bool) bool { return s.Name == "osaka" && s.Status.Reached })

		// What the watch told last is what a reader sees.
		tokyo.newVM("web1", "")
		self := next("room is taken", func(s *api.Site, _ bool) bool { return s.Name == "tokyo" && s.Status.Free.CPUs == 7 })
		o, err := tokyo.ctl.Get(t.Context(), ann, api.KindSite, "tokyo")
		w.must(err)
		read := o.(*api.Site)
		read.Revision = self.Revision
		if d := cmp.Diff(read, self); d != "" {
			t.Errorf("the site as it is read, and as the watch has told it (-read +told):\n%s", d)
		}
		if len(self.Spec.Pools) == 0 {
			t.Errorf("the watch has left out the pools that ann may use")
		}
		_, err = tokyo.ctl.Delete(t.Context(), tokyo.admin, api.KindPeer, "osaka")
		w.must(err)
		next("osaka has left", func(s *api.Site, gone bool) bool { return s.Name == "osaka" && gone })
	})
}
