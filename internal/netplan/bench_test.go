package netplan_test

import (
	"fmt"
	"net/netip"
	"testing"

	"widecloud/api"
	"widecloud/internal/netplan"
)

// BenchmarkChange is the work that follows when one VM of a large network changes: the network is planned anew, and its orders
// are made for all of its 1,000 hosts.
func BenchmarkChange(b *testing.B) {
	var hosts []netplan.Host
	for i := range 1000 {
		hosts = append(hosts, netplan.Host{Name: fmt.Sprintf("h%d", i), VTEP: addr(fmt.Sprintf("2001:db8:1::%x", i+1)), Hypervisor: i > 4, Gateway: i <= 4})
	}
	in := netplan.Own{Network: blue()}
	for i := range 20000 {
		h := hosts[5+i%995]
		in.VMs = append(in.VMs, vm(i, "tokyo", h.Name, h.VTEP))
	}
	for _, h := range hosts[:5] {
		in.Gateways = append(in.Gateways, member(h, api.RoleGateway))
	}
	site := netplan.NewSite("tokyo", plan, hosts)
	b.Run("plan", func(b *testing.B) {
		for b.Loop() {
			if _, err := site.Own(in); err != nil {
				b.Fatal(err)
			}
		}
	})
	n, err := site.Own(in)
	if err != nil {
		b.Fatal(err)
	}
	b.Run("orders", func(b *testing.B) {
		for b.Loop() {
			for _, h := range hosts {
				if len(n.Order(h).Flood) < 900 {
					b.Fatal("short")
				}
			}
		}
	})
}

// BenchmarkCarry is the choice among 1,000 networks of peers.
func BenchmarkCarry(b *testing.B) {
	site := netplan.NewSite("tokyo", plan, []netplan.Host{hyper(1), gateway(2)})
	var foreign []netplan.Network
	for i := range 1000 {
		n, ok := site.Foreign(netplan.Foreign{Home: "osaka", Lent: 1, View: red(func(v *netplan.View) {
			v.UID, v.VNI, v.Prefix = uid(1000+i), uint32(1000+i), netip.PrefixFrom(addr(fmt.Sprintf("2001:db8:b:%x::", i)), 64)
		})})
		if !ok {
			b.Fatal("not a candidate")
		}
		foreign = append(foreign, n)
	}
	for b.Loop() {
		if got := netplan.Carry(nil, foreign, netplan.NewAddresses("tokyo", plan, nil, nil)); len(got) != len(foreign) {
			b.Fatalf("%d are carried", len(got))
		}
	}
}
