package control_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"widecloud/api"
	"widecloud/internal/hyper"
	"widecloud/internal/lend"
	"widecloud/internal/serve"
)

// change changes a VM's spec.
func (s *site) change(name string, f func(*api.VMSpec)) error {
	v := s.vm(name)
	f(&v.Spec)
	v.Revision = 0
	_, err := s.ctl.Update(s.w.t.Context(), s.admin, v)
	return err
}

func disksOf(names ...string) func(*api.VMSpec) {
	return func(spec *api.VMSpec) {
		spec.Disks = nil
		for _, n := range names {
			spec.Disks = append(spec.Disks, api.Disk{Name: n, SizeGiB: 2})
		}
	}
}

// plugged are the disks that a VM's guest has, by their serial numbers and places.
func (s *site) plugged(name string) (out []string) {
	_, g := s.guest(name)
	for _, k := range g.Spec.Disks {
		if k.Serial != "" {
			out = append(out, k.Serial+"@"+k.Target)
		}
	}
	slices.Sort(out)
	return out
}

// settled waits until all of a VM is as its spec says.
func (s *site) settled(name string) {
	s.w.t.Helper()
	s.w.until(name+" is as its spec says", func() bool {
		v := s.vm(name)
		return v.Status.Phase == api.PhaseRunning && len(v.Status.Pending) == 0 && len(v.Status.Disks) == len(v.Spec.Disks) &&
			!slices.ContainsFunc(v.Status.Disks, func(k api.VMDisk) bool { return !k.Plugged })
	})
}

// hostOf is the host where a VM is.
func (s *site) hostOf(name string) *host {
	v := s.vm(name)
	return s.w.sites[v.Status.Site].hosts[v.Status.Host]
}

// volumes are the names and sizes of a site's volumes.
func (s *site) volumes() (out []string) {
	s.w.t.Helper()
	list, _, err := s.ctl.List(s.w.t.Context(), s.admin, api.KindVolume, serve.Query{})
	s.w.must(err)
	for _, o := range list {
		v := o.(*api.Volume)
		out = append(out, fmt.Sprintf("%s %s/%s %dM at %s", v.Name, v.Status.VM, v.Status.Disk, v.Status.SizeMiB, v.Status.Site))
	}
	slices.Sort(out)
	return out
}

// TestDisks: a VM is made with a disk, gets and loses others while it runs, they grow, and it moves with all of them, at home and at
// a lender alike. The books of both count each byte.
func TestDisks(t *testing.T) {
	for _, place := range []string{"tokyo", "osaka"} {
		t.Run(place, func(t *testing.T) {
			t.Parallel()
			federation(t, options{sites: []string{"tokyo", "osaka"}, hosts: 2}, func(t *testing.T, w *world) {
				tokyo, osaka := w.sites["tokyo"], w.sites["osaka"]
				loan := w.lend("osaka", "tokyo", room())
				tokyo.ready("2001:db8:a::/64")
				v := vmOf("web1", place)
				disksOf("data", "logs")(&v.Spec)
				tokyo.create(v)
				tokyo.settled("web1")
				tokyo.runs("web1")
				boot := func() string { _, g := tokyo.guest("web1"); return g.Boot }
				first := boot()
				has := func(want ...string) {
					t.Helper()
					if d := cmp.Diff(want, tokyo.plugged("web1")); d != "" {
						t.Fatalf("disks (-want +got):\n%s", d)
					}
				}
				has("data@vdb", "logs@vdc")

				// Out and in: the place of what is gone is free again, and others keep theirs.
				w.must(tokyo.change("web1", disksOf("logs")))
				tokyo.settled("web1")
				has("logs@vdc")
				w.must(tokyo.change("web1", disksOf("logs", "spare")))
				tokyo.settled("web1")
				has("logs@vdc", "spare@vdb")

				// It grows while it runs; smaller it does not become.
				grow := func(spec *api.VMSpec) { spec.Disks[0].SizeGiB, spec.DiskGiB = 5, 3 }
				w.must(tokyo.change("web1", grow))
				tokyo.settled("web1")
				wantError(t, "a smaller disk", tokyo.change("web1", disksOf("logs", "spare")), api.CodeInvalid)
				wantError(t, "a smaller root disk", tokyo.change("web1", func(s *api.VMSpec) { s.DiskGiB = 2 }), api.CodeInvalid)
				site := tokyo.vm("web1").Status.Site
				want := []string{"web1.logs web1/logs 5120M at " + site, "web1.root web1/root 3072M at " + site, "web1.spare web1/spare 2048M at " + site}
				if d := cmp.Diff(want, tokyo.volumes()); d != "" {
					t.Errorf("volumes (-want +got):\n%s", d)
				}

				// It moves there and back, with all that it has.
				for _, target := range []string{"osaka/h2", "tokyo/h2", "osaka/h1"} {
					tokyo.moved("web1", target)
					has("logs@vdc", "spare@vdb")
					if boot() != first {
						t.Fatal("the guest was booted anew")
					}
					tokyo.settled("web1")
				}
				agree := func() bool {
					ours, theirs := tokyo.loan(loan.Name).Status.Used, osaka.loan(loan.Name).Status.Used
					return ours == theirs && ours.DiskGiB == 11 // 3 + 5 + 2, and the image
				}
				w.until("both ledgers count all disks", agree)
				if on := osaka.host("h1").Status.Allotted.DiskGiB; on != 11 {
					t.Errorf("the host has given away %d GiB", on)
				}

				_, err := tokyo.ctl.Delete(t.Context(), tokyo.admin, api.KindVM, "web1")
				w.must(err)
				w.until("nothing is left of it", func() bool {
					for _, h := range w.hosts() {
						if h.disks.has(v.UID) {
							return false
						}
					}
					return len(tokyo.volumes()) == 0
				})
			})
		})
	}
}

// TestDisksDeafGuest: a guest that does not let a disk go keeps it, and it is shown, counted, and moved with the VM, until the guest
// boots anew.
func TestDisksDeafGuest(t *testing.T) {
	federation(t, options{sites: []string{"tokyo"}, hosts: 2}, func(t *testing.T, w *world) {
		tokyo := w.sites["tokyo"]
		tokyo.ready("2001:db8:a::/64")
		v := vmOf("web1", "tokyo/h1")
		disksOf("data")(&v.Spec)
		v = tokyo.create(v).(*api.VM)
		tokyo.settled("web1")
		for _, h := range tokyo.hosts {
			h.machine.SetDeaf(v.UID, true)
		}
		w.must(tokyo.change("web1", disksOf()))
		waits := func() {
			t.Helper()
			w.until("it is shown that the guest has it", func() bool {
				want := []api.Pending{{Field: "disks.data", Now: "2GiB", Waits: "for the guest to let it go"}}
				return cmp.Equal(want, tokyo.vm("web1").Status.Pending)
			})
			time.Sleep(2 * time.Minute)
			if d := cmp.Diff([]string{"data@vdb"}, tokyo.plugged("web1")); d != "" {
				t.Fatalf("disks (-want +got):\n%s", d)
			}
			if n := tokyo.host(tokyo.vm("web1").Status.Host).Status.Allotted.DiskGiB; n != 3 { // with the image's one
				t.Errorf("the host has given away %d GiB", n)
			}
		}
		waits()
		wantError(t, "another one of its name", tokyo.change("web1", disksOf("data")), api.CodeConflict)
		tokyo.moved("web1", "tokyo/h2")
		waits()
		w.must(tokyo.ctl.Reboot(t.Context(), tokyo.admin, "web1", true))
		tokyo.settled("web1")
		if got := tokyo.hostOf("web1").disks.list(v.UID); len(got) != 1 {
			t.Errorf("disks that are left: %v", got)
		}
		w.must(tokyo.change("web1", disksOf("data")))
		tokyo.settled("web1")
	})
}

// TestPendingSize: CPUs and memory of a running VM are changed at its next start; until then both sizes are counted, and it moves
// with those that it has.
func TestPendingSize(t *testing.T) {
	for _, place := range []string{"tokyo", "osaka"} {
		t.Run(place, func(t *testing.T) {
			t.Parallel()
			federation(t, options{sites: []string{"tokyo", "osaka"}}, func(t *testing.T, w *world) {
				tokyo, osaka := w.sites["tokyo"], w.sites["osaka"]
				loan := w.lend("osaka", "tokyo", room())
				tokyo.ready("2001:db8:a::/64")
				tokyo.newVM("web1", place)
				size := func(cpus, memory int) {
					t.Helper()
					w.until(fmt.Sprintf("it runs with %d CPUs and %d MiB", cpus, memory), func() bool {
						_, g := tokyo.guest("web1")
						return g.Spec.CPUs == cpus && g.Spec.MemoryMiB == memory
					})
				}
				w.must(tokyo.resize("web1", 2, 128))
				want := []api.Pending{
					{Field: "cpus", Now: "1", Wanted: "2", Waits: "for its next start"},
					{Field: "memory_mib", Now: "256", Wanted: "128", Waits: "for its next start"},
				}
				time.Sleep(time.Minute)
				if d := cmp.Diff(want, tokyo.vm("web1").Status.Pending); d != "" {
					t.Fatalf("pending (-want +got):\n%s", d)
				}
				size(1, 256)
				counted := func(want api.Resources) {
					t.Helper()
					w.until(fmt.Sprintf("%+v are counted", want), func() bool {
						v := tokyo.vm("web1")
						if v.Status.Site == "tokyo" {
							return tokyo.host("h1").Status.Allotted == want
						}
						lent := lend.Max(want, api.Resources{DiskGiB: 1})
						return tokyo.loan(loan.Name).Status.Used == lent && osaka.loan(loan.Name).Status.Used == lent && osaka.host("h1").Status.Allotted == lent
					})
				}
				disk := tokyo.disk("web1")
				counted(api.Resources{CPUs: 2, MemoryMiB: 256, DiskGiB: disk})
				other := map[string]string{"tokyo": "osaka", "osaka": "tokyo"}[place]
				tokyo.moved("web1", other)
				size(1, 256)
				counted(api.Resources{CPUs: 2, MemoryMiB: 256, DiskGiB: disk})
				if d := cmp.Diff(want, tokyo.vm("web1").Status.Pending); d != "" {
					t.Fatalf("pending after a move (-want +got):\n%s", d)
				}
				tokyo.moved("web1", place)
				tokyo.setPower("web1", api.PowerOffHard)
				tokyo.phase("web1", api.PhaseStopped)
				tokyo.setPower("web1", api.PowerOn)
				tokyo.runs("web1")
				size(2, 128)
				tokyo.settled("web1")
				counted(api.Resources{CPUs: 2, MemoryMiB: 128, DiskGiB: disk})
				wantError(t, "another CPU model while it runs", tokyo.change("web1", func(s *api.VMSpec) { s.CPUModel = "Westmere" }), api.CodeConflict)
				// What is changed back is no change.
				w.must(tokyo.resize("web1", 1, 128))
				w.must(tokyo.resize("web1", 2, 128))
				tokyo.settled("web1")
				counted(api.Resources{CPUs: 2, MemoryMiB: 128, DiskGiB: disk})
			})
		})
	}
}

// disk is the room that a VM's disk takes here, GiB.
func (s *site) disk(string) int { return 1 }

// TestDisksFirstProfile: the machine of the first hardware profile has no ports. What is changed is in effect at the next start, and
// the VM moves with what it has.
func TestDisksFirstProfile(t *testing.T) {
	federation(t, options{sites: []string{"tokyo"}, hosts: 2}, func(t *testing.T, w *world) {
		tokyo := w.sites["tokyo"]
		tokyo.ready("2001:db8:a::/64")
		v := vmOf("web1", "tokyo/h1")
		v.Spec.Profile = 1
		disksOf("data")(&v.Spec)
		tokyo.create(v)
		tokyo.settled("web1")
		w.must(tokyo.change("web1", disksOf("logs")))
		time.Sleep(time.Minute)
		want := []api.Pending{
			{Field: "disks.data", Now: "2GiB", Waits: "for its next start"},
			{Field: "disks.logs", Wanted: "2GiB", Waits: "for its next start"},
		}
		if d := cmp.Diff(want, tokyo.vm("web1").Status.Pending); d != "" {
			t.Fatalf("pending (-want +got):\n%s", d)
		}
		tokyo.moved("web1", "tokyo/h2")
		if d := cmp.Diff([]string{"data@vdc"}, tokyo.plugged("web1")); d != "" {
			t.Fatalf("disks after a move (-want +got):\n%s", d)
		}
		tokyo.setPower("web1", api.PowerOffHard)
		tokyo.phase("web1", api.PhaseStopped)
		tokyo.setPower("web1", api.PowerOn)
		tokyo.settled("web1")
		if d := cmp.Diff([]string{"logs@vdd"}, tokyo.plugged("web1")); d != "" {
			t.Fatalf("disks after a start (-want +got):\n%s", d)
		}
	})
}

// TestDisksRefused: a disk for which there is no room is refused with what is short: of the quota, of the loan, of the host.
func TestDisksRefused(t *testing.T) {
	federation(t, options{sites: []string{"tokyo", "osaka"}}, func(t *testing.T, w *world) {
		tokyo := w.sites["tokyo"]
		w.lend("osaka", "tokyo", api.Resources{CPUs: 4, MemoryMiB: 2048, DiskGiB: 20})
		tokyo.ready("2001:db8:a::/64")
		tokyo.newVM("here", "tokyo")
		tokyo.newVM("there", "osaka")
		add := func(gib int) func(*api.VMSpec) {
			return func(s *api.VMSpec) { s.Disks = []api.Disk{{Name: "data", SizeGiB: gib}} }
		}
		refused := func(what, vm, words string, f func(*api.VMSpec)) {
			t.Helper()
			err := tokyo.change(vm, f)
			wantError(t, what, err, api.CodeRefused)
			if text := fmt.Sprintf("%v %+v", err, reasonsOf(err)); !strings.Contains(text, words) {
				t.Errorf("%s: %s does not say %q", what, text, words)
			}
		}
		refused("more than the host has", "here", "host h1", add(100))
		refused("a root disk larger than the host has", "here", "host h1", func(s *api.VMSpec) { s.DiskGiB = 101 })
		refused("more than the loan has", "there", "loan", add(20))
		w.must(tokyo.change("there", add(10)))
		tokyo.settled("there")
		refused("growth beyond the loan", "there", "loan", add(20))
		quota := 40
		o, err := tokyo.ctl.Get(t.Context(), tokyo.admin, api.KindOwner, "lab")
		w.must(err)
		owner := o.(*api.Owner)
		owner.Spec.Quota = &api.Quota{DiskGiB: &quota}
		_, err = tokyo.ctl.Update(t.Context(), tokyo.admin, owner)
		w.must(err)
		refused("more than the quota", "here", "its quota is 40", add(30))
		w.must(tokyo.change("here", add(20)))
		tokyo.settled("here")
	})
}

func reasonsOf(err error) []api.Reason {
	if e, ok := err.(*api.Error); ok {
		return e.Reasons
	}
	return nil
}

// TestDisksKilled kills an agent at each step of a change of disks. It goes on where it was; nothing is left over, and no guest loses a
// disk that it has.
func TestDisksKilled(t *testing.T) {
	federation(t, options{sites: []string{"tokyo"}}, func(t *testing.T, w *world) {
		tokyo := w.sites["tokyo"]
		tokyo.ready("2001:db8:a::/64")
		v := tokyo.newVM("web1", "")
		for i, point := range []string{"disk.made", "disk.plugged", "disk.unplugged", "disk.remove"} {
			h := tokyo.hosts["h1"]
			struck := make(chan struct{})
			w.at(h.node(), point, func() { close(struck); h.die() })
			name := fmt.Sprintf("data%d", i)
			w.must(tokyo.change("web1", disksOf(name)))
			if strings.HasPrefix(point, "disk.un") || point == "disk.remove" {
				tokyo.settled("web1")
				w.must(tokyo.change("web1", disksOf()))
			}
			<-struck
			w.restartDead()
			tokyo.settled("web1")
			w.must(tokyo.change("web1", disksOf()))
			tokyo.settled("web1")
			if got := h.disks.list(v.UID); len(got) != 1 || len(tokyo.plugged("web1")) > 0 {
				t.Fatalf("killed at %s: disks %v are left, the guest has %v", point, got, tokyo.plugged("web1"))
			}
			tokyo.runs("web1")
		}
	})
}

// TestDisksKilledMigration kills each end of a migration of a VM with disks at its steps.
func TestDisksKilledMigration(t *testing.T) {
	federation(t, options{sites: []string{"tokyo", "osaka"}, copyTime: 5 * time.Millisecond}, func(t *testing.T, w *world) {
		w.lend("osaka", "tokyo", room())
		tokyo := w.sites["tokyo"]
		tokyo.ready("2001:db8:a::/64")
		v := vmOf("web1", "tokyo")
		disksOf("data")(&v.Spec)
		tokyo.create(v)
		tokyo.settled("web1")
		for victim, at := range map[string][]string{"source agent": {"source.begin", "source.copied", "source.confirmed"}, "target agent": {"target.reserved", "target.prepared", "target.committed"}} {
			for _, point := range at {
				w.killedAt("tokyo", "osaka", victim, victim, point)
				if d := cmp.Diff([]string{"data@" + hyper.Target(2, 1)}, tokyo.plugged("web1")); d != "" {
					t.Fatalf("%s at %s: disks (-want +got):\n%s", victim, point, d)
				}
				tokyo.settled("web1")
			}
		}
	})
}

// TestDisksOlderRelease: a VM with disks does not go to a lender whose release knows none, and gets none there; why is said.
func TestDisksOlderRelease(t *testing.T) {
	federation(t, options{sites: []string{"tokyo", "osaka"}, older: "osaka"}, func(t *testing.T, w *world) {
		tokyo := w.sites["tokyo"]
		w.lend("osaka", "tokyo", room())
		tokyo.ready("2001:db8:a::/64")
		v := vmOf("web1", "tokyo")
		v.Spec.Profile = 1
		disksOf("data")(&v.Spec)
		tokyo.create(v)
		tokyo.settled("web1")
		_, reasons, err := tokyo.ctl.Migrate(t.Context(), tokyo.admin, "web1", "osaka", true)
		w.must(err)
		if !slices.ContainsFunc(reasons, func(r api.Reason) bool { return r.Site == "osaka" }) {
			t.Errorf("the reasons against the older lender are %+v", reasons)
		}
		tokyo.newVM("web2", "osaka")
		wantError(t, "a disk at an older lender", tokyo.change("web2", disksOf("data")), api.CodeRefused)
		wantError(t, "another size while it runs at an older lender", tokyo.resize("web2", 2, 256), api.CodeConflict)
	})
}
