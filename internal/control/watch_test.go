package control_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"widecloud/api"
	"widecloud/internal/access"
	"widecloud/internal/serve"
	"widecloud/internal/store"
	"widecloud/internal/store/bolt"
)

// TestDeletedUserSeesNothing: a watch and a console end with their user, and with the right by which they were opened.
func TestDeletedUserSeesNothing(t *testing.T) {
	federation(t, options{sites: []string{"tokyo"}}, func(t *testing.T, w *world) {
		tokyo := w.sites["tokyo"]
		tokyo.ready("2001:db8:a::/64")
		tokyo.newVM("web1", "")
		ann, _ := tokyo.member("ann", "lab")
		root := tokyo.create(&api.User{Meta: api.Meta{Name: "root2"}, Spec: api.UserSpec{Admin: true}}).(*api.User)
		for name, c := range map[string]struct {
			who access.Actor
			end func() error
		}{
			"ann": {ann, func() error { _, err := tokyo.ctl.Delete(t.Context(), tokyo.admin, api.KindUser, "ann"); return err }},
			"root2": {access.Actor{User: "root2", Admin: true}, func() error {
				root.Spec.Admin, root.Revision = false, 0
				_, err := tokyo.ctl.Update(t.Context(), tokyo.admin, root)
				return err
			}},
		} {
			changes, err := tokyo.watch(t.Context(), c.who, []api.Kind{api.KindVM}, api.Selector{}, -1)
			if err != nil {
				t.Fatal(err)
			}
			console, err := tokyo.ctl.Console(t.Context(), c.who, "web1")
			if err != nil {
				t.Fatal(err)
			}
			read := make(chan error, 1)
			go func() {
				_, err := io.Copy(io.Discard, console)
				read <- err
			}()
			if err := c.end(); err != nil {
				t.Fatal(err)
			}
			tokyo.create(vmOf("after-"+name, ""))
			for over := time.After(10 * time.Second); changes != nil; {
				select {
				case ch, ok := <-changes:
					if !ok {
						changes = nil
					} else if ch.Object.Metadata().Name == "after-"+name {
						t.Errorf("%s, deleted or no admin any more, is shown %s", name, ch.Object.Metadata().Name)
					}
				case <-over:
					t.Errorf("the watch of %s goes on", name)
					changes = nil
				}
			}
			select {
			case <-read:
			case <-time.After(10 * time.Second):
				t.Errorf("the console of %s goes on", name)
			}
			console.Close()
			_, err = tokyo.watch(t.Context(), c.who, []api.Kind{api.KindVM}, api.Selector{}, -1)
			wantError(t, "a new watch of "+name, err, api.CodeForbidden)
		}
	})
}

// TestWatchLosesSight: a watcher hears that an object is gone when it may no longer see it, or no longer selects it, and
// nothing of what it never saw.
func TestWatchLosesSight(t *testing.T) {
	federation(t, options{sites: []string{"tokyo"}}, func(t *testing.T, w *world) {
		tokyo := w.sites["tokyo"]
		tokyo.ready("2001:db8:a::/64")
		ann, _ := tokyo.member("ann", "lab")
		vm := vmOf("web1", "")
		vm.Owner = "lab"
		tokyo.create(vm)
		tokyo.phase("web1", api.PhaseRunning)
		running := api.Selector{States: []string{"running"}}
		all, revision, err := tokyo.ctl.List(t.Context(), ann, api.KindVM, serve.Query{Selector: running})
		if err != nil || len(all) != 1 {
			t.Fatalf("ann lists %d running VMs, %v", len(all), err)
		}
		follow := func(what string, s api.Selector, from int64) <-chan serve.Change {
			t.Helper()
			changes, err := tokyo.watch(t.Context(), ann, []api.Kind{api.KindVM, api.KindJob}, s, from)
			if err != nil {
				t.Fatalf("watch %s: %v", what, err)
			}
			return changes
		}
		// gone waits for the object's end, which shows it as it was seen last.
		gone := func(what string, changes <-chan serve.Change) *api.VM {
			t.Helper()
			for ch := range changes {
				if v := ch.Object.(*api.VM); ch.Deleted {
					return v
				}
			}
			t.Fatalf("%s: the watch ended without a deletion", what)
			return nil
		}
		live := follow("the running ones", running, revision)
		v := tokyo.vm("web1")
		v.Spec.Power = api.PowerOffHard
		if _, err := tokyo.ctl.Update(t.Context(), tokyo.admin, v); err != nil {
			t.Fatal(err)
		}
		tokyo.phase("web1", api.PhaseStopped)
		for what, changes := range map[string]<-chan serve.Change{"live": live, "resumed": follow("again", running, revision)} {
			if v := gone(what, changes); v.Status.Phase != api.PhaseRunning {
				t.Errorf("%s: the end shows it %s", what, v.Status.Phase)
			}
		}

		// No request changes an owner yet: the store of a controller that does not run is changed.
		_, revision, err = tokyo.ctl.List(t.Context(), ann, api.KindVM, serve.Query{})
		w.must(err)
		v = tokyo.vm("web1")
		tokyo.kill()
		st, err := bolt.Open(bolt.Options{Path: filepath.Join(tokyo.dir, "store.db"), NoSync: true, History: 2000})
		w.must(err)
		for _, owner := range []string{"", "lab"} {
			v.Owner, v.Revision = owner, 0
			b, err := json.Marshal(v)
			w.must(err)
			_, err = st.Update(t.Context(), func(tx store.Tx) error { return tx.Put("objects/vms/web1", b) })
			w.must(err)
		}
		w.must(st.Close())
		tokyo.start()
		var got []string
		for ch := range follow("all", api.Selector{}, revision) {
			if got = append(got, fmt.Sprint(ch.Object.Metadata().Name, " ", ch.Object.Metadata().Owner, " ", ch.Deleted)); len(got) == 2 {
				break
			}
		}
		if d := cmp.Diff([]string{"web1 lab true", "web1 lab false"}, got); d != "" {
			t.Errorf("ann is shown (-want +got):\n%s", d)
		}
	})
}

// TestOwnerDeleted: an owner is deleted only when nothing is left of it, so that whoever has its name later gets nothing of it.
func TestOwnerDeleted(t *testing.T) {
	federation(t, options{sites: []string{"tokyo"}}, func(t *testing.T, w *world) {
		tokyo := w.sites["tokyo"]
		tokyo.ready("2001:db8:a::/64")
		tokyo.create(&api.Owner{Meta: api.Meta{Name: "uni"}})
		ann, _ := tokyo.member("ann", "uni")
		for _, o := range []api.Object{
			&api.Network{Meta: api.Meta{Name: "left"}},
			&api.Address{Meta: api.Meta{Name: "left"}},
			&api.Image{Meta: api.Meta{Name: "left"}},
			&api.VM{Meta: api.Meta{Name: "left"}, Spec: vmOf("", "").Spec},
		} {
			o.Metadata().Owner = "uni"
			tokyo.create(o)
			_, err := tokyo.ctl.Delete(t.Context(), tokyo.admin, api.KindOwner, "uni")
			wantField(t, "an owner of "+string(o.Kind()), err, api.CodeConflict, "owner")
			if o.Kind() == api.KindVM {
				tokyo.phase("left", api.PhaseRunning)
			}
			if _, err := tokyo.ctl.Delete(t.Context(), ann, o.Kind(), "left"); err != nil {
				t.Fatal(err)
			}
			if o.Kind() == api.KindVM {
				tokyo.gone("left")
			}
		}
		_, err := tokyo.ctl.Delete(t.Context(), tokyo.admin, api.KindOwner, "uni")
		wantField(t, "an owner of users", err, api.CodeConflict, "owner")
		if _, err := tokyo.ctl.Delete(t.Context(), tokyo.admin, api.KindUser, "ann"); err != nil {
			t.Fatal(err)
		}
		if _, err := tokyo.ctl.Delete(t.Context(), tokyo.admin, api.KindOwner, "uni"); err != nil {
			t.Fatal(err)
		}
		// Its successor sees nothing of its history.
		tokyo.create(&api.Owner{Meta: api.Meta{Name: "uni"}})
		bob, _ := tokyo.member("bob", "uni")
		for _, k := range []api.Kind{api.KindEvent, api.KindJob, api.KindVM, api.KindVolume} {
			all, _, err := tokyo.ctl.List(t.Context(), bob, k, serve.Query{})
			all = slices.DeleteFunc(all, func(o api.Object) bool {
				e, ok := o.(*api.Event)
				return ok && e.Object == "users/bob" // made since
			})
			if err != nil || len(all) > 0 {
				t.Errorf("the new uni sees %d %s, %v", len(all), k, err)
			}
		}
	})
}

// TestWatchIsNearAllTheTime: a watcher that is told of nothing learns up to which revision that is so, and can resume there when what it
// began at is kept no more.
func TestWatchIsNearAllTheTime(t *testing.T) {
	federation(t, options{sites: []string{"tokyo"}}, func(t *testing.T, w *world) {
		tokyo := w.sites["tokyo"]
		tokyo.ready("2001:db8:a::/64")
		_, from, err := tokyo.ctl.List(t.Context(), tokyo.admin, api.KindPeer, serve.Query{})
		w.must(err)
		peers, err := tokyo.ctl.Watch(t.Context(), tokyo.admin, []api.Kind{api.KindPeer}, api.Selector{}, from)
		w.must(err)
		defer peers.Close()
		var last int64
		for i := range 200 { // more than the feed keeps
			o, err := tokyo.ctl.Create(t.Context(), tokyo.admin, &api.Owner{Meta: api.Meta{Name: fmt.Sprint("o", i)}})
			w.must(err)
			last = o.Metadata().Revision
		}
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second) // of the bubble
		defer cancel()
		changes, upTo, err := peers.Next(ctx)
		if len(changes) > 0 || !errors.Is(err, context.DeadlineExceeded) || upTo < last {
			t.Fatalf("told %d changes up to revision %d (%v); the newest is %d", len(changes), upTo, err, last)
		}
		again, err := tokyo.ctl.Watch(t.Context(), tokyo.admin, []api.Kind{api.KindPeer}, api.Selector{}, upTo)
		w.must(err)
		again.Close()
	})
}
