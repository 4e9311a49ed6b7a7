package station

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"widecloud/internal/sentry/cast"
	"widecloud/internal/sentry/reel"
	"widecloud/internal/sentry/still"
)

// entrance is where stills of sentryd come in.
type entrance struct {
	receiver *cast.Receiver
	packets  []*net.UDPConn
	streams  []net.Listener
}

// openEntrance opens what [receive] says, with secure for TLS.
func (s *Station) openEntrance(secure *tls.Config) (err error) {
	r := s.c.Receive
	if !r.any() {
		return nil
	}
	o := cast.ReceiverOptions{Name: r.Name, Deliver: s.deliver, MaxAge: r.MaxAge.Duration, Log: s.log, Now: time.Now}
	if o.Name == "" {
		if o.Name, err = os.Hostname(); err != nil {
			return fmt.Errorf("receive.name: %w", err)
		}
	}
	for _, file := range r.Keys {
		k, err := cast.LoadKey(file)
		if err != nil {
			return fmt.Errorf("receive.keys: %w", err)
		}
		o.Keys = append(o.Keys, k)
	}
	e := &entrance{}
	s.entrance = e
	if e.receiver, err = cast.NewReceiver(o); err != nil {
		return fmt.Errorf("receive: %w", err)
	}
	for _, a := range r.UDP {
		c, err := cast.ListenUDP(a, r.Interface)
		if err != nil {
			return fmt.Errorf("receive.udp: %w", err)
		}
		e.packets = append(e.packets, c)
	}
	for _, a := range r.TCP {
		l, err := net.Listen("tcp", a)
		if err != nil {
			return fmt.Errorf("receive.tcp: %w", err)
		}
		e.streams = append(e.streams, l)
	}
	for _, a := range r.TLS {
		l, err := tls.Listen("tcp", a, secure)
		if err != nil {
			return fmt.Errorf("receive.tls: %w", err)
		}
		e.streams = append(e.streams, l)
	}
	return nil
}

func (e *entrance) close() {
	for _, c := range e.packets {
		c.Close()
	}
	for _, l := range e.streams {
		l.Close()
	}
}

// run takes stills until ctx ends.
func (e *entrance) run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return e.receiver.Run(ctx) })
	for _, c := range e.packets {
		g.Go(func() error { return e.receiver.Serve(ctx, c) })
	}
	for _, l := range e.streams {
		g.Go(func() error { return e.receiver.ServeStreams(ctx, l) })
	}
	return g.Wait()
}

// deliver keeps a still that the receiver has put together.
func (s *Station) deliver(st *still.Still) {
	err := s.reel.Add(*st)
	switch {
	case err == nil:
		s.kept.Add(1)
	case errors.Is(err, reel.ErrLate): // another sender of the same channel was quicker
		s.late.Add(1)
	default:
		if s.full.Add(1) == 1 {
			s.log.Error("a still was not kept; more of this is counted only", "channel", st.Channel, "number", st.Number, "err", err)
		}
	}
}

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("sentryc_"+name, help, labels, nil)
}

var (
	descStills    = desc("received_stills_total", "Stills of senders by outcome: kept, late, no_room, and lost on the way.", "outcome")
	descRecovered = desc("received_recovered_total", "Stills that came whole with the help of parity.")
	descDatagrams = desc("received_datagrams_total", "Datagrams of senders by outcome.", "outcome")
	descBytes     = desc("received_bytes_total", "Bytes of these datagrams.")
	descHeld      = desc("received_held_bytes", "Bytes of unfinished stills.")
)

// Describe is for prometheus.Collector.
func (s *Station) Describe(ch chan<- *prometheus.Desc) { prometheus.DescribeByCollect(s, ch) }

// Collect is for prometheus.Collector: what has been received.
func (s *Station) Collect(ch chan<- prometheus.Metric) {
	count := func(d *prometheus.Desc, n uint64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(n), labels...)
	}
	var stats cast.ReceiverStats
	if s.entrance != nil {
		stats = s.entrance.receiver.Stats()
	}
	count(descStills, s.kept.Load(), "kept")
	count(descStills, s.late.Load(), "late")
	count(descStills, s.full.Load(), "no_room")
	count(descStills, stats.Lost, "lost")
	count(descRecovered, stats.Recovered)
	for _, o := range cast.Outcomes() {
		count(descDatagrams, stats.Datagrams[o], o.String())
	}
	count(descBytes, stats.Bytes)
	ch <- prometheus.MustNewConstMetric(descHeld, prometheus.GaugeValue, float64(stats.Held))
}
