package control

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"widecloud/api"
	"widecloud/internal/cloud"
	"widecloud/internal/netplan"
	"widecloud/internal/store"
	"widecloud/internal/wire"
)

// memory is a transaction on a map.
type memory map[string]store.KV

func (m memory) Revision() int64 { return int64(len(m)) }

func (m memory) Get(key string) (store.KV, error) {
	if kv, ok := m[key]; ok {
		return kv, nil
	}
	return store.KV{}, store.ErrNotFound
}

func (m memory) List(prefix string) (out []store.KV, err error) {
	for key, kv := range m {
		if strings.HasPrefix(key, prefix) {
			out = append(out, kv)
		}
	}
	slices.SortFunc(out, func(a, b store.KV) int { return strings.Compare(a.Key, b.Key) })
	return out, nil
}

func (m memory) Put(key string, value []byte) error {
	m[key] = store.KV{Key: key, Value: value, Created: int64(len(m)), Modified: int64(len(m))}
	return nil
}

func (m memory) Delete(key string) error { delete(m, key); return nil }

// drawer makes the objects of a site at random.
type drawer struct {
	*rapid.T
	memory
	hosts []*api.Host
}

func (d drawer) put(key string, v any) {
	b, err := json.Marshal(v)
	if err != nil {
		d.Fatal(err)
	}
	_ = d.Put(key, b)
}

func (d drawer) object(o api.Object) { d.put(keyOf(o.Kind(), o.Metadata().Name), o) }

func (d drawer) up(most int, label string) int { return rapid.IntRange(0, most).Draw(d.T, label) }

func (d drawer) flip(label string) bool { return rapid.Bool().Draw(d.T, label) }

func pick[T any](d drawer, label string, of ...T) T { return rapid.SampledFrom(of).Draw(d.T, label) }

func uid(kind, i int) string { return fmt.Sprintf("%08d-2222-4333-8444-%012d", kind, i) }

func mac(i int) string { return fmt.Sprintf("06:00:00:00:00:%02x", i) }

// place is a host of ours, of a peer, or nowhere.
func (d drawer) place() location {
	if len(d.hosts) > 0 && d.flip("ours") {
		h := pick(d, "host", d.hosts...)
		return location{Site: "tokyo", Host: h.Name, VTEP: h.Status.VTEP}
	}
	if d.flip("nowhere") {
		return location{}
	}
	return d.elsewhere()
}

func (d drawer) elsewhere() location {
	i := d.up(3, "elsewhere")
	return location{Site: pick(d, "site", "osaka", "kyoto"), Host: fmt.Sprintf("x%d", i), VTEP: fmt.Sprintf("2001:db8:2::%x", i+1)}
}

// vtep is any tunnel end point, also one that is none.
func (d drawer) vtep() netip.Addr {
	a, _ := netip.ParseAddr(pick(d, "vtep", d.place().VTEP, d.elsewhere().VTEP, "ff02::1", ""))
	return a
}

func (d drawer) member() api.NetworkMember {
	l := d.place()
	if d.flip("lie") {
		l.VTEP = d.vtep().String()
	}
	return api.NetworkMember{Site: l.Site, Host: l.Host, VTEP: l.VTEP, Role: pick(d, "role", api.RoleHypervisor, api.RoleGateway)}
}

func (d drawer) roles() []api.HostRole {
	return pick(d, "roles", nil, []api.HostRole{api.RoleHypervisor}, []api.HostRole{api.RoleGateway}, []api.HostRole{api.RoleHypervisor, api.RoleGateway})
}

func (d *drawer) site() {
	for i := range d.up(4, "hosts") {
		h := &api.Host{Meta: api.Meta{Name: fmt.Sprintf("h%d", i)}, Spec: api.HostSpec{Roles: d.roles()}}
		if d.flip("reported") {
			h.Status.Roles, h.Status.VTEP = d.roles(), fmt.Sprintf("2001:db8:1::%x", i+1)
		}
		d.object(h)
		d.hosts = append(d.hosts, h)
	}
	d.object(&api.Image{Meta: api.Meta{Name: "debian"}})
	networks := 1 + d.up(2, "networks")
	for i := range networks {
		n := &api.Network{Meta: api.Meta{Name: fmt.Sprintf("n%d", i), UID: uid(1, i)}}
		n.Spec = api.NetworkSpec{Prefix: fmt.Sprintf("2001:db8:a:%x::/64", i), Mobility: "l2", MTU: 1430, VNI: uint32(i + 1), IPv4: pick(*d, "ipv4", "", "10.0.0.0/24")}
		d.object(n)
	}
	for i := range d.up(5, "vms") {
		d.vm(i, fmt.Sprintf("n%d", d.up(networks-1, "network")))
	}
	for i := range d.up(3, "addresses") {
		d.object(&api.Address{Meta: api.Meta{Name: fmt.Sprintf("a%d", i), Deleting: d.flip("deleting")}, Spec: api.AddressSpec{
			Address: fmt.Sprintf("203.0.113.%d", 1+d.up(5, "address")), VM: fmt.Sprintf("vm%d", d.up(5, "vm")),
		}})
	}
	for i := range d.up(2, "rooms") {
		g := wire.Claim{Job: fmt.Sprintf("own%d", i), Home: "tokyo", Host: d.place().Host}
		g.Order.NIC.Network = uid(1, d.up(networks-1, "network"))
		d.put(prefixClaims+g.Job, g)
	}
	d.object(&api.Peer{Meta: api.Meta{Name: "osaka"}})
	for i := range d.up(4, "loans") {
		l := &api.Loan{Meta: api.Meta{Name: fmt.Sprintf("l%d", i)}}
		l.Spec = api.LoanSpec{Lender: "tokyo", Borrower: pick(*d, "peer", "osaka", "kyoto"), Offer: "o", Amount: api.Resources{Addresses: d.up(3, "lent")}}
		if d.flip("to us") {
			l.Spec.Lender, l.Spec.Borrower = l.Spec.Borrower, l.Spec.Lender
		}
		l.Status.State = pick(*d, "state", api.LoanActive, api.LoanActive, api.LoanReclaimed, api.LoanEnded)
		d.object(l)
	}
	for _, peer := range []string{"osaka", "kyoto"} {
		o := wire.OfferBody{Name: pick(*d, "offer", "o", "p")}
		for range d.up(2, "gateways") {
			l := d.elsewhere()
			o.Gateways = append(o.Gateways, api.NetworkMember{Site: peer, Host: l.Host, VTEP: l.VTEP, Role: api.RoleGateway})
		}
		d.put(prefixOffers+peer+"/"+o.Name, o)
	}
}

func (d drawer) vm(i int, network string) {
	v := &api.VM{Meta: api.Meta{Name: fmt.Sprintf("vm%d", i), UID: uid(2, i), Deleting: d.flip("deleting")}}
	v.Spec = api.VMSpec{Image: "debian", Network: network, CPUs: 1, MemoryMiB: 256}
	at := d.place()
	v.Status.Site, v.Status.Host, v.Status.VTEP, v.Status.MAC, v.Status.Epoch = at.Site, at.Host, at.VTEP, mac(i), uint64(d.up(1, "epoch"))
	v.Status.Addresses = []api.VMAddress{{Address: fmt.Sprintf("2001:db8:a:%s::%x", network[1:], i+2), Origin: "slaac"}}
	if d.flip("dhcp") {
		v.Status.Addresses = append(v.Status.Addresses, api.VMAddress{Address: fmt.Sprintf("10.0.0.%d", i+2), Origin: "dhcp"})
	}
	d.object(v)
	if d.up(2, "moving") == 0 {
		m := migration{Job: fmt.Sprintf("m%d", i), VM: v.Name, UID: v.UID, Source: at, Target: d.place()}
		d.put(prefixMigrations+m.Job, m)
	}
}

// foreign is a peer's network, which may be anything.
func (d drawer) foreign(i int) netplan.View {
	n := d.up(3, "prefix")
	v := netplan.View{Spec: netplan.Spec{
		UID: uid(pick(d, "kind", 3, 3, 3, 1), i), Name: fmt.Sprintf("f%d", i), VNI: uint32(1 + d.up(8, "vni")), MTU: 1430,
		Prefix: netip.MustParsePrefix(fmt.Sprintf("2001:db8:%s:%x::/64", pick(d, "pool", "b", "b", "c", "a"), n)),
	}}
	for range d.up(3, "members") {
		v.Members = append(v.Members, d.member())
	}
	for range d.up(3, "endpoints") {
		k := d.up(5, "endpoint")
		v.Endpoints = append(v.Endpoints, netplan.Endpoint{VM: uid(4, k), MAC: mac(64 + k), IPv6: v.Prefix.Addr().Next().Next().Next(), VTEP: d.vtep()})
	}
	for range d.up(3, "mappings") {
		target := v.Prefix.Addr().Next().Next()
		if d.flip("other target") {
			target = target.Next()
		}
		v.Mappings = append(v.Mappings, netplan.Mapping{Service: netip.MustParseAddr(fmt.Sprintf("203.0.113.%d", d.up(12, "service"))), Target: target})
	}
	return v
}

func (d drawer) peers() {
	for i := range d.up(4, "foreign networks") {
		home := pick(d, "home", "osaka", "kyoto")
		v := d.foreign(i)
		for range d.up(2, "guests") {
			k := d.up(5, "guest")
			g := wire.Claim{Job: fmt.Sprintf("job%d", k), VM: uid(4, k), Home: home, Host: d.place().Host}
			g.Network = netplan.Order{Spec: v.Spec, Home: home, Endpoints: v.Endpoints, Flood: []netip.Addr{d.vtep(), d.vtep()}}
			g.Order = wire.VMOrder{VM: g.VM, NIC: wire.NICOrder{Network: uid(3, i)}} // reserve refuses a UID of ours
			if d.flip("arrived") {
				d.put(prefixOrders+g.VM, g)
			} else {
				d.put(prefixClaims+g.Job, g)
			}
		}
		if d.flip("told") {
			d.put(prefixViews+home+"/"+v.UID, v)
		}
	}
}

// TestSamePlans: what hosts, peers and new networks are given is the same as before netplan, whatever is in the store.
func TestSamePlans(t *testing.T) {
	pool := func(name string, use cloud.PoolUse, prefixes ...string) cloud.Pool {
		p := cloud.Pool{Name: name, Use: use, Peers: []string{"*"}, Owners: []string{"*"}}
		for _, x := range prefixes {
			p.Prefixes = append(p.Prefixes, netip.MustParsePrefix(x))
		}
		return p
	}
	c := &Controller{o: Options{Site: "tokyo", Plan: cloud.Plan{Pools: []cloud.Pool{
		pool("nets", cloud.PoolNetworks, "2001:db8:a::/48", "2001:db8:b::/48"), pool("service", cloud.PoolAddresses, "203.0.113.0/24"),
	}}}}
	text := func(v any) string {
		b, err := json.MarshalIndent(v, "", " ")
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	carried, mapped, flooded := 0, 0, 0
	rapid.Check(t, func(rt *rapid.T) {
		d := drawer{T: rt, memory: memory{}}
		d.site()
		d.peers()
		was := old{c}
		want, err1 := was.hostStates(d)
		got, err2 := c.hostStates(d)
		if err1 != nil || err2 != nil {
			rt.Fatal(err1, err2)
		}
		for _, s := range want {
			for i, n := range s.Networks {
				// A host with both roles stood twice in the flood list of a peer's network. Agents have always left out the
				// second.
				var flood []netip.Addr
				for _, a := range n.Flood {
					if !slices.Contains(flood, a) {
						flood = append(flood, a)
					}
				}
				s.Networks[i].Flood = flood
				flooded += len(flood)
				if n.Home != "tokyo" {
					carried++
				}
			}
			mapped += len(s.Mappings)
		}
		if diff := cmp.Diff(text(want), text(got)); diff != "" {
			rt.Fatal(diff)
		}
		views, err := was.ownViews(d)
		if err != nil {
			rt.Fatal(err)
		}
		plans, err := c.ownNetworks(d)
		if err != nil {
			rt.Fatal(err)
		}
		for i, v := range views {
			vtep := d.vtep()
			role := pick(d, "target", api.RoleHypervisor, api.RoleGateway)
			a := networkOrder(v, "tokyo", vtep.String(), role)
			b := plans[i].Order(netplan.Host{VTEP: vtep, Hypervisor: role == api.RoleHypervisor, Gateway: role == api.RoleGateway})
			if diff := cmp.Diff(text(a), text(b)); diff != "" {
				rt.Fatal(diff)
			}
		}
		for _, peer := range []string{"osaka", "kyoto"} {
			a, err1 := was.viewsFor(d, peer, views)
			b, err2 := c.viewsFor(d, peer, plans)
			if diff := cmp.Diff(text(a), text(b)); diff != "" || err1 != nil || err2 != nil {
				rt.Fatal(diff, err1, err2)
			}
		}
	})
	t.Logf("%d orders of peers' networks, %d flood addresses, %d mappings", carried, flooded, mapped)
	if carried == 0 || mapped == 0 || flooded == 0 {
		t.Error("the property was tried on nothing")
	}
}
