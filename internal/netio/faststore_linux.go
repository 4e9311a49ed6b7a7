package netio

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"syscall"
	"unsafe"

	"github.com/cilium/ebpf"
)

// slotsPerBucket is the same in bpf/table.h.
const slotsPerBucket = 4

// buckets is how many buckets a table of n entries gets: a power of two, so that
// at most four slots of five are in use.
func buckets(n int) uint32 {
	return 1 << bits.Len32(uint32((n*5/4+slotsPerBucket-1)/slotsPerBucket-1))
}

func spread(x uint64) uint64 {
	x *= mix2
	x = (x ^ x>>32) * mix3
	return x ^ x>>29
}

func hash4(a [4]byte) uint64 { return spread(uint64(binary.NativeEndian.Uint32(a[:]))) }

func hash6(a [16]byte) uint64 {
	w := words(a)
	return spread(w[0]*mix1 ^ w[1])
}

// cuckoo is a table in memory that programs read while it is written. Each entry
// is in one of two buckets. Entries carry a sum over themselves: one that a
// program sees half written is none to it.
type cuckoo[K, V comparable] struct {
	slots  []V
	mask   uint64
	n, max int
	key    func(*V) (k K, check uint32) // check 0: the slot is free
	hash   func(K) uint64
	rng    *rand.Rand
}

func newCuckoo[K, V comparable](b []byte, most int, key func(*V) (K, uint32), hash func(K) uint64) *cuckoo[K, V] {
	n := int(buckets(most))
	var v V
	c := &cuckoo[K, V]{mask: uint64(n) - 1, max: most, key: key, hash: hash, rng: rand.New(rand.NewPCG(4, 6))}
	_ = b[n*slotsPerBucket*int(unsafe.Sizeof(v))-1]
	c.slots = unsafe.Slice((*V)(unsafe.Pointer(&b[0])), n*slotsPerBucket)
	for i := range c.slots {
		if _, check := key(&c.slots[i]); check != 0 {
			c.n++
		}
	}
	return c
}

// places are the first slots of a key's two buckets.
func (c *cuckoo[K, V]) places(k K) [2]int {
	h := c.hash(k)
	return [2]int{int(h>>40&c.mask) * slotsPerBucket, int(h&c.mask) * slotsPerBucket}
}

func (c *cuckoo[K, V]) find(k K) (at int, ok bool) {
	for _, first := range c.places(k) {
		for i := first; i < first+slotsPerBucket; i++ {
			if have, check := c.key(&c.slots[i]); check != 0 && have == k {
				return i, true
			}
		}
	}
	return 0, false
}

func (c *cuckoo[K, V]) free(first int) (at int, ok bool) {
	for i := first; i < first+slotsPerBucket; i++ {
		if _, check := c.key(&c.slots[i]); check == 0 {
			return i, true
		}
	}
	return 0, false
}

func (c *cuckoo[K, V]) get(k K) (v V, ok bool, err error) {
	at, ok := c.find(k)
	if ok {
		v = c.slots[at]
	}
	return v, ok, nil
}

func (c *cuckoo[K, V]) put(k K, v V) error {
	if at, ok := c.find(k); ok {
		c.write(at, v)
		return nil
	}
	if c.n >= c.max {
		return fmt.Errorf("%w: it holds %d", ErrFull, c.max)
	}
	at, err := c.room(k)
	if err != nil {
		return err
	}
	c.write(at, v)
	c.n++
	return nil
}

// write is seen by programs as it happens.
func (c *cuckoo[K, V]) write(at int, v V) {
	c.slots[at] = v
	fence.Add(1)
}

// fence keeps writes in their order.
var fence atomic.Uint32

// room makes a slot for the key, if need be by moving others to their other
// buckets: the last one first, so that each is to be found all the while.
func (c *cuckoo[K, V]) room(k K) (int, error) {
	places := c.places(k)
	for _, first := range places {
		if at, ok := c.free(first); ok {
			return at, nil
		}
	}
	for try := range 1000 {
		first := places[try%2]
		var path []int
		for len(path) < 50 {
			at := first + c.rng.IntN(slotsPerBucket)
			if slices.Contains(path, at) {
				break
			}
			path = append(path, at)
			key, _ := c.key(&c.slots[at])
			other := c.places(key)
			if first = other[0]; first == at-at%slotsPerBucket {
				first = other[1]
			}
			if to, ok := c.free(first); ok {
				for i := len(path) - 1; i >= 0; i-- {
					c.write(to, c.slots[path[i]])
					to = path[i]
				}
				return to, nil
			}
		}
	}
	return 0, fmt.Errorf("%w: no place was found for an entry", ErrFull)
}

func (c *cuckoo[K, V]) del(k K) error {
	// A move that was cut short, by a kill, may have left it in both buckets.
	for n := 0; ; n++ {
		at, ok := c.find(k)
		if !ok {
			return nil
		}
		var none V
		c.write(at, none)
		c.n--
	}
}

func (c *cuckoo[K, V]) each(do func(K, V)) error {
	for i := range c.slots {
		if k, check := c.key(&c.slots[i]); check != 0 {
			do(k, c.slots[i])
		}
	}
	return nil
}

// trie is an LPM trie of the kernel's.
type trie[K, V comparable] struct{ m *ebpf.Map }

func (t trie[K, V]) get(k K) (v V, ok bool, err error) {
	err = t.m.Lookup(k, &v)
	if errors.Is(err, ebpf.ErrKeyNotExist) {
		return v, false, nil
	}
	return v, err == nil, err
}

func (t trie[K, V]) put(k K, v V) error {
	err := t.m.Put(k, v)
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.E2BIG) {
		return fmt.Errorf("%w: it holds %d prefixes", ErrFull, t.m.MaxEntries())
	}
	return err
}

func (t trie[K, V]) del(k K) error {
	if err := t.m.Delete(k); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return err
	}
	return nil
}

func (t trie[K, V]) each(do func(K, V)) error {
	var k K
	var v V
	it := t.m.Iterate()
	for it.Next(&k, &v) {
		do(k, v)
	}
	return it.Err()
}
