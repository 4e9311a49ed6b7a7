package dns64_test

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"widecloud/internal/map646/dns64"
)

// TestMetrics: a pedantic registry takes what Stats says.
func TestMetrics(t *testing.T) {
	r := startResolver(t, map[string]string{"four.example. A": "four.example. 300 A 192.0.2.33"})
	s := start(t, dns64.Options{Upstream: []netip.AddrPort{r.addr}})
	send(t, s, "udp", query("four.example.", "AAAA"))
	send(t, s, "tcp", query("ipv4only.arpa.", "AAAA"))
	send(t, s, "udp", query("four.example.", "AXFR"))
	reg := prometheus.NewPedanticRegistry()
	if err := reg.Register(s); err != nil {
		t.Fatal(err)
	}
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	for _, f := range families {
		for _, m := range f.Metric {
			name := f.GetName()
			for _, l := range m.Label {
				name += " " + l.GetValue()
			}
			if v := m.GetCounter().GetValue() + m.GetGauge().GetValue(); v != 0 && f.GetName() != "map646_dns64_connections" {
				got[name] = v
			}
		}
	}
	want := map[string]float64{
		"map646_dns64_queries_total udp": 2, "map646_dns64_queries_total tcp": 1,
		"map646_dns64_synthesised_total aaaa": 1, "map646_dns64_synthesised_total local": 1,
		"map646_dns64_failures_total not_implemented": 1,
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}
