package agent

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"widecloud/api"
	"widecloud/internal/wire"
)

// LinkOptions say how the controller is reached.
type LinkOptions struct {
	Address    string // HOST:PORT of the site's outside port
	Credential *wire.Credential
	Trust      *wire.Trust
	Network    wire.Network // nil: TCP
	Logger     *slog.Logger
	// KeepAlive and DeadAfter are wire.Options's; 0: its defaults.
	KeepAlive, DeadAfter time.Duration
}

// Link is the way to the site's controller: one session for control and one for bulk, kept up.
type Link struct {
	o LinkOptions

	mu       sync.Mutex
	sessions map[wire.Purpose]*wire.Session
	up       chan struct{} // closed and replaced when a session came up
}

// NewLink makes a link; Run dials.
func NewLink(o LinkOptions) *Link {
	return &Link{o: o, sessions: map[wire.Purpose]*wire.Session{}, up: make(chan struct{})}
}

// Run keeps the sessions up and answers the controller's calls with the agent until ctx ends.
func (l *Link) Run(ctx context.Context, a *Agent) error {
	handler := a.Handler()
	var work sync.WaitGroup
	defer work.Wait()
	for _, purpose := range []wire.Purpose{wire.Control, wire.Bulk} {
		d := &wire.Dialer{
			Addrs: []string{l.o.Address}, Peer: wire.Controller(l.o.Credential.Identity.Site), Purpose: purpose, MaxBackoff: 2 * time.Second,
			Options: wire.Options{
				Credential: l.o.Credential, Trust: l.o.Trust, Network: l.o.Network, Handler: handler, Log: l.o.Logger,
				KeepAlive: l.o.KeepAlive, DeadAfter: l.o.DeadAfter,
			},
			Up: func(s *wire.Session) {
				l.mu.Lock()
				l.sessions[purpose] = s
				close(l.up)
				l.up = make(chan struct{})
				l.mu.Unlock()
				a.reached(ctx, s.RemoteAddr())
				a.poke()
			},
			Down: func(err error) {
				l.mu.Lock()
				was := l.sessions[purpose] != nil
				delete(l.sessions, purpose)
				l.mu.Unlock()
				if was && ctx.Err() == nil {
					l.o.Logger.Warn("controller is not reached; the VMs run on", "purpose", purpose, "err", err)
				}
			},
		}
		work.Go(func() {
			if err := d.Run(ctx); err != nil {
				l.o.Logger.Error("dial the controller", "err", err)
			}
		})
	}
	return nil
}

func (l *Link) session(purpose wire.Purpose) (*wire.Session, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if s := l.sessions[purpose]; s != nil {
		return s, nil
	}
	return nil, api.Errorf(api.CodeUnavailable, "the site's controller is not reached")
}

// Report is Controller's.
func (l *Link) Report(ctx context.Context, r wire.HostReport) error {
	s, err := l.session(wire.Control)
	if err != nil {
		return err
	}
	return wire.Call(ctx, s, http.MethodPost, wire.PathReport, r.For(s), &wire.Empty{})
}

// patience is how long a bulk stream waits for its session: the two sessions come up one after the other, and a job that
// the first one carried should not fail for it.
const patience = 5 * time.Second

// bulk gives the bulk session, waiting for it a little.
func (l *Link) bulk(ctx context.Context) (*wire.Session, error) {
	limit := time.NewTimer(patience)
	defer limit.Stop()
	for {
		l.mu.Lock()
		up := l.up
		l.mu.Unlock()
		s, err := l.session(wire.Bulk)
		if err == nil {
			return s, nil
		}
		select {
		case <-up:
		case <-limit.C:
			return nil, err
		case <-ctx.Done():
			return nil, err
		}
	}
}

// Image is Controller's.
func (l *Link) Image(ctx context.Context, digest string) (string, io.ReadCloser, error) {
	s, err := l.bulk(ctx)
	if err != nil {
		return "", nil, err
	}
	format, _, content, err := wire.OpenImage(ctx, s, wire.PathAgentImage, digest)
	return format, content, err
}

// Channel is Controller's.
func (l *Link) Channel(ctx context.Context, h wire.ChannelHeader) (net.Conn, error) {
	s, err := l.bulk(ctx)
	if err != nil {
		return nil, err
	}
	return wire.OpenStream(ctx, s, wire.PathOutgoing, h)
}

// Handler answers the controller's calls.
func (a *Agent) Handler() http.Handler {
	mux := http.NewServeMux()
	handle(mux, wire.PathState, a, func(ctx context.Context, s wire.HostState) (wire.Empty, error) {
		return wire.Empty{}, a.SetState(ctx, s)
	})
	handle(mux, wire.PathChange, a, func(ctx context.Context, c wire.StateChange) (wire.Empty, error) {
		return wire.Empty{}, a.ChangeState(ctx, c)
	})
	handle(mux, wire.PathBegin, a, a.Begin)
	handle(mux, wire.PathPrepare, a, a.Prepare)
	handle(mux, wire.PathPerform, a, a.Perform)
	handle(mux, wire.PathFinish, a, func(ctx context.Context, c wire.FinishCall) (wire.Empty, error) {
		return wire.Empty{}, a.Finish(ctx, c)
	})
	handle(mux, wire.PathConfirm, a, func(ctx context.Context, c wire.FinishCall) (wire.Empty, error) {
		return wire.Empty{}, a.Confirm(ctx, c)
	})
	handle(mux, wire.PathCancel, a, func(ctx context.Context, c wire.MigrateCall) (wire.Empty, error) {
		return wire.Empty{}, a.Cancel(ctx, c)
	})
	handle(mux, wire.PathProgress, a, a.Progress)
	handle(mux, wire.PathUsage, a, a.Usage)
	handle(mux, wire.PathReboot, a, func(ctx context.Context, c wire.RebootCall) (wire.Empty, error) {
		return wire.Empty{}, a.Reboot(ctx, c)
	})
	wire.HandleStream(mux, wire.PathChannel, func(ctx context.Context, id wire.Identity, h wire.ChannelHeader, s *wire.Stream) error {
		if err := a.mayCall(id); err != nil {
			return err
		}
		return a.Channel(ctx, h, s)
	})
	wire.HandleStream(mux, wire.PathDisk, func(ctx context.Context, id wire.Identity, h wire.DiskHeader, s *wire.Stream) error {
		if err := a.mayCall(id); err != nil {
			return err
		}
		return a.ReadDisk(ctx, h, s)
	})
	handleConsole(mux, wire.PathConsole, a, a.Console)
	handleConsole(mux, wire.PathDisplay, a, a.Display)
	return mux
}

// handleConsole joins a stream of the controller's with what open attaches to.
func handleConsole(mux *http.ServeMux, path string, a *Agent, open func(ctx context.Context, vm string) (io.ReadWriteCloser, error)) {
	wire.HandleStream(mux, path, func(ctx context.Context, id wire.Identity, h wire.ConsoleHeader, s *wire.Stream) error {
		if err := a.mayCall(id); err != nil {
			return err
		}
		rw, err := open(ctx, h.VM)
		if err != nil {
			return err
		}
		defer rw.Close()
		if err := s.Accept(); err != nil {
			return err
		}
		stop := context.AfterFunc(ctx, func() { rw.Close() })
		defer stop()
		go func() {
			io.Copy(rw, s) // its end is the stream's
			rw.Close()
		}()
		io.Copy(s, rw)
		return nil
	})
}

func handle[In, Out any](mux *http.ServeMux, path string, a *Agent, f func(context.Context, In) (Out, error)) {
	wire.Handle(mux, path, func(ctx context.Context, id wire.Identity, in In) (out Out, err error) {
		if err := a.mayCall(id); err != nil {
			return out, err
		}
		return f(ctx, in)
	})
}

// mayCall lets only the site's own controller command the agent.
func (a *Agent) mayCall(id wire.Identity) error {
	if id != wire.Controller(a.o.Site) {
		return api.Errorf(api.CodeForbidden, "%s does not command host %s of %s", id, a.o.Host, a.o.Site)
	}
	return nil
}
