package netio_test

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"widecloud/internal/netio"
)

// newNS makes a namespace that goes with the test.
func newNS(t *testing.T, suffix string) *netio.NS {
	t.Helper()
	name := fmt.Sprintf("nio%d-%s", os.Getpid(), suffix)
	ns, err := netio.CreateNS(name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ns.Close()
		if err := netio.DeleteNS(name); err != nil {
			t.Error(err)
		}
	})
	return ns
}

func must(t *testing.T, errs ...error) {
	t.Helper()
	for _, err := range errs {
		if err != nil {
			t.Fatal(err)
		}
	}
}

func TestNamespaceLifecycle(t *testing.T) {
	ns := newNS(t, "a")
	names, err := netio.ListNS()
	must(t, err)
	if !slices.Contains(names, ns.Name()) {
		t.Errorf("ListNS() = %v, lacks %s", names, ns.Name())
	}
	if _, err := netio.CreateNS(ns.Name()); !errors.Is(err, fs.ErrExist) {
		t.Errorf("second CreateNS: %v, want fs.ErrExist", err)
	}
	if _, err := netio.OpenNS(ns.Name() + "x"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("OpenNS of none: %v, want fs.ErrNotExist", err)
	}
	if err := netio.DeleteNS(ns.Name() + "x"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("DeleteNS of none: %v, want fs.ErrNotExist", err)
	}
	for _, bad := range []string{"", ".", "..", "a/b"} {
		if _, err := netio.CreateNS(bad); err == nil {
			t.Errorf("CreateNS(%q) succeeded", bad)
		}
	}
	out, err := exec.Command("ip", "netns", "exec", ns.Name(), "ip", "-br", "link").CombinedOutput()
	if err != nil || !strings.HasPrefix(string(out), "lo ") {
		t.Errorf("iproute2 inside: %v: %s", err, out)
	}
}

func TestDoActsInsideAndComesBack(t *testing.T) {
	ns := newNS(t, "a")
	inside, before, after := "", readNS(t), ""
	must(t, ns.Do(func() error { inside = readNS(t); return nil }))
	after = readNS(t)
	if inside == before || after != before {
		t.Errorf("before %s, inside %s, after %s", before, inside, after)
	}
	boom := errors.New("boom")
	if err := ns.Do(func() error { return boom }); !errors.Is(err, boom) {
		t.Errorf("Do returns %v", err)
	}
}

func readNS(t *testing.T) string {
	t.Helper()
	s, err := os.Readlink("/proc/thread-self/ns/net")
	must(t, err)
	return s
}

func TestInProcess(t *testing.T) {
	ns := newNS(t, "a")
	// A process in namespaces of its own, to be joined.
	sleeper := exec.Command("unshare", "--mount", "--uts", "--ipc", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", "hostname inside; echo; exec sleep 100")
	stdout, err := sleeper.StdoutPipe()
	must(t, err)
	must(t, ns.Do(sleeper.Start))
	defer func() { sleeper.Process.Kill(); sleeper.Wait() }()
	stdout.Read(make([]byte, 1)) // the hostname is set
	kids, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", sleeper.Process.Pid, sleeper.Process.Pid))
	must(t, err)
	var pid int
	fmt.Sscan(string(kids), &pid)

	cmd := exec.Command("sh", "-c", "hostname; echo $$; ls /proc | grep -c '^[0-9]'; exit 7")
	var out strings.Builder
	cmd.Stdout = &out
	must(t, netio.InProcess(pid, cmd.Start))
	err = cmd.Wait()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 7 {
		t.Errorf("Wait = %v, want exit code 7", err)
	}
	lines := strings.Fields(out.String())
	if len(lines) != 3 || lines[0] != "inside" || len(lines[1]) > 2 {
		t.Errorf("inside the process's namespaces: %q", lines)
	}
	if host, _ := os.Hostname(); host == "inside" {
		t.Error("the caller's hostname changed")
	}
	if err := netio.InProcess(1<<22, func() error { return nil }); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("InProcess of none: %v", err)
	}
}

func TestVethBridgeRoutes(t *testing.T) {
	a, b, sw := newNS(t, "a"), newNS(t, "b"), newNS(t, "sw")
	mac := net.HardwareAddr{2, 0x57, 0x43, 0, 0, 1}
	must(t,
		sw.AddBridge(netio.BridgeSpec{Name: "br0", MAC: mac}),
		a.AddVeth(netio.VethSpec{Name: "eth0", Peer: sw, PeerName: "p-a"}),
		b.AddVeth(netio.VethSpec{Name: "eth0", Peer: sw, PeerName: "p-b", MTU: 1400}),
	)
	if err := a.AddVeth(netio.VethSpec{Name: "eth0", Peer: sw, PeerName: "p-c"}); !errors.Is(err, fs.ErrExist) {
		t.Errorf("second AddVeth: %v, want fs.ErrExist", err)
	}
	for i, ns := range []*netio.NS{a, b} {
		port := []string{"p-a", "p-b"}[i]
		must(t, sw.SetMaster(port, "br0"), sw.SetUp(port), ns.SetUp("eth0"), ns.SetMTU("eth0", 1450),
			ns.AddAddr("eth0", netip.MustParsePrefix(fmt.Sprintf("192.0.2.%d/24", i+1))),
			ns.AddAddr("eth0", netip.MustParsePrefix(fmt.Sprintf("2001:db8::%d/64", i+1))))
	}
	if err := a.AddAddr("eth0", netip.MustParsePrefix("192.0.2.1/24")); !errors.Is(err, fs.ErrExist) {
		t.Errorf("second AddAddr: %v, want fs.ErrExist", err)
	}
	// Bridged IPv4 passes although the switch does not forward: the trap.
	connect(t, a, b, "192.0.2.2")
	connect(t, a, b, "2001:db8::2")

	l, err := sw.Link("p-b")
	must(t, err)
	if l.Kind != "veth" || l.Master != "br0" || !l.Up || !l.Carrier || l.MTU != 1400 || l.RxPackets == 0 {
		t.Errorf("port: %+v", l)
	}
	must(t, b.SetDown("eth0"))
	if l, err = sw.Link("p-b"); err != nil || l.Carrier || !l.Up {
		t.Errorf("after the far end went down: %+v %v", l, err)
	}
	must(t, sw.SetMaster("p-b", ""))
	if l, err = sw.Link("p-b"); err != nil || l.Master != "" {
		t.Errorf("after SetMaster none: %+v %v", l, err)
	}

	addrs, err := a.Addrs("eth0")
	must(t, err)
	for _, want := range []string{"192.0.2.1/24", "2001:db8::1/64"} {
		if !slices.Contains(addrs, netip.MustParsePrefix(want)) {
			t.Errorf("Addrs = %v, lacks %s", addrs, want)
		}
	}
	must(t, a.DelAddr("eth0", netip.MustParsePrefix("192.0.2.1/24")))
	if err := a.DelAddr("eth0", netip.MustParsePrefix("192.0.2.1/24")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("second DelAddr: %v, want fs.ErrNotExist", err)
	}

	routes := []netio.Route{
		{Dst: netip.MustParsePrefix("::/0"), Gateway: netip.MustParseAddr("fe80::1"), Link: "eth0", Table: 646, Metric: 1024, Protocol: 4},
		{Dst: netip.MustParsePrefix("2001:db8:1::/48"), Gateway: netip.MustParseAddr("2001:db8::2"), Link: "eth0", Table: 646, Metric: 7, Protocol: 4, MTU: 1300},
		{Dst: netip.MustParsePrefix("198.51.100.0/24"), Link: "eth0", Table: 646, Protocol: 188},
		{Dst: netip.MustParsePrefix("203.0.113.0/24"), Table: 646, Protocol: 4},
	}
	for _, r := range routes {
		must(t, a.AddRoute(r), a.ReplaceRoute(r))
	}
	if err := a.AddRoute(routes[0]); !errors.Is(err, fs.ErrExist) {
		t.Errorf("second AddRoute: %v, want fs.ErrExist", err)
	}
	got, err := a.Routes(646)
	must(t, err)
	if len(got) != len(routes) {
		t.Errorf("Routes = %+v", got)
	}
	for _, r := range routes {
		if !slices.Contains(got, r) {
			t.Errorf("Routes = %+v, lacks %+v", got, r)
		}
		must(t, a.DelRoute(r))
	}
	if err := a.DelRoute(routes[0]); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("second DelRoute: %v, want fs.ErrNotExist", err)
	}

	must(t, a.MoveLink("eth0", newNS(t, "b2")))
	if _, err := a.Link("eth0"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Link after it moved away: %v", err)
	}
	must(t, sw.DeleteLink("br0"))
	if err := sw.DeleteLink("br0"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("second DeleteLink: %v, want fs.ErrNotExist", err)
	}
	if err := sw.SetUp("br0"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("SetUp of none: %v, want fs.ErrNotExist", err)
	}
}

// connect proves that TCP passes from a to the address, which is b's.
func connect(t *testing.T, a, b *netio.NS, addr string) {
	t.Helper()
	var l net.Listener
	must(t, b.Do(func() (err error) { l, err = net.Listen("tcp", net.JoinHostPort(addr, "0")); return }))
	defer l.Close()
	if err := a.Do(func() error {
		c, err := net.DialTimeout("tcp", l.Addr().String(), 5*time.Second)
		if err == nil {
			c.Close()
		}
		return err
	}); err != nil {
		t.Errorf("connect to %s: %v", addr, err)
	}
}

func TestSysctl(t *testing.T) {
	ns := newNS(t, "a")
	must(t, ns.SetForwarding(true))
	for _, key := range []string{"net.ipv4.ip_forward", "net/ipv6/conf/all/forwarding"} {
		if v, err := ns.GetSysctl(key); err != nil || v != "1" {
			t.Errorf("%s = %q, %v", key, v, err)
		}
	}
	if err := ns.Sysctl("net.no.such", "1"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("unknown key: %v, want fs.ErrNotExist", err)
	}
	for _, bad := range []string{"", "../../etc/passwd", "net/../x"} {
		if err := ns.Sysctl(bad, "1"); err == nil {
			t.Errorf("Sysctl(%q) succeeded", bad)
		}
	}
}

func TestTAPCarriesFrames(t *testing.T) {
	ns := newNS(t, "a")
	f, err := ns.OpenTAP("tap0")
	must(t, err, f.SetReadDeadline(time.Now().Add(5*time.Second)))
	if _, err := ns.OpenTAP("tap0"); err == nil {
		t.Error("second OpenTAP succeeded")
	}
	must(t, ns.SetUp("tap0"), ns.AddAddr("tap0", netip.MustParsePrefix("192.0.2.1/24")))
	must(t, ns.Do(func() error {
		c, err := net.Dial("udp", "192.0.2.2:9")
		if err == nil {
			defer c.Close()
			_, err = c.Write([]byte("x"))
		}
		return err
	}))
	buf := make([]byte, 2000)
	for {
		n, err := f.Read(buf)
		must(t, err)
		if n >= 42 && buf[12] == 8 && buf[13] == 6 { // ARP request for .2
			break
		}
	}
	must(t, f.Close())
	if _, err := ns.Link("tap0"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("after Close: %v", err)
	}
}
