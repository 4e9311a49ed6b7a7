package wire

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"widecloud/api"
)

// The multiplexer puts many streams on one connection. Why not an existing one: yamux keeps timers in a package-wide
// pool, which kills the process when two testing/synctest bubbles share it; a write that times out there may still be
// sent later; its pings wait behind bulk data, which ends the session on a thin link; and a reset there has no reason.
//
// A frame is a header of 8 octets, type, flags, length (16 bits) and stream (32 bits), big-endian, and length octets.
// The dialer's streams are odd, the listener's even, each counting up.
const (
	frameOpen   = 1 // opens the stream
	frameData   = 2 // at most the window that the receiver has granted
	frameFin    = 3 // nothing more comes; with flagStop: and nothing more is read
	frameReset  = 4 // the stream is torn; an api.Error as JSON says why
	frameWindow = 5 // grants 32 bits more octets
	framePing   = 6 // 8 octets that come back in framePong
	framePong   = 7
	frameBye    = 8 // the session ends; an api.Error as JSON says why

	flagStop = 1

	headerLen  = 8
	maxData    = 16 << 10 // one TLS record; also the longest that a ping waits within our own queue
	maxReason  = 4 << 10
	sendBuffer = 32 << 10 // what a stream's writer may be ahead of the wire
	maxStreams = 1024     // that the peer may have open
	maxUnread  = 32 << 20 // octets that all streams of a session may have received and not read
	maxSpare   = 8 << 20  // octets of buffers that streams may keep empty
	backlog    = 256
	idleBuffer = 4 << 10 // octets that a session keeps for writing while it has nothing to write
	minWindow  = 16 << 10
	maxWindow  = 16 << 20
	byeGrace   = time.Second
	lingerTime = time.Minute // for the peer to take the rest of a stream that is closed here
)

// ErrClosed is in the chain of every error that comes of the end of a session.
var ErrClosed = errors.New("session is closed")

type muxOptions struct {
	dialer    bool
	window    int // what we grant per stream
	peerWin   int // what the peer grants per stream
	keepAlive time.Duration
	deadAfter time.Duration
	tell      func(error) *api.Error // what the peer gets to see of an error
}

type mux struct {
	conn net.Conn // what is spoken on
	raw  net.Conn // what is closed: does not wait as a TLS connection's Close may
	o    muxOptions

	mu       sync.Mutex
	wake     *sync.Cond // the writer's
	streams  map[uint32]*stream
	lastMine uint32
	lastPeer uint32
	peers    int // streams opened by the peer, now
	refusals int // resets of streams that the peer has opened beyond maxStreams, not sent
	unread   int // octets that streams hold for their readers
	holding  map[*stream]struct{}
	spare    int       // octets of empty buffers of streams
	urgent   []*stream // have an opening, a window or a reset to send
	ready    []*stream // have data or a FIN to send
	ping     []byte
	pong     []byte
	bye      []byte
	err      error
	lastRecv time.Time
	writing  time.Time // since when the connection has been taking what it was given last; zero: it has taken all
	pingSent time.Time
	pingSeq  uint64
	rtt      time.Duration
	answered time.Time // when the newest ping that was answered had been sent

	sent, received atomic.Int64 // octets, of frames

	accept chan *stream
	done   chan struct{} // closed once err is set
	wg     sync.WaitGroup
}

func newMux(conn, raw net.Conn, o muxOptions) *mux {
	m := &mux{
		conn: conn, raw: raw, o: o,
		streams: map[uint32]*stream{}, holding: map[*stream]struct{}{}, accept: make(chan *stream, backlog), done: make(chan struct{}),
		lastRecv: time.Now(),
	}
	m.wake = sync.NewCond(&m.mu)
	if o.dialer {
		m.lastMine = ^uint32(0) // the first is 1
	}
	m.wg.Go(m.readLoop)
	m.wg.Go(m.writeLoop)
	m.wg.Go(m.keepAliveLoop)
	return m
}

// fail ends the multiplexer. The first reason stays. With tell, the peer is told the reason before the connection
// closes, if it takes it within byeGrace.
func (m *mux) fail(err error, tell *api.Error) {
	m.mu.Lock()
	if m.err != nil {
		m.mu.Unlock()
		return
	}
	m.err = err
	if tell != nil {
		m.bye = encodeReason(tell)
		time.AfterFunc(byeGrace, func() { m.raw.Close() })
	}
	for _, s := range m.streams {
		s.tear()
	}
	close(m.done)
	m.wake.Broadcast()
	m.mu.Unlock()
	if tell == nil {
		m.raw.Close()
	}
}

func (m *mux) open() (*stream, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.err != nil {
		return nil, m.err
	}
	if m.lastMine >= 1<<32-3 && m.lastMine != ^uint32(0) {
		return nil, fmt.Errorf("%w: stream numbers are used up", ErrClosed)
	}
	if len(m.streams)-m.peers >= maxStreams {
		return nil, api.Errorf(api.CodeUnavailable, "more than %d streams of this end are open", maxStreams)
	}
	m.lastMine += 2
	s := m.newStream(m.lastMine)
	s.wantOpen = true
	m.touch(s)
	return s, nil
}

func (m *mux) newStream(id uint32) *stream {
	s := &stream{m: m, id: id, credit: m.o.window, window: m.o.peerWin, done: make(chan struct{}), torn: make(chan struct{})}
	s.canRead = sync.NewCond(&m.mu)
	s.canWrite = sync.NewCond(&m.mu)
	m.streams[id] = s
	return s
}

// forget takes a stream off the table. Frames that still come for it are ignored.
func (m *mux) forget(s *stream) {
	if m.streams[s.id] != s {
		return
	}
	delete(m.streams, s.id)
	stopTimer(s.linger)
	if !m.mine(s.id) {
		m.peers--
	}
}

func (m *mux) mine(id uint32) bool { return (id%2 == 1) == m.o.dialer }

// touch queues a stream for the writer, by what it has to send.
func (m *mux) touch(s *stream) {
	if (s.wantOpen || s.grant > 0 || s.wantReset != nil) && !s.inUrgent {
		s.inUrgent = true
		m.urgent = append(m.urgent, s)
	}
	if (len(s.out) > 0 && s.window > 0 || s.wantFin && len(s.out) == 0) && !s.inReady {
		s.inReady = true
		m.ready = append(m.ready, s)
	}
	m.wake.Signal()
}

func putFrame(b []byte, typ, flags byte, id uint32, payload []byte) []byte {
	b = append(b, typ, flags)
	b = binary.BigEndian.AppendUint16(b, uint16(len(payload)))
	b = binary.BigEndian.AppendUint32(b, id)
	return append(b, payload...)
}

func encodeReason(e *api.Error) []byte {
	b, err := json.Marshal(e)
	if err != nil || len(b) > maxReason {
		msg := e.Message
		if len(msg) > 512 {
			msg = msg[:512]
		}
		b, _ = json.Marshal(&api.Error{Code: e.Code, Message: msg})
	}
	return b
}

func decodeReason(b []byte) *api.Error {
	e := new(api.Error)
	if err := json.Unmarshal(b, e); err != nil || e.Code == "" {
		return api.Errorf(api.CodeUnavailable, "the other end gave no reason")
	}
	return e
}

// fill puts the next frames into b: control first, then one frame of data per ready stream, turn by turn.
// It tells whether to close after b is sent.
func (m *mux) fill(b []byte) ([]byte, bool) {
	if m.bye != nil {
		return putFrame(b, frameBye, 0, 0, m.bye), true
	}
	if m.pong != nil {
		b = putFrame(b, framePong, 0, 0, m.pong)
		m.pong = nil
	}
	if m.ping != nil {
		b = putFrame(b, framePing, 0, 0, m.ping)
		m.ping = nil
		m.pingSent = time.Now()
	}
	for len(m.urgent) > 0 && len(b) < maxData {
		s := m.urgent[0]
		m.urgent = m.urgent[1:]
		s.inUrgent = false
		if s.wantOpen {
			s.wantOpen = false
			b = putFrame(b, frameOpen, 0, s.id, nil)
		}
		if s.wantReset != nil {
			b = putFrame(b, frameReset, 0, s.id, s.wantReset)
			s.wantReset, s.grant = nil, 0
			if s.refused {
				m.refusals--
			}
		}
		if s.grant > 0 {
			b = putFrame(b, frameWindow, 0, s.id, binary.BigEndian.AppendUint32(nil, uint32(s.grant)))
			s.credit += s.grant
			s.grant = 0
		}
	}
	if len(m.urgent) == 0 && len(m.ready) > 0 && len(b) < maxData {
		s := m.ready[0]
		m.ready = m.ready[1:]
		s.inReady = false
		if n := min(len(s.out), s.window, maxData); n > 0 {
			b = putFrame(b, frameData, 0, s.id, s.out[:n])
			s.out = s.out[:copy(s.out, s.out[n:])]
			s.window -= n
			s.canWrite.Broadcast()
		}
		if s.wantFin && len(s.out) == 0 {
			s.wantFin, s.finSent = false, true
			var flags byte
			if s.closed {
				flags = flagStop
			}
			b = putFrame(b, frameFin, flags, s.id, nil)
			if s.closed || s.finRecv {
				m.forget(s)
			}
		}
		m.touch(s)
	}
	return b, false
}

func (m *mux) writeLoop() {
	var b []byte
	for {
		m.mu.Lock()
		for m.err == nil && m.ping == nil && m.pong == nil && len(m.urgent) == 0 && len(m.ready) == 0 {
			if cap(b) > idleBuffer {
				b = nil // most sessions say little, and a controller has thousands
			}
			m.wake.Wait()
		}
		if m.err != nil && m.bye == nil {
			m.mu.Unlock()
			return
		}
		var last bool
		b, last = m.fill(b[:0])
		m.writing = time.Now()
		m.mu.Unlock()
		n, err := m.conn.Write(b)
		m.sent.Add(int64(n))
		m.mu.Lock()
		m.writing = time.Time{}
		m.mu.Unlock()
		if last {
			m.raw.Close()
			return
		}
		if err != nil {
			// The other end has gone. Why, it may have said before: the reader finds it.
			grace := time.NewTimer(byeGrace)
			select {
			case <-m.done:
				grace.Stop()
			case <-grace.C:
				m.fail(fmt.Errorf("%w: write: %w", ErrClosed, err), nil)
			}
		}
	}
}

func (m *mux) readLoop() {
	err := m.read()
	// A peer that breaks the protocol is told so; one that is gone cannot be.
	var broken *protocolError
	if errors.As(err, &broken) {
		m.fail(fmt.Errorf("%w: %w", ErrClosed, err), api.Errorf(api.CodeInvalid, "%v", err))
		return
	}
	m.fail(fmt.Errorf("%w: %w", ErrClosed, err), nil)
}

type protocolError struct{ text string }

func (e *protocolError) Error() string { return "peer breaks the protocol: " + e.text }

func breach(format string, args ...any) error {
	return &protocolError{fmt.Sprintf(format, args...)}
}

func (m *mux) read() error {
	head := make([]byte, headerLen)
	payload := make([]byte, maxData)
	for {
		if _, err := io.ReadFull(m.conn, head); err != nil {
			return fmt.Errorf("read: %w", err)
		}
		typ, flags, n, id := head[0], head[1], int(binary.BigEndian.Uint16(head[2:])), binary.BigEndian.Uint32(head[4:])
		if n > maxData {
			return breach("frame of %d octets", n)
		}
		p := payload[:n]
		if _, err := io.ReadFull(m.conn, p); err != nil {
			return fmt.Errorf("read: %w", err)
		}
		m.received.Add(int64(headerLen + n))
		if err := m.handle(typ, flags, id, p); err != nil {
			return err
		}
	}
}

func (m *mux) handle(typ, flags byte, id uint32, p []byte) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now()
	m.lastRecv = now
	switch typ {
	case framePing:
		if len(p) != 8 {
			return breach("ping of %d octets", len(p))
		}
		m.pong = append([]byte(nil), p...) // only the newest is answered: a flood costs nothing
		m.wake.Signal()
		return nil
	case framePong:
		if len(p) == 8 && binary.BigEndian.Uint64(p) == m.pingSeq && !m.pingSent.IsZero() {
			if d := max(now.Sub(m.pingSent), 1); m.rtt == 0 {
				m.rtt = d
			} else {
				m.rtt += (d - m.rtt) / 4
			}
			m.answered, m.pingSent = m.pingSent, time.Time{}
		}
		return nil
	case frameBye:
		return &byeError{decodeReason(p)}
	case frameOpen:
		if m.mine(id) || id == 0 || m.lastPeer != 0 && id <= m.lastPeer {
			return breach("opens stream %d after %d", id, m.lastPeer)
		}
		m.lastPeer = id
		if m.err != nil {
			return nil
		}
		s := m.newStream(id)
		m.peers++
		if m.peers > maxStreams {
			return m.refuse(s, "more than %d streams", maxStreams)
		}
		select {
		case m.accept <- s:
			return nil
		default:
			return m.refuse(s, "too many streams wait to be accepted")
		}
	case frameData, frameFin, frameReset, frameWindow:
	default:
		return breach("frame type %d", typ)
	}

	s := m.streams[id]
	if s == nil {
		if id == 0 || m.mine(id) && (m.lastMine == ^uint32(0) || id > m.lastMine) || !m.mine(id) && id > m.lastPeer {
			return breach("frame for stream %d, which was never opened", id)
		}
		return nil // we are done with it; the peer does not know yet
	}
	switch typ {
	case frameData:
		if len(p) > s.credit {
			return breach("stream %d: %d octets where %d are granted", id, len(p), s.credit)
		}
		if s.finRecv {
			return breach("stream %d: data after its end", id)
		}
		s.credit -= len(p)
		if !s.closed {
			s.receive(p)
			m.limitUnread()
			s.canRead.Broadcast()
		}
	case frameFin:
		s.finRecv = true
		if flags&flagStop != 0 && !s.finSent {
			// Nobody reads what we would still send.
			s.out, s.stopped = nil, true
			s.wantFin = false
			m.forget(s)
			s.settle()
		}
		if s.finSent {
			m.forget(s)
			s.settle()
		}
		s.canRead.Broadcast()
		s.canWrite.Broadcast()
	case frameReset:
		s.lose(&resetError{decodeReason(p)})
	case frameWindow:
		if len(p) != 4 {
			return breach("window of %d octets", len(p))
		}
		n := binary.BigEndian.Uint32(p)
		if n > maxWindow || s.window+int(n) > maxWindow {
			return breach("stream %d: window too large", id)
		}
		s.window += int(n)
		m.touch(s)
	}
	return nil
}

// refuse resets a stream that the peer has just opened. A peer that opens more without taking the refusals breaks the protocol.
// The lock is held.
func (m *mux) refuse(s *stream, format string, args ...any) error {
	if m.refusals >= maxStreams {
		return breach("opens streams and does not take their refusals")
	}
	m.refusals++
	s.refused = true
	s.reset(api.Errorf(api.CodeUnavailable, format, args...))
	return nil
}

// limitUnread tears the streams that have most while all have more than maxUnread: a grant of a window to each stream is a
// promise that cannot be kept for all of them at once. The lock is held.
func (m *mux) limitUnread() {
	for m.unread > max(maxUnread, 2*m.o.window) {
		var most *stream
		for s := range m.holding {
			if most == nil || s.in.Len() > most.in.Len() {
				most = s
			}
		}
		most.reset(api.Errorf(api.CodeUnavailable, "the streams of this session hold %d octets that nobody reads", m.unread))
	}
}

// byeError is the peer's own reason for the end of the session.
type byeError struct{ reason *api.Error }

func (e *byeError) Error() string { return "closed by the other end: " + e.reason.Error() }
func (e *byeError) Unwrap() error { return e.reason }

// resetError is the peer's reason for tearing a stream.
type resetError struct{ reason *api.Error }

func (e *resetError) Error() string { return "stream is torn by the other end: " + e.reason.Error() }
func (e *resetError) Unwrap() error { return e.reason }

func (m *mux) keepAliveLoop() {
	tick := time.NewTicker(m.o.keepAlive)
	defer tick.Stop()
	for {
		m.mu.Lock()
		if m.err != nil {
			m.mu.Unlock()
			return
		}
		silent, what := time.Since(m.lastRecv), "heard from"
		if !m.writing.IsZero() && time.Since(m.writing) > silent {
			// It sends, and takes nothing: what we have for it must not pile up.
			silent, what = time.Since(m.writing), "taken by"
		}
		if silent < m.o.deadAfter {
			m.pingSeq++
			m.ping = binary.BigEndian.AppendUint64(nil, m.pingSeq)
			m.wake.Signal()
		}
		m.mu.Unlock()
		if silent >= m.o.deadAfter {
			m.fail(fmt.Errorf("%w: nothing %s the other end for %v", ErrClosed, what, silent.Round(time.Millisecond)), nil)
			return
		}
		select {
		case <-tick.C:
		case <-m.done:
			return
		}
	}
}
