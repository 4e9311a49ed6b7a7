package studio

import (
	"strconv"

	"github.com/prometheus/client_golang/prometheus"
)

// collector makes metrics of a State when it is asked: nothing is counted twice.
type collector struct{ s *Studio }

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("sentryd_"+name, help, labels, nil)
}

var (
	descPictures = desc("pictures_total", "Pictures of a channel's source.", "channel")
	descCut      = desc("cut_total", "Pictures chosen to become stills, by what became of them: sent, skipped, broken.", "channel", "outcome")
	descNumber   = desc("still_number", "Number of the last still.", "channel")
	descTaken    = desc("still_taken_seconds", "Unix time at which the last still was taken.", "channel")
	descWork     = desc("work_seconds_total", "Seconds of decoding, scaling and compression.", "channel")
	descUp       = desc("source_up", "1 unless the channel's source has failed, ended or gone silent.", "channel")
	descBytes    = desc("still_bytes", "Bytes of the last still.", "channel", "size")
	descQuality  = desc("still_quality", "JPEG quality of the last still, 1 to 100.", "channel", "size")

	descSent      = desc("sent_stills_total", "Stills by what became of them: sent, skipped for a newer one, failed.", "receiver", "outcome")
	descDatagrams = desc("sent_datagrams_total", "Datagrams sent.", "receiver")
	descSentBytes = desc("sent_bytes_total", "Bytes of datagrams sent, without headers of UDP and IP.", "receiver")
	descReach     = desc("receiver_up", "1 unless the last attempt to send failed.", "receiver")

	descArrived  = desc("reported_datagrams_total", "Datagrams of this session that a receiver reports, by fate: arrived, missing.", "name", "fate")
	descReported = desc("reported_stills_total", "Stills that a receiver reports, by fate: delivered, recovered (of the delivered), lost.", "name", "fate")
	descDelay    = desc("reported_delay_seconds", "Time from taking to delivery of the last still, by both ends' clocks.", "name")
	descBad      = desc("reported_bad_datagrams_total", "Datagrams that a receiver has refused, of all its senders.", "name", "why")
	descRefused  = desc("refused_reports_total", "Reports that were not authentic, old, or of another session.")
)

// Describe is prometheus.Collector's.
func (c collector) Describe(ch chan<- *prometheus.Desc) { prometheus.DescribeByCollect(c, ch) }

// Collect is prometheus.Collector's.
func (c collector) Collect(ch chan<- prometheus.Metric) {
	counter := func(d *prometheus.Desc, v uint64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...)
	}
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	s := c.s.State()
	for _, n := range s.Channels {
		counter(descPictures, n.Pictures, n.Name)
		counter(descCut, n.Stills, n.Name, "sent")
		counter(descCut, n.Skipped, n.Name, "skipped")
		counter(descCut, n.Broken, n.Name, "broken")
		gauge(descNumber, float64(n.Number), n.Name)
		if !n.Taken.IsZero() {
			gauge(descTaken, float64(n.Taken.UnixMilli())/1000, n.Name)
		}
		ch <- prometheus.MustNewConstMetric(descWork, prometheus.CounterValue, n.Work, n.Name)
		gauge(descUp, up(n.Trouble), n.Name)
		for i, size := range n.Sizes {
			gauge(descBytes, float64(size.Bytes), n.Name, strconv.Itoa(i))
			gauge(descQuality, float64(size.Quality), n.Name, strconv.Itoa(i))
		}
	}
	for _, d := range s.Destinations {
		counter(descSent, d.Stills, d.Name, "sent")
		counter(descSent, d.Skipped, d.Name, "skipped")
		counter(descSent, d.Failed, d.Name, "failed")
		counter(descDatagrams, d.Datagrams, d.Name)
		counter(descSentBytes, d.Bytes, d.Name)
		gauge(descReach, up(d.Trouble), d.Name)
	}
	for _, r := range s.Receivers {
		counter(descArrived, r.Arrived, r.Name, "arrived")
		counter(descArrived, r.Missing, r.Name, "missing")
		counter(descReported, r.Stills, r.Name, "delivered")
		counter(descReported, r.Recovered, r.Name, "recovered")
		counter(descReported, r.Lost, r.Name, "lost")
		gauge(descDelay, r.Delay.Seconds(), r.Name)
		for why, n := range map[string]uint64{"late": r.Late, "stale": r.Stale, "replayed": r.Replayed, "forged": r.Forged} {
			counter(descBad, n, r.Name, why)
		}
	}
	counter(descRefused, s.Refused)
}

func up(trouble string) float64 {
	if trouble != "" {
		return 0
	}
	return 1
}
