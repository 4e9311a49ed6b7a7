package dns64

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/miekg/dns"
)

// listener is one address, by both transports.
type listener struct {
	addr netip.AddrPort
	udp  net.PacketConn
	tcp  net.Listener
}

// do runs f in the Server's namespace.
func (s *Server) do(f func() error) error {
	if s.ns == nil {
		return f()
	}
	return s.ns.Do(f)
}

func (s *Server) open(a netip.AddrPort) (*listener, error) {
	l := &listener{}
	suffix := "6" // [::] is not to take IPv4's port as well
	if a.Addr().Is4() {
		suffix = "4"
	}
	err := s.do(func() error {
		c := net.ListenConfig{Control: freebind}
		t, err := c.Listen(context.Background(), "tcp"+suffix, a.String())
		if err != nil {
			return err
		}
		l.addr = netip.AddrPortFrom(a.Addr(), t.Addr().(*net.TCPAddr).AddrPort().Port())
		if l.udp, err = c.ListenPacket(context.Background(), "udp"+suffix, l.addr.String()); err != nil {
			return errors.Join(err, t.Close())
		}
		l.tcp = &guard{Listener: t, s: s}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("open listener: %w", err)
	}
	return l, nil
}

// freebind lets a socket have an address that is not there yet, or no longer: it
// comes and goes with the node's being in service.
func freebind(_, _ string, c syscall.RawConn) error {
	var err error
	if e := c.Control(func(fd uintptr) {
		err = syscall.SetsockoptInt(int(fd), syscall.SOL_IP, syscall.IP_FREEBIND, 1) // of IPv6 sockets, too
	}); e != nil {
		return e
	}
	return os.NewSyscallError("setsockopt IP_FREEBIND", err)
}

func (l *listener) servers(s *Server) []*dns.Server {
	return []*dns.Server{
		{PacketConn: l.udp, Handler: s, UDPSize: dns.DefaultMsgSize},
		{Listener: l.tcp, Handler: s, ReadTimeout: 5 * time.Second, WriteTimeout: 5 * time.Second},
	}
}

func (l *listener) close() error {
	err := errors.Join(l.udp.Close(), l.tcp.Close())
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// guard is a TCP listener that hangs up on those who may not ask, and when there
// are too many connections: a connection costs us more than its maker.
type guard struct {
	net.Listener
	s *Server
}

func (g *guard) Accept() (net.Conn, error) {
	for {
		c, err := g.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if !g.s.settings.Load().mayAsk(c.RemoteAddr()) {
			g.s.fail(failNotAllowed)
			c.Close()
			continue
		}
		select {
		case g.s.conns <- struct{}{}:
			return &counted{Conn: c, done: sync.OnceFunc(func() { <-g.s.conns })}, nil
		default:
			g.s.fail(failOverload)
			c.Close()
		}
	}
}

// counted is a connection that gives its place back.
type counted struct {
	net.Conn
	done func()
}

func (c *counted) Close() error {
	c.done()
	return c.Conn.Close()
}

// addrOf is the IP address of a UDP or TCP peer; invalid for anything else.
func addrOf(a net.Addr) netip.Addr {
	var ap netip.AddrPort
	switch a := a.(type) {
	case *net.UDPAddr:
		ap = a.AddrPort()
	case *net.TCPAddr:
		ap = a.AddrPort()
	}
	return ap.Addr().Unmap().WithZone("")
}

func (s *settings) mayAsk(from net.Addr) bool {
	a := addrOf(from)
	return slices.ContainsFunc(s.allowed, func(p netip.Prefix) bool { return p.Contains(a) })
}
