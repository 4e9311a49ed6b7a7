package siit

import (
	"encoding/binary"
	"math/bits"
	"sync/atomic"
)

// key is an address as a number, IPv4 in the highest 32 bits, so that a prefix
// is the same bits of it in both families.
type key struct{ hi, lo uint64 }

func key4(a *addr4) key { return key{hi: uint64(binary.BigEndian.Uint32(a[:])) << 32} }

func key6(a *addr6) key {
	return key{binary.BigEndian.Uint64(a[:8]), binary.BigEndian.Uint64(a[8:])}
}

func (k key) addr4() (a addr4) {
	binary.BigEndian.PutUint32(a[:], uint32(k.hi>>32))
	return a
}

func (k key) addr6() (a addr6) {
	binary.BigEndian.PutUint64(a[:8], k.hi)
	binary.BigEndian.PutUint64(a[8:], k.lo)
	return a
}

func (k key) and(m key) key    { return key{k.hi & m.hi, k.lo & m.lo} }
func (k key) andNot(m key) key { return key{k.hi &^ m.hi, k.lo &^ m.lo} }
func (k key) or(m key) key     { return key{k.hi | m.hi, k.lo | m.lo} }

// shl and shr rely on Go's shifts by 64 and more being zero.
func (k key) shl(n uint8) key {
	if n < 64 {
		return key{k.hi<<n | k.lo>>(64-n), k.lo << n}
	}
	return key{hi: k.lo << (n - 64)}
}

func (k key) shr(n uint8) key {
	if n < 64 {
		return key{k.hi >> n, k.lo>>n | k.hi<<(64-n)}
	}
	return key{lo: k.hi >> (n - 64)}
}

func maskOf(n int) key {
	if n <= 64 {
		return key{hi: ^uint64(0) << (64 - n)}
	}
	return key{^uint64(0), ^uint64(0) << (128 - n)}
}

func (k key) hash() uint64 {
	hi, lo := bits.Mul64(k.hi^0x9e3779b97f4a7c15, k.lo^0xd1b54a32d192ed03)
	hi, lo = bits.Mul64(hi^lo^k.hi, 0xa0761d6478bd642f)
	return hi ^ lo
}

// index finds mappings by one of their sides. It says only *where to look*: a
// slot names an ID, and the record that is in force under this ID says whether
// it is meant. So a mapping changes in one atomic step, that of its record,
// while its two indexes follow at leisure: before it with what comes, after it
// with what goes.
type index struct {
	v4, inside bool
	// levels has one for each prefix length in use, longest first; replaced
	// as a whole.
	levels atomic.Pointer[[]*level]
}

// level is a hash of the prefixes of one length, in shards so that growing is
// a matter of microseconds at any size. Numbers are the writer's alone.
type level struct {
	bits   uint8
	shift  uint8
	mask   key
	live   int
	shards []atomic.Pointer[shard]
}

// shard is an open-addressing table with linear probing. A slot is the hash's
// low half and ID+1; 0 is free, tomb was used once.
type shard struct {
	used, live int
	slots      []atomic.Uint64
}

const tomb = 0xffffffff << 32

func newLevel(n uint8, v4 bool) *level {
	l := &level{bits: n, mask: maskOf(int(n)), shift: 64 - 8}
	if v4 && n == 32 || n == 128 {
		l.shift = 64 - 12
	}
	l.shards = make([]atomic.Pointer[shard], 1<<(64-l.shift))
	return l
}

func (x *index) level(n uint8) *level {
	if ls := x.levels.Load(); ls != nil {
		for _, l := range *ls {
			if l.bits == n {
				return l
			}
		}
	}
	return nil
}

// insert says that id is to be looked at for the prefix k of length n.
func (x *index) insert(k key, n uint8, id uint32) {
	l := x.level(n)
	if l == nil {
		var ls []*level
		if old := x.levels.Load(); old != nil {
			ls = append(ls, *old...)
		}
		at := 0
		for at < len(ls) && ls[at].bits > n {
			at++
		}
		l = newLevel(n, x.v4 && !x.inside)
		ls = append(ls[:at:at], append([]*level{l}, ls[at:]...)...)
		x.levels.Store(&ls)
	}
	l.live++
	h := k.hash()
	at := &l.shards[h>>l.shift]
	s := at.Load()
	if s == nil || (s.used+1)*4 > len(s.slots)*3 {
		s = s.grown()
		defer at.Store(s)
	}
	s.put(h<<32 | uint64(id+1))
}

func (s *shard) grown() *shard {
	if s == nil {
		return &shard{slots: make([]atomic.Uint64, 4)}
	}
	n := 4
	for n < 2*(s.live+1) {
		n *= 2
	}
	g := &shard{slots: make([]atomic.Uint64, n)}
	for i := range s.slots {
		if v := s.slots[i].Load(); uint32(v) != 0 {
			g.put(v)
		}
	}
	return g
}

func (s *shard) put(v uint64) {
	mask := uint64(len(s.slots) - 1)
	for i := v >> 32 & mask; ; i = (i + 1) & mask {
		was := s.slots[i].Load()
		if uint32(was) != 0 {
			continue
		}
		if was == 0 {
			s.used++
		}
		s.live++
		s.slots[i].Store(v)
		return
	}
}

// remove undoes insert.
func (x *index) remove(k key, n uint8, id uint32) {
	l := x.level(n)
	h := k.hash()
	s := l.shards[h>>l.shift].Load()
	mask, v := uint64(len(s.slots)-1), h<<32|uint64(id+1)
	for i := h & mask; ; i = (i + 1) & mask {
		if s.slots[i].Load() == v {
			s.slots[i].Store(tomb)
			s.live--
			break
		}
	}
	if s.live == 0 {
		l.shards[h>>l.shift].Store(nil)
	}
	if l.live--; l.live == 0 {
		var ls []*level
		for _, o := range *x.levels.Load() {
			if o != l {
				ls = append(ls, o)
			}
		}
		x.levels.Store(&ls)
	}
}

// exact finds the mapping of just this prefix.
func (s *store) exact(x *index, k key, n uint8) *record {
	l := x.level(n)
	if l == nil {
		return nil
	}
	r, _ := s.probe(x, l, k)
	return r
}

// probe looks on one level. stale is an ID+1 that the index named but that
// stands for something else by now (or, rarely, a collision of hashes).
func (s *store) probe(x *index, l *level, k key) (r *record, stale uint32) {
	h := k.hash()
	sh := l.shards[h>>l.shift].Load()
	if sh == nil {
		return nil, 0
	}
	mask := uint64(len(sh.slots) - 1)
	for i := h & mask; ; i = (i + 1) & mask {
		v := sh.slots[i].Load()
		if v == 0 {
			return nil, stale
		}
		if uint32(v>>32) != uint32(h) || uint32(v) == 0 {
			continue
		}
		if r := s.record(uint32(v) - 1); r != nil && r.v4 == x.v4 {
			if side, n := r.side(x.inside); side == k && n == l.bits {
				return r, 0
			}
		}
		stale = uint32(v)
	}
}

// find is the longest match.
//
// A mapping may move from a level not yet looked at to one already passed. Then either its old slot
// is found stale, or version, which is raised between a record's change and its
// old slots' removal, is not what it was; in both cases find looks again.
func (s *store) find(x *index, k key) *record {
	last := uint32(0)
	for {
		version := s.version.Load()
		var found *record
		stale := uint32(0)
		var ls []*level
		if p := x.levels.Load(); p != nil {
			ls = *p
		}
		for _, l := range ls {
			r, old := s.probe(x, l, k.and(l.mask))
			if old != 0 {
				stale = old
			}
			if r != nil {
				found = r
				break
			}
		}
		if version == s.version.Load() && (stale == 0 || stale == last) {
			return found
		}
		last = stale
	}
}
