package lisp

import (
	"encoding/binary"
	"fmt"
)

// HeaderSize is the length of the header of data packets, in bytes.
const HeaderSize = 8

// Header is what stands between the outer UDP header and the inner packet (RFC 9300 §5.3).
type Header struct {
	Nonce     uint32 // 24 bits, if HasNonce
	HasNonce  bool
	EchoNonce bool // the other end is to send Nonce back; only with HasNonce

	SourceVersion, DestVersion uint16 // 12 bits each, if HasVersions (RFC 9302); never with HasNonce
	HasVersions                bool

	Instance    uint32 // 24 bits, if HasInstance
	HasInstance bool

	Status    uint32 // locator-status bits, if HasStatus: bit 0 for the first locator; 8 bits beside an instance
	HasStatus bool
}

// Put writes the header to the first HeaderSize bytes of b.
func (h Header) Put(b []byte) error {
	var low uint32
	statusBits := 32
	switch {
	case h.HasNonce && h.HasVersions:
		return fmt.Errorf("LISP header: a nonce and versions: one of the two")
	case h.EchoNonce && !h.HasNonce:
		return fmt.Errorf("LISP header: an echo is asked for without a nonce")
	case h.HasNonce && h.Nonce >= 1<<24, h.HasInstance && h.Instance >= 1<<24:
		return fmt.Errorf("LISP header: nonce %d and instance %d have 24 bits", h.Nonce, h.Instance)
	case h.HasVersions && (h.SourceVersion >= 1<<12 || h.DestVersion >= 1<<12):
		return fmt.Errorf("LISP header: versions %d and %d have 12 bits", h.SourceVersion, h.DestVersion)
	}
	if h.HasInstance {
		low, statusBits = h.Instance<<8, 8
	}
	if h.HasStatus {
		if statusBits == 8 && h.Status >= 1<<8 {
			return fmt.Errorf("LISP header: %d locator-status bits stand beside an instance", statusBits)
		}
		low |= h.Status
	}
	high := flag(0, h.HasNonce) | flag(1, h.HasStatus) | flag(2, h.EchoNonce) | flag(3, h.HasVersions) | flag(4, h.HasInstance)
	if h.HasNonce {
		high |= h.Nonce
	}
	if h.HasVersions {
		high |= uint32(h.SourceVersion)<<12 | uint32(h.DestVersion)
	}
	binary.BigEndian.PutUint32(b, high)
	binary.BigEndian.PutUint32(b[4:], low)
	return nil
}

// DecodeHeader reads the header at the beginning of b. Bits that are reserved, or for keys (RFC 8061), are errors: what
// follows would not be what it seems.
func DecodeHeader(b []byte) (h Header, err error) {
	if len(b) < HeaderSize {
		return h, fmt.Errorf("LISP header: %d bytes: it has %d", len(b), HeaderSize)
	}
	high, low := binary.BigEndian.Uint32(b), binary.BigEndian.Uint32(b[4:])
	h.HasNonce, h.HasStatus, h.EchoNonce, h.HasVersions, h.HasInstance = bit(high, 0), bit(high, 1), bit(high, 2), bit(high, 3), bit(high, 4)
	switch {
	case high&(7<<24) != 0:
		return Header{}, fmt.Errorf("LISP header: reserved bits or keys: %w", ErrUnsupported)
	case h.HasNonce && h.HasVersions:
		return Header{}, fmt.Errorf("LISP header: a nonce and versions")
	}
	h.EchoNonce = h.EchoNonce && h.HasNonce // RFC 9300 §5.3: ignored without a nonce
	if h.HasNonce {
		h.Nonce = high & 0xffffff
	}
	if h.HasVersions {
		h.SourceVersion, h.DestVersion = uint16(high>>12&0xfff), uint16(high&0xfff)
	}
	if h.HasInstance {
		h.Instance, low = low>>8, low&0xff
	}
	if h.HasStatus {
		h.Status = low
	}
	return h, nil
}
