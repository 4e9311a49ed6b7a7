package libvirt_test

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"widecloud/internal/hyper"
	"widecloud/internal/hyper/hypertest"
	"widecloud/internal/hyper/libvirt"
)

func TestMain(m *testing.M) {
	var err error
	if capabilities, err = os.MkdirTemp("/tmp", "wcc-hv-"); err != nil {
		panic(err)
	}
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		os.RemoveAll(capabilities)
		os.Exit(code)
	}))
}

func TestConformance(t *testing.T) {
	t.Parallel()
	a, b := newHost(t, "tokyo-1"), newHost(t, "osaka-1")
	hypertest.Run(t, func(t *testing.T) hypertest.Env { return hypertest.Env{A: a.env(), B: b.env()} })
	for _, h := range []*host{a, b} {
		left, err := filepath.Glob(h.dir + "/s/*")
		if err != nil || len(left) > 0 {
			t.Errorf("sockets are left: %v %v", left, err)
		}
		if out := h.run(t, "sh", "-c", "ip -br link show type tun; pidof qemu-system-x86_64 || true"); strings.TrimSpace(out) != "" {
			t.Errorf("left on %s: %s", h.name, out)
		}
	}
}

// pair is two hosts with a running guest on the first, for tests of what the suite cannot do to a host.
type pair struct {
	t        *testing.T
	a, b     *host
	src, dst *libvirt.Driver
	vm       string
}

func newPair(t *testing.T) *pair {
	t.Parallel()
	p := &pair{t: t, a: newHost(t, "tokyo-2"), b: newHost(t, "osaka-2"), vm: hypertest.NewVM()}
	p.src, p.dst = p.a.driver(t), p.b.driver(t)
	t.Cleanup(func() { p.src.Close(); p.dst.Close() })
	p.check(p.src.Start(t.Context(), p.a.spec(t, p.vm, 1)))
	return p
}

func (p *pair) check(err error) {
	p.t.Helper()
	if err != nil {
		p.t.Fatal(err)
	}
}

func (p *pair) begin(epoch uint64) []byte {
	p.t.Helper()
	offer, err := p.src.MigrateBegin(p.t.Context(), p.vm)
	p.check(err)
	answer, err := p.dst.MigratePrepare(p.t.Context(), p.b.spec(p.t, p.vm, epoch), offer)
	p.check(err)
	return answer
}

func (p *pair) state(d hyper.Driver) hyper.State {
	p.t.Helper()
	list, err := d.Domains(p.t.Context())
	if errors.Is(err, hyper.ErrUnreachable) {
		return "unreachable"
	}
	p.check(err)
	for _, m := range list {
		if m.VM == p.vm {
			return m.State
		}
	}
	return ""
}

func (p *pair) becomes(d hyper.Driver, want hyper.State) {
	p.t.Helper()
	until(p.t, "state "+string(want), func() bool { return p.state(d) == want })
}

// held starts the copy and holds its memory in the middle.
func (p *pair) held(answer []byte) (*hypertest.Relay, <-chan error) {
	p.t.Helper()
	r := hypertest.NewRelay(p.dst, p.vm, map[hyper.Channel]int64{hyper.Memory: 2 << 10})
	p.t.Cleanup(r.Close)
	done := make(chan error, 1)
	go func() {
		_, err := p.src.MigratePerform(p.t.Context(), p.vm, hyper.Outgoing{Answer: answer, Dial: r.Dial})
		done <- err
	}()
	select {
	case <-r.Held():
	case err := <-done:
		p.t.Fatalf("perform returned: %v", err)
	}
	return r, done
}

func (p *pair) migrate(epoch uint64) {
	p.t.Helper()
	before := look(p.t, p.src, p.vm)
	answer := p.begin(epoch)
	r := hypertest.NewRelay(p.dst, p.vm, nil)
	defer r.Close()
	result, err := p.src.MigratePerform(p.t.Context(), p.vm, hyper.Outgoing{Answer: answer, Dial: r.Dial, Downtime: 100 * time.Millisecond})
	p.check(err)
	p.check(p.dst.MigrateFinish(p.t.Context(), p.vm, result, true))
	p.check(p.src.MigrateConfirm(p.t.Context(), p.vm, true))
	if g := look(p.t, p.dst, p.vm); g.Boot != before.Boot || g.Counter <= before.Counter {
		p.t.Fatalf("guest is %+v, was %+v", g, before)
	}
}

func TestTargetDaemonDiesInCopy(t *testing.T) {
	p := newPair(t)
	r, done := p.held(p.begin(2))
	p.b.killLibvirtd(t)
	p.becomes(p.dst, "unreachable")
	p.b.startLibvirtd(t)
	p.becomes(p.dst, "")
	r.Release()
	if err := <-done; err == nil {
		t.Fatal("perform says nothing of the target's end")
	}
	p.becomes(p.src, hyper.Running)
	p.migrate(3)
}

func TestTargetDaemonDiesBeforeFinish(t *testing.T) {
	p := newPair(t)
	answer := p.begin(2)
	r := hypertest.NewRelay(p.dst, p.vm, nil)
	defer r.Close()
	result, err := p.src.MigratePerform(t.Context(), p.vm, hyper.Outgoing{Answer: answer, Dial: r.Dial})
	p.check(err)
	p.b.killLibvirtd(t)
	p.becomes(p.dst, "unreachable")
	if err := p.dst.MigrateFinish(t.Context(), p.vm, result, true); !errors.Is(err, hyper.ErrUnreachable) {
		t.Fatalf("error is %v", err)
	}
	p.b.startLibvirtd(t)
	p.becomes(p.dst, "")
	if err := p.dst.MigrateFinish(t.Context(), p.vm, result, true); !errors.Is(err, hyper.ErrNotFound) {
		t.Fatalf("error is %v", err)
	}
	p.check(p.src.MigrateConfirm(t.Context(), p.vm, false))
	p.becomes(p.src, hyper.Running)
	p.migrate(3)
}

func TestSourceDaemonDiesInCopy(t *testing.T) {
	p := newPair(t)
	_, done := p.held(p.begin(2))
	p.a.killLibvirtd(t)
	p.becomes(p.src, "unreachable")
	p.a.startLibvirtd(t)
	if err := <-done; !errors.Is(err, hyper.ErrUnreachable) || errors.Is(err, hyper.ErrParted) {
		t.Fatalf("error is %v", err)
	}
	p.becomes(p.src, hyper.Running)
	p.check(p.dst.MigrateFinish(t.Context(), p.vm, nil, false))
	p.migrate(3)
}

func TestSourceDaemonDiesBeforeConfirm(t *testing.T) {
	p := newPair(t)
	answer := p.begin(2)
	r := hypertest.NewRelay(p.dst, p.vm, nil)
	defer r.Close()
	result, err := p.src.MigratePerform(t.Context(), p.vm, hyper.Outgoing{Answer: answer, Dial: r.Dial})
	p.check(err)
	p.a.killLibvirtd(t)
	p.becomes(p.src, "unreachable")
	p.a.startLibvirtd(t)
	p.becomes(p.src, hyper.Paused)
	p.check(p.dst.MigrateFinish(t.Context(), p.vm, result, true))
	p.check(p.src.MigrateConfirm(t.Context(), p.vm, true))
	p.becomes(p.src, "")
	p.becomes(p.dst, hyper.Running)
}

// A guest that is suspended stays so when its daemon dies, and is still told from one that a migration has paused.
func TestSuspendedOutlivesDaemon(t *testing.T) {
	p := newPair(t)
	p.check(p.src.Suspend(t.Context(), p.vm))
	p.a.killLibvirtd(t)
	p.becomes(p.src, "unreachable")
	p.a.startLibvirtd(t)
	p.becomes(p.src, hyper.Suspended)
	p.check(p.src.Resume(t.Context(), p.vm))
	p.becomes(p.src, hyper.Running)
}

// The events of a daemon that was away are told as lost.
func TestEventsAfterRestart(t *testing.T) {
	t.Parallel()
	h := newHost(t, "tokyo-3")
	d := h.driver(t)
	defer d.Close()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	events, err := d.Watch(ctx)
	if err != nil {
		t.Fatal(err)
	}
	h.killLibvirtd(t)
	h.startLibvirtd(t)
	e := <-events
	if !e.Lost {
		t.Fatalf("event is %+v", e)
	}
	vm := hypertest.NewVM()
	if err := d.Start(ctx, h.spec(t, vm, 1)); err != nil {
		t.Fatal(err)
	}
	if e := <-events; e.VM != vm || e.State != hyper.Running {
		t.Fatalf("event is %+v", e)
	}
}

// A daemon that takes a connection and never answers costs a call its patience, not more.
func TestStuckDaemon(t *testing.T) {
	t.Parallel()
	h := newHost(t, "tokyo-4")
	d := h.driver(t)
	defer d.Close()
	if _, err := d.Domains(t.Context()); err != nil {
		t.Fatal(err)
	}
	h.signalLibvirtd(t, "STOP")
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if _, err := d.Domains(ctx); !errors.Is(err, hyper.ErrUnreachable) || !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("error is %v", err)
	}
	h.signalLibvirtd(t, "CONT")
	if _, err := d.Domains(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// Auto comes to a decision by trying, and says why not KVM.
func TestAccel(t *testing.T) {
	t.Parallel()
	h := newHost(t, "tokyo-5")
	d, err := libvirt.New(libvirt.Options{Socket: h.dir + "/libvirt-sock", Dir: h.dir + "/s"})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	c, err := d.Capabilities(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%+v", c)
	if c.Accel == "tcg" {
		_, err := os.Stat("/dev/kvm")
		if noFile := errors.Is(err, os.ErrNotExist); noFile != strings.Contains(c.AccelWhy, "no kvm") {
			t.Errorf("reason is %q", c.AccelWhy)
		}
	}
	vm := hypertest.NewVM()
	if err := d.Start(t.Context(), h.spec(t, vm, 1)); err != nil {
		t.Fatal(err)
	}
	if g := look(t, d, vm); g.Counter == 0 {
		t.Errorf("guest is %+v", g)
	}
}

// swallow passes so many bytes on, and then takes all that comes without handing it over.
type swallow struct {
	net.Conn
	pass int
}

func (s *swallow) Write(p []byte) (int, error) {
	n := min(s.pass, len(p))
	s.pass -= n
	if _, err := s.Conn.Write(p[:n]); err != nil {
		return 0, err
	}
	return len(p), nil
}

// That QEMU wrote all it had is not enough: Perform waits for the target's word, and can still be cancelled while it does.
func TestPerformWaitsForTarget(t *testing.T) {
	p := newPair(t)
	// The cancel falls on QEMU's last step, where one of some four was once the guest's end.
	const cancels = 6
	for n := range uint64(cancels) {
		answer := p.begin(2 + n)
		r := hypertest.NewRelay(p.dst, p.vm, nil)
		defer r.Close()
		done := make(chan error, 1)
		go func() {
			_, err := p.src.MigratePerform(t.Context(), p.vm, hyper.Outgoing{Answer: answer, Dial: func(ctx context.Context, c hyper.Channel) (net.Conn, error) {
				nc, err := r.Dial(ctx, c)
				if err == nil && c == hyper.Memory {
					nc = &swallow{nc, 40 << 10}
				}
				return nc, err
			}})
			done <- err
		}()
		p.becomes(p.src, hyper.Paused)
		select {
		case err := <-done:
			t.Fatalf("perform returned: %v", err)
		default:
		}
		p.check(p.src.MigrateCancel(t.Context(), p.vm))
		if err := <-done; !errors.Is(err, hyper.ErrCancelled) {
			t.Fatalf("error is %v", err)
		}
		p.becomes(p.src, hyper.Running)
		p.check(p.dst.MigrateFinish(t.Context(), p.vm, nil, false))
	}
	p.migrate(2 + cancels)
}

// What a killed agent left is removed by the next one, and nothing else.
func TestSweep(t *testing.T) {
	dir, err := os.MkdirTemp("/tmp", "wcc-hv-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	for _, name := range []string{"a.memory", "b.disk", "c.console"} {
		l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(dir, name), Net: "unix"})
		if err != nil {
			t.Fatal(err)
		}
		l.SetUnlinkOnClose(false)
		l.Close()
	}
	l, err := net.Listen("unix", filepath.Join(dir, "live.memory"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	d, err := libvirt.New(libvirt.Options{Dir: dir, Socket: dir + "/none"})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	left, _ := filepath.Glob(filepath.Join(dir, "*"))
	if len(left) != 2 || filepath.Base(left[0]) != "c.console" || filepath.Base(left[1]) != "live.memory" {
		t.Errorf("left: %v", left)
	}
	// The domain that still had one open is gone by the time that somebody asks for its end.
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	l.Close()
	if err := d.Destroy(t.Context(), "00000000-0000-4000-8000-000000000001"); !errors.Is(err, hyper.ErrUnreachable) {
		t.Errorf("destroy without a libvirtd: %v", err)
	}
	left, _ = filepath.Glob(filepath.Join(dir, "*"))
	if len(left) != 1 || filepath.Base(left[0]) != "c.console" {
		t.Errorf("left in the end: %v", left)
	}
}
