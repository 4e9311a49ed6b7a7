package lisp

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// ErrUnsupported is wrapped by the errors about what this package leaves out (see the package's description).
var ErrUnsupported = errors.New("not supported")

// reader takes values off a message. After its first error it gives zeros.
type reader struct {
	b   []byte
	err error
}

// zeros is what a failed reader gives.
var zeros [64]byte

// take gives the next n bytes, n ≤ 64.
func (r *reader) take(n int) []byte {
	if r.err != nil {
		return zeros[:n]
	}
	if len(r.b) < n {
		r.failf("it ends %d bytes early", n-len(r.b))
		return zeros[:n]
	}
	out := r.b[:n]
	r.b = r.b[n:]
	return out
}

func (r *reader) uint8() uint8   { return r.take(1)[0] }
func (r *reader) uint16() uint16 { return binary.BigEndian.Uint16(r.take(2)) }
func (r *reader) uint32() uint32 { return binary.BigEndian.Uint32(r.take(4)) }
func (r *reader) uint64() uint64 { return binary.BigEndian.Uint64(r.take(8)) }

// more tells whether bytes are left.
func (r *reader) more() bool { return r.err == nil && len(r.b) > 0 }

// rest gives all that is left.
func (r *reader) rest() []byte {
	out := r.b
	r.b = nil
	if r.err != nil {
		return nil
	}
	return out
}

// part gives a reader of the next n bytes.
func (r *reader) part(n int) *reader {
	if r.err == nil && len(r.b) < n {
		r.failf("it ends %d bytes early", n-len(r.b))
	}
	if r.err != nil {
		return &reader{err: r.err}
	}
	in := &reader{b: r.b[:n:n]}
	r.b = r.b[n:]
	return in
}

// join takes over the error of a part, which must have been read to its end.
func (r *reader) join(in *reader) {
	in.end()
	if r.err == nil {
		r.err = in.err
	}
}

// end makes an error of bytes that are left.
func (r *reader) end() {
	if r.err == nil && len(r.b) > 0 {
		r.failf("%d bytes follow", len(r.b))
	}
}

func (r *reader) failf(format string, args ...any) {
	if r.err == nil {
		r.err = fmt.Errorf(format, args...)
	}
}
