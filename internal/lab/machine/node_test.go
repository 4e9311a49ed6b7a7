package machine_test

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"widecloud/internal/lab/machine"
	"widecloud/internal/netio"
)

func TestNodeIsAMachineOfItsOwn(t *testing.T) {
	l := open(t)
	outside, _ := os.Hostname()
	ids := map[string]bool{}
	for _, name := range []string{"h1", "h2"} {
		n := node(t, l, machine.NodeOptions{Name: name})
		if got := sh(t, n, "hostname; cat /etc/hostname"); got != name+"\n"+name+"\n" {
			t.Errorf("hostname: %q", got)
		}
		ids[sh(t, n, "cat /etc/machine-id")] = true
		if got := sh(t, n, "cat /proc/1/cmdline | tr '\\0' ' '"); !strings.HasPrefix(got, "widecloud-lab-node ") {
			t.Errorf("first process: %q", got)
		}
		if got := sh(t, n, "ls /sys/class/net; ls /run/netns; cat /proc/mounts | grep -c netns"+"; true"); got != "lo\n0\n" {
			t.Errorf("devices and namespaces inside: %q", got)
		}
		sh(t, n, "echo x >/etc/made-here; : >/dev/null; head -c1 /dev/urandom >/dev/null; test -c /dev/net/tun; test -e /dev/ptmx; ! test -e /dev/kvm")
		if _, err := os.Stat("/etc/made-here"); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("a node's file is seen outside: %v", err)
		}
	}
	if len(ids) != 2 {
		t.Errorf("machine ids are not distinct: %v", ids)
	}
	if now, _ := os.Hostname(); now != outside {
		t.Errorf("the machine's hostname is now %q", now)
	}
	if _, err := l.AddNode(machine.NodeOptions{Name: "h1"}); !errors.Is(err, fs.ErrExist) {
		t.Errorf("second h1: %v", err)
	}
	for _, bad := range []string{"", "A", "a/b", "-a", strings.Repeat("a", 31)} {
		if _, err := l.AddNode(machine.NodeOptions{Name: bad}); err == nil || !strings.Contains(err.Error(), "name") {
			t.Errorf("name %q: %v", bad, err)
		}
	}
	// Who opens a lab that runs leaves its logs alone.
	logs := t.TempDir()
	must(t, os.WriteFile(filepath.Join(logs, "kept"), nil, 0o600))
	if _, err := machine.Open(machine.Options{Name: scope.Name, LogDir: logs}); !errors.Is(err, machine.ErrRunning) {
		t.Errorf("second Open: %v", err)
	}
	if _, err := os.Stat(filepath.Join(logs, "kept")); err != nil {
		t.Error(err)
	}
}

// TestCongestionControl: a machine's TCP is what the lab says, not what this machine has, and stays so.
func TestCongestionControl(t *testing.T) {
	l := open(t)
	for name, c := range map[string]struct{ said, want string }{"usual": {"", "reno"}, "other": {"bbr", "bbr"}} {
		n := node(t, l, machine.NodeOptions{Name: name, Congestion: c.said})
		if got := sh(t, n, "sysctl -n net.ipv4.tcp_congestion_control"); got != c.want+"\n" {
			t.Errorf("%q: %q", c.said, got)
		}
		must(t, n.PowerOff(), n.PowerOn())
		if got := sh(t, n, "sysctl -n net.ipv4.tcp_congestion_control"); got != c.want+"\n" {
			t.Errorf("%q after a power cut: %q", c.said, got)
		}
	}
	if _, err := l.AddNode(machine.NodeOptions{Name: "none", Congestion: "carrier-pigeon"}); err == nil || !strings.Contains(err.Error(), "allows in namespaces: reno") {
		t.Errorf("an algorithm that there is not: %v", err)
	}
}

func TestPowerCut(t *testing.T) {
	l := open(t)
	h, far := node(t, l, machine.NodeOptions{Name: "h1"}), node(t, l, machine.NodeOptions{Name: "far"})
	must(t, l.Link(
		machine.End{Node: h, Device: "eth0", Addrs: prefix("2001:db8::1/64")},
		machine.End{Node: far, Device: "eth0", Addrs: prefix("2001:db8::2/64")}))
	must(t, h.AddBridge(netio.BridgeSpec{Name: "br-kept"}))
	_, err := h.Start(machine.ProcessOptions{Name: "server", Boot: true, Args: []string{"sh", "-c", "echo started; echo $$ >/run/server.pid; exec sleep 1000"},
		Ready: func(context.Context) error { _, err := os.Stat(h.Path("/run/server.pid")); return err }})
	must(t, err)
	if _, err := h.Start(machine.ProcessOptions{Name: "server", Args: []string{"true"}}); !errors.Is(err, fs.ErrExist) {
		t.Errorf("second server: %v", err)
	}
	sh(t, h, "echo kept >/var/kept; echo lost >/run/lost; ip link add br-lost type bridge; setsid sleep 1000 >/dev/null 2>&1 &")
	first, server := h.PID(), h.Process("server")
	blocked := h.Command(t.Context(), "sleep", "1000")
	must(t, blocked.Start())

	must(t, h.PowerOff(), h.PowerOff())
	if h.On() {
		t.Error("On() after PowerOff")
	}
	if err := blocked.Wait(); err == nil {
		t.Error("a command survived the power cut")
	}
	select {
	case <-server.Done():
	default:
		t.Error("a process survived the power cut")
	}
	if _, err := os.Stat("/proc/" + strconv.Itoa(first)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the first process survived the power cut: %v", err)
	}
	if err := h.Command(t.Context(), "true").Run(); !errors.Is(err, machine.ErrOff) {
		t.Errorf("command without power: %v", err)
	}
	must(t, far.Inspect(func(ns *netio.NS) error {
		link, err := ns.Link("eth0")
		if err == nil && link.Carrier {
			t.Error("the far end still has carrier")
		}
		return err
	}))

	must(t, h.PowerOn())
	if got := sh(t, h, "cat /var/kept; cat /run/lost 2>/dev/null; ls /sys/class/net | tr '\\n' ' '"); got != "kept\nbr-kept eth0 lo " {
		t.Errorf("after the power cut: %q", got)
	}
	if p := h.Process("server"); p == nil || p == server {
		t.Error("the boot process was not started again")
	}
	if log, err := os.ReadFile(h.LogPath("server")); err != nil || string(log) != "started\nstarted\n" {
		t.Errorf("log: %q %v", log, err)
	}
	eventually(t, "the link works again", func() bool {
		return h.Command(t.Context(), "bash", "-c", "echo x >/dev/udp/2001:db8::2/9; sleep 0.1; ip -6 neigh show dev eth0 | grep -q lladdr").Run() == nil
	})
	must(t, h.CutLink("eth0", true))
	if got := sh(t, far, "cat /sys/class/net/eth0/carrier"); got != "0\n" {
		t.Errorf("carrier after CutLink: %q", got)
	}
	must(t, h.CutLink("eth0", false))
	if got := sh(t, far, "cat /sys/class/net/eth0/carrier"); got != "1\n" {
		t.Errorf("carrier after the cable is back: %q", got)
	}
	if got := sh(t, h, "ip -6 -br addr show dev eth0"); !strings.Contains(got, "2001:db8::1/64") {
		t.Errorf("address after the cable is back: %q", got)
	}
}

func TestProcesses(t *testing.T) {
	l := open(t)
	n := node(t, l, machine.NodeOptions{Name: "h1"})
	p, err := n.Start(machine.ProcessOptions{Name: "worker", Args: []string{"sh", "-c", "trap 'echo term; exit 3' TERM; echo up; while :; do sleep 0.05; done"}})
	must(t, err)
	eventually(t, "it is up", func() bool { b, _ := os.ReadFile(n.LogPath("worker")); return string(b) == "up\n" })
	must(t, n.Stop("worker"), n.Stop("worker"), n.Stop("none"))
	if p.Err() == nil || !strings.Contains(p.Err().Error(), "exit status 3") {
		t.Errorf("ended with %v", p.Err())
	}
	if err := n.Kill("worker", syscall.SIGKILL); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("kill of an ended process: %v", err)
	}
	p2, err := n.Restart("worker")
	must(t, err)
	must(t, n.Kill("worker", syscall.SIGKILL))
	if p2 == p || p2.Err() == nil {
		t.Errorf("after kill -9: %v", p2.Err())
	}
	if _, err := n.Restart("none"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("restart of none: %v", err)
	}
	never := func(context.Context) error { return errors.New("not yet") }
	_, err = n.Start(machine.ProcessOptions{Name: "sad", Args: []string{"sh", "-c", "echo what is wrong; exit 1"}, Ready: never})
	if err == nil || !strings.Contains(err.Error(), "what is wrong") {
		t.Errorf("a process that ends before it is ready: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := n.Command(ctx, "sh", "-c", "sleep 1000; true").Run(); err == nil {
		t.Error("a command outlived its context")
	}
	// Orphans are adopted and reaped by the first process.
	sh(t, n, "setsid sleep 0.1 >/dev/null 2>&1 &")
	eventually(t, "no zombie is left", func() bool { return sh(t, n, "ls -d /proc/[0-9]* | wc -l") <= "4\n" })

	other, err := machine.CommandIn(t.Context(), "", scope.Name, "h1", "hostname")
	must(t, err)
	if out, err := other.Output(); err != nil || string(out) != "h1\n" {
		t.Errorf("CommandIn: %q %v", out, err)
	}
	if _, err := machine.CommandIn(t.Context(), "", scope.Name, "none", "hostname"); !errors.Is(err, machine.ErrOff) {
		t.Errorf("CommandIn of none: %v", err)
	}
}
