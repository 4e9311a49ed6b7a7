package control_test

import (
	"errors"
	"io"
	"strings"
	"testing"

	"widecloud/api"
	"widecloud/internal/rfb"
)

// shows looks at a VM's display, and leaves the viewer there.
func (s *site) shows(name string) io.ReadWriteCloser {
	s.w.t.Helper()
	c, err := s.ctl.Display(s.w.t.Context(), s.admin, name)
	if err != nil {
		s.w.t.Fatalf("display of %s: %v", name, err)
	}
	m, err := rfb.Capture(c)
	if err != nil || rfb.Black(m) {
		s.w.t.Fatalf("display of %s: %v, %v", name, m, err)
	}
	return c
}

// TestDisplay looks at a VM at a lender's site, is told where it has moved, and looks there.
func TestDisplay(t *testing.T) {
	federation(t, options{sites: []string{"tokyo", "osaka"}, hosts: 1}, func(t *testing.T, w *world) {
		tokyo := w.sites["tokyo"]
		w.lend("osaka", "tokyo", room())
		tokyo.ready("2001:db8:a::/64")
		if v := tokyo.newVM("web1", "osaka"); v.Status.CPU.Profile != api.NewestProfile {
			t.Errorf("a new VM has hardware profile %d", v.Status.CPU.Profile)
		}
		c := tokyo.shows("web1")
		tokyo.moved("web1", "tokyo")
		_, err := io.Copy(io.Discard, c)
		if e := new(api.Error); !errors.As(err, &e) || !strings.Contains(e.Message, "VM web1 has moved to tokyo/h1: connect again") {
			t.Errorf("the viewer is told %v", err)
		}
		c.Close()
		tokyo.shows("web1").Close()
		if v := tokyo.vm("web1"); v.Status.CPU.Profile != api.NewestProfile {
			t.Errorf("after its move the VM has hardware profile %d", v.Status.CPU.Profile)
		}

		old := vmOf("old1", "tokyo")
		old.Spec.Profile = 1
		tokyo.create(old)
		tokyo.runs("old1")
		if _, err := tokyo.ctl.Display(t.Context(), tokyo.admin, "old1"); !errors.Is(err, &api.Error{Code: api.CodeRefused}) || !strings.Contains(err.Error(), "it has the serial console") {
			t.Errorf("the display of a VM that has none: %v", err)
		}
		if _, g := tokyo.guest("old1"); g.Spec.Profile > 1 {
			t.Errorf("it is made with hardware profile %d", g.Spec.Profile)
		}
	})
}

// TestProfileOfAnOlderHost: where agents make an older profile alone, VMs get that one, and those with a newer one do not go there.
func TestProfileOfAnOlderHost(t *testing.T) {
	cpus := map[string]api.CPU{"osaka": {Accel: "tcg", Model: "Nehalem", Usable: []string{"Nehalem", "Westmere"}, Profile: 1}}
	federation(t, options{sites: []string{"tokyo", "osaka"}, hosts: 1, cpus: cpus}, func(t *testing.T, w *world) {
		tokyo := w.sites["tokyo"]
		w.lend("osaka", "tokyo", room())
		tokyo.ready("2001:db8:a::/64")
		if v := tokyo.newVM("old1", "osaka"); v.Status.CPU.Profile != 1 {
			t.Errorf("at an older lender it has hardware profile %d", v.Status.CPU.Profile)
		}
		tokyo.moved("old1", "tokyo")
		if _, g := tokyo.guest("old1"); g.Spec.Profile > 1 || tokyo.vm("old1").Status.CPU.Profile != 1 {
			t.Errorf("at a newer host it is made with %d", g.Spec.Profile)
		}
		tokyo.moved("old1", "osaka")

		tokyo.newVM("web1", "tokyo")
		_, reasons, err := tokyo.ctl.Migrate(t.Context(), tokyo.admin, "web1", "osaka", true)
		if err != nil || len(reasons) == 0 || !strings.Contains(reasons[0].Message, "the VM has hardware profile 2, the hypervisor's agent makes up to 1: it needs a newer release") {
			t.Errorf("a move to an older host: %v, %v", reasons, err)
		}
		wanted := vmOf("new1", "osaka")
		wanted.Spec.Profile = 2
		tokyo.create(wanted)
		w.until("new1 says why it has no place", func() bool { return len(tokyo.vm("new1").Status.Reasons) > 0 })
		if v := tokyo.vm("new1"); v.Status.Phase != api.PhasePending {
			t.Errorf("a VM that its user wants with a newer profile is %s: %v", v.Status.Phase, v.Status.Reasons)
		}

		tokyo.setPower("old1", api.PowerOff)
		tokyo.phase("old1", api.PhaseStopped)
		v := tokyo.vm("old1")
		v.Spec.Profile, v.Revision = 2, 0
		if _, err := tokyo.ctl.Update(t.Context(), tokyo.admin, v); !errors.Is(err, &api.Error{Code: api.CodeRefused}) || !strings.Contains(err.Error(), "cannot be made at osaka/h1") {
			t.Errorf("a newer profile where the host makes none: %v", err)
		}
	})
}
