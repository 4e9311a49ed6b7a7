package map646_test

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"

	"widecloud/internal/map646"
)

// steps are a trace's, as text.
func (w *world) trace(socket, what string) string {
	w.t.Helper()
	var t map646.Traced
	w.must(w.ask(socket, "trace", what, &t))
	var s strings.Builder
	for _, step := range t.Steps {
		fmt.Fprintf(&s, "%s: %s\n", step.Rule, step.Result)
	}
	return s.String()
}

// Of more busy mappings than can be asked for, the busiest are shown, in order.
func TestManyBusy(t *testing.T) {
	const mappings, most = 11_000, 10_000
	w := newWorld(t, "client4", "gw")
	w.link("client4", "gw", 1500, []string{"198.51.100.7/24"}, []string{"198.51.100.1/24"})
	w.must(w.ns["gw"].SetForwarding(true))
	w.route("client4", "10.8.0.0/16", "198.51.100.1")
	w.run("gw", "ip", "-6", "route", "add", "blackhole", "2001:db8:a:1::/64")
	outside := func(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 8, byte(i >> 8), byte(i)}) }
	var lines strings.Builder
	for i := range mappings {
		fmt.Fprintf(&lines, "map-static %v 2001:db8:a:1::%x\n", outside(i+1), i+1)
	}
	file := filepath.Join(t.TempDir(), "many.conf")
	w.must(os.WriteFile(file, []byte(lines.String()), 0o600))
	_, _, socket := w.translator("gw", fmt.Sprintf(`
pref64 = "2001:db8:64::/96"
control = "%%CONTROL%%"
linger = "10ms"
mappings_file = %q
[tun]
addresses = ["10.8.255.254/16", "2001:db8:64::1/96"]
`, file))
	var top []map646.Busy
	w.must(w.ask(socket, "top?n=5", "", &top)) // rates are since then
	var c net.PacketConn
	w.must(w.ns["client4"].Do(func() (err error) {
		c, err = net.ListenPacket("udp4", "198.51.100.7:0")
		return err
	}))
	defer c.Close()
	sent := uint64(0)
	send := func(i, packets int) {
		for range packets {
			if _, err := c.WriteTo([]byte("hello"), net.UDPAddrFromAddrPort(netip.AddrPortFrom(outside(i), 9))); err != nil {
				t.Fatal(err)
			}
			if sent++; sent%100 == 0 {
				time.Sleep(2 * time.Millisecond) // the device's ring has 500 places
			}
		}
	}
	for i := range mappings {
		send(i+1, 1)
	}
	// Some at either end of the table, and between.
	busy := []int{mappings, 1, mappings / 2, mappings - 1}
	for at, i := range busy {
		send(i, 50-10*at)
	}
	w.until("packets", 10*time.Second, func() bool { return w.stats(socket).Packets["4to6"] == sent })
	time.Sleep(time.Second) // a sample is good for so long
	// Of one look, however many are asked for.
	w.must(w.ask(socket, "top?n=1", "", &top))
	if len(top) != 1 || top[0].Outside != outside(busy[0]).String() {
		t.Errorf("the busiest: %+v, want %v", top, outside(busy[0]))
	}
	w.must(w.ask(socket, fmt.Sprintf("top?n=%d", most), "", &top))
	if len(top) != most {
		t.Fatalf("%d mappings, want %d", len(top), most)
	}
	for at, i := range busy {
		if top[at].Outside != outside(i).String() || top[at].PacketsIn != uint64(51-10*at) || top[at].PacketsPerSecond == 0 {
			t.Errorf("place %d: %+v, want %v with %d packets", at, top[at], outside(i), 51-10*at)
		}
	}
	// Those with one packet each are in the order of their addresses, and the last ones have no place.
	for at := len(busy); at < most; at++ {
		a, b := netip.MustParseAddr(top[at].Outside), netip.MustParseAddr(top[at-1].Outside)
		if top[at].PacketsIn != 1 || at > len(busy) && !b.Less(a) {
			t.Fatalf("place %d: %+v behind %v", at, top[at], b)
		}
	}
	if got, want := top[most-1].Outside, outside(most-2).String(); got != want {
		t.Errorf("the last one is %s, want %s", got, want)
	}
}

// TestObserve: what an operator sees of two paths.
func TestObserve(t *testing.T) {
	w := small(t)
	_, _, socket := w.translator("gw", "private = \"allow\"\n"+withFast(conf, bpffs(t))+`
[metrics]
listen = "192.0.2.2:9646"
busiest = 1
`)
	var top []map646.Busy
	w.must(w.ask(socket, "top?n=5", "", &top))
	end := w.streams()
	w.must(w.ask(socket, "change", "add 203.0.113.11 2001:db8:a::11", new(map646.Changed)))
	w.run("client4", "ping", "-c", "2", "-i", "0.1", "-W", "2", "203.0.113.11")
	time.Sleep(time.Second)
	w.must(w.ask(socket, "top?n=5", "", &top))
	if len(top) != 3 || top[0].Outside == "203.0.113.11" || top[0].BytesPerSecond == 0 || top[2].Outside != "203.0.113.11" || top[2].PacketsIn != 2 || top[2].PacketsOut != 2 {
		t.Errorf("top %+v", top)
	}
	end()

	text := w.fetch("router", "http://192.0.2.2:9646/metrics")
	for _, want := range []string{
		`map646_packets_total\{outcome="6to4",path="fast"\} [1-9]`, `map646_bytes_total\{outcome="6to6",path="fast"\} [1-9]`,
		`map646_packets_total\{outcome="no_mapping",path="full"\} 0`, `map646_icmp_errors_total\{outcome="limited"\} 0`, `map646_write_errors_total \d`,
		`map646_mapping_packets_total\{direction="in",outside="[^"]*"\} [1-9]`, `map646_mapping_bytes_total\{direction="out",outside="[^"]*"\} [1-9]`,
		`map646_mappings\{family="4"\} 2`, `map646_mappings\{family="6"\} 1`, `map646_table_updates_total\{result="good"\} 1`,
		`map646_reloads_total\{result="bad"\} 0`, `map646_fast_attached\{device="server"\} 1`, `map646_fast_direct 1`, `map646_draining 0`, `map646_healthy 1`,
		`map646_queue_packets_total\{queue="1"\} \d`, `map646_loaded_timestamp_seconds \d`,
	} {
		if !regexp.MustCompile("(?m)^" + want).MatchString(text) {
			t.Errorf("no %s in\n%s", want, text)
		}
	}
	if n := strings.Count(text, "\nmap646_mapping_packets_total{"); n != 2 {
		t.Errorf("%d series of mappings, want the two of the busiest one", n)
	}
	// One look at the mappings serves many scrapes.
	if again := w.fetch("router", "http://192.0.2.2:9646/metrics"); mappingSeries(again) != mappingSeries(text) {
		t.Errorf("sampled again at once:\n%s\n%s", mappingSeries(again), mappingSeries(text))
	}
	if s := w.fetch("router", "http://192.0.2.2:9646/health"); s != "ok\n" {
		t.Errorf("health %q", s)
	}

	packet, err := (map646.Description{}).Packet()
	if err == nil {
		t.Errorf("a packet of nothing: %x", packet)
	}
	d, err := map646.ParseDescription("udp 198.51.100.7:4000 203.0.113.10:53")
	w.must(err)
	packet, err = d.Packet()
	w.must(err)
	for _, c := range []struct{ what, want string }{
		{"tcp 198.51.100.7:1234 203.0.113.10:80", "kernel route: to the translator's device map646 when it comes in by router"},
		{"tcp 198.51.100.7:1234 203.0.113.10:80", "fast path: translates it; attached to router"},
		{"tcp 198.51.100.7:1234 203.0.113.10:80", "2001:db8:a::10"},
		{"tcp 198.51.100.7:1234 203.0.113.10:80", "route behind: 2001:db8:a::10 by device server"},
		{"hex " + hex.EncodeToString(packet), "fast path: translates it"},
		{"udp 198.51.100.7:4000 203.0.113.10:53 frag 1480", "fast path: leaves it to the full path (fragment)"},
		{"tcp 198.51.100.7:1234 203.0.113.10:80 ttl 3", "fast path: leaves it to the full path (ttl)"},
		{"icmp 198.51.100.7 203.0.113.99", "no_mapping"},
		{"tcp [2001:db8:c::7]:1 [2001:db8:f::10]:80", "2001:db8:a::10"},
		{"tcp [2001:db8:a::10]:80 [2001:db8:64::198.51.100.7]:1234", "203.0.113.10"},
		{"icmp 198.51.100.7 192.0.2.2", "192.0.2.2 is this node itself"},
		{"203.0.113.10", "mapping: outside of 203.0.113.10 <-> 2001:db8:a::10"},
		{"2001:db8:a::10", "mapping: inside of 203.0.113.10 <-> 2001:db8:a::10"},
		{"203.0.113.254", "device: map646 is an address of the device itself"},
		{"2001:db8:64::198.51.100.7", "pref64: stands for 198.51.100.7"},
	} {
		if got := w.trace(socket, c.what); !strings.Contains(got, c.want) {
			t.Errorf("trace %s: no %q in\n%s", c.what, c.want, got)
		}
	}
	for _, c := range []struct{ what, want string }{
		{"", "want tcp, udp or icmp"}, {"sctp 192.0.2.1:1 192.0.2.2:2", `"sctp" is none`}, {"tcp 192.0.2.1 192.0.2.2:2", "source:"},
		{"tcp 192.0.2.1:1 [2001:db8::1]:2", "different families"}, {"icmp 192.0.2.1 192.0.2.2 ttl", "the number is missing"},
		{"icmp 192.0.2.1 192.0.2.2 frag 3", "multiple of 8"}, {"icmp 2001:db8::1 2001:db8::2 df", "IPv6 has none"},
		{"udp 192.0.2.1:1 192.0.2.2:2 size 70000", "size:"}, {"hex 1", "hex:"}, {"hex 00", "neither"}, {"fe80::1%eth0", "not an address for packets"},
		{"tcp [2001:db8::1]:1 [2001:db8::2]:2 size 30", "less than the headers' 60"},
	} {
		if err := w.ask(socket, "trace", c.what, new(map646.Traced)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("trace %q: %v, want %s", c.what, err, c.want)
		}
	}
	// Bad requests hurt nobody.
	for _, what := range []string{"top?n=x", "top?n=-1", "top?n=10001", "fast?on=maybe", "nonsense"} {
		if err := w.ask(socket, what, "", new(any)); err == nil {
			t.Errorf("%s: no error", what)
		}
	}
	if s := w.stats(socket); len(s.Unhealthy) > 0 {
		t.Errorf("in the end: %+v", s)
	}
}

func mappingSeries(text string) string {
	var out []string
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, "map646_mapping_") {
			out = append(out, line)
		}
	}
	slices.Sort(out)
	return strings.Join(out, "")
}

// TestHealth: what is not healthy is withdrawn, and comes back; what can be
// mended is.
func TestHealth(t *testing.T) {
	w := small(t)
	dir := t.TempDir()
	path, socket := filepath.Join(dir, "map646.toml"), filepath.Join(dir, "s")
	w.config(path, withFast(conf, bpffs(t)), socket)
	var sick atomic.Bool
	d, err := map646.New(map646.Options{ConfigPath: path, NS: w.ns["gw"], Log: slog.New(slog.NewTextHandler(t.Output(), nil)), Check: func() error {
		if sick.Load() {
			return errors.New("a test says so")
		}
		return nil
	}})
	w.must(err)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- d.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-done; err == nil {
			t.Error("a translator whose device was deleted ended without an error")
		}
	}()
	addrs := func() string { return w.run("gw", "ip", "addr", "show", "dev", "map646") }
	w.until("addresses", 5*time.Second, func() bool {
		return map646.Control(ctx, socket, "stats", new(map646.Stats)) == nil && strings.Contains(addrs(), "203.0.113.254/24")
	})
	sick.Store(true)
	w.until("withdrawal", 5*time.Second, func() bool {
		s := addrs()
		return !strings.Contains(s, "/24") && !strings.Contains(s, "/96") && w.stats(socket).Withdrawn
	})
	s := w.stats(socket)
	if !s.Withdrawn || s.Draining || !slices.Contains(s.Unhealthy, "a test says so") {
		t.Errorf("stats %+v", s)
	}
	w.run("client4", "ping", "-c", "1", "-W", "2", "203.0.113.10")
	w.run("client6", "ping", "-c", "1", "-W", "2", "2001:db8:f::10")
	w.must(map646.Control(ctx, socket, "drain", &s))
	sick.Store(false)
	w.until("health", 5*time.Second, func() bool { return len(w.stats(socket).Unhealthy) == 0 })
	if s = w.stats(socket); !s.Withdrawn || !slices.Equal(d.Health(), []string{"draining"}) {
		t.Errorf("healthy, but draining: %+v", s)
	}
	w.must(map646.Control(ctx, socket, "undrain", &s))
	if out := addrs(); s.Withdrawn || !strings.Contains(out, "203.0.113.254/24") || !strings.Contains(out, "2001:db8:64::1/96") {
		t.Errorf("back again: %+v\n%s", s, out)
	}
	// The device taken down by a slip of the hand.
	w.run("gw", "ip", "link", "set", "map646", "down")
	w.until("mending", 5*time.Second, func() bool {
		_, err := w.try("client4", "ping", "-c", "1", "-W", "1", "203.0.113.10")
		_, err6 := w.try("client6", "ping", "-c", "1", "-W", "1", "2001:db8:f::10")
		return err == nil && err6 == nil
	})
	w.run("gw", "ip", "link", "del", "map646")
}

// TestWays: a node is announced while it has its ways to both sides, and no longer.
func TestWays(t *testing.T) {
	w := small(t)
	const ways = "[[health.route]]\nto = \"2001:db8:b::1\"\ndevices = [\"dc\", \"serv*\"]\n[[health.route]]\nto = \"198.51.100.7\"\n"
	_, path, socket := w.translator("gw", conf+ways)
	state := func(lacks ...string) {
		t.Helper()
		var s map646.Stats
		// By its words: the same number of other reasons is the state before.
		says := func() bool {
			if len(s.Unhealthy) != len(lacks) || s.Withdrawn != (len(lacks) > 0) {
				return false
			}
			for i, l := range lacks {
				if !strings.Contains(s.Unhealthy[i], l) {
					return false
				}
			}
			return true
		}
		w.until(fmt.Sprintf("lack of %q", lacks), 20*time.Second, func() bool {
			s = map646.Stats{}
			return map646.Control(t.Context(), socket, "stats", &s) == nil && says()
		})
		if out := w.run("gw", "ip", "addr", "show", "dev", "map646"); strings.Contains(out, "203.0.113.254/24") != (len(lacks) == 0) {
			t.Errorf("lack of %q:\n%s", lacks, out)
		}
		list, err := map646.Doctor(t.Context(), map646.DoctorOptions{ConfigPath: path, NS: w.ns["gw"]})
		w.must(err)
		for _, l := range lacks {
			field, why, _ := strings.Cut(l, ": ")
			if !found(list, map646.FindBad, field, why) {
				t.Errorf("the doctor does not say %q: %+v", l, list)
			}
		}
	}
	// What leads out by the other side, as a loop between two nodes would begin, is
	// not the way inside.
	state("health.route[0]: 2001:db8:b::1 leads to router, not to dc or serv*")
	w.run("gw", "ip", "-6", "route", "add", "2001:db8:b::/64", "via", "2001:db8:a::10")
	state()
	w.run("gw", "ip", "-6", "route", "add", "blackhole", "2001:db8:b::1")
	state("health.route[0]: 2001:db8:b::1 leads to a black hole")
	w.run("gw", "ip", "route", "del", "default")
	state("health.route[0]: ", "health.route[1]: find route to 198.51.100.7: network is unreachable")
	w.run("gw", "ip", "-6", "route", "del", "blackhole", "2001:db8:b::1")
	w.route("gw", "0.0.0.0/0", "192.0.2.1")
	state()
	w.run("gw", "ip", "addr", "add", "198.51.100.7/32", "dev", "server")
	state("health.route[1]: 198.51.100.7 is this node itself")
	w.run("gw", "ip", "addr", "del", "198.51.100.7/32", "dev", "server")
	// Mapped by ourselves, it is no way.
	w.must(map646.Control(t.Context(), socket, "drain", new(map646.Stats)))
	w.run("gw", "ip", "route", "add", "198.51.100.7", "dev", "map646")
	state("health.route[1]: 198.51.100.7 leads to the translator")
	w.must(map646.Control(t.Context(), socket, "undrain", new(map646.Stats)))
	state("health.route[1]: 198.51.100.7 leads to the translator")
	w.run("gw", "ip", "route", "del", "198.51.100.7", "dev", "map646")
	state()
	w.run("server", "ip", "link", "set", "gw", "down")
	state("health.route[0]: 2001:db8:b::1 leads to server, which has no carrier")
	w.config(path, conf, socket)
	w.must(map646.Control(t.Context(), socket, "reload", new(map646.Stats)))
	state()
}

// TestReloadLengths: a reload may give the device's addresses other lengths.
func TestReloadLengths(t *testing.T) {
	w := small(t)
	_, path, socket := w.translator("gw", conf)
	w.config(path, strings.NewReplacer("254/24", "254/25", "ffff/64", "ffff/60").Replace(conf), socket)
	w.must(map646.Control(t.Context(), socket, "reload", new(map646.Stats)))
	out := w.run("gw", "ip", "-o", "addr", "show", "dev", "map646")
	for address, want := range map[string]int{"203.0.113.254/": 1, "203.0.113.254/25": 1, "2001:db8:f::ffff/": 1, "2001:db8:f::ffff/60": 1} {
		if n := strings.Count(out, address); n != want {
			t.Errorf("%d x %s:\n%s", n, address, out)
		}
	}
}

// TestDoctor finds what is wrong with a machine, also without a daemon.
func TestDoctor(t *testing.T) {
	w := small(t)
	look := func(conf string) []map646.Finding {
		t.Helper()
		list, err := map646.Doctor(t.Context(), map646.DoctorOptions{ConfigPath: write(t, "map646.toml", strings.ReplaceAll(conf, "%CONTROL%", t.TempDir()+"/s")), NS: w.ns["gw"]})
		w.must(err)
		return list
	}
	want := func(list []map646.Finding, level, check, text string) {
		t.Helper()
		if !found(list, level, check, text) {
			t.Errorf("no %s %s %q in %+v", level, check, text, list)
		}
	}
	w.run("gw", "ethtool", "-K", "server", "gro", "on")
	list := look(withFast(conf, "/nowhere"))
	want(list, map646.FindWarn, "daemon", "map646 run")
	want(list, map646.FindOK, "kernel", "")
	want(list, map646.FindOK, "/dev/net/tun", "")
	want(list, map646.FindOK, "eBPF program", "takes it; devices get it by tcx")
	want(list, map646.FindWarn, "bpffs", "mount -t bpf")
	want(list, map646.FindOK, "net.ipv4.ip_forward", "1")
	want(list, map646.FindOK, "device server", "meant for the fast path")
	want(list, map646.FindOK, "mapped addresses", "")

	w.must(w.ns["gw"].SetForwarding(false), w.ns["gw"].Sysctl("net/ipv4/conf/all/rp_filter", "1"))
	w.run("gw", "ip", "addr", "add", "203.0.113.10/32", "dev", "router")
	w.run("gw", "ethtool", "-K", "router", "tso", "off")
	list = look(strings.Replace(conf, "mtu = 1430", "mtu = 1500", 1))
	want(list, map646.FindBad, "net.ipv4.ip_forward", "ip_forward=1")
	want(list, map646.FindBad, "net.ipv6.conf.all.forwarding", "forwarding=1")
	want(list, map646.FindBad, "net.ipv4.conf.all.rp_filter", "0 (or 2)")
	want(list, map646.FindBad, "mapped address on router", "ip addr del 203.0.113.10/32")
	want(list, map646.FindWarn, "device router", "gro on")
	want(list, map646.FindWarn, "device router", "tso on")
	want(list, map646.FindWarn, "MTU towards 2001:db8:a::10", "tun.mtu = 1430")
	want(list, map646.FindWarn, "fast path", "names none")
	list = look("nonsense = 1")
	want(list, map646.FindBad, "configuration", "nonsense")
}

// TestNames: DNS64 is part of the daemon, reads its configuration again with it,
// and what it answers leads through the translator.
func TestNames(t *testing.T) {
	w := small(t)
	// The resolver knows one name.
	var upstream *dns.Server
	ready := make(chan struct{})
	w.must(w.ns["router"].Do(func() error {
		upstream = &dns.Server{Addr: "192.0.2.1:53", Net: "udp", NotifyStartedFunc: func() { close(ready) }, Handler: dns.HandlerFunc(func(rw dns.ResponseWriter, q *dns.Msg) {
			m := new(dns.Msg).SetReply(q)
			m.RecursionAvailable = true
			if q.Question[0].Qtype == dns.TypeA {
				rr, err := dns.NewRR(q.Question[0].Name + " 60 IN A 198.51.100.7")
				if err == nil {
					m.Answer = append(m.Answer, rr)
				}
			}
			_ = rw.WriteMsg(m)
		})}
		return listen(upstream)
	}))
	done := make(chan error, 1)
	go func() { done <- upstream.ActivateAndServe() }()
	<-ready
	defer func() {
		if err := errors.Join(upstream.Shutdown(), <-done); err != nil {
			t.Error(err)
		}
	}()
	names := conf + "[dns64]\nlisten = [\"[2001:db8:a::1]:53\"]\nupstream = [\"192.0.2.1\"]\nallow_from = [\"2001:db8:a::/64\"]\n"
	_, path, socket := w.translator("gw", names)
	ask := func() *dns.Msg {
		t.Helper()
		var m *dns.Msg
		w.must(w.ns["server"].Do(func() (err error) {
			m, err = dns.Exchange(new(dns.Msg).SetQuestion("four.example.", dns.TypeAAAA), "[2001:db8:a::1]:53")
			return err
		}))
		return m
	}
	if m := ask(); len(m.Answer) != 1 || !strings.HasSuffix(m.Answer[0].String(), "\t2001:db8:64::c633:6407") {
		t.Errorf("answer %v", m)
	}
	w.run("server", "ping", "-c", "1", "-W", "2", "-I", "2001:db8:a::10", "2001:db8:64::c633:6407")
	var s map646.Stats
	w.config(path, strings.Replace(names, "2001:db8:a::/64\"]\n", "fd00::/8\"]\n", 1), socket)
	w.must(map646.Control(t.Context(), socket, "reload", &s))
	if m := ask(); m.Rcode != dns.RcodeRefused {
		t.Errorf("asked by one who may not: %v", m)
	}
	w.config(path, conf, socket)
	if err := map646.Control(t.Context(), socket, "reload", &s); err == nil || !strings.Contains(err.Error(), "dns64.listen: cannot change") {
		t.Errorf("reload without DNS64: %v", err)
	}
}

func listen(s *dns.Server) error {
	c, err := net.ListenPacket("udp", s.Addr)
	s.PacketConn = c
	return err
}
