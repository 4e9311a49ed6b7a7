package control_test

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"widecloud/api"
	"widecloud/internal/agent"
	"widecloud/internal/hyper/fake"
	"widecloud/internal/serve"
	"widecloud/internal/volume"
	"widecloud/internal/wire"
)

// rests gives a VM a power, waits until it has it, and tells what is on its disk.
func (s *site) rests(vm string, p api.Power) (onDisk uint64) {
	s.w.t.Helper()
	if s.vm(vm).Spec.Power != p {
		s.setPower(vm, p)
	}
	s.runs(vm)
	return s.onDisk(vm)
}

// onDisk is what the disk of a VM holds where the VM is.
func (s *site) onDisk(vm string) uint64 {
	v := s.vm(vm)
	h := s.w.sites[v.Status.Site].hosts[v.Status.Host]
	return h.machine.Written(h.disks.path(v.UID))
}

// TestStoppedMoves moves a stopped VM in every direction: it is stopped at its target at the next epoch, with its disk, the room that it
// had is free, the room that it has is counted, and it starts there.
func TestStoppedMoves(t *testing.T) {
	federation(t, options{sites: []string{"tokyo", "osaka", "kyoto"}, hosts: 2, copyTime: time.Millisecond}, func(t *testing.T, w *world) {
		tokyo := w.sites["tokyo"]
		w.lend("osaka", "tokyo", room())
		w.lend("kyoto", "tokyo", room())
		tokyo.ready("2001:db8:a::/64")
		tokyo.newVM("web1", "tokyo/h1")
		for i, place := range []string{"osaka/h1", "osaka/h2", "kyoto/h1", "tokyo/h2", "tokyo/h1"} {
			disk := tokyo.rests("web1", []api.Power{api.PowerOff, api.PowerOffHard}[i%2])
			if disk == 0 {
				t.Fatal("nothing is on the disk: the test tests nothing")
			}
			was := tokyo.vm("web1")
			tokyo.moved("web1", place)
			v := tokyo.vm("web1")
			if v.Status.Epoch != was.Status.Epoch+1 || v.Status.Phase != api.PhaseStopped || v.Spec.Power != was.Spec.Power {
				t.Errorf("at %s it is %s at epoch %d, was at %d", place, v.Status.Phase, v.Status.Epoch, was.Status.Epoch)
			}
			if now := tokyo.onDisk("web1"); now != disk {
				t.Errorf("at %s its disk is at %d, was at %d", place, now, disk)
			}
			jobs, _, err := tokyo.ctl.List(t.Context(), tokyo.admin, api.KindJob, serve.Query{})
			w.must(err)
			p := jobs[len(jobs)-1].(*api.Job).Status.Progress
			if p.DiskDone == 0 || p.DiskDone != p.DiskTotal || p.WireBytes < p.DiskDone || p.MemoryTotal != 0 {
				t.Errorf("progress %+v", p)
			}
			if after := tokyo.rests("web1", api.PowerOn); after <= disk {
				t.Errorf("at %s the guest goes on from %d, and its disk was at %d", place, after, disk)
			}
			if d := tokyo.vm("web1").Status.Addresses; !slices.EqualFunc(d, was.Status.Addresses, func(a, b api.VMAddress) bool { return a.Address == b.Address }) {
				t.Errorf("its addresses are %v, were %v", d, was.Status.Addresses)
			}
		}
	})
}

// TestStartWaits starts a VM at each step of its move as a stopped one, and another time starts and stops it: it starts once it is there,
// or where it was if the move is called off, and not before.
func TestStartWaits(t *testing.T) {
	for _, way := range []struct{ name, source, target string }{
		{"home to lender", "tokyo/h1", "osaka/h1"}, {"lender to home", "osaka/h1", "tokyo/h1"}, {"home to home", "tokyo/h1", "tokyo/h2"}, {"lender to lender", "osaka/h1", "kyoto/h1"},
	} {
		t.Run(way.name, func(t *testing.T) {
			t.Parallel()
			federation(t, options{sites: []string{"tokyo", "osaka", "kyoto"}, hosts: 2, copyTime: 5 * time.Millisecond}, func(t *testing.T, w *world) {
				tokyo := w.sites["tokyo"]
				w.lend("osaka", "tokyo", room())
				w.lend("kyoto", "tokyo", room())
				tokyo.ready("2001:db8:a::/64")
				uid := tokyo.newVM("web1", way.source).UID
				var mu sync.Mutex
				var began []string // where it has begun to run
				w.fake.Observe(func(c fake.Change) {
					mu.Lock()
					defer mu.Unlock()
					if c.Runs && c.VM == uid {
						began = append(began, c.Host)
					}
				})
				runs := func() []string {
					mu.Lock()
					defer mu.Unlock()
					out := began
					began = nil
					return out
				}
				wish := func(p api.Power) {
					v := tokyo.vm("web1")
					v.Spec.Power, v.Revision = p, 0
					if _, err := tokyo.ctl.Update(t.Context(), tokyo.admin, v); err != nil {
						t.Errorf("wish for %s: %v", p, err)
					}
				}
				for _, point := range points["coordinator"] {
					for _, what := range []string{"start", "start and stop", "start and cancel"} {
						tokyo.rests("web1", api.PowerOff)
						runs()
						named := make(chan string, 1)
						w.at("tokyo", point, func() {
							wish(api.PowerOn)
							if what == "start and stop" {
								wish(api.PowerOff)
							}
							time.Sleep(10 * time.Second) // all that wants to start it has the time
							if on := runs(); len(on) > 0 {
								t.Errorf("%s at %s: it starts on %v while it moves", what, point, on)
							}
							if what == "start and cancel" {
								tokyo.ctl.Cancel(t.Context(), tokyo.admin, <-named) // too late past the decision
							}
						})
						j, _, err := tokyo.ctl.Migrate(t.Context(), tokyo.admin, "web1", way.target, false)
						w.must(err)
						job := j.Name
						named <- job
						tokyo.ended(job)
						tokyo.runs("web1")
						at := map[api.JobState]string{api.JobDone: way.target, api.JobCancelled: way.source}[tokyo.job(job).Status.State]
						want := []string{at}
						if what == "start and stop" {
							want = nil
						}
						if on := runs(); at == "" || !slices.Equal(on, want) {
							t.Errorf("%s at %s: the job is %s (%s), and it has started on %v", what, point, tokyo.job(job).Status.State, tokyo.job(job).Status.Message, on)
						}
						if v := tokyo.vm("web1"); v.Status.Site+"/"+v.Status.Host != way.source {
							tokyo.moved("web1", way.source)
						}
						if t.Failed() {
							return
						}
					}
				}
			})
		})
	}
}

// TestStoppedReasons: what is against the move of a stopped VM is said before the first byte. What it ran with is no part of that, but
// for what its next start needs.
func TestStoppedReasons(t *testing.T) {
	cpus := map[string]api.CPU{
		"osaka": {Accel: "kvm", Model: "Nehalem", Usable: []string{"Nehalem"}},
		"kyoto": {Accel: "tcg", Model: "Westmere", Usable: []string{"Westmere"}},
	}
	federation(t, options{sites: []string{"tokyo", "osaka", "kyoto", "nara"}, hosts: 2, cpus: cpus, older: "nara"}, func(t *testing.T, w *world) {
		tokyo := w.sites["tokyo"]
		for _, lender := range []string{"osaka", "kyoto", "nara"} {
			w.lend(lender, "tokyo", room())
		}
		tokyo.ready("2001:db8:a::/64")
		v := vmOf("web1", "tokyo/h1")
		v.Spec.Profile = 1 // which nara's release makes, too
		tokyo.create(v)
		tokyo.phase("web1", api.PhaseRunning)
		reasons := func(target string) (codes []string) {
			_, reasons, err := tokyo.ctl.Migrate(t.Context(), tokyo.admin, "web1", target, true)
			w.must(err)
			for _, r := range reasons {
				codes = append(codes, r.Code)
			}
			return slices.Compact(codes)
		}
		want := func(target string, codes ...string) {
			t.Helper()
			if got := reasons(target); !slices.Equal(got, codes) {
				t.Errorf("to %s: reasons %v, want %v", target, got, codes)
			}
		}
		want("osaka", "cpu-model") // it runs with tcg
		h, _ := tokyo.guest("web1")
		h.machine.SetDeaf(tokyo.vm("web1").UID, true)
		tokyo.setPower("web1", api.PowerOff)
		tokyo.phase("web1", api.PhaseStopping)
		want("tokyo/h2", "power")
		_, _, err := tokyo.ctl.Migrate(t.Context(), tokyo.admin, "web1", "tokyo/h2", false)
		wantError(t, "a VM that is stopping", err, api.CodeConflict)
		tokyo.phase("web1", api.PhaseStopped)
		want("osaka")
		want("osaka/h2")
		want("kyoto", "cpu-model") // Nehalem is not to be had
		want("nara", "release")
		want("tokyo/h1", "place")
		want("tokyo/h2")
		j := tokyo.migrate("web1", "nara")
		tokyo.ended(j.Name)
		if st := tokyo.job(j.Name).Status; st.State != api.JobFailed || len(st.Reasons) != 1 || st.Reasons[0].Code != "release" {
			t.Errorf("the job is %s: %s %+v", st.State, st.Message, st.Reasons)
		}
		if why, err := tokyo.ctl.Why(t.Context(), tokyo.admin, "web1", "kyoto"); err != nil || !slices.ContainsFunc(why, func(r api.Reason) bool { return r.Code == "cpu-model" }) {
			t.Errorf("why not kyoto: %+v, %v", why, err)
		}
		// It goes where another accelerator is, and is started with that.
		tokyo.moved("web1", "osaka/h1")
		if cpu := tokyo.vm("web1").Status.CPU; cpu.Accel != "kvm" || cpu.Model != "Nehalem" {
			t.Errorf("at osaka it has %+v", cpu)
		}
		tokyo.rests("web1", api.PowerOn)
		want("tokyo", "cpu-model")
	})
}

// TestOldAgentsStopped: agents that know nothing of moves of stopped VMs are not asked for one.
func TestOldAgentsStopped(t *testing.T) {
	federation(t, options{sites: []string{"tokyo"}, hosts: 2, older: "tokyo"}, func(t *testing.T, w *world) {
		tokyo := w.sites["tokyo"]
		tokyo.ready("2001:db8:a::/64")
		tokyo.newVM("web1", "tokyo/h1")
		tokyo.rests("web1", api.PowerOff)
		_, reasons, err := tokyo.ctl.Migrate(t.Context(), tokyo.admin, "web1", "tokyo/h2", true)
		w.must(err)
		for _, host := range []string{"h1", "h2"} {
			if !slices.ContainsFunc(reasons, func(r api.Reason) bool { return r.Code == "release" && r.Host == host }) {
				t.Errorf("no word of %s: %+v", host, reasons)
			}
		}
		tokyo.rests("web1", api.PowerOn)
		tokyo.moved("web1", "tokyo/h2")
	})
}

// TestStoppedLeaves: a lender wants its room back, and a stopped VM goes home as one that runs does.
func TestStoppedLeaves(t *testing.T) {
	federation(t, options{sites: []string{"tokyo", "osaka"}}, func(t *testing.T, w *world) {
		tokyo, osaka := w.sites["tokyo"], w.sites["osaka"]
		loan := w.lend("osaka", "tokyo", room())
		tokyo.ready("2001:db8:a::/64")
		tokyo.newVM("web1", "osaka")
		disk := tokyo.rests("web1", api.PowerOff)
		_, err := osaka.ctl.Reclaim(t.Context(), osaka.admin, loan.Name)
		w.must(err)
		w.until("it is at home", func() bool { v := tokyo.vm("web1"); return v.Status.Site == "tokyo" && v.Status.Job == "" })
		tokyo.runs("web1")
		if now := tokyo.onDisk("web1"); now != disk {
			t.Errorf("its disk is at %d, was at %d", now, disk)
		}
	})
}

// TestStoppedWithItsDisk moves a stopped VM between hosts that keep real volumes, there and back: what its guest has written is there,
// and what the base image has does not cross.
func TestStoppedWithItsDisk(t *testing.T) {
	federation(t, options{sites: []string{"tokyo", "osaka"}, hosts: 1}, func(t *testing.T, w *world) {
		tokyo := w.sites["tokyo"]
		stores := map[string]*volume.Store{}
		for _, h := range w.hosts() {
			st, err := volume.Open(volume.Options{Dir: filepath.Join(w.dir, h.node())})
			w.must(err)
			defer st.Close()
			stores[h.site.name] = st
			h.real = agent.Disks{Store: st}
			h.start()
		}
		w.connected()
		w.lend("osaka", "tokyo", room())
		w.image = make([]byte, 4<<20)
		for i := range w.image {
			w.image[i] = byte(i * i >> 7)
		}
		tokyo.ready("2001:db8:a::/64")
		v := vmOf("web1", "tokyo")
		v.Spec.DiskGiB, v.Spec.Disks = 1, []api.Disk{{Name: "data", SizeGiB: 1}}
		tokyo.create(v)
		tokyo.phase("web1", api.PhaseRunning)
		tokyo.setPower("web1", api.PowerOff)
		tokyo.phase("web1", api.PhaseStopped)
		command := func(path string, commands ...string) {
			t.Helper()
			args := []string{"-f", "qcow2"}
			for _, c := range commands {
				args = append(args, "-c", c)
			}
			if out, err := exec.Command("qemu-io", append(args, path)...).CombinedOutput(); err != nil || strings.Contains(string(out), "verification failed") {
				t.Fatalf("qemu-io %s: %v: %s", path, err, out)
			}
		}
		qemuIO := func(site string, commands ...string) {
			t.Helper()
			u, err := stores[site].Stat(t.Context(), tokyo.vm("web1").UID)
			w.must(err)
			command(u.Path, commands...)
		}
		data := func(site string, commands ...string) {
			t.Helper()
			all, err := stores[site].Disks(t.Context(), tokyo.vm("web1").UID)
			w.must(err)
			if len(all) != 1 || all[0].Name != "data" {
				t.Fatalf("disks at %s: %+v", site, all)
			}
			command(all[0].Path, commands...)
		}
		data("tokyo", "write -P 11 700M 64k")
		qemuIO("tokyo", "write -P 7 1M 300k", "write -P 8 1023M 1M", "write -z 2M 64k")
		holds := []string{"read -P 7 1M 300k", "read -P 8 1023M 1M", "read -P 0 2M 64k", "read -P 0 512M 1M"}
		for i, site := range []string{"osaka", "tokyo"} {
			j := tokyo.migrate("web1", site)
			tokyo.ended(j.Name)
			tokyo.phase("web1", api.PhaseStopped)
			st := tokyo.job(j.Name).Status
			if st.State != api.JobDone || tokyo.vm("web1").Status.Site != site {
				t.Fatalf("the job is %s at %s: %s", st.State, st.Step, st.Message)
			}
			qemuIO(site, holds...)
			data(site, "read -P 11 700M 64k", "read -P 0 0 1M")
			if p := st.Progress; p.DiskDone != p.DiskTotal || p.DiskTotal != 1408<<10+int64(i)*128<<10 || p.WireBytes > 2<<20 {
				t.Errorf("to %s: %+v", site, p)
			}
			other := map[string]string{"osaka": "tokyo", "tokyo": "osaka"}[site]
			if _, err := stores[other].Stat(t.Context(), tokyo.vm("web1").UID); !errors.Is(err, volume.ErrNotFound) {
				t.Errorf("%s still has the volume: %v", other, err)
			}
			if left, err := stores[other].Disks(t.Context(), tokyo.vm("web1").UID); err != nil || len(left) > 0 {
				t.Errorf("%s still has disks: %v, %v", other, left, err)
			}
			qemuIO(site, "write -P 9 3M 100k")
			holds = append(holds, "read -P 9 3M 100k")
		}
	})
}

// TestHostileSource: the agent of a source, which its owner may have changed, sends what is no disk of the VM. The target refuses it with a
// reason, keeps nothing of it, and the VM is whole where it was.
func TestHostileSource(t *testing.T) {
	head := func(size uint64) []byte {
		b := binary.BigEndian.AppendUint64([]byte(`{"disks":["vda"]}`+"\n"+"wcdisk1\n"), size)
		return binary.BigEndian.AppendUint64(b, size)
	}
	extent := func(at, length uint64) []byte {
		return binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64([]byte{'d'}, at), length)
	}
	const mib = 1 << 20
	for name, tc := range map[string]struct {
		bytes []byte
		want  string
		power api.Power // off, if it does not say
	}{
		"no memory":       {bytes: []byte(`{"disks":["vda"]}` + "\n"), want: "the source sends none", power: api.PowerHibernated},
		"some memory":     {bytes: []byte(`{"disks":["vda"],"memory":{"offer":"e30=","bytes":100}}` + "\n"), want: "the source sends some"},
		"too much memory": {bytes: []byte(`{"disks":["vda"],"memory":{"offer":"e30=","bytes":1099511627776}}` + "\n"), want: "are not those of a VM", power: api.PowerHibernated},
		"no list":         {[]byte("hello\n"), "not a list of disks", ""},
		"an endless list": {make([]byte, 1<<20), "the line has more than", ""},
		"another disk":    {[]byte(`{"disks":["vdb"]}` + "\n"), "the VM has", ""},
		"more disks":      {[]byte(`{"disks":["vda","vdb"]}` + "\n"), "the VM has", ""},
		"a qcow2":         {append([]byte(`{"disks":["vda"]}`+"\n"), "QFI\xfb and what follows it, as a file has it"...), "does not begin", ""},
		"another size":    {head(2 * mib), "of a disk of 2097152 bytes", ""},
		"beyond the disk": {append(head(mib), extent(mib, 65536)...), "not on the disk", ""},
		"cut off":         {append(head(mib), extent(0, 65536)...), "ends before its end", ""},
	} {
		t.Run(name, func(t *testing.T) {
			federation(t, options{sites: []string{"tokyo", "osaka"}, hosts: 1}, func(t *testing.T, w *world) {
				tokyo, osaka := w.sites["tokyo"], w.sites["osaka"]
				w.lend("osaka", "tokyo", room())
				st, err := volume.Open(volume.Options{Dir: filepath.Join(w.dir, "real")})
				w.must(err)
				defer st.Close()
				osaka.hosts["h1"].real = agent.Disks{Store: st}
				osaka.hosts["h1"].start()
				w.connected()
				w.image = w.image[:64<<10]
				tokyo.ready("2001:db8:a::/64")
				tokyo.newVM("web1", "tokyo/h1")
				disk := tokyo.rests("web1", cmp.Or(tc.power, api.PowerOff))
				v := tokyo.vm("web1")
				said := make(chan error, 1)
				named := make(chan string, 1)
				w.at("tokyo", "coordinator.copying", func() {
					h1 := tokyo.hosts["h1"]
					h1.kill()
					s, err := w.session("tokyo", "evil", h1.cred, wire.Bulk)
					if err != nil {
						said <- err
						return
					}
					defer s.Close()
					said <- sendAs(t.Context(), s, wire.ChannelHeader{Job: <-named, VM: v.UID, Channel: "stopped", Codec: "none"}, tc.bytes)
				})
				job := tokyo.migrate("web1", "osaka/h1").Name
				named <- job
				err = <-said
				var refused *api.Error
				if !errors.As(err, &refused) || !strings.Contains(err.Error(), tc.want) {
					t.Errorf("the source hears %v, want %q", err, tc.want)
				}
				tokyo.hosts["h1"].start()
				tokyo.ended(job)
				tokyo.runs("web1")
				if _, err := st.Stat(t.Context(), v.UID); !errors.Is(err, volume.ErrNotFound) {
					t.Errorf("the target has kept the volume: %v", err)
				}
				if at := tokyo.vm("web1").Status; at.Site != "tokyo" || tokyo.onDisk("web1") != disk {
					t.Errorf("it is at %s, its disk at %d, was at %d", at.Site, tokyo.onDisk("web1"), disk)
				}
			})
		})
	}
}

// sendAs opens a stream, writes and ends it, and gives what the other end says of that.
func sendAs(ctx context.Context, s *wire.Session, h wire.ChannelHeader, b []byte) error {
	conn, err := wire.OpenStream(ctx, s, wire.PathOutgoing, h)
	if err != nil {
		return err
	}
	defer conn.Close()
	if _, err := conn.Write(b); err != nil {
		return err
	}
	if err := conn.CloseWrite(); err != nil {
		return err
	}
	text, err := io.ReadAll(conn)
	if err == nil {
		err = fmt.Errorf("it answers %q", text)
	}
	return err
}
