package lisp

import (
	"crypto/hmac"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
)

// Algorithm is how authentication data is made (IANA, "LISP Algorithm ID Numbers").
type Algorithm uint8

const (
	HMACSHA1   Algorithm = 1 // HMAC-SHA-1-96 (RFC 2404)
	HMACSHA256 Algorithm = 2 // HMAC-SHA-256-128 (RFC 4868)
)

// Auth is what a message says of its authentication (RFC 9301 §5.6). The zero Auth is none.
type Auth struct {
	Key       uint8 // which of the keys that both ends have
	Algorithm Algorithm
}

// ErrAuth is wrapped by the errors of messages whose authentication data is not what the key gives.
var ErrAuth = errors.New("not authentic")

// macs has for each algorithm its hash, and the length of its data: RFC 9301 has the names of the truncated ones, and
// those who speak it send the whole digest. We send that; both are taken.
var macs = map[Algorithm]struct {
	hash  func() hash.Hash
	whole int // bytes
	cut   int
}{
	HMACSHA1:   {sha1.New, sha1.Size, 96 / 8},
	HMACSHA256: {sha256.New, sha256.Size, 128 / 8},
}

// authAt is where the authentication data begins: after type, nonce, key ID, algorithm and length.
const authAt = 4 + 8 + 4

func (a Auth) append(b []byte) ([]byte, error) {
	n := 0
	if a != (Auth{}) {
		mac, ok := macs[a.Algorithm]
		if !ok {
			return nil, fmt.Errorf("authentication by algorithm %d: %w", a.Algorithm, ErrUnsupported)
		}
		n = mac.whole
	}
	b = append(b, a.Key, uint8(a.Algorithm))
	b = binary.BigEndian.AppendUint16(b, uint16(n))
	return append(b, zeros[:n]...), nil
}

func (r *reader) auth() (a Auth) {
	a.Key, a.Algorithm = r.uint8(), Algorithm(r.uint8())
	n := int(r.uint16())
	if r.err == nil {
		_, r.err = a.fit(n)
	}
	if r.err == nil {
		r.take(n)
	}
	return a
}

// fit tells whether authentication data may have n bytes, and gives the hash of it.
func (a Auth) fit(n int) (func() hash.Hash, error) {
	if a == (Auth{}) && n == 0 {
		return nil, nil
	}
	mac, ok := macs[a.Algorithm]
	if !ok {
		return nil, fmt.Errorf("authentication by algorithm %d: %w", a.Algorithm, ErrUnsupported)
	}
	if n != mac.whole && n != mac.cut {
		return nil, fmt.Errorf("authentication data of %d bytes: algorithm %d has %d, or %d", n, a.Algorithm, mac.whole, mac.cut)
	}
	return mac.hash, nil
}

// Sign appends m, which has an Auth, with the authentication data that key gives.
func Sign(b []byte, m Message, key []byte) ([]byte, error) {
	var a Auth
	switch m := m.(type) {
	case *MapRegister:
		a = m.Auth
	case *MapNotify:
		a = m.Auth
	default:
		return b, fmt.Errorf("%s: it has no authentication data", m.name())
	}
	mac, ok := macs[a.Algorithm]
	if !ok {
		return b, fmt.Errorf("%s: authentication by algorithm %d: %w", m.name(), a.Algorithm, ErrUnsupported)
	}
	out, err := Append(b, m)
	if err != nil {
		return b, err
	}
	h := hmac.New(mac.hash, key)
	h.Write(out[len(b):])
	copy(out[len(b)+authAt:], h.Sum(nil))
	return out, nil
}

// Verify tells whether the bytes of a Map-Register, Map-Notify or Map-Notify-Ack are what the owner of a key has signed:
// nil, or an error that wraps ErrAuth. key gives the key of an ID; nil: there is none.
func Verify(b []byte, key func(Auth) []byte) error {
	if len(b) < authAt || b[0]>>4 < typeMapRegister || b[0]>>4 > typeMapNotifyAck {
		return fmt.Errorf("%w: no authentication data", ErrAuth)
	}
	a := Auth{Key: b[authAt-4], Algorithm: Algorithm(b[authAt-3])}
	n := int(binary.BigEndian.Uint16(b[authAt-2:]))
	newHash, err := a.fit(n)
	switch {
	case err != nil:
		return fmt.Errorf("%w: %w", ErrAuth, err)
	case newHash == nil:
		return fmt.Errorf("%w: no authentication data", ErrAuth)
	case len(b) < authAt+n:
		return fmt.Errorf("%w: the authentication data ends early", ErrAuth)
	}
	k := key(a)
	if k == nil {
		return fmt.Errorf("%w: key %d of algorithm %d is not known", ErrAuth, a.Key, a.Algorithm)
	}
	h := hmac.New(newHash, k)
	h.Write(b[:authAt])
	h.Write(zeros[:n])
	h.Write(b[authAt+n:])
	if !hmac.Equal(h.Sum(nil)[:n], b[authAt:authAt+n]) {
		return fmt.Errorf("%w: key %d gives other authentication data", ErrAuth, a.Key)
	}
	return nil
}
