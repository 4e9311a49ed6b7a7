package storetest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"widecloud/internal/store"
)

// Options are what the suite wants of a store.
type Options struct {
	History int   // revisions kept for watches; 0: the driver's default
	Buffer  int   // revisions that a watcher may be behind; 0: the driver's default
	Reserve int64 // bytes of the disk for urgent Updates; 0: none
	NoSync  bool
}

// Driver opens the store that lives in a directory; the same directory again is the same store.
type Driver func(dir string, o Options) (store.Store, error)

// Updates says how a driver runs the functions of Updates that are made at the same time.
type Updates int

const (
	// OneByOne: each function waits for the one before it.
	OneByOne Updates = iota
	// SideBySide: at once, each on what it finds; those that others have outdated run again.
	SideBySide
)

// Run runs the suite for a driver that runs Updates in one of the two ways.
func Run(t *testing.T, open Driver, updates Updates) {
	for _, tc := range []struct {
		name string
		f    func(*testing.T, Driver)
	}{
		{"Revisions", testRevisions},
		{"Transaction", testTransaction},
		{"AtomicOnError", testAtomicOnError},
		{"AtomicOnPanic", testAtomicOnPanic},
		{"Context", testContext},
		{"CancelledWaiting", func(t *testing.T, open Driver) { testCancelledWaiting(t, open, updates) }},
		{"Prefix", testPrefix},
		{"BadKeys", testBadKeys},
		{"KeptValues", testKeptValues},
		{"Serialisable", testSerialisable},
		{"SerialOrder", testSerialOrder},
		{"Together", testTogether},
		{"Snapshot", testSnapshot},
		{"WatchNow", testWatchNow},
		{"WatchFrom", testWatchFrom},
		{"WatchNet", testWatchNet},
		{"WatchAcrossReopen", testWatchAcrossReopen},
		{"WatchExactlyOnce", testWatchExactlyOnce},
		{"WatchCompacted", testWatchCompacted},
		{"WatchFuture", testWatchFuture},
		{"WatchSlow", testWatchSlow},
		{"WatchMemory", testWatchMemory},
		{"WatchEnds", testWatchEnds},
		{"Closed", testClosed},
		{"Model", testModel},
		{"KilledWriter", testKilledWriter},
		{"KilledTogether", testKilledTogether},
		{"Room", testRoom},
		{"Full", testFull},
		{"ReserveUsedUp", testReserveUsedUp},
		{"FullKilled", testFullKilled},
	} {
		t.Run(tc.name, func(t *testing.T) { tc.f(t, open) })
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func openIn(t testing.TB, open Driver, dir string, o Options) store.Store {
	t.Helper()
	s, err := open(dir, o)
	must(t, err)
	t.Cleanup(func() { s.Close() })
	return s
}

func put(t testing.TB, s store.Store, key, value string) int64 {
	t.Helper()
	rev, err := s.Update(t.Context(), func(tx store.Tx) error { return tx.Put(key, []byte(value)) })
	must(t, err)
	return rev
}

func del(t testing.TB, s store.Store, key string) int64 {
	t.Helper()
	rev, err := s.Update(t.Context(), func(tx store.Tx) error { return tx.Delete(key) })
	must(t, err)
	return rev
}

// dump lists all keys, as "key=value@created,modified".
func dump(t testing.TB, s store.Store) (rows []string, rev int64) {
	t.Helper()
	must(t, s.View(t.Context(), func(tx store.Tx) error {
		rev = tx.Revision()
		kvs, err := tx.List("")
		for _, kv := range kvs {
			rows = append(rows, fmt.Sprintf("%s=%s@%d,%d", kv.Key, kv.Value, kv.Created, kv.Modified))
		}
		return err
	}))
	return rows, rev
}

func same(t testing.TB, what string, want, got any) {
	t.Helper()
	if d := cmp.Diff(want, got); d != "" {
		t.Fatalf("%s (-want +got):\n%s", what, d)
	}
}

func wantErr(t testing.TB, what string, want, got error) {
	t.Helper()
	if !errors.Is(got, want) {
		t.Fatalf("%s: error is %v, want %v", what, got, want)
	}
}

func testRevisions(t *testing.T, open Driver) {
	dir := t.TempDir()
	s := openIn(t, open, dir, Options{})
	_, rev := dump(t, s)
	same(t, "revision of a new store", int64(0), rev)
	r1 := put(t, s, "a", "1")
	r2 := put(t, s, "a", "2")
	r3 := put(t, s, "b", "1")
	if !(0 < r1 && r1 < r2 && r2 < r3) {
		t.Fatalf("revisions %d, %d, %d do not grow", r1, r2, r3)
	}
	// An Update that writes nothing takes no revision.
	r, err := s.Update(t.Context(), func(store.Tx) error { return nil })
	must(t, err)
	same(t, "revision of an empty Update", r3, r)

	must(t, s.Close())
	s = openIn(t, open, dir, Options{})
	rows, rev := dump(t, s)
	same(t, "revision after reopening", r3, rev)
	same(t, "content", []string{fmt.Sprintf("a=2@%d,%d", r1, r2), fmt.Sprintf("b=1@%d,%d", r3, r3)}, rows)
	r4 := del(t, s, "b")
	r5 := put(t, s, "b", "again")
	if !(r3 < r4 && r4 < r5) {
		t.Fatalf("revisions %d, %d, %d do not grow after reopening", r3, r4, r5)
	}
	rows, _ = dump(t, s)
	same(t, "content", []string{fmt.Sprintf("a=2@%d,%d", r1, r2), fmt.Sprintf("b=again@%d,%d", r5, r5)}, rows)
}

func testTransaction(t *testing.T, open Driver) {
	s := openIn(t, open, t.TempDir(), Options{})
	put(t, s, "k/1", "one")
	before := put(t, s, "k/2", "two")
	rev, err := s.Update(t.Context(), func(tx store.Tx) error {
		same(t, "revision seen", before, tx.Revision())
		must(t, tx.Put("k/3", []byte("three")))
		must(t, tx.Delete("k/1"))
		must(t, tx.Put("k/2", nil))
		_, err := tx.Get("k/1")
		wantErr(t, "deleted in this transaction", store.ErrNotFound, err)
		wantErr(t, "delete twice", store.ErrNotFound, tx.Delete("k/1"))
		kvs, err := tx.List("k/")
		must(t, err)
		var keys []string
		for _, kv := range kvs {
			keys = append(keys, kv.Key+"="+string(kv.Value))
		}
		same(t, "own writes", []string{"k/2=", "k/3=three"}, keys)
		return nil
	})
	must(t, err)
	must(t, s.View(t.Context(), func(tx store.Tx) error {
		same(t, "revision", rev, tx.Revision())
		kv, err := tx.Get("k/3")
		must(t, err)
		same(t, "kv", store.KV{Key: "k/3", Value: []byte("three"), Created: rev, Modified: rev}, kv)
		kv, err = tx.Get("k/2")
		must(t, err)
		same(t, "empty value", 0, len(kv.Value))
		if tx.Put("x", nil) == nil || tx.Delete("k/2") == nil {
			t.Error("a View took a write")
		}
		return nil
	}))
	// A transaction that has ended is of no use.
	var kept store.Tx
	_, err = s.Update(t.Context(), func(tx store.Tx) error { kept = tx; return nil })
	must(t, err)
	if _, err := kept.Get("k/2"); err == nil {
		t.Error("Get after the transaction's end succeeded")
	}
	if _, err := kept.List(""); err == nil {
		t.Error("List after the transaction's end succeeded")
	}
	if kept.Put("x", nil) == nil {
		t.Error("Put after the transaction's end succeeded")
	}
}

func testAtomicOnError(t *testing.T, open Driver) {
	s := openIn(t, open, t.TempDir(), Options{})
	put(t, s, "a", "1")
	before, rev := dump(t, s)
	w, err := s.Watch(t.Context(), "", -1)
	must(t, err)
	mine := errors.New("mine")
	_, err = s.Update(t.Context(), func(tx store.Tx) error {
		must(t, tx.Put("b", []byte("1")))
		must(t, tx.Delete("a"))
		return mine
	})
	if err != mine {
		t.Fatalf("Update returned %v, want the error of its function as it is", err)
	}
	after, revAfter := dump(t, s)
	same(t, "content after a failed Update", before, after)
	same(t, "revision after a failed Update", rev, revAfter)
	next := put(t, s, "c", "1")
	same(t, "changes", []store.Change{{Revision: next, Key: "c", Value: []byte("1")}}, receive(t, w))
}

func testAtomicOnPanic(t *testing.T, open Driver) {
	s := openIn(t, open, t.TempDir(), Options{})
	put(t, s, "a", "1")
	before, _ := dump(t, s)
	func() {
		defer func() { same(t, "panic", any("mine"), recover()) }()
		s.Update(t.Context(), func(tx store.Tx) error {
			must(t, tx.Put("b", []byte("1")))
			panic("mine")
		})
	}()
	after, _ := dump(t, s)
	same(t, "content after a panic", before, after)
	put(t, s, "b", "2") // and the store still takes writes
}

func testContext(t *testing.T, open Driver) {
	s := openIn(t, open, t.TempDir(), Options{})
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	f := func(store.Tx) error { t.Error("the function was run"); return nil }
	wantErr(t, "View", context.Canceled, s.View(gone, f))
	_, err := s.Update(gone, f)
	wantErr(t, "Update", context.Canceled, err)
	_, err = s.Watch(gone, "", -1)
	wantErr(t, "Watch", context.Canceled, err)
	// Cancelled while it runs: nothing is written.
	ctx, cancel := context.WithCancel(t.Context())
	_, err = s.Update(ctx, func(tx store.Tx) error { cancel(); return tx.Put("a", nil) })
	wantErr(t, "Update", context.Canceled, err)
	rows, _ := dump(t, s)
	same(t, "content", []string(nil), rows)
}

// testCancelledWaiting cancels an Update while the function of another one runs, which it has to wait for or runs beside.
func testCancelledWaiting(t *testing.T, open Driver, updates Updates) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		s := openIn(t, open, dir, Options{})
		ctx, cancel := context.WithCancel(t.Context())
		_, err := s.Update(t.Context(), func(store.Tx) error {
			ran, done := false, make(chan error, 1)
			go func() {
				_, err := s.Update(ctx, func(store.Tx) error { ran = true; return nil })
				done <- err
			}()
			synctest.Wait() // until it waits, or is done
			cancel()
			var want error
			if updates == OneByOne {
				want = context.Canceled
			}
			if err := <-done; !errors.Is(err, want) || ran != (updates == SideBySide) {
				t.Errorf("the other Update: error is %v, its function was run: %v", err, ran)
			}
			return nil
		})
		must(t, err)
	})
}

func testPrefix(t *testing.T, open Driver) {
	s := openIn(t, open, t.TempDir(), Options{})
	w, err := s.Watch(t.Context(), "vms/", -1)
	must(t, err)
	for _, k := range []string{"vm", "vms", "vms/a", "vms/b/c", "vms0", "vns/a", "vms/\xff\xff", "vms/"} {
		put(t, s, k, k)
	}
	want := []string{"vms/", "vms/a", "vms/b/c", "vms/\xff\xff"}
	var got []string
	must(t, s.View(t.Context(), func(tx store.Tx) error {
		kvs, err := tx.List("vms/")
		for _, kv := range kvs {
			got = append(got, kv.Key)
		}
		return err
	}))
	same(t, "listed", want, got)
	got = nil
	for range want {
		for _, c := range receive(t, w) {
			got = append(got, c.Key)
		}
	}
	same(t, "watched", []string{"vms/a", "vms/b/c", "vms/\xff\xff", "vms/"}, got)
	select {
	case cs := <-w.C():
		t.Fatalf("watch of vms/ gave %v", cs)
	default:
	}
}

func testBadKeys(t *testing.T, open Driver) {
	s := openIn(t, open, t.TempDir(), Options{})
	for _, k := range []string{"", strings.Repeat("k", 1<<20)} {
		if _, err := s.Update(t.Context(), func(tx store.Tx) error { return tx.Put(k, nil) }); err == nil {
			t.Errorf("a key of %d bytes was taken", len(k))
		}
		must(t, s.View(t.Context(), func(tx store.Tx) error {
			_, err := tx.Get(k)
			wantErr(t, "Get", store.ErrNotFound, err)
			return nil
		}))
	}
}

// Values may be kept, and what the caller does to its own slices afterwards changes nothing.
func testKeptValues(t *testing.T, open Driver) {
	s := openIn(t, open, t.TempDir(), Options{})
	w, err := s.Watch(t.Context(), "", -1)
	must(t, err)
	value := []byte("first")
	_, err = s.Update(t.Context(), func(tx store.Tx) error {
		must(t, tx.Put("a", value))
		copy(value, "XXXXX")
		return nil
	})
	must(t, err)
	var kept store.KV
	must(t, s.View(t.Context(), func(tx store.Tx) (err error) { kept, err = tx.Get("a"); return err }))
	for i := range 50 {
		put(t, s, "a", fmt.Sprintf("other %d %s", i, strings.Repeat("x", 500)))
	}
	same(t, "kept value", "first", string(kept.Value))
	same(t, "watched value", "first", string(receive(t, w)[0].Value))
	kept.Value[0] = 'X' // must not be read-only memory, nor shared
}

func testSerialisable(t *testing.T, open Driver) {
	s := openIn(t, open, t.TempDir(), Options{NoSync: true})
	const workers, rounds = 8, 25
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for range rounds {
				_, err := s.Update(t.Context(), func(tx store.Tx) error {
					n := 0
					kv, err := tx.Get("counter")
					if err == nil {
						fmt.Sscan(string(kv.Value), &n)
					} else if !errors.Is(err, store.ErrNotFound) {
						return err
					}
					return tx.Put("counter", fmt.Append(nil, n+1))
				})
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	rows, rev := dump(t, s)
	same(t, "counter", []string{fmt.Sprintf("counter=%d@1,%d", workers*rounds, rev)}, rows)
	same(t, "revision", int64(workers*rounds), rev)
}

// A View sees one revision, whatever is written meanwhile.
func testSnapshot(t *testing.T, open Driver) {
	s := openIn(t, open, t.TempDir(), Options{NoSync: true})
	both := func(v string) {
		_, err := s.Update(t.Context(), func(tx store.Tx) error {
			return errors.Join(tx.Put("a", []byte(v)), tx.Put("b", []byte(v)))
		})
		must(t, err)
	}
	both("old")
	must(t, s.View(t.Context(), func(tx store.Tx) error {
		a, err := tx.Get("a")
		must(t, err)
		done := make(chan struct{})
		go func() { defer close(done); both("new") }()
		<-done
		b, err := tx.Get("b")
		must(t, err)
		same(t, "a and b", string(a.Value), string(b.Value))
		same(t, "revision", a.Modified, tx.Revision())
		return nil
	}))
}

func testClosed(t *testing.T, open Driver) {
	s := openIn(t, open, t.TempDir(), Options{})
	must(t, s.Close())
	must(t, s.Close())
	f := func(store.Tx) error { t.Error("the function was run"); return nil }
	wantErr(t, "View", store.ErrClosed, s.View(t.Context(), f))
	_, err := s.Update(t.Context(), f)
	wantErr(t, "Update", store.ErrClosed, err)
	_, err = s.Watch(t.Context(), "", -1)
	wantErr(t, "Watch", store.ErrClosed, err)
}

// testModel compares random transactions, with failures and reopenings, with a map, and the watch with both.
func testModel(t *testing.T, open Driver) {
	dirs := 0
	rapid.Check(t, func(rt *rapid.T) {
		dirs++
		dir := t.TempDir()
		s, err := open(dir, Options{NoSync: true})
		if err != nil {
			rt.Fatal(err)
		}
		defer func() { s.Close() }()
		type entry struct {
			value             string
			created, modified int64
		}
		model := map[string]entry{}
		var rev int64
		key := rapid.SampledFrom([]string{"a", "a/1", "a/2", "b", "b/1", "c"})
		fail := errors.New("undo")
		rt.Repeat(map[string]func(*rapid.T){
			"update": func(rt *rapid.T) {
				next := maps.Clone(model)
				undo := rapid.Float64Range(0, 1).Draw(rt, "undo") < 0.2
				n := rapid.IntRange(0, 5).Draw(rt, "writes")
				wrote := map[string]bool{}
				got, err := s.Update(context.Background(), func(tx store.Tx) error {
					for range n {
						k := key.Draw(rt, "key")
						old, there := next[k]
						if rapid.Bool().Draw(rt, "delete") {
							err := tx.Delete(k)
							if there != (err == nil) {
								rt.Fatalf("delete %s, there %t: %v", k, there, err)
							}
							if there {
								delete(next, k)
								wrote[k] = true
							}
							continue
						}
						v := rapid.StringN(0, 8, 32).Draw(rt, "value")
						if err := tx.Put(k, []byte(v)); err != nil {
							rt.Fatal(err)
						}
						e := entry{v, rev + 1, rev + 1}
						if there {
							e.created = old.created
						}
						next[k] = e
						wrote[k] = true
					}
					if undo {
						return fail
					}
					return nil
				})
				if undo {
					if err != fail {
						rt.Fatalf("error is %v", err)
					}
					return
				}
				if err != nil {
					rt.Fatal(err)
				}
				changed := false
				for k := range wrote {
					_, before := model[k]
					_, after := next[k]
					changed = changed || before || after
				}
				if changed {
					rev++
				}
				if got != rev {
					rt.Fatalf("revision is %d, want %d", got, rev)
				}
				model = next
			},
			"reopen": func(rt *rapid.T) {
				if err := s.Close(); err != nil {
					rt.Fatal(err)
				}
				if s, err = open(dir, Options{NoSync: true}); err != nil {
					rt.Fatal(err)
				}
			},
			"": func(rt *rapid.T) {
				prefix := rapid.SampledFrom([]string{"", "a", "a/", "b/", "nothing"}).Draw(rt, "prefix")
				var want, got []string
				for _, k := range slices.Sorted(maps.Keys(model)) {
					if e := model[k]; strings.HasPrefix(k, prefix) {
						want = append(want, fmt.Sprintf("%s=%q@%d,%d", k, e.value, e.created, e.modified))
					}
				}
				err := s.View(context.Background(), func(tx store.Tx) error {
					kvs, err := tx.List(prefix)
					for _, kv := range kvs {
						got = append(got, fmt.Sprintf("%s=%q@%d,%d", kv.Key, kv.Value, kv.Created, kv.Modified))
					}
					if tx.Revision() != rev {
						rt.Fatalf("revision is %d, want %d", tx.Revision(), rev)
					}
					return err
				})
				if err != nil {
					rt.Fatal(err)
				}
				if d := cmp.Diff(want, got); d != "" {
					rt.Fatalf("list %q (-want +got):\n%s", prefix, d)
				}
			},
		})
		// Replaying the watch from the beginning gives the model.
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		w, err := s.Watch(ctx, "", 0)
		if err != nil {
			rt.Fatal(err)
		}
		replayed := map[string]string{}
		for r := int64(1); r <= rev; r++ {
			for _, c := range <-w.C() {
				prev, there := replayed[c.Key]
				if c.Revision != r || there != (c.Prev != nil) || prev != string(c.Prev) {
					rt.Fatalf("change %+v at revision %d, where %s was %q", c, r, c.Key, prev)
				}
				if c.Deleted {
					delete(replayed, c.Key)
				} else {
					replayed[c.Key] = string(c.Value)
				}
			}
		}
		want := map[string]string{}
		for k, e := range model {
			want[k] = e.value
		}
		if d := cmp.Diff(want, replayed); d != "" {
			rt.Fatalf("replayed watch (-want +got):\n%s", d)
		}
	})
}
