package cast

import (
	"fmt"
	"math"
	"sync"

	"github.com/klauspost/reedsolomon"
)

// Bounds of a layout. A block has at most 256 shards, which is what a code over GF(2^8) can have.
const (
	blockData = 128  // data shards of a block
	maxData   = 4096 // data shards of a still
	maxParity = 127  // parity shards of a block
)

// layout says how a still is cut into shards.
type layout struct {
	data   int // data shards of the still
	parity int // parity shards of each block
	shard  int // bytes of each shard; the last data shard is filled up with zero bytes
}

// layoutFor cuts length bytes into as few shards of at most room bytes as possible, of about the same size.
func layoutFor(length, room int, parity func(data, blocks int) int) layout {
	l := layout{data: (length + room - 1) / room}
	l.shard = (length + l.data - 1) / l.data
	l.data = (length + l.shard - 1) / l.shard // what rounding up has left over
	l.parity = parity((l.data+l.blocks()-1)/l.blocks(), l.blocks())
	return l
}

// check tells whether l is a layout of length bytes.
func (l layout) check(length int) error {
	switch {
	case l.data < 1 || l.data > maxData:
		return fmt.Errorf("shard: data shards: %d is not between 1 and %d", l.data, maxData)
	case l.parity > maxParity:
		return fmt.Errorf("shard: parity shards: %d is more than %d", l.parity, maxParity)
	case l.shard < 1 || (length+l.shard-1)/l.shard != l.data:
		return fmt.Errorf("shard: %d bytes are not %d shards of %d bytes", length, l.data, l.shard)
	}
	return nil
}

// blocks is the number of blocks.
func (l layout) blocks() int { return (l.data + blockData - 1) / blockData }

// total is the number of shards. Indices below data are data shards, in the order of the JPEG's bytes.
func (l layout) total() int { return l.data + l.blocks()*l.parity }

// dataOf is the number of data shards of a block.
func (l layout) dataOf(block int) int { return (l.data - block + l.blocks() - 1) / l.blocks() }

// encode gives the parity shards of buf, which holds the data shards, by their index less l.data.
func (l layout) encode(buf []byte) ([][]byte, error) {
	all := make([][]byte, l.total())
	for i := range all {
		if i < l.data {
			all[i] = buf[i*l.shard : (i+1)*l.shard]
		} else {
			all[i] = make([]byte, l.shard)
		}
	}
	for b := 0; b < l.blocks() && l.parity > 0; b++ {
		code, err := codeOf(l.dataOf(b), l.parity)
		if err != nil {
			return nil, err
		}
		if err := code.Encode(l.block(all, b)); err != nil {
			return nil, err
		}
	}
	return all[l.data:], nil
}

// repair fills in the data shards that have no length, in the memory that they have room for, from the others of block b.
func (l layout) repair(all [][]byte, b int) error {
	code, err := codeOf(l.dataOf(b), l.parity)
	if err != nil {
		return err
	}
	return code.ReconstructData(l.block(all, b))
}

// block is the shards of block b, data first.
func (l layout) block(all [][]byte, b int) (shards [][]byte) {
	for i := b; i < len(all); i += l.blocks() {
		shards = append(shards, all[i])
	}
	return shards
}

// codes keeps the codes that were used: making one inverts a matrix.
var codes struct {
	sync.Mutex
	of map[[2]int]reedsolomon.Encoder
}

// maxCodes is how many codes are kept. Stills of one stream need two or three.
const maxCodes = 64

func codeOf(data, parity int) (reedsolomon.Encoder, error) {
	codes.Lock()
	defer codes.Unlock()
	at := [2]int{data, parity}
	if c := codes.of[at]; c != nil {
		return c, nil
	}
	// Stills are small: one goroutine is the fastest. A cache of inversions would grow with the patterns of losses.
	c, err := reedsolomon.New(data, parity, reedsolomon.WithMaxGoroutines(1), reedsolomon.WithInversionCache(false))
	if err != nil {
		return nil, fmt.Errorf("code of %d and %d shards: %w", data, parity, err)
	}
	if codes.of == nil || len(codes.of) >= maxCodes {
		codes.of = map[[2]int]reedsolomon.Encoder{}
	}
	codes.of[at] = c
	return c, nil
}

// residual is the probability with which a still may be lost all the same, if datagrams are lost independently at the rate
// that the sender was told to expect.
const residual = 1e-5

// parityFor is the smallest number of parity shards with which a still of so many blocks, each of so many data shards, is
// lost with a probability of at most residual when each datagram is lost with probability loss.
func parityFor(loss float64, data, blocks int) int {
	if loss == 0 {
		return 0
	}
	for m := 1; m < maxParity; m++ {
		if moreThan(m, data+m, loss) <= residual/float64(blocks) {
			return m
		}
	}
	return maxParity
}

// moreThan is the probability that more than m of n are lost: the tail of the binomial distribution.
func moreThan(m, n int, loss float64) (p float64) {
	lg := func(x int) float64 { v, _ := math.Lgamma(float64(x + 1)); return v }
	for i := m + 1; i <= n; i++ {
		p += math.Exp(lg(n) - lg(i) - lg(n-i) + float64(i)*math.Log(loss) + float64(n-i)*math.Log1p(-loss))
	}
	return p
}
