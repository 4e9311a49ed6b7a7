package wire

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"widecloud/api"
)

// maxSessions bounds the sessions of one identity and purpose. More than one, since an old one may not have noticed its end
// when the new one comes.
const maxSessions = 2

// Server takes the sessions that others dial, and the two requests that strangers may make, on one port.
type Server struct {
	o  Options
	ln net.Listener

	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup

	strangers, known *door

	mu       sync.Mutex
	sessions map[*Session]struct{}
	closed   bool
}

// Listen opens the port and serves it until Close. The context only bounds the opening.
func Listen(ctx context.Context, addr string, o Options) (*Server, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, fmt.Errorf("listen at %s: %w", addr, err)
	}
	ln, err := o.Network.Listen(ctx, addr)
	if err != nil {
		return nil, fmt.Errorf("listen at %s: %w", addr, err)
	}
	s := &Server{o: o, ln: ln, strangers: newStrangersDoor(), known: newKnownDoor(), sessions: map[*Session]struct{}{}}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.wg.Go(s.acceptLoop)
	return s, nil
}

// Addr is where the server listens.
func (s *Server) Addr() net.Addr { return s.ln.Addr() }

// Close closes the port and all sessions that came by it, and waits for their goroutines.
func (s *Server) Close() error {
	s.mu.Lock()
	s.closed = true
	var open []*Session
	for sess := range s.sessions {
		open = append(open, sess)
	}
	s.mu.Unlock()
	s.cancel()
	err := s.ln.Close()
	var wg sync.WaitGroup
	for _, sess := range open {
		wg.Go(func() { sess.CloseWithError(s.shutsDown()) })
	}
	wg.Wait()
	s.wg.Wait()
	s.o.sparse.flush()
	return err
}

func (s *Server) shutsDown() error {
	return api.Errorf(api.CodeUnavailable, "%s shuts down", s.o.Credential.Identity)
}

func (s *Server) acceptLoop() {
	for {
		raw, err := s.ln.Accept()
		if err == nil {
			s.receive(raw)
			continue
		}
		if s.ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
			return
		}
		// Out of files, or the like: it passes.
		s.o.sparse.line(slog.LevelWarn, "", "accept", "error", err)
		select {
		case <-time.After(100 * time.Millisecond):
		case <-s.ctx.Done():
			return
		}
	}
}

// receive welcomes a connection if there is room for it.
func (s *Server) receive(raw net.Conn) {
	v := &visit{Conn: raw, source: sourceOf(raw.RemoteAddr())}
	v.ctx, v.end = context.WithCancelCause(s.ctx)
	if err := v.enter(s.strangers, v.source, errCrowded); err != nil {
		raw.Close()
		s.refused(v, err)
		return
	}
	s.wg.Go(func() {
		defer v.end(nil)
		defer v.leave()
		if err := s.welcome(v); err != nil {
			raw.Close()
			if cause := context.Cause(v.ctx); cause != nil && s.ctx.Err() == nil {
				err = cause // which has made the error
			}
			s.refused(v, err)
		}
	})
}

func (s *Server) refused(v *visit, err error) {
	s.o.sparse.line(slog.LevelInfo, v.source, "refuse connection", "from", v.RemoteAddr().String(), "error", brief(err))
}

// visit is a connection until it is a session, or has got its answer. It is a net.Conn that tells the door when the other
// end lets us wait.
type visit struct {
	net.Conn
	source string
	ctx    context.Context
	end    context.CancelCauseFunc
	slot   atomic.Pointer[slot] // at the door where it is; nil: it has left
}

// enter takes a slot at a door and gives back the one that the visit had.
func (v *visit) enter(d *door, key string, full error) error {
	slot, ok := d.enter(key, func() { v.end(errEvicted) })
	if !ok {
		return full
	}
	if had := v.slot.Swap(slot); had != nil {
		had.leave()
	}
	return nil
}

// leave gives the visit's slot back.
func (v *visit) leave() {
	if had := v.slot.Swap(nil); had != nil {
		had.leave()
	}
}

// Read implements net.Conn.
func (v *visit) Read(p []byte) (int, error) {
	if s := v.slot.Load(); s != nil {
		defer s.wait()()
	}
	return v.Conn.Read(p)
}

// Write implements net.Conn.
func (v *visit) Write(p []byte) (int, error) {
	if s := v.slot.Load(); s != nil {
		defer s.wait()()
	}
	return v.Conn.Write(p)
}

// welcome does the handshake and starts what the client asks for. All of it together has handshakeTime.
func (s *Server) welcome(v *visit) (err error) {
	defer s.outwardTo(v.RemoteAddr()).guard("handshake", &err)
	slow := time.AfterFunc(handshakeTime, func() { v.end(errTooSlow) })
	defer slow.Stop()
	stop := context.AfterFunc(v.ctx, func() { v.Close() })
	defer stop()
	conn := tls.Server(v, &tls.Config{
		Certificates: []tls.Certificate{s.o.Credential.tlsCertificate()},
		MinVersion:   tls.VersionTLS13,
		NextProtos:   []string{protoSession, protoJoin},
		Time:         s.o.Trust.now,
		// Asked for and not demanded, since strangers come to join. VerifyConnection demands it of the others.
		ClientAuth:             tls.RequestClientCert,
		SessionTicketsDisabled: true, // each handshake proves the identity anew
		VerifyConnection: func(cs tls.ConnectionState) error {
			if cs.NegotiatedProtocol == protoJoin {
				return nil
			}
			_, err := verifyConnection(s.o.Trust, cs)
			return err
		},
	})
	if err := conn.HandshakeContext(v.ctx); err != nil {
		return err
	}
	if conn.ConnectionState().NegotiatedProtocol == protoJoin {
		return s.serveJoin(v.ctx, conn)
	}
	a, err := s.o.Trust.expect(conn.ConnectionState().PeerCertificates[0])
	if err != nil {
		return err
	}
	defer s.o.Trust.forget(a)
	if err := v.enter(s.known, a.peer.String(), errCrowded); err != nil {
		return fmt.Errorf("%s: %w", a.peer, err)
	}
	h, err := s.greet(conn, a)
	if err != nil {
		return fmt.Errorf("%s: %w", a.peer, err)
	}
	if !stop() {
		return context.Cause(v.ctx)
	}
	return s.open(conn, v.Conn, a, h)
}

// greet reads the client's hello and answers it.
func (s *Server) greet(conn *tls.Conn, a *arrival) (hello, error) {
	h, err := readHello(conn)
	if err == nil && s.o.Admit != nil {
		err = s.o.Admit(Caller{Identity: a.peer, Purpose: h.Purpose, Key: a.key})
	}
	answer := newHello(s.o, h.Purpose)
	if err != nil {
		answer.Refused = newOutward(s.o, a.peer).tell(err)
	}
	if sendErr := sendHello(conn, answer); sendErr != nil {
		return h, sendErr
	}
	if err != nil {
		conn.Close()
	}
	return h, err
}

// open starts a session.
func (s *Server) open(conn *tls.Conn, raw net.Conn, a *arrival, h hello) error {
	o := s.o
	o.OnSession = func(sess *Session) {
		if s.keep(sess) && s.o.OnSession != nil {
			s.o.OnSession(sess)
		}
	}
	sess, err := newSession(conn, raw, a, h, o, false)
	if err != nil {
		return fmt.Errorf("%s: %w", a.peer, err)
	}
	s.wg.Go(func() {
		sess.wg.Wait()
		s.mu.Lock()
		delete(s.sessions, sess)
		s.mu.Unlock()
	})
	return nil
}

// keep enters a session in the list of those that Close closes. If its identity has more than it may, the oldest is closed:
// the other end has most likely been started anew.
func (s *Server) keep(sess *Session) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		sess.fail(s.shutsDown()) // not a wait for its end: this is one of the goroutines that Close waits for
		return false
	}
	s.sessions[sess] = struct{}{}
	var same int
	oldest := sess
	for other := range s.sessions {
		if other.peer == sess.peer && other.purpose == sess.purpose {
			same++
			if other.id < oldest.id {
				oldest = other
			}
		}
	}
	if same > maxSessions {
		delete(s.sessions, oldest)
		oldest.fail(api.Errorf(api.CodeConflict, "%s has opened a newer %s session; %d at once are kept", sess.peer, sess.purpose, maxSessions))
	}
	return true
}

// outwardTo is for those who have not proved who they are.
func (s *Server) outwardTo(addr net.Addr) outward {
	out := newOutward(s.o, Identity{})
	out.peer = sourceOf(addr)
	return out
}
