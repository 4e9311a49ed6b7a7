package wire

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"widecloud/api"
)

// stream is one of a session's streams, a net.Conn with half-close and with resets that carry a reason. All fields
// but done are under the multiplexer's lock.
type stream struct {
	m  *mux
	id uint32

	in       bytes.Buffer // received, not read
	credit   int          // what the peer may still send
	eaten    int          // read, not granted again
	grant    int          // to be granted by the writer
	out      []byte       // written, not sent
	window   int          // what we may still send
	canRead  *sync.Cond
	canWrite *sync.Cond

	refused             bool // the peer had too many; wantReset says so
	wantOpen, wantFin   bool
	wantReset           []byte
	inUrgent, inReady   bool
	finSent, finRecv    bool
	shut                bool // CloseWrite or Close was called
	closed              bool // Close was called
	stopped             bool // the peer reads no more
	err                 error
	readBy, writeBy     time.Time
	readTick, writeTick *time.Timer
	linger              *time.Timer // ends a closed stream whose rest the peer does not take

	done    chan struct{} // closed when neither end can do anything to the other any more
	torn    chan struct{} // closed when the stream ended by a reset or with the session
	settled bool
	tornUp  bool
}

var _ net.Conn = (*stream)(nil)

// settle tells those who wait on done, and wakes everybody.
func (s *stream) settle() {
	if !s.settled {
		s.settled = true
		close(s.done)
	}
	s.canRead.Broadcast()
	s.canWrite.Broadcast()
}

// tear is settle for a stream that did not end well.
func (s *stream) tear() {
	if !s.tornUp {
		s.tornUp = true
		close(s.torn)
	}
	s.settle()
}

// receive keeps what has come until it is read. The lock is held.
func (s *stream) receive(p []byte) {
	if s.in.Len() == 0 {
		s.m.spare -= s.in.Cap()
		s.m.holding[s] = struct{}{}
	}
	s.in.Write(p)
	s.m.unread += len(p)
}

// take reads what has come. An empty buffer is kept for what comes next, unless the session's idle streams keep much
// already. The lock is held.
func (s *stream) take(p []byte) int {
	n, _ := s.in.Read(p)
	s.m.unread -= n
	if s.in.Len() == 0 {
		delete(s.m.holding, s)
		if s.m.spare += s.in.Cap(); s.m.spare > maxSpare {
			s.discard()
		}
	}
	return n
}

// discard throws away what has come and is not read, and the buffer. The lock is held.
func (s *stream) discard() {
	if s.in.Len() == 0 {
		s.m.spare -= s.in.Cap()
	}
	s.m.unread -= s.in.Len()
	delete(s.m.holding, s)
	s.in = bytes.Buffer{}
}

// rest tells whether there is something to read that the peer had ended in good order, whatever has become of the stream since.
func (s *stream) rest() bool { return s.finRecv && s.in.Len() > 0 }

// fail ends the stream without a word to the peer, and what has come is lost. The lock is held.
func (s *stream) fail(err error) {
	s.discard()
	s.lose(err)
}

// lose is fail for a stream whose peer has torn it: a direction that it had ended before is read to its end. The lock is held.
func (s *stream) lose(err error) {
	if s.err == nil {
		s.err = err
	}
	if !s.rest() {
		s.discard()
	}
	s.out, s.wantFin = nil, false
	s.m.forget(s)
	s.tear()
}

// reset ends the stream and tells the peer why. The lock is held.
func (s *stream) reset(reason *api.Error) {
	if s.m.streams[s.id] != s { // already over
		s.fail(net.ErrClosed)
		return
	}
	s.fail(net.ErrClosed)
	s.wantReset = encodeReason(reason)
	s.m.touch(s)
}

func (s *stream) Read(p []byte) (int, error) {
	m := s.m
	m.mu.Lock()
	defer m.mu.Unlock()
	for {
		switch {
		case s.closed:
			return 0, net.ErrClosed
		case s.err != nil && !s.rest():
			return 0, s.err
		case expired(s.readBy):
			return 0, os.ErrDeadlineExceeded
		case len(p) == 0:
			return 0, nil
		case s.in.Len() > 0:
			n := s.take(p)
			s.eaten += n
			// Granting in quarters keeps the sender going without a grant per read.
			if s.eaten >= m.o.window/4 && !s.finRecv && m.err == nil {
				s.grant += s.eaten
				s.eaten = 0
				m.touch(s)
			}
			return n, nil
		case s.finRecv:
			return 0, io.EOF
		case m.err != nil:
			return 0, m.err
		}
		s.canRead.Wait()
	}
}

func (s *stream) Write(p []byte) (int, error) {
	m := s.m
	m.mu.Lock()
	defer m.mu.Unlock()
	sent := 0
	for {
		switch {
		case s.shut:
			return sent, net.ErrClosed
		case s.err != nil:
			return sent, s.err
		case s.stopped:
			return sent, fmt.Errorf("write to a stream that the other end has closed: %w", syscall.EPIPE)
		case m.err != nil:
			return sent, m.err
		case expired(s.writeBy):
			return sent, os.ErrDeadlineExceeded
		case len(p) == 0:
			return sent, nil
		}
		if n := min(len(p), sendBuffer-len(s.out)); n > 0 {
			s.out = append(s.out, p[:n]...)
			p = p[n:]
			sent += n
			m.touch(s)
			continue
		}
		s.canWrite.Wait()
	}
}

// CloseWrite sends what is written and then the end of the stream. Reading goes on.
func (s *stream) CloseWrite() error {
	s.m.mu.Lock()
	defer s.m.mu.Unlock()
	s.closeWrite()
	return nil
}

func (s *stream) closeWrite() {
	if s.shut {
		return
	}
	s.shut = true
	s.canWrite.Broadcast()
	if s.err == nil && !s.stopped && s.m.err == nil {
		s.wantFin = true
		s.m.touch(s)
	}
}

// Close ends both directions: what is written is still sent, what comes is thrown away and its sender told so. It
// does not wait.
func (s *stream) Close() error {
	m := s.m
	m.mu.Lock()
	defer m.mu.Unlock()
	if s.closed {
		return nil
	}
	s.closed = true
	s.discard()
	if s.finSent && !s.finRecv && s.err == nil && m.err == nil {
		// Our end was sent before; the peer may be writing to nobody.
		s.reset(api.Errorf(api.CodeUnavailable, "the other end has closed the stream"))
	} else {
		s.closeWrite()
		if len(s.out) > 0 {
			s.linger = time.AfterFunc(lingerTime, s.giveUp)
		}
	}
	stopTimer(s.readTick)
	stopTimer(s.writeTick)
	s.settle()
	return nil
}

// giveUp drops what a closed stream still has to send.
func (s *stream) giveUp() {
	s.m.mu.Lock()
	defer s.m.mu.Unlock()
	if s.m.streams[s.id] == s {
		s.reset(api.Errorf(api.CodeUnavailable, "the rest of the stream was not taken within %v", lingerTime))
	}
}

// CloseWithError tears the stream: the peer's reads and writes fail with the reason (an api.Error if err has one).
// What was written and is not sent yet is dropped.
func (s *stream) CloseWithError(err error) error {
	if err == nil {
		return s.Close()
	}
	reason := s.m.o.tell(err)
	s.m.mu.Lock()
	defer s.m.mu.Unlock()
	if !s.closed {
		s.reset(reason)
		s.closed, s.shut = true, true
		stopTimer(s.readTick)
		stopTimer(s.writeTick)
	}
	return nil
}

func (s *stream) LocalAddr() net.Addr  { return s.m.raw.LocalAddr() }
func (s *stream) RemoteAddr() net.Addr { return s.m.raw.RemoteAddr() }

func (s *stream) SetDeadline(t time.Time) error {
	return errors.Join(s.SetReadDeadline(t), s.SetWriteDeadline(t))
}

func (s *stream) SetReadDeadline(t time.Time) error {
	s.setDeadline(&s.readBy, &s.readTick, s.canRead, t)
	return nil
}

func (s *stream) SetWriteDeadline(t time.Time) error {
	s.setDeadline(&s.writeBy, &s.writeTick, s.canWrite, t)
	return nil
}

func (s *stream) setDeadline(by *time.Time, tick **time.Timer, c *sync.Cond, t time.Time) {
	s.m.mu.Lock()
	defer s.m.mu.Unlock()
	*by = t
	stopTimer(*tick)
	*tick = nil
	if !t.IsZero() && !s.closed && !expired(t) {
		*tick = time.AfterFunc(time.Until(t), func() {
			s.m.mu.Lock()
			defer s.m.mu.Unlock()
			c.Broadcast()
		})
	}
	c.Broadcast()
}

func stopTimer(t *time.Timer) {
	if t != nil {
		t.Stop()
	}
}

func expired(by time.Time) bool { return !by.IsZero() && !time.Now().Before(by) }
