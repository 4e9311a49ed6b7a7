package fed

import (
	"context"
	"time"

	"widecloud/internal/wire"
)

const (
	measureEvery = time.Second
	measured     = 5 // intervals that a rate is the mean of
)

// Traffic is what crosses between this site and a peer, by the sessions of both kinds.
type Traffic struct {
	Sent, Received         int64   // bytes since the peering was begun or this program was started
	SentRate, ReceivedRate float64 // bytes per second, the mean of the last seconds
}

// traffic adds up what a peer's sessions have carried.
type traffic struct {
	sessions map[*wire.Session]struct{} // that are counted by themselves
	ended    [2]int64                   // by those that have ended: sent, received
	last     []reading                  // the newest at the end
}

type reading struct {
	at    time.Time
	total [2]int64
}

func (t *traffic) add(s *wire.Session) {
	if t.sessions == nil {
		t.sessions = map[*wire.Session]struct{}{}
	}
	t.sessions[s] = struct{}{}
}

// end keeps what a session has carried. One that is not known, or was ended before, changes nothing.
func (t *traffic) end(s *wire.Session) {
	if _, ok := t.sessions[s]; !ok {
		return
	}
	delete(t.sessions, s)
	sent, received := s.Traffic()
	t.ended[0] += sent
	t.ended[1] += received
}

// total is what was sent and received. Sessions that have been replaced are let go.
func (t *traffic) total() (sum [2]int64) {
	for s := range t.sessions {
		if s.Err() != nil {
			t.end(s)
		}
	}
	sum = t.ended
	for s := range t.sessions {
		sent, received := s.Traffic()
		sum[0] += sent
		sum[1] += received
	}
	return sum
}

func (t *traffic) measure(now time.Time) {
	if len(t.last) > measured {
		t.last = append(t.last[:0], t.last[1:]...)
	}
	t.last = append(t.last, reading{now, t.total()})
}

// rates are the mean of the readings that are kept.
func (t *traffic) rates() (sent, received float64) {
	if len(t.last) < 2 {
		return 0, 0
	}
	from, to := t.last[0], t.last[len(t.last)-1]
	took := to.at.Sub(from.at).Seconds()
	if took <= 0 {
		return 0, 0
	}
	return float64(to.total[0]-from.total[0]) / took, float64(to.total[1]-from.total[1]) / took
}

// measure reads what crosses to all peers until ctx ends.
func (f *Federation) measure(ctx context.Context) {
	tick := time.NewTicker(measureEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C:
			f.mu.Lock()
			for _, p := range f.peers {
				p.traffic.measure(now)
			}
			f.mu.Unlock()
		}
	}
}

// Traffic is what crosses between this site and a peer.
func (f *Federation) Traffic(site string) (t Traffic) {
	f.mu.Lock()
	defer f.mu.Unlock()
	p := f.peers[site]
	if p == nil {
		return t
	}
	sum := p.traffic.total()
	t.Sent, t.Received = sum[0], sum[1]
	t.SentRate, t.ReceivedRate = p.traffic.rates()
	return t
}
