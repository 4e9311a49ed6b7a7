package netplan_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"widecloud/api"
	"widecloud/internal/netplan"
)

func uid(i int) string { return fmt.Sprintf("0192f0c1-2222-7abc-8def-%012x", i) }

var plain = cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{})

func goodNetwork() netplan.Order {
	return netplan.Order{Home: "site-a", Spec: netplan.Spec{
		UID: uid(2), Name: "red", VNI: 7, Prefix: netip.MustParsePrefix("2001:db8:b000::/64"),
		IPv4: netip.MustParsePrefix("10.0.0.0/24"), MTU: 1400,
	}}
}

func goodEndpoint() netplan.Endpoint {
	return netplan.Endpoint{
		VM: uid(1), Hostname: "web1", MAC: "02:00:5e:00:53:01", IPv6: netip.MustParseAddr("2001:db8:b000::5"),
		IPv4: netip.MustParseAddr("10.0.0.5"), VTEP: netip.MustParseAddr("2001:db8:1::2"),
	}
}

// refused compares the field of an error; "" is none.
func refused(t *testing.T, err error, field string) {
	t.Helper()
	var e *api.Error
	switch {
	case field == "" && err != nil:
		t.Errorf("refused: %v", err)
	case field != "" && (!errors.As(err, &e) || e.Field != field):
		t.Errorf("error is %v, want one of the field %s", err, field)
	}
}

func TestSpecCheck(t *testing.T) {
	prefix := netip.MustParsePrefix
	for _, c := range []struct {
		field string
		lie   func(n *netplan.Order)
	}{
		{"", func(*netplan.Order) {}},
		{"", func(n *netplan.Order) { n.IPv4, n.MTU, n.Prefix = netip.Prefix{}, 0, prefix("fd00:db8::/64") }},
		{"n.uid", func(n *netplan.Order) { n.UID = "" }},
		{"n.name", func(n *netplan.Order) { n.Name = "red; drop" }},
		{"n.mobility", func(n *netplan.Order) { n.Mobility = "lisp" }},
		{"n.mobility", func(n *netplan.Order) { n.Mobility = "l2" }}, // l2 is not named, so that every release reads it
		{"n.vni", func(n *netplan.Order) { n.VNI = 0 }},
		{"n.vni", func(n *netplan.Order) { n.VNI = 1 << 24 }},
		{"n.prefix", func(n *netplan.Order) { n.Prefix = netip.Prefix{} }},
		{"n.prefix", func(n *netplan.Order) { n.Prefix = prefix("2001:db8::/32") }},
		{"n.prefix", func(n *netplan.Order) { n.Prefix = prefix("2001:db8::1/64") }},
		{"n.prefix", func(n *netplan.Order) { n.Prefix = prefix("fe80::/64") }},
		{"n.prefix", func(n *netplan.Order) { n.Prefix = prefix("::/64") }},
		{"n.prefix", func(n *netplan.Order) { n.Prefix = prefix("10.0.0.0/24") }},
		{"n.ipv4", func(n *netplan.Order) { n.IPv4 = prefix("8.8.8.0/24") }},
		{"n.ipv4", func(n *netplan.Order) { n.IPv4 = prefix("10.0.0.0/31") }},
		{"n.ipv4", func(n *netplan.Order) { n.IPv4 = prefix("10.0.0.1/24") }},
		{"n.mtu", func(n *netplan.Order) { n.MTU = -1 }},
		{"n.mtu", func(n *netplan.Order) { n.MTU = 1 << 20 }},
	} {
		n := goodNetwork()
		c.lie(&n)
		t.Run(c.field, func(t *testing.T) { refused(t, n.Check("n"), c.field) })
	}
}

func TestEndpointOrderCheck(t *testing.T) {
	addr := netip.MustParseAddr
	for _, c := range []struct {
		field string
		lie   func(e *netplan.Endpoint)
	}{
		{"", func(*netplan.Endpoint) {}},
		{"", func(e *netplan.Endpoint) { e.IPv4, e.VTEP, e.Hostname = netip.Addr{}, netip.Addr{}, "" }},
		{"e.vm", func(e *netplan.Endpoint) { e.VM = "x" }},
		{"e.hostname", func(e *netplan.Endpoint) { e.Hostname = "a,10.0.0.1" }},
		{"e.mac", func(e *netplan.Endpoint) { e.MAC = "ff:ff:ff:ff:ff:ff" }},
		{"e.mac", func(e *netplan.Endpoint) { e.MAC = "02:00:5E:00:53:01" }},
		{"e.mac", func(e *netplan.Endpoint) { e.MAC = "fe:00:5e:00:53:01" }},
		{"e.vtep", func(e *netplan.Endpoint) { e.VTEP = addr("ff02::1") }},
		{"e.vtep", func(e *netplan.Endpoint) { e.VTEP = addr("192.0.2.1") }},
		{"e.vtep", func(e *netplan.Endpoint) { e.VTEP = addr("fe80::1%eth0") }},
		{"e.vtep", func(e *netplan.Endpoint) { e.VTEP = addr("::1") }},
		{"e.ipv6", func(e *netplan.Endpoint) { e.IPv6 = addr("2001:db8:b000::1") }},
		{"e.ipv6", func(e *netplan.Endpoint) { e.IPv6 = addr("2001:db8:b001::5") }},
		{"e.ipv6", func(e *netplan.Endpoint) { e.IPv6 = netip.Addr{} }},
		{"e.ipv4", func(e *netplan.Endpoint) { e.IPv4 = addr("10.0.0.1") }},
		{"e.ipv4", func(e *netplan.Endpoint) { e.IPv4 = addr("10.0.0.255") }},
		{"e.ipv4", func(e *netplan.Endpoint) { e.IPv4 = addr("10.0.1.5") }},
	} {
		e := goodEndpoint()
		c.lie(&e)
		t.Run(c.field, func(t *testing.T) { refused(t, e.Check("e", goodNetwork().Spec), c.field) })
	}
}

// TestSound: bad endpoints and flood addresses are left out, the others stay, and each error names its place.
func TestSound(t *testing.T) {
	good, twice, bad := goodEndpoint(), goodEndpoint(), goodEndpoint()
	twice.VM, twice.IPv4 = uid(2), netip.Addr{}
	bad.VTEP = netip.MustParseAddr("ff02::1")
	vtep, multicast := netip.MustParseAddr("2001:db8:1::3"), netip.MustParseAddr("ff02::1")
	n := goodNetwork()
	n.Flood = []netip.Addr{vtep, multicast, vtep}
	n.Endpoints = []netplan.Endpoint{bad, good, twice}

	got, errs := n.Sound("networks[0]")
	want := goodNetwork()
	want.Flood, want.Endpoints = []netip.Addr{vtep}, []netplan.Endpoint{good}
	if diff := cmp.Diff(want, got, plain); diff != "" {
		t.Error(diff)
	}
	var fields []string
	for _, err := range errs {
		var e *api.Error
		if !errors.As(err, &e) {
			t.Fatalf("%v is no error of a field", err)
		}
		fields = append(fields, e.Field)
	}
	if diff := cmp.Diff([]string{"networks[0].flood[1]", "networks[0].endpoints[0].vtep", "networks[0].endpoints[2]"}, fields); diff != "" {
		t.Error(diff)
	}
}

// TestJSON: orders and views are written as the releases before this package wrote and read them, which refuse fields that
// they do not know.
func TestJSON(t *testing.T) {
	order := goodNetwork()
	order.Flood = []netip.Addr{netip.MustParseAddr("2001:db8:1::3")}
	order.Endpoints = []netplan.Endpoint{goodEndpoint()}
	view := netplan.View{
		Spec: order.Spec, Endpoints: order.Endpoints,
		Members:  []api.NetworkMember{{Site: "site-a", Host: "h1", VTEP: "2001:db8:1::2", Role: api.RoleHypervisor}},
		Mappings: []netplan.Mapping{{Service: netip.MustParseAddr("203.0.113.1"), Target: netip.MustParseAddr("2001:db8:b000::5")}},
	}
	bare := netplan.View{Spec: order.Spec}
	bare.IPv4 = netip.Prefix{}
	const (
		spec     = `"uid": "0192f0c1-2222-7abc-8def-000000000002", "name": "red", "vni": 7, "prefix": "2001:db8:b000::/64", "mtu": 1400`
		endpoint = `{"vm": "0192f0c1-2222-7abc-8def-000000000001", "hostname": "web1", "mac": "02:00:5e:00:53:01", "ipv6": "2001:db8:b000::5", "ipv4": "10.0.0.5", "vtep": "2001:db8:1::2"}`
	)
	for _, c := range []struct {
		v    any
		want string
	}{
		{order, `{` + spec + `, "ipv4": "10.0.0.0/24", "home": "site-a", "flood": ["2001:db8:1::3"], "endpoints": [` + endpoint + `]}`},
		{view, `{` + spec + `, "ipv4": "10.0.0.0/24", "members": [{"site": "site-a", "host": "h1", "vtep": "2001:db8:1::2", "role": "hypervisor"}],
			"endpoints": [` + endpoint + `], "mappings": [{"service": "203.0.113.1", "target": "2001:db8:b000::5"}]}`},
		{bare, `{` + spec + `, "members": null, "endpoints": null}`},
	} {
		b, err := json.Marshal(c.v)
		if err != nil {
			t.Fatal(err)
		}
		var got, want any
		if err := errors.Join(json.Unmarshal(b, &got), json.Unmarshal([]byte(c.want), &want)); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
	}
}
