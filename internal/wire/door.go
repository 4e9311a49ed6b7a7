package wire

import (
	"errors"
	"math"
	"net"
	"net/netip"
	"sync"
	"time"
)

const (
	maxStrangers  = 256 // connections whose other ends have not proved who they are
	sourceShare   = 32  // of these, from one source
	maxGreetings  = 8   // connections of one proved identity that are not sessions yet
	handshakeHold = 250 * time.Millisecond
)

var (
	errCrowded = errors.New("too many connections wait here for their handshake")
	errEvicted = errors.New("a newer connection needed its place before its handshake was done")
	errTooSlow = errors.New("the handshake was not done within " + handshakeTime.String())
)

// door bounds how many connections wait for something, in all and for each key. When it is full, the connection that has
// waited longest makes room: of the newcomer's key if that has its whole share, else of the key that has most. One that
// waits for less than handshakeHold stays, so that a flood of newcomers cannot keep every handshake from its end; the
// newcomer is refused then.
type door struct {
	total, share int

	mu    sync.Mutex
	count int
	slots map[string][]*slot // by key, oldest first
}

type slot struct {
	key   string
	since time.Time
	evict func()
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
// taken away again. leave gives the slot back; more than once is as good as once.
func (d *door) enter(key string, evict func()) (leave func(), ok bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	var full []*slot
	if have := d.slots[key]; len(have) >= d.share {
		full = have
	} else if d.count >= d.total {
		full = d.longest()
	}
	if len(full) > 0 {
		oldest := full[0]
		if time.Since(oldest.since) < handshakeHold {
			return nil, false
		}
		d.remove(oldest)
		oldest.evict()
	}
	s := &slot{key: key, since: time.Now(), evict: evict}
	d.slots[key] = append(d.slots[key], s)
	d.count++
	return func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.remove(s)
	}, true
}

// longest gives the slots of the key that has most; among equals, of the one that has waited longest.
func (d *door) longest() []*slot {
	var most []*slot
	for _, have := range d.slots {
		if len(have) > len(most) || len(have) == len(most) && have[0].since.Before(most[0].since) {
			most = have
		}
	}
	return most
}

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
