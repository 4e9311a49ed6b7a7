package control_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"widecloud/api"
	"widecloud/internal/store"
)

// smallDisk puts a site's controller on a disk of its own, of some MiB, and gives what fills it and what makes room again.
func (s *site) smallDisk(mib string) (fill, empty func()) {
	w := s.w
	w.t.Helper()
	s.kill()
	data, err := os.ReadFile(filepath.Join(s.dir, "store.db"))
	w.must(err)
	w.must(syscall.Mount("tmpfs", s.dir, "tmpfs", 0, "size="+mib+"m"))
	w.t.Cleanup(func() {
		if err := syscall.Unmount(s.dir, 0); err != nil {
			w.t.Error(err)
		}
	})
	w.must(os.WriteFile(filepath.Join(s.dir, "store.db"), data, 0o600))
	w.must(os.MkdirAll(filepath.Join(s.dir, "images"), 0o711))
	s.start()
	filler := filepath.Join(s.dir, "filler")
	return func() {
			f, err := os.Create(filler)
			w.must(err)
			defer f.Close()
			for chunk := make([]byte, 1<<20); len(chunk) > 0; {
				if _, err := f.Write(chunk); err != nil {
					chunk = chunk[:len(chunk)/2]
				}
			}
			// And what the store has in hand beside its reserve, in ever smaller pieces.
			room := func() error { return s.proc.store.Room(w.t.Context()) }
			for i, size := 0, 32<<10; !errors.Is(room(), store.ErrFull); i++ {
				err := s.write(fmt.Sprintf("filler/%d", i), strings.Repeat("x", size))
				switch {
				case errors.Is(err, store.ErrFull):
					size = max(size/2, 512)
				case err != nil || i > 5000:
					w.t.Errorf("fill the store, write %d: %v", i, err)
					return
				}
			}
		}, func() {
			w.must(os.Remove(filler))
		}
}

// TestFullDisk: the disk of the home's controller is full when a VM is being copied to a lender. The migration ends, forwards or
// back, with its true reason; no VM stands still; nothing new is begun, with the reason; and all is well once there is room.
func TestFullDisk(t *testing.T) {
	for _, c := range []struct {
		name string
		back bool // the target dies meanwhile: the way is back
	}{{"forwards", false}, {"back", true}} {
		t.Run(c.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := newWorld(t, options{sites: []string{"tokyo", "osaka"}, copyTime: 200 * time.Millisecond, reserve: 4 << 20})
				tokyo, h := w.sites["tokyo"], w.sites["osaka"].hosts["h1"]
				fill, empty := tokyo.smallDisk("24")
				defer w.close()
				w.connected()
				w.lend("osaka", "tokyo", room())
				tokyo.ready("2001:db8:a::/64")
				tokyo.newVM("web1", "tokyo/h1")
				tokyo.runs("web1")
				w.at("tokyo.h1", "source.copying", func() {
					fill()
					if c.back {
						h.machine.SetFree(0)
					}
				})
				j := tokyo.migrate("web1", "osaka")
				var seen string // while it lasts
				w.until("the job ends", func() bool {
					st := tokyo.job(j.Name).Status
					if !st.State.Ended() && st.Message != "" {
						seen = st.Message
					}
					return st.State.Ended()
				})
				tokyo.runs("web1")
				st := tokyo.job(j.Name).Status
				if want := map[bool]api.JobState{false: api.JobDone, true: api.JobFailed}[c.back]; st.State != want {
					t.Errorf("the job is %s: %s", st.State, st.Message)
				}
				if c.back && !strings.Contains(st.Message, "no space left") {
					t.Errorf("the job failed for a full disk at the target, and says %q", st.Message)
				}
				if !c.back && !strings.Contains(seen, "the disk of the controller is full") {
					t.Errorf("while it lasted the job said %q", seen)
				}
				_, _, err := tokyo.ctl.Migrate(t.Context(), tokyo.admin, "web1", "tokyo", false)
				wantFull(t, "a migration", err)
				_, err = tokyo.ctl.Create(t.Context(), tokyo.admin, vmOf("web2", ""))
				wantFull(t, "a new VM", err)
				_, err = tokyo.ctl.Borrow(t.Context(), tokyo.admin, "osaka", "room", room())
				wantFull(t, "a loan", err)
				// What makes room, and what ends, is taken all the same; nothing that runs stops for it.
				time.Sleep(2 * time.Minute)
				tokyo.runs("web1")
				tokyo.setPower("web1", api.PowerOff)
				tokyo.phase("web1", api.PhaseStopped)
				if _, err := tokyo.ctl.Delete(t.Context(), tokyo.admin, api.KindVM, "web1"); err != nil {
					t.Errorf("the deletion of a VM: %v", err)
				}
				tokyo.gone("web1")
				empty()
				h.machine.SetFree(-1)
				tokyo.newVM("web2", "tokyo")
				tokyo.runs("web2")
				tokyo.moved("web2", "osaka")
				w.lawful()
			})
		})
	}
}

func wantFull(t *testing.T, what string, err error) {
	t.Helper()
	wantError(t, what+" on a full disk", err, api.CodeUnavailable)
	if err == nil || !strings.Contains(err.Error(), "the disk of site tokyo's controller is full") {
		t.Errorf("%s on a full disk: %v", what, err)
	}
}
