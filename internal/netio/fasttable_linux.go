package netio

import (
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"net/netip"
	"syscall"

	"github.com/cilium/ebpf"
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
	p.Check = uint32(((w[0]*mix1^w[1])*mix2 ^ (uint64(binary.NativeEndian.Uint32(p.Out[:]))<<32 | uint64(p.ID))) * mix3 >> 32)
	return p
}

func newSix(self, other netip.Addr, id, inside uint32) fastSix {
	s := fastSix{Self: self.As16(), Other: other.As16(), ID: id, Inside: inside}
	a, c := words(s.Self), words(s.Other)
	x := (a[0]*mix1 ^ a[1]) * mix2
	x = ((x^x>>32^c[0])*mix1 ^ c[1]) * mix2
	s.Check = uint32((x ^ x>>32 ^ (uint64(inside)<<32 | uint64(id))) * mix3 >> 32)
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

// table is one map's share of a change.
type table[K comparable, V comparable] struct {
	name string
	keys []K
	vals []V
	old  []K // to delete
}

func (t *table[K, V]) set(k K, v V) { t.keys, t.vals = append(t.keys, k), append(t.vals, v) }

const batch = 4096

// put writes what is to be set, batch by batch.
func (t *table[K, V]) put(m *ebpf.Map) error {
	single := m.Type() == ebpf.LPMTrie // has batches only since 5.13
	for keys, vals := t.keys, t.vals; len(keys) > 0; {
		n := min(batch, len(keys))
		var err error
		if single {
			n = 1
			err = m.Put(keys[0], vals[0])
		} else {
			_, err = m.BatchUpdate(keys[:n], vals[:n], nil)
		}
		if errors.Is(err, syscall.E2BIG) || errors.Is(err, syscall.ENOSPC) {
			return fmt.Errorf("%w: %s holds %d", ErrFull, t.name, m.MaxEntries())
		}
		if err != nil {
			return fmt.Errorf("update %s: %w", t.name, err)
		}
		keys, vals = keys[n:], vals[n:]
	}
	return nil
}

// drop deletes t.old, also if some are not there.
func (t *table[K, V]) drop(m *ebpf.Map) error {
	for _, k := range t.old {
		if err := m.Delete(k); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("delete from %s: %w", t.name, err)
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

func newChange() *change {
	c := &change{}
	c.to6.name, c.to4.name, c.six.name, c.prefix6.name, c.prefix4.name, c.p66.name = "to6", "to4", "six", "prefix6", "prefix4", "prefix66"
	return c
}

func (c *change) put(f *Fast) error {
	return errors.Join(c.to4.put(f.maps["to4"]), c.to6.put(f.maps["to6"]), c.six.put(f.maps["six"]),
		c.prefix4.put(f.maps["prefix4"]), c.prefix6.put(f.maps["prefix6"]), c.p66.put(f.maps["prefix66"]))
}

func (c *change) drop(f *Fast) error {
	return errors.Join(c.to6.drop(f.maps["to6"]), c.to4.drop(f.maps["to4"]), c.six.drop(f.maps["six"]),
		c.prefix6.drop(f.maps["prefix6"]), c.prefix4.drop(f.maps["prefix4"]), c.p66.drop(f.maps["prefix66"]))
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
	c := newChange()
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
	f.empty = false
	if err := c.put(f); err != nil {
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
	c := newChange()
	for _, e := range stale {
		in := e.Inside.Addr().As16()
		switch {
		case e.Outside.Addr().Is6() && !e.Outside.IsSingleIP():
			var p fastPrefix66
			if err := f.maps["prefix66"].Lookup(key6(e.Inside), &p); err == nil && p == newPrefix66(e.Outside, e.ID, 1) {
				c.p66.old = append(c.p66.old, key6(e.Inside))
			}
		case e.Outside.Addr().Is6():
			var s fastSix
			if err := f.maps["six"].Lookup(in, &s); err == nil && s.Inside == 1 && s.Other == e.Outside.Addr().As16() {
				c.six.old = append(c.six.old, in)
			}
		case e.Inside.IsSingleIP():
			var p fastPair
			if err := f.maps["to4"].Lookup(in, &p); err == nil && p.ID == e.ID {
				c.to4.old = append(c.to4.old, in)
			}
		default:
			var p fastPrefix
			if err := f.maps["prefix4"].Lookup(key6(e.Inside), &p); err == nil && p == newPrefix(e) {
				c.prefix4.old = append(c.prefix4.old, key6(e.Inside))
			}
		}
	}
	return c.drop(f)
}

// lookup returns the mapping of exactly this Outside.
func (f *Fast) lookup(outside netip.Prefix) (e FastEntry, ok bool, err error) {
	if f.empty {
		return e, false, nil
	}
	e.Outside = outside
	switch {
	case outside.Addr().Is6() && !outside.IsSingleIP():
		// A lookup gives the longest match, which may be shorter.
		var p fastPrefix66
		hi, lo := masks(outside.Bits())
		if err = f.maps["prefix66"].Lookup(key6(outside), &p); err == nil && p.Inside == 0 &&
			binary.BigEndian.Uint64(p.Mask[:]) == hi && binary.BigEndian.Uint64(p.Mask[8:]) == lo {
			e.ID, e.Inside, ok = p.ID, netip.PrefixFrom(netip.AddrFrom16(p.Other), outside.Bits()), true
		}
	case outside.Addr().Is6():
		var s fastSix
		if err = f.maps["six"].Lookup(outside.Addr().As16(), &s); err == nil && s.Inside == 0 {
			e.ID, e.Inside, ok = s.ID, netip.PrefixFrom(netip.AddrFrom16(s.Other), 128), true
		}
	case outside.IsSingleIP():
		var p fastPair
		if err = f.maps["to6"].Lookup(outside.Addr().As4(), &p); err == nil {
			e.ID, e.Inside, ok = p.ID, f.insideOf(p), true
		}
	default:
		var p fastPrefix
		k := fastKey4{uint32(outside.Bits()), outside.Addr().As4()}
		if err = f.maps["prefix6"].Lookup(k, &p); err == nil && p.OutMask == uint32(1<<(32-outside.Bits())-1) {
			e.ID, e.Inside, ok = p.ID, p.inside(), true
		}
	}
	if errors.Is(err, ebpf.ErrKeyNotExist) {
		err = nil
	}
	return e, ok, err
}

// insideOf is a pair's inside; a single IPv4 address may stand for an IPv6
// prefix, whose length only the way back knows.
func (f *Fast) insideOf(p fastPair) netip.Prefix {
	a := netip.AddrFrom16(p.In)
	if !f.kinds.prefixes {
		return netip.PrefixFrom(a, 128)
	}
	var v fastPrefix
	if err := f.maps["prefix4"].Lookup(fastKey6{128, p.In}, &v); err == nil && v.ID == p.ID {
		return v.inside()
	}
	return netip.PrefixFrom(a, 128)
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
	c := newChange()
	for _, e := range entries {
		c.forget(e)
	}
	if err := c.drop(f); err != nil {
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
	c := newChange()
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
	m := newMoves(f)
	if err := errors.Join(
		reconcile(f, &c.to6, func(v fastPair) (uint32, bool) { return v.ID, true }, m),
		reconcile(f, &c.to4, func(v fastPair) (uint32, bool) { return v.ID, false }, m),
		reconcile(f, &c.six, func(v fastSix) (uint32, bool) { return v.ID, v.Inside == 0 }, m),
		reconcile(f, &c.prefix6, func(v fastPrefix) (uint32, bool) { return v.ID, true }, m),
		reconcile(f, &c.prefix4, func(v fastPrefix) (uint32, bool) { return v.ID, false }, m),
		reconcile(f, &c.p66, func(v fastPrefix66) (uint32, bool) { return v.ID, v.Inside == 0 }, m),
	); err != nil {
		return err
	}
	f.empty = f.empty && n == 0
	err := c.put(f)
	if errors.Is(err, ErrFull) {
		// What is no longer wanted stands in the way.
		if err = c.drop(f); err == nil {
			err = c.put(f)
		}
	}
	if err != nil {
		return err
	}
	if err := f.announce(k); err != nil {
		return err
	}
	if err := c.drop(f); err != nil {
		return err
	}
	m.apply()
	return f.commit()
}

// reconcile takes out of t what the kernel's table has already, and lists for
// deletion what it should not have.
func reconcile[K, V comparable](f *Fast, t *table[K, V], id func(V) (uint32, bool), m *moves) error {
	if f.empty {
		for _, v := range t.vals {
			if i, owner := id(v); owner {
				m.fresh(i)
			}
		}
		return nil
	}
	at := make(map[K]int, len(t.keys))
	for i, k := range t.keys {
		at[k] = i
	}
	done := make([]bool, len(t.keys))
	seen := make([]bool, len(t.keys))
	if err := each(f.maps[t.name], func(k K, v V) {
		i, ok := at[k]
		if !ok {
			t.old = append(t.old, k)
			return
		}
		if seen[i] {
			return
		}
		seen[i] = true
		done[i] = t.vals[i] == v
		if was, owner := id(v); owner {
			if now, _ := id(t.vals[i]); now != was {
				m.move(was, now)
			}
		}
	}); err != nil {
		return fmt.Errorf("read %s: %w", t.name, err)
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

// each calls do for all that is in a map.
func each[K, V comparable](m *ebpf.Map, do func(K, V)) error {
	if m.Type() == ebpf.LPMTrie {
		var k K
		var v V
		it := m.Iterate()
		for it.Next(&k, &v) {
			do(k, v)
		}
		return it.Err()
	}
	keys, vals := make([]K, batch), make([]V, batch)
	for at := new(ebpf.MapBatchCursor); ; {
		n, err := m.BatchLookup(at, keys, vals, nil)
		if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return err
		}
		for i := range n {
			do(keys[i], vals[i])
		}
		if err != nil {
			return nil
		}
	}
}
