package wire

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"time"

	"widecloud/api"
)

// maxHandshakes bounds what strangers can make us do at once.
const maxHandshakes = 128

// Server takes the sessions that others dial, and the two requests that strangers may make, on one port.
type Server struct {
	o  Options
	ln net.Listener

	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup
	slots  chan struct{}

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
	s := &Server{o: o, ln: ln, slots: make(chan struct{}, maxHandshakes), sessions: map[*Session]struct{}{}}
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
		wg.Go(func() { sess.CloseWithError(api.Errorf(api.CodeUnavailable, "%s shuts down", s.o.Credential.Identity)) })
	}
	wg.Wait()
	s.wg.Wait()
	return err
}

func (s *Server) acceptLoop() {
	for {
		raw, err := s.ln.Accept()
		if err != nil {
			if s.ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				return
			}
			// Out of files, or the like: it passes.
			s.o.Log.Warn("accept", "error", err)
			select {
			case <-time.After(100 * time.Millisecond):
			case <-s.ctx.Done():
				return
			}
			continue
		}
		select {
		case s.slots <- struct{}{}:
		default:
			s.o.Log.Warn("too many handshakes at once", "from", raw.RemoteAddr().String())
			raw.Close()
			continue
		}
		s.wg.Go(func() {
			defer func() { <-s.slots }()
			if err := s.welcome(raw); err != nil {
				raw.Close()
				s.o.Log.Info("refuse connection", "from", raw.RemoteAddr().String(), "error", err)
			}
		})
	}
}

// welcome does the handshake and starts what the client asks for.
func (s *Server) welcome(raw net.Conn) error {
	ctx, cancel := context.WithTimeout(s.ctx, handshakeTime)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { raw.Close() })
	defer stop()
	conn := tls.Server(raw, &tls.Config{
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
	if err := conn.HandshakeContext(ctx); err != nil {
		return err
	}
	if conn.ConnectionState().NegotiatedProtocol == protoJoin {
		return s.serveJoin(ctx, conn)
	}
	peer, err := verifyConnection(s.o.Trust, conn.ConnectionState())
	if err != nil {
		return err
	}
	h, err := readHello(conn)
	if err == nil && s.o.Admit != nil {
		err = s.o.Admit(peer, h.Purpose)
	}
	answer := hello{Version: 1, Purpose: h.Purpose, Window: s.o.Window}
	if err != nil {
		answer.Refused = asError(err)
	}
	if sendErr := sendHello(conn, answer); sendErr != nil {
		return sendErr
	}
	if err != nil {
		conn.Close()
		return fmt.Errorf("%s: %w", peer, err)
	}
	if !stop() {
		return context.Cause(ctx)
	}
	o := s.o
	o.OnSession = func(sess *Session) {
		s.mu.Lock()
		closed := s.closed
		if !closed {
			s.sessions[sess] = struct{}{}
		}
		s.mu.Unlock()
		if closed {
			// Not a wait for its end: this is one of the goroutines that Server.Close waits for.
			sess.m.fail(ErrClosed, api.Errorf(api.CodeUnavailable, "%s shuts down", s.o.Credential.Identity))
			return
		}
		if s.o.OnSession != nil {
			s.o.OnSession(sess)
		}
	}
	sess, err := newSession(conn, raw, peer, h.Purpose, o, false, h.Window)
	if err != nil {
		return err
	}
	s.wg.Go(func() {
		sess.wg.Wait()
		s.mu.Lock()
		delete(s.sessions, sess)
		s.mu.Unlock()
	})
	return nil
}

// Dialer keeps a session with a peer up.
type Dialer struct {
	Addrs   []string // tried in turn
	Peer    Identity
	Purpose Purpose
	Options Options

	MinBackoff time.Duration  // first wait after a failure; 0: 200 ms
	MaxBackoff time.Duration  // longest wait; 0: 10 s
	Jitter     func() float64 // in [0, 1); nil: random. A wait is between half and the whole of the backoff

	Up   func(*Session) // a session is there; may be nil
	Down func(error)    // a session has ended or could not be made, and why; may be nil
}

// Run dials until the context is done, closes the session then, and returns nil. Up and Down are called from this
// goroutine, one after the other.
func (d *Dialer) Run(ctx context.Context) error {
	if len(d.Addrs) == 0 {
		return fmt.Errorf("dial %s: no address is given", d.Peer)
	}
	least, most, jitter := d.MinBackoff, d.MaxBackoff, d.Jitter
	if least <= 0 {
		least = 200 * time.Millisecond
	}
	if most <= 0 {
		most = 10 * time.Second
	}
	if jitter == nil {
		jitter = rand.Float64
	}
	wait := least
	for i := 0; ; i++ {
		s, err := Dial(ctx, d.Addrs[i%len(d.Addrs)], d.Peer, d.Purpose, d.Options)
		if ctx.Err() != nil {
			if s != nil {
				s.Close()
			}
			return nil
		}
		if err == nil {
			began := time.Now()
			if d.Up != nil {
				d.Up(s)
			}
			select {
			case <-s.Done():
			case <-ctx.Done():
			}
			s.Close()
			err = s.Err()
			// One that is closed at once, again and again, does not reset the wait.
			if time.Since(began) >= most {
				wait = least
			}
			i-- // the address works
		}
		if d.Down != nil {
			d.Down(err)
		}
		pause := time.NewTimer(wait/2 + time.Duration(jitter()*float64(wait/2)))
		select {
		case <-pause.C:
		case <-ctx.Done():
			pause.Stop()
			return nil
		}
		wait = min(2*wait, most)
	}
}
