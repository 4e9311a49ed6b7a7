package machine

import (
	"errors"
	"math/rand/v2"
	"time"
)

// Shape is what one direction of a wide-area link does to frames. The zero value
// lets everything pass at once.
type Shape struct {
	Delay  time.Duration // from the transmitter to the other end
	Jitter time.Duration // each frame takes up to this much longer, evenly at random
	Rate   int64         // bits per second, Ethernet headers included; 0: unlimited
	Queue  int           // bytes that may wait for the transmitter; 0: DefaultQueue(Rate)
	Loss   float64       // the part of the frames that is lost on the way, 0 to below 1
}

// DefaultQueue is 50 ms of the rate, and at least 64 KiB: what an access router
// that was set up with some care has.
func DefaultQueue(rate int64) int { return max(64<<10, int(rate/8/20)) }

// controlQueue is how many bytes of control traffic may wait: a neighbour's whole
// database in an area of the lab's size.
const controlQueue = 64 << 10

func (s Shape) check() error {
	switch {
	case s.Delay < 0 || s.Jitter < 0 || s.Rate < 0 || s.Queue < 0:
		return errors.New("delay, jitter, rate and queue must not be negative")
	case !(s.Loss >= 0 && s.Loss < 1): // NaN, too
		return errors.New("loss must be from 0 to below 1")
	}
	return nil
}

func (s Shape) queue() int {
	if s.Queue > 0 {
		return s.Queue
	}
	return DefaultQueue(s.Rate)
}

// shaper is one direction of a link without the devices: frames go in and come
// out at times that the caller brings. There is one transmitter with two queues
// before it. Control traffic goes first, so a full link stays in its neighbours'
// eyes; each queue drops at its tail. Behind the transmitter frames stay in order.
type shaper struct {
	shape  Shape
	random *rand.Rand
	cut    bool
	free   time.Time // when the transmitter has sent what it has taken
	queues [2]fifo   // control traffic, and all other
	flight fifo      // on the way, by time of arrival
	spare  [][]byte  // buffers that are free again
	n      Direction
}

// accept takes a frame over, or drops it and returns false. Times only grow; take
// may be a little ahead.
func (s *shaper) accept(b []byte, now time.Time) bool {
	s.advance(now)
	if s.cut {
		s.n.Dropped++
		return false
	}
	q, room := &s.queues[1], s.shape.queue()
	if isControl(b) {
		q, room = &s.queues[0], controlQueue
	}
	if s.idle(now) {
		s.transmit(b, now)
	} else if q.bytes+len(b) <= room {
		q.push(frame{b: b})
	} else {
		s.n.Dropped++
		return false
	}
	s.n.Frames++
	s.n.Bytes += int64(len(b))
	return true
}

// idle tells whether the transmitter could send at once. Nothing waits then.
func (s *shaper) idle(now time.Time) bool { return !s.free.After(now) }

// advance lets the transmitter take what it has had time for.
func (s *shaper) advance(now time.Time) {
	for s.idle(now) {
		q := &s.queues[0]
		if q.len() == 0 {
			q = &s.queues[1]
		}
		if q.len() == 0 {
			return
		}
		s.transmit(q.pop().b, s.free)
	}
}

func (s *shaper) transmit(b []byte, at time.Time) {
	s.free = at
	if s.shape.Rate > 0 {
		s.free = at.Add(time.Duration(int64(len(b)) * 8 * int64(time.Second) / s.shape.Rate))
	}
	if s.shape.Loss > 0 && s.random.Float64() < s.shape.Loss {
		s.n.Lost++
		s.spare = append(s.spare, b)
		return
	}
	due := s.free.Add(s.shape.Delay)
	if s.shape.Jitter > 0 {
		due = due.Add(time.Duration(s.random.Int64N(int64(s.shape.Jitter) + 1)))
	}
	if last := s.flight.last(); due.Before(last) {
		due = last // never overtake
	}
	s.flight.push(frame{due, b})
}

// take appends the frames that have arrived by now.
func (s *shaper) take(now time.Time, to []frame) []frame {
	s.advance(now)
	for s.flight.len() > 0 && !s.flight.first().due.After(now) {
		to = append(to, s.flight.pop())
	}
	return to
}

// next returns a time before which no frame arrives, false if there is none to
// arrive. What is accepted later does not make it earlier.
func (s *shaper) next() (time.Time, bool) {
	switch {
	case s.flight.len() > 0:
		return s.flight.first().due, true
	case s.queues[0].len() > 0 || s.queues[1].len() > 0:
		return s.free.Add(s.shape.Delay), true
	}
	return time.Time{}, false
}

// drop loses all that waits or is on the way.
func (s *shaper) drop() {
	for _, q := range []*fifo{&s.queues[0], &s.queues[1], &s.flight} {
		for q.len() > 0 {
			s.n.Dropped++
			s.spare = append(s.spare, q.pop().b)
		}
	}
	s.free = time.Time{}
}

type frame struct {
	due time.Time
	b   []byte
}

// fifo is a queue of frames.
type fifo struct {
	l     []frame
	head  int // l[head:] is in use
	bytes int // of all frames in it
}

func (q *fifo) len() int     { return len(q.l) - q.head }
func (q *fifo) first() frame { return q.l[q.head] }

// last is when the last frame is due, zero if there is none.
func (q *fifo) last() time.Time {
	if q.len() == 0 {
		return time.Time{}
	}
	return q.l[len(q.l)-1].due
}

func (q *fifo) push(f frame) {
	if q.head > 0 && len(q.l) == cap(q.l) {
		q.l = q.l[:copy(q.l, q.l[q.head:])]
		q.head = 0
	}
	q.l = append(q.l, f)
	q.bytes += len(f.b)
}

func (q *fifo) pop() frame {
	f := q.l[q.head]
	q.l[q.head] = frame{}
	if q.head++; q.head == len(q.l) {
		q.l, q.head = q.l[:0], 0
	}
	q.bytes -= len(f.b)
	return f
}
