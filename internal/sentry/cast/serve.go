package cast

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"
)

// Limits of connections to a receiver.
const (
	maxConns  = 64
	firstWait = 10 * time.Second // for the first datagram of a connection
	idleWait  = 2 * time.Minute  // for the next ones
	udpBuffer = 4 << 20          // bytes that the kernel is asked to keep for a receiver; it gives net.core.rmem_max at most
)

// Run sends reports and forgets what is old, until ctx ends.
func (r *Receiver) Run(ctx context.Context) error {
	t := time.NewTicker(r.o.ReportEvery)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
		r.purge()
		for _, o := range r.compose() {
			if err := o.to.write(o.bytes); err != nil {
				r.o.Log.Debug("a report was not sent", "to", o.to.String(), "err", err)
				if o.to.stream != nil {
					o.to.stream.conn.Close()
				}
			}
		}
	}
}

// ListenUDP opens a socket for a receiver at HOST:PORT. If HOST is a multicast group, the socket joins it, on the interface
// of that name, or on one that the kernel chooses.
func ListenUDP(address, iface string) (*net.UDPConn, error) {
	a, err := netip.ParseAddrPort(address)
	if err != nil {
		return nil, fmt.Errorf("listen for stills: %q is not ADDRESS:PORT", address)
	}
	var conn *net.UDPConn
	if a.Addr().IsMulticast() {
		var dev *net.Interface
		if iface != "" {
			if dev, err = net.InterfaceByName(iface); err != nil {
				return nil, fmt.Errorf("listen for stills on %s: %w", iface, err)
			}
		}
		conn, err = net.ListenMulticastUDP("udp", dev, net.UDPAddrFromAddrPort(a))
	} else {
		conn, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(a))
	}
	if err != nil {
		return nil, fmt.Errorf("listen for stills: %w", err)
	}
	if err := conn.SetReadBuffer(udpBuffer); err != nil {
		conn.Close()
		return nil, fmt.Errorf("listen for stills: %w", err)
	}
	return conn, nil
}

// Serve takes the datagrams of a socket until ctx ends, and closes it.
func (r *Receiver) Serve(ctx context.Context, conn PacketConn) error {
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	defer conn.Close()
	buf := make([]byte, MaxDatagram+1)
	for {
		n, from, err := conn.ReadFromUDPAddrPort(buf)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("receive stills: %w", err)
		}
		r.take(buf[:n], path{packets: conn, addr: from})
	}
}

// ServeStreams takes the datagrams of the connections that a TCP or TLS listener accepts, until ctx ends, and closes it.
// Senders that are not authenticated, and connections above 64, are closed.
func (r *Receiver) ServeStreams(ctx context.Context, l net.Listener) error {
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	var conns sync.WaitGroup
	defer conns.Wait()
	defer cancel()
	free := make(chan struct{}, maxConns)
	for {
		conn, err := l.Accept()
		if ctx.Err() != nil {
			if err == nil {
				conn.Close()
			}
			return nil
		}
		if err != nil {
			return fmt.Errorf("accept senders: %w", err)
		}
		select {
		case free <- struct{}{}:
		default:
			r.refuse(conn, "too many connections")
			conn.Close()
			continue
		}
		conns.Go(func() {
			defer func() { <-free }()
			r.serveStream(ctx, conn)
		})
	}
}

func (r *Receiver) serveStream(ctx context.Context, conn net.Conn) {
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	defer conn.Close()
	f := &framed{conn: conn}
	buf := make([]byte, MaxDatagram)
	wait := firstWait
	for {
		b, err := f.read(buf, wait)
		if err != nil {
			if ctx.Err() == nil && (wait == firstWait || !ended(err)) {
				r.refuse(conn, err.Error())
			}
			return
		}
		// A datagram that has come by UDP as well is no fault.
		if o := r.take(b, path{stream: f}); o <= Forged && o != Replayed {
			r.refuse(conn, "a datagram is "+o.String())
			return
		}
		wait = idleWait
	}
}

func (r *Receiver) refuse(conn net.Conn, why string) {
	r.mu.Lock()
	r.stats.Refused++
	r.mu.Unlock()
	r.o.Log.Debug("a connection is closed", "from", conn.RemoteAddr().String(), "why", why)
}
