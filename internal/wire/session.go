package wire

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"widecloud/api"
)

// Purpose says what a session is for. Two sessions join a pair of sites, so that bulk never delays control.
type Purpose string

// The purposes.
const (
	Control Purpose = "control"
	Bulk    Purpose = "bulk"
)

const (
	protoSession = "widecloud/1"
	protoJoin    = "widecloud-join/1"

	defaultKeepAlive = 5 * time.Second
	defaultDeadAfter = 15 * time.Second
	defaultWindow    = 256 << 10
	defaultSendBulk  = 256 << 10

	handshakeTime = 10 * time.Second // for all of it, a join request and its answer too
	maxHello      = 8 << 10
)

// Options says how sessions are made, by Listen and by Dial.
type Options struct {
	Credential *Credential // own identity
	Trust      *Trust      // whom to believe
	Network    Network     // nil: TCP{}
	// Handler answers what the peer asks for by the session; PeerOf(r.Context()) says who asks. Nil answers everything
	// with 404.
	Handler http.Handler
	// Admit may refuse a caller whose certificate is genuine; the dialer gets the reason. Listen only; nil admits all.
	Admit func(Caller) error
	// OnSession is told of every session, before the first request of the peer is handled. It may close it. It must not
	// wait for a call that makes the peer call back.
	OnSession func(*Session)
	// Join and Peer answer the two requests that come without a certificate. Listen only; nil refuses them.
	Join func(context.Context, JoinRequest) (JoinReply, error)
	Peer func(context.Context, PeerRequest) (PeerReply, error)

	KeepAlive  time.Duration // between pings; 0: 5 s
	DeadAfter  time.Duration // of silence, the session is closed; 0: 15 s
	Window     int           // octets per stream that may be under way or unread; 0: 256 KiB; 16 KiB to 16 MiB
	SendBuffer int           // kernel's send buffer of bulk sessions, octets; 0: 256 KiB; less means quicker back-pressure
	Log        *slog.Logger  // nil: none
	Release    *Release      // nil: ThisRelease; tests play older and newer ones

	sparse *sparseLog // on Log; one for all sessions of a port
}

func (o Options) withDefaults() (Options, error) {
	if o.Credential == nil || o.Trust == nil {
		return o, errors.New("options: credential and trust are needed")
	}
	if o.Credential.Identity.Site != o.Trust.Site() {
		return o, fmt.Errorf("options: credential of %s with the trust set of site %q", o.Credential.Identity, o.Trust.Site())
	}
	if o.Network == nil {
		o.Network = TCP{}
	}
	if o.Handler == nil {
		o.Handler = http.NotFoundHandler()
	}
	if o.KeepAlive <= 0 {
		o.KeepAlive = defaultKeepAlive
	}
	if o.DeadAfter <= 0 {
		o.DeadAfter = max(defaultDeadAfter, 3*o.KeepAlive)
	}
	if o.Window == 0 {
		o.Window = defaultWindow
	}
	if o.Window < minWindow || o.Window > maxWindow {
		return o, fmt.Errorf("options: window of %d octets is not within %d and %d", o.Window, minWindow, maxWindow)
	}
	if o.SendBuffer <= 0 {
		o.SendBuffer = defaultSendBulk
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Release == nil {
		own := ThisRelease()
		o.Release = &own
	}
	o.sparse = newSparseLog(o.Log)
	return o, nil
}

// Session joins two identities: calls and streams in both directions, whoever dialled. All methods may be called from
// any goroutine.
type Session struct {
	id      uint64
	peer    Identity
	key     string
	ends    time.Time
	purpose Purpose
	agreed  agreement
	out     outward
	memory  budget       // of the messages that the peer has us hold
	serving atomic.Int32 // the peer's requests
	m       *mux
	trust   *Trust
	client  *http.Client
	ctx     context.Context // of the peer's requests
	cancel  context.CancelFunc
	wg      sync.WaitGroup
}

// lastSession numbers the process's sessions.
var lastSession atomic.Uint64

// ID tells this session from every other of the process, also from those that have ended.
func (s *Session) ID() uint64 { return s.id }

// Peer says who is at the other end; the certificate proves it.
func (s *Session) Peer() Identity { return s.peer }

// Key names the key of the peer's certificate, as Credential.Key does.
func (s *Session) Key() string { return s.key }

// Ends is when the peer's certificate does.
func (s *Session) Ends() time.Time { return s.ends }

// RemoteAddr is where the other end is reached.
func (s *Session) RemoteAddr() net.Addr { return s.m.raw.RemoteAddr() }

// Purpose says what the session is for.
func (s *Session) Purpose() Purpose { return s.purpose }

// Done is closed when the session has ended.
func (s *Session) Done() <-chan struct{} { return s.m.done }

// Err says why the session has ended; nil before. The chain has ErrClosed, and an api.Error if the peer gave a reason.
func (s *Session) Err() error {
	s.m.mu.Lock()
	defer s.m.mu.Unlock()
	return s.m.err
}

// RTT is the smoothed round-trip time of pings, including their wait behind what the sockets hold; zero before the
// first answer.
func (s *Session) RTT() time.Duration {
	s.m.mu.Lock()
	defer s.m.mu.Unlock()
	return s.m.rtt
}

// Answered is when the newest ping that the other end has answered was sent: both directions have worked since. Zero
// before the first answer.
func (s *Session) Answered() time.Time {
	s.m.mu.Lock()
	defer s.m.mu.Unlock()
	return s.m.answered
}

// Traffic is how many bytes the session has sent and received, before they are encrypted.
func (s *Session) Traffic() (sent, received int64) { return s.m.sent.Load(), s.m.received.Load() }

// Close ends the session with all its calls and streams, and waits until its goroutines have ended (requests of the
// peer that are being handled get their context cancelled, and are not waited for).
func (s *Session) Close() error {
	s.CloseWithError(api.Errorf(api.CodeUnavailable, "session is closed"))
	return nil
}

// CloseWithError is Close with a reason that the peer gets to see.
func (s *Session) CloseWithError(err error) {
	s.fail(err)
	s.wg.Wait()
}

// fail is CloseWithError without the wait.
func (s *Session) fail(err error) {
	s.m.fail(fmt.Errorf("%w by this end: %w", ErrClosed, err), s.out.tell(err))
}

// newSession starts a session on a connection whose peer is verified.
func newSession(conn *tls.Conn, raw net.Conn, a *arrival, h hello, o Options, dialer bool) (*Session, error) {
	if h.Purpose == Bulk {
		tune(raw, o.SendBuffer)
	}
	s := &Session{
		id: lastSession.Add(1), peer: a.peer, key: a.key, ends: a.ends, purpose: h.Purpose, agreed: agree(*o.Release, h.release()),
		out: newOutward(o, a.peer), trust: o.Trust,
	}
	s.memory.give(sessionMemory)
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.m = newMux(conn, raw, muxOptions{
		dialer: dialer, window: o.Window, peerWin: h.Window, keepAlive: o.KeepAlive, deadAfter: o.DeadAfter, tell: s.out.tell,
	})
	s.client = &http.Client{
		Transport: &http.Transport{
			DialContext: func(context.Context, string, string) (net.Conn, error) { return s.m.open() },
			// A stream per call: opening one costs no round trip, and net/http never sends a call twice.
			DisableKeepAlives:      true,
			DisableCompression:     true,
			MaxResponseHeaderBytes: maxHeader,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	s.wg.Go(func() {
		<-s.m.done
		s.cancel()
		s.m.wg.Wait()
		s.trust.unregister(s)
	})
	server := &http.Server{
		Handler:           s.bounded(o.Handler),
		ReadHeaderTimeout: headerTime,
		MaxHeaderBytes:    maxHeader,
		ErrorLog:          slog.NewLogLogger(o.Log.Handler(), slog.LevelWarn),
		BaseContext:       func(net.Listener) context.Context { return s.ctx },
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			ctx = context.WithValue(ctx, keyPeer, s.peer)
			ctx = context.WithValue(ctx, keySession, s)
			return context.WithValue(ctx, keyStream, c)
		},
	}
	server.SetKeepAlivesEnabled(false) // a stream carries one request
	// Everything that Close waits for is started before anybody can close; requests are served once OnSession has returned.
	serve := make(chan struct{})
	s.wg.Go(func() {
		select {
		case <-serve:
		case <-s.m.done:
		}
		server.Serve(acceptor{s.m}) // always ends with the session's end, which Err tells
		server.Close()
	})
	if err := s.trust.register(s, a); err != nil {
		s.CloseWithError(err)
		return nil, err
	}
	if o.OnSession != nil {
		o.OnSession(s)
	}
	close(serve)
	return s, nil
}

// bounded refuses what the peer asks for beyond maxStreams requests at once. The streams' own bound does not do: a stream that
// the peer resets is over at once, its handler is not.
func (s *Session) bounded(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer s.serving.Add(-1)
		if s.serving.Add(1) > maxStreams {
			s.writeError(w, api.Errorf(api.CodeUnavailable, "more than %d requests of a session at once", maxStreams))
			return
		}
		h.ServeHTTP(w, r)
	})
}

// acceptor gives the peer's streams to an http.Server.
type acceptor struct{ m *mux }

func (a acceptor) Accept() (net.Conn, error) {
	select {
	case s := <-a.m.accept:
		return s, nil
	case <-a.m.done:
		return nil, net.ErrClosed
	}
}
func (a acceptor) Close() error   { return nil }
func (a acceptor) Addr() net.Addr { return a.m.raw.LocalAddr() }

// hello is the first thing that each end says inside TLS, the dialer first: 16 bits of length, then JSON.
type hello struct {
	Version int        `json:"version"`
	Purpose Purpose    `json:"purpose"`
	Window  int        `json:"window"`
	Refused *api.Error `json:"refused,omitempty"` // the listener's: why there is no session

	// Level and Can are the sender's Release. The release before levels names neither, and ignores both.
	Level int          `json:"level,omitempty" since:"1"`
	Can   []Capability `json:"can,omitempty" since:"1"`
}

func newHello(o Options, purpose Purpose) hello {
	return hello{Version: 1, Purpose: purpose, Window: o.Window, Level: o.Release.Level, Can: o.Release.Can}
}

func (h hello) release() Release { return Release{h.Level, h.Can} }

func sendHello(w io.Writer, h hello) error {
	text, err := json.Marshal(h)
	if err != nil {
		return fmt.Errorf("send hello: %w", err)
	}
	if _, err := w.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(text))), text...)); err != nil {
		return fmt.Errorf("send hello: %w", err)
	}
	return nil
}

func readHello(r io.Reader) (hello, error) {
	var h hello
	var size [2]byte
	if _, err := io.ReadFull(r, size[:]); err != nil {
		return h, fmt.Errorf("read hello: %w", err)
	}
	n := binary.BigEndian.Uint16(size[:])
	if n > maxHello {
		return h, fmt.Errorf("read hello: %d octets are too many", n)
	}
	text := make([]byte, n)
	if _, err := io.ReadFull(r, text); err != nil {
		return h, fmt.Errorf("read hello: %w", err)
	}
	if err := json.Unmarshal(text, &h); err != nil {
		return h, fmt.Errorf("read hello: %w", err)
	}
	if h.Refused != nil {
		return h, h.Refused
	}
	if h.Version != 1 {
		return h, fmt.Errorf("read hello: the other end speaks version %d, this one 1", h.Version)
	}
	if h.Purpose != Control && h.Purpose != Bulk {
		return h, fmt.Errorf("read hello: purpose %q is not known", h.Purpose)
	}
	if h.Window < minWindow || h.Window > maxWindow {
		return h, fmt.Errorf("read hello: window of %d octets", h.Window)
	}
	if h.Level < 0 {
		return h, fmt.Errorf("read hello: level %d is negative", h.Level)
	}
	return h, nil
}

// Dial makes a session with the given peer at addr. Whoever else answers there is refused.
func Dial(ctx context.Context, addr string, peer Identity, purpose Purpose, o Options) (*Session, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	s, err := dial(ctx, addr, peer, purpose, o)
	if err != nil {
		return nil, fmt.Errorf("dial %s at %s: %w", peer, addr, err)
	}
	return s, nil
}

func dial(ctx context.Context, addr string, peer Identity, purpose Purpose, o Options) (*Session, error) {
	ctx, cancel := context.WithTimeout(ctx, handshakeTime)
	defer cancel()
	raw, err := o.Network.Dial(ctx, addr)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { raw.Close() })
	conn := tls.Client(raw, &tls.Config{
		Certificates:       []tls.Certificate{o.Credential.tlsCertificate()},
		MinVersion:         tls.VersionTLS13,
		NextProtos:         []string{protoSession},
		Time:               o.Trust.now,
		InsecureSkipVerify: true, // names are not host names here: VerifyConnection does all of it
		VerifyConnection: func(cs tls.ConnectionState) error {
			id, err := verifyConnection(o.Trust, cs)
			if err == nil && id != peer {
				err = fmt.Errorf("%s answers there", id)
			}
			return err
		},
	})
	a, h, err := func() (a *arrival, h hello, err error) {
		if err := conn.HandshakeContext(ctx); err != nil {
			return nil, h, err
		}
		if a, err = o.Trust.expect(conn.ConnectionState().PeerCertificates[0]); err != nil {
			return nil, h, err
		}
		if err := sendHello(conn, newHello(o, purpose)); err != nil {
			return a, h, err
		}
		h, err = readHello(conn)
		if err == nil && h.Purpose != purpose {
			err = fmt.Errorf("asked for a %s session, got %s", purpose, h.Purpose)
		}
		return a, h, err
	}()
	if a != nil {
		defer o.Trust.forget(a)
	}
	if !stop() && err == nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		raw.Close()
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		return nil, err
	}
	return newSession(conn, raw, a, h, o, true)
}

func verifyConnection(t *Trust, cs tls.ConnectionState) (Identity, error) {
	if cs.NegotiatedProtocol != protoSession {
		return Identity{}, fmt.Errorf("application protocol %q is not known", cs.NegotiatedProtocol)
	}
	if len(cs.PeerCertificates) == 0 {
		return Identity{}, errors.New("no certificate is shown")
	}
	return t.Verify(cs.PeerCertificates[0])
}
