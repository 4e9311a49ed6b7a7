package cast

import (
	"crypto/cipher"
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"sync"
	"time"

	"widecloud/internal/sentry/still"
)

// Datagram is a sealed shard, ready to be sent.
type Datagram struct {
	Bytes  []byte
	Parity bool // of no use where nothing gets lost
}

// PackerOptions are the options of a Packer.
type PackerOptions struct {
	Key Key
	// Loss is the share of datagrams that may get lost, below 0.5; 0: no parity is sent.
	Loss float64
	// Bytes is the longest datagram, from MinDatagram to MaxDatagram; 0: PlainDatagram.
	Bytes int
	Now   time.Time // the session's beginning
	Rand  io.Reader // crypto/rand.Reader
}

// Packer makes datagrams of stills, in one session.
type Packer struct {
	id   session
	key  keyID
	aead cipher.AEAD
	loss float64
	max  int

	mu       sync.Mutex
	seq      uint64
	ordinals map[streamID]uint32
	parities map[[2]int]int
}

// NewPacker begins a session.
func NewPacker(o PackerOptions) (*Packer, error) {
	if o.Bytes == 0 {
		o.Bytes = PlainDatagram
	}
	if o.Bytes < MinDatagram || o.Bytes > MaxDatagram {
		return nil, fmt.Errorf("datagrams of %d bytes: not between %d and %d", o.Bytes, MinDatagram, MaxDatagram)
	}
	if !(o.Loss >= 0 && o.Loss < 0.5) {
		return nil, fmt.Errorf("a loss of %g: not from 0 to below 0.5", o.Loss)
	}
	id, err := newSession(o.Now, o.Rand)
	if err != nil {
		return nil, err
	}
	return &Packer{id: id, key: o.Key.id, aead: o.Key.cipher(id, kindShard), loss: o.Loss, max: o.Bytes,
		ordinals: map[streamID]uint32{}, parities: map[[2]int]int{}}, nil
}

func newSession(now time.Time, random io.Reader) (session, error) {
	var b [8]byte
	if _, err := io.ReadFull(random, b[:]); err != nil {
		return session{}, fmt.Errorf("begin a session: %w", err)
	}
	return session{epoch: uint64(now.UnixMicro()), random: binary.BigEndian.Uint64(b[:])}, nil
}

// Pack makes the datagrams of a still, in the order in which they should be sent. They share memory that nobody changes.
// The error is a still.ErrBounds.
func (p *Packer) Pack(st *still.Still) ([]Datagram, error) {
	if err := st.Check(); err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	id := streamID{st.Channel, st.Size}
	s := shard{stream: id, number: st.Number, taken: st.Taken.UnixMicro(), ordinal: p.ordinals[id] + 1, length: len(st.JPEG),
		width: st.Width, height: st.Height}
	before := headerBytes + tagBytes + shardBytes + len(st.Channel)
	s.layout = layoutFor(len(st.JPEG), p.max-before, p.parity)
	buf := make([]byte, s.layout.data*s.layout.shard)
	copy(buf, st.JPEG)
	parity, err := s.layout.encode(buf)
	if err != nil {
		return nil, fmt.Errorf("compute parity: %w", err)
	}
	if s.ordinal == math.MaxUint32 {
		s.ordinal = 1 // after 13 years of ten a second
	}
	p.ordinals[id] = s.ordinal
	out := make([]Datagram, s.layout.total())
	room := make([]byte, 0, len(out)*(before+s.layout.shard))
	content := make([]byte, 0, p.max)
	for i := range out {
		s.index = i
		content = s.append(content[:0])
		if i < s.layout.data {
			content = append(content, buf[i*s.layout.shard:(i+1)*s.layout.shard]...)
		} else {
			content = append(content, parity[i-s.layout.data]...)
		}
		p.seq++
		start := len(room)
		room = header{kind: kindShard, key: p.key, session: p.id, seq: p.seq}.seal(room, p.aead, content)
		out[i] = Datagram{Bytes: room[start:len(room):len(room)], Parity: i >= s.layout.data}
	}
	return out, nil
}

// parity is parityFor, remembered: it takes longer than all the rest for a small still.
func (p *Packer) parity(data, blocks int) int {
	at := [2]int{data, blocks}
	m, ok := p.parities[at]
	if !ok {
		m = parityFor(p.loss, data, blocks)
		p.parities[at] = m
	}
	return m
}
