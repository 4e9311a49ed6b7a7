package control_test

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"widecloud/api"
	"widecloud/internal/serve"
)

// faultsOf are the code and the fields of an error that lists several faults, or its one field.
func faultsOf(err error) (out []string) {
	var e *api.Error
	if !errors.As(err, &e) {
		return []string{fmt.Sprint(err)}
	}
	out = append(out, string(e.Code))
	if e.Field != "" {
		out = append(out, e.Field)
	}
	for _, r := range e.Reasons {
		out = append(out, r.Field)
	}
	return out
}

// TestUnknownPlaces: what names a site or a host that is not there, or that cannot do what is wanted, is refused at once.
func TestUnknownPlaces(t *testing.T) {
	federation(t, options{sites: []string{"tokyo", "osaka"}}, func(t *testing.T, w *world) {
		tokyo := w.sites["tokyo"]
		tokyo.ready("2001:db8:a::/64")
		tokyo.addGateway("gw1", netip.MustParseAddr("2001:db8:1::99"))
		w.connected()
		offer := func(to ...string) *api.Offer {
			return &api.Offer{Meta: api.Meta{Name: "room"}, Spec: api.OfferSpec{To: to, LendLimit: api.Resources{CPUs: 1}, Lease: 60}}
		}
		vm := func(place string, sites ...string) *api.VM {
			v := vmOf("web1", place)
			v.Spec.Sites = sites
			return v
		}
		for _, c := range []struct {
			what string
			o    api.Object
			want []string
		}{
			{"an offer to nobody who is known", offer("osaka", "kyoto"), []string{"invalid", "spec.to[1]"}},
			{"an offer to oneself", offer("tokyo"), []string{"invalid", "spec.to[0]"}},
			{"a permit of an unknown site", vm("", "tokyo", "osaka", "kyoto"), []string{"invalid", "spec.sites[2]"}},
			{"a place at an unknown site", vm("kyoto"), []string{"invalid", "spec.place"}},
			{"an unknown host", vm("tokyo/h9"), []string{"invalid", "spec.place"}},
			{"a gateway", vm("tokyo/gw1"), []string{"invalid", "spec.place"}},
			{"all at once", &api.VM{Meta: api.Meta{Name: "web1", Owner: "none"}, Spec: api.VMSpec{Hardware: api.Hardware{MemoryMiB: 256}, Image: "huge", Network: "red", Sites: []string{"kyoto"}}},
				[]string{"invalid", "spec.cpus", "owner", "spec.network", "spec.image", "spec.sites[0]"}},
		} {
			_, err := tokyo.ctl.Create(t.Context(), tokyo.admin, c.o)
			if d := cmp.Diff(c.want, faultsOf(err)); d != "" {
				t.Errorf("%s: %v\n%s", c.what, err, d)
			}
		}
		tokyo.create(offer("osaka"))
		if _, err := tokyo.ctl.Update(t.Context(), tokyo.admin, offer("osaka", "kyoto")); !cmp.Equal(faultsOf(err), []string{"invalid", "spec.to[1]"}) {
			t.Errorf("an offer is changed to an unknown site: %v", err)
		}

		tokyo.newVM("web1", "tokyo/h1")
		for _, host := range []string{"tokyo/gw1", "tokyo/h9"} {
			for _, dry := range []bool{true, false} {
				job, _, err := tokyo.ctl.Migrate(t.Context(), tokyo.admin, "web1", host, dry)
				if job != nil || !cmp.Equal(faultsOf(err), []string{"invalid", "target"}) {
					t.Errorf("a migration to %s (dry run: %t) gives job %v, %v", host, dry, job, err)
				}
			}
		}

		// What was named while the site was a peer may stay when it has left.
		v := tokyo.vm("web1")
		v.Spec.Sites = []string{"tokyo", "osaka"}
		_, err := tokyo.ctl.Update(t.Context(), tokyo.admin, v)
		w.must(err)
		_, err = tokyo.ctl.Delete(t.Context(), tokyo.admin, api.KindPeer, "osaka")
		w.must(err)
		w.until("the peer is gone", func() bool {
			_, err := tokyo.ctl.Get(t.Context(), tokyo.admin, api.KindPeer, "osaka")
			return errors.Is(err, &api.Error{Code: api.CodeNotFound})
		})
		tokyo.setPower("web1", api.PowerOff)
		tokyo.phase("web1", api.PhaseStopped)
	})
}

// TestTakenNames: a name that another owner holds is taken, and no more of that object is told.
func TestTakenNames(t *testing.T) {
	federation(t, options{sites: []string{"tokyo"}}, func(t *testing.T, w *world) {
		tokyo := w.sites["tokyo"]
		tokyo.ready("2001:db8:a::/64")
		tokyo.create(&api.Owner{Meta: api.Meta{Name: "uni"}})
		ann, _ := tokyo.member("ann", "uni")
		tokyo.create(vmOf("web1", ""))
		for _, c := range []struct {
			who  string
			err  error
			want string
		}{
			{"its owner", second(tokyo.ctl.Create(t.Context(), tokyo.admin, vmOf("web1", ""))), `VM "web1" already exists`},
			{"another owner", second(tokyo.ctl.Create(t.Context(), ann, &api.VM{Meta: api.Meta{Name: "web1"}, Spec: vmOf("", "").Spec})),
				`the name "web1" is taken at this site by another owner; choose another name`},
		} {
			wantField(t, c.who, c.err, api.CodeExists, "name")
			if c.err == nil || !strings.Contains(c.err.Error(), c.want) || strings.Contains(c.err.Error(), "lab") {
				t.Errorf("%s is told %v, want %s", c.who, c.err, c.want)
			}
		}
	})
}

func second[T any](_ T, err error) error { return err }

// TestOwnersUse: an owner shows what it uses, in lists and in watches, and a quota limits only what it names.
func TestOwnersUse(t *testing.T) {
	federation(t, options{sites: []string{"tokyo"}}, func(t *testing.T, w *world) {
		tokyo := w.sites["tokyo"]
		tokyo.ready("2001:db8:a::/64")
		v := vmOf("web1", "")
		v.Spec.CPUs, v.Spec.DiskGiB = 2, 3
		tokyo.create(v)
		tokyo.create(&api.Address{Meta: api.Meta{Name: "a1", Owner: "lab"}})
		want := api.Resources{CPUs: 2, MemoryMiB: 256, DiskGiB: 3, Addresses: 1}
		one, err := tokyo.ctl.Get(t.Context(), tokyo.admin, api.KindOwner, "lab")
		w.must(err)
		all, at, err := tokyo.ctl.List(t.Context(), tokyo.admin, api.KindOwner, serve.Query{})
		w.must(err)
		changes, err := tokyo.watch(t.Context(), tokyo.admin, []api.Kind{api.KindOwner}, api.Selector{}, at)
		w.must(err)
		quota := func(q api.Quota) error {
			return second(tokyo.ctl.Update(t.Context(), tokyo.admin, &api.Owner{Meta: api.Meta{Name: "lab"}, Spec: api.OwnerSpec{Quota: &q}}))
		}
		w.must(quota(api.Quota{CPUs: new(3), Addresses: new(1)}))
		seen := (<-changes).Object
		for where, o := range map[string]api.Object{"get": one, "list": all[0], "watch": seen} {
			if d := cmp.Diff(want, o.(*api.Owner).Status.Used); d != "" {
				t.Errorf("%s:\n%s", where, d)
			}
		}

		tokyo.create(vmOf("web2", "")) // memory and disk have no limit
		_, err = tokyo.ctl.Create(t.Context(), tokyo.admin, vmOf("web3", ""))
		wantField(t, "a fourth CPU", err, api.CodeRefused, "spec.cpus")
		w.must(quota(api.Quota{CPUs: new(3), MemoryMiB: new(0)}))
		_, err = tokyo.ctl.Create(t.Context(), tokyo.admin, vmOf("web3", ""))
		if d := cmp.Diff([]string{"refused", "spec.cpus", "spec.memory_mib"}, faultsOf(err)); d != "" {
			t.Errorf("beyond two limits: %v\n%s", err, d)
		}
		wantField(t, "a negative limit", quota(api.Quota{DiskGiB: new(-1)}), api.CodeInvalid, "spec.quota.disk_gib")
	})
}

// TestReasonsAreFew: a VM without a place keeps few reasons, whatever the number of hosts, and one that has a place keeps none.
func TestReasonsAreFew(t *testing.T) {
	federation(t, options{sites: []string{"tokyo"}, hosts: 20}, func(t *testing.T, w *world) {
		tokyo := w.sites["tokyo"]
		tokyo.ready("2001:db8:a::/64")
		w.connected()
		v := vmOf("big", "")
		v.Spec.CPUs = 9 // each host has 8
		tokyo.create(v)
		tokyo.create(vmOf("small", ""))
		w.until("big has reasons", func() bool { return len(tokyo.vm("big").Status.Reasons) > 0 })
		want := []api.Reason{{Site: "tokyo", Code: "cpu", Message: "20 hosts: for example h1, needs 9 CPUs, the host has 8 left", Advice: "stop or move another VM, or choose another host"}}
		got := tokyo.vm("big").Status.Reasons
		if len(got) > 0 { // how much is left depends on whether small is placed yet
			got[0].Message = strings.Replace(got[0].Message, "has 7 left", "has 8 left", 1)
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("(-want +got):\n%s", d)
		}
		tokyo.phase("small", api.PhaseRunning)
		if got := tokyo.vm("small").Status.Reasons; len(got) > 0 {
			t.Errorf("it runs, and has reasons: %v", got)
		}
		all, err := tokyo.ctl.Why(t.Context(), tokyo.admin, "big", "tokyo")
		if w.must(err); len(all) < 20 {
			t.Errorf("why has %d reasons: it is to have all", len(all))
		}
	})
}
