package httpd

import (
	"strconv"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"

	"widecloud/internal/sentry/still"
)

// counts are a Server's counters.
type counts struct {
	accepted, refused, dropped, handshakes, bytes atomic.Int64

	expired  [phases]atomic.Int64
	requests [index + 1][len(statuses) + 1]atomic.Int64
}

var statuses = [...]int{200, 204, 302, 304, 404, 410}

// answered counts an answer and the bytes of its body.
func (c *counts) answered(w what, status, bytes int) {
	i := 0
	for i < len(statuses) && statuses[i] != status {
		i++
	}
	c.requests[w][i].Add(1)
	c.bytes.Add(int64(bytes))
}

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("sentryc_"+name, help, labels, nil)
}

var (
	descConnections = desc("connections", "Viewers' connections now.")
	descPolls       = desc("polls_waiting", "Long polls that wait for the next still.")
	descStreams     = desc("streams", "Multipart and event streams now.")
	descAccepted    = desc("connections_total", "Connections, by what became of them: accepted, refused (503), dropped.", "outcome")
	descExpired     = desc("expired_total", "Connections that were closed because their time was over, by what they were doing.", "doing")
	descHandshakes  = desc("handshake_errors_total", "TLS handshakes that failed.")
	descRequests    = desc("requests_total", "Answers to requests below /stills/.", "what", "status")
	descBytes       = desc("body_bytes_total", "Bytes of answers' bodies.")
	descKept        = desc("kept_bytes", "Bytes of the stills that are kept.")
	descNumber      = desc("newest_number", "Number of the newest still.", "channel", "size")
	descAge         = desc("newest_age_seconds", "Time since the newest still was taken.", "channel", "size")
	descDraining    = desc("draining", "1 while draining.")
)

// Describe is for prometheus.Collector.
func (s *Server) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{descConnections, descPolls, descStreams, descAccepted, descExpired, descHandshakes,
		descRequests, descBytes, descKept, descNumber, descAge, descDraining} {
		ch <- d
	}
}

// Collect is for prometheus.Collector.
func (s *Server) Collect(ch chan<- prometheus.Metric) {
	send := func(d *prometheus.Desc, t prometheus.ValueType, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, t, v, labels...)
	}
	count := func(d *prometheus.Desc, n *atomic.Int64, labels ...string) {
		send(d, prometheus.CounterValue, float64(n.Load()), labels...)
	}
	gauge := func(d *prometheus.Desc, v float64, labels ...string) { send(d, prometheus.GaugeValue, v, labels...) }
	c := &s.counts
	gauge(descConnections, float64(s.Connections()))
	gauge(descPolls, float64(s.polls.Load()))
	gauge(descStreams, float64(s.streams.Load()))
	count(descAccepted, &c.accepted, "accepted")
	count(descAccepted, &c.refused, "refused")
	count(descAccepted, &c.dropped, "dropped")
	count(descExpired, &c.expired[reading], "request")
	count(descExpired, &c.expired[idle], "idle")
	count(descExpired, &c.expired[writing], "answer")
	count(descHandshakes, &c.handshakes)
	count(descBytes, &c.bytes)
	for w := range c.requests {
		for i := range c.requests[w] {
			if n := &c.requests[w][i]; n.Load() > 0 {
				status := "other"
				if i < len(statuses) {
					status = strconv.Itoa(statuses[i])
				}
				count(descRequests, n, names[what(w)], status)
			}
		}
	}
	gauge(descKept, float64(s.o.Reel.Bytes()))
	for _, name := range s.o.Reel.Channels() {
		for size := range still.Sizes {
			if f := s.o.Reel.Newest(name, size); f != nil {
				gauge(descNumber, float64(f.Number), name, strconv.Itoa(size))
				gauge(descAge, s.o.Now().Sub(f.Taken).Seconds(), name, strconv.Itoa(size))
			}
		}
	}
	draining := 0.0
	if s.Draining() {
		draining = 1
	}
	gauge(descDraining, draining)
}
