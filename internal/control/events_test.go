package control_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"widecloud/api"
	"widecloud/internal/access"
	"widecloud/internal/serve"
)

// events are those that a principal sees whose type begins with one of the words: "TYPE OBJECT ACTOR".
func (s *site) events(p access.Actor, words ...string) (out []string) {
	s.w.t.Helper()
	all, _, err := s.ctl.List(s.w.t.Context(), p, api.KindEvent, serve.Query{})
	s.w.must(err)
	for _, o := range all {
		e := o.(*api.Event)
		for _, w := range words {
			if strings.HasPrefix(e.Type, w) {
				out = append(out, strings.TrimSpace(e.Type+" "+e.Object+" "+e.Actor))
			}
		}
	}
	return out
}

// TestEventsTellWho: whoever makes, changes, starts, stops, moves or deletes something is in the events with it, and so is what
// came of it.
func TestEventsTellWho(t *testing.T) {
	federation(t, options{sites: []string{"tokyo"}, hosts: 2}, func(t *testing.T, w *world) {
		tokyo := w.sites["tokyo"]
		tokyo.ready("2001:db8:a::/64")
		ann, _ := tokyo.member("ann", "lab")
		act := func(err error) {
			t.Helper()
			w.must(err)
			time.Sleep(30 * time.Second) // of the bubble: all that follows has come
		}
		power := func(p api.Power) error {
			v := tokyo.vm("web1")
			v.Spec.Power = p
			return second(tokyo.ctl.Update(t.Context(), ann, v))
		}
		act(second(tokyo.ctl.Create(t.Context(), ann, &api.VM{Meta: api.Meta{Name: "web1"}, Spec: vmOf("", "tokyo/h1").Spec})))
		act(power(api.PowerOff))
		v := tokyo.vm("web1")
		v.Spec.CPUs, v.Spec.UserData = 2, "#cloud-config\npassword: secret"
		act(second(tokyo.ctl.Update(t.Context(), ann, v)))
		act(power(api.PowerOn))
		act(tokyo.ctl.Reboot(t.Context(), ann, "web1", true))
		job := tokyo.migrate("web1", "tokyo/h2")
		tokyo.ended(job.Name)
		act(second(tokyo.ctl.Delete(t.Context(), ann, api.KindVM, "web1")))
		want := []string{
			"vm.created vms/web1 ann", "vm.placed vms/web1", "vm.running vms/web1 agent:h1",
			"vm.stop vms/web1 ann", "vm.stopped vms/web1 agent:h1",
			"vm.changed vms/web1 ann",
			"vm.start vms/web1 ann", "vm.running vms/web1 agent:h1",
			"vm.reboot vms/web1 ann",
			"vm.migrate vms/web1 admin", "vm.moved vms/web1",
			"vm.delete vms/web1 ann", "vm.deleted vms/web1 agent:h2",
		}
		if d := cmp.Diff(want, tokyo.events(ann, "vm.")); d != "" {
			t.Errorf("(-want +got):\n%s", d)
		}
		all, _, err := tokyo.ctl.List(t.Context(), tokyo.admin, api.KindEvent, serve.Query{})
		w.must(err)
		for _, o := range all {
			switch e := o.(*api.Event); {
			case strings.Contains(e.Message, "secret"):
				t.Errorf("an event tells a VM's user data: %s", e.Message)
			case e.Type == "vm.changed" && e.Message != "spec.cpus: 1 -> 2, spec.user_data":
				t.Errorf("vm.changed says %q", e.Message)
			}
		}
	})
}

// TestEventsTellLostHosts: a host whose agent is not reached any more, and one that is again, is in the events, once each. A
// controller that begins anew has lost nothing.
func TestEventsTellLostHosts(t *testing.T) {
	federation(t, options{sites: []string{"tokyo"}}, func(t *testing.T, w *world) {
		tokyo := w.sites["tokyo"]
		w.connected()
		settled := func() { time.Sleep(time.Minute) } // of the bubble
		check := func(when string, want ...string) {
			t.Helper()
			settled()
			if d := cmp.Diff(want, tokyo.events(tokyo.admin, "host.lost", "host.back")); d != "" {
				t.Errorf("%s (-want +got):\n%s", when, d)
			}
		}
		tokyo.start()
		check("the controller was started anew")
		tokyo.hosts["h1"].kill()
		check("the agent is dead", "host.lost hosts/h1")
		tokyo.start()
		check("and the controller is started anew", "host.lost hosts/h1")
		tokyo.hosts["h1"].start()
		check("the agent is back", "host.lost hosts/h1", "host.back hosts/h1 agent:h1")
	})
}
