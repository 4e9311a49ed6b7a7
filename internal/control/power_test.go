package control_test

import (
	"bytes"
	"io"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"widecloud/api"
	"widecloud/internal/hyper/fake"
	"widecloud/internal/serve"
	"widecloud/internal/wire"
)

// follow writes down the phases of a VM from now on, each once in a row; end gives them.
func (s *site) follow(vm string) (end func() []api.VMPhase) {
	s.w.t.Helper()
	_, at, err := s.ctl.List(s.w.t.Context(), s.admin, api.KindVM, serve.Query{})
	s.w.must(err)
	changes, err := s.watch(s.w.t.Context(), s.admin, []api.Kind{api.KindVM}, api.Selector{}, at)
	s.w.must(err)
	seen := []api.VMPhase{s.vm(vm).Status.Phase}
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case ch, ok := <-changes:
				if !ok {
					return
				}
				if v := ch.Object.(*api.VM); v.Name == vm && v.Status.Phase != seen[len(seen)-1] {
					seen = append(seen, v.Status.Phase)
				}
			case <-stop:
				return
			}
		}
	}()
	return func() []api.VMPhase {
		close(stop)
		<-done
		return seen
	}
}

// TestPhasesOfPower: a VM that is stopped and started goes through the phases of that, and never back, whichever reports come
// late and however the hypervisor takes its time.
func TestPhasesOfPower(t *testing.T) {
	for _, place := range []string{"tokyo", "osaka"} {
		for _, power := range []api.Power{api.PowerOff, api.PowerOffHard} {
			t.Run(place+" "+string(power), func(t *testing.T) {
				federation(t, options{sites: []string{"tokyo", "osaka"}}, func(t *testing.T, w *world) {
					tokyo := w.sites["tokyo"]
					w.lend("osaka", "tokyo", room())
					tokyo.ready("2001:db8:a::/64")
					tokyo.newVM("web1", place)
					h, _ := tokyo.guest("web1")
					for _, f := range []fake.Fault{{}, {Method: "Domains", Delay: 300 * time.Millisecond, Times: 5}, {Method: "Shutdown", Delay: 2 * time.Second}, {Method: "Destroy", Delay: time.Second}, {Method: "Start", Delay: time.Second}} {
						if f.Method != "" {
							h.machine.Inject(f)
						}
						end := tokyo.follow("web1")
						tokyo.setPower("web1", power)
						tokyo.phase("web1", api.PhaseStopped)
						time.Sleep(20 * time.Second) // of the bubble: what comes late has come
						h.start()                    // an agent that begins anew does not turn it back either
						time.Sleep(20 * time.Second)
						tokyo.setPower("web1", api.PowerOn)
						tokyo.phase("web1", api.PhaseRunning)
						time.Sleep(20 * time.Second)
						got := end()
						want := []api.VMPhase{api.PhaseRunning, api.PhaseStopping, api.PhaseStopped, api.PhaseStarting, api.PhaseRunning}
						if got[1] == api.PhaseStopped { // it stopped between two reports
							want = append(want[:1], want[2:]...)
						}
						if got[len(got)-2] == api.PhaseStopped { // and so it started
							want = slices.DeleteFunc(want, func(p api.VMPhase) bool { return p == api.PhaseStarting })
						}
						if d := cmp.Diff(want, got); d != "" {
							t.Errorf("with %+v:\n%s", f, d)
						}
					}
				})
			})
		}
	}
}

// TestLateReport: a report that says that a VM has stopped, and comes when the VM has been started and stopped anew, is not believed: the
// VM may still be starting.
func TestLateReport(t *testing.T) {
	federation(t, options{sites: []string{"tokyo"}}, func(t *testing.T, w *world) {
		tokyo := w.sites["tokyo"]
		late := make(chan struct{}) // the first report that the VM has stopped waits for it
		tokyo.startWith(nil, func(h http.Handler) http.Handler {
			return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
				if r.URL.Path == wire.PathReport {
					said, err := io.ReadAll(r.Body)
					w.must(err)
					if bytes.Contains(said, []byte(`"stopped"`)) {
						<-late
					}
					r.Body = io.NopCloser(bytes.NewReader(said))
				}
				h.ServeHTTP(rw, r)
			})
		})
		tokyo.ready("2001:db8:a::/64")
		tokyo.newVM("web1", "tokyo")
		h, _ := tokyo.guest("web1")

		tokyo.setPower("web1", api.PowerOff)
		time.Sleep(5 * time.Second) // it has stopped, and the report of that is under way
		h.machine.Inject(fake.Fault{Method: "Start", Delay: 2 * time.Second})
		tokyo.setPower("web1", api.PowerOn)
		time.Sleep(time.Second) // it is being started
		end := tokyo.follow("web1")
		tokyo.setPower("web1", api.PowerOff)
		close(late)
		tokyo.phase("web1", api.PhaseStopped)
		time.Sleep(20 * time.Second)
		if d := cmp.Diff([]api.VMPhase{api.PhaseStopping, api.PhaseStopped}, end()); d != "" {
			t.Errorf("phases (-want +got):\n%s", d)
		}
	})
}
