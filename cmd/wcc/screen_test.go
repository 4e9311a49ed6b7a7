package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http/httptest"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
	"unicode"

	"widecloud/api"
	"widecloud/internal/serve"
	"widecloud/internal/serve/servetest"
)

// evil is what a peer might call something: it clears the screen (C0 and C1), turns the rest of the line around, and forges a
// line.
const evil = "a\x1b[2J\u009b31m\u202eb\u2066\x7f\t\nwcc: forged"

// shown is evil as a person sees it.
const shown = "a␛[2J\ufffd31m\ufffdb\ufffd␡␉␊wcc: forged"

func TestPrintable(t *testing.T) {
	for in, want := range map[string]string{
		evil: shown, "": "", "東京 ü 🙂": "東京 ü 🙂", "\x00\x1f\u0085\u2028\u200f": "␀␟\ufffd\ufffd\ufffd", "\x9b31m\xff": "\ufffd31m\ufffd",
	} {
		if got := printable(in); got != want {
			t.Errorf("printable(%q) = %q, want %q", in, got, want)
		}
	}
}

// fill puts evil into every string of an object.
func fill(v reflect.Value) {
	switch v.Kind() {
	case reflect.String:
		v.SetString(evil)
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(v.Elem())
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		fill(v.Index(0))
	case reflect.Struct:
		if v.Type() == reflect.TypeFor[time.Time]() {
			return
		}
		for i := range v.NumField() {
			if v.Field(i).CanSet() {
				fill(v.Field(i))
			}
		}
	}
}

// TestNothingReachesTheTerminal shows objects whose every word is a peer's trick, in every way that there is.
func TestNothingReachesTheTerminal(t *testing.T) {
	ctl := servetest.New()
	for _, n := range api.Nouns() {
		o := n.New()
		fill(reflect.ValueOf(o).Elem())
		ctl.Put(o)
		o.Metadata().Name = "one"
		ctl.Put(o)
	}
	srv := serve.New(serve.Options{Controller: ctl, Logger: slog.New(slog.DiscardHandler)})
	h := httptest.NewServer(srv)
	defer func() { srv.Stop(); h.CloseClientConnections(); h.Close() }()
	t.Setenv("WCC_CONFIG", filepath.Join(t.TempDir(), "none.toml"))
	t.Setenv("WCC_SERVER", h.URL)
	t.Setenv("WCC_TOKEN", "admin-token")
	wcc := func(lines int, args ...string) string {
		t.Helper()
		var out bytes.Buffer
		run(t.Context(), args, strings.NewReader(""), &out, &out, false)
		harmless(t, strings.Join(args, " "), out.String())
		if n := strings.Count(out.String(), "\n"); lines > 0 && n != lines {
			t.Errorf("wcc %v shows %d lines, want %d:\n%s", args, n, lines, &out)
		}
		if !strings.Contains(out.String(), "forged") {
			t.Errorf("wcc %v shows nothing of it:\n%s", args, &out)
		}
		return out.String()
	}
	for _, kind := range api.Kinds() {
		group := noun(kind)
		wcc(3, group, "list")
		wcc(3, group, "list", "-o", "wide")
		wcc(0, group, "list", "-o", "yaml")
		text := wcc(0, group, "list", "-o", "json")
		var back []struct{ Name string }
		if err := json.Unmarshal([]byte(text), &back); err != nil || len(back) != 2 || back[0].Name != evil {
			t.Errorf("the JSON of %s does not say what the API says: %v, %q", kind, err, back)
		}
		wcc(0, group, "show", "one")
		wcc(0, group, "show", "one", "-o", "json")
	}

	// What is watched and waited for.
	event := func(what string, want string, put api.Object, args ...string) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		out := &notice{enough: want, then: cancel}
		watching := func(yes bool) {
			for ctl.Watching() > 0 != yes && ctx.Err() == nil {
				time.Sleep(time.Millisecond)
			}
		}
		watching(false) // the last one is gone
		go func() {
			watching(true)
			ctl.Put(put)
		}()
		run(ctx, args, strings.NewReader(""), out, out, false)
		harmless(t, what, out.String())
		if !strings.Contains(out.String(), want) {
			t.Errorf("%s shows %q, want %q", what, out, want)
		}
	}
	evilEvent := &api.Event{Meta: api.Meta{Name: "two"}, Message: evil + "!"}
	event("events", shown+"!", evilEvent, "event", "list", "-w")
	event("events as JSON", `wcc: forged!`, evilEvent, "event", "list", "-w", "-o", "json")
	event("events as YAML", `wcc: forged!`, evilEvent, "event", "list", "-w", "-o", "yaml")
	job := &api.Job{Meta: api.Meta{Name: "work"}, Status: api.JobStatus{State: api.JobRunning}}
	ctl.Put(job)
	failed := &api.Job{Meta: job.Meta, Status: api.JobStatus{State: api.JobFailed, Step: evil, Message: evil, Reasons: []api.Reason{{Site: evil, Host: evil, Code: evil, Message: evil, Advice: evil}}}}
	event("a job", "("+shown+")\n", failed, "job", "watch", "work")
	pending := &api.VM{Meta: api.Meta{Name: "new"}, Status: api.VMStatus{Phase: api.PhasePending, Site: evil, Message: evil, Reasons: failed.Status.Reasons}}
	event("a VM", "("+shown+")\n", pending, "vm", "create", "new", "--image", "tiny", "--network", "blue", "--wait")

	// Refusals.
	ctl.Fail(&api.Error{Code: api.CodeRefused, Field: evil, Message: evil, Reasons: failed.Status.Reasons})
	if got, want := wcc(2, "vm", "list"), fmt.Sprintf("wcc: %s: %s\n  %s/%s: %s: %s (%s)\n", shown, shown, shown, shown, shown, shown, shown); got != want {
		t.Errorf("a refusal:\n got %q\nwant %q", got, want)
	}
}

// harmless fails when text has what a terminal takes for more than text.
func harmless(t *testing.T, what, text string) {
	t.Helper()
	for _, r := range text {
		if r != '\n' && (unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r)) {
			t.Errorf("%s: %U reaches the terminal: %q", what, r, text)
			return
		}
	}
	if strings.Contains(text, "\nwcc: forged") {
		t.Errorf("%s: a line is forged: %q", what, text)
	}
}
