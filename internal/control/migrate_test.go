package control_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"widecloud/api"
	"widecloud/internal/store"
	"widecloud/internal/wire"
)

// TestJournalFailsAfterFinish: the target was told to run and runs, and then the coordinator's store does not take the next
// row of the journal. Past the decision a step is only repeated: the source's copy must not run on beside the target's.
func TestJournalFailsAfterFinish(t *testing.T) {
	for _, c := range []struct {
		name, target string
		committed    bool
	}{
		{"full disk to a lender", "osaka", false},
		{"full disk to a host", "tokyo/h2", false},
		{"lost answer to a lender", "osaka", true},
		{"lost answer to a host", "tokyo/h2", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			federation(t, options{sites: []string{"tokyo", "osaka"}, hosts: 2}, func(t *testing.T, w *world) {
				tokyo := w.sites["tokyo"]
				w.lend("osaka", "tokyo", room())
				tokyo.ready("2001:db8:a::/64")
				tokyo.startWith(func(st store.Store) store.Store {
					return &faultyStore{Store: st, committed: c.committed, strike: firstWrite("migrations/", `"step":"switched"`)}
				}, nil)
				w.connected()
				tokyo.newVM("web1", "tokyo/h1")
				tokyo.runs("web1")
				j := tokyo.migrate("web1", c.target)
				tokyo.ended(j.Name)
				tokyo.runs("web1")
				if st := tokyo.job(j.Name).Status; st.State != api.JobDone {
					t.Errorf("the job is %s: %s", st.State, st.Message)
				}
			})
		})
	}
}

// countedStore fails one Update of those that write anything, by its number.
type countedStore struct {
	store.Store
	mu        sync.Mutex
	armed     bool
	n, strike int  // writes so far, and the one that fails; 0: none
	committed bool // the write takes effect, and only its answer is an error
}

func (s *countedStore) arm(strike int, committed bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.armed, s.n, s.strike, s.committed = true, 0, strike, committed
}

// disarm gives the number of writes since arm.
func (s *countedStore) disarm() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.armed = false
	return s.n
}

// next counts a write and tells what becomes of it.
func (s *countedStore) next() (fails, committed bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.armed {
		return false, false
	}
	s.n++
	return s.n == s.strike, s.committed
}

func (s *countedStore) Update(ctx context.Context, f func(store.Tx) error) (int64, error) {
	fails, committed := false, false
	rev, err := s.Store.Update(ctx, func(tx store.Tx) error {
		c := &countedTx{Tx: tx}
		if err := f(c); err != nil || c.writes == 0 {
			return err
		}
		if fails, committed = s.next(); fails && !committed {
			return errFull
		}
		return nil
	})
	if err == nil && fails {
		return 0, errFull
	}
	return rev, err
}

type countedTx struct {
	store.Tx
	writes int
}

func (t *countedTx) Put(key string, value []byte) error {
	t.writes++
	return t.Tx.Put(key, value)
}

func (t *countedTx) Delete(key string) error {
	t.writes++
	return t.Tx.Delete(key)
}

// TestEachWriteFails has every single write of every store that takes part in a migration fail once, with and without taking
// effect, in every direction: there are never two running copies, the job ends, and nothing is left over.
func TestEachWriteFails(t *testing.T) { eachWriteFails(t, api.PowerOn) }

// TestEachWriteFailsStopped is TestEachWriteFails with a stopped VM.
func TestEachWriteFailsStopped(t *testing.T) { eachWriteFails(t, api.PowerOff) }

func eachWriteFails(t *testing.T, power api.Power) {
	for _, way := range []struct {
		name, source, target string
		stores               []string
	}{
		{"home to lender", "tokyo/h1", "osaka/h1", []string{"tokyo", "osaka", "tokyo/h1", "osaka/h1"}},
		{"lender to home", "osaka/h1", "tokyo/h1", []string{"tokyo", "osaka", "osaka/h1", "tokyo/h1"}},
		{"lender to lender", "osaka/h1", "kyoto/h1", []string{"tokyo", "osaka", "kyoto", "osaka/h1", "kyoto/h1"}},
		{"home to home", "tokyo/h1", "tokyo/h2", []string{"tokyo", "tokyo/h1", "tokyo/h2"}},
		{"within a lender", "osaka/h1", "osaka/h2", []string{"tokyo", "osaka", "osaka/h1", "osaka/h2"}},
	} {
		for _, at := range way.stores {
			t.Run(way.name+"/"+at, func(t *testing.T) {
				t.Parallel()
				federation(t, options{sites: []string{"tokyo", "osaka", "kyoto"}, hosts: 2, copyTime: 2 * time.Millisecond}, func(t *testing.T, w *world) {
					w.lend("osaka", "tokyo", room())
					w.lend("kyoto", "tokyo", room())
					tokyo := w.sites["tokyo"]
					tokyo.ready("2001:db8:a::/64")
					st := w.countWrites(at)
					w.connected()
					tokyo.newVM("web1", way.source)
					tokyo.runs("web1")
					disk := tokyo.rests("web1", power)
					for _, committed := range []bool{false, true} {
						for strike := 1; ; strike++ {
							st.arm(strike, committed)
							w.migratesOnce(way.source, way.target, fmt.Sprintf("write %d fails, takes effect: %t", strike, committed))
							writes := st.disarm()
							if now := tokyo.onDisk("web1"); power != api.PowerOn && now != disk {
								t.Errorf("write %d fails, takes effect: %t: the disk is at %d, was at %d", strike, committed, now, disk)
							}
							if t.Failed() {
								return
							}
							if tokyo.vm("web1").Status.Site+"/"+tokyo.vm("web1").Status.Host == way.target {
								tokyo.moved("web1", way.source)
							}
							if writes < strike { // there are no more
								if t.Logf("%d writes", writes); writes < 2 {
									t.Errorf("%s has written %d times only: the test does not reach it", at, writes)
								}
								break
							}
						}
					}
				})
			})
		}
	}
}

// countWrites starts a site ("tokyo") or a host ("tokyo/h1") anew on a store whose writes are counted.
func (w *world) countWrites(at string) *countedStore {
	st := &countedStore{}
	wrap := func(real store.Store) store.Store {
		st.Store = real
		return st
	}
	for _, h := range w.hosts() {
		if h.site.name+"/"+h.name == at {
			h.startWith(wrap, h.roles...)
			return st
		}
	}
	w.sites[at].startWith(wrap, nil)
	return st
}

// migratesOnce migrates web1 and looks whether all is as its job says.
func (w *world) migratesOnce(source, target, what string) {
	w.t.Helper()
	tokyo := w.sites["tokyo"]
	defer w.lawful()
	j, _, err := tokyo.ctl.Migrate(w.t.Context(), tokyo.admin, "web1", target, false)
	if err != nil { // its own write failed: it may have begun or not
		tokyo.runs("web1")
		return
	}
	tokyo.ended(j.Name)
	tokyo.runs("web1")
	st, v := tokyo.job(j.Name).Status, tokyo.vm("web1")
	if at := map[bool]string{true: target, false: source}[st.State == api.JobDone]; v.Status.Site+"/"+v.Status.Host != at {
		w.t.Errorf("%s: the job is %s (%s), and the VM is at %s/%s", what, st.State, st.Message, v.Status.Site, v.Status.Host)
	}
}

// TestForeignAgentsStream: an agent of the site that is not the source of a migration may not open a stream of it towards the
// target's hypervisor: it could write the guest's memory and disk.
func TestForeignAgentsStream(t *testing.T) {
	federation(t, options{sites: []string{"tokyo", "osaka"}, hosts: 2, copyTime: 5 * time.Millisecond}, func(t *testing.T, w *world) {
		tokyo := w.sites["tokyo"]
		w.lend("osaka", "tokyo", room())
		tokyo.ready("2001:db8:a::/64")
		v := tokyo.newVM("web1", "tokyo/h1")
		tokyo.runs("web1")
		h2 := tokyo.hosts["h2"] // has nothing to do with web1
		h2.kill()
		s, err := w.session("tokyo", "evil", h2.cred, wire.Bulk)
		w.must(err)
		defer s.Close()
		done := make(chan error, 1)
		var job string
		w.at("tokyo", "coordinator.none", func() { time.Sleep(time.Second) }) // so that job is known
		w.at("tokyo", "coordinator.copying", func() {                         // the target waits for the source's streams
			st, err := wire.OpenStream(t.Context(), s, wire.PathOutgoing, wire.ChannelHeader{Job: job, VM: v.UID, Channel: "memory", Codec: "none"})
			if err == nil {
				st.Close()
			}
			done <- err
		})
		job = tokyo.migrate("web1", "osaka/h1").Name
		wantError(t, "h2 opens a stream of h1's migration", <-done, api.CodeForbidden, api.CodeNotFound)
		h2.start()
		tokyo.ended(job)
		if st := tokyo.job(job).Status; st.State != api.JobDone {
			t.Errorf("the migration is %s: %s", st.State, st.Message)
		}
	})
}
