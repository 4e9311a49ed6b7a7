package state_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"widecloud/internal/state"
	"widecloud/internal/store"
	"widecloud/internal/store/bolt"
)

// groups is a store that holds its first group until open is closed, notes how many transactions each group has, and fails some of them.
type groups struct {
	*bolt.Store
	held, open chan struct{}
	sizes      []int
	fate       func() string // of a transaction: "", "before" or "after" it takes effect
}

// hold has the next group be the first one.
func (g *groups) hold() { g.sizes, g.held, g.open = nil, make(chan struct{}), make(chan struct{}) }

func newGroups(s store.Store) *groups {
	return &groups{Store: s.(*bolt.Store), held: make(chan struct{}), open: make(chan struct{}), fate: func() string { return "" }}
}

func (g *groups) UpdateAll(calls []*store.Call) {
	if g.sizes = append(g.sizes, len(calls)); len(g.sizes) == 1 {
		close(g.held)
		<-g.open
	}
	var late []*store.Call
	for _, c := range calls {
		f := c.F
		switch g.fate() {
		case "before":
			c.F = func(tx store.Tx) error { return errors.Join(f(tx), errFlaky) }
		case "after":
			late = append(late, c)
		}
	}
	g.Store.UpdateAll(calls)
	for _, c := range late {
		c.Revision, c.Err = 0, errFlaky
	}
}

// TestGroups: transactions that wait for a commit are committed together. One that has read what another one of the group writes runs
// again.
func TestGroups(t *testing.T) {
	reads := func(name string) func(*state.Tx) error {
		return func(tx *state.Tx) error {
			readName(name)(tx)
			return things.Put(tx, "of "+name, &thing{len(name)})
		}
	}
	for name, c := range map[string]struct {
		together []func(*state.Tx) error
		want     []int // transactions of each group after the first
	}{
		"different objects": {[]func(*state.Tx) error{putMachine("b", "h2"), putMachine("c", "h2"), putMachine("d", "h2")}, []int{3}},
		"the same object":   {[]func(*state.Tx) error{putMachine("b", "h2"), putMachine("b", "h3"), putMachine("c", "h2")}, []int{2, 1}},
		"one reads what another writes": {
			[]func(*state.Tx) error{putMachine("b", "h2"), reads("b"), putMachine("c", "h2")}, []int{2, 1},
		},
		"one has read what another one writes later": {[]func(*state.Tx) error{reads("b"), putMachine("b", "h2")}, []int{2}},
		"none but one succeeds":                      {[]func(*state.Tx) error{putMachine("b", "h2"), putMachine("b", "h3"), putMachine("b", "h4"), putMachine("b", "h5"), putMachine("b", "h6")}, []int{1, 1, 1, 1, 1}},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "store.db")
			synctest.Test(t, func(t *testing.T) {
				g := newGroups(newBolt(t, path))
				s := open(t, g)
				defer s.Close()
				close(g.open)
				_, err := s.Write(t.Context(), func(tx *state.Tx) error {
					for _, name := range []string{"a", "b", "c", "d"} {
						must(t, errors.Join(putMachine(name, "h1")(tx), things.Put(tx, "of "+name, &thing{})))
					}
					return nil
				})
				must(t, err)
				g.hold()
				watch, err := s.Watch(t.Context(), "", -1)
				must(t, err)
				var all sync.WaitGroup
				write := func(f func(*state.Tx) error) {
					all.Go(func() {
						if _, err := s.Write(t.Context(), f); err != nil {
							t.Error(err)
						}
					})
					synctest.Wait()
				}
				write(putMachine("a", "h2"))
				for _, f := range c.together {
					write(f)
				}
				must(t, s.Read(t.Context(), func(tx *state.Tx) error {
					if m, err := machines.Get(tx, "a"); err != nil || m.Host != "h1" {
						t.Errorf("before it is synced, a is seen as %+v, %v", m, err)
					}
					return nil
				}))
				close(g.open)
				all.Wait()
				if d := cmp.Diff(append([]int{1}, c.want...), g.sizes); d != "" {
					t.Errorf("groups (-want +got):\n%s", d)
				}
				for i := range len(c.together) + 1 {
					if changes := <-watch.C(); changes[0].Revision != int64(i+2) {
						t.Errorf("change %d is of revision %d", i, changes[0].Revision)
					}
				}
				must(t, s.Verify())
			})
		})
	}
}

// TestGroupsFail: when some of a group fail, with and without taking effect, the memory has what the store has, and those that did not
// fail are there.
func TestGroupsFail(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		dir := tempDir(rt)
		type plan struct{ name, host string }
		var plans []plan
		var fates []string
		for range rapid.IntRange(2, 8).Draw(rt, "writes") {
			plans = append(plans, plan{rapid.SampledFrom(names).Draw(rt, "name"), rapid.SampledFrom(append(hosts, "")).Draw(rt, "host")})
		}
		for range 40 { // enough for all that run again
			fates = append(fates, rapid.SampledFrom([]string{"", "", "before", "after"}).Draw(rt, "fate"))
		}
		synctest.Test(t, func(t *testing.T) {
			g := newGroups(newBolt(t, filepath.Join(dir, "store.db")))
			s := open(t, g)
			defer s.Close()
			close(g.open)
			_, err := s.Write(t.Context(), func(tx *state.Tx) error {
				for i := range plans { // so that they do not meet as neighbours
					must(t, things.Put(tx, fmt.Sprint("own ", i), &thing{-1}))
				}
				return errors.Join(putMachine("a", "h")(tx), putMachine("b", "h")(tx))
			})
			must(t, err)
			g.hold()
			g.fate = func() string {
				if len(fates) == 0 {
					return ""
				}
				fate := fates[0]
				fates = fates[1:]
				return fate
			}
			var all sync.WaitGroup
			for i, p := range plans {
				all.Go(func() {
					own := fmt.Sprint("own ", i)
					_, err := s.Write(t.Context(), func(tx *state.Tx) error {
						must(t, things.Put(tx, own, &thing{i}))
						if p.host == "" {
							return machines.Delete(tx, p.name)
						}
						return putMachine(p.name, p.host)(tx)
					})
					if err != nil && !errors.Is(err, errFlaky) {
						t.Error(err)
					}
					must(t, s.Read(t.Context(), func(tx *state.Tx) error {
						th, rerr := things.Get(tx, own)
						if err == nil && th.Size != i {
							t.Errorf("write %d has succeeded, and reads say %+v", i, th)
						}
						return rerr
					}))
				})
			}
			synctest.Wait()
			close(g.open)
			all.Wait()
			list := func(st store.Store) (kvs []store.KV) {
				must(t, st.View(t.Context(), func(tx store.Tx) (err error) { kvs, err = tx.List(""); return err }))
				return kvs
			}
			if d := cmp.Diff(list(g.Store), list(s)); d != "" {
				t.Errorf("(-store +memory):\n%s", d)
			}
			must(t, s.Verify())
		})
		if t.Failed() {
			rt.Fatal("see above")
		}
	})
}

// TestMemoAfterUndo: what was computed from an object stays true, and is kept, when a write of that object fails.
func TestMemoAfterUndo(t *testing.T) {
	g := newGroups(newBolt(t, filepath.Join(t.TempDir(), "store.db")))
	close(g.open)
	s := open(t, g)
	defer s.Close()
	_, err := s.Write(t.Context(), putMachine("a", "h1"))
	must(t, err)
	var memo state.Memo[string]
	computed := 0
	read := func() {
		t.Helper()
		must(t, s.Read(t.Context(), func(tx *state.Tx) error {
			host, err := memo.Get(tx, "", func(tx *state.Tx) (string, error) {
				computed++
				m, err := machines.Get(tx, "a")
				return m.Host, err
			})
			if host != "h1" {
				t.Errorf("a is on %q", host)
			}
			return err
		}))
	}
	read()
	g.fate = func() string { return "before" }
	if _, err := s.Write(t.Context(), putMachine("a", "h2")); !errors.Is(err, errFlaky) {
		t.Errorf("error is %v", err)
	}
	read()
	was := computed
	read()
	read()
	if computed != was {
		t.Errorf("computed %d times again, with nothing changed", computed-was)
	}
}

// BenchmarkWrite: writers that each write an object of their own after another, synced. The time is that of one Write.
func BenchmarkWrite(b *testing.B) {
	for _, writers := range []int{1, 8, 64} {
		b.Run(fmt.Sprint(writers), func(b *testing.B) {
			file, err := bolt.Open(bolt.Options{Path: filepath.Join(b.TempDir(), "store.db")})
			if err != nil {
				b.Fatal(err)
			}
			s := open(b, file)
			defer s.Close()
			words := []string{strings.Repeat("w", 2000)}
			if _, err := s.Write(context.Background(), func(tx *state.Tx) error {
				for w := range writers {
					if err := machines.Put(tx, fmt.Sprint(w), &machine{}); err != nil {
						return err
					}
				}
				return nil
			}); err != nil {
				b.Fatal(err)
			}
			b.ResetTimer()
			var all sync.WaitGroup
			for w := range writers {
				all.Go(func() {
					for n := w; n < b.N; n += writers {
						if _, err := s.Write(context.Background(), func(tx *state.Tx) error {
							return machines.Put(tx, fmt.Sprint(w), &machine{Host: fmt.Sprint(n), Words: words})
						}); err != nil {
							b.Error(err)
						}
					}
				})
			}
			all.Wait()
		})
	}
}
