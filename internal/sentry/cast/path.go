package cast

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"time"
)

// PacketConn is what the package needs of a *net.UDPConn.
type PacketConn interface {
	ReadFromUDPAddrPort(b []byte) (n int, from netip.AddrPort, err error)
	WriteToUDPAddrPort(b []byte, to netip.AddrPort) (int, error)
	Close() error
}

// path is the way that a datagram took, and that its answer takes. The zero value has no way back.
type path struct {
	packets PacketConn
	addr    netip.AddrPort
	stream  *framed
}

// reliable tells whether nothing gets lost on the way.
func (p path) reliable() bool { return p.stream != nil }

func (p path) String() string {
	switch {
	case p.stream != nil:
		return p.stream.conn.RemoteAddr().Network() + " " + p.stream.conn.RemoteAddr().String()
	case p.packets != nil:
		return p.addr.String()
	}
	return ""
}

// write sends a datagram back; without a way back it is nobody's.
func (p path) write(b []byte) error {
	switch {
	case p.stream != nil:
		return p.stream.write(b)
	case p.packets != nil:
		_, err := p.packets.WriteToUDPAddrPort(b, p.addr)
		return err
	}
	return nil
}

// writeTimeout is how long a connection may take no byte.
const writeTimeout = 5 * time.Second

// framed is a connection that carries datagrams, each with its length before it.
type framed struct {
	conn net.Conn

	mu  sync.Mutex // of writing
	out []byte
}

// write sends a datagram. After an error the connection is of no use.
func (f *framed) write(b []byte) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.out = append(binary.BigEndian.AppendUint16(f.out[:0], uint16(len(b))), b...)
	if err := f.conn.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
		return err
	}
	_, err := f.conn.Write(f.out)
	return err
}

// read reads a datagram into buf, and waits for it no longer than wait.
func (f *framed) read(buf []byte, wait time.Duration) ([]byte, error) {
	if err := f.conn.SetReadDeadline(time.Now().Add(wait)); err != nil {
		return nil, err
	}
	if _, err := io.ReadFull(f.conn, buf[:2]); err != nil {
		return nil, err
	}
	n := int(binary.BigEndian.Uint16(buf))
	if n < headerBytes+tagBytes || n > len(buf) {
		return nil, fmt.Errorf("a datagram of %d bytes in a stream: %w", n, errShort)
	}
	_, err := io.ReadFull(f.conn, buf[:n])
	return buf[:n], err
}

// ended tells whether an error of a read says that the socket was closed.
func ended(err error) bool { return errors.Is(err, net.ErrClosed) || errors.Is(err, io.EOF) }
