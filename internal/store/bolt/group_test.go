package bolt_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"
	"go.etcd.io/bbolt"

	"widecloud/internal/store"
	"widecloud/internal/store/bolt"
)

// commits is how many transactions bbolt has committed to a closed store's file. Each takes two syncs.
func commits(t *testing.T, path string) (n int) {
	t.Helper()
	db, err := bbolt.Open(path, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if err := db.View(func(tx *bbolt.Tx) error { n = tx.ID(); return nil }); err != nil {
		t.Fatal(err)
	}
	return n
}

func reopen(t *testing.T, o bolt.Options) *bolt.Store {
	t.Helper()
	s, err := bolt.Open(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// TestWaitingUpdatesShareSyncs: what waits while an Update runs is committed together after it.
func TestWaitingUpdatesShareSyncs(t *testing.T) {
	path := filepath.Join(t.TempDir(), "site.db")
	reopen(t, bolt.Options{Path: path}).Close()
	before := commits(t, path)
	synctest.Test(t, func(t *testing.T) {
		s := reopen(t, bolt.Options{Path: path})
		defer s.Close()
		var all sync.WaitGroup
		defer all.Wait()
		if _, err := s.Update(t.Context(), func(tx store.Tx) error {
			for i := range 20 {
				all.Go(func() { put(t, s, fmt.Sprint(i)) })
			}
			synctest.Wait()
			return tx.Put("first", nil)
		}); err != nil {
			t.Error(err)
		}
	})
	if n := commits(t, path) - before; n != 2 {
		t.Errorf("an Update and 20 that have waited for it took %d commits, want 2", n)
	}
}

// TestGroupsAreBounded: a group has room in the queue of a watcher that has kept up.
func TestGroupsAreBounded(t *testing.T) {
	for name, c := range map[string]struct {
		buffer, calls, size, commits int
	}{
		"all at once":         {0, 100, 1000, 1},
		"too many":            {0, 300, 10, 3},
		"a short queue":       {8, 20, 10, 3},
		"too many bytes":      {0, 6, 1 << 20, 6},
		"one that is too big": {0, 1, 20 << 20, 1},
	} {
		t.Run(name, func(t *testing.T) {
			o := bolt.Options{Path: filepath.Join(t.TempDir(), "site.db"), NoSync: true, Buffer: c.buffer}
			reopen(t, o).Close()
			before := commits(t, o.Path)
			s := reopen(t, o)
			var calls []*store.Call
			for i := range c.calls {
				calls = append(calls, &store.Call{Ctx: t.Context(), F: func(tx store.Tx) error { return tx.Put(fmt.Sprint(i), make([]byte, c.size)) }})
			}
			s.UpdateAll(calls)
			for i, call := range calls {
				if call.Err != nil || call.Revision != int64(i+1) {
					t.Errorf("Update %d: revision %d, %v", i, call.Revision, call.Err)
				}
			}
			s.Close()
			if n := commits(t, o.Path) - before; n != c.commits {
				t.Errorf("%d commits, want %d", n, c.commits)
			}
		})
	}
}

// TestGroupOnFullDisk: a group that does not fit is made one by one. The reserve is for the urgent ones among them.
func TestGroupOnFullDisk(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=8m"); err != nil {
		t.Fatalf("mount tmpfs (needs root): %v", err)
	}
	defer syscall.Unmount(dir, syscall.MNT_DETACH)
	s := reopen(t, bolt.Options{Path: filepath.Join(dir, "site.db"), Reserve: 2 << 20})
	defer s.Close()
	if err := os.WriteFile(filepath.Join(dir, "filler"), make([]byte, 16<<20), 0o600); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("fill the disk: %v", err)
	}
	call := func(ctx context.Context, key string, size int, err error) *store.Call {
		return &store.Call{Ctx: ctx, F: func(tx store.Tx) error { return errors.Join(tx.Put(key, make([]byte, size)), err) }}
	}
	mine := errors.New("mine")
	for i := range 200 { // until no pages are left beside the reserve
		if s.UpdateAll([]*store.Call{call(t.Context(), fmt.Sprint("more", i), 20000, nil)}); i == 199 {
			t.Log("200 rows of 20 kB were written")
		}
	}
	_, newest := listed(t, s)
	calls := []*store.Call{
		call(store.Urgent(t.Context()), "a", 20000, nil),
		call(t.Context(), "b", 400000, nil),
		call(store.Urgent(t.Context()), "c", 20000, mine),
		call(store.Urgent(t.Context()), "d", 20000, nil),
		call(store.Urgent(t.Context()), "e", 16<<20, nil),
		call(store.Urgent(t.Context()), "f", 20000, nil),
	}
	s.UpdateAll(calls)
	for i, want := range []error{nil, store.ErrFull, mine, nil, store.ErrFull, nil} {
		if err := calls[i].Err; !errors.Is(err, want) {
			t.Errorf("Update %d: %v, want %v", i, err, want)
		}
		if want == nil {
			if newest++; calls[i].Revision != newest {
				t.Errorf("Update %d has revision %d, want %d", i, calls[i].Revision, newest)
			}
		}
	}
	keys, _ := listed(t, s)
	if d := cmp.Diff("a d f", strings.Join(keys, " ")); d != "" {
		t.Errorf("keys (-want +got):\n%s", d)
	}
}

// listed are the keys of one letter, and the newest revision.
func listed(t *testing.T, s store.Store) (keys []string, newest int64) {
	t.Helper()
	if err := s.View(t.Context(), func(tx store.Tx) error {
		newest = tx.Revision()
		kvs, err := tx.List("")
		for _, kv := range kvs {
			if len(kv.Key) == 1 {
				keys = append(keys, kv.Key)
			}
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return keys, newest
}

// faultGroup is set in the environment of the child that writes a group under a fault.
const faultGroup = "WIDECLOUD_BOLT_GROUP"

// writeGroupUnderFault writes the rows 0 and 1 together with one that fails, and prints of each row what its Update said and what a View
// shows then.
func writeGroupUnderFault(path string) error {
	runtime.LockOSThread() // strace counts the calls of each thread
	s, err := bolt.Open(bolt.Options{Path: path})
	if err != nil {
		return err
	}
	defer s.Close()
	ctx := context.Background()
	mine := errors.New("mine")
	row := func(key string, err error) *store.Call {
		return &store.Call{Ctx: ctx, F: func(tx store.Tx) error { return errors.Join(tx.Put(key, make([]byte, 20000)), err) }}
	}
	calls := []*store.Call{row("0", nil), row("bad", mine), row("1", nil)}
	s.UpdateAll(calls)
	if calls[0].Err == nil && !errors.Is(calls[1].Err, mine) {
		return fmt.Errorf("the row that fails: %w", calls[1].Err)
	}
	for key, c := range map[string]*store.Call{"0": calls[0], "1": calls[2]} {
		seen := "absent"
		err := s.View(ctx, func(tx store.Tx) error {
			if _, err := tx.Get("bad"); err == nil {
				return errors.New("the row that fails is there")
			}
			if kv, err := tx.Get(key); err == nil {
				if seen = "there"; c.Err == nil && kv.Modified != c.Revision {
					return fmt.Errorf("row %s is of revision %d, and was told %d", key, kv.Modified, c.Revision)
				}
			}
			return nil
		})
		if errors.Is(err, store.ErrUnsure) {
			seen = "unsure"
		} else if err != nil {
			return err
		}
		fmt.Println(key, outcome(c.Err), seen)
	}
	return nil
}

// TestGroupOnFailingDisk makes each write and each sync of a group fail or kill the process. What its Updates say must be so, at once and
// after a restart; and the group is there as a whole, or not at all.
func TestGroupOnFailingDisk(t *testing.T) {
	outcomes := map[string]int{}
	for _, fault := range []string{
		"pwrite64:error=EIO:when=%d", "pwrite64:signal=KILL:when=%d",
		"fdatasync:error=EIO:when=%d", "fdatasync:error=EIO:when=%d+", "fdatasync:signal=KILL:when=%d",
	} {
		for n := 1; ; n++ {
			inject := fmt.Sprintf(fault, n)
			path := filepath.Join(t.TempDir(), "site.db")
			s := reopen(t, bolt.Options{Path: path})
			put(t, s, "old")
			s.Close()
			o := underFault(t, path, inject, faultGroup+"=1")
			s = reopen(t, bolt.Options{Path: path})
			keys, newest := listed(t, s)
			there := strings.Join(keys, " ") == "0 1"
			if want := map[bool]int64{true: 3, false: 1}[there]; newest != want || !there && len(keys) > 0 {
				t.Errorf("%s: after a restart the rows %v are there, and the newest revision is %d", inject, keys, newest)
			}
			for _, l := range o.lines {
				outcomes[l.said+", "+l.seen]++
				if l.said == "written" && (l.seen != "there" || !there) || l.said == "failed" && (l.seen != "absent" || there) {
					t.Errorf("%s: the Update of row %s says %s, it is %s, and after a restart there are %v", inject, l.row, l.said, l.seen, keys)
				}
			}
			if len(o.lines) == 0 { // killed
				outcomes[fmt.Sprint("killed, there after it: ", there)]++
			}
			put(t, s, "new")
			s.Close()
			checkFile(t, path)
			if !o.met {
				break // the child makes fewer such calls
			}
			if n > 60 {
				t.Fatalf("%s is still met", inject)
			}
		}
	}
	for _, want := range []string{"written, there", "failed, absent", "unsure, unsure", "killed, there after it: true", "killed, there after it: false"} {
		if outcomes[want] == 0 {
			t.Errorf("no fault led to %q; there were %v", want, outcomes)
		}
	}
	t.Log(outcomes)
}

// BenchmarkUpdate: writers that each write one row after the other, synced. The time is that of one Update.
func BenchmarkUpdate(b *testing.B) {
	for _, writers := range []int{1, 8, 64} {
		b.Run(fmt.Sprint(writers), func(b *testing.B) {
			s, err := bolt.Open(bolt.Options{Path: filepath.Join(b.TempDir(), "site.db")})
			if err != nil {
				b.Fatal(err)
			}
			defer s.Close()
			b.ResetTimer()
			var all sync.WaitGroup
			for w := range writers {
				all.Go(func() {
					for n := w; n < b.N; n += writers {
						key := fmt.Sprint(w, "/", n%100)
						if _, err := s.Update(b.Context(), func(tx store.Tx) error { return tx.Put(key, make([]byte, 2000)) }); err != nil {
							b.Error(err)
						}
					}
				})
			}
			all.Wait()
		})
	}
}
