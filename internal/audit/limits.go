package audit

import (
	"cmp"
	"net/netip"
	"time"

	"widecloud/api"
)

// allowance is how many refusals are noted: some at once, and then one for each time that passes.
type allowance struct {
	burst float64
	every time.Duration
}

var (
	ofUser      = allowance{60, 5 * time.Second}
	ofMachine   = allowance{60, time.Minute}      // an agent or a peer, which repeats what is refused
	ofSource    = allowance{10, time.Minute}      // a stranger's network
	ofStrangers = allowance{100, 6 * time.Second} // all strangers together
)

// maxBuckets is how many users, machines and networks are remembered; then those that have their whole allowance are forgotten, or all.
const maxBuckets = 4096

// limits count what has been noted of each.
type limits map[string]*bucket

type bucket struct {
	left float64
	at   time.Time
}

// take tells whether a refusal is to be noted.
func (m limits) take(of int, e api.AuditEntry, now time.Time) bool {
	switch of {
	case users:
		return m.one(e.Actor, ofUser, now)
	case machines:
		return m.one(e.Actor, ofMachine, now)
	}
	return m.one(" "+networkOf(e.Address), ofSource, now) && m.one("", ofStrangers, now)
}

func (m limits) one(key string, a allowance, now time.Time) bool {
	b := m[key]
	if b == nil {
		if len(m) >= maxBuckets {
			m.shrink(now)
		}
		b = &bucket{a.burst, now}
		m[key] = b
	}
	b.left = min(a.burst, b.left+float64(now.Sub(b.at))/float64(a.every))
	if b.at = now; b.left < 1 {
		return false
	}
	b.left--
	return true
}

func (m limits) shrink(now time.Time) {
	for key, b := range m {
		if key != "" && now.Sub(b.at) >= time.Hour {
			delete(m, key)
		}
	}
	if len(m) < maxBuckets {
		return
	}
	strangers := m[""] // the one that bounds them all stays
	clear(m)
	if strangers != nil {
		m[""] = strangers
	}
}

// networkOf is the part of an address that one stranger is given as a whole: an IPv6 /64, an IPv4 address.
func networkOf(address string) string {
	ip, err := netip.ParseAddr(address)
	if err != nil {
		return address
	}
	p, err := ip.Unmap().Prefix(map[bool]int{true: 32, false: 64}[ip.Unmap().Is4()])
	if err != nil {
		return address
	}
	return cmp.Or(p.String(), address)
}
