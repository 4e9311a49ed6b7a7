package wire

import (
	"context"
	"net"
	"syscall"
	"time"
)

// Network is where sessions run: TCP, or a Memory's node.
type Network interface {
	Listen(ctx context.Context, addr string) (net.Listener, error)
	Dial(ctx context.Context, addr string) (net.Conn, error)
}

// TCP is the host's network.
type TCP struct {
	// Source, if set, is the local IP address of dialled connections.
	Source net.IP
}

// Listen opens a TCP port.
func (TCP) Listen(ctx context.Context, addr string) (net.Listener, error) {
	// The sessions' own keep-alive is quicker than the kernel's.
	return (&net.ListenConfig{KeepAlive: -1}).Listen(ctx, "tcp", addr)
}

// Dial connects to a TCP port.
func (t TCP) Dial(ctx context.Context, addr string) (net.Conn, error) {
	d := net.Dialer{KeepAlive: -1, Timeout: 10 * time.Second}
	if t.Source != nil {
		d.LocalAddr = &net.TCPAddr{IP: t.Source}
	}
	return d.DialContext(ctx, "tcp", addr)
}

const (
	tcpNotSentLowat = 25 // TCP_NOTSENT_LOWAT of linux/tcp.h
	notSent         = 32 << 10
)

// tune keeps what a bulk connection holds in the kernel small. A hypervisor measures the link by how fast its writes are
// taken: with megabytes of buffers it believes in a link that is not there, switches over too early, and the guest
// stands still for as long as the buffers take to drain.
func tune(conn net.Conn, sendBuffer int) {
	tcp, ok := conn.(*net.TCPConn)
	if !ok {
		return
	}
	tcp.SetWriteBuffer(sendBuffer)
	if rc, err := tcp.SyscallConn(); err == nil {
		rc.Control(func(fd uintptr) {
			syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, tcpNotSentLowat, notSent)
		})
	}
}
