package serve

import (
	"container/list"
	"crypto/sha256"
	"net"
	"net/netip"
	"sync"
	"time"
)

// A source may fail loginBurst times at once, and once more for every loginInterval that passes.
const (
	loginBurst    = 20
	loginInterval = 5 * time.Second
)

// The tables are bounded, so that no stranger can fill the memory.
const (
	maxFailing = 4096  // sources that have failed; the one whose last failure is the oldest goes first
	maxKnown   = 10000 // tokens that have been right; only a right token gets in
)

// logins slows down those who try tokens. A source that has failed too often must wait before another token is tried, but
// not with a token that was right before: whoever shares its address goes on.
type logins struct {
	mu      sync.Mutex
	failing map[netip.Prefix]*list.Element // of failures
	order   list.List                      // of *failures, by their last one
	known   map[[sha256.Size]byte]struct{}
}

// failures are those of one source, as a leaky bucket: it is empty at the time empty, and each failure puts that off by
// loginInterval.
type failures struct {
	source netip.Prefix
	empty  time.Time
}

func newLogins() *logins {
	return &logins{failing: map[netip.Prefix]*list.Element{}, known: map[[sha256.Size]byte]struct{}{}}
}

// wait is how long the source has to wait before this token is tried; 0: not at all.
func (l *logins) wait(source netip.Prefix, token string, now time.Time) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, ok := l.known[sha256.Sum256([]byte(token))]; ok {
		return 0
	}
	e := l.failing[source]
	if e == nil {
		return 0
	}
	return max(0, e.Value.(*failures).empty.Sub(now)-(loginBurst-1)*loginInterval)
}

// failed counts a failure.
func (l *logins) failed(source netip.Prefix, token string, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.known, sha256.Sum256([]byte(token)))
	e := l.failing[source]
	if e == nil {
		if l.order.Len() >= maxFailing {
			oldest := l.order.Front()
			delete(l.failing, oldest.Value.(*failures).source)
			l.order.Remove(oldest)
		}
		e = l.order.PushBack(&failures{source: source})
		l.failing[source] = e
	}
	l.order.MoveToBack(e)
	f := e.Value.(*failures)
	if f.empty.Before(now) {
		f.empty = now
	}
	f.empty = f.empty.Add(loginInterval)
}

// succeeded remembers a token that is right.
func (l *logins) succeeded(token string) {
	sum := sha256.Sum256([]byte(token))
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, ok := l.known[sum]; !ok && len(l.known) >= maxKnown {
		for other := range l.known { // any one: it only loses its right of way
			delete(l.known, other)
			break
		}
	}
	l.known[sum] = struct{}{}
}

// sourceOf is who counts as one source: an IPv4 address, or an IPv6 /64, within which a host chooses its address.
func sourceOf(remote string) netip.Prefix {
	host, _, err := net.SplitHostPort(remote)
	if err != nil {
		host = remote
	}
	a, err := netip.ParseAddr(host)
	if err != nil {
		return netip.Prefix{}
	}
	a = a.Unmap().WithZone("")
	bits := 64
	if a.Is4() {
		bits = 32
	}
	p, _ := a.Prefix(bits) // cannot fail: the length fits
	return p
}
