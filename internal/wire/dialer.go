package wire

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"
)

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
