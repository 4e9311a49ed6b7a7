package hypertest

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"image"
	"io"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"widecloud/api"
	"widecloud/internal/hyper"
	"widecloud/internal/rfb"
)

// Env is two hosts that a VM may migrate between. It is made anew for every test, or shared: the suite uses VMs of its own
// and leaves none.
type Env struct{ A, B Host }

// Host is one end.
type Host struct {
	// Connect makes an agent's connection. The suite closes it.
	Connect func(t *testing.T) hyper.Driver
	// Spec makes a VM's disks afresh on this host and returns a spec with at least one writable disk and a guest that
	// answers ACPI and echoes on its serial console.
	Spec func(t *testing.T, vm string, epoch uint64) hyper.Spec
	// Disk makes a further disk afresh on this host, of a MiB, for a VM of Spec.
	Disk func(t *testing.T, vm, target string) hyper.Disk
	// Size is the size in bytes of a disk that a guest has now.
	Size func(t *testing.T, vm string, k hyper.Disk) int64
	// Deaf makes the guest of a VM keep the disks that it is asked to let go, until it boots anew; nil: it does so anyhow.
	Deaf func(vm string)
	// Guest looks into a running guest. Boot differs for every boot and reset; Counter grows while the guest runs.
	Guest func(t *testing.T, d hyper.Driver, vm string) Guest
	// Memory is where the memory of a VM can be saved on this host. The file is removed at the test's end.
	Memory func(t *testing.T, vm string) string
	// ReadMemory reads what was saved there, WriteMemory writes it.
	ReadMemory  func(t *testing.T, vm string) []byte
	WriteMemory func(t *testing.T, vm string, content []byte)
	// Tear makes it half of a file, as the end of the daemon in the middle of a Save leaves it.
	Tear func(t *testing.T, vm string)
	// Fill makes the file system of the disks of s full; it is undone at the test's end.
	Fill func(t *testing.T, s hyper.Spec)
}

// Guest is what a guest says of itself.
type Guest struct {
	Boot    string
	Counter uint64
}

// Patience bounds every wait for a condition; it is no measure of anything.
const Patience = 20 * time.Second

// Run runs the suite.
func Run(t *testing.T, env func(t *testing.T) Env) {
	for _, c := range []struct {
		name string
		test func(t *testing.T, e *bench)
	}{
		{"capabilities", testCapabilities},
		{"life cycle", testLifeCycle},
		{"not found", testNotFound},
		{"bad spec", testBadSpec},
		{"events", testEvents},
		{"reboot", testReboot},
		{"suspend", testSuspend},
		{"save", testSave},
		{"save torn", testSaveTorn},
		{"save elsewhere", testSaveElsewhere},
		{"console", testConsole},
		{"display", testDisplay},
		{"no display", testNoDisplay},
		{"usage", testUsage},
		{"disks", testDisks},
		{"disks cannot be plugged", testNoPlug},
		{"migrate", testMigrate},
		{"migrate back and forth", testBackAndForth},
		{"migrate disks", testMigrateDisks(api.NewestProfile)},
		{"migrate disks of the first profile", testMigrateDisks(1)},
		{"migrate prepare refuses", testPrepareRefuses},
		{"migrate abort before copy", testAbortBeforeCopy},
		{"migrate abort after copy", testAbortAfterCopy},
		{"migrate cancel", testCancel},
		{"migrate context ends", testContextEnds},
		{"migrate stream cut", testStreamCut},
		{"migrate dial fails", testDialFails},
		{"migrate target agent dies in copy", testTargetDiesInCopy},
		{"migrate target agent dies before finish", testTargetDiesBeforeFinish},
		{"migrate source agent dies in copy", testSourceDiesInCopy},
		{"migrate source agent dies before confirm", testSourceDiesBeforeConfirm},
		{"migrate retries", testRetries},
		{"migrate disk full", testDiskFull},
	} {
		t.Run(strings.ReplaceAll(c.name, " ", "-"), func(t *testing.T) {
			e := env(t)
			c.test(t, newBench(t, e))
		})
	}
}

// bench is a test's two agents.
type bench struct {
	Env
	a, b hyper.Driver
	vm   string
	ctx  context.Context
}

func newBench(t *testing.T, e Env) *bench {
	ctx, cancel := context.WithTimeout(t.Context(), 2*Patience)
	x := &bench{Env: e, a: e.A.Connect(t), b: e.B.Connect(t), vm: NewVM(), ctx: ctx}
	t.Cleanup(func() {
		cancel()
		ctx, cancel := context.WithTimeout(context.Background(), Patience)
		defer cancel()
		for _, d := range []hyper.Driver{x.a, x.b} {
			if err := d.Destroy(ctx, x.vm); err != nil {
				t.Errorf("clean up: %v", err)
			}
			if err := d.Close(); err != nil {
				t.Errorf("close: %v", err)
			}
		}
	})
	return x
}

// NewVM makes a UID.
func NewVM() string {
	var b [16]byte
	rand.Read(b[:])
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

func (x *bench) start(t *testing.T, epoch uint64) Guest {
	t.Helper()
	ok(t, x.a.Start(x.ctx, x.A.Spec(t, x.vm, epoch)))
	return x.grows(t, x.A, x.a, Guest{})
}

// grows waits until the guest's counter has passed that of an earlier look of the same boot.
func (x *bench) grows(t *testing.T, h Host, d hyper.Driver, before Guest) Guest {
	t.Helper()
	var g Guest
	eventually(t, "guest goes on", func() bool {
		g = h.Guest(t, d, x.vm)
		return g.Counter > before.Counter
	})
	if before.Boot != "" && g.Boot != before.Boot {
		t.Fatalf("guest booted anew: %q, was %q", g.Boot, before.Boot)
	}
	return g
}

func (x *bench) see(t *testing.T, d hyper.Driver) (hyper.Domain, bool) {
	t.Helper()
	list, err := d.Domains(x.ctx)
	ok(t, err)
	i := slices.IndexFunc(list, func(m hyper.Domain) bool { return m.VM == x.vm })
	if i < 0 {
		return hyper.Domain{}, false
	}
	return list[i], true
}

func (x *bench) state(t *testing.T, d hyper.Driver, want hyper.State) {
	t.Helper()
	m, there := x.see(t, d)
	if !there {
		t.Fatalf("domain is gone, want %s", want)
	}
	if m.State != want {
		t.Fatalf("domain is %s, want %s", m.State, want)
	}
	if m.Migrating {
		t.Fatalf("domain is still migrating")
	}
}

func (x *bench) none(t *testing.T, d hyper.Driver) {
	t.Helper()
	if m, there := x.see(t, d); there {
		t.Fatalf("domain is there: %+v", m)
	}
}

func (x *bench) gone(t *testing.T, d hyper.Driver) {
	t.Helper()
	eventually(t, "domain is gone", func() bool { _, there := x.see(t, d); return !there })
}

// done is what MigratePerform returned.
type done struct {
	result []byte
	err    error
}

// begin goes as far as both ends being ready.
func (x *bench) begin(t *testing.T, from, to hyper.Driver, target Host, epoch uint64) []byte {
	t.Helper()
	offer, err := from.MigrateBegin(x.ctx, x.vm)
	ok(t, err)
	answer, err := to.MigratePrepare(x.ctx, target.Spec(t, x.vm, epoch), offer)
	ok(t, err)
	x.state(t, to, hyper.Incoming)
	x.state(t, from, hyper.Running)
	return answer
}

func (x *bench) perform(t *testing.T, from, to hyper.Driver, answer []byte) []byte {
	t.Helper()
	r := NewRelay(to, x.vm, nil)
	defer r.Close()
	result, err := from.MigratePerform(x.ctx, x.vm, hyper.Outgoing{Answer: answer, Dial: r.Dial})
	ok(t, err)
	if r.Bytes() == 0 {
		t.Fatal("no bytes went through the relay")
	}
	x.state(t, from, hyper.Paused)
	x.state(t, to, hyper.Incoming)
	return result
}

// performHeld starts MigratePerform and comes back when the channel is held in mid-copy.
func (x *bench) performHeld(t *testing.T, ctx context.Context, from, to hyper.Driver, answer []byte, c hyper.Channel) (*Relay, <-chan done) {
	t.Helper()
	r := NewRelay(to, x.vm, map[hyper.Channel]int64{c: 2 << 10})
	t.Cleanup(r.Close)
	ch := make(chan done, 1)
	go func() {
		result, err := from.MigratePerform(ctx, x.vm, hyper.Outgoing{Answer: answer, Dial: r.Dial})
		ch <- done{result, err}
	}()
	select {
	case <-r.Held():
	case d := <-ch:
		t.Fatalf("perform returned before the copy's middle: %v", d.err)
	case <-time.After(Patience):
		t.Fatal("copy does not begin")
	}
	return r, ch
}

// migrate is a whole one.
func (x *bench) migrate(t *testing.T, from, to hyper.Driver, target Host, epoch uint64, before Guest) Guest {
	t.Helper()
	answer := x.begin(t, from, to, target, epoch)
	result := x.perform(t, from, to, answer)
	ok(t, to.MigrateFinish(x.ctx, x.vm, result, true))
	x.state(t, to, hyper.Running)
	x.state(t, from, hyper.Paused)
	ok(t, from.MigrateConfirm(x.ctx, x.vm, true))
	x.none(t, from)
	m, _ := x.see(t, to)
	if m.Epoch != epoch {
		t.Fatalf("epoch at the target is %d, want %d", m.Epoch, epoch)
	}
	return x.grows(t, target, to, before)
}

// failed checks the ends of a migration that came to nothing, and that the next one works.
func (x *bench) failed(t *testing.T, g Guest) {
	t.Helper()
	ok(t, x.b.MigrateFinish(x.ctx, x.vm, nil, false))
	x.gone(t, x.b)
	eventually(t, "source runs", func() bool {
		m, there := x.see(t, x.a)
		return there && m.State == hyper.Running && !m.Migrating
	})
	g = x.grows(t, x.A, x.a, g)
	x.migrate(t, x.a, x.b, x.B, 9, g)
}

func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func is(t *testing.T, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("error is %v, want %v", err, want)
	}
}

func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(Patience); !cond(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("did not happen: %s", what)
		}
	}
}

func wait[T any](t *testing.T, what string, ch <-chan T) T {
	t.Helper()
	select {
	case v, open := <-ch:
		if !open {
			t.Fatalf("channel closed: %s", what)
		}
		return v
	case <-time.After(Patience):
		t.Fatalf("did not happen: %s", what)
		panic("unreachable")
	}
}

func testCapabilities(t *testing.T, x *bench) {
	c, err := x.a.Capabilities(x.ctx)
	ok(t, err)
	if c.Hypervisor == "" || c.Arch == "" || c.CPUModel == "" || c.CPUs < 1 || c.MemoryMiB < 1 {
		t.Errorf("capabilities have holes: %+v", c)
	}
	if c.Accel != "kvm" && (c.Accel != "tcg" || c.AccelWhy == "") {
		t.Errorf("acceleration is %q because of %q", c.Accel, c.AccelWhy)
	}
	if c.Profile != api.NewestProfile {
		t.Errorf("hardware profiles up to %d are made, want %d", c.Profile, api.NewestProfile)
	}
	if !slices.Contains(c.CPUUsable, c.CPUModel) {
		t.Errorf("usable models %v lack the baseline %s", c.CPUUsable, c.CPUModel)
	}
}

func testLifeCycle(t *testing.T, x *bench) {
	x.none(t, x.a)
	s := x.A.Spec(t, x.vm, 3)
	ok(t, x.a.Start(x.ctx, s))
	m, there := x.see(t, x.a)
	want := hyper.Domain{VM: x.vm, Name: s.Name, Epoch: 3, State: hyper.Running, MemoryMiB: s.MemoryMiB, CPUs: s.CPUs, Disks: []string{"vda"}}
	if !there || !reflect.DeepEqual(m, want) {
		t.Fatalf("domain is %+v, want %+v", m, want)
	}
	s.Epoch = 4
	is(t, x.a.Start(x.ctx, s), hyper.ErrExists)
	if m, _ := x.see(t, x.a); m.Epoch != 3 {
		t.Fatalf("a refused start changed the epoch to %d", m.Epoch)
	}
	ok(t, x.a.Resume(x.ctx, x.vm)) // runs already
	_, err := x.a.MigrateProgress(x.ctx, x.vm)
	is(t, err, hyper.ErrState)

	// A restarted agent finds it, running.
	ok(t, x.a.Close())
	x.a = x.A.Connect(t)
	x.state(t, x.a, hyper.Running)
	x.grows(t, x.A, x.a, Guest{})

	ok(t, x.a.Shutdown(x.ctx, x.vm))
	x.gone(t, x.a)
	ok(t, x.a.Start(x.ctx, s))
	ok(t, x.a.Destroy(x.ctx, x.vm))
	x.none(t, x.a)
	ok(t, x.a.Destroy(x.ctx, x.vm))
}

func testNotFound(t *testing.T, x *bench) {
	_, err := x.a.Console(x.ctx, x.vm)
	is(t, err, hyper.ErrNotFound)
	_, err = x.a.Display(x.ctx, x.vm)
	is(t, err, hyper.ErrNotFound)
	is(t, x.a.Shutdown(x.ctx, x.vm), hyper.ErrNotFound)
	is(t, x.a.Reboot(x.ctx, x.vm, true), hyper.ErrNotFound)
	is(t, x.a.Resume(x.ctx, x.vm), hyper.ErrNotFound)
	_, err = x.a.MigrateBegin(x.ctx, x.vm)
	is(t, err, hyper.ErrNotFound)
	_, err = x.a.MigrateConnect(x.ctx, x.vm, hyper.Memory)
	is(t, err, hyper.ErrNotFound)
	_, err = x.a.MigrateProgress(x.ctx, x.vm)
	is(t, err, hyper.ErrNotFound)
	is(t, x.a.MigrateConfirm(x.ctx, x.vm, false), hyper.ErrNotFound)
	ok(t, x.a.MigrateConfirm(x.ctx, x.vm, true))
	ok(t, x.a.MigrateFinish(x.ctx, x.vm, nil, false))
	ok(t, x.a.MigrateCancel(x.ctx, x.vm))
}

func testBadSpec(t *testing.T, x *bench) {
	for name, spoil := range map[string]func(s *hyper.Spec){
		"spec.vm":              func(s *hyper.Spec) { s.VM = "web1" },
		"spec.cpus":            func(s *hyper.Spec) { s.CPUs = 0 },
		"spec.memory":          func(s *hyper.Spec) { s.MemoryMiB = -1 },
		"spec.profile":         func(s *hyper.Spec) { s.Profile = api.NewestProfile + 1 },
		"spec.cpuModel":        func(s *hyper.Spec) { s.CPUModel = "a<b" },
		"spec.cpuModel: EPYC":  func(s *hyper.Spec) { s.CPUModel = "EPYC-of-tomorrow" },
		"spec.disks[0].path":   func(s *hyper.Spec) { s.Disks[0].Path = "disk" },
		"spec.disks[0].format": func(s *hyper.Spec) { s.Disks[0].Format = "vmdk" },
		"spec.disks[0].target": func(s *hyper.Spec) { s.Disks[0].Target = "hda" },
		"spec.disks[0].base":   func(s *hyper.Spec) { s.Disks[0].Base = "base" },
		"spec.nics[0].mac":     func(s *hyper.Spec) { s.NICs = []hyper.NIC{{Bridge: "br-x", MAC: "x"}} },
		"spec.nics[0].bridge":  func(s *hyper.Spec) { s.NICs = []hyper.NIC{{Bridge: "a/b", MAC: "02:00:00:00:00:01"}} },
		"spec.nics[0].mtu":     func(s *hyper.Spec) { s.NICs = []hyper.NIC{{Bridge: "br-x", MAC: "02:00:00:00:00:01", MTU: -1}} },
	} {
		s := x.A.Spec(t, x.vm, 1)
		spoil(&s)
		err := x.a.Start(x.ctx, s)
		if err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("error is %v, want one that names %s", err, name)
		}
	}
	x.none(t, x.a)
}

func testEvents(t *testing.T, x *bench) {
	ctx, cancel := context.WithCancel(x.ctx)
	defer cancel()
	events, err := x.a.Watch(ctx)
	ok(t, err)
	next := func(want hyper.State) {
		t.Helper()
		for {
			e := wait(t, "event "+string(want), events)
			if e.VM == x.vm {
				if e.State != want {
					t.Fatalf("event says %s, want %s", e.State, want)
				}
				return
			}
		}
	}
	ok(t, x.a.Start(x.ctx, x.A.Spec(t, x.vm, 1)))
	next(hyper.Running)
	ok(t, x.a.Destroy(x.ctx, x.vm))
	next(hyper.Stopped)
	cancel()
	eventually(t, "channel is closed", func() bool {
		select {
		case _, open := <-events:
			return !open
		default:
			return false
		}
	})
}

func testReboot(t *testing.T, x *bench) {
	g := x.start(t, 1)
	for _, hard := range []bool{true, false} {
		ok(t, x.a.Reboot(x.ctx, x.vm, hard))
		was := g
		eventually(t, "guest boots anew", func() bool { g = x.A.Guest(t, x.a, x.vm); return g.Boot != was.Boot })
		x.state(t, x.a, hyper.Running)
	}
}

func testConsole(t *testing.T, x *bench) {
	x.start(t, 1)
	open := func() io.ReadWriteCloser {
		t.Helper()
		c, err := x.a.Console(x.ctx, x.vm)
		ok(t, err)
		return c
	}
	first := open()
	echo(t, first, "hello first")
	second := open()
	defer second.Close()
	ended := make(chan struct{})
	go func() {
		io.Copy(io.Discard, first)
		close(ended)
	}()
	select {
	case <-ended:
	case <-time.After(Patience):
		t.Fatal("the first console was not ended by the second")
	}
	first.Close()
	echo(t, second, "hello second")
}

// testDisplay: two viewers see what the guest shows; the display moves with the VM, and ends where it was.
func testDisplay(t *testing.T, x *bench) {
	x.A, x.B = withProfile(x.A), withProfile(x.B)
	g := x.start(t, 1)
	first := x.sees(t, x.a)
	defer first.Close()
	second := x.sees(t, x.a)
	defer second.Close()
	x.migrate(t, x.a, x.b, x.B, 2, g)
	ended := make(chan error, 1)
	go func() {
		_, a := io.Copy(io.Discard, first)
		_, b := io.Copy(io.Discard, second)
		ended <- errors.Join(a, b)
	}()
	ok(t, wait(t, "the viewers at the source are ended", ended))
	x.sees(t, x.b).Close()
}

// withProfile gives the VMs of a host the newest hardware profile.
func withProfile(h Host) Host {
	plain := h.Spec
	h.Spec = func(t *testing.T, vm string, epoch uint64) hyper.Spec {
		s := plain(t, vm, epoch)
		s.Profile = api.NewestProfile
		return s
	}
	return h
}

// sees looks at a display until something is to be seen on it, and leaves the viewer there.
func (x *bench) sees(t *testing.T, d hyper.Driver) io.ReadWriteCloser {
	t.Helper()
	var c io.ReadWriteCloser
	eventually(t, "something is to be seen", func() bool {
		var err error
		c, err = d.Display(x.ctx, x.vm)
		ok(t, err)
		picture := make(chan *image.RGBA, 1)
		failed := make(chan error, 1)
		go func() {
			m, err := rfb.Capture(c)
			if err != nil {
				failed <- err
				return
			}
			picture <- m
		}()
		select {
		case err := <-failed:
			t.Fatal(err)
		case m := <-picture:
			if !rfb.Black(m) {
				return true
			}
		case <-time.After(Patience):
			t.Fatal("the display shows nothing")
		}
		c.Close()
		return false
	})
	return c
}

// testNoDisplay: VMs of the first hardware profile have none, and say so.
func testNoDisplay(t *testing.T, x *bench) {
	x.start(t, 1)
	_, err := x.a.Display(x.ctx, x.vm)
	is(t, err, hyper.ErrNoDisplay)
}

// testUsage: what a guest uses grows while it runs, is told of that guest, and no longer when it is gone.
func testUsage(t *testing.T, x *bench) {
	x.start(t, 1)
	of := func() (found hyper.Usage, n int) {
		t.Helper()
		all, err := x.a.Usage(x.ctx)
		ok(t, err)
		for _, u := range all {
			if u.VM == x.vm {
				found = u
				n++
			}
		}
		return found, n
	}
	var first hyper.Usage
	eventually(t, "the guest has used its CPU, and some of its disk", func() bool {
		var n int
		first, n = of()
		return n == 1 && first.CPU > 0 && first.DiskRead+first.DiskWritten > 0
	})
	if first.Memory < 1<<20 || first.Memory > 4<<30 {
		t.Errorf("the guest holds %d bytes of memory", first.Memory)
	}
	eventually(t, "it uses more", func() bool {
		next, n := of()
		if n == 1 && (next.CPU < first.CPU || next.DiskRead < first.DiskRead || next.DiskWritten < first.DiskWritten) {
			t.Fatalf("%+v comes after %+v", next, first)
		}
		return n == 1 && next.CPU > first.CPU
	})
	ok(t, x.a.Destroy(x.ctx, x.vm))
	eventually(t, "a guest that is gone uses nothing", func() bool { _, n := of(); return n == 0 })
}

// echo writes a line and reads until it has come back.
func echo(t *testing.T, c io.ReadWriter, line string) {
	t.Helper()
	got := make(chan error, 1)
	go func() {
		var seen []byte
		buf := make([]byte, 256)
		for {
			n, err := c.Read(buf)
			seen = append(seen, buf[:n]...)
			if bytes.Contains(seen, []byte(line)) {
				got <- nil
				return
			}
			if err != nil {
				got <- fmt.Errorf("read console: %w after %q", err, seen)
				return
			}
		}
	}()
	_, err := io.WriteString(c, line)
	ok(t, err)
	ok(t, wait(t, "console echoes", got))
}
