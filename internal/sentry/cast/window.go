package cast

// windowBits is how far a datagram may be behind the newest one: more than the datagrams of the largest still.
const windowBits = 1 << 14

// window lets each sequence number pass once (RFC 4303 §3.4.3, RFC 6479). The zero value has seen nothing.
type window struct {
	newest uint64
	seen   [windowBits / 64]uint64
}

// fresh tells whether seq has not passed yet. What is too old to know has passed.
func (w *window) fresh(seq uint64) bool {
	switch {
	case seq == 0 || seq/64+windowBits/64 <= w.newest/64:
		return false
	case seq > w.newest:
		return true
	}
	return w.seen[seq/64%(windowBits/64)]&(1<<(seq%64)) == 0
}

// pass records seq, which is fresh.
func (w *window) pass(seq uint64) {
	if seq > w.newest {
		// Forget the bits of the words that begin anew.
		from, to := w.newest/64+1, seq/64
		if to >= from+windowBits/64 {
			from = to - windowBits/64 + 1
		}
		for i := from; i <= to; i++ {
			w.seen[i%(windowBits/64)] = 0
		}
		w.newest = seq
	}
	w.seen[seq/64%(windowBits/64)] |= 1 << (seq % 64)
}
