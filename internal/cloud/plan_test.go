package cloud_test

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"widecloud/api"
	"widecloud/internal/cloud"
)

func prefixes(list ...string) (out []netip.Prefix) {
	for _, p := range list {
		out = append(out, netip.MustParsePrefix(p))
	}
	return out
}

var plan = cloud.Plan{
	Pools: []cloud.Pool{
		{Name: "users", Use: cloud.PoolNetworks, Prefixes: prefixes("2001:db8:b1ae::/62", "fd00:1::/48"), Except: prefixes("2001:db8:b1ae:1::/64"), Owners: []string{"*"}},
		{Name: "lab", Use: cloud.PoolNetworks, Prefixes: prefixes("2001:db8:1ab::/48"), Owners: []string{"lab1"}},
		{Name: "osaka", Use: cloud.PoolNetworks, Prefixes: prefixes("2001:db8:05a::/48"), Peers: []string{"osaka"}},
		{Name: "public4", Use: cloud.PoolAddresses, Prefixes: prefixes("203.0.113.0/29", "198.51.100.7/32"), Except: prefixes("203.0.113.6/32"), Owners: []string{"*"}, Peers: []string{"*"}},
		{Name: "public6", Use: cloud.PoolAddresses, Prefixes: prefixes("2001:db8:f::/64"), Owners: []string{"*"}},
	},
	Reserved: []cloud.Reserved{{Prefix: netip.MustParsePrefix("2001:db8:b1ae:2::/64"), Why: "a test"}},
}

func TestPlanChecks(t *testing.T) {
	lab1, uni, site, osaka, nara := cloud.Party{Owner: "lab1"}, cloud.Party{Owner: "uni"}, cloud.Party{}, cloud.Party{Peer: "osaka"}, cloud.Party{Peer: "nara"}
	for _, tc := range []struct {
		what string
		who  cloud.Party
		want string // part of the error; empty: permitted
	}{
		{"2001:db8:b1ae::/64", uni, ""},
		{"2001:db8:b1ae:1::/64", uni, "2001:db8:b1ae:1::/64 is kept from everybody in pool users of this site's address plan (except)"},
		{"2001:db8:b1ae:2::/64", uni, "2001:db8:b1ae:2::/64 is reserved: a test"},
		{"2001:db8:b1ae:2::/64", site, "is reserved"},
		{"2001:db8:b1ae:4::/64", uni, "2001:db8:b1ae:4::/64 is in no pool of this site's address plan that is for networks; open to owner uni: users (2001:db8:b1ae::/62, fd00:1::/48)"},
		{"fd00:1::/64", site, ""},
		{"2001:4860:4860::/64", uni, "is in no pool"},
		{"2001:db8:1ab::/64", lab1, ""},
		{"2001:db8:1ab::/64", site, ""},
		{"2001:db8:1ab::/64", uni, "2001:db8:1ab::/64 is in pool lab of this site's address plan, which is not open to owner uni"},
		{"2001:db8:1ab::/64", osaka, "not open to site osaka"},
		{"2001:db8:5a:7::/64", osaka, ""},
		{"2001:db8:5a:7::/64", nara, "not open to site nara"},
		{"2001:db8:b1ae::/64", nara, "not open to site nara"},
		{"2001:db8:f::/64", uni, "is in no pool"}, // it is for addresses
		{"203.0.113.1", uni, ""},
		{"203.0.113.1", nara, ""},
		{"203.0.113.0", uni, "203.0.113.0 is the network's or the broadcast address of 203.0.113.0/29"},
		{"203.0.113.7", uni, "broadcast"},
		{"203.0.113.6", uni, "is kept from everybody"},
		{"198.51.100.7", uni, ""},
		{"8.8.8.8", uni, "8.8.8.8 is in no pool of this site's address plan that is for addresses"},
		{"2001:db8:f::", uni, "network's"},
		{"2001:db8:f::1", uni, ""},
		{"2001:db8:f::1", osaka, "not open to site osaka"},
		{"2001:db8:b1ae::1", uni, "is in no pool"}, // it is for networks
	} {
		var err error
		if strings.Contains(tc.what, "/") {
			err = plan.CheckNetwork("spec.prefix", netip.MustParsePrefix(tc.what), tc.who)
		} else {
			err = plan.CheckAddress("spec.prefix", netip.MustParseAddr(tc.what), tc.who)
		}
		var e *api.Error
		switch {
		case tc.want == "" && err == nil:
		case !errors.As(err, &e) || e.Field != "spec.prefix" || tc.want == "" || !strings.Contains(e.Message, tc.want):
			t.Errorf("%s for %s: %v; want %q", tc.what, tc.who, err, tc.want)
		}
	}
	for a, ok := range map[string]bool{"2001:db8:b1ae::1": false, "203.0.113.200": true, "203.0.113.2": false, "2001:db8:1::1": true} {
		if err := plan.Underlay("vtep", netip.MustParseAddr(a)); (err == nil) != ok {
			t.Errorf("%s as a host's own address: %v", a, err)
		}
	}
}

func TestPlanFree(t *testing.T) {
	uni := cloud.Party{Owner: "uni"}
	takenNets := map[netip.Prefix]bool{}
	var got []string
	for range 3 {
		p, err := plan.FreeNetwork("", uni, func(p netip.Prefix) bool { return takenNets[p] })
		if err != nil {
			t.Fatal(err)
		}
		takenNets[p] = true
		got = append(got, p.String())
	}
	// Neither the excepted 1::/64 nor the reserved 2::/64.
	if want := "2001:db8:b1ae::/64 2001:db8:b1ae:3::/64 fd00:1::/64"; strings.Join(got, " ") != want {
		t.Errorf("free networks: %v, want %s", got, want)
	}
	taken := map[netip.Addr]bool{}
	got = nil
	var err error
	for {
		var a netip.Addr
		if a, err = plan.FreeAddress("public4", uni, func(a netip.Addr) bool { return taken[a] }); err != nil {
			break
		}
		taken[a] = true
		got = append(got, a.String())
	}
	if want := "203.0.113.1 203.0.113.2 203.0.113.3 203.0.113.4 203.0.113.5 198.51.100.7"; strings.Join(got, " ") != want {
		t.Errorf("free addresses: %v, want %s", got, want)
	}
	if !errors.Is(err, &api.Error{Code: api.CodeRefused, Field: "spec.pool"}) || !strings.Contains(err.Error(), "nothing is free in public4") {
		t.Errorf("when all are taken: %v", err)
	}
	for pool, want := range map[string]string{"lab": `no pool called "lab" is for networks and open to owner uni; open are: users`, "public4": "open are: users"} {
		if _, err := plan.FreeNetwork(pool, uni, func(netip.Prefix) bool { return false }); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("pool %s: %v", pool, err)
		}
	}
	if _, err := (cloud.Plan{}).FreeAddress("", uni, nil); err == nil || !strings.Contains(err.Error(), "has no pool for addresses that is open to owner uni") {
		t.Errorf("without a plan: %v", err)
	}
}

// What is given is permitted, and what is permitted is in a pool that is open, and touches nothing that is reserved.
func TestPlanProperties(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		who := rapid.SampledFrom([]cloud.Party{{Owner: "lab1"}, {Owner: "uni"}, {}, {Peer: "osaka"}, {Peer: "nara"}}).Draw(rt, "who")
		taken := map[netip.Prefix]bool{}
		for range rapid.IntRange(1, 5).Draw(rt, "n") {
			p, err := plan.FreeNetwork("", who, func(p netip.Prefix) bool { return taken[p] })
			if err != nil {
				break
			}
			if taken[p] || plan.CheckNetwork("", p, who) != nil || plan.Underlay("", p.Addr()) == nil {
				rt.Fatalf("%s is given to %s", p, who)
			}
			taken[p] = true
		}
		b := netip.MustParseAddr("2001:db8::").As16()
		for i := 4; i < 8; i++ {
			b[i] = rapid.SampledFrom([]byte{0, 1, 2, 3, 0x5a, 0xb1, 0xae, 0xab}).Draw(rt, "octet")
		}
		p := netip.PrefixFrom(netip.AddrFrom16(b), 64)
		if plan.CheckNetwork("", p, who) != nil {
			return
		}
		for _, r := range plan.Reserved {
			if r.Prefix.Overlaps(p) {
				rt.Fatalf("%s is permitted to %s and reserved", p, who)
			}
		}
		in := false
		for _, pool := range plan.OpenTo(who) {
			for _, q := range pool.Prefixes {
				in = in || pool.Use == cloud.PoolNetworks && q.Overlaps(p)
			}
		}
		if !in {
			rt.Fatalf("%s is permitted to %s and in no pool that is open to it", p, who)
		}
	})
}
