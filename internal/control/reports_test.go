package control_test

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"widecloud/api"
	"widecloud/internal/wire"
)

// TestReportsTogether: of reports that come at once, each is judged by itself: one that is refused harms none of the others.
func TestReportsTogether(t *testing.T) {
	federation(t, options{sites: []string{"tokyo"}, hosts: 6}, func(t *testing.T, w *world) {
		tokyo := w.sites["tokyo"]
		tokyo.ready("2001:db8:a::/64")
		w.connected()
		answers := map[string]chan error{}
		say := func(host, text string, vtep string) {
			x := tokyo.hosts[host]
			s, err := w.session("tokyo", "tokyo."+host, x.cred, wire.Control)
			w.must(err)
			t.Cleanup(func() { s.Close() })
			r := wire.HostReport{Roles: []api.HostRole{api.RoleHypervisor}, VTEP: tokyo.hosts[vtep].vtep, Capacity: x.room, Message: text, VMs: []wire.VMReport{}, Images: []string{}}
			answer := make(chan error, 1)
			answers[host] = answer
			go func() { answer <- wire.Call(t.Context(), s, http.MethodPost, wire.PathReport, r, &wire.Empty{}) }()
		}
		for i := range 6 {
			tokyo.hosts[fmt.Sprintf("h%d", i+1)].kill() // what they would say themselves is not of interest
		}
		for i := range 5 {
			say(fmt.Sprintf("h%d", i+1), "one of many", fmt.Sprintf("h%d", i+1))
		}
		say("h6", "one of many", "h1") // another host's tunnel end point
		for host, answer := range answers {
			err := <-answer
			if host == "h6" {
				if !errors.Is(err, &api.Error{Code: api.CodeInvalid}) {
					t.Errorf("the lie: %v", err)
				}
				continue
			}
			if err != nil {
				t.Errorf("%s: %v", host, err)
			}
			if m := tokyo.host(host).Status.Message; !strings.Contains(m, "one of many") {
				t.Errorf("%s says %q", host, m)
			}
		}
	})
}
