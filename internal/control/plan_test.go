package control_test

import (
	"encoding/base64"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"widecloud/api"
	"widecloud/internal/cloud"
	"widecloud/internal/serve"
	"widecloud/internal/store"

	"github.com/google/go-cmp/cmp"
)

// wantField fails the test unless the error names the field.
func wantField(t *testing.T, what string, err error, code api.Code, field string) {
	t.Helper()
	var e *api.Error
	if !errors.As(err, &e) || e.Code != code || e.Field != field {
		t.Errorf("%s: %v (%+v), want %s of %q", what, err, e, code, field)
	}
}

// TestAddressPlan: users take networks and service addresses of the site's pools, and nothing else: not the underlay, nor an
// address of its hosts, nor what the site was never given.
func TestAddressPlan(t *testing.T) {
	federation(t, options{sites: []string{"tokyo"}}, func(t *testing.T, w *world) {
		tokyo := w.sites["tokyo"] // its host has its tunnel end point at 2001:db8:1::1
		w.plan.Pools = append(w.plan.Pools, cloud.Pool{Name: "uni", Use: cloud.PoolNetworks, Owners: []string{"uni"}, Prefixes: prefixes("2001:db8:900::/48")})
		w.plan.Reserved = []cloud.Reserved{{Prefix: netip.MustParsePrefix("10.9.0.0/16"), Why: "routers"}}
		tokyo.start()
		w.connected()
		tokyo.ready("2001:db8:a::/64")
		ann, _ := tokyo.member("ann", "lab")
		if _, err := tokyo.ctl.Create(t.Context(), ann, vmOf("web1", "")); err != nil {
			t.Fatal(err)
		}
		for what, o := range map[string]api.Object{
			"a host's address":       &api.Address{Spec: api.AddressSpec{Address: "2001:db8:1::1"}},
			"the underlay":           &api.Network{Spec: api.NetworkSpec{Prefix: "2001:db8:1::/64"}},
			"somebody's name server": &api.Address{Spec: api.AddressSpec{Address: "8.8.8.8", VM: "web1"}},
			"the same in IPv6":       &api.Address{Spec: api.AddressSpec{Address: "2001:4860:4860::8888", VM: "web1"}},
			"somebody's network":     &api.Network{Spec: api.NetworkSpec{Prefix: "2001:4860:4860::/64"}},
			"another owner's pool":   &api.Network{Spec: api.NetworkSpec{Prefix: "2001:db8:900::/64"}},
			"a network of addresses": &api.Network{Spec: api.NetworkSpec{Prefix: "2001:db8:5e::/64"}},
			"an address of networks": &api.Address{Spec: api.AddressSpec{Address: "2001:db8:b::1"}},
			"a broadcast address":    &api.Address{Spec: api.AddressSpec{Address: "203.0.113.255"}},
			"a reserved range":       &api.Network{Spec: api.NetworkSpec{Prefix: "2001:db8:b::/64", IPv4: "10.9.1.0/24"}},
		} {
			o.Metadata().Name = "x"
			_, err := tokyo.ctl.Create(t.Context(), ann, o)
			wantError(t, what, err, api.CodeRefused, api.CodeForbidden)
			var e *api.Error
			if errors.As(err, &e) && !slices.Contains([]string{"spec.prefix", "spec.address", "spec.ipv4"}, e.Field) {
				t.Errorf("%s: the error names %q", what, e.Field)
			}
		}
	})
}

// TestAnyFree: the usual way to ask is for anything that is free.
func TestAnyFree(t *testing.T) {
	federation(t, options{sites: []string{"tokyo"}}, func(t *testing.T, w *world) {
		tokyo := w.sites["tokyo"]
		tokyo.ready("2001:db8:a::/64")
		ann, _ := tokyo.member("ann", "lab")
		got := map[string]bool{}
		for i := range 5 {
			for _, o := range []api.Object{
				&api.Network{Meta: api.Meta{Name: fmt.Sprintf("n%d", i)}},
				&api.Address{Meta: api.Meta{Name: fmt.Sprintf("a%d", i)}, Spec: api.AddressSpec{Pool: "public4"}},
			} {
				o, err := tokyo.ctl.Create(t.Context(), ann, o)
				if err != nil {
					t.Fatal(err)
				}
				what := ""
				switch o := o.(type) {
				case *api.Network:
					what = o.Spec.Prefix
				case *api.Address:
					what = o.Spec.Address
				}
				if got[what] || what == "" {
					t.Errorf("%s %s has %q, which another one has", o.Kind(), o.Metadata().Name, what)
				}
				got[what] = true
			}
		}
		if !got["2001:db8:a:1::/64"] || !got["203.0.113.1"] || !got["203.0.113.5"] {
			t.Errorf("given: %v", got)
		}
		_, err := tokyo.ctl.Create(t.Context(), ann, &api.Address{Meta: api.Meta{Name: "x"}, Spec: api.AddressSpec{Pool: "nets"}})
		wantField(t, "of a pool that has none", err, api.CodeRefused, "spec.pool")
		// What was given stays when the object is written again as it was asked for.
		o, err := tokyo.ctl.Update(t.Context(), ann, &api.Address{Meta: api.Meta{Name: "a0"}, Spec: api.AddressSpec{Pool: "public4"}})
		if err != nil || o.(*api.Address).Spec.Address != "203.0.113.1" {
			t.Errorf("written again: %+v, %v", o, err)
		}
		sites, _, err := tokyo.ctl.List(t.Context(), ann, api.KindSite, serve.Query{})
		if err != nil || len(sites[0].(*api.Site).Spec.Pools) != 3 {
			t.Errorf("a user sees the pools %+v, %v", sites[0].(*api.Site).Spec.Pools, err)
		}
	})
}

// TestNetworkOverAddress: an address inside of a network is refused as a service address; so is, the other way round, a network
// over a service address of somebody else, also one from before the address plan.
func TestNetworkOverAddress(t *testing.T) {
	federation(t, options{sites: []string{"tokyo"}}, func(t *testing.T, w *world) {
		tokyo := w.sites["tokyo"]
		tokyo.ready("2001:db8:a::/64")
		w.must(tokyo.write("objects/addresses/old", `{"name":"old","owner":"lab","home":"tokyo","spec":{"address":"2001:db8:b::80"},"status":{}}`))
		tokyo.create(&api.Owner{Meta: api.Meta{Name: "uni"}})
		ann, _ := tokyo.member("ann", "uni")
		_, err := tokyo.ctl.Create(t.Context(), ann, &api.Network{Meta: api.Meta{Name: "over"}, Spec: api.NetworkSpec{Prefix: "2001:db8:b::/64"}})
		wantField(t, "a network over lab's address", err, api.CodeExists, "spec.prefix")
	})
}

// write puts a record into a site's store, as another release has left it.
func (s *site) write(key, value string) error {
	_, err := s.state.Update(s.w.t.Context(), func(tx store.Tx) error { return tx.Put(key, []byte(value)) })
	return err
}

// TestOneAddressOfEachFamily: a second IPv4 address for one VM is what a translator refuses.
func TestOneAddressOfEachFamily(t *testing.T) {
	federation(t, options{sites: []string{"tokyo"}}, func(t *testing.T, w *world) {
		tokyo := w.sites["tokyo"]
		tokyo.ready("2001:db8:a::/64")
		tokyo.create(vmOf("web1", ""))
		tokyo.create(vmOf("web2", ""))
		address := func(name, a, vm string) *api.Address {
			return &api.Address{Meta: api.Meta{Name: name, Owner: "lab"}, Spec: api.AddressSpec{Address: a, VM: vm}}
		}
		tokyo.create(address("a1", "203.0.113.1", "web1"))
		tokyo.create(address("a6", "2001:db8:5e::1", "web1"))
		_, err := tokyo.ctl.Create(t.Context(), tokyo.admin, address("a2", "203.0.113.2", "web1"))
		wantField(t, "a second IPv4 address", err, api.CodeConflict, "spec.vm")
		tokyo.create(address("a2", "203.0.113.2", "web2"))
		_, err = tokyo.ctl.Update(t.Context(), tokyo.admin, address("a2", "203.0.113.2", "web1"))
		wantField(t, "moved to a VM that has one", err, api.CodeConflict, "spec.vm")
	})
}

// TestQuota: an owner's quota counts disks of their image's size, growth, and service addresses.
func TestQuota(t *testing.T) {
	federation(t, options{sites: []string{"tokyo"}}, func(t *testing.T, w *world) {
		tokyo := w.sites["tokyo"]
		tokyo.ready("2001:db8:a::/64")
		tokyo.create(&api.Owner{Meta: api.Meta{Name: "uni"}, Spec: api.OwnerSpec{Quota: &api.Quota{CPUs: new(3), MemoryMiB: new(1024), DiskGiB: new(2), Addresses: new(1)}}})
		ann, _ := tokyo.member("ann", "uni")
		for i, want := range []string{"", "", "spec.disk_gib"} { // of 1 GiB each, which their image has
			_, err := tokyo.ctl.Create(t.Context(), ann, &api.VM{Meta: api.Meta{Name: fmt.Sprintf("v%d", i)}, Spec: vmOf("", "").Spec})
			if want != "" {
				wantField(t, "a third disk", err, api.CodeRefused, want)
			} else if err != nil {
				t.Fatal(err)
			}
		}
		for i, want := range []string{"", "spec.address"} {
			_, err := tokyo.ctl.Create(t.Context(), ann, &api.Address{Meta: api.Meta{Name: fmt.Sprintf("a%d", i)}})
			if want != "" {
				wantField(t, "a second address", err, api.CodeRefused, want)
			} else if err != nil {
				t.Fatal(err)
			}
		}
		tokyo.phase("v0", api.PhaseRunning)
		tokyo.setPower("v0", api.PowerOff)
		tokyo.phase("v0", api.PhaseStopped)
		for _, c := range []struct {
			cpus, memory int
			field        string
		}{{3, 256, "spec.cpus"}, {1, 1024, "spec.memory_mib"}, {2, 768, ""}} {
			v := tokyo.vm("v0")
			v.Spec.CPUs, v.Spec.MemoryMiB = c.cpus, c.memory
			_, err := tokyo.ctl.Update(t.Context(), ann, v)
			if c.field == "" && err != nil {
				t.Errorf("growth within the quota: %v", err)
			} else if c.field != "" {
				wantField(t, "growth beyond the quota", err, api.CodeRefused, c.field)
			}
		}
	})
}

// TestStatusIsTheServers: a status in the body of a creation is not taken.
func TestStatusIsTheServers(t *testing.T) {
	federation(t, options{sites: []string{"tokyo"}}, func(t *testing.T, w *world) {
		tokyo := w.sites["tokyo"]
		tokyo.ready("2001:db8:a::/64")
		_, text := tokyo.member("bob", "lab")
		bobs := strings.Split(text, "_")[1]
		for _, o := range []api.Object{
			&api.Address{Spec: api.AddressSpec{Address: "203.0.113.9"}, Status: api.AddressStatus{Target: "2001:db8::bad", Translators: []string{"none"}}},
			&api.Network{Spec: api.NetworkSpec{Prefix: "2001:db8:f::/64"}, Status: api.NetworkStatus{Members: []api.NetworkMember{{Site: "none"}}}},
			&api.User{Status: api.UserStatus{Tokens: []string{bobs, "none"}}},
			&api.Owner{Status: api.OwnerStatus{Used: api.Resources{CPUs: -7}}},
			&api.Image{Status: api.ImageStatus{Phase: "none", Digest: "none"}},
			&api.Offer{Spec: api.OfferSpec{To: []string{"*"}, LendLimit: api.Resources{CPUs: 1}, Lease: 60}, Status: api.OfferStatus{Lent: api.Resources{CPUs: -7}}},
			&api.VM{Meta: api.Meta{Owner: "lab"}, Spec: vmOf("", "").Spec, Status: api.VMStatus{Epoch: 99, Message: "none"}},
		} {
			o.Metadata().Name = "forged"
			made := tokyo.create(o)
			w.until("it is kept", func() bool { return valueOf(tokyo.proc, "objects/"+string(o.Kind())+"/forged") != "" })
			if kept := valueOf(tokyo.proc, "objects/"+string(o.Kind())+"/forged"); strings.Contains(kept, "none") || strings.Contains(kept, ":-7") || strings.Contains(kept, ":99") || strings.Contains(kept, bobs) || strings.Contains(kept, "::bad") {
				t.Errorf("the client's own status is kept: %s\n%+v", kept, made)
			}
		}
		// A token that a made-up status names stays when its user goes.
		if _, err := tokyo.ctl.Delete(t.Context(), tokyo.admin, api.KindUser, "forged"); err != nil {
			t.Fatal(err)
		}
		if _, err := tokyo.ctl.Authenticate(t.Context(), text); err != nil {
			t.Errorf("another user's token: %v", err)
		}
	})
}

// TestManyKeys: a user makes VMs that are as large as the API takes them. The host where they are must still take orders for
// somebody else's VM.
func TestManyKeys(t *testing.T) {
	federation(t, options{sites: []string{"tokyo"}, capacity: api.Resources{CPUs: 400, MemoryMiB: 1 << 20, DiskGiB: 1000}}, func(t *testing.T, w *world) {
		tokyo := w.sites["tokyo"]
		tokyo.ready("2001:db8:a::/64")
		ann, _ := tokyo.member("ann", "lab")
		blob := append(append([]byte{0, 0, 0, 11}, "ssh-ed25519"...), make([]byte, 36)...)
		key := func(bytes int) string {
			k := "ssh-ed25519 " + base64.StdEncoding.EncodeToString(blob) + " "
			return k + strings.Repeat("x", bytes-len(k))
		}
		spec := vmOf("", "").Spec
		for range 62 {
			spec.SSHKeys = append(spec.SSHKeys, key(16000))
		}
		_, err := tokyo.ctl.Create(t.Context(), ann, &api.VM{Meta: api.Meta{Name: "mega"}, Spec: spec})
		wantField(t, "a megabyte of keys", err, api.CodeInvalid, "spec.ssh_keys")
		spec.SSHKeys = []string{key(16000), key(16000)}
		spec.UserData = "#cloud-config\n# " + strings.Repeat("y", 60000)
		const n = 60 // 5.5 MB of orders, which come in parts
		for i := range n {
			if _, err := tokyo.ctl.Create(t.Context(), ann, &api.VM{Meta: api.Meta{Name: fmt.Sprintf("v%d", i)}, Spec: spec}); err != nil {
				t.Fatal(err)
			}
		}
		tokyo.create(vmOf("other", ""))
		if !soon(2*time.Minute, func() bool { return tokyo.vm("other").Status.Phase == api.PhaseRunning }) {
			t.Errorf("after %d VMs of one user, another VM of the host is %s (%q)", n, tokyo.vm("other").Status.Phase, tokyo.vm("other").Status.Message)
		}
		if got := len(tokyo.hosts["h1"].orders().VMs); got != n+1 {
			t.Errorf("the host has orders for %d VMs, want %d", got, n+1)
		}
	})
}

// TestNetworkMembers: a network shows which hosts carry it, and is found by them; that is planned, and not kept.
func TestNetworkMembers(t *testing.T) {
	federation(t, options{sites: []string{"tokyo"}, hosts: 2}, func(t *testing.T, w *world) {
		tokyo := w.sites["tokyo"]
		tokyo.ready("2001:db8:a::/64")
		shown := func() *api.Network {
			o, err := tokyo.ctl.Get(t.Context(), tokyo.admin, api.KindNetwork, "blue")
			w.must(err)
			return o.(*api.Network)
		}
		if got := shown().Status.Members; len(got) > 0 {
			t.Errorf("before there is a VM: %+v", got)
		}
		tokyo.newVM("web1", "tokyo/h2")
		tokyo.runs("web1")
		want := []api.NetworkMember{{Site: "tokyo", Host: "h2", VTEP: tokyo.hosts["h2"].vtep.String(), Role: api.RoleHypervisor}}
		if d := cmp.Diff(want, shown().Status.Members); d != "" {
			t.Errorf("(-want +got):\n%s", d)
		}
		for host, found := range map[string]int{"h1": 0, "h2": 1} {
			all, _, err := tokyo.ctl.List(t.Context(), tokyo.admin, api.KindNetwork, serve.Query{Selector: api.Selector{Hosts: []string{host}}})
			if err != nil || len(all) != found {
				t.Errorf("networks of %s: %v, %v", host, all, err)
			}
		}
		n := shown()
		n.Labels = map[string]string{"tier": "web"}
		w.must(second(tokyo.ctl.Update(t.Context(), tokyo.admin, n)))
		if kept := valueOf(tokyo.proc, "objects/networks/blue"); strings.Contains(kept, "members") {
			t.Errorf("kept is %s", kept)
		}
	})
}
