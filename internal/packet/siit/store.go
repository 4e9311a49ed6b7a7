package siit

import (
	"cmp"
	"fmt"
	"iter"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
)

// record is one mapping. It never changes; another takes its place.
type record struct {
	out, in      key
	id           uint32
	obits, ibits uint8
	v4           bool // out is IPv4
}

func (r *record) side(inside bool) (key, uint8) {
	if inside {
		return r.in, r.ibits
	}
	return r.out, r.obits
}

// inward and outward translate an address that the mapping covers (RFC 7757
// §3.3): what follows the one prefix is put behind the other, zeros behind it,
// and what is too much falls off.
func (r *record) inward(k key) key {
	if r.ibits == 128 {
		return r.in
	}
	if !r.v4 {
		return r.in.or(k.andNot(maskOf(int(r.obits))))
	}
	return r.in.or(k.shl(r.obits).shr(r.ibits))
}

func (r *record) outward(k key) key {
	if !r.v4 {
		return r.out.or(k.andNot(maskOf(int(r.ibits))))
	}
	k = k.shl(r.ibits).shr(r.obits)
	return r.out.or(key{hi: k.hi &^ 0xffffffff})
}

func (r *record) entry() Entry {
	e := Entry{ID: r.id, Inside: netip.PrefixFrom(netip.AddrFrom16(r.in.addr6()), int(r.ibits))}
	if r.v4 {
		e.Outside = netip.PrefixFrom(netip.AddrFrom4(r.out.addr4()), int(r.obits))
	} else {
		e.Outside = netip.PrefixFrom(netip.AddrFrom16(r.out.addr6()), int(r.obits))
	}
	return e
}

// store holds the mappings. Readers take no lock; writers take mu.
type store struct {
	out4, in4, out6, in6 index

	version atomic.Uint64
	live    atomic.Int64
	chunks  atomic.Pointer[[]*chunk]

	mu   sync.Mutex
	next uint32   // the lowest ID never used
	free []uint32 // IDs to be used again
	slab []record // records allocated and not yet used
}

type chunk [1024]atomic.Pointer[record]

func newStore() *store {
	s := &store{}
	s.out4.v4, s.in4.v4 = true, true
	s.in4.inside, s.in6.inside = true, true
	return s
}

// record returns what is in force under the ID.
func (s *store) record(id uint32) *record {
	p := s.chunks.Load()
	if p == nil || int(id/1024) >= len(*p) {
		return nil
	}
	return (*p)[id/1024][id%1024].Load()
}

func (s *store) indexes(v4 bool) (out, in *index) {
	if v4 {
		return &s.out4, &s.in4
	}
	return &s.out6, &s.in6
}

// add puts a record in force, in the place of old if there is one. more is how
// many others are to come.
func (s *store) add(r record, old *record, more int) *record {
	if len(s.slab) == 0 {
		s.slab = make([]record, min(more+1, 256))
	}
	p := &s.slab[0]
	s.slab = s.slab[1:]
	switch n := len(s.free); {
	case old != nil:
		r.id = old.id
	case n > 0:
		r.id = s.free[n-1]
		s.free = s.free[:n-1]
	default:
		r.id = s.next
		s.next++
		var cs []*chunk
		if c := s.chunks.Load(); c != nil {
			cs = *c
		}
		if int(r.id/1024) == len(cs) {
			cs = append(slices.Clip(cs), new(chunk))
			s.chunks.Store(&cs)
		}
	}
	*p = r
	out, in := s.indexes(r.v4)
	moved := old == nil || old.in != r.in || old.ibits != r.ibits
	if moved {
		in.insert(r.in, r.ibits, r.id)
	}
	if old == nil {
		out.insert(r.out, r.obits, r.id)
		s.live.Add(1)
	}
	(*s.chunks.Load())[r.id/1024][r.id%1024].Store(p)
	s.version.Add(1)
	if old != nil && moved {
		in.remove(old.in, old.ibits, old.id)
	}
	return p
}

func (s *store) remove(r *record) {
	out, in := s.indexes(r.v4)
	(*s.chunks.Load())[r.id/1024][r.id%1024].Store(nil)
	s.version.Add(1)
	out.remove(r.out, r.obits, r.id)
	in.remove(r.in, r.ibits, r.id)
	s.live.Add(-1)
	s.free = append(s.free, r.id)
}

// Entry is a mapping in force. ID is the index of its counters: dense, unique
// among those in force, used again after a removal. Outside is IPv4 (RFC 7757)
// or IPv6 (one to one); Inside is always IPv6.
type Entry struct {
	ID              uint32
	Outside, Inside netip.Prefix
}

// NoEntry is the ID of no entry.
const NoEntry = ^uint32(0)

// Pair is a mapping to be made.
type Pair struct{ Outside, Inside netip.Prefix }

// Changes are, in this order, the removal of mappings named by their Outside and
// the setting of others. To set an Outside that is in force replaces its Inside
// and keeps its ID.
type Changes struct {
	Remove []netip.Prefix
	Set    []Pair
}

// Update makes changes while others translate: each mapping changes atomically,
// one after the other. All are checked first, against what will be in force at
// the end; errors name the field (`set[3].inside: …`), wrap a sentinel error, and
// mean that nothing has changed. It returns what went (for a replaced mapping, too:
// as it was) and what was set.
func (t *Table) Update(c Changes) (removed, set []Entry, err error) {
	s := t.store
	s.mu.Lock()
	defer s.mu.Unlock()
	p, err := t.plan(c)
	if err != nil {
		return nil, nil, err
	}
	removed, set = make([]Entry, 0, len(p.remove)), make([]Entry, 0, len(p.set))
	for _, r := range p.remove {
		removed = append(removed, r.entry())
		s.remove(r)
	}
	for i, r := range p.set {
		old := s.exactOutside(&r)
		if old != nil {
			if old.in == r.in && old.ibits == r.ibits {
				set = append(set, old.entry())
				continue
			}
			removed = append(removed, old.entry())
		}
		set = append(set, s.add(r, old, len(p.set)-i-1).entry())
	}
	return removed, set, nil
}

func (s *store) exactOutside(r *record) *record {
	out, _ := s.indexes(r.v4)
	return s.exact(out, r.out, r.obits)
}

func (s *store) exactInside(r *record) *record {
	_, in := s.indexes(r.v4)
	return s.exact(in, r.in, r.ibits)
}

type plan struct {
	remove []*record
	set    []record
}

type sided struct {
	k  key
	n  uint8
	v4 bool
}

// plan checks changes against what will be in force.
func (t *Table) plan(c Changes) (p plan, err error) {
	s := t.store
	gone := make(map[*record]bool, len(c.Remove))
	for i, o := range c.Remove {
		r, err := outsideOf(o)
		old := s.exactOutside(&r)
		if err != nil || old == nil {
			return p, fmt.Errorf("remove[%d]: %w %v", i, ErrNotMapped, o)
		}
		if gone[old] {
			return p, fmt.Errorf("remove[%d]: %w %v: is removed before", i, ErrDuplicate, o)
		}
		gone[old] = true
		p.remove = append(p.remove, old)
	}
	name := func(i int) (string, string) {
		return fmt.Sprintf("set[%d].outside", i), fmt.Sprintf("set[%d].inside", i)
	}
	outs, ins := make(map[sided]int32, len(c.Set)), make(map[sided]int32, len(c.Set))
	p.set = make([]record, 0, len(c.Set))
	sweep, six, wide := false, false, false
	for i, m := range c.Set {
		r, err := t.check(m, i, name)
		if err != nil {
			return p, err
		}
		o, in := sided{r.out, r.obits, r.v4}, sided{r.in, r.ibits, r.v4}
		if j, dup := outs[o]; dup {
			fo, _ := name(i)
			return p, fmt.Errorf("%s: %w %v: also set[%d]", fo, ErrDuplicate, m.Outside, j)
		}
		if j, dup := ins[in]; dup {
			_, fi := name(i)
			return p, fmt.Errorf("%s: %w %v: also set[%d]", fi, ErrDuplicate, m.Inside, j)
		}
		outs[o], ins[in] = int32(i), int32(i)
		if old := s.exactOutside(&r); old != nil {
			gone[old] = true
		}
		p.set = append(p.set, r)
		sweep = sweep || t.crosses(&r)
		six, wide = six || !r.v4, wide || r.ibits != 128
	}
	sweep = sweep || six && wide
	for i := range p.set {
		r := &p.set[i]
		if old := s.exactInside(r); old != nil && !gone[old] {
			_, fi := name(i)
			return p, fmt.Errorf("%s: %w %v: is that of %v", fi, ErrDuplicate, c.Set[i].Inside, old.entry().Outside)
		}
		if !r.v4 && !sweep {
			_, a := ins[sided{r.out, 128, true}]
			_, b := ins[sided{r.out, 128, false}]
			sweep = a || b
		}
	}
	if !sweep {
		return p, nil
	}
	if i, x := s.sweep(gone, p.set); x != nil {
		fo, fi := name(i)
		if x.outside {
			fi = fo
		}
		return p, fmt.Errorf("%s: %w", fi, x.error)
	}
	return p, nil
}

// crosses tells whether a new mapping may put an address on both sides: a cheap
// look that may be wrong in one direction, for sweep to decide.
func (t *Table) crosses(r *record) bool {
	s := t.store
	if !r.v4 {
		if r.obits != 128 || s.find(&s.in4, r.out) != nil || s.find(&s.in6, r.out) != nil {
			return true
		}
	}
	ls := s.out6.levels.Load()
	if r.ibits != 128 {
		return !r.v4 || ls != nil && len(*ls) > 0
	}
	return s.find(&s.out6, r.in) != nil
}

type crossing struct {
	error
	outside bool
}

// sweep looks for IPv6 addresses that would be outside and inside at once: such
// a packet would be translated twice, or for ever. It returns the number of the new
// mapping to blame.
func (s *store) sweep(gone map[*record]bool, set []record) (int, *crossing) {
	type place struct {
		k       key
		n       uint8
		outside bool
		i       int
	}
	var all []place
	put := func(r *record, i int) {
		if !r.v4 {
			all = append(all, place{r.out, r.obits, true, i})
		}
		all = append(all, place{r.in, r.ibits, false, i})
	}
	for _, r := range s.records() {
		if !gone[r] {
			put(r, -1)
		}
	}
	for i := range set {
		put(&set[i], i)
	}
	slices.SortFunc(all, func(a, b place) int {
		return cmp.Or(cmp.Compare(a.k.hi, b.k.hi), cmp.Compare(a.k.lo, b.k.lo), cmp.Compare(a.n, b.n))
	})
	var stack []place
	for _, p := range all {
		for len(stack) > 0 {
			top := stack[len(stack)-1]
			if p.k.and(maskOf(int(top.n))) == top.k {
				break
			}
			stack = stack[:len(stack)-1]
		}
		for _, o := range stack {
			if o.outside == p.outside {
				continue
			}
			blame, other := p, o
			if blame.i < o.i {
				blame, other = o, p
			}
			where := "an inside"
			if other.outside {
				where = "an outside"
			}
			return blame.i, &crossing{fmt.Errorf("%w %v: is also %s address (%v)", ErrDuplicate,
				prefix6(blame.k, blame.n), where, prefix6(other.k, other.n)), blame.outside}
		}
		stack = append(stack, p)
	}
	return 0, nil
}

func prefix6(k key, n uint8) netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom16(k.addr6()), int(n))
}

// records iterates by ID, without looking at the records.
func (s *store) records() iter.Seq2[uint32, *record] {
	return func(yield func(uint32, *record) bool) {
		p := s.chunks.Load()
		if p == nil {
			return
		}
		for n, c := range *p {
			for i := range c {
				if r := c[i].Load(); r != nil && !yield(uint32(n*len(c)+i), r) {
					return
				}
			}
		}
	}
}

// Entries iterates over the mappings in force, by ID. Those that change meanwhile
// may or may not be among them.
func (t *Table) Entries() iter.Seq[Entry] {
	return func(yield func(Entry) bool) {
		for _, r := range t.store.records() {
			if !yield(r.entry()) {
				return
			}
		}
	}
}

// IDs iterates over the IDs of the mappings in force, in their order, without
// looking at the mappings: for who has something else by ID. As Entries otherwise.
func (t *Table) IDs() iter.Seq[uint32] {
	return func(yield func(uint32) bool) {
		for id := range t.store.records() {
			if !yield(id) {
				return
			}
		}
	}
}

// Entry returns the mapping that has an ID now; false: none has.
func (t *Table) Entry(id uint32) (Entry, bool) {
	r := t.store.record(id)
	if r == nil {
		return Entry{}, false
	}
	return r.entry(), true
}

// Len is the number of mappings in force.
func (t *Table) Len() int { return int(t.store.live.Load()) }

// Lookup finds the longest match of an outside or an inside address. An inside
// address may have two mappings of the same length, one of each family: then it is
// the IPv4 one.
func (t *Table) Lookup(a netip.Addr) (Entry, bool) {
	s := t.store
	var best *record
	if a.Is4() {
		k := a.As4()
		best = s.find(&s.out4, key4(&k))
	} else if a.Is6() {
		b := a.As16()
		k := key6(&b)
		length := uint8(0)
		for _, x := range []*index{&s.out6, &s.in4, &s.in6} {
			if r := s.find(x, k); r != nil {
				if _, n := r.side(x.inside); best == nil || n > length {
					best, length = r, n
				}
			}
		}
	}
	if best == nil {
		return Entry{}, false
	}
	return best.entry(), true
}
