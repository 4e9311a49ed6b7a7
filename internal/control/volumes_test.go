package control_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"widecloud/api"
	"widecloud/internal/hyper"
	"widecloud/internal/serve"
)

// Volumes in these tests are called as their disks: so a guest's disks tell which volumes it writes to.

func (s *site) newVolume(name string, gib int, place string) *api.Volume {
	s.w.t.Helper()
	return s.create(&api.Volume{Meta: api.Meta{Name: name, Owner: "lab"}, Spec: api.VolumeSpec{SizeGiB: gib, Place: place}}).(*api.Volume)
}

func (s *site) volume(name string) *api.Volume {
	s.w.t.Helper()
	o, err := s.ctl.Get(s.w.t.Context(), s.admin, api.KindVolume, name)
	if err != nil {
		s.w.t.Fatalf("%s: volume %s: %v", s.name, name, err)
	}
	return o.(*api.Volume)
}

// attach gives volumes to a VM.
func (s *site) attach(vm string, volumes ...string) error {
	return s.change(vm, func(spec *api.VMSpec) {
		for _, name := range volumes {
			spec.Disks = append(slices.Clone(spec.Disks), api.Disk{Name: name, Volume: name})
		}
	})
}

// detach takes a volume from a VM.
func (s *site) detach(vm, volume string) error {
	return s.change(vm, func(spec *api.VMSpec) {
		spec.Disks = slices.DeleteFunc(slices.Clone(spec.Disks), func(k api.Disk) bool { return k.Volume == volume })
	})
}

// grow makes a volume larger.
func (s *site) grow(volume string, gib int) error {
	v := s.volume(volume)
	v.Spec.SizeGiB, v.Revision = gib, 0
	_, err := s.ctl.Update(s.w.t.Context(), s.admin, v)
	return err
}

// rest waits until a volume is in a phase at a place, and its one file is there and nowhere else.
func (s *site) rest(volume string, phase api.VolumePhase, at string) {
	s.w.t.Helper()
	s.w.until(fmt.Sprintf("volume %s is %s at %s", volume, phase, at), func() bool {
		v := s.volume(volume)
		return v.Status.Phase == phase && v.Status.Site+"/"+v.Status.Host == at && v.Status.SizeMiB >= int64(v.Spec.SizeGiB)*1024 && len(v.Status.Pending) == 0 &&
			slices.Equal(s.w.filesOf(s, v), []string{at})
	})
}

// filesOf are the hosts that have a file of a volume, one for each.
func (w *world) filesOf(s *site, v *api.Volume) (out []string) {
	uid := ""
	if v.Status.VM != "" {
		uid = s.vm(v.Status.VM).UID
	}
	for _, h := range w.hosts() {
		for _, owner := range []string{v.UID, uid} {
			for _, k := range h.disks.list(owner) {
				if owner == v.UID || k.Name == v.Status.Disk {
					out = append(out, h.site.name+"/"+h.name)
				}
			}
		}
	}
	return out
}

// mark writes a word to a disk of a VM, and marked reads it. It is lost with the file.
func (h *host) mark(path, word string) {
	h.disks.mu.Lock()
	defer h.disks.mu.Unlock()
	h.disks.marks[path] = word
}

func (h *host) marked(path string) string {
	h.disks.mu.Lock()
	defer h.disks.mu.Unlock()
	return h.disks.marks[path]
}

// pathOf is the file of a VM's disk.
func (s *site) pathOf(vm, disk string) string {
	return s.hostOf(vm).disks.diskPath(s.vm(vm).UID, disk)
}

// used is what an owner has of its quota.
func (s *site) used() int {
	s.w.t.Helper()
	o, err := s.ctl.Get(s.w.t.Context(), s.admin, api.KindOwner, "lab")
	s.w.must(err)
	return o.(*api.Owner).Status.Used.DiskGiB
}

// TestVolumes follows a volume from VM to VM, at its host and with VMs that move; the books count it once at each moment.
func TestVolumes(t *testing.T) {
	federation(t, options{sites: []string{"tokyo", "osaka"}, hosts: 2, copyTime: time.Millisecond}, func(t *testing.T, w *world) {
		tokyo, osaka := w.sites["tokyo"], w.sites["osaka"]
		loan := w.lend("osaka", "tokyo", room())
		tokyo.ready("2001:db8:a::/64")
		for name, place := range map[string]string{"web1": "tokyo/h1", "web2": "tokyo/h1", "web3": "tokyo/h2"} {
			tokyo.newVM(name, place)
		}
		allotted := func(host string, want int) {
			t.Helper()
			w.until(fmt.Sprintf("%s has given away %d GiB", host, want), func() bool { return tokyo.host(host).Status.Allotted.DiskGiB == want })
		}
		tokyo.newVolume("data", 2, "")
		if v := tokyo.volume("data"); v.Status.Phase != api.VolumeNew || len(w.filesOf(tokyo, v)) != 0 {
			t.Errorf("a volume without a place is %+v", v.Status)
		}
		usedAt := func(want int) {
			t.Helper()
			if got := tokyo.used(); got != want {
				t.Errorf("the owner has %d GiB, want %d", got, want)
			}
		}
		usedAt(3 + 2)

		// To a running VM; nobody else can have it, or delete it.
		w.must(tokyo.attach("web1", "data"))
		tokyo.settled("web1")
		tokyo.rest("data", api.VolumeAttached, "tokyo/h1")
		if d := cmp.Diff([]string{"data@vdb"}, tokyo.plugged("web1")); d != "" {
			t.Fatalf("disks (-want +got):\n%s", d)
		}
		usedAt(5)
		allotted("h1", 4)
		wantError(t, "a second VM for an attached volume", tokyo.attach("web2", "data"), api.CodeConflict)
		_, err := tokyo.ctl.Delete(t.Context(), tokyo.admin, api.KindVolume, "data")
		wantError(t, "the deletion of an attached volume", err, api.CodeConflict)
		if !strings.Contains(err.Error(), "VM web1") {
			t.Errorf("%v does not name the VM", err)
		}
		tokyo.hosts["h1"].mark(tokyo.pathOf("web1", "data"), "hello")

		// From one to the other.
		w.must(tokyo.detach("web1", "data"))
		tokyo.rest("data", api.VolumeDetached, "tokyo/h1")
		usedAt(5)
		allotted("h1", 4)
		err = tokyo.attach("web3", "data")
		wantError(t, "a VM at another host", err, api.CodeRefused)
		if r := reasonsOf(err); len(r) == 0 || r[0].Code != "volume" || !strings.Contains(r[0].Advice, "wcc vm migrate web3 tokyo/h1") {
			t.Errorf("the reasons are %+v", r)
		}
		w.must(tokyo.attach("web2", "data"))
		tokyo.settled("web2")
		if got := tokyo.hosts["h1"].marked(tokyo.pathOf("web2", "data")); got != "hello" {
			t.Errorf("the next VM reads %q", got)
		}

		// It outlives its VM, and the next one is made where it is.
		_, err = tokyo.ctl.Delete(t.Context(), tokyo.admin, api.KindVM, "web2")
		w.must(err)
		tokyo.gone("web2")
		tokyo.rest("data", api.VolumeDetached, "tokyo/h1")
		usedAt(4)
		v := vmOf("web4", "")
		v.Spec.Disks = []api.Disk{{Name: "data", Volume: "data"}}
		v.Spec.Place = "tokyo/h2"
		_, err = tokyo.ctl.Create(t.Context(), tokyo.admin, v)
		wantError(t, "a new VM elsewhere", err, api.CodeRefused)
		v.Spec.Place = ""
		tokyo.create(v)
		tokyo.settled("web4")
		tokyo.rest("data", api.VolumeAttached, "tokyo/h1")
		if got := tokyo.hosts["h1"].marked(tokyo.pathOf("web4", "data")); got != "hello" {
			t.Errorf("the new VM reads %q", got)
		}

		// It moves alive to a lender, where it grows, counts, and stays with its VM; and home again.
		tokyo.moved("web4", "osaka/h1")
		tokyo.rest("data", api.VolumeAttached, "osaka/h1")
		w.must(tokyo.grow("data", 5))
		tokyo.settled("web4")
		tokyo.rest("data", api.VolumeAttached, "osaka/h1")
		w.until("both ledgers count it", func() bool {
			ours, theirs := tokyo.loan(loan.Name).Status.Used, osaka.loan(loan.Name).Status.Used
			return ours == theirs && ours.DiskGiB == 1+5 // the image is in the first
		})
		wantError(t, "growth beyond the loan", tokyo.grow("data", 200), api.CodeRefused)
		wantError(t, "to detach at a lender", tokyo.detach("web4", "data"), api.CodeRefused)
		_, err = tokyo.ctl.Delete(t.Context(), tokyo.admin, api.KindVM, "web4")
		wantError(t, "the end of a VM with a volume at a lender", err, api.CodeConflict)
		tokyo.moved("web4", "tokyo/h2")
		tokyo.rest("data", api.VolumeAttached, "tokyo/h2")
		w.must(tokyo.detach("web4", "data"))
		tokyo.rest("data", api.VolumeDetached, "tokyo/h2")
		allotted("h2", 1+1+5)

		// With a stopped VM, to another host.
		tokyo.rests("web3", api.PowerOff)
		w.must(tokyo.attach("web3", "data"))
		tokyo.moved("web3", "tokyo/h1")
		tokyo.rest("data", api.VolumeAttached, "tokyo/h1")
		w.must(tokyo.detach("web3", "data"))
		tokyo.rest("data", api.VolumeDetached, "tokyo/h1")
		w.must(tokyo.grow("data", 6))
		tokyo.rest("data", api.VolumeDetached, "tokyo/h1")
		wantError(t, "growth beyond the host", tokyo.grow("data", 200), api.CodeRefused)
		wantError(t, "a smaller volume", tokyo.grow("data", 3), api.CodeInvalid)

		w.endVolume(tokyo, "data")
		usedAt(3)
	})
}

// endVolume deletes a volume, of which nothing is left.
func (w *world) endVolume(s *site, name string) {
	w.t.Helper()
	v := s.volume(name)
	_, err := s.ctl.Delete(w.t.Context(), s.admin, api.KindVolume, name)
	w.must(err)
	w.until(name+" is gone", func() bool {
		_, err := s.ctl.Get(w.t.Context(), s.admin, api.KindVolume, name)
		v.Status.VM = ""
		return errors.Is(err, &api.Error{Code: api.CodeNotFound}) && len(w.filesOf(s, v)) == 0
	})
}

// TestVolumesRefused: what cannot be is refused, with what to do.
func TestVolumesRefused(t *testing.T) {
	federation(t, options{sites: []string{"tokyo", "osaka"}, hosts: 2, older: "osaka"}, func(t *testing.T, w *world) {
		tokyo := w.sites["tokyo"]
		w.lend("osaka", "tokyo", room())
		tokyo.ready("2001:db8:a::/64")
		tokyo.create(&api.Owner{Meta: api.Meta{Name: "other"}})
		tokyo.newVM("web1", "tokyo/h1")
		tokyo.newVM("away", "osaka")
		ann, _ := tokyo.member("ann", "other")
		refused := func(what, words string, err error, codes ...api.Code) {
			t.Helper()
			wantError(t, what, err, codes...)
			if text := fmt.Sprintf("%v %+v", err, reasonsOf(err)); err != nil && !strings.Contains(text, words) {
				t.Errorf("%s: %s does not say %q", what, text, words)
			}
		}
		make := func(gib int, place string) error {
			_, err := tokyo.ctl.Create(t.Context(), tokyo.admin, &api.Volume{Meta: api.Meta{Name: "x", Owner: "lab"}, Spec: api.VolumeSpec{SizeGiB: gib, Place: place}})
			return err
		}
		refused("no size", "spec.size_gib", make(0, ""), api.CodeInvalid)
		refused("a peer's host", "tokyo/HOST", make(1, "osaka/h1"), api.CodeInvalid)
		refused("no such host", "wcc host list", make(1, "tokyo/h9"), api.CodeInvalid)
		refused("more than the host has", "host h1", make(100, "tokyo/h1"), api.CodeRefused)
		tokyo.newVolume("data", 2, "tokyo/h2")
		tokyo.newVolume("more", 2, "tokyo/h1")
		tokyo.newVolume("open", 2, "")
		tokyo.rest("data", api.VolumeDetached, "tokyo/h2")
		tokyo.rest("more", api.VolumeDetached, "tokyo/h1")
		refused("no such volume", "no volume is called", tokyo.attach("web1", "none"), api.CodeInvalid)
		refused("a VM's own disk", "web1.root", tokyo.attach("web1", "web1.root"), api.CodeInvalid)
		refused("an older lender", "release", tokyo.attach("away", "open"), api.CodeRefused)
		refused("a host with a volume", "volume data", func() error {
			_, err := tokyo.ctl.Delete(t.Context(), tokyo.admin, api.KindHost, "h2")
			return err
		}(), api.CodeConflict)
		v := vmOf("both", "")
		v.Spec.Disks = []api.Disk{{Name: "data", Volume: "data"}, {Name: "more", Volume: "more"}}
		_, err := tokyo.ctl.Create(t.Context(), tokyo.admin, v)
		refused("volumes of two hosts", "cannot have both", err, api.CodeRefused)
		v.Spec.Disks = []api.Disk{{Name: "a", Volume: "data"}, {Name: "b", Volume: "data"}}
		_, err = tokyo.ctl.Create(t.Context(), tokyo.admin, v)
		refused("one volume twice", "another disk", err, api.CodeInvalid)
		v.Spec.Disks = []api.Disk{{Name: "data", Volume: "data", SizeGiB: 3}}
		_, err = tokyo.ctl.Create(t.Context(), tokyo.admin, v)
		refused("another size", "leave it out", err, api.CodeInvalid)
		v.Owner, v.Spec.Disks = "other", []api.Disk{{Name: "data", Volume: "data"}}
		_, err = tokyo.ctl.Create(t.Context(), tokyo.admin, v)
		refused("another owner's volume", "same owner", err, api.CodeForbidden, api.CodeInvalid)
		if _, err := tokyo.ctl.Get(t.Context(), ann, api.KindVolume, "data"); !errors.Is(err, &api.Error{Code: api.CodeNotFound}) {
			t.Errorf("another owner's user sees the volume: %v", err)
		}
		w.must(tokyo.attach("web1", "more"))
		tokyo.settled("web1")
		refused("the size of a volume by its VM", "wcc volume grow more", tokyo.change("web1", func(s *api.VMSpec) { s.Disks[0].SizeGiB = 3 }), api.CodeInvalid)
		refused("another disk by the volume's name", "take the disk out first", tokyo.change("web1", func(s *api.VMSpec) { s.Disks[0] = api.Disk{Name: "more", SizeGiB: 2} }), api.CodeInvalid)
		refused("a VM's own disk as a volume", "wcc vm disk", tokyo.grow("web1.root", 9), api.CodeRefused)

		quota := 10
		o, err := tokyo.ctl.Get(t.Context(), tokyo.admin, api.KindOwner, "lab")
		w.must(err)
		owner := o.(*api.Owner)
		owner.Spec.Quota = &api.Quota{DiskGiB: &quota}
		_, err = tokyo.ctl.Update(t.Context(), tokyo.admin, owner)
		w.must(err)
		refused("a volume beyond the quota", "its quota is 10", make(4, ""), api.CodeRefused)
		refused("growth beyond the quota", "its quota is 10", tokyo.grow("data", 6), api.CodeRefused)
		refused("growth of an attached one beyond the quota", "its quota is 10", tokyo.grow("more", 6), api.CodeRefused)
		w.must(tokyo.grow("more", 4)) // all of it
		tokyo.rest("more", api.VolumeAttached, "tokyo/h1")
		w.must(tokyo.detach("web1", "more")) // takes nothing more
		tokyo.rest("more", api.VolumeDetached, "tokyo/h1")
		w.must(tokyo.attach("web1", "more"))
		tokyo.settled("web1")
	})
}

// cycle leads a volume through its life: made on a host, attached, detached, attached to another VM, with which it ends up free, and
// deleted. Each step is repeated until it is done: its own write may fail.
func (w *world) cycle(name, what string) {
	w.t.Helper()
	tokyo := w.sites["tokyo"]
	try := func(step string, do func() error, done func() bool) {
		w.t.Helper()
		var last error
		defer func() {
			if w.t.Failed() {
				w.t.Logf("%s: %s of %s: %v", what, step, name, last)
			}
		}()
		w.until(fmt.Sprintf("%s: %s of %s", what, step, name), func() bool {
			if done() {
				return true
			}
			w.restartDead()
			if done() {
				return true
			}
			last = do()
			time.Sleep(time.Second)
			return done()
		})
	}
	get := func() *api.Volume {
		if !tokyo.up() {
			return nil
		}
		o, err := tokyo.ctl.Get(w.t.Context(), tokyo.admin, api.KindVolume, name)
		if err != nil {
			return nil
		}
		return o.(*api.Volume)
	}
	is := func(phase api.VolumePhase, vm string) func() bool {
		return func() bool {
			v := get()
			return v != nil && v.Status.Phase == phase && v.Status.VM == vm && v.Status.SizeMiB > 0 && slices.Equal(w.filesOf(tokyo, v), []string{"tokyo/h1"}) && len(v.Status.Pending) == 0 && (vm == "" || slices.Contains(tokyo.plugged(vm), name+"@vdb"))
		}
	}
	try("creation", func() error {
		_, err := tokyo.ctl.Create(w.t.Context(), tokyo.admin, &api.Volume{Meta: api.Meta{Name: name, Owner: "lab"}, Spec: api.VolumeSpec{SizeGiB: 2, Place: "tokyo/h1"}})
		return err
	}, is(api.VolumeDetached, ""))
	v := get()
	h1 := tokyo.hosts["h1"]
	h1.mark(h1.disks.diskPath(v.UID, "Kept"), what)
	try("attachment", func() error { return tokyo.attach("web1", name) }, is(api.VolumeAttached, "web1"))
	if got := h1.marked(tokyo.pathOf("web1", name)); got != what {
		w.t.Fatalf("%s: web1 reads %q from volume %s", what, got, name)
	}
	try("detachment", func() error { return tokyo.detach("web1", name) }, is(api.VolumeDetached, ""))
	try("making of web2", func() error {
		_, err := tokyo.ctl.Create(w.t.Context(), tokyo.admin, vmOf("web2", "tokyo/h1"))
		return err
	}, func() bool {
		o, err := tokyo.ctl.Get(w.t.Context(), tokyo.admin, api.KindVM, "web2")
		return err == nil && o.(*api.VM).Status.Phase == api.PhaseRunning
	})
	try("second attachment", func() error { return tokyo.attach("web2", name) }, is(api.VolumeAttached, "web2"))
	try("end of its VM", func() error {
		_, err := tokyo.ctl.Delete(w.t.Context(), tokyo.admin, api.KindVM, "web2")
		return err
	}, is(api.VolumeDetached, ""))
	if got := h1.marked(h1.disks.diskPath(v.UID, "Kept")); got != what {
		w.t.Fatalf("%s: volume %s has %q on it", what, name, got)
	}
	try("deletion", func() error {
		_, err := tokyo.ctl.Delete(w.t.Context(), tokyo.admin, api.KindVolume, name)
		return err
	}, func() bool {
		return get() == nil && tokyo.up() && len(w.filesOf(tokyo, &api.Volume{Meta: v.Meta})) == 0
	})
	tokyo.settled("web1")
	tokyo.runs("web1")
	w.lawful()
}

// TestVolumesKilled kills the agent at each of its steps with a volume. It goes on where it was: what is on the volume stays, and
// nothing is left over.
func TestVolumesKilled(t *testing.T) {
	federation(t, options{sites: []string{"tokyo"}}, func(t *testing.T, w *world) {
		tokyo := w.sites["tokyo"]
		tokyo.ready("2001:db8:a::/64")
		tokyo.newVM("web1", "tokyo/h1")
		h := tokyo.hosts["h1"]
		for i, point := range []string{"volume.make", "volume.take", "disk.made", "disk.plugged", "disk.unplugged", "disk.remove", "volume.give", "volume.remove"} {
			struck := false
			w.at(h.node(), point, func() { struck = true; h.die() })
			w.cycle(fmt.Sprintf("data%d", i), "killed at "+point)
			if !struck {
				t.Errorf("%s was not reached", point)
			}
		}
	})
}

// TestVolumesEachWriteFails has every single write of the controller's and the agent's store fail once in a volume's life, with and
// without taking effect.
func TestVolumesEachWriteFails(t *testing.T) {
	for _, at := range []string{"tokyo", "tokyo/h1"} {
		t.Run(strings.ReplaceAll(at, "/", "-"), func(t *testing.T) {
			t.Parallel()
			federation(t, options{sites: []string{"tokyo"}}, func(t *testing.T, w *world) {
				tokyo := w.sites["tokyo"]
				tokyo.ready("2001:db8:a::/64")
				st := w.countWrites(at)
				w.connected()
				tokyo.newVM("web1", "tokyo/h1")
				tokyo.runs("web1")
				for _, committed := range []bool{false, true} {
					for strike := 1; ; strike++ {
						st.arm(strike, committed)
						w.cycle("data", fmt.Sprintf("write %d fails, takes effect: %t", strike, committed))
						writes := st.disarm()
						if t.Failed() {
							return
						}
						if writes < strike { // there are no more
							if t.Logf("%d writes", writes); writes < 5 {
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

// TestVolumesKilledMigration kills each end of a migration of a VM that has a volume, alive and stopped, at its steps. The volume is
// where the VM is.
func TestVolumesKilledMigration(t *testing.T) {
	for _, power := range []api.Power{api.PowerOn, api.PowerOff} {
		t.Run(string(power), func(t *testing.T) {
			t.Parallel()
			federation(t, options{sites: []string{"tokyo", "osaka"}, copyTime: 5 * time.Millisecond}, func(t *testing.T, w *world) {
				w.lend("osaka", "tokyo", room())
				tokyo := w.sites["tokyo"]
				tokyo.ready("2001:db8:a::/64")
				tokyo.newVolume("data", 2, "tokyo/h1")
				tokyo.newVM("web1", "tokyo/h1")
				w.must(tokyo.attach("web1", "data"))
				tokyo.settled("web1")
				tokyo.rests("web1", power)
				for victim, at := range map[string][]string{
					"source agent": {"source.begin", "source.copied", "source.confirmed"}, "target agent": {"target.reserved", "target.prepared", "target.committed", "target.switched"},
					"coordinator": {"coordinator.copied", "coordinator.committed"},
				} {
					for _, point := range at {
						w.killedAt("tokyo", "osaka", victim, victim, point)
						tokyo.rest("data", api.VolumeAttached, "tokyo/h1")
					}
				}
				w.must(tokyo.detach("web1", "data"))
				tokyo.rest("data", api.VolumeDetached, "tokyo/h1")
			})
		})
	}
}

// TestVolumesLaws lets volumes and VMs of one owner live through random orders and deaths, and looks at each moment whether the laws hold:
// no volume has two writers, no quota and no loan is exceeded. At last each volume has one file, where the books say that it is.
func TestVolumesLaws(t *testing.T) {
	for seed := range uint64(3) {
		t.Run(fmt.Sprintf("seed-%d", seed), func(t *testing.T) {
			t.Parallel()
			federation(t, options{sites: []string{"tokyo", "osaka"}, hosts: 2, copyTime: time.Millisecond}, func(t *testing.T, w *world) {
				newVolumeSchedule(t, w, seed).run(300)
			})
		})
	}
}

// volumeSchedule is one random life.
type volumeSchedule struct {
	t     *testing.T
	w     *world
	tokyo *site
	rng   *rand.Rand
	quota int
	loan  string
	log   []string
	done  map[string]int // orders that were accepted, by what they are
}

func newVolumeSchedule(t *testing.T, w *world, seed uint64) *volumeSchedule {
	s := &volumeSchedule{t: t, w: w, tokyo: w.sites["tokyo"], rng: rand.New(rand.NewPCG(seed, 1)), quota: 24, done: map[string]int{}}
	s.loan = w.lend("osaka", "tokyo", api.Resources{CPUs: 8, MemoryMiB: 4096, DiskGiB: 10}).Name
	s.tokyo.ready("2001:db8:a::/64")
	o, err := s.tokyo.ctl.Get(t.Context(), s.tokyo.admin, api.KindOwner, "lab")
	w.must(err)
	owner := o.(*api.Owner)
	owner.Spec.Quota = &api.Quota{DiskGiB: &s.quota}
	_, err = s.tokyo.ctl.Update(t.Context(), s.tokyo.admin, owner)
	w.must(err)
	for i := range 3 {
		s.tokyo.newVM(fmt.Sprintf("web%d", i+1), fmt.Sprintf("tokyo/h%d", 1+i%2))
	}
	return s
}

func (s *volumeSchedule) run(steps int) {
	for range steps {
		s.step()
		for range 1 + s.rng.IntN(20) { // looked at all the time
			time.Sleep(37 * time.Millisecond)
			if s.laws(); s.t.Failed() {
				s.t.Logf("%s\n%s", strings.Join(s.log, "\n"), s.w.state())
				return
			}
		}
	}
	s.w.disarm()
	s.w.restartDead()
	s.atRest()
	s.t.Logf("accepted: %v", s.done)
}

func (s *volumeSchedule) do(what string, err error) {
	s.log = append(s.log, fmt.Sprintf("%s %s: %v", time.Now().Format("04:05.000"), what, err))
	if err == nil {
		s.done[strings.Fields(what)[0]]++
	}
}

// step is one order or one death.
func (s *volumeSchedule) step() {
	ctx := s.t.Context()
	if s.rng.IntN(3) > 0 {
		s.w.restartDead()
	}
	if !s.tokyo.up() {
		return
	}
	vm, volume := fmt.Sprintf("web%d", 1+s.rng.IntN(4)), fmt.Sprintf("data%d", 1+s.rng.IntN(4))
	switch roll := s.rng.IntN(100); {
	case roll < 15:
		place := []string{"", "tokyo/h1", "tokyo/h2"}[s.rng.IntN(3)]
		_, err := s.tokyo.ctl.Create(ctx, s.tokyo.admin, &api.Volume{Meta: api.Meta{Name: volume, Owner: "lab"}, Spec: api.VolumeSpec{SizeGiB: 1 + s.rng.IntN(4), Place: place}})
		s.do("create "+volume+" "+place, err)
	case roll < 40:
		// Half of the time to a VM that may be where the volume is.
		if o, err := s.tokyo.ctl.Get(ctx, s.tokyo.admin, api.KindVolume, volume); err == nil && s.rng.IntN(2) == 0 {
			at := o.(*api.Volume).Status
			for _, v := range s.tokyo.list(api.KindVM) {
				if st := v.(*api.VM).Status; st.Site == at.Site && st.Host == at.Host {
					vm = v.Metadata().Name
				}
			}
		}
		s.onVM("attach "+volume+" to "+vm, vm, func(spec *api.VMSpec) {
			spec.Disks = append(slices.Clone(spec.Disks), api.Disk{Name: volume, Volume: volume})
		})
	case roll < 58:
		s.onVM("detach "+volume+" from "+vm, vm, func(spec *api.VMSpec) {
			spec.Disks = slices.DeleteFunc(slices.Clone(spec.Disks), func(k api.Disk) bool { return k.Volume == volume })
		})
	case roll < 66:
		o, err := s.tokyo.ctl.Get(ctx, s.tokyo.admin, api.KindVolume, volume)
		if err == nil {
			v := o.(*api.Volume)
			v.Spec.SizeGiB += 1 + s.rng.IntN(6)
			_, err = s.tokyo.ctl.Update(ctx, s.tokyo.admin, v)
		}
		s.do("grow "+volume, err)
	case roll < 70:
		_, err := s.tokyo.ctl.Delete(ctx, s.tokyo.admin, api.KindVolume, volume)
		s.do("delete "+volume, err)
	case roll < 80:
		target := []string{"osaka", "tokyo/h1", "tokyo/h2"}[s.rng.IntN(3)]
		_, _, err := s.tokyo.ctl.Migrate(ctx, s.tokyo.admin, vm, target, false)
		s.do("migrate "+vm+" to "+target, err)
	case roll < 86:
		p := []api.Power{api.PowerOn, api.PowerOn, api.PowerOffHard}[s.rng.IntN(3)]
		s.onVM("power "+vm+" "+string(p), vm, func(spec *api.VMSpec) { spec.Power = p })
	case roll < 89:
		_, err := s.tokyo.ctl.Delete(ctx, s.tokyo.admin, api.KindVM, vm)
		s.do("end "+vm, err)
	case roll < 93:
		v := vmOf(vm, "")
		if s.rng.IntN(2) == 0 {
			v.Spec.Disks = []api.Disk{{Name: volume, Volume: volume}}
		}
		_, err := s.tokyo.ctl.Create(ctx, s.tokyo.admin, v)
		s.do("make "+vm, err)
	case roll < 97:
		h := s.w.hosts()[s.rng.IntN(4)]
		points := []string{"volume.make", "volume.take", "volume.give", "volume.remove", "disk.plugged", "disk.unplugged", "source.copied", "target.prepared", "target.committed"}
		point := points[s.rng.IntN(len(points))]
		s.w.at(h.node(), point, h.die)
		s.do("trap "+h.node()+" at "+point, nil)
	default:
		s.do("kill tokyo", nil)
		s.tokyo.die()
	}
}

// onVM changes a VM as it is now.
func (s *volumeSchedule) onVM(what, vm string, f func(*api.VMSpec)) {
	o, err := s.tokyo.ctl.Get(s.t.Context(), s.tokyo.admin, api.KindVM, vm)
	if err == nil {
		v := o.(*api.VM)
		f(&v.Spec)
		_, err = s.tokyo.ctl.Update(s.t.Context(), s.tokyo.admin, v)
	}
	s.do(what, err)
}

// laws looks whether all of them hold now.
func (s *volumeSchedule) laws() {
	writers := map[string][]string{}
	for _, h := range s.w.hosts() {
		for _, uid := range h.machine.VMs() {
			g, ok := h.machine.Guest(uid)
			if !ok || g.State != hyper.Running {
				continue
			}
			for _, k := range g.Spec.Disks {
				if k.Serial != "" {
					writers[k.Serial] = append(writers[k.Serial], h.node()+" "+g.Spec.Name)
				}
			}
		}
	}
	for volume, who := range writers {
		if len(who) > 1 {
			s.t.Errorf("law: volume %s is written by %v", volume, who)
		}
	}
	if !s.tokyo.up() {
		return
	}
	if used := s.tokyo.used(); used > s.quota {
		s.t.Errorf("law: the owner has %d GiB, and its quota is %d", used, s.quota)
	}
	for _, x := range []*site{s.tokyo, s.w.sites["osaka"]} {
		if l := x.loan(s.loan); l.Status.Used.DiskGiB > l.Spec.Amount.DiskGiB {
			s.t.Errorf("law: by %s, loan %s is used with %d GiB of %d", x.name, l.Name, l.Status.Used.DiskGiB, l.Spec.Amount.DiskGiB)
		}
	}
	for _, h := range s.w.hosts() {
		if a := h.site.host(h.name).Status; a.Allotted.DiskGiB > a.Capacity.DiskGiB && a.Capacity.DiskGiB > 0 {
			s.t.Errorf("law: %s has given away %d GiB of %d", h.node(), a.Allotted.DiskGiB, a.Capacity.DiskGiB)
		}
	}
}

// atRest waits until each volume has one file, where the books say that it is, and nothing of others is left.
func (s *volumeSchedule) atRest() {
	s.t.Helper()
	why := "?"
	if !soon(4*time.Minute, func() bool { why = s.restless(); return why == "" }) {
		s.t.Errorf("not at rest: %s\n%s\n%s", why, strings.Join(s.log, "\n"), s.w.state())
	}
	s.laws()
}

func (s *volumeSchedule) restless() string {
	known := map[string]bool{} // owners of files
	for _, o := range s.tokyo.list(api.KindVM) {
		v := o.(*api.VM)
		known[v.UID] = true
		if v.Deleting || v.Status.Job != "" {
			return v.Name + " is at work"
		}
	}
	for _, o := range s.tokyo.list(api.KindVolume) {
		v := o.(*api.Volume)
		known[v.UID] = true
		files := s.w.filesOf(s.tokyo, v)
		at := v.Status.Site + "/" + v.Status.Host
		switch {
		case v.IsDisk():
		case v.Status.Phase == api.VolumeNew || v.Status.Phase == api.VolumeAttached && v.Status.SizeMiB == 0:
			if len(files) > 0 {
				return fmt.Sprintf("volume %s is %s and has files at %v", v.Name, v.Status.Phase, files)
			}
		case v.Status.Phase != api.VolumeDetached && v.Status.Phase != api.VolumeAttached:
			return fmt.Sprintf("volume %s is %s (%s)", v.Name, v.Status.Phase, v.Status.Message)
		case !slices.Equal(files, []string{at}):
			return fmt.Sprintf("volume %s is %s at %s, and has files at %v", v.Name, v.Status.Phase, at, files)
		}
	}
	for _, h := range s.w.hosts() {
		h.disks.mu.Lock()
		for owner, disks := range h.disks.sizes {
			if len(disks) > 0 && !known[owner] {
				h.disks.mu.Unlock()
				return fmt.Sprintf("disks %v of %s are left at %s", disks, owner, h.node())
			}
		}
		h.disks.mu.Unlock()
	}
	return ""
}

// list are a site's objects of a kind.
func (s *site) list(k api.Kind) []api.Object {
	list, _, err := s.ctl.List(s.w.t.Context(), s.admin, k, serve.Query{})
	s.w.must(err)
	return list
}

// TestVolumesAtRest: a VM that is hibernated or suspended keeps its volumes, which are part of what its memory knows, until it goes on or is
// given up; nobody else has them before.
func TestVolumesAtRest(t *testing.T) {
	for _, power := range []api.Power{api.PowerSuspended, api.PowerHibernated} {
		t.Run(string(power), func(t *testing.T) {
			t.Parallel()
			federation(t, options{sites: []string{"tokyo"}}, func(t *testing.T, w *world) {
				tokyo := w.sites["tokyo"]
				tokyo.ready("2001:db8:a::/64")
				tokyo.newVM("web1", "tokyo/h1")
				tokyo.newVM("web2", "tokyo/h1")
				tokyo.newVolume("data", 2, "tokyo/h1")
				tokyo.rest("data", api.VolumeDetached, "tokyo/h1")
				w.must(tokyo.attach("web1", "data"))
				tokyo.settled("web1")
				rest := func() {
					t.Helper()
					tokyo.setPower("web1", power)
					tokyo.phase("web1", map[api.Power]api.VMPhase{api.PowerSuspended: api.PhaseSuspended, api.PowerHibernated: api.PhaseHibernated}[power])
				}
				held := func() {
					t.Helper()
					time.Sleep(2 * time.Minute)
					if v := tokyo.volume("data"); v.Status.Phase != api.VolumeDetaching || v.Status.VM != "web1" {
						t.Fatalf("a volume of a VM that rests is %+v", v.Status)
					}
					wantError(t, "another VM", tokyo.attach("web2", "data"), api.CodeConflict)
				}
				rest()
				w.must(tokyo.detach("web1", "data"))
				held()
				tokyo.setPower("web1", api.PowerOn)
				tokyo.rest("data", api.VolumeDetached, "tokyo/h1") // it goes on with it, and lets it go
				tokyo.settled("web1")

				// One that is deleted gives it back, too.
				w.must(tokyo.attach("web1", "data"))
				tokyo.settled("web1")
				rest()
				_, err := tokyo.ctl.Delete(t.Context(), tokyo.admin, api.KindVM, "web1")
				w.must(err)
				tokyo.gone("web1")
				tokyo.rest("data", api.VolumeDetached, "tokyo/h1")
				w.must(tokyo.attach("web2", "data"))
				tokyo.settled("web2")
				tokyo.rest("data", api.VolumeAttached, "tokyo/h1")
			})
		})
	}
}
