package audit

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"widecloud/api"
)

// Options says where the log is, and how much it keeps.
type Options struct {
	Dir      string        // made (mode 0700) when it is not there
	MaxBytes int64         // of all files together; 0: 64 MiB
	MaxAge   time.Duration // older entries are not shown, and removed; 0: 90 days
	Logger   *slog.Logger  // required
	Now      func() time.Time
}

// The defaults of Options.
const (
	DefaultBytes = 64 << 20
	DefaultAge   = 90 * 24 * time.Hour
)

// The books: whose deeds are in them, and their parts of the size, in eighths.
const (
	users = iota
	machines
	strangers
	books
)

var bookOf = [books]struct {
	name   string
	eighth int64
}{{"users", 4}, {"machines", 3}, {"strangers", 1}}

// Log is a site's audit log. A nil Log notes nothing, and has no entries. It may be used concurrently.
type Log struct {
	o   Options
	log *slog.Logger

	mu      sync.Mutex
	books   [books]*book
	last    int64         // id of the newest entry
	newer   chan struct{} // closed when there is a newer entry
	limits  limits
	omitted [books]int // refusals that were not noted since the last one that was
	failing error      // of the last Append
	closed  bool
}

// Open opens or makes a log. Close it after use.
func Open(o Options) (*Log, error) {
	o.MaxBytes, o.MaxAge = cmp.Or(o.MaxBytes, DefaultBytes), cmp.Or(o.MaxAge, DefaultAge)
	if o.Now == nil {
		o.Now = time.Now
	}
	l := &Log{o: o, log: o.Logger, newer: make(chan struct{}), limits: limits{}}
	for i, b := range bookOf {
		opened, newest, err := openBook(filepath.Join(o.Dir, b.name), o.MaxBytes*b.eighth/8)
		if err != nil {
			return nil, fmt.Errorf("open the audit log: %w", err)
		}
		l.books[i], l.last = opened, max(l.last, newest)
	}
	return l, nil
}

// Run syncs the log once a second, and removes what is too old, until ctx ends.
func (l *Log) Run(ctx context.Context) error {
	every := time.NewTicker(time.Second)
	defer every.Stop()
	for n := 0; ; n++ {
		if err := l.settle(n%3600 == 0); err != nil {
			l.log.Error("keep the audit log", "err", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-every.C:
		}
	}
}

// settle syncs what was written, without keeping those who write waiting for the disk.
func (l *Log) settle(expire bool) (err error) {
	var dirty []*os.File
	l.mu.Lock()
	for _, b := range l.books {
		if b.dirty && b.out != nil {
			dirty = append(dirty, b.out)
		}
		b.dirty = false
		if expire {
			err = errors.Join(err, b.expire(l.o.Now().Add(-l.o.MaxAge)))
		}
	}
	l.mu.Unlock()
	for _, f := range dirty {
		if serr := f.Sync(); !errors.Is(serr, os.ErrClosed) { // a file that was closed meanwhile was synced before that
			err = errors.Join(err, serr)
		}
	}
	return err
}

// Close syncs and closes the log. What is done later is not noted.
func (l *Log) Close() error {
	err := l.settle(false)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	for _, b := range l.books {
		if b.out != nil {
			if cerr := b.out.Close(); err == nil {
				err = cerr
			}
			b.out = nil
		}
	}
	return err
}

// Failing is why the last entry could not be written; nil when it could.
func (l *Log) Failing() error {
	if l == nil {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.failing
}

// End notes a deed that ended with err. Refusals are noted as far as limits.go lets them.
func (l *Log) End(d *Deed, err error) {
	if e, ok := d.Entry(err); ok {
		l.Append(e)
	}
}

// Append notes an entry; its id and, unless it has one, its time are given here. What cannot be written is logged: the deed is done by
// then.
func (l *Log) Append(e api.AuditEntry) {
	if l == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return // the process ends
	}
	of := bookFor(e)
	now := l.o.Now()
	if e.Result != api.AuditDone && !l.limits.take(of, e, now) {
		l.omitted[of]++
		return
	}
	if e.Result != api.AuditDone {
		e.Omitted, l.omitted[of] = l.omitted[of], 0
	}
	if e.Time.IsZero() {
		e.Time = now.UTC().Truncate(time.Millisecond)
	}
	e = bounded(e)
	e.ID = l.last + 1
	if l.failing = l.books[of].add(e); l.failing != nil {
		l.log.Error("write the audit log", "actor", e.Actor, "verb", e.Verb, "err", l.failing)
		return
	}
	l.last = e.ID
	close(l.newer)
	l.newer = make(chan struct{})
}

// bookFor is the book of an entry.
func bookFor(e api.AuditEntry) int {
	switch {
	case e.Actor == "":
		return strangers
	case strings.Contains(e.Actor, ":"): // no user's name has one
		return machines
	}
	return users
}

const (
	defaultLimit = 100
	// MaxLimit is the most entries of a page.
	MaxLimit = 1000
	// scanned is how many entries a page looks at, most of all.
	scanned = 100_000
)

// Page gives entries that q and may take, the newest first. A page may have fewer than q.Limit, or none, and others follow all the same:
// next says from where.
func (l *Log) Page(q api.AuditQuery, may func(api.AuditEntry) bool) (out []api.AuditEntry, next int64) {
	out = []api.AuditEntry{}
	if l == nil {
		return out, 0
	}
	limit := min(cmp.Or(q.Limit, defaultLimit), MaxLimit)
	oldest := l.o.Now().Add(-l.o.MaxAge)
	if q.Since.After(oldest) {
		oldest = q.Since
	}
	seen := 0
	for e := range l.merged(q.Before) {
		if e.ID <= q.After || e.Time.Before(oldest) {
			return out, 0
		}
		if seen++; seen > scanned || len(out) == limit {
			return out, e.ID + 1
		}
		if matches(q, e) && may(e) {
			out = append(out, e)
		}
	}
	return out, 0
}

// merged gives the entries of all books that are older than the one of an id, the newest first.
func (l *Log) merged(before int64) iter.Seq[api.AuditEntry] {
	return func(yield func(api.AuditEntry) bool) {
		l.mu.Lock()
		var files [books][]part
		for i, b := range l.books {
			files[i] = slices.Clone(b.files)
		}
		if before == 0 || before > l.last+1 {
			before = l.last + 1 // what comes meanwhile is of no page of this
		}
		l.mu.Unlock()
		var next [books]func() (api.AuditEntry, bool)
		var heads [books]*api.AuditEntry
		advance := func(i int) {
			heads[i] = nil
			if e, ok := next[i](); ok {
				heads[i] = &e
			}
		}
		for i := range files {
			pull, stop := iter.Pull(newestFirst(files[i], before))
			defer stop()
			next[i] = pull
			advance(i)
		}
		for {
			newest := -1
			for i, h := range heads {
				if h != nil && (newest < 0 || h.ID > heads[newest].ID) {
					newest = i
				}
			}
			if newest < 0 || !yield(*heads[newest]) {
				return
			}
			advance(newest)
		}
	}
}

func matches(q api.AuditQuery, e api.AuditEntry) bool {
	return actorMatches(q.Actor, e.Actor) && (q.Verb == "" || q.Verb == e.Verb) && (q.Result == "" || q.Result == e.Result) && objectMatches(q, e)
}

func actorMatches(wanted, actor string) bool {
	switch {
	case wanted == "":
		return true
	case wanted == "-":
		return actor == ""
	case strings.HasSuffix(wanted, ":"):
		return strings.HasPrefix(actor, wanted)
	}
	return wanted == actor
}

func objectMatches(q api.AuditQuery, e api.AuditEntry) bool {
	is := func(kind, name string) bool {
		return (q.Kind == "" || string(q.Kind) == kind) && (q.Name == "" || q.Name == name)
	}
	if is(string(e.Kind), e.Name) {
		return true
	}
	return slices.ContainsFunc(e.Changes, func(c api.AuditChange) bool {
		kind, name, _ := strings.Cut(c.Object, "/")
		return is(kind, name)
	})
}

// Last is the id of the newest entry; 0: there is none.
func (l *Log) Last() int64 {
	if l == nil {
		return 0
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.last
}

// Wait returns when there is an entry after that of an id, or ctx ends.
func (l *Log) Wait(ctx context.Context, after int64) {
	for {
		var newer <-chan struct{} // of a nil Log: never
		if l != nil {
			l.mu.Lock()
			if l.last > after {
				l.mu.Unlock()
				return
			}
			newer = l.newer
			l.mu.Unlock()
		}
		select {
		case <-newer:
		case <-ctx.Done():
			return
		}
	}
}
