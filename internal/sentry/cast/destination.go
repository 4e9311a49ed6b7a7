package cast

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"time"

	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
)

// Transport is how datagrams get to a destination.
type Transport string

// The transports.
const (
	UDP Transport = "udp"
	TCP Transport = "tcp"
	TLS Transport = "tls"
)

// Destination is where a Sender sends to: a receiver, or a multicast group of them.
type Destination struct {
	Name      string // in logs and metrics; unique
	Address   string // HOST:PORT; of a host's addresses the first IPv6 one is taken, else the first IPv4 one
	Transport Transport
	Key       Key
	Rate      int64       // bits a second, headers of UDP and IPv6 included; datagrams are spread over time accordingly
	TLS       *tls.Config // for TLS
	// Interface and Hops are for multicast groups: where the datagrams leave, and how many routers they may pass (RFC 3542
	// §6.3); "" and 0: as the kernel chooses, which is one hop.
	Interface string
	Hops      int
}

// Bounds of Rate, bits a second.
const (
	MinRate = 10_000
	MaxRate = 10_000_000_000
)

// Times of a destination.
const (
	dialTimeout  = 5 * time.Second
	retryAfter   = time.Second
	lookupAgain  = time.Minute      // after one that was good
	silenceLimit = 30 * time.Second // of reports, after which a connection is given up
	paceSlack    = time.Millisecond // what may be sent ahead of time, so that not each datagram takes a timer
	packetBytes  = 48               // headers of IPv6 and UDP
	streamBuffer = 256 << 10        // bytes that the kernel may keep of a connection: what is in it gets old
)

// DestinationState is what a Sender has counted for a destination.
type DestinationState struct {
	Name      string
	Address   string // in use; empty: none is known, or there is no connection
	Transport Transport
	Stills    uint64 // sent
	Skipped   uint64 // not sent: a newer one was there before the line was free
	Failed    uint64 // not sent whole: there was an error
	Datagrams uint64
	Bytes     uint64
	Waiting   int    // stills
	Trouble   string // the last error; empty: it is over
}

func (d *Destination) check() error {
	host, port, err := net.SplitHostPort(d.Address)
	if n, perr := strconv.ParseUint(port, 10, 16); err != nil || host == "" || perr != nil || n == 0 {
		return fmt.Errorf("address %q is not HOST:PORT", d.Address)
	}
	switch {
	case d.Transport != UDP && d.Transport != TCP && d.Transport != TLS:
		return fmt.Errorf("transport %q is not udp, tcp or tls", d.Transport)
	case d.Transport == TLS && d.TLS == nil:
		return errors.New("transport tls needs a TLS configuration")
	case d.Rate < MinRate || d.Rate > MaxRate:
		return fmt.Errorf("a rate of %d bit/s is not between %d and %d", d.Rate, MinRate, int64(MaxRate))
	case d.Hops < 0 || d.Hops > 255:
		return fmt.Errorf("%d hops are not between 0 and 255", d.Hops)
	case d.Key == Key{}:
		return errors.New("there is no key")
	}
	return nil
}

// openPackets opens the socket that a UDP destination is sent to from, and reports come to. It is not connected: the
// message that nobody listens there would take the place of a datagram.
func openPackets(d Destination) (PacketConn, error) {
	conn, err := net.ListenUDP("udp", nil)
	if err != nil {
		return nil, err
	}
	if d.Interface == "" && d.Hops == 0 {
		return conn, nil
	}
	if err := setMulticast(conn, d); err != nil {
		conn.Close()
		return nil, err
	}
	return conn, nil
}

func setMulticast(conn *net.UDPConn, d Destination) error {
	var dev *net.Interface
	if d.Interface != "" {
		var err error
		if dev, err = net.InterfaceByName(d.Interface); err != nil {
			return fmt.Errorf("interface %s: %w", d.Interface, err)
		}
	}
	p4, p6 := ipv4.NewPacketConn(conn), ipv6.NewPacketConn(conn)
	set4 := func() error {
		if dev != nil {
			if err := p4.SetMulticastInterface(dev); err != nil {
				return err
			}
		}
		if d.Hops > 0 {
			return p4.SetMulticastTTL(d.Hops)
		}
		return nil
	}
	set6 := func() error {
		if dev != nil {
			if err := p6.SetMulticastInterface(dev); err != nil {
				return err
			}
		}
		if d.Hops > 0 {
			return p6.SetMulticastHopLimit(d.Hops)
		}
		return nil
	}
	host, _, _ := net.SplitHostPort(d.Address) // check has seen it
	if a, err := netip.ParseAddr(host); err == nil && a.Is4() {
		return set4()
	}
	return set6()
}

// destination is a Destination at work.
type destination struct {
	Destination
	group  *group
	sender *Sender
	queue  *queue
	log    *slog.Logger
	due    time.Time // of the next datagram

	mu    sync.Mutex
	state DestinationState
	addr  netip.AddrPort // of a UDP destination
}

func (d *destination) count(f func(*DestinationState)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	f(&d.state)
}

func (d *destination) snapshot() DestinationState {
	d.mu.Lock()
	defer d.mu.Unlock()
	s := d.state
	s.Name, s.Transport, s.Waiting = d.Name, d.Transport, d.queue.len()
	return s
}

// trouble notes an error, or with nil that all is well, and logs it when that is news.
func (d *destination) trouble(err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case err != nil:
		if d.state.Trouble == "" {
			d.log.Warn("a destination cannot be reached", "address", d.Address, "err", err)
		}
		d.state.Trouble = err.Error()
	case d.state.Trouble != "":
		d.log.Info("a destination is reached again", "address", d.Address)
		d.state.Trouble = ""
	}
}

func (d *destination) run(ctx context.Context) {
	serve := d.serveStream
	if d.Transport == UDP {
		serve = d.servePackets
	}
	for ctx.Err() == nil {
		if err := serve(ctx); err != nil && ctx.Err() == nil {
			d.trouble(err)
			wait(ctx, retryAfter)
		}
	}
}

// wait waits, or until ctx ends; it tells whether it has not.
func wait(ctx context.Context, t time.Duration) bool {
	timer := time.NewTimer(t)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

// servePackets sends from a socket until it fails or ctx ends.
func (d *destination) servePackets(ctx context.Context) error {
	conn, err := d.sender.o.Packets(d.Destination)
	if err != nil {
		return fmt.Errorf("open a socket: %w", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	var beside sync.WaitGroup
	defer beside.Wait()
	defer conn.Close()
	defer cancel()
	resolved := make(chan struct{})
	beside.Go(func() { d.resolve(ctx, resolved) })
	var readErr error
	beside.Go(func() {
		defer cancel() // a socket that fails is opened again
		buf := make([]byte, MaxDatagram+1)
		for {
			n, from, err := conn.ReadFromUDPAddrPort(buf)
			if err != nil {
				readErr = err
				return
			}
			d.sender.report(d, buf[:n], from.String())
		}
	})
	select {
	case <-resolved:
	case <-ctx.Done():
	}
	for batch := d.queue.take(ctx); batch != nil; batch = d.queue.take(ctx) {
		d.mu.Lock()
		to := d.addr
		d.mu.Unlock()
		if err := d.sendAll(ctx, batch, true, func(b []byte) error { _, err := conn.WriteToUDPAddrPort(b, to); return err }); ctx.Err() == nil {
			d.trouble(err) // the socket is good for the next one
		}
	}
	conn.Close()
	beside.Wait()
	if ended(readErr) {
		return nil
	}
	return readErr
}

// resolve finds the destination's address, closes resolved when there is one, and looks again from time to time.
func (d *destination) resolve(ctx context.Context, resolved chan struct{}) {
	host, portText, _ := net.SplitHostPort(d.Address) // check has seen it
	port, _ := strconv.ParseUint(portText, 10, 16)
	for first := true; ; {
		addr, err := netip.ParseAddr(host)
		literal := err == nil
		if !literal {
			addr, err = d.lookup(ctx, host)
		}
		if ctx.Err() != nil {
			return
		}
		again := lookupAgain
		if err == nil {
			d.mu.Lock()
			d.addr = netip.AddrPortFrom(addr, uint16(port))
			d.state.Address = d.addr.String()
			d.mu.Unlock()
			if first {
				close(resolved)
				first = false
			}
		} else {
			d.trouble(fmt.Errorf("find the address: %w", err))
			again = retryAfter
		}
		if literal || !wait(ctx, again) {
			return
		}
	}
}

// lookup gives the first IPv6 address of a host, or else the first IPv4 one.
func (d *destination) lookup(ctx context.Context, host string) (netip.Addr, error) {
	all, err := d.sender.o.Lookup(ctx, host)
	if err != nil {
		return netip.Addr{}, err
	}
	if len(all) == 0 {
		return netip.Addr{}, fmt.Errorf("%s has no address", host)
	}
	i := slices.IndexFunc(all, func(a netip.Addr) bool { return a.Is6() && !a.Is4In6() })
	return all[max(i, 0)].Unmap(), nil
}

// serveStream sends over a connection until it fails or ctx ends.
func (d *destination) serveStream(ctx context.Context) error {
	conn, err := d.dial(ctx)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	d.trouble(nil)
	d.count(func(s *DestinationState) { s.Address = conn.RemoteAddr().String() })
	defer d.count(func(s *DestinationState) { s.Address = "" })
	f := &framed{conn: conn}
	var beside sync.WaitGroup
	defer beside.Wait()
	defer conn.Close()
	var readErr error
	beside.Go(func() {
		defer cancel()
		buf := make([]byte, MaxDatagram)
		for {
			b, err := f.read(buf, silenceLimit)
			if err != nil {
				readErr = fmt.Errorf("wait for reports: %w", err)
				return
			}
			d.sender.report(d, b, conn.RemoteAddr().String())
		}
	})
	for batch := d.queue.take(ctx); batch != nil; batch = d.queue.take(ctx) {
		if err := d.sendAll(ctx, batch, false, f.write); err != nil && ctx.Err() == nil {
			return fmt.Errorf("send: %w", err)
		}
	}
	conn.Close()
	beside.Wait()
	return readErr
}

func (d *destination) dial(ctx context.Context) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "tcp", d.Address) // RFC 8305: IPv6 first
	if err != nil {
		return nil, err
	}
	if err := conn.(*net.TCPConn).SetWriteBuffer(streamBuffer); err != nil {
		conn.Close()
		return nil, err
	}
	if d.Transport == TCP {
		return conn, nil
	}
	c := d.TLS.Clone()
	if c.ServerName == "" {
		c.ServerName, _, _ = net.SplitHostPort(d.Address)
	}
	secure := tls.Client(conn, c)
	if err := secure.HandshakeContext(ctx); err != nil {
		conn.Close()
		return nil, err
	}
	return secure, nil
}

// sendAll sends a still's datagrams, spread over time, and gives the first error. Where datagrams may get lost, parity is
// sent with them, and one that cannot be sent is no reason to keep the others.
func (d *destination) sendAll(ctx context.Context, batch []Datagram, lossy bool, write func([]byte) error) (err error) {
	var n, bytes uint64
	for _, dg := range batch {
		if dg.Parity && !lossy {
			continue
		}
		failed := d.pace(ctx, len(dg.Bytes)+packetBytes)
		if failed == nil {
			failed = write(dg.Bytes)
		}
		err = cmp.Or(err, failed)
		if failed != nil && (!lossy || ctx.Err() != nil) {
			break
		}
		if failed == nil {
			n++
			bytes += uint64(len(dg.Bytes))
		}
	}
	d.count(func(s *DestinationState) {
		s.Datagrams += n
		s.Bytes += bytes
		if err == nil {
			s.Stills++
		} else {
			s.Failed++
		}
	})
	return err
}

// pace waits until a datagram of so many bytes may be sent.
func (d *destination) pace(ctx context.Context, bytes int) error {
	now := time.Now()
	if d.due.Before(now) {
		d.due = now
	}
	if ahead := d.due.Sub(now); ahead > paceSlack && !wait(ctx, ahead) {
		return ctx.Err()
	}
	d.due = d.due.Add(time.Duration(int64(bytes) * 8 * int64(time.Second) / d.Rate))
	return nil
}
