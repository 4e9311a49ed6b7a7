package audit_test

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"widecloud/api"
	"widecloud/internal/access"
	"widecloud/internal/audit"
)

func open(t *testing.T, o audit.Options) *audit.Log {
	t.Helper()
	if o.Dir == "" {
		o.Dir = t.TempDir()
	}
	o.Logger = slog.New(slog.DiscardHandler)
	l, err := audit.Open(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

func all(api.AuditEntry) bool { return true }

// verbs are those of all entries that a query takes, page by page, the newest first.
func verbs(l *audit.Log, q api.AuditQuery) (out []string) {
	for {
		items, next := l.Page(q, all)
		for _, e := range items {
			out = append(out, e.Verb)
		}
		if q.Before = next; next == 0 {
			return out
		}
	}
}

func done(actor, verb string) api.AuditEntry {
	return api.AuditEntry{Actor: actor, Verb: verb, Result: api.AuditDone}
}

// TestPages: what was noted is found, in order, across books, by every filter, and after the log is opened again.
func TestPages(t *testing.T) {
	dir := t.TempDir()
	l := open(t, audit.Options{Dir: dir})
	start := time.Now()
	l.Append(api.AuditEntry{Actor: "ann", Verb: "create-vm", Kind: api.KindVM, Name: "web1", Owner: "lab1", Result: api.AuditDone})
	l.Append(api.AuditEntry{Actor: "agent:h1", Verb: "report", Result: api.AuditDone, Changes: []api.AuditChange{{Object: "vms/web1", Change: "changed"}}})
	l.Append(api.AuditEntry{Verb: "log-in", Result: api.AuditRefused, Code: api.CodeUnauthenticated, Address: "2001:db8::1"})
	l.Append(api.AuditEntry{Actor: "bob", Verb: "delete-vm", Kind: api.KindVM, Name: "web2", Result: api.AuditRefused, Code: api.CodeForbidden})
	l.Append(done("peer:osaka", "reserve"))
	for again := range 2 {
		for _, c := range []struct {
			q    api.AuditQuery
			want []string
		}{
			{api.AuditQuery{}, []string{"reserve", "delete-vm", "log-in", "report", "create-vm"}},
			{api.AuditQuery{Limit: 2}, []string{"reserve", "delete-vm", "log-in", "report", "create-vm"}},
			{api.AuditQuery{Actor: "ann"}, []string{"create-vm"}},
			{api.AuditQuery{Actor: "agent:"}, []string{"report"}},
			{api.AuditQuery{Actor: "-"}, []string{"log-in"}},
			{api.AuditQuery{Kind: api.KindVM}, []string{"delete-vm", "report", "create-vm"}},
			{api.AuditQuery{Kind: api.KindVM, Name: "web1"}, []string{"report", "create-vm"}},
			{api.AuditQuery{Name: "web2"}, []string{"delete-vm"}},
			{api.AuditQuery{Verb: "reserve"}, []string{"reserve"}},
			{api.AuditQuery{Result: api.AuditRefused}, []string{"delete-vm", "log-in"}},
			{api.AuditQuery{Since: start.Add(time.Hour)}, nil},
			{api.AuditQuery{Since: start.Add(-time.Hour), Actor: "bob"}, []string{"delete-vm"}},
			{api.AuditQuery{After: 3}, []string{"reserve", "delete-vm"}},
		} {
			if d := cmp.Diff(c.want, verbs(l, c.q)); d != "" {
				t.Errorf("opened %d times, %+v (-want +got):\n%s", again+1, c.q, d)
			}
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		l = open(t, audit.Options{Dir: dir})
	}
	l.Append(done("ann", "later"))
	if items, _ := l.Page(api.AuditQuery{Limit: 1}, all); items[0].ID != 6 {
		t.Errorf("the entry after the log was opened again has the id %d, want 6", items[0].ID)
	}
}

// TestStrangersCannotPushOut: whatever strangers and machines do, the users' entries stay, and the log keeps its size.
func TestStrangersCannotPushOut(t *testing.T) {
	const most = 64 << 10
	dir := t.TempDir()
	now := time.Date(2026, 12, 1, 0, 0, 0, 0, time.UTC)
	l := open(t, audit.Options{Dir: dir, MaxBytes: most, Now: func() time.Time { return now }})
	l.Append(done("ann", "delete-vm"))
	for i := range 5000 {
		now = now.Add(time.Second)
		l.Append(api.AuditEntry{Verb: "log-in", Result: api.AuditRefused, Code: api.CodeUnauthenticated, Address: fmt.Sprintf("2001:db8:%x::1", i), Message: strings.Repeat("x", 1000)})
		l.Append(api.AuditEntry{Actor: "agent:h1", Verb: "report", Result: api.AuditDone, Message: strings.Repeat("x", 1000)})
	}
	if got := verbs(l, api.AuditQuery{Actor: "ann"}); len(got) != 1 {
		t.Errorf("ann's entry was pushed out: %v", got)
	}
	var size int64
	if err := filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
		info, serr := os.Stat(path)
		if err == nil && serr == nil && !info.IsDir() {
			size += info.Size()
		}
		return errors.Join(err, serr)
	}); err != nil {
		t.Fatal(err)
	}
	if size > most {
		t.Errorf("the log has %d bytes, and may have %d", size, most)
	}
}

// TestRefusalsAreBounded: of many refusals some are noted, and the next one says how many were not.
func TestRefusalsAreBounded(t *testing.T) {
	now := time.Date(2026, 12, 1, 0, 0, 0, 0, time.UTC)
	refused := func(actor, address string) api.AuditEntry {
		return api.AuditEntry{Actor: actor, Address: address, Verb: "log-in", Result: api.AuditRefused}
	}
	for _, c := range []struct {
		name  string
		entry func(i int) api.AuditEntry
		most  int
	}{
		{"a user", func(int) api.AuditEntry { return refused("ann", "192.0.2.1") }, 60},
		{"an agent", func(int) api.AuditEntry { return refused("agent:h1", "") }, 60},
		{"one network", func(i int) api.AuditEntry { return refused("", fmt.Sprintf("2001:db8::%x", i+1)) }, 10},
		{"many networks", func(i int) api.AuditEntry { return refused("", fmt.Sprintf("198.51.%d.%d", i/250, i%250)) }, 100},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := open(t, audit.Options{Now: func() time.Time { return now }})
			const tried = 6000
			for i := range tried {
				l.Append(c.entry(i))
			}
			if got := len(verbs(l, api.AuditQuery{})); got != c.most {
				t.Errorf("%d are noted, want %d", got, c.most)
			}
			now = now.Add(time.Hour)
			l.Append(c.entry(0))
			items, _ := l.Page(api.AuditQuery{Limit: 1}, all)
			if want := tried - c.most; items[0].Omitted != want {
				t.Errorf("the next entry says that %d are omitted, want %d", items[0].Omitted, want)
			}
			l.Append(done("ann", "create-vm")) // what is done is always noted
			if items, _ := l.Page(api.AuditQuery{Limit: 1}, all); items[0].Verb != "create-vm" {
				t.Errorf("what was done is not noted")
			}
		})
	}
}

// TestAge: what is older than the log keeps is not shown, and its files go.
func TestAge(t *testing.T) {
	now := time.Now()
	l := open(t, audit.Options{MaxAge: 24 * time.Hour, Now: func() time.Time { return now }})
	l.Append(done("ann", "old"))
	now = now.Add(25 * time.Hour)
	l.Append(done("ann", "new"))
	if d := cmp.Diff([]string{"new"}, verbs(l, api.AuditQuery{})); d != "" {
		t.Error(d)
	}
}

// TestCutOff: a line that was cut off, as by a power cut, costs itself alone.
func TestCutOff(t *testing.T) {
	dir := t.TempDir()
	l := open(t, audit.Options{Dir: dir})
	l.Append(done("ann", "first"))
	l.Append(done("ann", "second"))
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(dir, "users", "*.jsonl"))
	if err != nil || len(files) != 1 {
		t.Fatal(files, err)
	}
	text, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(files[0], text[:len(text)-10], 0o600); err != nil {
		t.Fatal(err)
	}
	l = open(t, audit.Options{Dir: dir})
	l.Append(done("ann", "third"))
	if d := cmp.Diff([]string{"third", "first"}, verbs(l, api.AuditQuery{})); d != "" {
		t.Error(d)
	}
}

// TestWait: who waits hears of the next entry, and of an end.
func TestWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := open(t, audit.Options{})
		heard := make(chan struct{})
		go func() { l.Wait(t.Context(), 0); close(heard) }()
		synctest.Wait()
		select {
		case <-heard:
			t.Fatal("heard of an entry before there was one")
		default:
		}
		l.Append(done("ann", "create-vm"))
		<-heard
	})
}

// TestBounds: an entry is no larger than it may be, whatever is put into it.
func TestBounds(t *testing.T) {
	l := open(t, audit.Options{})
	e := done("ann", strings.Repeat("あ", 500))
	for range 500 {
		e.Changes = append(e.Changes, api.AuditChange{Object: strings.Repeat("o", 5000), Change: "changed", Fields: make([]string, 1000)})
	}
	l.Append(e)
	items, _ := l.Page(api.AuditQuery{}, all)
	got := items[0]
	if len(got.Changes) != 50 || got.More != 450 || len(got.Changes[0].Fields) > 40 || len(got.Verb) > 310 || len(got.Changes[0].Object) > 310 {
		t.Errorf("the entry has %d changes and %d more, %d fields, a verb of %d bytes, an object of %d", len(got.Changes), got.More, len(got.Changes[0].Fields), len(got.Verb), len(got.Changes[0].Object))
	}
}

// TestSees: members read what concerns their organisation, without from where others came.
func TestSees(t *testing.T) {
	e := api.AuditEntry{Actor: "root", Token: "t1", Address: "192.0.2.1", Owner: "lab1"}
	ann, bob, admin := access.Actor{User: "ann", Owner: "lab1"}, access.Actor{User: "bob", Owner: "lab2"}, access.Actor{User: "root", Admin: true}
	for _, c := range []struct {
		by   access.Actor
		e    api.AuditEntry
		want bool
	}{
		{ann, e, true}, {bob, e, false}, {admin, e, true}, {ann, api.AuditEntry{Actor: "root"}, false}, {access.Actor{User: "x"}, api.AuditEntry{}, false},
	} {
		if got := audit.Sees(c.by, c.e); got != c.want {
			t.Errorf("%s reads an entry of %q: %v", c.by.User, c.e.Owner, got)
		}
	}
	if got := audit.Shown(ann, e); got.Address != "" || got.Token != "" {
		t.Errorf("ann sees from where root came: %+v", got)
	}
	if got := audit.Shown(admin, e); got.Address != e.Address || got.Token != e.Token {
		t.Errorf("an admin does not see from where root came: %+v", got)
	}
}
