package map646

import (
	"cmp"
	"container/heap"
	"slices"
	"sync"
	"time"

	"widecloud/internal/packet/siit"
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
// queues: it only reads. One look at a million mappings that have all carried
// something takes 0.13 to 0.17 s of a CPU, so nobody can have more than one in least.
type sampler struct {
	mu   sync.Mutex // held while a sample is taken
	at   time.Time
	runs uint32   // samples taken
	last []sample // by Entry.ID
	top  []Busy   // the busiest, in order; replaced, never changed
}

// sample is what a mapping had carried.
type sample struct {
	run   uint32 // when; if that was not the last time, it is another mapping's
	n     MappingCount
	score float64 // packets a second, smoothed, so that the order is steady
}

// busiest returns the n busiest mappings, n up to mostBusy, of a sample not older
// than least. The caller does not change them.
func (d *Daemon) busiest(n int, least time.Duration) []Busy {
	s := &d.sampler
	s.mu.Lock()
	defer s.mu.Unlock()
	if now := d.now(); s.runs == 0 || now.Sub(s.at) >= least {
		d.sample(now)
	}
	return s.top[:min(n, len(s.top))]
}

// sample takes one; sampler.mu is held.
func (d *Daemon) sample(now time.Time) {
	s := &d.sampler
	seconds := now.Sub(s.at).Seconds()
	if s.runs == 0 {
		seconds = 0 // there are no rates yet
	}
	s.at = now
	s.runs++
	var best ranking
	d.basesMu.RLock()
	for e := range d.table.Load().Entries() {
		n := d.mappingCount(e)
		if n == (MappingCount{}) {
			continue
		}
		if more := int(e.ID) + 1 - len(s.last); more > 0 {
			s.last = append(s.last, make([]sample, more)...)
		}
		at, was := &s.last[e.ID], sample{}
		if at.run == s.runs-1 {
			was = *at
		}
		r := ranked{entry: e, n: n}
		if seconds > 0 && n.packets() >= was.n.packets() {
			r.packets = float64(n.packets()-was.n.packets()) / seconds
			r.bytes = float64(n.BytesIn+n.BytesOut-was.n.BytesIn-was.n.BytesOut) / seconds
		}
		r.score = was.score/2 + r.packets
		*at = sample{s.runs, n, r.score}
		best.offer(r)
	}
	d.basesMu.RUnlock()
	slices.SortFunc(best, func(a, b ranked) int { return -a.compare(b) })
	s.top = make([]Busy, len(best))
	for i, r := range best {
		s.top[i] = Busy{TableEntry{short(r.entry.Outside), short(r.entry.Inside), r.n}, r.packets, r.bytes}
	}
}

// ranked is a mapping on its way to become Busy.
type ranked struct {
	entry          siit.Entry
	n              MappingCount
	packets, bytes float64 // a second
	score          float64
}

// compare is positive if r is busier than o.
func (r ranked) compare(o ranked) int {
	return cmp.Or(cmp.Compare(r.score, o.score), cmp.Compare(r.n.packets(), o.n.packets()), -r.entry.Outside.Compare(o.entry.Outside))
}

// ranking is a heap of the mostBusy busiest, with the least busy one on top.
type ranking []ranked

func (h ranking) Len() int           { return len(h) }
func (h ranking) Less(i, j int) bool { return h[i].compare(h[j]) < 0 }
func (h ranking) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *ranking) Push(x any)        { *h = append(*h, x.(ranked)) }
func (h *ranking) Pop() any          { panic("nobody takes from it") }

func (h *ranking) offer(r ranked) {
	switch {
	case len(*h) < mostBusy:
		heap.Push(h, r)
	case r.compare((*h)[0]) > 0:
		(*h)[0] = r
		heap.Fix(h, 0)
	}
}
