package control_test

import (
	"math"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"widecloud/api"
	"widecloud/internal/wire"
)

func (s *site) ledger() (sum api.LedgerDay) {
	s.w.t.Helper()
	l, err := s.ctl.Ledger(s.w.t.Context(), s.admin, "")
	s.w.must(err)
	for _, r := range l.Days {
		sum.Lender, sum.Borrower, sum.Loan = r.Lender, r.Borrower, r.Loan
		sum.VMs += r.VMs
		sum.Used.CPUs += r.Used.CPUs
		sum.Used.Memory += r.Used.Memory
		sum.Granted.CPUs += r.Granted.CPUs
	}
	return sum
}

// TestLedger: both sides count the same of a loan, through restarts of their controllers, and it stays when the loan is over.
func TestLedger(t *testing.T) {
	federation(t, options{sites: []string{"tokyo", "osaka"}}, func(t *testing.T, w *world) {
		tokyo, osaka := w.sites["tokyo"], w.sites["osaka"]
		began := time.Now()
		loan := w.lend("osaka", "tokyo", room())
		tokyo.ready("2001:db8:a::/64")
		tokyo.newVM("web1", "osaka")
		tokyo.runs("web1")
		ran := time.Now()
		time.Sleep(3 * time.Minute)
		osaka.kill()
		tokyo.kill()
		time.Sleep(3 * time.Minute) // the VM runs on
		osaka.start()
		tokyo.start()
		w.connected()
		time.Sleep(3 * time.Minute)

		lent, borrowed := osaka.ledger(), tokyo.ledger()
		hours := time.Since(ran).Hours()
		if lent.Loan != loan.Name || lent.Lender != "osaka" || lent.Borrower != "tokyo" || borrowed.Loan != loan.Name {
			t.Errorf("the ledgers are of %+v and %+v", lent, borrowed)
		}
		if lent.VMs < hours || lent.VMs > time.Since(began).Hours() || lent.Used.CPUs < lent.VMs || lent.Granted.CPUs < hours*float64(room().CPUs) {
			t.Errorf("after %.3f hours osaka has %+v", hours, lent)
		}
		if close := func(a, b float64) bool { return math.Abs(a-b) < 0.01 }; !close(lent.VMs, borrowed.VMs) || !close(lent.Used.CPUs, borrowed.Used.CPUs) || !close(lent.Used.Memory, borrowed.Used.Memory) {
			t.Errorf("osaka has lent %+v, and tokyo has borrowed %+v", lent, borrowed)
		}

		if _, err := osaka.ctl.Reclaim(t.Context(), osaka.admin, loan.Name); err != nil {
			t.Fatal(err)
		}
		w.until("the loan has ended on both sides", func() bool {
			return osaka.loan(loan.Name).Status.State == api.LoanEnded && tokyo.loan(loan.Name).Status.State == api.LoanEnded &&
				osaka.loan(loan.Name).Status.Used == (api.Resources{})
		})
		time.Sleep(10 * time.Second)
		last := osaka.ledger()
		time.Sleep(time.Minute)
		if after := osaka.ledger(); after != last {
			t.Errorf("a loan that is over went on counting: %+v, then %+v", last, after)
		}

		ann, _ := tokyo.member("ann", "lab")
		if _, err := tokyo.ctl.Ledger(t.Context(), ann, ""); err == nil {
			t.Error("a member reads the ledger")
		}
		if _, err := tokyo.ctl.Ledger(t.Context(), tokyo.admin, "yesterday"); err == nil || !strings.Contains(err.Error(), "from") {
			t.Errorf("from yesterday: %v", err)
		}
		if l, err := tokyo.ctl.Ledger(t.Context(), tokyo.admin, "9999-01-01"); err != nil || len(l.Days) != 0 {
			t.Errorf("of the future: %+v, %v", l, err)
		}
	})
}

// exposition is a site's metrics as Prometheus reads them.
func (s *site) exposition() string {
	s.w.t.Helper()
	r := prometheus.NewRegistry()
	r.MustRegister(s.ctl.Metrics())
	answer := httptest.NewRecorder()
	promhttp.HandlerFor(r, promhttp.HandlerOpts{}).ServeHTTP(answer, httptest.NewRequest("GET", "/metrics", nil))
	if answer.Code != http.StatusOK {
		s.w.t.Fatal(answer.Body)
	}
	return answer.Body.String()
}

// TestMetrics: hosts, VMs, migrations and peers have series, and those of what is gone go.
func TestMetrics(t *testing.T) {
	federation(t, options{sites: []string{"tokyo", "osaka"}}, func(t *testing.T, w *world) {
		tokyo, osaka := w.sites["tokyo"], w.sites["osaka"]
		w.lend("osaka", "tokyo", room())
		tokyo.ready("2001:db8:a::/64")
		tokyo.newVM("web1", "tokyo")
		tokyo.runs("web1")
		time.Sleep(time.Minute)
		has := func(s *site, when string, words ...string) {
			t.Helper()
			got := s.exposition()
			for _, word := range words {
				if !strings.Contains(got, word) {
					t.Errorf("%s, %s's metrics lack %s in\n%s", when, s.name, word, got)
				}
			}
		}
		const here = `{home="tokyo",host="h1",owner="lab",vm="web1"}`
		has(tokyo, "at home", "widecloud_vm_cpu_seconds_total"+here, "widecloud_vm_memory_bytes"+here+" 2.68435456e+08", "widecloud_vm_disk_writes_total"+here,
			`widecloud_vms{phase="running"} 1`, "widecloud_vms_omitted 0", `widecloud_host_up{host="h1"} 1`, `widecloud_host_capacity_cpus{host="h1"}`,
			`widecloud_host_image_bytes{host="h1"}`, `widecloud_host_image_unused_bytes{host="h1"}`,
			`widecloud_host_allotted_memory_bytes{host="h1"} 2.68435456e+08`, `widecloud_peer_up{peer="osaka"} 1`, `widecloud_peer_sent_bytes_total{peer="osaka"}`,
			`widecloud_borrowed_cpus{peer="osaka"}`, "widecloud_migrations_running 0")
		rules, err := os.ReadFile("../../packaging/prometheus/widecloud-rules.yml")
		w.must(err)
		for _, name := range regexp.MustCompile(`widecloud_\w+`).FindAllString(string(rules), -1) {
			if name != "widecloud_migrations_total" { // none has ended yet
				has(tokyo, "for the alerts", name)
			}
		}
		has(osaka, "before", `widecloud_lent_used_cpus{peer="tokyo"} 0`)

		tokyo.moved("web1", "osaka")
		time.Sleep(time.Minute)
		has(osaka, "after the move", "widecloud_vm_cpu_seconds_total"+here, `widecloud_lent_used_cpus{peer="tokyo"} 1`)
		has(tokyo, "after the move", `widecloud_migrations_total{outcome="done"} 1`, `widecloud_migration_seconds_count{outcome="done"} 1`, `widecloud_migration_bytes_total{of="memory"}`)
		if got := tokyo.exposition(); strings.Contains(got, "widecloud_vm_cpu_seconds_total") {
			t.Errorf("a VM that has left has series yet:\n%s", got)
		}

		osaka.hosts["h1"].kill()
		w.until("osaka knows that its host is down", func() bool { return !osaka.host("h1").Status.Connected })
		has(osaka, "with the host down", `widecloud_host_up{host="h1"} 0`)
		if got := osaka.exposition(); strings.Contains(got, "widecloud_vm_cpu_seconds_total") {
			t.Errorf("a host that is not reached has VMs yet:\n%s", got)
		}
		osaka.hosts["h1"].start()
	})
}

// TestLinks: a site shows where it and its peers are, what crosses between them, and why a peer is not reached.
func TestLinks(t *testing.T) {
	federation(t, options{sites: []string{"tokyo", "osaka"}}, func(t *testing.T, w *world) {
		tokyo := w.sites["tokyo"]
		of := func(name string) *api.Site {
			t.Helper()
			o, err := tokyo.ctl.Get(t.Context(), tokyo.admin, api.KindSite, name)
			if err != nil {
				t.Fatal(err)
			}
			return o.(*api.Site)
		}
		w.until("osaka has said where it is", func() bool { return of("osaka").Spec.Location != nil })
		want := []*api.Location{{Latitude: 35.5, Longitude: 139.5, Place: "tokyo's"}, {Latitude: 35.5, Longitude: 139.5, Place: "osaka's"}}
		if diff := cmp.Diff(want, []*api.Location{of("tokyo").Spec.Location, of("osaka").Spec.Location}); diff != "" {
			t.Errorf("-want +got\n%s", diff)
		}
		w.until("pings cross", func() bool { s := of("osaka").Status; return s.Sent > 0 && s.Received > 0 && s.Message == "" })
		w.net.Cut("tokyo", "osaka")
		w.until("osaka is not reached, and says why", func() bool {
			s := of("osaka").Status
			return !s.Reached && s.Sent == 0 && strings.HasPrefix(s.Message, "no session is up: ") && s.Since.After(time.Now().Add(-time.Minute))
		})
		w.net.Heal("tokyo", "osaka")
		w.connected()
		w.until("it is reached again", func() bool { s := of("osaka").Status; return s.Reached && s.Message == "" })
	})
}

// TestTraffic: what a gateway's agent says of its translator is told of the address and the translator, with rates.
func TestTraffic(t *testing.T) {
	federation(t, options{sites: []string{"tokyo"}}, func(t *testing.T, w *world) {
		tokyo := w.sites["tokyo"]
		gw := tokyo.addGateway("gw", netip.MustParseAddr("2001:db8:ffff::99"))
		w.until("the gateway is there", func() bool { return tokyo.host("gw").Status.Connected })
		gw.kill() // the test speaks for it from here on
		tokyo.create(&api.Owner{Meta: api.Meta{Name: "lab"}})
		tokyo.create(&api.Address{Meta: api.Meta{Name: "www", Owner: "lab"}, Spec: api.AddressSpec{Address: "203.0.113.10"}})
		service := netip.MustParseAddr("203.0.113.10")
		trust, err := wire.NewTrust(wire.TrustOptions{CA: gw.cred.CA})
		w.must(err)
		session, err := wire.Dial(t.Context(), "tokyo:646", wire.Controller("tokyo"), wire.Control, wire.Options{Credential: gw.cred, Trust: trust, Network: w.net.Node(gw.node())})
		if err != nil {
			t.Fatal(err)
		}
		defer session.Close()
		report := func(traffic ...wire.ServiceTraffic) error {
			return wire.Call(t.Context(), session, "POST", wire.PathReport, wire.HostReport{
				Boot: "b", Roles: []api.HostRole{api.RoleGateway}, VTEP: gw.vtep, VMs: []wire.VMReport{}, Images: []string{},
				Translator: &wire.TranslatorReport{Running: true, Mappings: []netip.Addr{service}, Outcomes: []wire.OutcomeCount{{Outcome: "4to6", Packets: 9, Bytes: 900}}, Traffic: traffic},
			}, &wire.Empty{})
		}
		for i := range int64(3) {
			if err := report(wire.ServiceTraffic{Service: service, PacketsIn: i, BytesIn: 1000 * i, PacketsOut: 2 * i, BytesOut: 5000 * i}); err != nil {
				t.Fatal(err)
			}
			time.Sleep(10 * time.Second)
		}
		got, err := tokyo.ctl.AddressTraffic(t.Context(), tokyo.admin, "www")
		if err != nil || len(got.Translators) != 1 {
			t.Fatalf("%+v, %v", got, err)
		}
		x := got.Translators[0]
		if x.Translator != "tokyo/gw" || x.BytesIn != 2000 || x.PacketsOut != 4 || math.Abs(x.RateIn-100) > 1 || math.Abs(x.RateOut-500) > 5 {
			t.Errorf("www: %+v", x)
		}
		got, err = tokyo.ctl.TranslatorTraffic(t.Context(), tokyo.admin, "gw")
		if err != nil || len(got.Translators) != 1 || got.Translators[0].BytesOut != 10000 || len(got.Translators[0].Busiest) != 1 || got.Translators[0].Outcomes[0].Packets != 9 {
			t.Errorf("gw: %+v, %v", got, err)
		}
		if err := report(wire.ServiceTraffic{Service: service, BytesIn: -1}); err == nil || !strings.Contains(err.Error(), "translator.traffic[0]") {
			t.Errorf("a count below nothing: %v", err)
		}
		session.Close()
		w.until("nothing old is told", func() bool {
			got, err := tokyo.ctl.AddressTraffic(t.Context(), tokyo.admin, "www")
			return err == nil && len(got.Translators) == 0
		})
	})
}
