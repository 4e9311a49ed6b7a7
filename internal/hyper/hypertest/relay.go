package hypertest

import (
	"context"
	"net"
	"sync"
	"sync/atomic"

	"widecloud/internal/hyper"
)

// Relay is the way between the two ends of a migration, as the agents make it. It can hold a channel after so many bytes
// from the source, and cut everything.
type Relay struct {
	connect func(ctx context.Context, c hyper.Channel) (net.Conn, error)
	hold    map[hyper.Channel]int64

	held  chan struct{} // closed when a channel came to its hold
	once  sync.Once
	free  chan struct{} // closed by Release
	freed sync.Once
	bytes atomic.Int64

	mu    sync.Mutex
	conns []net.Conn
	cut   bool
	wg    sync.WaitGroup
}

// NewRelay leads to the target's MigrateConnect. A channel named in hold stops after that many bytes.
func NewRelay(target hyper.Driver, vm string, hold map[hyper.Channel]int64) *Relay {
	return &Relay{
		connect: func(ctx context.Context, c hyper.Channel) (net.Conn, error) { return target.MigrateConnect(ctx, vm, c) },
		hold:    hold, held: make(chan struct{}), free: make(chan struct{}),
	}
}

// Dial is for hyper.Outgoing.
func (r *Relay) Dial(ctx context.Context, c hyper.Channel) (net.Conn, error) {
	far, err := r.connect(ctx, c)
	if err != nil {
		return nil, err
	}
	near, ours := net.Pipe()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.conns = append(r.conns, far, ours)
	if r.cut {
		far.Close()
		ours.Close()
	}
	r.wg.Add(2)
	go r.pump(far, ours, r.hold[c])
	go r.pump(ours, far, 0)
	return near, nil
}

// Held is closed once a channel has come to its hold.
func (r *Relay) Held() <-chan struct{} { return r.held }

// Release lets the held bytes go.
func (r *Relay) Release() { r.freed.Do(func() { close(r.free) }) }

// Cut ends all connections, as a broken line does.
func (r *Relay) Cut() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.cut = true
	for _, c := range r.conns {
		c.Close()
	}
}

// Close cuts, and waits for the pumps.
func (r *Relay) Close() {
	r.Release()
	r.Cut()
	r.wg.Wait()
}

// Bytes that went through, both ways.
func (r *Relay) Bytes() int64 { return r.bytes.Load() }

func (r *Relay) pump(to, from net.Conn, hold int64) {
	defer r.wg.Done()
	defer to.Close()
	defer from.Close()
	buf := make([]byte, 4<<10)
	seen := int64(0)
	for {
		n, err := from.Read(buf)
		if n > 0 {
			seen += int64(n)
			r.bytes.Add(int64(n))
			if hold > 0 && seen >= hold {
				r.once.Do(func() { close(r.held) })
				<-r.free
			}
			if _, err := to.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// Corrupt makes a dialer whose connections spoil the byte that is written at an offset.
func Corrupt(dial func(context.Context, hyper.Channel) (net.Conn, error), at int64) func(context.Context, hyper.Channel) (net.Conn, error) {
	return func(ctx context.Context, c hyper.Channel) (net.Conn, error) {
		conn, err := dial(ctx, c)
		if err != nil {
			return nil, err
		}
		return &corrupt{Conn: conn, at: at}, nil
	}
}

type corrupt struct {
	net.Conn
	at, seen int64
}

func (c *corrupt) Write(p []byte) (int, error) {
	if i := c.at - c.seen; i >= 0 && i < int64(len(p)) {
		p = append([]byte(nil), p...)
		p[i] ^= 1
	}
	n, err := c.Conn.Write(p)
	c.seen += int64(n)
	return n, err
}
