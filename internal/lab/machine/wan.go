package machine

import (
	"cmp"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"sync"
	"syscall"
	"time"

	"widecloud/internal/netio"
)

// WANOptions of a wide-area link.
type WANOptions struct {
	Shape        // of both directions, if there is no Back
	Back  *Shape // from b to a, if it is not as from a to b
	MTU   int    // bytes of a packet; 0: 1500
}

func (o WANOptions) check() error {
	if o.MTU != 0 && (o.MTU < MinMTU || o.MTU > MaxMTU) {
		return fmt.Errorf("mtu %d is not from %d to %d", o.MTU, MinMTU, MaxMTU)
	}
	for _, s := range o.shapes() {
		if err := s.check(); err != nil {
			return err
		}
	}
	return nil
}

// shapes are the two directions'.
func (o WANOptions) shapes() [2]Shape {
	if o.Back == nil {
		return [2]Shape{o.Shape, o.Shape}
	}
	return [2]Shape{o.Shape, *o.Back}
}

// MinMTU and MaxMTU are the bounds of a link's MTU: IPv6 needs 1280 (RFC 8200, section 5).
const MinMTU, MaxMTU = 1280, 9000

// Direction is what one direction of a wide-area link has done so far.
type Direction struct {
	Frames  int64 // accepted for transmission
	Bytes   int64 // of these, Ethernet headers included
	Dropped int64 // frames dropped because the queue was full or the link cut
	Lost    int64 // frames lost on the way by Shape.Loss; they are among Frames
}

// WAN is a wide-area link: an Ethernet between two nodes whose directions have a
// [Shape] each. The kernel here has no netem, so frames pass through this process:
// TAP, queue, TAP. It is safe for concurrent use.
type WAN struct {
	ends [2]*os.File
	dirs [2]*pipe // from ends[i] to ends[1-i]
	wg   sync.WaitGroup
	once sync.Once

	mu   sync.Mutex
	flap chan struct{} // closed to end the flapping; nil: there is none
}

// pipe is one direction: a shaper between two devices.
type pipe struct {
	mu     sync.Mutex
	s      shaper
	mtu    int
	closed bool
	wake   chan struct{}
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
	mtu := cmp.Or(o.MTU, 1500)
	for i, e := range []End{a, b} {
		err := e.Node.withNS(func(ns *netio.NS) (err error) {
			if w.ends[i], err = ns.OpenTAP(e.Device); err == nil {
				err = ns.SetMTU(e.Device, mtu)
			}
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
		// The same losses in each run: a script that fails can be run again.
		random := rand.New(rand.NewPCG(1, uint64(i)))
		p := &pipe{s: shaper{shape: o.shapes()[i], random: random}, mtu: mtu, wake: make(chan struct{}, 1)}
		w.dirs[i] = p
		w.wg.Go(func() { p.receive(w.ends[i]) })
		w.wg.Go(func() { p.deliver(w.ends[1-i]) })
	}
	l.mu.Lock()
	l.wans = append(l.wans, w)
	l.mu.Unlock()
	return w, nil
}

// Set changes the shapes of the running link; its MTU stays. Frames on the way
// keep their time of arrival, so a shorter delay counts once those have arrived.
func (w *WAN) Set(o WANOptions) error {
	if err := o.check(); err != nil {
		return fmt.Errorf("set wan: %w", err)
	}
	for i, p := range w.dirs {
		p.mu.Lock()
		p.s.shape = o.shapes()[i]
		p.mu.Unlock()
	}
	return nil
}

// Ways are directions of a wide-area link.
type Ways int

// The directions of a link between a and b.
const (
	AToB Ways = 1 << iota
	BToA
	BothWays = AToB | BToA
)

// Cut silently drops everything that goes these ways, what is on the way too;
// neither end loses carrier. Heal ends that, and flapping.
func (w *WAN) Cut(ways Ways) { w.set(ways, true) }

// Heal ends cuts, and flapping, which ends both ways.
func (w *WAN) Heal(ways Ways) {
	if w.stopFlapping() {
		ways = BothWays
	}
	w.set(ways, false)
}

func (w *WAN) set(ways Ways, cut bool) {
	for i, p := range w.dirs {
		if ways&(1<<i) == 0 {
			continue
		}
		p.mu.Lock()
		if p.s.cut = cut; cut {
			p.s.drop()
		}
		p.mu.Unlock()
	}
}

// Flap cuts the link for the time down in each period, both ways, from now until
// Heal.
func (w *WAN) Flap(period, down time.Duration) error {
	if down <= 0 || period <= down {
		return fmt.Errorf("flap: %v down in %v: want more than nothing, and less than all", down, period)
	}
	w.stopFlapping()
	stop := make(chan struct{})
	w.mu.Lock()
	w.flap = stop
	w.mu.Unlock()
	w.wg.Go(func() {
		for cut := true; ; cut = !cut {
			w.mu.Lock()
			if w.flap != stop {
				w.mu.Unlock()
				return
			}
			w.set(BothWays, cut)
			w.mu.Unlock()
			wait := down
			if !cut {
				wait = period - down
			}
			select {
			case <-stop:
				return
			case <-time.After(wait):
			}
		}
	})
	return nil
}

// stopFlapping tells whether there was any.
func (w *WAN) stopFlapping() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.flap == nil {
		return false
	}
	close(w.flap)
	w.flap = nil
	return true
}

// Counters returns what has gone from a to b, and from b to a.
func (w *WAN) Counters() (ab, ba Direction) {
	get := func(p *pipe) Direction {
		p.mu.Lock()
		defer p.mu.Unlock()
		return p.s.n
	}
	return get(w.dirs[0]), get(w.dirs[1])
}

// Close removes the link and its two devices.
func (w *WAN) Close() error {
	var err error
	w.once.Do(func() {
		w.stopFlapping()
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
	if k := len(p.s.spare); k > 0 {
		b := p.s.spare[k-1]
		p.s.spare = p.s.spare[:k-1]
		return b
	}
	return make([]byte, p.mtu+64) // and the Ethernet header
}

// accept takes a frame over, or drops it.
func (p *pipe) accept(b []byte, now time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	_, busy := p.s.next()
	ok := p.s.accept(b, now)
	if ok && !busy {
		p.poke()
	}
	return ok
}

// slack is how much early a frame may arrive, so that frames close to each other
// share one wake-up.
const slack = 100 * time.Microsecond

func (p *pipe) deliver(to *os.File) {
	var batch []frame
	for {
		p.mu.Lock()
		for _, f := range batch {
			p.s.spare = append(p.s.spare, f.b[:cap(f.b)])
		}
		batch = p.s.take(time.Now().Add(slack), batch[:0])
		next, more := p.s.next()
		closed := p.closed
		p.mu.Unlock()
		for _, f := range batch {
			to.Write(f.b) // an end that is down or gone loses the frame, as a wire does
		}
		switch {
		case closed:
			return
		case len(batch) > 0:
		case more:
			// The kernel's sleep, not the runtime's, whose timers are a
			// millisecond late when the program is idle.
			ts := syscall.NsecToTimespec(int64(max(0, min(time.Until(next), 20*time.Millisecond))))
			syscall.Nanosleep(&ts, nil)
		default:
			<-p.wake
		}
	}
}
