package play_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"widecloud/api"

	"widecloud/internal/lab/image"
	"widecloud/internal/lab/machine"
	"widecloud/internal/lab/play"
	"widecloud/internal/lab/stage"
	"widecloud/internal/lab/topic/flow"
	"widecloud/internal/lab/topic/site"
)

// world is two sites with one hypervisor each and a VM of the first one's.
type world struct {
	*testing.T
	fed     federation
	uid     string
	stopped bool // the VM is to be stopped
}

// federation is sites that are up.
type federation struct {
	*site.Federation
	stage *stage.Stage
}

func (f federation) Client(name string) *api.Client             { return f.Site(name).Client() }
func (f federation) Token(name string) string                   { return f.Site(name).Token() }
func (f federation) Controller(name string) *machine.Node       { return f.Site(name).RunsOn() }
func (f federation) Hypervisor(name, host string) *machine.Host { return f.Site(name).Hypervisor(host) }
func (f federation) From(client string) *machine.Node {
	return stage.InternetOf(f.stage.Script).ClientNode(client)
}

var worldHost = map[string]string{"alpha": "h1", "beta": "h1"}

// programs builds what the federation's machines run.
func programs(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	c := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-buildvcs=false", "-o", dir, "widecloud/cmd/wcc", "widecloud/cmd/map646")
	c.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := c.CombinedOutput(); err != nil {
		t.Fatalf("build the programs: %v\n%s", err, out)
	}
	return dir
}

// service is the VM's address on the IPv4 Internet.
const service = "203.0.113.10"

const worldScript = `
site alpha hosts 1 gateway
site beta hosts 1 lend 100% to *
`

func newWorld(t *testing.T) *world {
	t.Helper()
	bin := programs(t)
	image, err := image.Tiny(t.Context(), image.Options{})
	must(t, err)
	script, err := play.Parse(t.Name(), worldScript)
	must(t, err)
	l := open(t)
	fed := federation{site.Of(script), stage.New(stage.Options{Script: script, Lab: l, Bin: bin, Out: stage.NewConsole(t.Output(), false)})}
	fed.Images = filepath.Dir(image)
	must(t, fed.stage.Build(t.Context()))
	w := &world{T: t, fed: fed}
	t.Cleanup(func() {
		if t.Failed() {
			w.logs()
		}
	})
	c := fed.Client("alpha")
	w.until(time.Minute, "borrow", func(ctx context.Context) error {
		_, err := c.Borrow(ctx, "beta", "spare", api.Resources{CPUs: 2, MemoryMiB: 512, DiskGiB: 4})
		return err
	})
	_, err = api.Create(t.Context(), c, &api.Image{Meta: api.Meta{Name: "tiny"}, Spec: api.ImageSpec{Source: stage.NodeImages + "/" + filepath.Base(image)}})
	must(t, err)
	w.until(time.Minute, "the image is ready", func(ctx context.Context) error {
		i, err := api.Get[api.Image](ctx, c, "tiny")
		if err == nil && i.Status.Phase != "ready" {
			err = errors.New(i.Status.Phase + " " + i.Status.Message)
		}
		return err
	})
	_, err = api.Create(t.Context(), c, &api.Network{Meta: api.Meta{Name: "blue"}, Spec: api.NetworkSpec{Prefix: "2001:db8:b1ae:1::/64", IPv4: "10.99.0.0/24"}})
	must(t, err)
	v, err := api.Create(t.Context(), c, &api.VM{Meta: api.Meta{Name: "web"}, Spec: api.VMSpec{
		Hardware: api.Hardware{CPUs: 1, MemoryMiB: 128}, Image: "tiny", Network: "blue", Power: api.PowerOn, Place: "alpha"}})
	must(t, err)
	w.uid = v.UID
	_, err = api.Create(t.Context(), c, &api.Address{Meta: api.Meta{Name: "web"}, Spec: api.AddressSpec{Address: service, VM: "web"}})
	must(t, err)
	w.until(time.Minute, "the VM runs", func(ctx context.Context) error {
		v, err := api.Get[api.VM](ctx, c, "web")
		if err != nil {
			return err
		}
		if v.Status.Phase != api.PhaseRunning {
			return fmt.Errorf("%s %s", v.Status.Phase, v.Status.Message)
		}
		return nil
	})
	return w
}

// logs shows what the processes have said of late.
func (w *world) logs() {
	for site, host := range worldHost {
		for _, path := range []string{w.fed.Controller(site).LogPath("controller"), w.fed.Hypervisor(site, host).LogPath("agent")} {
			b, err := os.ReadFile(path)
			if err != nil {
				continue
			}
			w.Logf("%s ends:\n%s", filepath.Base(path), b[max(0, len(b)-4000):])
		}
	}
}

func (w *world) until(within time.Duration, what string, f func(context.Context) error) {
	w.Helper()
	if err := stage.Until(w.Context(), within, f); err != nil {
		w.Fatalf("%s: %v", what, err)
	}
}

func (w *world) host(site string) *machine.Host { return w.fed.Hypervisor(site, worldHost[site]) }

// ask makes a request to the guest from the Internet.
func (w *world) ask(method, path string) string {
	w.Helper()
	var answer string
	w.until(90*time.Second, "ask the guest", func(ctx context.Context) (err error) {
		ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
		defer cancel()
		answer, err = flow.Request(ctx, w.fed.From("inet4"), method, "http://"+service+path)
		return err
	})
	return strings.TrimSpace(answer)
}

// connected waits until every host and peer has a session that is younger than a point of time, where sites are given.
func (w *world) connected(since time.Time, sites ...string) {
	w.Helper()
	w.until(40*time.Second, "hosts and peers are connected", func(ctx context.Context) error {
		for site, host := range worldHost {
			h, err := api.Get[api.Host](ctx, w.fed.Client(site), host)
			if err != nil {
				return err
			}
			if !h.Status.Connected || slices.Contains(sites, site) && !h.Status.Since.After(since) {
				return fmt.Errorf("host %s/%s is not connected: %s", site, host, h.Status.Message)
			}
			peers, _, err := api.List[api.Peer](ctx, w.fed.Client(site))
			if err != nil {
				return err
			}
			for _, p := range peers {
				if !p.Status.Reached {
					return fmt.Errorf("%s does not reach %s: %s", site, p.Name, p.Status.Message)
				}
			}
		}
		return nil
	})
}

// begin begins a migration.
func (w *world) begin(to string) string {
	w.Helper()
	var job *api.Job
	w.until(30*time.Second, "migrate to "+to, func(ctx context.Context) (err error) {
		job, err = w.fed.Client("alpha").Migrate(ctx, "web", to)
		return err
	})
	return job.Name
}

// ended waits for a job's end.
func (w *world) ended(name string) *api.Job {
	w.Helper()
	var job *api.Job
	w.until(time.Minute, "job "+name+" ends", func(ctx context.Context) (err error) {
		ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
		if job, err = api.Get[api.Job](ctx, w.fed.Client("alpha"), name); err == nil && !job.Status.State.Ended() {
			err = fmt.Errorf("it is %s at step %s: %s", job.Status.State, job.Status.Step, job.Status.Message)
		}
		return err
	})
	return job
}

// move migrates and expects success.
func (w *world) move(to string) {
	w.Helper()
	if j := w.ended(w.begin(to)); j.Status.State != api.JobDone {
		w.Fatalf("migration to %s %s: %s", to, j.Status.State, j.Status.Message)
	}
}

// power stops or starts the VM and waits until it is so.
func (w *world) power(p api.Power) {
	w.Helper()
	w.until(30*time.Second, "power "+string(p), func(ctx context.Context) error {
		_, err := api.Edit(ctx, w.fed.Client("alpha"), "web", func(v *api.VM) error { v.Spec.Power = p; return nil })
		return err
	})
	w.stopped = p != api.PowerOn
	w.until(time.Minute, "the VM is "+string(p), func(ctx context.Context) error {
		v, err := api.Get[api.VM](ctx, w.fed.Client("alpha"), "web")
		if err == nil && v.Status.Phase != w.phase() {
			err = fmt.Errorf("%s %s", v.Status.Phase, v.Status.Message)
		}
		return err
	})
}

func (w *world) phase() api.VMPhase {
	if w.stopped {
		return api.PhaseStopped
	}
	return api.PhaseRunning
}

// settled waits until the one copy is at a site, runs if it is to, and there is no trace of another anywhere: no domain, process, file,
// device, guest, claim.
func (w *world) settled(site string) {
	w.Helper()
	w.until(30*time.Second, "one copy at "+site+", and nothing left elsewhere", func(ctx context.Context) error {
		found, err := w.fed.Find(ctx, w.uid)
		if err != nil {
			return err
		}
		want := map[string]string{}
		if !w.stopped {
			want[site+"/"+worldHost[site]] = "running"
		}
		if len(found.Defined) != len(want) || !maps.Equal(found.Active, want) {
			return fmt.Errorf("copies: %v, defined at %v", found.Active, found.Defined)
		}
		v, err := api.Get[api.VM](ctx, w.fed.Client("alpha"), "web")
		if err != nil {
			return err
		}
		if v.Status.Site != site || v.Status.Phase != w.phase() || v.Status.Job != "" {
			return fmt.Errorf("its home says %s at %s, job %q: %s", v.Status.Phase, v.Status.Site, v.Status.Job, v.Status.Message)
		}
		for s, host := range worldHost {
			if err := w.traces(ctx, s, host, s == site); err != nil {
				return fmt.Errorf("%s/%s: %w", s, host, err)
			}
		}
		guests, _, err := api.List[api.Guest](ctx, w.fed.Client("beta"))
		if err != nil {
			return err
		}
		there := 0
		if site == "beta" {
			there = 1
		}
		if len(guests) != there || there == 1 && (guests[0].Spec.VMUID != w.uid || guests[0].Spec.Job != "" || guests[0].Spec.Epoch != v.Status.Epoch) {
			return fmt.Errorf("beta has %d guests, not %d: %+v", len(guests), there, guests)
		}
		return nil
	})
}

// traces looks at one host.
func (w *world) traces(ctx context.Context, site, host string, here bool) error {
	h := w.host(site)
	count := func(what string, got []string, want int) error {
		if !here {
			want = 0
		}
		if len(got) != want {
			return fmt.Errorf("%d %s, not %d: %s", len(got), what, want, strings.Join(got, "; "))
		}
		return nil
	}
	var errs []error
	ps, err := h.Command(ctx, "ps", "-eo", "args=").Output()
	if err != nil {
		return err
	}
	var qemu, dnsmasq []string
	for line := range strings.Lines(string(ps)) {
		switch program, _, _ := strings.Cut(line, " "); filepath.Base(program) {
		case "qemu-system-x86_64":
			qemu = append(qemu, line)
		case "dnsmasq":
			dnsmasq = append(dnsmasq, line)
		}
	}
	runs, plugs := 1, 1
	if w.stopped {
		runs, plugs = 0, 0
	}
	errs = append(errs, count("QEMUs", qemu, runs), count("dnsmasqs", dnsmasq, 2))
	links, err := h.Command(ctx, "ip", "-br", "link").Output()
	if err != nil {
		return err
	}
	var devices []string
	for line := range strings.Lines(string(links)) {
		if name, _, _ := strings.Cut(line, " "); strings.HasPrefix(name, "br-") || strings.HasPrefix(name, "vx-") || strings.HasPrefix(name, "vnet") {
			devices = append(devices, name)
		}
	}
	errs = append(errs, count("devices", devices, 2+plugs))
	var files, halves, sockets []string
	err = filepath.WalkDir(h.Path("/var/lib/widecloud/agent/vms"), func(path string, d os.DirEntry, err error) error {
		switch {
		case err != nil || d.IsDir():
		case filepath.Base(filepath.Dir(path)) == "tmp":
			halves = append(halves, d.Name())
		case strings.Contains(path, w.uid):
			files = append(files, d.Name())
		}
		return err
	})
	if err != nil {
		return err
	}
	errs = append(errs, count("files of the VM", files, 2)) // the disk's difference and the seed
	errs = append(errs, count("files that are not whole", halves, 0))
	entries, err := os.ReadDir(h.Path("/run/widecloud/hyper"))
	if err != nil {
		return err
	}
	for _, e := range entries {
		sockets = append(sockets, e.Name())
	}
	errs = append(errs, count("sockets", sockets, 2*runs)) // the console's and the display's
	o, err := api.Get[api.Host](ctx, w.fed.Client(site), host)
	if err != nil {
		return err
	}
	if got := o.Status.Allotted; (got.MemoryMiB != 0) != here {
		errs = append(errs, fmt.Errorf("allotted: %+v", got))
	}
	return errors.Join(errs...)
}

// strike is a process that is killed at a point of a migration.
type strike struct {
	from    string // where the VM is
	site    string // whose process is killed
	process string
	point   string
	moved   bool // the migration ends at the target
	stopped bool // that of a stopped VM does
}

var strikes = []strike{
	// Before the decision the source goes on, whoever died. Its agent's link with libvirtd holds the job: libvirtd
	// gives the copying up when the agent is gone.
	{"alpha", "alpha", "agent", "source.copying", false, false},
	{"beta", "beta", "agent", "source.copied", false, false},
	{"alpha", "beta", "agent", "target.prepared", false, false},
	// The target's agent heard the decision and died before its copy ran: libvirtd destroyed that copy with the
	// agent's link. The agent says so and the source, which still has everything, goes on. The disk of a stopped VM is
	// there still.
	{"beta", "alpha", "agent", "target.committed", false, true},
	{"alpha", "beta", "agent", "target.switched", true, true},
	// The home controller: a copy that it cannot know of is undone; what it has journalled is carried out.
	{"beta", "alpha", "controller", "coordinator.copied", true, true},
	{"alpha", "alpha", "controller", "coordinator.committed", true, true},
	{"beta", "alpha", "controller", "coordinator.switched", true, true},
	{"alpha", "beta", "controller", "target-controller.finished", true, true},
	{"beta", "beta", "controller", "source-controller.confirmed", true, true},
}

// TestKilled kills processes with kill -9 at points of a migration, on real parts. Whatever died, and wherever: one copy
// runs, with its memory; the job ends; nothing is left behind; and the next migration works.
func TestKilled(t *testing.T) {
	w := newWorld(t)
	boot := w.ask(http.MethodGet, "/boot")
	w.killed(func(w *world, when string) {
		if got := w.ask(http.MethodGet, "/boot"); got != boot {
			w.Errorf("boot id %s %s, was %s: the memory is lost", got, when, boot)
			boot = got
		}
	})
}

// TestKilledStopped is TestKilled with a stopped VM: one copy of its disk is there, whole.
func TestKilledStopped(t *testing.T) {
	w := newWorld(t)
	disk := w.ask(http.MethodPut, "/disk?mb=8&seed=7")
	w.power(api.PowerOff)
	w.killed(func(*world, string) {})
	w.power(api.PowerOn)
	if got := w.ask(http.MethodGet, "/disk?mb=8"); got != disk {
		t.Errorf("what is read from the disk has the digest %s, what was written %s", got, disk)
	}
}

// killed strikes once in each way. whole looks at the VM after each migration.
func (w *world) killed(whole func(w *world, when string)) {
	other := map[string]string{"alpha": "beta", "beta": "alpha"}
	at := "alpha"
	for _, c := range strikes {
		ok := w.Run(fmt.Sprintf("%s of %s, from %s", c.point, c.site, c.from), func(t *testing.T) {
			w := &world{T: t, fed: w.fed, uid: w.uid, stopped: w.stopped}
			step := func(what string, start time.Time) { t.Logf("%s: %.1f s", what, time.Since(start).Seconds()) }
			if at != c.from {
				w.move(c.from)
				at = c.from
				w.settled(at)
			}
			job := w.strike(c, other[c.from])
			now := time.Now()
			j := w.ended(job)
			step("job ended", now)
			moved := c.moved
			if w.stopped {
				moved = c.stopped
			}
			if done := j.Status.State == api.JobDone; done != moved {
				t.Errorf("job is %s at step %s: %s", j.Status.State, j.Status.Step, j.Status.Message)
			} else if !done {
				t.Logf("the job says: %s", j.Status.Message)
			}
			if j.Status.State == api.JobDone {
				at = other[c.from]
			}
			now = time.Now()
			w.settled(at)
			step("settled", now)
			whole(w, "after it")
			now = time.Now()
			w.connected(time.Time{})
			w.move(other[at])
			at = other[at]
			w.settled(at)
			whole(w, "after the next migration")
			step("next migration", now)
		})
		if !ok && w.Context().Err() != nil {
			break
		}
	}
}

// strike begins a migration, waits until the process has died of it, and starts that anew.
func (w *world) strike(c strike, to string) (job string) {
	w.Helper()
	step := func(what string, start time.Time) { w.Logf("%s: %.1f s", what, time.Since(start).Seconds()) }
	node := w.fed.Controller(c.site)
	if c.process == "agent" {
		node = w.host(c.site).Node
	}
	now := time.Now()
	p, err := node.RestartWith(c.process, "WCC_FAILPOINT="+c.point)
	must(w.T, err)
	w.connected(now, c.site)
	step("armed", now)

	now = time.Now()
	job = w.begin(to)
	select {
	case <-p.Done():
	case <-time.After(time.Minute):
		w.Fatalf("nothing died at %s", c.point)
	}
	var exit *exec.ExitError
	if !errors.As(p.Err(), &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		w.Fatalf("the process ended by itself: %v", p.Err())
	}
	step("died", now)
	_, err = node.RestartWith(c.process)
	must(w.T, err)
	return job
}
