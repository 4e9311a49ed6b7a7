package siit

import "fmt"

// Admit sets those of the pairs that go with what is in force and with those before them, and returns why the others do not,
// by their index: one bad pair keeps no other one out. Unlike Update it replaces nothing. Errors name the side ("outside: …",
// "inside: …") and wrap a sentinel error.
func (t *Table) Admit(pairs []Pair) map[int]error {
	s := t.store
	s.mu.Lock()
	defer s.mu.Unlock()
	refused := map[int]error{}
	for i, m := range pairs {
		r, err := t.admissible(m)
		if err != nil {
			refused[i] = err
			continue
		}
		s.add(r, nil, len(pairs)-i-1)
	}
	return refused
}

func (t *Table) admissible(m Pair) (record, error) {
	s := t.store
	r, err := t.check(m, 0, func(int) (string, string) { return "outside", "inside" })
	if err != nil {
		return r, err
	}
	if old := s.exactOutside(&r); old != nil {
		return r, fmt.Errorf("outside: %w %v: is mapped to %v", ErrDuplicate, m.Outside, old.entry().Inside)
	}
	if old := s.exactInside(&r); old != nil {
		return r, fmt.Errorf("inside: %w %v: is that of %v", ErrDuplicate, m.Inside, old.entry().Outside)
	}
	return r, s.crossing(&r)
}

// crossing is sweep for one mapping more: an error if one of its addresses would be outside and inside at once.
func (s *store) crossing(r *record) error {
	if !r.v4 {
		if overlap(r.out, r.obits, r.in, r.ibits) {
			return fmt.Errorf("outside: %w %v: is also its inside address", ErrDuplicate, prefix6(r.out, r.obits))
		}
		for _, in := range []*index{&s.in4, &s.in6} {
			if old := s.find(in, r.out); old != nil {
				return crossed("outside", r.out, r.obits, "an inside", old.in, old.ibits)
			}
		}
	}
	if old := s.find(&s.out6, r.in); old != nil {
		return crossed("inside", r.in, r.ibits, "an outside", old.out, old.obits)
	}
	if r.ibits == 128 {
		return nil // and so is the outside of an IPv6 mapping
	}
	// What lies within a prefix is not found by its first address.
	for _, old := range s.records() {
		switch {
		case !r.v4 && overlap(r.out, r.obits, old.in, old.ibits):
			return crossed("outside", r.out, r.obits, "an inside", old.in, old.ibits)
		case !old.v4 && overlap(r.in, r.ibits, old.out, old.obits):
			return crossed("inside", r.in, r.ibits, "an outside", old.out, old.obits)
		}
	}
	return nil
}

func crossed(side string, k key, n uint8, other string, k2 key, n2 uint8) error {
	return fmt.Errorf("%s: %w %v: is also %s address (%v)", side, ErrDuplicate, prefix6(k, n), other, prefix6(k2, n2))
}

// overlap tells whether two prefixes have addresses in common.
func overlap(a key, n uint8, b key, m uint8) bool {
	mask := maskOf(int(min(n, m)))
	return a.and(mask) == b.and(mask)
}
