package network_test

import (
	"context"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"widecloud/internal/agent/network"
)

func TestValidateNamesTheField(t *testing.T) {
	good := func() network.Want {
		return network.Want{VTEP: netip.MustParseAddr("2001:db8:1::2"), Role: network.Role{Hypervisor: true}, AnycastVTEP: anycast, Networks: []network.Network{blue()}}
	}
	if err := good().Validate(); err != nil {
		t.Fatal(err)
	}
	if err := (network.Want{}).Validate(); err != nil {
		t.Errorf("a host without networks: %v", err)
	}
	for want, spoil := range map[string]func(*network.Want){
		"vtep: ":                func(w *network.Want) { w.VTEP = netip.MustParseAddr("192.0.2.1") },
		"anycast_vtep: ":        func(w *network.Want) { w.AnycastVTEP = w.VTEP },
		"anycast_vtep: missing": func(w *network.Want) { w.AnycastVTEP, w.Role = netip.Addr{}, network.Role{Gateway: true} },
		"role: a host":          func(w *network.Want) { w.Role = network.Role{} },
		"reserved[1]: missing":  func(w *network.Want) { w.Reserved = []netip.Prefix{blueNet, {}} },
	} {
		w := good()
		spoil(&w)
		err := w.Validate()
		if err == nil || !strings.Contains("\n"+err.Error(), "\n"+want) {
			t.Errorf("want %q, got %v", want, err)
		}
	}
}

func TestDeviceNamesFitTheKernel(t *testing.T) {
	for _, uid := range []string{"", "a", strings.Repeat("long", 100)} {
		if b, v := network.BridgeName(uid), network.VXLANName(uid); len(b) > 15 || len(v) > 15 || b[3:] != v[3:] {
			t.Errorf("%q: %s %s", uid, b, v)
		}
	}
}

// TestGenerated compares what dnsmasq is given with testdata; UPDATE=1 writes it anew.
func TestGenerated(t *testing.T) {
	w := newWorld(t, "h1")
	n := blue()
	n.Endpoints = []network.Endpoint{endpoint(n, "b", 2, w.hosts["h1"]), endpoint(n, "a", 1, w.hosts["h1"])}
	n.Endpoints[0].IPv4 = netip.Addr{}
	h := w.hosts["h1"]
	w.apply(h, w.wantAmong(h, n, []string{"h1"}))
	dir := h.runDir + "/" + strings.TrimPrefix(network.BridgeName(n.UID), "br-")
	for _, name := range []string{"dhcp.conf", "dns.conf", "hosts", "names"} {
		got, err := os.ReadFile(dir + "/" + name)
		must(t, err)
		got = []byte(strings.ReplaceAll(string(got), dir, "/run/widecloud/networks/"+dir[len(h.runDir)+1:]))
		golden := "testdata/" + name
		if os.Getenv("UPDATE") != "" {
			must(t, os.MkdirAll("testdata", 0o755), os.WriteFile(golden, got, 0o644))
		}
		want, err := os.ReadFile(golden)
		must(t, err)
		if diff := cmp.Diff(string(want), string(got)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

func TestRefusesWhatDnsmasqCannotRead(t *testing.T) {
	w := newWorld(t, "h1")
	h := w.hosts["h1"]
	must(t, os.Chmod(h.runDir, 0o700))
	err := h.d.Apply(context.Background(), w.wantAmong(h, blue(), []string{"h1"}))
	if err == nil || !strings.Contains(err.Error(), "run_dir: "+h.runDir+" has mode 0700") {
		t.Errorf("Apply = %v", err)
	}
	if _, err := network.New(network.Options{Logger: slog.New(slog.NewTextHandler(io.Discard, nil)), RunDir: "relative"}); err == nil {
		t.Error("a relative run directory was taken")
	}
}

func TestTwoNetworksMayHaveTheSameIPv4(t *testing.T) {
	w := newWorld(t, "h1")
	h, n, red := w.hosts["h1"], blue(), blue()
	red.UID, red.Name, red.VNI, red.Prefix = "77e1-red", "red", 101, netip.MustParsePrefix("2001:db8:b1ae:2::/64")
	n.Endpoints = []network.Endpoint{endpoint(n, "a", 1, h)}
	red.Endpoints = []network.Endpoint{endpoint(red, "r", 1, h)}
	want := w.wantAmong(h, n, []string{"h1"})
	want.Networks = append(want.Networks, red)
	w.apply(h, want)
	for _, g := range []*guest{w.plug(h, n, n.Endpoints[0]), w.plug(h, red, red.Endpoints[0])} {
		addr, _, err := g.dhcp()
		if err != nil || addr != netip.MustParseAddr("10.64.1.1") {
			t.Errorf("%s: %v %v", g.ep.VM, addr, err)
		}
		g.slaac()
	}
	// What a VM of one sends to a VM of the other does not stay on the host: it is the gateways' to route.
	if out := run(t, h.ns, "ip", "-6", "route", "get", red.Endpoints[0].IPv6.String(), "from", n.Endpoints[0].IPv6.String(), "iif", h.d.Bridge(n.UID)); !strings.Contains(out, "via fe80::646 dev "+h.d.Bridge(n.UID)) {
		t.Errorf("route from blue to red: %s", out)
	}
	if leases, err := h.d.Leases(t.Context()); err != nil || len(leases) != 2 {
		t.Errorf("leases: %v %v", leases, err)
	}
}

func FuzzLeases(f *testing.F) {
	f.Add([]byte("1795373400 02:57:43:64:10:01 10.64.1.1 a 01:02:57:43:64:10:01\n0 02:57:43:64:10:02 10.64.1.2 * *\nduid 00:01\n17953734"))
	dir := f.TempDir()
	must2 := func(err error) {
		if err != nil {
			f.Fatal(err)
		}
	}
	d, err := network.New(network.Options{Logger: slog.New(slog.NewTextHandler(io.Discard, nil)), RunDir: dir})
	must2(err)
	f.Cleanup(func() { d.Close(context.Background()) })
	must2(os.Mkdir(dir+"/0123456789", 0o755))
	f.Fuzz(func(t *testing.T, b []byte) {
		must(t, os.WriteFile(dir+"/0123456789/leases", b, 0o644))
		leases, err := d.Leases(t.Context())
		must(t, err)
		for _, l := range leases {
			if !l.IPv4.Is4() || len(l.MAC) == 0 {
				t.Errorf("lease %+v out of %q", l, b)
			}
		}
		if strings.HasPrefix(string(b), "1795373400 02:57:43:64:10:01 10.64.1.1 a 01:02:57:43:64:10:01\n") && len(leases) == 0 {
			t.Errorf("no lease out of %q", b)
		}
	})
}
