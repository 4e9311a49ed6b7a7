package control_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"widecloud/api"
	"widecloud/internal/agent"
	"widecloud/internal/hyper"
	"widecloud/internal/volume"
	"widecloud/internal/wire"
)

// realDisks gives every host real volumes, and starts its agent over them.
func (w *world) realDisks() map[*host]*volume.Store {
	w.t.Helper()
	stores := map[*host]*volume.Store{}
	for _, h := range w.hosts() {
		st, err := volume.Open(volume.Options{Dir: filepath.Join(w.dir, h.node())})
		w.must(err)
		w.t.Cleanup(func() { st.Close() })
		stores[h], h.real = st, agent.Disks{Store: st}
		h.start()
	}
	w.connected()
	return stores
}

// diskIO runs commands of qemu-io on a disk of a VM, where it is.
func (s *site) diskIO(stores map[*host]*volume.Store, vm, disk string, commands ...string) {
	s.w.t.Helper()
	v := s.vm(vm)
	st := stores[s.w.sites[v.Status.Site].hosts[v.Status.Host]]
	var path string
	if disk == api.RootDisk {
		u, err := st.Stat(s.w.t.Context(), v.UID)
		s.w.must(err)
		path = u.Path
	} else {
		all, err := st.Disks(s.w.t.Context(), v.UID)
		s.w.must(err)
		for _, k := range all {
			if k.Name == disk {
				path = k.Path
			}
		}
	}
	args := []string{"-f", "qcow2"}
	for _, c := range commands {
		args = append(args, "-c", c)
	}
	if out, err := exec.Command("qemu-io", append(args, path)...).CombinedOutput(); err != nil || strings.Contains(string(out), "verification failed") {
		s.w.t.Fatalf("qemu-io %s of %s: %v: %s", disk, vm, err, out)
	}
}

// stoppedVM makes a VM with a second disk that has run, and is stopped.
func (s *site) stoppedVM(name, place string) {
	s.w.t.Helper()
	v := vmOf(name, place)
	v.Spec.DiskGiB, v.Spec.Disks = 1, []api.Disk{{Name: "data", SizeGiB: 1}}
	s.create(v)
	s.phase(name, api.PhaseRunning)
	s.setPower(name, api.PowerOff)
	s.phase(name, api.PhaseStopped)
}

func imageOf(name, vm, disk string) *api.Image {
	return &api.Image{Meta: api.Meta{Name: name, Owner: "lab"}, Spec: api.ImageSpec{VM: vm, Disk: disk}}
}

// rested waits until nothing holds a VM, and nothing is left over of what did.
func (s *site) rested(vm string) {
	s.w.t.Helper()
	s.w.until(vm+" is free, and nothing is left over", func() bool { return s.proc != nil && s.vm(vm).Status.Job == "" && s.w.leftovers() == "" })
	for _, o := range s.w.sites {
		if left, err := filepath.Glob(filepath.Join(o.dir, "images", "tmp", "*")); err != nil || len(left) > 0 {
			s.w.t.Errorf("%s has left %v, %v", o.name, left, err)
		}
	}
}

// TestImageOfVM: an image is made of the disks of a stopped VM, at home and at a lender. A VM that is made from it has what the disk
// had, and the old one goes on.
func TestImageOfVM(t *testing.T) {
	for _, place := range []string{"tokyo/h1", "osaka/h1"} {
		t.Run(strings.ReplaceAll(place, "/", " "), func(t *testing.T) {
			federation(t, options{sites: []string{"tokyo", "osaka"}}, func(t *testing.T, w *world) {
				tokyo := w.sites["tokyo"]
				stores := w.realDisks()
				w.lend("osaka", "tokyo", room())
				tokyo.ready("2001:db8:a::/64")
				tokyo.stoppedVM("web1", place)
				tokyo.diskIO(stores, "web1", api.RootDisk, "write -P 7 1M 300k", "write -z 0 4k")
				tokyo.diskIO(stores, "web1", "data", "write -P 11 700M 64k")
				for image, disk := range map[string]string{"golden": "", "data": "data"} {
					i := tokyo.create(imageOf(image, "web1", disk)).(*api.Image)
					j := tokyo.job(i.Status.Job)
					if j.Spec.Type != "import" || j.Owner != "lab" || j.Spec.Object != "images/"+image {
						t.Errorf("the job is %+v", j)
					}
					if held := tokyo.vm("web1").Status.Job; held != j.Name {
						t.Errorf("the VM is held by %q, want %s", held, j.Name)
					}
					tokyo.ended(j.Name)
					st, j := tokyo.image(image), tokyo.job(j.Name)
					if st.Phase != "ready" || st.Format != "qcow2" || st.VirtualMiB != 1024 || st.Bytes > 2<<20 || st.Job != "" {
						t.Errorf("image %s is %+v; its job is %s: %s", image, st, j.Status.State, j.Status.Message)
					}
					tokyo.rested("web1")
				}
				v := vmOf("web2", "osaka/h1")
				v.Spec.Image = "golden"
				tokyo.create(v)
				tokyo.phase("web2", api.PhaseRunning)
				tokyo.diskIO(stores, "web2", api.RootDisk, "read -P 7 1M 300k", "read -P 0 0 4k", "read -P 0 512M 1M")
				d := vmOf("web3", "tokyo/h1")
				d.Spec.Image = "data"
				tokyo.create(d)
				tokyo.phase("web3", api.PhaseRunning)
				tokyo.diskIO(stores, "web3", api.RootDisk, "read -P 11 700M 64k", "read -P 0 0 1M")
				tokyo.setPower("web1", api.PowerOn)
				tokyo.phase("web1", api.PhaseRunning)
			})
		})
	}
}

// TestImageOfVMRefused: what is against an image of a VM's disk is said at once, with what to do.
func TestImageOfVMRefused(t *testing.T) {
	federation(t, options{sites: []string{"tokyo", "osaka"}, hosts: 2, older: "osaka"}, func(t *testing.T, w *world) {
		tokyo := w.sites["tokyo"]
		w.lend("osaka", "tokyo", room())
		tokyo.ready("2001:db8:a::/64")
		tokyo.create(&api.Owner{Meta: api.Meta{Name: "uni"}})
		ann, _ := tokyo.member("ann", "uni")
		tokyo.newVM("web1", "tokyo/h1")
		off := vmOf("off", "tokyo/h1")
		off.Spec.Power = api.PowerOff
		tokyo.create(off)
		old := vmOf("old", "osaka")
		old.Spec.Profile = 1
		tokyo.create(old)
		tokyo.phase("old", api.PhaseRunning)
		refused := func(what string, i *api.Image, code api.Code, field, says string) {
			t.Helper()
			_, err := tokyo.ctl.Create(t.Context(), tokyo.admin, i)
			wantField(t, what, err, code, field)
			var e *api.Error
			if errors.As(err, &e) && !strings.Contains(fmt.Sprint(e.Message, e.Reasons), says) {
				t.Errorf("%s: %v %+v does not say %q", what, err, e.Reasons, says)
			}
			if _, err := tokyo.ctl.Get(t.Context(), tokyo.admin, api.KindImage, i.Name); !errors.Is(err, &api.Error{Code: api.CodeNotFound}) {
				t.Errorf("%s: the image is there: %v", what, err)
			}
		}
		refused("a VM that runs", imageOf("i", "web1", ""), api.CodeConflict, "spec.vm", "wcc vm stop web1")
		refused("no VM", imageOf("i", "web9", ""), api.CodeInvalid, "spec.vm", "no VM")
		refused("one that has never run", imageOf("i", "off", ""), api.CodeConflict, "spec.vm", "wcc vm start off")
		_, err := tokyo.ctl.Create(t.Context(), ann, &api.Image{Meta: api.Meta{Name: "i"}, Spec: api.ImageSpec{VM: "web1"}})
		wantField(t, "another organisation's VM", err, api.CodeInvalid, "spec.vm")
		h, _ := tokyo.guest("web1")
		h.machine.SetDeaf(tokyo.vm("web1").UID, true)
		tokyo.setPower("web1", api.PowerOff)
		tokyo.phase("web1", api.PhaseStopping)
		refused("one that is stopping", imageOf("i", "web1", ""), api.CodeConflict, "spec.vm", "wait until it has stopped")
		tokyo.rests("web1", api.PowerOff)
		refused("no such disk", imageOf("i", "web1", "data"), api.CodeInvalid, "spec.disk", "wcc volume list")
		tokyo.rests("old", api.PowerOff)
		refused("at a lender of an older release", imageOf("i", "old", ""), api.CodeRefused, "spec.vm", "release")
		v := tokyo.vm("web1")
		v.Spec.Disks, v.Revision = []api.Disk{{Name: "late", SizeGiB: 1}}, 0
		_, err = tokyo.ctl.Update(t.Context(), tokyo.admin, v)
		w.must(err)
		i := tokyo.create(imageOf("late", "web1", "late")).(*api.Image)
		tokyo.ended(i.Status.Job)
		if st := tokyo.image("late"); st.Phase != "failed" || !strings.Contains(st.Message, "a disk is made when its VM starts") {
			t.Errorf("of a disk that is not there yet: %+v", st)
		}
		tokyo.rested("web1")
		w.at("tokyo", "coordinator.none", func() {
			refused("one that moves", imageOf("i", "web1", ""), api.CodeConflict, "", "is at work on VM web1")
		})
		tokyo.moved("web1", "tokyo/h2")
	})
}

// TestImageOfVMOldAgent: an agent of an older release is not asked for a disk.
func TestImageOfVMOldAgent(t *testing.T) {
	federation(t, options{sites: []string{"tokyo"}, older: "tokyo"}, func(t *testing.T, w *world) {
		tokyo := w.sites["tokyo"]
		tokyo.ready("2001:db8:a::/64")
		tokyo.newVM("web1", "tokyo/h1")
		tokyo.rests("web1", api.PowerOff)
		_, err := tokyo.ctl.Create(t.Context(), tokyo.admin, imageOf("i", "web1", ""))
		wantField(t, "an older agent", err, api.CodeRefused, "spec.vm")
		tokyo.rested("web1")
	})
}

// TestImageOfVMDisturbed does something while the disk of a VM is being read. The image is whole or says why it is not, the VM is as its
// user wants it, and nothing is left over.
func TestImageOfVMDisturbed(t *testing.T) {
	type scene struct {
		w     *world
		tokyo *site
		h     *host // that has the VM
		job   string
	}
	conflict := func(what string) func(s scene, err error) {
		return func(s scene, err error) { wantError(s.w.t, what, err, api.CodeConflict) }
	}
	start := func(s scene) {
		s.tokyo.setPower("web1", api.PowerOn)
		time.Sleep(10 * time.Second)
		if on := s.w.fake.Running(s.tokyo.vm("web1").UID); len(on) > 0 {
			s.w.t.Errorf("it starts on %v while its disk is read", on)
		}
	}
	for name, c := range map[string]struct {
		during func(s scene)
		state  api.JobState
		says   string
		runs   bool // at the end
	}{
		"nothing":       {func(scene) {}, api.JobDone, "", false},
		"it is started": {start, api.JobDone, "", true},
		"it is to be moved": {func(s scene) {
			_, _, err := s.tokyo.ctl.Migrate(s.w.t.Context(), s.tokyo.admin, "web1", "tokyo/h2", false)
			conflict("a move")(s, err)
		}, api.JobDone, "", false},
		"it is to be deleted": {func(s scene) {
			_, err := s.tokyo.ctl.Delete(s.w.t.Context(), s.tokyo.admin, api.KindVM, "web1")
			conflict("a deletion")(s, err)
		}, api.JobDone, "", false},
		"another image of it": {func(s scene) {
			_, err := s.tokyo.ctl.Create(s.w.t.Context(), s.tokyo.admin, imageOf("other", "web1", ""))
			conflict("another image")(s, err)
		}, api.JobDone, "", false},
		"it is cancelled": {func(s scene) {
			_, err := s.tokyo.ctl.Cancel(s.w.t.Context(), s.tokyo.admin, s.job)
			s.w.must(err)
			time.Sleep(5 * time.Second)
		}, api.JobCancelled, "it was cancelled", false},
		"it is started and the job is cancelled": {func(s scene) {
			start(s)
			_, err := s.tokyo.ctl.Cancel(s.w.t.Context(), s.tokyo.admin, s.job)
			s.w.must(err)
			time.Sleep(5 * time.Second)
		}, api.JobCancelled, "it was cancelled", true},
		"the image is deleted": {func(s scene) {
			_, err := s.tokyo.ctl.Delete(s.w.t.Context(), s.tokyo.admin, api.KindImage, "golden")
			s.w.must(err)
			time.Sleep(5 * time.Second)
		}, api.JobCancelled, "", false},
		"the controller is killed":          {func(s scene) { s.tokyo.die() }, api.JobDone, "", false},
		"the lender is killed":              {func(s scene) { s.h.site.die() }, "", "", false},
		"the agent is killed":               {func(s scene) { s.h.die() }, api.JobDone, "", false},
		"the agent is killed half-way":      {func(s scene) { s.h.die() }, api.JobFailed, "", false},
		"the lender is killed half-way":     {func(s scene) { s.h.site.die() }, api.JobFailed, "", false},
		"the controller is killed half-way": {func(s scene) { s.tokyo.die() }, api.JobDone, "", false},
		"an order ends it": {func(s scene) {
			all := s.h.orders()
			for i := range all.VMs {
				all.VMs[i].Run = wire.RunHard
				all.VMs[i].Epoch++
			}
			all.Revision = 1 << 40
			s.w.must(s.h.agent.SetState(s.w.t.Context(), all))
		}, api.JobFailed, "no longer to be stopped here", false},
	} {
		for _, place := range []string{"tokyo/h1", "osaka/h1"} {
			if strings.HasPrefix(name, "the lender") && place == "tokyo/h1" {
				continue
			}
			t.Run(name+" at "+strings.ReplaceAll(place, "/", " "), func(t *testing.T) {
				t.Parallel()
				federation(t, options{sites: []string{"tokyo", "osaka"}, hosts: 2}, func(t *testing.T, w *world) {
					tokyo := w.sites["tokyo"]
					stores := w.realDisks()
					w.lend("osaka", "tokyo", room())
					tokyo.ready("2001:db8:a::/64")
					tokyo.stoppedVM("web1", place)
					tokyo.diskIO(stores, "web1", api.RootDisk, "write -P 7 1M 3M")
					v := tokyo.vm("web1")
					s := scene{w: w, tokyo: tokyo, h: w.sites[v.Status.Site].hosts[v.Status.Host]}
					done := make(chan struct{})
					half := strings.HasSuffix(name, "half-way")
					point := map[bool]string{false: "disk.read", true: "disk.sending"}[half]
					w.at(s.h.node(), point, func() {
						defer close(done)
						s.job = tokyo.vm("web1").Status.Job
						if half {
							time.Sleep(time.Second) // the answer has arrived
						}
						c.during(s)
					})
					job := tokyo.create(imageOf("golden", "web1", "")).(*api.Image).Status.Job
					<-done
					time.Sleep(time.Second)
					w.restartDead()
					tokyo.ended(job)
					st := tokyo.job(job).Status
					if c.state != "" && st.State != c.state || !strings.Contains(st.Message, c.says) {
						t.Errorf("the job is %s: %s; want %s: %s", st.State, st.Message, c.state, c.says)
					}
					tokyo.rested("web1")
					if name == "an order ends it" {
						return // the host has orders of nobody
					}
					o, err := tokyo.ctl.Get(t.Context(), tokyo.admin, api.KindImage, "golden")
					if name == "the image is deleted" {
						wantError(t, "the image", err, api.CodeNotFound)
					} else if i := o.(*api.Image); (i.Status.Phase == "ready") != (st.State == api.JobDone) || i.Status.Job != "" || i.Status.Phase == "failed" && i.Status.Message == "" {
						t.Errorf("the job is %s, the image %+v", st.State, i.Status)
					}
					if c.runs {
						tokyo.phase("web1", api.PhaseRunning)
						return
					}
					// The next one works.
					next := tokyo.create(imageOf("next", "web1", "")).(*api.Image).Status.Job
					tokyo.ended(next)
					if i := tokyo.image("next"); i.Phase != "ready" {
						t.Errorf("the next image is %+v", i)
					}
					tokyo.rested("web1")
					tokyo.setPower("web1", api.PowerOn)
					tokyo.phase("web1", api.PhaseRunning)
				})
			})
		}
	}
}

// TestImageOfVMEachWriteFails has every single write of the controller fail once, with and without taking effect.
func TestImageOfVMEachWriteFails(t *testing.T) {
	federation(t, options{sites: []string{"tokyo"}}, func(t *testing.T, w *world) {
		tokyo := w.sites["tokyo"]
		w.realDisks()
		tokyo.ready("2001:db8:a::/64")
		st := w.countWrites("tokyo")
		w.connected()
		tokyo.stoppedVM("web1", "tokyo/h1")
		for _, committed := range []bool{false, true} {
			for strike := 1; ; strike++ {
				name := fmt.Sprintf("i%d-%t", strike, committed)
				st.arm(strike, committed)
				o, err := tokyo.ctl.Create(t.Context(), tokyo.admin, imageOf(name, "web1", ""))
				if err == nil {
					tokyo.ended(o.(*api.Image).Status.Job)
				}
				tokyo.rested("web1")
				writes := st.disarm()
				if err == nil && tokyo.image(name).Phase == "importing" {
					t.Errorf("write %d fails, takes effect: %t: the image is %+v", strike, committed, tokyo.image(name))
				}
				if writes < strike {
					if writes < 2 {
						t.Errorf("%d writes only", writes)
					}
					break
				}
			}
		}
	})
}

// sending are volumes whose exports send whatever a hostile host wants.
type sending struct {
	agent.Volumes
	what io.Reader
}

func (v sending) Export(context.Context, hyper.Disk) (agent.Export, error) { return v, nil }
func (v sending) Size() int64                                              { return 0 }
func (v sending) Close() error                                             { return nil }
func (v sending) Send(ctx context.Context, w io.Writer, _ func(int64)) (string, error) {
	_, err := io.Copy(w, v.what)
	return "", err
}

// again repeats bytes for ever.
type again []byte

func (a again) Read(p []byte) (int, error) { return copy(p, a), nil }

// TestHostileDisk: a host, which its owner may have changed, sends what is no disk of the VM: it is refused with a reason, nothing of it
// is kept, and the VM is free.
func TestHostileDisk(t *testing.T) {
	head := func(size, most uint64) []byte {
		return binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64([]byte("wcdisk1\n"), size), most)
	}
	extent := func(kind byte, at, length uint64) []byte {
		return binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64([]byte{kind}, at), length)
	}
	const gib = 1 << 30
	for name, tc := range map[string]struct {
		what io.Reader
		says string
	}{
		"nothing":       {bytes.NewReader(nil), "ends before its end"},
		"a qcow2":       {strings.NewReader("QFI\xfb and what follows it, as a file has it"), "does not begin"},
		"a larger disk": {bytes.NewReader(head(2*gib, 0)), "of a disk of 2147483648 bytes"},
		"a tiny disk":   {bytes.NewReader(head(512, 0)), "is not one of a VM whose image"},
		"cut off":       {bytes.NewReader(append(head(gib, 65536), extent('d', 0, 65536)...)), "ends before its end"},
		"a wrong hash":  {bytes.NewReader(append(append(head(gib, 0), 'e'), make([]byte, 32)...)), "digest"},
		"endless data":  {io.MultiReader(bytes.NewReader(head(gib, 65536)), again(extent('d', 0, 65536))), "stream: "},
		"endless zeros": {io.MultiReader(bytes.NewReader(head(gib, gib)), again(extent('z', 0, 65536))), "comes after"},
		"a standstill":  {io.MultiReader(bytes.NewReader(head(gib, gib)), blocking{}), "i/o timeout"},
	} {
		t.Run(name, func(t *testing.T) {
			federation(t, options{sites: []string{"tokyo"}}, func(t *testing.T, w *world) {
				tokyo := w.sites["tokyo"]
				w.realDisks()
				tokyo.ready("2001:db8:a::/64")
				tokyo.stoppedVM("web1", "tokyo/h1")
				h := tokyo.hosts["h1"]
				what := tc.what
				h.real = sending{h.real, what}
				h.start()
				w.connected()
				before := keysOf(tokyo.proc, "objects/images/")
				job := tokyo.create(imageOf("golden", "web1", "")).(*api.Image).Status.Job
				tokyo.ended(job)
				if i := tokyo.image("golden"); i.Phase != "failed" || !strings.Contains(i.Message, tc.says) {
					t.Errorf("the image is %+v, want %q", i, tc.says)
				}
				bases, err := tokyo.images.Bases()
				if err != nil || len(bases) != len(before) {
					t.Errorf("bases %+v, %v", bases, err)
				}
				tokyo.rested("web1")
				tokyo.setPower("web1", api.PowerOn)
				tokyo.phase("web1", api.PhaseRunning)
			})
		})
	}
}

// blocking stands still for longer than is waited.
type blocking struct{}

func (blocking) Read([]byte) (int, error) {
	time.Sleep(90 * time.Second)
	return 0, io.EOF
}
