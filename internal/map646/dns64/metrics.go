package dns64

import "github.com/prometheus/client_golang/prometheus"

var (
	descQueries     = prometheus.NewDesc("map646_dns64_queries_total", "DNS questions, by transport.", []string{"transport"}, nil)
	descSynthesised = prometheus.NewDesc("map646_dns64_synthesised_total", "DNS answers made here, by kind: aaaa, ptr, local.", []string{"kind"}, nil)
	descFailures    = prometheus.NewDesc("map646_dns64_failures_total", "DNS questions that met a difficulty, by reason.", []string{"reason"}, nil)
	descInFlight    = prometheus.NewDesc("map646_dns64_in_flight", "DNS questions that wait for a resolver.", nil, nil)
	descConns       = prometheus.NewDesc("map646_dns64_connections", "Open TCP connections of DNS clients.", nil, nil)
)

// Describe is prometheus.Collector's.
func (s *Server) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{descQueries, descSynthesised, descFailures, descInFlight, descConns} {
		out <- d
	}
}

// Collect is prometheus.Collector's: Stats as metrics.
func (s *Server) Collect(out chan<- prometheus.Metric) {
	st := s.Stats()
	for _, c := range []struct {
		desc   *prometheus.Desc
		values map[string]uint64
	}{{descQueries, st.Queries}, {descSynthesised, st.Synthesised}, {descFailures, st.Failures}} {
		for name, n := range c.values {
			out <- prometheus.MustNewConstMetric(c.desc, prometheus.CounterValue, float64(n), name)
		}
	}
	out <- prometheus.MustNewConstMetric(descInFlight, prometheus.GaugeValue, float64(st.InFlight))
	out <- prometheus.MustNewConstMetric(descConns, prometheus.GaugeValue, float64(st.Conns))
}

var _ prometheus.Collector = (*Server)(nil)
