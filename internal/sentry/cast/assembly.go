package cast

import "fmt"

// assembly is a still of which not all shards that it needs are here.
type assembly struct {
	shard          // the first one that arrived; the others differ in index alone
	buf     []byte // the data shards, one after the other
	have    []bool // by index
	parity  [][]byte
	missing []int // by block: how many shards it still needs
	left    int   // blocks that need some
	age     uint64
}

func newAssembly(s shard, age uint64) *assembly {
	l := s.layout
	a := &assembly{shard: s, age: age, buf: make([]byte, l.data*l.shard), have: make([]bool, l.total()), parity: make([][]byte, l.total()-l.data),
		missing: make([]int, l.blocks()), left: l.blocks()}
	for b := range a.missing {
		a.missing[b] = l.dataOf(b)
	}
	return a
}

// cost is the memory that an assembly of s may take: as many shards as there are data shards, whichever they are, and what
// is kept of each.
func (s *shard) cost() int { return 2*s.layout.data*s.layout.shard + 32*s.layout.total() + 512 }

// matches tells whether s is a shard of this still.
func (a *assembly) matches(s shard) bool {
	s.index = a.index
	return s == a.shard
}

// add takes a shard's bytes. It tells whether they were needed.
func (a *assembly) add(index int, payload []byte) bool {
	block := index % len(a.missing)
	if a.have[index] || a.missing[block] == 0 {
		return false
	}
	a.have[index] = true
	if index < a.layout.data {
		copy(a.buf[index*a.layout.shard:], payload)
	} else {
		a.parity[index-a.layout.data] = append([]byte(nil), payload...)
	}
	if a.missing[block]--; a.missing[block] == 0 {
		a.left--
	}
	return true
}

// complete tells whether the still can be put together.
func (a *assembly) complete() bool { return a.left == 0 }

// jpeg puts the still together, and tells whether that took parity shards.
func (a *assembly) jpeg() (jpeg []byte, recovered bool, err error) {
	l := a.layout
	all := make([][]byte, l.total())
	for i := range all {
		switch {
		case i >= l.data:
			all[i] = a.parity[i-l.data]
		case a.have[i]:
			all[i] = a.buf[i*l.shard : (i+1)*l.shard]
		default:
			all[i] = a.buf[i*l.shard : i*l.shard : (i+1)*l.shard] // repair fills it in here
			recovered = true
		}
	}
	for b := 0; b < l.blocks() && recovered; b++ {
		if err := l.repair(all, b); err != nil {
			return nil, true, fmt.Errorf("repair block %d of a still: %w", b, err)
		}
	}
	return a.buf[:a.length:a.length], recovered, nil
}
