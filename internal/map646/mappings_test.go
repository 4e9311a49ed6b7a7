package map646_test

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"widecloud/internal/map646"
)

const mappingsConf = `
pref64 = "2001:db8:64::/96"
control = "%CONTROL%"
mappings_file = "mappings"
linger = "10ms"
[tun]
queues = 1
addresses = ["203.0.113.254/24", "2001:db8:f::ffff/64", "2001:db8:64::1/96"]
[[map]]
v4 = "203.0.113.1"
v6 = "2001:db8:a::1"
`

// Each line of the mappings file is taken or refused by itself; the configuration's own mappings are not.
func TestMappingsFile(t *testing.T) {
	path := write(t, "map646.toml", mappingsConf)
	mappings := filepath.Join(filepath.Dir(path), "mappings")
	put := func(text string) {
		if err := writeFile(mappings, text); err != nil {
			t.Fatal(err)
		}
	}
	const good = "map-static 203.0.113.10 2001:db8:a::10\nmap66-static 2001:db8:f::10 2001:db8:a::10\n"
	for _, tc := range []struct {
		line    string // between good ones
		outside string
		reason  string // "": it is good, too
	}{
		{"map-static 203.0.113.12 2001:db8:a::12", "", ""},
		{"# nothing", "", ""},
		{"map-static 203.0.113.254 2001:db8:a::12", "203.0.113.254", "203.0.113.254 is an address of the device itself"},
		{"map-static 203.0.113.255 2001:db8:a::12", "203.0.113.255", "203.0.113.255 is the broadcast address of 203.0.113.0/24"},
		{"map-static 203.0.113.0 2001:db8:a::12", "203.0.113.0", "203.0.113.0 is the network address of 203.0.113.0/24"},
		{"map66-static 2001:db8:f:: 2001:db8:a::12", "2001:db8:f::", "2001:db8:f:: is the subnet-router anycast address of 2001:db8:f::/64"},
		{"map66-static 2001:db8:64::1 2001:db8:a::12", "2001:db8:64::1", "2001:db8:64::1 is an address of the device itself"},
		{"map66-static 2001:db8:64::9 2001:db8:a::12", "2001:db8:64::9", "outside: bad address 2001:db8:64::9/128: lies in pref64 2001:db8:64::/96"},
		{"map-static 203.0.113.11 2001:db8:a::10", "203.0.113.11", "inside: duplicate address 2001:db8:a::10/128: is that of 203.0.113.10/32"},
		{"map-static 203.0.113.10 2001:db8:a::12", "203.0.113.10", "outside: duplicate address 203.0.113.10/32: is mapped to 2001:db8:a::10/128"},
		{"map-static 203.0.113.1 2001:db8:a::12", "203.0.113.1", "outside: duplicate address 203.0.113.1/32: is mapped to 2001:db8:a::1/128"},
		{"map-static 203.0.113.12 2001:db8:a::1", "203.0.113.12", "inside: duplicate address 2001:db8:a::1/128: is that of 203.0.113.1/32"},
		{"map66-static 2001:db8:a::10 2001:db8:a::12", "2001:db8:a::10", "outside: duplicate address 2001:db8:a::10/128: is also an inside address (2001:db8:a::10/128)"},
		{"map-static 224.0.0.1 2001:db8:a::12", "224.0.0.1", "outside: bad address 224.0.0.1/32: must be unicast, with no bits set behind its length"},
		{"map-static 203.0.113.12 fe80::1", "203.0.113.12", "inside: bad address fe80::1/128: must be global unicast IPv6, with no bits set behind its length"},
		{"map-static 203.0.113.64/26 2001:db8:a::12", "203.0.113.64/26", "outside: bad prefix 203.0.113.64/26: has 6 bits behind it, 2001:db8:a::12/128 only 0 (RFC 7757 §3.2)"},
		{"map-static 203.0.113.300 2001:db8:a::12", "203.0.113.300", `first argument: bad address "203.0.113.300"`},
		{"map-static 203.0.113.12 here", "203.0.113.12", `second argument: bad address "here"`},
		{"map-static 2001:db8:f::12 2001:db8:a::12", "2001:db8:f::12", "first argument: 2001:db8:f::12 is not IPv4"},
		{"map66-static 203.0.113.12 2001:db8:a::12", "203.0.113.12", "first argument: 203.0.113.12 is not IPv6"},
		{"map-static 203.0.113.12", "203.0.113.12", "1 arguments, not 2"},
		{"map66-static", "", "0 arguments, not 2"},
		{"map-dynamic 203.0.113.12 2001:db8:a::12", "", "unknown statement"},
	} {
		put(good + tc.line + "\nmap-static 203.0.113.13 2001:db8:a::13\nmap66-static 2001:db8:f::13 2001:db8:a::13\n")
		c, err := map646.Load(path)
		if err != nil {
			t.Errorf("%s: %v", tc.line, err)
			continue
		}
		var want []map646.RefusedLine
		if tc.reason != "" {
			want = []map646.RefusedLine{{File: mappings, Line: 3, Outside: tc.outside, Reason: tc.reason}}
		}
		if d := cmp.Diff(want, c.Refused); d != "" {
			t.Errorf("%s (-want +got):\n%s", tc.line, d)
		}
		n := 3
		if tc.line == "map-static 203.0.113.12 2001:db8:a::12" {
			n++
		}
		if len(c.Translation.Mappings) != n || len(c.Translation.Mappings66) != 2 {
			t.Errorf("%s: taken are %v and %v", tc.line, c.Translation.Mappings, c.Translation.Mappings66)
		}
	}

	// Settings are no lines of one owner, and neither are mappings of the configuration itself.
	for _, tc := range []struct{ conf, mappings, want string }{
		{mappingsConf, good + "mapping-prefix 64:ff9b::", "mappings:3: mapping-prefix: is 2001:db8:64::/96 already"},
		{mappingsConf, good + "include nowhere", "mappings:3: include: open "},
		{mappingsConf + "[[map]]\nv4 = \"203.0.113.254\"\nv6 = \"2001:db8:a::2\"\n", good, "map646.toml:13: map[1].v4: 203.0.113.254 is an address of the device"},
		{mappingsConf + "[[map]]\nv4 = \"203.0.113.2\"\nv6 = \"2001:db8:a::1\"\n", good + "map-static 203.0.113.0 2001:db8:a::12", "map646.toml:14: map[1].v6: duplicate address"},
	} {
		put(tc.mappings)
		if err := writeFile(path, tc.conf); err != nil {
			t.Fatal(err)
		}
		if _, err := map646.Load(path); !errors.Is(err, map646.ErrConfig) || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%q: %v\nwant %s", tc.mappings, err, tc.want)
		}
	}
}

// Many bad lines among many good ones are found in good time, and the good ones are in force.
func TestManyBadMappings(t *testing.T) {
	path := write(t, "map646.toml", mappingsConf)
	var text strings.Builder
	const n = 20000
	for i := range n {
		fmt.Fprintf(&text, "map-static 10.%d.%d.%d 2001:db8:b::%x\n", i>>16, i>>8&255, i&255, i+1)
		fmt.Fprintf(&text, "map-static 11.%d.%d.%d 2001:db8:b::%x\n", i>>16, i>>8&255, i&255, i+1)     // the same machine's
		fmt.Fprintf(&text, "map66-static 2001:db8:b::%x 2001:db8:c::%x\n", i+1, i+1)                   // an inside address
		fmt.Fprintf(&text, "map66-static 2001:db8:e::%x 2001:db8:d::%x\n", i+1, i+1)                   // good
		fmt.Fprintf(&text, "map66-static 2001:db8:e:1::%x 2001:db8:d::%x\n", i+1, i+1)                 // the same machine's
		fmt.Fprintf(&text, "map66-static 2001:db8:%x::/64 2001:db8:%x:1::/64\n", 0x1000+i, 0x1000+i%9) // a few are good
	}
	if err := writeFile(filepath.Join(filepath.Dir(path), "mappings"), text.String()); err != nil {
		t.Fatal(err)
	}
	c, err := map646.Load(path)
	if err != nil {
		t.Fatal(err)
	}
	if got := []int{len(c.Translation.Mappings), len(c.Translation.Mappings66), len(c.Refused)}; !cmp.Equal(got, []int{n + 1, n + 9, 6*n - (n + n + 9)}) {
		t.Errorf("mappings, 1:1 mappings, refused lines: %v", got)
	}
}

// TestReloadTakesGoodLines: one owner's bad line keeps no other's mapping from coming, changing or going, and the reload says
// which line it was.
func TestReloadTakesGoodLines(t *testing.T) {
	w := small(t)
	w.must(w.ns["server"].AddAddr("gw", netip.MustParsePrefix("2001:db8:a::12/64")))
	_, path, socket := w.translator("gw", strings.Replace(mappingsConf, `mappings_file = "mappings"`, "", 1))
	mappings := filepath.Join(filepath.Dir(path), "mappings")
	w.config(path, mappingsConf, socket)
	reload := func(text string) (r map646.Reloaded) {
		t.Helper()
		w.must(writeFile(mappings, text), map646.Control(t.Context(), socket, "reload", &r))
		return r
	}
	answers := func(ns, addr string, want bool) {
		t.Helper()
		out, err := w.try(ns, "ping", "-c", "1", "-W", "1", addr)
		if want != (err == nil) {
			t.Errorf("%s answers: %t, want %t\n%s", addr, err == nil, want, out)
		}
	}
	bad := map646.RefusedLine{File: mappings, Line: 2, Outside: "203.0.113.254", Reason: "203.0.113.254 is an address of the device itself"}
	lines := "map-static 203.0.113.10 2001:db8:a::10\nmap-static 203.0.113.254 2001:db8:a::99\nmap66-static 2001:db8:f::10 2001:db8:a::10\n"
	r := reload(lines)
	if d := cmp.Diff([]map646.RefusedLine{bad}, r.Refused); d != "" || r.RefusedLines != 1 || r.Mappings != 2 || r.Mappings66 != 1 || r.ReloadErrors != 0 {
		t.Errorf("reload: %+v\nrefused (-want +got):\n%s", r, d)
	}
	answers("client4", "203.0.113.10", true)
	answers("client6", "2001:db8:f::10", true)
	answers("client4", "203.0.113.254", true) // still the node's own
	var refused []map646.RefusedLine
	w.must(map646.Control(t.Context(), socket, "refused", &refused))
	if d := cmp.Diff([]map646.RefusedLine{bad}, refused); d != "" {
		t.Errorf("refused (-want +got):\n%s", d)
	}
	// While it stays, others come, move and go.
	r = reload(strings.Replace(lines, "203.0.113.10 2001:db8:a::10", "203.0.113.10 2001:db8:a::12", 1) + "map-static 203.0.113.12 2001:db8:a::10\n")
	answers("client4", "203.0.113.12", true)
	answers("client4", "203.0.113.10", true)
	if len(r.Refused) != 1 || r.Mappings != 3 {
		t.Errorf("reload: %+v", r)
	}
	reload("map-static 203.0.113.254 2001:db8:a::99\n")
	answers("client4", "203.0.113.12", false)
	if r = reload(strings.Replace(lines, ".254", ".13", 1)); len(r.Refused) != 0 || r.RefusedLines != 0 || r.Mappings != 3 {
		t.Errorf("after the line was mended: %+v", r)
	}
}

func writeFile(path, text string) error { return os.WriteFile(path, []byte(text), 0o600) }
