package cast

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"widecloud/internal/sentry/still"
)

// maxReceivers is how many receivers' reports are kept; a receiver that is silent for receiverGone is forgotten.
const (
	maxReceivers = 1024
	receiverGone = time.Minute
)

// SenderOptions are the options of a Sender.
type SenderOptions struct {
	Destinations []Destination
	Loss         float64 // as PackerOptions.Loss
	Bytes        int     // as PackerOptions.Bytes
	Log          *slog.Logger
	Now          func() time.Time // nil: time.Now
	Rand         io.Reader        // nil: crypto/rand.Reader
	// Packets opens the socket of a UDP destination; nil: a real one.
	Packets func(Destination) (PacketConn, error)
	// Lookup finds the addresses of a host's name; nil: the system's resolver.
	Lookup func(ctx context.Context, host string) ([]netip.Addr, error)
}

// Sender sends stills to destinations. Those with the same key get the same datagrams.
type Sender struct {
	o      SenderOptions
	groups []*group

	mu        sync.Mutex
	receivers map[string]*receiverState // by their names
	refused   uint64
}

// group is the destinations of one key.
type group struct {
	mu     sync.Mutex // so that stills are queued in the order of their numbers
	key    Key
	packer *Packer
	to     []*destination
}

// receiverState is what a receiver has reported.
type receiverState struct {
	session session
	seq     uint64
	state   ReceiverState
}

// ReceiverState is the last report of a receiver.
type ReceiverState struct {
	Name        string // its own
	Destination string // the name of the destination through which the report came
	From        string
	Heard       time.Time
	Report
}

// SenderStats is what a Sender has counted, and what it has been told.
type SenderStats struct {
	Destinations []DestinationState
	Receivers    []ReceiverState // by name
	Refused      uint64          // reports that were not authentic, old, or of other sessions
}

// NewSender begins a session for each key.
func NewSender(o SenderOptions) (*Sender, error) {
	if len(o.Destinations) == 0 {
		return nil, errors.New("a sender needs at least one destination")
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Rand == nil {
		o.Rand = rand.Reader
	}
	if o.Packets == nil {
		o.Packets = openPackets
	}
	if o.Lookup == nil {
		o.Lookup = func(ctx context.Context, host string) ([]netip.Addr, error) {
			return net.DefaultResolver.LookupNetIP(ctx, "ip", host)
		}
	}
	s := &Sender{o: o, receivers: map[string]*receiverState{}}
	for _, d := range o.Destinations {
		if err := d.check(); err != nil {
			return nil, fmt.Errorf("destination %s: %w", d.Name, err)
		}
		i := slices.IndexFunc(s.groups, func(g *group) bool { return g.key == d.Key })
		if i < 0 {
			p, err := NewPacker(PackerOptions{Key: d.Key, Loss: o.Loss, Bytes: o.Bytes, Now: o.Now(), Rand: o.Rand})
			if err != nil {
				return nil, err
			}
			i = len(s.groups)
			s.groups = append(s.groups, &group{key: d.Key, packer: p})
		}
		g := s.groups[i]
		g.to = append(g.to, &destination{Destination: d, group: g, sender: s, queue: newQueue(), log: o.Log.With("destination", d.Name)})
	}
	return s, nil
}

// Send sends a still to all destinations. It does not wait for the network. The error is a still.ErrBounds. The stills of a
// channel and size are given one after the other, in the order of their numbers.
func (s *Sender) Send(st *still.Still) error {
	for _, g := range s.groups {
		if err := g.send(st); err != nil {
			return err
		}
	}
	return nil
}

func (g *group) send(st *still.Still) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	d, err := g.packer.Pack(st)
	if err != nil {
		return err
	}
	for _, to := range g.to {
		if to.queue.put(streamID{st.Channel, st.Size}, d) {
			to.count(func(c *DestinationState) { c.Skipped++ })
		}
	}
	return nil
}

// Run sends what Send is given, until ctx ends. A destination that cannot be reached is tried again.
func (s *Sender) Run(ctx context.Context) error {
	var all sync.WaitGroup
	for _, g := range s.groups {
		for _, d := range g.to {
			all.Go(func() { d.run(ctx) })
		}
	}
	all.Wait()
	return nil
}

// report takes what has arrived at a destination's socket.
func (s *Sender) report(d *destination, b []byte, from string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.o.Now()
	for name, r := range s.receivers {
		if now.Sub(r.state.Heard) > receiverGone {
			delete(s.receivers, name)
		}
	}
	if err := s.judge(d, b, from, now); err != nil {
		s.refused++
		s.o.Log.Debug("a report is refused", "from", from, "err", err)
	}
}

var errReport = errors.New("not a report for this sender")

func (s *Sender) judge(d *destination, b []byte, from string, now time.Time) error {
	h, err := parseHeader(b, kindReport)
	if err != nil {
		return err
	}
	if h.key != d.Key.id {
		return errReport
	}
	content, err := h.open(nil, d.Key.cipher(h.session, kindReport), b)
	if err != nil {
		return err
	}
	about, name, report, err := parseReport(content)
	if err != nil {
		return err
	}
	if about != d.group.packer.id {
		return fmt.Errorf("of another session: %w", errReport)
	}
	known := s.receivers[name]
	switch {
	case known == nil && len(s.receivers) >= maxReceivers:
		return fmt.Errorf("more than %d receivers report", maxReceivers)
	case known == nil:
	case known.session == h.session && h.seq <= known.seq, h.session != known.session && h.session.epoch <= known.session.epoch:
		return fmt.Errorf("old, or of a second receiver of the name %q: %w", name, errReport)
	}
	s.receivers[name] = &receiverState{session: h.session, seq: h.seq,
		state: ReceiverState{Name: name, Destination: d.Name, From: from, Heard: now, Report: report}}
	return nil
}

// Stats tells what has been counted and reported.
func (s *Sender) Stats() SenderStats {
	var out SenderStats
	for _, g := range s.groups {
		for _, d := range g.to {
			out.Destinations = append(out.Destinations, d.snapshot())
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.o.Now()
	out.Refused = s.refused
	for _, r := range s.receivers {
		if now.Sub(r.state.Heard) <= receiverGone {
			out.Receivers = append(out.Receivers, r.state)
		}
	}
	slices.SortFunc(out.Receivers, func(a, b ReceiverState) int { return cmp.Compare(a.Name, b.Name) })
	return out
}
