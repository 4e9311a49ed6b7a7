package wire

import (
	"cmp"
	"errors"
	"math"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"
)

const (
	maxStrangers  = 256                    // connections whose other ends have not proved who they are
	sourceShare   = 32                     // of these, from one source
	maxGreetings  = 8                      // connections of one proved identity that are not sessions yet
	handshakeHold = 250 * time.Millisecond // how long a connection may let us wait before it has to make room
)

var (
	errCrowded = errors.New("too many connections wait here for their handshake")
	errEvicted = errors.New("a newer connection needed its place before its handshake was done")
	errTooSlow = errors.New("the handshake was not done within " + handshakeTime.String())
)

// door bounds how many connections are on their way in, in all and for each key. When it is full, the connection that has
// let us wait longest makes room: of the newcomer's key if that has its whole share, else of the key that has most. One
// that has let us wait for less than handshakeHold stays, so that a flood of newcomers cannot keep every handshake from its
// end; the newcomer is refused then. What we take ourselves does not count: a server whose cores are busy goes on with
// those that it has.
type door struct {
	total, share int

	mu    sync.Mutex
	count int
	slots map[string][]*slot // by key, oldest first
}

// slot is a connection's place at a door.
type slot struct {
	door  *door
	key   string
	evict func()

	// Both are the door's to guard.
	waited time.Duration // how long the other end has let us wait, what goes on now apart
	since  time.Time     // when we began to wait for it; zero: it is our turn
}

// wait says that it is the other end's turn, until the function it returns is called.
func (s *slot) wait() (heard func()) {
	s.door.mu.Lock()
	defer s.door.mu.Unlock()
	s.since = time.Now()
	return func() {
		s.door.mu.Lock()
		defer s.door.mu.Unlock()
		s.waited, s.since = s.silence(time.Now()), time.Time{}
	}
}

// silence is how long the other end has let us wait, in all. The door is locked.
func (s *slot) silence(now time.Time) time.Duration {
	if s.since.IsZero() {
		return s.waited
	}
	return s.waited + now.Sub(s.since)
}

// newStrangersDoor is for connections that nobody is known for: the key is where they come from.
func newStrangersDoor() *door {
	return &door{total: maxStrangers, share: sourceShare, slots: map[string][]*slot{}}
}

// newKnownDoor is for connections with a good certificate: the key is the identity, and strangers take no room from them.
func newKnownDoor() *door {
	return &door{total: math.MaxInt, share: maxGreetings, slots: map[string][]*slot{}}
}

// enter takes a slot, or tells that there is none. evict is called, once at most and with the door locked, when the slot is
// taken away again.
func (d *door) enter(key string, evict func()) (s *slot, ok bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	full := len(d.slots[key]) >= d.share
	if among := d.slots[key]; full || d.count >= d.total {
		now := time.Now()
		if !full {
			among = d.most(now)
		}
		last := slowest(among, now)
		if last.silence(now) < handshakeHold {
			return nil, false
		}
		d.remove(last)
		last.evict()
	}
	s = &slot{door: d, key: key, evict: evict}
	d.slots[key] = append(d.slots[key], s)
	d.count++
	return s, true
}

// leave gives a slot back; more than once is as good as once.
func (s *slot) leave() {
	s.door.mu.Lock()
	defer s.door.mu.Unlock()
	s.door.remove(s)
}

// most gives the slots of the key that has most; among equals, of the one whose connection has let us wait longest.
func (d *door) most(now time.Time) []*slot {
	var most []*slot
	for _, have := range d.slots {
		if len(have) > len(most) || len(have) == len(most) && slowest(have, now).silence(now) > slowest(most, now).silence(now) {
			most = have
		}
	}
	return most
}

// slowest is the slot whose connection has let us wait longest.
func slowest(slots []*slot, now time.Time) *slot {
	return slices.MaxFunc(slots, func(a, b *slot) int { return cmp.Compare(a.silence(now), b.silence(now)) })
}

// remove takes a slot away, if it is there. The door is locked.
func (d *door) remove(s *slot) {
	have := d.slots[s.key]
	for i, other := range have {
		if other == s {
			d.count--
			if d.slots[s.key] = append(have[:i:i], have[i+1:]...); len(have) == 1 {
				delete(d.slots, s.key)
			}
			return
		}
	}
}

// sourceOf is whom a connection is put down to: an IPv4 address, or an IPv6 /64, since whoever has one address of a /64
// has all of them.
func sourceOf(addr net.Addr) string {
	host, _, err := net.SplitHostPort(addr.String())
	if err != nil {
		return addr.String()
	}
	ip, err := netip.ParseAddr(host)
	if err != nil {
		return host
	}
	if ip = ip.Unmap().WithZone(""); ip.Is4() {
		return ip.String()
	}
	return netip.PrefixFrom(ip, 64).Masked().String()
}
