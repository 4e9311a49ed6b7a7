package netio

import (
	"sync/atomic"
	"unsafe"
)

// FastCount counts IP packets and their bytes, as they came in. A super-packet
// is one.
type FastCount struct{ Packets, Bytes uint64 }

// FastCounters counts by what became of packets: "4to6", "6to4", "6to6", and
// what was left to the full path: "pass_no_mapping" (of all that is forwarded),
// "pass_fragment", ... A packet is "drop_failed" if the kernel failed half way.
type FastCounters map[string]FastCount

// The order is that of enum outcome in bpf/table.h.
var outcomeNames = []string{
	"4to6", "6to4", "6to6", "pass_no_mapping", "pass_fragment", "pass_options", "pass_protocol", "pass_icmp", "pass_ttl",
	"pass_too_big", "pass_udp_zero", "pass_gso", "pass_address", "pass_malformed", "pass_checksum", "pass_torn", "pass_failed", "drop_failed",
}

// Counters returns the sums over all CPUs. It reads memory that the kernel
// shares: no system calls, nothing that the data path would notice.
func (f *Fast) Counters() FastCounters {
	f.mu.Lock()
	defer f.mu.Unlock()
	sums := make(FastCounters, len(outcomeNames))
	if f.outcomes == nil {
		return sums
	}
	for i, name := range outcomeNames {
		var c FastCount
		for s := range int(f.share) {
			c.add(f.outcomes, (s*numOutcomes+i)*outcomeSize)
		}
		sums[name] = c
	}
	return sums
}

// MappingCounters returns what a mapping has counted: in is from outside to
// inside. It is as cheap as Counters.
func (f *Fast) MappingCounters(id uint32) (in, out FastCount) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.mappingCounters(id)
}

// EachMappingCounters calls each with what mappings have counted, from ID first to
// before end, and holds up changes of the table meanwhile.
func (f *Fast) EachMappingCounters(first, end uint32, each func(id uint32, in, out FastCount)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.counts == nil {
		return
	}
	for id := first; id < min(end, f.ids); id++ {
		in, out := f.mappingCounters(id)
		each(id, in, out)
	}
}

func (f *Fast) mappingCounters(id uint32) (in, out FastCount) {
	if f.counts == nil || id >= f.ids {
		return in, out
	}
	for s := range int(f.share) {
		at := (s*int(f.ids) + int(id)) * mappingSize
		in.add(f.counts, at)
		out.add(f.counts, at+16)
	}
	return in, out
}

func (c *FastCount) add(b []byte, at int) {
	c.Packets += atomic.LoadUint64(word(b, at))
	c.Bytes += atomic.LoadUint64(word(b, at+8))
}

func word(b []byte, at int) *uint64 {
	_ = b[at+7]
	return (*uint64)(unsafe.Pointer(&b[at]))
}

func (f *Fast) clearCount(id uint32) { f.setCount(id, FastCount{}, FastCount{}) }

// setCount gives a mapping's counters a value. What a CPU counts in the same
// moment may be lost.
func (f *Fast) setCount(id uint32, in, out FastCount) {
	for s := range int(f.share) {
		at := (s*int(f.ids) + int(id)) * mappingSize
		for i, v := range []uint64{in.Packets, in.Bytes, out.Packets, out.Bytes} {
			if w := word(f.counts, at+8*i); *w != v {
				atomic.StoreUint64(w, v)
			}
		}
		in, out = FastCount{}, FastCount{}
	}
}

// moves brings counters along when mappings get other IDs.
type moves struct {
	f    *Fast
	in   map[uint32]FastCount
	out  map[uint32]FastCount
	news []uint32
}

func newMoves(f *Fast) *moves {
	return &moves{f: f, in: map[uint32]FastCount{}, out: map[uint32]FastCount{}}
}

func (m *moves) move(was, now uint32) { m.in[now], m.out[now] = m.f.mappingCounters(was) }

func (m *moves) fresh(id uint32) { m.news = append(m.news, id) }

func (m *moves) apply() {
	for _, id := range m.news {
		m.f.clearCount(id)
	}
	for id := range m.in {
		m.f.setCount(id, m.in[id], m.out[id])
	}
}
