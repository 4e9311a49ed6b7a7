package netplan_test

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"widecloud/api"
	"widecloud/internal/netplan"
)

// TestViews: a peer's view is taken without what is bad in it, and each part that is refused is named. One that clashes with
// what is carried here, or is out of the peer's pools, is not taken at all.
func TestViews(t *testing.T) {
	ours := netplan.Known{Home: "tokyo", Spec: netplan.Spec{UID: uid(10), Name: "blue", VNI: 10, Prefix: prefix("2001:db8:a::/64"), MTU: 1430}}
	endpoint := func(i int, at string) netplan.Endpoint {
		e := netplan.Endpoint{VM: uid(200 + i), MAC: "06:00:00:00:00:01", IPv6: addr("2001:db8:b::10")}
		if at != "" {
			e.VTEP = addr(at)
		}
		return e
	}
	for _, c := range []struct {
		name    string
		change  func(*netplan.View)
		guests  bool
		carried bool
		refused []string // fields
		lost    func(*netplan.View)
	}{
		{"a good one", func(*netplan.View) {}, false, true, nil, nil},
		{"the UID of another", func(v *netplan.View) { v.UID = uid(10) }, false, false, []string{"v[0].uid"}, nil},
		{"the VNI of another", func(v *netplan.View) { v.VNI = 10 }, true, false, []string{"v[0].vni"}, nil},
		{"the prefix of another", func(v *netplan.View) { v.Prefix = prefix("2001:db8:a::/64") }, true, false, []string{"v[0].prefix"}, nil},
		{"no name", func(v *netplan.View) { v.Name = "a b" }, false, false, []string{"v[0].name"}, nil},
		{"another mobility", func(v *netplan.View) { v.Mobility = "lisp" }, false, false, []string{"v[0].mobility"}, nil},
		{"out of the pools", func(v *netplan.View) { v.Prefix = prefix("2001:db8:c::/64") }, false, false, []string{"v[0].prefix"}, nil},
		{"out of the pools, with guests here", func(v *netplan.View) { v.Prefix = prefix("2001:db8:c::/64") }, true, true, nil, nil},
		{"too many members", func(v *netplan.View) { v.Members = make([]api.NetworkMember, netplan.MaxMembers+1) }, false, false, []string{"v[0]"}, nil},
		{"a member that is none", func(v *netplan.View) {
			v.Members = append(v.Members, api.NetworkMember{Site: "osaka", Host: "o1", VTEP: "ff02::1", Role: api.RoleGateway})
		}, false, true, []string{"v[0].members[2].vtep"}, func(v *netplan.View) { v.Members = v.Members[:2] }},
		{"a member without a role", func(v *netplan.View) {
			v.Members = append(v.Members, api.NetworkMember{Site: "osaka", Host: "o1", VTEP: "2001:db8:2::1"})
		}, false, true, []string{"v[0].members[2].role"}, func(v *netplan.View) { v.Members = v.Members[:2] }},
		{"an end point in a pool", func(v *netplan.View) { v.Endpoints = []netplan.Endpoint{endpoint(1, "2001:db8:b::99")} }, false, true,
			[]string{"v[0].endpoints[0].vtep"}, func(v *netplan.View) { v.Endpoints = []netplan.Endpoint{endpoint(1, "")} }},
		{"the gateways' common address", func(v *netplan.View) { v.Endpoints = []netplan.Endpoint{endpoint(1, "2001:db8:ffff::646")} }, false, true,
			[]string{"v[0].endpoints[0].vtep"}, func(v *netplan.View) { v.Endpoints = []netplan.Endpoint{endpoint(1, "")} }},
		{"a VM twice", func(v *netplan.View) {
			v.Endpoints = []netplan.Endpoint{endpoint(1, "2001:db8:2::1"), endpoint(2, "2001:db8:2::1")}
		}, false, true,
			[]string{"v[0].endpoints[1]"}, func(v *netplan.View) { v.Endpoints = v.Endpoints[:1] }},
		{"a service address too many", func(v *netplan.View) {
			v.Mappings = []netplan.Mapping{{Service: addr("203.0.113.1"), Target: addr("2001:db8:b::10")}, {Service: addr("203.0.113.2"), Target: addr("2001:db8:b::11")}}
		}, false, true, []string{"v[0].mappings[1]"}, func(v *netplan.View) { v.Mappings = v.Mappings[:1] }},
	} {
		t.Run(c.name, func(t *testing.T) {
			v := *red(c.change)
			addresses := netplan.NewAddresses("tokyo", plan, nil, map[string]int{"osaka": 1})
			judge := netplan.Judge{Plan: plan, AnycastVTEP: addr("2001:db8:ffff::646")}
			good, refused := judge.Views("osaka", "v", []netplan.View{v}, []netplan.Known{ours}, map[string]bool{v.UID: c.guests}, addresses)
			var fields []string
			for _, r := range refused {
				var e *api.Error
				if !errors.As(r.Err, &e) || r.Network != v.UID {
					t.Fatalf("refused %+v", r)
				}
				fields = append(fields, e.Field)
			}
			if diff := cmp.Diff(c.refused, fields); diff != "" {
				t.Error(diff)
			}
			if !c.carried {
				if len(good) > 0 {
					t.Errorf("taken: %+v", good)
				}
				return
			}
			if c.lost != nil {
				c.lost(&v)
			}
			if v.Endpoints == nil {
				v.Endpoints = []netplan.Endpoint{}
			}
			if diff := cmp.Diff([]netplan.View{v}, good, plain); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestViewsAmongThemselves: of two networks of one peer that clash, the first is taken.
func TestViewsAmongThemselves(t *testing.T) {
	second := red(func(v *netplan.View) { v.UID, v.Prefix = uid(21), prefix("2001:db8:b:1::/64") }) // the same VNI
	good, refused := netplan.Judge{Plan: plan}.Views("osaka", "v", []netplan.View{*red(), *second}, nil, nil, netplan.NewAddresses("tokyo", plan, nil, nil))
	if len(good) != 1 || good[0].UID != uid(20) || len(refused) != 1 || refused[0].Network != uid(21) {
		t.Errorf("taken %+v, refused %+v", good, refused)
	}
}
