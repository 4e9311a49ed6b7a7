package map646

import (
	"cmp"
	"container/heap"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// Busy is a mapping that `map646 top` shows: what it has carried, and its rates
// over the last interval.
type Busy struct {
	TableEntry
	PacketsPerSecond float64 `json:"packets_per_second"`
	BytesPerSecond   float64 `json:"bytes_per_second"`
}

// mostBusy is how many of them can be had.
const mostBusy = 10_000

// sampler looks at all mappings' counters now and then, out of the way of the
// queues: it only reads. One look at a million mappings takes a while of a CPU
// (docs/map646-bench.md, `look`), so nobody can have more than one in least.
type sampler struct {
	mu     sync.Mutex // held while a sample is taken
	at     time.Time
	runs   uint32   // samples taken
	last   []sample // by Entry.ID; of the last run are those that have carried something
	top    []named  // the busiest of the last run, in order
	ranked int      // how many were looked for
}

// named is one of the busiest, and what it was then.
type named struct {
	id      uint32
	outside netip.Prefix
	Busy
}

// sample is of one mapping. A million of them is a lot to read: it is small.
type sample struct {
	packets, bytes uint64 // carried
	// packetRate and byteRate are a second's.
	packetRate, byteRate float32
	score                float32 // packetRate, smoothed, so that the order is steady
	run                  uint32  // when
}

// busiest returns the n busiest mappings, n up to mostBusy, of a sample not older
// than least, with what they have carried by now.
func (d *Daemon) busiest(n int, least time.Duration) []Busy {
	s := &d.sampler
	s.mu.Lock()
	defer s.mu.Unlock()
	if now := d.now(); s.runs == 0 || now.Sub(s.at) >= least {
		d.look(now)
		s.top, s.ranked = nil, 0
	}
	if n > s.ranked {
		s.top, s.ranked = d.name(s.rank(n)), n
	}
	t := d.table.Load()
	out := make([]Busy, 0, n)
	for _, p := range s.top[:min(n, len(s.top))] {
		if e, ok := t.Entry(p.id); ok && e.Outside == p.outside {
			p.MappingCount = d.mappingCount(p.id)
			out = append(out, p.Busy)
		}
	}
	return out
}

// look takes a sample; sampler.mu is held.
func (d *Daemon) look(now time.Time) {
	s := &d.sampler
	seconds := now.Sub(s.at).Seconds()
	if s.runs == 0 {
		seconds = 0 // there are no rates yet
	}
	s.at = now
	s.runs++
	var counts [pieceLen]MappingCount
	piece := -1
	for id := range d.table.Load().IDs() {
		if k := int(id / pieceLen); k != piece {
			piece = k
			d.mappingCounts(uint32(k), &counts)
		}
		c := &counts[id%pieceLen]
		n := sample{packets: c.packets(), bytes: c.BytesIn + c.BytesOut, run: s.runs}
		if n.packets == 0 {
			continue
		}
		if more := int(id) + 1 - len(s.last); more > 0 {
			s.last = append(s.last, make([]sample, more)...)
		}
		at, was := &s.last[id], sample{}
		if at.run == s.runs-1 { // else it was another mapping's
			was = *at
		}
		if seconds > 0 && n.packets >= was.packets {
			n.packetRate = float32(float64(n.packets-was.packets) / seconds)
			n.byteRate = float32(float64(n.bytes-was.bytes) / seconds)
		}
		n.score = was.score/2 + n.packetRate
		*at = n
	}
}

// rank returns the n busiest of the last sample, the busiest first.
func (s *sampler) rank(n int) ranking {
	best := make(ranking, 0, n)
	for id := range s.last {
		at := &s.last[id]
		if at.run != s.runs {
			continue
		}
		r := ranked{uint32(id), at.score, at.packets}
		switch {
		case len(best) < n:
			heap.Push(&best, r)
		case r.compare(best[0]) > 0:
			best[0] = r
			heap.Fix(&best, 0)
		}
	}
	slices.SortFunc(best, func(a, b ranked) int { return -a.compare(b) })
	return best
}

// name tells what they are, of those that are still there.
func (d *Daemon) name(best ranking) []named {
	t := d.table.Load()
	out := make([]named, 0, len(best))
	for _, r := range best {
		if e, ok := t.Entry(r.id); ok {
			at := &d.sampler.last[r.id]
			out = append(out, named{r.id, e.Outside, Busy{
				TableEntry:       TableEntry{Outside: short(e.Outside), Inside: short(e.Inside)},
				PacketsPerSecond: float64(at.packetRate), BytesPerSecond: float64(at.byteRate),
			}})
		}
	}
	return out
}

// ranked is a mapping on its way to become Busy.
type ranked struct {
	id      uint32
	score   float32
	packets uint64
}

// compare is positive if r is busier than o.
func (r ranked) compare(o ranked) int {
	return cmp.Or(cmp.Compare(r.score, o.score), cmp.Compare(r.packets, o.packets), -cmp.Compare(r.id, o.id))
}

// ranking is a heap of the busiest, with the least busy one on top.
type ranking []ranked

func (h ranking) Len() int           { return len(h) }
func (h ranking) Less(i, j int) bool { return h[i].compare(h[j]) < 0 }
func (h ranking) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *ranking) Push(x any)        { *h = append(*h, x.(ranked)) }
func (h *ranking) Pop() any          { panic("nobody takes from it") }
