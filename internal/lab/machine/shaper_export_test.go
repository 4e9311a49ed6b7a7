package machine

import (
	"math/rand/v2"
	"time"
)

// IsControl is isControl.
var IsControl = isControl

// Shaper shows the tests one direction of a link without devices and clock.
type Shaper struct{ s shaper }

// NewShaper is of a shape.
func NewShaper(s Shape) *Shaper {
	return &Shaper{shaper{shape: s, random: rand.New(rand.NewPCG(1, 2))}}
}

// Accept and the rest are shaper's.
func (s *Shaper) Accept(b []byte, now time.Time) bool { return s.s.accept(b, now) }
func (s *Shaper) Next() (time.Time, bool)             { return s.s.next() }
func (s *Shaper) Direction() Direction                { return s.s.n }
func (s *Shaper) Take(now time.Time) (l [][]byte) {
	for _, f := range s.s.take(now, nil) {
		l = append(l, f.b)
	}
	return l
}
