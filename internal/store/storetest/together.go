package storetest

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"widecloud/internal/store"
)

// testTogether has Updates of all kinds wait while the function of another one runs. A driver may commit them together; each has an
// outcome and a revision of its own all the same.
func testTogether(t *testing.T, open Driver) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		s := openIn(t, open, dir, Options{})
		before := put(t, s, "old", "1")
		watch, err := s.Watch(t.Context(), "", before)
		must(t, err)
		var all sync.WaitGroup
		revisions := make(chan int64, 100)
		update := func(ctx context.Context, want error, f func(store.Tx) error) {
			all.Go(func() {
				defer func() {
					if p := recover(); p != nil && p != any(want) {
						t.Errorf("panic %v, want %v", p, want)
					}
				}()
				rev, err := s.Update(ctx, f)
				if !errors.Is(err, want) {
					t.Errorf("error is %v, want %v", err, want)
				}
				revisions <- rev
			})
		}
		mine := errors.New("mine")
		gone, cancel := context.WithCancel(t.Context())
		defer cancel()
		var once sync.Once // a function may run more than once
		others := func() {
			for i := range 5 {
				key := fmt.Sprint("new/", i)
				update(t.Context(), nil, func(tx store.Tx) error { return tx.Put(key, []byte(key)) })
				update(t.Context(), mine, func(tx store.Tx) error {
					return errors.Join(tx.Put("bad/"+key, nil), tx.Put("old", []byte("spoilt")), mine)
				})
				update(t.Context(), mine, func(tx store.Tx) error {
					must(t, tx.Put("panic/"+key, nil))
					if err := tx.Delete("old"); err != nil {
						t.Errorf("delete: %v", err)
					}
					panic(mine)
				})
				update(gone, context.Canceled, func(tx store.Tx) error { cancel(); return tx.Put("gone/"+key, nil) })
				update(t.Context(), nil, func(tx store.Tx) error { return errors.Join(tx.Put("brief", nil), tx.Delete("brief")) })
			}
			synctest.Wait()
		}
		_, err = s.Update(t.Context(), func(tx store.Tx) error {
			once.Do(others)
			return tx.Put("first", nil)
		})
		must(t, err)
		all.Wait()
		rows, newest := dump(t, s)
		close(revisions)
		var told []int64
		for rev := range revisions {
			told = append(told, rev)
		}
		slices.Sort(told)
		want := []string{"old=1@" + fmt.Sprint(before, ",", before)}
		for seen := before; seen < newest; {
			changes := receive(t, watch)
			if len(changes) != 1 || changes[0].Revision <= seen {
				t.Fatalf("after revision %d the watch gives %v", seen, changes)
			}
			c := changes[0]
			seen = c.Revision
			if _, there := slices.BinarySearch(told, seen); !there && c.Key != "first" {
				t.Errorf("no Update has returned revision %d, which wrote %s", seen, c.Key)
			}
			want = append(want, fmt.Sprintf("%s=%s@%d,%d", c.Key, c.Value, seen, seen))
		}
		slices.Sort(want)
		same(t, "content", want, rows)
		same(t, "revisions", before+6, newest)
	})
}

// testSerialOrder has Updates at the same time read some keys and write, into another, the revisions that those had. Made one after
// the other in the order of their revisions, they would have read the same.
func testSerialOrder(t *testing.T, open Driver) {
	s := openIn(t, open, t.TempDir(), Options{NoSync: true})
	const workers, rounds, keys = 8, 30, 6
	var all sync.WaitGroup
	for range workers {
		all.Go(func() {
			for range rounds {
				key := func() string { return fmt.Sprint("k", rand.IntN(keys)) }
				reads, into := []string{key(), key()}, key()
				_, err := s.Update(t.Context(), func(tx store.Tx) error {
					var found []string
					for _, k := range reads {
						kv, err := tx.Get(k)
						if err != nil && !errors.Is(err, store.ErrNotFound) {
							return err
						}
						found = append(found, fmt.Sprint(k, "@", kv.Modified))
					}
					return tx.Put(into, []byte(strings.Join(found, " ")))
				})
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	watch, err := s.Watch(t.Context(), "", 0)
	must(t, err)
	modified := map[string]int64{}
	for range workers * rounds {
		changes := receive(t, watch)
		for _, found := range strings.Fields(string(changes[0].Value)) {
			k, rev, _ := strings.Cut(found, "@")
			if fmt.Sprint(modified[k]) != rev {
				t.Fatalf("revision %d has read %s, whose newest revision is %d", changes[0].Revision, found, modified[k])
			}
		}
		modified[changes[0].Key] = changes[0].Revision
	}
}

// The writers of the child of testKilledTogether. Each writes one row after the other.
const togetherWriters = 8

func togetherKey(writer, n int) string { return fmt.Sprintf("w/%d/%06d", writer, n) }

// writeTogetherUntilKilled has writers write at the same time. It prints the writer, the number and the revision of each acknowledged
// row.
func writeTogetherUntilKilled(dir string, open Driver) error {
	s, err := open(dir, Options{})
	if err != nil {
		return err
	}
	defer s.Close()
	failed := make(chan error, togetherWriters)
	for writer := range togetherWriters {
		go func() {
			failed <- writeRows(s, writer)
		}()
	}
	return <-failed
}

func writeRows(s store.Store, writer int) error {
	var have []store.KV
	err := s.View(context.Background(), func(tx store.Tx) (err error) {
		have, err = tx.List(fmt.Sprintf("w/%d/", writer))
		return err
	})
	for n := len(have); err == nil; n++ {
		var rev int64
		rev, err = s.Update(context.Background(), func(tx store.Tx) error {
			return tx.Put(togetherKey(writer, n), make([]byte, (n*37+writer)%3000))
		})
		if err == nil {
			_, err = fmt.Println(writer, n, rev)
		}
	}
	return err
}

// testKilledTogether kills a process whose writers write at the same time, at random moments: what it had acknowledged is there, at
// the revision that was told, and of each writer all rows before that.
func testKilledTogether(t *testing.T, open Driver) {
	dir := t.TempDir()
	acknowledged := map[string]int64{} // key -> revision
	for round := range 4 {
		child := startChild(t, dir, childTogether)
		after := 1 + rand.IntN(200)
		t.Logf("round %d: kill after %d acknowledged writes", round, after)
		lines := bufio.NewScanner(child.out)
		for i := 0; lines.Scan(); i++ {
			var writer, n int
			var rev int64
			if _, err := fmt.Sscan(lines.Text(), &writer, &n, &rev); err != nil {
				t.Errorf("child printed %q", lines.Text())
			}
			acknowledged[togetherKey(writer, n)] = rev
			if i == after {
				must(t, child.Process.Kill())
			}
		}
		child.killed(t)
		s, err := open(dir, Options{})
		must(t, err)
		rows := map[string]int64{}
		byRevision := map[int64]string{}
		must(t, s.View(t.Context(), func(tx store.Tx) error {
			kvs, err := tx.List("w/")
			for _, kv := range kvs {
				rows[kv.Key], byRevision[kv.Modified] = kv.Modified, kv.Key
			}
			if len(byRevision) != len(kvs) || tx.Revision() != int64(len(kvs)) {
				t.Errorf("%d rows have %d revisions, the newest is %d", len(kvs), len(byRevision), tx.Revision())
			}
			return err
		}))
		for key, rev := range acknowledged {
			if rows[key] != rev {
				t.Errorf("%s was acknowledged at revision %d, and is of %d", key, rev, rows[key])
			}
		}
		for writer := range togetherWriters {
			n := 0
			for rows[togetherKey(writer, n)] > 0 {
				n++
			}
			for key := range rows {
				if strings.HasPrefix(key, fmt.Sprintf("w/%d/", writer)) && key >= togetherKey(writer, n) {
					t.Errorf("%s is there, and %s is not", key, togetherKey(writer, n))
				}
			}
		}
		watch, err := s.Watch(t.Context(), "", 0)
		must(t, err)
		for _, rev := range slices.Sorted(maps.Keys(byRevision)) {
			changes := receive(t, watch)
			if len(changes) != 1 || changes[0].Revision != rev || changes[0].Key != byRevision[rev] {
				t.Errorf("the watch gives %v, want revision %d of %s", changes, rev, byRevision[rev])
			}
		}
		must(t, s.Close())
	}
	if len(acknowledged) == 0 {
		t.Error("nothing was acknowledged")
	}
}
