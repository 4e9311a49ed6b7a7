package control_test

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"widecloud/api"
	"widecloud/internal/access"
	"widecloud/internal/serve"
)

// TestCreatedWithAddresses: a VM is created with all the service addresses that its user wants, or not at all.
func TestCreatedWithAddresses(t *testing.T) {
	federation(t, options{sites: []string{"tokyo"}}, func(t *testing.T, w *world) {
		tokyo := w.sites["tokyo"]
		tokyo.ready("2001:db8:a::/64")
		tokyo.create(&api.Owner{Meta: api.Meta{Name: "uni"}, Spec: api.OwnerSpec{Quota: &api.Quota{Addresses: new(2)}}})
		ann, _ := tokyo.member("ann", "uni")
		tokyo.create(&api.Address{Meta: api.Meta{Name: "held", Owner: "uni"}, Spec: api.AddressSpec{Address: "203.0.113.7"}})
		tokyo.create(&api.Address{Meta: api.Meta{Name: "others", Owner: "lab"}, Spec: api.AddressSpec{Address: "203.0.113.8"}})
		tokyo.newVM("busy", "")
		tokyo.create(&api.Address{Meta: api.Meta{Name: "taken", Owner: "lab"}, Spec: api.AddressSpec{Address: "203.0.113.9", VM: "busy"}})
		with := func(p access.Actor, owner string, service ...string) error {
			spec := vmOf("", "").Spec
			spec.Service = service
			return second(tokyo.ctl.Create(t.Context(), p, &api.VM{Meta: api.Meta{Name: "web1", Owner: owner}, Spec: spec}))
		}
		addresses := func() (out []string) {
			all, _, err := tokyo.ctl.List(t.Context(), tokyo.admin, api.KindAddress, serve.Query{})
			w.must(err)
			for _, o := range all {
				a := o.(*api.Address)
				out = append(out, a.Name+" "+a.Spec.Address+" "+a.Spec.VM)
			}
			return out
		}
		before := addresses()
		for _, c := range []struct {
			what string
			err  error
			want []string
		}{
			{"another's address", with(ann, "uni", "203.0.113.8"), []string{"already-exists", "spec.service[0]"}},
			{"an address that leads elsewhere", with(tokyo.admin, "lab", "2001:db8:5e::1", "203.0.113.9"), []string{"conflict", "spec.service[1]"}},
			{"an unknown pool", with(ann, "uni", "none"), []string{"refused", "spec.service[0]"}},
			{"two of a family", with(ann, "uni", "203.0.113.7", "203.0.113.10"), []string{"conflict", "spec.service[1]"}},
			{"no address", with(ann, "uni", "public.4"), []string{"invalid", "spec.service[0]"}},
			{"two that cannot be had", with(tokyo.admin, "lab", "203.0.113.9", "192.0.2.1"), []string{"invalid", "spec.service[0]", "spec.service[1]"}},
			{"too many", with(ann, "uni", "a", "b", "c"), []string{"invalid", "spec.service"}},
		} {
			if d := cmp.Diff(c.want, faultsOf(c.err)); d != "" {
				t.Errorf("%s: %v\n%s", c.what, c.err, d)
			}
			if _, err := tokyo.ctl.Get(t.Context(), tokyo.admin, api.KindVM, "web1"); !errors.Is(err, &api.Error{Code: api.CodeNotFound}) {
				t.Fatalf("%s: a VM is left behind (%v)", c.what, err)
			}
			if d := cmp.Diff(before, addresses()); d != "" {
				t.Fatalf("%s leaves behind:\n%s", c.what, d)
			}
		}
		w.must(with(ann, "uni", "203.0.113.7", "public6"))
		want := []string{"held 203.0.113.7 web1", "others 203.0.113.8 ", "taken 203.0.113.9 busy", "web1-public6 2001:db8:5e::1 web1"}
		if d := cmp.Diff(want, addresses()); d != "" {
			t.Errorf("(-want +got):\n%s", d)
		}
		v := tokyo.vm("web1")
		if len(v.Spec.Service) > 0 || len(v.Status.Addresses) != 4 {
			t.Errorf("it is kept as %+v with %+v", v.Spec.Service, v.Status.Addresses)
		}
		v.Spec.Service = []string{"public4"}
		wantField(t, "another address later", second(tokyo.ctl.Update(t.Context(), ann, v)), api.CodeInvalid, "spec.service")
	})
}
