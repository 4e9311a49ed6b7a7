package map646_test

import (
	"context"
	"fmt"
	"math"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"widecloud/internal/map646"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		removePrograms()
		os.Exit(code)
	}))
}

const conf = `
pref64 = "2001:db8:64::/96"
control = "%CONTROL%"
linger = "10ms"
[tun]
mtu = 1430
queues = 2
addresses = ["203.0.113.254/24", "2001:db8:f::ffff/64", "2001:db8:64::1/96"]
[[map]]
v4 = "203.0.113.10"
v6 = "2001:db8:a::10"
[[map66]]
service = "2001:db8:f::10"
inside = "2001:db8:a::10"
`

// small is client4 and client6 -- router -- gw -- server (IPv6 only), with a
// way of 1430 bytes to the server and of 1400 to client4.
func small(t *testing.T) *world {
	w := newWorld(t, "client4", "client6", "router", "gw", "server")
	w.link("client4", "router", 1400, []string{"198.51.100.7/24"}, []string{"198.51.100.1/24"})
	w.link("client6", "router", 1500, []string{"2001:db8:c::7/64"}, []string{"2001:db8:c::1/64"})
	w.link("router", "gw", 1500, []string{"192.0.2.1/24", "2001:db8:1::1/64"}, []string{"192.0.2.2/24", "2001:db8:1::2/64"})
	w.link("gw", "server", 1430, []string{"2001:db8:a::1/64"}, []string{"2001:db8:a::11/64", "2001:db8:a::10/64"})
	w.must(w.ns["router"].SetForwarding(true), w.ns["gw"].SetForwarding(true))
	w.route("client4", "0.0.0.0/0", "198.51.100.1")
	w.route("client6", "::/0", "2001:db8:c::1")
	w.route("server", "::/0", "2001:db8:a::1")
	w.route("gw", "0.0.0.0/0", "192.0.2.1")
	w.route("gw", "::/0", "2001:db8:1::1")
	w.route("router", "203.0.113.0/24", "192.0.2.2")
	w.route("router", "2001:db8:f::/64", "2001:db8:1::2")
	return w
}

func TestTranslator(t *testing.T) {
	w := small(t)
	d, _, socket := w.translator("gw", conf)
	const size = 20 << 20
	digest := w.serve("server", size, 0)
	for ns, addr := range map[string]string{"client4": "203.0.113.10:8080", "client6": "[2001:db8:f::10]:8080"} {
		got, n, _, err := w.download(ns, addr)
		if err != nil || n != size || got != digest {
			t.Errorf("download from %s: %d bytes, %v", addr, n, err)
		}
	}
	s := d.Stats()
	// 20 MB in packets of 1400 bytes would be 15,000: they came in super-packets.
	if s.Packets["6to4"] == 0 || s.Packets["6to4"] > 10000 || s.Bytes["6to4"] < size {
		t.Errorf("super-packets: %d packets with %d bytes", s.Packets["6to4"], s.Bytes["6to4"])
	}

	for _, c := range [][2]string{{"client4", "203.0.113.10"}, {"server", "2001:db8:64::198.51.100.7"},
		{"client6", "2001:db8:f::10"}, {"server", "2001:db8:c::7"}, {"client4", "203.0.113.254"}} {
		w.run(c[0], "ping", "-c", "2", "-i", "0.01", "-W", "2", c[1])
	}
	// Neither a packet nor its answer makes garbage. What else the daemon does meanwhile makes some, and the more the longer
	// the pings take: packets that do would show in each of the tries.
	const pings = 2000
	least := uint64(math.MaxUint64)
	for try := 0; try < 5 && least > pings/2; try++ {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		w.run("client4", "ping", "-q", "-c", fmt.Sprint(pings), "-i", "0.001", "-W", "2", "203.0.113.10")
		runtime.ReadMemStats(&after)
		least = min(least, after.Mallocs-before.Mallocs)
	}
	if least > pings/2 {
		t.Errorf("%d objects allocated while %d packets were translated", least, 2*pings)
	}

	for _, size := range []int{1, 100, 1300, 4000, 20000} {
		w.echo("client4", "203.0.113.10:8080", size)
		w.echo("client6", "[2001:db8:f::10]:8080", size)
	}

	for _, c := range []struct{ what, ns, want, args string }{
		{"path MTU from IPv4", "client4", "mtu = 1390|mtu=1390", "-M do -s 1371 203.0.113.10"},
		{"path MTU from IPv6", "client6", "mtu=1430|mtu: 1430", "-M do -s 1400 2001:db8:f::10"},
		{"path MTU to IPv4", "server", "mtu=1320|mtu: 1320", "-M do -s 1300 2001:db8:64::198.51.100.7"},
		{"no mapping from IPv4", "client4", "From 203.0.113.254 .*Host Unreachable", "203.0.113.99"},
		{"no mapping from IPv6", "client6", "From 2001:db8:f::ffff .*Address unreachable", "2001:db8:f::99"},
		{"no mapping to IPv4", "server", "From 2001:db8:f::ffff .*(policy|code 5)", "-I 2001:db8:a::11 2001:db8:64::198.51.100.7"},
		{"hop before", "client4", "From 192.0.2.2 .*Time to live exceeded", "-t 2 203.0.113.10"},
		{"our hop", "client4", "From 203.0.113.254 .*Time to live exceeded", "-t 3 203.0.113.10"},
		{"hop behind", "client4", "From 203.0.113.254 .*Time to live exceeded", "-t 4 203.0.113.10"},
		{"our hop, IPv6", "client6", "From 2001:db8:f::ffff .*Hop limit", "-t 3 2001:db8:f::10"},
		{"our hop, to IPv4", "server", "From 2001:db8:f::ffff .*Hop limit", "-t 2 2001:db8:64::198.51.100.7"},
		{"hop behind, to IPv4", "server", "From 2001:db8:64::c000:201 .*Hop limit", "-t 4 2001:db8:64::198.51.100.7"},
	} {
		switch c.what {
		case "path MTU from IPv4":
			w.must(w.ns["client4"].SetMTU("router", 1500), w.ns["router"].SetMTU("client4", 1500))
			w.must(w.ns["server"].SetMTU("gw", 1410), w.ns["gw"].SetMTU("server", 1410))
		case "path MTU to IPv4":
			w.must(w.ns["client4"].SetMTU("router", 1300), w.ns["router"].SetMTU("client4", 1300))
		}
		out, _ := w.try(c.ns, "ping", append(strings.Fields("-c 3 -i 0.2 -W 1"), strings.Fields(c.args)...)...)
		if !matches(out, c.want) {
			t.Errorf("%s: want %s in\n%s", c.what, c.want, out)
		}
	}

	var table []map646.TableEntry
	w.must(map646.Control(t.Context(), socket, "table", &table))
	if len(table) != 3 || table[1].Outside != "203.0.113.10" || table[2].Inside != "2001:db8:a::10" {
		t.Errorf("table %v", table)
	}
	s = d.Stats()
	t.Logf("stats: %v, ICMP %d sent, %d failed writes", s.Packets, s.ICMPSent, s.WriteErrors)
	if s.WriteErrors != 0 {
		t.Errorf("%d failed writes", s.WriteErrors)
	}
}

// A reload, good or bad, loses no byte of what runs, and a mapping that is added
// or removed counts at once.
func TestReload(t *testing.T) {
	w := small(t)
	d, path, socket := w.translator("gw", conf)
	const size = 8 << 20
	digest := w.serve("server", size, 8*time.Millisecond)
	type result struct {
		digest [32]byte
		n      int64
		err    error
	}
	results := make(chan result, 2)
	for ns, addr := range map[string]string{"client4": "203.0.113.10:8080", "client6": "[2001:db8:f::10]:8080"} {
		go func() {
			var r result
			r.digest, r.n, _, r.err = w.download(ns, addr)
			results <- r
		}()
	}
	more := conf + `
[[map]]
v4 = "192.0.2.200"
v6 = "2001:db8:a::11"
[[map66]]
service = "2001:db8:f::11"
inside = "2001:db8:a::11"
`
	w.route("router", "192.0.2.200/32", "192.0.2.2")
	ctx := context.Background()
	var s map646.Stats
	for range 10 {
		w.config(path, more, socket)
		w.must(map646.Control(ctx, socket, "reload", &s))
		w.config(path, conf+"\nnonsense = 1\n", socket)
		if err := map646.Control(ctx, socket, "reload", &s); err == nil || !strings.Contains(err.Error(), "nonsense") {
			t.Errorf("bad reload: %v", err)
		}
		w.config(path, conf, socket)
		w.must(map646.Control(ctx, socket, "reload", &s))
	}
	w.config(path, more, socket)
	w.must(map646.Control(ctx, socket, "reload", &s))
	for range 2 {
		if r := <-results; r.err != nil || r.n != size || r.digest != digest {
			t.Errorf("download through reloads: %d of %d bytes, %v", r.n, size, r.err)
		}
	}
	if s = d.Stats(); s.Reloads != 21 || s.ReloadErrors != 10 || s.Mappings != 2 {
		t.Errorf("stats %+v", s)
	}
	// One service address calls another (hairpin), and a mapping outside of the
	// device's prefixes has a route of its own.
	w.run("client4", "ping", "-c", "1", "-W", "2", "192.0.2.200")
	w.run("server", "ping", "-c", "1", "-W", "2", "-I", "2001:db8:a::10", "2001:db8:64::192.0.2.200")
	w.run("server", "ping", "-c", "1", "-W", "2", "-I", "2001:db8:a::10", "2001:db8:f::11")
	if out := w.run("gw", "ip", "route", "get", "192.0.2.200"); !strings.Contains(out, "dev map646") {
		t.Errorf("route of a mapping: %s", out)
	}
	w.config(path, conf, socket)
	w.must(map646.Control(ctx, socket, "reload", &s))
	if out := w.run("gw", "ip", "route", "get", "192.0.2.200"); strings.Contains(out, "dev map646") {
		t.Errorf("route of a removed mapping: %s", out)
	}
	if out := w.run("gw", "ip", "-6", "route", "show", "table", "647"); strings.Contains(out, "2001:db8:a::11") || !strings.Contains(out, "2001:db8:a::10") {
		t.Errorf("sources after a mapping was removed:\n%s", out)
	}
	w.config(path, strings.Replace(conf, "queues = 2", "queues = 1", 1), socket)
	if err := map646.Control(ctx, socket, "reload", &s); err == nil || !strings.Contains(err.Error(), "tun.queues") {
		t.Errorf("reload with another number of queues: %v", err)
	}
	w.config(path, strings.Replace(conf, "queues = 2", "queues = 2\nbulk_nice = 0", 1), socket)
	if err := map646.Control(ctx, socket, "reload", &s); err == nil || !strings.Contains(err.Error(), "tun.bulk_nice") {
		t.Errorf("reload with another priority: %v", err)
	}
}

// A plain TUN, one packet at a time, gives the same answers.
func TestWithoutOffload(t *testing.T) {
	w := small(t)
	w.translator("gw", strings.Replace(conf, "queues = 2", "queues = 1\noffload = false", 1))
	digest := w.serve("server", 4<<20, 0)
	for ns, addr := range map[string]string{"client4": "203.0.113.10:8080", "client6": "[2001:db8:f::10]:8080"} {
		if got, n, _, err := w.download(ns, addr); err != nil || got != digest {
			t.Errorf("download from %s: %d bytes, %v", addr, n, err)
		}
	}
	w.echo("client4", "203.0.113.10:8080", 4000)
}

// What a killed run left is no obstacle, and is cleaned up.
func TestAfterAKill(t *testing.T) {
	w := small(t)
	w.run("gw", "ip", "-6", "rule", "add", "from", "2001:db8:a::99", "lookup", "647", "priority", "641", "protocol", "246")
	w.run("gw", "ip", "-6", "route", "add", "throw", "2001:db8:b::/64", "table", "647", "proto", "246")
	_, _, socket := w.translator("gw", `inside = ["2001:db8:a::/64"]`+conf)
	if out := w.run("gw", "ip", "-6", "route", "get", "2001:db8:a::11", "from", "2001:db8:a::10", "iif", "server"); !strings.Contains(out, "dev server") {
		t.Errorf("way from one inside machine to another: %s", out)
	}
	if out := w.run("gw", "ip", "-6", "route", "get", "2001:db8:c::7", "from", "2001:db8:a::10", "iif", "server"); !strings.Contains(out, "dev map646") {
		t.Errorf("way from an inside machine out: %s", out)
	}
	if out := w.run("gw", "ip", "-6", "rule"); strings.Contains(out, "2001:db8:a::99") {
		t.Errorf("old rule:\n%s", out)
	}
	if out := w.run("gw", "ip", "-6", "route", "show", "table", "647"); strings.Contains(out, "2001:db8:b::") || !strings.Contains(out, "default from 2001:db8:a::10 dev map646") || !strings.Contains(out, "blackhole default") {
		t.Errorf("table 647:\n%s", out)
	}
	// A second one for the same socket and device does not disturb the first.
	dir := t.TempDir()
	w.config(dir+"/b.toml", conf, socket)
	d, err := map646.New(map646.Options{ConfigPath: dir + "/b.toml", NS: w.ns["gw"]})
	w.must(err)
	if err := d.Run(t.Context()); err == nil {
		t.Error("a second translator with the same device ran")
	}
	w.run("client6", "ping", "-c", "1", "-W", "2", "2001:db8:f::10")
	if st, err := os.Stat(socket); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("control socket: %v, %v", st, err)
	}
}
