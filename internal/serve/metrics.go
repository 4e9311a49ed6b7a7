package serve

import (
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"widecloud/api"
)

// metrics counts requests by route. The zero value counts nothing.
type metrics struct {
	requests *prometheus.CounterVec
	seconds  *prometheus.HistogramVec
	streams  *prometheus.GaugeVec
	limited  *prometheus.CounterVec
	tickets  *prometheus.CounterVec
}

func newMetrics(r *prometheus.Registry) metrics {
	if r == nil {
		return metrics{}
	}
	m := metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "widecloud_api_requests_total", Help: "API requests by method, route and HTTP status.",
		}, []string{"method", "route", "status"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "widecloud_api_request_seconds", Help: "Time to answer an API request; for watches, consoles and displays, their length.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10},
		}, []string{"method", "route"}),
		streams: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "widecloud_api_streams", Help: "Watches, consoles and displays that are open now.",
		}, []string{"type"}),
		limited: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "widecloud_api_limited_total", Help: "Requests and connections that were refused because a user or a source was at a limit.",
		}, []string{"limit"}),
		tickets: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "widecloud_api_tickets_total", Help: "Tickets for consoles and displays that were made, used, and refused.",
		}, []string{"kind", "outcome"}),
	}
	r.MustRegister(m.requests, m.seconds, m.streams, m.limited, m.tickets)
	return m
}

// metricsHandler answers everybody with the figures of the API, and an admin with those of the site's objects, too: they name
// VMs and organisations.
func (s *Server) metricsHandler() http.Handler {
	open := promhttp.HandlerFor(s.o.Metrics, promhttp.HandlerOpts{})
	if s.o.Details == nil {
		return open
	}
	all := promhttp.HandlerFor(prometheus.Gatherers{s.o.Metrics, s.o.Details}, promhttp.HandlerOpts{MaxRequestsInFlight: 4})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") == "" {
			open.ServeHTTP(w, r)
			return
		}
		c, err := s.authenticate(r)
		refused, _ := w.(*recorder) // as ServeHTTP gives it
		switch {
		case err != nil:
			s.refuse(refused, r, err)
		case c.First:
			s.refuse(refused, r, firstOnly())
		case !c.Admin:
			s.refuse(refused, r, api.Errorf(api.CodeForbidden, "only admins may read the site's metrics; without a token there are those of the API"))
		default:
			all.ServeHTTP(w, r)
		}
	})
}

func (m metrics) observe(method, route string, status int, took time.Duration) {
	if m.requests == nil {
		return
	}
	// A client's own words make no labels, or it could fill the memory.
	if route == "" {
		method, route = "", "none"
	} else {
		_, route, _ = strings.Cut(route, " ")
		if method != http.MethodGet && method != http.MethodPost && method != http.MethodPut && method != http.MethodDelete {
			method = "other"
		}
	}
	m.requests.WithLabelValues(method, route, strconv.Itoa(status)).Inc()
	m.seconds.WithLabelValues(method, route).Observe(took.Seconds())
}

// stream counts an open watch or console until the function it returns is called.
func (m metrics) stream(kind string) func() {
	if m.streams == nil {
		return func() {}
	}
	g := m.streams.WithLabelValues(kind)
	g.Inc()
	return g.Dec
}

// ticket counts what became of a ticket. No kind: nobody knows it.
func (m metrics) ticket(kind api.TicketKind, outcome string) {
	if m.tickets != nil {
		m.tickets.WithLabelValues(string(kind), outcome).Inc()
	}
}

// refused counts a refusal because of a limit.
func (m metrics) refused(l limit) {
	if m.limited != nil {
		m.limited.WithLabelValues(string(l)).Inc()
	}
}
