package netio_test

import (
	"bufio"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"widecloud/internal/netio"
)

// never is a classic BPF program that matches nothing.
const never = "1,6 0 0 0"

// tc is what tc(8) says of a device.
func (w *fastWorld) tc(arg ...string) string {
	w.t.Helper()
	var out []byte
	if err := w.node.Do(func() (err error) {
		out, err = exec.Command("tc", arg...).CombinedOutput()
		return err
	}); err != nil {
		w.t.Fatalf("tc %v: %v\n%s", arg, err, out)
	}
	return string(out)
}

// filtered checks whether a device has our filter, and whether it has clsact or ingress.
func (w *fastWorld) filtered(dev string, filter, qdisc bool) {
	w.t.Helper()
	if out := w.tc("filter", "show", "dev", dev, "ingress"); strings.Count(out, "map646") != map[bool]int{true: 1}[filter] {
		w.t.Errorf("%s: want a filter: %v, have:\n%s", dev, filter, out)
	}
	if out := w.tc("qdisc", "show", "dev", dev); strings.Contains(out, "parent ffff:fff1") != qdisc {
		w.t.Errorf("%s: want clsact or ingress: %v, have:\n%s", dev, qdisc, out)
	}
}

// packets listens for datagrams on the machine.
func (w *fastWorld) packets() net.PacketConn {
	w.t.Helper()
	var pc net.PacketConn
	must(w.t, w.machine.Do(func() (err error) {
		pc, err = net.ListenPacket("udp", "[::]:53")
		return err
	}))
	w.t.Cleanup(func() { pc.Close() })
	return pc
}

// TestFastClsact: what TestFastTraffic and TestFastHandover show, where the
// kernel has no tcx.
func TestFastClsact(t *testing.T) {
	w := newFastWorld(t, "g-t")
	full := w.fullPath()
	dir := bpffs(t)
	spec := netio.FastSpec{PinDir: dir, MaxMappings: 100, ForceClsact: true}
	// Other software has a filter of its own on one of the devices.
	w.tc("qdisc", "add", "dev", "m", "ingress")
	w.tc("filter", "add", "dev", "m", "ingress", "prio", "7", "bpf", "bytecode", never)
	f := openFast(t, w.node, spec)
	must(t, f.Configure(fastSettings), f.Set(fastEntries), f.Attach("c"), f.Attach("m"), f.Attach("c"))
	if got := f.Attached(); f.Hook() != "clsact" || !slices.Equal(got, []string{"c", "m"}) {
		t.Errorf("attached to %v by %s", got, f.Hook())
	}
	w.filtered("c", true, true)
	w.filtered("m", true, true)
	if _, err := w.node.OpenFast(netio.FastSpec{PinDir: dir + "2", MaxMappings: 1, ForceClsact: true}); !errors.Is(err, netio.ErrFastInUse) {
		t.Errorf("a second one, pinned: %v", err)
	}
	second := openFast(t, w.node, netio.FastSpec{MaxMappings: 1, ForceClsact: true})
	if err := second.Attach("c"); !errors.Is(err, netio.ErrFastInUse) {
		t.Errorf("a second one: %v", err)
	}
	must(t, second.Close())

	l := listen(t, w.machine, "[::]:80")
	connect := func(addr string) (a, b net.Conn) {
		a = dial(t, w.client, "tcp", addr)
		b, err := l.Accept()
		must(t, err)
		return a, b
	}
	for there, addr := range map[string]string{"4to6": "203.0.113.10:80", "6to6": "[2001:db8:f::10]:80"} {
		a, b := connect(addr)
		before := f.Counters()[there]
		transfer(t, a, b, 8<<20)
		after := f.Counters()[there]
		if n, p := after.Bytes-before.Bytes, after.Packets-before.Packets; n < 8<<20 || n/p < 4000 {
			t.Errorf("%s: %d bytes in %d packets: super-packets were cut", addr, n, p)
		}
		transfer(t, b, a, 1<<20)
	}
	c := f.Counters()
	if c["6to4"].Packets == 0 || c["drop_failed"].Packets+c["pass_failed"].Packets+c["pass_torn"].Packets != 0 || full.Load() != 0 {
		t.Errorf("full path %d, fast path %v", full.Load(), c)
	}

	// Closed, it goes on; opened, it is taken over, and no packet notices.
	s4, s6 := w.stream("203.0.113.10:53", w.packets()), dialled{}
	s6.a, s6.b = connect("[2001:db8:f::10]:80")
	pause := func() { time.Sleep(10 * time.Millisecond) }
	for i := range 6 {
		must(t, f.Close())
		pause()
		if i == 0 {
			other := newNS(t, "g-t2")
			if _, err := other.OpenFast(spec); !errors.Is(err, netio.ErrFastInUse) {
				t.Errorf("pins of another namespace: %v", err)
			}
		}
		f = openFast(t, w.node, spec)
		if got := f.Attached(); !slices.Equal(got, []string{"c", "m"}) {
			t.Fatalf("adopted %v", got)
		}
		// Every second time with tables of another size.
		must(t, f.Sync(slices.Values(fastEntries)), f.Configure(fastSettings), f.Attach("c"), f.Attach("m"))
		pause()
		if i%2 == 1 {
			spec.MaxMappings += 10
		}
		transfer(t, s6.a, s6.b, 1<<20)
	}
	for range 4 {
		must(t, f.Detach("c"), f.Detach("m"), f.Detach("c"))
		w.filtered("c", false, true) // until Close
		w.filtered("m", false, true)
		if got := f.Attached(); len(got) != 0 {
			t.Errorf("attached to %v", got)
		}
		pause()
		must(t, f.Attach("c"), f.Attach("m"))
	}
	if lost, sent := s4.lost(); lost != 0 {
		t.Errorf("%d of %d datagrams lost", lost, sent)
	}
	must(t, f.Detach("c"), f.Close())
	w.filtered("c", false, false)
	w.filtered("m", true, true)
	f = openFast(t, w.node, spec)
	must(t, f.Attach("c"))
	// A filter that somebody has taken away is not attached, and comes back.
	w.tc("qdisc", "del", "dev", "c", "clsact")
	if got := f.Attached(); !slices.Equal(got, []string{"m"}) {
		t.Errorf("attached to %v", got)
	}
	must(t, f.Attach("c"))
	w.filtered("c", true, true)
	// Who comes to use our qdisc keeps it.
	w.tc("filter", "add", "dev", "c", "egress", "prio", "7", "bpf", "bytecode", never)
	must(t, f.Discard())
	w.filtered("c", false, true)
	w.filtered("m", false, true)
	// Our place may be taken.
	w.tc("filter", "add", "dev", "c", "ingress", "prio", "646", "handle", "0x646", "protocol", "all", "bpf", "bytecode", never)
	f = openFast(t, w.node, spec)
	if err := f.Attach("c"); !errors.Is(err, netio.ErrFastInUse) {
		t.Errorf("on a device whose filter 646 is not ours: %v", err)
	}
	must(t, f.Discard())
	if out := w.tc("filter", "show", "dev", "c", "ingress"); !strings.Contains(out, "bytecode") {
		t.Errorf("another's filter has gone: %s", out)
	}
}

type dialled struct{ a, b net.Conn }

// TestFastHookChange: from clsact to tcx, as after an upgrade of the kernel, and
// back, no packet is lost, and the one does not stay beside the other.
func TestFastHookChange(t *testing.T) {
	w := newFastWorld(t, "g-h")
	w.fullPath()
	dir := bpffs(t)
	// Without a qdisc of somebody else's, making ours and removing it would lose some.
	w.tc("qdisc", "add", "dev", "c", "clsact")
	w.tc("qdisc", "add", "dev", "m", "clsact")
	var f *netio.Fast
	var s *stream
	for i := range 6 {
		spec := netio.FastSpec{MaxMappings: 100, ForceClsact: i%2 == 0, PinDir: dir}
		f = openFast(t, w.node, spec)
		must(t, f.Sync(slices.Values(fastEntries)), f.Configure(fastSettings), f.Attach("c"), f.Attach("m"))
		if s == nil {
			s = w.stream("203.0.113.10:53", w.packets())
		}
		if want := map[bool]string{true: "clsact", false: "tcx"}[spec.ForceClsact]; f.Hook() != want || !slices.Equal(f.Attached(), []string{"c", "m"}) {
			t.Errorf("%s: attached to %v by %s", want, f.Attached(), f.Hook())
		}
		for _, dev := range []string{"c", "m"} {
			w.filtered(dev, spec.ForceClsact, true)
		}
		before := f.Counters()
		time.Sleep(20 * time.Millisecond)
		w.run(w.client, "ping", "-n", "-c", "1", "-W", "5", "203.0.113.10")
		if after := f.Counters(); after["4to6"].Packets == before["4to6"].Packets || after["6to4"].Packets == before["6to4"].Packets {
			t.Errorf("%s: nothing translated: %v", f.Hook(), after)
		}
		must(t, f.Close())
	}
	close(s.stop)
	seen := <-s.done
	for i := range s.sent.Load() {
		if !seen[i] {
			t.Errorf("datagram %d of %d lost", i, s.sent.Load())
		}
	}
	f = openFast(t, w.node, netio.FastSpec{MaxMappings: 100, PinDir: dir})
	must(t, f.Discard())
	w.filtered("c", false, true)
	w.filtered("m", false, true)
}

// TestFastClsactKilled: without pins, filters go with Close. Those of a process
// that is killed are replaced or go when the next fast path is attached, not when
// it is only looked at what the kernel can do.
func TestFastClsactKilled(t *testing.T) {
	spec := netio.FastSpec{MaxMappings: 100, ForceClsact: true}
	if name := os.Getenv("NETIO_CLSACT_NS"); name != "" {
		ns, err := netio.OpenNS(name)
		must(t, err)
		f, err := ns.OpenFast(spec)
		must(t, err, f.Configure(fastSettings), f.Set(fastEntries), f.Attach("c"), f.Attach("m"))
		os.Stdout.WriteString("ready\n")
		io.Copy(io.Discard, os.Stdin) // until the parent ends
		runtime.KeepAlive(f)          // a collection would close its lock
		return
	}
	w := newFastWorld(t, "g-k")
	for _, c := range []struct {
		name                  string
		next                  netio.FastSpec
		onC, onM              bool // a filter, when c is attached
		pinned, both, cleared bool
	}{
		{name: "clsact", next: spec, onC: true},
		{name: "tcx", next: netio.FastSpec{MaxMappings: 100}},
		{name: "pinned", next: spec, onC: true, onM: true, pinned: true, both: true},
		{name: "cleared", cleared: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.pinned {
				c.next.PinDir = bpffs(t)
			}
			cmd := exec.Command(os.Args[0], "-test.run=^TestFastClsactKilled$")
			cmd.Env = append(os.Environ(), "NETIO_CLSACT_NS="+w.node.Name())
			cmd.Stderr = os.Stderr
			in, err := cmd.StdinPipe() // kept: a collection would close it
			must(t, err)
			out, err := cmd.StdoutPipe()
			must(t, err, cmd.Start())
			t.Cleanup(func() { in.Close(); cmd.Process.Kill(); cmd.Wait() })
			if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "ready\n" {
				t.Fatalf("child: %q, %v", line, err)
			}
			look := openFast(t, w.node, spec)
			if err := look.Attach("c"); !errors.Is(err, netio.ErrFastInUse) {
				t.Errorf("beside a living one: %v", err)
			}
			if err := w.node.ClearFast(); !errors.Is(err, netio.ErrFastInUse) {
				t.Errorf("cleared beside a living one: %v", err)
			}
			must(t, look.Close(), cmd.Process.Kill())
			cmd.Wait()
			w.filtered("c", true, true)
			w.run(w.client, "ping", "-n", "-c", "1", "-W", "5", "203.0.113.10") // it goes on
			must(t, openFast(t, w.node, spec).Close())
			w.filtered("c", true, true)
			w.filtered("m", true, true)
			if c.cleared {
				must(t, w.node.ClearFast(), w.node.ClearFast())
				w.filtered("c", false, false)
				w.filtered("m", false, false)
				return
			}

			f := openFast(t, w.node, c.next)
			want := []string{"c"}
			if c.both {
				want = []string{"c", "m"}
				if got := f.Attached(); !slices.Equal(got, want) {
					t.Errorf("adopted %v", got)
				}
			}
			must(t, f.Configure(fastSettings), f.Sync(slices.Values(fastEntries)), f.Attach("c"))
			if got := f.Attached(); !slices.Equal(got, want) {
				t.Errorf("attached to %v", got)
			}
			w.filtered("c", c.onC || f.Hook() == "clsact", true) // also before Linux 6.6
			w.filtered("m", c.onM, true)
			must(t, f.Attach("m"))
			w.run(w.client, "ping", "-n", "-c", "1", "-W", "5", "203.0.113.10")
			if n := f.Counters(); n["4to6"].Packets == 0 || n["6to4"].Packets == 0 {
				t.Errorf("counted %v", n)
			}
			if c.pinned {
				must(t, f.Discard())
			}
			must(t, f.Close())
			w.filtered("c", false, false)
			w.filtered("m", false, false)
		})
	}
}
