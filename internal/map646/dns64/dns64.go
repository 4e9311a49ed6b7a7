package dns64

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sync/errgroup"

	"widecloud/internal/netio"
	"widecloud/internal/packet/siit"
)

// ErrOptions is wrapped by all errors about Options, which begin with the
// field's name as a configuration file writes it: `allow_from[0]: …`.
var ErrOptions = errors.New("bad DNS64 option")

// MappedIPv4 is what Exclude is by default (RFC 6147 §5.1.4).
var MappedIPv4 = netip.MustParsePrefix("::ffff:0:0/96")

// Local is what AllowFrom is by default: this machine, and networks that cannot
// be the Internet (RFC 4193, RFC 1918, link-local).
var Local = []netip.Prefix{
	netip.MustParsePrefix("::1/128"), netip.MustParsePrefix("fc00::/7"), netip.MustParsePrefix("fe80::/10"),
	netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("10.0.0.0/8"),
	netip.MustParsePrefix("172.16.0.0/12"), netip.MustParsePrefix("192.168.0.0/16"),
}

// Options is what a Server is made of.
type Options struct {
	// Listen are the addresses to answer on, by UDP and TCP; they need not be there
	// yet. Port 0: any, the same for both (see Addrs).
	Listen []netip.AddrPort
	// Upstream are recursive resolvers, in order of preference. They should
	// validate; they must follow CNAMEs.
	Upstream []netip.AddrPort
	// Prefix is where IPv4 addresses go (RFC 6052): length 32, 40, 48, 56, 64 or
	// 96. The translator's pref64.
	Prefix netip.Prefix
	// Private says whether A records with addresses of siit.NonGlobal4 are
	// synthesised: as the translator treats their packets. By default not under
	// 64:ff9b::/96 (RFC 6052 §3.1).
	Private siit.Private
	// Exclude are prefixes whose AAAA records count as absent (RFC 6147 §5.1.4).
	// nil: MappedIPv4.
	Exclude []netip.Prefix
	// AllowFrom are the prefixes that may ask. nil: Local. The whole Internet is
	// refused as a value: an open resolver is a weapon in others' hands (RFC 5358).
	AllowFrom []netip.Prefix
	// TrustAD passes on the resolvers' AD bit. Only for resolvers that validate
	// and whose answers nobody can forge on their way (RFC 4035 §4.9.3).
	TrustAD bool

	// Timeout is the patience with one resolver for one question, before the next
	// one is tried. 0: 2 s.
	Timeout time.Duration
	// MaxInFlight is how many questions may wait for an answer at once; more get
	// SERVFAIL. 0: 1024.
	MaxInFlight int
	// MaxConns is how many TCP connections may be open. 0: 256.
	MaxConns int

	// NS is the network namespace of all sockets; nil: the process's own.
	NS  *netio.NS
	Log *slog.Logger
}

// settings are the options that a reload may change, made ready.
type settings struct {
	upstream         []netip.AddrPort
	table            *siit.Table
	exclude, allowed []netip.Prefix
	trustAD          bool
	timeout          time.Duration
	// preferred is the resolver that answered last.
	preferred atomic.Uint32
}

// Check says what is wrong with the options, if anything: an error that wraps
// ErrOptions.
func (o Options) Check() error {
	_, err := o.settings()
	return err
}

func bad(field, format string, args ...any) error {
	return fmt.Errorf("%s: %w: %w", field, ErrOptions, fmt.Errorf(format, args...))
}

func (o Options) settings() (*settings, error) {
	s := &settings{
		upstream: o.Upstream, exclude: o.Exclude, allowed: o.AllowFrom, trustAD: o.TrustAD,
		timeout: o.Timeout,
	}
	if len(o.Listen) == 0 {
		return nil, bad("listen", "no address")
	}
	for i, l := range o.Listen {
		if !l.IsValid() || l.Addr().Is4In6() || l.Addr().IsMulticast() {
			return nil, bad(fmt.Sprintf("listen[%d]", i), "%v is not an address to listen on", l)
		}
		if j := slices.Index(o.Listen, l); j < i && l.Port() != 0 {
			return nil, bad(fmt.Sprintf("listen[%d]", i), "%v is also listen[%d]", l, j)
		}
	}
	if len(o.Upstream) == 0 {
		return nil, bad("upstream", "no resolver")
	}
	for i, u := range o.Upstream {
		field := fmt.Sprintf("upstream[%d]", i)
		if !u.IsValid() || u.Port() == 0 || u.Addr().IsUnspecified() || u.Addr().IsMulticast() || u.Addr().Is4In6() {
			return nil, bad(field, "%v is not a resolver's address", u)
		}
		if j := slices.IndexFunc(o.Listen, func(l netip.AddrPort) bool {
			everywhere := l.Addr().IsUnspecified() && u.Addr().IsLoopback() && l.Addr().Is4() == u.Addr().Is4()
			return l.Port() == u.Port() && (l.Addr() == u.Addr() || everywhere)
		}); j >= 0 {
			return nil, bad(field, "%v is listen[%d]: would ask itself", u, j)
		}
	}
	var err error
	if !o.Prefix.IsValid() {
		return nil, bad("prefix", "missing")
	}
	// The arithmetic is the translator's, so that the two never disagree.
	if s.table, err = siit.NewTable(siit.Spec{Pref64: o.Prefix, Private: o.Private}); err != nil {
		field, _, _ := strings.Cut(err.Error(), ":")
		return nil, bad(strings.Replace(field, "pref64", "prefix", 1), "%w", err)
	}
	if s.exclude == nil {
		s.exclude = []netip.Prefix{MappedIPv4}
	}
	for i, p := range s.exclude {
		if !p.IsValid() || !p.Addr().Is6() || p.Masked() != p {
			return nil, bad(fmt.Sprintf("exclude[%d]", i), "%v is not an IPv6 prefix", p)
		}
	}
	if s.allowed == nil {
		s.allowed = Local
	}
	for i, p := range s.allowed {
		field := fmt.Sprintf("allow_from[%d]", i)
		if !p.IsValid() || p.Masked() != p || p.Addr().Is4In6() {
			return nil, bad(field, "%v is not a prefix", p)
		}
		local := slices.ContainsFunc(Local, func(l netip.Prefix) bool { return p.Bits() >= l.Bits() && l.Contains(p.Addr()) })
		if least := map[bool]int{true: 8, false: 16}[p.Addr().Is4()]; p.Bits() < least && !local {
			return nil, bad(field, "%v would make an open resolver: want /%d or longer", p, least)
		}
	}
	switch {
	case o.Timeout < 0:
		return nil, bad("timeout", "%v is negative", o.Timeout)
	case o.MaxInFlight < 0:
		return nil, bad("max_in_flight", "%d is negative", o.MaxInFlight)
	case o.MaxConns < 0:
		return nil, bad("max_conns", "%d is negative", o.MaxConns)
	}
	if s.timeout == 0 {
		s.timeout = 2 * time.Second
	}
	return s, nil
}

// Server is a DNS64. It is a dns.Handler.
type Server struct {
	log       *slog.Logger
	ns        *netio.NS
	listen    []netip.AddrPort
	settings  atomic.Pointer[settings]
	slots     chan struct{} // one for each question that may wait
	listeners []*listener
	conns     chan struct{} // one for each TCP connection that may be open
	id        [8]byte       // of this Server, to know its own questions again
	stats     counters

	// ctx ends when the Server stops: questions are asked in it.
	ctx  context.Context
	stop context.CancelFunc
}

// New checks the options and opens the listeners, which do not answer before
// Run. Errors wrap ErrOptions or are the sockets' own.
func New(o Options) (*Server, error) {
	set, err := o.settings()
	if err != nil {
		return nil, err
	}
	s := &Server{log: o.Log, ns: o.NS, listen: slices.Clone(o.Listen)}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	s.settings.Store(set)
	s.slots = make(chan struct{}, or(o.MaxInFlight, 1024))
	s.conns = make(chan struct{}, or(o.MaxConns, 256))
	if _, err := rand.Read(s.id[:]); err != nil {
		return nil, fmt.Errorf("make an identity: %w", err)
	}
	s.ctx, s.stop = context.WithCancel(context.Background())
	for i, a := range s.listen {
		l, err := s.open(a)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("listen[%d]: %w", i, err), s.Close())
		}
		s.listeners = append(s.listeners, l)
	}
	return s, nil
}

func or(n, def int) int {
	if n == 0 {
		return def
	}
	return n
}

// Addrs are the addresses that the Server answers on, in the order of Listen,
// with the ports that the kernel chose.
func (s *Server) Addrs() []netip.AddrPort {
	var out []netip.AddrPort
	for _, l := range s.listeners {
		out = append(out, l.addr)
	}
	return out
}

// Run answers until ctx ends, then closes all; nil after that. Questions that
// are waiting then get no answer. An error is a listener's that failed.
func (s *Server) Run(ctx context.Context) error {
	defer s.Close()
	defer context.AfterFunc(ctx, s.stop)()
	g, ctx := errgroup.WithContext(ctx)
	for _, l := range s.listeners {
		for _, srv := range l.servers(s) {
			up := make(chan struct{})
			srv.NotifyStartedFunc = func() { close(up) }
			done := make(chan struct{})
			g.Go(func() error {
				defer close(done)
				if err := srv.ActivateAndServe(); err != nil && ctx.Err() == nil {
					return fmt.Errorf("serve %v: %w", l.addr, err)
				}
				return nil
			})
			g.Go(func() error {
				<-ctx.Done()
				select {
				case <-up: // Shutdown refuses a server that has not started
				case <-done:
					return nil
				}
				s.stop()
				return srv.Shutdown()
			})
		}
	}
	s.log.Info("DNS64 answers", "listen", s.Addrs(), "prefix", s.settings.Load().table.Spec().Pref64)
	err := g.Wait()
	if errors.Is(err, context.Canceled) {
		err = nil
	}
	return err
}

// Close is for who does not Run: it closes the listeners.
func (s *Server) Close() error {
	s.stop()
	var all []error
	for _, l := range s.listeners {
		all = append(all, l.close())
	}
	return errors.Join(all...)
}

// Reload replaces everything but Listen, NS, Log, MaxInFlight and MaxConns,
// which must be as they were or are ignored; questions under way end by the old
// settings. With an error, which wraps ErrOptions, nothing has changed.
func (s *Server) Reload(o Options) error {
	if !slices.Equal(o.Listen, s.listen) {
		return bad("listen", "cannot change while running: %v to %v", s.listen, o.Listen)
	}
	set, err := o.settings()
	if err != nil {
		return err
	}
	s.settings.Store(set)
	return nil
}

// counters are what Stats shows.
type counters struct {
	udp, tcp, synthesised, pointers, local atomic.Uint64
	failures                               [numFailures]atomic.Uint64
}

// failure is why a question was not answered as it should have been.
type failure int

const (
	failNotAllowed failure = iota
	failOverload
	failMalformed
	failNotImplemented
	failLoop
	failSilent
	failUnanswered
	failBogus
	failNotGlobal
	failTruncated
	numFailures
)

var failureNames = [numFailures]string{
	"not_allowed", "overload", "malformed", "not_implemented", "loop", "resolver_silent", "unanswered", "bogus", "not_global", "truncated",
}

// Stats is what a Server has counted since New.
type Stats struct {
	// Queries by transport: "udp", "tcp".
	Queries map[string]uint64 `json:"queries"`
	// Synthesised answers: "aaaa", "ptr", and "local", those that needed nobody
	// (ipv4only.arpa).
	Synthesised map[string]uint64 `json:"synthesised"`
	// Failures by reason: "not_allowed", "overload", "malformed",
	// "not_implemented", "loop", "resolver_silent" (one try at one resolver; the
	// next may have answered), "unanswered" (none has: SERVFAIL), "bogus" (DNSSEC),
	// "not_global" (A records that may not be synthesised), "truncated" (not a
	// failure if the client comes back by TCP).
	Failures map[string]uint64 `json:"failures"`
	// InFlight are the questions that wait now, Conns the open TCP connections.
	InFlight int `json:"in_flight"`
	Conns    int `json:"conns"`
}

// Stats reads the counters. All names are always there.
func (s *Server) Stats() Stats {
	c := &s.stats
	out := Stats{
		Queries: map[string]uint64{"udp": c.udp.Load(), "tcp": c.tcp.Load()},
		Synthesised: map[string]uint64{"aaaa": c.synthesised.Load(), "ptr": c.pointers.Load(),
			"local": c.local.Load()},
		Failures: map[string]uint64{}, InFlight: len(s.slots), Conns: len(s.conns),
	}
	for i := range c.failures {
		out.Failures[failureNames[i]] = c.failures[i].Load()
	}
	return out
}

func (s *Server) fail(f failure) { s.stats.failures[f].Add(1) }

var _ dns.Handler = (*Server)(nil)
