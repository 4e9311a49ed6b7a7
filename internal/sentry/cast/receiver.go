package cast

import (
	"cmp"
	"crypto/cipher"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"sync"
	"time"

	"widecloud/internal/sentry/still"
)

// Defaults and bounds of ReceiverOptions.
const (
	defaultMemory  = 32 << 20
	defaultMaxAge  = time.Minute
	defaultStreams = 64
	defaultReport  = 2 * time.Second
	maxPending     = 4 // unfinished stills of a stream
	maxName        = 64
)

// ReceiverOptions are the options of a Receiver.
type ReceiverOptions struct {
	Name string // in its reports, at most 64 bytes; receivers of one sender have different names
	Keys []Key  // one of each sender; at least one
	// Deliver gets each still, once. It is called with the receiver's lock held: it must be quick, and not call the receiver.
	// It may keep the still.
	Deliver func(*still.Still)
	Memory  int // bytes for unfinished stills; 0: 32 MiB
	Streams int // channels times sizes; 0: 64
	// MaxAge is how far a still's time and a session's beginning may be from this clock; 0: one minute.
	MaxAge      time.Duration
	ReportEvery time.Duration // 0: 2 s
	Log         *slog.Logger
	Now         func() time.Time // nil: time.Now
	Rand        io.Reader        // nil: crypto/rand.Reader
}

// Receiver puts stills together out of datagrams. Feed it by Serve, ServeStreams or Take; Run must run beside them.
type Receiver struct {
	o  ReceiverOptions
	id session // of its reports

	mu      sync.Mutex
	senders map[keyID]*sender
	streams map[streamID]*stream
	ages    uint64
	stats   ReceiverStats
	scratch []byte
	reports uint64 // the sequence number of the last report
}

// ReceiverStats is what a Receiver has counted since it was made.
type ReceiverStats struct {
	Datagrams Counts
	Bytes     uint64 // of all datagrams, headers of UDP and IP apart
	Tally            // of all senders
	Evicted   uint64 // of unfinished stills, those given up for want of memory
	Held      int    // bytes of unfinished stills, at most
	MostHeld  int
	Refused   uint64        // connections: too many, silent or forged
	Senders   []SenderState // by key
}

// Tally counts stills.
type Tally struct {
	Stills    uint64        // delivered
	Recovered uint64        // of these, with the help of parity
	Lost      uint64        // known by gaps in a stream; what a silence of two MaxAge swallows is not known
	Delay     time.Duration // from taking to delivery of the last still, by both ends' clocks
}

// SenderState is what a Receiver knows of one sender's present session.
type SenderState struct {
	Key   string
	Since time.Time // the session's beginning, by the sender's clock
	Heard time.Time // of the last authenticated datagram
	From  string
	Tally // of this and earlier sessions
	// Arrived and Missing count this session's datagrams; the missing have been sent and are not here, or not yet. None is
	// missing over TCP.
	Arrived, Missing uint64
}

// sender is a key's holder, with its present session.
type sender struct {
	key     Key
	id      session
	aead    cipher.AEAD // nil: no session yet
	window  window
	first   uint64 // the first sequence number that was heard
	got     uint64
	skipped uint64 // numbers that a connection has left out
	heard   time.Time
	told    time.Time // heard, at the time of the last report
	back    path
	tally   Tally
	streams map[streamID]*progress
}

// progress is where a session has got in a stream.
type progress struct {
	next    uint32 // ordinal after the last one delivered; 0: none yet
	pending []*assembly
}

// stream is what holds for a stream, whoever sends it.
type stream struct {
	newest uint64 // number of the last still delivered
	at     time.Time
}

// NewReceiver makes a receiver that knows of nothing yet.
func NewReceiver(o ReceiverOptions) (*Receiver, error) {
	switch {
	case len(o.Keys) == 0:
		return nil, errors.New("a receiver needs at least one key")
	case o.Deliver == nil:
		return nil, errors.New("a receiver needs somebody to deliver to")
	case len(o.Name) > maxName:
		return nil, fmt.Errorf("the receiver's name has %d bytes, more than %d", len(o.Name), maxName)
	}
	o.Memory, o.Streams = positive(o.Memory, defaultMemory), positive(o.Streams, defaultStreams)
	o.MaxAge, o.ReportEvery = positive(o.MaxAge, defaultMaxAge), positive(o.ReportEvery, defaultReport)
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Rand == nil {
		o.Rand = rand.Reader
	}
	id, err := newSession(o.Now(), o.Rand)
	if err != nil {
		return nil, err
	}
	r := &Receiver{o: o, id: id, senders: map[keyID]*sender{}, streams: map[streamID]*stream{}}
	for _, k := range o.Keys {
		if other := r.senders[k.id]; other != nil && other.key != k {
			return nil, fmt.Errorf("two keys have the identity %s: make one of them again", k)
		}
		r.senders[k.id] = &sender{key: k}
	}
	return r, nil
}

// positive is v, or otherwise if v is not positive.
func positive[T int | int64 | time.Duration](v, otherwise T) T {
	if v <= 0 {
		return otherwise
	}
	return v
}

// Take takes a datagram from a transport of the caller's own, which gets no reports. It does not keep b.
func (r *Receiver) Take(b []byte) Outcome { return r.take(b, path{}) }

func (r *Receiver) take(b []byte, from path) Outcome {
	r.mu.Lock()
	defer r.mu.Unlock()
	o := r.judge(b, from)
	r.stats.Datagrams[o]++
	r.stats.Bytes += uint64(len(b))
	return o
}

// judge authenticates a datagram, and takes it if it is good.
func (r *Receiver) judge(b []byte, from path) Outcome {
	h, err := parseHeader(b, kindShard)
	if errors.Is(err, errShort) {
		return Short
	}
	s := r.senders[h.key]
	if err != nil || s == nil {
		return Foreign
	}
	now := r.o.Now()
	present, aead := s.aead != nil && s.id == h.session, s.aead
	switch {
	case present && !s.window.fresh(h.seq):
		return Replayed
	case present:
	case s.aead != nil && h.session.epoch <= s.id.epoch:
		return Old
	case h.session.epoch > uint64(now.Add(r.o.MaxAge).UnixMicro()):
		return Future
	case h.seq == 0:
		return Replayed
	default:
		aead = s.key.cipher(h.session, kindShard)
	}
	content, err := h.open(r.scratch, aead, b)
	if err != nil {
		return Forged
	}
	r.scratch = content
	if !present {
		r.begin(s, h, aead, from)
	}
	s.record(h.seq, now, from)
	sh, payload, err := parseShard(content)
	if err != nil {
		return Malformed
	}
	return r.place(s, sh, payload, now)
}

// begin replaces a sender's session by a newer one.
func (r *Receiver) begin(s *sender, h header, aead cipher.AEAD, from path) {
	r.o.Log.Info("a sender's session begins", "key", s.key.String(), "from", from.String(), "since", time.UnixMicro(int64(h.session.epoch)))
	for _, p := range s.streams {
		r.drop(p, len(p.pending))
	}
	*s = sender{key: s.key, tally: s.tally, id: h.session, aead: aead, first: h.seq, streams: map[streamID]*progress{}}
}

// record notes the arrival of an authenticated datagram.
func (s *sender) record(seq uint64, now time.Time, from path) {
	if from.reliable() && seq > s.window.newest+1 && s.got > 0 {
		s.skipped += seq - s.window.newest - 1
	}
	s.first = min(s.first, seq)
	s.window.pass(seq)
	s.got++
	s.heard, s.back = now, from
}

// missing is the number of datagrams that should have arrived by now.
func (s *sender) missing() uint64 {
	sent, known := s.window.newest-s.first+1, s.got+s.skipped
	if s.got == 0 || sent < known { // what a connection left out came by UDP
		return 0
	}
	return sent - known
}

// place puts a shard where it belongs, and delivers its still when that is whole.
func (r *Receiver) place(s *sender, sh shard, payload []byte, now time.Time) Outcome {
	if age := now.Sub(time.UnixMicro(sh.taken)); age > r.o.MaxAge || age < -r.o.MaxAge {
		return Stale
	}
	st := r.streams[sh.stream]
	switch {
	case st == nil && len(r.streams) >= r.o.Streams:
		return Crowded
	case st == nil:
		st = &stream{at: now}
		r.streams[sh.stream] = st
	case sh.number == st.newest:
		return Surplus
	case sh.number < st.newest:
		return Late
	}
	p := s.streams[sh.stream]
	if p == nil {
		p = &progress{}
		s.streams[sh.stream] = p
	}
	i := slices.IndexFunc(p.pending, func(a *assembly) bool { return a.number == sh.number })
	if i < 0 {
		if !r.makeRoom(p, sh.cost()) {
			return Crowded
		}
		r.ages++
		i = len(p.pending)
		p.pending = append(p.pending, newAssembly(sh, r.ages))
		r.hold(sh.cost())
	}
	a := p.pending[i]
	switch {
	case !a.matches(sh):
		return Malformed
	case !a.add(sh.index, payload):
		return Surplus
	case a.complete():
		r.deliver(a, s, st, now)
	}
	return Used
}

// deliver hands a whole still on, and gives up the older ones of its stream.
func (r *Receiver) deliver(a *assembly, s *sender, st *stream, now time.Time) {
	p := s.streams[a.stream]
	jpeg, recovered, err := a.jpeg()
	if err == nil {
		err = a.still(jpeg).Check()
	}
	older := 0
	for i, other := range p.pending {
		if other.number > a.number {
			p.pending[i-older] = other
			continue
		}
		r.hold(-other.cost())
		older++
	}
	clear(p.pending[len(p.pending)-older:])
	p.pending = p.pending[:len(p.pending)-older]
	if err != nil {
		// A key holder has sent it so: the still counts as lost when the next one is delivered.
		r.o.Log.Warn("a still is not good", "channel", a.stream.channel, "size", a.stream.size, "number", a.number, "err", err)
		return
	}
	if p.next != 0 && a.ordinal > p.next {
		s.tally.Lost += uint64(a.ordinal - p.next)
	}
	p.next = a.ordinal + 1
	st.newest, st.at = a.number, now
	s.tally.Stills++
	if recovered {
		s.tally.Recovered++
	}
	s.tally.Delay = now.Sub(time.UnixMicro(a.taken))
	r.o.Deliver(a.still(jpeg))
}

func (r *Receiver) hold(n int) {
	r.stats.Held += n
	r.stats.MostHeld = max(r.stats.MostHeld, r.stats.Held)
}

// drop gives up the n oldest unfinished stills of p.
func (r *Receiver) drop(p *progress, n int) {
	for _, a := range p.pending[:n] {
		r.hold(-a.cost())
	}
	p.pending = slices.Delete(p.pending, 0, n)
}

// makeRoom gives up the oldest unfinished stills until p may have one more, of cost bytes. It tells whether that is possible.
func (r *Receiver) makeRoom(p *progress, cost int) bool {
	if cost > r.o.Memory {
		return false
	}
	if len(p.pending) >= maxPending {
		r.drop(p, 1)
		r.stats.Evicted++
	}
	for r.stats.Held+cost > r.o.Memory {
		var oldest *progress
		for _, s := range r.senders {
			for _, q := range s.streams {
				if len(q.pending) > 0 && (oldest == nil || q.pending[0].age < oldest.pending[0].age) {
					oldest = q
				}
			}
		}
		r.drop(oldest, 1) // there is one: something is held
		r.stats.Evicted++
	}
	return true
}

// purge forgets what can be of no use any more: unfinished stills and silent streams.
func (r *Receiver) purge() {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.o.Now()
	for id, st := range r.streams {
		// Shards of stills as old as that are stale by now.
		if now.Sub(st.at) <= 2*r.o.MaxAge {
			continue
		}
		delete(r.streams, id)
		for _, s := range r.senders {
			if p := s.streams[id]; p != nil {
				r.drop(p, len(p.pending))
				delete(s.streams, id)
			}
		}
	}
}

// Stats tells what has been counted.
func (r *Receiver) Stats() ReceiverStats {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := r.stats
	var last time.Time
	for _, s := range r.senders {
		if s.aead == nil {
			continue
		}
		out.Senders = append(out.Senders, SenderState{Key: s.key.String(), Since: time.UnixMicro(int64(s.id.epoch)).UTC(), Heard: s.heard,
			From: s.back.String(), Tally: s.tally, Arrived: s.got, Missing: s.missing()})
		out.Stills += s.tally.Stills
		out.Recovered += s.tally.Recovered
		out.Lost += s.tally.Lost
		if s.heard.After(last) {
			last, out.Delay = s.heard, s.tally.Delay
		}
	}
	slices.SortFunc(out.Senders, func(a, b SenderState) int { return cmp.Compare(a.Key, b.Key) })
	return out
}
