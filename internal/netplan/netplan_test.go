package netplan_test

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"widecloud/api"
	"widecloud/internal/cloud"
	"widecloud/internal/netplan"
)

var (
	addr   = netip.MustParseAddr
	prefix = netip.MustParsePrefix
)

// The hosts of these tests: VTEPs 2001:db8:1::N are tokyo's, for which is planned, 2001:db8:2::N are osaka's.
func vtep(site, n int) netip.Addr { return addr(fmt.Sprintf("2001:db8:%d::%d", site, n)) }

func hyper(n int) netplan.Host {
	return netplan.Host{Name: fmt.Sprintf("h%d", n), VTEP: vtep(1, n), Hypervisor: true}
}

func gateway(n int) netplan.Host {
	return netplan.Host{Name: fmt.Sprintf("h%d", n), VTEP: vtep(1, n), Gateway: true}
}

func member(h netplan.Host, role api.HostRole) api.NetworkMember {
	return api.NetworkMember{Site: "tokyo", Host: h.Name, VTEP: h.VTEP.String(), Role: role}
}

func osaka(n int, role api.HostRole) api.NetworkMember {
	return api.NetworkMember{Site: "osaka", Host: fmt.Sprintf("o%d", n), VTEP: vtep(2, n).String(), Role: role}
}

var plan = cloud.Plan{Pools: []cloud.Pool{
	{Name: "nets", Use: cloud.PoolNetworks, Prefixes: []netip.Prefix{prefix("2001:db8:a::/48"), prefix("2001:db8:b::/48")}, Peers: []string{"osaka", "kyoto"}},
	{Name: "service", Use: cloud.PoolAddresses, Prefixes: []netip.Prefix{prefix("203.0.113.0/24")}, Peers: []string{"osaka", "kyoto"}},
}}

// blue is a network of tokyo's.
func blue() *api.Network {
	return &api.Network{Meta: api.Meta{Name: "blue", UID: uid(10)}, Spec: api.NetworkSpec{Prefix: "2001:db8:a::/64", IPv4: "10.0.0.0/24", Mobility: "l2", MTU: 1430, VNI: 10}}
}

// vm is one of tokyo's on blue, at a host.
func vm(i int, site, host string, at netip.Addr) *api.VM {
	v := &api.VM{Meta: api.Meta{Name: fmt.Sprintf("web%d", i), UID: uid(100 + i)}, Spec: api.VMSpec{Network: "blue"}}
	v.Status.Site, v.Status.Host, v.Status.Epoch, v.Status.MAC = site, host, 1, fmt.Sprintf("06:00:00:00:00:%02x", i)
	if at.IsValid() {
		v.Status.VTEP = at.String()
	}
	v.Status.Addresses = []api.VMAddress{
		{Address: fmt.Sprintf("2001:db8:a::%x", 16+i), Origin: "slaac"}, {Address: fmt.Sprintf("10.0.0.%d", 16+i), Origin: "dhcp"},
	}
	return v
}

// text shows what each host of a list does for a network: "h1: VTEPs it floods to".
func text(n netplan.Network, hosts ...netplan.Host) string {
	var out []string
	for _, h := range hosts {
		if !n.CarriedBy(h) {
			continue
		}
		line := h.Name + ":"
		for _, a := range n.Order(h).Flood {
			line += " " + strings.Replace(a.String(), "2001:db8:", "", 1)
		}
		out = append(out, line)
	}
	return strings.Join(out, "; ")
}

// TestOwn: who carries a network of ours, and to whom each host floods.
func TestOwn(t *testing.T) {
	both := netplan.Host{Name: "h4", VTEP: vtep(1, 4), Hypervisor: true, Gateway: true}
	for _, c := range []struct {
		name  string
		hosts []netplan.Host
		in    netplan.Own
		want  string
	}{
		{"nothing is on it", []netplan.Host{hyper(1), gateway(2)}, netplan.Own{Gateways: []api.NetworkMember{member(gateway(2), api.RoleGateway)}}, "h2:"},
		{"a VM that is not placed", []netplan.Host{hyper(1)}, netplan.Own{VMs: []*api.VM{vm(1, "", "", netip.Addr{})}}, ""},
		{"two VMs", []netplan.Host{hyper(1), hyper(2), hyper(3)}, netplan.Own{VMs: []*api.VM{
			vm(1, "tokyo", "h1", vtep(1, 1)), vm(2, "tokyo", "h2", vtep(1, 2)),
		}}, "h1: 1::2; h2: 1::1"},
		{"a VM at a lender", []netplan.Host{hyper(1), hyper(2)}, netplan.Own{VMs: []*api.VM{
			vm(1, "tokyo", "h1", vtep(1, 1)), vm(2, "osaka", "o1", vtep(2, 1)),
		}}, "h1: 2::1"},
		{"gateways, which do not speak to each other", []netplan.Host{hyper(1), gateway(2), gateway(3)}, netplan.Own{
			VMs:      []*api.VM{vm(1, "tokyo", "h1", vtep(1, 1))},
			Gateways: []api.NetworkMember{member(gateway(2), api.RoleGateway), member(gateway(3), api.RoleGateway), osaka(9, api.RoleGateway)},
		}, "h1: 2::9 1::2 1::3; h2: 1::1; h3: 1::1"},
		{"a host with both roles", []netplan.Host{hyper(1), gateway(2), both}, netplan.Own{
			VMs:      []*api.VM{vm(1, "tokyo", "h1", vtep(1, 1)), vm(2, "tokyo", "h4", vtep(1, 4))},
			Gateways: []api.NetworkMember{member(gateway(2), api.RoleGateway), member(both, api.RoleGateway)},
		}, "h1: 1::2 1::4; h2: 1::1 1::4; h4: 1::1 1::2"},
		{"a migration: both ends, before and after", []netplan.Host{hyper(1), hyper(2)}, netplan.Own{
			VMs:   []*api.VM{vm(1, "tokyo", "h1", vtep(1, 1))},
			Moves: []api.NetworkMember{{Site: "tokyo", Host: "h1", VTEP: vtep(1, 1).String()}, {Site: "tokyo", Host: "h2", VTEP: vtep(1, 2).String()}},
			Rooms: []string{"h2"},
		}, "h1: 1::2; h2: 1::1"},
		{"a migration whose target is not known yet", []netplan.Host{hyper(1), hyper(2)}, netplan.Own{
			VMs:   []*api.VM{vm(1, "tokyo", "h1", vtep(1, 1))},
			Moves: []api.NetworkMember{{Site: "tokyo", Host: "h1", VTEP: vtep(1, 1).String()}, {Site: "osaka"}},
		}, "h1:"},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.in.Network = blue()
			n, err := netplan.NewSite("tokyo", plan, c.hosts).Own(c.in)
			if err != nil {
				t.Fatal(err)
			}
			if got := text(n, c.hosts...); got != c.want {
				t.Errorf("hosts do\n%s, want\n%s", got, c.want)
			}
		})
	}
}

// TestOwnView: what a peer is given of a network of ours, and that what is not readable is told of.
func TestOwnView(t *testing.T) {
	site := netplan.NewSite("tokyo", plan, []netplan.Host{hyper(1)})
	in := netplan.Own{
		Network: blue(), VMs: []*api.VM{vm(1, "tokyo", "h1", vtep(1, 1)), vm(2, "osaka", "o1", vtep(2, 1)), vm(3, "", "", netip.Addr{})},
		Gateways: []api.NetworkMember{osaka(9, api.RoleGateway)},
		Addresses: []*api.Address{
			{Spec: api.AddressSpec{Address: "203.0.113.2", VM: "web2"}},
			{Spec: api.AddressSpec{Address: "203.0.113.1", VM: "web1"}},
			{Spec: api.AddressSpec{Address: "203.0.113.3", VM: "of another network"}},
			{Spec: api.AddressSpec{Address: "203.0.113.4"}},
			{Meta: api.Meta{Deleting: true}, Spec: api.AddressSpec{Address: "203.0.113.5", VM: "web1"}},
		},
	}
	n, err := site.Own(in)
	if err != nil {
		t.Fatal(err)
	}
	want := netplan.View{
		Spec:    netplan.Spec{UID: uid(10), Name: "blue", VNI: 10, Prefix: prefix("2001:db8:a::/64"), IPv4: prefix("10.0.0.0/24"), MTU: 1430},
		Members: []api.NetworkMember{osaka(1, api.RoleHypervisor), osaka(9, api.RoleGateway), member(hyper(1), api.RoleHypervisor)},
		Endpoints: []netplan.Endpoint{
			{VM: uid(101), Hostname: "web1", MAC: "06:00:00:00:00:01", IPv6: addr("2001:db8:a::11"), IPv4: addr("10.0.0.17"), VTEP: vtep(1, 1)},
			{VM: uid(102), Hostname: "web2", MAC: "06:00:00:00:00:02", IPv6: addr("2001:db8:a::12"), IPv4: addr("10.0.0.18"), VTEP: vtep(2, 1)},
		},
		Mappings: []netplan.Mapping{{Service: addr("203.0.113.1"), Target: addr("2001:db8:a::11")}, {Service: addr("203.0.113.2"), Target: addr("2001:db8:a::12")}},
	}
	if diff := cmp.Diff([]netplan.View{want}, netplan.ForPeer("osaka", []netplan.Network{n}, 5), plain); diff != "" {
		t.Error(diff)
	}
	if got := netplan.ForPeer("osaka", []netplan.Network{n}, 1); len(got) != 1 || len(got[0].Mappings) != 1 {
		t.Errorf("a peer that lends one address is told of %+v", got)
	}
	if got := netplan.ForPeer("kyoto", []netplan.Network{n}, 5); len(got) != 0 {
		t.Errorf("a peer that carries nothing is told of %+v", got)
	}
	in.Gateways = nil
	if n, err = site.Own(in); err != nil {
		t.Fatal(err)
	}
	if got := netplan.ForPeer("osaka", []netplan.Network{n}, 5); len(got) != 1 || len(got[0].Mappings) != 0 {
		t.Errorf("a peer whose gateways do not serve the network is told of %+v", got)
	}
	in.Network.Spec.Prefix = "x"
	if _, err := site.Own(in); err == nil || !strings.Contains(err.Error(), "network blue") {
		t.Errorf("a network whose prefix is x: %v", err)
	}
}

// red is a network of osaka's.
func red(change ...func(*netplan.View)) *netplan.View {
	v := &netplan.View{
		Spec:    netplan.Spec{UID: uid(20), Name: "red", VNI: 20, Prefix: prefix("2001:db8:b::/64"), MTU: 1430},
		Members: []api.NetworkMember{osaka(1, api.RoleHypervisor), osaka(9, api.RoleGateway)},
	}
	for _, f := range change {
		f(v)
	}
	return v
}

func guest(i int, host string) netplan.Guest {
	return netplan.Guest{VM: uid(200 + i), Host: host, Network: netplan.Order{Spec: red().Spec, Home: "osaka", Flood: []netip.Addr{vtep(2, 1)}}}
}

// TestForeign: what a peer has here follows from its guests, the room kept for them and its loans of service addresses, and
// from nothing that it tells.
func TestForeign(t *testing.T) {
	hosts := []netplan.Host{hyper(1), hyper(2), gateway(3), gateway(4)}
	claims := func(v *netplan.View) {
		for _, h := range hosts {
			v.Members = append(v.Members, member(h, api.RoleHypervisor), member(h, api.RoleGateway))
			v.Members = append(v.Members, api.NetworkMember{Site: "osaka", Host: h.Name, VTEP: h.VTEP.String(), Role: api.RoleHypervisor})
		}
	}
	for _, c := range []struct {
		name string
		in   netplan.Foreign
		want string // "": not carried
	}{
		{"nothing is known of it", netplan.Foreign{}, ""},
		{"a loan alone", netplan.Foreign{Lent: 1}, ""},
		{"a view alone", netplan.Foreign{View: red()}, ""},
		{"a view that says that all our hosts carry it", netplan.Foreign{View: red(claims)}, ""},
		{"a view and a loan: the gateways serve it", netplan.Foreign{View: red(), Lent: 1}, "h3: 2::1; h4: 2::1"},
		{"a view and a loan, out of the pools", netplan.Foreign{View: red(func(v *netplan.View) { v.Prefix = prefix("2001:db8:c::/64") }), Lent: 1}, ""},
		{"a guest that its home has not told of yet", netplan.Foreign{Guests: []netplan.Guest{guest(1, "h1")}}, "h1: 2::1"},
		{"two guests", netplan.Foreign{Guests: []netplan.Guest{guest(1, "h1"), guest(2, "h2")}}, "h1: 2::1 1::2; h2: 2::1 1::1"},
		{"a guest, and a view", netplan.Foreign{Guests: []netplan.Guest{guest(1, "h1")}, View: red()}, "h1: 2::1 2::9"},
		{"a guest, and a view that says that all our hosts carry it", netplan.Foreign{Guests: []netplan.Guest{guest(1, "h1")}, View: red(claims)}, "h1: 2::1 2::9"},
		{"a guest, out of the pools since", netplan.Foreign{Guests: []netplan.Guest{guest(1, "h1")}, View: red(func(v *netplan.View) { v.Prefix = prefix("2001:db8:c::/64") })}, "h1: 2::1 2::9"},
		{"a guest, a view and a loan", netplan.Foreign{Guests: []netplan.Guest{guest(1, "h1")}, View: red(), Lent: 1}, "h1: 2::1 2::9 1::3 1::4; h3: 2::1 1::1; h4: 2::1 1::1"},
		{"a host of its home with both roles is named once", netplan.Foreign{View: red(func(v *netplan.View) {
			v.Members = append(v.Members, osaka(9, api.RoleHypervisor))
		}), Guests: []netplan.Guest{guest(1, "h1")}}, "h1: 2::1 2::9"},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.in.Home = "osaka"
			n, ok := netplan.NewSite("tokyo", plan, hosts).Foreign(c.in)
			if ok != (c.want != "") {
				t.Errorf("carried: %t, want %q", ok, c.want)
			}
			if got := text(n, hosts...); got != c.want {
				t.Errorf("hosts do\n%q, want\n%q", got, c.want)
			}
		})
	}
}

// TestForeignEndpoints: a guest is where this site has it, whatever its home says, and no VM that is not a guest is at a host
// here.
func TestForeignEndpoints(t *testing.T) {
	endpoint := func(i int, at netip.Addr) netplan.Endpoint {
		return netplan.Endpoint{VM: uid(200 + i), MAC: fmt.Sprintf("06:00:00:00:00:%02x", i), IPv6: addr(fmt.Sprintf("2001:db8:b::%x", 16+i)), VTEP: at}
	}
	in := netplan.Foreign{
		Home: "osaka", Guests: []netplan.Guest{guest(1, "h1"), guest(2, "h2"), guest(3, "h1")},
		View: red(func(v *netplan.View) {
			v.Endpoints = []netplan.Endpoint{
				endpoint(1, vtep(1, 2)), endpoint(2, netip.Addr{}), endpoint(3, vtep(2, 1)), endpoint(4, vtep(1, 1)), endpoint(5, vtep(2, 1)), endpoint(6, netip.Addr{}),
			}
		}),
	}
	told := slices.Clone(in.View.Endpoints)
	n, _ := netplan.NewSite("tokyo", plan, []netplan.Host{hyper(1), hyper(2)}).Foreign(in)
	want := []netplan.Endpoint{
		endpoint(1, vtep(1, 1)), // is at h1, not at h2
		endpoint(2, vtep(1, 2)), // has not been told to be anywhere
		endpoint(3, vtep(2, 1)), // is about to come: room is kept for it
		endpoint(4, netip.Addr{}), endpoint(5, vtep(2, 1)), endpoint(6, netip.Addr{}),
	}
	if diff := cmp.Diff(want, n.Order(hyper(1)).Endpoints, plain); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(told, in.View.Endpoints, plain); diff != "" {
		t.Errorf("what it was given has changed: %s", diff)
	}
}

// TestCarry: of networks that clash, ours is carried, then those of guests, then the older one.
func TestCarry(t *testing.T) {
	site := netplan.NewSite("tokyo", plan, []netplan.Host{hyper(1), gateway(2)})
	foreign := func(home string, since int64, guests int, change ...func(*netplan.View)) netplan.Network {
		in := netplan.Foreign{Home: home, View: red(change...), Since: since, Lent: 1}
		for i := range guests {
			in.Guests = append(in.Guests, guest(i, "h1"))
		}
		n, ok := site.Foreign(in)
		if !ok {
			t.Fatal("not a candidate")
		}
		return n
	}
	spec, err := netplan.SpecOf(blue())
	if err != nil {
		t.Fatal(err)
	}
	ours := netplan.Known{Home: "tokyo", Spec: spec}
	id := func(i int, vni uint32, p string) func(*netplan.View) {
		return func(v *netplan.View) { v.UID, v.Name, v.VNI, v.Prefix = uid(i), fmt.Sprintf("n%d", i), vni, prefix(p) }
	}
	for _, c := range []struct {
		name string
		in   []netplan.Network
		want string
	}{
		{"side by side", []netplan.Network{foreign("osaka", 1, 0, id(21, 21, "2001:db8:b:1::/64")), foreign("kyoto", 2, 0, id(22, 22, "2001:db8:b:2::/64"))}, "osaka/n21 kyoto/n22"},
		{"the VNI of ours", []netplan.Network{foreign("osaka", 1, 1, id(21, 10, "2001:db8:b:1::/64"))}, ""},
		{"the prefix of ours", []netplan.Network{foreign("osaka", 1, 1, id(21, 21, "2001:db8:a::/64"))}, ""},
		{"the UID of ours", []netplan.Network{foreign("osaka", 1, 1, id(10, 21, "2001:db8:b:1::/64"))}, ""},
		{"the older first", []netplan.Network{foreign("osaka", 2, 0, id(21, 21, "2001:db8:b:1::/64")), foreign("kyoto", 1, 0, id(22, 21, "2001:db8:b:2::/64"))}, "kyoto/n22"},
		{"guests first", []netplan.Network{foreign("osaka", 1, 0, id(21, 21, "2001:db8:b:1::/64")), foreign("kyoto", 2, 1, id(22, 21, "2001:db8:b:2::/64"))}, "kyoto/n22"},
	} {
		t.Run(c.name, func(t *testing.T) {
			for range 2 { // in any order
				slices.Reverse(c.in)
				got := []string{}
				for _, n := range netplan.Carry([]netplan.Known{ours}, c.in, netplan.NewAddresses("tokyo", plan, nil, nil)) {
					got = append(got, n.Home+"/"+n.View.Name)
				}
				if diff := cmp.Diff(strings.Fields(c.want), got); diff != "" {
					t.Error(diff)
				}
			}
		})
	}
}

// TestAddresses: which service addresses a peer may have here, and why not the others.
func TestAddresses(t *testing.T) {
	m := func(service, target string) netplan.Mapping {
		return netplan.Mapping{Service: addr(service), Target: addr(target)}
	}
	for _, c := range []struct {
		name string
		lent int
		in   []netplan.Mapping
		good int
		code api.Code // of the first one that is refused
		at   string
	}{
		{"none", 3, nil, 0, "", ""},
		{"one", 1, []netplan.Mapping{m("203.0.113.1", "2001:db8:b::5")}, 1, "", ""},
		{"more than are lent", 1, []netplan.Mapping{m("203.0.113.1", "2001:db8:b::5"), m("203.0.113.2", "2001:db8:b::6")}, 1, api.CodeRefused, "v.mappings[1]"},
		{"one that is in use here", 3, []netplan.Mapping{m("203.0.113.9", "2001:db8:b::5")}, 0, api.CodeExists, "v.mappings[0].service"},
		{"one that another peer uses", 3, []netplan.Mapping{m("203.0.113.8", "2001:db8:b::5")}, 0, api.CodeExists, "v.mappings[0].service"},
		{"the same twice", 3, []netplan.Mapping{m("203.0.113.1", "2001:db8:b::5"), m("203.0.113.1", "2001:db8:b::6")}, 1, api.CodeExists, "v.mappings[1].service"},
		{"a VM with two", 3, []netplan.Mapping{m("203.0.113.1", "2001:db8:b::5"), m("203.0.113.2", "2001:db8:b::5")}, 1, api.CodeConflict, "v.mappings[1].target"},
		{"out of the pools", 3, []netplan.Mapping{m("198.51.100.1", "2001:db8:b::5")}, 0, api.CodeRefused, "v.mappings[0].service"},
		{"no service address", 3, []netplan.Mapping{m("127.0.0.1", "2001:db8:b::5")}, 0, api.CodeInvalid, "v.mappings[0].service"},
		{"a target out of its network", 3, []netplan.Mapping{m("203.0.113.1", "2001:db8:a::5")}, 0, api.CodeInvalid, "v.mappings[0].target"},
		{"what is refused uses nothing up", 1, []netplan.Mapping{m("203.0.113.9", "2001:db8:b::5"), m("203.0.113.1", "2001:db8:b::5")}, 1, api.CodeExists, "v.mappings[0].service"},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := netplan.NewAddresses("tokyo", plan, []netip.Addr{addr("203.0.113.9")}, map[string]int{"osaka": c.lent})
			a.Take("kyoto", []netplan.Mapping{m("203.0.113.8", "2001:db8:b:9::5")})
			good, bad := a.Judge("osaka", "v", *red(func(v *netplan.View) { v.Mappings = c.in }))
			if len(good) != c.good || len(good)+len(bad) != len(c.in) {
				t.Errorf("granted are %v, refused %v", good, bad)
			}
			var e *api.Error
			if c.code != "" && (len(bad) == 0 || !errors.As(bad[0].Err, &e) || e.Code != c.code || e.Field != c.at) {
				t.Errorf("refused are %+v, want %s of %s", bad, c.code, c.at)
			}
		})
	}
}

// TestForHost: a host has the networks that it carries, in order; a gateway has what it is to translate, of ours and of peers
// with a loan.
func TestForHost(t *testing.T) {
	site := netplan.NewSite("tokyo", plan, []netplan.Host{hyper(1), hyper(2), gateway(3)})
	ours, err := site.Own(netplan.Own{
		Network: blue(), VMs: []*api.VM{vm(1, "tokyo", "h1", vtep(1, 1))}, Gateways: []api.NetworkMember{member(gateway(3), api.RoleGateway)},
		Addresses: []*api.Address{{Spec: api.AddressSpec{Address: "203.0.113.9", VM: "web1"}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	lent, _ := site.Foreign(netplan.Foreign{Home: "osaka", Lent: 1, View: red(func(v *netplan.View) {
		v.UID = uid(1)
		v.Mappings = []netplan.Mapping{{Service: addr("203.0.113.1"), Target: addr("2001:db8:b::5")}, {Service: addr("203.0.113.2"), Target: addr("2001:db8:b::6")}}
	})})
	run, _ := site.Foreign(netplan.Foreign{Home: "kyoto", Guests: []netplan.Guest{guest(1, "h1")}, View: red(func(v *netplan.View) {
		v.UID, v.VNI, v.Prefix = uid(2), 22, prefix("2001:db8:b:2::/64")
		v.Mappings = []netplan.Mapping{{Service: addr("203.0.113.3"), Target: addr("2001:db8:b:2::5")}}
	})})
	networks := append([]netplan.Network{ours}, netplan.Carry([]netplan.Known{ours.Known()}, []netplan.Network{lent, run}, netplan.NewAddresses("tokyo", plan, nil, map[string]int{"osaka": 1}))...)
	for _, c := range []struct {
		host     netplan.Host
		networks []string
		mappings []string
	}{
		{hyper(1), []string{uid(2), uid(10)}, nil},
		{hyper(2), []string{}, nil},
		{gateway(3), []string{uid(1), uid(10)}, []string{"203.0.113.1 2001:db8:b::5", "203.0.113.9 2001:db8:a::11"}},
	} {
		orders, mappings := netplan.ForHost(c.host, networks)
		uids := []string{}
		for _, o := range orders {
			uids = append(uids, o.UID)
		}
		var lines []string
		for _, m := range mappings {
			lines = append(lines, m.Service.String()+" "+m.Target.String())
		}
		if diff := cmp.Diff(c.networks, uids) + cmp.Diff(c.mappings, lines); diff != "" {
			t.Errorf("host %s: %s", c.host.Name, diff)
		}
	}
}
