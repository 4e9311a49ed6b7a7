package netio

import (
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"net/netip"
	"sync"
)

// FastEntry is a mapping with the index of its counters, which has to be below
// MaxMappings + MaxMappings66 + MaxPrefixes, as FastSpec has them. Outside IPv4: Inside is IPv6, each a single address
// or, with suffixes of whatever length, a prefix (RFC 7757). Outside IPv6: both
// are single addresses, or prefixes of the same length, translated 1:1.
type FastEntry struct {
	ID              uint32
	Outside, Inside netip.Prefix
}

// The same as in bpf/table.h.
type (
	fastPair struct {
		In        [16]byte
		Out       [4]byte
		ID, Check uint32
		Zero      uint32
	}
	fastSix struct {
		Self, Other             [16]byte
		ID, Inside, Check, Zero uint32
	}
	fastPrefix struct {
		Hi, Lo                  uint64
		Out, ID, OutMask, Shift uint32
	}
	fastPrefix66 struct {
		Other      [16]byte
		Mask       [16]byte
		ID, Inside uint32
	}
	fastKey4 struct {
		Bits uint32
		Addr [4]byte
	}
	fastKey6 struct {
		Bits uint32
		Addr [16]byte
	}
)

const (
	mix1 = 0x9e3779b97f4a7c15
	mix2 = 0xbf58476d1ce4e5b9
	mix3 = 0x94d049bb133111eb
)

func newPair(e FastEntry) fastPair {
	p := fastPair{In: e.Inside.Addr().As16(), Out: e.Outside.Addr().As4(), ID: e.ID}
	w := words(p.In)
	p.Check = uint32(((w[0]*mix1^w[1])*mix2^(uint64(binary.NativeEndian.Uint32(p.Out[:]))<<32|uint64(p.ID)))*mix3>>32) | 1
	return p
}

func newSix(self, other netip.Addr, id, inside uint32) fastSix {
	s := fastSix{Self: self.As16(), Other: other.As16(), ID: id, Inside: inside}
	a, c := words(s.Self), words(s.Other)
	x := (a[0]*mix1 ^ a[1]) * mix2
	x = ((x^x>>32^c[0])*mix1 ^ c[1]) * mix2
	s.Check = uint32((x^x>>32^(uint64(inside)<<32|uint64(id)))*mix3>>32) | 1
	return s
}

func newPrefix(e FastEntry) fastPrefix {
	out := e.Outside.Addr().As4()
	p := fastPrefix{Out: binary.BigEndian.Uint32(out[:]), ID: e.ID, OutMask: uint32(1<<(32-e.Outside.Bits()) - 1)}
	p.Hi, p.Lo = halves(e.Inside.Addr())
	p.Shift = uint32(128 - e.Inside.Bits() - (32 - e.Outside.Bits()))
	return p
}

func newPrefix66(other netip.Prefix, id, inside uint32) fastPrefix66 {
	p := fastPrefix66{Other: other.Addr().As16(), ID: id, Inside: inside}
	hi, lo := masks(other.Bits())
	binary.BigEndian.PutUint64(p.Mask[:], hi)
	binary.BigEndian.PutUint64(p.Mask[8:], lo)
	return p
}

// tables are the kernel's tables.
type tables struct {
	to6      fastStore[[4]byte, fastPair]
	to4      fastStore[[16]byte, fastPair]
	six      *cuckoo[[16]byte, fastSix]
	prefix6  fastStore[fastKey4, fastPrefix]
	prefix4  fastStore[fastKey6, fastPrefix]
	prefix66 fastStore[fastKey6, fastPrefix66]
}

// fastStore is one of them.
type fastStore[K, V comparable] interface {
	get(K) (V, bool, error)
	put(K, V) error // ErrFull
	del(K) error    // also if there is none
	each(func(K, V)) error
}

func (f *Fast) openTables(to6, to4, six []byte) {
	n4, n6 := f.spec.MaxMappings, 2*f.spec.MaxMappings66
	f.tables = tables{
		newCuckoo(to6, n4, func(p *fastPair) ([4]byte, uint32) { return p.Out, p.Check }, hash4),
		newCuckoo(to4, n4, func(p *fastPair) ([16]byte, uint32) { return p.In, p.Check }, hash6),
		newCuckoo(six, n6, func(s *fastSix) ([16]byte, uint32) { return s.Self, s.Check }, hash6),
		trie[fastKey4, fastPrefix]{f.maps["prefix6"]}, trie[fastKey6, fastPrefix]{f.maps["prefix4"]}, trie[fastKey6, fastPrefix66]{f.maps["prefix66"]},
	}
}

// table is one table's share of a change.
type table[K comparable, V comparable] struct {
	keys []K
	vals []V
	old  []K // to delete
}

func (t *table[K, V]) set(k K, v V) { t.keys, t.vals = append(t.keys, k), append(t.vals, v) }

func (t *table[K, V]) put(s fastStore[K, V]) error {
	for i, k := range t.keys {
		if err := s.put(k, t.vals[i]); err != nil {
			return err
		}
	}
	return nil
}

func (t *table[K, V]) drop(s fastStore[K, V]) error {
	for _, k := range t.old {
		if err := s.del(k); err != nil {
			return err
		}
	}
	return nil
}

// change is a change of all tables.
type change struct {
	to6     table[[4]byte, fastPair]
	to4     table[[16]byte, fastPair]
	six     table[[16]byte, fastSix]
	prefix6 table[fastKey4, fastPrefix]
	prefix4 table[fastKey6, fastPrefix]
	p66     table[fastKey6, fastPrefix66]
}

// put writes the ways back first: who answers has to be known before who asks.
func (c *change) put(t *tables) error {
	return errors.Join(c.to4.put(t.to4), c.to6.put(t.to6), c.six.put(t.six), c.prefix4.put(t.prefix4), c.prefix6.put(t.prefix6), c.p66.put(t.prefix66))
}

func (c *change) drop(t *tables) error {
	return errors.Join(c.to6.drop(t.to6), c.to4.drop(t.to4), c.six.drop(t.six), c.prefix6.drop(t.prefix6), c.prefix4.drop(t.prefix4), c.p66.drop(t.prefix66))
}

func key6(p netip.Prefix) fastKey6 { return fastKey6{uint32(p.Bits()), p.Addr().As16()} }

// add sorts an entry into the tables that it needs.
func (c *change) add(e FastEntry) {
	in, out := e.Inside.Addr(), e.Outside.Addr()
	if out.Is6() && !e.Outside.IsSingleIP() {
		c.p66.set(key6(e.Outside), newPrefix66(e.Inside, e.ID, 0))
		c.p66.set(key6(e.Inside), newPrefix66(e.Outside, e.ID, 1))
		return
	}
	if out.Is6() {
		c.six.set(out.As16(), newSix(out, in, e.ID, 0))
		c.six.set(in.As16(), newSix(in, out, e.ID, 1))
		return
	}
	if e.Outside.IsSingleIP() {
		c.to6.set(out.As4(), newPair(e))
	} else {
		c.prefix6.set(fastKey4{uint32(e.Outside.Bits()), out.As4()}, newPrefix(e))
	}
	if e.Inside.IsSingleIP() {
		c.to4.set(in.As16(), newPair(e))
	} else {
		c.prefix4.set(key6(e.Inside), newPrefix(e))
	}
}

// forget lists an entry's keys for deletion.
func (c *change) forget(e FastEntry) {
	in, out := e.Inside.Addr(), e.Outside.Addr()
	if out.Is6() && !e.Outside.IsSingleIP() {
		c.p66.old = append(c.p66.old, key6(e.Outside), key6(e.Inside))
		return
	}
	if out.Is6() {
		c.six.old = append(c.six.old, out.As16(), in.As16())
		return
	}
	if e.Outside.IsSingleIP() {
		c.to6.old = append(c.to6.old, out.As4())
	} else {
		c.prefix6.old = append(c.prefix6.old, fastKey4{uint32(e.Outside.Bits()), out.As4()})
	}
	c.forgetInside(e)
}

func (c *change) forgetInside(e FastEntry) {
	in := e.Inside.Addr()
	if e.Inside.IsSingleIP() {
		c.to4.old = append(c.to4.old, in.As16())
	} else {
		c.prefix4.old = append(c.prefix4.old, key6(e.Inside))
	}
}

func (f *Fast) check(entries []FastEntry) error {
	for i, e := range entries {
		switch {
		case !e.Outside.IsValid() || !e.Inside.IsValid() || e.Outside.Masked() != e.Outside || e.Inside.Masked() != e.Inside || !e.Inside.Addr().Is6():
			return fmt.Errorf("entry %d: %v to %v is not a mapping", i, e.Outside, e.Inside)
		case e.Outside.Addr().Is6() && e.Outside.Bits() != e.Inside.Bits():
			return fmt.Errorf("entry %d: %v to %v: IPv6 prefixes have the same length", i, e.Outside, e.Inside)
		case e.Outside.Addr().Is4() && 32-e.Outside.Bits() > 128-e.Inside.Bits():
			return fmt.Errorf("entry %d: %v to %v: the IPv6 prefix has no room for the IPv4 suffix (RFC 7757 §3.2)", i, e.Outside, e.Inside)
		case e.ID >= f.ids:
			return fmt.Errorf("entry %d: %v: %w: id %d is not below %d", i, e.Outside, ErrFull, e.ID, f.ids)
		}
	}
	return nil
}

// Set adds mappings, or replaces those of the same Outside; the Outsides of one
// call differ. Each packet sees a mapping as it was or as it is. The counters of
// new mappings begin at zero. ErrFull if there is no room; some of the entries
// may be set then.
func (f *Fast) Set(entries []FastEntry) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.open(); err != nil {
		return err
	}
	if err := f.check(entries); err != nil {
		return fmt.Errorf("set mappings: %w", err)
	}
	if err := f.set(entries); err != nil {
		return fmt.Errorf("set mappings: %w", err)
	}
	return nil
}

func (f *Fast) set(entries []FastEntry) error {
	c := &change{}
	var stale []FastEntry
	k := f.kinds
	for _, e := range entries {
		k.add(e)
		c.add(e)
		have, ok, err := f.lookup(e.Outside)
		if err != nil {
			return err
		}
		if !ok || have.ID != e.ID {
			f.clearCount(e.ID)
		}
		if ok && have.Inside != e.Inside {
			stale = append(stale, have)
		}
	}
	if err := c.put(&f.tables); err != nil {
		return err
	}
	if err := f.dropInsides(stale); err != nil {
		return err
	}
	return f.announce(k)
}

// dropInsides removes the ways back of mappings that have another inside now,
// but not where another mapping has taken the address meanwhile.
func (f *Fast) dropInsides(stale []FastEntry) error {
	c, t := &change{}, &f.tables
	for _, e := range stale {
		in, ok := e.Inside.Addr().As16(), false
		var err error
		switch {
		case e.Outside.Addr().Is6() && !e.Outside.IsSingleIP():
			var p fastPrefix66
			if p, ok, err = t.prefix66.get(key6(e.Inside)); ok && p == newPrefix66(e.Outside, e.ID, 1) {
				c.p66.old = append(c.p66.old, key6(e.Inside))
			}
		case e.Outside.Addr().Is6():
			var s fastSix
			if s, ok, err = t.six.get(in); ok && s.Inside == 1 && s.Other == e.Outside.Addr().As16() {
				c.six.old = append(c.six.old, in)
			}
		case e.Inside.IsSingleIP():
			var p fastPair
			if p, ok, err = t.to4.get(in); ok && p.ID == e.ID {
				c.to4.old = append(c.to4.old, in)
			}
		default:
			var p fastPrefix
			if p, ok, err = t.prefix4.get(key6(e.Inside)); ok && p == newPrefix(e) {
				c.prefix4.old = append(c.prefix4.old, key6(e.Inside))
			}
		}
		if err != nil {
			return err
		}
	}
	return c.drop(t)
}

// lookup returns the mapping of exactly this Outside.
func (f *Fast) lookup(outside netip.Prefix) (e FastEntry, ok bool, err error) {
	t := &f.tables
	switch a := outside.Addr(); {
	case a.Is6() && !outside.IsSingleIP():
		// A lookup gives the longest match, which may be shorter.
		var p fastPrefix66
		p, ok, err = t.prefix66.get(key6(outside))
		e = FastEntry{p.ID, outside, netip.PrefixFrom(netip.AddrFrom16(p.Other), outside.Bits())}
		hi, lo := masks(outside.Bits())
		ok = ok && p.Inside == 0 && binary.BigEndian.Uint64(p.Mask[:]) == hi && binary.BigEndian.Uint64(p.Mask[8:]) == lo
	case a.Is6():
		var s fastSix
		s, ok, err = t.six.get(a.As16())
		e = FastEntry{s.ID, outside, netip.PrefixFrom(netip.AddrFrom16(s.Other), 128)}
		ok = ok && s.Inside == 0
	case outside.IsSingleIP():
		var p fastPair
		p, ok, err = t.to6.get(a.As4())
		e = FastEntry{p.ID, outside, netip.PrefixFrom(netip.AddrFrom16(p.In), 128)}
		if ok && f.kinds.prefixes {
			// A single IPv4 address may stand for an IPv6 prefix, whose length only the
			// way back knows.
			var back fastPrefix
			if back, ok, err = t.prefix4.get(fastKey6{128, p.In}); ok && back.ID == p.ID {
				e.Inside = back.inside()
			}
			ok = true
		}
	default:
		var p fastPrefix
		p, ok, err = t.prefix6.get(fastKey4{uint32(outside.Bits()), a.As4()})
		e = FastEntry{p.ID, outside, p.inside()}
		ok = ok && p.OutMask == uint32(1<<(32-outside.Bits())-1)
	}
	return e, ok && err == nil, err
}

func (p fastPrefix) inside() netip.Prefix {
	var a [16]byte
	binary.BigEndian.PutUint64(a[:], p.Hi)
	binary.BigEndian.PutUint64(a[8:], p.Lo)
	suffix := 0
	for m := p.OutMask; m != 0; m >>= 1 {
		suffix++
	}
	return netip.PrefixFrom(netip.AddrFrom16(a), 128-int(p.Shift)-suffix)
}

// Remove takes mappings away; those that are not there are passed over.
func (f *Fast) Remove(entries []FastEntry) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.open(); err != nil {
		return err
	}
	if err := f.check(entries); err != nil {
		return fmt.Errorf("remove mappings: %w", err)
	}
	c := &change{}
	for _, e := range entries {
		c.forget(e)
	}
	if err := c.drop(&f.tables); err != nil {
		return fmt.Errorf("remove mappings: %w", err)
	}
	return nil
}

// Sync makes the tables equal to want, without a moment in which a mapping that
// is wanted and was there is not. What a mapping has counted stays with it, also
// if its ID is another now. Programs that were adopted without their tables turn
// to the new ones.
func (f *Fast) Sync(want iter.Seq[FastEntry]) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.open(); err != nil {
		return err
	}
	if err := f.sync(want); err != nil {
		return fmt.Errorf("sync mappings: %w", err)
	}
	return nil
}

func (f *Fast) sync(want iter.Seq[FastEntry]) error {
	c := &change{}
	var k kinds
	n := 0
	for e := range want {
		if err := f.check([]FastEntry{e}); err != nil {
			return fmt.Errorf("mapping %d: %w", n, err)
		}
		n++
		k.add(e)
		c.add(e)
	}
	m, t := newMoves(f), &f.tables
	if err := errors.Join(
		reconcile(t.to6, &c.to6, func(v fastPair) (uint32, bool) { return v.ID, true }, m),
		reconcile(t.to4, &c.to4, func(v fastPair) (uint32, bool) { return v.ID, false }, m),
		reconcile[[16]byte, fastSix](t.six, &c.six, func(v fastSix) (uint32, bool) { return v.ID, v.Inside == 0 }, m),
		reconcile(t.prefix6, &c.prefix6, func(v fastPrefix) (uint32, bool) { return v.ID, true }, m),
		reconcile(t.prefix4, &c.prefix4, func(v fastPrefix) (uint32, bool) { return v.ID, false }, m),
		reconcile(t.prefix66, &c.p66, func(v fastPrefix66) (uint32, bool) { return v.ID, v.Inside == 0 }, m),
	); err != nil {
		return err
	}
	err := c.put(&f.tables)
	if errors.Is(err, ErrFull) {
		// What is no longer wanted stands in the way.
		if err = c.drop(&f.tables); err == nil {
			err = c.put(&f.tables)
		}
	}
	if err != nil {
		return err
	}
	if err := f.announce(k); err != nil {
		return err
	}
	if err := c.drop(&f.tables); err != nil {
		return err
	}
	m.apply()
	return f.commit()
}

// reconcile takes out of t what the kernel's table has already, and lists for
// deletion what it should not have.
func reconcile[K, V comparable](have fastStore[K, V], t *table[K, V], id func(V) (uint32, bool), m *moves) error {
	// Of no use, and dear, for a table that is empty yet.
	at := sync.OnceValue(func() map[K]int {
		at := make(map[K]int, len(t.keys))
		for i, k := range t.keys {
			at[k] = i
		}
		return at
	})
	done := make([]bool, len(t.keys))
	seen := make([]bool, len(t.keys))
	if err := have.each(func(k K, v V) {
		i, ok := at()[k]
		if !ok {
			t.old = append(t.old, k)
			return
		}
		done[i] = t.vals[i] == v && (!seen[i] || done[i]) // a kill may have left it twice
		seen[i] = true
		if was, owner := id(v); owner {
			if now, _ := id(t.vals[i]); now != was {
				m.move(was, now)
			}
		}
	}); err != nil {
		return err
	}
	n := 0
	for i := range t.keys {
		if !seen[i] {
			if now, owner := id(t.vals[i]); owner {
				m.fresh(now)
			}
		}
		if !done[i] {
			t.keys[n], t.vals[n] = t.keys[i], t.vals[i]
			n++
		}
	}
	t.keys, t.vals = t.keys[:n], t.vals[:n]
	return nil
}
