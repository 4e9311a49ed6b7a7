package control_test

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"widecloud/api"
	"widecloud/internal/serve"
	"widecloud/internal/wire"
)

// TestRename: a VM that runs gets another name. All that it has stays, its hostname too, and what is wrong with a name is said.
func TestRename(t *testing.T) {
	federation(t, options{sites: []string{"tokyo", "osaka"}, hosts: 2}, func(t *testing.T, w *world) {
		tokyo := w.sites["tokyo"]
		w.lend("osaka", "tokyo", room())
		tokyo.ready("2001:db8:a::/64")
		tokyo.create(&api.Owner{Meta: api.Meta{Name: "uni"}})
		ann, _ := tokyo.member("ann", "uni")
		tokyo.create(&api.Volume{Meta: api.Meta{Name: "kept", Owner: "lab"}, Spec: api.VolumeSpec{SizeGiB: 1}})
		v := vmOf("web1", "tokyo/h1")
		v.Spec.Disks, v.Spec.Service = []api.Disk{{Name: "data", SizeGiB: 1}, {Name: "logs", Volume: "kept"}}, []string{"203.0.113.10"}
		tokyo.create(v)
		tokyo.runs("web1")
		tokyo.newVM("other", "tokyo/h1")
		was := tokyo.vm("web1")
		rename := func(from, to string) (*api.VM, error) { return tokyo.ctl.Rename(t.Context(), tokyo.admin, from, to) }
		refused := func(what, from, to string, code api.Code, field string) {
			t.Helper()
			_, err := rename(from, to)
			wantField(t, what, err, code, field)
		}
		volumes := func() (out []string) {
			t.Helper()
			all, _, err := tokyo.ctl.List(t.Context(), tokyo.admin, api.KindVolume, serve.Query{})
			w.must(err)
			for _, o := range all {
				out = append(out, o.Metadata().Name+" of "+o.(*api.Volume).Status.VM)
			}
			return out
		}
		address := func() string {
			t.Helper()
			o, err := tokyo.ctl.Get(t.Context(), tokyo.admin, api.KindAddress, "203-0-113-10")
			w.must(err)
			return o.(*api.Address).Spec.VM
		}
		refused("a name that is taken", "web1", "other", api.CodeExists, "name")
		refused("no name", "web1", "a b", api.CodeInvalid, "name")
		refused("no VM", "web9", "www", api.CodeNotFound, "")
		_, err := tokyo.ctl.Rename(t.Context(), ann, "web1", "www")
		wantError(t, "another organisation's VM", err, api.CodeNotFound)
		w.at("tokyo", "coordinator.none", func() { refused("one that moves", "web1", "www", api.CodeConflict, "") })
		tokyo.moved("web1", "tokyo/h2")

		now, err := rename("web1", "www")
		w.must(err)
		if now.Name != "www" || now.UID != was.UID || now.Status.Hostname != "web1" || now.Status.MAC != was.Status.MAC || now.Revision == was.Revision {
			t.Errorf("renamed: %+v", now)
		}
		same := func(a, b api.VMAddress) bool { return a.Address == b.Address }
		if !slices.EqualFunc(now.Status.Addresses, was.Status.Addresses, same) {
			t.Errorf("its addresses are %v, were %v", now.Status.Addresses, was.Status.Addresses)
		}
		_, err = tokyo.ctl.Get(t.Context(), tokyo.admin, api.KindVM, "web1")
		wantError(t, "the old name", err, api.CodeNotFound)
		tokyo.runs("www")
		if got := address(); got != "www" {
			t.Errorf("its service address leads to %s", got)
		}
		want := []string{"kept of www", "other.root of other", "www.data of www", "www.root of www"}
		if d := cmp.Diff(want, volumes()); d != "" {
			t.Errorf("volumes (-want +got):\n%s", d)
		}
		h := tokyo.hosts["h2"]
		w.until("its host knows the name", func() bool {
			s := h.orders()
			return len(s.VMs) == 1 && s.VMs[0].Name == "www"
		})
		s := h.orders()
		if s.VMs[0].Seed.Hostname != "web1" || len(s.Networks) != 1 || !slices.ContainsFunc(s.Networks[0].Endpoints, hostname(was.UID, "web1")) {
			t.Errorf("what its host was told: %+v", s)
		}

		// The hostname is taken as long as it is one. A first name that comes back is both again.
		_, err = tokyo.ctl.Create(t.Context(), tokyo.admin, vmOf("web1", ""))
		wantField(t, "a new VM with the hostname", err, api.CodeConflict, "name")
		refused("another VM with the hostname", "other", "web1", api.CodeConflict, "name")
		now, err = rename("www", "web1")
		w.must(err)
		if now.Status.Hostname != "" {
			t.Errorf("with its first name again its hostname is %q", now.Status.Hostname)
		}
		_, err = rename("web1", "www")
		w.must(err)

		// It moves by its new name. A lender knows its guests by name.
		tokyo.moved("www", "osaka/h1")
		refused("one at a lender", "www", "web2", api.CodeConflict, "")
		tokyo.moved("www", "tokyo/h1")
		_, err = rename("www", "web2")
		w.must(err)
		tokyo.runs("web2")
		if got := tokyo.vm("web2").Status.Hostname; got != "web1" {
			t.Errorf("its hostname is %q", got)
		}
		_, err = tokyo.ctl.Delete(t.Context(), tokyo.admin, api.KindVM, "web2")
		w.must(err)
		tokyo.gone("web2")
		if d := cmp.Diff([]string{"kept of ", "other.root of other"}, volumes()); d != "" || address() != "" {
			t.Errorf("after its deletion the address leads to %q; volumes (-want +got):\n%s", address(), d)
		}
		tokyo.newVM("web1", "tokyo/h1")
	})
}

// hostname finds the endpoint of a VM with a hostname.
func hostname(uid, name string) func(wire.EndpointOrder) bool {
	return func(e wire.EndpointOrder) bool { return e.VM == uid && e.Hostname == name }
}
