package state_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"widecloud/internal/state"
	"widecloud/internal/store"
	"widecloud/internal/store/bolt"
	"widecloud/internal/store/storetest"
)

// openPlain opens a State without tables.
func openPlain(dir string, o storetest.Options) (store.Store, error) {
	b, err := bolt.Open(bolt.Options{Path: filepath.Join(dir, "store.db"), History: o.History, Buffer: o.Buffer, Reserve: o.Reserve, NoSync: o.NoSync})
	if err != nil {
		return nil, err
	}
	s, err := state.Open(context.Background(), b, nil)
	if err != nil {
		b.Close()
		return nil, err
	}
	return s, nil
}

func TestMain(m *testing.M) { os.Exit(storetest.Main(m, openPlain)) }

// TestStore: a State is a store.
func TestStore(t *testing.T) { storetest.Run(t, openPlain, storetest.SideBySide) }

type machine struct {
	Revision int64    `json:"revision,omitempty"`
	Host     string   `json:"host,omitempty"`
	Words    []string `json:"words,omitempty"`
}

var machines = &state.Table[machine]{
	Prefix: "objects/machines/",
	Indexes: []state.Index[machine]{
		{Name: "host", Keys: func(m *machine) []string {
			if m.Host == "" {
				return nil
			}
			return []string{m.Host}
		}},
		{Name: "word", Keys: func(m *machine) []string { return m.Words }},
	},
	Revised: func(m *machine, revision int64) { m.Revision = revision },
}

type thing struct{ Size int }

var things = &state.Table[thing]{Prefix: "objects/things/"}

func open(t testing.TB, st store.Store) *state.State {
	t.Helper()
	s, err := state.Open(context.Background(), st, state.Schema{machines, things})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func newBolt(t testing.TB, path string) store.Store {
	t.Helper()
	b, err := bolt.Open(bolt.Options{Path: path, NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func must(t interface {
	Helper()
	Fatal(...any)
}, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// seen is what a transaction finds, by scans of the keys and by the indexes.
func seen(tx *state.Tx) (scanned, found map[string][]string, err error) {
	scanned, found = map[string][]string{}, map[string][]string{}
	note := func(m map[string][]string, what, name string) {
		if !slices.Contains(m[what], name) { // an object may say a word twice
			m[what] = append(m[what], name)
		}
	}
	kvs, err := tx.List(machines.Prefix)
	if err != nil {
		return nil, nil, err
	}
	for _, kv := range kvs {
		name := strings.TrimPrefix(kv.Key, machines.Prefix)
		m, err := machines.Get(tx, name)
		if err != nil {
			return nil, nil, err
		}
		note(scanned, fmt.Sprintf("all@%d", kv.Modified), name)
		if m.Host != "" {
			note(scanned, "host "+m.Host, name)
		}
		for _, w := range m.Words {
			note(scanned, "word "+w, name)
		}
	}
	for name, m := range machines.All(tx) {
		note(found, fmt.Sprintf("all@%d", m.Revision), name)
	}
	for _, key := range hosts {
		for name := range machines.By(tx, "host", key) {
			note(found, "host "+key, name)
		}
		for name := range machines.By(tx, "word", key) {
			note(found, "word "+key, name)
		}
	}
	return scanned, found, nil
}

var (
	hosts = []string{"h", "h1", "h10", "h2"}
	names = []string{"a", "a1", "b", "c"}
)

// TestIndexes: what is found by an index is what a scan finds, inside of transactions and after them, also when the store fails
// and when all is read again.
func TestIndexes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		dir := tempDir(t)
		path := filepath.Join(dir, "store.db")
		flaky := &flakyStore{Store: bolted(t, path)}
		s, err := state.Open(context.Background(), flaky, state.Schema{machines, things})
		must(t, err)
		defer func() { s.Close() }()
		check := func(tx *state.Tx) {
			scanned, found, err := seen(tx)
			must(t, err)
			if d := cmp.Diff(scanned, found); d != "" {
				t.Fatalf("(-scanned +found):\n%s", d)
			}
		}
		steps := rapid.IntRange(1, 20).Draw(t, "steps")
		for range steps {
			flaky.fail = rapid.SampledFrom([]string{"", "", "", "before", "after"}).Draw(t, "fail")
			give := rapid.Bool().Draw(t, "give up")
			_, err := s.Write(context.Background(), func(tx *state.Tx) error {
				for range rapid.IntRange(1, 4).Draw(t, "writes") {
					name := rapid.SampledFrom(names).Draw(t, "name")
					if rapid.IntRange(0, 3).Draw(t, "what") == 0 {
						must(t, machines.Delete(tx, name))
					} else {
						must(t, machines.Put(tx, name, &machine{
							Host:  rapid.SampledFrom(append(hosts, "")).Draw(t, "host"),
							Words: rapid.SliceOfN(rapid.SampledFrom(hosts), 0, 3).Draw(t, "words"),
						}))
					}
					check(tx)
				}
				if give {
					return errGiveUp
				}
				return nil
			})
			if err != nil && !errors.Is(err, errGiveUp) && !errors.Is(err, errFlaky) {
				t.Fatal(err)
			}
			flaky.fail = ""
			must(t, s.Read(context.Background(), func(tx *state.Tx) error { check(tx); return nil }))
			must(t, s.Verify())
			same(t, flaky.Store, s)
		}
		s.Close()
		s, err = state.Open(context.Background(), bolted(t, path), state.Schema{machines, things})
		must(t, err)
		must(t, s.Read(context.Background(), func(tx *state.Tx) error { check(tx); return nil }))
	})
}

// same tells whether the store and the memory have the same keys.
func same(t *rapid.T, st store.Store, s *state.State) {
	t.Helper()
	list := func(st store.Store) (kvs []store.KV) {
		must(t, st.View(context.Background(), func(tx store.Tx) (err error) {
			kvs, err = tx.List("")
			return err
		}))
		return kvs
	}
	if d := cmp.Diff(list(st), list(s)); d != "" {
		t.Fatalf("(-store +memory):\n%s", d)
	}
}

func tempDir(t *rapid.T) string {
	dir, err := os.MkdirTemp("", "state")
	must(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func bolted(t *rapid.T, path string) store.Store {
	b, err := bolt.Open(bolt.Options{Path: path, NoSync: true})
	must(t, err)
	return b
}

var (
	errGiveUp = errors.New("give up")
	errFlaky  = errors.New("the disk is full")
)

// flakyStore fails Updates: before they have taken effect, or after that.
type flakyStore struct {
	store.Store
	fail string
}

func (s *flakyStore) Update(ctx context.Context, f func(store.Tx) error) (int64, error) {
	switch s.fail {
	case "before":
		return 0, errFlaky
	case "after":
		if _, err := s.Store.Update(ctx, f); err != nil {
			return 0, err
		}
		return 0, errFlaky
	}
	return s.Store.Update(ctx, f)
}

// TestConflicts: transactions run again when something that they have read was changed by another, and not when that was something
// else. (What is not there is watched with its neighbours.)
func TestConflicts(t *testing.T) {
	for name, c := range map[string]struct {
		read  func(tx *state.Tx)
		other func(tx *state.Tx) error
		again bool
	}{
		"the object that was read":         {readName("a"), putMachine("a", "h2"), true},
		"one that was not there":           {readName("z"), putMachine("z", "h2"), true},
		"another object":                   {readName("a"), putMachine("b", "h2"), false},
		"another table":                    {readName("a"), func(tx *state.Tx) error { return things.Put(tx, "yours", &thing{1}) }, false},
		"one more of an index's key":       {readHost("h1"), putMachine("c", "h1"), true},
		"one less":                         {readHost("h1"), putMachine("a", "h2"), true},
		"one more of another key":          {readHost("h1"), putMachine("c", "h10"), false},
		"one of a list":                    {readAll, putMachine("c", "h10"), true},
		"a plain key beside what was read": {readName("a"), func(tx *state.Tx) error { return tx.Put("other", nil) }, false},
	} {
		t.Run(name, func(t *testing.T) {
			s := open(t, newBolt(t, filepath.Join(t.TempDir(), "store.db")))
			defer s.Close()
			_, err := s.Write(t.Context(), func(tx *state.Tx) error {
				return errors.Join(putMachine("a", "h1")(tx), putMachine("b", "h2")(tx), putMachine("d", "h10")(tx), putMachine("e", "h10")(tx),
					things.Put(tx, "mine", &thing{}), things.Put(tx, "yours", &thing{}))
			})
			must(t, err)
			runs := 0
			_, err = s.Write(t.Context(), func(tx *state.Tx) error {
				c.read(tx)
				if runs++; runs == 1 {
					var wg sync.WaitGroup
					wg.Go(func() {
						if _, err := s.Write(t.Context(), c.other); err != nil {
							t.Error(err)
						}
					})
					wg.Wait()
				}
				return things.Put(tx, "mine", &thing{runs})
			})
			must(t, err)
			if (runs == 2) != c.again {
				t.Errorf("it ran %d times", runs)
			}
		})
	}
}

func readName(name string) func(*state.Tx) { return func(tx *state.Tx) { machines.Get(tx, name) } }

func readHost(host string) func(*state.Tx) {
	return func(tx *state.Tx) {
		for range machines.By(tx, "host", host) {
		}
	}
}

func readAll(tx *state.Tx) {
	for range machines.All(tx) {
	}
}

func putMachine(name, host string) func(*state.Tx) error {
	return func(tx *state.Tx) error { return machines.Put(tx, name, &machine{Host: host}) }
}

// TestSharedObjects: what was read does not change, and an edit is a copy.
func TestSharedObjects(t *testing.T) {
	s := open(t, newBolt(t, filepath.Join(t.TempDir(), "store.db")))
	defer s.Close()
	_, err := s.Write(t.Context(), func(tx *state.Tx) error {
		return machines.Put(tx, "a", &machine{Revision: 77, Host: "h1", Words: []string{"x"}})
	})
	must(t, err)
	var first, edited *machine
	must(t, s.Read(t.Context(), func(tx *state.Tx) (err error) {
		first, err = machines.Get(tx, "a")
		return err
	}))
	if d := cmp.Diff(&machine{Revision: 1, Host: "h1", Words: []string{"x"}}, first); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	revision, err := s.Write(t.Context(), func(tx *state.Tx) (err error) {
		if edited, err = machines.Edit(tx, "a"); err != nil {
			return err
		}
		edited.Words[0] = "y"
		return machines.Put(tx, "a", edited)
	})
	must(t, err)
	if first.Words[0] != "x" {
		t.Error("an object that was read has changed")
	}
	same, err := s.Write(t.Context(), func(tx *state.Tx) error { return machines.Put(tx, "a", edited) })
	if must(t, err); same != revision {
		t.Errorf("revision %d after a write of what is there, %d before", same, revision)
	}
	must(t, s.Verify())
	edited.Words[0] = "z" // is the editor's own
	must(t, s.Verify())
	must(t, s.Read(t.Context(), func(tx *state.Tx) error {
		m, err := machines.Get(tx, "a")
		m.Words[0] = "spoilt"
		return err
	}))
	if s.Verify() == nil {
		t.Error("Verify does not find a changed object")
	}
}

// TestBadObject: a value that is not of its table's type is neither written nor hidden.
func TestBadObject(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store.db")
	s := open(t, newBolt(t, path))
	if _, err := s.Update(t.Context(), func(tx store.Tx) error { return tx.Put("objects/machines/a", []byte("{")) }); err == nil {
		t.Error("it is written")
	}
	s.Close()
	b := newBolt(t, path)
	_, err := b.Update(t.Context(), func(tx store.Tx) error { return tx.Put("objects/machines/a", []byte("{")) })
	must(t, err)
	if _, err := state.Open(t.Context(), b, state.Schema{machines}); err == nil || !strings.Contains(err.Error(), "objects/machines/a") {
		t.Errorf("opened with %v", err)
	}
	b.Close()
	if _, err := state.Open(t.Context(), nil, state.Schema{machines, &state.Table[thing]{Prefix: "objects/"}}); err == nil {
		t.Error("a schema with one prefix in another is taken")
	}
}

// TestMemo: a result is computed again when, and only when, something that it was computed from has changed; also what was computed
// from another result. A transaction that writes sees its own writes, and runs again when a result that it used has changed.
func TestMemo(t *testing.T) {
	s := open(t, newBolt(t, filepath.Join(t.TempDir(), "store.db")))
	defer s.Close()
	write := func(f func(tx *state.Tx) error) {
		t.Helper()
		_, err := s.Write(t.Context(), f)
		must(t, err)
	}
	write(func(tx *state.Tx) error {
		return errors.Join(putMachine("a", "h1")(tx), putMachine("b", "h1")(tx), putMachine("c", "h2")(tx), putMachine("d", "h10")(tx),
			things.Put(tx, "sum", &thing{}))
	})
	var counts, sums state.Memo[int]
	counted, summed := map[string]int{}, 0
	count := func(tx *state.Tx, host string) (int, error) {
		return counts.Get(tx, host, func(tx *state.Tx) (n int, err error) {
			counted[host]++
			for range machines.By(tx, "host", host) {
				n++
			}
			return n, nil
		})
	}
	sum := func(tx *state.Tx) (int, error) {
		return sums.Get(tx, "", func(tx *state.Tx) (int, error) {
			summed++
			a, err1 := count(tx, "h1")
			b, err2 := count(tx, "h2")
			return a + b, errors.Join(err1, err2)
		})
	}
	want := func(n, h1, h2, all int) {
		t.Helper()
		must(t, s.Read(t.Context(), func(tx *state.Tx) error {
			got, err := sum(tx)
			if got != n || counted["h1"] != h1 || counted["h2"] != h2 || summed != all {
				t.Errorf("%d; computed %v and %d times", got, counted, summed)
			}
			return err
		}))
	}
	want(3, 1, 1, 1)
	want(3, 1, 1, 1)
	write(putMachine("e", "h10"))
	want(3, 1, 1, 1)
	write(putMachine("f", "h2"))
	want(4, 1, 2, 2)
	write(func(tx *state.Tx) error {
		must(t, putMachine("g", "h1")(tx))
		if n, err := sum(tx); n != 5 || err != nil {
			t.Errorf("a transaction that has written one more sees %d, %v", n, err)
		}
		return machines.Delete(tx, "g")
	})
	runs := 0
	write(func(tx *state.Tx) error {
		n, err := sum(tx)
		must(t, err)
		if runs++; runs == 1 {
			write(putMachine("h", "h1"))
		}
		return things.Put(tx, "sum", &thing{n})
	})
	must(t, s.Read(t.Context(), func(tx *state.Tx) error {
		th, err := things.Get(tx, "sum")
		if err == nil && (th.Size != 5 || runs != 2) {
			t.Errorf("%d is written after %d runs", th.Size, runs)
		}
		return err
	}))
}

// TestMemoOfOldSnapshots: a result that is newer than a snapshot is not for it.
func TestMemoOfOldSnapshots(t *testing.T) {
	s := open(t, newBolt(t, filepath.Join(t.TempDir(), "store.db")))
	defer s.Close()
	var counts state.Memo[int]
	count := func(tx *state.Tx) int {
		n, err := counts.Get(tx, "", func(tx *state.Tx) (n int, err error) {
			for range machines.All(tx) {
				n++
			}
			return n, nil
		})
		must(t, err)
		return n
	}
	must(t, s.Read(t.Context(), func(old *state.Tx) error {
		_, err := s.Write(t.Context(), putMachine("a", "h1"))
		must(t, err)
		must(t, s.Read(t.Context(), func(tx *state.Tx) error {
			if n := count(tx); n != 1 {
				t.Errorf("the newer snapshot has %d", n)
			}
			return nil
		}))
		if n := count(old); n != 0 {
			t.Errorf("the older snapshot has %d", n)
		}
		return nil
	}))
}

// counted is a result with something that each computation has another one of.
type counted struct{ n, made int }

func (c counted) Same(other counted) bool { return c.n == other.n }

// TestMemoSame: a State that checks what is kept leaves it to a result that can whether it is the same as another one.
func TestMemoSame(t *testing.T) {
	s := open(t, newBolt(t, filepath.Join(t.TempDir(), "store.db")))
	defer s.Close()
	s.CheckMemos()
	made, of := 0, 1
	var same state.Memo[counted]
	var plain state.Memo[int]
	get := func() (a, b error) {
		must(t, s.Read(t.Context(), func(tx *state.Tx) error {
			_, a = same.Get(tx, "", func(*state.Tx) (counted, error) { made++; return counted{of, made}, nil })
			_, b = plain.Get(tx, "", func(*state.Tx) (int, error) { return of, nil })
			return nil
		}))
		return a, b
	}
	for range 2 {
		if a, b := get(); a != nil || b != nil {
			t.Fatalf("%v, %v", a, b)
		}
	}
	of = 2 // which no Memo can know of
	if a, b := get(); a == nil || b == nil {
		t.Errorf("what is kept is no longer true, and the check says %v, %v", a, b)
	}
}
