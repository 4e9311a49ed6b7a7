package map646_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"widecloud/internal/map646"
)

// start starts a process inside a namespace, which is killed with the test.
func (w *world) start(ns, name string, arg ...string) *exec.Cmd {
	w.t.Helper()
	log, err := os.Create(filepath.Join(w.t.TempDir(), filepath.Base(name)+".log"))
	w.must(err)
	cmd := exec.Command(name, arg...)
	cmd.Stdout, cmd.Stderr = log, log
	// A test that is killed itself leaves none behind either.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	w.must(w.ns[ns].Do(cmd.Start))
	w.t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
		log.Close()
		if w.t.Failed() {
			b, _ := os.ReadFile(log.Name())
			w.t.Logf("%s: %s: %s", ns, filepath.Base(name), b)
		}
	})
	return cmd
}

// node is a router with FRR of its own.
type node struct {
	dir     string
	daemons []*exec.Cmd
}

// frr starts zebra, bfdd, ospfd and ospf6d; conf is per daemon, all get the bfd
// profile that needs it.
func (w *world) frr(ns, id, ospf, ospf6, static string) *node {
	w.t.Helper()
	// A short path, for the sake of the sockets in it.
	dir, err := os.MkdirTemp("/tmp", "m6frr")
	w.must(err, os.Chmod(dir, 0o777))
	w.t.Cleanup(func() { os.RemoveAll(dir) })
	n := &node{dir: dir}
	after := ""
	if strings.Contains(ospf6, "route-map map646") {
		after = " redistribute connected route-map map646\n"
	}
	for _, d := range []struct{ name, conf string }{
		{"zebra", ""},
		{"staticd", static},
		{"bfdd", "bfd\n profile fast\n  transmit-interval 100\n  receive-interval 100\n  detect-multiplier 4\n"},
		{"ospfd", ospf + "router ospf\n ospf router-id " + id + "\n timers throttle spf 0 50 200\n timers throttle lsa all 100\n timers lsa min-arrival 50\n"},
		{"ospf6d", ospf6 + "router ospf6\n ospf6 router-id " + id + "\n timers throttle spf 0 50 200\n timers lsa min-arrival 50\n" + after},
	} {
		conf := filepath.Join(dir, d.name+".conf")
		w.must(os.WriteFile(conf, []byte(d.conf), 0o644))
		args := []string{"-f", conf, "-i", filepath.Join(dir, d.name+".pid"), "-z", dir + "/z", "--vty_socket", dir, "-A", "127.0.0.1", "-P", "0", "--log", "stdout"}
		if d.name == "bfdd" {
			args = append(args, "--bfdctl", dir+"/bfd")
		}
		n.daemons = append(n.daemons, w.start(ns, "/usr/lib/frr/"+d.name, args...))
		if d.name == "zebra" {
			w.until("zebra", 5*time.Second, func() bool { _, err := os.Stat(dir + "/z"); return err == nil })
		}
	}
	return n
}

// ospf makes the interfaces' part of a configuration; ! before a name stands for
// passive.
func ospf(version int, links ...string) string {
	cmd := "ip ospf"
	if version == 3 {
		cmd = "ipv6 ospf6"
	}
	var s strings.Builder
	for _, l := range links {
		name, passive := strings.CutPrefix(l, "!")
		fmt.Fprintf(&s, "interface %s\n %s area 0\n", name, cmd)
		if passive {
			fmt.Fprintf(&s, " %s passive\n", cmd)
		} else {
			fmt.Fprintf(&s, " %s network point-to-point\n %s bfd\n %s bfd profile fast\n %s hello-interval 1\n %s dead-interval 4\n", cmd, cmd, cmd, cmd, cmd)
		}
	}
	return s.String()
}

// announced is how OSPFv3 gets to know the device's prefixes, see docs/map646.md.
func announced(wayOut string) string {
	return "ipv6 prefix-list way-out permit " + wayOut + "/128\n" +
		"interface map646\n ipv6 ospf6 area 0\n ipv6 ospf6 passive\n ipv6 ospf6 advertise prefix-list way-out\n" +
		"route-map map646 deny 5\n match ipv6 address prefix-list way-out\nroute-map map646 permit 10\n match interface map646\n"
}

// TestFailover: two translators announce the same prefixes by OSPF and OSPFv3.
// One of them dies in the middle of downloads; the downloads go on over the
// other one.
func TestFailover(t *testing.T) {
	bin := program(t)
	for _, c := range []struct {
		name string
		// die ends the translator ns: process p, its routing daemons n.
		die  func(w *world, ns string, p *exec.Cmd, n *node)
		back func(w *world, bin, path, socket string) // it comes back; nil: it does not
	}{
		{"process killed", func(w *world, _ string, p *exec.Cmd, _ *node) {
			w.must(p.Process.Kill())
		}, func(w *world, bin, path, _ string) {
			w.start("gwa", bin, "run", "-c", path)
		}},
		{"node dead with its links up", func(w *world, ns string, p *exec.Cmd, n *node) {
			w.must(w.ns[ns].SetForwarding(false))
			for _, d := range n.daemons {
				w.must(d.Process.Kill())
			}
			w.must(p.Process.Signal(syscall.SIGSTOP))
		}, nil},
		{"told to stop", func(w *world, _ string, p *exec.Cmd, _ *node) {
			w.must(p.Process.Signal(syscall.SIGTERM))
		}, nil},
		{"drained", func(w *world, ns string, p *exec.Cmd, n *node) {
			var s map646.Stats
			list, err := map646.Doctor(w.t.Context(), map646.DoctorOptions{ConfigPath: p.Args[len(p.Args)-1], NS: w.ns[ns], VTYSocket: n.dir})
			if err != nil || !found(list, map646.FindOK, "FRR, IPv4", "router ospf by the interface") || !found(list, map646.FindOK, "FRR, IPv6", "redistribute connected") ||
				!found(list, map646.FindOK, "daemon", "translates") || !found(list, map646.FindOK, "routes of mapped addresses", "map646") {
				w.t.Errorf("doctor: %+v, %v", list, err)
			}
			w.must(map646.Control(context.Background(), filepath.Dir(p.Args[len(p.Args)-1])+"/s", "drain", &s))
			if !s.Draining || !s.Withdrawn {
				w.t.Errorf("drained: %+v", s)
			}
		}, func(w *world, _, _, socket string) {
			// What still comes by the drained node is translated: by force, all does.
			w.run("router", "ip", "route", "add", "203.0.113.10/32", "via", "192.0.2.2")
			w.run("router", "ip", "-6", "route", "add", "2001:db8:f::10/128", "via", "2001:db8:1:0::2")
			w.run("client4", "ping", "-c", "2", "-i", "0.1", "-W", "2", "203.0.113.10")
			w.run("client6", "ping", "-c", "2", "-i", "0.1", "-W", "2", "2001:db8:f::10")
			w.run("router", "ip", "route", "del", "203.0.113.10/32")
			w.run("router", "ip", "-6", "route", "del", "2001:db8:f::10/128")
			// So is what the machines send to the gateways' common address.
			if out := w.run("gwa", "ip", "-6", "route", "get", "2001:db8:e::646"); !strings.Contains(out, "local") {
				w.t.Errorf("the common address of a drained node: %s", out)
			}
			if list, err := map646.Doctor(w.t.Context(), map646.DoctorOptions{ConfigPath: filepath.Dir(socket) + "/map646.toml", NS: w.ns["gwa"]}); err != nil || !found(list, map646.FindWarn, "daemon", "draining") {
				w.t.Errorf("doctor of a drained node: %+v, %v", list, err)
			}
			w.must(map646.Control(context.Background(), socket, "undrain", new(map646.Stats)))
		}},
	} {
		t.Run(c.name, func(t *testing.T) { failover(t, bin, c.die, c.back) })
	}
}

// TestDoctorFRR: what the doctor says of FRR's configuration is so for each way to
// announce prefixes, and not for one that announces the way out alone.
func TestDoctorFRR(t *testing.T) {
	w := newWorld(t, "gw")
	path := filepath.Join(t.TempDir(), "map646.toml")
	w.config(path, conf, path+".s")
	n := w.frr("gw", "10.0.0.1", ospf(2, "!map646"), ospf(3)+announced("2001:db8:e::1"), "")
	w.until("the routing daemons", 10*time.Second, func() bool {
		out, err := w.try("gw", "vtysh", "--vty_socket", n.dir, "-c", "show running-config")
		return err == nil && strings.Contains(out, "router ospf6") && strings.Contains(out, "router ospf\n")
	})
	type finding struct{ level, text string }
	ok := func(how string) finding { return finding{map646.FindOK, "the prefixes of map646: " + how} }
	nobody := finding{map646.FindWarn, "nothing that announces them is seen"}
	for _, step := range []struct {
		change    string // of the configuration, by lines
		four, six finding
	}{
		{"", ok("in router ospf by"), ok("router ospf6, redistribute connected")},
		{"router ospf6\nno redistribute connected", ok("in router ospf by"), nobody},
		{"interface map646\nno ipv6 ospf6 advertise prefix-list way-out", ok("in router ospf by"), ok("in router ospf6 by")},
		{"interface map646\nno ip ospf area 0\nno ipv6 ospf6 area 0", nobody, nobody},
		{"router ospf\nredistribute connected", ok("router ospf, redistribute connected"), nobody},
	} {
		args := []string{"--vty_socket", n.dir, "-c", "configure terminal"}
		for line := range strings.Lines(step.change) {
			args = append(args, "-c", strings.TrimSpace(line))
		}
		w.run("gw", "vtysh", args...)
		list, err := map646.Doctor(t.Context(), map646.DoctorOptions{ConfigPath: path, NS: w.ns["gw"], VTYSocket: n.dir})
		if err != nil || !found(list, step.four.level, "FRR, IPv4", step.four.text) || !found(list, step.six.level, "FRR, IPv6", step.six.text) {
			t.Errorf("after %q: %+v, %v; want %q and %q", step.change, list, err, step.four, step.six)
		}
	}
}

func failover(t *testing.T, bin string, die func(*world, string, *exec.Cmd, *node), back func(w *world, bin, path, socket string)) {
	w := newWorld(t, "client4", "client6", "router", "gwa", "gwb", "inner", "server")
	w.link("client4", "router", 1500, []string{"198.51.100.7/24"}, []string{"198.51.100.1/24"})
	w.link("client6", "router", 1500, []string{"2001:db8:c::7/64"}, []string{"2001:db8:c::1/64"})
	w.link("inner", "server", 1430, []string{"2001:db8:a::1/64"}, []string{"2001:db8:a::10/64"})
	w.route("client4", "0.0.0.0/0", "198.51.100.1")
	w.route("client6", "::/0", "2001:db8:c::1")
	w.route("server", "::/0", "2001:db8:a::1")
	type gateway struct {
		process *exec.Cmd
		node    *node
		socket  string
	}
	gws := map[string]gateway{}
	for i, ns := range []string{"gwa", "gwb"} {
		w.link("router", ns, 1500, []string{fmt.Sprintf("192.0.2.%d/30", 4*i+1), fmt.Sprintf("2001:db8:1:%d::1/64", i)},
			[]string{fmt.Sprintf("192.0.2.%d/30", 4*i+2), fmt.Sprintf("2001:db8:1:%d::2/64", i)})
		w.route(ns, "::/0", fmt.Sprintf("2001:db8:1:%d::1", i))
		w.link("inner", ns, 1500, nil, nil)
		w.must(w.ns[ns].SetForwarding(true))
		dir := t.TempDir()
		g := gateway{socket: dir + "/s"}
		own := strings.NewReplacer(`linger = "10ms"`, "",
			".254/24", fmt.Sprintf(".%d/24", 254-i), "ffff/64", fmt.Sprintf("fff%d/64", i), `64::1/96"`, fmt.Sprintf(`64::%d/96", "2001:db8:e::646/128", "2001:db8:e::%d/128"`, 1+i, 1+i))
		w.config(dir+"/map646.toml", own.Replace(conf), g.socket)
		g.process = w.start(ns, bin, "run", "-c", dir+"/map646.toml")
		w.until(ns+": translator", 10*time.Second, func() bool {
			return map646.Control(context.Background(), g.socket, "stats", new(map646.Stats)) == nil
		})
		g.node = w.frr(ns, fmt.Sprintf("10.0.0.%d", i+1), ospf(2, "router", "!map646"), ospf(3, "router", "inner")+announced(fmt.Sprintf("2001:db8:e::%d", 1+i)), "")
		gws[ns] = g
	}
	for _, ns := range []string{"router", "inner"} {
		w.must(w.ns[ns].SetForwarding(true))
		w.must(w.ns[ns].Sysctl("net/ipv4/fib_multipath_hash_policy", "1"), w.ns[ns].Sysctl("net/ipv6/fib_multipath_hash_policy", "1"))
	}
	w.frr("router", "10.0.0.3", ospf(2, "gwa", "gwb", "!client4"), ospf(3, "gwa", "gwb"), "")
	// What goes out does so over whichever nodes have their address for it.
	w.frr("inner", "10.0.0.4", "", ospf(3, "gwa", "gwb", "!server"), "ipv6 route ::/0 2001:db8:e::1\nipv6 route ::/0 2001:db8:e::2\n")

	ready := func(ns, family, dst string) {
		w.until(ns+": two ways to "+dst, 40*time.Second, func() bool {
			out := w.run(ns, "ip", family, "route", "show", dst)
			return strings.Contains(out, "dev gwa") && strings.Contains(out, "dev gwb")
		})
	}
	defer func() {
		if t.Failed() {
			for _, ns := range []string{"router", "inner", "gwa"} {
				t.Logf("%s:\n%s%s", ns, w.run(ns, "ip", "route"), w.run(ns, "ip", "-6", "route"))
			}
		}
	}()
	ready("router", "-4", "203.0.113.0/24")
	ready("router", "-6", "2001:db8:f::/64")
	ready("router", "-6", "2001:db8:a::/64")
	ready("inner", "-6", "2001:db8:64::/96")
	ready("inner", "-6", "2001:db8:e::646")
	ready("inner", "-6", "default")

	for _, ns := range []string{"gwa", "gwb"} {
		w.until(ns+": the ways to both sides", 40*time.Second, func() bool {
			return w.run(ns, "ip", "-4", "route", "show", "198.51.100.0/24") != "" && w.run(ns, "ip", "-6", "route", "show", "2001:db8:a::/64") != ""
		})
	}

	const size = 12 << 20
	digest := w.serve("server", size, 10*time.Millisecond)
	type result struct {
		from   string
		digest [32]byte
		n      int64
		gap    time.Duration
		err    error
	}
	results := make(chan result)
	// Several of each kind, so that the one that dies carries some.
	from := []string{"client4", "client4", "client4", "client4", "client6", "client6", "client6", "client6"}
	start := func(ns string) {
		addr := map[string]string{"client4": "203.0.113.10:8080", "client6": "[2001:db8:f::10]:8080"}[ns]
		go func() {
			r := result{from: ns}
			r.digest, r.n, r.gap, r.err = w.download(ns, addr)
			results <- r
		}()
	}
	for _, ns := range from {
		start(ns)
	}
	time.Sleep(800 * time.Millisecond)
	var s map646.Stats
	w.must(map646.Control(context.Background(), gws["gwa"].socket, "stats", &s))
	// The hash of the ports may have sent all of a kind the other way: more come until one does not.
	for i := 0; i < 8 && s.Packets["6to6"] == 0; i++ {
		start("client6")
		from = append(from, "client6")
		time.Sleep(200 * time.Millisecond)
		w.must(map646.Control(context.Background(), gws["gwa"].socket, "stats", &s))
	}
	t.Logf("gwa before its death: %d 4to6, %d 6to4, %d 6to6 packets", s.Packets["4to6"], s.Packets["6to4"], s.Packets["6to6"])
	if s.Packets["4to6"]+s.Packets["6to4"] == 0 || s.Packets["6to6"] == 0 {
		t.Error("the translator that is to die carries nothing")
	}
	die(w, "gwa", gws["gwa"].process, gws["gwa"].node)
	worst := map[string]time.Duration{}
	for range from {
		r := <-results
		if r.err != nil || r.n != size || r.digest != digest {
			t.Errorf("%s: %d of %d bytes, %v", r.from, r.n, size, r.err)
		}
		worst[r.from] = max(worst[r.from], r.gap)
	}
	t.Logf("longest time without a byte: IPv4 %v, IPv6 %v", worst["client4"], worst["client6"])
	// Nobody was sent astray: packets that find the dead one go nowhere.
	for _, ns := range []string{"client6", "server"} {
		if out, _ := w.try(ns, "sh", "-c", "ip -6 route show cache | grep -v mtu"); strings.Contains(out, "via fe80") {
			t.Errorf("%s was redirected: %s", ns, out)
		}
	}
	if out := w.run("router", "ip", "route", "show", "203.0.113.0/24"); strings.Contains(out, "dev gwa") {
		t.Errorf("the dead translator is still in use: %s", out)
	}
	if back != nil {
		back(w, bin, filepath.Dir(gws["gwa"].socket)+"/map646.toml", gws["gwa"].socket)
		ready("router", "-4", "203.0.113.0/24")
		ready("router", "-6", "2001:db8:f::/64")
		ready("inner", "-6", "2001:db8:64::/96")
		ready("inner", "-6", "default")
		// Routers may have heard of a prefix and not yet of its end.
		if out := w.run("gwa", "vtysh", "--vty_socket", gws["gwa"].node.dir, "-c", "show ip ospf interface map646"); !strings.Contains(out, "203.0.113.254/24") {
			t.Errorf("the prefix is announced no more: %s", out)
		}
	}
}

// found tells whether a doctor found this.
func found(list []map646.Finding, level, check, text string) bool {
	for _, f := range list {
		if f.Level == level && f.Check == check && strings.Contains(f.Found+" "+f.Do, text) {
			return true
		}
	}
	return false
}
