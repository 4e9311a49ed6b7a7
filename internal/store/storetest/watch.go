package storetest

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"widecloud/internal/store"
)

// receive takes the next changes of a watch. The wait is long because its length decides nothing.
func receive(t testing.TB, w store.Watcher) []store.Change {
	t.Helper()
	select {
	case cs, ok := <-w.C():
		if !ok {
			t.Fatalf("watch ended: %v", w.Err())
		}
		return cs
	case <-time.After(time.Minute):
		t.Fatal("no change within a minute")
		return nil
	}
}

// end waits for a watch's end, dropping what it still gives, and returns its error.
func end(t testing.TB, w store.Watcher) error {
	t.Helper()
	for {
		select {
		case _, ok := <-w.C():
			if !ok {
				return w.Err()
			}
		case <-time.After(time.Minute):
			t.Fatal("watch did not end within a minute")
		}
	}
}

func testWatchNow(t *testing.T, open Driver) {
	s := openIn(t, open, t.TempDir(), Options{})
	put(t, s, "a", "1")
	w, err := s.Watch(t.Context(), "", -1)
	must(t, err)
	r2 := put(t, s, "a", "2")
	same(t, "put", []store.Change{{Revision: r2, Key: "a", Value: []byte("2"), Prev: []byte("1")}}, receive(t, w))
	r3 := del(t, s, "a")
	same(t, "delete", []store.Change{{Revision: r3, Key: "a", Deleted: true, Prev: []byte("2")}}, receive(t, w))
	r4 := put(t, s, "a", "")
	same(t, "put of nothing", []store.Change{{Revision: r4, Key: "a", Value: []byte{}}}, receive(t, w))
}

func testWatchFrom(t *testing.T, open Driver) {
	s := openIn(t, open, t.TempDir(), Options{NoSync: true})
	var revs []int64
	const n = 700 // more than a driver would read at once
	for i := range n {
		revs = append(revs, put(t, s, fmt.Sprintf("k/%d", i%3), fmt.Sprint(i)))
	}
	for _, from := range []int{0, 1, 350, n - 1, n} {
		w, err := s.Watch(t.Context(), "k/", int64(from))
		must(t, err)
		last := put(t, s, "k/last", fmt.Sprint(from))
		want := append(slices.Clone(revs[from:]), last)
		revs = append(revs, last)
		for i, rev := range want {
			if cs := receive(t, w); len(cs) != 1 || cs[0].Revision != rev {
				t.Fatalf("from %d: change %d is %v, want revision %d", from, i, cs, rev)
			}
		}
	}
}

// A watch gives what an Update did in the end, in the order of first writes, at once.
func testWatchNet(t *testing.T, open Driver) {
	s := openIn(t, open, t.TempDir(), Options{})
	start := put(t, s, "old", "1")
	update := func(f func(tx store.Tx) error) int64 {
		rev, err := s.Update(t.Context(), f)
		must(t, err)
		return rev
	}
	rev := update(func(tx store.Tx) error {
		return errors.Join(tx.Put("z", []byte("1")), tx.Put("a", []byte("1")), tx.Put("z", []byte("2")),
			tx.Put("gone", nil), tx.Delete("gone"), tx.Delete("old"), tx.Put("old", []byte("2")))
	})
	want := []store.Change{
		{Revision: rev, Key: "z", Value: []byte("2")},
		{Revision: rev, Key: "a", Value: []byte("1")},
		{Revision: rev, Key: "old", Value: []byte("2"), Prev: []byte("1")},
	}
	// Made and deleted at once: nothing changed, no revision.
	same(t, "revision", rev, update(func(tx store.Tx) error { return errors.Join(tx.Put("x", nil), tx.Delete("x")) }))
	w, err := s.Watch(t.Context(), "", start)
	must(t, err)
	same(t, "changes", want, receive(t, w))
}

func testWatchAcrossReopen(t *testing.T, open Driver) {
	dir := t.TempDir()
	s := openIn(t, open, dir, Options{})
	r1 := put(t, s, "a", "1")
	r2 := del(t, s, "a")
	must(t, s.Close())
	s = openIn(t, open, dir, Options{})
	w, err := s.Watch(t.Context(), "", 0)
	must(t, err)
	same(t, "first", []store.Change{{Revision: r1, Key: "a", Value: []byte("1")}}, receive(t, w))
	same(t, "second", []store.Change{{Revision: r2, Key: "a", Deleted: true, Prev: []byte("1")}}, receive(t, w))
	r3 := put(t, s, "b", "1")
	same(t, "live", []store.Change{{Revision: r3, Key: "b", Value: []byte("1")}}, receive(t, w))
}

// While writers write, watchers begin at many revisions; each gets every later revision once, in order.
func testWatchExactlyOnce(t *testing.T, open Driver) {
	s := openIn(t, open, t.TempDir(), Options{NoSync: true, Buffer: 4000})
	const writers, rounds, total = 4, 200, 4 * 200
	var wg sync.WaitGroup
	for i := range writers {
		wg.Go(func() {
			for j := range rounds {
				_, err := s.Update(t.Context(), func(tx store.Tx) error {
					return errors.Join(tx.Put(fmt.Sprintf("w/%d", i), fmt.Append(nil, j)), tx.Put("x/all", fmt.Append(nil, j)))
				})
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	for range 20 {
		wg.Go(func() {
			var from int64
			if err := s.View(t.Context(), func(tx store.Tx) error { from = tx.Revision(); return nil }); err != nil {
				t.Error(err)
				return
			}
			w, err := s.Watch(t.Context(), "w/", from)
			if err != nil {
				t.Error(err)
				return
			}
			for want := from + 1; want <= total; want++ {
				cs, ok := <-w.C()
				if !ok {
					t.Errorf("watch from %d ended before revision %d: %v", from, want, w.Err())
					return
				}
				if len(cs) != 1 || cs[0].Revision != want {
					t.Errorf("watch from %d: got %v, want revision %d", from, cs, want)
					return
				}
			}
		})
	}
	wg.Wait()
}

func testWatchCompacted(t *testing.T, open Driver) {
	dir := t.TempDir()
	s := openIn(t, open, dir, Options{History: 5, NoSync: true})
	for i := range 12 {
		put(t, s, "a", fmt.Sprint(i))
	}
	check := func(oldest int64) {
		t.Helper()
		_, err := s.Watch(t.Context(), "", oldest-1)
		wantErr(t, "watch of what is gone", store.ErrCompacted, err)
		w, err := s.Watch(t.Context(), "", oldest)
		must(t, err)
		same(t, "oldest revision kept", oldest+1, receive(t, w)[0].Revision)
	}
	check(7)
	must(t, s.Close())
	s = openIn(t, open, dir, Options{History: 3})
	check(9)
	must(t, s.Close())
	s = openIn(t, open, dir, Options{History: 100}) // more history does not bring back what is gone
	check(9)
	// A watcher that catches up slower than the log is forgotten is told so, and given no gap.
	must(t, s.Close())
	s = openIn(t, open, dir, Options{History: 600, Buffer: 1, NoSync: true})
	for range 600 {
		put(t, s, "a", "x")
	}
	w, err := s.Watch(t.Context(), "", 12)
	must(t, err)
	for range 600 {
		put(t, s, "a", "y")
	}
	want := int64(13)
	for cs := range w.C() {
		same(t, "revision", want, cs[0].Revision)
		want++
	}
	wantErr(t, "overtaken watch", store.ErrCompacted, w.Err())
}

func testWatchFuture(t *testing.T, open Driver) {
	s := openIn(t, open, t.TempDir(), Options{})
	rev := put(t, s, "a", "1")
	_, err := s.Watch(t.Context(), "", rev+1)
	wantErr(t, "watch from a revision that never was", store.ErrCompacted, err)
}

func testWatchSlow(t *testing.T, open Driver) {
	s := openIn(t, open, t.TempDir(), Options{Buffer: 4, NoSync: true})
	slow, err := s.Watch(t.Context(), "a", -1)
	must(t, err)
	other, err := s.Watch(t.Context(), "b", -1)
	must(t, err)
	for i := range 10 {
		put(t, s, "a", fmt.Sprint(i))
	}
	put(t, s, "b", "1")
	same(t, "the other watcher", "b", receive(t, other)[0].Key)
	want := int64(1)
	for cs := range slow.C() {
		same(t, "revision", want, cs[0].Revision)
		want++
	}
	wantErr(t, "slow watch", store.ErrSlow, slow.Err())
	if want == 11 {
		t.Error("the slow watcher got everything: its buffer is not bounded")
	}
	// It goes on from where it was.
	again, err := s.Watch(t.Context(), "a", want-1)
	must(t, err)
	same(t, "after watching again", want, receive(t, again)[0].Revision)
}

// What watchers that nobody reads hold in memory is bounded: those that catch up do not hold the history that they have yet to
// give, and those that are up to date do not hold all that is written meanwhile.
func testWatchMemory(t *testing.T, open Driver) {
	const (
		watchers  = 20
		revisions = 400
		size      = 50_000 // 20 MB of history
		most      = 60 << 20
	)
	s := openIn(t, open, t.TempDir(), Options{NoSync: true})
	value := strings.Repeat("x", size)
	write := func() {
		for range revisions {
			put(t, s, "a", value)
		}
	}
	write()
	before := heap()
	var all []store.Watcher
	for range watchers {
		for _, from := range []int64{0, -1} {
			w, err := s.Watch(t.Context(), "", from)
			must(t, err)
			all = append(all, w)
		}
	}
	receive(t, all[0]) // it has begun to read the history
	write()
	if got := heap() - before; got > most {
		t.Errorf("%d watchers that nobody reads hold %d MiB, want at most %d", len(all), got>>20, most>>20)
	}
	// One that catches up has lost nothing by waiting.
	for want := int64(2); want <= 2*revisions; want++ {
		same(t, "revision", want, receive(t, all[0])[0].Revision)
	}
}

// heap is what is in use, in bytes.
func heap() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

func testWatchEnds(t *testing.T, open Driver) {
	s := openIn(t, open, t.TempDir(), Options{Buffer: 1, NoSync: true})
	for i := range 10 {
		put(t, s, "a", fmt.Sprint(i))
	}
	ctx, cancel := context.WithCancel(t.Context())
	live, err := s.Watch(ctx, "", -1)
	must(t, err)
	catchingUp, err := s.Watch(ctx, "", 0) // nobody reads: it stays blocked
	must(t, err)
	cancel()
	must(t, end(t, live))
	must(t, end(t, catchingUp))
	put(t, s, "a", "more")

	live, err = s.Watch(t.Context(), "", -1)
	must(t, err)
	catchingUp, err = s.Watch(t.Context(), "", 0)
	must(t, err)
	must(t, s.Close())
	wantErr(t, "live watch", store.ErrClosed, end(t, live))
	wantErr(t, "watch that catches up", store.ErrClosed, end(t, catchingUp))
}
