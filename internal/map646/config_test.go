package map646_test

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"widecloud/internal/map646"
	"widecloud/internal/packet/siit"
)

func write(t testing.TB, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// The reference configuration says that its settings are the defaults, but for
// what it calls an example.
func TestReferenceConfiguration(t *testing.T) {
	ref, err := map646.Load("../../examples/map646.toml")
	if err != nil {
		t.Fatal(err)
	}
	def, err := map646.Load(write(t, "map646.toml", ""))
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(def, ref, cmpopts.IgnoreUnexported(map646.Config{}),
		cmpopts.IgnoreFields(map646.Config{}, "Translation", "Addresses", "Ways", "Fast.Devices", "Fast.XDP", "MetricsListen", "DNS64")); d != "" {
		t.Error(d)
	}
	host := func(s string) netip.Prefix {
		a := netip.MustParseAddr(s)
		return netip.PrefixFrom(a, a.BitLen())
	}
	want := siit.Spec{
		Pref64: netip.MustParsePrefix("2001:db8:64::/96"),
		Mappings: []siit.Mapping{{V4: host("203.0.113.10"), V6: host("2001:db8:a::10")},
			{V4: host("203.0.113.11"), V6: host("2001:db8:a::11")}, {V4: host("203.0.113.12"), V6: host("2001:db8:a::12")}},
		Mappings66: []siit.Mapping66{{Service: host("2001:db8:f::10"), Inside: host("2001:db8:a::10")},
			{Service: host("2001:db8:f::11"), Inside: host("2001:db8:a::11")}},
		Inside:      []netip.Prefix{netip.MustParsePrefix("2001:db8:a::/64")},
		Served:      []netip.Prefix{netip.MustParsePrefix("2001:db8:f::/64"), netip.MustParsePrefix("2001:db8:64::/96")},
		ICMPSource4: netip.MustParseAddr("203.0.113.254"), ICMPSource6: netip.MustParseAddr("2001:db8:f::ffff"),
		Pool4: netip.MustParsePrefix("203.0.113.240/29"), LowestIPv6MTU: 1280,
	}
	if d := cmp.Diff([]map646.Way{{To: netip.MustParseAddr("2001:db8:a::1"), Devices: []string{"vx-*"}}}, ref.Ways, cmpopts.EquateComparable(netip.Addr{})); d != "" {
		t.Error(d)
	}
	if !slices.Equal(ref.Fast.Devices, []string{"eth0", "vx-*"}) || ref.DNS64 == nil || ref.DNS64.Prefix != ref.Translation.Pref64 {
		t.Errorf("fast path %+v, DNS64 %+v", ref.Fast, ref.DNS64)
	}
	if d := cmp.Diff(want, ref.Translation, cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }), cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); d != "" {
		t.Error(d)
	}
	// By itself, the first map646's file is a configuration too.
	seed, err := map646.Load("../../examples/map646.conf")
	if err != nil {
		t.Fatal(err)
	}
	if n := len(seed.Translation.Mappings); n != 2 || seed.TUN.Name != "tun646" || seed.Translation.Pref64.Bits() != 96 {
		t.Errorf("map646.conf: %d mappings, %+v", n, seed.TUN)
	}
}

func TestBadConfiguration(t *testing.T) {
	const good = `pref64 = "2001:db8:64::/96"
[tun]
addresses = [
  "203.0.113.254/24",
  "2001:db8:f::ffff/64",
]
[[map]]
v4 = "203.0.113.10"
v6 = "2001:db8:a::10"
[[map66]]
service = "2001:db8:f::10"
inside = "2001:db8:a::10"
`
	if _, err := map646.Load(write(t, "map646.toml", good)); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ old, text, want string }{
		{"", "colour = 1", ":14: map66.colour: unknown field"},
		{"[tun]", "[tun]\nspeed = 1", ":3: tun.speed: unknown field"},
		{"[tun]", "[tun]\nmtu = \"big\"", ":3: tun.mtu: "},
		{"[tun]", "[tun]\nmtu = 100", ":3: tun.mtu: 100 is not"},
		{"[tun]", "[tun", ":2: "},
		{"[tun]", "[tun]\nname = \"a name that is too long\"", ":3: tun.name: "},
		{"[tun]", "[tun]\nqueues = -1", ":3: tun.queues: "},
		{"[tun]", "[tun]\nbulk_nice = 1", ":3: tun.bulk_nice: "},
		{"[tun]", "[tun]\nbulk_backlog = -1", ":3: tun.bulk_backlog: "},
		{"[tun]", "[route]\ntable = 254\n[tun]", ":3: route.table: "},
		{"[tun]", "[route]\npriority = 40000\n[tun]", ":3: route.priority: "},
		{"[tun]", "[route]\npriority = 5\n[tun]", ":3: route.priority: "},
		{"[tun]", "[route]\ntable = 252\n[tun]", ":3: route.table: "},
		{"[tun]", "[icmp]\nsource4 = \"::1\"\n[tun]", ":3: icmp.source4: bad address"},
		{"[tun]", "[icmp]\nrate = -1\n[tun]", ":3: icmp.rate: "},
		{"pref64", "linger = \"soon\"\npref64", ":1: linger: "},
		{"pref64", "inside = [\"2001:db8::1\"]\npref64", ":1: inside[0]: "},
		{"pref64", "mtu6 = 1000\npref64", ":1: mtu6: "},
		{"pref64", "traffic_class = \"gold\"\npref64", ":1: traffic_class: "},
		{"pref64", "udp_zero_checksum = \"maybe\"\npref64", ":1: udp_zero_checksum: "},
		{"pref64", "mappings_file = \"nowhere.conf\"\npref64", ":1: mappings_file: "},
		{"pref64", "private = \"yes\"\npref64", ":1: private: "},
		{"[tun]", "[icmp]\npool4 = \"203.0.113.1/29\"\n[tun]", ":3: icmp.pool4: bad prefix"},
		{"[tun]", "[route]\nsources = \"all\"\n[tun]", ":3: route.sources: "},
		{"[tun]", "[[health.route]]\ndevices = [\"dc\"]\n[tun]", ":2: health.route[0].to: bad address \"\""},
		{"[tun]", "[[health.route]]\nto = \"ff02::5\"\n[tun]", ":3: health.route[0].to: \"ff02::5\" is no address"},
		{"[tun]", "[[health.route]]\nto = \"2001:db8:b::1\"\n[[health.route]]\nto = \"192.0.2.1\"\ndevices = [\"[\"]\n[tun]", ":6: health.route[1].devices[0]: bad pattern"},
		{"[tun]", "[fast]\ndevices = [\"eth0\", \"[\"]\n[tun]", ":3: fast.devices[1]: bad pattern"},
		{"[tun]", "[fast]\ndevices = [\"map*\"]\n[tun]", ":3: fast.devices[0]: \"map*\" would take"},
		{"[tun]", "[fast]\nxdp = [\"[\"]\n[tun]", ":3: fast.xdp[0]: bad pattern"},
		{"[tun]", "[fast]\npin = \"here\"\n[tun]", ":3: fast.pin: "},
		{"[tun]", "[fast]\nforward = \"fast\"\n[tun]", ":3: fast.forward: \"fast\" is not auto, kernel or direct"},
		{"[tun]", "[fast]\nmax_mappings = -1\n[tun]", ":3: fast.max_mappings: "},
		{"[tun]", "[metrics]\nlisten = \"9646\"\n[tun]", ":3: metrics.listen: "},
		{"[tun]", "[metrics]\nbusiest = -1\n[tun]", ":3: metrics.busiest: "},
		{"[tun]", "[dns64]\nlisten = [\"::1\"]\n[tun]", ":2: dns64.upstream: "},
		{"[tun]", "[dns64]\nlisten = [\"::1\"]\nupstream = [\"x\"]\n[tun]", ":4: dns64.upstream[0]: bad address"},
		{"[tun]", "[dns64]\nlisten = [\"::1\"]\nupstream = [\"192.0.2.1\"]\ntimeout = \"2\"\n[tun]", ":5: dns64.timeout: "},
		{"64::/96", "64::/95", ":1: pref64: bad prefix"},
		{"64::/96", "64::1/96", ":1: pref64: bad prefix"},
		{"254/24", "254", ":3: tun.addresses[0]: "},
		{"f::ffff/64", "f::ffff/640", ":3: tun.addresses[1]: "},
		{"", "[[map]]\nv4 = \"203.0.113.10\"\nv6 = \"2001:db8:a::11\"", ":15: map[1].v4: duplicate address 203.0.113.10"},
		{"", "[[map]]\nv4 = \"203.0.113.11\"\nv6 = \"2001:db8:a::10\"", ":16: map[1].v6: duplicate address"},
		{"", "[[map]]\nv4 = \"203.0.113.11\"", ":14: map[1].v6: bad address"},
		{"", "[[map]]\nv4 = \"203.0.113.254\"\nv6 = \"2001:db8:a::11\"", ":15: map[1].v4: 203.0.113.254 is an address of the device"},
		{"", "[[map]]\nv4 = \"203.0.113.255\"\nv6 = \"2001:db8:a::11\"", ":15: map[1].v4: 203.0.113.255 is the broadcast address"},
		{"", "[[map]]\nv4 = \"203.0.113.0/24\"\nv6 = \"2001:db8:a::11\"", ":15: map[1].v4: bad prefix 203.0.113.0/24: has 8 bits"},
		{"", "[[map]]\nv4 = \"203.0.113.0\"\nv6 = \"2001:db8:a::11\"", ":15: map[1].v4: 203.0.113.0 is the network address"},
		{"", "[[map66]]\nservice = \"2001:db8:f::\"\ninside = \"2001:db8:a::11\"", ":15: map66[1].service: 2001:db8:f:: is the subnet-router"},
		{"", "[[map66]]\nservice = \"2001:db8:64::5\"\ninside = \"2001:db8:a::11\"", ":15: map66[1].service: bad address"},
	} {
		text := good + "\n" + c.text
		if c.old != "" {
			text = strings.Replace(good, c.old, c.text, 1)
		}
		path := write(t, "map646.toml", text)
		_, err := map646.Load(path)
		if !errors.Is(err, map646.ErrConfig) || !strings.Contains(err.Error(), path+c.want) {
			t.Errorf("%q: %v\nwant %s", c.text, err, c.want)
		}
	}
	for _, c := range []struct{ text, want string }{
		{"map-static 203.0.113.10 2001:db8:a::10", "pref64: bad prefix"},
		{"mapping-prefix 64:ff9b::\nmap-static 203.0.113.10", ":2: map-static: 1 arguments"},
		{"mapping-prefix 64:ff9b::\n\nmap-static 203.0.113.300 2001:db8:a::10", ":3: map-static: first argument: bad address"},
		{"mapping-prefix 64:ff9b::\nmap-static 203.0.113.10 2001:db8:a::10\nmap-static 203.0.113.10 2001:db8:a::11", ":3: map[1].v4: duplicate"},
		{"map66-static 2001:db8:f::1 fe80::1", ":1: map66[0].inside: bad address"},
		{"mapping-prefix 203.0.113.0", ":1: mapping-prefix: bad prefix"},
		{"mapping-prefix 64:ff9b::\nmapping-prefix 64:ff9c::", ":2: mapping-prefix: is 64:ff9b::/96 already"},
		{"include nowhere", ":1: include: "},
		{"include map646.conf", "nested more than 10 deep"},
		{"map-dynamic a b", ":1: map-dynamic: unknown statement"},
	} {
		path := write(t, "map646.conf", c.text)
		_, err := map646.Load(path)
		if !errors.Is(err, map646.ErrConfig) || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q: %v\nwant %s", c.text, err, c.want)
		}
	}
}

// FuzzLoad: no text makes the reader panic, and what it refuses it refuses as a
// bad configuration.
func FuzzLoad(f *testing.F) {
	for _, name := range []string{"toml", "conf"} {
		b, err := os.ReadFile("../../examples/map646." + name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(string(b), name == "toml")
	}
	f.Fuzz(func(t *testing.T, text string, toml bool) {
		name := "m.conf"
		if toml {
			name = "m.toml"
		}
		if strings.Contains(text, "include") || strings.Contains(text, "mappings_file") {
			return
		}
		if _, err := map646.Load(write(t, name, text)); err != nil && !errors.Is(err, map646.ErrConfig) {
			t.Fatal(err)
		}
	})
}

// A million mappings load, and what is wrong with one of them names its line.
func TestManyMappings(t *testing.T) {
	const n = 1_000_000
	var s strings.Builder
	s.WriteString("mapping-prefix 64:ff9b::\n")
	for i := range n {
		fmt.Fprintf(&s, "map-static 10.%d.%d.%d 2001:db8:a::%x:%x\n", i>>16, i>>8&255, i&255, i>>16, i&0xffff)
	}
	begun := time.Now()
	c, err := map646.Load(write(t, "map646.conf", s.String()))
	if err != nil || len(c.Translation.Mappings) != n {
		t.Fatal(err)
	}
	t.Logf("a million mappings read and checked in %v", time.Since(begun))
	s.WriteString("map-static 10.200.0.0 2001:db8:a::5:6\n")
	if _, err := map646.Load(write(t, "map646.conf", s.String())); err == nil || !strings.Contains(err.Error(), "map646.conf:1000002: map[1000000].v6: duplicate address") {
		t.Errorf("a duplicate: %v", err)
	}
}

// TestDNS64FollowsTranslation: DNS64 must synthesise for the addresses that are translated, and for no others.
func TestDNS64FollowsTranslation(t *testing.T) {
	for word, want := range map[string]siit.Private{"auto": siit.PrivateAuto, "allow": siit.PrivateAllow, "drop": siit.PrivateDrop} {
		path := filepath.Join(t.TempDir(), "map646.toml")
		text := "pref64 = \"2001:db8:64::/96\"\nprivate = \"" + word + "\"\n[dns64]\nlisten = [\"[2001:db8::53]:53\"]\nupstream = [\"192.0.2.53\"]\nallow_from = [\"2001:db8::/32\"]\n"
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		c, err := map646.Load(path)
		if err != nil {
			t.Fatal(err)
		}
		if c.DNS64.Private != want || c.DNS64.Prefix != c.Translation.Pref64 {
			t.Errorf("%s: DNS64 has private %v, prefix %v", word, c.DNS64.Private, c.DNS64.Prefix)
		}
	}
}
