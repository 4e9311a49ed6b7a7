package netio_test

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"io"
	"io/fs"
	"maps"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"widecloud/internal/netio"
	"widecloud/internal/packet/siit"
)

// bpffs mounts a bpffs of the test's own and returns a directory on it.
func bpffs(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "bpf")
	must(t, os.Mkdir(dir, 0o755), unix.Mount("bpf", dir, "bpf", 0, ""))
	t.Cleanup(func() { must(t, unix.Unmount(dir, unix.MNT_DETACH)) })
	return filepath.Join(dir, "map646")
}

func entry(id uint32, outside, inside string) netio.FastEntry {
	return netio.FastEntry{ID: id, Outside: netip.MustParsePrefix(outside), Inside: netip.MustParsePrefix(inside)}
}

var (
	fastSettings = netio.FastSettings{
		Pref64: netip.MustParsePrefix("2001:db8:64::/96"), Hops: 2, AllowPrivate: true,
		Inside: []netip.Prefix{netip.MustParsePrefix("2001:db8:a::/64"), netip.MustParsePrefix("2001:db8:c::1/128")},
	}
	fastEntries = []netio.FastEntry{entry(0, "203.0.113.10/32", "2001:db8:a::10/128"), entry(1, "2001:db8:f::10/128", "2001:db8:a::10/128")}
)

func openFast(t *testing.T, ns *netio.NS, s netio.FastSpec) *netio.Fast {
	t.Helper()
	f, err := ns.OpenFast(s)
	must(t, err)
	t.Cleanup(func() { f.Discard() })
	return f
}

// fastWorld is a client, a node and a machine behind it.
type fastWorld struct {
	t                     *testing.T
	client, node, machine *netio.NS
}

func newFastWorld(t *testing.T, name string) *fastWorld {
	t.Helper()
	w := &fastWorld{t, newNS(t, name+"-c"), newNS(t, name+"-n"), newNS(t, name+"-m")}
	prefix, addr := netip.MustParsePrefix, netip.MustParseAddr
	for _, ns := range []*netio.NS{w.client, w.node, w.machine} {
		must(t, ns.Sysctl("net/ipv6/conf/default/accept_dad", "0"))
	}
	must(t, w.node.SetForwarding(true), w.node.Sysctl("net/ipv4/conf/all/rp_filter", "0"), w.node.Sysctl("net/ipv4/conf/default/rp_filter", "0"),
		w.client.AddVeth(netio.VethSpec{Name: "r", PeerName: "c", Peer: w.node}), w.machine.AddVeth(netio.VethSpec{Name: "r", PeerName: "m", Peer: w.node}),
		w.node.AddAddr("c", prefix("198.51.100.1/24")), w.node.AddAddr("c", prefix("2001:db8:c::1/64")), w.node.AddAddr("m", prefix("2001:db8:a::1/64")),
		w.client.AddAddr("r", prefix("198.51.100.7/24")), w.client.AddAddr("r", prefix("2001:db8:c::7/64")), w.machine.AddAddr("r", prefix("2001:db8:a::10/64")),
		w.node.SetUp("c"), w.node.SetUp("m"), w.client.SetUp("r"), w.machine.SetUp("r"),
		w.client.AddRoute(netio.Route{Dst: prefix("0.0.0.0/0"), Gateway: addr("198.51.100.1")}),
		w.client.AddRoute(netio.Route{Dst: prefix("::/0"), Gateway: addr("2001:db8:c::1")}),
		w.machine.AddRoute(netio.Route{Dst: prefix("::/0"), Gateway: addr("2001:db8:a::1")}))
	return w
}

// fullPath translates on a TUN of the node's what comes there. It counts.
func (w *fastWorld) fullPath() *atomic.Int64 {
	w.t.Helper()
	p := netip.MustParsePrefix
	tab, err := siit.NewTable(siit.Spec{
		Pref64: fastSettings.Pref64, Mappings: []siit.Mapping{{V4: fastEntries[0].Outside, V6: fastEntries[0].Inside}},
		Mappings66: []siit.Mapping66{{Service: fastEntries[1].Outside, Inside: fastEntries[1].Inside}},
		Inside:     []netip.Prefix{p("2001:db8:a::/64")}, Private: siit.PrivateAllow,
	})
	must(w.t, err)
	tun, err := w.node.OpenTUN(netio.TUNSpec{Name: "full", Offload: true})
	must(w.t, err, w.node.Sysctl("net/ipv4/conf/full/rp_filter", "0"))
	w.t.Cleanup(func() { must(w.t, tun.Close()) })
	must(w.t, w.node.SyncLinkPolicy(netio.LinkPolicy{
		Link: "full", Protocol: 246, Table: 647, Priority: 640,
		Routes:  []netip.Prefix{p("203.0.113.0/24"), p("2001:db8:64::/96"), p("2001:db8:f::/64")},
		Sources: []netip.Prefix{fastEntries[1].Inside}, Except: []netip.Prefix{p("2001:db8:a::/64"), p("2001:db8:c::1/128")},
	}))
	n := new(atomic.Int64)
	go func() {
		q := tun.Queues()[0]
		buf := make([]byte, siit.Headroom+70000)
		for {
			len, h, err := q.Read(buf, siit.Headroom)
			if err != nil {
				return
			}
			pkt := siit.Packet{Buf: buf, Off: siit.Headroom, Len: len, Offload: siit.Offload(h)}
			if v := tab.Translate(&pkt); v.Action == siit.Send {
				n.Add(1)
				q.Write(buf, pkt.Off, pkt.Len, netio.VNetHeader(pkt.Offload))
			}
		}
	}()
	return n
}

func (w *fastWorld) run(ns *netio.NS, name string, arg ...string) {
	w.t.Helper()
	var out []byte
	if err := ns.Do(func() (err error) {
		out, err = exec.Command(name, arg...).CombinedOutput()
		return err
	}); err != nil {
		w.t.Fatalf("%s %v: %v\n%s", name, arg, err, out)
	}
}

func listen(t *testing.T, ns *netio.NS, addr string) net.Listener {
	t.Helper()
	var l net.Listener
	must(t, ns.Do(func() (err error) {
		l, err = net.Listen("tcp", addr)
		return err
	}))
	t.Cleanup(func() { l.Close() })
	return l
}

func dial(t *testing.T, ns *netio.NS, network, addr string) net.Conn {
	t.Helper()
	var c net.Conn
	must(t, ns.Do(func() (err error) {
		c, err = net.DialTimeout(network, addr, 10*time.Second)
		return err
	}))
	t.Cleanup(func() { c.Close() })
	return c
}

// transfer sends so many bytes over a connection and compares what arrives.
func transfer(t *testing.T, from, to net.Conn, size int64) {
	t.Helper()
	must(t, tryTransfer(from, to, size))
}

func tryTransfer(from, to net.Conn, size int64) error {
	sent, got := sha256.New(), sha256.New()
	done := make(chan error, 1)
	go func() {
		block := bytes.Repeat([]byte("widecloud"), 8000)
		_, err := io.CopyN(io.MultiWriter(from, sent), repeat{block}, size)
		done <- err
	}()
	to.SetReadDeadline(time.Now().Add(30 * time.Second))
	if _, err := io.CopyN(got, to, size); err != nil {
		return err
	}
	if err := <-done; err != nil {
		return err
	}
	if !bytes.Equal(sent.Sum(nil), got.Sum(nil)) {
		return errors.New("other bytes arrived than were sent")
	}
	return nil
}

type repeat struct{ block []byte }

func (r repeat) Read(b []byte) (int, error) { return copy(b, r.block), nil }

// forwarded is how many packets the namespace's stack has forwarded.
func forwarded(t *testing.T, ns *netio.NS) (n uint64) {
	t.Helper()
	must(t, ns.Do(func() error {
		four, err := os.ReadFile("/proc/thread-self/net/snmp")
		if err != nil {
			return err
		}
		six, err := os.ReadFile("/proc/thread-self/net/snmp6")
		if err != nil {
			return err
		}
		// The sixth of the numbers behind the second "Ip:" (proc_net_snmp(5)).
		number := func(s string) {
			v, parseErr := strconv.ParseUint(s, 10, 64)
			err = errors.Join(err, parseErr)
			n += v
		}
		number(strings.Fields(strings.Split(string(four), "\nIp: ")[1])[5])
		for line := range strings.Lines(string(six)) {
			if v, ok := strings.CutPrefix(line, "Ip6OutForwDatagrams"); ok {
				number(strings.TrimSpace(v))
			}
		}
		return err
	}))
	return n
}

// TestFastTraffic: all that is ordinary goes through the kernel alone, both ways,
// and super-packets stay whole.
func TestFastTraffic(t *testing.T) {
	for name, c := range map[string]struct{ direct, clsact bool }{"stack": {}, "direct": {direct: true}, "direct by clsact": {true, true}} {
		t.Run(name, func(t *testing.T) { testFastTraffic(t, c.direct, c.clsact) })
	}
}

func testFastTraffic(t *testing.T, direct, clsact bool) {
	w := newFastWorld(t, "ft")
	f := openFast(t, w.node, netio.FastSpec{MaxMappings: 100, ForceClsact: clsact})
	s := fastSettings
	s.Direct = direct
	must(t, f.Configure(s), f.Set(fastEntries), f.Attach("c"), f.Attach("m"), f.Attach("c"))
	if got := f.Attached(); !slices.Equal(got, []string{"c", "m"}) {
		t.Errorf("attached to %v", got)
	}
	l := listen(t, w.machine, "[::]:80")
	lc := listen(t, w.client, "[::]:81")
	for _, c := range []struct {
		from, to  *netio.NS
		l         net.Listener
		addr      string
		there, in string
	}{
		{w.client, w.machine, l, "203.0.113.10:80", "4to6", "[2001:db8:64::c633:6407]"},
		{w.client, w.machine, l, "[2001:db8:f::10]:80", "6to6", "[2001:db8:c::7]"},
		{w.machine, w.client, lc, "[2001:db8:64::198.51.100.7]:81", "6to4", "203.0.113.10"},
		{w.machine, w.client, lc, "[2001:db8:c::7]:81", "6to6", "[2001:db8:f::10]"},
	} {
		a := dial(t, c.from, "tcp", c.addr)
		b, err := c.l.Accept()
		must(t, err)
		if got := b.RemoteAddr().String(); !strings.HasPrefix(got, c.in+":") {
			t.Errorf("%s: the other end sees %s, not %s", c.addr, got, c.in)
		}
		before := f.Counters()
		transfer(t, a, b, 16<<20)
		after := f.Counters()
		n := netio.FastCount{Packets: after[c.there].Packets - before[c.there].Packets, Bytes: after[c.there].Bytes - before[c.there].Bytes}
		if n.Bytes < 16<<20 || n.Bytes/n.Packets < 4000 {
			t.Errorf("%s: %d bytes in %d packets: super-packets were cut", c.addr, n.Bytes, n.Packets)
		}
		t.Logf("%s: %d bytes a packet", c.addr, n.Bytes/n.Packets)
		transfer(t, b, a, 1<<20)
		must(t, a.Close(), b.Close())
	}
	// UDP, also such that has its checksum completed by nobody.
	var pc net.PacketConn
	must(t, w.machine.Do(func() (err error) {
		pc, err = net.ListenPacket("udp", "[::]:53")
		return err
	}))
	defer pc.Close()
	go func() {
		buf := make([]byte, 2000)
		for {
			n, from, err := pc.ReadFrom(buf)
			if err != nil {
				return
			}
			pc.WriteTo(buf[:n], from)
		}
	}()
	for _, addr := range []string{"203.0.113.10:53", "[2001:db8:f::10]:53"} {
		c := dial(t, w.client, "udp", addr)
		buf := make([]byte, 2000)
		for _, size := range []int{0, 1, 2, 64, 1400} {
			c.SetDeadline(time.Now().Add(10 * time.Second))
			if _, err := c.Write(make([]byte, size)); err != nil {
				t.Fatal(err)
			}
			if n, err := c.Read(buf); err != nil || n != size {
				t.Fatalf("%s: %d of %d bytes, %v", addr, n, size, err)
			}
		}
	}
	before := forwarded(t, w.node)
	w.run(w.client, "ping", "-n", "-c", "2", "-i", "0.05", "-W", "5", "203.0.113.10")
	if n, want := forwarded(t, w.node)-before, map[bool]uint64{false: 4, true: 0}[direct]; n != want {
		t.Errorf("the stack forwarded %d packets of two echoes and answers, want %d", n, want)
	}
	w.run(w.client, "ping", "-n", "-c", "2", "-i", "0.05", "-W", "5", "-s", "1000", "2001:db8:f::10")
	w.run(w.machine, "ping", "-n", "-c", "2", "-i", "0.05", "-W", "5", "2001:db8:64::198.51.100.7")
	// The node's own addresses are not translated, not even from a mapped machine.
	w.run(w.machine, "ping", "-n", "-c", "1", "-W", "5", "2001:db8:c::1")
	w.run(w.machine, "ping", "-n", "-c", "1", "-W", "5", "2001:db8:a::1")

	c := f.Counters()
	for _, bad := range []string{"pass_torn", "pass_failed", "drop_failed", "pass_malformed", "pass_checksum", "pass_gso"} {
		if c[bad].Packets != 0 {
			t.Errorf("%s: %d packets", bad, c[bad].Packets)
		}
	}
	in0, out0 := f.MappingCounters(0)
	in1, out1 := f.MappingCounters(1)
	if in0.Packets == 0 || in0.Packets != c["4to6"].Packets || out0.Packets != c["6to4"].Packets || in1.Packets+out1.Packets != c["6to6"].Packets || in1.Packets == 0 || out1.Packets == 0 {
		t.Errorf("mappings counted %v %v and %v %v, outcomes %v", in0, out0, in1, out1, c)
	}
	// Frames of a VLAN and frames for others are left alone.
	node, err := w.node.Link("c")
	must(t, err)
	client, err := w.client.Link("r")
	must(t, err)
	ip := []byte{0x45, 0, 0, 28, 0, 0, 0x40, 0, 64, 17, 0, 0, 198, 51, 100, 7, 203, 0, 113, 10, 0, 1, 0, 2, 0, 8, 1, 1}
	binary.BigEndian.PutUint16(ip[10:], ^sum16(ip[:20]))
	other := append([]byte{2}, node.MAC[1:]...)
	other[5]++
	for _, c := range []struct {
		what string
		dst  []byte
		tag  []byte
		want uint64
	}{{"tagged", node.MAC, []byte{0x81, 0, 0, 7}, 0}, {"priority tag", node.MAC, []byte{0x81, 0, 0x20, 0}, 0}, {"for another", other, nil, 0}, {"plain", node.MAC, nil, 1}} {
		frame := slices.Concat(c.dst, client.MAC, c.tag, []byte{8, 0}, ip)
		before := f.Counters()["4to6"].Packets
		must(t, w.client.Do(func() error {
			fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
			if err != nil {
				return err
			}
			defer unix.Close(fd)
			return unix.Sendto(fd, frame, 0, &unix.SockaddrLinklayer{Ifindex: client.Index})
		}))
		w.run(w.client, "ping", "-n", "-c", "1", "-W", "5", "198.51.100.1") // comes behind it
		if got := f.Counters()["4to6"].Packets - before; got != c.want {
			t.Errorf("%s: %d packets translated, want %d", c.what, got, c.want)
		}
	}

	must(t, f.Detach("c"), f.Detach("c"))
	if got := f.Attached(); !slices.Equal(got, []string{"m"}) {
		t.Errorf("attached to %v", got)
	}
}

// stream is paced datagrams both ways that know their numbers: what is lost is
// seen.
type stream struct {
	stop chan struct{}
	done chan map[uint32]bool
	sent atomic.Uint32
}

func (w *fastWorld) stream(addr string, pc net.PacketConn) *stream {
	s := &stream{stop: make(chan struct{}), done: make(chan map[uint32]bool, 1)}
	counted := make(chan struct{}) // sent has its last value
	c := dial(w.t, w.client, "udp", addr)
	go func() {
		buf := make([]byte, 100)
		for {
			n, from, err := pc.ReadFrom(buf)
			if err != nil {
				return
			}
			pc.WriteTo(buf[:n], from)
		}
	}()
	go func() {
		seen := map[uint32]bool{}
		buf := make([]byte, 100)
		for {
			n, err := c.Read(buf)
			if err != nil {
				s.done <- seen
				return
			}
			if n == 4 {
				seen[binary.BigEndian.Uint32(buf)] = true
			}
			select {
			case <-counted:
				if uint32(len(seen)) == s.sent.Load() {
					s.done <- seen
					return
				}
			default:
			}
		}
	}()
	go func() {
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-s.stop:
				// One more, so that the reader looks again.
				c.SetReadDeadline(time.Now().Add(3 * time.Second))
				last := s.sent.Add(1) - 1
				close(counted)
				c.Write(binary.BigEndian.AppendUint32(nil, last))
				return
			case <-tick.C:
				c.Write(binary.BigEndian.AppendUint32(nil, s.sent.Add(1)-1))
			}
		}
	}()
	return s
}

func (s *stream) lost() (lost, sent int) {
	close(s.stop)
	seen := <-s.done
	return int(s.sent.Load()) - len(seen), int(s.sent.Load())
}

// TestFastHandover: attaching, detaching, closing, adopting and replacing the
// tables loses no packet, with the full path behind, and breaks no TCP stream.
func TestFastHandover(t *testing.T) {
	w := newFastWorld(t, "fh")
	full := w.fullPath()
	dir := bpffs(t)
	spec := netio.FastSpec{PinDir: dir, MaxMappings: 100, MaxPrefixes: 4}
	f := openFast(t, w.node, spec)
	must(t, f.Configure(fastSettings), f.Set(fastEntries))

	var pc net.PacketConn
	must(t, w.machine.Do(func() (err error) {
		pc, err = net.ListenPacket("udp", "[::]:53")
		return err
	}))
	defer pc.Close()
	l := listen(t, w.machine, "[::]:80")
	a := dial(t, w.client, "tcp", "203.0.113.10:80")
	b, err := l.Accept()
	must(t, err)
	const size = 64 << 20
	done := make(chan error, 1)
	go func() {
		var err error
		for i := 0; i < 8 && err == nil; i++ {
			err = tryTransfer(a, b, size/8)
			time.Sleep(50 * time.Millisecond)
		}
		done <- err
	}()
	s4, s6 := w.stream("203.0.113.10:53", pc), w.stream("[2001:db8:f::10]:53", pc)
	pause := func() { time.Sleep(20 * time.Millisecond) }
	for range 8 {
		must(t, f.Attach("c"), f.Attach("m"))
		pause()
		must(t, f.Detach("m"), f.Detach("c"))
		pause()
	}
	must(t, f.Attach("c"), f.Attach("m"))
	for i := range 4 {
		must(t, f.Close())
		pause()
		f = openFast(t, w.node, spec)
		if got := f.Attached(); !slices.Equal(got, []string{"c", "m"}) {
			t.Errorf("adopted %v", got)
		}
		// Every second time the adopted tables stay, else new ones of another size
		// take their place.
		must(t, f.Sync(slices.Values(fastEntries)), f.Configure(fastSettings))
		pause()
		if i%2 == 1 {
			spec.MaxMappings += 10
		}
	}
	// Others come, change and go while packets flow.
	var others []netio.FastEntry
	for i := range byte(90) {
		p := netip.PrefixFrom(netip.AddrFrom4([4]byte{203, 0, 113, 100 + i}), 32)
		others = append(others, netio.FastEntry{ID: uint32(i) + 2, Outside: p, Inside: netip.PrefixFrom(netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, 0, 9, 15: i}), 128)})
	}
	for i := range 500 {
		must(t, f.Set(others), f.Set(fastEntries), f.Remove(others[i%50:]))
		if i%25 == 0 {
			must(t, f.Configure(fastSettings))
		}
	}
	must(t, <-done)
	for name, s := range map[string]*stream{"IPv4": s4, "1:1": s6} {
		if lost, sent := s.lost(); lost != 0 {
			t.Errorf("%s: %d of %d datagrams lost", name, lost, sent)
		} else {
			t.Logf("%s: %d datagrams", name, sent)
		}
	}
	c := f.Counters()
	if full.Load() == 0 || c["4to6"].Packets == 0 || c["6to4"].Packets == 0 || c["6to6"].Packets == 0 {
		t.Errorf("full path %d, fast path %v: one of them was not used", full.Load(), c)
	}
	must(t, f.Discard())
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the pins' directory after Discard: %v", err)
	}
}

// TestFastKilled: a process that is killed leaves its fast path at work, and the
// next one takes it over with its counters.
func TestFastKilled(t *testing.T) {
	if dir := os.Getenv("NETIO_FAST_CHILD"); dir != "" {
		ns, err := netio.OpenNS(os.Getenv("NETIO_FAST_NS"))
		must(t, err)
		f, err := ns.OpenFast(netio.FastSpec{PinDir: dir, MaxMappings: 100})
		must(t, err, f.Configure(fastSettings), f.Set(fastEntries), f.Attach("c"), f.Attach("m"))
		os.Stdout.WriteString("ready\n")
		select {}
	}
	w := newFastWorld(t, "fk")
	dir := bpffs(t)
	cmd := exec.Command(os.Args[0], "-test.run=^TestFastKilled$")
	cmd.Env = append(os.Environ(), "NETIO_FAST_CHILD="+dir, "NETIO_FAST_NS="+w.node.Name())
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	must(t, err, cmd.Start())
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil || line != "ready\n" {
		t.Fatalf("child: %q, %v", line, err)
	}
	l := listen(t, w.machine, "[::]:80")
	a := dial(t, w.client, "tcp", "203.0.113.10:80")
	b, err := l.Accept()
	must(t, err)
	if _, err := w.node.OpenFast(netio.FastSpec{PinDir: dir, MaxMappings: 100}); !errors.Is(err, netio.ErrFastInUse) {
		t.Errorf("a second process: %v", err)
	}
	transfer(t, a, b, 1<<20)
	must(t, cmd.Process.Kill())
	cmd.Wait()
	transfer(t, b, a, 1<<20)
	f := openFast(t, w.node, netio.FastSpec{PinDir: dir, MaxMappings: 100})
	in, _ := f.MappingCounters(0)
	if in.Bytes < 1<<20 || !slices.Equal(f.Attached(), []string{"c", "m"}) {
		t.Errorf("adopted %v, which counted %v", f.Attached(), in)
	}
	// The next process numbers its mappings anew; what they counted stays theirs.
	again := []netio.FastEntry{entry(7, "203.0.113.10/32", "2001:db8:a::10/128"), entry(0, "203.0.113.99/32", "2001:db8:a::99/128")}
	must(t, f.Sync(slices.Values(again)))
	if now, _ := f.MappingCounters(7); now.Bytes < in.Bytes {
		t.Errorf("counters %v have become %v", in, now)
	}
	if other, _ := f.MappingCounters(0); other.Bytes != 0 {
		t.Errorf("a new mapping begins with %v", other)
	}
	transfer(t, a, b, 1<<20)
	must(t, f.Detach("c"), f.Discard())
}

// TestFastXDP: the same in the driver, of a device that hands over neither
// super-packets nor unfinished checksums.
func TestFastXDP(t *testing.T) {
	w := newFastWorld(t, "fx")
	dir := bpffs(t)
	f := openFast(t, w.node, netio.FastSpec{PinDir: dir, MaxMappings: 100})
	must(t, f.Configure(fastSettings), f.Set(fastEntries), f.Attach("c"))
	if err := f.AttachXDP("c", false); !errors.Is(err, netio.ErrUnfit) {
		t.Errorf("on a veth: %v", err)
	}
	for _, ns := range []*netio.NS{w.client, w.machine} {
		w.run(ns, "ethtool", "-K", "r", "tx", "off", "tso", "off", "gso", "off", "gro", "on")
	}
	must(t, f.AttachXDP("c", true), f.AttachXDP("m", true), f.AttachXDP("m", true))
	// Adopted, the program is replaced and knows its devices.
	must(t, f.Close())
	f = openFast(t, w.node, netio.FastSpec{PinDir: dir, MaxMappings: 100})
	if got := f.Attached(); !slices.Equal(got, []string{"c", "m"}) {
		t.Errorf("attached to %v", got)
	}
	l := listen(t, w.machine, "[::]:80")
	for _, addr := range []string{"203.0.113.10:80", "[2001:db8:f::10]:80"} {
		a := dial(t, w.client, "tcp", addr)
		b, err := l.Accept()
		must(t, err)
		transfer(t, a, b, 4<<20)
		transfer(t, b, a, 4<<20)
	}
	w.run(w.client, "ping", "-n", "-c", "2", "-i", "0.05", "-W", "5", "203.0.113.10")
	w.run(w.client, "ping", "-n", "-c", "2", "-i", "0.05", "-W", "5", "2001:db8:f::10")
	c := f.Counters()
	if c["4to6"].Packets < 2800 || c["6to4"].Packets == 0 || c["6to6"].Packets < 2800 || c["drop_failed"].Packets != 0 {
		t.Errorf("counted %v", c)
	}
	must(t, f.Attach("c"), f.Attach("m"))
	if out := ipOut(t, w.node, "link", "show", "c"); strings.Contains(out, "xdp") {
		t.Errorf("XDP is still there:\n%s", out)
	}
	a := dial(t, w.client, "tcp", "203.0.113.10:80")
	b, err := l.Accept()
	must(t, err)
	transfer(t, a, b, 1<<20)
}

func TestFastRefusals(t *testing.T) {
	ns := newNS(t, "fr")
	if _, err := ns.OpenFast(netio.FastSpec{PinDir: filepath.Join(t.TempDir(), "x"), MaxMappings: 10}); !errors.Is(err, netio.ErrNotBPFFS) {
		t.Errorf("no bpffs: %v", err)
	}
	if _, err := ns.OpenFast(netio.FastSpec{}); err == nil || !strings.Contains(err.Error(), "max_mappings") {
		t.Errorf("no size: %v", err)
	}
	dir := bpffs(t)
	f := openFast(t, ns, netio.FastSpec{PinDir: dir, MaxMappings: 4, MaxPrefixes: 1})
	if err := f.Attach("nix"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no device: %v", err)
	}
	must(t, ns.AddVeth(netio.VethSpec{Name: "v.1", PeerName: "w"}), ns.SetUp("v.1"), ns.SetForwarding(true), ns.Sysctl("net/ipv4/conf/all/rp_filter", "0"))
	for _, c := range []struct{ key, bad, good string }{
		{"net/ipv4/conf/v.1/rp_filter", "1", "2"}, {"net/ipv4/conf/v.1/forwarding", "0", "1"}, {"net/ipv6/conf/v.1/forwarding", "0", "1"},
		{"net/ipv6/conf/v.1/disable_ipv6", "1", "0"},
	} {
		must(t, ns.Sysctl(c.key, c.bad))
		if err := f.Attach("v.1"); !errors.Is(err, netio.ErrUnfit) || !strings.Contains(err.Error(), c.key) {
			t.Errorf("%s = %s: %v", c.key, c.bad, err)
		}
		must(t, ns.Sysctl(c.key, c.good))
	}
	must(t, f.Attach("v.1"))
	// Another namespace may not have the directory as long as this one is at work.
	must(t, f.Close())
	other := newNS(t, "fr2")
	if _, err := other.OpenFast(netio.FastSpec{PinDir: dir, MaxMappings: 4, MaxPrefixes: 1}); !errors.Is(err, netio.ErrFastInUse) {
		t.Errorf("another namespace: %v", err)
	}
	// A device that has gone is forgotten, also if another has its name.
	must(t, ns.DeleteLink("v.1"), ns.AddVeth(netio.VethSpec{Name: "v.1", PeerName: "w"}))
	f = openFast(t, ns, netio.FastSpec{PinDir: dir, MaxMappings: 4, MaxPrefixes: 1})
	if got := f.Attached(); len(got) != 0 {
		t.Errorf("attached to %v", got)
	}
	for _, c := range []struct {
		want string
		e    netio.FastEntry
	}{
		{"table is full", entry(5, "203.0.113.1/32", "2001:db8::1/128")},
		{"not a mapping", entry(0, "203.0.113.1/24", "2001:db8::/120")},
		{"no room", entry(0, "203.0.113.0/24", "2001:db8::/121")},
		{"same length", entry(0, "2001:db8:f::/64", "2001:db8::/65")},
	} {
		if err := f.Set([]netio.FastEntry{c.e}); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v: %v", c.e, err)
		}
	}
	for want, s := range map[string]netio.FastSettings{
		"pref64": {Pref64: netip.MustParsePrefix("2001:db8::/95")}, "mtu4": {MTU4: -1}, "inside: 10.0.0.0/8": {Inside: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}},
	} {
		if err := f.Configure(s); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, want %s", s, err, want)
		}
	}
	must(t, f.Discard())
	if err := f.Set(nil); !errors.Is(err, os.ErrClosed) {
		t.Errorf("after Discard: %v", err)
	}
	f.Counters()
	f.MappingCounters(0)
}

// TestFastTable: what Set, Remove and Sync leave in the tables is what the
// program finds.
func TestFastTable(t *testing.T) {
	ns := newNS(t, "tab")
	f := openFast(t, ns, netio.FastSpec{MaxMappings: 2000, MaxPrefixes: 4})
	must(t, f.Configure(fastSettings))
	// found is to where addresses lead, asked of the program itself.
	found := func(addrs ...string) map[string]string {
		m := map[string]string{}
		for _, s := range addrs {
			a := netip.MustParseAddr(s)
			frame := []byte{2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2}
			udp := []byte{0, 1, 0, 2, 0, 8, 1, 1}
			if a.Is4() {
				ip := append([]byte{0x45, 0, 0, 28, 0, 0, 0x40, 0, 64, 17, 0, 0, 198, 51, 100, 7}, a.AsSlice()...)
				binary.BigEndian.PutUint16(ip[10:], ^sum16(ip))
				frame = append(append(append(frame, 8, 0), ip...), udp...)
			} else {
				src := a.As16()
				dst := netip.MustParseAddr("2001:db8:64::198.51.100.7").As16()
				frame = append(append(append(append(frame, 0x86, 0xdd, 0x60, 0, 0, 0, 0, 8, 17, 64), src[:]...), dst[:]...), udp...)
			}
			out, ok, err := f.TestRun(frame)
			must(t, err)
			if !ok {
				continue
			}
			if out[14]>>4 == 6 {
				m[s] = netip.AddrFrom16([16]byte(out[38:54])).String()
			} else {
				m[s] = netip.AddrFrom4([4]byte(out[26:30])).String()
			}
		}
		return m
	}
	all := []string{"203.0.113.1", "203.0.113.2", "192.0.2.5", "192.0.2.77", "2001:db8:a::1", "2001:db8:a::2", "2001:db8:a::3", "2001:db8:b::500:0", "2001:db8:a::77"}
	check := func(what string, want map[string]string) {
		t.Helper()
		if d := cmp.Diff(want, found(all...)); d != "" {
			t.Errorf("%s (-want +got):\n%s", what, d)
		}
	}
	one, two := entry(0, "203.0.113.1/32", "2001:db8:a::1/128"), entry(1, "203.0.113.2/32", "2001:db8:a::2/128")
	must(t, f.Set([]netio.FastEntry{one, two}))
	base := map[string]string{"203.0.113.1": "2001:db8:a::1", "203.0.113.2": "2001:db8:a::2", "2001:db8:a::1": "203.0.113.1", "2001:db8:a::2": "203.0.113.2"}
	check("set", base)
	must(t, f.Set([]netio.FastEntry{entry(0, "203.0.113.1/32", "2001:db8:a::2/128"), entry(1, "203.0.113.2/32", "2001:db8:a::1/128")}))
	check("exchanged", map[string]string{"203.0.113.1": "2001:db8:a::2", "203.0.113.2": "2001:db8:a::1", "2001:db8:a::1": "203.0.113.2", "2001:db8:a::2": "203.0.113.1"})
	must(t, f.Set([]netio.FastEntry{entry(0, "203.0.113.1/32", "2001:db8:a::3/128")}))
	check("moved", map[string]string{"203.0.113.1": "2001:db8:a::3", "203.0.113.2": "2001:db8:a::1", "2001:db8:a::1": "203.0.113.2", "2001:db8:a::3": "203.0.113.1"})
	must(t, f.Remove([]netio.FastEntry{entry(0, "203.0.113.1/32", "2001:db8:a::3/128"), entry(9, "203.0.113.9/32", "2001:db8:a::9/128")}))
	check("removed", map[string]string{"203.0.113.2": "2001:db8:a::1", "2001:db8:a::1": "203.0.113.2"})
	// Prefixes, and a longer one and a single address within.
	net24, in24 := entry(2, "192.0.2.0/24", "2001:db8:b::/96"), entry(3, "192.0.2.77/32", "2001:db8:a::77/128")
	must(t, f.Sync(slices.Values([]netio.FastEntry{one, two, net24, in24})))
	withNet := maps.Clone(base)
	withNet["192.0.2.5"], withNet["192.0.2.77"], withNet["2001:db8:b::500:0"], withNet["2001:db8:a::77"] = "2001:db8:b::500:0", "2001:db8:a::77", "192.0.2.5", "192.0.2.77"
	check("synced", withNet)
	must(t, f.Set([]netio.FastEntry{entry(2, "192.0.2.0/24", "2001:db8:b:b::/96")}))
	delete(withNet, "2001:db8:b::500:0")
	withNet["192.0.2.5"] = "2001:db8:b:b::500:0"
	check("prefix moved", withNet)
	must(t, f.Sync(slices.Values([]netio.FastEntry{one, two})))
	check("synced back", base)
	// As many as there is room for, and one more.
	var many []netio.FastEntry
	for i := range 2000 {
		a := netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)})
		b := [16]byte{0x20, 1, 0xd, 0xb8, 0, 0xb, 14: byte(i >> 8), 15: byte(i)}
		many = append(many, netio.FastEntry{ID: uint32(i), Outside: netip.PrefixFrom(a, 32), Inside: netip.PrefixFrom(netip.AddrFrom16(b), 128)})
	}
	must(t, f.Sync(slices.Values(many)))
	check("all others", map[string]string{})
	if got := found("10.1.7.207"); got["10.1.7.207"] != "2001:db8:b::7cf" {
		t.Errorf("the last: %v", got)
	}
	if err := f.Set([]netio.FastEntry{one}); !errors.Is(err, netio.ErrFull) {
		t.Errorf("one too many: %v", err)
	}
	must(t, f.Sync(slices.Values(many)), f.Sync(slices.Values([]netio.FastEntry{two, one})))
	check("back", base)
}

func sum16(b []byte) uint16 {
	var s uint32
	for ; len(b) > 1; b = b[2:] {
		s += uint32(b[0])<<8 | uint32(b[1])
	}
	s = s>>16 + s&0xffff
	return uint16(s>>16 + s)
}
