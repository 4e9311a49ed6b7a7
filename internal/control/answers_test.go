package control_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"widecloud/api"
	"widecloud/internal/serve"
	"widecloud/internal/store"
)

// TestAnswersSurvive: a request that is repeated after a restart of the controller is known, whether it made an object or began a
// job, and an object of the same name that came later is told apart.
func TestAnswersSurvive(t *testing.T) {
	federation(t, options{sites: []string{"tokyo"}, hosts: 2}, func(t *testing.T, w *world) {
		tokyo := w.sites["tokyo"]
		tokyo.ready("2001:db8:a::/64")
		attempt := func(key string) serve.Attempt { return serve.Attempt{User: "ann", Key: key, Hash: key} }
		made, err := tokyo.ctl.Create(serve.WithAttempt(t.Context(), attempt("create")), tokyo.admin, vmOf("web1", "tokyo/h1"))
		w.must(err)
		tokyo.phase("web1", api.PhaseRunning)
		job, reasons, err := tokyo.ctl.Migrate(serve.WithAttempt(t.Context(), attempt("migrate")), tokyo.admin, "web1", "tokyo/h2", false)
		if err != nil || job == nil {
			t.Fatalf("migrate: %v, %v", reasons, err)
		}
		tokyo.start()
		for key, want := range map[string]serve.Answer{
			"create":  {Hash: "create", Kind: api.KindVM, Name: "web1", UID: made.Metadata().UID},
			"migrate": {Hash: "migrate", Kind: api.KindJob, Name: job.Name, UID: job.UID},
		} {
			have, err := tokyo.ctl.Answered(t.Context(), attempt(key))
			if err != nil || have == nil || *have != want {
				t.Errorf("%s is answered with %+v, %v; want %+v", key, have, err, want)
			}
		}
		if _, err := tokyo.ctl.Create(serve.WithAttempt(t.Context(), attempt("create")), tokyo.admin, vmOf("web2", "")); !errors.Is(err, &api.Error{Code: api.CodeConflict}) {
			t.Errorf("the same key again: %v", err)
		}
		if _, err := tokyo.ctl.Get(t.Context(), tokyo.admin, api.KindVM, "web2"); !errors.Is(err, &api.Error{Code: api.CodeNotFound}) {
			t.Errorf("what the same key asked for again: %v", err)
		}
		tokyo.ended(job.Name)
	})
}

// TestAnswersAreBounded: of each user the newest 1,000 are kept, for a day, and none of a user that is deleted.
func TestAnswersAreBounded(t *testing.T) {
	controllerAlone(t, func(t *testing.T, a *alone) {
		attempt := func(user string, i int) serve.Attempt {
			return serve.Attempt{User: user, Key: fmt.Sprint(i), Hash: "x"}
		}
		create := func(o api.Object, by serve.Attempt) {
			t.Helper()
			if _, err := a.Create(serve.WithAttempt(t.Context(), by), a.admin, o); err != nil {
				t.Fatal(err)
			}
		}
		known := func(by serve.Attempt) bool {
			t.Helper()
			have, err := a.Answered(t.Context(), by)
			if err != nil {
				t.Fatal(err)
			}
			return have != nil
		}
		create(&api.User{Meta: api.Meta{Name: "bob"}, Spec: api.UserSpec{Admin: true}}, attempt("bob", 0))
		for i := range 1003 {
			time.Sleep(time.Millisecond)
			create(&api.Owner{Meta: api.Meta{Name: fmt.Sprint("o", i)}}, attempt("ann", i))
		}
		time.Sleep(time.Minute)
		for i, want := range map[int]bool{0: false, 2: false, 3: true, 1002: true} {
			if known(attempt("ann", i)) != want {
				t.Errorf("request %d of 1003 is known: %t, want %t", i, !want, want)
			}
		}
		if !known(attempt("bob", 0)) {
			t.Error("another user's request is not known")
		}
		if _, err := a.Delete(t.Context(), a.admin, api.KindUser, "bob"); err != nil {
			t.Fatal(err)
		}
		if known(attempt("bob", 0)) {
			t.Error("a request of a deleted user is known")
		}
		time.Sleep(49 * time.Hour) // two of the times at which everything is looked at again
		if err := a.store.View(t.Context(), func(tx store.Tx) error {
			kvs, err := tx.List("answers/")
			if len(kvs) > 0 {
				t.Errorf("after a day %d answers are in the store", len(kvs))
			}
			return err
		}); err != nil {
			t.Fatal(err)
		}
	})
}
