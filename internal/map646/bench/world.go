package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"widecloud/internal/map646"
	"widecloud/internal/netio"
)

// Addresses; the same in all worlds.
var (
	clientV4   = netip.MustParseAddr("198.51.100.7")
	clientV6   = netip.MustParseAddr("2001:db8:c::7")
	serverV4   = netip.MustParseAddr("192.0.2.10")
	serverV6   = netip.MustParseAddr("2001:db8:a::10")
	serviceV4  = netip.MustParseAddr("203.0.113.10")
	serviceV6  = netip.MustParseAddr("2001:db8:f::10")
	clientPref = netip.MustParseAddr("2001:db8:64::c633:6407") // clientV4 under pref64
	// The big table: 10.0.0.0 + i stands for 2001:db8:a:1:: + i. The first 256 are
	// left out, since the network's own address is among them.
	manyV4 = netip.MustParseAddr("10.0.1.0")
	manyV6 = netip.MustParseAddr("2001:db8:a:1::100")
	// One mapping that says the same.
	prefixV4 = netip.MustParsePrefix("10.0.0.0/12")
	prefixV6 = netip.MustParsePrefix("2001:db8:a:1::/108")
)

// many is how many mappings the big table has.
const many = 1_000_000

// worldSpec says what a world is for.
type worldSpec struct {
	Path string // ipv4, ipv6, fast, …
	// Table is how many mappings of the big table the translator has, and no others;
	// 0: one mapping, of the server's own address.
	Table int
	// Prefix: one mapping takes the place of the big table's.
	Prefix bool
	// MTU: frames of MTU size from both ends (no segmentation offload), GRO on at the
	// translator's devices.
	MTU bool
	// Metrics are listened for.
	Metrics bool
}

func (s worldSpec) name() string {
	switch {
	case s.Prefix:
		return s.Path + "-prefix"
	case s.MTU:
		return s.Path + "-mtu"
	case s.Table > 0:
		return s.Path + "-table" + strconv.Itoa(s.Table)
	}
	return s.Path
}

// sixes is whether the translator is one between IPv6 and IPv6.
func (s worldSpec) sixes() bool { return strings.HasSuffix(s.Path, "66") }

// fast is whether it has its fast path, stack whether the kernel's stack sends on
// what that translates.
func (s worldSpec) fast() bool  { return strings.HasPrefix(s.Path, "fast") || s.stack() }
func (s worldSpec) stack() bool { return strings.HasPrefix(s.Path, "stack") }

// slow is whether it takes seconds to make.
func (s worldSpec) slow() bool { return s.Table > 1 && !s.Prefix }

// target is where the client sends to, to reach the server.
func (s worldSpec) target() netip.Addr {
	switch {
	case s.Path == "ipv4":
		return serverV4
	case s.Path == base || s.Path == "tun":
		return serverV6
	case s.sixes():
		return serviceV6
	case s.Table > 0:
		return manyV4
	}
	return serviceV4
}

// back is where the server sends to, to reach the client.
func (s worldSpec) back() netip.Addr {
	switch {
	case s.Path == "ipv4":
		return clientV4
	case s.Path == base || s.Path == "tun" || s.sixes():
		return clientV6
	}
	return clientPref
}

// world is a client, a translator and a server in three namespaces, with the
// processes in them.
type world struct {
	spec   worldSpec
	names  []string
	ns     map[string]*netio.NS // "c", "t", "s"
	meter  *meter
	cgroup *os.File
	dir    string
	client *peer
	server *peer
	web    *peer
	daemon *process
	// ready is how long the translator took from its start until it translated.
	ready time.Duration
	// translated counts the packets that came through the translator; nil if plain.
	control string
	log     *bytes.Buffer
}

// process is a child with its end.
type process struct {
	cmd  *exec.Cmd
	done chan struct{}
	err  error
}

func (p *process) stop(sig os.Signal, patience time.Duration) error {
	if p == nil {
		return nil
	}
	p.cmd.Process.Signal(sig)
	select {
	case <-p.done:
		return nil
	case <-time.After(patience):
		p.cmd.Process.Kill()
		<-p.done
		return fmt.Errorf("%s did not end within %v of %v", filepath.Base(p.cmd.Path), patience, sig)
	}
}

// peer is an end that takes orders.
type peer struct {
	*process
	in  io.WriteCloser
	out *json.Decoder
}

func (p *peer) do(o order) (answer, error) {
	var a answer
	if err := json.NewEncoder(p.in).Encode(o); err != nil {
		return a, err
	}
	if err := p.out.Decode(&a); err != nil {
		return a, fmt.Errorf("%s: %w", o.Op, err)
	}
	if a.Error != "" {
		return a, errors.New(a.Error)
	}
	return a, nil
}

// start runs a command inside a namespace and the world's cgroup, out of reach of
// the terminal's Ctrl-C.
func (w *world) start(ns string, cmd *exec.Cmd) (*process, error) {
	cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(w.cgroup.Fd()), Setpgid: true}
	if cmd.Stderr == nil {
		cmd.Stderr = w.log
	}
	if err := w.ns[ns].Do(cmd.Start); err != nil {
		return nil, fmt.Errorf("start %s: %w", filepath.Base(cmd.Path), err)
	}
	p := &process{cmd: cmd, done: make(chan struct{})}
	go func() {
		p.err = cmd.Wait()
		close(p.done)
	}()
	return p, nil
}

// run runs a command to its end inside a namespace, outside of the cgroup.
func (w *world) run(ctx context.Context, ns, stdin, name string, arg ...string) (string, error) {
	var out bytes.Buffer
	cmd := exec.CommandContext(ctx, name, arg...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &out, &out
	if err := w.ns[ns].Do(cmd.Start); err != nil {
		return "", fmt.Errorf("start %s: %w", name, err)
	}
	if err := cmd.Wait(); err != nil {
		return out.String(), fmt.Errorf("%s %s: %w\n%s", name, strings.Join(arg, " "), err, out.String())
	}
	return out.String(), nil
}

func (w *world) startPeer(ns, role string, cpu int) (*peer, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(self, "-role", role, "-cpu", fmt.Sprint(cpu))
	// A loop that runs for long is not to be interrupted, see runEnd.
	cmd.Env = append(os.Environ(), "GODEBUG=asyncpreemptoff=1")
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	p, err := w.start(ns, cmd)
	if err != nil {
		return nil, err
	}
	return &peer{p, in, json.NewDecoder(bufio.NewReader(out))}, nil
}

// newWorld makes a world and waits until packets come through. On an error
// nothing is left of it.
func newWorld(ctx context.Context, spec worldSpec, run, binary string, queues int) (w *world, err error) {
	w = &world{spec: spec, ns: map[string]*netio.NS{}, log: &bytes.Buffer{}}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("%s: %w\n%s", spec.name(), err, w.log), w.close())
			w = nil
		}
	}()
	if w.dir, err = os.MkdirTemp("", "map646-bench-"); err != nil {
		return w, err
	}
	if w.meter, err = newMeter(run + "-" + spec.name()); err != nil {
		return w, err
	}
	if w.cgroup, err = os.Open(w.meter.dir); err != nil {
		return w, err
	}
	for _, n := range []string{"c", "t", "s"} {
		full := run + "-" + spec.name() + "-" + n
		if w.ns[n], err = netio.CreateNS(full); err != nil {
			return w, err
		}
		w.names = append(w.names, full)
	}
	if err := w.wire(ctx); err != nil {
		return w, err
	}
	server, client := cpus()
	if w.client, err = w.startPeer("c", "end", client); err != nil {
		return w, err
	}
	if w.server, err = w.startPeer("s", "end", server); err != nil {
		return w, err
	}
	if w.web, err = w.startPeer("s", "web", server); err != nil {
		return w, err
	}
	for _, p := range []*peer{w.client, w.server} {
		if _, err := p.do(order{Op: "listen"}); err != nil {
			return w, err
		}
	}
	started := time.Now()
	if err := w.translate(ctx, binary, queues); err != nil {
		return w, err
	}
	return w, w.await(ctx, started)
}

// wire lays the cables: a world is a line.
func (w *world) wire(ctx context.Context) error {
	for _, n := range []string{"c", "t", "s"} {
		for _, s := range [][2]string{
			{"net/ipv6/conf/default/accept_dad", "0"},
			{"net/ipv4/conf/all/rp_filter", "0"}, {"net/ipv4/conf/default/rp_filter", "0"},
			{"net/ipv6/ip_nonlocal_bind", "1"}, {"net/ipv4/ip_local_port_range", "10000 65000"},
			// What a connection has learnt about the path must not help the next one.
			{"net/ipv4/tcp_no_metrics_save", "1"},
			// A stream's slices go on where the one before has ended.
			{"net/ipv4/tcp_slow_start_after_idle", "0"},
		} {
			if err := w.ns[n].Sysctl(s[0], s[1]); err != nil {
				return err
			}
		}
	}
	if err := w.ns["t"].SetForwarding(true); err != nil {
		return err
	}
	for _, c := range []struct {
		ns          string
		mac, macOut string
		outer       []string
		own         []string
	}{
		{"c", "02:00:00:00:0c:01", "02:00:00:00:0c:02", []string{"198.51.100.7/24", "2001:db8:c::7/64"}, []string{"198.51.100.1/24", "2001:db8:c::1/64"}},
		{"s", "02:00:00:00:0a:01", "02:00:00:00:0a:02", []string{"192.0.2.10/24", "2001:db8:a::10/64"}, []string{"192.0.2.1/24", "2001:db8:a::1/64"}},
	} {
		if err := w.ns["t"].AddVeth(netio.VethSpec{Name: c.ns, PeerName: "t", Peer: w.ns[c.ns]}); err != nil {
			return err
		}
		for _, e := range []struct {
			ns, dev string
			addrs   []string
		}{{c.ns, "t", c.outer}, {"t", c.ns, c.own}} {
			for _, a := range e.addrs {
				if err := w.ns[e.ns].AddAddr(e.dev, netip.MustParsePrefix(a)); err != nil {
					return err
				}
			}
			if err := w.ns[e.ns].SetUp(e.dev); err != nil {
				return err
			}
		}
		gateway4, gateway6 := netip.MustParsePrefix(c.own[0]).Addr(), netip.MustParsePrefix(c.own[1]).Addr()
		for _, r := range []netio.Route{
			{Dst: netip.MustParsePrefix("0.0.0.0/0"), Gateway: gateway4}, {Dst: netip.MustParsePrefix("::/0"), Gateway: gateway6},
		} {
			if err := w.ns[c.ns].AddRoute(r); err != nil {
				return err
			}
		}
	}
	// The server answers to the whole range that the big table leads to.
	if err := w.ns["t"].AddRoute(netio.Route{Dst: netip.MustParsePrefix("2001:db8:a:1::/64"), Gateway: serverV6}); err != nil {
		return err
	}
	if _, err := w.run(ctx, "s", "", "ip", "-6", "route", "add", "local", "2001:db8:a:1::/64", "dev", "lo"); err != nil {
		return err
	}
	if !w.spec.MTU {
		return nil
	}
	for _, e := range [][]string{{"c", "t", "tso", "off", "gso", "off"}, {"s", "t", "tso", "off", "gso", "off"}, {"t", "c", "gro", "on"}, {"t", "s", "gro", "on"}} {
		if _, err := w.run(ctx, e[0], "", "ethtool", append([]string{"-K"}, e[1:]...)...); err != nil {
			return err
		}
	}
	return nil
}

// cpus are the CPUs of server and client; -1: any.
func cpus() (server, client int) {
	if numCPU() < 2 {
		return -1, -1
	}
	return 1, 0
}

// await waits until packets come through, and the translator answers questions, which
// may be later.
func (w *world) await(ctx context.Context, started time.Time) error {
	for {
		if w.daemon != nil {
			select {
			case <-w.daemon.done:
				return fmt.Errorf("the translator has ended: %w", w.daemon.err)
			default:
			}
		}
		err := w.answers()
		if err == nil && w.ready == 0 {
			w.ready = time.Since(started)
		}
		if err == nil && w.control != "" {
			err = map646.Control(ctx, w.control, "stats", new(map646.Stats))
		}
		if err == nil {
			return nil
		}
		if time.Since(started) > 60*time.Second {
			return fmt.Errorf("nothing comes through: %w", err)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// answers asks for an echo; with a big table, whose addresses are the server's
// only to receive, it sends to the first and to the last of them.
func (w *world) answers() error {
	if n := w.spec.Table; n > 0 {
		if err := w.reach(manyV4); err != nil {
			return err
		}
		return w.reach(offset(manyV4, n-1))
	}
	_, err := w.client.do(order{Op: "pingpong", To: netip.AddrPortFrom(w.spec.target(), portEcho), Packets: 1, Size: payload, Seconds: .05})
	return err
}

// reach sends packets to an address and wants them at the sink.
func (w *world) reach(a netip.Addr) error {
	if _, err := w.server.do(order{Op: "count"}); err != nil {
		return err
	}
	sent, err := w.client.do(order{Op: "udp", To: netip.AddrPortFrom(a, portUDP), Size: payload, Rate: 100, Seconds: .02})
	if err != nil {
		return err
	}
	time.Sleep(20 * time.Millisecond)
	got, err := w.server.do(order{Op: "count"})
	if err == nil && got.Packets != sent.Packets {
		err = fmt.Errorf("%d of %d packets to %v arrived", got.Packets, sent.Packets, a)
	}
	return err
}

// connect opens the streams of a load.
func (w *world) connect(load string) error {
	o := order{To: netip.AddrPortFrom(w.spec.target(), 0), Streams: 1}
	if load == "tcp4" {
		o.Streams = 4
	}
	for _, end := range []struct {
		op   string
		peer *peer
	}{{"connect", w.client}, {"accept", w.server}} {
		o.Op = end.op
		if _, err := end.peer.do(o); err != nil {
			return err
		}
	}
	return nil
}

func (w *world) hangUp() {
	for _, p := range []*peer{w.client, w.server} {
		p.do(order{Op: "hangup"})
	}
}

// slice has the open streams carry traffic for some seconds from the client to the
// server, or from the server to the client. The work is done when it returns.
func (w *world) slice(reverse bool, seconds float64) (answer, error) {
	from, to := w.client, w.server
	if reverse {
		from, to = to, from
	}
	type result struct {
		answer
		err error
	}
	pulled := make(chan result, 1)
	go func() {
		a, err := to.do(order{Op: "pull", Seconds: seconds})
		pulled <- result{a, err}
	}()
	sent, err := from.do(order{Op: "push", Seconds: seconds})
	got := <-pulled
	if err := errors.Join(err, got.err); err != nil {
		return answer{}, err
	}
	if sent.Bytes != got.Bytes {
		return answer{}, fmt.Errorf("%d bytes sent, %d received", sent.Bytes, got.Bytes)
	}
	return got.answer, nil
}

// close takes everything down; errors are about what could not be.
func (w *world) close() error {
	var errs []error
	if w.daemon != nil {
		errs = append(errs, w.daemon.stop(syscall.SIGTERM, 15*time.Second))
	}
	for _, p := range []*peer{w.client, w.server, w.web} {
		if p != nil {
			p.in.Close()
			errs = append(errs, p.stop(syscall.SIGKILL, 5*time.Second))
		}
	}
	if w.cgroup != nil {
		errs = append(errs, w.cgroup.Close())
	}
	if w.meter != nil {
		errs = append(errs, w.meter.close())
	}
	for _, ns := range w.ns {
		if ns != nil {
			errs = append(errs, ns.Close())
		}
	}
	for _, n := range w.names {
		errs = append(errs, netio.DeleteNS(n))
	}
	if w.dir != "" {
		errs = append(errs, os.RemoveAll(w.dir))
	}
	return errors.Join(errs...)
}
