package map646_test

import (
	"strings"
	"syscall"
	"testing"

	"widecloud/internal/map646"
)

// deep is client6 -- router -- gw -- inner -- server, with links behind the
// translator of 1450 and of 1400 bytes, though the device has 1500.
func deep(t *testing.T) *world {
	w := newWorld(t, "client6", "router", "gw", "inner", "server")
	w.link("client6", "router", 1500, []string{"2001:db8:c::7/64"}, []string{"2001:db8:c::1/64"})
	w.link("router", "gw", 1500, []string{"2001:db8:1::1/64"}, []string{"2001:db8:1::2/64"})
	w.link("gw", "inner", 1450, []string{"2001:db8:b::1/64"}, []string{"2001:db8:b::2/64", "fe80::2/64"})
	w.link("inner", "server", 1400, []string{"2001:db8:a::1/64"}, []string{"2001:db8:a::11/64", "2001:db8:a::10/64"})
	for _, ns := range []string{"router", "gw", "inner"} {
		w.must(w.ns[ns].SetForwarding(true))
	}
	w.route("client6", "::/0", "2001:db8:c::1")
	w.route("router", "2001:db8::/32", "2001:db8:1::2")
	w.route("gw", "::/0", "2001:db8:1::1")
	w.route("gw", "2001:db8:a::/64", "2001:db8:b::2")
	w.route("inner", "::/0", "2001:db8:b::1")
	w.route("server", "::/0", "2001:db8:a::1")
	return w
}

const deepConf = `
pref64 = "2001:db8:64::/96"
control = "%CONTROL%"
linger = "10ms"
[tun]
queues = 1
addresses = ["203.0.113.254/24", "2001:db8:f::ffff/64", "2001:db8:64::1/96"]
[[map66]]
service = "2001:db8:f::10"
inside = "2001:db8:a::10"
[[map66]]
service = "2001:db8:f::12"
inside = "2001:db8:a::12"
`

// pings wants each answer in what ping says.
func (w *world) pings(cases [][4]string) {
	w.t.Helper()
	for _, c := range cases {
		what, ns, args, want := c[0], c[1], c[2], c[3]
		out, _ := w.try(ns, "ping", append(strings.Fields("-n -c 2 -i 0.2 -W 1"), strings.Fields(args)...)...)
		if !matches(out, want) {
			w.t.Errorf("%s: want %s in\n%s", what, want, out)
		}
	}
}

// Errors about a packet to a 1:1 address that arise behind its translation, in the
// node's kernel and in a router, reach the client and are about what it has sent;
// and nothing else of ICMPv6 suffers, on either path.
func TestRouterErrors(t *testing.T) {
	for _, fast := range []bool{false, true} {
		t.Run(map[bool]string{false: "full", true: "fast"}[fast], func(t *testing.T) {
			w := deep(t)
			conf := deepConf
			if fast {
				conf = strings.Replace(withFast(conf, bpffs(t)), `"server"`, `"inner"`, 1)
			}
			d, path, socket := w.translator("gw", conf)
			w.serve("server", 1, 0)
			w.run("inner", "ip", "-6", "route", "add", "unreachable", "2001:db8:a::12")
			w.pings([][4]string{
				{"the kernel before", "client6", "-t 2 2001:db8:f::10", "From 2001:db8:1::2 .*Hop limit"},
				{"the translator", "client6", "-t 3 2001:db8:f::10", "From 2001:db8:f::ffff .*Hop limit"},
				{"the kernel behind", "client6", "-t 4 2001:db8:f::10", "From 2001:db8:(f::ffff|1::2|b::1) .*Hop limit"},
				{"the router behind", "client6", "-t 5 2001:db8:f::10", "From 2001:db8:b::2 .*Hop limit"},
				{"the machine", "client6", "-t 6 2001:db8:f::10", " 0% packet loss"},
				{"the kernel's link", "client6", "-M do -s 1440 2001:db8:f::10", "(mtu=|mtu: )1450"},
				{"the router's link", "client6", "-M do -s 1400 2001:db8:f::10", "(mtu=|mtu: )1400"},
				{"no way behind", "client6", "2001:db8:f::12", "From 2001:db8:b::2 .*(unreachable|No route)"},
				{"a length that fits", "client6", "-M do -s 1352 2001:db8:f::10", " 0% packet loss"},
			})
			for _, size := range []int{100, 1380, 1430, 4000} {
				w.echo("client6", "[2001:db8:f::10]:8080", size)
			}

			// An unmapped service address has its error, and is asked for once.
			was := d.Stats()
			w.pings([][4]string{{"no mapping", "client6", "2001:db8:f::99", "From 2001:db8:f::ffff .*Address unreachable"}})
			if n := d.Stats().Packets["no_mapping"] - was.Packets["no_mapping"]; n != 2 {
				t.Errorf("2 packets without a mapping were %d", n)
			}
			// What is not for us, from, to and through the node, and neighbour discovery.
			was = d.Stats()
			for _, ns := range []string{"router", "gw", "inner"} {
				w.run(ns, "ip", "-6", "neigh", "flush", "all")
			}
			w.pings([][4]string{{"through", "client6", "2001:db8:b::2", " 0% packet loss"}})
			// Echoes that the fast path has seen need not come by the device.
			if n, want := d.Stats().Packets["unchanged"]-was.Packets["unchanged"], map[bool]uint64{false: 4, true: 0}[fast]; n != want {
				t.Errorf("%d packets passed the device unchanged, want %d", n, want)
			}
			w.pings([][4]string{
				{"through, a hop more", "client6", "-t 3 2001:db8:b::2", map[bool]string{false: "From 2001:db8:.* Hop limit", true: " 0% packet loss"}[fast]},
				{"through, back", "inner", "2001:db8:c::7", " 0% packet loss"},
				{"to an inside address", "client6", "2001:db8:b::1", " 0% packet loss"},
				{"to the node", "router", "2001:db8:1::2", " 0% packet loss"},
				{"to the device", "client6", "2001:db8:f::ffff", " 0% packet loss"},
				{"from the node", "gw", "2001:db8:c::7", " 0% packet loss"},
				{"from the node's address", "gw", "-I 2001:db8:b::1 2001:db8:c::7", " 0% packet loss"},
				{"on a link", "gw", "-I inner fe80::2", " 0% packet loss"},
				{"all nodes", "gw", "-I inner ff02::1", " 0% packet loss"},
				{"from a machine", "server", "-I 2001:db8:a::10 2001:db8:c::7", " 0% packet loss"},
				{"from one without a mapping", "server", "-I 2001:db8:a::11 2001:db8:c::7", " 0% packet loss"},
			})
			// Too big for the device is not too big for its way.
			w.must(w.ns["gw"].SetMTU("map646", 1280))
			w.pings([][4]string{{"larger than the device", "client6", "-M do -s 1400 2001:db8:b::2", " 0% packet loss"}})
			w.must(w.ns["gw"].SetMTU("map646", 1500))

			if out := w.trace(socket, "icmp 2001:db8:c::7 2001:db8:b::2"); !strings.Contains(out, "to the translator's device map646") || !strings.Contains(out, "sent (unchanged)") {
				t.Errorf("trace:\n%s", out)
			}
			findings, err := map646.Doctor(t.Context(), map646.DoctorOptions{ConfigPath: path, NS: w.ns["gw"]})
			if err != nil || !found(findings, map646.FindOK, "rules for ICMPv6 errors", "map646") {
				t.Errorf("doctor: %v, %v", findings, err)
			}
			w.run("gw", "ip", "-6", "rule", "del", "priority", "639")
			if findings, _ = map646.Doctor(t.Context(), map646.DoctorOptions{ConfigPath: path, NS: w.ns["gw"]}); !found(findings, map646.FindBad, "rules for ICMPv6 errors", "639: protocol 58 table 648") {
				t.Errorf("doctor, a rule has gone: %v", findings)
			}
			var s map646.Stats
			w.must(w.ask(socket, "reload", "", &s))
			// With the last 1:1 mapping the rules go, with the first one they come.
			with := w.run("gw", "ip", "-6", "rule")
			var done map646.Changed
			w.must(w.ask(socket, "change", "remove 2001:db8:f::10\nremove 2001:db8:f::12", &done))
			if out := w.run("gw", "ip", "-6", "rule") + w.run("gw", "ip", "-6", "route", "show", "table", "648"); strings.Contains(out, "icmp") || strings.Contains(out, "648") || strings.Contains(out, "throw") {
				t.Errorf("without 1:1 mappings:\n%s", out)
			}
			w.must(w.ask(socket, "change", "add 2001:db8:f::10 2001:db8:a::10", &done))
			if out := w.run("gw", "ip", "-6", "rule"); out != with {
				t.Errorf("with a new 1:1 mapping:\n%s\nbefore:\n%s", out, with)
			}
			w.pings([][4]string{{"the router behind, again", "client6", "-t 5 2001:db8:f::10", "From 2001:db8:b::2 .*Hop limit"}})
		})
	}
}

// After kill -9, what is left hinders nobody: all goes its way as without the
// detour, and the next run goes on with the same rules. After SIGTERM, and after an
// upgrade before it, nothing is left.
func TestRouterErrorsKilled(t *testing.T) {
	w := deep(t)
	state := func() string {
		return w.run("gw", "ip", "-6", "rule") + w.run("gw", "ip", "-6", "route", "show", "table", "all", "proto", "246")
	}
	before := state()
	process, path, socket := w.daemon(deepConf)
	first := state()
	behind := [][4]string{{"the router behind", "client6", "-t 5 2001:db8:f::10", "From 2001:db8:b::2 .*Hop limit"}}
	w.pings(behind)
	w.must(process.Signal(syscall.SIGKILL))
	w.until("the device is gone", 10e9, func() bool {
		_, err := w.ns["gw"].Link("map646")
		return err != nil
	})
	w.pings([][4]string{
		{"through, after a kill", "client6", "2001:db8:b::2", " 0% packet loss"},
		{"an error, after a kill", "client6", "-t 2 2001:db8:b::2", "From 2001:db8:1::2 .*Hop limit"},
	})
	process = w.daemonAgain(path, socket)
	if again := state(); again != first {
		t.Errorf("after a kill:\n%s\nbefore:\n%s", again, first)
	}
	w.pings(behind)
	w.upgrade(socket, "")
	if again := state(); again != first {
		t.Errorf("after an upgrade:\n%s\nbefore:\n%s", again, first)
	}
	w.pings(behind)
	w.must(process.Signal(syscall.SIGTERM))
	w.until("the device is gone", 10e9, func() bool {
		_, err := w.ns["gw"].Link("map646")
		return err != nil
	})
	w.until("all is gone", 10e9, func() bool { return state() == before })
}
