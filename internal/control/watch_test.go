package control_test

import (
	"io"
	"testing"
	"time"

	"widecloud/api"
	"widecloud/internal/serve"
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
			who serve.Principal
			end func() error
		}{
			"ann": {ann, func() error { _, err := tokyo.ctl.Delete(t.Context(), tokyo.admin, api.KindUser, "ann"); return err }},
			"root2": {serve.Principal{User: "root2", Admin: true}, func() error {
				root.Spec.Admin, root.Revision = false, 0
				_, err := tokyo.ctl.Update(t.Context(), tokyo.admin, root)
				return err
			}},
		} {
			changes, err := tokyo.ctl.Watch(t.Context(), c.who, api.KindVM, -1)
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
			_, err = tokyo.ctl.Watch(t.Context(), c.who, api.KindVM, -1)
			wantError(t, "a new watch of "+name, err, api.CodeForbidden)
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
			if all, _, err := tokyo.ctl.List(t.Context(), bob, k); err != nil || len(all) > 0 {
				t.Errorf("the new uni sees %d %s, %v", len(all), k, err)
			}
		}
	})
}
