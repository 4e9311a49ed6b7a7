// Package meter makes metrics of a site: its hosts, the VMs on them, migrations, peers and loans (Prometheus).
//
// Invariants:
//   - what is not there has no series: they are made of what the site has when it is asked;
//   - labels are names of the site's own objects, and their number is bounded (Options.MetricsVMs);
//   - to be asked holds nobody up: it is a read.
package meter

import (
	"context"
	"encoding/json"
	"slices"
	"strings"
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	"widecloud/api"
	"widecloud/internal/control/hosts"
	"widecloud/internal/control/objects"
	"widecloud/internal/lend"
	"widecloud/internal/state"
	"widecloud/internal/wire"
)

// Meter is a prometheus.Collector.
type Meter struct {
	*objects.Site
	hosts *hosts.Hosts

	mu      sync.Mutex
	running map[string]bool // migrations, by their jobs
	ended   *prometheus.CounterVec
	seconds *prometheus.HistogramVec
	pause   prometheus.Histogram
	moved   *prometheus.CounterVec
}

// New makes the meter of a site.
func New(site *objects.Site, hosts *hosts.Hosts) *Meter {
	return &Meter{
		Site: site, hosts: hosts, running: map[string]bool{},
		ended: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "widecloud_migrations_total", Help: "Migrations that this site coordinated and that have ended since its controller was started, by outcome.",
		}, []string{"outcome"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "widecloud_migration_seconds", Help: "How long migrations took, by outcome.", Buckets: []float64{1, 3, 10, 30, 60, 180, 600, 1800, 3600, 10800},
		}, []string{"outcome"}),
		pause: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "widecloud_migration_pause_seconds", Help: "How long VMs stood still when they were handed over, as their source measured it.", Buckets: []float64{.02, .05, .1, .2, .5, 1, 2, 5, 10},
		}),
		moved: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "widecloud_migration_bytes_total", Help: "Bytes that migrations which have ended copied (memory, disk) and sent between the sites (wire).",
		}, []string{"of"}),
	}
}

// Run counts the migrations that end until ctx ends.
func (m *Meter) Run(ctx context.Context) {
	w, err := m.State.Watch(ctx, objects.Key(api.KindJob, ""), -1)
	if err != nil {
		if ctx.Err() == nil {
			m.Log.Error("watch jobs for metrics", "err", err)
		}
		return
	}
	if err := m.Read(ctx, func(tx *state.Tx) error {
		for j := range objects.Each[api.Job](tx) {
			m.see(j)
		}
		return nil
	}); err != nil && ctx.Err() == nil {
		m.Log.Error("read jobs for metrics", "err", err)
	}
	for changes := range w.C() {
		for _, c := range changes {
			var j api.Job
			if c.Deleted || json.Unmarshal(c.Value, &j) != nil {
				continue
			}
			m.see(&j)
		}
	}
	if err := w.Err(); err != nil && ctx.Err() == nil {
		m.Log.Error("watch jobs for metrics", "err", err)
	}
}

// see counts a migration once it has ended.
func (m *Meter) see(j *api.Job) {
	if j.Spec.Type != "migrate" {
		return
	}
	m.mu.Lock()
	was := m.running[j.Name]
	if !j.Status.State.Ended() {
		m.running[j.Name] = true
		m.mu.Unlock()
		return
	}
	delete(m.running, j.Name)
	m.mu.Unlock()
	if !was {
		return // it ended before this controller was started
	}
	outcome, p := string(j.Status.State), j.Status.Progress
	m.ended.WithLabelValues(outcome).Inc()
	if took := j.Status.Ended.Sub(j.Status.Started).Seconds(); took >= 0 {
		m.seconds.WithLabelValues(outcome).Observe(took)
	}
	if j.Status.State == api.JobDone && p.Downtime > 0 {
		m.pause.Observe(p.Downtime)
	}
	for of, n := range map[string]int64{"memory": p.MemoryDone, "disk": p.DiskDone, "wire": p.WireBytes} {
		m.moved.WithLabelValues(of).Add(float64(max(0, n)))
	}
}

// Describe tells nothing: which series there are depends on what the site has (prometheus.Collector).
func (m *Meter) Describe(chan<- *prometheus.Desc) {}

// Collect gives all series (prometheus.Collector).
func (m *Meter) Collect(ch chan<- prometheus.Metric) {
	for _, c := range []prometheus.Collector{m.ended, m.seconds, m.pause, m.moved} {
		c.Collect(ch)
	}
	out := sink(ch)
	if err := m.Read(context.Background(), func(tx *state.Tx) error {
		m.collectHosts(tx, out)
		m.collectVMs(tx, out)
		m.collectMigrations(tx, out)
		m.collectPeers(tx, out)
		return nil
	}); err != nil {
		ch <- prometheus.NewInvalidMetric(prometheus.NewInvalidDesc(err), err)
	}
}

// sink takes series.
type sink chan<- prometheus.Metric

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("widecloud_"+name, help, labels, nil)
}

func (s sink) gauge(d *prometheus.Desc, n float64, labels ...string) {
	s <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, n, labels...)
}

func (s sink) counter(d *prometheus.Desc, n float64, labels ...string) {
	s <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, n, labels...)
}

// amounts are the series of an amount of resources.
type amounts struct{ cpus, memory, disk *prometheus.Desc }

func amountsOf(name, help string, labels ...string) amounts {
	return amounts{
		desc(name+"_cpus", help+": CPUs.", labels...), desc(name+"_memory_bytes", help+": memory.", labels...), desc(name+"_disk_bytes", help+": disk.", labels...),
	}
}

func (a amounts) send(s sink, r api.Resources, labels ...string) {
	s.gauge(a.cpus, float64(r.CPUs), labels...)
	s.gauge(a.memory, float64(r.MemoryMiB)*(1<<20), labels...)
	s.gauge(a.disk, float64(r.DiskGiB)*(1<<30), labels...)
}

var (
	hostUp       = desc("host_up", "1 while the host's agent is reached.", "host")
	hostCordoned = desc("host_cordoned", "1 while the host takes no new VM.", "host")
	hostCapacity = amountsOf("host_capacity", "What the host has for VMs", "host")
	hostAllotted = amountsOf("host_allotted", "What of it is given to VMs and guests", "host")
	hostImages   = desc("host_image_bytes", "Bytes of the base images that the host keeps.", "host")
	hostUnused   = desc("host_image_unused_bytes", "Bytes of those that no VM of the host needs: they are removed after a while.", "host")
)

func (m *Meter) collectHosts(tx *state.Tx, out sink) {
	for h := range objects.Each[api.Host](tx) {
		out.gauge(hostUp, is(h.Status.Connected), h.Name)
		out.gauge(hostCordoned, is(h.Spec.Cordoned), h.Name)
		hostCapacity.send(out, h.Status.Capacity, h.Name)
		hostAllotted.send(out, h.Status.Allotted, h.Name)
		out.gauge(hostImages, float64(h.Status.ImageBytes), h.Name)
		out.gauge(hostUnused, float64(h.Status.UnusedImageBytes), h.Name)
	}
}

func is(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// vmSeries are a VM's, each with how it is read.
var vmSeries = []struct {
	desc *prometheus.Desc
	kind prometheus.ValueType
	of   func(wire.VMUsage) float64
}{
	{vmDesc("cpu_seconds_total", "CPU time that the VM has used on this host."), prometheus.CounterValue, func(u wire.VMUsage) float64 { return u.CPU }},
	{vmDesc("memory_bytes", "The host's memory that the VM holds."), prometheus.GaugeValue, func(u wire.VMUsage) float64 { return float64(u.Memory) }},
	{vmDesc("disk_read_bytes_total", "Bytes read from its disks."), prometheus.CounterValue, func(u wire.VMUsage) float64 { return float64(u.DiskRead) }},
	{vmDesc("disk_written_bytes_total", "Bytes written to its disks."), prometheus.CounterValue, func(u wire.VMUsage) float64 { return float64(u.DiskWritten) }},
	{vmDesc("disk_reads_total", "Requests to read from its disks."), prometheus.CounterValue, func(u wire.VMUsage) float64 { return float64(u.Reads) }},
	{vmDesc("disk_writes_total", "Requests to write to its disks."), prometheus.CounterValue, func(u wire.VMUsage) float64 { return float64(u.Writes) }},
	{vmDesc("network_received_bytes_total", "Bytes that the VM has received."), prometheus.CounterValue, func(u wire.VMUsage) float64 { return float64(u.Received) }},
	{vmDesc("network_sent_bytes_total", "Bytes that the VM has sent."), prometheus.CounterValue, func(u wire.VMUsage) float64 { return float64(u.Sent) }},
}

func vmDesc(name, help string) *prometheus.Desc {
	return desc("vm_"+name, help, "vm", "owner", "home", "host")
}

var (
	vms     = desc("vms", "This site's VMs by phase, wherever they run.", "phase")
	omitted = desc("vms_omitted", "VMs on this site's hosts that have no series (metrics.vms).")
)

// vmNamed is a VM on one of our hosts.
type vmNamed struct {
	name, owner, home, host string
	use                     wire.VMUsage
}

func (m *Meter) collectVMs(tx *state.Tx, out sink) {
	phases := map[string]int{}
	for v := range objects.Each[api.VM](tx) {
		phases[string(v.Status.Phase)]++
	}
	for phase, n := range phases {
		out.gauge(vms, float64(n), phase)
	}
	all := m.named(tx)
	shown := min(len(all), max(0, m.MetricsVMs))
	out.gauge(omitted, float64(len(all)-shown))
	for _, v := range all[:shown] {
		for _, s := range vmSeries {
			out <- prometheus.MustNewConstMetric(s.desc, s.kind, s.of(v.use), v.name, v.owner, v.home, v.host)
		}
	}
}

// named are the VMs that hosts tell the use of, and that this site has placed there, in the order of their names. A copy
// that is about to come or go, as in a migration, is of its host alone.
func (m *Meter) named(tx *state.Tx) (out []vmNamed) {
	seen := map[[2]string]bool{}
	for h := range objects.Each[api.Host](tx) {
		for _, u := range m.hosts.Used(h.Name) {
			v, ok := m.name(tx, u.VM)
			if v.host, v.use = h.Name, u; ok && !seen[[2]string{u.VM, h.Name}] {
				seen[[2]string{u.VM, h.Name}] = true
				out = append(out, v)
			}
		}
	}
	slices.SortFunc(out, func(a, b vmNamed) int {
		if c := strings.Compare(a.name, b.name); c != 0 {
			return c
		}
		return strings.Compare(a.home+a.host, b.home+b.host)
	})
	return out
}

// name finds the VM or guest of a UID.
func (m *Meter) name(tx *state.Tx, uid string) (v vmNamed, ok bool) {
	if own := objects.VMOf(tx, uid); own != nil {
		return vmNamed{name: own.Name, owner: own.Owner, home: m.Name}, true
	}
	g, err := objects.Record[wire.Claim](tx, objects.PrefixOrders+uid)
	if err != nil {
		return v, false
	}
	return vmNamed{name: g.Order.Name, owner: g.Owner, home: g.Home}, true
}

var (
	migrating     = desc("migrations_running", "Migrations that this site coordinates now.")
	migratingRate = desc("migrations_running_bytes_per_second", "What they copy together.")
)

func (m *Meter) collectMigrations(tx *state.Tx, out sink) {
	n, rate := 0, 0.0
	for j := range objects.Each[api.Job](tx) {
		if j.Spec.Type == "migrate" && !j.Status.State.Ended() {
			n++
			rate += j.Status.Progress.Rate
		}
	}
	out.gauge(migrating, float64(n))
	out.gauge(migratingRate, rate)
}

var (
	peerUp       = desc("peer_up", "1 while the peer's controller is reached.", "peer")
	peerRTT      = desc("peer_rtt_seconds", "Round-trip time to the peer's controller.", "peer")
	peerSent     = desc("peer_sent_bytes_total", "Bytes sent to the peer: control, migrations, images, consoles.", "peer")
	peerReceived = desc("peer_received_bytes_total", "Bytes received from the peer.", "peer")
	lent         = amountsOf("lent", "What is lent to the peer", "peer")
	lentUsed     = amountsOf("lent_used", "What of it the peer's VMs take", "peer")
	borrowed     = amountsOf("borrowed", "What is borrowed from the peer", "peer")
	borrowedUsed = amountsOf("borrowed_used", "What of it this site's VMs take", "peer")
)

func (m *Meter) collectPeers(tx *state.Tx, out sink) {
	for p := range objects.Each[api.Peer](tx) {
		up, _, rtt := m.Federation.Reached(p.Name)
		t := m.Federation.Traffic(p.Name)
		out.gauge(peerUp, is(up), p.Name)
		if up {
			out.gauge(peerRTT, rtt.Seconds(), p.Name)
		}
		out.counter(peerSent, float64(t.Sent), p.Name)
		out.counter(peerReceived, float64(t.Received), p.Name)
	}
	type sum struct{ amount, used api.Resources }
	to, from := map[string]sum{}, map[string]sum{}
	for l := range objects.Each[api.Loan](tx) {
		if l.Status.State == api.LoanEnded {
			continue
		}
		all, peer := to, l.Spec.Borrower
		if l.Spec.Lender != m.Name {
			all, peer = from, l.Spec.Lender
		}
		all[peer] = sum{lend.Add(all[peer].amount, l.Spec.Amount), lend.Add(all[peer].used, l.Status.Used)}
	}
	for peer, s := range to {
		lent.send(out, s.amount, peer)
		lentUsed.send(out, s.used, peer)
	}
	for peer, s := range from {
		borrowed.send(out, s.amount, peer)
		borrowedUsed.send(out, s.used, peer)
	}
}
