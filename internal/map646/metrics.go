package map646

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	dto "github.com/prometheus/client_model/go"

	"widecloud/internal/netio"
)

// sampleLeast is how long mappings count as the busiest before a scrape has all of
// them looked at again, however often it comes.
const sampleLeast = 15 * time.Second

// serveMetrics answers Prometheus at /metrics, and /health, until ctx ends.
func (d *Daemon) serveMetrics(ctx context.Context, ns *netio.NS, listen string) error {
	var l net.Listener
	err := ns.Do(func() (err error) {
		l, err = net.Listen("tcp", listen)
		return err
	})
	if err != nil {
		return fmt.Errorf("metrics.listen: %w", err)
	}
	r := prometheus.NewRegistry()
	r.MustRegister(collector{d})
	if d.dns != nil {
		r.MustRegister(d.dns)
	}
	m := http.NewServeMux()
	// Compressing an answer may take longer than making it.
	m.Handle("GET /metrics", promhttp.HandlerFor(gatherer{d, r}, promhttp.HandlerOpts{MaxRequestsInFlight: 4, DisableCompression: true}))
	m.HandleFunc("GET /health", func(w http.ResponseWriter, _ *http.Request) {
		if why := d.Health(); len(why) > 0 {
			http.Error(w, strings.Join(why, "\n"), http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ok")
	})
	s := &http.Server{Handler: m, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: time.Minute}
	stop := context.AfterFunc(ctx, func() { s.Close() })
	defer stop()
	if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve metrics: %w", err)
	}
	return nil
}

// collector makes metrics of Stats when it is asked: nothing is counted twice,
// and the data path does not know of it.
type collector struct{ d *Daemon }

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("map646_"+name, help, labels, nil)
}

var (
	descPackets     = desc("packets_total", "IP packets by path and outcome; a super-packet is one.", "path", "outcome")
	descBytes       = desc("bytes_total", "Bytes of IP packets, as they came in.", "path", "outcome")
	descICMP        = desc("icmp_errors_total", "ICMP errors of the translator's own.", "outcome")
	descJoined      = desc("joined_total", "Datagrams of the full path that went on in the super-packet of the one before them.")
	descWriteErrors = desc("write_errors_total", "Packets that the device did not take.")
	descMappings    = desc("mappings", "Mappings in force, by the outside's family.", "family")
	descUpdates     = desc("table_updates_total", "Changes of the table by command.", "result")
	descRefused     = desc("refused_lines", "Lines of the mappings file that are left out.")
	descReloads     = desc("reloads_total", "Reloads of the configuration.", "result")
	descAttached    = desc("fast_attached", "1 for each device with the fast path, 0 for one that was meant and could not be taken.", "device")
	descDirect      = desc("fast_direct", "1 while the fast path sends on by itself what it translates, 0 while the kernel's stack does.")
	descDraining    = desc("draining", "1 while draining.")
	descHealthy     = desc("healthy", "1 while nothing is wrong.")
	descQueue       = desc("queue_packets_total", "Packets of each queue of the device.", "queue")
	descLoaded      = desc("loaded_timestamp_seconds", "When the configuration in force was loaded.")
)

func (c collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{descPackets, descBytes, descICMP, descJoined, descWriteErrors, descMappings,
		descUpdates, descRefused, descReloads, descAttached, descDirect, descDraining, descHealthy, descQueue, descLoaded} {
		ch <- d
	}
}

func (c collector) Collect(ch chan<- prometheus.Metric) {
	counter := func(d *prometheus.Desc, n uint64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(n), labels...)
	}
	gauge := func(d *prometheus.Desc, n float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, n, labels...)
	}
	yes := func(b bool) float64 {
		if b {
			return 1
		}
		return 0
	}
	s := c.d.Stats()
	for outcome, n := range s.Packets {
		counter(descPackets, n, "full", outcome)
		counter(descBytes, s.Bytes[outcome], "full", outcome)
	}
	if f := s.Fast; f != nil {
		for outcome, n := range f.Packets {
			counter(descPackets, n, "fast", outcome)
			counter(descBytes, f.Bytes[outcome], "fast", outcome)
		}
		gauge(descDirect, yes(f.Direct))
		for _, dev := range f.Attached {
			gauge(descAttached, 1, dev)
		}
		for dev := range f.Refused {
			gauge(descAttached, 0, dev)
		}
	}
	counter(descICMP, s.ICMPSent, "sent")
	counter(descICMP, s.ICMPLimited, "limited")
	counter(descJoined, s.Joined)
	counter(descWriteErrors, s.WriteErrors)
	gauge(descMappings, float64(s.Mappings), "4")
	gauge(descMappings, float64(s.Mappings66), "6")
	counter(descUpdates, s.Updates, "good")
	counter(descUpdates, s.UpdatesRefused, "bad")
	gauge(descRefused, float64(s.RefusedLines))
	counter(descReloads, s.Reloads, "good")
	counter(descReloads, s.ReloadErrors, "bad")
	gauge(descDraining, yes(s.Draining))
	gauge(descHealthy, yes(len(s.Unhealthy) == 0))
	for i, n := range s.QueuePackets {
		counter(descQueue, n, strconv.Itoa(i))
	}
	gauge(descLoaded, float64(s.Loaded.UnixMilli())/1000)
}

// gatherer adds the busiest mappings to what a registry has. They are most of an
// answer's series, and to be given them one by one and check each takes a registry as
// long as writing them.
type gatherer struct {
	d *Daemon
	prometheus.Gatherer
}

func (g gatherer) Gather() ([]*dto.MetricFamily, error) {
	families, err := g.Gatherer.Gather()
	g.d.mu.Lock()
	n := g.d.config.Busiest
	g.d.mu.Unlock()
	if n > 0 {
		if busy := g.d.busiest(n, sampleLeast); len(busy) > 0 {
			families = append(families, mappingFamilies(busy)...)
			slices.SortFunc(families, func(a, b *dto.MetricFamily) int { return strings.Compare(a.GetName(), b.GetName()) })
		}
	}
	return families, err
}

// mappingMetrics are those of single mappings. Their labels are direction and outside.
var mappingMetrics = []struct {
	name, help string
	in, out    func(*Busy) uint64
}{
	{"map646_mapping_packets_total", "Packets of the busiest mappings.", func(b *Busy) uint64 { return b.PacketsIn }, func(b *Busy) uint64 { return b.PacketsOut }},
	{"map646_mapping_bytes_total", "Bytes of the busiest mappings.", func(b *Busy) uint64 { return b.BytesIn }, func(b *Busy) uint64 { return b.BytesOut }},
}

func mappingFamilies(busy []Busy) []*dto.MetricFamily {
	label := func(name, value string) *dto.LabelPair { return &dto.LabelPair{Name: &name, Value: &value} }
	in, out := label("direction", "in"), label("direction", "out")
	outside := make([]*dto.LabelPair, len(busy))
	for i := range busy {
		outside[i] = label("outside", busy[i].Outside)
	}
	families := make([]*dto.MetricFamily, len(mappingMetrics))
	for k, m := range mappingMetrics {
		f := &dto.MetricFamily{Name: &m.name, Help: &m.help, Type: dto.MetricType_COUNTER.Enum(), Metric: make([]*dto.Metric, 0, 2*len(busy))}
		add := func(n uint64, direction, outside *dto.LabelPair) {
			value := float64(n)
			f.Metric = append(f.Metric, &dto.Metric{Label: []*dto.LabelPair{direction, outside}, Counter: &dto.Counter{Value: &value}})
		}
		for i := range busy {
			add(m.in(&busy[i]), in, outside[i])
			add(m.out(&busy[i]), out, outside[i])
		}
		families[k] = f
	}
	return families
}
