package lab

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"
	"time"

	"widecloud/internal/netio"
)

// WANOptions of a wide-area link. Both directions are alike.
type WANOptions struct {
	RTT   time.Duration // twice the delay of one direction; 0: none beyond the relay's own
	Rate  int64         // bits per second of a direction; 0: unlimited
	Queue int           // bytes that may wait for the transmitter; 0: DefaultQueue(Rate)
}

// DefaultQueue is 50 ms of the rate, and at least 64 KiB: what an access router
// that was set up with some care has.
func DefaultQueue(rate int64) int { return max(64<<10, int(rate/8/20)) }

// Direction is what one direction of a wide-area link has done so far.
type Direction struct {
	Frames  int64 // accepted for transmission
	Bytes   int64 // of these, Ethernet headers included
	Dropped int64 // frames dropped because the queue was full or the link cut
}

// WAN is a wide-area link: an Ethernet of MTU 1500 between two nodes, with rate,
// delay and a bounded drop-tail queue. The kernel here has no netem, so frames
// pass through this process: TAP, queue, TAP. It is safe for concurrent use.
type WAN struct {
	ends [2]*os.File
	dirs [2]*pipe // from ends[i] to ends[1-i]
	wg   sync.WaitGroup
	once sync.Once
}

// pipe is one direction. A frame is handed to the transmitter as soon as that
// is free, and arrives a fixed time after it has been sent: so frames stay in
// order, and the due times of the frames in flight only grow.
type pipe struct {
	mu     sync.Mutex
	o      WANOptions
	cut    bool
	closed bool
	free   time.Time // when the transmitter has sent all that it was given
	flight []frame   // sorted by due time
	head   int       // flight[head:] is in use
	spare  [][]byte
	n      Direction
	wake   chan struct{}
}

type frame struct {
	due time.Time
	b   []byte
}

// WAN joins two nodes by a wide-area link. Bytes are counted from a to b first.
func (l *Lab) WAN(a, b End, o WANOptions) (*WAN, error) {
	if err := o.check(); err != nil {
		return nil, fmt.Errorf("wan %s to %s: %w", a.Node.name, b.Node.name, err)
	}
	w := &WAN{}
	if err := l.note(a, b, true); err != nil {
		return nil, fmt.Errorf("wan %s to %s: %w", a.Node.name, b.Node.name, err)
	}
	for i, e := range []End{a, b} {
		err := e.Node.withNS(func(ns *netio.NS) (err error) {
			w.ends[i], err = ns.OpenTAP(e.Device)
			return err
		})
		if err == nil {
			err = e.plug()
		}
		if err != nil {
			for _, f := range w.ends {
				if f != nil {
					f.Close()
				}
			}
			return nil, fmt.Errorf("wan %s to %s: %w", a.Node.name, b.Node.name, err)
		}
	}
	for i := range w.dirs {
		p := &pipe{o: o, wake: make(chan struct{}, 1)}
		w.dirs[i] = p
		w.wg.Go(func() { p.receive(w.ends[i]) })
		w.wg.Go(func() { p.deliver(w.ends[1-i]) })
	}
	l.mu.Lock()
	l.wans = append(l.wans, w)
	l.mu.Unlock()
	return w, nil
}

func (o WANOptions) check() error {
	if o.RTT < 0 || o.Rate < 0 || o.Queue < 0 {
		return errors.New("rtt, rate and queue must not be negative")
	}
	return nil
}

// Set changes rate, delay and queue of the running link. Frames in flight keep
// their time of arrival, so a shorter delay counts once those have arrived.
func (w *WAN) Set(o WANOptions) error {
	if err := o.check(); err != nil {
		return fmt.Errorf("set wan: %w", err)
	}
	for _, p := range w.dirs {
		p.mu.Lock()
		p.o = o
		p.mu.Unlock()
	}
	return nil
}

// Cut silently drops everything, what is in flight too; neither end loses
// carrier. Heal ends that.
func (w *WAN) Cut() {
	for _, p := range w.dirs {
		p.mu.Lock()
		p.cut = true
		for _, f := range p.flight[p.head:] {
			p.n.Dropped++
			p.spare = append(p.spare, f.b)
		}
		p.flight, p.head, p.free = p.flight[:0], 0, time.Time{}
		p.mu.Unlock()
	}
}

// Heal ends a cut.
func (w *WAN) Heal() {
	for _, p := range w.dirs {
		p.mu.Lock()
		p.cut = false
		p.mu.Unlock()
	}
}

// Counters returns what has gone from a to b, and from b to a.
func (w *WAN) Counters() (ab, ba Direction) {
	get := func(p *pipe) Direction {
		p.mu.Lock()
		defer p.mu.Unlock()
		return p.n
	}
	return get(w.dirs[0]), get(w.dirs[1])
}

// Close removes the link and its two devices.
func (w *WAN) Close() error {
	var err error
	w.once.Do(func() {
		for _, p := range w.dirs {
			p.mu.Lock()
			p.closed = true
			p.mu.Unlock()
			p.poke()
		}
		err = errors.Join(w.ends[0].Close(), w.ends[1].Close())
		w.wg.Wait()
	})
	return err
}

func (p *pipe) poke() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

func (p *pipe) receive(from *os.File) {
	var b []byte
	for {
		if b == nil {
			b = p.buffer()
		}
		n, err := from.Read(b[:cap(b)])
		if err != nil {
			return // closed, or its device deleted with the node
		}
		if p.accept(b[:n], time.Now()) {
			b = nil
		}
	}
}

// buffer returns room for one frame.
func (p *pipe) buffer() []byte {
	p.mu.Lock()
	defer p.mu.Unlock()
	if k := len(p.spare); k > 0 {
		b := p.spare[k-1]
		p.spare = p.spare[:k-1]
		return b
	}
	return make([]byte, 2048) // MTU 1500 and the Ethernet header, rounded up
}

// accept takes a frame over, or drops it.
func (p *pipe) accept(b []byte, now time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.free.Before(now) {
		p.free = now
	}
	queue := p.o.Queue
	if queue == 0 {
		queue = DefaultQueue(p.o.Rate)
	}
	waiting := int(p.free.Sub(now).Seconds() * float64(p.o.Rate) / 8)
	if p.cut || p.o.Rate > 0 && waiting+len(b) > queue {
		p.n.Dropped++
		return false
	}
	if p.o.Rate > 0 {
		p.free = p.free.Add(time.Duration(int64(len(b)) * 8 * int64(time.Second) / p.o.Rate))
	}
	due := p.free.Add(p.o.RTT / 2)
	if k := len(p.flight); k > p.head && due.Before(p.flight[k-1].due) {
		due = p.flight[k-1].due // the delay was shortened: never overtake
	}
	if p.head > 0 && len(p.flight) == cap(p.flight) {
		p.flight = p.flight[:copy(p.flight, p.flight[p.head:])]
		p.head = 0
	}
	p.flight = append(p.flight, frame{due, b})
	p.n.Frames++
	p.n.Bytes += int64(len(b))
	if len(p.flight)-p.head == 1 {
		p.poke()
	}
	return true
}

// slack is how much early a frame may arrive, so that frames close to each other
// share one wake-up.
const slack = 100 * time.Microsecond

func (p *pipe) deliver(to *os.File) {
	var batch []frame
	for {
		p.mu.Lock()
		now := time.Now().Add(slack)
		batch = batch[:0]
		for p.head < len(p.flight) && !p.flight[p.head].due.After(now) {
			batch = append(batch, p.flight[p.head])
			p.head++
		}
		var wait time.Duration
		if p.head < len(p.flight) {
			wait = p.flight[p.head].due.Sub(now) + slack
		} else {
			p.flight, p.head = p.flight[:0], 0
		}
		closed := p.closed
		p.mu.Unlock()
		for _, f := range batch {
			to.Write(f.b) // an end that is down or gone loses the frame, as a wire does
		}
		switch {
		case closed:
			return
		case len(batch) > 0:
			p.mu.Lock()
			for _, f := range batch {
				p.spare = append(p.spare, f.b[:cap(f.b)])
			}
			p.mu.Unlock()
		case wait > 0:
			// The kernel's sleep, not the runtime's, whose timers are a
			// millisecond late when the program is idle.
			ts := syscall.NsecToTimespec(int64(min(wait, 20*time.Millisecond)))
			syscall.Nanosleep(&ts, nil)
		default:
			<-p.wake
		}
	}
}
