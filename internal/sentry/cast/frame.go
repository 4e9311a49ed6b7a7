package cast

import (
	"crypto/cipher"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"golang.org/x/crypto/chacha20poly1305"

	"widecloud/internal/sentry/still"
)

// Sizes, in bytes.
const (
	headerBytes   = 32
	tagBytes      = 16
	shardBytes    = 35 // of a shard's description, without the channel's name
	MinDatagram   = 576
	MaxDatagram   = 65000
	PlainDatagram = 1232 // fits into an IPv6 packet of 1280, which every line carries (RFC 8200 §5)
)

const (
	magic      = "WS"
	version    = 1
	kindShard  = 1
	kindReport = 2
)

// header is what stands before a datagram's sealed content.
type header struct {
	kind    byte
	key     keyID
	session session
	seq     uint64
}

var (
	errShort   = errors.New("datagram is too short or too long")
	errForeign = errors.New("datagram is of another protocol, version or kind")
)

func (h header) append(b []byte) []byte {
	b = append(b, magic...)
	b = append(b, version, h.kind)
	b = append(b, h.key[:]...)
	b = append(b, h.session.bytes()...)
	return binary.BigEndian.AppendUint64(b, h.seq)
}

// parseHeader reads the header of a datagram of one kind. It looks at nothing behind it but the length.
func parseHeader(b []byte, kind byte) (header, error) {
	switch {
	case len(b) < headerBytes+tagBytes || len(b) > MaxDatagram:
		return header{}, errShort
	case string(b[:2]) != magic || b[2] != version || b[3] != kind:
		return header{}, errForeign
	}
	u64 := binary.BigEndian.Uint64
	return header{kind: kind, key: keyID(b[4:8]), session: session{epoch: u64(b[8:]), random: u64(b[16:])}, seq: u64(b[24:])}, nil
}

func (h header) nonce() (n [chacha20poly1305.NonceSize]byte) {
	binary.BigEndian.PutUint64(n[4:], h.seq)
	return n
}

// seal appends a whole datagram to b.
func (h header) seal(b []byte, a cipher.AEAD, content []byte) []byte {
	start := len(b)
	b = h.append(b)
	n := h.nonce()
	return a.Seal(b, n[:], content, b[start:])
}

// open gives the content of datagram b, which has header h, in the memory of to.
func (h header) open(to []byte, a cipher.AEAD, b []byte) ([]byte, error) {
	n := h.nonce()
	return a.Open(to[:0], n[:], b[headerBytes:], b[:headerBytes])
}

// streamID is what a still is one of: a channel in one size.
type streamID struct {
	channel string
	size    int
}

// shard is the description of a shard and of the still that it is of. Two shards of one still differ in index alone.
type shard struct {
	stream        streamID
	number        uint64
	taken         int64  // microseconds since 1970
	ordinal       uint32 // counts the stills of a stream in a session, from 1
	length        int    // of the JPEG, bytes
	width, height int
	layout        layout
	index         int
}

func (s *shard) append(b []byte) []byte {
	b = binary.BigEndian.AppendUint64(b, s.number)
	b = binary.BigEndian.AppendUint64(b, uint64(s.taken))
	b = binary.BigEndian.AppendUint32(b, s.ordinal)
	b = binary.BigEndian.AppendUint32(b, uint32(s.length))
	b = binary.BigEndian.AppendUint16(b, uint16(s.width))
	b = binary.BigEndian.AppendUint16(b, uint16(s.height))
	b = binary.BigEndian.AppendUint16(b, uint16(s.layout.data))
	b = binary.BigEndian.AppendUint16(b, uint16(s.index))
	b = append(b, byte(s.layout.parity), byte(s.stream.size), byte(len(s.stream.channel)))
	return append(b, s.stream.channel...)
}

// parseShard reads a shard's description and gives it with the shard's bytes, which stay in b's memory. What it accepts is
// within still's bounds and consistent in itself.
func parseShard(b []byte) (s shard, payload []byte, err error) {
	if len(b) < shardBytes {
		return s, nil, fmt.Errorf("shard: %d bytes are not a description", len(b))
	}
	u16 := func(at int) int { return int(binary.BigEndian.Uint16(b[at:])) }
	s = shard{
		number:  binary.BigEndian.Uint64(b),
		ordinal: binary.BigEndian.Uint32(b[16:]),
		width:   u16(24), height: u16(26),
		layout: layout{data: u16(28), parity: int(b[32])},
		index:  u16(30),
	}
	taken, length := binary.BigEndian.Uint64(b[8:]), binary.BigEndian.Uint32(b[20:])
	end := shardBytes + int(b[34])
	switch {
	case end >= len(b):
		return s, nil, fmt.Errorf("shard: no bytes behind its description")
	case length > still.MaxBytes:
		return s, nil, fmt.Errorf("shard: length: %d is more than %d bytes", length, still.MaxBytes)
	case taken > 1<<62:
		return s, nil, fmt.Errorf("shard: taken: %d us is out of bounds", taken)
	case s.ordinal == 0:
		return s, nil, fmt.Errorf("shard: ordinal: it is 0")
	}
	s.taken, s.length = int64(taken), int(length)
	s.stream = streamID{channel: string(b[shardBytes:end]), size: int(b[33])}
	payload = b[end:]
	s.layout.shard = len(payload)
	if err := s.layout.check(s.length); err != nil {
		return s, nil, err
	}
	if s.index >= s.layout.total() {
		return s, nil, fmt.Errorf("shard: index: %d is not below %d", s.index, s.layout.total())
	}
	st := s.still([]byte{0xff, 0xd8, 0xff, 0xd9}) // stands for the JPEG, which is not here yet
	if err := st.Check(); err != nil {
		return s, nil, err
	}
	return s, payload, nil
}

// still is the still with its JPEG.
func (s *shard) still(jpeg []byte) *still.Still {
	return &still.Still{Channel: s.stream.channel, Size: s.stream.size, Number: s.number, Taken: time.UnixMicro(s.taken).UTC(),
		Width: s.width, Height: s.height, JPEG: jpeg}
}
