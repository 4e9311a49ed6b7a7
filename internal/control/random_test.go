package control_test

import (
	"context"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"widecloud/api"
	"widecloud/internal/serve"
	"widecloud/internal/state"
	"widecloud/internal/store"
)

var (
	seed  = flag.Uint64("seed", 0, "replay one schedule of TestSchedule: the same throws of the dice; which goroutine runs first is still the scheduler's")
	seeds = flag.Int("seeds", 1, "schedules that TestSchedule runs when no -seed is given")
	steps = flag.Int("steps", 80, "orders and faults of a schedule")
)

// TestSchedule lets a federation of 5 sites with 20 hosts each live through random orders and faults, and looks whether the
// laws hold: at most one running copy of a VM at any moment; and, once all faults are mended, everything as it was ordered,
// nothing left over, the ledgers balanced, and no acknowledged VM lost.
func TestSchedule(t *testing.T) {
	list := []uint64{*seed}
	if *seed == 0 {
		list = nil
		for i := range *seeds {
			list = append(list, uint64(i)+1)
		}
	}
	for _, n := range list {
		t.Run(fmt.Sprintf("seed-%d", n), func(t *testing.T) {
			names := []string{"tokyo", "osaka", "kyoto", "nara", "kobe"}
			federation(t, options{sites: names, hosts: 20, copyTime: 10 * time.Millisecond, lease: 5 * time.Minute}, func(t *testing.T, w *world) {
				s := &schedule{world: w, t: t, rng: rand.New(rand.NewPCG(n, 0)), names: names, want: map[string]bool{}}
				s.prepare()
				for range *steps {
					s.step()
					time.Sleep(time.Duration(s.rng.IntN(500)) * time.Millisecond)
					if len(w.fake.Breaches()) > 0 {
						break
					}
				}
				s.mendAll()
				s.judge()
				t.Log(s.summary())
				if t.Failed() {
					t.Logf("replay: go test ./internal/control -run TestSchedule -seed=%d\n%s\n%s", n, strings.Join(s.log, "\n"), w.state())
				}
			})
		})
	}
}

type schedule struct {
	*world
	t     *testing.T
	rng   *rand.Rand
	names []string
	want  map[string]bool // SITE/VM that were acknowledged and not deleted -> true
	vms   int
	mends []mend
	log   []string
}

// mend ends a fault.
type mend struct {
	at   time.Time
	what string
	do   func()
}

func (s *schedule) note(format string, args ...any) {
	s.log = append(s.log, fmt.Sprintf("%s %s", time.Now().Format("04:05.000"), fmt.Sprintf(format, args...)))
}

func (s *schedule) prepare() {
	for i, name := range s.names {
		s.sites[name].ready(fmt.Sprintf("2001:db8:%x::/64", 0xa00+i))
		for k := 1; k <= 2; k++ {
			s.lend(s.names[(i+k)%len(s.names)], name, room())
		}
	}
	for _, name := range s.names {
		for range 4 {
			s.createVM(s.sites[name])
		}
	}
	time.Sleep(5 * time.Second)
}

// ctx bounds an order: what it asks for may not be reached.
func (s *schedule) ctx() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), 3*time.Second)
}

func (s *schedule) anySite() *site { return s.sites[s.names[s.rng.IntN(len(s.names))]] }
func (s *schedule) anyHost() *host { all := s.hosts(); return all[s.rng.IntN(len(all))] }

// usedHost is one where something is likely to be.
func (s *schedule) usedHost() *host {
	var used []*host
	for _, h := range s.hosts() {
		if len(h.machine.VMs()) > 0 {
			used = append(used, h)
		}
	}
	if len(used) == 0 {
		return s.anyHost()
	}
	return used[s.rng.IntN(len(used))]
}

func (x *site) up() bool { return x.proc != nil && !x.proc.dead.Load() }
func (h *host) up() bool { return h.proc != nil && !h.proc.dead.Load() }

// list gives a site's objects in the order of their names.
func listed[T any, P interface {
	*T
	api.Object
}](s *schedule, x *site) (out []P) {
	ctx, cancel := s.ctx()
	defer cancel()
	objects, _, err := x.ctl.List(ctx, x.admin, P(new(T)).Kind(), serve.Query{})
	if err != nil {
		return nil
	}
	for _, o := range objects {
		out = append(out, o.(P))
	}
	return out
}

func (s *schedule) createVM(x *site) {
	place := ""
	switch s.rng.IntN(3) {
	case 0:
		i := slices.Index(s.names, x.name)
		place = s.names[(i+1+s.rng.IntN(2))%len(s.names)]
	case 1:
		place = fmt.Sprintf("%s/h%d", x.name, 1+s.rng.IntN(20))
	}
	s.vms++
	v := vmOf(fmt.Sprintf("vm%d", s.vms), place)
	ctx, cancel := s.ctx()
	defer cancel()
	_, err := x.ctl.Create(ctx, x.admin, v)
	s.note("%s: create %s at %q: %v", x.name, v.Name, place, err)
	if err == nil {
		s.want[x.name+"/"+v.Name] = true
	}
}

// step is one order or one fault.
func (s *schedule) step() {
	s.mendDue(time.Now())
	x := s.anySite()
	after := time.Duration(500+s.rng.IntN(9000)) * time.Millisecond
	roll := s.rng.IntN(100)
	if roll < 78 && !x.up() {
		return
	}
	ctx, cancel := s.ctx()
	defer cancel()
	switch {
	case roll < 5:
		s.createVM(x)
	case roll < 50:
		vms := listed[api.VM](s, x)
		if len(vms) == 0 {
			return
		}
		v := vms[s.rng.IntN(len(vms))]
		i := slices.Index(s.names, x.name)
		target := s.names[(i+s.rng.IntN(3))%len(s.names)]
		if s.rng.IntN(3) == 0 {
			target = fmt.Sprintf("%s/h%d", target, 1+s.rng.IntN(20))
		}
		if s.rng.IntN(2) == 0 {
			s.trap(v, target)
		}
		_, _, err := x.ctl.Migrate(ctx, x.admin, v.Name, target, false)
		s.note("%s: migrate %s to %s: %v", x.name, v.Name, target, err)
	case roll < 57:
		for _, j := range listed[api.Job](s, x) {
			if !j.Status.State.Ended() {
				_, err := x.ctl.Cancel(ctx, x.admin, j.Name)
				s.note("%s: cancel %s: %v", x.name, j.Name, err)
				break
			}
		}
	case roll < 60:
		vms := listed[api.VM](s, x)
		if len(vms) < 3 {
			return
		}
		v := vms[s.rng.IntN(len(vms))]
		_, err := x.ctl.Delete(ctx, x.admin, api.KindVM, v.Name)
		s.note("%s: delete %s: %v", x.name, v.Name, err)
		if err == nil {
			delete(s.want, x.name+"/"+v.Name)
		}
	case roll < 68:
		vms := listed[api.VM](s, x)
		if len(vms) == 0 {
			return
		}
		v := state.Clone(vms[s.rng.IntN(len(vms))]) // lists are shared
		v.Spec.Power = []api.Power{api.PowerOn, api.PowerOn, api.PowerOff, api.PowerOffHard}[s.rng.IntN(4)]
		v.Revision = 0
		_, err := x.ctl.Update(ctx, x.admin, v)
		s.note("%s: power %s %s: %v", x.name, v.Name, v.Spec.Power, err)
	case roll < 72:
		var ours []*api.Loan
		for _, l := range listed[api.Loan](s, x) {
			if l.Spec.Lender == x.name && l.Status.State == api.LoanActive {
				ours = append(ours, l)
			}
		}
		if len(ours) > 0 {
			l := ours[s.rng.IntN(len(ours))]
			_, err := x.ctl.Reclaim(ctx, x.admin, l.Name)
			s.note("%s: reclaim %s of %s: %v", x.name, l.Name, l.Spec.Borrower, err)
		}
	case roll < 78:
		i := slices.Index(s.names, x.name)
		lender := s.names[(i+1+s.rng.IntN(2))%len(s.names)]
		_, err := x.ctl.Borrow(ctx, x.admin, lender, "room", room())
		s.note("%s: borrow of %s: %v", x.name, lender, err)
	case roll < 82:
		if x.up() {
			s.note("kill -9 controller %s", x.name)
			x.kill()
		}
	case roll < 88:
		if h := s.usedHost(); h.up() {
			s.note("kill -9 agent %s", h.node())
			h.kill()
		}
	case roll < 91:
		h := s.usedHost()
		s.note("power off %s", h.node())
		h.kill()
		h.machine.PowerOff()
	case roll < 95:
		y := s.anySite()
		if x == y {
			return
		}
		s.note("cut %s %s", x.name, y.name)
		s.net.Cut(x.name, y.name)
		s.later(after, "heal "+x.name+" "+y.name, func() { s.net.Heal(x.name, y.name) })
	default:
		h := s.usedHost()
		s.note("cut %s %s", h.node(), h.site.name)
		s.net.Cut(h.node(), h.site.name)
		s.later(after, "heal "+h.node(), func() { s.net.Heal(h.node(), h.site.name) })
	}
}

// trap arms a failpoint of one of those that take part in a migration.
func (s *schedule) trap(v *api.VM, target string) {
	if v.Status.Host == "" {
		return
	}
	all := slices.Sorted(maps.Keys(points))
	at := all[s.rng.IntN(len(all))]
	point := points[at][s.rng.IntN(len(points[at]))]
	var nodes []string
	switch at {
	case "coordinator":
		nodes = []string{v.Home}
	case "source agent":
		nodes = []string{v.Status.Site + "." + v.Status.Host}
	case "source controller":
		nodes = []string{v.Status.Site}
	case "target controller":
		nodes = []string{strings.Split(target, "/")[0]}
	case "target agent":
		site, name, _ := strings.Cut(target, "/")
		for h := range s.sites[site].hosts {
			if name == "" || name == h {
				nodes = append(nodes, site+"."+h)
			}
		}
	}
	s.note("trap: kill -9 at %s of %s", point, at)
	for _, node := range nodes {
		s.at(node, point, func() {
			site, name, isHost := strings.Cut(node, ".")
			if isHost {
				s.sites[site].hosts[name].die()
			} else {
				s.sites[site].die()
			}
		})
	}
}

func (s *schedule) later(after time.Duration, what string, do func()) {
	s.mends = append(s.mends, mend{time.Now().Add(after), what, do})
}

// mendDue ends the faults whose time has come, and starts what is dead, sooner or later.
func (s *schedule) mendDue(now time.Time) {
	s.mends = slices.DeleteFunc(s.mends, func(m mend) bool {
		if m.at.After(now) {
			return false
		}
		s.note("%s", m.what)
		m.do()
		return true
	})
	for _, name := range s.names {
		if x := s.sites[name]; !x.up() && s.rng.IntN(2) == 0 {
			s.note("restart controller %s", name)
			x.kill()
			x.start()
		}
	}
	for _, h := range s.hosts() {
		if !h.up() && s.rng.IntN(3) == 0 {
			s.restartHost(h)
		}
	}
}

func (s *schedule) restartHost(h *host) {
	s.note("restart agent %s", h.node())
	h.kill()
	h.machine.PowerOn()
	h.start()
}

func (s *schedule) mendAll() {
	s.disarm()
	for _, m := range s.mends {
		m.do()
	}
	s.mends = nil
	for _, h := range s.hosts() {
		if !h.up() {
			s.restartHost(h)
		}
	}
	for _, name := range s.names {
		if x := s.sites[name]; !x.up() {
			x.kill()
			x.start()
		}
	}
	s.connected()
	s.note("all is mended")
	// New loans for those that were taken back, so that whoever stands still may go on.
	for i, name := range s.names {
		for k := 1; k <= 2; k++ {
			lender := s.names[(i+k)%len(s.names)]
			active := slices.ContainsFunc(listed[api.Loan](s, s.sites[name]), func(l *api.Loan) bool {
				return l.Spec.Lender == lender && l.Spec.Borrower == name && l.Status.State == api.LoanActive
			})
			if !active {
				s.lend(lender, name, room())
			}
		}
	}
}

// judge waits until all is at rest, and looks whether it is as it was ordered.
func (s *schedule) judge() {
	why := ""
	for began := time.Now(); time.Since(began) < 4*time.Minute; time.Sleep(500 * time.Millisecond) {
		if why = s.unsettled(); why == "" {
			break
		}
	}
	if why != "" {
		s.t.Errorf("not at rest: %s", why)
	}
	for _, b := range s.fake.Breaches() {
		s.t.Errorf("law 2: %s", b)
	}
	// At rest means that nobody writes: a controller that goes round in circles would.
	before := map[string]int64{}
	for _, name := range s.names {
		before[name] = s.sites[name].revision()
	}
	time.Sleep(10 * time.Second)
	for _, name := range s.names {
		if n := s.sites[name].revision() - before[name]; n > 50 {
			s.t.Errorf("%s has written %d times in 10 s at rest; the last:\n%s", name, n, s.sites[name].newest())
		}
	}
}

func (x *site) revision() (n int64) {
	x.proc.store.View(context.Background(), func(tx store.Tx) error { n = tx.Revision(); return nil })
	return n
}

// newest are the keys that were written last.
func (x *site) newest() string {
	var all []store.KV
	x.proc.store.View(context.Background(), func(tx store.Tx) (err error) { all, err = tx.List(""); return err })
	slices.SortFunc(all, func(a, b store.KV) int { return int(b.Modified - a.Modified) })
	var out []string
	for _, kv := range all[:min(5, len(all))] {
		out = append(out, fmt.Sprintf("%s %s", kv.Key, kv.Value))
	}
	return strings.Join(out, "\n")
}

// summary tells how much has happened: a schedule in which nothing moves proves nothing.
func (s *schedule) summary() string {
	jobs := map[api.JobState]int{}
	for _, name := range s.names {
		for _, j := range listed[api.Job](s, s.sites[name]) {
			jobs[j.Status.State]++
		}
	}
	what := map[string]int{}
	for _, line := range s.log {
		line = line[10:]
		for _, word := range []string{"kill -9 controller", "kill -9 agent", "power off", "cut", "trap", "restart controller", "restart agent"} {
			if strings.HasPrefix(line, word) {
				what[word]++
			}
		}
	}
	return fmt.Sprintf("migrations %v, faults %v, %d VMs of %d", jobs, what, len(s.want), s.vms)
}

// unsettled says what is not as it is to be; "" is well.
func (s *schedule) unsettled() string {
	if left := s.leftovers(); left != "" {
		return left
	}
	known := map[string]string{} // UID -> SITE/VM
	where := map[string]string{} // UID -> host where its volume is to be
	for _, name := range s.names {
		x := s.sites[name]
		for _, j := range listed[api.Job](s, x) {
			if !j.Status.State.Ended() {
				return fmt.Sprintf("%s: job %s is at %s", name, j.Name, j.Status.Step)
			}
		}
		have := map[string]bool{}
		for _, v := range listed[api.VM](s, x) {
			have[v.Name] = true
			known[v.UID] = name + "/" + v.Name
			on := s.fake.Running(v.UID)
			at := v.Status.Site + "/" + v.Status.Host
			switch {
			case v.Deleting:
				return fmt.Sprintf("%s: %s is still being deleted", name, v.Name)
			case v.Status.Host == "" && len(on) == 0:
				continue // there is no room for it where it is wanted
			case v.Spec.Power == api.PowerOn && (v.Status.Phase != api.PhaseRunning || len(on) != 1 || on[0] != at):
				return fmt.Sprintf("%s: %s is %s at %s (%s), and runs on %v", name, v.Name, v.Status.Phase, at, v.Status.Message, on)
			case v.Spec.Power != api.PowerOn && (v.Status.Phase != api.PhaseStopped || len(on) != 0):
				return fmt.Sprintf("%s: %s is %s at %s (%s), and runs on %v", name, v.Name, v.Status.Phase, at, v.Status.Message, on)
			}
			where[v.UID] = at
		}
		for vm := range s.want {
			if site, n, _ := strings.Cut(vm, "/"); site == name && !have[n] {
				return "acknowledged, and lost: " + vm
			}
		}
	}
	for _, h := range s.hosts() {
		at := h.site.name + "/" + h.name
		for _, uid := range h.machine.VMs() {
			if where[uid] != at {
				return fmt.Sprintf("a domain of %s (%q) on %s", uid, known[uid], at)
			}
		}
		h.disks.mu.Lock()
		for uid := range h.disks.volumes {
			if where[uid] != at {
				h.disks.mu.Unlock()
				return fmt.Sprintf("a volume of %s (%q) on %s", uid, known[uid], at)
			}
		}
		h.disks.mu.Unlock()
	}
	return s.ledgers(where)
}

// ledgers compares what lenders say is used with what is there.
func (s *schedule) ledgers(where map[string]string) string {
	for _, name := range s.names {
		x := s.sites[name]
		used := map[string]api.Resources{}
		for _, g := range listed[api.Guest](s, x) {
			if where[g.Spec.VMUID] != name+"/"+g.Spec.Host {
				return fmt.Sprintf("%s has guest %s at %s, its home says %s", name, g.Name, g.Spec.Host, where[g.Spec.VMUID])
			}
			u := used[g.Spec.Loan]
			u.CPUs, u.MemoryMiB, u.DiskGiB = u.CPUs+g.Spec.Needs.CPUs, u.MemoryMiB+g.Spec.Needs.MemoryMiB, u.DiskGiB+g.Spec.Needs.DiskGiB
			used[g.Spec.Loan] = u
		}
		if a, b := len(listed[api.Guest](s, x)), len(keysOf(x.proc, "orders/")); a != b {
			return fmt.Sprintf("%s shows %d guests and has orders for %d", name, a, b)
		}
		for _, l := range listed[api.Loan](s, x) {
			if l.Spec.Lender != name {
				continue
			}
			if l.Status.Used != used[l.Name] {
				return fmt.Sprintf("%s: loan %s says %+v is used, its guests need %+v", name, l.Name, l.Status.Used, used[l.Name])
			}
			if l.Status.State == api.LoanEnded && l.Status.Used == (api.Resources{}) {
				continue
			}
			for _, m := range listed[api.Loan](s, s.sites[l.Spec.Borrower]) {
				if m.Name == l.Name && (m.Status.Used != l.Status.Used || m.Status.State != l.Status.State) {
					return fmt.Sprintf("loan %s: %s says %s %+v, %s says %s %+v", l.Name, name, l.Status.State, l.Status.Used, l.Spec.Borrower, m.Status.State, m.Status.Used)
				}
			}
		}
	}
	return ""
}
