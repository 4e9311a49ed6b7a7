package map646_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"widecloud/internal/map646"
	"widecloud/internal/netio"
)

var programs string // directory of built ones

func removePrograms() { os.RemoveAll(programs) }

var built = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "map646-test-*")
	if err != nil {
		return "", err
	}
	programs = dir
	bin := filepath.Join(dir, "map646")
	out, err := exec.Command("go", "build", "-o", bin, "widecloud/cmd/map646").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("build: %w\n%s", err, out)
	}
	return bin, nil
})

// program is the daemon as a program of its own.
func program(t *testing.T) string {
	t.Helper()
	bin, err := built()
	if err != nil {
		t.Fatal(err)
	}
	return bin
}

// bpffs mounts one that goes with the test.
func bpffs(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := syscall.Mount("bpf", dir, "bpf", 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// withFast adds a fast path on both sides of gw.
func withFast(conf, pin string) string {
	return conf + fmt.Sprintf("[fast]\ndevices = [\"rou*\", \"server\"]\npin = %q\nmax_mappings = 1024\n", pin)
}

func (w *world) ask(socket, what, body string, out any) error {
	return map646.Ask(context.Background(), socket, what, strings.NewReader(body), out)
}

func (w *world) stats(socket string) (s map646.Stats) {
	w.t.Helper()
	w.must(map646.Control(context.Background(), socket, "stats", &s))
	return s
}

// stream is a download that goes on until it is ended.
type stream struct {
	w      *world
	conn   net.Conn
	done   chan error
	n      int64
	gap    time.Duration
	ending chan struct{}
}

// streams opens a download from client4 and one from client6, of a server that never stops by
// itself; each byte is checked.
func (w *world) streams() (end func()) {
	w.t.Helper()
	var l net.Listener
	w.must(w.ns["server"].Do(func() (err error) {
		l, err = net.Listen("tcp", "[::]:9090")
		return err
	}))
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			serving.Go(func() {
				defer c.Close()
				b := make([]byte, 16<<10)
				for at := 0; ; at += len(b) {
					for i := range b {
						b[i] = byte((at + i) * 31 >> 3)
					}
					if _, err := c.Write(b); err != nil {
						return
					}
					time.Sleep(time.Millisecond) // some 100 Mbit/s: these two cores have other things to do
				}
			})
		}
	})
	var all []*stream
	for ns, addr := range map[string]string{"client4": "203.0.113.10:9090", "client6": "[2001:db8:f::10]:9090"} {
		s := &stream{w: w, done: make(chan error, 1), ending: make(chan struct{})}
		w.must(w.ns[ns].Do(func() (err error) {
			s.conn, err = net.DialTimeout("tcp", addr, 5*time.Second)
			return err
		}))
		go func() { s.done <- s.read() }()
		all = append(all, s)
	}
	return func() {
		w.t.Helper()
		for _, s := range all {
			close(s.ending)
			if err := <-s.done; err != nil {
				w.t.Errorf("stream from %v: after %d bytes: %v", s.conn.RemoteAddr(), s.n, err)
			}
			w.t.Logf("stream from %v: %d bytes, longest time without one %v", s.conn.RemoteAddr(), s.n, s.gap)
		}
		l.Close()
		serving.Wait()
	}
}

func (s *stream) read() error {
	defer s.conn.Close()
	b := make([]byte, 64<<10)
	at := 0
	for last := time.Now(); ; {
		select {
		case <-s.ending:
			return nil
		default:
		}
		s.conn.SetReadDeadline(time.Now().Add(10 * time.Second))
		n, err := s.conn.Read(b)
		if err != nil {
			return err
		}
		now := time.Now()
		s.gap = max(s.gap, now.Sub(last))
		last = now
		for i, x := range b[:n] {
			if x != byte((at+i)*31>>3) {
				return fmt.Errorf("byte %d is wrong", at+i)
			}
		}
		at += n
		s.n = int64(at)
	}
}

// TestFastPath: the kernel translates what is ordinary, the daemon the rest;
// turning it off and on again breaks nothing, and neither do devices that come.
func TestFastPath(t *testing.T) {
	w := small(t)
	pin := bpffs(t) + "/p"
	_, _, socket := w.translator("gw", withFast(conf, pin))
	s := w.stats(socket)
	if s.Fast == nil || !s.Fast.On || !slices.Equal(s.Fast.Attached, []string{"router", "server"}) {
		t.Fatalf("fast path: %+v", s.Fast)
	}
	end := w.streams()
	time.Sleep(300 * time.Millisecond)
	for i := range 3 {
		before := w.stats(socket)
		w.must(w.ask(socket, "fast?on=false", "", &s))
		time.Sleep(200 * time.Millisecond)
		off := w.stats(socket)
		if off.Fast.On || off.Fast.Direct || len(off.Fast.Attached) > 0 || off.Packets["6to4"] == before.Packets["6to4"] || off.Packets["6to6"] == before.Packets["6to6"] {
			t.Errorf("turned off, round %d: %+v", i, off.Fast)
		}
		w.must(w.ask(socket, "fast?on=true", "", &s))
		time.Sleep(200 * time.Millisecond)
		on := w.stats(socket)
		if !on.Fast.On || !on.Fast.Direct || len(on.Fast.Attached) != 2 || on.Fast.Packets["6to4"] == off.Fast.Packets["6to4"] || on.Fast.Packets["6to6"] == off.Fast.Packets["6to6"] {
			t.Errorf("turned on, round %d: %+v", i, on.Fast)
		}
	}
	end()
	w.echoes()

	// The same answers as the full path's (TestTranslator).
	for _, c := range []struct{ what, ns, want, args string }{
		{"echo", "client4", " 0% packet loss", "203.0.113.10"},
		{"echo, IPv6", "client6", " 0% packet loss", "2001:db8:f::10"},
		{"from inside", "server", " 0% packet loss", "2001:db8:64::198.51.100.7"},
		{"no mapping from IPv4", "client4", "From 203.0.113.254 .*Host Unreachable", "203.0.113.99"},
		{"our hop", "client4", "From 203.0.113.254 .*Time to live exceeded", "-t 3 203.0.113.10"},
		{"hop behind, to IPv4", "server", "From 2001:db8:64::c000:201 .*Hop limit", "-t 4 2001:db8:64::198.51.100.7"},
		{"path MTU from IPv6", "client6", "mtu=1430|mtu: 1430", "-M do -s 1400 2001:db8:f::10"},
	} {
		out, _ := w.try(c.ns, "ping", append(strings.Fields("-c 3 -i 0.2 -W 1"), strings.Fields(c.args)...)...)
		if !matches(out, c.want) {
			t.Errorf("%s: want %s in\n%s", c.what, c.want, out)
		}
	}
	for _, size := range []int{1, 1300, 4000} {
		w.echo("client4", "203.0.113.10:8080", size)
		w.echo("client6", "[2001:db8:f::10]:8080", size)
	}

	// A device that comes is taken, one that cannot be has a reason, and an address
	// of the host's own is exempt at once.
	w.must(w.ns["gw"].AddVeth(netio.VethSpec{Name: "router2", PeerName: "spare"}), w.ns["gw"].SetUp("router2"))
	w.until("a new device", 5*time.Second, func() bool {
		s = w.stats(socket)
		return slices.Contains(s.Fast.Attached, "router2") || s.Fast.Refused["router2"] != ""
	})
	if why := s.Fast.Refused["router2"]; why != "" {
		t.Errorf("new device: %s", why)
	}
}

// echoes answers datagrams at the server.
func (w *world) echoes() {
	w.t.Helper()
	var u net.PacketConn
	w.must(w.ns["server"].Do(func() (err error) {
		u, err = net.ListenPacket("udp", "[::]:8080")
		return err
	}))
	done := make(chan struct{})
	w.t.Cleanup(func() { u.Close(); <-done })
	go func() {
		defer close(done)
		b := make([]byte, 65535)
		for {
			n, from, err := u.ReadFrom(b)
			if err != nil {
				return
			}
			u.WriteTo(b[:n], from)
		}
	}()
}

// TestChanges: mappings come, change and go while others carry traffic.
func TestChanges(t *testing.T) {
	w := small(t)
	_, _, socket := w.translator("gw", withFast(conf, bpffs(t)))
	w.must(w.ns["server"].AddAddr("gw", netip.MustParsePrefix("2001:db8:a::12/64")))
	end := w.streams()
	var done map646.Changed
	for range 5 {
		w.must(w.ask(socket, "change", "add 203.0.113.11 2001:db8:a::12\nadd 2001:db8:f::11 2001:db8:a::12\n# and one outside of the device's prefixes\nadd 192.0.2.200 2001:db8:a::11", &done))
		if done.Added != 3 || done.Mappings != 5 {
			t.Fatalf("added: %+v", done)
		}
		w.run("client4", "ping", "-c", "1", "-W", "2", "203.0.113.11")
		w.run("client6", "ping", "-c", "1", "-W", "2", "2001:db8:f::11")
		if out := w.run("gw", "ip", "route", "get", "192.0.2.200"); !strings.Contains(out, "dev map646") {
			t.Errorf("route of a mapping: %s", out)
		}
		if out := w.run("gw", "ip", "-6", "route", "get", "2001:db8:c::7", "from", "2001:db8:a::12", "iif", "server"); !strings.Contains(out, "dev map646") {
			t.Errorf("way from a mapped machine: %s", out)
		}
		// Exchanged at once, which no order of single steps could do.
		w.must(w.ask(socket, "change", "replace 203.0.113.11 2001:db8:a::11\nreplace 192.0.2.200 2001:db8:a::12", &done))
		if done.Replaced != 2 || done.Mappings != 5 {
			t.Fatalf("replaced: %+v", done)
		}
		w.run("client4", "ping", "-c", "1", "-W", "2", "203.0.113.11")
		w.must(w.ask(socket, "change", "remove 203.0.113.11\nremove 192.0.2.200\nremove 2001:db8:f::11", &done))
		if done.Removed != 3 || done.Mappings != 2 {
			t.Fatalf("removed: %+v", done)
		}
		if out, err := w.try("client4", "ping", "-c", "1", "-W", "1", "203.0.113.11"); err == nil {
			t.Errorf("a removed mapping answers:\n%s", out)
		}
		if out := w.run("gw", "ip", "-6", "route", "show", "table", "647"); strings.Contains(out, "a::12") {
			t.Errorf("routes of removed mappings:\n%s", out)
		}
		if out := w.run("gw", "ip", "route"); strings.Contains(out, "192.0.2.200") {
			t.Errorf("routes of removed mappings:\n%s", out)
		}
	}
	for _, c := range []struct{ text, want string }{
		{"add 203.0.113.10 2001:db8:a::12", "change 1: add 203.0.113.10: is mapped already"},
		{"add 203.0.113.20 2001:db8:a::20\nadd 203.0.113.21 2001:db8:a::10", "change 2: add 203.0.113.21: set[1].inside"},
		{"replace 203.0.113.20 2001:db8:a::20", "change 1: replace 203.0.113.20: no such mapping"},
		{"remove 203.0.113.20", "change 1: remove 203.0.113.20: no such mapping"},
		{"remove 203.0.113.10\nremove 203.0.113.10", "change 2: remove 203.0.113.10: is in another"},
		{"add 203.0.113.254 2001:db8:a::20", "203.0.113.254 is an address of the device"},
		{"add 203.0.113.20 fe80::1", "set[0].inside: bad address"},
		{"\n\nadd 203.0.113.20", "line 3: add: 1 addresses, not 2"},
		{"add 203.0.113.x 2001:db8:a::20", "line 1: outside: bad address"},
		{"swap 203.0.113.20 2001:db8:a::20", `line 1: "swap" is none of`},
		{"bad\n" + strings.Repeat("# long\n", 1_000_000), `line 1: "bad" is none of`},
		{strings.Repeat("x", 70000), "token too long"},
	} {
		if err := w.ask(socket, "change", c.text, &done); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%.50q: %v\nwant %s", c.text, err, c.want)
		}
	}
	end()
	s := w.stats(socket)
	// Lines that make no change are refused before they are an update.
	if s.Mappings != 1 || s.Mappings66 != 1 || s.Updates != 15 || s.UpdatesRefused != 7 || len(s.Unhealthy) > 0 {
		t.Errorf("stats %+v", s)
	}
	// Each mapping has been counted by itself; the others began at zero again.
	var table []map646.TableEntry
	w.must(map646.Control(t.Context(), socket, "table", &table))
	for _, e := range table[1:] {
		if e.PacketsIn == 0 || e.PacketsOut == 0 || e.BytesOut < e.BytesIn {
			t.Errorf("counters of %+v", e)
		}
	}
	w.must(w.ask(socket, "change", "add 203.0.113.11 2001:db8:a::12", &done))
	w.run("client4", "ping", "-c", "3", "-i", "0.01", "-W", "2", "203.0.113.11")
	table = nil
	w.must(map646.Control(t.Context(), socket, "table", &table))
	for _, e := range table {
		if e.Outside == "203.0.113.11" && (e.PacketsIn != 3 || e.PacketsOut != 3) {
			t.Errorf("counters of a mapping that came anew: %+v", e)
		}
	}
	// 1:1 mappings exchange their machines, and one goes and comes back at once.
	w.must(w.ask(socket, "change", "add 2001:db8:f::11 2001:db8:a::11", &done),
		w.ask(socket, "change", "replace 2001:db8:f::10 2001:db8:a::11\nreplace 2001:db8:f::11 2001:db8:a::10", &done),
		w.ask(socket, "change", "remove 2001:db8:f::11\nadd 2001:db8:f::11 2001:db8:a::10", &done))
	for _, a := range []string{"2001:db8:f::10", "2001:db8:f::11"} {
		w.run("client6", "ping", "-c", "1", "-W", "2", a)
	}
	if out := w.run("gw", "ip", "-6", "route", "show", "table", "647"); strings.Count(out, "dev map646") != 2 {
		t.Errorf("sources after an exchange:\n%s", out)
	}
	w.must(w.ask(socket, "change", "remove 2001:db8:f::11\nreplace 2001:db8:f::10 2001:db8:a::10", &done))
	// A prefix, on both paths (a large datagram comes in fragments).
	w.must(w.ask(socket, "change", "add 203.0.113.64/28 2001:db8:a:0:1::/124", &done))
	w.must(w.ns["server"].AddAddr("gw", netip.MustParsePrefix("2001:db8:a:0:1::5/64")))
	w.run("client4", "ping", "-c", "2", "-i", "0.1", "-W", "2", "203.0.113.69")
	w.echoes()
	w.echo("client4", "203.0.113.69:8080", 4000)
	// A reload makes the table equal to the files.
	w.must(map646.Control(t.Context(), socket, "reload", &s))
	if s.Mappings != 1 {
		t.Errorf("after a reload: %+v", s)
	}
}

// TestWholeInside: the inside prefixes lead to the translator as a whole, but not
// what the host itself says from there.
func TestWholeInside(t *testing.T) {
	w := small(t)
	w.translator("gw", "inside = [\"2001:db8:a::/64\"]\n"+conf+"[route]\nsources = \"inside\"\n")
	for _, c := range []struct{ args, want string }{
		{"2001:db8:c::7 from 2001:db8:a::10 iif server", "dev map646"},
		{"2001:db8:c::7 from 2001:db8:a::99 iif server", "dev map646"},
		{"2001:db8:a::11 from 2001:db8:a::10 iif server", "dev server"},
		{"2001:db8:c::7 from 2001:db8:a::1", "dev router"},
	} {
		if out := w.run("gw", "ip", append([]string{"-6", "route", "get"}, strings.Fields(c.args)...)...); !strings.Contains(out, c.want) {
			t.Errorf("%s: %s, want %s", c.args, out, c.want)
		}
	}
	if out := w.run("gw", "ip", "-6", "route", "show", "table", "647"); strings.Contains(out, "::10") {
		t.Errorf("a route for one machine:\n%s", out)
	}
	w.run("client6", "ping", "-c", "1", "-W", "2", "2001:db8:f::10")
	w.run("server", "ping", "-c", "1", "-W", "2", "-I", "2001:db8:a::10", "2001:db8:c::7")
	if out, err := w.try("server", "ping", "-c", "1", "-W", "2", "-I", "2001:db8:a::11", "2001:db8:c::7"); err == nil || !strings.Contains(out, "unreachable") {
		t.Errorf("an unmapped machine: %v\n%s", err, out)
	}
	// The host answers by ICMPv6 from there, too.
	w.route("router", "2001:db8:a::1/128", "2001:db8:1::2")
	w.run("client6", "ping", "-c", "1", "-W", "2", "2001:db8:a::1")
}

// fetch gets a page from inside a namespace.
func (w *world) fetch(ns, url string) string {
	w.t.Helper()
	c := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, network, addr string) (c net.Conn, err error) {
		err = w.ns[ns].Do(func() (err error) {
			c, err = net.Dial(network, addr)
			return err
		})
		return c, err
	}}}
	resp, err := c.Get(url)
	w.must(err)
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	w.must(err)
	return string(b)
}

// TestClaimedSources: what comes with a source that nobody else can have, the node's own or under the prefix one that no IPv4 packet
// comes from, reaches no machine by either path; what is sent behind it does.
func TestClaimedSources(t *testing.T) {
	w := small(t)
	_, _, socket := w.translator("gw", withFast(conf, bpffs(t)+"/p"))
	var in net.PacketConn
	w.must(w.ns["server"].Do(func() (err error) {
		in, err = net.ListenPacket("udp", "[::]:9000")
		return err
	}))
	defer in.Close()
	send := func(source, to, text string) {
		t.Helper()
		var out net.Conn
		w.must(w.ns["router"].Do(func() (err error) {
			out, err = (&net.Dialer{LocalAddr: &net.UDPAddr{IP: net.ParseIP(source)}}).Dial("udp", to)
			return err
		}))
		defer out.Close()
		if _, err := out.Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	for _, fast := range []bool{true, false} {
		var s any
		w.must(w.ask(socket, fmt.Sprintf("fast?on=%t", fast), "", &s))
		for _, c := range []struct{ source, honest, to string }{
			{"203.0.113.254", "192.0.2.1", "203.0.113.10:9000"},
			{"2001:db8:64::127.0.0.1", "2001:db8:1::1", "[2001:db8:f::10]:9000"},
			{"2001:db8:64::224.0.0.1", "2001:db8:1::1", "[2001:db8:f::10]:9000"},
			{"2001:db8:64::169.254.169.254", "2001:db8:1::1", "[2001:db8:f::10]:9000"},
			{"2001:db8:64::255.255.255.255", "2001:db8:1::1", "[2001:db8:f::10]:9000"},
		} {
			own := netip.MustParseAddr(c.source)
			w.must(w.ns["router"].AddAddr("lo", netip.PrefixFrom(own, own.BitLen())))
			send(c.source, c.to, "claimed from "+c.source)
			send(c.honest, c.to, "honest")
			b := make([]byte, 100)
			w.must(in.SetReadDeadline(time.Now().Add(10 * time.Second)))
			n, _, err := in.ReadFrom(b)
			if err != nil || string(b[:n]) != "honest" {
				t.Errorf("fast path %t: the server received %q, %v", fast, b[:n], err)
			}
			w.must(w.ns["router"].DelAddr("lo", netip.PrefixFrom(own, own.BitLen())))
		}
	}
}

// FuzzChanges: no text makes the reader of changes panic.
func FuzzChanges(f *testing.F) {
	f.Add("add 203.0.113.1 2001:db8::1\nremove 203.0.113.0/24 # gone\nreplace 2001:db8::1 2001:db8::2")
	f.Fuzz(func(t *testing.T, text string) {
		list, err := map646.ReadChanges(strings.NewReader(text))
		if err != nil && !errors.Is(err, map646.ErrChange) {
			t.Error(err)
		}
		for _, c := range list {
			if !c.Outside.IsValid() || c.Op != "remove" && !c.Inside.IsValid() {
				t.Errorf("read %+v", c)
			}
		}
	})
}

// FuzzTrace: what is accepted as a packet's description makes a packet.
func FuzzTrace(f *testing.F) {
	f.Add("tcp 198.51.100.7:1234 203.0.113.10:80 ttl 3 size 100 df")
	f.Add("icmp 2001:db8::1 2001:db8::2 frag 8 more")
	f.Fuzz(func(t *testing.T, text string) {
		d, err := map646.ParseDescription(text)
		if err == nil {
			_, err = d.Packet()
		}
		if err != nil && !errors.Is(err, map646.ErrDescription) {
			t.Error(err)
		}
	})
}

// TestGrowth: more mappings than the kernel's tables were made for get bigger
// ones, under a download.
func TestGrowth(t *testing.T) {
	w := small(t)
	_, _, socket := w.translator("gw", strings.Replace(withFast(conf, bpffs(t)+"/p"), "max_mappings = 1024\n", "", 1))
	end := w.streams()
	was := w.stats(socket).Fast.Room
	var lines strings.Builder
	for i := range 70_000 {
		fmt.Fprintf(&lines, "add 10.%d.%d.%d 2001:db8:9::%x:%x\n", 9+(i>>16), i>>8&255, i&255, 1+(i>>16), i&0xffff)
	}
	var done map646.Changed
	w.must(w.ask(socket, "change", lines.String(), &done))
	time.Sleep(200 * time.Millisecond)
	s := w.stats(socket)
	if done.Added != 70_000 || s.Fast.Room <= was || !s.Fast.On || len(s.Fast.Attached) != 2 {
		t.Errorf("added %+v: %+v", done, s.Fast)
	}
	time.Sleep(200 * time.Millisecond)
	if now := w.stats(socket); now.Fast.Packets["6to4"] == s.Fast.Packets["6to4"] || now.Fast.Packets["6to6"] == s.Fast.Packets["6to6"] {
		t.Errorf("the fast path carries nothing: %+v", now.Fast)
	}
	end()
}

// TestFailedWhileOff: a fast path whose tables missed changes while it was turned off must not be attached with them when
// it is turned on; when there is room again, it is.
func TestFailedWhileOff(t *testing.T) {
	w := small(t)
	_, _, socket := w.translator("gw", withFast(conf, bpffs(t)+"/p"))
	var answer any
	w.must(w.ask(socket, "fast?on=false", "", &answer))
	var add, remove strings.Builder
	for i := range 5000 {
		outside := fmt.Sprintf("10.9.%d.%d", i>>8, i&255)
		fmt.Fprintf(&add, "add %s 2001:db8:9::%x\n", outside, i+1)
		fmt.Fprintf(&remove, "remove %s\n", outside)
	}
	w.must(w.ask(socket, "change", add.String(), &answer))
	if err := w.ask(socket, "fast?on=true", "", &answer); err == nil || !strings.Contains(err.Error(), "fast.max_mappings") {
		t.Errorf("turned on without room for its table: %v", err)
	}
	if s := w.stats(socket).Fast; s.On || len(s.Attached) > 0 {
		t.Errorf("attached without its table: %+v", s)
	}
	w.must(w.ask(socket, "change", remove.String(), &answer))
	w.must(w.ask(socket, "fast?on=true", "", &answer))
	if s := w.stats(socket).Fast; !s.On || len(s.Attached) != 2 {
		t.Errorf("not back when there is room again: %+v", s)
	}
}
