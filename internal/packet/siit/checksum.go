package siit

import "encoding/binary"

// Sums are ones'-complement sums of 16-bit words, kept in 64 bits so that
// carries can wait (RFC 1071 §2).

func fold(s uint64) uint16 {
	s = s>>32 + s&0xffffffff
	s = s>>32 + s&0xffffffff
	s = s>>16 + s&0xffff
	s = s>>16 + s&0xffff
	s = s>>16 + s&0xffff
	return uint16(s)
}

// sum adds up b, an odd last byte padded with zero.
func sum(b []byte) uint64 {
	var s uint64
	for len(b) >= 32 {
		s += uint64(binary.BigEndian.Uint32(b)) + uint64(binary.BigEndian.Uint32(b[4:])) +
			uint64(binary.BigEndian.Uint32(b[8:])) + uint64(binary.BigEndian.Uint32(b[12:])) +
			uint64(binary.BigEndian.Uint32(b[16:])) + uint64(binary.BigEndian.Uint32(b[20:])) +
			uint64(binary.BigEndian.Uint32(b[24:])) + uint64(binary.BigEndian.Uint32(b[28:]))
		b = b[32:]
	}
	for len(b) >= 4 {
		s += uint64(binary.BigEndian.Uint32(b))
		b = b[4:]
	}
	if len(b) >= 2 {
		s += uint64(binary.BigEndian.Uint16(b))
		b = b[2:]
	}
	if len(b) == 1 {
		s += uint64(b[0]) << 8
	}
	return s
}

func sum4(a *addr4) uint64 { return uint64(binary.BigEndian.Uint32(a[:])) }

func sum6(a *addr6) uint64 {
	return uint64(binary.BigEndian.Uint32(a[:])) + uint64(binary.BigEndian.Uint32(a[4:])) +
		uint64(binary.BigEndian.Uint32(a[8:])) + uint64(binary.BigEndian.Uint32(a[12:]))
}

// pseudo6 is the sum of the IPv6 pseudo-header (RFC 8200 §8.1).
func pseudo6(src, dst *addr6, length int, proto uint8) uint64 {
	return sum6(src) + sum6(dst) + uint64(length) + uint64(proto)
}

// adjust is RFC 1624, equation 3: HC' = ~(~HC + ~m + m'), for sums m and m'
// of all that goes and all that comes.
func adjust(field []byte, gone, come uint64) {
	hc := binary.BigEndian.Uint16(field)
	binary.BigEndian.PutUint16(field, ^fold(uint64(^hc)+uint64(^fold(gone))+uint64(fold(come))))
}

// adjustPartial is the same for a field that holds the bare sum of the
// pseudo-header, to be completed by the device (CHECKSUM_PARTIAL).
func adjustPartial(field []byte, gone, come uint64) {
	hc := binary.BigEndian.Uint16(field)
	binary.BigEndian.PutUint16(field, fold(uint64(hc)+uint64(^fold(gone))+uint64(fold(come))))
}
